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

from typing import Annotated

import msgspec

from .errors import ProtocolError
from .wire import unpack

__all__ = [
    "EVIDENCE_FORMAT",
    "MAX_EVIDENCE",
    "Acceptance",
    "Address",
    "Attempt",
    "Burst",
    "Connection",
    "ContactFacts",
    "Counted",
    "Evidence",
    "Firewall",
    "HopProbe",
    "HostFacts",
    "Icmp",
    "Listener",
    "Listening",
    "Mapping",
    "MatchingRule",
    "NatBehaviour",
    "Neighbour",
    "Offline",
    "OpenedMapping",
    "OwnListener",
    "Pinhole",
    "Probe",
    "Queue",
    "Return",
    "RoundPlan",
    "Route",
    "RouterWord",
    "Samples",
    "SeenAs",
    "SelfConnect",
    "Sighting",
    "Sized",
    "Swept",
    "Target",
    "Witness",
    "read_evidence",
]

EVIDENCE_FORMAT = "bothends-evidence/1"

MAX_EVIDENCE = 8 * 1024 * 1024
"""Largest evidence document taken from a peer, in bytes: a full sweep stays far below."""


MAX_TEXT = 1024
"""Longest text in a record: names, addresses, error words. Nothing honest comes near it."""

MAX_SIZED = 1000
"""Connections that a record of large packets counts: what is made of it are binomials."""

MAX_SETS = 16
"""Sets of ports in one record of a sweep: there are twelve."""

MAX_SWEPT = 1000
"""Such records of one side: more than a run has rounds."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Word32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all records: immutable, and nothing unknown is let through."""


class Address(_Record, frozen=True):
    """One address of an interface."""

    interface: Text
    address: Text
    prefix: int
    state: Text = ""
    """Of IPv6 what the system says beside (RFC 4862, RFC 8981): `tentative` (not in use yet, since
    another machine may have it), `deprecated` (for no new connections), `temporary` (it changes,
    for the host's own connections); empty: none of these."""


class Firewall(_Record, frozen=True):
    """A firewall front-end found on the host; `active` is None where it cannot be read."""

    name: Text
    """`ufw`, `firewalld`, `nftables`, `iptables`, `windows` or `macos`."""
    active: bool | None = None
    detail: Text = ""


class HostFacts(_Record, frozen=True):
    """What a host says of itself. Support for the evidence, never a substitute for it."""

    product: Text
    version: Text
    system: Text
    """`Linux`, `Windows` or `Darwin`, as Python's platform.system() says it."""
    release: Text
    kernel: Text
    hostname: Text
    privileged: bool
    """Whether the packet witness may be opened."""
    addresses: tuple[Address, ...] = ()
    hardware: tuple[Text, ...] = ()
    """Link-layer addresses of the interfaces, as in `02:00:5e:10:00:01`."""
    xdp: tuple[Text, ...] = ()
    """Interfaces with a filter below everything that the packet witness sees (Linux XDP)."""
    forwards: bool | None = None
    """Whether packets may be passed on to others (IP forwarding is on), as to containers."""
    firewalls: tuple[Firewall, ...] = ()
    notes: tuple[Text, ...] = ()


class Target(_Record, frozen=True):
    """An address that the real application is told to use, as the user typed it."""

    text: Text
    addresses: tuple[Text, ...] = ()
    """What the name resolved to on the source; empty where it did not resolve."""
    error: Text | None = None


class ContactFacts(_Record, frozen=True):
    """How this side sees the link that authenticated the other."""

    path: Text
    """`direct` (the source dialled), `reverse`, `punched`, `rendezvous` or `offline`."""
    local: Text
    remote: Text
    rtt: float
    """Smallest round trip seen, in seconds."""
    typed: tuple[Text, ...] = ()
    """This side's --peer addresses, resolved."""
    proven: tuple[Text, ...] = ()
    """Addresses of the other side at which its handshake succeeded."""
    refused: tuple[Text, ...] = ()
    """What the ways that did not work met, one sentence each."""


class Probe(_Record, frozen=True):
    """One thing to try in a round: a port at an address."""

    transport: Text
    address: Text
    port: Port


class RoundPlan(_Record, frozen=True):
    """A round, as announced by the leader before it starts."""

    number: int
    kind: Text
    """`connect`: fresh connects to each probe. `burst`: a coded burst to its one probe.
    `pinhole`: the observer first opens its own router from inside for these connects. `mapped`:
    the observer first asks its router to forward the port (--map). `sweep`: one request to each
    of `ports` at the address of its one probe."""
    prober: Text
    """Role that sends."""
    attempts: int
    """Fresh sockets per probe."""
    probes: tuple[Probe, ...]
    pattern: Text = ""
    """Burst: one character a window, `1` with SYNs and `0` without."""
    local_ports: tuple[Port, ...] = ()
    """Pinhole: the local ports of the prober's connects, one an attempt."""
    ports: bytes = b""
    """Sweep: the ports, as `ports.pack_ports` writes them."""
    rate: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 0
    """Sweep: requests a second at most; 0: as many as can be."""


class Icmp(_Record, frozen=True):
    """An ICMP (v4 or v6) error and who sent it."""

    kind: Byte
    code: Byte
    sender: Text


class Attempt(_Record, frozen=True):
    """One connect() from a fresh socket; by UDP one datagram from one."""

    round: int
    transport: Text
    address: Text
    port: Port
    local_address: Text
    local_port: Port
    started: float
    ended: float | None
    """When the outcome came; None while it was still open when the round was collected."""
    outcome: Text
    """`connected`, `refused`, `unreachable`, `reset`, `silent`, `no-route` or `local-error`. By UDP
    `connected` is that something answered."""
    error: Text | None = None
    """Symbolic errno, as in `EHOSTUNREACH`."""
    icmp: Icmp | None = None
    spoke: Text = "nothing"
    """What the far end said first: `challenge` (ours, genuine), `other`, `nothing`, `closed`."""
    tag: Port = 0
    """The maximum segment size that its SYN offers, by which it is known behind a NAT; 0: none of
    our choice."""
    size: int = 0
    """UDP: bytes in the datagram."""


class HopProbe(_Record, frozen=True):
    """A connection request that was given a small time to live (IP_TTL, IPV6_UNICAST_HOPS).

    The router at which the time runs out says so by ICMP (RFC 792, RFC 4443 3.3), if it says
    anything at all.
    """

    round: int
    transport: Text
    address: Text
    port: Port
    hops: Byte
    outcome: Text
    """As that of an `Attempt`, or `expired`."""
    icmp: Icmp | None = None
    seconds: float = 0.0
    """From the request to what came of it; 0 where nothing did."""
    least: Byte = 0
    """The smallest time to live with which the kernel was to take an answer (IP_MINTTL), where
    that was the question: then `hops` is 0, the system's own."""
    local_port: Port = 0
    """Where it came from, if that was of our choice: the tested port, on the way back."""
    trace: Word32 = 0
    """Those of one trace have one number."""


class Sighting(_Record, frozen=True):
    """A packet that the packet witness saw on one of the host's cards.

    `way` is `in` (before any filter of this host, but XDP) or `out` (after
    every one of them). For an ICMP error the addresses and ports are those of
    the packet it quotes, and `icmp` says who sent it.
    """

    at: float
    way: Text
    interface: Text
    transport: Text
    source: Text
    source_port: Port
    destination: Text
    destination_port: Port
    flags: Text = ""
    """TCP flags, of `SARF`."""
    seq: Word32 = 0
    ack: Word32 = 0
    ttl: Byte = 0
    icmp: Icmp | None = None
    mss: Port = 0
    """The maximum segment size that a SYN offers (RFC 9293, 3.2); 0 where it offers none."""


class Witness(_Record, frozen=True):
    """A witness and how far it can be trusted."""

    name: Text
    """`packets`, `sockets`, `routes`, `counters`, …"""
    available: bool
    lost: int = 0
    """Records it knows it missed (a full buffer); with any, its silence proves nothing."""
    detail: Text = ""


class OwnListener(_Record, frozen=True):
    """The agent's own listener on a candidate port, or why there is none."""

    transport: Text
    address: Text
    port: Port
    opened: bool
    error: Text | None = None


class Acceptance(_Record, frozen=True):
    """A connection that the agent's own listener took."""

    at: float
    transport: Text
    address: Text
    port: Port
    remote_address: Text
    remote_port: Port
    genuine: bool
    """Whether the other end answered the challenge, so that it is the other agent."""


class Listener(_Record, frozen=True):
    """A LISTEN row (TCP) or a bound row (UDP) of the socket table, none of them the agent's."""

    transport: Text
    address: Text
    port: Port
    v6only: bool | None = None
    """For `::`: whether IPv4 is left out; None where it cannot be told."""
    device: Text | None = None
    """The interface from which alone it takes anything (SO_BINDTODEVICE); None where from all, and
    where that cannot be told."""
    program: Text | None = None
    pid: int | None = None
    names: tuple[Text, ...] = ()
    """All names by which the program may be known: of the process, its file, its script."""
    waiting: int | None = None
    """Connections that the program has not accepted yet; by UDP bytes it has not read, as the
    kernel reckons them."""
    backlog: int | None = None


class Queue(_Record, frozen=True):
    """What waited in the queue of a UDP socket of another program, from a round's beginning on.

    As the socket table shows it (rx_queue and drops of proc(5)): bytes as the kernel reckons
    them, with some for each datagram beside what is in it.
    """

    round: int
    transport: Text
    address: Text
    """Where the socket is bound."""
    port: Port
    before: int
    after: int
    """When it was looked at last."""
    read: bool
    """Whether it was seen to become shorter meanwhile."""
    drops: int = 0
    """Datagrams that found it full meanwhile, or that a filter of the socket refused."""
    watched: float = 0.0
    """Seconds from when all was sent to the last look."""


class Connection(_Record, frozen=True):
    """A row of the socket table about a candidate port, other than LISTEN."""

    round: int
    transport: Text
    state: Text
    """`SYN_RECV`, `ESTABLISHED`, `CLOSE_WAIT`, …"""
    local_address: Text
    local_port: Port
    remote_address: Text
    remote_port: Port
    accepted: bool | None = None
    """False while no program has accepted it; None where it cannot be told."""
    watched: float = 0.0
    """Seconds for which it was seen like this."""
    at: float | None = None
    """When it was seen first; only of a side that never met the other."""


class Burst(_Record, frozen=True):
    """A coded burst as it was really sent."""

    round: int
    transport: Text
    address: Text
    port: Port
    sends: tuple[float, ...]
    """When each SYN was handed to the kernel, in seconds since the burst's mark."""
    started: float | None = None
    """When its mark was; only of a side that never met the other."""


class Samples(_Record, frozen=True):
    """Kernel counters of the network stack, read again and again during a burst."""

    round: int
    times: tuple[float, ...]
    """When each reading was taken, in seconds since the burst's mark as it was known here."""
    values: dict[Text, tuple[int, ...]]
    """The readings by counter, as in `Ip.InReceives`; `dev.rx` and `dev.tx` are packets of all
    cards together."""
    prompt: tuple[Text, ...] = ()
    """`rx` and `tx`: what the cards are known from elsewhere to count at once."""


class Route(_Record, frozen=True):
    """What the kernel would do with a packet to `destination`."""

    destination: Text
    source: Text | None = None
    interface: Text | None = None
    gateway: Text | None = None
    error: Text | None = None
    """Symbolic errno where there is no way."""
    local: Text | None = None
    """The tested address that packets are sent from, where those go another way than others."""
    transport: Text | None = None
    port: Port | None = None
    """The tested port, where its packets go another way again, by rules of the host (ip-rule(8)) or
    by its choice between routes alike."""

    @property
    def usual(self) -> bool:
        """Whether it is the way of all that is sent there."""
        return self.local is None and self.port is None


class Return(_Record, frozen=True):
    """Whether the kernel takes a packet from `source` to `local` on `interface`.

    The check that reverse-path filtering makes (net/ipv4/fib_frontend.c,
    fib_validate_source), asked of the kernel through rtnetlink.
    """

    source: Text
    local: Text
    interface: Text
    error: Text | None = None


class SelfConnect(_Record, frozen=True):
    """A connection of the host to its own service, over its own loopback path."""

    transport: Text
    address: Text
    port: Port
    outcome: Text
    """`connected`, `refused`, `silent`, or `error: ` and what the system called it."""
    spoke: Text = "nothing"
    """What the service said first: `other`, `nothing` or `closed`."""
    accepted: bool | None = None
    """Whether the program took it; None where that is not seen."""
    watched: float = 0.0
    """Seconds for which it was looked at."""


class MatchingRule(_Record, frozen=True):
    """A rule of the host's own firewall that matches what was tested.

    That it stands there is no proof that it acted: it supports what witnesses saw.
    """

    transport: Text
    address: Text
    port: Port
    answer: bool
    """Whether it matches the answer to the request and not the request itself."""
    text: Text
    """As the firewall's own tool writes it."""
    verdict: Text
    """`drop` or `reject`."""
    certain: bool
    """False where it, or one before it, asks for what cannot be told from here."""


class Neighbour(_Record, frozen=True):
    """State of the next hop towards `destination` on its link."""

    destination: Text
    next_hop: Text
    interface: Text
    state: Text
    """`reachable`; `failed` (it never answered), `incomplete` (it has not answered yet) or
    `unknown` (it was not asked)."""
    round: int
    hardware: Text | None = None
    """Its link-layer address."""


class Counted(_Record, frozen=True):
    """Kernel counters read all the time. Readings between which nothing moved are left out."""

    began: float
    """When the first of the readings was taken."""
    steps: tuple[int, ...] = ()
    """Milliseconds from each reading to the next."""
    values: dict[Text, tuple[int, ...]] = msgspec.field(default_factory=dict)
    """How much each counter moved in each of the steps; empty for one that never did."""


class Listening(_Record, frozen=True):
    """Who listened on the candidate ports from `at` on."""

    at: float
    listeners: tuple[Listener, ...] = ()
    own_listeners: tuple[OwnListener, ...] = ()
    service_listeners: tuple[Listener, ...] = ()
    service_runs: bool | None = None


class Offline(_Record, frozen=True):
    """What a side that never met the other keeps beside its records."""

    wall: float | None
    """The wall clock (seconds since 1970, UTC) when the run's own clock was zero; None where the
    wall clock was set meanwhile, or the computer slept."""
    lasted: float
    """When the recording ended, on the run's own clock."""
    kept_right: bool | None = None
    """Whether the system says that its wall clock is kept right (by NTP, say)."""
    sightings_since: float = 0.0
    """Older sightings were dropped, to keep within bounds."""
    connections_since: float = 0.0
    blind: tuple[float, ...] = ()
    """When the socket table may not have shown a connection that was there: it was looked at too
    late, or more requests waited in it than it holds."""
    listening: tuple[Listening, ...] = ()
    """Who listened, in order of time."""
    counted: Counted | None = None


class SeenAs(_Record, frozen=True):
    """An address under which others see this host, as one of them said."""

    address: Text
    by: Text
    """`stun`, `rendezvous` (the meeting point), or a `RouterWord`'s protocol."""
    said_by: Text = ""
    """Address of who said so."""
    port: Port = 0
    """What `local_port` is seen as; 0 where that was not said."""
    local_port: Port = 0


class Mapping(_Record, frozen=True):
    """What a router says of one port of its outside address."""

    transport: Text
    port: Port
    """Outside."""
    client: Text | None = None
    """The inside address that it leads to; None: the router has no such mapping."""
    client_port: Port = 0
    lease: int | None = None
    """Seconds that are left; 0: for ever; None where that was not said."""
    enabled: bool = True


class RouterWord(_Record, frozen=True):
    """What the default gateway says when it is asked by one protocol."""

    protocol: Text
    """`upnp`, `pcp` or `nat-pmp`."""
    router: Text
    """Address that was asked."""
    outcome: Text
    """`answers`, `silent`, `refused` (it is off), or `unusable` (what came is no answer)."""
    detail: Text = ""
    outside: Text | None = None
    """The router's outside address, as it says."""
    mappings: tuple[Mapping, ...] = ()
    """Of the tested ports that it was asked about; no entry where it did not say."""


class OpenedMapping(_Record, frozen=True):
    """A port that the agent asked its router to open (--map)."""

    round: int
    """The round that was tried through it."""
    transport: Text
    port: Port
    """The inside port, and the outside one that was wished for."""
    protocol: Text
    """By which it was asked for last: `upnp`, `pcp` or `nat-pmp`; empty where none is there."""
    router: Text
    outcome: Text
    """`granted`; `there`, it led here before and stays as it is; `other-port`, `refused`,
    `permanent-only`, `silent` or `failed`, and then it is not there."""
    detail: Text = ""
    outside: Text | None = None
    outside_port: Port = 0
    lease: int = 0
    """Seconds; 0: for ever."""
    kept: bool = False
    """Whether it stays when the run ends (--keep-map)."""


class NatBehaviour(_Record, frozen=True):
    """How the NAT in front of this host behaves towards UDP (RFC 5780), as a server found."""

    server: Text
    mapping: Text
    """`none` (no NAT), `endpoint-independent`, `address-dependent`,
    `address-and-port-dependent`, or `unknown`."""
    filtering: Text
    """The same words, of what is let in again; `none`: everything."""
    keeps_port: bool | None = None
    """Whether the outside port is the inside one."""
    detail: Text = ""


class Pinhole(_Record, frozen=True):
    """What the observer sent from the tested port, to open its own router from inside.

    A SYN or an empty datagram. Its time to live ends on the way, so that it opens the router and
    meets nobody.
    """

    round: int
    transport: Text
    local_port: Port
    remote: Text
    remote_port: Port
    hops: Byte
    sent: bool
    error: Text | None = None
    """Why it could not be sent."""


class Sized(_Record, frozen=True):
    """Segments of one size between the two agents, one way, each on a connection of its own.

    They are counted where the other agent had answered small bytes on the connection before.
    """

    address: Text
    """Where this side dialled."""
    local: Text
    """Its own address on these connections."""
    way: Text
    """`to`: from this side to the other one; `from`: the other way."""
    asked: Port
    """The segment size that was asked for (TCP_MAXSEG); 0: none, as programs do."""
    packet: Annotated[int, msgspec.Meta(ge=0, le=2**20)]
    """Bytes of the IP packet that a full segment makes."""
    begun: Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZED)]
    """Segments that came through or were watched for long enough."""
    passed: Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZED)]
    seconds: float = 0.0
    """The median of the time that those took which came through; 0 where none did."""
    watched: float = 0.0
    """The shortest time for which any of the others was waited for; 0 where there are none."""
    again: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 0
    """How often this side's system sent the others again, as far as it says so."""
    fitted: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 0
    """Bytes of a packet in the end, where a router's word made the system take smaller ones."""
    searches: bool = False
    """Whether the sender's system finds by itself which size passes (RFC 4821)."""


class Swept(_Record, frozen=True):
    """What one side did and saw in a round of one request to each of many ports.

    Sets of ports, as `ports.pack_ports` writes them. A set that is missing is one that this side
    could not have seen.
    """

    round: int
    transport: Text
    address: Text
    sets: Annotated[dict[Text, bytes], msgspec.Meta(max_length=MAX_SETS)]
    """Of who sends: `connected`, `refused` (by a reset), `icmp` (by such an error), `failed` (by
    the system at once) and `silent`, each port in one of them; `left`, `returned`: the request was
    seen to leave a card, an answer to come in. Of the other: `arrived`, and what was seen to leave
    in answer, `accepted` or `reset`; `own`: where the agent itself listened, `taken`: where a
    connection came to it there, `pending`: where a request waits in the socket table for the end
    of its handshake; `held`: where a program listens."""


class Evidence(_Record, frozen=True):
    """All that one side brings to the judgement."""

    format: Text
    role: Text
    session: bytes
    facts: HostFacts
    contact: ContactFacts
    ports: tuple[Text, ...] = ()
    """Destination: the port sets asked for, as `tcp:4242`."""
    service: Text | None = None
    """Destination: the program that ought to hold the port."""
    targets: tuple[Target, ...] = ()
    peers: tuple[Target, ...] = ()
    """Names given with --peer that stand for several addresses, in the order of the resolver."""
    both_ways: bool = False
    suggest: bool = False
    """Destination: whether a port is sought, for a listener that is yet to be put there."""
    rounds: tuple[RoundPlan, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    hop_probes: tuple[HopProbe, ...] = ()
    back_probes: tuple[HopProbe, ...] = ()
    """Of who was to answer: sent from the tested port, and from others, to who had asked."""
    sightings: tuple[Sighting, ...] = ()
    witnesses: tuple[Witness, ...] = ()
    own_listeners: tuple[OwnListener, ...] = ()
    acceptances: tuple[Acceptance, ...] = ()
    listeners: tuple[Listener, ...] = ()
    service_listeners: tuple[Listener, ...] = ()
    """Where the program named by --service listens, whatever the port."""
    service_runs: bool | None = None
    """Whether a process of that name is there at all; None where it was not asked for."""
    connections: tuple[Connection, ...] = ()
    queues: tuple[Queue, ...] = ()
    """UDP: of the programs that hold the tested ports."""
    bursts: tuple[Burst, ...] = ()
    samples: tuple[Samples, ...] = ()
    routes: tuple[Route, ...] = ()
    returns: tuple[Return, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    gateways: tuple[Neighbour, ...] = ()
    """This host's default gateways, where the two did not meet directly: by them two hosts know
    whether they are on one network."""
    rules: tuple[MatchingRule, ...] = ()
    self_connects: tuple[SelfConnect, ...] = ()
    seen_as: tuple[SeenAs, ...] = ()
    """How others see this host."""
    confirmed: tuple[Text, ...] = ()
    """Public addresses that the other side named as its own and the meeting point confirmed."""
    router_words: tuple[RouterWord, ...] = ()
    opened: tuple[OpenedMapping, ...] = ()
    behaviours: tuple[NatBehaviour, ...] = ()
    pinholes: tuple[Pinhole, ...] = ()
    sized: tuple[Sized, ...] = ()
    swept: Annotated[tuple[Swept, ...], msgspec.Meta(max_length=MAX_SWEPT)] = ()
    offline: Offline | None = None
    """Only of a side that never met the other."""


def read_evidence(data: bytes) -> Evidence:
    """Return the evidence in `data`; raise `ProtocolError` where it is none."""
    if len(data) > MAX_EVIDENCE:
        raise ProtocolError("the evidence is larger than allowed")
    evidence = unpack(data, Evidence)
    if evidence.format != EVIDENCE_FORMAT:
        raise ProtocolError("the evidence has another format")
    return evidence
