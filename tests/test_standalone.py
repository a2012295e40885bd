"""What a side records by itself while it waits: bounded, cheap, and closed again."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from bothends import lone_destination, lone_source
from bothends.facts import host_facts
from bothends.lone_destination import LoneDestination
from bothends.lone_source import LoneSource, pause
from bothends.options import Endpoint, Options
from bothends.recorder import Recorder
from bothends.run import Run
from bothends.standalone import Standalone, Surroundings
from bothends.witness import standing
from bothends.witness.standing import StandingSampler
from bothends_protocol.alignment import PER_WINDOW, WINDOWS
from bothends_protocol.code import parse_code
from bothends_protocol.evidence import (
    Address,
    Connection,
    Evidence,
    HostFacts,
    Offline,
    Target,
    read_evidence,
)
from bothends_protocol.wire import pack

WEEK = 7 * 24 * 3600.0


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what nobody announces; the test's own time-out ends it."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def here() -> HostFacts:
    """What there is to say of the machine, as if loopback were its one card."""
    only = (Address(interface="lo", address="127.0.0.1", prefix=8),)
    return replace(host_facts(privileged=False), addresses=only)


# -- how often


def rounds_of(wait: float) -> tuple[int, int]:
    """How many rounds a silent source sends in `wait` seconds, and how many packets."""
    at, done, packets = 0.0, 0, lone_source.MAX_PACKETS
    while at < wait and packets > 0:
        done += 1
        packets -= WINDOWS // 2 * PER_WINDOW + 6
        at += pause(done, at, left=wait - at, packets=packets, answered=False)
    assert at >= wait, "packets must last to the end"
    return done, lone_source.MAX_PACKETS - packets


def test_rounds_come_fast_at_first_and_then_every_ten_seconds() -> None:
    assert rounds_of(40) == (10, 10 * 198)
    assert rounds_of(600)[0] == 66


@pytest.mark.parametrize("wait", [3600.0, 86400.0, WEEK])
def test_packets_last_to_the_end_of_any_wait(wait: float) -> None:
    rounds, packets = rounds_of(wait)
    assert packets <= lone_source.MAX_PACKETS
    assert rounds >= min(wait / 61, lone_source.MAX_PACKETS / 220)


def test_a_port_that_answers_is_tried_seldom() -> None:
    assert pause(3, 12.0, left=600, packets=10**6, answered=True) == lone_source.LATER_SECONDS


# -- the source


async def test_a_service_that_answers_gets_connects_and_no_bursts() -> None:
    recorder = Recorder("source")
    with socket.create_server(("127.0.0.1", 0)) as service:
        source = LoneSource(recorder, ("127.0.0.1",), [service.getsockname()[1]], 60.0)
        task = asyncio.create_task(source.run())
        await until(lambda: bool(recorder.attempts))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await source.close()
    assert {attempt.outcome for attempt in recorder.attempts} == {"connected"}
    assert recorder.bursts == []


async def test_a_port_that_refuses_gets_a_burst_that_is_kept_with_its_readings() -> None:
    recorder = Recorder("source")
    source = LoneSource(recorder, ("127.0.0.1",), [free_port()], 60.0)
    task = asyncio.create_task(source.run())
    await until(lambda: bool(recorder.bursts))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await source.close()
    (burst,) = recorder.bursts
    assert len(burst.sends) == WINDOWS // 2 * PER_WINDOW
    connect, sent = source.rounds
    assert (connect.kind, sent.kind, sent.number) == ("connect", "burst", burst.round)
    assert len(sent.pattern) == WINDOWS
    (samples,) = recorder.samples
    assert all(row[0] == 0 for row in samples.values.values())


async def test_without_an_address_nothing_is_sent() -> None:
    recorder = Recorder("source")
    source = LoneSource(recorder, (), [4242], 60.0)
    await source.run()
    await source.close()
    assert (source.rounds, recorder.attempts) == ([], [])


# -- the destination


async def test_the_watch_notes_who_connects_and_who_listens() -> None:
    recorder, port = Recorder("destination"), free_port()
    watch = LoneDestination(recorder, here(), (), [port], None)
    task = asyncio.create_task(watch.run())
    await until(lambda: bool(recorder.own_listeners))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        local = connection.getsockname()[1]
    await until(lambda: bool(recorder.acceptances))
    offline = watch.freeze(_offline())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await watch.close()
    assert [taken.remote_port for taken in recorder.acceptances] == [local]
    assert offline.listening[0].own_listeners[0].opened
    assert offline.counted is not None
    with socket.create_server(("127.0.0.1", port)):
        pass  # the agent's own listener is closed


def _row(state: str, *, accepted: bool | None = None, port: int = 40_000) -> Connection:
    return Connection(
        round=0,
        transport="tcp",
        state=state,
        local_address="192.168.7.20",
        local_port=4242,
        remote_address="192.168.7.10",
        remote_port=port,
        accepted=accepted,
    )


def _kept(*seen: tuple[float, Connection]) -> tuple[Connection, ...]:
    """What is kept of rows that were seen at those times."""
    recorder = Recorder("destination")
    watch = LoneDestination(recorder, here(), (), [4242], None)
    for at, row in seen:
        watch._take(row, at)
    watch.freeze(_offline())
    return tuple(recorder.connections)


def test_a_row_is_kept_as_far_as_it_came() -> None:
    (row,) = _kept(
        (1.0, _row("SYN_RECV")),
        (1.5, _row("ESTABLISHED", accepted=False)),
        (2.0, _row("ESTABLISHED", accepted=True)),
        (2.5, _row("FIN_WAIT2")),
    )
    assert (row.state, row.accepted, row.at) == ("ESTABLISHED", True, 1.0)


def test_a_connection_that_no_program_takes_is_timed() -> None:
    (row,) = _kept(
        *(
            (1 + 0.5 * n, _row("CLOSE_WAIT" if n > 1 else "ESTABLISHED", accepted=False))
            for n in range(6)
        )
    )
    assert (row.accepted, row.watched) == (False, 2.5)


def test_the_same_port_later_is_another_connection() -> None:
    rows = _kept((1.0, _row("ESTABLISHED", accepted=True)), (60.0, _row("SYN_RECV")))
    assert [(row.state, row.at) for row in rows] == [("SYN_RECV", 60.0)]


def test_rows_are_bounded_and_it_is_said_from_when_on_they_are_all_there() -> None:
    recorder = Recorder("destination")
    watch = LoneDestination(recorder, here(), (), [4242], None)
    many = lone_destination.MAX_ROWS + 10
    for number in range(many):
        watch._take(_row("SYN_RECV", port=1 + number), float(number))
    offline = watch.freeze(_offline())
    assert len(recorder.connections) == lone_destination.MAX_ROWS
    assert offline.connections_since == 9.0


def _offline() -> Offline:
    return Offline(wall=None, lasted=0.0)


# -- counters


class _Tables:
    """A stand-in for the kernel's tables: what each reading is to show."""

    def __init__(self, *readings: dict[str, int]) -> None:
        self.readings = [
            [f"Tcp: {' '.join(one)}\nTcp: {' '.join(map(str, one.values()))}\n".encode()]
            for one in readings
        ]
        self.left = iter(self.readings)

    def __call__(self, _files: object) -> list[bytes]:
        return next(self.left)


def _counted(monkeypatch: pytest.MonkeyPatch, *readings: dict[str, int]) -> StandingSampler:
    times = itertools.count()
    monkeypatch.setattr(standing, "open_tables", lambda: [0])
    monkeypatch.setattr(standing, "read_tables", _Tables(*readings))
    sampler = StandingSampler(lambda: next(times) * 0.02)
    monkeypatch.setattr(sampler, "_again", lambda: None)
    sampler.start()
    for _ in readings[1:]:
        sampler._read()
    sampler._files = []
    return sampler


def test_readings_between_which_nothing_moves_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    still, moved = {"InSegs": 5, "OutSegs": 1}, {"InSegs": 9, "OutSegs": 1}
    counted = _counted(monkeypatch, still, still, still, still, moved, moved, moved).counted()
    assert counted is not None
    assert counted.steps == (60, 20, 40)
    assert counted.values == {"Tcp.InSegs": (0, 4, 0), "Tcp.OutSegs": ()}


def test_only_the_newest_readings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "MAX_READINGS", 10)
    counted = _counted(monkeypatch, *({"InSegs": number} for number in range(50))).counted()
    assert counted is not None
    assert counted.steps == (20,) * 10
    assert counted.began == pytest.approx(39 * 0.02)


# -- the whole


@pytest.mark.parametrize("role", ["source", "destination"])
async def test_what_is_frozen_is_evidence_and_nothing_stays_open(role: str) -> None:
    port = free_port()
    options = Options(
        role=role,
        ports=(f"tcp:{port}",) if role == "destination" else (),
        offline_ports=(f"tcp:{port}",),
        save=Path("unused"),
        service="no-such-program",
    )
    alone = Standalone(options, Surroundings(here(), typed=("127.0.0.1",)))
    alone.start()
    await until(lambda: bool(alone._recorder.routes))
    evidence: Evidence = await alone.freeze(["192.0.2.1: no answer"])
    assert read_evidence(pack(evidence)) == evidence
    assert (evidence.session, evidence.contact.path) == (b"", "offline")
    assert evidence.contact.refused == ("192.0.2.1: no answer",)
    assert evidence.offline is not None
    assert evidence.offline.wall is not None
    assert all(task.done() for task in alone._tasks._running)
    with socket.create_server(("127.0.0.1", port)):
        pass
    await alone.stop()


@pytest.mark.parametrize("how", ["interrupted", "nobody came"])
@pytest.mark.parametrize("role", ["source", "destination"])
async def test_a_run_keeps_what_it_saw_only_where_nobody_came(role: str, how: str) -> None:
    ports = (f"tcp:{free_port()}",)
    options = Options(
        role=role,
        code=parse_code("7-abandon-ability-able"),
        code_fixed=True,
        ports=ports if role == "destination" else (),
        offline_ports=ports,
        control_port=free_port(),
        peers=(Endpoint("127.0.0.1", free_port()),),
        mdns=False,
        wait=0.3 if how == "nobody came" else 60.0,
        save=Path("unused"),
    )
    run = Run(options, say=lambda _: None, show_code=lambda *_: None)
    task = asyncio.create_task(run.run())
    if how == "interrupted":
        await until(lambda: run._standalone is not None)
        alone = run._standalone
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert run._standalone is None
    else:
        await until(lambda: run._standalone is not None)
        alone = run._standalone
        outcome = await task
        assert outcome.verdict.status == "no-contact"
        assert outcome.kept is not None
        own = read_evidence(outcome.kept.evidence)
        assert own.offline is not None
        assert own.offline.lasted >= 0.3
        assert own.contact.refused
    assert alone is not None
    assert all(task.done() for task in alone._tasks._running)


async def test_without_save_nothing_is_recorded() -> None:
    options = Options(
        role="source",
        code=parse_code("7-abandon-ability-able"),
        code_fixed=True,
        control_port=free_port(),
        mdns=False,
        wait=0.05,
    )
    run = Run(options, say=lambda _: None, show_code=lambda *_: None)
    outcome = await run.run()
    assert (outcome.kept, run._standalone) == (None, None)


def test_only_typed_addresses_are_tried_and_targets_before_peers() -> None:
    options = Options(role="source")
    typed = Standalone(options, Surroundings(here(), typed=("192.0.2.1",)))
    assert typed._addresses() == ("192.0.2.1",)
    told = Standalone(
        options,
        Surroundings(
            here(),
            typed=("192.0.2.1",),
            targets=(Target(text="backup", addresses=("192.0.2.2", "192.0.2.3")),),
        ),
    )
    assert told._addresses() == ("192.0.2.2", "192.0.2.3")
    assert Standalone(options, Surroundings(here()))._addresses() == ()
