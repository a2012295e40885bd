"""Real processes on lab hosts: services under test and daemons that share the host with us.

A ``Service`` is a value that starts its program when it is called with the
stage, and returns once the program says that it is ready.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Callable

from . import serve, traffic
from .hosts import Host, Process
from .network import THIRD, Stage

__all__ = [
    "Daemon",
    "MeetingPoint",
    "Service",
    "activated",
    "avahi",
    "background",
    "browse",
    "mailbox_server",
    "meeting_point",
    "message_bus",
    "stranger",
]

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
    backlog: int | None = None
    """Connections that may wait, less one; None for the mode's usual."""
    device: str | None = None
    """The interface from which alone it takes anything (SO_BINDTODEVICE)."""
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
        backlog = 0 if self.mode == "full" and self.backlog is None else self.backlog
        options += [] if backlog is None else ["--backlog", str(backlog)]
        options += ["--device", self.device] if self.device else []
        return options + (["--title", self.title] if self.title else [])


Daemon = Callable[[Stage], Process]

_ACTIVATE = ["systemd-socket-activate", f"--listen={PORT}"]


def activated(title: str, *, as_user: bool = False) -> Daemon:
    """A real supervisor holds the port, and starts the program ``title`` at the first connection.

    systemd-socket-activate then becomes the program; the socket is the same.
    """

    def start(stage: Stage) -> Process:
        program = f"/run/{title}"
        command = f"{sys.executable} -IS {serve.__file__} --activated --title {title}"
        stage.destination.write(program, f"#!/bin/sh\nexec {command}\n", mode=0o755)
        argv = [*_ACTIVATE, program]
        supervisor = stage.destination.popen(argv, as_user=as_user, piped=True)
        supervisor.wait_for_output("Listening on", READY_TIMEOUT)
        return supervisor

    start.__name__ = f"activated_{title}"
    return start


_BUS = ["dbus-daemon", "--system", "--nofork", "--nopidfile", "--print-address=3"]
_AVAHI = ["avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits"]
_AVAHI_READY = "Server startup complete"


def avahi(on: str) -> Daemon:
    """A real avahi-daemon (with the D-Bus it needs) on a host: it holds UDP port 5353."""

    def start(stage: Stage) -> Process:
        host = stage.host(on)
        message_bus(host)
        daemon = host.popen(_AVAHI, piped=True)
        daemon.wait_for_output(_AVAHI_READY, READY_TIMEOUT)
        return daemon

    start.__name__ = f"avahi_{on}"
    return start


def background(stage: Stage) -> Process:
    """A third host sends both hosts thousands of packets a second, in spurts; see ``traffic``."""
    for end in ("source", "destination"):
        Service(mode="echo", bind=("::",), dual=True, port=traffic.ECHO_PORT, on=end)(stage)
    addresses = (stage.source_address, stage.destination_address)
    argv = [sys.executable, "-IS", traffic.__file__, str(PORT), *addresses]
    return stage.host("third").popen_ready(argv)


@dataclasses.dataclass(frozen=True)
class MeetingPoint:
    """A meeting point as it runs, and the URL by which agents find it."""

    process: Process
    url: str


def meeting_point(
    stage: Stage, on: str = "third", address: str = THIRD, port: int = 4000
) -> MeetingPoint:
    """Our own meeting point on a host, once it says that it listens."""
    argv = [sys.executable, "-m", "bothends", "rendezvous", "--listen", f"{address}:{port}"]
    process = stage.lab.host(on).popen(argv, piped=True)
    url = f"ws://{address}:{port}/v1"
    process.wait_for_output(url, READY_TIMEOUT)
    return MeetingPoint(process, url)


def mailbox_server(
    stage: Stage, on: str = "third", address: str = THIRD, port: int = 4000
) -> MeetingPoint:
    """The upstream meeting point on a host: the mailbox server of magic-wormhole."""
    argv = [sys.executable, "-m", "twisted", "wormhole-mailbox"]
    argv += ["--port", f"tcp:{port}:interface={address}", "--channel-db", "/run/mailboxes.sqlite"]
    process = stage.lab.host(on).popen(argv, piped=True)
    process.wait_for_output(f"Site starting on {port}", READY_TIMEOUT)
    return MeetingPoint(process, f"ws://{address}:{port}/v1")


def message_bus(host: Host) -> Process:
    """A real D-Bus system bus, which daemons need to talk to their clients."""
    return host.popen_ready(_BUS)


def browse(host: Host, kind: str) -> Process:
    """avahi-browse for a type of service, resolved and parsable, until it is killed."""
    return host.popen(["avahi-browse", "--resolve", "--parsable", kind], piped=True)


def stranger(stage: Stage) -> Process:
    """The control port of the destination, taken by a program that is not ours."""
    return Service(mode="silent", port=24242, bind=("::",), dual=True)(stage)
