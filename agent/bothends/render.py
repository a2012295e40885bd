"""A verdict for people, as lines of text, and for programs, as one JSON document.

The text is written for somebody who knows nothing about networks: first what
is the matter, in one sentence; then the way as a picture, how it is known and
what to do, with the command to paste and the computer to paste it on. Details
come last, most of them with `verbose` only.

Half of what is shown was sent by the other computer. Every piece of text passes
`clean` where a `Span` is made, so that nothing in it can reach a terminal as a
control sequence; and rich is given finished spans, never its markup.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TextIO

import msgspec

from bothends_protocol.bearings import BACK, words
from bothends_protocol.evidence import HostFacts
from bothends_protocol.firewalls import WANTS_ROOT
from bothends_protocol.narrate import ports_of
from bothends_protocol.onesided import Alone
from bothends_protocol.outside_facts import OutsideFacts, punching
from bothends_protocol.outside_words import MAPPED, PORT, ROUTER, SEEN, Said, outside_lines
from bothends_protocol.pairing import DESTINATION, SOURCE
from bothends_protocol.timeline import Timeline
from bothends_protocol.verdict import VERDICT_FORMAT, Blocker, Check, Fix, Verdict

from .picture import ASCII, UNICODE, Line, Span, Symbols, draw, stretches

__all__ = [
    "CODES_BACK",
    "STYLES",
    "clean",
    "document",
    "dumps",
    "head",
    "no_contact_advice",
    "print_text",
    "text",
]

STYLES = {
    "good": "bold green",
    "bad": "bold red",
    "warn": "bold yellow",
    "strong": "bold",
    "command": "cyan",
    "dim": "dim",
}
"""Names of styles, and what rich makes of them."""

_HEADS = {
    "open": ("OPEN", "good"),
    "blocked": ("BLOCKED", "bad"),
    "undetermined": ("CANNOT TELL", "warn"),
    "no-contact": ("NO CONTACT", "warn"),
}
_COMPARE_CODES = (
    "Compare the code with the one that stands on the destination's screen now: after three wrong "
    "ones it makes a new one."
)
_RUN_BOTH = (
    "Check that bothends runs on both computers: destination on the one that should accept "
    "connections, source on the other, both with the same pairing code."
)
_NAME_THE_OTHER = (
    "Name the other computer's address: --peer ADDRESS, on both sides if a firewall on both lets "
    "nothing in."
)
_LET_IN = "If that does not help, let TCP and UDP port 24242 in on one of the two computers."
_MEET = (
    "If neither can reach the other, name a meeting point on both: --rendezvous URL. One can be "
    "started with `bothends rendezvous` on a computer that both reach."
)
CODES_BACK = (
    "This is the way back. The sentences call the two computers what they are called above; in the "
    "codes in brackets source is whoever opens the connection, in this direction the destination."
)
KNOWN_ALONE = "What this computer knows alone"
OUTSIDE = "Addresses and routers"
NOTHING: Mapping[str, Any] = MappingProxyType({})
_WHICH = "With -v, --json or --report each of these ports is listed."
_SHORT_ID = 12
"""Hexadecimal digits of the verdict's id that are shown: enough to compare by eye."""

_NAME_LENGTH = 60
"""Characters of a host's name that are shown."""

_INLINE = 44
"""Longest command left inside a sentence; longer ones get a line of their own, to be pasted."""

_MIN_WIDTH, _MAX_WIDTH = 40, 100
"""Columns: below, words no longer fit; above, lines are too long to be read."""

_COMMAND = re.compile(r"`([^`]+)`")
_GLUE = "\x00"
"""Stands for the blanks in a command while a sentence is wrapped; each becomes a blank again."""


def clean(text: str) -> str:
    """Return `text` as one line that no terminal acts upon.

    Control and format characters (escape sequences, C1 codes, bidirectional
    overrides), line breaks, surrogates and private ones become U+FFFD or a blank.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_harmless, text))


def _harmless(char: str) -> str:
    if char in "\t\n\r\v\f\x85\u2028\u2029":
        return " "
    return "\ufffd" if unicodedata.category(char).startswith("C") else char


def head(status: str) -> str:
    """Return the word for a status that stands at the head of a verdict."""
    return _HEADS.get(status, (status.upper(), ""))[0]


# For programs --------------------------------------------------------------------------------


def document(  # noqa: PLR0913  each is a part of it
    verdict: Verdict,
    *,
    source: HostFacts | None = None,
    destination: HostFacts | None = None,
    outside: Mapping[str, OutsideFacts] = NOTHING,
    contact: Mapping[str, object] | None = None,
    seconds: Mapping[str, float] | None = None,
    alone: Alone | None = None,
    timeline: Timeline | None = None,
) -> dict[str, object]:
    """Return the document of `--json` (docs/verdict.schema.json), keys in the contract's order.

    `alone`, which only a side without contact has, comes last.
    """
    body: dict[str, object] = {"format": VERDICT_FORMAT, **msgspec.to_builtins(verdict)}
    if verdict.directions is None:
        del body["directions"]
    if verdict.suggestion is None:
        del body["suggestion"]
    body |= {
        "source": _side(source, outside.get(SOURCE)),
        "destination": _side(destination, outside.get(DESTINATION)),
        "contact": {"path": "offline", "lost": False, **(contact or {}), **_punching(outside)},
        "seconds": dict(seconds or {}),
    }
    if timeline is not None:
        body["watch"] = timeline.plain()
    return body if alone is None else {**body, "alone": msgspec.to_builtins(alone)}


def _side(facts: HostFacts | None, outside: OutsideFacts | None) -> object:
    if facts is None or not outside:
        return msgspec.to_builtins(facts)
    return {**msgspec.to_builtins(facts), "outside": msgspec.to_builtins(outside)}


def _punching(outside: Mapping[str, OutsideFacts]) -> dict[str, object]:
    found = punching(outside.get(SOURCE), outside.get(DESTINATION))
    return {} if found is None else {"punching": msgspec.to_builtins(found)}


def dumps(document: Mapping[str, object]) -> str:
    """Return `document` as JSON text. Pure ASCII, so that any standard output can take it."""
    # DEL is the one control character that JSON leaves as it is.
    return json.dumps(document, indent=2, ensure_ascii=True).replace("\x7f", "\\u007f")


# For people ----------------------------------------------------------------------------------


def text(  # noqa: PLR0913  each says something else about the reader
    verdict: Verdict,
    *,
    role: str,
    source: HostFacts | None = None,
    destination: HostFacts | None = None,
    outside: Mapping[str, OutsideFacts] = NOTHING,
    contact: Mapping[str, object] | None = None,
    verbose: bool = False,
    notes: Sequence[str] = (),
    width: int = 80,
    symbols: Symbols = UNICODE,
) -> list[Line]:
    """Return the verdict as lines for the screen of `role`; a third computer's role is empty."""
    hosts = {"source": source, "destination": destination}
    columns = max(_MIN_WIDTH, min(width, _MAX_WIDTH))
    page = _Page(role, hosts, verbose, columns, symbols, tuple(notes), outside)
    return list(_verdict(verdict, contact or {}, page))


def print_text(  # noqa: PLR0913  as above
    verdict: Verdict,
    *,
    role: str,
    source: HostFacts | None = None,
    destination: HostFacts | None = None,
    outside: Mapping[str, OutsideFacts] = NOTHING,
    contact: Mapping[str, object] | None = None,
    verbose: bool = False,
    notes: Sequence[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Write the verdict to `stream` (standard output).

    In colour where that is a terminal, plain where it is not, where it is a dumb
    one, or where NO_COLOR is set. Raises `OSError` as writing does.
    """
    stream = sys.stdout if stream is None else stream
    encoding = stream.encoding or "ascii"
    terminal = stream.isatty()
    lines = text(
        verdict,
        role=role,
        source=source,
        destination=destination,
        outside=outside,
        contact=contact,
        verbose=verbose,
        notes=notes,
        width=shutil.get_terminal_size().columns - 1 if terminal else 80,
        symbols=UNICODE if _can_show(UNICODE, encoding) else ASCII,
    )
    lines = [tuple(_encodable(span, encoding) for span in line) for line in lines]
    if terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        _print_coloured(lines, stream)
    else:
        stream.writelines(_plain(line) + "\n" for line in lines)


def no_contact_advice(met: Iterable[str]) -> tuple[str, ...]:
    """Return what to do where the two did not meet; `met` is what was met where it was tried."""
    tried = list(met)
    if any("code" in what for what in tried):
        return (_COMPARE_CODES,)
    return (_RUN_BOTH, *(() if tried else (_NAME_THE_OTHER,)), _LET_IN, _MEET)


def outside_said(
    outside: Mapping[str, OutsideFacts], hosts: Mapping[str, HostFacts | None]
) -> dict[str, tuple[Said, ...]]:
    """Return in sentences, by role, what is known of the sides from outside."""
    return {
        role: outside_lines(facts, role, (a.address for a in host.addresses) if host else ())
        for role, facts in outside.items()
        for host in [hosts.get(role)]
    }


def print_alone(
    alone: Alone, stream: TextIO, outside: Mapping[str, tuple[Said, ...]] = NOTHING
) -> None:
    """Write to `stream` what one side without contact knows, and what to do about it."""
    encoding = stream.encoding or "ascii"
    symbols = UNICODE if _can_show(UNICODE, encoding) else ASCII
    width = shutil.get_terminal_size().columns - 1 if stream.isatty() else 80
    page = _Page("", {}, False, max(_MIN_WIDTH, min(width, _MAX_WIDTH)), symbols)
    lines = [
        *_listed(KNOWN_ALONE, alone.lines, page),
        *_listed(OUTSIDE, [said.text for side in outside.values() for said in side], page),
        *_listed("What to do", no_contact_advice(item.met for item in alone.dialled), page),
    ]
    lines = [tuple(_encodable(span, encoding) for span in line) for line in lines]
    stream.writelines(_plain(line) + "\n" for line in lines)
    stream.flush()


def _plain(line: Line) -> str:
    return "".join(span.text for span in line).rstrip()


def _print_coloured(lines: Sequence[Line], stream: TextIO) -> None:
    # 30 to 40 ms to load, so not before it is needed.
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=stream, markup=False, emoji=False, highlight=False)
    for line in lines:
        # Wrapped already; a command is left whole, to be pasted.
        pieces = [(span.text, STYLES.get(span.style, "")) for span in line]
        console.print(Text.assemble(*pieces), soft_wrap=True)


def _can_show(symbols: Symbols, encoding: str) -> bool:
    try:
        "".join((*symbols.marks.values(), *symbols[1:])).encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True


def _encodable(span: Span, encoding: str) -> Span:
    try:
        span.text.encode(encoding)
    except UnicodeError:
        return span._replace(text=span.text.encode(encoding, "replace").decode(encoding))
    return span


class _Page(msgspec.Struct, frozen=True):
    """Who reads, and on what."""

    role: str
    hosts: Mapping[str, HostFacts | None]
    verbose: bool
    width: int
    symbols: Symbols
    notes: tuple[str, ...] = ()
    """What is to be said of the verdict as a whole."""
    outside: Mapping[str, OutsideFacts] = msgspec.field(default_factory=dict)

    def name(self, role: str) -> str:
        """What a host calls itself; empty where that is not known."""
        facts = self.hosts.get(role)
        return clean(facts.hostname)[:_NAME_LENGTH] if facts is not None else ""


def _verdict(verdict: Verdict, contact: Mapping[str, object], page: _Page) -> Iterator[Line]:
    head, style = _HEADS.get(verdict.status, (verdict.status.upper(), "warn"))
    yield from _wrapped(f"{head}: {verdict.summary}", page, style=style, styled=len(head))
    if contact.get("lost"):
        yield from _paragraph(
            "The other computer could no longer be reached before both had agreed. This is what "
            "is known on this one alone.",
            page,
        )
    main = [check for check in verdict.checks if check.primary]
    shown = main or list(verdict.checks[:1])
    for check in shown:
        yield from _check(check, page, alone=len(shown) == 1)
    yield from _uncovered(verdict, page)
    yield from _listed(OUTSIDE, _outside(shown, page), page)
    yield from _listed("Also noticed", [_named(code) for code in verdict.warnings], page)
    others = [check for check in verdict.checks if check not in shown]
    yield from _listed("Also tested", [_brief(check) for check in others], page)
    if verdict.status == "no-contact":
        yield from _no_contact(contact, page)
    yield from _listed("About this verdict", page.notes, page)
    if page.verbose:
        yield from _details(contact, page)
    yield from _signature(verdict, page)


def _uncovered(verdict: Verdict, page: _Page) -> Iterator[Line]:
    """Causes of the verdict that belong to no single check, such as a name without address."""
    inside = {blocker.code for check in verdict.checks for blocker in check.blockers}
    rest = [_named(code) for code in verdict.blockers if code not in inside]
    yield from _listed("What blocks", rest, page)


def _check(check: Check, page: _Page, *, alone: bool) -> Iterator[Line]:
    yield ()
    if alone:
        yield from _wrapped(f"The way: {_place(check)}", page)
    else:
        head, style = _HEADS.get(check.status, (check.status.upper(), "warn"))
        yield from _wrapped(f"{head}: {_place(check)}", page, style=style, styled=len(head))
    if check.ports not in ports_of(check):
        listed = f"The ports: {check.ports.replace(',', ', ')}" if page.verbose else _WHICH
        yield from _paragraph(listed, page)
    if check.segments:
        yield ()
        for line in draw(stretches(check, page.hosts), page.symbols, page.width - 2):
            yield (Span("  "), *(Span(clean(span.text), span.style) for span in line))
    if check.direction == BACK and (check.blockers or check.candidates):
        yield from _paragraph(CODES_BACK, page)
    yield from _blockers(check, page)
    told = {line for blocker in check.blockers for line in blocker.because}
    seen = [line for segment in check.segments for line in segment.because if line not in told]
    if check.status != "blocked" or page.verbose:
        yield from _listed("How we know", list(dict.fromkeys(seen)), page)
    yield from _candidates(check, page)
    yield from _listed("Please note", check.notes, page)


def _outside(shown: Sequence[Check], page: _Page) -> list[str]:
    """What is known from outside: all of it, or what the verdict has to do with."""
    said = outside_said(page.outside, page.hosts)
    if page.verbose:
        found = punching(page.outside.get(SOURCE), page.outside.get(DESTINATION))
        every = [line.text for side in said.values() for line in side]
        return every if found is None else [*every, found.text]
    # The router that counts is that of whoever is to be reached.
    asked = {_computer(DESTINATION, check) for check in shown if _is_about_routers(check, page)}
    return [
        line.text
        for role, side in said.items()
        for line in side
        if line.about == MAPPED or (role in asked and line.about in (SEEN, ROUTER, PORT))
    ]


def _is_about_routers(check: Check, page: _Page) -> bool:
    codes = (*(blocker.code for blocker in check.blockers), *check.candidates)
    between = any(segment.name == "nat" for segment in stretches(check, page.hosts))
    unclear = between and check.status == "undetermined"
    return unclear or any(code.startswith(("address.", "nat.")) for code in codes)


def _place(check: Check) -> str:
    ends = check.direction.split("-to-")
    way = f", from the {ends[0]} to the {ends[1]}" if len(ends) == 2 else ""
    return f"{ports_of(check)} at {check.address}{way}"


def _blockers(check: Check, page: _Page) -> Iterator[Line]:
    count = len(check.blockers)
    if count > 1:
        yield from _paragraph(f"There are {count} causes. Fix them in this order.", page)
    for number, blocker in enumerate(check.blockers, start=1):
        yield ()
        label = f"Cause {number}" if count > 1 else "Cause"
        likely = "" if blocker.confidence == "proven" else "most likely "
        detail = f" [{blocker.code}, {blocker.confidence}]"
        says = f"{label}: {likely}{words(blocker.code, check.direction, check.transport)}{detail}"
        yield from _wrapped(says, page, style="strong", styled=len(says) - len(detail))
        yield from _listed("How we know", blocker.because, page)
        yield from _fixes(blocker, check, page)


def _fixes(blocker: Blocker, check: Check, page: _Page) -> Iterator[Line]:
    if not blocker.fix:
        return
    yield ()
    yield (Span("What to do", "strong"),)
    for number, fix in enumerate(blocker.fix, start=1):
        yield from _fix(f"{number}. ", fix, check, page)


def _fix(label: str, fix: Fix, check: Check, page: _Page) -> Iterator[Line]:
    host = page.hosts.get(_computer(fix.on, check))
    indent = " " * (2 + len(label))
    first = f"{_where(fix.on, check, page)}: {fix.title}"
    yield from _wrapped(first, page, first=f"  {label}", rest=indent)
    if fix.argv:
        yield (Span(f"{indent}    "), Span(clean(_shell(fix.argv, host)), "command"))
    for step in fix.steps:
        yield from _step(step, indent, host, page)


def _step(step: str, indent: str, host: HostFacts | None, page: _Page) -> Iterator[Line]:
    """A step: prose wrapped, short commands inside it unbroken, long ones on their own line."""
    bullet = f"{indent}{page.symbols.bullet} "
    rest = indent + "  "
    prose = ""
    for index, part in enumerate(_COMMAND.split(clean(step))):
        is_command = index % 2 == 1
        shown = _with_rights(part, host) if is_command else part
        if is_command and len(shown) > _INLINE:
            if prose.strip(" .,"):
                yield from _wrapped(prose.strip(), page, first=bullet, rest=rest)
            yield (Span(f"{rest}    "), Span(shown, "command"))
            prose, bullet = "", rest
        else:
            prose += f"`{shown.replace(' ', _GLUE)}`" if is_command else shown
    if prose.strip(" .,"):
        yield from _wrapped(prose.strip(), page, first=bullet, rest=rest)


def _where(on: str, check: Check, page: _Page) -> str:
    if on not in page.hosts:
        return "On the router or the network between"
    computer = _computer(on, check)
    which = "this computer" if computer == page.role else "the other computer" if page.role else ""
    label = ", ".join(filter(None, (which, page.name(computer))))
    return f"On the {computer} ({label})" if label else f"On the {computer}"


def _computer(on: str, check: Check) -> str:
    """The role of the computer that a fix is for: its words are relative to the direction."""
    if check.direction == "destination-to-source":
        return {"source": "destination", "destination": "source"}.get(on, on)
    return on


def _shell(argv: Sequence[str], host: HostFacts | None) -> str:
    if host is not None and host.system == "Windows":
        return subprocess.list2cmdline(argv)
    return _with_rights(shlex.join(argv), host)


def _with_rights(line: str, host: HostFacts | None) -> str:
    """The command with sudo before it, on systems that have it, unless root runs the agent."""
    if host is None or host.privileged or host.system not in ("Linux", "Darwin"):
        return line
    return f"sudo {line}" if line.split(" ", 1)[0] in WANTS_ROOT else line


def _candidates(check: Check, page: _Page) -> Iterator[Line]:
    found = {blocker.code for blocker in check.blockers}
    rest = [
        _named(code, check.direction, check.transport)
        for code in check.candidates
        if code not in found
    ]
    proven = bool(found) and all(blocker.confidence == "proven" for blocker in check.blockers)
    if check.status != "open" and not proven:
        head = "It could also be" if found else "What it can be, likeliest first"
        yield from _listed(head, rest, page)
        if check.next_step:
            yield from _listed("What would decide it", [check.next_step], page)


def _named(code: str, direction: str = "", transport: str = "tcp") -> str:
    says = words(code, direction, transport)
    return f"{says} [{code}]" if says != code else code


def _brief(check: Check) -> str:
    causes = [words(blocker.code, check.direction, check.transport) for blocker in check.blockers]
    if not causes:
        return f"{_place(check)}: {_HEADS.get(check.status, (check.status, ''))[0].lower()}"
    return f"{_place(check)}: blocked, {'; '.join(causes)}"


def _no_contact(contact: Mapping[str, object], page: _Page) -> Iterator[Line]:
    refused = contact.get("refused")
    found = refused if isinstance(refused, Mapping) else {}
    met = [f"{place}: {what}" for place, what in found.items()]
    yield from _listed("What was tried", met, page)
    yield from _listed("What to do", no_contact_advice(map(str, found.values())), page)


def _details(contact: Mapping[str, object], page: _Page) -> Iterator[Line]:
    rows = [f"{role}: {_host(facts)}" for role, facts in page.hosts.items() if facts is not None]
    if contact:
        rows.append(
            f"contact: {contact.get('path', 'unknown')}, from {contact.get('local') or 'nowhere'} "
            f"to {contact.get('remote') or 'nowhere'}"
        )
    yield from _listed("Details", rows, page)
    for role, facts in page.hosts.items():
        if facts is not None:
            yield from _listed(f"Notes of the {role}", facts.notes, page)


def _host(facts: HostFacts) -> str:
    addresses = ", ".join(f"{item.address}/{item.prefix}" for item in facts.addresses)
    states = {True: "active", False: "inactive", None: "unknown"}
    walls = ", ".join(f"{item.name} {states[item.active]}" for item in facts.firewalls)
    rights = "may see packets" if facts.privileged else "may not see packets"
    return (
        f"{facts.hostname}; {facts.release or facts.system}, kernel {facts.kernel}; "
        f"{facts.product} {facts.version}, {rights}; addresses {addresses or 'none'}; "
        f"firewalls {walls or 'none found'}"
    )


def _signature(verdict: Verdict, page: _Page) -> Iterator[Line]:
    if verdict.verdict_id is not None:
        same = " The other computer shows the same." if page.role else ""
        says = f"Verdict {verdict.verdict_id[:_SHORT_ID]}.{same}"
        yield from _paragraph(says, page, style="dim")


def _paragraph(text: str, page: _Page, style: str = "") -> Iterator[Line]:
    yield ()
    yield from _wrapped(text, page, style=style)


def _listed(head: str, items: Sequence[str], page: _Page) -> Iterator[Line]:
    if not items:
        return
    yield ()
    yield (Span(clean(head), "strong"),)
    for item in items:
        yield from _wrapped(item, page, first=f"  {page.symbols.bullet} ", rest="    ")


def _wrapped(
    text: str,
    page: _Page,
    *,
    first: str = "",
    rest: str = "",
    style: str = "",
    styled: int | None = None,
) -> Iterator[Line]:
    """Wrap `text`, its first `styled` characters (all) in `style`; commands stay unbroken."""
    kept = "".join(char if char == _GLUE else clean(char) for char in text)
    lines = textwrap.wrap(
        kept,
        page.width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    left = len(kept) if styled is None else styled
    for number, line in enumerate(lines):
        indent = first if number == 0 else rest
        body = line[len(indent) :]
        yield (
            Span(indent),
            *_spans(body[: max(left, 0)], style),
            *_spans(body[max(left, 0) :], ""),
        )
        left -= len(body) + 1


def _spans(text: str, style: str) -> Iterator[Span]:
    for index, part in enumerate(_COMMAND.split(text)):
        shown = part.replace(_GLUE, " ")
        if shown:
            yield Span(f"`{shown}`", "command") if index % 2 else Span(shown, style)
