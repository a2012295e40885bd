"""A check of the way back is told about the computers of the pair."""

from __future__ import annotations

import pytest

from bothends_protocol.bearings import BACK, FORTH, in_pair, turned, words
from bothends_protocol.codes import CODES
from bothends_protocol.remedies import REMEDIES
from bothends_protocol.verdict import Blocker, Check, Fix, Segment


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("the destination's firewall drops it", "the source's firewall drops it"),
        ("Source, destination: both.", "Destination, source: both."),
        ("(on the destination)", "(on the source)"),
        # Commands, and the names of programs and files, are what they are.
        ("Run `bothends source` on the source.", "Run `bothends source` on the destination."),
        ("the program source-sync and /etc/source", "the program source-sync and /etc/source"),
        ("resources of destinations", "resources of destinations"),
        (
            "A rule of the source's own firewall matches: ip source destination drop",
            "A rule of the destination's own firewall matches: ip source destination drop",
        ),
    ],
)
def test_the_two_are_exchanged(text: str, other: str) -> None:
    assert turned(text) == other
    assert turned(other) == text


def check(direction: str) -> Check:
    fix = Fix(on="destination", title="On the destination", steps=("Ask the source.",))
    return Check(
        direction=direction,
        transport="tcp",
        address="192.168.7.10",
        ports="4242",
        primary=True,
        status="blocked",
        reachable="no",
        blockers=(
            Blocker(
                code="destination.firewall-drop",
                confidence="proven",
                because=("It reached the destination.",),
                fix=(fix,),
            ),
        ),
        candidates=("destination.firewall-drop",),
        next_step="Run bothends on the destination as root.",
        segments=(Segment(name="source", status="clear", because=("The source sent it.",)),),
        notes=("The source is told.",),
    )


def test_codes_and_roles_of_the_direction_stay() -> None:
    assert in_pair(check(FORTH)) == check(FORTH)
    back = in_pair(check(BACK))
    (blocker,) = back.blockers
    assert (blocker.code, blocker.fix[0].on) == ("destination.firewall-drop", "destination")
    assert back.segments[0].name == "source"
    assert blocker.because == ("It reached the source.",)
    assert (blocker.fix[0].title, blocker.fix[0].steps) == (
        "On the source",
        ("Ask the destination.",),
    )
    assert back.next_step == "Run bothends on the source as root."
    assert back.segments[0].because == ("The destination sent it.",)
    assert back.notes == ("The destination is told.",)


def test_words_of_the_way_back() -> None:
    assert words("destination.firewall-drop", BACK).startswith("the source's firewall")
    assert all(words(code, FORTH) == plain for code, plain in CODES.items())


def test_no_remedy_names_a_role_where_it_would_not_be_turned() -> None:
    """What stands between backticks is left alone, so it must not speak of the two computers."""
    for remedies in REMEDIES.values():
        for remedy in remedies:
            for text in (remedy.title, *remedy.steps):
                for command in text.split("`")[1::2]:
                    assert "the source" not in command
                    assert "the destination" not in command
