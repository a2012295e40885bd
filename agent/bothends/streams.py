"""What a link runs on: a stream of bytes to another agent, by whatever way there is.

TCP is one (`TcpStream`); the others keep to the same few words (`Stream`), so
that handshake, records and resumption are one thing for all ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import Protocol

from bothends_protocol.addresses import normal

__all__ = [
    "CONTACT_SEGMENT",
    "DIRECT",
    "PUNCHED",
    "RENDEZVOUS",
    "Stream",
    "TcpStream",
    "asked_again",
    "resent_of",
    "share_port",
    "tune",
]

DIRECT, PUNCHED, RENDEZVOUS = "direct", "punched", "rendezvous"
"""Ways of a stream: TCP, UDP from and to the control port, a meeting point."""

CONTACT_SEGMENT = 1200
"""TCP_MAXSEG of the contact: in an MTU black hole 6 KB stall without it and take 1 ms with
(measured; design, part 4)."""


_RESENT_AT = 100
"""Offset of tcpi_total_retrans in struct tcp_info (linux/tcp.h)."""


_TWICE_AT = 216
"""The same of tcpi_dsack_dups (Linux 4.19): segments that the other side says it got twice."""


def resent_of(info: bytes) -> int:
    """Return how many segments had to be sent again, of what TCP_INFO says.

    What came twice was not lost: the kernel sends the last segment again after a few milliseconds
    without a word (RFC 8985, section 7), and a busy computer takes longer. Measured on a clean
    segment that was so in every other run, and each of them then measured loss for half a second.
    Raises `struct.error` where `info` is too short.
    """
    (resent,) = struct.unpack_from("=I", info, _RESENT_AT)
    twice = struct.unpack_from("=I", info, _TWICE_AT)[0] if len(info) >= _TWICE_AT + 4 else 0
    return max(0, int(resent) - int(twice))


def asked_again(sock: socket.socket) -> bool:
    """Return whether the request of a connection, on which nothing was sent, was sent again.

    The kernel does so after a second (RFC 6298, 2), and a busy computer looks that late. Linux.
    """
    with contextlib.suppress(OSError, AttributeError, struct.error):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RESENT_AT + 4)
        return bool(struct.unpack_from("=I", info, _RESENT_AT)[0])
    return False


class Stream(Protocol):
    """A reliable, ordered stream of bytes to one other agent."""

    way: str
    """`DIRECT`, `PUNCHED` or `RENDEZVOUS`."""
    remote: str
    """Address of the other end, its zone kept where it has one; empty where there is none."""
    remote_port: int
    local: str

    @property
    def resent(self) -> int:
        """Parts that this end had to send again up to now, as far as that is told."""
        return 0

    async def read(self, size: int) -> bytes:
        """Return at most `size` bytes, none at the end; raise OSError where the stream broke."""

    def write(self, data: bytes) -> None:
        """Hand `data` over; never raises for a stream that is gone."""

    async def drain(self) -> None:
        """Wait until the stream takes more; raise OSError where it is gone."""

    def end(self) -> None:
        """Say that nothing more comes from here, and go on reading."""

    def close(self) -> None:
        """Close, what was written goes out still; safe to call again."""

    def abort(self) -> None:
        """Close at once, what is unsent is dropped; safe to call again."""


class TcpStream:
    """A TCP connection as a `Stream`."""

    way = DIRECT

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.remote, self.remote_port = _end(writer.get_extra_info("peername"))
        self.local, _ = _end(writer.get_extra_info("sockname"))
        self._reader = reader
        self._writer = writer
        self._early = b""

    @property
    def sock(self) -> socket.socket:
        """What the connection runs on."""
        found: socket.socket = self._writer.get_extra_info("socket")
        return found

    async def begins_with(self, text: bytes) -> bool:
        """Return whether the first bytes are `text`; they stay to be read.

        Raises OSError where the stream broke.
        """
        while len(self._early) < len(text) and text.startswith(self._early):
            data = await self._reader.read(len(text) - len(self._early))
            if not data:
                break
            self._early += data
        return self._early == text

    @property
    def resent(self) -> int:
        """See `Stream`. Of Linux, tcp(7)."""
        sock = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError, struct.error):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TWICE_AT + 4)
            return resent_of(info)
        return 0

    async def read(self, size: int) -> bytes:
        """See `Stream`."""
        if self._early:
            data, self._early = self._early[:size], self._early[size:]
            return data
        return await self._reader.read(size)

    def write(self, data: bytes) -> None:
        """See `Stream`."""
        if not self._writer.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        """See `Stream`."""
        await self._writer.drain()

    def end(self) -> None:
        """See `Stream`.

        Closing with data unread would reset the connection and could take the last message
        from the other side (RFC 9293, 3.10.4).
        """
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def close(self) -> None:
        """See `Stream`."""
        with contextlib.suppress(OSError):
            self._writer.close()

    def abort(self) -> None:
        """See `Stream`."""
        with contextlib.suppress(OSError):
            self._writer.transport.abort()

    async def drop(self) -> None:
        """Close at once, and wait until it is gone: how it ended is then nobody's concern."""
        self.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def tune(sock: socket.socket) -> None:
    """Set what every contact socket needs: small segments, no delay."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Not every system lets the segment size be chosen; the contact works without.
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, CONTACT_SEGMENT)


def share_port(sock: socket.socket) -> None:
    """Let another socket listen on the port that a connection from `sock` will come from.

    It may be one of those that are tested, and a connection of ours must not stand in the way.
    """
    if os.name == "posix":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def _end(name: object) -> tuple[str, int]:
    """Return (address, port) out of a socket name; the zone of a link-local one is kept."""
    if not isinstance(name, tuple) or len(name) < 2:
        return "", 0
    address, port = str(name[0]), int(name[1])
    zone = int(name[3]) if len(name) > 3 else 0
    if zone and "%" not in address:
        with contextlib.suppress(OSError):
            address += f"%{socket.if_indextoname(zone)}"
    return normal(address), port
