"""The way through a meeting point: streams to the other agent by way of a mailbox.

Both agents connect outwards, to a server that both can reach, and leave each
other messages there (`bothends_protocol.mailbox`, `parcels`). On top of these
run streams like those of TCP, one after the other; the source opens them. The
handshake and the encryption inside are the same as on every other way, so the
server sees the code's number, sizes and times, and nothing else.

A stream outlives its WebSocket: what was not echoed is left again. When the
server has forgotten the mailbox, the streams in it break and new ones can be
opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from bothends_protocol.code import MAX_NUMBER
from bothends_protocol.errors import InputError, MisuseError, ProtocolError
from bothends_protocol.mailbox import (
    MAX_RECEIVED,
    Allocated,
    Body,
    Closed,
    Crowded,
    Event,
    Mailbox,
    Notice,
    Objection,
    Opened,
    Outside,
    Refused,
)
from bothends_protocol.pairing import SOURCE, other_role
from bothends_protocol.parcels import (
    ABORT,
    DATA,
    END,
    HELLO,
    LEAVE,
    MAX_DATA,
    STREAM_SIZE,
    Parcel,
    read_parcel,
    write_parcel,
)

from .streams import RENDEZVOUS, Stream, tune
from .tasks import Tasks

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

__all__ = ["Rendezvous", "RendezvousStream", "allocate", "new_side", "parse_url"]

ALLOCATE_SECONDS = 1.5
"""For the meeting point to choose a number; the user waits for the code meanwhile."""

OPEN_SECONDS = 5.0
"""From the first packet until the mailbox is open: five round trips and TLS, at 40 % loss."""

FIRST_PAUSE = 0.1
LAST_PAUSE = 2.0
"""Seconds between one try to connect and the next: at first, and at most."""

SOON_PAUSE = 0.4
SOON_SECONDS = 5.0
"""For so long after a connection that served the pause is no longer than that: two who talk by
way of a meeting point that was started again miss each other for 4 seconds (`channel`) at most."""

PING_SECONDS = 2.0
"""Between signs of life on a quiet connection, and the wait for the answer to one: a server that
vanished shows before the user has given up."""

CLOSE_SECONDS = 1.0
"""How long the meeting point may take to close the mailbox."""

MAX_STREAMS = 8
"""Streams open at one time: one is in use, and one or two may be left of links that broke."""

MAX_BUFFERED = 1024 * 1024
"""Bytes of a stream that nobody has read yet: four of the largest frames. Beyond, nothing more is
read from the meeting point until somebody does."""

STUCK_SECONDS = 4.0
"""How long a stream may keep all others waiting that way before it is given up."""

MAX_UNECHOED = 256 * 1024
"""Bytes under way to the meeting point before `drain` waits: a frame."""

MAX_URL = 1000

MAX_SEEN = 4
"""Addresses kept of each side under which the meeting point has seen it, the newest ones: one of
each IP version, and as many after a change of network."""

_QUIET = logging.getLogger("bothends.rendezvous")
_QUIET.disabled = True  # what matters is told in our own words


class _AgainError(Exception):
    """The connection is of no more use; the next one may be."""


def parse_url(text: str) -> str:
    """Return the URL of a meeting point that a person typed, its path `/v1` where it has none.

    Raises `InputError` with one sentence for that person.
    """
    example = "as in wss://meet.example/v1"
    if len(text) > MAX_URL or not text.isprintable() or any(c.isspace() for c in text):
        raise InputError(f"that is not the URL of a meeting point, {example}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{text!r} is not the URL of a meeting point, {example}") from error
    if parts.username is not None or parts.password is not None:
        raise InputError("the URL of a meeting point holds no user name and no password")
    if parts.scheme not in ("ws", "wss") or not host or port == 0 or parts.fragment:
        raise InputError(f"{text!r} is not the URL of a meeting point, {example}")
    return urlunsplit(parts._replace(path=parts.path or "/v1"))


def new_side() -> str:
    """Return a fresh name of a side."""
    return secrets.token_hex(8)


async def allocate(url: str, side: str) -> int | None:
    """Let the meeting point at `url` choose a free number and keep it for `side`.

    None where it does not do so within `ALLOCATE_SECONDS`, whatever the reason.
    """
    from websockets.exceptions import WebSocketException  # noqa: PLC0415  60 ms to load

    found: list[int] = []
    with contextlib.suppress(OSError, TimeoutError, WebSocketException, ProtocolError):
        async with asyncio.timeout(ALLOCATE_SECONDS), _connect(url) as connection:
            mailbox = Mailbox(side)
            mailbox.connected()
            for text in mailbox.outgoing():
                await connection.send(text)
            while not found:
                for event in mailbox.receive(await connection.recv()):
                    if isinstance(event, Allocated):
                        found.append(_number(event.nameplate))
                    elif isinstance(event, (Refused, Objection)):
                        return None
    return found[0] if found and 0 < found[0] <= MAX_NUMBER else None


def _number(nameplate: str) -> int:
    return int(nameplate) if nameplate.isascii() and nameplate.isdigit() else 0


class RendezvousStream:
    """A stream through the mailbox (`bothends.streams.Stream`), as TCP would have it."""

    way = RENDEZVOUS
    remote = ""
    remote_port = 0
    local = ""

    def __init__(
        self,
        name: bytes,
        peer: str,
        put: Callable[[Parcel], bool],
        unechoed: Callable[[], int],
    ) -> None:
        self.name = name
        self.peer = peer
        """The side at the other end."""
        self.over = False
        """Whether nothing more is to be taken for it."""
        self._put = put
        self._unechoed = unechoed
        self._sent = 0
        self._taken = 0
        self._received = bytearray()
        self._ended_there = False
        self._ended_here = False
        self._closed = False
        self._broken = ""
        self._changed = asyncio.Event()

    @property
    def resent(self) -> int:
        """See `Stream`: not counted here."""
        return 0

    async def read(self, size: int) -> bytes:
        """See `Stream`."""
        while True:
            if self._broken:
                raise ConnectionResetError(self._broken)
            if self._received or self._ended_there or self._closed:
                data = bytes(self._received[:size])
                del self._received[:size]
                self._changed.set()
                return data
            await self._change()

    def write(self, data: bytes) -> None:
        """See `Stream`."""
        for start in range(0, len(data), MAX_DATA):
            if not self._ended_here and not self._broken:
                self._send(DATA, data[start : start + MAX_DATA])

    async def drain(self) -> None:
        """See `Stream`."""
        while not self._broken and self._unechoed() > MAX_UNECHOED:
            await self._change()
        if self._broken:
            raise ConnectionResetError(self._broken)

    def end(self) -> None:
        """See `Stream`."""
        if not self._ended_here and not self._broken:
            self._ended_here = True
            self._send(END)

    def close(self) -> None:
        """See `Stream`."""
        self.end()
        self._closed = self.over = True
        self._received.clear()
        self._changed.set()

    def abort(self) -> None:
        """See `Stream`."""
        if not self.over:
            self._send(ABORT)
            self.give_up("the stream was given up here")

    # For the way itself ------------------------------------------------------------------

    def take(self, parcel: Parcel) -> None:
        """Take the next parcel of the other side."""
        if parcel.kind == ABORT:
            self.give_up("the other side gave the stream up")
        elif parcel.number != self._taken or self._ended_there:
            self._send(ABORT)
            self.give_up("a part of the stream was lost at the meeting point")
        else:
            self._taken += 1
            self._received += parcel.data
            self._ended_there = parcel.kind == END
            self._changed.set()

    def give_up(self, reason: str) -> None:
        """Break the stream; whoever reads or waits is told `reason`."""
        self._broken = self._broken or reason
        self.over = True
        self._received.clear()
        self._changed.set()

    def echoed(self) -> None:
        """Some of what was sent has arrived at the meeting point."""
        self._changed.set()

    async def room(self) -> None:
        """Wait until somebody has read; give the stream up where nobody does."""
        try:
            async with asyncio.timeout(STUCK_SECONDS):
                while len(self._received) > MAX_BUFFERED:
                    await self._change()
        except TimeoutError:
            self.abort()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _send(self, kind: str, data: bytes = b"") -> None:
        parcel = Parcel(kind=kind, to=self.peer, stream=self.name, number=self._sent, data=data)
        self._sent += 1
        if not self._put(parcel):
            self.give_up("the meeting point takes nothing more")


class Rendezvous:
    """The way through the meeting point at `url`, to whoever has the same number there.

    `offered` gets each new stream, and whether it was opened from here. `troubled` gets a
    sentence about what the way met. `side` is the one that `allocate` used, where it was.
    """

    def __init__(
        self,
        url: str,
        number: int,
        role: str,
        offered: Callable[[Stream, bool], None],
        troubled: Callable[[str], None],
        side: str | None = None,
    ) -> None:
        self.trouble = ""
        """What the way met last; empty while all is well."""
        self._url = url
        self._place = urlsplit(url).netloc
        self._role = role
        self._offered = offered
        self._troubled = troubled
        self._mailbox = self._fresh_mailbox(side or new_side(), number)
        self._peer = ""
        """The other agent's side, once it has said hello."""
        self._shown = False
        """Whether the other agent may learn from the meeting point where this side is."""
        self._outside: list[str] = []
        self._peer_outside: list[str] = []
        self._streams: dict[bytes, RendezvousStream] = {}
        self._wanted = False
        self._leaving = False
        self._reached = False
        self._noticed = ""
        self._closed = asyncio.Event()
        self._news = asyncio.Event()
        """Set where the mailbox has something to send."""
        self._attempt: asyncio.Task[None] | None = None
        self._tasks = Tasks()

    @property
    def met(self) -> bool:
        """Whether the other agent is there, as far as is known."""
        return bool(self._peer)

    @property
    def host(self) -> str:
        """The host of the meeting point, as it was typed."""
        return urlsplit(self._url).hostname or ""

    @property
    def outside(self) -> tuple[str, ...]:
        """Public addresses under which the meeting point says it sees this side, newest first."""
        return tuple(self._outside)

    @property
    def peer_outside(self) -> tuple[str, ...]:
        """The same of the other agent: where the meeting point says that its messages came from."""
        return tuple(self._peer_outside)

    def start(self) -> None:
        """Connect, and connect again whenever the connection ends."""
        self._tasks.start(self._keep_connected())

    def dial(self) -> None:
        """Open a stream, now or as soon as the other agent is there; the source only."""
        if self._role == SOURCE:
            self._wanted = True
            asyncio.get_running_loop().call_soon(self._dial_if_wanted)

    def rest(self) -> None:
        """Open no stream that was asked for and is not open yet."""
        self._wanted = False

    def show(self) -> None:
        """Let the meeting point tell the other agent where this side is: it has authenticated."""
        self._shown = True

    def renumber(self, number: int) -> None:
        """Give up the old number for `number`: a new code was drawn."""
        self._say_leave(self._mailbox)
        self._begin_anew(self._fresh_mailbox(new_side(), number))

    async def close(self) -> None:
        """Leave the meeting point in order, within a bounded time; safe to call again."""
        self._leaving = True
        mailbox = self._mailbox
        for stream in list(self._streams.values()):
            stream.abort()
        if mailbox.open and not self._closed.is_set():
            self._say_leave(mailbox)
            mailbox.close()
            self._news.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), CLOSE_SECONDS)
        await self._tasks.finish()

    def _say_leave(self, mailbox: Mailbox) -> None:
        if mailbox.open:
            with contextlib.suppress(MisuseError):
                mailbox.add(write_parcel(Parcel(kind=LEAVE, role=self._role)))

    # The connection ----------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        pause = FIRST_PAUSE
        served = -math.inf
        clock = asyncio.get_running_loop().time
        while True:
            self._reached = False
            self._attempt = asyncio.ensure_future(self._use(self._mailbox))
            try:
                await asyncio.wait((self._attempt,))
            finally:
                # Cancelled, or over: either way it ends before anything else begins.
                self._attempt.cancel()
                await asyncio.gather(self._attempt, return_exceptions=True)
            if not self._attempt.cancelled() and (error := self._attempt.exception()):
                if not _is_of_the_world(error):
                    raise error
                self._tell(_describe(error, self._place))
                if isinstance(error, ssl.SSLCertVerificationError):
                    return  # trying again does not help
            if self._reached:
                pause, served = FIRST_PAUSE, clock()
            await asyncio.sleep(pause)
            pause = min(2 * pause, SOON_PAUSE if clock() - served < SOON_SECONDS else LAST_PAUSE)

    async def _use(self, mailbox: Mailbox) -> None:
        """Use `mailbox` over one connection, until that ends."""
        async with asyncio.timeout(OPEN_SECONDS) as limit:
            async with _connect(self._url) as connection:
                mailbox.connected()
                self._news.set()
                sending = asyncio.ensure_future(self._send(connection, mailbox))
                try:
                    while True:
                        await self._take(mailbox, await connection.recv())
                        if mailbox.open:
                            limit.reschedule(None)
                finally:
                    mailbox.disconnected()
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, connection: ClientConnection, mailbox: Mailbox) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            for text in mailbox.outgoing():
                await connection.send(text)

    async def _take(self, mailbox: Mailbox, text: str | bytes) -> None:
        waiting = mailbox.pending
        events = mailbox.receive(text)
        self._news.set()
        if mailbox.pending < waiting:
            for stream in self._streams.values():
                stream.echoed()
        for event in events:
            self._learn(mailbox, event)
        for stream in list(self._streams.values()):
            await stream.room()
        # Whoever was given something runs before more is taken.
        await asyncio.sleep(0)

    def _learn(self, mailbox: Mailbox, event: Event) -> None:
        current = mailbox is self._mailbox
        match event:
            case Opened(anew):
                if current:
                    self._opened(mailbox, anew=anew)
            case Body(side, body, seen_as):
                if current:
                    with contextlib.suppress(ProtocolError):
                        self._sort(side, read_parcel(body))
                        if side == self._peer:
                            _keep(self._peer_outside, seen_as)
            case Outside(address):
                _keep(self._outside, address)
            case Notice(words):
                self._notice(words)
            case Closed():
                if current:
                    self._closed.set()
                raise _AgainError
            case _:
                raise _AgainError(_objection(event, self._place))

    def _opened(self, mailbox: Mailbox, *, anew: bool) -> None:
        self._reached = True
        self.trouble = ""
        if anew:
            self._break_streams("the meeting point has forgotten the stream")
            self._peer = ""
            mailbox.add(_hello(self._role))
        self._dial_if_wanted()

    def _notice(self, words: str) -> None:
        if words and words != self._noticed:
            self._noticed = words
            self._troubled(f"The meeting point {self._place} says: {words}")

    def _tell(self, sentence: str) -> None:
        if sentence and sentence != self.trouble:
            self.trouble = sentence
            self._troubled(sentence)

    # Parcels -----------------------------------------------------------------------------

    def _sort(self, side: str, parcel: Parcel) -> None:
        if parcel.kind == HELLO:
            if parcel.role == other_role(self._role) and side != self._peer:
                self._break_streams("the other side was started again")
                self._peer = side
                self._peer_outside.clear()
                self._dial_if_wanted()
        elif side != self._peer:
            return  # a stranger, or an agent that is no more
        elif parcel.kind == LEAVE:
            self._left()
        elif parcel.to == self._mailbox.side:
            self._hand_over(parcel)

    def _left(self) -> None:
        """Wait for whoever comes next, in a mailbox that does not count the one who went.

        Some servers count every side that ever was in it, and refuse the third.
        """
        if self._leaving:
            return  # both do at the end, and nobody is waited for
        old = self._mailbox
        self._begin_anew(self._fresh_mailbox(old.side, int(old.nameplate)))

    def _hand_over(self, parcel: Parcel) -> None:
        stream = self._streams.get(parcel.stream)
        if stream is None:
            if self._role == SOURCE or parcel.kind == ABORT or parcel.number != 0:
                return
            stream = self._stream(parcel.stream)
            if len(self._streams) > MAX_STREAMS:
                stream.abort()
                self._sweep()
                return
            self._offered(stream, False)
        stream.take(parcel)
        self._sweep()

    def _dial_if_wanted(self) -> None:
        if not (self._wanted and self._peer and self._mailbox.open):
            return
        self._wanted = False
        self._offered(self._stream(secrets.token_bytes(STREAM_SIZE)), True)

    def _stream(self, name: bytes) -> RendezvousStream:
        self._sweep()
        mailbox = self._mailbox
        stream = RendezvousStream(name, self._peer, self._put, lambda: mailbox.pending)
        self._streams[name] = stream
        return stream

    def _put(self, parcel: Parcel) -> bool:
        try:
            self._mailbox.add(write_parcel(parcel), shown=self._shown)
        except MisuseError:
            return False
        self._news.set()
        return True

    def _sweep(self) -> None:
        for name in [name for name, stream in self._streams.items() if stream.over]:
            del self._streams[name]

    def _break_streams(self, reason: str) -> None:
        for stream in self._streams.values():
            stream.give_up(reason)
        self._streams.clear()

    # Mailboxes ---------------------------------------------------------------------------

    def _fresh_mailbox(self, side: str, number: int) -> Mailbox:
        mailbox = Mailbox(side, str(number))
        mailbox.add(_hello(self._role))
        return mailbox

    def _begin_anew(self, mailbox: Mailbox) -> None:
        """Close the present mailbox, and use `mailbox` from the next connection on."""
        old, self._mailbox = self._mailbox, mailbox
        self._break_streams("the meeting was begun anew")
        self._peer = ""
        self._peer_outside.clear()
        old.forget()
        old.close()
        self._news.set()
        if self._attempt is not None:
            delay = CLOSE_SECONDS if old.open else 0.0
            asyncio.get_running_loop().call_later(delay, self._attempt.cancel)


@contextlib.asynccontextmanager
async def _connect(url: str) -> AsyncIterator[ClientConnection]:
    """Connect to `url` itself: through no proxy, to no other place that it may name.

    In small segments (`streams.tune`), so that it works where large packets vanish.
    """
    from websockets.asyncio.client import connect  # noqa: PLC0415  60 ms to load

    class Direct(connect):
        def process_redirect(self, exc: Exception) -> Exception | str:
            return exc

    async with Direct(
        url,
        sock=await _socket_to(url),
        compression=None,
        proxy=None,
        user_agent_header=None,
        open_timeout=None,
        ping_interval=PING_SECONDS,
        ping_timeout=PING_SECONDS,
        close_timeout=CLOSE_SECONDS,
        max_size=MAX_RECEIVED,
        logger=_QUIET,
    ) as connection:
        yield connection


async def _socket_to(url: str) -> socket.socket:
    """Return a socket that is connected to one of the addresses of `url`, or raise OSError."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    port = parts.port or _PORTS[parts.scheme]
    found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    errors: dict[int | None, OSError] = {}
    for family, kind, protocol, _, name in found:
        try:
            return await _connected(socket.socket(family, kind, protocol), name)
        except OSError as error:
            errors[error.errno] = error
    if len(errors) == 1:
        raise errors.popitem()[1]
    raise OSError("none of its addresses works")


async def _connected(sock: socket.socket, name: tuple[Any, ...]) -> socket.socket:
    try:
        sock.setblocking(False)
        tune(sock)
        await asyncio.get_running_loop().sock_connect(sock, name)
    except BaseException:
        sock.close()
        raise
    return sock


_PORTS = {"ws": 80, "wss": 443}


def _keep(addresses: list[str], address: str) -> None:
    """Put `address`, where there is one, first among those that are known."""
    if address:
        addresses[:] = [address, *(one for one in addresses if one != address)][:MAX_SEEN]


def _hello(role: str) -> bytes:
    return write_parcel(Parcel(kind=HELLO, role=role))


# What it met, in words -----------------------------------------------------------------------


def _objection(event: Event, place: str) -> str:
    match event:
        case Crowded():
            return (
                f"At the meeting point {place}, two others use this number already: start both "
                "sides again with another code"
            )
        case Refused(words):
            return f"The meeting point {place} serves nobody: {words}"
        case Objection("reclaimed"):
            return ""  # it has not seen the other side go yet
        case Objection(words):
            return f"The meeting point {place} objects: {words}"
    return ""


def _describe(error: BaseException, place: str) -> str:
    """Return what ended a connection, in a few words; none where it is not worth telling."""
    from websockets.exceptions import (  # noqa: PLC0415  loaded by now
        ConnectionClosed,
        InvalidStatus,
    )

    if isinstance(error, _AgainError):
        return str(error)
    point = f"The meeting point {place}"
    number = getattr(error, "errno", None)
    status = getattr(getattr(error, "response", None), "status_code", 0)
    known: tuple[tuple[type[BaseException], str], ...] = (
        (
            ssl.SSLCertVerificationError,
            f"The certificate of the meeting point {place} is not to be trusted: "
            + getattr(error, "verify_message", ""),
        ),
        (ssl.SSLError, f"{point} does not speak TLS; perhaps its URL begins with ws://"),
        (socket.gaierror, f"{point} is not known by that name"),
        (TimeoutError, f"{point} does not answer"),
        (ConnectionRefusedError, f"{point} refuses the connection"),
        (
            OSError,
            f"{point} cannot be reached: "
            + (os.strerror(number).lower() if number else "none of its addresses works"),
        ),
        (ConnectionClosed, f"The connection to the meeting point {place} broke"),
        (
            InvalidStatus,
            f"What answers at {place} is no meeting point (HTTP status {status})",
        ),
    )
    for kind, words in known:
        if isinstance(error, kind):
            return words
    return f"What answers at {place} is no meeting point"


def _is_of_the_world(error: BaseException) -> bool:
    """Whether `error` comes of what the server or the network does, and not of a bug here."""
    from websockets.exceptions import WebSocketException  # noqa: PLC0415  loaded by now

    return isinstance(error, (OSError, EOFError, WebSocketException, ProtocolError, _AgainError))
