"""The default gateways of this host, made to say where they are on their link.

By one datagram that no router passes on: the kernel asks for the hardware
address before it can send it. Nothing of it needs privilege.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

from bothends_protocol.evidence import Neighbour

from .witness.netlink import Hop, NetlinkError, default_gateways, neighbour_state

__all__ = ["gateway_neighbours", "make_resolved"]

MAX_GATEWAYS = 8
"""Gateways asked: a host has one or two for each IP version."""

ANSWER_SECONDS = 0.3
"""How long a gateway may take to say where it is: it is on the same link."""

_POLL_SECONDS = 0.02
_DISCARD_PORT = 9
"""The discard service (RFC 863): nobody waits for an answer, nothing is started by it."""


async def gateway_neighbours() -> tuple[Neighbour, ...]:
    """Return the default gateways as neighbours, those that do not answer among them."""
    try:
        hops = default_gateways() or ()
    except NetlinkError:
        return ()
    return tuple(await asyncio.gather(*map(_gateway, hops[:MAX_GATEWAYS])))


async def _gateway(hop: Hop) -> Neighbour:
    address = hop.gateway or ""
    make_resolved(address, hop.interface)
    until = time.monotonic() + ANSWER_SECONDS
    state: tuple[str, str | None] | None = None
    while time.monotonic() < until:
        with contextlib.suppress(NetlinkError):
            state = neighbour_state(address, hop.interface)
        if state is not None and state[1] is not None:
            break
        await asyncio.sleep(_POLL_SECONDS)
    return Neighbour(
        destination="default",
        next_hop=address,
        interface=hop.interface,
        state=state[0] if state else "unknown",
        hardware=state[1] if state else None,
        round=0,
    )


def make_resolved(address: str, interface: str) -> None:
    """Have the kernel find out the hardware address, by a datagram that no router passes on."""
    version6 = ":" in address
    # What cannot be sent, the kernel's table then knows nothing new about.
    with contextlib.suppress(OSError):
        index = socket.if_nametoindex(interface)
        with socket.socket(
            socket.AF_INET6 if version6 else socket.AF_INET, socket.SOCK_DGRAM
        ) as sock:
            sock.setblocking(False)
            if version6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
                sock.sendto(b"\0", (address, _DISCARD_PORT, 0, index))
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
                sock.sendto(b"\0", (address, _DISCARD_PORT))
