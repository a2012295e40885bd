"""Networks and faults of the way between: parallel paths, other ways back, proxies, quiet routers.

``parallel`` has two equal paths between its outer routers, and each connection takes one of them
by its addresses and ports, on the way there and on the way back. In ``two_ways`` what the source
sends goes by ``router1`` and what comes back by ``router2``.
"""

from __future__ import annotations

import functools
import sys

from . import network, serve
from .faults import Rules, rules
from .hosts import Host, Lab, Process
from .network import DEVICE, Network, Stage

__all__ = [
    "expects_both",
    "few_words",
    "lossy_middle",
    "no_words",
    "parallel",
    "parallel_drop",
    "parallel_drop_replies",
    "proxy",
    "relay",
    "routers",
    "two_ways",
]

PROXY_PORT = 3128


def routers(count: int) -> network.Builder:
    """So many routers in a row."""
    return functools.partial(network.routed, routers=count)


def parallel(lab: Lab) -> Stage:
    """Routers 1 and 4 are the outer ones; 2 and 3 lie side by side between them."""
    source, destination = lab.host("source"), lab.host("destination")
    near, upper, lower, far = (lab.host(f"router{number}") for number in range(1, 5))
    wire = Network(lab)
    wire.attach(source, "near", "10.0.0.1/24")
    wire.attach(near, "near", "10.0.0.2/24")
    wire.attach(destination, "far", "10.0.9.1/24")
    wire.attach(far, "far", "10.0.9.2/24")
    for number, middle in enumerate((upper, lower), start=1):
        wire.attach(near, f"in{number}", f"10.0.{number}.1/24", device=f"eth{number}")
        wire.attach(middle, f"in{number}", f"10.0.{number}.2/24")
        wire.attach(middle, f"out{number}", f"10.1.{number}.1/24", device="eth1")
        wire.attach(far, f"out{number}", f"10.1.{number}.2/24", device=f"eth{number}")
        wire.route(middle, f"10.0.9.0/24 via 10.1.{number}.2")
        wire.route(middle, f"10.0.0.0/24 via 10.0.{number}.1")
    wire.route(near, "10.0.9.0/24 nexthop via 10.0.1.2 nexthop via 10.0.2.2")
    wire.route(far, "10.0.0.0/24 nexthop via 10.1.1.1 nexthop via 10.1.2.1")
    wire.route(source, "default via 10.0.0.2")
    wire.route(destination, "default via 10.0.9.2")
    for host in (near, upper, lower, far):
        wire.router(host)
        # By addresses, protocol and ports, as they stand in the packet. With policy 1 a virtual
        # card hands over the sender's own hash, which is another one for each socket.
        host.sysctl(
            ipv4__fib_multipath_hash_policy=3,
            ipv4__fib_multipath_hash_fields=0x37,
            ipv4__conf__all__rp_filter=0,
        )
    wire.up()
    return Stage(wire, source, destination, "10.0.0.1", "10.0.9.1", (near, upper, lower, far))


def parallel_drop(port: int = 4242) -> Rules:
    """One of the two paths drops requests to the port."""
    return rules("router2", "forward", f"tcp dport {port} counter drop")


def parallel_drop_replies(port: int = 4242) -> Rules:
    """One of the two paths drops answers from the port."""
    return rules("router3", "forward", f"tcp sport {port} counter drop")


def two_ways(lab: Lab) -> Stage:
    """Requests go by router 1, answers by router 2; neither sees both directions."""
    source, destination = lab.host("source"), lab.host("destination")
    there, back = lab.host("router1"), lab.host("router2")
    wire = Network(lab)
    wire.attach(source, "near", "10.0.0.1/24")
    wire.attach(destination, "far", "10.0.9.1/24")
    for number, host in enumerate((there, back), start=2):
        wire.attach(host, "near", f"10.0.0.{number}/24")
        wire.attach(host, "far", f"10.0.9.{number}/24", device="eth1")
        wire.router(host)
        host.sysctl(ipv4__conf__all__rp_filter=0)
    wire.route(source, "default via 10.0.0.2")
    wire.route(destination, "default via 10.0.9.3")
    wire.up()
    return Stage(wire, source, destination, "10.0.0.1", "10.0.9.1", (there, back))


def expects_both(router: int) -> Rules:
    """A stateful filter for the tested port that wants to have seen what is answered."""
    return rules(
        f"router{router}",
        "forward",
        "tcp dport 4242 ct state new,established accept",
        "tcp sport 4242 ct state established accept",
        "tcp sport 4242 counter drop",
    )


def no_words(*numbers: int) -> list[Rules]:
    """Routers that never say that a packet's time ran out, as many are set up."""
    return [
        rules(f"router{number}", "output", "icmp type time-exceeded counter drop")
        for number in numbers
    ]


def few_words(stage: Stage) -> None:
    """Every router says no more than one word a second, whoever asks."""
    for number, _ in enumerate(stage.routers, start=1):
        limit = "icmp type time-exceeded limit rate over 1/second burst 1 packets counter drop"
        rules(f"router{number}", "output", limit)(stage)


def proxy(router: int, mode: str = "silent") -> functools.partial[Process]:
    """A transparent proxy on a router, which answers in the destination's place."""
    return functools.partial(_answer, router=router, mode=mode)


def _answer(stage: Stage, *, router: int, mode: str) -> Process:
    host = stage.host(f"router{router}")
    argv = [sys.executable, "-IS", serve.__file__, "--mode", mode]
    process = host.popen_ready([*argv, "--bind", "0.0.0.0", "--port", str(PROXY_PORT)])
    _redirect(host)
    return process


RELAY = """
import os, select, socket, sys, threading
def pump(here, there):
    try:
        while data := here.recv(65536):
            there.sendall(data)
    except OSError:
        pass
    for end in (here, there):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
def serve(client, target):
    try:
        server = socket.create_connection(target, timeout=5)
    except OSError:
        client.close()
        return
    server.settimeout(None)
    threading.Thread(target=pump, args=(client, server), daemon=True).start()
    pump(server, client)
    client.close()
    server.close()
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=256)
os.write(3, b"ready\\n")
while True:
    client, _ = listener.accept()
    threading.Thread(target=serve, args=(client, (sys.argv[2], 4242)), daemon=True).start()
"""


def relay(router: int) -> functools.partial[Process]:
    """A transparent proxy on a router that passes on to the destination what it takes."""
    return functools.partial(_relay, router=router)


def _relay(stage: Stage, *, router: int) -> Process:
    host = stage.host(f"router{router}")
    argv = [sys.executable, "-IS", "-c", RELAY, str(PROXY_PORT), stage.destination_address]
    process = host.popen_ready(argv)
    _redirect(host)
    return process


def _redirect(host: Host) -> None:
    host.nft(
        f"""table ip proxy {{
  chain in {{
    type nat hook prerouting priority dstnat;
    iifname "{DEVICE}" tcp dport 4242 counter redirect to :{PROXY_PORT}
  }}
}}
"""
    )


def lossy_middle(percent: float) -> functools.partial[None]:
    """The link behind the first router loses that share, each way."""
    return functools.partial(_lose, percent=percent)


def _lose(stage: Stage, *, percent: float) -> None:
    first = stage.routers[0]
    beyond = stage.routers[1] if len(stage.routers) > 1 else stage.destination
    stage.network.lose(stage.network.port(first, "eth1"), percent)
    stage.network.lose(stage.network.port(beyond), percent)
