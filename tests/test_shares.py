"""Shares: parallel paths and loss, told from what connections from many ports met."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.evidence import (
    Attempt,
    Evidence,
    Probe,
    RoundPlan,
    Samples,
    Sighting,
)
from bothends_protocol.plan import LOSS, LOSS_ATTEMPTS, MAX_WAVES, SAMPLE, TUPLES
from bothends_protocol.shares import (
    LEAST_TRIES,
    Loss,
    Paths,
    rounds_of,
    view_loss,
    view_paths,
)
from evidence_builder import HERE, PORT, THERE, Story, answer_seen, request_seen

KEY = ("tcp", THERE, PORT)
ROUND, CONTROL = 7, 24242

changed = msgspec.structs.replace


def attempt(local_port: int, outcome: str, *, port: int = PORT) -> Attempt:
    return Attempt(
        round=ROUND,
        transport="tcp",
        address=THERE,
        port=port,
        local_address=HERE,
        local_port=local_port,
        started=0.0,
        ended=None,
        outcome=outcome,
    )


def told(
    kind: str, attempts: Iterable[Attempt], *, port: int = PORT, overflows: int | None = 0
) -> tuple[Evidence, Evidence]:
    source, destination = Story().evidence()
    attempts = list(attempts)
    plan = RoundPlan(
        number=ROUND,
        kind=kind,
        prober="source",
        attempts=1,
        probes=(Probe(transport="tcp", address=THERE, port=port),),
        local_ports=tuple(sorted({a.local_port for a in attempts})) if kind == SAMPLE else (),
    )
    values: dict[str, tuple[int, ...]] = {}
    if overflows is not None:
        values = {"TcpExt.ListenOverflows": (3, 3 + overflows)}
    return (
        changed(source, rounds=(*source.rounds, plan), attempts=(*source.attempts, *attempts)),
        changed(destination, samples=(Samples(round=ROUND, times=(0.0, 1.0), values=values),)),
    )


def sample(failing: dict[int, int], through: int = 6, **more: int | None) -> Paths | None:
    """Connections from `through` ports, and from others so many tries that fail."""
    attempts = [attempt(20_000 + number, "connected") for number in range(through)]
    attempts += [attempt(port, "silent") for port, count in failing.items() for _ in range(count)]
    return view_paths(*told(SAMPLE, attempts, **more), KEY)  # type: ignore[arg-type]


def test_no_sample_tells_nothing() -> None:
    assert view_paths(*Story().evidence(), KEY) is None
    assert view_loss(*Story().evidence(), THERE) is None
    assert rounds_of((SAMPLE, LOSS), *Story().evidence(), None) == frozenset()


@pytest.mark.parametrize(
    ("failing", "through", "partial"),
    [
        ({}, 12, False),
        ({1: LEAST_TRIES}, 11, True),
        ({1: LEAST_TRIES - 1}, 11, False),
        ({1: 6, 2: 6, 3: 6, 4: 6}, 8, True),
        ({1: 3, 2: 3, 3: 3}, 9, False),
        (dict.fromkeys(range(1, 13), 3), 0, False),
    ],
)
def test_what_fails_for_ever_beside_what_does_not_is_a_filter_on_some_paths(
    failing: dict[int, int], through: int, *, partial: bool
) -> None:
    found = sample(failing, through)
    assert found is not None
    assert (found.through, found.failing) == (through, len(failing))
    assert (found.tries, found.at_first) == (sum(failing.values()), len(failing))
    assert found.pure == partial


def test_what_came_through_in_the_end_does_not_fail() -> None:
    lost = [attempt(1, "silent")] * LEAST_TRIES
    found = view_paths(*told(SAMPLE, [*lost, attempt(1, "connected")]), KEY)
    assert found is not None
    assert (found.through, found.failing, found.tries, found.at_first) == (1, 0, 0, 1)


def test_what_is_refused_is_not_lost() -> None:
    refused = [attempt(1, "refused")] * LEAST_TRIES
    for tries, partial in ((refused, True), ([*refused[1:], attempt(1, "silent")], False)):
        pair = told(SAMPLE, [*tries, attempt(2, "connected")])
        found = view_paths(pair[0], changed(pair[1], witnesses=()), KEY)
        assert found is not None
        assert found.is_partial(None) == partial


@pytest.mark.parametrize("came", [True, False])
def test_where_fresh_connections_fail_too_it_is_no_path(*, came: bool) -> None:
    source, destination = told(SAMPLE, [attempt(1, "silent")] * LEAST_TRIES)
    more = (attempt(99, "connected" if came else "silent"), attempt(98, "silent"))
    found = view_paths(changed(source, attempts=(*source.attempts, *more)), destination, KEY)
    assert found is not None
    assert found.later == came
    assert paths(8, later=came).is_partial(NONE) == came


def test_more_than_any_side_tries_is_not_looked_at() -> None:
    assert view_paths(*told(SAMPLE, [attempt(1, "silent")] * (TUPLES * MAX_WAVES + 1)), KEY) is None


def test_a_nat_that_changes_ports_hides_no_request() -> None:
    tagged = [changed(attempt(1, "silent"), tag=700)] * LEAST_TRIES
    source, destination = told(SAMPLE, [*tagged, attempt(2, "connected")])
    came = request_seen("in", ("11.0.0.9", 61_000), (THERE, PORT), 7, mss=700)
    found = view_paths(source, changed(destination, sightings=(came,)), KEY)
    assert found is not None
    assert (found.arrived, found.kept_at_destination) == (True, True)


def test_ports_that_could_not_be_used_say_nothing() -> None:
    taken = [attempt(1, "local-error")] * LEAST_TRIES
    found = view_paths(*told(SAMPLE, [*taken, attempt(2, "connected")]), KEY)
    assert found is not None
    assert not found.pure


def test_a_full_queue_of_the_service_is_no_path() -> None:
    assert sample({1: LEAST_TRIES}, overflows=1) is None
    unread = sample({1: LEAST_TRIES}, overflows=None)
    assert unread is not None


def paths(failing: int, **more: bool | None) -> Paths:
    plain = Paths(
        through=TUPLES - failing,
        failing=failing,
        tries=failing * LEAST_TRIES,
        at_first=failing,
    )
    return changed(plain, **more)


NONE, SOME, HALF, MUCH = (Loss(sent=LOSS_ATTEMPTS, silent=n) for n in (0, 10, 50, 64))


@pytest.mark.parametrize(
    ("failing", "lost", "partial"),
    [
        (8, NONE, True),
        (3, NONE, True),
        (2, NONE, False),
        (9, SOME, True),
        (8, SOME, False),
        (TUPLES - 1, Loss(sent=LOSS_ATTEMPTS, silent=40), True),
        (TUPLES - 1, HALF, False),
        (12, MUCH, False),
        (15, MUCH, False),
        (TUPLES, NONE, False),
    ],
)
def test_more_must_fail_than_loss_lets_fail(failing: int, lost: Loss, *, partial: bool) -> None:
    assert paths(failing).is_partial(lost) == partial


def test_without_a_measure_of_loss_it_is_seen_that_nothing_arrives() -> None:
    assert not paths(8).is_partial(None)
    assert paths(8, arrived=False).is_partial(None)
    assert not paths(8, arrived=True).is_partial(None)


def test_what_the_destination_itself_keeps_is_no_path() -> None:
    assert not paths(8, arrived=True, kept_at_destination=True).is_partial(NONE)
    assert paths(8, arrived=True, kept_at_destination=False).is_partial(NONE)


@pytest.mark.parametrize("each_way", [0.05, 0.1, 0.2, 0.4, 0.5])
def test_loss_passes_for_a_filter_hardly_ever(each_way: float) -> None:
    """Even if every port that fails at first went on to fail, which loss alone does not do."""
    lost = 1 - (1 - each_way) ** 2
    chance = sum(
        _chance(silent, LOSS_ATTEMPTS, lost) * _chance(failing, TUPLES, lost)
        for silent in range(LOSS_ATTEMPTS)
        for failing in range(1, TUPLES)
        if paths(failing).is_partial(Loss(sent=LOSS_ATTEMPTS, silent=silent))
    )
    assert chance < 0.001


def _chance(count: int, of: int, share: float) -> float:
    return math.comb(of, count) * share**count * (1 - share) ** (of - count)


def test_half_of_the_paths_are_found() -> None:
    found = sum(_chance(n, TUPLES, 0.5) for n in range(TUPLES + 1) if paths(n).is_partial(NONE))
    assert found > 0.99


def test_what_was_seen_of_the_failing_ports() -> None:
    attempts = [attempt(1, "silent")] * LEAST_TRIES + [attempt(2, "connected")]
    source, destination = told(SAMPLE, attempts)
    came = request_seen("in", (HERE, 1), (THERE, PORT), 7)
    went = answer_seen("syn-ack", came, "out", None)

    def view(*sightings: Sighting) -> tuple[bool | None, bool | None]:
        found = view_paths(source, changed(destination, sightings=sightings), KEY)
        assert found is not None
        return found.arrived, found.kept_at_destination

    assert view() == (False, False)
    assert view(came) == (True, True)
    assert view(came, went) == (True, False)
    blind = changed(destination, witnesses=())
    unseen = view_paths(source, blind, KEY)
    assert unseen is not None
    assert (unseen.arrived, unseen.kept_at_destination) == (None, None)


def loss(silent: int, sent: int = LOSS_ATTEMPTS) -> Loss | None:
    outcomes = ["silent"] * silent + ["connected"] * (sent - silent)
    attempts = [attempt(n, outcome, port=CONTROL) for n, outcome in enumerate(outcomes, start=1)]
    return view_loss(*told(LOSS, attempts, port=CONTROL), THERE)


@pytest.mark.parametrize(("silent", "is_told"), [(0, False), (1, False), (2, True), (40, True)])
def test_loss_is_told_from_two_lost_round_trips_on(silent: int, *, is_told: bool) -> None:
    found = loss(silent)
    assert found is not None
    assert (found.sent, found.silent, found.told) == (LOSS_ATTEMPTS, silent, is_told)


def test_no_answer_at_all_is_no_loss() -> None:
    assert loss(LOSS_ATTEMPTS) is None
    assert (
        view_loss(*told(LOSS, [attempt(1, "refused", port=CONTROL)], port=CONTROL), THERE) is None
    )


def test_loss_is_that_of_its_own_address() -> None:
    assert (
        view_loss(*told(LOSS, [attempt(1, "connected", port=CONTROL)], port=CONTROL), HERE) is None
    )


def test_the_interval_is_that_of_the_literature() -> None:
    # Wilson (1927) for 10 of 100, as tables have it: 5.5 % to 17.4 %.
    low, high = Loss(sent=100, silent=10).interval
    assert (round(low, 3), round(high, 3)) == (0.055, 0.174)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_an_interval_holds_what_was_seen(counts: tuple[int, int]) -> None:
    sent, silent = counts
    low, high = Loss(sent=sent, silent=silent).interval
    assert 0 <= low <= silent / sent + 1e-12
    assert silent / sent - 1e-12 <= high <= 1


@pytest.mark.parametrize(("each_way", "unseen"), [(0.05, 5e-4), (0.2, 1e-9)])
def test_how_often_a_loss_is_not_told(each_way: float, unseen: float) -> None:
    lost = 1 - (1 - each_way) ** 2
    assert sum(_chance(silent, LOSS_ATTEMPTS, lost) for silent in (0, 1)) < unseen
