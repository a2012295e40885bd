"""Faults: the things that block, each a value that does its work when called with the stage.

Most are real nftables rules, built by small functions so that a row of the
table of scenarios reads like what it does. Every rule has a counter, which
``hits`` reads, so that a test can show that a fault was met at all. Several
faults on one host do not disturb each other: each has a table of its own, and a
packet that one of them drops is dropped.

In rules ``{from_source}``, ``{to_destination}``, ... stand for a match on that
address in its IP version; a brace of nftables' own is written twice.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable

from .network import DEVICE, PLAIN_CARD, Stage

__all__ = [
    "ADMIN",
    "MDNS",
    "PORT_UNREACHABLE",
    "RESET",
    "Fault",
    "Rules",
    "black_hole",
    "closed",
    "contact_resets",
    "control_blocked",
    "default_deny",
    "delay",
    "destination_drop",
    "destination_drop_at_card",
    "destination_drop_raw",
    "destination_drop_replies",
    "destination_reject",
    "half_open",
    "hits",
    "isolated",
    "loss",
    "no_local_ports",
    "no_multicast",
    "no_neighbour",
    "no_way_back",
    "path_drop",
    "path_drop_replies",
    "path_reject",
    "policed",
    "rules",
    "source_drop",
    "source_drop_at_card",
    "source_drop_replies",
    "source_reject",
    "strict_reverse_path",
]

Fault = Callable[[Stage], object]

RESET = "tcp reset"
PORT_UNREACHABLE = "icmpx port-unreachable"
ADMIN = "icmpx admin-prohibited"
"""How a rule can refuse: what follows ``reject with``."""

MDNS = "udp dport 5353"
"""What a firewall lets in that lets mDNS in: ``default_deny(MDNS)``."""

CONTROL_PORT = 24242
_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Rules:
    """One chain of nftables rules on one host."""

    on: str
    hook: str
    rules: tuple[str, ...]
    policy: str = "accept"
    priority: str = "filter"
    family: str = "inet"

    def __call__(self, stage: Stage) -> None:
        stage.host(self.on).nft(self.text(stage))

    def text(self, stage: Stage) -> str:
        device = f' device "{DEVICE}"' if self.family == "netdev" else ""
        policy = f" policy {self.policy};" if self.family != "netdev" else ""
        body = "\n".join(f"    {rule.format_map(_matches(stage))}" for rule in self.rules)
        return (
            f"table {self.family} fault{next(_numbers)} {{\n"
            f"  chain {self.hook} {{\n"
            f"    type filter hook {self.hook}{device} priority {self.priority};{policy}\n"
            f"{body}\n  }}\n}}\n"
        )


def _matches(stage: Stage) -> dict[str, str]:
    ends = ("source", "destination")
    return {f"from_{end}": stage.sees("saddr", end) for end in ends} | {
        f"to_{end}": stage.sees("daddr", end) for end in ends
    }


def rules(on: str, hook: str, *lines: str) -> Rules:
    """Rules as they are, in a chain of the ordinary filter."""
    return Rules(on, hook, lines)


def hits(stage: Stage, on: str) -> int:
    """How many packets the rules of all faults on a host have met."""
    listing = json.loads(stage.host(on).run(["nft", "-j", "list", "ruleset"]).stdout)
    rule_texts = [entry["rule"]["expr"] for entry in listing["nftables"] if "rule" in entry]
    return sum(
        part["counter"]["packets"] for expr in rule_texts for part in expr if "counter" in part
    )


def _request(port: int | str) -> str:
    """Matches what opens a connection to the port; sets of ports as nftables writes them."""
    return f"tcp dport {_escaped(port)}"


def _reply(port: int | str) -> str:
    """Matches the answer to it (and what a service that runs sends later)."""
    return f"tcp sport {_escaped(port)}"


def _escaped(port: int | str) -> str:
    """A set of ports has braces, which mean something else in a rule here."""
    return str(port).replace("{", "{{").replace("}", "}}")


# -- on the destination


def destination_drop(port: int | str = 4242) -> Rules:
    """The usual firewall: no answer at all."""
    return rules("destination", "input", f"{_request(port)} counter drop")


def destination_reject(how: str = RESET, port: int | str = 4242) -> Rules:
    return rules("destination", "input", f"{_request(port)} counter reject with {how}")


def destination_drop_raw(port: int | str = 4242) -> Rules:
    """Before connection tracking, where few people look."""
    return Rules("destination", "prerouting", (f"{_request(port)} counter drop",), priority="raw")


def destination_drop_at_card(port: int | str = 4242) -> Rules:
    """Below the IP layer: the kernel's counters do not know of the packet."""
    return Rules(
        "destination", "ingress", (f"{_request(port)} counter drop",), priority="0", family="netdev"
    )


def destination_drop_replies(port: int | str = 4242) -> Rules:
    """The request is let in, the SYN-ACK is not let out."""
    return rules("destination", "output", f"{_reply(port)} counter drop")


def default_deny(*allowed: str, on: str = "destination") -> Rules:
    """A firewall as distributions set it up: answers, loopback and ND in, the rest not.

    ``allowed`` are further matches: ``tcp dport 24242``.
    """
    accepted = (
        "ct state established,related",
        'iif "lo"',
        "icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }}",
        *allowed,
    )
    return Rules(
        on, "input", (*(f"{match} accept" for match in accepted), "counter drop"), policy="drop"
    )


def closed(*allowed: str) -> Fault:
    """Both hosts let nothing in but answers, and what is allowed: ``closed(MDNS)``."""

    def close(stage: Stage) -> None:
        for end in ("source", "destination"):
            default_deny(*allowed, on=end)(stage)

    close.__name__ = "_".join(("closed", *allowed)).replace(" ", "_")
    return close


def strict_reverse_path(stage: Stage) -> None:
    """Drop what comes in by another way than answers would go (needs an asymmetric route)."""
    stage.destination.sysctl(ipv4__conf__all__rp_filter=1)


def no_way_back(stage: Stage) -> None:
    """Take the destination's route to the source away; requests still come in."""
    stage.destination.sysctl(
        ipv4__conf__all__rp_filter=0, **{f"ipv4__conf__{DEVICE}__rp_filter": 0}
    )
    stage.destination.ip([f"route add unreachable {stage.source_address}"])


# -- on the source


def source_drop(port: int | str = 4242) -> Rules:
    return rules("source", "output", f"{_request(port)} counter drop")


def source_reject(how: str = RESET, port: int | str = 4242) -> Rules:
    return rules("source", "output", f"{_request(port)} counter reject with {how}")


def source_drop_at_card(port: int | str = 4242) -> Rules:
    """Below the IP layer, on the way out."""
    return Rules(
        "source", "egress", (f"{_request(port)} counter drop",), priority="0", family="netdev"
    )


def source_drop_replies(port: int | str = 4242) -> Rules:
    """The SYN-ACK reaches the card and goes no further."""
    return rules("source", "input", f"{_reply(port)} counter drop")


def no_neighbour(stage: Stage) -> None:
    """Nobody answers for the destination's address any more: the source never gets to send."""
    stage.destination.nft(
        f"""table arp fault{next(_numbers)} {{
  chain input {{
    type filter hook input priority filter; policy accept;
    arp daddr ip {stage.destination_address} counter drop
  }}
}}
"""
    )
    stage.source.ip([f"neigh flush to {stage.destination_address} dev {DEVICE}"])


# -- on the way


def path_drop(port: int | str = 4242, router: int = 1) -> Rules:
    return rules(f"router{router}", "forward", f"{_request(port)} counter drop")


def path_reject(how: str = ADMIN, port: int | str = 4242, router: int = 1) -> Rules:
    """By ICMP, or with ``RESET`` by a reset that bears the destination's address."""
    return rules(f"router{router}", "forward", f"{_request(port)} counter reject with {how}")


def path_drop_replies(port: int | str = 4242, router: int = 1) -> Rules:
    return rules(f"router{router}", "forward", f"{_reply(port)} counter drop")


def isolated(stage: Stage) -> None:
    """Both reach the rest of the segment, but not each other."""
    network = stage.network
    network.isolate(network.port(stage.source), network.port(stage.destination))


_ASK = """
import errno, socket, sys, time
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
asked = [socket.socket(family) for _ in range(count)]
for sock in asked:
    sock.setblocking(False)
    assert sock.connect_ex((address, port)) == errno.EINPROGRESS
print("asked", flush=True)
time.sleep(600)
"""


def half_open(on: str, *, cookies: int, count: int = 20, port: int = 4242) -> Fault:
    """A host asks the destination for connections, and drops all answers to these.

    `cookies` is the destination's tcp_syncookies: 0, 1 (where the queue is full) or 2 (always).
    """

    def ask(stage: Stage) -> None:
        stage.destination.sysctl(ipv4__tcp_syncookies=cookies)
        if on != "source":
            rules(on, "input", f"tcp sport {port} counter drop")(stage)
        argv = [sys.executable, "-IS", "-c", _ASK, stage.destination_address, str(port), str(count)]
        if count:
            stage.host(on).popen(argv, piped=True).wait_for_output("asked")

    ask.__name__ = f"half_open_{count}_from_{on}_cookies_{cookies}"
    return ask


_TAKE = """
import socket, sys, time
taken = []
for port in range(int(sys.argv[1]), int(sys.argv[2]) + 1):
    sock = socket.socket(socket.AF_INET6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    sock.listen()
    taken.append(sock)
print("taken", flush=True)
time.sleep(600)
"""


def no_local_ports(stage: Stage) -> None:
    """The source has a range of four ports for connections, and programs hold all of them."""
    first, last = "40000", "40003"
    stage.source.sysctl(ipv4__ip_local_port_range=f"{first} {last}")
    argv = [sys.executable, "-IS", "-c", _TAKE, first, last]
    stage.source.popen(argv, piped=True).wait_for_output("taken")


def loss(percent: float) -> Fault:
    """Lose that share of the packets, in each direction."""

    def lose(stage: Stage) -> None:
        for host in (stage.source, stage.destination):
            stage.network.lose(stage.network.port(host), percent)

    lose.__name__ = f"loss_{percent:g}"
    return lose


def delay(milliseconds: float) -> Fault:
    """Make the round trip that much longer."""

    def slow(stage: Stage) -> None:
        stage.network.delay(stage.network.port(stage.source), milliseconds / 2)

    slow.__name__ = f"delay_{milliseconds:g}"
    return slow


def no_multicast(stage: Stage) -> None:
    """The switch passes none on; with it goes IPv6, which finds its neighbours by multicast."""
    _in_switch(
        stage, "forward", "ip daddr 224.0.0.0/4 counter drop", "ip6 daddr ff00::/8 counter drop"
    )


def control_blocked(
    *transports: str, to: str | None = None, reject: bool = False, port: int = CONTROL_PORT
) -> Fault:
    """The control port is closed on the way to one host, or to both, by TCP, by UDP or by both.

    By the receiving host's own filter where it is rejected, else in the switch, before it.
    """

    def block(stage: Stage) -> None:
        for end in ("source", "destination") if to is None else (to,):
            matches = [f"{transport} dport {port}" for transport in transports]
            if reject:
                lines = [f"{match} counter reject with {PORT_UNREACHABLE}" for match in matches]
                rules(end, "input", *lines)(stage)
            else:
                where = stage.sees("daddr", end)
                _in_switch(stage, "forward", *(f"{where} {one} counter drop" for one in matches))

    block.__name__ = "_".join(("control_blocked", *transports, to or "both"))
    return block


def contact_resets(stage: Stage) -> None:
    """Once a second the source's next word on a TCP connection of the contact ends it by a reset.

    It is the source's own firewall that does so, since a reset may be lost on the way, or come too
    late to have the number that is due (RFC 5961, 3.2). Connections by which the agents count what
    is lost say nothing and are spared. The destination is told nothing, but whatever it sends on
    that connection from then on is answered by a reset. To connect anew is not disturbed.
    """
    once = "tcp flags & (syn | rst | psh) == psh limit rate 1/second burst 1 packets"
    rules(
        "source",
        "output",
        *(
            f"tcp {end} {CONTROL_PORT} {once} counter reject with {RESET}"
            for end in ("dport", "sport")
        ),
    )(stage)


def black_hole(size: int, sender: str | None = None) -> Fault:
    """Packets longer than ``size`` vanish on the way, and nobody is told.

    Those of one end only, ``source`` or ``destination``, where a ``sender`` is named.

    The cards cut what they send themselves, since the switch would see it uncut otherwise.
    """

    def swallow(stage: Stage) -> None:
        for port in stage.network.ports:
            stage.lab.hosts[port.host].python(PLAIN_CARD, port.device)
        whose = "" if sender is None else f"{stage.sees('saddr', sender)} "
        four, six = f"ip length > {size}", f"meta protocol ip6 meta length > {size}"
        for match in (four, six):
            if not whose or whose.startswith("ip6 ") == (match == six):
                _in_switch(stage, "forward", f"{whose}{match} counter drop")

    swallow.__name__ = "_".join(filter(None, (f"black_hole_{size}", sender)))
    return swallow


def policed(kilobytes: int) -> Fault:
    """No more than so many kilobytes a second get through, each way, and four full packets at once.

    What is too much is dropped, as by a router that holds a customer to a rate.
    """

    def police(stage: Stage) -> None:
        for end in ("source", "destination"):
            limit = f"limit rate over {kilobytes} kbytes/second burst 6 kbytes"
            _in_switch(stage, "forward", f"{stage.sees('saddr', end)} {limit} counter drop")

    police.__name__ = f"policed_{kilobytes}"
    return police


def _in_switch(stage: Stage, hook: str, *lines: str) -> None:
    """Rules about frames on their way through the switch."""
    body = "\n".join(f"    {line}" for line in lines)
    stage.network.switch.nft(
        f"""table bridge fault{next(_numbers)} {{
  chain {hook} {{
    type filter hook {hook} priority 0;
{body}
  }}
}}
"""
    )
