"""The live repair loop: both sides in one process, over loopback; misuse; keys; the screen."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import pty
import socket
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from bothends import watch
from bothends.channel import Channel, PeerLostError
from bothends.cli import _parser
from bothends.command import _options
from bothends.facts import host_facts
from bothends.keys import Keys
from bothends.options import Endpoint, Options
from bothends.outcome import Outcome
from bothends.run import Run
from bothends.screen import LiveScreen
from bothends.watch import AbandonedError, LeftError, Note, Stop, Watch
from bothends_protocol.code import parse_code
from bothends_protocol.errors import ProtocolError
from bothends_protocol.messages import Again, Bye, Changed, Done, Listed, Message
from bothends_protocol.pairing import DESTINATION, SOURCE
from bothends_protocol.timeline import Change, Entry, Timeline
from bothends_protocol.verdict import Verdict
from samples import VERDICTS

CODE = parse_code("7-abandon-ability-able")
HERE = "127.0.0.1"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rests between the tests."""
    for name in ("AGAIN_SECONDS", "SETTLE_SECONDS", "REST"):
        monkeypatch.setattr(watch, name, 0)


# -- whole runs, over loopback


@dataclass
class Counting:
    """A screen that counts tests and does something after some of them."""

    after: dict[int, Callable[[], object]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    tests: int = 0

    def entry(self, entry: Entry, _outcome: Outcome) -> None:
        self.entries.append(entry)
        self._count()

    def tested(self, _timeline: Timeline) -> None:
        self._count()

    def hint(self, text: str) -> None:
        self.hints.append(text)

    def _count(self) -> None:
        self.tests += 1
        self.after.get(self.tests, lambda: None)()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind((HERE, 0))
        return [sock.getsockname()[1] for sock in socks]


@dataclass
class Pair:
    """Both agents' runs."""

    runs: dict[str, Run]
    screens: dict[str, Counting]
    said: dict[str, list[str]]
    port: int

    async def run(self) -> dict[str, Outcome]:
        outcomes = await asyncio.gather(*(run.run() for run in self.runs.values()))
        return dict(zip(self.runs, outcomes, strict=True))


def pair(*, asked: tuple[str, ...] = (SOURCE, DESTINATION), **more: Any) -> Pair:
    port, *control = free_ports(3)
    common: dict[str, Any] = {"code": CODE, "code_fixed": True, "mdns": False, "wait": 20, **more}
    options = {
        SOURCE: Options(role=SOURCE, control_port=control[0], **common),
        DESTINATION: Options(
            role=DESTINATION, control_port=control[1], ports=(f"tcp:{port}",), **common
        ),
    }
    options[SOURCE] = _with(options[SOURCE], peers=(Endpoint(HERE, control[1]),))
    made = Pair({}, {}, {SOURCE: [], DESTINATION: []}, port)
    for role, wanted in options.items():
        made.screens[role] = Counting()
        made.runs[role] = Run(
            _with(wanted, watch=role in asked),
            say=made.said[role].append,
            show_code=lambda _code, _facts: None,
            screen=made.screens[role],
        )
    return made


def _with(options: Options, **changed: object) -> Options:
    return replace(options, **changed)


@contextlib.contextmanager
def service(port: int) -> Iterator[None]:
    """A program on `port` that takes connections and waits for their end."""
    loop = asyncio.get_running_loop()

    def hear(conn: socket.socket) -> None:
        loop.remove_reader(conn)
        conn.close()

    def take() -> None:
        conn, _ = sock.accept()
        loop.add_reader(conn, hear, conn)

    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HERE, port))
        sock.listen()
        sock.setblocking(False)
        loop.add_reader(sock, take)
        yield
        loop.remove_reader(sock)


def lists(
    outcomes: dict[str, Outcome],
) -> list[list[tuple[str | None, str, tuple[str, ...], tuple[Change, ...]]]]:
    found = []
    for outcome in outcomes.values():
        assert outcome.timeline is not None
        found.append(
            [
                (e.verdict_id, e.status, e.blockers, tuple(change for _, change in e.changed))
                for e in outcome.timeline.entries
            ]
        )
    return found


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("ending", [SOURCE, DESTINATION])
@pytest.mark.parametrize("asked", [SOURCE, DESTINATION])
async def test_both_stay_and_end_with_the_same_list(asked: str, ending: str) -> None:
    both = pair(asked=(asked,))
    both.screens[ending].after = {4: both.runs[ending].interrupt}
    outcomes = await both.run()
    first, second = lists(outcomes)
    assert first == second
    assert {role: outcome.interrupted for role, outcome in outcomes.items()} == {
        role: role == ending for role in outcomes
    }
    ids = {outcome.verdict.verdict_id for outcome in outcomes.values()}
    assert len(ids) == 1
    assert None not in ids
    for role, said in both.said.items():
        assert any("--watch" in line for line in said) == (role != asked)


@pytest.mark.usefixtures("hasty")
async def test_a_service_that_is_started_and_stopped_between_the_tests() -> None:
    both = pair()
    with contextlib.ExitStack() as stack:
        running = contextlib.ExitStack()
        stack.enter_context(running)

        def start() -> None:
            running.enter_context(service(both.port))

        screen = both.screens[DESTINATION]
        # The follower's own listeners are closed by the time that a test is listed.
        screen.after = {2: start, 6: running.close, 10: both.runs[DESTINATION].interrupt}
        outcomes = await both.run()
    first, second = lists(outcomes)
    assert first == second
    assert [(status, blockers) for _, status, blockers, _ in first] == [
        ("blocked", ("service.not-running",)),
        ("open", ()),
        ("blocked", ("service.not-running",)),
    ]
    assert [[c.what for c in changed] for *_, changed in first] == [
        [],
        ["listening"],
        ["ended"],
    ]


@pytest.mark.usefixtures("hasty")
async def test_a_test_that_does_not_end_counts_as_undetermined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = pair(timeout=5)
    run = both.runs[DESTINATION]
    job = run._job
    hangs = [0]

    async def hang(order: Any, rtt: float) -> Any:
        if type(order).__name__ == "Collect" and both.screens[DESTINATION].tests == 1:
            hangs[0] += 1
            await asyncio.sleep(1000)
        return await job(order, rtt)

    monkeypatch.setattr(run, "_job", hang)
    monkeypatch.setattr("bothends.run.FINISH_SECONDS", 0.2)
    monkeypatch.setattr(both.runs[SOURCE], "_agree_to_stay", _hurried(both.runs[SOURCE]))
    both.screens[SOURCE].after = {3: both.runs[SOURCE].interrupt}
    with service(both.port):
        outcomes = await both.run()
    assert hangs == [1]
    first, second = lists(outcomes)
    assert first == second
    assert [(status, name is None) for name, status, *_ in first] == [
        ("open", False),
        ("undetermined", True),
        ("open", False),
    ]


def _hurried(run: Run) -> Callable[[Any], None]:
    agree = run._agree_to_stay

    def hurry(theirs: Any) -> None:
        agree(theirs)
        run._allowed = 2.0

    return hurry


@pytest.mark.usefixtures("hasty")
async def test_a_contact_that_breaks_is_taken_up_again_and_said() -> None:
    both = pair()

    def cut() -> None:
        channel = both.runs[SOURCE]._channel
        assert channel is not None
        assert channel._link is not None
        channel._link.abort()

    both.screens[SOURCE].after = {3: cut, 8: both.runs[SOURCE].interrupt}
    with service(both.port):
        outcomes = await both.run()
    first, second = lists(outcomes)
    assert first == second
    for role, screen in both.screens.items():
        assert watch.BROKEN in screen.hints
        assert outcomes[role].verdict.status == "open"


@pytest.mark.usefixtures("hasty")
async def test_a_side_that_is_gone_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PATIENCE_SECONDS", 0.2)
    both = pair()
    tasks: dict[str, asyncio.Task[Outcome]] = {}

    def vanish() -> None:
        # Without a goodbye: what the other side hears of a killed process.
        run = both.runs[SOURCE]
        channel, contact = run._channel, run._contact
        assert channel is not None
        assert contact is not None
        contact._stop_listening()
        contact._known.clear()
        contact._puncher._close_sockets()
        channel._tasks.cancel()
        if channel._link is not None:
            channel._link.abort()

    both.screens[SOURCE].after = {3: vanish}
    tasks = {role: asyncio.ensure_future(run.run()) for role, run in both.runs.items()}
    outcome = await tasks[DESTINATION]
    tasks[SOURCE].cancel()
    await asyncio.gather(tasks[SOURCE], return_exceptions=True)
    assert outcome.contact["lost"] is True
    assert outcome.verdict.verdict_id is None
    assert outcome.verdict.status == "undetermined"
    assert outcome.timeline is not None
    assert outcome.timeline.entries


WARM, MEASURED = 20, 120
"""Tests before the first look, and until the second."""


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# It takes a minute and a half where nothing else goes on.
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("running", [True, False])
async def test_hundreds_of_tests_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, *, running: bool
) -> None:
    both = pair()
    # What a host says of itself is read by a program as root, and was the same all the time.
    facts = host_facts(privileged=False)
    monkeypatch.setattr("bothends.run.host_facts", lambda **_: facts)
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        gc.collect()
        seen.append((_descriptors(), len(asyncio.all_tasks()), len(gc.get_objects())))

    screen = both.screens[DESTINATION]
    screen.after = {WARM: look, MEASURED: look, MEASURED + 1: both.runs[DESTINATION].interrupt}
    with service(both.port) if running else contextlib.nullcontext():
        outcomes = await both.run()
    (descriptors, tasks, objects), (later_descriptors, later_tasks, later_objects) = seen
    # A connection or a heartbeat may be under way, at either look; one object kept of each test
    # would be a hundred.
    assert later_descriptors <= descriptors + 3
    assert later_tasks <= tasks + 3
    assert later_objects < objects + (MEASURED - WARM)
    first, second = lists(outcomes)
    assert first == second
    assert len(first) == 1
    assert len(asyncio.all_tasks()) == 1


# -- what the other side may not say


class Sent:
    """Stands in for the channel."""

    patience = 4.0
    broken: Callable[[], None]

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._queue: asyncio.Queue[Message] = asyncio.Queue()

    def send(self, message: Message) -> None:
        self.messages.append(message)
        self._queue.put_nowait(message)

    async def next(self, kind: type[Message]) -> None:
        """Wait until a message of that kind is sent."""
        while not isinstance(await self._queue.get(), kind):
            pass

    async def finish(self) -> None:
        """Nothing to finish."""


def outcome_of(name: str, number: int = 0) -> Outcome:
    return Outcome(replace(VERDICTS[name], verdict_id=f"{number:064x}"))


@dataclass
class Fake:
    """A loop whose events and tests are made up."""

    role: str
    tests: list[Outcome | BaseException] = field(default_factory=list)
    sent: Sent = field(default_factory=Sent)

    def __post_init__(self) -> None:
        self.events: asyncio.Queue[object] = asyncio.Queue()
        self.screen = Counting()
        channel = cast("Channel", self.sent)
        self.watch = Watch(self.role, channel, self.events.put_nowait, self.screen)

    async def test(self) -> Outcome:
        made = self.tests.pop(0)
        if isinstance(made, BaseException):
            raise made
        return made

    async def run(self, *events: object) -> Outcome:
        for event in events:
            self.events.put_nowait(event)
        return await self.watch.run(outcome_of("open"), test=self.test, next_event=self.events.get)


END = Bye(reason="ended")


async def test_the_follower_lists_what_the_leader_says() -> None:
    fake = Fake(DESTINATION, [outcome_of("blocked", 1)])
    changed = (Change(what="key", on="source"),)
    name = f"{1:064x}"
    end = await fake.run(Again(number=2), Listed(number=2, verdict_id=name, changed=changed), END)
    assert end.timeline is not None
    assert [entry.status for entry in end.timeline.entries] == ["open", "blocked"]
    assert fake.sent.messages == [Again(number=2), END]


@pytest.mark.parametrize(
    "events",
    [
        (Again(number=3),),
        (Listed(number=2, verdict_id="f" * 64),),
        (Again(number=2), Listed(number=3, verdict_id=f"{1:064x}")),
        (Again(number=2), Listed(number=2, verdict_id="f" * 64)),
        (Again(number=2), Again(number=3)),
        (Changed(what="key"),),
        (Done(number=1),),
    ],
)
async def test_the_follower_takes_nothing_out_of_turn(events: tuple[object, ...]) -> None:
    fake = Fake(DESTINATION, [outcome_of("blocked", 1)])
    with pytest.raises(ProtocolError):
        await fake.run(*events)


async def test_a_test_that_the_leader_gave_up_is_listed_as_undetermined() -> None:
    listed = Listed(number=2)
    fake = Fake(DESTINATION, [AbandonedError(listed)])
    end = await fake.run(Again(number=2), END)
    assert end.timeline is not None
    assert [(e.status, e.verdict_id) for e in end.timeline.entries][1:] == [("undetermined", None)]


async def test_a_verdict_that_is_not_listed_is_none() -> None:
    # The leader was ended before it had this side's word.
    fake = Fake(DESTINATION, [outcome_of("blocked", 1)])
    end = await fake.run(Again(number=2), END)
    assert end.verdict.status == "open"
    assert end.timeline is not None
    assert len(end.timeline.entries) == 1


async def test_the_end_waits_for_what_the_leader_had_listed() -> None:
    fake = Fake(DESTINATION, [outcome_of("blocked", 1)])
    listed = Listed(number=2, verdict_id=f"{1:064x}")
    end = await fake.run(Again(number=2), Stop(interrupted=True), listed, END)
    assert end.interrupted
    assert end.verdict.status == "blocked"


async def test_who_is_agreeing_hears_the_other_side_out() -> None:
    fake = Fake(DESTINATION)
    fake.watch.on = True
    assert fake.watch.take(Stop(interrupted=True), agreeing=True)
    with pytest.raises(LeftError):
        fake.watch.take(Stop(interrupted=True))


@pytest.mark.usefixtures("hasty")
async def test_the_leader_passes_over_the_rest_of_a_test_it_gave_up() -> None:
    gone = Outcome(Verdict(verdict_id=None, status="undetermined", reachable="unknown"))
    fake = Fake(SOURCE, [gone, outcome_of("open", 3)])
    running = asyncio.ensure_future(fake.run())
    await fake.sent.next(Again)
    fake.events.put_nowait(Again(number=2))
    await fake.sent.next(Listed)
    fake.events.put_nowait(Done(number=7))
    await fake.sent.next(Again)
    fake.events.put_nowait(Done(number=8))
    fake.events.put_nowait(Again(number=3))
    await fake.sent.next(Listed)
    fake.events.put_nowait(END)
    end = await running
    assert end.timeline is not None
    assert [entry.verdict_id is None for entry in end.timeline.entries] == [False, True, False]


@pytest.mark.parametrize(
    "event", [Again(number=4), Listed(number=2, verdict_id="f"), Done(number=1)]
)
@pytest.mark.usefixtures("hasty")
async def test_the_leader_takes_nothing_out_of_turn(event: object) -> None:
    with pytest.raises(ProtocolError):
        await Fake(SOURCE, [outcome_of("open", 2)]).run(event)


async def test_the_follower_tells_each_change_once_before_a_test() -> None:
    fake = Fake(DESTINATION, [outcome_of("open", 1)])
    notes = [Note("key"), Note("key"), Note("ended", 4242)]
    name = f"{1:064x}"
    await fake.run(*notes, Again(number=2), Listed(number=2, verdict_id=name), Note("key"), END)
    told = [m for m in fake.sent.messages if isinstance(m, Changed)]
    assert told == [Changed(what="key"), Changed(what="ended", port=4242), Changed(what="key")]


@pytest.mark.parametrize(
    ("ending", "lost"),
    [
        (END, False),
        (Bye(reason="interrupted"), False),
        (Bye(reason="failed"), True),
        (Bye(reason="timeout"), True),
        (Bye(reason="whatever"), True),
        (PeerLostError("gone"), True),
    ],
)
async def test_how_the_other_side_may_leave(ending: object, *, lost: bool) -> None:
    end = await Fake(DESTINATION).run(ending)
    assert end.contact.get("lost", False) is lost
    assert (end.verdict.verdict_id is None) is lost
    assert not end.interrupted


async def test_an_end_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "END_SECONDS", 0.01)
    end = await Fake(DESTINATION).run(Stop(interrupted=False))
    assert end.verdict.verdict_id is not None


# -- keys


@pytest.fixture
async def terminal(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The far end of a terminal that is standard input."""
    far, near = pty.openpty()
    with os.fdopen(near, "r") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr(os, "tcgetpgrp", lambda _fd: os.getpgrp())
        yield far
    os.close(far)


async def test_keys_are_heard_one_by_one_and_the_terminal_given_back(terminal: int) -> None:
    before = termios.tcgetattr(sys.stdin.fileno())
    heard: asyncio.Queue[str] = asyncio.Queue()
    keys = Keys(heard.put_nowait)
    assert keys.start()
    os.write(terminal, b"x")
    assert await heard.get() == "x"
    os.write(terminal, b"\xff\xc3")
    assert await heard.get()
    keys.close()
    keys.close()
    assert termios.tcgetattr(sys.stdin.fileno()) == before


@pytest.mark.parametrize(
    ("typed", "event"),
    [
        ("q", Stop(interrupted=False)),
        ("Q", Stop(interrupted=False)),
        ("\n", Note("key")),
        (" ", Note("key")),
        ("\x1b[A", Note("key")),
    ],
)
async def test_what_a_key_means(typed: str, event: object) -> None:
    fake = Fake(SOURCE)
    fake.watch._pressed(typed)
    assert fake.events.get_nowait() == event


async def test_from_what_is_no_terminal_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with os.fdopen(read) as stdin, os.fdopen(write, "w"):
        monkeypatch.setattr("sys.stdin", stdin)
        assert not Keys(lambda _: None).start()
    for nothing in (None, stdin, io.StringIO()):
        monkeypatch.setattr("sys.stdin", nothing)
        assert not Keys(lambda _: None).start()


@pytest.mark.usefixtures("terminal")
async def test_in_the_background_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda _fd: os.getpgrp() + 1)
    assert not Keys(lambda _: None).start()


# -- the screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, *, full: bool = True) -> str:
    made = Timeline(lambda ago: f"2026-11-22T12:00:0{ago}.000+00:00")
    screen = LiveScreen(stream, (lambda outcome: _full(stream, outcome)) if full else None)
    fake = Fake(SOURCE)
    fake.watch.timeline = made
    fake.watch._screen = screen
    for name, changed in (
        ("open", ()),
        ("open", ()),
        ("blocked", (Change(what="firewall", on="destination", ago=7),)),
        ("blocked", (Change(what="key", on="source"),)),
        ("open", ()),
        ("blocked", ()),
    ):
        fake.watch._list(outcome_of(name), changed)
    screen.close()
    return stream.getvalue()


def _full(stream: io.StringIO, outcome: Outcome) -> None:
    stream.write(f"FULL {outcome.verdict.status}\n")


def test_full_text_for_the_first_verdict_and_for_new_blockers_only() -> None:
    page = shown(io.StringIO())
    assert page.count("FULL open") == 1
    assert page.count("FULL blocked") == 1
    assert "12:00:07  A rule of the destination's firewall changed.\n" in page
    assert "12:00:00  A key was pressed on the source.\n12:00:00  still BLOCKED: " in page
    assert "\n12:00:00  OPEN\n" in page
    assert "tests" not in page


def test_with_json_lines_only() -> None:
    page = shown(io.StringIO(), full=False)
    assert "FULL" not in page
    assert [line.split()[1] for line in page.splitlines() if "OPEN" in line or "BLOCK" in line] == [
        "OPEN",
        "BLOCKED:",
        "still",
        "OPEN",
        "BLOCKED:",
    ]


def test_a_terminal_counts_in_one_line() -> None:
    page = shown(Terminal())
    assert "Still OPEN since 12:00:00 (2 tests in all).\r\x1b[K" in page


def test_a_screen_that_is_gone_ends_nothing() -> None:
    stream = io.StringIO()
    screen = LiveScreen(stream, None)
    stream.close()
    screen.hint("nobody reads this")
    screen.close()


# -- the option


@pytest.mark.parametrize("command", [["destination", "4242"], ["source", "7-abandon-ability-able"]])
def test_the_option(command: list[str]) -> None:
    assert not _options(_parser().parse_args(command)).watch
    assert _options(_parser().parse_args([*command, "--watch"])).watch
