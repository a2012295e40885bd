"""One scenario: a row of the table, and how it is run.

Build the lab, start the services, put the faults in, run both agents, grade.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable

from . import agents
from .agents import Result
from .faults import Fault
from .grading import Expected, Grade, Graded, grade
from .hosts import Lab, Process
from .network import Builder, Stage, lan

__all__ = ["BOTH", "Outcome", "Scenario", "run"]

BOTH = frozenset({"source", "destination"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """A row. What is set up is done in the order services, faults."""

    name: str
    expected: Expected
    issue: int = 2
    """The issue that asks for it."""
    network: Builder = lan
    services: tuple[Callable[[Stage], object], ...] = ()
    faults: tuple[Fault, ...] = ()
    ports: str = "4242"
    peers: frozenset[str] = BOTH
    """The ends that are told the other's address."""
    mdns: bool = False
    users: frozenset[str] = frozenset()
    """The ends that run as an ordinary user; the others are privileged."""
    source_args: tuple[str, ...] = ()
    destination_args: tuple[str, ...] = ()

    def as_user(self) -> Scenario:
        """The same with both ends as ordinary users, who may see less but must not say more."""
        if self.users == BOTH:
            return self
        return dataclasses.replace(
            self, name=f"{self.name}@users", users=BOTH, expected=self.expected.relaxed()
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    scenario: Scenario
    graded: Graded
    results: tuple[Result, ...]
    build_seconds: float
    seconds: float
    """From the start of the agents to the end of the later one."""
    left_behind: tuple[int, ...] = ()

    @property
    def verdict_seconds(self) -> float:
        """From pairing to the verdict, of the side for which it took longer; 0 without contact."""
        told = [
            (result.document or {}).get("seconds", {}).get("verdict") for result in self.results
        ]
        return max((seconds for seconds in told if seconds is not None), default=0.0)

    @property
    def right(self) -> bool:
        return self.graded.grade is Grade.RIGHT

    def explain(self) -> str:
        """Everything somebody needs who has to find out why it is not right."""
        expected, graded = self.scenario.expected, self.graded
        lines = [
            f"{self.scenario.name}: {graded.grade}",
            f"  named {', '.join(graded.named)}; expected {expected.status}: {expected.label}",
            *(f"  {note}" for note in graded.notes),
        ]
        for result in self.results:
            figures = f"after {result.seconds:.2f} s, {result.maxrss} KiB"
            lines.append(f"--- {result.side}: exit status {result.code} {figures}")
            lines += [result.stdout.rstrip(), result.stderr.rstrip()]
        return "\n".join(lines)


def run(scenario: Scenario) -> Outcome:
    """Run one scenario in a lab of its own."""
    began = time.monotonic()
    lab = Lab()
    with lab:
        stage = build(lab, scenario)
        built = time.monotonic()
        processes = start(stage, scenario)
        results = agents.finish(processes)
        stray = _stray(stage)
    seconds = max(process.ended or 0.0 for process in processes) - processes[0].started
    graded = grade(scenario.expected, results)
    left = lab.left_behind()
    if stray or left:
        graded = Graded(Grade.WRONG, ("failure",), (*graded.notes, *stray, *_as_notes(left)))
    return Outcome(scenario, graded, tuple(results), built - began, seconds, tuple(left))


def build(lab: Lab, scenario: Scenario) -> Stage:
    """Everything but the agents."""
    stage = scenario.network(lab)
    for put in (*scenario.services, *scenario.faults):
        put(stage)
    stage.expected_pids = {
        host.name: set(host.pids()) for host in (stage.source, stage.destination)
    }
    return stage


def start(stage: Stage, scenario: Scenario) -> list[Process]:
    """Start both agents, the destination first, and wait for neither."""
    return [
        agents.destination(
            stage,
            *scenario.destination_args,
            ports=scenario.ports,
            peer="destination" in scenario.peers,
            mdns=scenario.mdns,
            as_user="destination" in scenario.users,
        ),
        agents.source(
            stage,
            *scenario.source_args,
            peer="source" in scenario.peers,
            mdns=scenario.mdns,
            as_user="source" in scenario.users,
        ),
    ]


def _stray(stage: Stage) -> list[str]:
    """Processes that an agent started and left running on its host."""
    return [
        f"{host.name}: left running: process {pid}: {host.read(f'/proc/{pid}/cmdline')!r}"
        for host in (stage.source, stage.destination)
        for pid in sorted(set(host.pids()) - stage.expected_pids[host.name])
    ]


def _as_notes(pids: Iterable[int]) -> list[str]:
    return [f"process {pid} outlived the lab" for pid in pids]
