"""Which of this host's own firewall rules match what was tested: read once, quoted in the evidence.

Read only where something did not work, beside the rounds, so that an open port
costs nothing. What is written down is that a rule matches; whether a packet was
dropped is for the witnesses to say.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping

from bothends_protocol.addresses import bare
from bothends_protocol.evidence import MAX_TEXT, MatchingRule, Probe, Witness

from .recorder import Recorder
from .witness.rules import Packet, RuleSet, find, read_ruleset

__all__ = ["OwnRules"]

MAX_QUOTED = 16
"""Probes whose rules are looked up: a firewall that stops thousands does it by few rules."""


class OwnRules:
    """The rules of this host, for the packets of its own side."""

    def __init__(self, recorder: Recorder, *, privileged: bool) -> None:
        """`privileged`: whether there is any hope; nobody else may list a rule set."""
        self._recorder = recorder
        self._privileged = privileged
        self._reading: asyncio.Task[RuleSet | None] | None = None
        self._sent: dict[Probe, str] = {}
        self._awaited: dict[Probe, str] = {}

    def want_sent(self, probes: Iterable[Probe], cards: Mapping[str, str]) -> None:
        """Ask what becomes here of requests sent at `probes`, and of their answers.

        `cards` are the interfaces by which the addresses of the probes are reached.
        """
        self._want(self._sent, probes, cards)

    def want_awaited(self, probes: Iterable[Probe], cards: Mapping[str, str]) -> None:
        """Ask what becomes here of requests that come for `probes`, and of their answers.

        `cards` are the interfaces that have the addresses of the probes.
        """
        self._want(self._awaited, probes, cards)

    def _want(
        self, wanted: dict[Probe, str], probes: Iterable[Probe], cards: Mapping[str, str]
    ) -> None:
        for probe in probes:
            if len(wanted) < MAX_QUOTED:
                wanted[probe] = cards.get(bare(probe.address), "")
        if wanted and self._reading is None and self._privileged:
            self._reading = asyncio.get_running_loop().create_task(read_ruleset())

    async def write(self, peer: str) -> None:
        """Write the rules found into the evidence; `peer` is the other side's address."""
        if self._reading is None:
            return  # all went well, or they cannot be read
        ruleset = await self._reading
        self._recorder.witnesses["rules"] = Witness(name="rules", available=ruleset is not None)
        if ruleset is not None:
            self._recorder.rules = list(dict.fromkeys(self._matching(ruleset, peer)))

    def _matching(self, ruleset: RuleSet, peer: str) -> Iterator[MatchingRule]:
        for probe, card in self._sent.items():
            local, port = self._local(probe)
            request = Packet(
                transport=probe.transport,
                source=local,
                destination=bare(probe.address),
                destination_port=probe.port,
                source_port=port,
                interface=card or None,
            )
            yield from self._quotes(ruleset, probe, request, "output")
        for probe, card in self._awaited.items():
            request = Packet(
                transport=probe.transport,
                source=bare(peer),
                destination=bare(probe.address),
                destination_port=probe.port,
                interface=card or None,
            )
            yield from self._quotes(ruleset, probe, request, "input")

    def _local(self, probe: Probe) -> tuple[str, int | None]:
        for attempt in self._recorder.attempts:
            tried = (attempt.transport, attempt.address, attempt.port)
            if tried == (probe.transport, probe.address, probe.port) and attempt.local_address:
                return attempt.local_address, attempt.local_port
        return "", None

    @staticmethod
    def _quotes(
        ruleset: RuleSet, probe: Probe, request: Packet, hook: str
    ) -> Iterator[MatchingRule]:
        answer = Packet(
            transport=request.transport,
            source=request.destination,
            destination=request.source,
            destination_port=request.source_port,
            source_port=request.destination_port,
            interface=request.interface,
            answer=True,
        )
        for packet, place in ((request, hook), (answer, _OPPOSITE[hook])):
            quote = find(ruleset, place, packet)
            if quote is not None:
                yield MatchingRule(
                    transport=probe.transport,
                    address=probe.address,
                    port=probe.port,
                    answer=packet.answer,
                    text=_plain(quote.text),
                    verdict=quote.verdict,
                    certain=quote.certain,
                )

    async def close(self) -> None:
        """End the reading; safe to call again."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading


_OPPOSITE = {"input": "output", "output": "input"}


def _plain(text: str) -> str:
    """On one line, and no longer than a record may be."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"
