"""Raw evidence: what each side did and saw, as it was, before anybody judges it.

Nothing here is an opinion. A record says that a packet was on a card, that a
row stood in a socket table, that connect() returned an error; what follows from
it is said in `observations` and `verdict`, so that old evidence can be judged
again by new rules. Both roles write the same document.

Times (`at`, `started`, `ended`) are seconds on the writer's own monotonic
clock since its run began. The two clocks are never compared: what happened
before what across the two sides is known from the rounds' barriers alone.
"""

from __future__ import annotations

import msgspec

from .errors import ProtocolError
from .wire import unpack

__all__ = [
    "EVIDENCE_FORMAT",
    "MAX_EVIDENCE",
    "Acceptance",
    "Address",
    "Attempt",
    "Connection",
    "ContactFacts",
    "Counters",
    "Evidence",
    "Firewall",
    "HostFacts",
    "Icmp",
    "Listener",
    "Neighbour",
    "OwnListener",
    "Probe",
    "Return",
    "RoundPlan",
    "Route",
    "Sighting",
    "Target",
    "Witness",
    "read_evidence",
]

EVIDENCE_FORMAT = "bothends-evidence/1"

MAX_EVIDENCE = 8 * 1024 * 1024
"""Largest evidence document taken from a peer, in bytes: a full sweep stays far below."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all records: immutable, and nothing unknown is let through."""


class Address(_Record):
    """One address of an interface."""

    interface: str
    address: str
    prefix: int


class Firewall(_Record):
    """A firewall front-end found on the host; `active` is None where it cannot be read."""

    name: str
    """`ufw`, `firewalld`, `nftables`, `iptables`, `windows` or `macos`."""
    active: bool | None = None
    detail: str = ""


class HostFacts(_Record):
    """What a host says of itself. Support for the evidence, never a substitute for it."""

    product: str
    version: str
    system: str
    """`Linux`, `Windows` or `Darwin`, as Python's platform.system() says it."""
    release: str
    kernel: str
    hostname: str
    privileged: bool
    """Whether the packet witness may be opened."""
    addresses: tuple[Address, ...] = ()
    firewalls: tuple[Firewall, ...] = ()
    notes: tuple[str, ...] = ()


class Target(_Record):
    """An address that the real application is told to use, as the user typed it."""

    text: str
    addresses: tuple[str, ...] = ()
    """What the name resolved to on the source; empty where it did not resolve."""
    error: str | None = None


class ContactFacts(_Record):
    """How this side sees the link that authenticated the other."""

    path: str
    """`direct` (the source dialled), `reverse`, `punched`, `rendezvous` or `offline`."""
    local: str
    remote: str
    rtt: float
    """Smallest round trip seen, in seconds."""
    typed: tuple[str, ...] = ()
    """This side's --peer addresses, resolved."""
    proven: tuple[str, ...] = ()
    """Addresses of the other side at which its handshake succeeded."""
    refused: tuple[str, ...] = ()
    """What the ways that did not work met, one sentence each."""


class Probe(_Record):
    """One thing to try in a round: a port at an address."""

    transport: str
    address: str
    port: int


class RoundPlan(_Record):
    """A round, as announced by the leader before it starts."""

    number: int
    kind: str
    """`connect`: fresh connects to each probe."""
    prober: str
    """Role that sends."""
    attempts: int
    """Fresh sockets per probe."""
    probes: tuple[Probe, ...]


class Icmp(_Record):
    """An ICMP (v4 or v6) error and who sent it."""

    kind: int
    code: int
    sender: str


class Attempt(_Record):
    """One connect() from a fresh socket."""

    round: int
    transport: str
    address: str
    port: int
    local_address: str
    local_port: int
    started: float
    ended: float | None
    """When the outcome came; None while it was still open when the round was collected."""
    outcome: str
    """`connected`, `refused`, `unreachable`, `reset`, `silent`, `no-route` or `local-error`."""
    error: str | None = None
    """Symbolic errno, as in `EHOSTUNREACH`."""
    icmp: Icmp | None = None
    spoke: str = "nothing"
    """What the far end said first: `challenge` (ours, genuine), `other`, `nothing`, `closed`."""


class Sighting(_Record):
    """A packet that the packet witness saw on one of the host's cards.

    `way` is `in` (before any filter of this host, but XDP) or `out` (after
    every one of them). For an ICMP error the addresses and ports are those of
    the packet it quotes, and `icmp` says who sent it.
    """

    at: float
    way: str
    interface: str
    transport: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    flags: str = ""
    """TCP flags, of `SARF`."""
    seq: int = 0
    ack: int = 0
    ttl: int = 0
    icmp: Icmp | None = None


class Witness(_Record):
    """A witness and how far it can be trusted."""

    name: str
    """`packets`, `sockets`, `routes`, `counters`, …"""
    available: bool
    lost: int = 0
    """Records it knows it missed (a full buffer); with any, its silence proves nothing."""
    detail: str = ""


class OwnListener(_Record):
    """The agent's own listener on a candidate port, or why there is none."""

    transport: str
    address: str
    port: int
    opened: bool
    error: str | None = None


class Acceptance(_Record):
    """A connection that the agent's own listener took."""

    at: float
    transport: str
    address: str
    port: int
    remote_address: str
    remote_port: int
    genuine: bool
    """Whether the other end answered the challenge, so that it is the other agent."""


class Listener(_Record):
    """A LISTEN row (TCP) or a bound row (UDP) of the socket table, none of them the agent's."""

    transport: str
    address: str
    port: int
    v6only: bool | None = None
    """For `::`: whether IPv4 is left out; None where it cannot be told."""
    program: str | None = None
    pid: int | None = None
    waiting: int | None = None
    """Connections that the program has not accepted yet."""
    backlog: int | None = None


class Connection(_Record):
    """A row of the socket table about a candidate port, other than LISTEN."""

    round: int
    transport: str
    state: str
    """`SYN_RECV`, `ESTABLISHED`, `CLOSE_WAIT`, …"""
    local_address: str
    local_port: int
    remote_address: str
    remote_port: int
    accepted: bool | None = None
    """False while no program has accepted it; None where it cannot be told."""


class Counters(_Record):
    """Kernel counters of the network stack before or after a round."""

    round: int
    when: str
    """`before` or `after`."""
    values: dict[str, int]


class Route(_Record):
    """What the kernel would do with a packet to `destination`."""

    destination: str
    source: str | None = None
    interface: str | None = None
    gateway: str | None = None
    error: str | None = None
    """Symbolic errno where there is no way."""


class Return(_Record):
    """Whether the kernel takes a packet from `source` to `local` on `interface`.

    The check that reverse-path filtering makes (net/ipv4/fib_frontend.c,
    fib_validate_source), asked of the kernel through rtnetlink.
    """

    source: str
    local: str
    interface: str
    error: str | None = None


class Neighbour(_Record):
    """State of the next hop towards `destination` on its link."""

    destination: str
    next_hop: str
    interface: str
    state: str
    """`reachable`, `unresolved` or `unknown`."""
    round: int


class Evidence(_Record):
    """All that one side brings to the judgement."""

    format: str
    role: str
    session: bytes
    facts: HostFacts
    contact: ContactFacts
    ports: tuple[str, ...] = ()
    """Destination: the port sets asked for, as `tcp:4242`."""
    service: str | None = None
    """Destination: the program that ought to hold the port."""
    targets: tuple[Target, ...] = ()
    both_ways: bool = False
    rounds: tuple[RoundPlan, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    witnesses: tuple[Witness, ...] = ()
    own_listeners: tuple[OwnListener, ...] = ()
    acceptances: tuple[Acceptance, ...] = ()
    listeners: tuple[Listener, ...] = ()
    connections: tuple[Connection, ...] = ()
    counters: tuple[Counters, ...] = ()
    routes: tuple[Route, ...] = ()
    returns: tuple[Return, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()


def read_evidence(data: bytes) -> Evidence:
    """Return the evidence in `data`; raise `ProtocolError` where it is none."""
    if len(data) > MAX_EVIDENCE:
        raise ProtocolError("the evidence is larger than allowed")
    evidence = unpack(data, Evidence)
    if evidence.format != EVIDENCE_FORMAT:
        raise ProtocolError("the evidence has another format")
    return evidence
