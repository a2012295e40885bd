"""What the observer does at its own router, with a router that is made up and real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import cast

import pytest
import pytest_asyncio
from msgspec.structs import replace

from bothends import opener as opener_module
from bothends import pinhole
from bothends.listener import OwnListeners
from bothends.opener import Opener
from bothends.pinhole import open_from_free_port
from bothends.port_opener import PortOpener
from bothends.recorder import Recorder
from bothends_protocol.evidence import Acceptance, HopProbe, Icmp, OpenedMapping, Probe, RoundPlan
from bothends_protocol.pairing import DESTINATION, SOURCE
from bothends_protocol.plan import MAPPED, PINHOLE
from bothends_protocol.tags import TRACE_TAG

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="all of 127/8 is the host's there")

HERE, THERE = "127.0.0.1", "127.0.0.2"
PUBLIC, THEIRS = "11.0.1.1", "11.0.0.1"
OWN_ROUTER, CARRIER_ROUTER, FIRST_PUBLIC = "192.168.1.1", "100.64.0.1", "11.255.1.1"
CONTROL, PORT = 24242, 4242
PORTS = (30_000, 30_001, 30_002)
UNDER_WAY = 0.05


@pytest.fixture
def free() -> int:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HERE, 0))
        return int(sock.getsockname()[1])


@pytest_asyncio.fixture
async def own() -> AsyncIterator[OwnListeners]:
    taken: list[Acceptance] = []
    listeners = OwnListeners(bytes(32), time.monotonic, taken.append)
    yield listeners
    await listeners.close()


def accepts(address: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((address, port)) == 0


# -- a SYN from an ordinary socket


@contextlib.contextmanager
def noting(ports: int) -> Iterator[tuple[tuple[int, ...], list[socket.socket]]]:
    """Listen at `ports` ports of another address."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server((THERE, 0))) for _ in range(ports)]
        for sock in socks:
            sock.settimeout(5)
        yield tuple(sock.getsockname()[1] for sock in socks), socks


async def test_each_port_gets_one_from_the_port_itself(free: int) -> None:
    with noting(3) as (ports, socks):
        await open_from_free_port(HERE, free, THERE, ports, 2)
        for sock in socks:
            connection, name = sock.accept()
            connection.close()
            assert name == (HERE, free)


async def test_the_port_can_be_listened_on_again(free: int, own: OwnListeners) -> None:
    with noting(1) as (ports, _):
        await open_from_free_port(HERE, free, THERE, ports, 2)
    assert own.open(HERE, free).opened
    assert accepts(HERE, free)


async def test_one_that_nobody_answers_ends_by_itself(free: int, own: OwnListeners) -> None:
    with socket.socket() as full:
        full.bind((THERE, 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        began = time.monotonic()
        await open_from_free_port(HERE, free, THERE, (full.getsockname()[1],), 2)
        assert pinhole.EXPIRY_SECONDS - 0.01 <= time.monotonic() - began < 5
        for one in waiting:
            one.close()
    assert own.open(HERE, free).opened


async def test_a_port_that_is_held_is_left_alone(free: int) -> None:
    with socket.create_server((HERE, free)) as held, noting(1) as (ports, _):
        with pytest.raises(OSError, match="in use") as error:
            await open_from_free_port(HERE, free, THERE, ports, 2)
        assert error.value.errno == errno.EADDRINUSE
        assert accepts(*held.getsockname())


async def test_cancelled_it_leaves_the_port_free(free: int, own: OwnListeners) -> None:
    with socket.socket() as full:
        full.bind((THERE, 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        port = full.getsockname()[1]
        task = asyncio.create_task(open_from_free_port(HERE, free, THERE, (port,), 2))
        await asyncio.sleep(UNDER_WAY)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for one in waiting:
            one.close()
    assert own.open(HERE, free).opened


def test_a_segment_written_by_hand_is_a_request_with_a_sum_that_is_right() -> None:
    segment = pinhole._segment(HERE, 4242, THERE, 30_000)
    assert struct.unpack_from(">HH", segment) == (4242, 30_000)
    assert (segment[12] >> 4, segment[13]) == (6, 0x02)
    assert segment[20:] == b"\x02\x04" + TRACE_TAG.to_bytes(2, "big")
    pseudo = socket.inet_aton(HERE) + socket.inet_aton(THERE)
    pseudo += struct.pack(">BBH", 0, socket.IPPROTO_TCP, len(segment))
    assert pinhole._checksum(pseudo + segment) == 0, "RFC 1071: with the sum in it, it is nothing"
    assert segment[4:8] != pinhole._segment(HERE, 4242, THERE, 30_000)[4:8]


def test_a_datagram_written_by_hand_is_empty_and_has_a_sum_that_is_right() -> None:
    datagram = pinhole._datagram(HERE, 4242, THERE, 30_000)
    assert struct.unpack(">HHH", datagram[:6]) == (4242, 30_000, 8)
    pseudo = socket.inet_aton(HERE) + socket.inet_aton(THERE)
    pseudo += struct.pack(">BBH", 0, socket.IPPROTO_UDP, len(datagram))
    assert pinhole._checksum(pseudo + datagram) == 0


# -- the own listener makes room


async def test_released_the_port_is_anybodys_and_the_rest_is_kept(
    free: int, own: OwnListeners
) -> None:
    with socket.socket() as sock:
        sock.bind((HERE, 0))
        other = sock.getsockname()[1]
    assert own.open(HERE, free).opened
    assert own.open(THERE, free).opened
    assert own.open(HERE, other).opened
    assert len(own.inodes) == 3
    assert set(own.release(free)) == {HERE, THERE}
    assert len(own.inodes) == 1
    assert not accepts(HERE, free)
    assert accepts(HERE, other)
    with socket.create_server((HERE, free)):
        assert not own.open(HERE, free).opened
    assert own.open(HERE, free).opened
    assert own.release(1) == ()


# -- the opener


@dataclass
class Router:
    """A way out: who says at which hop that requests expired, by address."""

    hops: dict[str, tuple[str, ...]] = field(default_factory=dict)
    traced: list[tuple[str, int]] = field(default_factory=list)
    wait: float = 0.0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        router = self

        class Fake:
            def __init__(self, clock: object) -> None:
                assert clock

            async def trace(
                self, number: int, address: str, port: int, *, patience: float, most: int
            ) -> list[HopProbe]:
                router.traced.append((address, port))
                await asyncio.sleep(router.wait)
                assert patience < 1
                return [
                    HopProbe(
                        round=number,
                        transport="tcp",
                        address=address,
                        port=port,
                        hops=hop,
                        outcome="expired",
                        icmp=Icmp(kind=11, code=0, sender=who),
                    )
                    for hop, who in enumerate(router.hops.get(address, ()), start=1)
                    if hop <= most
                ]

        monkeypatch.setattr(opener_module, "Tracer", Fake)


@dataclass
class Sent:
    """What was sent from where."""

    calls: list[tuple[str, int, str, tuple[int, ...], int]] = field(default_factory=list)
    by_udp: list[bool] = field(default_factory=list)
    raw: OSError | None = None
    ordinary: OSError | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def by_hand(*call: object, udp: bool = False) -> None:
            if self.raw:
                raise self.raw
            self.calls.append(call)  # type: ignore[arg-type]
            self.by_udp.append(udp)

        async def from_free_port(*call: object) -> None:
            await asyncio.sleep(0)
            if self.ordinary:
                raise self.ordinary
            self.calls.append(call)  # type: ignore[arg-type]

        monkeypatch.setattr(opener_module, "open_with_raw_socket", by_hand)
        monkeypatch.setattr(opener_module, "open_from_free_port", from_free_port)


class Mapper(PortOpener):
    """Grants what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.closed = 0

    async def open(self, transport: str, port: int, round_number: int) -> OpenedMapping:
        self.asked.append((transport, port, round_number))
        return OpenedMapping(
            round=round_number,
            transport=transport,
            port=port,
            protocol="pcp",
            router=OWN_ROUTER,
            outcome="granted",
        )

    async def close(self) -> None:
        self.closed += 1


def plan(kind: str = PINHOLE, *ports: int) -> RoundPlan:
    probes = [Probe(transport="tcp", address=PUBLIC, port=port) for port in ports or (PORT,)]
    return RoundPlan(
        number=7,
        kind=kind,
        prober=SOURCE,
        attempts=3,
        probes=tuple(probes),
        local_ports=PORTS if kind == PINHOLE else (),
    )


@dataclass
class Side:
    """An opener and all that it works with."""

    own: OwnListeners
    router: Router = field(default_factory=Router)
    sent: Sent = field(default_factory=Sent)
    recorder: Recorder = field(default_factory=lambda: Recorder(role=DESTINATION))
    public: tuple[str, ...] = (PUBLIC, "2a00:1::1")
    others: tuple[str, ...] = (THEIRS, "2a00:2::1")
    mapper: Mapper | None = None
    said: list[str] = field(default_factory=list)

    def opener(self) -> Opener:
        return Opener(
            self.recorder,
            self.own,
            public=lambda: self.public,
            others=lambda: self.others,
            control_port=CONTROL,
            mapper=self.make_mapper,
            say=self.said.append,
        )

    async def make_mapper(self) -> PortOpener | None:
        return cast("PortOpener | None", self.mapper)


@pytest.fixture
def side(own: OwnListeners, monkeypatch: pytest.MonkeyPatch) -> Side:
    made = Side(own)
    made.router.hops[THEIRS] = (OWN_ROUTER, FIRST_PUBLIC, "11.255.0.1")
    made.router.install(monkeypatch)
    made.sent.install(monkeypatch)
    return made


async def test_a_look_asks_the_own_address_and_the_way_to_the_other_side_once(side: Side) -> None:
    opener = side.opener()
    opener.look(3)
    opener.look(4)
    await opener.finish()
    assert [address for address, _ in sorted(side.router.traced)] == [THEIRS, PUBLIC]
    ports = dict(side.router.traced)
    assert ports[THEIRS] == CONTROL
    assert 61_000 <= ports[PUBLIC] < 65_000, "a port that nobody forwards"
    assert {probe.round for probe in side.recorder.hop_probes} == {3}
    await opener.close()
    await opener.close()


async def test_a_look_at_nothing_asks_nobody(side: Side) -> None:
    side.public, side.others = (), ("2a00:2::1",)
    opener = side.opener()
    await opener.finish()
    opener.look(1)
    await opener.finish()
    assert side.router.traced == []


async def test_a_pinhole_ends_at_the_first_router_of_the_internet(side: Side) -> None:
    opener = side.opener()
    await opener.open_pinhole(plan(), HERE)
    assert side.sent.calls == [(HERE, PORT, THEIRS, PORTS, 2)]
    assert [(p.remote_port, p.hops, p.sent, p.error) for p in side.recorder.pinholes] == [
        (port, 2, True, None) for port in PORTS
    ]
    assert {(p.round, p.local_port, p.remote) for p in side.recorder.pinholes} == {
        (7, PORT, THEIRS)
    }


@pytest.mark.parametrize(
    ("hops", "reaches"),
    [
        ((OWN_ROUTER, FIRST_PUBLIC, "11.255.0.1"), 2),
        ((OWN_ROUTER, CARRIER_ROUTER, FIRST_PUBLIC), None),
        ((OWN_ROUTER, "10.0.0.1", "11.255.0.1"), None),
        ((OWN_ROUTER, THEIRS), None),
        ((FIRST_PUBLIC, "11.255.0.1"), None),
        ((OWN_ROUTER, "10.0.0.1"), None),
        ((), None),
    ],
    ids=[
        "one router",
        "carrier",
        "two routers",
        "the other's own",
        "no router of its own",
        "too far",
        "silent",
    ],
)
async def test_nothing_is_sent_that_would_meet_somebody(
    side: Side, hops: tuple[str, ...], reaches: int | None
) -> None:
    side.router.hops[THEIRS] = hops
    await side.opener().open_pinhole(plan(), HERE)
    assert [call[-1] for call in side.sent.calls] == ([] if reaches is None else [reaches])
    assert {p.sent for p in side.recorder.pinholes} == {reaches is not None}
    assert {p.error for p in side.recorder.pinholes} == {None if reaches else "EHOSTUNREACH"}


@pytest.mark.parametrize("missing", ["the own address", "theirs"])
async def test_without_an_address_on_either_side_nothing_is_sent(side: Side, missing: str) -> None:
    if missing == "theirs":
        side.others = ("2a00:2::1",)
    await side.opener().open_pinhole(plan(), None if missing == "the own address" else HERE)
    assert side.sent.calls == []
    assert {(p.sent, p.error) for p in side.recorder.pinholes} == {(False, "ENETUNREACH")}


async def test_without_the_right_to_the_own_listener_makes_room_for_a_moment(
    side: Side, free: int
) -> None:
    side.sent.raw = PermissionError(errno.EPERM, "no")
    assert side.own.open(HERE, free).opened
    await side.opener().open_pinhole(plan(PINHOLE, free), HERE)
    assert [call[1] for call in side.sent.calls] == [free]
    assert all(p.sent for p in side.recorder.pinholes)
    assert accepts(HERE, free)


async def test_where_a_program_has_the_port_nothing_is_sent_and_that_is_said(
    side: Side, free: int
) -> None:
    side.sent.raw = PermissionError(errno.EPERM, "no")
    side.sent.ordinary = OSError(errno.EADDRINUSE, "held")
    assert side.own.open(HERE, free).opened
    await side.opener().open_pinhole(plan(PINHOLE, free), HERE)
    assert {(p.sent, p.error) for p in side.recorder.pinholes} == {(False, "EADDRINUSE")}
    assert accepts(HERE, free), "on every way out"


async def test_by_udp_it_takes_the_right_to(side: Side, free: int) -> None:
    """Of what comes in then only who sees packets knows whose it is."""
    probe = Probe(transport="udp", address=PUBLIC, port=free)
    one = replace(plan(PINHOLE, free), probes=(probe,))
    await side.opener().open_pinhole(one, HERE)
    assert side.sent.by_udp == [True]
    side.sent.raw = PermissionError(errno.EPERM, "no")
    await side.opener().open_pinhole(one, HERE)
    assert [p.error for p in side.recorder.pinholes] == [None] * len(PORTS) + ["EPERM"] * len(PORTS)
    assert {p.transport for p in side.recorder.pinholes} == {"udp"}
    assert len(side.sent.calls) == 1


async def test_a_network_that_does_not_take_it_is_written_down(side: Side) -> None:
    side.sent.raw = OSError(errno.ENETUNREACH, "no way")
    await side.opener().open_pinhole(plan(), HERE)
    assert {(p.sent, p.error) for p in side.recorder.pinholes} == {(False, "ENETUNREACH")}


async def test_the_router_is_asked_for_each_port_once(side: Side) -> None:
    side.mapper = Mapper()
    opener = side.opener()
    await opener.open_mappings(plan(MAPPED, 1, 2, 1))
    assert side.mapper.asked == [("tcp", 1, 7), ("tcp", 2, 7)]
    assert [(o.port, o.outcome) for o in side.recorder.opened] == [(1, "granted"), (2, "granted")]
    await opener.close()
    assert side.mapper.closed == 1


async def test_where_there_is_no_router_to_ask_that_is_written_down(side: Side) -> None:
    opener = side.opener()
    await opener.open_mappings(plan(MAPPED))
    (opened,) = side.recorder.opened
    assert (opened.outcome, opened.protocol, opened.round) == ("failed", "", 7)
    assert opened.detail
    await opener.close()


async def test_closing_ends_a_look_and_closes_what_was_opened(side: Side) -> None:
    side.router.wait, side.mapper = 60.0, Mapper()
    opener = side.opener()
    opener.look(1)
    await opener.open_mappings(plan(MAPPED))
    began = time.monotonic()
    await opener.close()
    assert time.monotonic() - began < 5
    assert side.mapper.closed == 1
    assert side.recorder.hop_probes == []


async def test_an_interrupt_while_waiting_does_not_end_the_look(side: Side) -> None:
    side.router.wait = 0.1
    opener = side.opener()
    opener.look(1)
    waiting = asyncio.create_task(opener.finish())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await opener.finish()
    assert side.recorder.hop_probes
    await opener.close()
