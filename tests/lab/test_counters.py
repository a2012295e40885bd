"""scripts/counters: that what docs/counters.md says of a kernel is still what is measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "counters"


def run(*faults: str) -> subprocess.CompletedProcess[str]:
    """Run it, and see that it left none of its namespaces."""
    argv = [sys.executable, str(SCRIPT), *faults]
    with subprocess.Popen(
        argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        output, errors = process.communicate()
    listed = subprocess.run(["ip", "netns", "list"], text=True, capture_output=True, check=True)
    assert f"counters-{process.pid}-" not in listed.stdout
    return subprocess.CompletedProcess(argv, process.returncode, output, errors)


@pytest.mark.parametrize(
    ("fault", "source", "destination"),
    [
        ("destination INPUT drop", "dev.tx", "Ip.InReceives, dev.rx"),
        ("destination ingress drop", "dev.tx", "dev.rx"),
        ("router FORWARD drop", "dev.tx", "-"),
        (
            "UDP none, program does not read",
            "dev.tx",
            "Ip.InReceives, Ip.InDelivers, dev.rx",
        ),
    ],
)
def test_a_fault_shows_where_the_table_says(fault: str, source: str, destination: str) -> None:
    done = run(fault)
    assert done.returncode == 0, done.stderr
    four = next(line for line in done.stdout.splitlines() if line.startswith(f"| {fault} |"))
    cells = [cell.strip() for cell in four.strip("|").split("|")]
    assert cells[1].endswith(source)
    assert cells[2] == destination
    # The document is of the same kernel family, or of an older one.
    if tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 7):
        assert four in (ROOT / "docs" / "counters.md").read_text("utf-8")


def test_a_fault_that_is_none_is_told_in_a_sentence() -> None:
    done = run("none of them")
    assert done.returncode == 2
    assert "no such fault: none of them" in done.stdout
