"""What a few ports that were tested in depth say of all the others of a sweep.

Ports of one fate (`sweeps`) are one check with those of them that were tested in
depth, as long as these came to one finding. Where they did not, or none of them
was tested, or a port got no request, nothing is claimed of the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .addresses import bare
from .evidence import Evidence
from .pairing import DESTINATION
from .ports import parse_ports
from .sweeps import sweep_between

__all__ = ["Apart", "Spread", "spread_over"]

_Place = tuple[str, str, int]
"""Transport, address and port."""


class Apart(msgspec.Struct, frozen=True):
    """Ports of which nothing can be claimed, and why."""

    address: str
    ports: tuple[int, ...]
    why: str
    like: tuple[int, ...] = ()
    """The groups in which those of them ended that were tested in depth."""
    outcome: str = ""
    """What the sender met there (`sweeps.Sweep.outcome`)."""


class Spread(msgspec.Struct, frozen=True):
    """For each group of ports that were tested in depth, the ports that it stands for."""

    also: tuple[tuple[int, ...], ...]
    left: tuple[Apart, ...] = ()


_DIFFER = (
    "Of these ports, which answered alike, a few were tested in depth and did not all turn out the "
    "same: what holds for the others is not known."
)
_NONE = "These ports got a request each, and none of them was tested in depth."
_UNSEEN = (
    "No packets were seen on the destination, and its counters do not tell either how far the "
    "requests to these ports got: different things may stop them. As root on the destination it "
    "is seen for each."
)
_UNTRIED = (
    "These ports got no request: a router is crossed, which many at once may fill, or time ran out."
)


def spread_over(
    groups: Sequence[tuple[object, Sequence[_Place]]], prober: Evidence, observer: Evidence
) -> Spread:
    """Return what `groups`, those that were tested in depth, stand for in a sweep.

    Each is what was found, for comparison, and the places where.
    """
    sweep = sweep_between(prober, observer)
    if sweep is None:
        return Spread(also=tuple(() for _ in groups))
    at = bare(sweep.address)
    group_of = {
        port: index
        for index, (_, places) in enumerate(groups)
        for transport, address, port in places
        if transport == "tcp" and bare(address) == at
    }
    also: list[list[int]] = [[] for _ in groups]
    left: dict[tuple[str, tuple[int, ...], str], list[int]] = {}
    for ports in sweep.alike():
        rest = [port for port in ports if port not in group_of]
        like = tuple(sorted({group_of[port] for port in ports if port in group_of}))
        kinds = {groups[index][0] for index in like}
        seen = sweep.placed(ports[0])
        if len(kinds) == 1 and seen:
            also[like[0]] += rest
        elif rest:
            why = _NONE if not kinds else _DIFFER if len(kinds) > 1 else _UNSEEN
            left.setdefault((why, like, sweep.outcome(ports[0])), []).extend(rest)
    destination = observer if observer.role == DESTINATION else prober
    wanted = {
        port
        for text in destination.ports
        for part in parse_ports(text)
        if part.transport == "tcp"
        for port in part
    }
    if untried := sorted(wanted - sweep.fates.keys() - group_of.keys()):
        left[_UNTRIED, (), ""] = untried
    return Spread(
        also=tuple(tuple(sorted(ports)) for ports in also),
        left=tuple(
            Apart(sweep.address, tuple(sorted(ports)), why, like, outcome)
            for (why, like, outcome), ports in left.items()
        ),
    )
