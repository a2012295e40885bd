"""Collects a run's raw evidence and freezes it into one document.

Every part of the agent that sees something writes it here, as it was; nothing
is judged. After `freeze` nothing more is taken.
"""

from __future__ import annotations

import time

import msgspec

from bothends_protocol.evidence import (
    EVIDENCE_FORMAT,
    Acceptance,
    Attempt,
    Burst,
    Connection,
    ContactFacts,
    Evidence,
    HopProbe,
    HostFacts,
    Listener,
    MatchingRule,
    NatBehaviour,
    Neighbour,
    OpenedMapping,
    OwnListener,
    Pinhole,
    Queue,
    Return,
    RoundPlan,
    Route,
    RouterWord,
    Samples,
    SeenAs,
    SelfConnect,
    Sighting,
    Sized,
    Swept,
    Target,
    Witness,
)

__all__ = ["Recorder"]


class Recorder(msgspec.Struct):
    """The evidence of one side, while it grows."""

    role: str
    started: float = msgspec.field(default_factory=time.monotonic)
    attempts: list[Attempt] = msgspec.field(default_factory=list)
    hop_probes: list[HopProbe] = msgspec.field(default_factory=list)
    back_probes: list[HopProbe] = msgspec.field(default_factory=list)
    acceptances: list[Acceptance] = msgspec.field(default_factory=list)
    sightings: list[Sighting] = msgspec.field(default_factory=list)
    own_listeners: list[OwnListener] = msgspec.field(default_factory=list)
    listeners: dict[Listener, None] = msgspec.field(default_factory=dict)
    bursts: list[Burst] = msgspec.field(default_factory=list)
    samples: list[Samples] = msgspec.field(default_factory=list)
    service_listeners: list[Listener] = msgspec.field(default_factory=list)
    service_runs: bool | None = None
    connections: dict[Connection, None] = msgspec.field(default_factory=dict)
    queues: list[Queue] = msgspec.field(default_factory=list)
    routes: dict[Route, None] = msgspec.field(default_factory=dict)
    returns: dict[Return, None] = msgspec.field(default_factory=dict)
    neighbours: list[Neighbour] = msgspec.field(default_factory=list)
    gateways: tuple[Neighbour, ...] = ()
    rules: list[MatchingRule] = msgspec.field(default_factory=list)
    self_connects: list[SelfConnect] = msgspec.field(default_factory=list)
    seen_as: list[SeenAs] = msgspec.field(default_factory=list)
    confirmed: tuple[str, ...] = ()
    router_words: list[RouterWord] = msgspec.field(default_factory=list)
    opened: list[OpenedMapping] = msgspec.field(default_factory=list)
    behaviours: list[NatBehaviour] = msgspec.field(default_factory=list)
    pinholes: list[Pinhole] = msgspec.field(default_factory=list)
    sized: tuple[Sized, ...] = ()
    swept: list[Swept] = msgspec.field(default_factory=list)
    witnesses: dict[str, Witness] = msgspec.field(default_factory=dict)

    def clock(self) -> float:
        """Return the seconds since this run began."""
        return time.monotonic() - self.started

    def freeze(  # noqa: PLR0913  each is a fact of its own
        self,
        *,
        session: bytes,
        facts: HostFacts,
        contact: ContactFacts,
        rounds: list[RoundPlan],
        ports: tuple[str, ...] = (),
        service: str | None = None,
        targets: tuple[Target, ...] = (),
        peers: tuple[Target, ...] = (),
        both_ways: bool = False,
        suggest: bool = False,
    ) -> Evidence:
        """Return everything recorded as the evidence of this run."""
        return Evidence(
            format=EVIDENCE_FORMAT,
            role=self.role,
            session=session,
            facts=facts,
            contact=contact,
            ports=ports,
            service=service,
            targets=targets,
            peers=peers,
            both_ways=both_ways,
            suggest=suggest,
            rounds=tuple(rounds),
            attempts=tuple(self.attempts),
            hop_probes=tuple(self.hop_probes),
            back_probes=tuple(self.back_probes),
            sightings=tuple(self.sightings),
            witnesses=tuple(self.witnesses.values()),
            own_listeners=tuple(self.own_listeners),
            acceptances=tuple(self.acceptances),
            listeners=tuple(self.listeners),
            connections=tuple(self.connections),
            queues=tuple(self.queues),
            service_listeners=tuple(self.service_listeners),
            service_runs=self.service_runs,
            bursts=tuple(self.bursts),
            samples=tuple(self.samples),
            routes=tuple(self.routes),
            returns=tuple(self.returns),
            neighbours=tuple(self.neighbours),
            gateways=self.gateways,
            rules=tuple(self.rules),
            self_connects=tuple(self.self_connects),
            seen_as=tuple(self.seen_as),
            confirmed=self.confirmed,
            router_words=tuple(self.router_words),
            opened=tuple(self.opened),
            behaviours=tuple(self.behaviours),
            pinholes=tuple(self.pinholes),
            sized=self.sized,
            swept=tuple(self.swept),
        )
