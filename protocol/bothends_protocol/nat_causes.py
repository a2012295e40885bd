"""The rules about routers that translate: which of them a journey fits.

Each takes the journey and what is known of the routers, and says True (confirmed by a witness of
its own), False (excluded) or None, like every rule in the table of `causes`. What each kind of
router answers to requests whose time runs out stands in docs/causes.md.
"""

from __future__ import annotations

from .addresses import bare, is_public
from .observations import Journey, Symptom
from .stages import Stage
from .translation import Translation

__all__ = [
    "kept_on_the_way",
    "leads_to_another_port",
    "not_forwarded",
    "not_led_back",
    "refused_on_the_way",
    "second_router",
    "taken_at_its_word",
    "to_another_machine",
    "to_another_port",
]

_SILENT = {Symptom.SILENT}


def not_forwarded(j: Journey, n: Translation) -> bool | None:
    """The router has no rule for the port."""
    if n.other_port is not None or n.unmasked:
        return False
    if n.mapped_at is not None and (n.single or not n.through_mapping):
        # It is passed on: of two routers the inner one may have no rule.
        return False if n.single else None
    if _lets_in_when_opened(n):
        return True
    if n.to_destination or n.double or (n.to_destination is False and _is_passed_on(j, n)):
        return False
    if n.together or (n.together is None and not n.from_afar):
        return None  # refused by the router: it may know its own outside address only from outside
    return True if n.single and _refused_by_holder(j, n) else None


def _lets_in_when_opened(n: Translation) -> bool:
    """Whether only the router kept requests away, whatever it says of the port.

    It let them in when it was asked to forward, or where it was opened from inside. The latter,
    where there are two routers, opens both, and a carrier may refuse them, too.
    """
    return _forwarded_at_last(n) or bool(n.through_pinhole and n.single and _says_nothing(n))


def _forwarded_at_last(n: Translation) -> bool:
    """Whether only the rule that the router was asked for brings requests in.

    One that passed the port on before had a rule already: it led somewhere else.
    """
    return bool(n.through_mapping and not (n.single and n.mapped_at is not None))


def _refused_by_holder(j: Journey, n: Translation) -> bool:
    """Whether the machine that has the address refuses, in its own name.

    It does so to every port that it does not pass on. A refusal that somebody before it forges
    comes from one hop nearer.
    """
    if not n.answered_by_holder or n.end is None or n.ours is not True:
        return False
    hop, outcome, sender = n.end
    if outcome == "unreachable" or sender:
        # Others than this one may be silent: of such errors only so many are sent (RFC 1812).
        return bare(sender) == bare(j.address)
    if j.symptoms == _SILENT:
        return False
    return outcome == "refused" and (n.refused_behind is True or hop == 1)


def to_another_machine(j: Journey, n: Translation) -> bool | None:
    """The router passes the port on, and not to the destination."""
    if _forwarded_at_last(n) or n.other_port is not None or n.unmasked:
        return False
    if n.mapping is not None and n.mapping.client is not None and n.mapping.enabled:
        if n.to_destination or _same_machine(n):
            return False
        return True if _is_passed_on(j, n) else None
    if n.mapped_at is None:
        return False if n.answered_by_holder or _says_nothing(n) else None
    return True if _answered_behind(j, n) else None


def _is_passed_on(j: Journey, n: Translation) -> bool:
    """Whether the packets bear out the router's word that it passes the port on.

    It says so of a request whose time runs out, or there is an answer. Where there is neither,
    its word is all there is.
    """
    return n.mapped_at is not None or j.symptoms != _SILENT


def _says_nothing(n: Translation) -> bool:
    """Whether the router keeps silent of requests to the port that expire.

    One that passes them on says so, if it ever does.
    """
    return n.speaks and n.way.last > 0 and n.way.falls_silent


def _answered_behind(j: Journey, n: Translation) -> bool:
    """Whether something behind the router answers, and the destination gets nothing."""
    if n.end is None or n.mapped_at is None or n.end[0] <= n.mapped_at or not missed(j):
        return False
    if n.double:
        return False  # it may be the inner router
    # A refusal by ICMP, and one that comes from no further than the router, may be its own.
    return not j.symptoms or (j.symptoms == {Symptom.RESET} and n.refused_behind is True)


def missed(j: Journey) -> bool:
    """Return whether no request reached the destination, as its witnesses show."""
    told = j.counted.get(Stage.ARRIVED)
    if told:
        return False
    if j.forwards is False and j.strays is False and j.trails and _stood_elsewhere(j):
        return True  # each stood, and who holds the port there had none of them
    # Behind its router one without a tag is not seen where it comes in at another port.
    behind = j.translation is not None and j.translation.ours is not False
    return told is False or (
        bool(j.trails)
        and all(t.arrived is False and (t.attempt.tag or not behind) for t in j.trails)
    )


def _stood_elsewhere(j: Journey) -> bool:
    return all(trail.connected and trail.delivered is False for trail in j.trails)


def _same_machine(n: Translation) -> bool:
    """Whether the router's mapping leads to the destination, at another port."""
    return (
        n.mapping is not None
        and n.mapping.client is not None
        and bare(n.mapping.client) in n.inside
    )


def to_another_port(j: Journey, n: Translation) -> bool | None:
    """The router passes the port on to another port of the destination."""
    if n.other_port is not None:
        return True
    if leads_to_another_port(n) and _is_passed_on(j, n):
        return True
    told = j.symptoms - _SILENT
    # A host refuses by ICMP now and then only.
    if _closed_there(j, told if j.transport == "udp" else j.symptoms):
        return True
    if j.symptoms == _SILENT or told - _closed(j) or n.answered_by_holder:
        return False
    if n.refused_behind is False:
        return False
    # Where nobody sees packets nobody sees at which port they come in.
    seen = any(trail.arrived for trail in j.trails) or missed(j) or bool(j.proven)
    # A service on that other port answers datagrams, and no table shows it.
    asked = j.transport == "tcp" or bool(told)
    refused = None if j.burst is None or not asked else j.burst.refused
    return False if seen or refused is False else None


def leads_to_another_port(n: Translation) -> bool:
    """Return whether the router says that the port leads to another one of the destination."""
    return _same_machine(n) and n.to_destination is False


def _closed(j: Journey) -> frozenset[Symptom]:
    """What a host's kernel says of a port on which nobody listens."""
    if j.transport == "tcp":
        return frozenset({Symptom.RESET})
    return frozenset({Symptom.ICMP}) if j.port_unreachable else frozenset()


def _closed_there(j: Journey, symptoms: frozenset[Symptom]) -> bool:
    """Whether the destination refuses them, as it does where nobody listens, while somebody does.

    So they come in at another port.
    """
    waits = j.own or bool(j.holders)
    # A socket of UDP does not show what it took.
    shown = j.transport == "udp" or all(trail.delivered is False for trail in j.trails)
    refused = j.burst is not None and j.burst.refused is True
    return bool(refused and waits and shown and j.trails and symptoms and symptoms == _closed(j))


def second_router(j: Journey, n: Translation) -> bool | None:
    """A second router, or the carrier's, translates before the destination's own."""
    if n.through_mapping or n.mapped_at is not None or n.single or not j.symptoms:
        return False  # and passes the port on, where it is there
    if n.to_destination is False or n.other_port is not None or n.unmasked:
        return bool(n.double)
    # A refusal from before the address is not that router's.
    return True if n.double and n.refused_behind is not False else None


def not_led_back(j: Journey, n: Translation) -> bool | None:
    """Both are behind one router, and it does not lead its own public address back inside."""
    if n.together is False:
        return False
    # By UDP a witness sees it of single answers: nothing of a way between looks at them.
    refused = bool(j.answered_from) or (j.burst is not None and j.burst.reset_here)
    straight = bool(n.together and refused)
    if n.unmasked or (straight and _from_inside(j, n)):
        return True  # the answer goes straight, from an address that the source did not ask
    elsewhere = n.ours is None and not is_public(j.address)
    if not j.failed or elsewhere:
        return False
    if straight or j.furthest >= Stage.ARRIVED:
        # The answer may go straight, and the source does not take it: it asked another address.
        return None if straight or (j.symptoms == _SILENT and j.stopped > Stage.REPLIED) else False
    if n.mapped_at is not None:
        return None if j.symptoms == _SILENT else False
    nothing = n.answered_by_holder or missed(j)
    return True if n.to_destination and n.together and nothing else None


def _from_inside(j: Journey, n: Translation) -> bool:
    """Whether the answers come from an inside address of the destination.

    A service of UDP may answer from another port, too, and then it is no router's doing.
    """
    return j.transport == "tcp" or not j.answered_from.isdisjoint(map(bare, n.inside))


def kept_on_the_way(j: Journey, n: Translation) -> bool | None:
    """Something before the router drops requests, or behind it and before the destination."""
    if n.stops_after is not None:
        # Before the first hop says anything it is the source's own filter, or something beside it.
        return True if n.stops_after > 0 or j.furthest >= Stage.LEFT else None
    if n.cut_in or n.through_pinhole or n.through_mapping or n.ours is False:
        return False
    if n.unmasked or n.other_port is not None or n.answered_by_holder:
        return False
    if n.together:
        return None if n.mapped_at is not None or not n.way.asked else False
    # A rule of before may win over the one that was asked for.
    forwarded = n.to_destination or (n.through_mapping is False and n.mapped_at is None)
    gone = j.furthest >= Stage.LEFT and missed(j)
    # Behind one router with the source, it is that router which does not lead back.
    far = n.together is False or n.from_afar
    return True if forwarded and gone and n.single and far else None


def refused_on_the_way(j: Journey, n: Translation) -> bool | None:
    """Something between the two refuses in somebody else's name."""
    if n.cut_in:
        if n.end is None or n.end[1] == "connected":
            return False
        # Where no hop before it said anything it may be the source's own filter.
        past = n.end[0] - 1 in n.way.expired or j.furthest >= Stage.LEFT
        return True if past else None
    came_in = n.through_pinhole or n.through_mapping or n.other_port is not None or n.unmasked
    if came_in or n.stops_after is not None or n.ours is False or n.refused_behind is True:
        return False
    behind = n.end is not None and n.mapped_at is not None and n.end[0] > n.mapped_at
    # The router's own filter refuses what it passes on: one hop nearer than who it passes it to.
    return True if behind and n.refused_behind is False and missed(j) else None


def taken_at_its_word(j: Journey) -> bool:
    """Return whether only the router says that it passes the port on: no packet shows it."""
    n = j.translation
    if n is None or n.mapped_at is not None or n.stops_after is not None:
        return False
    return bool(n.to_destination) or n.through_mapping is False
