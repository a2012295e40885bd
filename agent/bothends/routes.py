"""How this host would send: its routes, as the evidence has them."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from itertools import pairwise

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

    And the way of what is sent from the tested address `local`, and of the packets of each of
    `flows`, which are those of a probe, where these are led elsewhere. Nothing is added where the
    kernel cannot be asked.
    """
    usual = _ask(destination, zone, None)
    if usual is None:
        return
    routes[usual] = None
    from_there: dict[str, Route | None] = {}
    for probe, flow in flows.items():
        kind = probe.transport
        if local is not None and kind not in from_there:
            from_there[kind] = _ask(destination, zone, Flow(kind, source=local), local=local)
        way = _ask(destination, zone, flow, local=local)
        way = way and replace(way, transport=kind, port=probe.port)
        known = [each for each in (usual, from_there.get(kind), way) if each is not None]
        routes.update(
            (after, None) for before, after in pairwise(known) if _hop(after) != _hop(before)
        )


def _hop(route: Route) -> tuple[str | None, str | None, str | None]:
    return route.interface, route.gateway, route.error


def _ask(
    destination: str, zone: str, flow: Flow | None, *, local: str | None = None
) -> Route | None:
    try:
        hop = find_route(f"{destination}{zone}", flow)
    except NetlinkError as error:
        return Route(destination=destination, error=error.name, local=local)
    if hop is None:
        return None
    return Route(
        destination=destination,
        source=hop.source,
        interface=hop.interface,
        gateway=hop.gateway,
        local=local,
    )
