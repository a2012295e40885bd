"""Two clocks that were never compared: how one recording lies beside the other.

Two agents that never met each kept what they saw, on clocks of their own. Where
something of the source was seen at the destination, that tells how the clocks
lie to each other, whatever each computer thinks what time it is:

1. **packets**: a connection request that both sides hold, known by its TCP
   sequence number, or by its address and port.
2. **bursts**: the source's coded bursts, found in the counters that the
   destination read all the time. The patterns are random and known. So a counter
   that has nothing to do with them follows them, at any one lag, with a
   probability below exp(-z*z/2), whatever else it counts (W. Hoeffding,
   "Probability inequalities for sums of bounded random variables", 1963).
3. **clocks**: nothing was seen, and the two wall clocks are all there is.
"""

from __future__ import annotations

import bisect
import math
import statistics
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import msgspec

from .addresses import bare, family
from .evidence import Burst, Counted, Evidence, Sighting

__all__ = [
    "BURSTS",
    "CLOCKS",
    "GAP_SECONDS",
    "HOLD_SECONDS",
    "LOOK_SECONDS",
    "PACKETS",
    "PER_WINDOW",
    "SAMPLE_SECONDS",
    "WINDOWS",
    "WINDOW_SECONDS",
    "Alignment",
    "align",
    "is_finite",
    "wall_offset",
]

WINDOWS = 24
WINDOW_SECONDS = 0.06
PER_WINDOW = 16
"""A burst of a source that stands alone: 192 SYNs in 1.4 seconds. Slower than where the two have
met, so that a destination that reads its counters for ten minutes need not read them often; and
longer, so that a few bursts tell one moment from all others."""

SAMPLE_SECONDS = 0.02
"""Between two readings of the counters by a side that stands alone."""

LOOK_SECONDS = 0.5
"""Between two looks at the socket table by a side that stands alone."""

HOLD_SECONDS = 1.2
"""How long a source that stands alone keeps its connections open: longer than a destination that
stands alone takes from one look at its socket table to the next."""

PACKETS, BURSTS, CLOCKS = "packets", "bursts", "clocks"

GAP_SECONDS = 0.15
"""Between two readings, in which counters moved: from there on it is not known when they did."""

FAR = 7.2
NEAR = 6.4
"""How far, in the measure `z` above, a fit must stand out to be the bursts: at any lag, and where
the wall clocks say the same within `NEAR_SECONDS`. All lags, counters and parts that are tried
make 6 million and 60,000 trials: both come to less than one error in 10,000 runs. Four bursts
that a quiet counter shows make 6.6, five 7.4."""
NEAR_SECONDS = 10.0

DRIFT = 300e-6
"""Most seconds that the two clocks may drift apart in one second; quartz does 100 millionths."""

MAX_SPAN = 1800.0
"""Seconds of each recording in which bursts are searched for."""
MAX_PARTS = 6
PART_SECONDS = 150.0
"""The search goes over so many parts of the source's bursts, newest first. In each the two clocks
drift by less than a window."""

MAX_EVENTS = 8000
"""Packets or rows of each side that are compared, newest first: all that a side keeps."""

MAX_ANCHORS = 40
"""Places at which the offset of the two clocks is kept; between them it is interpolated."""

_CELL = WINDOW_SECONDS / 3
_MOST = PER_WINDOW * 3 // 2
"""What a window counts at most, so that one spurt of other traffic does not weigh for many."""
_LEAST = 3 * PER_WINDOW * WINDOWS // 8
"""What a counter must have moved in all, for the search to be worth its time."""

_LARGEST = 1e9
"""Seconds, 30 years: beyond that a time is none."""

_SIGNALS: dict[int, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    version: (
        (("Tcp.InSegs",), ()),
        ((f"{ip}.InReceives",), (f"{ip}.InDelivers",)),
        ((f"{ip}.InReceives",), ()),
        (("dev.rx",), ("Ip.InReceives", "Ip6.InReceives")),
        (("dev.rx",), ()),
    )
    for version, ip in ((4, "Ip"), (6, "Ip6"))
}
"""Counters, less others, that requests move where they arrive: by the IP version."""


class Alignment(msgspec.Struct, frozen=True):
    """How the destination's clock lies to the source's."""

    how: str
    """`packets`, `bursts` or `clocks`."""
    anchors: tuple[tuple[float, float], ...]
    """Moments on the source's clock, in order, and what the destination's shows more."""
    slack: float
    """Seconds by which this may be wrong."""
    remote: str = ""
    """The source's address as the destination sees it, where it was seen."""

    def offset(self, at: float) -> float:
        """Return what the destination's clock shows more than the source's at `at` on that."""
        places = [place for place, _ in self.anchors]
        right = bisect.bisect_left(places, at)
        if right in (0, len(places)):
            return self.anchors[min(right, len(places) - 1)][1]
        (t0, low), (t1, high) = self.anchors[right - 1 : right + 1]
        return low + (high - low) * ((at - t0) / (t1 - t0) if t1 > t0 else 0.0)

    def error(self, at: float) -> float:
        """Return by how many seconds `offset` may be wrong at `at`."""
        nearest = min(abs(place - at) for place, _ in self.anchors)
        return self.slack + DRIFT * nearest


def is_finite(*times: float) -> bool:
    """Return whether these can be times of a run."""
    return all(math.isfinite(at) and abs(at) < _LARGEST for at in times)


def wall_offset(source: Evidence, destination: Evidence) -> float | None:
    """Return what the destination's clock shows more, by the wall clocks; None if unknown."""
    walls = [None if one.offline is None else one.offline.wall for one in (source, destination)]
    here, there = walls
    if here is None or there is None or not (math.isfinite(here) and math.isfinite(there)):
        return None
    return here - there if abs(here - there) < _LARGEST else None


def align(source: Evidence, destination: Evidence) -> Alignment | None:
    """Return how the clocks lie, by the best that is known; None where nothing tells."""
    wall = wall_offset(source, destination)
    found = _by_packets(source, destination, wall)
    if found is None:
        found = _by_bursts(source, destination, wall)
    if found is None and wall is not None:
        return Alignment(CLOCKS, ((0.0, wall),), CLOCK_SECONDS)
    return found


CLOCK_SECONDS = 5.0
"""By how much two wall clocks that are kept right may differ: they are seldom a second off."""


# -- by packets and rows


class _Event(msgspec.Struct, frozen=True):
    """Something that both sides saw."""

    here: float
    there: float
    port: int
    """The source's own port."""
    remote: str
    """The source's address as the destination saw it."""
    late: float
    """The destination saw it up to so many seconds after it happened."""
    strong: bool = False
    """Known by its sequence number."""
    same: bool = True
    """Whether the address is the one that the source used."""


_STRANGERS = 3
"""Events that must agree where no more than the ports do."""
_NEAR_WALL = 60.0
"""Seconds from the wall clocks within which one event by itself is believed."""


def _by_packets(source: Evidence, destination: Evidence, wall: float | None) -> Alignment | None:
    events = [e for e in _events(source, destination) if is_finite(e.here, e.there)]
    best = _cluster(events)
    if not best or not _believable(best, wall):
        return None
    precise = [event for event in best if event.late == 0.0]
    used = precise or best
    late = max(event.late for event in used)
    remotes = [event.remote for event in best if event.strong] or [e.remote for e in best]
    return Alignment(
        PACKETS,
        _anchors((event.here, event.there - event.here - event.late / 2) for event in used),
        slack=0.05 + late / 2,
        remote=max(sorted(set(remotes)), key=remotes.count),
    )


def _believable(events: Sequence[_Event], wall: float | None) -> bool:
    if any(event.strong for event in events):
        return True
    ports = {event.port for event in events if event.same}
    near = wall is not None and any(
        event.same and abs(event.there - event.here - wall) < _NEAR_WALL for event in events
    )
    return len(ports) > 1 or near or len({event.port for event in events}) >= _STRANGERS


def _cluster(events: Sequence[_Event]) -> list[_Event]:
    """The most events whose offsets agree; those known by number count for many."""
    listed = sorted(events, key=lambda e: e.there - e.here)
    if not listed:
        return []
    times = [event.here for event in listed]
    wide = 0.5 + max(event.late for event in listed) + DRIFT * (max(times) - min(times))
    weights = [0, *accumulate(100 if e.strong else 2 if e.same else 1 for e in listed)]
    best, first, most = (0, 0), 0, 0
    for last, event in enumerate(listed):
        while event.there - event.here - (listed[first].there - listed[first].here) > wide:
            first += 1
        weight = weights[last + 1] - weights[first]
        if weight > most:
            best, most = (first, last + 1), weight
    return sorted(listed[slice(*best)], key=lambda e: e.here)


def _events(source: Evidence, destination: Evidence) -> Iterator[_Event]:
    tried: _Tried = defaultdict(list)
    for attempt in source.attempts[-MAX_EVENTS:]:
        place = tried[attempt.local_port, attempt.port]
        if attempt.local_port and len(place) < _REUSED:
            place.append((attempt.started, bare(attempt.local_address)))
    requests = [
        seen
        for seen in destination.sightings[-MAX_EVENTS:]
        if seen.way == "in" and seen.flags == "S" and seen.icmp is None
    ]
    yield from _same_number(source, requests)
    for seen in requests:
        ports = seen.source_port, seen.destination_port
        yield from _same_port(tried, seen.at, seen.source, ports, 0.0)
    for taken in destination.acceptances[-MAX_EVENTS:]:
        ports = taken.remote_port, taken.port
        yield from _same_port(tried, taken.at, taken.remote_address, ports, 0.0)
    for row in destination.connections[-MAX_EVENTS:]:
        if row.at is not None:
            ports = row.remote_port, row.local_port
            yield from _same_port(tried, row.at, row.remote_address, ports, LOOK_SECONDS)


def _same_number(source: Evidence, requests: Iterable[Sighting]) -> Iterator[_Event]:
    sent: dict[tuple[int, int], list[float]] = defaultdict(list)
    for seen in source.sightings[-MAX_EVENTS:]:
        if seen.way == "out" and seen.flags == "S" and seen.icmp is None:
            sent[seen.seq, seen.destination_port].append(seen.at)
    for seen in requests:
        for at in sent.get((seen.seq, seen.destination_port), ())[:_REUSED]:
            yield _Event(at, seen.at, seen.source_port, bare(seen.source), 0.0, strong=True)


_Tried = dict[tuple[int, int], list[tuple[float, str]]]
"""When the source tried, and from which address: by its own port and the other's."""

_REUSED = 8
"""Connections from one port that are compared: a system goes through thousands of ports first."""


def _same_port(
    tried: _Tried, at: float, remote: str, ports: tuple[int, int], late: float
) -> Iterator[_Event]:
    address = bare(remote)
    for started, local in tried.get(ports, ()):
        yield _Event(started, at, ports[0], address, late, same=address == local)


def _anchors(pairs: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """At most `MAX_ANCHORS` medians of moments and offsets, in order of time."""
    listed = sorted(pairs)
    size = -(-len(listed) // MAX_ANCHORS)
    parts = [listed[at : at + size] for at in range(0, len(listed), size)]
    return tuple(
        (statistics.median(t for t, _ in part), statistics.median(o for _, o in part))
        for part in parts
    )


# -- by coded bursts


def _by_bursts(source: Evidence, destination: Evidence, wall: float | None) -> Alignment | None:
    kept = destination.offline
    if kept is None or kept.counted is None:
        return None
    patterns = {plan.number: plan.pattern for plan in source.rounds if plan.pattern}
    bursts = [
        (burst.started, patterns[burst.round], family(bare(burst.address)))
        for burst in source.bursts
        if burst.started is not None
        and is_finite(burst.started)
        and burst.round in patterns
        and _is_whole(burst, patterns[burst.round])
    ]
    version = max((v for _, _, v in bursts), default=0)
    listed = sorted((at, pattern) for at, pattern, v in bursts if v == version)
    if version not in _SIGNALS or not listed:
        return None
    here = _region(source, destination, wall)
    parts = list(_parts([item for item in listed if here[0] <= item[0] <= here[1]]))
    there = (0.0, MAX_SPAN) if wall is None else (here[0] + wall - 1, here[1] + wall + 1)
    if wall is None or not _overlap(source, destination, wall):
        end = kept.lasted
        there = (end - MAX_SPAN, end)
    for plus, minus in _SIGNALS[version]:
        cells = _cells(kept.counted, plus, minus, there)
        if cells is None:
            continue
        for part in parts:
            found = _search(part, *cells, wall)
            if found is not None:
                return _follow(found, parts, *cells)
    return None


def _is_whole(burst: Burst, pattern: str) -> bool:
    """Whether the burst went out as planned, so that the plan's pattern says when."""
    wanted = pattern.count("1") * PER_WINDOW
    return len(pattern) == WINDOWS and wanted // 2 <= len(burst.sends) <= wanted


def _overlap(source: Evidence, destination: Evidence, offset: float) -> float:
    """Seconds of the source's recording that lie within the destination's."""
    if source.offline is None or destination.offline is None:
        return 0.0
    begins = max(0.0, -offset)
    ends = min(source.offline.lasted, destination.offline.lasted - offset)
    return max(0.0, ends - begins)


def _region(source: Evidence, destination: Evidence, wall: float | None) -> tuple[float, float]:
    """The part of the source's recording whose bursts are searched for, on its clock."""
    end = 0.0 if source.offline is None else source.offline.lasted
    if wall is not None and destination.offline is not None:
        overlap = _overlap(source, destination, wall)
        if overlap:
            end = min(end, destination.offline.lasted - wall)
    return end - MAX_SPAN, end


_Part = list[tuple[float, str]]


def _parts(bursts: _Part) -> Iterator[_Part]:
    """Bursts that are near each other, newest first; not more of them than can be added up."""
    made = 0
    part: _Part = []
    for item in reversed(bursts):
        if part and (part[0][0] - item[0] > PART_SECONDS or len(part) >= _PART_BURSTS):
            yield part
            made += 1
            part = []
            if made >= MAX_PARTS:
                return
        part.append(item)
    if part:
        yield part


_PART_BURSTS = 60


def _cells(
    counted: Counted, plus: Sequence[str], minus: Sequence[str], span: tuple[float, float]
) -> tuple[float, list[int]] | None:
    """What the counters moved in each window that begins at a cell, and when the first does.

    None where one of the counters is not there, or they hardly moved at all.
    """
    if not is_finite(counted.began) or any(n not in counted.values for n in (*plus, *minus)):
        return None
    rows = [(1, counted.values[n]) for n in plus] + [(-1, counted.values[n]) for n in minus]
    moved = _added(rows, len(counted.steps))
    if moved is None:
        return None
    begins = max(counted.began, span[0])
    count = int(max(0.0, min(span[1] - begins, MAX_SPAN + 2)) / _CELL)
    cells = [0] * (count + 3)
    at = counted.began
    for step, more in zip(counted.steps, moved, strict=True):
        seconds = step / 1000 if 0 <= step < _LARGEST else _LARGEST
        if more > 0 and seconds < GAP_SECONDS:
            place = math.floor((at + seconds / 2 - begins) / _CELL)
            if 0 <= place < count:
                cells[place] += min(more, _MOST)
        at += seconds
    windows = [min(_MOST, sum(cells[place : place + 3])) for place in range(count)]
    return (begins, windows) if sum(windows) >= 3 * _LEAST else None


def _added(rows: Sequence[tuple[int, Sequence[int]]], steps: int) -> list[int] | None:
    """The rows added up, each with its sign; an empty one is a counter that never moved."""
    total = [0] * steps
    for sign, row in rows:
        if row and len(row) != steps:
            return None
        if row:
            total = [a + sign * b for a, b in zip(total, row, strict=True)]
    return total


class _Found(msgspec.Struct, frozen=True):
    at: float
    offset: float


def _search(part: _Part, begins: float, windows: list[int], wall: float | None) -> _Found | None:
    """Where the bursts of `part` are in the windows, if they stand out at one lag."""
    first = min(at for at, _ in part)
    full, all_ = _impulses(part, first)
    if not windows:
        return None
    loud = _correlate(windows, full)
    total = _correlate(windows, all_)
    power = _correlate([count * count for count in windows], all_)
    best: tuple[float, float] | None = None
    for index, (yes, both, square) in enumerate(zip(loud, total, power, strict=True)):
        contrast = 2 * yes - both
        if contrast <= 0 or contrast * contrast < NEAR * NEAR * square:
            continue
        offset = begins + (index - len(all_) + 1) * _CELL - first
        near = wall is not None and abs(offset - wall) < NEAR_SECONDS
        score = contrast / math.sqrt(square)
        if (near or score >= FAR) and (best is None or score > best[0]):
            best = score, offset
    return None if best is None else _Found(statistics.median(at for at, _ in part), best[1])


def _impulses(part: _Part, first: float) -> tuple[list[int], list[int]]:
    """Where full windows begin, and where any do, in cells since `first`.

    The first window of each burst and the last are alike in all of them, and left out.
    """
    size = int((max(at for at, _ in part) - first) / _CELL) + 3 * WINDOWS + 3
    full, all_ = [0] * size, [0] * size
    for at, pattern in part:
        for number in range(1, WINDOWS - 1):
            place = round((at - first + number * WINDOW_SECONDS) / _CELL)
            all_[place] = 1
            full[place] = int(pattern[number] == "1")
    return full, all_


def _correlate(windows: Sequence[int], impulses: Sequence[int]) -> list[int]:
    """The sum of `windows` at the places of `impulses`, for every lag of one to the other.

    As one product of two numbers whose digits, of 32 bits, are the two rows (Kronecker's
    substitution): Python multiplies long numbers in much less than the square of their length.
    No sum reaches 32 bits: `_PART_BURSTS` bursts of windows that count `_MOST`, squared, do not.
    """
    one, other = (
        int.from_bytes(struct.pack(f"<{len(row)}I", *row), "little")
        for row in (windows, [*reversed(impulses)])
    )
    count = len(windows) + len(impulses) - 1
    return list(struct.unpack(f"<{count}I", (one * other).to_bytes(count * 4, "little")))


def _follow(found: _Found, parts: Sequence[_Part], begins: float, windows: list[int]) -> Alignment:
    """Look for the other parts near where they must be; clocks drift."""
    anchors = []
    for part in parts:
        middle = statistics.median(at for at, _ in part)
        reach = math.ceil((DRIFT * abs(middle - found.at) + 3 * _CELL) / _CELL)
        centre = round((min(at for at, _ in part) + found.offset - begins) / _CELL)
        best = max(
            range(centre - reach, centre + reach + 1),
            key=lambda place, part=part: _score(part, windows, place),  # type: ignore[misc]
        )
        if _score(part, windows, best) >= _THERE:
            anchors.append((middle, begins + best * _CELL - min(at for at, _ in part)))
    return Alignment(BURSTS, _anchors(anchors or [(found.at, found.offset)]), 3 * _CELL)


_THERE = 4.5
"""How far a part must stand out where it is known to be within a few cells."""


def _score(part: _Part, windows: Sequence[int], place: int) -> float:
    first = min(at for at, _ in part)
    contrast = square = 0
    for at, pattern in part:
        for number in range(1, WINDOWS - 1):
            index = place + round((at - first + number * WINDOW_SECONDS) / _CELL)
            if 0 <= index < len(windows):
                count = windows[index]
                contrast += count if pattern[number] == "1" else -count
                square += count * count
    return contrast / math.sqrt(square) if square else 0.0
