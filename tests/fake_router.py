"""A router on a loopback address of its own, honest or not, that notes who was asked what.

`FakeRouter` answers PCP and NAT-PMP at port 5351 and the search for UPnP at port 1900 with
what it was given, and serves the pages it was given over HTTP. `Igd` is the part of a real
one: mappings, leases, errors. Run as a program with an address, it is a router that knows
UPnP and mappings for ever alone, or that has another of the `VICES` if one is named; it says on
descriptor 3 when it is ready. It forwards nothing in truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from bothends_protocol import portmap, ssdp

__all__ = [
    "DESCRIPTION",
    "LOCAL",
    "VICES",
    "VICTIM",
    "FakeRouter",
    "Igd",
    "Page",
    "own_address",
    "page",
    "router_at",
]

LOCAL = "127.0.0.1"
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DESCRIPTION = (
    '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">{extra}<device>'
    "<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>"
    "<friendlyName>fake</friendlyName><UDN>uuid:1</UDN><serviceList><service>"
    f"<serviceType>{SERVICE}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>"
    "<SCPDURL>{scpd}</SCPDURL><controlURL>{control}</controlURL><eventSubURL>/e</eventSubURL>"
    "</service></serviceList></device></root>"
)
ENVELOPE = (
    '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">'
    "<s:Body>{}</s:Body></s:Envelope>"
)
FAULT = (
    "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
    '<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{}</errorCode>'
    "<errorDescription>{}</errorDescription></UPnPError></detail></s:Fault>"
)

Page = Callable[[str, str, str], "bytes | AsyncIterator[bytes]"]
"""Makes of method, path and body all the bytes of an answer."""


def own_address() -> str:
    """A loopback address that no other test uses at the same time."""
    draw = random.SystemRandom()
    return f"127.{1 + os.getpid() % 250}.{draw.randrange(1, 250)}.{draw.randrange(1, 250)}"


def page(body: str | bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole answer over HTTP."""
    data = body.encode() if isinstance(body, str) else body
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close", *headers)
    return "\r\n".join((*lines, "", "")).encode() + data


Answering = Callable[[bytes], "list[bytes]"]


def nothing(_: bytes) -> list[bytes]:
    return []


@dataclass
class FakeRouter:
    """`control` and `search` make of a datagram those that answer it; None: the port is closed."""

    control: Answering | None = nothing
    search: Answering | None = nothing
    page: Page | None = None
    address: str = field(default_factory=own_address)
    http_port: int = 0
    asked: list[bytes] = field(default_factory=list)
    searched: list[bytes] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and body of what came over HTTP."""

    def location(self, path: str = "/d.xml", host: str = "") -> bytes:
        """An answer to the search."""
        where = f"http://{host or self.address}:{self.http_port}{path}"
        return f"HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: {where}\r\n\r\n".encode()

    def actions(self) -> list[str]:
        """The actions that were asked for, in order."""
        found = [re.search(r"<u:(\w+) ", body) for method, _, body in self.requests if method]
        return [match[1] for match in found if match]


@contextlib.asynccontextmanager
async def router_at(router: FakeRouter) -> AsyncIterator[FakeRouter]:
    """The router as long as it is there."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        if router.page is not None:
            server = await asyncio.start_server(_Http(router), router.address, 0)
            stack.callback(server.close)
            router.http_port = server.sockets[0].getsockname()[1]
        for port, way, noted in (
            (portmap.PORT, "control", router.asked),
            (ssdp.PORT, "search", router.searched),
        ):
            if getattr(router, way) is not None:
                end = _Udp(router, way, noted)
                transport, _ = await loop.create_datagram_endpoint(
                    lambda end=end: end,  # type: ignore[misc]
                    local_addr=(router.address, port),
                )
                stack.callback(transport.close)
        yield router


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, router: FakeRouter, way: str, noted: list[bytes]) -> None:
        self._router = router
        self._way = way
        self._noted = noted

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._noted.append(data)
        for reply in getattr(self._router, self._way)(data):
            self._transport.sendto(reply, addr)


class _Http:
    def __init__(self, router: FakeRouter) -> None:
        self._router = router

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split(" ", 2)
            length = re.search(r"(?i)content-length: (\d+)", head)
            body = (await reader.readexactly(int(length[1]))).decode() if length else ""
            self._router.requests.append((method, path, body))
            assert self._router.page is not None
            answer = self._router.page(method, path, body)
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                async for chunk in answer:
                    writer.write(chunk)
                    await writer.drain()
        writer.close()


class Igd:
    """What answers PCP, NAT-PMP and UPnP as a router does, with one table of mappings."""

    def __init__(self, outside: str = "11.0.1.2") -> None:
        self.outside = outside
        self.mappings: dict[tuple[str, int], tuple[str, int, int]] = {}
        """Client, its port and the lease, by transport and outside port."""
        self.permanent_only = False
        self.forgets_leases = False
        self.refuses: int | None = None
        self.changed = asyncio.Event()
        """Set whenever something was mapped or ended."""
        self.result = 0
        """Of PCP and NAT-PMP."""
        self.instead: int | None = None
        """The outside port that these grant."""
        self.knows_options = True

    # -- PCP and NAT-PMP

    def control(self, data: bytes) -> list[bytes]:
        if data[0] == portmap.PCP_VERSION:
            return [self._pcp(data)]
        if data[1] == 0:
            head = struct.pack("!BBHI", 0, 0x80, self.result, 1)
            return [head + socket.inet_aton(self.outside)]
        _, opcode, _, inside, outside, lifetime = struct.unpack("!BBHHHI", data)
        transport = "udp" if opcode == 1 else "tcp"
        given = self._map(transport, inside, outside, lifetime)
        head = struct.pack("!BBHI", 0, 0x80 | opcode, self.result, 1)
        return [head + struct.pack("!HHI", inside, given, lifetime)]

    def _pcp(self, data: bytes) -> bytes:
        lifetime = struct.unpack_from("!I", data, 4)[0]
        result = self.result
        if len(data) > 60:  # no other port than this
            result = result or ((11 if self.instead else 0) if self.knows_options else 5)
        head = struct.pack("!BBBBII12x", 2, 0x80 | data[1], 0, result, lifetime, 1)
        if data[1] == 0 or result:
            return head + data[24:60]
        inside, outside = struct.unpack_from("!HH", data, 40)
        transport = "udp" if data[36] == 17 else "tcp"
        given = self._map(transport, inside, outside, lifetime)
        address = bytes(10) + b"\xff\xff" + socket.inet_aton(self.outside)
        return head + data[24:42] + struct.pack("!H", given) + address

    def _map(self, transport: str, inside: int, outside: int, lifetime: int) -> int:
        if self.result:
            return 0
        if not lifetime:
            same = [
                key
                for key, (client, port, _) in self.mappings.items()
                if (key[0], client, port) == (transport, LOCAL, inside)
            ]
            for key in same:
                del self.mappings[key]
            self.changed.set()
            return 0
        given = self.instead or outside
        self.mappings[transport, given] = (LOCAL, inside, lifetime)
        self.changed.set()
        return given

    # -- UPnP

    def page(self, method: str, _path: str, body: str) -> bytes:
        if method == "GET":
            return page(DESCRIPTION.format(extra="", scpd="/s.xml", control="/c"))
        action = re.search(r"<u:(\w+) ", body)
        assert action
        words = dict(re.findall(r"<(New\w+)>([^<]*)</", body))
        return self._act(action[1], words)

    def _act(self, action: str, words: dict[str, str]) -> bytes:
        if action == "GetExternalIPAddress":
            return _done(action, NewExternalIPAddress=self.outside)
        key = (words["NewProtocol"].lower(), int(words["NewExternalPort"]))
        if action == "GetSpecificPortMappingEntry":
            return self._entry(action, key)
        if action == "AddPortMapping":
            return self._add(action, key, words)
        if key not in self.mappings:
            return _fault(714)
        del self.mappings[key]
        return _done(action)

    def _entry(self, action: str, key: tuple[str, int]) -> bytes:
        if key not in self.mappings:
            return _fault(714)
        client, port, lease = self.mappings[key]
        return _done(
            action,
            NewInternalPort=str(port),
            NewInternalClient=client,
            NewEnabled="1",
            NewPortMappingDescription="x",
            NewLeaseDuration=str(lease),
        )

    def _add(self, action: str, key: tuple[str, int], words: dict[str, str]) -> bytes:
        lease = int(words["NewLeaseDuration"])
        if self.refuses is not None:
            return _fault(self.refuses)
        if self.permanent_only and lease:
            return _fault(725)
        if self.forgets_leases:
            lease = 0
        # An existing one is overwritten, as some routers do.
        self.mappings[key] = (words["NewInternalClient"], int(words["NewInternalPort"]), lease)
        self.changed.set()
        return _done(action)


def _done(action: str, **words: str) -> bytes:
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in words.items())
    said = f'<u:{action}Response xmlns:u="{SERVICE}">{inner}</u:{action}Response>'
    return page(ENVELOPE.format(said), "200 OK", "Content-Type: text/xml")


def _fault(code: int, words: str = "No\x1b[2J") -> bytes:
    fault = FAULT.format(code, words.replace("\x1b", ""))
    return page(ENVELOPE.format(fault), "500 Internal Server Error")


VICTIM = "11.0.9.30"
"""A third host, to which a router may point."""

OUTSIDES = {
    "no-outside": ".".join("0000"),
    "loopback-outside": "127.0.0.1",
    "foreign-outside": VICTIM,
    "private-outside": "10.9.9.9",
}
CLIENTS = {"to-loopback": "127.0.0.1", "to-source": "192.168.1.10", "to-other": "192.168.1.30"}
VICES = ("garbage", "huge", "flood", "location", "base", *OUTSIDES, *CLIENTS)
"""What a router may do beside granting mappings for ever alone."""


async def _endless() -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    while True:
        yield b"<a>" * 20_000


def _pervert(router: FakeRouter, igd: Igd, vice: str) -> None:
    """Give `router`, which is honest so far, its vice."""
    if vice == "permanent-only":
        igd.permanent_only = True
        router.control = None
    elif vice == "garbage":
        router.control = lambda data: [bytes(reversed(data)), b"", b"\xff" * 1200]
        router.page = lambda *_: page("<<\0>>" * 50, "200 \x7f")
    elif vice == "huge":
        router.page = lambda *_: _endless()
    elif vice == "flood":
        router.search = lambda _: [router.location(f"/{number}") for number in range(300)]
        router.page = lambda *_: page("nothing")
    elif vice == "location":
        router.search = lambda _: [router.location(host=VICTIM)]
    elif vice == "base":
        base = f"<URLBase>http://{VICTIM}:80/</URLBase>"
        text = DESCRIPTION.format(extra=base, scpd=f"http://{VICTIM}/s", control="/c")
        router.page = lambda *_: page(text)
    elif vice in OUTSIDES:
        igd.outside = OUTSIDES[vice]
    else:
        igd.mappings["tcp", 4242] = (CLIENTS[vice], 4242, 0)


async def _serve(address: str, vice: str) -> None:
    igd = Igd("11.0.2.2")
    router = FakeRouter(control=igd.control, page=igd.page, address=address)
    router.search = lambda _: [router.location()]
    _pervert(router, igd, vice)
    async with router_at(router):
        os.write(3, b"ready")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], (*sys.argv[2:], "permanent-only")[0]))
