"""The destination alone: a standing watch over its ports, cheap enough for days.

The socket table is looked at twice a second, the counters are read all the time
(`witness.standing`), packets are seen where that is allowed. Who listens is
noted when it changes; where nobody does, the agent's own listener stands in.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque

from msgspec.structs import replace

from bothends_protocol.addresses import bare
from bothends_protocol.alignment import HOLD_SECONDS, LOOK_SECONDS
from bothends_protocol.evidence import (
    Acceptance,
    Connection,
    HostFacts,
    Listening,
    Offline,
    Probe,
    RoundPlan,
)
from bothends_protocol.pairing import SOURCE
from bothends_protocol.plan import CONNECT

from .listener import OwnListeners
from .observer import Observer
from .recorder import Recorder
from .witness.sockets import Row, connections, read_table
from .witness.standing import StandingSampler

__all__ = ["LoneDestination"]

MAX_OWN = 64
"""Own listeners, each on one port at one address of the host."""

MAX_ROWS = 3000
MAX_ACCEPTANCES = 1000
MAX_CHANGES = 30
MAX_BLIND = 200
"""Records kept, newest first. Rows: where answers are lost, each burst leaves one for each of its
requests, and 3,000 of them are the newest two minutes."""

MAX_REMOTES = 8
"""Addresses that came last, to which the way back is looked up."""

NOTE_SECONDS = 30.0
"""After so long who listens is noted again though nothing changed: programs come and go."""
BUSY_SECONDS = 5.0
"""The same where no more changed than how many wait in a queue, or who came."""

AGAIN_SECONDS = 5.0
"""A connection that was gone for so long is another one with the same port."""

MANY_WAIT = 100
"""Half-open connections on the ports, from which on more may be there than the table shows: with
its queue full the kernel keeps none of them (tcp(7), tcp_syncookies)."""

MISSED_SECONDS = HOLD_SECONDS - 0.2
"""Between two looks, from which on a connection may have come and gone unseen."""


class LoneDestination:
    """Watches `ports` of this host until it is closed."""

    def __init__(
        self,
        recorder: Recorder,
        facts: HostFacts,
        typed: tuple[str, ...],
        ports: list[int],
        service: str | None,
    ) -> None:
        self._recorder = recorder
        self._typed = typed
        self._ports = frozenset(ports)
        self._service = service
        self._cards = {bare(item.address): item.interface for item in facts.addresses}
        places = [(address, port) for port in ports for address in map(_named, facts.addresses)]
        self._probes = tuple(
            Probe(transport="tcp", address=address, port=port) for address, port in places[:MAX_OWN]
        )
        self._own = OwnListeners(secrets.token_bytes(32), recorder.clock, self._took)
        self._sampler = StandingSampler(recorder.clock)
        self._rows: dict[tuple[str, int, str, int], _Seen] = {}
        self._rows_since = 0.0
        self._remotes: deque[str] = deque(maxlen=MAX_REMOTES)
        self._listening: deque[Listening] = deque(maxlen=MAX_CHANGES)
        self._blind: deque[float] = deque(maxlen=MAX_BLIND)
        self._noted = -NOTE_SECONDS
        self._looked = 0.0
        self._holders: frozenset[tuple[str, int, int]] = frozenset()
        self._state: object = None

    @property
    def rounds(self) -> list[RoundPlan]:
        """None: this side does not know what the other does."""
        return []

    async def run(self) -> None:
        """Watch until cancelled."""
        self._sampler.start()
        while True:
            await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        table = read_table() or []
        now = self._recorder.clock()
        if now - self._looked > MISSED_SECONDS:
            self._blind.append(now)
        self._looked = now
        rows = connections(table, self._ports, 0)
        if sum(row.state == "SYN_RECV" for row in rows) >= MANY_WAIT:
            self._blind.append(now)
        for row in rows:
            self._take(row, now)
        await self._note(table, now)

    def _take(self, row: Connection, now: float) -> None:
        key = (row.remote_address, row.remote_port, row.local_address, row.local_port)
        old = self._rows.get(key)
        if old is None or now - old.last > AGAIN_SECONDS:
            self._rows.pop(key, None)
            self._rows[key] = _Seen(replace(row, at=now), now)
            self._came(row.remote_address)
            while len(self._rows) > MAX_ROWS:
                gone = self._rows.pop(next(iter(self._rows)))
                self._rows_since = gone.row.at or 0.0
            return
        old.update(row, now)

    def _took(self, taken: Acceptance) -> None:
        self._recorder.acceptances.append(taken)
        del self._recorder.acceptances[:-MAX_ACCEPTANCES]
        self._came(taken.remote_address)

    def _came(self, remote: str) -> None:
        if remote not in self._remotes:
            self._remotes.append(remote)

    async def _note(self, table: list[Row], now: float) -> None:
        """Note who listens, where that changed, and stand in where nobody does."""
        own = self._own.inodes
        listed = [
            row
            for row in table
            if row.state == "LISTEN" and row.local_port in self._ports and row.inode not in own
        ]
        holders = frozenset((row.local, row.local_port, row.inode) for row in listed)
        state = (tuple(row.waiting for row in listed), tuple(self._remotes))
        since = now - self._noted
        if (
            holders == self._holders
            and since < NOTE_SECONDS
            and (state == self._state or since < BUSY_SECONDS)
        ):
            return
        self._holders, self._state, self._noted = holders, state, now
        recorder = self._recorder
        for records in (recorder.listeners, recorder.routes, recorder.returns):
            records.clear()
        recorder.own_listeners.clear()
        observer = Observer(
            recorder, self._own, self._cards, [*self._typed, *self._remotes], None, self._service
        )
        try:
            observer.listen(_plan(self._probes))
        finally:
            await observer.close()
        found = Listening(
            at=now,
            listeners=tuple(recorder.listeners),
            own_listeners=tuple(recorder.own_listeners),
            service_listeners=tuple(recorder.service_listeners),
            service_runs=recorder.service_runs,
        )
        last = self._listening[-1] if self._listening else None
        if last is not None and _alike(last, found):
            # Who listened did so all the while; only their queues are as they are now.
            self._listening[-1] = replace(found, at=last.at)
        else:
            self._listening.append(found)

    def freeze(self, offline: Offline) -> Offline:
        """Write the rows down; return `offline` with what is kept beside the records."""
        for seen in self._rows.values():
            self._recorder.connections[seen.row] = None
        return replace(
            offline,
            connections_since=self._rows_since,
            blind=tuple(self._blind),
            listening=tuple(self._listening),
            counted=self._sampler.counted(),
        )

    async def close(self) -> None:
        """Close what is open; safe to call again."""
        self._sampler.close()
        await self._own.close()


class _Seen:
    """A row of the socket table over time."""

    def __init__(self, row: Connection, now: float) -> None:
        self.row = row
        self.last = now
        self._waits = now if row.accepted is False else None

    def update(self, row: Connection, now: float) -> None:
        """Take what is seen now: the furthest state, and for how long no program took it."""
        self.last = now
        if self.row.state == "SYN_RECV" != row.state:
            self.row = replace(self.row, state=row.state)
        if row.accepted is None or self.row.accepted:
            return
        if row.accepted:
            self.row = replace(self.row, accepted=True, watched=0.0)
            return
        self._waits = now if self._waits is None else self._waits
        self.row = replace(self.row, accepted=False, watched=round(now - self._waits, 3))


def _alike(old: Listening, new: Listening) -> bool:
    """Whether the same programs listen at the same places."""

    def places(listening: Listening) -> set[object]:
        rows = (*listening.listeners, *listening.service_listeners)
        return {replace(row, waiting=None) for row in rows} | set(listening.own_listeners)

    return places(old) == places(new) and old.service_runs == new.service_runs


def _named(address: object) -> str:
    """An address to listen at: a link-local one needs its card."""
    text, card = str(getattr(address, "address", "")), str(getattr(address, "interface", ""))
    return f"{text}%{card}" if text.lower().startswith("fe80:") and "%" not in text else text


def _plan(probes: tuple[Probe, ...]) -> RoundPlan:
    return RoundPlan(number=0, kind=CONNECT, prober=SOURCE, attempts=1, probes=probes)
