"""Asking a STUN server on loopback: what is claimed of a NAT, and that nothing else is."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bothends import stun
from bothends.stun import Heard, ask
from bothends_protocol.evidence import NatBehaviour
from bothends_protocol.stun import TransportAddress
from stun_server import (
    FIRST,
    SECOND,
    Filter,
    Mapping,
    Name,
    StunServer,
    answer,
    attribute,
    plain,
    stun_server,
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only there all of 127/8 is this host's"
)

ENOUGH = 20.0
"""Seconds in which all is asked, on a machine that is busy with other things."""
OUTSIDE = "11.0.1.2"
BY_PORT, BY_ADDRESS = "address-and-port-dependent", "address-dependent"
INDEPENDENT, NONE, UNKNOWN = "endpoint-independent", "none", "unknown"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[StunServer]:
    async with stun_server() as one:
        yield one


async def heard(server: StunServer, *, seconds: float = ENOUGH) -> Heard:
    return await ask(FIRST, server.port, seconds=seconds)


async def behaviour(server: StunServer, *, seconds: float = ENOUGH) -> NatBehaviour:
    found = (await heard(server, seconds=seconds)).behaviour
    assert found is not None
    return found


def nat(_client: Name, _at: Name) -> Name:
    return OUTSIDE, _client[1]


def shifted(client: Name, at: Name) -> Name:
    """Another port for each address and port that is sent to."""
    return OUTSIDE, (client[1] + at[1] + int(at[0][-1])) % 60000 + 1


def shifted_by_address(client: Name, at: Name) -> Name:
    return OUTSIDE, (client[1] + int(at[0][-1])) % 60000 + 1


def by_nothing(_client: Name, _origin: Name, _sent: set[Name]) -> bool:
    return True


def by_port(_client: Name, origin: Name, sent: set[Name]) -> bool:
    return origin in sent


def by_address(_client: Name, origin: Name, sent: set[Name]) -> bool:
    return origin[0] in {address for address, _ in sent}


# -- what is found


async def test_without_a_nat(server: StunServer) -> None:
    found = await heard(server)
    (seen,) = found.seen
    assert (seen.address, seen.by, seen.said_by) == (FIRST, "stun", FIRST)
    assert seen.port == seen.local_port > 0
    assert found.behaviour == NatBehaviour(
        server=FIRST, mapping=NONE, filtering=NONE, keeps_port=True
    )


@pytest.mark.parametrize(
    ("mapping", "expected", "keeps"),
    [
        (nat, INDEPENDENT, True),
        (lambda _client, _at: (OUTSIDE, 4), INDEPENDENT, False),
        (shifted_by_address, BY_ADDRESS, False),
        (shifted, BY_PORT, False),
        (lambda client, at: (f"11.0.1.{at[0][-1]}", client[1]), BY_ADDRESS, True),
    ],
)
async def test_mappings(
    server: StunServer, mapping: Mapping, expected: str, *, keeps: bool
) -> None:
    server.mapping = mapping
    found = await behaviour(server)
    assert (found.mapping, found.keeps_port) == (expected, keeps)


@pytest.mark.parametrize("mapping", [nat, shifted, lambda client, _: client])
@pytest.mark.parametrize(("rule", "expected"), [(by_port, BY_PORT), (by_address, BY_ADDRESS)])
async def test_filters(server: StunServer, mapping: Mapping, rule: Filter, expected: str) -> None:
    server.mapping, server.filter = mapping, rule
    assert (await behaviour(server)).filtering == expected


async def test_all_words_of_a_nat_with_many_ports_are_kept(server: StunServer) -> None:
    server.mapping = shifted
    seen = (await heard(server)).seen
    assert [word.said_by for word in seen] == [FIRST, SECOND, SECOND]
    assert len({word.port for word in seen}) == 3
    assert len({word.local_port for word in seen}) == 1


async def test_it_leaves_from_the_port_that_is_named(server: StunServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        port = int(sock.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            await ask(FIRST, server.port, source_port=port, seconds=ENOUGH)
    found = await ask(FIRST, server.port, source_port=port, seconds=ENOUGH)
    assert found.seen[0].local_port == found.seen[0].port == port


# -- what is not claimed


async def test_a_server_with_one_address_tells_the_address_and_the_port(server: StunServer) -> None:
    server.mapping, server.other = nat, None
    found = await behaviour(server)
    assert (found.mapping, found.filtering, found.keeps_port) == (UNKNOWN, UNKNOWN, True)
    assert "no second address" in found.detail


@pytest.mark.parametrize(
    "other",
    [
        *("0.0.0.0", "224.0.0.1", "255.255.255.255", "192.168.1.1", "11.0.0.1", "169.254.1.1"),
        *("::1", "2001:db8::1", FIRST),
    ],
)
async def test_a_second_address_of_another_kind_is_not_asked(
    server: StunServer, other: str
) -> None:
    server.mapping, server.other = nat, (other, 0)
    found = await behaviour(server)
    assert (found.mapping, found.filtering) == (UNKNOWN, UNKNOWN)
    assert server.requests == 1


async def test_a_second_port_that_is_the_first_is_not_asked(server: StunServer) -> None:
    server.other = (SECOND, server.port)
    assert (await behaviour(server)).filtering == UNKNOWN
    assert server.requests == 1


@pytest.mark.parametrize(
    ("first", "second", "may"),
    [
        ("11.0.9.1", "11.0.9.2", True),
        ("11.0.9.1", "10.0.0.1", False),
        ("11.0.9.1", "100.64.0.1", False),
        ("11.0.9.1", "127.0.0.1", False),
        ("11.0.9.1", "240.0.0.1", False),
        ("192.168.1.1", "192.168.1.2", True),
        ("192.168.1.1", "11.0.9.1", False),
        ("192.168.1.1", "169.254.1.1", False),
        ("2600::1", "2600::2", True),
        ("2600::1", "fd00::1", False),
        ("2600::1", "ff02::1", False),
        ("2600::1", "11.0.9.1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_whom_a_server_may_name(first: str, second: str, *, may: bool) -> None:
    places = TransportAddress(first, 3478), TransportAddress(second, 3479)
    assert stun._may_be_asked(*places) is may


async def test_a_server_that_does_not_obey_shows_no_filter(server: StunServer) -> None:
    server.mapping, server.obeys = nat, False
    found = await behaviour(server)
    assert (found.mapping, found.filtering) == (INDEPENDENT, UNKNOWN)


async def test_a_server_that_never_answers_from_elsewhere_shows_no_filter(
    server: StunServer,
) -> None:
    server.mapping = nat
    primary = FIRST, server.port
    # Neither does the second address answer when it is asked itself.
    server.filter = lambda _client, origin, _sent: origin == primary
    found = await behaviour(server)
    assert (found.mapping, found.filtering) == (UNKNOWN, UNKNOWN)
    assert "second address does not answer" in found.detail


async def test_what_the_server_ignores_is_no_filter(server: StunServer) -> None:
    # It answers plain questions everywhere, and drops those it is to answer from elsewhere.
    server.mapping = nat
    received = server.received

    def drop_changes(data: bytes, client: Name, at: Name) -> None:
        if len(data) == 20:
            received(data, client, at)

    server.received = drop_changes  # type: ignore[method-assign]
    found = await behaviour(server)
    assert (found.mapping, found.filtering) == (INDEPENDENT, UNKNOWN)


@pytest.mark.parametrize("kind", [0x0111, 0x0001])
async def test_an_error_or_a_question_is_no_answer(server: StunServer, kind: int) -> None:
    server.kind = kind
    assert await heard(server, seconds=0.3) == Heard()


async def test_an_answer_with_what_must_be_understood_is_none(server: StunServer) -> None:
    server.extra = attribute(0x7777, b"")
    assert await heard(server, seconds=0.3) == Heard()


async def test_silence_says_nothing(server: StunServer) -> None:
    server.lost = lambda: True
    started = time.monotonic()
    assert await heard(server, seconds=0.3) == Heard()
    assert time.monotonic() - started < 2


async def test_when_the_time_is_over_there_is_what_is_known_by_then(server: StunServer) -> None:
    server.mapping, server.filter = nat, by_port
    found = await heard(server, seconds=0.1)
    assert found.seen[0].address == OUTSIDE
    assert found.behaviour is not None
    assert (found.behaviour.mapping, found.behaviour.filtering) == (INDEPENDENT, UNKNOWN)
    assert "time was over" in found.behaviour.detail


@pytest.mark.parametrize("percent", [10, 30, 50])
@pytest.mark.parametrize(
    ("rule", "expected"),
    [(by_nothing, INDEPENDENT), (by_port, BY_PORT), (by_address, BY_ADDRESS)],
)
async def test_loss_is_never_a_filter(
    server: StunServer, rule: Filter, expected: str, percent: int
) -> None:
    draws = random.Random(f"{percent} {expected}")
    server.lost = lambda: draws.random() < percent / 200  # on the way there, and back
    server.mapping, server.filter = nat, rule
    all_heard = await asyncio.gather(*(heard(server, seconds=6) for _ in range(8)))
    # Where half is lost, one of 300 has no answer to its first seven questions.
    found = [one.behaviour for one in all_heard if one.behaviour is not None]
    assert len(found) >= {10: 8, 30: 8, 50: 7}[percent]
    assert {one.filtering for one in found} <= {expected, UNKNOWN}
    assert {one.mapping for one in found} <= {INDEPENDENT, UNKNOWN}
    known = sum(one.filtering == expected for one in found)
    assert known >= {10: 7, 30: 4, 50: 0}[percent]


@pytest.mark.parametrize(("percent", "least"), [(0, 1.0), (10, 0.99), (28, 0.96), (44, 0.6)])
def test_silence_is_told_from_loss(percent: int, least: float) -> None:
    """All that can happen with so many questions lost, each with how likely it is."""
    share = percent / 100
    lost_so_far, wrong, told = {0: 1.0}, 0.0, 0.0
    for sent in range(1, stun.MAX_REPEATS + 1):
        following: dict[int, float] = {}
        for lost, chance in lost_so_far.items():
            for more, part in ((0, 1 - share), (1, share)):
                if stun._is_silence(sent, lost + more):
                    told += chance * part
                    wrong += chance * part * share**sent
                else:
                    following[lost + more] = following.get(lost + more, 0.0) + chance * part
        lost_so_far = following
    assert wrong < stun.LOSS_CHANCE
    assert told >= least


# -- strangers


async def test_only_the_server_is_believed(server: StunServer) -> None:
    received = server.received
    loop = asyncio.get_running_loop()
    stranger, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.3", 0)
    )

    def first_the_stranger(data: bytes, client: Name, at: Name) -> None:
        lie = attribute(1, plain(("11.6.6.6", 666)))
        stranger.sendto(answer(data, lie), client)
        server.sockets[at].sendto(answer(bytes(20), lie), client)  # another transaction
        loop.call_later(0.01, received, data, client, at)

    server.received = first_the_stranger  # type: ignore[method-assign]
    try:
        assert (await heard(server)).seen[0].address == FIRST
    finally:
        stranger.close()


async def test_a_flood_keeps_nobody_longer_than_was_allowed(server: StunServer) -> None:
    ended = asyncio.Event()
    flooding: list[asyncio.Task[None]] = []

    async def flood(client: Name, at: Name) -> None:
        while not ended.is_set():
            for _ in range(50):
                server.sockets[at].sendto(random.randbytes(random.randrange(60)), client)
                server.sockets[at].sendto(answer(bytes(20)), client)
            await asyncio.sleep(0)

    def only_flood(_data: bytes, client: Name, at: Name) -> None:
        flooding.append(asyncio.get_running_loop().create_task(flood(client, at)))

    server.received = only_flood  # type: ignore[method-assign,assignment]
    started = time.monotonic()
    assert await heard(server, seconds=0.5) == Heard()
    assert time.monotonic() - started < 3
    ended.set()
    await asyncio.gather(*flooding)


# -- nothing stays


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("after", [0.0, 0.001, 0.01, 0.05, 0.2])
async def test_cancelled_at_any_time_it_leaves_nothing(server: StunServer, after: float) -> None:
    server.mapping, server.filter = nat, by_port
    before = descriptors()
    asking = asyncio.get_running_loop().create_task(heard(server))
    await asyncio.sleep(after)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert descriptors() == before
    assert len(asyncio.all_tasks()) == 1


async def test_afterwards_nothing_is_open(server: StunServer) -> None:
    before = descriptors()
    await heard(server)
    await heard(server, seconds=0.001)
    assert descriptors() == before
    assert len(asyncio.all_tasks()) == 1


async def test_few_datagrams_are_sent(server: StunServer) -> None:
    server.mapping, server.filter = nat, by_port
    await heard(server)
    assert 20 < server.requests < 60
