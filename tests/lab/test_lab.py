"""Every scenario of the table, each in a lab of its own.

With the packet witness on both ends all must come out right. Where an end is an
ordinary user, nothing may come out wrong, and of all those rows together nine in
ten must be right (``tests/conftest.py`` counts them over the whole run): beside
heavy traffic the kernel's counters cannot always tell, and saying so is honest.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import scenario
from .grading import Grade
from .scenario import Scenario
from .scenarios import SCENARIOS

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("_lab_works")]


@pytest.mark.parametrize("row", SCENARIOS.values(), ids=SCENARIOS)
def test_scenario(row: Scenario, record_property: Callable[[str, object], None]) -> None:
    outcome = scenario.run(row)
    if row.users:
        record_property("right as ordinary users", outcome.right)
        assert outcome.graded.grade is not Grade.WRONG, outcome.explain()
    else:
        assert outcome.right, outcome.explain()
    assert outcome.left_behind == ()
