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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

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
    Truth,
    both,
    compare,
    lies_in,
    pair,
    read_ip,
    value_of,
)

__all__ = ["Chain", "Packet", "Quote", "Rule", "RuleSet", "Walk"]

MAX_QUOTE = 300
"""Longest quote, in characters: a line that people still read."""

MAX_STEPS = 50_000
"""Rules looked at for one packet, a tenth of a second's work: jumps may meet the same chain
again and again."""

MAX_DEPTH = 16
"""Jumps within each other (NFT_JUMP_STACK_SIZE in the kernel)."""

_IPV4, _IPV6 = 4, 6
_CONNTRACK_PRIORITY = -200
"""Where prerouting and output chains begin to know the connection (NF_IP_PRI_CONNTRACK)."""

_HOOKS = {"input": ("ingress", "prerouting"), "output": ("output", "postrouting", "egress")}
"""Passed by every packet that comes in, and that goes out."""

_FAMILIES = {_IPV4: ("inet", "ip", "netdev"), _IPV6: ("inet", "ip6", "netdev")}

_DROPS = {"drop": "drop", "reject": "reject", "DROP": "drop", "REJECT": "reject"}
_REWRITES = frozenset({"dnat", "redirect"})
_ACCEPTS = frozenset({"accept", "snat", "masquerade", "synproxy", "fwd"}) | _REWRITES
_JUMPS = frozenset({"jump", "goto"})
_NO_CONDITION = frozenset({"counter", "log", "last", "comment", "set", "map", "dup", "flow"}) | {
    *("secmark", "ct helper", "ct timeout", "ct expectation", "tunnel", "continue", "xt no effect")
}
"""Statements that let every packet go on to the next one."""


@dataclass(frozen=True)
class Packet:
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


@dataclass(frozen=True)
class Quote:
    """A rule as the firewall's own tool writes it, with where it stands before a colon."""

    text: str
    verdict: str
    """`drop` or `reject`."""
    certain: bool
    """Whether such a packet ends here for certain, as far as this rule set says; False where
    an earlier or this very rule asks for what cannot be told (a rate, a user, an ipset)."""


@dataclass(frozen=True)
class Rule:
    """One rule: expressions as in libnftables-json(5), and its text."""

    expressions: tuple[object, ...]
    text: str


@dataclass
class Chain:
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
    rules: list[Rule] = field(default_factory=list)


@dataclass
class RuleSet:
    """All chains by family, table and name, in the order in which they were made."""

    chains: dict[tuple[str, str, str], Chain] = field(default_factory=dict)
    sets: dict[tuple[str, str], dict[str, Elements]] = field(default_factory=dict)
    """Sets by family and table, and by name; keys of maps too."""
    maps: dict[tuple[str, str], dict[str, object]] = field(default_factory=dict)
    """Verdict maps: their elements as they stand in the listing."""


class _Way(enum.Enum):
    """How a chain goes on after a rule."""

    NEXT = enum.auto()
    ENDED = enum.auto()
    RETURNED = enum.auto()
    MAYBE_RETURNED = enum.auto()


class Walk:
    """One packet's way through the chains of a hook, `input` or `output`."""

    def __init__(self, ruleset: RuleSet, hook: str, packet: Packet) -> None:
        self.quote: Quote | None = None
        self.nat: Truth = False
        """Whether a rule gives the packet another destination."""
        self._ruleset = ruleset
        self._packet = packet
        self._hooks = _HOOKS.get(hook, ())
        self._ends = read_ip(packet.source), read_ip(packet.destination)
        self._facts: Facts = {}
        self._chain = Chain("", "", "", "")
        self._untracked: Truth = False
        self._doubt = 0
        """Above 0: the packet may have gone another way before it comes here."""
        self._steps = 0

    def run(self) -> None:
        """Go all the way, or to the first drop that matches for certain."""
        self._go(self._hooks)
        if self._hooks == _HOOKS["input"] and not self._found:
            self._go(self._inward())

    def run_prerouting(self) -> None:
        """Go through what may give the packet another destination, and no further."""
        self._go(_HOOKS["input"])

    @property
    def _found(self) -> bool:
        return self.quote is not None and self._decided

    _decided = False

    def _inward(self) -> tuple[str, ...]:
        """The hooks after prerouting: a packet with a new destination may be one for others."""
        if self.nat is False:
            return ("input",)
        destination = self._ends[1]
        moved = self._facts.get("daddr")
        if moved == destination:
            return ("input",)
        self._doubt += 1
        return ("forward",) if isinstance(moved, Ip) else ("input", "forward")

    def _go(self, hooks: tuple[str, ...]) -> None:
        version = self._version()
        if version is None:
            return
        if not self._facts:
            self._facts = self._known(version)
        for hook in hooks:
            for chain in self._base_chains(hook, version):
                self._base(chain)
                if self._decided:
                    return

    def _version(self) -> int | None:
        source, destination = self._ends
        known = destination or source
        return known.version if known else None

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
        word = TCP_FLAGS["syn"] | (TCP_FLAGS["ack"] if packet.answer else 0)
        source, destination = self._ends
        return {
            "saddr": source or UNKNOWN,
            "daddr": destination or UNKNOWN,
            "sport": UNKNOWN if packet.source_port is None else packet.source_port,
            "dport": UNKNOWN if packet.destination_port is None else packet.destination_port,
            "flags": Bits(word, TCP_FLAGS) if packet.transport == "tcp" else UNKNOWN,
            "version": version,
            "l4proto": packet.transport,
            "nfproto": f"ipv{version}",
            "protocol": "ip" if version == _IPV4 else "ip6",
            "ct protocol": packet.transport,
            "ct l3proto": f"ipv{version}",
        }

    def _enter(self, chain: Chain) -> None:
        """Note what is known at a base chain beside what the packet has."""
        outward = chain.hook in _HOOKS["output"]
        interface: str | Nothing = self._packet.interface or UNKNOWN
        onward: str | Nothing = UNKNOWN if chain.hook == "forward" else ""
        # The kernel gives an empty name where there is no such interface.
        way_in, way_out = ("", interface) if outward else (interface, onward)
        self._chain = chain
        self._facts |= {"iif": way_in, "iifname": way_in, "oif": way_out, "oifname": way_out}
        self._facts |= {"pkttype": UNKNOWN if outward else "host"}
        here = chain.hook in ("prerouting", "input") and self.nat is False
        self._facts["fib daddr"] = "local" if here else UNKNOWN
        self._facts |= self._connection(chain)

    def _connection(self, chain: Chain) -> Facts:
        """What connection tracking says at a base chain (nft_ct_get_eval in the kernel)."""
        begins = chain.hook in ("prerouting", "output")
        if chain.hook in ("ingress", "egress") or self._untracked is None:
            return {"ct state": UNKNOWN, "ct status": UNKNOWN, "ct direction": UNKNOWN}
        if self._untracked:
            return self._untracked_facts("untracked")
        if begins and chain.priority < _CONNTRACK_PRIORITY:
            return self._untracked_facts("invalid")
        if begins and chain.priority == _CONNTRACK_PRIORITY:
            return {"ct state": UNKNOWN, "ct status": UNKNOWN, "ct direction": UNKNOWN}
        answer = self._packet.answer
        status = CT_STATUS["dnat"] if self.nat else 0
        return {
            "ct state": Bits(CT_STATES["established" if answer else "new"], CT_STATES),
            "ct direction": "reply" if answer else "original",
            "ct status": UNKNOWN
            if answer or self.nat is None
            else Bits(status, CT_STATUS, exact=False),
        }

    @staticmethod
    def _untracked_facts(state: str) -> Facts:
        bits = Bits(CT_STATES[state], CT_STATES)
        return {"ct state": bits, "ct status": ABSENT, "ct direction": ABSENT}

    # -- chains

    def _base(self, chain: Chain) -> None:
        here = self._on_device(chain)
        if here is False:
            return
        self._enter(chain)
        before = self._doubt
        ended = self._through(chain, here, 0)
        if not ended and not self._decided and chain.drops:
            self._drop(chain.policy_text, "drop", here)
        # What this chain accepted goes on to the next, like what it let pass.
        self._doubt = before

    def _on_device(self, chain: Chain) -> Truth:
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
        """Go through a chain; return whether no packet that enters it comes out of it.

        `sure`: True where everything asked for on the way into it matches for certain.
        """
        leaks = 0
        ended = False
        for rule in chain.rules:
            self._steps += 1
            if self._steps > MAX_STEPS or self._decided:
                break
            way = self._rule(rule, chain, sure, depth)
            if way is _Way.MAYBE_RETURNED and not leaks:
                leaks = 1
                self._doubt += 1
            if way in (_Way.ENDED, _Way.RETURNED):
                ended = way is _Way.ENDED and not leaks
                break
        self._doubt -= leaks
        return ended

    def _rule(self, rule: Rule, chain: Chain, sure: Truth, depth: int) -> _Way:
        matches: Truth = True
        for number, expression in enumerate(rule.expressions, start=1):
            last = number == len(rule.expressions)
            verdicts = self._verdicts(expression, chain, matches, last=last)
            if verdicts is not None:
                ways = [
                    self._apply(verdict, truth, (rule, chain), sure, depth)
                    for verdict, truth in verdicts
                ]
                way = _together(ways, verdicts)
                if way is not _Way.NEXT or not _goes_on(expression):
                    return way
                continue
            matches = both(matches, self._condition(expression, chain, matches))
            if matches is False:
                break
        return _Way.NEXT

    def _verdicts(
        self, expression: object, chain: Chain, matches: Truth, *, last: bool
    ) -> list[tuple[object, Truth]] | None:
        """The verdicts an expression may give, each with whether it does; None: it gives none."""
        kind, body = pair(expression)
        if kind == "vmap":
            return [(v, both(matches, truth)) for v, truth in self._mapped(body, chain)]
        if kind == "xt":
            verdict = _xt_verdict(body, last=last)
            return None if verdict is None else [(verdict, matches)]
        if kind in _DROPS or kind in _ACCEPTS or kind in _JUMPS:
            return [(expression, matches)]
        if kind in ("return", "queue", "tproxy"):
            return [(expression, matches)]
        return None

    def _mapped(self, body: object, chain: Chain) -> Iterator[tuple[object, Truth]]:
        fields = body if isinstance(body, dict) else {}
        key = value_of(fields.get("key"), self._facts)
        if key is ABSENT:
            return
        sets = self._ruleset.sets.get((chain.family, chain.table), {})
        left: Truth = True
        otherwise: object = None
        for item in self._elements(fields.get("data"), chain):
            if not isinstance(item, list) or len(item) != 2:
                continue
            if item[0] == "*":
                otherwise = item[1]
                continue
            truth = lies_in(key, item[0], sets)
            if truth is not False:
                yield item[1], truth
                left = None
            if truth is True:
                return
        if otherwise is not None:
            yield otherwise, left

    def _elements(self, data: object, chain: Chain) -> list[object]:
        if isinstance(data, str):
            maps: Mapping[str, object] = self._ruleset.maps.get((chain.family, chain.table), {})
            data = maps.get(data.removeprefix("@"))
        else:
            _, data = pair(data)
        return data if isinstance(data, list) else []

    def _condition(self, expression: object, chain: Chain, matches: Truth) -> Truth:
        """Whether the rule goes on after an expression that gives no verdict."""
        kind, body = pair(expression)
        if kind == "match" and isinstance(body, dict):
            sets = self._ruleset.sets.get((chain.family, chain.table), {})
            value = value_of(body.get("left"), self._facts)
            return compare(body.get("op"), value, body.get("right"), sets)
        if kind == "mangle" and isinstance(body, dict):
            self._forget(body.get("key"))
            return True
        if kind == "notrack":
            self._untracked = True if matches and not self._doubt else None
            self._facts |= self._connection(self._chain)
            return True
        if kind in ("set", "map") and isinstance(body, dict):
            return None if "stmt" in body else True
        return True if kind in _NO_CONDITION else None

    def _forget(self, key: object) -> None:
        """A rule writes into the packet: what stood there is not known any more."""
        kind, body = pair(key)
        if isinstance(body, dict):
            name = str(body.get("field", body.get("key")))
            self._facts[f"ct {name}" if kind == "ct" else name] = UNKNOWN

    # -- verdicts

    def _apply(
        self, verdict: object, matches: Truth, place: tuple[Rule, Chain], sure: Truth, depth: int
    ) -> _Way:
        kind, body = pair(verdict)
        rule, chain = place
        ends = _Way.ENDED if matches else _Way.NEXT
        if kind in _DROPS:
            self._drop(f"{chain.label}: {rule.text}", _DROPS[kind], both(sure, matches))
            return ends
        if kind == "queue":
            # A program decides. What it lets go on, goes on to the next base chain.
            self._drop(f"{chain.label}: {rule.text}", "drop", None)
        if kind in _REWRITES or kind == "tproxy":
            self._rewrite(kind, body, both(sure, matches))
        if kind in _ACCEPTS or kind == "queue":
            self._doubt += 1
            return ends
        if kind in _JUMPS:
            return self._jump(kind, body, chain, (matches, sure), depth)
        if kind == "return":
            return _Way.RETURNED if matches else _Way.MAYBE_RETURNED
        return _Way.NEXT

    def _jump(
        self, kind: str, body: object, chain: Chain, truths: tuple[Truth, Truth], depth: int
    ) -> _Way:
        matches, sure = truths
        name = body.get("target") if isinstance(body, dict) else None
        target = self._ruleset.chains.get((chain.family, chain.table, str(name)))
        if target is None or depth >= MAX_DEPTH:
            self._doubt += 1
            return _Way.NEXT
        ended = self._through(target, both(sure, matches), depth + 1)
        if matches and ended:
            return _Way.ENDED
        if kind == "jump":
            return _Way.NEXT
        return _Way.RETURNED if matches else _Way.MAYBE_RETURNED

    def _drop(self, text: str, verdict: str, matches: Truth) -> None:
        if self._decided:
            return
        self._decided = matches is True
        if self._decided or self.quote is None:
            certain = self._decided and not self._doubt and self.quote is None
            self.quote = Quote(_clean(text), verdict, certain)

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
        if kind == "redirect":
            # Its new destination is this host, at whichever of its addresses.
            self._facts["daddr"] = self._ends[1] or UNKNOWN
        elif "addr" in fields or not sure:
            self._facts["daddr"] = address if sure and address else UNKNOWN
        if "port" in fields or not sure or "addr" not in fields:
            self._facts["dport"] = port if sure and isinstance(port, int) else UNKNOWN
        if self._chain.hook == "output":
            self._facts |= {"oif": UNKNOWN, "oifname": UNKNOWN}


def _together(ways: list[_Way], verdicts: list[tuple[object, Truth]]) -> _Way:
    """How a rule goes on that gives one of several verdicts."""
    if len(ways) == 1 and verdicts[0][1] is True:
        return ways[0]
    if any(way in (_Way.RETURNED, _Way.MAYBE_RETURNED) for way in ways):
        return _Way.MAYBE_RETURNED
    return _Way.NEXT


def _goes_on(expression: object) -> bool:
    """Whether what stands after a verdict in the same rule is looked at."""
    return pair(expression)[0] == "tproxy"


def _xt_verdict(body: object, *, last: bool) -> object:
    """The verdict of an expression of iptables that nft cannot show otherwise; None: none."""
    fields = body if isinstance(body, dict) else {}
    name = str(fields.get("name"))
    if fields.get("type") == "match" or not last:
        return None
    return {"REJECT": {"reject": None}, "DNAT": {"dnat": None}, "REDIRECT": {"redirect": None}}.get(
        name
    )


def _clean(text: str) -> str:
    """Return one printable line of at most `MAX_QUOTE` characters."""
    line = " ".join(text.split())
    line = "".join(char for char in line if unicodedata.category(char)[0] != "C")
    return line if len(line) <= MAX_QUOTE else f"{line[: MAX_QUOTE - 1]}…"
