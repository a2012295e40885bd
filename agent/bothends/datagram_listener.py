"""The agent's own UDP sockets on candidate ports that nobody else holds there.

They stand in for the service, as `listener` does by TCP. Nobody can speak first
to a socket of UDP but its client, so the other agent does
(`bothends_protocol.challenge`): a genuine request is answered, by as many bytes,
from the address at which it came in; to all else these sockets say nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable

from bothends_protocol.addresses import normal
from bothends_protocol.challenge import REQUEST_SIZE, reply
from bothends_protocol.evidence import Acceptance

__all__ = ["DatagramListeners", "bind_to_device"]

_BATCH = 64
"""Datagrams taken in at one time, so that a flood does not keep everything else waiting."""


class DatagramListeners:
    """All own UDP sockets of a run. `key` is the session's challenge key."""

    def __init__(
        self, key: bytes, clock: Callable[[], float], took: Callable[[Acceptance], None]
    ) -> None:
        self._key = key
        self._clock = clock
        self._took = took
        self._sockets: dict[tuple[str, int], socket.socket] = {}

    def open(self, address: str, port: int, device: str = "") -> None:
        """Wait at `address` and `port`, that one address only. Raises OSError.

        With `device` take only what comes in at that interface.
        """
        if (address, port) in self._sockets:
            return
        sock = _bound(address, port, device)
        self._sockets[address, port] = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._read, sock, address, port)

    @property
    def inodes(self) -> frozenset[int]:
        """The inodes of the sockets, to leave them out of the socket table."""
        return frozenset(os.fstat(sock.fileno()).st_ino for sock in self._sockets.values())

    def drain(self) -> None:
        """Answer everything that waits by now."""
        for (address, port), sock in self._sockets.items():
            self._read(sock, address, port)

    def _read(self, sock: socket.socket, address: str, port: int) -> None:
        for _ in range(_BATCH):
            try:
                data, name = sock.recvfrom(REQUEST_SIZE + 1)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an answer
            self._answer(sock, data, name, (address, port))

    def _answer(
        self,
        sock: socket.socket,
        data: bytes,
        name: tuple[str, int],
        place: tuple[str, int],
    ) -> None:
        answer = reply(self._key, data)
        if answer is None:
            return
        with contextlib.suppress(OSError):  # a filter of this host, or no way back
            sock.sendto(answer, name)
        self._took(
            Acceptance(
                at=self._clock(),
                transport="udp",
                address=place[0],
                port=place[1],
                remote_address=normal(name[0]),
                remote_port=name[1],
                genuine=True,
            )
        )

    def close(self) -> None:
        """Close every socket; safe to call again."""
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()


def bind_to_device(sock: socket.socket, device: str) -> None:
    """Let `sock` take only from the interface `device`, where one is named; raise OSError.

    Anybody may, since Linux 5.7.
    """
    if device and sys.platform.startswith("linux"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())


def _bound(address: str, port: int, device: str) -> socket.socket:
    kind, _, _, _, name = socket.getaddrinfo(
        address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )[0]
    sock = socket.socket(kind, socket.SOCK_DGRAM)
    try:
        # No SO_REUSEADDR: by UDP it would share the port with a program that has it set, too.
        if kind == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        bind_to_device(sock, device)
        sock.bind(name)
    except OSError:
        sock.close()
        raise
    return sock
