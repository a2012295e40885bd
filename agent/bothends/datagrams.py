"""A UDP socket that answers with the address at which it was spoken to.

It is bound to no address, so that it takes what comes to any of them. What it sends
would then leave with the address that the kernel prefers, and that may be another one
than the other side knocked at: to a firewall, and to the other side, an answer from
there answers nothing. Where the system tells at which address a datagram came (IP_PKTINFO,
ip(7); IPV6_PKTINFO, RFC 3542, 6) the answer leaves with that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from bothends_protocol.addresses import normal

__all__ = ["Datagrams", "datagrams_read"]

_IP_PKTINFO = getattr(socket, "IP_PKTINFO", {"linux": 8, "darwin": 26}.get(sys.platform, 0))
"""Newer versions of Python have the name (linux/in.h; netinet/in.h of macOS)."""

_IPV4, _IPV6 = struct.Struct("@I4s4s"), struct.Struct("@16sI")
"""in_pktinfo (interface, own address, address in the header) and in6_pktinfo."""

_SIZE = 2048
"""Bytes read of a datagram: more than any of ours has."""

_BATCH = 64
"""Datagrams read before others get their turn."""

Received = Callable[[bytes, "tuple[Any, ...]", str], None]
"""Takes a datagram, the socket address it is from, and the own address that it came to (the zone
of a link-local one kept; empty where the system does not tell)."""


_READ: Counter[str] = Counter()
"""What all sockets of this program have read, by the kernel's counters for it."""


def datagrams_read() -> dict[str, int]:
    """Return how many datagrams of the contact this program has read, by IP version.

    As `own.Udp.InDatagrams` and `own.Udp6.InDatagrams`, like the kernel's counters.
    """
    return {f"own.{name}.InDatagrams": _READ[name] for name in ("Udp", "Udp6")}


def _count(name: tuple[Any, ...]) -> None:
    """Count a datagram from the socket address `name`; one of IPv6 has four parts."""
    _READ["Udp6" if len(name) > 2 and "." not in str(name[0]) else "Udp"] += 1


class Datagrams:
    """One socket, from `open` to `close`."""

    def __init__(self, sock: socket.socket, received: Received) -> None:
        self.sock = sock
        self._received = received
        self._transport: asyncio.DatagramTransport | None = None
        self._reads = False

    @classmethod
    async def open(cls, family: int, host: str, port: int, received: Received) -> Datagrams:
        """Bind `port`; raise OSError where it cannot be had."""
        one = cls(_bound(family, host, port), received)
        loop = asyncio.get_running_loop()
        if _tells_own(one.sock):
            with contextlib.suppress(NotImplementedError):
                loop.add_reader(one.sock.fileno(), one._read)
                one._reads = True
        if not one._reads:
            one._transport, _ = await loop.create_datagram_endpoint(
                lambda: _Receiver(received), sock=one.sock
            )
        return one

    def send(self, data: bytes, name: tuple[Any, ...], own: str) -> None:
        """Send to the socket address `name`, by the own address `own` where one is given.

        What cannot be sent is lost, as any datagram may be.
        """
        with contextlib.suppress(OSError, ValueError):
            if self._reads:
                self.sock.sendmsg([data], _ancillary(own), 0, name)
            elif self._transport is not None and not self._transport.is_closing():
                self._transport.sendto(data, name)

    def close(self) -> None:
        """Close; safe to call again."""
        if self._transport is not None:
            self._transport.close()
        elif self._reads:
            self._reads = False
            asyncio.get_running_loop().remove_reader(self.sock.fileno())
            self.sock.close()

    def _read(self) -> None:
        for _ in range(_BATCH):
            if not self._reads:
                return  # closed by who received
            try:
                data, ancillary, _, name = self.sock.recvmsg(_SIZE, _SPACE)
            except BlockingIOError:
                return
            except OSError:
                continue  # an error that an earlier datagram met
            _count(name)
            self._received(data, name, _own(ancillary))


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, received: Received) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        _count(addr)
        self._received(data, addr, "")


def _bound(family: int, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _tells_own(sock: socket.socket) -> bool:
    """Ask the system to say at which address each datagram came; return whether it does."""
    try:
        if not hasattr(sock, "recvmsg"):
            return False
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            return True
        if _IP_PKTINFO:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        return bool(_IP_PKTINFO)
    except (OSError, AttributeError):
        return False


_SPACE = socket.CMSG_SPACE(_IPV6.size) if hasattr(socket, "CMSG_SPACE") else 0


def _own(ancillary: list[tuple[int, int, bytes]]) -> str:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _IPV4.size:
            _, own, header = _IPV4.unpack_from(data)
            return socket.inet_ntoa(own if any(own) else header)
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            packed, interface = _IPV6.unpack_from(data)
            own6 = ipaddress.IPv6Address(packed)
            if own6.is_multicast:
                return ""
            return normal(str(own6)) + (_zone(interface) if own6.is_link_local else "")
    return ""


def _zone(interface: int) -> str:
    try:
        return f"%{socket.if_indextoname(interface)}"
    except OSError:
        return ""  # it has just gone


def _ancillary(own: str) -> list[tuple[int, int, bytes]]:
    """Return what makes a datagram leave with `own`; raise OSError where its zone is gone."""
    address, _, zone = own.partition("%")
    if not address:
        return []
    if ":" not in address:
        data = _IPV4.pack(0, socket.inet_aton(address), bytes(4))
        return [(socket.IPPROTO_IP, _IP_PKTINFO, data)]
    interface = socket.if_nametoindex(zone) if zone else 0
    data = _IPV6.pack(socket.inet_pton(socket.AF_INET6, address), interface)
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, data)]
