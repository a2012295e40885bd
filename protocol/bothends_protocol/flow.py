"""A reliable, ordered stream of bytes over datagrams that are lost, doubled and reordered.

What the contact runs on where TCP cannot be had, or starves: at 40 % loss 13 of
29 exchanges of 12 messages took the kernel's TCP over 30 s (measured; design,
part 4), since it doubles its waiting with each loss (RFC 6298, 5.5). A flow
repeats after about one measured round trip and backs off hardly at all, which a
conversation of a few kilobytes may do (RFC 8085, 3.1.3: fewer than one datagram
for each round trip beside what is acknowledged).

Sans-I/O: `receive` takes a datagram's segment, `outgoing` hands out the segments
to send, `next_time` says when to ask again. Data travels in numbered segments;
each segment that arrives acknowledges what came before it, and by a bitmap which
of the 64 behind the first gap came too. Round trips are measured by time stamps
that the other end echoes, so that repeating too early shows (RFC 7323, 3.1).
"""

from __future__ import annotations

import struct

import msgspec

from .errors import ProtocolError

__all__ = ["MAX_SEGMENT", "Flow"]

MAX_SEGMENT = 1100
"""Bytes of data in a segment. With all headers that is under the 1,280 bytes that every IPv6
way takes (RFC 8200, 5), and what a tunnel adds still fits into 1,400."""

FIRST_WAIT = 0.15
"""Seconds before the first repetition, until a round trip was measured."""

LEAST_WAIT = 0.06
"""Least seconds before a repetition: a busy computer answers a few hundredths late."""

LONGEST_WAIT = 1.0
"""Most seconds between repetitions, for ways that are that long."""

BACK_OFF, MOST_BACK_OFF = 1.3, 2.0
"""How much longer each further repetition of a segment waits, and how much at most."""

FIRST_WINDOW = 10
"""Segments under way at first (RFC 6928)."""

LEAST_WINDOW = 6
"""Segments that may be under way however many are lost: loss here is mostly no congestion."""

LARGEST_WINDOW = 64
"""Segments under way at most: what one bitmap acknowledges."""

MAX_UNREAD = 512 * 1024
"""Bytes kept for a reader that does not read; what comes beyond is not taken, and so repeated."""

SILENT_SECONDS = 30.0
"""A flow with something unacknowledged on which nothing was heard for so long is broken. Who uses
it mostly knows sooner; at 40 % loss each way six seconds are silent by chance now and then."""

_HEADER = struct.Struct("!BIIQII")
_TICK = 0.0001
"""Seconds in a unit of time stamps."""
_STAMPS = 2**32
_DATA, _END, _ABORT = 1, 2, 4


class _Sent(msgspec.Struct):
    payload: bytes
    last: bool
    at: float
    again: list[float] = []
    """When it was sent again."""
    passed: int = 0
    """Segments sent after it that arrived before it."""


class Flow:
    """One end of a stream. Times are seconds on the caller's clock."""

    def __init__(self, now: float) -> None:
        self.incoming = bytearray()
        """What arrived and was not read yet; the reader takes it away."""
        self.ended = False
        """Whether the other end said that nothing more comes, and all before it is here."""
        self.broken = False
        """Whether the flow is over before its end."""
        self.round_trip: float | None = None
        """Smoothed, in seconds (RFC 6298, 2)."""
        self.resent = 0
        """Times that a segment was sent again, but for those shown to have been too early."""
        self._variation = 0.0
        self._unsent = bytearray()
        self._ending = False
        self._end_sent = False
        self._number = 0
        self._under_way: dict[int, _Sent] = {}
        self._window = float(FIRST_WINDOW)
        self._shrunk = now
        self._expected = 0
        self._early: dict[int, tuple[bytes, bool]] = {}
        self._owes = False
        self._stamp = 0
        """Of the newest segment that is to be acknowledged; 0 where none is."""
        self._aborting = False
        self._heard = now

    @property
    def settled(self) -> bool:
        """Whether everything written has arrived."""
        unsent = bool(self._unsent) or (self._ending and not self._end_sent)
        return not self._under_way and not unsent

    @property
    def waiting(self) -> int:
        """Bytes written and not yet on their way."""
        return len(self._unsent)

    def write(self, data: bytes) -> None:
        """Send `data`, behind what was written before."""
        if not self._ending and not self.broken:
            self._unsent += data

    def end(self) -> None:
        """Say, behind what was written, that nothing more comes."""
        self._ending = True

    def abort(self) -> None:
        """End at once: the other end is told once, and nothing is repeated."""
        self._aborting = not self.broken
        self.broken = True

    def receive(self, segment: bytes, now: float) -> None:
        """Take a segment of the other end; raise `ProtocolError` where it is none."""
        if len(segment) < _HEADER.size or len(segment) > _HEADER.size + MAX_SEGMENT:
            raise ProtocolError("not a segment")
        flags, number, expected, bitmap, stamp, echo = _HEADER.unpack_from(segment)
        payload = segment[_HEADER.size :]
        if expected > self._number or flags & ~(_DATA | _END | _ABORT):
            raise ProtocolError("an acknowledgement of what was never sent")
        self._heard = now
        if flags & _ABORT:
            self.broken = True
            return
        trip = (_stamp_of(now) - echo) % _STAMPS * _TICK if echo else None
        if self._acknowledged(expected, bitmap, None if trip is None else now - trip):
            self._measure(trip)
        if flags & (_DATA | _END):
            self._owes, self._stamp = True, stamp
            self._take(number, payload, last=bool(flags & _END))

    def outgoing(self, now: float) -> list[bytes]:
        """Return the segments to send now."""
        if self.broken:
            out = [self._segment(_ABORT, 0, now)] if self._aborting else []
            self._aborting = False
            return out
        if self._under_way and now - self._heard > SILENT_SECONDS:
            self.broken = True
            return []
        out = self._repeated(now) + self._fresh(now)
        if self._owes and not out:
            out.append(self._segment(0, 0, now))
        self._owes = False
        return out

    def next_time(self) -> float | None:
        """Return when `outgoing` has something to repeat; None where nothing waits."""
        if self.broken:
            return None
        return min((self._due(sent) for sent in self._under_way.values()), default=None)

    # Sending -----------------------------------------------------------------------------

    def _fresh(self, now: float) -> list[bytes]:
        out = []
        while len(self._under_way) < int(self._window):
            payload = bytes(self._unsent[:MAX_SEGMENT])
            del self._unsent[:MAX_SEGMENT]
            last = self._ending and not self._unsent and not self._end_sent
            if not payload and not last:
                break
            self._end_sent |= last
            sent = _Sent(payload, last, now)
            if not self._under_way:
                self._heard = max(self._heard, now)
            self._under_way[self._number] = sent
            self._number += 1
            out.append(self._data(self._number - 1, sent, now))
        return out

    def _repeated(self, now: float) -> list[bytes]:
        out = []
        for number, sent in self._under_way.items():
            if self._due(sent) > now:
                continue
            self._shrink(now)
            self.resent += 1
            sent.again.append(now)
            sent.at, sent.passed = now, 0
            out.append(self._data(number, sent, now))
        return out

    def _due(self, sent: _Sent) -> float:
        if sent.passed >= _PASSED and not sent.again:
            return sent.at  # RFC 9002, 6.1.1: others overtook it, so it is lost
        longer = min(BACK_OFF ** len(sent.again), MOST_BACK_OFF)
        return sent.at + min(self._wait() * longer, LONGEST_WAIT)

    def _wait(self) -> float:
        if self.round_trip is None:
            return FIRST_WAIT
        return max(self.round_trip + 4 * self._variation, LEAST_WAIT)

    def _shrink(self, now: float) -> None:
        """Halve the window, once in a round trip however many were lost in it."""
        if now - self._shrunk < (self.round_trip or FIRST_WAIT):
            return
        self._shrunk = now
        self._window = max(self._window / 2, LEAST_WINDOW)

    def _data(self, number: int, sent: _Sent, now: float) -> bytes:
        flags = _DATA | (_END if sent.last else 0)
        return self._segment(flags, number, now) + sent.payload

    def _segment(self, flags: int, number: int, now: float) -> bytes:
        bitmap = 0
        for early in self._early:
            place = early - self._expected - 1
            if 0 <= place < 64:
                bitmap |= 1 << place
        # Echoed at once or not at all: later it would measure how long this end was idle.
        echo = self._stamp if self._owes else 0
        self._owes = False
        return _HEADER.pack(flags, number, self._expected, bitmap, _stamp_of(now), echo)

    # Receiving ---------------------------------------------------------------------------

    def _acknowledged(self, expected: int, bitmap: int, echoed: float | None) -> bool:
        """Note what arrived at the other end; return whether any of it is news.

        What was sent again after the segment that is acknowledged now, sent at `echoed`, had
        arrived before: a busy computer answers late, and nothing was lost (RFC 3522, 3.2).
        """
        arrived = [
            number
            for number in self._under_way
            if number < expected
            or (0 <= number - expected - 1 < 64 and bitmap >> (number - expected - 1) & 1)
        ]
        for number in arrived:
            again = self._under_way.pop(number).again
            if echoed is not None:
                self.resent -= sum(at > echoed + _TICK for at in again)
            self._window = min(self._window + 1 / max(self._window / FIRST_WINDOW, 1), _WIDEST)
        if arrived:
            for number, sent in self._under_way.items():
                sent.passed += sum(later > number for later in arrived)
        return bool(arrived)

    def _measure(self, trip: float | None) -> None:
        if trip is None or trip > _LONGEST_TRIP:
            return  # none, made up, or a computer that slept
        if self.round_trip is None:
            self.round_trip, self._variation = trip, trip / 2
            return
        self._variation += (abs(self.round_trip - trip) - self._variation) / 4
        self.round_trip += (trip - self.round_trip) / 8

    def _take(self, number: int, payload: bytes, *, last: bool) -> None:
        if not self._expected <= number < self._expected + LARGEST_WINDOW:
            return
        if len(self.incoming) + len(payload) > MAX_UNREAD:
            return
        self._early[number] = payload, last
        while (here := self._early.pop(self._expected, None)) is not None:
            self._expected += 1
            if not self.ended:
                self.incoming += here[0]
            self.ended |= here[1]


_PASSED = 3
"""Segments that must have overtaken one before it is taken for lost (RFC 9002, 6.1.1)."""

_WIDEST = float(LARGEST_WINDOW)

_LONGEST_TRIP = 10.0


def _stamp_of(now: float) -> int:
    return round(now / _TICK) % _STAMPS or 1
