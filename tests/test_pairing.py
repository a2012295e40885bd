"""The handshake: two of them in memory, and strangers in the place of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bothends_protocol.code import Code
from bothends_protocol.errors import (
    MisuseError,
    NotBothendsError,
    ProtocolError,
    RefusedError,
    WrongCodeError,
)
from bothends_protocol.framing import MAX_HELLO
from bothends_protocol.pairing import (
    DESTINATION,
    SOURCE,
    Confirm,
    Handshake,
    Hello,
    Keys,
    Refusal,
    other_role,
)
from bothends_protocol.wire import pack, unpack

CODE = Code(7, ("abandon", "ability", "able"))
WRONG = Code(7, ("abandon", "ability", "about"))
MAX_FRAMES = 4
"""Hello, Hello, Confirm, Confirm: a handshake that needs more does not end."""

both_diallers = pytest.mark.parametrize("dialler", [SOURCE, DESTINATION])


class Entropy:
    """Reproducible randomness, different for each seed."""

    def __init__(self, seed: int) -> None:
        self._next = seed << 64

    def __call__(self, size: int) -> bytes:
        self._next += 1
        return (self._next.to_bytes(16, "big") * (size // 16 + 1))[:size]


def handshake(
    role: str,
    dialler: str = SOURCE,
    *,
    code: Code = CODE,
    instance: bytes = b"",
    session: bytes = b"",
    resumption: bytes = b"",
    refuse: Callable[[Hello], str | None] = lambda _hello: None,
) -> Handshake:
    return Handshake(
        role=role,
        dialled=role == dialler,
        instance=(instance or role.encode()).ljust(16, b"."),
        code=code,
        entropy=Entropy(len(role)),
        session=session,
        resumption=resumption,
        refuse=refuse,
    )


@dataclass
class Meeting:
    """What two handshakes sent each other, and how each ended."""

    frames: list[tuple[str, bytes]] = field(default_factory=list)
    errors: dict[str, ProtocolError] = field(default_factory=dict)

    def kinds(self) -> list[tuple[str, str]]:
        return [
            (role, type(unpack(data, Hello | Confirm | Refusal)).__name__)  # type: ignore[arg-type]
            for role, data in self.frames
        ]


def meet(one: Handshake, two: Handshake) -> Meeting:
    """Carry the frames between the two, in order, until neither has more to say."""
    meeting = Meeting()
    sides = {one.role: one, other_role(one.role): two}
    waiting = [(role, data) for role, side in sides.items() for data in side.start()]
    while waiting:
        sender, data = waiting.pop(0)
        meeting.frames.append((sender, data))
        assert len(meeting.frames) <= MAX_FRAMES
        receiver = other_role(sender)
        side = sides[receiver]
        if receiver in meeting.errors:
            continue
        try:
            out = side.receive(data)
        except ProtocolError as error:
            meeting.errors[receiver] = error
            out = side.farewell
        waiting += [(receiver, reply) for reply in out]
    return meeting


@both_diallers
def test_the_same_code_gives_the_same_keys(dialler: str) -> None:
    source, destination = handshake(SOURCE, dialler), handshake(DESTINATION, dialler)
    meeting = meet(source, destination)
    assert not meeting.errors
    assert source.keys is not None
    assert destination.keys is not None
    assert source.keys.derive("purpose") == destination.keys.derive("purpose")
    record = source.keys.sealer(SOURCE).seal(b"hello")
    assert destination.keys.opener(SOURCE).open(record) == b"hello"


@both_diallers
def test_the_source_always_confirms_first(dialler: str) -> None:
    meeting = meet(handshake(SOURCE, dialler), handshake(DESTINATION, dialler))
    assert meeting.kinds() == [
        (dialler, "Hello"),
        (other_role(dialler), "Hello"),
        (SOURCE, "Confirm"),
        (DESTINATION, "Confirm"),
    ]


@both_diallers
def test_with_different_words_neither_side_gets_keys(dialler: str) -> None:
    source, destination = (
        handshake(SOURCE, dialler, code=WRONG),
        handshake(DESTINATION, dialler),
    )
    meeting = meet(source, destination)
    assert isinstance(meeting.errors[DESTINATION], WrongCodeError)
    refused = meeting.errors[SOURCE]
    assert isinstance(refused, RefusedError)
    assert refused.reason == "wrong-code"
    assert source.keys is None
    assert destination.keys is None
    assert (DESTINATION, "Confirm") not in meeting.kinds()


@both_diallers
@given(mac=st.binary(max_size=64))
def test_the_destination_shows_nothing_before_the_source_has_proven_itself(
    dialler: str, mac: bytes
) -> None:
    destination = handshake(DESTINATION, dialler)
    shown = destination.start() + destination.receive(handshake(SOURCE, SOURCE).start()[0])
    assert len(shown) == 1
    assert isinstance(unpack(shown[0], Hello), Hello)
    assert not destination.confirmed
    with pytest.raises(WrongCodeError):
        destination.receive(pack(Confirm(mac=mac)))
    assert destination.farewell == [pack(Refusal(reason="wrong-code"))]
    assert not destination.confirmed
    assert destination.keys is None


def test_a_confirmation_sent_back_to_its_sender_does_not_pass() -> None:
    source = handshake(SOURCE)
    destination = handshake(DESTINATION)
    (hello,) = source.start()
    (confirmation,) = source.receive(destination.receive(hello)[0])
    with pytest.raises(WrongCodeError):
        source.receive(confirmation)


def test_a_stranger_that_failed_once_is_refused_unheard() -> None:
    destination = handshake(DESTINATION, refuse=lambda _: "wrong-code")
    meeting = meet(handshake(SOURCE), destination)
    assert meeting.kinds() == [(SOURCE, "Hello"), (DESTINATION, "Refusal")]
    assert destination.keys is None


def test_a_stranger_that_failed_meanwhile_gets_no_second_guess_evaluated() -> None:
    failed: set[bytes] = set()

    def refuse(hello: Hello) -> str | None:
        return "wrong-code" if hello.instance in failed else None

    source, destination = handshake(SOURCE), handshake(DESTINATION, refuse=refuse)
    (hello,) = source.start()
    (answer,) = destination.receive(hello)
    (right,) = source.receive(answer)
    # Another link of the same stranger fails while this one is still under way.
    failed.add(b"source".ljust(16, b"."))
    with pytest.raises(RefusedError):
        destination.receive(right)
    assert destination.farewell == [pack(Refusal(reason="wrong-code"))]
    assert destination.keys is None


@pytest.mark.parametrize(
    ("stranger", "reason"),
    [
        (lambda: handshake(SOURCE, instance=b"destination"), "same-agent"),
        (lambda: handshake(DESTINATION, DESTINATION, instance=b"other"), "same-role"),
        (lambda: handshake(SOURCE, code=Code(8, CODE.words)), "other-number"),
        (lambda: handshake(SOURCE, session=b"s" * 16, resumption=b"k" * 32), "busy"),
    ],
)
def test_what_cannot_pair_is_refused_with_the_reason(
    stranger: Callable[[], Handshake], reason: str
) -> None:
    destination = handshake(DESTINATION)
    with pytest.raises(RefusedError) as caught:
        destination.receive(stranger().start()[0])
    assert caught.value.reason == reason
    assert destination.farewell == [pack(Refusal(reason=reason))]
    assert destination.peer is None


def test_an_unknown_reason_for_a_refusal_is_not_passed_on() -> None:
    with pytest.raises(RefusedError) as caught:
        handshake(SOURCE).receive(pack(Refusal(reason="<script>")))
    assert caught.value.reason == "busy"


# -- taking up a session again


def resuming(role: str, key: bytes = b"k" * 32, name: bytes = b"s" * 16) -> Handshake:
    return handshake(role, session=name, resumption=key)


def test_the_sessions_own_key_takes_it_up_again() -> None:
    source, destination = resuming(SOURCE), resuming(DESTINATION)
    assert not meet(source, destination).errors
    assert source.keys is not None
    assert destination.keys is not None
    assert source.keys.derive("x") == destination.keys.derive("x")


def test_another_key_does_not_take_it_up() -> None:
    source, destination = resuming(SOURCE, key=b"x" * 32), resuming(DESTINATION)
    meeting = meet(source, destination)
    assert isinstance(meeting.errors[DESTINATION], WrongCodeError)
    assert source.keys is None
    assert destination.keys is None


def test_another_session_is_refused() -> None:
    destination = resuming(DESTINATION)
    meeting = meet(resuming(SOURCE, name=b"t" * 16), destination)
    refused = meeting.errors[DESTINATION]
    assert isinstance(refused, RefusedError)
    assert refused.reason == "busy"


def test_every_link_of_a_session_has_its_own_keys() -> None:
    def keys(seed: int) -> bytes:
        source = resuming(SOURCE)
        destination = Handshake(
            role=DESTINATION,
            dialled=False,
            instance=b"d" * 16,
            code=CODE,
            entropy=Entropy(seed),
            session=b"s" * 16,
            resumption=b"k" * 32,
        )
        meet(source, destination)
        assert source.keys is not None
        return source.keys.derive("records of source")

    assert keys(1) != keys(2)


# -- whatever bytes come

hellos = st.builds(
    Hello,
    role=st.sampled_from([SOURCE, DESTINATION, "", "observer"]),
    instance=st.binary(min_size=15, max_size=17),
    number=st.integers(-1, 8),
    share=st.binary(min_size=32, max_size=34) | st.binary(max_size=64).map(lambda b: b"A" + b),
    session=st.sampled_from([b"", b"s" * 16]),
)
frames = (
    st.binary(max_size=80)
    | st.builds(pack, hellos)
    | st.builds(pack, st.builds(Confirm, mac=st.binary(max_size=40)))
    | st.builds(pack, st.builds(Refusal, reason=st.text(max_size=20)))
)


@settings(max_examples=300)
@given(
    st.sampled_from([SOURCE, DESTINATION]),
    st.sampled_from([SOURCE, DESTINATION]),
    st.lists(frames, max_size=4),
)
@example(DESTINATION, SOURCE, [pack(Hello("source", b"i" * 16, 7, b"A" + b"\xff" * 32))])
@example(DESTINATION, SOURCE, [pack(Hello("source", b"i" * 16, 7, b"A" + bytes(32)))])
@example(DESTINATION, SOURCE, [pack(Hello("source", b"i" * 16, 7, b"A\x01" + bytes(31)))])
def test_any_frames_raise_only_protocol_errors_and_never_pair(
    role: str, dialler: str, received: list[bytes]
) -> None:
    side = handshake(role, dialler)
    side.start()
    for data in received:
        try:
            side.receive(data)
        except ProtocolError:
            break
    assert side.keys is None


@pytest.mark.parametrize(
    "changes",
    [{"share": b"A" * 32}, {"share": b""}, {"instance": b"short"}, {"role": "observer"}],
)
def test_a_malformed_hello_is_nobody_of_ours(changes: dict[str, object]) -> None:
    hello = Hello(role=SOURCE, instance=b"i" * 16, number=7, share=b"A" * 33)
    destination = handshake(DESTINATION)
    with pytest.raises(NotBothendsError):
        destination.receive(pack(msgspec.structs.replace(hello, **changes)))
    assert destination.farewell == []


def test_a_share_sent_back_to_its_sender_is_refused() -> None:
    source = handshake(SOURCE)
    mine = unpack(source.start()[0], Hello)
    mirrored = msgspec.structs.replace(mine, role=DESTINATION, instance=b"i" * 16)
    with pytest.raises(ProtocolError):
        source.receive(pack(mirrored))


def test_frames_out_of_turn_are_refused() -> None:
    source, destination = handshake(SOURCE), handshake(DESTINATION)
    (hello,) = source.start()
    with pytest.raises(ProtocolError):
        handshake(DESTINATION).receive(pack(Confirm(mac=bytes(32))))
    destination.receive(hello)
    with pytest.raises(ProtocolError):
        destination.receive(hello)


def test_a_confirmation_after_the_end_is_refused() -> None:
    source, destination = handshake(SOURCE), handshake(DESTINATION)
    meeting = meet(source, destination)
    with pytest.raises(ProtocolError):
        destination.receive(meeting.frames[2][1])


# -- sizes


def test_every_frame_fits_what_a_reader_takes_before_authentication() -> None:
    far = Code(9999, ("z" * 8,) * 3)
    one = handshake(SOURCE, code=far, session=b"s" * 16, resumption=b"k" * 32)
    two = handshake(DESTINATION, code=far, session=b"s" * 16, resumption=b"k" * 32)
    assert all(len(data) <= MAX_HELLO for _, data in meet(one, two).frames)


@pytest.mark.parametrize(
    "dialler",
    [
        SOURCE,
        pytest.param(
            DESTINATION,
        ),
    ],
)
def test_a_reply_to_a_stranger_is_never_larger_than_the_request(dialler: str) -> None:
    listener = handshake(other_role(dialler), dialler)
    (request,) = handshake(dialler, dialler).start()
    assert sum(map(len, listener.receive(request))) <= len(request)


def test_a_refusal_is_smaller_than_the_request() -> None:
    listener = handshake(DESTINATION, refuse=lambda _: "wrong-code")
    (request,) = handshake(SOURCE).start()
    with pytest.raises(RefusedError):
        listener.receive(request)
    assert sum(map(len, listener.farewell)) < len(request)


# -- the caller's side


def test_a_listener_waits_to_be_greeted() -> None:
    assert handshake(DESTINATION, SOURCE).start() == []


@pytest.mark.parametrize(("role", "instance"), [("observer", b"i" * 16), (SOURCE, b"short")])
def test_a_handshake_driven_wrongly(role: str, instance: bytes) -> None:
    with pytest.raises(MisuseError):
        Handshake(role=role, dialled=True, instance=instance, code=CODE, entropy=Entropy(1))


def test_keys_serve_one_purpose_each_and_are_not_shown() -> None:
    keys = Keys(b"m" * 32)
    purposes = ["records of source", "records of destination", "challenge", "session name"]
    assert len({keys.derive(purpose) for purpose in purposes}) == len(purposes)
    assert len(keys.derive("session name", 16)) == 16
    assert "m" * 4 not in repr(keys)
