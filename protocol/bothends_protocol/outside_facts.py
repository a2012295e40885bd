"""What others say of one side: as what they see it, what its router says, how its NAT behaves.

Taken from the evidence as it is printed, saved and shown (`outside` of `source` and `destination`
in the document). No opinion of ours is in it; what follows from it is said in `translation` and
`causes`. Half of it was sent by the other computer, and may stem from a router or a server that
neither of the two owns: so what is no address or none of the known words is left out here, texts
are cut and made harmless, and the lists have an end.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from .addresses import bare, family
from .evidence import Evidence, Mapping, NatBehaviour, OpenedMapping, RouterWord, SeenAs
from .ports import TRANSPORTS
from .traversal import (
    ADDRESS_AND_PORT_DEPENDENT,
    ADDRESS_DEPENDENT,
    ENDPOINT_INDEPENDENT,
    NONE,
    UNKNOWN,
    punching_can_work,
    punching_in_words,
)

__all__ = ["OutsideFacts", "Punching", "outside_facts", "punching", "read_outside", "tidy"]

MAX_LISTED = 64
"""Records of a kind: a router is asked about fewer ports."""

MAX_SAID = 240
"""Letters of a text that a router or a server gave: the agent that heard it keeps no more."""

PROTOCOLS = ("upnp", "pcp", "nat-pmp")
SEERS = ("stun", "rendezvous", *PROTOCOLS)
WORDS = ("answers", "silent", "refused", "unusable")
ENDS = ("granted", "other-port", "refused", "permanent-only", "silent", "failed")
BEHAVIOURS = (NONE, ENDPOINT_INDEPENDENT, ADDRESS_DEPENDENT, ADDRESS_AND_PORT_DEPENDENT, UNKNOWN)
"""The words that the records use (`evidence`)."""


class OutsideFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one side from outside; each part is empty where nobody said anything."""

    seen_as: tuple[SeenAs, ...] = ()
    router: tuple[RouterWord, ...] = ()
    opened: tuple[OpenedMapping, ...] = ()
    """What came of --map."""
    nat: tuple[NatBehaviour, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.seen_as or self.router or self.opened or self.nat)


class Punching(msgspec.Struct, frozen=True):
    """Whether the two can meet by UDP through their NATs; None where that is not known."""

    possible: bool | None
    text: str


def outside_facts(evidence: Evidence) -> OutsideFacts:
    """Return what `evidence` holds of its side from outside, fit to be shown."""
    return tidy(
        OutsideFacts(
            seen_as=evidence.seen_as,
            router=evidence.router_words,
            opened=evidence.opened,
            nat=evidence.behaviours,
        )
    )


def read_outside(host: object) -> OutsideFacts:
    """Return what `host`, the facts of a side as they stand in a document, says of its outside."""
    held = host.get("outside") if isinstance(host, dict) else None
    try:
        return tidy(msgspec.convert(held or {}, OutsideFacts))
    except msgspec.ValidationError:
        return OutsideFacts()


def tidy(facts: OutsideFacts) -> OutsideFacts:
    """Return `facts` fit to be shown: nothing but addresses, known words and short texts."""
    return OutsideFacts(
        seen_as=tuple(
            replace(s, address=_address(s.address), said_by=_address(s.said_by))
            for s in facts.seen_as[:MAX_LISTED]
            if s.by in SEERS and _address(s.address)
        ),
        router=tuple(
            replace(
                w,
                router=_address(w.router),
                detail=_said(w.detail),
                outside=_address(w.outside) or None,
                mappings=tuple(_mappings(w.mappings)),
            )
            for w in facts.router[:MAX_LISTED]
            if w.protocol in PROTOCOLS and w.outcome in WORDS
        ),
        opened=tuple(
            replace(
                o,
                router=_address(o.router),
                detail=_said(o.detail),
                outside=_address(o.outside) or None,
                lease=max(o.lease, 0),
            )
            for o in facts.opened[:MAX_LISTED]
            if o.protocol in ("", *PROTOCOLS) and o.outcome in ENDS and o.transport in TRANSPORTS
        ),
        nat=tuple(
            replace(
                n,
                server=_address(n.server),
                mapping=n.mapping if n.mapping in BEHAVIOURS else UNKNOWN,
                filtering=n.filtering if n.filtering in BEHAVIOURS else UNKNOWN,
                detail=_said(n.detail),
            )
            for n in facts.nat[:MAX_LISTED]
        ),
    )


def _mappings(mappings: tuple[Mapping, ...]) -> Iterable[Mapping]:
    for mapping in mappings[:MAX_LISTED]:
        client = _address(mapping.client)
        if mapping.transport in TRANSPORTS and (client or mapping.client is None):
            lease = None if mapping.lease is None else max(mapping.lease, 0)
            yield replace(mapping, client=client or None, lease=lease)


def _address(text: str | None) -> str:
    """Return `text` as `ipaddress` writes it, without its zone; empty where it is no address."""
    address = bare(text or "")
    return address if family(address) else ""


def _said(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:MAX_SAID])


def punching(source: OutsideFacts | None, destination: OutsideFacts | None) -> Punching | None:
    """Return whether the two can meet by UDP; None where neither asked a STUN server."""
    found = [_behaviour(side) for side in (source, destination)]
    if not any(found):
        return None
    here, there = (behaviour or _NOT_ASKED for behaviour in found)
    return Punching(punching_can_work(here, there), punching_in_words(here, there))


_NOT_ASKED = NatBehaviour(server="", mapping=UNKNOWN, filtering=UNKNOWN)


def _behaviour(side: OutsideFacts | None) -> NatBehaviour | None:
    """The first of which anything is known, else the first."""
    listed = () if side is None else side.nat
    told = (n for n in listed if n.mapping != UNKNOWN or n.keeps_port)
    return next(told, listed[0] if listed else None)
