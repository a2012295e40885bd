"""Where on the way: what is named of a filter is the stretch in which it is, from both ends.

Each fault is at one router of three. The cause is graded by the rows; here it is the sentence
that says between which hops, and that no other place is named.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import pytest

from . import faults, scenario
from .faults import RESET, Fault, Rules
from .grading import blocked
from .rows import NETWORK_DROP, NETWORK_REJECT, REPLY_LOST
from .scenario import BOTH, Scenario
from .services import Service
from .ways_between import no_words, routers

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("_lab_works")]

ECHO = Service()
HOPS = 4
"""Three routers and the other end."""


def near(hop: int) -> str:
    """The address in which the router at that hop speaks to the source."""
    return f"10.0.{hop - 1}.2"


def far(hop: int) -> str:
    """The address in which the router at that hop, counted from the destination, speaks to it."""
    return f"10.0.{HOPS - hop}.1"


def because(row: Scenario) -> Iterator[str]:
    outcome = scenario.run(row)
    assert outcome.graded.grade == "right", outcome.explain()
    document = outcome.results[0].document
    assert document is not None
    for check in document["checks"]:
        for blocker in check["blockers"]:
            yield from blocker["because"]


def hops_named(sentences: Iterator[str], beginning: str) -> list[int]:
    """The hops named in the sentence about the place; the other end is the last of them."""
    (sentence,) = [one for one in sentences if one.startswith(beginning)]
    found = [int(number) for number in re.findall(r"\(hop (\d+)", sentence)]
    return [*found, HOPS] if "itself" in sentence else found


def blocked_by(
    fault: Fault, cause: str, *, users: bool, service: Service = ECHO, ports: str = "4242"
) -> Scenario:
    return Scenario(
        name="where",
        ports=ports,
        network=routers(3),
        services=(service,),
        faults=(fault,),
        expected=blocked(cause),
        users=BOTH if users else frozenset(),
    )


def on_the_way(what: str, router: int) -> Rules:
    return Rules(f"router{router}", "forward", (what,))


who = pytest.mark.parametrize("users", [False, True], ids=["privileged", "users"])


@who
@pytest.mark.parametrize("router", [1, 2, 3])
def test_a_filter_for_requests(router: int, *, users: bool) -> None:
    row = blocked_by(faults.path_drop(router=router), NETWORK_DROP, users=users)
    sentences = list(because(row))
    # A router counts a hop before it filters what it passes on: it is the last that answers.
    assert hops_named(iter(sentences), "Requests to this port") == [router, router + 1]
    assert near(router) in " ".join(sentences)


@who
@pytest.mark.parametrize("router", [1, 2, 3])
def test_a_filter_that_acts_before_the_hop_is_counted(router: int, *, users: bool) -> None:
    at_once = Rules(
        f"router{router}", "prerouting", ("tcp dport 4242 counter drop",), priority="raw"
    )
    row = blocked_by(at_once, NETWORK_DROP, users=users)
    named = hops_named(because(row), "Requests to this port")
    assert named == ([router - 1, router] if router > 1 else [1])


@who
@pytest.mark.parametrize("router", [1, 2])
@pytest.mark.parametrize("service", [Service(udp=True), Service(udp=True, mode="silent")], ids=str)
def test_a_filter_for_datagrams(router: int, service: Service, *, users: bool) -> None:
    row = blocked_by(
        on_the_way("udp dport 4242 counter drop", router),
        NETWORK_DROP,
        users=users,
        service=service,
        ports="udp:4242",
    )
    sentences = list(because(row))
    assert hops_named(iter(sentences), "Requests to this port") == [router, router + 1]
    assert near(router) in " ".join(sentences)


@who
@pytest.mark.parametrize("router", [1, 2, 3])
def test_a_forged_reset(router: int, *, users: bool) -> None:
    row = blocked_by(faults.path_reject(RESET, router=router), NETWORK_REJECT, users=users)
    assert hops_named(because(row), "Requests to this port") == [router, router + 1]


@pytest.mark.parametrize("router", [1, 2, 3])
def test_a_filter_for_answers(router: int) -> None:
    row = blocked_by(faults.path_drop_replies(router=router), REPLY_LOST, users=False)
    sentences = list(because(row))
    hop = HOPS - router
    assert hops_named(iter(sentences), "Packets from this port") == [hop, hop + 1]
    assert far(hop) in " ".join(sentences)


def test_quiet_routers_leave_the_place_open() -> None:
    row = blocked_by(faults.path_drop(router=2), NETWORK_DROP, users=False)
    quiet = dataclasses.replace(row, faults=(*no_words(1, 2, 3), *row.faults))
    assert not [one for one in because(quiet) if re.search(r"\(hop \d", one)]


def test_one_quiet_router_leaves_the_routers_around_it() -> None:
    row = blocked_by(faults.path_drop(router=1), NETWORK_DROP, users=False)
    quiet = dataclasses.replace(row, faults=(*no_words(2), *row.faults))
    assert hops_named(because(quiet), "Requests to this port") == [1, 3]
