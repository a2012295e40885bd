"""Single key presses on a terminal, as they come, without waiting for Enter.

Only where standard input is a terminal that this program may read now: from a pipe or a file
nothing is read, and a program in the background would be stopped for it. The terminal is given
back as it was; Ctrl-C goes on to be a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["Keys"]

MAX_READ = 256
"""Bytes taken at a time: a paste counts as one press."""


class Keys:
    """Tells of key presses from `start` until `close`."""

    def __init__(self, pressed: Callable[[str], None]) -> None:
        """`pressed` gets what was typed, as text."""
        self._pressed = pressed
        self._fd = -1
        self._before: list[Any] = []

    def start(self) -> bool:
        """Begin; return whether there is a keyboard to listen to."""
        try:
            import termios  # noqa: PLC0415  there is none on Windows
            import tty  # noqa: PLC0415
        except ImportError:
            return False
        try:
            fd = sys.stdin.fileno()
            if not os.isatty(fd) or os.tcgetpgrp(fd) != os.getpgrp():
                return False
            self._before = termios.tcgetattr(fd)
            tty.setcbreak(fd)
            asyncio.get_running_loop().add_reader(fd, self._read)
        except (AttributeError, ValueError, OSError, termios.error):
            return False  # closed, or a terminal that cannot be set
        self._fd = fd
        return True

    def _read(self) -> None:
        try:
            data = os.read(self._fd, MAX_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()  # the terminal is gone
            return
        self._pressed(data.decode("utf-8", "replace"))

    def close(self) -> None:
        """Give the terminal back as it was; safe to call again."""
        if self._fd < 0:
            return
        import termios  # noqa: PLC0415

        fd, self._fd = self._fd, -1
        asyncio.get_running_loop().remove_reader(fd)
        with contextlib.suppress(termios.error, OSError):
            if os.tcgetpgrp(fd) != os.getpgrp():
                return  # in the background by now: the shell has its own settings
            termios.tcsetattr(fd, termios.TCSADRAIN, self._before)
