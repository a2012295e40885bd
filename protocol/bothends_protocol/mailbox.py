"""One side of a mailbox at a meeting point, in the magic-wormhole mailbox protocol.

A meeting point keeps mailboxes that two sides share. A number (`nameplate`)
leads to one. Each message has the side that left it, a phase and a body, and
whoever opens the mailbox is given all that are in it, its own among them: the
echo of an own message is its acknowledgement, and so nothing is lost or
repeated when the connection breaks and is made again.

The messages are JSON objects with a `type`, one in each text frame of a
WebSocket. They are as the server of magic-wormhole has them
(magic-wormhole-mailbox-server 0.8, server_websocket.py); its document is
magic-wormhole-protocols, server-protocol.md.

Our own server also says how it sees its clients (`seen_as`): this one in its
`welcome`, and in a `message` the one that left it, where that asked for it.
Upstream's says neither.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from .addresses import public
from .errors import MisuseError, ProtocolError

__all__ = [
    "APPID",
    "MAX_BODY",
    "Allocated",
    "Body",
    "Closed",
    "Crowded",
    "Event",
    "Mailbox",
    "Notice",
    "Objection",
    "Opened",
    "Outside",
    "Refused",
]

APPID = "bothends/1"
"""Keeps the numbers of bothends apart from those of other programs at the same meeting point."""

MAX_RECEIVED = 256 * 1024
"""Characters of one message from a meeting point: four times what one of ours takes there, since
it carries what the other side left, and that may be a newer version."""

MAX_BODY = 20 * 1024
"""Bytes of a body that this side leaves. In hex and with its frame it stays under 64 KB, which
proxies and servers commonly take."""

MAX_PENDING = 16 * 1024 * 1024
"""Bytes left and not yet echoed: both ways of the largest evidence. A meeting point that takes
nothing must not fill the memory."""

MAX_SIDES = 16
"""Sides of which messages are taken in the life of a mailbox. Two is what there should be; agents
that were killed and started again leave more behind."""

MAX_WORDS = 200
"""Letters of what a meeting point says that are shown to the user."""

MAX_NAME = 128
"""Letters of a mailbox's name, a side or a phase."""

_MAX_PHASE_DIGITS = 18


class Opened(msgspec.Struct, frozen=True):
    """The mailbox is open; `anew` where it is another than before, and what lay there is gone."""

    anew: bool


class Body(msgspec.Struct, frozen=True):
    """What another side left: in the order in which it did, each once."""

    side: str
    body: bytes
    seen_as: str = ""
    """The public address from which it came, as the meeting point says; empty: it says none."""


class Outside(msgspec.Struct, frozen=True):
    """The meeting point says under which public address it sees this side."""

    address: str


class Allocated(msgspec.Struct, frozen=True):
    """The meeting point chose this nameplate."""

    nameplate: str


class Crowded(msgspec.Struct, frozen=True):
    """Two other sides use this nameplate."""


class Refused(msgspec.Struct, frozen=True):
    """The meeting point serves nobody, and says why."""

    words: str


class Objection(msgspec.Struct, frozen=True):
    """The meeting point did not like a message, and says why."""

    words: str


class Notice(msgspec.Struct, frozen=True):
    """What the meeting point wants its users to read."""

    words: str


class Closed(msgspec.Struct, frozen=True):
    """The meeting point has closed the mailbox for this side."""


Event: TypeAlias = (
    Opened | Body | Outside | Allocated | Crowded | Refused | Objection | Notice | Closed
)


class _Welcome(msgspec.Struct):
    error: str | None = None
    motd: str | None = None
    seen_as: Any = None


class _Said(msgspec.Struct):
    """A message of the meeting point; what is not known here is passed over."""

    type: str
    welcome: _Welcome | None = None
    nameplate: str | None = None
    mailbox: str | None = None
    side: str | None = None
    phase: str | None = None
    body: str | None = None
    error: str | None = None
    seen_as: Any = None


class Mailbox:
    """One side's use of the mailbox behind `nameplate`; without one, the server chooses it.

    Without I/O: `outgoing` hands out the texts to send now. `side` is kept for as long as the
    mailbox is used, since a meeting point refuses a third one.
    """

    def __init__(self, side: str, nameplate: str = "", appid: str = APPID) -> None:
        self.side = side
        self.nameplate = nameplate
        self._appid = appid
        self._connected = False
        self._open = False
        self._closing = ""
        """The mood in which the mailbox is being closed; empty before."""
        self._name = ""
        self._phase = 0
        self._pending: dict[str, tuple[bytes, bool]] = {}
        self._pending_bytes = 0
        self._taken: dict[str, int] = {}
        """The last phase taken of each other side."""
        self._queue: deque[str] = deque()

    @property
    def pending(self) -> int:
        """Bytes of this side's messages that the meeting point has not echoed yet."""
        return self._pending_bytes

    @property
    def open(self) -> bool:
        """Whether the mailbox is open on the present connection."""
        return self._open

    def connected(self) -> None:
        """Begin a connection."""
        self._connected = True
        self._say(type="bind", appid=self._appid, side=self.side)
        if self.nameplate:
            self._say(type="claim", nameplate=self.nameplate)
        else:
            self._say(type="allocate")

    def disconnected(self) -> None:
        """End the connection: what was not echoed is kept for the next one."""
        self._connected = self._open = False
        self._queue.clear()

    def add(self, body: bytes, *, shown: bool = False) -> None:
        """Leave `body` in the mailbox, now or once it is open.

        `shown`: the meeting point may tell who reads it from which address it came. Not before
        it is known who that is.

        Raises `MisuseError` where it is too large, or too much has not been echoed yet.
        """
        if len(body) > MAX_BODY or self._pending_bytes + len(body) > MAX_PENDING:
            raise MisuseError("too much for the mailbox")
        phase = str(self._phase)
        self._phase += 1
        self._pending[phase] = body, shown
        self._pending_bytes += len(body)
        if self._open:
            self._leave(phase, body, shown=shown)

    def forget(self) -> None:
        """Drop what was not echoed yet; nobody waits for it any more."""
        self._pending.clear()
        self._pending_bytes = 0

    def close(self, mood: str = "happy") -> None:
        """Give up nameplate and mailbox; `Closed` tells when the meeting point has done so."""
        if self._closing:
            return
        self._closing = mood
        if self._open:
            self._say(type="release", nameplate=self.nameplate)
            self._say(type="close", mailbox=self._name, mood=mood)

    def outgoing(self) -> list[str]:
        """Return and forget the texts to send now."""
        texts = list(self._queue)
        self._queue.clear()
        return texts

    def receive(self, text: str | bytes) -> list[Event]:
        """Return what `text`, a message of the meeting point, tells.

        Raises `ProtocolError` for anything that is not such a message.
        """
        said = _read(text)
        takes: dict[str, Callable[[_Said], list[Event]]] = {
            "welcome": self._welcomed,
            "allocated": self._allocated,
            "claimed": self._claimed,
            "message": self._message,
            "error": self._objected,
            "closed": lambda _said: [Closed()],
        }
        take = takes.get(said.type)
        return [] if take is None else take(said)

    @staticmethod
    def _welcomed(said: _Said) -> list[Event]:
        welcome = said.welcome or _Welcome()
        events: list[Event] = []
        if welcome.motd:
            events.append(Notice(_shown(welcome.motd)))
        if welcome.error is not None:
            events.append(Refused(_shown(welcome.error)))
        elif outside := _seen(welcome.seen_as):
            events.append(Outside(outside))
        return events

    @staticmethod
    def _objected(said: _Said) -> list[Event]:
        words = said.error or ""
        return [Crowded() if words == "crowded" else Objection(_shown(words))]

    def _allocated(self, said: _Said) -> list[Event]:
        if not said.nameplate or self.nameplate:
            raise ProtocolError("a nameplate that was not asked for")
        self.nameplate = _name(said.nameplate)
        self._say(type="claim", nameplate=self.nameplate)
        return [Allocated(self.nameplate)]

    def _claimed(self, said: _Said) -> list[Event]:
        if not said.mailbox or not self._connected or self._open:
            raise ProtocolError("a mailbox that was not asked for")
        anew = self._name not in ("", said.mailbox)
        if anew:
            # The meeting point forgot the old one, and nobody else has the messages.
            self._taken.clear()
            self.forget()
        self._name = _name(said.mailbox)
        self._open = True
        self._say(type="open", mailbox=self._name)
        for phase, (body, shown) in self._pending.items():
            self._leave(phase, body, shown=shown)
        if self._closing:
            mood, self._closing = self._closing, ""
            self.close(mood)
        return [Opened(anew)]

    def _message(self, said: _Said) -> list[Event]:
        if said.side is None or said.phase is None or said.body is None:
            raise ProtocolError("a message without side, phase or body")
        if said.side == self.side:
            self._pending_bytes -= len(self._pending.pop(said.phase, (b"", False))[0])
            return []
        # What some other side wrote badly is passed over: it lies in the mailbox, and would end
        # every further connection too.
        phase, body = _number(said.phase), _bytes(said.body)
        if phase is None or body is None or len(said.side) > MAX_NAME:
            return []
        # The sides count their phases, and the meeting point keeps the order in which they came.
        # So this is all that tells a repetition, after a connection made again, from news.
        if phase <= self._taken.get(said.side, -1):
            return []
        if said.side not in self._taken and len(self._taken) >= MAX_SIDES:
            return []
        self._taken[said.side] = phase
        return [Body(said.side, body, _seen(said.seen_as))]

    def _leave(self, phase: str, body: bytes, *, shown: bool) -> None:
        asked = {"seen_as": True} if shown else {}
        self._say(type="add", phase=phase, body=body.hex(), **asked)

    def _say(self, **fields: str | bool) -> None:
        if self._connected:
            self._queue.append(msgspec.json.encode(fields).decode("utf-8"))


def _read(text: str | bytes) -> _Said:
    if len(text) > MAX_RECEIVED:
        raise ProtocolError("a message of the meeting point is too large")
    try:
        return msgspec.json.decode(text, type=_Said)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        name = type(error).__name__
        raise ProtocolError(f"not a message of a meeting point: {name}") from error


def _name(text: str) -> str:
    if not 0 < len(text) <= MAX_NAME:
        raise ProtocolError("a name that is too long")
    return text


def _number(phase: str) -> int | None:
    if not (phase.isascii() and phase.isdigit() and len(phase) <= _MAX_PHASE_DIGITS):
        return None
    return int(phase)


def _bytes(body: str) -> bytes | None:
    try:
        return bytes.fromhex(body)
    except ValueError:
        return None


def _seen(address: object) -> str:
    """The public address that a meeting point names; empty for all else that it may say there.

    One that sits behind something in its own network names a private address, of no use here.
    """
    return public(address) if isinstance(address, str) else ""


def _shown(words: str) -> str:
    """What a stranger's server says, fit to be shown."""
    cut = words[:MAX_WORDS]
    return "".join(letter if letter.isprintable() else " " for letter in cut).strip()
