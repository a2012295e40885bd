"""Verdicts and facts for tests of what shows them."""

from __future__ import annotations

from bothends_protocol.evidence import (
    Address,
    Firewall,
    HostFacts,
    Mapping,
    NatBehaviour,
    OpenedMapping,
    RouterWord,
    SeenAs,
)
from bothends_protocol.fixes import FixCase, fixes_for
from bothends_protocol.outside_facts import OutsideFacts
from bothends_protocol.verdict import SEGMENTS, Blocker, Check, Segment, Suggestion, Verdict

__all__ = ["ADDRESS", "OUTSIDE", "VERDICTS", "blocker", "check", "host", "segments"]

ADDRESS = "192.168.1.20"


def host(name: str, *, system: str = "Linux", privileged: bool = True) -> HostFacts:
    """Facts of a host called `name`, with ufw active."""
    return HostFacts(
        product="bothends",
        version="0.1.0",
        system=system,
        release="Debian GNU/Linux 12 (bookworm)",
        kernel="6.1.0",
        hostname=name,
        privileged=privileged,
        addresses=(Address(interface="eth0", address=ADDRESS, prefix=24),),
        firewalls=(Firewall(name="ufw", active=True),),
        notes=("a note of this host",),
    )


def blocker(code: str, confidence: str = "proven", *, system: str = "Linux") -> Blocker:
    """A blocker with its real fixes."""
    facts = host("any", system=system)
    return Blocker(
        code=code,
        confidence=confidence,
        because=(f"first reason for {code}", f"second reason for {code}"),
        fix=fixes_for(
            FixCase(
                code=code,
                transport="tcp",
                ports=((4242, 4242),),
                address=ADDRESS,
                source_address="192.168.1.9",
                source=facts,
                destination=facts,
            )
        ),
    )


def segments(*states: str) -> tuple[Segment, ...]:
    """Segments with these states, each clear one with a reason."""
    return tuple(
        Segment(name=name, status=state, because=(f"{name} let it pass",) * (state == "clear"))
        for name, state in zip(SEGMENTS, states, strict=True)
    )


def check(status: str, *blockers: Blocker, **changes: object) -> Check:
    """A check of port 4242 with this status."""
    states = {
        "open": ("clear",) * 5,
        "blocked": ("clear", "clear", "clear", "blocked", "not-reached"),
        "undetermined": ("clear", "unknown", "unknown", "unknown", "unknown"),
    }
    standard: dict[str, object] = {
        "direction": "source-to-destination",
        "transport": "tcp",
        "address": ADDRESS,
        "ports": "4242",
        "primary": True,
        "status": status,
        "reachable": {"open": "yes", "blocked": "no"}.get(status, "unknown"),
        "blockers": blockers,
        "candidates": tuple(item.code for item in blockers),
        "segments": segments(*states[status]),
    }
    return Check(**(standard | changes))  # type: ignore[arg-type]


_TWO = (blocker("destination.firewall-drop"), blocker("service.loopback-only", "likely"))
_BACK = check("blocked", blocker("source.firewall-reject"), direction="destination-to-source")
_GUESSES = ("destination.firewall-drop", "network.drop")
_ID = "3fa9c1e2b7d4005e9b21c7a0d5f3e864"

VERDICTS = {
    "open": Verdict(
        verdict_id=_ID,
        status="open",
        reachable="yes",
        warnings=("network.loss",),
        summary="TCP port 4242 can be reached.",
        checks=(
            check("open", warnings=("network.loss",)),
            check("blocked", _TWO[0], primary=False, address="fd00::20"),
        ),
    ),
    "blocked": Verdict(
        verdict_id=_ID,
        status="blocked",
        reachable="no",
        blockers=("destination.firewall-drop", "service.loopback-only"),
        candidates=("destination.firewall-drop", "service.loopback-only"),
        summary="A firewall on the destination drops connections to TCP port 4242.",
        checks=(check("blocked", *_TWO, notes=("a note of this check",)),),
    ),
    "both-ways": Verdict(
        verdict_id=_ID,
        status="blocked",
        reachable="no",
        blockers=("source.firewall-reject",),
        candidates=("source.firewall-reject",),
        summary="It works one way only.",
        checks=(check("open"), _BACK),
        directions={
            "source-to-destination": {"status": "open", "blockers": []},
            "destination-to-source": {"status": "blocked", "blockers": ["source.firewall-reject"]},
        },
    ),
    "suggest": Verdict(
        verdict_id=_ID,
        status="open",
        reachable="yes",
        summary="Use TCP port 4242: it is free on the destination, and the source reaches it.",
        checks=(check("open"),),
        suggestion=Suggestion(transport="tcp", port=4242, ready=True, ports="4242"),
    ),
    "undetermined": Verdict(
        verdict_id=_ID,
        status="undetermined",
        reachable="no",
        candidates=_GUESSES,
        summary="TCP port 4242 does not answer.",
        checks=(check("undetermined", candidates=_GUESSES, next_step="Ask the router."),),
    ),
    "name": Verdict(
        verdict_id=_ID,
        status="blocked",
        reachable="no",
        blockers=("source.name",),
        summary="The name does not resolve on the source.",
    ),
    "lost": Verdict(
        verdict_id=None,
        status="undetermined",
        reachable="unknown",
        summary="The two sides could not agree on a verdict.",
    ),
    "no-contact": Verdict(
        verdict_id=None,
        status="no-contact",
        reachable="unknown",
        summary="No contact with the source within 600 seconds.",
    ),
}

_ROUTER = "192.168.1.1"
_FAR = "address-and-port-dependent"

OUTSIDE = {
    "source": OutsideFacts(
        seen_as=(
            SeenAs(address="11.0.0.7", by="stun", said_by="11.0.9.2", port=61001, local_port=24242),
        ),
        nat=(NatBehaviour(server="11.0.9.2", mapping=_FAR, filtering=_FAR, keeps_port=False),),
    ),
    "destination": OutsideFacts(
        seen_as=(
            SeenAs(address="11.0.0.2", by="rendezvous", said_by="11.0.9.1"),
            SeenAs(address="11.0.0.2", by="stun", said_by="11.0.9.2", port=24242, local_port=24242),
        ),
        router=(
            RouterWord(
                protocol="upnp",
                router=_ROUTER,
                outcome="answers",
                outside="11.0.0.2",
                mappings=(
                    Mapping(transport="tcp", port=4242, client="192.168.1.30", client_port=4242),
                    Mapping(transport="tcp", port=4243),
                ),
            ),
            RouterWord(protocol="pcp", router=_ROUTER, outcome="refused", detail="it is off"),
            RouterWord(protocol="nat-pmp", router=_ROUTER, outcome="silent"),
        ),
        opened=(
            OpenedMapping(
                round=3,
                transport="tcp",
                port=4242,
                protocol="upnp",
                router=_ROUTER,
                outcome="refused",
                detail="taken",
            ),
        ),
        nat=(
            NatBehaviour(
                server="11.0.9.2",
                mapping="endpoint-independent",
                filtering=_FAR,
                keeps_port=True,
            ),
        ),
    ),
}
"""What is known of two sides from outside, by role."""
