"""Bytes to values: any bytes give a value of the type asked for, or one error."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bothends_protocol.errors import MisuseError, ProtocolError
from bothends_protocol.evidence import MAX_EVIDENCE, Evidence, Icmp, read_evidence
from bothends_protocol.messages import Agreed, Bye, EvidencePart, Finish, read_message
from bothends_protocol.wire import MAX_DEPTH, pack, unpack
from evidence_builder import Story


class Loose(msgspec.Struct):
    """A type that lets anything through but depth."""

    anything: Any


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=12) | st.sampled_from(["type", "data", "last"]), inner)
    ),
    max_leaves=12,
)


def nested(depth: int) -> bytes:
    return pack({"anything": None}).replace(b"\xc0", b"\x91" * depth + b"\xc0")


@given(st.binary(max_size=80))
@example(b"")
@example(b"\xc1")
@example(b"\x81\xa4type")
@example(b"\x81\x90\x90")
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(b"\xc7\x00\x05")
@example(b"\xa2\xff\xff")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x91" * 4000)
def test_any_bytes_give_a_value_or_a_protocol_error(data: bytes) -> None:
    for kind in (Evidence, Icmp, Loose, EvidencePart, dict, bytes):
        try:
            value = unpack(data, kind)
        except ProtocolError:
            continue
        assert isinstance(value, kind)


@given(plain)
def test_any_well_formed_document_gives_a_message_or_a_protocol_error(document: object) -> None:
    try:
        message = read_message(msgpack.packb(document))
    except ProtocolError:
        return
    assert read_message(pack(message)) == message


def test_what_is_packed_is_unpacked() -> None:
    for value in (
        Bye(reason="timeout"),
        Finish(),
        Agreed(source=b"\x00\xff", destination=b"", verdict=b"v" * 32),
        EvidencePart(data=bytes(range(256)), last=True),
    ):
        assert read_message(pack(value)) == value
    source, _ = Story().evidence()
    assert read_evidence(pack(source)) == source


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"type": "Bye", "reason": "timeout", "more": 1}, "a field nobody knows"),
        ({"type": "Bye"}, "a field is missing"),
        ({"type": "Bye", "reason": 7}, "a number where text belongs"),
        ({"type": "Bye", "reason": b"timeout"}, "bytes where text belongs"),
        ({"type": "Hello", "reason": "timeout"}, "a message of another kind"),
        ({"reason": "timeout"}, "no kind"),
        (["Bye", "timeout"], "a list"),
        ({"type": "Round", "plan": {"number": 1, "kind": "connect"}}, "an incomplete plan"),
        ({"type": "Agreed", "source": "", "destination": b"", "verdict": b""}, "text for bytes"),
    ],
)
def test_what_the_types_do_not_say_is_refused(document: object, why: str) -> None:
    with pytest.raises(ProtocolError):
        read_message(msgpack.packb(document))
    assert why


def test_unknown_fields_are_refused_at_every_depth() -> None:
    source, _ = Story().evidence()
    document = msgpack.unpackb(pack(source))
    read_evidence(msgpack.packb(document))
    document["facts"]["mood"] = "good"
    with pytest.raises(ProtocolError):
        read_evidence(msgpack.packb(document))


def test_a_second_document_behind_the_first_is_refused() -> None:
    with pytest.raises(ProtocolError):
        read_message(pack(Finish()) + pack(Finish()))


def test_nesting_is_bounded_even_where_a_type_allows_anything() -> None:
    assert (
        unpack(nested(MAX_DEPTH - 3), Loose).anything
        == unpack(nested(MAX_DEPTH - 3), dict)["anything"]
    )
    for depth in (MAX_DEPTH, 500, 5000):
        with pytest.raises(ProtocolError):
            unpack(nested(depth), Loose)


def test_nesting_in_maps_is_bounded_too() -> None:
    document: object = None
    for _ in range(MAX_DEPTH):
        document = {"k": document}
    with pytest.raises(ProtocolError):
        unpack(msgpack.packb({"anything": document}), Loose)


def test_lists_are_not_made_as_large_as_announced() -> None:
    # Each of 1,000 lists in one another announces 8 million items: together 64 GB.
    announced = b"\xdd" + (MAX_EVIDENCE - 8192).to_bytes(4, "big")
    with pytest.raises(ProtocolError):
        read_evidence((announced * 1000).ljust(MAX_EVIDENCE, b"\xc0"))


def test_the_error_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(ProtocolError) as caught:
        unpack(pack({"secret-of-the-peer": 1}), Icmp)
    assert "secret-of-the-peer" not in str(caught.value)


def test_evidence_of_another_format_or_size_is_refused() -> None:
    source, _ = Story().evidence()
    other = msgspec.structs.replace(source, format="bothends-evidence/2")
    with pytest.raises(ProtocolError, match="format"):
        read_evidence(pack(other))
    with pytest.raises(ProtocolError, match="larger"):
        read_evidence(bytes(MAX_EVIDENCE + 1))


@pytest.mark.parametrize("value", [object(), 2**64, "\ud800", lambda: 0, math.inf + 1j])
def test_what_cannot_be_packed_is_the_callers_mistake(value: object) -> None:
    with pytest.raises(MisuseError):
        pack({"value": value})
