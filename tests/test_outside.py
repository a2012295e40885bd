"""How this side is seen from outside: what is asked, of whom, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from bothends import outside as outside_module
from bothends.names import UnresolvedError
from bothends.options import Endpoint
from bothends.outside import Outside
from bothends.port_opener import PortOpener
from bothends.stun import Heard
from bothends.witness.netlink import Hop, NetlinkError
from bothends_protocol.evidence import NatBehaviour, RouterWord, SeenAs

OWN, GATEWAY, PUBLIC, OTHER = "192.168.1.20", "192.168.1.1", "11.0.1.1", "11.0.1.9"
PORTS = (("tcp", 4242),)
SERVER = Endpoint("stun.example", 3478)
BEHAVIOUR = NatBehaviour(server="11.0.9.1", mapping="none", filtering="none")


@dataclass
class World:
    """A host, its router and a server, all made up, and what was asked of them."""

    gateways: Sequence[Hop] | None = (Hop("eth0", GATEWAY, None),)
    sources: dict[str, str | None] = field(default_factory=lambda: {GATEWAY: OWN})
    unreadable: bool = False
    words: tuple[RouterWord, ...] = (
        RouterWord(protocol="pcp", router=GATEWAY, outcome="answers", outside=PUBLIC),
    )
    heard: dict[str, Heard | Exception] = field(default_factory=dict)
    names: tuple[str, ...] = ("11.0.9.1",)
    wait: float = 0.0
    failure: Exception | None = None
    asked: list[object] = field(default_factory=list)

    def default_gateways(self) -> Sequence[Hop] | None:
        if self.unreadable:
            raise NetlinkError(1)
        return self.gateways

    def find_route(self, destination: str) -> Hop | None:
        if destination not in self.sources:
            raise NetlinkError(101)
        return Hop("eth0", None, self.sources[destination])

    async def ask_router(
        self, gateway: str, local: str, ports: object, *, seconds: float
    ) -> tuple[RouterWord, ...]:
        self.asked.append((gateway, local, ports))
        assert seconds < 10
        await asyncio.sleep(self.wait)
        if self.failure:
            raise self.failure
        return self.words

    async def ask(self, address: str, port: int, *, seconds: float) -> Heard:
        self.asked.append((address, port))
        assert seconds < 10
        await asyncio.sleep(self.wait)
        found = self.heard.get(address, Heard())
        if isinstance(found, Exception):
            raise found
        return found

    async def resolve(self, host: str, *, seconds: float) -> tuple[str, ...]:
        assert seconds < 10
        if not self.names:
            raise UnresolvedError(host)
        return self.names


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    for name in ("default_gateways", "find_route", "ask_router", "ask", "resolve"):
        monkeypatch.setattr(outside_module, name, getattr(made, name))
    return made


async def known(stun: Endpoint | None = None) -> Outside:
    side = Outside([OWN, "fe80::1%eth0"], PORTS, stun)
    side.start()
    await side.finish()
    return side


async def test_the_router_is_asked_about_the_ports(world: World) -> None:
    side = await known()
    assert world.asked == [(GATEWAY, OWN, PORTS)]
    assert (side.gateway, side.local, side.words) == (GATEWAY, OWN, world.words)
    assert side.said_by_router() == (PUBLIC,)
    assert side.public() == (), "its word alone is nobody's else"
    await side.close()
    await side.close()


@pytest.mark.parametrize(
    "change",
    [
        {"sources": {GATEWAY: PUBLIC}},
        {"sources": {GATEWAY: "203.0.113.7"}},
        {"sources": {GATEWAY: None}},
        {"sources": {}},
        {"gateways": None},
        {"gateways": ()},
        {"gateways": (Hop("eth0", "fe80::1", None),)},
        {"gateways": (Hop("tun0", None, None),)},
        {"unreadable": True},
    ],
    ids=[
        "the own address is public",
        "so is one of a book",
        "none",
        "no way",
        "not known",
        "no router",
        "of IPv6",
        "a tunnel",
        "not readable",
    ],
)
async def test_nobody_is_asked_where_nobody_translates(
    world: World, change: dict[str, object]
) -> None:
    for name, value in change.items():
        setattr(world, name, value)
    side = await known()
    assert world.asked == []
    assert (side.gateway, side.local, side.words, side.public()) == (None, None, (), ())
    assert side.port_opener(keep=False) is None
    await side.close()


async def test_the_first_router_behind_which_the_address_is_private_is_asked(world: World) -> None:
    world.gateways = (Hop("eth1", "11.0.5.1", None), Hop("eth0", GATEWAY, None))
    world.sources["11.0.5.1"] = "11.0.5.2"
    side = await known()
    assert [asked for asked in world.asked if isinstance(asked, tuple)] == [(GATEWAY, OWN, PORTS)]
    assert isinstance(side.port_opener(keep=True), PortOpener)


async def test_a_server_says_how_it_sees_this_side(world: World) -> None:
    seen = (SeenAs(address=OTHER, by="stun"), SeenAs(address="10.0.0.1", by="stun"))
    world.heard["11.0.9.1"] = Heard(seen=seen, behaviour=BEHAVIOUR)
    side = await known(SERVER)
    assert ("11.0.9.1", 3478) in world.asked
    assert (side.seen, side.behaviours) == (list(seen), [BEHAVIOUR])
    assert side.public() == (OTHER,), "no private one"


async def test_no_server_is_asked_that_nobody_named(world: World) -> None:
    await known()
    assert [asked for asked in world.asked if isinstance(asked, tuple) and len(asked) == 2] == []


async def test_of_several_addresses_the_next_is_asked_where_one_is_silent(world: World) -> None:
    world.names = ("11.0.9.1", "11.0.9.2", "11.0.9.3", "11.0.9.4")
    world.heard["11.0.9.1"] = OSError("no such socket")
    world.heard["11.0.9.3"] = Heard(seen=(SeenAs(address=PUBLIC, by="stun"),))
    side = await known(SERVER)
    servers = [asked[0] for asked in world.asked if isinstance(asked, tuple) and len(asked) == 2]
    assert servers == ["11.0.9.1", "11.0.9.2", "11.0.9.3"]
    assert side.public() == (PUBLIC,)


async def test_a_server_whose_name_means_nothing_is_not_asked(world: World) -> None:
    world.names, world.words = (), ()
    side = await known(SERVER)
    assert side.public() == ()
    await side.close()


async def test_the_same_address_by_two_ways_is_one(world: World) -> None:
    seen = SeenAs(address=f"::ffff:{PUBLIC}", by="stun")
    world.heard["11.0.9.1"] = Heard(seen=(seen,))
    assert (await known(SERVER)).public() == (PUBLIC,)


async def test_nothing_is_known_until_it_was_told(world: World) -> None:
    world.wait = 0.05
    side = Outside([OWN], PORTS, SERVER)
    side.start()
    await asyncio.sleep(0)
    assert (side.public(), side.words) == ((), ())
    await side.finish()
    assert side.said_by_router() == (PUBLIC,)


async def test_closing_does_not_wait_for_answers(world: World) -> None:
    world.wait = 60.0
    side = Outside([OWN], PORTS, SERVER)
    side.start()
    began = time.monotonic()
    await asyncio.sleep(0)
    await side.close()
    assert time.monotonic() - began < 5
    await side.finish()
    assert side.public() == ()


async def test_a_failure_of_our_own_is_raised_when_all_is_over_and_once(world: World) -> None:
    world.failure = ZeroDivisionError("a mistake")
    side = await known(SERVER)
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        await side.close()
    await side.close()


async def test_without_having_begun_there_is_nothing_to_end() -> None:
    side = Outside([OWN], PORTS, SERVER)
    await side.finish()
    await side.close()
    assert side.public() == ()
