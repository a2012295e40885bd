"""`bothends demo`: whoever runs it, it finds what it put in and leaves nothing behind.

The real command runs as the user would start it. Every process that a run
starts inherits a mark in its environment, by which the tests find it, and see
that it is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bothends import demo
from bothends.cli import run
from bothends.demo import FAULTS
from schema import validate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

COMMAND = (sys.executable, "-P", "-m", "bothends", "demo")
WITHOUT_TOOLS = (
    sys.executable,
    "-P",
    "-c",
    "import sys; from bothends import cli, demo; demo.SBIN = (); sys.exit(cli.run(sys.argv[1:]))",
    "demo",
)
"""The command where ip and nft are in no folder; goes with an empty PATH."""

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
POWERLESS = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
"""Root without any capability, as in a container: the kernel lets it make no namespaces."""
NO_SBIN = "/usr/local/bin:/usr/bin:/bin"
"""An ordinary user's PATH."""

SECONDS = 30.0
"""For a run, which takes one."""
MARK = "BOTHENDS_DEMO_TEST"

PAIRS = [
    f"{wall.name}+{service.name}"
    for wall in FAULTS
    for service in FAULTS
    if (wall.kind, service.kind) == ("firewall", "service")
]
SINGLE = [fault.name for fault in FAULTS]
WITHOUT_FIREWALL = [fault.name for fault in FAULTS if fault.kind != "firewall"]


# --- running it ------------------------------------------------------------------------------


@dataclasses.dataclass
class Running:
    """A run under way; `mark` is in the environment of all its processes."""

    process: subprocess.Popen[str]
    mark: str

    def pids(self) -> list[int]:
        return marked(self.mark)


@contextlib.contextmanager
def started(*argv: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Start a run in a process group of its own; afterwards no process of it may live."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {}), MARK: mark},
        start_new_session=True,
    )
    try:
        with process:
            yield Running(process, mark)
        assert marked(mark) == []
    finally:
        for pid in marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Processes with the mark; those that have ended and were not waited for have none."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def finished(*argv: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run to the end. Whatever came of it, there is no traceback."""
    with started(*argv, env=env) as running:
        try:
            out, err = running.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            running.process.kill()
            raise
    assert "Traceback" not in err, err
    assert "Error" not in err, err
    return subprocess.CompletedProcess(argv, running.process.returncode, out, err)


# --- where it can run ------------------------------------------------------------------------


@functools.cache
def _why_not() -> str | None:
    """What keeps this user from two computers, asked of the system's own programs."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [tool for tool in ("ip", "nft", "unshare") if not shutil.which(tool, path=path)]
    if missing:
        return f"not installed: {' '.join(missing)}"
    if not any(_works("unshare", *flags, "true") for flags in (["-n"], ["-Urn"])):
        return "no network namespaces for this user"
    return None


def _works(*argv: str) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def _computers() -> None:
    reason = _why_not()
    if reason and os.environ.get("CI"):
        pytest.fail(f"the demo cannot run here: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"the demo cannot run here: {reason}")


@pytest.fixture
def _powerless() -> None:
    if not _works(*POWERLESS, "true"):
        pytest.skip("needs root, to become root without capabilities")


lab = pytest.mark.lab
two_computers = pytest.mark.usefixtures("_computers")


@pytest.fixture
def _nobody(_computers: None) -> None:
    if not _works(*NOBODY, "true"):
        pytest.skip("needs root, to become an ordinary user")
    if not _works(*NOBODY, sys.executable, "-P", "-c", "import bothends.command"):
        pytest.skip("an ordinary user may not read this checkout or its Python")
    if not _works(*NOBODY, "unshare", "-Urn", "true"):
        pytest.skip("the system allows ordinary users no user namespaces")


# --- it finds what it put in -----------------------------------------------------------------


def causes(name: str) -> set[str]:
    return {fault.cause for fault in FAULTS if fault.name in name.split("+") and fault.cause}


def found(document: Mapping[str, Any]) -> set[str]:
    return set(document["blockers"])


@lab
@two_computers
@pytest.mark.parametrize("name", [*SINGLE, *PAIRS])
def test_each_fault_is_found(name: str) -> None:
    done = finished(*COMMAND, name, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    validate(document)
    assert found(document) == causes(name)
    assert document["status"] == ("blocked" if causes(name) else "open")
    assert "stand in" not in done.stderr
    assert document["destination"]["hostname"] == "server"


@lab
@pytest.mark.usefixtures("_nobody")
@pytest.mark.parametrize("name", [*SINGLE, PAIRS[0]])
def test_each_fault_is_found_by_an_ordinary_user(name: str) -> None:
    done = finished(*NOBODY, *COMMAND, name, "--json", env={"PATH": NO_SBIN, "HOME": "/"})
    assert done.returncode == 0, done.stderr
    assert found(json.loads(done.stdout)) == causes(name)
    assert "stand in" not in done.stderr


@lab
@two_computers
def test_the_story() -> None:
    done = finished(*COMMAND)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "  source       laptop, 192.168.7.10" in lines
    assert "  destination  server, 192.168.7.20, with a service: echo on TCP 4242" in lines
    assert "  (nftables on the destination, input: tcp dport 4242 drop)" in lines
    assert any(line.startswith("BLOCKED: TCP port 4242 at 192.168.7.20") for line in lines)
    assert lines[-1] == "Found exactly what was put in: destination.firewall-drop."


@lab
@two_computers
def test_a_code_names_a_fault_too() -> None:
    done = finished(*COMMAND, "Service.loopback-only + source.firewall-reject", "--json")
    assert done.returncode == 0
    assert found(json.loads(done.stdout)) == {"service.loopback-only", "source.firewall-reject"}


@lab
@two_computers
def test_the_machine_gets_no_interface() -> None:
    def interfaces() -> list[str]:
        return re.findall(r"^ *([^: ]+):", Path("/proc/net/dev").read_text(), re.MULTILINE)

    before = interfaces()
    with started(*COMMAND, "open") as running:
        while running.process.poll() is None:
            assert interfaces() == before
        assert running.process.returncode == 0
    assert interfaces() == before


# --- loopback instead ------------------------------------------------------------------------


def test_without_ip_and_nft_loopback_stands_in() -> None:
    done = finished(*WITHOUT_TOOLS, env={"PATH": ""})
    assert done.returncode == 0
    assert done.stderr == (
        "bothends: Loopback addresses stand in for two computers: ip and nft cannot be found "
        "(install iproute2 nftables for the full demo).\n"
    )
    assert "  destination  127.0.0.2, with a service: echo on TCP" in done.stdout
    assert done.stdout.endswith("Found exactly what was put in: service.loopback-only.\n")


@pytest.mark.parametrize("name", WITHOUT_FIREWALL)
def test_each_fault_without_a_firewall_is_found_on_loopback(name: str) -> None:
    done = finished(*WITHOUT_TOOLS, name, "--json", env={"PATH": ""})
    assert done.returncode == 0, done.stderr
    assert found(json.loads(done.stdout)) == causes(name)
    assert "stand in" in done.stderr


@pytest.mark.usefixtures("_nobody")
@pytest.mark.parametrize("name", WITHOUT_FIREWALL)
def test_an_ordinary_user_finds_them_on_loopback_too(name: str) -> None:
    become = (shutil.which(NOBODY[0]) or NOBODY[0], *NOBODY[1:])
    done = finished(*become, *WITHOUT_TOOLS, name, "--json", env={"PATH": "", "HOME": "/"})
    assert done.returncode == 0, done.stderr
    assert found(json.loads(done.stdout)) == causes(name)
    assert "stand in" in done.stderr


@pytest.mark.parametrize("name", ["source-reject", "destination-drop+not-running"])
def test_what_needs_a_firewall_is_refused_on_loopback(name: str) -> None:
    done = finished(*WITHOUT_TOOLS, name, env={"PATH": ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"bothends: The fault {name} cannot be set up here: ip and nft cannot be found (install "
        "iproute2 nftables for the full demo).\n"
    )


@lab
@pytest.mark.usefixtures("_computers", "_powerless")
def test_where_namespaces_are_not_allowed_it_says_why() -> None:
    done = finished(*POWERLESS, *COMMAND)
    assert done.returncode == 0
    assert "network namespaces cannot be made (Operation not permitted)." in done.stderr


@lab
@two_computers
def test_where_namespaces_are_used_up_it_says_so() -> None:
    if not _works("unshare", "-Ur", "true"):
        pytest.skip("needs a user namespace, to set its limit")
    limited = 'echo 0 >/proc/sys/user/max_net_namespaces && exec "$@"'
    done = finished("unshare", "-Ur", "sh", "-c", limited, "sh", *COMMAND)
    assert done.returncode == 0
    assert "(the system allows no more of them)." in done.stderr


def test_free_ports_are_free_and_different() -> None:
    ports = demo._free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        with socket.create_server(("", port)):
            pass


# --- what was typed --------------------------------------------------------------------------


def test_the_list_names_each_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [fault.name for fault in FAULTS]
    assert lines[-1].startswith("destination-drop+loopback-only ")
    assert [line for line in lines if "(the default)" in line] == [lines[1]]


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["faults"]] == [fault.name for fault in FAULTS]
    assert document["default"] == "destination-drop"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("firewall", "'firewall' is not a fault of the demo; these are: open, destination-drop,"),
        ("", "'' is not a fault"),
        ("open+", "'' is not a fault"),
        ("destination-drop+nothing", "'nothing' is not a fault"),
        ("source-drop+destination-drop", "source-drop and destination-drop would hide each other"),
        ("not-running+loopback-only", "not-running and loopback-only would hide each other"),
        ("open+not-running", "open and not-running would hide each other"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(
    typed: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", typed]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith(f"bothends: {says}")
    assert written.err.count("\n") == 1
    assert run(["demo", typed, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["status"] == "no-contact"


def test_the_same_fault_twice_is_one() -> None:
    assert demo._faults("open+open") == demo._faults("open")


# --- what the agents say is checked ----------------------------------------------------------

DOCUMENT: dict[str, Any] = {
    "verdict_id": "00ff",
    "status": "open",
    "reachable": "yes",
    "blockers": [],
    "warnings": [],
    "candidates": [],
    "summary": "The way is open.",
    "checks": [],
    "source": None,
    "destination": None,
    "contact": {"path": "direct", "lost": False},
}
Answers = Callable[[dict[str, Any], dict[str, Any]], None]
JSON = pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Puts words into the agents' mouths: changes to DOCUMENT, for source and destination."""

    def put(*changes: dict[str, Any]) -> None:
        documents = [{**DOCUMENT, **change} for change in changes]
        results = [demo._Result(json.dumps(document), document) for document in documents]
        monkeypatch.setattr(demo, "_run_agents", lambda *_: tuple(results))

    stage = demo._stand_ins("it is a test")
    monkeypatch.setattr(demo, "_set_up", lambda wanted, _: (stage, wanted))
    monkeypatch.setattr(demo, "_start_service", lambda *_: None)
    return put


def test_the_same_from_both_is_believed(
    answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    answers({}, {"contact": {"path": "direct", "lost": False, "local": "192.168.7.20"}})
    assert run(["demo", "open"]) == 0
    out = capsys.readouterr().out
    assert "OPEN: The way is open." in out
    assert out.endswith("No fault was put in, and none was found.\n")


@JSON
@pytest.mark.parametrize("key", demo.JOINT)
def test_two_verdicts_are_not_one(
    key: str, options: list[str], answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    answers({}, {key: "other"})
    assert run(["demo", "open", *options]) == 1
    written = capsys.readouterr()
    assert f"The two sides do not agree, they differ in {key}.\n" in written.err
    assert "none was found" not in written.out + written.err
    assert not options or json.loads(written.out) == DOCUMENT


def test_no_joint_verdict_is_a_failure(
    answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = {"verdict_id": None, "status": "no-contact", "summary": "Nobody answered."}
    answers(alone, alone)
    assert run(["demo", "open"]) == 1
    assert "came to no joint verdict. Nobody answered.\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "change", "says"),
    [
        ("not-running", {}, "Put in was service.not-running, found was no cause (open)"),
        (
            "open",
            {"status": "blocked", "blockers": ["network.drop"]},
            "Put in was no cause (open), found was network.drop",
        ),
        ("open", {"status": "undetermined"}, "found was no cause (undetermined)"),
        (
            "not-running",
            {"status": "blocked", "blockers": ["service.not-running", "network.drop"]},
            "found was network.drop and service.not-running",
        ),
    ],
)
def test_something_else_found_is_a_failure(
    typed: str,
    change: dict[str, Any],
    says: str,
    answers: Answers,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(change, change)
    assert run(["demo", typed]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert says in last
    assert last.endswith("that is not the same.")


def test_an_agent_without_a_verdict_is_a_failure() -> None:
    program = [sys.executable, "-IS", "-c", "import sys; print('first'); sys.exit('a reason')"]
    with contextlib.ExitStack() as stack:
        computer = demo.Computer("source", "127.0.0.1")
        silent = computer.start(program, stack, stdout=subprocess.PIPE)
        with pytest.raises(demo.DemoError, match="The source gave no verdict: a reason"):
            demo._result("source", silent)


def test_a_service_that_cannot_start_is_a_failure() -> None:
    away = demo.Computer("destination", "192.0.2.1")
    stage = demo.Stage(away, away, 4242)
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(demo.DemoError, match=r"The service cannot be started: .*assign"),
    ):
        demo._start_service(demo._faults("open"), stage, stack)


@JSON
@pytest.mark.parametrize("error", [demo.DemoError("No service."), BlockingIOError(11, "no more")])
def test_a_failure_of_the_demo_itself_is_one_sentence(
    error: Exception,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(demo, "_play", fail)
    assert run(["demo", *options]) == 1
    written = capsys.readouterr()
    assert re.fullmatch(r"bothends: .*(No service|no more)\.\n", written.err)
    if options:
        validate(json.loads(written.out))


def test_elsewhere_than_on_unix_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Not os.name itself, by which pathlib would go.
    monkeypatch.setattr(demo, "os", types.SimpleNamespace(name="nt"))
    assert run(["demo"]) == 2
    assert "needs Linux or another Unix." in capsys.readouterr().err


# --- it ends, and nothing is left ------------------------------------------------------------


def agents_of(running: Running) -> dict[str, int]:
    """The agents' processes by role, as soon as both run; stopped, so that the run waits."""
    limit = time.monotonic() + SECONDS
    agents: dict[str, int] = {}
    while len(agents) < 2 and time.monotonic() < limit:
        for pid in running.pids():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if "--code-file" in words and words[4] not in agents:
                    agents[words[4]] = pid
                    os.kill(pid, signal.SIGSTOP)
    assert set(agents) == {"source", "destination"}
    return agents


@contextlib.contextmanager
def under_way(*argv: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    with started(*argv, env=env) as running:
        agents_of(running)
        try:
            yield running
        finally:
            # Where the test failed before it ended the run.
            if running.process.poll() is None:
                running.process.kill()


Way = tuple[Sequence[str], Mapping[str, str]]
WAYS: dict[str, tuple[str, Way]] = {
    "computers": ("_computers", (COMMAND, {})),
    "user": ("_nobody", ((*NOBODY, *COMMAND), {"HOME": "/"})),
    "loopback": ("", ((*WITHOUT_TOOLS, "open"), {"PATH": ""})),
}
"""What each needs, and how it is run."""


@pytest.fixture(
    params=[pytest.param("computers", marks=lab), pytest.param("user", marks=lab), "loopback"]
)
def way(request: pytest.FixtureRequest) -> Way:
    needs, how = WAYS[request.param]
    if needs:
        request.getfixturevalue(needs)
    return how


def test_an_interrupt_ends_it_cleanly(way: Way) -> None:
    argv, env = way
    with under_way(*argv, env=env) as running:
        # As Ctrl-C does: to all of the terminal's foreground group.
        os.killpg(running.process.pid, signal.SIGINT)
        _, err = running.process.communicate(timeout=SECONDS)
        assert running.process.returncode == 130
        assert err.splitlines()[-1] == "bothends: Interrupted."
        assert running.pids() == []


@lab
@two_computers
def test_an_interrupted_run_has_one_document_too() -> None:
    with under_way(*COMMAND, "--json") as running:
        running.process.send_signal(signal.SIGINT)
        out, _ = running.process.communicate(timeout=SECONDS)
        assert running.process.returncode == 130
        validate(json.loads(out))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_however_it_dies_nothing_lives_on(way: Way, number: signal.Signals) -> None:
    argv, env = way
    with under_way(*argv, env=env) as running:
        children = [pid for pid in running.pids() if pid != running.process.pid]
        assert len(children) == 3  # the service and both agents
        ends = [os.pidfd_open(pid) for pid in children]
        running.process.send_signal(number)
        assert running.process.wait(SECONDS) == -number
        for end in ends:
            # Killed by the kernel, not by anybody who was told to.
            assert select.select([end], [], [], SECONDS)[0]
            os.close(end)


@lab
@two_computers
def test_the_namespaces_have_no_name() -> None:
    """So they go when the processes and descriptors go, of which the tests above see the end."""

    def named() -> set[str]:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return {line for line in mounts if " nsfs " in line}

    before = named()
    with under_way(*COMMAND) as running:
        ours = Path("/proc/self/ns/net").readlink()
        inside = {Path(f"/proc/{pid}/ns/net").readlink() for pid in running.pids()}
        assert len(inside) == 3  # the demo's own, which is the machine's, and the two
        assert ours in inside
        assert named() == before
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(SECONDS) == 130


def test_a_reader_who_leaves_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        done = subprocess.run(
            [*WITHOUT_TOOLS, "open"],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": ""},
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
