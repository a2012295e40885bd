"""Rows with routers between the two: the same causes on the hosts, and those of the way itself.

No segment is shared, so nobody can look at the other's hardware address, the
first hop answers for everything, and ICMP errors may come from a third party.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from . import faults, network
from .faults import ADMIN, PORT_UNREACHABLE, RESET, Fault
from .grading import Expected, blocked, open_
from .rows import (
    DESTINATION_DROP,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    HUNG,
    LOOPBACK_ONLY,
    NETWORK_DROP,
    NETWORK_REJECT,
    NOT_RUNNING,
    REPLY_LOST,
    SOURCE_DROP,
    SOURCE_REJECT,
    SOURCE_REPLY,
    anyone,
)
from .scenario import Scenario
from .services import Service

__all__ = ["rows"]

ECHO = Service()

ON_HOSTS: tuple[tuple[str, tuple[Service, ...], tuple[Fault, ...], Expected], ...] = (
    ("open", (ECHO,), (), open_()),
    ("open-silent", (Service(mode="silent"),), (), open_()),
    ("destination-drop", (ECHO,), (faults.destination_drop(),), blocked(DESTINATION_DROP)),
    (
        "destination-drop-at-card",
        (ECHO,),
        (faults.destination_drop_at_card(),),
        blocked(DESTINATION_DROP),
    ),
    (
        "destination-reject-icmp",
        (ECHO,),
        (faults.destination_reject(ADMIN),),
        blocked(DESTINATION_REJECT),
    ),
    (
        "destination-reject-reset",
        (ECHO,),
        (faults.destination_reject(RESET),),
        blocked(DESTINATION_REJECT),
    ),
    (
        "destination-reply-blocked",
        (ECHO,),
        (faults.destination_drop_replies(),),
        blocked(DESTINATION_REPLY),
    ),
    ("source-drop", (ECHO,), (faults.source_drop(),), blocked(SOURCE_DROP)),
    ("source-drop-at-card", (ECHO,), (faults.source_drop_at_card(),), blocked(SOURCE_DROP)),
    ("source-reject-icmp", (ECHO,), (faults.source_reject(ADMIN),), blocked(SOURCE_REJECT)),
    ("source-reject-reset", (ECHO,), (faults.source_reject(RESET),), blocked(SOURCE_REJECT)),
    ("source-reply-blocked", (ECHO,), (faults.source_drop_replies(),), blocked(SOURCE_REPLY)),
    ("not-running", (), (), blocked(NOT_RUNNING)),
    ("loopback-only", (Service(bind=("127.0.0.1",)),), (), blocked(LOOPBACK_ONLY)),
    ("hung", (Service(stopped=True),), (), blocked(HUNG)),
    (
        "drop+not-running",
        (),
        (faults.destination_drop(),),
        blocked(DESTINATION_DROP, NOT_RUNNING),
    ),
    (
        "source-drop+destination-drop",
        (ECHO,),
        (faults.source_drop(), faults.destination_drop()),
        blocked(SOURCE_DROP, also=[DESTINATION_DROP]),
    ),
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
    for routers in (1, 3):
        builder = functools.partial(network.routed, routers=routers)
        for name, services, put, expected in ON_HOSTS:
            yield from anyone(
                f"routers-{routers}-{name}",
                expected,
                network=builder,
                services=services,
                faults=put,
            )
        for router in {1, routers}:
            for name, fault, cause in ON_THE_WAY:
                yield from anyone(
                    f"routers-{routers}-{name}-at-{router}",
                    blocked(cause),
                    network=builder,
                    services=(ECHO,),
                    faults=(fault(router=router),),
                )
