"""Tags: segment sizes by which a request is known behind a NAT."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.tags import FIRST_TAG, LAST_TAG, TRACE_TAG, is_tag, tag_of

NONE_AT_ALL, OF_THE_CONTACT, ETHERNET = 536, 1200, 1460
"""What stands for no size at all (RFC 9293, 3.7.1), and what others offer."""


@given(st.integers(0, 2**32))
def test_every_request_has_a_tag(number: int) -> None:
    assert is_tag(tag_of(number))


@given(st.integers(0, 2**32), st.integers(1, LAST_TAG - FIRST_TAG))
def test_requests_near_each_other_have_different_tags(number: int, apart: int) -> None:
    assert tag_of(number) != tag_of(number + apart)


def test_all_tags_are_used_before_one_comes_again() -> None:
    count = LAST_TAG - FIRST_TAG + 1
    assert {tag_of(number) for number in range(count)} == set(range(FIRST_TAG, LAST_TAG + 1))
    assert tag_of(count) == tag_of(0)


def test_what_others_offer_is_no_tag() -> None:
    for size in (0, NONE_AT_ALL, TRACE_TAG, FIRST_TAG - 1, LAST_TAG + 1, OF_THE_CONTACT, ETHERNET):
        assert not is_tag(size)
