"""Which of a computer's own addresses another one is told to use."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from .addresses import bare, family, is_link_local6
from .evidence import Address

__all__ = ["offered"]

_UNUSED = ("deprecated", "tentative")
"""For no new connections (RFC 4862, 5.5.4), and in nobody's use yet."""


def offered(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Return those of `addresses` that are fit to be told, in their order.

    One that is deprecated or tentative only where its kind (IP version, link-local or not) has no
    other; a temporary one (RFC 8981) only where the network has no lasting one.
    """
    listed = tuple(addresses)
    used = {_kind(item) for item in listed if item.state not in _UNUSED}
    lasting = {_network(item) for item in listed if not item.state}
    return tuple(
        item
        for item in listed
        if (item.state not in _UNUSED or _kind(item) not in used)
        and (item.state != "temporary" or _network(item) not in lasting)
    )


def _kind(item: Address) -> tuple[int, bool]:
    return family(bare(item.address)), is_link_local6(item.address)


def _network(item: Address) -> tuple[str, str]:
    text = f"{bare(item.address)}/{item.prefix}"
    try:
        return item.interface, str(ipaddress.ip_network(text, strict=False))
    except ValueError:  # the other side's word, which may be anything
        return item.interface, text
