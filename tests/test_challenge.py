"""The challenge of the own listener: each end proves itself, and a stranger learns nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.challenge import (
    ANSWER_SIZE,
    CHALLENGE_SIZE,
    NONCE_SIZE,
    REPLY_SIZE,
    REQUEST_SIZE,
    answer,
    challenge,
    is_answer,
    is_reply,
    reply,
    request,
)

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
nonces = st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE)


@given(nonces)
def test_the_other_agent_answers_rightly(nonce: bytes) -> None:
    asked = challenge(KEY, nonce)
    told = answer(KEY, asked)
    assert told is not None
    assert (len(asked), len(told)) == (CHALLENGE_SIZE, ANSWER_SIZE)
    assert is_answer(KEY, nonce, told)


@given(nonces, nonces)
def test_an_answer_serves_for_one_nonce_only(nonce: bytes, later: bytes) -> None:
    told = answer(KEY, challenge(KEY, nonce))
    assert told is not None
    assert is_answer(KEY, later, told) == (nonce == later)


@given(nonces)
def test_without_the_key_there_is_neither_challenge_nor_answer(nonce: bytes) -> None:
    assert answer(KEY, challenge(OTHER_KEY, nonce)) is None
    told = answer(OTHER_KEY, challenge(OTHER_KEY, nonce))
    assert told is not None
    assert not is_answer(KEY, nonce, told)


@given(nonces, st.integers(0, CHALLENGE_SIZE * 8 - 1))
def test_an_altered_challenge_is_not_answered(nonce: bytes, bit: int) -> None:
    asked = bytearray(challenge(KEY, nonce))
    asked[bit // 8] ^= 1 << bit % 8
    assert answer(KEY, bytes(asked)) is None


@given(st.binary(max_size=100))
def test_the_banner_of_a_service_is_no_challenge(banner: bytes) -> None:
    assert answer(KEY, banner) is None


@given(nonces, st.binary(max_size=100))
def test_whatever_a_stranger_says_is_no_answer(nonce: bytes, heard: bytes) -> None:
    assert not is_answer(KEY, nonce, heard)


@given(nonces)
def test_a_challenge_sent_back_is_no_answer(nonce: bytes) -> None:
    asked = challenge(KEY, nonce)
    assert not is_answer(KEY, nonce, asked)
    assert not is_answer(KEY, nonce, asked[NONCE_SIZE:])


@given(nonces)
def test_the_challenge_gives_no_part_of_its_answer_away(nonce: bytes) -> None:
    asked = challenge(KEY, nonce)
    told = answer(KEY, asked)
    assert told is not None
    assert asked[NONCE_SIZE:] not in told


# By UDP the source speaks first


@given(nonces)
def test_a_genuine_request_is_answered_by_no_more_bytes(nonce: bytes) -> None:
    asked = request(KEY, nonce)
    told = reply(KEY, asked)
    assert told is not None
    assert (len(asked), len(told)) == (REQUEST_SIZE, REPLY_SIZE)
    assert REPLY_SIZE <= REQUEST_SIZE
    assert is_reply(KEY, nonce, told)


@given(nonces, nonces)
def test_a_reply_serves_for_one_nonce_only(nonce: bytes, later: bytes) -> None:
    told = reply(KEY, request(KEY, nonce))
    assert told is not None
    assert is_reply(KEY, later, told) == (nonce == later)


@given(st.binary(max_size=100))
def test_any_datagram_is_no_request_and_no_reply(data: bytes) -> None:
    assert reply(KEY, data) is None
    assert not is_reply(KEY, data[:NONCE_SIZE], data)


@given(nonces, st.integers(0, REQUEST_SIZE * 8 - 1), st.binary(min_size=1, max_size=4))
def test_an_altered_request_is_not_answered(nonce: bytes, bit: int, more: bytes) -> None:
    asked = bytearray(request(KEY, nonce))
    assert reply(KEY, bytes(asked) + more) is None
    assert reply(KEY, bytes(asked)[:-1]) is None
    asked[bit // 8] ^= 1 << bit % 8
    assert reply(KEY, bytes(asked)) is None
    assert reply(OTHER_KEY, request(KEY, nonce)) is None


@given(nonces)
def test_what_serves_by_tcp_does_not_serve_by_udp(nonce: bytes) -> None:
    assert reply(KEY, challenge(KEY, nonce)) is None
    assert answer(KEY, request(KEY, nonce)) is None
    told = answer(KEY, challenge(KEY, nonce))
    assert told is not None
    assert not is_reply(KEY, nonce, told)
    assert not is_reply(KEY, nonce, request(KEY, nonce))
