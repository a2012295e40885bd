"""What the two agents' own segments tell of large packets on the way (`sizes`).

Large data in either direction breaks a connection, so each direction of the way
counts, for every check between the two addresses at which it was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from .addresses import bare
from .evidence import Evidence, Sized
from .sizes import CONTROL, FROM, NATURAL, TO, WAYS, swallowed

__all__ = ["CODE", "Large", "large_packets"]

CODE = "network.mtu"


class Large(msgspec.Struct, frozen=True):
    """What is known of large packets between the two sides of a check."""

    because: tuple[str, ...] = ()
    """How it is known that full packets vanish; empty where they do not."""
    hurts: bool = False
    """Whether they vanish one way, and the sender's system there finds what passes by itself."""
    notes: tuple[str, ...] = ()
    fits: int = 0
    """Bytes of the largest packet that came through each way that swallows them; 0: not known."""
    untold: str = ""
    """What to say where all else is well and either direction was not found out."""


class _Way(msgspec.Struct, frozen=True):
    """One direction, as the check has it: from `sender` to `receiver`."""

    sender: str
    receiver: str
    rows: dict[int, Sized]

    @property
    def natural(self) -> Sized | None:
        return self.rows.get(NATURAL)

    @property
    def swallows(self) -> bool:
        natural, control = self.natural, self.rows.get(CONTROL)
        return natural is not None and control is not None and swallowed(natural, control)

    @property
    def searches(self) -> bool:
        return self.natural is not None and self.natural.searches

    @property
    def largest(self) -> int:
        return max((row.packet for row in self.rows.values() if row.passed), default=0)

    @property
    def smallest_lost(self) -> int:
        lost = (r.packet for r in self.rows.values() if not r.passed and r.packet > self.largest)
        return min(lost, default=0)


def large_packets(prober: Evidence, observer: Evidence, address: str) -> Large:
    """Return what is known of large packets between `prober` and the observer's `address`.

    Roles are those of the check: its source is who opens the connection.
    """
    ways = list(_ways(prober, observer, bare(address)))
    closed = [way for way in ways if way.swallows]
    notes = tuple(_fitted(way) for way in ways if way.natural and way.natural.fitted)
    if not closed:
        return Large(notes=notes, untold=_untold(prober, observer, ways))
    blocking = [way for way in closed if not way.searches]
    found = [line for way in blocking for line in _seen(way)]
    well = [_well(way) for way in ways if way.natural and way.natural.passed]
    slow = [line for way in closed if way.searches for line in (*_seen(way), _searched(way))]
    return Large(
        because=(*found, *well) if blocking else (),
        hurts=bool(slow),
        notes=(*slow, *notes),
        fits=min(way.largest for way in closed),
    )


def _untold(prober: Evidence, observer: Evidence, ways: Iterable[_Way]) -> str:
    if sum(way.natural is not None and bool(way.natural.passed) for way in ways) == len(WAYS):
        return ""
    measured = bool(prober.sized or observer.sized)
    why = "" if measured else _NO_WAY.get(prober.contact.path, "")
    if not why and not measured:
        return ""  # nothing was to be found out: evidence of before
    return (
        "Whether large packets get through was not found out"
        f"{f', since the two agents met {why}' if why else ''}. Where connections come about and "
        "then stand still, that is what to look at."
    )


_NO_WAY = {"punched": "by UDP", "rendezvous": "at a meeting point only"}
"""Ways to meet on which neither may be able to dial the other's control port by TCP."""


def _ways(prober: Evidence, observer: Evidence, address: str) -> Iterator[_Way]:
    """Both directions, as far as one of the two measured them at that address."""
    there = [row for row in prober.sized if bare(row.address) == address]
    back = [row for row in observer.sized if bare(row.local) == address]
    for sender, receiver in (("source", "destination"), ("destination", "source")):
        ahead = sender == "source"
        rows = _of(there, TO if ahead else FROM) or _of(back, FROM if ahead else TO)
        if rows:
            yield _Way(sender, receiver, rows)


def _of(rows: Iterable[Sized], way: str) -> dict[int, Sized]:
    return {row.asked: row for row in rows if row.way == way and way in WAYS}


def _seen(way: _Way) -> Iterator[str]:
    natural, control = way.natural, way.rows[CONTROL]
    if natural is None:
        return
    again = f" The {way.sender}'s system sent them {natural.again} times more." * bool(
        natural.again
    )
    yield (
        f"From the {way.sender} to the {way.receiver} none of {natural.begun} full packets of "
        f"{natural.packet:,} bytes came through, each on a connection of its own between the two "
        f"agents; beside them {control.passed} of {control.begun} of {control.packet:,} bytes "
        f"did.{again}"
    )
    largest, lost = way.largest, way.smallest_lost
    if lost and lost < natural.packet:
        yield (
            f"The largest that came through that way had {largest:,} bytes, and none of {lost:,} "
            "bytes or more did."
        )


def _searched(way: _Way) -> str:
    return (
        f"The {way.sender}'s system finds the size that passes by itself (tcp_mtu_probing), but on "
        "each connection only after some seconds."
    )


def _well(way: _Way) -> str:
    packet = way.natural.packet if way.natural else 0
    return (
        f"From the {way.sender} to the {way.receiver} full packets of {packet:,} bytes come "
        "through."
    )


def _fitted(way: _Way) -> str:
    natural = way.natural
    packet, fitted = (natural.packet, natural.fitted) if natural else (0, 0)
    return (
        f"From the {way.sender} to the {way.receiver} packets of {packet:,} bytes are too large, "
        f"and the way says so: TCP then takes {fitted:,} bytes."
    )
