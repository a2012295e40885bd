"""Whether an expression of a firewall rule matches a packet: yes, no, or it cannot be told.

Expressions are those of libnftables-json(5). What is known of the packet is a
table of facts, by the names that nftables gives them. A fact that is not in it
is unknown, and whatever is asked of it is None, never False; a fact that such
a packet cannot have (a UDP port of a TCP packet) matches nothing, not even
`!=`, since nft puts an unwritten match on the protocol before each of these.
"""

from __future__ import annotations

import enum
import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Final, Literal

import msgspec

__all__ = [
    "ABSENT",
    "CT_STATES",
    "CT_STATUS",
    "TCP_FLAGS",
    "UNKNOWN",
    "Bits",
    "Elements",
    "Facts",
    "Ip",
    "Nothing",
    "Sets",
    "Truth",
    "Value",
    "both",
    "compare",
    "lies_in",
    "pair",
    "read_ip",
    "value_of",
    "word",
]

MAX_ELEMENTS = 20_000
"""Ranges of a named set that are looked through, 40 ms of work: in larger ones all is unknown."""

Truth = bool | None


class Nothing(enum.Enum):
    """What stands in place of a value."""

    UNKNOWN = enum.auto()
    ABSENT = enum.auto()
    """The packet has no such field."""


UNKNOWN: Final[Literal[Nothing.UNKNOWN]] = Nothing.UNKNOWN
ABSENT: Final[Literal[Nothing.ABSENT]] = Nothing.ABSENT


class Ip(msgspec.Struct, frozen=True):
    """An IP address."""

    version: int
    number: int


class Bits(msgspec.Struct, frozen=True):
    """A word of flags, and what each is called."""

    word: int
    names: Mapping[str, int]
    exact: bool = True
    """Whether the flags without a name are known too."""


Value = Nothing | Ip | Bits | int | str | tuple["Value", ...]
Facts = dict[str, Value]

TCP_FLAGS = {
    "fin": 0x01,
    "syn": 0x02,
    "rst": 0x04,
    "psh": 0x08,
    "ack": 0x10,
    "urg": 0x20,
    "ecn": 0x40,
    "cwr": 0x80,
}
CT_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
CT_STATUS = {
    "expected": 0x1,
    "seen-reply": 0x2,
    "assured": 0x4,
    "confirmed": 0x8,
    "snat": 0x10,
    "dnat": 0x20,
    "dying": 0x200,
}
"""The words of nft(8); the numbers are the kernel's (nf_conntrack_common.h)."""

_PROTOCOLS = {"tcp": 6, "udp": 17}
_ALIASES = {"unicast": "host"}
_ADDRESS_BITS = {4: 32, 6: 128}
_FRAGMENT_OFFSET = 0x1FFF
_MAPPED, _LOW_32 = 0xFFFF, 0xFFFFFFFF
_DIGITS = 10
"""Longest number read from text: enough for 32 bits."""

_OTHER_TRANSPORTS = frozenset(
    {"ah", "arp", "comp", "dccp", "esp", "gre", "icmp", "icmpv6", "igmp", "sctp", "udplite"}
)
_CONDITIONS = frozenset({"limit", "quota", "ct count"})
"""What an element of a set may hold beside its value, so that it matches at times only."""


def word(value: object) -> str:
    """Return `value` where it is text, else the empty word."""
    return value if isinstance(value, str) else ""


def pair(expression: object) -> tuple[str, object]:
    """Return the one key of a JSON object and its value; ("", None) where it is none."""
    if not isinstance(expression, dict) or not expression:
        return "", None
    key, body = next(iter(expression.items()))
    return word(key), body


def both(first: Truth, second: Truth) -> Truth:
    """Return the conjunction: False where either is, else None where either is."""
    if first is False or second is False:
        return False
    return None if first is None or second is None else True


def _all(truths: Iterable[Truth]) -> Truth:
    result: Truth = True
    for truth in truths:
        result = both(result, truth)
    return result


def _any(truths: Iterable[Truth]) -> Truth:
    result: Truth = False
    for truth in truths:
        if truth is True:
            return True
        if truth is None:
            result = None
    return result


def _not(truth: Truth) -> Truth:
    return None if truth is None else not truth


def read_ip(text: object) -> Ip | None:
    """Return the address in `text`, without its zone; an IPv4-mapped one as IPv4."""
    if not isinstance(text, str):
        return None
    # A tenth of what ipaddress needs: there are sets of many thousands.
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        number = int.from_bytes(socket.inet_pton(family, text.partition("%")[0]), "big")
    except (OSError, ValueError):
        return None
    if family == socket.AF_INET:
        return Ip(4, number)
    return Ip(4, number & _LOW_32) if number >> 32 == _MAPPED else Ip(6, number)


class Elements:
    """What a set or the keys of a map hold."""

    def __init__(self, items: Iterable[object], *, complete: bool = True) -> None:
        self.items = tuple(items)
        self.complete = complete
        """False where they were not listed."""
        self._told: dict[int | Ip, Truth] = {}

    @cached_property
    def _plain(self) -> frozenset[str | int]:
        return frozenset(item for item in map(_scalar_of, self.items) if item is not None)

    @cached_property
    def _compound(self) -> tuple[object, ...]:
        return tuple(item for item in self.items if _scalar_of(item) is None)

    def hold(self, value: Value, sets: Sets) -> Truth:
        """Whether `value` is among them."""
        if self.complete and not self.items:
            return False
        if not self.complete or value is UNKNOWN:
            return None
        if not isinstance(value, int | Ip):
            return _any(lies_in(value, item, sets) for item in self.items)
        if value not in self._told:
            self._told[value] = self._look_for(value, sets)
        return self._told[value]

    def _look_for(self, value: int | Ip, sets: Sets) -> Truth:
        # nft writes addresses in the form that Python gives them.
        if (_text(value) if isinstance(value, Ip) else value) in self._plain:
            return True
        many = len(self._compound) > MAX_ELEMENTS
        return None if many else _any(lies_in(value, item, sets) for item in self._compound)


Sets = Mapping[str, Elements]


def _text(address: Ip) -> str:
    if address.version == 4:
        return str(ipaddress.IPv4Address(address.number))
    return str(ipaddress.IPv6Address(address.number))


def _scalar_of(item: object) -> str | int | None:
    """The value of an element that is one, and nothing but one."""
    if isinstance(item, dict):
        body = item.get("elem")
        if not isinstance(body, dict) or _CONDITIONS & body.keys():
            return None
        item = body.get("val")
    # A plain "*" takes everything, a name that ends in one takes all that begin so.
    if isinstance(item, str):
        return None if item.endswith("*") or item.startswith("@") else item
    return item if isinstance(item, int) else None


# -- what the packet has


def value_of(expression: object, facts: Facts) -> Value:
    """Return what the left side of a match, or the key of a map, is for the packet."""
    kind, body = pair(expression)
    if isinstance(body, dict):
        look = _LOOK.get(kind)
        return look(body, facts) if look else UNKNOWN
    if kind == "&" and isinstance(body, list) and len(body) == 2:
        return _masked(value_of(body[0], facts), body)
    if kind == "concat" and isinstance(body, list):
        parts = tuple(value_of(part, facts) for part in body)
        return ABSENT if ABSENT in parts else parts
    return UNKNOWN


_Fields = Mapping[str, object]


def _payload(fields: _Fields, facts: Facts) -> Value:
    protocol, name = word(fields.get("protocol")), word(fields.get("field"))
    if protocol in ("ip", "ip6"):
        if facts["protocol"] != protocol:
            return ABSENT
        return facts.get("l4proto" if name in ("protocol", "nexthdr") else name, UNKNOWN)
    if protocol in ("th", facts["l4proto"]):
        return facts.get(name, UNKNOWN)
    return ABSENT if protocol in _PROTOCOLS or protocol in _OTHER_TRANSPORTS else UNKNOWN


def _meta(fields: _Fields, facts: Facts) -> Value:
    return facts.get(word(fields.get("key")), UNKNOWN)


def _connection(fields: _Fields, facts: Facts) -> Value:
    return UNKNOWN if "dir" in fields else facts.get(f"ct {word(fields.get('key'))}", UNKNOWN)


def _fib(fields: _Fields, facts: Facts) -> Value:
    flags = fields.get("flags")
    names = flags if isinstance(flags, list) else [flags]
    if fields.get("result") == "type" and "daddr" in names and "saddr" not in names:
        return facts.get("fib daddr", UNKNOWN)
    return UNKNOWN


def _extension(fields: _Fields, facts: Facts) -> Value:
    """Headers that neither our requests nor their answers have."""
    return ABSENT if facts["protocol"] != "ip6" or "field" in fields else False


def _option(fields: _Fields, facts: Facts) -> Value:
    return ABSENT if facts["protocol"] != "ip" or "field" in fields else False


_LOOK = {
    "payload": _payload,
    "meta": _meta,
    "ct": _connection,
    "fib": _fib,
    "exthdr": _extension,
    "ip option": _option,
}


def _masked(value: Value, body: list[object]) -> Value:
    left, mask = body
    result: Value = UNKNOWN
    if value is ABSENT:
        result = ABSENT
    elif isinstance(value, Bits):
        bits = _word(mask, value.names)
        result = UNKNOWN if bits is None else Bits(value.word & bits, value.names)
    elif isinstance(value, Ip):
        other = read_ip(mask)
        result = Ip(value.version, value.number & other.number) if other else UNKNOWN
    elif isinstance(mask, int) and isinstance(value, int):
        result = value & mask
    elif isinstance(mask, int) and _is_fragment_field(left) and 0 <= mask <= _FRAGMENT_OFFSET:
        result = 0  # neither our requests nor their answers come in fragments
    return result


def _is_fragment_field(expression: object) -> bool:
    kind, body = pair(expression)
    return kind == "payload" and isinstance(body, dict) and body.get("field") == "frag-off"


# -- whether it is what the rule asks for


def compare(operator: object, value: Value, pattern: object, sets: Sets) -> Truth:
    """Whether `value` stands to the right side of a match as `operator` says."""
    if value is ABSENT:
        return False
    if operator == "==":
        return lies_in(value, pattern, sets)
    if operator == "!=":
        return _not(lies_in(value, pattern, sets))
    if operator in ("in", "!"):
        if not isinstance(value, Bits):
            return lies_in(value, pattern, sets) if operator == "in" else None
        mask = _word(pattern, value.names)
        return None if mask is None else bool(value.word & mask) == (operator == "in")
    return _ordered(operator, value, pattern)


def _ordered(operator: object, value: Value, pattern: object) -> Truth:
    number = _as_number(value, pattern)
    if number is None or not isinstance(value, int | Ip):
        return None
    mine = value.number if isinstance(value, Ip) else value
    results = {
        "<": mine < number,
        ">": mine > number,
        "<=": mine <= number,
        ">=": mine >= number,
    }
    return results.get(word(operator))


def lies_in(value: Value, pattern: object, sets: Sets) -> Truth:
    """Whether `value` is the one, or among those, that `pattern` means."""
    if isinstance(pattern, str) and pattern.startswith("@"):
        elements = sets.get(pattern[1:])
        return None if elements is None else elements.hold(value, sets)
    kind, body = pair(pattern)
    if kind == "set":
        items = body if isinstance(body, list) else [body]
        return _any(lies_in(value, item, sets) for item in items)
    if kind == "elem" and isinstance(body, dict):
        truth = lies_in(value, body.get("val"), sets)
        return both(truth, None) if _CONDITIONS & body.keys() else truth
    if pattern == "*":
        return True
    return _is_one(value, pattern, sets)


def _is_one(value: Value, pattern: object, sets: Sets) -> Truth:
    kind, body = pair(pattern)
    if isinstance(value, Bits):
        wanted = _word(pattern, value.names)
        return None if wanted is None or not value.exact else value.word == wanted
    if isinstance(value, Nothing):
        return None
    return _within(value, kind, body) if kind else _same(value, pattern, sets)


def _within(value: Value, kind: str, body: object) -> Truth:
    if kind == "range" and isinstance(body, list) and len(body) == 2:
        return both(_ordered(">=", value, body[0]), _ordered("<=", value, body[1]))
    if kind == "prefix" and isinstance(body, dict) and isinstance(value, Ip):
        return _in_prefix(value, read_ip(body.get("addr")), body.get("len"))
    if kind == "concat" and isinstance(body, list) and isinstance(value, tuple):
        if len(body) != len(value):
            return None
        return _all(lies_in(part, other, {}) for part, other in zip(value, body, strict=True))
    return None


def _in_prefix(value: Ip, prefix: Ip | None, length: object) -> Truth:
    bits = _ADDRESS_BITS[value.version]
    if prefix is None or not isinstance(length, int) or not 0 <= length <= bits:
        return None
    if prefix.version != value.version:
        return False
    return value.number >> (bits - length) == prefix.number >> (bits - length)


def _same(value: Value, pattern: object, sets: Sets) -> Truth:
    if isinstance(pattern, list):
        return _any(lies_in(value, item, sets) for item in pattern)
    if isinstance(value, str):
        return _same_name(value, pattern)
    if isinstance(value, Ip):
        address = read_ip(pattern)
        return None if address is None else address == value
    number = _as_number(value, pattern)
    return None if number is None else number == value


def _same_name(value: str, pattern: object) -> Truth:
    number = _PROTOCOLS.get(value)
    if isinstance(pattern, int):
        return None if number is None else number == pattern
    if not isinstance(pattern, str):
        return None
    if pattern.isdecimal():
        return None if number is None else str(number) == pattern
    if pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    return value == _ALIASES.get(pattern, pattern)


def _as_number(value: Value, pattern: object) -> int | None:
    """The number that `pattern` stands for, where `value` is of a kind that has numbers."""
    if isinstance(value, Ip):
        address = read_ip(pattern)
        return address.number if address and address.version == value.version else None
    if not isinstance(value, int):
        return None
    if isinstance(pattern, str) and pattern.isdecimal() and len(pattern) <= _DIGITS:
        return int(pattern)
    return pattern if isinstance(pattern, int) else None


def _word(pattern: object, names: Mapping[str, int]) -> int | None:
    """The word of flags that `pattern` stands for; None where one of them is not known."""
    if isinstance(pattern, int):
        return pattern
    if isinstance(pattern, str):
        return names.get(pattern)
    kind, body = pair(pattern)
    parts = body if kind == "|" else pattern
    if not isinstance(parts, Sequence):
        return None
    result = 0
    for part in parts:
        bits = _word(part, names)
        if bits is None:
            return None
        result |= bits
    return result
