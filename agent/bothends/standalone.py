"""A side that waits alone keeps what it sees, for a verdict on two files later.

Active with --save or --paste, from the beginning of the wait. If the two meet
after all, `stop` ends it, its records are thrown away and the session begins
afresh. If they do not, `freeze` returns them as evidence (`bothends_protocol.
offline` puts two of them side by side). The source's part is in `lone_source`,
the destination's in `lone_destination`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from bothends_protocol.evidence import ContactFacts, Evidence, HostFacts, Offline, Target, Witness
from bothends_protocol.pairing import SOURCE
from bothends_protocol.ports import parse_ports

from .lone_destination import LoneDestination
from .lone_source import LoneSource
from .options import Options
from .recorder import Recorder
from .tasks import Tasks
from .witness.packets import PacketWitness

__all__ = ["MAX_SIGHTINGS", "Standalone", "Surroundings"]

MAX_SIGHTINGS = 8000
"""Sightings kept, newest first: of bursts every ten seconds the last four minutes, and about a
megabyte and a half."""

TRIM_SECONDS = 1.0

CLOCK_SET = 2.0
"""Seconds by which the wall clock may move against the monotonic one before it is not relied on."""


class Surroundings(msgspec.Struct, frozen=True):
    """What the run has found out before the wait began."""

    facts: HostFacts
    typed: tuple[str, ...] = ()
    """The --peer addresses, resolved."""
    targets: tuple[Target, ...] = ()
    peers: tuple[Target, ...] = ()
    """Names given with --peer that stand for several addresses."""


class Standalone:
    """The recording of one side that has not met the other, so far."""

    def __init__(self, options: Options, around: Surroundings) -> None:
        self._options = options
        self._around = around
        self._recorder = Recorder(options.role)
        self._wall = time.time() - self._recorder.clock()
        self._tasks = Tasks()
        self._packets: PacketWitness | None = None
        self._sightings_since = 0.0
        wanted = options.offline_ports if options.role == SOURCE else options.ports
        # Alone a side sends and watches TCP only.
        parts = [part for text in wanted for part in parse_ports(text)]
        self._ports = [port for part in parts if part.transport == "tcp" for port in part]
        self._side: LoneSource | LoneDestination = (
            LoneSource(self._recorder, self._addresses(), self._ports, options.wait)
            if options.role == SOURCE
            else LoneDestination(
                self._recorder, around.facts, around.typed, self._ports, options.service
            )
        )

    def _addresses(self) -> tuple[str, ...]:
        """What the source may try: only what its user typed, never what mDNS alone found."""
        targets = [address for target in self._around.targets for address in target.addresses]
        return tuple(dict.fromkeys(targets or self._around.typed))

    def start(self) -> None:
        """Begin to record."""
        self._open_packets()
        self._tasks.start(self._trim())
        self._tasks.start(self._side.run())

    def _open_packets(self) -> None:
        # Dials of the contact that arrive and get no answer still tell how the clocks lie.
        ports = [*self._ports, self._options.control_port]
        follow = self._options.role != SOURCE and self._around.facts.forwards is not False
        recorder = self._recorder
        try:
            self._packets = PacketWitness(ports, recorder.sightings, recorder.clock, follow=follow)
        except OSError as error:
            recorder.witnesses["packets"] = Witness(
                name="packets", available=False, detail=os.strerror(error.errno or 0)
            )
            return
        self._packets.watch(asyncio.get_running_loop())

    async def _trim(self) -> None:
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            kept = self._recorder.sightings
            if len(kept) > MAX_SIGHTINGS:
                self._sightings_since = kept[-MAX_SIGHTINGS - 1].at
                del kept[:-MAX_SIGHTINGS]

    async def freeze(self, refused: Iterable[str] = ()) -> Evidence:
        """Stop; return all that was recorded. `refused` is what the ways to meet met."""
        recorder = self._recorder
        ended = recorder.clock()
        wall = time.time() - ended
        if self._packets is not None:
            self._packets.drain()
            recorder.witnesses["packets"] = self._packets.state()
        offline = Offline(
            wall=wall if abs(wall - self._wall) < CLOCK_SET else None,
            lasted=ended,
            kept_right=_kept_right(),
            sightings_since=self._sightings_since,
        )
        offline = self._side.freeze(offline)
        await self.stop()
        evidence = recorder.freeze(
            session=b"",
            facts=self._around.facts,
            contact=ContactFacts(
                path="offline",
                local="",
                remote="",
                rtt=0.0,
                typed=self._around.typed,
                refused=tuple(refused),
            ),
            rounds=self._side.rounds,
            ports=self._options.ports,
            service=self._options.service,
            targets=self._around.targets,
            peers=self._around.peers,
        )
        return replace(evidence, offline=offline)

    async def stop(self) -> None:
        """End all of it and close everything; safe to call again."""
        if self._packets is not None:
            self._packets.close()
            self._packets = None
        try:
            await self._tasks.finish()
        finally:
            await self._side.close()


_TIMEX_SIZE = 512
_TIME_ERROR = 5  # linux/timex.h: the clock is not synchronised


def _kept_right() -> bool | None:
    """Return whether the kernel is told that its wall clock is right (adjtimex(2)); Linux."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        # All zero: nothing is set, only asked. struct timex has 208 bytes.
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_SIZE))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state != _TIME_ERROR)
