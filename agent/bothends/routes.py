"""How this host would send: its routes, as the evidence has them."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from msgspec.structs import replace

from bothends_protocol.evidence import Probe, Route

from .witness.netlink import Flow, NetlinkError, find_route

__all__ = ["note_routes"]


def note_routes(
    routes: MutableMapping[Route, None],
    destination: str,
    flows: Mapping[Probe, Flow],
    *,
    zone: str = "",
    local: str | None = None,
) -> None:
    """Add the route to `destination`, or the error that the kernel says there.

    And the way of the packets of each of `flows`, which are those of a probe, where rules lead them
    elsewhere: `local` is the tested address that they are sent from. Nothing is added where the
    kernel cannot be asked.
    """
    usual = _ask(destination, zone, None)
    if usual is None:
        return
    routes[usual] = None
    for probe, flow in flows.items():
        way = _ask(destination, zone, flow)
        if way is not None and _hop(way) != _hop(usual):
            way = replace(way, transport=probe.transport, port=probe.port, local=local)
            routes[way] = None


def _hop(route: Route) -> tuple[str | None, str | None, str | None]:
    return route.interface, route.gateway, route.error


def _ask(destination: str, zone: str, flow: Flow | None) -> Route | None:
    try:
        hop = find_route(f"{destination}{zone}", flow)
    except NetlinkError as error:
        return Route(destination=destination, error=error.name)
    if hop is None:
        return None
    return Route(
        destination=destination, source=hop.source, interface=hop.interface, gateway=hop.gateway
    )
