"""Shortened evidence: what no verdict rests on is left out, so that the rest can be pasted.

Packets, rows and connections of third parties; when a packet was seen, and by
which card; where a counter stood when it was first read. With the evidence of both
sides at hand, as after a joint verdict, nothing is believed: the shortened pair is
judged too, and where one word comes out otherwise, less is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from msgspec.structs import replace

from .addresses import bare, is_loopback
from .columns import from_columns, to_columns
from .evidence import Connection, Evidence, Neighbour, Samples, Sighting, Sized
from .judge import judge
from .pairing import SOURCE
from .sizes import NATURAL, WAYS

__all__ = ["Short", "shorten"]

_MODULUS = 2**32
_ROUGH, _FINE = 3, 6
"""Decimals of the times: a thousandth of a second does, unless a fit comes out otherwise."""


class Short(NamedTuple):
    """Shortened evidence, and to how many decimals its times are kept (`columns`)."""

    evidence: Evidence
    digits: int


def shorten(evidence: Evidence, other: Evidence | None = None) -> Short:
    """Return `evidence` without what no verdict rests on.

    `other` is the other side's evidence, where there is a joint verdict. Both sides then come to
    leave out the same.
    """
    if evidence.offline is not None:
        return Short(_recording(evidence), _FINE)
    if other is None:
        return Short(_less(evidence, None), _FINE)
    pair = (evidence, other) if evidence.role == SOURCE else (other, evidence)
    expected = _told(*pair)
    for digits in (_ROUGH, _FINE):
        short = [_rounded(_less(*way), digits) for way in (pair, pair[::-1])]
        if _told(short[0], short[1]) == expected:
            return Short(short[pair.index(evidence)], digits)
    return Short(evidence, _FINE)


def _rounded(evidence: Evidence, digits: int) -> Evidence:
    return from_columns(to_columns(evidence, digits))


def _told(source: Evidence, destination: Evidence) -> object:
    return replace(judge(source, destination), verdict_id=None)


def _recording(evidence: Evidence) -> Evidence:
    """That of a side which never met the other: its times are what lays the two together."""
    return replace(
        evidence,
        contact=replace(evidence.contact, refused=()),
        sightings=tuple(replace(s, interface="", ttl=0) for s in evidence.sightings),
        neighbours=tuple(_last(evidence.neighbours)),
    )


def _less(evidence: Evidence, other: Evidence | None) -> Evidence:
    return replace(
        evidence,
        facts=replace(
            evidence.facts,
            addresses=tuple(a for a in evidence.facts.addresses if not is_loopback(a.address)),
        ),
        contact=replace(evidence.contact, refused=()),
        attempts=tuple(replace(a, started=0.0, ended=None) for a in evidence.attempts),
        sightings=tuple(_sightings(evidence, other)),
        acceptances=tuple(replace(a, at=0.0) for a in evidence.acceptances),
        listeners=tuple(replace(row, pid=None) for row in evidence.listeners),
        service_listeners=tuple(replace(row, pid=None) for row in evidence.service_listeners),
        connections=tuple(_connections(evidence.connections, other)),
        samples=tuple(_from_nought(samples) for samples in evidence.samples),
        neighbours=tuple(_last(evidence.neighbours)),
        sized=_telling(evidence.sized),
    )


def _telling(rows: tuple[Sized, ...]) -> tuple[Sized, ...]:
    """All of them, or none where full packets pass both ways: then nothing is said of them."""
    full = [row for row in rows if row.asked == NATURAL]
    well = all(row.passed and not row.fitted for row in full)
    return () if well and {row.way for row in full} == set(WAYS) else rows


def _sightings(evidence: Evidence, other: Evidence | None) -> Iterable[Sighting]:
    """Those about attempts of either side, each kind of packet once."""
    seen = (replace(s, at=0.0, interface="", ttl=0) for s in evidence.sightings)
    listed = list(dict.fromkeys(seen))
    if other is None:
        return listed
    both = (*evidence.attempts, *other.attempts)
    ports = {a.local_port for a in both}
    numbers = {s.seq for s in (*evidence.sightings, *other.sightings) if _opens(s, ports)}
    # Behind a NAT the attempts have other ports, and then they are known by the address.
    seen_as = bare(evidence.contact.remote)
    translated = seen_as not in {bare(a.local_address) for a in other.attempts}
    return [
        s
        for s in listed
        if ports & {s.source_port, s.destination_port}
        or numbers & {s.seq, (s.ack - 1) % _MODULUS}
        or (translated and other.attempts and seen_as in (bare(s.source), bare(s.destination)))
    ]


def _opens(s: Sighting, ports: Collection[int]) -> bool:
    return s.flags == "S" and s.source_port in ports


def _connections(rows: Iterable[Connection], other: Evidence | None) -> Iterable[Connection]:
    if other is None:
        return rows
    ends = {(bare(a.local_address), a.local_port) for a in other.attempts}
    return [row for row in rows if (bare(row.remote_address), row.remote_port) in ends]


def _from_nought(samples: Samples) -> Samples:
    """The same readings as differences to the first: no more is asked of them."""
    values = {
        name: tuple(value - row[0] for value in row) for name, row in samples.values.items() if row
    }
    return replace(samples, values=values)


def _last(neighbours: Iterable[Neighbour]) -> Iterable[Neighbour]:
    """The last state of each, which is the one that counts, in the order in which they came."""
    last = {(bare(n.destination), n.next_hop): n for n in neighbours}
    return [n for n in neighbours if last[bare(n.destination), n.next_hop] is n]
