"""Rows about large packets: a way that swallows them, and ways that only look like one.

What the switch swallows stands for a tunnel or a network whose limit nobody tells.
Across routers the limit is a real one: a link with a smaller MTU, whose router
says so by ICMP, or may not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from . import faults, network
from .faults import Fault, rules
from .grading import Expected, blocked, both_ways, open_
from .hosts import Lab
from .network import DEVICE, Network, Stage
from .rows import (
    DESTINATION_DROP,
    DESTINATION_REJECT,
    LOOPBACK_ONLY,
    LOSS,
    MTU,
    NOT_RUNNING,
    SOURCE_DROP,
    with_users,
)
from .scenario import Scenario
from .services import Service

__all__ = ["rows"]

LARGE_ISSUE = 6
"""The issue that asks for it."""

ECHO = Service()
ECHO6 = Service(bind=("::",))
SILENT = Service(mode="silent")
LOOPBACK = Service(bind=("127.0.0.1",))

NARROW = 1400
"""Bytes that the narrow link takes."""

TOO_BIG = (
    "icmp type destination-unreachable icmp code frag-needed counter drop",
    "icmpv6 type packet-too-big counter drop",
)
"""Matches the messages by which a router tells its limit."""

CLAMP = f"tcp flags syn tcp option maxseg size > {NARROW - 40} tcp option maxseg size set"

WITH_LOSS = dataclasses.replace(blocked(MTU), allowed_warnings=frozenset({LOSS}))
OPEN_WITH_LOSS = dataclasses.replace(open_(), allowed_warnings=frozenset({LOSS}))


def narrow(lab: Lab) -> Stage:
    """Two routers between, and the link between them is narrow."""
    return _narrowed(network.routed2(lab))


def narrow6(lab: Lab) -> Stage:
    """The same with IPv6 alone."""
    source, destination = lab.host("source"), lab.host("destination")
    wires, routers = Network(lab), (lab.host("router1"), lab.host("router2"))
    for segment, (near, far) in enumerate(
        ((source, routers[0]), (routers[0], routers[1]), (routers[1], destination))
    ):
        outward = "eth1" if near in routers else DEVICE
        wires.attach(near, f"seg{segment}", f"fd{segment:02}::1/64", device=outward)
        wires.attach(far, f"seg{segment}", f"fd{segment:02}::2/64")
    for host in routers:
        wires.router(host)
    wires.route(source, "default via fd00::2")
    wires.route(routers[0], "fd02::/64 via fd01::2")
    wires.route(routers[1], "fd00::/64 via fd01::1")
    wires.route(destination, "default via fd02::1")
    wires.up()
    return _narrowed(Stage(wires, source, destination, "fd00::1", "fd02::2", routers))


def _narrowed(stage: Stage) -> Stage:
    for router, device in zip(stage.routers, ("eth1", DEVICE), strict=True):
        router.ip([f"link set dev {device} mtu {NARROW}"])
    return stage


def homes(lab: Lab) -> Stage:
    """Two homes, and the destination's router forwards the service and the control port."""
    return network.home_pair(lab, forwards=["tcp dport { 4242, 24242 } dnat ip to 192.168.1.20"])


def jumbo(lab: Lab) -> Stage:
    """Two hosts whose cards take frames of 9,000 bytes, and so does the switch."""
    stage = network.lan(lab)
    ports = [port.name for port in stage.network.ports]
    stage.network.switch.ip([f"link set dev {name} mtu 9000" for name in (*ports, network.SEGMENT)])
    for host in (stage.source, stage.destination):
        host.ip([f"link set dev {DEVICE} mtu 9000"])
    return stage


def untold(stage: Stage) -> None:
    """The routers' words about their limit are filtered, by themselves."""
    for number in range(1, len(stage.routers) + 1):
        rules(f"router{number}", "output", *TOO_BIG)(stage)


def unheard(stage: Stage) -> None:
    """The routers tell their limit, and the firewalls of both hosts keep that out."""
    for end in ("source", "destination"):
        rules(end, "input", *TOO_BIG)(stage)


def clamped(stage: Stage) -> None:
    """The first router has TCP agree on segments that fit."""
    rules("router1", "forward", f"{CLAMP} {NARROW - 40} counter")(stage)


def searching(stage: Stage) -> None:
    """Both systems find by themselves which size passes, once nothing is answered."""
    for host in (stage.source, stage.destination):
        host.sysctl(ipv4__tcp_mtu_probing=1)


def _row(name: str, expected: Expected, *put: Fault, **row: Any) -> Iterator[Scenario]:
    fields = {"services": (ECHO,), **row}
    yield from with_users(
        Scenario(name=f"mtu-{name}", expected=expected, issue=LARGE_ISSUE, faults=put, **fields)
    )


def rows() -> Iterator[Scenario]:
    """All of them."""
    yield from _swallowed()
    yield from _beside_others()
    yield from _by_udp()
    yield from _across_routers()
    yield from _no_black_hole()
    yield from _from_afar()


def _swallowed() -> Iterator[Scenario]:
    for size in (1400, 1300):
        yield from _row(f"{size}", blocked(MTU), faults.black_hole(size))
    for end in ("source", "destination"):
        yield from _row(f"1400-from-{end}", blocked(MTU), faults.black_hole(1400, end))
    yield from _row(
        "1400-silent-service", blocked(MTU), faults.black_hole(1400), services=(SILENT,)
    )
    yield from _row(
        "1400-ipv6", blocked(MTU), faults.black_hole(1400), network=network.lan6, services=(ECHO6,)
    )
    for end in ("source", "destination"):
        yield from _row(
            f"1400-ipv6-from-{end}",
            blocked(MTU),
            faults.black_hole(1400, end),
            network=network.lan6,
            services=(ECHO6,),
        )
    yield from _row("jumbo", blocked(MTU), faults.black_hole(1500), network=jumbo)
    yield from _row("1400-homes", blocked(MTU), faults.black_hole(1400), network=homes)
    yield from _row(
        "1400-two-ports",
        blocked(MTU, NOT_RUNNING),
        faults.black_hole(1400),
        ports="4242,4243",
    )


def _beside_others() -> Iterator[Scenario]:
    hole = faults.black_hole(1400)
    yield from _row(
        "1400-both-ways",
        both_ways(blocked(MTU), blocked(MTU)),
        hole,
        services=(ECHO, Service(on="source")),
        source_args=("--both-ways",),
    )
    yield from _row("1400+not-running", blocked(MTU, NOT_RUNNING), hole, services=())
    yield from _row("1400+loopback-only", blocked(MTU, LOOPBACK_ONLY), hole, services=(LOOPBACK,))
    for name, fault, cause in (
        ("destination-drop", faults.destination_drop(), DESTINATION_DROP),
        ("destination-reject", faults.destination_reject(), DESTINATION_REJECT),
        ("source-drop", faults.source_drop(), SOURCE_DROP),
    ):
        yield from _row(f"1400+{name}", blocked(MTU, cause), hole, fault)
    yield from _row(
        "1400+drop+not-running",
        blocked(MTU, DESTINATION_DROP, NOT_RUNNING),
        hole,
        faults.destination_drop(),
        services=(),
    )
    # The destination lets nothing in: it is the one that dials.
    yield from _row(
        "1400+default-deny", blocked(MTU, DESTINATION_DROP), hole, faults.default_deny()
    )
    yield from _row("1400-reverse", blocked(MTU), hole, faults.default_deny("tcp dport 4242"))


def _by_udp() -> Iterator[Scenario]:
    """Both let nothing in but the service: they meet by UDP, and nobody can be dialled."""
    shut = (faults.default_deny("tcp dport 4242"), faults.default_deny(on="source"))
    yield from _row("none-by-udp", open_(), *shut)


def _across_routers() -> Iterator[Scenario]:
    for name, builder, service in (("routed", narrow, ECHO), ("routed6", narrow6, ECHO6)):
        row = functools.partial(_row, network=builder, services=(service,))
        yield from row(f"{name}-untold", blocked(MTU), untold)
        yield from row(f"{name}-unheard", blocked(MTU), unheard)
        yield from row(f"{name}-told", open_())
    yield from _row("routed-clamped", open_(), untold, clamped, network=narrow)
    yield from _row(
        "routed-told+destination-drop",
        blocked(DESTINATION_DROP),
        faults.destination_drop(),
        network=narrow,
    )


def _no_black_hole() -> Iterator[Scenario]:
    """Nothing here swallows large packets."""
    for percent in (20, 40):
        yield from _row(f"loss-{percent}", OPEN_WITH_LOSS, faults.loss(percent))
    # Whoever sends too much at once loses packets, large ones first.
    for rate in (100, 20):
        policed = faults.policed(rate)
        yield from _row(f"none-policed-{rate}", OPEN_WITH_LOSS, policed)
    yield from _row("none-homes", open_(), network=homes)
    yield from _row("none-jumbo", open_(), network=jumbo)
    # Whoever sends is told by nobody, and finds out after some seconds.
    yield from _row("1400-searching", open_(MTU), searching, faults.black_hole(1400))


def _from_afar() -> Iterator[Scenario]:
    yield from _row("far-100-1400", blocked(MTU), faults.black_hole(1400), faults.delay(100))
    yield from _row("far-100", open_(), faults.delay(100))
    yield from _row("far-300", open_(), faults.delay(300))
    yield from _row("loss-20-1400", WITH_LOSS, faults.black_hole(1400), faults.loss(20))
