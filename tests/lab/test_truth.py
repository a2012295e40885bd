"""The rows whose truth is not obvious are true: what a client of the service sees there.

No agent runs here. Each row is set up as the table says, then one ordinary
connection is made from the source to what the row tests.
"""

from __future__ import annotations

import pytest

from . import scenario
from .hosts import Lab
from .network import DEVICE, Stage
from .scenario import Scenario
from .scenarios import by_name
from .test_harness import ATTEMPT, CONNECTED, DROPPED, NO_ROUTE, REFUSED

pytestmark = pytest.mark.lab

FORBIDDEN, SILENCE = "PermissionError", "TimeoutError"
CLOSED, RESET = "connected", "ConnectionResetError"
"""It connects, and nothing is said; it connects, and is cut off."""

SEEN = {
    # Somebody else, or nobody, has the address.
    "no-host": DROPPED,
    "dead-neighbour": DROPPED,
    "dead-gateway": DROPPED,
    "wrong-host-answers": CONNECTED,
    "wrong-host-refuses": REFUSED,
    "wrong-host-across-a-router": REFUSED,
    "duplicate-answers": CONNECTED,
    "duplicate-refuses": REFUSED,
    "duplicate-drops": DROPPED,
    "permanent-neighbour": CONNECTED,
    # No way there, no way back.
    "no-route": NO_ROUTE,
    "no-route-unreachable": NO_ROUTE,
    "no-route-blackhole": NO_ROUTE,
    "no-route-prohibit": FORBIDDEN,
    "no-route-for-this-port": FORBIDDEN,
    "no-way-back-wrong-mask": DROPPED,
    "no-way-back-blackhole": DROPPED,
    "no-way-back-wrong-card": DROPPED,
    "no-way-back-tunnel": DROPPED,
    "no-way-back-reverse-path": DROPPED,
    "no-way-back-reverse-path-of-arp": DROPPED,
    "ipv6-no-route-prohibit": FORBIDDEN,
    "ipv6-no-way-back-prohibit": DROPPED,
    # Filters in other places than the usual one.
    "source-drop-tc": DROPPED,
    "source-drop-iptables": DROPPED,
    "source-drop-uid": DROPPED,
    "source-drop-uid@users": DROPPED,
    "source-drop-default-deny": DROPPED,
    "source-reply-blocked-stateless-deny": DROPPED,
    "destination-drop-tc": DROPPED,
    "destination-drop-xdp": DROPPED,
    "destination-reject-prerouting": REFUSED,
    "destination-reject-iptables-reset": REFUSED,
    "ipv6-destination-drop-tc": DROPPED,
    # Front-ends.
    "ufw-default-deny": DROPPED,
    "ufw-limit": CONNECTED,
    "ufw-reject": REFUSED,
    "ufw-source-deny-out": DROPPED,
    "firewalld-default": NO_ROUTE,
    "firewalld-allow": CONNECTED,
    "firewalld-drop-zone": DROPPED,
    "firewalld-reject": REFUSED,
    "ipv6-ufw-allow-ipv4-only": DROPPED,
    # Programs.
    "bound-to-second-card": REFUSED,
    "bound-to-loopback-dual": REFUSED,
    "bound-to-each-card": CONNECTED,
    "bound-to-eth0-at-an-address-of-lo": CONNECTED,
    "bound-to-lo-at-an-address-of-lo": REFUSED,
    "syn-flood-with-cookies": CONNECTED,
    "syn-flood-without-cookies": DROPPED,
    "destination-drops-behind-the-request-new-only": SILENCE,
    "no-local-ports": NO_ROUTE,
    "hung": SILENCE,
    "backlog-full-of-one": DROPPED,
    "closes": CLOSED,
    "closes-by-reset": RESET,
    "wrong-interface-same-card": REFUSED,
    "other-program": CONNECTED,
    "tells-and-closes": CONNECTED,
    "slow-to-accept": CONNECTED,
    "small-backlog": CONNECTED,
    "deferred-accept": SILENCE,
    "socket-activated": CONNECTED,
    # Forwards inside the destination.
    "container": CONNECTED,
    "container-beside-proxy": CONNECTED,
    "container-not-running": REFUSED,
    "container-drops": DROPPED,
    "container-forward-drops": DROPPED,
    "redirect": CONNECTED,
    "ipv6-container": CONNECTED,
    # Busy and bad networks.
    "traffic-open": CONNECTED,
    "traffic-default-deny": DROPPED,
    "ipv6-traffic-destination-drop": DROPPED,
    "many-addresses": CONNECTED,
    # Names, of which a program takes the first address that accepts a connection.
    "names-first-dead": CONNECTED,
    "names-one-dropped": CONNECTED,
    "names-both-dropped": DROPPED,
    "names-first-hung": SILENCE,
    "names-first-closes": CLOSED,
    "names-dual-six-rejected": CONNECTED,
    "names-dual-service-of-four": CONNECTED,
    "names-broken-six-no-route-open": CONNECTED,
    "names-broken-six-no-neighbour-open": CONNECTED,
    "names-mapped-target-drop": DROPPED,
    "ipv6-routers-3-reject-reset-at-2": REFUSED,
}


@pytest.mark.parametrize(("name", "seen"), SEEN.items(), ids=SEEN)
def test_a_row_is_true(lab: Lab, name: str, seen: str) -> None:
    row = by_name(name)
    stage = scenario.build(lab, row)
    assert _attempt(stage, row, _tested(stage, row)) == seen


def test_a_row_with_link_local_addresses_alone_is_true(lab: Lab) -> None:
    row = by_name("link-local")
    stage = scenario.build(lab, row)
    listed = stage.destination.run(["ip", "-6", "-o", "address", "show", "dev", DEVICE]).stdout
    (address,) = (word for word in listed.split() if word.startswith("fe80::"))
    assert _attempt(stage, row, f"{address.partition('/')[0]}%{DEVICE}") == CONNECTED


def _tested(stage: Stage, row: Scenario) -> str:
    """What the row has the source test: its --target, or where it knows the destination."""
    return row.source_args[-1] if "--target" in row.source_args else stage.destination_address


def _attempt(stage: Stage, row: Scenario, address: str) -> str:
    argument = (address, row.ports)
    return stage.source.python(ATTEMPT, *argument, as_user="source" in row.users).stdout.strip()
