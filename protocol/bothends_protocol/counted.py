"""What the kernel counters of both sides say of a coded burst.

Two kinds of counter are looked at. A **gate** counts what passes one place
(`Ip.InReceives`: what IP got). A **gap** is the difference between two gates in
a row (`Ip.InReceives` less `Ip.InDelivers`: what was lost between the two). All
other traffic of the host passes both gates and so cancels out of a gap; where a
busy host's gates are too noisy to show 144 requests, its gaps still do (the lab's
rows "traffic", beside spurts of 4,600 packets a second; docs/performance.md).

The counters are those of RFC 4293 as Linux keeps them (net/ipv4/ip_input.c,
ip_output.c; `Ip.OutTransmits` since Linux 6.7) and the cards' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from .addresses import bare, family
from .bursts import WINDOW_SECONDS, follows, measure, readings_of
from .evidence import Burst, Evidence, Probe, RoundPlan, Samples
from .messages import Told
from .stages import Stage

__all__ = [
    "BurstView",
    "as_told",
    "kept_back",
    "lost_inside",
    "met_full_queue",
    "nominal",
    "queue_dropped",
    "rise",
    "told_enough",
    "view_burst",
    "view_bursts",
]


class BurstView(msgspec.Struct, frozen=True):
    """What the counters of both sides say of coded bursts, each True, False or unknown."""

    sent: int
    """Requests in all of the bursts."""
    reached: dict[Stage, bool]
    """Stages the bursts are known to have reached or not; those that are unknown are missing."""
    inferred: frozenset[Stage]
    """Those of the stages that no counter showed: they are left by elimination."""
    forwarded: bool | None
    """Whether the destination passed them on to somebody else (a container)."""
    kept: bool | None
    """Whether the destination's own filter kept what was to leave it: answers, or what was to be
    passed on."""
    limited: bool | None
    """Whether the destination would have refused them by ICMP and kept to its limit for that."""
    overflowed: bool | None
    """Whether they overflowed the queue of a listening socket."""
    received: bool | None
    """Whether the destination's own IP got them, and not only its card."""
    misrouted: bool | None
    """Whether the destination found them coming from the wrong side, or no way back."""
    refused: bool | None = None
    """Whether the destination's TCP or UDP itself refused them, as it does where nobody listens: a
    filter that refuses does not show in this counter."""
    made: bool | None = None
    """UDP: whether the destination made an answer to each, whatever became of it then."""
    reset_here: bool | None = None
    """Whether the source's TCP or UDP refused as many packets: answers that came from an address
    which it had not asked."""
    unlisted: bool | None = None
    """TCP: whether they met a full SYN queue and were answered by SYN cookies, which leave no row
    in the socket table (RFC 4987, 3.6)."""
    dropped: bool | None = None
    """TCP: the same where the host makes no SYN cookies: it dropped them."""


MAX_JUDGED = 3
"""Bursts at one probe that are looked at: no honest side sends more (`plan.MAX_SAME_BURSTS`)."""


def view_bursts(
    source: Evidence | None,
    table: Evidence | None,
    key: tuple[str, str, int],
    *,
    taken: bool | None,
) -> BurstView | None:
    """Return what all bursts at `key` (transport, address, port) tell, None where none was sent.

    `taken` is whether the destination's sockets took any single request, None where unknown.
    """
    sent = [
        burst
        for burst in (() if source is None else source.bursts)
        if (burst.transport, burst.address, burst.port) == key
    ][:MAX_JUDGED]
    if source is None or not sent:
        return None
    plans = {plan.number: plan for plan in source.rounds or (() if table is None else table.rounds)}
    views = [
        _in_one(
            one,
            plans.get(one.round),
            _samples(source, one.round),
            _samples(table, one.round),
            taken,
        )
        for one in sent
    ]
    reached = {stage: _agreed(view.reached.get(stage) for view in views) for stage in Stage}
    return BurstView(
        sent=sum(view.sent for view in views),
        reached={stage: told for stage, told in reached.items() if told is not None},
        inferred=frozenset(
            stage
            for stage in reached
            if all(stage in view.inferred or stage not in view.reached for view in views)
        ),
        forwarded=_agreed(view.forwarded for view in views),
        kept=_agreed(view.kept for view in views),
        limited=_agreed(view.limited for view in views),
        overflowed=_agreed(view.overflowed for view in views),
        unlisted=_agreed(view.unlisted for view in views),
        dropped=_agreed(view.dropped for view in views),
        received=_agreed(view.received for view in views),
        misrouted=_agreed(view.misrouted for view in views),
        refused=_agreed(view.refused for view in views),
        made=_agreed(view.made for view in views),
        reset_here=_agreed(view.reset_here for view in views),
    )


def nominal(plan: RoundPlan, probe: Probe) -> Burst:
    """Return the burst of `plan` as it was announced: each window all at once, at its beginning."""
    return Burst(
        round=plan.number,
        transport=probe.transport,
        address=probe.address,
        port=probe.port,
        sends=tuple(
            window * WINDOW_SECONDS
            for window, full in enumerate(plan.pattern)
            if full == "1"
            for _ in range(plan.attempts)
        ),
    )


def _in_one(
    sent: Burst,
    plan: RoundPlan | None,
    here: Samples | None,
    there: Samples | None,
    taken: bool | None,  # noqa: FBT001  as in `view_burst`
) -> BurstView:
    """What the readings tell of a burst as it was sent, or else of it as it was announced.

    The moments of sending are those at which the sender was told; where that is a busy computer
    they are late, by as much as packets are apart. The observer itself plans by what was announced.
    """
    exact = view_burst(sent, here, there, taken=taken)
    if plan is None or len(plan.probes) != 1 or not plan.pattern:
        return exact
    burst = nominal(plan, plan.probes[0])
    if len(burst.sends) != len(sent.sends):
        return exact  # not all of it could be sent
    told = view_burst(burst, here, there, taken=taken)
    found = {
        name: getattr(told, name) if value is None else value
        for name, value in msgspec.structs.asdict(exact).items()
    }
    found["reached"] = told.reached | exact.reached
    found["inferred"] = exact.inferred | (told.inferred - exact.reached.keys())
    return BurstView(**found)


def as_told(view: BurstView) -> Told:
    """Return what one side tells the other of `view`."""
    # What a full queue dropped has no answer that another burst could look for.
    unanswered = (int(Stage.REPLIED),) if view.dropped else ()
    return Told(
        reached=tuple(int(stage) for stage, there in view.reached.items() if there),
        missed=(*(int(s) for s, there in view.reached.items() if not there), *unanswered),
        forwarded=view.forwarded is True,
        refused=view.refused is True,
    )


def told_enough(parts: Iterable[Told], *, refused: bool) -> bool:
    """Return whether the two sides' counters together say where the requests end.

    `refused` is whether attempts are refused: then the answers are no part of the question.
    """
    listed = list(parts)
    if any(part.forwarded or (refused and part.refused) for part in listed):
        return True
    last = Stage.DELIVERED if refused else Stage.RETURNED
    got_to = [stage for part in listed for stage in part.reached if stage <= last]
    furthest = max(got_to, default=int(Stage.MADE))
    return furthest >= last or any(furthest + 1 in part.missed for part in listed)


def _agreed(answers: Iterable[bool | None]) -> bool | None:
    """What those who know say, None where they contradict each other."""
    told = {answer for answer in answers if answer is not None}
    return told.pop() if len(told) == 1 else None


def _samples(evidence: Evidence | None, number: int) -> Samples | None:
    kept = () if evidence is None else evidence.samples
    return next((samples for samples in kept if samples.round == number), None)


def view_burst(
    sent: Burst, here: Samples | None, there: Samples | None, *, taken: bool | None
) -> BurstView:
    """Return what the readings of the source and of the destination tell of one burst."""
    v6 = family(bare(sent.address)) == 6
    reached: dict[Stage, bool | None] = {}
    inferred: set[Stage] = set()
    forwarded = misrouted = overflowed = kept = limited = refused = reset_here = made = None
    received = unlisted = dropped = None
    if here is not None:
        near = _Host(sent, here, v6=v6)
        reached[Stage.LEFT] = near.left()
        reached[Stage.RETURNED] = near.returned()
        reset_here = near.refused
        inferred |= near.inferred
    if there is not None:
        far = _Host(sent, there, v6=v6)
        forwarded = _any(far.passed("Ip.ForwDatagrams"), far.passed("Ip6.OutForwDatagrams"))
        kept = far.kept
        limited = far.passed("Icmp6.OutRateLimitHost" if v6 else "Icmp.OutRateLimitHost")
        overflowed = far.overflowed
        unlisted, dropped = far.passed(_COOKIES), far.passed(_NO_COOKIES)
        refused = far.refused
        made = far.made()
        received = far.passed("Ip6.InReceives" if v6 else "Ip.InReceives")
        misrouted = _any(
            far.passed("TcpExt.IPReversePathFilter"),
            far.passed("Ip.OutNoRoutes"),
            far.passed("Ip6.OutNoRoutes"),
        )
        reached[Stage.ARRIVED] = far.arrived(taken=taken, forwarded=forwarded)
        delivered = reached[Stage.DELIVERED] = far.delivered(taken=taken, overflowed=overflowed)
        if delivered is not None or not far.passed(far.gate):
            full = _any(overflowed, dropped is True)
            reached[Stage.REPLIED] = far.replied(taken=taken, overflowed=full)
            unmade = sent.transport == "udp" and made is None
            unmade = unmade or dropped or (dropped is None and queue_dropped(there) > 0)
            if unmade and not reached[Stage.REPLIED]:
                reached[Stage.REPLIED] = None  # what left not may never have been made
        elif far.answered():
            # There is no row of the requests: the handshakes were given up at once, since these
            # answers were refused.
            reached[Stage.DELIVERED] = True
            reached[Stage.REPLIED] = far.replied(taken=taken, overflowed=overflowed)
        if dropped and not reached.get(Stage.RETURNED):
            reached[Stage.RETURNED] = None  # nor is there anything that could have come back
        inferred |= far.inferred
    return BurstView(
        sent=len(sent.sends),
        reached={stage: told for stage, told in reached.items() if told is not None},
        inferred=frozenset(inferred),
        forwarded=forwarded,
        kept=kept,
        limited=limited,
        overflowed=overflowed,
        unlisted=unlisted,
        dropped=dropped,
        received=received,
        misrouted=misrouted,
        refused=refused,
        made=made,
        reset_here=reset_here,
    )


_COOKIES, _NO_COOKIES = "TcpExt.TCPReqQFullDoCookies", "TcpExt.TCPReqQFullDrop"
"""Requests that met a full SYN queue: answered by SYN cookies, and dropped (net/ipv4/tcp_input.c,
tcp_syn_flood_action). With net.ipv4.tcp_syncookies at 2 each counts as the first."""


def rise(samples: Samples, name: str) -> int | None:
    """Return by how much a counter rose meanwhile; None where it was not read."""
    row = samples.values.get(name, ())
    return row[-1] - row[0] if row else None


def kept_back(samples: Samples | None) -> int:
    """Return how many more packets IP was asked to send meanwhile than it sent; 0 if unread."""
    if samples is None:
        return 0
    kept = 0
    for ip in ("Ip", "Ip6"):
        asked, sent = rise(samples, f"{ip}.OutRequests"), rise(samples, f"{ip}.OutTransmits")
        if asked is not None and sent is not None:
            kept += asked - sent
    return kept


def queue_dropped(samples: Samples) -> int:
    """Return how many requests a full SYN queue dropped meanwhile, whosever."""
    return rise(samples, _NO_COOKIES) or 0


def met_full_queue(samples: Samples) -> int:
    """Return how many requests met a full SYN queue: they leave no row in the socket table."""
    return (rise(samples, _COOKIES) or 0) + queue_dropped(samples)


def _any(*told: bool | None) -> bool | None:
    return True if True in told else None if None in told else False


_WHOLE = 0.8
"""Part of what comes to a gap that must be lost in it. Where packets are wrapped into others
(IPsec, a tunnel) each is counted twice before it and once behind, and nothing is lost."""

_ALIVE = 3
"""Different readings of a card in one burst that show that it counts at once. The messages of the
contact before and behind the burst make as many."""


def lost_inside(samples: Samples, *, v6: bool) -> int | None:
    """Return how many packets the host's IP got during `samples` and handed to nobody.

    Of these counters other traffic cancels out, but for what is lost there itself. None where one
    does not exist.
    """
    lost = readings_of(samples, *_input_gap(samples, v6=v6))
    return lost[-1] - lost[0] if lost else None


def _input_gap(samples: Samples, *, v6: bool) -> tuple[list[str], list[str]]:
    """The counters before and behind a host's inbound filter."""
    ip, no_routes = ("Ip6", "Ip6.InNoRoutes") if v6 else ("Ip", "IpExt.InNoRoutes")
    forwarded = "Ip6.OutForwDatagrams" if v6 else "Ip.ForwDatagrams"
    others = [name for name in (f"{ip}.InAddrErrors", no_routes) if name in samples.values]
    return [f"{ip}.InReceives"], [f"{ip}.InDelivers", forwarded, *others]


class _Host:
    """The readings of one host during one burst."""

    def __init__(self, sent: Burst, samples: Samples, *, v6: bool) -> None:
        self._sent = sent
        self._samples = samples
        self._ip = "Ip6" if v6 else "Ip"
        self._udp = ("Udp6" if v6 else "Udp") if sent.transport == "udp" else ""
        self.gate = f"{self._ip}.InDelivers" if self._udp else "Tcp.InSegs"
        """The counter of what came through to TCP or UDP. UDP has none of its own: its
        `InDatagrams` counts what a program has read."""
        self.inferred: set[Stage] = set()
        """Stages told by elimination, or by a gap alone where the gate behind it is too noisy."""
        self._forwarded = "Ip6.OutForwDatagrams" if v6 else "Ip.ForwDatagrams"
        self.kept = self._kept(v6=v6)
        """Whether what was to leave was kept by the outbound filter of this host."""
        # Before Linux 6.7 IPv4 counted OutRequests where OutTransmits is now, forwarded packets
        # too; IPv6 counted it before its filter, and no forwarded ones.
        new = f"{self._ip}.OutTransmits" in samples.values
        self._sent_by_ip = f"{self._ip}.OutTransmits" if new else f"{self._ip}.OutRequests"
        leaving = (
            ["Ip.OutTransmits", "Ip6.OutTransmits"]
            if new
            else ["Ip.OutRequests", "Ip6.OutRequests", "Ip6.OutForwDatagrams"]
        )
        behind = self._live("tx", told=self._gap(self._there(leaving), ["dev.tx"]))
        self._out_gap = behind if v6 and not new else _any(self.kept, behind)
        received = self._there(["Ip.InReceives", "Ip6.InReceives"])
        self._card_in_gap = self._live("rx", told=self._gap(["dev.rx"], received))
        self._input_gap = self._gap(*_input_gap(samples, v6=v6))

    def _there(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name in self._samples.values]

    def _kept(self, *, v6: bool) -> bool | None:
        if f"{self._ip}.OutTransmits" in self._samples.values:
            # Nothing but an outbound filter keeps any of these; a program may answer late.
            return self._gap(
                [f"{self._ip}.OutRequests", self._forwarded],
                [f"{self._ip}.OutTransmits"],
                late=True,
            )
        if v6 or self._udp:
            return self.passed(f"{self._ip}.OutDiscards") if self._udp else None
        return self._gap(["Tcp.OutSegs", self._forwarded], ["Ip.OutRequests"])

    def _gap(self, plus: Sequence[str], minus: Sequence[str], *, late: bool = False) -> bool | None:
        told = follows(self._sent, self._samples, plus, minus, late=late)
        if told and follows(self._sent, self._samples, plus):
            lost = measure(self._sent, self._samples, plus, minus)
            came = measure(self._sent, self._samples, plus)
            if lost is None or came is None or lost.slope < _WHOLE * came.slope:
                return None
        return told

    def _live(self, way: str, *, told: bool | None) -> bool | None:
        """`told`, but nothing of a card that does not count at once: some do once a second."""
        card = self._samples.values.get(f"card.{way}", self._samples.values.get(f"dev.{way}", ()))
        return told if len(set(card)) >= _ALIVE or way in self._samples.prompt else None

    def passed(self, name: str) -> bool | None:
        """Whether the burst passed the gate `name`."""
        return follows(self._sent, self._samples, [name])

    @property
    def refused(self) -> bool | None:
        """Whether this host's TCP or UDP refused the burst, since nobody listens."""
        return self.passed(f"{self._udp}.NoPorts" if self._udp else "Tcp.OutRsts")

    @property
    def overflowed(self) -> bool | None:
        """Whether the burst overflowed the queue of a socket that listens."""
        full = f"{self._udp}.RcvbufErrors" if self._udp else "TcpExt.ListenOverflows"
        return self.passed(full)

    def _card(self, way: str) -> bool | None:
        return self._live(way, told=self.passed(f"dev.{way}"))

    def _behind(self, stage: Stage, *, gate: bool | None, gap: bool | None) -> bool | None:
        """What a gate and the gap before it say together of whether the burst passed the gate."""
        if gap is not True:
            return gate
        if gate is None:
            self.inferred.add(stage)
        return None if gate else False

    def left(self) -> bool | None:
        """Whether the burst left this host, which made it."""
        told = self._behind(Stage.LEFT, gate=self._card("tx"), gap=self._out_gap)
        if told is None and self._out_gap is False:
            self.inferred.add(Stage.LEFT)
            return True  # it was made, and nothing kept it
        return told

    def replied(self, *, taken: bool | None, overflowed: bool | None) -> bool | None:
        """Whether something left this host for each request of the burst."""
        gate = self._card("tx")
        if gate and self.passed(self._sent_by_ip) is False:
            gate = None  # what the card sent is none of this host's IP: bridged, or mirrored
        told = self._behind(Stage.REPLIED, gate=gate, gap=self._out_gap)
        if told is None and self._out_gap is False and taken and overflowed is False:
            # A socket that takes a request answers it, and nothing kept the answers.
            self.inferred.add(Stage.REPLIED)
            return True
        return told

    def answered(self) -> bool:
        """Whether this host's TCP made an answer to each request, and no resets.

        With nothing lost on the way in, so that what else is sent meanwhile in step with the burst
        (a tunnel's acknowledgements, a terminal's lines) does not pass for it.
        """
        if self._udp or self._input_gap is not False or self.refused is not False:
            return False
        made = measure(self._sent, self._samples, ["Tcp.OutSegs"])
        return bool(self.passed("Tcp.OutSegs")) and made is not None and made.slope >= _WHOLE

    def made(self) -> bool | None:
        """Whether programs here sent a datagram for each of the burst, whatever became of it.

        What a filter or the card keeps is no datagram sent, but one discarded (ip_send_skb).
        """
        if not self._udp:
            return None
        sent = self.passed(f"{self._udp}.OutDatagrams")
        discarded = follows(self._sent, self._samples, [f"{self._ip}.OutDiscards"], late=True)
        return True if self.kept else _any(sent, discarded)

    def arrived(self, *, taken: bool | None, forwarded: bool | None) -> bool | None:
        """Whether the burst reached this host's card."""
        lost = _any(self._card_in_gap, self._input_gap)
        by_ip, by_card = self.passed(f"{self._ip}.InReceives"), self._card("rx")
        if by_ip or by_card:
            return True
        if lost:
            self.inferred.add(Stage.ARRIVED)
            return True
        if by_card is None and lost is False and taken is False and forwarded is False:
            # What arrives is lost on the way in, or passed on, or taken, dropped or refused by
            # a socket: it was none of these.
            ends = ("TcpExt.ListenOverflows", "TcpExt.ListenDrops", "Tcp.OutRsts")
            if self._udp:
                ends = (f"{self._udp}.NoPorts", f"{self._udp}.InErrors", self.gate)
            # Evidence of earlier versions has none of the queue's.
            queue = (n for n in (_COOKIES, _NO_COOKIES) if n in self._samples.values)
            if all(self.passed(name) is False for name in (*ends, *queue)):
                self.inferred.add(Stage.ARRIVED)
                return False
        return by_card

    def delivered(self, *, taken: bool | None, overflowed: bool | None) -> bool | None:
        """Whether the burst came through to this host's TCP, and there to a socket."""
        if self._udp and self.passed(f"{self._udp}.InDatagrams"):
            return True  # a program has read it
        if not self._udp and (self.passed(_COOKIES) or self.passed(_NO_COOKIES)):
            return True  # it is a listening socket's queue that was full
        told = self._behind(
            Stage.DELIVERED,
            gate=self.passed(self.gate),
            gap=_any(self._card_in_gap, self._input_gap),
        )
        if self._udp:
            return self._to_socket() if told else told
        # A segment is counted before what is attached to the socket itself may drop it.
        return None if told and taken is False and not overflowed else told

    def _to_socket(self) -> bool | None:
        """Whether datagrams that came through to UDP, and were not read, came to a socket.

        What is neither refused for want of one nor lost at it (its queue is full, or a filter of
        its own drops) waits in it.
        """
        kept_out = _any(self.passed(f"{self._udp}.NoPorts"), self.passed(f"{self._udp}.InErrors"))
        return True if kept_out is False or self.overflowed else None

    def returned(self) -> bool | None:
        """Whether something reached this host's card for each request that it sent.

        Where it reached its TCP, the source has seen it: that is not asked here.
        """
        lost = _any(self._card_in_gap, self._input_gap)
        by_ip, by_card = self.passed(f"{self._ip}.InReceives"), self._card("rx")
        if by_ip or by_card:
            return True
        if lost:
            self.inferred.add(Stage.RETURNED)
            return True
        # UDP refuses answers from an address that was not asked, and no socket sees them.
        taken_here = bool(self._udp) and self.refused is not False
        if by_card is None and lost is False and not taken_here:
            self.inferred.add(Stage.RETURNED)
            return False
        return by_card
