"""Two agents that never meet, in the lab: real faults, real files, and one judge afterwards.

The contact is made impossible on both hosts, or on the way. All labs run side by side, since each
takes as long as its agents wait.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bothends import render
from bothends_protocol.evidence import Evidence, read_evidence
from bothends_protocol.offline import Joint, joint

from . import alone, faults, network
from .agents import STAINS
from .faults import ADMIN, RESET, Fault, rules
from .grading import Expected, Grade, blocked, grade_document, open_
from .hosts import Host, Lab, Process
from .network import Builder, Stage
from .services import Service

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("offline"), pytest.mark.timeout(400)]

WAIT = 34
"""Seconds of --wait: bursts come every four seconds at first, and five of them tell the moment."""
ENDS = 60
CONTROL = "meta l4proto {{ tcp, udp }} th dport 24242 counter drop"


def no_contact(stage: Stage) -> None:
    """The two hosts let none of each other's dials in."""
    for host in ("source", "destination"):
        rules(host, "input", CONTROL)(stage)


def no_contact_on_the_way(stage: Stage) -> None:
    """Not even the dials arrive."""
    rules("router1", "forward", CONTROL)(stage)


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


ALL = tuple(_with_users(ROWS))


def start(host: Host, role: str, peer: str, *, wait: int = WAIT, users: bool = False) -> Process:
    argv = [sys.executable, str(Path(alone.__file__)), role, str(wait), peer]
    return host.popen(argv, as_user=users)


def start_both(stage: Stage, *, wait: int = WAIT, users: bool = False) -> list[Process]:
    return [
        start(stage.source, "source", stage.destination_address, wait=wait, users=users),
        start(stage.destination, "destination", stage.source_address, wait=wait, users=users),
    ]


def end(process: Process) -> dict[str, Any]:
    """What an agent left; nothing may be amiss with it."""
    assert process.wait(WAIT + ENDS) == 0, process.stderr
    assert not [stain for stain in STAINS if stain in process.stderr], process.stderr
    document = json.loads(process.stdout)
    assert isinstance(document, dict)
    return document


def evidence(document: dict[str, Any]) -> Evidence:
    assert document["status"] == "no-contact"
    return read_evidence(base64.b64decode(document["evidence"]))


@pytest.fixture(scope="module")
def joints(_lab_works: None) -> Iterator[dict[str, Joint]]:
    """The joint verdicts of all rows, by name."""
    labs = [Lab() for _ in ALL]
    try:
        running: dict[str, list[Process]] = {}
        for row, lab in zip(ALL, labs, strict=True):
            stage = row.network(lab)
            row.shut(stage)
            for put in (*row.services, *row.faults):
                put(stage)
            running[row.name] = start_both(stage, users=row.users)
        found = {name: [end(process) for process in both] for name, both in running.items()}
        yield {
            name: joint(evidence(source), evidence(destination))
            for name, (source, destination) in found.items()
        }
    finally:
        for lab in labs:
            lab.close()
    assert [pid for lab in labs for pid in lab.left_behind()] == []


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_the_two_files_say_what_is_true(joints: dict[str, Joint], row: Row) -> None:
    found = joints[row.name]
    graded = grade_document(row.expected.relaxed(), render.document(found.verdict))
    text = f"{graded}\n{found.verdict.summary}\n{found.notes}\n{found.verdict.candidates}"
    assert graded.grade is not Grade.WRONG, text
    if row.right:
        assert set(found.verdict.blockers) == row.expected.blockers, text
        assert found.verdict.status == row.expected.status, text


def test_runs_that_do_not_overlap_blame_nobody(stage: Stage) -> None:
    no_contact(stage)
    faults.destination_drop()(stage)
    first = end(start(stage.source, "source", stage.destination_address, wait=9))
    second = end(start(stage.destination, "destination", stage.source_address, wait=9))
    found = joint(evidence(first), evidence(second))
    assert found.verdict.status == "undetermined"
    assert found.verdict.blockers == ()
    assert DROP in found.verdict.candidates
    assert "The two runs did not overlap: the source's ended" in found.verdict.summary


RECORDED = 8.0
"""Seconds for which each records by itself before the two can meet: a round or two."""
SHUT = """table inet shut {
  chain c {
    type filter hook input priority 0;
    meta l4proto { tcp, udp } th dport 24242 drop
  }
}
"""


@pytest.mark.parametrize("users", [False, True], ids=["privileged", "users"])
@pytest.mark.parametrize(
    ("services", "put", "expected"),
    [((Service(),), (), []), ((), (faults.destination_drop(),), [DROP, NOT_RUNNING])],
    ids=["open", "blocked"],
)
def test_what_was_recorded_before_the_two_met_does_not_disturb_them(
    stage: Stage,
    services: tuple[Callable[[Stage], object], ...],
    put: tuple[Fault, ...],
    expected: list[str],
    *,
    users: bool,
) -> None:
    for make in services:
        make(stage)
    for fault in put:
        fault(stage)
    for host in (stage.source, stage.destination):
        host.nft(SHUT)
    both = start_both(stage, users=users)
    with pytest.raises(TimeoutError):
        both[0].wait(RECORDED)
    stage.destination.nft("delete table inet shut")
    for document in map(end, both):
        assert document["evidence"] is None
        assert document["blockers"] == expected
        assert document["status"] == ("blocked" if expected else "open")
