"""Rows of the issue that asks for every cause: two causes at once, and two things tested at once.

What is seen in spite of the first cause must be named beside it; what can only
be seen once the first is gone may be named (``also``) and need not be.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import faults, network, networks, ways
from .faults import ADMIN, RESET, rules
from .grading import blocked
from .network import DESTINATION
from .networks import SECOND, TUNNEL, by_six, two_cards_by_six
from .rows import (
    BACKLOG_FULL,
    CLOSES,
    DESTINATION_DROP,
    DESTINATION_NO_ROUTE,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    HUNG,
    LOOPBACK_ONLY,
    NO_HOST,
    NOT_RUNNING,
    OTHER_PORT,
    OTHER_PROGRAM,
    SOURCE_DROP,
    SOURCE_NAME,
    SOURCE_NO_ROUTE,
    SOURCE_REJECT,
    SOURCE_REPLY,
    WRONG_FAMILY,
    WRONG_INTERFACE,
    anyone,
)
from .scenario import Scenario
from .services import Service, activated

__all__ = ["rows"]

ECHO = Service()
LOOPBACK = Service(bind=("127.0.0.1",))
ELSEWHERE = Service(bind=(SECOND,))
PROGRAM = "backupd"
NAMED = ("--service", PROGRAM)
BY_FOUR = ("--target", DESTINATION)
NOWHERE = ("--target", "nowhere.example")

DROP, REJECT = faults.destination_drop(), faults.destination_reject(RESET)
REJECT_ICMP = faults.destination_reject(ADMIN)
NO_ANSWER = faults.destination_drop_replies()
OUTWARD, OUTWARD_REJECT = faults.source_drop(), faults.source_reject(RESET)
NOT_BACK = faults.source_drop_replies()


def rows() -> Iterator[Scenario]:
    """All of them."""
    yield from _filter_and_service()
    yield from _named_programs()
    yield from _two_filters()
    yield from _routes()
    yield from _two_targets()
    yield from _two_ports()


def _filter_and_service() -> Iterator[Scenario]:
    for name, builder, services, put, expected in (
        (
            "drop+wrong-interface",
            networks.second_card,
            (ELSEWHERE,),
            DROP,
            blocked(DESTINATION_DROP, WRONG_INTERFACE),
        ),
        (
            "drop+wrong-family",
            network.dual,
            (Service(bind=("::",)),),
            DROP,
            blocked(DESTINATION_DROP, WRONG_FAMILY),
        ),
        (
            "reject+wrong-family",
            network.dual,
            (Service(bind=("::",)),),
            REJECT,
            blocked(DESTINATION_REJECT, WRONG_FAMILY),
        ),
        (
            "reject-icmp+wrong-interface",
            networks.second_card,
            (ELSEWHERE,),
            REJECT_ICMP,
            blocked(DESTINATION_REJECT, WRONG_INTERFACE),
        ),
        (
            "drop+hung",
            network.lan,
            (Service(stopped=True),),
            DROP,
            blocked(DESTINATION_DROP, also=[HUNG]),
        ),
        # A filter that lets loopback pass, as distributions set it up: the destination can look.
        (
            "default-deny+hung",
            network.lan,
            (Service(stopped=True),),
            faults.default_deny("tcp dport 24242"),
            blocked(DESTINATION_DROP, HUNG),
        ),
        (
            "default-deny+closes",
            network.lan,
            (Service(mode="closes"),),
            faults.default_deny("tcp dport 24242"),
            blocked(DESTINATION_DROP, also=[CLOSES]),
        ),
        (
            "default-deny+activated",
            network.lan,
            (activated("backupd"),),
            faults.default_deny("tcp dport 24242"),
            blocked(DESTINATION_DROP),
        ),
        (
            "source-drop+hung",
            network.lan,
            (Service(stopped=True),),
            OUTWARD,
            blocked(SOURCE_DROP, HUNG),
        ),
        (
            "reject-icmp+hung",
            network.lan,
            (Service(stopped=True),),
            REJECT_ICMP,
            blocked(DESTINATION_REJECT, also=[HUNG]),
        ),
        (
            "drop+closes",
            network.lan,
            (Service(mode="closes"),),
            DROP,
            blocked(DESTINATION_DROP, also=[CLOSES]),
        ),
        (
            "drop+backlog-full",
            network.lan,
            (Service(mode="full"),),
            DROP,
            blocked(DESTINATION_DROP, also=[BACKLOG_FULL]),
        ),
        (
            "source-reject+wrong-interface",
            networks.second_card,
            (ELSEWHERE,),
            OUTWARD_REJECT,
            blocked(SOURCE_REJECT, WRONG_INTERFACE),
        ),
        (
            "reply-blocked+loopback-only",
            network.lan,
            (LOOPBACK,),
            NO_ANSWER,
            blocked(LOOPBACK_ONLY, DESTINATION_REPLY),
        ),
        (
            "source-reply-blocked+not-running",
            network.lan,
            (),
            NOT_BACK,
            blocked(NOT_RUNNING, SOURCE_REPLY),
        ),
    ):
        yield from anyone(name, expected, network=builder, services=services, faults=(put,))


def _named_programs() -> Iterator[Scenario]:
    elsewhere = Service(title=PROGRAM, port=4250, as_user=True)
    intruder = Service(title="intruder", as_user=True)
    for name, service, put, expected in (
        ("reject+other-port", elsewhere, REJECT, blocked(DESTINATION_REJECT, OTHER_PORT)),
        ("drop+other-port", elsewhere, DROP, blocked(DESTINATION_DROP, OTHER_PORT)),
        ("drop+other-program", intruder, DROP, blocked(DESTINATION_DROP, OTHER_PROGRAM)),
    ):
        yield from anyone(
            name, expected, services=(service,), faults=(put,), destination_args=NAMED
        )


def _two_filters() -> Iterator[Scenario]:
    for name, put, expected in (
        (
            "source-drop+source-reply-blocked",
            (OUTWARD, NOT_BACK),
            blocked(SOURCE_DROP, also=[SOURCE_REPLY]),
        ),
        (
            "drop+destination-reply-blocked",
            (DROP, NO_ANSWER),
            blocked(DESTINATION_DROP, also=[DESTINATION_REPLY]),
        ),
        (
            "destination-reply-blocked+source-reply-blocked",
            (NO_ANSWER, NOT_BACK),
            blocked(DESTINATION_REPLY, also=[SOURCE_REPLY]),
        ),
        # The source's filter drops the refusal too: a reset from the tested port.
        (
            "reject+source-reply-blocked",
            (REJECT, NOT_BACK),
            blocked(DESTINATION_REJECT, also=[SOURCE_REPLY]),
        ),
    ):
        yield from anyone(name, expected, services=(ECHO,), faults=put)


def _routes() -> Iterator[Scenario]:
    tunnel = ways.way_back_by(f"via {TUNNEL} dev eth1")
    strict = (ways.permanent_neighbour, tunnel, ways.strict_reverse_path)
    for name, builder, services, put, expected in (
        (
            "no-route+not-running",
            by_six,
            (),
            (ways.no_way_out("blackhole"),),
            blocked(SOURCE_NO_ROUTE, NOT_RUNNING),
        ),
        (
            "reverse-path+loopback-only",
            two_cards_by_six,
            (LOOPBACK,),
            strict,
            blocked(DESTINATION_NO_ROUTE, LOOPBACK_ONLY),
        ),
        (
            "drop+no-way-back",
            by_six,
            (ECHO,),
            (faults.destination_drop(), ways.no_way_back("unreachable")),
            blocked(DESTINATION_DROP, also=[DESTINATION_NO_ROUTE]),
        ),
    ):
        yield from anyone(
            name, expected, network=builder, services=services, faults=put, source_args=BY_FOUR
        )


def _two_targets() -> Iterator[Scenario]:
    here = ("--target", DESTINATION)
    there = ("--target", SECOND)
    drop_there = rules("destination", "input", f"ip daddr {SECOND} tcp dport 4242 counter drop")
    for name, builder, put, arguments, expected in (
        ("name+open", network.lan, (), (*NOWHERE, *here), blocked(SOURCE_NAME)),
        (
            "name+drop",
            network.lan,
            (DROP,),
            (*NOWHERE, *here),
            blocked(SOURCE_NAME, DESTINATION_DROP),
        ),
        (
            "open+target-dropped",
            networks.second_address,
            (drop_there,),
            (*here, *there),
            blocked(DESTINATION_DROP),
        ),
        (
            "open+no-host",
            network.lan,
            (),
            (*here, "--target", "192.168.7.77"),
            blocked(NO_HOST),
        ),
        (
            "drop+no-host",
            network.lan,
            (DROP,),
            (*here, "--target", "192.168.7.77"),
            blocked(DESTINATION_DROP, NO_HOST),
        ),
    ):
        yield from anyone(
            name, expected, network=builder, services=(ECHO,), faults=put, source_args=arguments
        )


def _two_ports() -> Iterator[Scenario]:
    for name, services, put, expected in (
        (
            "ports-loopback-only+hung",
            (LOOPBACK, Service(port=4243, stopped=True)),
            (),
            blocked(LOOPBACK_ONLY, HUNG),
        ),
        (
            "ports-closes+drop",
            (Service(mode="closes"), Service(port=4243)),
            (faults.destination_drop(4243),),
            blocked(CLOSES, DESTINATION_DROP),
        ),
        (
            "ports-backlog-full+reject",
            (Service(mode="full"), Service(port=4243)),
            (faults.destination_reject(RESET, 4243),),
            blocked(BACKLOG_FULL, DESTINATION_REJECT),
        ),
        (
            "ports-source-drop+destination-drop",
            (ECHO, Service(port=4243)),
            (faults.source_drop(4242), faults.destination_drop(4243)),
            blocked(SOURCE_DROP, DESTINATION_DROP),
        ),
    ):
        yield from anyone(name, expected, services=services, faults=put, ports="4242,4243")
