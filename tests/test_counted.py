"""What the counters of both sides say of a burst, on hosts that are busy with other things."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec
import pytest

from bothends_protocol.bursts import PER_WINDOW, WINDOW_SECONDS, WINDOWS, make_pattern
from bothends_protocol.counted import (
    BurstView,
    as_told,
    met_full_queue,
    told_enough,
    view_burst,
)
from bothends_protocol.evidence import Burst, Samples
from bothends_protocol.messages import Told
from bothends_protocol.stages import Stage

IN = ("dev.rx", "Ip.InReceives", "Ip.InDelivers", "Tcp.InSegs")
OUT = ("Tcp.OutSegs", "Ip.OutRequests", "Ip.OutTransmits", "dev.tx")
"""The gates of a host, in the order in which a packet passes them."""

QUIET = (
    "Icmp.OutRateLimitHost",
    "Ip.ForwDatagrams",
    "Ip.OutNoRoutes",
    "Ip6.InReceives",
    "Ip6.OutForwDatagrams",
    "Ip6.OutNoRoutes",
    "Ip6.OutTransmits",
    "Tcp.OutRsts",
    "TcpExt.IPReversePathFilter",
    "TcpExt.ListenDrops",
    "TcpExt.ListenOverflows",
    "TcpExt.TCPReqQFullDoCookies",
    "TcpExt.TCPReqQFullDrop",
)


def send(rng: random.Random) -> Burst:
    sends = [
        window * WINDOW_SECONDS + rng.random() / 1000
        for window, full in enumerate(make_pattern(rng.randbytes))
        for _ in range(PER_WINDOW if full == "1" else 0)
    ]
    return Burst(
        round=2, transport="tcp", address="192.168.7.20", port=4242, sends=tuple(sorted(sends))
    )


def host(
    rng: random.Random,
    sent: Burst,
    passed: Iterable[str],
    *,
    busy: bool,
    leave_out: Iterable[str] = (),
    more: Iterable[str] = (),
) -> Samples:
    """Readings of a host where the burst passes the gates `passed`, and others all the time.

    Where it is busy, spurts of thousands of packets a second pass every gate alike; `more` are
    counters that there are besides.
    """
    span = WINDOWS * WINDOW_SECONDS + 0.06
    times, at = [], -0.02
    while at < span:
        times.append(at)
        at += 0.004 * rng.uniform(0.9, 1.3)
    others = [-0.01, 0.001, span - 0.03]  # what the two say to each other meanwhile
    start = -0.02
    while busy and start < span:
        length = rng.expovariate(1 / 0.06)
        others += [start + rng.random() * length for _ in range(round(5000 * length))]
        start += length + rng.expovariate(1 / 0.03)
    ways = {name: way for way in (IN, OUT) for name in way}
    reached = set(passed)
    values = {}
    for name in (*ways, *QUIET, *more):
        events = list(others) if name in ways else []
        events += sent.sends if name in reached else ()
        values[name] = tuple(sum(event <= moment for event in events) for moment in times)
    kept = {name: row for name, row in values.items() if name not in set(leave_out)}
    return Samples(round=2, times=tuple(times), values=kept)


def view(
    source: Iterable[str],
    destination: Iterable[str],
    *,
    busy: bool = True,
    taken: bool | None = False,
    seed: int = 1,
) -> BurstView:
    rng = random.Random(seed)
    sent = send(rng)
    return view_burst(
        sent,
        host(rng, sent, source, busy=busy),
        host(rng, sent, destination, busy=busy),
        taken=taken,
    )


BUSY_OR_NOT = pytest.mark.parametrize("busy", [False, True])


@BUSY_OR_NOT
@pytest.mark.parametrize("passed", [OUT[:2], OUT[:3]], ids=["output hook", "behind it"])
def test_what_the_sources_own_filter_keeps_did_not_leave(
    passed: tuple[str, ...], *, busy: bool
) -> None:
    for seed in range(10):
        assert view(passed, (), busy=busy, seed=seed).reached[Stage.LEFT] is False


@BUSY_OR_NOT
@pytest.mark.parametrize("passed", [IN[:1], IN[:2]], ids=["ingress hook", "input hook"])
def test_what_the_destinations_filter_keeps_arrived_and_was_not_delivered(
    passed: tuple[str, ...], *, busy: bool
) -> None:
    for seed in range(10):
        found = view(OUT, passed, busy=busy, seed=seed).reached
        assert found[Stage.LEFT] is True
        assert found[Stage.ARRIVED] is True
        assert found[Stage.DELIVERED] is False


@BUSY_OR_NOT
def test_what_is_lost_on_the_way_did_not_arrive(*, busy: bool) -> None:
    for seed in range(10):
        found = view(OUT, (), busy=busy, seed=seed)
        assert found.reached[Stage.LEFT] is True
        assert found.reached[Stage.ARRIVED] is False
        # What no counter showed is known by elimination only.
        assert (Stage.ARRIVED in found.inferred) is busy


@pytest.mark.parametrize(
    "end",
    [
        "Tcp.OutRsts",
        "TcpExt.ListenDrops",
        "TcpExt.ListenOverflows",
        "TcpExt.TCPReqQFullDoCookies",
        "TcpExt.TCPReqQFullDrop",
        "Ip.ForwDatagrams",
    ],
)
def test_what_a_socket_dropped_is_not_said_to_have_got_lost_on_the_way(end: str) -> None:
    for seed in range(10):
        gates = IN[:2] if end == "Ip.ForwDatagrams" else IN
        found = view(OUT, (*gates, end), seed=seed).reached
        assert found.get(Stage.ARRIVED) is not False


@BUSY_OR_NOT
@pytest.mark.parametrize("passed", [OUT[:2], OUT[:3]], ids=["output hook", "behind it"])
def test_answers_that_the_destinations_filter_keeps_did_not_leave(
    passed: tuple[str, ...], *, busy: bool
) -> None:
    for seed in range(10):
        found = view(OUT, (*IN, *passed), busy=busy, taken=True, seed=seed).reached
        assert found[Stage.REPLIED] is False


@BUSY_OR_NOT
@pytest.mark.parametrize("passed", [IN[:1], IN[:2]], ids=["ingress hook", "input hook"])
def test_answers_that_the_sources_filter_keeps_came_back(
    passed: tuple[str, ...], *, busy: bool
) -> None:
    for seed in range(10):
        found = view((*OUT, *passed), (*IN, *OUT), busy=busy, taken=True, seed=seed).reached
        assert found[Stage.RETURNED] is True
        assert found[Stage.REPLIED] is True


@BUSY_OR_NOT
def test_answers_lost_on_the_way_left_and_did_not_come_back(*, busy: bool) -> None:
    for seed in range(10):
        found = view(OUT, (*IN, *OUT), busy=busy, taken=True, seed=seed).reached
        assert found[Stage.REPLIED] is True
        assert found[Stage.RETURNED] is False


@BUSY_OR_NOT
def test_what_is_answered_by_syn_cookies_came_through_without_a_row(*, busy: bool) -> None:
    for seed in range(10):
        cookies = (*IN, "TcpExt.TCPReqQFullDoCookies", *OUT[:2])
        found = view(OUT, cookies, busy=busy, taken=False, seed=seed)
        assert found.unlisted is True
        assert found.reached[Stage.DELIVERED] is True
        assert found.reached[Stage.REPLIED] is False  # what kept the answers is a filter


@BUSY_OR_NOT
def test_what_a_full_queue_drops_says_nothing_of_answers(*, busy: bool) -> None:
    for seed in range(10):
        dropped = (*IN, "TcpExt.TCPReqQFullDrop", "TcpExt.ListenDrops")
        found = view(OUT, dropped, busy=busy, taken=False, seed=seed)
        assert found.dropped is True
        assert found.reached[Stage.DELIVERED] is True
        assert not {Stage.REPLIED, Stage.RETURNED} & found.reached.keys()
        taken = view(OUT, dropped, busy=busy, taken=True, seed=seed)  # of those before the burst
        assert Stage.REPLIED not in taken.reached
        # Another burst would meet the same.
        assert told_enough([as_told(found)], refused=False)


@pytest.mark.parametrize(
    ("name", "row", "met"),
    [
        ("TcpExt.TCPReqQFullDoCookies", (3, 4, 5), 2),
        ("TcpExt.TCPReqQFullDrop", (3, 4), 1),
        ("TcpExt.TCPReqQFullDrop", (3, 3), 0),
        ("TcpExt.TCPReqQFullDrop", (), 0),
        ("TcpExt.ListenDrops", (3, 4), 0),
    ],
)
def test_requests_that_met_a_full_queue_are_counted(
    name: str, row: tuple[int, ...], met: int
) -> None:
    readings = Samples(round=1, times=(0.0, 1.0), values={name: row})
    assert met_full_queue(readings) == met


def test_a_card_that_counts_once_a_second_says_no_to_nothing() -> None:
    rng = random.Random(1)
    sent = send(rng)
    there = host(rng, sent, IN[1:2], busy=False)
    there = Samples(
        round=2, times=there.times, values={**there.values, "dev.rx": (5,) * len(there.times)}
    )
    found = view_burst(sent, None, there, taken=False).reached
    assert found[Stage.ARRIVED] is True


NEW = ["Ip.OutTransmits", "Ip6.OutTransmits"]


def test_kernels_before_6_7_tell_the_sources_filter_too() -> None:
    rng = random.Random(1)
    sent = send(rng)
    here = host(rng, sent, OUT[:1], busy=False, leave_out=NEW)
    assert view_burst(sent, here, None, taken=None).reached[Stage.LEFT] is False
    here = host(rng, sent, OUT, busy=False, leave_out=NEW)
    assert view_burst(sent, here, None, taken=None).reached[Stage.LEFT] is True


def test_kernels_before_6_7_count_a_request_by_ipv6_before_their_filter() -> None:
    # Measured with scripts/counters on Linux 6.1.
    rng = random.Random(1)
    sent = msgspec.structs.replace(send(rng), address="fd07::20")
    for more, left in (((), False), (("dev.tx",), True)):
        gates = ("Tcp.OutSegs", "Ip6.OutRequests", *more)
        here = host(rng, sent, gates, busy=False, leave_out=NEW, more=["Ip6.OutRequests"])
        assert view_burst(sent, here, None, taken=None).reached[Stage.LEFT] is left


@pytest.mark.parametrize("leave_out", [(), NEW])
def test_what_is_passed_on_by_ipv6_is_not_said_to_be_kept(leave_out: list[str]) -> None:
    rng = random.Random(1)
    sent = msgspec.structs.replace(send(rng), address="fd07::20")
    gates = ("dev.rx", "Ip6.InReceives", "Ip6.OutForwDatagrams", "Ip6.OutTransmits", "dev.tx")
    there = host(
        rng,
        sent,
        gates,
        busy=False,
        leave_out=leave_out,
        more=["Ip6.OutRequests", "Ip6.InDelivers"],
    )
    found = view_burst(sent, None, there, taken=False)
    assert found.forwarded
    assert not found.kept


def test_refusals_by_icmp_that_the_limit_keeps_back_are_refusals() -> None:
    rng = random.Random(1)
    sent = send(rng)
    there = host(rng, sent, (*IN[:2], "Icmp.OutRateLimitHost"), busy=True)
    assert view_burst(sent, None, there, taken=False).limited is True
    there = host(rng, sent, IN[:2], busy=True)
    assert view_burst(sent, None, there, taken=False).limited is False
    there = host(rng, sent, IN[:2], busy=True, leave_out=["Icmp.OutRateLimitHost"])
    assert view_burst(sent, None, there, taken=False).limited is None


def test_what_is_told_is_enough_where_the_end_is_bracketed() -> None:
    left = Told(reached=(Stage.LEFT,))
    assert told_enough([left, Told(missed=(Stage.ARRIVED,))], refused=False)
    assert not told_enough([left, Told()], refused=False)
    assert not told_enough([left, Told(reached=(Stage.ARRIVED,))], refused=False)
    assert told_enough([Told(reached=(Stage.ARRIVED, Stage.DELIVERED))], refused=True)
    assert not told_enough([Told(reached=(Stage.ARRIVED, Stage.DELIVERED))], refused=False)
    assert told_enough([Told(forwarded=True)], refused=False)


def test_what_one_side_tells_is_what_its_counters_say() -> None:
    found = as_told(view(OUT, IN[:2]))
    assert Stage.ARRIVED in found.reached
    assert Stage.DELIVERED in found.missed
    assert not found.forwarded
