"""The conversation with the other agent, over whichever link there is at the moment.

Messages are numbered (`bothends_protocol.conversation`), so a link that breaks
is replaced by the next one and nothing is lost or repeated. A heartbeat tells a
dead peer from a quiet one. A link that stalls is kept while the others are tried
again, and the first of them that serves takes over. Only when nothing was heard
for `LOST_SECONDS`, on any way, is the other side called lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from bothends_protocol.conversation import Conversation
from bothends_protocol.errors import MisuseError, ProtocolError
from bothends_protocol.messages import Message
from bothends_protocol.pairing import SOURCE

from .contact import Contact
from .link import Link, LinkClosedError
from .streams import DIRECT, PUNCHED, RENDEZVOUS
from .tasks import Tasks

__all__ = ["LOST_SECONDS", "Channel", "PeerLostError"]

HEARTBEAT_SECONDS = 0.5
"""Between echo requests; they also carry the acknowledgements of a quiet side."""

LOOKS = 2
"""How often in that time it is looked whether the link is silent."""

STALLED_SECONDS = 0.9
"""Silence after which other ways are tried beside the link: nearly two heartbeats. Where packets
are lost the kernel's TCP waits ever longer, and UDP does not (`flow`)."""

BROKEN_SECONDS = 2.0
"""Silence after which a link is given up: four heartbeats."""

LONGEST_TRIP = 1.5
"""Seconds that a link has, beyond those, to be heard on for the first time, at most: on a new one
nothing comes for a round trip. What took longer in the handshake was loss and no way that long."""

LOST_SECONDS = 4.0
"""Silence, on all ways, after which the other side is lost. Under the 5 s that a user may
wait for the word of it."""

LOSSY = 2
"""By how much longer that is where packets were lost before: at 40 % loss each way another way has
to be noticed as missing and opened again in that time, and now and then that took longer."""

LOSSES = 3
"""So many parts sent again in the last `LOST_SECONDS` before the silence, and half as many as were
heard, are no busy computer and no loss of a few percent. Reckoned, and not measured: of parts that
need an answer 64 % get none at 40 % in each direction, and 10 % at 5 %."""

LOSSES_OVER = 1.0
"""Seconds that these must have been heard over: in the first moments of a run a busy computer sends
as many again, when it has hardly heard anything."""

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
        deliver: Callable[[Message | PeerLostError], None],
    ) -> None:
        self.smallest_rtt: float | None = None
        self.breaks = 0
        """How often the link broke, or another took over."""
        self.link: Link | None = None
        """The one that serves, or served last."""
        self.moved = asyncio.Event()
        """Set when another link takes over."""
        self.patience = LOST_SECONDS
        """Silence, in seconds, after which the other side is lost."""
        self.broken: Callable[[], None] = lambda: None
        """Called when a link broke and another is looked for."""
        self._contact = contact
        self._role = role
        self._deliver = deliver
        self._conversation = Conversation()
        self._link: Link | None = None
        self._heard = 0.0
        """When something came last, or can have come at the earliest."""
        self._resent: deque[tuple[float, int, int]] = deque()
        """When it was heard on lately, how many parts had been sent again by then, and which link
        that was."""
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

    async def _serve(self, link: Link, first: bytes | None) -> None:
        try:
            while True:
                following = await self._serve_one(link, first)
                if following is None:
                    return
                self.breaks += 1
                link, first = following
                self.link = link
                self.moved.set()
        except PeerLostError as error:
            self._deliver(error)
        except (ProtocolError, MisuseError) as error:
            self._deliver(PeerLostError(f"the other side broke the protocol: {error}"))
        finally:
            self._served.set()
            self._changed.set()

    async def _serve_one(self, link: Link, first: bytes | None) -> tuple[Link, bytes | None] | None:
        """Use `link` until it ends or another takes over; return that, or None at the end."""
        use = asyncio.ensure_future(self._use(link, first))
        patience = _FIRST if link.way == RENDEZVOUS else _AGAIN
        following = asyncio.ensure_future(nominated(self._contact, self._role, patience))
        try:
            ways: list[asyncio.Future[Any]] = [use, following]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                use.result()
                # One that the other side closed when all was said is the end.
                over = self._finishing and self._conversation.settled and not self._silent
                if self._ending or over:
                    return None
                await self._await_next(following)
            found = following.result()
            self._contact.settle_again(found[0])
            return found
        finally:
            for task in (use, following):
                task.cancel()
            await asyncio.gather(use, following, return_exceptions=True)

    async def _await_next(self, following: asyncio.Future[tuple[Link, bytes | None]]) -> None:
        """Take the conversation up again by any way; raise `PeerLostError` where none works."""
        self.broken()
        self._contact.redial()
        patience = self._patience_now()
        left = patience - (self._now() - self._heard)
        await asyncio.wait([following], timeout=max(left, 0.5))
        if not following.done():
            raise PeerLostError(f"nothing was heard from the other side for {patience:.0f} seconds")

    async def _use(self, link: Link, first: bytes | None) -> None:
        """Exchange messages on `link` until it breaks."""
        self._link = self.link = link
        self._silent = False
        trip = self.smallest_rtt or link.trip or 0.0
        self._heard = self._now() + (min(trip, LONGEST_TRIP) if first is None else 0.0)
        self._conversation.attach()
        self._conversation.ping(self._now())
        try:
            if first is not None:
                self._take(first)
            self._flush()
            while True:
                data = await _received(link)
                self._heard = self._now()
                self._note_resent(link)
                self._take(data)
        except LinkClosedError:
            pass
        finally:
            self._heard = max(self._heard, link.heard)
            self._link = None
            self._conversation.detach()
            self._changed.set()
            self._contact.drop(link)

    def _note_resent(self, link: Link) -> None:
        """Once for each time that something came, however many frames that was."""
        if self._resent and self._resent[-1][0] == link.heard:
            return
        self._resent.append((link.heard, link.resent, id(link)))
        while self._resent[0][0] < link.heard - LOST_SECONDS:
            self._resent.popleft()

    def _patience_now(self) -> float:
        """Silence after which the other side is lost, after what was met up to now."""
        return self.patience * (LOSSY if self._loses() else 1)

    def _loses(self) -> bool:
        """Whether much was lost in the time before the silence."""
        again = 0
        for index, (_, of) in enumerate(itertools.groupby(self._resent, lambda item: item[2])):
            counts = [count for _, count, _ in of]
            # A link that took over counts from its own beginning; on the same one fewer are those
            # of which the other side said meanwhile that it got them twice.
            before = counts[0] if not index else 0
            again += max(0, counts[-1] - before)
        heard_over = self._resent[-1][0] - self._resent[0][0] if self._resent else 0.0
        return heard_over >= LOSSES_OVER and again >= max(LOSSES, len(self._resent) / 2)

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
        for look in itertools.count(1):
            await asyncio.sleep(HEARTBEAT_SECONDS / LOOKS)
            link = self._link
            if link is None:
                continue
            silence = self._now() - max(self._heard, link.heard)
            if silence > BROKEN_SECONDS:
                self._silent = True
                link.abort()
                continue
            if silence > STALLED_SECONDS:
                self._contact.redial()
            if look % LOOKS == 0:
                self._conversation.ping(self._now())
                self._flush()


async def _received(link: Link) -> bytes:
    """Return what comes next on `link`.

    What does not open was not sent by the other side: somebody on the way can end a link so, as
    by cutting it, and no more than that.
    """
    try:
        return await link.receive()
    except ProtocolError as error:
        raise LinkClosedError(str(error)) from error


_FIRST = {DIRECT: 0.0, PUNCHED: 0.1, RENDEZVOUS: 0.4}
_AGAIN = {PUNCHED: 0.0, DIRECT: 0.6, RENDEZVOUS: 0.9}
"""Seconds that a way which has authenticated waits for a better one: at first TCP is the plainest,
but where packets are lost UDP carries on better. So it does where a link broke or stalled, or had
to send something again before it had authenticated."""


async def nominated(
    contact: Contact, role: str, patience: Mapping[str, float] = _FIRST
) -> tuple[Link, bytes | None]:
    """Return the link that the two will use, and what was already read from it.

    The source takes the first that authenticates, if none comes within its `patience` that
    needs less of it. The destination holds all of them and takes the one on which the source
    speaks.
    """
    if role == SOURCE:
        return await _best(contact, patience), None
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


async def _best(contact: Contact, patience: Mapping[str, float]) -> Link:
    loop = asyncio.get_running_loop()
    best = await contact.links.get()
    if best.resent:
        patience = _AGAIN
    began = loop.time()
    with contextlib.suppress(TimeoutError):
        # What is not used is as much in danger as what is, and carries nothing.
        while best.way != DIRECT or not contact.without_datagrams:
            async with asyncio.timeout_at(began + patience[best.way]):
                best = min(best, await contact.links.get(), key=lambda one: patience[one.way])
    return best
