"""One run between two paired agents: a state machine, the same table for both roles.

The source leads: it announces rounds and ends them. In each round one side is
the prober and the other the observer, whichever of them leads:

    leader   -> Round          both sides know the probes
    observer -> Ready          witnesses armed
    prober   -> Barrier        all sent; what is silent now stays silent
    observer -> Seen           what the witnesses hold
    prober   -> Done           only where the prober does not lead

then Finish, both evidences, and `Agreed` with the digests of both: only a side
that knows the other to hold the same two documents prints a joint verdict.

No I/O: `Session` takes messages and the driver's reports (`Armed`, `Fired`, …),
and leaves orders (`Send`, `Arm`, `Fire`, …) in `orders`.
"""

from __future__ import annotations

import enum
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from .addresses import bare
from .counted import told_enough
from .errors import InputError, MisuseError, ProtocolError
from .evidence import MAX_EVIDENCE, Evidence, Probe, RoundPlan, Swept, read_evidence
from .judge import judge, verdict_digest
from .messages import (
    Agreed,
    Barrier,
    Done,
    EvidencePart,
    Finish,
    Mark,
    Message,
    Offer,
    Ready,
    Round,
    Seen,
    SeenPort,
    Tried,
)
from .pairing import DESTINATION, SOURCE, other_role
from .plan import (
    BURST,
    CONNECT,
    LEAST_WAVE,
    LOSS,
    LOSS_ATTEMPTS,
    MAPPED,
    MAX_BURSTS,
    MAX_MEASURED,
    MAX_PINHOLES,
    MAX_PROBES,
    MAX_SAME_BURSTS,
    MAX_SAMPLED,
    MAX_WAVE,
    PINHOLE,
    SAMPLE,
    SEEK_FROM,
    SWEEP,
    SWEEP_FROM,
    Tally,
    add,
    burst_probes,
    burst_round,
    first_round,
    further_round,
    loses,
    loss_rounds,
    mapped_rounds,
    pinhole_rounds,
    probe_addresses,
    sample_rounds,
    sweep_rounds,
    swept_ports,
    unseen_through_mapping,
    well_formed,
)
from .ports import MAX_PORT, TRANSPORTS, PortSet, parse_ports, unpack_ports
from .sweeps import (
    MAX_LOSSY_SWEEPS,
    MAX_SWEEPS,
    Sweep,
    between,
    check,
    choose,
    sample,
    sweep_of,
    unsettled,
)
from .verdict import Verdict
from .wire import compress, decompress

__all__ = [
    "Arm",
    "Armed",
    "Collect",
    "Collected",
    "Conclude",
    "Fire",
    "Fired",
    "Freeze",
    "Frozen",
    "Gather",
    "Gathered",
    "Marked",
    "Order",
    "Report",
    "Send",
    "Session",
    "State",
]

PART_SIZE = 8 * 1024
"""Bytes of compressed evidence per message: few packets, so that on a slow way something whole
comes through now and then."""

MAX_ROUNDS = 600
"""Rounds in one run: all 65,535 ports twice over, in waves of 512, and repeats."""


KEPT_ROUNDS = 200
"""Of them those that requests of a sweep are not made again for: they are for what follows."""

MAX_ROUND_ATTEMPTS = 32
"""Attempts per probe that a leader may ask for in one round."""


_MOST = {
    BURST: 3 * MAX_BURSTS * MAX_SAME_BURSTS,
    PINHOLE: 2 * MAX_PINHOLES,
    MAPPED: 2 * len(TRANSPORTS),
    SAMPLE: 2 * MAX_SAMPLED,
    LOSS: 2 * MAX_MEASURED,
}
"""Rounds of a kind in one run, both directions together; bursts in one of them once more, where
the router was asked to forward."""

MAX_ROUTED = 1024
"""Requests of a sweep across a router, unless both sides say --fast: what it keeps of each that
comes to nothing it keeps for two minutes (nf_conntrack_tcp_timeout_syn_sent), and a small one has
room for 4,096."""

SAMPLED = 256
"""Ports that are tried first of them; the rest go where it is to be seen what differs."""

WHOLE = 512
"""Ports that all get a request even so."""

ROUTED_RATE = 256
"""Of those requests so many a second: 20 KB."""

SLOWED = (8192, 2048)
"""Requests a second once packets are lost, and where more are lost even so: for all ports half a
minute, of the whole that a run may take."""

MANY_AGAIN = 4096
"""Of more ports none gets as many requests as loss asks for: the time is for the tests in depth."""

LOST_PARTS = 2
"""Segments of the contact sent again in one wave that are taken for its doing: one may be late."""

MOST_WAVES = 130
"""Waves in which each port gets its first request: all 65,535 where both sides have room for 512
sockets. Where it would take more, a sample gets them, as across a router."""

MAX_OFFERED = MAX_PORT + 4096
"""Ports that one offer may name: all of TCP, and as many of UDP as are tested in a run."""


class State(enum.Enum):
    """Where a side is in the run."""

    OFFERING = enum.auto()
    IDLE = enum.auto()
    """A follower between rounds."""
    ARMING = enum.auto()
    ARMED = enum.auto()
    COLLECTING = enum.auto()
    AWAITING_DONE = enum.auto()
    """A leader that observed, until the prober has its outcomes."""
    AWAITING_READY = enum.auto()
    FIRING = enum.auto()
    AWAITING_SEEN = enum.auto()
    GATHERING = enum.auto()
    FREEZING = enum.auto()
    EXCHANGING = enum.auto()
    AGREEING = enum.auto()
    CONCLUDED = enum.auto()


class Send(msgspec.Struct, frozen=True):
    """Order: send `message`."""

    message: Message


class Arm(msgspec.Struct, frozen=True):
    """Order: get the witnesses and own listeners ready for `plan`, then report `Armed`."""

    plan: RoundPlan


class Fire(msgspec.Struct, frozen=True):
    """Order: send the probes of `plan`, then report `Fired`.

    `own` are the places where the other agent itself listens and will speak its challenge.
    """

    plan: RoundPlan
    own: tuple[tuple[str, str, int], ...]
    spare: tuple[int, ...] = ()
    gentle: tuple[int, ...] = ()
    """As in `messages.Ready`."""


class Marked(msgspec.Struct, frozen=True):
    """Order: the burst begins; count its time from now. Asks for no report."""


class Collect(msgspec.Struct, frozen=True):
    """Order: all is sent; look what the witnesses hold, then report `Collected`."""

    plan: RoundPlan


class Gather(msgspec.Struct, frozen=True):
    """Order: the observer has answered; close the attempts, then report `Gathered`."""

    plan: RoundPlan
    seen: tuple[SeenPort, ...]
    swept: Swept | None = None
    """What the observer says of a sweep."""


class Freeze(msgspec.Struct, frozen=True):
    """Order: write down the evidence, then report `Frozen`."""


class Conclude(msgspec.Struct, frozen=True):
    """Order: the joint verdict stands."""

    verdict: Verdict
    source: Evidence
    destination: Evidence


Order = Send | Arm | Fire | Marked | Collect | Gather | Freeze | Conclude


class Armed(msgspec.Struct, frozen=True):
    """Report: witnesses ready; `own` listeners opened."""

    own: tuple[tuple[str, str, int], ...]
    spare: bytes = b""
    gentle: bytes = b""
    """As in `messages.Ready`."""


class Fired(msgspec.Struct, frozen=True):
    """Report: every probe is sent."""


class Collected(msgspec.Struct, frozen=True):
    """Report: what the witnesses hold."""

    ports: tuple[SeenPort, ...]
    resent: int = 0
    """As in `Gathered`."""
    swept: Swept | None = None
    """Of a sweep."""


class Gathered(msgspec.Struct, frozen=True):
    """Report: the outcomes of the round."""

    tried: tuple[Tried, ...]
    resent: int = 0
    """Segments that this side's end of the contact had to send again up to now."""
    swept: Swept | None = None
    """Of a sweep."""


class Frozen(msgspec.Struct, frozen=True):
    """Report: the evidence as bytes."""

    data: bytes


Report = Armed | Fired | Collected | Gathered | Frozen


class Session:
    """One side's run. Feed `receive` and `report`, carry out `orders`."""

    def __init__(self, role: str, offer: Offer, entropy: Callable[[int], bytes]) -> None:
        """Begin the run of `role`; `entropy(n)` returns n random bytes."""
        self.role = role
        self.state = State.OFFERING
        self.orders: list[Order] = []
        self.peer_offer: Offer | None = None
        self.rounds: list[RoundPlan] = []
        self._offer = offer
        self._queue: list[RoundPlan] = []
        self._planned_back = False
        self._planned_inside = False
        self._planned_loss = False
        self._sent: list[Swept] = []
        self._came: list[Swept] = []
        """What the sweeps of this direction showed, at who sends and at the other side."""
        self._sweeping = False
        """Whether a sweep is on, or its ports are still to be chosen from."""
        self._slowed = 0
        """How often the pace was taken back (`SLOWED`), and after which round the last time."""
        self._slowed_at = 0
        self._late = 0.0
        """The share of ports that answered late, as it was when the pace was looked at last."""
        self._resent: dict[str, int] = {}
        """Segments of the contact that each side sent again by the last wave."""
        self._loses = False
        """Whether anything beside the attempts shows that packets are lost."""
        self._seen: tuple[SeenPort, ...] = ()
        self._tallies: dict[Probe, Tally] = {}
        self._entropy = entropy
        self._finishing = False
        self._own_bytes = b""
        self._peer_packed = bytearray()
        self._peer_bytes = b""
        self._peer_complete = False
        self._peer_agreed: Agreed | None = None
        self._result: Conclude | None = None
        self._order(Send(offer))

    @property
    def leads(self) -> bool:
        """Whether this side announces the rounds."""
        return self.role == SOURCE

    @property
    def filled_router(self) -> bool:
        """Whether a router now remembers as many requests as it is to have at one time."""
        return self._spares_routers() and any(plan.kind == SWEEP for plan in self.rounds)

    @property
    def frozen(self) -> bytes:
        """The evidence of this side once it is frozen, empty before."""
        return self._own_bytes

    @property
    def peer_digest(self) -> bytes:
        """SHA-256 of the other side's evidence once it is here whole, empty before."""
        return hashlib.sha256(self._peer_bytes).digest() if self._peer_complete else b""

    def receive(self, message: Message) -> None:
        """Take a message of the other side; raise `ProtocolError` where it is out of turn."""
        handler = _TABLE.get((self.state, type(message)))
        if handler is None:
            raise ProtocolError(f"{type(message).__name__} is out of turn in {self.state.name}")
        handler(self, message)

    def report(self, report: Report) -> None:
        """Take a report of the driver; raise `MisuseError` where no order asked for it."""
        handler = _TABLE.get((self.state, type(report)))
        if handler is None:
            raise MisuseError(f"{type(report).__name__} is out of turn in {self.state.name}")
        handler(self, report)

    def hurry(self) -> None:
        """End the probing at the next possible moment: time is up. For the leader."""
        self._finishing = True

    def _order(self, order: Order) -> None:
        self.orders.append(order)

    def _send(self, message: Message) -> None:
        self._order(Send(message))

    # Offers ------------------------------------------------------------------------------

    def _on_offer(self, offer: Offer) -> None:
        self._check(offer)
        self.peer_offer = offer
        self.state = State.IDLE
        if self.leads:
            self._queue = self._plan(SOURCE)
            self._next()

    @staticmethod
    def _check(offer: Offer) -> None:
        try:
            count = sum(map(len, _parts(offer)))
            unpack_ports(offer.held)
        except InputError as error:
            raise ProtocolError("an offer with ports that are none") from error
        if count > MAX_OFFERED:
            raise ProtocolError("an offer of more ports than allowed")

    def _plan(self, prober: str) -> list[RoundPlan]:
        if self.peer_offer is None:
            raise MisuseError("no offer yet")
        mine, theirs = self._offer, self.peer_offer
        source, destination = (mine, theirs) if self.leads else (theirs, mine)
        sends = source if prober == SOURCE else destination
        addresses = probe_addresses(sends)
        number = len(self.rounds) + 1
        wanted = self._to_sweep(destination)
        least = SEEK_FROM if destination.suggest else SWEEP_FROM
        if len(wanted) < least or not addresses:
            return first_round(number, prober, addresses, destination.ports)
        self._sweeping, self._slowed, self._late = True, 0, 0.0
        if self._samples(wanted) and len(wanted) > WHOLE:
            held = unpack_ports(destination.held) if prober == SOURCE else ()
            wanted = sample(wanted, SAMPLED, held)
        return sweep_rounds(number, prober, addresses[0], wanted, self._room())

    def _to_sweep(self, destination: Offer) -> list[int]:
        return [p for part in _parts(destination) if part.transport == "tcp" for p in part]

    def _spares_routers(self) -> bool:
        """Whether a router is crossed that is to be spared: unless both users say --fast."""
        theirs = self.peer_offer
        routed = self._offer.routed or (theirs is not None and theirs.routed)
        return routed and not (self._offer.fast and theirs is not None and theirs.fast)

    def _samples(self, wanted: Sequence[int]) -> bool:
        """Whether only some of the ports get requests, for the sake of a router or of room."""
        waves = -(-len(wanted) // max(LEAST_WAVE, self._room()))
        return self._spares_routers() or waves > MOST_WAVES

    def _room(self) -> int:
        """Sockets that both sides may have open."""
        theirs = self.peer_offer.room if self.peer_offer else 0
        return min(self._offer.room, theirs)

    def _after_sweep(self) -> list[RoundPlan]:
        """The rounds that follow when each port has got its request: again, or in depth."""
        last = self.rounds[-1]
        sweep = sweep_of(self.rounds, last.prober, self._sent, self._came)
        if sweep is None:
            return []
        number = len(self.rounds) + 1
        destination = self._offer if not self.leads else self.peer_offer
        sends = self._offer if last.prober == self.role else self.peer_offer
        if destination is None or sends is None:
            raise MisuseError("no offer yet")
        self._loses |= sweep.loses
        if sweep.late > self._late:
            self._late = sweep.late
            self._slow_down()
        again = self._again(sweep, last.prober, self._to_sweep(destination))
        if again:
            return sweep_rounds(number, last.prober, sweep.address, again, self._room())
        self._sweeping = False
        alone = [a for part in _parts(destination) for a, b in part.ranges if a == b]
        chosen = choose(sweep, alone, seeks=destination.suggest)
        udp = [text for text in destination.ports if text.startswith("udp:")]
        texts = [*(f"tcp:{port}" for port in chosen), *udp]
        # What refuses by ICMP says a word a second: each port is to get its own.
        parts = [[text] for text in texts] if sweep.refused_by_icmp else [texts]
        addresses = probe_addresses(sends)
        return [p for part in parts for p in first_round(number, last.prober, addresses, part)]

    def _again(self, sweep: Sweep, prober: str, wanted: Sequence[int]) -> list[int]:
        """The ports that get the next requests: what was not seen, and then what lies between."""
        asked = self._asked(prober)
        samples = self._samples(wanted)
        most = MAX_ROUTED - asked.total() if samples else MAX_PORT
        again = [port for port in unsettled(sweep) if asked[port] < MAX_LOSSY_SWEEPS]
        if not self._loses or len(again) > MANY_AGAIN:
            again = [port for port in again if asked[port] < MAX_SWEEPS]
        size = max(LEAST_WAVE, min(MAX_WAVE, self._room()))
        rounds = len(self.rounds) + -(-len(again) // size)
        if again and len(again) <= most and rounds <= MAX_ROUNDS - KEPT_ROUNDS:
            return again
        return between(sweep, wanted, most) if samples and most > 0 else []

    def _asked(self, prober: str) -> Counter[int]:
        """How many requests of a sweep each port got from `prober` by now."""
        mine = (r for r in self.rounds if r.kind == SWEEP and r.prober == prober)
        return Counter(port for plan in mine for port in swept_ports(plan))

    def _slow_down(self) -> None:
        """Take the pace back, once for a wave."""
        if self._slowed_at < len(self.rounds):
            self._slowed_at = len(self.rounds)
            self._slowed = min(self._slowed + 1, len(SLOWED))

    def _rate(self) -> int:
        """Requests of a sweep a second; 0: as many as can be."""
        if self._spares_routers():
            return ROUTED_RATE
        return SLOWED[self._slowed - 1] if self._slowed else 0

    def _note_resent(self, side: str, resent: int) -> None:
        """Keep what a side's end of the contact lost, and take the pace back after a wave."""
        before = self._resent.get(side, 0)
        self._resent[side] = resent
        self._loses |= resent > 0
        if self.rounds and self.rounds[-1].kind == SWEEP and resent - before >= LOST_PARTS:
            self._slow_down()

    # The leader --------------------------------------------------------------------------

    def _next(self) -> None:
        """Announce the next round, or end the probing."""
        if not self._queue and self._sweeping:
            self._queue = self._after_sweep()
        if not self._queue and not self._planned_inside:
            self._planned_inside = True
            self._queue = self._plan_inside()
        if not self._queue and not self._planned_loss:
            self._planned_loss = True
            self._queue = self._plan_loss()
        if not self._queue and not self._planned_back and self._both_ways():
            self._planned_back = True
            self._planned_inside = self._planned_loss = False
            self._tallies = {}
            self._sent, self._came = [], []
            self._queue = self._plan(DESTINATION)
        if self._finishing or not self._queue or len(self.rounds) >= MAX_ROUNDS:
            self._send(Finish())
            self._freeze()
            return
        plan = _renumbered(self._queue.pop(0), len(self.rounds) + 1)
        if plan.kind == SWEEP:
            plan = replace(plan, rate=self._rate())
        self._send(Round(plan=plan))
        self._begin(plan)

    def _plan_inside(self) -> list[RoundPlan]:
        """The rounds for which the observer first opens its router, from inside or by asking."""
        if not self.rounds or self.peer_offer is None:
            return []
        prober = self.rounds[-1].prober
        observer = self._offer if prober != self.role else self.peer_offer
        tallies = list(self._tallies.items())
        number = len(self.rounds) + 1
        plans = pinhole_rounds(number, prober, tallies, observer.addresses, self._entropy)
        if observer.map:
            plans += mapped_rounds(number, prober, tallies, observer.addresses)
        return plans + sample_rounds(number, prober, tallies, self._entropy)

    def _plan_loss(self) -> list[RoundPlan]:
        """The rounds that measure loss, where anything shows that packets are lost."""
        tallies = list(self._tallies.items())
        if not tallies or self.peer_offer is None or not (self._loses or loses(tallies)):
            return []
        prober = self.rounds[-1].prober
        observer = self._offer if prober != self.role else self.peer_offer
        return loss_rounds(len(self.rounds) + 1, prober, tallies, observer.control_port)

    def _both_ways(self) -> bool:
        """Whether the other direction is tested, too; not where a port of one side is sought."""
        offers = [self._offer, *([self.peer_offer] if self.peer_offer else [])]
        return any(o.both_ways for o in offers) and not any(o.suggest for o in offers)

    def _repeat(self, tried: Sequence[Tried]) -> None:
        """Queue what the outcomes of a round of connects still leave open."""
        plan = self.rounds[-1]
        if plan.kind == BURST:
            self._burst_again(plan, tried)
        if plan.kind == MAPPED:
            self._queue += [
                burst_round(len(self.rounds) + 1, plan.prober, probe, self._entropy)
                for probe in unseen_through_mapping(tried, self._seen)
            ]
        if plan.kind == SAMPLE:
            self._loses |= any(0 < item.silent < item.attempts for item in tried)
        if plan.kind != CONNECT:
            return
        seen = {(bare(s.address), s.port): s for s in self._seen}
        tallies = []
        for item in tried:
            key = (bare(item.probe.address), item.probe.port)
            tally = add(self._tallies.get(item.probe), item, seen.get(key))
            self._tallies[item.probe] = tally
            tallies.append((item.probe, tally))
        # Numbers stay in the order of announcement: what waits is numbered when it is sent.
        again = further_round(len(self.rounds) + 1, plan, tallies)
        if again is not None:
            self._queue.insert(0, again)
            return
        if self._queue:
            return  # more ports are to be tried first: they may share one fate
        for probe in burst_probes(list(self._tallies.items()))[:MAX_BURSTS]:
            self._queue.append(burst_round(len(self.rounds) + 1, plan.prober, probe, self._entropy))

    def _burst_again(self, plan: RoundPlan, tried: Sequence[Tried]) -> None:
        """Queue another burst at the same probe where the counters did not tell enough."""
        probe = plan.probes[0]
        # A router that was asked to forward in between makes another way of it.
        begins = max((r.number for r in self.rounds if r.kind == MAPPED), default=0)
        later = [r for r in self.rounds if r.number > begins]
        sent = [r for r in later if r.kind == BURST and r.probes == plan.probes]
        if len(sent) >= MAX_SAME_BURSTS:
            return
        parts = [item.told for item in tried] + [item.told for item in self._seen]
        tally = self._tallies.get(probe, Tally())
        if not told_enough((p for p in parts if p), refused=tally.silent < tally.attempts):
            self._queue.insert(
                0, burst_round(len(self.rounds) + 1, plan.prober, probe, self._entropy)
            )

    # Rounds ------------------------------------------------------------------------------

    def _on_round(self, message: Round) -> None:
        plan = message.plan
        if not self._permitted(plan):
            raise ProtocolError("a round that was not agreed to")
        self._begin(plan)

    def _permitted(self, plan: RoundPlan) -> bool:
        """Whether the leader may announce this.

        It must be in turn and of a bearable size, and have nothing probed from here but what
        this side's own user typed or what authenticated.
        """
        if plan.number != len(self.rounds) + 1 or len(self.rounds) >= MAX_ROUNDS:
            return False
        most = LOSS_ATTEMPTS if plan.kind == LOSS else MAX_ROUND_ATTEMPTS
        if not 0 < len(plan.probes) <= MAX_PROBES or not 0 < plan.attempts <= most:
            return False
        asked = sum(earlier.kind == plan.kind for earlier in self.rounds)
        if asked >= _MOST.get(plan.kind, MAX_ROUNDS):
            return False
        if (
            not self._wanted(plan)
            or not well_formed(plan)
            or plan.prober not in (SOURCE, DESTINATION)
            or not self._may_sweep(plan)
        ):
            return False
        if plan.prober != self.role:
            return self.role != DESTINATION or self._offered(plan)
        allowed = {bare(address) for address in probe_addresses(self._offer)}
        return self._both_ways() and all(
            bare(probe.address) in allowed and 0 < probe.port <= MAX_PORT for probe in plan.probes
        )

    def _wanted(self, plan: RoundPlan) -> bool:
        """Whether the router of this side may be asked for anything as the round wants it."""
        return plan.kind != MAPPED or plan.prober == self.role or self._offer.map

    def _offered(self, plan: RoundPlan) -> bool:
        """Whether the round keeps to the ports that the user of the destination named.

        And to the one where the agent itself listens, by which loss is measured.
        """
        if plan.kind == LOSS:
            own = ("tcp", self._offer.control_port)
            return all((probe.transport, probe.port) == own for probe in plan.probes)
        ports = {(part.transport, port) for part in _parts(self._offer) for port in part}
        return all((probe.transport, probe.port) in ports for probe in plan.probes)

    def _may_sweep(self, plan: RoundPlan) -> bool:
        """Whether a sweep keeps to the ports that the destination's user named."""
        if plan.kind != SWEEP:
            return True
        asked = swept_ports(plan)
        if len(asked) > max(LEAST_WAVE, self._room()):
            return False
        if self._spares_routers():
            made = self._asked(plan.prober).total()
            slow = 0 < plan.rate <= ROUTED_RATE
            if not slow or made + len(asked) > MAX_ROUTED:
                return False
        destination = self._offer if self.role == DESTINATION else self.peer_offer
        parts = _parts(destination) if destination else []
        offered = {port for part in parts if part.transport == "tcp" for port in part}
        return offered.issuperset(asked)

    def _begin(self, plan: RoundPlan) -> None:
        self.rounds.append(plan)
        if plan.prober == self.role:
            self.state = State.AWAITING_READY
        else:
            self.state = State.ARMING
            self._order(Arm(plan))

    def _on_armed(self, report: Armed) -> None:
        number = self.rounds[-1].number
        self._send(Ready(number=number, own=report.own, spare=report.spare, gentle=report.gentle))
        self.state = State.ARMED

    def _on_barrier(self, message: Barrier) -> None:
        self._same(message.number)
        self.state = State.COLLECTING
        self._order(Collect(self.rounds[-1]))

    def _on_collected(self, report: Collected) -> None:
        self._seen = report.ports  # what a leader that observes plans by
        number = self.rounds[-1].number
        self._note_resent(self.role, report.resent)
        self._keep_swept(came=report.swept)
        self._send(
            Seen(number=number, ports=report.ports, resent=report.resent, swept=report.swept)
        )
        self.state = State.AWAITING_DONE if self.leads else State.IDLE

    def _on_mark(self, message: Mark) -> None:
        self._same(message.number)
        self._order(Marked())

    def _on_done(self, message: Done) -> None:
        self._same(message.number)
        self._note_resent(other_role(self.role), message.resent)
        self._keep_swept(sent=message.swept)
        self._repeat(message.tried)
        self.state = State.IDLE
        self._next()

    def _on_ready(self, message: Ready) -> None:
        self._same(message.number)
        self.state = State.FIRING
        if self.rounds[-1].kind == BURST:
            self._send(Mark(number=message.number))
        spare, gentle = (unpack_ports(part, MAX_WAVE) for part in (message.spare, message.gentle))
        self._order(Fire(self.rounds[-1], message.own, spare, gentle))

    def _on_fired(self, _report: Fired) -> None:
        self._send(Barrier(number=self.rounds[-1].number))
        self.state = State.AWAITING_SEEN

    def _on_seen(self, message: Seen) -> None:
        self._same(message.number)
        self._seen = message.ports
        self._note_resent(other_role(self.role), message.resent)
        self._keep_swept(came=message.swept)
        self.state = State.GATHERING
        self._order(Gather(self.rounds[-1], message.ports, message.swept))

    def _on_gathered(self, report: Gathered) -> None:
        self.state = State.IDLE
        if not self.leads:
            number = self.rounds[-1].number
            self._send(
                Done(number=number, tried=report.tried, resent=report.resent, swept=report.swept)
            )
            return
        self._note_resent(self.role, report.resent)
        self._keep_swept(sent=report.swept)
        self._repeat(report.tried)
        self._next()

    def _keep_swept(self, *, sent: Swept | None = None, came: Swept | None = None) -> None:
        """Keep what a sweep showed, for the plan; raise `ProtocolError` where it is none."""
        for swept in filter(None, (sent, came)):
            check(swept)
        self._sent += [sent] if sent is not None else []
        self._came += [came] if came is not None else []

    def _same(self, number: int) -> None:
        if not self.rounds or self.rounds[-1].number != number:
            raise ProtocolError("another round is on")

    # Evidence and verdict ----------------------------------------------------------------

    def _on_finish(self, _message: Finish) -> None:
        self._freeze()

    def _freeze(self) -> None:
        self.state = State.FREEZING
        self._order(Freeze())

    def _on_frozen(self, report: Frozen) -> None:
        self._own_bytes = report.data
        packed = compress(report.data)
        pieces = [packed[at : at + PART_SIZE] for at in range(0, len(packed), PART_SIZE)]
        for index, piece in enumerate(pieces):
            self._send(EvidencePart(data=piece, last=index == len(pieces) - 1))
        self.state = State.EXCHANGING
        self._judge_if_complete()

    def _on_part(self, message: EvidencePart) -> None:
        if self._peer_complete or len(self._peer_packed) + len(message.data) > MAX_EVIDENCE:
            raise ProtocolError("more evidence than allowed")
        self._peer_packed += message.data
        if message.last:
            self._peer_bytes = decompress(bytes(self._peer_packed), MAX_EVIDENCE)
            self._peer_complete = True
        if self.state is State.EXCHANGING:
            self._judge_if_complete()

    def _judge_if_complete(self) -> None:
        if not self._peer_complete:
            return
        mine, theirs = read_evidence(self._own_bytes), read_evidence(self._peer_bytes)
        if theirs.role != other_role(self.role) or theirs.session != mine.session:
            raise ProtocolError("the evidence belongs to another run")
        source, destination = (mine, theirs) if self.leads else (theirs, mine)
        try:
            verdict = judge(source, destination)
        except InputError as error:
            raise ProtocolError("evidence with ports that are none") from error
        self._result = Conclude(verdict, source, destination)
        self._send(self._agreed(verdict))
        self.state = State.AGREEING
        if self._peer_agreed is not None:
            self._on_agreed(self._peer_agreed)

    def _agreed(self, verdict: Verdict) -> Agreed:
        mine = hashlib.sha256(self._own_bytes).digest()
        theirs = hashlib.sha256(self._peer_bytes).digest()
        return Agreed(
            source=mine if self.leads else theirs,
            destination=theirs if self.leads else mine,
            verdict=verdict_digest(verdict),
        )

    def _on_agreed_early(self, message: Agreed) -> None:
        self._peer_agreed = message

    def _on_agreed(self, message: Agreed) -> None:
        if self._result is None or message != self._agreed(self._result.verdict):
            raise ProtocolError("the two sides did not come to the same verdict")
        self.state = State.CONCLUDED
        self._order(self._result)


def _parts(destination: Offer) -> list[PortSet]:
    return [part for text in destination.ports for part in parse_ports(text)]


def _renumbered(plan: RoundPlan, number: int) -> RoundPlan:
    if plan.number == number:
        return plan
    return replace(plan, number=number)


_Handler = Callable[[Session, Any], None]

# ruff: noqa: SLF001  the table belongs to the class
_TABLE: dict[tuple[State, type], _Handler] = {
    (State.OFFERING, Offer): Session._on_offer,
    (State.IDLE, Round): Session._on_round,
    (State.ARMING, Armed): Session._on_armed,
    (State.ARMED, Mark): Session._on_mark,
    (State.ARMED, Barrier): Session._on_barrier,
    (State.COLLECTING, Collected): Session._on_collected,
    (State.AWAITING_DONE, Done): Session._on_done,
    (State.AWAITING_READY, Ready): Session._on_ready,
    (State.FIRING, Fired): Session._on_fired,
    (State.AWAITING_SEEN, Seen): Session._on_seen,
    (State.GATHERING, Gathered): Session._on_gathered,
    (State.IDLE, Finish): Session._on_finish,
    (State.FREEZING, Frozen): Session._on_frozen,
    (State.FREEZING, EvidencePart): Session._on_part,
    (State.EXCHANGING, EvidencePart): Session._on_part,
    (State.EXCHANGING, Agreed): Session._on_agreed_early,
    (State.AGREEING, Agreed): Session._on_agreed,
}
