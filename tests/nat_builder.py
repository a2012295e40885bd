"""Synthetic evidence of two homes: where each request ends is worked out from what is so there.

`Homes` says what is true: routers, their rules, carriers, hosts, who answers. A request is walked
along its hops by the rules of RFC 791 and of Linux (a router looks whether the time has run out
before it filters, and after it has translated), and both sides write down what they would see of
it and no more. Nothing here knows the judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from bothends_protocol.evidence import (
    EVIDENCE_FORMAT,
    Acceptance,
    Attempt,
    Connection,
    ContactFacts,
    Evidence,
    HopProbe,
    Icmp,
    Listener,
    Mapping,
    OpenedMapping,
    OwnListener,
    Pinhole,
    Probe,
    RoundPlan,
    Route,
    RouterWord,
    SeenAs,
    Sighting,
    Target,
    Witness,
)
from bothends_protocol.pairing import DESTINATION, SOURCE
from bothends_protocol.plan import CERTAIN
from bothends_protocol.tags import tag_of
from bothends_protocol.ways import asked_least
from evidence_builder import CARD, PORT, answer_seen, facts_of, request_seen

__all__ = [
    "CONTROL",
    "HOME",
    "INSIDE",
    "OTHER_INSIDE",
    "PUBLIC",
    "SOURCE_INSIDE",
    "SOURCE_PUBLIC",
    "STRANGER",
    "Homes",
]

INSIDE, HOME = "192.168.1.20", "192.168.1.1"
"""The destination, and its router from inside."""
OTHER_INSIDE = "192.168.1.30"
SOURCE_INSIDE, SOURCE_HOME = "192.168.1.10", "192.168.5.1"
"""The source has an address that may well be somebody's in the destination's network."""
PUBLIC, SOURCE_PUBLIC, STRANGER = "11.0.1.1", "11.0.0.1", "11.0.2.2"
CORE, CARRIER = "11.255.0.1", "11.255.1.1"
CONTROL, UNUSED = 24242, 62_000
"""Ports beside the tested one by which hops are asked: nobody forwards them."""
SCRAMBLED = 1000
"""What a router that changes ports adds to them, and to sequence numbers."""

_CARD_OF_SOURCE = "02:00:5e:00:00:10"
_BLOCK, _TRIES, _AGAIN = 4, 2, 3
_DROP, _RESET, _ICMP, _PORT = "drop", "reset", "icmp", "port"
"""What a filter does: nothing, a reset, ICMP "prohibited", ICMP "port unreachable"."""


@dataclass(frozen=True)
class _End:
    """Where a request ended."""

    outcome: str
    hop: int = 0
    """Of the machine that answered."""
    icmp: Icmp | None = None
    left: bool = True
    port: int | None = None
    """The port at which it came in on the destination's card; None where it did not."""
    delivered: bool = False


_SILENT = _End("silent")


@dataclass(frozen=True)
class _Hop:
    """A router on the way."""

    name: str
    address: str


@dataclass(frozen=True)
class _Request:
    """One request and the numbers that name it."""

    round: int
    local_port: int
    seq: int
    tag: int
    lost: bool
    opened: bool = False
    """Whether the router was opened from inside for it."""
    mapped: bool = False
    """Whether the router forwards it since bothends asked it to."""


@dataclass(frozen=True)
class Homes:
    """What is true of the two homes and of the ways between them, and who sees what."""

    address: str = PUBLIC
    """The tested one."""
    forward: tuple[str, int] | None = ("destination", PORT)
    """Where the destination's router passes the tested port on: `destination`, `other` or
    `nobody`, and to which port."""
    others: str = _DROP
    """What routers do with what they do not pass on."""
    other: str = "answers"
    """What the other machine does: `answers`, `refuses`."""
    reused: bool = False
    """Whether the first request came from a port that one through an opening came from, too."""
    router: str = ""
    """What a filter of the destination's router does with what it passes on; empty: no filter."""
    carrier: str = ""
    """A filter just before the destination's router."""
    source_router: str = ""
    source_filter: str = ""
    firewall: str = ""
    """The destination's own."""
    listening: tuple[str, ...] = ("0.0.0.0",)
    takes: bool = True
    beside: bool = False
    """Whether another service has the port that a wrong forward leads to."""
    above: str = ""
    """Inside address of a second router above the destination's own; empty: there is none."""
    above_forwards: bool = False
    source_nat: bool = True
    scramble: frozenset[str] = frozenset()
    """Which routers change ports and sequence numbers: `source`, `destination`."""
    one_home: bool = False
    """Whether the source is beside the destination."""
    hairpin: str = "none"
    """`none`, `half` (the source's address stays) or `full`."""

    source_sees: bool = True
    destination_sees: bool = True
    sockets: bool = True
    tags: bool = True
    traces: bool = True
    """Whether the source asks the hops."""
    looks: bool = True
    """Whether the destination asks those on its own way out."""
    own_router_speaks: bool = True
    """Whether the destination's router says that requests from inside expired."""
    told: bool = True
    """Whether others say how the two look from outside."""
    word: str = ""
    """By which protocol the router speaks; empty: it is silent."""
    known_mapping: bool = False
    """Whether the forward was set up in that way."""
    pinholes: bool = True
    map: str = ""
    """What comes of asking the router to forward: `granted`, `refused`, …; empty: not asked."""
    kept: bool = False
    contact: str = "rendezvous"
    attempts: int = CERTAIN
    lost: frozenset[int] = frozenset()
    """Which of the attempts are lost on the way."""
    probes_lost: frozenset[int] = frozenset()
    """Which of the requests to hops are lost, counted in order."""
    first: int = 1

    # -- the truth

    @property
    def held(self) -> bool:
        """Whether the service listens where requests come in."""
        return "0.0.0.0" in self.listening or INSIDE in self.listening

    @property
    def path_causes(self) -> frozenset[str]:
        """What keeps requests from the destination's sockets, as far as the first such thing."""
        end = _walk(self, PORT, 99)
        if end.delivered and end.port == PORT:
            return frozenset()
        return frozenset(_blame(self))

    @property
    def causes(self) -> frozenset[str]:
        """All that is wrong, also behind the first thing."""
        service = set()
        if not self.listening:
            service.add("service.not-running")
        elif not self.held:
            service.add("service.loopback-only")
        elif not self.takes:
            service.add("service.hung")
        return frozenset({*_blame(self), *service})

    def evidence(self) -> tuple[Evidence, Evidence]:
        """Return what the two hold of it, the source's first."""
        rounds = tuple(_rounds(self))
        return _source(self, rounds), _destination(self, rounds)


_KEEPERS = ("source_router", "carrier", "router")
"""Routers that may have a filter."""

_FILTERS = {
    "source_filter": ("source.firewall-drop", "source.firewall-reject"),
    "source_router": ("network.drop", "network.reject"),
    "carrier": ("network.drop", "network.reject"),
}


def _blame(homes: Homes) -> Iterator[str]:
    """All causes that are true of the way, in its order."""
    there = {"source_filter", *(hop.name for hop in _hops(homes))}
    for name, (dropped, refused) in _FILTERS.items():
        what = getattr(homes, name)
        if what and name in there:
            yield dropped if what == _DROP else refused
    if homes.address == STRANGER:
        yield "address.wrong-host"
        return
    if homes.above and not homes.above_forwards:
        yield "nat.double"
    if homes.one_home and homes.hairpin != "full":
        yield "nat.no-hairpin"
    if homes.router and (homes.forward is not None or homes.map == "granted"):
        yield "network.drop" if homes.router == _DROP else "network.reject"
    if homes.forward != ("destination", PORT):
        yield _astray(homes)
    if homes.firewall:
        drops = homes.firewall == _DROP
        yield "destination.firewall-drop" if drops else "destination.firewall-reject"


def _astray(homes: Homes) -> str:
    if homes.forward is None:
        return "nat.no-forward"
    return "nat.wrong-port" if homes.forward[0] == "destination" else "nat.wrong-host"


# -- the way of a request


def _hops(homes: Homes) -> list[_Hop]:
    """The routers from the source to the destination."""
    if homes.one_home:
        return [_Hop("router", HOME)]
    way = [_Hop("source_router", SOURCE_HOME)] if homes.source_nat else []
    way += [_Hop("core", CORE)]
    if homes.address == STRANGER:
        return [*way, _Hop("stranger", STRANGER)]
    way += [_Hop("carrier", CARRIER)]
    if homes.above:
        way += [_Hop("above", PUBLIC)]
    return [*way, _Hop("router", PUBLIC)]


def _refusal(what: str, hop: int, sender: str) -> _End:
    if what == _DROP:
        return _End("silent")
    if what == _RESET:
        return _End("refused", hop)
    if what == _PORT:
        return _End("refused", hop, Icmp(kind=3, code=3, sender=sender))
    return _End("unreachable", hop, Icmp(kind=3, code=13, sender=sender))


def _expired(sender: str, hop: int) -> _End:
    return _End("expired", hop, Icmp(kind=11, code=0, sender=sender))


def _walk(
    homes: Homes, port: int, hops: int, *, opened: bool = False, mapped: bool = False
) -> _End:
    """Return where a request to `port` with a time to live of `hops` ends."""
    tested = port == PORT
    if tested and homes.source_filter:
        own = SOURCE_INSIDE if homes.source_nat or homes.one_home else SOURCE_PUBLIC
        return replace(_refusal(homes.source_filter, 1, own), left=False)
    way = _hops(homes)
    to: tuple[str, int] | None = None
    for place, router in enumerate(way, start=1):
        if router.name in ("above", "router", "stranger"):
            to = _passes_on(homes, router.name, port, opened=opened, mapped=mapped)
            if to is None:
                return _refusal(homes.others, place, homes.address)
        if hops <= place:
            return _expired(router.address if not homes.one_home else homes.address, place)
        filtered = getattr(homes, router.name) if tested and router.name in _KEEPERS else ""
        if filtered:
            sender = homes.address if router.name == "router" else router.address
            return _refusal(filtered, place, sender)
    return _at_end(homes, to, len(way) + 1)


def _passes_on(
    homes: Homes, name: str, port: int, *, opened: bool, mapped: bool
) -> tuple[str, int] | None:
    """Return the machine and port to which the router leads a request, None where nowhere."""
    if name == "stranger":
        return None
    if name == "above":
        return ("router", port) if opened or homes.above_forwards else None
    if homes.one_home and homes.hairpin == "none":
        return None
    if opened and port == PORT:
        return "destination", PORT
    if port != PORT:
        return None
    return ("destination", PORT) if mapped and homes.forward is None else homes.forward


def _at_end(homes: Homes, to: tuple[str, int] | None, hop: int) -> _End:
    host, port = to or ("nobody", 0)
    if host == "nobody":
        return _End("silent")
    if host == "other":
        return _End("connected" if homes.other == "answers" else "refused", hop)
    if port != PORT:
        return _End("connected" if homes.beside else "refused", hop, port=port)
    if homes.firewall:
        return replace(_refusal(homes.firewall, hop, homes.address), port=port)
    if homes.one_home and homes.hairpin == "half":
        return _End("silent", port=port, delivered=True)
    # Where the service does not listen, bothends itself does.
    return _End("connected", hop, port=port, delivered=True)


def _out(homes: Homes, address: str, hops: int) -> _End:
    """Where a request of the destination's own ends, to an address out there or to its own."""
    way = [_Hop("router", HOME)]
    if homes.above:
        way += [_Hop("above", homes.above)]
    holder = "above" if homes.above else "router"
    if address != PUBLIC:
        way += [_Hop("carrier", CARRIER), _Hop("core", CORE), _Hop("there", address)]
        holder = "there"
    for place, router in enumerate(way, start=1):
        if router.name == holder:
            return _refusal(homes.others, place, address)
        if hops <= place:
            if router.name == "router" and not homes.own_router_speaks:
                return _End("silent")
            return _expired(router.address, place)
    return _End("silent")


# -- what is asked of hops


def _trace(
    homes: Homes,
    address: str,
    port: int,
    control: int | None,
    walk: Callable[[int, int], _End],
) -> Iterator[HopProbe]:
    """What `hops.Tracer` would write down; `walk` takes a port and a time to live."""
    number = last = 0
    past: set[int] = set()
    for first in range(1, 25, _BLOCK):
        asked = [
            (one, hops) for hops in range(first, first + _BLOCK) for one in _ports(port, control)
        ]
        ends = [
            walk(*item) if n not in homes.probes_lost else _SILENT
            for n, item in enumerate(asked, number)
        ]
        number += len(asked)
        mine = [(hops, end) for (one, hops), end in zip(asked, ends, strict=True) if one == port]
        yield from (
            _probe(address, one, hops, end) for (one, hops), end in zip(asked, ends, strict=True)
        )
        ended = [hops for hops, end in mine if end.outcome in _ENDED]
        last = max((hops for hops, end in mine if end.outcome == "expired"), default=last)
        told = [(hops, end.outcome) for (_, hops), end in zip(asked, ends, strict=True)]
        past |= {hops for hops, outcome in told if outcome in ("expired", *_ENDED)}
        if ended:
            yield from _least(address, port, walk(port, ended[0]), ended[0])
            return
        over = any(outcome in _ENDED for _, outcome in told)
        if over or all(end.outcome == "silent" for _, end in mine):
            hop = min((hop for hop in past if hop > last), default=last + 1)
            again = [port] * _AGAIN + ([control] * _AFTER if control else [])
            for n, one in enumerate(again, number):
                end = walk(one, hop) if n not in homes.probes_lost else _SILENT
                yield _probe(address, one, hop, end)
            return


_ENDED = ("connected", "refused", "unreachable")
_AFTER = 2


def _ports(port: int, control: int | None) -> list[int]:
    return [port] * _TRIES + ([control] if control else [])


def _least(address: str, port: int, end: _End, ended: int) -> Iterator[HopProbe]:
    if end.outcome == "refused" and end.icmp is None:
        for least in asked_least(ended):
            taken = 64 - (end.hop - 1) >= least
            yield _probe(address, port, 0, end if taken else _End("silent"), least=least)


def _probe(address: str, port: int, hops: int, end: _End, *, least: int = 0) -> HopProbe:
    return HopProbe(
        round=1,
        transport="tcp",
        address=address,
        port=port,
        hops=hops,
        outcome=end.outcome,
        icmp=end.icmp,
        seconds=0.0 if end.outcome == "silent" else 0.01,
        least=least,
    )


def _source_traces(homes: Homes) -> tuple[HopProbe, ...]:
    end = _walk(homes, PORT, 99)
    if not homes.traces or (end.outcome == "connected" and end.port == PORT):
        return ()
    return tuple(
        _trace(homes, homes.address, PORT, CONTROL, lambda port, hops: _walk(homes, port, hops))
    )


def _destination_traces(homes: Homes) -> tuple[HopProbe, ...]:
    if not homes.looks:
        return ()
    ways = [(PUBLIC, UNUSED)] if homes.told else []
    ways += [(SOURCE_PUBLIC, CONTROL)] if homes.told and not homes.one_home else []
    return tuple(
        probe
        for address, port in ways
        for probe in _trace(
            homes,
            address,
            port,
            None,
            lambda _port, hops, to=address: _out(homes, to, hops),  # type: ignore[misc]
        )
    )


# -- rounds


def _rounds(homes: Homes) -> Iterator[RoundPlan]:
    probes = (Probe(transport="tcp", address=homes.address, port=PORT),)
    number, stays = 1, _walk(homes, PORT, 99).outcome
    plain = RoundPlan(
        number=1, kind="connect", prober=SOURCE, attempts=homes.attempts, probes=probes
    )
    yield plain
    local = homes.address in (INSIDE, "")
    arrives = _walk(homes, PORT, 99).port == PORT and homes.destination_sees
    if homes.pinholes and stays == "silent" and not local and not arrives and not _mapped(homes):
        number += 1
        yield RoundPlan(
            number=number,
            kind="pinhole",
            prober=SOURCE,
            attempts=3,
            probes=probes,
            local_ports=(30_000, 30_001, 30_002),
        )
    if homes.map and not arrives:
        number += 1
        yield RoundPlan(number=number, kind="mapped", prober=SOURCE, attempts=3, probes=probes)


def _mapped(homes: Homes) -> bool:
    return homes.traces and any(
        p.outcome == "expired" and p.icmp is not None and p.icmp.sender == homes.address
        for p in _source_traces(homes)
        if p.port == PORT
    )


def _pinhole_sent(homes: Homes) -> bool:
    held = homes.held and not homes.destination_sees
    return homes.looks and homes.told and not homes.one_home and not held


def _requests(homes: Homes, rounds: Iterable[RoundPlan]) -> Iterator[_Request]:
    number = homes.first - 1
    for plan in rounds:
        for index in range(plan.attempts):
            number += 1
            pinhole = plan.kind == "pinhole"
            yield _Request(
                round=plan.number,
                local_port=plan.local_ports[index] if pinhole else _own_port(homes, number),
                seq=2**32 - 1 - 1_000_000 * number,
                tag=tag_of(number) if homes.tags else 0,
                lost=plan.number == 1 and index in homes.lost,
                # A router that changes ports opens another one than is meant.
                opened=pinhole and _pinhole_sent(homes) and not homes.scramble,
                mapped=plan.kind == "mapped" and homes.map == "granted",
            )


def _own_port(homes: Homes, number: int) -> int:
    """The local port that the system chose for the request `number`."""
    return 30_001 if homes.reused and number == homes.first else 40_000 + number


def _end_of(homes: Homes, request: _Request) -> _End:
    end = _walk(homes, PORT, 99, opened=request.opened, mapped=request.mapped)
    if request.lost and end.left:
        return _End("silent")
    return end


# -- the source


def _source(homes: Homes, rounds: Sequence[RoundPlan]) -> Evidence:
    own = SOURCE_INSIDE if homes.source_nat or homes.one_home else SOURCE_PUBLIC
    requests = list(_requests(homes, rounds))
    direct = homes.contact == "direct"
    gateway = HOME if homes.one_home else SOURCE_HOME if homes.source_nat else CORE
    return Evidence(
        format=EVIDENCE_FORMAT,
        role=SOURCE,
        session=b"session",
        facts=facts_of(own, card=_CARD_OF_SOURCE, privileged=homes.source_sees),
        contact=ContactFacts(
            path=homes.contact,
            local=own if direct else "",
            remote=PUBLIC if direct else "",
            rtt=0.03,
            proven=(PUBLIC,) if direct else (),
        ),
        targets=(Target(text=homes.address, addresses=(homes.address,)),),
        rounds=tuple(rounds),
        attempts=tuple(_attempt(homes, request, own) for request in requests),
        hop_probes=_source_traces(homes),
        sightings=tuple(_leaving(homes, requests, own)) if homes.source_sees else (),
        witnesses=(Witness(name="packets", available=homes.source_sees),),
        routes=(Route(destination=homes.address, source=own, interface="eth0", gateway=gateway),),
        seen_as=_seen(homes, PUBLIC if homes.one_home else SOURCE_PUBLIC),
        confirmed=(PUBLIC,) if homes.told and not direct else (),
    )


def _seen(homes: Homes, address: str) -> tuple[SeenAs, ...]:
    return (SeenAs(address=address, by="stun"),) if homes.told else ()


def _attempt(homes: Homes, request: _Request, own: str) -> Attempt:
    end = _end_of(homes, request)
    error = {"refused": "ECONNREFUSED", "unreachable": "EHOSTUNREACH"}.get(end.outcome)
    return Attempt(
        round=request.round,
        transport="tcp",
        address=homes.address,
        port=PORT,
        local_address=own,
        local_port=request.local_port,
        started=0.0,
        ended=None if end.outcome == "silent" else 0.03,
        outcome=end.outcome,
        error=error,
        icmp=end.icmp,
        spoke=_word(homes, end),
        tag=request.tag,
    )


def _word(homes: Homes, end: _End) -> str:
    if end.outcome != "connected":
        return "nothing"
    if end.delivered and not homes.held:
        return "challenge"
    return "nothing" if end.delivered else "other"


def _leaving(homes: Homes, requests: Iterable[_Request], own: str) -> Iterator[Sighting]:
    for request in requests:
        end = _end_of(homes, request)
        went = (own, request.local_port), (homes.address, PORT)
        syn = request_seen("out", *went, request.seq, mss=request.tag)
        if end.left:
            yield syn
        kind = "icmp" if end.icmp else {"connected": "syn-ack", "refused": "reset"}.get(end.outcome)
        if kind and end.left:
            yield answer_seen(kind, syn, "in", end.icmp)


# -- the destination


def _destination(homes: Homes, rounds: Sequence[RoundPlan]) -> Evidence:
    requests = list(_requests(homes, rounds))
    direct = homes.contact == "direct"
    own = not homes.held
    outside = PUBLIC if homes.one_home else SOURCE_PUBLIC
    return Evidence(
        format=EVIDENCE_FORMAT,
        role=DESTINATION,
        session=b"session",
        facts=facts_of(INSIDE, card=CARD, privileged=homes.destination_sees),
        contact=ContactFacts(
            path=homes.contact,
            local=INSIDE if direct else "",
            remote=outside if direct else "",
            rtt=0.03,
            proven=(outside,) if direct else (),
        ),
        ports=(f"tcp:{PORT}",),
        rounds=tuple(rounds),
        hop_probes=_destination_traces(homes),
        sightings=tuple(_arriving(homes, requests)) if homes.destination_sees else (),
        witnesses=(
            Witness(name="packets", available=homes.destination_sees),
            Witness(name="sockets", available=homes.sockets),
        ),
        own_listeners=(
            OwnListener(
                transport="tcp",
                address=INSIDE,
                port=PORT,
                opened=own,
                error=None if own else "EADDRINUSE",
            ),
        ),
        acceptances=tuple(_acceptances(homes, requests)),
        listeners=tuple(_listeners(homes)) if homes.sockets else (),
        connections=tuple(_connections(homes, requests)) if homes.sockets else (),
        routes=(Route(destination=outside, source=INSIDE, interface="eth0", gateway=HOME),),
        seen_as=_seen(homes, PUBLIC),
        confirmed=(outside,) if homes.told and not direct else (),
        router_words=tuple(_words(homes)),
        opened=tuple(_opened(homes, rounds)),
        pinholes=tuple(_pinholes(homes, rounds)),
    )


def _as_seen(homes: Homes, request: _Request) -> tuple[str, int, int]:
    """The address, port and sequence number that come in."""
    if homes.one_home:
        source = SOURCE_INSIDE if homes.hairpin == "half" else HOME
    else:
        source = SOURCE_PUBLIC
    if "source" in homes.scramble or (homes.one_home and homes.hairpin == "full"):
        return source, request.local_port + SCRAMBLED, request.seq - SCRAMBLED
    if "destination" in homes.scramble:
        return source, request.local_port, request.seq - SCRAMBLED
    return source, request.local_port, request.seq


def _arriving(homes: Homes, requests: Iterable[_Request]) -> Iterator[Sighting]:
    for request in requests:
        end = _end_of(homes, request)
        if end.port is None:
            continue
        address, port, seq = _as_seen(homes, request)
        syn = request_seen("in", (address, port), (INSIDE, end.port), seq, mss=request.tag)
        # Of other ports only what bears a tag is noted.
        if end.port != PORT and not request.tag:
            continue
        yield syn
        icmp = None if end.icmp is None else Icmp(kind=3, code=end.icmp.code, sender=INSIDE)
        kind = "icmp" if icmp else {"refused": "reset", "connected": "syn-ack"}.get(end.outcome)
        kind = "syn-ack" if end.delivered else kind
        if kind and (end.port == PORT or kind == "icmp"):
            yield answer_seen(kind, syn, "out", icmp)


def _acceptances(homes: Homes, requests: Iterable[_Request]) -> Iterator[Acceptance]:
    for request in requests:
        end = _end_of(homes, request)
        if end.outcome == "connected" and end.delivered and not homes.held:
            address, port, _ = _as_seen(homes, request)
            yield Acceptance(
                at=0.2,
                transport="tcp",
                address=INSIDE,
                port=PORT,
                remote_address=address,
                remote_port=port,
                genuine=True,
            )


def _listeners(homes: Homes) -> Iterator[Listener]:
    for address in homes.listening:
        yield Listener(
            transport="tcp",
            address=address,
            port=PORT,
            program="backupd",
            names=("backupd",),
            pid=1,
            waiting=0,
            backlog=128,
        )


def _connections(homes: Homes, requests: Iterable[_Request]) -> Iterator[Connection]:
    for request in requests:
        end = _end_of(homes, request)
        beside = end.port not in (None, PORT) and homes.beside
        if end.port is None or not (end.delivered or beside):
            continue
        address, port, _ = _as_seen(homes, request)
        connected = end.outcome == "connected"
        takes = homes.takes or beside or not homes.held
        yield Connection(
            round=request.round,
            transport="tcp",
            state="ESTABLISHED" if connected else "SYN_RECV",
            local_address=INSIDE,
            local_port=end.port,
            remote_address=address,
            remote_port=port,
            accepted=takes if connected else None,
            watched=0.0 if takes else 2.0,
        )


def _words(homes: Homes) -> Iterator[RouterWord]:
    if not homes.word:
        return
    outside = "100.64.0.7" if homes.above.startswith("100.") else "10.0.0.7"
    there = homes.known_mapping and homes.forward is not None
    host, port = homes.forward or ("", 0)
    mapping = Mapping(
        transport="tcp",
        port=PORT,
        client={"destination": INSIDE, "other": OTHER_INSIDE}.get(host, "192.168.1.99")
        if there
        else None,
        client_port=port if there else 0,
    )
    yield RouterWord(
        protocol=homes.word,
        router=HOME,
        outcome="answers",
        outside=outside if homes.above else PUBLIC,
        mappings=(mapping,),
    )


def _opened(homes: Homes, rounds: Iterable[RoundPlan]) -> Iterator[OpenedMapping]:
    for plan in rounds:
        if plan.kind == "mapped":
            granted = homes.map == "granted"
            yield OpenedMapping(
                round=plan.number,
                transport="tcp",
                port=PORT,
                protocol="upnp",
                router=HOME,
                outcome=homes.map,
                outside=PUBLIC if granted else None,
                outside_port=PORT if granted else 0,
                lease=3600,
                kept=homes.kept and granted,
            )


def _pinholes(homes: Homes, rounds: Iterable[RoundPlan]) -> Iterator[Pinhole]:
    sent = _pinhole_sent(homes)
    for plan in rounds:
        for remote_port in plan.local_ports:
            yield Pinhole(
                round=plan.number,
                transport="tcp",
                local_port=PORT,
                remote=SOURCE_PUBLIC,
                remote_port=remote_port,
                hops=3 if sent else 0,
                sent=sent,
                error=None if sent else "EHOSTUNREACH",
            )
