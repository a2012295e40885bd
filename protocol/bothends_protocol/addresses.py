"""Small questions about IP addresses as text, the form in which evidence holds them."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

__all__ = [
    "bare",
    "family",
    "is_carrier",
    "is_link_local6",
    "is_loopback",
    "is_near",
    "is_private",
    "is_public",
    "is_wildcard",
    "normal",
    "public",
]

_CARRIER = ipaddress.ip_network("100.64.0.0/10")
"""Shared address space of carriers (RFC 6598). On a host's own card it is mostly an overlay's."""

_PRIVATE = tuple(
    ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)
"""RFC 1918. The documentation ranges, which `ipaddress` calls private, mean nothing here."""

_UNICAST6 = ipaddress.IPv6Network("2000::/3")
"""What IANA has opened for IPv6 unicast; all else has a meaning of its own."""

_EXPERIMENTAL = 240
"""First byte of the reserved IPv4 addresses (RFC 1112, 4), broadcast among them."""

_LONGEST = 45
"""Letters of an address, at most (IPv6 with an IPv4 address at its end)."""


@functools.lru_cache(maxsize=1024)
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


def is_link_local6(address: str) -> bool:
    """Return whether `address` is a link-local one of IPv6, which means nothing without a zone."""
    try:
        value = ipaddress.ip_address(bare(address))
    except ValueError:
        return False
    return value.version == 6 and value.is_link_local


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


def is_private(address: str) -> bool:
    """Return whether `address` is one of RFC 1918 or of carriers (RFC 6598), used again anywhere.

    Unique local addresses of IPv6 (RFC 4193) are nobody else's, and so are not meant.
    """
    try:
        value = ipaddress.ip_address(normal(address))
    except ValueError:
        return False
    return isinstance(value, ipaddress.IPv4Address) and (
        value in _CARRIER or any(value in net for net in _PRIVATE)
    )


def is_carrier(address: str) -> bool:
    """Return whether `address` is of the shared address space of carriers (RFC 6598)."""
    try:
        return ipaddress.ip_address(normal(address)) in _CARRIER
    except ValueError:
        return False


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


def is_public(address: str) -> bool:
    """Return whether `address` is one of the Internet, as opposed to an inside or a special one.

    For addresses that were seen: documentation ranges count, since masked evidence has them.
    """
    try:
        value = ipaddress.ip_address(normal(address))
    except ValueError:
        return False
    if isinstance(value, ipaddress.IPv6Address):
        return value in _UNICAST6
    special = value.is_loopback or value.is_link_local or value.is_multicast or value.packed[0] == 0
    return not special and value.packed[0] < _EXPERIMENTAL and not is_private(str(value))
