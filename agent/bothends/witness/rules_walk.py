"""Follows a packet through a firewall's chains to the rule that ends it.

Base chains in the order of the kernel, their jumps, verdict maps and policies.
Each rule matches, does not match, or cannot be told; so a rule may be reached
for certain or perhaps, and match there for certain or perhaps. The first drop
that matches for certain wherever the packet comes to it is the one named; only
where there is none, the first that might match.
"""

from __future__ import annotations

import enum
import unicodedata
from collections.abc import Iterator
from functools import cached_property

import msgspec

from .rules_match import (
    ABSENT,
    CT_STATES,
    CT_STATUS,
    TCP_FLAGS,
    UNKNOWN,
    Bits,
    Elements,
    Facts,
    Ip,
    Nothing,
    Sets,
    Truth,
    both,
    compare,
    lies_in,
    pair,
    read_ip,
    value_of,
    word,
)

__all__ = ["Chain", "Packet", "Quote", "Rule", "RuleSet", "Walk"]

MAX_QUOTE = 300
"""Longest quote, in characters: a line that people still read."""

MAX_STEPS = 50_000
"""Rules, and elements of their sets, looked at for one packet, some tenths of a second's work:
jumps may meet the same chain again and again."""

MAX_DEPTH = 16
"""Jumps within each other (NFT_JUMP_STACK_SIZE in the kernel)."""

_CONNECTION = ("ct state", "ct status", "ct direction", "ct protocol", "ct l3proto")
_CONNTRACK_PRIORITY = -200
"""Where prerouting and output chains begin to know the connection (NF_IP_PRI_CONNTRACK)."""

_HOOKS = {"input": ("ingress", "prerouting"), "output": ("output", "postrouting", "egress")}
"""Passed by every packet that comes in, and that goes out."""

_FAMILIES = {4: ("inet", "ip", "netdev"), 6: ("inet", "ip6", "netdev")}

_DROPS = frozenset({"drop", "reject"})
_JUMPS = frozenset({"jump", "goto"})
_REWRITES = frozenset({"dnat", "redirect", "tproxy"})
_NAT = _REWRITES | {"snat", "masquerade"}
_OPAQUE = frozenset({"queue", "opaque"})
"""What may drop, and may not: a program decides, or it is not known what it does."""

_ACCEPTS = (_NAT - {"tproxy"}) | {"accept", "fwd", "queue", "synproxy"}
"""What ends the way through a base chain; the packet goes on to the next one."""

_ICMP_VERSIONS = {"icmp": "ip", "icmpv6": "ip6"}
_VERDICTS = _DROPS | _JUMPS | _REWRITES | _OPAQUE | _ACCEPTS | {"return"}
_GO_ON = frozenset({"tproxy", "opaque"})
"""Verdicts after which the rest of the rule is looked at."""

_NO_CONDITION = frozenset({"counter", "log", "last", "comment", "set", "map", "dup", "flow"}) | {
    *("continue", "ct expectation", "ct helper", "ct timeout", "secmark", "tunnel"),
}
"""Statements that let every packet go on to the next one."""


class Packet(msgspec.Struct, frozen=True):
    """The packet asked about: the first of a connection, or with `answer` the reply to it.

    Ports that are not known are None; so is an interface, which is the one that
    the packet comes in by or goes out by.
    """

    transport: str
    """`tcp` (a SYN, with `answer` a SYN-ACK) or `udp`."""
    source: str
    destination: str
    destination_port: int | None
    interface: str | None = None
    source_port: int | None = None
    answer: bool = False


class Quote(msgspec.Struct, frozen=True):
    """A rule as the firewall's own tool writes it, with where it stands before a colon."""

    text: str
    verdict: str
    """`drop` or `reject`."""
    certain: bool
    """Whether such a packet ends here for certain, as far as this rule set says; False where
    an earlier or this very rule asks for what cannot be told (a rate, a user, an ipset)."""


class Rule(msgspec.Struct, frozen=True):
    """One rule: expressions as in libnftables-json(5), and its text."""

    expressions: tuple[object, ...]
    text: str


class Chain(msgspec.Struct):
    """A chain; a base chain where it has a hook."""

    family: str
    table: str
    name: str
    label: str
    """Says where the rules of the chain stand, for quotes."""
    policy_text: str = ""
    hook: str = ""
    kind: str = "filter"
    priority: int = 0
    drops: bool = False
    """Whether its policy is to drop."""
    devices: tuple[str, ...] | None = None
    """For the hooks of one device: which; None where it is not known."""
    rules: list[Rule] = msgspec.field(default_factory=list)


class RuleSet(msgspec.Struct, dict=True):
    """All chains by family, table and name, in the order in which they were made."""

    chains: dict[tuple[str, str, str], Chain] = msgspec.field(default_factory=dict)
    sets: dict[tuple[str, str], dict[str, Elements]] = msgspec.field(default_factory=dict)
    """Sets by family and table, and by name; keys of maps too."""
    maps: dict[tuple[str, str], dict[str, list[object]]] = msgspec.field(default_factory=dict)
    """Maps by family and table, and by name: pairs of what they hold, as lists."""

    @cached_property
    def untracks(self) -> bool:
        """Whether any rule takes packets from connection tracking."""
        expressions = (e for c in self.chains.values() for r in c.rules for e in r.expressions)
        return any(pair(expression)[0] == "notrack" for expression in expressions)


class _Way(enum.Enum):
    """How a chain goes on after a rule."""

    NEXT = enum.auto()
    ENDED = enum.auto()
    RETURNED = enum.auto()
    MAYBE_RETURNED = enum.auto()


class _Place(msgspec.Struct, frozen=True):
    """A rule on the way."""

    chain: Chain
    rule: Rule
    sure: Truth
    """True where what is asked for on the way to its chain matches for certain."""
    depth: int

    @property
    def text(self) -> str:
        return f"{self.chain.label}: {self.rule.text}"


class Walk:
    """One packet's way through the chains of a hook, `input` or `output`."""

    def __init__(self, ruleset: RuleSet, hook: str, packet: Packet) -> None:
        self.quote: Quote | None = None
        self.nat: Truth = False
        """Whether a rule gives the packet another destination."""
        self._ruleset = ruleset
        self._packet = packet
        self._hooks = _HOOKS.get(hook, ())
        self._source, self._destination = read_ip(packet.source), read_ip(packet.destination)
        self._facts: Facts = {}
        self._base_chain = Chain("", "", "", "")
        self._untracked: Truth = False
        self._doubt = 0
        """Above 0: the packet may have gone another way before it comes here."""
        self._decided = False
        """Whether `quote` matches for certain: nothing goes on from there."""
        self._steps = 0

    def run(self) -> None:
        """Go all the way, or to the first drop that matches for certain."""
        self._go(self._hooks)
        if self._hooks == _HOOKS["input"]:
            self._go(self._inward())

    def run_prerouting(self) -> None:
        """Go through what may give the packet another destination, and no further."""
        self._go(_HOOKS["input"])
        early = self._decided and self.quote is not None and not self.quote.certain
        if self.nat is False and (early or self._tired):
            self.nat = None

    @property
    def _tired(self) -> bool:
        """Whether there was too much to look at, so that nothing more is said."""
        return self._steps > MAX_STEPS

    def _inward(self) -> tuple[str, ...]:
        """The hooks after prerouting: with a new destination the packet may be one for others."""
        moved = self._facts.get("daddr")
        if self.nat is False or moved == self._destination:
            return ("input",)
        self._doubt += 1
        return ("forward",) if isinstance(moved, Ip) else ("input", "forward")

    def _go(self, hooks: tuple[str, ...]) -> None:
        known = self._destination or self._source
        if known is None:
            return
        self._facts = self._facts or self._known(known.version)
        for hook in hooks:
            for chain in self._base_chains(hook, known.version):
                if self._decided or self._tired:
                    return
                self._base(chain)

    def _base_chains(self, hook: str, version: int) -> list[Chain]:
        # Of chains with one priority the latest comes first (nf_hook_entries_grow).
        latest_first = reversed(self._ruleset.chains.values())
        found = [c for c in latest_first if c.hook == hook and c.family in _FAMILIES[version]]
        if self._packet.answer:
            # Only the first packet of a connection is shown to these.
            found = [chain for chain in found if chain.kind != "nat"]
        return sorted(found, key=lambda chain: chain.priority)

    # -- what is known of the packet

    def _known(self, version: int) -> Facts:
        packet = self._packet
        flags = TCP_FLAGS["syn"] | (TCP_FLAGS["ack"] if packet.answer else 0)
        return {
            "saddr": self._source or UNKNOWN,
            "daddr": self._destination or UNKNOWN,
            "sport": UNKNOWN if packet.source_port is None else packet.source_port,
            "dport": UNKNOWN if packet.destination_port is None else packet.destination_port,
            "flags": Bits(flags, TCP_FLAGS),
            "version": version,
            "l4proto": packet.transport,
            "nfproto": f"ipv{version}",
            "protocol": "ip" if version == 4 else "ip6",
        }

    def _enter(self, chain: Chain) -> None:
        """Note what is known at a base chain beside what the packet has."""
        self._base_chain = chain
        outward = chain.hook in _HOOKS["output"]
        interface: str | Nothing = self._packet.interface or UNKNOWN
        onward: str | Nothing = UNKNOWN if chain.hook == "forward" else ""
        # The kernel gives an empty name where there is no such interface.
        way_in, way_out = ("", interface) if outward else (interface, onward)
        self._facts |= {"iif": way_in, "iifname": way_in, "oif": way_out, "oifname": way_out}
        self._facts["pkttype"] = UNKNOWN if outward else "host"
        here = chain.hook in ("prerouting", "input") and self.nat is False
        self._facts["fib daddr"] = "local" if here else UNKNOWN
        self._facts |= self._connection()

    def _connection(self) -> Facts:
        """What connection tracking says at a base chain (nft_ct_get_eval in the kernel)."""
        hook, priority = self._base_chain.hook, self._base_chain.priority
        early = priority - _CONNTRACK_PRIORITY if hook in ("prerouting", "output") else 1
        # The answer to a request that was not tracked is no answer to the kernel.
        unsure = self._untracked is None or (self._packet.answer and self._ruleset.untracks)
        if unsure or early == 0 or hook in ("ingress", "egress"):
            return dict.fromkeys(_CONNECTION, UNKNOWN)
        if not self._untracked and early > 0:
            return self._tracked()
        facts: Facts = dict.fromkeys(_CONNECTION, ABSENT)
        state = CT_STATES["untracked" if self._untracked else "invalid"]
        return facts | {"ct state": Bits(state, CT_STATES)}

    def _tracked(self) -> Facts:
        answer = self._packet.answer
        status = Bits(CT_STATUS["dnat"] if self.nat else 0, CT_STATUS, exact=False)
        return {
            "ct state": Bits(CT_STATES["established" if answer else "new"], CT_STATES),
            "ct status": UNKNOWN if answer or self.nat is None else status,
            "ct direction": "reply" if answer else "original",
            "ct protocol": self._facts["l4proto"],
            "ct l3proto": self._facts["nfproto"],
        }

    # -- chains

    def _base(self, chain: Chain) -> None:
        sure = self._comes_to(chain)
        if sure is False:
            return
        self._enter(chain)
        before = self._doubt
        ended = self._through(chain, sure, 0)
        if chain.drops and not ended and not self._tired:
            self._drop(chain.policy_text, "drop", sure)
        # What this chain accepted goes on to the next, like what it let pass.
        self._doubt = before

    def _comes_to(self, chain: Chain) -> Truth:
        if chain.hook == "forward":
            return self.nat
        if chain.hook not in ("ingress", "egress"):
            return True
        interface = self._packet.interface
        if chain.devices is None or interface is None:
            return None
        if interface in chain.devices:
            return True
        # What belongs to a VLAN passes its card first.
        return None if interface.partition(".")[0] in chain.devices else False

    def _through(self, chain: Chain, sure: Truth, depth: int) -> bool:
        """Go through a chain; return whether nothing that matches on the way in comes out again.

        `sure`: True where what is asked for on the way in matches for certain.
        """
        before = self._doubt
        leaks = 0
        ended = False
        for rule in chain.rules:
            self._steps += 1
            if self._tired or self._decided:
                break
            way = self._rule(_Place(chain, rule, sure, depth))
            if way is _Way.MAYBE_RETURNED and not leaks:
                leaks = 1
                self._doubt += 1
            if way in (_Way.ENDED, _Way.RETURNED):
                ended = way is _Way.ENDED and not leaks
                break
        # What returned early is back with the rest; what was accepted is not.
        self._doubt = max(before, self._doubt - leaks)
        return ended

    def _rule(self, place: _Place) -> _Way:
        matches: Truth = True
        for expression in place.rule.expressions:
            verdicts = self._verdicts(expression, place)
            if verdicts is None:
                matches = both(matches, self._condition(expression, place, matches))
                if matches is False:
                    break
                continue
            found = [(v, both(matches, truth)) for v, truth in verdicts if truth is not False]
            way = _together([self._apply(verdict, truth, place) for verdict, truth in found], found)
            if way is not _Way.NEXT or pair(expression)[0] not in _GO_ON:
                return way
        return _Way.NEXT

    def _verdicts(self, expression: object, place: _Place) -> list[tuple[object, Truth]] | None:
        """The verdicts it may give, each with whether it does; None where it is a condition."""
        kind, body = pair(expression)
        if kind == "vmap":
            return list(self._mapped(body, place.chain))
        if kind in _NAT:
            return [(expression, self._has_target(body, place.chain))]
        if kind == "reject" and isinstance(body, dict):
            # With ICMP of one IP version it asks for that version, though nft does not say so.
            wanted = _ICMP_VERSIONS.get(word(body.get("type")), self._facts["protocol"])
            return [(expression, wanted == self._facts["protocol"])]
        return [(expression, True)] if kind in _VERDICTS else None

    def _has_target(self, body: object, chain: Chain) -> Truth:
        """Whether NAT takes such a packet: its family, and the maps that say where to, if any."""
        fields = body if isinstance(body, dict) else {}
        result: Truth = fields.get("family") in (None, self._facts["protocol"])
        for part in fields.values():
            kind, found = pair(part)
            if kind == "map" and isinstance(found, dict):
                items = self._items(found.get("data"), chain)
                keys = None if items is None else [i[0] for i in items if isinstance(i, list) and i]
                key = value_of(found.get("key"), self._facts)
                here = None if keys is None else compare("==", key, {"set": keys}, {})
                result = both(result, here)
        return result

    def _mapped(self, body: object, chain: Chain) -> Iterator[tuple[object, Truth]]:
        fields = body if isinstance(body, dict) else {}
        key = value_of(fields.get("key"), self._facts)
        items = self._items(fields.get("data"), chain)
        if key is ABSENT:
            return
        if items is None:
            yield {"opaque": None}, None
            return
        otherwise: object = None
        unsure = False
        for item in items:
            name, verdict = item if isinstance(item, list) and len(item) == 2 else (None, None)
            if name == "*":
                otherwise = verdict
                continue
            truth = lies_in(key, name, self._sets(chain))
            if truth is not False:
                yield verdict, truth
            if truth is True:
                return
            unsure = unsure or truth is None
        if otherwise is not None:
            yield otherwise, None if unsure else True

    def _items(self, data: object, chain: Chain) -> list[object] | None:
        """The elements of a verdict map; None where they are not known."""
        if isinstance(data, str):
            maps = self._ruleset.maps.get((chain.family, chain.table), {})
            return maps.get(data.removeprefix("@"))
        _, items = pair(data)
        if not isinstance(items, list):
            return None
        self._steps += len(items)
        return items

    def _sets(self, chain: Chain) -> Sets:
        return self._ruleset.sets.get((chain.family, chain.table), {})

    def _condition(self, expression: object, place: _Place, matches: Truth) -> Truth:
        """Whether the rule goes on after an expression that gives no verdict."""
        kind, body = pair(expression)
        fields = body if isinstance(body, dict) else {}
        if kind == "match":
            value, right = value_of(fields.get("left"), self._facts), fields.get("right")
            _, elements = pair(right)
            self._steps += len(elements) if isinstance(elements, list) else 0
            return compare(fields.get("op"), value, right, self._sets(place.chain))
        if kind == "notrack":
            sure = both(place.sure, matches) and not self._doubt
            self._untracked = True if sure else None
            self._facts |= self._connection()
            return True
        if kind == "mangle":
            self._forget(fields.get("key"))
            # A packet that is not in the map does not match.
            return None if pair(fields.get("value"))[0] == "map" else True
        if kind in ("set", "map"):
            return None if "stmt" in fields else True
        return True if kind in _NO_CONDITION else None

    def _forget(self, key: object) -> None:
        """A rule writes into the packet: what stood there is not known any more."""
        kind, body = pair(key)
        if isinstance(body, dict):
            name = word(body.get("field", body.get("key")))
            self._facts[f"ct {name}" if kind == "ct" else name] = UNKNOWN

    # -- verdicts

    def _apply(self, verdict: object, matches: Truth, place: _Place) -> _Way:
        kind, body = pair(verdict)
        sure = both(place.sure, matches)
        if kind in _DROPS:
            self._drop(place.text, kind, sure)
        elif kind in _OPAQUE:
            self._drop(place.text, "drop", None)
        elif kind in _REWRITES:
            self._rewrite(kind, body, sure)
        if kind in _JUMPS:
            return self._jump(verdict, matches, place)
        if kind in _ACCEPTS:
            self._doubt += 1
        if kind in _ACCEPTS or kind in _DROPS:
            return _Way.ENDED if matches else _Way.NEXT
        if kind == "return":
            return _Way.RETURNED if matches else _Way.MAYBE_RETURNED
        return _Way.NEXT

    def _jump(self, verdict: object, matches: Truth, place: _Place) -> _Way:
        kind, body = pair(verdict)
        name = body.get("target") if isinstance(body, dict) else None
        target = self._ruleset.chains.get((place.chain.family, place.chain.table, word(name)))
        if target is None or place.depth >= MAX_DEPTH:
            self._drop(place.text, "drop", None)
            return _Way.NEXT
        ended = self._through(target, both(place.sure, matches), place.depth + 1)
        if matches and ended:
            return _Way.ENDED
        if kind == "jump":
            return _Way.NEXT
        return _Way.RETURNED if matches else _Way.MAYBE_RETURNED

    def _drop(self, text: str, verdict: str, matches: Truth) -> None:
        """The packet ends here where `matches` says so, if it comes here."""
        if self._decided:
            return
        certain = matches is True and not self._doubt and self.quote is None
        if matches is True or self.quote is None:
            self.quote = Quote(_clean(text), verdict, certain)
        self._decided = matches is True

    def _rewrite(self, kind: str, body: object, matches: Truth) -> None:
        """Give the packet the destination that a rule of NAT says."""
        if self._packet.answer:
            return
        sure = matches is True and not self._doubt
        self.nat = True if sure or self.nat else None
        if kind == "tproxy":
            return  # goes to a socket of this host as it is
        fields = body if isinstance(body, dict) else {}
        address, port = read_ip(fields.get("addr")), fields.get("port")
        if not sure:
            self._facts |= {"daddr": UNKNOWN, "dport": UNKNOWN}
        elif "addr" in fields:
            self._facts["daddr"] = address or UNKNOWN
        if sure and "port" in fields:
            self._facts["dport"] = port if isinstance(port, int) else UNKNOWN
        elif "addr" in fields and address is None:
            # A map may give the port with the address.
            self._facts["dport"] = UNKNOWN
        if self._base_chain.hook == "output":
            self._facts |= {"oif": UNKNOWN, "oifname": UNKNOWN}


def _together(ways: list[_Way], found: list[tuple[object, Truth]]) -> _Way:
    """How a rule goes on that gives one of several verdicts."""
    if len(ways) == 1 and found[0][1] is True:
        return ways[0]
    if _Way.RETURNED in ways or _Way.MAYBE_RETURNED in ways:
        return _Way.MAYBE_RETURNED
    return _Way.NEXT


def _clean(text: str) -> str:
    """Return one printable line of at most `MAX_QUOTE` characters."""
    line = " ".join(text.split())
    line = "".join(char for char in line if unicodedata.category(char)[0] != "C")
    return line if len(line) <= MAX_QUOTE else f"{line[: MAX_QUOTE - 1]}…"
