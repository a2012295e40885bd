"""For all tests.

Hypothesis has no deadline, since how long an example takes says nothing here. The
scenarios with ordinary users are counted: nine in ten must be right. And where several
tests run at a time, those of some files go to one worker, and each worker has a
network of its own for what is not of the lab.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from own_network import own_network

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")

SHARE = 0.9
ENOUGH = 50
"""Scenarios from which on a share means something: not for a single one that was asked for."""

TOGETHER = ("tests/lab/test_offline.py", "tests/test_scripts.py")
"""Files whose tests share what takes long to make: one worker runs all of them, first of all."""

_right: list[bool] = []


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling | None:
    """With `--dist loadscope` hand tests out one by one, but for the files of `TOGETHER`.

    `--dist loadgroup` would do it by marks, if it worked: xdist 3.8 adds a mark's group to the
    name of a test, and pytest 9.2 has that name elsewhere.
    """
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415  only where xdist runs them

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist publishes no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file in TOGETHER else nodeid

    return Scheduling(config, log)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run what uses this machine's loopback on a network that nobody else is on."""
    if item.get_closest_marker("lab") is not None:
        yield
        return
    with own_network():
        yield


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
