"""Pairs of evidence for tests of what saves, pastes, masks and combines it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from msgspec.structs import replace

from bothends_protocol.code import parse_code
from bothends_protocol.evidence import (
    Connection,
    Evidence,
    Firewall,
    Icmp,
    MatchingRule,
    Neighbour,
    Route,
    Sighting,
    Target,
)
from bothends_protocol.pairing import DESTINATION, SOURCE, Keys
from bothends_protocol.sealed import SALT_SIZE, seal
from bothends_protocol.wire import pack
from evidence_builder import (
    CARD,
    CARD_OF_STRANGER,
    DROPPED,
    HERE,
    LOST,
    OPEN,
    PORT,
    ROUTER,
    THERE,
    Fate,
    Story,
)

__all__ = ["CODE", "KEYS", "OTHER_CODE", "STORIES", "met", "sealed_pair", "unmet", "with_strangers"]

CODE = parse_code("7-abandon-ability-able")
OTHER_CODE = parse_code("7-abandon-ability-about")
KEYS = Keys(bytes(range(32)))

_REFUSED = Fate(delivered=False, answer="reset", returned="reset", outcome="refused")
_TOLD = Icmp(kind=3, code=13, sender=ROUTER)
_BETWEEN = Fate(
    arrived=False,
    delivered=False,
    answer="",
    returned="icmp",
    outcome="refused",
    error="ECONNREFUSED",
    icmp=_TOLD,
)


def _next_hop(state: str, hardware: str | None = None, hop: str = THERE) -> Neighbour:
    return Neighbour(
        destination=THERE, next_hop=hop, interface="eth0", state=state, round=1, hardware=hardware
    )


STORIES: Mapping[str, Story] = {
    "open": Story(),
    "open, nobody privileged": Story(source_sees=False, destination_sees=False),
    "dropped": Story(fates=(DROPPED,) * 3),
    "dropped, nobody privileged": Story(
        fates=(DROPPED,) * 15, source_sees=False, destination_sees=False
    ),
    "lost between": Story(fates=(LOST,) * 15),
    "refused": Story(fates=(_REFUSED,) * 3),
    "refused by a router": Story(fates=(_BETWEEN,) * 3),
    "not running": Story(listening=(), fates=(OPEN,)),
    "loopback only": Story(listening=("127.0.0.1",), fates=(DROPPED,) * 3),
    "IPv6 only": Story(listening=("fd00::20",), fates=(_REFUSED,) * 3),
    "another address": Story(listening=("192.168.7.21",), more_addresses=("192.168.7.21",)),
    "behind a NAT": Story(fates=(DROPPED,) * 3, seen_as="198.51.100.9"),
    "behind a NAT that changes numbers": Story(
        fates=(DROPPED,) * 3, seen_as="198.51.100.9", new_numbers=True
    ),
    "no such host": Story(
        fates=(LOST,) * 3, neighbour=_next_hop("failed"), source_sees=False, to="192.168.7.77"
    ),
    "another machine": Story(
        fates=(LOST,) * 15, neighbour=_next_hop("reachable", CARD_OF_STRANGER)
    ),
    "its own card": Story(fates=(LOST,) * 15, neighbour=_next_hop("reachable", CARD)),
    "no route": Story(
        fates=(Fate(left=False, outcome="no-route", error="ENETUNREACH", returned=""),) * 3,
        routes=(Route(destination=THERE, error="ENETUNREACH"),),
    ),
    "no way back": Story(
        fates=(DROPPED,) * 3, way_back=(Route(destination=HERE, error="ENETUNREACH"),)
    ),
    "a name": Story(targets=(Target(text="nas.example", error="no such name"),)),
    "IPv6": Story(fates=(DROPPED,) * 3, to="fd00::20", more_addresses=("fd00::20",)),
    "public": Story(fates=(LOST,) * 15, to="203.0.113.7"),
    "the other way": Story(prober=DESTINATION, both_ways=True, fates=(DROPPED,) * 3),
    "many ports": Story(
        ports=tuple(range(PORT, PORT + 20)), by_port={PORT + 3: (DROPPED,) * 3}, fates=(OPEN,)
    ),
    "hung": Story(takes=False),
    "queue full": Story(fates=(DROPPED,) * 3, queue=(129, 128)),
    "another program": Story(wanted="backupd", holder=("httpd",)),
    "another port": Story(wanted="backupd", listening=(), wanted_on=(5000,), fates=(_REFUSED,)),
}


def with_strangers(story: Story) -> tuple[Evidence, Evidence]:
    """The evidence of a story with much beside it that has nothing to do with it."""
    source, destination = story.evidence()
    strange = Sighting(
        at=0.3,
        way="in",
        interface="eth0",
        transport="tcp",
        source="192.168.7.99",
        source_port=999,
        destination=THERE,
        destination_port=PORT,
        flags="S",
        seq=77,
        ttl=3,
    )
    row = Connection(
        round=1,
        transport="tcp",
        state="ESTABLISHED",
        local_address=THERE,
        local_port=PORT,
        remote_address="192.168.7.98",
        remote_port=998,
    )
    rule = MatchingRule(
        transport="tcp",
        address=story.address,
        port=PORT,
        answer=False,
        text=f"ip saddr {HERE} drop",
        verdict="drop",
        certain=True,
    )
    facts = replace(
        destination.facts,
        hostname="secret-host",
        firewalls=(Firewall(name="ufw", active=True, detail=f"lets {HERE} in"),),
        notes=("Avast seems to be installed (opt/avast of 192.168.7.44)", "seen at 192.168.7.55"),
    )
    contact = replace(source.contact, refused=(f"{THERE}:24242: connection refused",))
    return replace(source, contact=contact), replace(
        destination,
        facts=facts,
        sightings=(*destination.sightings, *[strange] * bool(destination.sightings)),
        connections=(*destination.connections, row),
        rules=(rule,),
    )


def met(story: Story) -> tuple[Evidence, Evidence]:
    """The evidence of two that had met."""
    return story.evidence()


def unmet(story: Story) -> tuple[Evidence, Evidence]:
    """The same of two that never met."""
    source, destination = story.evidence()
    return replace(source, session=b""), replace(destination, session=b"")


def sealed_pair(source: Evidence, destination: Evidence, salt: int = 1) -> tuple[bytes, bytes]:
    """The files that the two sides save."""
    raw = {SOURCE: pack(source), DESTINATION: pack(destination)}
    keys = KEYS if source.session else None
    return tuple(  # type: ignore[return-value]
        seal(
            raw[role],
            code=CODE,
            salt=bytes([salt + len(role)]) * SALT_SIZE,
            keys=keys,
            peer=hashlib.sha256(raw[peer]).digest() if keys else b"",
        )
        for role, peer in ((SOURCE, DESTINATION), (DESTINATION, SOURCE))
    )
