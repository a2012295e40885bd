"""What each side says it knows alone when the two did not meet, on real hosts."""

from __future__ import annotations

import signal
import sys
from typing import Any

import pytest

from schema import validate

from . import agents, faults, network
from .agents import CODE, CONTROL_PORT
from .hosts import Host, Lab
from .network import DESTINATION6, DEVICE, GATEWAY, Stage
from .services import Service
from .test_agents import one

pytestmark = pytest.mark.lab

NOBODY = "192.168.7.250"
"""An address of the segment that nobody has."""

WAIT = ("--wait", "0.5")
NO_CONTACT, INTERRUPTED = 4, 130

SERVER = """
import os, socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 53))
os.write(3, b"ready")
while True:
    data, name = sock.recvfrom(512)
    sock.sendto(data[:2] + b"\\x81\\x80" + data[4:], name)
"""


@pytest.fixture
def stage(lab: Lab) -> Stage:
    """Two hosts and a gateway, which answers as a name server, too."""
    stage = network.lan(lab, gateway=True)
    lab.host("gateway").popen_ready([sys.executable, "-c", SERVER])
    for host in (stage.source, stage.destination):
        host.write("/etc/resolv.conf", f"nameserver {GATEWAY}\n")
    return stage


def known(result: agents.Result) -> dict[str, Any]:
    """What the document says that this side knows; the screen says the same."""
    assert result.code == NO_CONTACT, result.stderr
    assert not result.flaws, (result.flaws, result.stderr)
    assert result.document is not None
    validate(result.document)
    alone: dict[str, Any] = result.document["alone"]
    shown = " ".join(result.stderr.split())
    assert "What this computer knows alone" in shown
    for line in alone["lines"]:
        assert line in shown.replace("• ", "").replace("* ", ""), line
    return alone


def destination(stage: Stage, *arguments: str, as_user: bool = False) -> dict[str, Any]:
    process = agents.destination(stage, *WAIT, *arguments, peer=False, as_user=as_user)
    return known(agents.finish([process])[0])


def source(stage: Stage, *arguments: str, as_user: bool = False) -> dict[str, Any]:
    process = agents.source(stage, *WAIT, *arguments, as_user=as_user)
    return known(agents.finish([process])[0])


def test_a_destination_that_denies_all_inbound_quotes_what_does(stage: Stage) -> None:
    Service()(stage)
    faults.default_deny()(stage)
    alone = destination(stage)
    (rule,) = alone["firewall"]["stopping"]
    assert (rule["way"], rule["certain"]) == ("in", True)
    assert rule["ports"] == {"tcp": f"4242,{CONTROL_PORT}", "udp": f"{CONTROL_PORT}"}
    assert rule["text"].endswith("counter drop")
    (port,) = alone["service"]["ports"]
    assert (port["state"], port["ports"]) == ("listening", "4242")
    assert [one["state"] for one in alone["gateway"]] == ["answers"]
    assert [one["state"] for one in alone["names"]] == ["answers"]


def test_an_open_firewall_is_said_to_be_open(stage: Stage) -> None:
    faults.default_deny("tcp dport {{ 4242, 24242 }}", "udp dport 24242")(stage)
    alone = destination(stage)
    assert alone["firewall"]["stopping"] == []
    assert any("No rule of its own firewall stops" in line for line in alone["lines"])
    assert any(line.startswith("Nobody listens on TCP port 4242") for line in alone["lines"])


def test_a_policy_alone_counts_too(stage: Stage) -> None:
    stage.destination.nft(
        "table inet own { chain input { type filter hook input priority 0; policy drop; "
        "ct state established accept; }; }"
    )
    (rule,) = destination(stage)["firewall"]["stopping"]
    assert rule["text"] == "table inet own chain input: policy drop"


def test_a_service_on_loopback_is_plainly_wrong(stage: Stage) -> None:
    Service(bind=("127.0.0.1", "::1"))(stage)
    (port,) = destination(stage)["service"]["ports"]
    assert (port["state"], port["addresses"]) == ("loopback-only", ["127.0.0.1", "::1"])


def test_a_source_that_lets_nothing_out_quotes_what_does(stage: Stage) -> None:
    faults.source_drop(CONTROL_PORT)(stage)
    alone = source(stage)
    (rule,) = alone["firewall"]["stopping"]
    assert (rule["way"], rule["peers"]) == ("out", [stage.destination_address])
    assert rule["ports"] == {"tcp": str(CONTROL_PORT)}
    assert rule["text"].endswith(f"tcp dport {CONTROL_PORT} counter drop")
    assert alone["service"] is None


def test_what_the_dialled_addresses_said(stage: Stage) -> None:
    stage.source.ip(["route add unreachable 10.9.9.9"])
    alone = source(stage, "--peer", NOBODY, "--peer", "10.9.9.9")
    by_address = {one["address"]: one for one in alone["dialled"]}
    assert by_address[stage.destination_address]["met"] == "connection refused"
    assert by_address[NOBODY]["silent_hop"] == NOBODY
    assert by_address["10.9.9.9"]["route"]


def test_an_ordinary_user_is_told_what_root_would_tell(stage: Stage) -> None:
    faults.default_deny()(stage)
    alone = destination(stage, as_user=True)
    assert not alone["firewall"]["readable"]
    assert any("only be read as root" in line for line in alone["lines"])
    assert [one["state"] for one in alone["gateway"]] == ["answers"]
    assert [one["state"] for one in alone["names"]] == ["answers"]


def test_a_silent_gateway_and_a_silent_name_server(stage: Stage) -> None:
    stage.source.ip([f"route replace default via {NOBODY}"])
    stage.source.write("/etc/resolv.conf", "nameserver 10.1.1.1\n")
    result = agents.finish([agents.source(stage, *WAIT, as_user=True)])[0]
    alone = known(result)
    assert [(one["address"], one["state"]) for one in alone["gateway"]] == [(NOBODY, "silent")]
    assert [one["state"] for one in alone["names"]] == ["silent"]


def test_gateways_of_version_6(lab: Lab) -> None:
    stage = network.lan6(lab)
    stage.source.ip([f"route add default via {stage.destination_address} dev {DEVICE}"])
    gateways = source(stage)["gateway"]
    assert [(g["address"], g["state"]) for g in gateways] == [
        (stage.destination_address, "answers")
    ]


def test_all_next_hops_of_a_default_route(stage: Stage) -> None:
    hops = " ".join(f"nexthop via {hop} dev {DEVICE}" for hop in (GATEWAY, NOBODY))
    stage.source.ip([f"route replace default {hops}"])
    states = {one["address"]: one["state"] for one in source(stage)["gateway"]}
    assert states == {GATEWAY: "answers", NOBODY: "silent"}


def test_an_ipv4_gateway_that_has_an_ipv6_address(lab: Lab) -> None:
    stage = network.dual(lab)
    stage.source.ip([f"route add default via inet6 {DESTINATION6} dev {DEVICE}"])
    gateways = source(stage)["gateway"]
    assert [(one["address"], one["state"]) for one in gateways] == [(DESTINATION6, "answers")]


def test_no_gateway_at_all(lab: Lab) -> None:
    stage = network.lan(lab)
    assert source(stage)["gateway"] == []


def test_a_card_that_is_off(lab: Lab) -> None:
    stage = network.lan(lab)
    stage.source.ip([f"link set dev {DEVICE} down"])
    alone = source(stage)
    assert alone["addresses"] == []
    assert any(f"{DEVICE} is switched off" in line for line in alone["lines"])


def test_what_pairs_hopelessly_is_told_alone_as_well(stage: Stage) -> None:
    waiting = agents.destination(stage)
    result = agents.finish([agents.source(stage, code="7-abandon-ability-about")])[0]
    assert any("the code is wrong" in line for line in known(result)["lines"])
    waiting.kill()


def test_the_report_has_it_too(stage: Stage) -> None:
    stage.source.write("/run/code", f"{CODE}\n", mode=0o600)
    options = ["--no-mdns", "--code-file", "/run/code", "--report", "/run/report.html"]
    result = one(agents.agent(stage.source, "source", *options, *WAIT))
    assert result.code == NO_CONTACT
    assert result.stdout == ""
    page = stage.source.read("/run/report.html")
    assert "What this computer knows alone" in page
    assert f"The gateway {GATEWAY}" in page


def asks_a_name_server(host: Host) -> bool:
    rows = [line.split() for line in host.read("/proc/net/udp").splitlines()[1:]]
    return any(row[2].endswith(":0035") for row in rows)


def test_an_interrupt_does_not_wait_for_it(stage: Stage) -> None:
    stage.source.ip([f"route replace default via {NOBODY}"])
    stage.source.write("/etc/resolv.conf", "nameserver 10.1.1.1\n")
    process = agents.source(stage, *WAIT)
    agents.until("asks", lambda: asks_a_name_server(stage.source), process)
    process.send_signal(signal.SIGINT)
    result = one(process, 10)
    assert result.code == INTERRUPTED
    assert result.document is not None
    assert "alone" not in result.document
    assert "knows alone" not in result.stderr
    assert stage.source.pids() == []
