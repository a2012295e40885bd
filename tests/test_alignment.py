"""Two recordings are put side by side: by packets, by bursts, by clocks, or not at all."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bothends_protocol.alignment import BURSTS, CLOCKS, PACKETS, _correlate, align
from recording_builder import DROPPED, LOST, OPEN, Fate, World

HOURS = 3 * 3600 + 17.3


def offset_of(world: World, at: float) -> float:
    """The truth: what the destination's clock shows more than the source's, at `at` on that."""
    true = at + world.source[0]
    return (true - world.destination[0]) * (1 + world.drift) - at


@given(
    st.lists(st.integers(0, 576), min_size=1, max_size=60),
    st.lists(st.integers(0, 1), min_size=1, max_size=60),
)
def test_one_product_is_all_the_sums(windows: list[int], impulses: list[int]) -> None:
    expected = [
        sum(
            impulse * windows[place + lag]
            for place, impulse in enumerate(impulses)
            if 0 <= place + lag < len(windows)
        )
        for lag in range(1 - len(impulses), len(windows))
    ]
    assert _correlate(windows, impulses) == expected


@pytest.mark.parametrize("drift", [0.0, 1e-4, -1e-4])
@pytest.mark.parametrize(
    ("fate", "sees", "how", "within"),
    [(OPEN, False, PACKETS, 0.6), (DROPPED, True, PACKETS, 0.01), (DROPPED, False, BURSTS, 0.12)],
    ids=["rows", "packets", "counters"],
)
def test_clocks_that_are_hours_apart_and_drift(
    *, fate: Fate, sees: bool, how: str, within: float, drift: float
) -> None:
    rng = random.Random(f"{how}{drift}")
    world = World(
        fate,
        source=(0.0, 400.0),
        destination=(rng.uniform(-100, 100), 450.0),
        source_wall=rng.uniform(-HOURS, HOURS),
        destination_wall=rng.uniform(-HOURS, HOURS),
        source_sees=sees,
        destination_sees=sees,
        drift=drift,
    )
    found = align(*world.evidence())
    assert found is not None
    assert found.how == how
    for at in (150.0, 250.0, 380.0):
        assert found.offset(at) == pytest.approx(offset_of(world, at), abs=within)
        assert abs(found.offset(at) - offset_of(world, at)) <= found.error(at)


def test_dials_of_the_contact_tell_where_the_port_is_blocked_on_the_way() -> None:
    world = World(
        LOST, source_sees=True, destination_sees=True, control_seen=True, source_wall=HOURS
    )
    found = align(*world.evidence())
    assert found is not None
    assert found.how == PACKETS


@pytest.mark.parametrize("spurts", [0.0, 5.0, 20.0])
@pytest.mark.parametrize("seed", range(4))
def test_other_traffic_is_never_taken_for_the_bursts(seed: int, spurts: float) -> None:
    found = align(
        *World(LOST, seed=seed, alive=30.0, spurts=spurts, source_wall=20.0 * seed).evidence()
    )
    assert found is not None
    assert found.how == CLOCKS


@pytest.mark.parametrize("wall", [0.0, HOURS])
def test_a_busy_host_still_shows_the_bursts(wall: float) -> None:
    world = World(source=(0.0, 300.0), destination=(20.0, 320.0), spurts=5.0, source_wall=wall)
    found = align(*world.evidence())
    assert found is not None
    assert found.how == BURSTS
    assert found.offset(200.0) == pytest.approx(-20.0, abs=0.1)


def test_without_packets_bursts_and_clocks_nothing_tells() -> None:
    assert align(*World(LOST, walls=False).evidence()) is None


def test_a_stranger_from_one_same_port_does_not_shift_the_clocks() -> None:
    source, destination = World(LOST, source_wall=HOURS).evidence()
    one = source.attempts[0]
    _, connected = World(OPEN).evidence()
    row = replace(connected.connections[0], remote_port=one.local_port, remote_address="192.0.2.7")
    found = align(source, replace(destination, connections=(row,)))
    assert found is not None
    assert found.how == CLOCKS
