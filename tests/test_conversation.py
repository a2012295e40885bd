"""Numbered messages: each once and in order, however often the link breaks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bothends_protocol.conversation import MAX_UNACKNOWLEDGED, Conversation
from bothends_protocol.errors import MisuseError, ProtocolError
from bothends_protocol.messages import Barrier, Done, Finish, Message, write_message
from bothends_protocol.wire import pack


def envelope(
    number: int,
    taken: int,
    body: bytes = b"",
    ping: float | None = None,
    pong: float | None = None,
) -> bytes:
    return pack([number, taken, body, ping, pong])


def connected() -> tuple[Conversation, Conversation]:
    one, two = Conversation(), Conversation()
    one.attach()
    two.attach()
    return one, two


def carry(sender: Conversation, receiver: Conversation) -> list[Message]:
    """Move everything that `sender` has to say; return the messages that came of it."""
    messages = [receiver.receive(data) for data in sender.outgoing()]
    return [message for message in messages if message is not None]


class Pair:
    """Two conversations with a link between them that can break at any point."""

    def __init__(self) -> None:
        self.ends = Conversation(), Conversation()
        self.links: list[list[bytes]] = [[], []]
        """Envelopes under way from each end, oldest first."""
        self.sent: list[list[Message]] = [[], []]
        self.got: list[list[Message]] = [[], []]

    def send(self, end: int) -> None:
        message = Barrier(number=len(self.sent[end])) if end else Done(number=len(self.sent[end]))
        self.sent[end].append(message)
        self.ends[end].send(message)
        self.flush(end)

    def flush(self, end: int) -> None:
        self.links[end] += self.ends[end].outgoing()

    def deliver(self, end: int) -> None:
        """Let one envelope from `end` arrive at the other."""
        if self.links[end]:
            message = self.ends[1 - end].receive(self.links[end].pop(0))
            if message is not None:
                self.got[1 - end].append(message)
                self.ends[1 - end].acknowledge()
            self.flush(1 - end)

    def cut(self) -> None:
        """Lose everything that is under way."""
        self.links = [[], []]
        for end in self.ends:
            end.detach()

    def attach(self) -> None:
        self.cut()
        for index, end in enumerate(self.ends):
            end.attach()
            self.flush(index)

    def ping(self, end: int) -> None:
        self.ends[end].ping(1.0)
        self.flush(end)

    def settle(self) -> None:
        self.attach()
        for _ in range(10_000):
            if not any(self.links):
                return
            self.deliver(0)
            self.deliver(1)
        raise AssertionError("the two never fall silent")


steps = st.lists(
    st.sampled_from(["send", "deliver", "deliver", "deliver", "ping"]).flatmap(
        lambda what: st.tuples(st.just(what), st.sampled_from([0, 1]))
    )
    | st.tuples(st.sampled_from(["cut", "attach"])),
    max_size=60,
)


@settings(max_examples=300)
@given(steps)
def test_every_message_arrives_once_and_in_order(script: list[tuple[str, int]]) -> None:
    pair = Pair()
    pair.attach()
    for name, *arguments in script:
        getattr(pair, str(name))(*arguments)
    # Whatever is still missing, nothing came twice or before its turn.
    for end in (0, 1):
        assert pair.got[end] == pair.sent[1 - end][: len(pair.got[end])]
    pair.settle()
    assert pair.got == [pair.sent[1], pair.sent[0]]
    assert all(end.settled for end in pair.ends)


@given(st.integers(0, 20), st.integers(0, 20))
def test_a_link_that_breaks_after_any_envelope_loses_nothing(count: int, arrived: int) -> None:
    pair = Pair()
    pair.attach()
    for _ in range(count):
        pair.send(0)
    for _ in range(arrived):
        pair.deliver(0)
    pair.settle()
    assert pair.got[1] == pair.sent[0]


def test_a_repeated_message_is_passed_over() -> None:
    one, two = connected()
    one.send(Finish())
    (data,) = one.outgoing()
    assert two.receive(data) == Finish()
    assert two.receive(data) is None


def test_what_was_acknowledged_is_not_sent_again() -> None:
    one, two = connected()
    one.send(Barrier(number=1))
    one.send(Barrier(number=2))
    carry(one, two)
    before = one.settled
    two.acknowledge()
    carry(two, one)
    assert (before, one.settled) == (False, True)
    one.attach()
    assert carry(one, two) == []


def test_an_answer_acknowledges_by_itself() -> None:
    one, two = connected()
    one.send(Finish())
    carry(one, two)
    two.send(Done(number=1))
    assert carry(two, one) == [Done(number=1)]
    assert one.settled
    assert not two.settled


def test_a_missing_message_is_noticed() -> None:
    one, two = connected()
    one.send(Barrier(number=1))
    one.send(Barrier(number=2))
    _, second = one.outgoing()
    with pytest.raises(ProtocolError, match="missing"):
        two.receive(second)


@pytest.mark.parametrize("taken", [-1, 2, 2**62])
def test_an_acknowledgement_of_what_was_never_sent_is_refused(taken: int) -> None:
    one, _ = connected()
    one.send(Finish())
    with pytest.raises(ProtocolError, match="never sent"):
        one.receive(envelope(0, taken))
    assert not one.settled


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Conversation().receive(envelope(-1, 0))


def test_a_message_that_is_none_is_not_counted_as_taken() -> None:
    two = Conversation()
    with pytest.raises(ProtocolError):
        two.receive(envelope(1, 0, b"\xc1"))
    assert two.receive(envelope(1, 0, write_message(Finish()))) == Finish()


@given(
    st.binary(max_size=40)
    | st.builds(
        envelope, st.integers(-2, 3), st.integers(-2, 3), st.binary(max_size=10), st.floats()
    )
)
def test_any_bytes_raise_only_protocol_errors(data: bytes) -> None:
    one, _ = connected()
    one.send(Finish())
    try:
        message = one.receive(data)
    except ProtocolError:
        return
    assert message is None


def test_an_echo_brings_back_what_was_asked_with() -> None:
    one, two = connected()
    one.ping(12.5)
    carry(one, two)
    carry(two, one)
    assert one.echoes == [12.5]


@pytest.mark.parametrize("pong", [-1e300, math.nan, math.inf, 99.0])
def test_an_echo_that_was_never_asked_for_is_not_believed(pong: float) -> None:
    one, _ = connected()
    one.ping(12.5)
    one.receive(envelope(0, 0, pong=pong))
    assert one.echoes == []


def test_an_echo_comes_back_once() -> None:
    one, _ = connected()
    one.ping(12.5)
    one.receive(envelope(0, 0, pong=12.5))
    one.receive(envelope(0, 0, pong=12.5))
    assert one.echoes == [12.5]


def test_nothing_goes_out_between_two_links() -> None:
    one, two = connected()
    one.detach()
    one.send(Finish())
    one.ping(1.0)
    one.acknowledge()
    assert one.outgoing() == []
    one.attach()
    one.attach()
    again = one.outgoing()
    assert [two.receive(data) for data in again] == [Finish()]


def test_a_peer_that_acknowledges_nothing_does_not_fill_the_memory() -> None:
    one = Conversation()
    for _ in range(MAX_UNACKNOWLEDGED):
        one.send(Finish())
    with pytest.raises(MisuseError):
        one.send(Finish())
