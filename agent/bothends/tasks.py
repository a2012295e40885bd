"""Background tasks that belong to somebody: kept, watched, and ended with their owner."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

__all__ = ["Tasks"]


class Tasks:
    """A set of running tasks. A task that fails is remembered and raised by `finish`."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._errors: list[BaseException] = []

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)

    def cancel(self) -> None:
        """Ask all tasks but the calling one to stop."""
        for task in self._running:
            if task is not asyncio.current_task():
                task.cancel()

    async def finish(self) -> None:
        """Stop all tasks and wait for them; raise the first error that one of them met."""
        self.cancel()
        waiting = [task for task in self._running if task is not asyncio.current_task()]
        for task in waiting:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        if self._errors:
            raise self._errors.pop(0)
