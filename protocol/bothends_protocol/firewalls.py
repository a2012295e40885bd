"""How to let a port, or an answer, through each firewall front-end.

Each front-end is one function from a `Rule` to a `Fix`. Whatever enters a
command is a number or an address of the `ipaddress` module, so there is nothing
to quote and nothing to inject. Commands only ever add a permission: none
removes, replaces or resets what the owner of the host has set up. Where a
front-end knows a running and a stored configuration, the command changes the
running one, so that a wrong guess is gone after a restart, and a step says how
to keep what helped.

Commands inside steps stand between backticks. ufw 0.36, firewalld 1.3,
nftables 1.0 and iptables 1.8 were tried on Linux; those for Windows and macOS
follow the vendors' documentation and were not tried.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import replace

from .ports import PortSet
from .verdict import Fix

__all__ = ["FRONT_ENDS", "WANTS_ROOT", "Rule", "allow", "command"]

WANTS_ROOT = frozenset(
    {
        "/usr/libexec/ApplicationFirewall/socketfilterfw",
        "firewall-cmd",
        "ip6tables",
        "iptables",
        "lsof",
        "netsh",
        "netfilter-persistent",
        "nft",
        "netstat",
        "pfctl",
        "ss",
        "sysctl",
        "ufw",
    },
)
"""First words of commands that need administrator rights, or show more with them."""

_Argv = tuple[str, ...]

_IPV4 = 4

_SLOTS = 15
"""Ports that one rule of ufw or iptables holds; a range takes two (xt_multiport)."""

_MORE_COMMANDS = 5
"""Further commands spelled out for long port lists before the text says "and so on"."""

_AND_SO_ON = "Do the same for the other ports."


class Rule(msgspec.Struct, frozen=True):
    """What shall pass: requests to `ports`, or with `reply` the answers from them.

    `way` is `in` or `out` as the host sees it; `peer` is the other host's
    address, or None where it is not known.
    """

    way: str
    ports: PortSet
    version: int
    peer: str | None = None
    reply: bool = False

    @property
    def transport(self) -> str:
        """`tcp` or `udp`."""
        return self.ports.transport

    @property
    def name(self) -> str:
        """A name for rules that need one, without anything to quote."""
        first = self.ports.ranges[0][0]
        return f"bothends-{self.way}-{self.transport}-{first}"


def allow(front_end: str, rule: Rule, on: str) -> Fix:
    """Return the fix that lets `rule` through `front_end`, one of `FRONT_ENDS`, on role `on`."""
    return FRONT_ENDS[front_end](rule, on)


def command(*words: str) -> str:
    """Return a command as it stands in a step: quoted for a shell, between backticks."""
    return f"`{shlex.join(words)}`"


def _ufw(rule: Rule, on: str) -> Fix:
    if rule.reply:
        file = "before.rules" if rule.version == _IPV4 else "before6.rules"
        return Fix(
            on=on,
            title="Restore the rule of ufw that lets answers through",
            argv=("ufw", "reload"),
            steps=(
                "ufw lets answers through by itself; reloading puts its rules back.",
                (
                    f"If that does not help, look in /etc/ufw/{file}: among its first rules must "
                    "be those that accept RELATED,ESTABLISHED for incoming and outgoing packets."
                ),
            ),
        )
    commands = [_ufw_allow(part) for part in _parts(rule)]
    narrow = _only_peer(rule, lambda part: _ufw_rule("allow", part))
    return Fix(
        on=on,
        title=f"Allow {_what(rule)} in ufw",
        argv=commands[0],
        steps=(
            *_rest(commands),
            *narrow,
            *_ufw_order(rule),
        ),
    )


def _ufw_allow(rule: Rule) -> _Argv:
    ports = _colons(rule.ports)
    if rule.way == "in" and "," not in ports:
        return ("ufw", "allow", f"{ports}/{rule.transport}")
    out = ("out",) if rule.way == "out" else ()
    return ("ufw", "allow", *out, "proto", rule.transport, "to", "any", "port", ports)


def _ufw_rule(verb: str, rule: Rule) -> _Argv:
    peer = rule.peer or "any"
    ports = ("port", _colons(rule.ports))
    if rule.way == "in":
        return ("ufw", *verb.split(), "proto", rule.transport, "from", peer, "to", "any", *ports)
    return ("ufw", *verb.split(), "out", "proto", rule.transport, "to", peer, *ports)


def _ufw_order(rule: Rule) -> Iterator[str]:
    yield (
        f"ufw takes the first rule that matches. If {command('ufw', 'status', 'numbered')} shows "
        "a DENY or REJECT further up that matches too, delete that by its number "
        "(`ufw delete NUMBER`), or put a permission before it."
    )
    if rule.peer is not None:
        # One that names no peer would be skipped where the other rule differs by its verb only.
        words = _ufw_rule("prepend allow", next(_parts(rule)))
        yield f"A permission before all other rules: {command(*words)}"


def _firewalld(rule: Rule, on: str) -> Fix:
    if rule.reply:
        return Fix(
            on=on,
            title="Restore the rules of firewalld that let answers through",
            argv=("firewall-cmd", "--reload"),
            steps=(
                (
                    "firewalld lets answers through by itself; reloading puts its rules back. It "
                    "drops settings that were made for the running firewall only."
                ),
                (
                    "If that does not help, look for rules beside its zones: "
                    f"{command('firewall-cmd', '--direct', '--get-all-rules')} and "
                    f"{command('firewall-cmd', '--list-all-policies')}"
                ),
            ),
        )
    return _firewalld_in(rule, on) if rule.way == "in" else _firewalld_out(rule, on)


def _firewalld_in(rule: Rule, on: str) -> Fix:
    ports = _firewalld_ports(rule)
    steps = [
        *_incomplete(rule),
        "It works at once, until firewalld is reloaded. When it helped, keep it: "
        + command("firewall-cmd", "--permanent", *ports),
        (
            f"{command('firewall-cmd', '--get-active-zones')} shows the zone of each network card. "
            "If the one towards the source is in another zone than the default one, add "
            "--zone=NAME."
        ),
    ]
    if rule.peer is not None:
        rich = [f"--add-rich-rule={_rich(rule, port)}" for port in _dashes(rule)[:_MORE_COMMANDS]]
        steps.append(
            "To let in this source only, and before rules that deny, use instead: "
            + command("firewall-cmd", *rich),
        )
    return Fix(
        on=on,
        title=f"Allow {_what(rule)} in firewalld",
        argv=("firewall-cmd", *ports),
        steps=tuple(steps),
    )


def _firewalld_out(rule: Rule, on: str) -> Fix:
    ports = _firewalld_ports(rule)
    return Fix(
        on=on,
        title=f"Allow {_what(rule)} in the firewalld policy that blocks it",
        argv=("firewall-cmd", "--list-all-policies"),
        steps=(
            *_incomplete(rule),
            (
                "Zones of firewalld never block outgoing connections, policies do: look for one "
                "with HOST among its ingress-zones and the target DROP or REJECT, or with a rich "
                "rule that rejects or drops."
            ),
            f"With its name in place of NAME: {command('firewall-cmd', '--policy=NAME', *ports)}",
            "When it helped, keep it: "
            + command("firewall-cmd", "--permanent", "--policy=NAME", *ports),
            "If there is no such policy, look for direct rules: "
            + command("firewall-cmd", "--direct", "--get-all-rules"),
        ),
    )


def _firewalld_ports(rule: Rule) -> _Argv:
    return tuple(f"--add-port={port}/{rule.transport}" for port in _dashes(rule))


def _rich(rule: Rule, port: str) -> str:
    # Priorities below 0 come before the zone's deny rules (firewalld.richlanguage(5)).
    return (
        f'rule priority="-100" family="ipv{rule.version}" source address="{rule.peer}" '
        f'port port="{port}" protocol="{rule.transport}" accept'
    )


def _nftables(rule: Rule, on: str) -> Fix:
    chain = "input" if rule.way == "in" else "output"
    insert = ("nft", "insert", "rule", "inet", "filter", chain)
    commands: list[_Argv]
    if rule.reply:
        commands = [(*insert, "ct", "state", "established,related", "accept")]
    else:
        commands = [(*insert, *_nft_ports(part), "accept") for part in _parts(rule)]
    narrow = _only_peer(rule, lambda part: (*insert, *_nft_peer(part), "accept"))
    return Fix(
        on=on,
        title=f"{_verb(rule)} {_what(rule)} in nftables",
        argv=commands[0],
        steps=(
            *_rest(commands),
            *narrow,
            (
                f"The chain may have another name: {command('nft', 'list', 'chains')} lists them "
                f"all. Each one with `hook {chain}` must let it pass; put its family, table and "
                f"chain in place of inet filter {chain}."
            ),
            (
                "The rule stands before all others of the chain, until the rules are loaded again. "
                "When it helped, write it into the file they are loaded from, often "
                "/etc/nftables.conf, before the rule that drops."
            ),
        ),
    )


def _nft_ports(rule: Rule) -> _Argv:
    ports = str(rule.ports)
    side = "sport" if rule.reply else "dport"
    return (rule.transport, side, f"{{{ports}}}" if "," in ports else ports)


def _nft_peer(rule: Rule) -> _Argv:
    family = "ip" if rule.version == _IPV4 else "ip6"
    side = "saddr" if rule.way == "in" else "daddr"
    state = ("ct", "state", "established") if rule.reply else ()
    return (family, side, rule.peer or "", *_nft_ports(rule), *state)


def _iptables(rule: Rule, on: str) -> Fix:
    tool = "iptables" if rule.version == _IPV4 else "ip6tables"
    chain = "INPUT" if rule.way == "in" else "OUTPUT"
    insert = (tool, "-I", chain)
    accept = ("-j", "ACCEPT")
    commands: list[_Argv]
    if rule.reply:
        state = ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED")
        commands = [(*insert, *state, *accept)]
    else:
        commands = [(*insert, *_iptables_ports(part), *accept) for part in _parts(rule)]
    narrow = _only_peer(rule, lambda part: (*insert, *_iptables_peer(part), *accept))
    return Fix(
        on=on,
        title=f"{_verb(rule)} {_what(rule)} in {tool}",
        argv=commands[0],
        steps=(
            *_rest(commands),
            *narrow,
            f"The rule stands first in the chain {chain} until the next restart. When it helped, "
            "keep it; with the package iptables-persistent: "
            + command("netfilter-persistent", "save"),
        ),
    )


def _iptables_ports(rule: Rule) -> _Argv:
    ports = _colons(rule.ports)
    side = "sport" if rule.reply else "dport"
    if "," in ports:
        return ("-p", rule.transport, "-m", "multiport", f"--{side}s", ports)
    return ("-p", rule.transport, f"--{side}", ports)


def _iptables_peer(rule: Rule) -> _Argv:
    side = "-s" if rule.way == "in" else "-d"
    state = ("-m", "conntrack", "--ctstate", "ESTABLISHED") if rule.reply else ()
    return (side, rule.peer or "", *_iptables_ports(rule), *state)


def _windows(rule: Rule, on: str) -> Fix:
    if rule.reply:
        return Fix(
            on=on,
            title="Look for security software that drops the answers",
            steps=(
                (
                    "The Windows firewall lets answers to a connection through by itself, so "
                    "another program with a firewall of its own is the likely cause: antivirus, "
                    "parental control, VPN. Switch these off one at a time and test after each."
                ),
            ),
        )
    side = "localport" if rule.way == "in" else "remoteport"
    ports = next(_parts(rule)).ports
    argv = _netsh(rule, f"{side}={ports}")
    cmdlet = "Inbound" if rule.way == "in" else "Outbound"
    narrow = _only_peer(rule, lambda part: (*argv, f"remoteip={part.peer}"))
    parameter = "-LocalPort" if rule.way == "in" else "-RemotePort"
    return Fix(
        on=on,
        title=f"Allow {_what(rule)} in the Windows firewall",
        argv=argv,
        steps=(
            (
                "Type the command into a Command Prompt that was opened with Run as administrator. "
                f"In PowerShell the same is: `New-NetFirewallRule -DisplayName {rule.name} "
                f"-Direction {cmdlet} -Action Allow -Protocol {rule.transport.upper()} "
                f"{parameter} {ports}`"
            ),
            *_incomplete(rule),
            *narrow,
            (
                "A rule that blocks wins over every rule that allows: in Windows Defender Firewall "
                f"with Advanced Security, under {cmdlet} Rules, disable those that block it."
            ),
            (
                "A rule for a program names its file: after an update that moved the file it "
                "matches no more. Remove the program's rules there and allow it anew."
            ),
        ),
    )


def _netsh(rule: Rule, ports: str) -> _Argv:
    return (
        *("netsh", "advfirewall", "firewall", "add", "rule"),
        f"name={rule.name}",
        f"dir={rule.way}",
        "action=allow",
        f"protocol={rule.transport.upper()}",
        ports,
    )


def _macos(rule: Rule, on: str) -> Fix:
    if rule.way == "out" or rule.reply:
        return Fix(
            on=on,
            title="Look for software that filters connections on the Mac",
            argv=("pfctl", "-sr"),
            steps=(
                (
                    "The firewall in the settings of macOS leaves this traffic alone. Programs "
                    "such as Little Snitch, Hands Off!, LuLu or a VPN filter it: switch these off "
                    "one at a time and test again after each."
                ),
                (
                    "The command lists the rules of the packet filter pf; one that says block may "
                    "also be the cause."
                ),
            ),
        )
    tool = "/usr/libexec/ApplicationFirewall/socketfilterfw"
    return Fix(
        on=on,
        title="Allow the program in the macOS firewall",
        argv=(tool, "--listapps"),
        steps=(
            (
                "Open System Settings > Network > Firewall > Options, switch off Block all "
                "incoming connections, and set the program that runs the service to Allow incoming "
                "connections; add it with + if it is not in the list."
            ),
            (
                "The command lists the programs that the firewall knows. It goes by program, not "
                f"by port; with the program's path in place of PATH: "
                f"{command(tool, '--add', 'PATH')} and {command(tool, '--unblockapp', 'PATH')}"
            ),
            "After an update of the program, remove it from the list and add it again.",
        ),
    )


FRONT_ENDS: dict[str, Callable[[Rule, str], Fix]] = {
    "ufw": _ufw,
    "firewalld": _firewalld,
    "nftables": _nftables,
    "iptables": _iptables,
    "windows": _windows,
    "macos": _macos,
}
"""By the names of `evidence.Firewall`; those that manage others come first."""


def _what(rule: Rule) -> str:
    if rule.reply:
        return "answers"
    word = "port" if len(rule.ports) == 1 else "ports"
    way = "incoming" if rule.way == "in" else "outgoing"
    return f"{way} {rule.transport.upper()} {word} {_short(rule.ports)}"


def _verb(rule: Rule) -> str:
    return "Let through" if rule.reply else "Allow"


def _other(rule: Rule) -> str:
    # Requests come in at the destination, answers at the source.
    return "this source" if (rule.way == "in") != rule.reply else "this destination"


def _short(ports: PortSet) -> str:
    shown = ports.ranges[:_MORE_COMMANDS]
    more = ",..." if len(ports.ranges) > len(shown) else ""
    return f"{PortSet(ports.transport, shown)}{more}"


def _colons(ports: PortSet) -> str:
    return str(ports).replace("-", ":")


def _dashes(rule: Rule) -> list[str]:
    return str(next(_parts(rule)).ports).split(",")


def _parts(rule: Rule) -> Iterator[Rule]:
    """Split `rule` so that each part fits into one rule of every front-end."""
    left = _SLOTS
    part: list[tuple[int, int]] = []
    for bounds in rule.ports.ranges:
        slots = 1 if bounds[0] == bounds[1] else 2
        if slots > left:
            yield replace(rule, ports=PortSet(rule.transport, tuple(part)))
            part, left = [], _SLOTS
        part.append(bounds)
        left -= slots
    yield replace(rule, ports=PortSet(rule.transport, tuple(part)))


def _rest(commands: list[_Argv]) -> Iterator[str]:
    for words in commands[1 : 1 + _MORE_COMMANDS]:
        yield f"Also run: {command(*words)}"
    if len(commands) > 1 + _MORE_COMMANDS:
        yield _AND_SO_ON


def _incomplete(rule: Rule) -> Iterator[str]:
    if next(_parts(rule)).ports != rule.ports:
        yield _AND_SO_ON


def _only_peer(rule: Rule, build: Callable[[Rule], _Argv]) -> Iterator[str]:
    """Yield the narrower alternative, as a step, where the peer's address is known."""
    if rule.peer is None:
        return
    words = build(next(_parts(rule)))
    yield f"To allow it for {_other(rule)} only, use instead: {command(*words)}"
