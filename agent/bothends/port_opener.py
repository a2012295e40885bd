"""Having the router forward a port to this host for as long as a run lasts (--map).

Asked is by PCP, by NAT-PMP where the router knows no PCP, and by UPnP. What was there
before stays: UPnP is asked first whom the port leads to, where it can be; the others
have no such question. A router may take what another program of this very host mapped
by them as the same mapping, and end it with ours; such a program maps it again at half
of its lease.

What may have been made is noted before it is asked for, so that `close` ends it even
where the answer never came.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from bothends_protocol.addresses import normal
from bothends_protocol.evidence import Mapping, OpenedMapping, RouterWord
from bothends_protocol.portmap import NONCE_SIZE, Granted

from .port_control import Link, NoAnswer, Refusal, map_by_pcp, map_by_pmp
from .router import ask_router
from .tasks import Tasks
from .upnp import find_igd

if TYPE_CHECKING:
    from .igd import Igd

__all__ = ["KEPT_SECONDS", "LEASE_SECONDS", "PortOpener"]

LEASE_SECONDS = 120
"""How long a mapping outlives an agent that is killed. Some routers grant no less."""

KEPT_SECONDS = 23 * 3600
"""The lease of a mapping that is to stay. Under a day: PCP servers grant no more as a rule
(RFC 6887, 15), and what nobody uses is gone tomorrow."""

CLOSE_SECONDS = 2.0
"""How long ending may take, for all mappings together; the leases see to the rest."""

MIN_RENEWAL = 1.0
"""Seconds between renewals at the least, whatever lease a router grants."""

FOR_EVER = 0

Again = Callable[[], Awaitable[object]]


class _Wanted(msgspec.Struct, eq=False):
    """A mapping that was asked for, and perhaps made."""

    transport: str
    port: int
    nonce: bytes = msgspec.field(default_factory=lambda: secrets.token_bytes(NONCE_SIZE))


class PortOpener:
    """Opens ports on one router, and closes them again; `close` it, under `asyncio.shield`.

    `words` are what the router said before; without them it is asked. `keep`: what is made
    stays, for `KEPT_SECONDS`, and for ever where the router has nothing shorter. `seconds`
    bound each conversation. Nothing here raises what a router can cause.
    """

    def __init__(
        self,
        gateway: str,
        local: str,
        words: Sequence[RouterWord] = (),
        *,
        keep: bool = False,
        lease: int = LEASE_SECONDS,
        seconds: float = 3.0,
    ) -> None:
        self._link = Link(normal(gateway), normal(local))
        self._words = {word.protocol: word for word in words}
        self._keep = keep
        self._lease = KEPT_SECONDS if keep else lease
        self._seconds = seconds
        self._undo: dict[tuple[_Wanted, str], Again] = {}
        self._granted: dict[tuple[str, int], OpenedMapping] = {}
        self._renewals = Tasks()
        self._stack = contextlib.AsyncExitStack()
        self._device: Igd | None = None

    async def open(self, transport: str, port: int, round_number: int) -> OpenedMapping:
        """Have the outside port of the same number lead to `port` of this host.

        What was granted once is granted for as long as this is open.
        """
        if before := self._granted.get((transport, port)):
            return msgspec.structs.replace(before, round=round_number)
        if not self._words:
            words = await ask_router(
                self._link.gateway, self._link.local, (), seconds=self._seconds
            )
            self._words = {word.protocol: word for word in words}
        wanted = _Wanted(transport, port)
        told = _Told(round_number, transport, port, self._link.gateway)
        device = await self._upnp()
        there = await self._there(device, wanted) if device else None
        if there is not None and there.client is not None:
            return self._kept_as_it_is(there, told)
        opened = await self._asked(wanted, told, device)
        if opened.outcome == "granted":
            self._granted[transport, port] = opened
        return opened

    async def close(self) -> None:
        """End all that was made, unless it is to stay, in `CLOSE_SECONDS`; safe to call again."""
        try:
            await self._renewals.finish()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await asyncio.gather(*map(self._end, list(self._undo)))
            self._undo.clear()
            self._granted.clear()
            self._device = None
            await self._stack.aclose()

    # -- what is there already

    async def _upnp(self) -> Igd | None:
        """Return the router's UPnP; None where it has none, or does not answer any more."""
        word = self._words.get("upnp")
        if self._device is None and word is not None and word.outcome == "answers":
            with contextlib.suppress(NoAnswer, Refusal, TimeoutError):
                async with asyncio.timeout(self._seconds):
                    device = await self._stack.enter_async_context(find_igd(self._link))
                    self._device = device
                    await device.outside()  # which settles the connection that is asked
        return self._device

    async def _there(self, device: Igd, wanted: _Wanted) -> Mapping | None:
        with contextlib.suppress(NoAnswer, TimeoutError):
            async with asyncio.timeout(self._seconds):
                return await device.mapping(wanted.transport, wanted.port)
        return None

    def _is_ours(self, there: Mapping) -> bool:
        return (there.client, there.client_port) == (self._link.local, there.port)

    def _kept_as_it_is(self, there: Mapping, told: _Told) -> OpenedMapping:
        if self._is_ours(there) and there.enabled:
            return told.there("upnp", self._outside("upnp"), there.lease or FOR_EVER)
        why = (
            "the mapping to this host is there, and switched off"
            if self._is_ours(there)
            else f"the port leads to {there.client} port {there.client_port} already"
        )
        return told.failed("upnp", "refused", why)

    # -- asking

    async def _asked(self, wanted: _Wanted, told: _Told, device: Igd | None) -> OpenedMapping:
        """Ask by one protocol after the other, until one has settled it."""
        last = told.failed("", "silent", "the router speaks none of PCP, NAT-PMP and UPnP")
        for protocol, ask in (("pcp", self._by_pcp), ("nat-pmp", self._by_pmp)):
            if self._answers(protocol):
                last = await self._settled(protocol, ask(wanted, told), told)
                # The two are one server: what it refused by one it does not grant by the other.
                if last.outcome != "silent":
                    break
        if last.outcome in ("granted", "other-port") or device is None:
            return last
        return await self._settled("upnp", self._by_upnp(device, wanted, told), told)

    def _answers(self, protocol: str) -> bool:
        word = self._words.get(protocol)
        return word is not None and word.outcome == "answers"

    def _outside(self, protocol: str) -> str | None:
        word = self._words.get(protocol)
        return word.outside if word else None

    async def _settled(
        self, protocol: str, asking: Awaitable[OpenedMapping], told: _Told
    ) -> OpenedMapping:
        """Return what came of it, whatever the router did."""
        try:
            async with asyncio.timeout(self._seconds):
                opened = await asking
        except TimeoutError:
            return told.failed(protocol, "silent", "it did not answer in time")
        except NoAnswer as none:
            outcome = "silent" if none.outcome == "silent" else "failed"
            return told.failed(protocol, outcome, none.detail)
        except Refusal as refusal:
            return told.failed(protocol, "refused", str(refusal))
        return opened

    async def _by_pcp(self, wanted: _Wanted, told: _Told) -> OpenedMapping:
        async def ask(lifetime: int) -> Granted:
            return await map_by_pcp(
                self._link, wanted.nonce, wanted.transport, wanted.port, lifetime, self._seconds
            )

        return await self._by_datagram("pcp", wanted, told, ask)

    async def _by_pmp(self, wanted: _Wanted, told: _Told) -> OpenedMapping:
        async def ask(lifetime: int) -> Granted:
            return await map_by_pmp(
                self._link, wanted.transport, wanted.port, lifetime, self._seconds
            )

        return await self._by_datagram("nat-pmp", wanted, told, ask)

    async def _by_datagram(
        self, protocol: str, wanted: _Wanted, told: _Told, ask: Callable[[int], Awaitable[Granted]]
    ) -> OpenedMapping:
        made = (wanted, protocol)
        self._undo[made] = lambda: ask(0)
        try:
            granted = await ask(self._lease)
        except Refusal:
            del self._undo[made]
            raise
        if granted.outside != wanted.port or not granted.lifetime:
            await self._end(made)
            if not granted.lifetime:
                return told.failed(protocol, "failed", "it was granted for no time at all")
            why = f"the router gives the outside port {granted.outside} instead"
            return told.failed(protocol, "other-port", why, outside_port=granted.outside)
        self._made(made, granted.lifetime, lambda: ask(self._lease))
        return told.granted(
            protocol,
            outside=granted.address or self._outside(protocol),
            lease=granted.lifetime,
            kept=self._keep,
        )

    async def _by_upnp(self, device: Igd, wanted: _Wanted, told: _Told) -> OpenedMapping:
        made = (wanted, "upnp")
        self._undo[made] = lambda: self._end_by_upnp(device, wanted)
        try:
            lease = await self._add(device, wanted)
        except Refusal as refusal:
            del self._undo[made]
            if _is_permanent_only(refusal):
                return told.failed("upnp", "permanent-only", str(refusal))
            raise
        there = await device.mapping(wanted.transport, wanted.port)
        if there is not None and not self._is_ours(there):
            where = f"leads to {there.client}" if there.client else "is not there"
            return told.failed("upnp", "failed", f"granted, and yet the port {where}")
        # Some take a lease and make one for ever of it.
        lease = lease if there is None or there.lease is None else there.lease
        if lease == FOR_EVER and not self._keep:
            await self._end(made)
            return told.failed("upnp", "permanent-only", "the router made it for ever")
        self._made(made, lease, lambda: self._again_by_upnp(device, wanted))
        return told.granted("upnp", outside=self._outside("upnp"), lease=lease, kept=self._keep)

    async def _add(self, device: Igd, wanted: _Wanted) -> int:
        """Map it, and return the lease that was asked for last."""
        try:
            await device.add(wanted.transport, wanted.port, self._lease)
        except Refusal as refusal:
            if not (self._keep and _is_permanent_only(refusal)):
                raise
            await device.add(wanted.transport, wanted.port, FOR_EVER)
            return FOR_EVER
        return self._lease

    # -- renewing and ending

    def _made(self, made: tuple[_Wanted, str], lease: int, again: Again) -> None:
        if self._keep:
            del self._undo[made]
        elif lease != FOR_EVER:
            self._renewals.start(self._renew(lease, again))

    async def _renew(self, lease: int, again: Again) -> None:
        """Ask for it again at half of its lease, for as long as it is wanted."""
        while True:
            await asyncio.sleep(max(MIN_RENEWAL, lease / 2))
            # One that is missed leaves a half of what was left, for another.
            with contextlib.suppress(NoAnswer, Refusal, TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await again()

    async def _again_by_upnp(self, device: Igd, wanted: _Wanted) -> None:
        """Renew it, where nobody else has the port by now."""
        there = await device.mapping(wanted.transport, wanted.port)
        if there is None or there.client is None or self._is_ours(there):
            await device.add(wanted.transport, wanted.port, self._lease)

    async def _end(self, made: tuple[_Wanted, str]) -> None:
        """End a mapping; what the router does not end now ends with its lease."""
        if end := self._undo.get(made):
            with contextlib.suppress(NoAnswer, Refusal):
                await end()
            self._undo.pop(made, None)

    async def _end_by_upnp(self, device: Igd, wanted: _Wanted) -> None:
        """End it where it is ours; UPnP would end anybody's."""
        there = await device.mapping(wanted.transport, wanted.port)
        if there is None or self._is_ours(there):
            await device.delete(wanted.transport, wanted.port)


def _is_permanent_only(refusal: Refusal) -> bool:
    from .igd import PERMANENT_ONLY, ActionError  # noqa: PLC0415  it was loaded to be refused

    return isinstance(refusal, ActionError) and refusal.code == PERMANENT_ONLY


class _Told(msgspec.Struct, frozen=True):
    """What is the same in all that may be told of one attempt."""

    round_number: int
    transport: str
    port: int
    router: str

    def there(self, protocol: str, outside: str | None, lease: int) -> OpenedMapping:
        """It is no mapping of ours, and so none that ends with the run."""
        found = self.granted(protocol, outside=outside, lease=lease, kept=True)
        why = "it led here before, and stays as it is"
        return msgspec.structs.replace(found, outcome="there", detail=why)

    def granted(
        self, protocol: str, *, outside: str | None, lease: int, kept: bool
    ) -> OpenedMapping:
        return OpenedMapping(
            round=self.round_number,
            transport=self.transport,
            port=self.port,
            protocol=protocol,
            router=self.router,
            outcome="granted",
            outside=outside,
            outside_port=self.port,
            lease=lease,
            kept=kept,
        )

    def failed(
        self, protocol: str, outcome: str, detail: str, *, outside_port: int = 0
    ) -> OpenedMapping:
        return OpenedMapping(
            round=self.round_number,
            transport=self.transport,
            port=self.port,
            protocol=protocol,
            router=self.router,
            outcome=outcome,
            detail=detail,
            outside_port=outside_port,
        )
