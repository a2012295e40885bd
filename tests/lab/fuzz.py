"""``scripts/fuzz``: random combinations of network, service, faults, loss, traffic and privilege.

The rows of the lab are the situations that somebody thought of. These are the
others: each run draws some of everything, knows from what it drew what is true,
and runs both agents. What is named must be true. How much is named is counted,
but no failure: behind the first filter much cannot be seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import faults, network
from .faults import ADMIN, PORT_UNREACHABLE, RESET, Fault
from .grading import Expected, Grade
from .homes import CARRIER, CARRIER_NAT, INSIDE, PUBLIC, SECOND_ROUTER, Homes
from .network import DESTINATION_PUBLIC, SOURCE_PUBLIC, Builder, Stage
from .rows import (
    BACKLOG_FULL,
    CLOSES,
    DESTINATION_DROP,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    DOUBLE,
    HUNG,
    LOOPBACK_ONLY,
    LOSS,
    MTU,
    NETWORK_DROP,
    NETWORK_REJECT,
    NO_FORWARD,
    NO_HAIRPIN,
    NOT_RUNNING,
    REPLY_LOST,
    SOURCE_DROP,
    SOURCE_REJECT,
    SOURCE_REPLY,
)
from .scenario import Scenario, run
from .scenarios_udp import at_card, drop, drop_replies, on_the_way, reject
from .services import Service, background, meeting_point

__all__ = ["draw", "main"]

USAGE = 2
ENDS = ("source", "destination")


class Place(NamedTuple):
    """A network that may be drawn."""

    name: str
    build: Builder
    routed: bool = False
    """Whether something on the way may be at fault."""
    homes: bool = False
    """Whether the two are in two homes, and meet at a meeting point."""
    trouble: str | None = None
    """What is wrong with it before anything is."""


Drawn = tuple[tuple[str, Fault, str], ...]
"""By name: what it does, and the cause that it is."""

Served = tuple[tuple[str, tuple[Service, ...], str | None], ...]
"""By name: what runs, and the cause that it is."""

_NETWORKS = (
    Place("lan", network.lan),
    Place("dual", network.dual),
    Place("third", network.lan_and_third),
    Place("lan6", network.lan6),
    Place("routed1", functools.partial(network.routed, routers=1), routed=True),
    Place("routed3", functools.partial(network.routed, routers=3), routed=True),
    Place("routed6", functools.partial(network.routed6, routers=2), routed=True),
)

_BY_BOTH = "meta l4proto {{ tcp, udp }} th dport"

_FORWARD, _ELSEWHERE = (f"{_BY_BOTH} {port} dnat ip to {INSIDE}" for port in (4242, 4243))

_HOMES = (
    *(
        Place(f"{name}{kind}", Homes(forwards=(rule,), others=others), homes=True, trouble=trouble)
        for name, rule, trouble in (
            ("home", _FORWARD, None),
            ("closed-home", _ELSEWHERE, NO_FORWARD),
        )
        for kind, others in (("", "drop"), ("-refuses", f"reject with {PORT_UNREACHABLE}"))
    ),
    *(
        Place(name, Homes(forwards=(_FORWARD,), upstream=upstream), homes=True, trouble=DOUBLE)
        for name, upstream in (("carrier-nat", CARRIER_NAT), ("second-router", SECOND_ROUTER))
    ),
    Place("carrier", Homes(forwards=(_FORWARD,), upstream=CARRIER), homes=True),
    Place("from-public", Homes(forwards=(_FORWARD,), source=SOURCE_PUBLIC), homes=True),
    Place(
        "scrambled",
        Homes(forwards=(_FORWARD,), scramblers=frozenset({"home1", "home2"})),
        homes=True,
    ),
    Place("one-home", Homes(forwards=(_FORWARD,), one_home=True, hairpin="full"), homes=True),
    Place(
        "no-hairpin",
        Homes(forwards=(_FORWARD,), one_home=True, hairpin="half"),
        homes=True,
        trouble=NO_HAIRPIN,
    ),
)
"""Their routers forward the port, or another one; some are behind a carrier's or a second one."""

_SERVICES: Served = (
    ("echo", (Service(bind=("::",), dual=True),), None),
    ("silent", (Service(mode="silent", bind=("::",), dual=True),), None),
    ("none", (), NOT_RUNNING),
    ("loopback", (Service(bind=("127.0.0.1", "::1")),), LOOPBACK_ONLY),
    ("hung", (Service(bind=("::",), dual=True, stopped=True),), HUNG),
    ("full", (Service(mode="full", bind=("::",), dual=True),), BACKLOG_FULL),
    ("closes", (Service(mode="closes", bind=("::",), dual=True),), CLOSES),
)

_FAULTS: Drawn = (
    ("drop", faults.destination_drop(), DESTINATION_DROP),
    ("drop-raw", faults.destination_drop_raw(), DESTINATION_DROP),
    ("drop-card", faults.destination_drop_at_card(), DESTINATION_DROP),
    ("deny", faults.default_deny("tcp dport 24242"), DESTINATION_DROP),
    ("reset", faults.destination_reject(RESET), DESTINATION_REJECT),
    ("icmp", faults.destination_reject(PORT_UNREACHABLE), DESTINATION_REJECT),
    ("admin", faults.destination_reject(ADMIN), DESTINATION_REJECT),
    ("reply", faults.destination_drop_replies(), DESTINATION_REPLY),
    ("source-drop", faults.source_drop(), SOURCE_DROP),
    ("source-card", faults.source_drop_at_card(), SOURCE_DROP),
    ("source-reset", faults.source_reject(RESET), SOURCE_REJECT),
    ("source-reply", faults.source_drop_replies(), SOURCE_REPLY),
)

_ON_THE_WAY: Drawn = (
    ("path-drop", faults.path_drop(), NETWORK_DROP),
    ("path-reset", faults.path_reject(RESET), NETWORK_REJECT),
    ("path-icmp", faults.path_reject(ADMIN), NETWORK_REJECT),
    ("path-reply", faults.path_drop_replies(), REPLY_LOST),
)

_UDP = functools.partial(Service, udp=True, bind=("::",), dual=True)

_UDP_SERVICES: Served = (
    ("echo", (_UDP(),), None),
    ("silent", (_UDP(mode="silent"),), None),
    ("none", (), NOT_RUNNING),
    ("loopback", (Service(udp=True, bind=("127.0.0.1", "::1")),), LOOPBACK_ONLY),
    ("hung", (_UDP(stopped=True),), HUNG),
)

_UDP_FAULTS: Drawn = (
    ("drop", drop(), DESTINATION_DROP),
    ("drop-card", at_card("destination", "ingress"), DESTINATION_DROP),
    ("deny", faults.default_deny("tcp dport 24242"), DESTINATION_DROP),
    ("icmp", reject(PORT_UNREACHABLE), DESTINATION_REJECT),
    ("admin", reject(ADMIN), DESTINATION_REJECT),
    ("reply", drop_replies(), DESTINATION_REPLY),
    ("source-drop", drop("source"), SOURCE_DROP),
    ("source-card", at_card("source", "egress"), SOURCE_DROP),
    ("source-admin", reject(ADMIN, "source"), SOURCE_REJECT),
    ("source-reply", drop_replies("source"), SOURCE_REPLY),
)

_UDP_ON_THE_WAY: Drawn = (
    ("path-drop", on_the_way("udp dport 4242 counter drop", 1), NETWORK_DROP),
    ("path-icmp", on_the_way(f"udp dport 4242 counter reject with {ADMIN}", 1), NETWORK_REJECT),
    ("path-reply", on_the_way("udp sport 4242 counter drop", 1), REPLY_LOST),
)

_BOTH_CLOSED = (faults.default_deny(on="source"), faults.default_deny())
"""Nothing comes in on either side: they must meet by UDP."""

_USERS = (
    frozenset[str](),
    frozenset({"source"}),
    frozenset({"destination"}),
    frozenset({"source", "destination"}),
)


class Tables(NamedTuple):
    """What there is to draw from, by transport."""

    ports: str
    services: Served
    faults: Drawn
    on_the_way: Drawn


_TABLES = {
    False: Tables("4242", _SERVICES, _FAULTS, _ON_THE_WAY),
    True: Tables("udp:4242", _UDP_SERVICES, _UDP_FAULTS, _UDP_ON_THE_WAY),
}
"""By whether they are those of UDP."""

_REPLIES = {DESTINATION_REPLY, SOURCE_REPLY, REPLY_LOST}


def draw(seed: int, *, udp: bool = False) -> Scenario:
    """Return the combination of number `seed`, with what is true of it."""
    chance = random.Random(seed)
    tables = _TABLES[udp]
    place = chance.choice((*_NETWORKS, *_HOMES))
    serves, services, trouble = chance.choice(tables.services)
    choices = [*tables.faults, *(tables.on_the_way if place.routed else ())]
    if udp and serves != "echo":
        # An answer that nobody sends is kept by no filter.
        choices = [one for one in choices if one[2] not in _REPLIES]
    drawn = chance.sample(choices, chance.choice((0, 1, 1, 1, 2, 3)))
    names = [place.name, serves, *(name for name, _, _ in drawn)]
    put: list[Fault] = [fault for _, fault, _ in drawn]
    truth = {cause for _, _, cause in drawn}
    truth |= {cause for cause in (trouble, place.trouble) if cause}
    if chance.random() < 0.25:
        put += _BOTH_CLOSED
        truth.add(DESTINATION_DROP)
        names.append("closed")
    started: tuple[Callable[[Stage], object], ...] = services
    if place.name == "third" and chance.random() < 0.5:
        started = (*services, background)
        names.append("traffic")
    lossy = _worsen(chance, put, names)
    if not (udp or place.homes) and chance.random() < 0.15:
        size, sender = chance.choice((1300, 1400, 1480)), chance.choice((None, *ENDS))
        put.append(faults.black_hole(size, sender))
        truth.add(MTU)
        names.append(f"hole{size}{f'-{sender}' if sender else ''}")
    users = chance.choice(_USERS)
    names.append("+".join(sorted(users)) or "root")
    row = Scenario(
        name=f"{seed}: {' '.join(names)}",
        expected=Expected(
            "blocked" if truth else "open",
            also_true=frozenset(truth),
            allowed_warnings=frozenset({LOSS} if lossy else ()),
        ),
        network=place.build,
        services=started,
        faults=tuple(put),
        ports=tables.ports,
        users=users,
    )
    return _met_outside(row) if place.homes else row


def _worsen(chance: random.Random, put: list[Fault], names: list[str]) -> bool:
    """Make the way lossy, or long, or neither; return whether it loses anything."""
    percent = chance.choice((0, 0, 3, 20))
    if percent:
        put.append(faults.loss(percent))
        names.append(f"loss{percent}")
    elif chance.random() < 0.2:
        put.append(faults.delay(30))
        names.append("far")
    return bool(percent)


def _met_outside(row: Scenario) -> Scenario:
    """Return `row` with a meeting point, at which the two meet."""
    meet = ("--rendezvous", f"ws://{PUBLIC}:4000/v1")
    server = functools.partial(meeting_point, on="public", address=PUBLIC)
    return dataclasses.replace(
        row,
        services=(server, *row.services),
        peers=frozenset(),
        source_args=(*meet, "--target", DESTINATION_PUBLIC),
        destination_args=meet,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__.split(":", 1)[1])
    parser.add_argument("count", nargs="?", type=int, default=50, metavar="COUNT")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of the first of them")
    parser.add_argument("--udp", action="store_true", help="UDP in place of TCP")
    parser.add_argument("-v", "--verbose", action="store_true", help="all that both agents said")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("the lab makes network namespaces: run it as root", file=sys.stderr)
        return USAGE
    first = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    grades: Counter[Grade] = Counter()
    for seed in range(first, first + options.count):
        scenario = draw(seed, udp=options.udp)
        outcome = run(scenario)
        # Named in part is all that can be asked for where one fault hides another.
        result = outcome.graded.grade
        grades[result] += 1
        truth = ", ".join(sorted(scenario.expected.truth)) or "open"
        named = ", ".join(outcome.graded.named)
        print(f"{result:8} {outcome.seconds:5.1f} s  {scenario.name}  [{truth}]  named: {named}")
        if result is Grade.WRONG or options.verbose:
            print(outcome.explain())
        sys.stdout.flush()
    print(", ".join(f"{count} {result}" for result, count in sorted(grades.items())))
    return 1 if grades[Grade.WRONG] else 0


if __name__ == "__main__":
    sys.exit(main())
