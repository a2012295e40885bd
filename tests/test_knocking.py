"""Knocks open a way between two agents, and nothing for anybody else."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.framing import PROTOCOL_VERSION
from bothends_protocol.knocking import KNOCK_SIZE, MAX_OPEN, Knock, Knocker, Place
from bothends_protocol.pairing import DESTINATION, SOURCE

HERE, THERE, ELSEWHERE = (Place(f"192.0.2.{number}", 24242) for number in (1, 2, 3))
STREAM = b"stream.."
SMALLEST_REQUEST = 60 - 28
"""A connection request that was only overheard may be answered too: 60 bytes as Linux sends it,
and 28 of an answer are headers of IP and UDP."""


def knocker(role: str, number: int = 7, seed: int = 1) -> Knocker:
    return Knocker(role, number, random.Random(seed).randbytes)


@pytest.fixture
def two() -> tuple[Knocker, Knocker]:
    return knocker(SOURCE, seed=1), knocker(DESTINATION, seed=2)


Two = tuple[Knocker, Knocker]


def test_one_knock_that_gets_through_opens_both_ends(two: Two) -> None:
    source, destination = two
    first = destination.receive(source.knock(THERE), HERE)
    assert not first.opened  # anybody may have sent it in the source's name
    assert first.answer
    second = source.receive(first.answer, THERE)
    assert second.opened
    assert second.answer
    third = destination.receive(second.answer, HERE)
    assert third.opened
    assert third.answer
    # And there it ends: no answer to what opened nothing.
    assert source.receive(third.answer, THERE) == Knock(heard=True)


@pytest.mark.parametrize("lost", range(6))
def test_a_lost_knock_is_made_good_by_the_next(two: Two, lost: int) -> None:
    count = itertools.count()
    opened = [False, False]
    for _ in range(3):
        for end, (here, there) in enumerate(((HERE, THERE), (THERE, HERE))):
            data: bytes | None = two[end].knock(there)
            at, origin = 1 - end, here
            while data is not None and next(count) != lost:
                told = two[at].receive(data, origin)
                opened[at] |= told.opened
                at, origin, data = 1 - at, (THERE if origin == HERE else HERE), told.answer
    assert opened == [True, True]


def test_an_answer_is_never_larger_than_what_it_answers(two: Two) -> None:
    source, destination = two
    knock = source.knock(THERE)
    answer = destination.receive(knock, HERE).answer
    assert answer is not None
    assert len(answer) == len(knock) == KNOCK_SIZE <= SMALLEST_REQUEST


def test_in_anothers_name_nothing_is_opened(two: Two) -> None:
    source, destination = two
    # The stranger sends the source's knock from ELSEWHERE, and never sees what goes to HERE.
    for _ in range(5):
        assert not destination.receive(source.knock(THERE), HERE).opened
    answer = destination.receive(source.knock(THERE), ELSEWHERE).answer
    assert answer
    guess = source.receive(answer, THERE).answer  # with the cookie for ELSEWHERE
    assert guess
    assert not destination.receive(guess, HERE).opened
    assert destination.open == ()


@pytest.mark.parametrize(
    "other", [knocker(DESTINATION, seed=3), knocker(SOURCE, number=8, seed=3)], ids=["role", "code"]
)
def test_who_does_not_belong_here_is_not_answered(two: Two, other: Knocker) -> None:
    assert two[1].receive(other.knock(THERE), HERE) == Knock()


def test_another_number_serves_once_the_code_is_renewed(two: Two) -> None:
    late = knocker(SOURCE, number=8, seed=3)
    two[1].number = 8
    assert two[1].receive(late.knock(THERE), HERE).answer


def test_its_own_knock_is_not_answered(two: Two) -> None:
    assert two[0].receive(two[0].knock(THERE), THERE) == Knock()


def test_another_version_is_not_answered(two: Two) -> None:
    knock = bytearray(two[0].knock(THERE))
    knock[3] = PROTOCOL_VERSION + 1
    assert two[1].receive(bytes(knock), HERE) == Knock()


def test_an_agent_that_was_started_again_opens_again(two: Two) -> None:
    for seed in (1, 5):
        source = knocker(SOURCE, seed=seed)
        answer = two[1].receive(source.knock(THERE), HERE).answer
        assert answer
        last = source.receive(answer, THERE).answer
        assert last
        assert two[1].receive(last, HERE).opened


def test_a_place_opens_once_until_it_is_forgotten(two: Two) -> None:
    source, destination = two
    for expected in (True, False, True):
        if expected:
            source.forget(THERE)
        answer = destination.receive(source.knock(THERE), HERE).answer
        assert answer
        assert source.receive(answer, THERE).opened is expected


def opened(two: Two, here: Place = HERE) -> None:
    answer = two[1].receive(two[0].knock(THERE), here).answer
    assert answer
    assert two[0].receive(answer, THERE).opened


def test_a_piece_arrives_though_the_last_answer_was_lost(two: Two) -> None:
    opened(two)
    piece = two[1].take(two[0].piece(THERE, STREAM, b"segment"), HERE)
    assert piece is not None
    assert (piece.stream, piece.segment) == (STREAM, b"segment")
    # And the destination knows now how to answer.
    back = two[0].take(two[1].piece(HERE, STREAM, b"back"), THERE)
    assert back is not None
    assert back.segment == b"back"


def test_a_piece_without_the_cookie_is_none(two: Two) -> None:
    opened(two)
    data = two[0].piece(THERE, STREAM, b"segment")
    assert two[1].take(data, ELSEWHERE) is None
    assert two[0].take(data, THERE) is None  # thrown back at its sender
    assert knocker(DESTINATION, seed=9).take(data, HERE) is None


def test_the_places_kept_are_bounded() -> None:
    destination = knocker(DESTINATION)
    for number in range(2 * MAX_OPEN):
        source = knocker(SOURCE, seed=100 + number)
        place = Place("192.0.2.9", 1 + number)
        answer = destination.receive(source.knock(THERE), place).answer
        assert answer
        last = source.receive(answer, THERE).answer
        assert last
        assert destination.receive(last, place).opened
    assert len(destination.open) == MAX_OPEN


def test_who_is_heard_is_not_displaced(two: Two) -> None:
    opened(two)
    for number in range(2 * MAX_OPEN):
        stranger, place = knocker(SOURCE, seed=100 + number), Place("192.0.2.9", 1 + number)
        opened((stranger, two[1]), place)
        assert two[1].take(stranger.piece(THERE, STREAM, b"noise"), place) is not None
        assert two[1].take(two[0].piece(THERE, STREAM, b"segment"), HERE) is not None
    assert HERE in two[1].open
    assert two[0].take(two[1].piece(HERE, STREAM, b"segment"), THERE) is not None


def test_a_place_that_was_forgotten_opens_again_whatever_is_still_under_way(two: Two) -> None:
    opened(two)
    two[1].take(two[0].piece(THERE, STREAM, b"segment"), HERE)
    late = two[1].piece(HERE, STREAM, b"segment")
    two[0].forget(THERE)
    # What is under way goes on both ways.
    assert two[1].take(two[0].piece(THERE, STREAM, b"segment"), HERE) is not None
    assert two[0].take(late, THERE) is not None
    answer = two[1].receive(two[0].knock(THERE), HERE).answer
    assert answer is not None
    assert two[0].receive(answer, THERE).opened


def test_a_place_is_another_by_another_own_address(two: Two) -> None:
    # Each of the source's addresses has a cookie of its own at the destination; where the
    # destination's knocks come to both, neither takes the other's place.
    opened(two)
    second = THERE._replace(own="192.0.2.8")
    for first in (True, False, False):
        told = two[1].receive(two[0].knock(second), Place("192.0.2.8", 24242))
        assert told.answer is not None
        assert two[0].receive(told.answer, second).opened == first
        assert not two[0].receive(two[1].knock(HERE), THERE).opened


@given(st.binary(max_size=1300))
def test_any_bytes_do_no_harm(data: bytes) -> None:
    one = knocker(SOURCE)
    assert not one.receive(data, HERE).opened
    assert one.take(data, HERE) is None


@given(st.integers(0, KNOCK_SIZE - 1), st.integers(0, 7))
def test_a_knock_with_a_flipped_bit_opens_nothing_that_its_cookie_does_not(
    place: int, bit: int
) -> None:
    source, destination = knocker(SOURCE, seed=1), knocker(DESTINATION, seed=2)
    knock = bytearray(source.knock(THERE))
    knock[place] ^= 1 << bit
    assert not destination.receive(bytes(knock), HERE).opened
