"""How this side is seen from outside, and what its router says: asked beside everything else.

Begun when the run begins, so that it is known by the time it is wanted, and waited for only where
the tested address is behind a router.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Sequence

from bothends_protocol.addresses import bare, family, is_private, is_public
from bothends_protocol.evidence import NatBehaviour, RouterWord, SeenAs

from .names import UnresolvedError, resolve
from .options import Endpoint
from .port_opener import PortOpener
from .router import ask_router
from .stun import ask
from .witness.netlink import Hop, NetlinkError, default_gateways, find_route

__all__ = ["Outside"]

ROUTER_SECONDS = 3.0
"""For the router, by each protocol. What is silent is so within 1.2 s; UPnP is a conversation."""

STUN_SECONDS = 2.0
"""For the STUN server: with all its retransmissions an answer takes no longer (docs/protocol.md).
"""

NAME_SECONDS = 1.0
"""For the name of the STUN server."""


class Outside:
    """What is known of this side from outside."""

    def __init__(
        self,
        addresses: Iterable[str],
        ports: Sequence[tuple[str, int]],
        stun: Endpoint | None,
        *,
        router: bool = True,
    ) -> None:
        """`addresses` are this side's own, `ports` those that its router is asked about.

        `router`: whether it is asked at all. A router that does not know the questions refuses
        them by ICMP, and then has none of these left for traces (six at once, one a second).
        """
        self._asks_router = router
        self._own = frozenset(bare(address) for address in addresses)
        self._ports = tuple(ports)
        self._stun = stun
        self._under_way: list[asyncio.Task[None]] = []
        self.gateway: str | None = None
        """The router that is asked, where this side's own address is not one of the Internet."""
        self.local: str | None = None
        """This side's address towards it."""
        self.seen: list[SeenAs] = []
        self.words: tuple[RouterWord, ...] = ()
        self.behaviours: list[NatBehaviour] = []

    def start(self) -> None:
        """Begin to ask."""
        if self._asks_router:
            self._find_router()
        if self.gateway is not None and self.local is not None:
            self._begin(self._ask_router(self.gateway, self.local))
        if self._stun is not None:
            self._begin(self._ask_server(self._stun))

    def start_again(self) -> None:
        """Ask the router again what it says of the ports: for a further test.

        One that said nothing the first time is left alone, for the sake of the traces.
        """
        self._under_way = [t for t in self._under_way if not t.done() or t.exception()]
        answers = any(word.outcome == "answers" for word in self.words)
        if answers and not self._under_way and self.gateway is not None and self.local is not None:
            self._begin(self._ask_router(self.gateway, self.local))

    def _begin(self, job: Coroutine[None, None, None]) -> None:
        self._under_way.append(asyncio.get_running_loop().create_task(job))

    def _find_router(self) -> None:
        """Note the default gateway of IPv4 and the address towards it, if that is a private one.

        Nobody translates for a host that has an address of the Internet.
        """
        found: Sequence[Hop] = ()
        with contextlib.suppress(NetlinkError):
            found = default_gateways() or ()
        for hop in found:
            if hop.gateway is None or family(hop.gateway) != 4:
                continue
            with contextlib.suppress(NetlinkError):
                way = find_route(hop.gateway)
                if way is not None and way.source is not None and is_private(way.source):
                    self.gateway, self.local = hop.gateway, way.source
                    return

    async def _ask_router(self, gateway: str, local: str) -> None:
        self.words = await ask_router(gateway, local, self._ports, seconds=ROUTER_SECONDS)

    async def _ask_server(self, server: Endpoint) -> None:
        try:
            addresses = await resolve(server.host, seconds=NAME_SECONDS)
        except UnresolvedError:
            return
        for address in addresses:
            with contextlib.suppress(OSError):
                heard = await ask(address, server.port, seconds=STUN_SECONDS)
                self.seen += heard.seen
                if heard.behaviour is not None:
                    self.behaviours.append(heard.behaviour)
                if heard.seen:
                    return

    async def finish(self) -> None:
        """Wait until all that was asked has answered, or had its time."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    def public(self) -> tuple[str, ...]:
        """Return the addresses under which others see this side, as far as told by now."""
        return _public(item.address for item in self.seen)

    def said_by_router(self) -> tuple[str, ...]:
        """Return the outside addresses that the router says it has: its word, and nobody's else."""
        return _public(word.outside for word in self.words if word.outside is not None)

    def port_opener(self, *, keep: bool) -> PortOpener | None:
        """Return what opens ports on the router, None where there is no router to ask."""
        if self.gateway is None or self.local is None:
            return None
        return PortOpener(self.gateway, self.local, self.words, keep=keep)

    async def close(self) -> None:
        """End what is under way; raise what failed in it. Safe to call again."""
        tasks, self._under_way = self._under_way, []
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


def _public(addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(a for a in map(bare, addresses) if is_public(a)))
