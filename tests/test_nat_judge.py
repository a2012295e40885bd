"""Verdicts about routers that translate: told as two homes (`nat_builder`), and judged.

A golden table in the notation of `test_judge`: first what is found where both sides see packets,
then, where that differs, what is found by who sees less. And what must hold of any two homes, of
any evidence taken away, and of evidence that nobody honest would send.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bothends_protocol.causes import PATH_CAUSES
from bothends_protocol.counted import BurstView
from bothends_protocol.evidence import (
    Attempt,
    Connection,
    Evidence,
    HopProbe,
    Icmp,
    Mapping,
    OpenedMapping,
    Pinhole,
    Probe,
    Route,
    RouterWord,
    SeenAs,
    Sighting,
    Target,
    read_evidence,
)
from bothends_protocol.judge import _find, judge
from bothends_protocol.observations import observe
from bothends_protocol.plan import CERTAIN
from bothends_protocol.stages import Stage
from bothends_protocol.verdict import Check
from bothends_protocol.wire import pack
from evidence_builder import PORT
from nat_builder import (
    CONTROL,
    HOME,
    INSIDE,
    OTHER_INSIDE,
    PUBLIC,
    SOURCE_INSIDE,
    SOURCE_PUBLIC,
    STRANGER,
    Homes,
)
from test_judge import apart_from_name, finding, well_formed, words

changed = msgspec.structs.replace

ROUTERS = "nat.no-forward nat.double nat.no-hairpin nat.wrong-host"
"""What fits a router of which nothing is known."""


@dataclass(frozen=True)
class Row:
    """What is so, and what must be found by who sees packets."""

    name: str
    homes: Homes
    both: str
    only_source: str = ""
    only_destination: str = ""
    none: str = ""

    @property
    def told(self) -> list[tuple[str, Homes, str]]:
        source = self.only_source or self.both
        destination = self.only_destination or self.both
        blind = replace(self.homes, destination_sees=False)
        return [
            ("both", self.homes, self.both),
            ("source", blind, source),
            ("destination", replace(self.homes, source_sees=False), destination),
            ("none", replace(blind, source_sees=False), self.none or source),
        ]


GOLDEN = [
    Row(
        "forwarded, and open",
        Homes(),
        "ccccc",
    ),
    Row(
        "open, the source on the Internet itself",
        Homes(source_nat=False),
        "ccccc",
    ),
    Row(
        "open, ports changed by the source's router",
        Homes(scramble=frozenset({"source"})),
        "ccccc",
    ),
    Row(
        "forwarded, and the two met there",
        Homes(contact="direct"),
        "ccccc",
    ),
    Row(
        "not forwarded, and the router is silent",
        Homes(forward=None),
        "ccB-- nat.no-forward!",
        only_source="c???? ? nat.no-forward destination.firewall-drop network.drop",
    ),
    Row(
        "not forwarded, and the destination's router changes ports",
        Homes(forward=None, scramble=frozenset({"destination"})),
        "c???? ? nat.no-forward network.drop",
        only_source="c???? ? nat.no-forward destination.firewall-drop network.drop",
    ),
    Row(
        "not forwarded, and the router resets",
        Homes(forward=None, others="reset"),
        "ccB-- nat.no-forward!",
    ),
    Row(
        "not forwarded, and the router prohibits",
        Homes(forward=None, others="icmp"),
        "ccB-- nat.no-forward!",
    ),
    Row(
        "not forwarded, and the router says that nobody is there",
        Homes(forward=None, others="port"),
        "ccB-- nat.no-forward!",
    ),
    Row(
        "forwarded to another machine, which answers",
        Homes(forward=("other", 4242)),
        "ccB-- nat.wrong-host!",
    ),
    Row(
        "forwarded to another machine, which answers, and the service does not run",
        Homes(forward=("other", 4242), listening=()),
        "ccB-B nat.wrong-host! service.not-running~",
    ),
    Row(
        "forwarded to another machine, which refuses",
        Homes(forward=("other", 4242), other="refuses"),
        "ccB-- nat.wrong-host!",
        only_source="cc??? ? nat.wrong-host nat.wrong-port destination.firewall-reject",
    ),
    Row(
        "forwarded to another machine, which is off",
        Homes(forward=("nobody", 4242)),
        "cc??? ? nat.wrong-host network.drop",
        only_source="cc??? ? nat.wrong-host destination.firewall-drop network.drop",
    ),
    Row(
        "forwarded to another machine, as the router says",
        Homes(forward=("other", 4242), word="upnp", known_mapping=True),
        "ccB-- nat.wrong-host!",
    ),
    Row(
        "forwarded to a machine that is off, as the router says",
        Homes(forward=("nobody", 4242), word="upnp", known_mapping=True),
        "ccB-- nat.wrong-host!",
    ),
    Row(
        "forwarded to another port, where nobody is",
        Homes(forward=("destination", 4243)),
        "ccB-- nat.wrong-port!",
        only_source="cc??? ? nat.wrong-host nat.wrong-port destination.firewall-reject",
    ),
    Row(
        "forwarded to another port, where another service is",
        Homes(forward=("destination", 4243), beside=True),
        "ccB-- nat.wrong-port!",
    ),
    Row(
        "the router's own filter drops",
        Homes(router="drop"),
        "cc??? ? nat.wrong-host network.drop",
        only_source="cc??? ? nat.wrong-host destination.firewall-drop network.drop",
    ),
    Row(
        "the router's own filter resets",
        Homes(router="reset"),
        "cB--- network.reject!",
        only_source="cc??? ? nat.wrong-host destination.firewall-reject network.reject",
        only_destination="cB--- network.reject~",
    ),
    Row(
        "the router's own filter prohibits",
        Homes(router="icmp"),
        "cc??? ? nat.wrong-host network.reject",
        only_source="cc??? ? nat.wrong-host destination.firewall-reject network.reject",
    ),
    Row(
        "the destination drops",
        Homes(firewall="drop"),
        "cccB- destination.firewall-drop!",
        only_source="cc??? ? nat.wrong-host destination.firewall-drop network.drop",
    ),
    Row(
        "the destination resets",
        Homes(firewall="reset"),
        "cccB- destination.firewall-reject!",
        only_source="cc??? ? nat.wrong-host nat.wrong-port destination.firewall-reject",
    ),
    Row(
        "the destination prohibits",
        Homes(firewall="icmp"),
        "cccB- destination.firewall-reject!",
        only_source="cc??? ? nat.wrong-host destination.firewall-reject network.reject",
    ),
    Row(
        "the service does not run",
        Homes(listening=()),
        "ccccB service.not-running!",
    ),
    Row(
        "the service listens on loopback",
        Homes(listening=("127.0.0.1",)),
        "ccccB service.loopback-only!",
    ),
    Row(
        "the service hangs",
        Homes(takes=False),
        "ccccB service.hung!",
    ),
    Row(
        "not forwarded, and the service does not run",
        Homes(forward=None, listening=()),
        "ccB-B nat.no-forward! service.not-running~",
    ),
    Row(
        "not forwarded, and the service listens on loopback",
        Homes(forward=None, others="reset", listening=("127.0.0.1",)),
        "ccB-B nat.no-forward! service.loopback-only~",
    ),
    Row(
        "behind a carrier's NAT, as the router says",
        Homes(above="100.64.0.1", word="upnp"),
        "ccB-- nat.double!",
        only_source="c?B-- nat.double!",
    ),
    Row(
        "behind a carrier's NAT, as a hop shows",
        Homes(above="100.64.0.1"),
        "ccB-- nat.double!",
        only_source="c?B-- nat.double!",
    ),
    Row(
        "behind two routers, as the own one shows",
        Homes(above="10.0.0.1"),
        "ccB-- nat.double~",
        only_source="c?B-- nat.double~",
    ),
    Row(
        "behind two routers, of which the outer one resets",
        Homes(others="reset", above="10.0.0.1"),
        "ccB-- nat.double~",
    ),
    Row(
        "behind two routers, as the own one says",
        Homes(above="10.0.0.1", word="upnp"),
        "ccB-- nat.double!",
        only_source="c?B-- nat.double!",
    ),
    Row(
        "behind two routers, and nobody says so",
        Homes(others="reset", above="10.0.0.1", own_router_speaks=False),
        "cc??? ? nat.no-forward nat.double",
    ),
    Row(
        "behind two routers that forward",
        Homes(above="10.0.0.1", above_forwards=True),
        "ccccc",
    ),
    Row(
        "behind two routers that forward, and the destination drops",
        Homes(firewall="drop", above="10.0.0.1", above_forwards=True),
        "cccB- destination.firewall-drop!",
        only_source="cc??? ? nat.no-forward nat.wrong-host destination.firewall-drop network.drop",
    ),
    Row(
        "behind two routers, of which the outer one forwards",
        Homes(forward=None, above="10.0.0.1", above_forwards=True),
        "cc??? ? nat.no-forward nat.wrong-host network.drop",
        only_source="cc??? ? nat.no-forward nat.wrong-host destination.firewall-drop network.drop",
    ),
    Row(
        "in one home, and no way back inside",
        Homes(one_home=True),
        f"c???? ? {ROUTERS}",
        only_source=f"c???? ? {ROUTERS} destination.firewall-drop",
        only_destination=f"????? ? {ROUTERS} source.firewall-drop",
        none=f"????? ? {ROUTERS} destination.firewall-drop source.firewall-drop",
    ),
    Row(
        "in one home, and the answer goes straight",
        Homes(one_home=True, hairpin="half"),
        "ccBc- nat.no-hairpin!",
    ),
    Row(
        "in one home, and led back inside",
        Homes(one_home=True, hairpin="full"),
        "ccccc",
    ),
    Row(
        "in one home, and not forwarded",
        Homes(forward=None, one_home=True),
        f"c???? ? {ROUTERS}",
        only_source=f"c???? ? {ROUTERS} destination.firewall-drop",
        only_destination=f"????? ? {ROUTERS} source.firewall-drop",
        none=f"????? ? {ROUTERS} destination.firewall-drop source.firewall-drop",
    ),
    Row(
        "in one home, no way back inside, and the router says that it forwards",
        Homes(one_home=True, word="upnp", known_mapping=True),
        "c?B-- nat.no-hairpin!",
        only_source="c???? ? nat.no-hairpin destination.firewall-drop",
        only_destination="????? ? nat.no-hairpin source.firewall-drop",
        none="????? ? nat.no-hairpin destination.firewall-drop source.firewall-drop",
    ),
    Row(
        "a stranger's address, which is silent",
        Homes(address=STRANGER),
        "cB--- address.wrong-host~",
    ),
    Row(
        "a stranger's address, which refuses",
        Homes(address=STRANGER, others="reset"),
        "cB--- address.wrong-host~",
    ),
    Row(
        "the carrier drops",
        Homes(carrier="drop"),
        "c???? ? nat.no-forward network.drop",
        only_source="c???? ? nat.no-forward destination.firewall-drop network.drop",
    ),
    Row(
        "the carrier drops, and the router says that it forwards",
        Homes(carrier="drop", word="upnp", known_mapping=True),
        "cB--- network.drop~",
        only_source="c???? ? destination.firewall-drop network.drop",
    ),
    Row(
        "the carrier resets",
        Homes(carrier="reset"),
        "c???? ? nat.no-forward network.reject",
    ),
    Row(
        "the carrier prohibits",
        Homes(carrier="icmp"),
        "cB--- network.reject!",
        only_source="cB--- network.reject~",
        only_destination="cB--- network.reject~",
    ),
    Row(
        "the source's router drops",
        Homes(source_router="drop"),
        "cB--- network.drop!",
        only_source="cB--- network.drop~",
        only_destination="cB--- network.drop~",
    ),
    Row(
        "the source's router resets",
        Homes(source_router="reset"),
        "cB--- network.reject!",
        only_source="cB--- network.reject~",
        only_destination="cB--- network.reject~",
    ),
    Row(
        "the source's router prohibits",
        Homes(source_router="icmp"),
        "cB--- network.reject!",
        only_source="cB--- network.reject~",
        only_destination="cB--- network.reject~",
    ),
    Row(
        "the source drops",
        Homes(source_filter="drop"),
        "B---- source.firewall-drop!",
        only_destination="????? ? network.drop source.firewall-drop",
        none="????? ? network.drop source.firewall-drop",
    ),
    Row(
        "the source resets",
        Homes(source_filter="reset"),
        "B---- source.firewall-reject!",
        only_destination="????? ? network.reject source.firewall-reject",
        none="????? ? network.reject source.firewall-reject",
    ),
    Row(
        "the source prohibits",
        Homes(source_filter="icmp"),
        "B---- source.firewall-reject!",
        only_destination="B---- source.firewall-reject~",
        none="B---- source.firewall-reject~",
    ),
    Row(
        "not forwarded until asked to",
        Homes(forward=None, map="granted"),
        "ccB-- nat.no-forward!",
        only_source="c?B-- nat.no-forward!",
    ),
    Row(
        "forwarded for good when asked to",
        Homes(forward=None, map="granted", kept=True),
        "ccccc",
    ),
    Row(
        "forwarded when asked to, and the carrier drops",
        Homes(forward=None, carrier="drop", word="upnp", map="granted"),
        "cB--- network.drop~",
        only_source="c???? ? nat.no-forward destination.firewall-drop network.drop",
    ),
    Row(
        "not forwarded, and the router refuses to",
        Homes(forward=None, word="upnp", map="refused"),
        "ccB-- nat.no-forward!",
        only_source="c???? ? nat.no-forward destination.firewall-drop network.drop",
    ),
    Row(
        "not forwarded, and the router offers another port",
        Homes(forward=None, word="upnp", map="other-port"),
        "ccB-- nat.no-forward!",
        only_source="c???? ? nat.no-forward destination.firewall-drop network.drop",
    ),
    Row(
        "forwarded for good when asked to, and the service does not run",
        Homes(forward=None, listening=(), map="granted", kept=True),
        "ccccB service.not-running!",
    ),
    Row(
        "forwarded when asked to, and the destination drops",
        Homes(forward=None, firewall="drop", map="granted"),
        "ccBB- nat.no-forward! destination.firewall-drop!",
        only_source="c???? ? nat.no-forward destination.firewall-drop network.drop",
    ),
    Row(
        "not forwarded, and nobody says how the two look",
        Homes(forward=None, told=False),
        f"c???? ? {ROUTERS} network.drop address.wrong-host",
        only_source=f"c???? ? {ROUTERS} destination.firewall-drop network.drop address.wrong-host",
    ),
]


def judged(homes: Homes) -> Check:
    (check,) = judge(*homes.evidence()).checks
    return check


@pytest.mark.parametrize(
    ("homes", "expected"),
    [
        pytest.param(homes, expected, id=f"{row.name}-{who}")
        for row in GOLDEN
        for who, homes, expected in row.told
    ],
)
def test_golden(homes: Homes, expected: str) -> None:
    check = judged(homes)
    assert finding(check) == words(expected)
    assert {blocker.code for blocker in check.blockers} <= homes.causes
    assert check.next_step or check.status != "undetermined"
    assert all(blocker.because and blocker.fix for blocker in check.blockers)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: row.name)
def test_golden_verdicts_are_well_formed_and_the_same_on_both_sides(row: Row) -> None:
    for _, homes, _ in row.told:
        source, destination = homes.evidence()
        verdict = judge(source, destination)
        well_formed(verdict)
        other = judge(read_evidence(pack(source)), read_evidence(pack(destination)))
        assert pack(other) == pack(verdict)


def test_every_cause_of_a_router_is_named_in_some_row() -> None:
    named = {b.code for row in GOLDEN for b in judged(row.homes).blockers}
    known = {cause.code for cause in PATH_CAUSES if cause.code.startswith("nat.")}
    assert known <= named


# -- any two homes


@st.composite
def any_homes(draw: st.DrawFn) -> Homes:
    """Two homes with one thing wrong on the way at most, or two, and any witnesses."""

    def often(usual: object, *others: object) -> object:
        return draw(st.sampled_from([usual] * 2 * len(others) + list(others)))

    refusals = ("drop", "reset", "icmp")
    facts = {
        "address": often(PUBLIC, STRANGER),
        "forward": draw(
            st.sampled_from(
                [
                    *[("destination", PORT)] * 3,
                    *[None] * 3,
                    ("other", PORT),
                    ("nobody", PORT),
                    ("destination", PORT + 1),
                ]
            )
        ),
        "others": draw(st.sampled_from(["drop", "reset", "icmp", "port"])),
        "other": draw(st.sampled_from(["answers", "refuses"])),
        "router": often("", *refusals),
        "carrier": often("", *refusals),
        "source_router": often("", *refusals),
        "source_filter": often("", *refusals),
        "firewall": often("", *refusals, "port"),
        "listening": often(("0.0.0.0",), (), ("127.0.0.1",)),
        "takes": often(True, False),
        "beside": draw(st.booleans()),
        "above": often("", "100.64.0.1", "10.0.0.1"),
        "source_nat": draw(st.booleans()),
        "scramble": often(frozenset(), frozenset({"source"}), frozenset({"destination"})),
        "one_home": often(False, True),
        "hairpin": draw(st.sampled_from(["none", "half", "full"])),
        "map": often("", "granted", "refused", "other-port"),
        "contact": draw(st.sampled_from(["rendezvous", "direct"])),
        "known_mapping": draw(st.booleans()),
        "word": draw(st.sampled_from(["", "upnp"])),
        **{
            name: draw(st.booleans())
            for name in ("source_sees", "destination_sees", "traces", "looks", "told", "kept")
        },
        "own_router_speaks": often(True, False),
        "tags": often(True, False),
    }
    if facts["one_home"]:
        facts |= {"contact": "rendezvous", "source_nat": True, "above": ""}
        facts |= {"address": PUBLIC, "scramble": frozenset()}
    if facts["forward"] is not None or facts["router"]:
        facts["map"] = ""
    return Homes(**facts)  # type: ignore[arg-type]


def honest(homes: Homes, check: Check) -> None:
    """Nothing is named that is not so; what is so is not ruled out; and no false success."""
    causes = homes.causes
    named = {blocker.code for blocker in check.blockers}
    assert named <= causes
    left_open = homes.map == "granted" and homes.kept
    if causes and not left_open:
        assert check.status != "open"
    first = homes.path_causes
    if len(first) == 1 and check.reachable == "no" and not named:
        assert first <= set(check.candidates)


@settings(max_examples=200)
@given(any_homes())
def test_no_two_homes_are_blamed_for_what_is_not_so(homes: Homes) -> None:
    honest(homes, judged(homes))


@settings(max_examples=150)
@given(
    any_homes(),
    st.sets(st.integers(0, CERTAIN - 1), max_size=CERTAIN - 3),
    st.sets(st.integers(0, 30), max_size=4),
)
def test_lost_packets_are_no_filter(homes: Homes, lost: set[int], probes: set[int]) -> None:
    lossy = replace(homes, lost=frozenset(lost), probes_lost=frozenset(probes))
    check = judged(lossy)
    assert {blocker.code for blocker in check.blockers} <= homes.causes
    assert check.status != "open" or not homes.causes or (homes.map == "granted" and homes.kept)


KINDS = (
    "hop_probes",
    "router_words",
    "seen_as",
    "pinholes",
    "opened",
    "acceptances",
    "routes",
    "rounds",
)
"""Evidence without which a judge must do, or so much as misses it."""


@settings(max_examples=150)
@given(any_homes(), st.sets(st.sampled_from(KINDS)), st.sets(st.sampled_from(KINDS)))
def test_evidence_that_is_missing_names_nobody_else(
    homes: Homes, here: set[str], there: set[str]
) -> None:
    source, destination = homes.evidence()
    # Without its rounds on either side nobody knows which attempts had help.
    here.discard("rounds")
    source, destination = (
        changed(side, **dict.fromkeys(gone, ()))
        for side, gone in ((source, here), (destination, there))
    )
    for check in judge(source, destination).checks:
        assert {blocker.code for blocker in check.blockers} <= homes.causes


@settings(max_examples=100)
@given(homes=any_homes(), source_sees=st.booleans(), destination_sees=st.booleans())
def test_with_fewer_witnesses_no_other_cause_is_named(
    homes: Homes, *, source_sees: bool, destination_sees: bool
) -> None:
    full = replace(homes, source_sees=True, destination_sees=True)
    less = judged(replace(full, source_sees=source_sees, destination_sees=destination_sees))
    assert {blocker.code for blocker in less.blockers} <= homes.causes
    assert {less.status, judged(full).status} != {"open", "blocked"}


# -- evidence that nobody honest would send

texts = st.sampled_from(
    [
        "",
        "nonsense",
        "999.1.1.1",
        "fe80::1%eth0",
        "::ffff:11.0.1.1",
        "2001:db8::1",
        "0.0.0.0",
        "100.64.0.1",
        HOME,
        INSIDE,
        OTHER_INSIDE,
        PUBLIC,
        SOURCE_INSIDE,
        SOURCE_PUBLIC,
        STRANGER,
    ]
)
ports = st.sampled_from([0, 1, PORT, PORT + 1, CONTROL, 40_001, 65535])
numbers = st.integers(0, 4)
errors = st.none() | st.builds(Icmp, kind=numbers, code=numbers, sender=texts)
outcomes = st.sampled_from(["expired", "connected", "refused", "unreachable", "silent", "x"])
mss = st.sampled_from([0, 600, 640, 641, 700, 1151, 1152, 65535])
tcp = st.sampled_from(["tcp", "udp", "x"])


def some(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(strategy, max_size=4).map(tuple)


hostile = st.fixed_dictionaries(
    {},
    optional={
        "hop_probes": some(
            st.builds(
                HopProbe,
                round=numbers,
                transport=tcp,
                address=texts,
                port=ports,
                hops=st.integers(0, 255),
                outcome=outcomes,
                icmp=errors,
                least=st.integers(0, 255),
            )
        ),
        "router_words": some(
            st.builds(
                RouterWord,
                protocol=texts,
                router=texts,
                outcome=st.sampled_from(["answers", "silent", "x"]),
                outside=st.none() | texts,
                mappings=some(
                    st.builds(
                        Mapping,
                        transport=tcp,
                        port=ports,
                        client=st.none() | texts,
                        client_port=ports,
                        enabled=st.booleans(),
                    )
                ),
            )
        ),
        "seen_as": some(st.builds(SeenAs, address=texts, by=texts)),
        "confirmed": some(texts),
        "pinholes": some(
            st.builds(
                Pinhole,
                round=numbers,
                transport=tcp,
                local_port=ports,
                remote=texts,
                remote_port=ports,
                hops=numbers,
                sent=st.booleans(),
            )
        ),
        "opened": some(
            st.builds(
                OpenedMapping,
                round=numbers,
                transport=tcp,
                port=ports,
                protocol=texts,
                router=texts,
                outcome=st.sampled_from(["granted", "refused", "x"]),
                kept=st.booleans(),
            )
        ),
        "attempts": some(
            st.builds(
                Attempt,
                round=numbers,
                transport=tcp,
                address=texts,
                port=ports,
                local_address=texts,
                local_port=ports,
                started=st.just(0.0),
                ended=st.none(),
                outcome=outcomes,
                icmp=errors,
                spoke=st.sampled_from(["challenge", "other", "nothing", "closed", "x"]),
                tag=mss,
            )
        ),
        "sightings": some(
            st.builds(
                Sighting,
                at=st.just(0.0),
                way=st.sampled_from(["in", "out", "x"]),
                interface=texts,
                transport=tcp,
                source=texts,
                source_port=ports,
                destination=texts,
                destination_port=ports,
                flags=st.sampled_from(["S", "SA", "AR", ""]),
                mss=mss,
                icmp=errors,
            )
        ),
        "connections": some(
            st.builds(
                Connection,
                round=numbers,
                transport=tcp,
                state=st.sampled_from(["SYN_RECV", "ESTABLISHED", "x"]),
                local_address=texts,
                local_port=ports,
                remote_address=texts,
                remote_port=ports,
            )
        ),
        "routes": some(st.builds(Route, destination=texts, source=texts, gateway=texts)),
    },
)


@settings(max_examples=150)
@given(any_homes(), hostile, hostile)
def test_any_evidence_is_judged_and_by_both_sides_alike(
    homes: Homes, here: dict[str, object], there: dict[str, object]
) -> None:
    source, destination = homes.evidence()
    source, destination = changed(source, **here), changed(destination, **there)
    verdict = judge(source, destination)
    well_formed(verdict)
    other = judge(read_evidence(pack(source)), read_evidence(pack(destination)))
    assert pack(other) == pack(verdict)


# -- several addresses, other people's connections, other ways out


def together(*several: Homes) -> tuple[Evidence, Evidence]:
    """One run in which all of the addresses of `several` were tested, in the same rounds."""
    sides = list(zip(*(homes.evidence() for homes in several), strict=True))
    names = (
        "attempts",
        "hop_probes",
        "sightings",
        "own_listeners",
        "acceptances",
        "listeners",
        "connections",
        "routes",
    )
    rounds = changed(
        sides[0][0].rounds[0],
        probes=tuple(Probe(transport="tcp", address=h.address, port=PORT) for h in several),
    )
    merged = [
        changed(
            side[0],
            rounds=(rounds,),
            targets=(Target(text="x", addresses=(several[0].address,)),),
            **{
                n: tuple(dict.fromkeys(r for part in side for r in getattr(part, n))) for n in names
            },
        )
        for side in sides
    ]
    return merged[0], merged[1]


def findings(*several: Homes) -> dict[str, str]:
    return {check.address: finding(check) for check in judge(*together(*several)).checks}


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("scramble", [frozenset(), frozenset({"source"})], ids=["keeps", "changes"])
def test_a_stranger_that_answers_is_not_the_destination_beside_it(
    *, sees: bool, scramble: frozenset[str]
) -> None:
    # Rows of the connections to the right address are none of those to the stranger's.
    there = Homes(destination_sees=sees, pinholes=False, attempts=1, scramble=scramble)
    stranger = replace(there, address=STRANGER, forward=("other", PORT), first=10, attempts=3)
    source, destination = together(stranger, there)
    taken = [
        changed(a, outcome="connected", spoke="other", error=None) if a.address == STRANGER else a
        for a in source.attempts
    ]
    source = changed(source, attempts=tuple(taken), hop_probes=())
    by_address = {check.address: check for check in judge(source, destination).checks}
    assert by_address[STRANGER].status != "open"
    assert {b.code for b in by_address[STRANGER].blockers} <= {"address.wrong-host"}
    assert by_address[PUBLIC].status == ("open" if sees or not scramble else "undetermined")


@pytest.mark.parametrize("sees", [True, False])
def test_what_comes_in_by_the_inside_address_says_nothing_of_the_router(*, sees: bool) -> None:
    # Both in one home: the inside address works, and its requests bear the source's own address.
    outside = Homes(one_home=True, forward=None, destination_sees=sees, pinholes=False)
    source, destination = together(outside)
    inside = [
        changed(a, address=INSIDE, local_port=a.local_port + 500, tag=a.tag + 100)
        for a in source.attempts
    ]
    inside = [changed(a, outcome="connected", ended=0.1) for a in inside]
    rows = [
        Connection(
            round=1,
            transport="tcp",
            state="ESTABLISHED",
            local_address=INSIDE,
            local_port=PORT,
            remote_address=SOURCE_INSIDE,
            remote_port=a.local_port,
        )
        for a in inside
    ]
    probes = (*source.rounds[0].probes, Probe(transport="tcp", address=INSIDE, port=PORT))
    rounds = (changed(source.rounds[0], probes=probes),)
    source = changed(source, rounds=rounds, attempts=(*source.attempts, *inside))
    destination = changed(destination, rounds=rounds, connections=tuple(rows))
    check = next(c for c in judge(source, destination).checks if c.address == PUBLIC)
    assert check.blockers == ()
    assert {"nat.no-forward", "nat.no-hairpin"} <= set(check.candidates)


def test_a_neighbour_of_the_destination_with_the_sources_address_is_not_the_source() -> None:
    # Both homes number their computers alike, and one of them uses the service.
    homes = Homes(forward=None, destination_sees=False)
    source, destination = homes.evidence()
    neighbour = Connection(
        round=1,
        transport="tcp",
        state="ESTABLISHED",
        local_address=INSIDE,
        local_port=PORT,
        remote_address=SOURCE_INSIDE,
        remote_port=50_123,
    )
    noisy = changed(destination, connections=(neighbour,))
    assert apart_from_name(judge(source, noisy)) == apart_from_name(judge(source, destination))


def test_another_client_behind_the_sources_router_does_not_make_the_port_open() -> None:
    # It came by another way, before: none of what the destination's card shows now is its.
    homes = Homes(forward=("other", PORT))
    source, destination = homes.evidence()
    other = Connection(
        round=1,
        transport="tcp",
        state="ESTABLISHED",
        local_address=INSIDE,
        local_port=PORT,
        remote_address=SOURCE_PUBLIC,
        remote_port=50_123,
    )
    (check,) = judge(source, changed(destination, connections=(other,))).checks
    assert finding(check) == finding(judged(homes))


@pytest.mark.parametrize("sees", [True, False])
def test_a_tunnel_of_the_destinations_makes_its_router_nobody_elses(*, sees: bool) -> None:
    # Others see the destination at the tunnel's end; the router says that it has the address.
    homes = Homes(forward=None, word="upnp", destination_sees=sees, looks=False)
    source, destination = homes.evidence()
    seen = SeenAs(address="11.0.77.1", by="stun")
    source = changed(source, confirmed=())
    destination = changed(destination, seen_as=(seen,))
    (check,) = judge(source, destination).checks
    assert {b.code for b in check.blockers} <= {"nat.no-forward"}
    assert "nat.no-forward" in check.candidates


def test_another_way_out_of_the_destination_is_never_proven_to_be_a_strangers() -> None:
    # It has two, and nobody told of the one that is tested.
    source, destination = Homes(address=STRANGER).evidence()
    (check,) = judge(source, destination).checks
    assert [(b.code, b.confidence) for b in check.blockers] == [("address.wrong-host", "likely")]


def test_of_ipv6_no_router_is_blamed() -> None:
    six, other = "2a00:1::20", "2a00:2::20"
    source, destination = Homes(pinholes=False, traces=False).evidence()
    facts = changed(
        destination.facts,
        addresses=(
            *destination.facts.addresses,
            changed(destination.facts.addresses[0], address=six),
        ),
    )
    destination = changed(
        destination,
        facts=facts,
        sightings=(),
        connections=(),
        own_listeners=(),
        seen_as=(SeenAs(address=six, by="stun"), *destination.seen_as),
    )
    for address, causes in ((six, ["network.drop"]), (other, ["address.wrong-host"])):
        probes = (Probe(transport="tcp", address=address, port=PORT),)
        rounds = (changed(source.rounds[0], probes=probes),)
        attempts = tuple(
            changed(a, address=address, local_address="2a00:3::10", outcome="silent", ended=None)
            for a in source.attempts
        )
        sent = tuple(
            changed(s, source="2a00:3::10", destination=address)
            for s in source.sightings
            if s.way == "out"
        )
        probing = changed(
            source,
            rounds=rounds,
            attempts=attempts,
            sightings=sent,
            targets=(Target(text=address, addresses=(address,)),),
        )
        (check,) = judge(probing, changed(destination, rounds=rounds)).checks
        codes = [b.code for b in check.blockers if not b.code.startswith("service.")]
        assert codes == causes


def test_a_hop_that_lost_two_requests_is_no_filter() -> None:
    # Both that were to end before the router are lost; what is asked again says so.
    homes = Homes(forward=None, others="drop", pinholes=False)
    assert "nat.no-forward" in judged(replace(homes, probes_lost=frozenset({6, 7}))).candidates
    source, destination = replace(homes, probes_lost=frozenset({6, 7})).evidence()
    few = changed(source, hop_probes=source.hop_probes[:12])
    (check,) = judge(few, destination).checks
    assert check.blockers == ()
    assert {"nat.no-forward", "network.drop"} <= set(check.candidates)


def test_a_mapping_that_lets_nothing_in_accuses_nobody_unless_packets_are_seen() -> None:
    # Not forwarded, and the destination drops what comes in once it is: its own filter is behind.
    homes = Homes(forward=None, map="granted", firewall="drop", listening=(), looks=False)
    for sees in (True, False):
        check = judged(replace(homes, destination_sees=sees))
        assert {b.code for b in check.blockers} <= homes.causes
        assert "nat.no-forward" in check.candidates


def test_the_segments_before_a_filter_are_not_called_clear() -> None:
    check = judged(Homes(source_filter="reset", source_sees=False, destination_sees=False))
    states = {segment.name: segment.status for segment in check.segments}
    assert (states["source"], states["network"]) == ("unknown", "unknown")


def test_attempts_that_had_help_are_no_part_of_the_answer() -> None:
    homes = Homes(forward=None, map="granted")
    journey = observe(*homes.evidence(), ("tcp", PUBLIC, PORT))
    assert len(journey.trails) == CERTAIN
    assert not any(trail.connected for trail in journey.trails)
    assert journey.translation is not None
    assert journey.translation.through_mapping is True


# -- where counters tell what nobody sees


def counted(homes: Homes, *, refused: bool | None = False, **reached: bool) -> tuple[str, ...]:
    """The causes named, or else the candidates, where a coded burst told so much of the stages."""
    blind = replace(homes, source_sees=False, destination_sees=False)
    view = BurstView(
        sent=144,
        reached={Stage[name.upper()]: told for name, told in reached.items()},
        inferred=frozenset(),
        forwarded=False,
        kept=False,
        limited=False,
        overflowed=False,
        received=None,
        misrouted=False,
        refused=refused,
    )
    journey = msgspec.structs.replace(
        observe(*blind.evidence(), ("tcp", homes.address, PORT)), burst=view
    )
    found = _find(journey, losing=False)
    named = tuple(code for code, _, _ in found.causes)
    assert set(named) <= homes.causes
    return named or ("?", *found.candidates)


@pytest.mark.parametrize(
    ("homes", "told", "found"),
    [
        (
            Homes(firewall="drop"),
            {"left": True, "arrived": True, "delivered": False},
            ("destination.firewall-drop",),
        ),
        (
            Homes(firewall="reset"),
            {"left": True, "arrived": True, "delivered": False, "replied": True},
            ("destination.firewall-reject",),
        ),
        (
            Homes(forward=("destination", 4243), listening=()),
            {"left": True, "arrived": True, "refused": True},
            ("nat.wrong-port", "service.not-running"),
        ),
        (
            Homes(forward=("other", PORT), other="refuses"),
            {"left": True, "arrived": False},
            ("nat.wrong-host",),
        ),
        (
            Homes(forward=("nobody", PORT)),
            {"left": True, "arrived": False},
            ("?", "nat.wrong-host", "network.drop"),
        ),
        (
            Homes(forward=None),
            {"left": True, "arrived": False},
            ("?", "nat.no-forward", "network.drop"),
        ),
        (Homes(source_filter="drop"), {"left": False}, ("source.firewall-drop",)),
        (Homes(source_filter="reset"), {"left": False}, ("source.firewall-reject",)),
        (
            Homes(one_home=True, hairpin="half", sockets=False),
            {"left": True, "arrived": True, "delivered": True, "replied": True, "returned": True},
            ("?", "nat.no-hairpin", "source.reply-blocked"),
        ),
    ],
)
def test_what_counters_add(homes: Homes, told: dict[str, bool], found: tuple[str, ...]) -> None:
    assert counted(homes, **told) == found


@pytest.mark.parametrize("source_sees", [True, False])
def test_a_local_port_that_is_used_twice_makes_no_request_of_another(*, source_sees: bool) -> None:
    homes = Homes(forward=None, others="drop", source_sees=source_sees)
    (expected,), (check,) = (
        judge(*each.evidence()).checks for each in (homes, replace(homes, reused=True))
    )
    assert [blocker.code for blocker in check.blockers] == ["nat.no-forward"]
    assert check.blockers == expected.blockers
