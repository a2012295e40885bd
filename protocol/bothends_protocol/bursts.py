"""Coded bursts: finding our own packets in counters that count everybody's.

A plain difference of a kernel counter is no evidence: with eight stray packets
a second "+3" was right 10 times in 100 and false 18 times (measured; design,
part 5). So the prober sends in a random pattern of windows, with many SYNs or
none, and both sides read their counters all the while. A counter that our
packets pass follows the pattern, one that they do not pass does not, and noise
follows nothing.

`follows` fits each counter's increments to the SYNs that were really sent in
the same time, at every lag that the readings cover. It answers True or False
only where the fit is far outside what noise does, else None: not known. What
nothing but the burst moves may also have counted it late, packet for packet.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise

import msgspec

from .evidence import Burst, Samples

__all__ = [
    "PASSED",
    "PER_WINDOW",
    "SAMPLE_SECONDS",
    "STOPPED",
    "WINDOWS",
    "WINDOW_SECONDS",
    "Fit",
    "fit",
    "follows",
    "make_pattern",
    "measure",
    "readings_of",
]

WINDOWS = 12
WINDOW_SECONDS = 0.02
PER_WINDOW = 24
"""Six windows of 24: 144 SYNs in a quarter of a second. With 16 more from single attempts that
stays below the 200 packets that one check may send, and tells beside 3,000 strays a second."""

SAMPLE_SECONDS = 0.004

SURE = 8.0
"""Standard errors between the fit and what it is told from. A dozen windows leave few degrees
of freedom, and the best of the lags is taken: with 5, recorded traffic of a busy server came out
as a burst up to 7 times in 1,500."""

PASSED = 0.25
STOPPED = 0.1
"""Counts per SYN above which a counter follows the burst, and below which it does not. A way
that loses 40 % in each direction still answers 36 of 100; a filter lets none through."""

MOST = 8.0
"""Counts per SYN above which it is something else that the counter follows. A connection that
comes about and is ended again was measured to be 3 packets one way and 2 the other, all 5 of
them counted where they are forwarded."""

_STEP = 0.002
"""Seconds between the lags that are tried."""

_FINE, _COARSE = 5, 10
"""Steps in a bin, in which counts are compared: half a window or a whole one. A window's SYNs all
fall in its first half, while a spurt of other traffic runs on through the second: beside recorded
traffic the sent packets of a busy host were found in 518 of 600 cases, with whole windows in 189.
But readings that are far apart cannot show halves."""

_CLOSE = 0.007
"""Seconds between readings up to which fine bins are used."""

_EARLY = 0.4
"""Part of a bin by which it begins before the window: a window's packets come at its beginning,
and a reading on either side of an edge would spread them over two bins."""

_AROUND = 0.08
"""Seconds before and behind the burst that are looked at too, where there are readings."""

_LEAST_QUIET = 0.4
"""Part of the bins that must be empty, so that there is something to compare with."""

_LATE, _MARK_LATE = 0.08, 0.03
"""Seconds that a packet may be counted after it was sent, and by which the mark that aligns the
clocks may have come late: then it seems to be counted before."""

_GAP = 0.06
"""Seconds between readings that hide windows of a burst: three of them."""

_SPARE = 0.1
"""Part of a burst that may be missing, or be other traffic."""

_LONGEST = 6.0
_LONGEST_BURST = 0.6
_MOST_READINGS = 1010
_LARGEST = 2**64
"""What a peer's readings may hold, so that no judge has to try for long: as many as a side takes,
over as many seconds, a burst twice as long as any, and counters of 64 bits."""


def make_pattern(entropy: Callable[[int], bytes], windows: int = WINDOWS) -> str:
    """Return a random pattern: half its windows full, first one full, last one empty.

    `entropy(n)` returns n random bytes.
    """
    inner = list("1" * (windows // 2 - 1) + "0" * (windows // 2 - 1))
    for place in range(len(inner) - 1, 0, -1):
        other = entropy(1)[0] % (place + 1)
        inner[place], inner[other] = inner[other], inner[place]
    return "1" + "".join(inner) + "0"


class Fit(msgspec.Struct, frozen=True):
    """How a counter moved with the burst, at the lag that fits best."""

    slope: float
    """Counts per SYN sent: about 1 where every SYN is counted once, 0 where none is."""
    error: float
    """Standard error of the slope."""
    correlation: float
    lag: float
    moved: int
    """How far the counter moved in all."""
    steady: bool
    """Whether the full bins, all but one, show in it each by itself."""


def fit(burst: Burst, samples: Samples, readings: Sequence[int]) -> Fit | None:
    """Return how `readings`, one for each of the sample times, follow `burst`.

    The mark that aligns the two clocks may have come late (a packet of the contact was lost),
    and the packets later than it (a queue). So every lag is tried at which the readings cover
    the burst from its first window to its last. None where they never do.
    """
    if not _bearable(burst, samples.times, readings):
        return None
    apart = (samples.times[-1] - samples.times[0]) / (len(samples.times) - 1)
    width = _FINE if apart < _CLOSE else _COARSE
    first, sent = _histogram(burst.sends, width)
    grid = _interpolate(samples.times, readings)
    lags = _alignments(samples.times[0] - first, sent, grid, width)
    if min(readings) == max(readings):
        lags = islice(lags, 1)  # they are all alike
    lines = (_regress(*part, lag) for lag, part in lags if _tells(part[0]))
    found = [one for one in lines if one is not None]
    best = max(found, key=lambda one: one.correlation, default=None)
    return None if best is None else _fit_of(best)


def _bearable(burst: Burst, times: Sequence[float], readings: Sequence[int]) -> bool:
    """Whether these can be the readings of an honest side, and are no more than that."""
    if not burst.sends or not 2 <= len(readings) <= _MOST_READINGS or len(readings) != len(times):
        return False
    if not all(math.isfinite(at) and abs(at) < _LONGEST for at in (*times, *burst.sends)):
        return False
    if not all(abs(value) < _LARGEST for value in readings):
        return False
    if times[-1] - times[0] > _LONGEST or any(after < before for before, after in pairwise(times)):
        return False
    return max(burst.sends) - min(burst.sends) <= _LONGEST_BURST


def _alignments(
    begin: float, sent: Sequence[int], grid: list[float], width: int
) -> Iterator[tuple[float, tuple[Sequence[int], list[float]]]]:
    """The lags that the readings cover, and for each the SYNs and the counts, bin by bin.

    `grid` holds the counter at every step, `begin` seconds after the first of the bins of `sent`
    begins, which are `width` steps wide. The quiet before and behind the burst is looked at where
    there is some.
    """
    around = round(_AROUND / _STEP) // width
    last = len(grid) - 1 - len(sent) * width
    # What was before the first reading is not in it: an edge there is as good as that reading.
    for at in range(-round(_EARLY * width), last + 1):
        before = min(around, max(at, 0) // width)
        behind = min(around, (last - at) // width)
        start, stop = at - before * width, at + (len(sent) + behind) * width + 1
        missing = max(-(start // width), 0)
        edges = [grid[0]] * missing + grid[start + missing * width : stop : width]
        counted = list(map(operator.sub, edges[1:], edges))
        yield begin + at * _STEP, ((*[0] * before, *sent, *[0] * behind), counted)


def _tells(sent: Sequence[int]) -> bool:
    return sent.count(0) >= _LEAST_QUIET * len(sent)


def measure(
    burst: Burst, samples: Samples, plus: Sequence[str], minus: Sequence[str] = ()
) -> Fit | None:
    """Return how the counters `plus` together, less those of `minus`, moved with the burst.

    None where it cannot be told, or one of the counters does not exist there.
    """
    total = readings_of(samples, plus, minus)
    return None if total is None else fit(burst, samples, total)


def readings_of(samples: Samples, plus: Sequence[str], minus: Sequence[str]) -> list[int] | None:
    """Return the readings of `plus` together less those of `minus`, None where one is missing."""
    total = [0] * len(samples.times)
    for sign, names in ((1, plus), (-1, minus)):
        for name in names:
            readings = samples.values.get(name)
            if readings is None or len(readings) != len(total):
                return None
            total = [a + sign * b for a, b in zip(total, readings, strict=True)]
    return total


def follows(
    burst: Burst,
    samples: Samples,
    plus: Sequence[str],
    minus: Sequence[str] = (),
    *,
    late: bool = False,
) -> bool | None:
    """Return whether the counters `plus` together, less those of `minus`, counted the burst.

    With `late` also where they counted each packet when some program got to run. That is for
    what stands still but for the burst: as many others within the same quarter of a second would
    pass for it. None where it cannot be told.
    """
    total = readings_of(samples, plus, minus)
    found = None if total is None else fit(burst, samples, total)
    if total is None or found is None:
        return None
    if late and _each_once(burst, samples.times, total):
        return True
    if MOST > found.slope > PASSED and found.slope > SURE * found.error and found.steady:
        return True
    if found.slope < STOPPED and PASSED - found.slope > SURE * found.error:
        return None if _may_hide(burst, samples.times, total) else False
    return None


def _may_hide(burst: Burst, times: Sequence[float], readings: Sequence[int]) -> bool:
    """Whether the burst may lie between two readings, as where a busy computer took none for long.

    Then the counter rises there on a straight line, which follows nothing.
    """
    least = PASSED * len(burst.sends)
    pairs = zip(pairwise(times), pairwise(readings), strict=True)
    return any(
        until - since > _GAP and after - before >= least
        for (since, until), (before, after) in pairs
    )


def _each_once(burst: Burst, times: Sequence[float], readings: Sequence[int]) -> bool:
    """Whether a counter took every packet of the burst once, some of them late, and hardly more.

    On a busy computer a program answers when it gets to run, a few windows at a time: no lag fits
    them all. But then the counter is never ahead of the burst, soon level with it, and still
    before and behind it.
    """
    sends = sorted(burst.sends)
    if times[0] > sends[0] or times[-1] < sends[-1] + _LATE:
        return False
    spare = _SPARE * len(sends)

    def fits(counted: Iterable[float]) -> bool:
        return all(
            bisect_right(sends, at - _LATE) - spare
            <= value
            <= bisect_right(sends, at + _MARK_LATE) + spare
            for at, value in zip(times, counted, strict=True)
        )

    first, whole = readings[0], readings[-1] - readings[0]
    evenly = (whole * (at - times[0]) / (times[-1] - times[0]) for at in times)
    # Where a steady stream would pass as well, it may be one.
    return fits(value - first for value in readings) and not fits(evenly)


def _interpolate(times: Sequence[float], readings: Sequence[int]) -> list[float]:
    """Return the counter every `_STEP` since the first reading, on straight lines between."""
    values: list[float] = []
    at = 0
    for step in range(math.floor((times[-1] - times[0]) / _STEP + 1e-6) + 1):
        moment = times[0] + step * _STEP
        while at < len(times) - 2 and times[at + 1] < moment:
            at += 1
        width = times[at + 1] - times[at]
        part = 0.0 if width <= 0 else min(max((moment - times[at]) / width, 0.0), 1.0)
        values.append(readings[at] + part * (readings[at + 1] - readings[at]))
    return values


def _histogram(sends: Sequence[float], width: int) -> tuple[float, list[int]]:
    """Return when the first bin begins, and the SYNs in each bin up to the last full one."""
    seconds = width * _STEP
    first = -_EARLY * seconds
    places = [math.floor((at - first) / seconds) for at in sends]
    lowest = min(places)
    bins = [0] * (max(places) - lowest + 1)
    for place in places:
        bins[place - lowest] += 1
    return first + lowest * seconds, bins


class _Line(msgspec.Struct, frozen=True):
    """Counts against SYNs, bin by bin, at one lag; the sums are of squares about the means."""

    lag: float
    sent: Sequence[int]
    counted: Sequence[float]
    spread: float
    both: float
    total: float

    @property
    def correlation(self) -> float:
        return self.both / math.sqrt(self.spread * self.total) if self.total > 0 else 0.0


def _regress(sent: Sequence[int], counted: Sequence[float], lag: float) -> _Line | None:
    """Least squares of `counted` on `sent` with a constant; done for every lag, so in haste."""
    count = len(sent)
    mean_sent, mean_counted = sum(sent) / count, sum(counted) / count
    off_sent = [x - mean_sent for x in sent]
    spread = sum(map(operator.mul, off_sent, off_sent))
    if spread <= 0:
        return None
    off_counted = [y - mean_counted for y in counted]
    both = sum(map(operator.mul, off_sent, off_counted))
    total = sum(map(operator.mul, off_counted, off_counted))
    return _Line(lag, sent, counted, spread, both, total)


def _fit_of(line: _Line) -> Fit:
    slope = line.both / line.spread
    left = max(line.total - slope * line.both, 0.0)
    # A counter that fits to the last packet still has the readings' own grain.
    error = math.sqrt(max(left, 0.25) / (len(line.sent) - 2) / line.spread)
    moved, steady = round(sum(line.counted)), _steady(line.sent, line.counted)
    return Fit(slope, error, line.correlation, line.lag, moved, steady)


def _steady(sent: Sequence[int], counted: Sequence[float]) -> bool:
    """Whether all full bins but one show in the counter by themselves.

    So that one spurt of other traffic, which by chance came in a full window, is no burst.
    """
    empty = [y for x, y in zip(sent, counted, strict=True) if not x]
    quiet = math.fsum(empty) / len(empty) if empty else 0.0
    # A straggler that falls into the next bin does not make that a full one.
    most = max(sent)
    full = [(x, y - quiet) for x, y in zip(sent, counted, strict=True) if 2 * x >= most]
    return sum(more >= PASSED / 2 * x for x, more in full) >= max(len(full) - 1, 2)
