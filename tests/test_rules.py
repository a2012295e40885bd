"""Quoting the rule that matches: as the kernel does it, and never a word too much."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bothends.witness import rules, rules_walk
from bothends.witness.rules import Packet, Quote, RuleSet, find, nat_of, ruleset_of
from bothends.witness.rules_iptables import Save
from rules_random import iptables_rules, nft_rules

DRIVER = Path(__file__).with_name("rules_driver.py")
SYN = Packet("tcp", "10.99.0.2", "10.99.0.1", 4242, "v0", 40000)
PROBES: list[dict[str, object]] = [
    {"way": way, "version": version, "port": port}
    for way in ("in", "out")
    for version in (4, 6)
    for port in (22, 80, 4242, 5000)
]


# -- against the kernel


@dataclass(frozen=True)
class Shape:
    """A rule set, and what is said of a connection to port 4242."""

    name: str
    text: str | None
    """What the quote holds, None for none."""
    nft: str = ""
    commands: tuple[str, ...] = ()
    front_end: str | None = None
    mode: str = "in"
    certain: bool = True
    way: str = "in"
    version: int = 4
    packet: str = "request"
    nat: bool | None = False

    def case(self) -> dict[str, Any]:
        commands = [["nft", self.nft]] if self.nft else []
        commands += [["sh", "-c", line] for line in self.commands]
        return {
            "commands": commands,
            "front_end": self.front_end,
            "mode": self.mode,
            "probes": PROBES,
        }


def chain(
    *lines: str, hook: str = "input", policy: str = "accept", priority: str = "filter"
) -> str:
    head = f"type filter hook {hook} priority {priority}; policy {policy};"
    return "\n".join([f"chain {hook} {{", head, *lines, "}"])


def table(*parts: str, family: str = "inet") -> str:
    return "\n".join([f"table {family} filter {{", *parts, "}"])


def card(hook: str, device: str) -> str:
    head = f'type filter hook {hook} device "{device}" priority filter;'
    return table("chain card {", head, "tcp dport 4242 drop", "}", family="netdev")


def nat(rule: str) -> str:
    head = "type nat hook prerouting priority dstnat;"
    return f"chain nat {{\n{head}\n{rule}\n}}"


BASIC = (
    "ct state vmap { established : accept, related : accept, invalid : drop }",
    "iif lo accept",
)
RANGES = "type ipv4_addr; flags interval; elements = { 9.9.9.9, 10.99.0.0/29 }"
PORT_MAP = "type inet_service : verdict; elements = { 22 : accept, 4242 : drop }"
EVEN = ", ".join(str(port) for port in range(2, 4300, 2))

NFT = [
    Shape("nothing", None, nft=table()),
    Shape("port", "chain input: tcp dport 4242 drop", nft=table(chain("tcp dport 4242 drop"))),
    Shape(
        "reset",
        "chain input: tcp dport 4242 reject with tcp reset",
        nft=table(chain("tcp dport 4242 reject with tcp reset")),
    ),
    Shape("ICMP", "tcp dport 4242 reject", nft=table(chain("tcp dport 4242 reject"))),
    Shape(
        "ICMP of the other version",
        None,
        nft=table(chain("tcp dport 4242 reject with icmpv6 port-unreachable")),
    ),
    Shape("policy", "chain input: policy drop", nft=table(chain(*BASIC, policy="drop"))),
    Shape(
        "policy, let in",
        None,
        nft=table(chain(*BASIC, "tcp dport { 22, 4000-4300 } accept", policy="drop")),
    ),
    Shape(
        "first of two",
        "chain input: ip saddr 10.99.0.0/24 drop",
        nft=table(chain("ip saddr 10.99.0.0/24 drop", "tcp dport 4242 drop")),
    ),
    Shape(
        "this peer only",
        "ip saddr 10.99.0.2 tcp dport 4242 drop",
        nft=table(chain("ip saddr 10.99.0.2 tcp dport 4242 drop")),
    ),
    Shape("another peer only", None, nft=table(chain("ip saddr 10.99.0.9 tcp dport 4242 drop"))),
    Shape(
        "IPv6",
        "ip6 saddr fd99::/64 tcp dport 4242 drop",
        nft=table(chain("ip6 saddr fd99::/64 tcp dport 4242 drop")),
        version=6,
    ),
    Shape(
        "named set",
        "ip saddr @bad drop",
        nft=table(f"set bad {{ {RANGES}; }}", chain("ip saddr @bad drop")),
    ),
    Shape(
        "empty set",
        None,
        nft=table("set bad { type ipv4_addr; }", chain("ip saddr @bad drop")),
    ),
    Shape(
        "named map",
        "tcp dport vmap @ports",
        nft=table(f"map ports {{ {PORT_MAP}; }}", chain("tcp dport vmap @ports")),
    ),
    Shape("long set", "tcp dport { 2, 4, 6", nft=table(chain(f"tcp dport {{ {EVEN} }} drop"))),
    Shape(
        "jump, return, goto",
        "chain last: drop",
        nft=table(
            "chain last { drop; }",
            "chain first { tcp dport 22 return; goto last; }",
            chain("tcp dport { 22, 4242 } jump first"),
        ),
    ),
    Shape(
        "accepted before",
        "chain input: tcp dport 4242 drop",
        nft=table(
            "chain early { type filter hook input priority -5; accept; }",
            chain("tcp dport 4242 drop"),
        ),
    ),
    Shape(
        "raw",
        "chain prerouting: tcp dport 4242 drop",
        nft=table(chain("tcp dport 4242 drop", hook="prerouting", priority="raw")),
    ),
    Shape("card", "table netdev filter chain card: tcp dport 4242 drop", nft=card("ingress", "v0")),
    Shape("another card", None, nft=card("ingress", "lo")),
    Shape("card, out", "chain card: tcp dport 4242 drop", nft=card("egress", "v0"), way="out"),
    Shape(
        "answer",
        "chain output: tcp sport 4242 drop",
        nft=table(chain("tcp sport 4242 drop", hook="output")),
        packet="answer",
    ),
    Shape(
        "out",
        "chain output: ip daddr 10.99.0.2 tcp dport 4242 reject",
        nft=table(chain("ip daddr 10.99.0.2 tcp dport 4242 reject", hook="output")),
        way="out",
    ),
    Shape(
        "answer comes in",
        "chain input: tcp sport 4242 drop",
        nft=table(chain("tcp sport 4242 drop")),
        way="out",
        packet="answer",
    ),
    Shape(
        "rate",
        "limit rate over 1000/second",
        nft=table(chain("tcp dport 4242 limit rate over 1000/second drop")),
        certain=False,
    ),
    Shape(
        "beyond a rate",
        "chain input: policy drop",
        nft=table(chain(*BASIC, "limit rate 1/hour burst 1 packets accept", policy="drop")),
        certain=False,
    ),
    Shape(
        "after a mark",
        "tcp dport 4242 drop",
        nft=table(chain("meta mark 7 drop", "tcp dport 4242 drop")),
        certain=False,
    ),
    Shape(
        "redirected past",
        None,
        nft=table(nat("tcp dport 4242 redirect to :5000"), chain("tcp dport 4242 drop")),
        nat=True,
    ),
    Shape(
        "redirected into",
        "tcp dport 5000 drop",
        nft=table(nat("tcp dport 4242 redirect to :5000"), chain("tcp dport 5000 drop")),
        nat=True,
    ),
    Shape(
        "to a container",
        "chain forward: ip daddr 172.17.0.2 tcp dport 80 drop",
        nft=table(
            nat("tcp dport 4242 dnat ip to 172.17.0.2:80"),
            chain("ip daddr 172.17.0.2 tcp dport 80 drop", hook="forward"),
            chain("tcp dport 80 drop", policy="drop"),
        ),
        certain=False,
        nat=True,
    ),
    Shape(
        "perhaps forwarded",
        None,
        nft=table(nat("meta mark 7 tcp dport 4242 redirect to :5000")),
        nat=None,
    ),
]

ACCEPT_OLD = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
IPTABLES = [
    Shape(
        f"{kind} {name}",
        text and text.replace("iptables", "iptables-legacy" if kind == "legacy" else "iptables"),
        commands=tuple(f"iptables-{kind} {line}" for line in lines),
    )
    for kind in ("nft", "legacy")
    for name, text, lines in (
        (
            "port",
            "iptables table filter: -A INPUT -p tcp -m tcp --dport 4242 -j DROP",
            ("-A INPUT -p tcp --dport 4242 -j DROP",),
        ),
        (
            "multiport",
            "-A INPUT -p tcp -m multiport --dports 80,4242 -m comment --comment",
            ('-A INPUT -p tcp -m multiport --dports 80,4242 -m comment --comment "a b" -j REJECT',),
        ),
        (
            "policy",
            "iptables table filter: -P INPUT DROP",
            (f"-A INPUT {ACCEPT_OLD}", "-A INPUT -p tcp --dport 22 -j ACCEPT", "-P INPUT DROP"),
        ),
        (
            "own chain",
            "iptables table filter: -A web -j REJECT",
            (
                "-N web",
                "-A INPUT -s 10.99.0.0/24 -g web",
                "-A web -p tcp --dport 80 -j RETURN",
                "-A web -j REJECT",
            ),
        ),
        (
            "raw",
            "iptables table raw: -A PREROUTING -i v0",
            ("-t raw -A PREROUTING -i v0 -p tcp --syn -j DROP",),
        ),
    )
]

UFW = [
    Shape("ufw", "iptables table filter: -P INPUT DROP", front_end="ufw"),
    Shape("ufw, IPv6", "ip6tables table filter: -P INPUT DROP", front_end="ufw", version=6),
    Shape("ufw allow", None, front_end="ufw", commands=("ufw allow 4242/tcp",)),
    Shape(
        "ufw deny",
        "-A ufw-user-input -p tcp -m tcp --dport 4242 -j DROP",
        front_end="ufw",
        commands=("ufw allow 22/tcp", "ufw deny 4242/tcp"),
    ),
    Shape(
        "ufw reject",
        "-A ufw-user-input -p tcp -m tcp --dport 4242 -j REJECT",
        front_end="ufw",
        commands=("ufw delete deny 4242/tcp", "ufw delete allow 4242/tcp", "ufw reject 4242/tcp"),
    ),
    Shape(
        "ufw out", "iptables table filter: -P OUTPUT DROP", front_end="ufw", mode="out", way="out"
    ),
]
FIREWALLD = [
    Shape(
        "firewalld",
        "chain filter_IN_public: reject with icmpx admin-prohibited",
        front_end="firewalld",
    ),
]


def need(*tools: str) -> None:
    """Skip where a real tool cannot be tried; in CI that is a failure."""
    missing = [tool for tool in ("unshare", "ip", *tools) if shutil.which(tool) is None]
    if not os.geteuid() and not missing:
        return
    reason = "needs root" if os.geteuid() else f"not installed: {', '.join(missing)}"
    if os.environ.get("CI") == "true":
        pytest.fail(f"rules cannot be tried: {reason}")
    pytest.skip(reason)


def drive(cases: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
    done = subprocess.run(
        [*unshare, sys.executable, str(DRIVER)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return answer


def contradiction(result: dict[str, Any]) -> str:
    """What the kernel did that the rules, as they were read, say it cannot have done."""
    named = [result[packet] for packet in ("request", "answer") if result[packet]]
    certain = [quote for quote in named if quote["certain"]]
    outcome = result["outcome"]
    if outcome == "connected":
        return "a certain quote, and it connected" if certain else ""
    if not named:
        # An answer that is not tracked keeps the port it was redirected to: lost without a rule.
        return "" if result["nat"] is not False else "no quote, and it did not connect"
    verdicts = {quote["verdict"] for quote in named}
    if outcome == "reject" and certain and "reject" not in verdicts:
        return "rejected by a rule that drops"
    if certain == [result["request"]] and certain[0]["verdict"] == "drop" and outcome != "drop":
        return "answered by a rule that drops"
    return ""


def meet(shapes: list[Shape]) -> None:
    """Load each shape, connect, and compare."""
    for shape, results in zip(shapes, drive([shape.case() for shape in shapes]), strict=True):
        assert "error" not in results[0], (shape.name, results[0]["error"])
        for probe, result in zip(PROBES, results, strict=True):
            assert not contradiction(result), (shape.name, probe, result)
        wanted: dict[str, object] = {"way": shape.way, "version": shape.version, "port": 4242}
        result = results[PROBES.index(wanted)]
        assert result["nat"] is shape.nat, (shape.name, result)
        quote = result[shape.packet]
        if shape.text is None:
            assert quote is None, (shape.name, result)
            continue
        assert quote is not None, (shape.name, result)
        assert shape.text in quote["text"], shape.name
        assert quote["certain"] is shape.certain, (shape.name, quote)


@pytest.mark.lab
@pytest.mark.parametrize(
    ("tools", "shapes"),
    [
        pytest.param(("nft",), NFT, id="nftables"),
        pytest.param(("nft", "iptables-nft", "iptables-legacy"), IPTABLES, id="iptables"),
        pytest.param(("nft", "ufw"), UFW, id="ufw"),
        pytest.param(("nft", "firewall-cmd", "dbus-daemon"), FIREWALLD, id="firewalld"),
    ],
)
def test_the_quote_is_what_the_kernel_did(tools: tuple[str, ...], shapes: list[Shape]) -> None:
    need(*tools)
    meet(shapes)


def iptables_case(seed: int) -> list[list[str]]:
    kind = ("nft", "legacy")[seed % 2]
    return [
        [*("sh", "-c", 'printf %s "$1" | "$2"', "sh"), iptables_rules(seed, version), program]
        for version, program in ((4, f"iptables-{kind}-restore"), (6, f"ip6tables-{kind}-restore"))
    ]


@pytest.mark.lab
@pytest.mark.parametrize("tool", ["nft", "iptables"])
def test_random_rules_do_not_contradict_the_kernel(tool: str) -> None:
    need("nft", *(("iptables-nft", "iptables-legacy") if tool == "iptables" else ()))
    seeds = range(30)
    commands = [[["nft", nft_rules(s)]] if tool == "nft" else iptables_case(s) for s in seeds]
    cases = [{"commands": lines, "probes": PROBES} for lines in commands]
    loaded = 0
    for seed, results in zip(seeds, drive(cases), strict=True):
        if "error" in results[0]:
            continue  # matches that exclude each other
        loaded += 1
        for probe, result in zip(PROBES, results, strict=True):
            assert not contradiction(result), (seed, probe, result)
    assert loaded > len(seeds) / 2


# -- without a kernel


def document(
    *expressions: Sequence[object], policy: str = "accept", more: tuple[object, ...] = ()
) -> dict[str, object]:
    place = {"family": "inet", "table": "t"}
    base = {**place, "name": "c", "type": "filter", "hook": "input", "prio": 0, "policy": policy}
    lines = [
        {"rule": {**place, "chain": "c", "handle": number, "expr": expr}}
        for number, expr in enumerate(expressions, start=1)
    ]
    return {"nftables": [*more, {"chain": base}, *lines]}


def match(left: object, right: object, op: str = "==") -> dict[str, object]:
    return {"match": {"op": op, "left": left, "right": right}}


DROP: dict[str, object] = {"drop": None}
PORT = {"payload": {"protocol": "tcp", "field": "dport"}}
PORT_4242 = match(PORT, 4242)


def quote_of(
    *expressions: Sequence[object], packet: Packet = SYN, policy: str = "accept"
) -> Quote | None:
    return find(ruleset_of(document(*expressions, policy=policy)), "input", packet)


def test_a_rule_that_cannot_be_told_is_named_as_such() -> None:
    quote = quote_of([{"never heard of": {}}, DROP])
    assert quote == Quote("table inet t chain c: the rule with handle 1", "drop", certain=False)
    assert quote_of([match(PORT, {"never": 1}), DROP]) == quote
    assert quote_of([match({"meta": {"key": "mark"}}, 1), DROP]) == quote


def test_what_is_not_known_of_the_packet_is_not_denied() -> None:
    bare = Packet("tcp", "", "10.99.0.1", None)
    source = {"payload": {"protocol": "ip", "field": "saddr"}}
    for condition in (
        PORT_4242,
        match(PORT, 4242, "!="),
        match(source, "10.99.0.2"),
        match({"meta": {"key": "iifname"}}, "v0"),
        match({"concat": [source, PORT]}, {"set": [{"concat": ["10.99.0.2", 4242]}]}),
    ):
        quote = quote_of([condition, DROP], packet=bare)
        assert quote is not None
        assert not quote.certain
    assert quote_of([PORT_4242, DROP], packet=replace(bare, destination="nowhere")) is None


def test_udp_is_not_tcp() -> None:
    udp = replace(SYN, transport="udp")
    assert quote_of([PORT_4242, DROP], packet=udp) is None
    assert quote_of([match(PORT, 4242, "!="), DROP], packet=udp) is None
    at_udp = match({"payload": {"protocol": "udp", "field": "dport"}}, 4242)
    assert quote_of([at_udp, DROP], packet=udp) is not None
    assert quote_of([at_udp, DROP]) is None


def test_a_queue_may_drop() -> None:
    quote = quote_of([PORT_4242, {"queue": {"num": 0}}])
    assert quote is not None
    assert (quote.verdict, quote.certain) == ("drop", False)


def test_extensions_that_nft_cannot_show_stay_uncertain() -> None:
    recent = {"xt": {"type": "match", "name": "recent"}}
    comment = {"xt": {"type": "match", "name": "comment"}}
    target = {"xt": {"type": "target", "name": "REJECT"}}
    quote = quote_of([recent, DROP])
    assert quote is not None
    assert not quote.certain
    quote = quote_of([comment, PORT_4242, target])
    assert quote is not None
    assert (quote.verdict, quote.certain) == ("reject", True)
    assert quote_of([PORT_4242, {"xt": {"type": "target", "name": "LOG"}}]) is None
    # Versions of nft before 1.0 do not name them.
    quote = quote_of([PORT_4242, {"xt": None}])
    assert quote is not None
    assert not quote.certain


def test_a_set_that_was_not_listed_is_not_empty() -> None:
    place = {"family": "inet", "table": "t", "type": "ipv4_addr"}
    named = {"set": {**place, "name": "bad"}}
    ports = {"map": {**place, "name": "ports", "map": "verdict"}}
    source = {"payload": {"protocol": "ip", "field": "saddr"}}
    lines: tuple[list[object], ...] = (
        [match(source, "@bad"), DROP],
        [{"vmap": {"key": PORT, "data": "@ports"}}],
    )
    for rule in lines:
        listed = document(rule, more=(named, ports))
        assert find(ruleset_of(listed), "input", SYN) is None
        quote = find(ruleset_of(listed, terse=True), "input", SYN)
        assert quote is not None
        assert not quote.certain


def test_elements_with_a_condition_match_at_times() -> None:
    limited = {"elem": {"val": 4242, "limit": {"rate": 1, "per": "second"}}}
    for elements, certain in (
        ([{"elem": {"val": 4242, "timeout": 5, "expires": 3}}], True),
        ([limited], False),
        ([{"range": [4000, 5000]}, "x"], True),
    ):
        quote = quote_of([match(PORT, {"set": elements}), DROP])
        assert quote is not None
        assert quote.certain is certain


def test_the_words_are_those_of_the_listing() -> None:
    listing = (
        "table inet t { # handle 1\n"
        "\tchain c { # handle 1\n"
        "\t\ttype filter hook input priority filter; policy accept;\n"
        '\t\ttcp dport { 1, 2,\n\t\t\t     4242 } drop comment "\x1b[31m# handle 9" # handle 1\n'
        "\t}\n}\n"
    )
    quote = find(ruleset_of(document([PORT_4242, DROP]), listing), "input", SYN)
    assert quote is not None
    expected = 'table inet t chain c: tcp dport { 1, 2, 4242 } drop comment "[31m# handle 9"'
    assert quote.text == expected
    long = listing.replace("1, 2,", ", ".join(map(str, range(1000))) + ",")
    quote = find(ruleset_of(document([PORT_4242, DROP]), long), "input", SYN)
    assert quote is not None
    assert len(quote.text) == rules_walk.MAX_QUOTE
    assert quote.text.endswith("…")


def test_a_vlan_passes_its_card() -> None:
    base = {"family": "netdev", "table": "t", "name": "c", "hook": "ingress", "type": "filter"}
    rule = {"family": "netdev", "table": "t", "chain": "c", "handle": 1, "expr": [DROP]}
    for device, interface, certain in (
        ("v0", "v0", True),
        (["x", "v0"], "v0", True),
        ("v0", "v0.5", False),
        ("v0", None, False),
        ("v0", "v1", None),
        (None, "v0", False),
    ):
        chain_ = {"chain": base if device is None else {**base, "dev": device}}
        ruleset = ruleset_of({"nftables": [chain_, {"rule": rule}]})
        quote = find(ruleset, "input", replace(SYN, interface=interface))
        assert (quote.certain if quote else None) is certain


def test_too_much_to_look_at_is_not_decided() -> None:
    many = [{"jump": {"target": "c"}}]
    assert quote_of(*[many] * 100, policy="drop", packet=SYN) != Quote(
        "table inet t chain c: policy drop", "drop", certain=True
    )
    wide = [match(PORT, {"set": list(range(5000, 15000))}), DROP]
    assert quote_of(*[wide] * 10, policy="drop") is None
    started = time.perf_counter()
    assert nat_of(ruleset_of(document(*[wide] * 10)), SYN) is False
    assert time.perf_counter() - started < 5


def save(*lines: str, table_name: str = "filter", policy: str = "ACCEPT") -> RuleSet:
    text = "\n".join([f"*{table_name}", f":INPUT {policy} [0:0]", ":x - [0:0]", *lines, "COMMIT"])
    return ruleset_of({}, saves=[Save(4, text, legacy=True)])


@pytest.mark.parametrize(
    ("line", "certain"),
    [
        ("-A INPUT -p tcp -m recent --update --name a -j DROP", False),
        ("-A INPUT -m set --match-set bad src -j DROP", False),
        ("-A INPUT -p tcp -j NFQUEUE --queue-num 0 --queue-bypass", False),
        ("-A INPUT -p tcp -j GEOBLOCK --of x", False),
        ('-A INPUT -m comment --comment "no end -j DROP', False),
        ("-A INPUT -p tcp -m tcp --ports 4242 -j DROP", False),
        ("-A INPUT -m rt --rt-type 0 -j DROP", None),
        ("-A INPUT -p icmp -m icmp --icmp-type 8 -j DROP", None),
        ("-A INPUT -p tcp -j TEE --gateway 10.0.0.1", None),
        ('-A INPUT -m comment --comment "-j \\"x\\"" -p tcp -j DROP', True),
        ("-A INPUT -m addrtype --dst-type LOCAL,BROADCAST -j DROP", True),
        ("-A INPUT -s 10.0.0.2/255.0.0.255 -j TARPIT", True),
        ("-A nowhere -j DROP", None),
    ],
)
def test_rules_of_iptables(line: str, certain: bool | None) -> None:  # noqa: FBT001
    quote = find(save(line), "input", SYN)
    assert (quote.certain if quote else None) is certain
    if quote:
        assert quote.text == f"iptables-legacy table filter: {line}"


def test_nat_of_iptables() -> None:
    lines = {
        "-A PREROUTING -p tcp -m tcp --dport 4242 -j DNAT --to-destination 10.0.0.1:80": True,
        "-A PREROUTING -p tcp -m tcp --dport 4242 -j DNAT --to-destination [fd00::1]:80": True,
        "-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080": False,
        "-A PREROUTING -m statistic --mode random --probability 0.5 -j REDIRECT": None,
        "-A PREROUTING -p tcp -j TPROXY --on-port 3129": True,
    }
    for line, expected in lines.items():
        text = f"*nat\n:PREROUTING ACCEPT [0:0]\n{line}\nCOMMIT\n"
        ruleset = ruleset_of({}, saves=[Save(4, text, legacy=False)])
        assert nat_of(ruleset, SYN) is expected, line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)
KEYS = (
    *("match", "vmap", "accept", "drop", "reject", "jump", "goto", "return", "dnat", "redirect"),
    *("set", "range", "prefix", "elem", "concat", "|", "&", "payload", "meta", "ct", "fib", "xt"),
    *("op", "left", "right", "key", "data", "val", "target", "protocol", "field", "addr", "len"),
    *("map", "mangle", "notrack", "tproxy", "queue", "exthdr", "stmt", "family", "port", "flags"),
)
WORDS = (
    *("tcp", "dport", "flags", "state", "saddr", "ip", "iifname", "status", "@s", "@m", "*", "c"),
    *("10.99.0.2", "10.0.0.0", "fd00::", "new", "==", "!=", "in", "!", "<", ">=", "type", "daddr"),
)
LIKELY = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS), inner, min_size=1, max_size=3)
    ),
    max_leaves=25,
)
PACKETS = st.builds(
    Packet,
    transport=st.sampled_from(["tcp", "udp", "sctp"]),
    source=st.sampled_from(["10.99.0.2", "fd99::2%v0", "::ffff:10.99.0.2", ""]) | st.text(),
    destination=st.sampled_from(["10.99.0.1", "fd99::1", ""]) | st.text(),
    destination_port=st.none() | st.integers(0, 65535),
    interface=st.none() | st.sampled_from(["v0", ""]),
    answer=st.booleans(),
)


def ask(ruleset: RuleSet, packet: Packet) -> None:
    for hook in ("input", "output", "elsewhere"):
        quote = find(ruleset, hook, packet)
        if quote is not None:
            assert quote.verdict in ("drop", "reject")
            assert len(quote.text) <= rules_walk.MAX_QUOTE
            assert not any(unicodedata.category(char)[0] == "C" for char in quote.text)
    assert nat_of(ruleset, packet) in (True, False, None)


@given(anything=JSON, listing=st.text(), packet=PACKETS)
def test_any_json_is_taken(anything: object, listing: str, packet: Packet) -> None:
    ask(ruleset_of(anything, listing), packet)
    entries = [{kind: anything} for kind in ("chain", "rule", "set", "map")]
    ask(ruleset_of({"nftables": [anything, *entries]}), packet)


@given(
    expressions=st.lists(st.lists(LIKELY, max_size=4), max_size=4),
    elements=st.lists(LIKELY, max_size=4),
    hook=st.sampled_from(["input", "prerouting", "output", "ingress", "forward"]),
    packet=PACKETS,
)
def test_any_expression_is_taken(
    expressions: list[list[object]], elements: list[object], hook: str, packet: Packet
) -> None:
    place = {"family": "inet", "table": "t", "elem": elements}
    more = ({"set": {**place, "name": "s"}}, {"map": {**place, "name": "m", "map": "verdict"}})
    whole = document(*expressions, policy="drop", more=more)
    items = whole["nftables"]
    assert isinstance(items, list)
    items[2]["chain"]["hook"] = hook
    ask(ruleset_of(whole), packet)


SAVE_WORDS = (
    *("-A INPUT", "-j DROP", "-j x", "-g x", "!", "-m", "tcp", "-p tcp", "-s 10.0.0.0/8", "-d"),
    *("--dport 4242", "--dports 1,2:3", "--tcp-flags ALL", "SYN", '"', '"a b"', "\\", "-f", "\n"),
    *("--ctstate NEW,DNAT", "-j DNAT --to-destination", "[::1]:5", ":INPUT DROP", "*filter", "-A "),
)


@given(
    words=st.lists(st.sampled_from(SAVE_WORDS) | st.text(max_size=4), max_size=15),
    version=st.sampled_from([4, 6]),
    legacy=st.booleans(),
    packet=PACKETS,
)
def test_any_save_is_taken(
    words: list[str],
    version: int,
    legacy: bool,  # noqa: FBT001
    packet: Packet,
) -> None:
    text = "\n".join(["*filter", ":INPUT DROP [0:0]", ":x - [0:0]", "-A INPUT " + " ".join(words)])
    ask(ruleset_of({}, saves=[Save(version, text, legacy)]), packet)


def test_a_hostile_depth_is_survived() -> None:
    deep: object = 1
    for _ in range(5000):
        deep = {"elem": {"val": deep}}
    ask(ruleset_of(document([match(PORT, deep), DROP])), SYN)
    assert nat_of(ruleset_of(document([match(PORT, deep), DROP])), SYN) is False


def test_five_thousand_rules_are_quick() -> None:
    source = {"payload": {"protocol": "ip", "field": "saddr"}}
    lines = [
        [
            match(source, {"prefix": {"addr": f"10.{i >> 8}.{i & 255}.0", "len": 24}}),
            PORT_4242,
            DROP,
        ]
        for i in range(5000)
    ]
    text = json.dumps(document(*lines))
    started = time.process_time()
    assert find(ruleset_of(json.loads(text)), "input", replace(SYN, source="99.0.0.1")) is None
    # 100 ms on an idle machine; coverage and busy neighbours multiply it.
    assert time.process_time() - started < 2


# -- reading


def program(folder: Path, name: str, *lines: str) -> None:
    path = folder / name
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of all programs; tables of the legacy iptables there are none."""
    monkeypatch.setattr(rules, "_SBIN", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}")
    monkeypatch.setattr(rules, "_has_legacy", lambda _version: False)
    return tmp_path


SLEEP = f"exec {shutil.which('sleep') or '/bin/sleep'}"
CAT = shutil.which("cat") or "/bin/cat"


async def test_what_cannot_be_read_is_none(fake: Path) -> None:
    assert await rules.read_ruleset() is None
    assert await rules.matching_rules(SYN, "input") == rules.Rules(readable=False)
    for lines in (("exit 1",), ("echo '{'",), ("echo '[[[' ; exit 0",), ("kill -9 $$",)):
        program(fake, "nft", *lines)
        assert await rules.read_ruleset() is None
    (fake / "nft").write_text("no program", encoding="utf-8")
    assert await rules.read_ruleset() is None


async def test_a_program_that_hangs_is_ended(fake: Path) -> None:
    program(fake, "nft", f"{SLEEP} 60")
    started = time.monotonic()
    assert await rules.read_ruleset() is None
    assert time.monotonic() - started < rules.READ_TIMEOUT + 5
    with pytest.raises(TimeoutError):
        # Ended by whoever waits for it, it leaves no process either.
        await asyncio.wait_for(rules.read_ruleset(), 0.2)


async def test_too_much_output_is_not_taken(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_OUTPUT", 1000)
    program(fake, "nft", "while :; do echo 12345678; done")
    assert await rules.read_ruleset() is None


async def test_sets_too_large_are_left_out(fake: Path) -> None:
    place = {"family": "inet", "table": "t", "type": "ipv4_addr"}
    source = {"payload": {"protocol": "ip", "field": "saddr"}}
    rule: list[object] = [match(source, "@bad"), DROP]
    whole = document(rule, more=({"set": {**place, "name": "bad"}},))
    (fake / "terse.json").write_text(json.dumps(whole), encoding="utf-8")
    program(
        fake,
        "nft",
        'case "$*" in',
        f"  *json*terse*) exec {CAT} {fake}/terse.json ;;",
        f"  *json*) {SLEEP} 60 ;;",
        "esac",
    )
    quoted = await rules.matching_rules(SYN, "input")
    assert quoted.readable
    assert quoted.quote is not None
    assert not quoted.quote.certain
    assert quoted.nat is False


async def test_iptables_without_nft(fake: Path) -> None:
    lines = ("*filter", ":INPUT DROP [0:0]", "COMMIT")
    header = "# Generated by iptables-nft-save v1.8.9 (nf_tables) on Sun Nov 22 15:58:06 2026"
    words = " ".join(f"'{line}'" for line in (header, *lines))
    program(fake, "iptables-save", f"printf '%s\\n' {words}")
    quoted = await rules.matching_rules(SYN, "input")
    assert quoted.quote == Quote("iptables table filter: -P INPUT DROP", "drop", certain=True)


@pytest.mark.lab
async def test_an_ordinary_user_reads_nothing() -> None:
    need("nft", "setpriv")
    code = (
        "import asyncio; from bothends.witness.rules import *; print(asyncio.run(read_ruleset()))"
    )
    drop = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--net", *drop, sys.executable, "-c", code), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.decode().strip() == "None"
