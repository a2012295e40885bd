"""bothends against what goes wrong around it: codes, strangers, deaths, interrupts, bad input.

Each must end with a clear sentence on standard error, the right exit status, one
JSON document on standard output where ``--json`` is given, and no traceback.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import sys
import time

import pytest

from . import agents, faults, network, networks
from .agents import CODE, CONTROL_PORT, STAINS, Result, listens, until
from .hosts import Host, Lab, Process
from .network import Stage
from .services import Service, avahi, browse, stranger

pytestmark = pytest.mark.lab

WRONG_CODE = "7-abandon-ability-about"
USAGE, NO_CONTACT, INTERRUPTED, UNDETERMINED, BLOCKED, OPEN = 2, 4, 130, 3, 1, 0
LOST_WITHIN = 5.0
"""Seconds within which a side must say that it has lost the other (issue 2)."""


def one(process: Process, timeout: float = agents.GIVE_UP) -> Result:
    """What an agent left; that it ended, and without a traceback, is the least."""
    (result,) = agents.finish([process], timeout)
    assert result.code is not None, f"still running\n{result.stderr}"
    stains = [stain for stain in STAINS if stain in result.stderr]
    assert not stains, result.stderr
    return result


def said(result: Result, code: int, pattern: str) -> Result:
    """It ended with that status and a sentence that matches."""
    assert result.code == code, f"{result.code}\n{result.stdout}\n{result.stderr}"
    assert re.search(pattern, result.stderr, re.IGNORECASE), result.stderr
    return result


def pair_is_open(processes: list[Process]) -> None:
    for process in processes:
        result = one(process)
        assert not result.flaws, (result.flaws, result.stderr)
        assert result.document is not None
        assert result.document["status"] == "open", result.stderr


def waiting_destination(stage: Stage, *, mdns: bool = False) -> Process:
    """The destination's agent, once it waits for the other side."""
    process = agents.destination(stage, mdns=mdns)
    until("listens", lambda: listens(stage.destination), process)
    return process


# -- the code


def test_one_wrong_code_ends_the_source_and_not_the_destination(stage: Stage) -> None:
    Service()(stage)
    destination = waiting_destination(stage)
    wrong = said(one(agents.source(stage, code=WRONG_CODE)), NO_CONTACT, r"\bcode\b")
    assert not wrong.flaws, wrong.flaws
    assert destination.poll() is None, destination.stderr
    pair_is_open([destination, agents.source(stage)])


def test_three_wrong_codes_end_a_destination_that_was_given_its_code(stage: Stage) -> None:
    destination = waiting_destination(stage)
    for _ in range(3):
        assert destination.poll() is None, destination.stderr
        said(one(agents.source(stage, code=WRONG_CODE)), NO_CONTACT, r"\bcode\b")
    result = said(one(destination), NO_CONTACT, r"\bcode\b")
    assert not result.flaws, result.flaws


def test_the_printed_code_is_what_the_source_needs(stage: Stage) -> None:
    Service()(stage)
    arguments = ["destination", "4242", "--no-mdns", "--peer", stage.source_address]
    destination = agents.agent(stage.destination, *arguments, piped=True)
    code = destination.wait_for_output(r"\b\d+-[a-z]+-[a-z]+-[a-z]+\b(?=[^a-z])").group()
    source = agents.agent(
        stage.source, "source", code, "--no-mdns", "--peer", stage.destination_address, piped=True
    )
    assert source.wait() == OPEN, source.stdout
    assert destination.wait() == OPEN, destination.stdout


AT_TERMINAL = """
import os, pty, sys
pid, keys = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "-m", "bothends", *sys.argv[2:]])
shown = b""
while True:
    try:
        data = os.read(keys, 4096)
    except OSError:
        break
    os.write(1, data)
    if b"press Enter" not in shown and b"press Enter" in shown + data:
        os.write(keys, sys.argv[1].encode() + b"\\n")
    shown += data
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_an_address_typed_while_waiting_is_dialled(stage: Stage) -> None:
    # The destination lets nothing in, and the source was told no address.
    Service()(stage)
    faults.default_deny("tcp dport 4242")(stage)
    stage.destination.write("/run/code", CODE, mode=0o600)
    options = ["--no-mdns", "--code-file", "/run/code"]
    argv = [sys.executable, "-c", AT_TERMINAL, stage.source_address, "destination", "4242"]
    destination = stage.destination.popen([*argv, *options], piped=True)
    source = agents.source(stage, peer=False)
    pair_is_open([source])
    assert destination.wait() == OPEN, destination.stdout
    assert f"Looking for the other computer at {stage.source_address}, too." in destination.stdout


def test_who_is_known_by_a_second_address_answers_by_udp_from_there(lab: Lab) -> None:
    # By its own choice the kernel would answer from the first one.
    stage = networks.second_address(lab)
    stage = dataclasses.replace(stage, destination_address=networks.SECOND)
    Service()(stage)
    faults.rules("destination", "input", f"tcp dport {CONTROL_PORT} drop")(stage)
    pair = [
        agents.destination(stage, peer=False, as_user=True),
        agents.source(stage, as_user=True),
    ]
    for result, end in zip(agents.finish(pair), ("local", "remote"), strict=True):
        assert not result.flaws, (result.flaws, result.stderr)
        assert result.document is not None
        contact = result.document["contact"]
        assert (contact["path"], contact[end]) == ("punched", networks.SECOND)


def test_both_screens_say_what_blocks_and_what_to_do(stage: Stage) -> None:
    Service()(stage)
    faults.destination_drop()(stage)
    stage.destination.write("/run/code", CODE, mode=0o600)
    stage.source.write("/run/code", CODE, mode=0o600)
    common = ["--no-mdns", "--code-file", "/run/code", "--peer"]
    ends = [
        agents.agent(stage.destination, "destination", "4242", *common, stage.source_address),
        agents.agent(stage.source, "source", *common, stage.destination_address),
    ]
    for end in ends:
        result = one(end)
        assert result.code == BLOCKED, result.stderr
        assert "destination" in result.stdout
        assert "firewall" in result.stdout.lower()
        assert "4242" in result.stdout


QUOTED = "own firewall matches: "


def because_of(stage: Stage, *, as_user: bool = False) -> list[str]:
    """How a run between the two knows its first blocker."""
    ends = [
        agents.destination(stage, as_user=as_user),
        agents.source(stage, as_user=as_user),
    ]
    document = agents.finish(ends)[0].document
    assert document is not None
    (check,) = document["checks"]
    return [line for line in check["blockers"][0]["because"] if isinstance(line, str)]


@pytest.mark.parametrize(
    ("fault", "side", "rule"),
    [
        (faults.destination_drop(), "destination", r"tcp dport 4242 counter drop"),
        (faults.destination_reject(faults.ADMIN), "destination", r"tcp dport 4242 counter reject"),
        (faults.destination_drop_replies(), "destination", r"tcp sport 4242 counter drop"),
        (faults.source_drop(), "source", r"tcp dport 4242 counter drop"),
        (faults.source_drop_replies(), "source", r"tcp sport 4242 counter drop"),
    ],
    ids=["inbound", "reject", "reply", "outbound", "source reply"],
)
def test_the_rule_that_matches_is_quoted(
    stage: Stage, fault: faults.Rules, side: str, rule: str
) -> None:
    Service()(stage)
    fault(stage)
    (quoted,) = [line for line in because_of(stage) if QUOTED in line]
    assert quoted.startswith(f"A rule of the {side}'s {QUOTED}")
    assert re.search(rule, quoted), quoted


def test_a_rule_that_exists_is_not_quoted_where_something_else_blocks(stage: Stage) -> None:
    # The rule drops, and no request ever reaches it.
    Service()(stage)
    faults.source_drop()(stage)
    faults.destination_drop()(stage)
    lines = because_of(stage)
    assert [line for line in lines if QUOTED in line] == [
        line for line in lines if line.startswith("A rule of the source's")
    ]


def test_an_ordinary_user_is_told_the_cause_without_the_rule(stage: Stage) -> None:
    Service()(stage)
    faults.destination_drop()(stage)
    assert not any(QUOTED in line for line in because_of(stage, as_user=True))


def test_a_request_that_ends_at_the_first_router_shows_that_requests_leave(lab: Lab) -> None:
    stage = network.routed(lab, routers=2)
    Service()(stage)
    faults.path_drop(router=2)(stage)
    (line,) = [one for one in because_of(stage, as_user=True) if "first router" in one]
    assert "10.0.0.2 said so" in line


# -- strangers at the control port

NOISE = """
import os, socket, sys
address, port = sys.argv[1], int(sys.argv[2])
def dial():
    connection = socket.create_connection((address, port), 5)
    held.append(connection)
    return connection
held = []
for size in (1, 4, 100, 5_000, 100_000):
    try:
        dial().sendall(os.urandom(size))
    except OSError:  # hung up on: as it should be
        pass
try:
    dial().sendall(b"GET / HTTP/1.1\\r\\nHost: somebody\\r\\n\\r\\n")
    dial().sendall(b"\\xff" * 64)
except OSError:
    pass
for _ in range(8):
    dial()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for size in (0, 1, 50, 1_200):
    datagrams.sendto(os.urandom(size), (address, port))
os.write(3, b"done")
sys.stdin.close()
import signal
signal.pause()
"""


def test_garbage_and_silence_on_the_control_port_do_not_keep_a_pair_from_meeting(lab: Lab) -> None:
    stage = network.lan(lab, third=True)
    Service()(stage)
    destination = waiting_destination(stage)
    noise = _make_noise(stage, stage.destination_address)
    assert destination.poll() is None, destination.stderr
    pair_is_open([destination, agents.source(stage)])
    noise.kill()


def _make_noise(stage: Stage, address: str) -> Process:
    """Start a third party that sends garbage and holds silent connections; return when it has."""
    done, theirs = os.pipe2(os.O_CLOEXEC)
    third = stage.lab.host("third")
    argv = ["python3", "-c", NOISE, address, str(CONTROL_PORT)]
    process = third.popen(argv, pass_fds=[theirs])
    os.close(theirs)
    with os.fdopen(done, "rb") as reader:
        assert reader.read(4) == b"done", process.stderr
    return process


def test_a_control_port_in_use_is_said_clearly(stage: Stage) -> None:
    Service()(stage)
    stranger(stage)
    ends = [agents.destination(stage, "--wait", "3"), agents.source(stage, "--wait", "3")]
    results = [one(end) for end in ends]
    assert str(CONTROL_PORT) in results[0].stderr, results[0].stderr
    assert results[0].code in (OPEN, USAGE, NO_CONTACT)


def test_another_control_port(stage: Stage) -> None:
    Service()(stage)
    stranger(stage)
    port = ("--control-port", "24999")
    ends = [
        agents.destination(stage, *port, "--peer", f"{stage.source_address}:24999", peer=False),
        agents.source(stage, *port, "--peer", f"{stage.destination_address}:24999", peer=False),
    ]
    pair_is_open(ends)


# -- bad input


@pytest.fixture
def host(lab: Lab) -> Host:
    """One computer without a network."""
    return lab.host("computer")


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["destination", "0"], "0"),
        (["destination", "65536"], "65536"),
        (["destination", "5999-1024"], "5999-1024"),
        (["destination", "backup"], "backup"),
        (["destination", "sctp:4242"], "sctp"),
        (["destination"], "ports"),
        (["destination", "4242", "--control-port", "99999"], "99999"),
        (["destination", "4242", "--peer", "192.168.7.300"], "192.168.7.300"),
        (["destination", "4242", "--peer", "192.168.7.20:0"], "port"),
        (["destination", "4242", "--code", "hello"], "code"),
        (["destination", "4242", "--code-file", "/no/such/file"], "/no/such/file"),
        (["destination", "4242", "--wait", "soon"], "soon"),
        (["source", "7-abandon"], "code"),
        (["source", "7-abandon-ability-notaword"], "notaword"),
        (["source", "--peer", "no address at all", CODE], "no address at all"),
        (["neither"], "neither"),
    ],
)
@pytest.mark.parametrize("json_", [False, True])
def test_bad_input_is_told_in_a_sentence(
    host: Host, arguments: list[str], mentioned: str, *, json_: bool
) -> None:
    result = one(agents.agent(host, *arguments, *(["--json"] if json_ else [])))
    said(result, USAGE, re.escape(mentioned))
    assert result.stdout == "" or (json_ and result.document is not None)


def test_without_a_network_each_side_says_that_it_met_nobody(lab: Lab) -> None:
    stage = network.lonely(lab)
    peer = ("--peer", "192.168.7.20", "--wait", "2")
    for start in (agents.destination, agents.source):
        result = one(start(stage, *peer, peer=False, mdns=True))
        said(result, NO_CONTACT, r"\w+")
        assert not result.flaws, (result.flaws, result.stderr)
        assert result.seconds < 10


@pytest.mark.parametrize("as_user", [False, True])
def test_without_the_other_side_each_ends_after_its_wait(stage: Stage, *, as_user: bool) -> None:
    for start in (agents.source, agents.destination):
        result = said(one(start(stage, "--wait", "1", as_user=as_user)), NO_CONTACT, r"\w+")
        assert not result.flaws, (result.flaws, result.stderr)
        assert result.document is not None
        assert result.document["verdict_id"] is None
        assert result.seconds < 4


# -- deaths and interrupts


def _running_pair(stage: Stage) -> dict[str, Process]:
    """Both agents, in the middle of a check: the dropping rule has met a packet of theirs."""
    Service()(stage)
    faults.destination_drop()(stage)
    destination = agents.destination(stage)
    source = agents.source(stage)
    until("probes", lambda: faults.hits(stage, "destination") > 0, source)
    return {"source": source, "destination": destination}


@pytest.mark.parametrize("victim", ["source", "destination"])
def test_when_a_side_is_killed_the_other_says_so(stage: Stage, victim: str) -> None:
    pair = _running_pair(stage)
    killed = pair.pop(victim)
    killed.kill()
    died = time.monotonic()
    assert killed.code == -signal.SIGKILL, "it had ended already"
    (survivor,) = pair.values()
    result = said(one(survivor), UNDETERMINED, r"\w+")
    assert survivor.ended is not None
    assert survivor.ended - died < LOST_WITHIN
    assert not result.flaws, result.flaws
    assert result.document is not None
    assert result.document["contact"]["lost"] is True
    assert result.document["status"] == "undetermined"
    assert result.document["verdict_id"] is None


@pytest.mark.parametrize("victim", ["source", "destination"])
def test_an_interrupt_in_the_middle_ends_cleanly(stage: Stage, victim: str) -> None:
    pair = _running_pair(stage)
    interrupted = pair.pop(victim)
    interrupted.send_signal(signal.SIGINT)
    result = one(interrupted, 10)
    assert result.code == INTERRUPTED, result.stderr
    assert result.document is not None, result.stdout
    (other,) = pair.values()
    assert one(other).code in (UNDETERMINED, INTERRUPTED)
    host = stage.host(victim)
    assert not listens(host)


def test_an_interrupt_while_waiting_ends_cleanly(stage: Stage) -> None:
    destination = waiting_destination(stage, mdns=True)
    destination.send_signal(signal.SIGINT)
    result = one(destination, 10)
    assert result.code == INTERRUPTED, result.stderr
    assert result.document is not None, result.stdout
    assert result.seconds < 10
    assert stage.destination.pids() == []


# -- mDNS as others see it


def test_a_real_avahi_sees_the_destination_and_no_word_of_its_code(lab: Lab) -> None:
    stage = network.lan(lab, third=True)
    Service()(stage)
    avahi("third")(stage)
    browser = browse(lab.host("third"), "_bothends._tcp")
    destination = agents.destination(stage, peer=False, mdns=True)
    found = browser.wait_for_output(r"(?m)^=;eth0;IPv4;.*\n").group()
    assert stage.destination_address in found
    assert f";{CONTROL_PORT};" in found
    words = CODE.split("-")[1:]
    assert not any(word in found for word in words)
    pair_is_open([destination, agents.source(stage, peer=False, mdns=True)])
    assert not any(word in browser.stdout for word in words)
