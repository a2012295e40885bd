"""From observations to the verdict: one pure function, run by both sides.

`judge(source, destination)` takes the two frozen evidences and returns the
verdict; it does not know which side runs it, so both come to the same bytes.
Either may be missing: then nothing that needs the other side is claimed.

The order of thought, for each port at each address:

1. Did any attempt get there for certain? Then the path is clear.
2. Otherwise the trails bracket where the requests end, and the table of causes
   says what fits (`causes`).
3. Beside that, what the socket table says of the service.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from .addresses import bare, family, is_near, public
from .bearings import BACK, FORTH, in_pair
from .causes import PATH_CAUSES, SERVICE_CAUSES, PathCause, syn_queue_full
from .codes import CODES
from .evidence import Evidence
from .fixes import FixCase, Routers, fixes_for
from .mtu import CODE as LARGE
from .mtu import Large, large_packets
from .narrate import (
    asked_for,
    filters_some,
    left_behind,
    narrate,
    quote,
    shares,
    title,
    title_of_both,
    untested,
    untested_back,
)
from .nat_causes import leads_to_another_port, missed
from .observations import ANSWERS, Journey, Stage, Symptom, by_port, covers, observe
from .offered import offered
from .pairing import DESTINATION, SOURCE, other_role
from .plan import CERTAIN, ENOUGH, HALF_OPEN, LOSS, SWEEP, primary_addresses
from .ports import TRANSPORTS, PortSet, format_ports, parse_ports
from .spread import Apart, spread_over
from .suggest import Checked, suggest, suggested
from .sweeps import Sweep, sweep_between
from .targets import (
    GONE,
    LOCAL,
    NOBODY,
    REFUSED,
    SILENT,
    TAKEN,
    Tried,
    deciding,
    order_notes,
    wanted,
)
from .translation import Translation, router_of
from .verdict import SEGMENTS, Blocker, Check, Segment, Verdict
from .which_address import address_notes, temporary_note

__all__ = ["combine", "judge", "lost_verdict", "verdict_digest"]

_CLEAR, _BLOCKED, _UNKNOWN, _NOT_REACHED = "clear", "blocked", "unknown", "not-reached"


_Named = tuple[str, str, tuple[str, ...]]
"""A cause: its code, the confidence, and how it is known."""


class _Finding(msgspec.Struct, frozen=True):
    """What is made of one journey."""

    path_clear: bool
    reachable: str
    causes: tuple[_Named, ...]
    """In the order of the way."""
    candidates: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    next_step: str = ""
    notes: tuple[str, ...] = ()
    small_only: bool = False
    """Whether all is well but for large packets."""

    @property
    def status(self) -> str:
        if self.causes:
            return "blocked"
        return "open" if self.reachable == "yes" and not self.candidates else "undetermined"


def judge(source: Evidence, destination: Evidence) -> Verdict:
    """Return the joint verdict of the two evidences."""
    seeks = destination.suggest
    ways = [
        _one_way(prober, observer, seeks=seeks and prober.role == SOURCE)
        for prober, observer in _directions(source, destination)
    ]
    parts = [
        way or _not_tried(prober, source, destination)
        for way, (prober, _) in zip(ways, _directions(source, destination), strict=True)
    ]
    return _signed(_both(*parts) if len(parts) > 1 else parts[0], source, destination)


def _one_way(prober: Evidence, observer: Evidence, *, seeks: bool) -> Verdict | None:
    """The verdict on one direction, None where nothing was tested in it."""
    found, unresolved = _checks(prober, observer), _unresolved(prober, observer)
    if not found and not unresolved:
        return None
    if seeks and not unresolved:
        return _suggesting(found)
    return combine([*_plain(found), *unresolved])


def _plain(found: Iterable[Checked]) -> list[Check]:
    return [part.check for part in found]


def _suggesting(found: Sequence[Checked]) -> Verdict:
    """The verdict where a port is sought: what holds for the one that is suggested."""
    made = suggest(found, TRANSPORTS)
    if made is None:
        return combine(_plain(found))
    checks, sentence = suggested(made, found)
    verdict = combine(checks)
    if made.port is None:
        # Neither programs that are reached nor ones that are not answer who seeks a free port.
        verdict = msgspec.structs.replace(
            verdict, status="undetermined", reachable="unknown", blockers=()
        )
    return msgspec.structs.replace(verdict, suggestion=made, summary=sentence)


def _untested(source: Evidence, destination: Evidence) -> Verdict:
    """The verdict where no address was typed and none authenticated, so that nothing was tried."""
    nets = [(item.address, item.prefix) for item in source.facts.addresses]
    near = [a.address for a in offered(destination.facts.addresses) if is_near(a.address, nets)]
    outside = dict.fromkeys(filter(None, (public(seen.address) for seen in destination.seen_as)))
    return Verdict(
        verdict_id=None,
        status="undetermined",
        reachable="unknown",
        summary=untested(sorted(near, key=family), sorted(outside, key=family)),
    )


def lost_verdict(own: Evidence | None, summary: str) -> Verdict:
    """Return what one side may say alone: nothing that needs the other side's witnesses."""
    checks = () if own is None else tuple(_alone(own))
    candidates = tuple(dict.fromkeys(c for check in checks for c in check.candidates))
    return Verdict(
        verdict_id=None,
        status="undetermined",
        reachable="unknown",
        candidates=candidates,
        summary=summary,
        checks=checks,
    )


def verdict_digest(verdict: Verdict) -> bytes:
    """Return a digest of everything that must be equal on both sides."""
    from .wire import pack  # noqa: PLC0415  wire needs nothing of this, kept off the import path

    return hashlib.sha256(pack(verdict)).digest()


def _directions(source: Evidence, destination: Evidence) -> Iterable[tuple[Evidence, Evidence]]:
    yield source, destination
    if (source.both_ways or destination.both_ways) and not destination.suggest:
        yield destination, source


def _keys(prober: Evidence, observer: Evidence) -> list[tuple[str, str, int]]:
    """Every port at every address that a round was announced for, in order."""
    rounds = [*prober.rounds, *observer.rounds]
    tested = (r for r in rounds if r.prober == prober.role and r.kind not in (LOSS, SWEEP))
    probes = [p for r in tested for p in r.probes]
    return list(dict.fromkeys((p.transport, p.address, p.port) for p in probes))


def _journeys(prober: Evidence, observer: Evidence, sweep: Sweep | None) -> list[Journey]:
    """What was observed of each port that was tested in depth, and of them all together."""
    here, there = by_port(prober), by_port(observer)
    journeys = [
        observe(here.get((key[0], key[2]), prober), there.get((key[0], key[2]), observer), key)
        for key in _keys(prober, observer)
    ]
    limited = _limited(journeys, spent=bool(prober.contact.refused))
    swept = {sweep.address} if sweep is not None and sweep.refused_by_icmp else set()
    of = {"udp": limited | swept, "tcp": swept}
    journeys = [_perhaps_limited(journey, of.get(journey.transport, ())) for journey in journeys]
    return journeys if sweep is None else _after_sweep(journeys, sweep)


def _after_sweep(journeys: Sequence[Journey], sweep: Sweep) -> list[Journey]:
    """Mark what a sweep may have done to the tests in depth that followed.

    Where it lost far more than single requests do, as what limits their rate has it, those of a
    test that come several at once may be lost to that, too. And where ports that answered stay
    silent since, somebody may have shut the source out for asking so much.
    """
    mine = [j for j in journeys if j.transport == "tcp" and bare(j.address) == bare(sweep.address)]
    usual = max((j.loss.interval[1] for j in mine if j.loss is not None), default=0.0)
    crowded = sweep.loses and (sweep.late > USUAL_TIMES * usual or usual > MOST_LOST)
    answered = [j for j in mine if j.port in sweep.fates and sweep.answered(j.port)]
    silent = [j for j in answered if _only_silent(j)]
    since = min((t.attempt.started for j in silent for t in j.trails), default=0.0)
    # Who is shut out gets no answer from any port since; else it is a matter of that port.
    told = [t for j in answered for t in j.trails]
    others = [t for t in told if t.connected or t.symptom is Symptom.RESET]
    banned = bool(silent) and not any(t.attempt.started > since for t in others)
    marked, alone = {id(j) for j in mine}, {id(j) for j in silent}
    kind = family(bare(sweep.address))
    return [
        msgspec.structs.replace(
            j,
            crowded=crowded and id(j) in marked,
            # A ban is one of the source's address, whatever it asks for.
            shut_out=(banned and family(bare(j.address)) == kind) or id(j) in alone,
        )
        for j in journeys
    ]


def _only_silent(j: Journey) -> bool:
    """Whether no attempt was answered."""
    return bool(j.failed) and len(j.failed) == len(j.trails) and j.symptoms == {Symptom.SILENT}


USUAL_TIMES = 2.0
"""Of a sweep so many times the loss of single requests, at its upper bound, is more than chance."""

MOST_LOST = 0.64
"""The share of round trips at which 15 of them are still no accident: 40 % lost each way."""


def _checks(prober: Evidence, observer: Evidence) -> list[Checked]:
    groups: dict[object, tuple[_Finding, list[Journey]]] = {}
    sought = _seeks(observer)
    sweep = sweep_between(prober, observer)
    journeys = _journeys(prober, observer, sweep)
    losing = any(_loses(journey) for journey in journeys)
    addresses = dict.fromkeys(journey.address for journey in journeys)
    large = {address: large_packets(prober, observer, address) for address in addresses}
    findings = [
        (
            journey,
            _with_large(_found(journey, losing=losing, sought=sought), _large_of(journey, large)),
        )
        for journey in journeys
    ]
    decides = _decides(prober, findings)
    for journey, found in findings:
        notes = decides.get(_place(journey))
        finding = msgspec.structs.replace(found, notes=(*found.notes, *(notes or ())))
        shape = _shape(journey, finding)
        group = (
            *(journey.transport, journey.address, finding, shape),
            *(notes is not None, sought and _in_use(journey)),
        )
        groups.setdefault(group, (finding, []))[1].append(journey)
    ended = list(groups.values())
    kinds = [(_kind(found, alike[0]), [_place(j) for j in alike]) for found, alike in ended]
    spread = spread_over(kinds, sweep, _wanted(prober, observer), seeks=sought)
    untried = {
        ("tcp", bare(part.address)): frozenset(part.ports) for part in spread.left if part.untried
    }
    checks = [
        _check(
            alike,
            finding,
            prober,
            observer,
            primary=_place(alike[0]) in decides,
            fits=large[alike[0].address].fits,
            swept=_OfSweep(more, untried.get((alike[0].transport, bare(alike[0].address)))),
        )
        for (finding, alike), more in zip(ended, spread.also, strict=True)
    ]
    apart = [_apart(part, checks, prober, observer) for part in spread.left]
    return [
        *(_checked(check, alike) for check, (_, alike) in zip(checks, ended, strict=True)),
        *(
            Checked(check, in_use=_held(part.ports, sweep))
            for check, part in zip(apart, spread.left, strict=True)
        ),
    ]


def _seeks(observer: Evidence) -> bool:
    """Whether a free port of the observer's is sought."""
    return observer.role == DESTINATION and observer.suggest


def _checked(check: Check, alike: Sequence[Journey]) -> Checked:
    j = alike[0]
    held = _in_use(j)
    tested = tuple(one.port for one in alike)
    free = j.own and not held
    part = Checked(check, free=free, tested=tested, untried=not j.own and not held)
    return msgspec.structs.replace(part, in_use=tuple(sorted(part.ports))) if held else part


def _in_use(j: Journey) -> bool:
    """Whether a program has the port on the destination, at whatever address."""
    return bool(j.holders or j.elsewhere) or j.own_error == "EADDRINUSE" or _led_on(j)


def _held(ports: Sequence[int], sweep: Sweep | None) -> tuple[int, ...]:
    if sweep is None:
        return ()
    return tuple(port for port in ports if port in sweep.fates and sweep.held(port))


def _kind(finding: _Finding, j: Journey) -> object:
    """What two ports of one fate must share for others of that fate to share it, too.

    None where it says nothing of others.
    """
    if j.shut_out and Symptom.SILENT in j.symptoms:
        return None
    named = tuple((code, confidence) for code, confidence, _ in finding.causes)
    return finding.status, finding.reachable, named, finding.candidates


_Place = tuple[str, str, int]


def _place(j: Journey) -> _Place:
    return j.transport, bare(j.address), j.port


def _decides(
    prober: Evidence, found: Iterable[tuple[Journey, _Finding]]
) -> dict[_Place, tuple[str, ...]]:
    """Return the places that decide the verdict, with what is to be noted there of a name.

    Port by port, since the addresses of a name may serve other ports each.
    """
    tried: dict[tuple[str, int], dict[str, Tried]] = {}
    for j, finding in found:
        item = Tried(j.address, finding.status, _how(j, finding))
        tried.setdefault((j.transport, j.port), {})[bare(j.address)] = item
    decides: dict[_Place, tuple[str, ...]] = {}
    for (transport, port), places in tried.items():
        for target in wanted(prober):
            mine = [places[a] for a in dict.fromkeys(map(bare, target.addresses)) if a in places]
            notes = order_notes(target.text, mine, transport)
            for address in map(bare, deciding(mine)):
                place = (transport, address, port)
                decides[place] = tuple(dict.fromkeys((*decides.get(place, ()), *notes)))
                notes = ()  # once is enough
    return decides


def _how(j: Journey, finding: _Finding) -> str:
    """What an application meets that tries to connect (`targets`).

    By UDP nothing is accepted: what gets to a program counts, whether it answers or not.
    """
    if finding.status == "open":
        return TAKEN
    taken = [trail for trail in j.trails if trail.connected]
    if taken:
        # Where bothends itself stood in for the service, nobody would have taken it.
        return REFUSED if j.own and any(trail.own for trail in taken) else TAKEN
    if j.route_error is not None or j.symptoms == {Symptom.LOCAL}:
        return LOCAL
    if j.unresolved:
        return NOBODY if j.on_link else GONE
    return SILENT if Symptom.SILENT in j.symptoms or not j.trails else REFUSED


def _large_of(j: Journey, large: Mapping[str, Large]) -> Large:
    """What is known of large packets at the address.

    They were segments of TCP between the two themselves: what something between takes and passes
    on goes by ways of its own.
    """
    told = j.transport == "tcp" and not j.relayed and not j.answered_early
    return large[j.address] if told else Large()


def _with_large(found: _Finding, large: Large) -> _Finding:
    """Add what is known of large packets, in its place on the way."""
    warnings = _union(found.warnings, (LARGE,) if large.hurts and not large.because else ())
    untold = (large.untold,) if large.untold and found.status == "open" else ()
    notes = (*found.notes, *large.notes, *untold)
    found = msgspec.structs.replace(found, warnings=warnings, notes=notes)
    if not large.because:
        return found
    order = list(CODES)
    behind = [order.index(code) > order.index(LARGE) for code, _, _ in found.causes]
    at = behind.index(True) if True in behind else len(behind)
    named = (*found.causes[:at], (LARGE, "proven", large.because), *found.causes[at:])
    return msgspec.structs.replace(
        found,
        reachable="no",
        causes=named,
        candidates=_union((code for code, _, _ in named), found.candidates),
        small_only=found.status == "open",
    )


def _perhaps_limited(j: Journey, limited: Collection[str]) -> Journey:
    if j.icmp is None and j.address in limited:
        return msgspec.structs.replace(j, perhaps_limited=True)
    return j


def _limited(journeys: Iterable[Journey], *, spent: bool) -> frozenset[str]:
    """The addresses at which whoever refuses by ICMP may have come to its limit for that.

    Linux sends six such errors to one peer at once and then one a second (icmp_ratelimit).
    `spent` is whether something refused the contact before, so that less was left.
    """
    refused = [j for j in journeys if j.icmp is not None]
    ports = Counter(j.address for j in refused)
    partly = {j.address for j in refused if Symptom.SILENT in j.symptoms}
    return frozenset(a for a, count in ports.items() if spent or count > 1 or a in partly)


def _shape(journey: Journey, finding: _Finding) -> object:
    """What else two ports must share to be one check: their segments and their holders."""
    names = tuple(row.program for row in journey.holders), journey.own
    return tuple(_segment_states(journey, finding).items()), names


def _loses(j: Journey) -> bool:
    """Whether requests alike met different fates, as they do where packets are lost."""
    arrived = {trail.arrived for trail in j.trails}
    silent = any(trail.symptom is Symptom.SILENT for trail in j.failed)
    return arrived >= {True, False} or (silent and len(j.failed) < len(j.trails))


def _found(j: Journey, *, losing: bool, sought: bool) -> _Finding:
    """Return what is made of one journey.

    Where a port is `sought` for a program that is yet to listen, the agent's own listener stood in
    for it, and that no program listens is nothing wrong.
    """
    found = _find(j, losing=losing)
    if not sought or not j.own or _led_on(j):
        return found
    if found.path_clear:
        return msgspec.structs.replace(
            found, reachable="yes", causes=(), candidates=(), next_step="", notes=shares(j)
        )
    return msgspec.structs.replace(
        found,
        causes=tuple(cause for cause in found.causes if not cause[0].startswith("service.")),
        candidates=tuple(c for c in found.candidates if not c.startswith("service.")),
    )


def _led_on(j: Journey) -> bool:
    """Whether the destination leads the port on, so that what the agent listens on gets nothing."""
    here = j.proven or j.counted_through or j.relayed
    passed = here and not any(trail.own for trail in j.proven or j.trails)
    return bool(j.own and (passed or j.led_past or j.forwarded))


def _find(j: Journey, *, losing: bool) -> _Finding:
    """Return what is made of one journey; `losing` is whether the way loses packets by chance."""
    services = () if j.led_past else _service_causes(j)
    if not j.trails:
        return _untried(services)
    if j.translation is not None and j.translation.other_port is not None:
        return _elsewhere(j, services) if not j.failed else _stopped(j, services, losing=losing)
    if (left := _left_open(j)) is not None:
        found = _find(left, losing=losing)
        return msgspec.structs.replace(found, notes=(*asked_for(j), *left_behind(j), *found.notes))
    if j.proven or j.counted_through or j.relayed:
        ended = j.unfinished or j.cut_off
        return _unfinished(j, services) if ended else _clear(j, services)
    if any(trail.connected for trail in j.trails):
        return _elsewhere(j, services)
    datagrams = _by_datagrams(j, services) if j.transport == "udp" else None
    return datagrams or _stopped(j, services, losing=losing)


def _by_datagrams(j: Journey, services: tuple[_Named, ...]) -> _Finding | None:
    """What only UDP has; None where it is as by TCP."""
    elsewhere = j.answered_from or (j.burst is not None and j.burst.reset_here)
    # Behind one router with the source, that is what the router does not translate back.
    if elsewhere and not (j.translation is not None and j.translation.together):
        return _answered_elsewhere(j, services)
    if j.translation is not None and leads_to_another_port(j.translation):
        return None
    return None if j.unanswered is False else _silent(j, services)


def _answered_elsewhere(j: Journey, services: tuple[_Named, ...]) -> _Finding:
    """The answers come, from an address that was not asked: some programs take them."""
    where = ", ".join(sorted(j.answered_from)) or "another address"
    note = (
        f"The service answers from {where} and not from the address that was asked: many programs, "
        "and firewalls between, do not take that for the answer."
    )
    return _Finding(
        path_clear=False,
        reachable="unknown",
        causes=(),
        candidates=tuple(code for code, _, _ in services),
        next_step="Let the application use the address from which the service answers, or have "
        "the service listen on the tested address alone.",
        notes=(*narrate(j), note),
    )


def _untried(services: tuple[_Named, ...]) -> _Finding:
    return _Finding(
        path_clear=False,
        reachable="unknown",
        causes=(),
        candidates=tuple(code for code, _, _ in services),
        next_step="Nothing could be tried. Run both sides again.",
    )


def _silent(j: Journey, services: tuple[_Named, ...]) -> _Finding:
    """No datagram was answered, which a program of UDP need not do; whether they came to it."""
    came = j.unanswered is True
    seen = narrate(j)
    named = tuple(
        (code, "proven" if came else how, (*seen, *because)) for code, how, because in services
    )
    if came and not named and j.wanted and any(not row.names for row in j.holders):
        return _unseen_program(j)
    fitting = [] if came else _fitting(j)
    limited = _REFUSING if j.perhaps_limited and not came else []
    notes = (_SILENT_NOTE,) if came else seen
    if j.led_past:
        notes = (*notes, "The datagrams are led to another socket inside the destination.")
    return _Finding(
        path_clear=came,
        reachable="no" if named else "yes" if came else "unknown",
        causes=named,
        candidates=_union(
            (code for code, _, _ in named), (cause.code for cause in fitting), limited
        ),
        # Only the source's user can say what is sent.
        next_step="" if came else _NOTHING_MORE if j.direction == BACK else _SEND_MORE,
        notes=() if named else notes,
    )


_SILENT_NOTE = (
    "The datagrams reach the program, and it answers none: a service of UDP may stay silent to "
    "what it does not know. Whether its answers come back shows when the source sends what it "
    "answers (--payload)."
)
_SEND_MORE = (
    "Start the source with --payload and something that the service answers: an answer would show "
    "that the way is open."
)


def _clear(j: Journey, services: tuple[_Named, ...]) -> _Finding:
    # Behind a forward inside the host (a container) the request reaches a program that the
    # socket table does not show: then what answered was not our own listener.
    reached = j.proven or j.trails
    forwarded = j.own and not any(t.own for t in reached)
    if j.own and not forwarded and not services:
        return _nobody_seen(j)
    found = () if forwarded else services
    proven = tuple((code, "proven", (*narrate(j), *because)) for code, _, because in found)
    notes: tuple[str, ...] = ()
    if forwarded:
        notes += ("The connection is forwarded inside the destination.",)
    if not found and all(t.attempt.spoke == "nothing" for t in reached):
        notes += ("The program sent nothing by itself; many wait for the other side to begin.",)
    if j.relayed and not j.proven:
        relayed = (
            "Something between the two computers takes the connections and passes them on in its "
            "own name: the destination sees them come from another address."
        )
        notes += (relayed,)
    if not found and j.half_open and len(j.proven) < HALF_OPEN:
        return _half_open(j)
    if not found and j.wanted and any(not row.names for row in j.holders):
        return _unseen_program(j)
    return _Finding(
        path_clear=True,
        reachable="no" if found else "yes",
        causes=proven,
        candidates=tuple(code for code, _, _ in found),
        warnings=_warnings(j),
        notes=(*notes, *shares(j)),
    )


def _warnings(j: Journey) -> tuple[str, ...]:
    """What hurts and does not block."""
    measured = j.loss is not None and j.loss.told
    partial = filters_some(j)
    # A service of UDP may take its time, or not answer each datagram.
    shows = j.transport == "tcp" or (j.source_packets and j.destination_packets)
    lossy = measured or (shows and _lossy(j) and not partial)
    return (*(("network.partial",) if partial else ()), *(("network.loss",) if lossy else ()))


def _left_open(j: Journey) -> Journey | None:
    """Return the journey through a forwarding that bothends asked for, works, and stays."""
    n = j.translation
    stays = n and n.through_mapping and n.opened and n.opened.kept and not j.proven
    return j.forwarding if stays else None


_BEHIND = ("destination.", "service.")


def _behind_router(j: Journey, named: Iterable[_Named]) -> tuple[_Named, ...]:
    """What else keeps requests from the service, as those show that came in by request (--map).

    Only behind what the forwarding got them past: the router.
    """
    codes = {code for code, _, _ in named}
    if j.forwarding is None or codes != {"nat.no-forward"} or not _let_in(j):
        return ()
    found = _find(j.forwarding, losing=False)
    return tuple(
        (code, how, (*asked_for(j), *because))
        for code, how, because in found.causes
        if code.startswith(_BEHIND)
    )


def _let_in(j: Journey) -> bool:
    return j.translation is not None and j.translation.through_mapping is True


def _half_open(j: Journey) -> _Finding:
    """The kernel has the request; whether the program would take the connection did not show."""
    return _Finding(
        path_clear=True,
        reachable="unknown",
        causes=(),
        candidates=("service.hung", "service.closes"),
        next_step="Test again: packets of the connection's beginning were lost on the way.",
        notes=narrate(j),
    )


def _unfinished(j: Journey, services: tuple[_Named, ...]) -> _Finding:
    """Requests and their answers get through, and what the source sends behind them does not."""
    came = sum(trail.connected for trail in j.trails)
    ends = (
        f"The source got the answer to each, and of {came} handshakes none was completed "
        "at the destination: what the source sends behind the request does not get through."
    )
    filters = ("destination.firewall-drop", "network.drop", "source.firewall-drop")
    if j.cut_off:
        ends += " It is answered by a reset, which the program did not send: it had no connection."
        filters = ("destination.firewall-reject", "network.reject", "source.firewall-reject")
    return _Finding(
        path_clear=False,
        reachable="no",
        causes=services,
        candidates=_union(filters, (code for code, _, _ in services)),
        next_step=_BEHIND_THE_REQUEST,
        notes=(*narrate(j), ends),
    )


_BEHIND_THE_REQUEST = (
    "Look for a filter that lets connection requests (SYN) through and not what follows them, such "
    "as a rule for new connections without one for established ones: on the destination, between "
    "the two, or on the source."
)


def _unseen_program(j: Journey) -> _Finding:
    """Somebody took the connection; whether it is the program that was named is not visible."""
    return _Finding(
        path_clear=True,
        reachable="unknown",
        causes=(),
        candidates=("service.other-program",),
        next_step=f"Run bothends on the destination as root: it then sees whether {j.wanted} or "
        "another program holds the port.",
        notes=narrate(j),
    )


def _nobody_seen(j: Journey) -> _Finding:
    """The agent's own listener answered, so no program has the port; where it is is unknown."""
    return _Finding(
        path_clear=True,
        reachable="no",
        causes=(),
        candidates=("service.other-port", "service.not-running")
        if j.wanted
        else ("service.not-running", "service.loopback-only", "service.wrong-interface"),
        next_step="Look on the destination whether the program runs, and on which address it "
        "listens.",
        notes=narrate(j),
    )


def _lossy(j: Journey) -> bool:
    """Whether packets were lost, as opposed to answers that were only late."""
    lost = [
        t
        for t in j.failed
        if (t.left and t.arrived is False)
        or (t.reply and t.reply & ANSWERS and t.returned is not None and not t.returned)
    ]
    silent = [t for t in j.failed if t.symptom is Symptom.SILENT]
    witnessed = j.source_packets and j.destination_packets
    return bool(lost) if witnessed else len(silent) >= ENOUGH


def _elsewhere(j: Journey, services: tuple[_Named, ...]) -> _Finding:
    """Every attempt connected, and none can be shown to have reached the destination."""
    kinds = ("address.", "nat.", "network.proxy")
    fitting = [c for c in PATH_CAUSES if c.code.startswith(kinds) and c.fits(j) is not False]
    confirmed = [c for c in fitting if c.fits(j) is True]
    early = j.answered_early and any(c.code == "network.proxy" for c in confirmed)
    elsewhere = missed(j) or early or (j.apart and j.stranger)
    if len(confirmed) == 1 and (elsewhere or confirmed[0].code == "nat.wrong-port"):
        cause = confirmed[0]
        because = narrate(j)
        if j.stranger:
            because += ("Another machine's network card answers for the address.",)
        confidence = "likely" if cause.likely(j) else "proven"
        # Once the way leads to the destination, who listens there matters.
        leads = cause.code.startswith(("nat.", "network.")) and not j.forwards
        named = ((cause.code, confidence, because), *(services if leads else ()))
        return _Finding(
            path_clear=False,
            reachable="no",
            causes=named,
            candidates=tuple(code for code, _, _ in named),
        )
    # It may take the port for a service of its own.
    by_router = j.translation is not None and j.translation.answered_by_holder
    return _Finding(
        path_clear=False,
        reachable="unknown",
        causes=(),
        candidates=(
            *(cause.code for cause in fitting if cause.code != "nat.no-forward" or by_router),
            # One that is reset at once is gone from the destination's table before it is read.
            *(("service.closes",) if any(t.attempt.spoke == "closed" for t in j.trails) else ()),
        ),
        next_step=(
            "Something answered the datagrams"
            if j.transport == "udp"
            else "Something accepted the connections"
        )
        + ", but the destination did not see them "
        "arrive. Run bothends on the destination with the right to see packets (as root, or "
        "with CAP_NET_RAW) to tell whether they reach it.",
    )


def _stopped(j: Journey, services: tuple[_Named, ...], *, losing: bool) -> _Finding:
    if _closed(j):
        return _Finding(
            path_clear=False,
            reachable="no",
            causes=tuple((c, how, (*narrate(j), *text)) for c, how, text in services),
            candidates=tuple(code for code, _, _ in services),
        )
    if j.forwarded:
        return _behind(j)
    if j.led_to_nobody:
        return _led_to_nobody(j)
    fitting = _fitting(j)
    confirmed = [cause for cause in fitting if cause.fits(j) is True]
    left = confirmed or fitting
    path: tuple[_Named, ...] = ()
    told = not _translated(j) or bool(confirmed) or _came_to_host(j)
    told = told or all(cause.code.startswith("source.") for cause in left)
    limited = j.perhaps_limited and j.symptoms == {Symptom.SILENT}
    told = told and not limited
    if Symptom.SILENT in j.symptoms:
        between = any(cause.code.startswith("network.") for cause in left)
        told = told and not j.shut_out and not (j.crowded and between)
    if told and len(left) == 1 and len(j.failed) >= _least(j, left[0], losing=losing):
        path = ((left[0].code, _confidence(j, left[0]), narrate(j)),)
    # Where the way ends is one question, who listens another: both are told. But what a host
    # that forwards does with the port shows only when packets reach it.
    causes = path if j.forwards else (*path, *_behind_router(j, path), *services)
    causes = (*causes, *_standing(j, causes))
    causes = tuple({cause[0]: cause for cause in reversed(causes)}.values())[::-1]
    codes = [c[0] for c in path] or [c.code for c in left]
    codes += _REFUSING if limited else []
    crowd = _SHUT_OUT if j.shut_out else _CROWDED if j.crowded else ""
    crowd = crowd if Symptom.SILENT in j.symptoms else ""
    next_step = "" if path else crowd or _decide(j, left)
    return _Finding(
        path_clear=False,
        reachable="no",
        causes=causes,
        warnings=("network.loss",) if j.loss is not None and j.loss.told else (),
        notes=(*_closes_at_home(j), *(() if path else asked_for(j)), *left_behind(j), *shares(j)),
        candidates=_union((code for code, _, _ in causes), codes, (c[0] for c in services)),
        next_step=next_step,
    )


_SHUT_OUT = (
    "Ports that answered at first stay silent since: something may have shut the source out for "
    "asking at so many. Wait some minutes, and test this port alone."
)
_CROWDED = (
    "Of many requests at once so many are lost on this way that silence shows no filter. Test this "
    "port alone: name it on the destination instead of so many."
)

_REFUSING = ["destination.firewall-reject", "network.reject"]
"""What refuses by ICMP."""


def _translated(j: Journey) -> bool:
    """Whether datagrams go through a router that translates.

    Of those nobody knows where they end: neither a tag of theirs nor a row of a table shows it.
    """
    return j.transport == "udp" and not j.local


def _came_to_host(j: Journey) -> bool:
    """Whether requests are known to have come to the destination itself, not only to its card.

    A card hands on what is for a machine behind a bridge, too.
    """
    counted = j.burst is not None and j.burst.received is True
    return counted or any(trail.arrived for trail in j.trails)


def _decide(j: Journey, left: Sequence[PathCause]) -> str:
    """The step that would tell more, of those that are not taken already."""
    if not left:
        return _NOTHING_FITS
    seen = j.source_packets and j.destination_packets
    steps = [
        cause.decide if j.destination_packets else f"{cause.decide} {cause.unseeing}".rstrip()
        for cause in left
        if not (seen and cause.decide.startswith(_TO_SEE))
    ]
    step = steps[0] if steps else _NOTHING_MORE
    return step.replace("connection requests", "datagrams") if j.transport == "udp" else step


_TO_SEE = "Run bothends on "
_NOTHING_MORE = "Test again from a third computer, on the same network as one of the two."


def _least(j: Journey, cause: PathCause, *, losing: bool) -> int:
    """Return how many requests must have failed before `cause` is named.

    Of many ports some lose their few requests by chance, where the way loses any (at 20 % three
    of three, for one port in 125); between the hosts that looks like a filter.
    """
    if j.symptoms == {Symptom.LOCAL}:
        return 1
    chance = cause.code.startswith("network.") and Symptom.SILENT in j.symptoms
    return CERTAIN if chance and losing else ENOUGH


def _closes_at_home(j: Journey) -> tuple[str, ...]:
    """What the destination's connection to itself shows and does not prove: rules may differ."""
    if j.self_connect is None or j.self_connect.spoke != "closed":
        return ()
    note = (
        f"When the destination connects to itself, {j.holder} closes the connection without a "
        "word. It may do so to others too, which shows only when packets reach it."
    )
    return (note,)


def _standing(j: Journey, named: Iterable[_Named]) -> tuple[_Named, ...]:
    """What else is known to be wrong, whether or not a request got that far."""
    codes = {code for code, _, _ in named}
    found: list[_Named] = []
    if j.return_error is not None and "destination.no-route" not in codes:
        because = (
            f"The destination's own routes do not lead back to the source ({j.return_error}).",
        )
        found.append(("destination.no-route", "likely", because))
    if j.answer_kept and "destination.firewall-reject" in codes:
        found.append(("destination.reply-blocked", "proven", narrate(j)))
    if j.unheard and not codes & {"source.reply-blocked", "network.reply-lost"}:
        back = [t.returned for t in j.failed if t.returned is not None]
        counted = j.burst is not None and j.burst.reached.get(Stage.RETURNED)
        if any(back) or counted:
            found.append(("source.reply-blocked", "proven", narrate(j)))
        elif back and len(back) >= CERTAIN:
            found.append(("network.reply-lost", "proven", narrate(j)))
    return tuple(found)


def _behind(j: Journey) -> _Finding:
    """The destination passes the port on inside itself, and behind that it does not work."""
    note = "The destination passes the requests on to a program behind it (a container)."
    refused = j.symptoms - {Symptom.SILENT}
    because = (*narrate(j), note)
    if j.burst is not None and j.burst.kept:
        code = "destination.firewall-reject" if refused else "destination.firewall-drop"
        text = (*because, "They do not leave the destination again: its own filter keeps them.")
        return _Finding(
            path_clear=False, reachable="no", causes=((code, "proven", text),), candidates=(code,)
        )
    return _Finding(
        path_clear=False,
        reachable="no",
        # A closed port answers with a reset; ICMP is what filters and routers say.
        causes=(("service.not-running", "likely", because),) if refused == {Symptom.RESET} else (),
        candidates=("service.not-running",)
        if refused == {Symptom.RESET}
        else ("destination.firewall-reject", "service.not-running")
        if refused
        else ("destination.firewall-drop", "service.not-running", "service.hung"),
        next_step="Look on the destination at the container or virtual machine that the port "
        "leads to: does it run, and does its own firewall let the port in?",
        notes=(note,),
    )


def _led_to_nobody(j: Journey) -> _Finding:
    """The destination leads the port to another place inside itself, where nobody listens."""
    note = (
        "The destination's own "
        f"{j.transport.upper()} refuses them, as it does where nobody listens, and at this port "
        "somebody does: the destination leads the port elsewhere (a redirect)."
    )
    because = (*narrate(j), note)
    # A program may take from another interface than the one by which these came in.
    bound = any(row.device is not None for row in j.holders)
    code = "service.not-running"
    return _Finding(
        path_clear=False,
        reachable="no",
        causes=() if bound else ((code, "likely", because),),
        candidates=("service.wrong-interface", code) if bound else (code,),
        next_step="Look on the destination at the rules that redirect the port (nft list ruleset, "
        "table nat), and at what should listen where they lead.",
        notes=because if bound else (),
    )


def _closed(j: Journey) -> bool:
    """Whether the refusal is what the kernel says of a port on which nobody listens."""
    refused = j.symptoms - {Symptom.SILENT} == {Symptom.RESET}
    if j.transport == "udp":
        # The kernel counts what it refuses so.
        counter = "Udp.NoPorts" if family(bare(j.address)) == 4 else "Udp6.NoPorts"
        refused = j.port_unreachable and counter not in j.still
    nobody = j.sockets and not j.own and not j.holders and j.own_error != "EADDRINUSE"
    return refused and nobody and j.stopped > Stage.ARRIVED


_NOTHING_FITS = (
    "What was seen fits none of the known causes. Test again, as root on both computers if "
    "that was not so."
)


def _fitting(j: Journey) -> list[PathCause]:
    last, first = j.furthest, j.stopped
    # What answers only now and then (ICMP is rate-limited) is no silence: RFC 1812, 4.3.2.8.
    symptoms = j.symptoms - {Symptom.SILENT} or j.symptoms
    return [
        cause
        for cause in PATH_CAUSES
        if cause.acts[0] < first
        and cause.acts[1] > last
        and symptoms <= cause.symptoms
        and cause.fits(j) is not False
    ]


def _confidence(j: Journey, cause: PathCause) -> str:
    """`proven` where witnesses saw the packets up to the very step, and not after it."""
    if cause.likely(j):
        return "likely"
    if cause.code.startswith("nat.") and cause.fits(j) is True:
        return "proven"  # each has a witness of its own
    start, end = cause.acts
    bracketed = j.furthest >= start and j.stopped <= end
    wide = end - start > 1 and j.furthest < Stage.ARRIVED
    if not bracketed or wide:
        return "likely"
    ends = {j.furthest, j.stopped} & j.counted.keys()
    if j.burst is not None and ends & j.burst.inferred:
        return "likely"
    if j.counted.get(j.stopped) is False or j.symptoms == {Symptom.LOCAL}:
        return "proven"
    # Between the hosts, and in the queue of a card, loss could be it; within a host it cannot.
    chance = j.furthest is not Stage.ARRIVED and Symptom.SILENT in j.symptoms
    chance = chance and cause.fits(j) is not True
    seen = j.count(j.furthest) or 0
    return "proven" if seen >= (CERTAIN if chance else ENOUGH) else "likely"


def _service_causes(j: Journey) -> tuple[_Named, ...]:
    # Behind a router only where the address leads to it, or requests do.
    n = j.translation
    behind = n is not None and (n.ours is True or bool(j.proven) or j.furthest >= Stage.ARRIVED)
    if not j.local and not (behind and j.landing is not None and not j.on_link):
        return ()
    return tuple(
        (cause.code, "likely", (cause.because(j),)) for cause in SERVICE_CAUSES if cause.found(j)
    )


MAX_QUOTED = 3
"""Rules that are quoted for one cause, however many ports share it."""


class _OfSweep(msgspec.Struct, frozen=True):
    """What a sweep adds to those ports of a check that were tested in depth."""

    also: tuple[int, ...] = ()
    """Ports that they stand for."""
    untried: frozenset[int] | None = None
    """Of the address, ports that got no request."""

    def filled(self, ports: Sequence[int]) -> str:
        """Return `ports`, ascending, and of those not tried what lies between two of them.

        What helps at one port of a sample is to help between them, too.
        """
        if not self.untried:
            return format_ports(ports)
        found = [(port, port) for port in ports[:1]]
        for low, high in itertools.pairwise(ports):
            if self.untried.issuperset(range(low + 1, high)):
                found[-1] = (found[-1][0], high)
            else:
                found.append((high, high))
        return str(PortSet("tcp", tuple(found)))


def _quotes(code: str, alike: Iterable[Journey]) -> tuple[str, ...]:
    found = dict.fromkeys(text for j in alike for text in quote(j, code))
    return tuple(found)[:MAX_QUOTED]


def _check(
    alike: list[Journey],
    finding: _Finding,
    prober: Evidence,
    observer: Evidence,
    *,
    primary: bool,
    fits: int,
    swept: _OfSweep,
) -> Check:
    """The check of journeys that ended alike, and of the ports of a sweep that they stand for."""
    j = alike[0]
    ports = sorted((*(one.port for one in alike), *swept.also))
    text = format_ports(ports)
    # Nobody is to open thousands of ports for one that is sought.
    mend = str(min(one.port for one in alike)) if _seeks(observer) else swept.filled(ports)
    blockers = tuple(
        Blocker(
            code=code,
            confidence=confidence,
            because=(*because, *_quotes(code, alike)),
            fix=fixes_for(_case(code, j, mend, prober, observer, fits)),
        )
        for code, confidence, because in finding.causes
    )
    check = Check(
        direction=j.direction,
        transport=j.transport,
        address=j.address,
        ports=text,
        primary=primary,
        status=finding.status,
        reachable=finding.reachable,
        warnings=finding.warnings,
        blockers=blockers,
        candidates=finding.candidates,
        next_step=finding.next_step,
        segments=_segments(j, finding),
        notes=(*finding.notes, *_notes(j, finding, prober), *_stands_for(alike, swept.also)),
    )
    return in_pair(check)


def _stands_for(alike: Sequence[Journey], ports: Sequence[int]) -> tuple[str, ...]:
    if not ports:
        return ()
    tested = format_ports(j.port for j in alike)
    return (f"Each port got a request. Tested in depth: {tested}; the others fared just alike.",)


_MAY_BE = {
    "connected": ("service.hung", "service.closes", "service.other-program"),
    "silent": (
        "destination.firewall-drop",
        "network.drop",
        "source.firewall-drop",
        "destination.reply-blocked",
        "network.reply-lost",
        "source.reply-blocked",
    ),
    "refused": ("service.not-running", "destination.firewall-reject", "network.reject"),
    "icmp": ("destination.firewall-reject", "network.reject", "source.firewall-reject"),
    "failed": ("source.firewall-drop", "source.firewall-reject", "source.no-route"),
}
"""By what the sender met: what may be behind it where nothing else is known."""


def _apart(part: Apart, checks: Sequence[Check], prober: Evidence, observer: Evidence) -> Check:
    """The check of ports of a sweep for which none that was tested in depth can stand.

    Who listens there is known all the same: where the agent itself could, nobody.
    """
    primary = any(c.primary for c in checks if bare(c.address) == bare(part.address))
    near = [check for index, check in enumerate(checks) if index in part.like]
    codes = _union(*(c.candidates for c in near), _may_be(part))
    if part.free and _seeks(observer):
        codes = tuple(code for code in codes if not code.startswith("service."))
    nobody = _nobody(near) if part.free and part.outcome != "connected" else ()
    states = {"service": _BLOCKED} if nobody else {}
    because = {"service": nobody[0].because} if nobody else {}
    return Check(
        direction=f"{prober.role}-to-{observer.role}",
        transport="tcp",
        address=part.address,
        ports=format_ports(part.ports),
        primary=primary,
        status="blocked" if nobody else "undetermined",
        reachable="no" if nobody else "unknown",
        blockers=nobody,
        candidates=_union((blocker.code for blocker in nobody), codes),
        next_step="Test some of these ports alone: name fewer of them on the destination.",
        segments=tuple(
            Segment(name=name, status=states.get(name, _UNKNOWN), because=because.get(name, ()))
            for name in SEGMENTS
        ),
        notes=(part.why,),
    )


def _may_be(part: Apart) -> tuple[str, ...]:
    if part.free and part.outcome == "connected":
        return ("service.not-running",)
    return _MAY_BE.get(part.outcome, ())


def _nobody(near: Sequence[Check]) -> tuple[Blocker, ...]:
    """That no program listens, as it was found of ports alike; none where it was not of all."""
    found = [
        blocker
        for check in near
        for blocker in check.blockers
        if blocker.code == "service.not-running"
    ]
    return tuple(found[:1]) if len(found) == len(near) else ()


def _notes(j: Journey, finding: _Finding, source: Evidence) -> tuple[str, ...]:
    codes = {*finding.candidates, *(code for code, _, _ in finding.causes)}
    notes = (
        *address_notes(j, codes, reachable=finding.reachable == "yes"),
        *temporary_note(source, {t.attempt.local_address for t in j.trails}, codes),
    )
    if j.direction == BACK and "service.not-running" in codes:
        notes += (_BACK_TOO,)
    return notes


_BACK_TOO = (
    "With --both-ways the port must accept connections on both computers. If only one of the two "
    "is meant to, test again without --both-ways."
)


def _case(
    code: str, j: Journey, ports: str, source: Evidence, destination: Evidence, fits: int
) -> FixCase:
    wanted: PortSet = parse_ports(f"{j.transport}:{ports}")[0]
    local = next((t.attempt.local_address for t in j.trails if t.attempt.local_address), "")
    rows = j.holders or j.elsewhere
    n = j.translation
    return FixCase(
        code=code,
        transport=j.transport,
        ports=wanted.ranges,
        address=j.address,
        source_address=local,
        source=source.facts,
        destination=destination.facts,
        program=next((row.program for row in rows if row.program), None),
        listening=tuple(sorted({row.address for row in rows})),
        devices=_devices(j),
        other_ports=tuple(sorted({row.port for row in j.wanted_elsewhere})),
        together=j.together if n is None else n.together,
        landing=j.landing or "",
        public=j.public,
        router=router_of(destination, j.landing),
        routers=Routers() if n is None else _routers(n),
        fits=fits,
        half_open=syn_queue_full(j),
    )


def _devices(j: Journey) -> tuple[str, ...]:
    here = (row for row in j.elsewhere if covers(row, j.landing or j.address))
    return tuple(sorted({row.device for row in here if row.device}))


def _routers(n: Translation) -> Routers:
    mapping = n.mapping
    led = mapping is not None and mapping.client is not None and mapping.enabled
    came_at = n.other_port or (mapping.client_port if led and mapping is not None else 0)
    return Routers(
        asked_by=n.asked_by if n.opened is None or n.opened.outcome == "granted" else (),
        leads_to=(mapping.client or "") if led and mapping is not None else "",
        came_at=came_at,
        outside=n.router_outside,
        carrier=n.carrier,
        forwards=bool(n.to_destination) and n.stops_after is None,
    )


def _segment_states(j: Journey, finding: _Finding) -> dict[str, str]:
    reached = j.furthest if not finding.path_clear else Stage.CONNECTED
    after = {
        "source": Stage.LEFT,
        "network": Stage.ARRIVED,
        "nat": Stage.ARRIVED,
        "destination": Stage.DELIVERED,
    }
    states = {name: _CLEAR if reached >= stage else _UNKNOWN for name, stage in after.items()}
    if j.translation is not None and j.translation.reached:
        states |= {"source": _CLEAR, "network": _CLEAR}
    served = finding.reachable == "yes" or finding.small_only
    states["service"] = _CLEAR if served else _UNKNOWN
    blocked = {_segment_of(code) for code, _, _ in finding.causes}
    for name in blocked:
        states[name] = _BLOCKED
    first = next((n for n in SEGMENTS if states[n] == _BLOCKED), None)
    if first is not None:
        for name in SEGMENTS[SEGMENTS.index(first) + 1 :]:
            if states[name] == _UNKNOWN:
                states[name] = _NOT_REACHED
    return states


def _segment_of(code: str) -> str:
    segment = code.partition(".")[0]
    return segment if segment in SEGMENTS else "network"


def _segments(j: Journey, finding: _Finding) -> tuple[Segment, ...]:
    because = {_segment_of(code): text for code, _, text in finding.causes}
    return tuple(
        Segment(name=name, status=status, because=because.get(name, ()))
        for name, status in _segment_states(j, finding).items()
    )


def combine(checks: Sequence[Check]) -> Verdict:
    """Return the verdict that the checks make together, without a name yet."""
    decisive = _decisive(checks)
    statuses = {check.status for check in decisive}
    status = next((s for s in ("blocked", "undetermined", "open") if s in statuses), "undetermined")
    blockers = _union(*([b.code for b in check.blockers] for check in decisive))
    reachable = {check.reachable for check in decisive}
    return Verdict(
        verdict_id=None,
        status=status,
        reachable=next((r for r in ("no", "unknown", "yes") if r in reachable), "unknown"),
        blockers=blockers,
        warnings=_union(*(check.warnings for check in decisive)),
        candidates=_union(blockers, *(check.candidates for check in decisive)),
        summary=title(status, decisive),
        checks=tuple(checks),
    )


def _decisive(checks: Sequence[Check]) -> tuple[Check, ...]:
    return tuple(check for check in checks if check.primary) or tuple(checks)


def _union(*lists: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for items in lists for item in items))


def _unresolved(prober: Evidence, observer: Evidence) -> list[Check]:
    """The checks of targets whose names mean nothing to the source: nothing can be sent."""
    checks = []
    for target in prober.targets:
        for part in () if target.addresses else _wanted(prober, observer):
            because = f"The source's name service has no address for {target.text}"
            blocker = Blocker(
                code="source.name",
                confidence="proven",
                because=(f"{because}: {target.error}." if target.error else f"{because}.",),
                fix=fixes_for(
                    FixCase(
                        code="source.name",
                        transport=part.transport,
                        ports=part.ranges,
                        address=target.text,
                        source_address="",
                        source=prober.facts,
                        destination=observer.facts,
                    )
                ),
            )
            checks.append(
                Check(
                    direction=f"{prober.role}-to-{observer.role}",
                    transport=part.transport,
                    address=target.text,
                    ports=str(part),
                    primary=True,
                    status="blocked",
                    reachable="no",
                    blockers=(blocker,),
                    candidates=("source.name",),
                    segments=tuple(
                        Segment(name=name, status=_BLOCKED if name == "source" else _NOT_REACHED)
                        for name in SEGMENTS
                    ),
                )
            )
    return checks


def _wanted(prober: Evidence, observer: Evidence) -> list[PortSet]:
    """The ports under test, which the destination names."""
    destination = observer if observer.role == DESTINATION else prober
    return [part for text in destination.ports for part in parse_ports(text)]


def _both(forth: Verdict, back: Verdict) -> Verdict:
    """The verdict on both directions."""
    parts = {FORTH: forth, BACK: back}
    statuses, reachable = ({forth.status, back.status}, {forth.reachable, back.reachable})
    blockers = _union(forth.blockers, back.blockers)
    return Verdict(
        verdict_id=None,
        status=next(s for s in ("blocked", "undetermined", "open") if s in statuses),
        reachable=next(r for r in ("no", "unknown", "yes") if r in reachable),
        blockers=blockers,
        warnings=_union(forth.warnings, back.warnings),
        candidates=_union(blockers, forth.candidates, back.candidates),
        summary=title_of_both((FORTH, *_told(forth)), (BACK, *_told(back))),
        checks=(*forth.checks, *back.checks),
        directions={
            name: {"status": part.status, "blockers": list(part.blockers)}
            for name, part in parts.items()
        },
        suggestion=forth.suggestion,
    )


def _told(part: Verdict) -> tuple[str, str, tuple[Check, ...]]:
    return part.status, part.summary, _decisive(part.checks)


def _not_tried(prober: Evidence, source: Evidence, destination: Evidence) -> Verdict:
    """The verdict on a direction in which nothing was sent."""
    if prober.role == SOURCE:
        return _untested(source, destination)
    summary = untested_back(known=bool(wanted(prober)))
    return Verdict(verdict_id=None, status="undetermined", reachable="unknown", summary=summary)


def _signed(verdict: Verdict, source: Evidence, destination: Evidence) -> Verdict:
    from msgspec.structs import replace  # noqa: PLC0415  kept beside its one use

    from .wire import pack  # noqa: PLC0415

    name = hashlib.sha256(pack(source) + pack(destination)).hexdigest()[:32]
    return replace(verdict, verdict_id=name)


def _alone(own: Evidence) -> list[Check]:
    """The checks of a side that lost the other: what was tried, and no claim."""
    if own.role != SOURCE:
        return []
    keys = list(dict.fromkeys((a.transport, a.address, a.port) for a in own.attempts))
    primary = set(
        primary_addresses(
            targets=[a for t in own.targets for a in t.addresses],
            typed=own.contact.typed,
            remote=own.contact.remote,
            confirmed=own.confirmed,
        )
    )
    checks = []
    parts = by_port(own)
    for key in keys:
        j = observe(parts.get((key[0], key[2]), own), None, key)
        fitting = tuple(cause.code for cause in _fitting(j)) if j.failed else ()
        checks.append(
            Check(
                direction=f"{own.role}-to-{other_role(own.role)}",
                transport=j.transport,
                address=j.address,
                ports=str(j.port),
                primary=j.address in primary,
                status="undetermined",
                reachable="unknown",
                candidates=fitting,
                next_step="Run both sides again.",
                segments=tuple(Segment(name=name, status=_UNKNOWN) for name in SEGMENTS),
            )
        )
    return checks
