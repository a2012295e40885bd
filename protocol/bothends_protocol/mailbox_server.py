"""A meeting point: the server's half of the magic-wormhole mailbox protocol, in memory.

It keeps numbers (nameplates) that lead to mailboxes, and mailboxes that two
sides share. Messages stay until both sides have closed the mailbox, so that a
side whose connection breaks is given them again. Everything here is bounded,
since anybody may connect; what a bound costs is borne by whoever meets it.

It does what the upstream server does (magic-wormhole-mailbox-server 0.8), but for:

- A side without a connection gives its place to a new one, so that an agent that was killed
  comes in again. Two sides that are connected are never displaced.
- A message that a side leaves again (same phase) is kept once.
- `list` names no numbers: whoever knows them all could crowd out everybody.
- A full mailbox forgets the oldest messages that both sides have been given.
- It says how it sees its clients (`seen_as`): to each its own address, and with a message that of
  who left it, where that asked for it: whoever guesses a number may read along. Clients that do
  not know this pass it over.

Without I/O: the driver tells of connections and texts, with the time in seconds, and asks
`outgoing` what to send. What waits for a client that does not read is a place in the mailbox,
no copy of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from .addresses import bare
from .errors import ProtocolError

__all__ = ["MAX_CLIENTS", "MAX_MESSAGE", "MailboxServer"]

MAX_CLIENTS = 500
"""Connections at one time: 250 pairs, and half of the descriptors that a process commonly has."""

MAX_MAILBOXES = 1000
"""Mailboxes at one time; when there are more, the one longest without a connection goes."""

MAX_SIDES = 2
"""Sides of a mailbox (the protocol's own number)."""

MAX_MESSAGE = 64 * 1024
"""Bytes of one message: a parcel of bothends takes up to 40 KB, one of wormhole under 4 KB."""

MAX_MAILBOX_BYTES = 4 * 1024 * 1024
"""Bytes kept in a mailbox: a run with a few ports leaves under 1 MB."""

MAX_MAILBOX_MESSAGES = 4096
"""Messages kept in a mailbox; small ones cost more than their bytes."""

MAX_BYTES = 256 * 1024 * 1024
"""Bytes kept in all mailboxes: 64 full ones."""

MAX_ERRORS = 16
"""Errors told to a client before it is sent away."""

IDLE_SECONDS = 11 * 60.0
"""After which a mailbox goes to which no side is connected (upstream's CHANNEL_EXPIRATION_TIME);
agents wait 10 minutes for each other."""

RATE_MESSAGES = 200.0
"""Messages a second of one client, on average; a run needs under 100 in all."""

BURST_MESSAGES = 500.0
"""Messages at once before the rate counts."""

RATE_BYTES = 1024.0 * 1024.0
"""Bytes a second of one client, on average."""

BURST_BYTES = 4.0 * 1024.0 * 1024.0
"""Bytes at once before the rate counts: a mailbox full."""

MAX_APPID = 128
"""Letters of the name of an application."""

MAX_NAME = 64
"""Letters of a side, a phase or a mailbox's name: those in use have at most 16."""

MAX_DIGITS = 40
"""Digits of a nameplate (upstream's own bound)."""

MAX_MOOD = 32
"""Letters of the mood in which a mailbox is closed. It is kept nowhere."""

_OVERHEAD = 400
"""Bytes that a message costs beside its text, roughly."""

_CHUNK = 64 * 1024
"""Bytes handed out by `outgoing` at one time, and one message more."""

_LAST_ALLOCATED = 9999
"""Highest number given out: those of a bothends code have up to four digits."""


class _Command(msgspec.Struct):
    """A message of a client; what is not known here is passed over, as upstream does."""

    type: str
    id: str | int | float | None = None
    appid: str | None = None
    side: str | None = None
    nameplate: str | None = None
    mailbox: str | None = None
    phase: str | None = None
    body: str | None = None
    mood: str | None = None
    ping: int | float | str | None = None
    seen_as: Any = None
    """Of `add`: true where the message is to say from which address it came."""


class _Error(Exception):
    """What a client did wrong; it is told."""


class _Message:
    __slots__ = ("phase", "side", "size", "text")

    def __init__(self, side: str, phase: str, text: bytes) -> None:
        self.side = side
        self.phase = phase
        self.text = text
        self.size = len(text) + _OVERHEAD


class _Mailbox:
    """Messages in the order in which they came; `first` is the place of the oldest one kept."""

    def __init__(self, key: tuple[str, str], now: float) -> None:
        self.key = key
        self.used = now
        self.sides: dict[str, bool] = {}
        """Each side, and whether it still has the mailbox open."""
        self.readers: set[_Client] = set()
        self.messages: deque[_Message | None] = deque()
        self.first = 0
        self.phases: set[tuple[str, str]] = set()
        self.bytes = 0

    @property
    def end(self) -> int:
        """The place that the next message will have."""
        return self.first + len(self.messages)


class _Nameplate:
    def __init__(self, mailbox: _Mailbox) -> None:
        self.mailbox = mailbox
        self.sides: dict[str, bool] = {}
        """Each side that claimed it, and whether it still does."""


class _Client:
    def __init__(self, number: int, now: float, seen_as: str) -> None:
        self.number = number
        self.seen_as = seen_as
        self.appid = ""
        self.side = ""
        self.replies: deque[bytes] = deque()
        self.errors = 0
        self.allocated = False
        self.claimed = ""
        self.released = False
        self.mailbox: _Mailbox | None = None
        self.mailbox_name = ""
        self.closed = False
        self.place = 0
        """Where in its mailbox it reads."""
        self.held: set[_Mailbox] = set()
        """The mailboxes in which this connection stands for its side."""
        self.messages = BURST_MESSAGES
        self.bytes = BURST_BYTES
        self.counted = now


class MailboxServer:
    """All that a meeting point knows. `entropy(n)` returns n random bytes."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._clients: dict[int, _Client] = {}
        self._last = 0
        self._mailboxes: dict[tuple[str, str], _Mailbox] = {}
        self._nameplates: dict[tuple[str, str], _Nameplate] = {}
        self._bytes = 0
        self.ready: set[int] = set()
        """Clients for which there may be something to send; the driver takes them out."""

    # Connections -------------------------------------------------------------------------

    def connect(self, now: float, seen_as: str = "") -> int | None:
        """Take a connection, and return its number; None where there are too many.

        `seen_as` is the address from which it comes, of whatever kind; empty where that is not
        known, and then nothing is said of it.
        """
        if len(self._clients) >= MAX_CLIENTS:
            return None
        self._last += 1
        client = self._clients[self._last] = _Client(self._last, now, bare(seen_as))
        self._answer(client, "welcome", welcome=_seen(client))
        self.ready.add(self._last)
        return self._last

    def disconnect(self, number: int, now: float) -> None:
        """Forget the connection; what its side left in a mailbox stays."""
        client = self._clients.pop(number, None)
        self.ready.discard(number)
        if client is None:
            return
        for mailbox in client.held:
            mailbox.used = now
        if client.mailbox is not None:
            client.mailbox.readers.discard(client)

    def expire(self, now: float) -> None:
        """Drop the mailboxes that nobody has been connected to for `IDLE_SECONDS`."""
        held = self._held()
        for mailbox in list(self._mailboxes.values()):
            if mailbox not in held and now - mailbox.used > IDLE_SECONDS:
                self._drop(mailbox)

    def pause(self, number: int, now: float) -> float:
        """Return for how many seconds nothing more may be read of this client."""
        client = self._clients[number]
        past = max(now - client.counted, 0.0)
        client.counted = now
        client.messages = min(client.messages + past * RATE_MESSAGES, BURST_MESSAGES)
        client.bytes = min(client.bytes + past * RATE_BYTES, BURST_BYTES)
        return max(-client.messages / RATE_MESSAGES, -client.bytes / RATE_BYTES, 0.0)

    def answered(self, number: int) -> bool:
        """Return whether all answers to this client have been taken.

        A driver that reads nothing more before that keeps them few.
        """
        client = self._clients.get(number)
        return client is None or not client.replies

    def outgoing(self, number: int) -> list[bytes]:
        """Return texts to send to this client now, up to a chunk of them; none: there are none."""
        client = self._clients.get(number)
        if client is None:
            return []
        texts = list(client.replies)
        client.replies.clear()
        mailbox = client.mailbox
        if mailbox is None:
            return texts
        client.place = max(client.place, mailbox.first)
        room = _CHUNK
        while client.place < mailbox.end and room > 0:
            message = mailbox.messages[client.place - mailbox.first]
            client.place += 1
            if message is not None:
                texts.append(message.text)
                room -= message.size
        return texts

    # Commands ----------------------------------------------------------------------------

    def receive(self, number: int, data: str | bytes, now: float) -> None:
        """Carry out a text of this client.

        Raises `ProtocolError` where the client has to be sent away: for what is no message at
        all, and for too many errors.
        """
        client = self._clients[number]
        client.messages -= 1
        client.bytes -= len(data)
        command = _read(data)
        self.ready.add(number)
        self._answer(client, "ack", id=command.id)
        try:
            self._carry_out(client, command, now)
        except _Error as error:
            self._answer(client, "error", error=str(error), orig={"type": command.type})
            client.errors += 1
            if client.errors > MAX_ERRORS:
                raise ProtocolError("too many errors") from error

    def _carry_out(self, client: _Client, command: _Command, now: float) -> None:
        if command.type == "ping":
            if command.ping is None:
                raise _Error("ping requires 'ping'")
            self._answer(client, "pong", pong=command.ping)
        elif command.type == "bind":
            self._bind(client, command)
        elif not client.appid:
            raise _Error("must bind first")
        elif command.type == "list":
            self._answer(client, "nameplates", nameplates=[])
        elif command.type == "allocate":
            self._allocate(client, now)
        elif command.type == "claim":
            self._claim(client, command, now)
        elif command.type == "release":
            self._release(client, command)
        else:
            self._carry_out_in_mailbox(client, command, now)

    def _carry_out_in_mailbox(self, client: _Client, command: _Command, now: float) -> None:
        if command.type == "open":
            self._open(client, command, now)
        elif command.type == "add":
            self._add(client, command, now)
        elif command.type == "close":
            self._close(client, command, now)
        else:
            raise _Error("unknown type")

    def _bind(self, client: _Client, command: _Command) -> None:
        if client.appid:
            raise _Error("already bound")
        appid = _bounded(command.appid, "bind", "appid", MAX_APPID)
        client.side = _bounded(command.side, "bind", "side", MAX_NAME)
        client.appid = appid

    def _allocate(self, client: _Client, now: float) -> None:
        if client.allocated:
            raise _Error("you already allocated one, don't be greedy")
        nameplate = self._free_number(client.appid)
        self._hold_nameplate(client, nameplate, now)
        client.allocated = True
        self._answer(client, "allocated", nameplate=nameplate)

    def _free_number(self, appid: str) -> str:
        """Return a free number, as short as there is one: people read it out."""
        below = 10
        while below <= _LAST_ALLOCATED + 1:
            free = [
                str(number)
                for number in range(below // 10, below)
                if (appid, str(number)) not in self._nameplates
            ]
            if free:
                return free[int.from_bytes(self._entropy(8), "big") % len(free)]
            below *= 10
        raise _Error("unable to find a free nameplate-id")

    def _claim(self, client: _Client, command: _Command, now: float) -> None:
        if client.claimed:
            raise _Error("only one claim per connection")
        nameplate = _bounded(command.nameplate, "claim", "nameplate", MAX_DIGITS)
        if not (nameplate.isascii() and nameplate.isdigit()):
            raise _Error("a nameplate is a number")
        client.claimed = nameplate
        mailbox = self._hold_nameplate(client, nameplate, now)
        self._answer(client, "claimed", mailbox=mailbox.key[1])

    def _hold_nameplate(self, client: _Client, nameplate: str, now: float) -> _Mailbox:
        key = client.appid, nameplate
        known = self._nameplates.get(key)
        if known is not None and known.sides.get(client.side) is False:
            # It released the nameplate, and wants to begin anew. Only a side that is there can
            # still need the old one.
            others = (side for side, claims in known.sides.items() if claims)
            if any(side in self._present(known.mailbox) for side in others):
                raise _Error("reclaimed")
            del self._nameplates[key]
            known = None
        if known is None:
            mailbox = self._mailbox((client.appid, self._entropy(8).hex()), now)
            known = self._nameplates[key] = _Nameplate(mailbox)
        self._join(client, known.mailbox, now)
        known.sides[client.side] = True
        return known.mailbox

    def _release(self, client: _Client, command: _Command) -> None:
        if client.released:
            raise _Error("only one release per connection")
        nameplate = command.nameplate or client.claimed
        if not nameplate:
            raise _Error("release without nameplate must follow claim")
        if client.claimed and nameplate != client.claimed:
            raise _Error("release and claim must use same nameplate")
        client.released = True
        known = self._nameplates.get((client.appid, nameplate))
        if known is not None and client.side in known.sides:
            known.sides[client.side] = False
            if not any(known.sides.values()):
                del self._nameplates[client.appid, nameplate]
        self._answer(client, "released")

    def _open(self, client: _Client, command: _Command, now: float) -> None:
        if client.mailbox_name:
            raise _Error("only one open per connection")
        name = _bounded(command.mailbox, "open", "mailbox", MAX_NAME)
        mailbox = self._mailbox((client.appid, name), now)
        self._join(client, mailbox, now)
        client.mailbox_name = name
        client.mailbox = mailbox
        client.place = mailbox.first
        mailbox.readers.add(client)

    def _add(self, client: _Client, command: _Command, now: float) -> None:
        mailbox = client.mailbox
        if mailbox is None:
            raise _Error("must open mailbox before adding")
        phase = _bounded(command.phase, "add", "phase", MAX_NAME)
        body = _bounded(command.body, "add", "body", MAX_MESSAGE, empty=True)
        if not _is_hex(body):
            raise _Error("a body is hex")
        mailbox.used = now
        if (client.side, phase) in mailbox.phases:
            return  # left again after a connection that broke before its echo
        fields: dict[str, object] = {
            "type": "message",
            "side": client.side,
            "phase": phase,
            "body": body,
            "id": command.id,
            **(_seen(client) if command.seen_as is True else {}),
        }
        message = _Message(client.side, phase, _text(fields))
        self._make_room(mailbox, message.size)
        mailbox.messages.append(message)
        mailbox.phases.add((client.side, phase))
        mailbox.bytes += message.size
        self._bytes += message.size
        self._wake(mailbox)

    def _close(self, client: _Client, command: _Command, now: float) -> None:
        if client.closed:
            raise _Error("only one close per connection")
        name = command.mailbox or client.mailbox_name
        if not name:
            raise _Error("close without mailbox must follow open")
        if client.mailbox_name and name != client.mailbox_name:
            raise _Error("open and close must use same mailbox")
        if command.mood is not None and len(command.mood) > MAX_MOOD:
            raise _Error("that is too long a mood")
        client.closed = True
        mailbox = self._mailboxes.get((client.appid, name))
        if mailbox is not None and client.side in mailbox.sides:
            mailbox.used = now
            mailbox.sides[client.side] = False
            if not any(mailbox.sides.values()):
                self._drop(mailbox)
        if client.mailbox is not None:
            client.mailbox.readers.discard(client)
            client.mailbox = None
        if mailbox is not None:
            client.held.discard(mailbox)
        self._answer(client, "closed")

    # Mailboxes ---------------------------------------------------------------------------

    def _mailbox(self, key: tuple[str, str], now: float) -> _Mailbox:
        mailbox = self._mailboxes.get(key)
        if mailbox is None:
            if len(self._mailboxes) >= MAX_MAILBOXES:
                self._drop_idle()
            mailbox = self._mailboxes[key] = _Mailbox(key, now)
        return mailbox

    def _drop_idle(self) -> None:
        """Drop the mailbox that has been without a connection for longest."""
        held = self._held()
        idle = [mailbox for mailbox in self._mailboxes.values() if mailbox not in held]
        if not idle:
            raise _Error("too many mailboxes")
        self._drop(min(idle, key=lambda mailbox: mailbox.used))

    def _drop(self, mailbox: _Mailbox) -> None:
        del self._mailboxes[mailbox.key]
        self._bytes -= mailbox.bytes
        for key in [key for key, plate in self._nameplates.items() if plate.mailbox is mailbox]:
            del self._nameplates[key]
        for reader in mailbox.readers:
            reader.mailbox = None

    def _held(self) -> set[_Mailbox]:
        """The mailboxes to which some side is connected."""
        return {mailbox for client in self._clients.values() for mailbox in client.held}

    def _join(self, client: _Client, mailbox: _Mailbox, now: float) -> None:
        """Let the client's side into `mailbox`; raise where two others are there."""
        if client.side not in mailbox.sides and len(mailbox.sides) >= MAX_SIDES:
            present = self._present(mailbox)
            # One that has closed the mailbox goes before one that may come back.
            gone = sorted(mailbox.sides.keys() - present, key=lambda side: mailbox.sides[side])
            if not gone:
                raise _Error("crowded")
            self._displace(mailbox, gone[0])
        mailbox.sides[client.side] = True
        mailbox.used = now
        client.held.add(mailbox)

    def _present(self, mailbox: _Mailbox) -> set[str]:
        """The sides that are connected to `mailbox`."""
        return {client.side for client in self._clients.values() if mailbox in client.held}

    def _displace(self, mailbox: _Mailbox, side: str) -> None:
        """Forget `side`, and what it left: it has no connection, and another side has come."""
        del mailbox.sides[side]
        for plate in self._nameplates.values():
            if plate.mailbox is mailbox:
                plate.sides.pop(side, None)
        for place, message in enumerate(mailbox.messages):
            if message is not None and message.side == side:
                self._forget(mailbox, message)
                mailbox.messages[place] = None

    def _make_room(self, mailbox: _Mailbox, size: int) -> None:
        """Forget the oldest messages that both sides have been given, as far as is needed."""
        places = [reader.place for reader in mailbox.readers]
        both = len({reader.side for reader in mailbox.readers}) == MAX_SIDES
        given = min(places) if both else mailbox.first
        while self._is_full(mailbox, size):
            if mailbox.first >= given:
                raise _Error("the mailbox is full")
            message = mailbox.messages.popleft()
            mailbox.first += 1
            if message is not None:
                self._forget(mailbox, message)

    def _is_full(self, mailbox: _Mailbox, size: int) -> bool:
        return (
            mailbox.bytes + size > MAX_MAILBOX_BYTES
            or len(mailbox.messages) >= MAX_MAILBOX_MESSAGES
            or self._bytes + size > MAX_BYTES
        )

    def _forget(self, mailbox: _Mailbox, message: _Message) -> None:
        mailbox.bytes -= message.size
        self._bytes -= message.size
        mailbox.phases.discard((message.side, message.phase))

    # Answers -----------------------------------------------------------------------------

    def _answer(self, client: _Client, kind: str, **fields: object) -> None:
        client.replies.append(_text({"type": kind, **fields}))

    def _wake(self, mailbox: _Mailbox) -> None:
        self.ready.update(reader.number for reader in mailbox.readers)


def _seen(client: _Client) -> dict[str, object]:
    return {"seen_as": client.seen_as} if client.seen_as else {}


def _text(fields: dict[str, object]) -> bytes:
    return msgspec.json.encode(fields)


def _read(data: str | bytes) -> _Command:
    if len(data) > MAX_MESSAGE:
        raise ProtocolError("a message is too large")
    try:
        command = msgspec.json.decode(data, type=_Command)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ProtocolError(f"not a message: {type(error).__name__}") from error
    if isinstance(command.id, str) and len(command.id) > MAX_NAME:
        raise ProtocolError("the id of a message is too long")
    if len(command.type) > MAX_NAME:
        raise ProtocolError("the type of a message is too long")
    return command


def _bounded(
    value: str | None, command: str, name: str, longest: int, *, empty: bool = False
) -> str:
    if value is None or (not value and not empty):
        raise _Error(f"{command} requires '{name}'")
    if len(value) > longest:
        raise _Error(f"that {name} is too long")
    return value


def _is_hex(body: str) -> bool:
    try:
        return len(bytes.fromhex(body)) * 2 == len(body)
    except ValueError:
        return False
