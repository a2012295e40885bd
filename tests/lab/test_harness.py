"""The lab itself: hosts are computers of their own, faults do what they say, nothing stays."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import faults, network, serve
from .agents import Result
from .cli import Line, _show_matrix
from .faults import ADMIN, PORT_UNREACHABLE, RESET
from .grading import DIRECTIONS, Expected, Grade, blocked, both_ways, grade, open_, undetermined
from .hosts import REPOSITORY, CommandError, Lab, LabError, Process
from .network import Stage, lan, lan6
from .scenario import BOTH
from .scenarios import SCENARIOS, by_name
from .services import Service, avahi, browse

pytestmark = pytest.mark.lab

ATTEMPT = """
import socket, sys
address, port = sys.argv[1:]
try:
    connection = socket.create_connection((address, int(port)), 0.4)
    connection.settimeout(0.4)
    print("connected", connection.recv(100).decode().strip())
except OSError as error:
    print(type(error).__name__)
"""
"""What a client of the service sees."""

CONNECTED = "connected 220 lab service ready"
DROPPED, REFUSED, NO_ROUTE = "TimeoutError", "ConnectionRefusedError", "OSError"


def attempt(stage: Stage, port: int = 4242) -> str:
    return stage.source.python(ATTEMPT, stage.destination_address, str(port)).stdout.strip()


# -- hosts


def test_a_host_has_only_its_own_network_processes_names_and_files(lab: Lab) -> None:
    host = lab.host("somebody")
    seen = host.run(["sh", "-c", "ls /sys/class/net; hostname; cat /etc/hostname"]).stdout
    assert seen.split() == ["lo", "somebody", "somebody"]
    assert host.pids() == []
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        assert host.run(["test", "-e", file.name], check=False).code == 1


def test_what_a_host_writes_is_not_written_on_the_machine(lab: Lab) -> None:
    mark = uuid.uuid4().hex
    for path in (f"/etc/{mark}", f"/run/{mark}", f"/tmp/{mark}"):
        lab.host("a").write(path, mark)
        assert lab.host("a").read(path) == mark
        assert not Path(path).exists()
    lab.host("a").know("somewhere.example", "192.168.7.9")
    assert "somewhere.example" not in Path("/etc/hosts").read_text(encoding="utf-8")
    resolved = lab.host("a").run(["getent", "hosts", "somewhere.example"], as_user=True).stdout
    assert resolved.split()[0] == "192.168.7.9"


def test_the_ordinary_user_has_no_capability_and_can_get_none(lab: Lab) -> None:
    done = lab.host("a").run(
        ["sh", "-c", "id -u; id -G; grep ^Cap /proc/self/status"], as_user=True
    )
    uid, groups, *capabilities = done.stdout.splitlines()
    assert (uid, groups) == ("65534", "65534")
    assert {int(line.split()[1], 16) for line in capabilities} == {0}


def test_the_ordinary_user_can_run_the_agent_package(lab: Lab) -> None:
    lab.host("a").python("import bothends, bothends_protocol", as_user=True)


@pytest.mark.parametrize(
    "closed", [{"outer"}, {"inner"}, {"outer", "inner"}, {"outer", "inner", "sub", "file"}, {"sub"}]
)
def test_the_ordinary_user_reaches_what_is_kept_below_closed_directories(
    lab: Lab, tmp_path: Path, closed: set[str]
) -> None:
    outer = tmp_path / "outer"
    inner = outer / "inner"
    sub = inner / "sub"
    sub.mkdir(parents=True)
    file = sub / "file"
    file.write_text("seen", encoding="ascii")
    (inner / "link").symlink_to("sub/file")
    for path in (outer, inner, sub, file):
        path.chmod(0o700 if path.name in closed else 0o755)
    host = lab.host("a", keep=[str(inner)])
    seen = host.run(["cat", str(inner / "link")], as_user=True, check=False)
    if "sub" in closed and "inner" not in closed:
        assert "Permission denied" in seen.stderr, "not a umask: somebody closed it on purpose"
    else:
        assert seen.stdout == "seen"
    assert stat.S_IMODE(file.stat().st_mode) == (0o700 if "file" in closed else 0o755)


STATES = {"Name", "Umask", "Uid", "Gid", "Groups", "Threads", "SigBlk", "SigIgn", "SigCgt"}
STATES |= {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"}
LOOK = "cd /proc/$0; readlink exe cwd root; cut -d' ' -f6,7 stat | sed s/$0/self/; ls fd | head -3"
WAITER = "import os, signal; os.write(3, b'ready'); signal.pause()"


def looks(process: Process, *, as_user: bool) -> tuple[list[str], str]:
    """What another process of the host sees of it."""
    status = process.host.read(f"/proc/{process.pid}/status").splitlines()
    seen = process.host.run(["sh", "-c", LOOK, str(process.pid)], as_user=as_user)
    return [line for line in status if line.partition(":")[0] in STATES], seen.stdout


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
def test_a_program_of_the_lab_is_just_like_one_that_was_started(lab: Lab, *, as_user: bool) -> None:
    host = lab.host("a")
    interpreter = [sys.executable, "-IS"]
    argv = [*interpreter, serve.__file__, "--port", "4242", "--bind", "127.0.0.1"]
    forked = host.popen_ready(argv, as_user=as_user)
    started = host.popen_ready([*interpreter, "-c", WAITER], as_user=as_user)
    assert looks(forked, as_user=as_user) == looks(started, as_user=as_user)
    shown = host.read(f"/proc/{forked.pid}/cmdline")
    assert shown.rstrip("\0").split("\0") == argv
    forked.send_signal(signal.SIGTERM)
    assert forked.wait() == -signal.SIGTERM


def test_a_program_of_the_lab_that_fails_says_why(lab: Lab) -> None:
    host = lab.host("a")
    argv = [sys.executable, "-IS", serve.__file__, "--port", "4242"]
    wrong = host.run([*argv, "--mode", "none"], check=False)
    assert wrong.code == 2
    assert "invalid choice: 'none'" in wrong.stderr
    nowhere = host.run([*argv, "--bind", "192.168.7.9"], check=False)
    assert nowhere.code == 1
    assert "Cannot assign requested address" in nowhere.stderr


@pytest.mark.parametrize("name", ["tcp_max_tw_buckets", "tcp_max_syn_backlog"])
def test_a_small_table_of_connections_has_the_limits_of_the_machine(lab: Lab, name: str) -> None:
    path = f"/proc/sys/net/ipv4/{name}"
    assert lab.host("a").read(path) == Path(path).read_text(encoding="ascii")


def test_output_and_input_of_any_size_and_every_end_are_told(lab: Lab) -> None:
    host = lab.host("a")
    big = "x" * 3_000_000
    assert host.run(["cat"], stdin=big).stdout == big
    assert host.run(["sh", "-c", "exit 7"], check=False).code == 7
    assert host.run(["sh", "-c", "kill -9 $$"], check=False).code == -9
    assert host.run(["no-such-program"], check=False).code == 127
    with pytest.raises(CommandError, match="on a: 'false' ended with 1"):
        host.run(["false"])


def test_a_command_that_hangs_is_ended(lab: Lab) -> None:
    host = lab.host("a")
    with pytest.raises(TimeoutError, match="still running: sleep 60"):
        host.run(["sleep", "60"], timeout=0.1)
    assert host.pids() == []


def test_a_mistake_in_the_lab_is_told_as_one(lab: Lab) -> None:
    with pytest.raises(LabError, match="No such file"):
        lab.host("a").read("/no/such/file")
    with pytest.raises(LabError, match="Cannot find device"):
        lab.host("a").ip(["link set dev eth7 up"])


# -- nothing stays


def test_a_lab_takes_daemons_along(lab: Lab) -> None:
    host = lab.host("a")
    host.run(["sh", "-c", "setsid sh -c 'sleep 600 & sleep 600' & disown || true"], check=False)
    host.popen(["sleep", "600"])
    assert len(host.pids()) >= 2
    assert len(lab.left_behind()) >= 3
    lab.close()
    assert lab.left_behind() == []


KILLED = """
import sys, signal
sys.path.insert(0, sys.argv[1])
from lab.hosts import Lab
from lab.network import lan
lab = Lab()
stage = lan(lab)
stage.source.popen(["sh", "-c", "setsid sleep 600 & sleep 600"])
print(*lab.left_behind(), flush=True)
signal.pause()
"""


@pytest.mark.usefixtures("_lab_works")
def test_a_lab_ends_with_its_process_even_if_that_is_killed() -> None:
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, tests], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        pids = [int(pid) for pid in child.stdout.readline().split()]
        pidfds = [os.pidfd_open(pid) for pid in pids]
        child.kill()
    assert len(pids) >= 4
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 10)[0], "a process of the lab goes on"
        os.close(pidfd)


def test_two_labs_with_the_same_names_and_addresses_do_not_meet(stage: Stage) -> None:
    with Lab() as other:
        twin = lan(other)
        Service()(twin)
        assert attempt(twin) == CONNECTED
        assert attempt(stage) == REFUSED


# -- networks


@pytest.mark.parametrize(
    "builder", [lan, lan6, network.dual, network.routed, network.lan_and_third, network.home_pair]
)
def test_hosts_reach_each_other_at_once(
    stage_of: Callable[[network.Builder], Stage], builder: network.Builder
) -> None:
    stage = stage_of(builder)
    reply = stage.source.run(["ping", "-c", "1", "-W", "2", stage.destination_address])
    assert " 0% packet loss" in reply.stdout


def test_a_lonely_host_reaches_nobody(stage_of: Callable[[network.Builder], Stage]) -> None:
    stage = stage_of(network.lonely)
    reply = stage.source.run(["ping", "-c", "1", "-W", "1", "192.168.7.20"], check=False)
    assert "unreachable" in reply.stderr


def test_home_routers_translate_and_forward(lab: Lab) -> None:
    stage = network.home_pair(lab, forwards=["tcp dport 4242 dnat ip to 192.168.1.20"])
    Service()(stage)
    assert attempt(stage) == CONNECTED
    assert attempt(stage, 4243) == REFUSED


def test_each_router_is_one_hop(lab: Lab) -> None:
    stage = network.routed(lab, routers=3)
    for hops, answers in ((3, False), (4, True)):
        argv = ["ping", "-c", "1", "-W", "2", "-t", str(hops), stage.destination_address]
        assert (stage.source.run(argv, check=False).code == 0) == answers


# -- faults

ECHO = Service()

FAULTS: list[tuple[faults.Fault, str, str]] = [
    (faults.destination_drop(), "destination", DROPPED),
    (faults.destination_reject(RESET), "destination", REFUSED),
    (faults.destination_reject(PORT_UNREACHABLE), "destination", REFUSED),
    (faults.destination_reject(ADMIN), "destination", NO_ROUTE),
    (faults.destination_drop_raw(), "destination", DROPPED),
    (faults.destination_drop_at_card(), "destination", DROPPED),
    (faults.destination_drop_replies(), "destination", DROPPED),
    (faults.destination_drop("{ 80, 4242 }"), "destination", DROPPED),
    (faults.default_deny("tcp dport 24242"), "destination", DROPPED),
    (faults.no_neighbour, "destination", DROPPED),
    (faults.source_drop(), "source", DROPPED),
    (faults.source_reject(RESET), "source", REFUSED),
    (faults.source_reject(PORT_UNREACHABLE), "source", REFUSED),
    (faults.source_reject(ADMIN), "source", NO_ROUTE),
    (faults.source_drop_at_card(), "source", DROPPED),
    (faults.source_drop_replies(), "source", DROPPED),
    (faults.loss(100), "switch", DROPPED),
]


@pytest.mark.parametrize(("fault", "on", "seen"), FAULTS)
def test_a_fault_on_a_host_blocks(stage: Stage, fault: faults.Fault, on: str, seen: str) -> None:
    ECHO(stage)
    assert attempt(stage) == CONNECTED
    fault(stage)
    assert attempt(stage) == seen
    assert faults.hits(stage, on) > 0


@pytest.mark.parametrize("fault", [faults.isolated, faults.no_way_back])
def test_a_fault_without_rules_blocks(stage: Stage, fault: faults.Fault) -> None:
    ECHO(stage)
    fault(stage)
    assert attempt(stage) == DROPPED


@pytest.mark.parametrize(
    ("fault", "on", "seen"),
    [
        (faults.path_drop(), "router1", DROPPED),
        (faults.path_drop(router=2), "router2", DROPPED),
        (faults.path_reject(ADMIN, router=2), "router2", NO_ROUTE),
        (faults.path_reject(RESET), "router1", REFUSED),
        (faults.path_drop_replies(), "router1", DROPPED),
    ],
)
def test_a_fault_on_the_way_blocks(lab: Lab, fault: faults.Fault, on: str, seen: str) -> None:
    stage = network.routed(lab, routers=2)
    ECHO(stage)
    fault(stage)
    assert attempt(stage) == seen
    assert faults.hits(stage, on) > 0


@pytest.mark.parametrize("builder", [lan, lan6])
def test_default_deny_lets_in_what_is_allowed(
    stage_of: Callable[[network.Builder], Stage], builder: network.Builder
) -> None:
    stage = stage_of(builder)
    Service(bind=("::",), dual=True)(stage)
    faults.default_deny("tcp dport 4242")(stage)
    assert attempt(stage) == CONNECTED
    assert attempt(stage, 4243) == DROPPED


def test_rules_for_others_do_not_block(stage: Stage) -> None:
    ECHO(stage)
    rule = "{from_source} udp dport 4242 counter drop"
    for other in (
        faults.destination_drop(4243),
        faults.rules("destination", "input", rule, "ip saddr 192.168.7.99 counter drop"),
    ):
        other(stage)
    assert attempt(stage) == CONNECTED
    assert faults.hits(stage, "destination") == 0


def test_loss_loses_about_its_share(stage: Stage) -> None:
    # The two know each other's hardware address first: while it is asked for, which after a loss
    # is once a second, packets wait for it in a queue that is shorter than what is sent here.
    stage.source.run(["ping", "-q", "-c", "1", stage.destination_address])
    faults.loss(20)(stage)
    reply = stage.source.run(
        ["ping", "-q", "-i", "0.002", "-c", "300", "-W", "1", stage.destination_address]
    )
    received = int(reply.stdout.split(" received")[0].split()[-1])
    assert 140 <= received <= 240, "0.8 x 0.8 x 300 = 192, standard deviation 8"


BULK = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 4242), 5)
data, got = b"x" * 300_000, b""
connection.settimeout(5)
banner = connection.recv(100)
connection.sendall(data)
while len(got) < len(data):
    got += connection.recv(65536)
print(len(got))
"""


def test_delay_delays_and_passes_everything(stage: Stage) -> None:
    ECHO(stage)
    faults.delay(30)(stage)
    reply = stage.source.run(["ping", "-c", "3", "-i", "0.1", stage.destination_address]).stdout
    assert float(reply.split(" = ")[1].split("/")[0]) >= 30
    assert attempt(stage) == CONNECTED
    assert stage.source.python(BULK, stage.destination_address).stdout == "300000\n"


# -- services


@pytest.mark.parametrize(
    ("service", "seen"),
    [
        (Service(), CONNECTED),
        (Service(as_user=True), CONNECTED),
        (Service(mode="silent"), DROPPED),
        (Service(mode="closes"), "connected"),
        (Service(mode="hung"), DROPPED),
        (Service(mode="full"), DROPPED),
        (Service(stopped=True), DROPPED),
        (Service(bind=("127.0.0.1",)), REFUSED),
        (Service(bind=("destination",)), CONNECTED),
        (Service(bind=("::",)), REFUSED),
        (Service(bind=("::",), dual=True), CONNECTED),
    ],
)
def test_a_service_does_what_it_says(stage: Stage, service: Service, seen: str) -> None:
    service(stage)
    assert attempt(stage) == seen


def test_a_service_can_bear_any_name(stage: Stage) -> None:
    process = Service(title="backupd")(stage)
    assert stage.destination.read(f"/proc/{process.pid}/comm") == "backupd\n"


def test_a_service_that_cannot_start_is_a_mistake_in_the_lab(stage: Stage) -> None:
    with pytest.raises(LabError, match=r"not ready(.|\n)*Cannot assign requested address"):
        Service(bind=("192.168.7.99",))(stage)


def test_avahi_on_one_host_is_heard_by_avahi_on_another(stage: Stage) -> None:
    for end in ("source", "destination"):
        avahi(end)(stage)
    stage.destination.popen(["avahi-publish", "-s", "a thing", "_lab._tcp", "4242", "key=value"])
    browser = browse(stage.source, "_lab._tcp")
    found = browser.wait_for_output(r"(?m)^=;eth0;IPv4;.*\n").group()
    assert stage.destination_address in found
    assert "4242" in found


# -- grading


def _document(
    status: str, *blockers: str, candidates: tuple[str, ...] = (), **other: Any
) -> dict[str, Any]:
    reachable = {"open": "yes", "blocked": "no"}.get(status, "unknown")
    return {
        "format": "bothends-verdict/1",
        "verdict_id": "00",
        "status": status,
        "reachable": reachable,
        "blockers": list(blockers),
        "warnings": [],
        "candidates": [*blockers, *candidates],
        "summary": "A sentence.",
        "checks": [],
        **other,
    }


def _result(
    document: dict[str, Any] | None, *, code: int | None = None, stderr: str = ""
) -> Result:
    statuses = {"open": 0, "blocked": 1, "undetermined": 3, "no-contact": 4}
    stdout = "" if document is None else json.dumps(document)
    status = statuses[document["status"]] if document is not None else 1
    return Result("source", status if code is None else code, stdout, stderr, 0.3, 50_000)


DROP, GONE, OTHER = "destination.firewall-drop", "service.not-running", "network.drop"


@pytest.mark.parametrize(
    ("expected", "document", "grade_"),
    [
        (open_(), _document("open"), Grade.RIGHT),
        (open_(), _document("undetermined"), Grade.UNKNOWN),
        (open_(), _document("blocked", DROP), Grade.WRONG),
        (open_(), _document("no-contact"), Grade.WRONG),
        (open_(), _document("open", warnings=["network.loss"]), Grade.WRONG),
        (open_(), _document("open", reachable="no"), Grade.WRONG),
        (blocked(DROP), _document("blocked", DROP), Grade.RIGHT),
        (blocked(DROP), _document("blocked", GONE), Grade.WRONG),
        (blocked(DROP), _document("blocked", DROP, GONE), Grade.WRONG),
        (blocked(DROP), _document("blocked"), Grade.WRONG),
        (blocked(DROP), _document("open"), Grade.WRONG),
        (blocked(DROP), _document("undetermined", candidates=(OTHER, DROP)), Grade.UNKNOWN),
        (blocked(DROP), _document("undetermined", candidates=(OTHER,)), Grade.WRONG),
        (blocked(DROP), _document("undetermined", DROP), Grade.WRONG),
        (blocked(DROP, GONE), _document("blocked", GONE, DROP), Grade.RIGHT),
        (blocked(DROP, GONE), _document("blocked", GONE), Grade.PARTIAL),
        (blocked(DROP, also=[GONE]), _document("blocked", DROP), Grade.RIGHT),
        (blocked(DROP, also=[GONE]), _document("blocked", DROP, GONE), Grade.RIGHT),
        (blocked(DROP, also=[GONE]), _document("blocked", GONE), Grade.PARTIAL),
        (undetermined(DROP), _document("undetermined", candidates=(DROP, OTHER)), Grade.RIGHT),
        (undetermined(DROP), _document("undetermined", candidates=(OTHER,)), Grade.WRONG),
        (undetermined(DROP), _document("blocked", DROP), Grade.RIGHT),
        (undetermined(DROP), _document("blocked", OTHER), Grade.WRONG),
        (undetermined(DROP, GONE), _document("undetermined", candidates=(DROP,)), Grade.UNKNOWN),
        (blocked(DROP).relaxed(), _document("undetermined", candidates=(DROP,)), Grade.UNKNOWN),
        (
            blocked(GONE, also=[DROP], candidates=[DROP]),
            _document("blocked", GONE, candidates=(DROP,)),
            Grade.RIGHT,
        ),
        (
            blocked(GONE, also=[DROP], candidates=[DROP]),
            _document("blocked", GONE),
            Grade.PARTIAL,
        ),
    ],
)
def test_grades(expected: Expected, document: dict[str, Any], grade_: Grade) -> None:
    graded = grade(expected, [_result(document), _result(document)])
    assert graded.grade == grade_, graded


def _ways(forth: tuple[str, ...], back: tuple[str, ...]) -> dict[str, Any]:
    return {
        "directions": {
            name: {"status": "blocked" if named else "open", "blockers": list(named)}
            for name, named in zip(DIRECTIONS, (forth, back), strict=True)
        }
    }


@pytest.mark.parametrize(
    ("document", "grade_"),
    [
        (_document("blocked", DROP, **_ways((), (DROP,))), Grade.RIGHT),
        (_document("blocked", DROP, **_ways((DROP,), ())), Grade.WRONG),
        (_document("blocked", DROP, **_ways((DROP,), (DROP,))), Grade.WRONG),
        (_document("blocked", DROP), Grade.WRONG),
        (_document("blocked", GONE, **_ways((), (GONE,))), Grade.WRONG),
        (_document("open", **_ways((), ())), Grade.WRONG),
    ],
)
def test_grades_of_two_directions(document: dict[str, Any], grade_: Grade) -> None:
    expected = both_ways(open_(), blocked(DROP))
    graded = grade(expected, [_result(document), _result(document)])
    assert graded.grade == grade_, graded
    other = _document("blocked", DROP, **_ways((), (DROP,)))
    both = grade(expected, [_result(document), _result(other)]).grade
    assert both == (Grade.RIGHT if document == other else Grade.WRONG)


def test_directions_that_nobody_asked_for_are_wrong() -> None:
    document = _document("open", **_ways((), ()))
    assert grade(open_(), [_result(document)] * 2).grade == Grade.WRONG


def test_an_address_that_does_not_decide_must_be_shown() -> None:
    expected = dataclasses.replace(open_(), further=(("fd07::20", DROP),))
    dead = {
        "direction": DIRECTIONS[0],
        "address": "fd07::20",
        "primary": False,
        "status": "blocked",
        "blockers": [{"code": DROP}],
        "candidates": [DROP],
    }
    for checks, grade_ in (
        ([dead], Grade.RIGHT),
        ([], Grade.PARTIAL),
        ([{**dead, "primary": True}], Grade.PARTIAL),
        ([{**dead, "blockers": [{"code": GONE}]}], Grade.PARTIAL),
    ):
        document = _document("open", checks=checks)
        assert grade(expected, [_result(document)] * 2).grade == grade_


def test_what_is_wrong_whatever_the_verdict_says() -> None:
    good = _document("open")
    for results in (
        [_result(good), _result(_document("open", summary="Another sentence."))],
        [_result(good), _result(_document("open", checks=[{"b": 1, "a": 2}]))],
        [_result(good), _result(good, code=1)],
        [_result(good), _result(good, stderr="Traceback (most recent call last):")],
        [_result(good), _result(None)],
        [_result(good), _result({key: value for key, value in good.items() if key != "checks"})],
    ):
        assert grade(open_(), results).grade == Grade.WRONG


# -- the table and its runner


def test_the_table_is_large_and_its_user_forms_say_less() -> None:
    assert len(SCENARIOS) >= 18
    for name in SCENARIOS:
        row = by_name(f"{name.partition('@')[0]}@users")
        assert row.users == BOTH


def test_the_matrix_counts_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        Line("a", Grade.RIGHT, DROP, (DROP,), 0.3, 0.2, 0.1, ""),
        Line("b", Grade.WRONG, DROP, (OTHER,), 0.5, 0.3, 0.1, ""),
        Line("c", Grade.RIGHT, "open", ("open",), 0.2, 0.2, 0.1, ""),
    ]
    _show_matrix(lines)
    header, drop, opened, total = capsys.readouterr().out.strip().splitlines()
    assert header.split()[:5] == ["expected", "right", "partial", "unknown", "wrong"]
    times = ["0.40", "s", "0.25", "s", "0.30", "s"]
    assert drop.split() == [DROP, "1", "0", "0", "1", *times, OTHER, "(1)"]
    assert opened.split()[1] == "1"
    assert total.split()[1:5] == ["2", "0", "0", "1"]


@pytest.mark.usefixtures("_lab_works")
def test_the_runner_leaves_nothing_when_interrupted() -> None:
    mark = f"MARK_{uuid.uuid4().hex}"
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "lab", "open", "--times", "500", "--jobs", "2"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "tests"), mark: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as runner:
        assert runner.stdout is not None
        runner.stdout.readline()
        pidfds = [os.pidfd_open(pid) for pid in _marked(mark) if pid != runner.pid]
        runner.send_signal(signal.SIGINT)
        output = runner.stdout.read().decode()
        assert runner.wait() == 130, output
    assert len(pidfds) >= 2
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 10)[0], "a process of the lab goes on"
        os.close(pidfd)


def _marked(mark: str) -> list[int]:
    """Processes that were started with this variable in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has just ended
            continue
    return found
