"""Recordings of two sides that never met, made from one story with one true time.

Each side writes down what it could see on its own clock, which began when its run did, goes as
fast as it likes, and has a wall clock that may be wrong by hours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bothends_protocol.alignment import PER_WINDOW, SAMPLE_SECONDS, WINDOW_SECONDS, WINDOWS
from bothends_protocol.bursts import make_pattern
from bothends_protocol.evidence import (
    EVIDENCE_FORMAT,
    Acceptance,
    Address,
    Attempt,
    Burst,
    Connection,
    ContactFacts,
    Counted,
    Evidence,
    HostFacts,
    Listener,
    Listening,
    Offline,
    OwnListener,
    Probe,
    RoundPlan,
    Route,
    Samples,
    Sighting,
    Witness,
)

__all__ = [
    "COUNTERS",
    "DROPPED",
    "HERE",
    "KEPT",
    "LOST",
    "OPEN",
    "PORT",
    "THERE",
    "Fate",
    "World",
    "random_world",
]

HERE, THERE, PORT = "192.168.7.10", "192.168.7.20", 4242
EPOCH = 1_700_000_000.0

IN = ("dev.rx", "Ip.InReceives", "Ip.InDelivers", "Tcp.InSegs")
OUT = ("Tcp.OutSegs", "Ip.OutRequests", "Ip.OutTransmits", "dev.tx")
QUIET = (
    "Icmp.OutDestUnreachs",
    "Icmp.OutRateLimitHost",
    "Ip.ForwDatagrams",
    "Ip.InAddrErrors",
    "Ip.OutNoRoutes",
    "Ip6.InDelivers",
    "Ip6.InReceives",
    "Ip6.OutForwDatagrams",
    "Ip6.OutNoRoutes",
    "Ip6.OutTransmits",
    "IpExt.InNoRoutes",
    "Tcp.OutRsts",
    "TcpExt.IPReversePathFilter",
    "TcpExt.ListenDrops",
    "TcpExt.ListenOverflows",
)
COUNTERS = (*IN, *OUT, *QUIET)


@dataclass(frozen=True)
class Fate:
    """What becomes of every request."""

    sent: tuple[str, ...] = OUT
    """Counters of the source that it moves."""
    seen: tuple[str, ...] = IN
    """Counters of the destination that it moves."""
    outcome: str = "silent"

    @property
    def left(self) -> bool:
        return "dev.tx" in self.sent

    @property
    def arrived(self) -> bool:
        return "dev.rx" in self.seen


OPEN = Fate(outcome="connected")
DROPPED = Fate(seen=IN[:2])
"""By the destination's own filter."""
LOST = Fate(seen=())
"""On the way."""
KEPT = Fate(sent=OUT[:2], seen=())
"""By the source's own filter."""


@dataclass(frozen=True)
class World:
    """What happens, when each side runs, and what each can see."""

    fate: Fate = DROPPED
    seed: int = 1
    source: tuple[float, float] = (0.0, 120.0)
    destination: tuple[float, float] = (0.0, 120.0)
    """From when to when each runs, in true seconds."""
    source_wall: float = 0.0
    destination_wall: float = 0.0
    """By how many seconds the wall clocks are wrong."""
    drift: float = 0.0
    """How much faster the destination's own clock goes, in parts of one."""
    source_sees: bool = False
    destination_sees: bool = False
    control_seen: bool = False
    """Whether the source's dials of the control port reach the destination's card."""
    listening: tuple[str, ...] = ("0.0.0.0",)
    alive: float = 5.0
    """Packets a second that each host has to do with besides."""
    spurts: float = 0.0
    """Spurts of 30 packets a second at the destination."""
    walls: bool = True
    """Whether the wall clocks went as they should while the sides ran."""
    kept_right: bool | None = True
    """What the destination's system says of its wall clock."""
    every: Sequence[float] = field(default_factory=lambda: (4.0,) * 10)
    """Seconds between the first rounds; ten between all others."""

    def evidence(self) -> tuple[Evidence, Evidence]:
        """Return what the two hold, the source's first."""
        return _Recording(self).both()


def random_world(seed: int) -> World:
    """A story of any kind: short overlaps or none, wrong clocks, other people's traffic.

    A clock that the system calls right is so within two seconds; others may be hours off.
    """
    rng = random.Random(seed)
    began = rng.choice([0.0, rng.uniform(-100, 100), rng.uniform(100, 300)])
    kept_right = rng.random() < 0.5
    small = rng.uniform(-2, 2)
    wall = small if kept_right else rng.choice([small, 100 * small, 5000 * small])
    return World(
        rng.choice([OPEN, DROPPED, LOST, KEPT]),
        seed=seed,
        source=(0.0, rng.uniform(40, 250)),
        destination=(began, began + rng.uniform(40, 250)),
        destination_wall=wall,
        kept_right=kept_right,
        source_sees=rng.random() < 0.4,
        destination_sees=rng.random() < 0.4,
        control_seen=rng.random() < 0.3,
        spurts=rng.choice([0.0, 0.0, 2.0, 10.0, 20.0]),
        alive=rng.choice([0.0, 2.0, 20.0, 200.0]),
        drift=rng.uniform(-1e-4, 1e-4),
    )


@dataclass(frozen=True)
class _Try:
    at: float
    round: int
    local_port: int
    seq: int


class _Recording:
    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = random.Random(world.seed)
        self.rounds: list[RoundPlan] = []
        self.tries: list[_Try] = []
        self.bursts: list[tuple[int, float, tuple[float, ...]]] = []
        self._happen()

    def _happen(self) -> None:
        begins, ends = self.world.source
        probe = Probe(transport="tcp", address=THERE, port=PORT)
        at, number = begins + 0.1, 0
        waits = iter(self.world.every)
        while at + 4 < ends:
            number += 1
            self.rounds.append(
                RoundPlan(
                    number=number, kind="connect", prober="source", attempts=3, probes=(probe,)
                )
            )
            tries = 1 if self.world.fate.outcome == "connected" else 3
            for place in range(tries):
                self.tries.append(
                    _Try(
                        at + 0.02 * place,
                        number,
                        32768 + (7 * len(self.tries) + self.world.seed) % 28000,
                        self.rng.getrandbits(32),
                    )
                )
            if self.world.fate.outcome != "connected":
                number += 1
                self._burst(number, at + 1.6, probe)
            at += next(waits, 10.0)

    def _burst(self, number: int, at: float, probe: Probe) -> None:
        pattern = make_pattern(self.rng.randbytes, WINDOWS)
        self.rounds.append(
            RoundPlan(
                number=number,
                kind="burst",
                prober="source",
                attempts=PER_WINDOW,
                probes=(probe,),
                pattern=pattern,
            )
        )
        sends = sorted(
            window * WINDOW_SECONDS + self.rng.random() / 500
            for window, full in enumerate(pattern)
            for _ in range(PER_WINDOW if full == "1" else 0)
        )
        self.bursts.append((number, at, tuple(sends)))

    # -- clocks

    def here(self, at: float) -> float:
        return at - self.world.source[0]

    def there(self, at: float) -> float:
        return (at - self.world.destination[0]) * (1 + self.world.drift)

    def both(self) -> tuple[Evidence, Evidence]:
        return self._source(), self._destination()

    # -- the source

    def _source(self) -> Evidence:
        world, fate = self.world, self.world.fate
        begins, ends = world.source
        return Evidence(
            format=EVIDENCE_FORMAT,
            role="source",
            session=b"",
            facts=_facts(HERE, "10", privileged=world.source_sees),
            contact=ContactFacts(path="offline", local="", remote="", rtt=0.0, typed=(THERE,)),
            rounds=tuple(self.rounds),
            attempts=tuple(
                Attempt(
                    round=one.round,
                    transport="tcp",
                    address=THERE,
                    port=PORT,
                    local_address=HERE,
                    local_port=one.local_port,
                    started=self.here(one.at),
                    ended=None if fate.outcome == "silent" else self.here(one.at + 0.01),
                    outcome=fate.outcome,
                    spoke="other" if fate.outcome == "connected" else "nothing",
                )
                for one in self.tries
            ),
            sightings=tuple(self._requests("out")) if world.source_sees else (),
            witnesses=(Witness(name="packets", available=world.source_sees),),
            bursts=tuple(
                Burst(
                    round=number,
                    transport="tcp",
                    address=THERE,
                    port=PORT,
                    sends=sends,
                    started=self.here(at),
                )
                for number, at, sends in self.bursts
            ),
            samples=tuple(self._samples(number, sends) for number, _, sends in self.bursts),
            routes=(Route(destination=THERE, source=HERE, interface="eth0"),),
            offline=Offline(
                wall=EPOCH + begins + world.source_wall if world.walls else None,
                lasted=ends - begins,
            ),
        )

    def _samples(self, number: int, sends: Sequence[float]) -> Samples:
        times = [place * SAMPLE_SECONDS - 0.3 for place in range(105)]
        other = sorted(self.rng.uniform(-0.3, 2) for _ in range(round(self.world.alive * 2.3)))
        values = {}
        for name in COUNTERS:
            mine = sends if name in self.world.fate.sent else ()
            rest = other if name in (*IN, *OUT) else ()
            moments = sorted((*mine, *rest))
            values[name] = tuple(_upto(moments, times))
        return Samples(round=number, times=tuple(times), values=values)

    def _requests(self, way: str) -> Iterator[Sighting]:
        world = self.world
        for one in self.tries:
            if way == "out" and not world.fate.left:
                continue
            yield _request(way, self._on(way, one.at), one.local_port, PORT, one.seq)
        for second in range(int(world.source[1] - world.source[0])):
            at = world.source[0] + second + 0.5
            yield _request(way, self._on(way, at), 60000 - second % 5000, 24242, 10**6 + second)

    def _on(self, way: str, at: float) -> float:
        return self.here(at) if way == "out" else self.there(at + 0.001)

    # -- the destination

    def _destination(self) -> Evidence:
        world, fate = self.world, self.world.fate
        begins, ends = world.destination
        inside = [one for one in self.tries if begins <= one.at < ends]
        own = "0.0.0.0" not in world.listening
        came = [one for one in inside if "Tcp.InSegs" in fate.seen]
        connected = fate.outcome == "connected"
        sightings = [
            seen
            for seen in self._requests("in")
            if 0 <= seen.at <= self.there(ends)
            and (world.control_seen if seen.destination_port == 24242 else fate.arrived)
        ]
        return Evidence(
            format=EVIDENCE_FORMAT,
            role="destination",
            session=b"",
            facts=_facts(THERE, "20", privileged=world.destination_sees),
            contact=ContactFacts(path="offline", local="", remote="", rtt=0.0),
            ports=(f"tcp:{PORT}",),
            sightings=tuple(sightings) if world.destination_sees else (),
            witnesses=(
                Witness(name="packets", available=world.destination_sees),
                Witness(name="sockets", available=True),
            ),
            acceptances=tuple(
                Acceptance(
                    at=self.there(one.at + 0.001),
                    transport="tcp",
                    address=THERE,
                    port=PORT,
                    remote_address=HERE,
                    remote_port=one.local_port,
                    genuine=False,
                )
                for one in came
                if own and connected
            ),
            connections=tuple(
                Connection(
                    round=0,
                    transport="tcp",
                    state="ESTABLISHED" if connected else "SYN_RECV",
                    local_address=THERE,
                    local_port=PORT,
                    remote_address=HERE,
                    remote_port=one.local_port,
                    accepted=True if connected else None,
                    at=self.there(one.at) + self.rng.uniform(0, 0.5),
                )
                for one in came
            ),
            routes=(Route(destination=HERE, interface="eth0"),),
            offline=Offline(
                wall=EPOCH + begins + world.destination_wall if world.walls else None,
                lasted=self.there(ends),
                kept_right=world.kept_right,
                listening=(
                    Listening(
                        at=0.01,
                        listeners=tuple(
                            Listener(
                                transport="tcp",
                                address=address,
                                port=PORT,
                                program="backupd",
                                names=("backupd",),
                                waiting=0,
                                backlog=128,
                            )
                            for address in world.listening
                        ),
                        own_listeners=(
                            OwnListener(
                                transport="tcp",
                                address=THERE,
                                port=PORT,
                                opened=own,
                                error=None if own else "EADDRINUSE",
                            ),
                        ),
                    ),
                ),
                counted=self._counted(),
            ),
        )

    def _counted(self) -> Counted:
        world = self.world
        begins, ends = world.destination
        long = self.there(ends)
        requests = [one.at for one in self.tries]
        requests += [at + send for _, at, sends in self.bursts for send in sends]
        mine = [self.there(at + 0.0005) for at in requests if begins < at < ends]
        other = [self.rng.uniform(0, long) for _ in range(round(world.alive * long))]
        for _ in range(round(world.spurts * long)):
            at = self.rng.uniform(0, long)
            other += [at + self.rng.uniform(0, 0.05) for _ in range(30)]
        count = int(long / SAMPLE_SECONDS)
        moved = {name: [0] * count for name in COUNTERS}
        for names, moments in (((*IN, *OUT), other), (world.fate.seen, mine)):
            for at in moments:
                place = int(at / SAMPLE_SECONDS)
                if 0 <= place < count:
                    for name in names:
                        moved[name][place] += 1
        return Counted(
            began=0.0,
            steps=(round(SAMPLE_SECONDS * 1000),) * count,
            values={name: tuple(row) if any(row) else () for name, row in moved.items()},
        )


def _upto(moments: Sequence[float], times: Sequence[float]) -> Iterator[int]:
    place = 0
    for at in times:
        while place < len(moments) and moments[place] <= at:
            place += 1
        yield place


def _facts(address: str, last: str, *, privileged: bool) -> HostFacts:
    return HostFacts(
        product="bothends",
        version="0",
        system="Linux",
        release="Debian GNU/Linux 12",
        kernel="6.1.0",
        hostname="host",
        privileged=privileged,
        addresses=(Address(interface="eth0", address=address, prefix=24),),
        hardware=(f"02:00:5e:00:00:{last}",),
        forwards=False,
    )


def _request(way: str, at: float, port: int, to: int, seq: int) -> Sighting:
    return Sighting(
        at=at,
        way=way,
        interface="eth0",
        transport="tcp",
        source=HERE,
        source_port=port,
        destination=THERE,
        destination_port=to,
        flags="S",
        seq=seq,
        ttl=64,
    )
