"""Two agents meet through a meeting point: ours, upstream's, one that dies, and what is none."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import ipaddress
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bothends import cli, rendezvous, rendezvous_server
from bothends.link import Link
from bothends.rendezvous import (
    MAX_BUFFERED,
    MAX_SEEN,
    MAX_STREAMS,
    Rendezvous,
    allocate,
    new_side,
    parse_url,
)
from bothends.rendezvous_server import MAX_PER_ADDRESS, MeetingPoint
from bothends.streams import RENDEZVOUS, Stream
from bothends_protocol.code import Code
from bothends_protocol.errors import InputError, RefusedError, WrongCodeError
from bothends_protocol.mailbox import APPID
from bothends_protocol.mailbox_server import MAX_CLIENTS, MAX_MESSAGE, MailboxServer
from bothends_protocol.pairing import DESTINATION, SOURCE, Handshake
from bothends_protocol.parcels import DATA, HELLO, STREAM_SIZE, Parcel, write_parcel

LOCAL = "127.0.0.1"
GIVE_UP = 60.0
"""Seconds after which a test that still waits has failed; nothing here takes ten."""

Say = Callable[..., Awaitable[None]]


# -- what is needed


class Agent:
    """One end of the way, and what it was offered and told."""

    def __init__(self, url: str, role: str, number: int = 7, side: str | None = None) -> None:
        self.streams: asyncio.Queue[tuple[Stream, bool]] = asyncio.Queue()
        self.troubles: list[str] = []
        self.way = Rendezvous(
            url,
            number,
            role,
            lambda stream, dialled: self.streams.put_nowait((stream, dialled)),
            self.troubles.append,
            side,
        )
        self.way.start()


class Place:
    """Starts meeting points and agents; at the end nothing of them is left."""

    def __init__(self) -> None:
        self.points: list[MeetingPoint] = []
        self.agents: list[Agent] = []

    def meeting_point(self, port: int = 0, context: ssl.SSLContext | None = None) -> str:
        sock = socket.create_server((LOCAL, port))
        sock.setblocking(False)
        point = MeetingPoint(sock, context)
        point.start()
        self.points.append(point)
        scheme = "ws" if context is None else "wss"
        return f"{scheme}://{LOCAL}:{sock.getsockname()[1]}/v1"

    def agent(self, url: str, role: str, number: int = 7, side: str | None = None) -> Agent:
        self.agents.append(Agent(url, role, number, side))
        return self.agents[-1]

    def pair(self, url: str, number: int = 7) -> tuple[Agent, Agent]:
        return self.agent(url, SOURCE, number), self.agent(url, DESTINATION, number)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    async with asyncio.timeout(GIVE_UP):
        try:
            yield made
        finally:
            for agent in made.agents:
                await agent.way.close()
                await agent.way.close()
            for point in made.points:
                await point.close()
        await everything_ended()


async def everything_ended() -> None:
    """Let what was closed end; with unclosed sockets Python's own warning is an error here."""
    for _ in range(1000):
        if asyncio.all_tasks() == {asyncio.current_task()}:
            break
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()


async def until(holds: Callable[[], object]) -> None:
    """Let other tasks run until `holds`; `place` bounds how long."""
    while not holds():  # noqa: ASYNC110  nobody announces it
        await asyncio.sleep(0.001)


async def joined(source: Agent, destination: Agent) -> tuple[Stream, Stream]:
    """Open a stream and let its first bytes through."""
    source.way.dial()
    here, dialled = await source.streams.get()
    assert dialled
    here.write(b"first")
    there, dialled = await destination.streams.get()
    assert not dialled
    assert await exactly(there, 5) == b"first"
    return here, there


async def exactly(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        some = await stream.read(size - len(data))
        assert some, "the stream ended early"
        data += some
    return data


async def until_broken(stream: Stream) -> None:
    while await stream.read(100):
        pass


async def carries(here: Stream, there: Stream, data: bytes) -> None:
    """Send `data` both ways at the same time, and all of it arrives."""
    for stream in (here, there):
        stream.write(data)
    got = await asyncio.gather(exactly(here, len(data)), exactly(there, len(data)))
    assert list(got) == [data, data]


class Cutter:
    """Passes a connection on to a meeting point, and cuts it when told to."""

    def __init__(self, url: str) -> None:
        self.port = int(url.rpartition(":")[2].partition("/")[0])
        self.writers: set[asyncio.StreamWriter] = set()
        self.after: int | None = None
        """Bytes that still pass towards the agent before the next cut."""
        self.cuts = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, LOCAL, 0)
        try:
            yield f"ws://{LOCAL}:{server.sockets[0].getsockname()[1]}/v1"
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        self.cuts += 1
        for writer in self.writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, on = await asyncio.open_connection(LOCAL, self.port)
        pair = {writer, on}
        self.writers |= pair
        await asyncio.gather(self._move(reader, on), self._move(there, writer))
        self.writers -= pair

    async def _move(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                if self.after is not None:
                    self.after -= len(data)
                    if self.after < 0:
                        self.after = None
                        self.cut()
                        break
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


# -- the two


async def test_two_agents_get_streams_through_our_meeting_point(place: Place) -> None:
    source, destination = place.pair(place.meeting_point())
    here, there = await joined(source, destination)
    assert (here.way, here.remote, here.remote_port, here.local) == (RENDEZVOUS, "", 0, "")
    await carries(here, there, bytes(range(256)) * 300)
    here.end()
    assert await there.read(10) == b""
    there.write(b"still")
    assert await exactly(here, 5) == b"still"
    there.close()
    assert await here.read(10) == b""
    here.close()
    assert source.troubles == destination.troubles == []


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a meeting point see its clients come from these addresses, one after the other."""
    seen: list[str] = []
    plain = MailboxServer.connect

    def connected(self: MailboxServer, now: float, seen_as: str = "") -> int | None:
        return plain(self, now, seen.pop(0) if seen else seen_as)

    monkeypatch.setattr(MailboxServer, "connect", connected)
    return seen


async def test_a_side_learns_how_it_is_seen_and_shows_itself_to_who_has_authenticated(
    place: Place, addresses: list[str]
) -> None:
    addresses += ["11.0.0.1", "11.0.0.2"]
    url = place.meeting_point()
    source = place.agent(url, SOURCE)
    await until(lambda: source.way.outside)
    destination = place.agent(url, DESTINATION)
    here, there = await joined(source, destination)
    assert source.way.host == LOCAL
    assert (source.way.outside, destination.way.outside) == (("11.0.0.1",), ("11.0.0.2",))
    await carries(there, here, b"before")
    assert not any((source.way.peer_outside, destination.way.peer_outside))
    destination.way.show()
    await carries(there, here, b"after")
    assert [*source.way.peer_outside, *destination.way.peer_outside] == ["11.0.0.2"]


async def test_the_newest_address_comes_first_and_few_are_kept(
    place: Place, addresses: list[str]
) -> None:
    many = [f"11.0.0.{number}" for number in range(1, 2 * MAX_SEEN)]
    addresses += ["11.0.1.1", *many]
    point = place.meeting_point()
    cutter = Cutter(point)
    source = place.agent(point, SOURCE)
    await until(lambda: source.way.outside)
    async with cutter.running() as url:
        destination = place.agent(url, DESTINATION)
        here, there = await joined(source, destination)
        destination.way.show()
        for number, address in enumerate(many):
            if number:
                cutter.cut()
            await carries(there, here, b"here I am")
            assert source.way.peer_outside[0] == address
    assert source.way.peer_outside == tuple(many[::-1][:MAX_SEEN])
    assert destination.way.outside == source.way.peer_outside


async def test_another_agent_is_seen_somewhere_else(place: Place, addresses: list[str]) -> None:
    addresses += ["11.0.1.1", "11.0.0.1"]
    url = place.meeting_point()
    source = place.agent(url, SOURCE)
    await until(lambda: source.way.outside)
    first = place.agent(url, DESTINATION)
    first.way.show()
    here, there = await joined(source, first)
    await carries(there, here, b"shown")
    assert list(source.way.peer_outside) == ["11.0.0.1"]
    await first.way.close()
    second = place.agent(url, DESTINATION)
    await joined(source, second)
    assert list(source.way.peer_outside) == []


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "x-real-ip"])
async def test_behind_a_proxy_a_server_says_no_address(place: Place, header: str) -> None:
    url = place.meeting_point()
    for headers, told in (({}, {"seen_as": LOCAL}), ({header: "11.0.0.1"}, {})):
        async with connect(
            url, compression=None, proxy=None, close_timeout=0.1, additional_headers=headers
        ) as connection:
            assert json.loads(await connection.recv())["welcome"] == told


async def test_who_comes_first_waits_and_a_dial_too(place: Place) -> None:
    url = place.meeting_point()
    source = place.agent(url, SOURCE)
    source.way.dial()
    await until(lambda: source.way._mailbox.open)
    met = [source.way.met]
    destination = place.agent(url, DESTINATION)
    await joined(source, destination)
    met += [source.way.met, destination.way.met]
    assert met == [False, True, True]


async def test_several_streams_one_after_the_other_and_side_by_side(place: Place) -> None:
    source, destination = place.pair(place.meeting_point())
    first = await joined(source, destination)
    second = await joined(source, destination)
    await asyncio.gather(carries(*first, b"1" * 50_000), carries(*second, b"2" * 50_000))
    first[0].close()
    assert await first[1].read(1) == b""
    third = await joined(source, destination)
    await carries(*third, b"3")


async def test_an_abort_breaks_the_stream_at_both_ends(place: Place) -> None:
    source, destination = place.pair(place.meeting_point())
    here, there = await joined(source, destination)
    here.write(b"unread")
    here.abort()
    here.abort()
    for stream in (here, there):
        with pytest.raises(OSError, match=r"gave|given"):
            await until_broken(stream)
    with pytest.raises(OSError, match="gave"):
        await there.drain()
    there.write(b"nobody hears this")
    there.end()
    there.close()


async def test_two_that_leave_at_once_both_leave_in_order(place: Place) -> None:
    source, destination = place.pair(place.meeting_point())
    await joined(source, destination)
    await asyncio.gather(source.way.close(), destination.way.close())
    assert source.way._closed.is_set()
    assert destination.way._closed.is_set()


async def test_only_the_source_opens_streams(place: Place) -> None:
    source, destination = place.pair(place.meeting_point())
    destination.way.dial()
    await joined(source, destination)
    assert destination.streams.empty()


async def test_pairs_with_other_numbers_do_not_meet(place: Place) -> None:
    url = place.meeting_point()
    pairs = [place.pair(url, number) for number in (7, 8)]
    for source, destination in pairs:
        here, there = await joined(source, destination)
        await carries(here, there, b"x")
        assert source.streams.empty()
        assert destination.streams.empty()


async def test_a_new_number_after_the_old_code_was_retired(place: Place) -> None:
    url = place.meeting_point()
    source, destination = place.pair(url)
    here, _ = await joined(source, destination)
    destination.way.renumber(9)
    other = place.agent(url, SOURCE, 9)
    await joined(other, destination)
    with pytest.raises(OSError, match=r"again|anew|forgotten"):
        await here.read(1)


async def test_a_large_transfer_waits_for_its_reader(place: Place) -> None:
    source, destination = place.pair(place.meeting_point())
    here, there = await joined(source, destination)
    data = os.urandom(2 * MAX_BUFFERED)
    here.write(data)
    await here.drain()
    assert await exactly(there, len(data)) == data


@pytest.mark.parametrize("words", ["able", "about"])
async def test_a_link_pairs_over_it_and_only_with_the_right_words(place: Place, words: str) -> None:
    source, destination = place.pair(place.meeting_point())
    source.way.dial()
    ends = [Link((await source.streams.get())[0], dialled=True)]

    def handshake(role: str, last: str) -> Handshake:
        return Handshake(
            role=role,
            dialled=role == SOURCE,
            instance=os.urandom(16),
            code=Code(7, ("abandon", "ability", last)),
            entropy=os.urandom,
        )

    async def answer() -> None:
        ends.append(Link((await destination.streams.get())[0], dialled=False))
        await ends[1].authenticate(lambda: handshake(DESTINATION, "able"))

    results = await asyncio.gather(
        ends[0].authenticate(lambda: handshake(SOURCE, words)), answer(), return_exceptions=True
    )
    if words == "able":
        assert list(results) == [None, None]
        ends[0].send(b"x" * 200_000)
        assert await ends[1].receive() == b"x" * 200_000
    else:
        assert isinstance(results[0], RefusedError)
        assert isinstance(results[1], WrongCodeError)
    for link in ends:
        link.close()


# -- connections that break


@pytest.mark.parametrize("after", [0, 300, 1000, 5000, 20_000, 50_000, 90_000])
async def test_a_stream_outlives_a_connection_that_is_cut_anywhere(
    place: Place, after: int
) -> None:
    url = place.meeting_point()
    cutter = Cutter(url)
    async with cutter.running() as cut:
        source, destination = place.agent(cut, SOURCE), place.agent(url, DESTINATION)
        here, there = await joined(source, destination)
        cutter.after = after
        await carries(here, there, os.urandom(40_000))
        cutter.after = after
        await carries(here, there, os.urandom(40_000))
        assert cutter.cuts
        await source.way.close()


async def test_a_meeting_point_that_dies_and_comes_back(place: Place) -> None:
    url = place.meeting_point()
    source, destination = place.pair(url)
    here, there = await joined(source, destination)
    await place.points.pop().close()
    await until(lambda: source.troubles and destination.troubles)
    place.meeting_point(int(url.rpartition(":")[2].partition("/")[0]))
    for stream in (here, there):
        with pytest.raises(OSError, match=r"forgotten|started again"):
            await stream.read(1)
    here, there = await joined(source, destination)
    await carries(here, there, b"again")
    assert source.way.trouble == ""


@pytest.mark.parametrize("role", [SOURCE, DESTINATION])
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
async def test_an_agent_that_starts_again_with_the_same_code_comes_in(
    place: Place, role: str, *, killed: bool
) -> None:
    url = place.meeting_point()
    cutter = Cutter(url)
    async with cutter.running() as cut:
        goes = place.agent(cut, role)
        stays = place.agent(url, DESTINATION if role == SOURCE else SOURCE)
        _, old = await joined(*in_order(goes, stays))
        if killed:
            # Nothing more comes of it, as of a process that was killed.
            goes.way._tasks.cancel()
            cutter.cut()
        else:
            await goes.way.close()
        again = place.agent(url, role)
        await until(lambda: stays.way._peer == again.way._mailbox.side)
        here, there = await joined(*in_order(again, stays))
        await carries(here, there, b"again")
        if role == SOURCE:
            with pytest.raises(OSError, match=r"again|anew|gave"):
                await old.read(1)


def in_order(one: Agent, two: Agent) -> tuple[Agent, Agent]:
    """Source and destination."""
    return (one, two) if one.way._role == SOURCE else (two, one)


async def test_a_third_is_told_that_the_number_is_taken(place: Place) -> None:
    url = place.meeting_point()
    source, destination = place.pair(url)
    here, there = await joined(source, destination)
    third = place.agent(url, SOURCE)
    await until(lambda: third.troubles)
    assert "two others use this number" in third.troubles[0]
    await carries(here, there, b"undisturbed")


async def test_the_meeting_point_chooses_a_number(place: Place) -> None:
    url = place.meeting_point()
    side = new_side()
    number = await allocate(url, side)
    assert number is not None
    assert 1 <= number <= 9
    source, destination = (
        place.agent(url, SOURCE, number),
        place.agent(url, DESTINATION, number, side),
    )
    await joined(source, destination)


# -- strangers in the mailbox


@contextlib.asynccontextmanager
async def stranger(url: str, side: str = "stranger", number: str = "7") -> AsyncIterator[Say]:
    """Somebody who is in the mailbox and says anything."""
    async with connect(url, compression=None, proxy=None, close_timeout=0.1) as connection:

        async def say(**fields: Any) -> None:
            await connection.send(json.dumps(fields))

        await say(type="bind", appid=APPID, side=side)
        await say(type="claim", nameplate=number)
        while (answer := json.loads(await connection.recv()))["type"] != "claimed":
            pass
        await say(type="open", mailbox=answer["mailbox"])
        yield say


async def test_what_a_stranger_leaves_does_not_end_the_way(place: Place) -> None:
    url = place.meeting_point()
    async with stranger(url) as say:
        for phase, body in enumerate((b"", b"\xff", b"\x93abc", write_parcel(Parcel(kind=HELLO)))):
            await say(type="add", phase=str(phase), body=body.hex())
        await say(type="add", phase="pake", body="00")
        source = place.agent(url, SOURCE)
        await until(lambda: source.way._mailbox.open)
    destination = place.agent(url, DESTINATION)
    await joined(source, destination)


async def test_a_stranger_cannot_open_streams_without_end(place: Place) -> None:
    url = place.meeting_point()
    destination = place.agent(url, DESTINATION)
    async with stranger(url) as say:
        await say(type="add", phase="0", body=write_parcel(Parcel(kind=HELLO, role=SOURCE)).hex())
        for phase in range(1, 3 * MAX_STREAMS):
            parcel = Parcel(
                kind=DATA, to=destination.way._mailbox.side, stream=bytes([phase] * STREAM_SIZE)
            )
            await say(type="add", phase=str(phase), body=write_parcel(parcel).hex())
        await until(lambda: destination.streams.qsize() >= MAX_STREAMS)
        await until(lambda: destination.way._mailbox._taken.get("stranger") == 3 * MAX_STREAMS - 1)
        assert destination.streams.qsize() == MAX_STREAMS
        assert len(destination.way._streams) == MAX_STREAMS


async def test_a_gap_in_a_stream_breaks_it(place: Place) -> None:
    url = place.meeting_point()
    destination = place.agent(url, DESTINATION)
    async with stranger(url) as say:
        to, name = destination.way._mailbox.side, b"12345678"
        for phase, parcel in enumerate(
            (
                Parcel(kind=HELLO, role=SOURCE),
                Parcel(kind=DATA, to=to, stream=name, number=0, data=b"a"),
                Parcel(kind=DATA, to=to, stream=name, number=2, data=b"c"),
            )
        ):
            await say(type="add", phase=str(phase), body=write_parcel(parcel).hex())
        stream, _ = await destination.streams.get()
        with pytest.raises(OSError, match="lost"):
            await exactly(stream, 2)


async def test_nobody_reads_and_the_stream_is_given_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "STUCK_SECONDS", 0.05)
    source, destination = place.pair(place.meeting_point())
    here, _ = await joined(source, destination)
    here.write(bytes(MAX_BUFFERED + 1))
    with pytest.raises(OSError, match="gave the stream up"):
        await here.read(1)


# -- what is no meeting point


@contextlib.asynccontextmanager
async def server(says: bytes, *, hangs: bool = False) -> AsyncIterator[str]:
    """Somebody else's program: it says something once it was asked."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(says)
        if hangs:
            await over.wait()
        writer.close()

    running = await asyncio.start_server(serve, LOCAL, 0)
    try:
        yield f"ws://{LOCAL}:{running.sockets[0].getsockname()[1]}/v1"
    finally:
        over.set()
        running.close()


@pytest.mark.parametrize(
    ("says", "hangs", "sentence"),
    [
        (b"SSH-2.0-x\r\n", False, "is no meeting point"),
        (b"", False, "is no meeting point|broke"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", False, r"HTTP status 404"),
        (b"HTTP/1.1 302 F\r\nLocation: ws://192.0.2.1/\r\nContent-Length: 0\r\n\r\n", False, "302"),
        (b"", True, "does not answer"),
    ],
)
async def test_what_answers_instead_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, says: bytes, hangs: bool, sentence: str
) -> None:
    monkeypatch.setattr(rendezvous, "OPEN_SECONDS", 0.3)
    async with server(says, hangs=hangs) as url:
        source = place.agent(url, SOURCE)
        await until(lambda: source.troubles)
        assert re.search(sentence, source.troubles[0])
        await source.way.close()


async def test_a_refused_connection_is_said_once_and_tried_again(place: Place) -> None:
    with socket.create_server((LOCAL, 0)) as sock:
        port = sock.getsockname()[1]
    source = place.agent(f"ws://{LOCAL}:{port}/v1", SOURCE)
    await until(lambda: source.troubles)
    url = place.meeting_point(port)
    await joined(source, place.agent(url, DESTINATION))
    assert len(source.troubles) == 1
    assert "refuses the connection" in source.troubles[0]


async def test_a_name_that_does_not_resolve_is_said(place: Place) -> None:
    def fail(*_args: object, **_named: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
        source = place.agent("ws://nowhere.example/v1", SOURCE)
        await until(lambda: source.troubles)
    assert "not known by that name" in source.troubles[0]


@contextlib.asynccontextmanager
async def websocket(says: list[str]) -> AsyncIterator[str]:
    """A WebSocket server that says something else."""

    async def talk(connection: ServerConnection) -> None:
        for text in says:
            await connection.send(text)
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.recv()

    async with serve(talk, LOCAL, 0) as running:
        yield f"ws://{LOCAL}:{next(iter(running.sockets)).getsockname()[1]}/v1"


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        (["hello"], "is no meeting point"),
        (
            ['{"type": "welcome", "welcome": {"error": "closed \\u001b[2J for good"}}'],
            "serves nobody: closed  [2J for good",
        ),
        (['{"type": "welcome", "welcome": {"motd": "be nice"}}'], "says: be nice"),
        (['{"type": "error", "error": "too tired"}'], "objects: too tired"),
        ([], "does not answer"),
    ],
)
async def test_what_another_server_says_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch, says: list[str], sentence: str
) -> None:
    monkeypatch.setattr(rendezvous, "OPEN_SECONDS", 0.3)
    async with websocket(says) as url:
        source = place.agent(url, SOURCE)
        await until(lambda: source.troubles)
        assert sentence in source.troubles[0]
        await source.way.close()


@pytest.mark.parametrize(
    "says", [["x"], ['{"type": "allocated", "nameplate": "70000"}'], [], ['{"type": "error"}']]
)
async def test_a_number_that_is_not_to_be_had(
    place: Place, monkeypatch: pytest.MonkeyPatch, says: list[str]
) -> None:
    monkeypatch.setattr(rendezvous, "ALLOCATE_SECONDS", 0.3)
    async with websocket(says) as url:
        assert await allocate(url, new_side()) is None
    assert await allocate(url, new_side()) is None
    assert place.agents == []


# -- TLS


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "meet")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOCAL))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, secret


async def test_over_tls(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, secret = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    url = place.meeting_point(context=rendezvous_server._context(str(pem), str(secret)))
    source, destination = place.pair(url)
    here, there = await joined(source, destination)
    await carries(here, there, os.urandom(50_000))
    assert await allocate(url, new_side())


async def test_a_certificate_that_nobody_vouches_for_is_said(place: Place, tmp_path: Path) -> None:
    pem, secret = certificate(tmp_path)
    url = place.meeting_point(context=rendezvous_server._context(str(pem), str(secret)))
    source = place.agent(url, SOURCE)
    await until(lambda: source.troubles)
    assert "certificate" in source.troubles[0]
    assert "self-signed" in source.troubles[0]


async def test_tls_to_a_server_without_is_said(place: Place) -> None:
    url = place.meeting_point().replace("ws:", "wss:")
    source = place.agent(url, SOURCE)
    await until(lambda: source.troubles)
    assert re.search("TLS|cannot be reached|broke", source.troubles[0])


# -- hostile clients of our meeting point


async def test_noise_at_the_meeting_point_concerns_nobody_else(place: Place) -> None:
    url = place.meeting_point()
    port = int(url.rpartition(":")[2].partition("/")[0])
    source, destination = place.pair(url)
    here, there = await joined(source, destination)
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100_000, b"x" * 9000 + b"\r\n"):
        reader, writer = await asyncio.open_connection(LOCAL, port)
        writer.write(noise)
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()
    for text in ("x", "[]", "x" * (MAX_MESSAGE + 1), b"\xff\xfe"):
        async with connect(url, compression=None, proxy=None) as connection:
            with contextlib.suppress(ConnectionClosed):
                await connection.send(text)
                while True:
                    await connection.recv()
    with pytest.raises(InvalidStatus):
        await connect(
            url,
            compression=None,
            proxy=None,
            origin=None,
            subprotocols=None,
            additional_headers={"Sec-WebSocket-Version": "1"},
        )
    await carries(here, there, b"undisturbed")


async def test_who_never_reads_keeps_nothing_and_nobody(place: Place) -> None:
    url = place.meeting_point()
    async with stranger(url, number="3") as say:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                phase = 0
                while True:
                    await say(type="add", phase=str(phase), body="00" * 30_000)
                    phase += 1
        source, destination = place.pair(url)
        here, there = await joined(source, destination)
        await carries(here, there, b"undisturbed")
        assert place.points[0]._server._bytes <= 5 * 1024 * 1024


async def test_one_address_has_few_places(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # As seen from elsewhere: loopback itself is not counted.
    monkeypatch.setattr(rendezvous_server, "_place", lambda address: address)
    url = place.meeting_point()
    port = int(url.rpartition(":")[2].partition("/")[0])
    held = [await asyncio.open_connection(LOCAL, port) for _ in range(MAX_PER_ADDRESS)]
    reader, writer = await asyncio.open_connection(LOCAL, port)
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    for _, other in held:
        other.close()
    await until(lambda: not place.points[0]._places)
    await joined(*place.pair(url))


@pytest.mark.parametrize(
    ("address", "place_of"),
    [
        (LOCAL, ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_what_counts_as_one_address(address: str, place_of: str) -> None:
    assert rendezvous_server._place(address) == place_of


async def test_a_thousand_silent_connections_leave_room_for_others(place: Place) -> None:
    url = place.meeting_point()
    port = int(url.rpartition(":")[2].partition("/")[0])
    source, destination = place.pair(url)
    here, there = await joined(source, destination)
    strangers = []
    try:
        for _ in range(600):
            sock = socket.socket()
            strangers.append(sock)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (LOCAL, port))
        await until(lambda: place.points[0]._places.total() >= MAX_CLIENTS)
        await carries(here, there, b"undisturbed")
        assert place.points[0]._places.total() == MAX_CLIENTS
    finally:
        for sock in strangers:
            sock.close()
    await until(lambda: place.points[0]._places.total() == 2)


# -- what a person types


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("ws://meet.example", "ws://meet.example/v1"),
        ("wss://meet.example:4000/v1", "wss://meet.example:4000/v1"),
        ("WS://192.0.2.1:1/other", "ws://192.0.2.1:1/other"),
        ("wss://[2001:db8::1]:4000", "wss://[2001:db8::1]:4000/v1"),
    ],
)
def test_urls(text: str, url: str) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "meet.example",
        "https://meet.example",
        "ws://",
        "ws:///v1",
        "ws://:4000/v1",
        "ws://meet.example:0",
        "ws://meet.example:99999",
        "ws://meet.example:x",
        "ws://user@meet.example",
        "ws://user:secret@meet.example",
        "ws://meet.example/#part",
        "ws://[2001:db8::1",
        "ws://meet example",
        "ws://meet\n.example",
        "ws://" + "x" * 2000,
    ],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_url(text)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "--listen"),
        (["--listen", "4000"], "HOST:PORT"),
        (["--listen", ":4000"], "HOST:PORT"),
        (["--listen", "::1:4000"], "HOST:PORT"),
        (["--listen", "[::1]"], "HOST:PORT"),
        (["--listen", f"{LOCAL}:x"], "number from 0 to 65535"),
        (["--listen", f"{LOCAL}:65536"], "number from 0 to 65535"),
        (["--listen", f"{LOCAL}:-1"], "number from 0 to 65535"),
        (["--listen", "192.0.2.1:0"], "Cannot listen"),
        (["--listen", "no host:0"], "no address to listen at"),
        (["--listen", f"{LOCAL}:0", "--certificate", "x"], "belong together"),
        (["--listen", f"{LOCAL}:0", "--key", "x"], "belong together"),
        (["--listen", f"{LOCAL}:0", "--certificate", "/nowhere", "--key", "/x"], "cannot be read"),
        (
            ["--listen", f"{LOCAL}:0", "--certificate", __file__, "--key", __file__],
            "no certificate",
        ),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["rendezvous", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert sentence in err


def test_a_port_in_use_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((LOCAL, 0)) as sock:
        assert cli.run(["rendezvous", "--listen", f"{LOCAL}:{sock.getsockname()[1]}"]) == 2
    assert "in use" in capsys.readouterr().err


def test_a_wildcard_is_printed_as_the_addresses_behind_it() -> None:
    for host in ("0.0.0.0", "::"):
        urls = rendezvous_server._urls(host, 4000, secure=False)
        assert all(parse_url(url) == url for url in urls)
        assert len(urls) >= 1
    assert rendezvous_server._urls("::1", 4000, secure=True) == ["wss://[::1]:4000/v1"]


# -- real processes, and the upstream ones


@contextlib.contextmanager
def process(*argv: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def said(running: subprocess.Popen[str], pattern: str) -> str:
    """Read what a process says until `pattern` matches; return its group."""
    assert running.stdout is not None
    for line in running.stdout:
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(f"it ended without {pattern!r}")


@contextlib.contextmanager
def our_server(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    argv = ("-m", "bothends", "rendezvous", "--listen", f"{LOCAL}:0", *more)
    with process(*argv, cwd=folder) as running:
        yield running, said(running, r"--rendezvous (\S+)$")


@contextlib.contextmanager
def upstream_server(folder: Path) -> Iterator[str]:
    argv = ("-m", "twisted", "wormhole-mailbox", "--port", f"tcp:0:interface={LOCAL}")
    with process(*argv, "--channel-db", str(folder / "relay.sqlite"), cwd=folder) as running:
        port = said(running, r"Site starting on (\d+)")
        yield f"ws://{LOCAL}:{port}/v1"


@pytest.mark.parametrize(("end", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_command_serves_until_a_signal_ends_it(
    end: signal.Signals, status: int, tmp_path: Path
) -> None:
    with our_server(tmp_path) as (running, url):
        running.send_signal(end)
        out, _ = running.communicate(timeout=GIVE_UP)
        assert (running.returncode, out) == (status, "")
        assert parse_url(url) == url


async def test_our_command_carries_our_agents_over_tls(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, secret = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    with our_server(tmp_path, "--certificate", str(pem), "--key", str(secret)) as (running, url):
        assert url.startswith("wss://")
        source, destination = place.pair(url)
        here, there = await joined(source, destination)
        await carries(here, there, b"x" * 100_000)
        # With clients connected it ends as well.
        running.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(running.wait, GIVE_UP) == 130
        await until(lambda: source.troubles)


async def test_our_agents_through_the_upstream_server(place: Place, tmp_path: Path) -> None:
    with upstream_server(tmp_path) as url:
        side = new_side()
        number = await allocate(url, side)
        assert number is not None
        cutter = Cutter(url)
        async with cutter.running() as cut:
            destination = place.agent(url, DESTINATION, number, side)
            source = place.agent(cut, SOURCE, number)
            here, there = await joined(source, destination)
            await carries(here, there, os.urandom(100_000))
            cutter.cut()
            await carries(here, there, os.urandom(100_000))
            here.end()
            assert await there.read(1) == b""
            # One that ends in order makes room for the next, there too.
            await source.way.close()
        again = place.agent(url, SOURCE, number)
        here, there = await joined(again, destination)
        await carries(here, there, b"again")
        third = place.agent(url, SOURCE, number)
        await until(lambda: third.troubles)
        assert "two others use this number" in third.troubles[0]


def test_the_official_clients_through_our_server(tmp_path: Path) -> None:
    with our_server(tmp_path) as (_, url):
        options = ("-m", "wormhole", "--relay-url", url, "--transit-helper", "")
        code = "7-purple-sausages"
        sending = (*options, "send", "--no-qr", "--code", code, "--text", "greetings")
        with process(*sending, cwd=tmp_path) as sender:
            with process(*options, "receive", "--only-text", code, cwd=tmp_path) as receiver:
                out, _ = receiver.communicate(timeout=GIVE_UP)
                assert (receiver.returncode, out) == (0, "greetings\n")
            out, _ = sender.communicate(timeout=GIVE_UP)
            assert sender.returncode == 0
            assert "text message sent" in out


def test_the_official_client_lets_our_server_choose_the_number(tmp_path: Path) -> None:
    with our_server(tmp_path) as (_, url):
        options = ("-m", "wormhole", "--relay-url", url, "--transit-helper", "")
        with process(*options, "send", "--no-qr", "--text", "greetings", cwd=tmp_path) as sender:
            code = said(sender, r"wormhole receive (\d-\w+-\w+)")
            with process(*options, "receive", "--only-text", code, cwd=tmp_path) as receiver:
                out, _ = receiver.communicate(timeout=GIVE_UP)
                assert (receiver.returncode, out) == (0, "greetings\n")
            sender.communicate(timeout=GIVE_UP)
            assert sender.returncode == 0
