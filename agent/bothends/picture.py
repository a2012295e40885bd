"""The way from source to destination as a picture: a mark per segment, joined by lines.

       source       network    router (NAT)   destination     service
         ✓ ─────────── ✓ ─────────── ✓ ──────────── ✗ ┄┄┄┄┄┄┄┄┄┄┄ ·
       clear         clear        clear         blocked     not reached

Where nobody translates addresses there is no router (NAT) in it. Narrow
terminals get one line per segment instead; terminals that cannot show the marks
get ASCII ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from msgspec.structs import replace

from bothends_protocol.addresses import bare
from bothends_protocol.bearings import BACK
from bothends_protocol.evidence import HostFacts
from bothends_protocol.verdict import Check, Segment

__all__ = ["ASCII", "UNICODE", "Line", "Span", "Symbols", "draw", "stretches"]


class Span(NamedTuple):
    """A piece of a line. `style` is a name of `render.STYLES`, or empty."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


class Symbols(NamedTuple):
    """The characters of the picture and of lists."""

    marks: dict[str, str]
    solid: str
    broken: str
    bullet: str


UNICODE = Symbols({"clear": "✓", "blocked": "✗", "unknown": "?", "not-reached": "·"}, "─", "┄", "•")
ASCII = Symbols({"clear": "+", "blocked": "X", "unknown": "?", "not-reached": "."}, "-", " ", "-")

_STYLES = {"clear": "good", "blocked": "bad", "unknown": "warn", "not-reached": "dim"}
_NAMES = {"nat": "router (NAT)"}
_WORDS = {"not-reached": "not reached"}
_ENDS_BACK = {"source": "destination", "destination": "source"}
_GAP = 2
"""Columns between two names."""


def stretches(check: Check, hosts: Mapping[str, HostFacts | None]) -> tuple[Segment, ...]:
    """Return the segments of `check` that there are on its way.

    The contract has one for NAT always, and calls it clear where the tested address is one of the
    computer that is to be reached (`hosts` by role): a picture would show a router in the way.
    On the way back the ends are named as the computers of the pair are: it begins at the
    destination.
    """
    facts = hosts.get(check.direction.rpartition("-to-")[2])
    own = {bare(item.address) for item in facts.addresses} if facts is not None else set()
    direct = bare(check.address) in own
    ends = _ENDS_BACK if check.direction == BACK else {}
    return tuple(
        replace(segment, name=ends.get(segment.name, segment.name))
        for segment in check.segments
        if not (direct and segment.name == "nat" and segment.status == "clear")
    )


def draw(segments: Sequence[Segment], symbols: Symbols, width: int) -> list[Line]:
    """Return the lines of the picture, not wider than `width` as long as that is possible."""
    names = [_NAMES.get(segment.name, segment.name) for segment in segments]
    words = [_WORDS.get(segment.status, segment.status) for segment in segments]
    columns = [max(map(len, pair)) + _GAP for pair in zip(names, words, strict=True)]
    if sum(columns) > width:
        return _list(segments, names, words, symbols)
    styles = [_STYLES.get(segment.status, "") for segment in segments]
    return [
        (Span(_row(names, columns)),),
        _way(segments, columns, symbols),
        tuple(
            Span(word.center(column), style)
            for word, column, style in zip(words, columns, styles, strict=True)
        ),
    ]


def _row(texts: Sequence[str], columns: Sequence[int]) -> str:
    return "".join(text.center(column) for text, column in zip(texts, columns, strict=True))


def _way(segments: Sequence[Segment], columns: Sequence[int], symbols: Symbols) -> Line:
    """The marks, centred in their columns as `str.center` does it, and the lines between."""
    places = []
    start = 0
    for column in columns:
        places.append(start + len("x".center(column).partition("x")[0]))
        start += column
    spans = [Span(" " * places[0])] if places else []
    for (segment, place), following in pairwise([*zip(segments, places, strict=True), (None, 0)]):
        if segment is None:
            break
        spans.append(_mark(segment, symbols))
        if following[0] is not None:
            line = symbols.solid if segment.status == "clear" else symbols.broken
            spans.append(Span(f" {line * (following[1] - place - 3)} ", "dim"))
    return tuple(spans)


def _list(
    segments: Sequence[Segment], names: Sequence[str], words: Sequence[str], symbols: Symbols
) -> list[Line]:
    return [
        (_mark(segment, symbols), Span(f" {name}: {word}"))
        for segment, name, word in zip(segments, names, words, strict=True)
    ]


def _mark(segment: Segment, symbols: Symbols) -> Span:
    return Span(symbols.marks.get(segment.status, "?"), _STYLES.get(segment.status, ""))
