"""The table of causes: where each one acts, what it looks like, what confirms it.

A **path cause** stops a connection request, or its answer, somewhere between
two stages of its journey (`observations.Stage`). The evidence brackets the
fault between the last stage reached and the first one not reached; a cause fits
when it acts inside that bracket, shows the symptom the source saw, and nothing
else speaks against it. The narrower the witnesses make the bracket, the fewer
causes fit. Exactly one, in a bracket of a single step: proven. Exactly one in a
wider bracket: likely, by elimination. Several: they are the candidates.

A **service cause** is a fact about who listens, and stands beside whatever is
wrong on the path.

The order of `PATH_CAUSES` is the published ranking: likeliest first.
To add a cause: one entry here, one in `fixes`, one scenario, one page of docs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from .addresses import bare, family, is_private, is_public
from .evidence import Listener
from .nat_causes import (
    kept_on_the_way,
    missed,
    not_forwarded,
    not_led_back,
    refused_on_the_way,
    second_router,
    taken_at_its_word,
    to_another_machine,
    to_another_port,
)
from .observations import Journey, Stage, Symptom, Trail, covers, loopback_only
from .services import is_named, is_supervisor
from .translation import Translation

__all__ = ["PATH_CAUSES", "SERVICE_CAUSES", "PathCause", "ServiceCause", "syn_queue_full"]

_SILENT = frozenset({Symptom.SILENT})
_REFUSED = frozenset({Symptom.RESET, Symptom.ICMP})
_ANY = _SILENT | _REFUSED

# RFC 792 and RFC 1812 (5.2.7.1), RFC 4443 (3.1): codes that say "no way on" as opposed to
# "not allowed". Filters can be told to send these too, so they exclude nothing.
_MISROUTED = frozenset({"TcpExt.IPReversePathFilter", "Ip.OutNoRoutes"})
"""Counters of packets from the wrong side, and of answers without a way."""

_ICMP4_UNREACHABLE = 3
_ICMP4_NO_WAY = (0, 1, 6, 7, 11, 12)
_ICMP6_UNREACHABLE = 1
_ICMP6_NO_WAY = (0, 2, 3)


class PathCause(msgspec.Struct, frozen=True):
    """Something that stops packets."""

    code: str
    acts: tuple[Stage, Stage]
    """It acts after the first of these stages and before the second."""
    symptoms: frozenset[Symptom]
    fits: Callable[[Journey], bool | None]
    """True: confirmed by a witness of its own; False: excluded; None: nothing known."""
    decide: str
    """The one action that would tell it from the other candidates."""
    likely: Callable[[Journey], bool] = lambda _j: False
    """Whether what confirms it is no witness, so that it is never called proven."""
    unseeing: str = ""
    """What would tell it as well, where the destination sees no packets."""


class ServiceCause(msgspec.Struct, frozen=True):
    """Something about the service itself; `found` tells whether it is so."""

    code: str
    found: Callable[[Journey], bool]
    because: Callable[[Journey], str]


def _no_route(j: Journey) -> bool | None:
    if j.route_error is not None:
        return True
    if _no_ports(j):
        return False
    errors = {trail.attempt.error for trail in j.failed}
    return j.symptoms == {Symptom.LOCAL} and errors <= {"ENETUNREACH", "EADDRNOTAVAIL"}


def _no_ports(j: Journey) -> bool:
    """There is a way and an address to come from, and still none is to be had (connect(2))."""
    errors = {trail.attempt.error for trail in j.failed}
    local = j.symptoms == {Symptom.LOCAL} and errors == {"EADDRNOTAVAIL"}
    return local and j.sourced and j.route_error is None


def _no_host(j: Journey) -> bool | None:
    if j.neighbour is None or j.return_error is not None or j.astray:
        return False
    if j.local and j.apart:
        return False  # the destination has it, in another network
    if j.local and j.unmet:
        # The destination has it. So it is kept apart from the source, or elsewhere.
        return False if j.together is not None else None if j.unresolved and j.on_link else False
    return j.unresolved and j.on_link


def _kept_here(j: Journey) -> bool:
    """Whether requests stay on the source though the next hop answers: that is no network."""
    return not j.unresolved and j.stopped <= Stage.LEFT


def _isolated(j: Journey) -> bool | None:
    """Both on one network, and neither gets through to the other, by any way."""
    if j.apart:
        return False
    if not (j.local and j.unmet and j.on_link) or j.stranger or j.together is False:
        return False
    if _kept_here(j):
        return False
    return True if j.together and j.unresolved else None


def _elsewhere(j: Journey) -> bool | None:
    """The destination has the address on another network than the source's, of the same name."""
    if j.apart and j.local and is_private(j.address):
        return _leads_elsewhere(j)
    if not (j.local and j.unmet and j.on_link) or j.together or _kept_here(j):
        return False
    return True if j.together is False else None


def _leads_elsewhere(j: Journey) -> bool | None:
    """Whether an inside address of the destination means something else where the source is."""
    if j.failed and j.stopped <= Stage.LEFT and not j.unresolved:
        return False  # it is the source itself that keeps them
    if j.on_link or j.neighbour is None:
        return True
    # Through a router: two networks may be joined by a tunnel, unless the Internet answers.
    return True if _internet_answers(j) or _nothing_comes_of(j) else None


def _nothing_comes_of(j: Journey) -> bool:
    """Whether neither the tested port nor the one at which the other side waits is ever reached."""
    # A knock may meet nobody where another program has that port of UDP.
    asked = j.transport == "tcp" and j.control.asked > 0
    return asked and not j.control.ends and not j.way.ends and missed(j)


def _internet_answers(j: Journey) -> bool:
    """Whether routers of the Internet say something of requests to the address."""
    said = [*j.way.expired.values(), *([] if j.icmp is None else [j.icmp.sender])]
    return any(map(is_public, said))


def _by_ranking(j: Journey) -> bool:
    """Whether nothing shows where requests to an inside address end: they only never arrive."""
    return j.apart and not j.on_link and not _internet_answers(j)


def _source_drop(j: Journey) -> bool | None:
    if _source_filter(j) is False or Symptom.LOCAL not in j.symptoms:
        return _source_filter(j)
    # Whoever connects by TCP is not told by its own system; whoever sends a datagram is.
    errors = {t.attempt.error for t in j.failed}
    return j.transport == "udp" and errors <= {"EPERM", _DROPPED_AT_CARD}


_DROPPED_AT_CARD = "ENOBUFS"
"""What a filter below IP makes of a datagram (net/core/dev.c, NET_XMIT_DROP); so does a queue."""


def _dropped_at_card(j: Journey) -> bool:
    return _DROPPED_AT_CARD in {t.attempt.error for t in j.failed}


def _source_filter(j: Journey) -> bool | None:
    # A neighbour that never answered looks the same: nothing leaves but ARP.
    if j.unresolved or j.route_error is not None:
        return False
    return None


def _source_reject(j: Journey) -> bool | None:
    if _source_filter(j) is False:
        return False
    if j.symptoms == {Symptom.LOCAL}:
        if j.transport == "udp":
            return False  # one that refuses sends an ICMP error, too
        return {t.attempt.error for t in j.failed} <= {"EPERM", "EACCES"}
    if j.icmp is not None:
        return bare(j.icmp.sender) in j.source_addresses
    return None


def _between(j: Journey) -> bool | None:
    if j.unresolved or (j.stranger and not j.contact_there):
        return False
    return None if j.translation is None else kept_on_the_way(j, j.translation)


def _from_between(j: Journey) -> bool:
    """Whether the ICMP error came from neither end."""
    return (
        j.icmp is not None
        and bare(j.icmp.sender) not in j.source_addresses
        and bare(j.icmp.sender) != bare(j.address)
    )


def _from_public_router(j: Journey) -> bool:
    """Whether a router of the Internet refused in its own name, before anybody translated."""
    return _from_between(j) and j.icmp is not None and is_public(j.icmp.sender)


def _taken_at_home(j: Journey) -> bool:
    """Whether it may be the source's own system that takes the connections.

    What it takes never leaves; it comes about with the smallest time to live.
    """
    left = any(trail.left for trail in j.trails) or j.counted.get(Stage.LEFT) is True
    end = j.way.end
    beyond = end is not None and end[0] > 1
    return not (left or beyond)


def _proxy(j: Journey) -> bool | None:
    """Something between takes the connections in the destination's place.

    It is seen by the time to live with which they come about, which is too small; or by this, that
    none of them reaches the destination, although the address leads to it.
    """
    n = j.translation
    if n is not None and n.mapped_at is not None:
        return False  # a router that passes them on, and is not where they end
    if j.on_link and j.stranger:
        return None  # it may pass for the destination there
    if _taken_at_home(j):
        return None
    if j.answered_early:
        return True
    # On one network it may be another machine, unless its hardware address is known.
    leads = j.neighbour is not None and (not j.on_link or j.stranger is False)
    return True if j.local and j.met_there and leads and missed(j) else None


def _no_way_on(j: Journey) -> bool:
    if j.icmp is None:
        return False
    codes = _ICMP4_NO_WAY if family(j.address) == 4 else _ICMP6_NO_WAY
    kind = _ICMP4_UNREACHABLE if family(j.address) == 4 else _ICMP6_UNREACHABLE
    return j.icmp.kind == kind and j.icmp.code in codes


def _network_reject(j: Journey) -> bool | None:
    if j.icmp is not None and not _in_its_name(j):
        if not _from_between(j):
            return False
        return True if _hop_refuses(j) and not _no_way_on(j) else None
    if j.unresolved or (j.stranger and not j.contact_there):
        return False
    return None if j.translation is None else refused_on_the_way(j, j.translation)


def _hop_refuses(j: Journey) -> bool:
    """Whether a router before the address refused in the name by which it is known as a hop."""
    hops = () if j.translation is None else j.translation.way.expired.values()
    return j.icmp is not None and bare(j.icmp.sender) in set(map(bare, hops))


def _in_its_name(j: Journey) -> bool:
    """Whether the ICMP error is in the name of an address that a router translates."""
    return (
        j.translation is not None and j.icmp is not None and bare(j.icmp.sender) == bare(j.address)
    )


def _network_unreachable(j: Journey) -> bool | None:
    if j.unresolved and j.neighbour is not None:
        # The gateway itself is gone.
        return bare(j.neighbour.next_hop) != bare(j.address)
    return None if _from_between(j) and _no_way_on(j) else False


def _wrong_host(j: Journey) -> bool | None:
    """An address that is none of the destination's own may belong to any machine."""
    if not j.destination_known or j.local or j.unresolved:
        return False
    if j.translation is not None and j.translation.ours is not None:
        # Seen from outside, the destination is the router's address, and no other.
        if j.translation.ours:
            return False
        return None if j.translation.halted or _from_between(j) else True
    return True if j.stranger else None


def _duplicate(j: Journey) -> bool | None:
    """The destination has the address, and on the source's network another answers for it."""
    if not (j.local and j.stranger) or j.apart:
        return False
    if j.contact_there:
        return False  # whoever answers for the address passes on what is for it, as a router does
    if not j.unmet or j.together:
        return True
    return None if j.together is None else False


def _behind_nat(
    rule: Callable[[Journey, Translation], bool | None],
) -> Callable[[Journey], bool | None]:
    """Return `rule` for addresses that a router translates; it fits no others."""

    def fits(j: Journey) -> bool | None:
        if j.translation is None or j.unresolved or j.on_link or j.translation.ours is False:
            return False
        if j.translation.halted:
            return False
        found = rule(j, j.translation)
        # What never left the source, or was refused before, tells nothing of that router.
        by_router = _from_public_router(j) or (_from_between(j) and _hop_refuses(j))
        before = (j.failed and j.furthest < Stage.LEFT) or by_router
        return None if found and (before or not _is_its(j.translation)) else found

    return fits


def _is_its(n: Translation) -> bool:
    """Whether the address is known to be that of the destination's router."""
    came_in = n.through_pinhole or n.through_mapping or n.other_port is not None or n.unmasked
    return n.ours is True or bool(came_in)


def _for_somebody_else(j: Journey) -> bool:
    """Whether the address is not the destination's, and nobody between translates it."""
    return j.destination_known and not j.local and j.on_link


def _destination_drop(j: Journey) -> bool | None:
    if _for_somebody_else(j) or _never_came(j):
        return False
    refused = j.answer_kept or (j.burst is not None and j.burst.limited is True)
    return False if refused or _no_way_back(j) is True else None


def _never_came(j: Journey) -> bool:
    """Whether requests end before the destination, at its router, or at another port."""
    n = j.translation
    if n is None:
        return False
    at_another_port = to_another_port(j, n) is True
    return (
        n.halted
        or n.ours is False
        or n.through_pinhole is True
        or at_another_port
        or (n.answered_by_holder and n.refused_behind is not None)
    )


def _icmp_unheard(j: Journey) -> bool:
    """Whether ICMP errors left the destination meanwhile, that nobody could tell from ours."""
    if j.burst is not None and j.burst.limited is not None:
        return j.burst.limited  # many at once are refused by ICMP only up to a limit
    sent = "Icmp.OutDestUnreachs" if family(bare(j.address)) == 4 else "Icmp6.OutDestUnreachs"
    return not j.destination_packets and bool(j.still) and sent not in j.still


def _destination_reject(j: Journey) -> bool | None:
    if _for_somebody_else(j) or _never_came(j) or j.led_to_nobody:
        return False
    if j.symptoms == _SILENT and not (_icmp_unheard(j) or j.answer_kept or j.kept_back):
        return False
    if j.icmp is not None:
        return None if bare(j.icmp.sender) == bare(j.address) else False
    # A reset from a port on which nobody listens is the kernel's own word.
    listened = j.own or bool(j.holders)
    return None if listened or not j.sockets else False


def _maybe_closed(j: Journey) -> bool | None:
    """A closed port is refused by a reset; where the socket table is readable it is seen there.

    One of UDP is refused by ICMP: port unreachable (RFC 1122, 4.1.3.1).
    """
    if j.transport == "udp":
        if not j.port_unreachable:
            return False
    elif Symptom.ICMP in j.symptoms:
        return False
    return False if j.own or j.holders or j.sockets else None


def _no_way_back(j: Journey) -> bool | None:
    if not j.unresolved and (j.stopped <= Stage.ARRIVED or j.symptoms != _SILENT):
        return False  # it may be so, and it is not what stops these
    if (j.astray and _left_astray(j)) or (j.burst is not None and j.burst.misrouted):
        return True
    if j.back_unresolved and j.furthest >= Stage.ARRIVED:
        return True
    if j.return_error is not None:
        # Where something else stops the requests before, these counters stand still. IPv6
        # has no such counter for each kind of route that leads nowhere.
        elsewhere = family(bare(j.address)) == 4 and j.still >= _MISROUTED
        if j.transport == "udp" and j.return_error != "EXDEV":
            elsewhere = False  # to a datagram that has no way the sender's own kernel says so
        return not (elsewhere and j.furthest >= Stage.ARRIVED)
    if j.furthest < Stage.ARRIVED:
        return False
    return False if j.return_known else None


def _left_astray(j: Journey) -> bool:
    """Whether another way back may be what stops these.

    It explains answers that get lost, and requests that the host takes for forged, which it counts.
    """
    if j.unresolved or j.back_unresolved or j.stopped > Stage.DELIVERED:
        return True
    return not j.still >= _MISROUTED


def _backlog(j: Journey) -> bool | None:
    if j.own or not j.holders or j.transport != "tcp":
        return False
    if (j.burst is not None and j.burst.overflowed) or syn_queue_full(j):
        return True
    full = [_full(row) for row in j.holders]
    still = "TcpExt.ListenOverflows" in j.still
    if any(full) and not still:
        return True
    ended = j.counted.get(Stage.DELIVERED) is False or any(t.delivered for t in j.trails)
    if j.queue_drops and not ended:
        return None
    return False if still or all(state is False for state in full) else None


def syn_queue_full(j: Journey) -> bool:
    """Whether requests are dropped since too many handshakes wait for their last packet.

    Not where it was the burst itself that filled the queue, behind requests that were taken.
    """
    dropped = j.burst is not None and j.burst.dropped is True
    return dropped and not any(trail.delivered for trail in j.trails)


def _full(row: Listener) -> bool | None:
    if row.waiting is None:
        return None
    # sk_acceptq_is_full: more waiting than the backlog, which is at least 0.
    if row.backlog is None:
        return None if row.waiting else False
    return row.waiting > row.backlog


def _answer_made(j: Journey) -> bool | None:
    """An answer that waits for the next hop's hardware address is in no filter.

    By UDP a program need not make any; our own listener does.
    """
    if j.back_unresolved:
        return False
    if j.transport == "udp" and not j.own:
        made = None if j.burst is None else j.burst.made
        return False if made is False else None
    return None


def _always(_j: Journey) -> bool | None:
    return None


PATH_CAUSES: tuple[PathCause, ...] = (
    PathCause(
        "nat.no-forward",
        (Stage.LEFT, Stage.ARRIVED),
        _ANY,
        _behind_nat(not_forwarded),
        "Look at the port forwarding of the router in front of the destination.",
        unseeing="Or run bothends on the destination as root: it then opens the router from "
        "inside for a moment, and sees whether requests come in.",
    ),
    PathCause(
        "nat.double",
        (Stage.LEFT, Stage.ARRIVED),
        _ANY,
        _behind_nat(second_router),
        "Compare the outside address that the destination's router shows on its own pages with "
        "the address under which others see the destination.",
        likely=lambda j: (
            # Without a word of the hops it may pass the port on.
            j.translation is not None and not (j.translation.double_sure and j.translation.way.last)
        ),
    ),
    PathCause(
        "nat.no-hairpin",
        (Stage.LEFT, Stage.CONNECTED),
        _ANY,
        _behind_nat(not_led_back),
        "Test the public address from a third computer outside this network, a telephone on "
        "mobile data for example.",
    ),
    PathCause(
        "nat.wrong-host",
        (Stage.LEFT, Stage.ARRIVED),
        _ANY,
        _behind_nat(to_another_machine),
        "Look at the port forwarding of the router in front of the destination: to which machine "
        "does it lead?",
    ),
    PathCause(
        "nat.wrong-port",
        (Stage.LEFT, Stage.REPLIED),
        _ANY,
        _behind_nat(to_another_port),
        "Look at the port forwarding of the router in front of the destination: to which port of "
        "it does it lead?",
        # By UDP the destination itself may lead them elsewhere, or its program take some only.
        likely=lambda j: j.transport == "udp",
    ),
    PathCause(
        "destination.firewall-drop",
        (Stage.ARRIVED, Stage.DELIVERED),
        _SILENT,
        _destination_drop,
        "Run bothends on the destination with the right to see packets (as root, or with "
        "CAP_NET_RAW): it then sees whether the connection requests reach its network card.",
    ),
    PathCause(
        "destination.firewall-reject",
        (Stage.ARRIVED, Stage.DELIVERED),
        _ANY,
        _destination_reject,
        "Run bothends on the destination with the right to see packets (as root, or with "
        "CAP_NET_RAW): it then sees whether the refusal leaves its own network card.",
    ),
    PathCause(
        "service.not-running",
        (Stage.DELIVERED, Stage.REPLIED),
        _REFUSED,
        _maybe_closed,
        "Look on the destination whether a program listens on the port.",
    ),
    PathCause(
        "source.no-route",
        (Stage.MADE, Stage.LEFT),
        _ANY | {Symptom.LOCAL},
        _no_route,
        "Look at the source's routes and network connection.",
    ),
    PathCause(
        "source.no-ports",
        (Stage.MADE, Stage.LEFT),
        frozenset({Symptom.LOCAL}),
        _no_ports,
        "Look on the source how many connections it has open.",
    ),
    PathCause(
        "address.no-host",
        (Stage.MADE, Stage.LEFT),
        _ANY,
        _no_host,
        "Check the address: is it the destination's, and is the destination switched on?",
    ),
    PathCause(
        "network.client-isolation",
        (Stage.MADE, Stage.ARRIVED),
        _ANY,
        _isolated,
        "Connect one of the two computers by cable, or both to the same network that is not a "
        "guest network, and test again.",
    ),
    PathCause(
        "address.private",
        (Stage.MADE, Stage.ARRIVED),
        _ANY,
        _elsewhere,
        "Find out whether both computers are on the same network: do they use the same router?",
        likely=_by_ranking,
    ),
    PathCause(
        "network.unreachable",
        (Stage.MADE, Stage.ARRIVED),
        _ANY,
        _network_unreachable,
        "Look at that router's routes and filters.",
    ),
    PathCause(
        "network.drop",
        (Stage.LEFT, Stage.ARRIVED),
        _SILENT,
        _between,
        "Run bothends on both computers with the right to see packets (as root, or with "
        "CAP_NET_RAW): they then see whether the requests leave the one and reach the other.",
        likely=taken_at_its_word,
    ),
    PathCause(
        "network.reject",
        (Stage.LEFT, Stage.ARRIVED),
        _REFUSED,
        _network_reject,
        "Run bothends on both computers with the right to see packets (as root, or with "
        "CAP_NET_RAW): they then see on which side the refusal appears.",
    ),
    PathCause(
        "source.firewall-drop",
        (Stage.MADE, Stage.LEFT),
        _SILENT | {Symptom.LOCAL},
        _source_drop,
        "Run bothends on the source with the right to see packets (as root, or with "
        "CAP_NET_RAW): it then sees whether the connection requests leave its network card.",
        likely=_dropped_at_card,
    ),
    PathCause(
        "source.firewall-reject",
        (Stage.MADE, Stage.LEFT),
        _REFUSED | {Symptom.LOCAL},
        _source_reject,
        "Run bothends on the source with the right to see packets (as root, or with "
        "CAP_NET_RAW): it then sees whether the connection requests leave its network card.",
    ),
    PathCause(
        "destination.no-route",
        (Stage.MADE, Stage.RETURNED),
        # A destination that ignores questions for its hardware address, since they come from the
        # wrong side, makes the source's own kernel say "unreachable" in the end.
        _SILENT | {Symptom.ICMP},
        _no_way_back,
        "Look at the destination's routes to the source's address, and at its reverse-path "
        "filter (rp_filter).",
    ),
    PathCause(
        "service.backlog-full",
        (Stage.ARRIVED, Stage.REPLIED),
        _SILENT,
        _backlog,
        "Restart the program on the destination and test again.",
    ),
    PathCause(
        "destination.reply-blocked",
        (Stage.DELIVERED, Stage.REPLIED),
        _SILENT,
        _answer_made,
        "Run bothends on the destination with the right to see packets (as root, or with "
        "CAP_NET_RAW): it then sees whether its answers leave the network card.",
    ),
    PathCause(
        "network.reply-lost",
        (Stage.REPLIED, Stage.RETURNED),
        _SILENT,
        _always,
        "Run bothends on both computers with the right to see packets (as root, or with "
        "CAP_NET_RAW): they then see whether the answers leave the one and reach the other.",
    ),
    PathCause(
        "source.reply-blocked",
        (Stage.RETURNED, Stage.CONNECTED),
        _SILENT,
        _always,
        "Run bothends on the source with the right to see packets (as root, or with "
        "CAP_NET_RAW): it then sees whether the answers reach its network card.",
    ),
    PathCause(
        "address.wrong-host",
        (Stage.LEFT, Stage.ARRIVED),
        _ANY,
        _wrong_host,
        "Compare the address with the ones that the destination has.",
        # It may have another way out, of which nobody told.
        likely=lambda j: j.translation is not None and not j.stranger,
    ),
    PathCause(
        "address.duplicate",
        (Stage.LEFT, Stage.ARRIVED),
        _ANY,
        _duplicate,
        "Switch the other machine off or give it another address.",
    ),
    PathCause(
        "network.proxy",
        (Stage.LEFT, Stage.ARRIVED),
        # It connects: of those that fail it explains none.
        frozenset(),
        _proxy,
        "Run bothends on the destination with the right to see packets (as root, or with "
        "CAP_NET_RAW): it then sees whether the connections reach it.",
    ),
)


def _nobody(j: Journey) -> bool:
    return j.sockets and not j.holders and (j.own or j.own_error != "EADDRINUSE")


def _other_port(j: Journey) -> bool:
    return _nobody(j) and not j.elsewhere and bool(j.wanted_elsewhere)


def _not_running(j: Journey) -> bool:
    # A program of that name that runs may listen on another port, unseen.
    runs = j.wanted is not None and j.wanted_runs is True
    return _nobody(j) and not j.elsewhere and not j.wanted_elsewhere and not runs


def _loopback(j: Journey) -> bool:
    return _nobody(j) and loopback_only(j.elsewhere)


def _other_family(j: Journey) -> bool:
    return (
        _nobody(j)
        and bool(j.elsewhere)
        and not loopback_only(j.elsewhere)
        and all(family(bare(row.address)) != family(bare(j.address)) for row in j.elsewhere)
        and not any(row.device is not None and covers(row, j.address) for row in j.elsewhere)
    )


def _other_interface(j: Journey) -> bool:
    return _nobody(j) and bool(j.elsewhere) and not _loopback(j) and not _other_family(j)


def _other_program(j: Journey) -> bool:
    if j.wanted is None or not j.holders:
        return False
    # A program that cannot be seen may be the right one, and a supervisor holds the port for
    # the program that it will start.
    return all(
        row.names and not is_named(j.wanted, row.names) and not is_supervisor(row.names)
        for row in j.holders
    )


def _unread(j: Journey) -> bool:
    """Datagrams wait in the program's queue, and for all the time watched it read none."""
    places = {bare(row.address) for row in j.holders}
    return any(
        q.after >= max(q.before, 1) and not q.read and q.watched >= HUNG_SECONDS
        for q in j.queues
        if bare(q.address) in places
    )


def _not_taken(j: Journey) -> str:
    if j.transport == "udp":
        return f"Datagrams wait in the queue of {_program(j.holders)}, and it does not read them."
    return (
        f"The destination's kernel took {'the' if j.proven else 'its own test'} connection, "
        f"and {_program(j.holders)} did not: it still waits in the program's queue."
    )


def _hung(j: Journey) -> bool:
    """The kernel took the connections, and for all the time watched the program did not."""
    if j.own or any(is_supervisor(row.names) for row in j.holders):
        return False  # a service that is started by the connection takes its time
    if j.transport == "udp":
        # Several programs may have one port: one that answers serves it.
        return not any(trail.connected for trail in j.trails) and _unread(j)
    if not j.proven:
        # Connections that come about without being seen end elsewhere: in a container, say.
        mine = None if any(trail.connected for trail in j.trails) else j.self_connect
        return mine is not None and mine.accepted is False and mine.watched >= HUNG_SECONDS
    if any(t.attempt.spoke != "nothing" for t in j.proven):
        return False
    held = [row for trail in j.proven for row in j.rows(trail)]
    if not held:
        # Nobody knows how the source looks from here: of all that came meanwhile it is one.
        rounds = {trail.attempt.round for trail in j.proven}
        held = [row for row in j.connections if row.round in rounds]
    rows = [row for row in held if row.accepted is not None]
    longest = max((row.watched for row in rows), default=0.0)
    return longest >= HUNG_SECONDS and not any(row.accepted for row in rows)


HUNG_SECONDS = 1.4
"""Seconds for which nobody took a connection before the program is called hung."""


def _closes(j: Journey) -> bool:
    reached = j.proven or (j.trails if j.counted_through else ())
    said = {_said(j, t) for t in reached if not _lost_its_end(j, t)}
    return not j.own and said == {"closed"}


_ENDED = frozenset({"FIN_WAIT1", "FIN_WAIT2", "CLOSING"})
"""States of a connection that its program has closed, and the other end not yet."""


def _said(j: Journey, trail: Trail) -> str:
    """What the program did first, also where the word of it was lost on the way."""
    states = {row.state for row in j.rows(trail, later=False)}
    silent = trail.attempt.spoke == "nothing"
    return "closed" if silent and states & _ENDED else trail.attempt.spoke


def _lost_its_end(j: Journey, trail: Trail) -> bool:
    """Whether this connection says nothing of the program, since packets of it were lost.

    Either the destination no longer knows of it, and the source was not told (a reset was lost,
    which nobody sends again), or the handshake did not come to its end. Or it is somebody else who
    reset it.
    """
    if j.is_cut_off(trail):
        return True
    stands = any(row.state != "SYN_RECV" for row in j.rows(trail, later=False))
    return trail.attempt.spoke == "nothing" and j.sockets and not stands


def _program(rows: Iterable[Listener]) -> str:
    names = sorted({row.program for row in rows if row.program})
    return names[0] if names else "The program"


def _where(j: Journey) -> str:
    places = ", ".join(sorted({_place(row) for row in j.elsewhere}))
    return (
        f"The destination's socket table shows it: {_program(j.elsewhere)} listens on {places} "
        "only."
    )


def _place(row: Listener) -> str:
    return row.address if row.device is None else f"{row.address} of interface {row.device}"


def _ports(j: Journey) -> str:
    ports = ", ".join(str(port) for port in sorted({row.port for row in j.wanted_elsewhere}))
    return (
        f"The destination's socket table shows it: {j.wanted} listens on port {ports}, and "
        "nobody on this one."
    )


SERVICE_CAUSES: tuple[ServiceCause, ...] = (
    ServiceCause(
        "service.not-running",
        _not_running,
        lambda _j: "The destination's socket table shows no program that listens on the port.",
    ),
    ServiceCause(
        "service.other-port",
        _other_port,
        _ports,
    ),
    ServiceCause(
        "service.loopback-only",
        _loopback,
        _where,
    ),
    ServiceCause(
        "service.wrong-family",
        _other_family,
        _where,
    ),
    ServiceCause(
        "service.wrong-interface",
        _other_interface,
        _where,
    ),
    ServiceCause(
        "service.other-program",
        _other_program,
        lambda j: (
            "The destination's socket table shows it: the port is held by "
            f"{_program(j.holders)}, not by {j.wanted}."
        ),
    ),
    ServiceCause(
        "service.backlog-full",
        lambda j: any(_full(row) for row in j.holders),
        lambda j: f"As many connections wait for {_program(j.holders)} as its queue holds.",
    ),
    ServiceCause(
        "service.hung",
        _hung,
        _not_taken,
    ),
    ServiceCause(
        "service.closes",
        _closes,
        lambda j: f"{_program(j.holders)} took the connection and closed it without a word.",
    ),
)
