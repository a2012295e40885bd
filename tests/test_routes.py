"""How this host would send: what of the kernel's answers becomes evidence."""

from __future__ import annotations

import errno
import sys

import pytest

from bothends import routes
from bothends.routes import note_routes
from bothends.witness.netlink import Flow, Hop, NetlinkError, find_route
from bothends_protocol.evidence import Probe, Route

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rtnetlink is Linux's own")

THERE, HERE = "192.168.7.10", "192.168.7.20"
PROBE = Probe(transport="tcp", address=HERE, port=4242)
ANSWER = Flow(transport="tcp", source=HERE, source_port=4242)
USUAL = Hop("eth0", None, HERE)


def _kernel(
    monkeypatch: pytest.MonkeyPatch, ruled: Hop | NetlinkError | None, *, by_address: bool = False
) -> None:
    def answer(_destination: str, flow: Flow | None = None) -> Hop | None:
        if flow is None or not (flow.source_port or by_address):
            return USUAL
        if isinstance(ruled, NetlinkError):
            raise ruled
        return ruled

    monkeypatch.setattr(routes, "find_route", answer)


def _noted() -> list[Route]:
    found: dict[Route, None] = {}
    note_routes(found, THERE, {PROBE: ANSWER}, local=HERE)
    return list(found)


@pytest.mark.parametrize("ruled", [USUAL, Hop("eth0", None, None), None])
def test_a_port_without_rules_of_its_own_has_no_way_of_its_own(
    monkeypatch: pytest.MonkeyPatch, ruled: Hop | None
) -> None:
    _kernel(monkeypatch, ruled)
    assert _noted() == [Route(destination=THERE, source=HERE, interface="eth0")]


def test_where_rules_lead_a_port_elsewhere_both_ways_are_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _kernel(monkeypatch, Hop("eth1", "10.8.0.1", HERE))
    usual, ruled = _noted()
    assert (usual.port, usual.interface) == (None, "eth0")
    assert (ruled.transport, ruled.port, ruled.local) == ("tcp", 4242, HERE)
    assert (ruled.interface, ruled.gateway, ruled.error) == ("eth1", "10.8.0.1", None)


def test_what_rules_lead_by_the_address_alone_is_no_ports_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _kernel(monkeypatch, Hop("eth1", None, HERE), by_address=True)
    usual, ruled = _noted()
    assert (usual.usual, ruled.usual) == (True, False)
    assert (ruled.local, ruled.port, ruled.interface) == (HERE, None, "eth1")


def test_where_rules_forbid_a_port_the_error_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    _kernel(monkeypatch, NetlinkError(errno.EACCES))
    assert [(route.port, route.error) for route in _noted()] == [(None, None), (4242, "EACCES")]


def test_the_kernel_is_asked_of_a_flow() -> None:
    hop = find_route("127.0.0.1", Flow(transport="udp", source="127.0.0.1", destination_port=9))
    assert hop is not None
    assert (hop.interface, hop.gateway) == ("lo", None)
