"""Sentences for people about `outside_facts`: where a side is seen, what its router says.

Neutral in place, like all that both sides print ("the destination", never "here").
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from .addresses import bare
from .evidence import Mapping, NatBehaviour, OpenedMapping, RouterWord, SeenAs
from .outside_facts import OutsideFacts
from .traversal import (
    ADDRESS_AND_PORT_DEPENDENT,
    ADDRESS_DEPENDENT,
    ENDPOINT_INDEPENDENT,
    NONE,
)

__all__ = [
    "DETAIL",
    "MAPPED",
    "NAT",
    "PORT",
    "PROTOCOLS",
    "ROUTER",
    "SEEN",
    "Said",
    "outside_lines",
]

SEEN, ROUTER, PORT, MAPPED, NAT = "seen", "router", "port", "mapped", "nat"
DETAIL = "detail"
"""What a sentence is about: where a side is seen; how its router can be asked, and what that says
of a tested port; what came of --map; how its NAT behaves towards UDP. Details are for those who
look for more."""

PROTOCOLS = {"upnp": "UPnP", "pcp": "PCP", "nat-pmp": "NAT-PMP"}
_SEERS = {"stun": "a STUN server", "rendezvous": "the meeting point"}

_MINUTE, _HOUR = 60, 3600


class Said(NamedTuple):
    """A sentence, and what it is about."""

    about: str
    text: str


def outside_lines(facts: OutsideFacts, role: str, own: Iterable[str] = ()) -> tuple[Said, ...]:
    """Return what is known of the side `role`, which has the addresses `own`."""
    mine = frozenset(map(bare, own))
    return (
        *(Said(SEEN, text) for text in _seen(facts.seen_as, role, mine)),
        *_routers(facts.router, role),
        *(Said(PORT, text) for text in _ports(facts.router, role, mine)),
        *(Said(MAPPED, _opened(item)) for item in facts.opened),
        *(Said(NAT, text) for text in dict.fromkeys(_nat(item, role) for item in facts.nat)),
    )


def _and(parts: Iterable[str]) -> str:
    listed = list(dict.fromkeys(parts))
    return " and ".join(filter(None, (", ".join(listed[:-1]), *listed[-1:])))


def _port(transport: str, port: int) -> str:
    return f"{transport.upper()} port {port}"


# Where it is seen ----------------------------------------------------------------------------


def _seen(seen: Collection[SeenAs], role: str, own: Collection[str]) -> Iterator[str]:
    for address in dict.fromkeys(item.address for item in seen):
        mine = [item for item in seen if item.address == address]
        told = _and(_who(item) for item in mine)
        same = ", which is its own: no router translates it" if address in own else ""
        yield f"The {role} is seen at {address}, as {told} told it{same}."
        changed = [i for i in mine if i.port and i.local_port and i.port != i.local_port]
        if changed:
            ports = _and(f"{item.local_port} as {item.port}" for item in changed)
            yield f"From there the {role}'s UDP port looks like another one: {ports}."


def _who(item: SeenAs) -> str:
    who = _SEERS.get(item.by, "its router")
    return f"{who} ({item.said_by})" if item.said_by else who


# Its router ----------------------------------------------------------------------------------


def _routers(words: Collection[RouterWord], role: str) -> Iterator[Said]:
    for router in dict.fromkeys(word.router for word in words):
        mine = [word for word in words if word.router == router]
        place = f" ({router})" if router else ""
        yield Said(ROUTER, f"The {role}'s router{place} {_and(_ways(mine))}.")
        for outside in dict.fromkeys(word.outside for word in mine if word.outside):
            by = _and(PROTOCOLS[word.protocol] for word in mine if word.outside == outside)
            yield Said(ROUTER, f"It says ({by}) that its own outside address is {outside}.")
        for word in mine:
            # Of one that is off or silent there is no more to be said.
            if word.detail and word.outcome in ("answers", "unusable"):
                yield Said(DETAIL, f"{PROTOCOLS[word.protocol]}: {word.detail.rstrip('.')}.")


def _ways(words: Collection[RouterWord]) -> Iterator[str]:
    for outcome, says in (
        ("answers", "can be asked by {}"),
        ("refused", "has {} switched off"),
        ("unusable", "answers {} in a way that makes no sense"),
        ("silent", "does not answer {}"),
    ):
        named = [PROTOCOLS[word.protocol] for word in words if word.outcome == outcome]
        if named:
            yield says.format(_and(named) if outcome != "silent" else " or ".join(named))


def _ports(words: Iterable[RouterWord], role: str, own: Collection[str]) -> Iterator[str]:
    for word in words:
        for mapping in word.mappings:
            yield f"{PROTOCOLS[word.protocol]}: {_mapping(mapping, role, own)}."


def _mapping(item: Mapping, role: str, own: Collection[str]) -> str:
    port = _port(item.transport, item.port)
    if item.client is None:
        return f"{port} is not forwarded, unless it was set up by hand, which is not always told"
    whose = f"the {role} itself" if item.client in own else f"not the {role}"
    inside = f", port {item.client_port}" if item.client_port else ""
    lasts = f", for another {_time(item.lease)}" if item.lease else ""
    off = "" if item.enabled else "; it is switched off"
    return f"{port} leads to {item.client}{inside} ({whose}){lasts}{off}"


def _time(seconds: int) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds} seconds"
    if seconds < 2 * _HOUR:
        return f"{seconds // _MINUTE} minutes"
    return f"{seconds // _HOUR} hours"


_NOT_OPENED = {
    "other-port": "it would open another port only",
    "refused": "it refused",
    "permanent-only": "it opens ports for ever only, which --keep-map would allow",
    "silent": "it did not answer",
    "failed": "it could not",
}


def _opened(item: OpenedMapping) -> str:
    port = _port(item.transport, item.port)
    place = f" ({item.router})" if item.router else ""
    by = f", {PROTOCOLS[item.protocol]}" if item.protocol else ""
    asked = f"bothends asked the router{place} to open {port} (--map{by})"
    if item.outcome == "granted":
        ends = "it stays open (--keep-map)" if item.kept else "it was open for the test only"
        lasts = f" for {_time(item.lease)}" if item.kept and item.lease else ""
        return f"{asked}, and it did: {ends}{lasts}."
    why = _NOT_OPENED[item.outcome]
    detail = f" ({item.detail.rstrip('.')})" if item.detail else ""
    return f"{asked}, and it did not: {why}{detail}."


# NAT -----------------------------------------------------------------------------------------

_MAPPINGS = {
    ENDPOINT_INDEPENDENT: "it shows all others the same port",
    ADDRESS_DEPENDENT: "it shows each other address another port",
    ADDRESS_AND_PORT_DEPENDENT: "it shows each other address and port another port",
}
_FILTERS = {
    NONE: "lets everything in",
    ENDPOINT_INDEPENDENT: "lets anybody in where something was sent out",
    ADDRESS_DEPENDENT: "lets in only the addresses that something was sent to",
    ADDRESS_AND_PORT_DEPENDENT: "lets in only the address and port that something was sent to",
}


def _nat(item: NatBehaviour, role: str) -> str:
    parts = [
        _MAPPINGS.get(item.mapping, ""),
        "keeps the port number" if item.keeps_port else "",
        _FILTERS.get(item.filtering, ""),
    ]
    known = _and(filter(None, parts))
    if item.mapping == NONE:
        rest = _FILTERS.get(item.filtering)
        return f"No NAT stands before the {role}" + (f", and the way in {rest}." if rest else ".")
    if not known:
        detail = f" {item.detail}" if item.detail else ""
        return f"How the NAT before the {role} treats UDP is not known.{detail}"
    return f"The NAT before the {role}, for UDP: {known}."
