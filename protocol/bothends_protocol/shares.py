"""Shares of connections that fare otherwise than the rest: parallel paths, and loss.

Two things let some connections fail and others not. On parallel paths each connection takes one
path by its addresses and ports (RFC 2992), always the same: where one of the paths filters, some
fail for ever. Loss takes one at a time: whatever failed comes through when it is tried again.
Pure: from the attempts of the rounds `plan.SAMPLE` and `plan.LOSS`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import msgspec

from .addresses import bare
from .evidence import Attempt, Evidence
from .plan import LOSS, MAX_WAVES, SAMPLE, TUPLES

__all__ = ["LEAST_TRIES", "Loss", "Paths", "rounds_of", "view_loss", "view_paths"]

LEAST_TRIES = 24
"""Tries of connections that fail again and again, all of them together."""

UNLIKELY, MORE_UNLIKELY = 0.05, 0.001
"""How likely it may be that loss alone makes as many fail at first; the latter where loss was
measured. What fails must fail in all further tries as well, which little loss does not do."""

TOO_MUCH = 0.6
"""Share of lost round trips from which on nothing is said of parallel paths: beyond it all ports of
a sample may fail at first by chance (0.6 to the 16th is 3 in 10,000), and the least delay of a busy
computer on top of that makes more fail than the measure of loss explains."""

_FAILED = ("silent", "refused", "unreachable")


class Paths(msgspec.Struct, frozen=True):
    """What connections from different ports met, each tried again while it failed."""

    through: int
    """Ports from which one came about."""
    failing: int
    """Ports from which none did, however often it was tried."""
    tries: int
    """Of those."""
    at_first: int = 0
    """Ports from which the first try failed."""
    kept_at_destination: bool | None = None
    """Whether requests from the failing ports reached the destination's card, and it answered
    none; None where its packets were not seen."""
    arrived: bool | None = None
    """Whether any of them reached it."""
    refused: bool = False
    """Whether each of their tries was refused, which no loss does."""
    later: bool | None = None
    """Whether fresh connections came about while these were tried for the last time; None where
    none was made."""

    @property
    def pure(self) -> bool:
        """Whether some of them fail for ever, and others do not."""
        return bool(self.through) and self.tries >= LEAST_TRIES

    def is_partial(self, loss: Loss | None) -> bool:
        """Return whether parallel paths are the reason, `loss` being what other requests met.

        A destination that still waits for the end of a handshake passes over further requests
        from the same port for half a second (net/ipv4/tcp_input.c, tcp_oow_rate_limited): so
        where much is lost some ports seem to fail for ever, and no more must fail at first than
        loss lets fail.
        """
        if not self.pure or self.kept_at_destination or self.later is False:
            return False
        if self.refused:
            return True
        if loss is None:
            return self.arrived is False
        if loss.interval[1] > TOO_MUCH:
            return False
        ports = self.through + self.failing
        limit = MORE_UNLIKELY if loss.told else UNLIKELY
        return _at_least(self.at_first, ports, loss.interval[1]) < limit


def _at_least(count: int, of: int, share: float) -> float:
    """The chance that `count` of `of` or more happen, each with the chance `share`."""
    return sum(math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(count, of + 1))


class Loss(msgspec.Struct, frozen=True):
    """Requests that stayed without an answer, of those by which loss was measured."""

    sent: int
    silent: int

    @property
    def interval(self) -> tuple[float, float]:
        """The share of round trips that are lost, by the score interval of Wilson (1927), 95 %."""
        share, z = self.silent / self.sent, 1.96
        middle = share + z * z / (2 * self.sent)
        half = z * math.sqrt(share * (1 - share) / self.sent + z * z / (4 * self.sent**2))
        below = 1 + z * z / self.sent
        return max((middle - half) / below, 0.0), min((middle + half) / below, 1.0)

    @property
    def told(self) -> bool:
        """Whether packets are lost: more than one, which may have been a moment."""
        return self.silent > 1


def rounds_of(kinds: Collection[str], *sides: Evidence | None) -> frozenset[int]:
    """Return the rounds of these kinds, by number."""
    return frozenset(
        plan.number
        for side in sides
        if side is not None
        for plan in side.rounds
        if plan.kind in kinds
    )


def view_paths(source: Evidence, table: Evidence | None, key: tuple[str, str, int]) -> Paths | None:
    """Return what a sample of connections to `key` met; None where none was taken.

    Neither where a queue of the destination may have been what let some of them fail.
    """
    sample = _of_kind(source, table, SAMPLE, key)
    if not sample or len(sample) > _MOST or _overflowed(table, {a.round for a in sample}):
        return None
    planned = _ports(source, table)
    mine = [a for a in sample if a.local_port in planned]
    fresh = [a.outcome == "connected" for a in sample if a.local_port not in planned]
    through = {a.local_port for a in mine if a.outcome == "connected"}
    failed = Counter(
        a.local_port for a in mine if a.outcome in _FAILED and a.local_port not in through
    )
    first = {a.local_port: a.outcome for a in reversed(mine)}
    came, answered = _seen(table, key[2], [a for a in mine if a.local_port in failed])
    return Paths(
        through=len(through),
        failing=len(failed),
        tries=failed.total(),
        at_first=sum(outcome in _FAILED for outcome in first.values()),
        kept_at_destination=None if came is None else came and not answered,
        arrived=came,
        refused=bool(failed) and all(a.outcome != "silent" for a in mine if a.local_port in failed),
        later=any(fresh) if fresh else None,
    )


_MOST = TUPLES * MAX_WAVES
"""Attempts of a sample that any honest side makes at most."""


def _ports(source: Evidence, table: Evidence | None) -> frozenset[int]:
    plans = (*source.rounds, *(() if table is None else table.rounds))
    return frozenset(
        port for plan in plans if plan.kind == SAMPLE for port in plan.local_ports[:TUPLES]
    )


def _seen(
    table: Evidence | None, port: int, failing: Sequence[Attempt]
) -> tuple[bool | None, bool | None]:
    """Whether these requests came to the destination's card, and answers left it.

    A NAT may have given them other ports: they are known by their tags.
    """
    if table is None or not any(
        w.name == "packets" and w.available and not w.lost for w in table.witnesses
    ):
        return None, None
    tags, ports = {a.tag for a in failing if a.tag}, {a.local_port for a in failing}
    came = {
        s.source_port
        for s in table.sightings
        if s.way == "in"
        and s.flags == "S"
        and s.destination_port == port
        and (s.mss in tags if tags else s.source_port in ports)
    }
    answered = any(
        s.way == "out" and s.source_port == port and s.destination_port in came
        for s in table.sightings
        if s.icmp is None
    )
    return bool(came), answered


def view_loss(source: Evidence, table: Evidence | None, address: str) -> Loss | None:
    """Return what was lost of the requests by which that was measured; None where none was.

    None of them answered is no loss: then the port is closed to them.
    """
    rounds = rounds_of((LOSS,), source, table)
    mine = [a for a in source.attempts if a.round in rounds and bare(a.address) == bare(address)]
    sent = sum(a.outcome in ("connected", "silent") for a in mine)
    silent = sum(a.outcome == "silent" for a in mine)
    return Loss(sent=sent, silent=silent) if sent > 0 and silent < sent else None


def _of_kind(
    source: Evidence, table: Evidence | None, kind: str, key: tuple[str, str, int]
) -> list[Attempt]:
    rounds = rounds_of((kind,), source, table)
    return [
        a for a in source.attempts if a.round in rounds and (a.transport, a.address, a.port) == key
    ]


_QUEUES = (
    "TcpExt.ListenOverflows",
    "TcpExt.ListenDrops",
    "TcpExt.TCPReqQFullDoCookies",
    "TcpExt.TCPReqQFullDrop",
)


def _overflowed(table: Evidence | None, rounds: set[int]) -> bool:
    readings = [s for s in (() if table is None else table.samples) if s.round in rounds]
    rows = [s.values[name] for s in readings for name in _QUEUES if name in s.values]
    return any(row[0] != row[-1] for row in rows if row)
