"""The command line: whatever is typed, one sentence and the right exit status, no traceback."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends import __main__, cli, command
from bothends.cli import UsageError
from bothends.options import Endpoint, Options
from bothends_protocol.evidence import MAX_TEXT
from bothends_protocol.messages import MAX_NAMED
from bothends_protocol.ports import parse_ports

CODE = "7-abandon-ability-able"
USAGE, NO_CONTACT, INTERRUPTED = 2, 4, 130
SOURCE = ["source", CODE, "--peer", "192.0.2.1"]
DESTINATION = ["destination", "4242"]


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of the options that starts an agent after all must fail, not dial."""

    def run(_options: Options) -> None:
        raise AssertionError("an agent was started")

    monkeypatch.setattr(command, "_run", run)
    monkeypatch.setattr(sys, "stdin", io.StringIO(CODE))


def options(*argv: str) -> Options:
    return command._options(cli._parser().parse_args(argv))


# -- what is right


def test_defaults() -> None:
    found = options("destination", "4242")
    assert found == Options(role="destination", ports=("tcp:4242",))
    assert (found.control_port, found.wait, found.timeout, found.mdns) == (24242, 600, 60, True)
    assert not found.code_fixed


def test_a_port_is_sought_where_no_range_is_typed() -> None:
    found = options("suggest")
    assert (found.role, found.suggest) == ("destination", True)
    assert found.ports == ("tcp:1024-4241,4244-5999",)
    assert not options("destination", "4242").suggest


def test_a_port_is_sought_in_the_range_that_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert options("suggest", "4242,5000-5003", "--control-port", "5001").ports == (
        "tcp:4242,5000,5002-5003",
    )
    assert not capsys.readouterr().err
    options("suggest", "1024-65535")
    assert "connections that it opens itself" in capsys.readouterr().err


def test_a_port_is_sought_one_way_only() -> None:
    with pytest.raises(UsageError, match="--both-ways"):
        options("suggest", "--both-ways")


@pytest.mark.parametrize("text", ["4242-4243", "24242"])
def test_a_range_that_holds_nothing_to_suggest_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="can be suggested"):
        options("suggest", text)


def test_full_speed_is_for_either_side() -> None:
    assert options("destination", "1-65535", "--fast").fast
    assert options(*SOURCE, "--fast").fast
    assert not options(*SOURCE).fast


def test_everything_at_once() -> None:
    found = options(
        *SOURCE,
        *("--peer", "[2001:db8::1]:99", "--peer", "nas.example:1", "--peer", "2001:db8::2"),
        *("--target", "nas.example", "--target", "[2001:db8::3]"),
        *("--control-port", "5", "--no-mdns", "--wait", "1.5", "--timeout", "2"),
        *("--both-ways", "--json", "-vv", "--save", "evidence", "--paste-addresses"),
    )
    assert found.peers == (
        Endpoint("192.0.2.1", 5),
        Endpoint("2001:db8::1", 99),
        Endpoint("nas.example", 1),
        Endpoint("2001:db8::2", 5),
    )
    assert found.targets == ("nas.example", "2001:db8::3")
    assert (found.control_port, found.wait, found.timeout) == (5, 1.5, 2)
    assert (found.mdns, found.both_ways, found.json, found.verbose) == (False, True, True, 2)
    assert (found.save, found.paste, found.paste_addresses) == (Path("evidence"), True, True)
    assert str(found.code) == CODE
    assert found.code_fixed


@pytest.mark.parametrize("argv", [SOURCE, DESTINATION], ids=["source", "destination"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stun.example", Endpoint("stun.example", 3478)),
        ("192.0.2.1:3479", Endpoint("192.0.2.1", 3479)),
        ("2001:db8::1", Endpoint("2001:db8::1", 3478)),
        ("[2001:db8::1]:99", Endpoint("2001:db8::1", 99)),
    ],
)
def test_a_stun_server_has_a_usual_port(argv: list[str], text: str, expected: Endpoint) -> None:
    assert options(*argv, "--stun", text).stun == expected
    assert options(*argv, "--stun", text, "--control-port", "5").stun == expected
    assert options(*argv).stun is None


def test_the_router_is_asked_only_where_the_user_wants_it() -> None:
    assert (options(*DESTINATION).map, options(*DESTINATION).keep_map) == (False, False)
    found = options(*DESTINATION, "--map")
    assert (found.map, found.keep_map) == (True, False)
    found = options(*DESTINATION, "--keep-map", "--map")
    assert (found.map, found.keep_map) == (True, True)


def test_what_is_not_opened_cannot_be_kept_open() -> None:
    with pytest.raises(UsageError, match="--keep-map keeps open what --map opens: give both"):
        options(*DESTINATION, "--keep-map")


def test_the_payload_is_text_digits_or_a_file(tmp_path: Path) -> None:
    assert options(*SOURCE).payload == b""
    assert options(*SOURCE, "--payload", "status?").payload == b"status?"
    assert options(*SOURCE, "--payload", "\N{EURO SIGN}").payload == b"\xe2\x82\xac"
    assert options(*SOURCE, "--payload", "hex:00 ff").payload == b"\0\xff"
    (tmp_path / "query").write_bytes(b"\0" * 1200)
    assert options(*SOURCE, "--payload", f"@{tmp_path / 'query'}").payload == b"\0" * 1200


def test_ports_of_both_transports() -> None:
    assert options("destination", "udp:4242").ports == ("udp:4242",)
    assert options("destination", "tcp:4242,udp:4242,4250").ports == ("tcp:4242", "udp:4242,4250")


def test_paste_masks_unless_asked() -> None:
    found = options(*SOURCE, "--paste")
    assert (found.paste, found.paste_addresses, found.save) == (True, False, None)


def test_what_a_source_tries_by_itself_is_the_usual_port_or_what_it_is_told() -> None:
    assert options(*SOURCE).offline_ports == ("tcp:4242",)
    assert options(*SOURCE, "--ports", "80,5000-5002").offline_ports == ("tcp:80,5000-5002",)


@pytest.mark.parametrize("content", [CODE, f"{CODE}\n", f"  {CODE.upper()}  \n"])
def test_the_code_from_a_file(content: str, tmp_path: Path) -> None:
    file = tmp_path / "code"
    file.write_text(content)
    assert str(options(*DESTINATION, "--code-file", str(file)).code) == CODE


@pytest.mark.parametrize("argv", [["--code-file", "-"], ["--peer", "192.0.2.1"]])
def test_the_code_from_standard_input(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{CODE}\nmore\n"))
    assert str(options("source", *argv).code) == CODE


def test_asking_for_the_code_leaves_standard_output_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(CODE))
    options("source")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "code" in printed.err


# -- what is wrong

WRONG: list[tuple[list[str], str]] = [
    ([], "COMMAND"),
    (["neither"], "neither"),
    ([*DESTINATION, "--sideways"], "--sideways"),
    (["destination"], "PORTS"),
    (["destination", "0"], "port 0 "),
    (["destination", "65536"], "port 65536"),
    (["destination", "-5"], "-5"),
    (["destination", "5999-1024"], "5999-1024"),
    (["destination", ""], "not a port"),
    (["destination", "backup"], "backup"),
    (["destination", "sctp:4242"], "sctp"),
    (["destination", "udp:24242"], "where the agents meet"),
    (["destination", "udp:4242,tcp:24242"], "where the agents meet"),
    (["destination", "udp:1-4097"], "4096"),
    (["destination", "24000-24999"], "where the agents meet"),
    ([*DESTINATION, "--ports", "80"], "--ports"),
    ([*SOURCE, "--ports", ""], "not a port"),
    ([*SOURCE, "--ports", "0"], "port 0 "),
    ([*SOURCE, "--ports", "backup"], "backup"),
    ([*SOURCE, "--ports", "udp:80"], "TCP ports only"),
    ([*SOURCE, "--payload", ""], "--payload holds nothing"),
    ([*SOURCE, "--payload", "x" * 1201], "more than 1200 bytes"),
    ([*SOURCE, "--payload", "\N{EURO SIGN}" * 401], "more than 1200 bytes"),
    ([*SOURCE, "--payload", "hex:"], "--payload holds nothing"),
    ([*SOURCE, "--payload", "hex:0"], "pairs of hex digits"),
    ([*SOURCE, "--payload", "hex:no"], "pairs of hex digits"),
    ([*SOURCE, "--payload", "hex:" + "00" * 1201], "more than 1200 bytes"),
    ([*SOURCE, "--payload", "@/no/such/file"], "/no/such/file"),
    ([*SOURCE, "--payload", "@/"], "cannot be read"),
    ([*SOURCE, "--payload", "@"], "cannot be read"),
    ([*SOURCE, "--payload", "@/dev/null"], "--payload holds nothing"),
    ([*SOURCE, "--payload", "@/dev/zero"], "more than 1200 bytes"),
    ([*DESTINATION, "--payload", "text"], "--payload"),
    ([*SOURCE, "--ports", "80-96"], "--ports names at most 16 ports"),
    (["destination", "24242"], "where the agents meet"),
    (["destination", "4000-5000", "--control-port", "4242"], "where the agents meet"),
    ([*DESTINATION, "--control-port", "0"], "--control-port"),
    ([*DESTINATION, "--control-port", "65536"], "--control-port"),
    ([*DESTINATION, "--control-port", "http"], "'http'"),
    ([*DESTINATION, "--control-port", "-1"], "-1"),
    ([*DESTINATION, "--control-port", "1" * 5000], "--control-port"),
    ([*DESTINATION, "--control-port", "\N{ARABIC-INDIC DIGIT FOUR}"], "--control-port"),
    *(([*DESTINATION, "--wait", text], "--wait") for text in ("0", "-1", "soon", "nan", "inf")),
    *(([*DESTINATION, "--timeout", text], "--timeout") for text in ("0", "1e99", "")),
    *(
        ([*DESTINATION, "--peer", f"192.168.7.20:{port}"], f"'{port}'")
        for port in ("0", "65536", "http", "-1")
    ),
    ([*DESTINATION, "--peer", "192.168.7.20:"], "port"),
    ([*DESTINATION, "--peer", "http://nas/"], "//nas/"),
    *(
        ([*DESTINATION, "--peer", text], text)
        for text in (
            "192.168.7.300",
            "192.168.7",
            "1",
            "[2001:db8::1",
            "[2001:db8::1]80",
            "[]:80",
            ":80",
            "2001:db8::g",
            "1:2:3:4:5:6:7:8:9",
            "user@nas",
            "no address at all",
            "nas\n",
            "",
        )
    ),
    *(
        ([*DESTINATION, "--stun", text], text)
        for text in ("stun:stun.example", "192.168.7.300", "[::1", "a b", "x/y", ":3478", "h:0", "")
    ),
    *(
        ([*SOURCE, "--target", text], text)
        for text in ("192.168.7.300", "nas/share", "a b", "[::1", "", "a" * 300)
    ),
    ([*DESTINATION, "--code", "hello"], "code"),
    ([*DESTINATION, "--code", "7-abandon-ability-abel"], "'abel'"),
    ([*DESTINATION, "--code", "0-abandon-ability-able"], "number"),
    ([*DESTINATION, "--code", CODE, "--code-file", "x"], "once"),
    ([*SOURCE, "--code", CODE], "once"),
    ([*DESTINATION, "--code-file", "/no/such/file"], "/no/such/file"),
    ([*DESTINATION, "--code-file", "/"], "cannot be read"),
    ([*DESTINATION, "--code-file", "/dev/null"], "code"),
    ([*DESTINATION, "--code-file", "/dev/zero"], "code"),
    (["source", "7-abandon"], "code"),
    ([*DESTINATION, "--report", "/no/such/folder/page.html"], "/no/such/folder"),
    *(
        ([*DESTINATION, "--save", name], f"'{name}'")
        for name in ("/no/such/folder/evidence", "/", "")
    ),
    ([*DESTINATION, "--save"], "--save"),
    ([*DESTINATION, "--target", "nas"], "--target"),
    ([*SOURCE, "--service", "backupd"], "--service"),
]


@pytest.mark.parametrize("json_", [False, True])
@pytest.mark.parametrize(("argv", "named"), WRONG, ids=[repr(argv)[:60] for argv, _ in WRONG])
def test_what_is_wrong_is_told_in_one_sentence(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str], *, json_: bool
) -> None:
    assert __main__.main([*argv, *(["--json"] if json_ else [])]) == USAGE
    printed = capsys.readouterr()
    assert printed.err.startswith("bothends: ")
    assert printed.err.count("\n") == 1
    assert repr(named)[1:-1].lower() in printed.err.lower()
    if json_:
        assert json.loads(printed.out)["status"] == "no-contact"
        assert json.loads(printed.out)["verdict_id"] is None
    else:
        assert printed.out == ""


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(
            [*DESTINATION, "--control-port", "000000001" + "99999"],
        ),
        pytest.param(
            [*DESTINATION, "--peer", "192.0.2.1:00000000199999"],
        ),
    ],
)
def test_leading_noughts_do_not_hide_a_port_out_of_range(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(argv) == USAGE
    assert "199999" in capsys.readouterr().err


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["destination", "4242", "--js"]) == USAGE
    assert "--js" in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["", "\n", "hello\n", "7-abandon-ability-notaword\n"])
def test_a_wrong_answer_to_the_prompt(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert __main__.main(["source", "--peer", "192.0.2.1"]) == USAGE
    assert "code" in capsys.readouterr().err


def closed() -> None:
    return None


def undecodable() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(b"7-caf\xe9-ability-able\n"), encoding="utf-8")


@pytest.mark.parametrize("argv", [["source"], ["source", "--code-file", "-"]])
@pytest.mark.parametrize("stdin", [closed, undecodable])
def test_a_standard_input_that_gives_no_text(
    argv: list[str], stdin: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin())
    assert __main__.main([*argv, "--peer", "192.0.2.1"]) == USAGE


words = st.sampled_from(
    [
        *("destination", "source", "4242", CODE, "--peer", "--target", "--code", "--json", "-v"),
        *("--control-port", "--wait", "--timeout", "--no-mdns", "--both-ways", "--report", "--"),
        "--stun",
    ]
) | st.text(max_size=12)


@given(st.lists(words, max_size=7))
def test_any_words_give_options_or_one_sentence(argv: list[str]) -> None:
    if {"-h", "--help", "--version"} & set(argv):
        return
    # SystemExit: an abbreviation of --help or --version.
    with contextlib.suppress(UsageError, SystemExit):
        args = cli._parser().parse_args(argv)
        if args.command not in ("demo", "combine"):
            found = command._options(args)
            assert found.ports or found.role == "source"
            assert all(peer.host for peer in found.peers)


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    assert __main__.main([]) == INTERRUPTED


# -- as processes

LOADED = """
import sys
from bothends.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["source", "--help"],
        ["destination", "--help"],
        ["combine", "--help"],
    ],
)
def test_help_loads_nothing_it_does_not_need(argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *argv], capture_output=True, text=True, check=True
    )
    assert "bothends" in done.stdout
    slow = {"asyncio", "cryptography", "msgpack", "msgspec", "psutil", "rich", "spake2", "zeroconf"}
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & slow
    assert "bothends_protocol" not in loaded


def agent(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bothends", *argv, "--no-mdns"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("role", ["source", "destination"])
@pytest.mark.parametrize("json_", [False, True])
def test_without_the_other_side_a_sentence_and_status_4(
    role: str, free_port: int, *, json_: bool
) -> None:
    # Only this computer is dialled, so that nobody beyond it is asked whether he is there.
    peer = ["--peer", f"127.0.0.1:{free_port if role == 'source' else 1}"]
    what = [*(["4242"] if role == "destination" else [CODE]), *peer]
    # The source's own control port may be in use: it then dials only.
    port = str(free_port) if role == "destination" else "1"
    with agent(
        role, *what, "--control-port", port, "--wait", "0.05", *(["--json"] if json_ else [])
    ) as process:
        out, err = process.communicate()
    assert process.returncode == NO_CONTACT
    assert "Traceback" not in err
    assert re.search(r"[Nn]o contact .*\.$", err, re.MULTILINE)
    if json_:
        document = json.loads(out)
        assert (document["status"], document["verdict_id"]) == ("no-contact", None)
    assert ("{" in out) == json_


def test_a_control_port_in_use_is_said_and_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with agent(*DESTINATION, "--control-port", port) as process:
            _, err = process.communicate()
    assert process.returncode == NO_CONTACT
    assert port in err
    assert "--control-port" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_cleanly_with_one_document(number: int, free_port: int) -> None:
    with agent(*DESTINATION, "--control-port", str(free_port), "--json") as process:
        assert process.stderr is not None
        until(process.stderr.readline, "Ctrl-C")
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == INTERRUPTED
    assert json.loads(out)["verdict_id"] is None
    assert "Traceback" not in err


def until(line: Callable[[], str], word: str) -> None:
    while word not in (text := line()):
        assert text, f"ended without {word!r}"


def test_however_many_ports_are_named_no_text_is_longer_than_a_message_holds() -> None:
    scattered = ",".join(str(port) for port in range(1025, 9217, 2))
    found = options("destination", scattered)
    assert max(map(len, found.ports)) <= MAX_TEXT
    assert len(found.ports) <= MAX_NAMED
    assert sum(len(part) for text in found.ports for part in parse_ports(text)) == 4096


def test_the_port_where_the_agents_meet_is_left_out_of_a_wide_range() -> None:
    assert options("destination", "1-65535").ports == ("tcp:1-24241,24243-65535",)
    assert options("destination", "24242-65535").ports == ("tcp:24243-65535",)
    assert options("destination", "1-65535", "--control-port", "65535").ports == ("tcp:1-65534",)
    found = options("destination", "1-30000,40000,udp:5000-5001").ports
    assert found == ("tcp:1-24241,24243-30000,40000", "udp:5000-5001")
