"""How this side is seen from outside, and what its router says: asked beside everything else.

Begun when the run begins, so that it is known by the time it is wanted, and never waited for
where the two are on one network.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

from bothends_protocol.addresses import bare, is_public
from bothends_protocol.evidence import NatBehaviour, RouterWord, SeenAs

from .options import Endpoint
from .tasks import Tasks

__all__ = ["Outside"]

ASK_SECONDS = 1.2
"""For the router and for the server that is asked: what is there answers within tenths."""


class Outside:
    """What is known of this side from outside."""

    def __init__(
        self, addresses: Iterable[str], ports: Sequence[tuple[str, int]], stun: Endpoint | None
    ) -> None:
        """`addresses` are this side's own, `ports` those that its router is asked about."""
        self._own = frozenset(bare(address) for address in addresses)
        self._ports = tuple(ports)
        self._stun = stun
        self._tasks = Tasks()
        self._under_way: list[asyncio.Task[None]] = []
        self.seen: list[SeenAs] = []
        self.words: tuple[RouterWord, ...] = ()
        self.behaviours: list[NatBehaviour] = []

    def start(self) -> None:
        """Begin to ask."""
        # The askers come with their modules.

    async def finish(self) -> None:
        """Wait until all that was asked has answered, or had its time."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    def public(self) -> tuple[str, ...]:
        """Return the addresses under which this side is seen, as far as that was told by now."""
        told = [item.address for item in self.seen]
        told += [word.outside for word in self.words if word.outside is not None]
        return tuple(dict.fromkeys(a for a in map(bare, told) if is_public(a)))

    async def close(self) -> None:
        """End what is under way; safe to call again."""
        self._tasks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._tasks.finish()
