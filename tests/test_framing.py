"""Frames on a stream: any split gives the same frames, any bytes only the errors promised."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bothends_protocol.errors import (
    MisuseError,
    NotBothendsError,
    OtherVersionError,
    ProtocolError,
)
from bothends_protocol.framing import (
    MAX_FRAME,
    MAX_HELLO,
    PREAMBLE,
    PROTOCOL_VERSION,
    FrameReader,
    frame,
)

payloads = st.lists(st.binary(max_size=MAX_HELLO), max_size=5)


def read(stream: bytes, cuts: list[int]) -> list[bytes]:
    reader = FrameReader()
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [
        payload for start, end in pairwise(places) for payload in reader.feed(stream[start:end])
    ]


@given(payloads, st.lists(st.integers(0, 4000), max_size=20))
def test_any_split_of_a_stream_gives_the_same_frames(sent: list[bytes], cuts: list[int]) -> None:
    stream = PREAMBLE + b"".join(map(frame, sent))
    assert read(stream, cuts) == sent


@given(payloads)
def test_byte_by_byte(sent: list[bytes]) -> None:
    stream = PREAMBLE + b"".join(map(frame, sent))
    assert read(stream, list(range(len(stream)))) == sent


@given(st.lists(st.binary(max_size=40), max_size=6))
@example([b"bothends ", b"2", b"\n", b"\xff\xff\xff\xff"])
@example([b"bothends \xd9\xa1\n"])
def test_any_bytes_raise_only_the_protocols_own_errors(pieces: list[bytes]) -> None:
    reader = FrameReader()
    with contextlib.suppress(ProtocolError):
        for piece in pieces:
            for payload in reader.feed(piece):
                assert frame(payload) in b"".join(pieces)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_how_a_greeting_is_split_does_not_change_who_is_taken_for_what(
    data: bytes, cuts: list[int]
) -> None:
    stream = b"bothends " + data
    outcomes = []
    for places in ([], cuts, list(range(len(stream)))):
        try:
            outcomes.append(repr(read(stream, places)))
        except ProtocolError as error:
            outcomes.append(type(error).__name__)
    assert len(set(outcomes)) == 1


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01",
        b"bothends\n",
        b"bothends \n",
        b"bothends x\n",
        b"bothends -1\n",
        b"bothends 123456\n",
        b"bothends 1 \n",
        b"bothends 1234567",
    ],
)
def test_something_else_is_recognised(stream: bytes) -> None:
    with pytest.raises(NotBothendsError):
        FrameReader().feed(stream)


def test_something_else_is_recognised_by_its_first_byte() -> None:
    with pytest.raises(NotBothendsError):
        FrameReader().feed(b"x")


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1, 99999])
def test_another_version_says_which(version: int) -> None:
    with pytest.raises(OtherVersionError) as caught:
        FrameReader().feed(b"bothends %d\nwhatever that version sends" % version)
    assert caught.value.version == version


def test_nothing_comes_out_before_the_whole_greeting() -> None:
    reader = FrameReader()
    assert reader.feed(PREAMBLE[:-1]) == []
    assert reader.feed(PREAMBLE[-1:] + frame(b"first")) == [b"first"]


def test_a_frame_over_the_limit_is_refused_by_its_length_alone() -> None:
    reader = FrameReader()
    assert reader.feed(PREAMBLE + frame(bytes(MAX_HELLO))) == [bytes(MAX_HELLO)]
    with pytest.raises(ProtocolError, match=str(MAX_HELLO)):
        reader.feed((MAX_HELLO + 1).to_bytes(4, "big"))


def test_the_limit_can_be_raised_after_authentication() -> None:
    reader = FrameReader()
    reader.feed(PREAMBLE)
    reader.limit = MAX_FRAME
    assert reader.feed(frame(bytes(MAX_FRAME))) == [bytes(MAX_FRAME)]
    with pytest.raises(ProtocolError):
        reader.feed(b"\xff\xff\xff\xff")


def test_a_frame_that_nobody_would_take_is_not_made() -> None:
    with pytest.raises(MisuseError):
        frame(bytes(MAX_FRAME + 1))
