"""Sweeps: one request to each of many ports, and what came of all of them.

`SweepSender` opens the connections, `SweepTaker` waits for them at the other end;
`SweepWitness` counts the packets of both, port by port, where that is allowed. A
round of a sweep is a wave: no more sockets than both sides have room for, and
then the barrier that all rounds have, so that nobody waits for a time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import selectors
import socket
import struct
from collections.abc import Callable, Collection, Iterable

from bothends_protocol.addresses import bare, family
from bothends_protocol.evidence import RoundPlan, Swept
from bothends_protocol.plan import swept_ports
from bothends_protocol.ports import pack_ports

from .connects import ask_for_errors, icmp_error, name_of, outcome_of
from .streams import share_port

__all__ = ["SweepProgress", "SweepSender", "SweepTaker", "SweepWitness", "room_for_sockets"]

SPARE = 256
"""Descriptors left for all else that a run opens."""

MOST_ROOM = 16_384
"""Sockets that one wave may take, whatever the system allows: each costs the kernel some KB."""

ANSWER_SECONDS = 0.2
"""For answers that are known to have left, at least: a busy computer takes them late."""

LOOKS = 20
"""How often it is looked for them in that time."""

PROGRESS_SECONDS = 2.0
"""Between two words on how far it got, and before the first: most have ended by then."""

AT_ONCE = 128
"""Requests in a row before the agent looks at its witnesses and its contact again."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_LEAST_PACKET = 40
"""Bytes of the headers of IPv4 and TCP."""

_AT_ONCE_CLOSED = struct.pack("=ii", 1, 0)
"""struct linger: drop the connection when it is closed, without a wait."""


def room_for_sockets() -> int:
    """Return how many sockets a sweep may open, having asked the system for all it gives."""
    try:
        import resource  # noqa: PLC0415  not on every system
    except ImportError:
        return SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_ROOM
    return max(0, min(soft - SPARE, MOST_ROOM))


class SweepProgress:
    """Tells now and then how far a long sweep has got."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._say = say
        self._clock = clock
        self._told = clock()
        self._asked: dict[str, set[int]] = {}
        """The ports that had a request, by who sends."""

    def wave(self, plan: RoundPlan, wanted: int) -> None:
        """Note that a wave begins, of `wanted` ports in all."""
        asked = self._asked.setdefault(plan.prober, set())
        if self._clock() - self._told >= PROGRESS_SECONDS and asked:
            self._told = self._clock()
            self._say(f"{len(asked):,} of {wanted:,} ports have had their request.")
        asked.update(swept_ports(plan))


class SweepWitness:
    """Counts the packets of a sweep, port by port.

    `here` and `there` are the addresses of this host and of the other; without any, all count,
    since a router may have made others of them. `sends` is whether the requests are this host's.
    """

    def __init__(
        self, ports: Collection[int], here: Iterable[str], there: Iterable[str], *, sends: bool
    ) -> None:
        self._wanted = bytearray(65536)
        for port in ports:
            self._wanted[port] = 1
        self._here, self._there = _raw(here), _raw(there)
        self._sends = sends
        self.requests: set[int] = set()
        self.accepted: set[int] = set()
        self.refused: set[int] = set()

    def take(self, data: bytes, way: str) -> None:
        """Take a packet of IP, whatever it is; `way` is as in `evidence.Sighting`."""
        found = _segment(data)
        if found is None:
            return
        start, here, there = found
        if way == "in":
            here, there = there, here
        if (self._here and here not in self._here) or (self._there and there not in self._there):
            return
        request = (way == "out") == self._sends
        at = start + (2 if request else 0)
        port = data[at] << 8 | data[at + 1]
        if not self._wanted[port]:
            return
        flags = data[start + 13] & (_SYN | _ACK | _RST)
        if request:
            if flags == _SYN:
                self.requests.add(port)
        elif flags & _RST:
            self.refused.add(port)
        elif flags == _SYN | _ACK:
            self.accepted.add(port)


def _segment(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Return where the TCP header begins, and both addresses; None for all else."""
    if len(data) < _LEAST_PACKET:
        return None
    version = data[0] >> 4
    if version == 4:
        found = (data[0] & 15) * 4, data[12:16], data[16:20]
    else:
        found = 40, data[8:24], data[24:40]
    protocol = data[9] if version == 4 else data[6]
    whole = len(data) >= found[0] + 20
    return found if protocol == socket.IPPROTO_TCP and whole and version in (4, 6) else None


def _raw(addresses: Iterable[str]) -> frozenset[bytes]:
    known = (bare(address) for address in addresses)
    return frozenset(ipaddress.ip_address(text).packed for text in known if family(text))


class SweepSender:
    """Sends the requests of one wave, and notes what came of each."""

    def __init__(
        self, plan: RoundPlan, spare: Collection[int] = (), gentle: Collection[int] = ()
    ) -> None:
        """Nothing is sent to the ports `spare`; `gentle` ones are not ended by a reset."""
        self.number = plan.number
        self.address = plan.probes[0].address
        self.ports = tuple(port for port in swept_ports(plan) if port not in spare)
        self._gentle = frozenset(gentle)
        self._rate = plan.rate
        self._open = selectors.DefaultSelector()
        self._sets: dict[str, list[int]] = {
            name: [] for name in ("connected", "refused", "icmp", "failed")
        }

    async def fire(self, look: Callable[[], None]) -> None:
        """Send all requests; `look` is called now and then, to empty what fills meanwhile."""
        kind, name = name_of(self.address, 1)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        at_once = max(1, min(AT_ONCE, self._rate // LOOKS)) if self._rate else AT_ONCE
        for index, port in enumerate(self.ports, 1):
            self._send(kind, (name[0], port, *name[2:]), port)
            if index % at_once == 0:
                self._hear()
                look()
                due = begun + index / self._rate if self._rate else 0.0
                await asyncio.sleep(max(0.0, due - loop.time()))
        self._hear()

    def _send(self, kind: int, name: tuple[object, ...], port: int) -> None:
        try:
            sock = socket.socket(kind, socket.SOCK_STREAM)
        except OSError:
            return  # no room: this port has not been tried
        try:
            sock.setblocking(False)
            ask_for_errors(sock)
            result = sock.connect_ex(name)
        except OSError as error:
            result = error.errno or errno.EIO
        if result in _NO_ROOM:
            sock.close()
            return  # nothing was sent: this port has not been tried
        if result in (errno.EINPROGRESS, errno.EWOULDBLOCK, 0):
            self._open.register(sock, selectors.EVENT_WRITE, port)
            return
        self._sets["failed"].append(port)
        sock.close()

    def _hear(self) -> None:
        """Note the outcomes that are there by now."""
        for key, _ in self._open.select(0):
            port, sock = key.data, _socket_of(key)
            self._open.unregister(sock)
            problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not problem:
                self._sets["connected"].append(port)
                if port not in self._gentle:
                    # Our own listener has it already: nothing of it need stay for a minute.
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE_CLOSED)
            elif outcome_of(problem, at_once=False) == "silent":
                self._sets.setdefault("silent", []).append(port)
            else:
                by_icmp = icmp_error(sock) is not None
                self._sets["icmp" if by_icmp else "refused"].append(port)
            sock.close()

    async def gather(
        self,
        answered: Collection[int],
        seconds: float,
        witness: SweepWitness | None,
    ) -> Swept:
        """Wait `seconds` at most for what the other side says to have answered; close all."""
        loop = asyncio.get_running_loop()
        seconds = max(seconds, ANSWER_SECONDS)
        until = loop.time() + seconds
        self._hear()
        while loop.time() < until and any(port in answered for port in self._waiting()):
            await asyncio.sleep(seconds / LOOKS)
            self._hear()
        silent = self._waiting()
        self.close()
        sets = {**self._sets, "silent": [*self._sets.get("silent", ()), *silent]}
        packed = {name: pack_ports(ports) for name, ports in sets.items()}
        if witness is not None:
            packed["left"] = pack_ports(witness.requests)
            packed["returned"] = pack_ports(witness.accepted | witness.refused)
        return Swept(
            round=self.number,
            transport="tcp",
            address=self.address,
            sets=packed,
        )

    def _waiting(self) -> list[int]:
        return [key.data for key in self._open.get_map().values()]

    def close(self) -> None:
        """Close what is still open; safe to call again."""
        _close_all(self._open)


class SweepTaker:
    """Listens on the ports of one wave that nobody holds, and takes what comes."""

    def __init__(self, plan: RoundPlan, address: str | None, held: Iterable[int]) -> None:
        """`address` is this host's own, None where it is not known; `held` ports are left alone."""
        self._plan = plan
        self.ports = swept_ports(plan)
        self._held = frozenset(held)
        self._open = selectors.DefaultSelector()
        self._taken: set[int] = set()
        self._own: set[int] = set()
        self._address = address

    async def listen(self) -> None:
        """Open the listeners; those that cannot be opened are left out."""
        if self._address is None:
            return
        kind, name = name_of(self._address, 1)
        for index, port in enumerate(self.ports):
            if port not in self._held:
                self._listen(kind, (name[0], port, *name[2:]), port)
            if index % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)

    def _listen(self, kind: int, name: tuple[object, ...], port: int) -> None:
        try:
            sock = socket.socket(kind, socket.SOCK_STREAM)
        except OSError:
            return
        try:
            sock.setblocking(False)
            share_port(sock)
            if kind == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(name)
            sock.listen(1)
        except OSError:
            sock.close()
            return
        self._own.add(port)
        self._open.register(sock, selectors.EVENT_READ, port)

    def take(self, origins: Collection[str]) -> None:
        """Take the connections that wait by now; those of `origins` count."""
        for key, _ in self._open.select(0):
            with contextlib.suppress(OSError):
                conn, name = _socket_of(key).accept()
                if bare(str(name[0])) in origins:
                    self._taken.add(key.data)
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE_CLOSED)
                conn.close()

    def told(self, witness: SweepWitness | None, pending: Iterable[int]) -> Swept:
        """Return what is known of the wave, and stop listening.

        `pending` are ports with requests in the socket table whose handshake is not complete.
        """
        self.close()
        sets = {
            "own": pack_ports(self._own),
            "taken": pack_ports(self._taken),
            "pending": pack_ports(self._own.intersection(pending)),
            "held": pack_ports(self._held.intersection(self.ports)),
        }
        if witness is not None:
            sets["arrived"] = pack_ports(witness.requests)
            sets["accepted"] = pack_ports(witness.accepted)
            sets["reset"] = pack_ports(witness.refused)
        probe = self._plan.probes[0]
        return Swept(
            round=self._plan.number,
            transport="tcp",
            address=probe.address,
            sets=sets,
        )

    def close(self) -> None:
        """Stop listening; safe to call again."""
        _close_all(self._open)


def _socket_of(key: selectors.SelectorKey) -> socket.socket:
    if not isinstance(key.fileobj, socket.socket):
        raise TypeError("only sockets are registered here")
    return key.fileobj


def _close_all(registered: selectors.BaseSelector) -> None:
    """Close the selector and all sockets in it; safe to call again."""
    for key in list((registered.get_map() or {}).values()):
        _socket_of(key).close()
    registered.close()
