"""Synthetic evidence: a story of what happens to packets, told as both sides would write it.

A `Fate` is the truth about one connection request. A `Story` adds who listens
and who is able to see; `Story.evidence` writes down what the two agents would
hold of it and no more: without a packet witness there is no sighting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from bothends_protocol.addresses import family, is_wildcard
from bothends_protocol.evidence import (
    EVIDENCE_FORMAT,
    Acceptance,
    Address,
    Attempt,
    Connection,
    ContactFacts,
    Evidence,
    HopProbe,
    HostFacts,
    Icmp,
    Listener,
    MatchingRule,
    Neighbour,
    OwnListener,
    Probe,
    Return,
    RoundPlan,
    Route,
    SelfConnect,
    Sighting,
    Target,
    Witness,
)
from bothends_protocol.pairing import SOURCE, other_role

__all__ = [
    "CARD",
    "CARD_OF_STRANGER",
    "DROPPED",
    "HERE",
    "LOST",
    "OPEN",
    "PORT",
    "ROUTER",
    "THERE",
    "Fate",
    "Story",
    "answer_seen",
    "facts_of",
    "request_seen",
]

HERE, THERE, ROUTER = "192.168.7.10", "192.168.7.20", "192.168.7.1"
"""The source's address, the destination's, and that of something between."""
PORT = 4242
CARD, CARD_OF_OPENER, CARD_OF_STRANGER = (f"02:00:5e:00:00:{last}" for last in ("20", "10", "99"))
"""Link-layer addresses: of the one who should take the connection, of who opens it, and of
another machine."""


@dataclass(frozen=True)
class Fate:
    """What becomes of one connection request; as it stands here, it connects."""

    left: bool = True
    arrived: bool = True
    delivered: bool = True
    answer: str = "syn-ack"
    """What leaves the destination's card: `syn-ack`, `reset`, `icmp` or nothing."""
    returned: str = "syn-ack"
    """What reaches the source's card, whoever sent it."""
    outcome: str = "connected"
    error: str | None = None
    icmp: Icmp | None = None
    spoke: str | None = None
    """What the far end said; None: what whoever holds the port would say."""


OPEN = Fate()
DROPPED = Fate(delivered=False, answer="", returned="", outcome="silent")
"""Dropped at the destination, behind its card."""
LOST = replace(DROPPED, arrived=False)
"""Lost between the two."""


@dataclass(frozen=True)
class Story:
    """What happens, and which witnesses there are."""

    fates: tuple[Fate, ...] = (OPEN,) * 3
    source_sees: bool = True
    """Whether the source has a packet witness."""
    destination_sees: bool = True
    sockets: bool = True
    """Whether the destination's socket table can be read."""
    listening: tuple[str, ...] = ("0.0.0.0",)
    """Addresses on which the service listens; empty: it does not run."""
    own: bool = True
    """Whether the agent may listen where nobody does."""
    queue: tuple[int, int] = (0, 128)
    """Connections that wait for the service, and how many may."""
    takes: bool = True
    """Whether the service takes its connections."""
    half_open: bool = False
    """Whether the destination saw no more of the handshakes than their beginning."""
    holder: tuple[str, ...] = ("backupd",)
    """Names of the program that listens; empty where they may not be seen."""
    wanted: str | None = None
    """The program that ought to, as the user calls it."""
    wanted_on: tuple[int, ...] = ()
    """Other ports on which that program listens."""
    forwards: bool = False
    """Whether the destination passes packets on, as to containers."""
    ports: tuple[int, ...] = (PORT,)
    hop_probes: tuple[HopProbe, ...] = ()
    """Requests of the opener with a small time to live."""
    self_connects: tuple[SelfConnect, ...] = ()
    """What came of the taker's connections to its own service."""
    source_rules: tuple[MatchingRule, ...] = ()
    destination_rules: tuple[MatchingRule, ...] = ()
    """Rules of their own firewalls that match."""
    by_port: Mapping[int, tuple[Fate, ...]] = field(default_factory=dict)
    """Where ports differ: the fates of each."""
    to: str = ""
    """The tested address; empty: the one at which the two met."""
    more_addresses: tuple[str, ...] = ()
    """Of who should take the connection."""
    neighbour: Neighbour | None = None
    gateways: tuple[tuple[Neighbour, ...], tuple[Neighbour, ...]] = ((), ())
    """Of the one who opens the connection, and of the one who should take it."""
    path: str = "direct"
    met_at: str | None = None
    """The taker's address by which the two met, where it is another than the tested one."""
    """By which way the two met."""
    routes: tuple[Route, ...] = ()
    """What the source's kernel says of the way there."""
    way_back: tuple[Route, ...] = ()
    """What the other one's kernel says of the way back; by default that there is one."""
    returns: tuple[Return, ...] = ()
    seen_as: str = ""
    """The source's address behind a NAT, which changes its ports, too."""
    new_numbers: bool = False
    """Whether something on the way changes the TCP sequence numbers."""
    typed: tuple[str, ...] = (THERE,)
    targets: tuple[Target, ...] = ()
    prober: str = SOURCE
    """Who opens the connections; the other one is the destination of them."""
    both_ways: bool = False
    first: int = 1
    """Number of the first attempt: other ones make other local ports and sequence numbers."""

    @property
    def opener(self) -> str:
        """Address of who opens the connections."""
        return HERE if self.prober == SOURCE else THERE

    @property
    def taker(self) -> str:
        """Address of who should take them."""
        return THERE if self.prober == SOURCE else HERE

    @property
    def address(self) -> str:
        """The tested address."""
        return self.to or self.taker

    @property
    def held(self) -> bool:
        """Whether the service listens at the tested address."""
        return any(_covers(row, self.address) for row in self.listening)

    @property
    def stands_in(self) -> bool:
        """Whether the agent itself listens there."""
        return self.own and self.local and not self.held

    @property
    def local(self) -> bool:
        """Whether the tested address is the destination's own."""
        return self.address in (self.taker, *self.more_addresses)

    def evidence(self) -> tuple[Evidence, Evidence]:
        """Return what the two hold of it, the source's first."""
        sides = _opener(self), _taker(self)
        return sides if self.prober == SOURCE else sides[::-1]


@dataclass(frozen=True)
class _Try:
    """One attempt, with the numbers that name its packets."""

    fate: Fate
    port: int
    local_port: int
    seq: int


def _tries(story: Story) -> Iterator[_Try]:
    number = story.first - 1
    for port in story.ports:
        for fate in story.by_port.get(port, story.fates):
            number += 1
            yield _Try(fate, port, 40_000 + number, 2**32 - 1 - 1_000_000 * number)


def _covers(listening: str, address: str) -> bool:
    same = family(listening) == family(address)
    return listening == address or (is_wildcard(listening) and (same or listening == "::"))


def _round(story: Story) -> RoundPlan:
    probes = [Probe(transport="tcp", address=story.address, port=port) for port in story.ports]
    return RoundPlan(
        number=1,
        kind="connect",
        prober=story.prober,
        attempts=len(story.fates),
        probes=tuple(probes),
    )


def facts_of(*addresses: str, card: str, privileged: bool, forwards: bool = False) -> HostFacts:
    return HostFacts(
        product="bothends",
        version="0",
        system="Linux",
        release="Debian GNU/Linux 12",
        kernel="6.1.0",
        hostname="host",
        privileged=privileged,
        addresses=tuple(Address(interface="eth0", address=a, prefix=24) for a in addresses),
        hardware=(card,),
        forwards=forwards,
    )


# -- who opens the connections


def _opener(story: Story) -> Evidence:
    return Evidence(
        format=EVIDENCE_FORMAT,
        role=story.prober,
        session=b"session",
        facts=facts_of(story.opener, card=CARD_OF_OPENER, privileged=story.source_sees),
        contact=ContactFacts(
            path=story.path,
            local=story.opener if story.path == "direct" else "",
            remote=(story.met_at or story.taker) if story.path == "direct" else "",
            rtt=0.001,
            typed=story.typed,
            proven=(story.met_at or story.taker,),
        ),
        targets=story.targets,
        both_ways=story.both_ways,
        rounds=(_round(story),),
        attempts=tuple(_attempt(story, item) for item in _tries(story)),
        sightings=tuple(_seen_leaving(story)) if story.source_sees else (),
        witnesses=(Witness(name="packets", available=story.source_sees),),
        routes=story.routes,
        rules=story.source_rules,
        hop_probes=story.hop_probes,
        neighbours=(story.neighbour,) if story.neighbour else (),
        gateways=story.gateways[0],
    )


def _attempt(story: Story, item: _Try) -> Attempt:
    fate = item.fate
    genuine = fate.outcome == "connected" and fate.delivered and story.stands_in
    bound = fate.outcome != "no-route"
    return Attempt(
        round=1,
        transport="tcp",
        address=story.address,
        port=item.port,
        local_address=story.opener if bound else "",
        local_port=item.local_port if bound else 0,
        started=0.0,
        ended=None if fate.outcome == "silent" else 0.001,
        outcome=fate.outcome,
        error=fate.error,
        icmp=fate.icmp,
        spoke=fate.spoke or ("challenge" if genuine else "nothing"),
    )


def request_seen(
    way: str, source: tuple[str, int], destination: tuple[str, int], seq: int, *, mss: int = 0
) -> Sighting:
    return Sighting(
        at=0.1,
        way=way,
        interface="eth0",
        transport="tcp",
        source=source[0],
        source_port=source[1],
        destination=destination[0],
        destination_port=destination[1],
        flags="S",
        seq=seq,
        ttl=64,
        mss=mss,
    )


def answer_seen(kind: str, request: Sighting, way: str, icmp: Icmp | None) -> Sighting:
    if kind == "icmp":
        return msgspec.structs.replace(request, way=way, flags="", icmp=icmp)
    back = (request.destination, request.destination_port), (request.source, request.source_port)
    return msgspec.structs.replace(
        request_seen(way, *back, 7),
        flags="SA" if kind == "syn-ack" else "AR",
        ack=(request.seq + 1) % 2**32,
    )


def _seen_leaving(story: Story) -> Iterator[Sighting]:
    for item in _tries(story):
        there = story.address, item.port
        request = request_seen("out", (story.opener, item.local_port), there, item.seq)
        if item.fate.left:
            yield request
        if item.fate.returned:
            yield answer_seen(item.fate.returned, request, "in", item.fate.icmp)


# -- who should take them


def _taker(story: Story) -> Evidence:
    return Evidence(
        format=EVIDENCE_FORMAT,
        role=other_role(story.prober),
        session=b"session",
        facts=facts_of(
            story.taker,
            *story.more_addresses,
            card=CARD,
            privileged=story.destination_sees,
            forwards=story.forwards,
        ),
        contact=ContactFacts(
            path=story.path,
            local=story.taker if story.path == "direct" else "",
            remote=(story.seen_as or story.opener) if story.path == "direct" else "",
            rtt=0.001,
        ),
        ports=tuple(f"tcp:{port}" for port in story.ports),
        service=story.wanted,
        both_ways=story.both_ways,
        rounds=(_round(story),),
        sightings=tuple(_seen_arriving(story)) if story.destination_sees else (),
        witnesses=(
            Witness(name="packets", available=story.destination_sees),
            Witness(name="sockets", available=story.sockets),
        ),
        own_listeners=tuple(_own(story, port) for port in story.ports if story.local),
        acceptances=tuple(_acceptances(story)),
        listeners=tuple(_listeners(story)) if story.sockets else (),
        service_listeners=tuple(_service(story)) if story.sockets else (),
        connections=tuple(_connections(story)) if story.sockets else (),
        rules=story.destination_rules,
        self_connects=story.self_connects,
        routes=story.way_back or (Route(destination=story.opener, interface="eth0"),),
        gateways=story.gateways[1],
        # The agent asks this about packets that it saw.
        returns=story.returns if story.destination_sees else (),
    )


def _as_seen(story: Story, item: _Try) -> tuple[str, int]:
    """The source's address and port as the destination sees them."""
    if not story.seen_as:
        return story.opener, item.local_port
    return story.seen_as, item.local_port + 1000


def _seen_arriving(story: Story) -> Iterator[Sighting]:
    for item in _tries(story):
        seq = item.seq - 12345 if story.new_numbers else item.seq
        request = request_seen("in", _as_seen(story, item), (story.address, item.port), seq)
        if item.fate.arrived:
            yield request
        if item.fate.answer:
            yield answer_seen(item.fate.answer, request, "out", item.fate.icmp)


def _own(story: Story, port: int) -> OwnListener:
    error = None if story.stands_in else "EADDRINUSE" if story.held else "EACCES"
    return OwnListener(
        transport="tcp", address=story.address, port=port, opened=story.stands_in, error=error
    )


def _acceptances(story: Story) -> Iterator[Acceptance]:
    for item in _tries(story):
        if story.stands_in and item.fate.delivered and item.fate.outcome == "connected":
            address, port = _as_seen(story, item)
            yield Acceptance(
                at=0.2,
                transport="tcp",
                address=story.address,
                port=item.port,
                remote_address=address,
                remote_port=port,
                genuine=item.fate.spoke in (None, "challenge"),
            )


def _listeners(story: Story) -> Iterator[Listener]:
    for port in story.ports:
        for address in story.listening:
            yield Listener(
                transport="tcp",
                address=address,
                port=port,
                program=story.holder[0] if story.holder else None,
                names=story.holder,
                pid=1,
                waiting=story.queue[0],
                backlog=story.queue[1],
            )


def _service(story: Story) -> Iterator[Listener]:
    for port in story.wanted_on:
        name = story.wanted or ""
        yield Listener(transport="tcp", address="0.0.0.0", port=port, program=name, names=(name,))


def _connections(story: Story) -> Iterator[Connection]:
    for item in _tries(story):
        if item.fate.delivered and (story.held or story.stands_in):
            address, port = _as_seen(story, item)
            connected = item.fate.outcome == "connected" and not story.half_open
            yield Connection(
                round=1,
                transport="tcp",
                state="ESTABLISHED" if connected else "SYN_RECV",
                local_address=story.address,
                local_port=item.port,
                remote_address=address,
                remote_port=port,
                accepted=story.takes if connected else None,
                watched=0.0 if story.takes else 2.0,
            )
