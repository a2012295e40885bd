"""A burst that a busy computer sent late: the moments that it noted fit no counter any more.

Recorded on two lab hosts beside other load: by UDP, answers dropped in the destination's output
hook. Times and moments are in tenths of a millisecond, counters from their first reading on.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bothends_protocol.counted import BurstView, nominal, view_burst, view_bursts
from bothends_protocol.evidence import Burst, Evidence, Probe, RoundPlan, Samples
from bothends_protocol.plan import BURST
from bothends_protocol.stages import Stage
from evidence_builder import Story

PATTERN = "101100101100"
READINGS = {
    "times": """
-72 -4 42 87 130 171 230 272 314 368 411 456 498 541 585 633 685 765 811 853 924 966 1007
1083 1128 1168 1219 1261 1303 1345 1388 1430 1472 1514 1612 1654 1696 1761 1803 1884 1963
2007 2056 2099 2141 2183 2226 2277 2319 2361 2445 2523 2605 2647 2690 2691
""",
    "Ip.InReceives": """
0 27 27 27 27 27 27 27 27 51 52 52 52 52 76 76 76 76 76 76 76 76 76 76 76 100 100 100 100
100 100 100 100 100 116 116 116 124 124 148 148 149 150 150 150 150 150 152 152 152 153
153 153 153 153 153
""",
    "Ip.InDelivers": """
0 27 27 27 27 27 27 27 27 51 52 52 52 52 76 76 76 76 76 76 76 76 76 76 76 100 100 100 100
100 100 100 100 100 116 116 116 124 124 148 148 149 150 150 150 150 150 152 152 152 153
153 153 153 153 153
""",
    "Ip.OutRequests": """
0 26 27 27 27 27 27 27 27 51 51 51 51 51 75 75 75 75 75 75 75 75 75 75 75 75 99 99 99 99
99 99 99 99 115 115 115 123 123 147 147 147 148 148 148 148 148 149 149 149 151 151 151
151 151 151
""",
    "Ip.OutTransmits": """
0 2 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 4 4 4
4 4 5 5 5 7 7 7 7 7 7
""",
    "Ip.OutDiscards": """
0 24 24 24 24 24 24 24 24 48 48 48 48 48 72 72 72 72 72 72 72 72 72 72 72 72 96 96 96 96
96 96 96 96 112 112 112 120 120 144 144 144 144 144 144 144 144 144 144 144 144 144 144
144 144 144
""",
    "Udp.InDatagrams": """
0 24 24 24 24 24 24 24 24 48 48 48 48 48 72 72 72 72 72 72 72 72 72 72 72 72 96 96 96 96
96 96 96 96 112 112 112 120 120 144 144 144 144 144 144 144 144 144 144 144 144 144 144
144 144 144
""",
    "Udp.OutDatagrams": """
0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
0 0 0 0 0 0 0 0 0 0 0
""",
    "dev.rx": """
0 27 27 27 27 27 27 27 27 51 52 52 52 52 76 76 76 76 76 76 76 76 76 76 76 100 100 100 100
100 100 101 101 101 117 117 117 125 125 149 149 150 151 151 151 151 151 153 153 153 154
154 154 154 154 154
""",
    "dev.tx": """
0 2 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 4 4 4
4 4 5 5 5 7 7 7 7 7 7
""",
}
SENDS = """
20 21 21 21 21 21 22 22 22 22 22 22 22 23 23 23 23 23 23 23 24 24 24 24 405 405 405 405
405 405 406 406 406 406 406 406 406 407 407 407 407 407 407 407 408 408 408 408 611 611
611 611 611 611 612 612 612 612 612 612 612 612 613 613 613 613 613 613 613 614 614 614
1206 1206 1206 1206 1207 1207 1207 1207 1207 1207 1207 1207 1208 1208 1208 1208 1208 1208
1209 1209 1209 1209 1209 1209 1652 1652 1652 1652 1653 1653 1653 1653 1653 1654 1654 1654
1654 1654 1654 1654 1770 1771 1771 1771 1771 1771 1772 1772 1852 1852 1852 1852 1852 1852
1853 1853 1853 1853 1853 1853 1854 1854 1854 1854 1854 1854 1854 1854 1855 1855 1855 1855
"""

PROBE = Probe(transport="udp", address="192.168.7.20", port=4242)
KEY = (PROBE.transport, PROBE.address, PROBE.port)
PLAN = RoundPlan(
    number=2, kind=BURST, prober="source", attempts=24, probes=(PROBE,), pattern=PATTERN
)
SENT = Burst(
    round=2,
    transport="udp",
    address=PROBE.address,
    port=PROBE.port,
    sends=tuple(int(word) / 1e4 for word in SENDS.split()),
)
COUNTED = Samples(
    round=2,
    times=tuple(int(word) / 1e4 for word in READINGS["times"].split()),
    values={
        **{name: tuple(map(int, text.split())) for name, text in READINGS.items()},
        "Ip.ForwDatagrams": (0,) * len(READINGS["times"].split()),
    },
)


def told(*, planned: bool, sends: tuple[float, ...] = SENT.sends) -> BurstView | None:
    source, destination = Story().evidence()
    mine = replace(
        source,
        rounds=(*source.rounds, PLAN) if planned else source.rounds,
        bursts=(replace(SENT, sends=sends),),
    )
    theirs: Evidence = replace(destination, samples=(COUNTED,))
    return view_bursts(mine, theirs, KEY, taken=None)


def test_the_moments_of_a_busy_sender_fit_nothing_and_the_announced_ones_do() -> None:
    alone = view_burst(SENT, None, COUNTED, taken=None)
    assert not {Stage.ARRIVED, Stage.DELIVERED, Stage.REPLIED} & alone.reached.keys()
    announced = view_burst(nominal(PLAN, PROBE), None, COUNTED, taken=None)
    assert announced.kept is True
    found = told(planned=True)
    assert found is not None
    assert found.kept is True
    assert found.reached[Stage.DELIVERED] is True
    assert found.reached[Stage.REPLIED] is False


@pytest.mark.parametrize(
    ("planned", "sends"),
    [(False, SENT.sends), (True, SENT.sends[:-24])],
    ids=["not known how it was announced", "not all of it was sent"],
)
def test_what_was_not_sent_as_announced_is_told_by_its_moments_alone(
    sends: tuple[float, ...], *, planned: bool
) -> None:
    found = told(planned=planned, sends=sends)
    assert found is not None
    alone = view_burst(replace(SENT, sends=sends), None, COUNTED, taken=None)
    assert found.reached == alone.reached
