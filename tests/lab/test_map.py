"""--map: the router is asked to forward the port, it is tested through that, and undone.

A real miniupnpd is the destination's router (``igd``). What is left of its mappings is looked up
in its nftables table, whatever way the run ended.
"""

from __future__ import annotations

import dataclasses
import functools
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from . import agents, faults, igd
from .agents import Result, until
from .faults import Fault
from .grading import Expected, Grade, blocked, grade, open_, undetermined
from .homes import CARRIER, CARRIER_NAT, INSIDE, OTHER_INSIDE, PUBLIC, SECOND_ROUTER, Homes
from .hosts import Host, Lab, Process
from .network import Stage
from .rows import DESTINATION_DROP, DOUBLE, NAT_WRONG_HOST, NETWORK_DROP, NO_FORWARD, NOT_RUNNING
from .scenario import BOTH, Scenario, build, start
from .scenarios_nat import ASK_ROUTER, CARRIER_DROP, MEET, TARGET
from .services import Service, meeting_point

pytestmark = pytest.mark.lab

OPEN_EXIT, BLOCKED_EXIT, UNDETERMINED_EXIT, NO_CONTACT_EXIT, INTERRUPTED = 0, 1, 3, 4, 130
CAME_IN = "While the router forwarded the port because bothends asked it to ({}), requests came in."
NOT_EITHER = CAME_IN.replace("came in", "did not come in either")
ECHO = Service()
SLOW = 10.0
"""Seconds from pairing to the verdict, on a machine that others use too."""
LOST_WITHIN = 10.0

everybody = pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])

Router = Callable[[Host], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """One run between two homes, and what is true of it."""

    expected: Expected
    users: Expected | None = None
    """What ordinary users can say, where that is less."""
    router: Router = igd.miniupnpd
    homes: Homes = dataclasses.field(default_factory=Homes)
    services: Sequence[Callable[[Stage], object]] = (ECHO,)
    faults: Sequence[Fault] = ()
    destination: tuple[str, ...] = ("--map",)
    source: tuple[str, ...] = TARGET
    ports: str = "4242"


def home(stage: Stage) -> Host:
    return stage.lab.host("home2")


def prepared(lab: Lab, how: How, *, as_user: bool) -> tuple[Stage, Scenario]:
    """Everything but the agents."""
    row = Scenario(
        name="map",
        expected=(how.users or how.expected) if as_user else how.expected,
        network=how.homes,
        services=(functools.partial(meeting_point, on="public", address=PUBLIC), *how.services),
        faults=tuple(how.faults),
        ports=how.ports,
        peers=frozenset(),
        users=BOTH if as_user else frozenset(),
        source_args=(*MEET, *how.source),
        destination_args=(*MEET, *how.destination),
    )
    stage = build(lab, row)
    how.router(home(stage))
    return stage, row


def document(result: Result) -> dict[str, Any]:
    assert result.document is not None, f"{result.stdout}\n{result.stderr}"
    return result.document


def said(result: Result) -> str:
    """All that stands in the checks: reasons and notes."""
    lines = [
        line
        for check in document(result)["checks"]
        for line in [
            *check["notes"],
            *(reason for one in check["blockers"] for reason in one["because"]),
        ]
    ]
    return "\n".join(lines)


def judged(lab: Lab, how: How, *, as_user: bool) -> tuple[Stage, Result]:
    """Both came to the verdict that is true, in time."""
    stage, row = prepared(lab, how, as_user=as_user)
    results = agents.finish(start(stage, row))
    told = "\n".join(f"{r.side} {r.code}: {r.stdout[:6000]}\n{r.stderr}" for r in results)
    graded = grade(row.expected, results)
    assert graded.grade is Grade.RIGHT, f"{graded.named} {graded.notes}\n{told}"
    seconds = document(results[1])["seconds"]["verdict"]
    print(f"verdict after {seconds:.2f} s")
    assert seconds < SLOW, told
    return stage, results[0]


def confidence(result: Result, code: str) -> str:
    found = [b for c in document(result)["checks"] for b in c["blockers"] if b["code"] == code]
    return str(found[0]["confidence"])


# -- what the verdict says


FIXED = How(expected=blocked(NO_FORWARD))


@everybody
@pytest.mark.parametrize("source", [TARGET, ()], ids=["target", "no-target"])
def test_it_is_the_forward(lab: Lab, source: tuple[str, ...], *, as_user: bool) -> None:
    stage, result = judged(lab, dataclasses.replace(FIXED, source=source), as_user=as_user)
    assert confidence(result, NO_FORWARD) == "proven"
    assert CAME_IN.format("PCP") in said(result)
    assert igd.mapped(home(stage)) == []


@everybody
def test_by_upnp_alone(lab: Lab, *, as_user: bool) -> None:
    router = functools.partial(igd.miniupnpd, natpmp=False)
    stage, result = judged(lab, dataclasses.replace(FIXED, router=router), as_user=as_user)
    assert CAME_IN.format("UPnP") in said(result)
    assert igd.mapped(home(stage)) == []


@everybody
def test_without_upnp(lab: Lab, *, as_user: bool) -> None:
    router = functools.partial(igd.miniupnpd, upnp=False)
    stage, result = judged(lab, dataclasses.replace(FIXED, router=router), as_user=as_user)
    assert CAME_IN.format("PCP") in said(result)
    assert igd.mapped(home(stage)) == []


BY_UDP = dataclasses.replace(FIXED, ports="udp:4242", services=(Service(udp=True),))


@everybody
@pytest.mark.parametrize("protocol", ["PCP", "UPnP"])
def test_it_is_the_forward_of_udp(lab: Lab, protocol: str, *, as_user: bool) -> None:
    router = functools.partial(igd.miniupnpd, natpmp=protocol == "PCP", upnp=protocol == "UPnP")
    stage, result = judged(lab, dataclasses.replace(BY_UDP, router=router), as_user=as_user)
    assert confidence(result, NO_FORWARD) == "proven"
    assert CAME_IN.format(protocol) in said(result)
    assert igd.mapped(home(stage)) == []


@everybody
def test_a_forward_of_udp_may_stay(lab: Lab, *, as_user: bool) -> None:
    how = dataclasses.replace(BY_UDP, expected=open_(), destination=("--map", "--keep-map"))
    stage, result = judged(lab, how, as_user=as_user)
    assert "The router forwards UDP port 4242 to this computer" in result.stderr
    (mapping,) = igd.mapped(home(stage))
    assert "0x11 th dport 4242" in mapping, "protocol 17"


@everybody
def test_behind_the_forward_of_udp_the_own_filter(lab: Lab, *, as_user: bool) -> None:
    drop = faults.rules("destination", "input", "udp dport 4242 counter drop")
    expected = blocked(NO_FORWARD, DESTINATION_DROP)
    how = dataclasses.replace(BY_UDP, faults=(drop,), expected=expected)
    stage, _ = judged(lab, how, as_user=as_user)
    assert igd.mapped(home(stage)) == []


@everybody
def test_it_may_stay(lab: Lab, *, as_user: bool) -> None:
    how = dataclasses.replace(FIXED, expected=open_(), destination=("--map", "--keep-map"))
    stage, result = judged(lab, how, as_user=as_user)
    assert "ends about 23 hours after this test" in said(result)
    assert "forwards TCP port 4242 to this computer from now on" in result.stderr
    (rule,) = igd.mapped(home(stage))
    assert rule.endswith(f"dnat ip to {INSIDE}:4242")


def _refusing(home: Host) -> object:
    return igd.miniupnpd(home, allow=False)


@everybody
def test_permission_is_refused(lab: Lab, *, as_user: bool) -> None:
    how = How(expected=blocked(NO_FORWARD), users=undetermined(NO_FORWARD), router=_refusing)
    stage, result = judged(lab, how, as_user=as_user)
    assert "The router did not open the port when it was asked to: the router refused" in said(
        result
    )
    assert igd.mapped(home(stage)) == []


@pytest.mark.parametrize("router", ["off", "for-ever"])
def test_a_router_that_does_not_lend(lab: Lab, router: str) -> None:
    """It knows no protocol, or grants for ever alone, which is refused without --keep-map."""
    make: dict[str, tuple[Router, str]] = {
        "off": (lambda _: None, "the router speaks none of PCP, NAT-PMP and UPnP"),
        "for-ever": (lambda host: igd.permanent_only(host, "192.168.1.1"), "725"),
    }
    start_router, reason = make[router]
    how = How(expected=blocked(NO_FORWARD), users=undetermined(NO_FORWARD), router=start_router)
    _, result = judged(lab, how, as_user=True)
    assert "The router did not open the port when it was asked to: " in said(result)
    assert reason in said(result)


# -- what others, and the user before, have set up


def _mapped_by(name: str) -> Callable[[Stage], object]:
    return lambda stage: stage.lab.host(name).python(ASK_ROUTER)


@everybody
def test_what_another_has_is_left_alone(lab: Lab, *, as_user: bool) -> None:
    how = How(
        expected=blocked(NAT_WRONG_HOST),
        homes=Homes(other=True),
        services=(ECHO, Service(on="other")),
    )
    stage, row = prepared(lab, how, as_user=as_user)
    _mapped_by("other")(stage)
    (before,) = igd.mapped(home(stage))
    results = agents.finish(start(stage, row))
    graded = grade(row.expected, results)
    assert graded.grade is Grade.RIGHT, (graded, results[0].stdout)
    assert f"leads to {OTHER_INSIDE}" in said(results[0])
    assert igd.mapped(home(stage)) == [before]


@everybody
def test_what_leads_here_already_stays(lab: Lab, *, as_user: bool) -> None:
    """The carrier blocks it, so that it is of no use; it is the user's all the same."""
    how = How(expected=blocked(NETWORK_DROP), homes=Homes(upstream=CARRIER), faults=(CARRIER_DROP,))
    stage, row = prepared(lab, how, as_user=as_user)
    _mapped_by("destination")(stage)
    (before,) = igd.mapped(home(stage))
    results = agents.finish(start(stage, row))
    graded = grade(row.expected, results)
    assert graded.grade is Grade.RIGHT, (graded, results[0].stdout)
    assert "because bothends asked" not in said(results[0])
    assert igd.mapped(home(stage)) == [before]


# -- where a forward would not help, or not alone


@everybody
def test_a_carrier_that_blocks_the_port(lab: Lab, *, as_user: bool) -> None:
    how = How(expected=blocked(NETWORK_DROP), homes=Homes(upstream=CARRIER), faults=(CARRIER_DROP,))
    stage, result = judged(lab, how, as_user=as_user)
    assert NOT_EITHER.format("PCP") in said(result)
    assert igd.mapped(home(stage)) == []


@everybody
@pytest.mark.parametrize("upstream", [CARRIER_NAT, SECOND_ROUTER], ids=["carrier", "second"])
def test_another_router_above(lab: Lab, upstream: Any, *, as_user: bool) -> None:
    how = How(expected=blocked(DOUBLE, also=[NO_FORWARD]), homes=Homes(upstream=upstream))
    stage, result = judged(lab, how, as_user=as_user)
    assert "The router did not open the port when it was asked to: the router refused" in said(
        result
    )
    assert igd.mapped(home(stage)) == []


@everybody
def test_nothing_runs_behind_it(lab: Lab, *, as_user: bool) -> None:
    how = How(expected=blocked(NO_FORWARD, NOT_RUNNING), services=())
    _, result = judged(lab, how, as_user=as_user)
    assert confidence(result, NOT_RUNNING) == "proven"


@everybody
def test_the_own_firewall_behind_it(lab: Lab, *, as_user: bool) -> None:
    """It comes to light only where requests get past the router."""
    how = How(expected=blocked(NO_FORWARD, DESTINATION_DROP), faults=(faults.destination_drop(),))
    stage, result = judged(lab, how, as_user=as_user)
    assert CAME_IN.format("PCP") in said(result)
    assert igd.mapped(home(stage)) == []


def test_what_stays_is_not_called_open_behind_a_firewall(lab: Lab) -> None:
    how = How(
        expected=blocked(DESTINATION_DROP),
        faults=(faults.destination_drop(),),
        destination=("--map", "--keep-map"),
    )
    stage, _ = judged(lab, how, as_user=False)
    assert len(igd.mapped(home(stage))) == 1


def test_both_ways_ask_at_the_destination_alone(lab: Lab) -> None:
    how = dataclasses.replace(FIXED, source=(*TARGET, "--both-ways"))
    stage, row = prepared(lab, how, as_user=False)
    (_, result) = agents.finish(start(stage, row))
    found = document(result)["checks"]
    assert {c["direction"] for c in found} >= {"source-to-destination"}
    assert document(result)["blockers"][0] == NO_FORWARD
    assert igd.mapped(home(stage)) == []


# -- every way out


def opened(stage: Stage, processes: Sequence[Process]) -> None:
    """Wait until the router forwards the port, in the middle of the run."""
    until("the port is forwarded", lambda: igd.mapped(home(stage)) != [], *processes)


def closed(stage: Stage) -> None:
    until("the port is closed", lambda: igd.mapped(home(stage)) == [], timeout=LOST_WITHIN)


def halfway(lab: Lab, *extra: str) -> tuple[Stage, list[Process]]:
    """A run that holds the mapping: what comes in through it is swallowed, so that it lasts."""
    how = dataclasses.replace(
        FIXED,
        expected=blocked(NO_FORWARD, DESTINATION_DROP),
        faults=(faults.destination_drop(),),
        destination=("--map", *extra),
    )
    stage, row = prepared(lab, how, as_user=True)
    processes = start(stage, row)
    opened(stage, processes)
    return stage, processes


@pytest.mark.parametrize("who", [0, 1], ids=["destination", "source"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt(lab: Lab, number: signal.Signals, who: int) -> None:
    stage, processes = halfway(lab)
    processes[who].send_signal(number)
    results = agents.finish(processes)
    assert results[who].code == INTERRUPTED, results[who].stderr
    assert results[1 - who].code == UNDETERMINED_EXIT, results[1 - who].stderr
    assert igd.mapped(home(stage)) == []


def test_a_killed_destination_leaves_a_short_lease(lab: Lab) -> None:
    stage, processes = halfway(lab)
    processes[0].kill()
    agents.finish(processes)
    leases = home(stage).read(igd.LEASES)
    print(leases)
    assert len(igd.mapped(home(stage))) == 1


def test_a_lost_source(lab: Lab) -> None:
    stage, processes = halfway(lab)
    processes[1].kill()
    (result,) = agents.finish(processes[:1])
    assert result.code == UNDETERMINED_EXIT, result.stderr
    assert igd.mapped(home(stage)) == []


def test_time_is_up(lab: Lab) -> None:
    stage, processes = halfway(lab, "--timeout", "0.8")
    agents.finish(processes)
    assert igd.mapped(home(stage)) == []


def test_watching_asks_for_each_test(lab: Lab) -> None:
    how = dataclasses.replace(FIXED, destination=("--map", "--watch"), source=(*TARGET, "--watch"))
    stage, row = prepared(lab, how, as_user=False)
    processes = start(stage, row)
    for _ in range(2):
        opened(stage, processes)
        closed(stage)
    processes[0].send_signal(signal.SIGINT)
    results = agents.finish(processes)
    assert results[0].code == INTERRUPTED
    assert igd.mapped(home(stage)) == []


def test_no_router_to_ask(stage: Stage) -> None:
    """Two on one segment without any gateway."""
    ECHO(stage)
    results = agents.finish([agents.destination(stage, "--map"), agents.source(stage)])
    assert [r.code for r in results] == [OPEN_EXIT] * 2
    assert results[0].stderr.count("There is no router to ask") == 1
