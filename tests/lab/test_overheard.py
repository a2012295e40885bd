"""What the card hears on a host whose firewall lets nothing in, with real packets."""

from __future__ import annotations

import sys

import pytest

from . import agents, faults, network
from .agents import CONTROL_PORT
from .hosts import Host, Lab, Process
from .network import Stage

pytestmark = pytest.mark.lab

LISTENER = """
import asyncio, sys
from bothends.discovery import Discovery
from bothends.interfaces import interface_addresses
from bothends.overheard import Overheard

async def main():
    say = lambda *words: print(*words, flush=True)
    addresses = [item.address for item in interface_addresses()]
    found = lambda address, port, delay: say("found", address, port)
    discovery = Discovery(sys.argv[1], 7, 24242, addresses, found, say)
    listening = Overheard(24242, lambda *who: say("heard", *who), discovery.overheard)
    say("started", listening.start() if sys.argv[2] == "overhears" else "deaf")
    again = discovery._announce_again
    def announce_again(info):
        say("asked")
        return again(info)
    discovery._announce_again = announce_again
    discovery.start(0.0)
    try:
        await asyncio.Event().wait()
    finally:
        listening.close()

asyncio.run(main())
"""


def listener(host: Host, role: str = "destination", *, how: str = "overhears") -> Process:
    process = host.popen([sys.executable, "-c", LISTENER, role, how], piped=True)
    process.wait_for_output("started")
    return process


def closed(stage: Stage) -> Stage:
    """Both hosts let nothing in but what they asked for."""
    for host in ("source", "destination"):
        faults.default_deny(on=host)(stage)
    return stage


@pytest.mark.parametrize("build", [network.lan, network.lan6])
def test_announcements_are_heard_through_closed_firewalls(lab: Lab, build: network.Builder) -> None:
    stage = closed(build(lab))
    one = listener(stage.destination)
    other = listener(stage.source, "source")
    one.wait_for_output(rf"found {stage.source_address} {CONTROL_PORT}\n")
    other.wait_for_output(rf"found {stage.destination_address} {CONTROL_PORT}\n")


def test_a_question_is_heard_and_answered_by_an_announcement(stage: Stage) -> None:
    # Who starts late has missed the first announcements, and asks.
    closed(stage)
    one = listener(stage.destination)
    one.wait_for_output(r"started True\n")
    listener(stage.source, "source")
    one.wait_for_output(r"asked\n")


def test_the_firewall_of_this_test_is_closed(stage: Stage) -> None:
    closed(stage)
    deaf = listener(stage.destination, how="deaf")
    other = listener(stage.source, "source")
    other.wait_for_output("found")
    assert "found" not in deaf.stdout


KNOCK = """
import socket, sys
address, kind = sys.argv[1], sys.argv[2]
sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, getattr(socket, kind))
name = socket.getaddrinfo(address, 24242)[0][4]
sock.bind(("", 5555))
sock.setblocking(False)
sock.connect_ex(name)
if kind == "SOCK_DGRAM":
    sock.send(b"anybody?")
"""


@pytest.mark.parametrize("build", [network.lan, network.lan6])
@pytest.mark.parametrize(("kind", "port"), [("SOCK_DGRAM", 5555), ("SOCK_STREAM", CONTROL_PORT)])
def test_knocking_that_the_firewall_drops_is_heard(
    lab: Lab, build: network.Builder, kind: str, port: int
) -> None:
    stage = closed(build(lab))
    hearing = listener(stage.destination)
    stage.source.python(KNOCK, stage.destination_address, kind)
    hearing.wait_for_output(rf"heard {stage.source_address} {port}\n")
    assert faults.hits(stage, "destination") > 0, "the firewall let it in"


def test_a_router_does_not_hear_what_is_for_others(lab: Lab) -> None:
    stage = network.routed(lab)
    (router,) = stage.routers
    hearing = listener(router)
    stage.source.python(KNOCK, stage.destination_address, "SOCK_DGRAM")
    stage.source.python(KNOCK, "10.0.0.2", "SOCK_STREAM")
    hearing.wait_for_output(rf"heard {stage.source_address} {CONTROL_PORT}\n")
    assert hearing.stdout.count("heard") == 1


def test_a_link_local_sender_has_its_zone(lab: Lab) -> None:
    stage = closed(network.lan6(lab))
    hearing = listener(stage.destination)
    own = stage.destination.python(
        "from bothends.interfaces import interface_addresses as all\n"
        "print(*(item.address for item in all() if item.address.startswith('fe80')))"
    ).stdout.strip()
    stage.source.python(KNOCK, f"{own}%{network.DEVICE}", "SOCK_DGRAM")
    hearing.wait_for_output(rf"heard fe80:[0-9a-f:]+%{network.DEVICE} 5555\n")


def test_an_ordinary_user_waits_without_it(stage: Stage) -> None:
    argv = [sys.executable, "-c", LISTENER, "source", "overhears"]
    process = stage.source.popen(argv, as_user=True, piped=True)
    process.wait_for_output("started False")


def test_an_agent_dials_back_whom_its_firewall_keeps_out(stage: Stage) -> None:
    # The destination was told no address, and its firewall lets the source's requests not in.
    # The source's does let requests in.
    faults.default_deny()(stage)
    ends = [
        agents.destination(stage, peer=False),
        agents.source(stage),
    ]
    for result in agents.finish(ends):
        assert not result.flaws, (result.flaws, result.stderr)
        assert result.document is not None
        assert result.document["contact"]["path"] == "reverse"
