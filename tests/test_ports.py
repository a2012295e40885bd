"""Port sets: what people type, and the ranges that come out."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.errors import InputError
from bothends_protocol.ports import PortSet, format_ports, parse_ports

port_numbers = st.integers(1, 65535)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4242", ["tcp:4242"]),
        ("4252, 4242", ["tcp:4242,4252"]),
        ("1024-5999", ["tcp:1024-5999"]),
        ("tcp:4242,udp:4242", ["tcp:4242", "udp:4242"]),
        ("udp:1,2,tcp:3", ["tcp:3", "udp:1-2"]),
        ("UDP:53", ["udp:53"]),
        ("5-9,1-3,4,8-12", ["tcp:1-12"]),
        ("1-65535", ["tcp:1-65535"]),
    ],
)
def test_what_people_type(text: str, expected: list[str]) -> None:
    assert [f"{ports.transport}:{ports}" for ports in parse_ports(text)] == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        ("4242,", "''"),
        ("0", "port 0"),
        ("65536", "port 65536"),
        ("5999-1024", "1024-5999"),
        ("sctp:80", "'sctp'"),
        ("backup", "'backup'"),
        ("1-2-3", "'1-2-3'"),
        ("-5", "'-5'"),
        ("\N{ARABIC-INDIC DIGIT FOUR}2", "not a port"),
        ("9" * 400, "not a port"),
    ],
)
def test_what_is_wrong_is_named(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        parse_ports(text)


@given(st.text(max_size=30) | st.text("0123456789-,:tcpud ", max_size=30))
def test_any_text_gives_ports_or_one_sentence(text: str) -> None:
    with contextlib.suppress(InputError):
        found = parse_ports(text)
        assert all(1 <= port <= 65535 for ports in found for port in ports)


@given(st.sets(port_numbers, min_size=1, max_size=30))
def test_what_is_written_is_read_back(ports: set[int]) -> None:
    (found,) = parse_ports(format_ports(ports))
    assert list(found) == sorted(ports)
    assert len(found) == len(ports)


@given(st.lists(st.tuples(port_numbers, port_numbers).map(sorted), min_size=1, max_size=8))
def test_ranges_are_ascending_and_never_touch(typed: list[list[int]]) -> None:
    (found,) = parse_ports(",".join(f"{first}-{last}" for first, last in typed))
    ends = [end for pair in found.ranges for end in pair]
    assert ends == sorted(ends)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(found.ranges))
    wanted = {port for first, last in typed for port in range(first, last + 1)}
    assert set(found) == wanted


def test_a_wide_range_costs_no_more_than_a_narrow_one() -> None:
    assert parse_ports("1-65535")[0].ranges == ((1, 65535),)
    assert len(PortSet("tcp", ((1, 65535),))) == 65535
