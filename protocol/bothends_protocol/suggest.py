"""Which free port a listener should take: what `bothends suggest` asks for.

From the checks of all ports, of which the judge says how the source fares that
connects to a listener of the agent's own. A port is suggested where that got
through at each address that decides; where none did, one of those for which a
single cause is to be removed, of the cause that keeps most of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from .bearings import words
from .ports import PortSet, format_ports, parse_ports
from .verdict import Check, Suggestion

__all__ = ["Checked", "suggest", "suggested"]

RANGES_TOLD = 4
"""Ranges in a sentence; of more it names how many ports there are."""


class Checked(msgspec.Struct, frozen=True):
    """A check, and what else is known of its ports."""

    check: Check
    free: bool = False
    """Whether nobody holds them on the destination, so that the agent itself could listen."""
    tested: tuple[int, ...] = ()
    """Those of them that were tested in depth."""
    in_use: tuple[int, ...] = ()
    """Those of them that programs hold."""
    untried: bool = False
    """Whether nobody holds them, and the agent itself could not listen all the same."""

    @property
    def ports(self) -> frozenset[int]:
        """All of them."""
        (part,) = parse_ports(f"{self.check.transport}:{self.check.ports}")
        return frozenset(part)


def suggest(found: Sequence[Checked], transports: Iterable[str]) -> Suggestion | None:
    """Return what is to be suggested, of the first of `transports` for which anything is.

    None where there are no checks.
    """
    ready = [part for part in found if part.check.primary]
    best: Suggestion | None = None
    for transport in transports:
        parts = [part for part in ready if part.check.transport == transport]
        made = _of_one(transport, parts) if parts else None
        if made is not None and (best is None or _rank(made) > _rank(best)):
            best = made
    return best


def _rank(made: Suggestion) -> tuple[bool, bool]:
    return made.ready, made.port is not None


def _of_one(transport: str, parts: Sequence[Checked]) -> Suggestion:
    in_use = frozenset(port for part in parts for port in part.in_use)
    everything = frozenset[int]().union(*(part.ports for part in parts))
    # At each address that decides a port is in one check.
    free = everything.difference(in_use, *(part.ports for part in parts if not part.free))
    shut = [part for part in parts if part.check.status != "open"]
    through = free.difference(*(part.ports for part in shut))
    tested = frozenset(port for part in parts for port in part.tested)
    held = format_ports(in_use)
    if through:
        return Suggestion(
            transport=transport,
            port=_first(through, tested),
            ready=True,
            ports=format_ports(through),
            in_use=held,
        )
    kept = _codes(shut, free)
    if not kept:
        return Suggestion(transport=transport, port=None, ready=False, in_use=held)
    # The fewest causes, and of those what keeps the most ports.
    codes = min(kept, key=lambda codes: (len(codes), -len(kept[codes]), sorted(codes)))
    return Suggestion(
        transport=transport,
        port=_first(kept[codes], tested),
        ready=False,
        change=next(iter(codes)) if len(codes) == 1 else "",
        ports=format_ports(kept[codes]),
        in_use=held,
    )


def _codes(shut: Iterable[Checked], free: frozenset[int]) -> dict[frozenset[str], set[int]]:
    """Return the free ports by the causes that keep them, at all addresses that decide."""
    of: dict[int, frozenset[str]] = {}
    unsure: set[int] = set()
    for part in shut:
        ports = free & part.ports
        if part.check.status != "blocked":
            unsure |= ports
        codes = frozenset(blocker.code for blocker in part.check.blockers)
        for port in ports:
            of[port] = of.get(port, frozenset()) | codes
    found: dict[frozenset[str], set[int]] = {}
    for port, codes in of.items():
        if port not in unsure:
            found.setdefault(codes, set()).add(port)
    return found


def _first(ports: Iterable[int], tested: frozenset[int]) -> int:
    """The lowest of the ports that were tested in depth, if any was."""
    ports = sorted(ports)
    return next((port for port in ports if port in tested), ports[0])


def suggested(suggestion: Suggestion, found: Sequence[Checked]) -> tuple[tuple[Check, ...], str]:
    """Return the checks with those as primary that the suggestion rests on, and the sentence."""
    if suggestion.port is None:
        return tuple(part.check for part in found), _why_none(suggestion, found)
    rests = [
        part.check.primary
        and part.check.transport == suggestion.transport
        and suggestion.port in part.ports
        for part in found
    ]
    checks = tuple(
        msgspec.structs.replace(part.check, primary=primary)
        for part, primary in zip(found, rests, strict=True)
    )
    return checks, _sentence(suggestion, checks)


def _sentence(suggestion: Suggestion, checks: Iterable[Check]) -> str:
    (part,) = parse_ports(f"{suggestion.transport}:{suggestion.ports}")
    name = f"{suggestion.transport.upper()} port {suggestion.port}"
    if suggestion.ready:
        more = _more(part)
        return (
            f"Use {name}: it is free on the destination, and the source reaches it"
            f"{f' (the same holds for {more})' if more else ''}."
        )
    rests = [check for check in checks if check.primary]
    codes = dict.fromkeys(blocker.code for check in rests for blocker in check.blockers)
    direction = next((check.direction for check in rests), "")
    causes = ", and ".join(words(code, direction, suggestion.transport) for code in codes)
    count = f"{len(part):,} of them" if len(part) > 1 else "one of them"
    return (
        "No port that is free on the destination is known to be reachable as things are. What is "
        f"in the way of {count}: {causes}. Mend that for {name}, and use it."
    )


def _more(part: PortSet) -> str:
    if len(part) <= 1:
        return ""
    if len(part.ranges) > RANGES_TOLD:
        return f"{len(part) - 1:,} others"
    return str(part)


def _why_none(suggestion: Suggestion, found: Iterable[Checked]) -> str:
    parts = [part for part in found if part.check.primary]
    if any(part.free for part in parts):
        return (
            "No port that is free on the destination is known to be reachable, and it is not known "
            "what is in the way of any."
        )
    everything = frozenset[int]().union(*(part.ports for part in parts))
    held = frozenset(port for part in parts for port in part.in_use)
    if everything - held and any(part.untried for part in parts):
        return (
            "None of the ports could be tried for a new listener: bothends itself could not listen "
            "on those that no program holds (below 1024 that takes root)."
        )
    if everything - held:
        return "Of none of the ports is it known that it is free and that the source reaches it."
    (part,) = parse_ports(f"{suggestion.transport}:{format_ports(held)}")
    what = str(part) if len(part.ranges) <= RANGES_TOLD else f"all {len(part):,}"
    return f"None of the ports is free: programs on the destination hold {what}."
