"""What the tables of scenarios share: the names of the causes, and rows for ordinary users."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from .grading import Expected
from .scenario import BOTH, Scenario

__all__ = [
    "CAUSES_ISSUE",
    "anyone",
    "variant",
    "with_users",
]

CAUSES_ISSUE = 3
"""The issue that asks for every cause on the two hosts."""

# The causes that something on the two hosts can have (design, part 2).
WRONG_HOST = "address.wrong-host"
NO_HOST = "address.no-host"
DUPLICATE = "address.duplicate"
SOURCE_NO_PORTS = "source.no-ports"
SOURCE_NO_ROUTE = "source.no-route"
SOURCE_NAME = "source.name"
SOURCE_DROP = "source.firewall-drop"
SOURCE_REJECT = "source.firewall-reject"
SOURCE_REPLY = "source.reply-blocked"
DESTINATION_DROP = "destination.firewall-drop"
DESTINATION_REJECT = "destination.firewall-reject"
DESTINATION_REPLY = "destination.reply-blocked"
DESTINATION_NO_ROUTE = "destination.no-route"
NOT_RUNNING = "service.not-running"
LOOPBACK_ONLY = "service.loopback-only"
WRONG_INTERFACE = "service.wrong-interface"
WRONG_FAMILY = "service.wrong-family"
OTHER_PORT = "service.other-port"
OTHER_PROGRAM = "service.other-program"
HUNG = "service.hung"
BACKLOG_FULL = "service.backlog-full"
CLOSES = "service.closes"
UNREACHABLE = "network.unreachable"
NETWORK_DROP = "network.drop"
NETWORK_REJECT = "network.reject"
REPLY_LOST = "network.reply-lost"
LOSS = "network.loss"
MTU = "network.mtu"

# And those that lie between two homes.
PRIVATE = "address.private"
NO_FORWARD = "nat.no-forward"
NAT_WRONG_HOST = "nat.wrong-host"
WRONG_PORT = "nat.wrong-port"
DOUBLE = "nat.double"
NO_HAIRPIN = "nat.no-hairpin"


def variant(row: Scenario, suffix: str, users: frozenset[str], expected: Expected) -> Scenario:
    """The row under the name ``row@suffix``, with these ends as ordinary users."""
    return dataclasses.replace(row, name=f"{row.name}@{suffix}", users=users, expected=expected)


def with_users(row: Scenario, expected: Expected | None = None) -> Iterator[Scenario]:
    """The row itself, and with both ends as ordinary users, who can say ``expected``.

    Without it they can say as much: kernel counters are readable by all.
    """
    yield row
    yield variant(row, "users", BOTH, expected or row.expected)


def anyone(
    name: str, expected: Expected, *, users: Expected | None = None, **row: Any
) -> Iterator[Scenario]:
    """A row of the issue that asks for every cause, privileged and for ordinary users."""
    yield from with_users(Scenario(name=name, expected=expected, issue=CAUSES_ISSUE, **row), users)
