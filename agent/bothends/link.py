"""A link: one connection between two agents, by any way, from handshake to close.

The sans-I/O parts do the thinking (`framing`, `pairing`, `records`); this
module moves bytes and keeps to deadlines. A link carries opaque payloads; what
they mean, and what happens when a link breaks, is the run's business.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from bothends_protocol.errors import NotBothendsError, OtherVersionError, ProtocolError
from bothends_protocol.framing import MAX_FRAME, PREAMBLE, FrameReader, frame
from bothends_protocol.pairing import Handshake, Keys, other_role

from .streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HANDSHAKE_SECONDS", "Link", "LinkClosedError"]

HANDSHAKE_SECONDS = 10.0
"""A peer that has not authenticated by then is dropped: a slow link with 40 % loss needs
about 5 s, a silent stranger must not hold a place for ever."""

_CHUNK = 65536


class LinkClosedError(Exception):
    """The connection ended, for whatever reason."""


class Link:
    """One connection to the other agent.

    `remote` and `local` are addresses as text, zone kept where there is one. `dialled` is whether
    this side began, `chosen` whether it was this side that picked where the other may be.
    """

    def __init__(self, stream: Stream, *, dialled: bool, chosen: bool | None = None) -> None:
        self.dialled = dialled
        self.chosen = dialled if chosen is None else chosen
        self.way = stream.way
        self.remote, self.remote_port = stream.remote, stream.remote_port
        self.local = stream.local
        self.heard = 0.0
        """When something came last, also where it was no whole frame yet."""
        self.keys: Keys | None = None
        self.root: Keys | None = None
        """The keys of the first pairing, from which those of the session come."""
        self.handshake: Handshake | None = None
        self.trip: float | None = None
        """The shortest wait for an answer in the handshake, in seconds: about a round trip."""
        self._stream = stream
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
                self._stream.write(PREAMBLE)
                self.handshake = make()
                self._put(self.handshake.start())
            began = self._now()
            first = await self._greeting()
            if self.dialled:
                self.trip = self._now() - began
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
            self._stream.write(PREAMBLE)
            raise
        if not self.dialled:
            self._stream.write(PREAMBLE)
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
            began, waited = self._now(), not self._ready
            data = await self._next_frame()
            if waited:
                trip = self._now() - began
                self.trip = min(trip, self.trip or trip)

    @property
    def resent(self) -> int:
        """Parts that this end of the connection had to send again up to now."""
        return self._stream.resent

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def send(self, plain: bytes) -> None:
        """Seal `plain` and hand it to the connection."""
        self._put([self._sealer.seal(plain)])

    async def flush(self) -> None:
        """Wait until the connection takes more; raise `LinkClosedError` where it is gone."""
        try:
            await self._stream.drain()
        except OSError as error:
            raise LinkClosedError(str(error)) from error

    async def receive(self) -> bytes:
        """Return the next plain payload.

        Raises `LinkClosedError` at the end, `ProtocolError` for a bad record.
        """
        return self._opener.open(await self._next_frame())

    def _put(self, payloads: list[bytes]) -> None:
        if payloads and not self._ended:
            self._stream.write(b"".join(frame(payload) for payload in payloads))

    async def _next_frame(self) -> bytes:
        while not self._ready:
            try:
                data = await self._stream.read(_CHUNK)
            except OSError as error:
                raise LinkClosedError(str(error)) from error
            if not data:
                raise LinkClosedError("the connection was closed")
            self.heard = self._now()
            self._ready = self._frames.feed(data)
        return self._ready.pop(0)

    def end(self) -> None:
        """Say that nothing more comes from here, and go on reading."""
        self._ended = True
        self._stream.end()

    def close(self) -> None:
        """Close; safe to call again."""
        self._stream.close()

    def abort(self) -> None:
        """Drop the connection without waiting for what is unsent."""
        self._stream.abort()
