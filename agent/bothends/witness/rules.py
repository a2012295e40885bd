"""The firewall rule that would end a packet on this host, quoted, where it can be read.

Needs root and Linux: `nft --json list ruleset`, and iptables-save where there
are tables of iptables. A rule that exists is not a packet that was dropped, so
this supports what packets and counters showed, and never stands for them.

Reading (`read_ruleset`) starts two processes, with iptables two or four more,
and takes some 20 ms; it is best done when no round is running. `find` and
`nat_of` are pure. What they cannot see: bridge tables, XDP, tc, eBPF, and
whatever needs more than the packet itself (rates, users, marks, ipsets), which
makes a quote uncertain.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .rules_iptables import TABLES, Save, add_save, plain_extension
from .rules_match import Elements, pair
from .rules_walk import Chain, Packet, Quote, Rule, RuleSet, Walk

__all__ = [
    "Packet",
    "Quote",
    "RuleSet",
    "Rules",
    "find",
    "matching_rules",
    "nat_of",
    "read_ruleset",
    "ruleset_of",
]

READ_TIMEOUT = 1.0
"""Seconds for all that is read: 20 ms as a rule, and no quote is worth a user's waiting."""

MAX_OUTPUT = 8 * 1024 * 1024
"""Bytes taken of one program: 15,000 rules, or a set of 300,000 addresses."""

_CHUNK = 1 << 16
_SBIN = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"))
"""Searched after PATH: an ordinary user's lacks the sbin folders."""

_IPTABLES_HOOKS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_HANDLE = re.compile(r"(.*?) ?# handle (\d+)$")
_DEVICES = re.compile(r"hook \w+ devices? (?:= )?(\{[^}]*\}|\S+)")
_NAME = re.compile(r'[^\s",{}]+')


@dataclass(frozen=True)
class Rules:
    """What the rule set says of one packet."""

    readable: bool
    """False: nothing could be read, and the rest says nothing."""
    quote: Quote | None = None
    """The rule that ends it; None where everything accepts."""
    nat: bool | None = None
    """Whether a rule gives it another destination; None where that cannot be told."""


async def matching_rules(packet: Packet, hook: str) -> Rules:
    """Read this host's rules and return what they say of `packet` (see `find`). Never raises."""
    ruleset = await read_ruleset()
    if ruleset is None:
        return Rules(readable=False)
    return Rules(True, find(ruleset, hook, packet), nat_of(ruleset, packet))


def find(ruleset: RuleSet, hook: str, packet: Packet) -> Quote | None:
    """Return the first rule that ends `packet`, or None where everything lets it pass.

    `hook` is `input` (it comes in: ingress, prerouting, input, and where it is
    given another destination forward) or `output` (it goes out: output,
    postrouting, egress). A drop that might match is returned only where none
    matches for certain. Never raises; a packet without any address has no quote.
    """
    walk = Walk(ruleset, hook, packet)
    with contextlib.suppress(RecursionError):  # a listing nested by somebody hostile
        walk.run()
    return walk.quote


def nat_of(ruleset: RuleSet, packet: Packet) -> bool | None:
    """Whether a dnat, redirect or tproxy takes `packet` as it comes in; None: perhaps.

    Where one does, a port without a listener may still be served, by another
    port, a container or a machine behind this one. Never raises.
    """
    walk = Walk(ruleset, "input", packet)
    try:
        walk.run_prerouting()
    except RecursionError:
        return None
    return walk.nat


# -- from listings to chains


def ruleset_of(document: object, listing: str = "", saves: Iterable[Save] = ()) -> RuleSet:
    """Return the chains of `nft --json list ruleset`, for any JSON document.

    `listing` is `nft --handle list ruleset`, which gives the rules their words;
    `saves` are those of iptables, which know more of its tables than nft does.
    """
    ruleset = RuleSet()
    texts, devices = _read_listing(listing)
    for kind, item in _entries(document):
        if kind == "chain":
            chain = _chain(item, devices)
            ruleset.chains[chain.family, chain.table, chain.name] = chain
        elif kind == "rule":
            _add_rule(item, ruleset, texts)
        elif kind in ("set", "map"):
            _add_set(item, ruleset)
    for save in saves:
        add_save(save, ruleset)
    return ruleset


def _entries(document: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    items = document.get("nftables") if isinstance(document, dict) else None
    for entry in items if isinstance(items, list) else ():
        kind, item = pair(entry)
        if isinstance(item, dict):
            yield kind, item


def _place(item: Mapping[str, object]) -> tuple[str, str]:
    return str(item.get("family")), str(item.get("table"))


def _chain(item: Mapping[str, object], devices: Mapping[tuple[str, ...], str]) -> Chain:
    family, table = _place(item)
    name = str(item.get("name"))
    label = f"table {family} {table} chain {name}"
    priority = item.get("prio")
    return Chain(
        family=family,
        table=table,
        name=name,
        label=label,
        policy_text=f"{label}: policy drop",
        hook=str(item.get("hook", "")),
        kind=str(item.get("type", "filter")),
        priority=priority if isinstance(priority, int) else 0,
        drops=item.get("policy") == "drop",
        devices=_devices(item.get("dev"), devices.get((family, table, name))),
    )


def _devices(listed: object, written: str | None) -> tuple[str, ...] | None:
    """The devices of an ingress or egress chain: nft 1.0.6 leaves them out of JSON."""
    if isinstance(listed, str):
        return (listed,)
    if isinstance(listed, list):
        return tuple(str(name) for name in listed)
    return None if written is None else tuple(_NAME.findall(written))


def _add_rule(
    item: Mapping[str, object], ruleset: RuleSet, texts: Mapping[tuple[str, str, str], str]
) -> None:
    family, table = _place(item)
    chain = ruleset.chains.get((family, table, str(item.get("chain"))))
    expressions = item.get("expr")
    if chain is None or not isinstance(expressions, list):
        return
    handle = str(item.get("handle"))
    text = texts.get((family, table, handle), f"the rule with handle {handle}")
    chain.rules.append(Rule(tuple(_plain(expressions)), text))


def _plain(expressions: Sequence[object]) -> Iterator[object]:
    for number, expression in enumerate(expressions, start=1):
        kind, body = pair(expression)
        if kind == "xt":
            yield from plain_extension(body, last=number == len(expressions))
        else:
            yield expression


def _add_set(item: Mapping[str, object], ruleset: RuleSet) -> None:
    place, name = _place(item), str(item.get("name"))
    elements = item.get("elem")
    # One that is empty, and one that was not listed (--terse), look the same.
    listed = elements if isinstance(elements, list) else []
    complete = "elem" in item or not _TERSE_MARK & item.keys()
    if "map" in item:
        if complete:
            ruleset.maps.setdefault(place, {})[name] = listed
        listed = [pair_[0] for pair_ in listed if isinstance(pair_, list) and pair_]
    ruleset.sets.setdefault(place, {})[name] = Elements(listed, complete=complete)
