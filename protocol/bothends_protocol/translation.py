"""What both evidences tell of the routers that translate addresses between the two.

Asked only where the tested address is none of the destination's own. Pure, like all that makes
observations; what follows from it is said in `causes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from .addresses import (
    bare,
    family,
    is_carrier,
    is_loopback,
    is_private,
    is_public,
    is_wildcard,
)
from .evidence import Attempt, Evidence, Mapping, OpenedMapping, Probe, RouterWord
from .plan import BURST, ENOUGH, MAPPED, PINHOLE
from .shares import rounds_of
from .tags import is_tag
from .ways import SILENCE, Way, farthest_other, still_speaks, way_of

__all__ = [
    "Neighbourhood",
    "Translation",
    "as_forwarded",
    "helped_rounds",
    "landing_of",
    "neighbourhood",
    "outside_of",
    "own_addresses",
    "router_of",
    "view_translation",
]


class Neighbourhood(msgspec.Struct, frozen=True):
    """Where the two are, as others see them."""

    source_public: frozenset[str] = frozenset()
    """Addresses under which the source is seen from outside."""
    destination_public: frozenset[str] = frozenset()
    together: bool | None = None
    """Whether both are on one network, or behind one router; None where that is unknown."""
    gateways: frozenset[str] = frozenset()
    """The destination's routers, as they are seen from inside."""

    @property
    def source_outside(self) -> frozenset[str]:
        """Addresses from which the source's requests may come in where a router translates.

        Behind one router that may be the router's own inside address.
        """
        return self.source_public | (self.gateways if self.together else frozenset())

    @property
    def apart(self) -> bool:
        """Whether they are on two networks, a router that translates before the destination."""
        return self.together is False and bool(self.destination_public)


class Translation(msgspec.Struct, frozen=True):
    """What is known of the routers before the destination, for one port of one address."""

    address: str
    """The tested one."""
    ours: bool | None
    """Whether the destination is seen under the tested address; None where nobody says how."""
    together: bool | None
    """Whether both are behind one router."""
    way: Way = msgspec.field(default_factory=Way)
    """The hops of the tested port."""
    control: Way = msgspec.field(default_factory=Way)
    """Those of another port of the address."""
    mapped_at: int | None = None
    """The hop that says in the name of the tested address that requests expired: it passes them
    on."""
    stops_after: int | None = None
    """The last hop that requests to this port get past while those to another port go on: 0 is the
    source itself."""
    cut_in: bool = False
    """Whether the tested port is answered at a hop where requests to another port go on."""
    word: str = ""
    """Protocol by which the router spoke of the port."""
    mapping: Mapping | None = None
    """What the router says of the port; without client where it has no such mapping."""
    to_destination: bool | None = None
    """Whether the router's mapping leads to the destination's own port."""
    router: str = ""
    """The destination's router, as it is reached from inside."""
    double: tuple[str, ...] = ()
    """How it is known that another router translates behind the destination's own."""
    double_sure: bool = False
    carrier: bool = False
    """Whether the second router is known to be a carrier's (RFC 6598)."""
    router_outside: str = ""
    """The outside address of the destination's router, where that is a private one."""
    asked_by: tuple[str, ...] = ()
    """Protocols by which the router can be asked for a forwarding."""
    speaks: bool = False
    """Whether the destination's own router is known to say that requests expired."""
    single: bool = False
    """Whether it is known that the destination's own router has the address, or that nobody
    translates behind it."""
    other_port: int | None = None
    """The port at which requests come in at the destination instead."""
    through_pinhole: bool | None = None
    """Whether requests came in where the destination had opened its router from inside."""
    opened: OpenedMapping | None = None
    """What came of asking the router to forward the port (--map)."""
    through_mapping: bool | None = None
    """Whether requests came in through that."""
    unmasked: bool = False
    """Whether requests come in with the source's own address though the router led them back."""
    public: tuple[str, ...] = ()
    """Where the destination is seen."""
    inside: tuple[str, ...] = ()
    """The destination's own addresses of that IP version, the landing one first."""

    @property
    def halted(self) -> bool:
        """Whether something before the address, the source included, stops or answers requests."""
        return self.stops_after is not None or self.cut_in

    @property
    def reached(self) -> bool:
        """Whether requests are known to have reached the machine that has the address."""
        answered = self.answered_by_holder and self.refused_behind is not False
        return bool(self.mapped_at is not None or answered or self.through_pinhole)

    @property
    def refused_behind(self) -> bool | None:
        """Whether the refusal comes from the hop at which requests end.

        Else from the one before it, or from somewhere else: False; None where it is unknown.
        """
        if self.way.refused_after is None or self.end is None:
            return None
        if self.way.last != self.end[0] - 1:
            return None  # it may end before, where a request was lost
        return self.way.refused_after == self.end[0]

    @property
    def from_afar(self) -> bool:
        """Whether a router of the Internet is on the way to the address."""
        others = {bare(who) for who in self.way.expired.values()} - {bare(self.address)}
        return self.through_pinhole is True or any(map(is_public, others))

    @property
    def end(self) -> tuple[int, str, str] | None:
        """The hop at which the tested port is answered, how, and who sent an ICMP error."""
        return self.way.end

    @property
    def answered_by_holder(self) -> bool:
        """Whether the machine that has the address answers itself, without passing it on."""
        if self.mapped_at is not None or self.end is None or self.cut_in:
            return False
        hop, outcome, sender = self.end
        reached = hop == 1 or self.way.last == hop - 1
        in_its_name = bare(sender) == bare(self.address)
        return reached and (in_its_name or (outcome != "unreachable" and not sender))


def own_addresses(evidence: Evidence) -> frozenset[str]:
    """Return the addresses of the host's own cards, and the one that its contact came from."""
    mine = {bare(item.address) for item in evidence.facts.addresses}
    local = bare(evidence.contact.local)
    return frozenset(mine | ({local} if local else set()))


def outside_of(here: Evidence, there: Evidence | None) -> frozenset[str]:
    """Return the addresses under which the side `here` is seen from outside, all those told.

    What authenticated there, what servers and the own router said, what a meeting point confirmed.
    """
    own = own_addresses(here)
    told = [] if there is None else [there.contact.remote, *there.contact.proven, *there.confirmed]
    # One of its own is an outside address too where it is public: then nobody translates.
    found = {bare(a) for a in told if a and (bare(a) not in own or is_public(bare(a)))}
    found |= {bare(s.address) for s in here.seen_as if is_public(s.address)}
    # Where they differ, others see it through a tunnel, say, and the router has its own as well.
    found |= {bare(w.outside) for w in here.router_words if w.outside and is_public(w.outside)}
    return frozenset(found)


def neighbourhood(
    source: Evidence | None, table: Evidence | None, *, one_gateway: bool | None
) -> Neighbourhood:
    """Return where the two are; `one_gateway` is whether they have the same one (by hardware)."""
    if source is None or table is None:
        return Neighbourhood()
    here, there = outside_of(source, table), outside_of(table, source)
    return Neighbourhood(
        source_public=here,
        destination_public=there,
        together=_together(source, table, here, there, one_gateway=one_gateway),
        gateways=frozenset(bare(r.gateway) for r in table.routes if r.gateway),
    )


def _together(
    source: Evidence,
    table: Evidence,
    here: frozenset[str],
    there: frozenset[str],
    *,
    one_gateway: bool | None,
) -> bool | None:
    if one_gateway is not None:
        return one_gateway
    if bare(source.contact.remote) in own_addresses(table) and _on_one_net(source, table):
        return True
    for version in (4, 6):
        mine = {a for a in here if family(a) == version}
        theirs = {a for a in there if family(a) == version}
        if mine and theirs:
            if not mine & theirs:
                return False
            # Customers of one carrier share an address, too.
            return None if _behind_two(table)[0] or _behind_two(source)[0] else True
    return None


def _on_one_net(source: Evidence, table: Evidence) -> bool:
    """Whether the contact went from card to card: no route of either names a gateway for it."""
    for side in (source, table):
        remote = bare(side.contact.remote)
        ways = [r for r in side.routes if bare(r.destination) == remote and r.usual]
        if any(way.gateway for way in ways):
            return False
        nets = [a for a in side.facts.addresses if _same_net(a.address, a.prefix, remote)]
        if not nets:
            return False
    return True


def _same_net(address: str, prefix: int, other: str) -> bool:
    import ipaddress  # noqa: PLC0415  for this one question

    try:
        net = ipaddress.ip_network(f"{bare(address)}/{prefix}", strict=False)
        return ipaddress.ip_address(other) in net
    except ValueError:
        return False


def landing_of(table: Evidence, address: str) -> str | None:
    """Return the destination's own address at which requests to `address` come in.

    Its own; else where they were seen to, or where its router says; else the one by which it
    reaches its router.
    """
    own = own_addresses(table)
    if bare(address) in own:
        return bare(address)
    version = family(bare(address))
    listed = [bare(a.address) for a in table.facts.addresses if family(bare(a.address)) == version]
    seen = [s.destination for s in table.sightings if s.way == "in" and is_tag(s.mss)]
    taken = [a.address for a in table.acceptances if a.genuine]
    told = [m.client for w in table.router_words for m in w.mappings if m.client]
    routed = [r.source for r in table.routes if r.gateway and r.source]
    choices = [bare(a) for a in (*seen, *taken, *told, *routed, *listed) if a]
    return next((a for a in choices if a in own and family(a) == version), None)


def router_of(table: Evidence, landing: str | None) -> str:
    """Return the inside address of the destination's router, as far as it says; empty if not."""
    asked = [word.router for word in table.router_words]
    gateways = [gateway.next_hop for gateway in table.gateways]
    # A way through a tunnel has a gateway, too.
    routed = [r.gateway for r in table.routes if r.gateway and r.source == landing]
    return next((bare(a) for a in (*asked, *gateways, *routed) if a), "")


def view_translation(
    source: Evidence | None,
    table: Evidence | None,
    key: tuple[str, str, int],
    around: Neighbourhood,
    *,
    through_mapping: bool | None = None,
) -> Translation | None:
    """Return what is known of the routers, None where the address is the destination's own.

    `through_mapping`: whether requests came in where the router had been asked to forward.
    """
    transport, address, port = key
    if source is None or table is None or bare(address) in own_addresses(table):
        return None
    if any(_same_net(a.address, a.prefix, bare(address)) for a in source.facts.addresses):
        return None  # on the source's own network nobody translates
    probes = [p for p in source.hop_probes if p.transport == transport]
    way = way_of(probes, address, port)
    control = farthest_other(probes, address, port)
    double, sure = _behind_two(table, address)
    # The contact opens the way of its own port by UDP, through a carrier's router too: that other
    # datagrams end there says nothing of a filter.
    plain = transport == "tcp" or (_single(table, address) and not double)
    router, word, mapping = _word(table.router_words, transport, port)
    landing = landing_of(table, address)
    public = sorted(a for a in around.destination_public if family(a) == family(bare(address)))
    own = sorted(
        {
            bare(a.address)
            for a in table.facts.addresses
            if family(bare(a.address)) == family(bare(address))
        }
    )
    return Translation(
        address=address,
        ours=bare(address) in public if public else None,
        together=around.together,
        way=way,
        control=control,
        mapped_at=way.place_of(address),
        stops_after=_stops_after(way, control, address) if plain else None,
        cut_in=plain and _cut_in(way, control, address),
        word=word,
        mapping=mapping,
        to_destination=_to_destination(mapping, table, port),
        router=router,
        double=double,
        double_sure=sure,
        carrier=_behind_carrier(table),
        router_outside=_private_outside(table),
        asked_by=tuple(
            dict.fromkeys(w.protocol for w in table.router_words if w.outcome == "answers")
        ),
        speaks=_speaks(table),
        single=_single(table, address),
        other_port=_other_port(source, table, key, around),
        through_pinhole=_through_pinhole(source, table, key),
        opened=_opened(table, transport, port),
        through_mapping=through_mapping,
        unmasked=_unmasked(_attempts(source, key), source, table, around),
        public=tuple(public),
        inside=tuple(dict.fromkeys(a for a in (landing, *own) if a)),
    )


def _stops_after(way: Way, control: Way, address: str) -> int | None:
    """The last hop that lets requests to the tested port go on, where another port's do go on."""
    if way.ends or way.place_of(address) is not None:
        return None
    further = [
        hop
        for hop, who in control.expired.items()
        if hop > way.last and hop in way.silent and bare(who) != bare(address)
    ]
    # One lost request and its repetition are no filter, and a router that has used up its words
    # says nothing to anybody: it must have answered the other port after that.
    if sum(way.tries[hop] for hop in further) < SILENCE:
        return None
    return way.last if still_speaks(way, control, min(further)) else None


def _cut_in(way: Way, control: Way, address: str) -> bool:
    if way.end is None:
        return False
    hop, _, sender = way.end
    beyond = control.expired.get(hop)
    return beyond is not None and bare(beyond) != bare(address) and bare(sender) != bare(address)


def _word(
    words: Sequence[RouterWord], transport: str, port: int
) -> tuple[str, str, Mapping | None]:
    """The router, the protocol by which it spoke of the port, and what it said."""
    for word in words:
        for mapping in word.mappings:
            if (mapping.transport, mapping.port) == (transport, port) and _is_sense(mapping):
                return word.router, word.protocol, mapping
    return next((w.router for w in words if w.outcome == "answers"), ""), "", None


def _is_sense(mapping: Mapping) -> bool:
    """Whether a port can lead where the router says: it leads to no loopback address."""
    client = mapping.client
    return client is None or not (is_loopback(bare(client)) or is_wildcard(bare(client)))


def _to_destination(mapping: Mapping | None, table: Evidence, port: int) -> bool | None:
    if mapping is None or mapping.client is None or not mapping.enabled:
        return None
    return bare(mapping.client) in own_addresses(table) and mapping.client_port in (0, port)


def _behind_two(table: Evidence, address: str = "") -> tuple[tuple[str, ...], bool]:
    """How it is known that a second router translates, and whether that is sure.

    Not before `address`, where the own router has it.
    """
    if _holds_public(table):
        return (), False  # whatever the router says of itself
    reasons: list[str] = []
    sure = False
    if any(word.outside and bare(word.outside) == bare(address) for word in table.router_words):
        return (), False  # the own router has it, whatever others see
    seen = {bare(s.address) for s in table.seen_as if is_public(s.address)}
    for word in table.router_words:
        outside = bare(word.outside) if word.outside else ""
        if is_private(outside):
            reasons.append(
                f"The destination's router says ({word.protocol}) that its own outside address is "
                f"{outside}, which is none of the Internet."
            )
            sure = True
        elif outside and seen and outside not in seen and is_public(outside):
            reasons.append(
                f"The destination's router says ({word.protocol}) that its own outside address is "
                f"{outside}, and others see the destination as {min(seen)}."
            )
            sure = True
        if reasons:
            break
    carrier = _carrier_hops(table)
    if carrier:
        reasons.append(
            f"On the destination's way out the router {carrier[0]} is of a carrier's shared "
            "address space (RFC 6598)."
        )
        sure = True
    beyond = _beyond_own(table)
    if beyond:
        reasons.append(
            "The destination's router does not have the public address itself: requests from "
            f"inside to it go on to another router ({', '.join(beyond)} said that they expired)."
        )
    return tuple(reasons), sure


def _private_outside(table: Evidence) -> str:
    told = [bare(word.outside) for word in table.router_words if word.outside]
    return next((address for address in told if is_private(address)), "")


def _behind_carrier(table: Evidence) -> bool:
    return is_carrier(_private_outside(table)) or bool(_carrier_hops(table))


def _holds_public(table: Evidence) -> bool:
    """Whether the destination's router itself answered to an address that others see it under."""
    for address in {bare(s.address) for s in table.seen_as if is_public(s.address)}:
        for port in {p.port for p in table.hop_probes if bare(p.address) == address}:
            end = way_of(table.hop_probes, address, port).end
            if end is not None and end[0] == 1:
                return True
    return False


def _carrier_hops(table: Evidence) -> list[str]:
    """Routers of a carrier's shared addresses before the first public one, by the way out."""
    found = []
    for address in sorted({p.address for p in table.hop_probes}):
        ports = {p.port for p in table.hop_probes if p.address == address}
        for port in sorted(ports):
            way = way_of(table.hop_probes, address, port)
            for hop in sorted(way.expired):
                if is_public(way.expired[hop]):
                    break
                if is_carrier(way.expired[hop]):
                    found.append(way.expired[hop])
    return list(dict.fromkeys(found))


def _beyond_own(table: Evidence) -> list[str]:
    """Routers that pass requests from inside on towards the destination's own public address."""
    outside = {bare(s.address) for s in table.seen_as} | {
        bare(p.address) for p in table.hop_probes if _to_itself(table, p.address)
    }
    for address in sorted(outside):
        ports = {p.port for p in table.hop_probes if bare(p.address) == address}
        for port in sorted(ports):
            way = way_of(table.hop_probes, address, port)
            first = way.expired.get(1)
            if first is not None and first != address and way.asked >= 2:
                return [way.expired[hop] for hop in sorted(way.expired)]
    return []


def _speaks(table: Evidence) -> bool:
    """Whether the first router on the destination's way out said that requests expired."""
    return any(p.hops == 1 and p.outcome == "expired" and p.icmp for p in table.hop_probes)


def _single(table: Evidence, address: str) -> bool:
    """Whether the own router has the address, or is followed by one of the Internet at once."""
    if any(word.outside and bare(word.outside) == bare(address) for word in table.router_words):
        return True
    for traced in {bare(p.address) for p in table.hop_probes}:
        for port in {p.port for p in table.hop_probes if bare(p.address) == traced}:
            way = way_of(table.hop_probes, traced, port)
            if traced == bare(address) and 1 in way.ends:
                return True
            own, beyond = way.expired.get(1, ""), way.expired.get(2, "")
            if is_public(beyond) and not is_public(own):
                return True
    return False


def _to_itself(table: Evidence, address: str) -> bool:
    """Whether the destination traced this address as its own: all others are the other side's."""
    others = {
        bare(table.contact.remote),
        *map(bare, table.contact.proven),
        *map(bare, table.confirmed),
    }
    return bare(address) not in others


def helped_rounds(source: Evidence, table: Evidence | None) -> frozenset[int]:
    """Return the rounds for which a router was opened first: they do not show the port as it is.

    What the router was asked to forward it goes on to forward, so that these are also the bursts
    which follow.
    """
    rounds = {r.number: r for r in (*source.rounds, *(table.rounds if table else ()))}
    helped: set[int] = set()
    asked: set[Probe] = set()
    for number, plan in sorted(rounds.items()):
        if plan.kind == MAPPED:
            asked.update(plan.probes)
        if plan.kind in (PINHOLE, MAPPED) or (plan.kind == BURST and asked & set(plan.probes)):
            helped.add(number)
    return frozenset(helped)


def as_forwarded(
    source: Evidence, table: Evidence, key: tuple[str, str, int]
) -> tuple[Evidence, Evidence] | None:
    """Return both evidences as if all had been tried while the router forwarded the port (--map).

    They hold what was sent and seen then, and nothing of the routers: these were asked before.
    None where the router did not, or nothing was sent.
    """
    transport, _, port = key
    began = min(
        (
            o.round
            for o in table.opened
            if o.outcome == "granted" and (o.transport, o.port) == (transport, port)
        ),
        default=None,
    )
    if began is None:
        return None
    pinholes = rounds_of((PINHOLE,), source, table)
    then = {n for n in helped_rounds(source, table) - pinholes if n >= began}
    attempts = tuple(a for a in _attempts(source, key) if a.round in then)
    if not attempts:
        return None
    return (
        replace(
            source,
            rounds=(),
            attempts=attempts,
            bursts=tuple(b for b in source.bursts if b.round in then),
            hop_probes=(),
        ),
        replace(table, rounds=(), hop_probes=(), router_words=(), pinholes=(), opened=()),
    )


def _through_pinhole(source: Evidence, table: Evidence, key: tuple[str, str, int]) -> bool | None:
    """Whether requests came in where the router was opened from inside; None: none, or unseen."""
    opened = {
        p.round
        for p in table.pinholes
        if p.sent and (p.transport, p.local_port) == (key[0], key[2])
    }
    rounds = rounds_of((PINHOLE,), source, table) & opened
    tried = [a for a in _attempts(source, key) if a.round in rounds]
    if not tried:
        return None
    if key[0] == "udp":
        pinholes = [p for p in table.pinholes if p.round in rounds and p.transport == "udp"]
        through = {(p.round, p.remote_port, bare(p.remote)) for p in pinholes}
        known = {(a.round, a.local_port) for a in tried}
        came = any(
            (number, port) in known and _datagram_came(table, port, key[2], who)
            for number, port, who in through
        )
        # What is forwarded anyway comes in as well: no word of a time run out need tell of it.
        helped = helped_rounds(source, table)
        others = (a for a in _attempts(source, key) if a.round not in helped)
        if any(_datagram_came(table, a.local_port, key[2]) for a in others):
            return None
    else:
        came = any(_came_in(a, table, key[2]) for a in tried)
    if came:
        return True
    if any(a.outcome != "silent" for a in tried):
        return None  # somebody answered in the destination's place
    # Without that witness the destination's own filter may have kept them.
    seen = any(w.name == "packets" and w.available and not w.lost for w in table.witnesses)
    return False if seen and not table.facts.xdp else None


def _came_in(attempt: Attempt, table: Evidence, port: int) -> bool:
    """Whether the destination saw this very request, or its own listener spoke to the source."""
    if attempt.spoke == "challenge":
        return True
    tagged = any(
        s.way == "in" and s.mss == attempt.tag and s.destination_port == port
        for s in table.sightings
        if attempt.tag
    )
    rows = any(
        row.round == attempt.round
        and row.local_port == port
        and row.remote_port == attempt.local_port
        for row in table.connections
    )
    return tagged or rows


def _datagram_came(table: Evidence, source_port: int, port: int, source: str = "") -> bool:
    """Whether a datagram between these ports came to the destination, from `source` if given."""
    return any(
        s.way == "in"
        and s.transport == "udp"
        and s.icmp is None
        and (s.source_port, s.destination_port) == (source_port, port)
        and source in ("", bare(s.source))
        for s in table.sightings
    )


def _opened(table: Evidence, transport: str, port: int) -> OpenedMapping | None:
    found = [o for o in table.opened if (o.transport, o.port) == (transport, port)]
    return found[-1] if found else None


def _other_port(
    source: Evidence, table: Evidence, key: tuple[str, str, int], around: Neighbourhood
) -> int | None:
    """The one other port at which at least three requests of this port came in, and none at it."""
    mine = _attempts(source, key)
    asked = {p.port for r in (*source.rounds, *table.rounds) for p in r.probes}
    tags = {a.tag for a in mine if a.tag}
    found: Counter[int] = Counter()
    came = {(s.mss, s.destination_port) for s in table.sightings if s.way == "in" and s.mss in tags}
    found.update(port for _, port in came)
    local = {(a.round, a.local_port) for a in mine}
    rows = {
        (row.round, row.remote_port, row.local_port)
        for row in table.connections
        if (row.round, row.remote_port) in local
        and bare(row.remote_address) in around.source_public | own_addresses(source)
    }
    found.update(port for _, _, port in rows)
    if found[key[2]]:
        return None
    others = [port for port, count in found.items() if port not in asked and count]
    enough = min(ENOUGH, len(mine))
    return others[0] if len(others) == 1 and found[others[0]] >= enough > 0 else None


def _attempts(source: Evidence, key: tuple[str, str, int]) -> list[Attempt]:
    return [a for a in source.attempts if (a.transport, a.address, a.port) == key]


def _unmasked(
    mine: Sequence[Attempt], source: Evidence, table: Evidence, around: Neighbourhood
) -> bool:
    """Whether the router sent these requests back inside with the source's own inside address."""
    if around.together is False:
        return False  # in another network that address is somebody else's
    own = {a for a in own_addresses(source) if not is_public(a)}
    tags = {a.tag for a in mine if a.tag}
    local = {(a.round, a.local_port) for a in mine}
    return any(
        s.way == "in" and s.mss in tags and bare(s.source) in own for s in table.sightings
    ) or any(
        (row.round, row.remote_port) in local and bare(row.remote_address) in own
        for row in table.connections
    )
