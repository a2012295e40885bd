"""Searching for a UPnP device: what is asked and what is taken of an answer (UDA 1.1, 1.3).

HTTP without a connection: one datagram is a message. Read is only where the device
describes itself; whom to believe that is for the caller.
"""

from __future__ import annotations

__all__ = ["GROUP", "MAX_REPLY", "PORT", "TARGETS", "location", "search"]

GROUP, PORT = "239.255.255.250", 1900

TARGETS = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
)
"""Devices answer for the versions before their own too; some are known not to."""

MAX_REPLY = 2048
"""Largest answer looked at: a datagram that is not cut on an Ethernet is smaller."""

_PROMPT = 1
"""Seconds within which devices are to answer (MX), the least that may be asked for."""


def search(target: str, host: str) -> bytes:
    """Return the datagram that asks `host` (an address, or `GROUP`) for devices of that kind."""
    lines = (
        "M-SEARCH * HTTP/1.1",
        f"HOST: {host}:{PORT}",
        'MAN: "ssdp:discover"',
        f"MX: {_PROMPT}",
        f"ST: {target}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def location(data: bytes) -> str | None:
    """Return the address of the description that an answer names; None in all else.

    Takes any bytes. The address is of printable ASCII, and nothing more is known of it.
    """
    if len(data) > MAX_REPLY:
        return None
    status, *lines = data.decode("latin-1").split("\n")
    words = status.split()
    if len(words) < 2 or not words[0].upper().startswith("HTTP/1.") or words[1] != "200":
        return None
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name.strip().upper() == "LOCATION":
            value = value.strip()
            return value if value and value.isascii() and value.isprintable() else None
    return None
