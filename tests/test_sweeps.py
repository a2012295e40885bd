"""Sweeps: the fates of ports, those that are alike, and what a few of them say of the others."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

import pytest

from bothends_protocol.errors import ProtocolError
from bothends_protocol.evidence import Evidence, Probe, RoundPlan, Swept
from bothends_protocol.messages import Seen, write_message
from bothends_protocol.pairing import SOURCE
from bothends_protocol.plan import MAX_WAVE, SWEEP, sweep_rounds, swept_ports, well_formed
from bothends_protocol.ports import pack_ports
from bothends_protocol.spread import spread_over
from bothends_protocol.sweeps import MAX_STAND, Sweep, answered, choose, sweep_of, unsettled
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


WAVE = range(2000, 2400)


def counted(counts: dict[str, int], sent: dict[str, int], **sets: Iterable[int]) -> Sweep:
    from msgspec.structs import replace  # noqa: PLC0415

    found = sweep_of(
        plans(WAVE),
        SOURCE,
        [replace(told(**(sets or {"silent": WAVE})), counts=sent)],
        [replace(told(own=WAVE), counts=counts)],
    )
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("received", "delivered", "placed", "settled"),
    [
        (400, 0, True, True),
        (420, 20, True, True),
        (399, 0, False, False),
        (460, 60, False, False),
        (400, 400, True, True),
        (400, 200, False, False),
        (12, 12, True, False),
    ],
    ids=["kept", "beside a few", "one less", "many others", "handed on", "some", "none came"],
)
def test_without_packets_counters_tell_of_whole_waves(
    received: int,
    delivered: int,
    placed: bool,  # noqa: FBT001  a parameter of the test
    settled: bool,  # noqa: FBT001
) -> None:
    sweep = counted({"received": received, "delivered": delivered}, {})
    assert sweep.placed(2000) == placed
    assert (unsettled(sweep) == []) == settled


def test_counters_of_the_sender_tell_requests_that_never_left() -> None:
    none = counted({"received": 3, "delivered": 3}, {"transmitted": 8})
    all_ = counted({"received": 3, "delivered": 3}, {"transmitted": 408})
    assert none.fates[2000] != all_.fates[2000]


def test_counters_say_nothing_where_something_came_through() -> None:
    counts = {"received": 400, "delivered": 0}
    sweep = counted(counts, {}, silent=WAVE[1:], connected=WAVE[:1])
    assert not sweep.placed(2000)
    few = sweep_of(plans(range(1, 50)), SOURCE, [told(silent=range(1, 50))], [told()])
    assert few is not None
    assert not few.placed(1)


def test_what_is_asked_again_for_the_counters_is_sorted_by_what_was_met() -> None:
    sweep = swept({"silent": ALL[::2], "refused": ALL[1::2]}, {"own": ALL})
    assert unsettled(sweep) == [*ALL[1::2], *ALL[::2]]


def test_where_no_packets_are_seen_one_of_each_fate_is_tested_in_depth() -> None:
    sweep = swept({"silent": range(1000, 1090), "connected": range(1090, 1100)}, {"own": ALL})
    assert choose(sweep, []) == [1044, 1090, 1094, 1099]


# -- who stands for the others


def test_the_first_the_last_and_one_between_are_tested_in_depth() -> None:
    sets = {"silent": range(1000, 1090), "connected": range(1090, 1100)}
    sweep = swept(sets, {"arrived": ALL})
    assert choose(sweep, [1003, 4242]) == [1000, 1003, 1044, 1089, 1090, 1094, 1099]


def test_of_many_fates_the_largest_are_tested_in_depth() -> None:
    sweep = Sweep(THERE, {port: port for port in ALL}, came_seen=True)
    assert len(choose(sweep, [])) == MAX_STAND


def evidence(
    ports: str, sent: Mapping[str, Iterable[int]], came: Mapping[str, Iterable[int]]
) -> tuple[Evidence, Evidence]:
    from msgspec.structs import replace  # noqa: PLC0415

    source, destination = Story().evidence()
    rounds = tuple(plans())
    return (
        replace(source, rounds=rounds, swept=(told(**sent),)),
        replace(destination, rounds=rounds, swept=(told(**came),), ports=(ports,)),
    )


def place(port: int) -> tuple[str, str, int]:
    return "tcp", THERE, port


DROPPED = {"silent": ALL}, {"arrived": ALL}


def test_ports_that_were_tested_in_depth_stand_for_those_that_fared_alike() -> None:
    both = evidence("tcp:1000-1099", *DROPPED)
    found = spread_over([("drop", [place(1000), place(1099)]), ("open", [place(4242)])], *both)
    assert found.also == (tuple(range(1001, 1099)), ())
    assert found.left == ()


def test_where_they_differ_nothing_is_claimed_of_the_others() -> None:
    both = evidence("tcp:1000-1099", *DROPPED)
    groups = [("drop", [place(1000)]), ("hung", [place(1099)])]
    found = spread_over(groups, *both)
    assert found.also == ((), ())
    assert [(part.ports, part.like) for part in found.left] == [(tuple(range(1001, 1099)), (0, 1))]
    # What was found in two checks alike is one finding all the same.
    alike = [("drop", [place(1000)]), ("drop", [place(1099)])]
    assert spread_over(alike, *both).also == (tuple(range(1001, 1099)), ())


def test_without_packets_silence_stands_for_itself_and_what_came_through_for_all() -> None:
    sent = {"silent": range(1000, 1050), "connected": range(1050, 1100)}
    both = evidence("tcp:1000-1099", sent, {"own": ALL, "taken": range(1050, 1100)})
    found = spread_over([("drop", [place(1000)]), ("open", [place(1050)])], *both)
    assert found.also == ((), tuple(range(1051, 1100)))
    assert [part.ports for part in found.left] == [tuple(range(1001, 1050))]


def test_ports_without_a_request_are_named_and_nothing_is_claimed_of_them() -> None:
    both = evidence("tcp:1000-1199", *DROPPED)
    found = spread_over([("drop", [place(1000)])], *both)
    assert [part.ports for part in found.left] == [tuple(range(1100, 1200))]
    assert "no request" in found.left[0].why


def test_without_a_sweep_each_stands_for_itself() -> None:
    source, destination = Story().evidence()
    assert spread_over([("open", [place(4242)])], source, destination).also == ((),)


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
