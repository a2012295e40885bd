"""Rows of the issue that asks for every cause: real ufw and real firewalld decide."""

from __future__ import annotations

from collections.abc import Iterator

from . import network
from .frontends import firewalld, ufw
from .grading import blocked, open_
from .rows import (
    DESTINATION_DROP,
    DESTINATION_REJECT,
    NOT_RUNNING,
    SOURCE_DROP,
    SOURCE_REJECT,
    anyone,
)
from .scenario import Scenario
from .services import Service

__all__ = ["rows"]

ECHO = Service()
SIX = Service(bind=("::",), dual=True)
ALLOWED = "--add-port=4242/tcp"
REFUSED = "--add-rich-rule=rule port port=4242 protocol=tcp reject"


def rows() -> Iterator[Scenario]:
    """All of them."""
    yield from _ufw()
    yield from _ufw_at_the_source()
    yield from _firewalld()
    yield from _ipv6()


def _ufw() -> Iterator[Scenario]:
    for name, services, put, expected in (
        ("default-deny", (ECHO,), ufw(), blocked(DESTINATION_DROP)),
        ("allow", (ECHO,), ufw("allow 4242/tcp"), open_()),
        ("limit", (ECHO,), ufw("limit 4242/tcp"), open_()),
        (
            "allow-another-peer",
            (ECHO,),
            ufw("allow proto tcp from 192.168.7.99 to any port 4242"),
            blocked(DESTINATION_DROP),
        ),
        ("deny", (ECHO,), ufw("deny 4242/tcp", inward="allow"), blocked(DESTINATION_DROP)),
        ("reject", (ECHO,), ufw("reject 4242/tcp", inward="allow"), blocked(DESTINATION_REJECT)),
        ("default-reject", (ECHO,), ufw(inward="reject"), blocked(DESTINATION_REJECT)),
        ("default-deny+not-running", (), ufw(), blocked(DESTINATION_DROP, NOT_RUNNING)),
    ):
        yield from anyone(f"ufw-{name}", expected, services=services, faults=(put,))


def _ufw_at_the_source() -> Iterator[Scenario]:
    for name, commands, expected in (
        ("deny-out", ("deny out 4242/tcp",), blocked(SOURCE_DROP)),
        ("reject-out", ("reject out 4242/tcp",), blocked(SOURCE_REJECT)),
        (
            "default-deny-out",
            ("default deny outgoing", "allow out 24242"),
            blocked(SOURCE_DROP),
        ),
        ("default", (), open_()),
    ):
        yield from anyone(
            f"ufw-source-{name}", expected, services=(ECHO,), faults=(ufw(*commands, on="source"),)
        )


def _firewalld() -> Iterator[Scenario]:
    for name, put, expected in (
        ("default", firewalld(), blocked(DESTINATION_REJECT)),
        ("allow", firewalld(ALLOWED), open_()),
        ("reject", firewalld(REFUSED, zone="trusted"), blocked(DESTINATION_REJECT)),
        ("drop-zone", firewalld(zone="drop"), blocked(DESTINATION_DROP)),
        ("drop-zone-allow", firewalld(ALLOWED, zone="drop"), open_()),
        ("block-zone", firewalld(zone="block"), blocked(DESTINATION_REJECT)),
    ):
        yield from anyone(f"firewalld-{name}", expected, services=(ECHO,), faults=(put,))
    yield from anyone(
        "firewalld-default+not-running",
        blocked(DESTINATION_REJECT, NOT_RUNNING),
        faults=(firewalld(),),
    )


def _ipv6() -> Iterator[Scenario]:
    for name, put, expected in (
        ("ufw-default-deny", ufw(), blocked(DESTINATION_DROP)),
        ("ufw-allow", ufw("allow 4242/tcp"), open_()),
        (
            "ufw-allow-ipv4-only",
            ufw("allow proto tcp from 0.0.0.0/0 to any port 4242"),
            blocked(DESTINATION_DROP),
        ),
        ("firewalld-default", firewalld(), blocked(DESTINATION_REJECT)),
        ("firewalld-allow", firewalld(ALLOWED), open_()),
    ):
        yield from anyone(
            f"ipv6-{name}", expected, network=network.lan6, services=(SIX,), faults=(put,)
        )
