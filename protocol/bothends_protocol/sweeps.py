"""Sweeps: what became of one request to each of many ports, and which ports fared alike.

Each side says in sets of ports what it did and saw (`evidence.Swept`). Put
together they are the **fate** of each port, a few bits. Ports of one fate are
told apart by nothing that anybody saw, so a few of them are tested in depth
(`choose`). They stand for the others where it was seen of each how far its
request got (`Sweep.placed`), and as long as they agree (`spread`).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence

import msgspec

from .errors import ProtocolError
from .evidence import Evidence, RoundPlan, Swept
from .plan import MAX_WAVE, SWEEP, swept_ports, well_formed
from .ports import MAX_PORT, unpack_ports

__all__ = [
    "MAX_LOSSY_SWEEPS",
    "MAX_SWEEPS",
    "Sweep",
    "answered",
    "between",
    "check",
    "choose",
    "sample",
    "sweep_between",
    "sweep_of",
    "unsettled",
]

MAX_SWEEPS = 3
"""Requests to each port of a sweep at most: on a clean way silence of three is no accident."""

MAX_LOSSY_SWEEPS = 6
"""The same where packets are lost: at 20 % each way one in 500 ports stays silent by accident."""

STAND = 3
"""Ports of one fate that are tested in depth: the first, the last, and one between."""

MAX_STAND = 48
"""The same of all fates together, the largest first."""

CUTS = 7
"""Ports tried at once between two that fared differently: of 64 between them two rounds of it leave
none."""

MAX_HELD = 64
"""Ports of programs that get no request of a sweep, but are tested in depth each; a host with more
of them is swept all the same."""

_OUTCOMES = ("connected", "refused", "icmp", "failed", "silent")
_SEEN = ("left", "returned", "arrived", "accepted", "reset", "own", "taken", "pending", "held")
_BITS = {name: 1 << at for at, name in enumerate((*_OUTCOMES, *_SEEN))}
_ANY_OUTCOME = sum(_BITS[name] for name in _OUTCOMES)


class Sweep(msgspec.Struct, frozen=True):
    """The fates of the ports that were swept at one address."""

    address: str
    fates: dict[int, int]
    sent_seen: bool
    """Whether the packets of who sent were seen; `came_seen`: those that came to the other side."""
    came_seen: bool
    whole: bool = True
    """Whether no packet escaped those who watched: what they did not see was not there."""
    late: float = 0.0
    """Of the ports that answered, the share that stayed silent at least once before."""

    @property
    def loses(self) -> bool:
        """Whether a port that stayed silent answered another time."""
        return self.late > 0.0

    @property
    def refused_by_icmp(self) -> bool:
        """Whether any port was: who does so may say no more than a word a second."""
        return any(fate & _BITS["icmp"] for fate in self.fates.values())

    def outcome(self, port: int) -> str:
        """Return what the sender met at the port, as in `evidence.Swept`; empty where nothing."""
        fate = self.fates[port]
        return next((name for name in _OUTCOMES if fate & _BITS[name]), "")

    def placed(self, port: int) -> bool:
        """Whether it was seen of this very port how far its request got, and its answer.

        Then others of the same fate met the same. Not so behind a program, which does with each
        connection what it likes; nor where packets are lost, since three lost ones look as if
        something stopped them between the hosts.
        """
        fate = self.fates[port]
        if fate & (_BITS["held"] | _BITS["failed"]):
            return False
        if fate & _BITS["taken"] or not self.came_seen:
            return bool(fate & _BITS["taken"])
        if fate & _BITS["reset"]:
            # Only where the agent listened it is no closed port that says so.
            return bool(fate & _BITS["own"] and fate & _BITS["refused"])
        if fate & _BITS["arrived"] and not fate & _BITS["accepted"]:
            return True
        kept = not fate & (_BITS["arrived"] | _BITS["left"])
        return self.sent_seen and self.whole and (kept or not self.loses)

    def answered(self, port: int) -> bool:
        """Whether something answered the sender, and not by ICMP."""
        return self.outcome(port) in ("connected", "refused")

    def taken(self, port: int) -> bool:
        """Whether the agent on the other side took a connection there."""
        return bool(self.fates[port] & _BITS["taken"])

    def held(self, port: int) -> bool:
        """Whether a program listens on the port."""
        return bool(self.fates[port] & _BITS["held"])

    def free(self, port: int) -> bool:
        """Whether no program listens on the port, since the agent itself did."""
        return bool(self.fates[port] & _BITS["own"])

    def differ(self, one: int, other: int) -> bool:
        """Whether two ports fared differently, as far as it was seen of each."""
        return bool((self.fates[one] ^ self.fates[other]) & ~_BITS["pending"])

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

    `sent` are the records of who sent, `came` those of the other side. Raises `ProtocolError`
    where they are none that an agent writes.
    """
    mine = {r.number: r for r in rounds if r.kind == SWEEP and r.prober == prober}
    if not mine or not any(part.round in mine for part in sent):
        return None
    asked = {number: swept_ports(plan) for number, plan in mine.items() if well_formed(plan)}
    if len(asked) < len(mine) or sum(map(len, asked.values())) > MAX_LOSSY_SWEEPS * MAX_PORT:
        raise ProtocolError("sweeps that no agent makes")
    parts = [[part for part in side if part.round in mine] for side in (sent, came)]
    for side in parts:
        if len({part.round for part in side}) < len(side):
            raise ProtocolError("a round of a sweep that is told twice")
    fates = dict.fromkeys((port for ports in asked.values() for port in ports), 0)
    for part in (*parts[0], *parts[1]):
        for name, packed in part.sets.items():
            bit = _BITS.get(name, 0)
            for port in unpack_ports(packed, MAX_WAVE) if bit else ():
                if port in fates:
                    fates[port] |= bit
    answers = _BITS["connected"] | _BITS["refused"]
    answering = [fate for fate in fates.values() if fate & answers]
    late = sum(bool(fate & _BITS["silent"]) for fate in answering)
    return Sweep(
        address=next(iter(mine.values())).probes[0].address,
        fates={
            port: _plain(fate)
            for port, fate in fates.items()
            if fate & (_ANY_OUTCOME | _BITS["held"])
        },
        sent_seen=all("left" in part.sets for part in parts[0]),
        came_seen=bool(parts[1]) and all("arrived" in part.sets for part in parts[1]),
        late=late / len(answering) if answering else 0.0,
    )


def _plain(fate: int) -> int:
    """Leave of a fate what tells most.

    Of several requests some may have been lost, and what came further was where it came through.
    """
    for name in _OUTCOMES:
        if fate & _BITS[name]:
            fate &= ~(_ANY_OUTCOME - _BITS[name])
            break
    if fate & (_BITS["accepted"] | _BITS["reset"]):
        fate |= _BITS["arrived"]
        fate &= ~_BITS["pending"]
    if fate & _BITS["arrived"]:
        fate &= ~_BITS["left"]
    if fate & _BITS["connected"]:
        further = ("left", "returned", "accepted", "reset", "pending")
        fate &= ~sum(_BITS[name] for name in further)
        fate &= ~(_BITS["arrived"] if fate & _BITS["taken"] else 0)
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


def sample(wanted: Sequence[int], most: int, held: Iterable[int] = ()) -> list[int]:
    """Return `most` of the ports `wanted` at most, evenly spaced, and beside them those `held`.

    The first and the last are among them.
    """
    step = max(1, -(-len(wanted) // max(1, most - 1)))
    known = set(wanted)
    programs = [port for port in sorted(held) if port in known][:MAX_HELD]
    return sorted({*wanted[::step], *wanted[-1:], *programs})


def between(sweep: Sweep, wanted: Sequence[int], most: int) -> list[int]:
    """Return `most` ports at most that show where, of those not tried, the fates change.

    They lie between two ports that were tried and fared differently.
    """
    place = {port: index for index, port in enumerate(wanted)}
    tried = [port for port in sorted(sweep.fates) if port in place and not sweep.held(port)]
    found: dict[int, None] = {}
    for low, high in itertools.pairwise(tried):
        first, last = place[low], place[high]
        if last - first < 2 or not sweep.differ(low, high):
            continue
        step = max(1, (last - first) // (CUTS + 1))
        inner = range(first + step, last, step)
        found |= dict.fromkeys(wanted[at] for at in inner)
    return [port for port in found if port not in sweep.fates][:most]


def choose(sweep: Sweep, named: Collection[int], *, seeks: bool = False) -> list[int]:
    """Return the ports that are tested in depth: some of each fate, and the `named` ones.

    Those of programs, too, but where a free one is sought (`seeks`).
    """
    chosen: dict[int, None] = dict.fromkeys(port for port in named if port in sweep.fates)
    chosen |= {} if seeks else dict.fromkeys(sweep.spared()[:MAX_HELD])
    most = len(chosen) + MAX_STAND
    for ports in sweep.alike():
        if len(chosen) >= most:
            break
        if seeks and sweep.held(ports[0]):
            continue
        last = len(ports) - 1
        places = sorted({last * at // (STAND - 1) for at in range(STAND)})
        chosen |= dict.fromkeys(ports[place] for place in places)
    return sorted(chosen)


def sweep_between(prober: Evidence, observer: Evidence) -> Sweep | None:
    """Return the sweep that the two evidences show in this direction.

    Raises `ProtocolError` where they hold one that no agent makes.
    """
    rounds = prober.rounds or observer.rounds
    found = sweep_of(rounds, prober.role, prober.swept, observer.swept)
    if found is None:
        return None
    seen = [w for side in (prober, observer) for w in side.witnesses if w.name == "packets"]
    return msgspec.structs.replace(found, whole=not any(witness.lost for witness in seen))
