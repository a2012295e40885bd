"""The joint verdict of two runs that never met: `joint(source, destination)`.

Each side kept what it saw, alone (`evidence.Offline`). Here the two recordings are
laid beside each other (`alignment`), and two evidences are made of them as if the
two had met (`side_by_side`), which are judged like any others, by `judge`.

What is only an absence ("nothing arrived") needs both to have run at that time.
Where packets or bursts of the source were seen at the destination, that is
certain. Where nothing but two wall clocks says it, nothing that rests on it is
called proven. Where the recordings do not overlap, nobody is blamed.
"""

from __future__ import annotations

import hashlib

import msgspec
from msgspec.structs import fields, replace

from .alignment import BURSTS, CLOCKS, PACKETS, Alignment, align, is_finite
from .counted import MAX_JUDGED
from .errors import InputError, ProtocolError
from .evidence import Evidence, Listening
from .judge import combine, judge, lost_verdict
from .pairing import DESTINATION, SOURCE
from .plan import CONNECT, MAX_PROBES
from .ports import parse_ports
from .side_by_side import MAX_ROUNDS, Key, Pair, contact_alone, with_probes
from .verdict import Blocker, Check, Verdict
from .wire import pack

__all__ = ["Joint", "joint"]


MAX_KEYS = 32
"""Ports at addresses that are judged: as many as a source tries."""

MAX_RECORDS = 8000
"""Records of one kind in a file that are looked at, the newest ones: as many as a side keeps."""

MAX_STEPS = 60_000
MAX_COUNTERS = 64
"""Readings of the counters in a file, and counters in them: more than a side keeps."""


class Joint(msgspec.Struct, frozen=True):
    """What two recordings together say."""

    verdict: Verdict
    notes: tuple[str, ...]
    """How the two were put side by side, and what follows from that."""


def joint(source: Evidence, destination: Evidence) -> Joint:
    """Return the joint verdict of two saved evidences, in either order.

    Raises `ProtocolError` where they are not of the two roles, or hold what no side writes.
    """
    if source.role == DESTINATION:
        source, destination = destination, source
    if (source.role, destination.role) != (SOURCE, DESTINATION):
        raise ProtocolError("not the evidence of one source and one destination")
    if source.offline is None and destination.offline is None and source.session:
        if source.session != destination.session:
            raise ProtocolError("the evidence belongs to two different runs")
        return Joint(judge(source, destination), ())
    _check(source, destination)
    name = _name(source, destination)
    found = _joint(_bounded(source), _bounded(destination))
    return Joint(replace(found.verdict, verdict_id=name), found.notes)


def _joint(source: Evidence, destination: Evidence) -> Joint:
    if source.offline is None or destination.offline is None:
        return _apart(source, destination, (_MET,))
    keys, note = _keys(source, destination)
    if not keys:
        return _apart(source, destination, (note,))
    found = align(source, destination)
    notes = (note,) if note else ()
    if found is None:
        return _apart(source, destination, (*notes, _NO_CLOCK))
    pair = Pair.make(source, destination, found, keys)
    if pair is None:
        return _apart(source, destination, (*notes, _no_overlap(source, destination, found)))
    return _judged(source, destination, pair, notes)


_MET = (
    "One of the two recordings is of a run in which the two sides met, and the other is not. They "
    "do not belong together."
)
_AGAIN = "Start both again, so that they run at the same time."
_NO_CLOCK = (
    "Whether the two runs overlapped cannot be told: nothing of the source was seen at the "
    f"destination, and a clock was set or a computer slept meanwhile. {_AGAIN}"
)
_BY = {
    PACKETS: "The two recordings were put side by side by connections that both hold.",
    BURSTS: "The two recordings were put side by side by the source's coded bursts, which the "
    "destination's counters show.",
    CLOCKS: "Nothing of the source was seen at the destination. That both ran at the same time "
    "rests on the clocks of the two computers: where one of them is wrong, so may this be.",
}


def _check(source: Evidence, destination: Evidence) -> None:
    try:
        for text in destination.ports:
            parse_ports(text)
    except InputError as error:
        raise ProtocolError("an evidence with ports that are none") from error
    for one in (source, destination):
        kept = one.offline
        counted = None if kept is None else kept.counted
        if counted and max(len(counted.steps) - MAX_STEPS, len(counted.values) - MAX_COUNTERS) > 0:
            raise ProtocolError("an evidence with more readings than a side keeps")
        if kept is not None and not (
            is_finite(kept.lasted, kept.sightings_since, kept.connections_since)
            and is_finite(*(() if kept.wall is None else (kept.wall / 1000,)))
        ):
            raise ProtocolError("an evidence with times that are none")


def _bounded(side: Evidence) -> Evidence:
    """The evidence with no more records than a side keeps, so that no judge has to try for long."""
    values = {field.name: getattr(side, field.name) for field in fields(side)}
    cut = {name: value[-MAX_RECORDS:] for name, value in values.items() if isinstance(value, tuple)}
    facts = replace(
        side.facts,
        addresses=side.facts.addresses[:MAX_ADDRESSES],
        hardware=side.facts.hardware[:MAX_ADDRESSES],
    )
    return replace(side, **(cut | {"facts": facts, "targets": side.targets[:MAX_KEYS]}))


MAX_ADDRESSES = 1000
"""Addresses of a host that are looked at."""


def _keys(source: Evidence, destination: Evidence) -> tuple[list[Key], str]:
    """What the source tried and the destination watched; and a note where that differs."""
    tried = dict.fromkeys(
        (p.transport, p.address, p.port)
        for plan in source.rounds[-2 * MAX_ROUNDS :]
        if plan.kind == CONNECT
        for p in plan.probes[:MAX_PROBES]
    )
    wanted = [part for text in destination.ports for part in parse_ports(text)]
    keys = [
        key for key in tried if any(part.transport == key[0] and key[2] in part for part in wanted)
    ][:MAX_KEYS]
    if len(keys) == len(tried) and keys:
        return keys, ""
    if not tried:
        return [], f"The source had no address to try: give it --peer or --target. {_AGAIN}"
    here = ", ".join(sorted({str(key[2]) for key in tried}))[:100]
    there = ", ".join(destination.ports)[:100]
    note = (
        f"The source tried port {here}, and the destination watched {there}. Give the source the "
        "destination's ports with --ports."
    )
    return keys, note


def _no_overlap(source: Evidence, destination: Evidence, found: Alignment) -> str:
    """Say that the two did not overlap, by how much, and what to do."""
    if source.offline is None or destination.offline is None:
        return _MET
    offset = found.offset(0.0)
    ends, begins = source.offline.lasted + offset, offset
    if ends <= 0:
        how = f"the source's ended {_span(-ends)} before the destination's began"
    elif begins >= destination.offline.lasted:
        late = begins - destination.offline.lasted
        how = f"the destination's ended {_span(late)} before the source's began"
    else:
        return (
            "The two runs overlapped for too short a time, or what was kept of them does not "
            f"overlap. {_AGAIN}"
        )
    by = ", by the clocks of the two computers" if found.how == CLOCKS else ""
    return f"The two runs did not overlap: {how}{by}. {_AGAIN}"


def _span(seconds: float) -> str:
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"


# -- the verdict


def _judged(source: Evidence, destination: Evidence, pair: Pair, notes: tuple[str, ...]) -> Joint:
    verdict = judge(pair.source, pair.destination)
    notes = (*notes, _BY[pair.how.how])
    if pair.how.how == CLOCKS:
        wrong = [side.role for side in (source, destination) if not _kept_right(side)]
        if wrong:
            notes = (*notes, _UNKEPT.format(" and ".join(f"the {role}'s" for role in wrong)))
        verdict = _hedged(verdict, pair, trusted=not wrong)
    return Joint(verdict, notes)


_UNKEPT = (
    "By its own system {} clock is not kept right, so nobody is blamed. Set the clocks (NTP), or "
    "run both as root where that was not so, and start both again."
)


def _kept_right(side: Evidence) -> bool:
    return side.offline is not None and side.offline.kept_right is not False


def _blind(destination: Evidence) -> Evidence:
    """The destination as if it had seen nothing of the network, only itself."""
    return replace(
        destination,
        sightings=(),
        acceptances=(),
        connections=(),
        samples=(),
        witnesses=tuple(replace(one, available=False) for one in destination.witnesses),
    )


def _hedged(verdict: Verdict, pair: Pair, *, trusted: bool) -> Verdict:
    """The verdict, and nothing proven in it but what is so without the other side's silence.

    Where the clocks are not to be trusted either, that is no more than a candidate.
    """
    alone = judge(pair.source, _blind(pair.destination))
    sure = {
        (check.transport, check.address, blocker.code)
        for check in alone.checks
        for blocker in check.blockers
        if blocker.confidence == "proven"
    }
    explained = lost_verdict(pair.source, "").candidates

    def known(check: Check, blocker: Blocker) -> bool:
        return (check.transport, check.address, blocker.code) in sure

    def lowered(check: Check) -> Check:
        if check.blockers and all(known(check, blocker) for blocker in check.blockers):
            return check
        if trusted:
            return replace(
                check,
                blockers=tuple(
                    b
                    if known(check, b)
                    else replace(b, confidence="likely", because=(*b.because, _BY[CLOCKS]))
                    for b in check.blockers
                ),
            )
        return replace(
            check,
            status="undetermined",
            blockers=(),
            candidates=tuple(dict.fromkeys((*check.candidates, *explained))),
            next_step=check.next_step or _AGAIN,
            segments=tuple(replace(part, status="unknown", because=()) for part in check.segments),
        )

    return combine([lowered(check) for check in verdict.checks])


def _apart(source: Evidence, destination: Evidence, notes: tuple[str, ...]) -> Joint:
    """What may be said where the two cannot be put side by side: no blame."""
    alone = replace(source, bursts=source.bursts[-MAX_JUDGED:], attempts=source.attempts[-100:])
    verdict = lost_verdict(alone, notes[-1])
    of_service = _service_candidates(source, destination)
    checks = tuple(
        replace(
            check,
            candidates=tuple(dict.fromkeys((*check.candidates, *of_service))),
            next_step=_AGAIN,
        )
        for check in verdict.checks[:MAX_KEYS]
    )
    candidates = tuple(dict.fromkeys(c for check in checks for c in check.candidates))
    verdict = replace(
        verdict,
        candidates=(*_unnamed(source), *(candidates or of_service)),
        checks=checks,
    )
    return Joint(verdict, notes)


def _unnamed(source: Evidence) -> tuple[str, ...]:
    return ("source.name",) if any(not target.addresses for target in source.targets) else ()


def _service_candidates(source: Evidence, destination: Evidence) -> tuple[str, ...]:
    """What the destination's own state would explain, if it was so at the other time, too."""
    kept = destination.offline
    rows = () if kept is None else kept.listening
    last = rows[-1] if rows else Listening(at=0.0)
    keys, _ = _keys(source, destination)
    there = replace(
        destination,
        session=b"",
        both_ways=False,
        contact=contact_alone(destination.contact),
        listeners=last.listeners,
        own_listeners=last.own_listeners,
        service_listeners=last.service_listeners,
        service_runs=last.service_runs,
        sightings=(),
        acceptances=(),
        connections=(),
        samples=(),
        offline=None,
    )
    rounds = with_probes(source.rounds[-2 * MAX_ROUNDS :], keys)
    numbers = {plan.number for plan in rounds}
    here = replace(
        source,
        session=b"",
        both_ways=False,
        rounds=rounds,
        attempts=tuple(
            a
            for a in source.attempts[-1000:]
            if a.round in numbers and (a.transport, a.address, a.port) in keys
        ),
        sightings=(),
        bursts=(),
        samples=(),
        offline=None,
    )
    verdict = judge(here, there)
    return tuple(c for c in verdict.candidates if c.startswith("service."))


def _name(source: Evidence, destination: Evidence) -> str:
    return hashlib.sha256(pack(source) + pack(destination)).hexdigest()[:32]
