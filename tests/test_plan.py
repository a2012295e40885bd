"""The plan: which addresses decide, what is tried in which round, and when it is enough."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.evidence import Probe, RoundPlan, Target
from bothends_protocol.messages import Offer, SeenPort, Tried
from bothends_protocol.pairing import SOURCE
from bothends_protocol.plan import (
    ATTEMPTS,
    BURST,
    CERTAIN,
    ENOUGH,
    HALF_OPEN,
    LOSS,
    LOSS_ATTEMPTS,
    MAPPED,
    MAX_ATTEMPTS,
    MAX_MAPPED,
    MAX_MEASURED,
    MAX_PINHOLES,
    MAX_PROBES,
    MAX_SAMPLED,
    MAX_WAVES,
    PINHOLE,
    PINHOLE_ATTEMPTS,
    SAMPLE,
    TUPLES,
    Tally,
    add,
    burst_probes,
    burst_round,
    first_round,
    further_round,
    loses,
    loss_rounds,
    mapped_rounds,
    pinhole_rounds,
    primary_addresses,
    probe_addresses,
    sample_rounds,
    well_formed,
)

PEER, OTHER, TARGET, PUBLIC = "192.168.7.20", "192.168.9.20", "10.0.0.5", "11.0.0.1"
PROBE = Probe(transport="tcp", address=PEER, port=4242)


# -- which addresses decide (design, part 3)


@pytest.mark.parametrize(
    ("targets", "typed", "remote", "confirmed", "primary"),
    [
        ((TARGET,), (PEER,), PEER, (PUBLIC,), (TARGET,)),
        ((TARGET, PUBLIC, TARGET), (), PEER, (), (TARGET, PUBLIC)),
        ((), (PEER,), PEER, (PUBLIC,), (PEER,)),
        ((), (PUBLIC, OTHER), PEER, (), (PUBLIC, OTHER)),
        ((), (), PEER, (PUBLIC,), (PEER,)),
        ((), (), "", (), ()),
        ((), (), "", (PUBLIC, OTHER), (PUBLIC,)),
        ((), (PEER,), "", (PUBLIC,), (PEER,)),
        ((), (f"::ffff:{PEER}",), PEER, (), (PEER,)),
    ],
    ids=[
        "the target",
        "each target",
        "the peer that was typed",
        "what was typed and did not serve the contact",
        "what authenticated",
        "nothing",
        "the first that was confirmed",
        "what was typed before what was confirmed",
        "another way to write it",
    ],
)
def test_primary_addresses(
    targets: tuple[str, ...],
    typed: tuple[str, ...],
    remote: str,
    confirmed: tuple[str, ...],
    primary: tuple[str, ...],
) -> None:
    found = primary_addresses(targets=targets, typed=typed, remote=remote, confirmed=confirmed)
    assert found == primary


def test_probed_are_the_primary_ones_first_and_what_authenticated() -> None:
    offer = Offer(
        targets=(Target(text="nas", addresses=(TARGET, PUBLIC)),),
        typed=(PEER,),
        remote=PEER,
        proven=(PEER, OTHER),
    )
    assert probe_addresses(offer) == (TARGET, PUBLIC, PEER, OTHER)


def test_a_peer_typed_as_a_name_is_probed_at_all_its_addresses() -> None:
    nas, other = (
        Target(text=text, addresses=addresses)
        for text, addresses in (("nas", (OTHER, PEER)), ("router", (TARGET, PUBLIC)))
    )
    offer = Offer(typed=(OTHER, PEER, TARGET, PUBLIC), peers=(nas, other), remote=PEER)
    assert probe_addresses(offer) == (PEER, OTHER)
    # A target says what is to be tested, whatever the name by which the two met.
    target = Target(text=PUBLIC, addresses=(PUBLIC,))
    assert probe_addresses(msgspec.structs.replace(offer, targets=(target,))) == (PUBLIC,)


def test_what_was_confirmed_is_probed_last_or_where_there_is_nothing_else_first() -> None:
    assert probe_addresses(Offer(confirmed=(PUBLIC, OTHER))) == (PUBLIC, OTHER)
    met = Offer(remote=PEER, proven=(PEER,), confirmed=(PUBLIC, PEER))
    assert probe_addresses(met) == (PEER, PUBLIC)


addresses = st.lists(st.sampled_from([PEER, OTHER, TARGET, PUBLIC]), max_size=3).map(tuple)


@given(addresses, addresses, addresses, addresses, addresses)
def test_what_the_peer_says_of_itself_is_never_probed(
    typed: tuple[str, ...],
    proven: tuple[str, ...],
    targets: tuple[str, ...],
    confirmed: tuple[str, ...],
    said: tuple[str, ...],
) -> None:
    offer = Offer(
        targets=(Target(text="x", addresses=targets),),
        typed=typed,
        proven=proven,
        confirmed=confirmed,
        addresses=said,
    )
    assert set(probe_addresses(offer)) <= {*typed, *proven, *targets, *confirmed}


# -- rounds


def test_every_port_at_every_address_is_tried_once() -> None:
    (plan,) = first_round(1, SOURCE, [PEER, OTHER], ["tcp:4242,4252", "tcp:5000"])
    assert [(probe.address, probe.port) for probe in plan.probes] == [
        (address, port) for address in (PEER, OTHER) for port in (4242, 4252, 5000)
    ]
    assert (plan.number, plan.prober, plan.attempts) == (1, SOURCE, ATTEMPTS)


@given(st.integers(1, 3000), st.integers(1, 3))
def test_a_wide_request_is_cut_into_rounds_of_a_bearable_size(count: int, number: int) -> None:
    plans = first_round(number, SOURCE, [PEER], [f"tcp:1-{count}"])
    assert [plan.number for plan in plans] == list(range(number, number + len(plans)))
    assert all(0 < len(plan.probes) <= MAX_PROBES for plan in plans)
    assert [probe.port for plan in plans for probe in plan.probes] == list(range(1, count + 1))


@pytest.mark.parametrize(("hosts", "ports"), [([], ["tcp:1"]), ([PEER], [])])
def test_nothing_to_try_makes_no_round(hosts: list[str], ports: list[str]) -> None:
    assert first_round(1, SOURCE, hosts, ports) == []


# -- repeats


def tally(  # noqa: PLR0913  as many as a tally has
    attempts: int,
    *,
    connected: int = 0,
    refused: int = 0,
    left: int | None = None,
    arrived: int | None = None,
    answered: int | None = None,
    delivered: int | None = None,
    established: int | None = None,
    beside: int = 0,
    unlisted: bool = False,
) -> Tally:
    return Tally(
        attempts=attempts,
        connected=connected,
        silent=attempts - connected - refused,
        left=left,
        arrived=arrived,
        answered=answered,
        delivered=delivered,
        established=established,
        beside=beside,
        unlisted=unlisted,
    )


def repeats(known: Tally, number: int = 2) -> RoundPlan | None:
    (last,) = first_round(1, SOURCE, [PEER], ["tcp:4242"])
    return further_round(number, last, [(PROBE, known)])


@pytest.mark.parametrize(
    "known",
    [
        tally(1, connected=1),
        tally(3, connected=3),
        tally(6, connected=2),
        tally(3, refused=3),
        tally(3, refused=1),
        tally(CERTAIN),
        tally(3, arrived=3),
        tally(ENOUGH, arrived=ENOUGH, delivered=0),
        tally(CERTAIN, arrived=0),
        tally(CERTAIN, left=0),
        tally(CERTAIN, arrived=CERTAIN, delivered=CERTAIN),
        tally(CERTAIN, arrived=CERTAIN, answered=CERTAIN),
        tally(1, connected=1, delivered=1, established=1),
        tally(1, connected=1, delivered=3, established=3, beside=2),
        tally(HALF_OPEN, connected=HALF_OPEN, delivered=HALF_OPEN, established=0),
        tally(MAX_ATTEMPTS, connected=1),
        tally(MAX_ATTEMPTS, arrived=1),
    ],
)
def test_what_is_plain_is_not_tried_again(known: Tally) -> None:
    assert repeats(known) is None


@pytest.mark.parametrize(
    "known",
    [
        tally(3, arrived=0),
        tally(3, left=0, arrived=0),
        tally(CERTAIN - 1, arrived=0),
        tally(3, arrived=1),
        tally(3, arrived=2, delivered=0),
        tally(3, arrived=3, delivered=3),
        tally(3, arrived=3, answered=3),
        tally(6, connected=1),
        tally(1, connected=1, delivered=1, established=0),
        tally(1, connected=1, delivered=3, established=2, beside=2),
    ],
)
def test_what_loss_could_have_done_is_tried_again(known: Tally) -> None:
    plan = repeats(known, number=5)
    assert plan is not None
    assert (plan.number, plan.probes) == (5, (PROBE,))


counts = st.integers(0, MAX_ATTEMPTS)


@given(counts, counts, st.none() | counts, st.none() | counts, st.none() | counts)
def test_repeats_end(
    connected: int, silent: int, left: int | None, arrived: int | None, delivered: int | None
) -> None:
    known = Tally(connected=connected, silent=silent, left=left, arrived=arrived)
    while (plan := repeats(known)) is not None:
        assert known.attempts < MAX_ATTEMPTS
        tried = Tried(probe=PROBE, attempts=plan.attempts, connected=0, silent=plan.attempts)
        known = add(known, tried, SeenPort(address=PEER, port=4242, delivered=delivered))


def test_only_what_is_open_is_repeated() -> None:
    (last,) = first_round(4, SOURCE, [PEER, OTHER], ["tcp:1-2"])
    known = [
        (probe, tally(3, arrived=1) if probe.port == 2 else tally(3, connected=3))
        for probe in last.probes
    ]
    plan = further_round(5, last, known)
    assert plan is not None
    assert [(probe.address, probe.port) for probe in plan.probes] == [(PEER, 2), (OTHER, 2)]


@pytest.mark.parametrize("known", [Tally(), tally(3, arrived=1)])
def test_a_round_stays_within_the_common_limit_of_descriptors(known: Tally) -> None:
    first = first_round(1, SOURCE, [PEER], ["tcp:1-4096"])[0]
    again = further_round(2, first, [(probe, known) for probe in first.probes])
    for plan in (first, again):
        # Every attempt of a round is open at its end; 1,024 is the common soft limit.
        assert plan is None or len(plan.probes) * plan.attempts < 1000


def test_rounds_add_up_and_unknown_is_not_nothing() -> None:
    tried = Tried(probe=PROBE, attempts=3, connected=1, silent=2, explained=1)
    first = add(None, tried, None)
    assert first == Tally(attempts=3, connected=1, silent=2, explained=1)
    assert first.left is None
    second = add(first, msgspec.structs.replace(tried, left=3), seen(arrived=2))
    assert (second.attempts, second.left, second.arrived, second.delivered) == (6, 3, 2, None)
    assert add(second, tried, seen(arrived=0)).arrived == 2


def seen(arrived: int) -> SeenPort:
    return SeenPort(address=PEER, port=4242, arrived=arrived)


# -- bursts


@pytest.mark.parametrize(
    ("known", "needed"),
    [
        (Tally(), False),
        (tally(3), True),
        (tally(3, arrived=0), True),
        (tally(3, left=3), True),
        (tally(3, left=3, arrived=0), False),
        (tally(3, left=3, arrived=3), False),
        # Whether these came to the socket its table does not show.
        (tally(3, left=3, arrived=3, unlisted=True), True),
        (tally(3, left=3, arrived=3, answered=3, unlisted=True), True),
        (Tally(attempts=3, explained=1), False),
        (tally(3, connected=3), False),
        (tally(3, connected=3, delivered=0), True),
        (tally(3, connected=3, delivered=0, arrived=3), False),
    ],
)
def test_a_burst_asks_only_what_no_witness_has_told(known: Tally, *, needed: bool) -> None:
    assert bool(burst_probes([(PROBE, known)])) == needed


def test_one_burst_serves_all_ports_of_one_fate() -> None:
    (plan,) = first_round(1, SOURCE, [PEER], ["tcp:1-50"])
    known = [(probe, tally(3, refused=3 if probe.port > 40 else 0)) for probe in plan.probes]
    assert [probe.port for probe in burst_probes(known)] == [1, 41]


@given(st.binary(min_size=200, max_size=200))
def test_a_burst_is_one_that_the_other_side_accepts(random: bytes) -> None:
    plan = burst_round(3, SOURCE, PROBE, lambda size: random[:size])
    assert well_formed(plan)
    assert (plan.kind, plan.number, plan.probes) == (BURST, 3, (PROBE,))
    assert {"0", "1"} == set(plan.pattern)


@pytest.mark.parametrize(
    ("kind", "pattern", "count"),
    [
        ("connect", "01", 1),
        ("flood", "", 1),
        (BURST, "", 1),
        (BURST, "01", 0),
        (BURST, "01", 2),
        (BURST, "012", 1),
        (BURST, "1" * 1000, 1),
    ],
)
def test_other_rounds_are_not_accepted(kind: str, pattern: str, count: int) -> None:
    plan = RoundPlan(
        number=1, kind=kind, prober=SOURCE, attempts=3, probes=(PROBE,) * count, pattern=pattern
    )
    assert not well_formed(plan)


# -- rounds for which the observer first opens its router

OUTSIDE = Probe(transport="tcp", address=PUBLIC, port=4242)
SILENT = tally(3)


def openings(
    known: list[tuple[Probe, Tally]], own: tuple[str, ...] = (PEER,), random: bytes = bytes(4)
) -> list[RoundPlan]:
    return pinhole_rounds(5, SOURCE, known, own, lambda size: random[:size])


@given(st.binary(min_size=4, max_size=4))
def test_a_pinhole_has_ports_of_its_own_and_is_one_that_the_other_side_accepts(
    random: bytes,
) -> None:
    (plan,) = openings([(OUTSIDE, SILENT)], random=random)
    assert well_formed(plan)
    assert (plan.kind, plan.number, plan.prober, plan.probes) == (PINHOLE, 5, SOURCE, (OUTSIDE,))
    assert len(set(plan.local_ports)) == len(plan.local_ports) == plan.attempts == PINHOLE_ATTEMPTS
    assert all(25_000 <= port <= 32_000 for port in plan.local_ports)


@pytest.mark.parametrize(
    ("probe", "known"),
    [
        (PROBE, SILENT),
        (Probe(transport="tcp", address=f"::ffff:{PEER}", port=4242), SILENT),
        (OUTSIDE, tally(3, connected=1)),
        (OUTSIDE, tally(3, refused=1)),
        (OUTSIDE, tally(3, arrived=1)),
        (OUTSIDE, tally(3, delivered=1)),
        (OUTSIDE, Tally(attempts=3, silent=3, mapped=True)),
    ],
    ids=["own", "own, written otherwise", "connected", "refused", "arrived", "taken", "passed on"],
)
def test_no_pinhole_where_it_would_tell_nothing(probe: Probe, known: Tally) -> None:
    assert openings([(probe, known)]) == []


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_pinholes_are_few_and_numbered(count: int) -> None:
    probes = [Probe(transport="tcp", address=PUBLIC, port=port) for port in range(1, count + 1)]
    plans = openings([(probe, SILENT) for probe in probes])
    assert [plan.probes for plan in plans] == [(probe,) for probe in probes[:MAX_PINHOLES]]
    assert [plan.number for plan in plans] == list(range(5, 5 + len(plans)))


def test_the_router_is_asked_for_what_does_not_come_in() -> None:
    known = [
        (PROBE, SILENT),
        (OUTSIDE, SILENT),
        (Probe(transport="tcp", address=PUBLIC, port=1), tally(3, refused=3)),
        (Probe(transport="tcp", address=PUBLIC, port=2), tally(3, arrived=3)),
        (Probe(transport="tcp", address=PUBLIC, port=3), tally(3, connected=3, delivered=3)),
    ]
    (plan,) = mapped_rounds(7, SOURCE, known, (PEER,))
    assert well_formed(plan)
    assert (plan.kind, plan.number, plan.local_ports) == (MAPPED, 7, ())
    assert [probe.port for probe in plan.probes] == [4242, 1]
    assert mapped_rounds(7, SOURCE, known[:1], (PEER,)) == []


def test_the_router_is_asked_for_few_ports() -> None:
    known = [(Probe(transport="tcp", address=PUBLIC, port=n), SILENT) for n in range(1, 50)]
    (plan,) = mapped_rounds(7, SOURCE, known, (PEER,))
    assert len(plan.probes) == MAX_MAPPED
    assert well_formed(plan)


PINHOLES = (30_000, 30_001, 30_002)


@pytest.mark.parametrize(
    ("kind", "attempts", "count", "ports"),
    [
        (PINHOLE, 3, 1, ()),
        (PINHOLE, 3, 1, PINHOLES[:2]),
        (PINHOLE, 3, 1, (*PINHOLES, 30_003)),
        (PINHOLE, 3, 1, (80, 30_001, 30_002)),
        (PINHOLE, 3, 1, (30_000, 30_001, 60_000)),
        (PINHOLE, 3, 0, ()),
        (PINHOLE, 3, 2, PINHOLES * 2),
        (PINHOLE, 32, 1, PINHOLES * 11),
        (MAPPED, 3, MAX_MAPPED + 1, ()),
        (MAPPED, 3, 1, PINHOLES),
        ("connect", 3, 1, PINHOLES),
        (BURST, 3, 1, PINHOLES),
    ],
)
def test_openings_out_of_bounds_are_not_accepted(
    kind: str, attempts: int, count: int, ports: tuple[int, ...]
) -> None:
    plan = RoundPlan(
        number=1,
        kind=kind,
        prober=SOURCE,
        attempts=attempts,
        probes=(OUTSIDE,) * count,
        pattern="01" if kind == BURST else "",
        local_ports=ports,
    )
    assert not well_formed(plan)
    for pattern in ("1",) if kind in (PINHOLE, MAPPED) else ():
        assert not well_formed(msgspec.structs.replace(plan, pattern=pattern))


def test_what_was_seen_to_be_passed_on_stays_so() -> None:
    tried = Tried(probe=OUTSIDE, attempts=3, connected=0, silent=3, mapped=True)
    known = add(None, tried, None)
    assert known.mapped
    assert add(known, msgspec.structs.replace(tried, mapped=False), None).mapped


@pytest.mark.parametrize(
    ("attempts", "void", "again"),
    [
        (0, 3, True),
        (0, MAX_ATTEMPTS - 1, True),
        (0, MAX_ATTEMPTS, False),
        (4, 11, True),
        (15, 3, False),
    ],
)
def test_attempts_without_a_route_are_none(attempts: int, void: int, *, again: bool) -> None:
    tried = Tried(probe=PROBE, attempts=attempts, connected=0, silent=attempts, left=0, void=void)
    (last,) = first_round(1, SOURCE, [PEER], ["tcp:4242"])
    plan = further_round(2, last, [(PROBE, add(None, tried, None))])
    assert (plan is not None) is again
    pinholes = pinhole_rounds(2, "source", [(PROBE, add(None, tried, None))], [], bytes)
    assert bool(pinholes) is bool(attempts)


# -- samples and loss


def entropy(size: int) -> bytes:
    return bytes(range(1, size + 1))


@pytest.mark.parametrize(
    ("tally", "sampled"),
    [
        (Tally(attempts=1, connected=1), False),
        (Tally(attempts=1, connected=1, routed=True), True),
        (Tally(attempts=3, connected=2, silent=1), True),
        (Tally(attempts=15, silent=15, routed=True), False),
        (Tally(attempts=3, routed=True), False),
    ],
    ids=["on one segment", "across a router", "some failed", "all are silent", "all are refused"],
)
def test_what_is_sampled(tally: Tally, *, sampled: bool) -> None:
    plans = sample_rounds(5, SOURCE, [(PROBE, tally)], entropy)
    assert [plan.kind for plan in plans] == [SAMPLE] * sampled
    for plan in plans:
        assert (plan.number, plan.attempts, plan.probes) == (5, MAX_WAVES, (PROBE,))
        assert len(set(plan.local_ports)) == TUPLES
        assert well_formed(plan)


def test_few_probes_are_sampled_and_no_udp() -> None:
    connects = Tally(attempts=1, connected=1, routed=True)
    probes = [Probe(transport="tcp", address=PEER, port=port) for port in range(1, 9)]
    plans = sample_rounds(1, SOURCE, [(probe, connects) for probe in probes], entropy)
    assert [plan.probes[0].port for plan in plans] == list(range(1, 1 + MAX_SAMPLED))
    udp = Probe(transport="udp", address=PEER, port=4242)
    assert sample_rounds(1, SOURCE, [(udp, connects)], entropy) == []


@pytest.mark.parametrize(
    ("tally", "lost"),
    [
        (Tally(attempts=3, connected=3), False),
        (Tally(attempts=3, silent=3), False),
        (Tally(attempts=3, connected=2, silent=1), True),
        (Tally(), False),
    ],
)
def test_different_fates_at_one_port_are_loss(tally: Tally, *, lost: bool) -> None:
    assert loses([(PROBE, tally)]) == lost


def test_loss_is_measured_at_the_control_port_of_one_address() -> None:
    tallies = [(Probe(transport="tcp", address=a, port=4242), Tally()) for a in (PEER, OTHER)]
    plans = loss_rounds(3, SOURCE, tallies, 24242)
    assert [plan.probes for plan in plans] == [
        (Probe(transport="tcp", address=PEER, port=24242),)
    ] * MAX_MEASURED
    assert {plan.attempts for plan in plans} == {LOSS_ATTEMPTS}
    assert all(plan.kind == LOSS and well_formed(plan) for plan in plans)
    assert loss_rounds(3, SOURCE, tallies, 0) == []
    assert loss_rounds(3, SOURCE, [], 24242) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"local_ports": (80,) * TUPLES},
        {"local_ports": tuple(range(30_000, 30_000 + TUPLES - 1))},
        {"attempts": MAX_WAVES - 1},
        {"probes": (PROBE, PROBE)},
        {"pattern": "10"},
    ],
)
def test_a_sample_of_another_size_is_refused(changes: dict[str, object]) -> None:
    (plan,) = sample_rounds(1, SOURCE, [(PROBE, Tally(connected=1, routed=True))], entropy)
    assert not well_formed(msgspec.structs.replace(plan, **changes))
