"""Port sets: what people type, and the ranges that come out."""

from __future__ import annotations

import contextlib
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.errors import InputError, ProtocolError
from bothends_protocol.ports import (
    PortSet,
    format_ports,
    pack_ports,
    parse_ports,
    unpack_ports,
)
from bothends_protocol.wire import compress

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


# -- on the wire


@given(st.sets(port_numbers, max_size=60) | st.builds(range, port_numbers, port_numbers))
def test_what_is_packed_is_unpacked(ports: set[int] | range) -> None:
    assert list(unpack_ports(pack_ports(ports))) == sorted(ports)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(compress))
def test_any_bytes_are_ports_in_order_or_refused(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        found = unpack_ports(data)
        assert list(found) == sorted(set(found))
        assert all(1 <= port <= 65535 for port in found)


@pytest.mark.parametrize(
    "numbers",
    [b"\x01", b"\x00\x00", b"\x81", b"\xff\xff\x7f\x00", b"\x01\xff\xff\x03", b"\x01\x00\x00\x00"],
    ids=["half", "zero", "cut", "beyond", "too long", "twice"],
)
def test_ports_that_are_none_are_refused(numbers: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_ports(compress(numbers))


def test_more_ports_than_are_allowed_are_refused() -> None:
    assert len(unpack_ports(pack_ports(range(1, 101)), 100)) == 100
    with pytest.raises(ProtocolError, match="more ports"):
        unpack_ports(pack_ports(range(1, 102)), 100)


def test_all_ports_take_few_bytes_and_any_take_a_bearable_number() -> None:
    assert len(pack_ports(range(1, 65536))) < 20
    assert len(pack_ports(range(1, 65536, 2))) < 200
    drawn = random.Random(7)
    assert len(pack_ports(port for port in range(1, 65536) if drawn.random() < 0.5)) < 12_000
