"""A worker of ``scripts/lab``: names of scenarios in, one line of JSON for each out."""

from __future__ import annotations

import json
import sys

from . import scenario
from .scenarios import by_name


def main() -> None:
    for line in sys.stdin:
        row = by_name(line.strip())
        outcome = scenario.run(row)
        document = {
            "name": row.name,
            "grade": outcome.graded.grade,
            "label": row.expected.label,
            "named": outcome.graded.named,
            "seconds": outcome.seconds,
            "verdict_seconds": outcome.verdict_seconds,
            "build_seconds": outcome.build_seconds,
            "explanation": outcome.explain(),
        }
        print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
