"""What requests with a small time to live tell of the way to a port.

Pure: from `evidence.HopProbe` to a `Way`. Used on both ends, of the way to the tested address and
of the destination's ways out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .addresses import bare
from .evidence import HopProbe

__all__ = ["INITIAL", "SILENCE", "Way", "asked_least", "way_of"]

SILENCE = 5
"""Requests that must all stay unanswered before it is said that a hop does not answer them: at a
loss of 20 % in each direction that happens by chance 6 times in 1,000."""


@dataclass(frozen=True)
class Way:
    """The hops to one port of one address."""

    expired: dict[int, str] = field(default_factory=dict)
    """By hop: who said that the time of a request ran out there."""
    ends: dict[int, tuple[str, str]] = field(default_factory=dict)
    """By hop: the outcome of a request that did not run out there and got an answer, and who sent
    it (empty for an answer of TCP's own)."""
    silent: frozenset[int] = frozenset()
    """Hops for which no request was answered."""
    asked: int = 0
    """Requests sent."""
    tries: dict[int, int] = field(default_factory=dict)
    """How many of them were to end at each hop."""
    refused_after: int | None = None
    """Hops that the refusal itself has travelled, its sender's own included; None: unknown."""

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


def way_of(probes: Iterable[HopProbe], address: str, port: int) -> Way:
    """Return the way to `port` of `address` that `probes` show."""
    asked = [p for p in probes if bare(p.address) == bare(address) and p.port == port]
    mine = [p for p in asked if not p.least]
    expired = {
        p.hops: bare(p.icmp.sender) for p in mine if p.outcome == "expired" and p.icmp is not None
    }
    ends = {
        p.hops: (p.outcome, "" if p.icmp is None else bare(p.icmp.sender))
        for p in mine
        if p.outcome in ("connected", "refused", "unreachable")
    }
    return Way(
        expired=expired,
        ends=ends,
        silent=frozenset(p.hops for p in mine) - expired.keys() - ends.keys(),
        asked=len(mine),
        tries=Counter(p.hops for p in mine),
        refused_after=_travelled({p.least: p.outcome == "refused" for p in asked if p.least}),
    )


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
