"""Contact by UDP, both sides from the same port to the same port.

The way through two firewalls that each deny all inbound (`knocking`), and one
that carries on where TCP starves (`flow`). `Puncher` owns the sockets; what it
hands over are streams like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import secrets
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

from bothends_protocol.addresses import normal
from bothends_protocol.errors import ProtocolError
from bothends_protocol.flow import Flow
from bothends_protocol.knocking import Knocker, Place
from bothends_protocol.pairing import SOURCE

from .datagrams import Datagrams
from .streams import PUNCHED
from .tasks import Tasks

__all__ = ["PunchedStream", "Puncher"]

HEAD_START_SECONDS = 0.03
"""Before the first knock: where TCP gets through it is the plainer way."""

OPENING_KNOCKS = 4
OPENING_HOPS = 2
"""The first knocks by IPv4, and how far they go: past this side's own NAT and no further. A knock
that comes to the other side's NAT before that side has sent one makes the router give the way
another port, where it does not drop what it does not expect (net/netfilter/nf_nat_core.c: the
reverse tuple is taken). On one segment and past one router they arrive like all others."""

_PAUSES = ((20, 0.1), (20, 0.25))
_LAST_PAUSE = 1.0
"""Knocks at first 0.1 s apart, then 0.25 s, then one a second: enough to keep the state that
firewalls (30 s) and NATs (RFC 4787, REQ-5: two minutes) hold for what went out."""

MAX_STREAMS = 32
"""Streams at one time with places that this side knocks at."""

MAX_UNASKED = 32
"""The same with all others: strangers among them must not keep those away."""

MAX_PLACES = 64
"""Places that are knocked at, at one time."""

MAX_ANSWERS = 200
"""Datagrams answered in a second that are not part of a stream: more than all ways of an honest
peer need, and too few to serve anybody as a source of packets."""

UNANSWERED = 8
"""So many knocks in a row without a word from the other side, and UDP is no way: of the ways that
there are 3 % look so at 40 % loss in each direction (0.64 to the eighth)."""

LINGER_SECONDS = 0.5
"""How long what was written last may take when a stream is closed."""

_UNSENT = 64 * 1024
"""Bytes written and not sent from which on `drain` waits."""

_STREAM_NAME = 8


class PunchedStream:
    """A stream over datagrams, as a `streams.Stream`."""

    way = PUNCHED

    def __init__(self, puncher: Puncher, place: Place, name: bytes) -> None:
        self.remote, self.remote_port = place.address, place.port
        self.local = place.own or _local_address(place)
        self.place = place
        self.name = name
        self._puncher = puncher
        self._loop = asyncio.get_running_loop()
        self._flow = Flow(self._loop.time())
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._due = False
        self._closed_at: float | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more goes out."""
        if self._flow.broken:
            return True
        return self._closed_at is not None and self._flow.settled and self._flow.ended

    def take(self, segment: bytes) -> None:
        """Take a segment that came for this stream."""
        with contextlib.suppress(ProtocolError):
            self._flow.receive(segment, self._loop.time())
        self._soon()

    @property
    def resent(self) -> int:
        """See `Stream`."""
        return self._flow.resent

    async def read(self, size: int) -> bytes:
        """See `Stream`."""
        while True:
            if self._flow.incoming:
                data = bytes(self._flow.incoming[:size])
                del self._flow.incoming[:size]
                return data
            if self._flow.ended:
                return b""
            await self._wait()

    def write(self, data: bytes) -> None:
        """See `Stream`."""
        self._flow.write(data)
        self._soon()

    async def drain(self) -> None:
        """See `Stream`."""
        while self._flow.waiting > _UNSENT:
            await self._wait()

    async def _wait(self) -> None:
        if self._flow.broken or self._closed_at is not None:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        self._changed.clear()
        await self._changed.wait()

    def end(self) -> None:
        """See `Stream`."""
        self._flow.end()
        self._soon()

    def close(self) -> None:
        """See `Stream`."""
        if self._closed_at is None:
            self._closed_at = self._loop.time()
            self.end()

    def abort(self) -> None:
        """See `Stream`."""
        self._closed_at = self._closed_at or self._loop.time()
        self._flow.abort()
        self._pump()

    def _soon(self) -> None:
        # What is written in answer to a segment carries its acknowledgement.
        if not self._due:
            self._due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._due = False
        now = self._loop.time()
        if self._closed_at is not None and now - self._closed_at >= LINGER_SECONDS:
            self._flow.abort()
        for segment in self._flow.outgoing(now):
            self._puncher.send_piece(self, segment)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        times = [self._flow.next_time()]
        if self._closed_at is not None and not self.finished:
            times.append(self._closed_at + LINGER_SECONDS)
        due = min((at for at in times if at is not None), default=None)
        if due is not None and not self._flow.broken:
            self._timer = self._loop.call_at(due, self._pump)
        self._changed.set()
        if self.finished:
            self._puncher.forget(self)


class Puncher:
    """Knocks, and the streams that come of it.

    `offered` takes each new stream, and whether this side began it.
    """

    def __init__(
        self, role: str, number: int, offered: Callable[[PunchedStream, bool], None]
    ) -> None:
        self.knocker = Knocker(role, number, secrets.token_bytes)
        self._role = role
        self._offered = offered
        self._sockets: dict[int, Datagrams] = {}
        self._streams: dict[tuple[Place, bytes], PunchedStream] = {}
        self._past: deque[bytes] = deque(maxlen=4 * MAX_STREAMS)
        self._knocked: dict[Place, None] = {}
        self._unanswered: Counter[Place] = Counter()
        """Knocks at each place since the other side was heard last."""
        self._tasks = Tasks()
        self._answers: Counter[bool] = Counter()
        self._second = 0.0
        self._gone = asyncio.Event()

    async def open(self, port: int) -> str | None:
        """Take UDP `port`; return why not, where it cannot be had."""
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104  as TCP does
            try:
                self._sockets[family] = await Datagrams.open(family, host, port, self.received)
            except OSError as error:
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT):
                    continue
                self._close_sockets()
                return os.strerror(error.errno or 0)
        return None

    def knock(
        self, address: str, port: int, *, delay: float = 0.0, times: int | None = None
    ) -> None:
        """Knock at this place, from `delay` seconds on until `rest` is called, or so many times."""
        place = Place(normal(address), port)
        if place in self._knocked or len(self._knocked) >= MAX_PLACES:
            return
        self._knocked[place] = None
        self._tasks.start(self._keep_knocking(place, delay, times))

    def letter(self, address: str, port: int) -> bytes:
        """Return a knock at this place, to be sent from anywhere: it is answered there."""
        return self.knocker.knock(Place(normal(address), port))

    def again(self) -> None:
        """Let each place show itself anew, so that new streams are begun."""
        for place in self.knocker.open:
            self.knocker.forget(place)

    def chose(self, place: Place) -> bool:
        """Whether `place` is one that this side knocks at."""
        return place._replace(own="") in self._knocked

    @property
    def hopeless(self) -> bool:
        """Whether at each place so many knocks stayed without an answer that none is to come."""
        counts = [self._unanswered[place] for place in self._knocked]
        return bool(counts) and min(counts) >= UNANSWERED

    def rest(self) -> None:
        """Stop knocking. Knocks are still answered: the other side may have to come again."""
        self._knocked.clear()
        self._tasks.cancel()

    async def close(self) -> None:
        """Close everything, what was written last goes out still; safe to call again."""
        self.rest()
        for stream in list(self._streams.values()):
            stream.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * LINGER_SECONDS):
                while self._streams:
                    self._gone.clear()
                    await self._gone.wait()
        self._close_sockets()
        await self._tasks.finish()

    def send_piece(self, stream: PunchedStream, segment: bytes) -> None:
        """Send a segment of `stream`."""
        self._send(self.knocker.piece(stream.place, stream.name, segment), stream.place)

    def forget(self, stream: PunchedStream) -> None:
        """`stream` is over."""
        if self._streams.pop((stream.place, stream.name), None) is not None:
            self._past.append(stream.name)
        self._gone.set()

    def received(self, data: bytes, name: tuple[Any, ...], own: str) -> None:
        """Take a datagram that came from the socket address `name` to the own address `own`."""
        place = _place(name, own)
        piece = self.knocker.take(data, place)
        if piece is not None:
            self._unanswered.clear()
            self._take_piece(place, piece.stream, piece.segment)
            return
        if not self._may_answer(chosen=self.chose(place)):
            return
        knock = self.knocker.receive(data, place)
        if knock.heard:
            self._unanswered.clear()
        if knock.answer is not None:
            self._send(knock.answer, place)
        if knock.opened and self._role == SOURCE:
            self._begin(place)

    def _take_piece(self, place: Place, name: bytes, segment: bytes) -> None:
        stream = self._streams.get((place, name))
        if stream is None:
            if self._role == SOURCE or name in self._past:
                return
            stream = self._add(place, name, began=False)
        if stream is not None:
            stream.take(segment)

    def _begin(self, place: Place) -> None:
        if self._add(place, secrets.token_bytes(_STREAM_NAME), began=True) is None:
            # It shows itself again by the next knock, when there may be room.
            self.knocker.forget(place)

    def _add(self, place: Place, name: bytes, *, began: bool) -> PunchedStream | None:
        chosen = self.chose(place)
        alike = sum(self.chose(at) == chosen for at, _ in self._streams)
        if alike >= (MAX_STREAMS if chosen else MAX_UNASKED):
            return None
        stream = self._streams[place, name] = PunchedStream(self, place, name)
        self._offered(stream, began)
        return stream

    async def _keep_knocking(self, place: Place, delay: float, times: int | None) -> None:
        await asyncio.sleep(delay + HEAD_START_SECONDS)
        for count, pause in enumerate(itertools.islice(_pauses(), times)):
            with self._few_hops(place, wanted=count < OPENING_KNOCKS):
                self._send(self.knocker.knock(place), place)
            self._unanswered[place] += 1
            await asyncio.sleep(pause)

    @contextlib.contextmanager
    def _few_hops(self, place: Place, *, wanted: bool) -> Iterator[None]:
        """Let what is sent in the block go `OPENING_HOPS` far only."""
        datagrams = self._sockets.get(socket.AF_INET)
        if not wanted or ":" in place.address or datagrams is None:
            yield
            return
        sock = datagrams.sock
        usual = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, OPENING_HOPS)
        try:
            yield
        finally:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, usual)

    def _may_answer(self, *, chosen: bool) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._second >= 1.0:
            self._second = now
            self._answers.clear()
        self._answers[chosen] += 1
        return self._answers[chosen] <= MAX_ANSWERS

    def _send(self, data: bytes, place: Place) -> None:
        family = socket.AF_INET6 if ":" in place.address else socket.AF_INET
        datagrams = self._sockets.get(family)
        if datagrams is not None:
            with contextlib.suppress(OSError):
                datagrams.send(data, _socket_address(place), place.own)

    def _close_sockets(self) -> None:
        for datagrams in self._sockets.values():
            datagrams.close()
        self._sockets.clear()


def _pauses() -> Iterator[float]:
    for count, pause in _PAUSES:
        for _ in range(count):
            yield pause
    while True:
        yield _LAST_PAUSE


def _place(name: tuple[Any, ...], own: str = "") -> Place:
    address = str(name[0])
    zone = int(name[3]) if len(name) > 3 else 0
    if zone and "%" not in address:
        with contextlib.suppress(OSError):
            address += f"%{socket.if_indextoname(zone)}"
    return Place(normal(address), int(name[1]), own)


def _socket_address(place: Place) -> tuple[Any, ...]:
    address, _, zone = place.address.partition("%")
    if ":" not in address:
        return address, place.port
    index = 0
    if zone:
        index = int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
    return address, place.port, 0, index


def _local_address(place: Place) -> str:
    """Return the address from which this computer sends to `place`; empty where unknown."""
    family = socket.AF_INET6 if ":" in place.address else socket.AF_INET
    with contextlib.suppress(OSError, ValueError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        # Connecting a UDP socket sends nothing.
        sock.connect(_socket_address(place))
        return _place(sock.getsockname()).address
    return ""
