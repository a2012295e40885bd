"""Rows with --both-ways: two directions in one run, and what blocks each of them.

``both_ways(forth, back)`` says what is true of each. Codes are relative to the direction: in the
direction back a filter of the source that lets nothing in is ``destination.firewall-drop``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from . import faults, network, networks, scenarios_names
from .faults import ADMIN, RESET, Fault, rules
from .grading import Expected, blocked, both_ways, open_, undetermined
from .homes import FORWARD, PUBLIC, Homes
from .network import DESTINATION_PUBLIC, SOURCE, SOURCE6, Stage
from .networks import SECOND
from .rows import (
    DESTINATION_DROP,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    HUNG,
    LOOPBACK_ONLY,
    NETWORK_DROP,
    NETWORK_REJECT,
    NO_FORWARD,
    NOT_RUNNING,
    OTHER_PROGRAM,
    REPLY_LOST,
    SOURCE_DROP,
    SOURCE_REJECT,
    SOURCE_REPLY,
    with_users,
)
from .scenario import Scenario
from .services import Service, mailbox_server, meeting_point

__all__ = ["rows"]

ISSUE = 6

BACK = ("--both-ways",)
FORTH, THERE = Service(), Service(on="source")
SIX, THERE6 = Service(bind=("::",)), Service(bind=("::",), on="source")
CONTROL = "meta l4proto {{ tcp, udp }} th dport 24242"
REQUEST, ANSWER = "tcp dport 4242 counter", "tcp sport 4242 counter"
MEET = ("--rendezvous", f"ws://{PUBLIC}:4000/v1")
TARGET = ("--target", DESTINATION_PUBLIC)

IN_DROP = rules("source", "input", f"{REQUEST} drop")
OUT_REJECT = rules("destination", "output", f"{REQUEST} reject with {ADMIN}")


def rows() -> Iterator[Scenario]:
    """All of them."""
    yield from _services()
    yield from _filters()
    yield from _ways_to_meet()
    yield from _typed()
    yield from _routers()
    yield from _across_the_internet()


def _row(
    name: str,
    forth: Expected,
    back: Expected,
    *put: Fault,
    users: Expected | None = None,
    services: tuple[Any, ...] = (FORTH, THERE),
    source_args: tuple[str, ...] = BACK,
    **row: Any,
) -> Iterator[Scenario]:
    expected = both_ways(forth, back)
    yield from with_users(
        Scenario(
            name=f"both-{name}",
            expected=expected,
            issue=ISSUE,
            services=services,
            faults=put,
            source_args=source_args,
            **row,
        ),
        users,
    )


def _services() -> Iterator[Scenario]:
    yield from _row("open", open_(), open_())
    yield from _row(
        "asked-by-the-destination", open_(), open_(), source_args=(), destination_args=BACK
    )
    for name, services, forth, back in (
        ("no-service-at-the-source", (FORTH,), open_(), blocked(NOT_RUNNING)),
        ("no-service-at-the-destination", (THERE,), blocked(NOT_RUNNING), open_()),
        ("no-service-anywhere", (), blocked(NOT_RUNNING), blocked(NOT_RUNNING)),
        (
            "loopback-only-at-the-source",
            (FORTH, Service(bind=("127.0.0.1",), on="source")),
            open_(),
            blocked(LOOPBACK_ONLY),
        ),
        (
            "hung-at-the-source",
            (FORTH, Service(on="source", stopped=True)),
            open_(),
            blocked(HUNG),
        ),
        (
            "hung-and-not-running",
            (Service(stopped=True),),
            blocked(HUNG),
            blocked(NOT_RUNNING),
        ),
    ):
        yield from _row(name, forth, back, services=services)
    # The name is that of the destination's program; the source's may be another one.
    mine, theirs = (Service(title=title, as_user=True) for title in ("backupd", "intruder"))
    for name, services, forth in (
        ("named", (mine, dataclasses.replace(theirs, on="source")), open_()),
        (
            "named-intruder",
            (theirs, dataclasses.replace(mine, on="source")),
            blocked(OTHER_PROGRAM),
        ),
    ):
        yield from _row(
            name, forth, open_(), services=services, destination_args=("--service", "backupd")
        )
    yield from _row(
        "two-ports",
        blocked(NOT_RUNNING),
        blocked(NOT_RUNNING),
        services=(FORTH, Service(port=4243, on="source")),
        ports="4242,4243",
    )


def _filters() -> Iterator[Scenario]:
    for name, put, forth, back in (
        ("source-lets-nothing-in", (IN_DROP,), open_(), blocked(DESTINATION_DROP)),
        (
            "source-rejects",
            (rules("source", "input", f"{REQUEST} reject with {RESET}"),),
            open_(),
            blocked(DESTINATION_REJECT),
        ),
        ("destination-drop", (faults.destination_drop(),), blocked(DESTINATION_DROP), open_()),
        (
            "both-drop",
            (faults.destination_drop(), IN_DROP),
            blocked(DESTINATION_DROP),
            blocked(DESTINATION_DROP),
        ),
        ("source-drop", (faults.source_drop(),), blocked(SOURCE_DROP), open_()),
        ("destination-lets-nothing-out", (OUT_REJECT,), open_(), blocked(SOURCE_REJECT)),
        (
            "all-at-the-destination",
            (faults.destination_drop(), OUT_REJECT),
            blocked(DESTINATION_DROP),
            blocked(SOURCE_REJECT),
        ),
        (
            "all-at-the-source",
            (faults.source_drop(), IN_DROP),
            blocked(SOURCE_DROP),
            blocked(DESTINATION_DROP),
        ),
        (
            "source-keeps-its-answers",
            (rules("source", "output", f"{ANSWER} drop"),),
            open_(),
            blocked(DESTINATION_REPLY),
        ),
        (
            "destination-drops-answers",
            (rules("destination", "input", f"{ANSWER} drop"),),
            open_(),
            blocked(SOURCE_REPLY),
        ),
    ):
        yield from _row(name, forth, back, *put)
    yield from _row(
        "drop-and-not-running",
        open_(),
        blocked(DESTINATION_DROP, NOT_RUNNING),
        IN_DROP,
        services=(FORTH,),
    )


def _ways_to_meet() -> Iterator[Scenario]:
    # Only the destination's connections come through: the contact is met in reverse.
    yield from _row(
        "met-in-reverse",
        blocked(DESTINATION_DROP),
        open_(),
        faults.default_deny(),
        peers=frozenset({"destination"}),
    )
    yield from _row(
        "met-forth-alone",
        open_(),
        blocked(DESTINATION_DROP),
        faults.default_deny(on="source"),
        peers=frozenset({"source"}),
    )
    yield from _row(
        "mdns", open_(), blocked(DESTINATION_DROP), IN_DROP, peers=frozenset(), mdns=True
    )
    yield from _row(
        "target",
        blocked(DESTINATION_DROP),
        open_(),
        rules("destination", "input", f"ip daddr {SECOND} {REQUEST} drop"),
        network=networks.second_address,
        source_args=(*BACK, "--target", SECOND),
    )
    for name, put, forth, back in (
        ("open", (), open_(), open_()),
        ("source-lets-nothing-in", (IN_DROP,), open_(), blocked(DESTINATION_DROP)),
        ("destination-drop", (faults.destination_drop(),), blocked(DESTINATION_DROP), open_()),
    ):
        yield from _row(
            f"ipv6-{name}", forth, back, *put, network=network.lan6, services=(SIX, THERE6)
        )
    yield from _row(
        "link-local",
        open_(),
        blocked(DESTINATION_DROP),
        IN_DROP,
        network=networks.link_local,
        services=(SIX, THERE6),
        peers=frozenset(),
        mdns=True,
    )


def _typed() -> Iterator[Scenario]:
    """What the destination's user typed says what is tested in the direction back."""
    name = "laptop.example"

    def knows(stage: Stage) -> None:
        stage.destination.know(name, SOURCE6, SOURCE)

    drop6 = rules("source", "input", f"ip6 daddr {SOURCE6} {REQUEST} drop")
    drop4 = rules("source", "input", f"ip daddr {SOURCE} {REQUEST} drop")
    for what, put, back in (
        ("one-dropped", (drop6,), open_()),
        ("all-dropped", (drop6, drop4), blocked(DESTINATION_DROP)),
    ):
        yield from _row(
            f"peer-name-{what}",
            open_(),
            back,
            *put,
            network=network.dual,
            services=(
                Service(bind=("::",), dual=True),
                Service(bind=("::",), dual=True, on="source"),
                knows,
            ),
            peers=frozenset({"source"}),
            destination_args=("--peer", name),
        )
    yield from _row(
        "typed-zones",
        blocked(DESTINATION_DROP),
        open_(),
        faults.destination_drop(),
        network=scenarios_names.other_name,
        services=(SIX, THERE6),
        peers=frozenset(),
        source_args=(*BACK, "--peer", f"{scenarios_names.LINK}%{network.DEVICE}"),
        destination_args=(
            "--peer",
            f"{scenarios_names.LINK_SOURCE}%{scenarios_names.OTHER_CARD}",
        ),
    )


def _routers() -> Iterator[Scenario]:
    forth, back = (f"ip saddr {address} {REQUEST}" for address in ("10.0.0.1", "10.0.2.2"))
    for name, put, there, here in (
        ("drop-back", f"{back} drop", open_(), blocked(NETWORK_DROP)),
        ("drop-forth", f"{forth} drop", blocked(NETWORK_DROP), open_()),
        ("reject-back", f"{back} reject with {ADMIN}", open_(), blocked(NETWORK_REJECT)),
        ("drop-both", f"{REQUEST} drop", blocked(NETWORK_DROP), blocked(NETWORK_DROP)),
        (
            "reply-lost-back",
            f"ip saddr 10.0.0.1 {ANSWER} drop",
            open_(),
            blocked(REPLY_LOST),
        ),
    ):
        yield from _row(
            f"routers-{name}",
            there,
            here,
            rules("router1", "forward", put),
            network=network.routed2,
        )


def _across_the_internet() -> Iterator[Scenario]:
    """The source is behind a NAT that nobody set up: from inside out it works, back it does not."""
    home = Homes(forwards=(FORWARD,))
    ours = functools.partial(meeting_point, on="public", address=PUBLIC)
    upstream = functools.partial(mailbox_server, on="public", address=PUBLIC)
    common: dict[str, Any] = {
        "network": home,
        "peers": frozenset(),
        "source_args": (*BACK, *MEET, *TARGET),
        "destination_args": MEET,
    }
    yield from _row(
        "nat",
        open_(),
        blocked(NO_FORWARD),
        # Its router says nothing, and an ordinary user cannot open it from a port that is held.
        users=both_ways(open_(), undetermined(NO_FORWARD)),
        services=(ours, FORTH, THERE),
        **common,
    )
    yield from _row(
        "nat-asked-by-the-destination",
        open_(),
        blocked(NO_FORWARD),
        users=both_ways(open_(), undetermined(NO_FORWARD)),
        services=(ours, FORTH, THERE),
        **{
            **common,
            "source_args": (*MEET, *TARGET),
            "destination_args": (*BACK, *MEET),
        },
    )
    # Nobody says where the source is seen, so there is nothing to be tried in the direction back.
    yield from _row(
        "nat-unknown",
        open_(),
        undetermined(),
        services=(upstream, FORTH, THERE),
        **common,
    )
