"""Sweeps: the fates of ports, those that are alike, and what a few of them say of the others."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

import pytest
from msgspec.structs import replace

from bothends_protocol.errors import ProtocolError
from bothends_protocol.evidence import Probe, RoundPlan, Swept, Witness
from bothends_protocol.messages import Seen, write_message
from bothends_protocol.pairing import SOURCE
from bothends_protocol.plan import MAX_WAVE, SWEEP, sweep_rounds, swept_ports, well_formed
from bothends_protocol.ports import PortSet, pack_ports, parse_ports
from bothends_protocol.spread import spread_over
from bothends_protocol.sweeps import (
    CUTS,
    MAX_HELD,
    MAX_STAND,
    Sweep,
    answered,
    between,
    choose,
    sample,
    sweep_between,
    sweep_of,
    unsettled,
)
from evidence_builder import THERE, Story

ALL = range(1000, 1100)


def plans(ports: Iterable[int] = ALL, room: int = MAX_WAVE, number: int = 1) -> list[RoundPlan]:
    return sweep_rounds(number, SOURCE, THERE, list(ports), room)


def told(number: int = 1, /, **sets: Iterable[int]) -> Swept:
    packed = {name: pack_ports(ports) for name, ports in sets.items()}
    return Swept(round=number, transport="tcp", address=THERE, sets=packed)


def swept(sent: Mapping[str, Iterable[int]], came: Mapping[str, Iterable[int]]) -> Sweep:
    found = sweep_of(plans(), SOURCE, [told(**sent)], [told(**came)])
    assert found is not None
    return found


# -- the rounds


@pytest.mark.parametrize(("room", "sizes"), [(20_000, [8192, 8192, 94]), (900, [900] * 18 + [278])])
def test_a_wave_has_no_more_ports_than_both_sides_have_room_for(
    room: int, sizes: list[int]
) -> None:
    wanted = [*range(1024, 14_501), *range(49_000, 52_001)]
    rounds = plans(wanted, room)
    assert [len(swept_ports(plan)) for plan in rounds] == sizes
    assert [port for plan in rounds for port in swept_ports(plan)] == wanted
    assert [plan.number for plan in rounds] == list(range(1, len(sizes) + 1))
    assert all(map(well_formed, rounds))


@pytest.mark.parametrize(
    "plan",
    [
        RoundPlan(
            number=1,
            kind=SWEEP,
            prober=SOURCE,
            attempts=attempts,
            probes=tuple(Probe(transport=name, address=THERE, port=1) for name in transports),
            ports=ports,
        )
        for attempts, transports, ports in [
            (2, ("tcp",), pack_ports([1])),
            (1, ("tcp", "tcp"), pack_ports([1])),
            (1, ("udp",), pack_ports([1])),
            (1, ("tcp",), b""),
            (1, ("tcp",), b"no ports"),
            (1, ("tcp",), pack_ports(range(1, MAX_WAVE + 2))),
        ]
    ],
    ids=["twice", "two places", "udp", "no ports", "nonsense", "too many"],
)
def test_a_sweep_out_of_bounds_is_refused(plan: RoundPlan) -> None:
    assert not well_formed(plan)


# -- fates


def test_ports_of_one_fate_are_together_the_most_first() -> None:
    sweep = swept(
        {"silent": range(1000, 1090), "connected": range(1090, 1100), "left": ALL},
        {"arrived": [*range(1000, 1050), *range(1090, 1100)], "taken": range(1090, 1100)},
    )
    assert sweep.alike() == [
        tuple(range(1000, 1050)),
        tuple(range(1050, 1090)),
        tuple(range(1090, 1100)),
    ]
    assert sweep.came_seen
    assert not sweep.refused_by_icmp
    assert sweep.placed(1000)


def test_what_came_through_in_the_end_is_as_what_came_through_at_once() -> None:
    rounds = [*plans(), *plans([1000, 1001], number=2)]
    sent = [
        told(connected=range(1002, 1100), silent=[1000, 1001]),
        told(2, connected=[1000], silent=[1001]),
    ]
    came = [
        told(arrived=[1000, *range(1002, 1100)], accepted=ALL[2:], taken=ALL[2:]),
        told(2, arrived=[1000], accepted=[1000], taken=[1000]),
    ]
    sweep = sweep_of(rounds, SOURCE, sent, came)
    assert sweep is not None
    assert sweep.alike() == [(1000, *range(1002, 1100)), (1001,)]


@pytest.mark.parametrize(
    ("came", "again"),
    [
        ({"arrived": [1000]}, False),
        ({"arrived": [1000], "accepted": [1000]}, True),
        ({"arrived": []}, True),
        ({}, True),
    ],
    ids=["stopped here", "the answer was lost", "did not come", "nobody saw"],
)
def test_what_may_have_been_lost_is_asked_again(
    came: Mapping[str, Iterable[int]],
    again: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    sweep = swept({"silent": [1000], "connected": ALL[1:]}, came)
    assert unsettled(sweep) == [1000] * again


def test_what_no_request_was_sent_to_has_no_fate() -> None:
    found = sweep_of([*plans(), *plans([1], number=2)], SOURCE, [told(silent=ALL)], [told()])
    assert found is not None
    assert sorted(found.fates) == list(ALL)
    assert sweep_of(plans(), SOURCE, [], [told(arrived=ALL)]) is None
    assert sweep_of([], SOURCE, [told(silent=ALL)], []) is None


def test_answers_are_waited_for_where_the_other_side_gave_one() -> None:
    assert answered(told(accepted=[1], reset=[2], taken=[3], arrived=[4])) == {1, 2, 3}
    assert answered(None) == frozenset()


def test_a_set_larger_than_a_wave_is_refused() -> None:
    with pytest.raises(ProtocolError):
        sweep_of(plans(), SOURCE, [told(silent=range(1, MAX_WAVE + 2))], [])


def test_an_answer_that_waits_and_one_that_was_kept_are_two_fates() -> None:
    sets = {"arrived": ALL, "own": ALL, "pending": range(1000, 1050)}
    sweep = swept({"silent": ALL}, sets)
    assert sweep.alike() == [tuple(range(1000, 1050)), tuple(range(1050, 1100))]
    # One that was seen to leave no longer matters in the table.
    sweep = swept({"silent": ALL}, {**sets, "accepted": ALL})
    assert sweep.alike() == [tuple(ALL)]


def test_a_port_that_answers_another_time_shows_that_packets_are_lost() -> None:
    rounds = [*plans(), *plans([1000], number=2)]
    sent = [told(silent=[1000], connected=ALL[1:]), told(2, connected=[1000])]
    sweep = sweep_of(rounds, SOURCE, sent, [told(arrived=ALL), told(2, arrived=[1000])])
    assert sweep is not None
    assert sweep.loses
    assert not swept({"silent": ALL}, {}).loses


NO_SET: tuple[int, ...] = ()
LEFT = {"silent": ALL, "left": ALL, "returned": NO_SET}


@pytest.mark.parametrize(
    ("sent", "came", "placed"),
    [
        ({"connected": ALL}, {"taken": ALL, "own": ALL}, True),
        ({"connected": ALL}, {"arrived": ALL, "held": ALL}, False),
        ({"silent": ALL}, {"arrived": ALL}, True),
        ({"silent": ALL}, {}, False),
        ({"silent": ALL}, {"arrived": NO_SET}, False),
        (LEFT, {"arrived": NO_SET}, True),
        ({"silent": ALL}, {"arrived": ALL, "accepted": ALL}, False),
        (LEFT, {"arrived": ALL, "accepted": ALL}, True),
        ({"refused": ALL}, {"arrived": ALL, "reset": ALL, "own": ALL}, True),
        ({"refused": ALL}, {"arrived": ALL, "reset": ALL}, False),
        ({"failed": ALL}, {"arrived": NO_SET}, False),
    ],
    ids=[
        "taken by the agent",
        "taken for a program",
        "kept by the destination",
        "nobody saw",
        "did not come, and nobody saw it leave",
        "left and did not come",
        "answered, and nobody saw it come back",
        "answered, and it did not come back",
        "refused where the agent listens",
        "refused where nobody listens",
        "not sent",
    ],
)
def test_others_are_stood_for_where_it_was_seen_how_far_each_got(
    sent: Mapping[str, Iterable[int]],
    came: Mapping[str, Iterable[int]],
    placed: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    assert swept(dict(sent), dict(came)).placed(1050) == placed


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_witness_that_missed_packets_does_not_show_that_there_were_none(side: str) -> None:
    source, destination = Story().evidence()
    ends = [
        replace(source, rounds=tuple(plans()), swept=(told(**LEFT),)),
        replace(destination, swept=(told(arrived=ALL[:50]),)),
    ]
    found = sweep_between(*ends)
    assert found is not None
    assert found.placed(1000)
    assert found.placed(1099)
    missed = Witness(name="packets", available=True, lost=1)
    changed = [replace(end, witnesses=(missed,)) if end.role == side else end for end in ends]
    found = sweep_between(*changed)
    assert found is not None
    # What it saw was there; what it did not see may have been.
    assert found.placed(1000)
    assert not found.placed(1099)


def test_where_packets_are_lost_nothing_between_the_hosts_is_stood_for() -> None:
    rounds = [*plans(), *plans([1000], number=2)]
    sent = [
        told(silent=ALL[:50], connected=ALL[50:], left=ALL),
        told(2, refused=[1000], left=[1000]),
    ]
    came = [told(arrived=ALL[50:], own=ALL), told(2, arrived=[1000], reset=[1000])]
    sweep = sweep_of(rounds, SOURCE, sent, came)
    assert sweep is not None
    assert not sweep.placed(1001)
    # What never left the source was kept there, and not lost.
    kept = [replace(sent[0], sets=told(silent=ALL[:50], connected=ALL[50:], left=[]).sets), sent[1]]
    sweep = sweep_of(rounds, SOURCE, kept, came)
    assert sweep is not None
    assert sweep.placed(1001)


@pytest.mark.parametrize(
    ("rounds", "sent"),
    [
        ([replace(plans()[0], probes=())], [told(silent=ALL)]),
        ([replace(plans()[0], ports=b"nonsense")], [told(silent=ALL)]),
        (plans(), [told(silent=ALL), told(silent=ALL)]),
        ([plans(range(1, 8193), number=n)[0] for n in range(1, 50)], [told(silent=ALL)]),
    ],
    ids=["nowhere", "no ports", "told twice", "without end"],
)
def test_what_no_agent_writes_is_refused(rounds: list[RoundPlan], sent: list[Swept]) -> None:
    with pytest.raises(ProtocolError):
        sweep_of(rounds, SOURCE, sent, [])


# -- who stands for the others


def test_the_first_the_last_and_one_between_are_tested_in_depth() -> None:
    sets = {"silent": range(1000, 1090), "connected": range(1090, 1100)}
    sweep = swept(sets, {"arrived": ALL})
    assert choose(sweep, [1003, 4242]) == [1000, 1003, 1044, 1089, 1090, 1094, 1099]


def test_a_sample_has_both_ends_and_the_ports_of_programs() -> None:
    wanted = [*range(1024, 14_501), *range(49_000, 52_001)]
    found = sample(wanted, 256, [4242, 22, 51_999])
    assert 250 < len(found) <= 256 + 2
    assert {1024, 52_000, 4242, 51_999} <= set(found)
    assert set(found) <= set(wanted)
    assert sample([5, 6, 7], 256) == [5, 6, 7]
    assert len(sample(range(1, 65_536), 256, range(1, 65_536))) <= 256 + MAX_HELD


def test_between_ports_that_fared_differently_others_are_tried_to_the_very_edge() -> None:
    wanted = range(1000, 2000)
    shut = range(1234, 1777)
    asked = set(sample(wanted, 20))
    waves = 0
    while True:
        silent, taken = asked & {*shut}, asked - {*shut}
        found = sweep_of(
            plans(asked),
            SOURCE,
            [told(silent=silent, connected=taken, left=asked)],
            [told(arrived=asked, accepted=taken, taken=taken)],
        )
        assert found is not None
        further = between(found, wanted, 100)
        if not further:
            break
        assert len(further) <= 2 * (CUTS + 1)
        assert not asked & set(further)
        asked |= set(further)
        waves += 1
    assert {1233, 1234, 1776, 1777} <= asked
    assert waves <= 3
    assert len(asked) < 20 + 40


def test_a_programs_port_is_no_edge() -> None:
    found = swept(
        {"connected": [1000, 1099], "left": [1000, 1099]},
        {"arrived": [1000, 1099], "taken": [1000, 1099], "held": [1050]},
    )
    assert between(found, ALL, 100) == []


def test_no_more_are_tried_between_than_allowed() -> None:
    found = swept(
        {"connected": [1000], "silent": [1099], "left": [1000, 1099]},
        {"arrived": [1000, 1099], "taken": [1000]},
    )
    assert len(between(found, ALL, 100)) == CUTS + 1
    assert len(between(found, ALL, 3)) == 3


def test_who_seeks_a_free_port_leaves_programs_alone() -> None:
    found = swept(
        {"connected": [1000, 1099], "left": [1000, 1099]},
        {"arrived": [1000, 1099], "taken": [1000, 1099], "held": [1050]},
    )
    assert choose(found, []) == [1000, 1050, 1099]
    assert choose(found, [], seeks=True) == [1000, 1099]


def test_of_many_fates_the_largest_are_tested_in_depth() -> None:
    sweep = Sweep(THERE, {port: port for port in ALL}, sent_seen=True, came_seen=True)
    assert len(choose(sweep, [])) == MAX_STAND


def evidence(
    ports: str, sent: Mapping[str, Iterable[int]], came: Mapping[str, Iterable[int]]
) -> tuple[Sweep, list[PortSet]]:
    return swept(dict(sent), dict(came)), parse_ports(ports)


def place(port: int) -> tuple[str, str, int]:
    return "tcp", THERE, port


DROPPED = {"silent": ALL}, {"arrived": ALL}
CHOSEN = (1000, 1049, 1099)
REST = tuple(port for port in ALL if port not in CHOSEN)


def test_ports_that_were_tested_in_depth_stand_for_those_that_fared_alike() -> None:
    both = evidence("tcp:1000-1099", *DROPPED)
    found = spread_over([("drop", [*map(place, CHOSEN)]), ("open", [place(4242)])], *both)
    assert found.also == (REST, ())
    assert found.left == ()


def test_where_they_differ_nothing_is_claimed_of_the_others() -> None:
    both = evidence("tcp:1000-1099", *DROPPED)
    groups = [("drop", [place(1000), place(1049)]), ("hung", [place(1099)])]
    found = spread_over(groups, *both)
    assert found.also == ((), ())
    assert [(part.ports, part.like) for part in found.left] == [(REST, (0, 1))]
    # What was found in two checks alike is one finding all the same.
    alike = [("drop", [place(1000), place(1049)]), ("drop", [place(1099)])]
    assert spread_over(alike, *both).also == (REST, ())
    # Where the time ran out before all of them were tested, they say too little.
    assert spread_over(groups[:1], *both).also == ((),)


def test_without_packets_silence_stands_for_itself_and_what_came_through_for_all() -> None:
    sent = {"silent": range(1000, 1050), "connected": range(1050, 1100)}
    both = evidence("tcp:1000-1099", sent, {"own": ALL, "taken": range(1050, 1100)})
    groups = [
        ("drop", [*map(place, (1000, 1024, 1049))]),
        ("open", [*map(place, (1050, 1074, 1099))]),
    ]
    found = spread_over(groups, *both)
    through = tuple(port for port in range(1050, 1100) if port not in {1050, 1074, 1099})
    assert found.also == ((), through)
    assert [part.outcome for part in found.left] == ["silent"]


def test_ports_without_a_request_are_named_and_nothing_is_claimed_of_them() -> None:
    both = evidence("tcp:1000-1199", *DROPPED)
    found = spread_over([("drop", [*map(place, CHOSEN)])], *both)
    assert [part.ports for part in found.left] == [tuple(range(1100, 1200))]
    assert "no request" in found.left[0].why


def test_another_address_has_its_own_ports_without_a_request() -> None:
    both = evidence("tcp:1000-1099", *DROPPED)
    there = [("tcp", "192.0.2.9", port) for port in CHOSEN]
    found = spread_over([("drop", [*map(place, CHOSEN)]), ("open", there)], *both)
    assert found.also == (REST, ())
    assert [(part.address, part.ports) for part in found.left] == [("192.0.2.9", REST)]


def test_one_program_does_not_stand_for_another() -> None:
    both = evidence("tcp:1000-1099", {"connected": ALL}, {"arrived": ALL, "held": ALL})
    found = spread_over([("open", [*map(place, CHOSEN)])], *both)
    assert found.also == ((),)
    assert [part.outcome for part in found.left] == ["connected"]


def test_without_a_sweep_each_stands_for_itself() -> None:
    assert spread_over([("open", [place(4242)])], None, parse_ports("1-9")).also == ((),)


def test_a_report_of_all_ports_stays_small() -> None:
    drawn = random.Random(7)
    fates: dict[str, list[int]] = {name: [] for name in ("arrived", "accepted", "reset", "own")}
    for port in range(1, 65536):
        if name := drawn.choice(["", *fates]):
            fates[name].append(port)
    size = 0
    for first in range(1, 65536, MAX_WAVE):
        wave = range(first, first + MAX_WAVE)
        parts = {name: [p for p in ports if p in wave] for name, ports in fates.items()}
        size += len(write_message(Seen(number=1, swept=told(**parts))))
    assert size < 64 * 1024
