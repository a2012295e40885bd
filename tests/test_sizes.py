"""Full packets between the two agents: what is said, when silence tells, and the two in action."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import secrets
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends.contact import Contact
from bothends.sizes import SizeListener, SizeTest, _segments
from bothends.streams import TcpStream
from bothends_protocol.code import Code
from bothends_protocol.errors import ProtocolError
from bothends_protocol.evidence import Sized
from bothends_protocol.pairing import DESTINATION, SOURCE
from bothends_protocol.sizes import (
    ANSWER_SIZE,
    ASK_SIZE,
    CHANCE,
    CONTROL,
    FIRST,
    FROM,
    FURTHER,
    MAGIC,
    MAX_SEGMENT,
    NATURAL,
    NONCE_SIZE,
    RECEIPT_SIZE,
    TO,
    WAYS,
    Answer,
    Ask,
    chance,
    patience,
    read_answer,
    read_ask,
    receipt,
    swallowed,
    write_answer,
    write_ask,
)

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
LOCAL = "127.0.0.1"
CODE = Code(7, ("abandon", "ability", "able"))
GIVE_UP = 30.0
nonces = st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE)
lengths = st.integers(1, MAX_SEGMENT)


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    way, nonce, searches = draw(st.sampled_from(WAYS)), draw(nonces), draw(st.booleans())
    if way == FROM:
        return Ask(FROM, nonce, searches=searches)
    length = draw(lengths)
    return Ask(TO, nonce, length, length + draw(st.integers(1, 100)), searches)


# -- the bytes


@given(asks())
def test_an_ask_is_read_as_it_was_written(ask: Ask) -> None:
    data = write_ask(KEY, ask)
    assert data.startswith(MAGIC)
    assert len(data) == ASK_SIZE
    assert read_ask(KEY, data) == ask


@given(asks(), lengths, st.integers(1, 100), st.booleans())
def test_an_answer_is_read_as_it_was_written(
    ask: Ask, length: int, around: int, searches: object
) -> None:
    size = (length, length + around) if ask.way == FROM else (0, 0)
    answer = Answer(*size, bool(searches))
    data = write_answer(KEY, ask.nonce, answer)
    assert len(data) == ANSWER_SIZE
    assert read_answer(KEY, ask, data) == answer


def test_before_anything_is_proven_no_reply_is_larger_than_what_was_asked() -> None:
    assert ANSWER_SIZE < ASK_SIZE
    assert RECEIPT_SIZE < ASK_SIZE


@given(asks())
def test_who_has_another_key_is_not_understood(ask: Ask) -> None:
    with pytest.raises(ProtocolError):
        read_ask(KEY, write_ask(OTHER_KEY, ask))
    with pytest.raises(ProtocolError):
        read_answer(KEY, ask, write_answer(OTHER_KEY, ask.nonce, Answer()))
    assert receipt(KEY, ask.nonce) != receipt(OTHER_KEY, ask.nonce)


@given(asks(), st.integers(0, ASK_SIZE * 8 - 1))
def test_an_altered_ask_is_none(ask: Ask, bit: int) -> None:
    data = bytearray(write_ask(KEY, ask))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        read_ask(KEY, bytes(data))


@given(asks(), st.integers(0, ANSWER_SIZE * 8 - 1))
def test_an_altered_answer_is_none(ask: Ask, bit: int) -> None:
    good = Answer(1448, 1500) if ask.way == FROM else Answer()
    data = bytearray(write_answer(KEY, ask.nonce, good))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        read_answer(KEY, ask, bytes(data))


@given(asks(), nonces)
def test_an_answer_serves_for_one_ask_only(ask: Ask, nonce: bytes) -> None:
    answer = write_answer(KEY, nonce, Answer(1448, 1500) if ask.way == FROM else Answer())
    if nonce != ask.nonce:
        with pytest.raises(ProtocolError):
            read_answer(KEY, ask, answer)


@given(st.binary(max_size=2 * ASK_SIZE) | st.binary(min_size=ASK_SIZE, max_size=ASK_SIZE), asks())
def test_any_bytes_are_read_or_refused(data: bytes, ask: Ask) -> None:
    for text in (data, MAGIC + data):
        with pytest.raises(ProtocolError):
            read_ask(KEY, text)
        with pytest.raises(ProtocolError):
            read_answer(KEY, ask, text)


@pytest.mark.parametrize(
    ("length", "packet"), [(0, 0), (0, 40), (1448, 0), (1448, 1448), (MAX_SEGMENT + 1, 2**17)]
)
def test_who_has_the_key_and_asks_for_nonsense_is_refused(length: int, packet: int) -> None:
    with pytest.raises(ProtocolError):
        read_ask(KEY, write_ask(KEY, Ask(TO, b"n" * NONCE_SIZE, length, packet)))
    ask = Ask(FROM, b"n" * NONCE_SIZE)
    with pytest.raises(ProtocolError):
        read_answer(KEY, ask, write_answer(KEY, ask.nonce, Answer(length, packet)))


def test_a_segment_is_announced_by_its_sender_alone() -> None:
    nonce = b"n" * NONCE_SIZE
    with pytest.raises(ProtocolError):
        read_ask(KEY, write_ask(KEY, Ask(FROM, nonce, 1448, 1500)))
    ask = Ask(TO, nonce, 1448, 1500)
    with pytest.raises(ProtocolError):
        read_answer(KEY, ask, write_answer(KEY, nonce, Answer(1448, 1500)))


# -- when silence tells


def row(
    asked: int,
    begun: int,
    passed: int,
    *,
    packet: int | None = None,
    watched: float = 9.0,
    seconds: float = 0.01,
) -> Sized:
    size = (1500 if asked == NATURAL else asked + 40) if packet is None else packet
    return Sized(
        address=LOCAL,
        local=LOCAL,
        way=TO,
        asked=asked,
        packet=size,
        begun=begun,
        passed=passed,
        seconds=seconds if passed else 0.0,
        watched=watched if begun > passed else 0.0,
    )


WAVES = (FIRST, FIRST + FURTHER, FIRST + 2 * FURTHER, FIRST + 3 * FURTHER)
"""Connections of each kind after each wave."""


def test_two_waves_tell_where_nothing_else_is_lost() -> None:
    first, second = WAVES[:2]
    assert not swallowed(row(NATURAL, first, 0), row(CONTROL, first, first))
    assert swallowed(row(NATURAL, second, 0), row(CONTROL, second, second))


def test_a_way_on_which_others_are_lost_too_needs_more() -> None:
    count = WAVES[1]
    assert not swallowed(row(NATURAL, count, 0), row(CONTROL, count, count - 2))
    assert not swallowed(row(NATURAL, 40, 0), row(CONTROL, 40, 0))


def test_one_full_packet_that_came_through_says_that_all_is_well() -> None:
    assert not swallowed(row(NATURAL, 40, 1), row(CONTROL, 40, 40))


def test_who_waited_too_short_a_time_knows_nothing() -> None:
    short = patience(0.3) - 0.001
    assert not swallowed(row(NATURAL, 40, 0, watched=short), row(CONTROL, 40, 40, seconds=0.3))
    assert swallowed(row(NATURAL, 40, 0, watched=short), row(CONTROL, 40, 40, seconds=0.2))


def test_what_is_no_larger_than_the_control_is_not_swallowed_for_its_size() -> None:
    assert not swallowed(row(NATURAL, 40, 0, packet=1240), row(CONTROL, 40, 40))


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_chance_is_the_share_of_the_ways_to_pick_the_lost(
    silent: int, control: int, data: st.DataObject
) -> None:
    lost = data.draw(st.integers(0, control))
    total = silent + control
    picks = math.comb(total, silent + lost)
    with_all_silent = math.comb(control, lost)
    assert math.isclose(chance(silent, control, lost), with_all_silent / picks, rel_tol=1e-9)


def told(full: float, small: float) -> float:
    """How probable it is that a way is said to swallow full packets.

    Each of them passes with the probability `full`, each of the control with `small`. Over all
    waves, by walking through every count of lost ones; one full one that passes ends it.
    """
    sum_told, states, before = 0.0, {0: 1.0}, 0
    for count in WAVES:
        fresh = count - before
        after: dict[int, float] = {}
        for lost, probability in states.items():
            for more in range(fresh + 1):
                weight = math.comb(fresh, more) * (1 - small) ** more * small ** (fresh - more)
                weight *= (1 - full) ** fresh
                after[lost + more] = after.get(lost + more, 0.0) + probability * weight
        for lost in list(after):
            if swallowed(row(NATURAL, count, 0), row(CONTROL, count, count - lost)):
                sum_told += after.pop(lost)
        states, before = after, count
    return sum_told


def test_loss_is_hardly_ever_taken_for_a_limit() -> None:
    """Whatever the rate of loss: the figures are exact, nothing is drawn."""
    assert max(told(step / 200, step / 200) for step in range(1, 200)) < CHANCE
    # At 20 % and 40 % each way, as if nobody sent a segment or its receipt again.
    assert told(0.8 * 0.8, 0.8 * 0.8) < 3e-8
    assert told(0.6 * 0.6, 0.6 * 0.6) < 2e-7


def test_a_limit_is_found_where_packets_get_lost() -> None:
    assert told(0.0, 1.0) == 1.0
    # At 20 % each way, of segments that are sent once and twice again while they are watched.
    assert told(0.0, 1 - (1 - 0.64) ** 3) > 0.999


# -- the two


@contextlib.asynccontextmanager
async def listener(key: bytes = KEY, *, sizes: SizeListener | None = None) -> AsyncIterator[int]:
    """A port of loopback at which asks are answered."""
    sizes = sizes or SizeListener(key)

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = TcpStream(reader, writer)
        try:
            ask = await sizes.hear(stream)
        except (OSError, ProtocolError):
            ask = None
        if ask is None:
            await stream.drop()
            return
        await sizes.serve(stream, ask)

    server = await asyncio.start_server(accepted, LOCAL, 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        sizes.close()
        await server.wait_closed()


async def measured(port: int) -> dict[tuple[str, int], Sized]:
    test = SizeTest(KEY, LOCAL, port, GIVE_UP)
    test.start()
    try:
        async with asyncio.timeout(GIVE_UP):
            await test._done.wait()
            rows = await test.finish()
    finally:
        await test.close()
    return {(one.way, one.asked): one for one in rows}


async def test_on_loopback_everything_passes_at_once() -> None:
    async with listener() as port:
        rows = await measured(port)
    assert set(rows) == {(way, asked) for way in WAYS for asked in (NATURAL, CONTROL)} or set(
        rows
    ) == {(way, NATURAL) for way in WAYS}
    for way in WAYS:
        natural = rows[way, NATURAL]
        assert natural.passed >= 1
        assert natural.packet > 9000, "loopback takes large ones"
        assert natural.fitted == 0
        assert (natural.address, natural.local) == (LOCAL, LOCAL)


async def test_the_control_is_as_small_as_it_is_called() -> None:
    async with listener() as port:
        rows = await measured(port)
    sizes = {one.packet for one in rows.values() if one.asked == CONTROL}
    assert sizes <= {CONTROL + 40}


async def test_who_has_another_key_learns_nothing() -> None:
    async with listener(OTHER_KEY) as port:
        test = SizeTest(KEY, LOCAL, port, GIVE_UP)
        test.start()
        async with asyncio.timeout(GIVE_UP):
            await until(lambda: all(t.broke for t in test._trials) and test._trials)
            assert await test.finish() == ()


async def test_nobody_there_keeps_nobody() -> None:
    with socket.create_server((LOCAL, 0)) as sock:
        port = int(sock.getsockname()[1])
    test = SizeTest(KEY, LOCAL, port, GIVE_UP)
    test.start()
    async with asyncio.timeout(GIVE_UP):
        await until(lambda: all(t.broke for t in test._trials) and test._trials)
        assert await test.finish() == ()


async def test_without_a_socket_nothing_is_found_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "no more of them")

    test = SizeTest(KEY, LOCAL, 9, GIVE_UP)
    monkeypatch.setattr("bothends.sizes.socket.socket", none_left)
    test.start()
    async with asyncio.timeout(GIVE_UP):
        await until(lambda: all(t.broke for t in test._trials) and test._trials)
        assert await test.finish() == ()


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110  nobody announces it
        await asyncio.sleep(0)


async def said(port: int, data: bytes) -> bytes:
    """All that comes for `data`, until the other end closes."""
    reader, writer = await asyncio.open_connection(LOCAL, port)
    writer.write(data)
    writer.write_eof()
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"bothends 3\n",
        b"GET / HTTP/1.1\r\n\r\n",
        MAGIC,
        MAGIC + bytes(ASK_SIZE - len(MAGIC)),
        write_ask(OTHER_KEY, Ask(FROM, b"n" * NONCE_SIZE)),
    ],
)
async def test_a_stranger_is_told_nothing(data: bytes) -> None:
    async with listener() as port, asyncio.timeout(GIVE_UP):
        assert await said(port, data) == b""


async def test_an_ask_is_answered_once() -> None:
    ask = write_ask(KEY, Ask(FROM, secrets.token_bytes(NONCE_SIZE)))
    async with listener() as port, asyncio.timeout(GIVE_UP):
        assert len(await said(port, ask)) > ANSWER_SIZE
        assert await said(port, ask) == b""


class Hole(SizeListener):
    """As on a way on which packets above `LIMIT` vanish, in the directions `ways`."""

    LIMIT = 1400

    def __init__(self, key: bytes, ways: tuple[str, ...]) -> None:
        super().__init__(key)
        self.ways = ways

    async def _serve(self, stream: TcpStream, ask: Ask) -> None:
        sizes = _segments(stream.sock)
        packet = ask.packet if ask.way == TO else sizes.sent + sizes.around
        if packet <= self.LIMIT or ask.way not in self.ways:
            await super()._serve(stream, ask)
            return
        answer = Answer() if ask.way == TO else Answer(sizes.sent, packet)
        stream.write(write_answer(self._key, ask.nonce, answer))
        while await stream.read(MAX_SEGMENT):
            pass


@pytest.mark.parametrize("ways", [(TO,), (FROM,), WAYS], ids="-".join)
async def test_what_vanishes_is_found_out_and_bracketed(
    monkeypatch: pytest.MonkeyPatch, ways: tuple[str, ...]
) -> None:
    # A computer that is busy elsewhere looks late; then more is sent than it would take.
    monkeypatch.setattr("bothends.sizes.LOOK_SECONDS", GIVE_UP)
    async with listener(sizes=Hole(KEY, ways)) as port:
        rows = await measured(port)
    for way in WAYS:
        mine = {one.packet: one for one in rows.values() if one.way == way}
        natural, control = rows[way, NATURAL], rows[way, CONTROL]
        assert swallowed(natural, control) == (way in ways)
        if way in ways:
            # All of two waves, but for those that were a moment late when it was clear.
            assert FIRST + FURTHER - 2 <= natural.begun <= FIRST + FURTHER
            assert control.passed == control.begun <= FIRST + FURTHER
            assert max(packet for packet, one in mine.items() if one.passed) == Hole.LIMIT
            assert min(packet for packet, one in mine.items() if not one.passed) == 1420
        else:
            assert natural.passed


class Slow(SizeListener):
    """A busy computer: it comes to each ask some time later."""

    async def hear(self, stream: TcpStream) -> Ask | None:
        await asyncio.sleep(0.2)
        return await super().hear(stream)


@pytest.mark.parametrize("answers", [True, False])
async def test_who_is_known_to_answer_is_waited_for(*, answers: bool) -> None:
    async with listener(sizes=Slow(KEY)) as port:
        test = SizeTest(KEY, LOCAL, port, GIVE_UP, answers=answers)
        test.start()
        rows = await test.finish()
    assert {(row.way, row.asked) for row in rows if row.passed} >= (
        {(TO, NATURAL), (FROM, NATURAL)} if answers else set()
    )
    assert bool(rows) is answers


async def test_no_longer_than_there_is_hope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bothends.sizes.UNKNOWN_SECONDS", 0.05)
    with socket.create_server((LOCAL, 0), backlog=100) as sock:
        test = SizeTest(KEY, LOCAL, int(sock.getsockname()[1]), GIVE_UP, answers=True)
        test.start()
        async with asyncio.timeout(GIVE_UP):
            assert await test.finish() == ()
        hurried = SizeTest(KEY, LOCAL, int(sock.getsockname()[1]), GIVE_UP, answers=True)
        hurried.start()
        hurried.hurry()
        assert await hurried.finish() == ()


async def test_where_nobody_answers_no_more_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bothends.sizes.UNKNOWN_SECONDS", 0.01)
    monkeypatch.setattr("bothends.sizes.HASTE_SECONDS", 0.01)
    with socket.create_server((LOCAL, 0), backlog=100) as sock:
        test = SizeTest(KEY, LOCAL, int(sock.getsockname()[1]), GIVE_UP)
        test.start()
        await asyncio.sleep(0.2)
        assert await test.finish() == ()
    assert len(test._trials) == len(WAYS) * 2 * FIRST


# -- at the control port


@contextlib.asynccontextmanager
async def waiting(role: str) -> AsyncIterator[Contact]:
    """An agent that listens at a control port of its own."""
    with socket.create_server((LOCAL, 0)) as sock:
        port = int(sock.getsockname()[1])
    contact = Contact(role=role, code=CODE, control_port=port, say=print)
    try:
        assert await contact.listen() is None
        yield contact
    finally:
        await contact.close()


async def test_before_the_two_have_paired_nobody_is_answered() -> None:
    ask = write_ask(KEY, Ask(FROM, secrets.token_bytes(NONCE_SIZE)))
    async with waiting(DESTINATION) as contact, asyncio.timeout(GIVE_UP):
        assert await said(contact.control_port, ask) == b""


async def test_the_control_port_answers_the_other_agent_alone() -> None:
    good = write_ask(KEY, Ask(FROM, secrets.token_bytes(NONCE_SIZE)))
    async with waiting(DESTINATION) as contact, asyncio.timeout(GIVE_UP):
        contact.answer_sizes(KEY)
        for stranger in (write_ask(OTHER_KEY, Ask(FROM, bytes(NONCE_SIZE))), MAGIC, b"\x00" * 99):
            assert await said(contact.control_port, stranger) == b""
        assert len(await said(contact.control_port, good)) > ANSWER_SIZE
        assert (await measured(contact.control_port))[TO, NATURAL].passed


async def test_who_greets_is_still_paired_with() -> None:
    async with (
        waiting(DESTINATION) as destination,
        waiting(SOURCE) as source,
        asyncio.timeout(GIVE_UP),
    ):
        destination.answer_sizes(KEY)
        source.dial(LOCAL, destination.control_port)
        link = await source.links.get()
        assert link.keys is not None
