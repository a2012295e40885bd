"""A link: one TCP connection between two agents, from handshake to close.

The sans-I/O parts do the thinking (`framing`, `pairing`, `records`); this
module moves bytes and keeps to deadlines. A link carries opaque payloads; what
they mean, and what happens when a link breaks, is the run's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from bothends_protocol.addresses import normal
from bothends_protocol.errors import NotBothendsError, OtherVersionError, ProtocolError
from bothends_protocol.framing import MAX_FRAME, PREAMBLE, FrameReader, frame
from bothends_protocol.pairing import Handshake, Keys, other_role

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CONTACT_SEGMENT", "HANDSHAKE_SECONDS", "Link", "LinkClosedError", "tune"]

HANDSHAKE_SECONDS = 10.0
"""A peer that has not authenticated by then is dropped: a slow link with 40 % loss needs
about 5 s, a silent stranger must not hold a place for ever."""

CONTACT_SEGMENT = 1200
"""TCP_MAXSEG of the contact: in an MTU black hole 6 KB stall without it and take 1 ms with
(measured; design, part 4)."""

_CHUNK = 65536


class LinkClosedError(Exception):
    """The connection ended, for whatever reason."""


def tune(sock: socket.socket) -> None:
    """Set what every contact socket needs: small segments, no delay."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Not every system lets the segment size be chosen; the contact works without.
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, CONTACT_SEGMENT)


class Link:
    """One connection to the other agent.

    `remote` and `local` are addresses as text, zone kept where there is one.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, dialled: bool
    ) -> None:
        self.dialled = dialled
        self.remote, self.remote_port = _end(writer.get_extra_info("peername"))
        self.local, _ = _end(writer.get_extra_info("sockname"))
        self.keys: Keys | None = None
        self.handshake: Handshake | None = None
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        self._ready: list[bytes] = []
        self._ended = False

    async def authenticate(self, make: Callable[[], Handshake]) -> None:
        """Run the handshake that `make` begins.

        Raises `ProtocolError` (all its kinds), `LinkClosedError` or TimeoutError;
        the caller closes the link then.
        """
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            if self.dialled:
                self._writer.write(PREAMBLE)
                self.handshake = make()
                self._put(self.handshake.start())
            first = await self._greeting()
            # The listener builds its half only for a peer that has greeted properly.
            handshake = self.handshake = self.handshake or make()
            await self._converse(handshake, first)
        if handshake.keys is None:
            raise NotBothendsError("the handshake did not end")
        self.keys = handshake.keys
        self._frames.limit = MAX_FRAME
        self._sealer = handshake.keys.sealer(handshake.role)
        self._opener = handshake.keys.opener(other_role(handshake.role))

    async def _greeting(self) -> bytes:
        """Return the peer's first frame. A listener says nothing to who does not greet."""
        try:
            first = await self._next_frame()
        except OtherVersionError:
            # Whoever speaks another version must be able to learn which one this is.
            self._writer.write(PREAMBLE)
            raise
        if not self.dialled:
            self._writer.write(PREAMBLE)
        return first

    async def _converse(self, handshake: Handshake, data: bytes) -> None:
        while True:
            try:
                self._put(handshake.receive(data))
            except ProtocolError:
                self._put(handshake.farewell)
                with contextlib.suppress(LinkClosedError):
                    await self.flush()
                raise
            if handshake.keys is not None:
                return
            data = await self._next_frame()

    def send(self, plain: bytes) -> None:
        """Seal `plain` and hand it to the connection."""
        self._put([self._sealer.seal(plain)])

    async def flush(self) -> None:
        """Wait until the connection takes more; raise `LinkClosedError` where it is gone."""
        try:
            await self._writer.drain()
        except OSError as error:
            raise LinkClosedError(str(error)) from error

    async def receive(self) -> bytes:
        """Return the next plain payload.

        Raises `LinkClosedError` at the end, `ProtocolError` for a bad record.
        """
        return self._opener.open(await self._next_frame())

    def _put(self, payloads: list[bytes]) -> None:
        if payloads and not self._ended and not self._writer.is_closing():
            self._writer.write(b"".join(frame(payload) for payload in payloads))

    async def _next_frame(self) -> bytes:
        while not self._ready:
            try:
                data = await self._reader.read(_CHUNK)
            except OSError as error:
                raise LinkClosedError(str(error)) from error
            if not data:
                raise LinkClosedError("the connection was closed")
            self._ready = self._frames.feed(data)
        return self._ready.pop(0)

    def end(self) -> None:
        """Say that nothing more comes from here, and go on reading.

        Closing with data unread would reset the connection and could take the last
        message from the other side (RFC 9293, 3.10.4).
        """
        self._ended = True
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def close(self) -> None:
        """Close at once; safe to call again."""
        with contextlib.suppress(OSError):
            self._writer.close()

    def abort(self) -> None:
        """Drop the connection without waiting for what is unsent."""
        with contextlib.suppress(OSError):
            self._writer.transport.abort()


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
