"""Whether full packets pass between the two agents, and of which size they do.

Who dialled the contact dials the other's control port again, on fresh connections
beside the rounds (`SizeTest`); the other side answers who knows the session's key
(`SizeListener`). What is said on them, and when silence tells, stands in
`bothends_protocol.sizes`. On a healthy way four connections and three round trips
show that all is well; only where nothing of the usual size comes through are there
more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import math
import secrets
import socket
import statistics
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from bothends_protocol.addresses import normal
from bothends_protocol.errors import ProtocolError
from bothends_protocol.evidence import Sized
from bothends_protocol.sizes import (
    ANSWER_SIZE,
    ASK_SIZE,
    BRACKETS,
    CONTROL,
    FIRST,
    FROM,
    FURTHER,
    MAGIC,
    NATURAL,
    NONCE_SIZE,
    RECEIPT_SIZE,
    TO,
    WAYS,
    Answer,
    Ask,
    patience,
    read_answer,
    read_ask,
    receipt,
    swallowed,
    write_answer,
    write_ask,
)

from .connects import name_of, offer_segment_size
from .streams import TcpStream, share_port
from .tasks import Tasks

__all__ = ["MAX_SERVED", "SizeListener", "SizeTest"]

MAX_SERVED = 192
"""Connections that a listener serves at one time: as many as one test opens."""

MAX_NONCES = 4096
"""Asks that are remembered, so that none is answered twice: of dozens of tests in a row."""

SERVE_SECONDS = 20.0
"""How long a listener serves one connection; the dialler ends it long before."""

MAX_WAVES = 4
"""Waves of connections at most. The second is the last one where nothing is lost."""

BRACKET = 2
"""Connections of each size that only brackets the limit: one of two passing tells."""

HASTE_SECONDS = 0.15
"""Beside a few round trips, how long the first wave has before there is another. All is well on
nearly every way, and then there is none."""

LOOK_SECONDS = 0.15
"""Beside the time in which silence tells, how long a later wave has: a busy computer looks late."""

UNKNOWN_SECONDS = 1.0
"""The same, where the other agent answers and nothing has come through yet: by then what was lost
has been sent again."""

ROUNDING_SECONDS = 0.01
"""By which silence is longer than it must be: times are rounded where evidence is shortened."""

FINISH_SECONDS = 6.0
"""How long the end of a run waits for what is not decided yet, at most."""

_SEARCHES = Path("/proc/sys/net/ipv4/tcp_mtu_probing")
"""Linux: 1 or 2 where TCP finds the size that passes by itself, of both IP versions."""

_TELLS_ALL = sys.platform == "linux"
"""Whether the system says more of a connection than the size of its segments (TCP_INFO)."""

# struct tcp_info, linux/tcp.h: tcpi_options is its sixth byte.
_TCP_INFO = struct.Struct("=5xB2x2I2I20I")
_SENT_MSS, _RECEIVED_MSS, _TOTAL_RETRANS = 3, 4, 24
_TIMESTAMPS, _TIMESTAMPS_SIZE = 1, 12
_TCP_HEADER, _IP_HEADER = 20, {socket.AF_INET: 20, socket.AF_INET6: 40}
_AT_ONCE = struct.pack("=ii", 1, 0)
"""struct linger: drop the connection when it is closed."""


class _Segments(msgspec.Struct, frozen=True):
    """What the system says of a connection's segments; sizes are bytes of payload."""

    sent: int
    received: int
    around: int
    """Bytes of headers and options around the payload."""
    again: int


def _segments(sock: socket.socket) -> _Segments:
    """Raise OSError where the system does not tell the size of segments."""
    around = _TCP_HEADER + _IP_HEADER[socket.AddressFamily(sock.family)]
    if _TELLS_ALL:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        values = _TCP_INFO.unpack(raw)
        stamps = _TIMESTAMPS_SIZE if values[0] & _TIMESTAMPS else 0
        return _Segments(
            values[_SENT_MSS], values[_RECEIVED_MSS], around + stamps, values[_TOTAL_RETRANS]
        )
    size = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    return _Segments(size, size, around, 0)


def _searches() -> bool:
    try:
        return _SEARCHES.read_text(encoding="ascii").strip() in {"1", "2"}
    except OSError:
        return False


class SizeListener:
    """Answers asks at the control port; `key` is the session's key for them."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._used: dict[bytes, None] = {}
        self._serving: set[TcpStream] = set()

    async def hear(self, stream: TcpStream) -> Ask | None:
        """Return what is asked; None where the first bytes are those of something else.

        Raises `ProtocolError` for an ask that is not the other agent's or was there before, and
        OSError where the connection broke.
        """
        if not await stream.begins_with(MAGIC):
            return None
        ask = read_ask(self._key, await _exactly(stream, ASK_SIZE))
        if ask.nonce in self._used:
            raise ProtocolError("an ask that was there before")
        self._used[ask.nonce] = None
        if len(self._used) > MAX_NONCES:
            self._used.pop(next(iter(self._used)))
        return ask

    async def serve(self, stream: TcpStream, ask: Ask) -> None:
        """Do what `ask` wants, and close."""
        try:
            if len(self._serving) < MAX_SERVED:
                self._serving.add(stream)
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(SERVE_SECONDS):
                        await self._serve(stream, ask)
        finally:
            self._serving.discard(stream)
            await stream.drop()

    async def _serve(self, stream: TcpStream, ask: Ask) -> None:
        if ask.way == TO:
            stream.write(write_answer(self._key, ask.nonce, Answer(searches=_searches())))
            await _pass_over(stream, ask.length)
            stream.write(receipt(self._key, ask.nonce))
        else:
            size = _segments(stream.sock)
            answer = Answer(size.sent, size.sent + size.around, _searches())
            stream.write(write_answer(self._key, ask.nonce, answer))
            stream.write(secrets.token_bytes(size.sent))
        # Who dialled closes first, so that nothing here is left in TIME_WAIT.
        while await stream.read(RECEIPT_SIZE):
            pass

    def close(self) -> None:
        """End what is being served; safe to call again."""
        for stream in self._serving:
            stream.abort()


async def _exactly(stream: TcpStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.read(size - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


async def _pass_over(stream: TcpStream, size: int) -> None:
    while size:
        piece = await stream.read(size)
        if not piece:
            raise ConnectionResetError
        size -= len(piece)


class _Trial(msgspec.Struct):
    """One connection."""

    way: str
    asked: int
    packet: int = 0
    searches: bool = False
    began: float | None = None
    """When its segment was sent, or asked for; None before the other agent has answered."""
    took: float | None = None
    """Seconds until it was there; None while it is not."""
    ended: float | None = None
    """When it was given up."""
    broke: bool = False
    """Whether the connection ended by itself: that is no silence."""
    again: int = 0
    fitted: int = 0

    def silent_for(self, now: float) -> float | None:
        """How long nothing came of its segment; None where that is not so."""
        if self.began is None or self.took is not None or self.broke:
            return None
        return (now if self.ended is None else self.ended) - self.began


class SizeTest:
    """Tests the way to one place of the other agent, in both directions.

    `key` is the session's key for it, `seconds` how long it may take at the very most, `answers`
    whether the other agent is known to take connections there.
    """

    def __init__(
        self, key: bytes, address: str, port: int, seconds: float, *, answers: bool = False
    ) -> None:
        self._key = key
        self._address = address
        self._kind, self._name = name_of(address, port)
        self._local = ""
        self._trials: list[_Trial] = []
        self._searches = _searches()
        self._tasks = Tasks()
        self._changed = asyncio.Event()
        self._done = asyncio.Event()
        self._answers = answers
        self._heard = asyncio.Event()
        """The other agent has answered, or no more is waited for that."""
        self._hope = self._now() + min(UNKNOWN_SECONDS, seconds)
        self._last = self._now() + seconds

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def start(self) -> None:
        """Begin."""
        self._tasks.start(self._measure())

    async def finish(self) -> tuple[Sized, ...]:
        """Return what was found, waiting for what is not decided yet where there is hope."""
        if self._answers:
            # All else may be done before a busy computer has come to the first answer.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._hope):
                    await self._heard.wait()
        if any(trial.began is not None for trial in self._trials):
            left = min(FINISH_SECONDS, self._last - self._now())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(left, 0.0)):
                    await self._done.wait()
        await self.close()
        return self._rows(self._now())

    def hurry(self) -> None:
        """Time is up: `finish` is to wait no longer."""
        self._heard.set()
        self._done.set()

    async def close(self) -> None:
        """Close every connection; safe to call again."""
        await self._tasks.finish()

    # Waves -------------------------------------------------------------------------------

    async def _measure(self) -> None:
        try:
            for wave in range(MAX_WAVES):
                self._begin_wave(wave)
                if await self._decided_until(self._now(), hasty=wave == 0):
                    break
        finally:
            self._tasks.cancel()
            self._heard.set()
            self._done.set()

    def _begin_wave(self, wave: int) -> None:
        """Start connections for all ways that are not decided, sizes in turn."""
        rows = self._rows(self._now())
        ways = [way for way in WAYS if not _decided(rows, way)]
        for _ in range(FURTHER if wave else FIRST):
            for way in ways:
                self._try(_Trial(way, NATURAL))
                self._try(_Trial(way, CONTROL))
        for way, asked in self._to_bracket(ways if wave else ()):
            for _ in range(BRACKET):
                self._try(_Trial(way, asked))

    def _to_bracket(self, ways: Iterable[str]) -> Iterator[tuple[str, int]]:
        """Yield the sizes below the natural one that were not tried yet, once that is known."""
        headers = _TCP_HEADER + _IP_HEADER[socket.AddressFamily(self._kind)]
        for way in ways:
            natural = min((t.packet for t in self._of(way, NATURAL) if t.packet), default=0)
            for asked in (packet - headers for packet in BRACKETS if packet < natural):
                if not self._of(way, asked):
                    yield way, asked

    async def _decided_until(self, began: float, *, hasty: bool) -> bool:
        """Wait for what comes; return whether all is decided before it is time for more."""
        while True:
            now = self._now()
            rows = self._rows(now)
            if all(_decided(rows, way) for way in WAYS):
                return True
            due = began + self._wait(hasty=hasty)
            if now >= due:
                return False
            self._changed.clear()
            due = min(due, self._next_silent(now))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due == math.inf else due - now):
                    await self._changed.wait()

    def _wait(self, *, hasty: bool) -> float:
        """How long a wave has until there is another."""
        if all(trial.began is None for trial in self._trials):
            return math.inf  # perhaps nobody is to be reached there: no more is sent
        usual = max((self._usual(way) for way in WAYS if self._usual(way) < math.inf), default=None)
        if usual is None:
            return UNKNOWN_SECONDS
        return HASTE_SECONDS + 4 * usual if hasty else patience(usual) + 4 * usual + LOOK_SECONDS

    def _next_silent(self, now: float) -> float:
        """When the next segment has been silent for long enough to count."""
        times = (
            trial.began + self._patience(trial.way, trial.asked) + 1e-6
            for trial in self._trials
            if trial.began is not None and trial.took is None and trial.ended is None
        )
        return min((at for at in times if at > now), default=math.inf)

    def _of(self, way: str, asked: int) -> list[_Trial]:
        return [t for t in self._trials if (t.way, t.asked) == (way, asked)]

    def _usual(self, way: str) -> float:
        """How long a segment of the control usually takes; infinity before one came through."""
        times = [t.took for t in self._of(way, CONTROL) if t.took is not None]
        return statistics.median(times) if times else math.inf

    def _patience(self, way: str, asked: int = NATURAL) -> float:
        """How long silence must last to count; of what only brackets the limit, half as long."""
        enough = patience(self._usual(way)) + ROUNDING_SECONDS
        return enough if asked in (NATURAL, CONTROL) else enough / 2

    # What was found ----------------------------------------------------------------------

    def _rows(self, now: float) -> tuple[Sized, ...]:
        kinds = dict.fromkeys((t.way, t.asked) for t in self._trials)
        return tuple(filter(None, (self._row(way, asked, now) for way, asked in kinds)))

    def _row(self, way: str, asked: int, now: float) -> Sized | None:
        trials = self._of(way, asked)
        passed = [t for t in trials if t.took is not None]
        enough = self._patience(way, asked)
        silent = [t for t in trials if (t.silent_for(now) or 0.0) >= enough]
        if not passed and not silent:
            return None
        times = [t.took for t in passed if t.took is not None]
        return Sized(
            address=self._address,
            local=self._local,
            way=way,
            asked=asked,
            packet=min(t.packet for t in silent or passed),
            begun=len(passed) + len(silent),
            passed=len(passed),
            seconds=round(statistics.median(times), 6) if times else 0.0,
            watched=round(min((t.silent_for(now) or 0.0 for t in silent), default=0.0), 6),
            again=sum(t.again for t in silent),
            fitted=min((t.fitted for t in passed if t.fitted), default=0),
            searches=any(t.searches for t in trials),
        )

    # One connection ----------------------------------------------------------------------

    def _try(self, trial: _Trial) -> None:
        self._trials.append(trial)
        self._tasks.start(self._connection(trial))

    async def _connection(self, trial: _Trial) -> None:
        try:
            with socket.socket(self._kind, socket.SOCK_STREAM) as sock:
                await self._connect(sock, trial)
        except (OSError, ProtocolError):
            trial.broke = True
        finally:
            self._changed.set()
            if all(t.broke for t in self._trials):
                self._heard.set()

    async def _connect(self, sock: socket.socket, trial: _Trial) -> None:
        try:
            share_port(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if trial.asked and not offer_segment_size(sock, trial.asked):
                return
            await asyncio.get_running_loop().sock_connect(sock, self._name)
            self._local = normal(str(sock.getsockname()[0]))
            await self._exchange(sock, trial)
        finally:
            trial.ended = self._now()
            with contextlib.suppress(OSError):
                self._look(sock, trial)

    async def _exchange(self, sock: socket.socket, trial: _Trial) -> None:
        loop, asked_at = asyncio.get_running_loop(), self._now()
        ask = self._ask(sock, trial)
        await loop.sock_sendall(sock, write_ask(self._key, ask))
        answer = read_answer(self._key, ask, await _receive(sock, ANSWER_SIZE))
        if trial.way == TO:
            trial.packet, trial.searches = ask.packet, ask.searches
            began = self._now()
            self._begin(trial, began)
            await loop.sock_sendall(sock, secrets.token_bytes(ask.length))
            heard = await _receive(sock, RECEIPT_SIZE)
            if not hmac.compare_digest(heard, receipt(self._key, ask.nonce)):
                raise ProtocolError("a receipt of somebody else")
        else:
            trial.packet, trial.searches = answer.packet, answer.searches
            began = asked_at
            self._begin(trial, began)
            await _receive(sock, answer.length)
        trial.took = self._now() - began

    def _begin(self, trial: _Trial, at: float) -> None:
        trial.began = at
        self._heard.set()
        self._changed.set()

    def _ask(self, sock: socket.socket, trial: _Trial) -> Ask:
        nonce = secrets.token_bytes(NONCE_SIZE)
        if trial.way == FROM:
            return Ask(FROM, nonce)
        size = _segments(sock)
        return Ask(TO, nonce, size.sent, size.sent + size.around, self._searches)

    @staticmethod
    def _look(sock: socket.socket, trial: _Trial) -> None:
        """Note what the system knows of the segment, before the connection is closed."""
        if trial.took is None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        size = _segments(sock)
        if trial.way == TO:
            trial.again = size.again
        used = (size.sent if trial.way == TO else size.received) + size.around
        if trial.took is not None and used < trial.packet:
            trial.fitted = used


async def _receive(sock: socket.socket, size: int) -> bytes:
    """Return exactly `size` bytes; raise OSError where there are fewer."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


def _decided(rows: Iterable[Sized], way: str) -> bool:
    """Whether it is known of this way that full packets pass, or that they do not."""
    mine = {row.asked: row for row in rows if row.way == way}
    natural, control = mine.get(NATURAL), mine.get(CONTROL)
    if natural is None:
        return False
    return bool(natural.passed) or (control is not None and swallowed(natural, control))
