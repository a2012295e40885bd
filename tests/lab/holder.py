"""The process that *is* a lab host: it holds the host's namespaces and starts programs in them.

It runs as a script of its own, on the standard library alone, so that there is
little to fork: ``python -IS holder.py REQUESTS_FD ROOM``. The hosts of a test's
process are all forked from one such process, since an interpreter that starts
takes more processor time than all else that a host needs.

Strategy. For each host a child moves into new network, mount, host name, IPC and
process namespaces and forks a child, which becomes process 1 of the host. When
process 1 ends, the kernel kills everything else in the host, daemons that forked
twice included, and frees the namespaces, which have no name anywhere. Process 1
ends when the control socket is closed by the test's process, in whatever way that
one died, and by PR_SET_PDEATHSIG when its parent or the one before dies. So
nothing can be left behind, and nobody has to clean up.

The test's process sends requests (JSON, with file descriptors beside them) and
gets answers; see ``OPERATIONS``. The end of a started process is told unasked.
"""

from __future__ import annotations

import argparse  # noqa: F401  # this and what has the same mark: for OWN_PROGRAMS
import array
import contextlib
import ctypes
import fcntl
import functools
import json
import os
import pathlib  # noqa: F401
import random  # noqa: F401
import select
import selectors  # noqa: F401
import shutil
import signal
import socket
import stat
import struct
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

STAT_ARGUMENTS = (45, 46)
"""Where /proc/PID/stat has the first and the last address of the arguments, after the name."""
ROOM = " " * 1000
"""An argument of the first of us, so that the arguments of ``OWN_PROGRAMS`` have room."""
OWN_PROGRAMS = [
    os.path.join(os.path.dirname(__file__), name) for name in ("serve.py", "traffic.py", "wire.py")
]
"""Programs that are run in a fork: to start an interpreter takes ten times what they do first."""

NOBODY = 65534
"""The uid and gid of the ordinary user in a host."""

MESSAGE_LIMIT = 160_000
"""Under the default send buffer of a SEQPACKET socket (212,992 with overhead)."""
FDS_LIMIT = 32
FD_PARK = 64
"""Where descriptors are parked while a child arranges them from 0 on."""
CAPABILITIES = 64
"""The kernel's sets have 64 bits; dropping one that it does not have fails, harmlessly."""

PRIVATE_DIRECTORIES = {"/run": 0o755, "/tmp": 0o1777}
"""Directories that a host has for itself, empty, in memory."""
SCRATCH = "/run/lab"
"""Where a host keeps what lies over the machine's own files."""
OVERLAID = ("/etc", "/var")
"""Directories that programs of a host may change without the machine's changing."""
UNWANTED = (".git", ".mypy_cache", ".ruff_cache", ".hypothesis")
"""Entries of a closed checkout that no program in a host needs."""
EXPECTED_DIRECTORIES = ("/run/lock", "/run/dbus", "/run/netns")
HOMES = {0: "/run/user/0", NOBODY: "/run/user/65534"}
"""The working and home directory of each user, so that none writes to the machine's."""

QUIET_SYSCTLS = {
    # Addresses are usable at once, and nothing is sent that a test did not ask for.
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/dad_transmits": "0",
    "net/ipv6/conf/default/router_solicitations": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    # A new namespace copies these from the machine's own, which may be anything.
    "net/ipv4/ip_forward": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/arp_ignore": "0",
    "net/ipv4/conf/default/arp_ignore": "0",
}

TABLE_SYSCTL = "net/ipv4/tcp_child_ehash_entries"
TABLE_ENTRIES = 8192
"""For each host a table of connections of its own (Linux 6.1). Otherwise it shares the machine's,
and whoever reads /proc/net/tcp walks through all of that: 3 ms of processor time with 16 GB."""
FROM_TABLE_SIZE = ("net/ipv4/tcp_max_tw_buckets", "net/ipv4/tcp_max_syn_backlog")
"""What the kernel derives from the size of the table, and is to stay as it is on the machine."""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    _call(
        "mount",
        source.encode(),
        target.encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )


def _die_with_parent() -> None:
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


# -- the host's own files -------------------------------------------------------------


def _cover_of(path: str) -> str | None:
    """The directory on the way to ``path`` that hides it from the host or its user, or None.

    It is one that others may not walk through, or that the host has for itself.
    """
    cover = None
    here = ""
    for part in path.strip("/").split("/"):
        here += "/" + part
        if here in PRIVATE_DIRECTORIES:
            return here
        if os.path.isdir(here) and not os.stat(here).st_mode & stat.S_IXOTH:
            return here
        if here in OVERLAID:  # other file systems mounted below are not seen through it
            cover = here
    return cover


class _Kept:
    """A directory that stays visible, held by a descriptor while covers are laid over it.

    Only mounts of this namespace can be bound, so it is made after unshare().
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        self.link = os.readlink(path) if os.path.islink(path) else None

    def show(self) -> None:
        if self.link is None:
            _show(f"/proc/self/fd/{self.fd}", self.path)
        else:
            os.makedirs(os.path.dirname(self.path), 0o755, exist_ok=True)
            os.symlink(self.link, self.path)
        os.close(self.fd)


def _show(origin: str, path: str) -> None:
    """Let everybody see at ``path`` what is at ``origin``, which may be closed to others.

    What is open is bound as it is. A closed directory is made anew, entry by entry,
    and a closed file is copied: both come from a umask such as 077.
    """
    mode = os.stat(origin).st_mode
    directory = stat.S_ISDIR(mode)
    needed = stat.S_IROTH | stat.S_IXOTH if directory else stat.S_IROTH
    if mode & needed == needed:
        _bind(origin, path, directory=directory)
    elif directory:
        os.makedirs(path, 0o755, exist_ok=True)
        for entry in os.scandir(origin):
            _show_entry(entry, f"{path}/{entry.name}")
    else:
        shutil.copyfile(origin, path)
        os.chmod(path, stat.S_IMODE(mode) | 0o444 | (mode & stat.S_IXUSR) >> 6)


def _show_entry(entry: os.DirEntry[str], path: str) -> None:
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), path)
    elif entry.name not in UNWANTED and (entry.is_dir() or entry.is_file()):
        _show(entry.path, path)


def _bind(origin: str, path: str, *, directory: bool) -> None:
    if directory:
        os.makedirs(path, 0o755, exist_ok=True)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(origin, path, "", MS_BIND | MS_REC)


def _lay_out_files(keep: list[str], name: str) -> None:
    """Give the host its own /run, /tmp, /etc, /var; keep ``keep`` reachable for everybody."""
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    covers = {path: cover for path in _outermost(keep) if (cover := _cover_of(path))}
    kept = [_Kept(path) for path in covers]
    for directory, mode in PRIVATE_DIRECTORIES.items():
        _mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode:o}")
    for directory in OVERLAID:
        _overlay(directory)
    for directory in sorted(set(covers.values()) - {*PRIVATE_DIRECTORIES, *OVERLAID}):
        _mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for entry in kept:
        entry.show()
    for directory in EXPECTED_DIRECTORIES:
        os.makedirs(directory, 0o755, exist_ok=True)
    for owner, directory in HOMES.items():
        os.makedirs(directory, 0o700, exist_ok=True)
        os.chown(directory, owner, owner)
    _name_files(name)


def _outermost(paths: list[str]) -> list[str]:
    """``paths`` without those that lie below another one of them."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if os.path.exists(path) and not any(path.startswith(other + "/") for other in kept):
            kept.append(path)
    return kept


def _overlay(directory: str) -> None:
    """Let changes below ``directory`` go to memory; where that is not possible, do without."""
    upper, work = f"{SCRATCH}{directory}/upper", f"{SCRATCH}{directory}/work"
    os.makedirs(upper, 0o755)
    os.makedirs(work, 0o755)
    with contextlib.suppress(OSError):
        _mount(
            "overlay",
            directory,
            "overlay",
            0,
            f"lowerdir={directory},upperdir={upper},workdir={work}",
        )


def _name_files(name: str) -> None:
    """The files that say who the host is and whom it knows: its own, never the machine's."""
    files = {
        "/etc/hostname": f"{name}\n",
        "/etc/hosts": f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n",
        "/etc/resolv.conf": "options timeout:1 attempts:1\n",
        "/etc/machine-id": os.urandom(16).hex() + "\n",
    }
    for path, text in files.items():
        _own_file(path, text)


def _own_file(path: str, text: str) -> None:
    """Write a file for this host alone; without an overlay only over one that exists."""
    if os.path.ismount(os.path.dirname(path)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # it may be a link into a /run that is empty here
        _write_text(path, text)
    elif os.path.exists(path):
        own = f"{SCRATCH}/{os.path.basename(path)}"
        _write_text(own, text)
        _mount(own, os.path.realpath(path), "", MS_BIND)


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _write_text(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


# -- the host's network ---------------------------------------------------------------


def _ask_for_small_tables() -> dict[str, str]:
    """Let the network namespaces made from now on have tables of their own; return what to keep.

    That is said to the namespace from which they are made, so this process moves into another.
    """
    kept = {key: _read_text(f"/proc/sys/{key}") for key in FROM_TABLE_SIZE}
    try:
        _call("unshare", CLONE_NEWNET)
        _write_text(f"/proc/sys/{TABLE_SYSCTL}", str(TABLE_ENTRIES))
    except OSError:
        return {}  # an older kernel, or not root: then no host can be made either
    return kept


def _quiet_network(kept: dict[str, str]) -> None:
    for key, value in (QUIET_SYSCTLS | kept).items():
        with contextlib.suppress(FileNotFoundError):  # IPv6 may be compiled out
            _write_text(f"/proc/sys/{key}", value)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = bytearray(struct.pack("16sh14x", b"lo", 0))
        fcntl.ioctl(probe, SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("h", request, 16)
        struct.pack_into("h", request, 16, flags | IFF_UP)
        fcntl.ioctl(probe, SIOCSIFFLAGS, request)


# -- starting programs ----------------------------------------------------------------


def _drop_privileges() -> None:
    """Become the ordinary user: no capability, none to be had, no way back."""
    for capability in range(CAPABILITIES):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _arrange_descriptors(fds: list[int]) -> None:
    parked = [fcntl.fcntl(fd, fcntl.F_DUPFD, FD_PARK) for fd in fds]
    for target, fd in enumerate(parked):
        os.dup2(fd, target)
    os.closerange(len(fds), max(parked) + 1)


def _become(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """In the child: turn into the requested program."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        _arrange_descriptors(fds)
        if request["as_user"]:
            _drop_privileges()
        os.chdir(request["cwd"])
        if not _is_ours(request["argv"]):
            os.execvpe(request["argv"][0], request["argv"], request["env"])  # noqa: S606  # it is what we are for
        _look_fresh(request["argv"], request["env"])
    except BaseException as error:  # noqa: BLE001  # whatever it is, the child must end here
        os.write(2, f"lab: cannot start {request['argv']}: {error!r}\n".encode())
        os._exit(127)
    _run(_code(request["argv"][2]))


# -- the lab's own programs, in a fork of this interpreter ----------------------------


@functools.cache
def _code(path: str) -> types.CodeType:
    """A script, compiled."""
    with open(path, encoding="utf-8") as file:
        return compile(file.read(), path, "exec")


def _is_ours(argv: list[str]) -> bool:
    """Whether a new interpreter would be just like this one, and run what it has compiled."""
    return argv[:2] == [sys.executable, "-IS"] and argv[2] in OWN_PROGRAMS


def _look_fresh(argv: list[str], env: dict[str, str]) -> None:
    """Let nothing show of what this interpreter was, but in /proc/PID/environ."""
    _show_arguments(argv)
    # Who changed its user is closed to that user's other processes until it starts a program.
    _call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = argv[2:]
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115  # as an interpreter does


def _show_arguments(argv: list[str]) -> None:
    """Be seen with these arguments in the process table: they are written over our own."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = (int(fields[at]) for at in STAT_ARGUMENTS)
    text = b"".join(word.encode() + b"\0" for word in argv)
    if len(text) > end - start:
        raise ValueError("no room for the arguments")
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _run(code: types.CodeType) -> NoReturn:
    """Run a script to its end, and this process with it."""
    status = 0
    try:
        exec(code, {"__name__": "__main__"})  # noqa: S102  # one of OWN_PROGRAMS
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  # told as an interpreter tells it
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# -- serving --------------------------------------------------------------------------

Answer = tuple[dict[str, Any], list[int]]
"""What is sent back: a document, and descriptors to send beside it (closed afterwards)."""


def _op_spawn(request: dict[str, Any], fds: list[int]) -> Answer:
    pid = os.fork()
    if pid == 0:
        _become(request, fds)
    return {"pid": pid}, [os.pidfd_open(pid)]


def _op_write(request: dict[str, Any], _fds: list[int]) -> Answer:
    """Write a file; ``mode`` null is for those below /proc, that have no owner to set."""
    path = request["path"]
    if request["mode"] is not None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    _write_text(path, request["text"])
    if request["mode"] is not None:
        owner = NOBODY if request["as_user"] else 0
        os.chmod(path, request["mode"])
        os.chown(path, owner, owner)
    return {}, []


def _op_read(request: dict[str, Any], _fds: list[int]) -> Answer:
    return {}, [os.open(request["path"], os.O_RDONLY | os.O_CLOEXEC)]


def _op_pids(_request: dict[str, Any], _fds: list[int]) -> Answer:
    """Every process of the host but this one."""
    return {
        "pids": [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    }, []


OPERATIONS: dict[str, Callable[[dict[str, Any], list[int]], Answer]] = {
    "spawn": _op_spawn,
    "write": _op_write,
    "read": _op_read,
    "pids": _op_pids,
}


def _send(control: socket.socket, document: dict[str, Any], fds: list[int]) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    control.sendmsg([json.dumps(document).encode()], ancillary)
    for fd in fds:
        os.close(fd)


def _answer(control: socket.socket) -> bool:
    """Serve one request; False when the other end is gone."""
    message, fds, _flags, _address = socket.recv_fds(control, MESSAGE_LIMIT, FDS_LIMIT)
    if not message:
        return False
    try:
        request = json.loads(message)
        document, sent = OPERATIONS[request["do"]](request, fds)
    except Exception as error:  # noqa: BLE001  # told to the one who asked
        document, sent = {"error": f"{error!r}"}, []
    finally:
        for fd in fds:
            os.close(fd)
    _send(control, document, sent)
    return True


def _tell_ended(control: socket.socket) -> None:
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        _send(control, {"ended": pid, "code": code, "maxrss": usage.ru_maxrss}, [])


def _serve(control: socket.socket) -> None:
    child_read, child_write = os.pipe()
    os.set_blocking(child_write, False)
    os.set_blocking(child_read, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(child_write, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(child_read, select.POLLIN)
    while True:
        for fd, _event in poll.poll():
            if fd == child_read:
                os.read(child_read, 4096)
                _tell_ended(control)
            elif not _answer(control):
                return


def _hold(control: socket.socket, config: dict[str, Any], sysctls: dict[str, str]) -> None:
    """Make the namespaces of one host, and wait until it is gone."""
    _die_with_parent()
    try:
        _call("unshare", CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID)
    except OSError as error:
        _send(control, {"error": str(error)}, [])
        return
    pid = os.fork()
    if pid == 0:
        _first_process(control, config, sysctls)
        os._exit(0)
    control.close()
    os.waitpid(pid, 0)


def _first_process(control: socket.socket, config: dict[str, Any], sysctls: dict[str, str]) -> None:
    """Be process 1 of the host."""
    _die_with_parent()
    try:
        os.umask(0o022)
        _lay_out_files(config["keep"], config["name"])
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        _mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
        socket.sethostname(config["name"])
        _quiet_network(sysctls)
        os.chdir("/")
        namespaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("net", "pid")]
    except Exception:  # noqa: BLE001  # told to the one who asked for the host
        _send(control, {"error": traceback.format_exc()}, [])
        return
    _send(control, {}, namespaces)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _serve(control)


def _fork_host(
    requests: socket.socket, config: bytes, control: int, sysctls: dict[str, str]
) -> None:
    """Make one host in a child, and tell the child's descriptor."""
    pid = os.fork()
    if pid == 0:
        requests.close()
        _hold(socket.socket(fileno=control), json.loads(config), sysctls)
        os._exit(0)
    os.close(control)
    _send(requests, {}, [os.pidfd_open(pid)])


def _reap() -> None:
    """Let go of the children that have ended; who asked for them knows by their descriptors."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main(arguments: list[str]) -> int:
    requests = socket.socket(fileno=int(arguments[1]))
    requests.set_inheritable(False)
    _die_with_parent()
    for path in OWN_PROGRAMS:
        _code(path)
    sysctls = _ask_for_small_tables()
    while True:
        config, fds, _flags, _address = socket.recv_fds(requests, MESSAGE_LIMIT, 1)
        if not config:
            return 0
        _reap()
        _fork_host(requests, config, fds[0], sysctls)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
