"""A real router daemon is asked what it maps, and a port is opened on it and closed again."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from . import igd
from .hosts import Host, Lab, Process
from .network import SOURCE_PUBLIC, Stage, home_pair

pytestmark = pytest.mark.lab

GATEWAY, SOURCE, NEIGHBOUR = "192.168.1.1", "192.168.1.10", "192.168.1.30"
PORT = 4242
ASK = """
import asyncio, json, msgspec, sys, time
from bothends.router import ask_router

started = time.monotonic()
asked = ask_router(sys.argv[1], sys.argv[2], [("tcp", 4242), ("udp", 4242)], seconds=4)
words = {word.protocol: msgspec.to_builtins(word) for word in asyncio.run(asked)}
print(json.dumps(words | {"seconds": time.monotonic() - started}))
"""
HOLD = """
import asyncio, json, msgspec, signal, sys
from bothends.port_opener import PortOpener

async def main():
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    opener = PortOpener(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
    try:
        opened = await opener.open(sys.argv[4], 4242, 1)
        print("opened", json.dumps(msgspec.to_builtins(opened)), flush=True)
        await ended.wait()
    finally:
        await asyncio.shield(opener.close())

asyncio.run(main())
"""


@pytest.fixture
def stage(lab: Lab) -> Stage:
    """The source's home has one more computer in it."""
    stage = home_pair(lab)
    neighbour = lab.host("neighbour")
    stage.network.attach(neighbour, "inside1", f"{NEIGHBOUR}/24")
    stage.network.route(neighbour, f"default via {GATEWAY}")
    stage.network.up()
    return stage


def home(stage: Stage) -> Host:
    return stage.lab.host("home1")


def ask(host: Host, local: str = SOURCE, *, as_user: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.python(ASK, GATEWAY, local, as_user=as_user).stdout)
    print(f"asked in {found['seconds']:.2f} s")
    return found


def outcomes(said: dict[str, Any]) -> list[str]:
    return [said[protocol]["outcome"] for protocol in ("pcp", "nat-pmp", "upnp")]


def hold(
    host: Host, local: str = SOURCE, transport: str = "tcp", *, as_user: bool = False, **how: Any
) -> tuple[Process, dict[str, Any]]:
    """A program that has opened the port, and what came of it."""
    argv = [sys.executable, "-c", HOLD, GATEWAY, local, json.dumps(how), transport]
    process = host.popen(argv, as_user=as_user, piped=True)
    opened: dict[str, Any] = json.loads(process.wait_for_output(r"opened (\{.*\})\n")[1])
    return process, opened


def end(process: Process) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0, process.stdout


def input_chain(rule: str, policy: str = "accept") -> str:
    """A firewall of one rule for what comes in."""
    head = f"type filter hook input priority 0; policy {policy};"
    return f"table inet filter {{\n chain in {{\n {head}\n {rule}\n }}\n}}\n"


def until(holds: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
def test_nothing_is_mapped(stage: Stage, *, as_user: bool) -> None:
    igd.miniupnpd(home(stage))
    said = ask(stage.source, as_user=as_user)
    assert outcomes(said) == ["answers"] * 3
    assert said["upnp"]["outside"] == said["nat-pmp"]["outside"] == SOURCE_PUBLIC
    assert [entry["client"] for entry in said["upnp"]["mappings"]] == [None, None]
    assert igd.mapped(home(stage)) == []


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
def test_what_is_mapped_is_seen(stage: Stage, *, as_user: bool) -> None:
    igd.miniupnpd(home(stage), mappings=[f"UDP:{PORT}:{SOURCE}:4243:0:by-hand"])
    other, opened = hold(stage.lab.host("neighbour"), NEIGHBOUR)
    assert opened["outcome"] == "granted"
    said = ask(stage.source, as_user=as_user)
    tcp, udp = said["upnp"]["mappings"]
    assert (tcp["client"], tcp["client_port"]) == (NEIGHBOUR, PORT)
    assert 0 < tcp["lease"] <= 120
    assert (udp["client"], udp["client_port"], udp["lease"]) == (SOURCE, 4243, 0)
    end(other)


def test_upnp_is_off(stage: Stage) -> None:
    igd.miniupnpd(home(stage), upnp=False)
    said = ask(stage.source, as_user=True)
    assert outcomes(said) == ["answers", "answers", "refused"]
    assert said["nat-pmp"]["outside"] == SOURCE_PUBLIC


def test_only_upnp_is_on(stage: Stage) -> None:
    igd.miniupnpd(home(stage), natpmp=False)
    said = ask(stage.source, as_user=True)
    assert outcomes(said) == ["refused", "refused", "answers"]
    process, opened = hold(stage.source, as_user=True)
    assert (opened["protocol"], opened["outcome"], opened["lease"]) == ("upnp", "granted", 120)
    assert len(igd.mapped(home(stage))) == 1
    end(process)
    assert igd.mapped(home(stage)) == []


@pytest.mark.parametrize("how", ["closed", "filtered"])
def test_all_is_off(stage: Stage, how: str) -> None:
    if how == "filtered":
        home(stage).nft(input_chain('iifname "lan0" udp dport { 1900, 5351 } drop'))
    said = ask(stage.source, as_user=True)
    assert outcomes(said) == ["refused" if how == "closed" else "silent"] * 3
    assert said["seconds"] < 2
    _, opened = hold(stage.source)
    assert (opened["protocol"], opened["outcome"]) == ("", "silent")


def test_the_outside_address_is_what_the_router_says(stage: Stage) -> None:
    igd.miniupnpd(home(stage), external="11.0.9.9")
    said = ask(stage.source)
    assert said["upnp"]["outside"] == said["nat-pmp"]["outside"] == "11.0.9.9"


def test_an_own_firewall_that_lets_nothing_in_lets_the_answers_in(stage: Stage) -> None:
    igd.miniupnpd(home(stage))
    stage.source.nft(input_chain("ct state established accept", policy="drop"))
    assert outcomes(ask(stage.source, as_user=True)) == ["answers"] * 3


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_port_is_opened_and_closed(stage: Stage, transport: str, *, as_user: bool) -> None:
    igd.miniupnpd(home(stage))
    process, opened = hold(stage.source, transport=transport, as_user=as_user)
    assert (opened["protocol"], opened["outcome"]) == ("pcp", "granted")
    assert (opened["outside"], opened["outside_port"]) == (SOURCE_PUBLIC, PORT)
    (rule,) = igd.mapped(home(stage))
    number = {"tcp": "0x6", "udp": "0x11"}[transport]
    assert rule.endswith(f"{number} th dport {PORT} dnat ip to {SOURCE}:{PORT}")
    end(process)
    assert igd.mapped(home(stage)) == []


@pytest.mark.parametrize("natpmp", [True, False], ids=["pcp", "upnp"])
def test_permission_is_refused(stage: Stage, *, natpmp: bool) -> None:
    igd.miniupnpd(home(stage), natpmp=natpmp, allow=False)
    process, opened = hold(stage.source)
    assert opened["outcome"] == "refused"
    assert opened["detail"].startswith("the router refused: ")
    end(process)
    assert igd.mapped(home(stage)) == []


@pytest.mark.parametrize("upnp", [True, False], ids=["upnp", "pcp"])
def test_what_another_has_is_left_alone(stage: Stage, *, upnp: bool) -> None:
    igd.miniupnpd(home(stage), upnp=upnp)
    other, _ = hold(stage.lab.host("neighbour"), NEIGHBOUR)
    (before,) = igd.mapped(home(stage))
    process, opened = hold(stage.source)
    # Without UPnP the router grants the next port, which is then given back.
    assert opened["outcome"] == ("refused" if upnp else "other-port")
    assert igd.mapped(home(stage)) == [before]
    end(process)
    assert igd.mapped(home(stage)) == [before]
    end(other)


def test_what_leads_here_already_stays(stage: Stage) -> None:
    igd.miniupnpd(home(stage), mappings=[f"TCP:{PORT}:{SOURCE}:{PORT}:0:by-hand"])
    (before,) = igd.mapped(home(stage))
    process, opened = hold(stage.source)
    assert (opened["outcome"], opened["kept"], opened["lease"]) == ("there", True, 0)
    end(process)
    assert igd.mapped(home(stage)) == [before]


@pytest.mark.parametrize("natpmp", [True, False], ids=["pcp", "upnp"])
def test_a_killed_client_leaves_a_lease_that_ends(stage: Stage, *, natpmp: bool) -> None:
    igd.miniupnpd(home(stage), natpmp=natpmp)
    process, opened = hold(stage.source, lease=3)
    assert opened["lease"] == 3
    # It is renewed for as long as the client lives.
    time.sleep(4.5)
    assert len(igd.mapped(home(stage))) == 1
    process.kill()
    until(lambda: igd.mapped(home(stage)) == [])


def test_a_mapping_may_stay(stage: Stage) -> None:
    igd.miniupnpd(home(stage))
    process, opened = hold(stage.source, keep=True)
    assert opened["kept"]
    assert opened["lease"] == 23 * 3600
    end(process)
    assert len(igd.mapped(home(stage))) == 1


def test_for_ever_only_where_it_is_to_stay(stage: Stage) -> None:
    igd.permanent_only(home(stage), GATEWAY)
    process, opened = hold(stage.source)
    assert (opened["protocol"], opened["outcome"]) == ("upnp", "permanent-only")
    end(process)
    process, opened = hold(stage.source, keep=True)
    assert (opened["outcome"], opened["lease"], opened["kept"]) == ("granted", 0, True)
    end(process)
