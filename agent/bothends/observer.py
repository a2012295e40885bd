"""The observer: arms the witnesses before a round and says afterwards what they hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec.structs import replace

from bothends_protocol.addresses import (
    bare,
    family,
    is_link_local6,
    is_loopback,
    is_wildcard,
)
from bothends_protocol.counted import (
    as_told,
    kept_back,
    met_full_queue,
    nominal,
    rise,
    view_burst,
)
from bothends_protocol.evidence import (
    Connection,
    Listener,
    Neighbour,
    OwnListener,
    Probe,
    Return,
    RoundPlan,
    Route,
    Samples,
    Sighting,
    Swept,
    Witness,
)
from bothends_protocol.messages import SeenPort
from bothends_protocol.plan import (
    BURST,
    LOSS,
    MAPPED,
    PINHOLE,
    SAMPLE,
    SWEEP,
    by_datagrams,
    swept_ports,
)
from bothends_protocol.ports import pack_ports
from bothends_protocol.services import is_supervisor, takes_from
from bothends_protocol.sweeps import MAX_HELD
from bothends_protocol.tags import TRACE_TAG

from .datagrams import datagrams_read
from .datagrams_seen import DatagramsSeen
from .listener import OwnListeners
from .opener import Opener
from .queues import READ_SECONDS, QueueWatch
from .recorder import Recorder
from .routes import note_routes
from .self_test import SelfTest
from .sweep import SweepTaker, SweepWitness
from .way_back import WayBack
from .witness.counters import COUNTERS, UDP_COUNTERS, Sampler
from .witness.netlink import Flow, NetlinkError, neighbour_state, returns_from
from .witness.packets import PacketWitness
from .witness.sockets import (
    connections,
    half_open_ports,
    is_running,
    listeners,
    listening_ports,
    read_table,
    read_udp_table,
    service_listeners,
)

__all__ = ["GRACE_SECONDS", "Observer"]

GRACE_SECONDS = 0.03
"""Least time after the barrier for what is still in the host's own queues, beside two
round trips for what the barrier may have overtaken."""

HUNG_SECONDS = 1.5
"""A connection that no program has taken for so long will not be taken: a busy program is
slow by tenths of seconds."""

_ENDED = ("FIN_WAIT1", "FIN_WAIT2", "CLOSING")
"""States of a connection that its program has closed, and the other end not yet."""

HUNG_PAUSE = 0.02

_OUTGOING = ("SYN_SENT",)
"""States of a connection that the host itself began."""

MAX_PLACES = 16
"""Own addresses at which requests from behind the router are waited for."""

MAX_PEER_ADDRESSES = 16
"""Addresses of the other side for which the way back is looked up."""


class Observer:
    """Watches the rounds that the other side probes."""

    def __init__(  # noqa: PLR0913, PLR0917  each is a part of its own, handed in once
        self,
        recorder: Recorder,
        own: OwnListeners,
        addresses: Mapping[str, str],
        peer_addresses: Collection[str],
        packets: PacketWitness | None,
        service: str | None,
        opener: Opener | None = None,
        control_port: int = 0,
        *,
        passes_on: bool = False,
        proven: Collection[str] = (),
    ) -> None:
        """`opener` works at this side's router where the tested address is not its own.

        `passes_on` is whether this host may pass packets on to others (containers); `proven` are
        those of `peer_addresses` at which the other side is known to be.
        """
        self._proven = frozenset(map(bare, proven))
        self._passes_on = passes_on
        self._opener = opener
        self._control_port = control_port
        self._recorder = recorder
        self._own = own
        self._addresses = {bare(address): card for address, card in addresses.items()}
        self._peers = [bare(a) for a in peer_addresses if a][:MAX_PEER_ADDRESSES]
        self._packets = packets
        self._service = service
        self._sampler = Sampler(recorder.clock, own=datagrams_read)
        self._way_back = WayBack(recorder, own, packets)
        self._self_test = SelfTest(recorder.self_connects.append)
        self._queues = QueueWatch(recorder.clock)
        self._waiting_at: set[Probe] = set()
        """Where the agent itself listens, wherever that comes in."""
        self.swept: Swept | None = None
        """Of the last round, if that was a sweep."""
        self.spare = self.gentle = b""
        """Ports of programs in the sweep that is armed (`messages.Ready`)."""
        self._sweep: SweepTaker | None = None
        self._sweep_seen: SweepWitness | None = None
        self._indexed: tuple[tuple[int, int], DatagramsSeen] | None = None
        self._mark = 0
        self._round = 0
        self._before = {
            _ends(row) for row in connections(read_table(listening=False) or (), None, 0)
        }
        """Connections that were there before the test: of an earlier one, or of the real program.
        They say nothing of its requests."""

    async def arm(self, plan: RoundPlan) -> tuple[tuple[str, str, int], ...]:
        """Get ready for `plan`, at the own router too; return where this agent listens."""
        self.swept = None
        self.spare = self.gentle = b""
        if plan.kind == SWEEP:
            await self._begin_sweep(plan)
            return ()
        opened = self.listen(plan)
        if self._opener is not None and plan.kind == PINHOLE:
            await self._opener.open_pinhole(plan, self.landing(plan.probes[0].address))
        if self._opener is not None and plan.kind == MAPPED:
            await self._opener.open_mappings(plan)
        return opened

    def listen(self, plan: RoundPlan) -> tuple[tuple[str, str, int], ...]:
        """Note who listens, listen where nobody does; return where this agent listens."""
        udp = by_datagrams(plan)
        counters = UDP_COUNTERS if udp else COUNTERS
        if plan.kind == BURST:
            card = self._addresses.get(bare(plan.probes[0].address), "")
            self._sampler.start(card=card, wanted=counters)
            return ()
        self._sampler.start(once=True, wanted=counters)
        if plan.kind in (SAMPLE, LOSS):
            return ()  # of the many connections it counts only which of them came about
        self._round = plan.number
        ports = {probe.port for probe in plan.probes}
        self._note_listeners(ports, udp=udp)
        if udp:
            self._queues.begin(ports, self._own.inodes)
        self._drain()
        self._mark = len(self._recorder.sightings)
        # Before listeners are opened: how this host reaches the other is where requests come in.
        for address in dict.fromkeys(probe.address for probe in plan.probes):
            self._look_back(address, plan)
        here = [probe for probe in plan.probes if self._open_places(probe)]
        self._waiting_at.update(here)
        opened = [(probe.transport, probe.address, probe.port) for probe in here]
        return tuple(opened)

    async def collect(self, plan: RoundPlan, rtt: float) -> tuple[SeenPort, ...]:
        """Give what is under way its grace; return what the witnesses hold.

        What they hold of a sweep stands in `swept` then.
        """
        if plan.kind == SWEEP:
            await self._end_sweep(plan, rtt)
            return ()
        if plan.kind == BURST:
            await asyncio.sleep(GRACE_SECONDS + 2 * rtt)
            samples = self._sampler.stop(plan.number)
            self._keep(samples)
            return (self._told(plan, samples),)
        if plan.kind in (SAMPLE, LOSS):
            self._keep(self._sampler.stop(plan.number))
            return ()
        self._drain()
        if not self._all_answered(plan):
            await asyncio.sleep(GRACE_SECONDS + 2 * rtt)
            self._drain()
        samples = self._sampler.stop(plan.number)
        self._keep(samples)
        if by_datagrams(plan):
            await self._watch_queues(plan)
        else:
            await self._watch_connections(plan)
        seen = tuple(
            replace(found, unlisted=self._is_unlisted(found, samples))
            for found in map(self._seen, plan.probes)
        )
        if not all(found.established for found in seen):
            self._look_at_neighbours(plan.number)
        if plan.probes[0].transport == "tcp":
            await self._look_closer(plan, seen, rtt)
        self._look_outside(plan, seen)
        return seen

    def _is_unlisted(self, found: SeenPort, samples: Samples | None) -> bool:
        """Whether requests may have come to where the socket table of this host shows none.

        They met a full SYN queue; or this host's TCP refused as many, which it does where nobody
        listens: at another port, say, to which they were led. Or they were led to another host,
        whose address nobody has; or were answered, and the answers kept and refused here.
        """
        came = max(found.arrived or 0, 1)
        if samples is not None and met_full_queue(samples) >= came:
            return not found.answered
        if found.delivered or not found.arrived:
            return False
        if not found.answered and (self._passes_on or kept_back(samples) >= came):
            return True
        return samples is not None and (rise(samples, "Tcp.OutRsts") or 0) >= came

    async def _begin_sweep(self, plan: RoundPlan) -> None:
        """Listen on the ports of a sweep that nobody holds, and watch for its packets."""
        probe = plan.probes[0]
        ports = frozenset(swept_ports(plan))
        everywhere = listening_ports(self._own.inodes)
        held = everywhere & ports
        # A program is not to be woken by a connection that says nothing and is cut off.
        if len(everywhere) <= MAX_HELD:
            self.spare = pack_ports(held)
        else:
            self.gentle = pack_ports(held)
        self._sweep = SweepTaker(plan, self._inside_address(probe), held)
        await self._sweep.listen()
        self._sweep_seen = None
        if self._packets is not None:
            here = () if self._is_foreign(probe) else (probe.address,)
            there = () if self._is_foreign(probe) else self._peers
            self._sweep_seen = SweepWitness(ports, here, there, sends=False)
            self._packets.divert(self._sweep_seen.take)

    def _inside_address(self, probe: Probe) -> str | None:
        """The address at which requests to `probe` come in here, with its zone."""
        return None if self.landing(probe.address) is None else self.inside(probe).address

    async def _end_sweep(self, plan: RoundPlan, rtt: float) -> None:
        sweep, witness = self._sweep, self._sweep_seen
        if sweep is None:
            return
        origins = self._origins(plan.probes)
        sweep.take(origins)
        await asyncio.sleep(GRACE_SECONDS + 2 * rtt)
        sweep.take(origins)
        if self._packets is not None:
            self._packets.divert(None)
        self.swept = sweep.told(witness, half_open_ports())
        self._sweep = None
        self._recorder.swept.append(self.swept)

    async def _look_closer(self, plan: RoundPlan, seen: Sequence[SeenPort], rtt: float) -> None:
        """Find out more where requests did not come through, or answers do not."""
        for probe, found in zip(plan.probes, seen, strict=True):
            if not found.established and (found.delivered or self._accepts(probe)):
                await self._trace_back(plan, probe, rtt)
            if not found.delivered and self._held_by_a_program(probe):
                self._self_test.start(self.inside(probe))

    def _look_outside(self, plan: RoundPlan, seen: Sequence[SeenPort]) -> None:
        """Ask the own router where nothing shows that requests come in through it."""
        if self._opener is None:
            return
        for probe, found in zip(plan.probes, seen, strict=True):
            if self._is_foreign(probe) and not (found.arrived or found.delivered):
                self._opener.look(plan.number)

    async def _trace_back(self, plan: RoundPlan, probe: Probe, rtt: float) -> None:
        """Answers leave and no handshake is complete: ask the hops on their way where they end."""
        routed = {route.destination for route in self._recorder.routes if route.gateway}
        rows = [bare(row.remote_address) for row in self._rows(probe)]
        asked = [bare(seen.source) for seen in self._requests(probe)]
        # Nobody's word alone makes anything be sent to a third address.
        peers = [peer for peer in dict.fromkeys((*rows, *asked)) if peer in self._proven]
        for peer in peers[:1]:
            if peer in routed:
                await self._way_back.trace(plan.number, self.inside(probe), peer, rtt)

    def _is_foreign(self, probe: Probe) -> bool:
        """Whether the address is none of this host's, so that a router must translate it."""
        return bare(probe.address) not in self._addresses

    def _places(self, probe: Probe) -> list[Probe]:
        """Where requests at `probe` may come in: there, or at any address behind a router."""
        if not self._is_foreign(probe):
            return [self.inside(probe)]
        version = family(bare(probe.address))
        return [
            replace(probe, address=address)
            for address in self._addresses
            if family(address) == version and not is_loopback(address)
        ][:MAX_PLACES]

    def _open_places(self, probe: Probe) -> bool:
        """Listen wherever requests at `probe` may come in; whether that is anywhere possible."""
        # Each of them, and not the first alone: the router may lead to any address.
        results = [self._open(place) for place in self._places(probe)]
        return any(result.opened for result in results)

    def landing(self, address: str) -> str | None:
        """Return the address of this host at which requests to `address` come in.

        Its own, or else the one by which it reaches its router.
        """
        if bare(address) in self._addresses:
            return bare(address)
        return landing_of(self._recorder.routes, self._addresses, family(bare(address)))

    def inside(self, probe: Probe) -> Probe:
        """Return `probe` as it comes in here."""
        landing = self.landing(probe.address)
        if not landing:
            return probe
        # A zone is the name of an interface, and the other side's says nothing here (RFC 4007, 11).
        zone = self._addresses.get(landing) if is_link_local6(landing) else ""
        return replace(probe, address=f"{landing}%{zone}" if zone else landing)

    async def finish(self) -> None:
        """Wait for what is done beside the rounds."""
        await self._self_test.finish()
        if self._opener is not None:
            await self._opener.finish()

    def _held_by_a_program(self, probe: Probe) -> bool:
        """Whether a service holds the port here, which a connection does not start first."""
        rows = self._holders(self.inside(probe))
        here = self.landing(probe.address) is not None
        # One that cannot be seen may be a supervisor, which would start the service.
        return here and bool(rows) and all(r.names and not is_supervisor(r.names) for r in rows)

    def _told(self, plan: RoundPlan, samples: Samples | None) -> SeenPort:
        """What the counters here say of a burst, as it was announced."""
        probe = plan.probes[0]
        taken = self._delivered(probe) > 0
        view = view_burst(nominal(plan, probe), None, samples, taken=taken)
        return SeenPort(address=probe.address, port=probe.port, told=as_told(view))

    def _keep(self, samples: Samples | None) -> None:
        if samples is not None:
            self._recorder.samples.append(samples)

    def mark(self) -> None:
        """The burst that was announced begins now."""
        self._sampler.mark()

    async def close(self) -> None:
        """Stop what is still watching; safe to call again."""
        self._sampler.close()
        if self._sweep is not None:
            self._sweep.close()
        await self._self_test.close()
        if self._opener is not None:
            await self._opener.close()

    def _drain(self) -> None:
        self._own.drain()
        if self._packets is not None:
            self._packets.drain()

    def _open(self, probe: Probe) -> OwnListener:
        covering = [
            row
            for row in self._recorder.listeners
            if row.transport == probe.transport
            and row.port == probe.port
            and (_covers(row.address, probe.address) or _takes_both(row, probe.address))
        ]
        # Beside a program that takes from another interface alone one may listen on this one.
        here = [row for row in covering if self._takes_here(row, probe.address)]
        device = "" if here or not covering else self._addresses[bare(probe.address)]
        error = ""
        if any(_covers(row.address, probe.address) for row in here):
            error = "EADDRINUSE"
        elif device and self._cards_of(probe.address) != {device}:
            error = "ENODEV"  # requests may come in at several, and a listener takes from one
        result = (
            OwnListener(
                transport=probe.transport,
                address=probe.address,
                port=probe.port,
                opened=False,
                error=error,
            )
            if error
            else self._own.open(probe.address, probe.port, probe.transport, device=device)
        )
        if result not in self._recorder.own_listeners:
            self._recorder.own_listeners.append(result)
        return result

    def _note_listeners(self, ports: Collection[int], *, udp: bool) -> None:
        wanted = ports if self._service is None else None
        table = read_udp_table() if udp else read_table(listening=True, ports=wanted)
        self._recorder.witnesses["sockets"] = Witness(name="sockets", available=table is not None)
        for row in listeners(table or (), ports, self._own.inodes):
            self._recorder.listeners[row] = None
        if self._service is not None:
            found = service_listeners(table or (), self._service, self._own.inodes)
            transport = "udp" if udp else "tcp"
            others = [r for r in self._recorder.service_listeners if r.transport != transport]
            self._recorder.service_listeners = [*others, *found]
            self._recorder.service_runs = is_running(self._service)

    async def _watch_queues(self, plan: RoundPlan) -> None:
        """Note what waits on the ports; where nothing does, of what this host sends to itself."""
        if not self._queues.waits:
            silent = (p for p in plan.probes if not self._answers(p))
            held = [self.inside(p) for p in silent if self._held_by_a_program(p)]
            if self._queues.ask(held):
                await asyncio.sleep(READ_SECONDS)
        self._recorder.queues += await self._queues.end(plan.number)

    def _answers(self, probe: Probe) -> bool:
        """Whether datagrams for `probe` were seen to be answered."""
        requests = self._requests(probe) if self._packets is not None else []
        return any(map(self._answered, requests)) or bool(self._delivered(probe))

    async def _watch_connections(self, plan: RoundPlan) -> None:
        """Note the connections; watch those that no program takes until it is plain."""
        clock = self._recorder.clock
        began = clock()
        rows = self._connections(plan)
        origins = self._origins(plan.probes)
        while any(self._waits(row, origins) for row in rows) and clock() - began < HUNG_SECONDS:
            await asyncio.sleep(HUNG_PAUSE)
            rows = self._connections(plan)
        watched = round(clock() - began, 3)
        for row in rows:
            self._recorder.connections[replace(row, watched=watched)] = None

    def _connections(self, plan: RoundPlan) -> tuple[Connection, ...]:
        """The rows about the ports; behind a router the other side's at any other port, too."""
        ports = {probe.port for probe in plan.probes}
        foreign = any(self._is_foreign(probe) for probe in plan.probes)
        table = read_table(listening=False, ports=None if foreign else ports)
        found = connections(table or (), None, plan.number)
        found = tuple(row for row in found if _ends(row) not in self._before)
        if not foreign:
            return found
        origins = self._origins(plan.probes)
        return tuple(
            row
            for row in found
            if row.local_port in ports
            or (
                row.state not in _OUTGOING
                and bare(row.remote_address) in origins
                and self._control_port not in (row.local_port, row.remote_port)
            )
        )

    def _waits(self, row: Connection, origins: Collection[str]) -> bool:
        return row.accepted is False and bare(row.remote_address) in origins

    def _look_back(self, address: str, plan: RoundPlan) -> None:
        """Ask the kernel whether it takes packets from the other side, and has a way back."""
        card = self._addresses.get(bare(address))
        flows = {
            probe: Flow(probe.transport, source=bare(address), source_port=probe.port)
            for probe in plan.probes
            # Which port of this host a router leads requests to is not known.
            if probe.address == address and not self._is_foreign(probe) and plan.kind != SWEEP
        }
        for peer in self._peers:
            if family(peer) != family(address) or is_link_local6(peer) != is_link_local6(address):
                continue
            # A link-local address is one of each link (RFC 4007): of that one which is tested.
            zone = f"%{card}" if card and is_link_local6(peer) else ""
            ways = {} if zone else flows
            note_routes(self._recorder.routes, peer, ways, zone=zone, local=bare(address))
            if card:
                self._look_at_return(peer, bare(address), card)

    def _look_at_neighbours(self, number: int) -> None:
        """Note whether the next hops back are known: answers for others wait in vain."""
        hops = {(r.gateway or r.destination, r.interface): r for r in self._recorder.routes}
        for (hop, interface), route in hops.items():
            if route.destination not in self._peers or not interface:
                continue
            with contextlib.suppress(NetlinkError):
                found = neighbour_state(hop, interface)
                if found is not None:
                    self._recorder.neighbours.append(
                        Neighbour(
                            destination=route.destination,
                            next_hop=hop,
                            interface=interface,
                            state=found[0],
                            hardware=found[1],
                            round=number,
                        )
                    )

    def _look_at_return(self, peer: str, local: str, interface: str) -> None:
        taken = returns_from(peer, local, interface)
        if taken is None:
            return
        error = None if taken else "EXDEV"
        result = Return(source=peer, local=local, interface=interface, error=error)
        self._recorder.returns[result] = None

    def _requests(self, probe: Probe) -> list[Sighting]:
        if probe.transport == "udp":
            origins = self._origins([probe])
            return [
                s
                for s in self._datagrams().to(probe.port)
                # Anybody's datagrams look alike.
                if bare(s.source) in origins
                and self._lands(probe, s.destination, s.destination_port)
            ]
        return [
            s
            for s in self._recorder.sightings[self._mark :]
            if s.way == "in"
            and s.flags == "S"
            and s.icmp is None
            and s.mss != TRACE_TAG
            and self._lands(probe, s.destination, s.destination_port)
        ]

    def _datagrams(self) -> DatagramsSeen:
        """Return those that were seen in this round up to now."""
        size = len(self._recorder.sightings)
        if self._indexed is None or self._indexed[0] != (self._mark, size):
            index = DatagramsSeen(self._recorder.sightings[self._mark :])
            self._indexed = (self._mark, size), index
        return self._indexed[1]

    def _lands(self, probe: Probe, address: str, port: int) -> bool:
        """Whether what came to this address and port of the host may have been sent to `probe`."""
        if port != probe.port:
            return False
        if self._is_foreign(probe):
            return bare(address) in self._addresses
        return bare(address) == bare(probe.address)

    def _all_answered(self, plan: RoundPlan) -> bool:
        """Whether something came for every probe, and every request got its answer."""
        for probe in plan.probes:
            requests = self._requests(probe)
            if not requests or any(not self._answered(s) for s in requests):
                return False
        return True

    def _answered(self, request: Sighting) -> bool:
        if request.transport == "udp":
            return self._datagrams().answered(request)
        return any(
            s.way == "out" and (s.ack - 1) % 2**32 == request.seq
            for s in self._recorder.sightings[self._mark :]
        )

    def _accepts(self, probe: Probe) -> bool:
        """Whether the answer to a request for `probe` was seen to leave, and was no refusal."""
        asked = {(s.seq + 1) % 2**32 for s in self._requests(probe)}
        return any(
            s.way == "out" and s.flags == "SA" and s.ack in asked
            for s in self._recorder.sightings[self._mark :]
        )

    def _delivered(self, probe: Probe) -> int:
        """How many connections from the other side this host's sockets hold for `probe`."""
        taken = {(row.remote_address, row.remote_port) for row in self._rows(probe)}
        taken |= {
            (item.remote_address, item.remote_port)
            for item in self._recorder.acceptances
            if item.genuine
            and item.transport == probe.transport
            and self._lands(probe, item.address, item.port)
        }
        return len(taken)

    def _is_own(self, probe: Probe) -> bool:
        """Whether the agent's own socket is where `probe` comes in, and nobody else's may be."""
        return not self._passes_on and probe in self._waiting_at

    def _holders(self, probe: Probe) -> list[Listener]:
        return [
            row
            for row in self._recorder.listeners
            if row.transport == probe.transport
            and row.port == probe.port
            and any(
                (_covers(row.address, place.address) or _takes_both(row, place.address))
                and self._takes_here(row, place.address)
                for place in self._places(probe)
            )
        ]

    def _takes_here(self, row: Listener, address: str) -> bool:
        """Whether a socket takes what comes in for an own `address`, by the interface it is at."""
        return takes_from(row.device, self._cards_of(address))

    def _cards_of(self, address: str) -> set[str]:
        """The interfaces where requests to an own `address` may come in; none where unknown.

        The one that has it, and those by which this host reaches the other, which may have an
        address that this host has as well (that of a container bridge). From elsewhere nothing
        comes in at `lo`.
        """
        # Several interfaces may have the same link-local address.
        has = "" if is_link_local6(bare(address)) else self._addresses.get(bare(address))
        version = family(bare(address))
        others = (self._proven or frozenset(self._peers)) - self._addresses.keys()
        there = {address for address in others if family(address) == version}
        routes = (r for r in self._recorder.routes if bare(r.destination) in there)
        return {has, *(r.interface for r in routes if r.interface)} - {"lo"} if has else set()

    def _rows(self, probe: Probe) -> list[Connection]:
        if probe.transport != "tcp":
            return []
        origins = self._origins([probe])
        return [
            row
            for row in self._recorder.connections
            if self._lands(probe, row.local_address, row.local_port)
            and bare(row.remote_address) in origins
        ]

    def _origins(self, probes: Iterable[Probe]) -> frozenset[str]:
        """Addresses that connections for `probes` may come from."""
        if not any(self._is_foreign(probe) for probe in probes):
            return frozenset(self._peers)
        seen = {bare(word.address) for word in self._recorder.seen_as}
        if seen and seen.isdisjoint(self._peers):
            return frozenset(self._peers)  # the two are not behind one router
        # What a router leads back inside it sends in its own name.
        routers = [bare(route.gateway) for route in self._recorder.routes if route.gateway]
        return frozenset((*self._peers, *routers))

    def _established(self, probe: Probe) -> int | None:
        """How many of them are more than a request that waits for the end of its handshake.

        None where nobody here listens, who could show them.
        """
        own = any(
            o.opened and self._lands(probe, o.address, o.port) for o in self._recorder.own_listeners
        )
        if not own and not self._holders(probe):
            return None
        taken = [i for i in self._recorder.acceptances if self._lands(probe, i.address, i.port)]
        # What became of those of earlier rounds came after the source had ended them: the packet
        # that says so completes a handshake whose last one was lost.
        rows = self._rows(probe)
        before = {_ends(row) for row in rows if row.round < self._round}
        fresh = (row for row in rows if row.round == self._round and _ends(row) not in before)
        return len(taken) + sum(row.state != "SYN_RECV" for row in fresh)

    def _seen_datagrams(self, probe: Probe) -> SeenPort:
        taken = self._delivered(probe)
        arrived = answered = None
        # What a router made of a datagram nobody knows for sure.
        if self._packets is not None and not self._is_foreign(probe):
            requests = {(s.source, s.source_port): s for s in self._requests(probe)}.values()
            for request in requests:
                with contextlib.suppress(ValueError):
                    self._look_at_return(request.source, request.destination, request.interface)
            arrived, answered = len(requests), sum(map(self._answered, requests))
        return SeenPort(
            address=probe.address,
            port=probe.port,
            arrived=arrived,
            answered=answered,
            # Nobody sees which other socket took a datagram.
            delivered=taken if taken or self._is_own(probe) else None,
        )

    def _seen(self, probe: Probe) -> SeenPort:
        if probe.transport == "udp":
            return self._seen_datagrams(probe)
        delivered, established = self._delivered(probe), self._established(probe)
        closing = sum(row.state in _ENDED for row in self._rows(probe))
        if self._packets is None:
            return SeenPort(
                address=probe.address,
                port=probe.port,
                delivered=delivered,
                established=established,
                closing=closing,
            )
        requests = {s.seq: s for s in self._requests(probe)}.values()
        for request in requests:
            with contextlib.suppress(ValueError):
                self._look_at_return(request.source, request.destination, request.interface)
        return SeenPort(
            address=probe.address,
            port=probe.port,
            arrived=len(requests),
            answered=sum(self._answered(s) for s in requests),
            delivered=delivered,
            established=established,
            closing=closing,
        )


def _ends(row: Connection) -> tuple[str, int, str, int]:
    return row.local_address, row.local_port, row.remote_address, row.remote_port


def landing_of(routes: Iterable[Route], addresses: Collection[str], version: int) -> str | None:
    """Return the host's address by which it reaches its router, as its routes show it."""
    found = [r.source for r in routes if r.gateway and r.source and family(r.source) == version]
    own = [a for a in addresses if family(a) == version and not is_loopback(a)]
    return next((bare(a) for a in found if bare(a) in own), own[0] if len(own) == 1 else None)


def _takes_both(row: Listener, address: str) -> bool:
    """Whether this is a socket of IPv6 that takes what comes by IPv4, as most services have it."""
    wide = is_wildcard(row.address) and family(row.address) == 6
    return wide and family(bare(address)) == 4 and row.v6only is False


def _covers(listening: str, address: str) -> bool:
    # A wildcard of the same family holds the port everywhere; whether `::` also holds IPv4
    # is found out by trying.
    if bare(listening) == bare(address):
        return True
    return is_wildcard(listening) and family(listening) == family(address)
