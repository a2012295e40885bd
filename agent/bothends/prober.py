"""The prober: fresh non-blocking connects, and what became of each.

The first attempt at a port is the cold one and goes alone; only where it does
not settle quickly are the others sent. Nobody waits for a time-out: what is
still open when all is sent is silent, and the other side's witnesses say why.

It connects and reads. It writes to a connection only after the far end has
spoken the other agent's own challenge, so a service never gets a byte from it.
By UDP it sends datagrams (`datagrams_sent`), which hold nothing either, unless the
user gave something.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from bothends_protocol.addresses import bare, is_private, is_public, normal
from bothends_protocol.bursts import WINDOW_SECONDS
from bothends_protocol.challenge import CHALLENGE_SIZE, answer
from bothends_protocol.counted import as_told, view_burst
from bothends_protocol.evidence import (
    Attempt,
    Burst,
    HopProbe,
    Icmp,
    Neighbour,
    Probe,
    RoundPlan,
    Swept,
)
from bothends_protocol.messages import SeenPort, Tried
from bothends_protocol.plan import (
    BURST,
    CERTAIN,
    CONNECT,
    LOSS,
    PINHOLE,
    SAMPLE,
    SWEEP,
    by_datagrams,
)
from bothends_protocol.ports import unpack_ports
from bothends_protocol.shares import LEAST_TRIES
from bothends_protocol.sweeps import answered
from bothends_protocol.tags import TRACE_TAG, tag_of
from bothends_protocol.ways import UNSENT, way_of

from .connects import (
    ask_for_errors,
    connecting,
    icmp_error,
    limit_hops,
    name_of,
    offer_segment_size,
    outcome_of,
)
from .datagrams_sent import hear, letter, send, socket_to
from .hops import SLACK_SECONDS, Lane, Tracer, farthest, has_expired
from .recorder import Recorder
from .routes import note_routes
from .streams import asked_again
from .sweep import SweepSender, SweepWitness
from .witness.counters import COUNTERS, UDP_COUNTERS, Sampler
from .witness.netlink import Flow, NetlinkError, neighbour_state
from .witness.packets import PacketWitness

__all__ = ["Prober"]

SETTLE_SECONDS = 0.02
"""Least time for an answer, beside two round trips: the other side's scheduling."""

NEIGHBOUR_SECONDS = 1.3
"""For a next hop to answer: the kernel asks again after 1 s (retrans_time_ms), and a sleeping
phone or laptop on Wi-Fi answers within a beacon or three."""

AFAR_SECONDS = 0.6
"""For answers by a way whose length nobody has measured: a satellite's round trip."""

NEIGHBOUR_PAUSE = 0.05

REFUSAL_SECONDS = 1.3
"""For an ICMP refusal where the host is known to refuse: Linux sends 6 of them to one peer and then
one a second (icmp_ratelimit), and those may have gone to what the contact sent. The kernel asks
again after 1 s, which is when the next one is due."""

ASK_AGAIN_SECONDS = 0.1
"""Between requests to a machine that may say one word a second."""

WORDS_SECONDS = 0.05
"""How long a service that accepted may take to speak or to close again, beside two round
trips: one that refuses its client at once does so at once."""

REFUSED_AGAIN_SECONDS = 0.2
"""Between datagrams at an address that may refuse once a second."""

INSIST_PAUSE = 0.04
"""Between further requests to a probe that is silent. All of them together take half a second: an
outage of a moment must not swallow each of them, and an answer from afar ends them."""

SHORT_PROBES = 2
"""Requests that are to end at the first router: it answers 6 at once, then one a second
(measured on Linux)."""

MAX_SHORT = 3
"""Probes for which such requests are sent: more would not all be answered."""

MAX_TRACED = 2
"""Probes whose way is traced: of many ports one or two stand for all, and what routers say of
expired requests is limited."""

FEW = 8
"""Connections of a sample after which it ends where none has failed: of two paths of which one
filters, all of them and the first attempt take the other twice in 1,000 times. Each is one that a
service may count as a client that came to nothing."""

FRESH = 4
"""Fresh connections beside the last tries of those that fail."""

MAX_DOUBTED = 3
"""Probes that are tried more often where they are refused across a router."""

TOGETHER = 4
"""Connections of a sample that are made at once: fewer than the queue of any service holds."""

LATER = (0.55, 0.0, 0.0)
"""Pauses before the last tries of connections that fail. A destination that still waits for the
end of an earlier handshake answers a further request from the same port once in half a second
(net/ipv4/tcp_input.c, tcp_oow_rate_limited): that ends the wait, and the next gets through."""

PACE_SECONDS = 0.004
"""Between the requests by which loss is measured: 250 a second, which every line carries, and
which no short disturbance swallows whole."""

LATE_SECONDS = 0.2
"""For the answers to the last of them, beside two round trips: a queue on the way."""

LOST_WORDS_SECONDS = 1.5
"""For what a program said or its goodbye to come, where it is known to have closed the connection
and nothing was heard: lost, it is sent again after 0.2, 0.6 and 1.4 s (RFC 6298, and the least
time-out of Linux)."""

_ANY: dict[int, str] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104  bound to connect from
_READ = 256


class _Try(msgspec.Struct):
    """One connect() under way."""

    probe: Probe
    own: bool
    hops: int = 0
    """Time to live that it was given; 0: as many as the system gives."""
    tag: int = 0
    """Maximum segment size that it offers, of our choice; 0: the system's."""
    sock: socket.socket | None = None
    started: float = 0.0
    ended: float | None = None
    outcome: str = "silent"
    error: str | None = None
    icmp: Icmp | None = None
    spoke: str = "nothing"
    local: tuple[str, int] = ("", 0)
    heard: bytearray = msgspec.field(default_factory=bytearray)
    nonce: bytes = b""
    """UDP: of the request to our own listener."""
    size: int = 0
    """UDP: bytes in the datagram."""

    @property
    def settled(self) -> bool:
        """Whether nothing more is expected of it."""
        if self.outcome == "silent":
            return False
        return self.outcome != "connected" or self.spoke != "nothing"


class Prober:
    """Carries out the probes of rounds. `key` is the session's challenge key."""

    def __init__(
        self, recorder: Recorder, key: bytes, known: str = "", payload: bytes = b""
    ) -> None:
        """`known` is the address to which round trips were measured: the contact's.

        `payload` is what datagrams to programs that are not ours hold.
        """
        self._payload = payload
        self._own: dict[Probe, bool] = {}
        """Where our own listener waits for datagrams, as the other side said last."""
        self._recorder = recorder
        self._known = bare(known) if known else ""
        self._key = key
        self.packets: PacketWitness | None = None
        """This side's packet witness, once it is open."""
        self.filtered: frozenset[str] = frozenset()
        """Addresses where a filter refused the contact."""
        self.theirs: frozenset[str] | None = None
        """The other side's own addresses, once it has said them."""
        self.control_port: int | None = None
        """The port beside the tested one by which hops are asked, too."""
        self.knock: Callable[[str, int], bytes] = lambda _address, _port: b""
        """Returns the datagram to which the other agent answers at that port."""
        self._tries: list[_Try] = []
        self._short: list[_Try] = []
        """Those with a small time to live."""
        self._shortened: set[Probe] = set()
        self._tracer = Tracer(recorder.clock)
        self._traced: set[Probe] = set()
        self._trips: dict[str, float] = {}
        """Longest round trip to a hop on the way to an address, in seconds."""
        self._sent = 0
        """Requests that were given a tag."""
        self._changed = asyncio.Event()
        self.swept: Swept | None = None
        """Of the last round, if that was a sweep."""
        self._sweep: SweepSender | None = None
        self._sweep_seen: SweepWitness | None = None
        self._spare: frozenset[int] = frozenset()
        self._gentle: frozenset[int] = frozenset()
        self._sampler = Sampler(recorder.clock)
        self._burst_sockets: list[socket.socket] = []

    def heed(self, spare: Iterable[int], gentle: Iterable[int]) -> None:
        """Send nothing to the ports `spare` in a sweep, and end nothing at `gentle` by a reset."""
        self._spare, self._gentle = frozenset(spare), frozenset(gentle)

    async def fire(
        self, plan: RoundPlan, own: tuple[tuple[str, str, int], ...], rtt: float
    ) -> None:
        """Send all probes of `plan`; return when nothing more is on its way out."""
        self._tries, self._short = [], []
        self.swept = None
        places = {(transport, bare(address), port) for transport, address, port in own}
        mine = {p: (p.transport, bare(p.address), p.port) in places for p in plan.probes}
        if plan.kind != BURST:
            for address in dict.fromkeys(probe.address for probe in plan.probes):
                flows = {
                    probe: Flow(probe.transport, destination_port=probe.port)
                    for probe in plan.probes
                    if probe.address == address and plan.kind != SWEEP
                }
                note_routes(self._recorder.routes, address, flows)
        if plan.kind == BURST:
            await self._burst(plan)
        elif plan.kind == PINHOLE:
            await self._through_pinhole(plan, own=mine, rtt=rtt)
        elif plan.kind == SAMPLE:
            await self._sample(plan, rtt)
        elif plan.kind == LOSS:
            await self._measure_loss(plan, rtt)
        elif plan.kind == SWEEP:
            await self._send_sweep(plan)
        elif by_datagrams(plan):
            await self._send_datagrams(plan, own=mine, rtt=rtt)
        else:
            await self._connect(plan, own=mine, rtt=rtt)

    async def _connect(self, plan: RoundPlan, *, own: Mapping[Probe, bool], rtt: float) -> None:
        """Connect to the probes of `plan`, once each, and again where nothing came of it."""
        for probe in plan.probes:
            self._start(probe, own=own[probe])
        await self._settle(SETTLE_SECONDS + 2 * rtt)
        if any(t.outcome == "connected" and not t.settled for t in self._tries):
            await self._settle(WORDS_SECONDS)
        # One connection that came about says it all, and a service with a short queue must
        # not be filled by its own test.
        pending = [p for p in plan.probes if not self._connected(p)]
        for _ in range(plan.attempts - 1):
            for probe in pending:
                self._start(probe, own=own[probe])
        await self._doubt(plan, [p for p in pending if self._is_refused_between(p)], own, rtt)
        traced = self._to_trace(plan, (p for p in pending if self._is_traced(p)))
        alone = [p for p in traced if self._insists_on(p)]
        await asyncio.gather(self._trace(plan, traced, rtt), self._insist(plan, alone, own=own))
        self._end_at_first_router(p for p in pending if p not in self._traced)
        if self._afar(plan):
            await self._settle(self._far_seconds(plan))
        # No wait for these: the barrier follows them on the same way, and the observer
        # gives them a grace. Only a challenge begun is heard to its end.
        if any(t.own and t.outcome == "connected" and not t.settled for t in self._tries):
            await self._settle(SETTLE_SECONDS + 2 * rtt)
        await self._await_refusal(plan.number)

    def _is_refused_between(self, probe: Probe) -> bool:
        """Whether all that ended was refused, across a router, perhaps by somebody between."""
        ended = [t for t in self._tries if t.probe == probe and t.outcome != "silent"]
        return bool(ended and self._gateway(probe.address)) and all(
            t.outcome in ("refused", "unreachable")
            and (t.icmp is None or bare(t.icmp.sender) != bare(probe.address))
            for t in ended
        )

    async def _doubt(
        self, plan: RoundPlan, probes: Sequence[Probe], mine: Mapping[Probe, bool], rtt: float
    ) -> None:
        """Try `probes` more often: of parallel paths one may refuse, and another let through.

        Of many ports a few: the others share the way.
        """
        for probe in probes[:MAX_DOUBTED]:
            for _ in range(CERTAIN - plan.attempts):
                self._start(probe, own=mine[probe])
        if probes:
            await self._settle(SETTLE_SECONDS + 2 * rtt)

    async def _send_datagrams(
        self, plan: RoundPlan, *, own: Mapping[Probe, bool], rtt: float
    ) -> None:
        """Send datagrams at the probes of `plan`: one each, and more where nothing came of it.

        At an address that a router translates nobody knows whom they reach: no request goes there.
        """
        self._own |= {p: mine and not self._is_foreign(p) for p, mine in own.items()}
        for probe in plan.probes:
            self._start(probe, own=self._own[probe])
        await self._settle(SETTLE_SECONDS + 2 * rtt)
        pending = [p for p in plan.probes if not self._connected(p)]
        for _ in range(plan.attempts - 1):
            for probe in pending:
                self._start(probe, own=self._own[probe])
        await self._trace(plan, self._to_trace(plan, filter(self._is_traced, pending)), rtt)
        if self._afar(plan):
            await self._settle(self._far_seconds(plan))
        # What an own listener answers comes behind the last of them.
        await self._settle(SETTLE_SECONDS + 2 * rtt)
        waiting = [p for p in pending if p.address in self.filtered]
        if not waiting or not all(map(self._is_silent, waiting)):
            return
        if any(map(self._is_foreign, waiting)):
            await self._await_refusal(plan.number)
            return
        until = self._recorder.clock() + REFUSAL_SECONDS
        while self._is_silent(waiting[0]) and self._recorder.clock() < until:
            self._start(waiting[0], own=self._own[waiting[0]])
            await self._settle(REFUSED_AGAIN_SECONDS)
        if self._is_silent(waiting[0]):
            self.filtered = frozenset()  # it does not refuse: no need to wait again

    async def _through_pinhole(
        self, plan: RoundPlan, *, own: Mapping[Probe, bool], rtt: float
    ) -> None:
        """Connect from the ports for which the other side has opened its router from inside.

        By UDP nobody knows whom a datagram reaches behind a router: no request goes there.
        """
        ports = iter(plan.local_ports)
        for probe in plan.probes:
            mine = own[probe] and not (probe.transport == "udp" and self._is_foreign(probe))
            for _ in range(plan.attempts):
                self._start(probe, own=mine, local_port=next(ports, 0))
        await self._settle(SETTLE_SECONDS + 2 * rtt)
        if self._afar(plan):
            await self._settle(self._far_seconds(plan))

    async def _sample(self, plan: RoundPlan, rtt: float) -> None:
        """Connect from each of the plan's ports; those that fail again and again from the same.

        Parallel paths are chosen by addresses and ports, so that each always takes the same one:
        what fails there fails for ever, and what was lost by chance comes through in the end.
        """
        probe = plan.probes[0]
        wait = 2 * rtt + SETTLE_SECONDS
        mixed = self._failed_before(probe)
        for first in range(0, len(plan.local_ports), TOGETHER):
            some = plan.local_ports[first : first + TOGETHER]
            await self._at_once(probe, some, wait)
            if first + TOGETHER >= FEW and not mixed and not self._failing(plan.local_ports):
                return  # a service counts connections that come to nothing
        failing = self._failing(plan.local_ports)
        if len(failing) == len(plan.local_ports):
            return
        for _ in range(plan.attempts - 1 - len(LATER)):
            if not failing or self._tries_from(failing) >= LEAST_TRIES + len(failing):
                break
            await self._at_once(probe, failing, wait)
            failing = self._failing(failing)
        for pause in LATER:
            if failing:
                await asyncio.sleep(pause)
                # Fresh ones beside them: a limit for connections lets those in no more either.
                await self._at_once(probe, [*failing, *[0] * FRESH], wait)
                failing = self._failing(failing)

    def _failed_before(self, probe: Probe) -> bool:
        """Whether any earlier attempt at `probe` failed."""
        place = (probe.transport, probe.address, probe.port)
        return any(
            (a.transport, a.address, a.port) == place and a.outcome != "connected"
            for a in self._recorder.attempts
        )

    async def _at_once(self, probe: Probe, ports: Sequence[int], wait: float) -> None:
        """Connect from each of `ports`, and close again: a service is to get its queue back."""
        began = len(self._tries)
        for port in ports:
            self._start(probe, own=False, local_port=port)
        fresh = self._tries[began:]
        await self._until_told(fresh, wait)
        for item in fresh:
            self._close(item)

    def _failing(self, ports: Sequence[int]) -> list[int]:
        """Those of `ports` from which something was sent and nothing connected."""
        there = {t.local[1] for t in self._tries if t.outcome == "connected"}
        sent = {t.local[1] for t in self._tries if t.outcome not in UNSENT}
        return [port for port in ports if port in sent - there]

    def _tries_from(self, ports: Sequence[int]) -> int:
        return sum(t.local[1] in ports for t in self._tries)

    async def _measure_loss(self, plan: RoundPlan, rtt: float) -> None:
        """Send requests at a steady pace, and wait for what is still under way."""
        for _ in range(plan.attempts):
            self._start(plan.probes[0], own=False)
            await asyncio.sleep(PACE_SECONDS)
        await self._until_told(self._tries, 2 * rtt + LATE_SECONDS)

    async def _send_sweep(self, plan: RoundPlan) -> None:
        """Send one request to each port of a sweep."""
        self._sweep = SweepSender(plan, self._spare, self._gentle)
        self._sweep_seen = None
        if self.packets is not None:
            address = plan.probes[0].address
            self._sweep_seen = SweepWitness(self._sweep.ports, (), (address,), sends=True)
            self.packets.divert(self._sweep_seen.take)
        await self._sweep.fire(self._look_at_packets)

    def _look_at_packets(self) -> None:
        if self.packets is not None:
            self.packets.drain()

    async def _end_sweep(self, came: Swept | None, rtt: float) -> None:
        """Note what came of the sweep, after what the other side says of it."""
        if self._sweep is None:
            return
        seconds = SETTLE_SECONDS + 2 * rtt
        self.swept = await self._sweep.gather(answered(came), seconds, self._sweep_seen)
        if self.packets is not None:
            self.packets.divert(None)
        self._sweep = None
        self._recorder.swept.append(self.swept)
        if unpack_ports(self.swept.sets["icmp"]):
            self.filtered |= {self.swept.address}

    def _to_trace(self, plan: RoundPlan, probes: Iterable[Probe]) -> list[Probe]:
        """Return those of `probes` whose way is to be traced now: once each, and not all."""
        if plan.kind != CONNECT:
            return []
        fresh = [probe for probe in dict.fromkeys(probes) if probe not in self._traced]
        chosen = fresh[: MAX_TRACED - len(self._traced)]
        self._traced.update(chosen)
        return chosen

    async def _insist(
        self, plan: RoundPlan, probes: Sequence[Probe], *, own: Mapping[Probe, bool]
    ) -> None:
        """Send further requests to those of `probes` that stay silent, while hops are asked.

        A further round would send as many, and wait for as long again. Not where a filter is known
        that says one word a second: that is for the hops.
        """
        for _ in range(CERTAIN - plan.attempts):
            silent = [p for p in probes if p.address not in self.filtered and self._is_silent(p)]
            if not silent:
                return
            for probe in silent:
                self._start(probe, own=own[probe])
            await asyncio.sleep(INSIST_PAUSE)

    def _is_silent(self, probe: Probe) -> bool:
        return all(t.outcome == "silent" for t in self._tries if t.probe == probe)

    async def _trace(self, plan: RoundPlan, probes: Iterable[Probe], rtt: float) -> None:
        """Ask the hops on the way to each of `probes`, one after the other."""
        for probe in probes:
            control = self.control_port if self.control_port != probe.port else None
            other = None if control is None else Lane(control)
            if control is not None and probe.transport == "udp":
                other = Lane(control, letter=self.knock(probe.address, control))
            found = await self._tracer.follow(
                plan.number, probe.address, self._lane(probe), other, trip=rtt
            )
            self._recorder.hop_probes.extend(found)
            trip = max(self._trips.get(probe.address, 0.0), farthest(found))
            if trip:
                self._trips[probe.address] = trip

    def _lane(self, probe: Probe) -> Lane:
        return Lane(probe.port, letter=self._payload if probe.transport == "udp" else None)

    def _is_foreign(self, probe: Probe) -> bool:
        """Whether the address is none of the other side's own, so that a router must translate."""
        return self.theirs is not None and bare(probe.address) not in self.theirs

    def _is_traced(self, probe: Probe) -> bool:
        """Whether hops on the way to the address may tell where requests end.

        There must be some, and nobody may have said who ended them.
        """
        if self._insists_on(probe):
            return True
        ended = [t for t in self._tries if t.probe == probe and t.outcome != "silent"]
        named = ended and all(t.icmp is not None for t in ended)
        return self._gateway(probe.address) is not None and not named

    def _insists_on(self, probe: Probe) -> bool:
        """Whether only the hops tell where requests end, and no witness at the other end.

        So it is where a router must translate the address; and where an inside address of the
        other side, which is known elsewhere, may lead out into the Internet.
        """
        inside = is_private(bare(probe.address)) and is_public(self._known)
        return self._is_foreign(probe) or (inside and self._gateway(probe.address) is not None)

    def _is_mapped(self, probe: Probe) -> bool:
        """Whether the machine with the address was seen to pass requests to the port on."""
        return any(
            p.outcome == "expired" and p.icmp is not None and p.icmp.sender == bare(probe.address)
            for p in self._recorder.hop_probes
            if (p.transport, p.address, p.port) == (probe.transport, probe.address, probe.port)
        )

    async def _await_refusal(self, number: int) -> None:
        """Where a filter refused the contact and all is silent: wait until it may refuse again.

        Behind a router that translates, its one word is best spent on a request that ends at the
        router: it says whether the router itself refuses, or passes on.
        """
        waiting = [t for t in self._tries if t.probe.address in self.filtered]
        if not waiting or any(t.outcome != "silent" for t in waiting):
            return
        asking = asyncio.ensure_future(self._ask_holder(number, waiting[0].probe))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFUSAL_SECONDS):
                    while all(t.outcome == "silent" for t in waiting) and not asking.done():
                        self._changed.clear()
                        asking.add_done_callback(lambda _: self._changed.set())
                        await self._changed.wait()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        if all(t.outcome == "silent" for t in waiting):
            self.filtered = frozenset()  # it does not: no need to wait again

    async def _ask_holder(self, number: int, probe: Probe) -> None:
        """Ask the hop behind the last one that spoke, again and again until it says something."""
        asked = [p for p in self._recorder.hop_probes if p.transport == probe.transport]
        way = way_of(asked, probe.address, probe.port)
        if probe not in self._traced or (way.end and way.end[0] <= way.last + 1):
            await asyncio.Event().wait()  # there is nothing to ask; others are waited for
        while True:
            found = await self._tracer.ask(
                number, probe.address, self._lane(probe), way.last + 1, ASK_AGAIN_SECONDS
            )
            if found.outcome != "silent":
                self._recorder.hop_probes.append(found)
                return

    async def gather(
        self,
        plan: RoundPlan,
        seen: tuple[SeenPort, ...],
        rtt: float,
        swept: Swept | None = None,
    ) -> tuple[Tried, ...]:
        """Close the attempts; return the outcomes of each probe.

        Of a sweep `swept` is what the other side says, and what came of it stands in `swept` here.
        """
        if plan.kind == SWEEP:
            await self._end_sweep(swept, rtt)
            return ()
        if plan.kind == BURST:
            return self._end_burst(plan)
        if plan.kind in (SAMPLE, LOSS):
            self._write_down(plan)
            return self._outcomes(plan)
        answers = sum(item.answered or 0 for item in seen)
        if answers > sum(t.outcome != "silent" for t in self._tries):
            await self._settle(SETTLE_SECONDS + 2 * rtt)
        if any(item.closing for item in seen):
            await self._hear(LOST_WORDS_SECONDS)
        unseen = {(bare(item.address), item.port) for item in seen if not item.delivered}
        late = (
            p
            for p in plan.probes
            if p.transport == "tcp"
            and (self._is_foreign(p) or self._gateway(p.address))
            and (bare(p.address), p.port) in unseen
            and not self._answered_by_peer(p)
        )
        await self._trace(plan, self._to_trace(plan, late), rtt)
        for address in dict.fromkeys(probe.address for probe in plan.probes):
            await self._look_at_neighbour(plan.number, address)
        self._write_down(plan)
        return self._outcomes(plan)

    def _write_down(self, plan: RoundPlan) -> None:
        for item in self._tries:
            counts = plan.kind == LOSS and item.outcome == "connected"
            if counts and item.sock is not None and asked_again(item.sock):
                item.outcome, item.ended = "silent", None  # what was asked first came to nothing
            self._close(item)
            self._recorder.attempts.append(self._record(plan.number, item))
        for item in self._short:
            self._close(item)
            self._recorder.hop_probes.append(_short(plan.number, item))

    def close(self) -> None:
        """Close what is still open; safe to call again."""
        for item in (*self._tries, *self._short):
            self._close(item)
        if self._sweep is not None:
            self._sweep.close()
        self._tracer.close()
        self._close_burst()
        self._sampler.close()

    def _answered_by_peer(self, probe: Probe) -> bool:
        return any(t.probe == probe and t.spoke == "challenge" for t in self._tries)

    def _outcomes(self, plan: RoundPlan) -> tuple[Tried, ...]:
        probes = plan.probes
        tries: dict[Probe, list[_Try]] = {probe: [] for probe in probes}
        for item in self._tries:
            tries[item.probe].append(item)
        there = {a.address for a in self._recorder.attempts if a.outcome not in UNSENT}
        gone = self._gone(probes[0].transport) if probes else None
        beside = Counter(
            Probe(transport=p.transport, address=p.address, port=p.port)
            for p in self._recorder.hop_probes
            if p.round == plan.number and p.outcome == "connected"
        )
        return tuple(
            self._outcome(
                probe, mine, routed=probe.address in there, gone=gone, beside=beside[probe]
            )
            for probe, mine in tries.items()
        )

    def _outcome(
        self,
        probe: Probe,
        mine: list[_Try],
        *,
        routed: bool,
        gone: set[int] | None,
        beside: int,
    ) -> Tried:
        """Sum up what became of `mine`, all tries of the round at `probe`.

        `gone` are the ports from which requests were seen to leave, if that could be seen.
        `routed` is whether there is a route to the address. Where a try of this round found none,
        the card was down just then, and took its routes with it: that says nothing about the port,
        and it is tried again. Where a rule keeps just this port from a route, that shows again.
        """
        made = [t for t in mine if t.outcome != "no-route" or not routed]
        return Tried(
            probe=probe,
            attempts=len(made),
            connected=sum(t.outcome == "connected" for t in made),
            silent=sum(t.outcome == "silent" for t in made),
            explained=sum(self._explained(t) for t in made),
            left=None if gone is None else len(gone & {t.local[1] for t in made}),
            mapped=self._is_mapped(probe),
            routed=self._gateway(probe.address) is not None,
            void=len(mine) - len(made),
            beside=beside,
        )

    def _explained(self, item: _Try) -> bool:
        """Whether the outcome tells by itself who ended the attempt."""
        if item.icmp is not None and item.icmp.sender == bare(item.probe.address):
            # A router that translates says so in the name of whoever is behind it, too.
            return not self._is_foreign(item.probe)
        return item.icmp is not None or item.outcome in UNSENT or item.spoke == "challenge"

    def _gone(self, transport: str) -> set[int] | None:
        if self.packets is None:
            return None
        self.packets.drain()
        return {
            s.source_port
            for s in self._recorder.sightings
            if s.way == "out"
            and s.transport == transport
            and s.icmp is None
            and (s.flags == "S" or transport == "udp")
        }

    async def _burst(self, plan: RoundPlan) -> None:
        """Send the coded burst; the kernel's counters tell on both sides where it got to."""
        clock = self._recorder.clock
        zero = clock()
        self._sampler.mark()
        probe = plan.probes[0]
        sends: list[float] = []
        for window, full in enumerate(plan.pattern):
            await asyncio.sleep(zero + window * WINDOW_SECONDS - clock())
            for _ in range(plan.attempts if full == "1" else 0):
                sock = self._burst_socket(probe)
                if sock is not None:
                    self._burst_sockets.append(sock)
                    sends.append(round(clock() - zero, 6))
        await asyncio.sleep(zero + len(plan.pattern) * WINDOW_SECONDS - clock())
        if self._afar(plan):
            await asyncio.sleep(self._far_seconds(plan))
        self._recorder.bursts.append(
            Burst(
                round=plan.number,
                transport=probe.transport,
                address=probe.address,
                port=probe.port,
                sends=tuple(sends),
            )
        )

    def _burst_socket(self, probe: Probe) -> socket.socket | None:
        """Send one request of a burst; return its socket, None where it could not be sent."""
        if probe.transport != "udp":
            return connecting(probe)
        try:
            sock = socket_to(probe)
        except OSError:
            return None
        # Where this system refuses to send, its counters show that.
        own = self._own.get(probe, False)
        send(sock, letter(self._key, self._payload, own=own).data)
        return sock

    def _end_burst(self, plan: RoundPlan) -> tuple[Tried, ...]:
        samples = self._sampler.stop(plan.number)
        if samples is not None:
            self._recorder.samples.append(samples)
        self._close_burst()
        sent = self._recorder.bursts[-1]
        view = view_burst(sent, samples, None, taken=None)
        return (Tried(probe=plan.probes[0], attempts=0, connected=0, silent=0, told=as_told(view)),)

    def _close_burst(self) -> None:
        for sock in self._burst_sockets:
            sock.close()
        self._burst_sockets.clear()

    def _afar(self, plan: RoundPlan) -> bool:
        """Whether a probe goes another way than the contact, how long that way may be."""
        return any(bare(probe.address) != self._known for probe in plan.probes)

    def _far_seconds(self, plan: RoundPlan) -> float:
        """How long an answer to any of the probes may take, as far as that was measured."""
        trips = [self._trips.get(probe.address) for probe in plan.probes]
        known = [trip for trip in trips if trip is not None]
        return 3 * max(known) + SLACK_SECONDS if len(known) == len(trips) else AFAR_SECONDS

    def prepare(self, plan: RoundPlan) -> None:
        """Begin to read the counters, ahead of the burst `plan`."""
        address = plan.probes[0].address
        card = next((r.interface for r in self._recorder.routes if r.destination == address), None)
        counters = UDP_COUNTERS if by_datagrams(plan) else COUNTERS
        self._sampler.start(card=card or "", wanted=counters)

    def _connected(self, probe: Probe) -> bool:
        return any(t.probe == probe and t.outcome == "connected" for t in self._tries)

    async def _settle(self, seconds: float) -> None:
        """Wait until every attempt has settled, `seconds` at most."""
        await self._until(lambda: all(t.settled for t in self._tries), seconds)

    async def _hear(self, seconds: float) -> None:
        """Wait until every connection has said something, `seconds` at most."""
        await self._until(
            lambda: all(t.settled for t in self._tries if t.outcome == "connected"), seconds
        )

    async def _until_told(self, tries: Sequence[_Try], seconds: float) -> None:
        """Wait until something came of each of `tries`, `seconds` at most."""
        await self._until(lambda: all(t.outcome != "silent" for t in tries), seconds)

    async def _until(self, done: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not done():
                    self._changed.clear()
                    await self._changed.wait()

    def _end_at_first_router(self, probes: Iterable[Probe]) -> None:
        """Send requests whose time runs out at the first router, once for each of `probes`."""
        for probe in probes:
            full = len(self._shortened) >= MAX_SHORT
            if full or probe in self._shortened or not self._gateway(probe.address):
                continue
            self._shortened.add(probe)
            for _ in range(SHORT_PROBES):
                self._start(probe, own=False, hops=1)

    def _gateway(self, address: str) -> str | None:
        routes = self._recorder.routes
        return next((r.gateway for r in routes if r.destination == address), None)

    def _start(self, probe: Probe, *, own: bool, hops: int = 0, local_port: int = 0) -> None:
        item = _Try(probe, own, hops, started=self._recorder.clock())
        (self._short if hops else self._tries).append(item)
        if probe.transport == "udp":
            self._send(item, local_port)
            return
        try:
            kind, name = name_of(probe.address, probe.port)
            item.sock = socket.socket(kind, socket.SOCK_STREAM)
            item.sock.setblocking(False)
            ask_for_errors(item.sock)
            self._mark(item)
            if local_port:
                item.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                item.sock.bind((_ANY[kind], local_port))
            result = item.sock.connect_ex(name)
        except OSError as error:
            self._fail(item, error.errno or 0, at_once=True)
            return
        self._note_local(item)
        if result == 0:
            self._on_connected(item)
        elif result in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            loop = asyncio.get_running_loop()
            loop.add_writer(item.sock.fileno(), self._on_writable, item)
        else:
            self._fail(item, result, at_once=True)

    def _send(self, item: _Try, local_port: int = 0) -> None:
        """Send the one datagram of a try."""
        try:
            item.sock = socket_to(item.probe, local_port)
        except OSError as error:
            self._fail(item, error.errno or 0, at_once=True)
            return
        self._note_local(item)
        written = letter(self._key, self._payload, own=item.own)
        item.nonce, item.size = written.nonce, len(written.data)
        failed = send(item.sock, written.data)
        if failed:
            self._fail(item, failed, at_once=True)
        # Also where it failed: a filter of this host that refuses says so by ICMP as well.
        asyncio.get_running_loop().add_reader(item.sock.fileno(), self._on_datagram, item)

    def _on_datagram(self, item: _Try) -> None:
        if item.sock is None:
            return
        heard = hear(item.sock, self._key, item.nonce)
        if heard.spoke != "nothing":
            if item.ended is None or item.outcome != "connected":
                item.ended = self._recorder.clock()
            item.outcome, item.error, item.icmp = "connected", None, None
            if item.spoke != "challenge":
                item.spoke = heard.spoke
        elif heard.error and item.outcome != "connected":
            self._fail(item, heard.error, at_once=False)
            item.icmp = heard.icmp or item.icmp
        self._changed.set()

    def _mark(self, item: _Try) -> None:
        """Give the request its tag, or let its time run out on the way."""
        if item.sock is None:
            return
        if item.hops:
            limit_hops(item.sock, item.hops)
            offer_segment_size(item.sock, TRACE_TAG)
        elif offer_segment_size(item.sock, tag_of(self._sent)):
            item.tag = tag_of(self._sent)
            self._sent += 1

    def _note_local(self, item: _Try) -> None:
        if item.sock is not None and item.local == ("", 0):
            with contextlib.suppress(OSError):
                name = item.sock.getsockname()
                item.local = normal(str(name[0])), int(name[1])

    def _on_writable(self, item: _Try) -> None:
        if item.sock is None:
            return
        asyncio.get_running_loop().remove_writer(item.sock.fileno())
        # In this order: reading the error queue takes the socket's pending error away
        # (net/core/skbuff.c, sock_dequeue_err_skb), and a refusal would look like success.
        error = item.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        item.icmp = icmp_error(item.sock)
        if error == errno.ECONNRESET:
            # A reset of the request itself says ECONNREFUSED (net/ipv4/tcp_input.c, tcp_reset):
            # this connection stood, and was cut off at once.
            self._on_connected(item)
            item.spoke = "closed"
        elif error:
            self._fail(item, error, at_once=False)
        else:
            self._on_connected(item)

    def _on_connected(self, item: _Try) -> None:
        item.outcome = "connected"
        item.ended = self._recorder.clock()
        self._changed.set()
        if item.sock is not None:
            loop = asyncio.get_running_loop()
            loop.add_reader(item.sock.fileno(), self._on_readable, item)

    def _on_readable(self, item: _Try) -> None:
        if item.sock is None:
            return
        try:
            data = item.sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            item.heard += data[: CHALLENGE_SIZE + 1]
        if not data or len(item.heard) >= CHALLENGE_SIZE or not item.own:
            self._judge_words(item, ended=not data)

    def _judge_words(self, item: _Try, *, ended: bool) -> None:
        if item.sock is None:
            return
        asyncio.get_running_loop().remove_reader(item.sock.fileno())
        reply = answer(self._key, bytes(item.heard[:CHALLENGE_SIZE]))
        if reply is not None:
            item.spoke = "challenge"
            with contextlib.suppress(OSError):
                item.sock.send(reply)
        elif item.heard:
            item.spoke = "other"
        elif ended:
            item.spoke = "closed"
        self._changed.set()

    def _fail(self, item: _Try, number: int, *, at_once: bool) -> None:
        name = errno.errorcode.get(number, str(number))
        item.error = name
        item.ended = self._recorder.clock()
        item.outcome = outcome_of(number, at_once=at_once)
        self._changed.set()

    def _close(self, item: _Try) -> None:
        if item.sock is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_writer(item.sock.fileno())
        loop.remove_reader(item.sock.fileno())
        item.sock.close()
        item.sock = None

    def _record(self, number: int, item: _Try) -> Attempt:
        return Attempt(
            round=number,
            transport=item.probe.transport,
            address=item.probe.address,
            port=item.probe.port,
            local_address=item.local[0],
            local_port=item.local[1],
            started=item.started,
            ended=item.ended,
            outcome=item.outcome,
            error=item.error,
            icmp=item.icmp,
            spoke=item.spoke,
            tag=item.tag,
            size=item.size,
        )

    async def _look_at_neighbour(self, number: int, address: str) -> None:
        """Note the next hop's state: unresolved, it looks just like a filter on this host.

        One that has not answered yet is given until the kernel has asked it a second time;
        while it is not resolved nothing leaves, so nothing is lost by waiting.
        """
        # Rules may lead some of its ports by another router.
        hops = {
            (r.gateway or address, r.interface): None
            for r in self._recorder.routes
            if r.destination == address and r.interface
        }
        begun = (
            t.started for t in self._tries if t.probe.address == address and t.outcome not in UNSENT
        )
        until = min(begun, default=self._recorder.clock()) + NEIGHBOUR_SECONDS
        for hop, interface in hops:
            found = await self._neighbour(hop, interface, until)
            if found is not None:
                self._recorder.neighbours.append(
                    Neighbour(
                        destination=address,
                        next_hop=hop,
                        interface=interface,
                        state=found[0],
                        hardware=found[1],
                        round=number,
                    )
                )

    async def _neighbour(
        self, hop: str, interface: str, until: float
    ) -> tuple[str, str | None] | None:
        with contextlib.suppress(NetlinkError):
            found = neighbour_state(hop, interface)
            while found is not None and found[0] == "incomplete" and self._recorder.clock() < until:
                await asyncio.sleep(NEIGHBOUR_PAUSE)
                found = neighbour_state(hop, interface)
                if found is not None and found[0] == "reachable":
                    await self._settle(SETTLE_SECONDS)
            return found
        return None


def _short(number: int, item: _Try) -> HopProbe:
    expired = has_expired(item.icmp, item.probe.address)
    return HopProbe(
        round=number,
        transport=item.probe.transport,
        address=item.probe.address,
        port=item.probe.port,
        hops=item.hops,
        outcome="expired" if expired else item.outcome,
        icmp=item.icmp,
    )
