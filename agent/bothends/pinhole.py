"""Pinholes: a packet of our own from the tested port, which opens our own router from inside.

A NAT lets in what belongs to a connection that began inside. So the side that should be reached
begins one, from the tested port to the port from which the other side will connect. Its time to
live ends at the first router behind our own, so it opens that one alone and meets nobody (measured
with Linux NATs, which keep the port: the other side's SYN then comes in where the port is not
forwarded, and does not where somebody before the router drops it).

With the right to (CAP_NET_RAW) the packet is written by hand, whoever holds the port. Without, it
takes a port that nobody holds: an ordinary socket is bound to it for a moment. So it is by TCP
alone: what comes in by UDP only the witness of packets tells from what others send, and that needs
the right, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import struct

from bothends_protocol.tags import TRACE_TAG

from .connects import ask_for_errors, limit_hops

__all__ = ["EXPIRY_SECONDS", "open_from_free_port", "open_with_raw_socket"]

EXPIRY_SECONDS = 0.25
"""How long the router at which the SYN ends may take to say so; the port is free again then."""

_SYN = 0x02
_WINDOW = 64_240


def open_with_raw_socket(
    local: str,
    local_port: int,
    remote: str,
    remote_ports: tuple[int, ...],
    hops: int,
    *,
    udp: bool = False,
) -> None:
    """Send SYNs or empty datagrams written by hand; IPv4 only.

    Raises OSError, EPERM without the right to.
    """
    number = socket.IPPROTO_UDP if udp else socket.IPPROTO_TCP
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, number) as sock:
        limit_hops(sock, hops)
        sock.bind((local, 0))
        for port in remote_ports:
            packet = (_datagram if udp else _segment)(local, local_port, remote, port)
            sock.sendto(packet, (remote, 0))


def _datagram(local: str, local_port: int, remote: str, remote_port: int) -> bytes:
    """Return an empty UDP datagram (RFC 768) with its checksum."""
    head = struct.pack(">HHHH", local_port, remote_port, 8, 0)
    pseudo = socket.inet_aton(local) + socket.inet_aton(remote)
    pseudo += struct.pack(">BBH", 0, socket.IPPROTO_UDP, len(head))
    # 0 would say that there is none.
    return head[:6] + struct.pack(">H", _checksum(pseudo + head) or 0xFFFF)


def _segment(local: str, local_port: int, remote: str, remote_port: int) -> bytes:
    """Return a TCP SYN segment (RFC 9293, 3.1) with its checksum."""
    head = struct.pack(
        ">HHIIBBHHHBBH",
        local_port,
        remote_port,
        secrets.randbits(32),
        0,
        6 << 4,
        _SYN,
        _WINDOW,
        0,
        0,
        2,
        4,
        TRACE_TAG,
    )
    pseudo = socket.inet_aton(local) + socket.inet_aton(remote)
    pseudo += struct.pack(">BBH", 0, socket.IPPROTO_TCP, len(head))
    return head[:16] + struct.pack(">H", _checksum(pseudo + head)) + head[18:]


def _checksum(data: bytes) -> int:
    """Return the Internet checksum of `data`, of even length (RFC 1071)."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


async def open_from_free_port(
    local: str, local_port: int, remote: str, remote_ports: tuple[int, ...], hops: int
) -> None:
    """Send SYNs from ordinary sockets; raise OSError (EADDRINUSE where the port is held).

    Ends when the sockets are gone, so that the port can be listened on again.
    """
    with contextlib.ExitStack() as stack:
        socks = []
        for port in remote_ports:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ask_for_errors(sock)
            limit_hops(sock, hops)
            sock.bind((local, local_port))
            result = sock.connect_ex((remote, port))
            if result not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
                raise OSError(result, os.strerror(result))
            socks.append(sock)
        await asyncio.gather(*map(_ended, socks))


async def _ended(sock: socket.socket) -> None:
    """Wait until the connect has ended, by the router's word as a rule."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_writer(sock.fileno(), done.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXPIRY_SECONDS):
                await done.wait()
    finally:
        loop.remove_writer(sock.fileno())
