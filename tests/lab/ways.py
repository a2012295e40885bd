"""Faults of addresses, names and routes: nothing is filtered, and nothing connects.

Also what only changes where a connection ends: forwards inside the destination.

Those that break the way for everything are for the networks ``by_six`` of
``networks``: the agents meet by IPv6 there, and IPv4 is what is tested.
"""

from __future__ import annotations

from .faults import Fault
from .network import DESTINATION, DEVICE, SOURCE, THIRD, Stage

__all__ = [
    "answers_first",
    "name_server_silent",
    "no_arp",
    "no_way_back",
    "no_way_out",
    "permanent_neighbour",
    "publish",
    "redirect",
    "rule_at",
    "strict_reverse_path",
    "takes_address",
    "tunnel_without_gateway",
    "way_back_by",
    "way_out_by_port",
    "wrong_gateway",
]

ROUTE_KINDS = ("unreachable", "blackhole", "prohibit")
"""Routes that say no: the kernel answers each with another error."""


def takes_address(stage: Stage) -> None:
    """A third host has the destination's address as well."""
    stage.lab.host("third").ip([f"address add {DESTINATION}/24 dev {DEVICE}"])


def answers_first(stage: Stage) -> None:
    """A third host has the destination's address as well, and is always the quicker to say so.

    The kernel keeps the first answer for a second (neigh/default/locktime).
    """
    takes_address(stage)
    stage.network.delay(stage.network.port(stage.destination), 2)


def no_arp(stage: Stage) -> None:
    """The destination is there and does not answer for its IPv4 address."""
    stage.destination.sysctl(ipv4__conf__all__arp_ignore=8)
    stage.source.ip([f"neigh flush to {DESTINATION} dev {DEVICE}"])


def permanent_neighbour(stage: Stage) -> None:
    """The source was told the destination's link-layer address, and told right."""
    hardware = stage.destination.read(f"/sys/class/net/{DEVICE}/address").strip()
    stage.source.ip([f"neigh replace {DESTINATION} lladdr {hardware} nud permanent dev {DEVICE}"])


def no_way_out(kind: str, to: str = f"{DESTINATION}/32") -> Fault:
    """The source's routing table says no to the address."""

    def refuse(stage: Stage) -> None:
        stage.source.ip([f"route add {kind} {to}"])

    refuse.__name__ = f"no_way_out_{kind}"
    return refuse


def way_out_by_port(stage: Stage) -> None:
    """A routing rule of the source forbids that one port."""
    stage.source.ip([f"rule add to {DESTINATION} ipproto tcp dport 4242 prohibit"])


def wrong_gateway(stage: Stage) -> None:
    """The source's default route leads to a router that is not there."""
    stage.source.ip(["route add default via 192.168.7.254"])


def no_way_back(kind: str, to: str = f"{SOURCE}/32") -> Fault:
    """The destination's routing table says no to the source's address."""

    def refuse(stage: Stage) -> None:
        stage.destination.ip([f"route add {kind} {to}"])

    refuse.__name__ = f"no_way_back_{kind}"
    return refuse


def way_back_by(hop: str) -> Fault:
    """Answers to the source leave by the second card: straight (``dev``) or ``via`` a router."""

    def turn(stage: Stage) -> None:
        stage.destination.ip([f"route add {SOURCE}/32 {hop}"])

    turn.__name__ = f"way_back_by_{hop.replace(' ', '_')}"
    return turn


def rule_at(on: str, rule: str, *routes: str) -> Fault:
    """A host has a routing rule: ``ipproto tcp sport 4242 lookup 100``, and the routes for it."""

    def turn(stage: Stage) -> None:
        stage.host(on).ip([*(f"route add {route}" for route in routes), f"rule add {rule}"])

    turn.__name__ = f"rule_at_{on}_{rule.replace(' ', '_')}"
    return turn


def tunnel_without_gateway(stage: Stage) -> None:
    """Answers to the source leave by a tunnel (a VPN without its filter for reverse paths)."""
    cards = ("all", DEVICE)
    stage.destination.sysctl(**{f"ipv4__conf__{card}__rp_filter": 0 for card in cards})
    stage.destination.ip(
        [
            "tuntap add dev tun0 mode tun",
            "link set dev tun0 up",
            f"route add {SOURCE}/32 dev tun0",
        ]
    )


def strict_reverse_path(stage: Stage) -> None:
    """Take packets only from where answers would go (RFC 3704, 2.2)."""
    stage.destination.sysctl(ipv4__conf__all__rp_filter=1)


def name_server_silent(stage: Stage) -> None:
    """Names are asked of a host that does not answer."""
    stage.source.write("/etc/resolv.conf", f"nameserver {THIRD}\noptions timeout:1 attempts:1\n")
    stage.lab.host("third").nft(
        "table inet mute { chain input { type filter hook input priority 0; "
        "udp dport 53 counter drop; }; }"
    )


def publish(to: str, port: int = 4242) -> Fault:
    """Forward the port to a container, as container engines do: ``172.17.0.2:80``."""

    def forward(stage: Stage) -> None:
        family = "ip6" if to.startswith("[") else "ip"
        stage.destination.nft(_forward(port, f"dnat {family} to {to}"))

    forward.__name__ = f"publish_{port}"
    return forward


def redirect(to_port: int, port: int = 4242) -> Fault:
    """Let another port of the destination itself have the connections."""

    def turn(stage: Stage) -> None:
        stage.destination.nft(_forward(port, f"redirect to :{to_port}"))

    turn.__name__ = f"redirect_{to_port}"
    return turn


def _forward(port: int, how: str) -> str:
    return (
        "table inet forwards { chain in { type nat hook prerouting priority dstnat; "
        f"tcp dport {port} fib daddr type local counter {how}; }}; }}"
    )
