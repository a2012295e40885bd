"""Two agents that never meet, in the lab: real faults, real files, and one judge afterwards.

The contact is made impossible on both hosts, or on the way. The labs of a batch of rows run side by
side, since nearly all the time goes by in waiting; each test then looks at what its own row left.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bothends import render
from bothends_protocol.evidence import Evidence, read_evidence
from bothends_protocol.offline import Joint, joint

from . import alone, faults, network
from .agents import STAINS, Result, await_ends, finish
from .faults import ADMIN, RESET, Fault, rules
from .grading import Expected, Grade, blocked, grade_document, open_
from .hosts import Lab, LabError, Process
from .network import Builder, Stage
from .services import Service

# A test that asks for a batch first takes as long as the batch. What follows finds it done.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

WAIT = 26
"""Seconds of --wait. A source begins its rounds after 2, 6, 10, 14 and 18 seconds, and the fifth
burst, which tells the moment for certain, is over after 21.5; the rest is for slow starts."""
APART = 9
"""The same for each of two runs that do not overlap: a round or two."""
RECORDED = 8.0
"""Seconds for which each records by itself before the two can meet: a round or two."""
ENDS = 60
"""Seconds for all agents of a batch to end, beyond their wait."""
BATCH = 15
"""Rows that run side by side: half of all. Their agents do little but wait."""
CONTROL = "meta l4proto {{ tcp, udp }} th dport 24242 counter drop"


def no_contact(stage: Stage) -> None:
    """The two hosts let none of each other's dials in."""
    for host in ("source", "destination"):
        rules(host, "input", CONTROL)(stage)


def no_contact_on_the_way(stage: Stage) -> None:
    """Not even the dials arrive."""
    rules("router1", "forward", CONTROL)(stage)


SHUT = """table inet shut {
  chain c {
    type filter hook input priority 0;
    meta l4proto { tcp, udp } th dport 24242 drop
  }
}
"""


def no_contact_yet(stage: Stage) -> None:
    """As `no_contact`, until `let_in`."""
    for host in (stage.source, stage.destination):
        host.nft(SHUT)


ROLES = ("source", "destination")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What is set up, and what is true of it."""

    name: str
    expected: Expected
    services: tuple[Callable[[Stage], object], ...] = (Service(),)
    faults: tuple[Fault, ...] = ()
    network: Builder = network.lan
    shut: Fault = no_contact
    users: bool = False
    """Whether both agents are ordinary users."""
    right: bool = True
    """Whether it must be named; else it is enough that nothing untrue is said."""
    wait: int = WAIT
    roles: tuple[str, ...] = ROLES
    """Who is started at once."""
    later: tuple[float, Callable[[Running], None]] | None = None
    """What is done so many seconds after the start."""


class Running:
    """A row whose lab is there, and its agents, in the order in which they were started."""

    def __init__(self, row: Row, lab: Lab) -> None:
        self.row = row
        self.stage = row.network(lab)
        self.processes: list[Process] = []
        for put in (row.shut, *row.services, *row.faults):
            put(self.stage)
        for role in row.roles:
            self.start(role)
        self.started = time.monotonic()

    def start(self, role: str) -> None:
        stage = self.stage
        host, peer = (
            (stage.source, stage.destination_address)
            if role == "source"
            else (stage.destination, stage.source_address)
        )
        argv = [sys.executable, str(Path(alone.__file__)), role, str(self.row.wait), peer]
        self.processes.append(host.popen(argv, as_user=self.row.users))


def let_in(running: Running) -> None:
    """Make the contact possible for two that have recorded for a while."""
    for process in running.processes:
        assert process.poll() is None, "ended before the two could meet"
    running.stage.destination.nft("delete table inet shut")


def start_the_other(running: Running) -> None:
    """Start the destination when the source has ended."""
    running.processes[0].wait(ENDS)
    running.start("destination")


DROP, REJECT = "destination.firewall-drop", "destination.firewall-reject"
NOT_RUNNING = "service.not-running"

ROWS = (
    Row(name="open", expected=open_()),
    Row(name="destination-drop", faults=(faults.destination_drop(),), expected=blocked(DROP)),
    Row(
        name="destination-drop-ipv6",
        network=network.lan6,
        services=(Service(bind=("::",)),),
        faults=(faults.destination_drop(),),
        expected=blocked(DROP),
    ),
    Row(
        name="destination-reject",
        faults=(faults.destination_reject(RESET),),
        expected=blocked(REJECT),
    ),
    Row(
        name="destination-reject-icmp",
        faults=(faults.destination_reject(ADMIN),),
        expected=blocked(REJECT),
    ),
    Row(
        name="source-drop",
        faults=(faults.source_drop(),),
        expected=blocked("source.firewall-drop"),
    ),
    Row(name="not-running", services=(), expected=blocked(NOT_RUNNING)),
    Row(
        name="loopback-only",
        services=(Service(bind=("127.0.0.1",)),),
        expected=blocked("service.loopback-only"),
    ),
    Row(
        name="destination-drop+not-running",
        services=(),
        faults=(faults.destination_drop(),),
        expected=blocked(DROP, NOT_RUNNING),
    ),
    Row(
        name="destination-drops-answers",
        faults=(faults.destination_drop_replies(),),
        expected=blocked("destination.reply-blocked"),
    ),
    Row(
        name="drop-on-the-way",
        network=network.routed,
        faults=(faults.path_drop(),),
        expected=blocked("network.drop"),
    ),
    Row(
        name="nothing-arrives-at-all",
        network=network.routed,
        shut=no_contact_on_the_way,
        faults=(faults.path_drop(),),
        expected=blocked("network.drop"),
        right=False,
    ),
)


def _with_users(rows: tuple[Row, ...]) -> Iterator[Row]:
    """Each row, and the same with both agents as ordinary users."""
    for row in rows:
        yield row
        # That nothing arrives shows only where packets are seen, or a card is known to be awake.
        right = row.right and row.name != "drop-on-the-way"
        yield dataclasses.replace(row, name=f"{row.name}@users", users=True, right=right)


NEVER_MET = tuple(_with_users(ROWS))
MET = tuple(
    _with_users(
        (
            Row(
                name="met-open",
                shut=no_contact_yet,
                later=(RECORDED, let_in),
                expected=open_(),
            ),
            Row(
                name="met-blocked",
                services=(),
                faults=(faults.destination_drop(),),
                shut=no_contact_yet,
                later=(RECORDED, let_in),
                expected=blocked(DROP, NOT_RUNNING),
            ),
        )
    )
)
APART_ROW = Row(
    name="apart",
    faults=(faults.destination_drop(),),
    wait=APART,
    roles=("source",),
    later=(APART, start_the_other),
    expected=blocked(DROP),
)
ALL = (*NEVER_MET, *MET, APART_ROW)
BATCHES = tuple(ALL[at : at + BATCH] for at in range(0, len(ALL), BATCH))


@dataclasses.dataclass(frozen=True)
class Left:
    """What is left of a row when its lab is gone."""

    row: Row
    results: tuple[Result, ...]
    """Of the agents that were started, in that order."""
    failed: Exception | None
    """What went wrong with the lab, or while the agents ran."""
    pids: tuple[int, ...]
    """Processes of its hosts that live on."""

    def __str__(self) -> str:
        """All there is, for the one who reads why a test failed."""
        lines = [f"row {self.row.name}: {self.failed or 'ran to its end'}"]
        for result in self.results:
            how = "still running" if result.code is None else f"status {result.code}"
            lines += [f"-- {result.side}: {how}", result.stderr, result.stdout]
        return "\n".join(lines)

    @property
    def documents(self) -> list[dict[str, Any]]:
        """What both agents left; nothing may be amiss with them."""
        if self.failed is not None:
            raise AssertionError(str(self)) from self.failed
        assert self.pids == (), str(self)
        assert [result.side for result in self.results] == list(ROLES), str(self)
        for result in self.results:
            assert result.code == 0, str(self)
            assert not [stain for stain in STAINS if stain in result.stderr], str(self)
        documents = [json.loads(result.stdout) for result in self.results]
        assert all(isinstance(document, dict) for document in documents), str(self)
        return documents

    @property
    def joint(self) -> Joint:
        """The joint verdict of two that did not meet."""
        source, destination = (self._evidence(document) for document in self.documents)
        return joint(source, destination)

    def _evidence(self, document: dict[str, Any]) -> Evidence:
        assert document["status"] == "no-contact", str(self)
        return read_evidence(base64.b64decode(document["evidence"]))


class Batch:
    """Rows that run at the same time. What goes wrong with one does not end the others."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.labs = {row.name: Lab() for row in rows}
        self._running: dict[str, Running] = {}
        self._failed: dict[str, Exception] = {}

    def run(self) -> dict[str, Left]:
        """Run all rows to their end; nothing of them lives on, whatever happens."""
        with contextlib.ExitStack() as labs:
            for lab in self.labs.values():
                labs.enter_context(lab)
            for row in self._rows:
                with self._noting(row):
                    self._running[row.name] = Running(row, self.labs[row.name])
            self._do_what_comes_later()
            results = self._results()
        return {
            row.name: Left(
                row,
                results.get(row.name, ()),
                self._failed.get(row.name),
                tuple(self.labs[row.name].left_behind()),
            )
            for row in self._rows
        }

    @contextlib.contextmanager
    def _noting(self, row: Row) -> Iterator[None]:
        try:
            yield
        except (AssertionError, LabError, TimeoutError) as error:
            self._failed[row.name] = error
        except Exception as error:
            error.add_note(f"in row {row.name}")
            raise

    def _do_what_comes_later(self) -> None:
        due = sorted(
            (
                (running.started + running.row.later[0], running, running.row.later[1])
                for running in self._running.values()
                if running.row.later
            ),
            key=lambda item: item[0],
        )
        for at, running, do in due:
            with self._noting(running.row):
                await_ends(running.processes, max(0.0, at - time.monotonic()))
                do(running)

    def _results(self) -> dict[str, tuple[Result, ...]]:
        """Wait for the agents of all rows, who end at much the same time."""
        deadline = time.monotonic() + WAIT + ENDS
        results: dict[str, tuple[Result, ...]] = {}
        for name, running in self._running.items():
            with self._noting(running.row):
                left = max(0.0, deadline - time.monotonic())
                results[name] = tuple(finish(running.processes, left))
        return results


class Batches:
    """Runs a batch when the first of its rows is asked for."""

    def __init__(self) -> None:
        self._left: dict[str, Left] = {}
        self._begun: set[int] = set()

    def left(self, row: Row) -> Left:
        number = next(number for number, rows in enumerate(BATCHES) if row in rows)
        if number not in self._begun:
            self._begun.add(number)
            self._left |= Batch(BATCHES[number]).run()
        if row.name not in self._left:
            pytest.fail(f"row {row.name}: its batch failed in an earlier test", pytrace=False)
        return self._left[row.name]


@pytest.fixture(scope="module")
def batches(_lab_works: None) -> Batches:
    return Batches()


@pytest.mark.parametrize("row", NEVER_MET, ids=lambda row: row.name)
def test_the_two_files_say_what_is_true(batches: Batches, row: Row) -> None:
    left = batches.left(row)
    found = left.joint
    graded = grade_document(row.expected.relaxed(), render.document(found.verdict))
    said = f"{graded}\n{found.verdict.summary}\n{found.notes}\n{found.verdict.candidates}"
    text = f"{said}\n{left}"
    assert graded.grade is not Grade.WRONG, text
    if row.right:
        assert set(found.verdict.blockers) == row.expected.blockers, text
        assert found.verdict.status == row.expected.status, text


def test_runs_that_do_not_overlap_blame_nobody(batches: Batches) -> None:
    left = batches.left(APART_ROW)
    found = left.joint
    assert found.verdict.status == "undetermined", str(left)
    assert found.verdict.blockers == (), str(left)
    assert DROP in found.verdict.candidates, str(left)
    assert "The two runs did not overlap: the source's ended" in found.verdict.summary, str(left)


@pytest.mark.parametrize("row", MET, ids=lambda row: row.name)
def test_what_was_recorded_before_the_two_met_does_not_disturb_them(
    batches: Batches, row: Row
) -> None:
    left = batches.left(row)
    for document in left.documents:
        assert document["evidence"] is None, str(left)
        assert document["blockers"] == sorted(row.expected.blockers), str(left)
        assert document["status"] == row.expected.status, str(left)


def failing_command(stage: Stage) -> None:
    stage.source.run(["false"])


def mistake(_stage: Stage) -> None:
    raise ZeroDivisionError


def stopped(running: Running) -> None:
    """Let one of the two end too early."""
    running.processes[1].kill()


@pytest.mark.usefixtures("_lab_works")
def test_what_goes_wrong_with_one_row_is_told_of_that_row_alone() -> None:
    found = Batch(
        (
            Row(name="broken", faults=(failing_command,), expected=open_()),
            Row(name="stopped", later=(0.5, stopped), wait=3, expected=open_()),
            Row(name="whole", wait=1, expected=open_()),
        )
    ).run()
    assert [left.pids for left in found.values()] == [(), (), ()]
    with pytest.raises(AssertionError, match="row broken: on source: 'false' ended with 1"):
        _ = found["broken"].documents
    with pytest.raises(
        AssertionError, match=r"(?s)row stopped.*source: status 0.*destination: status -9"
    ):
        _ = found["stopped"].documents
    assert [one["status"] for one in found["whole"].documents] == ["no-contact"] * 2


@pytest.mark.usefixtures("_lab_works")
def test_a_batch_that_fails_half_way_leaves_nothing_behind() -> None:
    batch = Batch(
        (
            Row(name="first", expected=open_()),
            Row(name="second", faults=(mistake,), expected=open_()),
        )
    )
    with pytest.raises(ZeroDivisionError) as raised:
        batch.run()
    assert raised.value.__notes__ == ["in row second"]
    assert all(lab.left_behind() == [] for lab in batch.labs.values())
