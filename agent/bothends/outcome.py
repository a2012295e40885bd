"""What a run ends with."""

from __future__ import annotations

import msgspec

from bothends_protocol.evidence import HostFacts
from bothends_protocol.onesided import Alone
from bothends_protocol.outside_facts import OutsideFacts
from bothends_protocol.timeline import Timeline
from bothends_protocol.verdict import Verdict

from .saving import Kept

__all__ = ["Outcome"]


class Outcome(msgspec.Struct):
    """What a run ends with, or one of its tests."""

    verdict: Verdict
    source: HostFacts | None = None
    destination: HostFacts | None = None
    outside: dict[str, OutsideFacts] = msgspec.field(default_factory=dict)
    """By role: what is known of a side from outside."""
    contact: dict[str, object] = msgspec.field(default_factory=dict)
    seconds: dict[str, float] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    alone: Alone | None = None
    """Without contact: what this side knows alone."""
    kept: Kept | None = None
    """What there is to save; None where the run was over before there was anything."""
    timeline: Timeline | None = None
    """With --watch: what changed when."""
    interrupted: bool = False
    """Whether it was ended here with Ctrl-C, after a verdict."""
