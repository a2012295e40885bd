"""Rows about what was typed: names with several addresses, and IPv6 addresses of every kind.

A name is one target: it can be reached where an application that tries its addresses in order
reaches one. What is shown beside that must not decide (``further``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from . import faults, network, networks, ways
from .faults import RESET, Fault, rules
from .grading import Expected, blocked, open_
from .hosts import Lab
from .network import DESTINATION, DESTINATION6, DEVICE, SEGMENT, SOURCE6, Network, Stage
from .networks import SECOND
from .rows import (
    CLOSES,
    DESTINATION_DROP,
    DESTINATION_REJECT,
    HUNG,
    NO_HOST,
    NOT_RUNNING,
    SOURCE_NO_ROUTE,
    UNREACHABLE,
    WRONG_FAMILY,
    WRONG_INTERFACE,
    with_users,
)
from .scenario import Scenario
from .services import Service

__all__ = ["LINK", "LINK_SOURCE", "OTHER_CARD", "other_name", "rows"]

ISSUE = 6

NAME = "backup.example"
TARGET = ("--target", NAME)
ECHO, SIX = Service(), Service(bind=("::",))
BOTH_VERSIONS = Service(bind=("::",), dual=True)
DEAD_FIRST, DEAD_LAST = "192.168.7.11", "192.168.7.77"
"""Addresses that nobody has. By RFC 6724 (rule 9) the C library puts the one first that shares
more bits with the source's own, 192.168.7.10, whatever the order in the file."""
LINK, LINK_SOURCE = "fe80::20", "fe80::10"
OTHER_CARD = "lan0"


def rows() -> Iterator[Scenario]:
    """All of them."""
    yield from _one_version()
    yield from _two_versions()
    yield from _several_targets()
    yield from _peers()
    yield from _zones()
    yield from _typed_forms()
    yield from _broken_six()
    yield from _states()


def _knows(*addresses: str, on: str = "source") -> Callable[[Stage], None]:
    """The name stands for these addresses, in the host's /etc/hosts."""

    def write(stage: Stage) -> None:
        stage.host(on).know(NAME, *addresses)

    write.__name__ = f"knows_{len(addresses)}"
    return write


def _row(
    name: str,
    expected: Expected,
    *put: Fault,
    users: Expected | None = None,
    further: tuple[tuple[str, str], ...] = (),
    source_args: tuple[str, ...] = TARGET,
    **row: Any,
) -> Iterator[Scenario]:
    yield from with_users(
        Scenario(
            name=f"names-{name}",
            expected=dataclasses.replace(expected, further=further),
            issue=ISSUE,
            faults=put,
            source_args=source_args,
            **row,
        ),
        users,
    )


def _one_version() -> Iterator[Scenario]:
    drop_there, reject_there = (
        rules("destination", "input", f"ip daddr {SECOND} tcp dport 4242 counter {what}")
        for what in ("drop", f"reject with {RESET}")
    )
    for name, builder, addresses, put, expected, further in (
        ("two-open", networks.second_address, (DESTINATION, SECOND), (), open_(), ()),
        (
            "first-dead",
            network.lan,
            (DEAD_FIRST, DESTINATION),
            (),
            open_(),
            ((DEAD_FIRST, NO_HOST),),
        ),
        (
            "last-dead",
            network.lan,
            (DEAD_LAST, DESTINATION),
            (),
            open_(),
            ((DEAD_LAST, NO_HOST),),
        ),
        (
            "one-dropped",
            networks.second_address,
            (DESTINATION, SECOND),
            (drop_there,),
            open_(),
            ((SECOND, DESTINATION_DROP),),
        ),
        (
            "one-rejected",
            networks.second_address,
            (DESTINATION, SECOND),
            (reject_there,),
            open_(),
            ((SECOND, DESTINATION_REJECT),),
        ),
        (
            "both-dropped",
            networks.second_address,
            (DESTINATION, SECOND),
            (faults.destination_drop(),),
            blocked(DESTINATION_DROP),
            (),
        ),
        (
            "dropped-and-dead",
            network.lan,
            (DESTINATION, DEAD_LAST),
            (faults.destination_drop(),),
            blocked(DESTINATION_DROP, NO_HOST),
            (),
        ),
    ):
        yield from _row(
            name,
            expected,
            *put,
            further=further,
            network=builder,
            services=(ECHO, _knows(*addresses)),
        )
    # Programs stay with the first that accepts, whatever comes of it.
    for name, service, code in (
        ("first-hung", Service(bind=(DESTINATION,), stopped=True), HUNG),
        ("first-closes", Service(bind=(DESTINATION,), mode="closes"), CLOSES),
    ):
        yield from _row(
            name,
            blocked(code),
            further=((SECOND, "open"),),
            network=networks.second_address,
            services=(service, Service(bind=(SECOND,)), _knows(DESTINATION, SECOND)),
        )
    # Each port is reached at another of the addresses.
    yield from _row(
        "ports-apart",
        open_(),
        further=((SECOND, WRONG_INTERFACE), (DESTINATION, WRONG_INTERFACE)),
        network=networks.second_address,
        services=(
            Service(bind=(DESTINATION,)),
            Service(port=4243, bind=(SECOND,)),
            _knows(DESTINATION, SECOND),
        ),
        ports="4242,4243",
    )


def _two_versions() -> Iterator[Scenario]:
    drop6 = rules("destination", "input", f"ip6 daddr {DESTINATION6} tcp dport 4242 counter drop")
    reject6 = rules(
        "destination",
        "input",
        f"ip6 daddr {DESTINATION6} tcp dport 4242 counter reject with {RESET}",
    )
    drop4 = rules("destination", "input", f"ip daddr {DESTINATION} tcp dport 4242 counter drop")
    for name, service, put, expected, further in (
        ("both-open", BOTH_VERSIONS, (), open_(), ()),
        ("six-dropped", BOTH_VERSIONS, (drop6,), open_(), ((DESTINATION6, DESTINATION_DROP),)),
        (
            "six-rejected",
            BOTH_VERSIONS,
            (reject6,),
            open_(),
            ((DESTINATION6, DESTINATION_REJECT),),
        ),
        ("four-dropped", BOTH_VERSIONS, (drop4,), open_(), ((DESTINATION, DESTINATION_DROP),)),
        ("service-of-four", ECHO, (), open_(), ((DESTINATION6, WRONG_FAMILY),)),
        (
            "no-route-by-six",
            BOTH_VERSIONS,
            (ways.no_way_out("unreachable", f"{DESTINATION6}/128"),),
            open_(),
            ((DESTINATION6, SOURCE_NO_ROUTE),),
        ),
        (
            "no-route-by-six+drop",
            BOTH_VERSIONS,
            (ways.no_way_out("unreachable", f"{DESTINATION6}/128"), faults.destination_drop()),
            blocked(DESTINATION_DROP),
            ((DESTINATION6, SOURCE_NO_ROUTE),),
        ),
        (
            "all-dropped",
            BOTH_VERSIONS,
            (faults.destination_drop(),),
            blocked(DESTINATION_DROP),
            (),
        ),
    ):
        yield from _row(
            f"dual-{name}",
            expected,
            *put,
            further=further,
            network=network.dual,
            services=(service, _knows(DESTINATION6, DESTINATION)),
        )


def _several_targets() -> Iterator[Scenario]:
    dead = ("--target", DEAD_LAST)
    drop_there = rules("destination", "input", f"ip daddr {SECOND} tcp dport 4242 counter drop")
    # The address is typed by itself too: then it decides.
    yield from _row(
        "and-the-dead-address",
        blocked(NO_HOST),
        network=network.lan,
        services=(ECHO, _knows(DEAD_LAST, DESTINATION)),
        source_args=(*TARGET, *dead),
    )
    yield from _row(
        "and-a-dropped-target",
        blocked(DESTINATION_DROP),
        drop_there,
        further=((DEAD_LAST, NO_HOST),),
        network=networks.second_address,
        services=(ECHO, _knows(DEAD_LAST, DESTINATION)),
        source_args=(*TARGET, "--target", SECOND),
    )
    yield from _row(
        "two-typed",
        blocked(DESTINATION_DROP),
        drop_there,
        network=networks.second_address,
        services=(ECHO,),
        source_args=("--target", DESTINATION, "--target", SECOND),
    )


def _peers() -> Iterator[Scenario]:
    """The name is typed with --peer, and nothing with --target."""
    peer: dict[str, Any] = {
        "peers": frozenset({"destination"}),
        "source_args": ("--peer", NAME),
    }
    drop6 = rules("destination", "input", f"ip6 daddr {DESTINATION6} tcp dport 4242 counter drop")
    drop4 = rules("destination", "input", f"ip daddr {DESTINATION} tcp dport 4242 counter drop")
    for name, put, expected, further in (
        ("open", (), open_(), ()),
        ("six-dropped", (drop6,), open_(), ((DESTINATION6, DESTINATION_DROP),)),
        ("four-dropped", (drop4,), open_(), ((DESTINATION, DESTINATION_DROP),)),
        ("all-dropped", (drop4, drop6), blocked(DESTINATION_DROP), ()),
    ):
        yield from _row(
            f"peer-{name}",
            expected,
            *put,
            further=further,
            network=network.dual,
            services=(BOTH_VERSIONS, _knows(DESTINATION6, DESTINATION)),
            **peer,
        )
    yield from _row(
        "peer-first-dead",
        open_(),
        further=((DEAD_FIRST, NO_HOST),),
        network=network.lan,
        services=(ECHO, _knows(DEAD_FIRST, DESTINATION)),
        **peer,
    )


def _linked(lab: Lab, *, card: str = DEVICE) -> Stage:
    """Two hosts with link-local addresses alone, the destination's card under another name."""
    source, destination = lab.host("source"), lab.host("destination")
    wire = Network(lab)
    wire.attach(source, SEGMENT, f"{LINK_SOURCE}/64")
    wire.attach(destination, SEGMENT, f"{LINK}/64", device=card)
    wire.up()
    return Stage(wire, source, destination, LINK_SOURCE, LINK)


def other_name(lab: Lab) -> Stage:
    """Link-local addresses alone, and the destination's card has another name than the source's."""
    return _linked(lab, card=OTHER_CARD)


def _two_links(lab: Lab) -> Stage:
    """As ``other_name``, and each has a second card on a segment where the other is not."""
    stage = other_name(lab)
    stage.network.attach(stage.source, "apart1", device="aaa0")
    stage.network.attach(stage.destination, "apart2", device="aaa0")
    stage.network.up()
    return stage


def _zones() -> Iterator[Scenario]:
    zoned = f"{LINK}%{DEVICE}"
    for where, builder, card in (
        ("same-name", _linked, DEVICE),
        ("other-name", other_name, OTHER_CARD),
        ("two-links", _two_links, OTHER_CARD),
    ):
        for name, services, put, expected in (
            ("open", (SIX,), (), open_()),
            ("not-running", (), (), blocked(NOT_RUNNING)),
            ("drop", (SIX,), (faults.destination_drop(),), blocked(DESTINATION_DROP)),
        ):
            yield from _row(
                f"link-local-{where}-{name}",
                expected,
                *put,
                network=builder,
                services=services,
                peers=frozenset(),
                source_args=("--peer", zoned),
                destination_args=("--peer", f"{LINK_SOURCE}%{card}"),
            )
    yield from _row(
        "link-local-target",
        blocked(DESTINATION_DROP),
        rules("destination", "input", f"ip6 daddr {LINK} tcp dport 4242 counter drop"),
        network=_dual_linked,
        services=(BOTH_VERSIONS,),
        source_args=("--target", zoned),
    )


def _dual_linked(lab: Lab) -> Stage:
    stage = network.lan(lab)
    stage.network.address(stage.destination, f"{LINK}/64")
    stage.network.address(stage.source, f"{LINK_SOURCE}/64")
    stage.network.up()
    return stage


def _typed_forms() -> Iterator[Scenario]:
    mapped = f"::ffff:{DESTINATION}"
    for name, put, expected in (
        ("open", (), open_()),
        ("drop", (faults.destination_drop(),), blocked(DESTINATION_DROP)),
    ):
        yield from _row(
            f"mapped-target-{name}",
            expected,
            *put,
            network=network.lan,
            services=(ECHO,),
            source_args=("--target", mapped),
        )
        yield from _row(
            f"mapped-peer-{name}",
            expected,
            *put,
            network=network.lan,
            services=(ECHO,),
            peers=frozenset({"destination"}),
            source_args=("--peer", f"[{mapped}]:24242"),
        )


def _broken_six() -> Iterator[Scenario]:
    """The source has an IPv6 address with which it gets nowhere; IPv4 serves."""
    abroad = "2600:9::20"
    for name, builder, code in (
        ("no-route", _alone_by_six, SOURCE_NO_ROUTE),
        ("no-neighbour", _dead_router_by_six, UNREACHABLE),
    ):
        for what, put, expected in (
            ("open", (), open_()),
            ("drop", (faults.destination_drop(),), blocked(DESTINATION_DROP)),
        ):
            yield from _row(
                f"broken-six-{name}-{what}",
                expected,
                *put,
                further=((abroad, code),),
                network=builder,
                services=(BOTH_VERSIONS, _knows(abroad, DESTINATION)),
            )


def _states() -> Iterator[Scenario]:
    """Addresses that are there and not for use by others; the two find each other by mDNS.

    At such an address the service cannot be reached, which nobody must be told.
    """
    bad = "fd07::66"
    for name, how in (
        ("deprecated", f"address add {bad}/64 dev {DEVICE} nodad preferred_lft 0"),
        ("tentative", f"address add {bad}/64 dev {DEVICE}"),
    ):
        for what, put, expected in (
            ("open", (), open_()),
            ("drop", (faults.destination_drop(),), blocked(DESTINATION_DROP)),
        ):
            yield from _row(
                f"{name}-{what}",
                expected,
                _added(how),
                rules("destination", "input", f"ip6 daddr {bad} tcp dport 4242 counter drop"),
                *put,
                network=network.lan6,
                services=(SIX,),
                peers=frozenset(),
                mdns=True,
                source_args=(),
            )
    # Its system connects from an address that it made up itself (RFC 8981).
    for what, put, expected in (
        ("open", (), open_()),
        ("drop", (faults.destination_drop(),), blocked(DESTINATION_DROP)),
    ):
        yield from _row(
            f"temporary-{what}",
            expected,
            _temporary,
            *put,
            network=network.lan6,
            services=(SIX,),
            source_args=(),
        )


def _added(line: str) -> Fault:
    """One more address of the destination; one that is looked for twice stays so for a minute."""

    def add(stage: Stage) -> None:
        stage.destination.sysctl(
            **{
                f"ipv6__conf__{DEVICE}__accept_dad": 1,
                f"ipv6__conf__{DEVICE}__dad_transmits": 60,
            }
        )
        stage.destination.ip([line])

    add.__name__ = "added"
    return add


def _temporary(stage: Stage) -> None:
    stage.source.sysctl(
        **{
            f"ipv6__conf__{DEVICE}__use_tempaddr": 2,
            f"ipv6__conf__{DEVICE}__dad_transmits": 0,
        }
    )
    stage.source.ip([f"address change {SOURCE6}/64 dev {DEVICE} nodad mngtmpaddr"])


def _alone_by_six(lab: Lab) -> Stage:
    """The source has a global address of its own and no default route."""
    stage = network.lan(lab)
    stage.network.address(stage.source, "2600:7::10/64")
    stage.network.address(stage.destination, "2600:9::20/64")
    stage.network.route(stage.destination, f"2600:7::/64 dev {DEVICE}")
    stage.network.up()
    return stage


def _dead_router_by_six(lab: Lab) -> Stage:
    """As before, with a default route to a router that does not answer."""
    stage = _alone_by_six(lab)
    stage.network.route(stage.source, f"default via 2600:7::1 dev {DEVICE}")
    stage.network.up()
    return stage
