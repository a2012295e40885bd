"""Lab hosts: each is a computer of its own to the programs in it, and gone when its holder is.

A ``Host`` talks to its holder (``holder.py``, process 1 of the host) over a
socket: the holder starts programs and tells when they end. Output goes to
memory files, not pipes, so that no program ever waits for a reader and no
thread is needed. Programs are signalled and waited for through process file
descriptors, which cannot hit another process by mistake.

The first host must be made by the thread that goes on living (the main one):
what all holders are forked from dies with the thread that started it.
"""

from __future__ import annotations

import atexit
import dataclasses
import fcntl
import functools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import holder

__all__ = ["REPOSITORY", "CommandError", "Completed", "Host", "Lab", "LabError", "Process"]

REPOSITORY = Path(__file__).resolve().parents[2]

START_TIMEOUT = 20.0
"""Seconds for a holder to say that its host is ready; it takes 0.05 on an idle machine."""
ANSWER_TIMEOUT = 20.0
"""Seconds for a holder to answer a request; it takes a millisecond."""
RUN_TIMEOUT = 20.0
"""Seconds for a command that sets something up."""
END_TIMEOUT = 10.0
"""Seconds for a host to be gone once its holder was told."""
PIPE_SIZE = 1 << 20
"""Room for all that a daemon will ever log, since nobody may be reading."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(Exception):
    """The lab itself did not work: nothing is said about the thing under test."""


class CommandError(LabError):
    """A command in a host ended with another status than 0."""

    def __init__(self, host: Host, done: Completed) -> None:
        super().__init__(
            f"on {host.name}: {' '.join(done.argv)!r} ended with {done.code}\n"
            f"{done.stdout}{done.stderr}"
        )
        self.done = done


@dataclasses.dataclass(frozen=True)
class Completed:
    """A command that has ended: what it wrote and its status (negative: the signal)."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


@functools.cache
def _kept_paths() -> list[str]:
    """What programs need of the machine outside its system directories: interpreter, checkout."""
    paths = [str(REPOSITORY), sys.prefix, sys.base_prefix, sys.base_exec_prefix, *sys.path]
    paths.append(str(Path(sys.executable).resolve().parent))
    private = ("/", *holder.PRIVATE_DIRECTORIES)
    directories = [path for path in paths if Path(path).is_dir() and path not in private]
    return sorted({form for path in directories for form in (path, os.path.realpath(path))})


class Process:
    """A program that was started in a host."""

    def __init__(
        self, host: Host, argv: Sequence[str], pid: int, pidfd: int, fds: list[int]
    ) -> None:
        self.host = host
        self.argv = tuple(argv)
        self.pid = pid
        """The number of the process as the host counts."""
        self.pidfd = pidfd
        self.started = time.monotonic()
        self.ended: float | None = None
        self.code: int | None = None
        self.maxrss = 0
        """The most memory it had resident, in KiB; known when it has ended."""
        self._out, self._err = fds
        self._piped = bytearray()

    @property
    def stdout(self) -> str:
        """What it wrote so far."""
        return _contents(self._out, self._piped)

    @property
    def stderr(self) -> str:
        return _contents(self._err, bytearray())

    def poll(self) -> int | None:
        """Its status, or None while it runs."""
        if self.code is None:
            self.host.listen(0)
        return self.code

    def wait(self, timeout: float = RUN_TIMEOUT) -> int:
        """Its status once it has ended; TimeoutError when it does not."""
        deadline = time.monotonic() + timeout
        while self.code is None:
            if not self.host.listen(max(0.0, deadline - time.monotonic())) and self.code is None:
                raise TimeoutError(f"on {self.host.name}: still running: {' '.join(self.argv)}")
        return self.code

    def wait_for_output(self, pattern: str, timeout: float = RUN_TIMEOUT) -> re.Match[str]:
        """Wait until what was written matches; for programs started with ``piped=True``."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self._piped.decode("utf-8", "replace"))):
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._out], [], [], left)
            data = os.read(self._out, 65536) if readable else b""
            if not data:
                how = "ended" if readable else "waits"
                where = f"on {self.host.name}: {self.argv[0]}"
                raise LabError(f"{where} {how} without writing {pattern!r}:\n{self.stdout}")
            self._piped += data
        return match

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it; nothing happens when it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self.wait()

    def told_ended(self, code: int, maxrss: int) -> None:
        """Take the holder's word that it has ended."""
        self.code, self.maxrss, self.ended = code, maxrss, time.monotonic()

    def close(self) -> None:
        for fd in {self.pidfd, self._out, self._err}:
            os.close(fd)


def _contents(fd: int, piped: bytearray) -> str:
    """All of a memory file, or what a pipe has given so far."""
    try:
        data = os.pread(fd, os.fstat(fd).st_size, 0)
    except OSError:  # a pipe has no positions
        os.set_blocking(fd, False)
        try:
            while chunk := os.read(fd, 65536):
                piped += chunk
        except BlockingIOError:
            pass
        finally:
            os.set_blocking(fd, True)
        data = bytes(piped)
    return data.decode("utf-8", "replace")


class Host:
    """A computer: own network, files in /etc, /run, /tmp, host name and processes.

    Making one only starts it; it is waited for at the first use, so that several
    start side by side. ``keep`` are further directories of the machine that its
    programs need, wherever they are.
    """

    def __init__(self, name: str, keep: Sequence[str] = ()) -> None:
        self.name = name
        self.pid_namespace = -1
        """A descriptor of the host's process namespace, once it is ready."""
        self._processes: dict[int, Process] = {}
        self._answers: list[tuple[dict[str, Any], list[int]]] = []
        self._namespace = -1
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = json.dumps({"name": name, "keep": [*_kept_paths(), *keep]})
        with theirs:
            self._holder = _forker().fork_holder(config, theirs)  # a descriptor of its process

    def __repr__(self) -> str:
        return f"Host({self.name!r})"

    @property
    def namespace(self) -> int:
        """A descriptor of the host's network namespace."""
        if self._namespace < 0:
            _, (self._namespace, self.pid_namespace) = self._await_answer(START_TIMEOUT)
        return self._namespace

    # -- commands

    def popen(
        self,
        argv: Sequence[str],
        *,
        as_user: bool = False,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        pass_fds: Iterable[int] = (),
        piped: bool = False,
    ) -> Process:
        """Start a program. Descriptors of ``pass_fds`` are 3, 4, ... in it.

        ``as_user`` runs it as uid 65534 without any capability. ``piped`` makes one
        stream of standard output and error, for ``Process.wait_for_output``.
        """
        source = _memory("stdin", stdin)
        out, theirs = _pipe() if piped else [_memory("stdout")] * 2
        err = out if piped else _memory("stderr")
        request = {
            "do": "spawn",
            "argv": list(argv),
            "env": {**_environment(as_user=as_user), **(env or {})},
            "cwd": _home(as_user=as_user),
            "as_user": as_user,
        }
        try:
            answer, (pidfd,) = self._ask(
                request, [source, theirs, theirs if piped else err, *pass_fds]
            )
        finally:
            os.close(source)
            if piped:
                os.close(theirs)
        process = Process(self, argv, answer["pid"], pidfd, [out, err])
        self._processes[process.pid] = process
        return process

    def popen_ready(self, argv: Sequence[str], *, as_user: bool = False) -> Process:
        """Start a program that writes to descriptor 3 when it is ready, and wait for that."""
        ready, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            process = self.popen(argv, as_user=as_user, pass_fds=[theirs])
            os.close(theirs)
            readable, _, _ = select.select([ready], [], [], START_TIMEOUT)
            if not readable or not os.read(ready, 64):
                raise LabError(f"on {self.name}: not ready: {' '.join(argv)}\n{process.stderr}")
        finally:
            os.close(ready)
        return process

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = RUN_TIMEOUT,
        as_user: bool = False,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        pass_fds: Iterable[int] = (),
    ) -> Completed:
        """Run a program to its end; CommandError when it fails and ``check`` is set."""
        process = self.popen(argv, as_user=as_user, stdin=stdin, env=env, pass_fds=pass_fds)
        try:
            code = process.wait(timeout)
        except TimeoutError:
            process.kill()
            raise
        finally:
            done = Completed(process.argv, process.code or 0, process.stdout, process.stderr)
            process.close()
            del self._processes[process.pid]
        if check and code != 0:
            raise CommandError(self, done)
        return done

    def python(
        self, code: str, *arguments: str, as_user: bool = False, check: bool = True
    ) -> Completed:
        """Run Python code with the interpreter and the packages of the tests."""
        return self.run([sys.executable, "-c", code, *arguments], as_user=as_user, check=check)

    def ip(self, lines: Iterable[str], *, pass_fds: Iterable[int] = ()) -> None:
        """Run many ``ip`` commands as one process."""
        self.run(
            ["ip", "-batch", "-"], stdin="".join(f"{line}\n" for line in lines), pass_fds=pass_fds
        )

    def nft(self, rules: str) -> None:
        """Load nftables rules, all or none."""
        self.run(["nft", "-f", "-"], stdin=rules)

    # -- files and kernel state, without a process

    def write(self, path: str, text: str, *, mode: int = 0o644, as_user: bool = False) -> None:
        """Write a file, which lies over the machine's own where there is one."""
        self._ask({"do": "write", "path": path, "text": text, "mode": mode, "as_user": as_user})

    def read(self, path: str) -> str:
        """Read a file as the host sees it."""
        _, (fd,) = self._ask({"do": "read", "path": path})
        with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
            return file.read()

    def sysctl(self, **settings: int | str) -> None:
        """Set ``net.`` kernel settings; ``__`` stands for the dot: ``ipv4__ip_forward=1``."""
        for key, value in settings.items():
            path = "/proc/sys/net/" + key.replace("__", "/")
            self._ask({"do": "write", "path": path, "text": str(value), "mode": None})

    def know(self, name: str, *addresses: str) -> None:
        """Let the host resolve ``name`` (in its /etc/hosts)."""
        lines = "".join(f"{address} {name}\n" for address in addresses)
        self.write("/etc/hosts", self.read("/etc/hosts") + lines)

    def pids(self) -> list[int]:
        """Every process of the host but its holder, as the host counts."""
        answer, _ = self._ask({"do": "pids"})
        return [int(pid) for pid in answer["pids"]]

    # -- the holder

    def listen(self, timeout: float) -> bool:
        """Take one message from the holder, if one comes in time."""
        readable, _, _ = select.select([self._control], [], [], timeout)
        if not readable:
            return False
        message, fds, _flags, _address = socket.recv_fds(
            self._control, holder.MESSAGE_LIMIT, holder.FDS_LIMIT
        )
        if not message:
            raise LabError(f"host {self.name} is gone")
        document = json.loads(message)
        if "ended" not in document:
            self._answers.append((document, fds))
        elif process := self._processes.get(document["ended"]):
            process.told_ended(document["code"], document["maxrss"])
        return True

    def _ask(
        self, request: dict[str, Any], fds: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[int]]:
        assert self.namespace >= 0  # wait until the host is ready
        socket.send_fds(self._control, [json.dumps(request).encode()], list(fds))
        return self._await_answer(ANSWER_TIMEOUT)

    def _await_answer(self, timeout: float) -> tuple[dict[str, Any], list[int]]:
        deadline = time.monotonic() + timeout
        while not self._answers:
            if not self.listen(max(0.0, deadline - time.monotonic())):
                raise LabError(f"host {self.name} does not answer")
        document, fds = self._answers.pop(0)
        if "error" in document:
            raise LabError(f"on {self.name}: {document['error']}")
        return document, fds

    def let_go(self) -> None:
        """Tell the holder to end, without waiting for it."""
        self._control.close()

    def close(self) -> None:
        """End the host and everything in it; ``forget`` remains to be called."""
        self.let_go()
        if not _has_ended(self._holder, END_TIMEOUT):
            signal.pidfd_send_signal(self._holder, signal.SIGKILL)
            _has_ended(self._holder, END_TIMEOUT)
        os.close(self._holder)
        for process in self._processes.values():
            process.close()
        self._processes.clear()

    def forget(self) -> None:
        """Let go of the namespaces. The kernel may give their numbers to others from now on."""
        for fd in (self._namespace, self.pid_namespace):
            if fd >= 0:
                os.close(fd)
        self._namespace = self.pid_namespace = -1


class _Forker:
    """The process that the holders of this process are forked from; it ends with this one."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-IS", holder.__file__, str(theirs.fileno()), holder.ROOM],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the test, which then ends its hosts
            )
        atexit.register(self._end)

    def fork_holder(self, config: str, control: socket.socket) -> int:
        """Start a holder that is told what to do by `control`; return a descriptor of it."""
        socket.send_fds(self._requests, [config.encode()], [control.fileno()])
        readable, _, _ = select.select([self._requests], [], [], START_TIMEOUT)
        answer, fds, _, _ = socket.recv_fds(self._requests, 64, 1) if readable else (b"", [], 0, 0)
        if not answer:
            raise LabError("no holder can be made")
        return fds[0]

    def _end(self) -> None:
        self._requests.close()
        self._process.wait(END_TIMEOUT)


@functools.cache
def _forker() -> _Forker:
    return _Forker()


def _has_ended(pidfd: int, timeout: float) -> bool:
    """Whether the process has ended, or does so in time."""
    return bool(select.select([pidfd], [], [], timeout)[0])


def _home(*, as_user: bool) -> str:
    return holder.HOMES[holder.NOBODY if as_user else 0]


def _environment(*, as_user: bool) -> dict[str, str]:
    """What every program is given: nothing that differs from machine to machine."""
    # Coverage is measured for root only: the user may not write where its data go.
    names = (
        ("PYTHONPATH",)
        if as_user
        else ("PYTHONPATH", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
    )
    passed = {name: os.environ[name] for name in names if name in os.environ}
    return {
        "PATH": PATH,
        "HOME": _home(as_user=as_user),
        "XDG_RUNTIME_DIR": _home(as_user=as_user),
        "LANG": "C.UTF-8",
        **passed,
    }


def _memory(name: str, text: str = "") -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.write(fd, text.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _pipe() -> list[int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return [read, write]


class Lab:
    """The hosts of one test; a context manager that ends them all."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self._survivors: list[int] = []

    def host(self, name: str, *, keep: Sequence[str] = ()) -> Host:
        """The host of that name, made where there is none yet."""
        if name not in self.hosts:
            self.hosts[name] = Host(name, keep)
        return self.hosts[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all hosts; they go side by side."""
        for host in self.hosts.values():
            host.let_go()
        for host in self.hosts.values():
            host.close()
        self._survivors = self._living()
        for host in self.hosts.values():
            host.forget()
        self.hosts.clear()

    def left_behind(self) -> list[int]:
        """Processes of the machine that belong to a host of this lab: after close() none may."""
        return self._living() if self.hosts else self._survivors

    def _living(self) -> list[int]:
        fds = [host.pid_namespace for host in self.hosts.values() if host.pid_namespace >= 0]
        ours = {os.fstat(fd).st_ino for fd in fds}
        return [pid for pid in _machine_pids() if _pid_namespace(pid) in ours]


def _machine_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _pid_namespace(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino
    except OSError:  # it has just ended
        return None
