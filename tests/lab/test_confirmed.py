"""Two homes behind NAT that meet at a meeting point, and nobody typed which address to test.

The destination's public address is tested once the destination names it and the
meeting point confirms it, or once the two have reached each other there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from bothends.contact import MAX_KNOCKS

from . import agents, faults, network
from .agents import listens, until
from .grading import Expected, blocked
from .hosts import Host, Lab, Process
from .network import DESTINATION_PUBLIC, SOURCE_PUBLIC, Stage
from .rows import DESTINATION_DROP
from .services import meeting_point
from .test_meeting import (
    NEAR,
    OPEN,
    PUNCHED,
    RENDEZVOUS,
    How,
    agreed,
    document_of,
    everybody,
    serve,
    start,
    start_source,
)

pytestmark = pytest.mark.lab

FORWARD = "tcp dport 4242 dnat ip to 192.168.1.20"
POINT, THIRD = "11.0.3.2", "11.0.3.3"
"""The meeting point, and a computer that has nothing to do with any of it."""

ports = pytest.mark.parametrize("keeps", [False, True], ids=["no port kept", "ports kept"])

UNTESTED = Expected("undetermined")


def homes(lab: Lab, *, forwards: Sequence[str] = (FORWARD,)) -> Stage:
    """Two homes, and beyond the core a segment with a meeting point's host and a third one."""
    stage = serve(network.home_pair(lab, forwards=forwards))
    net, core = stage.network, stage.host("core")
    net.attach(core, "outside3", "11.0.3.1/24", device="eth3")
    for name, address in (("point", POINT), ("third", THIRD)):
        net.attach(lab.host(name), "outside3", f"{address}/24")
        net.route(lab.host(name), "default via 11.0.3.1")
    net.up()
    return stage


def keep_no_ports(stage: Stage) -> None:
    """Let both routers give what leaves them any port at all."""
    for name in ("home1", "home2"):
        stage.host(name).nft(
            "flush chain inet nat out\n"
            'add rule inet nat out oifname "wan0" meta nfproto ipv4 masquerade fully-random\n'
        )


def ours(stage: Stage) -> str:
    return meeting_point(stage, "point", POINT).url


def upstream(stage: Stage) -> str:
    host = stage.host("point")
    argv = [sys.executable, "-m", "twisted", "wormhole-mailbox"]
    argv += ["--port", f"tcp:4000:interface={POINT}", "--channel-db", ":memory:"]
    server = host.popen(argv, piped=True)
    until("the upstream server", lambda: listens(host, 4000), server)
    return f"ws://{POINT}:4000/v1"


def meet(stage: Stage, url: str, *, as_user: bool = False) -> list[Process]:
    return start(stage, How(peers=(), both=("--rendezvous", url), as_user=as_user))


def primary(document: dict[str, Any]) -> list[str]:
    return [check["address"] for check in document["checks"] if check["primary"]]


def counting(host: Host) -> None:
    """Count what comes to a host that nobody should send anything."""
    host.nft(
        "table inet witness {\n  chain in {\n    type filter hook input priority -10;\n"
        "    meta l4proto tcp counter\n    udp dport 24242 counter\n  }\n}\n"
    )


def counted(host: Host) -> tuple[int, int]:
    """How many packets of TCP, and how many knocks, have come."""
    listing = json.loads(host.run(["nft", "-j", "list", "table", "inet", "witness"]).stdout)
    found = [
        part["counter"]["packets"]
        for entry in listing["nftables"]
        for part in entry.get("rule", {}).get("expr", ())
        if "counter" in part
    ]
    return found[0], found[1]


@everybody
def test_two_homes_whose_routers_keep_the_port(lab: Lab, *, as_user: bool) -> None:
    stage = homes(lab)
    results = agreed(meet(stage, ours(stage), as_user=as_user), OPEN, [PUNCHED])
    for result in results:
        assert primary(document_of(result)) == [DESTINATION_PUBLIC]


@everybody
def test_two_homes_whose_routers_keep_no_port(lab: Lab, *, as_user: bool) -> None:
    stage = homes(lab)
    keep_no_ports(stage)
    results = agreed(meet(stage, ours(stage), as_user=as_user), OPEN, [RENDEZVOUS])
    for result in results:
        assert primary(document_of(result)) == [DESTINATION_PUBLIC]


@everybody
@ports
def test_what_is_tested_there_is_judged(lab: Lab, *, keeps: bool, as_user: bool) -> None:
    stage = homes(lab)
    if not keeps:
        keep_no_ports(stage)
    faults.destination_drop()(stage)
    ends = meet(stage, ours(stage), as_user=as_user)
    results = agreed(ends, blocked(DESTINATION_DROP), [PUNCHED if keeps else RENDEZVOUS])
    assert primary(document_of(results[0])) == [DESTINATION_PUBLIC]


def test_a_way_of_two_fifths_of_a_second(lab: Lab) -> None:
    stage = homes(lab)
    for home in ("home1", "home2"):
        stage.network.delay(stage.network.port(stage.host(home), "wan0"), 100)
    agreed(meet(stage, ours(stage)), OPEN, [PUNCHED])


# -- a meeting point that says nothing


@everybody
@ports
def test_at_the_upstream_server_nothing_is_confirmed(
    lab: Lab, *, keeps: bool, as_user: bool
) -> None:
    stage = homes(lab)
    if not keeps:
        keep_no_ports(stage)
    results = agreed(meet(stage, upstream(stage), as_user=as_user), UNTESTED, [RENDEZVOUS])
    summary = document_of(results[0])["summary"]
    assert "Nothing was tested" in summary
    assert "192.168.1.20" in summary
    assert document_of(results[0])["checks"] == []


SAYS = """
from bothends import run
from bothends_protocol.evidence import SeenAs
others = tuple(SeenAs(address=address, by="stun") for address in {seen!r})
run.Run._how_seen = lambda self, contact: (*others, *(contact.seen_as if {more} else ()))
from bothends.__main__ import main
raise SystemExit(main())
"""


def saying(stage: Stage, role: str, url: str, *seen: str, more: bool = False) -> Process:
    """An agent that says it is seen as `seen`, and `more` as it was told."""
    host = stage.host(role)
    code = SAYS.format(seen=seen, more=more)
    arguments = [role, *(["4242"] if role == "destination" else []), "--json", "--no-mdns"]
    arguments += ["--wait", "15", "--timeout", "20", "--rendezvous", url]
    arguments += ["--code-file", "/run/code"]
    host.write("/run/code", f"{agents.CODE}\n", mode=0o600)
    return host.popen([sys.executable, "-c", code, *arguments])


def test_what_others_say_opens_a_way_at_the_upstream_server(lab: Lab) -> None:
    stage = homes(lab)
    url = upstream(stage)
    ends = [
        saying(stage, "destination", url, DESTINATION_PUBLIC),
        saying(stage, "source", url, SOURCE_PUBLIC),
    ]
    results = agreed(ends, OPEN, [PUNCHED])
    assert primary(document_of(results[0])) == [DESTINATION_PUBLIC]


def test_where_nothing_is_confirmed_the_public_address_is_named(lab: Lab) -> None:
    stage = homes(lab)
    keep_no_ports(stage)
    url = upstream(stage)
    ends = [
        saying(stage, "destination", url, DESTINATION_PUBLIC),
        saying(stage, "source", url, SOURCE_PUBLIC),
    ]
    results = agreed(ends, UNTESTED, [RENDEZVOUS])
    assert f"--target {DESTINATION_PUBLIC}" in document_of(results[0])["summary"]


# -- a peer that lies


@pytest.mark.parametrize("more", [False, True], ids=["a lie", "a lie beside the truth"])
@ports
def test_an_address_that_the_peer_alone_names_is_not_tested(
    lab: Lab, *, more: bool, keeps: bool
) -> None:
    stage = homes(lab)
    if not keeps:
        keep_no_ports(stage)
    url = ours(stage)
    witness = stage.host("third")
    counting(witness)
    ends = [
        saying(stage, "destination", url, THIRD, more=more),
        start_source(stage, How(peers=(), both=("--rendezvous", url))),
    ]
    results = agreed(ends, OPEN if more else UNTESTED, [PUNCHED if keeps and more else RENDEZVOUS])
    assert {check["address"] for check in document_of(results[1])["checks"]} <= {DESTINATION_PUBLIC}
    connects, knocks = counted(witness)
    assert connects == 0
    assert knocks <= MAX_KNOCKS


# -- both behind one router


def one_home(lab: Lab) -> Stage:
    """Both on one segment behind one router with NAT, which passes port 4242 on from outside."""
    source, destination, home = (lab.host(name) for name in ("source", "destination", "home1"))
    net = network.Network(lab)
    for host, last in ((source, 10), (destination, 20)):
        net.attach(host, "inside", f"192.168.1.{last}/24")
        net.route(host, "default via 192.168.1.1")
    net.attach(home, "inside", "192.168.1.1/24", device="lan0")
    net.attach(home, "outside3", f"{SOURCE_PUBLIC}/8", device="wan0")
    net.attach(lab.host("point"), "outside3", f"{POINT}/8")
    net.nat(home, "wan0", forwards=[FORWARD])
    net.router(home)
    net.up()
    return serve(Stage(net, source, destination, "192.168.1.10", "192.168.1.20", (home,)))


@everybody
def test_two_on_one_segment_test_their_own_addresses_first(lab: Lab, *, as_user: bool) -> None:
    stage = one_home(lab)
    results = agreed(meet(stage, ours(stage), as_user=as_user), OPEN, NEAR)
    checks = {check["address"]: check["primary"] for check in document_of(results[0])["checks"]}
    assert checks == {"192.168.1.20": True, SOURCE_PUBLIC: False}


def test_two_that_cannot_reach_each_other_at_home_test_the_shared_address(lab: Lab) -> None:
    stage = one_home(lab)
    faults.isolated(stage)
    results = agents.finish(meet(stage, ours(stage)))
    assert not [flaw for result in results for flaw in result.flaws]
    assert document_of(results[0])["contact"]["path"] == RENDEZVOUS
    assert primary(document_of(results[0])) == [SOURCE_PUBLIC]
