"""Tells that something changed on this host: what may make the next test come out differently.

Interfaces, addresses and routes are told by rtnetlink's multicast groups, which anybody may
join; rules of nftables by its own group, for root only (linux/rtnetlink.h, linux/nfnetlink.h;
rtnetlink(7)). What the kernel does not announce is looked at again and again: who listens on
the tested ports, and the rules of iptables' older kind. What a host does of itself all the time
(a router's advertisement repeated, counters, leases renewed) is no change, so what an
announcement is about is compared with what was there before.

An ordinary user sees no firewall rules: there the test that is repeated anyway must find it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from bothends_protocol.timeline import What

from .interfaces import interface_addresses
from .tasks import Tasks
from .witness.netlink import LISTENING, NetlinkError, ask, attributes_of, tcp_sockets
from .witness.rules import legacy_saves
from .witness.sockets import read_table

__all__ = ["Changes", "announced", "messages", "told_of_ports"]

LOOK_SECONDS = 0.5
"""Between looks at the listening sockets: a dump of these alone, a fraction of a millisecond."""

RULES_SECONDS = 2.0
"""Between looks at the rules of the older iptables: each starts a program or two (5 ms)."""

MAX_READS = 64
"""Datagrams taken from the kernel at a time: a flood of announcements is one change, and the
loop must go on."""

_CHUNK = 1 << 16

# linux/netlink.h, linux/rtnetlink.h
_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE = 0x1, 0x10, 0x40
_RTMGRP_IPV6_IFADDR, _RTMGRP_IPV6_ROUTE = 0x100, 0x400
_ROUTE_GROUPS = (
    _RTMGRP_LINK
    | _RTMGRP_IPV4_IFADDR
    | _RTMGRP_IPV4_ROUTE
    | _RTMGRP_IPV6_IFADDR
    | _RTMGRP_IPV6_ROUTE
)
_LINKS, _ADDRESSES, _ROUTES = (16, 17), (20, 21), (24, 25)
_RTM_NEWLINK, _RTM_GETLINK, _DUMP = 16, 18, 0x300
_IFLA_IFNAME = 3
_IFF_SEEN = 0x1 | 0x40
"""IFF_UP and IFF_RUNNING: switched on, and with a carrier."""
_RTM_F_CLONED = 0x200
_RTN_UNICAST, _RTN_BLACKHOLE, _RTN_UNREACHABLE, _RTN_PROHIBIT = 1, 6, 7, 8
_ROUTE_KINDS = (_RTN_UNICAST, _RTN_BLACKHOLE, _RTN_UNREACHABLE, _RTN_PROHIBIT)
"""The kernel's own local and broadcast routes come and go with the addresses."""
_BY_ITSELF = (1, 2, 9)
"""RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA: made by the kernel, which repeats them."""

# linux/nfnetlink.h, linux/netfilter/nf_tables.h
_NFTABLES_GROUP = 1 << (7 - 1)
_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_NEWGEN = 15
"""Announces that a transaction ended, with whatever it held."""

_TRANSIENT = re.compile(r"^#.*$|\[\d+:\d+\]", re.MULTILINE)
"""What differs from listing to listing of iptables-save: times and counters."""

Listening = frozenset[tuple[str, int, int]]
"""Address, port and inode of each listening socket."""


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each netlink message in `data`, for any bytes."""
    while len(data) >= 16:
        size, kind = struct.unpack_from("=IH", data)
        if size < 16 or size > len(data):
            return
        yield kind, data[16:size]
        data = data[size + (-size % 4) :]


def announced(netlink: int, data: bytes) -> set[What]:
    """Return what a datagram of the kernel is about, in the words of `timeline.CHANGES`."""
    about: set[What] = set()
    for kind, body in messages(data):
        if netlink == _NETLINK_NETFILTER:
            if kind >> 8 == _NFNL_SUBSYS_NFTABLES and kind & 0xFF != _NFT_MSG_NEWGEN:
                about.add("firewall")
        elif kind in _LINKS:
            about.add("interface")
        elif kind in _ADDRESSES:
            about.add("address")
        elif kind in _ROUTES and _is_set_by_hand(body):
            about.add("route")
    return about


def _is_set_by_hand(body: bytes) -> bool:
    """Whether somebody, or a program, made or took away this route."""
    if len(body) < 12:
        return False
    _, _, _, _, _, protocol, _, kind, flags = struct.unpack_from("=BBBBBBBBI", body)
    return kind in _ROUTE_KINDS and protocol not in _BY_ITSELF and not flags & _RTM_F_CLONED


def told_of_ports(before: Listening, now: Listening) -> Iterator[tuple[What, int]]:
    """Yield what became of the listening sockets, as word of `timeline.CHANGES` and port."""
    for port in sorted({port for _, port, _ in before ^ now}):
        old = {(address, inode) for address, at, inode in before if at == port}
        new = {(address, inode) for address, at, inode in now if at == port}
        if not old & new and old and new:
            yield "restarted", port
        elif len({a for a, _ in new}) >= len({a for a, _ in old}):
            yield "listening", port
        else:
            yield "ended", port


class Changes:
    """Watches this host until it is closed. `tell` gets a word of `timeline.CHANGES` and a port."""

    def __init__(
        self,
        tell: Callable[[What, int], None],
        *,
        ports: Collection[int],
        own: Callable[[], Collection[int]],
    ) -> None:
        """`ports` are those whose listeners are watched, `own` gives inodes that are our own."""
        self._tell = tell
        self._ports = frozenset(ports)
        self._own = own
        self._sockets: list[tuple[int, socket.socket]] = []
        self._listening = self._listeners()
        self._links = _links()
        self._addresses = _addresses()
        self._rules: bytes | None = None
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin to watch."""
        for netlink, groups in (
            (_NETLINK_ROUTE, _ROUTE_GROUPS),
            (_NETLINK_NETFILTER, _NFTABLES_GROUP),
        ):
            sock = _joined(netlink, groups)
            if sock is not None:
                self._sockets.append((netlink, sock))
                asyncio.get_running_loop().add_reader(sock.fileno(), self._hear, netlink, sock)
        self._tasks.start(self._look_again())
        self._tasks.start(self._look_at_rules())

    def look(self) -> None:
        """Look at once at what can be looked at without waiting."""
        for netlink, sock in self._sockets:
            self._hear(netlink, sock)
        now = self._listeners()
        for what, port in told_of_ports(self._listening, now):
            self._tell(what, port)
        self._listening = now

    async def close(self) -> None:
        """Stop; safe to call again."""
        for _, sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()
        await self._tasks.finish()

    # Announcements -----------------------------------------------------------------------

    def _hear(self, netlink: int, sock: socket.socket) -> None:
        about: set[What] = set()
        for _ in range(MAX_READS):
            try:
                about |= announced(netlink, sock.recv(_CHUNK))
            except BlockingIOError:
                break
            except OSError:
                # ENOBUFS: more was announced than the socket held.
                about |= _ABOUT_RULES if netlink == _NETLINK_NETFILTER else _ABOUT_ROUTES
        for what in sorted(about):
            if self._is_so(what):
                self._tell(what, 0)

    def _is_so(self, what: What) -> bool:
        """Whether what was announced is another state than the one known."""
        if what == "interface":
            links, self._links = self._links, _links()
            return links != self._links
        if what == "address":
            addresses, self._addresses = self._addresses, _addresses()
            return addresses != self._addresses
        return True

    # What is looked at -------------------------------------------------------------------

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def _listeners(self) -> Listening:
        found = _listening()
        own = frozenset(self._own())
        return frozenset(row for row in found if row[1] in self._ports and row[2] not in own)

    async def _look_at_rules(self) -> None:
        while True:
            saves = await legacy_saves()
            digest = digest_of(saves)
            if self._rules is not None and digest != self._rules:
                self._tell("firewall", 0)
            self._rules = digest
            await asyncio.sleep(RULES_SECONDS)


_ABOUT_ROUTES: frozenset[What] = frozenset({"interface", "address", "route"})
_ABOUT_RULES: frozenset[What] = frozenset({"firewall"})


def digest_of(saves: Iterable[str]) -> bytes:
    """Return what is the same for two listings of iptables-save with the same rules."""
    digest = hashlib.sha256()
    for text in saves:
        digest.update(_TRANSIENT.sub("", text).encode("utf-8", "replace") + b"\0")
    return digest.digest()


def _joined(netlink: int, groups: int) -> socket.socket | None:
    """Return a socket on which the kernel announces, None where it may not be had."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink)
    except OSError:
        return None
    try:
        sock.setblocking(False)
        sock.bind((0, groups))
    except OSError:
        sock.close()  # not root, or no such part of the kernel
        return None
    return sock


def _links() -> Mapping[int, tuple[str, int]]:
    """Return name and state of each interface; empty where they cannot be read."""
    if not sys.platform.startswith("linux"):
        return {}
    found: dict[int, tuple[str, int]] = {}
    with contextlib.suppress(NetlinkError):
        for kind, body in ask(_RTM_GETLINK, _DUMP, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
            if kind == _RTM_NEWLINK and len(body) >= 16:
                _, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
                name = attributes_of(body[16:]).get(_IFLA_IFNAME, b"").rstrip(b"\0")
                found[index] = name.decode("utf-8", "backslashreplace"), flags & _IFF_SEEN
    return found


def _addresses() -> frozenset[tuple[str, str, int]]:
    try:
        return frozenset((a.interface, a.address, a.prefix) for a in interface_addresses())
    except (OSError, NetlinkError):
        return frozenset()


def _listening() -> Iterator[tuple[str, int, int]]:
    """Yield address, port and inode of each listening TCP socket."""
    told = tcp_sockets(LISTENING)
    for address, port, inode in told or ():
        yield socket.inet_ntop(_FAMILIES[len(address)], address), port, inode
    for row in (read_table(listening=True) or ()) if told is None else ():
        yield row.local, row.local_port, row.inode


_FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
"""By the size of an address."""
