"""The agent's own listener on a candidate port that nobody else holds there.

It stands in for the service, so that the way to the port can be told from the
service behind it. It speaks first (`bothends_protocol.challenge`): whoever
connects gets 32 bytes, and is taken for the other agent only when it answers
them rightly. By UDP `datagram_listener` does the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import struct
from collections.abc import Callable

from bothends_protocol.addresses import family, normal
from bothends_protocol.challenge import ANSWER_SIZE, NONCE_SIZE, challenge, is_answer
from bothends_protocol.evidence import Acceptance, OwnListener

from .datagram_listener import DatagramListeners, bind_to_device
from .tasks import Tasks

__all__ = ["OwnListeners"]

BACKLOG = 1024
"""More than the attempts and the bursts of a run can fill, also where no handshake is completed,
since answers do not get back: what meets a full queue leaves no row in the socket table. As far as
the system lets it (net.core.somaxconn, 128 before Linux 5.4)."""

MAX_CONVERSATIONS = 256
"""Connections held at one time; those beyond are closed at once, answered by nobody."""

ANSWER_SECONDS = 5.0
"""How long a connection may take to answer the challenge before it is a stranger's."""


_AT_ONCE = struct.pack("=ii", 1, 0)
"""struct linger: drop the connection when it is closed, without a wait."""


class OwnListeners:
    """All own listeners of a run. `key` is the session's challenge key."""

    def __init__(
        self, key: bytes, clock: Callable[[], float], took: Callable[[Acceptance], None]
    ) -> None:
        self._key = key
        self._clock = clock
        self._took = took
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._devices: dict[tuple[str, int], str] = {}
        """To which interface each was bound that was."""
        self._datagrams = DatagramListeners(key, clock, took)
        self._tasks = Tasks()
        self._talking = 0
        self._closed = False

    def open(
        self, address: str, port: int, transport: str = "tcp", *, device: str = ""
    ) -> OwnListener:
        """Listen at `address` and `port`, that one address only; say how it went.

        A listener on one address beside a program on another is possible, so
        that a service on loopback alone does not hide the state of the way. So is one that takes
        from `device` alone, beside a program that takes from another interface (Linux).
        """
        if self._closed:
            return OwnListener(
                transport=transport, address=address, port=port, opened=False, error="ESHUTDOWN"
            )
        try:
            if transport == "udp":
                self._datagrams.open(address, port, device)
            else:
                self._listen(address, port, device)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, str(error.errno))
            return OwnListener(
                transport=transport, address=address, port=port, opened=False, error=name
            )
        return OwnListener(transport=transport, address=address, port=port, opened=True)

    def _listen(self, address: str, port: int, device: str) -> None:
        if (address, port) in self._sockets:
            return
        # One that was released for a moment is opened again as it was.
        device = device or self._devices.get((address, port), "")
        sock = _listening(address, port, device)
        self._devices[address, port] = device
        self._sockets[address, port] = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._accept, sock, address, port)

    def drain(self) -> None:
        """Take in all datagrams that wait by now."""
        self._datagrams.drain()

    def release(self, port: int) -> tuple[str, ...]:
        """Stop listening on the TCP `port`; return the addresses where that was, to open again."""
        places = [place for place in self._sockets if place[1] == port]
        for place in places:
            sock = self._sockets.pop(place)
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        return tuple(address for address, _ in places)

    @property
    def inodes(self) -> frozenset[int]:
        """The inodes of the listening sockets, to leave them out of the socket table."""
        mine = frozenset(os.fstat(sock.fileno()).st_ino for sock in self._sockets.values())
        return mine | self._datagrams.inodes

    def _accept(self, sock: socket.socket, address: str, port: int) -> None:
        with contextlib.suppress(OSError):
            conn, name = sock.accept()
            conn.setblocking(False)
            if self._talking >= MAX_CONVERSATIONS:
                conn.close()
                return
            self._talking += 1
            self._tasks.start(self._talk(conn, address, port, normal(name[0]), name[1]))

    async def _talk(
        self, conn: socket.socket, address: str, port: int, remote: str, remote_port: int
    ) -> None:
        loop = asyncio.get_running_loop()
        nonce = secrets.token_bytes(NONCE_SIZE)
        heard = b""
        genuine = False
        at = self._clock()
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await loop.sock_sendall(conn, challenge(self._key, nonce))
                    while len(heard) < ANSWER_SIZE:
                        data = await loop.sock_recv(conn, ANSWER_SIZE - len(heard))
                        if not data:
                            break
                        heard += data
            genuine = is_answer(self._key, nonce, heard)
            self._took(
                Acceptance(
                    at=at,
                    transport="tcp",
                    address=address,
                    port=port,
                    remote_address=remote,
                    remote_port=remote_port,
                    genuine=genuine,
                )
            )
            if genuine:
                await _until_closed(conn)
                genuine = False
        finally:
            self._talking -= 1
            if genuine:
                # Ended before the other agent closed it: see `_until_closed`.
                with contextlib.suppress(OSError):
                    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            conn.close()

    async def close(self) -> None:
        """Close every listener and connection, for good; safe to call again."""
        self._closed = True
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()
        self._datagrams.close()
        await self._tasks.finish()


async def _until_closed(conn: socket.socket) -> None:
    """Let the other agent close first.

    Who closes first keeps the port in TIME_WAIT for a minute, and a service that does not ask
    for SO_REUSEADDR could not be started on it meanwhile.
    """
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            while await asyncio.get_running_loop().sock_recv(conn, ANSWER_SIZE):
                pass


def _listening(address: str, port: int, device: str) -> socket.socket:
    version = family(address.partition("%")[0])
    kind = socket.AF_INET6 if version == 6 else socket.AF_INET
    name = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[
        0
    ][4]
    sock = socket.socket(kind, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # Past connections in TIME_WAIT must not look like a program on the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bind_to_device(sock, device)
        sock.bind(name)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
