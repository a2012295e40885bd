"""``scripts/packets``: how many packets each host sends in a run, for what, and how fast.

Runs scenarios of the lab while tcpdump looks at the network cards of both ends. A
packet is counted where it leaves the card of the host that sends it. What it is for
shows in its port, in the size of segment that the first packet of its connection
offers (``bothends_protocol.tags``), and in the connection's first bytes. Whatever
the figures, it ends with 0; 1 says that it could not count.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import ipaddress
import math
import os
import re
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from bothends_protocol.sizes import MAGIC
from bothends_protocol.tags import TRACE_TAG, is_tag

from . import agents
from .agents import CONTROL_PORT
from .cli import _select as select
from .grading import Grade, grade
from .hosts import Host, Lab, LabError
from .network import DEVICE, PLAIN_CARD, THIRD, THIRD6
from .scenario import Scenario, build, start
from .scenarios import by_name

__all__ = ["LIMIT", "LOSS", "Sent", "count", "main"]

TIMES = 3
TYPICAL = (
    *("open", "destination-drop", "destination-drop@users"),
    *("routers-3-open", "routers-3-drop-at-3", "routers-3-drop-at-3@users"),
    *("udp-destination-drop", "udp-destination-drop@users"),
    *("nat-open", "nat-no-forward-silent", "nat-no-forward-silent@users"),
    *("traffic-destination-drop@users", "traffic-default-deny@users"),
    *("lossy-20-drop@users", "udp-loss-20-destination-drop", "lossy-20-open", "lossy-40-open"),
)
"""One of each kind of check; docs/performance.md shows what comes of them."""

LIMIT = 200
"""Packets that the source of a check may send before loss is measured."""

TESTED = {"4242", "udp:4242"}
"""What a row may test, so that all packets from and to that port are of one check."""
TESTED_PORT = 4242
MEETING_PORT = 4000
"""Where rows behind NAT have their meeting point."""

CHECK, TRACE, LOSS, SIZES, CONTACT, OTHER = "check", "trace", "loss", "sizes", "contact", "other"
"""What packets are for: the tested port itself, requests that end on the way, the measurement of
loss, whether large packets pass, the contact, and nothing of all these."""

WINDOW = 0.1
"""Seconds in which packets are counted together, to see how fast they are sent."""

SNAP = 160
"""Bytes kept of a packet: the longest headers, and the first bytes behind them."""
WANTED = (
    f"(tcp or udp or icmp or (icmp6 and ip6[40] < 128)) and not host {THIRD} and not host {THIRD6}"
)
"""Also the ICMP errors of a host, but not what the system says to find its neighbours; and nothing
of the strangers in the rows that have their traffic."""
PACKET = re.compile(r"^(\d+\.\d+) .*\n((?:\t0x[0-9a-f]+:.*\n)+)", re.MULTILINE)

_ETHERNET = 14
_MAC = slice(6, 12)
_SYN, _ACK = 0x02, 0x10
_END_OF_OPTIONS, _NO_OPERATION, _SEGMENT_SIZE = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Frame:
    """A packet at a network card."""

    time: float
    """Seconds since 1970, by the kernel."""
    out: bool
    """Whether the host itself sent it."""
    transport: int
    """Its number in the IP header."""
    near: tuple[str, int]
    """Address and port of the host's own end; port 0 where the transport has none."""
    far: tuple[str, int]
    begins: bool = False
    """Whether it asks for a connection."""
    segment: int = 0
    """The maximum segment size that it offers; 0 where it offers none."""
    data: bytes = b""
    """The first bytes behind the headers of TCP."""


@dataclasses.dataclass
class Connection:
    """All packets between two ports, from one request for a connection to the next."""

    purpose: str
    frames: list[Frame] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Sent:
    """What one host sent in a run."""

    check: int
    """Packets from and to the tested port, and requests that end on the way, until the first
    packet by which loss is measured."""
    requests: int
    """Those of them that ask for a connection; all that are not TCP."""
    at_most: int
    """Packets of the check in any ``WINDOW``."""
    purposes: Counter[str]
    """All packets of the run, by what they are for."""


class Capture:
    """Looks at every packet at a host's network card, from when it is made to ``end()``."""

    def __init__(self, host: Host) -> None:
        # A card that leaves cutting to others would show several packets as one large one.
        host.python(PLAIN_CARD, DEVICE)
        self._mac = bytes.fromhex(_mac_of(host).replace(":", ""))
        options = ["-i", DEVICE, "-Z", "root", "-nn", "-tt", "-xx", "-s", str(SNAP)]
        self._tcpdump = host.popen(["tcpdump", *options, "--immediate-mode", WANTED])
        agents.until("tcpdump looks", lambda: "listening" in self._tcpdump.stderr, self._tcpdump)

    def end(self) -> Sent:
        """What the host sent; LabError where packets escaped."""
        self._tcpdump.send_signal(signal.SIGINT)
        self._tcpdump.wait()
        if not re.search(r"^0 packets dropped by kernel", self._tcpdump.stderr, re.MULTILINE):
            raise LabError(f"tcpdump missed packets:\n{self._tcpdump.stderr}")
        return _sent(_frames(self._tcpdump.stdout, self._mac))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/packets", description=__doc__.split(":", 1)[1])
    parser.add_argument("names", nargs="*", metavar="NAME", help="names or patterns of scenarios")
    parser.add_argument("--times", type=int, default=TIMES, metavar="N", help=f"runs ({TIMES})")
    options = parser.parse_args(arguments)
    names = select(options.names, user=False) if options.names else TYPICAL
    if os.geteuid() != 0 or not names:
        print("scripts/packets: needs root, and a scenario of that name", file=sys.stderr)
        return 1
    print(_HEAD)
    try:
        for name in names:
            runs = [count(by_name(name)) for _ in range(options.times)]
            print(_line(name, runs), flush=True)
    except (LabError, TimeoutError, OSError) as error:
        print(f"scripts/packets: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    return 0


_HEAD = (
    f"{'':30} {'source':50}  destination\n"
    f"{'most of all runs':30}  check requests in 0.1 s contact  large   loss  other"
    "   check contact  large   loss  other"
)


def _line(name: str, runs: Sequence[tuple[Sent, Sent]]) -> str:
    """The most of each figure, and how often the source sent too many."""
    sources, destinations = zip(*runs, strict=True)
    many = sum(source.check > LIMIT for source in sources)
    pace = f"{max(sent.requests for sent in sources):9}{max(sent.at_most for sent in sources):9}"
    ours = f"{_check(sources)}{pace}{_beside(sources)}"
    theirs = f"{_check(destinations)}{_beside(destinations)}"
    judged = f"   OVER {LIMIT} in {many} of {len(runs)}" if many else ""
    return f"{name:30}{ours} {theirs}{judged}"


def _check(some: Iterable[Sent]) -> str:
    return f"{max(sent.check for sent in some):7}"


def _beside(some: Iterable[Sent]) -> str:
    most = functools.reduce(Counter.__or__, (sent.purposes for sent in some))
    return f"{most[CONTACT]:8}{most[SIZES]:7}{most[LOSS]:7}{most[OTHER]:7}"


def count(row: Scenario) -> tuple[Sent, Sent]:
    """Run a scenario; what the source and the destination sent.

    LabError where it comes out wrong, since its figures mean nothing then.
    """
    if row.ports not in TESTED:
        raise LabError(f"{row.name} tests other ports than {TESTED_PORT}")
    with Lab() as lab:
        stage = build(lab, row)
        captures = [Capture(host) for host in (stage.source, stage.destination)]
        results = agents.finish(start(stage, row))
        source, destination = (capture.end() for capture in captures)
    graded = grade(row.expected, results)
    if graded.grade is Grade.WRONG:
        raise LabError("\n  ".join([f"{row.name} came out wrong:", *graded.notes]))
    return source, destination


# -- what a packet is for


def _sent(frames: Iterable[Frame]) -> Sent:
    connections = _connections(frames)
    sent = [(link.purpose, frame) for link in connections for frame in link.frames if frame.out]
    measured = min((frame.time for purpose, frame in sent if purpose == LOSS), default=math.inf)
    check = [
        frame for purpose, frame in sent if purpose in (CHECK, TRACE) and frame.time < measured
    ]
    return Sent(
        len(check),
        sum(frame.begins or frame.transport != socket.IPPROTO_TCP for frame in check),
        _at_most(sorted(frame.time for frame in check)),
        Counter(purpose for purpose, _ in sent),
    )


def _connections(frames: Iterable[Frame]) -> list[Connection]:
    done: list[Connection] = []
    last: dict[tuple[int, tuple[str, int], tuple[str, int]], Connection] = {}
    for frame in frames:
        key = frame.transport, frame.near, frame.far
        # A request that is sent again belongs to the same connection.
        if key not in last or (frame.begins and not last[key].frames[-1].begins):
            last[key] = Connection(_purpose(frame))
            done.append(last[key])
        last[key].frames.append(frame)
        if frame.data.startswith(MAGIC):
            last[key].purpose = SIZES
    return done


def _purpose(first: Frame) -> str:
    """What a connection is for, as far as its first packet tells."""
    ports = {first.near[1], first.far[1]}
    if first.segment == TRACE_TAG:
        return TRACE
    if TESTED_PORT in ports:
        return CHECK
    if CONTROL_PORT in ports:
        return LOSS if is_tag(first.segment) else CONTACT
    return CONTACT if MEETING_PORT in ports else OTHER


def _at_most(times: Sequence[float]) -> int:
    """How many of the times, which rise, lie in one ``WINDOW``."""
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - WINDOW:
            first += 1
        most = max(most, last - first + 1)
    return most


# -- what tcpdump writes


def _mac_of(host: Host) -> str:
    return host.run(["cat", f"/sys/class/net/{DEVICE}/address"]).stdout.strip()


def _frames(text: str, mac: bytes) -> Iterator[Frame]:
    for time, dump in PACKET.findall(text):
        octets = bytes.fromhex("".join(line.partition(":")[2] for line in dump.splitlines()))
        yield _frame(float(time), octets[_ETHERNET:], out=octets[_MAC] == mac)


def _frame(time: float, packet: bytes, *, out: bool) -> Frame:
    if packet[0] >> 4 == 4:
        header, transport, addresses = (packet[0] & 0xF) * 4, packet[9], packet[12:20]
    else:
        header, transport, addresses = 40, packet[6], packet[8:40]
    half = len(addresses) // 2
    hosts = [str(ipaddress.ip_address(part)) for part in (addresses[:half], addresses[half:])]
    inner = packet[header:]
    ports = (0, 0)
    if transport in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        ports = struct.unpack_from(">HH", inner)
    near, far = zip(hosts, ports, strict=True)
    if not out:
        near, far = far, near
    if transport != socket.IPPROTO_TCP:
        return Frame(time, out, transport, near, far)
    end = (inner[12] >> 4) * 4
    begins = inner[13] & (_SYN | _ACK) == _SYN
    segment = _segment(inner[20:end]) if begins else 0
    return Frame(time, out, transport, near, far, begins, segment, inner[end:])


def _segment(options: bytes) -> int:
    """The maximum segment size among the options of TCP (RFC 9293, 3.2); 0 where there is none."""
    at = 0
    while at < len(options) and options[at] != _END_OF_OPTIONS:
        if options[at] == _SEGMENT_SIZE:
            return int.from_bytes(options[at + 2 : at + 4], "big")
        at += 1 if options[at] == _NO_OPERATION else options[at + 1]
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
