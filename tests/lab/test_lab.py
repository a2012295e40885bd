"""Every scenario of the table, each in a lab of its own, must come out right."""

from __future__ import annotations

import pytest

from . import scenario
from .scenario import Scenario
from .scenarios import SCENARIOS

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("_lab_works")]


@pytest.mark.parametrize("row", SCENARIOS.values(), ids=SCENARIOS)
def test_scenario(row: Scenario) -> None:
    outcome = scenario.run(row)
    assert outcome.right, outcome.explain()
    assert outcome.left_behind == ()
