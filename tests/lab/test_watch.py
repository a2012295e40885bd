"""The live repair loop between two hosts: what is switched off and on shows on both sides.

Both agents run as real processes. What they show while they run is read from
standard error, what they say at the end from the one document.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from typing import Any

import pytest

from schema import validate

from . import agents, faults
from .agents import Result, listens, until
from .hosts import Process
from .network import DEVICE, Stage
from .services import Service

pytestmark = pytest.mark.lab

OPEN, BLOCKED, UNDETERMINED, INTERRUPTED = 0, 1, 3, 130
FIREWALL = "destination.firewall-drop"
DOWN = "service.not-running"
LOOK = 0.02
"""Seconds between looks at what a process has written."""
WITHIN = 20.0
"""Seconds for a change to show: a rest, a test as an ordinary user, and a busy machine."""
ENDS_WITHIN = 40.0

Entry = dict[str, Any]


class Loop:
    """Two agents that keep testing."""

    def __init__(
        self,
        stage: Stage,
        *,
        asked: tuple[str, ...] = ("source", "destination"),
        as_user: bool = False,
    ) -> None:
        start = {"destination": agents.destination, "source": agents.source}
        self.sides: dict[str, Process] = {
            side: begin(stage, *(["--watch"] if side in asked else []), as_user=as_user)
            for side, begin in start.items()
        }

    def shown(self, pattern: str, count: int = 1) -> None:
        """Wait until both sides have shown a line that matches, that often."""
        deadline = time.monotonic() + WITHIN
        for process in self.sides.values():
            while len(re.findall(pattern, process.stderr)) < count:
                assert process.poll() is None, f"ended\n{process.stdout}\n{process.stderr}"
                assert time.monotonic() < deadline, f"no {pattern!r} in\n{process.stderr}"
                time.sleep(LOOK)

    def end(self, by: str = "source") -> dict[str, Result]:
        """Interrupt one side; return what both left."""
        self.sides[by].send_signal(signal.SIGINT)
        results = agents.finish(list(self.sides.values()), ENDS_WITHIN)
        return dict(zip(self.sides, results, strict=True))


def documents(results: dict[str, Result], interrupted: str | None = None) -> dict[str, Any]:
    """The documents of both, each as it must be; the list is the same on both."""
    found = {}
    for side, result in results.items():
        document = result.document
        assert document is not None, (result.stdout, result.stderr)
        assert not any(stain in result.stderr for stain in agents.STAINS), result.stderr
        validate(document)
        if side == interrupted:
            assert result.code == INTERRUPTED, result.stderr
        else:
            assert result.code == agents.EXIT_STATUS[document["status"]], result.stderr
        found[side] = document
    first, second = (plain(document["watch"]) for document in found.values())
    assert first == second
    return found


def plain(entries: list[Entry]) -> list[Entry]:
    """Entries without the times of day, which are each side's own."""
    return [
        {
            **{key: value for key, value in entry.items() if key != "at"},
            "changed": [
                {key: value for key, value in change.items() if key != "at"}
                for change in entry["changed"]
            ],
        }
        for entry in entries
    ]


def story(document: dict[str, Any]) -> list[tuple[str, ...]]:
    return [(entry["status"], *entry["blockers"]) for entry in document["watch"]]


def reasons(entry: Entry) -> set[tuple[str, str]]:
    return {(change["what"], change["on"]) for change in entry["changed"]}


# -- what is switched off and on


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("asked", ["source", "destination"])
def test_a_rule_taken_away_and_put_back(stage: Stage, asked: str, *, as_user: bool) -> None:
    Service()(stage)
    rule = faults.destination_drop()
    rule(stage)
    loop = Loop(stage, asked=(asked,), as_user=as_user)
    loop.shown(r"BLOCKED: .*destination\.firewall-drop")
    stage.destination.nft("flush ruleset")
    loop.shown("OPEN")
    rule(stage)
    loop.shown(r"BLOCKED: .*destination\.firewall-drop", 2)
    found = documents(loop.end(), interrupted="source")
    for document in found.values():
        assert story(document) == [("blocked", FIREWALL), ("open",), ("blocked", FIREWALL)]
        assert document["status"] == "blocked"
        changed = [reasons(entry) for entry in document["watch"]]
        # Only root is told of rules; a user's test that is repeated anyway finds it out.
        told = set() if as_user else {("firewall", "destination")}
        assert changed == [set(), told, told]


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
def test_a_service_stopped_and_started(stage: Stage, *, as_user: bool) -> None:
    service = Service()
    program = service(stage)
    loop = Loop(stage, as_user=as_user)
    loop.shown("OPEN")
    program.send_signal(signal.SIGTERM)
    loop.shown(r"BLOCKED: .*service\.not-running")
    service(stage)
    loop.shown("OPEN", 2)
    found = documents(loop.end("destination"), interrupted="destination")
    for document in found.values():
        assert story(document) == [("open",), ("blocked", DOWN), ("open",)]
        _, stopped, started = document["watch"]
        assert reasons(stopped) == {("ended", "destination")}
        assert [change["port"] for change in stopped["changed"]] == [4242]
        assert reasons(started) == {("listening", "destination")}


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
def test_an_address_taken_away_and_put_back(stage: Stage, *, as_user: bool) -> None:
    # The contact lives on: it is taken up again when the address is back.
    Service()(stage)
    loop = Loop(stage, as_user=as_user)
    loop.shown("OPEN")
    host, address = stage.source, f"{stage.source_address}/24 dev {DEVICE}"
    host.ip([f"address del {address}", f"address add {address}"])
    host.ip([f"address add 192.168.7.77/24 dev {DEVICE}"])
    loop.shown("An address of the source changed")
    found = documents(loop.end(), interrupted="source")
    for document in found.values():
        assert document["status"] == "open"
        assert any(("address", "source") in reasons(entry) for entry in document["watch"])


def test_a_route_and_an_interface(stage: Stage) -> None:
    Service()(stage)
    loop = Loop(stage, as_user=True)
    loop.shown("OPEN")
    stage.source.ip([f"route add 10.9.0.0/16 dev {DEVICE}"])
    loop.shown("A route of the source changed")
    loop.shown("still OPEN")
    stage.destination.ip(["link add name dummy0 type bridge", "link set dev dummy0 up"])
    loop.shown("A network interface of the destination changed")
    found = documents(loop.end(), interrupted="source")
    assert found["destination"]["status"] == "open"


def test_a_suspect_that_was_not_it_is_listed_too(stage: Stage) -> None:
    Service()(stage)
    faults.destination_drop()(stage)
    loop = Loop(stage)
    loop.shown("BLOCKED")
    faults.source_drop(port=9)(stage)
    loop.shown("A rule of the source's firewall changed")
    loop.shown("still BLOCKED")
    (_, second) = documents(loop.end(), interrupted="source")["source"]["watch"]
    assert reasons(second) == {("firewall", "source")}
    assert second["status"] == "blocked"


def test_rules_of_the_older_iptables(stage: Stage) -> None:
    Service()(stage)
    rule = ["INPUT", "-p", "tcp", "--dport", "4242", "-j", "DROP"]
    stage.destination.run(["iptables-legacy", "-A", *rule])
    loop = Loop(stage)
    loop.shown("BLOCKED")
    stage.destination.run(["iptables-legacy", "-D", *rule])
    loop.shown("OPEN")
    found = documents(loop.end(), interrupted="source")
    assert story(found["source"]) == [("blocked", FIREWALL), ("open",)]


TAKE = """
import os, signal, socket, sys
with socket.socket() as sock:  # without SO_REUSEADDR
    sock.bind(("0.0.0.0", int(sys.argv[1])))
    sock.listen()
    os.write(3, b"ready")
    while True:
        sock.accept()[0].close()
"""


def test_our_own_listeners_leave_nothing_in_the_way_of_the_service(stage: Stage) -> None:
    loop = Loop(stage)
    loop.shown(r"BLOCKED: .*service\.not-running")
    faults.source_drop(port=9)(stage)  # has it tested again
    loop.shown("still BLOCKED")
    stage.destination.popen_ready([sys.executable, "-c", TAKE, "4242"])
    loop.shown("A program began to listen on TCP 4242 on the destination")
    documents(loop.end(), interrupted="source")


# -- nothing changes


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("service", [True, False])
def test_our_own_doing_is_no_change(stage: Stage, *, service: bool, as_user: bool) -> None:
    # Without a service our own listeners come and go on the very port.
    if service:
        Service()(stage)
    loop = Loop(stage, as_user=as_user)
    loop.shown("OPEN" if service else "BLOCKED")
    time.sleep(8)  # long enough for two further tests, which must bring nothing new
    found = documents(loop.end(), interrupted="source")
    for document in found.values():
        assert len(document["watch"]) == 1, document["watch"]


# -- the end


def test_the_other_side_is_told_that_it_stays_too(stage: Stage) -> None:
    Service()(stage)
    loop = Loop(stage, asked=("destination",))
    loop.shown("OPEN")
    assert "--watch" in loop.sides["source"].stderr
    assert "asked to keep testing" not in loop.sides["destination"].stderr
    documents(loop.end("destination"), interrupted="destination")


def test_an_interrupt_before_the_first_verdict_is_as_without(stage: Stage) -> None:
    destination = agents.destination(stage, "--watch", peer=False)
    until("listens", lambda: listens(stage.destination), destination)
    destination.send_signal(signal.SIGINT)
    (result,) = agents.finish([destination])
    assert result.code == INTERRUPTED
    assert result.document is not None
    assert "watch" not in result.document


@pytest.mark.parametrize("victim", ["source", "destination"])
def test_a_side_that_is_killed(stage: Stage, victim: str) -> None:
    Service()(stage)
    loop = Loop(stage)
    loop.shown("OPEN")
    loop.sides.pop(victim).kill()
    (result,) = agents.finish(list(loop.sides.values()), ENDS_WITHIN)
    document = result.document
    assert document is not None, result.stderr
    validate(document)
    assert not result.flaws, (result.flaws, result.stderr)
    assert result.code == UNDETERMINED
    assert document["contact"]["lost"] is True
    assert document["verdict_id"] is None
    assert story(document) == [("open",)]
    assert "open" in document["summary"]


def test_the_screen_of_a_person(stage: Stage) -> None:
    Service()(stage)
    rule = faults.destination_drop()
    rule(stage)
    hosts = {"destination": stage.destination, "source": stage.source}
    peers = {"destination": stage.source_address, "source": stage.destination_address}
    pair = []
    for side, host in hosts.items():
        host.write("/run/code", agents.CODE, mode=0o600)
        ports = ["4242"] if side == "destination" else []
        common = ["--watch", "--no-mdns", "--code-file", "/run/code", "--peer", peers[side]]
        pair.append(agents.agent(host, side, *ports, *common, piped=True))
    for process in pair:
        process.wait_for_output("What to do|On the destination")
        process.wait_for_output("Ctrl-C ends both sides")
    stage.destination.nft("flush ruleset")
    for process in pair:
        process.wait_for_output(r"A rule of the destination's firewall changed\.\n.*  OPEN\n")
    pair[0].send_signal(signal.SIGINT)
    results = agents.finish(pair)
    assert [result.code for result in results] == [INTERRUPTED, OPEN]
    for result in results:
        assert re.search(r"What changed when:\n  .*BLOCKED: .*\n.*\n.*OPEN\n", result.stdout)


AT_A_TERMINAL = """
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "-m", "bothends", *sys.argv[1:]])
page = b""
def read_until(words):
    global page
    while words not in page:
        data = os.read(terminal, 65536)
        os.write(1, data)
        page += data
read_until(b"Any key tests at once")
os.write(terminal, b"x")
read_until(b"A key was pressed on the source.")
os.write(terminal, b"q")
read_until(b"What changed when:")
try:
    while data := os.read(terminal, 65536):
        os.write(1, data)
except OSError:  # the other end is closed
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_keys_at_a_terminal(stage: Stage) -> None:
    Service()(stage)
    destination = agents.destination(stage, peer=False)
    stage.source.write("/run/code", agents.CODE, mode=0o600)
    words = ["source", "--watch", "--no-mdns", "--code-file", "/run/code"]
    source = stage.source.popen(
        [sys.executable, "-c", AT_A_TERMINAL, *words, "--peer", stage.destination_address],
        piped=True,
    )
    assert source.wait() == OPEN, source.stdout
    (result,) = agents.finish([destination])
    assert not result.flaws, (result.flaws, result.stderr)
    assert result.code == OPEN
    assert result.document is not None
    first, second = result.document["watch"]
    assert reasons(first) == set()
    assert reasons(second) == {("key", "source")}
    assert "still OPEN" in source.stdout
