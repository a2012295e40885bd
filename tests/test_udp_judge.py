"""From evidence to verdict by UDP: what is named, what is left open, and what is never claimed.

The stories of `evidence_builder`, told of datagrams, with what the counters of both sides show of a
coded burst.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import msgspec
import pytest

from bothends_protocol.bursts import PER_WINDOW, WINDOW_SECONDS, WINDOWS, make_pattern
from bothends_protocol.counted import view_burst
from bothends_protocol.evidence import (
    Burst,
    Evidence,
    HopProbe,
    Icmp,
    Probe,
    Queue,
    RoundPlan,
    Samples,
    Sighting,
    Sized,
    Target,
)
from bothends_protocol.judge import judge
from bothends_protocol.messages import SeenPort, Tried
from bothends_protocol.observations import by_port, observe
from bothends_protocol.plan import (
    MAX_PROBES,
    Tally,
    burst_probes,
    first_round,
    mapped_rounds,
    pinhole_rounds,
    unseen_through_mapping,
    well_formed,
)
from bothends_protocol.sizes import CONTROL, NATURAL, TO
from bothends_protocol.stages import Stage
from bothends_protocol.verdict import Check, Verdict
from evidence_builder import DROPPED, HERE, LOST, OPEN, PORT, ROUTER, THERE, Fate, Story

UNANSWERED = replace(OPEN, answer="", returned="", outcome="silent")
"""It came to a socket, and nothing came of it."""
ANSWERED = replace(OPEN, spoke="other")
PUBLIC = "11.0.0.1"
"""Of the router before the destination."""
KEPT = replace(LOST, left=False)
TOLD_BY_ITSELF = replace(KEPT, outcome="local-error", error="EPERM")
"""What its own system says of a datagram that its filter drops."""

SENT = ("Ip.OutRequests", "Ip.OutTransmits", "Udp.OutDatagrams", "dev.tx")
CAME = ("dev.rx", "Ip.InReceives")
IN = (*CAME, "Ip.InDelivers")
READ = (*IN, "Udp.InDatagrams")
STILL = (
    "Icmp.OutRateLimitHost",
    "Ip.ForwDatagrams",
    "Ip.OutDiscards",
    "Ip.OutNoRoutes",
    "Ip6.InReceives",
    "Ip6.OutForwDatagrams",
    "Ip6.OutNoRoutes",
    "Ip6.OutTransmits",
    "TcpExt.IPReversePathFilter",
    "Udp.InErrors",
    "Udp.NoPorts",
    "Udp.RcvbufErrors",
)
"""Counters that most bursts do not move."""


def refused(sender: str, code: int = 3) -> Fate:
    return replace(
        DROPPED,
        answer="icmp" if sender == THERE else "",
        returned="" if sender == HERE else "icmp",
        outcome="refused" if code == 3 else "unreachable",
        error="ECONNREFUSED" if code == 3 else "EHOSTUNREACH",
        icmp=Icmp(kind=3, code=code, sender=sender),
        left=sender != HERE,
        arrived=sender == THERE,
    )


def _datagram(seen: Sighting) -> Sighting:
    return msgspec.structs.replace(seen, transport="udp", flags="", seq=0, ack=0, mss=0)


def by_udp(evidence: Evidence) -> Evidence:
    """The same, of datagrams."""
    change = msgspec.structs.replace

    def all_of(records: Iterable[object], **more: object) -> tuple[object, ...]:
        return tuple(change(r, transport="udp", **more) for r in records)  # type: ignore[type-var]

    attempts = []
    for a in evidence.attempts:
        spoke = "other" if a.outcome == "connected" and a.spoke == "nothing" else a.spoke
        attempts.append(change(a, transport="udp", spoke=spoke))
    rounds = (change(r, probes=all_of(r.probes)) for r in evidence.rounds)
    return change(
        evidence,
        ports=tuple(text.replace("tcp", "udp") for text in evidence.ports),
        rounds=tuple(rounds),
        attempts=tuple(attempts),
        sightings=tuple(map(_datagram, evidence.sightings)),
        own_listeners=all_of(evidence.own_listeners),
        acceptances=all_of(evidence.acceptances, genuine=True),
        listeners=all_of(evidence.listeners, waiting=None, backlog=None),
        service_listeners=all_of(evidence.service_listeners),
        connections=(),
    )


def _burst() -> Burst:
    pattern = make_pattern(random.Random(1).randbytes)
    sends = [
        window * WINDOW_SECONDS + number / 10_000
        for window, full in enumerate(pattern)
        for number in range(PER_WINDOW if full == "1" else 0)
    ]
    return Burst(round=2, transport="udp", address=THERE, port=PORT, sends=tuple(sends))


def _samples(sent: Burst, passed: Iterable[str], *, lacks: Iterable[str] = ()) -> Samples:
    times = [at * 0.004 - 0.02 for at in range(round((WINDOWS * WINDOW_SECONDS + 0.06) / 0.004))]
    moved = set(passed)
    names = dict.fromkeys((*SENT, *READ, *STILL, *moved))
    return Samples(
        round=2,
        times=tuple(times),
        values={
            name: tuple(
                sum(at <= moment for at in sent.sends) if name in moved else 0 for moment in times
            )
            for name in names
            if name not in set(lacks)
        },
        prompt=("rx", "tx"),
    )


@dataclass(frozen=True)
class Counts:
    """The counters that the burst moves on the source and on the destination."""

    source: tuple[str, ...]
    destination: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    """What the destination's kernel does not count."""


DROPPED_THERE = Counts(SENT, CAME)
LOST_BETWEEN = Counts(SENT, ())
TAKEN = Counts(SENT, READ)
WAITS = Counts(SENT, IN)
ANSWERS = Counts((*SENT, *IN), (*READ, *SENT))
ANSWER_KEPT = Counts(SENT, (*READ, "Ip.OutRequests", "Ip.OutDiscards"))
ANSWER_LOST = Counts(SENT, (*READ, *SENT))
ANSWER_DROPPED = Counts((*SENT, *CAME), (*READ, *SENT))
UNTOLD = Counts(SENT, READ, ("Udp.OutDatagrams",))
OLD_KERNEL = Counts(SENT, READ, ("Ip.OutTransmits",))
OLD_KEPT = Counts(SENT, (*READ, "Ip.OutDiscards"), ("Ip.OutTransmits",))


def told(story: Story, counts: Counts | None = None, *more: Queue) -> Verdict:
    source, destination = map(by_udp, story.evidence())
    if counts is not None:
        there = story.to or THERE
        sent = msgspec.structs.replace(_burst(), address=there)
        plan = RoundPlan(
            number=2,
            kind="burst",
            prober="source",
            attempts=PER_WINDOW,
            probes=(Probe(transport="udp", address=there, port=PORT),),
        )
        change = msgspec.structs.replace
        source = change(
            source,
            rounds=(*source.rounds, plan),
            bursts=(sent,),
            samples=(_samples(sent, counts.source),),
        )
        destination = change(
            destination,
            rounds=(*destination.rounds, plan),
            samples=(_samples(sent, counts.destination, lacks=counts.lacks),),
        )
    destination = msgspec.structs.replace(destination, queues=more)
    return judge(source, destination)


def check_of(story: Story, counts: Counts | None = None, *more: Queue) -> Check:
    (check,) = told(story, counts, *more).checks
    return check


def codes(check: Check) -> list[str]:
    return [blocker.code for blocker in check.blockers]


def fates(fate: Fate, **more: object) -> Story:
    return Story(fates=(fate,) * 3, **more)  # type: ignore[arg-type]


BLIND = {"source_sees": False, "destination_sees": False}
NOBODY: dict[str, tuple[str, ...]] = {"listening": ()}
FIFTEEN = 15

BLOCKED: list[tuple[str, Callable[..., Story], Counts | None, list[str]]] = [
    (
        "drop, own listener",
        lambda **see: fates(DROPPED, **NOBODY, **see),
        DROPPED_THERE,
        ["destination.firewall-drop", "service.not-running"],
    ),
    (
        "drop, service",
        lambda **see: fates(DROPPED, **see),
        DROPPED_THERE,
        ["destination.firewall-drop"],
    ),
    ("closed", lambda **see: fates(OPEN, **NOBODY, **see), None, ["service.not-running"]),
    (
        "loopback only",
        lambda **see: fates(OPEN, listening=("127.0.0.1",), **see),
        None,
        ["service.loopback-only"],
    ),
    (
        "refused by a filter",
        lambda **see: fates(refused(THERE, 13), **see),
        None,
        ["destination.firewall-reject"],
    ),
    (
        "refused by a filter as if closed",
        lambda **see: fates(refused(THERE), **see),
        None,
        ["destination.firewall-reject"],
    ),
    (
        "refused by its own filter",
        lambda **see: fates(refused(HERE, 13), **see),
        None,
        ["source.firewall-reject"],
    ),
    (
        "dropped by its own filter",
        lambda **see: fates(TOLD_BY_ITSELF, **see),
        None,
        ["source.firewall-drop"],
    ),
    (
        "refused between",
        lambda **see: fates(refused(ROUTER, 13), **see),
        None,
        ["network.reject"],
    ),
    (
        "answer kept, before Linux 6.7",
        lambda **see: fates(UNANSWERED, **see),
        OLD_KEPT,
        ["destination.reply-blocked"],
    ),
    (
        "answer kept",
        lambda **see: fates(UNANSWERED, **see),
        ANSWER_KEPT,
        ["destination.reply-blocked"],
    ),
]


@pytest.mark.parametrize("see", [{}, BLIND], ids=["seen", "users"])
@pytest.mark.parametrize(
    ("story", "counts", "expected"), [row[1:] for row in BLOCKED], ids=[row[0] for row in BLOCKED]
)
def test_what_blocks_is_named_with_and_without_packets(
    story: Callable[..., Story],
    counts: Counts | None,
    expected: list[str],
    see: dict[str, bool],
) -> None:
    check = check_of(story(**see), counts)
    assert codes(check) == expected
    assert check.status == "blocked"


@pytest.mark.parametrize(
    ("fate", "counts", "expected"),
    [
        (replace(LOST), LOST_BETWEEN, "network.drop"),
        (replace(UNANSWERED, answer="answer"), ANSWER_LOST, "network.reply-lost"),
        (
            replace(UNANSWERED, answer="answer", returned="answer"),
            ANSWER_DROPPED,
            "source.reply-blocked",
        ),
    ],
)
@pytest.mark.parametrize("see", [{}, BLIND], ids=["seen", "users"])
def test_between_the_hosts_and_on_the_way_back(
    fate: Fate, counts: Counts, expected: str, see: dict[str, bool]
) -> None:
    assert codes(check_of(Story(fates=(fate,) * FIFTEEN, **see), counts)) == [expected]  # type: ignore[arg-type]


@pytest.mark.parametrize("see", [{}, BLIND], ids=["seen", "users"])
@pytest.mark.parametrize("counts", [TAKEN, OLD_KERNEL])
def test_a_service_that_stays_silent_is_open(counts: Counts, see: dict[str, bool]) -> None:
    check = check_of(fates(UNANSWERED, **see), counts)
    assert (check.status, check.reachable, codes(check)) == ("open", "yes", [])
    assert any("stay silent" in note for note in check.notes)


@pytest.mark.parametrize("see", [{}, BLIND], ids=["seen", "users"])
@pytest.mark.parametrize("counts", [None, UNTOLD])
def test_where_nobody_saw_whether_it_answers_nothing_is_claimed(
    counts: Counts | None, see: dict[str, bool]
) -> None:
    check = check_of(fates(UNANSWERED, **see), counts)
    assert (check.status, check.reachable, codes(check)) == ("undetermined", "unknown", [])
    assert "destination.reply-blocked" in check.candidates
    assert "--payload" in check.next_step


def test_a_filter_that_lets_single_datagrams_through_is_not_blamed() -> None:
    """It limits the rate: programs read what single datagrams brought, and the burst stopped."""
    source, destination = map(by_udp, fates(UNANSWERED).evidence())
    sent = _burst()
    plan = RoundPlan(
        number=2,
        kind="burst",
        prober="source",
        attempts=PER_WINDOW,
        probes=(Probe(transport="udp", address=THERE, port=PORT),),
    )
    source = msgspec.structs.replace(
        source, rounds=(*source.rounds, plan), bursts=(sent,), samples=(_samples(sent, SENT),)
    )
    # What bothends itself read, of its contact, says nothing of programs.
    for read, own, expected in (
        (3, 0, []),
        (1, 0, ["destination.firewall-drop"]),
        (5, 5, ["destination.firewall-drop"]),
        (8, 5, []),
    ):
        counted: dict[str, tuple[int, ...]] = {
            "Udp.InDatagrams": (70, 70 + read),
            "own.Udp.InDatagrams": (2, 2 + own),
        }
        single = Samples(round=1, times=(0.0, 0.1), values=counted)
        there = msgspec.structs.replace(
            destination,
            rounds=(*destination.rounds, plan),
            samples=(single, _samples(sent, CAME)),
        )
        (check,) = judge(source, there).checks
        assert codes(check) == expected


@pytest.mark.parametrize(("lost", "blamed"), [(0, False), (3, True), (-3, True)])
def test_single_datagrams_are_lost_where_a_burst_is(lost: int, *, blamed: bool) -> None:
    """Where IP handed all of the single ones on, it is the number that the filter minds."""
    source, destination = map(by_udp, fates(UNANSWERED).evidence())
    sent = _burst()
    plan = RoundPlan(
        number=2,
        kind="burst",
        prober="source",
        attempts=PER_WINDOW,
        probes=(Probe(transport="udp", address=THERE, port=PORT),),
    )
    source = msgspec.structs.replace(
        source, rounds=(*source.rounds, plan), bursts=(sent,), samples=(_samples(sent, SENT),)
    )
    # The host is busy with others, whom its IP hands on; no program reads so much at once.
    counted: dict[str, tuple[int, ...]] = {
        "Udp.InDatagrams": (70, 72),
        "Ip.InReceives": (900, 1700),
        "Ip.InDelivers": (800, 1600 - lost),
        "Ip.ForwDatagrams": (0, 0),
    }
    single = Samples(round=1, times=(0.0, 0.1), values=counted)
    there = msgspec.structs.replace(
        destination,
        rounds=(*destination.rounds, plan),
        samples=(single, _samples(sent, CAME)),
    )
    (check,) = judge(source, there).checks
    assert codes(check) == (["destination.firewall-drop"] if blamed else [])


@pytest.mark.parametrize("see", [{}, BLIND], ids=["seen", "users"])
def test_a_port_that_the_host_leads_elsewhere_is_not_blocked(see: dict[str, bool]) -> None:
    """To another port of it, say: our own listener on this one gets nothing."""
    check = check_of(fates(DROPPED, **NOBODY, **see), TAKEN)
    assert (check.status, codes(check)) == ("open", [])
    assert any("led to another socket" in note for note in check.notes)


def _queue(**more: object) -> Queue:
    fields = {"before": 0, "after": 2304, "read": False, "watched": 1.5, **more}
    return Queue(round=1, transport="udp", address="0.0.0.0", port=PORT, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("see", [{}, BLIND], ids=["seen", "users"])
def test_a_program_that_reads_nothing_hangs(see: dict[str, bool]) -> None:
    check = check_of(fates(UNANSWERED, **see), WAITS, _queue())
    assert codes(check) == ["service.hung"]
    assert check.blockers[0].confidence == "proven"
    behind = check_of(fates(DROPPED, **see), DROPPED_THERE, _queue(after=768))
    assert codes(behind) == ["destination.firewall-drop", "service.hung"]


@pytest.mark.parametrize(
    "queue",
    [_queue(after=0), _queue(read=True), _queue(watched=0.5), _queue(before=5000)],
    ids=["empty", "read", "not watched for long", "shorter than before"],
)
def test_a_program_that_may_read_does_not_hang(queue: Queue) -> None:
    assert check_of(fates(UNANSWERED, **BLIND), TAKEN, queue).status == "open"


@pytest.mark.parametrize("see", [{}, BLIND], ids=["seen", "users"])
def test_an_answer_is_open_where_the_destination_saw_it_come(see: dict[str, bool]) -> None:
    assert check_of(fates(ANSWERED, **see), ANSWERS).status == "open"


def test_an_answer_that_nobody_saw_leave_the_destination_proves_nothing() -> None:
    by_another = replace(ANSWERED, arrived=False, delivered=False, answer="")
    check = check_of(fates(by_another, **BLIND))
    assert (check.status, codes(check)) == ("undetermined", [])
    assert "network.proxy" in check.candidates


def test_a_closed_port_below_1024_of_an_ordinary_user() -> None:
    """Its own kernel says so where bothends may not listen."""
    story = fates(refused(THERE), **NOBODY, own=False, **BLIND)
    assert codes(check_of(story)) == ["service.not-running"]


def test_causes_that_only_tcp_has_are_never_named() -> None:
    for fate in (UNANSWERED, DROPPED, ANSWERED):
        for counts in (None, TAKEN, WAITS, DROPPED_THERE):
            found = told(fates(fate, queue=(200, 10)), counts)
            named = {*found.blockers, *found.candidates}
            assert not named & {"service.backlog-full", "service.closes"}


def test_a_queue_that_is_full_is_a_socket_that_was_reached() -> None:
    full = (*IN, "Udp.InErrors", "Udp.RcvbufErrors")
    sent = _burst()
    view = view_burst(sent, _samples(sent, SENT), _samples(sent, full), taken=None)
    assert view.reached[Stage.DELIVERED] is True
    assert view.overflowed is True


@pytest.mark.parametrize("counter", ["Udp.NoPorts", "Udp.InErrors"])
def test_what_no_socket_took_was_not_delivered(counter: str) -> None:
    sent = _burst()
    view = view_burst(sent, None, _samples(sent, (*IN, counter)), taken=None)
    assert Stage.DELIVERED not in view.reached
    assert view.refused is (counter == "Udp.NoPorts")


# -- where on the way


def _asked(hop: int, outcome: str, port: int, transport: str = "udp") -> HopProbe:
    return HopProbe(
        round=1,
        transport=transport,
        address=THERE,
        port=port,
        hops=hop,
        outcome=outcome,
        icmp=Icmp(kind=11, code=0, sender=f"10.0.{hop}.2") if outcome == "expired" else None,
    )


def _traced(last: int, transport: str = "udp") -> tuple[HopProbe, ...]:
    """Across three routers, of which datagrams to the tested port get past so many."""
    mine = [_asked(hop, "expired", PORT, transport) for hop in range(1, last + 1)]
    mine += [_asked(last + 1, "silent", PORT, transport)] * 5
    others = [_asked(hop, "expired", 24242, transport) for hop in range(1, 4)]
    return (*mine, *others, _asked(4, "connected", 24242, transport))


@pytest.mark.parametrize("last", [1, 2])
def test_datagrams_that_end_at_a_hop_do_not_arrive(last: int) -> None:
    """Ordinary users know it by the hops alone."""
    story = Story(fates=(LOST,) * FIFTEEN, hop_probes=_traced(last), **BLIND)  # type: ignore[arg-type]
    check = check_of(story)
    assert codes(check) == ["network.drop"]
    assert "A datagram that was to end at the first router did" in check.blockers[0].because[0]
    assert f"hop {last}, 10.0.{last}.2" in " ".join(check.blockers[0].because)


def test_that_nothing_answers_at_the_end_of_the_way_says_nothing() -> None:
    story = Story(fates=(UNANSWERED,) * FIFTEEN, hop_probes=_traced(3), **BLIND)  # type: ignore[arg-type]
    plain = replace(story, hop_probes=())
    assert codes(check_of(story, UNTOLD)) == []
    assert check_of(story, UNTOLD).candidates == check_of(plain, UNTOLD).candidates
    assert check_of(story, TAKEN).status == "open"


def test_hops_of_the_other_transport_say_nothing() -> None:
    story = Story(fates=(UNANSWERED,) * FIFTEEN, hop_probes=_traced(1, "tcp"), **BLIND)  # type: ignore[arg-type]
    assert check_of(story, UNTOLD) == check_of(replace(story, hop_probes=()), UNTOLD)
    tcp = Story(fates=(LOST,) * FIFTEEN, hop_probes=_traced(1), **BLIND)  # type: ignore[arg-type]
    assert judge(*tcp.evidence()).checks == judge(*replace(tcp, hop_probes=()).evidence()).checks


# -- through a router that translates


def test_behind_a_router_that_translates_nothing_of_it_is_claimed() -> None:
    """Nothing shows where the datagrams end."""
    public = PUBLIC
    for fate in (UNANSWERED, LOST, refused(public), refused(ROUTER, 13)):
        story = replace(fates(fate, source_sees=True), to=public, typed=(public,))
        check = check_of(story)
        assert check.status == "undetermined"
        assert codes(check) == []
    dropped = replace(fates(TOLD_BY_ITSELF), to=public, typed=(public,))
    assert codes(check_of(dropped)) == ["source.firewall-drop"]


@pytest.mark.parametrize(
    ("fate", "counts", "named"),
    [
        (LOST, DROPPED_THERE, ["destination.firewall-drop"]),
        (UNANSWERED, ANSWER_KEPT, ["destination.reply-blocked"]),
    ],
)
def test_what_counters_show_to_come_in_is_the_destinations_own(
    fate: Fate, counts: Counts, named: list[str]
) -> None:
    story = Story(fates=(fate,) * FIFTEEN, to=PUBLIC, typed=(PUBLIC,), **BLIND)  # type: ignore[arg-type]
    assert codes(check_of(story, counts)) == named


def test_an_own_listener_behind_a_router_was_asked_nothing_and_answers_nothing() -> None:
    story = Story(fates=(UNANSWERED,) * 3, to=PUBLIC, typed=(PUBLIC,), **NOBODY, **BLIND)  # type: ignore[arg-type]
    assert codes(check_of(story, TAKEN)) == ["service.not-running"]


def test_a_port_that_the_destination_refuses_while_somebody_waits_is_another_one() -> None:
    story = Story(fates=(refused(PUBLIC),) * 3, to=PUBLIC, typed=(PUBLIC,), **BLIND)  # type: ignore[arg-type]
    closed = Counts(SENT, (*IN, "Udp.NoPorts", "Icmp.OutDestUnreachs"))
    assert codes(check_of(story, closed)) == ["nat.wrong-port"]
    # The same word of a filter: no socket was missing.
    kept = Counts(SENT, CAME, ("Udp.NoPorts",))
    assert "nat.wrong-port" not in codes(check_of(story, kept))


def test_a_source_behind_a_router_is_not_taken_for_lost() -> None:
    """The destination sees another address and another port than the source used."""
    story = fates(UNANSWERED, seen_as="192.168.7.99", **NOBODY)
    assert codes(check_of(story)) in ([], ["service.not-running"])


# -- both transports


def test_a_port_of_tcp_and_one_of_udp_are_two_things() -> None:
    """The same ports at both ends, and nothing of the one tells of the other."""
    tcp = Story(fates=(OPEN,) * 3).evidence()
    udp = tuple(map(by_udp, fates(DROPPED, **NOBODY).evidence()))

    def joined(one: Evidence, other: Evidence) -> Evidence:
        names = ("attempts", "sightings", "own_listeners", "acceptances", "listeners")
        both = {name: (*getattr(one, name), *getattr(other, name)) for name in names}
        later = [msgspec.structs.replace(r, number=2) for r in other.rounds]
        return msgspec.structs.replace(
            one, rounds=(*one.rounds, *later), ports=(*one.ports, *other.ports), **both
        )

    pair = [joined(one, other) for one, other in zip(tcp, udp, strict=True)]
    verdict = judge(*pair)
    found = {check.transport: (check.status, codes(check)) for check in verdict.checks}
    assert found == {
        "tcp": ("open", []),
        "udp": ("blocked", ["destination.firewall-drop", "service.not-running"]),
    }
    assert set(by_port(pair[0])) == {("tcp", PORT), ("udp", PORT)}
    assert observe(pair[0], pair[1], ("udp", THERE, PORT)).transport == "udp"


def test_silence_beside_many_refusals_is_no_drop() -> None:
    """Linux sends six ICMP errors at once and then one a second (icmp_ratelimit)."""
    ports = (PORT, PORT + 1, PORT + 2)
    silent = replace(DROPPED, arrived=True)
    story = Story(
        fates=(refused(THERE, 13),) * 3,
        ports=ports,
        by_port={PORT + 2: (silent,) * 3},
        listening=(),
    )
    found = {check.ports: check for check in told(story).checks}
    assert codes(found["4242-4243"]) == ["destination.firewall-reject", "service.not-running"]
    assert codes(found["4244"]) == ["service.not-running"]
    assert {"destination.firewall-drop", "destination.firewall-reject"} <= set(
        found["4244"].candidates
    )


# -- the plan


def test_a_round_has_one_transport() -> None:
    plans = first_round(1, "source", [THERE], ["tcp:4242", "udp:4000-4299", "tcp:80"])
    assert [len(plan.probes) for plan in plans] == [2, MAX_PROBES, 300 - MAX_PROBES]
    for plan in plans:
        assert len({probe.transport for probe in plan.probes}) == 1
        assert well_formed(plan)
    mixed = msgspec.structs.replace(plans[0], probes=(*plans[0].probes[:1], *plans[1].probes[:1]))
    assert not well_formed(mixed)


def test_a_router_is_opened_for_datagrams_that_nobody_answers() -> None:
    away = Probe(transport="udp", address=PUBLIC, port=PORT)
    rng = random.Random(1).randbytes
    for tally, wanted in (
        (Tally(attempts=3, silent=3), True),
        (Tally(attempts=3, connected=1, silent=2), False),
    ):
        plans = pinhole_rounds(1, "source", [(away, tally)], [THERE], rng)
        plans += mapped_rounds(2, "source", [(away, tally)], [THERE])
        assert [plan.kind for plan in plans] == (["pinhole", "mapped"] if wanted else [])
        assert all(map(well_formed, plans))
    assert pinhole_rounds(1, "source", [(away, Tally(attempts=3, silent=3))], [PUBLIC], rng) == []
    for kind in ("sample", "loss"):
        plan = RoundPlan(number=1, kind=kind, prober="source", attempts=3, probes=(away,))
        assert not well_formed(plan)


def test_the_ports_of_each_transport_are_mapped_in_a_round_of_their_own() -> None:
    silent = Tally(attempts=3, silent=3)
    probes = [Probe(transport=t, address=PUBLIC, port=PORT) for t in ("tcp", "udp")]
    plans = mapped_rounds(5, "source", [(probe, silent) for probe in probes], [THERE])
    assert [(plan.number, plan.probes) for plan in plans] == [(5, (probes[0],)), (6, (probes[1],))]
    assert all(map(well_formed, plans))


def test_who_answers_through_a_mapping_need_not_be_the_destination() -> None:
    for transport, wanted in (("udp", True), ("tcp", False)):
        probe = Probe(transport=transport, address=PUBLIC, port=PORT)
        tried = Tried(probe=probe, attempts=3, connected=3, silent=0)
        seen = SeenPort(address=PUBLIC, port=PORT)
        assert unseen_through_mapping([tried], [seen]) == ([probe] if wanted else [])


@pytest.mark.parametrize(
    ("tally", "wanted"),
    [
        (Tally(attempts=3, silent=3, left=3, arrived=3, answered=0), True),
        (Tally(attempts=3, silent=3, left=3, arrived=3, answered=0, delivered=0), True),
        (Tally(attempts=3, silent=3, left=3, arrived=3, answered=3, delivered=3), False),
        (Tally(attempts=15, silent=15, left=15, arrived=0), False),
        (Tally(attempts=15, silent=15), True),
        (Tally(attempts=3, connected=1), True),
        (Tally(attempts=3, connected=1, arrived=3), False),
        (Tally(attempts=1, connected=1, explained=1), False),
    ],
)
def test_a_burst_is_for_what_single_datagrams_do_not_show(tally: Tally, *, wanted: bool) -> None:
    probe = Probe(transport="udp", address=THERE, port=PORT)
    assert bool(burst_probes([(probe, tally)])) is wanted


def test_large_segments_of_tcp_say_nothing_of_datagrams() -> None:
    source, destination = map(by_udp, fates(ANSWERED).evidence())

    def row(packet: int, passed: int) -> Sized:
        return Sized(
            address=THERE,
            local=HERE,
            way=TO,
            asked=NATURAL if packet > CONTROL + 40 else CONTROL,
            packet=packet,
            begun=12,
            passed=passed,
            seconds=0.001 if passed else 0.0,
            watched=0.0 if passed else 0.6,
        )

    black_hole = (row(1500, 0), row(CONTROL + 40, 12))
    verdict = judge(msgspec.structs.replace(source, sized=black_hole), destination)
    assert (verdict.status, verdict.blockers, verdict.warnings) == ("open", (), ())
    by_tcp = judge(*fates(OPEN).evidence())
    assert by_tcp.status == "open"
    tcp_source, tcp_destination = fates(OPEN).evidence()
    swallowed = judge(msgspec.structs.replace(tcp_source, sized=black_hole), tcp_destination)
    assert swallowed.blockers == ("network.mtu",)


def test_of_a_name_a_silent_service_is_one_that_counts() -> None:
    def named(first: str, second: str) -> Check:
        dead = replace(LOST, outcome="silent")
        name = Target(text="nas", addresses=(first, second))
        story = fates(UNANSWERED, targets=(name,), typed=(), **BLIND)
        away = fates(dead, targets=(name,), typed=(), to=DEAD, first=50, **BLIND)
        source, destination = map(by_udp, story.evidence())
        other, _ = map(by_udp, away.evidence())
        rounds = (*source.rounds, *(msgspec.structs.replace(r, number=9) for r in other.rounds))
        attempts = tuple(msgspec.structs.replace(a, round=9) for a in other.attempts)
        sent = _burst()
        change = msgspec.structs.replace
        source = change(
            source,
            rounds=rounds,
            attempts=(*source.attempts, *attempts),
            bursts=(sent,),
            samples=(_samples(sent, TAKEN.source),),
        )
        destination = change(
            destination, samples=(_samples(sent, TAKEN.destination, lacks=TAKEN.lacks),)
        )
        verdict = judge(source, destination)
        assert (verdict.status, verdict.blockers) == ("open", ())
        (check,) = [check for check in verdict.checks if check.primary]
        return check

    for order in ((THERE, DEAD), (DEAD, THERE)):
        check = named(*order)
        assert check.address == THERE
        assert not any("None of them" in note for note in check.notes)


DEAD = "192.168.7.99"
