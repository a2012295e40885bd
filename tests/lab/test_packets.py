"""How many packets a check sends before loss is measured, counted at the source's own card."""

from __future__ import annotations

import pytest

from bothends_protocol.bursts import PER_WINDOW, WINDOWS
from bothends_protocol.plan import CERTAIN, LOSS_ATTEMPTS

from . import packets
from .scenarios import by_name

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("_lab_works")]

BURST = WINDOWS // 2 * PER_WINDOW
"""SYNs of a coded burst."""
TIMES = 3
"""Runs after which one must have needed no second burst."""
HOPS, EACH = 3, 3
"""Routers that are traced, and requests to each at least: two, and one to the control port."""
SAMPLE, PACKETS = 8, 3
"""Connections of a sample, and packets of each at least: SYN, the ACK of its answer, the end."""


@pytest.mark.parametrize(
    ("name", "least"),
    [("routers-3-open", SAMPLE * PACKETS), ("routers-3-drop-at-3", CERTAIN + HOPS * EACH)],
)
def test_a_check_is_so_many_packets_of_the_source(name: str, least: int) -> None:
    source, _ = packets.count(by_name(name))
    assert least <= source.check <= packets.LIMIT, source


def test_a_check_with_one_burst_is_so_many() -> None:
    """On a busy machine noise hides a burst now and then; it is sent again, and there are more."""
    row = by_name("routers-3-drop-at-3@users")
    runs = (packets.count(row)[0] for _ in range(TIMES))
    source = next(source for source in runs if source.requests < 2 * BURST)
    assert CERTAIN + BURST + HOPS * EACH <= source.check <= packets.LIMIT, source


def test_what_measures_loss_is_counted_apart() -> None:
    source, destination = packets.count(by_name("lossy-20-destination-drop"))
    assert source.purposes[packets.LOSS] >= LOSS_ATTEMPTS
    assert destination.purposes[packets.LOSS] > 0
    assert source.check <= packets.LIMIT, source
