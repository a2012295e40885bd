"""What the card hears while the agent waits: which packets count, and who is told of."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bothends import overheard
from bothends.discovery import SERVICE_TYPE, Discovery
from bothends.overheard import (
    AGAIN_SECONDS,
    LOOK_SECONDS,
    MAX_HEARD,
    MDNS_PER_SECOND,
    MDNS_PORT,
    Overheard,
    Sender,
    read_packet,
)
from bothends.witness.bpf import knock_filter
from bothends_protocol.evidence import Address
from packets_by_hand import ACK, RST, SYN, TCP, UDP, ip, tcp, udp
from test_bpf import run

PORT = 24242
FOUR, SIX = ("192.0.2.1", "192.0.2.9"), ("fe80::1", "fe80::9")
GROUPS = (("192.0.2.1", "224.0.0.251"), ("fe80::1", "ff02::fb"))
OURS = b"..\x09_bothends\x04_tcp\x05local\x00"
both_families = pytest.mark.parametrize("ends", [FOUR, SIX])


# -- packets


@both_families
@pytest.mark.parametrize(
    ("protocol", "body", "taken"),
    [
        (UDP, udp(40000, PORT), True),
        (UDP, udp(40000, MDNS_PORT), True),
        (UDP, udp(PORT, 40000), False),
        (TCP, tcp(40000, PORT, SYN), True),
        (TCP, tcp(40000, PORT, SYN | ACK), False),
        (TCP, tcp(40000, PORT, ACK), False),
        (TCP, tcp(40000, PORT, RST), False),
        (TCP, tcp(40000, MDNS_PORT, SYN), False),
        (47, udp(40000, PORT), False),
    ],
)
def test_the_kernel_lets_through_what_is_to_be_heard(
    ends: tuple[str, str], protocol: int, body: bytes, *, taken: bool
) -> None:
    packet = ip(*ends, protocol, body)
    assert bool(run(knock_filter(PORT, MDNS_PORT), packet)) == taken
    if taken:
        assert read_packet(packet) is not None


def test_later_fragments_have_no_ports() -> None:
    packet = ip(*FOUR, UDP, udp(40000, PORT), fragment=0x0001)
    assert run(knock_filter(PORT, MDNS_PORT), packet) == 0
    assert read_packet(packet) is None


def test_header_options_and_padding_are_not_the_datagram() -> None:
    packet = ip(*FOUR, UDP, udp(1, 2) + b"words", options=b"\x01" * 8)
    seen = read_packet(packet + b"\0" * 18)
    assert seen is not None
    assert (seen.source, seen.source_port, seen.destination_port) == (FOUR[0], 1, 2)
    assert seen.payload == b"words"


@given(st.binary(max_size=100))
@example(b"")
@example(ip(*FOUR, TCP, tcp(1, 2, SYN))[:30])
@example(ip(*SIX, UDP, udp(1, 2))[:43])
def test_any_bytes(data: bytes) -> None:
    read_packet(data)
    listening = Overheard(PORT, lambda _address, _port: None, lambda _data, _sender: None)
    listening._take(data, "eth0", multicast=False)


# -- who is told of


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Heard:
    """Everything that was told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.senders: list[tuple[str, int]] = []
        self.mdns: list[tuple[bytes, Sender]] = []
        self.overheard = Overheard(
            PORT,
            lambda address, port: self.senders.append((address, port)),
            lambda data, sender: self.mdns.append((data, sender)),
            clock=self.clock,
        )

    def take(self, packet: bytes, *, multicast: bool = False) -> None:
        self.overheard._take(packet, "lo", multicast=multicast)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    own = (
        Address(interface="eth0", address=FOUR[1], prefix=24),
        Address(interface="eth0", address=SIX[1], prefix=64),
    )
    monkeypatch.setattr(overheard, "interface_addresses", lambda: own)
    return Heard()


def test_senders_are_told_of_with_where_to_answer(heard: Heard) -> None:
    heard.take(ip(*FOUR, UDP, udp(PORT, PORT)))
    heard.take(ip(*FOUR, TCP, tcp(40000, PORT, SYN)))
    heard.take(ip(*FOUR, UDP, udp(50000, PORT)))
    heard.take(ip(*SIX, TCP, tcp(40000, PORT, SYN)))
    assert heard.senders == [(FOUR[0], PORT), (FOUR[0], 50000), ("fe80::1%lo", PORT)]


def test_who_goes_on_is_told_of_once_a_second(heard: Heard) -> None:
    for _ in range(5):
        heard.take(ip(*FOUR, UDP, udp(PORT, PORT)))
    assert len(heard.senders) == 1
    heard.clock.now += AGAIN_SECONDS
    heard.take(ip(*FOUR, UDP, udp(PORT, PORT)))
    assert len(heard.senders) == 2


@pytest.mark.parametrize(
    "source",
    ["0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", "192.0.2.9", "192.0.2.255"],
)
def test_what_is_no_single_other_computer_is_not_told_of(heard: Heard, source: str) -> None:
    for _ in range(2):
        heard.take(ip(source, FOUR[1], UDP, udp(PORT, PORT)))
        heard.clock.now += AGAIN_SECONDS
    assert heard.senders == []


@pytest.mark.parametrize("source", ["::", "::1", "ff02::1", "::ffff:127.0.0.1"])
def test_nor_of_version_6(heard: Heard, source: str) -> None:
    heard.take(ip(source, SIX[1], UDP, udp(PORT, PORT)))
    assert heard.senders == []


def test_multicast_and_a_sender_without_a_port_are_not_knocks(heard: Heard) -> None:
    heard.take(ip(*FOUR, UDP, udp(PORT, PORT)), multicast=True)
    heard.take(ip(*FOUR, UDP, udp(0, PORT)))
    assert heard.senders == []


@pytest.mark.parametrize("ends", [("192.0.2.1", "192.0.2.77"), ("fe80::1", "fe80::77")])
def test_what_is_passed_on_to_others_is_none_of_ours(heard: Heard, ends: tuple[str, str]) -> None:
    heard.take(ip(*ends, TCP, tcp(40000, PORT, SYN)))
    heard.take(ip(*ends, UDP, udp(PORT, PORT)))
    heard.take(ip(*ends, UDP, udp(MDNS_PORT, MDNS_PORT) + OURS, ttl=255))
    assert (heard.senders, heard.mdns) == ([], [])


def test_an_address_that_comes_later_is_an_own_one_too(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    packet = ip("192.0.2.1", "198.51.100.9", UDP, udp(PORT, PORT))
    heard.take(packet)
    assert heard.senders == []
    new = (Address(interface="wlan0", address="198.51.100.9", prefix=31),)
    monkeypatch.setattr(overheard, "interface_addresses", lambda: new)
    heard.clock.now += LOOK_SECONDS
    heard.take(packet)
    assert heard.senders == [("192.0.2.1", PORT)]


def test_without_a_list_of_own_addresses_nobody_is_told_of(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> None:
        raise OSError

    monkeypatch.setattr(overheard, "interface_addresses", unreadable)
    heard.take(ip(*FOUR, UDP, udp(PORT, PORT)))
    assert heard.senders == []


def test_only_so_many_are_told_of(heard: Heard) -> None:
    for last in range(200):
        heard.take(ip(f"198.18.0.{last}", FOUR[1], UDP, udp(PORT, PORT)))
    assert len(heard.senders) == MAX_HEARD


# -- mDNS


@pytest.mark.parametrize("ends", GROUPS)
def test_mdns_about_us_is_passed_on(heard: Heard, ends: tuple[str, str]) -> None:
    for payload in (OURS, OURS.upper(), b"..\x0f_spotify-connect\x04_tcp"):
        heard.take(ip(*ends, UDP, udp(MDNS_PORT, MDNS_PORT) + payload), multicast=True)
    zone = socket.if_nametoindex("lo")
    six = ":" in ends[0]
    sender = (ends[0], MDNS_PORT, 0, zone) if six else (ends[0], MDNS_PORT)
    assert heard.mdns == [(OURS, sender), (OURS.upper(), sender)]
    assert heard.senders == []


@pytest.mark.parametrize(("ttl", "passed"), [(255, 1), (64, 0)])
def test_mdns_to_one_host_counts_only_from_the_same_network(
    heard: Heard, ttl: int, passed: int
) -> None:
    heard.take(ip(*FOUR, UDP, udp(MDNS_PORT, MDNS_PORT) + OURS, ttl=ttl))
    assert len(heard.mdns) == passed


def test_a_flood_of_mdns_is_cut(heard: Heard) -> None:
    packet = ip(*GROUPS[0], UDP, udp(MDNS_PORT, MDNS_PORT) + OURS)
    for _ in range(3 * MDNS_PER_SECOND):
        heard.take(packet, multicast=True)
    assert len(heard.mdns) == MDNS_PER_SECOND
    heard.clock.now += 1.0
    heard.take(packet, multicast=True)
    assert len(heard.mdns) == MDNS_PER_SECOND + 1


def test_mdns_may_be_unwanted(heard: Heard) -> None:
    heard.overheard._mdns = None
    heard.take(ip(*GROUPS[0], UDP, udp(MDNS_PORT, MDNS_PORT) + OURS), multicast=True)


# -- the rights


async def test_without_the_right_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object) -> socket.socket:
        raise PermissionError

    monkeypatch.setattr(overheard, "packet_socket", refused)
    listening = Overheard(PORT, lambda _address, _port: None, None)
    assert not listening.start()
    listening.close()


async def test_on_another_system_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not Overheard(PORT, lambda _address, _port: None, None).start()


# -- what discovery makes of it


class Records:
    """Stands in for zeroconf, of which only the records and the announcing are wanted."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []
        self.announced = asyncio.Event()
        self.zeroconf = self.record_manager = self

    def async_updates_from_response(self, message: object) -> None:
        self.answers.append([record.name for record in message.answers()])  # type: ignore[attr-defined]

    async def async_update_service(self, _info: object) -> None:
        self.announced.set()

    async def async_close(self) -> None:
        pass


@pytest.fixture
async def records() -> Records:
    return Records()


@pytest.fixture
async def discovery(records: Records) -> Discovery:
    made = Discovery("source", 7, PORT, [], lambda *_found: None, lambda _text: None)
    made._zeroconf = records  # type: ignore[assignment]
    made._info = object()  # type: ignore[assignment]
    made._announced = -100.0
    return made


def name(text: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in text.split("."))


def message(*, answer: bool) -> bytes:
    """A question for our service, or the answer to it (RFC 1035, 4.1)."""
    if not answer:
        return struct.pack(">6H", 0, 0, 1, 0, 0, 0) + name(SERVICE_TYPE) + struct.pack(">HH", 12, 1)
    target = name(f"bothends-7.{SERVICE_TYPE}")
    record = struct.pack(">HHIH", 12, 1, 120, len(target)) + target
    return struct.pack(">6H", 0, 0x8400, 0, 1, 0, 0) + name(SERVICE_TYPE) + record


async def test_answers_go_to_the_records(discovery: Discovery, records: Records) -> None:
    discovery.overheard(message(answer=True), ("192.0.2.1", MDNS_PORT))
    discovery.overheard(message(answer=True), ("fe80::1", MDNS_PORT, 0, 2))
    assert records.answers == [[SERVICE_TYPE]] * 2
    await discovery.close()


async def test_an_answer_from_another_port_is_none(discovery: Discovery, records: Records) -> None:
    discovery.overheard(message(answer=True), ("192.0.2.1", 40000))
    assert records.answers == []
    await discovery.close()


async def test_a_question_about_us_is_answered_by_an_announcement(
    discovery: Discovery, records: Records
) -> None:
    discovery.overheard(message(answer=False), ("192.0.2.1", MDNS_PORT))
    await records.announced.wait()
    records.announced.clear()
    discovery.overheard(message(answer=False), ("192.0.2.1", MDNS_PORT))
    await asyncio.sleep(0)
    assert not records.announced.is_set(), "once a second at most"
    await discovery.close()


async def test_before_it_begins_and_after_it_ends_nothing_is_taken(
    discovery: Discovery, records: Records
) -> None:
    await discovery.close()
    for answer in (True, False):
        discovery.overheard(message(answer=answer), ("192.0.2.1", MDNS_PORT))
    fresh = Discovery("source", 7, PORT, [], lambda *_found: None, lambda _text: None)
    fresh.overheard(message(answer=True), ("192.0.2.1", MDNS_PORT))
    assert records.answers == []


@given(st.binary(max_size=200))
@example(b"")
@example(b"\0\0\x84\0\0\0\xff\xff\0\0\0\0" + b"\xc0\x0c" * 40)
async def test_any_bytes_in_mdns(data: bytes) -> None:
    made = Discovery("source", 7, PORT, [], lambda *_found: None, lambda _text: None)
    made._zeroconf = Records()  # type: ignore[assignment]
    made.overheard(data, ("192.0.2.1", MDNS_PORT))
    await made.close()
