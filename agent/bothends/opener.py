"""What the observer does at its own router where requests do not come in.

Looks (`look`): which hop has this side's public address, and which hops lead to the other side.
Opens from inside (`open_pinhole`), and asks the router to forward (`open_mapping`, only with
--map). All of it is written down as evidence; nothing is judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

from bothends_protocol.addresses import bare, family, is_public
from bothends_protocol.evidence import OpenedMapping, Pinhole, Probe, RoundPlan
from bothends_protocol.ways import way_of

from .hops import Tracer
from .listener import OwnListeners
from .pinhole import open_from_free_port, open_with_raw_socket
from .port_opener import PortOpener
from .recorder import Recorder

__all__ = ["Opener"]

_UNUSED_PORTS = (61_000, 64_999)
"""Where a port is drawn that nobody forwards: above what systems use for their own connections."""

_BEYOND = 2
"""The hop behind the own router."""

MAP_SECONDS = 6.0
"""For the router to open all ports of a round: the other side waits meanwhile. Each conversation
with one that answers takes tenths of a second, and one that is slow is given up after three."""

LOOK_SECONDS = 0.3
"""For the first hop of the own network to answer."""


class Opener:
    """Works at the router of one side, for one test."""

    def __init__(
        self,
        recorder: Recorder,
        own: OwnListeners,
        *,
        public: Callable[[], Collection[str]],
        others: Callable[[], Sequence[str]],
        control_port: int,
        mapper: Callable[[], Awaitable[PortOpener | None]],
        say: Callable[[str], None],
    ) -> None:
        """Work for one test.

        `public` are the addresses under which this side is seen from outside, as far as known
        now; `others` those under which the other side is, proven ones alone. `mapper` makes what
        opens ports on the router, once it is known what the router speaks. `say` tells the user.
        """
        self._recorder = recorder
        self._own = own
        self._public = public
        self._others = others
        self._control_port = control_port
        self._mapper = mapper
        self._say = say
        self._mapping: PortOpener | None = None
        self._looking: asyncio.Task[None] | None = None

    def look(self, number: int) -> None:
        """Begin to trace this side's own public addresses, and the way to the other side; once."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look(number))

    async def _look(self, number: int) -> None:
        first, last = _UNUSED_PORTS
        unused = first + secrets.randbelow(last - first + 1)
        # Who says which address is this side's own may be wrong: no further than the own router.
        ways = [(address, unused, 1) for address in _four(self._public())[:1]]
        ways += [(address, self._control_port, _FEW) for address in _four(self._others())[:1]]
        await asyncio.gather(*(self._trace(number, *way) for way in ways))

    async def _trace(self, number: int, address: str, port: int, most: int) -> None:
        tracer = Tracer(self._recorder.clock)
        found = await tracer.trace(number, address, port, patience=LOOK_SECONDS, most=most)
        self._recorder.hop_probes.extend(found)

    async def open_pinhole(self, plan: RoundPlan, local: str | None) -> None:
        """Send a packet from each of the plan's ports to each of the other side's."""
        self.look(plan.number)
        await self.finish()
        remotes = _four(self._others())
        for probe in plan.probes:
            if local is None or not remotes:
                self._note(plan, probe, "", 0, "ENETUNREACH")
                continue
            hops = self._beyond(remotes[0])
            if hops is None:
                self._note(plan, probe, remotes[0], 0, "EHOSTUNREACH")
                continue
            error = await self._send(local, probe, remotes[0], plan.local_ports, hops)
            self._note(plan, probe, remotes[0], hops, error)

    async def open_mappings(self, plan: RoundPlan) -> None:
        """Ask the router to forward the ports of the plan; they stay so until `close`."""
        if self._mapping is None:
            self._mapping = await self._mapper()
        why = "there is no router to ask"
        loop = asyncio.get_running_loop()
        until = loop.time() + MAP_SECONDS
        for transport, port in dict.fromkeys((p.transport, p.port) for p in plan.probes):
            opened: OpenedMapping | None = None
            if self._mapping is not None:
                why = "the router took too long"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        opened = await self._mapping.open(transport, port, plan.number)
            self._note_opened(opened or _unopened(plan.number, transport, port, why))

    def _note_opened(self, opened: OpenedMapping) -> None:
        self._recorder.opened.append(opened)
        if opened.outcome == "granted" and opened.kept:
            # Said at once: the run may end without a verdict that would tell it.
            until = f"for {opened.lease} seconds" if opened.lease else "for ever"
            self._say(
                f"The router forwards {opened.transport.upper()} port {opened.port} to this "
                f"computer from now on, {until} (--keep-map)."
            )

    async def _send(
        self, local: str, probe: Probe, remote: str, ports: tuple[int, ...], hops: int
    ) -> str | None:
        port, udp = probe.port, probe.transport == "udp"
        try:
            open_with_raw_socket(local, port, remote, ports, hops, udp=udp)
        except PermissionError as error:
            if udp:
                return _name(error)
        except OSError as error:
            return _name(error)
        else:
            return None
        held = self._own.release(port)
        try:
            await open_from_free_port(local, port, remote, ports, hops)
        except OSError as error:
            return _name(error)
        finally:
            for address in held:
                self._own.open(address, port)
        return None

    def _beyond(self, remote: str) -> int | None:
        """The time to live that ends at the first router behind this side's own; None: unknown.

        One hop further, and it would open a carrier's NAT or filter too: then what comes in says
        nothing of this side's own router.
        """
        way = way_of(self._recorder.hop_probes, remote, self._control_port)
        who = way.expired.get(_BEYOND, "")
        own = way.expired.get(1, "")
        # That of the other side itself would take the request for its own.
        fit = is_public(who) and not is_public(own) and bare(who) != bare(remote)
        return _BEYOND if fit else None

    def _note(
        self, plan: RoundPlan, probe: Probe, remote: str, hops: int, error: str | None
    ) -> None:
        self._recorder.pinholes.extend(
            Pinhole(
                round=plan.number,
                transport=probe.transport,
                local_port=probe.port,
                remote=remote,
                remote_port=remote_port,
                hops=hops,
                sent=error is None,
                error=error,
            )
            for remote_port in plan.local_ports
        )

    async def finish(self) -> None:
        """Wait until all that was begun has told what it found."""
        if self._looking is not None:
            await asyncio.shield(self._looking)

    async def close(self) -> None:
        """End what is still under way; safe to call again."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._mapping is not None:
            # What was opened is closed on every way out, an interrupt among them.
            await asyncio.shield(self._mapping.close())


_FEW = 8
"""Hops that are asked on the own side: a home's two routers and the carrier's first ones."""


def _unopened(number: int, transport: str, port: int, why: str) -> OpenedMapping:
    return OpenedMapping(
        round=number,
        transport=transport,
        port=port,
        protocol="",
        router="",
        outcome="failed",
        detail=why,
    )


def _four(addresses: Iterable[str]) -> list[str]:
    """The IPv4 ones: nobody translates IPv6 (RFC 6296 keeps the port and the host)."""
    return [address for address in dict.fromkeys(addresses) if family(address) == 4]


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))
