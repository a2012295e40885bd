"""What a prober makes of outcomes that say little."""

from __future__ import annotations

import msgspec
import pytest

from bothends.prober import Prober, _Try
from bothends.recorder import Recorder
from bothends_protocol.evidence import HopProbe, Probe, RoundPlan

AT = "192.0.2.7"
PROBE = Probe(transport="tcp", address=AT, port=4242)
ROUND = RoundPlan(number=2, kind="connect", prober="source", attempts=3, probes=(PROBE,))
NOWHERE = _Try(probe=PROBE, own=False, outcome="no-route", error="ENETUNREACH")


@pytest.mark.parametrize(
    ("address", "outcome", "again"),
    [
        (AT, "connected", True),
        (AT, "silent", True),
        (AT, "no-route", False),
        (AT, "local-error", False),
        ("192.0.2.8", "connected", False),
    ],
)
def test_no_route_is_tried_again_where_another_port_had_one(
    address: str, outcome: str, *, again: bool
) -> None:
    prober = Prober(Recorder("source"), b"")
    other = Probe(transport="tcp", address=address, port=80)
    for item in (NOWHERE, _Try(probe=other, own=False, outcome=outcome)):
        prober._recorder.attempts.append(prober._record(1, item))
    prober._tries = [msgspec.structs.replace(NOWHERE)]
    (tried,) = prober._outcomes(ROUND)
    assert (tried.attempts, tried.explained, tried.void) == ((0, 0, 1) if again else (1, 1, 0))


def test_what_a_trace_connected_in_the_round_is_told_beside_the_attempts() -> None:
    prober = Prober(Recorder("source"), b"")
    prober._recorder.hop_probes += [
        HopProbe(
            round=number,
            transport="tcp",
            address=AT,
            port=port,
            hops=3,
            outcome=outcome,
            seconds=0.1,
        )
        for number, port, outcome in (
            (2, 4242, "connected"),
            (2, 4242, "connected"),
            (2, 4242, "expired"),
            (2, 24242, "connected"),
            (1, 4242, "connected"),
        )
    ]
    prober._tries = [_Try(probe=PROBE, own=False, outcome="connected")]
    (tried,) = prober._outcomes(ROUND)
    assert (tried.attempts, tried.connected, tried.beside) == (1, 1, 2)
