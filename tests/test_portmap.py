"""Port mappings on the wire: requests to the byte, and any bytes for a reply."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bothends_protocol import ssdp
from bothends_protocol.errors import MisuseError, ProtocolError
from bothends_protocol.portmap import (
    MAX_PCP,
    NONCE_SIZE,
    Granted,
    PcpReply,
    PmpReply,
    outside_address,
    pcp_announce,
    pcp_map,
    pmp_address,
    pmp_map,
    read_pcp,
    read_pmp,
)

NONCE = bytes(range(NONCE_SIZE))
MAPPED = "00000000000000000000ffff"  # what comes before an IPv4 address in 16 bytes
NUMBER16 = st.integers(0, 2**16 - 1)
NUMBER32 = st.integers(0, 2**32 - 1)
TRANSPORTS = st.sampled_from(["tcp", "udp"])


# --- requests ---------------------------------------------------------------------------------


def test_requests_of_nat_pmp() -> None:
    assert pmp_address().hex() == "0000"
    assert pmp_map("udp", 4242, 4242, 120).hex() == "00010000" + "1092" + "1092" + "00000078"
    assert pmp_map("tcp", 80, 0, 0).hex() == "00020000" + "0050" + "0000" + "00000000"


def test_requests_of_pcp() -> None:
    head = "02000000" + "00000000" + MAPPED + "c0a8010a"
    assert pcp_announce("192.168.1.10").hex() == head
    asked = pcp_map("192.168.1.10", NONCE, "tcp", 4242, 4243, 120).hex()
    assert asked[:48] == "02010000" + "00000078" + MAPPED + "c0a8010a"
    assert asked[48:] == NONCE.hex() + "06000000" + "1092" + "1093" + MAPPED + "00000000"
    exact = pcp_map("192.168.1.10", NONCE, "tcp", 4242, 4243, 120, exact=True).hex()
    assert exact == asked + "02000000"


def test_requests_of_pcp_over_ipv6() -> None:
    asked = pcp_map("fe80::1%eth0", NONCE, "udp", 53, 0, 0)
    assert asked[8:24] == ipaddress.IPv6Address("fe80::1").packed
    assert asked[36] == 17
    assert asked[44:60] == bytes(16)
    assert pcp_announce("::ffff:10.0.0.1") == pcp_announce("10.0.0.1")


@pytest.mark.parametrize("client", ["", "router", "10.0.0"])
def test_a_client_must_be_an_address(client: str) -> None:
    with pytest.raises(MisuseError):
        pcp_announce(client)


def test_a_nonce_has_one_size() -> None:
    with pytest.raises(MisuseError):
        pcp_map("10.0.0.1", NONCE[1:], "tcp", 1, 1, 1)


# --- replies ----------------------------------------------------------------------------------


def test_replies_of_nat_pmp() -> None:
    address = bytes.fromhex("00800000" + "0000002a" + "0b000102")
    assert read_pmp(address) == PmpReply(0, 0, 0, 42, address="11.0.1.2")
    mapping = bytes.fromhex("00820000" + "0000002a" + "1092" + "1093" + "00000078")
    assert read_pmp(mapping).mapping == Granted("tcp", 4242, 4243, 120)
    # An error may leave the rest out, or not.
    for rest in ("", "00000000"):
        refused = bytes.fromhex("00820002" + "0000002a" + rest)
        assert read_pmp(refused) == PmpReply(0, 2, 2, 42)


def test_replies_of_pcp() -> None:
    announced = bytes.fromhex("02800000" + "00000000" + "0000002a" + "00" * 12)
    assert read_pcp(announced) == PcpReply(2, 0, 0, 0, 42)
    head = "02810000" + "00000078" + "0000002a" + "00" * 12
    body = NONCE.hex() + "06000000" + "1092" + "1093"
    granted = read_pcp(bytes.fromhex(head + body + MAPPED + "0b000102"))
    assert granted.mapping == Granted("tcp", 4242, 4243, 120, "11.0.1.2", NONCE)
    six = read_pcp(bytes.fromhex(head + body + "20010db8" + "00" * 11 + "01")).mapping
    assert six is not None
    assert six.address == "2001:db8::1"
    # Options that follow are nobody's business.
    assert read_pcp(bytes.fromhex(head + body + MAPPED + "0b000102" + "03000000")) == granted


def test_each_protocol_says_that_it_does_not_speak_the_other() -> None:
    only_pmp = read_pcp(bytes.fromhex("00800001" + "0000002a"))
    assert (only_pmp.version, only_pmp.result) == (0, 1)
    only_pcp = read_pmp(bytes.fromhex("02800001" + "00000000" + "0000002a" + "00" * 12))
    assert (only_pcp.version, only_pcp.result) == (2, 1)
    draft = read_pcp(bytes.fromhex("01800001" + "00000000" + "0000002a" + "00" * 12))
    assert (draft.version, draft.result) == (1, 1)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "00800000",  # no epoch
        "0080000000000001",  # success without an address
        "0082000000000001109210930000",  # cut
        "0083000000000001" + "00" * 8,  # no such opcode
        "0000000000000001" + "00" * 8,  # a request
        "0280000000000000",  # another version, and it does not say that ours is unknown
    ],
)
def test_what_is_no_reply_of_nat_pmp(data: str) -> None:
    with pytest.raises(ProtocolError):
        read_pmp(bytes.fromhex(data))


@pytest.mark.parametrize(
    "data",
    [
        "",
        "02800000",
        "02000000" + "00" * 20,  # a request
        "02810000" + "00" * 20,  # a mapping without its mapping
        "02810000" + "00" * 56,  # protocol 0
        "03800000" + "00" * 20,  # another version that succeeds
        "00800000" + "00" * 20,  # NAT-PMP that succeeds
        "02800000" + "00" * 21,  # not a multiple of four
        "02800000" + "00" * MAX_PCP,
    ],
)
def test_what_is_no_reply_of_pcp(data: str) -> None:
    with pytest.raises(ProtocolError):
        read_pcp(bytes.fromhex(data))


@given(st.binary(max_size=1200))
@example(bytes.fromhex("0080000000000001"))
@example(b"\x02\x81" + bytes(58))
def test_any_bytes_are_a_reply_or_one_error(data: bytes) -> None:
    for read in (read_pmp, read_pcp):
        try:
            reply = read(data)
        except ProtocolError:
            continue
        assert isinstance(reply, PmpReply | PcpReply)
        assert 0 <= reply.opcode < 128


@given(TRANSPORTS, NUMBER16, NUMBER16, NUMBER32, NUMBER32)
def test_what_nat_pmp_grants_is_read_as_it_was_granted(
    transport: str, inside: int, outside: int, lifetime: int, epoch: int
) -> None:
    opcode = pmp_map(transport, inside, outside, lifetime)[1] | 0x80
    data = struct.pack("!BBHIHHI", 0, opcode, 0, epoch, inside, outside, lifetime)
    granted = Granted(transport, inside, outside, lifetime)
    assert read_pmp(data) == PmpReply(0, opcode ^ 0x80, 0, epoch, mapping=granted)


@given(
    TRANSPORTS,
    st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE),
    st.tuples(NUMBER16, NUMBER16),
    NUMBER32,
    st.ip_addresses(),
    st.integers(0, 255),
)
def test_what_pcp_grants_is_read_as_it_was_granted(
    transport: str,
    nonce: bytes,
    ports: tuple[int, int],
    lifetime: int,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    result: int,
) -> None:
    asked = pcp_map(str(address), nonce, transport, *ports, lifetime)
    # A reply is its request, but for the head and the outside address.
    head = struct.pack("!BBBBII12x", 2, 0x81, 0, result, lifetime, 7)
    reply = read_pcp(head + asked[24:44] + asked[8:24])
    assert (reply.result, reply.lifetime, reply.epoch) == (result, lifetime, 7)
    mapping = reply.mapping
    assert mapping is not None
    assert (mapping.transport, mapping.nonce) == (transport, nonce)
    assert (mapping.inside, mapping.outside) == ports
    mapped = getattr(address, "ipv4_mapped", None)
    assert mapping.address == str(mapped or address)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("11.0.1.2", "11.0.1.2"),
        ("192.168.0.2", "192.168.0.2"),
        ("100.64.0.9", "100.64.0.9"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::ffff:11.0.1.2", "11.0.1.2"),
        ("0.0.0.0", None),
        ("127.0.0.1", None),
        ("::1", None),
        ("::", None),
        ("224.0.0.1", None),
        ("255.255.255.255", None),
        ("", None),
        ("router", None),
        ("11.0.1.2\n", None),
    ],
)
def test_outside_addresses(text: str, address: str | None) -> None:
    assert outside_address(text) == address


@given(st.text())
def test_any_text_is_an_outside_address_or_none(text: str) -> None:
    address = outside_address(text)
    assert address is None or str(ipaddress.ip_address(address)) == address


# --- the search for UPnP ----------------------------------------------------------------------


def test_a_search() -> None:
    lines = ssdp.search(ssdp.TARGETS[0], "192.168.1.1").decode().split("\r\n")
    assert lines[0] == "M-SEARCH * HTTP/1.1"
    assert "HOST: 192.168.1.1:1900" in lines
    assert 'MAN: "ssdp:discover"' in lines
    assert lines[-2:] == ["", ""]


def test_an_answer_names_a_description() -> None:
    answer = b"HTTP/1.1 200 OK\r\nST: x\r\nLocation:http://192.168.1.1:5000/d.xml \r\n\r\n"
    assert ssdp.location(answer) == "http://192.168.1.1:5000/d.xml"
    assert ssdp.location(answer.replace(b"\r\n", b"\n")) == "http://192.168.1.1:5000/d.xml"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 404 Not Found\r\nLOCATION: http://192.168.1.1/\r\n\r\n",
        b"NOTIFY * HTTP/1.1\r\nLOCATION: http://192.168.1.1/\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLOCATION:\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1/\x1b[2J\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLOCATION: http://r\xc3\xb6uter/\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1/" + b"a" * ssdp.MAX_REPLY,
    ],
)
def test_what_names_none(data: bytes) -> None:
    assert ssdp.location(data) is None


@given(st.binary(max_size=400))
def test_any_bytes_name_a_printable_description_or_none(data: bytes) -> None:
    for reply in (data, b"HTTP/1.1 200 OK\r\nLOCATION: " + data):
        found = ssdp.location(reply)
        assert found is None or (found.isascii() and found.isprintable())
