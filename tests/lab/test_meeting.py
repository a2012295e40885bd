"""How two agents meet and stay in contact, whatever is in the way: real daemons, real packets.

What is tested beside the contact is a port whose verdict is known, so that each
run must end with that verdict, the same on both sides, by a way that can work
there.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest

from . import agents, faults, frontends, network
from .agents import CODE, CONTROL_PORT, Result, listens, until
from .faults import MDNS, Fault
from .grading import Expected, Grade, blocked, grade, open_
from .hosts import Lab, Process
from .meet import CUTS, cut_every_second
from .network import Builder, Stage
from .rows import DESTINATION_DROP, NOT_RUNNING
from .services import Service, meeting_point

pytestmark = pytest.mark.lab

DIRECT, REVERSE, PUNCHED, RENDEZVOUS = "direct", "reverse", "punched", "rendezvous"
TCP = (DIRECT, REVERSE)
NEAR = (*TCP, PUNCHED)

OPEN = open_()
DROPPED = blocked(DESTINATION_DROP)
LONG = "4000-4255"
LONG_DROPPED = blocked(DESTINATION_DROP, NOT_RUNNING)
"""Of many ports one is served."""
LOSSY_DROPPED = dataclasses.replace(LONG_DROPPED, allowed_warnings=frozenset({"network.loss"}))
"""The same where packets are lost, too."""
LOST_WITHIN = 5.0
"""Seconds within which a side must say that it has lost the other (issue 2)."""
POLL = 0.003

everybody = pytest.mark.parametrize("as_user", [False, True], ids=["root", "user"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """How the two are started."""

    peers: tuple[str, ...] = ("source", "destination")
    """Who is told the other's address."""
    mdns: bool = False
    as_user: bool = False
    ports: str = "4242"
    both: tuple[str, ...] = ()
    """Options of both sides."""
    source: tuple[str, ...] = ()


def serve(stage: Stage) -> Stage:
    """Let a service run on the tested port."""
    Service(bind=("::",), dual=True)(stage)
    return stage


def start_destination(stage: Stage, how: How) -> Process:
    return agents.destination(
        stage,
        *how.both,
        ports=how.ports,
        peer="destination" in how.peers,
        mdns=how.mdns,
        as_user=how.as_user,
    )


def start_source(stage: Stage, how: How) -> Process:
    return agents.source(
        stage,
        *how.both,
        *how.source,
        peer="source" in how.peers,
        mdns=how.mdns,
        as_user=how.as_user,
    )


def start(stage: Stage, how: How) -> list[Process]:
    return [start_destination(stage, how), start_source(stage, how)]


def agreed(
    processes: Sequence[Process], expected: Expected, paths: Sequence[str], *, cut: bool = False
) -> list[Result]:
    """Both ended with the expected verdict, the same to the byte, having met by one of `paths`.

    Where the contact is `cut` all the time, the last link may have broken just when the two
    concluded, and then only one of them came to take up the next. As in the rows of the lab,
    ordinary users may be told a cause as a candidate: they see less.
    """
    results = agents.finish(processes)
    users = any(
        end is not None and not end["privileged"]
        for result in results
        for end in (document_of(result)["source"], document_of(result)["destination"])
    )
    graded = grade(expected.relaxed() if users else expected, results)
    enough = {Grade.RIGHT, Grade.UNKNOWN} if users else {Grade.RIGHT}
    told = "\n".join(
        f"--- {result.side} ({result.code}, {result.seconds:.1f} s)\n{result.stdout[:4000]}"
        f"\n{result.stderr}"
        for result in results
    )
    assert graded.grade in enough, f"{graded.named} {graded.notes}\n{told}"
    taken = {document_of(result)["contact"]["path"] for result in results}
    assert len(taken) == 1 or cut, f"{taken}\n{told}"
    assert taken <= set(paths), f"{taken}\n{told}"
    return results


def document_of(result: Result) -> dict[str, Any]:
    assert result.document is not None, result.stderr
    return result.document


# -- two firewalls that let nothing in

ONE_SIDED = ("source",), ("destination",)
ROUTED = network.routed2
FRONTS: dict[str, dict[bool, tuple[Fault, ...]]] = {
    "nftables": {False: (faults.closed(),), True: (faults.closed(MDNS),)},
    "ufw": {
        mdns: tuple(frontends.ufw(on=end, mdns=mdns) for end in ("source", "destination"))
        for mdns in (False, True)
    },
    "firewalld": {
        mdns: tuple(
            frontends.firewalld(*(["--add-service=mdns"] if mdns else []), on=end)
            for end in ("source", "destination")
        )
        for mdns in (False, True)
    },
}
REFUSED = blocked("destination.firewall-reject")
"""firewalld refuses what it does not let in."""


TOLD = {
    "both": How(),
    "both-users": How(as_user=True),
    "nobody": How(peers=(), mdns=True),
    "source": How(peers=("source",)),
    "destination": How(peers=("destination",)),
}
"""Without mDNS let in; where not both are told, it takes root to overhear."""
BY_MDNS = {"root": How(peers=(), mdns=True), "users": How(peers=(), mdns=True, as_user=True)}


# A lab for each: what a firewall refuses, it refuses so often and then no more (icmp_ratelimit).
@pytest.mark.parametrize("how", TOLD.values(), ids=list(TOLD))
@pytest.mark.parametrize("front", FRONTS)
def test_both_closed(lab: Lab, front: str, how: How) -> None:
    stage = serve(network.lan(lab))
    for fault in FRONTS[front][False]:
        fault(stage)
    agreed(start(stage, how), REFUSED if front == "firewalld" else DROPPED, [PUNCHED])


@pytest.mark.parametrize("how", BY_MDNS.values(), ids=list(BY_MDNS))
@pytest.mark.parametrize("front", FRONTS)
def test_both_closed_but_for_mdns(lab: Lab, front: str, how: How) -> None:
    stage = serve(network.lan(lab))
    for fault in FRONTS[front][True]:
        fault(stage)
    agreed(start(stage, how), REFUSED if front == "firewalld" else DROPPED, [PUNCHED])


@pytest.mark.parametrize("build", [network.lan6, ROUTED], ids=["ipv6", "two routers"])
@everybody
def test_both_closed_elsewhere(lab: Lab, build: Builder, *, as_user: bool) -> None:
    stage = serve(build(lab))
    faults.closed()(stage)
    agreed(start(stage, How(as_user=as_user)), DROPPED, [PUNCHED])


def test_both_closed_and_ipv6_announced(lab: Lab) -> None:
    stage = serve(network.lan6(lab))
    faults.closed()(stage)
    agreed(start(stage, How(peers=(), mdns=True)), DROPPED, [PUNCHED])


@everybody
def test_two_homes_whose_routers_keep_the_port(lab: Lab, *, as_user: bool) -> None:
    stage = serve(network.home_pair(lab, forwards=["tcp dport 4242 dnat ip to 192.168.1.20"]))
    faults.closed("tcp dport 4242")(stage)
    agreed(start(stage, How(as_user=as_user)), OPEN, [PUNCHED])


# -- the segment


@everybody
def test_without_any_multicast_one_side_that_is_told_is_enough(lab: Lab, *, as_user: bool) -> None:
    stage = serve(network.lan(lab))
    faults.no_multicast(stage)
    for peers in ONE_SIDED:
        agreed(start(stage, How(peers=peers, mdns=True, as_user=as_user)), OPEN, NEAR)


# -- the control port closed on the way

ONE_WAY = [
    pytest.param(faults.control_blocked(*kinds, to=end, reject=reject), id=f"{name}-{how}-{end}")
    for name, kinds in {"tcp": ("tcp",), "udp": ("udp",), "both": ("tcp", "udp")}.items()
    for how, reject in {"drop": False, "reject": True}.items()
    for end in ("source", "destination")
]


@pytest.mark.parametrize("fault", ONE_WAY)
def test_the_control_port_closed_one_way(stage: Stage, fault: Fault) -> None:
    serve(stage)
    fault(stage)
    faults.destination_drop()(stage)
    agreed(start(stage, How()), DROPPED, NEAR)
    agreed(start(stage, How(as_user=True)), DROPPED, NEAR)


DIALS = """
import asyncio, sys
from bothends.contact import Contact
from bothends_protocol.code import parse_code

async def main():
    contact = Contact(role="source", code=parse_code(sys.argv[1]), control_port=0, say=print)
    contact.dial(sys.argv[2], int(sys.argv[3]))
    while not contact.refusals:
        await asyncio.sleep(0.01)
    print(*contact.refusals.values(), *contact.filtered("direct"))
    await contact.close()

asyncio.run(main())
"""


@everybody
@pytest.mark.parametrize("reject", [False, True], ids=["closed", "rejected"])
def test_a_closed_port_and_a_filter_that_refuse_are_told_apart(
    stage: Stage, *, reject: bool, as_user: bool
) -> None:
    # A filter's word by ICMP is limited, so who knows that it has one to say waits for it.
    if reject:
        faults.control_blocked("tcp", to="destination", reject=True)(stage)
    at = stage.destination_address
    done = stage.source.python(DIALS, CODE, at, str(CONTROL_PORT), as_user=as_user)
    assert done.stdout.split() == ["connection", "refused", *([at] if reject else [])]


@pytest.mark.parametrize("reject", [False, True], ids=["drop", "reject"])
@pytest.mark.parametrize(("kind", "paths"), [("tcp", [PUNCHED]), ("udp", TCP)])
def test_one_transport_closed_both_ways(
    stage: Stage, kind: str, paths: Sequence[str], *, reject: bool
) -> None:
    serve(stage)
    faults.control_blocked(kind, reject=reject)(stage)
    faults.destination_drop()(stage)
    agreed(start(stage, How()), DROPPED, paths)
    agreed(start(stage, How(as_user=True)), DROPPED, paths)


@pytest.mark.parametrize("reject", [False, True], ids=["drop", "reject"])
def test_the_control_port_closed_both_ways_leaves_a_meeting_point(
    lab: Lab, *, reject: bool
) -> None:
    stage = serve(network.lan_and_third(lab))
    faults.control_blocked("tcp", "udp", reject=reject)(stage)
    faults.destination_drop()(stage)
    url = meeting_point(stage).url
    agreed(start(stage, How(both=("--rendezvous", url))), DROPPED, [RENDEZVOUS])
    alone = agents.finish(start(stage, How(both=("--wait", "2"))))
    assert {result.code for result in alone} == {agents.EXIT_STATUS["no-contact"]}
    assert not [flaw for result in alone for flaw in result.flaws]


def taken_by_another(stage: Stage, *, udp: bool) -> None:
    """Another program has the control port of the destination, for TCP or for UDP."""
    mode = "echo" if udp else "silent"
    Service(mode=mode, port=CONTROL_PORT, udp=udp)(stage)


@everybody
def test_a_control_port_whose_udp_another_program_has(stage: Stage, *, as_user: bool) -> None:
    serve(stage)
    taken_by_another(stage, udp=True)
    agreed(start(stage, How(as_user=as_user)), OPEN, TCP)


@everybody
def test_a_control_port_whose_tcp_another_program_has(stage: Stage, *, as_user: bool) -> None:
    # And the source's firewall keeps the destination from dialling.
    serve(stage)
    taken_by_another(stage, udp=False)
    faults.default_deny(on="source")(stage)
    agreed(start(stage, How(as_user=as_user)), OPEN, [PUNCHED])


# -- ways that lose


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(None, OPEN), (faults.destination_drop(), DROPPED)],
    ids=["open", "dropped"],
)
def test_two_packets_in_five_are_lost_each_way(
    stage: Stage, fault: Fault | None, expected: Expected
) -> None:
    serve(stage)
    faults.loss(40)(stage)
    if fault is not None:
        fault(stage)
    expected = dataclasses.replace(expected, allowed_warnings=frozenset({"network.loss"}))
    agreed(start(stage, How()), expected, NEAR)


@pytest.mark.parametrize("size", [1280, 1250])
@pytest.mark.parametrize(
    ("blocked_way", "paths"), [("udp", TCP), ("tcp", [PUNCHED])], ids=["tcp", "udp"]
)
def test_large_packets_vanish_and_the_evidence_is_large(
    stage: Stage, size: int, blocked_way: str, paths: Sequence[str]
) -> None:
    serve(stage)
    faults.black_hole(size)(stage)
    faults.control_blocked(blocked_way)(stage)
    faults.destination_drop("4000-9999")(stage)
    # It is true whichever way the two met, and can be told where they met by TCP.
    told = "blockers" if paths is TCP else "also_true"
    true = frozenset({"network.mtu"})
    expected = dataclasses.replace(LONG_DROPPED, **{told: true | getattr(LONG_DROPPED, told)})
    agreed(start(stage, How(ports=LONG)), expected, paths)


def test_large_packets_vanish_before_a_meeting_point(lab: Lab) -> None:
    stage = serve(network.lan_and_third(lab))
    url = meeting_point(stage).url
    faults.black_hole(1280)(stage)
    faults.control_blocked("tcp", "udp")(stage)
    faults.destination_drop("4000-9999")(stage)
    how = How(ports=LONG, both=("--rendezvous", url))
    agreed(start(stage, how), LONG_DROPPED, [RENDEZVOUS])


# -- cuts


@pytest.mark.parametrize("kind", CUTS)
def test_cut_every_second(stage: Stage, kind: str) -> None:
    serve(stage)
    faults.loss(20)(stage)
    faults.destination_drop("4000-9999")(stage)
    cutting = cut_every_second(stage, kind)
    how = How(ports=LONG, both=("--timeout", "60"))
    results = agreed(start(stage, how), LOSSY_DROPPED, NEAR, cut=True)
    for process in cutting:
        assert process.poll() is None, process.stderr
        process.kill()
    if kind == "reset":
        assert all(document_of(result)["contact"]["breaks"] for result in results)


# -- a meeting point that goes


def run_begun(stage: Stage, url: str, *, peers: tuple[str, ...] = ("source",)) -> list[Process]:
    """Both agents in the middle of a run; a probe has met the rule that drops it."""
    faults.destination_drop()(stage)
    ends = start(stage, How(peers=peers, both=("--rendezvous", url)))
    until("probes", lambda: faults.hits(stage, "destination") > 0, *ends)
    return ends


def test_a_meeting_point_that_is_killed_and_comes_back(lab: Lab) -> None:
    stage = serve(network.lan_and_third(lab))
    faults.control_blocked("tcp", "udp")(stage)
    point = meeting_point(stage)
    ends = run_begun(stage, point.url)
    point.process.kill()
    time.sleep(1.0)
    meeting_point(stage)
    agreed(ends, DROPPED, [RENDEZVOUS])


def test_a_meeting_point_that_dies_when_the_two_have_moved(lab: Lab) -> None:
    stage = serve(network.lan_and_third(lab))
    faults.control_blocked("tcp")(stage)
    point = meeting_point(stage)
    ends = run_begun(stage, point.url, peers=())
    point.process.kill()
    agreed(ends, DROPPED, [PUNCHED])


def test_isolated_devices_have_a_meeting_point(lab: Lab) -> None:
    stage = serve(network.lan(lab, third=True, gateway=True))
    faults.isolated(stage)
    url = meeting_point(stage).url
    expected = blocked("network.client-isolation")
    agreed(start(stage, How(both=("--rendezvous", url))), expected, [RENDEZVOUS])


# -- strangers' agents

OTHERS = {"other words": "7-abandon-ability-about", "other number": "9-abandon-ability-able"}


@pytest.mark.parametrize("code", OTHERS.values(), ids=list(OTHERS))
def test_a_strangers_agent_at_the_private_address_that_the_peer_named(lab: Lab, code: str) -> None:
    stage = serve(network.home_pair(lab, forwards=["tcp dport 4242 dnat ip to 192.168.1.20"]))
    stranger = lab.host("stranger")
    stage.network.attach(stranger, "inside1", "192.168.1.20/24")
    stage.network.up()
    url = meeting_point(stage, "core", "11.0.1.1").url
    there = dataclasses.replace(stage, destination=stranger)
    waiting = agents.destination(there, peer=False, code=code)
    until("listens", lambda: listens(there.host("stranger")), waiting)
    how = How(peers=(), both=("--rendezvous", url), source=("--target", stage.destination_address))
    agreed(start(stage, how), OPEN, [RENDEZVOUS, PUNCHED])
    assert waiting.poll() is None, waiting.stderr
    waiting.kill()


@everybody
@pytest.mark.parametrize("code", OTHERS.values(), ids=list(OTHERS))
def test_two_pairs_on_one_segment(lab: Lab, code: str, *, as_user: bool) -> None:
    stage = serve(network.lan(lab))
    ends = [lab.host(f"{role}2") for role in ("source", "destination")]
    for host, address in zip(ends, ("192.168.7.110", "192.168.7.120"), strict=True):
        stage.network.attach(host, network.SEGMENT, f"{address}/24")
    stage.network.up()
    other = dataclasses.replace(
        stage,
        source=ends[0],
        destination=ends[1],
        source_address="192.168.7.110",
        destination_address="192.168.7.120",
    )
    faults.destination_drop()(stage)
    pairs = [
        [
            begin(pair, peer=False, mdns=True, as_user=as_user, code=words)
            for pair, words in ((stage, CODE), (other, code))
        ]
        for begin in (agents.destination, agents.source)
    ]
    first, second = zip(*pairs, strict=True)
    agreed(first, DROPPED, NEAR)
    agreed(second, blocked(NOT_RUNNING), NEAR)


# -- agents that are killed and started again

ESTABLISHED = "01"


def rows(stage: Stage, host: str, state: str) -> int:
    """How many TCP sockets at the control port are in that state, either end."""
    tables = ("/proc/net/tcp", "/proc/net/tcp6")
    found = [
        line.split() for table in tables for line in stage.host(host).read(table).splitlines()[1:]
    ]
    port = f":{CONTROL_PORT:04X}"
    return sum(row[3] == state and (row[1] + row[2]).count(port) > 0 for row in found)


@everybody
def test_killed_before_the_pairing_and_started_again(stage: Stage, *, as_user: bool) -> None:
    serve(stage)
    how = How(as_user=as_user)
    destination = start_destination(stage, how)
    until("listens", lambda: listens(stage.host("destination")), destination)
    destination.kill()
    source = start_source(stage, how)
    until("listens", lambda: listens(stage.host("source")), source)
    source.kill()
    destination = start_destination(stage, how)
    until("listens", lambda: listens(stage.host("destination")), destination)
    agreed([destination, start_source(stage, how)], OPEN, NEAR)


@pytest.mark.parametrize("kept", ["source", "destination"])
@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_killed_during_the_handshake_and_started_again(
    stage: Stage, kept: str, *, udp: bool
) -> None:
    # The one that is kept stands still, so that the other is in the middle of the handshake.
    serve(stage)
    if udp:
        faults.control_blocked("tcp")(stage)
    start_kept, start_other = start_destination, start_source
    if kept == "source":
        start_kept, start_other = start_source, start_destination
    other = "source" if kept == "destination" else "destination"
    how = How(peers=(other,))
    survivor = start_kept(stage, how)
    until("listens", lambda: listens(stage.host(kept)), survivor)
    survivor.send_signal(signal.SIGSTOP)
    killed = start_other(stage, how)
    if udp:
        until("knocks", lambda: waits_unread(stage, kept), killed)
    else:
        until("dials", lambda: rows(stage, other, ESTABLISHED) > 0, killed)
    killed.kill()
    survivor.send_signal(signal.SIGCONT)
    again = start_other(stage, how)
    ends = [survivor, again] if kept == "destination" else [again, survivor]
    agreed(ends, OPEN, NEAR)


def waits_unread(stage: Stage, host: str) -> bool:
    """Whether a datagram waits at the control port for somebody to read it."""
    rows_ = [line.split() for line in stage.host(host).read("/proc/net/udp").splitlines()[1:]]
    return any(
        row[1].endswith(f":{CONTROL_PORT:04X}") and not row[4].endswith(":00000000")
        for row in rows_
    )


@pytest.mark.parametrize("victim", ["source", "destination"])
@pytest.mark.parametrize("closed", [False, True], ids=["tcp", "udp"])
def test_killed_in_the_middle_and_started_again_at_once(
    stage: Stage, victim: str, *, closed: bool
) -> None:
    serve(stage)
    faults.loss(5)(stage)
    faults.destination_drop("4000-9999")(stage)
    if closed:
        faults.control_blocked("tcp")(stage)
    how = How(ports=LONG)
    ends = dict(zip(("destination", "source"), start(stage, how), strict=True))
    until("probes", lambda: faults.hits(stage, "destination") > 0, *ends.values())
    ends.pop(victim).kill()
    died = time.monotonic()
    again = (start_source if victim == "source" else start_destination)(stage, how)
    (survivor,) = ends.values()
    (result,) = agents.finish([survivor])
    assert survivor.ended is not None
    assert survivor.ended - died < LOST_WITHIN, result.stderr
    assert not result.flaws, (result.flaws, result.stderr)
    document = document_of(result)
    assert document["status"] == "undetermined", result.stdout
    assert document["verdict_id"] is None
    assert document["contact"]["lost"] is True
    # The one that was started again waits for somebody who begins anew too.
    assert again.poll() is None, again.stderr
    if victim == "source":
        ends = {"destination": start_destination(stage, how), "source": again}
    else:
        ends = {"destination": again, "source": start_source(stage, how)}
    agreed(list(ends.values()), LOSSY_DROPPED, NEAR)
