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

LEAST_COUNTED = 128
"""Ports of a wave for which counters are asked: of fewer, others' packets hide too much."""

OTHERS = 40
"""Packets of others in the time of a wave, the contact's own among them: beyond that the counters
are not believed."""

FINE_WAVE = 1024
"""Ports of a wave that is sent for the counters' sake: a filter's range is seldom smaller."""

_OUTCOMES = ("connected", "refused", "icmp", "failed", "silent")
_SEEN = ("left", "returned", "arrived", "accepted", "reset", "own", "taken", "pending", "held")
_COUNTED = ("kept", "let in", "came", "did not come", "sent", "not sent")
"""What counters say of a whole wave: that all requests came to the host and none, or each, was
handed on; that none came; that all left the sender, or none."""
_BITS = {name: 1 << at for at, name in enumerate((*_OUTCOMES, *_SEEN, *_COUNTED))}
_TOLD = sum(_BITS[name] for name in (*_OUTCOMES, "held"))
"""Without any of these a port got no request, and nobody says why."""


class Sweep(msgspec.Struct, frozen=True):
    """The fates of the ports that were swept at one address."""

    address: str
    fates: dict[int, int]
    came_seen: bool
    """Whether the packets were seen that came."""

    @property
    def refused_by_icmp(self) -> bool:
        """Whether any port was: who does so may say no more than a word a second."""
        return any(fate & _BITS["icmp"] for fate in self.fates.values())

    def outcome(self, port: int) -> str:
        """Return what the sender met at the port, as in `evidence.Swept`; empty where nothing."""
        fate = self.fates[port]
        return next((name for name in _OUTCOMES if fate & _BITS[name]), "")

    def placed(self, port: int) -> bool:
        """Whether it is known of this very port how far its request got.

        By the packets; since the other agent itself took the connection; or by counters.
        """
        known = sum(_BITS[name] for name in ("taken", "kept", "let in", "did not come"))
        return self.came_seen or bool(self.fates[port] & known)

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
    came_seen = bool(came) and all("arrived" in s.sets for s in came)
    fates = dict.fromkeys((port for r in mine for port in swept_ports(r)), 0)
    for part in (*sent, *came):
        for name, packed in part.sets.items():
            bit = _BITS[name] if name in _OUTCOMES or name in _SEEN else 0
            for port in unpack_ports(packed, MAX_WAVE) if bit else ():
                if port in fates:
                    fates[port] |= bit
    for plan in () if came_seen else mine:
        ports, bits = _by_counters(
            next((s for s in sent if s.round == plan.number), None),
            next((s for s in came if s.round == plan.number), None),
        )
        for port in ports:
            fates[port] |= bits
    return Sweep(
        address=mine[0].probes[0].address,
        fates={port: _plain(fate) for port, fate in fates.items() if fate & _TOLD},
        came_seen=came_seen,
    )


def _by_counters(sent: Swept | None, came: Swept | None) -> tuple[tuple[int, ...], int]:
    """Return the ports of a wave, and what the counters of both sides say of all of them.

    Only of a wave of which nothing came through: each request is then one packet. All of them
    came where at least as many did, and hardly any more.
    """
    if sent is None or came is None:
        return (), 0
    sets = {name: unpack_ports(packed, MAX_WAVE) for name, packed in sent.sets.items()}
    ports = (*sets.get("silent", ()), *sets.get("refused", ()), *sets.get("icmp", ()))
    count = len(ports)
    if count < LEAST_COUNTED or sets.get("connected") or sets.get("failed"):
        return (), 0
    received, delivered = came.counts.get("received"), came.counts.get("delivered")
    bits = 0
    if received is not None and delivered is not None:
        if count <= received <= count + OTHERS:
            bits |= _BITS["came"]
            bits |= _BITS["kept"] if delivered <= OTHERS else 0
            bits |= _BITS["let in"] if delivered >= count else 0
        elif received <= OTHERS:
            bits |= _BITS["did not come"]
    transmitted = sent.counts.get("transmitted")
    if transmitted is not None:
        bits |= _BITS["sent"] if count <= transmitted <= count + OTHERS else 0
        bits |= _BITS["not sent"] if transmitted <= OTHERS else 0
    return ports, bits


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
        fate &= ~_BITS["pending"]
    if fate & _BITS["arrived"]:
        fate &= ~_BITS["left"]
    if fate & _BITS["connected"]:
        came = ("left", "returned", "accepted", "reset", "pending", *_COUNTED)
        fate &= ~sum(_BITS[name] for name in came)
        fate &= ~(_BITS["arrived"] if fate & _BITS["taken"] else 0)
    return fate


def unsettled(sweep: Sweep) -> list[int]:
    """Return the ports of which another request may show more: what was sent may have been lost.

    Silence is certain where a request is known to have come and nothing to have been said.
    """
    arrived, answers = _BITS["arrived"], _BITS["accepted"] | _BITS["reset"]
    told = arrived if sweep.came_seen else _BITS["kept"] | _BITS["let in"]
    asked = _BITS["silent"] | (0 if sweep.came_seen else _BITS["refused"])
    found = [
        port
        for port, fate in sweep.fates.items()
        if fate & asked and (not fate & told or (fate & arrived and fate & answers))
    ]
    # Of one wave the counters tell only where all of it fares alike.
    return sorted(found, key=lambda port: (sweep.outcome(port), port))


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
        # Coded bursts, which it takes where no packets are seen, are few.
        lone = not sweep.came_seen and sweep.outcome(ports[0]) != "connected"
        places = {last // 2} if lone else {last * at // (STAND - 1) for at in range(STAND)}
        chosen |= dict.fromkeys(ports[place] for place in sorted(places))
    return sorted(chosen)


def sweep_between(prober: Evidence, observer: Evidence) -> Sweep | None:
    """Return the sweep that the two evidences show in this direction."""
    rounds = prober.rounds or observer.rounds
    return sweep_of(rounds, prober.role, prober.swept, observer.swept)
