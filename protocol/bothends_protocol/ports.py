"""Port sets as people type them and as checks carry them.

`4242`, `4242,4252`, `1024-5999`, `tcp:4242,udp:4242`; tcp where nothing is
said. Kept as sorted, disjoint ranges, so that 65,535 ports cost no more than one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from .errors import InputError, ProtocolError
from .wire import compress, decompress

__all__ = [
    "MAX_PORT",
    "TRANSPORTS",
    "PortSet",
    "format_ports",
    "pack_ports",
    "parse_ports",
    "unpack_ports",
]

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


def pack_ports(ports: Iterable[int]) -> bytes:
    """Return ports in few bytes: of each range how far it is from the last, and how long.

    As numbers of 7 bits a byte, the last of each with the high bit clear, and compressed. A few
    ranges take a few bytes; half of all ports, drawn at random, 11 KB.
    """
    out = bytearray()
    at = 0
    for first, last in _merge((port, port) for port in ports):
        for number in (first - at, last - first):
            left = number
            while left > _SEVEN_BITS:
                out.append(left & _SEVEN_BITS | _MORE)
                left >>= 7
            out.append(left)
        at = last
    return compress(bytes(out))


def unpack_ports(data: bytes, most: int = MAX_PORT) -> tuple[int, ...]:
    """Return the ports in `data`, ascending.

    Raises `ProtocolError` where it is no set of ports, or one of more than `most`.
    """
    ends = _numbers(decompress(data, MAX_PACKED)) if data else []
    if len(ends) % 2:
        raise ProtocolError("half a range of ports")
    ports: list[int] = []
    at = 0
    for gap, more in zip(ends[::2], ends[1::2], strict=True):
        first, at = at + gap, at + gap + more
        if not gap or at > MAX_PORT:
            raise ProtocolError("ports that do not exist, or are not in order")
        if len(ports) + more >= most:
            raise ProtocolError("more ports than allowed")
        ports.extend(range(first, at + 1))
    return tuple(ports)


_SEVEN_BITS, _MORE = 0x7F, 0x80

MAX_PACKED = 2 * 65536
"""Bytes of the numbers before they are compressed: two for every other port are 65,536, and longer
ones stand for more ports."""


def _numbers(data: bytes) -> list[int]:
    found: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & _SEVEN_BITS) << shift
        shift += 7
        if number > MAX_PORT:
            raise ProtocolError("a number that is no port")
        if not byte & _MORE:
            found.append(number)
            number = shift = 0
    if shift:
        raise ProtocolError("ports that are cut off")
    return found


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
