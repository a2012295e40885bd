"""A name is one target: which of its addresses decides, and what an application makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.targets import (
    GONE,
    LOCAL,
    NOBODY,
    REFUSED,
    SILENT,
    TAKEN,
    Tried,
    deciding,
    order_notes,
)

A, B, SIX = "192.168.7.11", "192.168.7.20", "fd07::20"
WORKS = Tried(B, "open", TAKEN)


@pytest.mark.parametrize("how", [SILENT, REFUSED, NOBODY, LOCAL, GONE])
@pytest.mark.parametrize("first", [True, False])
def test_the_address_that_accepts_decides(how: str, *, first: bool) -> None:
    dead = Tried(A, "blocked", how)
    assert deciding([dead, WORKS] if first else [WORKS, dead]) == (B,)


def test_of_two_that_accept_the_first_decides_whatever_the_service_does() -> None:
    hung = Tried(A, "blocked", TAKEN)
    assert deciding([hung, WORKS]) == (A,)
    assert deciding([WORKS, hung]) == (B,)


def test_where_none_accepts_all_decide() -> None:
    assert deciding([Tried(A, "blocked", SILENT), Tried(B, "undetermined", REFUSED)]) == (A, B)


@pytest.mark.parametrize("how", [LOCAL, GONE])
def test_an_ip_version_that_the_source_lacks_does_not_decide(how: str) -> None:
    lacking = Tried(SIX, "blocked", how)
    assert deciding([lacking, Tried(B, "blocked", SILENT)]) == (B,)
    assert deciding([lacking]) == (SIX,)
    # Of one version both count: what lacks is a route to that address, not the version.
    assert deciding([Tried(A, "blocked", LOCAL), Tried(B, "blocked", SILENT)]) == (A, B)


def test_a_single_address_needs_no_explanation() -> None:
    assert order_notes("nas.example", [WORKS]) == ()
    assert deciding([]) == ()
    assert order_notes("nas.example", []) == ()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (SILENT, "a quarter of a second later"),
        (SILENT, "about two minutes"),
        (NOBODY, "some seconds"),
        (GONE, "some seconds"),
        (REFUSED, "at once"),
        (LOCAL, "at once"),
    ],
)
def test_a_dead_address_before_the_one_that_works(how: str, says: str) -> None:
    notes = " ".join(order_notes("nas.example", [Tried(A, "blocked", how), WORKS]))
    assert "nas.example stands for 2 addresses" in notes
    assert f"{A}, {B} (RFC 6724)" in notes
    assert says in notes
    assert "tries the first address alone fails" in notes


def test_a_dead_address_behind_the_one_that_works() -> None:
    notes = " ".join(order_notes("nas.example", [WORKS, Tried(A, "blocked", SILENT)]))
    assert f"do not notice that {A} does not work" in notes
    assert "fails" not in notes


def test_an_address_that_accepts_and_does_not_work_keeps_programs_from_the_next() -> None:
    notes = " ".join(order_notes("nas.example", [Tried(A, "blocked", TAKEN), WORKS]))
    assert f"{A} accepts connections, so programs stay with it" in notes
    assert f"do not come to {B}, which works" in notes


def test_none_accepts() -> None:
    tried = [Tried(A, "blocked", SILENT), Tried(B, "blocked", REFUSED)]
    assert order_notes("nas.example", tried)[-1].startswith("None of them accepts")


ITEMS = st.lists(
    st.builds(
        Tried,
        st.sampled_from([A, B, SIX, "fd07::21"]),
        st.sampled_from(["open", "blocked", "undetermined"]),
        st.sampled_from([TAKEN, REFUSED, SILENT, NOBODY, LOCAL, GONE]),
    ),
    max_size=4,
    unique_by=lambda item: item.address,
)


@given(ITEMS)
def test_something_decides_and_nothing_that_is_not_there(tried: list[Tried]) -> None:
    chosen = deciding(tried)
    assert bool(chosen) == bool(tried)
    assert set(chosen) <= {item.address for item in tried}
    for sentence in order_notes("nas.example", tried):
        assert sentence.endswith(".")
