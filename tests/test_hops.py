"""Tracing a way: on loopback, which is a way of one hop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bothends.connects import limit_hops, offer_segment_size, outcome_of
from bothends.hops import (
    AGAIN,
    BLOCK,
    SLACK_SECONDS,
    TRIES,
    Lane,
    Tracer,
    _Request,
    farthest,
    has_expired,
)
from bothends_protocol.evidence import HopProbe, Icmp
from bothends_protocol.tags import TRACE_TAG
from bothends_protocol.ways import SILENCE, way_of

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="who sent an error is told by Linux alone"
)

HERE, SIX = "127.0.0.1", "::1"


@pytest.fixture
def tracer() -> Tracer:
    return Tracer(time.monotonic)


@pytest.fixture
def service() -> Iterator[int]:
    with socket.create_server((HERE, 0), backlog=64) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that is bound and that nobody listens on."""
    with socket.socket() as held:
        held.bind((HERE, 0))
        yield held.getsockname()[1]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port whose queue is full: what more is asked gets no answer."""
    with socket.socket() as listening:
        listening.bind((HERE, 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        time.sleep(0.05)
        yield listening.getsockname()[1]
        for one in waiting:
            one.close()


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def outcomes(probes: list[HopProbe], port: int) -> set[str]:
    return {probe.outcome for probe in probes if probe.port == port and not probe.least}


async def test_a_way_to_a_service_ends_at_the_first_hop(tracer: Tracer, service: int) -> None:
    probes = await tracer.trace(3, HERE, service)
    way = way_of(probes, HERE, service)
    assert way.end == (1, "connected", "")
    assert (way.expired, way.asked) == ({}, BLOCK * TRIES)
    assert {probe.round for probe in probes} == {3}
    assert all(0 < probe.seconds < 5 for probe in probes)
    assert not [probe for probe in probes if probe.least]


async def test_where_nobody_listens_it_is_asked_how_far_the_refusal_came(
    tracer: Tracer, nobody: int
) -> None:
    probes = await tracer.trace(1, HERE, nobody)
    way = way_of(probes, HERE, nobody)
    assert way.end == (1, "refused", "")
    assert way.refused_after == 1
    assert {probe.hops for probe in probes if probe.least} == {0}


async def test_another_port_is_asked_beside_it(tracer: Tracer, service: int, nobody: int) -> None:
    probes = await tracer.trace(1, HERE, nobody, control=service)
    assert outcomes(probes, nobody) == {"refused"}
    assert outcomes(probes, service) == {"connected"}
    assert way_of(probes, HERE, service).asked == BLOCK


async def test_what_falls_silent_is_asked_again(tracer: Tracer, silent: int) -> None:
    began = time.monotonic()
    probes = await tracer.trace(1, HERE, silent, patience=0.05)
    assert time.monotonic() - began < 5
    way = way_of(probes, HERE, silent)
    assert outcomes(probes, silent) == {"silent"}
    assert (way.asked, way.tries[1]) == (BLOCK * TRIES + AGAIN, TRIES + AGAIN)
    assert way.falls_silent
    assert TRIES < SILENCE <= TRIES + AGAIN


async def test_a_trace_ends_where_it_was_told_to(tracer: Tracer, service: int) -> None:
    assert await tracer.trace(1, HERE, service, most=0) == []


@pytest.mark.parametrize("address", ["nonsense", "", "300.1.1.1"])
async def test_no_address_is_no_way(tracer: Tracer, address: str) -> None:
    probes = await tracer.trace(1, address, 1, patience=0.05)
    assert {probe.outcome for probe in probes} <= {"local-error"}


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
async def test_of_ipv6_no_smallest_time_to_live_is_asked(tracer: Tracer) -> None:
    with socket.socket(socket.AF_INET6) as held:
        try:
            held.bind((SIX, 0))
        except OSError:
            pytest.skip("there is no IPv6")
        port = held.getsockname()[1]
        probes = await tracer.trace(1, SIX, port)
    assert way_of(probes, SIX, port).end == (1, "refused", "")
    assert not [probe for probe in probes if probe.least]


async def test_a_trace_leaves_nothing_open(tracer: Tracer, service: int, nobody: int) -> None:
    await asyncio.sleep(0)
    before = descriptors()
    for port in (service, nobody):
        await tracer.trace(1, HERE, port)
    assert descriptors() == before
    tracer.close()
    tracer.close()


async def test_a_trace_that_is_cancelled_leaves_nothing_open(tracer: Tracer, silent: int) -> None:
    await asyncio.sleep(0)
    before = descriptors()
    task = asyncio.create_task(tracer.trace(1, HERE, silent, control=silent, patience=30.0))
    await asyncio.sleep(0)  # all are sent in one go
    assert len(descriptors()) == len(before) + BLOCK * (TRIES + 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert descriptors() == before
    assert tracer._requests == []


async def test_closing_ends_what_is_under_way(tracer: Tracer, silent: int) -> None:
    before = descriptors()
    task = asyncio.create_task(tracer.trace(1, HERE, silent, patience=0.2))
    await asyncio.sleep(0.05)
    tracer.close()
    assert descriptors() == before
    assert outcomes(await task, silent) == {"silent"}
    assert descriptors() == before


# -- datagrams


@pytest.fixture
def echo() -> Iterator[int]:
    """A port of UDP at which all is answered, of a thread of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, 0))
        sock.settimeout(0.02)
        over = threading.Event()

        def answer() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    data, place = sock.recvfrom(100)
                    sock.sendto(data, place)

        thread = threading.Thread(target=answer)
        thread.start()
        yield sock.getsockname()[1]
        over.set()
        thread.join()


@pytest.fixture
def unread() -> Iterator[int]:
    """A port of UDP of which nobody answers anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, 0))
        yield sock.getsockname()[1]


async def test_datagrams_are_traced_as_connection_requests_are(
    tracer: Tracer, echo: int, unread: int
) -> None:
    before = descriptors()
    lane, other = Lane(unread, letter=b""), Lane(echo, letter=b"hear")
    probes = await tracer.follow(2, HERE, lane, other)
    assert outcomes(probes, unread) == {"silent"}
    assert outcomes(probes, echo) == {"connected"}
    assert {probe.transport for probe in probes} == {"udp"}
    assert way_of(probes, HERE, unread).tries[1] == TRIES + AGAIN
    assert descriptors() == before


async def test_a_closed_port_of_udp_refuses_by_icmp(tracer: Tracer) -> None:
    port = 1  # no program gets it by chance
    probes = await tracer.follow(2, HERE, Lane(port, letter=b""), None)
    assert outcomes(probes, port) == {"refused"}
    assert {probe.icmp for probe in probes} == {Icmp(kind=3, code=3, sender=HERE)}


# -- single requests


def test_what_says_that_the_time_ran_out() -> None:
    four, six = Icmp(kind=11, code=0, sender="x"), Icmp(kind=3, code=0, sender="x")
    assert has_expired(four, HERE)
    assert has_expired(six, SIX)
    assert has_expired(six, "fe80::1%eth0")
    assert not has_expired(six, HERE), "an unreachable network"
    assert not has_expired(Icmp(kind=11, code=1, sender="x"), HERE), "a fragment"
    assert not has_expired(None, HERE)
    assert not has_expired(four, "nonsense")


def test_the_longest_trip_is_one_to_a_hop() -> None:
    def probe(outcome: str, seconds: float) -> HopProbe:
        return HopProbe(
            round=1,
            transport="tcp",
            address=HERE,
            port=1,
            hops=1,
            outcome=outcome,
            seconds=seconds,
        )

    assert farthest([]) == 0.0
    assert farthest([probe("expired", 0.2), probe("expired", 0.1), probe("refused", 9.0)]) == 0.2
    # A request that was lost is sent again after a second: that is no way so long.
    assert farthest([probe("expired", 0.2), probe("expired", 1.02)]) == 0.2


async def test_who_answers_only_what_was_sent_again_makes_nobody_wait() -> None:
    """At 40 % loss traces took 20 seconds: each late answer allowed three times as long."""
    times = iter((2.0, 2.0, 2.0 + SLACK_SECONDS))
    asked = {"address": HERE, "port": 1, "hops": 1, "started": 0.0, "lane": Lane(1)}
    late, silent = _Request(**asked, ended=1.03), _Request(**asked)  # type: ignore[arg-type]
    await Tracer(times.__next__)._wait([late, silent], 0.0, 0.0)
    assert next(times, None) is None


def test_a_socket_has_the_hops_and_the_size_that_it_was_given() -> None:
    with socket.socket() as sock:
        limit_hops(sock, 3)
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 3
        assert offer_segment_size(sock, TRACE_TAG)
        with pytest.raises(OSError, match="Invalid"):
            limit_hops(sock, 300)
        assert not offer_segment_size(sock, 1)


@pytest.mark.parametrize(
    ("name", "at_once", "outcome"),
    [
        ("ECONNREFUSED", False, "refused"),
        ("ECONNRESET", False, "refused"),
        ("ETIMEDOUT", False, "silent"),
        ("ENETUNREACH", True, "no-route"),
        ("EADDRNOTAVAIL", True, "no-route"),
        ("ENETUNREACH", False, "unreachable"),
        ("EHOSTUNREACH", False, "unreachable"),
        ("EHOSTUNREACH", True, "unreachable"),
        ("EACCES", False, "unreachable"),
        ("EACCES", True, "local-error"),
        ("EPERM", True, "local-error"),
        ("EMFILE", True, "local-error"),
    ],
)
def test_what_an_error_means(name: str, outcome: str, *, at_once: bool) -> None:
    assert outcome_of(getattr(errno, name), at_once=at_once) == outcome
