"""What this computer knows alone, gathered when the other side was not met.

Its own service, its own firewall, its own network: who listens on the tested
ports, which of its rules would stop the requests of either agent or of the
application, whether there is a way to what was dialled, whether its gateway and
its name servers answer. All at the same time and within `GATHER_SECONDS`; what is
not known by then is left out. The words are in `bothends_protocol.onesided`.

Nothing is sent but one small datagram to each default gateway, which makes the
kernel ask for its hardware address, and one question to each name server that
the system is configured to use; neither where only this very computer was dialled.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bothends_protocol.addresses import bare, family, is_loopback, is_wildcard, normal
from bothends_protocol.evidence import HostFacts, Listener
from bothends_protocol.nameserver import question, reply_code
from bothends_protocol.onesided import (
    Alone,
    Dialled,
    FirewallKnown,
    FrontEnd,
    Gateway,
    NameServer,
    Open,
    OwnRule,
    ServiceKnown,
    reply_name,
    sentences,
)
from bothends_protocol.pairing import DESTINATION
from bothends_protocol.ports import PortSet, format_ports, parse_ports

from .gateways import make_resolved
from .interfaces import idle_interfaces
from .witness.netlink import (
    Hop,
    NetlinkError,
    default_gateways,
    find_route,
    neighbour_answers,
)
from .witness.rules import Packet, Quote, RuleSet, find, read_ruleset
from .witness.sockets import (
    Row,
    is_running,
    listeners,
    read_table,
    read_udp_table,
    service_listeners,
)

__all__ = ["GATHER_SECONDS", "Asked", "gather", "name_servers"]

GATHER_SECONDS = 2.0
"""For all of it: what a user waits at the end of a long wait without minding."""

GATEWAY_SECONDS = 1.2
"""For a gateway to answer the question for its hardware address, which Linux repeats after a
second (RETRANS_TIMER of RFC 4861, and the same for ARP): two are unanswered by then."""

NAMES_SECONDS = 1.0
NAMES_AGAIN_SECONDS = 0.5
"""For a name server to answer, and when it is asked again: a datagram may be lost."""

WALK_SECONDS = 0.5
"""For looking packets up in the rules, which keeps the agent from all else; one takes a tenth
of a millisecond, with many thousand rules a tenth of a second."""

MAX_LOOKED_UP = 64
"""Tested ports looked up in the rules: a firewall that stops thousands does it by few rules."""

MAX_PEERS = 4
"""Addresses of the other side for which the rules and the routes are looked up."""

MAX_GATEWAYS = 4
MAX_NAME_SERVERS = 3
"""As many as the resolver takes from its file (MAXNS, resolv.conf(5))."""

_DNS_PORT = 53
_POLL_SECONDS = 0.02
_RESOLV_CONF = Path("/etc/resolv.conf")
_RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")
"""Where systemd-resolved writes the servers that its stub asks."""

_RESOLVED_STUB = "127.0.0.53"
_MAX_CONF = 1 << 16


class Asked(msgspec.Struct, frozen=True):
    """What was tried in vain, as far as it matters here."""

    role: str
    ports: tuple[str, ...]
    """Destination: port sets as `tcp:4242`."""
    service: str | None
    control_port: int
    dialled: Sequence[tuple[str, int]]
    met: Mapping[str, str]
    """What the ways met, by place as the contact writes it."""


async def gather(asked: Asked, facts: HostFacts) -> Alone:
    """Return what is known, with sentences. Takes at most `GATHER_SECONDS`; never raises."""
    here = bool(asked.dialled) and all(is_loopback(bare(a)) for a, _ in asked.dialled)
    wanted: dict[str, Coroutine[Any, Any, object]] = {
        "firewall": _firewall(asked, facts),
        "dialled": _dialled(asked),
    }
    if asked.role == DESTINATION:
        wanted["service"] = _service(asked, forwards=facts.forwards is not False)
    if not here:
        wanted |= {"gateway": _gateways(), "names": _names()}
    found = await _in_time(wanted)
    known = Alone(
        addresses=tuple(item.address for item in facts.addresses),
        idle=() if facts.addresses else tuple(_idle()),
    )
    known = msgspec.structs.replace(known, **found)
    return msgspec.structs.replace(known, lines=sentences(known, asked.role, asked.control_port))


async def _in_time(wanted: Mapping[str, Coroutine[Any, Any, object]]) -> dict[str, object]:
    """Return the results that were there in time; those that failed are missing."""
    tasks = {name: asyncio.ensure_future(work) for name, work in wanted.items()}
    try:
        await asyncio.wait(tasks.values(), timeout=GATHER_SECONDS)
    finally:
        for task in tasks.values():
            task.cancel()
        ended = await asyncio.gather(*tasks.values(), return_exceptions=True)
    # This only adds to a report: no failure of it may take the rest away.
    return {
        name: result
        for name, result in zip(tasks, ended, strict=True)
        if not isinstance(result, BaseException)
    }


def _idle() -> Iterator[str]:
    words = {"off": "is switched off", "no link": "has no link: no cable, or no wireless network"}
    with contextlib.suppress(OSError, NetlinkError):
        for name, state in idle_interfaces():
            yield f"The network card {name} {words[state]}."


# The service ----------------------------------------------------------------------------------


async def _service(asked: Asked, *, forwards: bool) -> ServiceKnown:
    parts = [part for text in asked.ports for part in parse_ports(text)]
    tables = {
        transport: read()
        for transport, read in (("tcp", read_table), ("udp", read_udp_table))
        if _of(transport, parts)
    }
    if any(table is None for table in tables.values()):
        return ServiceKnown(readable=False, name=asked.service)
    name, elsewhere = asked.service, ""
    if name is not None:
        rows = [row for table in tables.values() for row in table or ()]
        other = {item.port for item in service_listeners(rows, name, ())}
        elsewhere = format_ports(other - {port for part in parts for port in part})
    return ServiceKnown(
        readable=True,
        ports=tuple(
            found
            for transport, table in tables.items()
            for found in _open(table or (), transport, _of(transport, parts))
        ),
        name=name,
        runs=is_running(name) if name is not None else None,
        elsewhere=elsewhere,
        forwards=forwards,
    )


def _of(transport: str, parts: Iterable[PortSet]) -> list[int]:
    return [port for part in parts if part.transport == transport for port in part]


def _open(table: Iterable[Row], transport: str, ports: Collection[int]) -> Iterator[Open]:
    wanted = frozenset(ports)
    by_port: dict[int, list[Listener]] = {port: [] for port in sorted(wanted)}
    for item in listeners(table, wanted, ()):
        by_port[item.port].append(item)
    alike: dict[Open, list[int]] = {}
    for port, there in by_port.items():
        alike.setdefault(_described(there), []).append(port)
    for same, numbers in alike.items():
        yield msgspec.structs.replace(same, transport=transport, ports=format_ports(numbers))


def _described(there: Sequence[Listener]) -> Open:
    versions = {version for item in there for version in _versions(item)}
    state = "nobody" if not there else "listening" if versions else "loopback-only"
    program = next((item.program for item in there if item.program), None)
    return Open(
        transport="tcp",
        ports="",
        state=state,
        program=program,
        addresses=tuple(sorted({item.address for item in there})),
        versions=tuple(sorted(versions)),
    )


def _versions(item: Listener) -> tuple[int, ...]:
    """The IP versions in which another computer can reach a listener."""
    if is_loopback(bare(item.address)) or item.device == "lo":
        return ()
    if is_wildcard(item.address) and ":" in item.address and not item.v6only:
        return (4, 6)
    return (family(bare(item.address)),)


# The firewall ---------------------------------------------------------------------------------


class _Request(msgspec.Struct, frozen=True):
    """A request that must come through, as the rules see it."""

    way: str
    packet: Packet
    peer: str


class _Stopped(msgspec.Struct):
    """What one rule stops."""

    ports: dict[str, set[int]] = msgspec.field(default_factory=dict)
    peers: dict[str, None] = msgspec.field(default_factory=dict)


async def _firewall(asked: Asked, facts: HostFacts) -> FirewallKnown:
    front_ends = tuple(
        FrontEnd(name=item.name, active=item.active, detail=item.detail) for item in facts.firewalls
    )
    ruleset = await read_ruleset() if facts.privileged else None
    if ruleset is None:
        return FirewallKnown(readable=False, front_ends=front_ends)
    looked_at: dict[str, set[int]] = {}
    stopping: dict[tuple[str, bool, Quote], _Stopped] = {}
    until = time.monotonic() + WALK_SECONDS
    for request in _requests(asked, facts):
        if time.monotonic() > until:
            break
        packet = request.packet
        port = packet.destination_port or 0
        if request.way == "in":
            looked_at.setdefault(packet.transport, set()).add(port)
        for answer, quote in _quotes(ruleset, request):
            stopped = stopping.setdefault((request.way, answer, quote), _Stopped())
            stopped.ports.setdefault(packet.transport, set()).add(port)
            if request.peer:
                stopped.peers[request.peer] = None
        await asyncio.sleep(0)
    return FirewallKnown(
        readable=True,
        front_ends=front_ends,
        stopping=tuple(
            OwnRule(
                way=way,
                ports=_texts(stopped.ports),
                verdict=quote.verdict,
                certain=quote.certain,
                text=quote.text,
                answer=answer,
                peers=tuple(stopped.peers),
            )
            for (way, answer, quote), stopped in stopping.items()
        ),
        looked_at=_texts(looked_at),
    )


def _texts(ports: Mapping[str, Iterable[int]]) -> dict[str, str]:
    return {transport: format_ports(numbers) for transport, numbers in sorted(ports.items())}


def _requests(asked: Asked, facts: HostFacts) -> Iterator[_Request]:
    """What must come through: the agents' own first, since they did not meet."""
    ends = list(_ends(asked, facts))
    control = [("tcp", asked.control_port), ("udp", asked.control_port)]
    parts = [part for text in asked.ports for part in parse_ports(text)]
    tested = [(part.transport, port) for part in parts for port in part]
    for transport, port in control + tested[:MAX_LOOKED_UP]:
        for local, remote, interface, _ in ends:
            packet = Packet(
                transport=transport,
                source=remote,
                destination=local,
                destination_port=port,
                interface=interface,
            )
            yield _Request("in", packet, remote)
    for local, remote, interface, port in ends:
        for transport in ("tcp", "udp") if remote else ():
            packet = Packet(
                transport=transport,
                source=local,
                destination=remote,
                destination_port=port,
                interface=interface,
            )
            yield _Request("out", packet, remote)


def _ends(asked: Asked, facts: HostFacts) -> Iterator[tuple[str, str, str | None, int]]:
    """Own address, the other's (empty for anybody's), own interface, the other's control port."""
    named = False
    cards = {item.address: item.interface for item in facts.addresses}
    for address, port in _distant(asked)[:MAX_PEERS]:
        with contextlib.suppress(NetlinkError, ValueError):
            hop = find_route(address)
            if hop is not None and hop.source:
                named = True
                yield bare(hop.source), bare(address), hop.interface or None, port
    if named:
        return
    for version in (4, 6):
        own = [text for text in cards if family(text) == version]
        own.sort(key=lambda text: text.startswith(("fe80:", "169.254.")))
        if own:
            yield own[0], "", cards[own[0]], asked.control_port


def _distant(asked: Asked) -> list[tuple[str, int]]:
    return [(address, port) for address, port in asked.dialled if not is_loopback(bare(address))]


def _quotes(ruleset: RuleSet, request: _Request) -> Iterator[tuple[bool, Quote]]:
    packet = request.packet
    answer = Packet(
        transport=packet.transport,
        source=packet.destination,
        destination=packet.source,
        destination_port=None,
        source_port=packet.destination_port,
        interface=packet.interface,
        answer=True,
    )
    hooks = ("input", "output") if request.way == "in" else ("output", "input")
    for asked, hook in ((packet, hooks[0]), (answer, hooks[1])):
        quote = find(ruleset, hook, asked)
        # The port that an answer goes to is not known, so many a rule might match it.
        if quote is not None and (quote.certain or not asked.answer):
            yield asked.answer, quote


# The way --------------------------------------------------------------------------------------


async def _dialled(asked: Asked) -> tuple[Dialled, ...]:
    return tuple(
        Dialled(
            address=address,
            port=port,
            met=_met(asked.met, address, port),
            **_way(address),
        )
        for address, port in asked.dialled[:MAX_PEERS]
    )


def _met(met: Mapping[str, str], address: str, port: int) -> str:
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return met.get(place, "")


def _way(address: str) -> dict[str, str]:
    """Why there is no route, or which next hop is silent."""
    try:
        hop = find_route(address)
        if hop is None:
            return {}
        next_hop = hop.gateway or bare(address)
        silent = neighbour_answers(next_hop, hop.interface) == "silent"
    except NetlinkError as error:
        return {"route": str(error)}
    except ValueError:
        return {}  # no address: a name that did not resolve
    return {"silent_hop": next_hop} if silent else {}


async def _gateways() -> tuple[Gateway, ...] | None:
    hops = default_gateways()
    if hops is None:
        return None
    return tuple(await asyncio.gather(*map(_gateway, hops[:MAX_GATEWAYS])))


async def _gateway(hop: Hop) -> Gateway:
    address = hop.gateway or ""
    make_resolved(address, hop.interface)
    until = time.monotonic() + GATEWAY_SECONDS
    while (state := neighbour_answers(address, hop.interface)) == "silent":
        if time.monotonic() > until:
            break
        await asyncio.sleep(_POLL_SECONDS)
    return Gateway(address=address, interface=hop.interface, state=state)


# Name servers ---------------------------------------------------------------------------------


def name_servers(text: str) -> tuple[str, ...]:
    """Return the servers that a resolv.conf(5) names, in its order. Takes any text."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and family(bare(words[1])):
            found.append(normal(words[1]))
    return tuple(dict.fromkeys(found))[:MAX_NAME_SERVERS]


async def _names() -> tuple[NameServer, ...] | None:
    text = _contents(_RESOLV_CONF)
    if text is None:
        return None
    servers = name_servers(text)
    if _RESOLVED_STUB in servers:
        # The stub on this computer may answer while those that it asks do not.
        servers += name_servers(_contents(_RESOLVED_CONF) or "")
    return tuple(await asyncio.gather(*map(_name_server, dict.fromkeys(servers))))


def _contents(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_CONF)
    except OSError:
        return None


class _Reply(asyncio.DatagramProtocol):
    """Waits for the answer to one question."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002  connected
        code = reply_code(self._number, data)
        if code is not None and not self.code.done():
            self.code.set_result(code)

    def error_received(self, exc: Exception) -> None:
        if not self.code.done():
            self.code.set_exception(exc)


async def _name_server(address: str) -> NameServer:
    number = secrets.randbelow(1 << 16)
    try:
        transport, reply = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Reply(number), remote_addr=(address, _DNS_PORT)
        )
    except OSError as error:
        return NameServer(address=address, state="unreachable", error=_why(error))
    try:
        code = await _ask(transport, number, reply)
    except TimeoutError:
        return NameServer(address=address, state="silent")
    except OSError as error:
        return NameServer(address=address, state="unreachable", error=_why(error))
    finally:
        transport.close()
        reply.code.cancel()
    if code:
        return NameServer(address=address, state="error", error=reply_name(code))
    return NameServer(address=address, state="answers")


async def _ask(transport: asyncio.DatagramTransport, number: int, reply: _Reply) -> int:
    for seconds in (NAMES_AGAIN_SECONDS, NAMES_SECONDS - NAMES_AGAIN_SECONDS):
        transport.sendto(question(number))
        await asyncio.wait([reply.code], timeout=seconds)
        if reply.code.done():
            return reply.code.result()
    raise TimeoutError


def _why(error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return "connection refused"
    return os.strerror(error.errno).lower() if error.errno else "unreachable"
