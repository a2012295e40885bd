"""What a run must not lose on its way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Iterable
from typing import Any

import pytest

from bothends.options import Endpoint, Options
from bothends.outcome import Outcome
from bothends.run import Run
from bothends_protocol.code import parse_code
from bothends_protocol.evidence import SeenAs
from bothends_protocol.messages import Barrier, Where
from bothends_protocol.pairing import DESTINATION, SOURCE


@pytest.mark.parametrize("later", range(5))
async def test_what_comes_as_the_time_for_moving_ends_is_not_lost(later: int) -> None:
    run = Run(Options(role=SOURCE), say=print, show_code=print)
    waiting = asyncio.ensure_future(run._first_of(None))
    for _ in range(3):
        await asyncio.sleep(0)
    message = Barrier(number=1)
    run._events.put_nowait(message)
    for _ in range(later):
        await asyncio.sleep(0)
    waiting.cancel()
    (result,) = await asyncio.gather(waiting, return_exceptions=True)
    kept = [result, run._early, *(run._events.get_nowait() for _ in range(run._events.qsize()))]
    assert kept.count(message) == 1


class Point:
    """A contact at a meeting point, as far as a run asks it."""

    seen_as = (SeenAs(address="11.0.0.9", by="rendezvous", said_by="meet.example"),)

    def __init__(self, *peer_seen_as: str) -> None:
        self.peer_seen_as = peer_seen_as
        self.dialled: list[str] = []
        self.knocked: list[str] = []

    def reach(self, addresses: Iterable[str], port: int) -> None:
        self.dialled += [f"{address} {port}" for address in addresses]

    def knock(self, addresses: Iterable[str], port: int) -> None:
        self.knocked += [f"{address} {port}" for address in addresses]


def test_what_the_other_side_names_is_tested_only_where_the_meeting_point_says_so_too() -> None:
    run: Any = Run(Options(role=SOURCE), say=print, show_code=print)
    point = Point("11.0.0.3", "::ffff:11.0.0.1", "11.0.0.2")
    seen = ("11.0.0.2", "::ffff:11.0.0.3", "11.0.0.4", "11.0.0.2", "127.0.0.1", "10.0.0.1", "x")
    run._look_at(Where(seen=seen, addresses=("127.0.0.1",), port=5), point)
    assert point.dialled == ["11.0.0.3 5", "11.0.0.2 5"]
    assert point.knocked == ["11.0.0.4 5"]
    # It is told once.
    run._look_at(Where(seen=("11.0.0.1",), port=5), point)
    assert run._confirm(point) == ("11.0.0.3", "11.0.0.2")
    assert len(point.dialled) == 2
    # What came from another address since is one that the other side named, or is none.
    point.peer_seen_as = ("11.0.0.5", "11.0.0.4")
    assert run._confirm(point) == ("11.0.0.4", "11.0.0.3", "11.0.0.2")


def test_without_a_word_of_the_other_side_nothing_is_confirmed() -> None:
    run: Any = Run(Options(role=SOURCE), say=print, show_code=print)
    assert run._confirm(Point("11.0.0.1")) == ()


def test_what_others_have_seen_is_told_too() -> None:
    run: Any = Run(Options(role=SOURCE), say=print, show_code=print)
    run._outside.seen = [SeenAs(address="11.0.0.8", by="stun")]
    assert [seen.address for seen in run._how_seen(Point())] == ["11.0.0.9", "11.0.0.8"]


HERE = "127.0.0.1"
CODE = parse_code("7-abandon-ability-able")
CUTS = 100
PORTS = 100


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind((HERE, 0))
        return [sock.getsockname()[1] for sock in socks]


def pair() -> dict[str, Run]:
    source, destination, *ports = free_ports(2 + PORTS)
    options = (
        Options(
            role=SOURCE,
            code=CODE,
            code_fixed=True,
            mdns=False,
            control_port=source,
            peers=(Endpoint(HERE, destination),),
        ),
        Options(
            role=DESTINATION,
            code=CODE,
            code_fixed=True,
            mdns=False,
            control_port=destination,
            ports=(f"tcp:{','.join(map(str, sorted(ports)))}",),
        ),
    )
    return {
        each.role: Run(each, say=lambda _: None, show_code=lambda _code, _facts: None)
        for each in options
    }


async def cut(runs: dict[str, Run], cuts: list[str]) -> None:
    """Break the link that serves, again and again, on one side and then the other."""
    for run in itertools.cycle(runs.values()):
        if any(one._channel is not None and one._channel._finishing for one in runs.values()):
            return  # all is said: who has gone by then is waited for
        link = run._channel._link if run._channel is not None else None
        if link is not None and run._session is not None:
            link.abort()
            cuts.append(run.options.role)
        await asyncio.sleep(0.02)


async def outcomes(runs: dict[str, Run]) -> list[Outcome]:
    return list(await asyncio.gather(*(run.run() for run in runs.values())))


@pytest.mark.timeout(110)
async def test_a_hundred_cuts_of_the_contact_leave_the_verdict_as_it_is() -> None:
    first, _ = await outcomes(pair())
    expected = (first.verdict.status, first.verdict.blockers, len(first.verdict.checks))
    cuts: list[str] = []
    breaks = 0
    while len(cuts) < CUTS:
        runs = pair()
        cutting = asyncio.ensure_future(cut(runs, cuts))
        both = await outcomes(runs)
        cutting.cancel()
        breaks += int(str(both[0].contact["breaks"]))
        assert both[0].verdict == both[1].verdict
        assert both[0].verdict.verdict_id is not None, both[0].verdict.summary
        found = both[0].verdict
        assert (found.status, found.blockers, len(found.checks)) == expected
    assert breaks > CUTS / 4  # each was a link that served, and most had to be replaced
