"""Tracing the way of answers: on loopback, which is a way of one hop."""

from __future__ import annotations

import contextlib
import random
import socket
import sys

import pytest

from bothends import way_back
from bothends.listener import OwnListeners
from bothends.recorder import Recorder
from bothends.way_back import MAX_TRACED, WayBack
from bothends_protocol.evidence import Acceptance, Icmp, Probe, Sighting
from bothends_protocol.ways import way_back_of

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="who sent an error is told by Linux alone"
)

HERE = "127.0.0.1"


@pytest.fixture
def ports() -> list[int]:
    """Some in a row that are free, below those that the system gives to others meanwhile."""
    count = MAX_TRACED + 2
    while True:
        first = random.randrange(10_000, 32_000 - count)
        found = range(first, first + count)
        with contextlib.ExitStack() as stack:
            try:
                for port in found:
                    stack.enter_context(socket.create_server((HERE, port)))
            except OSError:
                continue
        return list(found)


@pytest.fixture
def port(ports: list[int]) -> int:
    return ports[0]


def place(port: int) -> Probe:
    return Probe(transport="tcp", address=HERE, port=port)


def listeners(recorder: Recorder) -> OwnListeners:
    def took(acceptance: Acceptance) -> None:
        recorder.acceptances.append(acceptance)

    return OwnListeners(b"k" * 32, recorder.clock, took)


async def test_packets_from_the_port_and_from_others_are_told_apart(port: int) -> None:
    recorder = Recorder("destination")
    own = listeners(recorder)
    await WayBack(recorder, own, None).trace(4, place(port), HERE)
    from_port = way_back_of(recorder.back_probes, HERE, port)
    from_others = way_back_of(recorder.back_probes, HERE, 0)
    assert from_port.end == from_others.end == (1, "refused", "")
    assert {probe.round for probe in recorder.back_probes} == {4}
    assert {probe.local_port for probe in recorder.back_probes} == {0, port}
    await own.close()


async def test_an_own_listener_makes_room_and_listens_again(port: int) -> None:
    recorder = Recorder("destination")
    own = listeners(recorder)
    assert own.open(HERE, port).opened
    await WayBack(recorder, own, None).trace(1, place(port), HERE)
    assert way_back_of(recorder.back_probes, HERE, port).asked
    with socket.create_connection((HERE, port), timeout=5):
        pass
    await own.close()


async def test_a_port_that_a_service_holds_is_left_alone_without_the_right_to() -> None:
    recorder = Recorder("destination")
    own = listeners(recorder)
    with socket.create_server((HERE, 0)) as service:
        port = service.getsockname()[1]
        await WayBack(recorder, own, None).trace(1, place(port), HERE)
    # What cannot be sent is no silence.
    assert recorder.back_probes == []
    await own.close()


async def test_each_way_is_traced_once_and_not_all(ports: list[int]) -> None:
    recorder = Recorder("destination")
    own = listeners(recorder)
    back = WayBack(recorder, own, None)
    await back.trace(1, place(ports[0]), HERE)
    count = len(recorder.back_probes)
    await back.trace(2, place(ports[0]), HERE)
    assert len(recorder.back_probes) == count
    for more in ports[1:]:
        await back.trace(3, place(more), HERE)
    assert len({p.local_port for p in recorder.back_probes} - {0}) == MAX_TRACED
    await own.close()


class Card:
    """A packet witness that sees what it is told."""

    def __init__(self) -> None:
        self.drained = 0

    def drain(self) -> None:
        self.drained += 1


def sighting(
    source_port: int, destination_port: int, *, way: str = "in", flags: str = "", icmp: bool = False
) -> Sighting:
    return Sighting(
        at=0.5,
        way=way,
        interface="lo",
        transport="tcp",
        source=HERE,
        source_port=source_port,
        destination=HERE,
        destination_port=destination_port,
        flags=flags,
        icmp=Icmp(kind=11, code=0, sender="10.0.0.1") if icmp else None,
    )


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (sighting(4242, 40_000, icmp=True), "unreachable"),
        (sighting(40_000, 4242, flags="AR"), "refused"),
        (sighting(40_000, 4242, flags="SA"), "connected"),
        (sighting(40_001, 4242, flags="SA"), None),
        (sighting(4242, 40_000, way="out", flags="S"), None),
        (sighting(4243, 40_000, icmp=True), None),
    ],
)
def test_what_was_written_by_hand_is_heard_at_the_card(seen: Sighting, outcome: str | None) -> None:
    recorder = Recorder("destination")
    card = Card()
    by_hand = way_back._ByHand(recorder, card)  # type: ignore[arg-type]
    recorder.sightings.append(seen)
    heard = by_hand.heard(40_000, 4242)
    assert card.drained
    assert (None if heard is None else heard[0]) == outcome


def test_what_was_seen_before_is_no_answer() -> None:
    recorder = Recorder("destination")
    recorder.sightings.append(sighting(40_000, 4242, flags="AR"))
    by_hand = way_back._ByHand(recorder, Card())  # type: ignore[arg-type]
    assert by_hand.heard(40_000, 4242) is None


def test_by_hand_is_for_ipv4_alone() -> None:
    by_hand = way_back._ByHand(Recorder("destination"), Card())  # type: ignore[arg-type]
    with pytest.raises(OSError, match="IPv4"):
        by_hand.send("fd07::1", 40_000, "fd07::2", 4242, 1)
