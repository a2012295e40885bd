"""Which firewall front-ends this host has, and whether they are active, as far as can be read.

No privilege is needed and nothing waits: files, one look at the processes, and
with privilege one `nft list ruleset`. What cannot be read is None, never False.
A front-end that is active is no proof that it dropped anything: this only
decides for which one a fix is spelled out.

What the kernel holds goes before what configuration files say, since rules are
per network namespace and files are not. The Windows and macOS halves follow the
vendors' documentation and are untested.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bothends_protocol.evidence import Firewall

__all__ = ["Ruleset", "firewalls", "read_ruleset"]

_NFT_TIMEOUT = 0.5
"""Seconds for `nft`: 3 ms as a rule, and a set of a million addresses is left out (--terse)."""

_PATH = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"))
"""Searched after PATH: an ordinary user's lacks the sbin folders."""

_LOCAL_HOOKS = frozenset({"ingress", "egress", "prerouting", "input", "output", "postrouting"})
"""Hooks that packets from or to the host itself pass; `forward` is for those of others."""

_IPTABLES_TABLES = frozenset({"filter", "mangle", "raw", "security", "nat"})
_SETTING = re.compile(r"""^\s*(\w+)\s*=\s*["']?([\w-]*)["']?\s*(?:#.*)?$""")
_WINDOWS_PROFILES = {
    "DomainProfile": "domain",
    "StandardProfile": "private",
    "PublicProfile": "public",
}


class Ruleset(msgspec.Struct):
    """What nftables holds in this network namespace: owners of tables, and which filter here."""

    owners: set[str] = msgspec.field(default_factory=set)
    """Front-ends that have a table."""
    filtering: set[str] = msgspec.field(default_factory=set)
    """Those with a rule, or a policy of drop, in a chain that packets of this host pass."""


def firewalls(*, privileged: bool, root: Path = Path("/")) -> tuple[Firewall, ...]:
    """Return the front-ends found. `root` is where the files are looked for (tests)."""
    if sys.platform == "win32":
        return tuple(_windows())
    if sys.platform == "darwin":
        return tuple(_macos(root))
    rules = _list_ruleset() if privileged else None
    return tuple(_linux(root, rules))


def read_ruleset(document: Mapping[str, Any]) -> Ruleset:
    """Return what `nft --json list ruleset` says (libnftables-json(5)).

    Raises `KeyError`, `TypeError` or `AttributeError` for another document.
    """
    rules = Ruleset()
    items = document["nftables"]
    chains = [item["chain"] for item in items if "chain" in item]
    ruled = {_chain_key(item["rule"], "chain") for item in items if "rule" in item}
    tables: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for chain in chains:
        tables.setdefault((chain["family"], chain["table"]), []).append(chain)
    for (family, table), members in tables.items():
        owner = _owner(family, table, [chain["name"] for chain in members])
        rules.owners.add(owner)
        if any(_filters(chain, ruled) for chain in members):
            rules.filtering.add(owner)
    return rules


def _chain_key(item: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    return item["family"], item["table"], item[name]


def _filters(chain: Mapping[str, Any], ruled: set[tuple[str, str, str]]) -> bool:
    if chain.get("type") != "filter" or chain.get("hook") not in _LOCAL_HOOKS:
        return False
    return chain.get("policy") == "drop" or _chain_key(chain, "name") in ruled


def _owner(family: str, table: str, chains: Sequence[str]) -> str:
    """The front-end that a table belongs to, by the names it gives to tables and chains."""
    if table.startswith("firewalld") or "INPUT_ZONES" in chains:
        return "firewalld"
    if any(name.startswith(("ufw-", "ufw6-")) for name in chains):
        return "ufw"
    # iptables-nft makes tables of the old names, with built-in chains in capitals.
    if family in ("ip", "ip6") and table in _IPTABLES_TABLES and any(map(str.isupper, chains)):
        return "iptables"
    return "nftables"


def _list_ruleset() -> Ruleset | None:
    nft = _find("nft")
    if nft is None:
        return None
    try:
        done = subprocess.run(
            [nft, "--json", "--stateless", "--terse", "list", "ruleset"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_NFT_TIMEOUT,
            check=True,
        )
        return read_ruleset(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _linux(root: Path, rules: Ruleset | None) -> Iterator[Firewall]:
    legacy = _legacy_tables(root)
    ufw = _ufw(root, rules, legacy)
    if ufw is not None:
        yield ufw
    if _find("firewalld", root) is not None or (rules and "firewalld" in rules.owners):
        yield _firewalld(root, rules)
    if _find("nft", root) is not None:
        active = None if rules is None else "nftables" in rules.filtering
        yield Firewall(name="nftables", active=active, detail="" if rules else "not readable")
    if _find("iptables", root) is not None or legacy:
        yield _iptables(rules, legacy)


def _ufw(root: Path, rules: Ruleset | None, legacy: list[str] | None) -> Firewall | None:
    settings = _settings(root / "etc/ufw/ufw.conf")
    if settings is None:
        return None
    if settings.get("ENABLED", "no").lower() != "yes":
        return Firewall(name="ufw", active=False)
    if rules is not None and legacy == [] and "ufw" not in rules.owners:
        detail = "enabled in its configuration, but its rules are not loaded"
        return Firewall(name="ufw", active=False, detail=detail)
    defaults = _settings(root / "etc/default/ufw") or {}
    words = [
        f"{way} {defaults[key].lower()}"
        for way, key in (("in", "DEFAULT_INPUT_POLICY"), ("out", "DEFAULT_OUTPUT_POLICY"))
        if key in defaults
    ]
    detail = f"by default: {', '.join(words)}" if words else ""
    return Firewall(name="ufw", active=True, detail=detail)


def _firewalld(root: Path, rules: Ruleset | None) -> Firewall:
    if rules is not None and "firewalld" in rules.owners:
        return Firewall(name="firewalld", active=True)
    running = _runs(root / "proc", "firewalld")
    detail = "its daemon runs" if running else ""
    return Firewall(name="firewalld", active=running, detail=detail)


def _iptables(rules: Ruleset | None, legacy: list[str] | None) -> Firewall:
    if rules is not None and "iptables" in rules.filtering:
        return Firewall(name="iptables", active=True)
    if legacy:
        # A table is there from the first time somebody listed it, so rules need not be.
        tables = f"legacy tables loaded: {', '.join(legacy)}"
        return Firewall(name="iptables", active=None, detail=tables)
    if rules is None or legacy is None:
        return Firewall(name="iptables", active=None, detail="not readable")
    return Firewall(name="iptables", active=False)


def _legacy_tables(root: Path) -> list[str] | None:
    """Tables of the old iptables in this network namespace; None where they cannot be read."""
    found: list[str] = []
    for name in ("ip_tables_names", "ip6_tables_names"):
        try:
            text = (root / "proc/net" / name).read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            continue  # the module is not loaded
        except OSError:
            return None
        found += [word for word in text.split() if word in _IPTABLES_TABLES and word not in found]
    return found


def _runs(proc: Path, name: str) -> bool | None:
    """Whether a process called `name` runs in this network namespace; None: cannot be told."""
    wanted = name.encode() + b"\n"
    unknown = False
    try:
        with os.scandir(proc) as entries:
            numbers = [entry.name for entry in entries if entry.name.isdecimal()]
    except OSError:
        return None
    for number in numbers:
        # Plain open: pathlib would triple the time on a host with many processes.
        try:
            with open(f"{proc}/{number}/comm", "rb") as comm:  # noqa: PTH123
                if comm.read(32) != wanted:
                    continue
        except OSError:
            continue  # it ended meanwhile
        same = _same_network(proc, number)
        if same:
            return True
        if same is None and os.path.exists(f"{proc}/{number}/comm"):  # noqa: PTH110  as above
            unknown = True
    return None if unknown else False


def _same_network(proc: Path, number: str) -> bool | None:
    """Whether process `number` shares this one's network namespace.

    /proc/PID/ns needs the right to trace; files below /proc/PID/net do not, and
    each network namespace numbers them anew (fs/proc/proc_net.c).
    """
    try:
        other = (proc / number / "net/dev").stat()
        return os.path.samestat(other, (proc / "self/net/dev").stat())
    except OSError:
        return None


def _settings(path: Path) -> dict[str, str] | None:
    """Assignments of a file in shell syntax; None where it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return {match[1]: match[2] for line in lines if (match := _SETTING.match(line))}


def _find(name: str, root: Path = Path("/")) -> str | None:
    if root != Path("/"):
        place = root / "usr/sbin" / name
        return str(place) if place.exists() else None
    return shutil.which(name) or shutil.which(name, path=_PATH)


def _macos(root: Path) -> Iterator[Firewall]:
    import plistlib  # noqa: PLC0415  on macOS only

    # macOS 15 no longer keeps the state in this file: not readable there.
    try:
        with (root / "Library/Preferences/com.apple.alf.plist").open("rb") as file:
            state = plistlib.load(file).get("globalstate")
    except (OSError, ValueError, AttributeError, plistlib.InvalidFileException):
        state = None
    active = state > 0 if isinstance(state, int) else None
    detail = "blocks all incoming connections" if state == 2 else ""
    yield Firewall(name="macos", active=active, detail=detail)


def _windows() -> Iterator[Firewall]:
    on, off = _windows_profiles()
    active = None if not on and not off else bool(on)
    detail = f"on for {', '.join(on) or 'none'}; off for {', '.join(off) or 'none'}"
    yield Firewall(name="windows", active=active, detail=detail if on or off else "not readable")


def _windows_profiles() -> tuple[list[str], list[str]]:
    """Kinds of networks for which the Windows firewall is on, and off."""
    on: list[str] = []
    off: list[str] = []
    if sys.platform == "win32":
        import winreg  # noqa: PLC0415  there is none elsewhere

        base = r"SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy"
        for key, name in _WINDOWS_PROFILES.items():
            try:
                with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, rf"{base}\{key}") as handle:
                    enabled, _ = winreg.QueryValueEx(handle, "EnableFirewall")
            except OSError:
                continue
            (on if enabled else off).append(name)
    return on, off
