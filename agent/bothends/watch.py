"""The live repair loop (`--watch`): tests again and again, and lists what changed when.

It begins with the first verdict and goes on over the same contact. Each further test is a fresh
session. The leader begins one when something changed on either side, when somebody pressed a
key, or when a few seconds have passed; it also decides what is listed, so that both lists are
the same. The follower answers, and tells what changes on its side.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Collection
from typing import NoReturn, Protocol

import msgspec
from msgspec.structs import replace

from bothends_protocol.errors import ProtocolError
from bothends_protocol.judge import lost_verdict
from bothends_protocol.messages import BYES, Again, Bye, Changed, Listed
from bothends_protocol.pairing import SOURCE
from bothends_protocol.timeline import (
    MAX_CHANGES,
    Change,
    Entry,
    Listing,
    Pending,
    Timeline,
    What,
)
from bothends_protocol.verdict import Verdict

from .changes import Changes
from .channel import Channel, PeerLostError
from .keys import Keys
from .outcome import Outcome

__all__ = ["AbandonedError", "LeftError", "Note", "Screen", "Stop", "Watch", "why_left"]

AGAIN_SECONDS = 3.0
"""Between two tests where nothing seems to have changed: what no watcher may see (the rules of a
firewall, for an ordinary user; a router; security software) is found within a few seconds."""

REST = 3
"""A test is followed by a rest of so many times its own length at least. While it lasts, our own
listener may hold the port that the user wants to start the service on."""

SETTLE_SECONDS = 0.25
"""What changes at once is told piece by piece: a test waits until nothing more came for so long."""

MAX_SETTLE_SECONDS = 1.0
"""How long it waits for that at most, on a host where something changes all the time."""

PATIENCE_SECONDS = 20.0
"""Silence after which the other side is lost, in the loop: who repairs something restarts a
network card, a firewall or Wi-Fi, and that takes longer than `channel.LOST_SECONDS`."""

END_SECONDS = 2.0
"""How long the other side may take to answer when the loop is ended here."""

UNFINISHED = "This test came to no verdict in the time allowed."
BROKEN = "The contact with the other side broke; it is taken up again as soon as one can be had."
HINT = "Any key tests at once, q or Ctrl-C ends both sides."
HINT_NO_KEYS = "Ctrl-C ends both sides."


class Note(msgspec.Struct, frozen=True):
    """Event: something changed on this side."""

    what: What
    port: int = 0


class Stop(msgspec.Struct, frozen=True):
    """Event: the user of this side ends the loop."""

    interrupted: bool


Ending = Bye | PeerLostError | Stop
Event = object
"""What the run's queue holds; the loop knows its own kinds."""


class LeftError(Exception):
    """The loop is over, by `ending`."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(str(ending))
        self.ending = ending


class AbandonedError(Exception):
    """The leader gave the test up; `listed` is what it said of it."""

    def __init__(self, listed: Listed) -> None:
        super().__init__("the leader gave the test up")
        self.listed = listed


class Screen(Protocol):
    """Shows the loop while it runs."""

    def entry(self, entry: Entry, outcome: Outcome) -> None:
        """Show a new line of the list, and the verdict where it is another one."""

    def tested(self, timeline: Timeline) -> None:
        """Show that a test brought nothing new."""

    def hint(self, text: str) -> None:
        """Say how to go on."""


class Watch:
    """The loop of one side. What it hears of comes through `take` or `next_event`."""

    def __init__(
        self,
        role: str,
        channel: Channel,
        post: Callable[[Note | Stop], None],
        screen: Screen | None,
    ) -> None:
        self.timeline = Timeline(local_time)
        self.on = False
        """Whether the first verdict stands."""
        self.number = 1
        """Of the test that is on, or that ended last."""
        self.last: Outcome | None = None
        """Of the last test that is listed."""
        self.rest = 0.0
        """Seconds until the next test at least, unless something changes."""
        self._role = role
        self._channel = channel
        self._post = post
        self._screen = screen
        self._pending = Pending()
        self._told: set[tuple[str, int]] = set()
        self._heard = 0.0
        self._stale = False
        """Whether messages of a test that was given up may still come."""
        self._unlisted: Outcome | None = None
        self._stopping: Stop | None = None
        self._changes: Changes | None = None
        self._keys = Keys(self._pressed)

    @property
    def _leads(self) -> bool:
        return self._role == SOURCE

    # What changes ------------------------------------------------------------------------

    def begin(self, ports: Collection[int], own: Callable[[], Collection[int]]) -> None:
        """Watch this side, `ports` among it; `own` are the inodes of our own listeners."""
        self._changes = Changes(self._changed, ports=ports, own=own)
        self._changes.start()

    def look(self) -> None:
        """Tell what changed up to now, before the evidence of a test is closed."""
        if self._changes is not None:
            self._changes.look()

    def _changed(self, what: What, port: int) -> None:
        self._post(Note(what, port))

    def _pressed(self, text: str) -> None:
        if text[:1] in ("q", "Q", "\x04"):
            self._post(Stop(interrupted=False))
        else:
            self._post(Note("key"))

    def take(self, event: Event, *, agreeing: bool = False) -> bool:
        """Take what belongs to the loop, also in the middle of a test; return whether it did.

        Raises `LeftError` where it ends the loop, `AbandonedError` where it ends the test.
        `agreeing`: whether only the other side's word is missing to the verdict, which then is
        waited for: the other side may have it already.
        """
        if isinstance(event, Note):
            self._note(event)
        elif isinstance(event, Changed) and self._leads:
            change = Change(what=event.what, on="destination", port=event.port)
            self._pending.add(change, self._now())
        elif not self.on:
            return False
        elif isinstance(event, Stop) and agreeing and not self._leads:
            self._stopping = event
        elif isinstance(event, Bye | PeerLostError | Stop):
            raise LeftError(event)
        elif isinstance(event, Listed) and not self._leads and not event.verdict_id:
            raise AbandonedError(event)
        else:
            return False
        return True

    def _note(self, note: Note) -> None:
        if self._leads:
            change = Change(what=note.what, on="source", port=note.port)
            self._pending.add(change, self._now())
        elif (note.what, note.port) not in self._told and len(self._told) < MAX_CHANGES:
            self._told.add((note.what, note.port))
            self._channel.send(Changed(what=note.what, port=note.port))

    def _now(self) -> float:
        self._heard = asyncio.get_running_loop().time()
        return self._heard

    # The loop ----------------------------------------------------------------------------

    async def run(
        self,
        first: Outcome,
        *,
        test: Callable[[], Awaitable[Outcome]],
        next_event: Callable[[], Awaitable[Event]],
    ) -> Outcome:
        """Test until somebody ends it; return the last verdict, with the list.

        `test` makes one further test; an outcome without a verdict's id was not agreed on.
        """
        self.on = True
        self._channel.patience = PATIENCE_SECONDS
        self._channel.broken = lambda: self._hint(BROKEN)
        self._list(first, ())
        hint = HINT if self._keys.start() else HINT_NO_KEYS
        self._hint(f"Testing goes on. {hint}")
        try:
            if self._leads:
                await self._lead(test, next_event)
            else:
                await self._follow(test, next_event)
        except LeftError as left:
            return await self._end(left.ending, next_event)
        finally:
            self._keys.close()

    async def _lead(
        self, test: Callable[[], Awaitable[Outcome]], next_event: Callable[[], Awaitable[Event]]
    ) -> NoReturn:
        clock = asyncio.get_running_loop().time
        pause = max(AGAIN_SECONDS, self.rest)
        while True:
            await self._wait(clock() + pause, next_event)
            began = clock()
            self.number += 1
            self._pending.begin()
            self._channel.send(Again(number=self.number))
            await self._answer(next_event)
            outcome = _joint(await test())
            differs = self.timeline.differs(outcome.verdict)
            changed = self._pending.take(clock(), differs=differs)
            name = outcome.verdict.verdict_id or ""
            self._stale = not name
            self._channel.send(Listed(number=self.number, verdict_id=name, changed=changed))
            self._list(outcome, changed)
            pause = max(AGAIN_SECONDS, REST * (clock() - began), self.rest)

    async def _wait(self, due: float, next_event: Callable[[], Awaitable[Event]]) -> None:
        """Wait until it is time for the next test."""
        first: float | None = None
        while True:
            until = due
            if self._pending.late:
                first = first or asyncio.get_running_loop().time()
                until = min(self._heard + SETTLE_SECONDS, first + MAX_SETTLE_SECONDS)
            event: Event = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    event = await next_event()
            if event is None:
                return
            if not self.take(event):
                self._pass_over(event)

    async def _answer(self, next_event: Callable[[], Awaitable[Event]]) -> None:
        """Wait until the other side has begun the test too."""
        while True:
            event = await next_event()
            if isinstance(event, Again):
                if event.number != self.number:
                    raise ProtocolError("another test was asked for")
                self._stale = False
                return
            if not self.take(event):
                self._pass_over(event)

    def _pass_over(self, event: Event) -> None:
        if not self._stale:
            raise ProtocolError(f"{type(event).__name__} between two tests")

    async def _follow(
        self, test: Callable[[], Awaitable[Outcome]], next_event: Callable[[], Awaitable[Event]]
    ) -> NoReturn:
        while True:
            event = await next_event()
            if self.take(event):
                continue
            if not isinstance(event, Again) or event.number != self.number + 1:
                raise ProtocolError(f"{type(event).__name__} between two tests")
            self.number += 1
            self._told.clear()
            self._channel.send(event)
            try:
                self._unlisted = await test()
                await self._hear_listed(next_event)
            except AbandonedError as abandoned:
                self._take_listed(abandoned.listed)

    async def _hear_listed(self, next_event: Callable[[], Awaitable[Event]]) -> None:
        while self._unlisted is not None:
            if self._stopping is not None:
                raise LeftError(self._stopping)
            event = await next_event()
            if isinstance(event, Listed):
                self._take_listed(event)
            elif not self.take(event):
                raise ProtocolError(f"{type(event).__name__} before the test was listed")

    def _take_listed(self, listed: Listed) -> None:
        mine, self._unlisted = self._unlisted, None
        if listed.number != self.number:
            raise ProtocolError("another test was listed")
        if not listed.verdict_id:
            mine = None
        elif mine is None or mine.verdict.verdict_id != listed.verdict_id:
            raise ProtocolError("another verdict was listed")
        self._list(_joint(mine or self._unfinished()), listed.changed)

    def _unfinished(self) -> Outcome:
        if self.last is None:
            raise ProtocolError("no test before")
        return replace(self.last, verdict=lost_verdict(None, UNFINISHED))

    def _hint(self, text: str) -> None:
        if self._screen is not None:
            self._screen.hint(text)

    def _list(self, outcome: Outcome, changed: tuple[Change, ...]) -> None:
        self.last = outcome
        entry = self.timeline.add(Listing(outcome.verdict, changed))
        if self._screen is None:
            return
        if entry is not None:
            self._screen.entry(entry, outcome)
        else:
            self._screen.tested(self.timeline)

    # The end -----------------------------------------------------------------------------

    async def _end(self, ending: Ending, next_event: Callable[[], Awaitable[Event]]) -> Outcome:
        if isinstance(ending, PeerLostError):
            return self.lost(why_left(ending))
        if isinstance(ending, Bye):
            if ending.reason not in ("ended", "interrupted"):
                return self.lost(why_left(ending))
            self._channel.send(Bye(reason="ended"))
            await self._channel.finish()
            return self.outcome()
        self._channel.send(Bye(reason="ended"))
        # Where the contact is broken, the other side finds out by itself.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._hear_bye(next_event)
                await self._channel.finish()
        return self.outcome(interrupted=ending.interrupted)

    async def _hear_bye(self, next_event: Callable[[], Awaitable[Event]]) -> None:
        """Wait for the other side's goodbye, and take what it had listed before that."""
        while True:
            event = await next_event()
            if isinstance(event, Bye | PeerLostError | Stop):
                return
            if not isinstance(event, Listed) or self._leads:
                continue
            if self._unlisted is not None or not event.verdict_id:
                self._take_listed(event)

    def lost(self, reason: str) -> Outcome:
        """Return what is left when the other side is lost: the list, and no joint verdict."""
        outcome = self.outcome()
        entries = self.timeline.entries
        said = f"; the last verdict of both was {_brief(outcome.verdict)}" if entries else ""
        verdict = lost_verdict(None, f"The other side was lost: {reason}{said}.")
        return replace(outcome, verdict=verdict, contact={**outcome.contact, "lost": True})

    def outcome(self, *, interrupted: bool = False) -> Outcome:
        """Return the last verdict, with the list. Only once the first one stands."""
        if self.last is None:
            raise ProtocolError("no verdict yet")
        return replace(self.last, timeline=self.timeline, interrupted=interrupted)

    async def close(self) -> None:
        """Stop watching; safe to call again."""
        self._keys.close()
        if self._changes is not None:
            await self._changes.close()


def why_left(event: Bye | PeerLostError) -> str:
    """Return why the other side is gone, in words."""
    return BYES.get(event.reason, BYES["failed"]) if isinstance(event, Bye) else str(event)


def _joint(outcome: Outcome) -> Outcome:
    """Where the two did not agree in time, both list the same: nothing is known."""
    if outcome.verdict.verdict_id is not None:
        return outcome
    contact = {**outcome.contact, "lost": False}
    return replace(outcome, verdict=lost_verdict(None, UNFINISHED), contact=contact)


def _brief(verdict: Verdict) -> str:
    return " ".join((verdict.status, *verdict.blockers))


def local_time(ago: int) -> str:
    """Return the time of day here, `ago` milliseconds back, as ISO 8601 with its offset."""
    moment = dt.datetime.fromtimestamp(time.time() - ago / 1000).astimezone()
    return moment.isoformat(timespec="milliseconds")
