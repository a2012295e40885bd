"""By UDP: which of two transports is blamed, what reaches a service, and ports in ranges."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import pytest

from . import agents, faults, scenario, serve
from .hosts import Host, Process
from .network import DESTINATION_PUBLIC, Stage
from .scenarios import SCENARIOS
from .services import Service
from .test_saved import carried, combine, document, evidence

pytestmark = pytest.mark.lab

BOTH = "tcp:4242,udp:4242"
UDP = Service(udp=True)
TCP = dataclasses.replace(UDP, udp=False)
PLACE = "/run/received"

RECORD = f"""
import os, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 4242))
os.write({serve.READY_FD}, b"ready\\n")
with open({PLACE!r}, "w", encoding="ascii", buffering=1) as file:
    while True:
        print(sock.recv(65536).hex() or "-", file=file)
"""
"""A service that writes down what it is sent, a line for each datagram."""

users = pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])


def agree(stage: Stage, *source_args: str, ports: str, as_user: bool) -> dict[str, Any]:
    """Run both agents to their end; return the document that both print."""
    processes = [
        agents.destination(stage, ports=ports, as_user=as_user),
        agents.source(stage, *source_args, as_user=as_user),
    ]
    documents = [result.document for result in agents.finish(processes)]
    assert documents[0] is not None
    assert documents[1] is not None
    assert documents[0]["verdict_id"] == documents[1]["verdict_id"] is not None
    return documents[0]


def record(host: Host) -> Process:
    return host.popen_ready([sys.executable, "-IS", "-c", RECORD])


@users
@pytest.mark.parametrize("dropped", ["tcp", "udp"])
def test_the_transport_that_is_blocked_is_blamed(
    stage: Stage, dropped: str, *, as_user: bool
) -> None:
    for service in (TCP, UDP):
        service(stage)
    faults.rules("destination", "input", f"{dropped} dport 4242 counter drop")(stage)
    told = agree(stage, ports=BOTH, as_user=as_user)
    found = {check["transport"]: check["status"] for check in told["checks"]}
    assert found == {"tcp": "open", "udp": "open"} | {dropped: "blocked"}
    (fix, *_) = next(
        check["blockers"][0]["fix"] for check in told["checks"] if check["transport"] == dropped
    )
    assert dropped in json.dumps(fix)


@users
def test_a_service_gets_empty_datagrams_and_nothing_else(stage: Stage, *, as_user: bool) -> None:
    record(stage.destination)
    told = agree(stage, ports="udp:4242", as_user=as_user)
    assert told["status"] == "open"
    received = stage.destination.read(PLACE).split()
    assert received
    assert set(received) == {"-"}


@users
def test_a_service_gets_what_the_user_gave_and_nothing_else(stage: Stage, *, as_user: bool) -> None:
    record(stage.destination)
    told = agree(stage, "--payload", "hex:00ff", ports="udp:4242", as_user=as_user)
    assert told["status"] == "open"
    assert set(stage.destination.read(PLACE).split()) - {"-"} == {"00ff"}


@users
def test_a_range_of_ports_is_told_as_ranges(stage: Stage, *, as_user: bool) -> None:
    UDP(stage)
    told = agree(stage, ports="udp:4240-4250", as_user=as_user)
    found = {check["ports"]: check["status"] for check in told["checks"]}
    assert found == {"4242": "open", "4240-4241,4243-4250": "blocked"}


def kept(stage: Stage, *options: str, ports: str) -> list[agents.Result]:
    """Run both agents with --save; the destination's result first."""
    return agents.finish(
        [
            agents.destination(stage, "--save", evidence("destination"), *options, ports=ports),
            agents.source(stage, "--save", evidence("source"), *options),
        ]
    )


@pytest.mark.parametrize("dropped", [False, True], ids=["open", "dropped"])
def test_what_both_kept_of_a_run_gives_the_same_verdict(stage: Stage, *, dropped: bool) -> None:
    UDP(stage)
    if dropped:
        faults.rules("destination", "input", "udp dport 4242 counter drop")(stage)
    first, _ = kept(stage, ports=BOTH)
    assert first.document is not None
    found = document(combine(carried(stage), "/run/A", "/run/B", "--json"))
    for name in ("verdict_id", "status", "blockers", "checks"):
        assert found[name] == first.document[name]


def test_two_that_never_met_claim_nothing_of_udp(stage: Stage) -> None:
    """Alone each tries TCP only, and says so."""
    UDP(stage)
    control = "meta l4proto {{ tcp, udp }} th dport 24242 counter drop"
    for end in ("source", "destination"):
        faults.rules(end, "input", control)(stage)
    for result in kept(stage, "--wait", "9", ports="udp:4242"):
        assert not result.flaws
        assert result.document is not None
        assert result.document["status"] == "no-contact"
    found = document(combine(carried(stage), "/run/A", "/run/B", "--json"))
    assert (found["status"], found["blockers"]) == ("undetermined", [])


def test_what_a_router_leads_back_inside_is_known_where_it_comes_in() -> None:
    """With the source's own address and port: the verdict does not say that none came."""
    check = _outside("udp-nat-hairpin-half")
    (blocker,) = check["blockers"]
    assert blocker["code"] == "nat.no-hairpin"
    came = [line for line in blocker["because"] if "reached the destination's network card" in line]
    assert came
    assert not any(line.startswith("0 of ") for line in came)


def test_root_is_not_told_to_run_it_as_root() -> None:
    for name, told in (("udp-nat-hairpin-none", False), ("udp-nat-hairpin-none@users", True)):
        check = _outside(name)
        assert check["next_step"]
        assert ("as root" in check["next_step"]) is told


def _outside(name: str) -> dict[str, Any]:
    """Run a row of the lab's table; return the check of the public address."""
    outcome = scenario.run(SCENARIOS[name])
    document_ = outcome.results[0].document
    assert document_ is not None, outcome.explain()
    (found,) = (c for c in document_["checks"] if c["address"] == DESTINATION_PUBLIC)
    return dict(found)
