"""``scripts/bench``: what a run costs in time, memory and bytes, beside what it may cost.

Whole processes, from the start of the first agent to the end of the later one,
on two lab hosts on one segment. Everything compared is measured in the same run
of this program. It judges no run by its speed: whatever the figures, it ends
with 0; 1 says that it could not measure.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from bothends_protocol.code import parse_code
from bothends_protocol.pairing import ROLES, SOURCE, Handshake

from . import agents, bench_alone, bench_sweeps, faults
from .hosts import CommandError, Host, Lab, LabError
from .network import Stage, lan
from .services import Service

__all__ = ["main"]

RUNS = 15
NMAP_RUNS = 5
"""Each takes two seconds."""
START_RUNS = 40
"""Each takes some ten milliseconds, so that single ones say little."""
KIBI = 1024

TEXT, JSON, TERMINAL = "text", "--json", "terminal"
"""Where the verdict goes: text to a file, JSON to a file, text to a terminal (in colour)."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A line of the table. Without a target it is there to be known."""

    what: str
    values: tuple[float, ...]
    unit: str
    target: float | None = None
    digits: int = 2

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def line(self) -> str:
        shown = [f"{value:9.{self.digits}f}" for value in (self.median, max(self.values))]
        if self.target is None:
            judged = ""
        else:
            met = "met" if self.median < self.target else "NOT MET"
            judged = f"   under {self.target:g} {self.unit}: {met}"
        return f"{self.what:58}{shown[0]} {shown[1]} {self.unit:3}{judged}"


@dataclasses.dataclass(frozen=True)
class Run:
    """What both agents needed, once."""

    seconds: float
    memory: dict[str, float]
    """By role, in MB (2**20 bytes); empty where another program stood before the agents."""
    stretches: dict[str, float]
    """What the source itself says of its time, where the output is JSON."""


@dataclasses.dataclass(frozen=True)
class Situation:
    """What the agents meet, the status they must end with, and the seconds they may take."""

    name: str
    status: int
    target: float
    fault: Callable[[Stage], object] | None = None

    def build(self, lab: Lab) -> Stage:
        stage = lan(lab)
        Service()(stage)
        if self.fault is not None:
            self.fault(stage)
        return stage


OPEN = Situation("open port", 0, 0.4)
DROPPED = Situation("silently dropped port", 1, 0.6, faults.destination_drop())
REPLY_BLOCKED = Situation("blocked answers", 1, 0.6, faults.destination_drop_replies())
USERS_TARGET = 1.2
"""Seconds for an ordinary user's verdict."""


class FailedRunError(LabError):
    """An agent did not come to the expected verdict, so its time means nothing."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split(":", 1)[1])
    parser.add_argument("--times", type=int, default=RUNS, metavar="N", help=f"runs ({RUNS})")
    parser.add_argument(
        "--alone", type=int, metavar="SECONDS", help="what waiting costs that ends without contact"
    )
    parser.add_argument(
        "--sweeps",
        nargs="?",
        const="",
        choices=("", *bench_sweeps.DESTINATIONS),
        metavar="DESTINATION",
        help="thousands of ports, beside port scanners",
    )
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("scripts/bench: needs root, to make hosts of namespaces", file=sys.stderr)
        return 1
    _show_head(options.times)
    try:
        if options.sweeps is not None:
            bench_sweeps.measure(options.sweeps)
            return 0
        if options.alone is not None:
            bench_alone.measure(options.alone)
            return 0
        for figure in _figures(options.times):
            print(figure.line(), flush=True)
    except (LabError, TimeoutError, OSError) as error:
        print(f"scripts/bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    return 0


def _show_head(times: int) -> None:
    load = os.getloadavg()[0]
    print(
        f"bothends {version('bothends')}, Python {platform.python_version()}, "
        f"Linux {platform.release()}, {os.cpu_count()} cores, load {load:.1f} at the start; "
        f"{times} runs each\n\n{'':58}   median     worst"
    )


def _figures(times: int) -> Iterator[Figure]:
    runs: list[Run] = []
    for situation in (OPEN, DROPPED):
        contact: list[float] = []
        seconds: dict[str, tuple[float, ...]] = {}
        for output in (TEXT, JSON, TERMINAL):
            with Lab() as lab:
                stage = situation.build(lab)
                counter = _Counter(stage)
                some = [_run(stage, output, situation.status) for _ in range(times)]
                contact.append(counter.bytes() / times)
                what = f"both agents with --peer, {situation.name}, {output}"
                seconds[output] = tuple(run.seconds for run in some)
                yield Figure(what, seconds[output], "s", situation.target)
                yield from _stretches(some)
            runs += some
        yield Figure(f"bytes on the contact, {situation.name}", tuple(contact), "B", digits=0)
        if situation is DROPPED:
            yield from _nmap(situation, statistics.median(seconds[TEXT]))
    yield from _users(times)
    for role in ("source", "destination"):
        memory = tuple(run.memory[role] for run in runs if run.memory)
        yield Figure(f"peak resident memory, {role}", memory, "MB", 70, digits=1)
    yield from _start()
    yield _handshakes()


def _users(times: int) -> Iterator[Figure]:
    """The same without the right to see packets: counters and tables have to do."""
    for situation in (OPEN, DROPPED, REPLY_BLOCKED):
        some = []
        for _ in range(times):
            # Each on hosts of its own: what is left half open stays so for a minute, and the
            # queue of such requests holds no more than those of a few runs.
            with Lab() as lab:
                stage = situation.build(lab)
                some.append(_run(stage, TEXT, situation.status, as_user=True))
        what = f"both as ordinary users, {situation.name}, text"
        yield Figure(what, tuple(run.seconds for run in some), "s", USERS_TARGET)


# -- the agents


def _run(stage: Stage, output: str, status: int, *, as_user: bool = False) -> Run:
    path = f"{agents.CODE_FILE}-user" if as_user else agents.CODE_FILE
    for host in (stage.source, stage.destination):
        host.write(path, f"{agents.CODE}\n", mode=0o600, as_user=as_user)
    ends = (
        (stage.destination, "destination 4242", stage.source_address),
        (stage.source, "source", stage.destination_address),
    )
    began = time.monotonic()
    processes = [
        host.popen(_command(start, peer, output, path), as_user=as_user)
        for host, start, peer in ends
    ]
    results = agents.finish(processes)
    ended = max(process.ended or 0.0 for process in processes)
    for result in results:
        if result.code != status:
            raise FailedRunError(
                f"the {result.side} ended with {result.code} instead of {status}:\n"
                f"{result.stdout}{result.stderr}"
            )
    memory = {process.host.name: process.maxrss / KIBI for process in processes}
    document = results[1].document if output == JSON else None
    return Run(
        ended - began,
        {} if output == TERMINAL else memory,
        {} if document is None else document["seconds"],
    )


def _command(start: str, peer: str, output: str, code_file: str) -> list[str]:
    words = [sys.executable, "-m", "bothends", *start.split(), "--peer", peer]
    words += ["--code-file", code_file]
    if output == TERMINAL:
        # script(1) gives it a terminal and takes 4 ms itself.
        return ["script", "--quiet", "--return", "--command", " ".join(words), "/dev/null"]
    return [*words, "--json"] if output == JSON else words


def _stretches(runs: Sequence[Run]) -> Iterator[Figure]:
    """Where the time went, as far as the source can tell; the rest is start and end."""
    named = {"contact": "  of it until the two had met", "verdict": "  of it from there on"}
    for key, what in named.items():
        values = tuple(run.stretches[key] for run in runs if key in run.stretches)
        if values:
            yield Figure(what, values, "s")


# -- what goes over the wire


class _Counter:
    """Counts the frames of the contact in the switch, where nothing of it disturbs the hosts."""

    def __init__(self, stage: Stage) -> None:
        self._switch: Host = stage.network.switch
        port = agents.CONTROL_PORT
        self._switch.nft(
            f"""table bridge count {{
  chain forward {{
    type filter hook forward priority 0;
    tcp dport {port} counter
    tcp sport {port} counter
  }}
}}
"""
        )

    def bytes(self) -> int:
        """Bytes so far, IP and TCP headers included."""
        listed = json.loads(self._switch.run(["nft", "--json", "list", "ruleset"]).stdout)
        rules = [item["rule"]["expr"] for item in listed["nftables"] if "rule" in item]
        return sum(part["counter"]["bytes"] for rule in rules for part in rule if "counter" in part)


# -- what it is compared with


def _nmap(situation: Situation, ours: float) -> Iterator[Figure]:
    if shutil.which("nmap") is None:
        print("nmap is not installed: no comparison", file=sys.stderr)
        return
    with Lab() as lab:
        stage = situation.build(lab)
        argv = ["nmap", "-sT", "-p", "4242", "-Pn", "-n", stage.destination_address]

        def scan() -> None:
            done = stage.source.run(argv)
            if "filtered" not in done.stdout:
                raise CommandError(stage.source, done)

        seconds = _timed(scan, NMAP_RUNS)
    yield Figure(f"nmap -sT -p 4242 -Pn -n, {situation.name}", seconds, "s")
    ratio = statistics.median(seconds) / ours
    yield Figure("  times as long as both agents, text", (ratio,), "x", digits=1)


def _start() -> Iterator[Figure]:
    """Both in turns, so that what else the machine does meets both alike."""
    bothends = str(Path(sys.executable).parent / "bothends")
    bare: list[float] = []
    asked: list[float] = []
    loaded: list[float] = []
    for _ in range(START_RUNS):
        bare += _timed(lambda: _call(sys.executable, "-c", "pass"), 1)
        asked += _timed(lambda: _call(bothends, "--help"), 1)
        loaded += _timed(lambda: _call(sys.executable, "-c", "import bothends.command"), 1)
    yield Figure("python -c pass", tuple(1000 * value for value in bare), "ms", digits=1)
    yield Figure("loading an agent", tuple(1000 * value for value in loaded), "ms", digits=1)
    yield Figure("bothends --help", tuple(1000 * value for value in asked), "ms", digits=1)
    ratio = statistics.median(asked) / statistics.median(bare)
    yield Figure("  times as long as python -c pass", (ratio,), "x", 6, digits=1)


def _handshakes() -> Figure:
    """What a guess at the code costs the one who is asked: it bounds how many there can be."""
    code = parse_code(agents.CODE)

    def pair() -> None:
        sides = [
            Handshake(
                role=role,
                dialled=role == SOURCE,
                instance=os.urandom(16),
                code=code,
                entropy=os.urandom,
            )
            for role in ROLES
        ]
        frames = sides[0].start()
        for turn in range(1, 4):
            frames = [reply for each in frames for reply in sides[turn % 2].receive(each)]

    return Figure(
        "a handshake, for each side",
        tuple(1000 * value / 2 for value in _timed(pair, START_RUNS)),
        "ms",
        digits=1,
    )


def _call(*argv: str) -> None:
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)


def _timed(work: Callable[[], object], times: int) -> tuple[float, ...]:
    seconds = []
    for _ in range(times):
        began = time.monotonic()
        work()
        seconds.append(time.monotonic() - began)
    return tuple(seconds)


if __name__ == "__main__":
    raise SystemExit(main())
