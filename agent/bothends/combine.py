"""The `combine` command: a joint verdict from the evidence that both sides saved.

Runs on any computer, without any network. Nothing in a file is believed before
it was checked: what is damaged, altered, of another version or of another run is
refused with the reason. Without the pairing code that holds for damage only, and
the verdict is called unverified.
"""

from __future__ import annotations

import argparse
import codecs
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from bothends_protocol.code import Code
from bothends_protocol.errors import InputError, ProtocolError
from bothends_protocol.judge import judge
from bothends_protocol.masked import Mask, mask_key
from bothends_protocol.outside_facts import OutsideFacts, outside_facts
from bothends_protocol.pairing import DESTINATION, SOURCE
from bothends_protocol.paste import has_paste, open_block, read_paste
from bothends_protocol.sealed import MAX_FILE, Saved, is_sealed, pair_up, read_sealed, verify
from bothends_protocol.verdict import EXIT_STATUS, Verdict

from . import render
from .cli import UsageError
from .command import _code as given_code
from .command import _report as report_path
from .command import _say as say

__all__ = ["combine"]

STDIN = "-"
PATHS = ("direct", "reverse", "punched", "rendezvous")
"""Ways in which two agents can have met."""

UNVERIFIED = (
    "Unverified: without the pairing code nobody can tell whether somebody altered the evidence "
    "on purpose. Damage would have been noticed. With --code-file it is checked."
)

NEEDS_CODE = "is encrypted: give the pairing code of the run with --code-file."
PASTED = "Pasted evidence is shortened, so this verdict has another number than on the two screens."
MASKED = (
    "Addresses and names are masked: they stand for others. Put the real ones into a command that "
    "holds one, before it is used."
)


class _Result(msgspec.Struct, frozen=True):
    """What is printed."""

    verdict: Verdict
    source: Saved
    destination: Saved
    contact: Mapping[str, object]
    verified: bool
    notes: tuple[str, ...] = ()

    @property
    def outside(self) -> dict[str, OutsideFacts]:
        """By role: what is known of a side from outside."""
        return {
            SOURCE: outside_facts(self.source.evidence),
            DESTINATION: outside_facts(self.destination.evidence),
        }

    @property
    def document(self) -> dict[str, object]:
        """The document of --json: the usual one and what only `combine` has to say."""
        return render.document(
            self.verdict,
            source=self.source.evidence.facts,
            destination=self.destination.evidence.facts,
            outside=self.outside,
            contact=self.contact,
        ) | {"verified": self.verified, "notes": list(self.notes)}


def combine(args: argparse.Namespace) -> int:
    """Judge the saved evidence; return the exit status of the verdict."""
    if (*args.files, args.code_file).count(STDIN) > 1:
        raise UsageError("Standard input can be read once only: name a file for the rest.")
    report = report_path(args.report)
    code = given_code(args, DESTINATION)
    saved = [part for name in args.files for part in _read(name, code)]
    result = _judge(*_two(saved), code)
    _show(result, args, report)
    return EXIT_STATUS[result.verdict.status]


def _two(saved: list[Saved]) -> tuple[Saved, Saved]:
    if len(saved) == 1:
        other = "destination" if saved[0].role == "source" else "source"
        raise UsageError(f"Only the evidence of the {saved[0].role} is there: add the {other}'s.")
    if len(saved) != 2:
        raise UsageError(f"Two evidences are needed, one of each side, not {len(saved)}.")
    return saved[0], saved[1]


# Reading -------------------------------------------------------------------------------------


def _read(name: str, code: Code | None) -> list[Saved]:
    data = _bytes(name)
    place = "What is on standard input" if name == STDIN else f"The file {name!r}"
    try:
        text = "" if is_sealed(data) or len(data) > MAX_FILE else _text(data)
        if not has_paste(text):
            return [read_sealed(data)]
        blocks = read_paste(text)
        if code is None:
            raise UsageError(f"{place} holds pasted evidence, which {NEEDS_CODE}")
        return [open_block(block, code) for block in blocks]
    except ProtocolError as error:
        raise UsageError(f"{place} {error}.") from error


def _text(data: bytes) -> str:
    # What some programs on Windows save as text has two bytes a letter, and says so first.
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8", "replace")


def _bytes(name: str) -> bytes:
    """Return what is in the file, or a byte more than is allowed."""
    try:
        if name == STDIN:
            return sys.stdin.buffer.read(MAX_FILE + 1)
        with Path(name).open("rb") as file:
            return file.read(MAX_FILE + 1)
    except (OSError, ValueError, AttributeError) as error:
        why = getattr(error, "strerror", None) or "it holds nothing that can be read"
        raise UsageError(f"The file {name!r} cannot be read: {why}.") from error


# Judging -------------------------------------------------------------------------------------


def _judge(one: Saved, other: Saved, code: Code | None) -> _Result:
    try:
        source, destination = pair_up(one, other)
        if code is not None:
            verify(source, destination, code)
            source, destination = _alike(source, destination, code)
    except ProtocolError as error:
        raise UsageError(str(error)) from error
    met = bool(source.evidence.session)
    try:
        verdict, notes = (
            (judge(source.evidence, destination.evidence), ())
            if met
            else _never_met(source, destination)
        )
    except (InputError, ProtocolError, ValueError, ArithmeticError) as error:
        raise UsageError("The evidence cannot be judged: no agent writes such.") from error
    return _Result(
        verdict=verdict,
        source=source,
        destination=destination,
        contact=_contact(source, met=met),
        verified=code is not None,
        notes=(
            *notes,
            *_remarks(source, destination),
            *(() if code is not None else (UNVERIFIED,)),
        ),
    )


def _alike(source: Saved, destination: Saved, code: Code) -> tuple[Saved, Saved]:
    """Return both masked where one is: the same address must be the same on both sides."""
    if source.masked == destination.masked:
        return source, destination
    mask = Mask(mask_key(code))
    masked = [
        side if side.masked else replace(side, evidence=mask.evidence(side.evidence), masked=True)
        for side in (source, destination)
    ]
    return masked[0], masked[1]


def _remarks(source: Saved, destination: Saved) -> Iterator[str]:
    if not (source.digest and destination.digest):
        yield PASTED
    if source.masked:
        yield MASKED


def _never_met(source: Saved, destination: Saved) -> tuple[Verdict, tuple[str, ...]]:
    from bothends_protocol.offline import joint  # noqa: PLC0415  rules of their own, rarely wanted

    found = joint(source.evidence, destination.evidence)
    return found.verdict, found.notes


def _contact(source: Saved, *, met: bool) -> dict[str, object]:
    said = source.evidence.contact
    if not met or said.path not in PATHS:
        return {"path": "offline", "lost": False}
    known = math.isfinite(said.rtt) and said.rtt >= 0
    return {
        "path": said.path,
        "lost": False,
        "local": said.local,
        "remote": said.remote,
        "rtt": round(said.rtt, 6) if known else None,
    }


# Showing -------------------------------------------------------------------------------------


def _show(result: _Result, args: argparse.Namespace, report: Path | None) -> None:
    try:
        if args.json:
            print(render.dumps(result.document), flush=True)
        else:
            _print(result, verbose=args.verbose > 0)
    except OSError as error:
        # Whoever read the output has gone, or the disk is full; the exit status still tells.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            say(f"bothends: The verdict cannot be written: {error.strerror}.")
    if report is not None:
        from .page import write_page  # noqa: PLC0415  loads jinja2

        try:
            write_page(report, result.document)
        except OSError as error:
            say(f"The report {report} cannot be written: {error.strerror}.")


def _print(result: _Result, *, verbose: bool) -> None:
    render.print_text(
        result.verdict,
        role="",
        source=result.source.evidence.facts,
        destination=result.destination.evidence.facts,
        outside=result.outside,
        contact=result.contact,
        verbose=verbose,
        notes=result.notes,
    )
    sys.stdout.flush()
