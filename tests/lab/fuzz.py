"""``scripts/fuzz``: random combinations of network, service, faults, loss, traffic and privilege.

The rows of the lab are the situations that somebody thought of. These are the
others: each run draws some of everything, knows from what it drew what is true,
and runs both agents. What is named must be true. How much is named is counted,
but no failure: behind the first filter much cannot be seen.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from . import faults, network
from .faults import ADMIN, PORT_UNREACHABLE, RESET, Fault, Rules
from .grading import Expected, Grade
from .network import Builder, Stage
from .rows import (
    BACKLOG_FULL,
    CLOSES,
    DESTINATION_DROP,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    HUNG,
    LOOPBACK_ONLY,
    LOSS,
    MTU,
    NETWORK_DROP,
    NETWORK_REJECT,
    NOT_RUNNING,
    REPLY_LOST,
    SOURCE_DROP,
    SOURCE_REJECT,
    SOURCE_REPLY,
)
from .scenario import Scenario, run
from .services import Service, background

__all__ = ["draw", "main"]

USAGE = 2
ENDS = ("source", "destination")

_NETWORKS: tuple[tuple[str, Builder, int], ...] = (
    ("lan", network.lan, 0),
    ("dual", network.dual, 0),
    ("third", network.lan_and_third, 0),
    ("lan6", network.lan6, 0),
    ("routed1", functools.partial(network.routed, routers=1), 1),
    ("routed3", functools.partial(network.routed, routers=3), 3),
)
"""By name: how it is built, and how many routers it has."""

_SERVICES: tuple[tuple[str, tuple[Service, ...], str | None], ...] = (
    ("echo", (Service(bind=("::",), dual=True),), None),
    ("silent", (Service(mode="silent", bind=("::",), dual=True),), None),
    ("none", (), NOT_RUNNING),
    ("loopback", (Service(bind=("127.0.0.1", "::1")),), LOOPBACK_ONLY),
    ("hung", (Service(bind=("::",), dual=True, stopped=True),), HUNG),
    ("full", (Service(mode="full", bind=("::",), dual=True),), BACKLOG_FULL),
    ("closes", (Service(mode="closes", bind=("::",), dual=True),), CLOSES),
)

_FAULTS: tuple[tuple[str, Fault, str], ...] = (
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
"""By name: what it does, and the cause that it is."""

_ON_THE_WAY: tuple[tuple[str, Rules, str], ...] = (
    ("path-drop", faults.path_drop(), NETWORK_DROP),
    ("path-reset", faults.path_reject(RESET), NETWORK_REJECT),
    ("path-icmp", faults.path_reject(ADMIN), NETWORK_REJECT),
    ("path-reply", faults.path_drop_replies(), REPLY_LOST),
)

_BOTH_CLOSED = (faults.default_deny(on="source"), faults.default_deny())
"""Nothing comes in on either side: they must meet by UDP."""

_USERS = (
    frozenset[str](),
    frozenset({"source"}),
    frozenset({"destination"}),
    frozenset({"source", "destination"}),
)


def draw(seed: int) -> Scenario:
    """Return the combination of number `seed`, with what is true of it."""
    chance = random.Random(seed)
    where, build, routers = chance.choice(_NETWORKS)
    serves, services, trouble = chance.choice(_SERVICES)
    choices: list[tuple[str, Fault, str]] = [*_FAULTS, *(_ON_THE_WAY if routers else ())]
    drawn = chance.sample(choices, chance.choice((0, 1, 1, 1, 2, 3)))
    names = [where, serves, *(name for name, _, _ in drawn)]
    put: list[Fault] = [fault for _, fault, _ in drawn]
    truth = {cause for _, _, cause in drawn} | ({trouble} if trouble else set())
    if chance.random() < 0.25:
        put += _BOTH_CLOSED
        truth.add(DESTINATION_DROP)
        names.append("closed")
    allowed = set()
    started: tuple[Callable[[Stage], object], ...] = services
    percent = chance.choice((0, 0, 3, 20))
    if percent:
        put.append(faults.loss(percent))
        allowed.add(LOSS)
        names.append(f"loss{percent}")
    elif chance.random() < 0.2:
        put.append(faults.delay(30))
        names.append("far")
    if where == "third" and chance.random() < 0.5:
        started = (*services, background)
        names.append("traffic")
    if chance.random() < 0.15:
        size, sender = chance.choice((1300, 1400, 1480)), chance.choice((None, *ENDS))
        put.append(faults.black_hole(size, sender))
        truth.add(MTU)
        names.append(f"hole{size}{f'-{sender}' if sender else ''}")
    users = chance.choice(_USERS)
    names.append("+".join(sorted(users)) or "root")
    expected = Expected(
        "blocked" if truth else "open",
        also_true=frozenset(truth),
        allowed_warnings=frozenset(allowed),
    )
    return Scenario(
        name=f"{seed}: {' '.join(names)}",
        expected=expected,
        network=build,
        services=started,
        faults=tuple(put),
        users=users,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__.split(":", 1)[1])
    parser.add_argument("count", nargs="?", type=int, default=50, metavar="COUNT")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of the first of them")
    parser.add_argument("-v", "--verbose", action="store_true", help="all that both agents said")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("the lab makes network namespaces: run it as root", file=sys.stderr)
        return USAGE
    first = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    grades: Counter[Grade] = Counter()
    for seed in range(first, first + options.count):
        scenario = draw(seed)
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
