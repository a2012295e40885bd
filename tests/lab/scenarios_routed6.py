"""Rows with routers between the two and IPv6 alone: the main faults, on the hosts and on the way.

Here ICMPv6 has other types, a refusal may be no-route, and neighbours are found by multicast.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from . import faults, network
from .faults import ADMIN, PORT_UNREACHABLE, RESET, Fault
from .grading import Expected, blocked, open_
from .network import Stage
from .rows import (
    DESTINATION_DROP,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    NETWORK_DROP,
    NETWORK_REJECT,
    NOT_RUNNING,
    REPLY_LOST,
    SOURCE_DROP,
    SOURCE_REJECT,
    UNREACHABLE,
    anyone,
)
from .scenario import Scenario
from .services import Service

__all__ = ["rows"]

SIX = Service(bind=("::",))
ROUTERS = (1, 2, 3)


def _no_way_on(stage: Stage) -> None:
    """The last router knows no way to the destination, for the tested port alone."""
    rule = ["ip", "-6", "rule", "add", "ipproto", "tcp", "dport", "4242", "unreachable"]
    stage.routers[-1].run(rule)


def _either(true: str, other: str) -> Expected:
    return Expected(
        "undetermined", also_true=frozenset({true}), candidates=frozenset({true, other})
    )


ON_HOSTS: tuple[tuple[str, tuple[Service, ...], tuple[Fault, ...], Expected], ...] = (
    ("open", (SIX,), (), open_()),
    ("not-running", (), (), blocked(NOT_RUNNING)),
    ("destination-drop", (SIX,), (faults.destination_drop(),), blocked(DESTINATION_DROP)),
    (
        "destination-reject",
        (SIX,),
        (faults.destination_reject(ADMIN),),
        blocked(DESTINATION_REJECT),
    ),
    (
        "destination-reply-blocked",
        (SIX,),
        (faults.destination_drop_replies(),),
        blocked(DESTINATION_REPLY),
    ),
    ("source-drop", (SIX,), (faults.source_drop(),), blocked(SOURCE_DROP)),
    ("source-reject", (SIX,), (faults.source_reject(ADMIN),), blocked(SOURCE_REJECT)),
    # A filter may say the same.
    ("no-way-on", (SIX,), (_no_way_on,), _either(UNREACHABLE, NETWORK_REJECT)),
)

ON_THE_WAY = (
    ("drop", faults.path_drop, NETWORK_DROP),
    ("reject-icmp", functools.partial(faults.path_reject, ADMIN), NETWORK_REJECT),
    ("reject-port", functools.partial(faults.path_reject, PORT_UNREACHABLE), NETWORK_REJECT),
    ("reject-reset", functools.partial(faults.path_reject, RESET), NETWORK_REJECT),
    ("reply-lost", faults.path_drop_replies, REPLY_LOST),
)


def rows() -> Iterator[Scenario]:
    """All of them."""
    three = functools.partial(network.routed6, routers=3)
    for name, services, put, expected in ON_HOSTS:
        yield from anyone(
            f"ipv6-routers-3-{name}", expected, network=three, services=services, faults=put
        )
    for router in ROUTERS:
        for name, fault, cause in ON_THE_WAY:
            yield from anyone(
                f"ipv6-routers-3-{name}-at-{router}",
                blocked(cause),
                network=three,
                services=(SIX,),
                faults=(fault(router=router),),
            )
