"""``bothends suggest``: a port that nobody holds and that the source reaches, or what to mend."""

from __future__ import annotations

import json
from typing import Any

import pytest

from . import agents, faults, network
from .hosts import Lab
from .network import Stage
from .services import Service

pytestmark = pytest.mark.lab

DROP, NETWORK_DROP = "destination.firewall-drop", "network.drop"

FILTER = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy accept;
        tcp dport 1024-5999 drop
    }
}
"""

everybody = pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])


def seek(stage: Stage, ports: str = "1024-5999", *, as_user: bool = False) -> Any:
    """Look for a port; return the document on which both agree."""
    ends = [
        agents.destination(stage, command="suggest", ports=ports, as_user=as_user),
        agents.source(stage, as_user=as_user),
    ]
    results = agents.finish(ends)
    documents = [result.document for result in results]
    told = "\n".join(f"{r.side} ({r.code}): {r.stdout[:3000]}\n{r.stderr}" for r in results)
    assert not [flaw for result in results for flaw in result.flaws], told
    assert all(documents), told
    shared = ("verdict_id", "status", "summary", "checks", "suggestion")
    assert len({json.dumps([d[key] for key in shared]) for d in documents if d}) == 1, told
    return documents[0]


@everybody
def test_a_port_is_suggested_that_a_listener_is_reached_at(lab: Lab, as_user: bool) -> None:  # noqa: FBT001
    stage = network.lan(lab)
    service = Service(port=5000)(stage)
    faults.destination_drop("1024-4999")(stage)
    document = seek(stage, as_user=as_user)
    made = document["suggestion"]
    assert (document["status"], made["ready"]) == ("open", True)
    assert (made["port"], made["ports"], made["in_use"]) == (5001, "5001-5999", "5000")
    Service(port=made["port"])(stage)
    ends = [
        agents.destination(stage, ports=str(made["port"]), as_user=as_user),
        agents.source(stage, as_user=as_user),
    ]
    assert [result.code for result in agents.finish(ends)] == [0, 0]
    assert service.poll() is None


@everybody
def test_where_none_is_reached_it_is_said_what_to_mend(lab: Lab, as_user: bool) -> None:  # noqa: FBT001
    stage = network.lan(lab)
    stage.destination.nft(FILTER)
    document = seek(stage, as_user=as_user)
    made = document["suggestion"]
    assert (document["status"], document["blockers"]) == ("blocked", [DROP])
    assert (made["port"], made["ready"], made["change"]) == (1024, False, DROP)
    (check,) = [check for check in document["checks"] if check["primary"]]
    argv = check["blockers"][0]["fix"][0]["argv"]
    stage.destination.run([*argv])
    again = seek(stage, as_user=as_user)["suggestion"]
    assert (again["port"], again["ready"], again["ports"]) == (1024, True, "1024")


def test_across_a_router(lab: Lab) -> None:
    stage = network.routed(lab)
    faults.rules("router1", "forward", "tcp dport 1024-3999 counter drop")(stage)
    document = seek(stage)
    made = document["suggestion"]
    assert (document["status"], made["ready"]) == ("open", True)
    # The edge is found, though only a sample got requests.
    assert made["port"] == 4000


def test_by_udp(lab: Lab) -> None:
    stage = network.lan(lab)
    faults.rules("destination", "input", "udp dport 5000-5004 counter drop")(stage)
    made = seek(stage, "udp:5000-5009")["suggestion"]
    assert (made["transport"], made["port"], made["ready"]) == ("udp", 5005, True)
    assert made["ports"] == "5005-5009"


def test_where_programs_hold_all_nothing_is_suggested(lab: Lab) -> None:
    stage = network.lan(lab)
    Service(port=4242)(stage)
    document = seek(stage, "4242")
    assert (document["status"], document["suggestion"]["port"]) == ("undetermined", None)
    assert document["suggestion"]["in_use"] == "4242"


def test_by_six(lab: Lab) -> None:
    stage = network.lan6(lab)
    faults.destination_drop("1024-2047")(stage)
    made = seek(stage)["suggestion"]
    assert (made["port"], made["ready"]) == (2048, True)
