"""Sweeps: what became of one request to each of many ports, and which ports fared alike.

Each side says in sets of ports what it did and saw (`evidence.Swept`). Put
together they are the **fate** of each port, a few bits. Ports of one fate are
told apart by nothing that anybody saw, so a few of them are tested in depth and
stand for the others (`choose`), as long as those few agree (`judge`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from .evidence import Evidence, RoundPlan, Swept
from .plan import MAX_WAVE, SWEEP, swept_ports
from .ports import unpack_ports

__all__ = ["Sweep", "answered", "check", "choose", "sweep_between", "sweep_of", "unsettled"]

STAND = 3
"""Ports of one fate that are tested in depth: the first, the last, and one between."""

MAX_STAND = 48
"""The same of all fates together, the largest first."""

MAX_HELD = 64
"""Ports of programs that get no request of a sweep, but are tested in depth each; a host with more
of them is swept all the same."""

_OUTCOMES = ("connected", "refused", "icmp", "failed", "silent")
_SEEN = ("arrived", "accepted", "reset", "own", "taken", "held")
_BITS = {name: 1 << at for at, name in enumerate((*_OUTCOMES, "left", *_SEEN))}
_TOLD = sum(_BITS[name] for name in (*_OUTCOMES, "held"))
"""Without any of these a port got no request, and nobody says why."""


class Sweep(msgspec.Struct, frozen=True):
    """The fates of the ports that were swept at one address."""

    address: str
    fates: dict[int, int]
    sent_seen: bool
    """Whether the sender's packets were seen; the same of the other side's."""
    came_seen: bool

    @property
    def refused_by_icmp(self) -> bool:
        """Whether any port was: who does so may say no more than a word a second."""
        return any(fate & _BITS["icmp"] for fate in self.fates.values())

    def outcome(self, port: int) -> str:
        """Return what the sender met at the port, as in `evidence.Swept`; empty where nothing."""
        fate = self.fates[port]
        return next((name for name in _OUTCOMES if fate & _BITS[name]), "")

    def came_through(self, port: int) -> bool:
        """Whether a connection to the port was taken by the other agent itself."""
        return bool(self.fates[port] & _BITS["taken"])

    def spared(self) -> list[int]:
        """Return the ports that got no request, since a program holds them."""
        return [port for port, fate in self.fates.items() if fate == _BITS["held"]]

    def alike(self) -> list[tuple[int, ...]]:
        """Return the ports, those of one fate together, the largest such set first."""
        found: dict[int, list[int]] = {}
        for port, fate in sorted(self.fates.items()):
            found.setdefault(fate, []).append(port)
        return sorted(map(tuple, found.values()), key=lambda ports: (-len(ports), ports))


def sweep_of(
    rounds: Iterable[RoundPlan], prober: str, sent: Sequence[Swept], came: Sequence[Swept]
) -> Sweep | None:
    """Return what the sweeps of `prober` show, None where there was none.

    `sent` are the records of who sent, `came` those of the other side.
    """
    mine = [r for r in rounds if r.kind == SWEEP and r.prober == prober]
    numbers = {r.number for r in mine}
    sent = [s for s in sent if s.round in numbers]
    came = [s for s in came if s.round in numbers]
    if not sent:
        return None
    fates = dict.fromkeys((port for r in mine for port in swept_ports(r)), 0)
    for part in (*sent, *came):
        for name, packed in part.sets.items():
            bit = _BITS.get(name, 0)
            for port in unpack_ports(packed, MAX_WAVE) if bit else ():
                if port in fates:
                    fates[port] |= bit
    return Sweep(
        address=mine[0].probes[0].address,
        fates={port: _plain(fate) for port, fate in fates.items() if fate & _TOLD},
        sent_seen=all("left" in s.sets for s in sent),
        came_seen=bool(came) and all("arrived" in s.sets for s in came),
    )


def _plain(fate: int) -> int:
    """Leave of a fate what tells most.

    Of several requests some may have been lost, and what came further was where it came through.
    """
    for name in _OUTCOMES:
        if fate & _BITS[name]:
            others = sum(_BITS[other] for other in _OUTCOMES if other != name)
            fate &= ~others
            break
    if fate & (_BITS["accepted"] | _BITS["reset"]):
        fate |= _BITS["arrived"]
    if fate & _BITS["connected"] and fate & _BITS["taken"]:
        fate &= ~(_BITS["arrived"] | _BITS["accepted"] | _BITS["reset"])
    if fate & (_BITS["arrived"] | _BITS["connected"] | _BITS["refused"] | _BITS["icmp"]):
        fate &= ~_BITS["left"]
    return fate


def unsettled(sweep: Sweep) -> list[int]:
    """Return the ports of which another request may show more: what was sent may have been lost.

    Silence is certain where a request is known to have come and nothing to have been said.
    """
    silent, arrived = _BITS["silent"], _BITS["arrived"]
    answers = _BITS["accepted"] | _BITS["reset"]
    return [
        port
        for port, fate in sweep.fates.items()
        if fate & silent and (not fate & arrived or fate & answers)
    ]


def check(swept: Swept) -> None:
    """Raise `ProtocolError` where one of the sets is no set of ports."""
    for packed in swept.sets.values():
        unpack_ports(packed, MAX_WAVE)


def answered(swept: Swept | None) -> frozenset[int]:
    """Return the ports where the other side says that something answered."""
    sets = swept.sets if swept is not None else {}
    packed = (sets[name] for name in ("accepted", "reset", "taken") if name in sets)
    return frozenset(port for part in packed for port in unpack_ports(part, MAX_WAVE))


def choose(sweep: Sweep, named: Collection[int]) -> list[int]:
    """Return the ports that are tested in depth: some of each fate, and the `named` ones."""
    chosen: dict[int, None] = dict.fromkeys(port for port in named if port in sweep.fates)
    chosen |= dict.fromkeys(sweep.spared()[:MAX_HELD])
    most = len(chosen) + MAX_STAND
    for ports in sweep.alike():
        if len(chosen) >= most:
            break
        last = len(ports) - 1
        places = dict.fromkeys(last * at // (STAND - 1) for at in range(STAND))
        chosen |= dict.fromkeys(ports[place] for place in places)
    return sorted(chosen)


def sweep_between(prober: Evidence, observer: Evidence) -> Sweep | None:
    """Return the sweep that the two evidences show in this direction."""
    rounds = prober.rounds or observer.rounds
    return sweep_of(rounds, prober.role, prober.swept, observer.swept)
