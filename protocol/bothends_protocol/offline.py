"""The joint verdict of two runs that never met: `joint(source, destination)`.

Each side kept what it saw, alone (`evidence.Offline`). Here the two recordings are
put side by side (`alignment`), and two evidences are made of them as if the two
had met: rounds that both know, readings cut to the bursts, rows given to the
attempts that they belong to. Those are judged like any others, by `judge`.

What is only an absence ("nothing arrived") needs both to have run at that time.
Where packets or bursts of the source were seen at the destination, that is
certain. Where nothing but two wall clocks says it, nothing that rests on it is
called proven. Where the recordings do not overlap, nobody is blamed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from msgspec.structs import replace

from .addresses import bare
from .alignment import (
    BURSTS,
    CLOCKS,
    GAP_SECONDS,
    PACKETS,
    WINDOW_SECONDS,
    WINDOWS,
    Alignment,
    align,
    is_finite,
)
from .bursts import WINDOW_SECONDS as JUDGED_WINDOW
from .counted import MAX_JUDGED
from .errors import InputError, ProtocolError
from .evidence import (
    Burst,
    Connection,
    ContactFacts,
    Counted,
    Evidence,
    Listening,
    RoundPlan,
    Samples,
    Sighting,
    Witness,
)
from .judge import combine, judge, lost_verdict
from .pairing import DESTINATION, SOURCE
from .plan import BURST, CONNECT, MAX_PROBES
from .ports import parse_ports
from .verdict import Blocker, Check, Verdict
from .wire import pack

__all__ = ["HOLD_SECONDS", "Joint", "joint"]

HOLD_SECONDS = 1.2
"""How long a source that stands alone keeps its connections open: longer than a destination that
stands alone takes from one look at its socket table to the next."""

MAX_ROUNDS = 8
"""Rounds of connects that are judged, the newest ones: three attempts in each make 24, more than
loss can explain (`plan.CERTAIN`), and what has changed since the beginning is not mixed in."""

MAX_KEYS = 64
"""Ports at addresses that are judged."""

MAX_NEAR = 4000
"""Sightings of each side about the judged rounds that are looked at."""

_LATE = 3.0
"""Seconds at the end of a recording, in which what was begun may not have been written down."""
_EARLY = 1.0
"""Seconds at the beginning, before all witnesses are there."""

_SLOWER = WINDOW_SECONDS / JUDGED_WINDOW
"""Bursts of a source that stands alone are slower by this. Their times are divided by it, so that
they look like the others to whom judges them."""

_GRID = 0.024
"""Seconds between the readings that are made of those that were kept. They were 20 ms apart at
least, and halves of a window cannot be told from them."""

_AROUND = 0.4
"""Seconds around a burst of which readings are cut out, beside what the clocks may be wrong by."""

_PROMPT_SECONDS = 0.3
_PROMPT = 3
"""A card that counts so often within so short a time counts at once: some do once a second."""


@dataclass(frozen=True)
class Joint:
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
    if source.offline is None or destination.offline is None:
        return _apart(source, destination, (_MET,))
    keys, note = _keys(source, destination)
    if not keys:
        return _apart(source, destination, (note,))
    found = align(source, destination)
    notes = (note,) if note else ()
    if found is None:
        return _apart(source, destination, (*notes, _NO_CLOCK))
    pair = _Pair.make(source, destination, found, keys)
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
        if kept is not None and not (
            is_finite(kept.lasted, kept.sightings_since, kept.connections_since)
            and is_finite(*(() if kept.wall is None else (kept.wall / 1000,)))
        ):
            raise ProtocolError("an evidence with times that are none")


_Key = tuple[str, str, int]


def _keys(source: Evidence, destination: Evidence) -> tuple[list[_Key], str]:
    """What the source tried and the destination watched; and a note where that differs."""
    tried = dict.fromkeys(
        (p.transport, p.address, p.port)
        for plan in source.rounds
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


# -- as if the two had met


@dataclass(frozen=True)
class _Pair:
    """Two evidences as if the two had met, and how that was made."""

    source: Evidence
    destination: Evidence
    how: Alignment

    @classmethod
    def make(
        cls, source: Evidence, destination: Evidence, how: Alignment, keys: Sequence[_Key]
    ) -> _Pair | None:
        """Return the pair, None where no round of connects lies in both recordings."""
        span = _Span.of(source, destination, how)
        listening = span.listening
        rounds = _rounds(source, span, keys)
        if listening is not None:
            # What was before somebody began to listen, or ceased to, is another story.
            rounds = [plan for plan in rounds if span.holds(plan, source)] or rounds[-1:]
        if not rounds:
            return None
        numbers = {plan.number for plan in rounds}
        attempts = [
            a
            for a in source.attempts
            if a.round in numbers and (a.transport, a.address, a.port) in set(keys)
        ]
        if not attempts:
            return None
        begins = min(a.started for a in attempts if is_finite(a.started))
        bursts = _bursts(source, destination, span, begins, keys)
        plans = (*rounds, *(plan for plan, _, _, _ in bursts))
        last = attempts[-1]
        near = [s for s in source.sightings if is_finite(s.at) and begins - 1 <= s.at][-MAX_NEAR:]
        opener = replace(
            source,
            session=b"",
            both_ways=False,
            contact=_contact(source.contact, local=last.local_address),
            rounds=plans,
            attempts=tuple(attempts),
            sightings=tuple(near),
            bursts=tuple(burst for _, burst, _, _ in bursts),
            samples=tuple(here for _, _, here, _ in bursts if here is not None),
            offline=None,
        )
        taker = _taker(destination, opener, span, plans, bursts)
        return cls(opener, taker, how)


@dataclass(frozen=True)
class _Span:
    """The time that lies in both recordings, on the source's clock."""

    how: Alignment
    begins: float
    ends: float
    """What was begun between the two was seen to its end by all witnesses of the destination."""
    listening: Listening | None
    """Who listened at the end of it."""

    @classmethod
    def of(cls, source: Evidence, destination: Evidence, how: Alignment) -> _Span:
        here, there = source.offline, destination.offline
        if here is None or there is None:
            return cls(how, 0.0, 0.0, None)
        since = max(there.sightings_since, there.connections_since, 0.0)
        counted = there.counted
        if counted is not None and is_finite(counted.began):
            since = max(since, counted.began)
        # The offset is asked for where it matters: at the ends of the recordings.
        first = since - how.offset(since - how.offset(0.0))
        last = there.lasted - how.offset(there.lasted - how.offset(here.lasted))
        begins = max(0.0, first + how.error(first)) + _EARLY
        ends = min(here.lasted, last - how.error(last)) - _LATE
        at_end = ends + how.offset(ends)
        rows = [row for row in there.listening if is_finite(row.at) and row.at <= at_end]
        return cls(how, begins, ends, rows[-1] if rows else None)

    def holds(self, plan: RoundPlan, source: Evidence) -> bool:
        """Whether who listened at the end did so when `plan` began, too."""
        began = next((a.started for a in source.attempts if a.round == plan.number), None)
        if began is None or self.listening is None:
            return False
        return began + self.how.offset(began) > self.listening.at


def _rounds(source: Evidence, span: _Span, keys: Sequence[_Key]) -> list[RoundPlan]:
    """The newest rounds of connects that lie in both recordings."""
    wanted = set(keys)
    times: dict[int, list[float]] = {}
    for attempt in source.attempts:
        times.setdefault(attempt.round, []).append(attempt.started)
    fitting = []
    for plan in source.rounds:
        began = times.get(plan.number, [])
        if plan.kind != CONNECT or not began or not is_finite(*began):
            continue
        probes = [p for p in plan.probes if (p.transport, p.address, p.port) in wanted]
        if probes and span.begins <= min(began) and max(began) <= span.ends:
            fitting.append(replace(plan, probes=tuple(probes), prober=SOURCE))
    return fitting[-MAX_ROUNDS:]


def _contact(kept: ContactFacts, *, local: str = "", remote: str = "") -> ContactFacts:
    return replace(kept, path="offline", local=local, remote=remote, rtt=0.0, proven=())


_Cut = tuple[RoundPlan, Burst, Samples | None, Samples | None]
"""A burst: its plan, what was sent, and the readings of both sides about it."""


def _bursts(
    source: Evidence, destination: Evidence, span: _Span, since: float, keys: Sequence[_Key]
) -> list[_Cut]:
    """The newest bursts at each port that both sides' readings cover."""
    plans = {plan.number: plan for plan in source.rounds if plan.kind == BURST}
    wanted, made = set(keys), Counter[_Key]()
    cut: list[_Cut] = []
    samples = {s.round: s for s in source.samples}
    counted = None if destination.offline is None else destination.offline.counted
    for burst in reversed(source.bursts):
        key = (burst.transport, burst.address, burst.port)
        plan = plans.get(burst.round)
        if plan is None or key not in wanted or made[key] >= MAX_JUDGED or not _usable(burst):
            continue
        mark = burst.started or 0.0
        if not max(span.begins, since) <= mark <= span.ends:
            continue
        offset, error = span.how.offset(mark), span.how.error(mark)
        there = None if counted is None else _slice(counted, mark + offset, error, burst.round)
        if counted is not None and there is None:
            continue
        made[key] += 1
        here = samples.get(burst.round)
        cut.append((plan, _faster(burst), None if here is None else _fast(here), there))
    return cut[::-1]


def _usable(burst: Burst) -> bool:
    return (
        burst.started is not None
        and is_finite(burst.started)
        and 0 < len(burst.sends) <= 1000
        and is_finite(*burst.sends)
    )


def _faster(burst: Burst) -> Burst:
    return replace(burst, sends=tuple(at / _SLOWER for at in burst.sends), started=None)


def _fast(samples: Samples) -> Samples:
    return replace(samples, times=tuple(at / _SLOWER for at in samples.times))


def _slice(counted: Counted, mark: float, error: float, number: int) -> Samples | None:
    """The readings around the burst at `mark`, None where some are missing.

    They are made anew at even distances: what was left out is what did not move.
    """
    begins = mark - _AROUND - error
    ends = mark + WINDOWS * WINDOW_SECONDS + _AROUND + error
    part = _moving(counted, begins, ends)
    if part is None:
        return None
    times, first, last = part
    count = int((ends - begins) / _GRID) + 1
    grid = [begins + place * _GRID for place in range(count)]
    values = {}
    for name, moved in counted.values.items():
        readings = [0]
        for more in moved[first:last] if moved else (0,) * (last - first):
            readings.append(readings[-1] + more)
        values[name] = tuple(_at(grid, times, readings))
    return Samples(
        round=number,
        times=tuple(round((at - mark) / _SLOWER, 6) for at in grid),
        values=values,
        prompt=tuple(way for way in ("rx", "tx") if _prompt(counted, f"dev.{way}")),
    )


def _moving(counted: Counted, begins: float, ends: float) -> tuple[list[float], int, int] | None:
    """The times of the readings about a span, and which of the steps lie between them."""
    steps, at = counted.steps, counted.began
    if any(moved and len(moved) != len(steps) for moved in counted.values.values()):
        return None
    times = [at]
    for step in steps:
        if not 0 <= step < 1e12:
            return None
        at += step / 1000
        times.append(at)
    if times[0] > begins or times[-1] < ends:
        return None
    first = max(place for place, at in enumerate(times) if at <= begins)
    last = min(place for place, at in enumerate(times) if at >= ends)
    for place in range(first, last):
        still = all(not moved or not moved[place] for moved in counted.values.values())
        if not still and times[place + 1] - times[place] >= GAP_SECONDS:
            return None
    return times[first : last + 1], first, last


def _at(grid: Sequence[float], times: Sequence[float], readings: Sequence[int]) -> Iterable[int]:
    """The readings at the times of `grid`: whole packets, on straight lines between."""
    place = 0
    for at in grid:
        while place < len(times) - 2 and times[place + 1] < at:
            place += 1
        wide = times[place + 1] - times[place]
        part = 0.0 if wide <= 0 else min(max((at - times[place]) / wide, 0.0), 1.0)
        yield round(readings[place] + part * (readings[place + 1] - readings[place]))


def _prompt(counted: Counted, name: str) -> bool:
    moved = counted.values.get(name, ())
    at, changes = 0.0, []
    for step, more in zip(counted.steps, moved, strict=False):
        at += step / 1000
        if more:
            changes.append(at)
    near = sum(0 < after - before < _PROMPT_SECONDS for before, after in pairwise(changes))
    return near >= _PROMPT


def _taker(
    destination: Evidence,
    opener: Evidence,
    span: _Span,
    plans: Sequence[RoundPlan],
    bursts: Sequence[_Cut],
) -> Evidence:
    """The destination's evidence as if it had known the rounds."""
    kept = destination.offline
    times = [a.started for a in opener.attempts]
    begins = min(times) + span.how.offset(min(times)) - 1 - span.how.error(min(times))
    ends = max(times) + span.how.offset(max(times)) + _LATE + span.how.error(max(times))
    near = [s for s in destination.sightings if is_finite(s.at) and begins <= s.at <= ends]
    rows, strangers = _given(destination, opener, span, (begins, ends))
    foreign = strangers or _foreign(near, opener, span.how)
    blind = kept is not None and any(begins <= at <= ends + 1 for at in kept.blind)
    witnesses = [
        _shaken(one)
        if (one.name == "packets" and (foreign or len(near) > MAX_NEAR))
        or (one.name == "sockets" and (strangers or blind))
        else one
        for one in destination.witnesses
    ]
    listening = span.listening
    mine = {bare(item.address) for item in opener.facts.addresses} | {bare(opener.contact.local)}
    remote = span.how.remote if span.how.remote not in mine else ""
    taken = [a for a in destination.acceptances if is_finite(a.at) and begins <= a.at <= ends]
    samples = [there for _, _, _, there in bursts if there is not None]
    counted = None if kept is None else kept.counted
    if counted is not None:
        samples += _ends(counted, opener, plans, span)
    return replace(
        destination,
        session=b"",
        both_ways=False,
        contact=_contact(destination.contact, remote=remote or opener.contact.local),
        rounds=tuple(plans),
        sightings=tuple(near[-MAX_NEAR:]),
        witnesses=tuple(witnesses),
        acceptances=tuple(taken[-MAX_NEAR:]),
        connections=tuple(rows),
        listeners=() if listening is None else listening.listeners,
        own_listeners=() if listening is None else listening.own_listeners,
        service_listeners=() if listening is None else listening.service_listeners,
        service_runs=None if listening is None else listening.service_runs,
        samples=tuple(samples),
        offline=None,
    )


def _shaken(witness: Witness) -> Witness:
    """The witness, whose silence proves nothing."""
    return replace(witness, lost=max(witness.lost, 1))


def _foreign(near: Iterable[Sighting], opener: Evidence, how: Alignment) -> bool:
    """Whether requests came that may be the source's own, changed on the way.

    Where something rewrites addresses and numbers nobody can tell them from a stranger's.
    """
    numbers = {s.seq for s in opener.sightings if s.way == "out" and s.flags == "S"}
    ports = {a.port for a in opener.attempts}
    mine = {bare(item.address) for item in opener.facts.addresses}
    mine |= {bare(a.local_address) for a in opener.attempts} | {how.remote}
    return any(
        s.way == "in"
        and s.flags == "S"
        and s.icmp is None
        and s.destination_port in ports
        and s.seq not in numbers
        and bare(s.source) not in mine
        for s in near
    )


def _given(
    destination: Evidence, opener: Evidence, span: _Span, near: tuple[float, float]
) -> tuple[list[Connection], bool]:
    """The rows that belong to attempts, each with its round; whether others began meanwhile."""
    by_port: dict[tuple[int, int], list[tuple[float, int, str]]] = {}
    for attempt in opener.attempts:
        place = attempt.started, attempt.round, bare(attempt.local_address)
        by_port.setdefault((attempt.local_port, attempt.port), []).append(place)
    ports = {attempt.port for attempt in opener.attempts}
    mine = {place[2] for places in by_port.values() for place in places}
    rows: list[Connection] = []
    strangers = False
    for row in destination.connections:
        if row.at is None or not is_finite(row.at) or row.local_port not in ports:
            continue
        remote = bare(row.remote_address)
        fitting = [
            number
            for started, number, local in by_port.get((row.remote_port, row.local_port), ())
            if local == remote
            and -1 <= row.at - started - span.how.offset(started) <= _LATE + span.how.slack
        ]
        if fitting:
            rows.append(replace(row, round=fitting[-1]))
        elif remote not in mine and row.state == "SYN_RECV" and near[0] <= row.at <= near[1]:
            strangers = True
    return rows, strangers


def _ends(
    counted: Counted, opener: Evidence, plans: Sequence[RoundPlan], span: _Span
) -> list[Samples]:
    """For each round of connects what the counters showed before it and after it."""
    found = []
    for plan in plans:
        times = [a.started for a in opener.attempts if a.round == plan.number]
        if not times or plan.kind != CONNECT:
            continue
        wide = span.how.error(min(times)) + 0.1
        begins = min(times) + span.how.offset(min(times)) - wide
        ends = max(times) + span.how.offset(max(times)) + wide
        part = _moving(counted, begins, ends)
        if part is None:
            continue
        _, first, last = part
        found.append(
            Samples(
                round=plan.number,
                times=(0.0, ends - begins),
                values={
                    name: (0, sum(moved[first:last])) for name, moved in counted.values.items()
                },
            )
        )
    return found


# -- the verdict


def _judged(source: Evidence, destination: Evidence, pair: _Pair, notes: tuple[str, ...]) -> Joint:
    verdict = judge(pair.source, pair.destination)
    notes = (*notes, _BY[pair.how.how])
    if pair.how.how == CLOCKS:
        wrong = [side.role for side in (source, destination) if not _kept_right(side)]
        if wrong:
            notes = (*notes, _UNKEPT.format(" and ".join(f"the {role}'s" for role in wrong)))
        verdict = _hedged(verdict, pair, trusted=not wrong)
    return Joint(replace(verdict, verdict_id=_name(source, destination)), notes)


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


def _hedged(verdict: Verdict, pair: _Pair, *, trusted: bool) -> Verdict:
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
        verdict_id=_name(source, destination),
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
        contact=_contact(destination.contact),
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
    numbers = {plan.number for plan in source.rounds[-MAX_ROUNDS:]}
    here = replace(
        source,
        session=b"",
        both_ways=False,
        rounds=source.rounds[-MAX_ROUNDS:],
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
