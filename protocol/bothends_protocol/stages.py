"""The stages of a connection request's way, which everything else is told in terms of."""

from __future__ import annotations

import enum

__all__ = ["Stage"]


class Stage(enum.IntEnum):
    """How far a connection request and its answer got, in order."""

    MADE = 0
    """The source's kernel was asked to connect."""
    LEFT = 1
    """The request left the source's card."""
    ARRIVED = 2
    """It reached the destination's card."""
    DELIVERED = 3
    """It came through to the destination's socket."""
    REPLIED = 4
    """The answer left the destination's card."""
    RETURNED = 5
    """The answer reached the source's card."""
    CONNECTED = 6
    """The source's kernel took it."""
