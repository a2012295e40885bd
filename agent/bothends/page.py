"""The verdict as one HTML page, to keep, to print, or to hand to somebody who helps.

The page is whole in itself: style and script stand in it, nothing is loaded from
anywhere, and its own policy forbids it (Content-Security-Policy). The template
shows, this module prepares: commands as they are pasted, steps cut into prose
and commands.

Half of the text was sent by the other computer. Every value passes `clean` and
jinja2's escaping on its way into the page, none is ever put into an address, an
attribute or the script, and the script has no data in it.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bothends_protocol.bearings import BACK, words
from bothends_protocol.evidence import Address, HostFacts
from bothends_protocol.outside_facts import read_outside
from bothends_protocol.verdict import Check, Fix, Verdict

from .files import write_whole
from .picture import stretches
from .render import _COMMAND as COMMAND
from .render import _INLINE as INLINE
from .render import CODES_BACK, clean, dumps, no_contact_advice, outside_said
from .render import _shell as shell
from .render import _with_rights as with_rights

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["write_page"]

TEMPLATES = "templates"
"""Beside this module; hatchling ships whatever stands in the package."""

_HEADS = {
    "open": ("Open", "good", "✓"),
    "blocked": ("Blocked", "bad", "✗"),
    "undetermined": ("Cannot tell", "warn", "?"),
    "no-contact": ("No contact", "warn", "?"),
}
_SEGMENTS = {
    "clear": ("clear", "good", "✓"),
    "blocked": ("blocked", "bad", "✗"),
    "unknown": ("unknown", "warn", "?"),
    "not-reached": ("not reached", "dim", "·"),
}
"""Word, style and mark of a status. One that is not known here is shown as it is."""

_PATHS = {
    "direct": "the source reached the destination",
    "reverse": "the destination reached the source",
    "punched": "both sent at the same time",
    "rendezvous": "through a meeting point",
    "offline": "they did not meet",
}
_SECONDS = {
    "contact": "until the two had met",
    "verdict": "from there to the verdict",
    "total": "from the start to the end",
}
_WALLS = {True: "active", False: "not active", None: "not known"}


class Look(NamedTuple):
    """How a status is shown."""

    word: str
    style: str
    mark: str


class Piece(NamedTuple):
    """A part of a step: prose, a command inside it, or a command on a line of its own."""

    text: str
    kind: str


def write_page(path: Path, document: dict[str, object]) -> None:
    """Write `document`, made by `render.document`, as a page to `path`.

    A file that is there keeps its old content until the new one is complete.
    Raises `OSError` where that cannot be done, and nothing else.
    """
    write_whole(path, page(document).encode("utf-8"))


def _met(document: Mapping[str, object]) -> list[str]:
    contact = document.get("contact")
    refused = contact.get("refused") if isinstance(contact, Mapping) else None
    return [str(what) for what in refused.values()] if isinstance(refused, Mapping) else []


def page(document: Mapping[str, object]) -> str:
    """Return `document` as the text of a page."""
    environment = _environment()
    style, script = _source(environment, "report.css"), _source(environment, "report.js")
    verdict = msgspec.convert(document, Verdict)
    hosts = {role: _facts(document.get(role)) for role in ("source", "destination")}
    primary = [check for check in verdict.checks if check.primary] or list(verdict.checks[:1])
    inside = {blocker.code for check in verdict.checks for blocker in check.blockers}
    return environment.get_template("report.html").render(
        verdict=verdict,
        hosts=hosts,
        outside=_outside(document, hosts),
        contact=document.get("contact") or {},
        seconds=_seconds(document.get("seconds")),
        shown=primary,
        watch=document.get("watch") or (),
        others=[check for check in verdict.checks if check not in primary],
        uncovered=[code for code in verdict.blockers if code not in inside],
        alone=_alone(document.get("alone")),
        advice=no_contact_advice(_met(document)) if verdict.status == "no-contact" else (),
        # Of a third computer that combined what both had saved.
        combined="verified" in document,
        back=BACK,
        codes_back=CODES_BACK,
        notes=document.get("notes") or (),
        raw=dumps(document),
        written=dt.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        style=style,
        script=script,
        policy=_policy(style, script),
    )


def _facts(facts: object) -> HostFacts | None:
    if not isinstance(facts, Mapping):
        return None
    # Made without a check: a page must not fail for a name that is longer than a record may hold.
    known = {name: facts[name] for name in HostFacts.__struct_fields__ if name in facts}
    return HostFacts(**known | {"addresses": tuple(Address(**a) for a in known["addresses"])})


def _outside(
    document: Mapping[str, object], hosts: Mapping[str, HostFacts | None]
) -> dict[str, list[str]]:
    """What is known of each side from outside, in sentences."""
    facts = {role: read_outside(document.get(role)) for role in hosts}
    return {
        role: [line.text for line in said]
        for role, said in outside_said(facts, hosts).items()
        if said
    }


def _alone(alone: object) -> list[str]:
    lines = alone.get("lines") if isinstance(alone, Mapping) else None
    return [str(line) for line in lines] if isinstance(lines, list | tuple) else []


def _seconds(seconds: object) -> list[tuple[str, float]]:
    known = seconds if isinstance(seconds, Mapping) else {}
    return [(words, known[key]) for key, words in _SECONDS.items() if key in known]


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader  # noqa: PLC0415  25 ms, for a report only
    from markupsafe import Markup  # noqa: PLC0415

    def harmless(value: Any) -> Any:
        # Markup is what the template itself put together; all else is text.
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader(__package__, TEMPLATES),
        autoescape=True,
        finalize=harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        look=_look,
        segment=_segment,
        words=words,
        sentence=lambda text: text[:1].upper() + text[1:],
        place=_place,
        stretches=stretches,
        computer=_computer,
        shell=_shell,
        pieces=_pieces,
        wall=lambda active: _WALLS[active],
        path_words=lambda path: _PATHS.get(path, path),
        # Pure ASCII, and the only value with line breaks that shall stay.
        verbatim=lambda text: Markup("{}").format(text),
        # Files of ours, no data: a style or a script is no place for escaping.
        ours=Markup,
    )
    return environment


def _source(environment: Environment, name: str) -> str:
    loader = environment.loader
    return loader.get_source(environment, name)[0] if loader is not None else ""


def _policy(style: str, script: str) -> str:
    """What the browser lets the page do: its own style and script, known by their digests."""
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _look(status: str) -> Look:
    return Look(*_HEADS.get(status, (status, "warn", "?")))


def _segment(status: str) -> Look:
    return Look(*_SEGMENTS.get(status, (status, "warn", "?")))


def _place(check: Check) -> str:
    ports = "port" if check.ports.isdecimal() else "ports"
    return f"{check.transport.upper()} {ports} {check.ports} at {check.address}"


def _computer(fix: Fix, check: Check) -> str:
    """The computer that a fix is for, by its role in the pair; empty for what is between.

    The fix names a role in the check's direction.
    """
    roles = check.direction.split("-to-")
    return dict(zip(("source", "destination"), roles, strict=False)).get(fix.on, "")


def _shell(argv: Sequence[str], host: HostFacts | None) -> str:
    return shell(argv, host)


def _pieces(step: str, host: HostFacts | None) -> list[Piece]:
    """Cut a step at its backticks; a long command is to stand alone, to be copied."""
    pieces = []
    for index, part in enumerate(COMMAND.split(step)):
        if index % 2:
            text = with_rights(part, host)
            pieces.append(Piece(text, "line" if len(text) > INLINE else "inline"))
        elif part:
            pieces.append(Piece(part, "prose"))
    return pieces
