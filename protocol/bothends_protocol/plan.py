"""What to test, as data: the addresses that matter, the rounds, when to repeat.

Pure functions, so that both sides and every test plan alike. Which addresses
are primary is decided on evidence again by the judge (`primary_addresses`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from .addresses import bare
from .bursts import PER_WINDOW, make_pattern
from .errors import ProtocolError
from .evidence import Probe, RoundPlan
from .messages import Offer, SeenPort, Tried
from .ports import TRANSPORTS, pack_ports, parse_ports, unpack_ports

__all__ = [
    "ATTEMPTS",
    "BURST",
    "CERTAIN",
    "CONNECT",
    "ENOUGH",
    "HALF_OPEN",
    "LEAST_WAVE",
    "LOSS",
    "LOSS_ATTEMPTS",
    "MAPPED",
    "MAX_ATTEMPTS",
    "MAX_BURSTS",
    "MAX_MAPPED",
    "MAX_MEASURED",
    "MAX_PINHOLES",
    "MAX_PROBES",
    "MAX_SAME_BURSTS",
    "MAX_SAMPLED",
    "MAX_WAVE",
    "MAX_WAVES",
    "PINHOLE",
    "PINHOLE_ATTEMPTS",
    "SAMPLE",
    "SWEEP",
    "SWEEP_FROM",
    "TUPLES",
    "Tally",
    "add",
    "burst_probes",
    "burst_round",
    "by_datagrams",
    "first_round",
    "further_round",
    "loses",
    "loss_rounds",
    "mapped_rounds",
    "pinhole_rounds",
    "primary_addresses",
    "probe_addresses",
    "sample_rounds",
    "sweep_rounds",
    "swept_ports",
    "unseen_through_mapping",
    "well_formed",
]

ATTEMPTS = 3
"""Fresh connects per probe in the first round. On a clean path silence of three is no
accident (design, part 5); the first of them is the cold one."""

REPEATS = 12
"""Connects per probe in each further round."""

CERTAIN = 15
"""Requests that must all have met the same fate where loss alone could be it: at 40 % loss
15 of 15 are lost once in a million."""

ENOUGH = 3
"""Requests that must have reached a host before it is said of the host itself that it lets
none of them through: within a host nothing is lost by chance."""

HALF_OPEN = 6
"""Connections none of which the destination's table shows as complete, before it is said that it
is the program's wish (TCP_DEFER_ACCEPT), or that they end elsewhere, and not that each time the
last packet of the handshake, or a reset, was lost: at 40 % loss that happens 4 times in 1,000."""

MAX_ATTEMPTS = 60
"""Connects per probe at most, all rounds together: enough for 15 answers on a way that loses
40 % in each direction, and a third of what one check may send."""

MAX_ADDRESSES = 16
"""Addresses probed in one direction, primary ones first."""

MAX_REPEATED = 64
"""Probes that are repeated in one further round; of a sweep that is a sample."""

MAX_PROBES = 256
"""Probes per round at most. With three attempts each, and 12 for 64 of them, that is 768 sockets
open at one time: below the common descriptor limit of 1,024. A wider request is cut into
several rounds."""


MAX_BURSTS = 4
"""Probes that get coded bursts in one run. Each burst takes a third of a second and tells for
all ports that met the same fate."""

MAX_SAME_BURSTS = 3
"""Bursts at one probe: where noise or a lost mark hid the first, others may tell."""

CONNECT, BURST, PINHOLE, MAPPED = "connect", "burst", "pinhole", "mapped"
SAMPLE, LOSS, SWEEP = "sample", "loss", "sweep"

SWEEP_FROM = 257
"""TCP ports from which on each gets one request first, and only some of those that fared alike are
tested in depth. Fewer are all tested so: each gets from 3 requests to 15, and takes 2 or 3 ms."""

MAX_WAVE = 8192
"""Ports of one round of a sweep: then the other side says what came, and the sockets are closed."""

SEEK_FROM = 65
"""The same where a free port is sought (`bothends suggest`): one that comes through will do."""

LEAST_WAVE = 64
"""The same where a side has hardly any room for sockets."""

MAX_SAMPLED = 2
"""Probes, in one direction, of which it is tried whether all connections fare alike."""

TUPLES = 16
"""Connections of which that is tried, each from a port of its own. Where one of two parallel paths
filters, fewer than three of them take that one twice in 1,000 times."""

MAX_WAVES = 30
"""Times that each which fails is tried again, from the same port, at most."""

MAX_MEASURED = 1
"""Addresses, in one direction, to which loss is measured: another way may lose as much."""

LOSS_ATTEMPTS = 100
"""Requests by which loss is measured. A loss of 5 % each way stays unseen 4 times in 10,000, and
what they show is right within 10 % of the round trips."""

MAX_PINHOLES = 2
"""Probes for which the other side's router is opened from inside, in one direction."""

PINHOLE_ATTEMPTS = 3
"""Requests through each: one of them arriving tells all, and not each must be lost."""

_LOCAL_PORTS = (25_000, 32_000)
"""Where the requests through a pinhole come from: no service's port nor the control port as a rule,
and below those that systems choose themselves (32768 and up on Linux, 49152 elsewhere), so that no
other request of the run comes from the same."""

MAX_MAPPED = 4
"""Ports that the router is asked to forward in one round (--map)."""


class Tally(msgspec.Struct, frozen=True):
    """What is known of one probe after the rounds so far."""

    attempts: int = 0
    connected: int = 0
    silent: int = 0
    explained: int = 0
    left: int | None = None
    arrived: int | None = None
    answered: int | None = None
    delivered: int | None = None
    established: int | None = None
    mapped: bool = False
    """Whether the machine with the address was seen to pass requests on."""
    routed: bool = False
    """Whether a router is crossed on the way."""
    void: int = 0
    """Attempts that are none: there was no route just then, though there is one."""
    beside: int = 0
    """Connections of traces among those that are established."""
    unlisted: bool = False
    """Whether the socket table may not show all that came (`SeenPort`)."""


def add(old: Tally | None, tried: Tried, seen: SeenPort | None) -> Tally:
    """Return `old` with the outcomes of one more round."""
    old = old or Tally()
    return Tally(
        attempts=old.attempts + tried.attempts,
        connected=old.connected + tried.connected,
        silent=old.silent + tried.silent,
        explained=old.explained + tried.explained,
        left=_sum(old.left, tried.left),
        arrived=_sum(old.arrived, seen.arrived if seen else None),
        answered=_sum(old.answered, seen.answered if seen else None),
        delivered=_sum(old.delivered, seen.delivered if seen else None),
        established=_sum(old.established, seen.established if seen else None),
        mapped=old.mapped or tried.mapped,
        routed=old.routed or tried.routed,
        void=old.void + tried.void,
        beside=old.beside + tried.beside,
        unlisted=old.unlisted or (seen is not None and seen.unlisted),
    )


def _sum(old: int | None, new: int | None) -> int | None:
    known = [count for count in (old, new) if count is not None]
    return sum(known) if known else None


def primary_addresses(
    *,
    targets: Sequence[str],
    typed: Sequence[str],
    remote: str,
    confirmed: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the addresses whose checks decide the verdict (design, part 3).

    Each --target; else the --peer that the contact used, or all of them where it
    used none; else the address that authenticated the contact; else, of those that
    were confirmed, the first: the other side's public address.
    """
    if targets:
        return tuple(dict.fromkeys(targets))
    if remote and bare(remote) in {bare(address) for address in typed}:
        return (remote,)
    return tuple(dict.fromkeys(typed)) or ((remote,) if remote else tuple(confirmed[:1]))


def probe_addresses(prober: Offer) -> tuple[str, ...]:
    """Return the addresses that the side which made `prober` may probe, primary ones first.

    Only what the user typed, what authenticated, or what the peer named and the
    meeting point that the user chose says too; never an address on the peer's
    word alone (design, part 6).
    """
    targets = [address for target in prober.targets for address in target.addresses]
    primary = primary_addresses(
        targets=targets,
        typed=prober.typed,
        remote=prober.remote,
        confirmed=prober.confirmed,
    )
    # A name is one target: what else it stands for is what an application may try, too.
    met = {bare(address) for address in primary}
    names = () if prober.targets else prober.peers
    named = [a for name in names if met & set(map(bare, name.addresses)) for a in name.addresses]
    wanted = (*primary, *named, *prober.proven, *prober.confirmed)
    return tuple(dict.fromkeys(wanted))[:MAX_ADDRESSES]


def first_round(
    number: int, prober: str, addresses: Iterable[str], ports: Sequence[str]
) -> list[RoundPlan]:
    """Return the rounds that try every port at every address once, `number` being the first.

    A round has one transport: what counters show of one must not be taken for the other.
    """
    probes = [
        Probe(transport=wanted.transport, address=address, port=port)
        for address in addresses
        for text in ports
        for wanted in parse_ports(text)
        for port in wanted
    ]
    by_transport = ([p for p in probes if p.transport == name] for name in TRANSPORTS)
    chunks = [
        alike[at : at + MAX_PROBES]
        for alike in by_transport
        for at in range(0, len(alike), MAX_PROBES)
    ]
    return [
        RoundPlan(
            number=number + index,
            kind=CONNECT,
            prober=prober,
            attempts=ATTEMPTS,
            probes=tuple(chunk),
        )
        for index, chunk in enumerate(chunks)
    ]


def sweep_rounds(
    number: int, prober: str, address: str, ports: Sequence[int], room: int
) -> list[RoundPlan]:
    """Return the rounds that send one request to each of `ports` at `address`.

    `room` is how many sockets both sides may have open.
    """
    size = max(LEAST_WAVE, min(MAX_WAVE, room))
    waves = [ports[at : at + size] for at in range(0, len(ports), size)]
    return [
        RoundPlan(
            number=number + index,
            kind=SWEEP,
            prober=prober,
            attempts=1,
            probes=(Probe(transport="tcp", address=address, port=wave[0]),),
            ports=pack_ports(wave),
        )
        for index, wave in enumerate(waves)
    ]


def swept_ports(plan: RoundPlan) -> tuple[int, ...]:
    """Return the ports of a sweep; none where the plan is no proper one."""
    try:
        return unpack_ports(plan.ports, MAX_WAVE)
    except ProtocolError:
        return ()


def further_round(
    number: int, last: RoundPlan, tallies: Sequence[tuple[Probe, Tally]]
) -> RoundPlan | None:
    """Return a round of repeats for the probes that are not yet conclusive, or None."""
    open_probes = [probe for probe, tally in tallies if not _conclusive(tally)]
    if not open_probes:
        return None
    return RoundPlan(
        number=number,
        kind=last.kind,
        prober=last.prober,
        attempts=REPEATS,
        probes=tuple(open_probes[:MAX_REPEATED]),
    )


def _conclusive(tally: Tally) -> bool:
    """Whether more attempts would tell nothing new.

    Silence is, once so many requests were seen to get as far as they get that
    loss cannot be it. Where no witness sees them a coded burst tells more.
    """
    if tally.attempts >= MAX_ATTEMPTS:
        return True
    if tally.void and not tally.attempts:
        return tally.void >= MAX_ATTEMPTS  # it is no moment, but a rule for just this port
    if tally.connected and tally.established is not None and tally.established <= tally.beside:
        return tally.connected >= HALF_OPEN
    if not tally.silent:
        return True
    if tally.connected:
        return tally.connected > 1
    return tally.silent < tally.attempts or _plain(tally)


def _plain(tally: Tally) -> bool:
    """Whether what silenced all attempts so far cannot be loss."""
    if tally.left == 0 or tally.arrived == 0:
        return tally.attempts >= CERTAIN
    if tally.arrived is None:
        return tally.attempts >= CERTAIN  # a refusal may have been lost; what is left is counted
    if tally.answered:
        return tally.answered >= CERTAIN
    return tally.arrived >= (CERTAIN if tally.delivered else ENOUGH)


def burst_probes(tallies: Sequence[tuple[Probe, Tally]]) -> list[Probe]:
    """Return the probes whose fate a coded burst would tell: all, or one of each kind."""
    wanting = [
        (probe, tally)
        for probe, tally in tallies
        if (_untold if probe.transport == "udp" else _unwitnessed)(tally)
    ]
    if len(wanting) <= MAX_BURSTS:
        return [probe for probe, _ in wanting]
    kinds: dict[object, Probe] = {}
    for probe, tally in wanting:
        silent = tally.silent == tally.attempts
        kind = (probe.transport, probe.address, silent, bool(tally.connected))
        kinds.setdefault(kind, probe)
    return list(kinds.values())


def _unwitnessed(tally: Tally) -> bool:
    """Whether no witness has told where the requests ended, or whether they came through."""
    if not tally.attempts or tally.explained:
        return False
    if tally.connected:
        return tally.delivered == 0 and tally.arrived is None
    return tally.left is None or tally.arrived is None or tally.unlisted


def _untold(tally: Tally) -> bool:
    """Whether no witness has told where datagrams ended, or whether they came through.

    That a program which stays silent got them, no witness of single ones shows; nor that the host
    itself led them past our own listener, to another port of it or into a container.
    """
    if not tally.attempts or tally.explained:
        return False
    if tally.connected:
        return not tally.delivered and tally.arrived is None
    if tally.left is None or tally.arrived is None:
        return True
    return tally.arrived > 0 and not tally.delivered


def burst_round(
    number: int, prober: str, probe: Probe, entropy: Callable[[int], bytes]
) -> RoundPlan:
    """Return a round that sends a coded burst at `probe`."""
    return RoundPlan(
        number=number,
        kind=BURST,
        prober=prober,
        attempts=PER_WINDOW,
        probes=(probe,),
        pattern=make_pattern(entropy),
    )


def pinhole_rounds(
    number: int,
    prober: str,
    tallies: Sequence[tuple[Probe, Tally]],
    own: Iterable[str],
    entropy: Callable[[int], bytes],
) -> list[RoundPlan]:
    """Return the rounds for which the observer opens its own router from inside first.

    They are for probes that nothing came of, at addresses that are none of its `own`: what then
    gets through shows that only the router keeps it away, and not somebody before it.
    """
    here = {bare(address) for address in own}
    silent = [
        probe
        for probe, tally in tallies
        if bare(probe.address) not in here
        and 0 < tally.silent == tally.attempts
        and not (tally.mapped or tally.arrived or tally.delivered)
    ]
    return [
        RoundPlan(
            number=number + index,
            kind=PINHOLE,
            prober=prober,
            attempts=PINHOLE_ATTEMPTS,
            probes=(probe,),
            local_ports=_local_ports(entropy, PINHOLE_ATTEMPTS),
        )
        for index, probe in enumerate(silent[:MAX_PINHOLES])
    ]


def _local_ports(entropy: Callable[[int], bytes], count: int) -> tuple[int, ...]:
    first, last = _LOCAL_PORTS
    room = last - first + 2 - count
    start = first + int.from_bytes(entropy(4), "big") % room
    return tuple(range(start, start + count))


def mapped_rounds(
    number: int, prober: str, tallies: Sequence[tuple[Probe, Tally]], own: Iterable[str]
) -> list[RoundPlan]:
    """Return the rounds for which the observer's router is asked to forward the ports first.

    One for each transport, of `MAX_MAPPED` probes together.
    """
    here = {bare(address) for address in own}
    probes = [
        probe
        for probe, tally in tallies
        if bare(probe.address) not in here
        # By UDP whoever answers may be the destination: no socket's row would show it.
        and (probe.transport == "tcp" or not tally.connected)
        and not tally.delivered
        and not tally.arrived
    ][:MAX_MAPPED]
    parts = (tuple(p for p in probes if p.transport == transport) for transport in TRANSPORTS)
    return [
        RoundPlan(number=number + index, kind=MAPPED, prober=prober, attempts=CERTAIN, probes=part)
        for index, part in enumerate(filter(None, parts))
    ]


def sample_rounds(
    number: int,
    prober: str,
    tallies: Sequence[tuple[Probe, Tally]],
    entropy: Callable[[int], bytes],
) -> list[RoundPlan]:
    """Return the rounds in which it is tried whether all connections to a port fare alike.

    Where a router is crossed there may be parallel paths, each connection taking one of them by
    its addresses and ports; elsewhere only where some failed and some did not.
    """
    mixed = [
        probe
        for probe, tally in tallies
        if probe.transport == "tcp" and tally.connected and (tally.routed or tally.silent)
    ]
    return [
        RoundPlan(
            number=number + index,
            kind=SAMPLE,
            prober=prober,
            attempts=MAX_WAVES,
            probes=(probe,),
            local_ports=_local_ports(entropy, TUPLES),
        )
        for index, probe in enumerate(mixed[:MAX_SAMPLED])
    ]


def loses(tallies: Sequence[tuple[Probe, Tally]]) -> bool:
    """Return whether some requests to a port got an answer and others did not."""
    return any(0 < tally.silent < tally.attempts for _, tally in tallies)


def loss_rounds(
    number: int, prober: str, tallies: Sequence[tuple[Probe, Tally]], control_port: int
) -> list[RoundPlan]:
    """Return the rounds that measure loss, at the port where the other agent itself listens."""
    # First where something came back: an address may be dead.
    ordered = sorted(tallies, key=lambda item: not item[1].connected)
    addresses = dict.fromkeys(probe.address for probe, _ in ordered)
    return [
        RoundPlan(
            number=number + index,
            kind=LOSS,
            prober=prober,
            attempts=LOSS_ATTEMPTS,
            probes=(Probe(transport="tcp", address=address, port=control_port),),
        )
        for index, address in enumerate(list(addresses)[:MAX_MEASURED])
        if control_port
    ]


def unseen_through_mapping(tried: Sequence[Tried], seen: Sequence[SeenPort]) -> list[Probe]:
    """Return the probes of which nobody saw whether they came in through the mapping.

    Nothing came of them, and the observer has no right to see packets; or they are of UDP, where
    whoever answers need not be the destination. The counters are left, and what it takes to read
    them is a burst.
    """
    dark = {(bare(s.address), s.port) for s in seen if s.arrived is None and not s.delivered}
    return [
        item.probe
        for item in tried
        if (bare(item.probe.address), item.probe.port) in dark
        and (item.silent == item.attempts or item.probe.transport == "udp")
    ]


def by_datagrams(plan: RoundPlan) -> bool:
    """Return whether the round is one of UDP: all its probes are, or none."""
    return any(probe.transport == "udp" for probe in plan.probes[:1])


def well_formed(plan: RoundPlan) -> bool:
    """Return whether `plan` is of a kind that is known here, and of a bearable size."""
    transports = {probe.transport for probe in plan.probes}
    if len(transports) > 1 or not transports <= set(TRANSPORTS):
        return False
    misfit = "udp" in transports and plan.kind in (SAMPLE, LOSS, SWEEP)
    if misfit or bool(plan.ports) != (plan.kind == SWEEP):
        return False
    if plan.kind in (CONNECT, SWEEP):
        few = plan.kind == CONNECT or len(plan.probes) == plan.attempts == len(
            swept_ports(plan)[:1]
        )
        return not plan.pattern and not plan.local_ports and few
    if plan.kind in _MOST_PROBES:
        few = len(plan.probes) <= _MOST_PROBES[plan.kind]
        return not plan.pattern and not plan.local_ports and few
    if plan.kind in _FROM_PORTS:
        attempts, count = _FROM_PORTS[plan.kind]
        return (
            not plan.pattern
            and len(plan.probes) == 1
            and (plan.attempts, len(plan.local_ports)) == (attempts, count)
            and all(_LOCAL_PORTS[0] <= port <= _LOCAL_PORTS[1] for port in plan.local_ports)
        )
    return (
        plan.kind == BURST
        and not plan.local_ports
        and len(plan.probes) == 1
        and 0 < len(plan.pattern) <= MAX_WINDOWS
        and set(plan.pattern) <= {"0", "1"}
    )


_MOST_PROBES = {MAPPED: MAX_MAPPED, LOSS: 1}

_FROM_PORTS = {PINHOLE: (PINHOLE_ATTEMPTS, PINHOLE_ATTEMPTS), SAMPLE: (MAX_WAVES, TUPLES)}
"""By kind: attempts, and local ports."""

MAX_WINDOWS = 64
"""Windows of a burst that a leader may ask for."""
