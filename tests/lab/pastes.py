"""``scripts/pastes``: how long pasted evidence is, and whether it is judged like the whole.

Runs scenarios of the lab with ``--paste`` on both ends, reads what they printed
back and judges it. Ends with 1 where anything comes out otherwise than the two
agents said.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence

from bothends_protocol.code import parse_code
from bothends_protocol.judge import judge
from bothends_protocol.paste import open_block, read_paste
from bothends_protocol.sealed import pair_up

from . import agents, scenario
from .cli import _select as select
from .scenarios import by_name

__all__ = ["main"]

DIFFERENT, USAGE = 1, 2
TYPICAL = (
    *("open", "open@users", "destination-drop", "destination-drop@users"),
    *("source-drop", "not-running"),
)
"""What most runs are like; docs/protocol.md shows what comes of them."""
MARK = "bothends-paste "


@dataclasses.dataclass(frozen=True)
class Pasted:
    """What came of one scenario."""

    letters: dict[str, int]
    """Of all lines, their ends too, by side."""
    lines: dict[str, int]
    differs: str
    """What is judged otherwise; empty where nothing is."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/pastes", description=__doc__.split(":", 1)[1])
    parser.add_argument("names", nargs="*", metavar="NAME", help="names or patterns of scenarios")
    options = parser.parse_args(arguments)
    names = select(options.names or TYPICAL, user=False)
    if os.geteuid() != 0 or not names:
        print("the lab needs root, and a scenario of that name", file=sys.stderr)
        return USAGE
    bad = False
    print(f"{'scenario':45} {'source':>18} {'destination':>18}")
    for name in names:
        found = run(name)
        if found is None:
            print(f"{name:45} they did not agree on a verdict")
            continue
        sides = (
            f"{found.lines[role]:3} lines, {found.letters[role]:5}"
            for role in ("source", "destination")
        )
        print(f"{name:45} {'  '.join(sides)}  {found.differs or 'the same'}", flush=True)
        bad = bad or bool(found.differs)
    return DIFFERENT if bad else 0


def run(name: str) -> Pasted | None:
    """Run a scenario and read its pastes; None where there is no joint verdict to compare with."""
    row = by_name(name)
    row = dataclasses.replace(
        row,
        source_args=(*row.source_args, "--paste"),
        destination_args=(*row.destination_args, "--paste"),
    )
    results = scenario.run(row).results
    document = results[0].document
    if document is None or document["verdict_id"] is None:
        return None
    text = "".join(result.stderr for result in results)
    code = parse_code(agents.CODE)
    one, other = (open_block(block, code) for block in read_paste(text))
    source, destination = pair_up(one, other)
    verdict = judge(source.evidence, destination.evidence)
    pairs = {
        key: (document[key], getattr(verdict, key))
        for key in ("status", "reachable", "blockers", "warnings", "candidates")
    }
    differs = [f"{key}: {a} became {b}" for key, (a, b) in pairs.items() if a not in (b, [*b])]
    return Pasted(
        letters={role: sum(len(x) + 1 for x in of(text, role)) for role in agents_of(results)},
        lines={role: len(list(of(text, role))) for role in agents_of(results)},
        differs="; ".join(differs),
    )


def agents_of(results: Sequence[agents.Result]) -> list[str]:
    return [result.side for result in results]


def of(text: str, role: str) -> Iterator[str]:
    """The lines of a side's paste."""
    return (line for line in text.splitlines() if line.startswith(MARK) and f" {role} " in line)


if __name__ == "__main__":
    sys.exit(main())
