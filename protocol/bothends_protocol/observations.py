"""From raw evidence to observations of how far each connection request got.

Each attempt of the prober becomes a `Trail`: a row of stages, each reached, not
reached or unknown. A stage is unknown where no witness could have told, and
that is never the same as not reached. The trails of one port at one address
make a `Journey`, on which the causes are judged. Pure functions of the two
evidences; no cause is named here.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property

import msgspec
from msgspec.structs import replace

from .addresses import (
    bare,
    family,
    is_link_local6,
    is_loopback,
    is_private,
    is_public,
    is_wildcard,
)
from .counted import (
    BurstView,
    kept_back,
    lost_inside,
    met_full_queue,
    queue_dropped,
    rise,
    view_bursts,
)
from .evidence import (
    Acceptance,
    Attempt,
    Connection,
    Evidence,
    Icmp,
    Listener,
    MatchingRule,
    Neighbour,
    OwnListener,
    Queue,
    Route,
    Samples,
    SelfConnect,
    Sighting,
)
from .plan import ENOUGH, HALF_OPEN, LOSS, SAMPLE
from .services import takes_from
from .shares import Loss, Paths, rounds_of, view_loss, view_paths
from .stages import Stage
from .tags import is_tag
from .translation import (
    Neighbourhood,
    Translation,
    as_forwarded,
    helped_rounds,
    landing_of,
    neighbourhood,
    own_addresses,
    view_translation,
)
from .ways import Stretch, Way, farthest_other, stretch_of, way_back_of, way_of

__all__ = [
    "ANSWERS",
    "Journey",
    "Stage",
    "Symptom",
    "Trail",
    "by_port",
    "covers",
    "observe",
]


class Symptom(enum.Enum):
    """What the source itself sees of an attempt that failed."""

    SILENT = "silent"
    RESET = "reset"
    """Refused by a TCP reset, as far as can be told."""
    ICMP = "icmp"
    """Refused or called unreachable by an ICMP error."""
    LOCAL = "local"
    """connect() itself said no: nothing was sent."""


_SYMPTOMS = {
    "no-route": Symptom.LOCAL,
    "local-error": Symptom.LOCAL,
    "silent": Symptom.SILENT,
    "unreachable": Symptom.ICMP,
}
"""By the outcome of the attempt; what is left is a reset."""

ANSWERS = frozenset({"syn-ack", "answer"})
"""Kinds of reply that are what the source hopes for: of TCP and of UDP."""

UNRESOLVED = ("failed", "incomplete")
"""States of a next hop that did not say where it is."""


class Trail(msgspec.Struct, frozen=True, dict=True):
    """One attempt and the stages it reached; None where nobody could tell."""

    attempt: Attempt
    left: bool | None
    arrived: bool | None
    delivered: bool | None
    reply: frozenset[str] | None
    """Kinds of answer seen leaving the destination's card: `syn-ack`, `reset`, `icmp`; and
    `answer`, a datagram of UDP."""
    returned: frozenset[str] | None
    """Kinds of answer seen reaching the source's card."""
    own: bool = False
    """Whether the agent's own listener took the connection."""
    forwarded: bool = False
    """Whether the destination was seen to pass the request on to somebody else."""
    rows: frozenset[tuple[str, int, str]] = frozenset()
    """Transport, port and address that the destination's socket table may name as its origin."""

    @property
    def connected(self) -> bool:
        """Whether connect() succeeded, which by itself proves nothing."""
        return self.attempt.outcome == "connected"

    @property
    def proven(self) -> bool:
        """Whether this connection is known to have reached the destination itself."""
        if not self.connected:
            return False
        return self.own or bool(
            self.delivered or (self.arrived and self.reply and self.reply & ANSWERS)
        )

    @property
    def symptom(self) -> Symptom | None:
        """What the source saw, or None where it connected."""
        outcome = self.attempt.outcome
        if outcome == "connected":
            return None
        # A refusal that left the destination and never came back is a refusal.
        sent = self.reply or frozenset()
        if outcome == "silent" and sent and not sent & ANSWERS:
            return Symptom.RESET if "reset" in sent else Symptom.ICMP
        # By UDP nothing else refuses.
        if outcome == "refused" and (self.attempt.icmp or self.attempt.transport == "udp"):
            return Symptom.ICMP
        return _SYMPTOMS.get(outcome, Symptom.RESET)

    @cached_property
    def reached(self) -> tuple[bool | None, ...]:
        """Reached or not, by stage, with what one stage tells of the others filled in."""
        stages: list[bool | None] = [
            True,
            self.left,
            self.arrived,
            self.delivered,
            None if self.reply is None else bool(self.reply & ANSWERS),
            None if self.returned is None else bool(self.returned & ANSWERS),
            self.connected,
        ]
        # An end that connected to something else proves nothing about the stages between.
        known = range(Stage.CONNECTED) if not self.proven else range(Stage.CONNECTED + 1)
        last = max((stage for stage in known if stages[stage]), default=0)
        for stage in range(last):
            stages[stage] = True
        first = next((s for s in range(last + 1, len(stages)) if stages[s] is False), None)
        if first is not None:
            for stage in range(first, Stage.CONNECTED):
                stages[stage] = False
        return tuple(stages)


class Journey(msgspec.Struct, frozen=True, dict=True):
    """All that was observed of one port at one address in one direction."""

    direction: str
    transport: str
    address: str
    port: int
    trails: tuple[Trail, ...]
    local: bool
    """Whether the address is one of the destination's own (no translation on the way)."""
    source_packets: bool
    """Whether the packet witness of the source can be relied on."""
    destination_packets: bool
    destination_known: bool
    """Whether the destination's evidence is here at all."""
    own: bool
    """Whether the agent's own listener held the port at this address."""
    own_error: str | None
    sockets: bool
    """Whether the destination's socket table could be read."""
    holders: tuple[Listener, ...] = ()
    """Programs that listen on the port at this address."""
    elsewhere: tuple[Listener, ...] = ()
    """Programs that listen on the port, but not at this address."""
    connections: tuple[Connection, ...] = ()
    queues: tuple[Queue, ...] = ()
    """UDP: of the sockets on the port that other programs than the agent hold."""
    neighbour: Neighbour | None = None
    route_error: str | None = None
    """Why the source has no way to the address."""
    return_error: str | None = None
    """Why the destination does not take packets from the source, or has no way back."""
    return_known: bool = False
    source_addresses: frozenset[str] = msgspec.field(default_factory=frozenset)
    burst: BurstView | None = None
    """What the counters of both sides say of a coded burst."""
    stranger: bool | None = None
    """Whether the machine that answers for the address on the source's own network is another
    than the destination; None where that cannot be told."""
    forwards: bool | None = None
    """Whether the destination may pass packets on (containers)."""
    wanted: str | None = None
    """The program that ought to hold the port (--service)."""
    wanted_runs: bool | None = None
    """Whether a process of that name is there at all."""
    astray: bool = False
    """Whether the destination answers by another card than the one that has the address, and
    the contact does not show that this works."""
    still: frozenset[str] = frozenset()
    """Counters of the destination that did not move at all while single requests were sent."""
    back_unresolved: bool = False
    """Whether the destination's next hop towards the source does not say where it is."""
    kept_back: bool = False
    """Whether the destination itself kept back as many packets as requests came, while single ones
    were sent."""
    wanted_elsewhere: tuple[Listener, ...] = ()
    """Where that program listens instead."""
    first_router: str | None = None
    """Who said that the time of a request ran out which was to end at the first router."""
    self_connect: SelfConnect | None = None
    """What came of the destination's connection to its own service."""
    unmet: bool = False
    """Whether the two never reached each other directly: at a meeting point, or not at all."""
    together: bool | None = None
    """Whether the two are on one network, as their gateways show; None where that is unknown."""
    apart: bool = False
    """Whether the two are known to be on two networks, the destination behind a router that
    translates."""
    translation: Translation | None = None
    """What is known of the routers in front of the destination, where the address is not its
    own."""
    way: Way = msgspec.field(default_factory=Way)
    """What requests with a small time to live show of the hops to the port."""
    strays: bool | None = None
    """Whether the destination's table has rows of the source's that belong to no attempt, at other
    ports; None where nobody says how the source looks from outside."""
    landing: str | None = None
    """The destination's own address at which requests come in."""
    public: tuple[str, ...] = ()
    """Where the destination is seen from outside."""
    control: Way = msgspec.field(default_factory=Way)
    """The same of the port at which the agents meet, where the other side listens."""
    back: Stretch | None = None
    """Where what comes from the tested port ends on its way to the source, and other packets of
    the destination go on."""
    paths: Paths | None = None
    """What a sample of connections met, where one was taken."""
    loss: Loss | None = None
    """What was lost of requests to another port of the address, where that was measured."""
    met_there: bool = False
    """Whether the contact shows that the address leads to the destination."""
    contact_there: bool = False
    """Whether the contact itself goes to the address, still at the end."""
    source_rules: tuple[MatchingRule, ...] = ()
    """Rules of the source's own firewall that match the requests or the answers."""
    destination_rules: tuple[MatchingRule, ...] = ()
    answered_from: frozenset[str] = frozenset()
    """UDP: other addresses from which answers to attempts were seen to come."""
    limited: bool = False
    """UDP: whether single datagrams may have come through where a burst did not, as a filter that
    limits the rate has it."""
    crowded: bool = False
    """Whether of many requests at once far more were lost there than of single ones."""
    shut_out: bool = False
    """Whether ports there that answered one request stay silent since."""
    perhaps_limited: bool = False
    """UDP: whether so many attempts at other ports were refused by ICMP that silence at this one
    may be no more than the limit for such errors."""
    deferred: bool | None = None
    """Whether the destination's kernel waits for data before it takes a handshake for complete, as
    the program may want it (TCP_DEFER_ACCEPT); None where its counters do not tell."""
    by_cookies: frozenset[int] = frozenset()
    """Rounds in which requests were answered by SYN cookies and no connection was completed."""
    queue_drops: bool = False
    """Whether a full SYN queue dropped as many requests meanwhile as the source made, or more."""
    sourced: bool = False
    """Whether the source has a route to the address, and an address of its own for it."""
    forwarding: Journey | None = None
    """The journey of what was sent while the router forwarded the port because bothends had asked
    it to (--map)."""

    @cached_property
    def failed(self) -> tuple[Trail, ...]:
        """The attempts that did not connect."""
        return tuple(trail for trail in self.trails if not trail.connected)

    @property
    def counted_through(self) -> bool:
        """Whether attempts connected and a burst shows that they reach the destination."""
        if not any(trail.connected for trail in self.trails) or self.burst is None:
            return False
        past = self.burst.forwarded is True or self.led_past
        if not past and all(t.delivered is False or t.arrived is False for t in self.trails):
            return False  # they come to somebody else on the destination
        return bool(self.burst.forwarded or self.burst.reached.get(Stage.DELIVERED))

    @cached_property
    def stretch(self) -> Stretch | None:
        """Where requests to the port end, and others to the same address go on."""
        # Who gets a datagram need not answer it.
        answers = self.transport == "tcp"
        return stretch_of(self.way, self.control, bare(self.address), answers=answers)

    @property
    def answered_early(self) -> bool:
        """Whether connections come about at a hop that requests to another port go beyond.

        Not where a router that has the address passes the other port on and takes this one itself;
        nor where ways differ in length, so that some requests to this port go beyond, too.
        """
        end = self.way.end
        if end is None or end[1] != "connected" or self.way.last >= end[0]:
            return False
        beyond = self.control.expired.get(end[0])
        return beyond is not None and bare(beyond) != bare(self.address)

    @property
    def relayed(self) -> bool:
        """Whether somebody between passes the connections on in its own name.

        In each round as many came to the destination from one other address as were made. What
        was there in an earlier round is somebody else's.
        """
        made = Counter(trail.attempt.round for trail in self.trails if trail.connected)
        if not self.local or self.stranger or made.total() < HALF_OPEN:
            return False
        known = {row for trail in self.trails for row in trail.rows}
        came: dict[str, Counter[int]] = {}
        for row in sorted(self.connections, key=lambda row: row.round):
            place = (row.transport, row.remote_port, bare(row.remote_address))
            if place not in known and row.state != "SYN_RECV":
                known.add(place)
                came.setdefault(place[2], Counter())[row.round] += 1
        return any(all(seen[number] >= made[number] for number in made) for seen in came.values())

    @property
    def on_link(self) -> bool:
        """Whether the source looks for the address on its own network."""
        return self.neighbour is not None and bare(self.neighbour.next_hop) == bare(self.address)

    @property
    def unresolved(self) -> bool:
        """Whether the next hop never answered, so that nothing could leave but the question."""
        return self.neighbour is not None and self.neighbour.state in UNRESOLVED

    @cached_property
    def proven(self) -> tuple[Trail, ...]:
        """The attempts that are known to have reached the destination."""
        return tuple(trail for trail in self.trails if trail.proven)

    @property
    def half_open(self) -> bool:
        """Whether the destination saw requests only, and the source's handshake was complete.

        So it is where the program wants to be woken by data alone (TCP_DEFER_ACCEPT), and where
        the last packet of the handshake is lost.
        """
        return bool(self.proven) and all(
            not trail.own and self._is_half_open(trail) for trail in self.proven
        )

    @property
    def unfinished(self) -> bool:
        """Whether of so many handshakes that the source completed not one is so at the destination.

        Nor is it the program's wish. So what comes behind the request does not get through.
        """
        connected = [trail for trail in self.trails if trail.connected]
        cookies = self.burst is not None and self.burst.unlisted is True
        here = bool(self.proven) or (self.counted_through and cookies)
        return (
            here
            and self.sockets
            and not self.relayed
            and len(connected) >= HALF_OPEN
            and self.deferred is False
            and all(self._is_half_open(trail) for trail in connected)
            and self._stays_so(connected)
        )

    @property
    def cut_off(self) -> bool:
        """Whether the connections were reset, and not by the program: it never had one of them.

        The source was told so before the destination's table was read, and what a program has had
        is complete there, or gone.
        """
        connected = [trail for trail in self.trails if trail.connected]
        return bool(connected) and self.sockets and all(map(self.is_cut_off, connected))

    def is_cut_off(self, trail: Trail) -> bool:
        """Whether this connection was reset while it was half-open at the destination."""
        states = {row.state for row in self.rows(trail, later=False)}
        return trail.attempt.spoke == "closed" and states == {"SYN_RECV"}

    def _stays_so(self, connected: Sequence[Trail]) -> bool:
        """Whether the handshakes of earlier rounds are half-open still in later ones.

        What the source sends when it closes completes a handshake whose last packet was late or
        lost, and one that waits for data. On a way that grew longer it is always late.
        """
        last = max(trail.attempt.round for trail in connected)
        earlier = [trail for trail in connected if trail.attempt.round < last]
        for trail in earlier:
            first, every = self.rows(trail, later=False), self.rows(trail)
            later = {row.state for row in every if row.round > trail.attempt.round}
            if later != ({"SYN_RECV"} if first else set()):
                return False
        return bool(earlier)

    def _is_half_open(self, trail: Trail) -> bool:
        states = {row.state for row in self.rows(trail, later=False)}
        # By a SYN cookie there is no row before the handshake is complete.
        by_cookie = not states and trail.attempt.round in self.by_cookies
        return trail.attempt.spoke == "nothing" and (states == {"SYN_RECV"} or by_cookie)

    @property
    def forwarded(self) -> bool:
        """Whether the destination passes the requests on to somebody else (a container)."""
        counted = self.burst is not None and self.burst.forwarded is True
        return counted or any(trail.forwarded for trail in self.trails)

    @property
    def refused_by_count(self) -> bool:
        """Whether a burst was answered without having come through: a filter refuses it."""
        told = {} if self.burst is None else self.burst.reached
        # What a forwarding host sends may be the request itself, on its way behind it.
        behind = self.burst is None or self.burst.forwarded is not False
        return not behind and told.get(Stage.DELIVERED) is False and bool(told.get(Stage.REPLIED))

    @property
    def answer_kept(self) -> bool:
        """Whether a burst did not come through, and answers to it were made and kept."""
        if self.burst is None or self.burst.forwarded is not False:
            return False
        told = self.burst.reached
        return bool(self.burst.kept) and told.get(Stage.DELIVERED) is False

    @property
    def led_to_nobody(self) -> bool:
        """Whether the destination itself says that nobody listens, and at the port somebody does.

        So it leads the port to another one, or to an address where nobody listens (a redirect).
        """
        refused = self.burst is not None and self.burst.refused is True
        kinds = {Symptom.ICMP} if self.transport == "udp" else {Symptom.RESET}
        listened = self.own or bool(self.holders)
        return self.local and listened and refused and self.symptoms - {Symptom.SILENT} == kinds

    @property
    def unheard(self) -> bool:
        """Whether refusals left the destination, and the source got nothing."""
        return Symptom.SILENT not in self.symptoms and all(
            trail.attempt.outcome == "silent" for trail in self.failed
        )

    @cached_property
    def symptoms(self) -> frozenset[Symptom]:
        """What the source saw of the attempts that failed.

        Or would have seen: a refusal that is lost on its way back is one all the same.
        """
        found = frozenset(trail.symptom for trail in self.failed if trail.symptom is not None)
        refusal = Symptom.ICMP if self.transport == "udp" else Symptom.RESET
        return frozenset({refusal}) if found and self.refused_by_count else found

    @cached_property
    def icmp(self) -> Icmp | None:
        """The ICMP error that ended an attempt, the first of them."""
        return next((t.attempt.icmp for t in self.failed if t.attempt.icmp is not None), None)

    @cached_property
    def counted(self) -> dict[Stage, bool]:
        """What a coded burst told of the stages.

        Where attempts are refused, the answers it counted are the refusals, and say nothing
        of a connection.
        """
        if self.burst is None:
            return {}
        last = Stage.CONNECTED if self.symptoms == {Symptom.SILENT} else Stage.DELIVERED
        return {stage: told for stage, told in self.burst.reached.items() if stage <= last}

    @property
    def port_unreachable(self) -> bool:
        """Whether it is the destination's own address that says that nobody has the port."""
        code = {4: (3, 3), 6: (1, 4)}[6 if family(bare(self.address)) == 6 else 4]
        if self.icmp is None or bare(self.icmp.sender) != bare(self.address):
            return False
        return (self.icmp.kind, self.icmp.code) == code

    @property
    def led_past(self) -> bool:
        """UDP: whether datagrams come to a socket, and none of the single ones to our own there.

        The host leads them to another port, or to a program whose socket it does not show.
        """
        if self.transport != "udp" or not self.own or not self.counted.get(Stage.DELIVERED):
            return False
        if not self.local:
            return False  # what goes through a router is not what our own listener knows
        return not any(trail.delivered for trail in self.trails)

    @property
    def unanswered(self) -> bool | None:
        """Whether a program took the datagrams and made no answer, as it may; None: perhaps.

        False where that is not the question: an answer was made or a refusal came, or datagrams
        are known to have ended before, or it is our own listener that they would have come to.
        """
        if self.transport != "udp" or self.symptoms != {Symptom.SILENT} or self.proven:
            return False
        program = bool(self.holders) or not self.sockets or self.forwards is not False
        # Our own listener answers only who asks it, and is asked where it is known to be.
        program = program or self.led_past or (self.own and not self.local)
        own = self.own and self.local and self.forwards is False and not self.led_past
        # An answer needs a way.
        way = self.return_error is not None or self.astray or self.back_unresolved
        if not program or own or way or self.furthest >= Stage.REPLIED:
            return False
        made = None if self.burst is None else self.burst.made
        if self.stopped <= Stage.DELIVERED or made:
            # A filter that lets only so many a second through stops the burst alone.
            limited = self.limited and self.counted.get(Stage.DELIVERED) is False
            return None if limited else False
        return True if made is False and self.counted.get(Stage.DELIVERED) else None

    def count(self, stage: Stage) -> int | None:
        """Return how many of the attempts reached `stage`; None where it is unknown of any."""
        values = [trail.reached[stage] for trail in self.trails]
        return None if None in values else sum(value is True for value in values)

    @property
    def furthest(self) -> Stage:
        """The last stage that any failed attempt is known to have reached."""
        by_trails = (s for t in self.failed for s in Stage if t.reached[s])
        by_burst = (s for s in Stage if self.counted.get(s))
        by_hops = Stage.LEFT if self.first_router is not None else Stage.MADE
        return max(*by_trails, *by_burst, by_hops, Stage.MADE)

    @property
    def stopped(self) -> Stage:
        """The first stage that every failed attempt is known not to have reached."""
        for stage in Stage:
            if stage <= self.furthest:
                continue
            if all(t.reached[stage] is False for t in self.failed):
                return stage
            if self.counted.get(stage) is False or stage in self.not_by_hops:
                return stage
        return Stage.CONNECTED

    @property
    def not_by_hops(self) -> frozenset[Stage]:
        """Stages that the hops show not to be reached: requests, or answers, end before."""
        # Of a refusal two packets would decide, and on ways of unequal length wrongly.
        there = self.stretch if self.local and not self.way.ends else None
        ends = ((there, Stage.ARRIVED), (self.back, Stage.RETURNED))
        return frozenset(stage for stretch, stage in ends if stretch and stretch.before_end)

    def rows(self, trail: Trail, *, later: bool = True) -> tuple[Connection, ...]:
        """Return the destination's rows about the connection of `trail`.

        With `later` those of later rounds too: a handshake whose last packet was lost is
        completed by what the source sends next, the end of the connection. What the program does
        then is its answer to that end.
        """
        number = trail.attempt.round
        return tuple(
            row
            for row in self.connections
            if (row.round == number or (later and row.round > number))
            and (row.transport, row.remote_port, bare(row.remote_address)) in trail.rows
        )

    @property
    def holder(self) -> str:
        """The program that listens at this address, as a reader knows it."""
        names = sorted({row.program for row in self.holders if row.program})
        return names[0] if names else "a program"


def observe(
    source: Evidence | None, destination: Evidence | None, key: tuple[str, str, int]
) -> Journey:
    """Return the journey of `key` (transport, address, port) from `source` to `destination`.

    The two are whoever opens the connection and whoever takes it, which with
    --both-ways may be the other way round than the agents' roles. Either may be
    missing.
    """
    transport, address, port = key
    table = destination
    source = _of_transport(source, transport)
    forwarding = _while_forwarded(source, table, key)
    if source is not None and (helped := helped_rounds(source, table)):
        source = replace(source, bursts=tuple(b for b in source.bursts if b.round not in helped))
    attempts = [] if source is None else _attempts(source, table, key)
    together = _together(source, table)
    around = neighbourhood(source, table, one_gateway=together)
    landing = None if table is None else landing_of(table, address)
    own, own_error = _own(table, (transport, landing or address, port))
    rows = [] if table is None else _rows(table, transport, port)
    peers = _seen_as(attempts, source, table, around)
    at_it = [row for row in rows if covers(row, landing or address)]
    cards = frozenset[str]() if table is None else _cards_of(table, landing or address, peers, port)
    here = tuple(row for row in at_it if takes_from(row.device, cards))
    # What comes in at an interface where nobody expects it may be a program's that is bound there.
    sole = all(row.device is None for row in at_it)
    holders = () if own else here
    if own_error == "EADDRINUSE" and at_it and not here:
        own_error = "ENODEV"  # this agent did not know better where requests come in
    route_error, neighbour = _way(source, address, (transport, port))
    wanted = [] if table is None else _elsewhere(table, transport, port)
    back = [] if table is None else _ways_to(table, peers, (transport, port), local=bare(address))
    return_known, return_error = _way_back(table, back, peers, address)
    unlisted = frozenset[int]() if table is None else _unlisted(table, attempts)
    trails = tuple(
        _trail(
            a,
            source,
            table,
            neighbour,
            around,
            own=own,
            sole=sole,
            held=bool(holders),
            listed=a.round not in unlisted,
        )
        for a in attempts
    )
    burst = view_bursts(source, table, key, taken=_taken(trails, unlisted))
    return Journey(
        direction="source-to-destination"
        if source is None or source.role == "source"
        else "destination-to-source",
        transport=transport,
        address=address,
        port=port,
        trails=trails,
        local=table is not None and bare(address) in _addresses(table),
        source_packets=_relied(source, "packets"),
        destination_packets=_relied(table, "packets"),
        destination_known=table is not None,
        own=own,
        own_error=own_error,
        sockets=_relied(table, "sockets"),
        holders=holders,
        elsewhere=tuple(row for row in rows if row not in holders),
        connections=() if table is None else _connections(table, port),
        queues=() if table is None else tuple(q for q in table.queues if q.port == port),
        neighbour=neighbour,
        route_error=route_error,
        return_error=return_error,
        return_known=return_known,
        source_addresses=frozenset() if source is None else _addresses(source),
        burst=burst,
        stranger=_stranger(neighbour, table),
        forwards=None if table is None else table.facts.forwards,
        wanted=None if table is None else table.service,
        wanted_runs=None if table is None else table.service_runs,
        astray=_astray(table, back, peers, address),
        still=frozenset() if table is None else _still(table, attempts),
        back_unresolved=_back_unresolved(table, back, peers),
        kept_back=table is not None and _kept_back(table, attempts),
        wanted_elsewhere=tuple(wanted),
        first_router=_first_router(source, key),
        self_connect=_self_connect(table, (transport, landing or address, port)),
        unmet=_unmet(source, table),
        together=together,
        apart=around.apart,
        translation=view_translation(
            source, table, key, around, through_mapping=_came_in(forwarding)
        ),
        way=Way() if source is None else way_of(source.hop_probes, address, port),
        control=Way() if source is None else farthest_other(source.hop_probes, address, port),
        back=None if table is None or transport == "udp" else _back(table, peers, port),
        paths=None if source is None else view_paths(source, table, key),
        loss=None if source is None else view_loss(source, table, address),
        met_there=source is not None and _met_there(source, address),
        contact_there=source is not None and _contact_there(source, address),
        # By UDP there are no rows of those who ask.
        strays=None if transport == "udp" else _strays(attempts, source, table, around),
        landing=landing,
        public=tuple(sorted(around.destination_public)),
        source_rules=_rules(source, key),
        destination_rules=_rules(table, (transport, landing or address, port)),
        deferred=None if table is None else _deferred(table, trails),
        by_cookies=frozenset() if table is None else _by_cookies(table, trails, unlisted),
        queue_drops=table is not None and _queue_drops(table, attempts),
        sourced=source is not None and _sourced(source, address),
        forwarding=forwarding,
        answered_from=_answered_from(attempts, source, table, key),
        limited=table is not None and _limited(table, attempts, address, burst),
    )


def _limited(
    table: Evidence, attempts: Sequence[Attempt], address: str, burst: BurstView | None
) -> bool:
    came = _came_in_singly(table, attempts, address, burst)
    return _read_meanwhile(table, attempts, address) if came is None else came


def _came_in_singly(
    table: Evidence, attempts: Iterable[Attempt], address: str, burst: BurstView | None
) -> bool | None:
    """Whether of the single datagrams hardly one was lost where a burst was, or all: True, False.

    Both are lost at the same place, if it is a filter that lets none through. None where it
    cannot be told.
    """
    tried = Counter(a.round for a in attempts if a.transport == "udp")
    if not tried or burst is None or not burst.received:
        return None
    six = family(bare(address)) == 6
    lost = [lost_inside(s, v6=six) for s in table.samples if s.times and s.round in tried]
    told = [count for count in lost if count is not None]
    # Where packets are wrapped into others, each is handed on more than once.
    if len(told) < len(tried) or min(told) < 0:
        return None
    if _HARDLY * sum(told) < tried.total():
        return True
    return False if _HARDLY * abs(sum(told) - tried.total()) < tried.total() else None


_HARDLY = 4
"""Of so many datagrams fewer than one must be missing, or too many: where the way loses 40 %, so
few of six that a filter drops reach it in 4 of 100 runs."""


def _read_meanwhile(table: Evidence, attempts: Iterable[Attempt], address: str) -> bool:
    """Whether programs of the destination read as many datagrams as single ones were sent.

    Those that went to other ports do not count. Then the single ones may be among them.
    """
    tried = Counter(a.round for a in attempts if a.transport == "udp")
    name = f"{'Udp6' if family(bare(address)) == 6 else 'Udp'}.InDatagrams"
    read = [(s, row) for s in table.samples if s.times and (row := s.values.get(name))]
    single = [part for part in read if part[0].round in tried]
    bursts = [part for part in read if len(part[0].times) > 2]  # not once at each end
    count = sum(row[-1] - row[0] for _, row in single)
    # What bothends itself read there is of its contact.
    ours = (part[0].values.get(f"own.{name}", (0,)) for part in single)
    count -= sum(row[-1] - row[0] for row in ours)
    count -= sum(
        (len(plan.probes) - 1) * plan.attempts for plan in table.rounds if plan.number in tried
    )
    if not tried or count < min(tried.total(), ENOUGH):
        return False
    spent = sum(samples.times[-1] - samples.times[0] for samples, _ in single)
    return any(_at_first(*part) or _fewer(*part, count=count, spent=spent) for part in bursts)


def _fewer(samples: Samples, row: Sequence[int], *, count: int, spent: float) -> bool:
    """Whether many fewer were read during a burst than `count` in `spent` seconds."""
    seconds = samples.times[-1] - samples.times[0]
    return count * seconds > _MORE * max(row[-1] - row[0], 0.5) * spent


_MORE = 2
"""Times as many as during a burst that are read while single ones are sent, before they are taken
for these: what a busy host reads it reads during a burst, too."""

_AT_FIRST = 0.06
"""Seconds at the beginning of a burst's readings in which a filter that limits the rate lets
through what it has saved up: the quiet before the burst, and its first windows."""


def _at_first(samples: Samples, row: Sequence[int]) -> bool:
    """Whether most of what was read during a burst was read at its beginning."""
    begin = samples.times[0] + _AT_FIRST
    early = [value for at, value in zip(samples.times, row, strict=False) if at <= begin]
    return early[-1] - row[0] >= max(0.75 * (row[-1] - row[0]), 2)


def _answered_from(
    attempts: Iterable[Attempt],
    source: Evidence | None,
    table: Evidence | None,
    key: tuple[str, str, int],
) -> frozenset[str]:
    """The addresses other than the tested one from which answers to the attempts were sent.

    A program of UDP that does not mind at which address it was asked answers from the one that
    the way back has.
    """
    transport, address, port = key
    if transport != "udp":
        return frozenset()
    tried = {(bare(a.local_address), a.local_port) for a in attempts}
    # Behind a router answers leave the destination from its inside address, rightly.
    own = table is not None and bare(address) in _addresses(table)
    seen = (
        *((s, "in") for s in (() if source is None else source.sightings)),
        *((s, "out") for s in (table.sightings if table is not None and own else ())),
    )
    found = {
        (bare(s.source), s.destination_port)
        for s, way in seen
        if s.way == way
        and s.icmp is None
        and s.source_port == port
        and bare(s.source) != bare(address)
        and (bare(s.destination), s.destination_port) in tried
    }
    # One alone may be the answer to another address's burst, from a port that comes up twice.
    enough = min(2, len(tried))
    count = Counter(who for who, _ in found)
    return frozenset(who for who, ports in count.items() if ports >= enough)


def _of_transport(source: Evidence | None, transport: str) -> Evidence | None:
    """Return what the source asked of hops by this transport, without the other.

    A port of TCP and one of UDP have no more in common than their number. What the observer asked
    of its own router tells of that, whatever it was asked with.
    """
    if source is None:
        return None
    mine = tuple(p for p in source.hop_probes if p.transport == transport)
    return replace(source, hop_probes=mine)


def _elsewhere(table: Evidence, transport: str, port: int) -> list[Listener]:
    rows = table.service_listeners
    return [row for row in rows if row.transport == transport and row.port != port]


def _while_forwarded(
    source: Evidence | None, table: Evidence | None, key: tuple[str, str, int]
) -> Journey | None:
    if source is None or table is None or not table.opened:
        return None
    then = as_forwarded(source, table, key)
    return None if then is None else observe(*then, key)


def _came_in(j: Journey | None) -> bool | None:
    """Whether requests reached the destination; None where nobody could have seen them."""
    if j is None:
        return None
    told = {trail.reached[Stage.ARRIVED] for trail in j.trails}
    counted = j.counted.get(Stage.ARRIVED)
    if True in told or counted:
        return True
    return False if counted is False or told == {False} else None


def by_port(evidence: Evidence) -> dict[tuple[str, int], Evidence]:
    """Return the evidence of each tested port, by transport and number, by itself.

    Each part holds all that is said of the host and only its own port's records, so that a
    thousand ports cost a thousand times as much as one, and not a million times.
    """
    places = {(p.transport, p.port) for r in evidence.rounds for p in r.probes}
    parts = {place: _Part() for place in places}

    def part(record: Attempt | OwnListener | Listener | Acceptance) -> _Part:
        return parts.setdefault((record.transport, record.port), _Part())

    apart = rounds_of((LOSS,), evidence)
    measured = [attempt for attempt in evidence.attempts if attempt.round in apart]
    for attempt in _without_moments(evidence.attempts):
        if attempt.round not in apart:
            part(attempt).attempts.append(attempt)
    for mine in evidence.own_listeners:
        part(mine).own_listeners.append(mine)
    for row in evidence.listeners:
        part(row).listeners.append(row)
    for taken in evidence.acceptances:
        part(taken).acceptances.append(taken)
    for each in parts.values():
        each.attempts += measured  # what is lost on the way is lost for all
    _share_sightings(evidence, parts)
    _share_connections(evidence, parts)
    return {place: replace(evidence, **mine.fields()) for place, mine in parts.items()}


def _share_sightings(evidence: Evidence, parts: dict[tuple[str, int], _Part]) -> None:
    requests = {
        s.seq: s.destination_port
        for s in evidence.sightings
        if s.flags == "S" and (s.transport, s.destination_port) in parts
    }
    strays = []
    for seen in evidence.sightings:
        # A request that is passed on to another port is known by its number.
        ports = {seen.source_port, seen.destination_port, requests.get(seen.seq, 0)}
        places = {(seen.transport, port) for port in ports} & parts.keys()
        for place in places:
            parts[place].sightings.append(seen)
        if not places and is_tag(seen.mss):
            strays.append(seen)  # to a port that nobody asked for: some router's doing
    for part in parts.values():
        part.sightings += strays[:MAX_STRAYS]


def _share_connections(evidence: Evidence, parts: dict[tuple[str, int], _Part]) -> None:
    strays: list[Connection] = []
    for held in evidence.connections:
        part = parts.get((held.transport, held.local_port))
        (part.connections if part else strays).append(held)
    for part in parts.values():
        part.connections += strays[:MAX_STRAYS]


MAX_STRAYS = 256
"""Records of ports that nobody asked for that each port gets: they are the same for all."""


class _Part(msgspec.Struct):
    """The records of one port."""

    attempts: list[Attempt] = msgspec.field(default_factory=list)
    sightings: list[Sighting] = msgspec.field(default_factory=list)
    own_listeners: list[OwnListener] = msgspec.field(default_factory=list)
    listeners: list[Listener] = msgspec.field(default_factory=list)
    acceptances: list[Acceptance] = msgspec.field(default_factory=list)
    connections: list[Connection] = msgspec.field(default_factory=list)

    def fields(self) -> dict[str, tuple[object, ...]]:
        return {name: tuple(records) for name, records in msgspec.structs.asdict(self).items()}


def _rules(evidence: Evidence | None, key: tuple[str, str, int]) -> tuple[MatchingRule, ...]:
    rules = () if evidence is None else evidence.rules
    place = (key[0], bare(key[1]), key[2])
    return tuple(r for r in rules if (r.transport, bare(r.address), r.port) == place)


def _first_router(source: Evidence | None, key: tuple[str, str, int]) -> str | None:
    if source is None:
        return None
    mine = _addresses(source)
    return next(
        (
            p.icmp.sender
            for p in source.hop_probes
            if (p.transport, p.address, p.port) == key
            and p.outcome == "expired"
            and p.icmp is not None
            and bare(p.icmp.sender) not in mine
        ),
        None,
    )


def _self_connect(table: Evidence | None, key: tuple[str, str, int]) -> SelfConnect | None:
    made = () if table is None else table.self_connects
    place = (key[0], bare(key[1]), key[2])
    return next((s for s in made if (s.transport, bare(s.address), s.port) == place), None)


def _taken(trails: Iterable[Trail], unlisted: Collection[int]) -> bool | None:
    """Whether the destination's sockets took any of the attempts.

    Of those that may have no row the burst's own counters tell.
    """
    told = {
        False if trail.delivered is None and trail.attempt.round in unlisted else trail.delivered
        for trail in trails
    }
    return True if True in told else None if None in told or not told else False


def _attempts(source: Evidence, table: Evidence | None, key: tuple[str, str, int]) -> list[Attempt]:
    """The attempts at the port as it is: not those for which a router was opened first."""
    apart = helped_rounds(source, table) | rounds_of((SAMPLE, LOSS), source, table)
    return [
        a
        for a in source.attempts
        if (a.transport, a.address, a.port) == key and a.round not in apart
    ]


def _without_moments(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return `attempts` but for those that met a moment without a route: they say nothing.

    A card that goes down takes its routes with it. Others at the port had a route later, or most
    had one; or nothing at the address had one while this port had none, and something at another
    time. A rule for just this port leaves the others theirs meanwhile.
    """
    routed: dict[str, list[float]] = {}
    by_place: dict[tuple[str, str, int], list[Attempt]] = {}
    for attempt in attempts:
        by_place.setdefault((attempt.transport, attempt.address, attempt.port), []).append(attempt)
        if attempt.outcome != "no-route":
            routed.setdefault(attempt.address, []).append(attempt.started)
    void = {
        place for place, mine in by_place.items() if _was_moment(mine, routed.get(place[1], []))
    }
    return [
        a
        for a in attempts
        if a.outcome != "no-route" or (a.transport, a.address, a.port) not in void
    ]


def _was_moment(mine: Sequence[Attempt], routed: Sequence[float]) -> bool:
    """Whether those of `mine`, all at one port, that had no route met a moment only.

    `routed` is when anything at the address had one.
    """
    void = [a.started for a in mine if a.outcome == "no-route"]
    if not void or not routed:
        return False
    made = len(mine) - len(void)
    if made:
        return mine[-1].outcome != "no-route" or made > len(void)
    return not any(min(void) <= started <= max(void) for started in routed)


def _addresses(evidence: Evidence) -> frozenset[str]:
    return own_addresses(evidence)


def _relied(evidence: Evidence | None, name: str) -> bool:
    return evidence is not None and any(
        witness.name == name and witness.available and not witness.lost
        for witness in evidence.witnesses
    )


def _own(table: Evidence | None, key: tuple[str, str, int]) -> tuple[bool, str | None]:
    for mine in () if table is None else table.own_listeners:
        if (mine.transport, bare(mine.address), mine.port) == (key[0], bare(key[1]), key[2]):
            return mine.opened, mine.error
    return False, None


def _rows(table: Evidence, transport: str, port: int) -> list[Listener]:
    return [row for row in table.listeners if row.transport == transport and row.port == port]


def _cards_of(table: Evidence, address: str, peers: frozenset[str], port: int) -> frozenset[str]:
    """The interfaces at which requests of `peers` to the `address` of `table`'s host may come in.

    Where they were seen to; else the one that has it, and those by which the host reaches them.
    From elsewhere nothing comes in at `lo`, though that may have the address. Empty where it is
    not known.
    """
    here = bare(address)
    seen = {
        s.interface
        for s in table.sightings
        # The agent asks its own host's service, too.
        if (s.way, s.destination_port, bare(s.destination)) == ("in", port, here)
        and bare(s.source) in peers
    }
    if seen:
        return frozenset(seen)
    has = {a.interface for a in table.facts.addresses if bare(a.address) == here}
    if is_link_local6(here):
        return frozenset(has)  # of its own link, whatever other ways there are
    back = {r.interface for r in table.routes if bare(r.destination) in peers and r.interface}
    away = {"lo"} - back
    return frozenset((has | back) - away) if has else frozenset()


def covers(row: Listener, address: str) -> bool:
    """Return whether a socket has `address`, as far as addresses go."""
    if bare(row.address) == bare(address):
        return True
    if not is_wildcard(row.address):
        return False
    if family(row.address) == family(address):
        return True
    # `::` takes IPv4 as well, unless the socket says otherwise.
    return family(row.address) == 6 and row.v6only is not True


def _connections(table: Evidence, port: int) -> tuple[Connection, ...]:
    return tuple(row for row in table.connections if row.local_port == port)


def _deferred(table: Evidence, trails: Iterable[Trail]) -> bool | None:
    """What the counter of bare acknowledgements says, which end a handshake that data would end.

    net/ipv4/tcp_minisocks.c, tcp_check_req. A listener whose queue is full leaves handshakes open,
    too.
    """
    came = Counter(trail.attempt.round for trail in trails if trail.connected)
    readings = [samples for samples in table.samples if samples.round in came]
    passed_over = [rise(samples, "TcpExt.TCPDeferAcceptDrop") for samples in readings]
    full = any(rise(samples, "TcpExt.ListenOverflows") for samples in readings)
    if len(readings) < len(came) or None in passed_over or full:
        return None
    # Other programs may want it, too; and of these acknowledgements some may be lost.
    counts = zip(readings, passed_over, strict=True)
    mine = sum(min(count or 0, came[samples.round]) for samples, count in counts)
    return 4 * mine > came.total()


def _unlisted(table: Evidence, attempts: Iterable[Attempt]) -> frozenset[int]:
    """Rounds in which as many requests met a full SYN queue as were made, or more."""
    asked = (a for a in attempts if a.transport == "tcp")
    made = Counter(a.round for a in asked if a.outcome in ("silent", "connected"))
    return frozenset(
        s.round for s in table.samples if s.round in made and met_full_queue(s) >= made[s.round]
    )


def _by_cookies(
    table: Evidence, trails: Iterable[Trail], unlisted: Collection[int]
) -> frozenset[int]:
    """Those of the rounds `unlisted` in which this host completed fewer connections than came.

    None where it passes packets on, so that others may have completed them.
    """
    if table.facts.forwards is not False:
        return frozenset()
    came = Counter(trail.attempt.round for trail in trails if trail.connected)
    opened = {s.round: rise(s, "Tcp.PassiveOpens") for s in table.samples}
    return frozenset(
        number
        for number in unlisted
        if (done := opened.get(number)) is not None and done < came[number]
    )


def _queue_drops(table: Evidence, attempts: Iterable[Attempt]) -> bool:
    made = Counter(a.round for a in attempts if a.outcome == "silent")
    return any(queue_dropped(s) >= made[s.round] for s in table.samples if made[s.round])


def _sourced(source: Evidence, address: str) -> bool:
    return any(
        route.error is None and route.source is not None
        for route in source.routes
        if bare(route.destination) == bare(address)
    )


def _ways_to(
    evidence: Evidence, there: Collection[str], key: tuple[str, int], *, local: str | None = None
) -> list[Route]:
    """The routes of packets to one of `there`, of the tested `key` (transport, port).

    Where these have a way of their own it is that; on the destination those that are sent from the
    tested address `local`.
    """
    fitting = [
        route
        for route in evidence.routes
        if bare(route.destination) in there
        and (route.usual or route.local == local)
        and (route.port is None or (route.transport, route.port) == key)
    ]
    closest: dict[str, tuple[bool, bool]] = {}
    for route in fitting:
        to = bare(route.destination)
        closest[to] = max(_closeness(route), closest.get(to, (False, False)))
    return [r for r in fitting if _closeness(r) == closest[bare(r.destination)]]


def _closeness(route: Route) -> tuple[bool, bool]:
    """By which of two routes that fit the packets of a connection go: the greater."""
    return route.port is not None, route.local is not None


def _way(
    source: Evidence | None, address: str, key: tuple[str, int]
) -> tuple[str | None, Neighbour | None]:
    if source is None:
        return None, None
    ways = _ways_to(source, {bare(address)}, key)
    hops = {bare(route.gateway or route.destination) for route in ways}
    states = [
        n
        for n in source.neighbours
        if bare(n.destination) == bare(address) and (not hops or bare(n.next_hop) in hops)
    ]
    return ways[0].error if ways else None, states[-1] if states else None


def _stranger(neighbour: Neighbour | None, table: Evidence | None) -> bool | None:
    if neighbour is None or neighbour.hardware is None or table is None:
        return None
    on_link = bare(neighbour.next_hop) == bare(neighbour.destination)
    if not on_link or not table.facts.hardware:
        return None
    return neighbour.hardware not in table.facts.hardware


def _strays(
    attempts: Iterable[Attempt],
    source: Evidence | None,
    table: Evidence | None,
    around: Neighbourhood,
) -> bool | None:
    if source is None or table is None or not around.source_public:
        return None
    rounds = {a.round for a in attempts}
    known = {(a.round, a.local_port) for a in source.attempts}
    tested = {p.port for r in (*source.rounds, *table.rounds) for p in r.probes}
    return any(
        row.round in rounds
        and row.local_port not in tested
        and (row.round, row.remote_port) not in known
        and bare(row.remote_address) in around.source_outside
        for row in table.connections
    )


def _met_there(source: Evidence, address: str) -> bool:
    shown = {bare(source.contact.remote), *map(bare, source.contact.proven)}
    return bare(address) in shown


def _contact_there(source: Evidence, address: str) -> bool:
    direct = source.contact.path not in ("rendezvous", "offline")
    return direct and bare(source.contact.remote) == bare(address)


def _back(table: Evidence, peers: frozenset[str], port: int) -> Stretch | None:
    ways = (
        (peer, way_back_of(table.back_probes, peer, port), way_back_of(table.back_probes, peer, 0))
        for peer in sorted(peers)
    )
    found = (stretch_of(way, other, peer) for peer, way, other in ways if way.asked)
    return next((stretch for stretch in found if stretch is not None), None)


def _unmet(source: Evidence | None, table: Evidence | None) -> bool:
    if source is None or table is None:
        return False
    return {source.contact.path, table.contact.path} <= {"rendezvous", "offline"}


def _together(source: Evidence | None, table: Evidence | None) -> bool | None:
    """Whether both have one gateway, by its hardware address; two of the same name are two."""
    if source is None or table is None:
        return None
    here, there = (
        {(bare(g.next_hop), g.hardware) for g in side.gateways if g.hardware is not None}
        for side in (source, table)
    )
    if here & there:
        return True
    alike = {address for address, _ in here} & {address for address, _ in there}
    return False if alike else None


def _seen_as(
    attempts: Iterable[Attempt],
    source: Evidence | None,
    table: Evidence | None,
    around: Neighbourhood,
) -> frozenset[str]:
    """The addresses that the destination sees the source's requests come from."""
    # Behind one router it is not how the source looks to its neighbour.
    outside = around.source_public - around.destination_public
    if outside and not (source is not None and outside & _addresses(source)):
        return outside
    local = {bare(a.local_address) for a in attempts if a.local_address}
    return frozenset(local or ({bare(table.contact.remote)} if table is not None else set()))


def _way_back(
    table: Evidence | None, ways: Iterable[Route], peers: frozenset[str], address: str
) -> tuple[bool, str | None]:
    if table is None:
        return False, None
    errors = [route.error for route in ways]
    errors += [
        r.error for r in table.returns if bare(r.source) in peers and bare(r.local) == bare(address)
    ]
    return bool(errors), next((error for error in errors if error), None)


def _astray(
    table: Evidence | None, ways: Sequence[Route], peers: frozenset[str], address: str
) -> bool:
    if table is None:
        return False
    contact = (bare(table.contact.remote), bare(table.contact.local))
    ruled = any(route.port is not None for route in ways)
    if not ruled and any(contact == (peer, bare(address)) for peer in peers):
        return False  # the contact shows that this way back works
    cards = {a.interface for a in table.facts.addresses if bare(a.address) == bare(address)}
    # A card at which the other side answers by itself is on its segment, too: it says its hardware
    # address, and in a tunnel nobody does.
    met = {
        (bare(n.next_hop), n.interface)
        for n in table.neighbours
        if n.hardware is not None and n.state not in UNRESOLVED
    }
    back = {
        route.interface
        for route in ways
        if route.interface
        and (route.gateway or (bare(route.destination), route.interface) not in met)
    }
    return bool(cards and back) and not cards & back


def _still(table: Evidence, attempts: Iterable[Attempt]) -> frozenset[str]:
    """The counters that did not move in the rounds of `attempts`, of those that were read."""
    rounds = {attempt.round for attempt in attempts}
    readings = [samples for samples in table.samples if samples.round in rounds]
    if not readings or len(readings) < len(rounds):
        return frozenset()
    moved = {
        name for samples in readings for name, row in samples.values.items() if row[0] != row[-1]
    }
    return frozenset(set(readings[0].values) - moved)


def _back_unresolved(table: Evidence | None, ways: Iterable[Route], peers: frozenset[str]) -> bool:
    if table is None:
        return False
    hops = {bare(route.gateway or route.destination) for route in ways}
    states = [
        n.state
        for n in table.neighbours
        if n.destination in peers and (not hops or bare(n.next_hop) in hops)
    ]
    return bool(states) and states[-1] in UNRESOLVED


def _kept_back(table: Evidence, attempts: Iterable[Attempt]) -> bool:
    """Whether IP was asked to send more than it sent, by the number of the attempts at least."""
    tried = Counter(attempt.round for attempt in attempts)
    kept = sum(kept_back(samples) for samples in table.samples if samples.round in tried)
    return bool(tried) and kept >= min(tried.total(), ENOUGH)


def _trail(  # noqa: PLR0913  what is known of the whole journey, beside the attempt
    attempt: Attempt,
    source: Evidence | None,
    table: Evidence | None,
    neighbour: Neighbour | None,
    around: Neighbourhood,
    *,
    own: bool,
    sole: bool,
    held: bool,
    listed: bool,
) -> Trail:
    here = _Matcher(attempt, source, table, around)
    left = returned = arrived = reply = None
    if attempt.outcome in ("no-route", "local-error") or _nowhere(attempt, neighbour):
        left = False
    elif source is not None and _relied(source, "packets"):
        left = here.seen(source.sightings, "out")
        returned = here.answers(source.sightings, "in")
    if table is not None and _relied(table, "packets"):
        arrived = here.seen(table.sightings, "in")
        if arrived is False and table.facts.xdp:
            arrived = None  # a filter on the card itself acts before the witness sees anything
        reply = here.answers(table.sightings, "out")
        if attempt.transport == "udp" and arrived is None:
            reply = None  # whatever a router made of the request, an answer to it is not known
    return Trail(
        attempt=attempt,
        left=left,
        arrived=arrived,
        delivered=None
        if table is None
        else _delivered(here, table, own=own, held=held, absent=arrived is False, listed=listed),
        reply=reply,
        returned=returned,
        own=attempt.spoke == "challenge"
        or (table is not None and own and sole and here.in_table(table.connections))
        or (table is not None and any(here.took(a) for a in table.acceptances)),
        forwarded=table is not None and here.passed_on(table.sightings),
        rows=here.origins(() if table is None else table.connections),
    )


def _nowhere(attempt: Attempt, neighbour: Neighbour | None) -> bool:
    """Whether the next hop never answered, so that the request cannot have left."""
    unresolved = neighbour is not None and neighbour.state in UNRESOLVED
    return unresolved and attempt.outcome != "connected"


def _delivered(
    here: _Matcher, table: Evidence, *, own: bool, held: bool, absent: bool, listed: bool
) -> bool | None:
    """Whether a socket took the request; `absent` is whether it is known not to have arrived.

    `listed` is whether its row would be in the table: none is, of what meets a full SYN queue.
    """
    if here.attempt.spoke == "challenge" or any(map(here.took, table.acceptances)):
        return True
    if here.attempt.transport == "udp":
        return False if own and _would_show(here, table) else None
    rows = [c for c in table.connections if c.round == here.attempt.round]
    if any(here.is_peer(c.remote_address, c.remote_port, c.local_port) for c in rows):
        return True
    if not absent and any(here.may_be_peer(row) for row in rows):
        sure = here.known_outside and here.alone
        return True if here.attempt.outcome == "connected" and sure else None
    # Only a socket that was there to take the request can be said not to have got it, and
    # only while the source's end was still open could the table have shown it.
    waiting = listed and (own or (held and _relied(table, "sockets")))
    if here.attempt.outcome == "connected":
        # Behind a router it may have been another port, or another machine: then no row is there.
        return False if waiting and here.foreign and here.attempt.spoke != "closed" else None
    return False if waiting else None


def _would_show(here: _Matcher, table: Evidence) -> bool:
    """Whether our own listener would know of this datagram had it come through.

    Not where it may be passed on to somebody else, or where it asked nobody; and a router may
    have made something of it that the listener did take.
    """
    if here.foreign or table.facts.forwards is not False:
        return False
    return not any(map(here.may_have_taken, table.acceptances))


class _Matcher:
    """Knows the packets of one attempt wherever they are seen.

    By the TCP sequence number, which the source's own witness showed and which
    most NATs keep, or by addresses and ports as the source used them. Where
    neither can be relied on (a NAT on the way, and nobody saw the number), what
    is not found is unknown and not absent.
    """

    def __init__(
        self,
        attempt: Attempt,
        source: Evidence | None,
        table: Evidence | None,
        around: Neighbourhood,
    ) -> None:
        self.attempt = attempt
        sent = {
            s.seq
            for s in (() if source is None else source.sightings)
            if s.way == "out" and s.flags == "S" and s.icmp is None and self._is_mine(s)
        }
        came = [
            s
            for s in (() if table is None else table.sightings)
            if s.way == "in" and s.flags == "S" and s.icmp is None and self._is_tagged(s)
        ]
        # What a NAT made of the request, known by its tag.
        self._seqs = frozenset(sent | {s.seq for s in came})
        self._pairs = frozenset((bare(s.source), s.source_port) for s in came)
        self._outside = around.source_outside
        self._ports = frozenset(
            (a.round, a.local_port) for a in (() if source is None else source.attempts)
        )
        """Where any attempt came from: most NATs keep the port, so its row is not this one's."""
        self._reused = any(
            other.local_port == attempt.local_port and other.round != attempt.round
            for other in (() if source is None else source.attempts)
        )
        """Whether another attempt got the same local port, so that ports alone tell nothing."""
        self._unmet = _unmet(source, table)
        beside = [
            other
            for other in (() if source is None else source.attempts)
            if other.round == attempt.round and other.local_port != attempt.local_port
        ]
        self.alone = all(bare(other.address) == bare(attempt.address) for other in beside)
        """Whether no other address was tried meanwhile, whose rows these may be."""
        own = frozenset() if table is None else _addresses(table)
        self.foreign = table is not None and bare(attempt.address) not in own
        """Whether a router must translate the address, so that it is another one in the end."""
        self._led_back = self.foreign and around.together is True
        """Whether the router may send the request back inside with the source's own address."""
        if self.foreign and table is not None and around.together is not False:
            # What a router leads back inside it sends in its own name.
            routers = [r.gateway for r in table.routes] + [w.router for w in table.router_words]
            self._outside |= {bare(router) for router in routers if router}

    def _is_tagged(self, s: Sighting) -> bool:
        return self.attempt.tag > 0 and s.mss == self.attempt.tag

    def _is_mine(self, s: Sighting) -> bool:
        a = self.attempt
        if a.tag and is_tag(s.mss) and s.mss != a.tag:
            return False  # of another attempt, which got the same local port again
        return (
            s.transport == a.transport
            and s.source_port == a.local_port
            and s.destination_port == a.port
            and bare(s.destination) == bare(a.address)
            and (not a.local_address or bare(s.source) == bare(a.local_address))
        )

    def seen(self, sightings: Iterable[Sighting], way: str) -> bool | None:
        """Whether the request was seen going `way`."""
        requests = [s for s in sightings if self._is_request(s, way)]
        mine = [s for s in requests if s.seq in self._seqs or self._is_mine(s)]
        # At another port of the destination it is not where it was sent to.
        if any(s.destination_port == self.attempt.port or way == "out" for s in mine):
            return True
        if way == "in" and any(self._is_led_back(s) for s in requests):
            return True
        if way == "in" and any(self._may_be_mine(s) for s in requests):
            return None
        if way == "in" and self._came_from_somewhere(requests):
            return None
        return False

    def _is_led_back(self, s: Sighting) -> bool:
        """Whether it is the request by UDP as one router leads it back inside, untranslated."""
        a = self.attempt
        mine = (bare(a.local_address), a.local_port, a.port)
        ends = (bare(s.source), s.source_port, s.destination_port)
        return a.transport == "udp" and self._led_back and ends == mine

    def _came_from_somewhere(self, requests: Iterable[Sighting]) -> bool:
        """Whether it may be the request by UDP, from an address of the source that nobody told."""
        untold = self.attempt.transport == "udp" and self.foreign
        return untold and any(
            s.destination_port == self.attempt.port and is_public(bare(s.source)) for s in requests
        )

    def _may_be_mine(self, s: Sighting) -> bool:
        """Whether a NAT may have made this of the request, with a port and number of its own."""
        if is_tag(s.mss) and self.attempt.tag:
            return False  # it is another one
        same = {a for a in self._outside if family(a) == family(bare(s.source))}
        if same:
            return bare(s.source) in same
        local = bare(self.attempt.local_address)
        if self.attempt.transport == "udp" and is_private(local) and is_public(bare(s.source)):
            # How the source looks from outside in this IP version nobody said, and a datagram has
            # no tag.
            return s.destination_port == self.attempt.port
        # Met at a meeting point, the two do not know how each looks to the other.
        return self._unmet and s.destination_port == self.attempt.port

    def _is_request(self, s: Sighting, way: str) -> bool:
        return (
            s.way == way
            and s.icmp is None
            and s.transport == self.attempt.transport
            and (s.transport != "tcp" or s.flags == "S")
        )

    def passed_on(self, sightings: Iterable[Sighting]) -> bool:
        """Whether the destination itself sent the request on."""
        listed = [s for s in sightings if s.icmp is None and s.flags == "S"]
        mine = {
            s.seq for s in listed if s.way == "in" and (s.seq in self._seqs or self._is_mine(s))
        }
        return any(s.way == "out" and s.seq in mine for s in listed)

    def answers(self, sightings: Iterable[Sighting], way: str) -> frozenset[str]:
        kinds = (self._answer(s) for s in sightings if s.way == way)
        return frozenset(kind for kind in kinds if kind is not None)

    def _answer(self, s: Sighting) -> str | None:
        if s.icmp is not None:
            # An ICMP error quotes the request, as it was where the error was made.
            same_ports = self._is_mine(s) and not self._reused
            quoted = same_ports or bool(s.seq and s.seq in self._seqs)
            return "icmp" if quoted else None
        a = self.attempt
        if s.transport != a.transport or s.source_port != a.port:
            return None
        known = a.transport == "tcp" and (s.ack - 1) % 2**32 in self._seqs
        if not known and (self._reused or not self._is_back(s)):
            return None
        if a.transport == "udp":
            return "answer"
        if "R" in s.flags:
            return "reset"
        return "syn-ack" if s.flags == "SA" else None

    def _is_back(self, s: Sighting) -> bool:
        """Whether the addresses and ports are those of the request, the other way round."""
        a = self.attempt
        return (
            s.destination_port == a.local_port
            and bare(s.source) == bare(a.address)
            and bare(s.destination) == bare(a.local_address)
        )

    def took(self, taken: Acceptance) -> bool:
        """Whether the agent's own listener took this very connection."""
        return self.is_peer(taken.remote_address, taken.remote_port, taken.port)

    def may_have_taken(self, taken: Acceptance) -> bool:
        """Whether a NAT may have made this of the attempt, with another address and port."""
        return bare(taken.remote_address) != bare(self.attempt.local_address)

    def in_table(self, rows: Iterable[Connection]) -> bool:
        """Whether the host's socket table holds this very connection, at the tested address."""
        return any(
            row.round == self.attempt.round
            and (self.foreign or bare(row.local_address) == bare(self.attempt.address))
            and self.is_peer(row.remote_address, row.remote_port, row.local_port)
            for row in rows
        )

    def is_peer(self, address: str, port: int, local_port: int) -> bool:
        a = self.attempt
        if local_port != a.port:
            return False
        if (bare(address), port) in self._pairs:
            return True
        if port != a.local_port:
            return False
        # Most NATs keep the port where they can (RFC 4787, 4.2.1). How the source looks from
        # outside is not always known.
        unknown = self.foreign and not self._outside
        return unknown or bare(address) in self._outside | {bare(a.local_address)}

    def origins(self, rows: Iterable[Connection]) -> frozenset[tuple[str, int, str]]:
        """Where the request comes from in the eyes of the destination, as its table shows it."""
        a = self.attempt
        named = {
            (a.transport, row.remote_port, bare(row.remote_address))
            for row in rows
            if self.is_peer(row.remote_address, row.remote_port, row.local_port)
        }
        changed = {
            (a.transport, row.remote_port, bare(row.remote_address))
            for row in rows
            if self.alone and self.may_be_peer(row)
        }
        return frozenset(named or changed)

    @property
    def known_outside(self) -> bool:
        """Whether it is known how the source looks from outside."""
        return bool(self._outside)

    def may_be_peer(self, row: Connection) -> bool:
        """Whether a NAT that changes ports may have made this row of the attempt."""
        if row.local_port != self.attempt.port or row.round != self.attempt.round:
            return False
        if (row.round, row.remote_port) in self._ports:
            return False  # it is that of another attempt, or known without this
        if self._outside:
            return bare(row.remote_address) in self._outside
        return self.foreign


def loopback_only(rows: Iterable[Listener]) -> bool:
    """Return whether all of `rows` (at least one) listen on loopback alone."""
    listed = list(rows)
    return bool(listed) and all(is_loopback(row.address) or row.device == "lo" for row in listed)
