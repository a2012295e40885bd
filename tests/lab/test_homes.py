"""What the rows across the Internet say is true, seen without the agents.

Each row is set up as the table says. Then one ordinary connection is made from
the source to what the row tests: what came of it, and the farthest host that the
request reached. What routers answer to packets that end on the way is here too.
"""

from __future__ import annotations

import json
import sys

import pytest

from . import scenario
from .faults import Fault
from .homes import (
    CARRIER,
    CARRIER_NAT,
    FORWARD,
    NOBODY_INSIDE,
    OTHER_INSIDE,
    PUBLIC,
    PUBLIC2,
    SECOND_ROUTER,
    Homes,
    Upstream,
    forward_to,
    office,
)
from .hosts import Host, Lab
from .network import DESTINATION_PUBLIC, SOURCE_PUBLIC, Builder, Stage
from .scenario import Scenario
from .scenarios import SCENARIOS, by_name
from .scenarios_nat import (
    AT_MAILBOX_SERVER,
    AT_MEETING_POINT,
    CARRIER_CLOSED,
    CARRIER_DROP,
    HOME_DROP,
    NAT_ISSUE,
    REFUSED,
    REFUSED_BY_RESET,
    ROUTER_DROP,
)
from .services import Service
from .test_harness import ATTEMPT, CONNECTED, DROPPED, NO_ROUTE
from .test_harness import REFUSED as DENIED

pytestmark = pytest.mark.lab

SILENCE, CLOSED = "TimeoutError", "connected"

TRUE: dict[str, tuple[str, str]] = {
    "open": (CONNECTED, "destination"),
    "open-silent": (SILENCE, "destination"),
    "open-no-target": (CONNECTED, "destination"),
    "open-from-public": (CONNECTED, "destination"),
    "open-router-refuses": (CONNECTED, "destination"),
    "open-other-meeting-point": (CONNECTED, "destination"),
    "open-other-meeting-point-no-target": (CONNECTED, "destination"),
    "open-peers": (CONNECTED, "destination"),
    "open-punched": (CONNECTED, "destination"),
    "open-scrambled": (CONNECTED, "destination"),
    "overlay-open": (CONNECTED, "destination"),
    "destination-drop-punched": (DROPPED, "destination"),
    # Not forwarded: it ends at the router.
    "no-forward-silent": (DROPPED, "home2"),
    "no-forward-reset": (DENIED, "home2"),
    "no-forward-icmp": (DENIED, "home2"),
    "no-forward-icmp-admin": (NO_ROUTE, "home2"),
    "no-forward-from-public": (DROPPED, "home2"),
    "no-forward-no-target": (DROPPED, "home2"),
    "no-forward-silent-scrambled-by-home1": (DROPPED, "home2"),
    "no-forward-silent-scrambled-by-home2": (DROPPED, "home2"),
    "no-forward-punched": (DROPPED, "home2"),
    "overlay-no-forward": (DROPPED, "home2"),
    # Forwarded to somebody else, to another port, or not let through.
    "wrong-host-answers": (CONNECTED, "other"),
    "wrong-host-refuses": (DENIED, "other"),
    "wrong-host-first-come": (CONNECTED, "other"),
    "wrong-host-off": (DROPPED, "home2"),
    "wrong-port-closed": (DENIED, "destination"),
    "wrong-port-other-service": (CONNECTED, "destination"),
    "router-drop": (DROPPED, "home2"),
    # The destination's own.
    "destination-drop": (DROPPED, "destination"),
    "destination-reject-reset": (DENIED, "destination"),
    "destination-reject-icmp": (NO_ROUTE, "destination"),
    "destination-reject-port": (DENIED, "destination"),
    "destination-reply-blocked": (DROPPED, "destination"),
    "destination-default-deny": (DROPPED, "destination"),
    "not-running": (DENIED, "destination"),
    "loopback-only": (DENIED, "destination"),
    "hung": (SILENCE, "destination"),
    "closes": (CLOSED, "destination"),
    # Two routers.
    "carrier-nat": (DROPPED, "carrier"),
    "carrier-nat-no-forward": (DROPPED, "carrier"),
    "double": (DROPPED, "upper"),
    "double-no-forward": (DROPPED, "upper"),
    "double-both-forward": (CONNECTED, "destination"),
    # One home.
    "hairpin-open": (CONNECTED, "destination"),
    "hairpin-half": (DROPPED, "destination"),
    "hairpin-none": (DENIED, "home2"),
    "hairpin-none-no-forward": (DENIED, "home2"),
    "hairpin-no-forward": (DENIED, "home2"),
    # Somebody else's address.
    "private-nobody": (DROPPED, "source"),
    "private-namesake-answers": (CONNECTED, "namesake"),
    "private-namesake-refuses": (DENIED, "namesake"),
    "private-other-network": (NO_ROUTE, "core"),
    "private-other-network-silent": (DROPPED, "core"),
    "stranger-answers": (CONNECTED, "stranger"),
    "stranger-refuses": (DENIED, "stranger"),
    "stranger-silent": (DROPPED, "stranger"),
    # Filters on the way.
    "carrier-drop": (DROPPED, "carrier"),
    "carrier-stateful": (DROPPED, "carrier"),
    "carrier-open": (CONNECTED, "destination"),
    "source-drop": (DROPPED, "source"),
    "source-reject-reset": (DENIED, "source"),
    "source-reject-icmp": (NO_ROUTE, "source"),
    "source-router-drop": (DROPPED, "home1"),
    "source-router-reject-reset": (DENIED, "home1"),
    "source-router-reject-icmp": (NO_ROUTE, "home1"),
    "office-open": (CONNECTED, "destination"),
    "office-destination-drop": (DROPPED, "destination"),
    "office-not-running": (DENIED, "destination"),
    "office-router-drop": (DROPPED, "router1"),
    "office-last-router-drop": (DROPPED, "router2"),
    # Two causes.
    "no-forward+not-running": (DENIED, "home2"),
    "no-forward-silent+not-running": (DROPPED, "home2"),
    "wrong-host+not-running": (CONNECTED, "other"),
    "carrier-nat+not-running": (DROPPED, "carrier"),
    "source-router-drop+not-running": (DROPPED, "home1"),
    "destination-drop+loopback-only": (DROPPED, "destination"),
    "wrong-port+loopback-only": (DENIED, "destination"),
    "no-forward+destination-drop": (DENIED, "home2"),
    "source-drop+no-forward": (DROPPED, "source"),
    "source-drop+destination-drop": (DROPPED, "source"),
}
"""For each row without its ``nat-``: what a client sees, and how far its request comes."""

ASKED: dict[str, tuple[str, str]] = {
    "upnp-open": (CONNECTED, "destination"),
    "upnp-wrong-host": (CONNECTED, "other"),
    "upnp-expired": (DROPPED, "home2"),
    "upnp-off": (DROPPED, "home2"),
    "upnp-carrier-drop": (DROPPED, "carrier"),
    "upnp-by-hand-open": (CONNECTED, "destination"),
    "upnp-by-hand-carrier-drop": (DROPPED, "carrier"),
    "upnp-carrier-nat": (DROPPED, "carrier"),
}
"""The same of those with a daemon on the destination's router."""

ENDS = ("destination", "other", "namesake", "stranger")
WATCH = """table inet watch { chain in { type filter hook prerouting priority raw;
  iifname != "lo" tcp dport { 4242, 4243 } tcp flags & (syn | ack) == syn counter; }; }"""


@pytest.mark.parametrize(("name", "true"), ASKED.items(), ids=ASKED)
def test_a_row_with_a_router_that_can_be_asked_is_true(
    lab: Lab, name: str, true: tuple[str, str]
) -> None:
    test_a_row_is_true(lab, name, true)


@pytest.mark.parametrize(("name", "true"), TRUE.items(), ids=TRUE)
def test_a_row_is_true(lab: Lab, name: str, true: tuple[str, str]) -> None:
    row = by_name(f"nat-{name}")
    stage = scenario.build(lab, row)
    for host in lab.hosts.values():
        if host.name != "switch":
            host.nft(WATCH)
    seen = _attempt(stage.source, _tested(stage, row))
    assert (seen, _farthest(stage)) == true


def test_every_row_is_seen() -> None:
    names = {row.name for row in SCENARIOS.values() if row.issue == NAT_ISSUE and not row.users}
    assert names == {f"nat-{name}" for name in (*TRUE, *ASKED)}
    assert len(names) >= 34


def _tested(stage: Stage, row: Scenario) -> str:
    return row.source_args[-1] if "--target" in row.source_args else stage.destination_address


def _attempt(host: Host, address: str) -> str:
    return host.python(ATTEMPT, address, "4242").stdout.strip()


def _farthest(stage: Stage) -> str:
    """The last host on the way that has met the request; ``source`` where none has."""
    hosts = stage.lab.hosts
    way = [*stage.routers, *(hosts[name] for name in ENDS if name in hosts)]
    return next((host.name for host in reversed(way) if _met(host)), "source")


def _met(host: Host) -> bool:
    listing = json.loads(host.run(["nft", "-j", "list", "table", "inet", "watch"]).stdout)
    rules = (entry["rule"]["expr"] for entry in listing["nftables"] if "rule" in entry)
    return any(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


# -- who meets whom


@pytest.mark.parametrize(
    "builder",
    [
        Homes(),
        Homes(source=SOURCE_PUBLIC),
        Homes(one_home=True),
        Homes(upstream=CARRIER),
        Homes(upstream=CARRIER_NAT),
        Homes(upstream=SECOND_ROUTER),
        Homes(overlay=True),
        office,
    ],
)
def test_both_reach_the_public_computer_and_are_seen_as_the_stage_says(
    lab: Lab, builder: Builder
) -> None:
    stage = builder(lab)
    Service(on="public", mode="tells")(stage)
    for end in ("source", "destination"):
        for address in (PUBLIC, PUBLIC2):
            assert _attempt(stage.host(end), address) == CONNECTED
    table = lab.host("public").read("/proc/net/tcp").splitlines()[1:]
    peers = {_dotted(line.split()[2]) for line in table} - {"0.0.0.0"}
    assert peers == {stage.source_address, stage.destination_address}


def _dotted(hexadecimal: str) -> str:
    """An address of /proc/net/tcp, which has it in the order of the machine."""
    number = hexadecimal.partition(":")[0]
    return ".".join(str(int(number[place : place + 2], 16)) for place in (6, 4, 2, 0))


@pytest.mark.parametrize("point", [AT_MEETING_POINT, AT_MAILBOX_SERVER])
def test_a_meeting_point_serves_both(lab: Lab, point: Fault) -> None:
    stage = Homes()(lab)
    point(stage)
    for end in ("source", "destination"):
        assert HELLO in stage.host(end).python(GREET, PUBLIC).stdout


HELLO = '"type": "welcome"'
GREET = """
import json, sys
from websockets.sync.client import connect
with connect(f"ws://{sys.argv[1]}:4000/v1", proxy=None) as socket:
    print(json.dumps(json.loads(socket.recv(timeout=5))))
"""


# -- packets that end on the way (design, part 5)

PROBE = """
import errno, select, socket, struct, sys
IP_RECVERR, OFFENDER = 11, slice(20, 24)
address, ttl, wait = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with socket.socket() as probe:
    probe.setblocking(False)
    probe.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    probe.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    probe.connect_ex((address, 4242))
    poll = select.poll()
    poll.register(probe, select.POLLOUT)
    if not poll.poll(wait * 1000):
        sys.exit(print("silent"))
    error = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    try:
        [(_, _, data)] = probe.recvmsg(0, 512, socket.MSG_ERRQUEUE)[1]
    except BlockingIOError:
        sys.exit(print(errno.errorcode[error] if error else "connected"))
    kind, code = struct.unpack_from("5xBB", data)
    print(f"{kind}/{code} {socket.inet_ntoa(data[OFFENDER])}")
"""
"""What a SYN with that time to live meets: an ICMP error and its sender, or what connect() says."""

OWN, CORE, ABOVE = "11/0 192.168.1.1", "11/0 11.0.1.1", "11/0 11.0.3.2"
AT_HOME = f"11/0 {DESTINATION_PUBLIC}"
"""Time exceeded, from the source's router, the core, the carrier and the public address."""
SILENT, RESET, THERE = "silent", "ECONNREFUSED", "connected"

BOTH_FORWARD = Upstream("upper", "192.168.0.%d/24", (forward_to("192.168.0.2"),))

HOPS: dict[str, tuple[Homes, tuple[Fault, ...], tuple[str, ...]]] = {
    "open": (Homes(forwards=(FORWARD,)), (), (OWN, CORE, AT_HOME, THERE)),
    "no forward, silent": (Homes(), (), (OWN, CORE, SILENT, SILENT)),
    "no forward, reset": (Homes(others=REFUSED_BY_RESET), (), (OWN, CORE, RESET, RESET)),
    "no forward, icmp": (
        Homes(others=REFUSED),
        (),
        (OWN, CORE, f"3/3 {DESTINATION_PUBLIC}", f"3/3 {DESTINATION_PUBLIC}"),
    ),
    "another host": (
        Homes(forwards=(forward_to(OTHER_INSIDE),), other=True),
        (),
        (OWN, CORE, AT_HOME, RESET),
    ),
    "nobody": (Homes(forwards=(forward_to(NOBODY_INSIDE),)), (), (OWN, CORE, AT_HOME, SILENT)),
    "router filters": (Homes(forwards=(FORWARD,)), (ROUTER_DROP,), (OWN, CORE, AT_HOME, SILENT)),
    "source's router filters": (
        Homes(forwards=(FORWARD,)),
        (HOME_DROP,),
        (OWN, SILENT, SILENT, SILENT),
    ),
    "carrier": (Homes(forwards=(FORWARD,), upstream=CARRIER), (), (OWN, CORE, ABOVE, AT_HOME)),
    "carrier filters": (
        Homes(forwards=(FORWARD,), upstream=CARRIER),
        (CARRIER_DROP,),
        (OWN, CORE, ABOVE, SILENT),
    ),
    "carrier translates": (
        Homes(forwards=(FORWARD,), upstream=CARRIER_NAT),
        (),
        (OWN, CORE, SILENT, SILENT),
    ),
    # Both hops bear the public address: NAT gives it to the errors from behind it too.
    "both forward": (
        Homes(forwards=(FORWARD,), upstream=BOTH_FORWARD),
        (),
        (OWN, CORE, AT_HOME, AT_HOME, THERE),
    ),
    "half a hairpin": (
        Homes(forwards=(FORWARD,), one_home=True, hairpin="half"),
        (),
        (AT_HOME, SILENT),
    ),
    "no hairpin": (Homes(forwards=(FORWARD,), one_home=True), (), (RESET, RESET)),
}


@pytest.mark.parametrize(("builder", "put", "answers"), HOPS.values(), ids=HOPS)
def test_what_routers_answer(
    lab: Lab, builder: Homes, put: tuple[Fault, ...], answers: tuple[str, ...]
) -> None:
    stage = builder(lab)
    Service()(stage)
    for fault in put:
        fault(stage)
    hops = range(1, len(answers) + 1)
    assert tuple(_probe(stage.source, DESTINATION_PUBLIC, ttl) for ttl in hops) == answers


def _probe(host: Host, address: str, ttl: int, wait: float = 0.3) -> str:
    return host.python(PROBE, address, str(ttl), str(wait), as_user=True).stdout.strip()


@pytest.mark.parametrize(
    ("builder", "second"),
    [
        (Homes(), "11.0.2.1"),
        (Homes(overlay=True), "11.0.2.1"),
        (Homes(upstream=CARRIER), "11.0.2.1"),
        (Homes(upstream=CARRIER_NAT), "100.64.0.1"),
        (Homes(upstream=SECOND_ROUTER), "192.168.0.1"),
    ],
)
def test_what_the_destination_sees_on_its_way_out(lab: Lab, builder: Homes, second: str) -> None:
    destination = builder(lab).destination
    hops = [_probe(destination, PUBLIC, ttl) for ttl in (1, 2)]
    assert hops == ["11/0 192.168.1.1", f"11/0 {second}"]


def test_a_router_tells_at_last_that_nobody_is_where_it_forwards_to(lab: Lab) -> None:
    stage = Homes(forwards=(forward_to(NOBODY_INSIDE),))(lab)
    assert _probe(stage.source, DESTINATION_PUBLIC, 64, wait=8) == f"3/1 {DESTINATION_PUBLIC}"


PINHOLE = """
import os, socket, sys, time
with socket.socket() as opener:
    opener.setblocking(False)
    opener.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(sys.argv[2]))
    opener.bind(("0.0.0.0", 4242))
    opener.connect_ex((sys.argv[1], 5555))
    os.write(3, b"ready")
    time.sleep(60)
"""
KNOCK = """
import contextlib, socket, sys
with socket.socket() as prober, contextlib.suppress(OSError):
    prober.settimeout(0.3)
    prober.bind(("0.0.0.0", 5555))
    prober.connect((sys.argv[1], 4242))
"""

PINHOLES: dict[str, tuple[Homes, tuple[Fault, ...], int, bool]] = {
    "no forward": (Homes(), (), 2, True),
    "no forward, reset": (Homes(others=REFUSED_BY_RESET), (), 2, True),
    "nobody": (Homes(forwards=(forward_to(NOBODY_INSIDE),)), (), 2, True),
    "router filters": (Homes(forwards=(FORWARD,)), (ROUTER_DROP,), 2, False),
    "source's port changed": (Homes(scramblers=frozenset({"home1"})), (), 2, False),
    "destination's port changed": (Homes(scramblers=frozenset({"home2"})), (), 2, False),
    "carrier filters": (Homes(forwards=(FORWARD,), upstream=CARRIER), (CARRIER_DROP,), 3, False),
    # A SYN that ends at the carrier opens the home alone; one that ends beyond opens both.
    "carrier closed": (Homes(forwards=(FORWARD,), upstream=CARRIER), (CARRIER_CLOSED,), 2, False),
    "carrier opened": (Homes(forwards=(FORWARD,), upstream=CARRIER), (CARRIER_CLOSED,), 3, True),
    "carrier translates": (Homes(upstream=CARRIER_NAT), (), 2, False),
    "translated, opened": (Homes(upstream=CARRIER_NAT), (), 3, True),
}


@pytest.mark.parametrize(("builder", "put", "ttl", "arrives"), PINHOLES.values(), ids=PINHOLES)
def test_what_a_packet_from_inside_opens(
    lab: Lab, builder: Homes, put: tuple[Fault, ...], ttl: int, *, arrives: bool
) -> None:
    """The destination sends a SYN from its port that ends on the way; then the source connects."""
    stage = builder(lab)
    for fault in put:
        fault(stage)
    stage.destination.nft(WATCH)
    inside = stage.destination
    inside.popen_ready([sys.executable, "-c", PINHOLE, SOURCE_PUBLIC, str(ttl)], as_user=True)
    stage.source.python(KNOCK, DESTINATION_PUBLIC, as_user=True)
    assert _met(inside) == arrives
