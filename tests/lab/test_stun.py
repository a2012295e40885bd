"""What a real STUN server and real NATs let us say, and what a way that blocks UDP does not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from .coturn import stun_server
from .hosts import Host, Lab
from .network import Network

pytestmark = pytest.mark.lab

FIRST, SECOND = "11.0.9.1", "11.0.9.2"
FIRST6, SECOND6 = "2a00:9::1", "2a00:9::2"
HOST, HOST6, OUTSIDE = "192.168.1.10", "2a00:1::10", "11.0.1.2"
BY_PORT, BY_ADDRESS = "address-and-port-dependent", "address-dependent"
INDEPENDENT = "endpoint-independent"

ASK = """
import asyncio, json, sys, time
import msgspec
from bothends.stun import ask
address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
started = time.monotonic()
heard = asyncio.run(ask(address, 3478, source_port=port, seconds=seconds))
print(json.dumps({
    "seen": msgspec.to_builtins(heard.seen),
    "behaviour": msgspec.to_builtins(heard.behaviour),
    "seconds": time.monotonic() - started,
}))
"""

IN_TIME = 2.0
"""Seconds within which all is told, on a machine that is busy; alone it takes half a second."""

NAT = """table ip nat {
  chain out {
    type nat hook postrouting priority srcnat;
    oifname "wan0" %s
  }
}
"""
MASQUERADE, RANDOM = NAT % "masquerade", NAT % "udp sport 1-65535 masquerade fully-random"

FULL_CONE = """table ip forwards {
  chain in {
    type nat hook prerouting priority dstnat;
    iifname "wan0" udp dport 1024-65535 dnat to 192.168.1.10
  }
}
"""
"""Whatever comes goes to the one host inside, at the same port."""

RESTRICTED = """table ip seen {
  set asked { type ipv4_addr . inet_service; flags dynamic; timeout 1m; }
  chain out {
    type filter hook forward priority 0;
    oifname "wan0" meta l4proto udp add @asked { ip daddr . udp sport }
  }
  chain in {
    type filter hook prerouting priority -310;
    iifname "wan0" meta l4proto udp ip saddr . udp dport != @asked drop
  }
}
"""
"""Lets in whom a port has sent to, from whichever port of theirs; before NAT, which keeps ports."""

BLOCKED = """table inet blocks {
  chain forward {
    type filter hook forward priority 0;
    meta l4proto udp drop
  }
}
"""
LOSSY = """table ip loses {
  chain out {
    type filter hook output priority 0;
    numgen random mod 100 < %d drop
  }
}
"""
SECOND_OFF = """table ip off {
  chain out {
    type filter hook output priority 0;
    ip saddr 11.0.9.2 drop
  }
}
"""
DEFAULT_DENY = """table inet host {
  chain in {
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    meta l4proto icmpv6 accept
  }
}
"""


@pytest.fixture
def network(lab: Lab) -> Network:
    """A host at home, its router, and a public host on the other side of it."""
    host, router, public = lab.host("host"), lab.host("router"), lab.host("public")
    network = Network(lab)
    network.attach(host, "inside", f"{HOST}/24", f"{HOST6}/64")
    network.attach(router, "inside", "192.168.1.1/24", "2a00:1::1/64", device="lan0")
    network.attach(router, "outside", f"{OUTSIDE}/16", "2a00:9::99/64", device="wan0")
    network.attach(
        public, "outside", f"{FIRST}/16", f"{SECOND}/16", f"{FIRST6}/64", f"{SECOND6}/64"
    )
    network.router(router)
    for way in ("default via 192.168.1.1", "default via 2a00:1::1"):
        network.route(host, way)
    for way in (f"192.168.1.0/24 via {OUTSIDE}", "2a00:1::/64 via 2a00:9::99"):
        network.route(public, way)
    network.up()
    return network


@pytest.fixture
def home(network: Network) -> Host:
    """The host at home, with a STUN server on the public one."""
    stun_server(network.lab.host("public"), FIRST, SECOND, FIRST6, SECOND6)
    return network.lab.host("host")


def router(lab: Lab, rules: str) -> None:
    lab.host("router").nft(rules)


def ask(
    host: Host, server: str = FIRST, *, port: int = 0, seconds: float = 20, as_user: bool = False
) -> dict[str, Any]:
    done = host.python(ASK, server, str(port), str(seconds), as_user=as_user)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def words(found: dict[str, Any]) -> tuple[str, str, bool]:
    """Mapping, filter, and whether the port was kept."""
    said = found["behaviour"]
    return said["mapping"], said["filtering"], said["keeps_port"]


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param(MASQUERADE, (INDEPENDENT, BY_PORT, True), id="masquerade"),
        pytest.param(RANDOM, (BY_PORT, BY_PORT, False), id="fully-random"),
    ],
)
def test_nats(
    lab: Lab, home: Host, rules: str, expected: tuple[str, str, bool], *, as_user: bool
) -> None:
    router(lab, rules)
    found = ask(home, port=24242, as_user=as_user)
    assert words(found) == expected, found
    first = found["seen"][0]
    assert (first["address"], first["said_by"]) == (OUTSIDE, FIRST)
    assert first["local_port"] == 24242
    assert (first["port"] == 24242) is expected[2]
    assert found["seconds"] < IN_TIME


def test_a_nat_that_lets_in_everybody(lab: Lab, home: Host) -> None:
    router(lab, MASQUERADE + FULL_CONE)
    assert words(ask(home)) == (INDEPENDENT, INDEPENDENT, True)


def test_a_nat_that_lets_in_whom_it_has_sent_to(lab: Lab, home: Host) -> None:
    router(lab, MASQUERADE + FULL_CONE + RESTRICTED)
    assert words(ask(home)) == (INDEPENDENT, BY_ADDRESS, True)


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize(("server", "own"), [(FIRST, HOST), (FIRST6, HOST6)], ids=["IPv4", "IPv6"])
def test_without_a_nat(home: Host, server: str, own: str, *, as_user: bool) -> None:
    found = ask(home, server, as_user=as_user)
    assert words(found) == ("none", "none", True)
    assert [word["address"] for word in found["seen"]] == [own]
    assert found["seconds"] < IN_TIME


@pytest.mark.parametrize("server", [FIRST, FIRST6], ids=["IPv4", "IPv6"])
def test_a_host_that_lets_nothing_in_filters_without_a_nat(home: Host, server: str) -> None:
    home.nft(DEFAULT_DENY)
    assert words(ask(home, server)) == ("none", BY_PORT, True)


@pytest.mark.parametrize("server", [FIRST, FIRST6], ids=["IPv4", "IPv6"])
def test_where_udp_is_blocked_nothing_is_claimed(lab: Lab, home: Host, server: str) -> None:
    router(lab, BLOCKED)
    started = time.monotonic()
    found = ask(home, server, seconds=0.5)
    assert (found["seen"], found["behaviour"]) == ([], None)
    assert time.monotonic() - started < 10
    assert found["seconds"] < IN_TIME


def test_a_server_with_one_address_tells_what_it_can(lab: Lab, network: Network) -> None:
    stun_server(lab.host("public"), FIRST)
    router(lab, MASQUERADE)
    found = ask(network.lab.host("host"))
    assert found["seen"][0]["address"] == OUTSIDE
    assert words(found) == ("unknown", "unknown", True)


def test_a_second_address_that_is_off_shows_no_filter(lab: Lab, home: Host) -> None:
    router(lab, MASQUERADE)
    lab.host("public").nft(SECOND_OFF)
    assert words(ask(home)) == ("unknown", "unknown", True)


@pytest.mark.parametrize("percent", [10, 30])
def test_loss_is_never_a_filter(lab: Lab, home: Host, percent: int) -> None:
    router(lab, MASQUERADE + FULL_CONE)
    lab.host("public").nft(LOSSY % percent)
    for _ in range(5):
        mapping, filtering, _ = words(ask(home))
        assert mapping in (INDEPENDENT, "unknown")
        assert filtering in (INDEPENDENT, "unknown")
