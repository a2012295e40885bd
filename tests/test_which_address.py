"""Which address the real application should use: said in a note, where it is known."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from bothends_protocol.evidence import Evidence, Neighbour, SeenAs, Target
from bothends_protocol.judge import judge
from evidence_builder import DROPPED, HERE, LOST, OPEN, THERE, Fate, Story

PUBLIC, ELSEWHERE, STRANGER = "11.0.0.2", "11.0.0.7", "11.0.9.30"
REFUSED = Fate(
    arrived=False, delivered=False, answer="", returned="reset", outcome="refused", error=None
)


def seen(side: Evidence, address: str) -> Evidence:
    return replace(side, seen_as=(SeenAs(address=address, by="rendezvous", said_by="11.0.9.9"),))


def notes(story: Story, here: str, there: str) -> tuple[str, ...]:
    source, destination = story.evidence()
    (check,) = judge(seen(source, here), seen(destination, there)).checks
    return check.notes


def story(target: str, *fates: Fate, **more: Any) -> Story:
    targets = (Target(text=target, addresses=(target,)),)
    standard: dict[str, Any] = {
        "path": "rendezvous",
        "to": target,
        "typed": (),
        "targets": targets,
        "fates": fates * 3,
    }
    return Story(**(standard | more))


def gateway(destination: str, state: str = "reachable") -> Neighbour:
    return Neighbour(
        destination=destination, next_hop=destination, interface="eth0", state=state, round=1
    )


def test_a_public_address_between_two_at_home() -> None:
    (note,) = notes(story(PUBLIC, LOST), PUBLIC, PUBLIC)
    assert note == (
        f"Both computers are behind one router. There {THERE} is the address to use, and {PUBLIC} "
        "from outside only."
    )
    assert notes(story(PUBLIC, LOST), ELSEWHERE, PUBLIC) == ()


def test_an_inside_address_from_another_network() -> None:
    wanted = story(THERE, LOST, neighbour=gateway(THERE, "failed"))
    (note,) = notes(wanted, ELSEWHERE, PUBLIC)
    assert note == (
        f"{THERE} is the destination's address in its own network only. From another network use "
        f"{PUBLIC}."
    )


@pytest.mark.parametrize(
    "told", [story(THERE, OPEN), story(THERE, DROPPED), story(THERE, LOST, path="direct")]
)
def test_an_inside_address_that_leads_there_is_right(told: Story) -> None:
    assert not [note for note in notes(told, ELSEWHERE, PUBLIC) if PUBLIC in note]


def test_an_address_of_somebody_else() -> None:
    (note,) = notes(story(STRANGER, REFUSED), ELSEWHERE, PUBLIC)
    assert note == (
        f"{STRANGER} is not the destination's. From outside the destination is seen at {PUBLIC}."
    )
    assert notes(story(STRANGER, REFUSED), PUBLIC, PUBLIC) == ()
    assert HERE not in note


def test_where_nobody_says_where_the_destination_is_nothing_is_said() -> None:
    for told in (story(PUBLIC, LOST), story(THERE, LOST), story(STRANGER, REFUSED)):
        source, destination = told.evidence()
        (check,) = judge(source, destination).checks
        assert check.notes == ()
