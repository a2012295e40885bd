"""A network of its own for the tests that use loopback: nothing else of this machine is on it.

Several tests run at a time, and a port that one has found to be free, another may take the moment
after; or it listens on the same port of another address, which the socket table shows as well. On a
network namespace of each worker's own neither can be. Beside loopback it has a card with addresses,
as computers have, and nobody at the other end of the cable. It needs root and iproute2; without
them the tests share the machine's network.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["own_network"]

_CLONE_NEWNET = 0x40000000
_HERE = Path("/proc/thread-self/ns/net")

_made: list[int | None] = []
"""The namespace of this process once it was asked for; None where there is none."""


@contextlib.contextmanager
def own_network() -> Iterator[bool]:
    """Put this thread, and what it starts, on the process's own network; say whether it is."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or not shutil.which("ip"):
        yield False
        return
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not _made:
            _made.append(_make(libc, before))
        if _made[0] is None:
            yield False
            return
        _call(libc, "setns", _made[0], _CLONE_NEWNET)
        try:
            yield True
        finally:
            _call(libc, "setns", before, _CLONE_NEWNET)
    finally:
        os.close(before)


def _make(libc: ctypes.CDLL, before: int) -> int | None:
    """Return a new namespace; None where it may not be made, as in many containers."""
    try:
        _call(libc, "unshare", _CLONE_NEWNET)
    except OSError:
        return None
    try:
        _set_up()
        return os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, subprocess.CalledProcessError):
        return None
    finally:
        _call(libc, "setns", before, _CLONE_NEWNET)


def _call(libc: ctypes.CDLL, name: str, *arguments: int) -> None:
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name} failed")


_LINES = """link set lo up
link add eth0 type veth peer name far
link set eth0 up
link set far up
address add 192.168.8.8/24 dev eth0
address add fd08::8/64 dev eth0 nodad
"""


def _set_up() -> None:
    subprocess.run(["ip", "-batch", "-"], input=_LINES, text=True, check=True)
