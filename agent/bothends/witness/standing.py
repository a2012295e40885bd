"""Kernel counters read all the while, for as long as a side waits alone.

Like `counters`, but for minutes or days: what is kept of a reading is how far
each counter moved since the one before, and readings between which nothing
moved are left out. So a quiet host's hours cost nothing, and a busy host's
newest minutes are kept (`MAX_READINGS`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable

from bothends_protocol.alignment import SAMPLE_SECONDS
from bothends_protocol.evidence import Counted

from .counters import open_tables, parse_counters, read_tables, stacked_cards

__all__ = ["MAX_READINGS", "StandingSampler"]

MAX_READINGS = 40_000
"""Readings kept, newest first: 13 minutes of a host that is never quiet, and about a megabyte."""

_Row = tuple[int, tuple[tuple[int, int], ...]]
"""Milliseconds since the reading before, and how far which counter moved."""


class StandingSampler:
    """Reads the counters every `SAMPLE_SECONDS` from `start` to `close`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._files: list[int] = []
        self._stacked: frozenset[str] = frozenset()
        self._rows: deque[_Row] = deque()
        self._began = 0
        """Milliseconds on the clock at the first reading that is kept."""
        self._kept = 0
        """The same of the last one that is kept."""
        self._seen = 0
        """The same of the last one."""
        self._names: tuple[str, ...] = ()
        self._texts: list[bytes] = []
        self._values: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; where there is nothing to read on this host, nothing is kept."""
        if not sys.platform.startswith("linux"):
            return
        self._stacked = stacked_cards()
        self._files = open_tables()
        if not self._files:
            return
        self._texts = read_tables(self._files)
        self._values = parse_counters(b"".join(self._texts), self._stacked)
        self._names = tuple(sorted(self._values))
        self._began = self._kept = self._seen = self._now()
        self._again()

    def _now(self) -> int:
        return round(self._clock() * 1000)

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SAMPLE_SECONDS, self._read)

    def _read(self) -> None:
        self._again()
        texts, now = read_tables(self._files), self._now()
        moved = self._moved(texts)
        if moved:
            if self._seen > self._kept:
                self._keep(self._seen, ())
            self._keep(now, moved)
        self._seen = now

    def _moved(self, texts: list[bytes]) -> tuple[tuple[int, int], ...]:
        if texts == self._texts:
            return ()
        self._texts = texts
        values = parse_counters(b"".join(texts), self._stacked)
        before, self._values = self._values, values
        return tuple(
            (place, values[name] - before[name])
            for place, name in enumerate(self._names)
            if name in values and name in before and values[name] != before[name]
        )

    def _keep(self, at: int, moved: tuple[tuple[int, int], ...]) -> None:
        self._rows.append((at - self._kept, moved))
        self._kept = at
        if len(self._rows) > MAX_READINGS:
            self._began += self._rows.popleft()[0]

    def counted(self) -> Counted | None:
        """Return what was kept, None where there was nothing to read."""
        if not self._names:
            return None
        if self._seen > self._kept:
            self._keep(self._seen, ())
        values = {name: [0] * len(self._rows) for name in self._names}
        for row, (_, moved) in enumerate(self._rows):
            for place, more in moved:
                values[self._names[place]][row] = more
        return Counted(
            began=self._began / 1000,
            steps=tuple(step for step, _ in self._rows),
            values={name: tuple(row) if any(row) else () for name, row in values.items()},
        )

    def close(self) -> None:
        """Stop reading; safe to call again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for file in self._files:
            os.close(file)
        self._files = []
