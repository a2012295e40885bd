"""Sealed records: opened in order and unaltered, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.errors import TamperedError
from bothends_protocol.pairing import DESTINATION, SOURCE, Keys
from bothends_protocol.records import Opener, Sealer

KEY = b"k" * 32
texts = st.lists(st.binary(max_size=60), min_size=1, max_size=6)


def sealed(plain: list[bytes]) -> list[bytes]:
    sealer = Sealer(KEY)
    return [sealer.seal(text) for text in plain]


@given(texts)
def test_what_is_sealed_opens_in_order(plain: list[bytes]) -> None:
    opener = Opener(KEY)
    records = sealed(plain)
    assert [opener.open(record) for record in records] == plain
    assert all(len(record) == len(text) + 16 for record, text in zip(records, plain, strict=True))


@given(texts, st.integers(0), st.integers(0))
def test_one_altered_bit_is_noticed(plain: list[bytes], which: int, bit: int) -> None:
    records = sealed(plain)
    index = which % len(records)
    record = bytearray(records[index])
    place = bit % (len(record) * 8)
    record[place // 8] ^= 1 << place % 8
    opener = Opener(KEY)
    for good in records[:index]:
        opener.open(good)
    with pytest.raises(TamperedError):
        opener.open(bytes(record))


@given(st.binary(max_size=80))
def test_any_bytes_raise_only_tampered(data: bytes) -> None:
    with pytest.raises(TamperedError):
        Opener(KEY).open(data)


def test_a_repeated_record_is_refused() -> None:
    opener = Opener(KEY)
    (record,) = sealed([b"once"])
    opener.open(record)
    with pytest.raises(TamperedError):
        opener.open(record)


def test_records_out_of_order_are_refused() -> None:
    with pytest.raises(TamperedError):
        Opener(KEY).open(sealed([b"first", b"second"])[1])


def test_a_dropped_record_is_noticed_at_the_next() -> None:
    opener = Opener(KEY)
    first, _, third = sealed([b"first", b"second", b"third"])
    opener.open(first)
    with pytest.raises(TamperedError):
        opener.open(third)


def test_equal_texts_do_not_look_alike() -> None:
    assert len(set(sealed([b"same"] * 5))) == 5


def test_a_record_sent_back_to_its_sender_does_not_open() -> None:
    keys = Keys(b"m" * 32)
    record = keys.sealer(SOURCE).seal(b"to the destination")
    assert keys.opener(SOURCE).open(record) == b"to the destination"
    with pytest.raises(TamperedError):
        keys.opener(DESTINATION).open(record)
