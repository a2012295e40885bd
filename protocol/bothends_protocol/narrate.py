"""Sentences for people: how a finding is known, and the verdict in one line.

Neutral in place ("on the destination", never "here"), since both sides print
the same words, and free of port numbers where ports share a finding.
"""

from __future__ import annotations

from collections.abc import Sequence

from .bearings import QUOTES, words
from .counted import BurstView
from .observations import Journey, Stage, Symptom
from .ports import parse_ports
from .translation import Translation
from .verdict import Check

__all__ = [
    "asked_for",
    "filters_some",
    "left_behind",
    "narrate",
    "ports_of",
    "quote",
    "shares",
    "title",
    "title_of_both",
    "untested",
    "untested_back",
]


def narrate(j: Journey) -> tuple[str, ...]:
    """Return what was seen on the way, in order, as far as witnesses could tell."""
    lines = [
        _left(j),
        _to_router(j),
        _arrived(j),
        _delivered(j),
        _replied(j),
        _returned(j),
        _outcome_of_datagrams(j) if j.transport == "udp" else _outcome(j),
        _size(j),
        _nobody_there(j),
        _gateways(j),
        _where(j),
        _where_back(j),
        *_routers(j),
    ]
    return tuple(line for line in (*lines, *_burst(j)) if line)


def _routers(j: Journey) -> list[str]:
    """What is known of the routers that translate, where they keep requests from coming in."""
    n = j.translation
    if n is None or j.proven:
        return _apart(j)
    return [
        _whose(j, n),
        _at_router(n),
        _before_router(n),
        _router_says(n),
        _from_inside(n),
        _by_request(n),
        *n.double,
        "" if n.other_port is None else f"They come in at the destination's port {n.other_port}.",
        ""
        if not (n.unmasked or (n.together and j.burst is not None and j.burst.reset_here))
        else "The router leads requests back inside with the source's own inside address, so that "
        "the answers do not come back through it.",
    ]


def _apart(j: Journey) -> list[str]:
    if not (j.apart and j.local and not j.proven):
        return []
    where = ", ".join(j.public)
    return [f"The two computers are on two networks: the destination is seen at {where}."]


def _whose(j: Journey, n: Translation) -> str:
    if n.ours:
        inside = "" if not n.together else ", and both computers are behind it"
        return f"{j.address} is where others see the destination: its router has it{inside}."
    if n.ours is False:
        return f"Others see the destination at {', '.join(n.public)}, and not at {j.address}."
    return ""


def _at_router(n: Translation) -> str:
    if n.mapped_at is not None:
        return (
            f"A request that was to end at hop {n.mapped_at} did, as that router says in the name "
            "of the tested address: it passes the port on."
        )
    if n.answered_by_holder and n.end is not None and n.refused_behind is not False:
        return f"The answer comes from the machine at hop {n.end[0]}, which has the address."
    return ""


def _before_router(n: Translation) -> str:
    if n.stops_after is not None:
        place = f"hop {n.stops_after}" if n.stops_after else "the source itself"
        who = n.way.expired.get(n.stops_after)
        return (
            f"Requests to this port end behind {place}{f' ({who})' if who else ''}, and requests "
            "to another port of the same address go further."
        )
    if n.cut_in and n.end is not None:
        return (
            f"At hop {n.end[0]} requests to this port are answered, and requests to another port "
            "of the same address go further."
        )
    return ""


def _router_says(n: Translation) -> str:
    if n.mapping is None:
        return ""
    says = f"The destination's router ({n.router}) says by {_PROTOCOLS.get(n.word, n.word)} that"
    if n.mapping.client is None:
        return f"{says} it has no forwarding for the port that was set up this way."
    off = "" if n.mapping.enabled else ", which is switched off"
    return f"{says} the port leads to {n.mapping.client}, port {n.mapping.client_port}{off}."


_PROTOCOLS = {"upnp": "UPnP", "pcp": "PCP", "nat-pmp": "NAT-PMP"}


def _from_inside(n: Translation) -> str:
    if n.through_pinhole is None:
        return ""
    opened = "While the destination had opened its router from inside, requests of the source"
    return f"{opened} came in." if n.through_pinhole else f"{opened} did not come in either."


def _by_request(n: Translation) -> str:
    if n.opened is None:
        return ""
    by = _PROTOCOLS.get(n.opened.protocol, "")
    if n.opened.outcome == "there":
        return ""  # which the router said already
    if n.opened.outcome != "granted":
        detail = f": {n.opened.detail}" if n.opened.detail else ""
        return f"The router did not open the port when it was asked to{detail}."
    how = f"While the router forwarded the port because bothends asked it to ({by}), requests"
    if n.through_mapping is None:
        return ""
    return f"{how} came in." if n.through_mapping else f"{how} did not come in either."


def asked_for(j: Journey) -> tuple[str, ...]:
    """Return what came of asking the router to forward the port, where it was asked (--map)."""
    said = "" if j.translation is None else _by_request(j.translation)
    return (said,) if said else ()


def left_behind(j: Journey) -> tuple[str, ...]:
    """Return what stays at the router because the user wanted it so (--keep-map)."""
    opened = None if j.translation is None else j.translation.opened
    if opened is None or opened.outcome != "granted" or not opened.kept:
        return ()
    how = f"by {_PROTOCOLS.get(opened.protocol, opened.protocol)}, for --keep-map"
    until = (
        f"ends {_duration(opened.lease)} after this test"
        if opened.lease
        else "stays for ever, until it is removed on the router's own pages"
    )
    return (f"The forwarding of the port that bothends asked the router for ({how}) {until}.",)


def _duration(seconds: int) -> str:
    """`seconds` as a person says it."""
    for size, name in ((3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = round(seconds / size)
            return f"about {count} {name}{'s' * (count > 1)}"
    return f"{seconds} seconds"


_RULED = {
    "source.firewall-drop": ("source", False, {"drop"}),
    "source.firewall-reject": ("source", False, {"reject"}),
    "source.reply-blocked": ("source", True, {"drop", "reject"}),
    "destination.firewall-drop": ("destination", False, {"drop"}),
    "destination.firewall-reject": ("destination", False, {"reject"}),
    "destination.reply-blocked": ("destination", True, {"drop", "reject"}),
}
"""By cause: whose rules may be the reason, those for the answer or for the request, and what the
rules do."""


def quote(j: Journey, code: str) -> tuple[str, ...]:
    """Return the rules that support the cause `code`, a sentence each."""
    side, answer, verdicts = _RULED.get(code, ("", False, set()))
    rules = {"source": j.source_rules, "destination": j.destination_rules}.get(side, ())
    return tuple(
        f"{QUOTES}{side}'s own firewall matches{'' if rule.certain else ', as it seems'}: "
        f"{rule.text}"
        for rule in rules
        if rule.answer == answer and rule.verdict in verdicts
    )


_COUNTED = {
    Stage.LEFT: ("left the source", "the source's counters of sent packets"),
    Stage.ARRIVED: ("reached the destination", "the destination's counters of received packets"),
    Stage.DELIVERED: (
        "came through to the destination's {transport}",
        "the destination's counters of {what}",
    ),
    Stage.REPLIED: ("was answered", "the destination's counters of sent packets"),
    Stage.RETURNED: (
        "had its answers reach the source",
        "the source's counters of received packets",
    ),
}


def _burst(j: Journey) -> list[str]:
    """What the counters say of a coded burst, up to the first thing it did not do."""
    lines = []
    udp = j.transport == "udp"
    words = {"transport": j.transport.upper(), "what": "datagrams" if udp else "TCP segments"}
    for stage, texts in _COUNTED.items():
        did, where = (text.format_map(words) for text in texts)
        told = j.counted.get(stage)
        if told is None or j.burst is None:
            continue
        burst = f"A coded burst of {j.burst.sent} {'datagrams' if udp else 'requests'}"
        if told:
            lines.append(f"{burst} {did}: {where} follow it.")
            lines += _queue(j.burst) if stage == Stage.DELIVERED else []
        else:
            lines.append(f"{burst} shows no trace in {where}.")
            break
    return lines


_COOKIES = (
    "It met a full queue of half-open connections, so that the destination answered by SYN "
    "cookies: its counter of these follows the burst."
)
_DROPPED = (
    "It met a full queue of half-open connections and was dropped: the destination's counter of "
    "that follows the burst."
)


def _queue(burst: BurstView) -> list[str]:
    """What the burst met if too many handshakes waited for their last packet already."""
    if burst.unlisted and not burst.overflowed:
        return [_COOKIES]
    if burst.dropped:
        return [_DROPPED]
    return []


def _left(j: Journey) -> str:
    if not j.source_packets:
        return ""
    left = sum(t.left is True for t in j.trails)
    return f"{_of(left, j)} left the source's network card."


def _to_router(j: Journey) -> str:
    if j.first_router is None or j.source_packets:
        return ""
    what = "datagram" if j.transport == "udp" else "connection request"
    return (
        f"A {what} that was to end at the first router did: "
        f"{j.first_router} said so, so requests leave the source."
    )


def _arrived(j: Journey) -> str:
    if not j.destination_packets:
        return ""
    arrived = sum(t.arrived is True for t in j.trails)
    return f"{_of(arrived, j)} reached the destination's network card."


def _delivered(j: Journey) -> str:
    told = [t.delivered for t in j.trails if t.delivered is not None]
    if not told or not any(t.reached[Stage.ARRIVED] is not False for t in j.trails):
        return ""
    count = sum(told)
    does = "has" if j.transport == "udp" else "listens on"
    listening = (
        "bothends itself, which listened on the port in the service's place"
        if j.own
        else f"{j.holder}, which {does} the port"
    )
    return f"{_of(count, j)} came through to {listening}."


def _replied(j: Journey) -> str:
    if not j.destination_packets or not any(t.arrived for t in j.trails):
        return ""
    kinds = {kind for t in j.trails for kind in t.reply or ()}
    return f"{_answer(kinds)} left the destination's network card."


def _returned(j: Journey) -> str:
    if not j.source_packets or not any(t.left for t in j.trails):
        return ""
    kinds = {kind for t in j.trails for kind in t.returned or ()}
    return f"{_answer(kinds)} reached the source's network card."


def _outcome_of_datagrams(j: Journey) -> str:
    if not j.failed:
        genuine = any(t.attempt.spoke == "challenge" for t in j.trails)
        by = ", by bothends on the destination with the right proof" if genuine else ""
        return f"{_of(len(j.trails), j)} were answered{by}."
    if j.icmp is not None:
        return (
            f"The source was told by ICMP (type {j.icmp.kind}, code {j.icmp.code}) "
            f"from {j.icmp.sender} that its datagrams may not or cannot come through."
        )
    if Symptom.ICMP in j.symptoms:
        return f"The source's datagrams were refused ({_errors(j) or 'ICMP'})."
    if Symptom.LOCAL in j.symptoms:
        return f"The source's own system would not send them ({_errors(j)})."
    return "The source got no answer at all."


def _size(j: Journey) -> str:
    """What was in the datagrams, where a program and not bothends had to answer them."""
    if j.transport != "udp" or j.own or not j.trails:
        return ""
    sizes = {t.attempt.size for t in j.trails}
    if sizes == {0}:
        return "The datagrams were empty: nothing is written to a service without --payload."
    if len(sizes) > 1:
        return ""
    return f"The datagrams held what --payload says ({max(sizes)} bytes)."


def _outcome(j: Journey) -> str:
    if not j.failed:
        told = (
            " and bothends on the destination answered with the right challenge"
            if any(t.attempt.spoke == "challenge" for t in j.trails)
            else ""
        )
        return f"{_of(len(j.trails), j)} connected{told}."
    if j.icmp is not None:
        return (
            f"The source was told by ICMP (type {j.icmp.kind}, code {j.icmp.code}) "
            f"from {j.icmp.sender} that it may not connect."
        )
    if Symptom.RESET in j.symptoms:
        return "The source's connection was refused (TCP reset)."
    if Symptom.ICMP in j.symptoms:
        return f"The source's connection was refused ({_errors(j)})."
    if Symptom.LOCAL in j.symptoms:
        return f"The source's own system would not connect ({_errors(j)})."
    return "The source got no answer at all."


def _nobody_there(j: Journey) -> str:
    if j.neighbour is None or not j.unresolved:
        return ""
    return (
        f"Nothing on the source's network answers to {j.neighbour.next_hop}: the question for its "
        "hardware address stays without an answer."
    )


def _where(j: Journey) -> str:
    """Between which hops the requests end."""
    stretch = j.stretch
    if stretch is None or not j.local or j.proven or j.furthest >= Stage.ARRIVED:
        return ""
    if j.answered_early:
        here = _hop(stretch.first, stretch.first_name, stretch.end, "source", "destination")
        return (
            f"Connections to this port come about at {here} already, and requests to another port "
            "go beyond it."
        )
    ends = "are refused" if j.way.ends else "end"
    first = _hop(stretch.first, stretch.first_name, stretch.end, "source", "destination")
    if not stretch.last:
        before = f" before they reach {first}" if stretch.narrow else " on the way"
        goes = "requests to another port of the same address get there"
        return f"Requests to this port {ends}{before}; {goes}."
    last = _hop(stretch.last, stretch.last_name, stretch.end, "source", "destination")
    known = stretch.first == stretch.end and j.stopped is Stage.ARRIVED
    place = "in that router, or behind it" if known else "in one of the two, or between them"
    return (
        f"Requests to this port get as far as {last}, those to another port go on to {first}: they "
        f"{ends} {place}."
    )


def _where_back(j: Journey) -> str:
    """Between which hops the answers end."""
    stretch = j.back
    if stretch is None or (j.proven and not j.failed):
        return ""
    first = _hop(stretch.first, stretch.first_name, stretch.end, "destination", "source")
    if not stretch.last:
        return (
            f"Packets from this port of the destination do not reach {first}, those from other "
            "ports do."
        )
    last = _hop(stretch.last, stretch.last_name, stretch.end, "destination", "source")
    return (
        f"Packets from this port of the destination get as far as {last}, those from other ports "
        f"go on to {first}: answers end in one of the two, or between them."
    )


def _hop(hop: int, name: str, end: int, near: str, far: str) -> str:
    """What a hop is called, counted from the `near` side; the `far` one is at hop `end`."""
    if hop == end:
        return f"the {far} itself"
    if hop == 1:
        whose = f"the {near}'s first router"
    elif hop == end - 1:
        whose = f"the last router before the {far}"
    else:
        whose = "the router"
    return f"{whose} (hop {hop}{f', {name}' if name else ''})"


def _gateways(j: Journey) -> str:
    if j.together is None or not j.on_link:
        return ""
    if j.together:
        return (
            "Both computers reach the same gateway (it has the same hardware address), so they are "
            "on one network; but neither reached the other, by any way."
        )
    return (
        "Both computers have a gateway of the same address, but these are two machines: the "
        "networks only look alike."
    )


def _errors(j: Journey) -> str:
    return ", ".join(sorted({t.attempt.error for t in j.failed if t.attempt.error}))


def _answer(kinds: set[str]) -> str:
    names = {
        "syn-ack": "The answer (SYN-ACK)",
        "answer": "An answer",
        "reset": "A refusal (TCP reset)",
        "icmp": "A refusal (ICMP)",
    }
    for kind, name in names.items():
        if kind in kinds:
            return name
    return "No answer"


def _of(count: int, j: Journey) -> str:
    what = "datagrams" if j.transport == "udp" else "connection requests (SYN)"
    return f"{count} of {len(j.trails)} {what}"


def filters_some(j: Journey) -> bool:
    """Return whether parallel paths are why some connections never come about.

    Behind a router that translates, and on a host that passes packets on, it may be one of several
    machines that they are spread over.
    """
    sure = j.local and (j.forwards is False or (j.paths is not None and j.paths.arrived is False))
    return sure and j.paths is not None and j.paths.is_partial(j.loss)


def shares(j: Journey) -> tuple[str, ...]:
    """Return what share of connections fails, where some do and some do not."""
    lines = []
    if j.paths is not None and filters_some(j):
        p = j.paths
        lines.append(
            f"Of {p.through + p.failing} connections, each from a port of its own, {p.through} "
            f"come about; the others never do, in {p.tries} tries from the same ports. So it is "
            "where there are parallel paths, of which each connection takes one, and some of them "
            "filter this port: ask whoever runs the network between, or try by another one."
        )
    if j.loss is not None and j.loss.told:
        low, high = j.loss.interval
        lines.append(
            f"Of {j.loss.sent} requests to another port of the address {j.loss.silent} stayed "
            f"without an answer: between {low:.0%} and {high:.0%} of the round trips are lost. "
            "Most often that is wireless: move closer, or try by cable."
        )
    return tuple(lines)


def title(status: str, checks: Sequence[Check]) -> str:
    """Return the verdict in one sentence."""
    where = "; ".join(dict.fromkeys(_place(check) for check in checks))
    if status == "open":
        return f"{where} can be reached: the way is open."
    if status == "blocked":
        parts = [_blocked(check) for check in checks if check.blockers]
        return _sentence("; ".join(dict.fromkeys(parts)))
    return _sentence("; ".join(dict.fromkeys(_open_question(c) for c in checks)))


def _blocked(check: Check) -> str:
    says = ", and ".join(words(b.code, check.direction, check.transport) for b in check.blockers)
    return f"{_place(check)}: {says}"


def _open_question(check: Check) -> str:
    if check.status == "open":
        return f"{_place(check)}: open"
    if not check.candidates:
        return f"{_place(check)}: what happens cannot be told"
    likely = words(check.candidates[0], check.direction, check.transport)
    more = len(check.candidates) - 1
    rest = f" ({more} other explanation{'s' * (more > 1)} possible)" if more else ""
    word = "does not work" if check.reachable == "no" else "cannot be told"
    return f"{_place(check)}: {word}; most likely {likely}{rest}"


def title_of_both(*ways: tuple[str, str, str, Sequence[Check]]) -> str:
    """Return the verdict on both directions: of each its name, status, summary and checks."""
    return " ".join(_title_of_one(*way) for way in ways)


def _title_of_one(direction: str, status: str, summary: str, checks: Sequence[Check]) -> str:
    ends = direction.split("-to-")
    head = f"From the {ends[0]} to the {ends[-1]}"
    if status != "open":
        return f"{head}: {summary}"
    return f"{head}: {'; '.join(dict.fromkeys(map(_place, checks)))} can be reached."


def untested_back(*, known: bool) -> str:
    """Return why the destination tested nothing; `known` is whether it knew any address."""
    if known:
        return "nothing was tested, since the time allowed ran out."
    return (
        "nothing was tested, since no address is known at which the destination should reach the "
        "source. Start both again, the destination with --peer and the source's address."
    )


def _place(check: Check) -> str:
    return f"{ports_of(check)} at {check.address}"


def ports_of(check: Check) -> str:
    """Return the ports of a check in a few words: many scattered ones by number and ends."""
    name = check.transport.upper()
    if check.ports.isdecimal():
        return f"{name} port {check.ports}"
    if check.ports.count(",") < RANGES_TOLD:
        return f"{name} ports {check.ports}"
    (part,) = parse_ports(check.ports)
    return f"{len(part):,} {name} ports between {part.ranges[0][0]} and {part.ranges[-1][1]}"


def _sentence(text: str) -> str:
    return (text[:1].upper() + text[1:] if text else "Nothing could be tested") + "."


SHOWN_ADDRESSES = 3

RANGES_TOLD = 16
"""Ranges of ports in a sentence."""


def untested(addresses: Sequence[str], outside: Sequence[str] = ()) -> str:
    """Return why nothing was tested.

    `addresses` are those that the destination has, `outside` the public ones under which it is
    seen: nothing but addresses, since they stand in a command.
    """
    has = f" (it has {', '.join(addresses[:SHOWN_ADDRESSES])})" if addresses else ""
    why = (
        "Nothing was tested, since no address is known at which the source should reach the "
        "destination."
    )
    if not outside:
        return (
            f"{why} Start both again, the source with --target and the destination's address{has}."
        )
    return (
        f"{why} From outside the destination is seen as {', '.join(outside[:SHOWN_ADDRESSES])}: "
        f"start both again, the source with --target {outside[0]}; or, where both are on one "
        f"network, with --target and the destination's own address{has}."
    )
