"""Large packets in the verdict: told evidence, and what both sides must make of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import pytest

from bothends_protocol.errors import ProtocolError
from bothends_protocol.evidence import Address, Evidence, Sized, read_evidence
from bothends_protocol.judge import judge
from bothends_protocol.mtu import CODE
from bothends_protocol.pairing import DESTINATION, SOURCE
from bothends_protocol.shortened import shorten
from bothends_protocol.sizes import CONTROL, FROM, NATURAL, TO
from bothends_protocol.verdict import Check, Verdict
from bothends_protocol.wire import pack
from evidence_builder import DROPPED, HERE, OPEN, THERE, Fate, Story

PASSING = 1400
"""Bytes of the largest packet that passes a way which swallows others."""

SIZES = (536, 1360, 1400)


def rows(way: str, *, swallows: bool, searches: bool = False, dialler: str = SOURCE) -> list[Sized]:
    """What who dialled writes down of one way, once the two know."""
    ends = (THERE, HERE) if dialler == SOURCE else (HERE, THERE)

    def row(asked: int, packet: int, count: int) -> Sized:
        passed = 0 if swallows and packet > PASSING else count
        return Sized(
            address=ends[0],
            local=ends[1],
            way=way,
            asked=asked,
            packet=packet,
            begun=count,
            passed=passed,
            seconds=0.001 if passed else 0.0,
            watched=0.0 if passed else 0.6,
            again=0 if passed or way == FROM else 2 * count,
            searches=searches,
        )

    count = 12 if swallows else 2
    found = [row(NATURAL, 1500, count), row(CONTROL, CONTROL + 40, count)]
    return found + [row(size, size + 40, 2) for size in SIZES] * swallows


def verdict(*sized: Sequence[Sized], story: Story | None = None, dialler: str = SOURCE) -> Verdict:
    evidence = dict(zip((SOURCE, DESTINATION), (story or Story()).evidence(), strict=True))
    more = tuple(one for part in sized for one in part)
    evidence[dialler] = msgspec.structs.replace(evidence[dialler], sized=more)
    found = judge(evidence[SOURCE], evidence[DESTINATION])
    assert judge(evidence[SOURCE], evidence[DESTINATION]) == found
    short = _shortened(evidence[SOURCE], evidence[DESTINATION])
    assert msgspec.structs.replace(judge(*short), verdict_id=found.verdict_id) == found
    return found


def _shortened(source: Evidence, destination: Evidence) -> tuple[Evidence, Evidence]:
    return shorten(source, destination).evidence, shorten(destination, source).evidence


def the_check(found: Verdict) -> Check:
    (check,) = found.checks
    return check


def states(check: Check) -> dict[str, str]:
    return {segment.name: segment.status for segment in check.segments}


def test_an_open_way_that_takes_large_packets_is_open() -> None:
    found = verdict(rows(TO, swallows=False), rows(FROM, swallows=False))
    assert (found.status, found.reachable, found.blockers) == ("open", "yes", ())
    assert the_check(found).notes == verdict().checks[0].notes


def test_a_paste_holds_nothing_of_it_where_there_is_nothing_to_say() -> None:
    source, destination = Story().evidence()
    well = (*rows(TO, swallows=False), *rows(FROM, swallows=False))
    for sized, kept in ((well, ()), (well[:2], well[:2]), (rows(TO, swallows=True), None)):
        full = msgspec.structs.replace(source, sized=tuple(sized))
        assert _shortened(full, destination)[0].sized == (tuple(sized) if kept is None else kept)


@pytest.mark.parametrize("dialler", [SOURCE, DESTINATION])
@pytest.mark.parametrize("swallowing", [{SOURCE}, {DESTINATION}, {SOURCE, DESTINATION}])
def test_either_direction_blocks_and_is_named(dialler: str, swallowing: set[str]) -> None:
    ways = {TO: dialler, FROM: DESTINATION if dialler == SOURCE else SOURCE}
    found = verdict(
        *(
            rows(way, swallows=sender in swallowing, dialler=dialler)
            for way, sender in ways.items()
        ),
        dialler=dialler,
    )
    assert (found.status, found.reachable, found.blockers) == ("blocked", "no", (CODE,))
    check = the_check(found)
    (blocker,) = check.blockers
    assert blocker.confidence == "proven"
    text = " ".join(blocker.because)
    for sender, receiver in ((SOURCE, DESTINATION), (DESTINATION, SOURCE)):
        blamed = f"From the {sender} to the {receiver} none of 12 full packets of 1,500 bytes"
        assert (blamed in text) == (sender in swallowing)
        fine = f"From the {sender} to the {receiver} full packets of 1,500 bytes come through"
        assert (fine in text) == (sender not in swallowing)
    assert "The largest that came through that way had 1,400 bytes, and none of 1,440" in text
    expected = dict.fromkeys(("source", "nat", "destination", "service"), "clear")
    assert states(check) == expected | {"network": "blocked"}
    assert CODE in check.candidates


def test_the_fix_sets_the_size_that_passes() -> None:
    check = the_check(verdict(rows(TO, swallows=True), rows(FROM, swallows=False)))
    commands = {fix.on: fix.argv for fix in reversed(check.blockers[0].fix) if fix.argv}
    for end in (SOURCE, DESTINATION):
        assert commands[end] == ("ip", "link", "set", "dev", "eth0", "mtu", "1400")


@pytest.mark.parametrize("sees", [True, False])
def test_it_stands_beside_other_causes(sees: bool) -> None:  # noqa: FBT001
    story = Story(
        fates=(DROPPED,) * 15, listening=("127.0.0.1",), source_sees=sees, destination_sees=sees
    )
    found = verdict(rows(TO, swallows=True), story=story)
    alone = verdict(story=story)
    assert set(found.blockers) == {CODE, *alone.blockers}
    check = the_check(found)
    named = [blocker.code for blocker in check.blockers]
    assert named.index(CODE) < named.index("service.loopback-only")
    assert set(check.candidates) == {CODE, *alone.candidates}
    assert states(check)["network"] == "blocked"


def test_a_program_that_does_not_run_is_named_beside_it() -> None:
    fate = Fate(answer="reset", returned="reset", outcome="refused", delivered=False)
    story = Story(fates=(fate,) * 3, listening=(), own=False)
    alone = verdict(story=story)
    found = verdict(rows(TO, swallows=True), story=story)
    assert found.blockers == (CODE, *alone.blockers)


def test_silence_that_may_be_loss_is_never_named() -> None:
    full, control, *others = rows(TO, swallows=True)
    few = msgspec.structs.replace(full, begun=4, again=40)
    assert verdict([few, control, *others]).status == "open"
    lossy = msgspec.structs.replace(control, passed=9)
    assert verdict([full, lossy, *others]).status == "open"
    hasty = msgspec.structs.replace(full, watched=0.4)
    assert verdict([hasty, control, *others]).status == "open"
    assert verdict([full]).status == "open"
    assert verdict([full, *others]).status == "open"


def test_one_full_packet_is_enough_against_it() -> None:
    full, *others = rows(TO, swallows=True)
    assert verdict([msgspec.structs.replace(full, passed=1), *others]).status == "open"


def test_counts_that_cannot_be_make_no_cause() -> None:
    full, control, *others = rows(TO, swallows=True)
    assert verdict([full, msgspec.structs.replace(control, passed=13), *others]).status == "open"


@pytest.mark.parametrize("field", ["begun", "passed"])
def test_counts_beyond_all_bounds_are_no_evidence(field: str) -> None:
    source, _ = Story().evidence()
    row = msgspec.structs.replace(rows(TO, swallows=True)[0], **{field: 1001})
    with pytest.raises(ProtocolError):
        read_evidence(pack(msgspec.structs.replace(source, sized=(row,))))


def test_what_was_measured_at_another_address_says_nothing() -> None:
    elsewhere = [
        msgspec.structs.replace(row, address="192.168.7.99") for row in rows(TO, swallows=True)
    ]
    assert verdict(elsewhere).status == "open"
    back = [
        msgspec.structs.replace(row, local="10.9.9.9")
        for row in rows(TO, swallows=True, dialler=DESTINATION)
    ]
    assert verdict(back, dialler=DESTINATION).status == "open"


def test_a_way_that_says_its_limit_is_open_with_a_note() -> None:
    told = [
        msgspec.structs.replace(row, fitted=1400) if row.asked == NATURAL else row
        for row in rows(TO, swallows=False)
    ]
    found = verdict(told, rows(FROM, swallows=False))
    assert (found.status, found.warnings) == ("open", ())
    assert any("1,400 bytes" in note and "says so" in note for note in the_check(found).notes)


def test_a_system_that_finds_the_size_by_itself_is_slow_and_not_blocked() -> None:
    found = verdict(rows(TO, swallows=True, searches=True), rows(FROM, swallows=False))
    assert (found.status, found.reachable, found.warnings) == ("open", "yes", (CODE,))
    both = verdict(
        rows(TO, swallows=True, searches=True), rows(FROM, swallows=True, searches=False)
    )
    assert (both.status, both.blockers) == ("blocked", (CODE,))
    text = " ".join(the_check(both).blockers[0].because)
    assert "From the destination to the source none" in text
    assert "From the source to the destination none" not in text


def test_both_ways_are_each_a_check_of_the_same_way() -> None:
    there = Story(both_ways=True, fates=(OPEN,) * 3)
    back = dataclasses.replace(there, prober=DESTINATION, first=100, typed=(HERE,))
    source, destination = there.evidence()
    source2, destination2 = back.evidence()
    source = msgspec.structs.replace(
        source,
        rounds=source.rounds,
        listeners=source2.listeners,
        connections=source2.connections,
        sightings=(*source.sightings, *source2.sightings),
        sized=tuple(rows(TO, swallows=True) + rows(FROM, swallows=False)),
    )
    destination = msgspec.structs.replace(
        destination,
        rounds=(*destination.rounds, *destination2.rounds),
        attempts=destination2.attempts,
        sightings=(*destination.sightings, *destination2.sightings),
        contact=destination2.contact,
    )
    found = judge(source, destination)
    assert {check.direction for check in found.checks} == {
        "source-to-destination",
        "destination-to-source",
    }
    # In the words the roles are those of the two computers, in whichever direction.
    for check in found.checks:
        (blocker,) = [b for b in check.blockers if b.code == CODE]
        assert "From the source to the destination none of 12" in blocker.because[0]


@pytest.mark.parametrize("path", ["punched", "rendezvous"])
def test_where_it_cannot_be_found_out_an_open_way_says_so(path: str) -> None:
    assert "was not found out" in " ".join(the_check(verdict(story=Story(path=path))).notes)
    assert "was not found out" not in " ".join(the_check(verdict(story=Story())).notes)
    dropped = the_check(verdict(story=Story(path=path, fates=(DROPPED,) * 3)))
    assert "was not found out" not in " ".join(dropped.notes)


def test_half_of_it_is_not_all_of_it() -> None:
    one_way = the_check(verdict(rows(TO, swallows=False)))
    assert "was not found out" in " ".join(one_way.notes)
    few = [
        msgspec.structs.replace(row, begun=2, passed=min(row.passed, 2))
        for row in rows(TO, swallows=True)
    ]
    check = the_check(verdict(few, rows(FROM, swallows=False)))
    assert check.status == "open"
    assert "was not found out" in " ".join(check.notes)


def test_names_of_cards_are_the_hosts_own() -> None:
    source, destination = Story().evidence()
    facts = msgspec.structs.replace(
        source.facts, addresses=(Address(interface="wlp3s0", address=HERE, prefix=24),)
    )
    source = msgspec.structs.replace(source, facts=facts, sized=tuple(rows(TO, swallows=True)))
    (check,) = judge(source, destination).checks
    argvs = [fix.argv for fix in check.blockers[0].fix if fix.on == SOURCE and fix.argv]
    assert ("ip", "link", "set", "dev", "wlp3s0", "mtu", "1400") in argvs
