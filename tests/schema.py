"""Checks a --json document against docs/verdict.schema.json, and what a schema cannot say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

__all__ = ["KEYS", "schema", "validate"]

SCHEMA = Path(__file__).parents[1] / "docs" / "verdict.schema.json"

KEYS = (
    "format",
    "verdict_id",
    "status",
    "reachable",
    "blockers",
    "warnings",
    "candidates",
    "summary",
    "checks",
    "directions",
    "suggestion",
    "source",
    "destination",
    "contact",
    "seconds",
    "watch",
    "verified",
    "notes",
)
"""Keys of the contract in its order; `directions` with --both-ways, `watch` with --watch only,
`suggestion` of `suggest` only, the last two of `combine` only."""


@cache
def schema() -> Any:
    """Return the published schema."""
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


@cache
def _validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(schema())
    return Draft202012Validator(schema())


def validate(document: Mapping[str, object]) -> None:
    """Raise `AssertionError`, which names every fault, unless `document` keeps the contract."""
    # As a reader gets it: tuples are arrays, and nothing but JSON is in it.
    plain = json.loads(json.dumps(document, allow_nan=False))
    faults = [f"{error.json_path}: {error.message}" for error in _validator().iter_errors(plain)]
    known = [key for key in plain if key in KEYS]
    if known != [key for key in KEYS if key in known]:
        faults.append(f"keys out of order: {known}")
    if plain.get("status") == "blocked":
        inside = {b["code"] for check in plain["checks"] for b in check["blockers"]}
        # A name that does not resolve has no address, and so no check.
        lost = set(plain["blockers"]) - inside - {"source.name"}
        if lost:
            faults.append(f"blockers without a check: {sorted(lost)}")
    assert not faults, "\n".join(faults)
