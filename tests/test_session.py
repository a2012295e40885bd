"""The session: two of them in memory, driven to the end by a made-up world."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol import session as session_module
from bothends_protocol.errors import MisuseError, ProtocolError
from bothends_protocol.evidence import (
    MAX_EVIDENCE,
    Evidence,
    Probe,
    RoundPlan,
    Swept,
    Target,
)
from bothends_protocol.messages import (
    Agreed,
    Barrier,
    Bye,
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
    Told,
    Tried,
    read_message,
    write_message,
)
from bothends_protocol.pairing import DESTINATION, SOURCE, other_role
from bothends_protocol.plan import (
    ATTEMPTS,
    BURST,
    CONNECT,
    LOSS,
    LOSS_ATTEMPTS,
    MAPPED,
    MAX_ATTEMPTS,
    MAX_BURSTS,
    MAX_PINHOLES,
    MAX_PROBES,
    MAX_SAME_BURSTS,
    MAX_WAVE,
    PINHOLE,
    SAMPLE,
    SWEEP,
    SWEEP_FROM,
    sweep_rounds,
    swept_ports,
)
from bothends_protocol.ports import pack_ports
from bothends_protocol.session import (
    MAX_ROUNDS,
    MAX_ROUTED,
    ROUTED_RATE,
    SAMPLED,
    SLOWED,
    Arm,
    Armed,
    Collect,
    Collected,
    Conclude,
    Fire,
    Fired,
    Freeze,
    Frozen,
    Gather,
    Gathered,
    Marked,
    Order,
    Report,
    Send,
    Session,
    State,
)
from bothends_protocol.stages import Stage
from bothends_protocol.sweeps import MAX_LOSSY_SWEEPS
from bothends_protocol.wire import compress, pack
from evidence_builder import DROPPED, HERE, THERE, Story

MAX_STEPS = 20 * MAX_ROUNDS

FROM_SOURCE = Offer(typed=(THERE,), remote=THERE, proven=(THERE,), addresses=(HERE,))
FROM_DESTINATION = Offer(ports=("tcp:4242",), remote=HERE, proven=(HERE,), addresses=(THERE,))

changed = msgspec.structs.replace


def entropy(size: int) -> bytes:
    return bytes(range(size))


@dataclass
class World:
    """What happens to the attempts of a round, and whether the witnesses see it."""

    connects: bool = True
    seen: bool = True
    arrive: float = 1.0
    """Share of the requests that reach the destination."""
    told: bool = True
    """Whether the counters tell where a burst ends."""
    story: Story = field(default_factory=Story)

    def tried(self, plan: RoundPlan) -> tuple[Tried, ...]:
        count = plan.attempts
        connected = count if self.connects else 0
        return tuple(
            Tried(
                probe=probe,
                attempts=count,
                connected=connected,
                silent=count - connected,
                left=count if self.seen else None,
                told=Told(reached=(Stage.LEFT,)) if plan.kind == BURST else None,
            )
            for probe in plan.probes
        )

    def ports(self, plan: RoundPlan) -> tuple[SeenPort, ...]:
        arrived = int(plan.attempts * self.arrive) if self.seen else None
        return tuple(
            SeenPort(
                address=probe.address,
                port=probe.port,
                arrived=None if plan.kind == BURST else arrived,
                told=Told(missed=(Stage.ARRIVED,) if self.told else ())
                if plan.kind == BURST
                else None,
            )
            for probe in plan.probes
        )


@dataclass
class Side:
    """A session and a driver that carries out its orders at once."""

    session: Session
    world: World
    evidence: bytes
    conclusion: Conclude | None = None
    orders: list[Order] = field(default_factory=list)
    visited: dict[State, Session] = field(default_factory=dict)
    """A copy of the session in each state that it was in."""

    def note(self) -> None:
        if self.session.state not in self.visited:
            self.visited[self.session.state] = copy.deepcopy(self.session)

    def carry_out(self) -> list[Message]:
        """Do what was ordered; return the messages to send."""
        out: list[Message] = []
        while self.session.orders:
            self.note()
            order = self.session.orders.pop(0)
            self.orders.append(order)
            if isinstance(order, Send):
                out.append(order.message)
            elif isinstance(order, Conclude):
                self.conclusion = order
            elif not isinstance(order, Marked):
                self.session.report(self.answer(order))
        return out

    def answer(self, order: Order) -> Report:
        match order:
            case Arm(plan):
                return Armed(tuple((p.transport, p.address, p.port) for p in plan.probes))
            case Fire():
                return Fired()
            case Collect(plan):
                return Collected(self.world.ports(plan))
            case Gather(plan):
                return Gathered(self.world.tried(plan))
            case Freeze():
                return Frozen(self.evidence)
        raise AssertionError(order)


class Pair:
    """Both sides, and the messages between them in the order in which they were sent."""

    def __init__(
        self,
        world: World | None = None,
        source: Offer = FROM_SOURCE,
        destination: Offer = FROM_DESTINATION,
    ) -> None:
        world = world or World()
        offers = {SOURCE: source, DESTINATION: destination}
        evidence = dict(zip(offers, world.story.evidence(), strict=True))
        self.sides = {
            role: Side(Session(role, offer, entropy), world, pack(evidence[role]))
            for role, offer in offers.items()
        }
        self.source, self.destination = self.sides[SOURCE], self.sides[DESTINATION]
        self.trace: list[tuple[str, Message]] = []
        self.waiting: list[tuple[str, Message]] = []

    def step(self) -> bool:
        """Let both sides act, then deliver one message; return whether there was one."""
        for role, side in self.sides.items():
            self.waiting += [(role, message) for message in side.carry_out()]
        if not self.waiting:
            return False
        sender, message = self.waiting.pop(0)
        self.trace.append((sender, message))
        side = self.sides[other_role(sender)]
        side.session.receive(read_message(write_message(message)))
        side.note()
        return True

    def run(self, watch: Callable[[], None] = lambda: None) -> Pair:
        for _ in range(MAX_STEPS):
            if not self.step():
                return self
            watch()
        raise AssertionError("the run does not end")

    def names(self) -> list[str]:
        return [f"{role} {type(message).__name__}" for role, message in self.trace]

    def plans(self) -> list[RoundPlan]:
        return [message.plan for _, message in self.trace if isinstance(message, Round)]

    def agreed(self) -> bool:
        """Whether both sides hold the same verdict, to the byte."""
        ends = [side.conclusion for side in self.sides.values()]
        return len({pack(end.verdict) if end else None for end in ends} - {None}) == 1 and all(ends)


# -- a whole run


def test_a_run_from_the_offers_to_the_same_verdict() -> None:
    pair = Pair().run()
    assert pair.names() == [
        "source Offer",
        "destination Offer",
        "source Round",
        "destination Ready",
        "source Barrier",
        "destination Seen",
        "source Finish",
        *pair.names()[7:],
    ]
    assert sorted(pair.names()[7:]) == [
        "destination Agreed",
        "destination EvidencePart",
        "source Agreed",
        "source EvidencePart",
    ]
    assert pair.agreed()
    for side in pair.sides.values():
        assert side.session.state is State.CONCLUDED
        assert side.conclusion is not None
        assert side.conclusion.source.role == SOURCE
        assert side.conclusion.destination.role == DESTINATION
        assert side.conclusion.verdict.status == "open"


@pytest.mark.parametrize(
    ("seen", "kinds"), [(True, [MAPPED]), (False, [MAPPED, BURST])], ids=["seen", "unseen"]
)
def test_what_nobody_sees_come_in_by_request_is_sent_as_a_burst(
    kinds: list[str], *, seen: bool
) -> None:
    world = World(connects=False, seen=seen, arrive=0.0)
    outside = changed(FROM_DESTINATION, addresses=("192.168.1.20",), map=True)
    plans = Pair(world, destination=outside).run().plans()
    begins = [plan.kind for plan in plans].index(MAPPED)
    assert [plan.kind for plan in plans[begins:]] == kinds
    assert {plan.probes for plan in plans[begins:]} == {plans[0].probes}


def test_each_side_does_its_part_of_a_round() -> None:
    pair = Pair().run()
    kinds = {
        role: [type(order) for order in side.orders if not isinstance(order, Send)]
        for role, side in pair.sides.items()
    }
    assert kinds[SOURCE] == [Fire, Gather, Freeze, Conclude]
    assert kinds[DESTINATION] == [Arm, Collect, Freeze, Conclude]


def test_the_prober_learns_where_the_other_agent_itself_listens() -> None:
    pair = Pair().run()
    (fire,) = [order for order in pair.source.orders if isinstance(order, Fire)]
    assert fire.own == (("tcp", THERE, 4242),)


def test_evidence_larger_than_a_message_is_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "PART_SIZE", 100)
    pair = Pair(World(story=Story(fates=(DROPPED,) * 500))).run()
    parts = [m for role, m in pair.trace if role == SOURCE and isinstance(m, EvidencePart)]
    assert len(parts) > 1
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert pair.agreed()


def test_with_both_ways_the_destination_probes_too() -> None:
    pair = Pair(source=changed(FROM_SOURCE, both_ways=True)).run()
    assert [(plan.prober, plan.probes[0].address) for plan in pair.plans()] == [
        (SOURCE, THERE),
        (DESTINATION, HERE),
    ]
    assert [name for name in pair.names() if "Done" in name] == ["destination Done"]
    assert [type(o) for o in pair.source.orders if isinstance(o, Arm | Collect)] == [Arm, Collect]
    assert pair.agreed()


@pytest.mark.parametrize("world", [World(connects=False), World(connects=False, arrive=0.0)])
def test_the_way_back_is_planned_by_what_its_observer_saw(world: World) -> None:
    """Who leads observes there, and what it saw itself is as good as what it is told."""
    pair = Pair(world, source=changed(FROM_SOURCE, both_ways=True)).run()
    forth, back = (
        [(plan.kind, plan.attempts) for plan in pair.plans() if plan.prober == prober]
        for prober in (SOURCE, DESTINATION)
    )
    assert forth == back
    assert BURST not in dict(back)


def test_the_destination_may_ask_for_both_ways() -> None:
    pair = Pair(destination=changed(FROM_DESTINATION, both_ways=True)).run()
    assert [plan.prober for plan in pair.plans()] == [SOURCE, DESTINATION]


def test_rounds_are_numbered_in_the_order_of_announcement() -> None:
    wide = changed(FROM_DESTINATION, ports=(f"tcp:1-{MAX_PROBES + 1}",))
    pair = Pair(World(connects=False, arrive=0.4), destination=wide).run()
    numbers = [plan.number for plan in pair.plans()]
    assert len(numbers) > 2
    assert numbers == list(range(1, len(numbers) + 1))
    assert pair.source.session.rounds == pair.destination.session.rounds == pair.plans()


def test_losses_are_repeated_a_bounded_number_of_times() -> None:
    pair = Pair(World(connects=False, arrive=0.4)).run()
    attempts = sum(plan.attempts for plan in pair.plans() if plan.kind != BURST)
    assert ATTEMPTS < attempts <= MAX_ATTEMPTS
    assert pair.agreed()


def test_what_no_witness_has_seen_is_asked_by_a_burst() -> None:
    pair = Pair(World(connects=False, seen=False)).run()
    kinds = [plan.kind for plan in pair.plans()]
    assert kinds.index(BURST) == len(kinds) - 1
    names = pair.names()
    assert names[names.index("source Mark") + 1] == "source Barrier"
    assert sum(isinstance(order, Marked) for order in pair.destination.orders) == 1


def test_a_burst_that_told_nothing_is_sent_again_a_few_times() -> None:
    pair = Pair(World(connects=False, seen=False, told=False)).run()
    bursts = [plan for plan in pair.plans() if plan.kind == BURST]
    assert len(bursts) == MAX_SAME_BURSTS
    assert pair.agreed()


def test_bursts_are_few_however_many_ports_there_are() -> None:
    many = tuple(f"192.168.7.{last}" for last in range(100, 120))
    wide = changed(FROM_DESTINATION, ports=("tcp:1-20",))
    source = changed(FROM_SOURCE, proven=many)
    pair = Pair(World(connects=False, seen=False), source, wide).run()
    assert sum(plan.kind == BURST for plan in pair.plans()) == MAX_BURSTS


def test_when_time_is_up_the_run_ends_with_what_there_is() -> None:
    wide = changed(FROM_DESTINATION, ports=(f"tcp:1-{MAX_PROBES * 8}",))
    pair = Pair(destination=wide)
    pair.run(lambda: pair.source.session.hurry() if len(pair.plans()) == 2 else None)
    assert len(pair.plans()) == 2
    assert pair.agreed()


def test_when_time_is_up_before_the_first_round_nothing_is_probed() -> None:
    pair = Pair()
    pair.source.session.hurry()
    assert pair.run().plans() == []
    assert pair.agreed()


def test_with_no_ports_there_is_nothing_to_probe() -> None:
    pair = Pair(destination=Offer()).run()
    assert pair.plans() == []
    assert pair.agreed()


# -- out of turn

RECEIVES: dict[State, tuple[type, ...]] = {
    State.OFFERING: (Offer,),
    State.IDLE: (Round, Finish),
    State.ARMING: (),
    State.ARMED: (Mark, Barrier),
    State.COLLECTING: (),
    State.AWAITING_DONE: (Done,),
    State.AWAITING_READY: (Ready,),
    State.FIRING: (),
    State.AWAITING_SEEN: (Seen,),
    State.GATHERING: (),
    State.FREEZING: (EvidencePart,),
    State.EXCHANGING: (EvidencePart, Agreed),
    State.AGREEING: (Agreed,),
    State.CONCLUDED: (),
}
REPORTS: dict[State, type] = {
    State.ARMING: Armed,
    State.COLLECTING: Collected,
    State.FIRING: Fired,
    State.GATHERING: Gathered,
    State.FREEZING: Frozen,
}
ROLES_OF: dict[State, tuple[str, ...]] = {
    # Only the source leads: it is never idle, and alone waits for the other's outcomes.
    State.IDLE: (DESTINATION,),
    State.AWAITING_DONE: (SOURCE,),
}

PLAN = RoundPlan(
    number=1,
    kind="connect",
    prober=SOURCE,
    attempts=3,
    probes=(Probe(transport="tcp", address=THERE, port=4242),),
)
MESSAGES: list[Message] = [
    Bye(reason="timeout"),
    FROM_SOURCE,
    Round(plan=PLAN),
    Ready(number=1),
    Mark(number=1),
    Barrier(number=1),
    Seen(number=1),
    Done(number=1),
    Finish(),
    EvidencePart(data=b"", last=False),
    Agreed(source=b"", destination=b"", verdict=b""),
]
ANSWERS: list[Report] = [
    Armed(()),
    Fired(),
    Collected(()),
    Gathered(()),
    Frozen(b""),
]


@functools.cache
def visited() -> dict[tuple[str, State], Session]:
    """A session of each role in every state that a run in both directions takes it through."""
    pair = Pair(source=changed(FROM_SOURCE, both_ways=True)).run()
    return {(role, at): s for role, side in pair.sides.items() for at, s in side.visited.items()}


def session_in(role: str, state: State) -> Session:
    return copy.deepcopy(visited()[role, state])


in_every_state = pytest.mark.parametrize(
    ("role", "state"),
    [(role, state) for state in State for role in ROLES_OF.get(state, (SOURCE, DESTINATION))],
)


def test_both_roles_go_through_all_their_states() -> None:
    assert set(visited()) >= {
        (role, state) for state in State for role in ROLES_OF.get(state, (SOURCE, DESTINATION))
    }


@in_every_state
def test_a_message_out_of_turn_is_the_peers_fault(role: str, state: State) -> None:
    for message in MESSAGES:
        if type(message) in RECEIVES[state]:
            continue
        session = session_in(role, state)
        before = list(session.orders)
        with pytest.raises(ProtocolError, match=type(message).__name__):
            session.receive(message)
        assert session.state is state
        assert session.orders == before


@in_every_state
def test_a_report_out_of_turn_is_the_drivers_fault(role: str, state: State) -> None:
    for report in ANSWERS:
        if type(report) is not REPORTS.get(state):
            with pytest.raises(MisuseError, match=type(report).__name__):
                session_in(role, state).report(report)


@pytest.mark.parametrize(
    ("role", "state", "message"),
    [
        (DESTINATION, State.ARMED, Barrier(number=7)),
        (DESTINATION, State.ARMED, Mark(number=7)),
        (SOURCE, State.AWAITING_READY, Ready(number=7)),
        (SOURCE, State.AWAITING_SEEN, Seen(number=7)),
        (SOURCE, State.AWAITING_DONE, Done(number=7)),
    ],
)
def test_a_message_about_another_round_is_refused(
    role: str, state: State, message: Message
) -> None:
    with pytest.raises(ProtocolError, match="another round"):
        session_in(role, state).receive(message)


addresses = st.sampled_from([HERE, THERE, "10.0.0.1", "fe80::1%eth0", "nonsense", ""])
numbers = st.integers(-1, 3) | st.sampled_from([2**31, 2**63 - 1])
probes = st.builds(
    Probe,
    transport=st.sampled_from(["tcp", "udp", ""]),
    address=addresses,
    port=st.integers(0, 65535),
)
hostile = st.one_of(
    st.builds(
        Offer,
        ports=st.lists(
            st.sampled_from(["tcp:4242", "udp:1-9", "tcp:0", "", "x", "1-70000", "tcp:1-9,1-9"]),
            max_size=3,
        ).map(tuple),
        typed=st.lists(addresses, max_size=3).map(tuple),
        remote=addresses,
        proven=st.lists(addresses, max_size=3).map(tuple),
        both_ways=st.booleans(),
        timeout=st.floats(),
    ),
    st.builds(
        Round,
        plan=st.builds(
            RoundPlan,
            number=numbers,
            kind=st.sampled_from(["connect", "burst", "pinhole", "mapped", "flood", ""]),
            prober=st.sampled_from([SOURCE, DESTINATION, ""]),
            attempts=numbers,
            probes=st.lists(probes, max_size=3).map(tuple),
            pattern=st.text("01x", max_size=70),
            local_ports=st.lists(st.integers(0, 65535), max_size=4).map(tuple),
        ),
    ),
    st.builds(Ready, number=numbers),
    st.builds(Barrier, number=numbers),
    st.builds(
        Seen,
        number=numbers,
        ports=st.lists(
            st.builds(SeenPort, address=addresses, port=numbers, arrived=st.none() | numbers),
            max_size=3,
        ).map(tuple),
    ),
    st.builds(
        Done,
        number=numbers,
        tried=st.lists(
            st.builds(Tried, probe=probes, attempts=numbers, connected=numbers, silent=numbers),
            max_size=3,
        ).map(tuple),
    ),
    st.builds(EvidencePart, data=st.binary(max_size=40), last=st.booleans()),
    st.builds(Agreed, source=st.binary(max_size=4), destination=st.just(b""), verdict=st.just(b"")),
    st.sampled_from(MESSAGES),
)


@given(st.sampled_from(list(visited())), st.lists(hostile, min_size=1, max_size=4))
def test_any_messages_raise_only_protocol_errors_and_never_conclude(
    where: tuple[str, State], messages: list[Message]
) -> None:
    session = session_in(*where)
    before = session.state
    try:
        for message in messages:
            session.receive(message)
    except ProtocolError:
        return
    assert session.state is not State.CONCLUDED or before is State.CONCLUDED


# -- rounds that were not agreed to


def armed_destination(*, both_ways: bool = True) -> Session:
    """The destination's session when it waits for the first round."""
    session = Session(DESTINATION, changed(FROM_DESTINATION, both_ways=both_ways), entropy)
    session.receive(FROM_SOURCE)
    return session


HERE_4242 = (Probe(transport="tcp", address=HERE, port=4242),)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"number": 2}, "not the next one"),
        ({"number": 0}, "not the next one"),
        ({"probes": ()}, "nothing to probe"),
        ({"probes": HERE_4242 * (MAX_PROBES + 1)}, "too many probes"),
        ({"attempts": 0}, "no attempt"),
        ({"attempts": 1000}, "too many attempts"),
        ({"kind": "flood"}, "a kind that nobody knows"),
        ({"prober": "observer"}, "a role that there is not"),
        ({"pattern": "10"}, "a pattern where there is no burst"),
        ({"kind": BURST}, "a burst without a pattern"),
        ({"kind": BURST, "pattern": "10" * 500}, "a burst without end"),
        ({"kind": BURST, "pattern": "1 0"}, "a pattern that is none"),
        ({"kind": BURST, "pattern": "10", "probes": HERE_4242 * 2}, "a burst to two"),
    ],
)
def test_a_round_out_of_bounds_is_refused(changes: dict[str, object], why: str) -> None:
    session = armed_destination()
    with pytest.raises(ProtocolError):
        session.receive(Round(plan=changed(PLAN, **changes)))
    assert session.rounds == [], why


@pytest.mark.parametrize(
    ("address", "both_ways", "permitted"),
    [
        (HERE, True, True),
        (HERE, False, False),
        (f"::ffff:{HERE}", True, True),
        ("192.168.7.99", True, False),
        ("127.0.0.1", True, False),
        ("example.org", True, False),
    ],
)
def test_a_side_probes_only_what_its_user_typed_or_what_authenticated(
    address: str, *, both_ways: bool, permitted: bool
) -> None:
    session = armed_destination(both_ways=both_ways)
    back = changed(
        PLAN, prober=DESTINATION, probes=(Probe(transport="tcp", address=address, port=4242),)
    )
    if permitted:
        session.receive(Round(plan=back))
        assert session.rounds == [back]
        return
    with pytest.raises(ProtocolError, match="not agreed"):
        session.receive(Round(plan=back))


def test_the_peers_word_alone_never_makes_the_source_probe_a_third_address() -> None:
    lying = changed(FROM_DESTINATION, addresses=("192.168.7.99",), proven=("192.168.7.98",))
    pair = Pair(destination=lying).run()
    assert {probe.address for plan in pair.plans() for probe in plan.probes} == {THERE}


def test_an_address_that_was_confirmed_is_probed_where_nothing_authenticated() -> None:
    unmet = changed(FROM_SOURCE, typed=(), remote="", proven=(), confirmed=("11.0.0.1",))
    pair = Pair(source=unmet, destination=changed(FROM_DESTINATION, remote="", proven=())).run()
    assert {probe.address for plan in pair.plans() for probe in plan.probes} == {"11.0.0.1"}


@pytest.mark.parametrize("confirmed", [(), ("11.0.0.1",)])
def test_a_follower_probes_what_was_confirmed_to_itself(confirmed: tuple[str, ...]) -> None:
    # What the leader holds confirmed says nothing about what this side may probe.
    mine = changed(FROM_DESTINATION, both_ways=True, confirmed=confirmed)
    session = Session(DESTINATION, mine, entropy)
    session.receive(changed(FROM_SOURCE, confirmed=("11.0.0.2",)))
    back = changed(
        PLAN, prober=DESTINATION, probes=(Probe(transport="tcp", address="11.0.0.1", port=4242),)
    )
    if confirmed:
        session.receive(Round(plan=back))
        assert session.rounds == [back]
    for address in ("11.0.0.1", "11.0.0.2") if not confirmed else ():
        probes = (Probe(transport="tcp", address=address, port=4242),)
        with pytest.raises(ProtocolError, match="not agreed"):
            session.receive(Round(plan=changed(back, probes=probes)))


def test_a_target_is_probed_before_the_peers_own_address() -> None:
    target = Target(text="nas", addresses=("11.0.0.1",))
    pair = Pair(source=changed(FROM_SOURCE, targets=(target,))).run()
    assert [probe.address for probe in pair.plans()[0].probes] == ["11.0.0.1", THERE]


@pytest.mark.parametrize("ports", ["0", "70000", "sctp:1", "", "9-1", "tcp:1;rm"])
@pytest.mark.parametrize("role", [SOURCE, DESTINATION])
def test_an_offer_of_ports_that_are_none_is_refused(role: str, ports: str) -> None:
    session = Session(role, Offer(), entropy)
    with pytest.raises(ProtocolError, match="ports"):
        session.receive(changed(FROM_DESTINATION, ports=(ports,)))


def test_an_offer_of_more_ports_than_there_are_is_refused() -> None:
    session = Session(SOURCE, FROM_SOURCE, entropy)
    with pytest.raises(ProtocolError, match="ports"):
        session.receive(changed(FROM_DESTINATION, ports=("tcp:1-65535", "tcp:1-65535")))


def test_an_offer_cannot_make_this_side_plan_without_end() -> None:
    greedy = changed(
        FROM_DESTINATION,
        ports=("tcp:1-4096",),
        typed=tuple(f"10.0.{number}.1" for number in range(50)),
        both_ways=True,
    )
    session = Session(SOURCE, Offer(), entropy)
    with contextlib.suppress(ProtocolError):
        session.receive(greedy)
    assert len(session._queue) <= MAX_ROUNDS


# -- rounds for which a side first opens its own router

OUTSIDE = "11.0.0.1"
TO_OUTSIDE = changed(
    FROM_SOURCE, targets=(Target(text=OUTSIDE, addresses=(OUTSIDE,)),), typed=(), proven=()
)
SILENT = World(connects=False, arrive=0.0)
OPENING = changed(PLAN, kind=PINHOLE, local_ports=(30_000, 30_001, 30_002))
ASKING = changed(PLAN, kind=MAPPED)


def kinds(pair: Pair) -> list[str]:
    return [plan.kind for plan in pair.plans() if plan.kind != BURST]


def test_a_router_that_lets_nothing_in_is_opened_from_inside_last() -> None:
    pair = Pair(SILENT, source=TO_OUTSIDE).run()
    assert kinds(pair)[-1] == PINHOLE
    assert kinds(pair).count(PINHOLE) == 1
    assert pair.agreed()
    (arm,) = [o for o in pair.destination.orders if isinstance(o, Arm) and o.plan.kind == PINHOLE]
    assert arm.plan.local_ports == pair.plans()[-1].local_ports
    assert [plan.number for plan in pair.plans()] == list(range(1, len(pair.plans()) + 1))


def test_no_router_is_opened_where_the_address_is_the_destinations_own() -> None:
    assert PINHOLE not in kinds(Pair(SILENT).run())
    assert PINHOLE not in kinds(Pair(source=TO_OUTSIDE).run())


def test_many_ports_make_few_pinholes() -> None:
    wide = changed(FROM_DESTINATION, ports=("tcp:1-20",))
    assert kinds(Pair(SILENT, TO_OUTSIDE, wide).run()).count(PINHOLE) == MAX_PINHOLES


@pytest.mark.parametrize("source", [True, False])
@pytest.mark.parametrize("destination", [True, False])
def test_a_router_is_asked_only_where_its_own_user_wants_it(
    *, source: bool, destination: bool
) -> None:
    pair = Pair(
        SILENT, changed(TO_OUTSIDE, map=source), changed(FROM_DESTINATION, map=destination)
    ).run()
    assert (MAPPED in kinds(pair)) == destination
    assert kinds(pair)[-1] == (MAPPED if destination else PINHOLE)
    assert pair.agreed()


def test_with_both_ways_each_router_is_opened() -> None:
    there = changed(FROM_DESTINATION, both_ways=True, confirmed=("11.0.0.9",), remote="", proven=())
    pair = Pair(SILENT, changed(TO_OUTSIDE, map=True), changed(there, map=True)).run()
    told = [(plan.prober, plan.kind) for plan in pair.plans() if plan.kind in (PINHOLE, MAPPED)]
    assert told == [
        (SOURCE, PINHOLE),
        (SOURCE, MAPPED),
        (DESTINATION, PINHOLE),
        (DESTINATION, MAPPED),
    ]
    assert pair.agreed()


def test_nothing_is_opened_when_time_is_up() -> None:
    pair = Pair(SILENT, source=changed(TO_OUTSIDE))
    pair.run(pair.source.session.hurry)
    assert PINHOLE not in kinds(pair)


def test_what_comes_through_an_opening_is_not_tried_again() -> None:
    pair = Pair(SILENT, TO_OUTSIDE, changed(FROM_DESTINATION, map=True)).run()
    assert kinds(pair)[-2:] == [PINHOLE, MAPPED]
    assert CONNECT not in kinds(pair)[kinds(pair).index(PINHOLE) :]


def test_a_destination_opens_its_router_for_whoever_it_paired_with() -> None:
    session = armed_destination(both_ways=False)
    session.receive(Round(plan=OPENING))
    assert session.rounds == [OPENING]


def test_a_destination_asks_its_router_for_nothing_that_its_user_did_not_want() -> None:
    session = armed_destination()
    with pytest.raises(ProtocolError, match="not agreed"):
        session.receive(Round(plan=ASKING))
    assert session.rounds == []
    assert not [order for order in session.orders if isinstance(order, Arm)]
    wanted = Session(DESTINATION, changed(FROM_DESTINATION, map=True), entropy)
    wanted.receive(FROM_SOURCE)
    wanted.receive(Round(plan=ASKING))
    assert wanted.rounds == [ASKING]


@pytest.mark.parametrize("plan", [OPENING, ASKING], ids=["opened", "asked"])
@pytest.mark.parametrize(
    "changes",
    [
        {"probes": (Probe(transport="tcp", address=THERE, port=22),)},
        {"probes": (Probe(transport="udp", address=THERE, port=4242),)},
        {"local_ports": (30_000, 30_001, 80)},
        {"local_ports": (30_000,)},
        {"probes": PLAN.probes * 5},
        {"pattern": "01"},
        {"prober": DESTINATION},
    ],
)
def test_an_opening_that_was_not_agreed_to_is_refused(
    plan: RoundPlan, changes: dict[str, object]
) -> None:
    session = Session(DESTINATION, changed(FROM_DESTINATION, map=True), entropy)
    session.receive(FROM_SOURCE)
    with pytest.raises(ProtocolError, match="not agreed"):
        session.receive(Round(plan=changed(plan, **changes)))
    assert session.rounds == []


@pytest.mark.parametrize(("plan", "most"), [(OPENING, 2 * MAX_PINHOLES), (ASKING, 4)])
def test_a_router_is_opened_a_few_times_in_a_run_whatever_the_leader_wants(
    plan: RoundPlan, most: int
) -> None:
    session = Session(DESTINATION, changed(FROM_DESTINATION, map=True), entropy)
    session.receive(FROM_SOURCE)
    for number in range(1, most + 1):
        session.receive(Round(plan=changed(plan, number=number)))
        session.report(Armed(()))
        session.receive(Barrier(number=number))
        session.report(Collected(()))
    with pytest.raises(ProtocolError, match="not agreed"):
        session.receive(Round(plan=changed(plan, number=most + 1)))


# -- rounds that say what share of connections fails

CONTROL = 24242
MEASURING = changed(
    PLAN,
    kind=LOSS,
    attempts=LOSS_ATTEMPTS,
    probes=(Probe(transport="tcp", address=THERE, port=CONTROL),),
)
ANSWERING = changed(FROM_DESTINATION, control_port=CONTROL)


@dataclass
class Lossy(World):
    """Some requests are answered and some are not; across a router, or on one segment."""

    silent: int = 1
    routed: bool = False
    resent: int = 0

    def tried(self, plan: RoundPlan) -> tuple[Tried, ...]:
        return tuple(
            changed(
                item,
                connected=item.attempts - self.silent,
                silent=self.silent,
                routed=self.routed,
            )
            for item in super().tried(plan)
        )


class Resending(Side):
    """A side whose contact has to send again."""

    def answer(self, order: Order) -> Report:
        report = super().answer(order)
        if isinstance(report, Collected | Gathered):
            return changed(report, resent=1)
        return report


def test_where_some_requests_fail_a_sample_is_taken_and_loss_is_measured_last() -> None:
    pair = Pair(Lossy(), destination=ANSWERING).run()
    assert kinds(pair)[-2:] == [SAMPLE, LOSS]
    assert pair.plans()[-1].probes == MEASURING.probes
    assert pair.agreed()


def test_on_a_clean_segment_nothing_more_is_sent() -> None:
    pair = Pair(Lossy(silent=0), destination=ANSWERING).run()
    assert set(kinds(pair)) == {CONNECT}


def test_across_a_router_a_sample_is_taken_and_loss_is_not_measured() -> None:
    pair = Pair(Lossy(silent=0, routed=True), destination=ANSWERING).run()
    assert kinds(pair)[-1] == SAMPLE


@pytest.mark.parametrize("role", [SOURCE, DESTINATION])
def test_a_contact_that_sends_again_makes_loss_be_measured(role: str) -> None:
    pair = Pair(World(connects=False), destination=ANSWERING)
    pair.sides[role].__class__ = Resending
    pair.run()
    assert kinds(pair)[-1] == LOSS
    assert pair.agreed()


def test_a_destination_that_does_not_say_where_it_waits_is_not_asked() -> None:
    assert LOSS not in kinds(Pair(Lossy()).run())


def test_with_both_ways_loss_is_measured_in_both_directions() -> None:
    there = changed(ANSWERING, both_ways=True)
    pair = Pair(Lossy(), changed(FROM_SOURCE, control_port=CONTROL), there).run()
    assert [plan.prober for plan in pair.plans() if plan.kind == LOSS] == [SOURCE, DESTINATION]


def test_loss_is_measured_at_the_control_port_alone() -> None:
    session = Session(DESTINATION, ANSWERING, entropy)
    session.receive(FROM_SOURCE)
    other = (Probe(transport="tcp", address=THERE, port=4242),)
    with pytest.raises(ProtocolError, match="not agreed"):
        session.receive(Round(plan=changed(MEASURING, probes=other)))
    with pytest.raises(ProtocolError, match="not agreed"):
        session.receive(Round(plan=changed(MEASURING, attempts=LOSS_ATTEMPTS + 1)))
    session.receive(Round(plan=MEASURING))
    assert session.rounds == [MEASURING]


# -- evidence and agreement


def exchanging() -> Session:
    """The source's session once its own evidence is out."""
    return session_in(SOURCE, State.EXCHANGING)


def state_of(session: Session) -> State:
    return session.state


def send(session: Session, evidence: Evidence | bytes) -> None:
    data = evidence if isinstance(evidence, bytes) else pack(evidence)
    session.receive(EvidencePart(data=compress(data), last=True))


SOURCE_EVIDENCE, DESTINATION_EVIDENCE = Story().evidence()


def test_the_evidence_of_the_other_side_is_judged() -> None:
    session = exchanging()
    send(session, DESTINATION_EVIDENCE)
    assert state_of(session) is State.AGREEING


@pytest.mark.parametrize(
    "evidence",
    [
        changed(DESTINATION_EVIDENCE, session=b"another"),
        SOURCE_EVIDENCE,
        changed(DESTINATION_EVIDENCE, format="bothends-evidence/2"),
        b"",
        b"\xc1",
        pack(DESTINATION_EVIDENCE)[:-1],
        pack(DESTINATION_EVIDENCE) + b"\x00",
    ],
    ids=["another run", "of the same role", "format", "empty", "garbage", "cut", "more"],
)
def test_other_evidence_is_refused(evidence: Evidence | bytes) -> None:
    session = exchanging()
    with pytest.raises(ProtocolError):
        send(session, evidence)
    assert state_of(session) is State.EXCHANGING


def test_evidence_that_grows_beyond_all_bounds_when_unpacked_is_refused() -> None:
    with pytest.raises(ProtocolError, match="larger than allowed"):
        send(exchanging(), bytes(MAX_EVIDENCE + 1))


def test_evidence_without_end_is_refused() -> None:
    session = exchanging()
    part = EvidencePart(data=bytes(MAX_EVIDENCE // 4), last=False)
    for _ in range(4):
        session.receive(part)
    with pytest.raises(ProtocolError, match="more evidence"):
        session.receive(EvidencePart(data=b"x", last=False))


def test_nothing_may_follow_the_last_part() -> None:
    session = session_in(SOURCE, State.FREEZING)
    send(session, DESTINATION_EVIDENCE)
    with pytest.raises(ProtocolError, match="more evidence"):
        send(session, DESTINATION_EVIDENCE)


def test_evidence_that_comes_early_is_kept() -> None:
    session = session_in(SOURCE, State.FREEZING)
    send(session, DESTINATION_EVIDENCE)
    assert state_of(session) is State.FREEZING
    session.report(Frozen(pack(SOURCE_EVIDENCE)))
    assert state_of(session) is State.AGREEING


@pytest.mark.parametrize("field_", ["source", "destination", "verdict"])
def test_no_joint_verdict_without_the_same_digests(field_: str) -> None:
    session = exchanging()
    session.orders.clear()
    send(session, DESTINATION_EVIDENCE)
    (order,) = session.orders
    assert isinstance(order, Send)
    assert isinstance(order.message, Agreed)
    with pytest.raises(ProtocolError, match="same verdict"):
        session.receive(changed(order.message, **{field_: bytes(32)}))
    assert state_of(session) is State.AGREEING
    session.receive(order.message)
    assert state_of(session) is State.CONCLUDED


def test_an_agreement_that_comes_before_the_evidence_must_still_fit() -> None:
    session = exchanging()
    session.receive(Agreed(source=bytes(32), destination=bytes(32), verdict=bytes(32)))
    with pytest.raises(ProtocolError, match="same verdict"):
        send(session, DESTINATION_EVIDENCE)


# -- thousands of ports


MANY = changed(FROM_DESTINATION, ports=("tcp:1000-9999", "udp:53"), room=4000)
SWEEPER = changed(FROM_SOURCE, room=9000)


@dataclass
class SweptWorld(World):
    """Ports that drop what comes, and one of which the first request is lost; the rest accept."""

    dropped: range = range(2000, 3000)
    lost: int = 5000
    icmp: bool = False
    requests: list[int] = field(default_factory=list)

    def came(self, plan: RoundPlan) -> Swept | None:
        if plan.kind != SWEEP:
            return None
        ports = set(swept_ports(plan)) - self._missed(plan)
        taken = ports.difference(self.dropped)
        return swept_record(plan, arrived=ports, accepted=taken, taken=taken)

    def sent(self, plan: RoundPlan) -> Swept | None:
        if plan.kind != SWEEP:
            return None
        ports, refused = set(swept_ports(plan)), set(self.dropped[:3] if self.icmp else ())
        silent = (ports & {*self.dropped} | self._missed(plan)) - refused
        self.requests += sorted(ports)
        connected = ports - silent - refused
        return swept_record(
            plan, connected=connected, silent=silent, icmp=refused & ports, left=ports
        )

    def _missed(self, plan: RoundPlan) -> set[int]:
        first = self.lost not in self.requests
        return {self.lost} & set(swept_ports(plan)) if first else set()


@dataclass
class ChequeredWorld(SweptWorld):
    """Ports of which every other one drops what comes."""

    def came(self, plan: RoundPlan) -> Swept | None:
        return self._record(plan, at_sender=False)

    def sent(self, plan: RoundPlan) -> Swept | None:
        self.requests += swept_ports(plan) if plan.kind == SWEEP else ()
        return self._record(plan, at_sender=True)

    @staticmethod
    def _record(plan: RoundPlan, *, at_sender: bool) -> Swept | None:
        if plan.kind != SWEEP:
            return None
        ports = set(swept_ports(plan))
        shut = {port for port in ports if port // 7 % 2}
        if at_sender:
            return swept_record(plan, connected=ports - shut, silent=shut, left=ports)
        return swept_record(plan, arrived=ports, accepted=ports - shut, taken=ports - shut)


@dataclass
class LossyWorld(SweptWorld):
    """Each wave has a segment or two of the contact sent again."""

    resent: int = 0


@dataclass
class UnseenWorld(LossyWorld):
    """The same where nobody sees packets."""

    def came(self, plan: RoundPlan) -> Swept | None:
        if plan.kind != SWEEP:
            return None
        ports = set(swept_ports(plan))
        return swept_record(plan, own=ports, taken=ports.difference(self.dropped))


def swept_record(plan: RoundPlan, **sets: Iterable[int]) -> Swept:
    packed = {name: pack_ports(ports) for name, ports in sets.items()}
    return Swept(round=plan.number, transport="tcp", address=THERE, sets=packed)


class Sweeper(Side):
    """A side of such a world."""

    def answer(self, order: Order) -> Report:
        report = super().answer(order)
        world = self.world
        assert isinstance(world, SweptWorld)
        if isinstance(order, Collect):
            if isinstance(world, LossyWorld):
                world.resent += 2
                report = changed(report, resent=world.resent)
            return changed(report, swept=world.came(order.plan))
        if isinstance(order, Gather):
            return changed(report, swept=world.sent(order.plan))
        return report


def swept(
    world: SweptWorld | None = None, source: Offer = SWEEPER, destination: Offer = MANY
) -> Pair:
    pair = Pair(world or SweptWorld(), source, destination)
    for side in pair.sides.values():
        side.__class__ = Sweeper
    return pair.run()


def in_depth(pair: Pair) -> list[int]:
    return [p.port for plan in pair.plans() if plan.kind == CONNECT for p in plan.probes]


def test_of_thousands_of_ports_each_gets_a_request_and_a_few_are_tested_in_depth() -> None:
    world = SweptWorld()
    pair = swept(world)
    assert pair.agreed()
    sweeps = [plan for plan in pair.plans() if plan.kind == SWEEP]
    # No more at one time than both sides have room for; what was lost is asked again.
    assert [len(swept_ports(plan)) for plan in sweeps] == [4000, 4000, 1000, 1]
    assert sorted(world.requests) == sorted([*range(1000, 10_000), 5000])
    assert sorted(set(in_depth(pair))) == [53, 1000, 2000, 2499, 2999, 5999, 9999]


@pytest.mark.parametrize(("room", "all_ports"), [(70, True), (69, False)])
def test_with_few_sockets_all_ports_get_a_request_where_that_takes_few_waves(
    room: int, *, all_ports: bool
) -> None:
    world = SweptWorld()
    swept(world, source=changed(SWEEPER, room=room))
    assert (len(set(world.requests)) == 9000) is all_ports


def test_of_many_waves_not_each_is_made_again_while_packets_are_lost() -> None:
    world = UnseenWorld(dropped=range(1000, 10_000))
    pair = swept(world, source=changed(SWEEPER, room=70))
    assert pair.agreed()
    # Three times is what fits; six would leave no room for anything else.
    assert len(world.requests) == 3 * 9000
    assert len(pair.plans()) < MAX_ROUNDS
    assert in_depth(pair)


def test_what_stays_silent_is_asked_more_often_while_packets_are_lost() -> None:
    unseen = UnseenWorld()
    swept(unseen)
    assert unseen.requests.count(2500) == MAX_LOSSY_SWEEPS
    assert unseen.requests.count(1500) == 1


def test_fewer_ports_are_all_tested_in_depth() -> None:
    few = changed(MANY, ports=(f"tcp:1001-{1000 + SWEEP_FROM - 1}",))
    pair = swept(destination=few)
    assert SWEEP not in kinds(pair)
    assert set(in_depth(pair)) == set(range(1001, 1000 + SWEEP_FROM))


def test_what_may_refuse_once_a_second_is_tested_port_by_port() -> None:
    pair = swept(SweptWorld(icmp=True))
    rounds = [plan for plan in pair.plans() if plan.kind == CONNECT and plan.attempts == ATTEMPTS]
    assert len(rounds) > 6
    assert {len(plan.probes) for plan in rounds} == {1}


def test_across_a_router_a_sample_of_the_ports_gets_requests() -> None:
    world = SweptWorld()
    pair = swept(world, source=changed(SWEEPER, routed=True))
    assert pair.agreed()
    sweeps = [plan for plan in pair.plans() if plan.kind == SWEEP]
    assert SAMPLED - 10 < len(swept_ports(sweeps[0])) <= SAMPLED
    assert {plan.rate for plan in sweeps} == {ROUTED_RATE}
    # Where the ports fared differently it is known to the port.
    assert {1999, 2000, 2999, 3000} <= set(world.requests)
    assert len(world.requests) < SAMPLED + 50


@pytest.mark.parametrize(("ports", "swept_at_once"), [(256, 0), (257, 257), (512, 512), (513, 0)])
def test_across_a_router_few_ports_all_get_a_request(ports: int, swept_at_once: int) -> None:
    world = SweptWorld()
    few = changed(MANY, ports=(f"tcp:3001-{3000 + ports}",))
    pair = swept(world, source=changed(SWEEPER, routed=True), destination=few)
    if swept_at_once:
        assert len(world.requests) == swept_at_once
    else:
        assert len(world.requests) < 256 + 2
        assert (SWEEP in kinds(pair)) is (ports > 512)


def test_across_a_router_programs_are_in_the_sample() -> None:
    world = SweptWorld()
    held = changed(MANY, held=pack_ports([1234, 5678]))
    swept(world, source=changed(SWEEPER, routed=True), destination=held)
    assert {1234, 5678} <= set(world.requests)


def test_where_much_differs_a_router_gets_no_more_requests_than_it_bears() -> None:
    world = ChequeredWorld()
    pair = swept(world, source=changed(SWEEPER, routed=True))
    assert pair.agreed()
    assert MAX_ROUTED - 300 < len(world.requests) <= MAX_ROUTED


@pytest.mark.parametrize(
    ("here", "there", "all_ports"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_all_get_requests_across_a_router_where_both_users_say_so(
    *, here: bool, there: bool, all_ports: bool
) -> None:
    world = SweptWorld()
    source = changed(SWEEPER, routed=True, fast=here)
    swept(world, source=source, destination=changed(MANY, fast=there))
    assert (len(set(world.requests)) == 9000) is all_ports


@pytest.mark.parametrize(
    ("ports", "rate", "permitted"),
    [
        (range(1000, 1500), ROUTED_RATE, True),
        (range(1000, 1500), ROUTED_RATE + 1, False),
        (range(1000, 1500), 0, False),
        (range(1000, 2001 + MAX_ROUTED), ROUTED_RATE, False),
    ],
    ids=["as agreed", "too fast", "without a pace", "too many"],
)
def test_a_leader_that_does_not_spare_the_router_is_refused(
    ports: range, rate: int, *, permitted: bool
) -> None:
    session = Session(DESTINATION, changed(MANY, routed=True), entropy)
    session.receive(SWEEPER)
    plan = changed(sweep_rounds(1, SOURCE, THERE, ports, 4000)[0], rate=rate)
    with contextlib.nullcontext() if permitted else pytest.raises(ProtocolError, match="agreed"):
        session.receive(Round(plan=plan))


def test_where_packets_are_lost_the_pace_is_taken_back() -> None:
    pair = swept()
    rates = [plan.rate for plan in pair.plans() if plan.kind == SWEEP]
    # Nothing was known of it before the one that was lost was asked again.
    assert rates == [0, 0, 0, 0]
    slower = swept(LossyWorld())
    rates = [plan.rate for plan in slower.plans() if plan.kind == SWEEP]
    assert rates[:4] == [0, *SLOWED, SLOWED[-1]]


def test_fewer_ports_are_swept_where_a_free_one_is_sought() -> None:
    few = changed(MANY, ports=("tcp:1001-1065",), suggest=True)
    assert SWEEP in kinds(swept(destination=few))
    fewer = changed(MANY, ports=("tcp:1001-1064",), suggest=True)
    assert SWEEP not in kinds(swept(destination=fewer))


def test_an_offer_whose_held_ports_are_none_is_refused() -> None:
    session = Session(SOURCE, SWEEPER, entropy)
    with pytest.raises(ProtocolError):
        session.receive(changed(MANY, held=b"nonsense"))


def test_with_both_ways_both_directions_are_swept() -> None:
    world = SweptWorld()
    pair = swept(world, destination=changed(MANY, both_ways=True))
    probers = {plan.prober for plan in pair.plans() if plan.kind == SWEEP}
    assert probers == {SOURCE, DESTINATION}
    assert pair.agreed()


def test_when_time_is_up_a_sweep_ends_with_what_there_is() -> None:
    pair = Pair(SweptWorld(), SWEEPER, MANY)
    for side in pair.sides.values():
        side.__class__ = Sweeper
    pair.source.session.hurry()
    pair.run()
    assert pair.agreed()
    assert not pair.plans()


def test_a_sweep_of_ports_that_nobody_named_is_refused() -> None:
    session = Session(DESTINATION, MANY, entropy)
    session.receive(SWEEPER)
    wrong = sweep_rounds(1, SOURCE, THERE, range(900, 1100), 4000)[0]
    with pytest.raises(ProtocolError, match="not agreed"):
        session.receive(Round(plan=wrong))


@pytest.mark.parametrize("packed", [b"nonsense", pack_ports(range(1, MAX_WAVE + 2))])
def test_what_is_no_set_of_ports_is_the_peers_fault(packed: bytes) -> None:
    session = Session(SOURCE, SWEEPER, entropy)
    session.receive(MANY)
    session.receive(Ready(number=1))
    session.report(Fired())
    bad = Swept(round=1, transport="tcp", address=THERE, sets={"arrived": packed})
    with pytest.raises(ProtocolError):
        session.receive(Seen(number=1, swept=bad))
    session = Session(SOURCE, SWEEPER, entropy)
    session.receive(MANY)
    with pytest.raises(ProtocolError):
        session.receive(Ready(number=1, spare=packed))
