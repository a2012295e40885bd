"""Rows of the issue that asks for every cause: the main ones on bad, busy and long networks.

A filter must be found through 3 % and 20 % loss in each direction, under
thousands of other people's packets a second and from afar; and neither loss nor
strangers' packets may pass for a filter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from . import faults, network
from .faults import ADMIN, RESET, Fault, Rules
from .grading import Expected, blocked, open_
from .rows import (
    BACKLOG_FULL,
    CLOSES,
    DESTINATION_DROP,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    HUNG,
    LOOPBACK_ONLY,
    LOSS,
    NOT_RUNNING,
    SOURCE_DROP,
    SOURCE_REJECT,
    SOURCE_REPLY,
    anyone,
)
from .scenario import Scenario
from .services import Service, background

__all__ = ["rows"]

ECHO = Service()
RATES = (3, 20)
"""Percent lost, each way."""
DISTANCE = 30
"""Milliseconds there and back: another town."""

MAIN: tuple[tuple[str, tuple[Service, ...], tuple[Fault, ...], Expected], ...] = (
    ("open", (ECHO,), (), open_()),
    ("open-silent", (Service(mode="silent"),), (), open_()),
    ("destination-drop", (ECHO,), (faults.destination_drop(),), blocked(DESTINATION_DROP)),
    (
        "destination-drop-ingress-hook",
        (ECHO,),
        (faults.destination_drop_at_card(),),
        blocked(DESTINATION_DROP),
    ),
    (
        "destination-reject-reset",
        (ECHO,),
        (faults.destination_reject(RESET),),
        blocked(DESTINATION_REJECT),
    ),
    (
        "destination-reject-icmp",
        (ECHO,),
        (faults.destination_reject(ADMIN),),
        blocked(DESTINATION_REJECT),
    ),
    ("source-drop", (ECHO,), (faults.source_drop(),), blocked(SOURCE_DROP)),
    ("source-reject-icmp", (ECHO,), (faults.source_reject(ADMIN),), blocked(SOURCE_REJECT)),
    (
        "destination-reply-blocked",
        (ECHO,),
        (faults.destination_drop_replies(),),
        blocked(DESTINATION_REPLY),
    ),
    ("source-reply-blocked", (ECHO,), (faults.source_drop_replies(),), blocked(SOURCE_REPLY)),
    ("not-running", (), (), blocked(NOT_RUNNING)),
    ("loopback-only", (Service(bind=("127.0.0.1",)),), (), blocked(LOOPBACK_ONLY)),
    ("hung", (Service(stopped=True),), (), blocked(HUNG)),
    ("backlog-full", (Service(mode="full"),), (), blocked(BACKLOG_FULL)),
    # As most services of today listen: one socket for both IP versions.
    ("closes", (Service(mode="closes", bind=("::",), dual=True),), (), blocked(CLOSES)),
    (
        "drop+not-running",
        (),
        (faults.destination_drop(),),
        blocked(DESTINATION_DROP, NOT_RUNNING),
    ),
)


def rows() -> Iterator[Scenario]:
    """All of them."""
    for name, services, put, expected in MAIN:
        for percent in RATES:
            yield from anyone(
                f"loss-{percent}-{name}",
                dataclasses.replace(expected, allowed_warnings=frozenset({LOSS})),
                services=services,
                faults=(*put, faults.loss(percent)),
            )
        # On one segment answers come before connect() has returned; from afar they do not.
        yield from anyone(
            f"far-{name}",
            expected,
            services=services,
            faults=(*put, faults.delay(DISTANCE)),
        )
        yield from anyone(
            f"traffic-{name}",
            expected,
            network=network.lan_and_third,
            services=(*services, background),
            faults=put,
        )
    yield from _at_default_deny()


def _at_default_deny() -> Iterator[Scenario]:
    """A host that denies all inbound: every stranger's packet meets the same rule as ours."""
    yield from anyone(
        "traffic-default-deny",
        blocked(DESTINATION_DROP),
        network=network.lan_and_third,
        services=(ECHO, background),
        faults=(faults.default_deny(),),
    )
    outward = ('oif "lo" accept', "ct state established,related accept", "counter drop")
    allowed = "meta l4proto {{ tcp, udp }} th dport 24242 accept"
    yield from anyone(
        "traffic-source-default-deny",
        blocked(SOURCE_DROP),
        network=network.lan_and_third,
        services=(ECHO, background),
        faults=(Rules("source", "output", (allowed, *outward), policy="drop"),),
    )
