"""Asks a STUN server as what this host is seen, and how the NAT in front of it behaves.

First the mapping, from one socket (RFC 5780, 4.3): does the server's second address
see the same as its first? Then the filter (4.4), each question from two fresh sockets,
side by side. A NAT has let nothing in there yet:

- The **closed** one asks the server to answer from where nothing was sent to. What
  comes was let in.
- The **open** one has sent there before, and asks the same. What comes shows that the
  server does as it is asked, and that its answer finds the way.

Only where the open one was answered does the silence on the closed one show a filter,
and only after so many repeats, with a plain question beside each, that loss cannot be
it. Whatever else is missing is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import secrets
import socket
from collections.abc import Collection
from typing import Any

import msgspec

from bothends_protocol.addresses import bare, family
from bothends_protocol.errors import ProtocolError
from bothends_protocol.evidence import NatBehaviour, SeenAs
from bothends_protocol.stun import (
    ERROR,
    SUCCESS,
    TRANSACTION_SIZE,
    StunMessage,
    TransportAddress,
    binding_request,
    read_stun,
)
from bothends_protocol.traversal import (
    ADDRESS_AND_PORT_DEPENDENT,
    ADDRESS_DEPENDENT,
    ENDPOINT_INDEPENDENT,
    NONE,
    UNKNOWN,
)

from .datagrams import Datagrams
from .interfaces import interface_addresses
from .witness.netlink import NetlinkError

__all__ = ["Heard", "ask"]

FIRST_WAIT = 0.2
"""Seconds until a first request is repeated, before a round trip was measured. RFC 8489 (6.2.1)
has 0.5, for hosts that ask all the time; we ask once, and somebody waits."""

MEASUREMENTS = 5
"""Questions by which the round trip is measured, where those before had to be repeated."""

ROUND_TRIPS = 2.0
"""Measured round trips until a request is repeated: longer than most answers take."""

LEAST_WAIT, LONGEST_WAIT = 0.025, 0.5
"""Bounds of that in seconds: a busy server on the next desk, and the standard's own start."""

GROWTH = (1, 2, 2, 2, 2, 2, 4)
"""How long is waited after each sending, in units of the first: seven sendings as in RFC 8489,
and then longer for the last answer. Waits do not double on, since a filter is told by silence:
the standard's would take 79 units."""

MAX_REPEATS = 20
"""Requests of which the silence is to be told from loss: enough where a third of them is lost."""

LOSS_CHANCE = 1e-4
"""Chance of just these requests being the lost ones, below which their silence is no loss.

With 10 %, 28 % and 44 % of the questions lost a filter is told in 99, 96 and 60 of 100 cases at
least, and loss passes for one less often than this (`test_silence_is_told_from_loss`)."""


class Heard(msgspec.Struct, frozen=True):
    """What a server said; nothing where it did not answer."""

    seen: tuple[SeenAs, ...] = ()
    """The server's first address has the first word; its second has another one where it sees
    something else."""
    behaviour: NatBehaviour | None = None


async def ask(address: str, port: int, *, source_port: int = 0, seconds: float) -> Heard:
    """Ask the STUN server at `address` (no name) and `port` by UDP, within `seconds`.

    What is asked first, and what the mapping is told by, leaves from `source_port` (0: any free
    one). Some 45 datagrams of at most 36 bytes are sent where the server has a second address,
    190 at the very most; of them 21 at most to that address, and only if it is of the same kind
    as the first.
    When the time is over, what is known by then is returned.

    Raises `OSError` where `source_port` cannot be had, or the system has no such sockets.
    """
    with contextlib.ExitStack() as closing:
        asking = _Asking(TransportAddress(address, port), closing)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asking.run(source_port)
        return asking.heard()


class _Answer(msgspec.Struct, frozen=True):
    message: StunMessage
    origin: TransportAddress
    own: str
    """The address that it came to; empty where the system does not tell."""

    @property
    def mapped(self) -> TransportAddress:
        assert self.message.mapped is not None  # noqa: S101  only those that have one are kept
        return self.message.mapped


class _Line:
    """One socket, new to every NAT, and the answers that are waited for on it."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, _Waiting] = {}
        self._datagrams: Datagrams | None = None

    async def open(self, version: int, port: int) -> None:
        kind, host = (socket.AF_INET6, "::") if version == 6 else (socket.AF_INET, "0.0.0.0")  # noqa: S104  answers come to any
        self._datagrams = await Datagrams.open(kind, host, port, self._received)

    def close(self) -> None:
        if self._datagrams is not None:
            self._datagrams.close()

    @property
    def port(self) -> int:
        assert self._datagrams is not None  # noqa: S101  opened before it is used
        return int(self._datagrams.sock.getsockname()[1])

    async def ask(
        self,
        to: TransportAddress,
        wait: float,
        *,
        request: _Request | None = None,
        origins: Collection[TransportAddress] = (),
    ) -> _Answer | None:
        """Ask until there is an answer, with `GROWTH`; None where there is none.

        Only answers from `origins` count, by default from where the question went.
        """
        asked = self.expect(request or _PLAIN, origins or (to,))
        for growth in GROWTH:
            self.send(asked, to)
            if await asked.answered(growth * wait):
                break
        return asked.answer

    def expect(self, request: _Request, origins: Collection[TransportAddress]) -> _Waiting:
        waiting = _Waiting(request, origins)
        self._waiting[waiting.transaction] = waiting
        return waiting

    def send(self, waiting: _Waiting, to: TransportAddress) -> None:
        if self._datagrams is not None:
            self._datagrams.send(waiting.datagram, to, "")

    def _received(self, data: bytes, name: tuple[Any, ...], own: str) -> None:
        origin = TransportAddress(_zoned(name), name[1])
        with contextlib.suppress(ProtocolError):
            message = read_stun(data)
            waiting = self._waiting.get(message.transaction)
            if waiting is not None and message.kind in (SUCCESS, ERROR):
                waiting.take(_Answer(message, origin, own))


class _Request(msgspec.Struct, frozen=True):
    change_address: bool = False
    change_port: bool = False
    response_port: int = 0


_PLAIN = _Request()


class _Waiting:
    """A transaction, as it is sent each time, and the answer once it is there."""

    def __init__(self, request: _Request, origins: Collection[TransportAddress]) -> None:
        self.transaction = secrets.token_bytes(TRANSACTION_SIZE)
        self.datagram = binding_request(
            self.transaction,
            change_address=request.change_address,
            change_port=request.change_port,
            response_port=request.response_port,
        )
        self.answer: _Answer | None = None
        self._origins = frozenset(origins)
        self._ended = asyncio.Event()

    def take(self, answer: _Answer) -> None:
        """Take the first answer that comes from where it may; an error ends the waiting."""
        if answer.origin not in self._origins or self._ended.is_set():
            return
        self._ended.set()
        if answer.message.answers:
            self.answer = answer

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def answered(self, seconds: float) -> bool:
        """Wait; return whether it has ended, be it by an error."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return self._ended.is_set()


class _Asking:
    """All that is asked of one server, and what is known so far."""

    def __init__(self, server: TransportAddress, closing: contextlib.ExitStack) -> None:
        self._server = TransportAddress(_usual(server.address), server.port)
        self._closing = closing
        self._wait = LONGEST_WAIT
        self._port = 0
        self._answers: list[_Answer] = []
        """To what was asked from the first socket; the first address's before all others."""
        self._mapping = self._filtering = UNKNOWN
        self._detail = ""

    async def run(self, source_port: int) -> None:
        line = await self._line(source_port)
        self._port = line.port
        first = await self._first(line)
        if first is None:
            return
        self._answers.append(first)
        local = _is_own(first, self._port)
        if local:
            self._mapping = NONE
        other = first.message.other
        if other is None:
            self._detail = "The server names no second address."
        elif not _may_be_asked(self._server, other):
            self._detail = "The server's second address is no other one, or of another kind."
        else:
            self._detail = "The time was over before all was asked."
            places = _Places(self._server, TransportAddress(self._zoned(other.address), other.port))
            self._detail = await self._rest(line, places, local=local)

    def heard(self) -> Heard:
        if not self._answers:
            return Heard()
        seen: dict[TransportAddress, SeenAs] = {}
        for answer in self._answers:
            word = SeenAs(
                address=answer.mapped.address,
                by="stun",
                said_by=answer.origin.address,
                port=answer.mapped.port,
                local_port=self._port,
            )
            seen.setdefault(answer.mapped, word)
        behaviour = NatBehaviour(
            server=self._server.address,
            mapping=self._mapping,
            filtering=self._filtering,
            keeps_port=all(answer.mapped.port == self._port for answer in self._answers),
            detail=self._detail,
        )
        return Heard(tuple(seen.values()), behaviour)

    async def _line(self, port: int = 0) -> _Line:
        line = _Line()
        self._closing.callback(line.close)
        await line.open(family(bare(self._server.address)), port)
        return line

    async def _first(self, line: _Line) -> _Answer | None:
        """Ask what is asked first, and measure the round trip by it."""
        loop = asyncio.get_running_loop()
        first: _Answer | None = None
        shortest = LONGEST_WAIT
        for _ in range(MEASUREMENTS):
            started = loop.time()
            answer = await line.ask(self._server, FIRST_WAIT)
            taken = loop.time() - started
            first = first or answer
            if answer is None:
                break
            shortest = min(shortest, taken)
            # An answer to a question that was sent again may be one to either sending.
            if taken < FIRST_WAIT:
                break
        self._wait = min(max(ROUND_TRIPS * shortest, LEAST_WAIT), LONGEST_WAIT)
        return first

    async def _rest(self, line: _Line, places: _Places, *, local: bool) -> str:
        """Find out mapping and filter; return what there is to be said of what is unknown."""
        there = await self._ask_other(line, places)
        if not local:
            self._mapping = self._mapping_of(places, there)
        # The mapping was told by other sockets, so nothing has been let in to these yet.
        both = _Request(change_address=True, change_port=True)
        anybody, same = await asyncio.gather(
            self._lets_in(places, places.others[1], both),
            self._lets_in(places, places.first_other_port, _Request(change_port=True)),
        )
        self._filtering = _filtering(anybody, same, local=local)
        if not there:
            return "The server's second address does not answer."
        if self._filtering == UNKNOWN:
            return "Too much was lost, or the server does not answer from where it is asked to."
        return ""

    async def _ask_other(
        self, line: _Line, places: _Places
    ) -> dict[TransportAddress, TransportAddress]:
        """Return as what the server's second address sees this host, by its two ports."""
        answers = await asyncio.gather(*(line.ask(to, self._wait) for to in places.others))
        self._answers += [answer for answer in answers if answer is not None]
        return {answer.origin: answer.mapped for answer in answers if answer is not None}

    def _mapping_of(self, places: _Places, there: dict[TransportAddress, TransportAddress]) -> str:
        first = self._answers[0].mapped
        second, third = (there.get(place) for place in places.others)
        if second is None:
            return UNKNOWN
        if second == first:
            # Where the ports differ after all, it goes by them.
            return ENDPOINT_INDEPENDENT if third in (None, first) else ADDRESS_AND_PORT_DEPENDENT
        if third is None:
            return UNKNOWN
        return ADDRESS_DEPENDENT if third == second else ADDRESS_AND_PORT_DEPENDENT

    async def _lets_in(
        self, places: _Places, origin: TransportAddress, request: _Request
    ) -> bool | None:
        """Whether what comes from `origin` is let in, to where only the server was asked."""
        closed, opened = await asyncio.gather(
            self._closed(places, origin, request), self._open(places, origin, request)
        )
        return closed if closed or opened else None

    async def _closed(
        self, places: _Places, origin: TransportAddress, request: _Request
    ) -> bool | None:
        """Whether an answer from `origin` gets in; False for silence that is no loss."""
        line = await self._line()
        if await line.ask(self._server, self._wait) is None:
            return None
        asked = line.expect(request, places.all)
        beside: list[_Waiting] = []
        for _ in range(MAX_REPEATS):
            line.send(asked, self._server)
            beside.append(line.expect(_PLAIN, (self._server,)))
            line.send(beside[-1], self._server)
            if await asked.answered(self._wait):
                break
            lost = sum(not plain.ended for plain in beside)
            if _is_silence(len(beside), lost):
                await asked.answered(GROWTH[-1] * self._wait)
                break
        else:
            return None  # too much was lost
        if asked.ended:
            return True if asked.answer is not None and asked.answer.origin == origin else None
        return False

    async def _open(self, places: _Places, origin: TransportAddress, request: _Request) -> bool:
        """Whether an answer from `origin` comes once the way from there is open."""
        line = await self._line()
        first = await line.ask(self._server, self._wait)
        there = await line.ask(origin, self._wait) if first else None
        if first is None or there is None or first.mapped.address != there.mapped.address:
            return False
        if there.mapped.port != first.mapped.port:
            # The NAT has another port for `origin`, and that is the one which is open to it.
            request = _Request(request.change_address, request.change_port, there.mapped.port)
        answer = await line.ask(self._server, self._wait, request=request, origins=places.all)
        return answer is not None and answer.origin == origin

    def _zoned(self, address: str) -> str:
        """Give a link-local address the server's zone: it is spoken to by the same interface."""
        zone = self._server.address.partition("%")[2]
        return f"{address}%{zone}" if zone else address


class _Places(msgspec.Struct, frozen=True):
    """The addresses and ports of a server that has two of each."""

    first: TransportAddress
    second: TransportAddress

    @property
    def first_other_port(self) -> TransportAddress:
        return TransportAddress(self.first.address, self.second.port)

    @property
    def others(self) -> tuple[TransportAddress, TransportAddress]:
        """The second address, with the first port and with the second."""
        return TransportAddress(self.second.address, self.first.port), self.second

    @property
    def all(self) -> tuple[TransportAddress, ...]:
        return self.first, self.first_other_port, *self.others


def _filtering(anybody: bool | None, same: bool | None, *, local: bool) -> str:  # noqa: FBT001
    """Return what the filter goes by (RFC 5780, 4.4).

    `anybody`: whether another address was let in; `same`: another port of the same address.
    """
    if anybody:
        return NONE if local else ENDPOINT_INDEPENDENT
    if anybody is None or same is None:
        return UNKNOWN
    return ADDRESS_DEPENDENT if same else ADDRESS_AND_PORT_DEPENDENT


def _is_silence(sent: int, lost: int) -> bool:
    """Whether `sent` requests without an answer are no loss, with `lost` plain ones beside them."""
    # Fisher's exact test: so many of both being lost, how likely is it that it was all of the one
    # kind? No share of loss has to be guessed from the few that were sent.
    return math.comb(sent, lost) / math.comb(2 * sent, sent + lost) < LOSS_CHANCE


def _may_be_asked(server: TransportAddress, other: TransportAddress) -> bool:
    """Whether a second address may be contacted on the server's word alone.

    It must differ in address and port, or it shows nothing. And whoever asks a server on the
    Internet must not be led by it to hosts of his own network, nor the other way round.
    """
    first, second = (ipaddress.ip_address(bare(place.address)) for place in (server, other))
    return (
        first.version == second.version
        and first != second
        and other.port not in (0, server.port)
        and not (second.is_unspecified or second.is_multicast or second.is_reserved)
        and first.is_global == second.is_global
        and first.is_private == second.is_private
        and first.is_loopback == second.is_loopback
        and first.is_link_local == second.is_link_local
    )


def _is_own(answer: _Answer, port: int) -> bool:
    """Whether this host is seen as what it is: there is no NAT."""
    if answer.mapped.port != port:
        return False
    if answer.own:
        return bare(answer.own) == answer.mapped.address
    with contextlib.suppress(OSError, NetlinkError):
        return answer.mapped.address in {item.address for item in interface_addresses()}
    return False


def _usual(address: str) -> str:
    """Return an address in its usual form, with its zone."""
    return bare(address) + "".join(address.partition("%")[1:])


def _zoned(name: tuple[Any, ...]) -> str:
    """Return the address of a socket's name; with the zone where it is a link-local one."""
    address, _, zone = str(name[0]).partition("%")
    scope = name[3] if len(name) > 3 else 0
    if scope and not zone:
        with contextlib.suppress(OSError):
            zone = socket.if_indextoname(scope)
    return _usual(f"{address}%{zone}" if zone else address)
