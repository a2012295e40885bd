"""A flow delivers every byte once and in order, whatever happens to its datagrams."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bothends_protocol.errors import ProtocolError
from bothends_protocol.flow import (
    FIRST_WAIT,
    FIRST_WINDOW,
    LARGEST_WINDOW,
    LEAST_WAIT,
    LONGEST_WAIT,
    MAX_SEGMENT,
    MAX_UNREAD,
    SILENT_SECONDS,
    Flow,
)


@dataclass
class Way:
    """Two flows and what is between them; time passes only here."""

    seed: int = 0
    loss: float = 0.0
    double: float = 0.0
    delay: float = 0.005
    jitter: float = 0.0
    now: float = 100.0
    sent: list[int] = field(default_factory=lambda: [0, 0])
    under_way: list[tuple[float, int, bytes]] = field(default_factory=list)
    read: list[bytearray] = field(default_factory=lambda: [bytearray(), bytearray()])

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.ends = [Flow(self.now), Flow(self.now)]

    def put(self, end: int) -> None:
        for segment in self.ends[end].outgoing(self.now):
            self.sent[end] += 1
            copies = 1 + (self.random.random() < self.double)
            for _ in range(copies):
                if self.random.random() >= self.loss:
                    late = self.delay + self.random.random() * self.jitter
                    self.under_way.append((self.now + late, 1 - end, segment))

    def run(self, until: float) -> None:
        """Let everything happen that happens before `until`."""
        for end in (0, 1):
            self.put(end)
        while True:
            times = [at for at, _, _ in self.under_way]
            times += [at for flow in self.ends if (at := flow.next_time()) is not None]
            if not times or min(times) > until:
                self.now = until
                return
            self.now = max(self.now, *(at for at in [min(times)]))
            here = [part for part in self.under_way if part[0] <= self.now]
            self.under_way = [part for part in self.under_way if part[0] > self.now]
            for _, end, segment in here:
                self.ends[end].receive(segment, self.now)
                self.read[end] += self.ends[end].incoming
                self.ends[end].incoming.clear()
            for end in (0, 1):
                self.put(end)


@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.05, 0.2, 0.4]),
    double=st.sampled_from([0.0, 0.3]),
    jitter=st.sampled_from([0.0, 0.2]),
    parts=st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(1, 5000)), max_size=12),
)
@settings(max_examples=80, deadline=None)
def test_every_byte_arrives_once_and_in_order(
    seed: int, loss: float, double: float, jitter: float, parts: list[tuple[int, int]]
) -> None:
    way = Way(seed=seed, loss=loss, double=double, jitter=jitter)
    written = [bytearray(), bytearray()]
    for end, size in parts:
        data = way.random.randbytes(size)
        written[end] += data
        way.ends[end].write(data)
        way.run(way.now + way.random.random() * 0.1)
    for flow in way.ends:
        flow.end()
    way.run(way.now + 120)
    assert not any(flow.broken for flow in way.ends)
    assert way.read == [written[1], written[0]]
    assert all(flow.ended and flow.settled for flow in way.ends)
    assert all(flow.next_time() is None for flow in way.ends)


def test_a_clean_way_repeats_nothing() -> None:
    way = Way()
    way.ends[0].write(bytes(50 * MAX_SEGMENT))
    way.run(way.now + 5)
    assert len(way.read[1]) == 50 * MAX_SEGMENT
    assert way.sent[0] == 50


def test_an_answer_carries_the_acknowledgement() -> None:
    one, other = Flow(1.0), Flow(1.0)
    one.write(b"question")
    (segment,) = one.outgoing(1.0)
    other.receive(segment, 1.01)
    other.write(b"answer")
    (answer,) = other.outgoing(1.01)
    one.receive(answer, 1.02)
    assert bytes(one.incoming) == b"answer"
    assert one.settled
    assert one.round_trip == pytest.approx(0.02)


def test_a_lost_segment_is_repeated_after_a_round_trip_and_hardly_backs_off() -> None:
    flow = Flow(0.0)
    flow.write(b"x")
    flow.outgoing(0.0)
    times = []
    for _ in range(8):
        at = flow.next_time()
        assert at is not None
        times.append(at)
        assert len(flow.outgoing(at)) == 1
    assert times[0] == pytest.approx(FIRST_WAIT)
    waits = [after - before for before, after in pairwise(times)]
    assert max(waits) <= LONGEST_WAIT
    assert times[5] < 2.5  # the kernel's TCP is at its third repetition by then


def test_what_was_sent_again_too_early_does_not_count_as_lost() -> None:
    one, other = Flow(0.0), Flow(0.0)
    one.write(b"x")
    (first,) = one.outgoing(0.0)
    at = one.next_time()
    assert at is not None
    (again,) = one.outgoing(at)
    assert one.resent == 1
    other.receive(first, at + 0.01)  # a busy computer takes it late
    (acknowledgement,) = other.outgoing(at + 0.01)
    one.receive(acknowledgement, at + 0.02)
    assert one.settled
    assert one.resent == 0
    other.receive(again, at + 0.03)
    (acknowledgement,) = other.outgoing(at + 0.03)
    one.receive(acknowledgement, at + 0.04)
    assert one.resent == 0


def test_what_had_to_be_sent_again_counts() -> None:
    one, other = Flow(0.0), Flow(0.0)
    one.write(b"x")
    one.outgoing(0.0)  # lost
    at = 0.0
    again = b""
    for _ in range(2):
        at = one.next_time() or at
        (again,) = one.outgoing(at)  # the first of them is lost as well
    other.receive(again, at + 0.01)
    (acknowledgement,) = other.outgoing(at + 0.01)
    one.receive(acknowledgement, at + 0.02)
    assert one.settled
    assert one.resent == 2


def test_waiting_follows_the_measured_round_trip() -> None:
    for delay, least in ((0.001, LEAST_WAIT), (0.3, 0.6)):
        way = Way(delay=delay)
        for _ in range(20):
            way.ends[0].write(b"x")
            way.run(way.now + 2)
        way.ends[0].write(b"x")
        way.ends[0].outgoing(way.now)
        at = way.ends[0].next_time()
        assert at is not None
        assert at - way.now == pytest.approx(least, rel=0.2)


def test_what_others_overtook_is_repeated_at_once() -> None:
    one, other = Flow(0.0), Flow(0.0)
    one.write(bytes(5 * MAX_SEGMENT))
    first, *others = one.outgoing(0.0)
    for segment in others:
        other.receive(segment, 0.01)
    (acknowledgement,) = other.outgoing(0.01)
    one.receive(acknowledgement, 0.011)
    (again,) = one.outgoing(0.011)
    assert again.endswith(first[-MAX_SEGMENT:])
    other.receive(again, 0.02)
    assert len(other.incoming) == 5 * MAX_SEGMENT


def test_no_more_is_under_way_than_the_window_allows() -> None:
    flow = Flow(0.0)
    flow.write(bytes(1000 * MAX_SEGMENT))
    assert len(flow.outgoing(0.0)) == FIRST_WINDOW
    way = Way()
    way.ends[0].write(bytes(1000 * MAX_SEGMENT))
    way.put(0)
    while not way.ends[0].settled:
        way.run(way.now + 0.001)
        assert len(way.ends[0]._under_way) <= LARGEST_WINDOW


def test_a_reader_that_does_not_read_stops_the_writer() -> None:
    one, other = Flow(0.0), Flow(0.0)
    one.write(bytes(2 * MAX_UNREAD))
    now = 0.0
    for _ in range(3000):
        for segment in one.outgoing(now):
            other.receive(segment, now)
        for segment in other.outgoing(now):
            one.receive(segment, now)
        now += 0.01
        if one.next_time() is not None:
            now = max(now, one.next_time() or 0.0)
    assert MAX_UNREAD - MAX_SEGMENT < len(other.incoming) <= MAX_UNREAD
    assert not one.settled


def test_silence_breaks_a_flow_that_waits_and_no_other() -> None:
    waiting, idle = Flow(0.0), Flow(0.0)
    waiting.write(b"x")
    now = 0.0
    while not waiting.broken:
        waiting.outgoing(now)
        idle.outgoing(now)
        now = waiting.next_time() or now
    assert SILENT_SECONDS <= now < SILENT_SECONDS + 2 * LONGEST_WAIT
    assert not idle.broken


def test_a_flow_that_was_idle_for_long_is_not_broken_by_its_next_word() -> None:
    way = Way()
    way.run(way.now + 3600)
    way.ends[0].write(b"still there")
    way.run(way.now + 1)
    assert bytes(way.read[1]) == b"still there"


def test_an_abort_is_told_once() -> None:
    one, other = Flow(0.0), Flow(0.0)
    one.write(b"x")
    one.outgoing(0.0)
    one.abort()
    (last,) = one.outgoing(0.1)
    other.receive(last, 0.1)
    assert other.broken
    assert one.outgoing(9.0) == other.outgoing(9.0) == []
    assert one.next_time() is other.next_time() is None


@given(st.binary(max_size=MAX_SEGMENT + 40))
def test_any_bytes_are_a_segment_or_refused(data: bytes) -> None:
    flow = Flow(0.0)
    flow.write(b"something")
    flow.outgoing(0.0)
    try:
        flow.receive(data, 0.1)
    except ProtocolError:
        return
    assert len(flow.incoming) <= MAX_SEGMENT


def test_what_was_never_sent_cannot_be_acknowledged() -> None:
    ahead, flow = Flow(0.0), Flow(0.0)
    ahead._expected = 1
    ahead._owes = True
    with pytest.raises(ProtocolError):
        flow.receive(ahead.outgoing(0.0)[0], 0.0)
