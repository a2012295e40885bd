"""Two agents meet on loopback, and everybody else who knocks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from bothends import contact as contact_module
from bothends import link as link_module
from bothends.channel import nominated
from bothends.contact import (
    MAX_DIALLED,
    MAX_NOTED,
    MAX_PER_STRANGER,
    MAX_TRIES,
    Contact,
)
from bothends.link import Link, LinkClosedError
from bothends.streams import DIRECT
from bothends_protocol.code import Code
from bothends_protocol.errors import NotBothendsError, TamperedError
from bothends_protocol.framing import MAX_HELLO, PREAMBLE, FrameReader, frame
from bothends_protocol.pairing import DESTINATION, SOURCE, Handshake, Hello, Keys, Refusal
from bothends_protocol.wire import pack, unpack

LOCAL = "127.0.0.1"
CODE = Code(7, ("abandon", "ability", "able"))
WRONG = Code(7, ("abandon", "ability", "about"))
FRESH = Code(7, ("zoo", "zoo", "zoo"))
GIVE_UP = 60.0
"""Seconds after which a test that still waits has failed; nothing here takes one."""

Start = Callable[..., Awaitable[Contact]]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waiting cannot mend fails at once."""
    monkeypatch.setattr(contact_module, "OTHER_WAYS_SECONDS", 0.0)


def free_port() -> int:
    with socket.create_server((LOCAL, 0)) as sock:
        return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def agents() -> AsyncIterator[Start]:
    """Starts contacts that listen; at the end nothing of them is left."""
    made: list[Contact] = []

    async def start(
        role: str, code: Code = CODE, *, fresh: Code | None = None, says: list[str] | None = None
    ) -> Contact:
        contact = Contact(
            role=role,
            code=code,
            control_port=free_port(),
            say=([] if says is None else says).append,
            fresh_code=None if fresh is None else lambda: fresh,
        )
        made.append(contact)
        assert await contact.listen() is None
        return contact

    async with asyncio.timeout(GIVE_UP):
        try:
            yield start
        finally:
            for contact in made:
                await contact.close()
                await contact.close()
        await everything_ended()


async def everything_ended() -> None:
    """Let what was closed end; with unclosed sockets Python's own warning is an error here."""
    for _ in range(100):
        if asyncio.all_tasks() == {asyncio.current_task()}:
            break
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()


def dial(one: Contact, other: Contact) -> None:
    one.dial(LOCAL, other.control_port)


async def paired(source: Contact, destination: Contact) -> tuple[Link, Link]:
    """Wait until the two have agreed on a link, as `bothends.run` does."""
    waiting = asyncio.ensure_future(nominated(destination, DESTINATION))
    here, _ = await nominated(source, SOURCE)
    here.send(b"this one")
    there, first = await waiting
    assert first == b"this one"
    return here, there


# -- the two


@pytest.mark.parametrize(
    "dialling", [[SOURCE], [DESTINATION], [SOURCE, DESTINATION]], ids="-and-".join
)
async def test_either_side_or_both_may_dial(dialling: list[str]) -> None:
    async with agents() as start:
        source, destination = await start(SOURCE), await start(DESTINATION)
        for role in dialling:
            dial(*((source, destination) if role == SOURCE else (destination, source)))
        here, there = await paired(source, destination)
        assert here.keys is not None
        assert there.keys is not None
        assert here.keys.derive("x") == there.keys.derive("x")
        assert (here.remote, there.remote) == (LOCAL, LOCAL)
        there.send(b"and back")
        assert await here.receive() == b"and back"
        # An address proves something only to the one who dialled it.
        assert (source.proven == (LOCAL,)) >= (dialling == [SOURCE])
        assert (destination.proven == (LOCAL,)) >= (dialling == [DESTINATION])


async def test_after_the_nomination_every_other_way_closes() -> None:
    async with agents() as start:
        source, destination = await start(SOURCE), await start(DESTINATION)
        dial(source, destination)
        first, _ = await paired(source, destination)
        dial(destination, source)
        second = await source.links.get()
        assert first.keys is not None
        source.settle(first)
        with pytest.raises(LinkClosedError):
            await second.receive()
        assert source.session


async def test_an_agent_that_starts_later_is_met() -> None:
    async with agents() as start:
        source, early = await start(SOURCE), await start(DESTINATION)
        port = early.control_port
        await early.close()
        source.dial(LOCAL, port)
        await until(lambda: "refused" in source.refusals.get(f"{LOCAL}:{port}", ""))
        late = Contact(role=DESTINATION, code=CODE, control_port=port, say=print)
        assert await late.listen() is None
        await paired(source, late)
        await late.close()


async def until(holds: Callable[[], object]) -> None:
    """Let other tasks run until `holds`; `agents` bounds how long."""
    while not holds():  # noqa: ASYNC110  nobody announces it
        await asyncio.sleep(0)


async def test_a_control_port_in_use_is_said() -> None:
    async with agents() as start:
        first = await start(DESTINATION)
        second = Contact(role=DESTINATION, code=CODE, control_port=first.control_port, say=print)
        assert "in use" in str(await second.listen())
        assert not second.listening
        await second.close()


@pytest.mark.parametrize(
    ("role", "code", "sentence"),
    [
        (SOURCE, WRONG, "check the words"),
        (SOURCE, Code(8, CODE.words), "check the number"),
        (DESTINATION, CODE, "started as destination too"),
    ],
)
async def test_what_cannot_pair_is_said(role: str, code: Code, sentence: str) -> None:
    async with agents() as start:
        destination, other = await start(DESTINATION), await start(role, code)
        dial(other, destination)
        assert sentence in await other.failed
        assert other.links.empty()
        assert destination.links.empty()


async def test_an_agent_that_finds_itself_goes_on() -> None:
    async with agents() as start:
        source, destination = await start(SOURCE), await start(DESTINATION)
        dial(source, source)
        await until(lambda: source.refusals)
        dial(source, destination)
        await paired(source, destination)
        assert not source.failed.done()


# -- wrong codes


async def test_a_wrong_code_counts_once_over_however_many_ways() -> None:
    says: list[str] = []
    async with agents() as start:
        destination = await start(DESTINATION, says=says)
        stranger = await start(SOURCE, WRONG)
        dial(stranger, destination)
        dial(destination, stranger)
        await stranger.failed
        place = f"{LOCAL}:{stranger.control_port}"
        await until(lambda: destination.refusals.get(place) == "the code is wrong")
        source = await start(SOURCE)
        dial(source, destination)
        await paired(source, destination)
        assert [line for line in says if "wrong code" in line] == [
            f"A computer at {says[0].split()[3]} tried a wrong code (1 of {MAX_TRIES})."
        ]


async def fail_to_pair(start: Start, destination: Contact) -> None:
    stranger = await start(SOURCE, WRONG)
    dial(stranger, destination)
    await stranger.failed
    await stranger.close()


async def test_three_wrong_codes_end_a_destination_that_was_given_its_code() -> None:
    async with agents() as start:
        destination = await start(DESTINATION)
        for _ in range(MAX_TRIES):
            assert not destination.failed.done()
            await fail_to_pair(start, destination)
        assert "the code is retired" in await destination.failed
        source = await start(SOURCE)
        dial(source, destination)
        place = f"{LOCAL}:{destination.control_port}"
        await until(lambda: place in source.refusals and source.refusals[place] != SILENT)
        assert destination.links.empty()


SILENT = contact_module.SILENT


async def test_after_three_wrong_codes_only_the_fresh_one_serves() -> None:
    says: list[str] = []
    async with agents() as start:
        destination = await start(DESTINATION, fresh=FRESH, says=says)
        for _ in range(MAX_TRIES):
            await fail_to_pair(start, destination)
        assert "the old code is retired" in says[-1]
        late = await start(SOURCE, CODE)
        dial(late, destination)
        assert "check the words" in await late.failed
        source = await start(SOURCE, FRESH)
        dial(source, destination)
        await paired(source, destination)


class Stranger:
    """Somebody who speaks the protocol by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.frames = FrameReader()
        self.handshake: Handshake | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, contact: Contact) -> AsyncIterator[Stranger]:
        reader, writer = await asyncio.open_connection(LOCAL, contact.control_port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def greet(self, code: Code) -> bytes:
        """Exchange hellos as a source; return the confirmation, not yet sent."""
        handshake = Handshake(
            role=SOURCE,
            dialled=True,
            instance=secrets.token_bytes(16),
            code=code,
            entropy=secrets.token_bytes,
        )
        await self.say(PREAMBLE + b"".join(map(frame, handshake.start())))
        (confirmation,) = handshake.receive(await self.next_frame())
        return frame(confirmation)

    async def next_frame(self) -> bytes:
        while not (frames := self.frames.feed(await self.reader.read(65536))):
            assert not self.reader.at_eof(), "closed without an answer"
        return frames[0]


@pytest.mark.parametrize(
    "fresh",
    [
        None,
        pytest.param(
            FRESH,
        ),
    ],
    ids=["given", "drawn"],
)
async def test_a_retired_code_does_not_serve_on_a_link_begun_before(fresh: Code | None) -> None:
    async with agents() as start, contextlib.AsyncExitStack() as stack:
        destination = await start(DESTINATION, fresh=fresh)
        guesses = [
            await stack.enter_async_context(Stranger.at(destination)) for _ in range(MAX_TRIES + 1)
        ]
        confirmations = [await guess.greet(WRONG) for guess in guesses[1:]]
        right = await guesses[0].greet(CODE)
        for guess, confirmation in zip(guesses[1:], confirmations, strict=True):
            await guess.say(confirmation)
            assert isinstance(unpack(await guess.next_frame(), Refusal), Refusal)
        await guesses[0].say(right)
        answer = await guesses[0].next_frame()
        assert destination.links.empty()
        assert unpack(answer, Refusal).reason


# -- whoever else is at the control port


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\x00",
        b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n",
        bytes(range(256)) * 20,
        PREAMBLE,
        PREAMBLE + b"\x00\x00\x00\x05\xff\xff\xff\xff\xff",
        PREAMBLE + (MAX_HELLO + 1).to_bytes(4, "big") + bytes(MAX_HELLO + 1),
        PREAMBLE + b"\xff\xff\xff\xff",
        PREAMBLE + frame(b"\x91" * 400),
        b"bothends 1",
        b"bothends 3\n",
    ],
    ids=lambda noise: repr(noise[:20]),
)
async def test_noise_at_the_control_port_does_not_keep_the_two_apart(noise: bytes) -> None:
    async with agents() as start:
        source, destination = await start(SOURCE), await start(DESTINATION)
        async with Stranger.at(destination) as one, Stranger.at(source) as two:
            for stranger in (one, two):
                await stranger.say(noise)
            dial(source, destination)
            await paired(source, destination)
        assert not source.failed.done()
        assert not destination.failed.done()


@pytest.mark.parametrize("noise", [b"SSH-2.0-x\r\n", PREAMBLE + b"\xff\xff\xff\xff"])
async def test_a_listener_hangs_up_on_noise_without_a_word(noise: bytes) -> None:
    async with agents() as start:
        destination = await start(DESTINATION)
        async with Stranger.at(destination) as stranger:
            await stranger.say(noise)
            with contextlib.suppress(ConnectionResetError):
                assert await stranger.reader.read() == b""


async def test_a_stranger_is_told_nothing_before_it_greets() -> None:
    async with agents() as start:
        source, destination = await start(SOURCE), await start(DESTINATION)
        async with Stranger.at(destination) as stranger:
            dial(source, destination)
            await paired(source, destination)
            await destination.close()
            assert await stranger.reader.read() == b""


async def test_one_stranger_cannot_take_all_places() -> None:
    async with agents() as start, contextlib.AsyncExitStack() as stack:
        destination = await start(DESTINATION)
        strangers = [
            await stack.enter_async_context(Stranger.at(destination))
            for _ in range(MAX_PER_STRANGER + 1)
        ]
        reads = [asyncio.ensure_future(stranger.reader.read()) for stranger in strangers]
        await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
        assert [read.done() for read in reads] == [False] * MAX_PER_STRANGER + [True]
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


async def test_a_stranger_that_leaves_leaves_its_place() -> None:
    async with agents() as start:
        source, destination = await start(SOURCE), await start(DESTINATION)
        for _ in range(MAX_PER_STRANGER + 1):
            async with Stranger.at(destination) as stranger:
                await stranger.say(b"x")
                with contextlib.suppress(ConnectionResetError):
                    await stranger.reader.read()
        assert not destination._strangers  # nor is its address kept
        dial(source, destination)
        await paired(source, destination)


def hello(role: str) -> bytes:
    handshake = Handshake(
        role=role,
        dialled=True,
        instance=secrets.token_bytes(16),
        code=CODE,
        entropy=secrets.token_bytes,
    )
    return handshake.start()[0]


@pytest.mark.parametrize(
    ("role", "word"),
    [
        (DESTINATION, hello(DESTINATION)),
        (SOURCE, hello(SOURCE)),
        (SOURCE, pack(Refusal(reason="wrong-code"))),
        (SOURCE, pack(Refusal(reason="other-number"))),
        (SOURCE, pack(Refusal(reason="same-role"))),
        (DESTINATION, pack(Refusal(reason="same-role"))),
    ],
    ids=["hello", "hello", "wrong-code", "other-number", "same-role", "same-role"],
)
async def test_a_stranger_that_knocks_cannot_end_the_run(role: str, word: bytes) -> None:
    async with agents() as start:
        agent = await start(role)
        async with Stranger.at(agent) as stranger:
            await stranger.say(PREAMBLE + frame(word))
            await stranger.reader.read()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not agent.failed.done()


@contextlib.asynccontextmanager
async def server(says: bytes) -> AsyncIterator[int]:
    """Somebody else's program, which says something to everybody and then waits."""
    over = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await over.wait()
        writer.close()

    running = await asyncio.start_server(serve, LOCAL, 0)
    try:
        yield int(running.sockets[0].getsockname()[1])
    finally:
        over.set()
        running.close()
        await running.wait_closed()


async def test_another_version_is_said_with_its_number_and_what_to_do() -> None:
    async with agents() as start, server(b"bothends 9\n") as port:
        source = await start(SOURCE)
        source.dial(LOCAL, port)
        sentence = await source.failed
        assert "protocol 9" in sentence
        assert "same version on both computers" in sentence


async def test_an_agent_of_another_version_learns_this_one() -> None:
    async with agents() as start:
        destination = await start(DESTINATION)
        async with Stranger.at(destination) as stranger:
            await stranger.say(b"bothends 9\n")
            assert await stranger.reader.read() == PREAMBLE


async def test_something_else_at_the_address_is_said() -> None:
    async with agents() as start, server(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        source, destination = await start(SOURCE), await start(DESTINATION)
        source.dial(LOCAL, port)
        place = f"{LOCAL}:{port}"
        await until(lambda: source.refusals.get(place) == "something else than bothends answers")
        dial(source, destination)
        await paired(source, destination)


# -- after pairing


async def settled(start: Start) -> tuple[Contact, Contact, Link, Link]:
    source, destination = await start(SOURCE), await start(DESTINATION)
    dial(source, destination)
    here, there = await paired(source, destination)
    assert here.keys is not None
    assert there.keys is not None
    source.settle(here)
    destination.settle(there)
    return source, destination, here, there


async def test_a_broken_session_is_taken_up_again() -> None:
    async with agents() as start:
        source, destination, here, there = await settled(start)
        assert source.session == destination.session != b""
        here.abort()
        with pytest.raises(LinkClosedError):
            await there.receive()
        source.redial()
        again, other = await paired(source, destination)
        source.settle_again(again)
        destination.settle_again(other)
        assert again.keys is not None
        assert here.keys is not None
        assert again.keys.derive("x") != here.keys.derive("x")


async def test_a_handshake_that_hangs_gets_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of connections cut where only the other end was told, this end hears nothing for long."""
    monkeypatch.setattr(contact_module, "PAIRING_SECONDS", 0.01)
    monkeypatch.setattr(link_module, "HANDSHAKE_SECONDS", 2 * GIVE_UP)
    async with agents() as start:
        source, destination, here, there = await settled(start)
        here.abort()
        there.abort()
        deaf: list[asyncio.StreamWriter] = []
        answer = destination._accepted

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            deaf.append(writer)
            if len(deaf) == 3:
                await answer(reader, deaf.pop())

        destination._stop_listening()
        server = await asyncio.start_server(hang, LOCAL, destination.control_port)
        async with server:
            # Two ways at once would not show which of the two was heard.
            source._puncher.knock = lambda *_, **__: None  # type: ignore[method-assign]
            source.redial()
            await paired(source, destination)
            assert len(deaf) == 2
            for writer in deaf:
                writer.close()


async def test_the_code_alone_does_not_take_up_a_session() -> None:
    says: list[str] = []
    async with agents() as start:
        _, destination, _, _ = await settled(start)
        intruder = await start(SOURCE, CODE, says=says)
        dial(intruder, destination)
        place = f"{LOCAL}:{destination.control_port}"
        await until(lambda: "already paired" in intruder.refusals.get(place, ""))
        assert intruder.links.empty()
        assert destination.links.empty()


async def test_a_wrong_code_cannot_retire_a_session() -> None:
    async with agents() as start:
        source, destination, here, there = await settled(start)
        for _ in range(MAX_TRIES + 1):
            async with Stranger.at(destination) as stranger:
                handshake = Handshake(
                    role=SOURCE,
                    dialled=True,
                    instance=source.instance,
                    code=CODE,
                    entropy=secrets.token_bytes,
                    session=destination.session,
                    resumption=b"guess".ljust(32),
                )
                await stranger.say(PREAMBLE + b"".join(map(frame, handshake.start())))
                (confirmation,) = handshake.receive(await stranger.next_frame())
                await stranger.say(frame(confirmation))
                assert unpack(await stranger.next_frame(), Refusal).reason == "wrong-code"
        assert not destination.failed.done()
        # Nor is the one in whose name it was said kept out from then on.
        here.abort()
        there.abort()
        source.redial()
        await paired(source, destination)


async def test_an_altered_record_is_noticed() -> None:
    async with agents() as start:
        _, _, here, there = await settled(start)
        here._stream.write(frame(b"not sealed with the key of this link"))
        with pytest.raises(TamperedError):
            await there.receive()


# -- what strangers make us do


@pytest.mark.parametrize("role", [SOURCE, DESTINATION])
@pytest.mark.parametrize(
    "word",
    [
        b"bothends 1\n",
        *(PREAMBLE + frame(pack(Refusal(reason=r))) for r in ("wrong-code", "same-role")),
    ],
    ids=["version", "wrong-code", "same-role"],
)
async def test_whoever_made_us_dial_cannot_end_the_run(role: str, word: bytes) -> None:
    # To have us dial takes one packet at the card, so what answers there says no more than
    # somebody who dialled in.
    async with agents() as start, server(word) as port:
        agent = await start(role)
        agent.dial(LOCAL, port, chosen=False)
        await until(lambda: agent.refusals.get(f"{LOCAL}:{port}", SILENT) != SILENT)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not agent.failed.done()
        # Once the user types that address, it counts.
        agent.dial(LOCAL, port)
        if role == SOURCE or b"wrong" not in word:
            await agent.failed


async def test_what_strangers_announce_keeps_no_typed_address_out() -> None:
    async with agents() as start:
        agent = await start(SOURCE)
        for number in range(2 * MAX_DIALLED):
            agent.dial(LOCAL, 1 + number, delay=GIVE_UP, found=True)
        assert len(agent.dialled) == MAX_DIALLED
        agent.dial("127.0.0.2", 1, delay=GIVE_UP)
        assert ("127.0.0.2", 1) in agent.dialled


async def test_strangers_do_not_fill_the_report() -> None:
    async with agents() as start:
        agent = await start(DESTINATION)
        for number in range(300):
            stranger = StubLink(f"fd00::{number:x}", NotBothendsError("noise"))
            await agent._pair(stranger, stranger.remote)
        assert len(agent.refusals) == MAX_NOTED
        agent.refusals["127.0.0.1:1"] = "kept"
        typed = StubLink("127.0.0.1", NotBothendsError("noise"), chosen=True)
        await agent._pair(typed, "127.0.0.1:2")
        assert "127.0.0.1:2" in agent.refusals


async def test_a_link_that_was_given_up_while_it_paired_is_not_offered() -> None:
    async with agents() as start:
        agent = await start(DESTINATION)
        late, best = StubLink(LOCAL), StubLink(LOCAL)
        pairing = asyncio.ensure_future(agent._pair(late, "late"))
        await asyncio.sleep(0)
        agent.settle_again(best)
        late.go_on.set()
        assert not await pairing
        assert agent.links.empty()
        assert late.aborted


class StubLink(Link):
    """A link whose handshake ends as it is told to, in the same step in which it may."""

    def __init__(
        self, remote: str, error: Exception | None = None, *, chosen: bool = False
    ) -> None:
        self.remote, self.remote_port, self.local = remote, 1, LOCAL
        self.way, self.dialled, self.chosen = DIRECT, False, chosen
        self.handshake = self.keys = self.root = None
        self.error = error
        self.aborted = False
        self.go_on = asyncio.Event()

    async def authenticate(self, make: Callable[[], Handshake]) -> None:
        if self.error is not None:
            raise self.error
        await self.go_on.wait()
        self.handshake = make()
        self.handshake.peer = unpack(hello(SOURCE), Hello)
        self.keys = Keys(bytes(32))

    def close(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True
