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
PER_WINDOW = 16
"""Six windows of 16: 96 SYNs in a quarter of a second, half of what one check may send."""

SAMPLE_SECONDS = 0.004

SURE = 6.0
"""Standard errors between the fit and what it is told from. Over the lags tried, noise
reaches it less than once in a million bursts."""

PASSED = 0.25
STOPPED = 0.1
"""Counts per SYN above which a counter follows the burst, and below which it does not. A way
that loses 40 % in each direction still answers 36 of 100; a filter lets none through."""

_BIN = 0.01
"""Seconds per bin: coarse enough for a reading that came late, fine enough for the pattern."""

_LAGS = tuple(step * _BIN for step in range(-2, 7))
"""Lags tried: the mark may come late by some scheduling, the packets behind it by a queue."""

_LEAST_BINS = 12


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
    start, end = samples.times[0], samples.times[-1]
    count = int((end - start) / _BIN)
    if count < _LEAST_BINS:
        return None
    edges = [start + step * _BIN for step in range(count + 1)]
    counted = _differences(_interpolate(samples.times, readings, edges))
    fits = []
    for lag in _LAGS:
        sent = _histogram([at + lag for at in burst.sends], edges)
        one = _regress(sent, counted, lag)
        if one is not None:
            fits.append(one)
    return max(fits, key=lambda one: one.correlation, default=None)


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
        place = int((at - edges[0]) / _BIN)
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
