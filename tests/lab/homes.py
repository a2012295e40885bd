"""Networks across the Internet: homes behind real NAT, carriers, and an office without any.

``Homes`` is a builder with options, for rows as ``Homes(forwards=(FORWARD,))``.
Seen from the source, at its largest::

    source - home1 - core - carrier or upper - home2 - destination, other
                        |
                        public, stranger

``home1`` and ``home2`` are the routers that people have: they translate what
leaves, let answers in and nothing else, and keep ports as a rule. What a
router forwards, and how it answers what it does not, are options. What filters
beyond that is a fault on the router's name: ``rules("carrier", "forward", ...)``,
with ``WAN`` and ``LAN`` as its devices.

Meeting points and servers for STUN run on ``public``, which has two addresses.
The ranges are ordinary public ones: see ``network.SOURCE_PUBLIC``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from .hosts import Host, Lab
from .network import DESTINATION_PUBLIC, SOURCE_PUBLIC, Network, Stage

__all__ = [
    "CARRIER",
    "CARRIER_NAT",
    "FORWARD",
    "INSIDE",
    "LAN",
    "NOBODY_INSIDE",
    "OFFICE_DESTINATION",
    "OFFICE_SOURCE",
    "OTHER_INSIDE",
    "OVERLAY",
    "PUBLIC",
    "PUBLIC2",
    "SECOND_ROUTER",
    "STRANGER",
    "WAN",
    "Homes",
    "Upstream",
    "forward_to",
    "office",
]

WAN, LAN = "wan0", "lan0"
"""The outside and the inside of a router."""

INSIDE, OTHER_INSIDE, NOBODY_INSIDE = (f"192.168.1.{last}" for last in (20, 30, 40))
"""In the destination's home: itself, its neighbour ``other``, and an address that nobody has."""
OVERLAY = "100.64.1.5"
"""The destination's second card, where it has one: of a VPN that uses the carriers' range."""

PUBLIC, PUBLIC2, STRANGER = (f"11.0.9.{last}" for last in (9, 10, 30))
"""Computers on the Internet: one with two addresses that serves, and one that has no part in it."""

OFFICE_SOURCE, OFFICE_DESTINATION = "10.1.0.10", "10.2.0.20"


def forward_to(address: str, port: int | None = None) -> str:
    """A forwarding of port 4242, to the same port or to another."""
    return f"tcp dport 4242 counter dnat ip to {address}{f':{port}' if port else ''}"


FORWARD = forward_to(INSIDE)


@dataclasses.dataclass(frozen=True)
class Upstream:
    """One more router above the destination's, with or without NAT of its own."""

    name: str
    inside: str | None = None
    """The network between the two routers, ``100.64.0.%d/10``; None where nothing is translated."""
    forwards: tuple[str, ...] = ()
    """What it forwards to the router below."""


CARRIER = Upstream("carrier")
"""The provider's router. It passes everything, until a fault makes it filter."""
CARRIER_NAT = Upstream("carrier", "100.64.0.%d/10")
SECOND_ROUTER = Upstream("upper", "192.168.0.%d/24")
"""The provider's box at home, and the destination's own router behind it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Homes:
    """Makes them when it is called with a lab.

    The ``Stage`` has the addresses by which the two are known outside. Its
    routers are ``home1`` (none where the source has no NAT), ``core``, the one
    upstream where there is one, and ``home2``; with both in one home ``home2`` alone.
    """

    forwards: tuple[str, ...] = ()
    """Rules of the destination's router, such as ``FORWARD``."""
    others: str = "drop"
    """What it does with anything else from outside: ``drop``, or ``reject with ...``."""
    upstream: Upstream | None = None
    source: str = "192.168.1.10"
    """Where the source is at home: in another network of the same name, or in ``192.168.5``.
    ``SOURCE_PUBLIC`` puts it on the Internet, without a router of its own."""
    one_home: bool = False
    """The source is in the destination's home."""
    hairpin: str = "none"
    """What the destination's router makes of its own outside address, asked from inside:
    ``none``; ``half``, forwarded and not translated back; ``full``."""
    scramblers: frozenset[str] = frozenset()
    """Of ``home1`` and ``home2`` those that give every connection another port outside."""
    other: bool = False
    """``other`` is there, in the destination's home."""
    namesake: bool = False
    """In the source's own home a ``namesake`` has the destination's inside address."""
    stranger: bool = False
    overlay: bool = False
    """The destination has a second card, in 100.64.0.0/10."""

    def __call__(self, lab: Lab) -> Stage:
        network = Network(lab)
        _internet(network, stranger=self.stranger)
        routers = tuple(self._routers(network))
        network.attach(lab.host("destination"), "inside2", f"{INSIDE}/24")
        if self.other:
            _inside(network, lab.host("other"), "inside2", OTHER_INSIDE)
        network.route(lab.host("destination"), "default via 192.168.1.1")
        if self.overlay:
            network.attach(lab.host("destination"), "overlay", f"{OVERLAY}/10", device="eth1")
        network.up()
        known = DESTINATION_PUBLIC if self.one_home else SOURCE_PUBLIC
        return Stage(
            network,
            lab.host("source"),
            lab.host("destination"),
            known,
            DESTINATION_PUBLIC,
            routers,
        )

    def _routers(self, network: Network) -> Iterator[Host]:
        """Make the way from the source to the destination's router; yields the routers."""
        lab = network.lab
        if self.one_home:
            _inside(network, lab.host("source"), "inside2", self.source)
        else:
            yield from self._source_side(network)
            yield lab.host("core")
        outside, wan = "outside2", f"{DESTINATION_PUBLIC}/24"
        if self.upstream:
            yield _upstream(network, self.upstream)
            outside, wan = "between", _below(self.upstream)
        else:
            network.attach(lab.host("core"), outside, "11.0.2.1/24", device="eth2")
        home = lab.host("home2")
        network.attach(home, outside, wan, device=WAN)
        network.attach(home, "inside2", "192.168.1.1/24", device=LAN)
        network.route(home, f"default via {_first(wan)}")
        network.router(home)
        home.nft(
            _rules(
                self.forwards,
                self.others,
                self.hairpin,
                wan.partition("/")[0],
                scrambles="home2" in self.scramblers,
            )
        )
        yield home

    def _source_side(self, network: Network) -> Iterator[Host]:
        lab = network.lab
        source, home = lab.host("source"), lab.host("home1")
        network.attach(lab.host("core"), "outside1", "11.0.1.1/24", device="eth1")
        if self.source == SOURCE_PUBLIC:
            _inside(network, source, "outside1", self.source)
            return
        _inside(network, source, "inside1", self.source)
        network.attach(home, "inside1", f"{_first(self.source)}/24", device=LAN)
        network.attach(home, "outside1", f"{SOURCE_PUBLIC}/24", device=WAN)
        network.route(home, "default via 11.0.1.1")
        network.router(home)
        scrambles = "home1" in self.scramblers
        home.nft(_rules((), "drop", "none", SOURCE_PUBLIC, scrambles=scrambles))
        if self.namesake:
            _inside(network, lab.host("namesake"), "inside1", INSIDE)
        yield home


def office(lab: Lab) -> Stage:
    """Two networks of one company, routed and not translated, and ``public`` in reach of both."""
    network = Network(lab)
    _internet(network)
    core = lab.host("core")
    for number, (role, address) in enumerate(
        (("source", OFFICE_SOURCE), ("destination", OFFICE_DESTINATION)), start=1
    ):
        router = lab.host(f"router{number}")
        _inside(network, lab.host(role), f"floor{number}", address)
        network.attach(router, f"floor{number}", f"10.{number}.0.1/24", device=LAN)
        network.attach(router, f"trunk{number}", f"10.0.{number}.2/24", device=WAN)
        network.attach(core, f"trunk{number}", f"10.0.{number}.1/24", device=f"eth{number}")
        network.route(router, f"default via 10.0.{number}.1")
        network.route(core, f"10.{number}.0.0/24 via 10.0.{number}.2")
        network.router(router)
    network.up()
    routers = (lab.host("router1"), core, lab.host("router2"))
    return Stage(
        network,
        lab.host("source"),
        lab.host("destination"),
        OFFICE_SOURCE,
        OFFICE_DESTINATION,
        routers,
    )


def _internet(network: Network, *, stranger: bool = False) -> None:
    """The core, and the public computers beside it."""
    core, public = network.lab.host("core"), network.lab.host("public")
    network.router(core)
    network.attach(core, "hosting", "11.0.9.1/24", device="eth9")
    _inside(network, public, "hosting", PUBLIC)
    network.address(public, f"{PUBLIC2}/24")
    if stranger:
        _inside(network, network.lab.host("stranger"), "hosting", STRANGER)


def _inside(network: Network, host: Host, segment: str, address: str) -> None:
    """An ordinary computer, with a router at the first address of its network."""
    network.attach(host, segment, f"{address}/24")
    network.route(host, f"default via {_first(address)}")


def _first(address: str) -> str:
    return f"{address.rpartition('.')[0]}.1"


def _below(upstream: Upstream) -> str:
    """The outside address of the router below, with its prefix length."""
    return upstream.inside % 2 if upstream.inside else f"{DESTINATION_PUBLIC}/24"


def _upstream(network: Network, upstream: Upstream) -> Host:
    """Make the router above the destination's."""
    host, core = network.lab.host(upstream.name), network.lab.host("core")
    if upstream.inside:
        near, wan, lan = "11.0.2.1", f"{DESTINATION_PUBLIC}/24", upstream.inside % 1
    else:
        near, wan, lan = "11.0.3.1", "11.0.3.2/24", "11.0.2.1/24"
    network.attach(core, "outside2", f"{near}/24", device="eth2")
    if not upstream.inside:
        network.route(core, "11.0.2.0/24 via 11.0.3.2")
    network.attach(host, "outside2", wan, device=WAN)
    network.attach(host, "between", lan, device=LAN)
    network.route(host, f"default via {near}")
    network.router(host)
    if upstream.inside:
        host.nft(_rules(upstream.forwards, "drop", "none", DESTINATION_PUBLIC))
    return host


def _rules(
    forwards: Sequence[str], others: str, hairpin: str, outside: str, *, scrambles: bool = False
) -> str:
    """What makes a router of the kind that people have at home.

    What is refused is refused before connection tracking notes it down: else a packet from
    outside to a port of the router would take that port away from the computers inside.
    """
    asked = f'iifname "{WAN}"' if hairpin == "none" else f"ip daddr {outside}"
    inward = "\n".join(f"    {asked} {rule}" for rule in forwards)
    back = f'iifname "{LAN}" oifname "{LAN}" ct status dnat counter masquerade'
    return f"""table inet home {{
  chain in {{
    type nat hook prerouting priority dstnat;
{inward}
  }}
  chain out {{
    type nat hook postrouting priority srcnat;
    oifname "{WAN}" meta nfproto ipv4 masquerade{" fully-random" if scrambles else ""}
    {back if hairpin == "full" else ""}
  }}
  chain own {{
    type filter hook input priority filter; policy drop;
    iifname != "{WAN}" accept
    ct state established,related accept
    counter {others}
  }}
  chain pass {{
    type filter hook forward priority filter; policy drop;
    iifname != "{WAN}" accept
    ct state established,related accept
    ct status dnat accept
    counter {others}
  }}
}}
"""
