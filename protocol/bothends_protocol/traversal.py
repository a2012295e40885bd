"""Whether two agents behind NATs can meet by UDP, each sending to what the other is seen as.

Each NAT is asked two things. Is its mapping **predictable**: does what is sent to the
other side leave from the address and port under which a STUN server saw this side?
And what does its **filter** let in? (RFC 5128, 3.3; the words are those of RFC 4787,
4.1 and 5.)

- Both predictable: each sends to the right place, and by that opens its own filter.
- One not: the other cannot know where it comes from until something of it is let in,
  so the predictable one must let in its address from any port.
- Neither: nothing that either sends goes to the right place, unless one filter lets in
  anybody. What that one answers comes from its address but from yet another port, so
  the other filter must not look at ports.

Agents send from a fixed port to a fixed port, so a NAT that keeps ports is predictable.
What is not known may be anything: where that makes a difference, the answer is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .evidence import NatBehaviour

__all__ = [
    "ADDRESS_AND_PORT_DEPENDENT",
    "ADDRESS_DEPENDENT",
    "ENDPOINT_INDEPENDENT",
    "NONE",
    "UNKNOWN",
    "punching_can_work",
    "punching_in_words",
]

NONE = "none"
ENDPOINT_INDEPENDENT = "endpoint-independent"
ADDRESS_DEPENDENT = "address-dependent"
ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
UNKNOWN = "unknown"
"""What a `NatBehaviour` says of mapping and filtering."""

_ANYBODY, _ADDRESS, _PORT = range(3)
"""What a filter goes by: nothing, the sender's address, or its port too."""

_FILTERS = {
    NONE: _ANYBODY,
    ENDPOINT_INDEPENDENT: _ANYBODY,
    ADDRESS_DEPENDENT: _ADDRESS,
    ADDRESS_AND_PORT_DEPENDENT: _PORT,
}


class _Reading(NamedTuple):
    """One of the ways in which a NAT may behave, for all that is known of it."""

    predictable: bool
    filter: int


def punching_can_work(a: NatBehaviour, b: NatBehaviour) -> bool | None:
    """Return whether two behind such NATs can meet by UDP; None where that is not known.

    The same whichever is `a`.
    """
    answers = {_meet(one, other) for one in _readings(a) for other in _readings(b)}
    return answers.pop() if len(answers) == 1 else None


def punching_in_words(source: NatBehaviour, destination: NatBehaviour) -> str:
    """Return one sentence for people about `punching_can_work` of the two."""
    answer = punching_can_work(source, destination)
    changing = _unpredictable({"source": source, "destination": destination})
    if answer is None:
        return "Whether the two can meet by UDP through their NATs is not known."
    if answer and changing:
        return f"The two can meet by UDP: {changing}, and what the filters let in is enough."
    if answer and all(_predictable(nat) == (True,) for nat in (source, destination)):
        return "The two can meet by UDP: each is seen under the same address and port by all."
    if answer:
        return "The two can meet by UDP: what the filters of their NATs let in is enough."
    return (
        f"The two cannot meet by UDP: {changing}, so that the other side cannot know "
        "where to send. A port forwarding or a meeting point is needed."
    )


def _meet(one: _Reading, other: _Reading) -> bool:
    if one.predictable and other.predictable:
        return True
    if one.predictable or other.predictable:
        known = one if one.predictable else other
        return known.filter in (_ANYBODY, _ADDRESS)
    return sorted((one.filter, other.filter)) in ([_ANYBODY, _ANYBODY], [_ANYBODY, _ADDRESS])


def _readings(nat: NatBehaviour) -> Iterator[_Reading]:
    known = _FILTERS.get(nat.filtering)
    for predictable in _predictable(nat):
        for value in (_ANYBODY, _ADDRESS, _PORT) if known is None else (known,):
            yield _Reading(predictable, value)


def _predictable(nat: NatBehaviour) -> tuple[bool, ...]:
    """Return what may be true of the mapping."""
    if nat.mapping in (NONE, ENDPOINT_INDEPENDENT):
        return (True,)
    depends = nat.mapping in (ADDRESS_DEPENDENT, ADDRESS_AND_PORT_DEPENDENT)
    if nat.keeps_port:
        # One that keeps the port, and yet shows different ones different things, has several
        # outside addresses.
        return (True, False) if depends else (True,)
    return (False,) if depends else (True, False)


def _unpredictable(sides: dict[str, NatBehaviour]) -> str:
    changing = [name for name, nat in sides.items() if _predictable(nat) == (False,)]
    if not changing:
        return ""
    whose = " and ".join(f"the {name}'s" for name in changing)
    if len(changing) == 1:
        return f"{whose} NAT takes another port for each other side"
    return f"{whose} NATs take another port for each other side"
