"""``scripts/meet``: how fast two agents meet, and what loss and cuts do to a run.

Real agents on hosts of the lab, with verdicts that are known: a run counts as
right where both sides name exactly what is there. Whatever the figures, it ends
with 0; 1 says that it could not measure.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from . import agents, faults
from .agents import CONTROL_PORT, Result
from .bench import Figure
from .grading import Expected, Grade, blocked, grade, open_
from .hosts import Host, Lab, LabError, Process
from .network import Stage, lan
from .rows import DESTINATION_DROP, LOSS, NOT_RUNNING
from .services import Service

__all__ = ["CUTS", "cut_every_second", "main"]

TIMES, LOSSES, CUTS_WANTED = 15, 50, 34
LOST = 40
"""Percent lost each way."""
MANY_PORTS = "4000-4255"
"""So many, and a lossy way, make a run of five to ten seconds."""

CUT_SILENT = """
while nft add rule bridge cut way drop; do
  sleep 0.4; nft flush chain bridge cut way; sleep 0.6
done
"""
CUT_LINK = """
while sleep 0.7 && ip link set dev eth0 down && sleep 0.3; do ip link set dev eth0 up; done
"""
CUT_TABLE = f"""table bridge cut {{
  chain way {{ }}
  chain control {{
    type filter hook prerouting priority 0;
    th dport {CONTROL_PORT} jump way
    th sport {CONTROL_PORT} jump way
  }}
}}
"""
CUTS = {
    "reset": "by a TCP reset",
    "silent": "0.4 s of silence",
    "link": "the network card down for 0.3 s",
}


def cut_every_second(stage: Stage, kind: str) -> list[Process]:
    """Begin to cut the contact once a second; return what must go on running for it.

    A reset cuts TCP alone, so UDP is closed to the contact then.
    """
    if kind == "link":
        # With the card go the neighbours. The kernel asks for one again after 1 s, longer than the
        # card is up: where 20 % are lost each way, one cut in three would last until the next, and
        # four such in a row are the silence after which a contact is lost, and rightly so.
        for host in (stage.source, stage.destination):
            host.sysctl(ipv4__neigh__eth0__retrans_time_ms=100)
        return [stage.source.popen(["sh", "-c", CUT_LINK])]
    if kind == "silent":
        stage.network.switch.nft(CUT_TABLE)
        return [stage.network.switch.popen(["sh", "-c", CUT_SILENT])]
    faults.control_blocked("udp")(stage)
    faults.contact_resets(stage)
    return []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/meet", description=__doc__.split(":", 1)[1])
    for name, count, what in (
        ("--times", TIMES, "runs to meet"),
        ("--losses", LOSSES, f"runs at {LOST} %% loss"),
        ("--cuts", CUTS_WANTED, "cuts of each kind"),
    ):
        parser.add_argument(name, type=int, default=count, metavar="N", help=f"{what} ({count})")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("scripts/meet: needs root, to make hosts of namespaces", file=sys.stderr)
        return 1
    print(f"{'':58}   median     worst")
    try:
        for line in _lines(options.times, options.losses, options.cuts):
            print(line, flush=True)
    except (LabError, TimeoutError, OSError) as error:
        print(f"scripts/meet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    return 0


@dataclasses.dataclass(frozen=True)
class Way:
    """How the two agents of a row are started."""

    what: str
    peer: bool = True
    as_user: bool = False


WAYS = (
    Way("both told, as root"),
    Way("both told, as ordinary users", as_user=True),
    Way("nobody told, as root", peer=False),
)


def _lines(times: int, losses: int, cuts: int) -> Iterator[str]:
    if times:
        for way in WAYS:
            seconds = tuple(_meet(way) for _ in range(times))
            yield Figure(f"two closed firewalls, {way.what}", seconds, "s").line().rstrip()
    if losses:
        yield from _lossy(losses)
    if cuts:
        for kind in CUTS:
            yield _cut(kind, cuts)


# -- meeting


def _meet(way: Way) -> float:
    """Seconds from the start of the later agent until the two had met."""
    with Lab() as lab:
        stage = lan(lab)
        faults.closed()(stage)
        ends = []
        for begin in (agents.destination, agents.source):
            ends.append(begin(stage, peer=way.peer, mdns=not way.peer, as_user=way.as_user))
            _await_listening(stage.destination)
        results = agents.finish(ends)
    later = results[1]
    if later.document is None or later.document["status"] != "blocked":
        raise LabError(f"the two did not meet:\n{later.stdout}{later.stderr}")
    told = later.document["seconds"]
    # Starting Python and loading the agent, which it does not count itself, belong to it.
    return float(later.seconds - told["total"] + told["contact"])


def _await_listening(host: Host) -> None:
    deadline = time.monotonic() + agents.WAIT
    while f":{CONTROL_PORT:04X} " not in host.read("/proc/net/tcp"):
        if time.monotonic() > deadline:
            raise LabError("the destination does not listen")
        time.sleep(0.003)


# -- loss and cuts


def _lossy(times: int) -> Iterator[str]:
    rows: tuple[tuple[str, faults.Fault | None, Expected], ...] = (
        ("open", None, open_()),
        ("dropped", faults.destination_drop(), blocked(DESTINATION_DROP)),
    )
    for name, fault, expected in rows:
        allowed = dataclasses.replace(expected, allowed_warnings=frozenset({LOSS}))
        runs = [_run(faults.loss(LOST), fault) for _ in range(times // len(rows))]
        yield _judged(f"{LOST} % lost each way, {name} port", runs, allowed)


def _cut(kind: str, wanted: int) -> str:
    """A line about runs that are cut once a second, until they were cut often enough."""
    expected = blocked(DESTINATION_DROP, NOT_RUNNING)
    put = (faults.loss(20), faults.destination_drop("4000-9999"))
    runs: list[list[Result]] = []
    cuts = 0
    while cuts < wanted:
        runs.append(_run(*put, lambda stage: cut_every_second(stage, kind), ports=MANY_PORTS))
        cuts += int(max(result.seconds for result in runs[-1]))
    return _judged(f"{cuts} cuts, one a second, {CUTS[kind]}", runs, expected)


def _run(*put: Callable[[Stage], object] | None, ports: str = "4242") -> list[Result]:
    with Lab() as lab:
        stage = lan(lab)
        Service()(stage)
        for fault in put:
            if fault is not None:
                fault(stage)
        longer = ("--timeout", "60")
        ends = [agents.destination(stage, *longer, ports=ports), agents.source(stage, *longer)]
        return agents.finish(ends, 90)


def _judged(what: str, runs: Sequence[Sequence[Result]], expected: Expected) -> str:
    seconds = tuple(max(result.seconds for result in run) for run in runs)
    right = sum(grade(expected, run).grade is Grade.RIGHT for run in runs)
    return f"{Figure(what, seconds, 's').line().rstrip()}   {right} of {len(runs)} right"


if __name__ == "__main__":
    raise SystemExit(main())
