"""What joins lab hosts: switches, cables, addresses, routes, routers, NAT, loss and delay.

A ``Network`` notes down what is wanted and makes it all at once in ``up()``,
with one ``ip -batch`` per host, since starting programs is what takes time. All
switches (bridges) are in one more host, ``switch``, which has no address and
forwards nothing but frames. Nothing is joined to the machine's own network.

The functions at the end build the usual networks and return a ``Stage``: the
hosts in their roles, which is what services, faults and agents are put on.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence

from . import wire
from .hosts import Host, Lab, LabError, Process

__all__ = [
    "Builder",
    "Network",
    "Stage",
    "dual",
    "home_pair",
    "lan",
    "lan6",
    "lan_and_third",
    "lonely",
    "routed",
    "routed2",
    "routed6",
]

DEVICE = "eth0"
PLAIN_CARD = """
import ctypes, fcntl, socket, struct, sys
SIOCETHTOOL, SETTINGS = 0x8946, (0x17, 0x1F, 0x24)  # tx checksums, TCP and other segmentation
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    for setting in SETTINGS:
        off = ctypes.create_string_buffer(struct.pack("II", setting, 0), 8)
        request = struct.pack("16sP16x", sys.argv[1].encode(), ctypes.addressof(off))
        fcntl.ioctl(probe, SIOCETHTOOL, request)
"""
FIRST_FD = 3
"""The number of the first passed descriptor in a started program."""


@dataclasses.dataclass(frozen=True)
class Port:
    """One end of a cable in the switch, and the host's device at the other end."""

    name: str
    segment: str
    host: str
    device: str


class Network:
    """The network of one lab, made by ``up()``; more can be added and ``up()`` called again."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.switch = lab.host("switch")
        self.ports: list[Port] = []
        self._segments: set[str] = set()
        self._switch_lines: list[str] = []
        self._namespaces: list[int] = []
        self._host_lines: dict[str, list[str]] = defaultdict(list)

    def segment(self, name: str) -> str:
        """A switch of its own; ``name`` is at most 15 characters (the kernel's limit)."""
        if name not in self._segments:
            self._segments.add(name)
            self._switch_lines += [
                f"link add name {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set dev {name} up",
            ]
        return name

    def attach(self, host: Host, segment: str, *addresses: str, device: str = DEVICE) -> Port:
        """Plug a host into a segment; addresses with their prefix length."""
        port = Port(f"p{len(self.ports)}", self.segment(segment), host.name, device)
        self.ports.append(port)
        self._plug(host, port.name, device, f"master {segment}")
        self._host_lines[host.name].append(f"link set dev {device} up")
        for address in addresses:
            self.address(host, address, device=device)
        return port

    def address(self, host: Host, address: str, *, device: str = DEVICE) -> None:
        nodad = " nodad" if ":" in address else ""
        self._host_lines[host.name].append(f"address add {address} dev {device}{nodad}")

    def route(self, host: Host, route: str) -> None:
        """Any route as ``ip route`` takes it: ``default via 192.168.7.1``."""
        self._host_lines[host.name].append(f"route add {route}")

    def router(self, host: Host) -> None:
        """Let a host forward, in both IP versions."""
        host.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)

    def nat(self, host: Host, outside: str, *, forwards: Sequence[str] = ()) -> None:
        """Make a router translate what leaves by ``outside``.

        ``forwards`` are rules such as ``tcp dport 4242 dnat ip to 192.168.1.20``.
        """
        inward = "\n".join(f'    iifname "{outside}" {rule}' for rule in forwards)
        host.nft(
            f"""table inet nat {{
  chain in {{
    type nat hook prerouting priority dstnat;
{inward}
  }}
  chain out {{
    type nat hook postrouting priority srcnat;
    oifname "{outside}" meta nfproto ipv4 masquerade
  }}
}}
"""
        )

    def isolate(self, *ports: Port) -> None:
        """Forbid these ports to talk to one another (client isolation of a wireless network)."""
        lines = "".join(f"link set dev {port.name} isolated on\n" for port in ports)
        self.switch.run(["bridge", "-batch", "-"], stdin=lines)

    def lose(self, port: Port, percent: float) -> None:
        """Lose that share of what the host sends, after its card and before everybody else.

        By a rule in the switch and not by netem, which many kernels are built without.
        """
        self.switch.nft(
            f"""table netdev lose_{port.name} {{
  chain in {{
    type filter hook ingress device "{port.name}" priority 0;
    numgen random mod 1000 <= {round(percent * 10) - 1} counter drop
  }}
}}
"""
        )

    def delay(self, port: Port, milliseconds: float) -> Process:
        """Let everything to and from the host take that much longer, each way.

        By a program that passes the frames (``wire.py``), for want of netem. A card
        that leaves cutting and checksums to others would hand it frames it cannot send.
        """
        near, far = f"{port.name}n", f"{port.name}f"
        self.switch.ip(
            [
                f"link set dev {port.name} nomaster",
                f"link add name {near} type veth peer name {far}",
                f"link set dev {far} master {port.segment} up",
                f"link set dev {near} up",
            ]
        )
        self.lab.hosts[port.host].python(PLAIN_CARD, port.device)
        self.switch.python(PLAIN_CARD, far)
        argv = [sys.executable, "-IS", wire.__file__, str(milliseconds), port.name, near]
        return self.switch.popen_ready(argv)

    def port(self, host: Host, device: str = DEVICE) -> Port:
        """The port that a host's device is plugged into."""
        for port in self.ports:
            if (port.host, port.device) == (host.name, device):
                return port
        raise LabError(f"{host.name} has no {device}")

    def up(self) -> None:
        """Make everything noted down so far."""
        if self._switch_lines:
            # A switch that spoke IPv6 itself would put frames of its own on the wire.
            self.switch.sysctl(ipv6__conf__default__disable_ipv6=1)
            self.switch.ip(self._switch_lines, pass_fds=self._namespaces)
        for name, lines in self._host_lines.items():
            self.lab.hosts[name].ip(lines)
        self._switch_lines, self._namespaces = [], []
        self._host_lines.clear()

    def _plug(self, host: Host, port: str, device: str, where: str) -> None:
        """Note down a cable from the switch's ``port`` to the host's ``device``."""
        number = FIRST_FD + len(self._namespaces)
        self._namespaces.append(host.namespace)
        self._switch_lines += [
            f"link add name {port} type veth peer name {device} netns /proc/self/fd/{number}",
            f"link set dev {port} {where} up",
        ]


@dataclasses.dataclass
class Stage:
    """Hosts in their roles, and the addresses by which they know each other."""

    network: Network
    source: Host
    destination: Host
    source_address: str
    """The source as the destination sees it."""
    destination_address: str
    """The destination as the source dials it."""
    routers: tuple[Host, ...] = ()
    """From the source to the destination."""
    expected_pids: dict[str, set[int]] = dataclasses.field(default_factory=dict)
    """What runs on each end before the agents start."""

    @property
    def lab(self) -> Lab:
        return self.network.lab

    def host(self, role: str) -> Host:
        """By role, ``source``, ``destination``, ``router1`` (nearest the source), or by name."""
        if role.startswith("router"):
            return self.routers[int(role.removeprefix("router")) - 1]
        return self.lab.host(role)

    def address_of(self, role: str) -> str:
        return {"source": self.source_address, "destination": self.destination_address}[role]

    def sees(self, keyword: str, role: str) -> str:
        """An nftables match for a role's address: ``sees("saddr", "source")``."""
        address = self.address_of(role)
        return f"{'ip6' if ':' in address else 'ip'} {keyword} {address}"


Builder = Callable[[Lab], Stage]

SEGMENT = "lan"
SOURCE, DESTINATION, THIRD, GATEWAY = (f"192.168.7.{last}" for last in (10, 20, 30, 1))
SOURCE6, DESTINATION6, THIRD6, GATEWAY6 = (f"fd07::{last}" for last in (10, 20, 30, 1))


def _pair(lab: Lab) -> tuple[Host, Host, Network]:
    source, destination = lab.host("source"), lab.host("destination")
    return source, destination, Network(lab)


def lan(lab: Lab, *, third: bool = False, gateway: bool = False) -> Stage:
    """Two hosts on one segment, with IPv4; on request a third host and a gateway."""
    source, destination, network = _pair(lab)
    members = {source: SOURCE, destination: DESTINATION}
    if third:
        members[lab.host("third")] = THIRD
    if gateway:
        members[lab.host("gateway")] = GATEWAY
    for host, address in members.items():
        network.attach(host, SEGMENT, f"{address}/24")
    if gateway:
        network.router(lab.host("gateway"))
        for host in (source, destination):
            network.route(host, f"default via {GATEWAY}")
    network.up()
    return Stage(network, source, destination, SOURCE, DESTINATION)


def lan_and_third(lab: Lab) -> Stage:
    """Two hosts and a third one on one segment."""
    return lan(lab, third=True)


def lan6(lab: Lab) -> Stage:
    """Two hosts on one segment, with IPv6 alone."""
    source, destination, network = _pair(lab)
    network.attach(source, SEGMENT, f"{SOURCE6}/64")
    network.attach(destination, SEGMENT, f"{DESTINATION6}/64")
    network.up()
    return Stage(network, source, destination, SOURCE6, DESTINATION6)


def dual(lab: Lab) -> Stage:
    """Two hosts on one segment with both IP versions; they know each other by IPv4."""
    source, destination, network = _pair(lab)
    network.attach(source, SEGMENT, f"{SOURCE}/24", f"{SOURCE6}/64")
    network.attach(destination, SEGMENT, f"{DESTINATION}/24", f"{DESTINATION6}/64")
    network.up()
    return Stage(network, source, destination, SOURCE, DESTINATION)


def lonely(lab: Lab) -> Stage:
    """Two hosts without any network but their own loopback."""
    source, destination, network = _pair(lab)
    return Stage(network, source, destination, "127.0.0.1", "127.0.0.1")


def routed(lab: Lab, *, routers: int = 1) -> Stage:
    """Source and destination with routers between, each stretch a segment 10.0.N.0/24."""
    source, destination, network = _pair(lab)
    hops = tuple(lab.host(f"router{number}") for number in range(1, routers + 1))
    chain = (source, *hops, destination)
    for number, (near, far) in enumerate(itertools.pairwise(chain)):
        outward = "eth1" if near in hops else DEVICE
        network.attach(near, f"seg{number}", f"10.0.{number}.1/24", device=outward)
        network.attach(far, f"seg{number}", f"10.0.{number}.2/24")
    for number, host in enumerate(hops, start=1):
        network.router(host)
        if number > 1:
            network.route(host, f"10.0.0.0/24 via 10.0.{number - 1}.1")
        if number < routers:
            network.route(host, f"10.0.{routers}.0/24 via 10.0.{number}.2")
    network.route(source, "default via 10.0.0.2")
    network.route(destination, f"default via 10.0.{routers}.1")
    network.up()
    return Stage(network, source, destination, "10.0.0.1", f"10.0.{routers}.2", hops)


def routed2(lab: Lab) -> Stage:
    """Two routers between."""
    return routed(lab, routers=2)


def routed6(lab: Lab, *, routers: int = 1) -> Stage:
    """As ``routed``, with IPv6 alone: each stretch a segment fd10:N::/64."""
    source, destination, network = _pair(lab)
    hops = tuple(lab.host(f"router{number}") for number in range(1, routers + 1))
    chain = (source, *hops, destination)
    for number, (near, far) in enumerate(itertools.pairwise(chain)):
        outward = "eth1" if near in hops else DEVICE
        network.attach(near, f"seg{number}", f"fd10:{number}::1/64", device=outward)
        network.attach(far, f"seg{number}", f"fd10:{number}::2/64")
    for number, host in enumerate(hops, start=1):
        network.router(host)
        if number > 1:
            network.route(host, f"fd10:0::/64 via fd10:{number - 1}::1")
        if number < routers:
            network.route(host, f"fd10:{routers}::/64 via fd10:{number}::2")
    network.route(source, "default via fd10:0::2")
    network.route(destination, f"default via fd10:{routers}::1")
    network.up()
    return Stage(network, source, destination, "fd10:0::1", f"fd10:{routers}::2", hops)


SOURCE_PUBLIC, DESTINATION_PUBLIC = "11.0.1.2", "11.0.2.2"
"""Ordinary public ranges: the documentation ranges pass for private ones in many programs."""


def home_pair(lab: Lab, *, forwards: Sequence[str] = ()) -> Stage:
    """Two homes with the same addresses inside, each behind a router with NAT, and a core between.

    ``forwards`` are the port forwardings of the destination's router. ``routers``
    are the source's, the core and the destination's.
    """
    source, destination, network = _pair(lab)
    routers = tuple(lab.host(name) for name in ("home1", "core", "home2"))
    for number, (host, inside, public) in enumerate(
        ((source, "10", SOURCE_PUBLIC), (destination, "20", DESTINATION_PUBLIC)), start=1
    ):
        home = lab.host(f"home{number}")
        network.attach(host, f"inside{number}", f"192.168.1.{inside}/24")
        network.attach(home, f"inside{number}", "192.168.1.1/24", device="lan0")
        network.attach(home, f"outside{number}", f"{public}/24", device="wan0")
        network.attach(
            lab.host("core"), f"outside{number}", f"11.0.{number}.1/24", device=f"eth{number}"
        )
        network.route(host, "default via 192.168.1.1")
        network.route(home, f"default via 11.0.{number}.1")
        network.nat(home, "wan0", forwards=forwards if number == 2 else ())
    for host in routers:
        network.router(host)
    network.up()
    return Stage(network, source, destination, SOURCE_PUBLIC, DESTINATION_PUBLIC, routers)
