"""From evidence to verdict: what is named, what is left open, and what is never claimed.

A golden table of stories (`evidence_builder`), each told four times: with a
packet witness on both sides, on one, on none. Findings are written as

    cccB-  destination.firewall-drop!
    c????  ? destination.firewall-drop network.drop

first the five segments (c clear, B blocked, ? unknown, - not reached), then the
blockers (! proven, ~ likely), and after a question mark the further candidates.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bothends_protocol.causes import PATH_CAUSES, SERVICE_CAUSES
from bothends_protocol.codes import CODES
from bothends_protocol.evidence import (
    Address,
    Evidence,
    HopProbe,
    Icmp,
    Listener,
    MatchingRule,
    Neighbour,
    Return,
    Route,
    Samples,
    SeenAs,
    SelfConnect,
    Sighting,
    Swept,
    Target,
    read_evidence,
)
from bothends_protocol.judge import judge, lost_verdict, verdict_digest
from bothends_protocol.observations import observe
from bothends_protocol.pairing import DESTINATION, SOURCE
from bothends_protocol.plan import CERTAIN, HALF_OPEN, sweep_rounds
from bothends_protocol.ports import pack_ports
from bothends_protocol.verdict import SEGMENTS, Check, Verdict
from bothends_protocol.wire import pack
from evidence_builder import (
    CARD_OF_STRANGER,
    DROPPED,
    HERE,
    LOST,
    OPEN,
    PORT,
    ROUTER,
    THERE,
    Fate,
    Story,
)

# -- stories

INNER = "10.9.9.20"
"""Another address of the destination's own."""
PUBLIC, SECOND = "11.0.0.1", "192.168.7.77"
"""Addresses that are none of the destination's own: a far one, and one on the same network."""

REFUSED = replace(DROPPED, outcome="refused", error="ECONNREFUSED")
KEPT = replace(LOST, left=False)
"""Never left the source."""
RESET = replace(REFUSED, answer="reset", returned="reset")
CONTAINER = replace(OPEN, delivered=False, spoke="other")
"""Passed on inside the destination: no row of its socket table shows it."""
ELSEWHERE = replace(OPEN, arrived=False, delivered=False, answer="", spoke="other")
"""Answered by something that is not the destination."""


def prohibited(fate: Fate, sender: str, code: int = 13) -> Fate:
    """`fate`, ended by an ICMP error (RFC 792: destination unreachable) of `sender`."""
    # As Linux translates it: net/ipv4/icmp.c, icmp_err_convert.
    error = {0: "ENETUNREACH", 3: "ECONNREFUSED"}.get(code, "EHOSTUNREACH")
    return replace(
        fate,
        answer="icmp" if sender == THERE else "",
        returned="" if sender == HERE else "icmp",
        outcome="refused" if code == 3 else "unreachable",
        error=error,
        icmp=Icmp(kind=3, code=code, sender=sender),
    )


BY_SIX = "fd07::20"
"""Another address of the destination, by which the two may have met."""


def neighbour(next_hop: str, state: str = "reachable", *, to: str = THERE) -> Neighbour:
    return Neighbour(
        destination=to,
        next_hop=next_hop,
        interface="eth0",
        state=state,
        round=1,
        hardware=CARD_OF_STRANGER if state == "reachable" else None,
    )


GATEWAY, OTHER_GATEWAY = (
    Neighbour(
        destination="default",
        next_hop=ROUTER,
        interface="eth0",
        state="reachable",
        round=0,
        hardware=f"02:00:5e:00:00:{last}",
    )
    for last in ("01", "02")
)
SILENT_GATEWAY = msgspec.structs.replace(GATEWAY, state="failed", hardware=None)


def always(fate: Fate, **more: object) -> Story:
    """As often as loss alone must not be taken for a filter."""
    return Story(fates=(fate,) * CERTAIN, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Row:
    """A story, its true causes, and what must be found by who sees packets."""

    name: str
    causes: tuple[str, ...]
    story: Story
    both: str
    source: str
    destination: str
    none: str
    """Who tells it wrongly as yet, then why."""

    @property
    def told(self) -> list[tuple[str, Story, str]]:
        return [
            ("both", self.story, self.both),
            ("source", replace(self.story, destination_sees=False), self.source),
            ("destination", replace(self.story, source_sees=False), self.destination),
            ("none", without_packets(self.story), self.none),
        ]


def without_packets(story: Story) -> Story:
    return replace(story, source_sees=False, destination_sees=False)


def everywhere(name: str, causes: str, story: Story, finding: str) -> Row:
    """A row in which the packet witness adds nothing."""
    return Row(name, tuple(causes.split()), story, finding, finding, finding, finding)


DESTINATION_OR_NETWORK = "c????  ? destination.firewall-drop network.drop"
ANY_DROP = "?????  ? destination.firewall-drop network.drop source.firewall-drop"
ANY_REJECT = "?????  ? destination.firewall-reject network.reject source.firewall-reject"
ANY_ROUTER = "? nat.no-forward nat.double nat.no-hairpin nat.wrong-host"
ANY_REPLY = "cccc?  ? destination.reply-blocked network.reply-lost source.reply-blocked"

GOLDEN = [
    everywhere("open", "", Story(), "ccccc"),
    everywhere(
        "the service does not run",
        "service.not-running",
        Story(listening=()),
        "ccccB  service.not-running!",
    ),
    everywhere(
        "the service listens on loopback",
        "service.loopback-only",
        Story(listening=("127.0.0.1", "::1")),
        "ccccB  service.loopback-only!",
    ),
    everywhere(
        "the service listens on another address",
        "service.wrong-interface",
        Story(listening=("10.9.8.7",)),
        "ccccB  service.wrong-interface!",
    ),
    everywhere(
        "the service listens on IPv6",
        "service.wrong-family",
        Story(listening=("fd00::20",)),
        "ccccB  service.wrong-family!",
    ),
    everywhere(
        "the service listens on another port",
        "service.other-port",
        Story(listening=(), wanted="backupd", wanted_on=(5000,)),
        "ccccB  service.other-port!",
    ),
    everywhere(
        "another program has the port",
        "service.other-program",
        Story(wanted="backupd", holder=("nginx", "nginx.bin")),
        "ccccB  service.other-program!",
    ),
    everywhere(
        "a supervisor holds the port for the program",
        "",
        Story(wanted="backupd", holder=("systemd",)),
        "ccccc",
    ),
    everywhere(
        "the program cannot be seen",
        "",
        Story(wanted="backupd", holder=()),
        "cccc?  ? service.other-program",
    ),
    everywhere(
        "the service takes no connection",
        "service.hung",
        Story(takes=False),
        "ccccB  service.hung!",
    ),
    everywhere(
        "the service closes at once",
        "service.closes",
        always(replace(OPEN, spoke="closed")),
        "ccccB  service.closes!",
    ),
    Row(
        "the destination drops",
        ("destination.firewall-drop",),
        always(DROPPED),
        both="cccB-  destination.firewall-drop!",
        source=DESTINATION_OR_NETWORK,
        destination="cccB-  destination.firewall-drop!",
        none=ANY_DROP,
    ),
    Row(
        "the destination drops IPv6",
        ("destination.firewall-drop",),
        always(DROPPED, to="fd00::20", more_addresses=("fd00::20",), listening=("::",)),
        both="cccB-  destination.firewall-drop!",
        source=DESTINATION_OR_NETWORK,
        destination="cccB-  destination.firewall-drop!",
        none=ANY_DROP,
    ),
    Row(
        "the destination drops, and the service listens on loopback",
        ("destination.firewall-drop", "service.loopback-only"),
        always(DROPPED, listening=("127.0.0.1",)),
        both="cccBB  destination.firewall-drop! service.loopback-only~",
        source="c???B  service.loopback-only~ ? destination.firewall-drop network.drop",
        destination="cccBB  destination.firewall-drop! service.loopback-only~",
        none="????B  service.loopback-only~"
        " ? destination.firewall-drop network.drop source.firewall-drop",
    ),
    Row(
        "the destination resets",
        ("destination.firewall-reject",),
        always(RESET),
        both="cccB-  destination.firewall-reject!",
        source="c????  ? destination.firewall-reject network.reject",
        destination="cccB-  destination.firewall-reject!",
        none=ANY_REJECT,
    ),
    Row(
        "the destination prohibits",
        ("destination.firewall-reject",),
        always(prohibited(DROPPED, THERE, 3)),
        both="cccB-  destination.firewall-reject!",
        source="c??B-  destination.firewall-reject~",
        destination="cccB-  destination.firewall-reject!",
        none="???B-  destination.firewall-reject~",
    ),
    Row(
        "the destination prohibits, and seldom says so",
        ("destination.firewall-reject",),
        Story(fates=(prohibited(DROPPED, THERE, 3), *(DROPPED,) * 5)),
        both="cccB-  destination.firewall-reject!",
        source="c??B-  destination.firewall-reject~",
        destination="cccB-  destination.firewall-reject!",
        none="???B-  destination.firewall-reject~",
    ),
    Row(
        "the destination drops its answers",
        ("destination.reply-blocked",),
        always(replace(DROPPED, delivered=True)),
        both="cccB-  destination.reply-blocked!",
        source="cccc?  ? destination.reply-blocked network.reply-lost",
        destination="cccB-  destination.reply-blocked!",
        none=ANY_REPLY,
    ),
    Row(
        "the destination has no way back",
        ("destination.no-route",),
        always(
            replace(DROPPED, delivered=True),
            way_back=(Route(destination=HERE, error="ENETUNREACH"),),
        ),
        both="cccB-  destination.no-route!",
        source="cccB-  destination.no-route!",
        destination="cccB-  destination.no-route!",
        none="cccB-  destination.no-route~",
    ),
    Row(
        "the destination's reverse-path filter",
        ("destination.no-route",),
        always(
            DROPPED,
            to=INNER,
            more_addresses=(INNER,),
            way_back=(Route(destination=HERE, interface="vpn0"),),
            returns=(Return(source=HERE, local=INNER, interface="eth0", error="EXDEV"),),
        ),
        both="cccB-  destination.no-route!",
        source="c??B-  destination.no-route~",
        destination="cccB-  destination.no-route!",
        none="???B-  destination.no-route~",
    ),
    Row(
        "the service's queue is full",
        ("service.backlog-full",),
        always(DROPPED, queue=(2, 1)),
        both="ccc?B  service.backlog-full!",
        source="c???B  service.backlog-full~",
        destination="ccc?B  service.backlog-full!",
        none="????B  service.backlog-full~",
    ),
    Row(
        "the network drops",
        ("network.drop",),
        always(LOST),
        both="cB---  network.drop!",
        source=DESTINATION_OR_NETWORK,
        destination="?????  ? network.drop source.firewall-drop",
        none=ANY_DROP,
    ),
    Row(
        "the network resets",
        ("network.reject",),
        always(replace(REFUSED, arrived=False, returned="reset")),
        both="cB---  network.reject!",
        source="c????  ? destination.firewall-reject network.reject",
        destination="?????  ? network.reject source.firewall-reject",
        none=ANY_REJECT,
    ),
    Row(
        "a router prohibits",
        ("network.reject",),
        always(prohibited(LOST, ROUTER)),
        both="cB---  network.reject!",
        source="cB---  network.reject~",
        destination="?B---  network.reject~",
        none="?B---  network.reject~",
    ),
    Row(
        "a router knows no way on to the host",
        ("network.unreachable",),
        always(prohibited(LOST, ROUTER, 1)),
        both="c????  ? network.unreachable network.reject",
        source="c????  ? network.unreachable network.reject",
        destination="?????  ? network.unreachable network.reject",
        none="?????  ? network.unreachable network.reject",
    ),
    Row(
        "the answers are lost",
        ("network.reply-lost",),
        always(replace(DROPPED, delivered=True, answer="syn-ack")),
        both="cBcc-  network.reply-lost!",
        source="cccc?  ? destination.reply-blocked network.reply-lost",
        destination="cccc?  ? network.reply-lost source.reply-blocked",
        none=ANY_REPLY,
    ),
    Row(
        "the source drops the answers",
        ("source.reply-blocked",),
        always(replace(DROPPED, delivered=True, answer="syn-ack", returned="syn-ack")),
        both="Bccc-  source.reply-blocked!",
        source="Bccc-  source.reply-blocked!",
        destination="cccc?  ? network.reply-lost source.reply-blocked",
        none=ANY_REPLY,
    ),
    Row(
        "the source drops",
        ("source.firewall-drop",),
        always(KEPT),
        both="B----  source.firewall-drop!",
        source="B----  source.firewall-drop!",
        destination="?????  ? network.drop source.firewall-drop",
        none=ANY_DROP,
    ),
    Row(
        "the source drops, and the service does not run",
        ("source.firewall-drop", "service.not-running"),
        always(KEPT, listening=()),
        both="B---B  source.firewall-drop! service.not-running~",
        source="B---B  source.firewall-drop! service.not-running~",
        destination="????B  service.not-running~ ? network.drop source.firewall-drop",
        none="????B  service.not-running~"
        " ? destination.firewall-drop network.drop source.firewall-drop",
    ),
    Row(
        "the source resets",
        ("source.firewall-reject",),
        always(replace(REFUSED, left=False, arrived=False)),
        both="B----  source.firewall-reject!",
        source="B----  source.firewall-reject!",
        destination="?????  ? network.reject source.firewall-reject",
        none=ANY_REJECT,
    ),
    Row(
        "the source prohibits",
        ("source.firewall-reject",),
        always(prohibited(KEPT, HERE)),
        both="B----  source.firewall-reject!",
        source="B----  source.firewall-reject!",
        destination="B----  source.firewall-reject~",
        none="B----  source.firewall-reject~",
    ),
    everywhere(
        "the source's system does not permit it",
        "source.firewall-reject",
        always(replace(KEPT, outcome="local-error", error="EPERM")),
        "B----  source.firewall-reject!",
    ),
    everywhere(
        "the source has no route",
        "source.no-route",
        always(
            replace(KEPT, outcome="no-route", error="ENETUNREACH"),
            routes=(Route(destination=THERE, error="ENETUNREACH"),),
        ),
        "B----  source.no-route!",
    ),
    everywhere(
        "the source has no free port",
        "source.no-ports",
        always(
            replace(KEPT, outcome="local-error", error="EADDRNOTAVAIL"),
            routes=(Route(destination=THERE, source=HERE),),
        ),
        "B----  source.no-ports!",
    ),
    everywhere(
        "the source has no address to come from",
        "source.no-route",
        always(
            replace(KEPT, outcome="local-error", error="EADDRNOTAVAIL"),
            routes=(Route(destination=THERE),),
        ),
        "B----  source.no-route!",
    ),
    everywhere(
        "nobody has the address",
        "address.no-host",
        always(KEPT, neighbour=neighbour(THERE, "failed")),
        "?B---  address.no-host!",
    ),
    everywhere(
        "the network keeps the two apart",
        "network.client-isolation",
        always(
            KEPT,
            neighbour=neighbour(THERE, "failed"),
            gateways=((GATEWAY,), (GATEWAY,)),
            path="rendezvous",
        ),
        "?B---  network.client-isolation~",
    ),
    everywhere(
        "the destination's network only looks like the source's",
        "address.private",
        always(
            KEPT,
            neighbour=neighbour(THERE, "failed"),
            gateways=((GATEWAY,), (OTHER_GATEWAY,)),
            path="rendezvous",
        ),
        "?B---  address.private~",
    ),
    everywhere(
        "the gateway is off",
        "network.unreachable",
        always(KEPT, neighbour=neighbour(ROUTER, "failed")),
        "?B---  network.unreachable~",
    ),
    Row(
        "another machine has the destination's address, too",
        ("address.duplicate",),
        always(LOST, neighbour=neighbour(THERE), met_at=BY_SIX),
        both="cB---  address.duplicate!",
        source="cB---  address.duplicate~",
        destination="?B---  address.duplicate~",
        none="?B---  address.duplicate~",
    ),
    Row(
        "another machine has the destination's address, too, and connects",
        ("address.duplicate",),
        always(ELSEWHERE, neighbour=neighbour(THERE), met_at=BY_SIX),
        both="?B---  address.duplicate!",
        source="?????  ? address.duplicate network.proxy",
        destination="?B---  address.duplicate!",
        none="?????  ? address.duplicate network.proxy",
    ),
    Row(
        "something on the way takes the connections",
        ("network.proxy",),
        always(ELSEWHERE, neighbour=neighbour(ROUTER)),
        both="?B---  network.proxy!",
        source="?????  ? network.proxy",
        # It may be something on the source itself.
        destination="?????  ? network.proxy",
        none="?????  ? network.proxy",
    ),
    Row(
        "the address is another machine's on the same network, which refuses",
        ("address.wrong-host",),
        always(
            replace(REFUSED, arrived=False, returned="reset"),
            to=SECOND,
            neighbour=neighbour(SECOND, to=SECOND),
        ),
        both="cB---  address.wrong-host!",
        source="cB---  address.wrong-host~",
        destination="?B---  address.wrong-host~",
        none="?B---  address.wrong-host~",
    ),
    Row(
        "lost on the way to an address that is none of the destination's own",
        ("nat.no-forward",),
        always(LOST, to=PUBLIC, typed=(PUBLIC,)),
        both=f"c????  {ANY_ROUTER} network.drop address.wrong-host",
        source=f"c????  {ANY_ROUTER} destination.firewall-drop network.drop address.wrong-host",
        destination=f"?????  {ANY_ROUTER} network.drop source.firewall-drop address.wrong-host",
        none=f"?????  {ANY_ROUTER} destination.firewall-drop network.drop source.firewall-drop"
        " address.wrong-host",
    ),
    everywhere(
        "another machine has the address, and connects",
        "address.wrong-host",
        always(ELSEWHERE, to=PUBLIC, typed=(PUBLIC,)),
        "?????  ? nat.wrong-host nat.wrong-port address.wrong-host network.proxy",
    ),
    Row(
        "a container has the port: no row of the socket table, and all is well",
        (),
        always(CONTAINER, listening=(), forwards=True),
        both="ccccc",
        source="?????  ? network.proxy",
        destination="ccccc",
        none="?????  ? network.proxy",
    ),
]

LETTERS = {"clear": "c", "blocked": "B", "unknown": "?", "not-reached": "-"}


def finding(check: Check) -> str:
    """The check in the notation of the table."""
    blockers = [f"{b.code}{'!' if b.confidence == 'proven' else '~'}" for b in check.blockers]
    named = {blocker.code for blocker in check.blockers}
    further = [code for code in check.candidates if code not in named]
    segments = "".join(LETTERS[segment.status] for segment in check.segments)
    return " ".join([segments, *blockers, *(["?", *further] if further else [])])


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("story", "expected", "causes"),
    [
        pytest.param(
            *(story, expected, row.causes),
            id=f"{row.name}-{who}",
        )
        for row in GOLDEN
        for who, story, expected in row.told
    ],
)
def test_golden(story: Story, expected: str, causes: tuple[str, ...]) -> None:
    verdict = judge(*story.evidence())
    (check,) = verdict.checks
    told = words(expected)
    assert sorted(finding(check).split()) == sorted(told.split())
    assert finding(check).split("?")[0] == told.split("?")[0], "in the order in which to fix them"
    named = "!" in told or "~" in told
    assert check.status == ("blocked" if named else "open" if told == "ccccc" else "undetermined")
    assert set(verdict.blockers) <= set(causes)


def test_every_cause_of_the_tables_is_in_a_story() -> None:
    known = {cause.code for cause in PATH_CAUSES} | {cause.code for cause in SERVICE_CAUSES}
    # Those of routers are in `test_nat_judge`.
    told = {code for row in GOLDEN for code in row.causes}
    assert {code for code in known if not code.startswith("nat.")} == told - ROUTED


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: row.name)
def test_a_finding_says_how_it_is_known_and_what_to_do(row: Row) -> None:
    for _, story, _ in row.told:
        (check,) = judge(*story.evidence()).checks
        for blocker in check.blockers:
            assert blocker.because
            assert blocker.fix
        assert check.next_step or check.status != "undetermined" or not row.causes


# -- what must hold of every verdict

ROUTED = {"nat.no-forward"}
"""Causes that are only ever candidates as yet."""


@st.composite
def tellings(draw: st.DrawFn) -> tuple[Story, frozenset[str]]:
    """A story told by some of its witnesses, with some loss, and its true causes."""
    row = draw(st.sampled_from([row for row in GOLDEN if not ROUTED & set(row.causes)]))
    fate = row.story.fates[0]
    losses = draw(st.integers(0, 6 if fate.left else 0))
    fates = [fate] * draw(st.integers(3, CERTAIN)) + [LOST] * losses
    story = replace(
        row.story,
        fates=tuple(draw(st.permutations(fates))),
        source_sees=draw(st.booleans()),
        destination_sees=draw(st.booleans()),
        # What a service does is not known without (design, part 2: the honest limits).
        sockets=draw(st.booleans()) or any(code.startswith("service.") for code in row.causes),
    )
    return story, frozenset(row.causes)


def well_formed(verdict: Verdict) -> None:
    assert verdict.status in ("open", "blocked", "undetermined")
    assert (verdict.status == "blocked") == bool(verdict.blockers)
    assert set(verdict.blockers) <= set(verdict.candidates) <= set(CODES)
    told: list[Verdict | Check] = [verdict, *verdict.checks]
    for part in told:
        assert part.status != "open" or part.reachable == "yes"
        assert part.status != "blocked" or part.reachable == "no"
    for check in verdict.checks:
        assert (check.status == "blocked") == bool(check.blockers)
        assert {b.code for b in check.blockers} <= set(check.candidates)
        assert {b.confidence for b in check.blockers} <= {"proven", "likely"}
        states = {segment.name: segment.status for segment in check.segments}
        assert tuple(states) == SEGMENTS
        assert ("blocked" in states.values()) == bool(check.blockers)


def honest(verdict: Verdict, causes: Iterable[str]) -> None:
    """Nothing is named that is not so, nothing left out that is so, and no false success."""
    well_formed(verdict)
    true = set(causes)
    assert set(verdict.blockers) <= true
    if true:
        assert verdict.status != "open"
    if verdict.reachable == "no":
        assert {code for code in true if not code.startswith("service.")} <= set(verdict.candidates)


@settings(max_examples=200)
@given(tellings())
def test_every_verdict_is_honest(telling: tuple[Story, frozenset[str]]) -> None:
    story, causes = telling
    honest(judge(*story.evidence()), causes)


@given(telling=tellings(), source_sees=st.booleans(), destination_sees=st.booleans())
def test_with_fewer_witnesses_no_other_cause_is_named(
    telling: tuple[Story, frozenset[str]], *, source_sees: bool, destination_sees: bool
) -> None:
    story = replace(telling[0], source_sees=True, destination_sees=True)
    weaker = replace(story, source_sees=source_sees, destination_sees=destination_sees)
    full, less = judge(*story.evidence()), judge(*weaker.evidence())
    assert set(less.blockers) <= set(full.blockers)
    assert {less.status, full.status} != {"open", "blocked"}


@given(
    connected=st.integers(2, 8),
    lost=st.sampled_from([LOST, DROPPED, KEPT, replace(DROPPED, delivered=True)]),
    source_sees=st.booleans(),
    destination_sees=st.booleans(),
)
def test_one_lost_attempt_among_successes_is_no_filter(
    *, connected: int, lost: Fate, source_sees: bool, destination_sees: bool
) -> None:
    story = Story(
        fates=(OPEN,) * connected + (lost,),
        source_sees=source_sees,
        destination_sees=destination_sees,
    )
    verdict = judge(*story.evidence())
    assert verdict.status == "open"
    assert set(verdict.warnings) <= {"network.loss"}


@pytest.mark.parametrize("fate", [LOST, DROPPED, KEPT, REFUSED])
@pytest.mark.parametrize("attempts", [1, 2])
def test_less_than_three_attempts_name_nothing_on_the_way(fate: Fate, attempts: int) -> None:
    verdict = judge(*Story(fates=(fate,) * attempts).evidence())
    assert verdict.status == "undetermined"
    assert verdict.candidates


@pytest.mark.parametrize("story", [Story(), always(DROPPED), always(KEPT)])
def test_a_witness_that_missed_something_proves_nothing_by_silence(story: Story) -> None:
    source, destination = (lossy(side) for side in story.evidence())
    blind = judge(*without_packets(story).evidence())
    deaf = judge(source, destination)
    assert (deaf.status, deaf.blockers, deaf.candidates) == (
        blind.status,
        blind.blockers,
        blind.candidates,
    )


def lossy(side: Evidence) -> Evidence:
    witnesses = [
        msgspec.structs.replace(witness, lost=1) if witness.name == "packets" else witness
        for witness in side.witnesses
    ]
    return msgspec.structs.replace(side, witnesses=tuple(witnesses))


# -- stories that mislead


NO_WAY_BACK = (Route(destination=HERE, error="ENETUNREACH"),)


NO_ROUTE = replace(KEPT, outcome="no-route", error="ENETUNREACH")


def hard(name: str, causes: str, story: Story) -> object:
    return pytest.param(story, causes.split(), id=name)


@pytest.mark.parametrize(
    ("story", "causes"),
    [
        hard("loss and nothing else", "", Story(fates=(OPEN,) * 4 + (LOST,) * 20)),
        hard(
            "dropped, and half of it lost before",
            "destination.firewall-drop",
            Story(fates=(DROPPED, LOST) * 6),
        ),
        hard(
            "refused once, by a service that was being restarted",
            "",
            Story(fates=(OPEN, RESET, OPEN)),
        ),
        hard(
            "the source's card was down just then, and later it was dropped",
            "destination.firewall-drop",
            Story(fates=(NO_ROUTE,) * CERTAIN + (DROPPED,) * CERTAIN),
        ),
        hard(
            "some were lost, and then the route was gone for good",
            "",
            Story(fates=(LOST,) * 3 + (NO_ROUTE,) * CERTAIN),
        ),
        hard("behind a NAT of the source's, open", "", without_packets(Story(seen_as="11.0.0.9"))),
        hard(
            "behind a NAT of the source's, dropped: both see",
            "destination.firewall-drop",
            always(DROPPED, seen_as="11.0.0.9"),
        ),
        hard(
            "behind a NAT of the source's, dropped: only the destination sees",
            "destination.firewall-drop",
            always(DROPPED, seen_as="11.0.0.9", source_sees=False),
        ),
        hard(
            "sequence numbers changed on the way",
            "destination.firewall-drop",
            always(DROPPED, new_numbers=True),
        ),
        hard(
            "sequence numbers changed by a NAT",
            "destination.firewall-drop",
            always(DROPPED, seen_as="11.0.0.9", new_numbers=True),
        ),
        hard(
            "a router says that it has no way to the network",
            "network.unreachable",
            without_packets(always(prohibited(LOST, ROUTER, 0))),
        ),
        hard(
            "a closed port on which the agent may not listen",
            "service.not-running",
            always(RESET, listening=(), own=False, destination_sees=False),
        ),
        hard(
            "a closed port, and no socket table",
            "service.not-running",
            always(RESET, listening=(), own=False, sockets=False),
        ),
        hard(
            "nothing listens but the agent, and no socket table",
            "service.not-running",
            Story(listening=(), sockets=False),
        ),
        hard(
            "the agent's own challenge came too late",
            "service.not-running",
            always(replace(OPEN, spoke="nothing"), listening=()),
        ),
        hard(
            "the gateway is off, and nobody sees packets",
            "network.unreachable",
            without_packets(always(KEPT, neighbour=neighbour(ROUTER, "incomplete"))),
        ),
        hard(
            "a container's port, with loss",
            "",
            without_packets(Story(fates=(CONTAINER, CONTAINER, LOST), listening=())),
        ),
        hard(
            "a container's port, dropped",
            "destination.firewall-drop",
            always(DROPPED, listening=(), forwards=True),
        ),
        hard(
            "something else answers, with loss",
            "",
            Story(fates=(ELSEWHERE,) * 3 + (LOST,) * CERTAIN),
        ),
        hard(
            "kept by the source, and no way back",
            "source.firewall-drop destination.no-route",
            always(KEPT, way_back=NO_WAY_BACK),
        ),
        hard(
            "lost on the way, and no way back",
            "network.drop destination.no-route",
            always(LOST, way_back=NO_WAY_BACK),
        ),
        hard(
            "the ends of two handshakes lost",
            "",
            without_packets(Story(fates=(OPEN,) * 2, half_open=True)),
        ),
        hard("nothing was tried", "", Story(fates=(), listening=())),
    ],
)
def test_hard_stories_are_told_honestly(story: Story, causes: list[str]) -> None:
    honest(judge(*story.evidence()), causes)


def test_a_handshake_that_stays_half_open_is_open_once_that_is_no_accident() -> None:
    # TCP_DEFER_ACCEPT: the kernel waits for data before it completes the connection.
    few = without_packets(Story(fates=(OPEN,) * (HALF_OPEN - 1), half_open=True))
    verdict = judge(*few.evidence())
    assert (verdict.status, verdict.candidates) == (
        "undetermined",
        ("service.hung", "service.closes"),
    )
    many = without_packets(Story(fates=(OPEN,) * HALF_OPEN, half_open=True))
    assert judge(*many.evidence()).status == "open"


@pytest.mark.parametrize("own", [True, False])
def test_a_reset_while_the_destination_is_half_open_is_no_programs(*, own: bool) -> None:
    reset = replace(OPEN, spoke="closed")
    story = Story(
        fates=(reset,) * 3, half_open=True, listening=() if own else ("0.0.0.0",), own=own
    )
    verdict = judge(*story.evidence())
    assert "service.closes" not in (*verdict.blockers, *verdict.candidates)
    refuse = {"destination.firewall-reject", "network.reject", "source.firewall-reject"}
    assert refuse <= set(verdict.candidates)
    assert list(verdict.blockers) == (["service.not-running"] if own else [])
    # One that is complete there was the program's to end.
    assert list(
        judge(
            *replace(story, half_open=False, own=False, listening=("0.0.0.0",)).evidence()
        ).blockers
    ) == ["service.closes"]


def test_what_only_one_port_is_led_by_is_that_ports_way_alone() -> None:
    astray = Route(destination=HERE, interface="eth1", transport="tcp", port=PORT, local=THERE)
    usual = Route(destination=HERE, interface="eth0")
    story = always(replace(DROPPED, delivered=True, answer="syn-ack"), way_back=(usual, astray))
    assert list(judge(*story.evidence()).blockers) == ["destination.no-route"]
    elsewhere = replace(story, way_back=(usual, msgspec.structs.replace(astray, port=PORT + 1)))
    assert "destination.no-route" not in judge(*elsewhere.evidence()).blockers


def half_open(
    count: int = HALF_OPEN, *, later: str = "SYN_RECV", **rises: int
) -> tuple[Evidence, Evidence]:
    """So many handshakes without an end, in two rounds, and what counters rose by in both.

    `later` is in which state those of the first round are in the second.
    """
    source, destination = without_packets(Story(fates=(OPEN,) * count, half_open=True)).evidence()
    first = (count + 1) // 2

    def number(index: int) -> int:
        return 1 if index < first else 2

    names = ("TCPDeferAcceptDrop", "ListenOverflows", "TCPReqQFullDoCookies", "PassiveOpens")
    samples = []
    for last in (1, 2):
        values: dict[str, tuple[int, ...]] = {}
        for name in names:
            group = "Tcp" if name == "PassiveOpens" else "TcpExt"
            values[f"{group}.{name}"] = (7, 7 + (rises.get(name, 0) + 2 - last) // 2)
        samples.append(Samples(round=last, times=(0.0, 1.0), values=values))
    rows = [
        msgspec.structs.replace(row, round=number(index))
        for index, row in enumerate(destination.connections)
    ]
    rows += [msgspec.structs.replace(row, round=2, state=later) for row in rows[:first]]
    return (
        msgspec.structs.replace(
            source,
            attempts=tuple(
                msgspec.structs.replace(attempt, spoke="nothing", round=number(index))
                for index, attempt in enumerate(source.attempts)
            ),
        ),
        msgspec.structs.replace(destination, samples=tuple(samples), connections=tuple(rows)),
    )


def test_handshakes_that_none_completes_are_not_open() -> None:
    verdict = judge(*half_open())
    assert verdict.status == "undetermined"
    assert verdict.reachable == "no"
    three = ("destination.firewall-drop", "network.drop", "source.firewall-drop")
    assert verdict.candidates == three


@pytest.mark.parametrize(
    ("cookies", "opened", "forwards", "status"),
    [
        (HALF_OPEN, 0, False, "undetermined"),
        # Fewer than were asked: a row would be there.
        (HALF_OPEN - 1, 0, False, "open"),
        # They were completed somewhere on this host, or by others behind it.
        (HALF_OPEN, HALF_OPEN, False, "open"),
        (HALF_OPEN, 0, True, "open"),
    ],
)
def test_handshakes_by_syn_cookies_that_none_completes_are_not_open(
    cookies: int, opened: int, status: str, *, forwards: bool
) -> None:
    source, destination = half_open(TCPReqQFullDoCookies=cookies, PassiveOpens=opened)
    # No row shows them; that they arrived and were answered, the packet witnesses do.
    seen, there = Story(fates=(OPEN,) * HALF_OPEN, forwards=forwards).evidence()
    source = msgspec.structs.replace(seen, attempts=source.attempts)
    destination = msgspec.structs.replace(there, samples=destination.samples, connections=())
    assert judge(source, destination).status == status


def bound(device: str, address: str) -> Verdict:
    """A service that takes from one interface alone, and the agent's own listener beside it."""
    source, destination = without_packets(Story(listening=())).evidence()
    row = Listener(transport="tcp", address=address, port=PORT, program="db", device=device)
    facts = destination.facts
    addresses = tuple(msgspec.structs.replace(a, interface="eth0") for a in facts.addresses)
    return judge(
        source,
        msgspec.structs.replace(
            destination,
            listeners=(row,),
            facts=msgspec.structs.replace(facts, addresses=addresses),
            routes=(Route(destination=HERE, interface="eth0"),),
        ),
    )


@pytest.mark.parametrize(
    ("device", "address", "code"),
    [
        ("eth1", "0.0.0.0", "service.wrong-interface"),
        ("eth1", "::", "service.wrong-interface"),
        ("lo", "0.0.0.0", "service.loopback-only"),
    ],
)
def test_a_service_that_takes_from_another_interface(device: str, address: str, code: str) -> None:
    (check,) = bound(device, address).checks
    assert [blocker.code for blocker in check.blockers] == [code]
    assert any(f"interface {device}" in step for step in check.blockers[0].fix[0].steps)


def test_a_service_that_takes_from_where_requests_may_come_in_is_not_elsewhere() -> None:
    # The address is at eth0, and the destination reaches the source by wg0.
    _, destination = without_packets(Story()).evidence()
    listeners = tuple(msgspec.structs.replace(r, device="wg0") for r in destination.listeners)
    routes = (Route(destination=HERE, interface="wg0"),)
    for fate, expected in ((OPEN, "open"), (DROPPED, "undetermined")):
        source, destination = without_packets(always(fate)).evidence()
        there = msgspec.structs.replace(destination, listeners=listeners, routes=routes)
        verdict = judge(source, there)
        assert verdict.status == expected
        assert not {"service.wrong-interface", "service.loopback-only"} & {*verdict.candidates}


def test_a_socket_of_the_other_family_is_no_matter_of_interfaces() -> None:
    source, destination = without_packets(Story(listening=())).evidence()
    row = Listener(transport="tcp", address="::", port=PORT, program="db")
    beside = msgspec.structs.replace(destination, listeners=(row,))
    assert judge(source, beside).blockers == ("service.wrong-family",)


def test_a_program_that_waits_for_data_leaves_its_handshakes_open() -> None:
    assert judge(*half_open(TCPDeferAcceptDrop=HALF_OPEN)).status == "open"
    assert judge(*half_open(TCPDeferAcceptDrop=HALF_OPEN // 2)).status == "open"  # lost ones
    # Another program's client.
    assert judge(*half_open(TCPDeferAcceptDrop=1)).status == "undetermined"


def test_a_handshake_that_the_end_of_the_connection_completes_was_only_late() -> None:
    assert judge(*half_open(later="CLOSE_WAIT")).status == "open"


def test_a_full_queue_leaves_handshakes_open() -> None:
    assert judge(*half_open(ListenOverflows=1)).status == "open"


def test_few_handshakes_without_an_end_may_be_loss() -> None:
    verdict = judge(*half_open(HALF_OPEN - 1))
    assert verdict.candidates == ("service.hung", "service.closes")


def closing(*states: str, said: Sequence[str]) -> tuple[Evidence, Evidence]:
    """Connections that the program takes, with what the source heard and the rows in its table."""
    story = without_packets(Story(fates=(OPEN,) * len(states), listening=("0.0.0.0",)))
    source, destination = story.evidence()
    attempts = [
        msgspec.structs.replace(attempt, spoke=spoke)
        for attempt, spoke in zip(source.attempts, said, strict=True)
    ]
    rows = [
        msgspec.structs.replace(row, state=state)
        for row, state in zip(destination.connections, states, strict=True)
    ]
    return (
        msgspec.structs.replace(source, attempts=tuple(attempts)),
        msgspec.structs.replace(destination, connections=tuple(rows)),
    )


def test_a_program_that_closes_is_found_though_the_word_of_it_was_lost() -> None:
    told = closing("FIN_WAIT2", "FIN_WAIT1", said=("closed", "nothing"))
    assert judge(*told).blockers == ("service.closes",)
    lost = closing("FIN_WAIT1", "FIN_WAIT1", said=("nothing", "nothing"))
    assert judge(*lost).blockers == ("service.closes",)


def test_what_a_program_does_after_the_source_has_ended_the_connection_tells_nothing() -> None:
    # Its handshake was incomplete until the end that the source sent completed it, in a later
    # round: then the program closed its side too, as any would.
    source, destination = closing("FIN_WAIT2", "SYN_RECV", said=("closed", "nothing"))
    late = msgspec.structs.replace(destination.connections[1], state="LAST_ACK", round=2)
    destination = msgspec.structs.replace(destination, connections=(*destination.connections, late))
    assert judge(source, destination).blockers == ("service.closes",)


def at_home(
    spoke: str = "nothing", *, accepted: bool | None = False, watched: float = 1.5
) -> Story:
    """Dropped on the way in, and the destination connected to its own service."""
    made = SelfConnect(
        transport="tcp",
        address=THERE,
        port=PORT,
        outcome="connected",
        spoke=spoke,
        accepted=accepted,
        watched=watched,
    )
    return always(DROPPED, self_connects=(made,))


def test_a_hung_program_behind_a_filter_is_named_beside_it() -> None:
    verdict = judge(*at_home().evidence())
    assert verdict.blockers == ("destination.firewall-drop", "service.hung")
    (check,) = verdict.checks
    assert [b.confidence for b in check.blockers] == ["proven", "likely"]


@pytest.mark.parametrize(
    "story",
    [
        at_home(accepted=True),
        at_home(accepted=None),
        at_home(watched=0.5),
        at_home("closed", accepted=True, watched=0.0),
        dataclasses.replace(at_home(), holder=("systemd",)),
        dataclasses.replace(at_home(), forwards=True),
    ],
    ids=["taken", "unseen", "too short", "closed", "supervisor", "forwarding host"],
)
def test_what_a_program_does_with_its_own_host_accuses_it_of_nothing_else(story: Story) -> None:
    verdict = judge(*story.evidence())
    assert verdict.blockers == ("destination.firewall-drop",)
    (check,) = verdict.checks
    assert bool(check.notes) == (story.self_connects[0].spoke == "closed")


def test_a_connection_that_ends_elsewhere_is_not_judged_by_the_program_beside_it() -> None:
    # A proxy of a container system holds the port, and the packets go past it.
    story = dataclasses.replace(without_packets(at_home()), fates=(ELSEWHERE,) * 3)
    (hung,) = [cause for cause in SERVICE_CAUSES if cause.code == "service.hung"]
    assert not hung.found(observe(*story.evidence(), ("tcp", THERE, PORT)))
    assert hung.found(observe(*at_home().evidence(), ("tcp", THERE, PORT)))


def expired(sender: str, outcome: str = "expired") -> HopProbe:
    return HopProbe(
        round=1,
        transport="tcp",
        address=THERE,
        port=PORT,
        hops=1,
        outcome=outcome,
        icmp=Icmp(kind=11, code=0, sender=sender),
    )


def test_a_request_that_ended_at_the_first_router_has_left() -> None:
    def candidates(*probes: HopProbe) -> set[str]:
        story = without_packets(always(LOST, hop_probes=probes))
        return set(judge(*story.evidence()).candidates)

    unknown = candidates()
    assert "source.firewall-drop" in unknown
    assert candidates(expired("192.168.7.1")) == unknown - {"source.firewall-drop"}
    # The source's own filter can send such errors too, and other answers say something else.
    assert candidates(expired(HERE)) == unknown
    assert candidates(expired("192.168.7.1", "refused")) == unknown


def rule(
    text: str, verdict: str = "drop", *, answer: bool = False, port: int = PORT
) -> MatchingRule:
    return MatchingRule(
        transport="tcp",
        address=THERE,
        port=port,
        answer=answer,
        text=text,
        verdict=verdict,
        certain=True,
    )


def quoted(verdict: Verdict) -> list[str]:
    lines = [line for c in verdict.checks for b in c.blockers for line in b.because]
    return [line.partition(": ")[2] for line in lines if line.startswith("A rule of")]


def test_the_rule_that_matches_supports_the_cause_and_decides_nothing() -> None:
    rules = (rule("drops it"), rule("rejects it", "reject"), rule("keeps answers", answer=True))
    story = always(DROPPED, destination_rules=rules, source_rules=(rule("of the source"),))
    assert quoted(judge(*story.evidence())) == ["drops it"]
    without = dataclasses.replace(story, destination_rules=(), source_rules=())
    assert judge(*story.evidence()).blockers == judge(*without.evidence()).blockers
    open_story = Story(destination_rules=rules)
    assert judge(*open_story.evidence()).status == "open"


def test_ports_with_one_finding_stay_one_check_whatever_their_rules() -> None:
    ports = (4242, 4243, 4244, 4245)
    story = always(
        DROPPED,
        ports=ports,
        destination_rules=tuple(rule(f"drops {port}", port=port) for port in ports),
    )
    verdict = judge(*story.evidence())
    assert [check.ports for check in verdict.checks] == ["4242-4245"]
    assert quoted(verdict) == ["drops 4242", "drops 4243", "drops 4244"]


# -- traffic that is not ours

strangers = st.builds(
    Sighting,
    at=st.just(0.1),
    way=st.sampled_from(["in", "out"]),
    interface=st.just("eth0"),
    transport=st.just("tcp"),
    source=st.sampled_from(["192.168.7.99", HERE, THERE]),
    source_port=st.integers(1, 39_000),
    destination=st.sampled_from([HERE, THERE]),
    destination_port=st.integers(1, 39_000),
    flags=st.sampled_from(["S", "SA", "R", "AR", ""]),
    seq=st.integers(0, 1000),
    ack=st.integers(0, 1000),
    icmp=st.none() | st.just(Icmp(kind=3, code=3, sender=ROUTER)),
)


@given(tellings(), st.lists(strangers, max_size=6), st.lists(strangers, max_size=6))
def test_packets_of_others_change_nothing(
    telling: tuple[Story, frozenset[str]], here: list[Sighting], there: list[Sighting]
) -> None:
    sides = telling[0].evidence()
    noisy = [
        msgspec.structs.replace(side, sightings=(*more, *side.sightings))
        if side.sightings or side.witnesses[0].available
        else side
        for side, more in zip(sides, (here, there), strict=True)
    ]
    assert apart_from_name(judge(*noisy)) == apart_from_name(judge(*sides))


def apart_from_name(verdict: Verdict) -> Verdict:
    return msgspec.structs.replace(verdict, verdict_id=None)


# -- the same on both sides


@given(tellings())
def test_both_sides_come_to_the_same_bytes(telling: tuple[Story, frozenset[str]]) -> None:
    source, destination = telling[0].evidence()
    verdict = judge(source, destination)
    other = judge(read_evidence(pack(source)), read_evidence(pack(destination)))
    assert pack(other) == pack(verdict)
    assert verdict_digest(other) == verdict_digest(verdict)


JUDGE = """
import sys
from pathlib import Path
from bothends_protocol.evidence import read_evidence
from bothends_protocol.judge import judge
from bothends_protocol.wire import pack
sides = [read_evidence(Path(name).read_bytes()) for name in sys.argv[1:]]
sys.stdout.buffer.write(pack(judge(*sides)))
"""


def test_the_order_of_sets_in_a_process_does_not_show(tmp_path: Path) -> None:
    story = Story(
        ports=(4242, 4243, 5000),
        by_port={4243: (REFUSED,) * 3, 5000: (prohibited(DROPPED, THERE, 3), DROPPED, REFUSED)},
        listening=("127.0.0.1", "::1", "10.9.8.7"),
        targets=(Target(text="nas", error="no such name"),),
    )
    names = [str(tmp_path / name) for name in ("source", "destination")]
    for name, side in zip(names, story.evidence(), strict=True):
        Path(name).write_bytes(pack(side))
    outputs = {
        subprocess.run(
            [sys.executable, "-c", JUDGE, *names],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in range(4)
    }
    assert outputs == {pack(judge(*story.evidence()))}


def test_the_name_of_a_verdict_is_that_of_its_evidence() -> None:
    source, destination = Story().evidence()
    name = judge(source, destination).verdict_id
    changed = msgspec.structs.replace(destination, service="backupd")
    assert name == judge(source, destination).verdict_id
    assert name != judge(source, changed).verdict_id
    assert name is not None
    assert bytes.fromhex(name)


def test_texts_do_not_depend_on_the_side_that_reads_them() -> None:
    for row in GOLDEN:
        verdict = judge(*row.story.evidence())
        told = [verdict.summary, *(text for check in verdict.checks for text in texts(check))]
        for text in told:
            assert not re.search(r"(?i)\b(here|remote|this (computer|host|machine|side))\b", text)


def texts(check: Check) -> Iterable[str]:
    yield check.next_step
    yield from check.notes
    for blocker in check.blockers:
        yield from blocker.because


# -- several ports, addresses, directions


def test_ports_with_one_finding_are_one_check() -> None:
    story = Story(
        ports=(4242, 4243, 4244, 5000, 5002),
        by_port=dict.fromkeys((4242, 4244, 5000), (DROPPED,) * 3),
    )
    checks = judge(*story.evidence()).checks
    assert {check.ports: check.status for check in checks} == {
        "4242,4244,5000": "blocked",
        "4243,5002": "open",
    }


def test_neighbouring_ports_are_written_as_a_range() -> None:
    verdict = judge(*Story(fates=(DROPPED,) * 3, ports=tuple(range(4000, 4030))).evidence())
    (check,) = verdict.checks
    assert check.ports == "4000-4029"
    assert "4000-4029" in verdict.summary


def calls(story: Story) -> int:
    """How many functions of our own the judgement of `story` calls."""
    sides = story.evidence()
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        judge(*sides)
    finally:
        sys.setprofile(before)
    return count


def test_four_times_the_ports_cost_about_four_times_as_much() -> None:
    few, many = (
        Story(fates=(DROPPED,) * 3, ports=tuple(range(1000, 1000 + count))) for count in (20, 80)
    )
    assert calls(many) < 6 * calls(few)


@pytest.mark.parametrize("losing", [False, True])
def test_of_many_ports_some_lose_their_few_requests_by_chance(*, losing: bool) -> None:
    other = (LOST, OPEN, OPEN) if losing else (OPEN,) * 3
    story = Story(ports=(1, 2), by_port={1: (LOST,) * 3, 2: other})
    first = judge(*story.evidence()).checks[0]
    assert first.ports == "1"
    named = [blocker.code for blocker in first.blockers if blocker.code.startswith("network.")]
    assert named == ([] if losing else ["network.drop"])
    assert "network.drop" in first.candidates


Gateways = tuple[tuple[Neighbour, ...], tuple[Neighbour, ...]]


@pytest.mark.parametrize(
    ("gateways", "blockers", "candidates"),
    [
        (((GATEWAY,), (GATEWAY,)), ["network.client-isolation"], []),
        (((GATEWAY, OTHER_GATEWAY), (OTHER_GATEWAY,)), ["network.client-isolation"], []),
        (((GATEWAY,), (OTHER_GATEWAY,)), ["address.private"], []),
        (((), ()), [], ["address.no-host", "network.client-isolation", "address.private"]),
        (
            ((GATEWAY,), (SILENT_GATEWAY,)),
            [],
            ["address.no-host", "network.client-isolation", "address.private"],
        ),
    ],
    ids=["one gateway", "one of two", "two of one name", "no gateway", "a silent one"],
)
@pytest.mark.parametrize("path", ["rendezvous", "offline"])
def test_two_that_never_reached_each_other_are_apart_or_elsewhere(
    path: str, gateways: Gateways, blockers: list[str], candidates: list[str]
) -> None:
    nobody = always(KEPT, neighbour=neighbour(THERE, "failed"), gateways=gateways, path=path)
    verdict = judge(*replace(nobody, typed=(THERE,)).evidence())
    assert list(verdict.blockers) == blockers
    assert list(verdict.candidates) == blockers + candidates


def test_a_stranger_at_the_address_of_two_that_never_met_may_be_on_another_network() -> None:
    story = always(
        LOST, neighbour=neighbour(THERE), path="rendezvous", typed=(THERE,), met_at=BY_SIX
    )
    verdict = judge(*story.evidence())
    assert verdict.status == "undetermined"
    assert {"address.duplicate", "address.private"} <= set(verdict.candidates)
    met = replace(story, gateways=((GATEWAY,), (GATEWAY,)))
    assert list(judge(*met.evidence()).blockers) == ["address.duplicate"]


def test_where_nothing_was_tried_the_addresses_to_try_are_named() -> None:
    source, destination = Story(path="rendezvous").evidence()
    nothing = [msgspec.structs.replace(side, rounds=()) for side in (source, destination)]
    verdict = judge(*nothing)
    assert (verdict.status, verdict.checks) == ("undetermined", ())
    assert f"(it has {THERE})" in verdict.summary


def test_where_the_two_only_met_at_a_meeting_point_a_translated_request_may_have_arrived() -> None:
    # The source does not see its own packets, and behind its NAT they have other ports.
    story = always(DROPPED, path="rendezvous", typed=(THERE,), source_sees=False)
    source, destination = story.evidence()
    renamed = [
        msgspec.structs.replace(s, source="11.0.0.1", source_port=s.source_port + 1)
        for s in destination.sightings
    ]
    destination = msgspec.structs.replace(destination, sightings=tuple(renamed))
    verdict = judge(source, destination)
    assert not [code for code in verdict.blockers if not code.startswith("destination.")]
    assert "destination.firewall-drop" in verdict.candidates


def test_ports_with_other_causes_are_other_checks() -> None:
    story = Story(
        ports=(1, 2, 3, 4),
        by_port={
            1: (DROPPED,) * 3,
            2: (RESET,) * 3,
            3: (LOST,) * 3,
            4: (DROPPED,) * 3,
        },
    )
    verdict = judge(*story.evidence())
    assert {check.ports: [b.code for b in check.blockers] for check in verdict.checks} == {
        "1,4": ["destination.firewall-drop"],
        "2": ["destination.firewall-reject"],
        "3": ["network.drop"],
    }
    assert set(verdict.blockers) == {
        "destination.firewall-drop",
        "destination.firewall-reject",
        "network.drop",
    }


def joined(*stories: Story) -> tuple[Evidence, Evidence]:
    """One run in which all of `stories` happened, the facts as in the first."""
    sides = list(zip(*(story.evidence() for story in stories), strict=True))
    merged = [
        msgspec.structs.replace(
            side[0],
            **{
                name: tuple(dict.fromkeys(row for part in side for row in getattr(part, name)))
                for name in (
                    "rounds",
                    "attempts",
                    "sightings",
                    "own_listeners",
                    "acceptances",
                    "listeners",
                    "connections",
                    "routes",
                )
            },
            witnesses=max((part.witnesses for part in side), key=len),
        )
        for side in sides
    ]
    return merged[0], merged[1]


@pytest.mark.parametrize(
    ("here", "there", "status"),
    [
        (OPEN, OPEN, "open"),
        (OPEN, DROPPED, "blocked"),
        (OPEN, replace(LOST), "blocked"),
    ],
)
def test_all_primary_checks_decide(here: Fate, there: Fate, status: str) -> None:
    story = Story(ports=(1, 2), by_port={1: (here,) * 3, 2: (there,) * 3})
    assert judge(*story.evidence()).status == status


def test_an_open_question_outweighs_an_open_port() -> None:
    story = Story(ports=(1, 2), by_port={2: (DROPPED,) * 2})
    verdict = judge(*story.evidence())
    assert {check.status for check in verdict.checks} == {"open", "undetermined"}
    assert verdict.status == "undetermined"


def test_further_addresses_never_block_at_the_top() -> None:
    first = Story(more_addresses=(SECOND,))
    run = joined(first, always(DROPPED, to=SECOND, more_addresses=(SECOND,), first=10))
    verdict = judge(*run)
    assert {(check.address, check.primary, check.status) for check in verdict.checks} == {
        (THERE, True, "open"),
        (SECOND, False, "blocked"),
    }
    assert verdict.status == "open"
    assert verdict.blockers == ()


def test_a_target_decides_in_place_of_the_peer() -> None:
    target = Target(text="nas.example", addresses=(PUBLIC,))
    run = joined(Story(targets=(target,)), always(LOST, to=PUBLIC, targets=(target,), first=10))
    verdict = judge(*run)
    assert [check.address for check in verdict.checks if check.primary] == [PUBLIC]
    assert verdict.status == "undetermined"


def test_a_target_that_does_not_resolve_blocks() -> None:
    verdict = judge(*Story(targets=(Target(text="nas", error="no such name"),)).evidence())
    assert verdict.status == "blocked"
    assert verdict.blockers == ("source.name",)
    assert verdict.reachable == "no"


def test_both_ways_are_told_apart() -> None:
    there = Story(both_ways=True)
    back = always(DROPPED, prober=DESTINATION, both_ways=True, first=10)
    verdict = judge(*joined(there, back))
    assert verdict.directions == {
        "source-to-destination": {"status": "open", "blockers": []},
        "destination-to-source": {
            "status": "blocked",
            "blockers": ["destination.firewall-drop"],
        },
    }
    assert verdict.blockers == ("destination.firewall-drop",)
    assert verdict.status == "blocked"


def test_both_ways_are_told_about_the_computers_of_the_pair() -> None:
    """The way back is blocked by the source's own firewall, and that is what people read."""
    back = always(DROPPED, prober=DESTINATION, both_ways=True, first=10)
    verdict = judge(*joined(Story(both_ways=True), back))
    assert verdict.summary == (
        f"From the source to the destination: TCP port 4242 at {THERE} can be reached. From the "
        f"destination to the source: TCP port 4242 at {HERE}: the source's firewall silently "
        "drops the connection."
    )
    (check,) = (c for c in verdict.checks if c.direction == "destination-to-source")
    (blocker,) = check.blockers
    assert blocker.because[0].endswith("left the destination's network card.")
    assert {fix.on for fix in blocker.fix} == {"destination"}
    assert not any("the destination" in fix.title for fix in blocker.fix)


def test_who_has_no_service_in_the_direction_back_is_told_what_that_means() -> None:
    back = Story(prober=DESTINATION, both_ways=True, listening=(), first=10)
    verdict = judge(*joined(Story(both_ways=True), back))
    assert verdict.directions is not None
    assert verdict.directions["destination-to-source"]["blockers"] == ["service.not-running"]
    notes = [note for check in verdict.checks for note in check.notes]
    assert any("again without --both-ways" in note for note in notes)
    alone = judge(*Story(listening=()).evidence())
    assert not any("--both-ways" in note for check in alone.checks for note in check.notes)


def test_a_direction_in_which_nothing_was_tested_is_not_open() -> None:
    """It was asked for, and nothing is known of it."""
    source, destination = Story(both_ways=True).evidence()
    verdict = judge(source, destination)
    assert verdict.directions == {
        "source-to-destination": {"status": "open", "blockers": []},
        "destination-to-source": {"status": "undetermined", "blockers": []},
    }
    assert (verdict.status, verdict.reachable, verdict.blockers) == ("undetermined", "unknown", ())
    assert verdict.summary.endswith("nothing was tested, since the time allowed ran out.")
    unknown = replace_contact(destination, remote="")
    assert "no address is known at which the destination" in judge(source, unknown).summary


def replace_contact(evidence: Evidence, **changes: object) -> Evidence:
    contact = msgspec.structs.replace(evidence.contact, **changes)
    return msgspec.structs.replace(evidence, contact=contact)


def test_both_directions_blocked_name_each_its_own() -> None:
    """Where it is the same code, two computers are meant, and both are told."""
    back = always(DROPPED, prober=DESTINATION, both_ways=True, first=50)
    verdict = judge(*joined(always(DROPPED, both_ways=True), back))
    assert verdict.blockers == ("destination.firewall-drop",)
    assert verdict.directions is not None
    assert all(
        way == {"status": "blocked", "blockers": ["destination.firewall-drop"]}
        for way in verdict.directions.values()
    )
    assert "the destination's firewall" in verdict.summary
    assert "the source's firewall" in verdict.summary


# -- names with several addresses

SECOND = "192.168.7.21"
NAS = Target(text="nas.example", addresses=(SECOND, THERE))


def named(first: Story, target: Target = NAS, **more: object) -> Verdict:
    """The verdict where the name's first address fares as `first`, and the other one is open."""
    here = Story(targets=(target,), more_addresses=(SECOND,), **more)  # type: ignore[arg-type]
    return judge(*joined(here, first))


def decisive(verdict: Verdict) -> list[str]:
    return [check.address for check in verdict.checks if check.primary]


def test_a_name_with_a_dead_address_is_open_where_the_other_one_works() -> None:
    dead = always(DROPPED, to=SECOND, more_addresses=(SECOND,), targets=(NAS,), first=10)
    verdict = named(dead)
    assert (verdict.status, verdict.blockers, verdict.warnings) == ("open", (), ())
    assert verdict.candidates == ()
    assert decisive(verdict) == [THERE]
    (check,) = (c for c in verdict.checks if c.address == SECOND)
    assert [blocker.code for blocker in check.blockers] == ["destination.firewall-drop"]
    (said,) = (c.notes for c in verdict.checks if c.primary)
    assert any(f"in this order: {SECOND}, {THERE} (RFC 6724)" in note for note in said)
    assert any("tries the first address alone fails" in note for note in said)


def test_where_bothends_stood_in_for_the_service_the_name_goes_on() -> None:
    """The service listens at one of the addresses; at the other our own listener took it."""
    there = {"listening": (THERE,), "more_addresses": (SECOND,), "targets": (NAS,)}
    verdict = judge(*joined(Story(**there), Story(to=SECOND, first=10, **there)))  # type: ignore[arg-type]
    assert (verdict.status, decisive(verdict)) == ("open", [THERE])
    (other,) = (c for c in verdict.checks if not c.primary)
    assert [b.code for b in other.blockers] == ["service.wrong-interface"]


def test_two_targets_of_which_one_is_blocked_block() -> None:
    two = tuple(Target(text=a, addresses=(a,)) for a in (THERE, SECOND))
    dead = always(DROPPED, to=SECOND, more_addresses=(SECOND,), targets=two, first=10)
    verdict = judge(*joined(Story(targets=two, more_addresses=(SECOND,)), dead))
    assert verdict.blockers == ("destination.firewall-drop",)
    assert sorted(decisive(verdict)) == [THERE, SECOND]


def test_a_dead_address_that_was_typed_by_itself_decides() -> None:
    both = (NAS, Target(text=SECOND, addresses=(SECOND,)))
    dead = always(DROPPED, to=SECOND, more_addresses=(SECOND,), targets=both, first=10)
    verdict = judge(*joined(Story(targets=both, more_addresses=(SECOND,)), dead))
    assert verdict.status == "blocked"
    assert sorted(decisive(verdict)) == [THERE, SECOND]


def test_a_name_of_which_no_address_works_is_blocked_by_all() -> None:
    target = Target(text="nas.example", addresses=(SECOND, THERE))
    common: dict[str, object] = {"targets": (target,), "more_addresses": (SECOND,)}
    dead = always(DROPPED, to=SECOND, first=10, **common)
    verdict = judge(*joined(always(DROPPED, first=100, **common), dead))
    assert verdict.blockers == ("destination.firewall-drop",)
    assert sorted(decisive(verdict)) == [THERE, SECOND]
    notes = {note for check in verdict.checks for note in check.notes}
    assert any("None of them accepts a connection" in note for note in notes)


def test_a_peer_that_was_typed_as_a_name_is_one_target() -> None:
    dead = always(DROPPED, to=SECOND, more_addresses=(SECOND,), typed=(SECOND, THERE), first=10)
    source, destination = joined(Story(more_addresses=(SECOND,), typed=(SECOND, THERE)), dead)
    verdict = judge(msgspec.structs.replace(source, peers=(NAS,)), destination)
    assert verdict.status == "open"
    assert decisive(verdict) == [THERE]
    assert any("nas.example stands for" in n for c in verdict.checks for n in c.notes)
    # Two addresses typed one by one: the one by which they met decides, as ever.
    assert decisive(judge(source, destination)) == [THERE]


def test_a_temporary_address_of_the_source_is_told_where_a_filter_may_go_by_it() -> None:
    source, destination = always(DROPPED).evidence()
    mine = Address(interface="eth0", address=HERE, prefix=24, state="temporary")
    facts = msgspec.structs.replace(source.facts, addresses=(mine,))
    verdict = judge(msgspec.structs.replace(source, facts=facts), destination)
    assert any("RFC 8981" in note for check in verdict.checks for note in check.notes)
    there, here = Story().evidence()
    verdict = judge(msgspec.structs.replace(there, facts=facts), here)
    assert not any("RFC 8981" in note for check in verdict.checks for note in check.notes)


def test_one_way_has_no_directions() -> None:
    assert judge(*Story().evidence()).directions is None


# -- one side alone


@pytest.mark.parametrize("story", [always(DROPPED), always(KEPT), Story()])
def test_a_side_alone_claims_nothing(story: Story) -> None:
    for side in story.evidence():
        verdict = lost_verdict(side, "The other side is gone.")
        assert verdict.verdict_id is None
        assert verdict.status == "undetermined"
        assert verdict.reachable == "unknown"
        assert verdict.blockers == ()
        assert all(not check.blockers for check in verdict.checks)
        assert verdict.summary == "The other side is gone."


def test_a_source_alone_still_says_what_it_tried() -> None:
    source, _ = always(DROPPED).evidence()
    verdict = lost_verdict(source, "")
    assert [(check.address, check.ports) for check in verdict.checks] == [(THERE, str(PORT))]
    assert {"destination.firewall-drop", "network.drop"} <= set(verdict.candidates)


def test_an_empty_run_is_undetermined() -> None:
    verdict = judge(*Story(ports=()).evidence())
    assert (verdict.status, verdict.reachable, verdict.checks) == ("undetermined", "unknown", ())


# -- two that met at a meeting point, and of whom nobody typed an address


def unmet(side: Evidence, **changes: object) -> Evidence:
    contact = msgspec.structs.replace(
        side.contact, path="rendezvous", remote="", typed=(), proven=()
    )
    return msgspec.structs.replace(side, contact=contact, **changes)


@pytest.mark.parametrize(
    ("seen", "advice"),
    [
        ((), "with --target and the destination's address (it has 192.168.1.20)."),
        (("11.0.0.1",), "is seen as 11.0.0.1: start both again, the source with --target 11.0.0.1"),
        (("2a00:1::1", "11.0.0.1", "11.0.0.1"), "is seen as 11.0.0.1, 2a00:1::1: start"),
        (("10.0.0.1", "x; rm", ""), "with --target and the destination's address (it has"),
        (("x; rm", "::ffff:11.0.0.1"), "is seen as 11.0.0.1: start"),
    ],
)
def test_where_nothing_was_tested_the_known_addresses_are_named(
    seen: tuple[str, ...], advice: str
) -> None:
    source, destination = (unmet(side, rounds=()) for side in Story(ports=()).evidence())
    own = Address(interface="eth0", address="192.168.1.20", prefix=24)
    destination = msgspec.structs.replace(
        destination,
        facts=msgspec.structs.replace(destination.facts, addresses=(own,)),
        seen_as=tuple(SeenAs(address=address, by="stun") for address in seen),
    )
    verdict = judge(source, destination)
    assert (verdict.status, verdict.checks) == ("undetermined", ())
    assert advice in verdict.summary
    assert "rm" not in verdict.summary


def test_the_first_address_that_was_confirmed_decides() -> None:
    source, destination = Story().evidence()
    (check,) = judge(unmet(source), unmet(destination)).checks
    assert not check.primary
    (check,) = judge(unmet(source, confirmed=(THERE, "11.0.0.1")), unmet(destination)).checks
    assert check.primary


@pytest.mark.parametrize(
    ("confirmed", "shared", "named"),
    [
        ((), (), "destination.no-route"),
        (("11.0.0.1",), (), "destination.firewall-drop"),
        (("11.0.0.1",), ("11.0.0.1",), "destination.no-route"),
    ],
    ids=["not known", "confirmed", "both behind one router"],
)
def test_the_way_back_to_a_home_with_the_same_addresses_leads_to_its_public_one(
    confirmed: tuple[str, ...], shared: tuple[str, ...], named: str
) -> None:
    source, destination = Story(fates=(DROPPED,) * CERTAIN).evidence()
    nobody = Neighbour(
        destination=HERE, next_hop=HERE, interface="eth0", state="failed", hardware=None, round=1
    )
    out = Route(destination="11.0.0.1", interface="eth0", gateway=ROUTER)
    destination = unmet(destination, confirmed=confirmed, neighbours=(nobody,), routes=(out,))
    (check,) = judge(unmet(source, confirmed=shared), destination).checks
    assert check.candidates == (named,)


@pytest.mark.parametrize(("later", "named"), [(0.0, True), (100.0, False)])
def test_a_port_tried_only_while_the_card_was_down_has_a_route_all_the_same(
    later: float, *, named: bool
) -> None:
    # Meanwhile others at the address had one: it is a rule for this port. Nothing had one: the
    # card was down, and nothing is known of the port.
    source, destination = Story(fates=(NO_ROUTE,) * 3, ports=(4242, 4243)).evidence()
    assert source is not None
    attempts = tuple(
        msgspec.structs.replace(a, started=a.started + later)
        if a.port == 4243
        else msgspec.structs.replace(a, outcome="silent", error=None)
        for a in source.attempts
    )
    verdict = judge(msgspec.structs.replace(source, attempts=attempts), destination)
    assert ("source.no-route" in verdict.candidates) is named


# -- thousands of ports


def test_of_ports_for_which_too_few_were_tested_in_depth_nothing_is_claimed() -> None:
    source, destination = Story(fates=(DROPPED,) * 3).evidence()
    plan = sweep_rounds(9, SOURCE, THERE, range(4000, 5000), 1000)[0]
    rounds = (*source.rounds, plan)
    silent = pack_ports([4242, *range(4300, 5000)])
    other = pack_ports(range(4000, 4100))

    def swept(**sets: bytes) -> tuple[Swept, ...]:
        return (Swept(round=9, transport="tcp", address=THERE, sets=sets),)

    sent, came = swept(silent=silent, refused=other), swept(arrived=pack_ports(range(4000, 5000)))
    verdict = judge(
        msgspec.structs.replace(source, rounds=rounds, swept=sent),
        msgspec.structs.replace(destination, rounds=rounds, swept=came, ports=("tcp:4000-5000",)),
    )
    first, *others = verdict.checks
    assert first == msgspec.structs.replace(judge(source, destination).checks[0])
    assert {check.ports: "service.not-running" in check.candidates for check in others} == {
        "4300-4999": False,
        "4000-4099": True,
        "4100-4241,4243-4299,5000": False,
    }
    for check in others:
        assert (check.status, check.reachable, check.blockers) == ("undetermined", "unknown", ())
        assert check.primary == first.primary
        assert check.notes


def test_where_a_sweep_met_refusals_by_icmp_silence_may_be_one() -> None:
    source, destination = Story(fates=(DROPPED,) * 3).evidence()
    plan = sweep_rounds(9, SOURCE, THERE, range(4000, 5000), 1000)[0]
    rounds = (*source.rounds, plan)
    sets = {"icmp": pack_ports([4001]), "silent": pack_ports([4242])}
    sent = (Swept(round=9, transport="tcp", address=THERE, sets=sets),)
    verdict = judge(
        msgspec.structs.replace(source, rounds=rounds, swept=sent),
        msgspec.structs.replace(destination, rounds=rounds),
    )
    (check,) = [check for check in verdict.checks if check.ports == "4242"]
    assert "destination.firewall-drop" not in {blocker.code for blocker in check.blockers}
    assert {"destination.firewall-drop", "destination.firewall-reject"} <= set(check.candidates)
