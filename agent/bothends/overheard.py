"""What the card hears while the agent waits, though the host's own firewall lets it nowhere.

A host that denies all inbound never gets to hear the other side's announcement or
its knocking: both reach the card and are dropped before any socket. With the right
CAP_NET_RAW (Linux) the agent reads them there, as the packet witness does:

- datagrams to the mDNS port go to `Discovery.overheard`;
- whoever sends a datagram or a connection request to the control port is told to
  `heard`, so that the contact can send something back. That opens the way in for
  both: to a stateful firewall, what comes next is the answer.

Nothing of this is proof of anything: only the handshake decides who it is. Who
sends may lie about its address, so how many are told of is bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from bothends_protocol.addresses import normal

from .interfaces import interface_addresses
from .witness.bpf import knock_filter
from .witness.netlink import NetlinkError
from .witness.packets import packet_socket

__all__ = ["MAX_HEARD", "MDNS_PORT", "Overheard", "Seen", "Sender", "read_packet"]

MAX_HEARD = 16
"""Senders told of in a run: a few more than one computer has addresses, and few enough that a
stranger with made-up ones cannot have us write to a crowd."""

AGAIN_SECONDS = 1.0
"""A sender that goes on is told of this often at most: as often as a waiting agent dials."""

MDNS_PER_SECOND = 50
"""mDNS datagrams passed on in a second; a busy network has fewer in all, and a flood of them
must not keep the agent from its work."""

LOOK_SECONDS = 1.0
"""How old the list of the own addresses may be: interfaces come and go while an agent waits."""

MDNS_PORT = 5353
_OURS = b"bothends"
"""In each datagram that concerns us: `_bothends._tcp` or a host name of ours."""

_BUFFER = 256 * 1024
_SNAP = 9216
"""Bytes read of a packet: mDNS datagrams are no larger (RFC 6762, 17)."""

_BATCH = 64
_HOST, _MULTICAST = 0, 2  # linux/if_packet.h
_LOOPBACK_CARD = 772  # ARPHRD_LOOPBACK, linux/if_arp.h
_TCP, _UDP = 6, 17
_NO_BROADCAST = 31
"""From this prefix on a network has no broadcast address (RFC 3021)."""

_ON_LINK = 255
"""The TTL of what no router has passed on (RFC 6762, 11)."""


Sender: TypeAlias = "tuple[str, int] | tuple[str, int, int, int]"
"""Where a datagram is from, as asyncio writes it: (address, port), for IPv6 (address, port, 0,
zone)."""


class Seen(msgspec.Struct, frozen=True):
    """A datagram, or a connection request, as it came by."""

    transport: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    ttl: int
    payload: bytes
    """Of a datagram; as much as was read."""


class Overheard:
    """Listens at the cards from `start` to `close`.

    `heard` gets the address (a link-local IPv6 one with its zone) and the port at which the
    sender may be answered: that of its datagram or, after a connection request, the control
    port, which is the same on both sides. `mdns` gets a datagram and its sender.
    """

    def __init__(
        self,
        control_port: int,
        heard: Callable[[str, int], None],
        mdns: Callable[[bytes, Sender], None] | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control_port = control_port
        self._heard = heard
        self._mdns = mdns
        self._clock = clock
        self._socket: socket.socket | None = None
        self._told: dict[tuple[str, int], float] = {}
        """When each sender was last told of."""
        self._own: frozenset[str] = frozenset()
        self._crowds: frozenset[str] = frozenset()
        self._looked = -math.inf
        self._second = 0.0
        self._passed = 0

    def start(self) -> bool:
        """Begin; return False where this system or user may not read packets."""
        if self._socket is not None:
            return True
        if not sys.platform.startswith("linux"):
            return False
        try:
            self._socket = packet_socket(knock_filter(self._control_port, MDNS_PORT), _BUFFER)
        except OSError:
            return False
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        return True

    def close(self) -> None:
        """Stop; safe to call again."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None

    def _read(self) -> None:
        for _ in range(_BATCH):
            if self._socket is None:
                return  # closed by what was told
            try:
                data, name = self._socket.recvfrom(_SNAP)
            except BlockingIOError:
                return
            except OSError:
                continue  # ENETDOWN: a card went away; the socket goes on with the others
            interface, _, kind, card, *_ = name
            if card != _LOOPBACK_CARD and kind in (_HOST, _MULTICAST):
                self._take(data, interface, multicast=kind == _MULTICAST)

    def _take(self, data: bytes, interface: str, *, multicast: bool) -> None:
        seen = read_packet(data)
        if seen is None:
            return
        ours = not multicast and self._from_another_to_this(seen)
        mdns = seen.transport == "udp" and seen.destination_port == MDNS_PORT
        if mdns and (multicast or (ours and seen.ttl == _ON_LINK)):
            self._pass_on(seen, interface)
        if ours and seen.destination_port == self._control_port:
            port = seen.source_port if seen.transport == "udp" else self._control_port
            self._tell(_zoned(seen.source, interface), port)

    def _pass_on(self, seen: Seen, interface: str) -> None:
        """Hand a datagram of the local network to mDNS, if it concerns us."""
        if self._mdns is None or _OURS not in seen.payload.lower():
            return
        now = self._clock()
        if now - self._second >= 1.0:
            self._second, self._passed = now, 0
        self._passed += 1
        if self._passed <= MDNS_PER_SECOND:
            self._mdns(seen.payload, _sender(seen, interface))

    def _tell(self, address: str, port: int) -> None:
        now, last = self._clock(), self._told.get((address, port))
        if last is None:
            if port == 0 or len(self._told) >= MAX_HEARD:
                return
            last = -math.inf
        if now - last >= AGAIN_SECONDS:
            last = now
            self._heard(address, port)
        self._told[address, port] = last

    def _from_another_to_this(self, seen: Seen) -> bool:
        """Whether one other computer sent it to an address of this one.

        A router's card gets what is for others, too, and some networks hand back what was sent.
        """
        if not _somebody(seen.source):
            return False
        now = self._clock()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._own, self._crowds = _own_addresses()
        return seen.destination in self._own and seen.source not in self._own | self._crowds


def read_packet(data: bytes) -> Seen | None:
    """Return what `data`, an IPv4 or IPv6 packet, is; None for what is of no interest.

    Takes any bytes and never raises.
    """
    try:
        version = data[0] >> 4
        if version == 4:
            size = (data[0] & 0x0F) * 4
            if size < 20 or struct.unpack_from(">H", data, 6)[0] & 0x1FFF:
                return None  # a later fragment has no ports
            # What a card pads a short frame with does not belong to the packet.
            data = data[: struct.unpack_from(">H", data, 2)[0] or None]
            protocol, ttl = data[9], data[8]
            source, destination = data[12:16], data[16:20]
        elif version == 6:
            size, protocol, ttl = 40, data[6], data[7]
            source, destination = data[8:24], data[24:40]
        else:
            return None
        body = data[size:]
        ports = struct.unpack_from(">HH", body)
        if protocol == _TCP and body[13] & 0x12 != 0x02:
            return None  # not a request
        if protocol not in (_TCP, _UDP):
            return None
        return Seen(
            transport="tcp" if protocol == _TCP else "udp",
            source=normal(str(ipaddress.ip_address(source))),
            source_port=ports[0],
            destination=normal(str(ipaddress.ip_address(destination))),
            destination_port=ports[1],
            ttl=ttl,
            payload=b"" if protocol == _TCP else body[8:],
        )
    except (struct.error, IndexError, ValueError):
        return None


def _somebody(address: str) -> bool:
    """Whether a single other computer can have this address."""
    parsed = ipaddress.ip_address(address)
    return not (
        parsed.is_multicast
        or parsed.is_unspecified
        or parsed.is_loopback
        or parsed == ipaddress.IPv4Address(0xFFFFFFFF)
    )


def _own_addresses() -> tuple[frozenset[str], frozenset[str]]:
    """Return the own addresses and the broadcast ones of their networks."""
    try:
        known = interface_addresses()
    except (OSError, NetlinkError):
        return frozenset(), frozenset()
    networks = [
        ipaddress.ip_network(f"{item.address}/{item.prefix}", strict=False)
        for item in known
        if ":" not in item.address and item.prefix < _NO_BROADCAST
    ]
    return (
        frozenset(normal(item.address) for item in known),
        frozenset(str(network.broadcast_address) for network in networks),
    )


def _zoned(address: str, interface: str) -> str:
    local = ":" in address and ipaddress.ip_address(address).is_link_local
    return f"{address}%{interface}" if local else address


def _sender(seen: Seen, interface: str) -> Sender:
    if ":" not in seen.source:
        return seen.source, seen.source_port
    try:
        zone = socket.if_nametoindex(interface)
    except OSError:
        zone = 0  # it has just gone
    return seen.source, seen.source_port, 0, zone
