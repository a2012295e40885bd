"""Finding the other agent: every way at once, the source nominates, the rest close.

Both sides listen on the control port, both dial every address they know of the
other and both knock there by UDP (`punch`), since one direction is often
blocked, and sometimes each. Each stream that comes about runs the handshake;
those that authenticate are offered. The source takes one and speaks on it, which
tells the destination which one it is (`nominated`).

After that, the same listeners and the same addresses serve to take the
conversation up again when its link breaks (`redial`): then the handshake proves
the session's own key and no longer the code.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from bothends_protocol.code import Code
from bothends_protocol.errors import (
    MisuseError,
    NotBothendsError,
    OtherVersionError,
    ProtocolError,
    RefusedError,
    WrongCodeError,
)
from bothends_protocol.evidence import SeenAs
from bothends_protocol.pairing import INSTANCE_SIZE, SOURCE, Handshake, Hello, Keys

from .connects import ask_for_errors, icmp_error
from .link import HANDSHAKE_SECONDS, Link, LinkClosedError
from .punch import PunchedStream, Puncher
from .sizes import MAX_SERVED, SizeListener
from .streams import DIRECT, PUNCHED, RENDEZVOUS, Stream, TcpStream, share_port, tune
from .tasks import Tasks

if TYPE_CHECKING:
    from bothends_protocol.sizes import Ask

    from .rendezvous import Rendezvous

__all__ = ["MAX_TRIES", "Contact", "ContactFailedError", "Refusal", "describe"]

MAX_TRIES = 3
"""Wrong codes before a code is retired: at 33 bits, three guesses are hopeless."""

MAX_UNCONFIRMED = 16
"""Links on which a source showed its confirmation and got none: each may have been a guess
by a stranger in the destination's role. Generous, since a connection may also just break."""

MAX_BEGUN = 16
"""Links that authenticated before one was nominated: as many as an honest peer has ways."""

MAX_STRANGERS = 32
"""Inbound connections at one time that have not authenticated: enough for every way of an
honest peer, few enough that strangers cannot take the descriptors."""

MAX_PER_STRANGER = 8
"""The same, from one address."""

MAX_NOTED = 16
"""Strangers of whom it is kept what they met: that goes into the evidence, which has a limit, and
who has a network of IPv6 or all UDP ports of an address is many strangers."""

MAX_DIALLED = 32
"""Addresses dialled at most, however many mDNS offers; as many more where they were typed."""

MAX_KNOCKS = 20
"""Datagrams to an address that the other side alone names as its public one: two seconds, in which
two that were told of each other at the same time knock both."""

MEETING_POINT = "the meeting point"
CLOSED = "closed the connection before the two had paired"
SILENT = "accepted the connection and then said nothing"

_FIRST_RETRY = 0.025
_RETRY_GROWTH = 1.25
_LAST_RETRY = 1.0
_AGAIN_SECONDS = 0.3
"""After which a connect() that hangs gets company: its own request may be lost, and the kernel
sends it again after 1 s only (RFC 6298, 2.1)."""

MAX_CONNECTING = 4
"""Connects to one address at a time."""

MAX_PAIRING = 3
"""Handshakes with one address at a time, of those that were begun here."""

PAIRING_SECONDS = 0.5
"""After which a handshake that hangs gets company: what was lost of it is sent again ever later by
the kernel, and one that the other end no longer knows of is waited for in vain."""

_CONNECT_SECONDS = 4.0
"""One try at a silent address: the kernel repeats its SYN after 1 s and after 3 s."""


class ContactFailedError(Exception):
    """The two cannot pair, and waiting will not change that; the message is for the user."""


class _IcmpError(OSError):
    """A connect that was ended by an ICMP error, and not by the other host's TCP."""


class Refusal(msgspec.Struct, frozen=True):
    """What a way met, for the report: where, and what happened in a few words."""

    place: str
    what: str


class _Session(msgspec.Struct, frozen=True):
    """What a link must prove to take a session up again."""

    name: bytes
    key: bytes
    root: Keys

    @classmethod
    def of(cls, root: Keys) -> _Session:
        return cls(root.derive("session name", 16), root.derive("session resumption"), root)


class Contact(msgspec.Struct, dict=True):
    """All ways to the other agent.

    `say` prints a line for the user. `links` receives authenticated links.
    """

    role: str
    code: Code
    control_port: int
    say: Callable[[str], None]
    code_fixed: bool = True
    fresh_code: Callable[[], Code] | None = None
    """Destination without a given code: draws and shows the next one."""
    links: asyncio.Queue[Link] = msgspec.field(default_factory=asyncio.Queue)
    refusals: dict[str, str] = msgspec.field(default_factory=dict)
    """What the ways that did not work met, by place."""

    def __post_init__(self) -> None:
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolved with a sentence where pairing is hopeless."""
        self.instance = secrets.token_bytes(INSTANCE_SIZE)
        self.listening = False
        self.closed_to_new = False
        self._tasks = Tasks()
        self._servers: list[asyncio.Server] = []
        self._dialled: dict[tuple[str, int], bool] = {}
        """And whether it was this side that picked the place."""
        self._strangers: Counter[str] = Counter()
        self._noted: set[str] = set()
        """Places of strangers that stand in `refusals`."""
        self._tries = 0
        self._unconfirmed = 0
        self._failed_instances: set[bytes] = set()
        self._session: _Session | None = None
        self._begun: dict[bytes, _Session] = {}
        """Sessions of all links that authenticated: until the source has spoken, it may be any of
        them that it nominated, and its link may have broken right then."""
        self._open: set[Link] = set()
        self._proven: dict[str, None] = {}
        self._known: dict[tuple[str, int], None] = {}
        self._refused_by: dict[str, int | None] = {}
        """The error with which the last try at an address ended."""
        self._refused_by_icmp: set[str] = set()
        """Addresses where the last refusal came by ICMP: no closed port answers so."""
        self._wake = asyncio.Event()
        self._puncher = Puncher(self.role, self.code.number, self._punched)
        self._rendezvous: Rendezvous | None = None
        self._sizes: SizeListener | None = None
        self._peer = ""
        """Where the other agent is, as the link shows it; empty before the two are paired."""
        self._meeting = False
        """Whether a stream at the meeting point is wanted, or being paired."""

    @property
    def proven(self) -> tuple[str, ...]:
        """Addresses at which the other agent authenticated, as seen from here."""
        return tuple(self._proven)

    @property
    def dialled(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports at which the other agent was looked for, the first ones first."""
        return tuple(self._dialled)

    @property
    def seen_as(self) -> tuple[SeenAs, ...]:
        """How the meeting point says that it sees this side."""
        point = self._rendezvous
        if point is None:
            return ()
        return tuple(
            SeenAs(address=address, by="rendezvous", said_by=point.host)
            for address in point.outside
        )

    @property
    def peer_seen_as(self) -> tuple[str, ...]:
        """Public addresses of the other side, as the meeting point says, the newest first."""
        return self._rendezvous.peer_outside if self._rendezvous is not None else ()

    def filtered(self, way: str) -> frozenset[str]:
        """Return the addresses where a filter refuses connections, as far as dialling shows.

        `way` is the one on which the two have met. Without ICMP it may be a closed port that
        refuses, since the other side may have been started later; but once the two had to meet by
        UDP it listened there.
        """
        filtering = {errno.EHOSTUNREACH} | ({errno.ECONNREFUSED} if way == PUNCHED else set())
        refused = {at for at, error in self._refused_by.items() if error in filtering}
        return frozenset(refused | self._refused_by_icmp)

    # Listening ---------------------------------------------------------------------------

    async def listen(self) -> str | None:
        """Listen on the control port; return why not, where it cannot be had.

        UDP is one way more: without it the others remain.
        """
        deaf = await self._puncher.open(self.control_port)
        if deaf is not None:
            self.refusals[f"UDP port {self.control_port} of this computer"] = deaf.lower()
        problem = None
        for family, host in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
            try:
                sock = _control_socket(family, host, self.control_port)
            except OSError as error:
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT):
                    continue
                problem = os.strerror(error.errno or 0)
                break
            self._servers.append(await asyncio.start_server(self._accepted, sock=sock))
        self.listening = bool(self._servers) and problem is None
        if problem is not None:
            self._stop_listening()
        return problem

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = TcpStream(reader, writer)
        link = Link(stream, dialled=False)
        if self._crowded(link.remote):
            link.abort()
            return
        tune(writer.get_extra_info("socket"))
        self._strangers[link.remote] += 1
        self._open.add(link)
        ask = None
        try:
            ask = await self._asked(stream)
            if ask is None:
                await self._pair(link, link.remote)
        except LinkClosedError:
            self._open.discard(link)
            await stream.drop()
        finally:
            self._strangers -= Counter([link.remote])
        if ask is not None and self._sizes is not None:
            self._open.discard(link)
            await self._sizes.serve(stream, ask)

    async def _asked(self, stream: TcpStream) -> Ask | None:
        """Return what the other agent asks about large packets; None for all else.

        Raises `LinkClosedError` where it is not the other agent, who then is told nothing.
        """
        if self._sizes is None:
            return None
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                return await self._sizes.hear(stream)
        except (OSError, ProtocolError) as error:  # TimeoutError is an OSError
            raise LinkClosedError(str(error)) from error

    def answer_sizes(self, key: bytes) -> None:
        """From now on answer asks about large packets (`sizes`) of who knows `key`."""
        self._sizes = SizeListener(key)

    def _crowded(self, address: str) -> bool:
        """Whether strangers, or those at `address`, have all the places they may have.

        The other agent's address has places of its own, for its asks about large packets.
        """
        if self._sizes is not None and address == self._peer:
            return self._strangers[address] >= MAX_SERVED
        total = self._strangers.total() - self._strangers[self._peer]
        return total >= MAX_STRANGERS or self._strangers[address] >= MAX_PER_STRANGER

    # Dialling ----------------------------------------------------------------------------

    def dial(
        self,
        address: str,
        port: int,
        *,
        delay: float = 0.0,
        found: bool = False,
        chosen: bool = True,
    ) -> None:
        """Keep trying `address` until the two are paired.

        `found` is one that strangers can make up: it takes no place of those that were typed.
        Not `chosen` is one that is dialled because it sent something here: what answers there
        can end the run as little as who dials in.
        """
        if (address, port) in self._dialled:
            self._dialled[address, port] |= chosen
            return
        if len(self._dialled) >= (MAX_DIALLED if found else 2 * MAX_DIALLED):
            return
        self._dialled[address, port] = chosen
        self._known[address, port] = None
        self._tasks.start(self._keep_dialling(address, port, delay))
        self._puncher.knock(address, port, delay=delay)

    async def _keep_dialling(self, address: str, port: int, delay: float) -> None:
        await asyncio.sleep(delay)
        pause = _FIRST_RETRY
        pairing: dict[asyncio.Task[bool], Link] = {}
        try:
            while not self.closed_to_new:
                link = await self._connect(address, port) if len(pairing) < MAX_PAIRING else None
                if link is not None:
                    task = asyncio.ensure_future(self._pair(link, _place(address, port)))
                    pairing[task] = link
                if pairing:
                    done, _ = await asyncio.wait(
                        pairing, timeout=PAIRING_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                    if True in {task.result() for task in done}:
                        return
                    for task in done:
                        del pairing[task]
                await self._pause(pause)
                pause = min(pause * _RETRY_GROWTH, _LAST_RETRY)
        finally:
            for task in pairing:
                task.cancel()
            await asyncio.gather(*pairing, return_exceptions=True)
            # A handshake that was given up before it had begun has closed nothing.
            for link in set(pairing.values()) - self._open:
                link.close()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def _connect(self, address: str, port: int) -> Link | None:
        """Connect once; return the link, or None and note why not."""
        place = _place(address, port)
        try:
            reader, writer = await _dial(address, port)
        except (OSError, TimeoutError) as error:
            self.refusals[place] = _what(error)
            self._refused_by[address] = getattr(error, "errno", None)
            if isinstance(error, ConnectionRefusedError):
                self._refused_by_icmp.discard(address)
            elif isinstance(error, _IcmpError) and error.errno == errno.ECONNREFUSED:
                self._refused_by_icmp.add(address)
            return None
        self._refused_by.pop(address, None)
        self._refused_by_icmp.discard(address)
        chosen = self._dialled.get((address, port), False)
        link = Link(TcpStream(reader, writer), dialled=True, chosen=chosen)
        self.refusals[place] = SILENT
        return link

    # Knocking ----------------------------------------------------------------------------

    def _punched(self, stream: PunchedStream, began: bool) -> None:  # noqa: FBT001  a callback
        chosen = self._dialled.get((stream.remote, stream.remote_port), False)
        if not chosen and self._crowded(stream.remote):
            stream.abort()
            return
        self._tasks.start(self._pair_punched(stream, began=began, chosen=chosen))

    async def _pair_punched(self, stream: PunchedStream, *, began: bool, chosen: bool) -> None:
        link = Link(stream, dialled=began, chosen=chosen)
        stranger = Counter([] if chosen else [link.remote])
        self._strangers += stranger
        try:
            settled = await self._pair(link, f"{_place(stream.remote, stream.remote_port)} (UDP)")
        finally:
            self._strangers -= stranger
        if began and not settled:
            await self._pause(_LAST_RETRY)
            self._puncher.knocker.forget(stream.place)

    # At a meeting point ------------------------------------------------------------------

    def meet_at(self, url: str, side: str | None = None) -> None:
        """Be at the meeting point `url` from now on; `side` is the one that drew the number."""
        from .rendezvous import Rendezvous  # noqa: PLC0415  only where one was named

        self._rendezvous = Rendezvous(
            url, self.code.number, self.role, self._met, self._troubled, side
        )
        self._rendezvous.start()
        self._meet()

    def _meet(self) -> None:
        if self._rendezvous is not None and not self._meeting:
            self._meeting = True
            self._rendezvous.dial()

    def _troubled(self, sentence: str) -> None:
        self.refusals[MEETING_POINT] = sentence
        if self._session is None:
            self.say(f"{sentence}.")

    def _met(self, stream: Stream, began: bool) -> None:  # noqa: FBT001  a callback
        self._tasks.start(self._pair_met(stream, began=began))

    async def _pair_met(self, stream: Stream, *, began: bool) -> None:
        self.refusals.pop(MEETING_POINT, None)
        # Where other ways are tried too, whoever is at the meeting point must not end them.
        link = Link(stream, dialled=began, chosen=not self._known)
        settled = await self._pair(link, MEETING_POINT)
        if began and not settled and self._rendezvous is not None:
            await self._pause(_LAST_RETRY)
            self._rendezvous.dial()

    # The handshake -----------------------------------------------------------------------

    async def _pair(self, link: Link, place: str) -> bool:
        """Authenticate `link` and offer it; return whether this place is settled."""
        self._open.add(link)
        try:
            await link.authenticate(lambda: self._handshake(dialled=link.dialled))
        except ProtocolError as error:
            self.drop(link)
            return self._objected(link, place, error)
        except (LinkClosedError, TimeoutError) as error:
            self.drop(link)
            self._note(link, place, SILENT if isinstance(error, TimeoutError) else CLOSED)
            self._count_unconfirmed(link)
            return False
        except asyncio.CancelledError:
            # Another way was faster: this one met nothing.
            self.refusals.pop(place, None)
            self.drop(link)
            raise
        self.refusals.pop(place, None)
        if link not in self._open:
            # Given up meanwhile for another, with the last frame of its handshake on the way.
            link.abort()
            return False
        self._begin_session(link)
        if link.way != RENDEZVOUS and (link.dialled or link.way == PUNCHED):
            self._proven[link.remote] = None
        self.links.put_nowait(link)
        return True

    def _begin_session(self, link: Link) -> None:
        hello = link.handshake.peer if link.handshake else None
        if hello is None or link.keys is None:
            raise MisuseError("the handshake did not end")
        session = self._begun.get(hello.session) or _Session.of(link.keys)
        link.root = session.root
        if self._session is None:
            self._begun[session.name] = session
            while len(self._begun) > MAX_BEGUN:
                self._begun.pop(next(iter(self._begun)))

    def drop(self, link: Link) -> None:
        """`link` serves no more."""
        self._open.discard(link)
        link.close()

    def _handshake(self, *, dialled: bool) -> Handshake:
        session, code = self._session, self.code
        return Handshake(
            role=self.role,
            dialled=dialled,
            instance=self.instance,
            code=code,
            entropy=secrets.token_bytes,
            session=session.name if session else b"",
            resumption=session.key if session else b"",
            sessions={name: begun.key for name, begun in self._begun.items()},
            refuse=lambda hello: self._refuse(hello, code),
            guessed=self._guessed,
        )

    def _refuse(self, hello: Hello, code: Code) -> str | None:
        """Why this peer is not even to be tried; the same stranger gets no second guess."""
        if hello.instance in self._failed_instances:
            return "wrong-code"
        if self._tries >= MAX_TRIES or code != self.code:
            return "used-up"  # retired while this handshake was under way
        if self.closed_to_new and self._session is None:
            return "busy"
        return None

    def _note(self, link: Link, place: str, what: str) -> None:
        """Keep what was met at `place` for the report; of strangers only so many."""
        if not link.chosen and place not in self.refusals:
            self._noted &= self.refusals.keys()
            if len(self._noted) >= MAX_NOTED:
                return
            self._noted.add(place)
        self.refusals[place] = what

    def _objected(self, link: Link, place: str, error: ProtocolError) -> bool:
        self._note(link, place, describe(error))
        if isinstance(error, WrongCodeError):
            self._wrong_code(link, place)
        elif isinstance(error, RefusedError):
            self._count_unconfirmed(link)
            return self._refused(link, place, error.reason)
        elif isinstance(error, OtherVersionError):
            if not link.dialled:
                self.say(f"At {place}, {describe(error)}.")
            self._hopeless(f"At {place}, {describe(error)}.", link)
            return link.chosen
        elif not isinstance(error, NotBothendsError):
            self._count_unconfirmed(link)
        return False

    def _guessed(self, hello: Hello) -> None:
        """Count a wrong code, in the same step in which it was found out.

        The same stranger's guesses on its other links then go unanswered.
        """
        if self._session is not None:
            return  # there is no code to guess, and an instance is seen by all on the way
        self._failed_instances.add(hello.instance)
        if self.role != SOURCE:  # only the destination's code is retired
            self._tries += 1

    def _wrong_code(self, link: Link, place: str) -> None:
        if self.role == SOURCE:
            self._count_unconfirmed(link)
            return
        if self._session is not None:
            return
        self.say(f"A computer at {place} tried a wrong code ({self._tries} of {MAX_TRIES}).")
        if self._tries < MAX_TRIES:
            return
        if self.fresh_code is None:
            self._fail(
                f"{MAX_TRIES} wrong codes were tried: the code is retired, so that it cannot "
                "be guessed. Start both sides again with a new code."
            )
        else:
            self.say(f"{MAX_TRIES} wrong codes were tried: the old code is retired.")
            self.code = self.fresh_code()
            self._puncher.knocker.number = self.code.number
            if self._rendezvous is not None:
                self._rendezvous.renumber(self.code.number)
            self._tries = 0

    def _refused(self, link: Link, place: str, reason: str) -> bool:
        """React to a refusal; return whether the place needs no further try.

        Only what answers at an address that was dialled from here can say so: a stranger who
        dials in can send any frame.
        """
        if self._session is not None or not link.chosen:
            return False
        sentences = {
            "wrong-code": f"The computer at {place} waits with another code: check the words, "
            "or take the code that stands on its screen now.",
            "other-number": f"The computer at {place} waits with another code: check the "
            "number in front of the words.",
            "same-role": f"Bothends at {place} was started as {self.role} too: start one "
            "side as source and the other as destination.",
        }
        if reason == "same-agent":
            return True
        if reason not in sentences:
            return False
        if self.role == SOURCE or reason == "same-role":
            self._hopeless(sentences[reason], link)
        return True

    def _count_unconfirmed(self, link: Link) -> None:
        if self.role == SOURCE and link.handshake is not None and link.handshake.confirmed:
            self._unconfirmed += 1
            if self._unconfirmed >= MAX_UNCONFIRMED:
                self._fail(
                    "Too many computers broke off in the middle of pairing: somebody may be "
                    "guessing the code. Start both sides again with a new code."
                )

    def _hopeless(self, sentence: str, link: Link) -> None:
        """What was met here will not change; other ways get a little longer."""
        if not link.chosen:
            return
        self._tasks.start(self._fail_later(sentence))

    async def _fail_later(self, sentence: str) -> None:
        await asyncio.sleep(OTHER_WAYS_SECONDS)
        self._fail(sentence)

    def _fail(self, sentence: str) -> None:
        if not self.failed.done():
            self.failed.set_result(sentence)

    # Nomination and resumption -----------------------------------------------------------

    def settle(self, link: Link) -> Keys:
        """The two are paired on `link`: close every other way, expect resumption only.

        Returns the keys of the session.
        """
        if link.root is None:
            raise MisuseError("an unauthenticated link was offered")
        self._session = _Session.of(link.root)
        self._begun = {self._session.name: self._session}
        # The other side closes what it does not need a moment before this side knows.
        self.refusals = {at: what for at, what in self.refusals.items() if what != CLOSED}
        if self._rendezvous is not None and link.way == RENDEZVOUS:
            self._rendezvous.show()
        self.settle_again(link)
        return link.root

    def settle_again(self, link: Link) -> None:
        """The session goes on, on `link`."""
        self.closed_to_new = True
        self._wake.set()
        self._tasks.cancel()
        self._puncher.rest()
        self._meeting = False
        if self._rendezvous is not None:
            self._rendezvous.rest()
        while not self.links.empty():
            self.links.get_nowait()
        for other in self._open - {link}:
            other.abort()
        self._open = {link}
        self._peer = link.remote
        if link.way != RENDEZVOUS:
            # Where the other side dialled from is no place to dial.
            own = link.way == DIRECT and not link.dialled
            self._known[link.remote, self.control_port if own else link.remote_port] = None

    @property
    def without_datagrams(self) -> bool:
        """Whether no contact by UDP is to be waited for."""
        return self._puncher.hopeless

    @property
    def session(self) -> bytes:
        """The name of the session, known to both sides; empty before they are paired."""
        return self._session.name if self._session else b""

    def redial(self) -> None:
        """Try to take the session up again by every way that is known, beside listening."""
        if self.closed_to_new:
            self._redial_known()
        # Not only then: two that met there may be trying each other's addresses still.
        self._meet()

    def _redial_known(self) -> None:
        self.closed_to_new = False
        self._wake.clear()
        self._dialled.clear()
        self._puncher.again()
        for address, port in list(self._known):
            self.dial(address, port)

    def reach(self, addresses: Iterable[str], port: int) -> None:
        """Try the session's other agent at `addresses`, which it named, beside the link there is.

        Nothing but the contact's own handshake is sent there.
        """
        if self.closed_to_new:
            self._redial_known()
        for address in list(addresses)[:MAX_DIALLED]:
            self.dial(address, port)

    def knock(self, addresses: Iterable[str], port: int) -> None:
        """Knock at `addresses` by UDP for a moment, and nothing more: only the peer named them."""
        if self.closed_to_new:
            self._redial_known()
        for address in addresses:
            self._puncher.knock(address, port, times=MAX_KNOCKS)

    def letter(self, address: str, port: int) -> bytes:
        """Return a knock at this place, to which the other agent answers whoever sends it."""
        return self._puncher.letter(address, port)

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def close(self) -> None:
        """Close everything; safe to call again."""
        self.closed_to_new = True
        self._wake.set()
        self._stop_listening()
        for link in self._open:
            link.close()
        self._open.clear()
        if self._sizes is not None:
            self._sizes.close()
        await self._puncher.close()
        if self._rendezvous is not None:
            await self._rendezvous.close()
        await self._tasks.finish()


OTHER_WAYS_SECONDS = 1.5
"""How long other ways may still succeed after one met what cannot be mended by waiting
(a wrong code, another version): a stranger's agent at the same private address must not end
a run that another way would have served."""


def describe(error: BaseException) -> str:
    """Return what went wrong with a link, in a few words for people."""
    if isinstance(error, OtherVersionError):
        return (
            f"a bothends of another version answers (protocol {error.version}): install the "
            "same version on both computers"
        )
    if isinstance(error, NotBothendsError):
        return "something else than bothends answers"
    if isinstance(error, WrongCodeError):
        return "the code is wrong"
    if isinstance(error, RefusedError):
        return {
            "wrong-code": "the code is wrong",
            "other-number": "another bothends waits there, with another code number",
            "same-role": "the bothends there has the same role",
            "same-agent": "that is this computer itself",
        }.get(error.reason, "the bothends there is already paired")
    return "what answers there does not keep to the protocol"


def _what(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    if isinstance(error, TimeoutError) or number == errno.ETIMEDOUT:
        return "no answer"
    if number == errno.ECONNREFUSED:
        return "connection refused"
    return os.strerror(number).lower() if number else "cannot be reached"


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _control_socket(family: int, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A restart must not wait for connections of the last run to time out.
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(MAX_STRANGERS)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


async def _dial(address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )
    family, kind, protocol, _, name = found[0]

    async def connect() -> socket.socket:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            tune(sock)
            share_port(sock)
            ask_for_errors(sock)
            await loop.sock_connect(sock, name)
            ask_for_errors(sock, wanted=False)
        except OSError as error:
            icmp = icmp_error(sock)
            sock.close()
            raise _IcmpError(error.errno, error.strerror) if icmp is not None else error from None
        except BaseException:
            sock.close()
            raise
        return sock

    async with asyncio.timeout(_CONNECT_SECONDS):
        sock = await _first_of(connect)
    try:
        return await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


async def _first_of(connect: Callable[[], Coroutine[Any, Any, socket.socket]]) -> socket.socket:
    """Return the first socket that connects, beginning again now and then beside the others."""
    waiting: set[asyncio.Task[socket.socket]] = set()
    try:
        while True:
            if len(waiting) < MAX_CONNECTING:
                waiting.add(asyncio.ensure_future(connect()))
            done, waiting = await asyncio.wait(
                waiting, timeout=_AGAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                waiting |= done - {first := done.pop()}
                return first.result()
    finally:
        for task in waiting:
            task.cancel()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(result, socket.socket):
                result.close()
