"""Real processes on lab hosts: services under test and daemons that share the host with us.

A ``Service`` is a value that starts its program when it is called with the
stage, and returns once the program says that it is ready.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Callable

from . import serve
from .hosts import Host, Process
from .network import Stage

__all__ = ["Daemon", "Service", "avahi", "browse", "stranger"]

READY_TIMEOUT = 20.0
PORT = 4242


@dataclasses.dataclass(frozen=True)
class Service:
    """A program of ours that listens; see ``serve.MODES`` for what it does then."""

    mode: str = "echo"
    bind: tuple[str, ...] = ("0.0.0.0",)
    """Addresses; ``destination`` stands for the destination's own."""
    port: int = PORT
    udp: bool = False
    dual: bool = False
    """One IPv6 socket for both versions, as most services of today have it."""
    defer: bool = False
    stopped: bool = False
    """Stop the program (SIGSTOP) once it listens."""
    title: str | None = None
    on: str = "destination"
    as_user: bool = False

    def __call__(self, stage: Stage) -> Process:
        host = stage.host(self.on)
        argv = [sys.executable, "-IS", serve.__file__, *self._options(stage)]
        process = host.popen_ready(argv, as_user=self.as_user)
        if self.stopped:
            process.send_signal(signal.SIGSTOP)
        return process

    def _options(self, stage: Stage) -> list[str]:
        options = ["--mode", self.mode, "--port", str(self.port)]
        for address in self.bind:
            options += [
                "--bind",
                stage.destination_address if address == "destination" else address,
            ]
        options += [f"--{flag}" for flag in ("udp", "dual", "defer") if getattr(self, flag)]
        return options + (["--title", self.title] if self.title else [])


Daemon = Callable[[Stage], Process]

_BUS = ["dbus-daemon", "--system", "--nofork", "--nopidfile", "--print-address=3"]
_AVAHI = ["avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits"]
_AVAHI_READY = "Server startup complete"


def avahi(on: str) -> Daemon:
    """A real avahi-daemon (with the D-Bus it needs) on a host: it holds UDP port 5353."""

    def start(stage: Stage) -> Process:
        host = stage.host(on)
        host.popen_ready(_BUS)
        daemon = host.popen(_AVAHI, piped=True)
        daemon.wait_for_output(_AVAHI_READY, READY_TIMEOUT)
        return daemon

    start.__name__ = f"avahi_{on}"
    return start


def browse(host: Host, kind: str) -> Process:
    """avahi-browse for a type of service, resolved and parsable, until it is killed."""
    return host.popen(["avahi-browse", "--resolve", "--parsable", kind], piped=True)


def stranger(stage: Stage) -> Process:
    """The control port of the destination, taken by a program that is not ours."""
    return Service(mode="silent", port=24242, bind=("::",), dual=True)(stage)
