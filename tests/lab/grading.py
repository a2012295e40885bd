"""Whether what the two agents said is right: pure, from documents and expectations to a grade.

- **right**: the expected status and exactly the expected causes, both sides alike.
- **partial**: some of the expected causes, and nothing that is not true.
- **unknown**: undetermined where more could be said, with what is expected among the candidates.
- **wrong**: something untrue was named, the sides differ, or an agent did not end as it should.

A wrong blame is the worst result there is, so everything that is in doubt here is wrong.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Sequence
from typing import Any

from .agents import Result

__all__ = [
    "DIRECTIONS",
    "Expected",
    "Grade",
    "Graded",
    "blocked",
    "both_ways",
    "grade",
    "open_",
    "undetermined",
]

JOINT = (
    "verdict_id",
    "status",
    "reachable",
    "blockers",
    "warnings",
    "candidates",
    "summary",
    "checks",
)
"""What is equal on both sides to the byte (design, part 3)."""

DIRECTIONS = ("source-to-destination", "destination-to-source")

REACHABLE = {"open": "yes", "blocked": "no"}


class Grade(enum.StrEnum):
    """From best to worst."""

    RIGHT = "right"
    PARTIAL = "partial"
    UNKNOWN = "unknown"
    WRONG = "wrong"


@dataclasses.dataclass(frozen=True)
class Expected:
    """What is true of a scenario, and what must be said of it."""

    status: str
    blockers: frozenset[str] = frozenset()
    """The causes that must be named."""
    also_true: frozenset[str] = frozenset()
    """Causes that are true and may be named, but need not be seen."""
    candidates: frozenset[str] = frozenset()
    """Causes that must be among the candidates where they are not named."""
    warnings: frozenset[str] = frozenset()
    allowed_warnings: frozenset[str] = frozenset()
    ways: tuple[Expected, ...] = ()
    """With --both-ways what must be said of each direction, in the order of ``DIRECTIONS``."""
    further: tuple[tuple[str, str], ...] = ()
    """Addresses that must be shown without deciding, each with its cause or its status."""

    @property
    def label(self) -> str:
        """What is the matter, as the confusion matrix heads its rows."""
        return " + ".join(sorted(self.blockers or self.also_true)) or self.status

    @property
    def truth(self) -> frozenset[str]:
        return self.blockers | self.also_true

    def relaxed(self) -> Expected:
        """The same for agents that see less: a cause may be a candidate instead of named."""
        return dataclasses.replace(
            self,
            candidates=self.candidates | self.blockers,
            ways=tuple(way.relaxed() for way in self.ways),
        )


def open_(*warnings: str) -> Expected:
    """Reachable, with these warnings."""
    return Expected("open", warnings=frozenset(warnings))


def blocked(*blockers: str, also: Sequence[str] = (), candidates: Sequence[str] = ()) -> Expected:
    """Blocked by all of these; ``also`` is true too, but may stay hidden behind them."""
    return Expected("blocked", frozenset(blockers), frozenset(also), frozenset(candidates))


def undetermined(*candidates: str) -> Expected:
    """Nobody can tell there; these are the true causes, and naming them is right too."""
    return Expected(
        "undetermined", also_true=frozenset(candidates), candidates=frozenset(candidates)
    )


def both_ways(forth: Expected, back: Expected) -> Expected:
    """What is true of the two directions together: one that is blocked makes all so."""
    ways = (forth, back)
    statuses = {way.status for way in ways}
    return Expected(
        next(s for s in ("blocked", "undetermined", "open") if s in statuses),
        forth.blockers | back.blockers,
        forth.also_true | back.also_true,
        # What one direction must name, the other need not.
        (forth.candidates - back.blockers) | (back.candidates - forth.blockers),
        ways=ways,
    )


@dataclasses.dataclass(frozen=True)
class Graded:
    grade: Grade
    named: tuple[str, ...]
    """The causes that were named, or the status where none was."""
    notes: tuple[str, ...] = ()
    """Why it is not better."""


def grade(expected: Expected, results: Sequence[Result]) -> Graded:
    """Grade what both agents of one run left."""
    flaws = [flaw for result in results for flaw in result.flaws]
    documents = [result.document for result in results]
    first = documents[0]
    if flaws or first is None or documents[1] is None:
        return Graded(Grade.WRONG, ("failure",), tuple(flaws))
    if differences := _differences(first, documents[1]):
        return Graded(Grade.WRONG, ("disagreement",), tuple(differences))
    return grade_document(expected, first)


def _differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    return [
        f"{key} differs: {_bytes(first.get(key))[:300]} and {_bytes(second.get(key))[:300]}"
        for key in JOINT
        if key not in first or key not in second or _bytes(first[key]) != _bytes(second[key])
    ] + [
        "directions differ"
        for ways in [[document.get("directions") for document in (first, second)]]
        if _bytes(ways[0]) != _bytes(ways[1])
    ]


def _bytes(value: Any) -> str:
    """The value as it stands in a document, order of keys included."""
    return json.dumps(value)


def grade_document(expected: Expected, document: dict[str, Any]) -> Graded:
    """Grade the joint part of one document."""
    status = document["status"]
    named = tuple(document["blockers"]) or (status,)
    untrue = _untrue(expected, document) + _untrue_ways(expected, document)
    if untrue:
        return Graded(Grade.WRONG, named, tuple(untrue))
    missing = (*_missing(expected, document), *_missing_elsewhere(expected, document))
    if status == "undetermined":
        return Graded(_grade_of_undetermined(expected, document, missing), named, missing)
    return Graded(Grade.PARTIAL if missing else Grade.RIGHT, named, missing)


def _grade_of_undetermined(
    expected: Expected, document: dict[str, Any], missing: Sequence[str]
) -> Grade:
    """Right where no more can be said; wrong where all that is true has been ruled out."""
    true = expected.truth | expected.candidates
    if true and not true & set(document["candidates"]):
        return Grade.WRONG
    return Grade.RIGHT if expected.status == "undetermined" and not missing else Grade.UNKNOWN


def _untrue(expected: Expected, document: dict[str, Any]) -> list[str]:
    """Everything in the document that the scenario makes false."""
    status = document["status"]
    found = [f"untrue: {code}" for code in document["blockers"] if code not in expected.truth]
    warnings = set(document["warnings"]) - expected.warnings - expected.allowed_warnings
    found += [f"untrue warning: {code}" for code in sorted(warnings)]
    really = "yes" if expected.status == "open" else "no"
    if document["reachable"] not in (really, "unknown"):
        found.append(f"reachable is {document['reachable']!r}")
    if document["reachable"] != REACHABLE.get(status, document["reachable"]):
        found.append(f"{status!r} does not go with reachable {document['reachable']!r}")
    if status == "blocked" and not document["blockers"]:
        found.append("blocked, but nothing is named")
    if status != "blocked" and document["blockers"]:
        found.append(f"{status!r}, but something is named")
    if status in REACHABLE and REACHABLE[status] != really:
        found.append(f"{status!r} is not true")
    if status == "no-contact":
        found.append("the agents did not meet")
    return found


def _missing(expected: Expected, document: dict[str, Any]) -> list[str]:
    """What should have been said and was not.

    An expected cause that ``candidates`` lists too (relaxed) need only be a candidate.
    """
    blockers, candidates = set(document["blockers"]), set(document["candidates"])
    must_name = expected.blockers - expected.candidates
    must_list = expected.candidates - blockers
    found = [f"not named: {code}" for code in sorted(must_name - blockers)]
    found += [f"not a candidate: {code}" for code in sorted(must_list - candidates)]
    found += [
        f"no warning: {code}" for code in sorted(expected.warnings - set(document["warnings"]))
    ]
    return found


def _untrue_ways(expected: Expected, document: dict[str, Any]) -> list[str]:
    """What is false of single directions; one that is not told of is as bad."""
    told = document.get("directions")
    if not expected.ways:
        return ["directions, though one was asked for"] if told is not None else []
    if told is None or set(told) != set(DIRECTIONS):
        return ["the directions are not told apart"]
    found = []
    for name, way in zip(DIRECTIONS, expected.ways, strict=True):
        status, named = told[name]["status"], told[name]["blockers"]
        found += [f"untrue, {name}: {code}" for code in named if code not in way.truth]
        if status in REACHABLE and REACHABLE[status] != REACHABLE.get(way.status, "no"):
            found.append(f"{name}: {status!r} is not true")
        if (status == "blocked") != bool(named):
            found.append(f"{name}: {status!r} does not go with {named}")
    return found


def _missing_elsewhere(expected: Expected, document: dict[str, Any]) -> list[str]:
    """What should have been said of single directions, and of addresses that do not decide."""
    found = []
    for name, way in zip(DIRECTIONS, expected.ways, strict=False):
        named = set(document["directions"][name]["blockers"])
        checks = [check for check in document["checks"] if check["direction"] == name]
        listed = {code for check in checks for code in check["candidates"]}
        found += [f"not named, {name}: {c}" for c in way.blockers - way.candidates - named]
        found += [f"not a candidate, {name}: {c}" for c in way.candidates - named - listed]
    for address, what in expected.further:
        shown = [c for c in document["checks"] if c["address"] == address and not c["primary"]]
        said = {code for c in shown for code in (c["status"], *(b["code"] for b in c["blockers"]))}
        if what not in said:
            found.append(f"not shown of {address}: {what}")
    return sorted(found)
