"""Networks that single causes need, beside the usual ones of ``network``.

In those whose name ends in ``by_six`` both hosts have both IP versions and know
each other by IPv6, so that they meet whatever is the matter with IPv4. What is
tested there is given with ``--target``: ``network.DESTINATION``.
"""

from __future__ import annotations

import dataclasses

from . import network
from .hosts import Lab
from .network import (
    DESTINATION,
    DESTINATION6,
    SEGMENT,
    SOURCE6,
    THIRD,
    THIRD6,
    Network,
    Stage,
)

__all__ = [
    "ADDRESS_OF_LO",
    "CONTAINER",
    "CONTAINER6",
    "MANY",
    "SECOND",
    "SECOND6",
    "SECOND_ON_LINK",
    "TUNNEL",
    "address_of_lo",
    "by_six",
    "by_six_and_third",
    "container",
    "lan6_and_third",
    "link_local",
    "many_addresses",
    "proxy_arp",
    "routed_and_third",
    "second_address",
    "second_address6",
    "second_card",
    "two_cards_by_six",
    "two_cards_on_one_segment",
    "wrong_mask_by_six",
]

ADDRESS_OF_LO = "192.168.9.20"
SECOND = "192.168.8.20"
"""The destination's other address, where it has one."""
SECOND6 = "fd07::21"
SECOND_ON_LINK = "192.168.7.21"
"""The address of the destination's second card on the segment where the first is, too."""
CONTAINER = "172.17.0.2"
CONTAINER6 = "fd17::2"
TUNNEL = "10.8.0.1"
"""What the destination's second card leads to: it takes everything and passes nothing on."""
MANY = 60
"""Addresses of a host that serves many names: more than anybody writes down one by one."""


def by_six(lab: Lab) -> Stage:
    """Two hosts on one segment with both IP versions; they know each other by IPv6."""
    stage = network.dual(lab)
    return dataclasses.replace(stage, source_address=SOURCE6, destination_address=DESTINATION6)


def by_six_and_third(lab: Lab) -> Stage:
    """As ``by_six``, and a third host, with both versions too."""
    stage = by_six(lab)
    third = lab.host("third")
    stage.network.attach(third, SEGMENT, f"{THIRD}/24", f"{THIRD6}/64")
    stage.network.up()
    return stage


def wrong_mask_by_six(lab: Lab) -> Stage:
    """The destination believes that its segment ends at 192.168.7.31: no way back to .10."""
    stage = by_six(lab)
    stage.destination.ip(
        [
            f"address del {DESTINATION}/24 dev {network.DEVICE}",
            f"address add {DESTINATION}/28 dev {network.DEVICE}",
        ]
    )
    return stage


def two_cards_by_six(lab: Lab) -> Stage:
    """As ``by_six``, and the destination's second card leads to a tunnel's far end."""
    stage = by_six(lab)
    stage.network.attach(stage.destination, "tunnel", "10.8.0.20/24", device="eth1")
    stage.network.attach(lab.host("tunnel"), "tunnel", f"{TUNNEL}/24")
    stage.network.up()
    return stage


def two_cards_on_one_segment(lab: Lab) -> Stage:
    """The destination has two cards on the source's segment; its answers leave by the first.

    Its own filter for reverse paths is off, as it must be for that to work.
    """
    stage = network.lan(lab)
    both = ("all", network.DEVICE, "eth1")
    stage.network.attach(stage.destination, network.SEGMENT, f"{SECOND_ON_LINK}/24", device="eth1")
    stage.network.up()
    stage.destination.sysctl(**{f"ipv4__conf__{card}__rp_filter": 0 for card in both})
    return stage


def proxy_arp(lab: Lab) -> Stage:
    """Two links with one network of addresses, and a router between that answers for each side."""
    source, destination, router = lab.host("source"), lab.host("destination"), lab.host("router1")
    wire = Network(lab)
    for link, host, address in (
        ("near", source, network.SOURCE),
        ("far", destination, DESTINATION),
    ):
        device = network.DEVICE if link == "near" else "eth1"
        wire.attach(host, link, f"{address}/24")
        wire.attach(router, link, device=device)
        wire.route(router, f"{address}/32 dev {device}")
    wire.router(router)
    wire.up()
    router.sysctl(ipv4__conf__all__proxy_arp=1)
    return Stage(wire, source, destination, network.SOURCE, DESTINATION, (router,))


def second_address(lab: Lab) -> Stage:
    """The destination has one more address, on the same card and reachable too."""
    stage = network.lan(lab)
    stage.network.address(stage.destination, f"{SECOND}/32")
    stage.network.route(stage.source, f"{SECOND}/32 dev {network.DEVICE}")
    stage.network.up()
    return stage


def address_of_lo(lab: Lab) -> Stage:
    """The destination has one more address, at its loopback interface, as routers have."""
    stage = network.lan(lab)
    stage.network.address(stage.destination, f"{ADDRESS_OF_LO}/32", device="lo")
    stage.network.route(stage.source, f"{ADDRESS_OF_LO}/32 via {stage.destination_address}")
    stage.network.up()
    return stage


def second_card(lab: Lab) -> Stage:
    """The destination has one more card, on a segment that the source is not on."""
    stage = network.lan(lab)
    stage.network.attach(stage.destination, "other", f"{SECOND}/24", device="eth1")
    stage.network.up()
    return stage


def many_addresses(lab: Lab) -> Stage:
    """The destination has dozens of addresses of both versions; the last of IPv4 is tested."""
    stage = network.dual(lab)
    for number in range(100, 100 + MANY):
        stage.network.address(stage.destination, f"192.168.7.{number}/24")
        stage.network.address(stage.destination, f"fd07::{number}/64")
    stage.network.up()
    return dataclasses.replace(stage, destination_address=f"192.168.7.{99 + MANY}")


def container(lab: Lab) -> Stage:
    """The destination forwards to a network of its own, with one host in it: ``container``."""
    stage = network.dual(lab)
    inside = lab.host("container")
    stage.network.attach(
        stage.destination, "inside", "172.17.0.1/16", "fd17::1/64", device="docker0"
    )
    stage.network.attach(inside, "inside", f"{CONTAINER}/16", f"{CONTAINER6}/64")
    stage.network.route(inside, "default via 172.17.0.1")
    stage.network.route(inside, "default via fd17::1")
    stage.network.router(stage.destination)
    stage.network.up()
    return stage


def lan6_and_third(lab: Lab) -> Stage:
    """Two hosts and a third one on one segment, with IPv6 alone."""
    stage = network.lan6(lab)
    stage.network.attach(lab.host("third"), SEGMENT, f"{THIRD6}/64")
    stage.network.up()
    return stage


def second_address6(lab: Lab) -> Stage:
    """IPv6 alone, and the destination has one more address on the same card."""
    stage = network.lan6(lab)
    stage.network.address(stage.destination, f"{SECOND6}/64")
    stage.network.up()
    return stage


def link_local(lab: Lab) -> Stage:
    """Two hosts on one segment with link-local addresses alone.

    They cannot be told each other's address in advance: mDNS must find it.
    """
    source, destination = lab.host("source"), lab.host("destination")
    wire = Network(lab)
    wire.attach(source, SEGMENT)
    wire.attach(destination, SEGMENT)
    wire.up()
    return Stage(wire, source, destination, "fe80::/10", "fe80::/10")


def routed_and_third(lab: Lab) -> Stage:
    """A router between, and beside the destination a third host, 10.0.1.3."""
    stage = network.routed(lab, routers=1)
    third = lab.host("third")
    stage.network.attach(third, "seg1", "10.0.1.3/24")
    stage.network.route(third, "default via 10.0.1.1")
    stage.network.up()
    return stage
