"""Thousands of ports: each gets a request, and each is named with what holds for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from bothends_protocol.ports import format_ports, parse_ports
from bothends_protocol.session import MAX_ROUTED

from . import agents, faults, network
from .hosts import Lab
from .network import Stage
from .services import Service

pytestmark = pytest.mark.lab

RANGE = "1024-6999"
DROP, REJECT = "destination.firewall-drop", "destination.firewall-reject"
NOT_RUNNING, SOURCE_DROP = "service.not-running", "source.firewall-drop"
NETWORK_DROP = "network.drop"
OPEN: frozenset[str] = frozenset()

everybody = pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])


@dataclasses.dataclass(frozen=True)
class Case:
    """What is wrong, and what is to be said of which ports."""

    faults: tuple[Callable[[Stage], None], ...]
    blocked: dict[str, frozenset[str]]


def rejects(ports: str) -> Callable[[Stage], None]:
    return faults.rules(
        "destination", "input", f"tcp dport {ports} counter reject with {faults.RESET}"
    )


def at_home(ports: str) -> Callable[[Stage], None]:
    return faults.rules("source", "output", f"tcp dport {ports} counter drop")


def entries(stage: Stage) -> int:
    """Connections that the router keeps in mind."""
    found = stage.routers[0].run(["cat", "/proc/sys/net/netfilter/nf_conntrack_count"])
    return int(found.stdout)


CLOSED = frozenset({NOT_RUNNING})
CASES = {
    "closed": Case((), {"1024-4241,4243-6999": CLOSED, "4242": OPEN}),
    "dropped": Case(
        (faults.destination_drop("1024-6999"),),
        {"1024-4241,4243-6999": frozenset({DROP, NOT_RUNNING}), "4242": frozenset({DROP})},
    ),
    "mixed": Case(
        (faults.destination_drop("2000-2999"), rejects("3000-3999"), at_home("5000-5999")),
        {
            "1024-1999,4000-4241,4243-4999,6000-6999": CLOSED,
            "2000-2999": frozenset({DROP, NOT_RUNNING}),
            "3000-3999": frozenset({REJECT, NOT_RUNNING}),
            "5000-5999": frozenset({SOURCE_DROP, NOT_RUNNING}),
            "4242": OPEN,
        },
    ),
}


def run(
    stage: Stage, ports: str = RANGE, *, as_user: bool = False, options: Iterable[str] = ()
) -> Any:
    """Test the ports, with `options` on both sides; return the document on which both agree."""
    ends = [
        agents.destination(stage, *options, ports=ports, as_user=as_user),
        agents.source(stage, *options, as_user=as_user),
    ]
    results = agents.finish(ends)
    documents = [result.document for result in results]
    told = "\n".join(f"{r.side} ({r.code}): {r.stdout[:3000]}\n{r.stderr}" for r in results)
    assert all(documents), told
    assert len({str(d["verdict_id"]) for d in documents if d}) == 1, told
    return documents[0]


def named(checks: Iterable[dict[str, Any]]) -> dict[int, tuple[str, frozenset[str]]]:
    """Of each port the status, and the blockers that are named."""
    found: dict[int, tuple[str, frozenset[str]]] = {}
    for check in checks:
        codes = frozenset(blocker["code"] for blocker in check["blockers"])
        for port in parse_ports(check["ports"])[0]:
            assert port not in found, f"{port} is in two checks"
            found[port] = check["status"], codes
    return found


def candidates(checks: Iterable[dict[str, Any]]) -> dict[int, frozenset[str]]:
    return {
        port: frozenset(check["candidates"])
        for check in checks
        for port in parse_ports(check["ports"])[0]
    }


def expected(case: Case) -> dict[int, tuple[str, frozenset[str]]]:
    return {
        port: ("blocked" if codes else "open", codes)
        for text, codes in case.blocked.items()
        for port in parse_ports(text)[0]
    }


@pytest.mark.parametrize("name", CASES)
def test_each_port_is_named_with_what_holds_for_it(lab: Lab, name: str) -> None:
    stage, case = network.lan(lab), CASES[name]
    service = Service()(stage)
    for fault in case.faults:
        fault(stage)
    assert named(run(stage)["checks"]) == expected(case)
    assert service.poll() is None, service.stderr


@pytest.mark.parametrize("name", CASES)
def test_without_privilege_nothing_wrong_is_said_of_any(lab: Lab, name: str) -> None:
    stage, case = network.lan(lab), CASES[name]
    service = Service()(stage)
    for fault in case.faults:
        fault(stage)
    checks = run(stage, as_user=True)["checks"]
    told, open_to, wanted = named(checks), candidates(checks), expected(case)
    assert told.keys() == wanted.keys()
    wrong = [
        port
        for port, (status, codes) in told.items()
        if not codes <= wanted[port][1]
        or (status == "open") > (wanted[port][0] == "open")
        or (status != "open" and not wanted[port][1] <= codes | open_to[port])
    ]
    assert not wrong, format_ports(wrong)
    # What came through to the agent's own listener is known of each; and so it is that nobody
    # listens, whatever stops the requests.
    through = [port for port, (_, codes) in wanted.items() if codes == CLOSED]
    assert not [port for port in through if told[port] != ("blocked", CLOSED)]
    assert not [
        p for p, (_, codes) in wanted.items() if codes >= CLOSED and not told[p][1] >= CLOSED
    ]
    assert service.poll() is None, service.stderr


@everybody
def test_what_refuses_a_word_a_second_is_never_called_a_drop(lab: Lab, as_user: bool) -> None:  # noqa: FBT001
    stage = network.lan(lab)
    Service()(stage)
    faults.rules("destination", "input", f"tcp dport {RANGE} counter reject")(stage)
    checks = run(stage, as_user=as_user)["checks"]
    told, open_to = named(checks), candidates(checks)
    assert len(told) == 5976
    assert not [port for port, (_, codes) in told.items() if DROP in codes]
    unsaid = [p for p, (_, codes) in told.items() if REJECT not in codes | open_to[p]]
    assert not unsaid, format_ports(unsaid)


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
def test_where_packets_are_lost_nothing_wrong_is_said(lab: Lab, as_user: bool) -> None:  # noqa: FBT001
    stage, case = network.lan(lab), CASES["mixed"]
    Service()(stage)
    for fault in case.faults:
        fault(stage)
    faults.loss(5)(stage)
    checks = run(stage, as_user=as_user)["checks"]
    told, wanted = named(checks), expected(case)
    assert told.keys() == wanted.keys()
    wrong = [p for p, (_, codes) in told.items() if not codes <= wanted[p][1]]
    assert not wrong, format_ports(wrong)


def test_by_six(lab: Lab) -> None:
    stage = network.lan6(lab)
    Service(bind=("::",))(stage)
    faults.destination_drop("2000-2999")(stage)
    told = named(run(stage)["checks"])
    assert {told[port] for port in range(2000, 3000)} == {
        ("blocked", frozenset({DROP, NOT_RUNNING}))
    }
    assert {told[port] for port in range(4243, 7000)} == {("blocked", CLOSED)}


def test_both_ways(lab: Lab) -> None:
    stage = network.lan(lab)
    faults.destination_drop("2000-2999")(stage)
    checks = run(stage, options=["--both-ways"])["checks"]
    forth, back = (
        named(check for check in checks if check["direction"].startswith(role))
        for role in ("source", "destination")
    )
    assert set(forth) == set(back) == set(range(1024, 7000))
    assert {codes for _, codes in back.values()} == {CLOSED}
    assert {forth[port][1] for port in range(2000, 3000)} == {frozenset({DROP, NOT_RUNNING})}


@everybody
def test_across_a_router_a_sample_gets_requests_and_the_rest_is_said_not_to(
    lab: Lab,
    as_user: bool,  # noqa: FBT001
) -> None:
    stage = network.routed(lab)
    Service()(stage)
    faults.destination_drop("2000-2999")(stage)
    document = run(stage, as_user=as_user)
    told = named(document["checks"])
    assert told.keys() == set(range(1024, 7000))
    open_to = candidates(document["checks"])
    tried = {port for port, (_, codes) in told.items() if codes or open_to[port]}
    assert 240 < len(tried) <= MAX_ROUTED
    # Programs are tested all the same, and edges to the very port.
    assert told[4242] == ("open", OPEN)
    assert {1999, 2000, 2999, 3000} <= tried
    assert {told[port][1] for port in tried if not 2000 <= port < 3000} == {CLOSED}
    inside = [port for port in tried if 2000 <= port < 3000]
    assert all(told[port][1] <= {DROP, NOT_RUNNING} <= open_to[port] for port in inside)
    left = [c for c in document["checks"] if any("no request" in note for note in c["notes"])]
    assert [check["status"] for check in left] == ["undetermined"]
    assert str(DROP) not in left[0]["candidates"]
    # What the router has to keep in mind is bounded.
    assert entries(stage) < MAX_ROUTED + 1000


def test_across_a_router_all_get_requests_where_both_say_fast(lab: Lab) -> None:
    stage = network.routed(lab)
    faults.destination_drop("2000-2999")(stage)
    told = named(run(stage, options=["--fast"])["checks"])
    assert {told[port][1] for port in range(2000, 3000)} == {frozenset({DROP, NOT_RUNNING})}
    assert {codes for port, (_, codes) in told.items() if not 2000 <= port < 3000} == {CLOSED}


def test_a_router_that_passes_few_requests_on_is_no_firewall(lab: Lab) -> None:
    """What it drops of many at once is lost, and is asked again at another pace."""
    stage = network.routed(lab)
    faults.rules("router1", "forward", "tcp flags syn limit rate over 400/second counter drop")(
        stage
    )
    told = named(run(stage, options=["--fast"])["checks"])
    assert told.keys() == set(range(1024, 7000))
    wrong = [port for port, (_, codes) in told.items() if not codes <= CLOSED | {NETWORK_DROP}]
    assert not wrong
    assert [port for port, (_, codes) in told.items() if NETWORK_DROP in codes] == []


@pytest.mark.parametrize("room", [1024, 400])
def test_few_descriptors_make_smaller_waves(lab: Lab, room: int) -> None:
    stage, case = network.lan(lab), CASES["mixed"]
    Service()(stage)
    for fault in case.faults:
        fault(stage)
    limit = ["prlimit", f"--nofile={room}:{room}"]
    common = ["--json", "--no-mdns", "--code", agents.CODE, "--peer"]
    ends = [
        agents.agent(host, *words, *common, peer, before=limit)
        for host, words, peer in (
            (stage.destination, ("destination", RANGE), stage.source_address),
            (stage.source, ("source",), stage.destination_address),
        )
    ]
    results = agents.finish(ends)
    documents = [result.document for result in results]
    told = "\n".join(f"{r.side} ({r.code}): {r.stdout[:3000]}\n{r.stderr}" for r in results)
    assert documents[0], told
    assert named(documents[0]["checks"]) == expected(case)


BAN = """
table inet ban {
    set banned { type ipv4_addr; timeout 10m; }
    chain HOOK {
        type filter hook HOOK priority -5; policy accept;
        tcp dport 24242 accept
        ip saddr @banned tcp flags & (syn | ack) == syn drop
        tcp flags & (syn | ack) == syn limit rate over 20/second burst 800 packets \
            add @banned { ip saddr } drop
    }
}
"""
"""Whoever asks at many ports is shut out, with what is open already left alone."""


@pytest.mark.parametrize("place", ["destination", "router1"])
@everybody
def test_who_is_shut_out_for_asking_so_much_blames_no_port_on_it(
    lab: Lab,
    place: str,
    as_user: bool,  # noqa: FBT001
) -> None:
    stage = network.routed(lab)
    hook = "input" if place == "destination" else "forward"
    stage.host(place).nft(BAN.replace("HOOK", hook))
    checks = run(stage, as_user=as_user, options=["--fast"])["checks"]
    told, open_to = named(checks), candidates(checks)
    assert told.keys() == set(range(1024, 7000))
    blamed = [port for port, (_, codes) in told.items() if not codes <= CLOSED]
    assert not blamed, format_ports(blamed)
    truth = NETWORK_DROP if place == "router1" else DROP
    assert any(truth in codes for codes in open_to.values())


LIMITED = """
table inet limited {
    chain input {
        type filter hook input priority -5; policy accept;
        tcp dport 3500-3600 tcp flags & (syn | ack) == syn \
            limit rate over 1/minute burst 101 packets drop
    }
}
"""


def test_ports_that_are_limited_hide_no_cause_of_others(lab: Lab) -> None:
    stage = network.lan(lab)
    stage.destination.nft(LIMITED)
    faults.destination_drop("5000-5999")(stage)
    checks = run(stage)["checks"]
    told = named(checks)
    assert {told[port][1] for port in range(5000, 6000)} == {frozenset({DROP, NOT_RUNNING})}
    assert {told[port][1] for port in range(4000, 5000)} == {CLOSED}
    # One of the limited ones is tested in depth: it answered, and then no more.
    assert all(told[port][1] <= CLOSED for port in range(3500, 3601))
    (limited,) = [check for check in checks if check["ports"] == "3511"]
    assert DROP in limited["candidates"]
    assert "answered at first" in limited["next_step"]


def test_the_control_port_is_left_out_of_a_wide_range(lab: Lab) -> None:
    stage = network.lan(lab)
    told = named(run(stage, "20000-29999")["checks"])
    assert told.keys() == {*range(20000, 30000)} - {24242}
