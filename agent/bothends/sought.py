"""Which ports are looked through for one that a new listener may take (`bothends suggest`)."""

from __future__ import annotations

from bothends_protocol.ports import MAX_PORT, PortSet, format_ports, parse_ports

from .options import SERVICE_PORT
from .witness.sockets import given_ports

__all__ = ["own_choice", "sought"]

USUAL = (SERVICE_PORT, SERVICE_PORT + 1)
"""Who asks for another port has trouble with these, as a rule."""

_DYNAMIC = (49152, MAX_PORT)
"""What systems choose from where they say nothing else (RFC 6335, section 6)."""


def own_choice() -> tuple[int, int]:
    """Return the first and the last port that this system chooses for connections it opens.

    A listener there may find its port taken at the next start.
    """
    return given_ports(_DYNAMIC)


def sought(text: str, control_port: int, own: tuple[int, int]) -> tuple[list[PortSet], str]:
    """Return the ports in `text` that are looked through, and in a sentence those that are not.

    `own` is what `own_choice` returns. A port typed alone is looked at whatever it is, but for
    `control_port`, where the agents meet. Raises `InputError` as `parse_ports`.
    """
    typed = (item.rpartition(":")[2] for item in text.replace(" ", "").split(","))
    alone = {int(item) for item in typed if item.isdecimal()}
    out = {*USUAL, *range(own[0], own[1] + 1)} - alone | {control_port}
    kept = []
    dropped = set()
    for part in parse_ports(text):
        ports = [port for port in part if port not in out]
        dropped |= {port for port in part if own[0] <= port <= own[1]} & out - {control_port}
        if ports:
            ranges = format_ports(ports).split(",")
            ends = ((r.partition("-")[0], r.rpartition("-")[2]) for r in ranges)
            kept.append(PortSet(part.transport, tuple((int(a), int(b)) for a, b in ends)))
    if not dropped:
        return kept, ""
    return kept, (
        f"Left out: {format_ports(dropped)}, since this computer takes ports from "
        f"{own[0]}-{own[1]} for connections that it opens itself."
    )
