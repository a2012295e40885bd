"""``scripts/bench --alone SECONDS``: what it costs to wait without ever meeting.

Pairs of agents that cannot reach each other wait side by side, each pair in a
lab of its own. For each agent: the size of what it would save, the processor
time it took, and what both files say together.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bothends_protocol.evidence import read_evidence
from bothends_protocol.offline import joint

from . import alone, faults
from .hosts import Lab, LabError, Process
from .network import Builder, Stage, lan, lan_and_third
from .services import Service, background

__all__ = ["measure"]

ENDS = 60.0
CONTROL = "meta l4proto {{ tcp, udp }} th dport 24242 counter drop"


@dataclasses.dataclass(frozen=True)
class Situation:
    """What the two wait beside."""

    name: str
    network: Builder = lan
    faults: tuple[Callable[[Stage], object], ...] = ()
    users: bool = False


SITUATIONS = (
    Situation("open port, root"),
    Situation("dropped port, root", faults=(faults.destination_drop(),)),
    Situation("dropped port, users", faults=(faults.destination_drop(),), users=True),
    Situation(
        "dropped port, users, busy hosts",
        lan_and_third,
        (faults.destination_drop(), background),
        users=True,
    ),
)


def measure(seconds: int) -> None:
    """Print the table."""
    print(f"{seconds} seconds alone{'':31}      bytes   processor      a core   verdict")
    labs = [Lab() for _ in SITUATIONS]
    try:
        running = [
            _start(situation, lab, seconds) for situation, lab in zip(SITUATIONS, labs, strict=True)
        ]
        for situation, both in zip(SITUATIONS, running, strict=True):
            _show(situation, both, seconds)
    finally:
        for lab in labs:
            lab.close()


def _start(situation: Situation, lab: Lab, seconds: int) -> list[Process]:
    stage = situation.network(lab)
    Service()(stage)
    for end in ("source", "destination"):
        faults.rules(end, "input", CONTROL)(stage)
    for put in situation.faults:
        put(stage)
    program = str(Path(alone.__file__))
    return [
        host.popen([sys.executable, program, role, str(seconds), peer], as_user=situation.users)
        for host, role, peer in (
            (stage.source, "source", stage.destination_address),
            (stage.destination, "destination", stage.source_address),
        )
    ]


def _show(situation: Situation, both: list[Process], seconds: int) -> None:
    files, lines = [], []
    for process in both:
        if process.wait(seconds + ENDS) != 0:
            raise LabError(f"the {process.host.name} failed:\n{process.stderr}")
        document = json.loads(process.stdout)
        data = base64.b64decode(document["evidence"])
        files.append(data)
        what = f"{situation.name}: {process.host.name}"
        share = 100 * document["cpu"] / seconds
        lines.append(f"{what:45}{len(data):11,} {document['cpu']:9.2f} s {share:9.2f} %")
    began = time.monotonic()
    found = joint(read_evidence(files[0]), read_evidence(files[1]))
    took = time.monotonic() - began
    verdict = ", ".join(found.verdict.blockers) or found.verdict.status
    print(f"{lines[0]}   {verdict} (judged in {took:.1f} s)\n{lines[1]}", flush=True)
