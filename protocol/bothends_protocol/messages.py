"""The messages two authenticated agents exchange, each a struct with its tag.

They travel inside `conversation` envelopes, numbered, so that a message is
taken once and in order however often the link breaks.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .evidence import Port, Probe, RoundPlan, Swept, Target, Text
from .timeline import MAX_CHANGES, Change, What
from .wire import pack, unpack

__all__ = [
    "BYES",
    "REFUSALS",
    "Again",
    "Agreed",
    "Barrier",
    "Bye",
    "Changed",
    "Done",
    "EvidencePart",
    "Finish",
    "Listed",
    "Mark",
    "Message",
    "Offer",
    "Ready",
    "Round",
    "Seen",
    "SeenPort",
    "Told",
    "Tried",
    "Where",
    "read_message",
    "write_message",
]

REFUSALS = {
    "wrong-code": "the words of the code differ",
    "other-number": "that agent waits for another code number",
    "same-role": "both agents were started in the same role",
    "same-agent": "that is this very agent",
    "busy": "that agent is already paired with another",
    "used-up": "the code was retired after too many wrong tries",
}
"""Why a pairing is refused: the word on the wire, and what it means."""

BYES = {
    "interrupted": "bothends was interrupted on the other computer",
    "timeout": "the time allowed ran out on the other computer",
    "failed": "bothends failed on the other computer",
    "ended": "the live repair loop was ended on the other computer",
}
"""Why a side leaves before the verdict, or (`ended`) when it has seen enough of them."""


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag=True):
    """Base of all messages."""


MAX_NAMED = 64
"""Addresses, targets or port sets in one offer: more than anybody types."""

MAX_SEEN = 8
"""Public addresses that a side names as its own, or holds confirmed of the other: one of each IP
version, a few that changed, and as many that others have seen."""

MAX_HELD_BYTES = 2**15
"""Bytes in which one offer may name ports: half of all, drawn at random, take 11 KB."""

Names = Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_NAMED)]


class Offer(_Message, frozen=True):
    """First message of both sides: what this side is asked to find out."""

    ports: Names = ()
    """Destination: port sets such as `tcp:4242`."""
    targets: Annotated[tuple[Target, ...], msgspec.Meta(max_length=MAX_NAMED)] = ()
    """Source: addresses that the user typed as the real application's."""
    typed: Names = ()
    """The --peer addresses the user typed, resolved."""
    peers: Annotated[tuple[Target, ...], msgspec.Meta(max_length=MAX_NAMED)] = ()
    """Of them the names that stand for several addresses."""
    addresses: Annotated[tuple[Text, ...], msgspec.Meta(max_length=1024)] = ()
    """This side's own addresses."""
    remote: str = ""
    """The other side's address as this link shows it."""
    proven: Names = ()
    """Addresses of the other side at which its handshake succeeded."""
    confirmed: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_SEEN)] = ()
    """Public addresses that the other side named as its own and the meeting point confirmed."""
    both_ways: bool = False
    timeout: float = 60.0
    """Seconds from pairing to verdict that this side allows."""
    watch: bool = False
    """Whether this side stays and tests again; then both do."""
    seen: Names = ()
    """Addresses under which this side is seen from outside, as it was told."""
    map: bool = False
    """Whether this side is to ask its router to forward ports, and to test through that."""
    control_port: Port = 0
    """Where this side waits for connections of the other; 0: it does not say."""
    room: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 0
    """Sockets that this side may have open at one time beside those it needs; 0: few."""
    routed: bool = False
    """Whether this side reaches the other by a router."""
    suggest: bool = False
    """Destination: whether a free port is sought that the source reaches."""
    fast: bool = False
    """Whether this side's user lets routers have as many requests as a segment."""
    held: Annotated[bytes, msgspec.Meta(max_length=MAX_HELD_BYTES)] = b""
    """Of the tested TCP ports those that programs listen on here, by `ports.pack_ports`."""


class Where(_Message, frozen=True):
    """Before the offers, where the two met at a meeting point: where the sender may be reached."""

    addresses: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_NAMED)] = ()
    """Its own addresses."""
    seen: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_SEEN)] = ()
    """Public addresses under which others see it."""
    port: Port = 0
    """Its control port."""


class Round(_Message, frozen=True):
    """The leader announces a round; the observer arms its witnesses and says `Ready`."""

    plan: RoundPlan


class Ready(_Message, frozen=True):
    """The observer's witnesses are armed."""

    number: int
    own: tuple[tuple[str, str, int], ...] = ()
    """Transport, address and port of each place where the observer itself listens and speaks
    its challenge."""
    spare: bytes = b""
    """Of a sweep: ports of programs, which are to get no request (`ports.pack_ports`)."""
    gentle: bytes = b""
    """Of a sweep: ports of programs, where connections are not to be ended by a reset."""


class Mark(_Message, frozen=True):
    """The first SYN of a coded burst leaves right behind this message."""

    number: int


class Barrier(_Message, frozen=True):
    """The prober has sent all probes of the round: nothing more is on the way."""

    number: int


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one side's own counters say of a coded burst: enough to know whether to repeat it."""

    reached: tuple[int, ...] = ()
    """Stages that it got to, by number (`stages.Stage`)."""
    missed: tuple[int, ...] = ()
    """Stages that it did not get to; those that are unknown are in neither."""
    forwarded: bool = False
    refused: bool = False
    """Whether the TCP of the side refused it."""


class SeenPort(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the observer's witnesses hold of one probe; None where no witness can tell."""

    address: str
    port: int
    arrived: int | None = None
    answered: int | None = None
    delivered: int | None = None
    established: int | None = None
    """Those of them whose handshake was seen to be complete; None where nobody could see it."""
    closing: int = 0
    """Those of them that the program has ended already."""
    unlisted: bool = False
    """Whether requests may have come through that its socket table does not show (to a full SYN
    queue, or to where the host leads them)."""
    told: Told | None = None
    """Of a burst."""


class Seen(_Message, frozen=True):
    """The observer's short answer to a barrier, enough to plan the next round."""

    number: int
    ports: tuple[SeenPort, ...] = ()
    resent: int = 0
    """Segments that the sender's end of the contact had to send again up to now."""
    swept: Swept | None = None
    """Of a sweep."""


class Tried(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of one probe's attempts in a round."""

    probe: Probe
    attempts: int
    connected: int
    silent: int
    explained: int = 0
    """Outcomes that explain themselves: refused by ICMP with its sender, or by this very system;
    or connected to the other agent's own listener."""
    left: int | None = None
    """Requests that the packet witness saw leave; None without one."""
    told: Told | None = None
    """Of a burst."""
    mapped: bool = False
    """Whether the machine with the address was seen to pass requests to the port on."""
    routed: bool = False
    """Whether a router is crossed on the way."""
    void: int = 0
    """Further attempts that met a moment without a route: they say nothing and are made again."""
    beside: int = 0
    """Connections of a trace, which are closed at once: the other side sees them among the rest."""


class Done(_Message, frozen=True):
    """A prober that does not lead has all outcomes of the round: the leader may go on."""

    number: int
    tried: tuple[Tried, ...] = ()
    resent: int = 0
    """As in `Seen`."""
    swept: Swept | None = None
    """Of a sweep."""


class Finish(_Message, frozen=True):
    """The leader ends the probing: both freeze their evidence and send it."""


class EvidencePart(_Message, frozen=True):
    """A piece of the sender's frozen evidence, in order."""

    data: bytes
    last: bool


class Agreed(_Message, frozen=True):
    """The sender holds both evidences: their digests, and that of the verdict it came to."""

    source: bytes
    destination: bytes
    verdict: bytes


class Bye(_Message, frozen=True):
    """The sender ends the run for good, in whatever state it is; `reason` is one of `BYES`."""

    reason: str


class Changed(_Message, frozen=True):
    """Something changed on the sender's side: the leader is to test again."""

    what: What
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """Of a program that listens; 0 for all else."""


class Again(_Message, frozen=True):
    """The leader begins a further test; the other side answers with the same.

    What comes before the answer still belongs to the test before.
    """

    number: Annotated[int, msgspec.Meta(ge=2, le=2**32)]
    """Tests are counted from 1."""


class Listed(_Message, frozen=True):
    """The leader ends a further test, and says what is to be listed of it."""

    number: Annotated[int, msgspec.Meta(ge=2, le=2**32)]
    verdict_id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Empty: it did not come to a verdict in time."""
    changed: Annotated[tuple[Change, ...], msgspec.Meta(max_length=MAX_CHANGES)] = ()


Message = (
    Bye
    | Where
    | Offer
    | Round
    | Ready
    | Mark
    | Barrier
    | Seen
    | Done
    | Finish
    | EvidencePart
    | Agreed
    | Changed
    | Again
    | Listed
)


def write_message(message: Message) -> bytes:
    """Return `message` as bytes."""
    return pack(message)


def read_message(data: bytes) -> Message:
    """Return the message in `data`; raise `ProtocolError` for anything else."""
    return unpack(data, Message)  # type: ignore[arg-type]
