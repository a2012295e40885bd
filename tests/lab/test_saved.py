"""Saved evidence: what both sides keep gives the same verdict on a third computer."""

from __future__ import annotations

import base64
import json
import sys
import time
from typing import Any

import pytest

from . import agents, faults
from .agents import CODE, Result
from .faults import Fault
from .hosts import Completed, Host, Lab
from .network import Stage
from .services import Service

pytestmark = pytest.mark.lab

USAGE = 2
CODE_FILE = "/run/code-of-the-run"
SHOWN = ("status", "reachable", "blockers", "warnings", "candidates", "summary", "checks")
"""What both screens and `combine` say alike, and the id."""

SITUATIONS: dict[str, tuple[Fault, ...]] = {
    "open": (Service(),),
    "drop": (Service(), faults.destination_drop()),
    "not-running": (),
}
"""What is done to the stage before the two agents run."""


def saving(stage: Stage, *options: str, as_user: bool = False) -> list[Result]:
    """Run both agents with --save; the destination's result first."""
    ends = [
        start(stage, "--save", evidence(side, as_user=as_user), *options, as_user=as_user)
        for side, start in (("destination", agents.destination), ("source", agents.source))
    ]
    results = agents.finish(ends)
    for result in results:
        assert not result.flaws, (result.flaws, result.stderr)
    return results


def evidence(side: str, *, as_user: bool = False) -> str:
    return f"/run/user/{65534 if as_user else 0}/{side}.evidence"


def fetch(host: Host, path: str) -> bytes:
    return base64.b64decode(host.run(["base64", path]).stdout)


def put(host: Host, path: str, data: bytes) -> None:
    host.write(f"{path}.base64", base64.b64encode(data).decode())
    host.python(
        "import base64, pathlib, sys; to = pathlib.Path(sys.argv[1]); "
        "to.write_bytes(base64.b64decode(pathlib.Path(sys.argv[1] + '.base64').read_bytes()))",
        path,
    )


def third(lab: Lab) -> Host:
    """A computer that had no part in the run, and has no network."""
    host = lab.host("elsewhere")
    host.write(CODE_FILE, f"{CODE}\n", mode=0o600)
    return host


def carried(stage: Stage, *, as_user: bool = False) -> Host:
    """A third computer, with the evidence of both as A (the source's) and B."""
    host = third(stage.lab)
    for name, side in (("/run/A", stage.source), ("/run/B", stage.destination)):
        put(host, name, fetch(side, evidence(side.name, as_user=as_user)))
    return host


def combine(host: Host, *arguments: str, code: bool = True) -> Completed:
    more = ["--code-file", CODE_FILE] if code else []
    return host.run([sys.executable, "-m", "bothends", "combine", *arguments, *more], check=False)


def document(done: Completed) -> dict[str, Any]:
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_third_computer_comes_to_the_same_verdict(
    stage: Stage, situation: str, *, as_user: bool
) -> None:
    for fault in SITUATIONS[situation]:
        fault(stage)
    one, other = saving(stage, as_user=as_user)
    host = carried(stage, as_user=as_user)
    done = combine(host, "/run/A", "/run/B", "--json")
    found = document(done)
    assert one.document is not None
    assert other.document is not None
    assert found["verdict_id"] == one.document["verdict_id"] == other.document["verdict_id"]
    assert found["verdict_id"] is not None
    assert [found[key] for key in SHOWN] == [one.document[key] for key in SHOWN]
    assert done.code == one.code
    assert found["verified"] is True
    assert found["contact"]["path"] == one.document["contact"]["path"]
    for side in (stage.source, stage.destination):
        path = evidence(side.name, as_user=as_user)
        mode = side.run(["stat", "-c", "%a %u", path]).stdout.split()
        assert mode == ["600", "65534" if as_user else "0"]


def test_without_the_code_it_says_unverified(stage: Stage) -> None:
    saving(stage)
    host = carried(stage)
    done = combine(host, "/run/B", "/run/A", code=False)
    assert done.code == agents.EXIT_STATUS["blocked"], done.stderr
    assert "Unverified" in done.stdout
    found = document(combine(host, "/run/B", "/run/A", "--json", code=False))
    assert found["verified"] is False
    verified = combine(host, "/run/B", "/run/A")
    assert "nverified" not in verified.stdout
    assert "service.not-running" in verified.stdout


def test_what_does_not_belong_together_is_refused(stage: Stage) -> None:
    saving(stage)
    host = carried(stage)
    data = fetch(host, "/run/B")
    saving(stage)
    put(host, "/run/C", fetch(stage.destination, evidence("destination")))
    put(host, "/run/short", data[:-1])
    put(host, "/run/altered", data[:200] + bytes([data[200] ^ 1]) + data[201:])
    put(host, "/run/version", data.replace(b"file 1\n", b"file 2\n", 1))
    for other, why in {
        "/run/C": "different runs",
        "/run/short": "truncated",
        "/run/altered": "altered",
        "/run/version": "version '2', and this program reads version 1",
        "/run/A": "same evidence of the source",
        "/run/none": "cannot be read",
    }.items():
        for code in (False, True):
            done = combine(host, "/run/A", other, code=code)
            assert (done.code, done.stdout) == (USAGE, ""), (other, done.stdout)
            assert why in done.stderr, done.stderr
            assert done.stderr.count("\n") == 1
    host.write(CODE_FILE, "7-abandon-ability-about\n")
    done = combine(host, "/run/A", "/run/B")
    assert done.code == USAGE
    assert "the code does not fit" in done.stderr


def test_a_folder_that_cannot_be_written_to_is_said_before_the_run(stage: Stage) -> None:
    process = agents.source(stage, "--save", "/etc/evidence", as_user=True)
    (result,) = agents.finish([process])
    assert result.code == USAGE
    assert "cannot be written to" in result.stderr


def pasting(stage: Stage, *options: str, as_user: bool = False) -> list[str]:
    """Run both agents with --paste; what each put on standard error, the destination's first."""
    ends = [
        start(stage, "--paste", *options, as_user=as_user)
        for start in (agents.destination, agents.source)
    ]
    results = agents.finish(ends)
    for result in results:
        assert not result.flaws, (result.flaws, result.stderr)
    return [result.stderr for result in results]


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_pasted_gives_the_same_verdict(
    stage: Stage, situation: str, *, as_user: bool
) -> None:
    for fault in SITUATIONS[situation]:
        fault(stage)
    ends = [
        start(stage, "--paste", as_user=as_user) for start in (agents.destination, agents.source)
    ]
    one, other = agents.finish(ends)
    assert not one.flaws + other.flaws, (one.stderr, other.stderr)
    host = third(stage.lab)
    # As it comes out of a chat: one text with both, quoted.
    chat = f"{one.stderr}\r\nand mine:\r\n{other.stderr}"
    host.write("/run/chat", "".join(f"> {line}\r\n" for line in chat.splitlines()))
    done = combine(host, "/run/chat", "--json")
    found = document(done)
    assert one.document is not None
    for key in ("status", "reachable", "blockers", "warnings", "candidates"):
        assert found[key] == one.document[key]
    assert found["verified"] is True
    assert done.code == one.code
    for address in (stage.source_address, stage.destination_address):
        assert address not in done.stdout
    refused = combine(host, "/run/chat", code=False)
    assert refused.code == USAGE
    assert "encrypted" in refused.stderr


def test_pasted_with_addresses(stage: Stage) -> None:
    one, other = pasting(stage, "--paste-addresses")
    host = third(stage.lab)
    host.write("/run/chat", one + other)
    done = combine(host, "/run/chat")
    assert done.code == agents.EXIT_STATUS["blocked"], done.stderr
    assert stage.destination_address in done.stdout


def test_sides_that_lost_each_other_save_what_they_have(stage: Stage) -> None:
    for fault in SITUATIONS["drop"]:
        fault(stage)
    destination = agents.destination(stage, "--save", evidence("destination"))
    source = agents.source(stage, "--save", evidence("source"))
    deadline = time.monotonic() + agents.GIVE_UP
    while not faults.hits(stage, "destination"):
        assert source.poll() is None, source.stderr
        assert time.monotonic() < deadline
    # Their own conversation is cut in the middle of the run, both ways.
    port = agents.CONTROL_PORT
    both = "meta l4proto {{ tcp, udp }} th"
    faults.rules("destination", "input", f"{both} dport {port} drop", f"{both} sport {port} drop")(
        stage
    )
    for result in agents.finish([source, destination]):
        assert result.document is not None
        assert result.document["contact"]["lost"] is True, result.stderr
        assert "Evidence saved" in result.stderr
    done = combine(carried(stage), "/run/A", "/run/B", "--json")
    found = document(done)
    assert found["verified"] is True
    assert found["verdict_id"] is not None
    # By what they had written down when it was cut: perhaps not one round was over.
    assert found["status"] in ("blocked", "undetermined")


def test_a_side_that_met_nobody_saves_what_it_recorded_alone(stage: Stage) -> None:
    process = agents.source(stage, "--save", evidence("source"), "--wait", "0.2")
    (result,) = agents.finish([process])
    assert result.code == agents.EXIT_STATUS["no-contact"]
    assert "Evidence saved" in result.stderr
    assert not result.flaws
