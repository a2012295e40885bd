"""``scripts/bench --sweeps``: thousands of ports, beside what port scanners need for them.

On two lab hosts on one segment, everything in the same run. Seconds are of whole
processes; with two agents, from the start of the first to the end of the later
one. Packets are all that left the source's card meanwhile. A scanner is left out
where it would take more than `LONGEST` at the rate of its own smaller run.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator

from bothends_protocol.ports import parse_ports

from . import agents, faults
from .hosts import CommandError, Lab, LabError, Process
from .network import Stage, lan

__all__ = ["measure"]

SMALL, MIDDLE, ALL = "10000-10999", "1024-14500,49000-52000", "1-65535"
"""As many as are all tested in depth; the ports of a service's NAT traversal; all there are."""
RUNS = 3
LONGEST = 400.0
"""Seconds that a scanner may take."""
KIBI = 1024

_HOLD = """
import selectors, socket, sys
first, last = map(int, sys.argv[1:3])
loop = selectors.DefaultSelector()
for port in sorted({*range(first, last)} - {int(sys.argv[3])}):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("0.0.0.0", port))
    except OSError:
        continue
    sock.listen(8)
    loop.register(sock, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in loop.select():
        key.fileobj.accept()[0].close()
"""
_HOLDERS = 5
"""Programs that hold all ports together: one may not have so many open."""


def _open(stage: Stage) -> None:
    """Programs listen on all ports but the one where the agents meet."""
    step = 65536 // _HOLDERS + 1
    for at in range(_HOLDERS):
        argv = [
            sys.executable,
            "-c",
            _HOLD,
            str(max(1, at * step)),
            str(min(65536, (at + 1) * step)),
            str(agents.CONTROL_PORT),
        ]
        stage.destination.popen(argv, piped=True).wait_for_output("ready")


def _mixed(stage: Stage) -> None:
    """Of each number of ports some are dropped, some refused, and nobody listens on the rest."""
    faults.rules(
        "destination",
        "input",
        "tcp dport {{ 2000-6999, 10000-10333, 30000-45000 }} counter drop",
        "tcp dport {{ 7000-9999, 10334-10666, 50000-59999 }} "
        f"counter reject with {faults.RESET}",
    )(stage)


DESTINATIONS: dict[str, Callable[[Stage], object]] = {
    "dropped": faults.rules(
        "destination",
        "input",
        f"tcp dport 1-65535 tcp dport != {agents.CONTROL_PORT} "
        f"tcp sport != {agents.CONTROL_PORT} counter drop",
    ),
    "closed": lambda _: None,
    "mixed": _mixed,
    "open": _open,
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run took."""

    seconds: float
    packets: int
    memory: float
    """MB (2**20 bytes), of the process that took the most."""


@dataclasses.dataclass(frozen=True)
class Tool:
    """Something that tells the states of ports."""

    name: str
    run: Callable[[Stage, str], Cost]
    runs: int = RUNS


def measure(wanted: str = "") -> None:
    """Print a line for each destination, number of ports and tool."""
    print(f"{'':52}  seconds  ports/s  packets     MB")
    for name, make in DESTINATIONS.items():
        if wanted and name != wanted:
            continue
        for line in _lines(name, make):
            print(line, flush=True)


def _lines(name: str, make: Callable[[Stage], object]) -> Iterator[str]:
    rates: dict[str, float] = {}
    for ports in (SMALL, MIDDLE, ALL):
        count = len(parse_ports(ports)[0])
        for tool in _tools():
            what = f"{name}, {count:6} ports, {tool.name}"
            if tool.name in rates and count / rates[tool.name] > LONGEST:
                yield f"{what:52}  not run: over {LONGEST:.0f} s at its own rate"
                continue
            costs = []
            for _ in range(tool.runs):
                with Lab() as lab:
                    stage = lan(lab)
                    make(stage)
                    costs.append(tool.run(stage, ports))
            seconds = statistics.median(cost.seconds for cost in costs)
            rates[tool.name] = count / seconds
            packets = statistics.median(cost.packets for cost in costs)
            memory = max(cost.memory for cost in costs)
            yield f"{what:52} {seconds:8.2f} {count / seconds:8.0f} {packets:8.0f} {memory:6.0f}"


def _tools() -> Iterator[Tool]:
    yield Tool("both agents, root", lambda stage, ports: _agents(stage, ports, as_user=False))
    yield Tool("both agents, users", lambda stage, ports: _agents(stage, ports, as_user=True))
    if shutil.which("nmap"):
        yield Tool("nmap -sS -T5", lambda stage, ports: _scan(stage, _nmap("-sS", ports)), 1)
        yield Tool("nmap -sT", lambda stage, ports: _scan(stage, _nmap("-sT", ports)), 1)
    if shutil.which("masscan"):
        yield Tool(
            "masscan, 100,000 packets/s",
            lambda stage, ports: _scan(stage, _masscan(ports), stirred=True),
            1,
        )


def _nmap(how: str, ports: str) -> list[str]:
    fast = ["-T5"] if how == "-sS" else []
    return ["nmap", how, *fast, "-n", "-Pn", "-p", ports, "DESTINATION"]


def _masscan(ports: str) -> list[str]:
    return [
        "masscan",
        "DESTINATION",
        "-p",
        ports,
        "--rate",
        "100000",
        "--wait",
        "1",
        "-e",
        "eth0",
        "--router-mac",
        "HARDWARE",
    ]


def _agents(stage: Stage, ports: str, *, as_user: bool) -> Cost:
    before = _sent(stage)
    began = time.monotonic()
    ends = [
        agents.destination(stage, ports=ports, as_user=as_user),
        agents.source(stage, as_user=as_user),
    ]
    results = agents.finish(ends)
    if any(result.document is None or result.code not in (0, 1, 3) for result in results):
        raise LabError("\n".join(result.stderr for result in results))
    _all_named(ports, results[0].document or {})
    return Cost(_ended(ends) - began, _sent(stage) - before, _memory(ends))


def _all_named(ports: str, document: dict[str, object]) -> None:
    """Raise `LabError` unless each port is in a check."""
    checks = document["checks"]
    named = {
        port
        for check in (checks if isinstance(checks, list) else [])
        for port in parse_ports(check["ports"])[0]
    }
    missing = {*parse_ports(ports)[0]} - named - {agents.CONTROL_PORT}
    if missing:
        raise LabError(f"{len(missing)} ports are in no check")


def _scan(stage: Stage, argv: list[str], *, stirred: bool = False) -> Cost:
    """Run a scanner.

    `stirred` gives it a packet a second of something else: masscan 1.3.2 sees that its time is up
    only when one comes in, and never ends on a link that is silent.
    """
    if stirred:
        stage.destination.popen(["ping", "-q", "-i", "1", stage.source_address])
    shown = stage.destination.run(["ip", "-o", "link", "show", "eth0"]).stdout
    found = re.search(r"link/ether (\S+)", shown)
    known = {"DESTINATION": stage.destination_address, "HARDWARE": found[1] if found else ""}
    before = _sent(stage)
    began = time.monotonic()
    process = stage.source.popen([known.get(word, word) for word in argv])
    if process.wait(timeout=2 * LONGEST):
        raise LabError(process.stderr)
    return Cost(_ended([process]) - began, _sent(stage) - before, _memory([process]))


def _ended(processes: list[Process]) -> float:
    return max(process.ended or 0.0 for process in processes)


def _memory(processes: list[Process]) -> float:
    return max(process.maxrss for process in processes) / KIBI


def _sent(stage: Stage) -> int:
    done = stage.source.run(["cat", "/sys/class/net/eth0/statistics/tx_packets"])
    if not done.stdout.strip().isdigit():
        raise CommandError(stage.source, done)
    return int(done.stdout)
