"""STUN messages: as the standards print them, and any bytes at all."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.errors import MisuseError, ProtocolError
from bothends_protocol.stun import (
    ERROR,
    REQUEST,
    SUCCESS,
    StunMessage,
    TransportAddress,
    binding_request,
    read_stun,
)

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")

SAMPLE_REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74"
    "002400046e0001ff80290008932ff9b151263b360006000965"
    "76746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
SAMPLE_IPV4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
SAMPLE_IPV6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)
"""RFC 5769, 2.1 to 2.3."""

SEEN = TransportAddress("192.0.2.1", 32853)
MAPPED, CHANGED, OTHER, ORIGIN = 0x0001, 0x0005, 0x802C, 0x802B
XOR_MAPPED, INTEGRITY, FINGERPRINT = 0x0020, 0x0008, 0x8028


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("!HH", number, len(value)) + value + bytes(-len(value) % 4)


def plain(last: int, port: int) -> bytes:
    return struct.pack("!BBH4B", 0, 1, port, 192, 0, 2, last)


def message(*attributes: bytes, kind: int = 0x0101, size: int | None = None) -> bytes:
    body = b"".join(attributes)
    head = struct.pack("!HHI", kind, len(body) if size is None else size, 0x2112A442)
    return head + TRANSACTION + body


# -- as the standard has it


@pytest.mark.parametrize(
    ("data", "mapped"),
    [
        (SAMPLE_IPV4, SEEN),
        (SAMPLE_IPV6, TransportAddress("2001:db8:1234:5678:11:2233:4455:6677", 32853)),
    ],
)
def test_the_sample_responses(data: bytes, mapped: TransportAddress) -> None:
    found = read_stun(data)
    assert found == StunMessage(kind=SUCCESS, transaction=TRANSACTION, mapped=mapped)
    assert found.answers


def test_the_sample_request_has_what_we_do_not_understand() -> None:
    found = read_stun(SAMPLE_REQUEST)
    assert (found.kind, found.unknown) == (REQUEST, (0x0024,))
    assert not found.answers


@pytest.mark.parametrize("sample", [SAMPLE_REQUEST, SAMPLE_IPV4, SAMPLE_IPV6])
def test_a_flipped_bit_is_found_by_the_fingerprint(sample: bytes) -> None:
    for place in values(sample):
        for bit in range(8):
            altered = bytearray(sample)
            altered[place] ^= 1 << bit
            with pytest.raises(ProtocolError):
                read_stun(bytes(altered))


def values(data: bytes) -> Iterator[int]:
    """Places of all bytes of a message that say neither what nor how long a part of it is."""
    yield from range(8, 20)
    place = 20
    while place < len(data):
        (size,) = struct.unpack_from("!H", data, place + 2)
        after = place + 4 + (size + 3 & ~3)
        yield from range(place + 4, after)
        place = after


# -- requests


def test_requests() -> None:
    assert binding_request(TRANSACTION) == message(kind=0x0001)
    change = binding_request(TRANSACTION, change_address=True, change_port=True)
    assert change == message(bytes.fromhex("0003000400000006"), kind=0x0001)
    port = binding_request(TRANSACTION, change_port=True, response_port=0x1234)
    expected = bytes.fromhex("00030004000000020027000212340000")
    assert port == message(expected, kind=0x0001)
    assert read_stun(port) == StunMessage(kind=REQUEST, transaction=TRANSACTION)


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_a_transaction_of_another_size_is_a_mistake_of_ours(size: int) -> None:
    with pytest.raises(MisuseError):
        binding_request(bytes(size))


# -- answers


def test_a_server_of_the_first_standard_is_understood() -> None:
    source = attribute(0x0004, plain(9, 3478))
    data = message(attribute(MAPPED, plain(1, 32853)), source, attribute(CHANGED, plain(8, 3479)))
    found = read_stun(data)
    assert (found.mapped, found.other) == (SEEN, TransportAddress("192.0.2.8", 3479))
    assert found.answers


def test_the_masked_address_counts_before_the_plain_one_in_either_order() -> None:
    # A NAT that alters addresses in contents has made the plain one into its own idea.
    masked = attribute(XOR_MAPPED, bytes.fromhex("0001a147e112a643"))
    wrong = attribute(MAPPED, plain(77, 77))
    assert read_stun(message(masked, wrong)).mapped == SEEN
    assert read_stun(message(wrong, masked)).mapped == SEEN


def test_where_the_server_is() -> None:
    data = message(
        attribute(MAPPED, plain(1, 32853)),
        attribute(ORIGIN, plain(9, 3478)),
        attribute(OTHER, plain(8, 3479)),
        attribute(OTHER, plain(7, 7)),
    )
    found = read_stun(data)
    assert found.origin == TransportAddress("192.0.2.9", 3478)
    assert found.other == TransportAddress("192.0.2.8", 3479)  # of several the first


@pytest.mark.parametrize("code", [300, 400, 420, 500, 699])
def test_an_error_is_no_answer(code: int) -> None:
    value = struct.pack("!HBB", 0, code // 100, code % 100) + b"No."
    found = read_stun(message(attribute(9, value), kind=0x0111))
    assert (found.kind, found.error, found.answers) == (ERROR, code, False)


def test_what_must_be_understood_and_is_not_fails_the_transaction() -> None:
    mapped = attribute(MAPPED, plain(1, 32853))
    assert not read_stun(message(mapped, attribute(0x7777, b""))).answers
    assert read_stun(message(mapped, attribute(0xF777, b"odd"))).answers


def test_what_follows_the_integrity_check_does_not_count() -> None:
    late = message(attribute(INTEGRITY, bytes(20)), attribute(MAPPED, plain(1, 32853)))
    assert read_stun(late).mapped is None


# -- anything else


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(SAMPLE_IPV4[:19], id="cut header"),
        pytest.param(SAMPLE_IPV4[:-4], id="cut"),
        pytest.param(SAMPLE_IPV4 + bytes(4), id="longer"),
        pytest.param(SAMPLE_IPV4[:4] + bytes(4) + SAMPLE_IPV4[8:], id="no cookie"),
        pytest.param(message(kind=0x0103), id="Allocate"),
        pytest.param(message(kind=0x8101), id="first bits"),
        pytest.param(message(attribute(MAPPED, plain(1, 1)[:7])), id="short address"),
        pytest.param(message(attribute(MAPPED, b"\0\3" + plain(1, 1)[2:])), id="family"),
        pytest.param(message(attribute(MAPPED, b"")), id="empty address"),
        pytest.param(message(attribute(XOR_MAPPED, b"\0\2" + bytes(22))), id="long address"),
        pytest.param(message(struct.pack("!HH", MAPPED, 8)), id="longer than the message"),
        pytest.param(message(attribute(9, b"\0\0\4"), kind=0x0111), id="short error"),
        pytest.param(message(attribute(9, b"\0\0\4\x64"), kind=0x0111), id="error 464 as 4, 100"),
        pytest.param(message(attribute(9, b"\0\0\2\0"), kind=0x0111), id="error 200"),
        pytest.param(message(attribute(FINGERPRINT, bytes(4))), id="fingerprint"),
        pytest.param(message(attribute(FINGERPRINT, b"")), id="empty fingerprint"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_stun(data)


def test_a_fingerprint_must_be_the_last() -> None:
    more = attribute(MAPPED, plain(1, 32853))
    head = message(size=8 + len(more))
    right = (zlib.crc32(head) ^ 0x5354554E).to_bytes(4, "big")
    with pytest.raises(ProtocolError):
        read_stun(head + attribute(FINGERPRINT, right) + more)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_the_one_error(data: bytes) -> None:
    try:
        read_stun(data)
    except ProtocolError:
        return


numbers = st.sampled_from([1, 3, 4, 5, 6, 8, 9, 0x1C, 0x20, 0x27, 0x8028, 0x802B, 0x802C])


@given(
    st.lists(st.tuples(numbers | st.integers(0, 0xFFFF), st.binary(max_size=24)), max_size=5),
    st.sampled_from([0x0001, 0x0011, 0x0101, 0x0111]),
)
def test_any_attributes_give_a_message_or_the_one_error(
    attributes: list[tuple[int, bytes]], kind: int
) -> None:
    data = message(*(attribute(number, value) for number, value in attributes), kind=kind)
    try:
        found = read_stun(data)
    except ProtocolError:
        return
    assert found.transaction == TRANSACTION
    for place in (found.mapped, found.other, found.origin):
        assert place is None or 0 <= place.port <= 65535
    assert found.error is None or 300 <= found.error <= 699
