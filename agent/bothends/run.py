"""One run of an agent, from the first word to the verdict.

Meets the other agent (`contact`, `discovery`), then drives the session: its
orders go to the channel, the prober or the observer; what they report goes back
in. One queue carries everything that happens, so that the run has one thread of
thought. Whatever way it ends, everything opened is closed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from bothends_protocol.addresses import bare, is_near, is_public, public
from bothends_protocol.code import Code, make_code
from bothends_protocol.errors import ProtocolError
from bothends_protocol.evidence import (
    ContactFacts,
    Evidence,
    HostFacts,
    RoundPlan,
    SeenAs,
    Target,
    Witness,
)
from bothends_protocol.judge import lost_verdict
from bothends_protocol.messages import (
    MAX_NAMED,
    MAX_SEEN,
    Bye,
    Mark,
    Message,
    Offer,
    Where,
)
from bothends_protocol.offered import offered
from bothends_protocol.outside_facts import OutsideFacts, outside_facts, tidy
from bothends_protocol.pairing import DESTINATION, SOURCE, Keys
from bothends_protocol.plan import SEEK_FROM, SWEEP, by_datagrams, probe_addresses
from bothends_protocol.ports import PortSet, pack_ports, parse_ports
from bothends_protocol.session import (
    Arm,
    Armed,
    Collect,
    Collected,
    Conclude,
    Fire,
    Fired,
    Freeze,
    Frozen,
    Gather,
    Gathered,
    Marked,
    Order,
    Report,
    Send,
    Session,
    State,
)
from bothends_protocol.verdict import Verdict
from bothends_protocol.wire import pack

from .alone import Asked, gather
from .channel import Channel, PeerLostError, nominated
from .contact import Contact
from .discovery import Discovery
from .facts import host_facts
from .gateways import gateway_neighbours
from .link import Link
from .listener import OwnListeners
from .names import UnresolvedError, resolve
from .observer import Observer
from .opener import Opener
from .options import Endpoint, Options
from .outcome import Outcome
from .outside import Outside
from .overheard import Overheard
from .own_rules import OwnRules
from .port_opener import PortOpener
from .prober import Prober
from .recorder import Recorder
from .saving import Kept
from .sizes import SizeTest
from .streams import DIRECT, PUNCHED, RENDEZVOUS
from .sweep import SweepProgress, room_for_sockets
from .tasks import Tasks
from .watch import LeftError, Note, Screen, Stop, Watch, why_left
from .witness.netlink import is_routed
from .witness.packets import PacketWitness, may_see_packets
from .witness.sockets import listening_ports

if TYPE_CHECKING:
    from .standalone import Standalone

__all__ = ["Outcome", "Run"]

NAME_SECONDS = 5.0
"""How long the name service may take."""

MDNS_HEAD_START = 0.3
"""Seconds that a typed --peer has before mDNS starts: loading it takes most of that time on
one core, and where the peer answers it is not needed."""

ANSWER_AFTER = 0.3
"""Seconds before somebody overheard is dialled: who got through has paired by then."""

MOVE_SECONDS = 1.0
"""How long two that met at a meeting point try to reach each other without it."""

MOVE_TRIPS = 4
"""Round trips that they have beside, as the handshake showed them: to tell each other their
addresses, to open the way and to authenticate there."""

LONGEST_MOVE = 3.0
"""Seconds of all that at most: what is slower than any network is no reason to wait."""

ROUTER_SECONDS = 120.0
"""With --watch, after requests that routers keep in mind (nf_conntrack_tcp_timeout_syn_sent)."""

FINISH_SECONDS = 5.0
"""After --timeout, for both sides to exchange what they have."""


class _Deadline(msgspec.Struct, frozen=True):
    """The time allowed for the test `of` that session is over."""

    of: Session
    last: bool
    """Whether the probing was ended before, so that nothing is left to do."""


class _Reported(msgspec.Struct, frozen=True):
    """A job of the test `of` that session is done."""

    of: Session
    report: Report


_Event = Message | _Reported | PeerLostError | _Deadline | Note | Stop
"""What happens to a run."""


class Run:
    """One agent's run. `say` prints a line of progress, `show_code` the code to type."""

    def __init__(
        self,
        options: Options,
        *,
        say: Callable[[str], None],
        show_code: Callable[[Code, HostFacts], None],
        screen: Screen | None = None,
    ) -> None:
        """`screen` shows the verdicts of --watch as they come."""
        self.options = options
        self.paired = False
        self._say = say
        self._show_code = show_code
        self._screen = screen
        self._begun = time.monotonic()
        self._paired_at = 0.0
        self._recorder = Recorder(options.role)
        self._rules: OwnRules | None = None
        self._privileged = may_see_packets()
        self._facts = host_facts(privileged=self._privileged)
        self._outside = self._make_outside()
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._early: _Event | None = None
        self._side: str | None = None
        self._tasks = Tasks()
        self._jobs = Tasks()
        """Those of the test that is on."""
        self._typed: tuple[str, ...] = ()
        self._names: tuple[Target, ...] = ()
        """Of what was typed with --peer the names that stand for several addresses."""
        self._targets: tuple[Target, ...] = ()
        """How others than the meeting point see this side."""
        self._named: tuple[str, ...] | None = None
        """Public addresses that the other side names as its own; None: it did not say yet."""
        self._confirmed: tuple[str, ...] = ()
        self._contact: Contact | None = None
        self._discovery: Discovery | None = None
        self._channel: Channel | None = None
        self._session: Session | None = None
        self._link: Link | None = None
        self._keys: Keys | None = None
        self._packets: PacketWitness | None = None
        self._own: OwnListeners | None = None
        self._prober: Prober | None = None
        self._observer: Observer | None = None
        self._sizes: SizeTest | None = None
        self._progress: SweepProgress | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._standalone: Standalone | None = None
        self._watch: Watch | None = None
        self._task: asyncio.Task[Any] | None = None
        self._stopping = False
        self._resent_before = 0
        self._resent_on: Link | None = None
        """Of which link that was."""
        self._allowed = options.timeout
        """Seconds for one test: with --watch the shorter of both sides' time-outs."""

    def _make_outside(self) -> Outside:
        options = self.options
        return Outside(
            (item.address for item in self._facts.addresses),
            _router_ports(options),
            options.stun,
            router=options.role == DESTINATION or options.both_ways,
        )

    @property
    def facts(self) -> HostFacts:
        """What this computer says of itself."""
        return self._facts

    def also(self, peer: Endpoint) -> None:
        """Look for the other side at `peer` too, as if it had been typed with --peer."""
        if self._contact is not None and not self.paired:
            self._tasks.start(self._dial_typed(self._contact, peer))

    async def run(self) -> Outcome:
        """Return the outcome; whatever happens, leave nothing open."""
        self._task = asyncio.current_task()
        try:
            contact = self._contact = await self._make_contact()
            failure = await self._meet(contact)
            if failure is not None:
                # First, so that its own listeners are not taken for a program's.
                kept = await self._freeze_alone(contact)
                outcome = await self._tell_alone(self._no_contact(failure), contact)
                outcome.kept = kept
                return outcome
            return await self._converse(contact)
        finally:
            await self._close()

    # Meeting -----------------------------------------------------------------------------

    async def _make_contact(self) -> Contact:
        options = self.options
        code = options.code or await self._draw_code()
        fresh = None if options.code_fixed or options.role == SOURCE else self._fresh_code
        return Contact(
            role=options.role,
            code=code,
            control_port=options.control_port,
            say=self._say,
            fresh_code=fresh,
        )

    async def _draw_code(self) -> Code:
        """Draw a code, its number one that is free at the meeting point, where there is one."""
        code = make_code(secrets.token_bytes)
        if self.options.rendezvous is None:
            return code
        from .rendezvous import allocate, new_side  # noqa: PLC0415  only where one was named

        self._side = new_side()
        number = await allocate(self.options.rendezvous, self._side)
        return Code(number, code.words) if number else code

    def _fresh_code(self) -> Code:
        code = make_code(secrets.token_bytes)
        if self._discovery is not None:
            self._discovery.renumber(code.number)
        self._show_code(code, self._facts)
        return code

    async def _meet(self, contact: Contact) -> str | None:
        """Pair with the other side by any way; return why not, where that fails."""
        problem = await contact.listen()
        self._look_outside()
        if problem is not None:
            sentence = f"The control port {self.options.control_port} cannot be used: {problem}."
            others = self.options.peers or self.options.rendezvous
            if self.options.role == DESTINATION and not others:
                return f"{sentence} Stop what uses it, or give both sides another --control-port."
            self._say(f"{sentence} Only dialling out remains.")
        if self.options.role == DESTINATION:
            self._show_code(contact.code, self._facts)
        await self._resolve_typed(contact)
        if self.options.save is not None or self.options.paste:
            from .standalone import Standalone, Surroundings  # noqa: PLC0415  seldom wanted

            around = Surroundings(self._facts, self._typed, self._targets, self._names)
            self._standalone = Standalone(self.options, around)
            self._standalone.start()
        if self.options.mdns:
            self._discover(contact)
        if self.options.rendezvous is not None:
            contact.meet_at(self.options.rendezvous, self._side)
        overheard = self._overhear(contact)
        chosen = asyncio.ensure_future(nominated(contact, self.options.role))
        try:
            ends: list[asyncio.Future[Any]] = [chosen, contact.failed]
            await asyncio.wait(ends, timeout=self.options.wait, return_when=asyncio.FIRST_COMPLETED)
            if chosen.done():
                await self._stop_alone()
                self._pair(contact, *chosen.result())
                return None
            if contact.failed.done():
                return contact.failed.result()
            return self._nobody(contact)
        finally:
            overheard.close()
            if not chosen.done():
                chosen.cancel()
                await asyncio.gather(chosen, return_exceptions=True)

    def _look_outside(self) -> None:
        self._outside.start()
        if self.options.map and self._outside.gateway is None:
            self._say(
                "There is no router to ask to forward the port (--map): this computer reaches "
                "the Internet without one that translates addresses, or not at all."
            )

    async def _stop_alone(self) -> None:
        """Close what a side does by itself: the two have met."""
        standalone, self._standalone = self._standalone, None
        if standalone is not None:
            await standalone.stop()

    async def _freeze_alone(self, contact: Contact) -> Kept | None:
        """What this side recorded by itself, where that is to be saved."""
        if self._standalone is None:
            return None
        evidence = await self._standalone.freeze(
            f"{place}: {what}" for place, what in sorted(contact.refusals.items())
        )
        return Kept(pack(evidence), contact.code)

    async def _resolve_targets(self) -> None:
        found: list[Target] = []
        for text in self.options.targets:
            try:
                addresses = await resolve(text, seconds=NAME_SECONDS)
                found.append(Target(text=text, addresses=addresses))
            except UnresolvedError as error:
                found.append(Target(text=text, error=str(error)))
                if self._watch is None:  # else said once already, and the verdict names it
                    self._say(f"{text!r} does not resolve: {error}.")
        self._targets = tuple(found)

    async def _resolve_typed(self, contact: Contact) -> None:
        await self._resolve_targets()
        for peer in self.options.peers:
            await self._dial_typed(contact, peer)

    async def _dial_typed(self, contact: Contact, peer: Endpoint) -> None:
        try:
            addresses = await resolve(peer.host, seconds=NAME_SECONDS)
        except UnresolvedError as error:
            self._say(f"The address {peer.host!r} does not resolve: {error}.")
            contact.refusals[peer.host] = f"the name does not resolve ({error})"
            return
        if self.paired:
            return
        if len(addresses) > 1:
            self._names += (Target(text=peer.host, addresses=addresses),)
        for address in addresses:
            if address not in self._typed:
                self._typed += (address,)
            contact.dial(address, peer.port)

    def _discover(self, contact: Contact) -> None:
        self._discovery = Discovery(
            self.options.role,
            contact.code.number,
            self.options.control_port,
            [item.address for item in offered(self._facts.addresses)],
            lambda address, port, delay: contact.dial(address, port, delay=delay, found=True),
            self._say,
        )
        self._discovery.start(MDNS_HEAD_START if self.options.peers else 0.0)

    def _overhear(self, contact: Contact) -> Overheard:
        """Where the right is there, read at the card what the own firewall keeps from us."""
        discovery = self._discovery
        port = self.options.control_port
        overheard = Overheard(
            port,
            lambda address, _: contact.dial(
                address, port, delay=ANSWER_AFTER, found=True, chosen=False
            ),
            discovery.overheard if discovery is not None else None,
        )
        overheard.start()
        return overheard

    def _nobody(self, contact: Contact) -> str:
        if not self._facts.addresses:
            return "No contact: this computer has no network address."
        other = "destination" if self.options.role == SOURCE else "source"
        met = "; ".join(f"{place}: {what}" for place, what in sorted(contact.refusals.items()))
        return (
            f"No contact with the {other} within {self.options.wait:g} seconds"
            + (f" ({met})" if met else "")
            + "."
        )

    async def _tell_alone(self, outcome: Outcome, contact: Contact) -> Outcome:
        """Add what this side knows alone to the end of a run without contact."""
        if not contact.listening and not contact.dialled:
            return outcome  # it never came to looking for the other side
        options = self.options
        asked = Asked(
            role=options.role,
            ports=options.ports,
            service=options.service,
            control_port=options.control_port,
            dialled=contact.dialled,
            met=dict(contact.refusals),
        )
        # From here on nobody must find this side and believe that it is still there.
        await contact.close()
        outcome.alone = await gather(asked, self._facts)
        outcome.seconds = self._seconds()
        return outcome

    def _pair(self, contact: Contact, link: Link, first: bytes | None) -> None:
        self.paired = True
        self._paired_at = time.monotonic()
        self._link = link
        self._keys = contact.settle(link)
        contact.answer_sizes(self._keys.derive("sizes"))
        self._channel = Channel(contact, self.options.role, self._events.put_nowait)
        self._channel.start(link, first)
        self._say(f"Paired with {link.remote or 'the other side'}.")

    # The session -------------------------------------------------------------------------

    async def _converse(self, contact: Contact) -> Outcome:
        link, channel = self._link, self._channel
        if link is None or channel is None:
            raise ProtocolError("not paired")
        if link.way == RENDEZVOUS:
            link = self._link = await self._move(contact, channel)
        if self._discovery is not None:
            self._tasks.start(self._discovery.close())
        try:
            outcome = await self._test(contact)
            if outcome.verdict.verdict_id is None:
                return outcome
            if self._watch is None:
                # The other side needs this side's `Agreed` to print the same verdict.
                await channel.finish()
                return outcome
            return await self._watch.run(
                outcome, test=lambda: self._test_again(contact), next_event=self._next_event
            )
        except ProtocolError as error:
            channel.send(Bye(reason="failed"))
            await channel.settle()
            reason = f"the other side broke the protocol: {error}"
            if self._watch is not None and self._watch.on:
                return self._watch.lost(reason)
            return self._lost(reason)

    async def _move(self, contact: Contact, channel: Channel) -> Link:
        """Try to go on without the meeting point; return the link that serves then.

        What authenticates is where the real application would go, so the source waits for it a
        little before it makes its offer. The destination waits for that offer.
        """
        own = tuple(item.address for item in offered(self._facts.addresses))[:MAX_NAMED]
        seen = self._public(contact)[:MAX_SEEN]
        channel.send(Where(addresses=own, seen=seen, port=self.options.control_port))
        waits = self.options.role == SOURCE
        trip = (self._link.trip if self._link else None) or 0.0
        moving = min(MOVE_SECONDS + MOVE_TRIPS * trip, LONGEST_MOVE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(moving if waits else self.options.timeout):
                while True:
                    event = await self._first_of(channel if waits else None)
                    if isinstance(event, Where):
                        self._look_at(event, contact)
                    elif event is not None:
                        # Anything else is for the run itself; it comes first there.
                        self._early = event
                        break
                    else:
                        break
        if channel.link is None:
            raise ProtocolError("not paired")
        return channel.link

    def _how_seen(self, contact: Contact) -> tuple[SeenAs, ...]:
        """How others see this side, as they say."""
        return (*contact.seen_as, *self._outside.seen)

    def _public(self, contact: Contact) -> tuple[str, ...]:
        """The addresses under which this side is seen, by whoever said so.

        Its router's word counts only where nobody else says: the other side knocks there.
        """
        said = self._seen_public(contact) or self._outside.said_by_router()
        return tuple(dict.fromkeys(filter(None, map(public, said))))

    def _seen_public(self, contact: Contact) -> tuple[str, ...]:
        said = (item.address for item in self._how_seen(contact))
        return tuple(dict.fromkeys(filter(None, map(public, said))))

    def _look_at(self, where: Where, contact: Contact) -> None:
        """Try to reach the other side where it says that it is, as far as its word is taken.

        Both were told at about the same time, which is what lets two NATs through (`punch`).
        """
        if self._named is not None:
            return
        nets = [(item.address, item.prefix) for item in self._facts.addresses]
        near = [address for address in where.addresses if is_near(address, nets)]
        self._named = tuple(dict.fromkeys(filter(None, map(public, where.seen))))
        confirmed = self._confirm(contact)
        contact.reach([*confirmed, *near], where.port)
        contact.knock([a for a in self._named if a not in confirmed], where.port)

    def _confirm(self, contact: Contact) -> tuple[str, ...]:
        """Return the addresses that both the other side and the meeting point name as its own."""
        named = self._named or ()
        fresh = [address for address in contact.peer_seen_as if address in named]
        self._confirmed = tuple(dict.fromkeys((*fresh, *self._confirmed)))[:MAX_SEEN]
        return self._confirmed

    async def _first_of(self, moving: Channel | None) -> _Event | None:
        """Return what happens next; None where `moving` has got another link first."""
        event = asyncio.ensure_future(self._events.get())
        waiting: list[asyncio.Future[Any]] = [event]
        if moving is not None:
            waiting.append(asyncio.ensure_future(moving.moved.wait()))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return event.result() if event.done() else None
        except asyncio.CancelledError:
            if event.done() and not event.cancelled():
                self._early = event.result()  # it came in the moment in which the time was up
            raise
        finally:
            for one in waiting:
                one.cancel()

    async def _test(self, contact: Contact) -> Outcome:
        """Make one test: a fresh session, over the contact that there is."""
        keys, channel = self._keys, self._channel
        if keys is None or channel is None:
            raise ProtocolError("not paired")
        self._link = channel.link or self._link
        key = keys.derive("challenge")
        self._own = OwnListeners(key, self._recorder.clock, self._recorder.acceptances.append)
        self._prober = Prober(self._recorder, key, self._remote(), self.options.payload)
        if self._link is not None:
            self._prober.filtered = contact.filtered(self._link.way)
        self._rules = OwnRules(self._recorder, privileged=self._facts.privileged)
        offer = self._offer(contact)
        self._recorder.seen_as = list(self._how_seen(contact))
        self._recorder.confirmed = offer.confirmed
        self._resent_on = self._channel.link if self._channel else None
        self._resent_before = self._resent_on.resent if self._resent_on else 0
        session = self._session = Session(self.options.role, offer, secrets.token_bytes)
        # The leader ends the probing; the other waits for that a little longer.
        self._set_deadline(
            session,
            self._allowed + (0.0 if session.leads else self._longer()),
            last=not session.leads,
        )
        try:
            outcome = await self._drive(session, channel)
        finally:
            await self._end_test()
        if self._watch is not None:
            self._watch.rest = ROUTER_SECONDS if session.filled_router else 0.0
        return outcome

    async def _test_again(self, contact: Contact) -> Outcome:
        """Make a further test: everything may have changed."""
        self._recorder = Recorder(self.options.role)
        self._progress = None
        self._facts = host_facts(privileged=self._privileged)
        self._outside.start_again()
        await self._resolve_targets()
        return await self._test(contact)

    def _longer(self) -> float:
        """How much longer who does not lead waits; in the loop only for a leader that hangs."""
        return FINISH_SECONDS if self._watch is None else 4 * FINISH_SECONDS

    def _remote(self) -> str:
        """The other side's address, as the link in use shows it."""
        link = (self._channel.link if self._channel else None) or self._link
        return link.remote if link else ""

    def _offer(self, contact: Contact) -> Offer:
        offer = Offer(
            ports=self.options.ports,
            targets=self._targets,
            typed=self._typed,
            peers=self._names[:MAX_NAMED],
            addresses=tuple(item.address for item in self._facts.addresses),
            remote=self._remote(),
            proven=contact.proven,
            confirmed=self._confirm(contact),
            both_ways=self.options.both_ways,
            timeout=self.options.timeout,
            watch=self.options.watch,
            seen=self._public(contact)[:MAX_NAMED],
            map=self.options.map,
            control_port=self.options.control_port,
            room=room_for_sockets(),
            suggest=self.options.suggest,
            fast=self.options.fast,
            held=self._held_ports(),
        )
        # Also of an address that only the meeting point and the other side have named.
        return msgspec.structs.replace(offer, routed=any(map(is_routed, probe_addresses(offer))))

    def _held_ports(self) -> bytes:
        """Of thousands of tested ports those that programs listen on here."""
        parts = [part for text in self.options.ports for part in parse_ports(text)]
        tcp = [part for part in parts if part.transport == "tcp"]
        if sum(map(len, tcp)) < SEEK_FROM:
            return b""
        wanted = frozenset(port for part in tcp for port in part)
        return pack_ports(listening_ports() & wanted)

    def _resent(self) -> int:
        """Segments of the contact that this side had to send again since the test began."""
        link = self._channel.link if self._channel else None
        total = link.resent if link is not None else 0
        # A link that took over counts from its own beginning.
        before = self._resent_before if link is self._resent_on else 0
        return max(0, total - before)

    async def _drive(self, session: Session, channel: Channel) -> Outcome:
        while True:
            for order in self._take_orders(session):
                if isinstance(order, Conclude):
                    return self._conclude(order)
                self._carry_out(order, channel)
            event = await self._next_event()
            if self._is_of_the_loop(event, session):
                continue
            if isinstance(event, Bye | PeerLostError):
                return self._lost(why_left(event))
            if isinstance(event, _Deadline):
                if event.last:
                    return await self._out_of_time(channel)
                self._hurry(session)
            elif isinstance(event, _Reported):
                session.report(event.report)
            elif isinstance(event, Message):
                self._receive(session, event)

    def _hurry(self, session: Session) -> None:
        """The time allowed is over: end the test with what there is."""
        session.hurry()
        if self._sizes is not None:
            self._sizes.hurry()
        self._set_deadline(session, FINISH_SECONDS, last=True)

    def _is_of_the_loop(self, event: _Event, session: Session) -> bool:
        """Let --watch have what is its own; return whether the test need not care."""
        if self._watch is None:
            return False
        agreeing = session.state is State.AGREEING
        if self._watch.take(event, agreeing=agreeing):
            return True
        # The other side may have the verdict already, and its word is on the way.
        return isinstance(event, _Deadline) and agreeing and self._watch.on

    def _set_deadline(self, session: Session, seconds: float, *, last: bool) -> None:
        self._deadline = asyncio.get_running_loop().call_later(
            seconds, self._events.put_nowait, _Deadline(session, last)
        )

    async def _next_event(self) -> _Event:
        """Return what happens next, without what belongs to a test that has ended."""
        while True:
            event = self._early or await self._events.get()
            self._early = None
            if isinstance(event, _Reported | _Deadline) and (
                event.of is not self._session or self._prober is None
            ):
                continue
            return event

    def _receive(self, session: Session, message: Message) -> None:
        if isinstance(message, Where):
            return  # the two have moved already, and it was on the way still
        session.receive(message)
        if isinstance(message, Offer):
            self._agree_to_stay(message)
            self._begin_watching(session)

    def _agree_to_stay(self, theirs: Offer) -> None:
        """With --watch on either side both stay, from the first test on."""
        channel = self._channel
        if channel is None or self._watch is not None:
            return
        if not (self.options.watch or theirs.watch):
            return
        if not self.options.watch:
            self._say("The other side asked to keep testing (--watch). Ctrl-C ends both sides.")
        self._allowed = min(self.options.timeout, max(theirs.timeout, 0.0))
        self._watch = Watch(self.options.role, channel, self._events.put_nowait, self._screen)
        seeks = self.options.suggest or theirs.suggest
        both = (self.options.both_ways or theirs.both_ways) and not seeks
        wanted = self.options.ports or (theirs.ports if both else ())
        ports = [
            p for t in wanted for part in parse_ports(t) if part.transport == "tcp" for p in part
        ]
        self._watch.begin(ports, lambda: self._own.inodes if self._own else ())

    def _begin_watching(self, session: Session) -> None:
        """Both offers are known: what is to be watched, and between which addresses."""
        theirs = session.peer_offer
        link = self._link
        if theirs is None or link is None or self._own is None:
            return
        wanted = self.options.ports if self.options.role == DESTINATION else theirs.ports
        parts = [part for text in wanted for part in parse_ports(text)]
        if self.options.payload and not any(part.transport == "udp" for part in parts):
            self._say("--payload goes to UDP ports only, and the destination names none.")
        self._open_packets(parts)
        if self._prober is not None:
            self._prober.packets = self._packets
            self._prober.theirs = frozenset(map(bare, theirs.addresses))
            self._prober.control_port = self.options.control_port
            if self._contact is not None:
                self._prober.knock = self._contact.letter
        cards = {item.address: item.interface for item in self._facts.addresses}
        self._observer = Observer(
            self._recorder,
            self._own,
            {link.local: "", **cards},
            [self._remote(), *self._confirmed, *theirs.seen, *theirs.addresses],
            self._packets,
            self.options.service,
            self._make_opener(theirs),
            self.options.control_port,
            passes_on=self._facts.forwards is not False,
            proven=self._proven(),
        )
        self._test_sizes(link)

    def _test_sizes(self, link: Link) -> None:
        """Find out beside the rounds whether large packets pass, where this side can dial.

        Nowhere but where the other agent is known to listen; and where the two met by UDP, which
        may just have been faster, where it may.
        """
        dials = link.way == PUNCHED or (link.way == DIRECT and link.dialled)
        if not dials or self._keys is None or self._contact is None:
            return
        if bare(link.remote) in map(bare, self._contact.filtered(link.way)):
            # Who refuses by ICMP says one word a second: that is for the tested port.
            return
        key = self._keys.derive("sizes")
        self._sizes = SizeTest(
            key,
            link.remote,
            link.remote_port,
            self._allowed,
            answers=link.way == DIRECT,
        )
        self._sizes.start()

    def _proven(self) -> tuple[str, ...]:
        """Addresses at which the other side is known to be, and not by its word alone."""
        met = self._contact.proven if self._contact else ()
        return tuple(a for a in (self._remote(), *met, *self._confirmed) if a)

    def _make_opener(self, theirs: Offer) -> Opener:
        own = frozenset(bare(item.address) for item in self._facts.addresses)

        def public() -> tuple[str, ...]:
            # Requests are sent there, on which no router's word must lead to anybody else.
            said = self._seen_public(self._contact) if self._contact else ()
            seen = (bare(theirs.remote), *said)
            return tuple(a for a in dict.fromkeys(seen) if is_public(a) and a not in own)

        def others() -> tuple[str, ...]:
            # Proven ones alone: the other side's word is no reason to send anything anywhere.
            proven = (self._remote(), *(self._contact.proven if self._contact else ()))
            proven += self._confirmed
            return tuple(a for a in dict.fromkeys(map(bare, proven)) if is_public(a))

        return Opener(
            self._recorder,
            self._own_listeners(),
            public=public,
            others=others,
            control_port=self.options.control_port,
            mapper=self._make_mapper,
            say=self._say,
        )

    async def _make_mapper(self) -> PortOpener | None:
        await self._outside.finish()
        return self._outside.port_opener(keep=self.options.keep_map)

    def _own_listeners(self) -> OwnListeners:
        if self._own is None:
            raise ProtocolError("no test is on")
        return self._own

    def _open_packets(self, wanted: list[PortSet]) -> None:
        recorder = self._recorder
        try:
            self._packets = PacketWitness(
                [port for part in wanted if part.transport == "tcp" for port in part],
                recorder.sightings,
                recorder.clock,
                follow=self._facts.forwards is not False,
                udp=[port for part in wanted if part.transport == "udp" for port in part],
            )
        except OSError as error:
            recorder.witnesses["packets"] = Witness(
                name="packets", available=False, detail=os.strerror(error.errno or 0)
            )
            return
        self._packets.watch(asyncio.get_running_loop())

    @staticmethod
    def _take_orders(session: Session) -> list[Order]:
        orders = list(session.orders)
        session.orders.clear()
        return orders

    def _carry_out(self, order: Order, channel: Channel) -> None:
        if isinstance(order, Arm | Fire) and order.plan.kind == SWEEP:
            self._tell_progress(order.plan)
        if isinstance(order, Send):
            if isinstance(order.message, Mark) and self._prober and self._session:
                # Read before the first SYN, so that what was before can be told from it.
                self._prober.prepare(self._session.rounds[-1])
            channel.send(order.message)
        elif isinstance(order, Marked):
            if self._observer is not None:
                self._observer.mark()
        else:
            job = self._job(order, channel.rtt)
            if self._session is not None:
                self._jobs.start(self._work(self._session, job))

    def _tell_progress(self, plan: RoundPlan) -> None:
        theirs = self._session.peer_offer if self._session else None
        texts = self.options.ports or (theirs.ports if theirs else ())
        parts = [part for text in texts for part in parse_ports(text)]
        if self._progress is None:
            self._progress = SweepProgress(self._say, time.monotonic)
        self._progress.wave(plan, sum(len(part) for part in parts if part.transport == "tcp"))

    async def _work(self, session: Session, job: Coroutine[Any, Any, Report]) -> None:
        try:
            self._events.put_nowait(_Reported(session, await job))
        except asyncio.CancelledError:
            raise
        except Exception:
            # The main loop must not wait for a report that will never come; the error itself
            # is raised when the tasks are finished.
            self._events.put_nowait(PeerLostError("this side failed"))
            raise

    async def _job(self, order: Order, rtt: float) -> Report:
        prober, observer, rules = self._prober, self._observer, self._rules
        if prober is None or observer is None or rules is None:
            raise ProtocolError("a round before the offers")
        match order:
            case Arm(plan):
                return Armed(await observer.arm(plan), observer.spare, observer.gentle)
            case Fire(plan, own, spare, gentle):
                prober.heed(spare, gentle)
                await prober.fire(plan, own, rtt)
                return Fired()
            case Collect(plan):
                seen_here = await observer.collect(plan, rtt)
                cards = {item.address: item.interface for item in self._facts.addresses}
                udp = by_datagrams(plan)
                missing = {
                    (s.address, s.port)
                    for s in seen_here
                    if not (s.delivered or s.answered if udp else s.established)
                }
                stopped = [p for p in plan.probes if (p.address, p.port) in missing]
                inside = map(observer.inside, stopped)
                rules.want_awaited((p for p in inside if bare(p.address) in cards), cards)
                return Collected(seen_here, self._resent(), observer.swept)
            case Freeze():
                await observer.finish()
                await self._keep_outside()
                if self._sizes is not None:
                    self._recorder.sized = await self._sizes.finish()
                await rules.write(self._remote())
                if self._path() == RENDEZVOUS:
                    self._recorder.gateways = await gateway_neighbours()
                if self._watch is not None:
                    self._watch.look()
                return Frozen(pack(self._freeze()))
            case Gather(plan, seen, swept):
                tried = await prober.gather(plan, seen, rtt, swept)
                usual = (route for route in self._recorder.routes if route.usual)
                routes = {route.destination: route.interface or "" for route in usual}
                rules.want_sent((t.probe for t in tried if not t.connected), routes)
                return Gathered(tried, self._resent(), prober.swept)
        raise ProtocolError("an unknown order")

    async def _keep_outside(self) -> None:
        """Write down how this side is seen, waiting for it where that has to do with the test."""
        session = self._session
        own = {bare(item.address) for item in self._facts.addresses}
        theirs = session.peer_offer.addresses if session and session.peer_offer else ()
        known = own.union(map(bare, theirs))
        probes = [p for plan in (session.rounds if session else ()) for p in plan.probes]
        if any(bare(probe.address) not in known for probe in probes):
            await self._outside.finish()
        if self._contact is not None:
            self._recorder.seen_as = list(self._how_seen(self._contact))
        self._recorder.router_words = list(self._outside.words)
        self._recorder.behaviours = list(self._outside.behaviours)

    def _close_packets(self) -> None:
        if self._packets is not None:
            self._packets.drain()
            self._recorder.witnesses["packets"] = self._packets.state()
            self._packets.close()
            self._packets = None

    def _freeze(self) -> Evidence:
        self._close_packets()
        link, session, contact = self._link, self._session, self._contact
        if link is None or session is None or contact is None:
            raise ProtocolError("nothing to freeze")
        return self._recorder.freeze(
            session=contact.session,
            facts=self._facts,
            contact=ContactFacts(
                path=self._path(),
                local=link.local,
                remote=link.remote,
                rtt=self._channel.rtt if self._channel else 0.0,
                typed=self._typed,
                proven=contact.proven,
                refused=tuple(f"{place}: {what}" for place, what in contact.refusals.items()),
            ),
            rounds=session.rounds,
            ports=self.options.ports,
            service=self.options.service,
            targets=self._targets,
            peers=self._names[:MAX_NAMED],
            both_ways=self.options.both_ways,
            suggest=self.options.suggest,
        )

    def _path(self) -> str:
        if self._link is None:
            return "offline"
        if self._link.way != DIRECT:
            return self._link.way
        dialled_here = self._link.dialled == (self.options.role == SOURCE)
        return "direct" if dialled_here else "reverse"

    # Ends --------------------------------------------------------------------------------

    def _conclude(self, end: Conclude) -> Outcome:
        other = end.destination if self.options.role == SOURCE else end.source
        return Outcome(
            kept=self._kept(b"", other),
            verdict=end.verdict,
            source=end.source.facts,
            destination=end.destination.facts,
            outside={
                SOURCE: outside_facts(end.source),
                DESTINATION: outside_facts(end.destination),
            },
            contact=self._contact_facts(lost=False),
            seconds=self._seconds(),
        )

    async def _out_of_time(self, channel: Channel) -> Outcome:
        if self._watch is not None and self._watch.on:
            if self.options.role == SOURCE:
                return self._lost("the time allowed ran out")  # and the loop goes on
            raise LeftError(PeerLostError("the other side did not end its test"))
        channel.send(Bye(reason="timeout"))
        await channel.settle()
        return self._lost(f"the time allowed ({self.options.timeout:g} s) ran out")

    def _lost(self, reason: str) -> Outcome:
        evidence = self._freeze() if self._session is not None else None
        return Outcome(
            kept=self._kept(b"" if evidence is None else pack(evidence)),
            verdict=lost_verdict(
                evidence, f"The two sides could not agree on a verdict: {reason}."
            ),
            source=self._facts if self.options.role == SOURCE else None,
            destination=self._facts if self.options.role == DESTINATION else None,
            outside={} if evidence is None else {self.options.role: outside_facts(evidence)},
            contact=self._contact_facts(lost=True),
            seconds=self._seconds(),
        )

    def _kept(self, evidence: bytes, other: Evidence | None = None) -> Kept | None:
        """What is to be saved: what was frozen before both came to agree, else `evidence`."""
        session, contact = self._session, self._contact
        if session is None or contact is None:
            return None
        data = session.frozen or evidence
        return Kept(data, contact.code, self._keys, session.peer_digest, other) if data else None

    def _no_contact(self, reason: str) -> Outcome:
        return Outcome(
            verdict=Verdict(
                verdict_id=None, status="no-contact", reachable="unknown", summary=reason
            ),
            source=self._facts if self.options.role == SOURCE else None,
            destination=self._facts if self.options.role == DESTINATION else None,
            outside={self.options.role: self._outside_alone()},
            contact=self._contact_facts(lost=False),
            seconds=self._seconds(),
        )

    def _outside_alone(self) -> OutsideFacts:
        """What was told of this side by now, where nothing was frozen."""
        return tidy(
            OutsideFacts(
                seen_as=() if self._contact is None else self._how_seen(self._contact),
                router=self._outside.words,
                nat=tuple(self._outside.behaviours),
            )
        )

    def interrupt(self) -> None:
        """Ctrl-C: with --watch, once the first verdict stands, an end in order."""
        if self._watch is not None and self._watch.on and not self._stopping:
            self._stopping = True
            self._events.put_nowait(Stop(interrupted=True))
        elif self._task is not None:
            self._task.cancel()

    def interrupted(self) -> Outcome:
        """Return what can be said of a run that was interrupted."""
        if self._watch is not None and self._watch.on:
            return self._watch.outcome(interrupted=True)
        outcome = self._no_contact("Interrupted before the two sides had agreed on a verdict.")
        outcome.interrupted = True
        if self.paired:
            outcome.verdict = lost_verdict(None, outcome.verdict.summary)
            outcome.contact = self._contact_facts(lost=True)
        return outcome

    def _contact_facts(self, *, lost: bool) -> dict[str, object]:
        contact, link, channel = self._contact, self._link, self._channel
        return {
            "path": self._path(),
            "lost": lost,
            "local": link.local if link else None,
            "remote": link.remote if link else None,
            "rtt": round(channel.rtt, 6) if channel and channel.smallest_rtt else None,
            "breaks": channel.breaks if channel else 0,
            "refused": dict(contact.refusals) if contact else {},
        }

    def _seconds(self) -> dict[str, float]:
        now = time.monotonic()
        seconds = {"total": round(now - self._begun, 3)}
        if self._paired_at:
            seconds["contact"] = round(self._paired_at - self._begun, 3)
            seconds["verdict"] = round(now - self._paired_at, 3)
        return seconds

    async def _close(self) -> None:
        """Close everything in the order in which it depends on each other."""
        await self._stop_alone()
        await self._outside.close()
        # What is still under way must not start anything whose owner has been closed.
        self._tasks.cancel()
        if self._watch is not None:
            await self._watch.close()
        await self._end_test()
        if self._channel is not None:
            await self._say_bye(self._channel)
            await self._channel.close()
        if self._contact is not None:
            await self._contact.close()
        if self._discovery is not None:
            await self._discovery.close()
        await self._tasks.finish()

    async def _end_test(self) -> None:
        """Close what belongs to the test that is on; safe to call again."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._jobs.cancel()
        if self._prober is not None:
            self._prober.close()
            self._prober = None
        if self._observer is not None:
            await self._observer.close()
            self._observer = None
        if self._sizes is not None:
            await self._sizes.close()
            self._sizes = None
        self._close_packets()
        if self._rules is not None:
            await self._rules.close()
            self._rules = None
        if self._own is not None:
            await self._own.close()
            self._own = None
        await self._jobs.finish()

    async def _say_bye(self, channel: Channel) -> None:
        """On an interrupt, tell the other side at once instead of letting it wait."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            channel.send(Bye(reason="interrupted"))
            await asyncio.shield(channel.settle())


MAX_ROUTER_PORTS = 8
"""Ports that the router is asked about: each is a question of its own."""


def _router_ports(options: Options) -> list[tuple[str, int]]:
    """The ports that the router is asked about."""
    parts = [part for text in options.ports for part in parse_ports(text)]
    return [(part.transport, port) for part in parts for port in part][:MAX_ROUTER_PORTS]
