"""The packet witness: what crosses the host's cards, seen outside its own filters.

Linux AF_PACKET, with the right CAP_NET_RAW. An incoming packet is seen before
netfilter, tc and the ingress hook (net/core/dev.c, __netif_receive_skb_core:
taps come first), an outgoing one after all of them (dev_queue_xmit_nit), so
`in` means "reached the card" and `out` means "left by the card".

SOCK_DGRAM cuts the link header off, so that every kind of device looks alike.
The filter is attached before the socket is bound: not one packet that it would
refuse gets in. Checksums are never looked at; virtual links leave them blank.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable

from bothends_protocol.addresses import normal
from bothends_protocol.evidence import Icmp, Sighting, Witness
from bothends_protocol.tags import is_tag

from .bpf import Instruction, request_filter

__all__ = [
    "MAX_SIGHTINGS",
    "PacketWitness",
    "may_see_packets",
    "packet_socket",
    "parse_packet",
]

MAX_SIGHTINGS = 20_000
"""Sightings kept: beyond that the witness counts what it lost and says so."""

RECEIVE_BUFFER = 8 * 1024 * 1024
"""Room for a burst while the agent is busy. Asked for; the kernel may grant less."""

_SNAP = 256
_OUTGOING = 4  # PACKET_OUTGOING, linux/if_packet.h
_HOST = 0  # PACKET_HOST
_ETH_P_ALL = 3
_SO_ATTACH_FILTER = 26
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_BATCH = 512

_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58
_FLAGS = ((0x02, "S"), (0x10, "A"), (0x04, "R"), (0x01, "F"))


def may_see_packets() -> bool:
    """Return whether this process may open the packet witness."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0).close()
    except OSError:
        return False
    return True


class PacketWitness:
    """Sees connection requests, their answers and ICMP errors about `ports`.

    And datagrams and ICMP errors about the UDP ports `udp`. They are appended to `sightings`;
    `clock` returns the seconds to stamp them with. With `follow`, requests to `ports` are also
    recognised where this host passes them on to another port (containers), by their sequence
    number.
    """

    def __init__(
        self,
        ports: Iterable[int],
        sightings: list[Sighting],
        clock: Callable[[], float],
        *,
        follow: bool,
        udp: Iterable[int] = (),
    ) -> None:
        """Begin to watch. Raises OSError where that is not allowed or not possible."""
        self.sightings = sightings
        self._ports = frozenset(ports)
        self._udp = frozenset(udp)
        self._clock = clock
        self._lost = 0
        self._follow = follow
        self._requests: set[int] = set()
        self._names: dict[int, str] = {}
        program = request_filter(() if follow else self._ports, self._udp)
        self._socket = packet_socket(program, RECEIVE_BUFFER)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._instead: Callable[[bytes, str], None] | None = None

    def divert(self, take: Callable[[bytes, str], None] | None) -> None:
        """From now on hand packets, and which way they went, to `take` alone; None: as before."""
        while self.drain():
            pass
        self._instead = take

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Empty the kernel's buffer whenever `loop` finds something in it."""
        self._loop = loop
        loop.add_reader(self._socket.fileno(), self.drain)

    def drain(self) -> bool:
        """Take in everything the kernel holds by now; whether there may be more."""
        for _ in range(_BATCH):
            try:
                data, name = self._socket.recvfrom(_SNAP)
            except BlockingIOError:
                return False
            except OSError:
                # ENETDOWN: a card went away; the socket goes on with the others.
                continue
            if self._instead is None:
                self._take(data, name)
            elif name[2] in (_HOST, _OUTGOING):
                self._instead(data, "out" if name[2] == _OUTGOING else "in")
        return True

    def _take(self, data: bytes, name: tuple[str, int, int, int, bytes]) -> None:
        if len(self.sightings) >= MAX_SIGHTINGS:
            self._lost += 1
            return
        if name[2] not in (_HOST, _OUTGOING):
            return
        seen = parse_packet(
            data, way="out" if name[2] == _OUTGOING else "in", at=self._clock(), interface=name[0]
        )
        if seen is not None and self._concerns(seen):
            self.sightings.append(seen)

    def _concerns(self, seen: Sighting) -> bool:
        if seen.transport == "udp" and seen.icmp is None:
            return bool(self._udp & {seen.source_port, seen.destination_port})
        if seen.transport == "udp" and self._udp & {seen.source_port, seen.destination_port}:
            return True
        if seen.source_port in self._ports or seen.destination_port in self._ports:
            if self._follow and seen.flags == "S" and len(self._requests) < MAX_SIGHTINGS:
                self._requests.add(seen.seq)
            return True
        if seen.way == "in" and seen.flags == "S" and is_tag(seen.mss):
            return True  # to another port than it was sent to: some router's doing
        return self._follow and seen.flags == "S" and seen.seq in self._requests

    def state(self) -> Witness:
        """Return how far this witness can be trusted."""
        with contextlib.suppress(OSError, struct.error):
            # tp_packets, tp_drops; reading resets both.
            raw = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            self._lost += struct.unpack("II", raw)[1]
        return Witness(name="packets", available=True, lost=self._lost)

    def close(self) -> None:
        """Stop watching; safe to call again."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        self._socket.close()


def packet_socket(program: list[Instruction], size: int) -> socket.socket:
    """Return a socket for what crosses any card and passes the filter `program`.

    `size` bytes of buffer are asked for. Raises `OSError` where that is not allowed or not
    possible.
    """
    # Protocol 0: deaf until bind, so that the filter is in place before the first packet.
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        _attach(sock, program)
        sock.setblocking(False)
        _bind_all(sock)
    except OSError:
        sock.close()
        raise
    return sock


def _attach(sock: socket.socket, program: list[Instruction]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    # struct sock_fprog: a count, padding to a pointer's alignment, the pointer.
    fprog = struct.pack("HL", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def _bind_all(sock: socket.socket) -> None:
    """Bind to all cards. Python's own bind() wants the name of one."""
    libc = ctypes.CDLL(None, use_errno=True)
    # struct sockaddr_ll: family, protocol (network order), index 0 for all, the rest unused.
    name = struct.pack("=H", socket.AF_PACKET) + struct.pack(">H", _ETH_P_ALL) + bytes(16)
    if libc.bind(sock.fileno(), name, len(name)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def parse_packet(data: bytes, *, way: str, at: float, interface: str) -> Sighting | None:
    """Return what `data`, an IPv4 or IPv6 packet, shows; None where that is of no interest.

    Takes any bytes and never raises.
    """
    try:
        header = _ip_header(data)
        if header is None:
            return None
        protocol, source, destination, ttl, payload = header
        if protocol == _TCP:
            return _tcp(payload, source, destination, way=way, at=at, interface=interface, ttl=ttl)
        if protocol == _UDP:
            return _udp(payload, source, destination, way=way, at=at, interface=interface, ttl=ttl)
        if protocol in (_ICMP, _ICMP6):
            return _icmp(payload, source, way=way, at=at, interface=interface, ttl=ttl)
    except (struct.error, IndexError, ValueError):
        return None
    return None


_Header = tuple[int, str, str, int, bytes]


def _ip_header(data: bytes) -> _Header | None:
    """Return (protocol, source, destination, ttl, payload)."""
    version = data[0] >> 4
    if version == 4:
        if struct.unpack_from(">H", data, 6)[0] & 0x1FFF:
            return None  # a later fragment has no ports
        size = (data[0] & 0x0F) * 4
        return data[9], _address(data[12:16]), _address(data[16:20]), data[8], data[size:]
    if version == 6:
        return data[6], _address(data[8:24]), _address(data[24:40]), data[7], data[40:]
    return None


def _address(raw: bytes) -> str:
    return normal(str(ipaddress.ip_address(raw)))


def _tcp(
    payload: bytes, source: str, destination: str, *, way: str, at: float, interface: str, ttl: int
) -> Sighting:
    source_port, destination_port, seq, ack = struct.unpack_from(">HHII", payload)
    bits = payload[13]
    return Sighting(
        at=at,
        way=way,
        interface=interface,
        transport="tcp",
        source=source,
        source_port=source_port,
        destination=destination,
        destination_port=destination_port,
        flags="".join(name for bit, name in _FLAGS if bits & bit),
        seq=seq,
        ack=ack,
        ttl=ttl,
        mss=_segment_size(payload) if bits & 0x02 else 0,
    )


def _udp(
    payload: bytes, source: str, destination: str, *, way: str, at: float, interface: str, ttl: int
) -> Sighting:
    # All of the header (RFC 768), so that a cut one is none.
    source_port, destination_port, _, _ = struct.unpack_from(">HHHH", payload)
    return Sighting(
        at=at,
        way=way,
        interface=interface,
        transport="udp",
        source=source,
        source_port=source_port,
        destination=destination,
        destination_port=destination_port,
        ttl=ttl,
    )


def _segment_size(segment: bytes) -> int:
    """Return the maximum segment size that a SYN offers, 0 for none (RFC 9293, 3.2)."""
    options = segment[20 : (segment[12] >> 4) * 4]
    at = 0
    while at + 1 < len(options) and options[at]:
        if options[at] == 1:
            at += 1
            continue
        size = options[at + 1]
        if options[at] == 2 and size == 4 and at + 4 <= len(options):
            return int.from_bytes(options[at + 2 : at + 4], "big")
        at += max(size, 2)
    return 0


def _icmp(
    payload: bytes, sender: str, *, way: str, at: float, interface: str, ttl: int
) -> Sighting | None:
    quoted = _ip_header(payload[8:])
    if quoted is None or quoted[0] not in (_TCP, _UDP):
        return None
    protocol, source, destination, _, inner = quoted
    source_port, destination_port = struct.unpack_from(">HH", inner)
    # RFC 792 quotes at least 8 bytes of the payload: both ports and, for TCP, the sequence.
    tcp = protocol == _TCP and len(inner) >= 8
    return Sighting(
        at=at,
        way=way,
        interface=interface,
        transport="tcp" if protocol == _TCP else "udp",
        source=source,
        source_port=source_port,
        destination=destination,
        destination_port=destination_port,
        seq=struct.unpack_from(">I", inner, 4)[0] if tcp else 0,
        ttl=ttl,
        icmp=Icmp(kind=payload[0], code=payload[1], sender=sender),
    )
