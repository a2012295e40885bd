"""The conversation with the other agent, over whichever link there is at the moment.

Messages are numbered (`bothends_protocol.conversation`), so a link that breaks
is replaced by the next one and nothing is lost or repeated. A heartbeat tells a
dead peer from a quiet one. Only when nothing was heard for `LOST_SECONDS`, on
any way, is the other side called lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from bothends_protocol.conversation import Conversation
from bothends_protocol.errors import MisuseError, ProtocolError
from bothends_protocol.messages import Message
from bothends_protocol.pairing import SOURCE

from .contact import Contact
from .link import Link, LinkClosedError
from .tasks import Tasks

__all__ = ["LOST_SECONDS", "Channel", "PeerLostError"]

HEARTBEAT_SECONDS = 0.5
"""Between echo requests; they also carry the acknowledgements of a quiet side."""

BROKEN_SECONDS = 2.0
"""Silence after which a link is given up for another: four heartbeats."""

LOST_SECONDS = 4.0
"""Silence, on all ways, after which the other side is lost. Under the 5 s that a user may
wait for the word of it."""

FINISH_SECONDS = 1.0
"""How long the last acknowledgements may take."""


class PeerLostError(Exception):
    """The other side is gone; the message says how that is known."""


class Channel:
    """Sends and receives messages; `deliver` gets each message, or the `PeerLostError`."""

    def __init__(
        self,
        contact: Contact,
        role: str,
        again: tuple[tuple[str, int], ...],
        deliver: Callable[[Message | PeerLostError], None],
    ) -> None:
        self.smallest_rtt: float | None = None
        self.breaks = 0
        """How often the link broke."""
        self.patience = LOST_SECONDS
        """Silence, in seconds, after which the other side is lost."""
        self.broken: Callable[[], None] = lambda: None
        """Called when a link broke and another is looked for."""
        self.latest: Link | None = None
        """The link in use, or the last one where there is none at the moment."""
        self._contact = contact
        self._role = role
        self._again = again
        self._deliver = deliver
        self._conversation = Conversation()
        self._link: Link | None = None
        self._heard = 0.0
        self._finishing = False
        self._silent = False
        """Whether the last link was given up here, because nothing came any more."""
        self._ending = False
        self._changed = asyncio.Event()
        self._served = asyncio.Event()
        self._tasks = Tasks()

    @property
    def rtt(self) -> float:
        """The smallest round trip seen, in seconds; 0 before the first echo."""
        return self.smallest_rtt or 0.0

    def start(self, link: Link, first: bytes | None) -> None:
        """Begin on `link`; `first` is a payload that was already read from it."""
        self._tasks.start(self._serve(link, first))
        self._tasks.start(self._heartbeat())

    def send(self, message: Message) -> None:
        """Send `message`, now or on the next link."""
        self._conversation.send(message)
        self._flush()

    async def settle(self) -> None:
        """Wait, for a bounded time, until the other side has acknowledged everything."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                while not self._conversation.settled and self._link is not None:
                    self._changed.clear()
                    await self._changed.wait()

    async def finish(self) -> None:
        """End in order: everything acknowledged, the link closed from both sides.

        What was sent last may have been lost with its link. The other side needs it to come to
        the same end, so a link that went silent is taken up again here too.
        """
        self._finishing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOST_SECONDS):
                while not self._conversation.settled and not self._served.is_set():
                    self._changed.clear()
                    await self._changed.wait()
        self._ending = True
        if self._link is not None:
            self._link.end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._served.wait(), FINISH_SECONDS)

    async def close(self) -> None:
        """End at once; safe to call again."""
        self._ending = True
        if self._link is not None:
            self._link.close()
            self._link = None
        await self._tasks.finish()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _flush(self) -> None:
        if self._link is not None:
            for envelope in self._conversation.outgoing():
                self._link.send(envelope)

    async def _serve(self, link: Link | None, first: bytes | None) -> None:
        try:
            while link is not None:
                await self._use(link, first)
                first = None
                # One that the other side closed when all was said is the end.
                if self._ending or (self._finishing and not self._silent):
                    return
                self.breaks += 1
                self.broken()
                link, first = await self._next_link()
        except PeerLostError as error:
            self._deliver(error)
        except (ProtocolError, MisuseError) as error:
            self._deliver(PeerLostError(f"the other side broke the protocol: {error}"))
        finally:
            self._served.set()
            self._changed.set()

    async def _use(self, link: Link, first: bytes | None) -> None:
        """Exchange messages on `link` until it breaks."""
        self._link = self.latest = link
        self._silent = False
        self._heard = self._now()
        self._conversation.attach()
        self._conversation.ping(self._now())
        try:
            if first is not None:
                self._take(first)
            self._flush()
            while True:
                data = await link.receive()
                self._heard = self._now()
                self._take(data)
        except LinkClosedError:
            pass
        finally:
            self._link = None
            self._conversation.detach()
            self._changed.set()
            link.close()

    def _take(self, data: bytes) -> None:
        message = self._conversation.receive(data)
        for sent in self._conversation.echoes:
            trip = self._now() - sent
            self.smallest_rtt = min(trip, self.smallest_rtt or trip)
        self._conversation.echoes.clear()
        self._changed.set()
        if message is not None:
            self._deliver(message)
            # Whoever only listens must still say how far it heard.
            self._conversation.acknowledge()
        self._flush()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            link = self._link
            if link is None:
                continue
            if self._now() - self._heard > BROKEN_SECONDS:
                self._silent = True
                link.abort()
                continue
            self._conversation.ping(self._now())
            self._flush()

    async def _next_link(self) -> tuple[Link, bytes | None]:
        """Take the conversation up again by any way; raise `PeerLostError` where none works."""
        self._contact.redial(self._again)
        left = self.patience - (self._now() - self._heard)
        try:
            async with asyncio.timeout(max(left, 0.5)):
                link, first = await nominated(self._contact, self._role)
        except TimeoutError:
            raise PeerLostError(
                f"nothing was heard from the other side for {self.patience:.0f} seconds"
            ) from None
        self._contact.settle_again(link)
        return link, first


async def nominated(contact: Contact, role: str) -> tuple[Link, bytes | None]:
    """Return the link that the two will use, and what was already read from it.

    The source takes the first that authenticates. The destination holds all of
    them and takes the one on which the source speaks.
    """
    if role == SOURCE:
        return await contact.links.get(), None
    listening: dict[asyncio.Task[bytes], Link] = {}
    offered = asyncio.ensure_future(contact.links.get())
    try:
        while True:
            waiting: list[asyncio.Future[Any]] = [offered, *listening]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if offered.done():
                link = offered.result()
                listening[asyncio.ensure_future(link.receive())] = link
                offered = asyncio.ensure_future(contact.links.get())
            for task in [task for task in listening if task.done()]:
                link = listening.pop(task)
                if task.exception() is None:
                    return link, task.result()
                link.close()
    finally:
        rest: list[asyncio.Future[Any]] = [offered, *listening]
        for unused in rest:
            unused.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
