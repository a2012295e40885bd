"""Finding a router's UPnP: the search (SSDP), and the device where it was found.

The router is asked at its own address, since a host firewall lets that answer in, and by
multicast, since some routers hear nothing else. Whoever else answers is not listened to.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bothends_protocol.ssdp import GROUP, PORT, TARGETS, location, search

from .port_control import SILENCE_SECONDS, Link, NoAnswer, Repeated, unsent

if TYPE_CHECKING:
    from .igd import Igd

__all__ = ["find_igd"]

MAX_REPLIES = 16
"""Answers of the router looked at: it gives one for each question, and there are four each time."""

MAX_LOCATIONS = 3
"""Descriptions read: a router has one, and sometimes one for the older version."""

MORE_SECONDS = 0.2
"""How long another description is waited for where one was of no use: a router answers the
questions, which are sent together, together."""


@contextlib.asynccontextmanager
async def find_igd(link: Link) -> AsyncIterator[Igd]:
    """Find the router's UPnP, and let go of it afterwards. The caller bounds the time.

    Raises `NoAnswer` where there is none or it is of no use.
    """
    async with contextlib.AsyncExitStack() as stack:
        found = _Search(link)
        stack.callback(found.close)
        await found.start()
        yield await _opened(link, found, stack)


async def _opened(link: Link, found: _Search, stack: contextlib.AsyncExitStack) -> Igd:
    """Return the first device that can be used of those that were found."""
    useless: NoAnswer | None = None
    for _ in range(MAX_LOCATIONS):
        try:
            where = await found.next()
        except NoAnswer as none:
            raise useless or none from None
        # Importing may not hold up the event loop, on which measurements run.
        module = await asyncio.to_thread(importlib.import_module, f"{__package__}.igd")
        device: Igd = module.Igd(link)
        stack.push_async_callback(device.close)
        try:
            await device.open(where)
        except NoAnswer as none:
            useless = none
            found.wait(MORE_SECONDS)
            continue
        found.close()
        return device
    raise useless or NoAnswer("unusable", "")


class _Search:
    """Asks for UPnP from `start` to `close`, for so long as a router may take to answer."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._found: asyncio.Queue[str] = asyncio.Queue()
        self._known: set[str] = set()
        self._replies = 0
        self._none = NoAnswer("silent", "")
        self._until = 0.0
        self._transports: list[asyncio.DatagramTransport] = []
        self._sending: list[Repeated] = []

    async def start(self) -> None:
        """Ask; raise `NoAnswer` where that cannot be done."""
        self.wait(SILENCE_SECONDS)
        try:
            await self._ask(self._link.gateway, remote=(self._link.gateway, PORT))
        except OSError as error:
            raise unsent(error) from None
        # Where a host has no multicast, the other way is left.
        with contextlib.suppress(OSError):
            await self._ask(GROUP)

    async def next(self) -> str:
        """Return the address of a description on the router; `NoAnswer` where no more come."""
        try:
            async with asyncio.timeout_at(self._until):
                where = await self._found.get()
        except TimeoutError:
            raise self._none from None
        self._stop_asking()
        return where

    def wait(self, seconds: float) -> None:
        """Take what comes in `seconds` from now."""
        self._until = asyncio.get_running_loop().time() + seconds

    def close(self) -> None:
        """Stop; safe to call again."""
        self._stop_asking()
        for transport in self._transports:
            transport.close()

    def _stop_asking(self) -> None:
        for sending in self._sending:
            sending.stop()

    async def _ask(self, host: str, remote: tuple[str, int] | None = None) -> None:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Receiver(self), local_addr=(self._link.local, 0), remote_addr=remote
        )
        self._transports.append(transport)
        to = None if remote else (host, PORT)
        if to:
            sock = transport.get_extra_info("socket")
            out = socket.inet_aton(self._link.local)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, out)

        def send() -> None:
            for target in TARGETS:
                transport.sendto(search(target, host), to)

        self._sending.append(Repeated(send))

    def received(self, data: bytes, sender: str) -> None:
        """Take a datagram; what is not from the router is nobody's."""
        if sender != self._link.gateway:
            return
        self._replies += 1
        if self._replies > MAX_REPLIES:
            self.close()
            return
        where = location(data)
        if where is None or not self._is_own(where):
            self._none = NoAnswer("unusable", "its answers name no description of its own")
        elif where not in self._known:
            self._known.add(where)
            self._found.put_nowait(where)

    def failed(self, error: Exception) -> None:
        """Take an error of a socket: there may still be an answer by the other way."""
        if self._replies:
            return
        if isinstance(error, ConnectionRefusedError):
            self._none = NoAnswer("refused", "nothing speaks it there")
        elif isinstance(error, OSError) and self._none.outcome == "silent":
            self._none = unsent(error)

    def _is_own(self, where: str) -> bool:
        try:
            parts = urlsplit(where)
        except ValueError:
            return False
        return parts.scheme == "http" and parts.hostname == self._link.gateway


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, to: _Search) -> None:
        self._to = to

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._to.received(data, addr[0])

    def error_received(self, exc: Exception) -> None:
        self._to.failed(exc)
