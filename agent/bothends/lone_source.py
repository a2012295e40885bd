"""The source alone: it tries the port again and again, in rounds that it keeps.

Each round is a few fresh connects and, where none came about, a coded burst with
a pattern of its own. So whenever the destination begins to watch, something
recognisable is on its way soon. A service that answers gets no bursts.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections import deque
from itertools import count

from msgspec.structs import replace

from bothends_protocol.alignment import (
    HOLD_SECONDS,
    PER_WINDOW,
    SAMPLE_SECONDS,
    WINDOW_SECONDS,
    WINDOWS,
)
from bothends_protocol.bursts import make_pattern
from bothends_protocol.evidence import Burst, Offline, Probe, RoundPlan, Samples
from bothends_protocol.messages import Tried
from bothends_protocol.pairing import SOURCE
from bothends_protocol.plan import ATTEMPTS, BURST, CONNECT

from .connects import connecting
from .prober import Prober
from .recorder import Recorder
from .witness.counters import Sampler

__all__ = ["MAX_PACKETS", "LoneSource", "pause"]

MAX_PROBES = 32
"""Ports at addresses that are tried; of more than that the first ones."""

MAX_BURST_PROBES = 4
"""Probes that get bursts, in turn: those that are not answered."""

MAX_PACKETS = 300_000
"""Connection requests in all, however long it waits: of a week that is one in two seconds."""

START_SECONDS = 1.0
"""Before the first round: two that know each other's address have met by then, and their cold
probe is to be the first; what a firewall refuses before would use up what it says by ICMP."""

SOON_SECONDS, SOON_ROUNDS = 4.0, 10
LATER_SECONDS, LATER_AFTER = 10.0, 600.0
SLOW_SECONDS = 60.0
"""From one round to the next: at first as fast as a round ends, so that a short overlap is enough;
then every ten seconds, for as long as one waits by default; then every minute, or as the packets
that are left allow. A program that accepts is tried every ten seconds from the beginning, and so
a hung one's queue of 128 is not filled by the test."""
ANSWERED_ROUNDS = 3

MAX_ATTEMPTS = 3000
MAX_BURSTS = 300
MAX_SAMPLES = 120
MAX_ROUNDS = 1200
"""Records kept, newest first: of ten minutes all of them."""

QUIET_SECONDS = 0.3
"""Before the first window, with nothing sent: what is counted then is not ours."""
OPEN_SECONDS = 0.5
"""A window's sockets are closed after so long: in a second the kernel would send again."""


def pause(done: int, elapsed: float, *, left: float, packets: int, answered: bool) -> float:
    """Return the seconds from the beginning of one round to that of the next.

    `done` rounds in `elapsed` seconds are over, `left` seconds and `packets` remain; `answered` is
    whether the last ones were all answered by a connection.
    """
    if elapsed < LATER_AFTER:
        return SOON_SECONDS if done < SOON_ROUNDS and not answered else LATER_SECONDS
    rounds = max(packets / _ROUND_PACKETS, 1.0)
    return max(SLOW_SECONDS, left / rounds)


_ROUND_PACKETS = WINDOWS // 2 * PER_WINDOW + 2 * ATTEMPTS


class LoneSource:
    """Probes `addresses` at `ports` until it is closed, `wait` seconds at most."""

    def __init__(
        self, recorder: Recorder, addresses: tuple[str, ...], ports: list[int], wait: float
    ) -> None:
        self._recorder = recorder
        self._wait = wait
        self._probes = tuple(
            Probe(transport="tcp", address=address, port=port)
            for address in addresses
            for port in ports
        )[:MAX_PROBES]
        self._rounds: deque[RoundPlan] = deque(maxlen=MAX_ROUNDS)
        self._numbers = count(1)
        self._prober = Prober(recorder, secrets.token_bytes(32))
        self._sampler = Sampler(recorder.clock, SAMPLE_SECONDS)
        self._sockets: deque[tuple[float, socket.socket]] = deque()
        self._packets = MAX_PACKETS
        self._turn = 0
        self._answered = 0

    @property
    def rounds(self) -> list[RoundPlan]:
        """The rounds that are kept."""
        return list(self._rounds)

    async def run(self) -> None:
        """Probe for as long as there is something to probe, and packets are left."""
        clock = self._recorder.clock
        await asyncio.sleep(START_SECONDS)
        done = 0
        while self._probes and self._packets > 0:
            began = clock()
            silent = await self._connect()
            self._answered = 0 if silent else self._answered + 1
            if silent:
                await self._burst(silent[self._turn % len(silent)])
                self._turn += 1
            done += 1
            self._trim()
            seconds = pause(
                done,
                clock(),
                left=self._wait - clock(),
                packets=self._packets,
                answered=self._answered >= ANSWERED_ROUNDS,
            )
            await asyncio.sleep(began + seconds - clock())

    async def _connect(self) -> list[Probe]:
        """A round of fresh connects; return the probes to which none came about."""
        plan = RoundPlan(
            number=next(self._numbers),
            kind=CONNECT,
            prober=SOURCE,
            attempts=ATTEMPTS,
            probes=self._probes,
        )
        clock = self._recorder.clock
        began = clock()
        self._recorder.routes.clear()
        await self._prober.fire(plan, (), 0.0)
        await asyncio.sleep(began + HOLD_SECONDS - clock())
        tried: tuple[Tried, ...] = await self._prober.gather(plan, (), 0.0)
        self._rounds.append(plan)
        self._packets -= sum(2 * item.attempts for item in tried)
        return [item.probe for item in tried if not item.connected][:MAX_BURST_PROBES]

    async def _burst(self, probe: Probe) -> None:
        """Send a coded burst, and keep what the counters here show of it."""
        clock = self._recorder.clock
        plan = RoundPlan(
            number=next(self._numbers),
            kind=BURST,
            prober=SOURCE,
            attempts=PER_WINDOW,
            probes=(probe,),
            pattern=make_pattern(secrets.token_bytes, WINDOWS),
        )
        routes = self._recorder.routes
        card = next((r.interface for r in routes if r.destination == probe.address), None)
        seen = len(self._recorder.sightings)
        self._sampler.start(card=card or "")
        await asyncio.sleep(QUIET_SECONDS)
        zero = clock()
        self._sampler.mark()
        sends: list[float] = []
        ports: set[int] = set()
        for window, full in enumerate(plan.pattern):
            await asyncio.sleep(zero + window * WINDOW_SECONDS - clock())
            self._close_until(clock() - OPEN_SECONDS)
            for _ in range(plan.attempts if full == "1" else 0):
                sock = connecting(probe)
                if sock is not None:
                    self._sockets.append((clock(), sock))
                    ports.add(_port(sock))
                    sends.append(round(clock() - zero, 6))
        await asyncio.sleep(zero + WINDOWS * WINDOW_SECONDS + QUIET_SECONDS - clock())
        self._close_until(clock())
        samples = self._sampler.stop(plan.number)
        self._forget(ports, seen)
        self._packets -= len(sends)
        self._rounds.append(plan)
        if samples is not None:
            self._recorder.samples.append(_moved(samples))
        self._recorder.bursts.append(
            Burst(
                round=plan.number,
                transport=probe.transport,
                address=probe.address,
                port=probe.port,
                sends=tuple(sends),
                started=zero,
            )
        )

    def _close_until(self, at: float) -> None:
        while self._sockets and self._sockets[0][0] <= at:
            self._sockets.popleft()[1].close()

    def _forget(self, ports: set[int], since: int) -> None:
        """Leave the burst's own packets out: counters tell of them, and they are many."""
        kept = self._recorder.sightings
        kept[since:] = [
            s
            for s in kept[since:]
            if s.source_port not in ports and s.destination_port not in ports
        ]

    def _trim(self) -> None:
        recorder = self._recorder
        for records, most in (
            (recorder.attempts, MAX_ATTEMPTS),
            (recorder.bursts, MAX_BURSTS),
            (recorder.samples, MAX_SAMPLES),
            (recorder.neighbours, MAX_PROBES),
            (recorder.hop_probes, MAX_PROBES),
        ):
            del records[:-most]

    def freeze(self, offline: Offline) -> Offline:
        """Return `offline` with what this side keeps beside its records."""
        return offline

    async def close(self) -> None:
        """Close what is open; safe to call again."""
        self._prober.close()
        self._sampler.close()
        self._close_until(self._recorder.clock())


def _port(sock: socket.socket) -> int:
    with contextlib.suppress(OSError):
        return int(sock.getsockname()[1])
    return 0


def _moved(samples: Samples) -> Samples:
    """The readings as what they are more than the first: a fraction of the bytes."""
    return replace(
        samples,
        values={
            name: tuple(value - row[0] for value in row) for name, row in samples.values.items()
        },
    )
