"""Rules of iptables, as iptables-save writes them, in the expressions of nftables.

For the legacy tables, which nft does not see, and for those of iptables-nft,
whose extensions (`-m multiport`, `-j REJECT`) nft lists without their meaning.
What is not understood becomes an expression that nobody understands either, so
that its match is unknown. Grammar: iptables-save(8), iptables-extensions(8).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

import msgspec

from .rules_match import word
from .rules_walk import Chain, Rule, RuleSet

__all__ = ["TABLES", "Save", "add_save", "plain_extension"]

TABLES = frozenset({"filter", "mangle", "nat", "raw", "security"})

_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
_NAT_PRIORITIES = {"PREROUTING": -100, "OUTPUT": -100, "INPUT": 100, "POSTROUTING": 100}
"""NF_IP_PRI_* of the kernel, which are the same for both IP versions."""

_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"(?!\S)|(\S+)')
_ESCAPE = re.compile(r"\\(.)")

_OPAQUE: dict[str, object] = {"xt": None}
_UNKNOWN_VERDICT: dict[str, object] = {"opaque": None}
_NO_SUCH_HEADER: dict[str, object] = {
    "match": {"op": "==", "left": {"payload": {"protocol": "ah"}}, "right": "*"}
}
_HEADER_MODULES = frozenset({"ah", "dst", "esp", "frag", "hbh", "mh", "rt"})
"""Those that ask for a header which neither our requests nor their answers have."""

_HARMLESS_MODULES = frozenset({"comment", "tcp", "udp", "multiport", "addrtype", "pkttype"}) | {
    *("conntrack", "state", "iprange", "icmp", "icmp6")
}
"""Those that ask for nothing but what their options say."""

_VERDICTS: dict[str, tuple[object, ...]] = {
    "ACCEPT": ({"accept": None},),
    "DROP": ({"drop": None},),
    "REJECT": ({"reject": None},),
    "RETURN": ({"return": None},),
    "QUEUE": ({"queue": None},),
    "NFQUEUE": ({"queue": None},),
    "TARPIT": ({"drop": None},),
    "STEAL": ({"drop": None},),
    "SNAT": ({"snat": None},),
    "MASQUERADE": ({"masquerade": None},),
    "SYNPROXY": ({"synproxy": None},),
    "NETMAP": ({"dnat": {"addr": None}},),
    "DNAT": ({"dnat": {"addr": None}},),
    "REDIRECT": ({"redirect": {"port": None}},),
    "TPROXY": ({"tproxy": None}, {"accept": None}),
    "NOTRACK": ({"notrack": None},),
}
_GO_ON = frozenset({"AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "DSCP", "ECN"}) | {
    *("HL", "HMARK", "IDLETIMER", "LED", "LOG", "MARK", "NFLOG", "RATEEST", "SECMARK", "SET"),
    *("TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL", "ULOG"),
}
"""Targets after which the packet goes on to the next rule."""


class Save(msgspec.Struct, frozen=True):
    """What iptables-save (4) or ip6tables-save (6) printed."""

    version: int
    text: str
    legacy: bool


def add_save(save: Save, ruleset: RuleSet) -> None:
    """Put the chains of `save` in place of those of the same name in `ruleset`."""
    table = _Table(save, "")
    for line in save.text.splitlines():
        if line.startswith("*"):
            table = _Table(save, line[1:].strip())
        elif line.startswith(":"):
            chain = table.chain(line)
            ruleset.chains[chain.family, chain.table, chain.name] = chain
        elif line.startswith("-A "):
            name = line[3:].partition(" ")[0]
            owner = ruleset.chains.get((table.family, table.key, name))
            if owner is not None:
                owner.rules.append(Rule(tuple(_expressions(line, save.version)), line))


def plain_extension(body: object, *, last: bool) -> tuple[object, ...]:
    """Return what an `xt` expression of a listing means, as far as its name tells.

    Old versions of nft do not name it: then the `last` of a rule may be its verdict.
    """
    fields = body if isinstance(body, dict) else {}
    name = word(fields.get("name"))
    if fields.get("type") == "match":
        return () if name == "comment" else (_OPAQUE,)
    if name in _GO_ON:
        return ()
    return _VERDICTS.get(name, (_UNKNOWN_VERDICT,) if last else (_OPAQUE,))


class _Table:
    """A table of a save, and how its chains are called here."""

    def __init__(self, save: Save, name: str) -> None:
        program = "iptables" if save.version == 4 else "ip6tables"
        self.family = "ip" if save.version == 4 else "ip6"
        # Both kinds of iptables may have a table of this name, and a packet passes both.
        self.key = f"legacy {name}" if save.legacy else name
        self.name = name
        self.label = f"{program}{'-legacy' if save.legacy else ''} table {name}"

    def chain(self, line: str) -> Chain:
        """Return the chain that a line such as `:INPUT DROP [0:0]` declares."""
        name, policy, *_ = [*line[1:].split(), "-", "-"]
        hook = name if name in _HOOKS and self.name in TABLES else ""
        priorities = _NAT_PRIORITIES if self.name == "nat" else {}
        return Chain(
            family=self.family,
            table=self.key,
            name=name,
            label=self.label,
            policy_text=f"{self.label}: -P {name} {policy}",
            hook=hook.lower(),
            kind="nat" if self.name == "nat" else "filter",
            priority=priorities.get(name, _PRIORITIES.get(self.name, 0)),
            drops=policy == "DROP",
        )


# -- one rule

_Build = Callable[[str, bool, int], object]


def _expressions(line: str, version: int) -> Iterator[object]:
    """Yield the expressions of a rule, `-A CHAIN ...`."""
    words = _words(line)
    if words is None:
        yield _OPAQUE
        yield _UNKNOWN_VERDICT
        return
    at, negated = 2, False
    while at < len(words):
        option = words[at]
        arguments = _arguments(words, at)
        at += 1 + len(arguments)
        if option == "!":
            negated = True
            continue
        if option in ("-j", "-g") and arguments:
            yield from _target(option, arguments[0], words[at:])
            return
        yield from _option(option, arguments, negated=negated, version=version)
        negated = False


def _words(line: str) -> list[str] | None:
    """The words of a line, quoted as xtables_save_string does; None where a quote has no end."""
    if '"' not in line:
        return line.split()
    words = []
    for quoted, plain in _WORD.findall(line):
        if plain.startswith('"'):
            return None
        words.append(plain or _ESCAPE.sub(r"\1", quoted))
    return words


def _arguments(words: list[str], at: int) -> list[str]:
    """The words after an option, up to the next one."""
    if words[at] == "!":
        return []
    if words[at] == "--comment":
        return words[at + 1 : at + 2]  # which may look like an option
    end = at + 1
    while end < len(words) and words[end] != "!" and not words[end].startswith("-"):
        end += 1
    return words[at + 1 : end]


def _option(option: str, arguments: list[str], *, negated: bool, version: int) -> Iterator[object]:
    if option == "-m":
        name = "".join(arguments)
        if name not in _HARMLESS_MODULES:
            yield _NO_SUCH_HEADER if name in _HEADER_MODULES else _OPAQUE
        return
    if option in ("--comment", "--limit-iface-in"):
        return
    if option == "--tcp-flags" and len(arguments) == 2:
        yield _tcp_flags(arguments[0], arguments[1], negated=negated)
        return
    if option == "-f":
        yield _fragment(negated=negated)
        return
    build = _OPTIONS.get(option)
    if build is None or len(arguments) != 1:
        yield _OPAQUE
        return
    yield build(arguments[0], negated, version)


def _match(left: object, right: object, *, negated: bool) -> object:
    return {"match": {"op": "!=" if negated else "==", "left": left, "right": right}}


def _payload(protocol: str, name: str) -> object:
    return {"payload": {"protocol": protocol, "field": name}}


def _meta(key: str) -> object:
    return {"meta": {"key": key}}


def _address(name: str) -> _Build:
    def build(text: str, negated: bool, version: int) -> object:  # noqa: FBT001  a table of these
        address, slash, length = text.partition("/")
        left = _payload("ip" if version == 4 else "ip6", name)
        if not slash:
            return _match(left, address, negated=negated)
        if length.isdecimal():
            prefix = {"prefix": {"addr": address, "len": int(length[:4])}}
            return _match(left, prefix, negated=negated)
        return _match({"&": [left, length]}, address, negated=negated)

    return build


def _interface(key: str) -> _Build:
    def build(text: str, negated: bool, _version: int) -> object:  # noqa: FBT001
        name = f"{text[:-1]}*" if text.endswith("+") else text
        return _match(_meta(key), name, negated=negated)

    return build


def _protocol(text: str, negated: bool, _version: int) -> object:  # noqa: FBT001
    return _match(_meta("l4proto"), "*" if text in ("all", "0") else text, negated=negated)


def _ports(name: str) -> _Build:
    def build(text: str, negated: bool, _version: int) -> object:  # noqa: FBT001
        items = [_span(part, ":") for part in text.split(",")]
        return _match(_payload("th", name), {"set": items}, negated=negated)

    return build


def _range(name: str) -> _Build:
    def build(text: str, negated: bool, version: int) -> object:  # noqa: FBT001
        left = _payload("ip" if version == 4 else "ip6", name)
        return _match(left, _span(text, "-"), negated=negated)

    return build


def _span(text: str, between: str) -> object:
    low, found, high = text.partition(between)
    return {"range": [low, high]} if found else low


def _states(text: str, negated: bool, _version: int) -> object:  # noqa: FBT001
    names = text.lower().split(",")
    # DNAT and SNAT are states to iptables, and stand elsewhere for the kernel.
    key = "status" if names in (["dnat"], ["snat"]) else "state"
    operator = "!" if negated else "in"
    return {"match": {"op": operator, "left": {"ct": {"key": key}}, "right": names}}


def _direction(text: str, negated: bool, _version: int) -> object:  # noqa: FBT001
    return _match({"ct": {"key": "direction"}}, text.lower(), negated=negated)


def _address_type(text: str, negated: bool, _version: int) -> object:  # noqa: FBT001
    left = {"fib": {"result": "type", "flags": ["daddr"]}}
    return _match(left, {"set": text.lower().split(",")}, negated=negated)


def _packet_type(text: str, negated: bool, _version: int) -> object:  # noqa: FBT001
    return _match(_meta("pkttype"), text, negated=negated)


def _tcp_flags(mask: str, wanted: str, *, negated: bool) -> object:
    left = {"&": [_payload("tcp", "flags"), _flags(mask)]}
    return _match(left, _flags(wanted), negated=negated)


def _flags(text: str) -> list[str]:
    if text == "ALL":
        return ["fin", "syn", "rst", "psh", "ack", "urg"]
    return [] if text == "NONE" else text.lower().split(",")


def _fragment(*, negated: bool) -> object:
    left = {"&": [_payload("ip", "frag-off"), 0x1FFF]}
    return _match(left, 0, negated=not negated)


_OPTIONS: dict[str, _Build] = {
    "-s": _address("saddr"),
    "-d": _address("daddr"),
    "-i": _interface("iifname"),
    "-o": _interface("oifname"),
    "-p": _protocol,
    "--sport": _ports("sport"),
    "--sports": _ports("sport"),
    "--dport": _ports("dport"),
    "--dports": _ports("dport"),
    "--src-range": _range("saddr"),
    "--dst-range": _range("daddr"),
    "--state": _states,
    "--ctstate": _states,
    "--ctdir": _direction,
    "--dst-type": _address_type,
    "--pkt-type": _packet_type,
}


def _target(option: str, name: str, rest: list[str]) -> tuple[object, ...]:
    if option == "-g":
        return ({"goto": {"target": name}},)
    if name in ("DNAT", "REDIRECT"):
        return (_destination(name, rest),)
    if name == "CT":
        return _VERDICTS["NOTRACK"] if "--notrack" in rest else ()
    if name in _GO_ON:
        return ()
    # What is no target is a chain. A target that is not known is a chain that is not there.
    return _VERDICTS.get(name, ({"jump": {"target": name}},))


def _destination(name: str, rest: list[str]) -> object:
    """The new destination that DNAT or REDIRECT give, None where it is one of several."""
    options = dict(itertools.pairwise(rest))
    if name == "REDIRECT":
        return {"redirect": {"port": _port(options.get("--to-ports", ""))}}
    text = options.get("--to-destination", "")
    address, port = text, ""
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    fields: dict[str, object] = {"addr": address} if address else {}
    return {"dnat": fields | ({"port": _port(port)} if port else {})}


def _port(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 6 else None
