"""Which hops a request passes: connection requests, or datagrams, whose time to live runs out.

Each router at which it does says so by ICMP (RFC 792; RFC 4443, 3.3), if it says anything. The
requests go to the very port that is tested, since filters and NATs decide by port, and beside them
to another one, by which a hop that is silent for one port alone can be told from one that never
says anything. All hops of a block are asked at once, so a trace takes a few round trips.

Linux routers answer six ICMP errors per peer at once, then one a second (net/ipv4/icmp.c,
icmp_ratelimit; measured), which `TRIES` and the one control request keep within.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import secrets
import socket
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from bothends_protocol.addresses import bare, family
from bothends_protocol.evidence import HopProbe, Icmp, Probe
from bothends_protocol.tags import TRACE_TAG
from bothends_protocol.ways import ENDED, UNSENT, asked_least

from .connects import (
    ask_for_errors,
    icmp_error,
    limit_hops,
    name_of,
    offer_segment_size,
    outcome_of,
)
from .datagrams_sent import hear, send, socket_to

__all__ = ["MAX_HOPS", "SLACK_SECONDS", "ByHand", "Lane", "Tracer", "farthest", "has_expired"]

BLOCK = 4
"""Hops asked at once: from a home that is the way out of it and a little beyond."""

MAX_HOPS = 24
"""Where a trace ends at the latest; few ways in the Internet are longer."""

TRIES = 2
"""Requests to the tested port for each hop, so that one lost packet is no silent hop."""

AGAIN = 3
"""More of them for the hop at which the way falls silent: what is said of a router by its silence
needs more than two requests. With those before, six in all."""

AFTER = 2
"""Requests to the control port behind these, so that one lost packet leaves nothing open. A hop
spends no word on what it does not get."""

PATIENCE_SECONDS = 0.6
"""For the first answer, by a way whose length nobody has measured: a satellite's round trip."""

SLACK_SECONDS = 0.06
"""Beside three times the longest round trip seen: the scheduling of a busy host."""

SENT_AGAIN_SECONDS = 0.95
"""From here on a wait is no round trip: the system has sent the request again, and nobody knows
which of the two was answered (RFC 6298, 2.1 and 3). A way that is as long is known by the
contact."""

_EXPIRED = {4: (11, 0), 6: (3, 0)}
"""Time exceeded on the way, by IP version: ICMP (RFC 792) and ICMPv6 (RFC 4443, 3.3)."""

_IP_MINTTL = 21
"""linux/in.h"""


def has_expired(icmp: Icmp | None, address: str) -> bool:
    """Return whether `icmp` says that the time of a request to `address` ran out on the way."""
    return icmp is not None and (icmp.kind, icmp.code) == _EXPIRED.get(family(bare(address)))


def farthest(probes: Iterable[HopProbe]) -> float:
    """Return the longest round trip to any hop, in seconds; 0 where none answered."""
    return _longest(p.seconds for p in probes if p.outcome == "expired")


def _longest(trips: Iterable[float]) -> float:
    return max((trip for trip in trips if trip < SENT_AGAIN_SECONDS), default=0.0)


class Lane(msgspec.Struct, frozen=True):
    """Requests that filters treat alike: by the port they go to, or by the one they come from."""

    port: int
    """0: another one for each, as the ports that a system gives its own connections."""
    local_port: int = 0
    """0: as the system gives it."""
    local: str = ""
    """The own address that has this port."""
    letter: bytes | None = None
    """What a datagram holds; None: connection requests."""

    @property
    def transport(self) -> str:
        """`tcp` or `udp`."""
        return "tcp" if self.letter is None else "udp"

    def to(self) -> int:
        """The port that the next request goes to."""
        first, last = _PASSING_PORTS
        return self.port or first + secrets.randbelow(last - first + 1)


_TRACES = itertools.count(1)

_PASSING_PORTS = (32_768, 60_999)
"""Those that Linux gives its own connections (net.ipv4.ip_local_port_range)."""


class ByHand(Protocol):
    """Sends requests from a port that somebody else holds, and knows what came of them."""

    def send(self, address: str, port: int, local: str, local_port: int, hops: int) -> None:
        """Send one. Raises OSError, EPERM without the right to."""

    def heard(self, port: int, local_port: int) -> tuple[str, Icmp | None, float] | None:
        """What came of it and when, on the clock of the run; None where nothing did."""


class _Request(msgspec.Struct):
    """One request under way."""

    address: str
    port: int
    hops: int
    started: float
    lane: Lane
    by_hand: bool = False
    sock: socket.socket | None = None
    ended: float | None = None
    outcome: str = "silent"
    icmp: Icmp | None = None
    least: int = 0
    """The smallest time to live with which an answer is taken."""


def _falls_silent(done: Iterable[HopProbe], mine: Iterable[HopProbe]) -> int:
    """Return the hop at which requests fall silent, `mine` of all that were `done`.

    That is the first one behind the last that said something which others get to; where they get
    no further, the one behind it.
    """
    last = max((p.hops for p in mine if p.outcome == "expired"), default=0)
    further = (p.hops for p in done if p.hops > last and p.outcome in ("expired", *ENDED))
    return min(further, default=last + 1)


class Tracer:
    """Traces ways for one side. `clock` returns the seconds of the run."""

    def __init__(self, clock: Callable[[], float], by_hand: ByHand | None = None) -> None:
        """`by_hand` is for requests from ports that somebody else holds."""
        self._clock = clock
        self._by_hand = by_hand
        self._requests: list[_Request] = []
        self._trace = 0
        self._changed = asyncio.Event()

    async def trace(
        self,
        number: int,
        address: str,
        port: int,
        *,
        control: int | None = None,
        patience: float = PATIENCE_SECONDS,
        most: int = MAX_HOPS,
        trip: float = 0.0,
    ) -> list[HopProbe]:
        """Return what came of the requests to `port` and to the `control` port of `address`.

        `trip` is a round trip that is known to be as long as this way: routers nearby may answer
        in no time, and those behind a mobile network later. `number` is the round to which they
        belong, `most` the last hop. Ends where requests to
        either port get to an end, or where a whole block of hops says nothing to those to `port`.
        """
        other = None if control is None else Lane(control)
        lane = Lane(port)
        return await self.follow(
            number, address, lane, other, patience=patience, most=most, trip=trip
        )

    async def follow(
        self,
        number: int,
        address: str,
        lane: Lane,
        other: Lane | None,
        *,
        patience: float = PATIENCE_SECONDS,
        most: int = MAX_HOPS,
        trip: float = 0.0,
    ) -> list[HopProbe]:
        """Return what came of requests in `lane`, and in the `other` one; see `trace`."""
        self._trace = next(_TRACES)
        done: list[HopProbe] = []
        mine: list[HopProbe] = []
        try:
            for first in range(1, most + 1, BLOCK):
                last = min(first + BLOCK - 1, most)
                block = self._send(address, lane, other, range(first, last + 1))
                known = max(trip, farthest(done))
                await self._wait(block, patience if not done else 0.0, known)
                said = [self._record(number, item) for item in block]
                done += said
                here = [p for p, item in zip(said, block, strict=True) if item.lane is lane]
                mine += here
                if all(p.outcome in UNSENT for p in here):
                    return []  # nothing can be sent in it, so that nothing is asked
                if any(p.outcome in ENDED for p in here):
                    done += await self._who_refuses(number, address, lane, here)
                    break
                # Where another port gets to the end of the way, nothing is beyond it.
                ended = any(p.outcome in ENDED for p in said)
                if ended or all(p.outcome == "silent" for p in here):
                    hop = _falls_silent(done, mine)
                    longest = max(known, farthest(done))
                    done += await self._ask_again(
                        number, address, lane, other, hop=hop, known=longest
                    )
                    break
        finally:
            self.close()
        return done

    async def ask(
        self, number: int, address: str, lane: Lane, hop: int, seconds: float
    ) -> HopProbe:
        """Return what came within `seconds` of one more request that is to end at `hop`."""
        try:
            item = self._start(address, lane, hop)
            self._requests.append(item)
            await self._wait([item], seconds, 0.0)
            return self._record(number, item)
        finally:
            self.close()

    async def _ask_again(
        self,
        number: int,
        address: str,
        lane: Lane,
        other: Lane | None,
        *,
        hop: int,
        known: float,
    ) -> list[HopProbe]:
        """Ask `hop`, at which the way falls silent, once more.

        In the other lane it is asked after that: a hop that has used up its words says nothing to
        anybody.
        """
        block = [self._start(address, lane, hop) for _ in range(AGAIN)]
        if other is not None:
            block += [self._start(address, other, hop) for _ in range(AFTER)]
        self._requests += block
        await self._wait(block, 0.0, known)
        return [self._record(number, item) for item in block]

    async def _who_refuses(
        self, number: int, address: str, lane: Lane, asked: list[HopProbe]
    ) -> list[HopProbe]:
        """Ask how far the refusals came, where TCP refuses: from the end, or from before it.

        By the smallest time to live with which the kernel is to take an answer (IP_MINTTL, ip(7)):
        no privilege shows an ordinary user the time to live of a reset.
        """
        end = min((p.hops for p in asked if p.outcome in ENDED), default=0)
        ends = {p.outcome for p in asked if p.hops == end}
        by_icmp = any(p.icmp is not None for p in asked if p.hops == end)
        other = lane.local_port or lane.letter is not None
        if ends != {"refused"} or by_icmp or family(bare(address)) != 4 or other:
            return []
        block = [self._start(address, lane, 0, least=least) for least in asked_least(end)]
        self._requests += block
        await self._wait(block, 0.0, _longest(p.seconds for p in asked))
        return [self._record(number, item) for item in block]

    def close(self) -> None:
        """Close what is still open; safe to call again."""
        for item in self._requests:
            self._close(item)
        self._requests.clear()

    def _send(
        self, address: str, lane: Lane, other: Lane | None, hops: Iterable[int]
    ) -> list[_Request]:
        lanes = [lane] * TRIES + ([other] if other is not None else [])
        block = [self._start(address, one, hop) for hop in hops for one in lanes]
        self._requests += block
        return block

    def _start(self, address: str, lane: Lane, hops: int, *, least: int = 0) -> _Request:
        item = _Request(address, lane.to(), hops, self._clock(), lane, least=least)
        try:
            if lane.letter is not None:
                self._send_datagram(item, lane.letter)
                return item
            kind, name = name_of(address, item.port)
            item.sock = socket.socket(kind, socket.SOCK_STREAM)
            item.sock.setblocking(False)
            ask_for_errors(item.sock)
            if hops:
                limit_hops(item.sock, hops)
            if least:
                item.sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, least)
            offer_segment_size(item.sock, TRACE_TAG)
            if lane.local_port and not self._bind(item):
                return item
            result = item.sock.connect_ex(name)
        except OSError as error:
            self._end(item, error.errno or errno.EIO, at_once=True)
            return item
        if result in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            asyncio.get_running_loop().add_writer(item.sock.fileno(), self._on_writable, item)
        else:
            self._end(item, result, at_once=True)
        return item

    def _send_datagram(self, item: _Request, data: bytes) -> None:
        """Raises OSError where it could not be sent."""
        place = Probe(transport="udp", address=item.address, port=item.port)
        item.sock = socket_to(place)
        if item.hops:
            limit_hops(item.sock, item.hops)
        number = send(item.sock, data)
        if number:
            raise OSError(number, "not sent")
        asyncio.get_running_loop().add_reader(item.sock.fileno(), self._on_readable, item)

    def _on_readable(self, item: _Request) -> None:
        if item.sock is None:
            return
        heard = hear(item.sock, b"", b"")
        if heard.spoke == "nothing" and not heard.error and heard.icmp is None:
            return
        item.icmp = heard.icmp
        self._end(item, 0 if heard.spoke != "nothing" else heard.error, at_once=False)
        if heard.spoke == "nothing" and has_expired(item.icmp, item.address):
            item.outcome = "expired"

    def _bind(self, item: _Request) -> bool:
        """Bind the socket to the lane's own port; where somebody has it, send by hand instead."""
        if item.sock is None:
            return False
        local_port = item.lane.local_port
        try:
            item.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            item.sock.bind((item.lane.local, local_port))
        except OSError:
            if self._by_hand is None:
                raise
            self._by_hand.send(item.address, item.port, item.lane.local, local_port, item.hops)
            item.by_hand = True
            self._close(item)
            return False
        return True

    def _on_writable(self, item: _Request) -> None:
        if item.sock is None:
            return
        # In this order: see `prober`.
        number = item.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        item.icmp = icmp_error(item.sock)
        self._end(item, number, at_once=False)
        if has_expired(item.icmp, item.address):
            item.outcome = "expired"

    def _end(self, item: _Request, number: int, *, at_once: bool) -> None:
        item.outcome = "connected" if number == 0 else outcome_of(number, at_once=at_once)
        item.ended = self._clock()
        self._close(item)
        self._changed.set()

    async def _wait(self, block: list[_Request], patience: float, known: float) -> None:
        """Wait until every request has ended, or long enough after the longest round trip.

        Of those that were sent by hand nobody says when they have.
        """
        began = self._clock()
        while any(item.ended is None for item in block):
            ended = (item.ended - item.started for item in block if item.ended is not None)
            longest = max(known, _longest(ended))
            allowed = 3 * longest + SLACK_SECONDS if longest else max(patience, SLACK_SECONDS)
            left = began + allowed - self._clock()
            if left <= 0:
                return
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    def _close(self, item: _Request) -> None:
        if item.sock is not None:
            asyncio.get_running_loop().remove_reader(item.sock.fileno())
            asyncio.get_running_loop().remove_writer(item.sock.fileno())
            item.sock.close()
            item.sock = None

    def _record(self, number: int, item: _Request) -> HopProbe:
        self._close(item)
        if item.by_hand and self._by_hand is not None:
            found = self._by_hand.heard(item.port, item.lane.local_port)
            if found is not None:
                item.outcome, item.icmp, item.ended = found
                if has_expired(item.icmp, item.address):
                    item.outcome = "expired"
        return HopProbe(
            round=number,
            transport=item.lane.transport,
            address=item.address,
            port=item.port,
            hops=item.hops,
            outcome=item.outcome,
            icmp=item.icmp,
            seconds=0.0 if item.ended is None else round(item.ended - item.started, 6),
            least=item.least,
            local_port=item.lane.local_port,
            trace=self._trace,
        )
