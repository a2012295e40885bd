"""Makes of two recordings the evidences of two sides that met.

Who judges knows rounds, bursts with readings about them, and rows that belong to
an attempt. Two sides that stood alone had no such understanding: here the
newest rounds that lie in both recordings are chosen, and what the destination
kept is cut to them. Nothing is judged.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import msgspec
from msgspec.structs import replace

from .addresses import bare
from .alignment import GAP_SECONDS, WINDOW_SECONDS, WINDOWS, Alignment, is_finite
from .bursts import WINDOW_SECONDS as JUDGED_WINDOW
from .counted import MAX_JUDGED
from .evidence import (
    Attempt,
    Burst,
    Connection,
    ContactFacts,
    Counted,
    Evidence,
    Listening,
    Probe,
    RoundPlan,
    Samples,
    Sighting,
    Witness,
)
from .pairing import SOURCE
from .plan import BURST, CONNECT

__all__ = ["MAX_ROUNDS", "Key", "Pair", "contact_alone", "with_probes"]

MAX_ROUNDS = 8
"""Rounds of connects that are judged, the newest ones: three attempts in each make 24, more than
loss can explain (`plan.CERTAIN`), and what has changed since the beginning is not mixed in."""

MAX_TRIES = 8
"""Attempts at one port in one round that are judged: more than a source makes."""

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

_MOST = 2**40
"""Packets in one step, of which no computer counts so many: added up they stay below 64 bits."""

_PROMPT_SECONDS = 0.3

_PROMPT = 3
"""A card that counts so often within so short a time counts at once: some do once a second."""

Key = tuple[str, str, int]
"""Transport, address and port."""


class Pair(msgspec.Struct, frozen=True):
    """Two evidences as if the two had met, and how that was made."""

    source: Evidence
    destination: Evidence
    how: Alignment

    @classmethod
    def make(
        cls, source: Evidence, destination: Evidence, how: Alignment, keys: Sequence[Key]
    ) -> Pair | None:
        """Return the pair, None where no round of connects lies in both recordings."""
        span = _Span.of(source, destination, how)
        wanted = set(keys)
        tries: dict[int, list[Attempt]] = {}
        made = Counter[tuple[int, Key]]()
        for attempt in source.attempts:
            key = (attempt.transport, attempt.address, attempt.port)
            made[attempt.round, key] += 1
            if key in wanted and made[attempt.round, key] <= MAX_TRIES:
                tries.setdefault(attempt.round, []).append(attempt)
        rounds = _rounds(source, span, tries, keys)
        if not rounds:
            return None
        listening = _listening(destination, tries[rounds[-1].number][0].started, how)
        rounds = _settled([p for p in rounds if _under(listening, tries[p.number], how)], tries)
        attempts = [attempt for plan in rounds for attempt in tries[plan.number]]
        begins = min(a.started for a in attempts)
        ends = max(a.started for a in attempts) + _LATE
        bursts = _bursts(source, destination, span, begins, keys)
        plans = (*rounds, *(plan for plan, _, _, _ in bursts))
        last = attempts[-1]
        near = [s for s in source.sightings if is_finite(s.at) and begins - 1 <= s.at <= ends]
        opener = replace(
            source,
            session=b"",
            both_ways=False,
            contact=contact_alone(source.contact, local=last.local_address),
            rounds=plans,
            attempts=tuple(attempts),
            sightings=tuple(near[-MAX_NEAR:]),
            witnesses=tuple(
                _shaken(one) if one.name == "packets" and len(near) > MAX_NEAR else one
                for one in source.witnesses
            ),
            bursts=tuple(burst for _, burst, _, _ in bursts),
            samples=tuple(here for _, _, here, _ in bursts if here is not None),
            offline=None,
        )
        taker = _taker(destination, opener, span, listening, bursts)
        return cls(opener, taker, how)


class _Span(msgspec.Struct, frozen=True):
    """The time that lies in both recordings, on the source's clock."""

    how: Alignment
    begins: float
    ends: float
    """What was begun between the two was seen to its end by all witnesses of the destination."""

    @classmethod
    def of(cls, source: Evidence, destination: Evidence, how: Alignment) -> _Span:
        here, there = source.offline, destination.offline
        if here is None or there is None:
            return cls(how, 0.0, 0.0)
        since = max(there.sightings_since, there.connections_since, 0.0)
        counted = there.counted
        if counted is not None and is_finite(counted.began):
            since = max(since, counted.began)
        # The offset is asked for where it matters: at the ends of the recordings.
        first = since - how.offset(since - how.offset(0.0))
        last = there.lasted - how.offset(there.lasted - how.offset(here.lasted))
        begins = max(0.0, here.sightings_since, first + how.error(first)) + _EARLY
        ends = min(here.lasted, last - how.error(last)) - _LATE
        return cls(how, begins, ends)


def _listening(destination: Evidence, at: float, how: Alignment) -> Listening | None:
    """Who listened at the destination when the source's clock showed `at`."""
    kept = () if destination.offline is None else destination.offline.listening
    rows = [row for row in kept if is_finite(row.at) and row.at <= at + how.offset(at)]
    return rows[-1] if rows else None


def _under(listening: Listening | None, tries: Sequence[Attempt], how: Alignment) -> bool:
    """Whether those listened when the attempts began: what was before is another story."""
    at = min(attempt.started for attempt in tries)
    return listening is None or listening.at <= at + how.offset(at)


_SETTLED = 3
"""Rounds in a row with one outcome, which none before them had: something was changed."""


def _settled(rounds: list[RoundPlan], tries: dict[int, list[Attempt]]) -> list[RoundPlan]:
    """The rounds since a change, where there was one; else all of them."""
    kinds = [
        frozenset((a.address, a.port) for a in tries[plan.number] if a.outcome == "connected")
        for plan in rounds
    ]
    streak = next((n for n, kind in enumerate(reversed(kinds)) if kind != kinds[-1]), len(kinds))
    if streak >= _SETTLED and kinds[-1] not in kinds[:-streak]:
        return rounds[-streak:]
    return rounds


def _rounds(
    source: Evidence, span: _Span, tries: dict[int, list[Attempt]], keys: Sequence[Key]
) -> list[RoundPlan]:
    """The newest rounds of connects that lie in both recordings."""
    fitting = []
    for plan in {plan.number: plan for plan in source.rounds}.values():
        began = [attempt.started for attempt in tries.get(plan.number, ())]
        if plan.kind != CONNECT or not began or not is_finite(*began):
            continue
        if span.begins <= min(began) and max(began) <= span.ends:
            fitting.append(replace(plan, prober=SOURCE))
    return list(with_probes(fitting[-MAX_ROUNDS:], keys))


def with_probes(plans: Iterable[RoundPlan], keys: Sequence[Key]) -> tuple[RoundPlan, ...]:
    """Return the rounds with no other probes than `keys`, and none without any."""
    wanted = set(keys)
    cut = [
        replace(
            plan,
            probes=tuple(
                dict.fromkeys(p for p in plan.probes if (p.transport, p.address, p.port) in wanted)
            ),
        )
        for plan in plans
    ]
    return tuple(plan for plan in cut if plan.probes)


def contact_alone(kept: ContactFacts, *, local: str = "", remote: str = "") -> ContactFacts:
    """Return what is known of a contact that never was."""
    return replace(kept, path="offline", local=local, remote=remote, rtt=0.0, proven=())


_Cut = tuple[RoundPlan, Burst, Samples | None, Samples | None]
"""A burst: its plan, what was sent, and the readings of both sides about it."""


def _bursts(
    source: Evidence, destination: Evidence, span: _Span, since: float, keys: Sequence[Key]
) -> list[_Cut]:
    """The newest bursts at each port that both sides' readings cover."""
    plans = {plan.number: plan for plan in source.rounds if plan.kind == BURST}
    wanted, made = set(keys), Counter[Key]()
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
        cut.append(
            (
                replace(plan, probes=_only(plan, key)),
                _faster(burst),
                None if here is None else _fast(here),
                there,
            )
        )
    return cut[::-1]


def _only(plan: RoundPlan, key: Key) -> tuple[Probe, ...]:
    return tuple(p for p in plan.probes if (p.transport, p.address, p.port) == key)[:1]


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
    times = _times(counted) if is_finite(counted.began, begins, ends) else []
    if not times or times[0] > begins or times[-1] < ends:
        return None
    first = bisect.bisect_right(times, begins) - 1
    last = bisect.bisect_left(times, ends)
    rows = [moved[first:last] for moved in counted.values.values() if moved]
    if any(abs(more) > _MOST for row in rows for more in row):
        return None
    late = (
        place
        for place in range(first, last)
        if times[place + 1] - times[place] >= GAP_SECONDS
        and any(row[place - first] for row in rows)
    )
    return None if next(late, None) is not None else (times[first : last + 1], first, last)


def _times(counted: Counted) -> list[float]:
    """When the readings were taken; empty where they are none."""
    steps = counted.steps
    odd = any(moved and len(moved) != len(steps) for moved in counted.values.values())
    if odd or not all(0 <= step < _MOST for step in steps):
        return []
    return list(accumulate((step / 1000 for step in steps), initial=counted.began))


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
    listening: Listening | None,
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
    mine = {bare(item.address) for item in opener.facts.addresses} | {bare(opener.contact.local)}
    remote = span.how.remote if span.how.remote not in mine else ""
    taken = [a for a in destination.acceptances if is_finite(a.at) and begins <= a.at <= ends]
    samples = [there for _, _, _, there in bursts if there is not None]
    counted = None if kept is None else kept.counted
    if counted is not None:
        samples += _ends(counted, opener, span)
    return replace(
        destination,
        session=b"",
        both_ways=False,
        contact=contact_alone(destination.contact, remote=remote or opener.contact.local),
        rounds=opener.rounds,
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


def _ends(counted: Counted, opener: Evidence, span: _Span) -> list[Samples]:
    """For each round of connects what the counters showed before it and after it."""
    found = []
    for plan in opener.rounds:
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
