"""A STUN server on loopback, and whatever NAT, loss or malice a test puts before it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

FIRST, SECOND = "127.0.0.1", "127.0.0.2"
COOKIE = 0x2112A442

Name = tuple[str, int]
Mapping = Callable[[Name, Name], Name]
"""As what a client is seen by one of the server's addresses."""
Filter = Callable[[Name, Name, set[Name]], bool]
"""Whether a client is reached from an address, by where it has sent."""


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("!HH", number, len(value)) + value + bytes(-len(value) % 4)


def plain(name: Name) -> bytes:
    address = ipaddress.ip_address(name[0])
    return struct.pack("!BBH", 0, 1 if address.version == 4 else 2, name[1]) + address.packed


def answer(request: bytes, *attributes: bytes, kind: int = 0x0101) -> bytes:
    body = b"".join(attributes)
    return struct.pack("!HHI", kind, len(body), COOKIE) + request[8:20] + body


class StunServer:
    """Four sockets, which answer as a test wants it."""

    def __init__(self) -> None:
        self.mapping: Mapping = lambda client, _: client
        self.filter: Filter = lambda _client, _origin, _sent: True
        self.lost: Callable[[], bool] = lambda: False
        self.obeys = True
        self.other: Name | None = (SECOND, 0)
        """What is named as the second address; port 0: the second port."""
        self.kind = 0x0101
        self.extra = b""
        self.ports: list[int] = []
        self.requests = 0
        self.sockets: dict[Name, asyncio.DatagramTransport] = {}
        self._sent: dict[int, set[Name]] = {}

    @property
    def port(self) -> int:
        return self.ports[0]

    def received(self, data: bytes, client: Name, at: Name) -> None:
        self.requests += 1
        sent = self._sent.setdefault(client[1], set())
        sent.add(at)
        if self.lost():
            return
        change = b"\0\3\0\4\0\0\0" in data and self.obeys
        flags = data[27] if change else 0
        origin = self._origin(at, flags)
        back = struct.unpack_from("!H", data, 32)[0] if data[28:32] == b"\0\x27\0\2" else 0
        if not self.filter(client, origin, sent) and not back:
            return
        if self.lost():
            return
        seen = self.mapping(client, at)
        attributes = [attribute(1, plain(seen)), self.extra]
        if self.other is not None:
            name = (self.other[0], self.other[1] or self.ports[1])
            attributes.append(attribute(0x802C, plain(name)))
        self.sockets[origin].sendto(answer(data, *attributes, kind=self.kind), client)

    def _origin(self, at: Name, flags: int) -> Name:
        address, port = at
        if flags & 4:
            address = SECOND if address == FIRST else FIRST
        if flags & 2:
            port = self.ports[1] if port == self.ports[0] else self.ports[0]
        return address, port


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, server: StunServer, at: Name) -> None:
        self._server, self._at = server, at

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._server.received(data, (addr[0], addr[1]), self._at)


@contextlib.asynccontextmanager
async def stun_server() -> AsyncIterator[StunServer]:
    """A server as it should be, for a test to spoil."""
    server = StunServer()
    loop = asyncio.get_running_loop()

    async def bind(address: str, port: int) -> int:
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=(address, port)
        )
        name: Name = transport.get_extra_info("sockname")[:2]
        server.sockets[name] = transport
        transport.set_protocol(_Receiver(server, name))
        return name[1]

    try:
        for _ in range(2):
            port = await bind(FIRST, 0)
            server.ports.append(port)
            await bind(SECOND, port)
        yield server
    finally:
        for transport in server.sockets.values():
            transport.close()
        await asyncio.sleep(0)
