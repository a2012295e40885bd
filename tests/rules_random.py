"""Random rule sets for the two hosts of `rules_driver`: ports, addresses and states of theirs.

Not every one can be loaded: some matches exclude each other, and nft says so.
"""

from __future__ import annotations

from random import Random

__all__ = ["iptables_rules", "nft_rules"]

PORTS = ("22", "80", "4242", "5000", "8080", "4241", "1", "65535")
SETS = """
  set ports { type inet_service; elements = { 22, 4242 } }
  set spans { type inet_service; flags interval; elements = { 80-90, 5000 } }
  set nothing { type inet_service; }
  set some4 { type ipv4_addr; elements = { 10.99.0.2, 9.9.9.9 } }
  set spans4 { type ipv4_addr; flags interval; elements = { 10.99.0.0/24, 1.1.1.1-1.1.1.9 } }
  set none4 { type ipv4_addr; flags interval; }
  set some6 { type ipv6_addr; flags interval; elements = { fd99::/64 } }
  set pairs {
    type ipv4_addr . inet_service; flags interval
    elements = { 10.99.0.0/24 . 4242, 1.2.3.4 . 10-20 }
  }
  map verdicts { type inet_service : verdict; elements = { 22 : accept, 5000 : drop } }
"""
PORT_SETS = (*PORTS, "80-5000", "22-80", "{ 22, 80 }", "{ 1, 4242, 5000 }", "@ports", "@spans")
ADDRESSES4 = (
    *("10.99.0.1", "10.99.0.2", "10.0.0.0/8", "1.2.3.4", "10.99.0.2-10.99.0.9", "@none4"),
    *("{ 10.99.0.1, 1.1.1.1 }", "{ 10.99.0.0/30, 2.2.2.2 }", "@some4", "@spans4"),
)
ADDRESSES6 = (
    *("fd99::1", "fd99::2", "fd00::/8", "2001:db8::1", "fd99::2-fd99::9", "@some6"),
    *("{ fd99::1, ::1 }", "{ fd99::/126, 2001::/16 }"),
)
CARDS = ('"v0"', '"lo"', '"v*"', '{ "lo", "v0" }', '{ "lo", "eth*" }', '"eth0"')
STATES = (
    *("new", "established", "established,related", "!= new", "! new,untracked", "invalid"),
    *("{ new, untracked }", "!= { established, related }", "untracked", "new,established"),
)
FLAGS = (
    *("syn", "& (syn|ack) == syn", "& (fin|syn|rst|ack) != syn", "!= syn", "! ack", "ack"),
    *("syn / fin,syn,rst,ack", "syn,ack", "{ syn, ack }", "& (syn|ack) == syn|ack"),
)
OTHERS = (
    *("meta nfproto ipv4", "meta nfproto ipv6", "meta l4proto tcp", "meta l4proto != udp"),
    *("meta l4proto { tcp, udp }", "ip protocol tcp", "ip6 nexthdr tcp", "ip protocol != udp"),
    *("udp dport != 53", "icmp type echo-request", "th dport 4242", "th dport != { 22, 80 }"),
    *("ct direction original", "ct direction reply", "ct status dnat", "ct status ! dnat"),
    *("ct protocol tcp", "ip frag-off & 0x1fff != 0", "exthdr frag exists", "ip version 4"),
    *("limit rate 10000/second", "meta mark 0x7", "meta mark set 0x7", "meta skuid 12345"),
    *("tcp dport & 1 == 0", "ip saddr & 255.255.255.0 == 10.99.0.0", "tcp dport > 4241"),
    *("ip saddr . tcp dport @pairs", "ip saddr . tcp dport != { 10.99.0.2 . 4242 }"),
    *('iifname . tcp dport { "v0" . 22 }', "meta nfproto . tcp dport { ipv4 . 80, ipv6 . 22 }"),
    *("meta pkttype host", "meta pkttype { broadcast, multicast }", "counter"),
)
REJECTS = (
    *("reject with tcp reset", "reject with icmp port-unreachable"),
    *("reject with icmpv6 port-unreachable", "reject"),
)


def _match(random: Random, hook: str) -> str:
    negated = random.choice(("", "", "!= "))
    port = random.choice(PORT_SETS)
    local = ("fib daddr type local", "fib daddr type != local")
    return random.choice(
        (
            *(f"tcp {random.choice(('dport', 'sport'))} {negated}{port}",) * 4,
            f"ip {random.choice(('saddr', 'daddr'))} {negated}{random.choice(ADDRESSES4)}",
            f"ip6 {random.choice(('saddr', 'daddr'))} {negated}{random.choice(ADDRESSES6)}",
            f"{random.choice(('iifname', 'oifname'))} {negated}{random.choice(CARDS)}",
            f"{random.choice(('iif', 'oif'))} {negated}{random.choice(('lo', 'v0'))}",
            f"ct state {random.choice(STATES)}",
            f"tcp flags {random.choice(FLAGS)}",
            random.choice(local) if hook in ("input", "prerouting") else "ct direction original",
            *(random.choice(OTHERS),) * 3,
        )
    )


def _map(random: Random, verdicts: list[str]) -> str:
    one, two, three = (random.choice(verdicts) for _ in range(3))
    return random.choice(
        (
            f"tcp dport vmap {{ 22 : {one}, 80-90 : {two}, 4242 : {three} }}",
            f'iifname vmap {{ "v0" : {one}, "lo" : accept }}',
            f"ct state vmap {{ established : {one}, new : {two}, invalid : drop }}",
            f"meta nfproto vmap {{ ipv4 : {one}, ipv6 : {two} }}",
            f"ip saddr . tcp dport vmap {{ 10.99.0.2 . 22 : {one}, 10.99.0.2 . 80 : {two} }}",
            f"meta mark vmap {{ 0 : {one}, 7 : {two} }}",
            "tcp dport vmap @verdicts",
        )
    )


def _rule(random: Random, hook: str, chains: list[str]) -> str:
    jumps = [f"{verb} {chain}" for chain in chains for verb in ("jump", "goto")]
    if random.random() < 0.12:
        return _map(random, ["accept", "drop", "return", "continue", *jumps])
    matches = " ".join(_match(random, hook) for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3))))
    verdicts = ["accept", "accept", "drop", "drop", "return", "continue", "counter", *jumps]
    # Lists `meta nfproto ipv4 reject with tcp reset` without the first match: nft 1.0.6.
    if hook in ("input", "output") and "nfproto" not in matches:
        verdicts += REJECTS
    return f"{matches} {random.choice(verdicts)}".strip()


def nft_rules(seed: int) -> str:
    """Return tables of nftables for the command `nft -f`."""
    random = Random(seed)
    every = ("input", "input", "input", "output", "output", "prerouting", "postrouting")
    hooks = [random.choice(every) for _ in range(random.choice((1, 1, 2)))]
    lines = ["table inet t {", SETS]
    chains: list[str] = []
    for number in range(random.choice((0, 1, 2, 3))):
        where = hooks[0] if len(set(hooks)) == 1 else "any"
        body = [_rule(random, where, chains) for _ in range(random.choice((1, 2, 3)))]
        chains.append(f"c{number}")
        lines += [f"chain c{number} {{", *body, "}"]
    for number, hook in enumerate(hooks):
        priority, policy = random.choice((-400, -300, -200, -150, 0, 0, 10)), "accept"
        if random.random() < 0.25:
            policy = "drop"
        head = f"type filter hook {hook} priority {priority}; policy {policy};"
        body = [_rule(random, hook, chains) for _ in range(random.choice((1, 2, 3, 4, 6)))]
        lines += [f"chain b{number} {{", head, *body, "}"]
    lines += [*_nat(random), *_untracked(random), "}", *_card(random)]
    return "\n".join(lines)


def _nat(random: Random) -> list[str]:
    if random.random() > 0.15:
        return []
    match = random.choice(("tcp dport 80", "tcp dport { 22, 80 }", "meta mark 0 tcp dport 22"))
    targets = (
        *("redirect to :4242", "redirect", "dnat ip to 10.99.0.1:4242", "dnat ip to 10.99.0.1"),
        "dnat ip to tcp dport map { 80 : 10.99.0.1 }",
    )
    head = "type nat hook prerouting priority -100;"
    return ["chain n {", head, f"{match} {random.choice(targets)}", "}"]


def _untracked(random: Random) -> list[str]:
    if random.random() > 0.1:
        return []
    rule = random.choice(("notrack", "tcp dport 22 notrack", "meta mark 0 notrack"))
    return ["chain u {", "type filter hook prerouting priority -300;", rule, "}"]


def _card(random: Random) -> list[str]:
    if random.random() > 0.15:
        return []
    hook, card = random.choice((("ingress", "v0"), ("egress", "v0"), ("ingress", "lo")))
    rules = ("tcp dport 22 drop", "ip saddr 10.99.0.2 drop", 'iifname "v0" tcp flags syn drop')
    head = f'type filter hook {hook} device "{card}" priority 0;'
    return ["table netdev n {", "chain x {", head, random.choice(rules), "}", "}"]


# -- iptables

TABLES = {
    "filter": ("INPUT", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
}
NUMBERS = {
    4: ("10.99.0.1", "10.99.0.2", "10.99.0.0/24", "10.0.0.0/8", "1.2.3.4", "10.0.0.2/255.0.0.255"),
    6: ("fd99::1", "fd99::2", "fd99::/64", "2001:db8::1"),
}
SPANS = {4: "10.99.0.1-10.99.0.9", 6: "fd99::1-fd99::9"}
PLAIN = (
    *('-m comment --comment "a -j DROP"', "-m pkttype --pkt-type multicast", "-p 17", "-p 6"),
    *("-m limit --limit 1000/sec", "-m mark --mark 0x7", "-p all", "! -p udp"),
    *("-p udp -m udp --dport 53", "-m conntrack --ctdir ORIGINAL", "-m conntrack --ctdir REPLY"),
)


def _condition(random: Random, chain: str, version: int) -> str:
    negated = random.choice(("", "", "! "))
    states = random.choice(("NEW", "ESTABLISHED,RELATED", "INVALID", "NEW,UNTRACKED"))
    flags = ("FIN,SYN,RST,ACK SYN", "SYN,ACK SYN,ACK", "ALL NONE")
    kinds = [
        *(f"-p tcp -m tcp {negated}--dport {random.choice(PORTS)}",) * 2,
        f"-p tcp -m tcp {negated}--sport {random.choice(('22', '80:5000'))}",
        f"-p tcp -m multiport {negated}--dports {random.choice(('22,80', '1,4000:4300'))}",
        f"-p tcp -m tcp {negated}--tcp-flags {random.choice(flags)}",
        f"{negated}{random.choice(('-s', '-d'))} {random.choice(NUMBERS[version])}",
        f"-m conntrack {negated}--ctstate {states}",
        f"-m state --state {states}",
        f"-m iprange --src-range {SPANS[version]}",
        random.choice(PLAIN),
        "",
    ]
    if chain in ("INPUT", "PREROUTING"):
        kinds.append(f"{negated}-i {random.choice(('v0', 'lo', 'v+', 'eth+'))}")
        kinds.append(f"-m addrtype {negated}--dst-type {random.choice(('LOCAL', 'MULTICAST'))}")
    elif chain in ("OUTPUT", "POSTROUTING"):
        kinds.append(f"{negated}-o {random.choice(('v0', 'lo', 'v+', 'eth+'))}")
    return random.choice(kinds)


def _target(random: Random, table: str, below: list[str]) -> str:
    targets = ["-j ACCEPT", "-j DROP", "-j RETURN", '-j LOG --log-prefix "x y"', ""]
    targets += [f"{verb} {chain}" for chain in below for verb in ("-j", "-g")]
    targets += {
        "filter": ["-j REJECT"],
        "mangle": ["-j MARK --set-mark 5"],
        "raw": ["-j CT --notrack"],
    }[table]
    return random.choice(targets)


def iptables_rules(seed: int, version: int) -> str:
    """Return a table for the command iptables-restore (4) or ip6tables-restore (6)."""
    random = Random(f"{seed} {version}")
    table = random.choice(("filter", "filter", "filter", "mangle", "raw"))
    policies = ("ACCEPT",) * 8 + ("DROP",)
    own = [f"u{number}" for number in range(random.choice((0, 1, 2)))]
    lines = [f"*{table}"]
    lines += [f":{chain} {random.choice(policies)} [0:0]" for chain in TABLES[table]]
    lines += [f":{chain} - [0:0]" for chain in own]
    for number, chain in enumerate((*own, *TABLES[table])):
        for _ in range(random.choice((1, 2, 3, 4))):
            condition = _condition(random, chain, version)
            lines.append(f"-A {chain} {condition} {_target(random, table, own[:number])}")
    if random.random() < 0.15:
        port = random.choice(("22", "80"))
        lines += ["COMMIT", "*nat", ":PREROUTING ACCEPT [0:0]"]
        lines.append(f"-A PREROUTING -p tcp -m tcp --dport {port} -j REDIRECT --to-ports 4242")
    return "\n".join([*lines, "COMMIT", ""])
