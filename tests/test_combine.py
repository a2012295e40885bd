"""`bothends combine`, and what the agents keep for it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace

from bothends import __main__, command, saving
from bothends.options import Options
from bothends.run import Outcome
from bothends.saving import Kept, paste_lines, save_evidence
from bothends_protocol import paste, sealed
from bothends_protocol.evidence import Evidence
from bothends_protocol.judge import judge
from bothends_protocol.pairing import SOURCE
from bothends_protocol.sealed import read_sealed
from bothends_protocol.verdict import EXIT_STATUS, Verdict
from bothends_protocol.wire import pack
from evidence_builder import DROPPED, HERE, THERE, Story
from saved_pairs import CODE, KEYS, OTHER_CODE, STORIES, met, sealed_pair, unmet
from schema import validate

USAGE = 2
DROP = Story(fates=(DROPPED,) * 3)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(sealed, "SCRYPT_COST", 1)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").write_text(f"{CODE}\n")
    return tmp_path


def put(*pairs: tuple[str, bytes]) -> None:
    for name, data in pairs:
        Path(name).write_bytes(data)


def put_pair(source: Evidence, destination: Evidence) -> None:
    put(*zip(("A", "B"), sealed_pair(source, destination), strict=True))


def kept(own: Evidence, other: Evidence | None = None) -> Kept:
    return Kept(pack(own), CODE, KEYS if own.session else None, b"", other)


def pasted(source: Evidence, destination: Evidence, *, addresses: bool = False) -> tuple[str, str]:
    both = (source, destination), (destination, source)
    one, other = (
        "\n".join(paste_lines(kept(*sides), addresses=addresses)) + "\n" for sides in both
    )
    return one, other


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        validate(found)
        return found


Combine = Callable[..., Ran]


@pytest.fixture
def combine(capsys: pytest.CaptureFixture[str]) -> Combine:
    def run(*argv: str) -> Ran:
        status = __main__.main(["combine", *argv])
        printed = capsys.readouterr()
        return Ran(status, printed.out, printed.err)

    return run


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Evidence, Evidence]]:
    """Stands in for the rules for runs that never met; keeps what it was asked."""
    asked = []

    @dataclass
    class Joint:
        verdict: Verdict
        notes: tuple[str, ...]

    def joint(source: Evidence, destination: Evidence) -> Joint:
        asked.append((source, destination))
        return Joint(judge(source, destination), ("The two runs did not overlap.",))

    module = ModuleType("bothends_protocol.offline")
    module.joint = joint  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked


# -- the same verdict


@pytest.mark.parametrize("name", STORIES)
def test_two_files_give_the_verdict_of_the_screens(name: str, combine: Combine) -> None:
    source, destination = met(STORIES[name])
    put_pair(source, destination)
    expected = judge(source, destination)
    for files in (("A", "B"), ("B", "A")):
        ran = combine(*files, "--code-file", "code", "--json")
        found = ran.document
        assert found["verdict_id"] == expected.verdict_id
        assert found["status"] == expected.status
        assert found["blockers"] == list(expected.blockers)
        assert found["verified"] is True
        assert found["notes"] == []
        assert found["contact"] == {
            "path": "direct",
            "lost": False,
            "local": source.contact.local,
            "remote": source.contact.remote,
            "rtt": 0.001,
        }
        assert (ran.status, ran.err) == (EXIT_STATUS[expected.status], "")


def test_the_text_is_for_a_third_computer(combine: Combine) -> None:
    put_pair(*met(DROP))
    ran = combine("A", "B", "--code", str(CODE), "-v")
    assert ran.status == EXIT_STATUS["blocked"]
    assert "this computer" not in ran.out
    assert "other computer" not in ran.out
    assert "On the destination (host): " in ran.out
    assert "nverified" not in ran.out


def test_without_the_code_it_says_so(combine: Combine) -> None:
    put_pair(*met(DROP))
    ran = combine("A", "B")
    assert "Unverified: " in ran.out
    assert ran.status == EXIT_STATUS["blocked"]
    found = combine("A", "B", "--json").document
    assert found["verified"] is False
    assert "Unverified" in found["notes"][0]


def test_two_that_never_met(combine: Combine, offline: list[tuple[Evidence, Evidence]]) -> None:
    pair = unmet(DROP)
    put_pair(*pair)
    found = combine("B", "A", "--code-file", "code", "--json").document
    assert offline == [pair]
    assert found["contact"] == {"path": "offline", "lost": False}
    assert found["notes"] == ["The two runs did not overlap."]
    assert "did not overlap" in combine("A", "B").out


def test_the_report_is_written(combine: Combine, here: Path) -> None:
    put_pair(*met(DROP))
    assert combine("A", "B", "--report", "page.html").status == EXIT_STATUS["blocked"]
    page = (here / "page.html").read_text()
    assert "Unverified" in page
    assert "Both computers show" not in page


# -- pasted


@pytest.mark.parametrize("addresses", [False, True])
@pytest.mark.parametrize("name", ["open", "dropped", "behind a NAT", "not running", "many ports"])
def test_pasted_evidence_gives_the_same_verdict(
    name: str, combine: Combine, *, addresses: bool
) -> None:
    source, destination = met(STORIES[name])
    expected = judge(source, destination)
    one, other = pasted(source, destination, addresses=addresses)
    put(("A", one.encode()), ("B", other.encode()))
    put(("both", f"> {other}and\r\n{one}".encode()), ("wide", (one + other).encode("utf-16")))
    for files in (("A", "B"), ("both",), ("wide",)):
        ran = combine(*files, "--code-file", "code", "--json")
        found = ran.document
        assert ran.status == EXIT_STATUS[expected.status]
        assert found["blockers"] == list(expected.blockers)
        assert found["candidates"] == list(expected.candidates)
        assert found["verified"] is True
        assert (HERE in ran.out) == addresses
        assert any("masked" in note for note in found["notes"]) != addresses
        assert any("another number" in note for note in found["notes"])


@pytest.mark.parametrize("addresses", [False, True])
def test_a_file_and_a_paste(combine: Combine, *, addresses: bool) -> None:
    source, destination = met(DROP)
    put_pair(source, destination)
    one, other = pasted(source, destination, addresses=addresses)
    put(("a", one.encode()), ("b", other.encode()))
    for files in (("A", "b"), ("a", "B")):
        ran = combine(*files, "--code-file", "code", "--json")
        assert ran.document["blockers"] == ["destination.firewall-drop"]
        assert (THERE in ran.out) == addresses


def test_pasted_on_standard_input(combine: Combine, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pasted(*met(DROP))
    put(("A", one.encode()))
    for text, files in ((other, ("-", "A")), (one + other, ("-",))):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert combine(*files, "--code-file", "code").status == EXIT_STATUS["blocked"]


# -- what is refused


def refused(ran: Ran, *words: str) -> None:
    assert ran.status == USAGE, ran
    assert ran.err.startswith("bothends: ")
    assert ran.err.count("\n") == 1, ran.err
    for word in words:
        assert word in ran.err


def test_bad_input_is_one_sentence(combine: Combine, here: Path) -> None:
    put_pair(*met(DROP))
    source, destination = (Path(name).read_bytes() for name in "AB")
    one, other = (text.encode() for text in pasted(*met(DROP)))
    first, second = (replace(side, session=b"later") for side in met(DROP))
    later = sealed_pair(first, second)
    never = sealed_pair(*unmet(DROP))
    put(
        ("empty", b""),
        ("text", b"Hello"),
        ("binary", bytes(range(256))),
        ("cut", destination[:-9]),
        ("altered", destination[:300] + b"!" + destination[301:]),
        ("version", destination.replace(b"file 1", b"file 3", 1)),
        ("later", later[1]),
        ("never", never[1]),
        ("a", one),
        ("b", other),
        ("torn", other.replace(b"\n", b"", 1)[:-60]),
        ("twice", source),
        ("locked", b""),
        ("wrong", f"{OTHER_CODE}\n".encode()),
    )
    cases: list[tuple[list[str], str]] = [
        ([], "FILE"),
        (["A"], "Only the evidence of the source is there: add the destination's"),
        (["A", "B", "B"], "not 3"),
        (["A", "twice"], "the same evidence of the source"),
        (["A", "later"], "different runs"),
        (["A", "never"], "different runs"),
        (["A", "empty"], "'empty' is empty"),
        (["A", "text"], "'text' is not a file of saved evidence"),
        (["A", "binary"], "not a file of saved evidence"),
        (["A", "cut"], "truncated"),
        (["A", "altered"], "altered"),
        (["A", "version"], "version '3'"),
        (["A", "none"], "cannot be read"),
        (["A", "."], "cannot be read"),
        (["A", "\0"], "cannot be read"),
        (["A", "/dev/zero"], "not a file of saved evidence"),
        (["a", "b"], "holds pasted evidence, which is encrypted"),
        (["a", "torn", "--code-file", "code"], "part "),
        (["a", "a", "--code-file", "code"], "the same evidence of the source"),
        (["a", "b", "--code-file", "wrong"], "the code does not open"),
        (["A", "B", "--code-file", "wrong"], "the code does not fit"),
        (["A", "B", "--code", "hello"], "pairing code"),
        (["A", "B", "--code", str(CODE), "--code-file", "code"], "once only"),
        (["A", "B", "--code-file", "none"], "cannot be read"),
        (["-", "-"], "once only"),
        (["-", "A", "--code-file", "-"], "once only"),
        (["A", "B", "--report", "/none/page.html"], "does not exist"),
        (["A", "B", "--peer", "192.0.2.1"], "--peer"),
    ]
    for argv, words in cases:
        refused(combine(*argv), words)
        ran = combine(*argv, "--json")
        refused(ran, words)
        assert ran.document["verdict_id"] is None
    assert sorted(path.name for path in here.iterdir() if path.name.startswith(".")) == []


def test_evidence_that_no_agent_writes_is_refused_or_judged(combine: Combine) -> None:
    source, destination = met(STORIES["a name"])
    for changes in ({"ports": ("nonsense",)}, {"ports": ("tcp:1-99999",)}):
        put_pair(source, replace(destination, **changes))
        refused(combine("A", "B"), "cannot be judged")
    contact = replace(source.contact, path="\x1b[31m", rtt=float("nan"))
    put_pair(replace(source, contact=contact), destination)
    assert combine("A", "B", "--json").document["contact"]["path"] == "offline"
    contact = replace(source.contact, rtt=float("-inf"))
    put_pair(replace(source, contact=contact), destination)
    assert combine("A", "B", "--json").document["contact"]["rtt"] is None


def test_output_that_nobody_reads_changes_nothing() -> None:
    put_pair(*met(DROP))
    with subprocess.Popen(
        [sys.executable, "-m", "bothends", "combine", "A", "B"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
    assert b"Traceback" not in err


# -- what the agents keep


def test_a_file_is_its_owners_and_whole_or_not_there(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = os.umask(0)
    try:
        save_evidence(here / "evidence", kept(met(DROP)[0]))
    finally:
        os.umask(old)
    assert (here / "evidence").stat().st_mode & 0o777 == 0o600
    before = (here / "evidence").read_bytes()
    assert read_sealed(before).evidence == met(DROP)[0]

    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_evidence(here / "evidence", kept(met(DROP)[1]))
    assert (here / "evidence").read_bytes() == before
    assert sorted(path.name for path in here.iterdir()) == ["code", "evidence"]


def test_each_file_has_a_salt_of_its_own(here: Path) -> None:
    for name in "AB":
        save_evidence(here / name, kept(met(DROP)[0]))
    assert read_sealed(Path("A").read_bytes()).salt != read_sealed(Path("B").read_bytes()).salt


def outcome(own: Kept | None) -> Outcome:
    verdict = Verdict(verdict_id=None, status="undetermined", reachable="unknown")
    return Outcome(verdict, kept=own)


def test_what_is_kept_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, destination = met(DROP)
    options = Options(role=SOURCE, save=here / "evidence", paste=True)
    command._keep(options, outcome(kept(source, destination)))
    printed = capsys.readouterr()
    assert "Evidence saved" in printed.err
    assert printed.out.startswith("bothends-paste 1 source ")
    assert read_sealed(Path("evidence").read_bytes()).evidence == source
    assert "abandon" not in printed.out + printed.err
    command._keep(Options(role=SOURCE, paste=True, json=True), outcome(kept(source)))
    assert capsys.readouterr().out == ""


def test_where_there_is_nothing_to_keep_it_is_said(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command._keep(Options(role=SOURCE, save=here / "evidence"), outcome(None))
    assert "no evidence to be saved" in capsys.readouterr().err
    assert not Path("evidence").exists()
    command._keep(Options(role=SOURCE), outcome(None))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_what_cannot_be_kept_is_one_sentence(
    here: Path,
    error: Exception,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_args: object, **_more: object) -> bytes:
        raise error

    monkeypatch.setattr(saving, "seal", fail)
    command._keep(Options(role=SOURCE, save=here / "evidence"), outcome(kept(met(DROP)[0])))
    said = capsys.readouterr().err
    assert said.startswith("bothends: The evidence cannot be saved: ")
    assert said.count("\n") == 1


def test_what_is_too_long_for_a_chat_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paste, "MAX_PARTS", 3)
    command._keep(Options(role=SOURCE, paste=True), outcome(kept(met(DROP)[0])))
    printed = capsys.readouterr()
    assert "too long to be pasted, use --save" in printed.err
    assert printed.out == ""
