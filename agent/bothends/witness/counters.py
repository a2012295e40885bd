"""Kernel counters, read again and again: the witness that needs no privilege.

/proc/net/snmp, netstat, snmp6 and dev (proc(5); RFC 4293 gives the IP names
their meaning), of this network namespace. What is read during a burst is kept
as bytes and taken apart afterwards, so that a reading costs a fraction of a
millisecond. Which counters there are depends on the kernel; what it does not
have is left out (Ip.OutTransmits came with Linux 6.7).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping

from bothends_protocol.bursts import SAMPLE_SECONDS
from bothends_protocol.evidence import Samples

__all__ = [
    "COUNTERS",
    "UDP_COUNTERS",
    "Sampler",
    "open_tables",
    "parse_counters",
    "read_tables",
    "stacked_cards",
]

MAX_READINGS = 1000
"""Four seconds of readings: a burst that is never collected stops by itself."""

COUNTERS = frozenset(
    {
        "Ip.InReceives",
        "Ip.InDelivers",
        "Ip.ForwDatagrams",
        "Ip.OutRequests",
        "Ip.OutTransmits",
        "Ip.OutNoRoutes",
        "Icmp.OutDestUnreachs",
        "Icmp.OutRateLimitHost",
        "Tcp.InSegs",
        "Tcp.OutSegs",
        "Tcp.OutRsts",
        "Tcp.PassiveOpens",
        "TcpExt.IPReversePathFilter",
        "TcpExt.ListenOverflows",
        "TcpExt.ListenDrops",
        "TcpExt.TCPDeferAcceptDrop",
        "TcpExt.TCPReqQFullDoCookies",
        "TcpExt.TCPReqQFullDrop",
        "Ip6.InReceives",
        "Ip6.InDelivers",
        "Ip6.InMcastPkts",
        "Ip6.OutForwDatagrams",
        "Ip6.OutRequests",
        "Ip6.OutTransmits",
        "Ip6.OutNoRoutes",
        "Icmp6.OutDestUnreachs",
        "Icmp6.OutRateLimitHost",
        "Ip.InAddrErrors",
        "Ip6.InAddrErrors",
        "Ip6.InNoRoutes",
        "IpExt.InNoRoutes",
        "card.rx",
        "card.tx",
        "dev.rx",
        "dev.tx",
    }
)
"""What is kept of the hundreds there are."""

_DISCARDS = {"Ip.OutDiscards", "Ip6.OutDiscards"}
"""Of datagrams that a program sent and the host kept: its filter, its card."""

UDP_COUNTERS = (
    COUNTERS
    | _DISCARDS
    | {
        f"{group}.{name}"
        for group in ("Udp", "Udp6")
        for name in ("InDatagrams", "InErrors", "NoPorts", "OutDatagrams", "RcvbufErrors")
    }
)
"""What is kept where datagrams are sent. `InDatagrams` counts what programs read, not what waits
for them (net/ipv4/udp.c, udp_recvmsg)."""

_FILES = ("/proc/net/snmp", "/proc/net/netstat", "/proc/net/snmp6", "/proc/net/dev")
_CARDS = "/sys/class/net"
_READ = 1 << 16


class Sampler:
    """Reads the counters again and again from `start` to `stop`."""

    def __init__(
        self,
        clock: Callable[[], float],
        every: float = SAMPLE_SECONDS,
        own: Callable[[], dict[str, int]] | None = None,
    ) -> None:
        """`every` is how many seconds lie between two readings.

        `own` counts what this program itself has done, which the kernel counts too.
        """
        self._own = own
        self._clock = clock
        self._every = every
        self._files: list[int] = []
        self._readings: list[tuple[float, list[bytes], dict[str, int]]] = []
        self._mark: float | None = None
        self._stacked: frozenset[str] = frozenset()
        self._card = ""
        self._wanted = COUNTERS
        self._timer: asyncio.TimerHandle | None = None

    def start(
        self, *, once: bool = False, card: str = "", wanted: frozenset[str] = COUNTERS
    ) -> bool:
        """Begin to read the counters `wanted`; return whether this host has anything to read.

        `card` is the interface by which the tested address is reached, or that has it: it is
        read by itself too (`card.rx`, `card.tx`).
        With `once`, read only now and when stopped: for what must not have moved in between.
        """
        self.close()
        self._readings = []
        self._mark = None
        self._card = card
        self._wanted = wanted
        if not sys.platform.startswith("linux"):
            return False
        self._stacked = stacked_cards()
        self._files = open_tables()
        if self._files:
            self._read(again=not once)
        if once:
            self.mark()
        return bool(self._files)

    def mark(self) -> None:
        """The burst begins now: times are counted from here."""
        self._mark = self._clock()

    def _read(self, *, again: bool = True) -> None:
        own = {} if self._own is None else self._own()
        self._readings.append((self._clock(), read_tables(self._files), own))
        if again and len(self._readings) < MAX_READINGS:
            self._timer = asyncio.get_running_loop().call_later(self._every, self._read)

    def stop(self, number: int) -> Samples | None:
        """End; return the readings for round `number`, None where there are none."""
        if not self._files or self._mark is None:
            self.close()
            return None
        self._read(again=False)
        self.close()
        parsed = [
            parse_counters(b"".join(texts), self._stacked, self._card, self._wanted) | own
            for _, texts, own in self._readings
        ]
        names = sorted(set.intersection(*(set(reading) for reading in parsed)))
        values = {name: tuple(reading[name] for reading in parsed) for name in names}
        return Samples(
            round=number,
            times=tuple(round(at - self._mark, 6) for at, _, _ in self._readings),
            values=values,
        )

    def close(self) -> None:
        """Stop reading; safe to call again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for file in self._files:
            os.close(file)
        self._files = []


def open_tables() -> list[int]:
    """Return descriptors of the tables that hold counters, to be read from their beginning."""
    files = []
    for name in _FILES:
        with contextlib.suppress(OSError):
            files.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
    return files


def read_tables(files: Collection[int]) -> list[bytes]:
    """Return what the tables hold now."""
    return [os.pread(file, _READ, 0) for file in files]


def stacked_cards() -> frozenset[str]:
    """Interfaces that stand on others (bridges, bonds, VLANs), whose packets are counted there."""
    found = set()
    with contextlib.suppress(OSError):
        for card in os.listdir(_CARDS):
            with contextlib.suppress(OSError):
                if any(name.startswith("lower_") for name in os.listdir(f"{_CARDS}/{card}")):
                    found.add(card)
    return frozenset(found)


def parse_counters(
    text: bytes,
    stacked: Collection[str] = (),
    card: str = "",
    wanted: frozenset[str] = COUNTERS,
) -> dict[str, int]:
    """Return the counters `wanted` in the joined texts of the files.

    Those of the cards leave out the interfaces `stacked` on others, so that no packet counts
    twice; those of `card` are there by themselves too.
    """
    found: dict[str, int] = {}
    places: dict[str, tuple[tuple[int, str], ...]] = {}
    glued = _glued(wanted)
    for line in text.decode("ascii", "replace").splitlines():
        group, colon, rest = line.partition(":")
        if not colon:
            _take_pair(line, glued, found)
        elif group in places:
            _take_group(places[group], rest.split(), found)
        elif _is_heading(rest):
            places[group] = _places(group, rest, wanted)
        else:
            name, parts = group.strip(), rest.split()
            if name == card:
                _take_card("card", name, parts, found)
            if name not in stacked:
                _take_card("dev", name, parts, found)
    return found


def _is_heading(rest: str) -> bool:
    """Whether names follow the colon and no numbers."""
    first = rest.split(maxsplit=1)
    return bool(first) and not first[0].lstrip("-").isdigit()


@functools.lru_cache(maxsize=64)
def _places(group: str, names: str, wanted: frozenset[str]) -> tuple[tuple[int, str], ...]:
    """Where in a line of values the counters of interest are; the kernel's lines stay as they are.

    Looking for them in every reading took most of the time of a reading.
    """
    named = enumerate(f"{group}.{name}" for name in names.split())
    return tuple((place, full) for place, full in named if full in wanted)


def _take_group(
    places: Iterable[tuple[int, str]], values: list[str], found: dict[str, int]
) -> None:
    """/proc/net/snmp and netstat: a line of names, then a line of values."""
    for place, full in places:
        if place < len(values):
            found[full] = int(values[place])


@functools.lru_cache(maxsize=4)
def _glued(wanted: frozenset[str]) -> dict[str, str]:
    """Those of /proc/net/snmp6 by the names that they have there."""
    six = ("Ip6.", "Icmp6.", "Udp6.")
    return {full.replace(".", ""): full for full in wanted if full.startswith(six)}


def _take_pair(line: str, glued: Mapping[str, str], found: dict[str, int]) -> None:
    """/proc/net/snmp6: a name and a value a line, the group glued to the name."""
    parts = line.split()
    if len(parts) == 2 and parts[0] in glued and parts[1].isdigit():
        found[glued[parts[0]]] = int(parts[1])


def _take_card(prefix: str, card: str, parts: list[str], found: dict[str, int]) -> None:
    """/proc/net/dev: received packets in column 2, sent ones in column 10."""
    if card == "lo" or len(parts) < 10 or not parts[1].isdigit():
        return
    for name, value in ((f"{prefix}.rx", parts[1]), (f"{prefix}.tx", parts[9])):
        found[name] = found.get(name, 0) + int(value)
