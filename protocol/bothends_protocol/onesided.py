"""What one computer knows alone, where the two agents did not meet, and how it is said.

No cause is claimed: what one side sees proves nothing about the way between the
two. But what is plainly wrong on this side is said, and what is in order there
need not be looked at again. The records are a part of the printed document
(`alone`); the sentences are for the person who sits at this computer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from .addresses import family, is_loopback
from .nameserver import ERRORS
from .pairing import DESTINATION
from .ports import format_ports

__all__ = [
    "MAX_SAID",
    "Alone",
    "Dialled",
    "FirewallKnown",
    "FrontEnd",
    "Gateway",
    "NameServer",
    "Open",
    "OwnRule",
    "ServiceKnown",
    "sentences",
]

MAX_SAID = 6
"""Sentences about things of one kind (ports, rules, addresses): what a person still reads."""


class Open(msgspec.Struct, frozen=True):
    """Who listens on some of the tested ports."""

    transport: str
    ports: str
    """Numbers and ranges: those of which all of this is true."""
    state: str
    """`listening`, `loopback-only` or `nobody`."""
    program: str | None = None
    addresses: tuple[str, ...] = ()
    versions: tuple[int, ...] = ()
    """IP versions in which other computers could reach it."""


class ServiceKnown(msgspec.Struct, frozen=True):
    """The destination's service."""

    readable: bool
    """Whether it can be read who listens."""
    ports: tuple[Open, ...] = ()
    name: str | None = None
    """The program that ought to hold the port, where the user named it."""
    runs: bool | None = None
    elsewhere: str = ""
    """Other ports on which that program listens."""
    forwards: bool = False
    """Whether this computer may pass requests on, as to containers, which then listen instead."""


class FrontEnd(msgspec.Struct, frozen=True):
    """A firewall of this computer; `active` is None where it cannot be told."""

    name: str
    active: bool | None
    detail: str = ""


class OwnRule(msgspec.Struct, frozen=True):
    """A rule that would stop packets which the two agents or the application need."""

    way: str
    """`in` or `out`, of the request."""
    ports: dict[str, str]
    """By transport: numbers and ranges."""
    verdict: str
    """`drop` or `reject`."""
    certain: bool
    """False where it depends on more than the packet itself."""
    text: str
    answer: bool = False
    """Whether it is the answer that it stops."""
    peers: tuple[str, ...] = ()
    """The other addresses; none for any."""


class FirewallKnown(msgspec.Struct, frozen=True):
    """The own firewall."""

    readable: bool
    """Whether its rules could be read, which takes root."""
    front_ends: tuple[FrontEnd, ...] = ()
    stopping: tuple[OwnRule, ...] = ()
    looked_at: dict[str, str] = {}
    """Ports of requests coming in that were looked up, by transport."""


class Dialled(msgspec.Struct, frozen=True):
    """An address at which the other side was looked for."""

    address: str
    port: int
    met: str = ""
    """What happened there, in the words of the contact; empty where nothing did."""
    route: str = ""
    """Why there is no route to it; empty where there is one, or it is not known."""
    silent_hop: str = ""
    """The next hop that does not answer on the local network; may be the address itself."""


class Gateway(msgspec.Struct, frozen=True):
    """A default gateway."""

    address: str
    interface: str
    state: str
    """`answers`, `known` (it did before), `silent` or `unknown`."""


class NameServer(msgspec.Struct, frozen=True):
    """A name server that this computer is configured to use."""

    address: str
    state: str
    """`answers`, `error`, `silent` or `unreachable`."""
    error: str = ""
    """Its reply code by name, or why it cannot be reached."""


class Alone(msgspec.Struct, frozen=True):
    """All of it. None, or nothing, where it was not asked or not known in time."""

    lines: tuple[str, ...] = ()
    service: ServiceKnown | None = None
    firewall: FirewallKnown | None = None
    gateway: tuple[Gateway, ...] | None = None
    names: tuple[NameServer, ...] | None = None
    dialled: tuple[Dialled, ...] = ()
    addresses: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    """Network cards that are switched off or have no link; only where there is no address."""


def reply_name(code: int) -> str:
    """Return the name of a name server's reply code."""
    return ERRORS.get(code, f"code {code}")


def sentences(known: Alone, role: str, control_port: int) -> tuple[str, ...]:
    """Return what is known, for people, what is wrong first within each part."""
    return (
        *_network(known),
        *(_service(known.service) if known.service is not None else ()),
        *(_firewall(known.firewall, role, control_port) if known.firewall is not None else ()),
        *_some(_dialled(item) for item in known.dialled),
        *(_gateways(known.gateway) if known.gateway is not None and known.addresses else ()),
        *(_names(known.names) if known.names is not None and known.addresses else ()),
    )


def _some(lines: Iterable[str]) -> Iterator[str]:
    rest = 0
    for number, line in enumerate(line for line in lines if line):
        if number < MAX_SAID:
            yield line
        else:
            rest += 1
    if rest:
        yield f"And {rest} more of these."


def _network(known: Alone) -> Iterator[str]:
    if known.addresses:
        return
    yield "This computer has no network address: it is not connected to any network."
    yield from _some(known.idle)


# The service ----------------------------------------------------------------------------------


def _service(known: ServiceKnown) -> Iterator[str]:
    if not known.readable:
        yield "Who listens on the tested ports cannot be read here."
        return
    order = ("nobody", "loopback-only", "listening")
    yield from _some(
        _open(item, known) for item in sorted(known.ports, key=lambda o: order.index(o.state))
    )
    waits = [item for item in known.ports if item.state == "listening"]
    if known.name is None or (known.ports and len(waits) == len(known.ports)):
        return
    if known.elsewhere:
        kinds = " or ".join(sorted({item.transport.upper() for item in known.ports})) or "TCP"
        yield f"{known.name} listens on {kinds} {_ports(known.elsewhere)} instead."
    elif known.runs is False:
        yield f"No program called {known.name} runs."


def _open(item: Open, known: ServiceKnown) -> str:
    place = f"{item.transport.upper()} {_ports(item.ports)}"
    who = item.program or "A program"
    if item.state == "nobody" and known.forwards:
        return (
            f"Nobody listens on {place} on this computer itself: unless a container serves it, "
            "the service does not run, or uses another port."
        )
    if item.state == "nobody":
        return f"Nobody listens on {place}: the service does not run, or uses another port."
    at = " and ".join(item.addresses[:3]) or "an address"
    if item.state == "loopback-only":
        return f"{who} listens on {place} at {at} only: no other computer can reach it there."
    only = f", IPv{item.versions[0]} only" if len(item.versions) == 1 else ""
    return f"{who} listens on {place} at {at}{only}."


def _ports(text: str) -> str:
    return f"port{'s' if ',' in text or '-' in text else ''} {text}"


# The firewall ---------------------------------------------------------------------------------


def _firewall(known: FirewallKnown, role: str, control_port: int) -> Iterator[str]:
    yield from _some(_rule(item, control_port) for item in known.stopping)
    whole = _named(known.looked_at)
    if known.readable:
        if known.looked_at and not any(item.way == "in" for item in known.stopping):
            yield f"No rule of its own firewall stops what comes in for {whole}."
        return
    active = [_front_end(item) for item in known.front_ends if item.active]
    maybe = [item.name for item in known.front_ends if item.active is None]
    wanted = f"the control port {control_port}"
    if role == DESTINATION:
        wanted = f"the tested ports and {wanted}"
    if active:
        yield (
            f"A firewall is active here: {', '.join(active)}. Whether it lets {wanted} in can "
            "only be read as root."
        )
    elif maybe:
        yield (
            f"Whether a firewall here ({', '.join(maybe)}) lets {wanted} in can only be read "
            "as root."
        )
    else:
        yield "No active firewall was found on this computer."


def _front_end(item: FrontEnd) -> str:
    return f"{item.name} ({item.detail})" if item.detail else item.name


def _rule(item: OwnRule, control_port: int) -> str:
    verb = {"drop": "drops", "reject": "refuses"}[item.verdict]
    if not item.certain:
        verb = f"may {item.verdict if item.verdict == 'drop' else 'refuse'}"
    request = "comes in for" if item.way == "in" else "goes out to"
    what = f"the answers to what {request}" if item.answer else f"what {request}"
    peers = " and ".join(item.peers)
    peer = f" {'from' if item.way == 'in' else 'at'} {peers}" if peers else ""
    met = any(format_ports([control_port]) in text.split(",") for text in item.ports.values())
    why = ", where the two agents meet" if met else ""
    text = " ".join(item.text.split())
    return f"Its own firewall {verb} {what} {_named(item.ports)}{peer}{why}: {text}"


def _named(ports: dict[str, str]) -> str:
    """`{"tcp": "4242,24242", "udp": "24242"}` in words."""
    if len(set(ports.values())) == 1 and len(ports) > 1:
        names = " and ".join(name.upper() for name in sorted(ports))
        return f"{names} {_ports(next(iter(ports.values())))}"
    return " and ".join(f"{name.upper()} {_ports(text)}" for name, text in sorted(ports.items()))


# The way --------------------------------------------------------------------------------------


_MEANING = {
    "connection refused": (
        "a computer there refused the connection: bothends does not wait there, or a firewall "
        "refuses"
    ),
    "no answer": "no answer: nobody has this address, or something on the way drops the requests",
}


def _dialled(item: Dialled) -> str:
    place = f"[{item.address}]" if ":" in item.address else item.address
    place = f"At {place}, port {item.port}"
    if item.route:
        return f"There is no route from here to {item.address} ({item.route})."
    if item.silent_hop == item.address:
        return (
            f"{item.address} does not answer on the local network (ARP, ND): nobody there has "
            "this address, or that computer is off."
        )
    if item.silent_hop:
        return f"The next hop to {item.address}, {item.silent_hop}, does not answer."
    if item.met:
        return f"{place}: {_MEANING.get(item.met, item.met)}."
    return ""


def _gateways(known: Sequence[Gateway]) -> Iterator[str]:
    if not known:
        yield "There is no default gateway: from here only its own networks can be reached."
    yield from _some(map(_gateway, known))


def _gateway(item: Gateway) -> str:
    place = f"The gateway {item.address} ({item.interface})"
    return {
        "answers": f"{place} answers.",
        "known": f"{place} has answered before; whether it does now is not known.",
        "silent": f"{place} does not answer: beyond the own network nothing can be reached.",
    }.get(item.state, "")


def _names(known: Sequence[NameServer]) -> Iterator[str]:
    if not known:
        yield "No name server is configured: names do not resolve here."
    yield from _some(map(_name_server, known))


def _name_server(item: NameServer) -> str:
    place = f"The name server {item.address}"
    if is_loopback(item.address) and family(item.address):
        place += " (on this computer)"
    return {
        "answers": f"{place} answers.",
        "error": f"{place} answers, with an error ({item.error}).",
        "silent": f"{place} does not answer: names may not resolve here.",
        "unreachable": f"{place} cannot be reached ({item.error}): names may not resolve here.",
    }.get(item.state, "")
