"""The packet witness: what a packet shows, and that no packet is too odd for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bothends.witness.packets import MAX_SIGHTINGS, PacketWitness, may_see_packets, parse_packet
from bothends_protocol.evidence import Icmp, Sighting, read_evidence
from bothends_protocol.wire import pack
from evidence_builder import Story
from packets_by_hand import ACK, FIN, ICMP, ICMP6, RST, SYN, TCP, UDP, icmp, ip, tcp, udp

FOUR, SIX = ("192.0.2.1", "192.0.2.9"), ("2001:db8::1", "2001:db8::9")
both_families = pytest.mark.parametrize("ends", [FOUR, SIX])


def parse(data: bytes) -> Sighting | None:
    return parse_packet(data, way="in", at=1.5, interface="eth0")


@both_families
@pytest.mark.parametrize(
    ("flags", "shown"),
    [(SYN, "S"), (SYN | ACK, "SA"), (RST, "R"), (RST | ACK, "AR"), (FIN | ACK, "AF"), (0, "")],
)
def test_a_segment(ends: tuple[str, str], flags: int, shown: str) -> None:
    segment = tcp(40001, 4242, flags, seq=2**32 - 1, ack=7)
    assert parse(ip(*ends, TCP, segment, ttl=57)) == Sighting(
        at=1.5,
        way="in",
        interface="eth0",
        transport="tcp",
        source=ends[0],
        source_port=40001,
        destination=ends[1],
        destination_port=4242,
        flags=shown,
        seq=2**32 - 1,
        ack=7,
        ttl=57,
    )


# -- the segment size that a request offers


def size_of(options: bytes, flags: int = SYN) -> int:
    seen = parse(ip(*FOUR, TCP, tcp(1, 2, flags, options=options)))
    assert seen is not None
    return seen.mss


def offers(size: int) -> bytes:
    return b"\x02\x04" + size.to_bytes(2, "big")


others = st.sampled_from(
    [
        b"\x01",  # padding
        b"\x03\x03\x07",  # window scale
        b"\x04\x02",  # selective acknowledgements
        b"\x08\x0a" + bytes(8),  # timestamps
        b"\xfe\x04ab",  # an experiment
    ]
)


@given(st.lists(others, max_size=3), st.integers(1, 65535), st.lists(others, max_size=2))
def test_the_segment_size_is_found_among_the_options(
    before: list[bytes], size: int, behind: list[bytes]
) -> None:
    options = b"".join([*before, offers(size), *behind])[:40]
    assert size_of(options) in ((size,) if len(b"".join(before)) <= 36 else (size, 0))


@pytest.mark.parametrize("flags", [SYN, SYN | ACK])
def test_requests_and_their_answers_offer_a_size(flags: int) -> None:
    assert size_of(offers(777), flags) == 777


@pytest.mark.parametrize("flags", [0, ACK, RST, FIN | ACK])
def test_other_segments_offer_none(flags: int) -> None:
    assert size_of(offers(777), flags) == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (b"", "there is none"),
        (b"\x00" + offers(777), "it is behind the end of the list"),
        (b"\x02\x03\x01\x00", "its length is another"),
        (b"\x02\x00\x03\x09", "its length is none"),
        (b"\x03\xff" + offers(777), "another one reaches over it"),
        (b"\x01\x01\x02\x04", "it is cut"),
    ],
)
def test_what_is_no_offer_is_none(options: bytes, why: str) -> None:
    assert size_of(options) == 0, why


@given(st.binary(max_size=40), st.integers(0, 15), st.integers(0, 60))
@example(b"\x02\x04\x03", 6, 60)
@example(b"\x05\x00" * 20, 15, 60)
@example(b"", 0, 60)
def test_any_options_are_taken(options: bytes, offset: int, cut: int) -> None:
    segment = bytearray(tcp(1, 2, SYN, options=options))
    segment[12] = offset << 4
    seen = parse(ip(*FOUR, TCP, bytes(segment[:cut])))
    assert seen is None or (holds_in_evidence(seen) and 0 <= seen.mss <= 65535)


@pytest.mark.parametrize(
    ("ends", "protocol", "kind", "code"),
    [(FOUR, ICMP, 3, 13), (FOUR, ICMP, 11, 0), (SIX, ICMP6, 1, 4), (SIX, ICMP6, 3, 0)],
)
@pytest.mark.parametrize("whole", [True, False])
def test_an_icmp_error_is_about_the_packet_it_quotes(
    ends: tuple[str, str], protocol: int, kind: int, code: int, *, whole: bool
) -> None:
    request = ip(*ends, TCP, tcp(40001, 4242, SYN, seq=99))
    # RFC 792: at least 8 bytes of the payload come back.
    quoted = request if whole else request[: len(request) - 12]
    router = "192.0.2.254" if protocol == ICMP else "2001:db8::fe"
    seen = parse(ip(router, ends[0], protocol, icmp(kind, code, quoted)))
    assert seen is not None
    assert (seen.source, seen.source_port) == (ends[0], 40001)
    assert (seen.destination, seen.destination_port) == (ends[1], 4242)
    assert (seen.transport, seen.seq, seen.flags) == ("tcp", 99, "")
    assert seen.icmp == Icmp(kind=kind, code=code, sender=router)


def test_an_icmp_error_about_a_datagram() -> None:
    datagram = ip(*FOUR, UDP, udp(5000, 53))
    seen = parse(ip(FOUR[1], FOUR[0], ICMP, icmp(3, 3, datagram)))
    assert seen is not None
    assert (seen.transport, seen.source_port, seen.destination_port) == ("udp", 5000, 53)


def test_an_icmp_error_that_quotes_less_still_names_the_ports() -> None:
    request = ip(*FOUR, TCP, tcp(40001, 4242, SYN, seq=99))
    seen = parse(ip(FOUR[1], FOUR[0], ICMP, icmp(3, 3, request[:24])))
    assert seen is not None
    assert (seen.source_port, seen.destination_port, seen.seq) == (40001, 4242, 0)


def test_header_options_are_skipped() -> None:
    seen = parse(ip(*FOUR, TCP, tcp(40001, 4242, SYN), options=b"\x01" * 8))
    assert seen is not None
    assert seen.destination_port == 4242


def test_an_ipv4_address_in_ipv6_is_written_as_ipv4() -> None:
    seen = parse(ip("::ffff:192.0.2.1", "::ffff:192.0.2.9", TCP, tcp(1, 2, SYN)))
    assert seen is not None
    assert (seen.source, seen.destination) == FOUR


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (ip(*FOUR, TCP, tcp(1, 2, SYN), fragment=0x0001), "a later fragment has no ports"),
        (ip(*FOUR, 47, udp(1, 2)), "another protocol"),
        (ip(*SIX, 44, tcp(1, 2, SYN)), "a fragment of IPv6"),
        (ip(*FOUR, ICMP, icmp(3, 1, b"")), "an error that quotes nothing"),
        (ip(*FOUR, ICMP, icmp(3, 1, ip(*FOUR, 47, b""))), "an error about another protocol"),
        (b"\x81\x00\x00\x05\x08\x00" + ip(*FOUR, TCP, tcp(1, 2, SYN)), "a VLAN tag"),
        (b"\x00\x01\x08\x00\x06\x04\x00\x01", "ARP"),
        (b"", "nothing"),
    ],
)
def test_other_packets_show_nothing(data: bytes, why: str) -> None:
    assert parse(data) is None, why


def test_the_first_fragment_has_its_ports() -> None:
    seen = parse(ip(*FOUR, TCP, tcp(1, 4242, SYN), fragment=0x2000))
    assert seen is not None
    assert seen.destination_port == 4242


whole = [
    ip(*ends, protocol, payload)
    for ends in (FOUR, SIX)
    for protocol, payload in (
        (TCP, tcp(1, 2, SYN)),
        (ICMP, icmp(3, 1, ip(*ends, TCP, tcp(1, 2, SYN)))),
        (ICMP6, icmp(1, 1, ip(*ends, UDP, udp(1, 2)))),
    )
]


@given(st.binary(max_size=120))
@example(b"\x4f" + b"\xff" * 100)
@example(b"\x40" + bytes(60))
@example(b"\x60" + bytes(39))
def test_any_bytes_are_taken(data: bytes) -> None:
    seen = parse(data)
    assert seen is None or holds_in_evidence(seen)


@given(st.sampled_from(whole), st.integers(0, 100), st.integers(0), st.binary(max_size=1))
def test_packets_cut_short_or_altered_are_taken(
    packet: bytes, size: int, place: int, byte: bytes
) -> None:
    at = place % len(packet)
    altered = packet[:at] + byte + packet[at + 1 :]
    for data in (packet[:size], altered, altered[:size]):
        seen = parse(data)
        assert seen is None or holds_in_evidence(seen)


def holds_in_evidence(seen: Sighting) -> bool:
    """Whether the other side would accept evidence with this in it."""
    document = msgspec.structs.replace(Story().evidence()[0], sightings=(seen,))
    return read_evidence(pack(document)) == document


# -- the real witness, on the loopback card


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def witness(listener: socket.socket) -> Iterator[PacketWitness]:
    if not may_see_packets():
        pytest.skip("not allowed to see packets")
    witness = PacketWitness([listener.getsockname()[1]], [], lambda: 1.5, follow=False)
    yield witness
    witness.close()


def connect(listener: socket.socket) -> int:
    """Connect and hang up; return the local port."""
    with socket.create_connection(listener.getsockname()) as connection:
        return int(connection.getsockname()[1])


def test_a_request_and_its_answer_are_seen_leaving_and_arriving(
    listener: socket.socket, witness: PacketWitness
) -> None:
    port = connect(listener)
    witness.drain()
    seen = [s for s in witness.sightings if port in (s.source_port, s.destination_port)]
    # On loopback each packet is seen twice: as it leaves and as it comes in.
    assert [(s.way, s.flags) for s in seen if s.flags in ("S", "SA")] == [
        ("out", "S"),
        ("in", "S"),
        ("out", "SA"),
        ("in", "SA"),
    ]
    request, _, answer, _ = seen[:4]
    assert answer.ack == (request.seq + 1) % 2**32
    assert {s.interface for s in seen} == {"lo"}
    assert witness.state().lost == 0


def test_other_ports_are_not_seen(witness: PacketWitness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = connect(other)
    witness.drain()
    assert not [s for s in witness.sightings if port in (s.source_port, s.destination_port)]


def test_a_full_witness_says_that_it_lost_something(
    listener: socket.socket, witness: PacketWitness
) -> None:
    connect(listener)
    witness.drain()
    witness.sightings.extend(witness.sightings[:1] * MAX_SIGHTINGS)
    before = len(witness.sightings)
    connect(listener)
    witness.drain()
    assert len(witness.sightings) == before
    assert witness.state().lost > 0


def test_closing_twice_is_allowed(witness: PacketWitness) -> None:
    witness.close()
    witness.close()


# -- datagrams


@pytest.mark.parametrize("ends", [FOUR, SIX])
def test_a_datagram_is_known_by_its_addresses_and_ports(ends: tuple[str, str]) -> None:
    seen = parse(ip(*ends, UDP, udp(50_123, 4242)))
    assert seen is not None
    assert (seen.transport, seen.source, seen.destination) == ("udp", *ends)
    assert (seen.source_port, seen.destination_port, seen.flags, seen.seq) == (50_123, 4242, "", 0)
    assert parse(ip(*ends, UDP, udp(50_123, 4242)[:-1])) is None


def test_datagrams_of_the_asked_ports_are_seen_and_no_others() -> None:
    if not may_see_packets():
        pytest.skip("not allowed to see packets")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        for sock in (asked, other, sender):
            sock.bind(("127.0.0.1", 0))
        port, unasked, mine = (sock.getsockname()[1] for sock in (asked, other, sender))
        witness = PacketWitness([unasked], [], lambda: 1.5, follow=False, udp=[port])
        try:
            sender.sendto(b"", ("127.0.0.1", port))
            sender.sendto(b"", ("127.0.0.1", unasked))
            asked.sendto(b"answer", ("127.0.0.1", mine))
            witness.drain()
        finally:
            witness.close()
        seen = [(s.way, s.transport, s.source_port, s.destination_port) for s in witness.sightings]
        there, back = ("udp", mine, port), ("udp", port, mine)
        assert seen == [("out", *there), ("in", *there), ("out", *back), ("in", *back)]
