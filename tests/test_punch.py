"""Streams by UDP on loopback, from whichever address, and past whoever else knocks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator

import pytest

from bothends import punch as punch_module
from bothends.punch import MAX_ANSWERS, MAX_UNASKED, UNANSWERED, PunchedStream, Puncher
from bothends_protocol.knocking import Knocker, Place
from bothends_protocol.pairing import DESTINATION, SOURCE

LOCAL, SECOND = "127.0.0.1", "127.0.0.2"
GIVE_UP = 30.0


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOCAL, 0))
        return int(sock.getsockname()[1])


class End:
    """A puncher on a port of its own, and the streams it offered."""

    def __init__(self, role: str) -> None:
        self.port = free_port()
        self.streams: asyncio.Queue[PunchedStream] = asyncio.Queue()
        self.puncher = Puncher(role, 7, lambda stream, _: self.streams.put_nowait(stream))


@contextlib.asynccontextmanager
async def ends() -> AsyncIterator[tuple[End, End]]:
    both = End(SOURCE), End(DESTINATION)
    async with asyncio.timeout(GIVE_UP):
        for end in both:
            assert await end.puncher.open(end.port) is None
        try:
            yield both
        finally:
            await asyncio.gather(*(end.puncher.close() for end in both))


async def talk(source: PunchedStream, destinations: asyncio.Queue[PunchedStream]) -> PunchedStream:
    source.write(b"question")
    other = await destinations.get()
    assert await other.read(100) == b"question"
    other.write(b"answer")
    assert await source.read(100) == b"answer"
    return other


@pytest.mark.skipif(sys.platform != "linux", reason="only there all of 127/8 is this host's")
@pytest.mark.parametrize("knocks", [SOURCE, DESTINATION])
async def test_an_answer_comes_from_the_address_that_was_knocked_at(knocks: str) -> None:
    async with ends() as (source, destination):
        one, other = (source, destination) if knocks == SOURCE else (destination, source)
        one.puncher.knock(SECOND, other.port)
        stream = await source.streams.get()
        there = await talk(stream, destination.streams)
        ours, theirs = (stream, there) if knocks == SOURCE else (there, stream)
        assert (ours.remote, ours.local) == (SECOND, LOCAL)
        assert (theirs.remote, theirs.local) == (LOCAL, SECOND)


async def test_by_six_too() -> None:
    async with ends() as (source, destination):
        source.puncher.knock("::1", destination.port)
        stream = await source.streams.get()
        there = await talk(stream, destination.streams)
        assert (stream.local, there.local) == ("::1", "::1")


async def test_a_place_that_is_knocked_at_so_often_is_left_alone_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(punch_module, "_PAUSES", ((20, 0.01),))
    async with ends() as (source, _):
        heard: list[bytes] = []
        loop = asyncio.get_running_loop()

        class Ear(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, _addr: object) -> None:
                heard.append(data)

        ear, _protocol = await loop.create_datagram_endpoint(Ear, (LOCAL, 0))
        source.puncher.knock(LOCAL, ear.get_extra_info("sockname")[1], times=5)
        await asyncio.sleep(0.3)
        ear.close()
        assert len(heard) == 5
        assert {len(data) for data in heard} == {len(source.puncher.knocker.knock(Place(LOCAL, 1)))}


async def test_nothing_is_hoped_for_where_no_knock_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(punch_module, "_PAUSES", ((2 * UNANSWERED, 0.01),))
    async with ends() as (source, destination):
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        class Ear(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, _addr: object) -> None:
                heard.put_nowait(data)

        ear, _protocol = await asyncio.get_running_loop().create_datagram_endpoint(Ear, (LOCAL, 0))
        silent = int(ear.get_extra_info("sockname")[1])
        told = [source.puncher.hopeless]
        source.puncher.knock(LOCAL, silent)
        for _ in range(UNANSWERED):
            await heard.get()
        told.append(source.puncher.hopeless)
        # Another place may still answer, and after a word from one there is hope for all.
        source.puncher.knock(LOCAL, destination.port)
        told.append(source.puncher.hopeless)
        await source.streams.get()
        assert source.puncher._unanswered[Place(LOCAL, silent)] < UNANSWERED
        ear.close()
    assert told == [False, True, False]


def shows(source: End, place: Place) -> None:
    """Let a stranger at `place` show that it receives what is sent there."""
    stranger = Knocker(DESTINATION, 7, lambda size: place.port.to_bytes(2, "big") * (size // 2))
    at = Place("::1", 1)
    answer = source.puncher.knocker.receive(stranger.knock(at), place).answer
    assert answer is not None
    back = stranger.receive(answer, at).answer
    assert back is not None
    source.puncher.received(back, (place.address, place.port), "")


async def test_strangers_do_not_take_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(punch_module, "LINGER_SECONDS", 0.0)
    async with ends() as (source, destination):
        for port in range(1, 2 * MAX_UNASKED):
            shows(source, Place("::1", port))
        assert source.streams.qsize() == MAX_UNASKED
        held = [source.streams.get_nowait() for _ in range(MAX_UNASKED)]
        # Who did not get in is heard again, once there is room.
        held[0].abort()
        last = Place("::1", 2 * MAX_UNASKED - 1)
        shows(source, last)
        assert source.streams.get_nowait().place == last
        source.puncher.knock(LOCAL, destination.port)
        await talk(await source.streams.get(), destination.streams)


async def test_a_flood_of_knocks_does_not_keep_the_other_side_out() -> None:
    async with ends() as (source, destination):
        noise = Knocker(DESTINATION, 7, bytes).knock(Place("::1", 1))
        source.puncher.knock(LOCAL, destination.port)
        while not source.streams.qsize():
            for _ in range(MAX_ANSWERS):
                source.puncher.received(noise, ("::1", 1), "")
            await asyncio.sleep(0)
        await talk(source.streams.get_nowait(), destination.streams)
