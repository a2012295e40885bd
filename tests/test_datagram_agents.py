"""What the agent does with datagrams: its own sockets, single sends, other programs' queues."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from bothends import queues
from bothends.datagrams_seen import DatagramsSeen
from bothends.datagrams_sent import Heard, hear, letter, send, socket_to
from bothends.listener import OwnListeners
from bothends.queues import QueueWatch
from bothends_protocol.challenge import NONCE_SIZE, REPLY_SIZE, REQUEST_SIZE, is_reply, request
from bothends_protocol.evidence import Acceptance, Icmp, Probe, Sighting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads error queues of Linux")

KEY, HERE = b"k" * 32, "127.0.0.1"


def probe_of(sock: socket.socket) -> Probe:
    return Probe(transport="udp", address=HERE, port=sock.getsockname()[1])


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, 0))
        sock.settimeout(5)
        yield sock


async def heard_on(sock: socket.socket, nonce: bytes = b"") -> Heard:
    for _ in range(200):
        found = hear(sock, KEY, nonce)
        if found != Heard():
            return found
        await asyncio.sleep(0.005)
    return Heard()


# -- own sockets


@pytest.fixture
def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, 0))
        return int(sock.getsockname()[1])


async def test_a_genuine_request_is_answered_and_noted(free_port: int) -> None:
    taken: list[Acceptance] = []
    own = OwnListeners(KEY, time.monotonic, taken.append)
    try:
        assert own.open(HERE, free_port, "udp").opened
        assert own.open(HERE, free_port, "udp").opened  # again is allowed
        assert len(own.inodes) == 1
        written = letter(KEY, b"", own=True)
        with socket_to(Probe(transport="udp", address=HERE, port=free_port)) as sock:
            assert send(sock, written.data) == 0
            assert (await heard_on(sock, written.nonce)).spoke == "challenge"
            (one,) = taken
            place = (one.transport, one.remote_address, one.remote_port, one.genuine)
            assert place == ("udp", HERE, sock.getsockname()[1], True)
    finally:
        await own.close()


@pytest.mark.parametrize(
    "data", [b"", b"x", bytes(REQUEST_SIZE), request(b"o" * 32, bytes(NONCE_SIZE)), bytes(2000)]
)
async def test_to_all_else_it_says_nothing(free_port: int, data: bytes) -> None:
    taken: list[Acceptance] = []
    own = OwnListeners(KEY, time.monotonic, taken.append)
    try:
        own.open(HERE, free_port, "udp")
        with socket_to(Probe(transport="udp", address=HERE, port=free_port)) as sock:
            send(sock, data)
            own.drain()
            await asyncio.sleep(0.02)
            assert hear(sock, KEY, bytes(NONCE_SIZE)) == Heard()
            assert taken == []
            # It is there all the same.
            nonce = secrets.token_bytes(NONCE_SIZE)
            send(sock, request(KEY, nonce))
            own.drain()
            answer = sock.recv(4096)
            assert len(answer) == REPLY_SIZE
            assert is_reply(KEY, nonce, answer)
    finally:
        await own.close()


async def test_a_port_that_a_program_has_is_left_to_it(bound: socket.socket) -> None:
    own = OwnListeners(KEY, time.monotonic, lambda _taken: None)
    try:
        result = own.open(HERE, bound.getsockname()[1], "udp")
        assert (result.transport, result.opened, result.error) == ("udp", False, "EADDRINUSE")
    finally:
        await own.close()


async def test_a_program_that_shares_its_port_does_not_share_it_with_us() -> None:
    """By UDP SO_REUSEADDR on both sockets would let both have it."""
    own = OwnListeners(KEY, time.monotonic, lambda _taken: None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", 0))
        try:
            assert not own.open(HERE, sock.getsockname()[1], "udp").opened
        finally:
            await own.close()


# -- single datagrams


async def test_nothing_is_written_to_a_program_but_what_the_user_gave(
    bound: socket.socket,
) -> None:
    for payload in (b"", b"status?"):
        with socket_to(probe_of(bound)) as sock:
            send(sock, letter(KEY, payload, own=False).data)
            data, sender = bound.recvfrom(100)
            assert data == payload
            bound.sendto(b"", sender)  # an answer may be empty, too
            assert await heard_on(sock) == Heard("other")


async def test_a_refusal_bears_its_sender(free_port: int) -> None:
    with socket_to(Probe(transport="udp", address=HERE, port=free_port)) as sock:
        send(sock, b"")
        found = await heard_on(sock)
        assert found.icmp == Icmp(kind=3, code=3, sender=HERE)
        assert found.error


async def test_an_answer_of_another_is_no_challenge(bound: socket.socket) -> None:
    written = letter(KEY, b"", own=True)
    with socket_to(probe_of(bound)) as sock:
        send(sock, written.data)
        data, sender = bound.recvfrom(100)
        bound.sendto(data, sender)
        assert (await heard_on(sock, written.nonce)).spoke == "other"


# -- queues of other programs


async def test_a_program_that_reads_nothing_is_found(
    bound: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "UNREAD_SECONDS", 0.1)
    watch = QueueWatch(time.monotonic)
    port = bound.getsockname()[1]
    watch.begin({port}, own=())
    asked = [watch.ask([probe_of(bound)]) for _ in range(2)]
    assert asked == [True, False], "once is enough"
    assert watch.waits
    (seen,) = await watch.end(7)
    assert (seen.round, seen.address, seen.port, seen.before) == (7, HERE, port, 0)
    assert seen.after > 0
    assert not seen.read
    assert seen.watched >= 0.1
    # What is known to stand still is not watched again.
    watch.begin({port}, own=())
    began = time.monotonic()
    await watch.end(8)
    assert time.monotonic() - began < 0.1


async def test_a_program_that_reads_ends_the_watch(bound: socket.socket) -> None:
    watch = QueueWatch(time.monotonic)
    watch.begin({bound.getsockname()[1]}, own=())
    watch.ask([probe_of(bound)])
    asyncio.get_running_loop().call_later(0.05, bound.recv, 10)
    (seen,) = await watch.end(1)
    assert (seen.read, seen.after) == (True, 0)
    assert seen.watched < queues.UNREAD_SECONDS


async def test_where_nothing_waits_nothing_is_watched(bound: socket.socket) -> None:
    watch = QueueWatch(time.monotonic)
    watch.begin({bound.getsockname()[1]}, own=())
    (seen,) = await watch.end(1)
    assert (seen.before, seen.after, seen.read) == (0, 0, False)
    assert seen.watched < 0.1
    watch.begin({1}, own=())
    assert await watch.end(2) == ()


# -- what was seen


def test_an_answer_belongs_to_who_asked() -> None:
    def seen(way: str, source: tuple[str, int], destination: tuple[str, int]) -> Sighting:
        return Sighting(
            at=0.0,
            way=way,
            interface="eth0",
            transport="udp",
            source=source[0],
            source_port=source[1],
            destination=destination[0],
            destination_port=destination[1],
        )

    near, far, here = ("192.0.2.1", 50_001), ("192.0.2.2", 50_001), ("192.0.2.9", 4242)
    found = DatagramsSeen([seen("in", near, here), seen("in", far, here), seen("out", here, near)])
    assert [found.answered(s) for s in found.to(4242)] == [True, False]
    assert found.to(4243) == ()
