"""Finding the other agent on the same network by mDNS (`_bothends._tcp.local.`).

Both sides announce themselves and both browse. What is announced is the code's
number, the role and the control port; never the words. What is found is dialled
like any address: only the handshake decides who it is.

zeroconf takes 80 ms to load and announces within its own second, so all of this
goes on beside the other ways and never delays them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bothends_protocol.addresses import family
from bothends_protocol.pairing import other_role

from .overheard import MDNS_PORT, Sender
from .tasks import Tasks

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

__all__ = ["SERVICE_TYPE", "Discovery"]

SERVICE_TYPE = "_bothends._tcp.local."

ANNOUNCE_SECONDS = 1.0
ANNOUNCEMENTS = 10
"""Announced again this often at first: a host that lets nothing in hears no question, and one
that starts late has missed the first announcements."""

RESOLVE_SECONDS = 3.0
MAX_ADDRESSES = 8
"""Addresses taken from one announcement."""

# IPv4 first, then routable IPv6, then link-local, each with a little head start, so that the
# address which authenticates is one that an application would use.
_DELAYS = {"ipv4": 0.0, "ipv6": 0.05, "link-local": 0.15}


class Discovery:
    """Announces this agent and reports where the other may be."""

    def __init__(
        self,
        role: str,
        number: int,
        port: int,
        addresses: list[str],
        found: Callable[[str, int, float], None],
        say: Callable[[str], None],
    ) -> None:
        self._role = role
        self._number = number
        self._port = port
        self._addresses = addresses
        self._found = found
        self._say = say
        self._tasks = Tasks()
        self._zeroconf: AsyncZeroconf | None = None
        self._closing = False
        self._info: AsyncServiceInfo | None = None
        self._announced = 0.0

    def start(self, delay: float) -> None:
        """Begin after `delay` seconds, which leave the machine to a peer typed by the user."""
        asyncio.get_running_loop().set_exception_handler(self.quiet)
        self._tasks.start(self._run(delay))

    @staticmethod
    def quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Pass over what zeroconf's own tasks meet when they are ended while they start.

        A handler for the event loop; anything else is reported as ever.
        """
        error = context.get("exception")
        if not type(error).__module__.startswith("zeroconf"):
            loop.default_exception_handler(context)

    def overheard(self, data: bytes, sender: Sender) -> None:
        """Take in a datagram to the mDNS port that was read at the card (`overheard`).

        As if the socket had received it, which it does not behind a firewall that lets nothing
        in: answers go to zeroconf's own parser and records (`Zeroconf.record_manager`, to which
        zeroconf refers those who handle messages themselves), from where the browser learns of
        them. After a question about us the announcement goes out again: to announce is all that
        can be heard by others, since the one who asks may be behind such a firewall as well.
        Takes any bytes.
        """
        if self._zeroconf is None or self._closing:
            return
        # Loaded by now. Kept there for those who parse messages themselves, though not listed.
        from zeroconf import DNSIncoming  # type: ignore[attr-defined]  # noqa: PLC0415

        try:
            message = DNSIncoming(data, (sender[0], sender[1]), _zone(sender))
            if not message.valid:
                return
            if message.is_query():
                self._asked()
            elif sender[1] == MDNS_PORT:  # RFC 6762, 6: answers come from this port only
                self._zeroconf.zeroconf.record_manager.async_updates_from_response(message)
        except Exception:  # noqa: BLE001  zeroconf raises what its parts raise; it is any bytes
            return

    def _asked(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._info is not None and now - self._announced >= ANNOUNCE_SECONDS:
            self._announced = now
            self._tasks.start(self._announce_again(self._info))

    async def _announce_again(self, info: AsyncServiceInfo) -> None:
        if self._zeroconf is not None and not self._closing:
            # The network may be gone for a moment; the next question is answered then.
            with contextlib.suppress(OSError, RuntimeError):
                await self._zeroconf.async_update_service(info)

    def renumber(self, number: int) -> None:
        """Announce another code number from now on."""
        self._tasks.start(self._restart(number))

    async def _restart(self, number: int) -> None:
        self._tasks.cancel()
        await self._shut()
        self._number = number
        await self._run(0.0)

    async def _run(self, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            await self._announce_and_browse()
        except Exception as error:  # noqa: BLE001  zeroconf raises what its parts raise
            # Without mDNS the other ways remain, and an end in the middle of its start-up
            # (NotRunningException) means that they did.
            if not self._closing:
                self._say(f"Searching by mDNS is not possible: {type(error).__name__} {error}.")

    async def _announce_and_browse(self) -> None:
        from zeroconf import IPVersion  # noqa: PLC0415  80 ms to load
        from zeroconf.asyncio import (  # noqa: PLC0415
            AsyncServiceBrowser,
            AsyncServiceInfo,
            AsyncZeroconf,
        )

        try:
            self._zeroconf = AsyncZeroconf(ip_version=IPVersion.All)
        except OSError:
            self._zeroconf = AsyncZeroconf(ip_version=IPVersion.V4Only)
        # Kept alive by the AsyncZeroconf instance, which also ends it.
        AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._changed])
        name = f"bothends-{self._number}-{secrets.token_hex(4)}"
        info = AsyncServiceInfo(
            SERVICE_TYPE,
            f"{name}.{SERVICE_TYPE}",
            port=self._port,
            properties={"n": str(self._number), "r": self._role, "v": "1"},
            server=f"{name}.local.",
            parsed_addresses=self._addresses,
        )
        # The name is random, so the three probes for a conflict would only cost time.
        await self._zeroconf.async_register_service(info, cooperating_responders=True)
        self._info = info
        for _ in range(ANNOUNCEMENTS):
            await asyncio.sleep(ANNOUNCE_SECONDS)
            self._announced = asyncio.get_running_loop().time()
            await self._zeroconf.async_update_service(info)

    def _changed(
        self,
        zeroconf: Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        if state_change.name in ("Added", "Updated"):
            self._tasks.start(self._resolve(zeroconf, service_type, name))

    async def _resolve(self, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo  # noqa: PLC0415  loaded by now

        info = AsyncServiceInfo(service_type, name)
        if not await info.async_request(zeroconf, RESOLVE_SECONDS * 1000):
            return
        text = {
            key: value
            for key, value in info.decoded_properties.items()
            if key in ("n", "r") and value is not None
        }
        if text.get("n") != str(self._number) or text.get("r") != other_role(self._role):
            return
        for address in info.parsed_scoped_addresses()[:MAX_ADDRESSES]:
            self._found(address, info.port or self._port, _DELAYS[_kind(address)])

    async def close(self) -> None:
        """Take the announcement back and stop; safe to call again."""
        self._closing = True
        await self._tasks.finish()
        await self._shut()

    async def _shut(self) -> None:
        if self._zeroconf is not None:
            with contextlib.suppress(OSError, TimeoutError, RuntimeError):
                await self._zeroconf.async_close()
            self._zeroconf = self._info = None


def _zone(sender: Sender) -> int | None:
    return sender[3] if len(sender) == 4 else None


def _kind(address: str) -> str:
    if family(address.partition("%")[0]) == 4:
        return "ipv4"
    return "link-local" if address.lower().startswith("fe80:") else "ipv6"
