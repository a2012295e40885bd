"""For all tests.

Hypothesis has no deadline, since how long an example takes says nothing here. And
the scenarios with ordinary users are counted: nine in ten must be right.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")

SHARE = 0.9
ENOUGH = 50
"""Scenarios from which on a share means something: not for a single one that was asked for."""

_right: list[bool] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how a scenario with ordinary users came out; with xdist, in the process that reports."""
    if report.when == "call":
        _right.extend(
            bool(value) for name, value in report.user_properties if name.startswith("right as")
        )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run in which too few of them were right."""
    worker = hasattr(session.config, "workerinput")
    if not worker and _too_few() and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many were right."""
    if _right:
        words = f"as ordinary users: {sum(_right)} of {len(_right)} scenarios right"
        verdict = "TOO FEW, " if _too_few() else ""
        terminalreporter.write_line(verdict + words)


def _too_few() -> bool:
    return len(_right) >= ENOUGH and sum(_right) < SHARE * len(_right)


@pytest.fixture(autouse=True)
def _no_router_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs within a test stay on loopback: this machine's own router is none of their business."""
    monkeypatch.setattr("bothends.outside.default_gateways", tuple)
