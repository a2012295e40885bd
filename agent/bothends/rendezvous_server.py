"""`bothends rendezvous`: a small meeting point for agents that cannot reach each other.

It serves the mailbox protocol (`bothends_protocol.mailbox_server`) over
WebSocket, from memory alone. Anybody may connect, so nothing that a client does
makes it keep more than its caps: a client is read only as fast as its rate
allows and its answers are taken, and written only as fast as it reads.

WebSocket itself is the websockets library without its I/O, since connections
must be counted before anything else is done for them, TLS included.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import secrets
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Sequence

from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from bothends_protocol.addresses import is_wildcard
from bothends_protocol.errors import ProtocolError
from bothends_protocol.mailbox_server import MAX_CLIENTS, MAX_MESSAGE, MailboxServer

from .cli import UsageError
from .interfaces import interface_addresses
from .tasks import Tasks

__all__ = ["MeetingPoint", "rendezvous"]

MAX_PER_ADDRESS = 20
"""Connections from one address (IPv6: one /64): an agent has one, and some people share an
address. Loopback is not counted, since a proxy that does TLS connects from there."""

OPEN_SECONDS = 10.0
"""For TLS and the request that makes a WebSocket of the connection."""

PING_SECONDS = 30.0
"""Between pings: under the minute after which home routers and proxies may forget a connection."""

SILENT_SECONDS = 75.0
"""Silence after which a client is gone: it answered two pings with nothing."""

CLOSE_SECONDS = 2.0
"""How long a closing handshake may take."""

EXPIRE_SECONDS = 30.0
"""Between looks for mailboxes that nobody uses."""

WRITE_SECONDS = 30.0
"""How long a client may read nothing while something waits for it."""

BACKLOG = 128

_QUIET = logging.getLogger("bothends.rendezvous_server")
_QUIET.disabled = True  # who connects, and why it ends, is nobody's business

_PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
"""Headers by which a proxy shows itself (RFC 7239, RFC 9110 7.6.3, and what came before them).
What it writes there is not believed, since any client could write it."""

_CHUNK = 64 * 1024
_PATH = "/v1"
_INTERRUPTED = 130


class MeetingPoint:
    """The server at `sock`, a listening socket; with a context, its clients speak TLS."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
        self._sock = sock
        self._context = context
        self._server = MailboxServer(secrets.token_bytes)
        self._clients: dict[int, _Client] = {}
        self._places: Counter[str] = Counter()
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin to serve."""
        self._tasks.start(self._accept())
        self._tasks.start(self._expire())

    async def close(self) -> None:
        """Close the listening socket and every connection."""
        try:
            await self._tasks.finish()
        finally:
            self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                conn, name = await loop.sock_accept(self._sock)
            except OSError:
                # The client was gone already, or the descriptors are used up for the moment.
                await asyncio.sleep(0.05)
                continue
            place = _place(str(name[0]))
            crowded = self._places.total() >= MAX_CLIENTS
            if crowded or (place and self._places[place] >= MAX_PER_ADDRESS):
                conn.close()
                continue
            self._places[place] += 1
            self._tasks.start(self._serve(conn, place, str(name[0])))

    async def _serve(self, conn: socket.socket, place: str, address: str) -> None:
        client = None
        try:
            client = await _Client.accept(conn, self._context)
            if client is not None:
                await self._converse(client, "" if client.behind_proxy else address)
        except (OSError, TimeoutError, ProtocolError, EOFError):
            pass  # a client that goes, or that has to go, concerns nobody else
        finally:
            if client is not None:
                client.abort()
            self._places[place] -= 1
            if not self._places[place]:
                del self._places[place]

    async def _converse(self, client: _Client, address: str) -> None:
        number = self._server.connect(_now(), address)
        if number is None:
            return
        self._clients[number] = client
        sending = asyncio.ensure_future(self._send(number, client))
        reading = asyncio.ensure_future(self._read(number, client))
        try:
            self._wake()
            await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._clients[number]
            self._server.disconnect(number, _now())
            for task in (sending, reading):
                task.cancel()
            await asyncio.gather(sending, reading, return_exceptions=True)

    async def _read(self, number: int, client: _Client) -> None:
        """Carry out what the client says, no faster than it may and takes the answers."""
        while (text := await client.receive()) is not None:
            try:
                self._server.receive(number, text, _now())
            except ProtocolError:
                await client.close(CloseCode.POLICY_VIOLATION)
                return
            self._wake()
            while not self._server.answered(number):
                client.taken.clear()
                await client.taken.wait()
            await asyncio.sleep(self._server.pause(number, _now()))

    async def _send(self, number: int, client: _Client) -> None:
        while True:
            client.news.clear()
            while texts := self._server.outgoing(number):
                await client.send(texts)
                client.taken.set()
            try:
                await asyncio.wait_for(client.news.wait(), PING_SECONDS)
            except TimeoutError:
                await client.ping()

    def _wake(self) -> None:
        """Let those be written to for whom there is something."""
        ready = self._server.ready
        while ready:
            if client := self._clients.get(ready.pop()):
                client.news.set()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_SECONDS)
            self._server.expire(_now())


class _Client:
    """A WebSocket connection to a client: whole texts in, texts out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.news = asyncio.Event()
        """Set where there may be something to send."""
        self.taken = asyncio.Event()
        """Set when something was handed out to be sent."""
        self.behind_proxy = False
        """Whether its request came through a proxy: then the address is not the client's."""
        self._reader = reader
        self._writer = writer
        self._protocol = ServerProtocol(max_size=MAX_MESSAGE, logger=_QUIET)
        self._texts: list[bytes] = []
        self._part = bytearray()

    @classmethod
    async def accept(cls, conn: socket.socket, context: ssl.SSLContext | None) -> _Client | None:
        """Make a WebSocket of `conn`; None where the client wants something else."""
        loop = asyncio.get_running_loop()
        conn.setblocking(False)
        reader = asyncio.StreamReader(limit=_CHUNK)
        try:
            transport, protocol = await loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(reader),
                conn,
                ssl=context,
                ssl_handshake_timeout=None if context is None else OPEN_SECONDS,
                ssl_shutdown_timeout=None if context is None else CLOSE_SECONDS,
            )
        except BaseException:
            conn.close()
            raise
        client = cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                upgraded = await client._upgrade()
        except BaseException:
            client.abort()
            raise
        if upgraded:
            return client
        client.abort()
        return None

    async def _upgrade(self) -> bool:
        while True:
            data = await self._reader.read(_CHUNK)
            if not data:
                return False
            self._protocol.receive_data(data)
            events = self._protocol.events_received()
            if events and isinstance(events[0], Request):
                self.behind_proxy = any(name in events[0].headers for name in _PASSED_ON)
                self._protocol.send_response(self._protocol.accept(events[0]))
                await self._flush()
                self._take(events[1:])
                return self._protocol.state is State.OPEN
            if self._protocol.handshake_exc is not None:
                await self._flush()
                return False

    async def receive(self) -> bytes | None:
        """Return the next text; None when the connection has ended."""
        while not self._texts:
            if self._protocol.state is not State.OPEN:
                return None
            async with asyncio.timeout(SILENT_SECONDS):
                data = await self._reader.read(_CHUNK)
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            self._take(self._protocol.events_received())
            await self._flush()
        return self._texts.pop(0)

    def _take(self, events: Sequence[object]) -> None:
        for event in events:
            if not isinstance(event, Frame):
                continue
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._part += event.data
                if event.fin:
                    self._texts.append(bytes(self._part))
                    self._part.clear()

    async def send(self, texts: list[bytes]) -> None:
        """Send `texts`; raise where the client reads none of it."""
        with contextlib.suppress(InvalidState):
            for text in texts:
                self._protocol.send_text(text)
        await self._flush()

    async def ping(self) -> None:
        """Ask for a sign of life."""
        with contextlib.suppress(InvalidState):
            self._protocol.send_ping(b"")
        await self._flush()

    async def close(self, code: int) -> None:
        """Say why this ends, without waiting for an answer."""
        with contextlib.suppress(InvalidState):
            self._protocol.fail(code)
        await self._flush()

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._writer.write(data)
            elif self._writer.can_write_eof():
                self._writer.write_eof()
        async with asyncio.timeout(WRITE_SECONDS):
            await self._writer.drain()

    def abort(self) -> None:
        """Close at once; what was written goes out still where the client takes it now."""
        if self._writer.transport.get_write_buffer_size():
            self._writer.transport.abort()
        else:
            self._writer.close()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _place(address: str) -> str:
    """What is counted as one address; empty for loopback."""
    value = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(value, ipaddress.IPv6Address) and value.ipv4_mapped is not None:
        value = value.ipv4_mapped
    if value.is_loopback:
        return ""
    if value.version == 6:
        return str(ipaddress.ip_network((value, 64), strict=False))
    return str(value)


# The command ---------------------------------------------------------------------------------


def rendezvous(args: argparse.Namespace) -> int:
    """Serve until a signal ends it; return the exit status."""
    host, port = _endpoint(args.listen)
    context = _context(args.certificate, args.key)
    sock = _listening(host, port)
    urls = _urls(host, sock.getsockname()[1], secure=context is not None)
    return asyncio.run(_run(sock, context, urls))


async def _run(sock: socket.socket, context: ssl.SSLContext | None, urls: list[str]) -> int:
    over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    _on_signals(over)
    point = MeetingPoint(sock, context)
    point.start()
    with contextlib.suppress(OSError):  # whoever started it may have gone
        print("On both computers, add:", " or ".join(f"--rendezvous {u}" for u in urls), flush=True)
    try:
        return await over
    finally:
        await point.close()


def _on_signals(over: asyncio.Future[int]) -> None:
    def end(status: int) -> None:
        if not over.done():
            over.set_result(status)

    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError, AttributeError):
        loop.add_signal_handler(signal.SIGTERM, end, 0)
        loop.add_signal_handler(signal.SIGINT, end, _INTERRUPTED)


def _endpoint(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise UsageError(f"--listen is HOST:PORT or [ADDRESS]:PORT, not {text!r}.")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise UsageError(f"The port of --listen is a number from 0 to 65535, not {port!r}.")
    return host[1:-1] if bracketed else host, int(port)


def _context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--certificate and --key belong together.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise UsageError(
            f"{certificate!r} and {key!r} are no certificate with its key (PEM, without a "
            f"password): {error.reason or 'not readable'}."
        ) from error
    except OSError as error:
        raise UsageError(
            f"The certificate {certificate!r} or its key {key!r} cannot be read: {error.strerror}."
        ) from error
    return context


def _no_password() -> str:
    """Keep OpenSSL from asking on the terminal."""
    return ""


def _listening(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, name = found[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{host!r} is no address to listen at: {_why(error)}.") from error
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `[::]` takes both versions, where the system can.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(name)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise UsageError(f"Cannot listen at {host!r}, port {port}: {_why(error)}.") from error
    return sock


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower().rstrip(".")


def _urls(host: str, port: int, *, secure: bool) -> list[str]:
    """The URLs to type elsewhere; for a wildcard one for each address of this host."""
    scheme = "wss" if secure else "ws"
    hosts = [host]
    if is_wildcard(host):
        with contextlib.suppress(OSError, ValueError):
            hosts = [
                item.address
                for item in interface_addresses()
                if not ipaddress.ip_address(item.address).is_link_local
                and (":" in host or ":" not in item.address)
            ] or hosts
    return [f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}{_PATH}" for name in hosts]
