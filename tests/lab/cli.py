"""``scripts/lab``: run scenarios by name, one line each, and a confusion matrix at the end.

Scenarios run in worker processes (``worker.py``), since a lab belongs to the
thread that made it. A worker ends with its standard input, and its labs with
it, so nothing stays after Ctrl-C or a kill.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import os
import selectors
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from .grading import Grade
from .scenarios import SCENARIOS, by_name

__all__ = ["main"]

FAILED = 1
USAGE = 2
INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class Line:
    """What a worker tells of one run."""

    name: str
    grade: Grade
    label: str
    named: tuple[str, ...]
    seconds: float
    verdict_seconds: float
    build_seconds: float
    explanation: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    names = _select(options.names, user=options.user)
    if not names:
        print(f"no scenario is called {' '.join(options.names)}; --list shows all", file=sys.stderr)
        return USAGE
    if options.list:
        for name in names:
            print(f"{name:45} {by_name(name).expected.status}: {by_name(name).expected.label}")
        return 0
    if os.geteuid() != 0:
        print("the lab makes network namespaces: run it as root", file=sys.stderr)
        return USAGE
    lines: list[Line] = []
    try:
        for line in _run(names * options.times, options.jobs):
            lines.append(line)
            _show(line, verbose=options.verbose)
    except KeyboardInterrupt:
        print("interrupted")
        _show_matrix(lines)
        return INTERRUPTED
    _show_matrix(lines)
    return FAILED if any(line.grade is Grade.WRONG for line in lines) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/lab", description=__doc__.split(":", 1)[1])
    parser.add_argument("names", nargs="*", metavar="NAME", help="names or patterns; all without")
    parser.add_argument(
        "--list", action="store_true", help="show the scenarios and what must come out"
    )
    parser.add_argument("--times", type=int, default=1, metavar="N", help="run each that often")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument(
        "--user",
        action="store_true",
        help="both ends of each as an ordinary user, who may see less",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="all that both agents said, for each"
    )
    return parser.parse_args(arguments)


def _select(patterns: Sequence[str], *, user: bool) -> list[str]:
    chosen = [
        name
        for name in SCENARIOS
        if not patterns or any(fnmatch.fnmatchcase(name, each) for each in patterns)
    ]
    if not user:
        return chosen
    bases = dict.fromkeys(name.partition("@")[0] for name in chosen)
    return [f"{name}@users" for name in bases]


# -- workers


def _run(names: Sequence[str], jobs: int) -> Iterator[Line]:
    """Run them in that order, ``jobs`` side by side; results as they come."""
    waiting = iter(names)
    workers = [_start_worker() for _ in range(min(jobs, len(names)))]
    with selectors.DefaultSelector() as selector:
        try:
            for worker in workers:
                assert worker.stdout is not None
                selector.register(worker.stdout, selectors.EVENT_READ, worker)
                _give(worker, waiting)
            while selector.get_map():
                for key, _ in selector.select():
                    yield from _take(selector, key.data, waiting)
        finally:
            for worker in workers:
                _end_worker(worker)


def _start_worker() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for us; a worker ends with its input
    )


def _give(worker: subprocess.Popen[str], waiting: Iterator[str]) -> None:
    assert worker.stdin is not None
    name = next(waiting, None)
    if name is None:
        worker.stdin.close()
    else:
        print(name, file=worker.stdin, flush=True)


def _take(
    selector: selectors.BaseSelector, worker: subprocess.Popen[str], waiting: Iterator[str]
) -> Iterator[Line]:
    output: IO[str] | None = worker.stdout
    assert output is not None
    text = output.readline()
    if not text:
        selector.unregister(output)
        if worker.wait() != 0:
            raise SystemExit(FAILED)  # it has said why, on standard error
        return
    _give(worker, waiting)
    yield _line(json.loads(text))


def _line(document: dict[str, Any]) -> Line:
    return Line(
        **{**document, "grade": Grade(document["grade"]), "named": tuple(document["named"])}
    )


def _end_worker(worker: subprocess.Popen[str]) -> None:
    """Its labs go with it: their holders see their sockets close."""
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            stream.close()
    worker.kill()
    worker.wait()


# -- what is shown


def _show(line: Line, *, verbose: bool) -> None:
    print(
        f"{line.name:45} {line.grade:8} {line.seconds:6.2f} s  {', '.join(line.named)}", flush=True
    )
    if verbose or line.grade is not Grade.RIGHT:
        print("    " + line.explanation.replace("\n", "\n    "), flush=True)


def _show_matrix(lines: Iterable[Line]) -> None:
    """Expected causes by what came of them, and what was named where it was not right."""
    by_label: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_label[line.label].append(line)
    print(
        f"\n{'expected':55}"
        + "".join(f"{grade:>9}" for grade in Grade)
        + "   median  verdict    worst  named otherwise"
    )
    for label, group in sorted(by_label.items()):
        _show_row(label, group)
    _show_row("all", [line for group in by_label.values() for line in group])


def _show_row(label: str, group: Sequence[Line]) -> None:
    grades = Counter(line.grade for line in group)
    otherwise = Counter(" + ".join(line.named) for line in group if line.grade is not Grade.RIGHT)
    median = statistics.median(line.seconds for line in group) if group else 0.0
    verdicts = [line.verdict_seconds for line in group if line.verdict_seconds] or [0.0]
    print(
        f"{label:55}"
        + "".join(f"{grades[grade]:9}" for grade in Grade)
        + f"{median:7.2f} s{statistics.median(verdicts):7.2f} s{max(verdicts):7.2f} s  "
        + ", ".join(f"{named} ({count})" for named, count in otherwise.most_common())
    )
