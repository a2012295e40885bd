"""Questions to the Linux kernel about routes, neighbours and listening sockets, over netlink.

Needs no privilege and runs no program. Only what the witnesses ask for: one
route, one reverse-path check, the state of one neighbour (linux/rtnetlink.h,
linux/neighbour.h; rtnetlink(7)), the queues of listeners (linux/inet_diag.h;
sock_diag(7)). On other systems, and where the kernel does not answer, the
functions return None: not known.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Collection
from pathlib import Path

import msgspec

__all__ = [
    "HALF_OPEN",
    "LISTENING",
    "Bound",
    "Flow",
    "Hop",
    "NetlinkError",
    "Queue",
    "ask",
    "attributes_of",
    "bound_sockets",
    "default_gateways",
    "find_route",
    "listening_queues",
    "neighbour_answers",
    "neighbour_state",
    "returns_from",
    "tcp_sockets",
]

_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTA_DST, _RTA_SRC, _RTA_IIF, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 2, 3, 4, 5, 7
_RTA_PRIORITY, _RTA_MULTIPATH, _RTA_VIA = 6, 9, 18
_RTA_IP_PROTO, _RTA_SPORT, _RTA_DPORT = 27, 28, 29
"""Since Linux 4.18; older kernels, whose rules know no ports, pass over them."""
_RT_TABLE_MAIN, _RTN_UNICAST = 254, 1
_NDA_DST, _NDA_LLADDR = 1, 2
_NETLINK_ROUTE, _NETLINK_SOCK_DIAG = 0, 4
_SOCK_DIAG_BY_FAMILY = 20
LISTENING, HALF_OPEN = 1 << 10, 1 << 3
"""States of TCP, as bits: LISTEN; SYN_RECV, by which the kernel also gives the requests that have
no socket yet (net/ipv4/inet_diag.c)."""
_UDP_UNCONNECTED_ONLY = 1 << 7
_INET_DIAG_SKV6ONLY = 11
_INET_DIAG_IF = 40
"""Offset of idiag_if in struct inet_diag_msg."""
_INET_DIAG_MSG = 72
"""Size of struct inet_diag_msg."""
_NUD_INCOMPLETE, _NUD_REACHABLE, _NUD_FAILED = 0x01, 0x02, 0x20
_NUD_SILENT = _NUD_INCOMPLETE | _NUD_FAILED
_NUD_STALE = 0x04 | 0x08 | 0x10
"""Stale, delay, probe: it had an address once, and has not been asked since, or not answered."""
_TIMEOUT = 0.5
"""Seconds. The kernel answers within the call; this only bounds a broken one."""


_EVERY_PORT = 4 * 65536
"""After which a dump of sockets is not read on: four of each port."""

_MAX_ANSWERS = 50_000
"""After which a dump is not read on, some tenths of a second's work: only the routing table of a
router in the Internet's core is longer, and its default routes come first."""


class NetlinkError(Exception):
    """The kernel's answer was an error; `number` is its errno."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number

    @property
    def name(self) -> str:
        """The errno as its symbol, as in `ENETUNREACH`."""
        return errno.errorcode.get(self.number, str(self.number))


class Hop(msgspec.Struct, frozen=True):
    """Where a packet would go next."""

    interface: str
    gateway: str | None
    source: str | None


class Flow(msgspec.Struct, frozen=True):
    """What routing rules may look at, beside the destination (ip-rule(8))."""

    transport: str
    """`tcp` or `udp`."""
    source: str | None = None
    """One of this host's own addresses."""
    source_port: int = 0
    destination_port: int = 0


_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


def find_route(destination: str, flow: Flow | None = None) -> Hop | None:
    """Return the route to `destination`; None where it cannot be asked.

    With `flow` it is that of such packets, which may be another than that of all others.

    Raises `NetlinkError` where the kernel has none (ENETUNREACH, EHOSTUNREACH,
    EACCES for a prohibit route, EINVAL for a blackhole).
    """
    if not _possible():
        return None
    address, interface = _split(destination)
    attributes = _attribute(_RTA_DST, address.packed)
    if interface:
        attributes += _attribute(_RTA_OIF, struct.pack("=I", interface))
    if flow is None:
        return _route(address, attributes)
    attributes += _attribute(_RTA_IP_PROTO, bytes([_PROTOCOLS[flow.transport]]))
    for kind, port in ((_RTA_SPORT, flow.source_port), (_RTA_DPORT, flow.destination_port)):
        if port:
            attributes += _attribute(kind, struct.pack("!H", port))
    if flow.source is None:
        return _route(address, attributes)
    own, _ = _split(flow.source)
    attributes += _attribute(_RTA_SRC, own.packed)
    return _route(address, attributes, source_bits=own.max_prefixlen)


def is_routed(destination: str) -> bool:
    """Return whether packets to `destination` go by a router, also where that cannot be told."""
    try:
        hop = find_route(destination)
    except (NetlinkError, ValueError):
        return True
    return hop is None or hop.gateway is not None


def returns_from(source: str, local: str, interface: str) -> bool | None:
    """Return True where the kernel takes a packet from `source` to `local` on `interface`.

    False where its reverse-path filter would drop it (fib_validate_source says
    EXDEV), None where it cannot be asked or the question makes no sense. IPv6 has
    no such check in the kernel, so only IPv4 is asked.
    """
    if not _possible():
        return None
    address, _ = _split(local)
    peer, _ = _split(source)
    if address.version != 4 or peer.version != 4:
        return None
    try:
        index = socket.if_nametoindex(interface)
    except OSError:
        return None
    attributes = (
        _attribute(_RTA_DST, address.packed)
        + _attribute(_RTA_SRC, peer.packed)
        + _attribute(_RTA_IIF, struct.pack("=I", index))
    )
    try:
        _route(address, attributes, source_bits=32)
    except NetlinkError as error:
        return False if error.number == errno.EXDEV else None
    return True


class Queue(msgspec.Struct, frozen=True):
    """What the kernel knows of a listening socket beside its address."""

    waiting: int
    """Connections not yet accepted."""
    backlog: int
    """How many may wait; the queue is full when more than that do (sk_acceptq_is_full)."""
    device: str | None
    """As in `Bound`."""
    v6only: bool | None
    """None for IPv4."""


def listening_queues(wanted: Collection[int]) -> dict[int, Queue]:
    """Return the queues of the listening TCP sockets with the inodes `wanted`, by inode.

    Empty where it cannot be asked.
    """
    if not _possible():
        return {}
    queues: dict[int, Queue] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            answers, _ = _sockets(family, socket.IPPROTO_TCP, LISTENING, _MAX_ANSWERS)
        except NetlinkError:
            continue  # a kernel without inet_diag
        for _, answer in answers:
            waiting, backlog, _, inode = struct.unpack_from("=IIII", answer, 56)
            if inode not in wanted:
                continue
            only = attributes_of(answer[_INET_DIAG_MSG:]).get(_INET_DIAG_SKV6ONLY)
            v6only = bool(only[0]) if only else None
            queues[inode] = Queue(waiting, backlog, _device_of(answer), v6only)
    return queues


def tcp_sockets(states: int) -> list[tuple[bytes, int, int]] | None:
    """Return address and port at this end, and the inode, of the TCP sockets in `states`.

    None where the kernel does not tell all. Without the many that wait out a closed connection,
    which every reader of /proc/net/tcp gets as well.
    """
    if not _possible():
        return None
    found = []
    for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        try:
            answers, whole = _sockets(family, socket.IPPROTO_TCP, states, _EVERY_PORT)
        except NetlinkError:
            return None
        if not whole:
            return None
        for _, answer in answers:
            if len(answer) >= _INET_DIAG_MSG:
                (port,), (inode,) = _PORT.unpack_from(answer, 4), _INODE.unpack_from(answer, 68)
                found.append((answer[8 : 8 + size], port, inode))
    return found


_PORT, _INODE = struct.Struct("!H"), struct.Struct("=I")


class Bound(msgspec.Struct, frozen=True):
    """What the kernel knows of a UDP socket beside its address."""

    device: str | None
    """The interface from which alone it takes packets (SO_BINDTODEVICE, or the zone of a link-local
    address); None where from all, and where that cannot be told."""
    v6only: bool | None = None
    """None for IPv4."""


def bound_sockets() -> dict[int, Bound]:
    """Return by inode how the UDP sockets that take from anybody are bound.

    Empty where it cannot be asked (a kernel without udp_diag).
    """
    if not _possible():
        return {}
    told: dict[int, Bound] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            answers, _ = _sockets(family, socket.IPPROTO_UDP, _UDP_UNCONNECTED_ONLY, _MAX_ANSWERS)
        except NetlinkError:
            continue
        for _, answer in answers:
            (inode,) = struct.unpack_from("=I", answer, _INET_DIAG_MSG - 4)
            only = attributes_of(answer[_INET_DIAG_MSG:]).get(_INET_DIAG_SKV6ONLY)
            told[inode] = Bound(_device_of(answer), bool(only[0]) if only else None)
    return told


def _sockets(
    family: int, protocol: int, states: int, most: int
) -> tuple[list[tuple[int, bytes]], bool]:
    """Ask for the sockets of `protocol` in `states` (sock_diag(7)); as `_asked`."""
    body = struct.pack("=BBBBI", family, protocol, 0, 0, states) + bytes(48)
    return _asked(_SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, body, _NETLINK_SOCK_DIAG, most)


def _device_of(answer: bytes) -> str | None:
    """Return the interface of a struct inet_diag_msg, None for any."""
    (index,) = struct.unpack_from("=I", answer, _INET_DIAG_IF)
    try:
        name = socket.if_indextoname(index) if index else None
    except OSError:
        return None
    return None if name is None or _takes_for_others(name) else name


_INTERFACES = Path("/sys/class/net")


def _takes_for_others(name: str) -> bool:
    """Whether what comes in at other interfaces may count as coming from this one.

    So it does with a VRF (Documentation/networking/vrf.rst): it has other interfaces under it, and
    is none of the kinds that put their own name on what comes in there.
    """
    folder = _INTERFACES / name
    try:
        if any((folder / kind).exists() for kind in ("bridge", "bonding")):
            return False
        return any((lower / "master").exists() for lower in folder.glob("lower_*"))
    except OSError:
        return True


def default_gateways() -> tuple[Hop, ...] | None:
    """Return the next hops of the main table's default routes, the preferred first.

    None where it cannot be asked. A default route without a gateway, as a tunnel has, is not
    among them.
    """
    if not _possible():
        return None
    found: list[tuple[int, Hop]] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        header = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        try:
            answers = ask(_RTM_GETROUTE, _NLM_F_DUMP, header)
        except NetlinkError:
            continue  # no such family in this kernel
        for kind, body in answers:
            if kind != _RTM_NEWROUTE or len(body) < 12:
                continue
            _, bits, _, _, table, _, _, type_, _ = struct.unpack_from("=BBBBBBBBI", body)
            if bits == 0 and table == _RT_TABLE_MAIN and type_ == _RTN_UNICAST:
                attributes = attributes_of(body[12:])
                metric = int.from_bytes(attributes.get(_RTA_PRIORITY, b""), sys.byteorder)
                found += [(metric, hop) for hop in _gateways(family, attributes)]
    found.sort(key=lambda item: item[0])
    return tuple(dict.fromkeys(hop for _, hop in found))


def _gateways(family: int, attributes: dict[int, bytes]) -> list[Hop]:
    hops = [_hop(family, attributes)]
    rest = attributes.get(_RTA_MULTIPATH, b"")
    while len(rest) >= 8:  # struct rtnexthop: size, flags, hops, interface; attributes
        size, _, _, index = struct.unpack_from("=HBBi", rest)
        if size < 8 or size > len(rest):
            break
        oif = {_RTA_OIF: struct.pack("=I", index & 0x7FFFFFFF)}
        hops.append(_hop(family, {**attributes_of(rest[8:size]), **oif}))
        rest = rest[size + (-size % 4) :]
    return [hop for hop in hops if hop.gateway is not None]


def neighbour_state(address: str, interface: str) -> tuple[str, str | None] | None:
    """Return the state of a neighbour (`evidence.Neighbour`) and its link-layer address."""
    if not _possible():
        return None
    found = _neighbour(address, interface)
    if found is None:
        return None
    state, hardware = found
    if not state:
        return "unknown", None
    if state & _NUD_FAILED:
        return "failed", None
    if state & _NUD_INCOMPLETE:
        return "incomplete", None
    return "reachable", hardware.hex(":") if hardware else None


def neighbour_answers(address: str, interface: str) -> str:
    """Return whether a neighbour answers: `answers`, `known`, `silent` or `unknown`.

    `known`: it did before, and the kernel has not asked it again since.
    """
    found = _neighbour(address, interface) if _possible() else None
    if found is None:
        return "unknown"
    if found[0] & _NUD_SILENT:
        return "silent"
    if found[0] & _NUD_STALE:
        return "known"
    return "answers" if found[0] & _NUD_REACHABLE else "unknown"


def _neighbour(address: str, interface: str) -> tuple[int, bytes | None] | None:
    """Return the kernel's state of a neighbour, in bits, and its link-layer address.

    No bits where it has none; None where there is no such interface.
    """
    wanted, _ = _split(address)
    family = socket.AF_INET if wanted.version == 4 else socket.AF_INET6
    try:
        index = socket.if_nametoindex(interface)
    except OSError:
        return None
    header = struct.pack("=BxxxiHBB", family, index, 0, 0, 0)
    for kind, body in ask(_RTM_GETNEIGH, _NLM_F_DUMP, header):
        if kind != _RTM_NEWNEIGH:
            continue
        _, found, state, _, _ = struct.unpack_from("=BxxxiHBB", body)
        attributes = attributes_of(body[12:])
        if found == index and attributes.get(_NDA_DST) == wanted.packed:
            return state, attributes.get(_NDA_LLADDR)
    return 0, None


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _possible() -> bool:
    return sys.platform.startswith("linux")


def _split(text: str) -> tuple[_Address, int]:
    address, _, zone = text.partition("%")
    try:
        index = socket.if_nametoindex(zone) if zone else 0
    except OSError:
        index = 0
    return ipaddress.ip_address(address), index


def _route(address: _Address, attributes: bytes, *, source_bits: int = 0) -> Hop | None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    header = struct.pack("=BBBBBBBBI", family, address.max_prefixlen, source_bits, 0, 0, 0, 0, 0, 0)
    for kind, body in ask(_RTM_GETROUTE, 0, header + attributes):
        if kind == _RTM_NEWROUTE:
            return _hop(family, attributes_of(body[12:]))
    return None


def _hop(family: int, found: dict[int, bytes]) -> Hop:
    index = struct.unpack("=I", found[_RTA_OIF])[0] if _RTA_OIF in found else 0
    try:
        interface = socket.if_indextoname(index)
    except OSError:
        interface = ""
    gateway = found.get(_RTA_GATEWAY)
    source = found.get(_RTA_PREFSRC)
    return Hop(
        interface=interface,
        gateway=socket.inet_ntop(family, gateway) if gateway else _via(found),
        source=socket.inet_ntop(family, source) if source else None,
    )


def _via(found: dict[int, bytes]) -> str | None:
    """The gateway of the other family, as IPv4 by way of IPv6 (struct rtvia)."""
    raw = found.get(_RTA_VIA, b"")
    family = int.from_bytes(raw[:2], sys.byteorder)
    if family != socket.AF_INET6 or len(raw) != 18:
        return None
    return socket.inet_ntop(family, raw[2:])


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + b"\0" * (-size % 4)


def attributes_of(data: bytes) -> dict[int, bytes]:
    """Return the attributes in `data` by type (rtnetlink(3), struct rtattr)."""
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4 or size > len(data):
            break
        found[kind & 0x3FFF] = data[4:size]
        data = data[size + (-size % 4) :]
    return found


def ask(kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
    """Send one request to the kernel, of routes and the like; return its answers as (type, body).

    `body` is the request behind its netlink header. Raises `NetlinkError` where the kernel
    answers with an error; where it does not answer, or too much, what came so far is returned.
    """
    return _asked(kind, flags, body, _NETLINK_ROUTE, _MAX_ANSWERS)[0]


def _asked(
    kind: int, flags: int, body: bytes, netlink: int, most: int
) -> tuple[list[tuple[int, bytes]], bool]:
    """As `ask`; whether that is all, beside it. After `most` answers nothing more is read."""
    answers: list[tuple[int, bytes]] = []
    header = struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | flags, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink) as sock:
            sock.settimeout(_TIMEOUT)
            sock.bind((0, 0))
            sock.send(header + body)
            while len(answers) <= most:
                if _read(sock.recv(1 << 16), answers) or not flags & _NLM_F_DUMP:
                    return answers, True
    except OSError:
        pass
    return answers, False


_HEADER = struct.Struct("=IH")


def _read(data: bytes, answers: list[tuple[int, bytes]]) -> bool:
    at, end = 0, len(data)
    while end - at >= 16:
        size, kind = _HEADER.unpack_from(data, at)
        if size < 16 or size > end - at:
            break
        if kind == _NLMSG_ERROR and end - at >= 20:
            number = -struct.unpack_from("=i", data, at + 16)[0]
            if number:
                raise NetlinkError(number)
        if kind in (_NLMSG_DONE, _NLMSG_ERROR):
            return True
        answers.append((kind, data[at + 16 : at + size]))
        at += size + (-size % 4)
    return False
