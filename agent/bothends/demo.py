"""The `demo` command: both agents on this one computer, with a service and a fault to find.

Strategy. Two network namespaces are two computers to the kernel and to every
program in them; a veth pair joins them, and nftables rules in them are the
fault. A forked child makes them and hands back descriptors; an ordinary user
gets them inside a user namespace. They have no name anywhere: descriptors of
this process and the programs inside are all that holds them, and the kernel
kills each program when this process ends (PR_SET_PDEATHSIG). So nothing is left
behind, however the demo ends, and the computer's own network stays as it is.

Where namespaces cannot be had, loopback addresses stand in for the computers,
for those faults that need no firewall.

The agents are the ordinary commands, judged from outside by their `--json`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

from .cli import UsageError

__all__ = ["FAULTS", "Fault", "demo"]

FAILED = 1
INTERRUPTED = 130

PORT = 4242
CONTROL_PORT = 24242
SOURCE, DESTINATION = "source", "destination"
ROLES = (SOURCE, DESTINATION)
NAMES = {SOURCE: "laptop", DESTINATION: "server"}
ADDRESSES = {SOURCE: "192.168.7.10", DESTINATION: "192.168.7.20"}
LOOPBACK = "127.0.0.1"
STAND_INS = {SOURCE: LOOPBACK, DESTINATION: "127.0.0.2"}

AGENT_SECONDS = 10
"""The agents' own --wait and --timeout; they take half a second."""
GIVE_UP_SECONDS = 30.0
"""After which an agent that still runs is said to hang: more than both its limits together."""

PACKAGES = {"ip": "iproute2", "nft": "nftables"}
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where those programs are; an ordinary user's PATH lacks these folders."""

JOINT = (
    "verdict_id",
    "status",
    "reachable",
    "blockers",
    "warnings",
    "candidates",
    "summary",
    "checks",
)
"""Keys of the verdict document that must be equal on both sides (design, part 3)."""

# linux/sched.h, linux/prctl.h
_CLONE_NEWUTS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x04000000, 0x10000000, 0x40000000
_PR_SET_PDEATHSIG = 1

_SERVICE = """
import select, socket, sys
try:
    with open("/proc/self/comm", "w") as name:
        name.write("echo")
except OSError:
    pass
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
peers = []
while True:
    for ready in select.select([sys.stdin, server, *peers], [], [])[0]:
        if ready is sys.stdin:
            sys.exit()
        if ready is server:
            peers.append(server.accept()[0])
            continue
        try:
            data = ready.recv(4096)
            ready.sendall(data)
        except OSError:
            data = b""
        if not data:
            peers.remove(ready)
            ready.close()
"""
"""Echo on TCP, until standard input ends. A text, to run on the bare standard library (-IS),
which takes a third of the time."""


class DemoError(Exception):
    """The demo itself did not work; the message is one sentence for the user."""


class _NotHereError(Exception):
    """Two computers cannot be had here; the message is a clause that says why."""


# The faults ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something to find. `cause` is the code that must be found, empty where nothing is wrong."""

    name: str
    cause: str
    says: str
    kind: str
    """`none`, `firewall` or `service`: two of one kind would hide each other."""
    on: str = ""
    chain: str = ""
    action: str = ""
    """What a firewall's rule does; `on` and `chain` are where."""


FAULTS = (
    Fault("open", "", "no fault, the connection works", "none"),
    Fault(
        "destination-drop",
        "destination.firewall-drop",
        "a firewall on the destination that drops connection requests",
        "firewall",
        DESTINATION,
        "input",
        "drop",
    ),
    Fault(
        "destination-reject",
        "destination.firewall-reject",
        "a firewall on the destination that refuses connection requests",
        "firewall",
        DESTINATION,
        "input",
        "reject with tcp reset",
    ),
    Fault(
        "source-drop",
        "source.firewall-drop",
        "a firewall on the source that drops connection requests",
        "firewall",
        SOURCE,
        "output",
        "drop",
    ),
    Fault(
        "source-reject",
        "source.firewall-reject",
        "a firewall on the source that refuses connection requests",
        "firewall",
        SOURCE,
        "output",
        "reject with tcp reset",
    ),
    Fault("not-running", "service.not-running", "a service that does not run", "service"),
    Fault(
        "loopback-only",
        "service.loopback-only",
        "a service that listens on the loopback address only",
        "service",
    ),
)
DEFAULT = "destination-drop"
LOOPBACK_DEFAULT = "loopback-only"

_EXAMPLE = "destination-drop+loopback-only"
_BY_NAME = {fault.name: fault for fault in FAULTS} | {
    fault.cause: fault for fault in FAULTS if fault.cause
}


def _faults(text: str) -> tuple[Fault, ...]:
    """Return the faults that were typed, by name or by code, joined by `+`."""
    names = [part.strip().lower() for part in text.split("+")]
    for name in names:
        if name not in _BY_NAME:
            known = ", ".join(fault.name for fault in FAULTS)
            raise UsageError(
                f"{name!r} is not a fault of the demo; these are: {known}, and a firewall's with "
                f"a service's, as in {_EXAMPLE}."
            )
    chosen = tuple(dict.fromkeys(_BY_NAME[name] for name in names))
    kinds = [fault.kind for fault in chosen]
    if len(chosen) > 1 and ("none" in kinds or len(set(kinds)) < len(kinds)):
        raise UsageError(
            f"{' and '.join(fault.name for fault in chosen)} would hide each other: join one "
            f"fault of a firewall with one of a service, as in {_EXAMPLE}."
        )
    return chosen


def _list(*, as_json: bool) -> None:
    if as_json:
        rows = [{"name": item.name, "cause": item.cause, "says": item.says} for item in FAULTS]
        _say(json.dumps({"default": DEFAULT, "faults": rows}, indent=2), sys.stdout)
        return
    rows_of_text = [(item.name, item.says) for item in FAULTS]
    for name, says in (*rows_of_text, (_EXAMPLE, "any of a firewall with any of a service")):
        default = " (the default)" if name == DEFAULT else ""
        _say(f"{name:<{len(_EXAMPLE) + 2}}{says}{default}", sys.stdout)


# The command ---------------------------------------------------------------------------------


def demo(args: argparse.Namespace) -> int:
    """Carry out the command; return 0 where the agents found exactly what was put in."""
    if args.list:
        _list(as_json=args.json)
        return 0
    if os.name != "posix":
        raise UsageError("The demo does not run on this system: it needs Linux or another Unix.")
    wanted = None if args.fault is None else _faults(args.fault)
    try:
        return _play(wanted, as_json=args.json)
    except DemoError as error:
        return _give_up(str(error), FAILED, as_json=args.json)
    except (OSError, subprocess.SubprocessError) as error:
        # Out of processes or descriptors, say.
        return _give_up(f"The demo cannot be set up: {error}.", FAILED, as_json=args.json)
    except KeyboardInterrupt:
        return _give_up("Interrupted.", INTERRUPTED, as_json=args.json)


def _give_up(sentence: str, status: int, *, as_json: bool) -> int:
    _say(f"bothends: {sentence}", sys.stderr)
    if as_json:
        from .command import usage_document  # noqa: PLC0415  loads the whole agent

        _say(usage_document(sentence), sys.stdout)
    return status


def _play(wanted: tuple[Fault, ...] | None, *, as_json: bool) -> int:
    screen = sys.stderr if as_json else sys.stdout
    with ExitStack() as stack:
        stage, faults = _set_up(wanted, stack)
        if stage.excuse:
            _say(f"bothends: {stage.excuse}", sys.stderr)
        _start_service(faults, stage, stack)
        _say(_story(faults, stage), screen)
        source, destination = _run_agents(stage, stack)
    if as_json:
        _say(source.text.rstrip(), sys.stdout)
    problem = _disagreement(source.document, destination.document)
    if problem:
        _say(f"bothends: {problem}", sys.stderr)
        return FAILED
    if not as_json:
        _write(lambda: _show(source.document), sys.stdout)
    put, found = _put_in(faults), _found(source.document)
    _say(_conclusion(put, found), screen)
    return 0 if put == found else FAILED


_Finding = tuple[str, frozenset[str]]
"""A status and the blockers, as a verdict names them."""


def _put_in(faults: Sequence[Fault]) -> _Finding:
    causes = frozenset(fault.cause for fault in faults if fault.cause)
    return "blocked" if causes else "open", causes


def _found(document: Mapping[str, Any]) -> _Finding:
    return document["status"], frozenset(document["blockers"])


def _disagreement(source: Mapping[str, Any], destination: Mapping[str, Any]) -> str | None:
    """Return a sentence where the two verdicts are not one and the same."""
    differing = [key for key in JOINT if source.get(key) != destination.get(key)]
    if differing:
        return f"The two sides do not agree, they differ in {', '.join(differing)}."
    if source.get("verdict_id") is None:
        return f"The two sides came to no joint verdict. {source.get('summary')}"
    return None


# What the user sees --------------------------------------------------------------------------


def _write(write: Callable[[], object], stream: TextIO) -> None:
    try:
        write()
        stream.flush()
    except BrokenPipeError:
        # Whoever read the output has gone; the exit status still tells.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(text: str, stream: TextIO) -> None:
    _write(lambda: print(text, file=stream), stream)


def _story(faults: Sequence[Fault], stage: Stage) -> str:
    lines = [
        "One computer that plays two, on its loopback addresses:"
        if stage.excuse
        else "Two computers on one cable, both inside this one (network namespaces):",
        f"  source       {stage.source}",
        f"  destination  {stage.destination}, with a service: echo on TCP {stage.port}",
    ]
    for fault in faults:
        lines.append(f"To find: {fault.says}.")
        if fault.action:
            lines.append(f"  (nftables on the {fault.on}, {fault.chain}: {_rule(fault, stage)})")
    lines.append("Now bothends runs on both.")
    return "\n".join(lines)


def _show(document: Mapping[str, Any]) -> None:
    """Print the verdict as the source itself would."""
    import msgspec  # noqa: PLC0415  what the agents wait for is loaded first

    from bothends_protocol.evidence import HostFacts  # noqa: PLC0415
    from bothends_protocol.outside_facts import read_outside  # noqa: PLC0415
    from bothends_protocol.verdict import Verdict  # noqa: PLC0415

    from .render import print_text  # noqa: PLC0415

    facts = {role: dict(document[role] or {}) for role in ROLES}
    outside = {role: read_outside(facts[role]) for role in ROLES}
    for role in ROLES:
        facts[role].pop("outside", None)
    print("\nBoth came to the same verdict. The source shows it like this:\n")
    print_text(
        msgspec.convert(document, Verdict),
        role=SOURCE,
        source=msgspec.convert(facts[SOURCE] or None, HostFacts | None),
        destination=msgspec.convert(facts[DESTINATION] or None, HostFacts | None),
        outside=outside,
        contact=document["contact"],
    )
    print()


def _conclusion(put: _Finding, found: _Finding) -> str:
    if put != found:
        return f"Put in was {_words(put)}, found was {_words(found)}: that is not the same."
    if not put[1]:
        return "No fault was put in, and none was found."
    return f"Found exactly what was put in: {_words(put)}."


def _words(finding: _Finding) -> str:
    status, causes = finding
    return " and ".join(sorted(causes)) or f"no cause ({status})"


# The stage -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Computer:
    """A place to run programs in."""

    role: str
    address: str
    control_port: int = CONTROL_PORT
    namespaces: tuple[int, ...] = ()
    """Descriptors, in the order in which to enter them; none for this computer itself."""

    def __str__(self) -> str:
        return f"{NAMES[self.role]}, {self.address}" if self.namespaces else self.address

    def start(self, argv: Sequence[str], stack: ExitStack, **options: Any) -> subprocess.Popen[str]:
        """Start a program in it that ends with `stack`, or with this process at the latest.

        `options` are those of Popen; standard error goes to a pipe.
        """
        with _interrupts_later():
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for the demo, which ends what it started
                preexec_fn=functools.partial(  # noqa: PLW1509  there are no threads here
                    _enter, self.namespaces, os.getpid()
                ),
                **options,
            )
            stack.callback(_end, process)
        return process


@dataclass(frozen=True)
class Stage:
    """Both computers and what is tested between them."""

    source: Computer
    destination: Computer
    port: int = PORT
    excuse: str = ""
    """Why loopback addresses stand in for two computers; empty where they do not."""


def _set_up(wanted: tuple[Fault, ...] | None, stack: ExitStack) -> tuple[Stage, tuple[Fault, ...]]:
    """Return the stage, its firewalls loaded, and the faults there are to find."""
    faults = wanted or _faults(DEFAULT)
    try:
        stage = _two_computers(stack)
        for fault in faults:
            if fault.action:
                on = stage.source if fault.on == SOURCE else stage.destination
                _run_tool(on, "nft", "-f", "-", feed=_table(fault, stage))
    except _NotHereError as error:
        if wanted and any(fault.action for fault in wanted):
            name = "+".join(fault.name for fault in wanted)
            raise UsageError(f"The fault {name} cannot be set up here: {error}.") from error
        return _stand_ins(str(error)), wanted or _faults(LOOPBACK_DEFAULT)
    return stage, faults


def _table(fault: Fault, stage: Stage) -> str:
    return (
        f"table inet filter {{\nchain {fault.chain} {{\n"
        f"type filter hook {fault.chain} priority filter; policy accept;\n"
        f"{_rule(fault, stage)}\n}}\n}}\n"
    )


def _rule(fault: Fault, stage: Stage) -> str:
    return f"tcp dport {stage.port} {fault.action}"


def _stand_ins(reason: str) -> Stage:
    # Port 4242 may be in use here, by a real service or by another demo.
    port, *control = _free_ports(3)
    source, destination = (
        Computer(role, STAND_INS[role], number) for role, number in zip(ROLES, control, strict=True)
    )
    excuse = f"Loopback addresses stand in for two computers: {reason}."
    return Stage(source, destination, port, excuse)


def _free_ports(count: int) -> list[int]:
    """Return different ports that nothing on this computer uses."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("", 0))
        return [sock.getsockname()[1] for sock in sockets]


# Namespaces ----------------------------------------------------------------------------------


def _two_computers(stack: ExitStack) -> Stage:
    """Return two computers on one cable. Raises `_NotHereError` where they cannot be had."""
    if sys.platform != "linux":
        raise _NotHereError("two computers in one need the network namespaces of Linux")
    missing = [tool for tool in PACKAGES if _find(tool) is None]
    if missing:
        raise _NotHereError(
            f"{' and '.join(missing)} cannot be found (install {' '.join(PACKAGES.values())} for "
            "the full demo)"
        )
    held = _make_namespaces()
    for descriptor in dict.fromkeys(fd for fds in held.values() for fd in fds):
        stack.callback(os.close, descriptor)
    source, destination = (Computer(role, ADDRESSES[role], namespaces=held[role]) for role in ROLES)
    *_, far, _ = destination.namespaces
    cable = f"link add name eth0 type veth peer name eth0 netns /proc/self/fd/{far}"
    _connect(source, cable, pass_fds=[far])
    _connect(destination)
    return Stage(source, destination)


def _connect(computer: Computer, *commands: str, pass_fds: Sequence[int] = ()) -> None:
    lines = (
        *commands,
        "link set lo up",
        f"address add {computer.address}/24 dev eth0",
        "link set eth0 up",
    )
    feed = "".join(f"{line}\n" for line in lines)
    _run_tool(computer, "ip", "-batch", "-", feed=feed, pass_fds=pass_fds)


def _find(tool: str) -> str | None:
    path = (os.environ.get("PATH", os.defpath), *SBIN)
    return shutil.which(tool, path=os.pathsep.join(path))


def _run_tool(
    computer: Computer, tool: str, *arguments: str, feed: str, pass_fds: Sequence[int] = ()
) -> None:
    """Run ip or nft. Raises `_NotHereError` where it fails: these commands work, if any do."""
    argv = [_find(tool) or tool, *arguments]
    with ExitStack() as stack:
        try:
            process = computer.start(argv, stack, stdout=subprocess.DEVNULL, pass_fds=pass_fds)
        except (OSError, subprocess.SubprocessError) as error:
            raise _NotHereError(f"{tool} cannot be run in a network namespace ({error})") from error
        _, errors = process.communicate(feed)
    if process.returncode:
        first = next(iter(errors.splitlines()), f"exit status {process.returncode}")
        raise _NotHereError(f"{tool} failed in a network namespace ({first.rstrip('.')})")


def _make_namespaces() -> dict[str, tuple[int, ...]]:
    """Return descriptors of new namespaces for each role: user (where needed), network, name."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, _interrupts_later():
        with theirs:
            child = os.fork()
            if child == 0:
                _hand_over_namespaces(theirs)
        trouble, held, _, _ = socket.recv_fds(ours, 1024, 8, socket.MSG_CMSG_CLOEXEC)
        os.waitpid(child, 0)
    if not held:
        reason = trouble.decode() or "no reason given"
        raise _NotHereError(f"network namespaces cannot be made ({reason})")
    user = held[:-4]
    return {SOURCE: (*user, *held[-4:-2]), DESTINATION: (*user, *held[-2:])}


def _hand_over_namespaces(report: socket.socket) -> NoReturn:
    """In the child: make all namespaces, send descriptors of them or the reason why not."""
    try:
        socket.send_fds(report, [b"here they are"], _open_namespaces())
    except OSError as error:
        # ENOSPC here is about user.max_net_namespaces and its like, not about a disk.
        full = error.errno == errno.ENOSPC
        reason = "the system allows no more of them" if full else error.strerror
        report.send(str(reason).encode())
    finally:
        os._exit(0)


def _open_namespaces() -> list[int]:
    held: list[int] = []
    for role in ROLES:
        try:
            _call("unshare", _CLONE_NEWNET | _CLONE_NEWUTS)
        except PermissionError:
            if held:
                raise
            held.append(_own_user_namespace())
            _call("unshare", _CLONE_NEWNET | _CLONE_NEWUTS)
        socket.sethostname(NAMES[role])
        held += [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("net", "uts")]
    return held


def _own_user_namespace() -> int:
    """Become root of a user namespace: root there and nowhere else. Return a descriptor of it."""
    maps = {"setgroups": "deny", "uid_map": f"0 {os.geteuid()} 1", "gid_map": f"0 {os.getegid()} 1"}
    _call("unshare", _CLONE_NEWUSER)
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123  one write, as the kernel wants
            file.write(text)
    return os.open("/proc/self/ns/user", os.O_RDONLY)


def _enter(namespaces: Sequence[int], parent: int) -> None:
    """In a child: enter `namespaces`, and die with `parent`."""
    for descriptor in namespaces:
        _call("setns", descriptor, 0)
    if sys.platform == "linux":
        # Last, since a change of namespaces may clear it.
        _call("prctl", _PR_SET_PDEATHSIG, *map(ctypes.c_ulong, (signal.SIGKILL, 0, 0, 0)))
        if os.getppid() != parent:
            os._exit(FAILED)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Keep Ctrl-C back meanwhile, where an exception would be lost or leave something behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _call(name: str, *arguments: Any) -> None:
    # os.unshare and os.setns came with Python 3.12.
    if getattr(_libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


# The programs --------------------------------------------------------------------------------


def _start_service(faults: Sequence[Fault], stage: Stage, stack: ExitStack) -> None:
    """Start the service, unless it is not to run, and wait until it listens."""
    names = {fault.name for fault in faults}
    if "not-running" in names:
        return
    address = LOOPBACK if "loopback-only" in names else stage.destination.address
    service = stage.destination.start(
        [sys.executable, "-IS", "-c", _SERVICE, address, str(stage.port)],
        stack,
        stdout=subprocess.PIPE,
    )
    if service.stdout is None or not service.stdout.readline():
        _, errors = service.communicate()
        raise DemoError(f"The service cannot be started: {_last_line(errors)}")


@dataclass(frozen=True)
class _Result:
    """What an agent printed: one JSON document."""

    text: str
    document: Mapping[str, Any]


def _run_agents(stage: Stage, stack: ExitStack) -> tuple[_Result, _Result]:
    source, destination = stage.source, stage.destination
    # On one computer both could reach the other at any loopback address; only the one that the
    # source dials is the destination's.
    back = () if stage.excuse else ("--peer", source.address)
    forth = ("--peer", f"{destination.address}:{destination.control_port}")
    agents = {
        DESTINATION: _start_agent(destination, (str(stage.port), *back), stack),
        SOURCE: _start_agent(source, forth, stack),
    }
    # They read the code when they have loaded themselves, and so there is time to load this now.
    # Its C modules import others in a way that can swallow an exception.
    with _interrupts_later():
        from bothends_protocol.code import make_code  # noqa: PLC0415

    code = f"{make_code(secrets.token_bytes)}\n"
    for agent in agents.values():
        if agent.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                agent.stdin.write(code)
                agent.stdin.flush()
    return _result(SOURCE, agents[SOURCE]), _result(DESTINATION, agents[DESTINATION])


def _start_agent(
    computer: Computer, arguments: Sequence[str], stack: ExitStack
) -> subprocess.Popen[str]:
    limits = ("--wait", str(AGENT_SECONDS), "--timeout", str(AGENT_SECONDS))
    meeting = ("--no-mdns", "--control-port", str(computer.control_port), "--code-file", "-")
    # -P: a file in the current folder must not shadow a module.
    command = (sys.executable, "-P", "-m", "bothends", computer.role)
    argv = (*command, *arguments, "--json", *meeting, *limits)
    return computer.start(argv, stack, stdout=subprocess.PIPE)


def _result(role: str, agent: subprocess.Popen[str]) -> _Result:
    # A verdict on one port is a few kilobytes: the other agent's fits into its pipe meanwhile.
    try:
        text, errors = agent.communicate(timeout=GIVE_UP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"The {role} still runs after {GIVE_UP_SECONDS:.0f} seconds.") from error
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DemoError(f"The {role} gave no verdict: {_last_line(errors)}") from error
    return _Result(text, document)


def _last_line(text: str) -> str:
    return next(iter(reversed(text.splitlines())), "it said nothing.")


def _end(process: subprocess.Popen[str]) -> None:
    """End a program and whatever it started itself; nothing it holds outlives it."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
