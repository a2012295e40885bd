"""The pairing code: drawn, typed, and never shown where it must not be."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.code import MAX_NUMBER, Code, make_code, parse_code
from bothends_protocol.errors import InputError
from bothends_protocol.wordlist import WORDS

codes = st.builds(
    Code,
    number=st.integers(1, MAX_NUMBER),
    words=st.tuples(*[st.sampled_from(WORDS)] * 3),
)


def test_the_words_are_the_2048_of_bip39() -> None:
    assert len(WORDS) == len(set(WORDS)) == 2048
    assert list(WORDS) == sorted(WORDS)
    # BIP 39: the first four letters identify a word.
    assert len({word[:4] for word in WORDS}) == 2048
    assert (WORDS[0], WORDS[-1]) == ("abandon", "zoo")


@given(codes)
def test_a_code_survives_being_read_out(code: Code) -> None:
    assert parse_code(str(code)) == code


@pytest.mark.parametrize(
    "text",
    [
        "7-abandon-ability-able",
        "  7 Abandon  ABILITY able\n",
        "7, abandon, ability, able.",
        "007_abandon_ability_able",
    ],
)
def test_case_and_separators_are_forgiven(text: str) -> None:
    assert parse_code(text) == Code(7, ("abandon", "ability", "able"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a number and three words"),
        ("7-abandon", "a number and three words"),
        ("7-abandon-ability-able-zoo", "a number and three words"),
        ("abandon-ability-able-7", "a number and three words"),
        ("12345-abandon-ability-able", "a number and three words"),
        ("\N{ARABIC-INDIC DIGIT SEVEN}-abandon-ability-able", "a number and three words"),
        ("0-abandon-ability-able", "starts at 1"),
        ("7-abandon-abilty-able", "word 2 .* did you mean 'ability'"),
        ("7-abandon-ability-xxxxxxxx", "word 3"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_code(text)


@given(codes, st.sampled_from([0, 1, 2]))
def test_the_sentence_never_holds_a_word_that_was_right(code: Code, wrong: int) -> None:
    words = ["qqqqqq" if place == wrong else word for place, word in enumerate(code.words)]
    with pytest.raises(InputError) as caught:
        parse_code("-".join([str(code.number), *words]))
    quoted = str(caught.value).split("'")[1::2]
    assert quoted == ["qqqqqq"]


@given(st.text(max_size=60))
def test_any_text_gives_a_code_or_one_sentence(text: str) -> None:
    with contextlib.suppress(InputError):
        code = parse_code(text)
        assert 1 <= code.number <= MAX_NUMBER
        assert set(code.words) <= set(WORDS)


@given(codes)
def test_neither_repr_nor_the_number_shows_the_secret(code: Code) -> None:
    shown = repr(code)
    assert str(code.number) in shown
    assert not any(f"-{word}" in shown or f"'{word}'" in shown for word in code.words)


@given(st.binary(min_size=14, max_size=14))
def test_a_drawn_code_can_be_typed(entropy: bytes) -> None:
    stream = iter(entropy)
    code = make_code(lambda n: bytes(itertools.islice(stream, n)))
    assert parse_code(str(code)) == code
    assert not list(stream), "the strength promised needs all the entropy asked for"


@pytest.mark.parametrize("word", [0, 1, 2047])
def test_every_word_can_be_drawn_at_every_place(word: int) -> None:
    code = make_code(lambda n: word.to_bytes(n, "big"))
    assert code.words == (WORDS[word],) * 3


def test_only_the_words_are_the_secret() -> None:
    assert Code(7, ("zoo", "able", "zoo")).secret == b"zoo-able-zoo"
