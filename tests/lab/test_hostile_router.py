"""Routers that lie, babble or point at third hosts: the run is right, or says it cannot tell.

The router of the destination's home forwards nothing in truth, whatever it grants or says.
"""

from __future__ import annotations

import functools
import json
import sys

import pytest

from fake_router import VICES, VICTIM

from . import agents
from .grading import Grade, blocked, grade, undetermined
from .homes import PUBLIC, STRANGER, Homes
from .hosts import REPOSITORY, Host, Lab
from .rows import NETWORK_DROP, NO_FORWARD
from .scenario import BOTH, Scenario, build, start
from .scenarios_nat import MEET, TARGET
from .services import Service, meeting_point

pytestmark = pytest.mark.lab

WITHIN = 20.0
"""Seconds of a whole run: a router that babbles is given its few seconds and no more."""
COUNT = """table inet watched {
  counter came { }
  chain in { type filter hook input priority -300; iif != "lo" counter name "came"; }
}
"""


def came(host: Host) -> int:
    """How many packets have come to the host."""
    listed = host.run(["nft", "-j", "list", "counters"]).stdout
    (found,) = [item["counter"] for item in json.loads(listed)["nftables"] if "counter" in item]
    return int(found["packets"])


@pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("vice", VICES)
def test_a_run(lab: Lab, vice: str, *, as_user: bool) -> None:
    assert VICTIM == STRANGER
    # Root opens the router from inside; what the packets then say outdoes every word.
    expected = undetermined(NO_FORWARD) if as_user else blocked(NO_FORWARD)
    row = Scenario(
        name="hostile",
        expected=expected,
        network=Homes(stranger=True),
        services=(functools.partial(meeting_point, on="public", address=PUBLIC), Service()),
        peers=frozenset(),
        users=BOTH if as_user else frozenset(),
        source_args=(*MEET, *TARGET),
        destination_args=(*MEET, "--map"),
    )
    stage = build(lab, row)
    program = REPOSITORY / "tests" / "fake_router.py"
    stage.lab.host("home2").popen_ready([sys.executable, str(program), "192.168.1.1", vice])
    victim = stage.lab.host("stranger")
    victim.nft(COUNT)
    results = agents.finish(start(stage, row))
    told = "\n".join(f"{r.side} {r.code}: {r.stdout[:5000]}\n{r.stderr}" for r in results)
    graded = grade(expected, results)
    if as_user and graded.named == (NETWORK_DROP,):
        # It grants and forwards nothing, which looks like a filter in front of it: likely, no more.
        assert '"confidence": "likely"' in results[0].stdout, told
        assert '"confidence": "proven"' not in results[0].stdout, told
    else:
        assert graded.grade is Grade.RIGHT, f"{graded.named} {graded.notes}\n{told}"
    assert max(result.seconds for result in results) < WITHIN, told
    assert came(victim) == 0, told
