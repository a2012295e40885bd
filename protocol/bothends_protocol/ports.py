"""Port sets as people type them and as checks carry them.

`4242`, `4242,4252`, `1024-5999`, `tcp:4242,udp:4242`; tcp where nothing is
said. Kept as sorted, disjoint ranges, so that 65,535 ports cost no more than one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from .errors import InputError

__all__ = ["MAX_PORT", "TRANSPORTS", "PortSet", "format_ports", "parse_ports"]

MAX_PORT = 65535
TRANSPORTS = ("tcp", "udp")

_ITEM = re.compile(
    r"(?:(?P<transport>[a-z]+):)?(?P<first>\d{1,9})(?:-(?P<last>\d{1,9}))?", re.ASCII
)


class PortSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ports of one transport: `ranges` are (first, last), both included, ascending, disjoint."""

    transport: str
    ranges: tuple[tuple[int, int], ...]

    def __iter__(self) -> Iterator[int]:
        for first, last in self.ranges:
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def __str__(self) -> str:
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in self.ranges)


def format_ports(ports: Iterable[int]) -> str:
    """Return ports as a string of numbers and ranges, as in `"4242,5000-5010"`."""
    return str(PortSet("tcp", _merge((port, port) for port in ports)))


def parse_ports(text: str) -> list[PortSet]:
    """Return one `PortSet` per transport named in `text`.

    Raises `InputError` with a sentence for the person who typed it.
    """
    wanted: dict[str, list[tuple[int, int]]] = {}
    transport = "tcp"
    for item in text.replace(" ", "").lower().split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise InputError(
                f"{item!r} is not a port: write a number such as 4242, a range such as "
                "4000-4100, or several: 4242,4252"
            )
        # `udp:1,2` means both on udp: a prefix holds until the next one.
        transport = match["transport"] or transport
        if transport not in TRANSPORTS:
            raise InputError(f"{transport!r} is not a transport: only tcp and udp are known")
        wanted.setdefault(transport, []).append(_bounds(match))
    return [PortSet(name, _merge(ranges)) for name, ranges in sorted(wanted.items())]


def _bounds(match: re.Match[str]) -> tuple[int, int]:
    first = int(match["first"])
    last = int(match["last"] or first)
    for port in (first, last):
        if not 1 <= port <= MAX_PORT:
            raise InputError(f"port {port} does not exist: ports go from 1 to {MAX_PORT}")
    if first > last:
        raise InputError(f"{first}-{last} is an empty range: write {last}-{first}")
    return first, last


def _merge(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)
