"""Small questions about IP addresses as text, the form in which evidence holds them."""

from __future__ import annotations

import ipaddress

__all__ = ["bare", "family", "is_loopback", "is_wildcard", "normal"]


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
