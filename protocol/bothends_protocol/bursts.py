"""Coded bursts: finding our own packets in counters that count everybody's.

A plain difference of a kernel counter is no evidence: with eight stray packets
a second "+3" was right 10 times in 100 and false 18 times (measured; design,
part 5). So the prober sends in a random pattern of windows, with many SYNs or
none, and both sides read their counters all the while. A counter that our
packets pass follows the pattern, one that they do not pass does not, and noise
follows nothing.

`follows` fits each counter's increments to the SYNs that were really sent in
the same time, over a small range of lags (the mark that aligns the two clocks
may be late, packets may queue). It answers True or False only where the fit is
far outside what noise does, else None: not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

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

_EARLY = 0.008
"""Seconds by which the bins begin before the windows: a window's packets come at its beginning,
and a reading on either side of an edge would spread them over two bins."""

_LAGS = tuple(step * 0.004 for step in range(-3, 16))
"""Lags tried: the mark may come late by some scheduling, the packets behind it by a queue."""

_LEAST_BINS = 8
_MOST_BINS = 500
_LONGEST = 3600.0
_LARGEST = 2**64
"""What a peer's readings may hold: an hour, and counters of 64 bits."""


def make_pattern(entropy: Callable[[int], bytes]) -> str:
    """Return a random pattern: half its windows full, first one full, last one empty.

    `entropy(n)` returns n random bytes.
    """
    inner = list("1" * (WINDOWS // 2 - 1) + "0" * (WINDOWS // 2 - 1))
    for place in range(len(inner) - 1, 0, -1):
        other = entropy(1)[0] % (place + 1)
        inner[place], inner[other] = inner[other], inner[place]
    return "1" + "".join(inner) + "0"


@dataclass(frozen=True)
class Fit:
    """How a counter moved with the burst, at the lag that fits best."""

    slope: float
    """Counts per SYN sent: about 1 where every SYN is counted once, 0 where none is."""
    error: float
    """Standard error of the slope."""
    correlation: float
    lag: float
    moved: int
    """How far the counter moved in all."""


def fit(burst: Burst, samples: Samples, readings: Sequence[int]) -> Fit | None:
    """Return how `readings`, one for each of the sample times, follow `burst`.

    None where there are too few readings to say anything.
    """
    if len(readings) != len(samples.times) or len(readings) < 2 or not burst.sends:
        return None
    if not all(math.isfinite(at) and abs(at) < _LONGEST for at in (*samples.times, *burst.sends)):
        return None
    if not all(abs(value) < _LARGEST for value in readings):
        return None
    fits = (_fit_at(lag, burst, samples.times, readings) for lag in _LAGS)
    found = [one for one in fits if one is not None]
    return max(found, key=lambda one: one.correlation, default=None)


def _fit_at(
    lag: float, burst: Burst, times: Sequence[float], readings: Sequence[int]
) -> Fit | None:
    first = lag - _EARLY
    bins = range(
        math.ceil((times[0] - first) / WINDOW_SECONDS),
        math.floor((times[-1] - first) / WINDOW_SECONDS),
    )
    if not _LEAST_BINS <= len(bins) <= _MOST_BINS:
        return None
    edges = [first + step * WINDOW_SECONDS for step in (*bins, bins.stop)]
    counted = _differences(_interpolate(times, readings, edges))
    return _regress(_histogram([at + lag for at in burst.sends], edges), counted, lag)


def follows(burst: Burst, samples: Samples, name: str, *more: str) -> bool | None:
    """Return whether the counter `name` (less the counters `more`) counted the burst.

    None where it cannot be told, or the counter does not exist there.
    """
    readings = samples.values.get(name)
    if readings is None:
        return None
    total = list(readings)
    for other in more:
        rest = samples.values.get(other)
        if rest is not None and len(rest) == len(total):
            total = [value - less for value, less in zip(total, rest, strict=True)]
    found = fit(burst, samples, total)
    if found is None:
        return None
    if found.slope > PASSED and found.slope > SURE * found.error:
        return True
    if found.slope < STOPPED and PASSED - found.slope > SURE * found.error:
        return False
    return None


def _interpolate(
    times: Sequence[float], readings: Sequence[int], edges: Sequence[float]
) -> list[float]:
    """Return the counter's value at each edge, on straight lines between the readings."""
    values = []
    at = 0
    for edge in edges:
        while at < len(times) - 2 and times[at + 1] < edge:
            at += 1
        width = times[at + 1] - times[at]
        part = 0.0 if width <= 0 else min(max((edge - times[at]) / width, 0.0), 1.0)
        values.append(readings[at] + part * (readings[at + 1] - readings[at]))
    return values


def _differences(values: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(values)]


def _histogram(times: Sequence[float], edges: Sequence[float]) -> list[float]:
    bins = [0.0] * (len(edges) - 1)
    for at in times:
        place = math.floor((at - edges[0]) / WINDOW_SECONDS)
        if 0 <= place < len(bins):
            bins[place] += 1
    return bins


def _regress(sent: Sequence[float], counted: Sequence[float], lag: float) -> Fit | None:
    """Least squares of `counted` on `sent` with a constant."""
    count = len(sent)
    mean_sent, mean_counted = sum(sent) / count, sum(counted) / count
    spread = sum((x - mean_sent) ** 2 for x in sent)
    if spread <= 0:
        return None
    both = sum((x - mean_sent) * (y - mean_counted) for x, y in zip(sent, counted, strict=True))
    total = sum((y - mean_counted) ** 2 for y in counted)
    slope = both / spread
    left = max(total - slope * both, 0.0)
    # A counter that fits to the last packet still has the readings' own grain.
    error = math.sqrt(max(left, 0.25) / (count - 2) / spread)
    correlation = both / math.sqrt(spread * total) if total > 0 else 0.0
    return Fit(slope, error, correlation, lag, round(sum(counted)))
