"""The firewall rule that would end a packet on this host, quoted, where it can be read.

Needs root and Linux: `nft --json list ruleset`, and iptables-save where there
are tables of iptables. A rule that exists is not a packet that was dropped, so
this supports what packets and counters showed, and never stands for them.

Reading (`read_ruleset`) starts two processes, with iptables two or four more,
and takes some 20 ms; it is best done when no round is running. `find` and
`nat_of` are pure. What they cannot see: bridge tables, XDP, tc, eBPF, and
whatever needs more than the packet itself (rates, users, marks, ipsets), which
makes a quote uncertain. What nft does not list they cannot know either: 1.0.6
shows `meta nfproto ipv4 reject with tcp reset` of an inet table without its
first match.
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

import msgspec

from .rules_iptables import TABLES, Save, add_save, plain_extension
from .rules_match import Elements, pair, word
from .rules_walk import Chain, Packet, Quote, Rule, RuleSet, Walk

__all__ = [
    "Packet",
    "Quote",
    "RuleSet",
    "Rules",
    "find",
    "legacy_saves",
    "matching_rules",
    "nat_of",
    "read_ruleset",
    "ruleset_of",
]

READ_TIMEOUT = 1.0
"""Seconds for all that is read: 20 ms as a rule, and no quote is worth a user's waiting."""

SETS_TIMEOUT = 0.3
"""Seconds of these for what named sets hold."""

MAX_OUTPUT = 8 * 1024 * 1024
"""Bytes taken of one program: 15,000 rules, or a set of 300,000 addresses."""

_MAX_HANDLE = 1 << 64
_LIST = ("list", "ruleset")
_CHUNK = 1 << 16
_SBIN = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"))
"""Searched after PATH: an ordinary user's lacks the sbin folders."""

_IPTABLES_HOOKS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_HANDLE = re.compile(r"(.*?) ?# handle ([0-9]{1,20})$")
_DEVICES = re.compile(r"hook \w+ devices? (?:= )?(\{[^}]*\}|\S+)")
_NAME = re.compile(r'[^\s",{}]+')


class Rules(msgspec.Struct, frozen=True):
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


def ruleset_of(
    document: object, listing: str = "", saves: Iterable[Save] = (), *, terse: bool = False
) -> RuleSet:
    """Return the chains of `nft --json list ruleset`, for any JSON document.

    `listing` is `nft --handle list ruleset`, which gives the rules their words;
    `saves` are those of iptables, which know more of its tables than nft does.
    `terse`: what named sets hold was left out.
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
            _add_set(item, ruleset, terse=terse)
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
    return word(item.get("family")), word(item.get("table"))


def _chain(item: Mapping[str, object], devices: Mapping[tuple[str, ...], str]) -> Chain:
    family, table = _place(item)
    name = word(item.get("name"))
    label = f"table {family} {table} chain {name}"
    priority = item.get("prio")
    return Chain(
        family=family,
        table=table,
        name=name,
        label=label,
        policy_text=f"{label}: policy drop",
        hook=word(item.get("hook")),
        kind=word(item.get("type")),
        priority=priority if isinstance(priority, int) else 0,
        drops=item.get("policy") == "drop",
        devices=_devices(item.get("dev"), devices.get((family, table, name))),
    )


def _devices(listed: object, written: str | None) -> tuple[str, ...] | None:
    """The devices of an ingress or egress chain: nft 1.0.6 leaves them out of JSON."""
    if isinstance(listed, str):
        return (listed,)
    if isinstance(listed, list):
        return tuple(word(name) for name in listed)
    return None if written is None else tuple(_NAME.findall(written))


def _add_rule(
    item: Mapping[str, object], ruleset: RuleSet, texts: Mapping[tuple[str, str, int], str]
) -> None:
    family, table = _place(item)
    chain = ruleset.chains.get((family, table, word(item.get("chain"))))
    expressions = item.get("expr")
    if chain is None or not isinstance(expressions, list):
        return
    handle = item.get("handle")
    number = handle if isinstance(handle, int) and 0 <= handle < _MAX_HANDLE else 0
    text = texts.get((family, table, number), f"the rule with handle {number}")
    chain.rules.append(Rule(tuple(_plain(expressions)), text))


def _plain(expressions: Sequence[object]) -> Iterator[object]:
    for number, expression in enumerate(expressions, start=1):
        kind, body = pair(expression)
        if kind == "xt":
            yield from plain_extension(body, last=number == len(expressions))
        else:
            yield expression


def _add_set(item: Mapping[str, object], ruleset: RuleSet, *, terse: bool) -> None:
    place, name = _place(item), word(item.get("name"))
    elements = item.get("elem")
    listed = elements if isinstance(elements, list) else []
    complete = "elem" in item or not terse
    if "map" in item:
        if complete:
            ruleset.maps.setdefault(place, {})[name] = listed
        listed = [entry[0] for entry in listed if isinstance(entry, list) and entry]
    ruleset.sets.setdefault(place, {})[name] = Elements(listed, complete=complete)


def _read_listing(
    listing: str,
) -> tuple[dict[tuple[str, str, int], str], dict[tuple[str, ...], str]]:
    """Return the rules' texts by family, table and handle, and the devices of chains."""
    texts: dict[tuple[str, str, int], str] = {}
    devices: dict[tuple[str, ...], str] = {}
    table, chain = ("", ""), ""
    begun: list[str] = []
    for line in listing.splitlines():
        words = line.split(maxsplit=3)
        if line.startswith("table ") and len(words) > 2:
            table = words[1], words[2]
        elif line.startswith("\tchain ") and len(words) > 1:
            chain = words[1]
            begun = []
        elif line.startswith("\t\ttype ") and (match := _DEVICES.search(line)):
            devices[*table, chain] = match[1]
        elif line.startswith("\t\t") and not line.startswith("\t\ttype "):
            # A long set goes on over several lines; the handle ends the rule.
            begun.append(line.strip())
            if match := _HANDLE.match(" ".join(begun)):
                texts[*table, int(match[2])] = match[1]
                begun = []
    return texts, devices


# -- reading


async def read_ruleset() -> RuleSet | None:
    """Return the rules of this network namespace; None where they cannot be read. Never raises."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            return await _read_all()
    except TimeoutError:
        return None


async def _read_all() -> RuleSet | None:
    nft = _program("nft")
    # Unlike gather, a group has ended all of its programs when a time-out ends it.
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(_read_document(nft))
        listing = group.create_task(_run(nft, "--handle", "--stateless", "--terse", *_LIST))
    document, terse = reading.result()
    saves = await _read_saves(document)
    if document is None and not saves:
        return None
    return ruleset_of(document, listing.result() or "", saves, terse=terse)


async def _read_document(nft: str | None) -> tuple[object, bool]:
    """Return what nft lists as JSON, and whether without what named sets hold."""
    words = "--json", "--stateless"
    terse = _decoded(await _run(nft, *words, "--terse", *_LIST))
    if terse is not None and not any(kind in ("set", "map") for kind, _ in _entries(terse)):
        return terse, False
    # Sets may be so large that nft needs seconds for them.
    output = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETS_TIMEOUT):
            output = await _run(nft, *words, *_LIST)
    full = _decoded(output)
    return (terse, True) if full is None else (full, False)


def _decoded(output: str | None) -> object:
    if output is None:
        return None
    try:
        return json.loads(output)
    except (ValueError, RecursionError):
        return None


async def _read_saves(document: object) -> list[Save]:
    """Run iptables-save for the kinds of iptables that have tables here."""
    wanted: list[tuple[int, bool, tuple[str, ...]]] = []
    for version, program in ((4, "iptables"), (6, "ip6tables")):
        if document is None or _has_iptables(document):
            wanted.append((version, False, (f"{program}-nft-save", f"{program}-save")))
        if _has_legacy(version):
            wanted.append((version, True, (f"{program}-legacy-save", f"{program}-save")))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(_program(*names))) for _, _, names in wanted]
    outputs = [task.result() or "" for task in tasks]
    return [
        Save(version, output, legacy)
        for (version, legacy, _), output in zip(wanted, outputs, strict=True)
        # A program of the common name may be of either kind; its first line says which.
        if output and ("nf_tables" in output.partition("\n")[0]) != legacy
    ]


async def legacy_saves() -> tuple[str, ...]:
    """Return what iptables-save of the older kind lists, nothing where it has no tables here.

    Nftables announces a change; this kind does not, and must be read. Never raises.
    """
    texts = []
    for version, program in ((4, "iptables"), (6, "ip6tables")):
        if not _has_legacy(version):
            continue
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READ_TIMEOUT):
                found = _program(f"{program}-legacy-save", f"{program}-save")
                texts.append(await _run(found) or "")
    return tuple(texts)


def _has_iptables(document: object) -> bool:
    return any(
        kind == "chain"
        and item.get("name") in _IPTABLES_HOOKS
        and item.get("family") in ("ip", "ip6")
        and item.get("table") in TABLES
        for kind, item in _entries(document)
    )


def _has_legacy(version: int) -> bool:
    name = "ip_tables_names" if version == 4 else "ip6_tables_names"
    try:
        with open(f"/proc/net/{name}", encoding="ascii", errors="replace") as file:
            return bool(TABLES & set(file.read(_CHUNK).split()))
    except OSError:
        return False  # the module is not loaded, or this is not root


def _program(*names: str) -> str | None:
    found = (shutil.which(name) or shutil.which(name, path=_SBIN) for name in names)
    return next((path for path in found if path is not None), None)


async def _run(program: str | None, *arguments: str) -> str | None:
    """Return what a program writes; None where it fails or writes more than `MAX_OUTPUT`."""
    if program is None:
        return None
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        output = await _read_some(process.stdout)
        if output is None or await process.wait():
            return None
        return output.decode("utf-8", "replace")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()  # what it had written is in the way of its end


async def _read_some(stream: asyncio.StreamReader | None) -> bytes | None:
    if stream is None:
        return None
    output = bytearray()
    while chunk := await stream.read(_CHUNK):
        output += chunk
        if len(output) > MAX_OUTPUT:
            return None
    return bytes(output)
