"""bothends itself, run in the lab: both agents as real processes, and what came of them.

Everything is judged from outside: standard output, standard error, exit status,
time and memory, as a user or a script would see them.
"""

from __future__ import annotations

import dataclasses
import json
import select
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from .hosts import Host, Process
from .network import Stage

__all__ = [
    "CODE",
    "CONTROL_PORT",
    "EXIT_STATUS",
    "GIVE_UP",
    "Result",
    "agent",
    "destination",
    "finish",
    "listens",
    "source",
    "until",
]

CODE = "7-abandon-ability-able"
CONTROL_PORT = 24242
CODE_FILE = "/run/code"
"""One per user: a code file is readable by its owner alone."""

GIVE_UP = 40.0
"""Seconds after which an agent that still runs is said to hang; its own limits are below."""
WAIT = 15
TIMEOUT = 20
"""The agents' own --wait and --timeout, in seconds."""

EXIT_STATUS = {"open": 0, "blocked": 1, "undetermined": 3, "no-contact": 4}
FORMAT = "bothends-verdict/1"
STAINS = (
    "Traceback",
    "Exception ignored",
    "never awaited",
    "was destroyed but it is pending",
    "ResourceWarning",
)
"""What must never be on standard error, whatever happens."""


POLL = 0.003
"""Seconds between looks at a state of the kernel that nobody announces."""

LISTENING = "0A"
SOCKET_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


@dataclasses.dataclass(frozen=True)
class Result:
    """What one agent left when it ended, or when it was given up."""

    side: str
    code: int | None
    """Exit status; negative for a signal, None when it was still running."""
    stdout: str
    stderr: str
    seconds: float
    maxrss: int
    """KiB."""

    @property
    def document(self) -> dict[str, Any] | None:
        """The one JSON document on standard output, or None when it is not exactly that."""
        try:
            document = json.loads(self.stdout)
        except ValueError:
            return None
        return document if isinstance(document, dict) else None

    @property
    def flaws(self) -> list[str]:
        """What is wrong with it, whatever the verdict says."""
        found = [
            f"{self.side}: {stain!r} on standard error" for stain in STAINS if stain in self.stderr
        ]
        if self.code is None:
            return [*found, f"{self.side}: still running after {self.seconds:.0f} s"]
        if self.code < 0:
            return [*found, f"{self.side}: ended by signal {-self.code}"]
        return found + self._document_flaws()

    def _document_flaws(self) -> list[str]:
        document = self.document
        if document is None:
            return [f"{self.side}: standard output is not one JSON document: {self.stdout[:200]!r}"]
        if document.get("format") != FORMAT:
            return [f"{self.side}: format is {document.get('format')!r}"]
        status = str(document.get("status"))
        if EXIT_STATUS.get(status) != self.code:
            return [f"{self.side}: exit status {self.code} does not go with {status!r}"]
        return []


def agent(
    host: Host,
    *arguments: str,
    as_user: bool = False,
    piped: bool = False,
    before: Sequence[str] = (),
) -> Process:
    """Run ``bothends`` with any arguments, by the program ``before`` where one is given."""
    argv = [*before, sys.executable, "-m", "bothends", *arguments]
    return host.popen(argv, as_user=as_user, piped=piped)


def destination(
    stage: Stage,
    *arguments: str,
    command: str = "destination",
    ports: str = "4242",
    peer: bool = True,
    mdns: bool = False,
    code: str | None = CODE,
    as_user: bool = False,
) -> Process:
    """Start the agent of the destination. ``code`` None leaves the option to ``arguments``."""
    address = stage.source_address if peer else None
    common = _common(stage.destination, address, mdns=mdns, code=code, as_user=as_user)
    return agent(stage.destination, command, ports, *common, *arguments, as_user=as_user)


def source(
    stage: Stage,
    *arguments: str,
    peer: bool = True,
    mdns: bool = False,
    code: str | None = CODE,
    as_user: bool = False,
) -> Process:
    """Start the agent of the source."""
    address = stage.destination_address if peer else None
    common = _common(stage.source, address, mdns=mdns, code=code, as_user=as_user)
    return agent(stage.source, "source", *common, *arguments, as_user=as_user)


def _common(
    host: Host, peer: str | None, *, mdns: bool, code: str | None, as_user: bool
) -> list[str]:
    arguments = ["--json", "--wait", str(WAIT), "--timeout", str(TIMEOUT)]
    if code is not None:
        path = f"{CODE_FILE}-{'user' if as_user else 'root'}"
        host.write(path, f"{code}\n", mode=0o600, as_user=as_user)
        arguments += ["--code-file", path]
    if peer is not None:
        arguments += ["--peer", peer]
    return arguments if mdns else [*arguments, "--no-mdns"]


def finish(processes: Sequence[Process], timeout: float = GIVE_UP) -> list[Result]:
    """Wait for all to end, then collect; those that do not are killed and said to hang."""
    await_ends(processes, timeout)
    return [_collect(process) for process in processes]


def await_ends(processes: Sequence[Process], timeout: float) -> None:
    """Wait until every one has ended or the time is up, noting each end when it comes."""
    deadline = time.monotonic() + timeout
    running = {process.pidfd: process for process in processes if process.poll() is None}
    while running:
        ready, _, _ = select.select(list(running), [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return
        for pidfd in ready:
            running.pop(pidfd).wait()


def _collect(process: Process) -> Result:
    code = process.poll()
    if code is None:
        process.kill()
    assert process.ended is not None
    return Result(
        side=process.host.name,
        code=code,
        stdout=process.stdout,
        stderr=process.stderr,
        seconds=process.ended - process.started,
        maxrss=process.maxrss,
    )


def until(what: str, holds: Callable[[], bool], *running: Process, timeout: float = 20.0) -> None:
    """Look until something holds that is announced nowhere; who runs must go on meanwhile."""
    deadline = time.monotonic() + timeout
    while not holds():
        for process in running:
            assert process.poll() is None, f"ended before: {what}\n{process.stdout}{process.stderr}"
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(POLL)


def listens(host: Host, port: int = CONTROL_PORT) -> bool:
    """Whether a program on the host waits for connections to the port."""
    rows = [line.split() for table in SOCKET_TABLES for line in host.read(table).splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == LISTENING for row in rows)
