"""Which address of the destination the real application should use, where the tested one is not it.

Notes of a check, from what both evidences tell of where the two are (`translation`). Short, and
only where it is known: an address that is not seen by anybody is none to be told.
"""

from __future__ import annotations

from collections.abc import Collection

from .addresses import bare, family, is_private, is_public
from .observations import Journey

__all__ = ["address_notes"]

MAX_SHOWN = 3
"""Addresses in one sentence."""


def address_notes(j: Journey, codes: Collection[str], *, reachable: bool) -> tuple[str, ...]:
    """Return what is to be said of the tested address; `codes` are the causes that fit."""
    notes = (_at_home(j, reachable=reachable), _inside_from_outside(j, codes), _not_its(j, codes))
    return tuple(note for note in notes if note)


def _at_home(j: Journey, *, reachable: bool) -> str:
    n = j.translation
    inside = j.landing or ""
    if n is None or not (n.together and n.ours) or not is_private(inside):
        return ""
    both = "Both computers are behind one router."
    if reachable:
        return f"{both} There {inside} is the shorter way; {j.address} is for use from outside."
    return f"{both} There {inside} is the address to use, and {j.address} from outside only."


def _inside_from_outside(j: Journey, codes: Collection[str]) -> str:
    # Two networks may be joined by a tunnel: then an inside address is the right one.
    if not (j.apart and j.local and is_private(j.address)) or "address.private" not in codes:
        return ""
    seen = _seen(j)
    if not seen:
        return ""
    return (
        f"{j.address} is the destination's address in its own network only. From another network "
        f"use {seen}."
    )


def _not_its(j: Journey, codes: Collection[str]) -> str:
    seen = _seen(j)
    if "address.wrong-host" not in codes or not seen or j.local or bare(j.address) in j.public:
        return ""
    if j.translation is not None and j.translation.together:
        return ""  # what is seen from outside is not what is wanted there
    return f"{j.address} is not the destination's. From outside the destination is seen at {seen}."


def _seen(j: Journey) -> str:
    """The public addresses of the destination, of the tested IP version where there are any."""
    told = [address for address in j.public if is_public(address)]
    alike = [address for address in told if family(address) == family(bare(j.address))]
    return " or ".join((alike or told)[:MAX_SHOWN])
