"""How long a link may be silent, and what ends no more than the link."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from bothends import channel as channel_module
from bothends.channel import (
    BROKEN_SECONDS,
    LONGEST_TRIP,
    LOSSES,
    LOSSES_OVER,
    LOSSY,
    LOST_SECONDS,
    STALLED_SECONDS,
    Channel,
    PeerLostError,
    nominated,
)
from bothends.link import LinkClosedError
from bothends.streams import DIRECT, PUNCHED
from bothends_protocol.conversation import Conversation
from bothends_protocol.errors import ProtocolError, TamperedError
from bothends_protocol.messages import Barrier, Message
from bothends_protocol.pairing import SOURCE


class StubLink:
    """A link on which `peer` says something when it is told to."""

    way = DIRECT

    def __init__(self, trip: float | None) -> None:
        self.trip = trip
        self.resent = 0
        self.heard = 0.0
        self.aborted = False
        self.said: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.peer = Conversation()
        self.peer.attach()

    async def receive(self) -> bytes:
        said = await self.said.get()
        if isinstance(said, Exception):
            raise said
        return said

    def send(self, plain: bytes) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        pass


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("trip", "allowed"),
    [(None, 0.0), (1.2, 1.2), (9.0, LONGEST_TRIP)],
    ids=["near", "far", "lossy"],
)
async def test_a_new_link_has_a_round_trip_to_be_heard_on(
    monkeypatch: pytest.MonkeyPatch, trip: float | None, allowed: float
) -> None:
    monkeypatch.setattr(channel_module, "HEARTBEAT_SECONDS", 0.0)
    clock = [0.0]
    redialled: list[float] = []
    links: asyncio.Queue[Any] = asyncio.Queue()
    contact: Any = SimpleNamespace(
        links=links, redial=lambda: redialled.append(clock[0]), drop=lambda _: None
    )
    channel = Channel(contact, SOURCE, lambda _: None)
    monkeypatch.setattr(channel, "_now", lambda: clock[0])
    link: Any = StubLink(trip)
    channel.start(link, None)
    await turns()
    clock[0] = STALLED_SECONDS + allowed - 0.1
    await turns()
    assert not redialled
    clock[0] += 0.2
    await turns()
    assert redialled
    # Once it was heard on, the other side's heartbeat is what comes, however far away it is.
    link.peer.ping(0.0)
    link.said.put_nowait(link.peer.outgoing()[0])
    await turns()
    redialled.clear()
    clock[0] += STALLED_SECONDS + 0.1
    await turns()
    assert redialled
    assert not link.aborted
    clock[0] += BROKEN_SECONDS - STALLED_SECONDS
    await turns()
    assert link.aborted
    await channel.close()


@pytest.mark.parametrize("met", [TamperedError("altered"), ProtocolError("a frame of 4 GB")])
async def test_a_record_that_does_not_open_ends_the_link_and_not_the_session(
    met: ProtocolError,
) -> None:
    redialled: list[bool] = []
    delivered: list[Message | PeerLostError] = []
    links: asyncio.Queue[Any] = asyncio.Queue()
    contact: Any = SimpleNamespace(
        links=links,
        redial=lambda: redialled.append(True),
        drop=lambda _: None,
        settle_again=lambda _: None,
        without_datagrams=False,
    )
    channel = Channel(contact, SOURCE, delivered.append)
    first, second = StubLink(None), StubLink(None)
    start: Any = first
    channel.start(start, None)
    await turns()
    first.said.put_nowait(met)
    await turns()
    assert redialled
    links.put_nowait(second)
    await channel.moved.wait()
    message = Barrier(number=1)
    second.peer.send(message)
    second.said.put_nowait(second.peer.outgoing()[0])
    await turns()
    assert delivered == [message]
    await channel.close()


@pytest.mark.parametrize(
    ("heard", "seconds"),
    [
        ([(0.0, 0), (0.5, 0)], LOST_SECONDS),
        # A computer that was busy for a moment, and one that was so long ago.
        ([(0.0, 0), (0.5, LOSSES - 1)], LOST_SECONDS),
        ([(0.0, 0), (0.1, 9), (9.0, 9), (9.5, 9)], LOST_SECONDS),
        # A few of many.
        ([(at / 10, LOSSES if at > 3 else 0) for at in range(2 * LOSSES + 2)], LOST_SECONDS),
        ([(0.0, 0), (LOSSES_OVER, LOSSES)], LOSSY * LOST_SECONDS),
        # Many at once are one.
        ([(0.0, 0), *[(LOSSES_OVER, LOSSES)] * (2 * LOSSES)], LOSSY * LOST_SECONDS),
        # The first moments of a run.
        ([(0.0, 0), (LOSSES_OVER - 0.1, LOSSES)], LOST_SECONDS),
        # What the other side got twice after all was not lost.
        ([(0.0, LOSSES), (0.5, 1), (LOSSES_OVER, LOSSES)], LOST_SECONDS),
        # Another link took over, and counts from its own beginning.
        ([(0.0, 7), (-1.0, 0), (0.5, 1), (LOSSES_OVER, LOSSES)], LOSSY * LOST_SECONDS),
    ],
)
async def test_where_packets_were_lost_the_other_side_has_longer_to_come_again(
    monkeypatch: pytest.MonkeyPatch, heard: list[tuple[float, int]], seconds: float
) -> None:
    """`heard`: when, and what the link had sent again by then; before the start: another link."""
    contact: Any = SimpleNamespace(redial=lambda: None, drop=lambda _: None)
    channel = Channel(contact, SOURCE, lambda _: None)
    link: Any = StubLink(None)
    clock = [0.0]
    monkeypatch.setattr(channel, "_now", lambda: clock[0])
    using = asyncio.ensure_future(channel._use(link, None))
    for at, resent in heard:
        if at < 0:
            link.said.put_nowait(LinkClosedError("cut"))
            await using
            former, link = link, StubLink(None)
            link.peer = former.peer
            using = asyncio.ensure_future(channel._use(link, None))
            continue
        clock[0], link.resent, link.heard = at, resent, at
        link.peer.ping(0.0)
        link.said.put_nowait(link.peer.outgoing()[0])
        await turns()
    link.said.put_nowait(LinkClosedError("cut"))
    await using
    waited: list[float | None] = []

    async def wait(_: object, *, timeout: float | None) -> None:  # noqa: ASYNC109  as asyncio.wait
        waited.append(timeout)

    monkeypatch.setattr("bothends.channel.asyncio.wait", wait)
    with pytest.raises(PeerLostError, match=f"for {seconds:.0f} seconds"):
        await channel._await_next(asyncio.get_running_loop().create_future())
    assert waited == [seconds]


@pytest.mark.parametrize(("resent", "way"), [(0, DIRECT), (1, PUNCHED)])
async def test_the_source_waits_for_udp_where_tcp_had_to_send_something_again(
    monkeypatch: pytest.MonkeyPatch, resent: int, way: str
) -> None:
    monkeypatch.setitem(channel_module._AGAIN, DIRECT, 30.0)
    contact: Any = SimpleNamespace(links=asyncio.Queue(), without_datagrams=False)
    tcp, udp = StubLink(None), StubLink(None)
    tcp.resent, udp.way = resent, PUNCHED
    contact.links.put_nowait(tcp)
    choosing = asyncio.ensure_future(nominated(contact, SOURCE))
    await turns()
    contact.links.put_nowait(udp)
    async with asyncio.timeout(20.0):
        link, first = await choosing
    assert (link.way, first) == (way, None)


async def test_the_source_does_not_wait_for_udp_that_nobody_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(channel_module._AGAIN, DIRECT, 30.0)
    contact: Any = SimpleNamespace(links=asyncio.Queue(), without_datagrams=True)
    tcp = StubLink(None)
    tcp.resent = 1
    contact.links.put_nowait(tcp)
    async with asyncio.timeout(20.0):
        link, _ = await nominated(contact, SOURCE)
    assert link.way == DIRECT
