"""The live repair loop on the screen: a block for each change, one line while nothing changes.

The first verdict is shown in full, and each that names a blocker not shown before; all others
in one line. With `--json` everything goes to standard error, in lines.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TextIO

from bothends_protocol.bearings import words
from bothends_protocol.timeline import Entry, Timeline, sentence

from .outcome import Outcome
from .render import clean, head

__all__ = ["LiveScreen", "list_lines"]

_CLEAR = "\r\x1b[K"
_TIME = slice(11, 19)
"""The time of day in ISO 8601."""


class LiveScreen:
    """Shows the loop on `stream`; `full` prints a whole verdict there, or is None with --json."""

    def __init__(self, stream: TextIO, full: Callable[[Outcome], None] | None) -> None:
        self._stream = stream
        self._full = full
        self._shown: set[str] = set()
        self._started = False
        self._terminal = _is_terminal(stream)
        self._counting = False

    def entry(self, entry: Entry, outcome: Outcome) -> None:
        """Show a new line of the list, and the verdict where it is another one."""
        new = not self._started or bool(set(entry.blockers) - self._shown)
        self._started = True
        self._shown |= set(entry.blockers)
        lines = list_lines(entry)
        if self._full is None or not new:
            self._write("".join(f"{line}\n" for line in lines))
            return
        self._write("".join(f"{line}\n" for line in lines[:-1]) + "\n")
        with contextlib.suppress(OSError, ValueError):
            self._full(outcome)
        self._write("\n")

    def tested(self, timeline: Timeline) -> None:
        """Show that a test brought nothing new: on a terminal only, in a line that goes again."""
        if not self._terminal or not timeline.entries:
            return
        since = next(
            (one for one in reversed(timeline.entries) if one.differs), timeline.entries[0]
        )
        self._write(
            f"Still {head(since.status)} since {since.at[_TIME]} ({timeline.tests} tests in all)."
        )
        self._counting = True

    def hint(self, text: str) -> None:
        """Say how to go on."""
        self._write(text + "\n")

    def close(self) -> None:
        """End the line that is being counted in."""
        self._write("")

    def _write(self, text: str) -> None:
        # Nothing that was shown before depends on it: a screen that is gone ends no loop.
        try:
            self._stream.write((_CLEAR if self._counting else "") + text)
            self._stream.flush()
        except (OSError, ValueError):
            self._terminal = False
        self._counting = False


def list_lines(entry: Entry) -> list[str]:
    """Return an entry of the list as lines: what changed, then the verdict."""
    lines = [f"{at[_TIME]}  {_upper(sentence(change))}." for at, change in entry.changed]
    if not entry.changed and not entry.differs:
        return lines
    causes = _causes(entry)
    verdict = head(entry.status) + (f": {causes}" if causes else "")
    still = "" if entry.differs else "still "
    return [*lines, clean(f"{entry.at[_TIME]}  {still}{verdict}")]


def _causes(entry: Entry) -> str:
    """What blocks; with --both-ways each direction by itself, where one of them does not work."""
    if entry.directions is None or entry.status == "open":
        return _named(entry.blockers)
    return "; ".join(
        f"from the {way.replace('-to-', ' to the ')} "
        + (_named(told["blockers"], way) or head(str(told["status"])))
        for way, told in entry.directions.items()
    )


def _named(codes: object, way: str = "") -> str:
    listed = codes if isinstance(codes, list | tuple) else ()
    return "; ".join(f"{words(code, way)} [{code}]" for code in listed)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"
