"""The mailbox protocol, both halves, without a network: nothing lost or repeated, all bounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bothends_protocol import mailbox_server
from bothends_protocol.errors import MisuseError, ProtocolError
from bothends_protocol.mailbox import (
    APPID,
    MAX_BODY,
    MAX_PENDING,
    MAX_RECEIVED,
    MAX_SIDES,
    Allocated,
    Body,
    Closed,
    Crowded,
    Event,
    Mailbox,
    Notice,
    Objection,
    Opened,
    Outside,
    Refused,
)
from bothends_protocol.mailbox_server import (
    BURST_MESSAGES,
    IDLE_SECONDS,
    MAX_CLIENTS,
    MAX_ERRORS,
    MAX_MAILBOX_MESSAGES,
    MAX_MAILBOXES,
    MAX_MESSAGE,
    RATE_MESSAGES,
    MailboxServer,
)
from bothends_protocol.parcels import (
    ABORT,
    DATA,
    END,
    HELLO,
    LEAVE,
    MAX_DATA,
    STREAM_SIZE,
    Parcel,
    read_parcel,
    write_parcel,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.text("0123456789abcdef", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def texts(kinds: list[str], fields: list[str]) -> st.SearchStrategy[str | bytes]:
    """Anything at all, and what is nearly a message."""
    near: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
        {"type": st.sampled_from(kinds) | st.text(max_size=8)},
        optional=dict.fromkeys(fields, json_values),
    )
    return st.binary(max_size=60) | st.text(max_size=60) | near.map(json.dumps)


FROM_SERVER = ["welcome", "allocated", "claimed", "message", "error", "closed", "ack"]
FIELDS = ["welcome", "nameplate", "mailbox", "side", "phase", "body", "seen_as"]
FROM_CLIENT = ["bind", "list", "allocate", "claim", "release", "open", "add", "close", "ping"]


def entropy() -> Callable[[int], bytes]:
    """Bytes that never repeat, the same in each run."""
    count = 0

    def draw(size: int) -> bytes:
        nonlocal count
        count += 1
        return count.to_bytes(size, "big")

    return draw


# -- the client's half


def opened(mailbox: Mailbox, name: str = "box") -> list[str]:
    """Take a mailbox to where it is open; return what it said."""
    mailbox.connected()
    said = mailbox.outgoing()
    mailbox.receive('{"type": "welcome", "welcome": {}}')
    assert mailbox.receive(json.dumps({"type": "claimed", "mailbox": name}))
    return said + mailbox.outgoing()


def message(side: str, phase: str, body: str) -> str:
    return json.dumps({"type": "message", "side": side, "phase": phase, "body": body})


def test_what_one_side_says() -> None:
    mailbox = Mailbox("a", "7")
    mailbox.add(b"\x01\xff")
    assert [json.loads(text) for text in opened(mailbox)] == [
        {"type": "bind", "appid": APPID, "side": "a"},
        {"type": "claim", "nameplate": "7"},
        {"type": "open", "mailbox": "box"},
        {"type": "add", "phase": "0", "body": "01ff"},
    ]
    assert mailbox.pending == 2
    assert mailbox.receive(message("a", "0", "01ff")) == []
    assert mailbox.pending == 0
    mailbox.close()
    mailbox.close()
    assert [json.loads(text)["type"] for text in mailbox.outgoing()] == ["release", "close"]
    assert mailbox.receive('{"type": "closed"}') == [Closed()]


def test_without_a_nameplate_the_server_chooses() -> None:
    mailbox = Mailbox("a")
    mailbox.connected()
    assert json.loads(mailbox.outgoing()[-1]) == {"type": "allocate"}
    assert mailbox.receive('{"type": "allocated", "nameplate": "4"}') == [Allocated("4")]
    assert json.loads(mailbox.outgoing()[-1]) == {"type": "claim", "nameplate": "4"}


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ('{"type": "error", "error": "crowded", "orig": {}}', Crowded()),
        ('{"type": "error", "error": "reclaimed", "orig": {}}', Objection("reclaimed")),
        ('{"type": "error"}', Objection("")),
        (
            '{"type": "welcome", "welcome": {"error": "no \\u001b[1m more"}}',
            Refused("no  [1m more"),
        ),
        ('{"type": "welcome", "welcome": {"motd": "hello\\n"}}', Notice("hello")),
        ('{"type": "message", "side": "b", "phase": "0", "body": "00"}', Body("b", b"\0")),
        ('{"type": "welcome", "welcome": {"seen_as": "11.0.0.1"}}', Outside("11.0.0.1")),
        ('{"type": "welcome", "welcome": {"seen_as": "::ffff:11.0.0.1"}}', Outside("11.0.0.1")),
        ('{"type": "welcome", "welcome": {"seen_as": "2A00:1:0::1"}}', Outside("2a00:1::1")),
        (
            '{"type": "message", "side": "b", "phase": "0", "body": "", "seen_as": "11.0.0.1"}',
            Body("b", b"", "11.0.0.1"),
        ),
    ],
)
def test_what_the_server_tells(text: str, event: Event) -> None:
    mailbox = Mailbox("a", "7")
    opened(mailbox)
    assert mailbox.receive(text) == [event]


NOT_OUTSIDE = [
    *("", "x", "11.0.0", "11.0.0.1:4000", "11.0.0.1%1", " 11.0.0.1", "-" * 100_000),
    *("127.0.0.1", "::1", "10.0.0.1", "192.168.1.20", "100.64.0.1", "169.254.0.1", "0.0.0.0"),
    *("224.0.0.251", "255.255.255.255", "fe80::1", "fd07::1", "ff02::fb", "64:ff9b::1"),
    *(7, None, True, [], {}, ["11.0.0.1"], {"address": "11.0.0.1"}),
]


@pytest.mark.parametrize("said", NOT_OUTSIDE, ids=lambda said: str(said)[:20])
def test_what_is_no_public_address_is_passed_over(said: object) -> None:
    mailbox = Mailbox("a", "7")
    opened(mailbox)
    assert mailbox.receive(json.dumps({"type": "welcome", "welcome": {"seen_as": said}})) == []
    left = {**json.loads(message("b", "0", "00")), "seen_as": said}
    assert mailbox.receive(json.dumps(left)) == [Body("b", b"\0")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "{}",
        '{"type": 7}',
        '{"type": "claimed"}',
        '{"type": "claimed", "mailbox": ""}',
        '{"type": "allocated", "nameplate": "8"}',
        '{"type": "message", "side": "b"}',
        '{"type": "welcome", "welcome": 3}',
        " " * (MAX_RECEIVED + 1),
        "[" * 100_000,
        b"\xff",
    ],
)
def test_what_is_no_message_is_refused(text: str | bytes) -> None:
    mailbox = Mailbox("a", "7")
    mailbox.connected()
    with pytest.raises(ProtocolError):
        mailbox.receive(text)


@pytest.mark.parametrize(
    ("side", "phase", "body"),
    [
        ("b", "pake", "00"),
        ("b", "-1", "00"),
        ("b", "9" * 30, "00"),
        ("b", "0", "0g"),
        ("b" * 999, "0", ""),
    ],
)
def test_what_a_stranger_left_is_passed_over(side: str, phase: str, body: str) -> None:
    mailbox = Mailbox("a", "7")
    opened(mailbox)
    assert mailbox.receive(message(side, phase, body)) == []
    assert mailbox.receive(message("b", "0", "00")) == [Body("b", b"\0")]


def test_a_mailbox_takes_messages_of_few_sides_only() -> None:
    mailbox = Mailbox("a", "7")
    opened(mailbox)
    for number in range(MAX_SIDES):
        assert mailbox.receive(message(f"b{number}", "0", ""))
    assert not mailbox.receive(message("one more", "0", ""))
    assert mailbox.receive(message("b0", "1", ""))


def test_what_is_left_is_bounded() -> None:
    mailbox = Mailbox("a", "7")
    with pytest.raises(MisuseError):
        mailbox.add(bytes(MAX_BODY + 1))
    for _ in range(MAX_PENDING // MAX_BODY):
        mailbox.add(bytes(MAX_BODY))
    with pytest.raises(MisuseError):
        mailbox.add(bytes(MAX_BODY))
    mailbox.forget()
    mailbox.add(bytes(MAX_BODY))


def test_another_mailbox_than_before_is_a_new_beginning() -> None:
    mailbox = Mailbox("a", "7")
    opened(mailbox)
    mailbox.add(b"lost")
    assert mailbox.receive(message("b", "5", ""))
    mailbox.disconnected()
    mailbox.connected()
    assert mailbox.receive('{"type": "claimed", "mailbox": "other"}') == [Opened(anew=True)]
    assert mailbox.pending == 0
    assert mailbox.receive(message("b", "0", "00")) == [Body("b", b"\0")]


@given(st.lists(texts(FROM_SERVER, FIELDS)))
def test_the_client_takes_any_text(said: list[str | bytes]) -> None:
    mailbox = Mailbox("a", "7")
    mailbox.connected()
    for text in said:
        try:
            mailbox.receive(text)
        except ProtocolError:
            mailbox.disconnected()
            mailbox.connected()
        for out in mailbox.outgoing():
            json.loads(out)


# -- parcels


def test_parcels() -> None:
    stream = bytes(STREAM_SIZE)
    for parcel in (
        Parcel(kind=HELLO, role="source"),
        Parcel(kind=LEAVE, role="destination"),
        Parcel(kind=DATA, to="a", stream=stream, number=3, data=bytes(MAX_DATA)),
        Parcel(kind=END, to="a", stream=stream, number=4),
        Parcel(kind=ABORT, to="a", stream=stream, number=4),
    ):
        body = write_parcel(parcel)
        assert len(body) <= MAX_BODY
        assert read_parcel(body) == parcel


@pytest.mark.parametrize(
    "parcel",
    [
        Parcel(kind="other"),
        Parcel(kind=HELLO, role="thief"),
        Parcel(kind=DATA, stream=bytes(STREAM_SIZE)),
        Parcel(kind=DATA, to="a" * 65, stream=bytes(STREAM_SIZE)),
        Parcel(kind=DATA, to="a", stream=b"short"),
        Parcel(kind=DATA, to="a", stream=bytes(STREAM_SIZE), number=-1),
        Parcel(kind=DATA, to="a", stream=bytes(STREAM_SIZE), data=bytes(MAX_DATA + 1)),
    ],
)
def test_odd_parcels_are_refused(parcel: Parcel) -> None:
    with pytest.raises(ProtocolError):
        read_parcel(write_parcel(parcel))


@given(st.binary(max_size=80))
def test_any_bytes_are_a_parcel_or_one_error(body: bytes) -> None:
    try:
        read_parcel(body)
    except ProtocolError:
        return


# -- the two halves together


class Meeting:
    """A server and clients, with connections that may break at any point."""

    def __init__(self) -> None:
        self.server = MailboxServer(entropy())
        self.now = 0.0

    def client(self, side: str, nameplate: str = "7") -> Side:
        return Side(self, Mailbox(side, nameplate))


class Side:
    """One client; what is under way in each direction waits until it is moved."""

    def __init__(self, meeting: Meeting, mailbox: Mailbox) -> None:
        self.server = meeting.server
        self.meeting = meeting
        self.mailbox = mailbox
        self.number: int | None = None
        self.there: list[str] = []
        self.back: list[bytes] = []
        self.events: list[Event] = []

    @property
    def bodies(self) -> list[bytes]:
        return [event.body for event in self.events if isinstance(event, Body)]

    def connect(self, seen_as: str = "") -> Side:
        self.cut()
        self.number = self.server.connect(self.meeting.now, seen_as)
        assert self.number is not None
        self.mailbox.connected()
        return self

    def cut(self) -> None:
        if self.number is not None:
            self.server.disconnect(self.number, self.meeting.now)
            self.mailbox.disconnected()
        self.number = None
        self.there.clear()
        self.back.clear()

    def step(self) -> bool:
        """Move one text in each direction; return whether there was any."""
        if self.number is None:
            return False
        self.there += self.mailbox.outgoing()
        if moved_there := bool(self.there):
            self.server.receive(self.number, self.there.pop(0), self.meeting.now)
        self.back += self.server.outgoing(self.number)
        if moved_back := bool(self.back):
            self.events += self.mailbox.receive(self.back.pop(0))
        return moved_there or moved_back

    def say(self, **fields: object) -> list[dict[str, Any]]:
        """Say something by hand; return the answers but the acknowledgement."""
        assert self.number is not None
        self.server.receive(self.number, json.dumps(fields), self.meeting.now)
        answers = [json.loads(text) for text in self.server.outgoing(self.number)]
        return [answer for answer in answers if answer["type"] not in ("ack", "welcome")]


def settle(*sides: Side) -> None:
    while True:
        moved = [side.step() for side in sides]
        if not any(moved):
            return


def bound(meeting: Meeting, side: str, appid: str = "x") -> Side:
    """A client that is driven by hand."""
    client = Side(meeting, Mailbox(side, "7"))
    client.number = meeting.server.connect(meeting.now)
    assert client.say(type="bind", appid=appid, side=side) == []
    return client


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "step", "step", "step", "cut", "connect"]), st.integers(0, 1)
    ),
    max_size=60,
)


@given(ACTIONS)
@settings(max_examples=300)
def test_nothing_is_lost_or_repeated_however_connections_break(
    actions: list[tuple[str, int]],
) -> None:
    meeting = Meeting()
    sides = [meeting.client("a").connect(), meeting.client("b").connect()]
    # A side without a connection would give its place to others only; here there are none.
    sent: list[list[bytes]] = [[], []]
    for action, which in actions:
        side = sides[which]
        if action == "add":
            sent[which].append(f"{which} {len(sent[which])}".encode())
            side.mailbox.add(sent[which][-1])
        else:
            getattr(side, action)()
    for side in sides:
        side.connect()
    settle(*sides)
    assert sides[0].bodies == sent[1]
    assert sides[1].bodies == sent[0]
    assert sides[0].mailbox.pending == sides[1].mailbox.pending == 0


def test_a_third_side_is_crowded_out_and_the_two_are_not_disturbed() -> None:
    meeting = Meeting()
    one, two, third = (meeting.client(name).connect() for name in "abc")
    settle(one, two)
    settle(third)
    assert third.events == [Crowded()]
    one.mailbox.add(b"still")
    settle(one, two)
    assert two.bodies == [b"still"]


def test_a_side_that_is_gone_gives_its_place_to_a_new_one() -> None:
    meeting = Meeting()
    one, two = meeting.client("a").connect(), meeting.client("b").connect()
    one.mailbox.add(b"of the old one")
    two.mailbox.add(b"of the other")
    settle(one, two)
    one.cut()
    again = meeting.client("c").connect()
    again.mailbox.add(b"of the new one")
    settle(again, two)
    assert again.bodies == [b"of the other"]
    assert two.bodies == [b"of the old one", b"of the new one"]
    # The old one cannot come back while the two are there.
    one.connect()
    settle(one)
    assert Crowded() in one.events


def test_a_number_is_free_again_when_both_have_closed() -> None:
    meeting = Meeting()
    one, two = meeting.client("a").connect(), meeting.client("b").connect()
    one.mailbox.add(b"old")
    settle(one, two)
    for side in (one, two):
        side.mailbox.close()
        settle(side)
        assert side.events[-1] == Closed()
    assert not meeting.server._mailboxes
    assert not meeting.server._nameplates
    assert meeting.server._bytes == 0
    late = meeting.client("c").connect()
    settle(late)
    assert late.bodies == []


def test_a_side_may_begin_anew_once_the_other_has_left() -> None:
    meeting = Meeting()
    one, two = meeting.client("a").connect(), meeting.client("b").connect()
    settle(one, two)
    one.mailbox.close()
    settle(one)
    assert one.events[-1] == Closed()
    one = meeting.client("a").connect()
    settle(one)
    assert one.events == [Objection("reclaimed")]
    two.cut()
    one.connect()
    settle(one)
    assert one.events[-1] == Opened(anew=False)


# -- the server by hand


def test_what_it_answers() -> None:
    meeting = Meeting()
    client = bound(meeting, "a")
    assert client.say(type="ping", ping=7) == [{"type": "pong", "pong": 7}]
    assert client.say(type="list") == [{"type": "nameplates", "nameplates": []}]
    (claimed,) = client.say(type="claim", nameplate="5")
    assert claimed["type"] == "claimed"
    assert client.say(type="open", mailbox=claimed["mailbox"]) == []
    assert client.say(type="add", phase="p", body="00", id="1f") == [
        {"type": "message", "side": "a", "phase": "p", "body": "00", "id": "1f"}
    ]
    assert client.say(type="add", phase="p", body="00") == []
    assert client.say(type="release") == [{"type": "released"}]
    assert client.say(type="close", mood="happy") == [{"type": "closed"}]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"type": "bind", "appid": "x", "side": "b"}, "already bound"),
        ({"type": "claim"}, "claim requires 'nameplate'"),
        ({"type": "claim", "nameplate": "x"}, "a nameplate is a number"),
        ({"type": "claim", "nameplate": "1" * 41}, "that nameplate is too long"),
        ({"type": "open"}, "open requires 'mailbox'"),
        ({"type": "open", "mailbox": "m" * 65}, "that mailbox is too long"),
        ({"type": "add", "phase": "p", "body": ""}, "must open mailbox before adding"),
        ({"type": "release"}, "release without nameplate must follow claim"),
        ({"type": "close"}, "close without mailbox must follow open"),
        ({"type": "close", "mailbox": "m", "mood": "m" * 33}, "that is too long a mood"),
        ({"type": "dance"}, "unknown type"),
        ({"type": "ping"}, "ping requires 'ping'"),
    ],
)
def test_what_it_objects_to(fields: dict[str, str], words: str) -> None:
    client = bound(Meeting(), "a")
    assert client.say(**fields) == [
        {"type": "error", "error": words, "orig": {"type": fields["type"]}}
    ]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("claim", "only one claim per connection"),
        ("allocate", "you already allocated one, don't be greedy"),
        ("open", "only one open per connection"),
        ("release", "only one release per connection"),
        ("close", "only one close per connection"),
    ],
)
def test_what_may_be_said_once_only(command: str, words: str) -> None:
    client = bound(Meeting(), "a")
    fields = {"type": command, "nameplate": "7", "mailbox": "m"}
    assert all(answer["type"] != "error" for answer in client.say(**fields))
    assert [answer.get("error") for answer in client.say(**fields)] == [words]


def test_before_bind_nothing_else_is_done() -> None:
    meeting = Meeting()
    client = Side(meeting, Mailbox("a", "7"))
    client.number = meeting.server.connect(0.0)
    for kind in FROM_CLIENT[1:-1]:
        assert client.say(type=kind)[0]["error"] == "must bind first"


def test_who_errs_without_end_is_sent_away() -> None:
    client = bound(Meeting(), "a")
    for _ in range(MAX_ERRORS):
        client.say(type="dance")
    with pytest.raises(ProtocolError):
        client.say(type="dance")


def test_it_says_how_it_sees_its_clients() -> None:
    meeting = Meeting()
    one, two = meeting.client("a"), meeting.client("b")
    for client, address in ((one, "::ffff:11.0.0.1"), (two, "2a00:1::1%eth0")):
        client.connect(address)
    one.mailbox.add(b"early", shown=True)
    two.mailbox.add(b"not shown")
    settle(one, two)
    one.connect("11.0.0.2")
    one.mailbox.add(b"moved", shown=True)
    settle(one, two)
    assert one.events == [
        Outside("11.0.0.1"),
        Opened(anew=False),
        Body("b", b"not shown"),
        Outside("11.0.0.2"),
        Opened(anew=False),
    ]
    assert two.events == [
        Outside("2a00:1::1"),
        Opened(anew=False),
        Body("a", b"early", "11.0.0.1"),
        Body("a", b"moved", "11.0.0.2"),
    ]


@pytest.mark.parametrize("address", ["", "10.0.0.1", "127.0.0.1"])
def test_it_says_what_it_sees_and_nothing_else(address: str) -> None:
    meeting = Meeting()
    client = Side(meeting, Mailbox("a", "7"))
    client.number = meeting.server.connect(meeting.now, address)
    assert client.number is not None
    (welcome,) = meeting.server.outgoing(client.number)
    told = {"seen_as": address} if address else {}
    assert json.loads(welcome)["welcome"] == told
    client.say(type="bind", appid="x", side="a")
    client.say(type="open", mailbox="m")
    (left,) = client.say(type="add", phase="0", body="00", seen_as=True)
    assert {name: left[name] for name in left if name == "seen_as"} == told


@pytest.mark.parametrize("asked", [False, None, 1, "true", [True], {"seen_as": True}])
def test_who_did_not_ask_is_not_shown(asked: object) -> None:
    meeting = Meeting()
    client = Side(meeting, Mailbox("a", "7"))
    client.number = meeting.server.connect(meeting.now, "11.0.0.1")
    client.say(type="bind", appid="x", side="a")
    client.say(type="open", mailbox="m")
    (left,) = client.say(type="add", phase="0", body="00", seen_as=asked)
    assert "seen_as" not in left


def test_applications_do_not_see_each_other() -> None:
    meeting = Meeting()
    names = {
        bound(meeting, "a", appid).say(type="claim", nameplate="1")[0]["mailbox"]
        for appid in ("x", "y")
    }
    assert len(names) == 2


def test_numbers_are_given_out_short_and_once() -> None:
    meeting = Meeting()
    given = [int(bound(meeting, "a").say(type="allocate")[0]["nameplate"]) for _ in range(12)]
    assert sorted(given[:9]) == list(range(1, 10))
    assert all(10 <= number < 100 for number in given[9:])
    assert len(set(given)) == 12


def test_what_was_allocated_is_claimed_on_a_later_connection() -> None:
    meeting = Meeting()
    client = bound(meeting, "a")
    (allocated,) = client.say(type="allocate")
    client.cut()
    again = bound(meeting, "a")
    assert again.say(type="claim", nameplate=allocated["nameplate"])[0]["type"] == "claimed"


def test_connections_are_bounded() -> None:
    server = MailboxServer(entropy())
    numbers = [server.connect(0.0) for _ in range(MAX_CLIENTS)]
    assert server.connect(0.0) is None
    assert numbers[0] is not None
    server.disconnect(numbers[0], 0.0)
    assert server.connect(0.0) is not None


def test_mailboxes_are_bounded_and_the_longest_idle_one_goes() -> None:
    meeting = Meeting()
    kept = bound(meeting, "kept")
    kept.say(type="open", mailbox="kept")
    for number in range(MAX_MAILBOXES + 1):
        meeting.now += 1
        client = bound(meeting, "a")
        assert client.say(type="claim", nameplate=str(number + 1))[0]["type"] == "claimed"
        client.cut()
    assert len(meeting.server._mailboxes) == MAX_MAILBOXES
    assert ("x", "kept") in meeting.server._mailboxes
    assert ("x", "1") not in meeting.server._nameplates


def test_mailboxes_in_use_are_not_given_up_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_server, "MAX_MAILBOXES", 2)
    meeting = Meeting()
    clients = [bound(meeting, "a") for _ in range(3)]
    answers = [client.say(type="allocate")[0] for client in clients]
    assert [answer["type"] for answer in answers] == ["allocated", "allocated", "error"]


def test_an_idle_mailbox_expires_and_a_connected_one_does_not() -> None:
    meeting = Meeting()
    stays, goes = bound(meeting, "a"), bound(meeting, "b")
    stays.say(type="claim", nameplate="1")
    goes.say(type="claim", nameplate="2")
    goes.cut()
    meeting.now += IDLE_SECONDS
    meeting.server.expire(meeting.now)
    assert len(meeting.server._mailboxes) == 2
    meeting.server.expire(meeting.now + 1)
    assert list(meeting.server._nameplates) == [("x", "1")]


def two_readers(meeting: Meeting) -> tuple[Side, Side]:
    one, two = bound(meeting, "a"), bound(meeting, "b")
    for client in (one, two):
        client.say(type="open", mailbox="m")
    return one, two


def test_a_full_mailbox_forgets_what_both_were_given() -> None:
    meeting = Meeting()
    one, two = two_readers(meeting)
    assert two.number is not None
    body = "00" * 1000
    for phase in range(2 * MAX_MAILBOX_MESSAGES):
        assert one.say(type="add", phase=str(phase), body=body)[0]["type"] == "message"
        assert meeting.server.outgoing(two.number)
    assert meeting.server._bytes <= mailbox_server.MAX_MAILBOX_BYTES


def test_what_a_side_has_not_been_given_is_not_forgotten() -> None:
    meeting = Meeting()
    one, two = two_readers(meeting)
    assert two.number is not None
    body = "00" * (MAX_MESSAGE // 2 - 500)
    phase = 0
    while one.say(type="add", phase=str(phase), body=body)[0]["type"] == "message":
        phase += 1
    got = []
    while some := meeting.server.outgoing(two.number):
        got += [json.loads(text) for text in some if b'"ack"' not in text]
    assert [item["phase"] for item in got if item["type"] == "message"] == [
        str(number) for number in range(phase)
    ]
    assert one.say(type="add", phase="more", body=body)[0]["type"] == "message"


def test_a_client_that_says_too_much_must_pause() -> None:
    meeting = Meeting()
    client = bound(meeting, "a")
    assert client.number is not None
    assert meeting.server.pause(client.number, 0.0) == 0
    for _ in range(int(BURST_MESSAGES)):
        client.say(type="ping", ping=1)
    pause = meeting.server.pause(client.number, 0.0)
    assert pause == pytest.approx(1 / RATE_MESSAGES)
    assert meeting.server.pause(client.number, pause) == pytest.approx(0)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            texts(
                FROM_CLIENT,
                ["appid", "side", "nameplate", "mailbox", "phase", "body", "id", "ping"],
            ),
        ),
        max_size=30,
    )
)
def test_the_server_takes_any_text(said: list[tuple[int, str | bytes]]) -> None:
    server = MailboxServer(entropy())
    numbers = [server.connect(0.0) for _ in range(4)]
    for who, text in said:
        number = numbers[who]
        assert number is not None
        try:
            server.receive(number, text, 0.0)
        except ProtocolError:
            server.disconnect(number, 0.0)
            numbers[who] = server.connect(0.0)
            continue
        for out in server.outgoing(number):
            json.loads(out)
        assert server.answered(number)
