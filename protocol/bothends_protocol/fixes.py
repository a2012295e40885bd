"""What to do about each cause: concrete, on a named computer, with commands to paste.

The templates stand in `remedies`. They are filled with facts of this case, and a
step whose facts are not known is left out, so that no text ever says "connect to
None". Causes that are firewalls get theirs from `firewalls`, for whatever
front-ends the host has.

Both sides compute these texts from the same evidence, half of which the other
side sent. So nothing but numbers, addresses that `ipaddress` has parsed and
written anew, and words of our own enters a command or a step; the one name that
does, a program's, must match a narrow pattern and stands in prose only.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from string import Formatter
from typing import NamedTuple

import msgspec

from .addresses import bare, family, is_public
from .evidence import HostFacts
from .firewalls import Rule, allow
from .offered import offered
from .ports import MAX_PORT, TRANSPORTS, PortSet
from .remedies import (
    ANOTHER_FILTER,
    HALF_OPEN_QUEUE,
    HINTS,
    IPV6_FILTER,
    LOOKS,
    NO_IPV6,
    OTHER_DEVICE,
    PERHAPS_CARRIER,
    REMEDIES,
    SWITCH_ON,
    Remedy,
)
from .verdict import Fix

__all__ = ["INTERFERING", "FixCase", "Routers", "fixes_for"]

_IPV4 = 4
_IPV6 = 6

INTERFERING = (
    "Avast",
    "AVG",
    "Avira",
    "BeyondTrust PowerBroker",
    "Charter Security Suite",
    "CleanMyMac",
    "Covenant Eyes",
    "Hands Off!",
    "Intego NetBarrier",
    "Intego VirusBarrier",
    "Little Snitch",
    "McAfee",
    "Qustodio",
)
"""Security software known to interfere with incoming or outgoing connections."""

_PROGRAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,39}", re.ASCII)
"""Program names fit to be shown: nothing that a shell, a terminal or a page reads as its own."""

_CARD = re.compile(
    r"(?=.{1,15}\Z)(bond|br|en|eth|ib|ppp|tap|team|tun|usb|utun|vlan|wg|wl|ww)[0-9a-z]*(\.[0-9]+)?",
    re.ASCII,
)
"""Names of network cards as systems give them, 15 letters at most (IFNAMSIZ of Linux). No others
get into a command: the other side may have sent them."""

_LEAST_MTU, _MOST_MTU = 1280, 65535
"""What a card is told to take: below, its system switches IPv6 off on it (RFC 8200, 5)."""

_SHOWN = 4
"""Addresses or ports listed in one sentence; more help nobody."""

_INSIDE = ("br-", "cni", "docker", "flannel", "lxc", "veth", "vir", "vmnet")
"""First letters of interfaces that lead to containers and virtual machines, not to the router."""

_DEBIAN = ("debian", "ubuntu", "mint", "raspbian", "pop!_os", "kali")
_RED_HAT = ("fedora", "red hat", "centos", "rocky", "alma", "suse", "oracle")


_ASKED = {"pcp": "PCP", "nat-pmp": "NAT-PMP", "upnp": "UPnP"}
"""Protocols by which a router is asked for a port, as people call them."""


class Routers(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the routers before the destination."""

    asked_by: tuple[str, ...] = ()
    """Protocols by which the port can be asked for."""
    leads_to: str = ""
    """The inside address to which the port is forwarded."""
    came_at: int = 0
    """The port of the destination at which requests come in instead."""
    outside: str = ""
    """The private outside address of a router that stands behind another one."""
    carrier: bool = False
    """Whether that other one is known to be a carrier's."""
    forwards: bool = False
    """Whether the router is known to pass the port on as it should."""


class FixCase(msgspec.Struct, frozen=True, kw_only=True):
    """A cause and the facts of its check. Roles are relative to the check's direction.

    Every text in it may come from the peer and is validated before use.
    """

    code: str
    transport: str
    ports: tuple[tuple[int, int], ...]
    """The check's ports as ranges (first, last), both included: `PortSet.ranges`."""
    address: str
    """The tested address of the destination."""
    source_address: str
    """The source's address as the destination sees it; empty where it is not known."""
    source: HostFacts
    destination: HostFacts
    program: str | None = None
    """The program that holds the port, or ought to, as the destination sees it."""
    listening: tuple[str, ...] = ()
    """Addresses on which the program listens."""
    devices: tuple[str, ...] = ()
    """Interfaces from which alone it takes connections, where it has the address."""
    other_ports: tuple[int, ...] = ()
    """Ports on which the named service listens instead."""
    together: bool | None = None
    """Whether both are on one network, or behind one router."""
    landing: str = ""
    """The destination's own address at which requests come in."""
    public: tuple[str, ...] = ()
    """Where the destination is seen from outside."""
    router: str = ""
    """Its router, as it is reached from inside."""
    routers: Routers = Routers()
    fits: int = 0
    """Bytes of the largest packet that came through, where larger ones do not; 0: not known."""
    half_open: bool = False
    """Whether it is handshakes without their last packet that fill the queue."""


class _Case(NamedTuple):
    """A `FixCase` of which every value is safe to be shown and to be pasted."""

    ports: PortSet
    version: int
    values: dict[str, str]
    source: HostFacts
    destination: HostFacts

    def host(self, on: str) -> HostFacts | None:
        return {"source": self.source, "destination": self.destination}.get(on)


_FIREWALL_CODES: dict[str, tuple[str, str, bool]] = {
    "source.firewall-drop": ("source", "out", False),
    "source.firewall-reject": ("source", "out", False),
    "source.reply-blocked": ("source", "in", True),
    "destination.firewall-drop": ("destination", "in", False),
    "destination.firewall-reject": ("destination", "in", False),
    "destination.reply-blocked": ("destination", "out", True),
}
"""Role, way as that host sees it, and whether it is the answer that is blocked."""


def fixes_for(case: FixCase) -> tuple[Fix, ...]:
    """Return what to do about `case.code`, the most likely to help first.

    A pure function that any facts may be given to. Empty for a code it does not
    know, and where the ports or the transport are none.
    """
    safe = _validate(case)
    if safe is None:
        return ()
    if case.code in _FIREWALL_CODES:
        return tuple(_firewall_fixes(safe, *_FIREWALL_CODES[case.code]))
    filled = (_fill(remedy, safe) for remedy in _remedies(case, safe))
    # A remedy that is nothing but a command is none on a system without that command.
    return tuple(fix for fix in filled if fix.steps or fix.argv)


def _remedies(case: FixCase, safe: _Case) -> tuple[Remedy, ...]:
    if case.half_open and case.code == "service.backlog-full":
        return HALF_OPEN_QUEUE
    if safe.values["device"] and case.code in ("service.wrong-interface", "service.loopback-only"):
        return OTHER_DEVICE
    return REMEDIES.get(case.code, ())


def _firewall_fixes(case: _Case, on: str, way: str, reply: bool) -> Iterator[Fix]:  # noqa: FBT001
    host = case.destination if on == "destination" else case.source
    peer = case.values["source" if on == "destination" else "address"] or None
    rule = Rule(way=way, ports=case.ports, version=case.version, peer=peer, reply=reply)
    names, certain = _front_ends(host)
    for name in names:
        yield allow(name, rule, on)
    yield from _interfering(host, on)
    if not certain or reply:
        yield _fill(ANOTHER_FILTER[on], case)


def _front_ends(host: HostFacts) -> tuple[list[str], bool]:
    """Return the front-ends to name, and whether one of them is known to be active."""
    if host.system == "Windows":
        return ["windows"], _state(host, "windows") is True
    if host.system == "Darwin":
        return ["macos"], _state(host, "macos") is True
    names = ("ufw", "firewalld", "nftables", "iptables")
    active = [name for name in names if _state(host, name) is True]
    if active:
        return active, True
    unread = [name for name in names if _has(host, name) and _state(host, name) is None]
    likely = [*unread, *(name for name in _usual(host) if _state(host, name) is not False)]
    return list(dict.fromkeys(likely))[:2], False


def _usual(host: HostFacts) -> tuple[str, ...]:
    """Return the front-ends that systems of this kind come with, most usual first."""
    release = host.release.lower()
    if any(word in release for word in _DEBIAN):
        return ("ufw", "nftables", "iptables")
    if any(word in release for word in _RED_HAT):
        return ("firewalld", "nftables", "iptables")
    return ("ufw", "firewalld", "nftables", "iptables")


def _has(host: HostFacts, name: str) -> bool:
    return any(firewall.name == name for firewall in host.firewalls)


def _state(host: HostFacts, name: str) -> bool | None:
    """Whether the front-end is active on `host`; None where that is not known."""
    states = [firewall.active for firewall in host.firewalls if firewall.name == name]
    if True in states:
        return True
    return False if False in states else None


def _interfering(host: HostFacts, on: str) -> Iterator[Fix]:
    for product in INTERFERING:
        if any(product in note for note in host.notes):
            yield Fix(
                on=on,
                title=f"Switch off {product} for a test",
                steps=(
                    (
                        f"{product} is known to interfere with connections. Switch it off, test "
                        "again, and switch it on again at once. If that was it, allow the program "
                        "that runs the service or the application in its settings."
                    ),
                ),
            )


def _fill(remedy: Remedy, case: _Case) -> Fix:
    values = case.values
    steps = [template.format_map(values) for template in _known(remedy.steps, values)]
    argv = _argv(remedy.look, case.host(remedy.on), case)
    if argv:
        steps.append(LOOKS[remedy.look].shows)
    title = remedy.title.format_map(values)
    return Fix(on=remedy.on, title=title, steps=tuple(steps), argv=argv)


def _known(templates: Iterable[str], values: dict[str, str]) -> Iterator[str]:
    """Yield those templates whose facts are all known."""
    for template in templates:
        if all(values[field] for _, field, _, _ in Formatter().parse(template) if field):
            yield template


def _argv(look: str, host: HostFacts | None, case: _Case) -> tuple[str, ...]:
    if not look or host is None:
        return ()
    argv = LOOKS[look].argv
    for key in (f" {case.ports.transport}", f" {case.version}", ""):
        template = argv.get(host.system + key)
        if template is not None and list(_known(template, case.values)) == list(template):
            return tuple(word.format_map(case.values) for word in template)
    # With a range of ports the narrow question has no short form: ask the wide one.
    return _argv("all-listeners", host, case) if look == "listeners" else ()


def _validate(case: FixCase) -> _Case | None:
    valid = tuple((first, last) for first, last in case.ports if 1 <= first <= last <= MAX_PORT)
    if case.transport not in TRANSPORTS or not valid:
        return None
    ports = PortSet(case.transport, valid)
    address, source = _address(case.address), _address(case.source_address)
    version = family(address) or family(source) or _IPV4
    if family(source) != version:
        source = ""
    values = {
        "address": address,
        "source": source,
        **_port_values(ports, case),
        **_address_values(address, case),
        **_outside_values(version, case),
        **_router_values(case),
        **_program_values(case),
        **_version_values(version, case),
        **_size_values(address, source, case),
    }
    return _Case(ports, version, values, case.source, case.destination)


def _port_values(ports: PortSet, case: FixCase) -> dict[str, str]:
    return {
        "where": _where(ports),
        "port": str(ports) if len(ports) == 1 else "",
        "ports": str(ports) if len(ports.ranges) <= _SHOWN else "",
        "same": f"port {ports}" if len(ports) == 1 else "the same ports",
        "asked": _asked(ports),
        "others": _list(str(port) for port in case.other_ports if 1 <= port <= MAX_PORT),
    }


def _address_values(address: str, case: FixCase) -> dict[str, str]:
    own = list(_own(case.destination))
    landing = _address(case.landing)
    known = landing in own and family(landing) == _IPV4
    inner = landing if known else _list(text for text in own if family(text) == _IPV4)
    others = _list(text for text in own if text != address)
    return {
        "addresses": others,
        "near": others if case.together is not False else "",
        "target": inner or "the destination's internal address",
        "listening": _list(text for text in map(_address, case.listening) if _useful(text)),
        "device": _list(text for text in case.devices if text == "lo" or _CARD.fullmatch(text)),
    }


def _outside_values(version: int, case: FixCase) -> dict[str, str]:
    seen = [text for text in map(_address, case.public) if is_public(text)]
    public = _list(text for text in seen if family(text) == version) or _list(seen)
    far = public if case.together is not True else ""
    return {
        "far": far,
        "public": f"its public address, {public}" if public else "the router's public address",
    }


def _router_values(case: FixCase) -> dict[str, str]:
    routers, router = case.routers, _address(case.router)
    leads_to = _address(routers.leads_to)
    others = leads_to not in _own(case.destination)
    asks = [name for key, name in _ASKED.items() if key in routers.asked_by]
    return {
        "the_router": f"the router ({router})" if _useful(router) else "the router",
        "asks": " and ".join(filter(None, (", ".join(asks[:-1]), *asks[-1:]))),
        "switch_on": "" if asks else SWITCH_ON,
        "leads_to": leads_to if others else "",
        "came_at": str(routers.came_at) if 1 <= routers.came_at <= MAX_PORT else "",
        "above": _address(routers.outside),
        "second": "" if routers.carrier else "second router",
        "carrier": "provider" if routers.carrier else "",
        "perhaps_carrier": "" if routers.carrier else PERHAPS_CARRIER,
        "provider": "provider" if routers.forwards else "",
    }


def _program_values(case: FixCase) -> dict[str, str]:
    program = case.program if case.program and _PROGRAM.fullmatch(case.program) else ""
    return {
        "program": program or "the service",
        "holder": program or "Another program",
        "hint": HINTS.get(program.lower().removesuffix(".exe"), ""),
    }


def _version_values(version: int, case: FixCase) -> dict[str, str]:
    six = version == _IPV6
    own = {family(text) for text in _own(case.source)}
    lacks = six and bool(own) and _IPV6 not in own
    filtered = six and case.destination.system == "Linux"
    return {
        "family": "IPv6" if six else "IPv4",
        "other_family": "IPv4" if six else "IPv6",
        "wildcard": "::" if six else "0.0.0.0",  # noqa: S104 advice, nothing is bound
        "no_ipv6": NO_IPV6 if lacks else "",
        "ipv6_filter": IPV6_FILTER if filtered else "",
    }


def _size_values(address: str, source: str, case: FixCase) -> dict[str, str]:
    fits = case.fits if _LEAST_MTU <= case.fits <= _MOST_MTU else 0
    return {
        "fits": f"{case.fits:,}" if case.fits > 0 else "",
        "mtu": str(fits) if fits else "",
        "source_card": _card(case.source, source),
        "destination_card": _card(case.destination, _address(case.landing) or address),
    }


def _card(host: HostFacts, address: str) -> str:
    """The network card of `host` that has the address; empty where that is not known."""
    found = (item.interface for item in host.addresses if address == _address(item.address))
    card = next(found, "") if address else ""
    return card if _CARD.fullmatch(card) else ""


def _asked(ports: PortSet) -> str:
    """The ports as the command line of the destination takes them."""
    if len(ports.ranges) > _SHOWN:
        return ""
    return str(ports) if ports.transport == "tcp" else f"{ports.transport}:{ports}"


def _where(ports: PortSet) -> str:
    kind = ports.transport.upper()
    if len(ports) == 1:
        return f"{kind} port {ports}"
    text = str(PortSet(ports.transport, ports.ranges[:_SHOWN]))
    return f"{kind} ports {text}" + (",..." if len(ports.ranges) > _SHOWN else "")


def _address(text: str) -> str:
    """Return `text` written anew by `ipaddress`, without its zone; empty where it is none."""
    # The zone is cut off first, since `ipaddress` takes any text for one.
    address = bare(text)
    return address if family(address) else ""


def _useful(text: str) -> bool:
    """Whether another computer may be told to use the address."""
    value = ipaddress.ip_address(text) if text else None
    return value is not None and not (
        value.is_loopback or value.is_link_local or value.is_unspecified or value.is_multicast
    )


def _own(host: HostFacts) -> Iterator[str]:
    """Yield the host's addresses that others, or its router, can send to."""
    for item in offered(host.addresses):
        text = _address(item.address)
        if _useful(text) and not item.interface.startswith(_INSIDE):
            yield text


def _list(texts: Iterable[str]) -> str:
    return " or ".join(list(dict.fromkeys(texts))[:_SHOWN])
