"""Tags: maximum segment sizes by which a connection request is known behind a NAT.

A NAT changes addresses and ports, some change sequence numbers; the maximum segment size that a
SYN offers (RFC 9293, 3.2) they leave alone, as long as it is smaller than what they would lower it
to (measured: 777 arrived unchanged through two Linux NATs). So each request offers a size of its
own out of a range that no system offers by itself, and that every path carries.
"""

from __future__ import annotations

__all__ = ["FIRST_TAG", "LAST_TAG", "TRACE_TAG", "is_tag", "tag_of"]

FIRST_TAG, LAST_TAG = 640, 1151
"""The contact's own connections offer 1200, hosts behind a tunnel 1220 and more, and 536 is what
stands for none at all (RFC 9293, 3.7.1). 512 tags: more than one port is ever sent requests."""

TRACE_TAG = 600
"""Of requests that are to end on the way: they count as no attempt where one arrives after all."""


def tag_of(number: int) -> int:
    """Return the tag of the request `number` of a run."""
    return FIRST_TAG + number % (LAST_TAG - FIRST_TAG + 1)


def is_tag(size: int) -> bool:
    """Return whether `size` is a tag of a request."""
    return FIRST_TAG <= size <= LAST_TAG
