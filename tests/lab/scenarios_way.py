"""Rows of the issue that asks where on the way: the networks between, and what they do.

What names the place on the way is tested in ``test_where``; here it is the causes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from . import faults
from .faults import ADMIN, RESET, Fault
from .grading import Expected, blocked, open_
from .rows import (
    DESTINATION_DROP,
    LOOPBACK_ONLY,
    LOSS,
    NETWORK_DROP,
    NETWORK_REJECT,
    NOT_RUNNING,
    REPLY_LOST,
    SOURCE_DROP,
    anyone,
)
from .scenario import Scenario
from .services import Service
from .ways_between import (
    expects_both,
    few_words,
    lossy_middle,
    no_words,
    parallel,
    parallel_drop,
    parallel_drop_replies,
    proxy,
    relay,
    routers,
    two_ways,
)

__all__ = ["PARTIAL", "PROXY", "WAY_ISSUE", "rows"]

WAY_ISSUE = 6
PARTIAL = "network.partial"
PROXY = "network.proxy"

ECHO = Service()
SILENT = Service(mode="silent")
LOOPBACK = Service(bind=("127.0.0.1",))


def rows() -> Iterator[Scenario]:
    """All of them."""
    for row in (*_parallel(), *_asymmetric(), *_quiet(), *_proxies(), *_loss()):
        yield dataclasses.replace(row, issue=WAY_ISSUE)


def _parallel() -> Iterator[Scenario]:
    both = (faults.path_drop(router=2), faults.path_drop(router=3))
    refused = faults.path_reject(RESET, router=2)
    for name, services, put, expected in (
        ("open", (ECHO,), (), open_()),
        ("open-free", (), (), blocked(NOT_RUNNING)),
        ("one-drops", (ECHO,), (parallel_drop(),), open_(PARTIAL)),
        ("one-drops-silent-service", (SILENT,), (parallel_drop(),), open_(PARTIAL)),
        ("one-drops-replies", (ECHO,), (parallel_drop_replies(),), open_(PARTIAL)),
        ("one-refuses", (ECHO,), (refused,), open_(PARTIAL)),
        ("both-drop", (ECHO,), both, blocked(NETWORK_DROP)),
        ("destination-drop", (ECHO,), (faults.destination_drop(),), blocked(DESTINATION_DROP)),
    ):
        yield from anyone(
            f"parallel-{name}", expected, network=parallel, services=services, faults=put
        )


def _asymmetric() -> Iterator[Scenario]:
    for name, services, put, expected in (
        ("open", (ECHO,), (), open_()),
        ("stateful-back", (ECHO,), (expects_both(2),), blocked(REPLY_LOST)),
        ("drop-there", (ECHO,), (faults.path_drop(router=1),), blocked(NETWORK_DROP)),
        ("reject-there", (ECHO,), (faults.path_reject(ADMIN),), blocked(NETWORK_REJECT)),
        ("drop-back", (ECHO,), (faults.path_drop_replies(router=2),), blocked(REPLY_LOST)),
    ):
        yield from anyone(
            f"two-ways-{name}", expected, network=two_ways, services=services, faults=put
        )


def _quiet() -> Iterator[Scenario]:
    """Routers that say little or nothing of what ends at them."""
    silent = tuple(no_words(1, 2, 3))
    for name, put, expected in (
        ("open", (), open_()),
        ("drop", (faults.path_drop(router=2),), blocked(NETWORK_DROP)),
        ("reset", (faults.path_reject(RESET, router=2),), blocked(NETWORK_REJECT)),
        ("reply-lost", (faults.path_drop_replies(router=2),), blocked(REPLY_LOST)),
        ("destination-drop", (faults.destination_drop(),), blocked(DESTINATION_DROP)),
        ("source-drop", (faults.source_drop(),), blocked(SOURCE_DROP)),
    ):
        yield from anyone(
            f"no-words-{name}",
            expected,
            network=routers(3),
            services=(ECHO,),
            faults=(*silent, *put),
        )
        yield from anyone(
            f"few-words-{name}",
            expected,
            network=routers(3),
            services=(ECHO,),
            faults=(few_words, *put),
        )


def _proxies() -> Iterator[Scenario]:
    for count, at in ((1, 1), (3, 2)):
        for name, services, put, expected in (
            ("answers", (ECHO,), proxy(at), blocked(PROXY)),
            ("answers-like-it", (ECHO,), proxy(at, "echo"), blocked(PROXY)),
            ("answers+loopback-only", (LOOPBACK,), proxy(at), blocked(PROXY, LOOPBACK_ONLY)),
            ("answers+not-running", (), proxy(at), blocked(PROXY, NOT_RUNNING)),
            ("relays", (ECHO,), relay(at), open_()),
            ("relays-silent-service", (SILENT,), relay(at), open_()),
            ("relays+not-running", (), relay(at), blocked(NOT_RUNNING)),
            ("relays+loopback-only", (LOOPBACK,), relay(at), blocked(LOOPBACK_ONLY)),
        ):
            yield from anyone(
                f"proxy-{at}-of-{count}-{name}",
                expected,
                network=routers(count),
                services=services,
                faults=(put,),
            )


def _loss() -> Iterator[Scenario]:
    """What is lost on the way is told, alone and on top of a filter."""
    drop: tuple[Fault, ...] = (faults.path_drop(router=2),)
    for percent in (5, 20, 40):
        for name, put, expected in (
            ("open", (), open_()),
            ("drop", drop, blocked(NETWORK_DROP)),
            ("destination-drop", (faults.destination_drop(),), blocked(DESTINATION_DROP)),
        ):
            yield from anyone(
                f"lossy-{percent}-{name}",
                _losing(expected, told=percent > 5),
                network=routers(2),
                services=(ECHO,),
                faults=(*put, lossy_middle(percent)),
            )


def _losing(expected: Expected, *, told: bool) -> Expected:
    """With a warning of loss; where few packets are lost it may not show at all."""
    if told:
        return dataclasses.replace(expected, warnings=frozenset({LOSS}))
    return dataclasses.replace(expected, allowed_warnings=frozenset({LOSS}))
