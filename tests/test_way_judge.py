"""What is said of the way between: where requests and answers end, proxies, shares of them."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from bothends_protocol.evidence import (
    Attempt,
    Connection,
    Evidence,
    HopProbe,
    Icmp,
    Neighbour,
    Probe,
    RoundPlan,
)
from bothends_protocol.judge import judge
from bothends_protocol.plan import CERTAIN, HALF_OPEN, LOSS, LOSS_ATTEMPTS, SAMPLE
from bothends_protocol.shares import LEAST_TRIES
from bothends_protocol.verdict import Verdict
from evidence_builder import CARD, HERE, LOST, OPEN, PORT, THERE, Fate, Story

CONTROL, SAMPLED, MEASURED = 24242, 8, 9
ROUTERS = ("10.0.0.2", "10.0.1.2", "10.0.2.2")
END = len(ROUTERS) + 1
ELSEWHERE = dataclasses.replace(OPEN, arrived=False, delivered=False, answer="", spoke="other")
"""Answered by something that is not the destination."""
UNANSWERED = dataclasses.replace(OPEN, returned="", outcome="silent")

changed = msgspec.structs.replace


def asked(
    hop: int, outcome: str, *, port: int = PORT, address: str = THERE, local_port: int = 0
) -> HopProbe:
    sender = Icmp(kind=11, code=0, sender=ROUTERS[hop - 1]) if outcome == "expired" else None
    return HopProbe(
        round=1,
        transport="tcp",
        address=address,
        port=port,
        hops=hop,
        outcome=outcome,
        icmp=sender,
        local_port=local_port,
    )


def traced(last: int, end: str = "silent", **more: object) -> tuple[HopProbe, ...]:
    """Requests to the tested port get past so many routers; those to the control port all the way.

    `end` is the outcome behind the last of them.
    """
    mine = [asked(hop, "expired", **more) for hop in range(1, last + 1)]  # type: ignore[arg-type]
    mine += [asked(last + 1, end, **more)] * 5  # type: ignore[arg-type]
    address = str(more.get("address", THERE))
    others = [asked(hop, "expired", port=CONTROL, address=address) for hop in range(1, END)]
    return (*mine, *others, asked(END, "connected", port=CONTROL, address=address))


def routed(fate: Fate, *, probes: tuple[HopProbe, ...] = (), users: bool = False) -> Story:
    """Requests that all share one fate, across three routers."""
    return Story(
        fates=(fate,) * CERTAIN,
        hop_probes=probes,
        source_sees=not users,
        destination_sees=not users,
        neighbour=Neighbour(
            destination=THERE, next_hop=ROUTERS[0], interface="eth0", state="reachable", round=1
        ),
    )


def because(verdict: Verdict) -> str:
    return " ".join(text for c in verdict.checks for b in c.blockers for text in b.because)


# -- where they end


@pytest.mark.parametrize(
    ("last", "named"),
    [
        (0, ["the source's first router (hop 1, 10.0.0.2)"]),
        (
            1,
            [
                "the source's first router (hop 1, 10.0.0.2)",
                "the router (hop 2, 10.0.1.2)",
            ],
        ),
        (2, ["the router (hop 2, 10.0.1.2)", "the last router before the destination (hop 3, "]),
        (3, ["before the destination (hop 3, 10.0.2.2)", "the destination itself"]),
    ],
)
def test_a_filter_is_placed_between_two_hops(last: int, named: list[str]) -> None:
    verdict = judge(*routed(LOST, probes=traced(last)).evidence())
    assert verdict.blockers == ("network.drop",)
    assert all(name in because(verdict) for name in named)
    assert because(verdict).count("(hop ") == len([name for name in named if "hop" in name])


def test_without_a_trace_no_place_is_named() -> None:
    verdict = judge(*routed(LOST).evidence())
    assert verdict.blockers == ("network.drop",)
    assert "hop" not in because(verdict)


def test_what_arrives_ends_at_no_hop() -> None:
    kept = dataclasses.replace(LOST, arrived=True)
    verdict = judge(*routed(kept, probes=traced(3)).evidence())
    assert verdict.blockers == ("destination.firewall-drop",)
    assert "hop" not in because(verdict)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_ordinary_users_learn_from_the_hops_that_requests_do_not_arrive(last: int) -> None:
    verdict = judge(*routed(LOST, probes=traced(last), users=True).evidence())
    before_end = last + 1 < END
    assert ("destination.firewall-drop" in verdict.candidates) == (not before_end)
    assert verdict.blockers == (("network.drop",) if before_end else ())


def test_a_refusal_of_no_name_is_placed_too() -> None:
    refused = dataclasses.replace(LOST, outcome="refused", error="ECONNREFUSED", returned="reset")
    verdict = judge(*routed(refused, probes=traced(1, "refused")).evidence())
    assert verdict.blockers == ("network.reject",)
    assert "are refused in one of the two" in because(verdict)


@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_answers_are_placed_by_who_sends_them(last: int) -> None:
    source, destination = routed(UNANSWERED).evidence()
    back = traced(last, address=HERE, local_port=PORT, port=40_000)
    verdict = judge(source, changed(destination, back_probes=back))
    assert verdict.blockers == ("network.reply-lost",)
    assert "Packets from this port of the destination" in because(verdict)
    assert ("the source itself" in because(verdict)) == (last == 3)


# -- something between takes the connections


@pytest.mark.parametrize("users", [False, True])
def test_a_connection_that_comes_about_too_early_is_a_proxys(*, users: bool) -> None:
    early = traced(1, "connected")
    story = routed(ELSEWHERE, probes=early, users=users)
    verdict = judge(*story.evidence())
    assert verdict.blockers == ("network.proxy",)
    assert "come about at the router (hop 2, 10.0.1.2) already" in because(verdict)
    loopback = dataclasses.replace(story, listening=("127.0.0.1",))
    assert judge(*loopback.evidence()).blockers == ("network.proxy", "service.loopback-only")


def test_what_never_reaches_the_destination_is_a_proxys_where_the_contact_does() -> None:
    assert judge(*routed(ELSEWHERE).evidence()).blockers == ("network.proxy",)
    source, destination = routed(ELSEWHERE).evidence()
    unproven = changed(source, contact=changed(source.contact, remote="", proven=()))
    assert judge(unproven, destination).blockers == ()


def test_a_missing_row_alone_is_no_proxy() -> None:
    verdict = judge(*routed(ELSEWHERE, users=True).evidence())
    assert (verdict.status, verdict.blockers) == ("undetermined", ())
    assert "network.proxy" in verdict.candidates


def test_a_connection_at_the_destinations_own_hop_is_no_proxys() -> None:
    at_end = (*traced(3)[:3], asked(END, "connected"), *traced(3)[8:])
    verdict = judge(*routed(ELSEWHERE, probes=at_end, users=True).evidence())
    assert verdict.blockers == ()


@pytest.mark.parametrize(("came", "is_open"), [(HALF_OPEN, True), (HALF_OPEN - 1, False)])
def test_as_many_connections_of_another_are_passed_on(came: int, *, is_open: bool) -> None:
    story = dataclasses.replace(
        routed(ELSEWHERE, probes=traced(1, "connected"), users=True), fates=(ELSEWHERE,) * HALF_OPEN
    )
    source, destination = story.evidence()
    rows = tuple(
        Connection(
            round=1,
            transport="tcp",
            state="ESTABLISHED",
            local_address=THERE,
            local_port=PORT,
            remote_address=ROUTERS[1],
            remote_port=50_000 + number,
            accepted=True,
        )
        for number in range(came)
    )
    verdict = judge(source, changed(destination, connections=rows))
    assert verdict.status == ("open" if is_open else "blocked")
    (check,) = verdict.checks
    assert any("passes them on" in note for note in check.notes) == is_open


# -- shares


def round_of(kind: str, number: int, port: int) -> RoundPlan:
    return RoundPlan(
        number=number,
        kind=kind,
        prober="source",
        attempts=1,
        probes=(Probe(transport="tcp", address=THERE, port=port),),
    )


def tries(number: int, port: int, outcomes: list[tuple[int, str]]) -> tuple[Attempt, ...]:
    return tuple(
        Attempt(
            round=number,
            transport="tcp",
            address=THERE,
            port=port,
            local_address=HERE,
            local_port=local_port,
            started=0.0,
            ended=None,
            outcome=outcome,
        )
        for local_port, outcome in outcomes
    )


def with_round(
    pair: tuple[Evidence, Evidence], plan: RoundPlan, outcomes: list[tuple[int, str]]
) -> tuple[Evidence, Evidence]:
    source, destination = pair
    port = plan.probes[0].port
    return (
        changed(
            source,
            rounds=(*source.rounds, plan),
            attempts=(*source.attempts, *tries(plan.number, port, outcomes)),
        ),
        changed(destination, rounds=(*destination.rounds, plan)),
    )


def sampled(story: Story, tried: int) -> tuple[Evidence, Evidence]:
    """From eight ports connections come about, from eight others none in so many tries."""
    outcomes = [(20_000 + number, "connected") for number in range(8)]
    outcomes += [(30_000 + number % 8, "silent") for number in range(tried)]
    plan = changed(
        round_of(SAMPLE, SAMPLED, PORT), local_ports=tuple(sorted({port for port, _ in outcomes}))
    )
    return with_round(story.evidence(), plan, outcomes)


def measured(story: Story, silent: int) -> tuple[Evidence, Evidence]:
    outcomes = [(n, "silent" if n < silent else "connected") for n in range(LOSS_ATTEMPTS)]
    return with_round(story.evidence(), round_of(LOSS, MEASURED, CONTROL), outcomes)


def test_what_fails_for_ever_on_some_paths_is_a_warning() -> None:
    verdict = judge(*sampled(routed(OPEN), LEAST_TRIES))
    assert (verdict.status, verdict.warnings) == ("open", ("network.partial",))
    assert any("parallel paths" in note for note in verdict.checks[0].notes)
    few = judge(*sampled(routed(OPEN), LEAST_TRIES - 1))
    assert (few.status, few.warnings) == ("open", ())


def test_requests_that_took_the_filtered_path_are_no_loss() -> None:
    some = dataclasses.replace(routed(OPEN), fates=(OPEN, LOST, LOST, LOST, OPEN))
    assert judge(*some.evidence()).warnings == ("network.loss",)
    assert judge(*sampled(some, LEAST_TRIES)).warnings == ("network.partial",)


@pytest.mark.parametrize("fate", [OPEN, LOST])
def test_loss_is_a_warning_alone_and_on_top_of_a_filter(fate: Fate) -> None:
    verdict = judge(*measured(routed(fate), 12))
    assert verdict.warnings == ("network.loss",)
    assert verdict.blockers == judge(*routed(fate).evidence()).blockers
    assert any("between 7% and 20%" in note for note in verdict.checks[0].notes)
    assert judge(*measured(routed(fate), 0)).warnings == ()


def test_what_is_sent_to_measure_makes_no_check_of_its_own() -> None:
    plain = judge(*routed(LOST).evidence())
    for more in (sampled(routed(LOST), 3), measured(routed(LOST), 3)):
        verdict = judge(*more)
        assert [check.ports for check in verdict.checks] == [str(PORT)]
        assert verdict.checks[0].blockers == plain.checks[0].blockers


STRANGER = "02:00:5e:00:00:99"


def test_the_hardware_address_tells_a_proxy_from_another_machine_on_one_network() -> None:
    def with_card(card: str | None) -> tuple[str, ...]:
        near = Neighbour(
            destination=THERE,
            next_hop=THERE,
            interface="eth0",
            state="reachable",
            round=1,
            hardware=card,
        )
        # Where the two met at the address itself, whoever answers for it passes packets on.
        met = "fd07::20" if card == STRANGER else THERE
        story = dataclasses.replace(routed(ELSEWHERE), neighbour=near, met_at=met)
        return judge(*story.evidence()).blockers

    assert with_card(CARD) == ("network.proxy",)
    assert with_card(None) == ()
    assert with_card(STRANGER) == ("address.duplicate",)
