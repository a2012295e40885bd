"""The live repair loop's list: what changed when, and which verdict came of it.

Both sides keep the same list, entry by entry. The leader decides what is listed
and says so (`messages.Listed`); each side writes its own local time beside it.
Words are fixed: what a side says of itself is a word of `CHANGES` and a port,
never a text of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import msgspec

from .verdict import Verdict

__all__ = [
    "CHANGES",
    "MAX_CHANGES",
    "MAX_ENTRIES",
    "Change",
    "Entry",
    "Listing",
    "Pending",
    "Timeline",
    "What",
    "finding",
    "sentence",
]

CHANGES = {
    "interface": "a network interface of the {on} changed",
    "address": "an address of the {on} changed",
    "route": "a route of the {on} changed",
    "firewall": "a rule of the {on}'s firewall changed",
    "listening": "a program began to listen on TCP {port} on the {on}",
    "ended": "the program on TCP {port} on the {on} went away",
    "restarted": "the program on TCP {port} on the {on} was started again",
    "key": "a key was pressed on the {on}",
}
"""What can change: the word on the wire, and what it means."""

What = Literal[
    "interface", "address", "route", "firewall", "listening", "ended", "restarted", "key"
]

MAX_CHANGES = 16
"""Changes told of one test: what a person does between two tests is one or two."""

MAX_ENTRIES = 1000
"""Entries of the list: hours of somebody who switches things on and off all the time. The oldest
but the first go when it is full."""

MAX_AGO = 7 * 24 * 3600 * 1000
"""Milliseconds: a change cannot be older than a run may last."""


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that changed."""

    what: What
    on: Literal["source", "destination"]
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """Of a program that listens; 0 for all else."""
    ago: Annotated[int, msgspec.Meta(ge=0, le=MAX_AGO)] = 0
    """Milliseconds between the change, as the leader heard of it, and its listing."""


def sentence(change: Change) -> str:
    """Return the change in words that both sides may show."""
    return CHANGES[change.what].format(on=change.on, port=change.port)


Finding = tuple[object, ...]


def finding(verdict: Verdict) -> Finding:
    """Return what must differ for two verdicts to count as different.

    The status and the blockers, of the whole and of each primary check. How sure
    it is, how it is known and what else was seen may differ from test to test.
    """
    return (
        verdict.status,
        verdict.blockers,
        *(
            (c.direction, c.transport, c.address, c.ports, c.status, *(b.code for b in c.blockers))
            for c in verdict.checks
            if c.primary
        ),
    )


class Pending(msgspec.Struct):
    """The leader's changes that are not listed yet.

    One that comes in the middle of a test may have come too late for it. It is listed with
    that test where the verdict is another one, else with the next, which follows at once.
    """

    waiting: dict[tuple[str, str, int], float] = msgspec.field(default_factory=dict)
    """When each was heard of, by what, on and port; those that the next test is to show."""
    late: dict[tuple[str, str, int], float] = msgspec.field(default_factory=dict)
    """Those heard of since a test began."""

    def add(self, change: Change, now: float) -> None:
        """Note `change`, heard of at `now`; one too many is passed over."""
        key = change.what, change.on, change.port
        if len(self.waiting) + len(self.late) < MAX_CHANGES:
            self.late.setdefault(key, now)

    def begin(self) -> None:
        """Begin a test: what is known by now is for it to show."""
        self.waiting = self.late | self.waiting
        self.late = {}

    def take(self, now: float, *, differs: bool) -> tuple[Change, ...]:
        """Return what is to be listed with the test that ended, and forget it."""
        taken = (self.late | self.waiting) if differs else self.waiting
        self.waiting = {}
        if differs:
            self.late = {}
        return tuple(_change(key, now - heard) for key, heard in taken.items())


def _change(key: tuple[str, str, int], seconds: float) -> Change:
    what, on, port = key
    ago = max(0, min(round(seconds * 1000), MAX_AGO))
    return msgspec.convert({"what": what, "on": on, "port": port, "ago": ago}, Change)


class Entry(msgspec.Struct, frozen=True):
    """One line of the list: what changed, and the verdict that the next test came to."""

    at: str
    """Local time of this side, ISO 8601."""
    verdict_id: str | None
    """None for a test that came to no joint verdict."""
    status: str
    blockers: tuple[str, ...]
    changed: tuple[tuple[str, Change], ...] = ()
    """Each with its own local time."""
    differs: bool = True
    """Whether the verdict is another one than that of the entry before."""
    directions: Mapping[str, Mapping[str, object]] | None = None
    """With --both-ways, as in the verdict."""

    def plain(self) -> dict[str, object]:
        """Return it as it stands in the document of `--json`."""
        return {
            "at": self.at,
            "verdict_id": self.verdict_id,
            "status": self.status,
            "blockers": list(self.blockers),
            **({} if self.directions is None else {"directions": self.directions}),
            "changed": [
                {
                    "at": at,
                    "what": change.what,
                    "on": change.on,
                    "port": change.port or None,
                    "text": sentence(change),
                }
                for at, change in self.changed
            ],
        }


class Listing(msgspec.Struct, frozen=True):
    """What a test ended with, for the list."""

    verdict: Verdict
    """Without an id where the two did not come to a joint one in time."""
    changed: tuple[Change, ...] = ()


class Timeline:
    """The list. `local(ago)` returns this side's time of day, `ago` milliseconds back."""

    def __init__(self, local: Callable[[int], str]) -> None:
        self.entries: list[Entry] = []
        self.tests = 0
        """How many tests there were."""
        self._local = local
        self._last: Finding = ()

    def differs(self, verdict: Verdict) -> bool:
        """Whether `verdict` is another one than the last."""
        return finding(verdict) != self._last

    def add(self, listing: Listing) -> Entry | None:
        """Take what a test ended with; return its entry, None where nothing is new."""
        verdict = listing.verdict
        differs = self.differs(verdict)
        self.tests += 1
        self._last = finding(verdict)
        if not differs and not listing.changed:
            return None
        entry = Entry(
            at=self._local(0),
            verdict_id=verdict.verdict_id,
            status=verdict.status,
            blockers=verdict.blockers,
            changed=tuple((self._local(change.ago), change) for change in listing.changed),
            differs=differs,
            directions=verdict.directions,
        )
        self.entries.append(entry)
        if len(self.entries) > MAX_ENTRIES:
            del self.entries[1]
        return entry

    def plain(self) -> list[dict[str, object]]:
        """Return the list as it stands in the document of `--json`."""
        return [entry.plain() for entry in self.entries]
