"""The table of scenarios: what is set up, and what must come out.

A row says what is put on which host and what is true then. Adding a cause is
adding a row, here or in one of the ``scenarios_`` modules. ``with_users`` adds
the same row with both ends as ordinary users, who are to find the same.

Names are ``what-is-the-matter``, ``@users`` where both ends are ordinary users,
``@source-user`` or ``@destination-user`` where one is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from . import (
    faults,
    network,
    scenarios_blamed,
    scenarios_both,
    scenarios_causes,
    scenarios_frontends,
    scenarios_ipv6,
    scenarios_loss,
    scenarios_mtu,
    scenarios_names,
    scenarios_nat,
    scenarios_pairs,
    scenarios_routed,
    scenarios_routed6,
    scenarios_udp,
    scenarios_way,
)
from .faults import ADMIN, PORT_UNREACHABLE, RESET, rules
from .grading import blocked, open_
from .hosts import Lab
from .network import Stage
from .rows import (
    DESTINATION_DROP,
    DESTINATION_REJECT,
    LOOPBACK_ONLY,
    NOT_RUNNING,
    SOURCE_DROP,
    SOURCE_REJECT,
    variant,
    with_users,
)
from .scenario import BOTH, Scenario
from .services import Service, avahi

__all__ = ["SCENARIOS", "by_name"]

ECHO = Service()
SILENT = Service(mode="silent")
LOOPBACK = Service(bind=("127.0.0.1",))
CONTROL_TCP = "tcp dport 24242"
CONTROL = "meta l4proto {{ tcp, udp }} th dport 24242"
STRANGER = "192.168.7.99"
NAME = "backup.example"


def _named_destination(stage: Stage) -> None:
    """The name the real application is told to use, in the source's /etc/hosts."""
    stage.source.know(NAME, stage.destination_address)


def _main_rows() -> Iterator[Scenario]:
    """One cause each, and none."""
    yield from with_users(Scenario(name="open", services=(ECHO,), expected=open_()))
    yield from with_users(
        Scenario(name="open-silent-service", services=(SILENT,), expected=open_())
    )
    yield from with_users(
        Scenario(
            name="destination-drop",
            services=(ECHO,),
            faults=(faults.destination_drop(),),
            expected=blocked(DESTINATION_DROP),
        )
    )
    for kind, how in (("reset", RESET), ("icmp", PORT_UNREACHABLE), ("icmp-admin", ADMIN)):
        yield from with_users(
            Scenario(
                name=f"destination-reject-{kind}",
                services=(ECHO,),
                faults=(faults.destination_reject(how),),
                expected=blocked(DESTINATION_REJECT),
            )
        )
        yield from with_users(
            Scenario(
                name=f"source-reject-{kind}",
                services=(ECHO,),
                faults=(faults.source_reject(how),),
                expected=blocked(SOURCE_REJECT),
            )
        )
    yield from with_users(
        Scenario(
            name="source-drop",
            services=(ECHO,),
            faults=(faults.source_drop(),),
            expected=blocked(SOURCE_DROP),
        )
    )
    yield from with_users(Scenario(name="not-running", expected=blocked(NOT_RUNNING)))
    yield from with_users(
        Scenario(name="loopback-only", services=(LOOPBACK,), expected=blocked(LOOPBACK_ONLY))
    )


def _mixed_privilege() -> Iterator[Scenario]:
    """One end privileged: what that end alone can prove."""
    for end, kind, fault, code in (
        ("destination", "drop", faults.destination_drop(), DESTINATION_DROP),
        ("destination", "reject-reset", faults.destination_reject(), DESTINATION_REJECT),
        ("source", "drop", faults.source_drop(), SOURCE_DROP),
        ("source", "reject-reset", faults.source_reject(), SOURCE_REJECT),
    ):
        row = Scenario(
            name=f"{end}-{kind}", services=(ECHO,), faults=(fault,), expected=blocked(code)
        )
        other = next(iter(BOTH - {end}))
        yield variant(row, f"{other}-user", frozenset({other}), blocked(code))
        yield variant(row, f"{end}-user", frozenset({end}), blocked(code))
    for end in sorted(BOTH):
        row = Scenario(name="open", services=(ECHO,), expected=open_())
        yield variant(row, f"{end}-user", frozenset({end}), open_())


def _pairs() -> Iterator[Scenario]:
    """Two causes at once: all that can be seen are named, the hidden one may be."""
    drop, reject = faults.destination_drop(), faults.destination_reject()
    outward = faults.source_drop()
    for name, services, put, codes in (
        ("destination-drop+not-running", (), drop, (DESTINATION_DROP, NOT_RUNNING)),
        (
            "destination-drop+loopback-only",
            (LOOPBACK,),
            drop,
            (DESTINATION_DROP, LOOPBACK_ONLY),
        ),
        (
            "destination-reject+not-running",
            (),
            reject,
            (DESTINATION_REJECT, NOT_RUNNING),
        ),
        (
            "destination-reject+loopback-only",
            (LOOPBACK,),
            reject,
            (DESTINATION_REJECT, LOOPBACK_ONLY),
        ),
        ("source-drop+not-running", (), outward, (SOURCE_DROP, NOT_RUNNING)),
        (
            "source-drop+loopback-only",
            (LOOPBACK,),
            outward,
            (SOURCE_DROP, LOOPBACK_ONLY),
        ),
    ):
        yield from with_users(
            Scenario(name=name, services=services, faults=(put,), expected=blocked(*codes))
        )
    for name, inward, hidden in (
        ("source-drop+destination-drop", drop, DESTINATION_DROP),
        ("source-drop+destination-reject", reject, DESTINATION_REJECT),
    ):
        yield Scenario(
            name=name,
            services=(ECHO,),
            faults=(outward, inward),
            expected=blocked(SOURCE_DROP, also=[hidden]),
        )
    yield Scenario(
        name="source-reject+not-running",
        faults=(faults.source_reject(),),
        expected=blocked(SOURCE_REJECT, NOT_RUNNING),
    )


def _must_not_be_blamed() -> Iterator[Scenario]:
    """Rules that are there and are not the cause: reachable all the same."""
    for name, fault in (
        (
            "other-ports-dropped",
            rules(
                "destination",
                "input",
                "tcp dport {{ 22, 80, 443, 4240-4241, 4244-5999 }} counter drop",
            ),
        ),
        ("other-peer-dropped", rules("destination", "input", f"ip saddr {STRANGER} counter drop")),
        ("udp-only-dropped", rules("destination", "input", "udp dport 1-65535 counter drop")),
        ("udp-only-dropped-outward", rules("source", "output", "udp dport 1-65535 counter drop")),
        (
            "same-port-outward-dropped",
            rules("destination", "output", "tcp dport 4242 counter drop"),
        ),
        ("ping-dropped", rules("destination", "input", "meta l4proto icmp counter drop")),
        ("default-deny-but-allowed", faults.default_deny("tcp dport 4242", CONTROL_TCP)),
    ):
        yield Scenario(name=name, services=(ECHO,), faults=(fault,), expected=open_())
    yield Scenario(
        name="other-peer-dropped+not-running",
        expected=blocked(NOT_RUNNING),
        faults=(rules("destination", "input", f"ip saddr {STRANGER} counter drop"),),
    )
    yield Scenario(
        name="drop-for-this-peer-only",
        services=(ECHO,),
        expected=blocked(DESTINATION_DROP),
        faults=(rules("destination", "input", "{from_source} tcp dport 4242 counter drop"),),
    )


def _contact() -> Iterator[Scenario]:
    """Ways in which the agents must meet although a way is blocked or unknown."""
    shut = rules("destination", "input", f"{CONTROL} counter drop")
    refused = rules("destination", "input", f"{CONTROL} counter reject with {ADMIN}")
    yield from with_users(
        Scenario(name="reverse-contact", services=(ECHO,), faults=(shut,), expected=open_()),
    )
    yield Scenario(
        name="reverse-contact-refused", services=(ECHO,), faults=(refused,), expected=open_()
    )
    yield Scenario(
        name="reverse-contact+destination-drop",
        services=(ECHO,),
        faults=(shut, faults.destination_drop()),
        expected=blocked(DESTINATION_DROP),
    )
    yield Scenario(
        name="default-deny",
        services=(ECHO,),
        faults=(faults.default_deny(),),
        expected=blocked(DESTINATION_DROP),
    )
    yield Scenario(
        name="default-deny-control-allowed",
        services=(ECHO,),
        faults=(faults.default_deny(CONTROL_TCP),),
        expected=blocked(DESTINATION_DROP),
    )
    yield Scenario(
        name="default-deny+not-running",
        faults=(faults.default_deny(),),
        expected=blocked(DESTINATION_DROP, NOT_RUNNING),
    )
    yield Scenario(
        name="source-default-deny",
        services=(ECHO,),
        faults=(faults.default_deny(on="source"),),
        expected=open_(),
    )
    yield Scenario(
        name="peer-at-source-only", services=(ECHO,), peers=frozenset({"source"}), expected=open_()
    )
    deaf = tuple(rules(end, "input", "udp dport 5353 counter drop") for end in sorted(BOTH))
    yield Scenario(
        name="peer-at-destination-only",
        services=(ECHO,),
        faults=deaf,
        peers=frozenset({"destination"}),
        mdns=True,  # without it the source would rather have a --peer than wait
        expected=open_(),
    )


def _mdns() -> Iterator[Scenario]:
    """Found by multicast DNS alone."""
    nobody: frozenset[str] = frozenset()
    row = Scenario(name="mdns", services=(ECHO,), peers=nobody, mdns=True, expected=open_())
    yield from with_users(row)
    yield dataclasses.replace(
        row,
        name="mdns+destination-drop",
        faults=(faults.destination_drop(),),
        expected=blocked(DESTINATION_DROP),
    )
    yield dataclasses.replace(
        row, name="mdns-beside-avahi", services=(ECHO, avahi("source"), avahi("destination"))
    )
    yield dataclasses.replace(
        row, name="mdns-ipv6", network=network.lan6, services=(Service(bind=("::",)),)
    )


def _addresses() -> Iterator[Scenario]:
    """IPv6, both versions, names, several ports."""
    six = Service(bind=("::",))
    for name, services, put, expected in (
        ("ipv6-open", (six,), (), open_()),
        ("ipv6-destination-drop", (six,), (faults.destination_drop(),), blocked(DESTINATION_DROP)),
        (
            "ipv6-destination-reject-icmp",
            (six,),
            (faults.destination_reject(ADMIN),),
            blocked(DESTINATION_REJECT),
        ),
        ("ipv6-source-drop", (six,), (faults.source_drop(),), blocked(SOURCE_DROP)),
        ("ipv6-source-reject-icmp", (six,), (faults.source_reject(ADMIN),), blocked(SOURCE_REJECT)),
        ("ipv6-not-running", (), (), blocked(NOT_RUNNING)),
        ("ipv6-loopback-only", (Service(bind=("::1",)),), (), blocked(LOOPBACK_ONLY)),
    ):
        yield Scenario(
            name=name, network=network.lan6, services=services, faults=put, expected=expected
        )
    yield Scenario(
        name="dual-stack-service",
        network=network.dual,
        expected=open_(),
        services=(Service(bind=("::",), dual=True),),
    )
    yield Scenario(
        name="certain-address", services=(Service(bind=("destination",)),), expected=open_()
    )
    yield Scenario(
        name="target-name",
        services=(ECHO,),
        faults=(_named_destination,),
        source_args=("--target", NAME),
        expected=open_(),
    )
    yield Scenario(
        name="target-name+destination-drop",
        services=(ECHO,),
        source_args=("--target", NAME),
        faults=(_named_destination, faults.destination_drop()),
        expected=blocked(DESTINATION_DROP),
    )
    second = Service(port=4243)
    yield Scenario(name="two-ports", services=(ECHO, second), ports="4242,4243", expected=open_())
    yield Scenario(
        name="two-ports-one-dropped",
        services=(ECHO, second),
        ports="4242,4243",
        faults=(faults.destination_drop(4243),),
        expected=blocked(DESTINATION_DROP),
    )
    yield Scenario(
        name="two-ports-one-not-running",
        services=(ECHO,),
        ports="4242,4243",
        expected=blocked(NOT_RUNNING),
    )
    yield Scenario(
        name="two-ports-two-causes",
        services=(ECHO,),
        ports="4242,4243",
        faults=(faults.destination_drop(4242),),
        expected=blocked(DESTINATION_DROP, NOT_RUNNING),
    )


def _routed(lab: Lab) -> Stage:
    return network.routed(lab, routers=1)


def _across_a_router() -> Iterator[Scenario]:
    """Not one segment: the same causes must come out, and the network is not blamed."""
    for name, services, put, expected in (
        ("routed-open", (ECHO,), (), open_()),
        (
            "routed-destination-drop",
            (ECHO,),
            (faults.destination_drop(),),
            blocked(DESTINATION_DROP),
        ),
        ("routed-source-drop", (ECHO,), (faults.source_drop(),), blocked(SOURCE_DROP)),
        ("routed-not-running", (), (), blocked(NOT_RUNNING)),
    ):
        yield Scenario(name=name, network=_routed, services=services, faults=put, expected=expected)


def _table() -> dict[str, Scenario]:
    rows = (
        *_main_rows(),
        *_mixed_privilege(),
        *_pairs(),
        *_must_not_be_blamed(),
        *_contact(),
        *_mdns(),
        *_addresses(),
        *_across_a_router(),
        *scenarios_causes.rows(),
        *scenarios_pairs.rows(),
        *scenarios_ipv6.rows(),
        *scenarios_loss.rows(),
        *scenarios_routed.rows(),
        *scenarios_frontends.rows(),
        *scenarios_nat.rows(),
        *scenarios_way.rows(),
        *scenarios_both.rows(),
        *scenarios_names.rows(),
        *scenarios_routed6.rows(),
        *scenarios_mtu.rows(),
        *scenarios_udp.rows(),
        *scenarios_blamed.rows(),
    )
    table = {row.name: row for row in rows}
    assert len(table) == len(rows), "two scenarios have one name"
    for row in rows:
        if not row.users:
            table.setdefault(f"{row.name}@users", variant(row, "users", BOTH, row.expected))
    return table


SCENARIOS = _table()


def by_name(name: str) -> Scenario:
    """A row, or with ``@users`` at the end a row as ordinary users."""
    if name in SCENARIOS:
        return SCENARIOS[name]
    return SCENARIOS[name.removesuffix("@users")].as_user()
