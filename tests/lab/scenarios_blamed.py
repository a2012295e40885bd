"""Rows of faults that look like another's: rules, routes and addresses that few people set up.

What was put in is always known here; what it must never be taken for is the point of each row.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import faults, network, networks, ways
from .faults import ADMIN, RESET, rules
from .grading import blocked, open_, undetermined
from .network import DESTINATION
from .networks import CONTAINER, SECOND_ON_LINK, TUNNEL, by_six
from .rows import (
    DESTINATION_DROP,
    DESTINATION_NO_ROUTE,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    NETWORK_DROP,
    NETWORK_REJECT,
    NOT_RUNNING,
    REPLY_LOST,
    SOURCE_REPLY,
    UNREACHABLE,
    anyone,
)
from .scenario import Scenario
from .services import Service

__all__ = ["rows"]

ECHO = Service()
BY_FOUR = ("--target", DESTINATION)
REQUEST = "tcp dport 4242"
REPLY = "tcp sport 4242"
HOST_UNREACHABLE = "icmpx host-unreachable"


def rows() -> Iterator[Scenario]:
    """All of them."""
    yield from _refused_behind_the_request()
    yield from _refused_answers()
    yield from _led_to_nobody()
    yield from _routed_by_rule()
    yield from _by_tunnel()
    yield from _two_cards()
    yield from _proxy_arp()


def _refused_behind_the_request() -> Iterator[Scenario]:
    """What completes the handshake is answered by a reset, which no program sent."""
    behind = f"{REQUEST} tcp flags & (syn | rst) == 0x0 counter reject with {RESET}"
    new_only = (f"{REQUEST} ct state new accept", f"{REQUEST} counter reject with {RESET}")
    for name, line in (("flags", (behind,)), ("new-only", new_only)):
        for kind, services, expected in (
            ("", (ECHO,), undetermined(DESTINATION_REJECT)),
            ("+not-running", (), blocked(NOT_RUNNING, candidates=[DESTINATION_REJECT])),
        ):
            yield from anyone(
                f"destination-rejects-behind-the-request-{name}{kind}",
                expected,
                services=services,
                faults=(rules("destination", "input", *line),),
            )
    yield from anyone(
        "network-rejects-behind-the-request",
        undetermined(NETWORK_REJECT),
        network=network.routed,
        services=(ECHO,),
        faults=(rules("router1", "forward", behind),),
    )


def _refused_answers() -> Iterator[Scenario]:
    """Answers are refused, so that the destination gives up the handshake that it has begun."""
    for name, how in (("reset", RESET), ("host-unreachable", HOST_UNREACHABLE), ("admin", ADMIN)):
        refused = f"{REPLY} counter reject with {how}"
        yield from anyone(
            f"reply-refused-at-the-router-by-{name}",
            blocked(REPLY_LOST),
            network=network.routed,
            services=(ECHO,),
            faults=(rules("router1", "forward", refused),),
        )
        yield from anyone(
            f"reply-refused-at-the-source-by-{name}",
            blocked(SOURCE_REPLY),
            services=(ECHO,),
            faults=(rules("source", "input", refused),),
        )
        yield from anyone(
            f"reply-refused-at-the-destination-by-{name}",
            blocked(DESTINATION_REPLY),
            services=(ECHO,),
            faults=(rules("destination", "output", refused),),
        )


def _led_to_nobody() -> Iterator[Scenario]:
    """The destination leads the port to where nobody listens; it filters nothing."""
    for name, services in (
        ("", ()),
        ("-beside-a-program", (ECHO,)),
        ("-and-loopback", (Service(port=8080, bind=("127.0.0.1",)),)),
    ):
        yield from anyone(
            f"redirect-to-nobody{name}",
            undetermined(NOT_RUNNING),
            services=services,
            faults=(ways.redirect(8080),),
        )
    yield from anyone(
        "redirect-to-nobody-destination-reject",
        blocked(DESTINATION_REJECT, also=[NOT_RUNNING]),
        faults=(ways.redirect(8080), faults.destination_reject(RESET, "8080")),
    )
    yield from anyone(
        "container-not-there",
        undetermined(NOT_RUNNING),
        network=networks.container,
        faults=(ways.publish("172.17.0.5:80"),),
    )
    yield from anyone(
        "container-not-there-beside-a-program",
        undetermined(NOT_RUNNING),
        network=networks.container,
        services=(ECHO,),
        faults=(ways.publish("172.17.0.5:80"),),
    )
    yield from anyone(
        "container-port-drops",
        blocked(DESTINATION_DROP),
        network=networks.container,
        services=(Service(port=80, on="container"),),
        faults=(
            ways.publish(f"{CONTAINER}:80"),
            rules("destination", "input", f"{REQUEST} counter drop"),
            rules("destination", "forward", "tcp dport 80 counter drop"),
        ),
    )


def _routed_by_rule() -> Iterator[Scenario]:
    """Routing rules that look at ports and at the sender's own address."""
    for kind in ("prohibit", "blackhole", "unreachable"):
        yield from anyone(
            f"no-way-back-by-rule-{kind}",
            blocked(DESTINATION_NO_ROUTE),
            services=(ECHO,),
            faults=(ways.rule_at("destination", f"ipproto tcp sport 4242 {kind}"),),
        )
    yield from anyone(
        "no-way-back-by-rule-other-card",
        blocked(DESTINATION_NO_ROUTE),
        network=networks.two_cards_by_six,
        services=(ECHO,),
        faults=(
            ways.rule_at(
                "destination",
                "ipproto tcp sport 4242 lookup 100",
                f"default via {TUNNEL} dev eth1 table 100",
            ),
        ),
        source_args=BY_FOUR,
    )
    yield from anyone(
        "dead-gateway-by-rule",
        blocked(UNREACHABLE),
        services=(ECHO,),
        faults=(
            ways.rule_at(
                "source",
                "ipproto tcp dport 4242 lookup 100",
                "default via 192.168.7.253 dev eth0 table 100",
            ),
        ),
    )
    yield from anyone(
        "no-way-back-by-address",
        blocked(DESTINATION_NO_ROUTE),
        network=by_six,
        services=(ECHO,),
        faults=(
            ways.rule_at(
                "destination",
                f"from {DESTINATION} lookup 100",
                "unreachable default table 100",
            ),
        ),
        source_args=BY_FOUR,
    )


def _by_tunnel() -> Iterator[Scenario]:
    """The answers leave by a tunnel without a gateway, where nobody says a hardware address."""
    yield from anyone(
        "no-way-back-tunnel-without-gateway",
        blocked(DESTINATION_NO_ROUTE),
        network=networks.two_cards_by_six,
        services=(ECHO,),
        faults=(ways.tunnel_without_gateway,),
        source_args=BY_FOUR,
    )


def _two_cards() -> Iterator[Scenario]:
    """The destination has two cards on one segment; answers may leave by the other one."""
    second = ("--target", SECOND_ON_LINK)
    for name, put, expected in (
        ("open", (), open_()),
        ("destination-drop", (faults.destination_drop(),), blocked(DESTINATION_DROP)),
        (
            "destination-reject",
            (faults.destination_reject(RESET),),
            blocked(DESTINATION_REJECT),
        ),
        (
            "destination-reply-blocked",
            (faults.destination_drop_replies(),),
            blocked(DESTINATION_REPLY),
        ),
    ):
        yield from anyone(
            f"two-cards-on-one-segment-{name}",
            expected,
            network=networks.two_cards_on_one_segment,
            services=(ECHO,),
            faults=put,
            source_args=second,
        )


def _proxy_arp() -> Iterator[Scenario]:
    """A router answers for the other's address on each side, and passes on what it gets."""
    for name, put, expected in (
        ("open", (), open_()),
        ("drop", (faults.path_drop(),), blocked(NETWORK_DROP)),
        ("reject-reset", (faults.path_reject(RESET),), blocked(NETWORK_REJECT)),
        ("reject-icmp", (faults.path_reject(ADMIN),), blocked(NETWORK_REJECT)),
        ("reply-lost", (faults.path_drop_replies(),), blocked(REPLY_LOST)),
        ("destination-drop", (faults.destination_drop(),), blocked(DESTINATION_DROP)),
    ):
        yield from anyone(
            f"proxy-arp-{name}",
            expected,
            network=networks.proxy_arp,
            services=(ECHO,),
            faults=put,
        )
