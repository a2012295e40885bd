"""What a few ports that were tested in depth say of all the others of a sweep.

Ports of one fate (`sweeps`) are one check with those of them that were tested in
depth, as long as these came to one finding. Where they did not, or none of them
was tested, or a port got no request, nothing is claimed of the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from .addresses import bare
from .ports import PortSet
from .sweeps import Sweep, choose

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
    free: bool = False
    """Whether no program listens on them, since the agent itself did."""

    @property
    def untried(self) -> bool:
        """Whether they got no request."""
        return self.why == _UNTRIED


class Spread(msgspec.Struct, frozen=True):
    """For each group of ports that were tested in depth, the ports that it stands for."""

    also: tuple[tuple[int, ...], ...]
    left: tuple[Apart, ...] = ()


_DIFFER = (
    "Of these ports, which answered alike, a few were tested in depth and did not all turn out the "
    "same: what holds for the others is not known."
)
_NONE = "These ports got a request each, and too few tests in depth told what holds for them."
_UNSEEN = (
    "Nobody saw of each of these ports how far its request got, so that those which fare alike may "
    "be stopped by different things. Run as root, both sides see it, unless packets are lost."
)
_HELD = (
    "Programs listen on these ports and take connections, as far as their system does that for "
    "them. Not each of them was tested in depth."
)
_UNTRIED = (
    "These ports got no request: a router is crossed, which so many may fill (--fast on both sides "
    "sends them all); or a side may open few sockets only; or this address is one of several; or "
    "the time ran out."
)


def spread_over(
    groups: Sequence[tuple[object, Sequence[_Place]]],
    sweep: Sweep | None,
    wanted: Sequence[PortSet],
    *,
    seeks: bool = False,
) -> Spread:
    """Return what `groups`, those that were tested in depth, stand for in a sweep.

    Each is what was found, for comparison (None where it says nothing of others), and the places
    where. `wanted` are the ports that the
    destination's user named. `seeks` as in `sweeps.choose`.
    """
    if sweep is None:
        return Spread(also=tuple(() for _ in groups))
    at = bare(sweep.address)
    tcp = [part for part in wanted if part.transport == "tcp"]
    everything = {port for part in tcp for port in part}
    alone = [first for part in tcp for first, last in part.ranges if first == last]
    needed = set(choose(sweep, alone, seeks=seeks))
    found: dict[str, dict[int, int]] = {at: {}}
    """By address and port: the group in which it ended."""
    for index, (_, places) in enumerate(groups):
        for transport, address, port in places:
            if transport == "tcp":
                found.setdefault(bare(address), {})[port] = index
    group_of = found[at]
    also: list[list[int]] = [[] for _ in groups]
    left: dict[tuple[str, str, tuple[int, ...], str, bool], list[int]] = {}
    for ports in sweep.alike():
        rest = [port for port in ports if port not in group_of]
        like = tuple(sorted({group_of[port] for port in ports if port in group_of}))
        like = _telling(like, groups) if sweep.taken(ports[0]) else like
        kinds = _kinds(groups[index][0] for index in like)
        whole = all(port in group_of for port in ports if port in needed)
        if len(kinds) == 1 and whole and sweep.placed(ports[0]):
            also[like[0]] += rest
        elif rest:
            why = _why(sweep, ports[0], len(kinds) if whole else 0)
            met = sweep.outcome(ports[0]), sweep.free(ports[0])
            left.setdefault((sweep.address, why, like, *met), []).extend(rest)
    for address, tested in found.items():
        known = tested.keys() | (sweep.fates.keys() if address == at else set())
        if untried := sorted(everything - known):
            left[address, _UNTRIED, (), "", False] = untried
    return Spread(
        also=tuple(tuple(sorted(ports)) for ports in also),
        left=tuple(
            Apart(address, tuple(sorted(ports)), why, like, outcome, free)
            for (address, why, like, outcome, free), ports in left.items()
        ),
    )


def _telling(
    like: tuple[int, ...], groups: Sequence[tuple[object, Sequence[_Place]]]
) -> tuple[int, ...]:
    """Leave out the groups that say nothing of others.

    Where the agent itself took a connection at each port, those that tell are enough.
    """
    return tuple(index for index in like if groups[index][0] is not None)


def _kinds(found: Iterable[object]) -> set[object]:
    """What was found, without repeats; nothing where any of it says nothing of others."""
    kinds = set(found)
    return set() if None in kinds else kinds


def _why(sweep: Sweep, port: int, kinds: int) -> str:
    if sweep.held(port):
        return _HELD
    if not kinds:
        return _NONE
    return _DIFFER if kinds > 1 else _UNSEEN
