"""The joint verdict of two runs that never met: right, or honest."""

from __future__ import annotations

import contextlib
import math
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bothends_protocol.alignment import MAX_SPAN
from bothends_protocol.columns import from_columns, to_columns
from bothends_protocol.errors import ProtocolError
from bothends_protocol.evidence import Counted, Evidence, Listening, read_evidence
from bothends_protocol.offline import MAX_STEPS, Joint, joint
from bothends_protocol.shortened import shorten
from bothends_protocol.wire import pack
from evidence_builder import Story
from recording_builder import DROPPED, KEPT, LOST, OPEN, PORT, Fate, World, random_world

HOURS = 5 * 3600 + 11.0
DROP, NETWORK, SOURCE = "destination.firewall-drop", "network.drop", "source.firewall-drop"


def judged(world: World) -> Joint:
    """The verdict, through the bytes of both files."""
    source, destination = (read_evidence(pack(side)) for side in world.evidence())
    return joint(source, destination)


def named(found: Joint) -> list[tuple[str, str]]:
    return [(b.code, b.confidence) for check in found.verdict.checks for b in check.blockers]


@pytest.mark.parametrize("sees", [False, True], ids=["users", "privileged"])
@pytest.mark.parametrize("wall", [0.0, HOURS, -HOURS])
def test_what_is_seen_at_the_destination_needs_no_clocks(*, wall: float, sees: bool) -> None:
    rng = random.Random(wall)
    for fate, expected in ((OPEN, []), (DROPPED, [(DROP, "proven")])):
        found = judged(
            World(
                fate,
                seed=rng.randrange(1000),
                source=(0.0, 200.0),
                destination=(rng.uniform(0, 80), 200.0),
                source_sees=sees,
                destination_sees=sees,
                destination_wall=wall,
                drift=rng.uniform(-1e-4, 1e-4),
            )
        )
        assert named(found) == expected
        assert found.verdict.status == ("blocked" if expected else "open")


def test_absence_by_the_clocks_alone_is_never_proven() -> None:
    found = judged(World(LOST, source_sees=True, destination_sees=True))
    assert named(found) == [(NETWORK, "likely")]
    assert "rests on the clocks" in found.notes[-1]
    (check,) = found.verdict.checks
    assert "rests on the clocks" in check.blockers[0].because[-1]


def test_absence_is_proven_where_the_contacts_dials_arrive() -> None:
    found = judged(
        World(LOST, source_sees=True, destination_sees=True, control_seen=True, source_wall=HOURS)
    )
    assert named(found) == [(NETWORK, "proven")]


@pytest.mark.parametrize("sees", [False, True])
def test_clocks_that_are_not_kept_right_blame_nobody(*, sees: bool) -> None:
    found = judged(World(LOST, kept_right=False, source_sees=sees, destination_sees=sees))
    assert found.verdict.status == "undetermined"
    assert named(found) == []
    assert {NETWORK, DROP} <= set(found.verdict.candidates)
    assert "the destination's clock is not kept right" in found.notes[-1]


@pytest.mark.parametrize("kept_right", [True, False, None])
def test_what_the_source_proves_alone_stays_proven(*, kept_right: bool | None) -> None:
    found = judged(World(KEPT, kept_right=kept_right, source_sees=True))
    assert named(found) == [(SOURCE, "proven")]


def test_a_destination_that_really_ran_at_another_time_is_not_blamed_by_a_wrong_clock() -> None:
    # The clocks say that the two ran together; the destination's is five hours wrong.
    found = judged(
        World(
            DROPPED,
            destination=(HOURS, HOURS + 120.0),
            destination_wall=-HOURS,
            kept_right=False,
        )
    )
    assert found.verdict.status == "undetermined"
    assert DROP in found.verdict.candidates


@pytest.mark.parametrize("fate", [OPEN, DROPPED, LOST, KEPT])
@pytest.mark.parametrize(
    ("source", "destination", "says"),
    [
        ((0.0, 100.0), (160.0, 300.0), "the source's ended 60 seconds before the destination's"),
        ((8000.0, 8100.0), (0.0, 800.0), "the destination's ended 2 hours before the source's"),
    ],
)
def test_runs_that_did_not_overlap_blame_nobody_and_say_by_how_much(
    source: tuple[float, float], destination: tuple[float, float], says: str, fate: Fate
) -> None:
    found = judged(World(fate, source=source, destination=destination, source_sees=True))
    verdict = found.verdict
    assert (verdict.status, verdict.blockers) == ("undetermined", ())
    assert says in verdict.summary
    assert "Start both again, so that they run at the same time." in verdict.summary
    assert verdict.verdict_id is not None
    truth = {DROPPED: DROP, LOST: NETWORK, KEPT: SOURCE}.get(fate)
    assert truth is None or truth in verdict.candidates


def test_without_overlap_what_the_service_lacks_is_a_candidate() -> None:
    found = judged(
        World(
            Fate(seen=(), outcome="refused"),
            source=(0.0, 60.0),
            destination=(100.0, 160.0),
            listening=("127.0.0.1",),
        )
    )
    assert found.verdict.status == "undetermined"
    assert "service.loopback-only" in found.verdict.candidates


@pytest.mark.parametrize("overlap", [20.0, 30.0, 60.0])
@pytest.mark.parametrize("first", ["source", "destination"])
def test_a_short_overlap_is_enough(first: str, overlap: float) -> None:
    early, late = (0.0, 100.0), (100.0 - overlap, 250.0)
    source, destination = (early, late) if first == "source" else (late, early)
    # The source began long ago only where it began first; then its rounds come every ten seconds.
    found = judged(World(source=source, destination=destination, every=(4.0,) * 40))
    assert named(found) == [(DROP, "proven")]


def test_overlap_by_clocks_of_a_few_seconds_is_none() -> None:
    found = judged(World(LOST, source=(0.0, 100.0), destination=(95.0, 200.0)))
    assert found.verdict.status == "undetermined"
    assert "too short a time" in found.verdict.summary


@pytest.mark.parametrize("fate", [DROPPED, LOST, OPEN])
@pytest.mark.parametrize("seed", range(5))
def test_a_busy_host_is_judged_right_or_not_at_all(seed: int, fate: Fate) -> None:
    found = judged(World(fate, seed=seed, spurts=10.0, alive=100.0))
    truth = {DROPPED: DROP, LOST: NETWORK}.get(fate)
    assert {code for code, _ in named(found)} <= {truth}
    if found.verdict.status == "undetermined" and truth:
        assert truth in found.verdict.candidates


@pytest.mark.parametrize("seed", range(30))
def test_no_pair_of_runs_is_judged_wrong(seed: int) -> None:
    world = random_world(seed)
    found = judged(world)
    truth = {DROPPED: DROP, LOST: NETWORK, KEPT: SOURCE}.get(world.fate)
    verdict = found.verdict
    if verdict.status == "undetermined":
        assert truth is None or truth in verdict.candidates
    else:
        assert (verdict.status, verdict.blockers) == (
            ("blocked", (truth,)) if truth else ("open", ())
        )


def test_a_service_that_began_to_listen_meanwhile_is_judged_as_it_is() -> None:
    source, destination = World(
        Fate(outcome="refused"), listening=("0.0.0.0",), source_sees=True, destination_sees=True
    ).evidence()
    kept = destination.offline
    assert kept is not None
    before = Listening(at=0.0, listeners=())
    now = replace(kept.listening[0], at=60.0)
    changed = replace(destination, offline=replace(kept, listening=(before, now)))
    codes = {code for code, _ in named(joint(source, changed))}
    assert "service.not-running" not in codes


@pytest.mark.parametrize("sees", [False, True])
def test_what_was_mended_while_they_ran_is_judged_as_it_is_now(*, sees: bool) -> None:
    before = World(DROPPED, source=(0.0, 60.0), source_sees=sees, destination_sees=sees)
    after = World(OPEN, source=(60.0, 120.0), seed=2, source_sees=sees, destination_sees=sees)
    (one, early), (other, late) = before.evidence(), after.evidence()
    later = 60.0
    shifted = len(one.rounds)
    assert one.offline is not None
    late_offline = replace(one.offline, lasted=120.0)
    source = replace(
        one,
        rounds=(
            *one.rounds,
            *(replace(plan, number=plan.number + shifted) for plan in other.rounds),
        ),
        attempts=(
            *one.attempts,
            *(
                replace(a, round=a.round + shifted, started=a.started + later)
                for a in other.attempts
            ),
        ),
        sightings=(*one.sightings, *(replace(s, at=s.at + later) for s in other.sightings)),
        offline=late_offline,
    )
    destination = replace(
        late,
        sightings=(*early.sightings, *late.sightings),
        connections=(*early.connections, *late.connections),
    )
    found = joint(source, destination)
    assert found.verdict.status == "open"
    assert found.verdict.warnings == ()


def test_sightings_that_were_dropped_for_want_of_room_are_no_absence() -> None:
    source, destination = World(
        source=(0.0, 120.0), source_sees=True, destination_sees=True
    ).evidence()
    assert source.offline is not None
    late = replace(
        source,
        sightings=tuple(s for s in source.sightings if s.at > 100),
        offline=replace(source.offline, sightings_since=100.0),
    )
    assert named(joint(late, destination)) == [(DROP, "proven")]


@pytest.mark.parametrize("sees", [False, True])
@pytest.mark.parametrize("fate", [OPEN, DROPPED, LOST, KEPT])
def test_what_is_pasted_is_judged_alike(fate: Fate, *, sees: bool) -> None:
    sides = World(fate, source_sees=sees, destination_sees=sees).evidence()
    source, destination = (
        from_columns(to_columns(short.evidence, short.digits)) for short in map(shorten, sides)
    )
    expected, found = joint(*sides), joint(source, destination)
    assert found.notes == expected.notes
    assert replace(found.verdict, verdict_id=None) == replace(expected.verdict, verdict_id=None)


def test_both_orders_come_to_the_same() -> None:
    source, destination = World().evidence()
    assert joint(source, destination) == joint(destination, source)


def test_two_that_met_are_judged_as_they_were() -> None:
    found = joint(*Story().evidence())
    assert found.verdict.status == "open"
    assert found.notes == ()


def test_two_of_one_role_or_of_two_runs_are_refused() -> None:
    source, destination = World().evidence()
    for pair in ((source, source), (destination, destination)):
        with pytest.raises(ProtocolError):
            joint(*pair)
    met = Story().evidence()
    with pytest.raises(ProtocolError):
        joint(met[0], replace(met[1], session=b"another"))


def test_one_that_met_somebody_does_not_belong_to_one_that_did_not() -> None:
    found = joint(Story().evidence()[0], World().evidence()[1])
    assert found.verdict.status == "undetermined"
    assert "do not belong together" in found.verdict.summary


def test_ports_that_the_destination_did_not_watch_are_said() -> None:
    source, destination = World().evidence()
    found = joint(source, replace(destination, ports=("tcp:9000",)))
    assert found.verdict.status == "undetermined"
    assert f"tried port {PORT}" in found.verdict.summary
    assert "--ports" in found.verdict.summary


def test_a_source_without_an_address_is_told_what_it_needs() -> None:
    source, destination = World().evidence()
    nothing = replace(source, rounds=(), attempts=(), bursts=(), samples=())
    found = joint(nothing, destination)
    assert found.verdict.status == "undetermined"
    assert "--peer or --target" in found.verdict.summary


# -- files may hold anything


def _counted(evidence: Evidence, counted: Counted) -> Evidence:
    assert evidence.offline is not None
    return replace(evidence, offline=replace(evidence.offline, counted=counted))


def test_sizes_that_no_side_writes_cost_no_time() -> None:
    source, destination = World(LOST).evidence()
    assert destination.offline is not None
    steps = (2**40,) * MAX_STEPS
    huge = Counted(began=-1e8, steps=steps, values={"Tcp.InSegs": (2**63,) * MAX_STEPS})
    assert joint(source, _counted(destination, huge)).verdict.status == "undetermined"
    last = replace(destination, offline=replace(destination.offline, lasted=MAX_SPAN))
    names = ("Tcp.InSegs", "Ip.InReceives", "dev.rx")
    busy = Counted(
        began=0.0, steps=(20,) * MAX_STEPS, values=dict.fromkeys(names, (7, 0) * (MAX_STEPS // 2))
    )
    assert joint(source, _counted(last, busy)).verdict.blockers in ((), (NETWORK,))
    for more in (
        Counted(began=0.0, steps=(20,) * (MAX_STEPS + 1)),
        Counted(began=0.0, values={f"n{number}": () for number in range(100)}),
    ):
        with pytest.raises(ProtocolError):
            joint(source, _counted(last, more))


def test_more_records_than_a_side_keeps_are_not_looked_at() -> None:
    source, destination = World(LOST).evidence()
    probe = source.rounds[0].probes[0]
    many = tuple(replace(probe, port=port) for port in range(1, 40_000))
    crowd = replace(
        source,
        rounds=tuple(replace(plan, probes=(*plan.probes, *many)) for plan in source.rounds[-40:]),
        attempts=source.attempts[-1:] * 50_000,
    )
    assert destination.offline is not None
    wide = replace(
        destination, ports=("tcp:1-65535",), listeners=destination.offline.listening[0].listeners
    )
    assert joint(crowd, wide).verdict.checks


PLACES = [
    "attempts",
    "sightings",
    "bursts",
    "sends",
    "samples",
    "rows",
    "listening",
    "offline",
    "counted",
]
BAD = [math.nan, math.inf, -math.inf, 1e300, -1e300, 1e12, -5.0, 0.0]


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=80)
@given(rng=st.randoms(use_true_random=False), of_source=st.booleans())
def test_numbers_that_are_none_raise_nothing_but_our_own(
    rng: random.Random, *, of_source: bool
) -> None:
    world = World(rng.choice([OPEN, DROPPED]), source_sees=True, destination_sees=True)
    source, destination = _WORLDS.setdefault(world, world.evidence())
    bad = rng.choice(BAD)
    side = source if of_source else destination
    place = rng.choice(PLACES)
    side = _spoilt(side, place, bad, rng)
    pair = (side, destination) if of_source else (source, side)
    with contextlib.suppress(ProtocolError):
        joint(*pair)


_WORLDS: dict[World, tuple[Evidence, Evidence]] = {}


def _spoilt(side: Evidence, place: str, bad: float, rng: random.Random) -> Evidence:
    """The evidence with `bad` in the times of one kind of record."""
    kept = side.offline
    assert kept is not None
    times = (bad,) * 40
    changes: dict[str, dict[str, object]] = {
        "attempts": {"attempts": tuple(replace(a, started=bad) for a in side.attempts)},
        "sightings": {"sightings": tuple(replace(s, at=bad) for s in side.sightings)},
        "bursts": {"bursts": tuple(replace(b, started=bad) for b in side.bursts)},
        "sends": {"bursts": tuple(replace(b, sends=times) for b in side.bursts)},
        "samples": {"samples": tuple(replace(s, times=times) for s in side.samples)},
        "rows": {"connections": tuple(replace(row, at=bad) for row in side.connections)},
        "listening": {
            "offline": replace(
                kept, blind=times, listening=tuple(replace(o, at=bad) for o in kept.listening)
            )
        },
    }
    if place in changes:
        return replace(side, **changes[place])
    if place == "offline" or kept.counted is None:
        field = rng.choice(["wall", "lasted", "sightings_since", "connections_since"])
        return replace(side, offline=replace(kept, **{field: bad}))
    counted = kept.counted
    changed = rng.choice(
        [
            replace(counted, began=bad),
            replace(counted, steps=tuple(-step for step in counted.steps)),
            replace(counted, steps=counted.steps[:-7]),
            replace(counted, steps=()),
            replace(counted, values={"Tcp.InSegs": (3,)}),
            replace(counted, values={n: (-(2**62),) * len(v) for n, v in counted.values.items()}),
        ]
    )
    return replace(side, offline=replace(kept, counted=changed))
