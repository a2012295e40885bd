"""Both ends of a sweep over loopback, and the witness that counts its packets."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bothends.sweep import (
    SPARE,
    SweepProgress,
    SweepSender,
    SweepTaker,
    SweepWitness,
    room_for_sockets,
)
from bothends_protocol.evidence import RoundPlan, Swept
from bothends_protocol.pairing import SOURCE
from bothends_protocol.plan import sweep_rounds
from bothends_protocol.ports import unpack_ports
from packets_by_hand import ip, tcp

LOCAL = "127.0.0.1"
HERE, THERE = "192.0.2.1", "192.0.2.2"
SYN, SYN_ACK, RST, RST_ACK, ACK = 0x02, 0x12, 0x04, 0x14, 0x10
TCP = socket.IPPROTO_TCP


def free_ports(count: int) -> list[int]:
    socks = [socket.create_server((LOCAL, 0)) for _ in range(count)]
    ports = sorted(sock.getsockname()[1] for sock in socks)
    for sock in socks:
        sock.close()
    return ports


@pytest.fixture
def program() -> Iterator[socket.socket]:
    with socket.create_server((LOCAL, 0)) as sock:
        sock.settimeout(5.0)
        yield sock


def plan_of(ports: list[int]) -> RoundPlan:
    (plan,) = sweep_rounds(1, SOURCE, LOCAL, sorted(ports), 4000)
    return plan


def sets(swept: Swept) -> dict[str, list[int]]:
    return {name: list(unpack_ports(packed)) for name, packed in swept.sets.items()}


async def test_what_is_free_is_listened_on_and_what_comes_is_taken(program: socket.socket) -> None:
    ours, closed = free_ports(3), free_ports(1)
    held = program.getsockname()[1]
    everything = sorted([*ours, *closed, held])
    taker = SweepTaker(plan_of(everything), LOCAL, [held, *closed])
    await taker.listen()
    sender = SweepSender(plan_of(everything), spare=[held])
    await sender.fire(lambda: None)
    taker.take({LOCAL})
    came = taker.told(None, [ours[0], held])
    sent = await sender.gather(set(ours), 5.0, None)
    assert sets(came) == {
        "own": ours,
        "taken": ours,
        "pending": ours[:1],
        "held": sorted([held, *closed]),
    }
    assert sets(sent) == {
        "connected": ours,
        "refused": closed,
        "icmp": [],
        "failed": [],
        "silent": [],
    }
    # Nothing stays behind, and the program was left alone.
    again = SweepTaker(plan_of(ours), LOCAL, [])
    await again.listen()
    assert sets(again.told(None, []))["own"] == ours
    program.settimeout(0.0)
    with pytest.raises(BlockingIOError):
        program.accept()


async def test_a_connection_of_somebody_else_does_not_count() -> None:
    (port,) = free_ports(1)
    taker = SweepTaker(plan_of([port]), LOCAL, [])
    await taker.listen()
    with socket.create_connection((LOCAL, port)):
        taker.take({THERE})
        assert sets(taker.told(None, [])) == {
            "own": [port],
            "taken": [],
            "pending": [],
            "held": [],
        }


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a reset may come in another way")
async def test_a_programs_connection_is_not_ended_by_a_reset(program: socket.socket) -> None:
    port = program.getsockname()[1]
    for gentle in (True, False):
        sender = SweepSender(plan_of([port]), gentle=[port] if gentle else [])
        await sender.fire(lambda: None)
        assert sets(await sender.gather({port}, 5.0, None))["connected"] == [port]
        connection, _ = program.accept()
        with connection:
            connection.settimeout(5.0)
            if gentle:
                assert connection.recv(1) == b""
            else:
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)


def test_a_long_sweep_tells_how_far_it_got() -> None:
    said: list[str] = []
    now = [0.0]
    progress = SweepProgress(said.append, lambda: now[0])
    waves = sweep_rounds(1, SOURCE, LOCAL, range(1, 10_001), 2000)
    for wave in waves:
        progress.wave(wave, 10_000)
        now[0] += 1.1
    assert said == [
        "4,000 of 10,000 ports have had their request.",
        "8,000 of 10,000 ports have had their request.",
    ]


async def test_requests_keep_to_the_pace() -> None:
    ports = free_ports(8)
    plan = replace(plan_of(ports), rate=40)
    sender = SweepSender(plan)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await sender.fire(lambda: None)
    # No machine is too fast for that, and a slow one only takes longer.
    assert loop.time() - begun >= (len(ports) - 1) / plan.rate
    assert sets(await sender.gather((), 0.0, None))["refused"] == ports


async def test_without_an_own_address_nobody_listens() -> None:
    taker = SweepTaker(plan_of([1]), None, [])
    await taker.listen()
    assert sets(taker.told(None, [])) == {"own": [], "taken": [], "pending": [], "held": []}


def test_a_sweep_may_have_what_the_system_gives() -> None:
    import resource  # noqa: PLC0415

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = room_for_sockets()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    assert 0 < room <= max(hard - SPARE, 16_384)


# -- the witness


def seen(*packets: tuple[str, bytes], sends: bool) -> SweepWitness:
    witness = SweepWitness(range(4000, 4100), [HERE], [THERE], sends=sends)
    for way, packet in packets:
        witness.take(packet, way)
    return witness


@pytest.mark.parametrize("sends", [True, False], ids=["the sender", "the other side"])
def test_requests_and_their_answers_are_seen(*, sends: bool) -> None:
    sender, other = (HERE, THERE) if sends else (THERE, HERE)
    forth, back = ("out", "in") if sends else ("in", "out")
    witness = seen(
        (forth, ip(sender, other, TCP, tcp(50000, 4001, SYN))),
        (back, ip(other, sender, TCP, tcp(4001, 50000, SYN_ACK))),
        (forth, ip(sender, other, TCP, tcp(50000, 4001, RST))),
        (forth, ip(sender, other, TCP, tcp(50001, 4002, SYN))),
        (back, ip(other, sender, TCP, tcp(4002, 50001, RST_ACK))),
        sends=sends,
    )
    assert (witness.requests, witness.accepted, witness.refused) == ({4001, 4002}, {4001}, {4002})


@pytest.mark.parametrize(
    ("way", "packet"),
    [
        ("in", ip("192.0.2.9", HERE, TCP, tcp(50000, 4001, SYN))),
        ("in", ip(THERE, "192.0.2.9", TCP, tcp(50000, 4001, SYN))),
        ("in", ip(THERE, HERE, TCP, tcp(50000, 5001, SYN))),
        ("in", ip(THERE, HERE, TCP, tcp(50000, 4001, ACK))),
        ("in", ip(THERE, HERE, TCP, tcp(50000, 4001, SYN_ACK))),
        ("out", ip(HERE, THERE, TCP, tcp(4001, 50000, SYN))),
        ("in", ip(THERE, HERE, socket.IPPROTO_UDP, tcp(50000, 4001, SYN))),
        ("in", b""),
    ],
    ids=[
        "stranger",
        "other address",
        "other port",
        "ack",
        "syn-ack",
        "own request",
        "udp",
        "empty",
    ],
)
def test_everything_else_is_left_out(way: str, packet: bytes) -> None:
    witness = seen((way, packet), sends=False)
    assert (witness.requests, witness.accepted, witness.refused) == (set(), set(), set())


def test_by_six() -> None:
    witness = SweepWitness([4001], ["fd00::1"], ["fd00::2"], sends=False)
    witness.take(ip("fd00::2", "fd00::1", TCP, tcp(50000, 4001, SYN)), "in")
    assert witness.requests == {4001}


def test_an_address_that_is_none_is_passed_over() -> None:
    witness = SweepWitness([4001], ["nowhere", HERE], ["", THERE], sends=False)
    witness.take(ip(THERE, HERE, TCP, tcp(50000, 4001, SYN)), "in")
    assert witness.requests == {4001}


def test_behind_a_router_addresses_say_nothing() -> None:
    witness = SweepWitness([4001], [], [], sends=False)
    witness.take(ip("203.0.113.7", "10.0.0.2", TCP, tcp(50000, 4001, SYN)), "in")
    assert witness.requests == {4001}


@given(st.binary(max_size=80), st.sampled_from(["in", "out"]))
def test_any_packet_is_taken_without_complaint(data: bytes, way: str) -> None:
    SweepWitness(range(1, 65536), [], [], sends=True).take(data, way)
