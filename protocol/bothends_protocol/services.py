"""Programs that listen: who is meant by a name, and from where a socket takes anything."""

from __future__ import annotations

from collections.abc import Collection, Iterable

__all__ = ["SUPERVISORS", "is_named", "is_supervisor", "takes_from"]

SUPERVISORS = frozenset(
    {"systemd", "systemd-socket-activate", "inetd", "xinetd", "launchd", "svchost", "init", "s6"}
)
"""Programs that listen in another's place and start it on the first connection."""

_COMM = 15
"""Letters of a process's own name that Linux keeps (TASK_COMM_LEN - 1)."""

_ENDINGS = (".exe", ".py", ".sh", ".jar", ".pl", ".rb", ".js")


def is_named(wanted: str, names: Iterable[str]) -> bool:
    """Return whether one of `names` is the program that the user calls `wanted`."""
    word = _plain(wanted)
    return any(_plain(name) == word or name.lower() == word[:_COMM] for name in names)


def is_supervisor(names: Iterable[str]) -> bool:
    """Return whether one of `names` listens for others, so that it is not another program."""
    return any(_plain(name) in SUPERVISORS or _plain(name).startswith("s6-") for name in names)


def _plain(name: str) -> str:
    word = name.strip().lower().replace("\\", "/").rpartition("/")[2]
    for ending in _ENDINGS:
        word = word.removesuffix(ending)
    return word


def takes_from(device: str | None, cards: Collection[str]) -> bool:
    """Return whether a socket that is bound to the interface `device` has packets from `cards`.

    None is bound to none. Where `cards` is empty nobody knows where packets come in.
    """
    return device is None or not cards or device in cards
