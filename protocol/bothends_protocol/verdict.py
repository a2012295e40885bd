"""The joint verdict: the document that both sides print, equal to the byte.

These types are the contract `bothends-verdict/1` (docs/verdict.schema.json);
fields may be added, never changed. Texts say "on the destination", never
"here", since the same words stand on both screens. `judge` makes verdicts,
the agent's renderers show them; nothing is decided in this module.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "EXIT_STATUS",
    "SEGMENTS",
    "VERDICT_FORMAT",
    "Blocker",
    "Check",
    "Fix",
    "Segment",
    "Suggestion",
    "Verdict",
]

VERDICT_FORMAT = "bothends-verdict/1"

SEGMENTS = ("source", "network", "nat", "destination", "service")
"""The stretches of the way, in the order in which a packet meets them."""

EXIT_STATUS = {"open": 0, "blocked": 1, "undetermined": 3, "no-contact": 4}
"""Exit status of the agents by the status of the verdict."""


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the parts of a verdict."""


class Fix(_Part, frozen=True):
    """One way to remove a cause; `argv` is the command, empty where it is done by hand."""

    on: str
    """`source`, `destination` or `router`."""
    title: str
    steps: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()


class Blocker(_Part, frozen=True):
    """A cause that was found, how it is known, and what to do about it."""

    code: str
    confidence: str
    """`proven` (a witness for the very packets) or `likely`."""
    because: tuple[str, ...]
    fix: tuple[Fix, ...] = ()


class Segment(_Part, frozen=True):
    """One stretch of the way."""

    name: str
    status: str
    """`clear`, `blocked`, `unknown` or `not-reached`."""
    because: tuple[str, ...] = ()


class Check(_Part, frozen=True):
    """One direction, transport, address and set of ports with one finding."""

    direction: str
    transport: str
    address: str
    ports: str
    primary: bool
    status: str
    reachable: str
    warnings: tuple[str, ...] = ()
    blockers: tuple[Blocker, ...] = ()
    candidates: tuple[str, ...] = ()
    next_step: str = ""
    segments: tuple[Segment, ...] = ()
    notes: tuple[str, ...] = ()


class Suggestion(_Part, frozen=True):
    """Which port a listener should take: what `bothends suggest` was asked for."""

    transport: str
    port: int | None
    """One that nobody holds on the destination; None where there is none to suggest."""
    ready: bool
    """Whether the source reaches it as things are; else `change` is to be mended first."""
    change: str = ""
    """The one cause in the way of `ports`; empty where each of them has several."""
    ports: str = ""
    """All free ports of which the same is known, as numbers and ranges."""
    in_use: str = ""
    """Ports that programs hold."""


class Verdict(_Part, frozen=True):
    """What both sides agree on. `verdict_id` is None where they could not agree any more."""

    verdict_id: str | None
    status: str
    """`open`, `blocked`, `undetermined` or `no-contact`."""
    reachable: str
    """`yes`, `no` or `unknown`."""
    blockers: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    summary: str = ""
    checks: tuple[Check, ...] = ()
    directions: dict[str, dict[str, object]] | None = None
    suggestion: Suggestion | None = None
    """Only where one was asked for."""
