"""What requests with a small time to live tell of the way to a port.

Pure: from `evidence.HopProbe` to a `Way`. Used on both ends, of the way to the tested address and
of the destination's ways out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from .addresses import bare
from .evidence import HopProbe

__all__ = [
    "ENDED",
    "INITIAL",
    "SILENCE",
    "UNSENT",
    "Stretch",
    "Way",
    "asked_least",
    "farthest_other",
    "still_speaks",
    "stretch_of",
    "way_back_of",
    "way_of",
]

ENDED = ("connected", "refused", "unreachable")
"""Outcomes of a request that got to its end, or was stopped by somebody who says so."""

UNSENT = ("no-route", "local-error")
"""Outcomes of requests that never were: their silence is none."""

SILENCE = 5
"""Requests that must all stay unanswered before it is said that a hop does not answer them: at a
loss of 20 % in each direction that happens by chance 6 times in 1,000."""


class Way(msgspec.Struct, frozen=True):
    """The hops to one port of one address."""

    expired: dict[int, str] = msgspec.field(default_factory=dict)
    """By hop: who said that the time of a request ran out there."""
    ends: dict[int, tuple[str, str]] = msgspec.field(default_factory=dict)
    """By hop: the outcome of a request that did not run out there and got an answer, and who sent
    it (empty for an answer of TCP's own)."""
    silent: frozenset[int] = frozenset()
    """Hops for which no request was answered."""
    asked: int = 0
    """Requests sent."""
    tries: dict[int, int] = msgspec.field(default_factory=dict)
    """How many of them were to end at each hop."""
    refused_after: int | None = None
    """Hops that the refusal itself has travelled, its sender's own included; None: unknown."""
    asked_at: dict[int, tuple[int, int]] = msgspec.field(default_factory=dict)
    """By hop: the last request to it, by its trace and its place in the order of all."""
    said_at: dict[int, tuple[tuple[int, int], ...]] = msgspec.field(default_factory=dict)
    """Those that were answered."""

    @property
    def end(self) -> tuple[int, str, str] | None:
        """The first hop with an end, its outcome and who sent it."""
        if not self.ends:
            return None
        hop = min(self.ends)
        return hop, *self.ends[hop]

    @property
    def last(self) -> int:
        """The last hop that said so; 0 where none did."""
        return max(self.expired, default=0)

    @property
    def falls_silent(self) -> bool:
        """Whether the hop after the last one that said so was asked often enough, in vain."""
        first = self.last + 1
        return first in self.silent and self.tries.get(first, 0) >= SILENCE

    def place_of(self, address: str) -> int | None:
        """Return the first hop that said so in the name of `address`, None where none did."""
        return min(
            (hop for hop, who in self.expired.items() if bare(who) == bare(address)), default=None
        )


def way_of(probes: Sequence[HopProbe], address: str, port: int) -> Way:
    """Return the way to `port` of `address` that `probes` show."""
    there = bare(address)
    return _way(
        (at, p) for at, p in enumerate(probes) if p.port == port and bare(p.address) == there
    )


def way_back_of(probes: Sequence[HopProbe], address: str, local_port: int) -> Way:
    """Return the way to `address` of requests from `local_port`; 0: from any that the system gave.

    Whichever port they went to.
    """
    there = bare(address)
    return _way(
        (at, p)
        for at, p in enumerate(probes)
        if p.local_port == local_port and bare(p.address) == there
    )


def farthest_other(probes: Sequence[HopProbe], address: str, port: int) -> Way:
    """Return the way to that other port of `address` which requests get farthest on."""
    others = {p.port for p in probes if bare(p.address) == bare(address)} - {port}
    ways = [way_of(probes, address, other) for other in sorted(others)]
    return max(ways, key=lambda way: max((*way.expired, *way.ends), default=0), default=Way())


def _way(asked: Iterable[tuple[int, HopProbe]]) -> Way:
    """The way that requests show, each with its place in the order of all."""
    least: dict[int, bool] = {}
    mine: list[tuple[int, HopProbe]] = []
    for at, p in asked:
        if p.outcome in UNSENT:
            continue
        if p.least:
            least[p.least] = p.outcome == "refused"
        else:
            mine.append((at, p))
    expired = {
        p.hops: bare(p.icmp.sender)
        for _, p in mine
        if p.outcome == "expired" and p.icmp is not None
    }
    ends = {
        p.hops: (p.outcome, "" if p.icmp is None else bare(p.icmp.sender))
        for _, p in mine
        if p.outcome in ENDED
    }
    said_at: dict[int, tuple[tuple[int, int], ...]] = {}
    for at, p in mine:
        if p.outcome != "silent":
            said_at[p.hops] = (*said_at.get(p.hops, ()), (p.trace, at))
    return Way(
        expired=expired,
        ends=ends,
        silent=frozenset(p.hops for _, p in mine) - expired.keys() - ends.keys(),
        asked=len(mine),
        tries=Counter(p.hops for _, p in mine),
        refused_after=_travelled(least),
        asked_at={p.hops: (p.trace, at) for at, p in mine},
        said_at=said_at,
    )


class Stretch(msgspec.Struct, frozen=True):
    """The part of the way in which requests to one port end, while others go on."""

    last: int
    """The last hop that they reach; 0: none."""
    first: int
    """The first hop that they do not reach, and requests to another port do."""
    last_name: str
    first_name: str
    """Addresses of the two, empty where unknown."""
    end: int
    """The hop that the other side itself is; 0: unknown."""

    @property
    def narrow(self) -> bool:
        """Whether it is less than the whole way."""
        return self.last > 0 or not 0 < self.end <= self.first

    @property
    def before_end(self) -> bool:
        """Whether they end before they reach the other side."""
        return self.first < self.end


def stretch_of(
    way: Way, control: Way, address: str = "", *, answers: bool = True
) -> Stretch | None:
    """Return where requests of `way` end and those of `control` go on; None where nothing shows it.

    A router takes one from the time to live before it filters what it forwards (Linux: net/ipv4/
    ip_forward.c), so the filter is in the router at `last` behind that, in the one at `first`
    before that, or between. Hops that say nothing to either port are left out. `address` is what
    a hop is called that is the other side itself. Its silence says nothing where it need not
    answer (not `answers`).
    """
    end = control.end
    there = end[0] if end is not None and end[1] != "unreachable" else 0
    said = {hop: who for hop, who in control.expired.items() if hop > way.last}
    stop = way.end
    if stop is not None:
        hop, outcome, sender = stop
        if sender or way.last >= hop or (hop not in said and hop != there):
            return None  # who sent it is known, or not where that is
        if outcome == "connected" and hop == there:
            return None
        return Stretch(way.last, hop, way.expired.get(way.last, ""), said.get(hop, address), there)
    if there > way.last and answers:
        said[there] = address
    further = [hop for hop in sorted(said) if hop in way.silent]
    # One lost request and its repetition are no filter, and a router that has used up its words
    # says nothing to anybody.
    if sum(way.tries[hop] for hop in further) < SILENCE:
        return None
    first = further[0]
    if not still_speaks(way, control, first):
        return None
    return Stretch(way.last, first, way.expired.get(way.last, ""), said[first], there)


def still_speaks(way: Way, control: Way, hop: int) -> bool:
    """Return whether `hop` answered a request of `control` after the last of `way`.

    In the same trace: what it says later is of words that it got anew.
    """
    trace, last = way.asked_at.get(hop, (0, -1))
    said = control.said_at.get(hop, ())
    return last >= 0 and any(one == trace and at > last for one, at in said)


def _travelled(taken: dict[int, bool]) -> int | None:
    """Return how many hops a refusal came, by the smallest times to live with which it was taken.

    Systems begin with 64, 128 or 255; what is sent by the machine at hop n comes with n - 1 less.
    """
    first = next((t for t in reversed(INITIAL) if taken.get(floor_of(t))), INITIAL[0])
    if not taken or (first == INITIAL[0] and not any(taken.values())):
        return None
    most = max((least for least, was in taken.items() if was and least <= first), default=0)
    # Nothing comes with more than 255.
    over = min((least for least, was in taken.items() if not was and least > most), default=256)
    return first - most + 1 if most and over == most + 1 else None


INITIAL = (64, 128, 255)
"""Times to live that systems begin with."""


def floor_of(initial: int) -> int:
    """Return the smallest time to live that only what began with `initial` or more can have."""
    place = INITIAL.index(initial)
    return INITIAL[place - 1] + 1 if place else 1


def asked_least(hop: int) -> tuple[int, ...]:
    """Return the smallest times to live to ask with.

    They tell whether a refusal is of hop `hop` or of the one before it.
    """
    near = (first - hop + more for first in INITIAL for more in (1, 2, 3))
    return tuple(sorted({*(floor_of(t) for t in INITIAL[1:]), *(t for t in near if t <= 255)}))
