"""Rows of the issue that asks for every cause: the main ones in IPv6.

On a segment with IPv6 alone; where IPv6 has no way at all, on one with both
versions, where the agents meet by IPv4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from . import cards, faults, network, networks, ways
from .faults import PORT_UNREACHABLE, RESET, Fault, Rules
from .grading import blocked, open_
from .network import DESTINATION6, SOURCE6, THIRD6
from .networks import CONTAINER6, SECOND6
from .rows import (
    BACKLOG_FULL,
    CLOSES,
    DESTINATION_DROP,
    DESTINATION_NO_ROUTE,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    HUNG,
    LOSS,
    NO_HOST,
    SOURCE_DROP,
    SOURCE_NO_ROUTE,
    SOURCE_REJECT,
    SOURCE_REPLY,
    WRONG_HOST,
    WRONG_INTERFACE,
    anyone,
)
from .scenario import Scenario
from .services import Service, background

__all__ = ["rows"]

SIX = Service(bind=("::",))
BY_SIX = ("--target", DESTINATION6)
"""The agents meet by IPv4; this is tested."""


def rows() -> Iterator[Scenario]:
    """All of them."""
    yield from _filters()
    yield from _addresses_and_routes()
    yield from _services()
    yield from _bad_networks()


def _filters() -> Iterator[Scenario]:
    back = Rules(
        "destination", "egress", ("tcp sport 4242 counter drop",), priority="0", family="netdev"
    )
    variants: tuple[tuple[str, Fault, str], ...] = (
        ("destination-drop-raw", faults.destination_drop_raw(), DESTINATION_DROP),
        ("destination-drop-ingress-hook", faults.destination_drop_at_card(), DESTINATION_DROP),
        ("destination-drop-tc", cards.tc_drop("destination", "ingress"), DESTINATION_DROP),
        ("destination-drop-policy", faults.default_deny(), DESTINATION_DROP),
        ("destination-reject-reset", faults.destination_reject(RESET), DESTINATION_REJECT),
        (
            "destination-reject-port",
            faults.destination_reject(PORT_UNREACHABLE),
            DESTINATION_REJECT,
        ),
        ("destination-reply-blocked", faults.destination_drop_replies(), DESTINATION_REPLY),
        ("destination-reply-blocked-egress-hook", back, DESTINATION_REPLY),
        ("source-drop-egress-hook", faults.source_drop_at_card(), SOURCE_DROP),
        ("source-drop-tc", cards.tc_drop("source", "egress"), SOURCE_DROP),
        ("source-reject-reset", faults.source_reject(RESET), SOURCE_REJECT),
        ("source-reply-blocked", faults.source_drop_replies(), SOURCE_REPLY),
    )
    for name, put, code in variants:
        yield from anyone(
            f"ipv6-{name}", blocked(code), network=network.lan6, services=(SIX,), faults=(put,)
        )


def _addresses_and_routes() -> Iterator[Scenario]:
    for name, target, code in (
        ("no-host", "fd07::77", NO_HOST),
        ("no-route", "fd99::1", SOURCE_NO_ROUTE),
    ):
        yield from anyone(
            f"ipv6-{name}",
            blocked(code),
            network=network.lan6,
            services=(SIX,),
            source_args=("--target", target),
        )
    yield from anyone(
        "ipv6-wrong-host",
        blocked(WRONG_HOST),
        network=networks.lan6_and_third,
        services=(SIX, Service(bind=("::",), on="third")),
        source_args=("--target", THIRD6),
    )
    for kind in ways.ROUTE_KINDS:
        for name, put, code in (
            ("no-route", ways.no_way_out(kind, f"{DESTINATION6}/128"), SOURCE_NO_ROUTE),
            ("no-way-back", ways.no_way_back(kind, f"{SOURCE6}/128"), DESTINATION_NO_ROUTE),
        ):
            yield from anyone(
                f"ipv6-{name}-{kind}",
                blocked(code),
                network=network.dual,
                services=(SIX,),
                faults=(put,),
                source_args=BY_SIX,
            )


def _services() -> Iterator[Scenario]:
    for name, service, code in (
        ("hung", Service(bind=("::",), stopped=True), HUNG),
        ("backlog-full", Service(bind=("::",), mode="full"), BACKLOG_FULL),
        ("closes", Service(bind=("::",), mode="closes"), CLOSES),
        ("closes-by-reset", Service(bind=("::",), mode="resets"), CLOSES),
        ("wrong-interface", Service(bind=(SECOND6,)), WRONG_INTERFACE),
    ):
        yield from anyone(
            f"ipv6-{name}", blocked(code), network=networks.second_address6, services=(service,)
        )
    for name, service in (
        ("silent-service", Service(bind=("::",), mode="silent")),
        ("deferred-accept", Service(bind=("::",), defer=True)),
        ("slow-to-accept", Service(bind=("::",), mode="slow")),
    ):
        yield from anyone(f"ipv6-{name}", open_(), network=network.lan6, services=(service,))
    yield from anyone(
        "ipv6-container",
        open_(),
        network=networks.container,
        services=(Service(port=80, on="container", bind=("::",)),),
        faults=(ways.publish(f"[{CONTAINER6}]:80"),),
        source_args=BY_SIX,
    )


def _bad_networks() -> Iterator[Scenario]:
    for name, put, expected in (
        ("open", (), open_()),
        ("destination-drop", (faults.destination_drop(),), blocked(DESTINATION_DROP)),
        (
            "destination-reject-icmp",
            (faults.destination_reject(PORT_UNREACHABLE),),
            blocked(DESTINATION_REJECT),
        ),
        ("source-drop", (faults.source_drop(),), blocked(SOURCE_DROP)),
        (
            "destination-reply-blocked",
            (faults.destination_drop_replies(),),
            blocked(DESTINATION_REPLY),
        ),
    ):
        yield from anyone(
            f"ipv6-loss-20-{name}",
            dataclasses.replace(expected, allowed_warnings=frozenset({LOSS})),
            network=network.lan6,
            services=(SIX,),
            faults=(*put, faults.loss(20)),
        )
        yield from anyone(
            f"ipv6-far-{name}",
            expected,
            network=network.lan6,
            services=(SIX,),
            faults=(*put, faults.delay(30)),
        )
        yield from anyone(
            f"ipv6-traffic-{name}",
            expected,
            network=networks.lan6_and_third,
            services=(SIX, background),
            faults=put,
        )
