"""Which two NATs let two agents meet by UDP, and that what is not known is never a no."""

from __future__ import annotations

import itertools

import pytest

from bothends_protocol.evidence import NatBehaviour
from bothends_protocol.traversal import (
    ADDRESS_AND_PORT_DEPENDENT,
    ADDRESS_DEPENDENT,
    ENDPOINT_INDEPENDENT,
    NONE,
    UNKNOWN,
    punching_can_work,
    punching_in_words,
)

WORDS = (NONE, ENDPOINT_INDEPENDENT, ADDRESS_DEPENDENT, ADDRESS_AND_PORT_DEPENDENT, UNKNOWN)
KNOWN = WORDS[:-1]


def nat(mapping: str, filtering: str, *, keeps_port: bool | None = None) -> NatBehaviour:
    return NatBehaviour(
        server="11.0.9.1", mapping=mapping, filtering=filtering, keeps_port=keeps_port
    )


OPEN = nat(NONE, NONE)
FULL_CONE = nat(ENDPOINT_INDEPENDENT, ENDPOINT_INDEPENDENT)
RESTRICTED = nat(ENDPOINT_INDEPENDENT, ADDRESS_DEPENDENT)
PORT_RESTRICTED = nat(ENDPOINT_INDEPENDENT, ADDRESS_AND_PORT_DEPENDENT)
SYMMETRIC = nat(ADDRESS_AND_PORT_DEPENDENT, ADDRESS_AND_PORT_DEPENDENT, keeps_port=False)
SYMMETRIC_ADDRESS = nat(ADDRESS_AND_PORT_DEPENDENT, ADDRESS_DEPENDENT, keeps_port=False)
SYMMETRIC_OPEN = nat(ADDRESS_AND_PORT_DEPENDENT, ENDPOINT_INDEPENDENT, keeps_port=False)
FIREWALLED = nat(NONE, ADDRESS_AND_PORT_DEPENDENT)
NOT_TOLD = nat(UNKNOWN, UNKNOWN)
KEEPS = nat(UNKNOWN, UNKNOWN, keeps_port=True)
"""What is known of a NAT by a server with one address."""
POOL = nat(ADDRESS_DEPENDENT, ADDRESS_AND_PORT_DEPENDENT, keeps_port=True)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (OPEN, OPEN, True),
        (FULL_CONE, PORT_RESTRICTED, True),
        (PORT_RESTRICTED, PORT_RESTRICTED, True),
        (FIREWALLED, FIREWALLED, True),
        (KEEPS, PORT_RESTRICTED, True),
        (KEEPS, KEEPS, True),
        (SYMMETRIC, OPEN, True),
        (SYMMETRIC, FULL_CONE, True),
        (SYMMETRIC, RESTRICTED, True),
        (SYMMETRIC, PORT_RESTRICTED, False),
        (SYMMETRIC, FIREWALLED, False),
        (SYMMETRIC, SYMMETRIC, False),
        (SYMMETRIC, SYMMETRIC_ADDRESS, False),
        (SYMMETRIC, SYMMETRIC_OPEN, False),
        (SYMMETRIC_ADDRESS, SYMMETRIC_ADDRESS, False),
        (SYMMETRIC_OPEN, SYMMETRIC_ADDRESS, True),
        (SYMMETRIC_OPEN, SYMMETRIC_OPEN, True),
        (SYMMETRIC, NOT_TOLD, None),
        (SYMMETRIC, KEEPS, None),
        (PORT_RESTRICTED, NOT_TOLD, None),
        (OPEN, NOT_TOLD, True),
        (FULL_CONE, NOT_TOLD, True),
        (POOL, PORT_RESTRICTED, None),
        (POOL, RESTRICTED, True),
    ],
)
def test_the_table(a: NatBehaviour, b: NatBehaviour, *, expected: bool | None) -> None:
    assert punching_can_work(a, b) is expected
    assert punching_can_work(b, a) is expected


ALL = [
    nat(mapping, filtering, keeps_port=keeps)
    for mapping, filtering, keeps in itertools.product(WORDS, WORDS, (True, False, None))
]


def test_knowing_more_never_turns_a_yes_into_a_no_or_a_no_into_a_yes() -> None:
    for a, b in itertools.product(ALL, ALL):
        answer = punching_can_work(a, b)
        if answer is None:
            continue
        for mapping, filtering in itertools.product(KNOWN, KNOWN):
            if a.mapping not in (mapping, UNKNOWN) or a.filtering not in (filtering, UNKNOWN):
                continue
            known = nat(mapping, filtering, keeps_port=a.keeps_port)
            # That one keeps the port is taken for predictable, until it is known to have several
            # addresses.
            assert punching_can_work(known, b) is answer or (
                a.keeps_port and a.mapping == UNKNOWN and punching_can_work(known, b) is None
            )


def test_nothing_known_is_no_answer_whatever_the_other_is() -> None:
    for other in ALL:
        assert punching_can_work(NOT_TOLD, other) is not False
        assert punching_can_work(nat("a new word", "another"), other) == punching_can_work(
            NOT_TOLD, other
        )


def test_words_go_with_the_answer() -> None:
    for a, b in itertools.product(ALL, ALL):
        sentence, answer = punching_in_words(a, b), punching_can_work(a, b)
        assert ("can meet" in sentence) == (answer is True or "Whether" in sentence)
        assert ("cannot" in sentence) == (answer is False)
        assert sentence.endswith(".")


def test_words_say_whose_nat_it_is() -> None:
    assert "the source's NAT takes another port" in punching_in_words(SYMMETRIC, PORT_RESTRICTED)
    assert "the destination's NAT takes" in punching_in_words(PORT_RESTRICTED, SYMMETRIC)
    assert "the source's and the destination's NATs take" in punching_in_words(SYMMETRIC, SYMMETRIC)
