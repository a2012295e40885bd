"""Small questions about IP addresses as text, the form in which evidence holds them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

__all__ = ["bare", "family", "is_loopback", "is_near", "is_wildcard", "normal", "public"]

_LONGEST = 45
"""Letters of an address, at most (IPv6 with an IPv4 address at its end)."""

_UNICAST6 = ipaddress.IPv6Network("2000::/3")
"""What IANA has opened for IPv6 unicast; all else has a meaning of its own."""


def normal(address: str) -> str:
    """Return `address` in its one usual form: lower case, IPv4-mapped IPv6 as IPv4.

    A zone (`%eth0`) is kept. Text that is no address comes back as it is.
    """
    try:
        value = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(value, ipaddress.IPv6Address) and value.ipv4_mapped is not None:
        return str(value.ipv4_mapped)
    return str(value)


def bare(address: str) -> str:
    """Return `address` without its zone, in its usual form."""
    return normal(address.partition("%")[0])


def family(address: str) -> int:
    """Return 4 or 6; 0 for text that is no address."""
    try:
        return ipaddress.ip_address(normal(address)).version
    except ValueError:
        return 0


def is_loopback(address: str) -> bool:
    """Return whether `address` reaches only the host it is used on."""
    try:
        return ipaddress.ip_address(normal(address)).is_loopback
    except ValueError:
        return False


def is_wildcard(address: str) -> bool:
    """Return whether a socket bound to `address` takes any address of its family."""
    return bare(address) in ("0.0.0.0", "::")  # noqa: S104  compared, not bound


def is_near(address: str, own: Iterable[tuple[str, int]]) -> bool:
    """Return whether `address` is a private one, or in a network of `own` (address and prefix).

    That is where a computer may be that another one vouches for; loopback, link-local and
    multicast addresses mean something else on each host.
    """
    try:
        value = ipaddress.ip_address(normal(address))
        networks = [ipaddress.ip_network(f"{bare(a)}/{length}", strict=False) for a, length in own]
    except ValueError:
        return False
    if value.is_loopback or value.is_link_local or value.is_multicast or value.is_unspecified:
        return False
    return value.is_private or any(value in network for network in networks)


def public(address: str) -> str:
    """Return `address` in its usual form where it means one host to everybody, else nothing.

    For addresses that somebody else names: private, shared (RFC 6598), link-local, loopback,
    documentation and multicast ones are none, and neither is what is no address or has a zone.
    """
    if len(address) > _LONGEST or "%" in address:
        return ""
    try:
        value = ipaddress.ip_address(normal(address))
    except ValueError:
        return ""
    if isinstance(value, ipaddress.IPv6Address) and value not in _UNICAST6:
        return ""
    return str(value) if value.is_global and not value.is_multicast else ""
