"""What waits in the queues of other programs' UDP sockets: whether the program reads it at all.

The kernel takes datagrams for a program that hangs as it does for any other
(/proc/net/udp, rx_queue and drops; readable by all). Where nothing waits that
the other side has sent, for a filter may keep it off, this host sends one empty
datagram to its own service, over its own loopback path.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection, Iterable

from bothends_protocol.evidence import Probe, Queue

from .connects import name_of
from .witness.sockets import Row, read_udp_table

__all__ = ["QueueWatch"]

UNREAD_SECONDS = 1.5
"""What a program has not read for so long it will not read (`observer.HUNG_SECONDS`)."""

PAUSE = 0.02

READ_SECONDS = 0.02
"""For a program that runs to read an empty datagram of its own host."""

MAX_WATCHED = 16
"""Sockets that are watched, and services that are sent a datagram: of many a sample."""


class QueueWatch:
    """Looks at the queues of sockets from a round's beginning to its end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._before: dict[int, Row] = {}
        self._stuck: dict[int, int] = {}
        """How much waited, by socket, where a program was found not to read."""
        self._asked: set[Probe] = set()

    def begin(self, ports: Collection[int], own: Collection[int]) -> None:
        """Note what waits on `ports` now, but for the sockets with an inode in `own`."""
        rows = [r for r in _rows(ports) if r.inode not in own]
        self._before = {row.inode: row for row in rows[:MAX_WATCHED]}

    def ask(self, probes: Iterable[Probe]) -> bool:
        """Send an empty datagram to this host's own services at `probes`; whether any was sent."""
        sent = False
        for probe in probes:
            if probe in self._asked or len(self._asked) >= MAX_WATCHED:
                continue
            self._asked.add(probe)
            with contextlib.suppress(OSError):
                kind, name = name_of(probe.address, probe.port)
                with socket.socket(kind, socket.SOCK_DGRAM) as sock:
                    sock.setblocking(False)
                    sock.sendto(b"", name)
                    sent = True
        return sent

    @property
    def waits(self) -> bool:
        """Whether anything waits in any of the sockets."""
        return any(row.waiting for row in self._now().values())

    async def end(self, number: int) -> tuple[Queue, ...]:
        """Watch the queues that are not empty until they are read; return what was seen."""
        began = self._clock()
        last, read = self._now(), set[int]()
        while self._clock() - began < UNREAD_SECONDS:
            if not any(self._is_open(row, read) for row in last.values()):
                break
            await asyncio.sleep(PAUSE)
            now = self._now()
            read |= {inode for inode, row in now.items() if row.waiting < last[inode].waiting}
            last = now
        watched = round(self._clock() - began, 3)
        for inode, row in last.items():
            if row.waiting and inode not in read and watched >= UNREAD_SECONDS:
                self._stuck[inode] = row.waiting
        return tuple(
            Queue(
                round=number,
                transport="udp",
                address=row.local,
                port=row.local_port,
                before=self._before[inode].waiting,
                after=row.waiting,
                read=inode in read,
                drops=max(row.drops - self._before[inode].drops, 0),
                watched=watched,
            )
            for inode, row in last.items()
        )

    def _is_open(self, row: Row, read: Collection[int]) -> bool:
        """Whether it is worth a further look."""
        if not row.waiting or row.inode in read:
            return False
        return row.waiting < self._stuck.get(row.inode, row.waiting + 1)

    def _now(self) -> dict[int, Row]:
        rows = {row.inode: row for row in _rows({r.local_port for r in self._before.values()})}
        # One that was closed meanwhile is as it was.
        return {inode: rows.get(inode, before) for inode, before in self._before.items()}


def _rows(ports: Collection[int]) -> list[Row]:
    return [row for row in read_udp_table() or () if row.local_port in ports and row.inode]
