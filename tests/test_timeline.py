"""The list of the live repair loop: what is an entry, and which change stands in it."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends.render import document
from bothends.screen import list_lines
from bothends_protocol.errors import ProtocolError
from bothends_protocol.messages import Again, Changed, Listed, read_message, write_message
from bothends_protocol.timeline import (
    CHANGES,
    MAX_AGO,
    MAX_CHANGES,
    MAX_ENTRIES,
    Change,
    Entry,
    Listing,
    Pending,
    Timeline,
    What,
    finding,
    sentence,
)
from bothends_protocol.verdict import Verdict
from bothends_protocol.wire import pack
from samples import VERDICTS
from schema import validate

OPEN, BLOCKED = VERDICTS["open"], VERDICTS["blocked"]
RULE = Change(what="firewall", on="destination")
KEY = Change(what="key", on="source")
words = st.sampled_from(sorted(CHANGES))


def clock(ago: int) -> str:
    return f"2026-11-22T12:00:00.000+00:00 less {ago}"


def timeline(*verdicts: Verdict) -> Timeline:
    made = Timeline(clock)
    for verdict in verdicts:
        made.add(Listing(verdict))
    return made


def test_the_first_verdict_and_each_other_one_are_listed() -> None:
    made = timeline(OPEN, OPEN, BLOCKED, BLOCKED, OPEN)
    assert [entry.status for entry in made.entries] == ["open", "blocked", "open"]
    assert all(entry.differs for entry in made.entries)
    assert made.tests == 5


def test_a_change_without_a_new_verdict_is_listed_too() -> None:
    made = timeline(BLOCKED)
    entry = made.add(Listing(BLOCKED, (RULE,)))
    assert entry is not None
    assert not entry.differs
    assert entry.changed == ((clock(0), RULE),)


def test_how_sure_it_is_makes_no_other_verdict() -> None:
    (check,) = BLOCKED.checks[:1]
    likely = msgspec.structs.replace(check.blockers[0], confidence="likely", because=("so",))
    other = msgspec.structs.replace(check, blockers=(likely, *check.blockers[1:]), notes=("x",))
    again = msgspec.structs.replace(
        BLOCKED, verdict_id="0" * 64, checks=(other, *BLOCKED.checks[1:]), candidates=()
    )
    assert finding(again) == finding(BLOCKED)


def test_one_of_several_ports_makes_another_verdict() -> None:
    (check,) = BLOCKED.checks[:1]
    more = msgspec.structs.replace(check, ports="4243", status="open", blockers=())
    assert finding(msgspec.structs.replace(BLOCKED, checks=(check, more))) != finding(BLOCKED)


def test_the_list_is_bounded_and_keeps_its_beginning() -> None:
    made = timeline(*([OPEN, BLOCKED] * MAX_ENTRIES))
    assert len(made.entries) == MAX_ENTRIES
    assert [entry.status for entry in made.entries[:2]] == ["open", "blocked"]
    assert made.entries[-1].status == "blocked"


def test_the_document_keeps_the_contract() -> None:
    made = timeline(OPEN)
    made.add(Listing(BLOCKED, (RULE, KEY, Change(what="ended", on="destination", port=4242))))
    undecided = Verdict(verdict_id=None, status="undetermined", reachable="unknown")
    made.add(Listing(undecided))
    whole = document(BLOCKED, timeline=made)
    validate(whole)
    assert [entry["status"] for entry in made.plain()] == ["open", "blocked", "undetermined"]
    assert "watch" not in document(BLOCKED)


@given(words, st.sampled_from(["source", "destination"]), st.integers(0, 65535))
def test_every_change_has_a_sentence(what: What, on: str, port: int) -> None:
    text = sentence(msgspec.convert({"what": what, "on": on, "port": port}, Change))
    assert on in text
    assert "{" not in text


def test_words_on_the_wire_are_those_with_a_meaning() -> None:
    assert set(get_args(What)) == set(CHANGES)


# -- which test a change is listed with


def test_a_change_before_a_test_is_listed_with_it() -> None:
    pending = Pending()
    pending.add(RULE, 10.0)
    pending.begin()
    (taken,) = pending.take(12.5, differs=False)
    assert (taken.what, taken.on, taken.ago) == ("firewall", "destination", 2500)
    assert pending.take(13.0, differs=True) == ()


def test_a_change_in_the_middle_of_a_test_that_shows_it() -> None:
    pending = Pending()
    pending.begin()
    pending.add(RULE, 1.0)
    assert len(pending.take(2.0, differs=True)) == 1
    assert not pending.late


def test_a_change_in_the_middle_of_a_test_that_does_not_show_it() -> None:
    pending = Pending()
    pending.begin()
    pending.add(RULE, 1.0)
    assert pending.take(2.0, differs=False) == ()
    assert pending.late  # so the next test follows at once
    pending.begin()
    assert len(pending.take(3.0, differs=False)) == 1


def test_the_same_change_again_during_its_test_is_tested_again() -> None:
    pending = Pending()
    pending.add(RULE, 1.0)
    pending.begin()
    pending.add(RULE, 2.0)
    assert len(pending.take(3.0, differs=False)) == 1
    assert pending.late


@given(
    changes=st.lists(st.tuples(words, st.integers(0, 65535)), max_size=60), differs=st.booleans()
)
def test_never_more_changes_than_a_message_may_carry(
    changes: list[tuple[What, int]], *, differs: bool
) -> None:
    pending = Pending()
    half = len(changes) // 2
    for number, (what, port) in enumerate(changes):
        if number == half:
            pending.begin()
        pending.add(Change(what=what, on="source", port=port), float(number))
    taken = pending.take(1e12, differs=differs)
    assert len(taken) <= MAX_CHANGES
    message = Listed(number=2, verdict_id="", changed=taken)
    assert read_message(write_message(message)) == message


# -- what the other side may say


@pytest.mark.parametrize(
    "message",
    [
        {"type": "Changed", "what": "everything"},
        {"type": "Changed", "what": "key", "port": 65536},
        {"type": "Changed", "what": "key", "port": -1},
        {"type": "Changed", "what": "key", "why": "x"},
        {"type": "Again", "number": 1},
        {"type": "Again", "number": 2**33},
        {"type": "Listed", "number": 2, "verdict_id": "0" * 65},
        {"type": "Listed", "number": 2, "changed": [{"what": "key", "on": "router"}]},
        {"type": "Listed", "number": 2, "changed": [{"what": "key", "on": "source", "ago": -1}]},
        {
            "type": "Listed",
            "number": 2,
            "changed": [{"what": "key", "on": "source", "ago": float("nan")}],
        },
        {
            "type": "Listed",
            "number": 2,
            "changed": [{"what": "key", "on": "source", "ago": MAX_AGO + 1}],
        },
        {
            "type": "Listed",
            "number": 2,
            "changed": [{"what": "key", "on": "source"}] * (MAX_CHANGES + 1),
        },
    ],
)
def test_what_nobody_honest_says_is_refused(message: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        read_message(pack(message))


@pytest.mark.parametrize(
    "message", [Changed(what="key"), Again(number=2), Listed(number=2, changed=(RULE,))]
)
def test_messages_come_back_as_they_were(message: Changed | Again | Listed) -> None:
    assert read_message(write_message(message)) == message


def test_an_entry_shows_its_ports_only_where_there_is_one() -> None:
    entry = Entry("at", None, "open", (), (("at", KEY),))
    assert entry.plain()["changed"] == [
        {
            "at": "at",
            "what": "key",
            "on": "source",
            "port": None,
            "text": "a key was pressed on the source",
        }
    ]


def test_an_entry_of_both_ways_says_which_computer_is_meant() -> None:
    drop = "destination.firewall-drop"
    directions: dict[str, dict[str, object]] = {
        "source-to-destination": {"status": "open", "blockers": []},
        "destination-to-source": {"status": "blocked", "blockers": [drop]},
    }
    at = "2026-01-02T03:04:05.678+00:00"
    entry = Entry(at, None, "blocked", (drop,), directions=directions)
    assert entry.plain()["directions"] == directions
    (line,) = list_lines(entry)
    assert line == (
        "03:04:05  BLOCKED: from the source to the destination OPEN; from the destination to the "
        "source the source's firewall silently drops the connection [destination.firewall-drop]"
    )
    one = Entry(at, None, "blocked", (drop,))
    assert "directions" not in one.plain()
    assert "the destination's firewall" in list_lines(one)[0]
