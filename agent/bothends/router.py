"""What the default gateway says when it is asked: PCP, NAT-PMP and UPnP, side by side.

Nothing is mapped here; that is `port_opener`. What a router says is evidence of what it
says, and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bothends_protocol.addresses import family, normal
from bothends_protocol.evidence import Mapping, RouterWord
from bothends_protocol.portmap import outside_address

from .port_control import (
    NOT_OUTSIDE,
    SILENCE_SECONDS,
    Link,
    NoAnswer,
    Refusal,
    ask_pcp,
    ask_pmp,
)
from .upnp import find_igd

__all__ = ["MAX_ASKED", "ask_router"]

MAX_ASKED = 64
"""Ports that UPnP is asked about, one question each."""

MAX_DETAIL = 240
"""Letters of a detail."""


async def ask_router(
    gateway: str, local: str, ports: Sequence[tuple[str, int]], *, seconds: float
) -> tuple[RouterWord, ...]:
    """Return what `gateway` says by each protocol, asked from the own address `local`.

    `ports` are transport and outside port; only UPnP can be asked about them. A router that is
    silent is given up after `SILENCE_SECONDS`, a conversation with one that answers after
    `seconds`; what was said by then is kept. Over IPv6 there is PCP alone. Raises nothing that
    a router can cause.
    """
    link = Link(normal(gateway), normal(local))
    wait = min(seconds, SILENCE_SECONDS)
    asking = [ask_pcp(link, wait)]
    if family(gateway.partition("%")[0]) == 4:
        asking += [ask_pmp(link, wait), _ask_upnp(link, ports, seconds)]
    return tuple(await asyncio.gather(*asking))


async def _ask_upnp(link: Link, ports: Sequence[tuple[str, int]], seconds: float) -> RouterWord:
    said = _Said()
    try:
        async with asyncio.timeout(seconds), find_igd(link) as device:
            said.outcome = "answers"
            try:
                said.take_outside(await device.outside())
            except Refusal as refusal:
                said.details.append(str(refusal))
            for transport, port in ports[:MAX_ASKED]:
                said.take_mapping(await device.mapping(transport, port))
    except NoAnswer as none:
        said.stop(none.outcome, none.detail)
    except TimeoutError:
        said.stop("unusable", "it did not answer all in time")
    return said.word(link.gateway)


class _Said:
    """What was said so far, which is kept when the rest does not come."""

    def __init__(self) -> None:
        self.outcome = ""
        self.details: list[str] = []
        self._outside: str | None = None
        self._mappings: list[Mapping] = []

    def take_outside(self, said: str) -> None:
        self._outside = outside_address(said)
        if self._outside is None:
            shown = "".join(letter if letter.isprintable() else " " for letter in said[:40])
            self.details.append(f"{NOT_OUTSIDE}: {shown}")

    def take_mapping(self, mapping: Mapping | None) -> None:
        if mapping is not None:
            self._mappings.append(mapping)

    def stop(self, outcome: str, detail: str) -> None:
        """Note why there is no more; once it has said something, it is one that answers."""
        if not (self._outside or self._mappings or self.details):
            self.outcome = outcome
        if detail:
            self.details.append(detail)

    def word(self, gateway: str) -> RouterWord:
        return RouterWord(
            protocol="upnp",
            router=gateway,
            outcome=self.outcome,
            detail="; ".join(self.details)[:MAX_DETAIL],
            outside=self._outside,
            mappings=tuple(self._mappings),
        )
