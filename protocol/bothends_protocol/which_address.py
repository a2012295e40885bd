"""Which address of the destination the real application should use, where the tested one is not it.

Notes of a check, from what both evidences tell of where the two are (`translation`). Short, and
only where it is known: an address that is not seen by anybody is none to be told.
"""

from __future__ import annotations

from collections.abc import Collection

from .addresses import bare, family, is_private, is_public
from .evidence import Evidence
from .observations import Journey

__all__ = ["address_notes", "temporary_note"]

MAX_SHOWN = 3
"""Addresses in one sentence."""


def address_notes(j: Journey, codes: Collection[str], *, reachable: bool) -> tuple[str, ...]:
    """Return what is to be said of the tested address; `codes` are the causes that fit."""
    notes = (_at_home(j, reachable=reachable), _inside_from_outside(j, codes), _not_its(j, codes))
    return tuple(note for note in notes if note)


_BY_SENDER = ("destination.firewall-", "network.drop", "network.reject")
"""Causes that may go by the address from which a request comes."""


def temporary_note(
    source: Evidence, local: Collection[str], codes: Collection[str]
) -> tuple[str, ...]:
    """Return what is to be said where the source's requests come from a temporary address.

    `local` are the addresses that its system chose for them (RFC 6724, rule 7).
    """
    used = {bare(address) for address in local}
    found = [bare(a.address) for a in source.facts.addresses if a.state == "temporary"]
    chosen = [address for address in found if address in used]
    if not chosen or not any(code.startswith(_BY_SENDER) for code in codes):
        return ()
    note = (
        f"The source's system connects from {chosen[0]}, a temporary address that it replaces from "
        "time to time (RFC 8981). A rule that lets single addresses in must name its network in "
        "place of that."
    )
    return (note,)


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
