"""What one side knows alone: name servers, listeners, rules, and the sentences about them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bothends import alone
from bothends.alone import Asked, gather, name_servers
from bothends.page import page
from bothends.render import document, dumps
from bothends.witness.netlink import Hop
from bothends.witness.rules import Packet, RuleSet
from bothends.witness.rules_walk import Quote
from bothends.witness.sockets import Row
from bothends_protocol.evidence import Address, Firewall, HostFacts
from bothends_protocol.nameserver import QUESTION_SIZE, question, reply_code
from bothends_protocol.onesided import (
    MAX_SAID,
    Alone,
    Dialled,
    FirewallKnown,
    FrontEnd,
    Gateway,
    NameServer,
    Open,
    OwnRule,
    ServiceKnown,
    sentences,
)
from samples import VERDICTS
from schema import validate

HERE, PEER = "192.0.2.9", "192.0.2.1"
CONTROL = 24242


# -- the question to a name server


def reply(number: int, *, code: int = 0, flags: int = 0x8180, tail: bytes = b"") -> bytes:
    return struct.pack(">HH", number, flags | code) + question(number)[4:] + tail


def test_the_question_is_for_the_root() -> None:
    asked = question(0xABCD)
    assert asked == bytes.fromhex("abcd 0100 0001 0000 0000 0000 00 0002 0001")
    assert len(asked) == QUESTION_SIZE


@pytest.mark.parametrize("code", [0, 2, 5])
def test_an_answer_has_its_code(code: int) -> None:
    assert reply_code(7, reply(7, code=code, tail=b"records")) == code


@pytest.mark.parametrize(
    "data",
    [
        b"",
        reply(8),
        question(7),
        reply(7, flags=0xA180),
        reply(7)[:11],
        reply(7)[:14],
        reply(7)[:-1] + b"\3",
        struct.pack(">6H", 7, 0x8180, 2, 0, 0, 0) + question(7)[12:],
    ],
)
def test_what_is_no_answer_to_it(data: bytes) -> None:
    assert reply_code(7, data) is None


def test_a_server_that_gives_up_may_leave_the_question_out() -> None:
    assert reply_code(7, struct.pack(">6H", 7, 0x8005, 0, 0, 0, 0)) == 5


@given(st.integers(0, 0xFFFF), st.binary(max_size=64))
@example(0, b"\0" * 12)
def test_any_bytes_as_an_answer(number: int, data: bytes) -> None:
    assert reply_code(number, data) in {None, *range(16)}


# -- resolv.conf


def test_name_servers_in_their_order() -> None:
    text = (
        "# nameserver 192.0.2.99\nsearch example\nnameserver 192.0.2.1 # ours\n"
        "  nameserver\t2001:DB8::1\nnameserver\nnameserver nonsense\nnameserver 192.0.2.1\n"
        "nameserver fe80::1%eth0\nnameserver 192.0.2.4\n"
    )
    assert name_servers(text) == ("192.0.2.1", "2001:db8::1", "fe80::1%eth0")


@given(st.text(max_size=200))
@example("nameserver \ud800")
def test_any_text_as_configuration(text: str) -> None:
    name_servers(text)


# -- gathering


def host(*, privileged: bool = False, firewalls: tuple[Firewall, ...] = ()) -> HostFacts:
    return HostFacts(
        product="bothends",
        version="1",
        system="Linux",
        release="",
        kernel="",
        hostname="nas",
        privileged=privileged,
        addresses=(Address(interface="eth0", address=HERE, prefix=24),),
        firewalls=firewalls,
    )


def asked(
    role: str = "destination", *dialled: tuple[str, int], service: str | None = None
) -> Asked:
    ports = ("tcp:4242,4300-4301",) if role == "destination" else ()
    met = {f"{address}:{port}": "connection refused" for address, port in dialled}
    return Asked(role, ports, service, CONTROL, dialled, met)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A test must not ask this machine's own gateway or name servers; it counts who would."""
    calls: list[str] = []

    async def gateways() -> tuple[Gateway, ...]:
        calls.append("gateway")
        return (Gateway(address="192.0.2.254", interface="eth0", state="answers"),)

    async def names() -> tuple[NameServer, ...]:
        calls.append("names")
        return (NameServer(address="192.0.2.53", state="answers"),)

    monkeypatch.setattr(alone, "_gateways", gateways)
    monkeypatch.setattr(alone, "_names", names)
    monkeypatch.setattr(alone, "find_route", lambda _address: Hop("eth0", None, HERE))
    monkeypatch.setattr(alone, "neighbour_answers", lambda _address, _interface: "answers")
    return calls


def row(address: str, port: int) -> Row:
    return Row("tcp", "LISTEN", address, port, "", 0, 0, 0, 0)


async def test_who_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "read_table", lambda: [row("127.0.0.1", 4242), row("::", 80)])
    known = await gather(asked(), msgspec.structs.replace(host(), forwards=False))
    assert known.service is not None
    states = {item.ports: item.state for item in known.service.ports}
    assert states == {"4242": "loopback-only", "4300-4301": "nobody"}
    assert any(line.startswith("Nobody listens on TCP ports 4300-4301") for line in known.lines)
    assert any("127.0.0.1 only" in line for line in known.lines)


async def test_the_source_has_no_service(no_network: list[str]) -> None:
    known = await gather(asked("source"), host())
    assert known.service is None
    assert sorted(no_network) == ["gateway", "names"]
    assert "The gateway 192.0.2.254 (eth0) answers." in known.lines
    assert "The name server 192.0.2.53 answers." in known.lines


async def test_nobody_else_is_asked_where_only_this_computer_was_dialled(
    no_network: list[str],
) -> None:
    known = await gather(asked("source", ("127.0.0.1", CONTROL), ("::1", CONTROL)), host())
    assert no_network == []
    assert (known.gateway, known.names) == (None, None)
    assert any("refused the connection" in line for line in known.lines)


def stops(*wanted: tuple[str, str, int]) -> Callable[[RuleSet, str, Packet], Quote | None]:
    def find(_ruleset: RuleSet, hook: str, packet: Packet) -> Quote | None:
        key = (hook, packet.transport, packet.destination_port)
        return Quote("chain input: policy drop", "drop", certain=True) if key in wanted else None

    return find


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read() -> RuleSet:
        await asyncio.sleep(0)
        return RuleSet()

    monkeypatch.setattr(alone, "read_ruleset", read)


@pytest.mark.usefixtures("readable")
async def test_rules_for_what_comes_in_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = [("input", "tcp", 4242), ("input", "tcp", CONTROL), ("input", "udp", CONTROL)]
    monkeypatch.setattr(alone, "find", stops(*stopped))
    known = await gather(asked(), host(privileged=True))
    assert known.firewall is not None
    (rule,) = known.firewall.stopping
    assert (rule.way, rule.ports, rule.peers) == ("in", {"tcp": "4242,24242", "udp": "24242"}, ())
    (line,) = [line for line in known.lines if "firewall" in line]
    assert line == (
        "Its own firewall drops what comes in for TCP ports 4242,24242 and UDP port 24242, "
        "where the two agents meet: chain input: policy drop"
    )


@pytest.mark.usefixtures("readable")
async def test_rules_for_what_goes_out_name_where_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "find", stops(("output", "tcp", 999)))
    known = await gather(asked("source", (PEER, 999), ("192.0.2.2", 999)), host(privileged=True))
    assert known.firewall is not None
    (rule,) = known.firewall.stopping
    assert (rule.way, rule.ports, rule.peers) == ("out", {"tcp": "999"}, (PEER, "192.0.2.2"))
    assert any(f"goes out to TCP port 999 at {PEER} and 192.0.2.2:" in line for line in known.lines)
    assert any("No rule of its own firewall stops what comes in" in line for line in known.lines)


@pytest.mark.usefixtures("readable")
async def test_a_rule_that_may_match_an_answer_is_no_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find(_ruleset: RuleSet, _hook: str, packet: Packet) -> Quote | None:
        return Quote("tcp dport 9 drop", "drop", certain=False) if packet.answer else None

    monkeypatch.setattr(alone, "find", find)
    known = await gather(asked(), host(privileged=True))
    assert known.firewall is not None
    assert known.firewall.stopping == ()


async def test_who_may_not_read_rules_is_told_of_the_front_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def read() -> None:
        raise AssertionError

    monkeypatch.setattr(alone, "read_ruleset", read)
    walls = (Firewall(name="ufw", active=True, detail="by default: in deny"),)
    known = await gather(asked(), host(firewalls=walls))
    assert known.firewall is not None
    assert not known.firewall.readable
    assert any("ufw (by default: in deny)" in line and "root" in line for line in known.lines)


async def test_what_takes_too_long_or_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def broken() -> None:
        raise ValueError

    monkeypatch.setattr(alone, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(alone, "_names", slow)
    monkeypatch.setattr(alone, "read_table", broken)
    known = await gather(asked(), host())
    assert (known.names, known.service) == (None, None)
    assert known.gateway is not None
    assert ended.is_set()


async def test_an_interrupt_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(alone, "GATHER_SECONDS", 3600)
    monkeypatch.setattr(alone, "_names", slow)
    task = asyncio.create_task(gather(asked(), host()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


# -- name servers, on loopback


class Server(asyncio.DatagramProtocol):
    """Answers with a code, or after so many questions only."""

    def __init__(self, code: int, silent: int = 0) -> None:
        self._code, self._silent = code, silent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._silent -= 1
        if self._silent < 0:
            self._transport.sendto(b"noise", addr)
            number = int.from_bytes(data[:2], "big")
            self._transport.sendto(reply(number, code=self._code), addr)


@pytest.mark.parametrize(
    ("code", "silent", "state", "error"),
    [
        (0, 0, "answers", ""),
        (0, 1, "answers", ""),
        (2, 0, "error", "SERVFAIL"),
        (9, 0, "error", "code 9"),
        (0, 99, "silent", ""),
    ],
)
async def test_a_name_server(
    monkeypatch: pytest.MonkeyPatch, code: int, silent: int, state: str, error: str
) -> None:
    monkeypatch.setattr(alone, "NAMES_SECONDS", 0.2)
    monkeypatch.setattr(alone, "NAMES_AGAIN_SECONDS", 0.1)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Server(code, silent), local_addr=("127.0.0.1", 0)
    )
    monkeypatch.setattr(alone, "_DNS_PORT", transport.get_extra_info("sockname")[1])
    found = await alone._name_server("127.0.0.1")
    transport.close()
    assert found == NameServer(address="127.0.0.1", state=state, error=error)


async def test_no_name_server_there(monkeypatch: pytest.MonkeyPatch) -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    monkeypatch.setattr(alone, "_DNS_PORT", transport.get_extra_info("sockname")[1])
    transport.abort()
    await asyncio.sleep(0)
    found = await alone._name_server("127.0.0.1")
    assert (found.state, found.error) == ("unreachable", "connection refused")


# -- sentences


def said(known: Alone, role: str = "destination") -> tuple[str, ...]:
    return sentences(known, role, CONTROL)


def at(**known: object) -> Alone:
    return msgspec.structs.replace(Alone(addresses=(HERE,)), **known)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (Alone(), "no network address"),
        (Alone(idle=("The network card eth0 is switched off.",)), "switched off"),
        (at(service=ServiceKnown(readable=False)), "cannot be read"),
        (
            at(service=ServiceKnown(readable=True, name="backupd", elsewhere="5000")),
            "backupd listens on TCP port 5000 instead",
        ),
        (
            at(service=ServiceKnown(readable=True, name="backupd", runs=False)),
            "No program called backupd runs",
        ),
        (
            at(
                service=ServiceKnown(
                    readable=True, ports=(Open("tcp", "1", "nobody"),), forwards=True
                )
            ),
            "unless a container serves it",
        ),
        (at(gateway=()), "no default gateway"),
        (at(gateway=(Gateway("192.0.2.254", "eth0", "silent"),)), "does not answer"),
        (at(gateway=(Gateway("192.0.2.254", "eth0", "known"),)), "answered before"),
        (at(names=()), "No name server"),
        (at(names=(NameServer("127.0.0.53", "silent"),)), "(on this computer) does not answer"),
        (at(names=(NameServer("192.0.2.53", "error", "REFUSED"),)), "an error (REFUSED)"),
        (at(dialled=(Dialled(PEER, 1, route="Network is unreachable"),)), "no route from here"),
        (at(dialled=(Dialled(PEER, 1, silent_hop=PEER),)), "nobody there has this address"),
        (at(dialled=(Dialled(PEER, 1, silent_hop="192.0.2.254"),)), "192.0.2.254, does not answer"),
        (at(dialled=(Dialled(PEER, 1, met="no answer"),)), "on the way drops"),
        (at(dialled=(Dialled(PEER, 1, met="the code is wrong"),)), "port 1: the code is wrong."),
        (at(firewall=FirewallKnown(readable=False)), "No active firewall was found"),
        (
            at(firewall=FirewallKnown(readable=False, front_ends=(FrontEnd("nftables", None),))),
            "(nftables) lets the tested ports and the control port 24242 in",
        ),
        (
            at(
                firewall=FirewallKnown(
                    readable=True,
                    stopping=(
                        OwnRule("in", {"tcp": "24242"}, "reject", certain=False, text="a  rule"),
                    ),
                )
            ),
            "may refuse what comes in for TCP port 24242, where the two agents meet: a rule",
        ),
        (
            at(
                firewall=FirewallKnown(
                    readable=True,
                    stopping=(
                        OwnRule(
                            "in", {"tcp": "4242"}, "drop", certain=True, text="rule", answer=True
                        ),
                    ),
                )
            ),
            "drops the answers to what comes in for TCP port 4242: rule",
        ),
    ],
)
def test_what_is_known_is_said(known: Alone, words: str) -> None:
    assert any(words in line for line in said(known)), said(known)


def test_nothing_known_is_nothing_said() -> None:
    known = at(
        gateway=(Gateway("192.0.2.254", "eth0", "unknown"),),
        dialled=(Dialled(PEER, 1),),
    )
    assert said(known) == ()


def test_many_of_a_kind_are_cut() -> None:
    ports = tuple(Open("tcp", str(port), "nobody") for port in range(1, 100))
    lines = said(at(service=ServiceKnown(readable=True, ports=ports)))
    assert len(lines) == MAX_SAID + 1
    assert lines[-1] == f"And {99 - MAX_SAID} more of these."


def test_the_source_is_not_told_of_tested_ports() -> None:
    known = at(firewall=FirewallKnown(readable=False, front_ends=(FrontEnd("ufw", active=True),)))
    assert not any("tested" in line for line in said(known, "source"))


# -- the document and the page


FULL = msgspec.structs.replace(
    Alone(
        service=ServiceKnown(readable=True, ports=(Open("tcp", "4242", "nobody"),)),
        firewall=FirewallKnown(
            readable=True,
            front_ends=(FrontEnd("ufw", active=None),),
            stopping=(OwnRule("in", {"tcp": "1"}, "drop", certain=True, text="<rule>"),),
            looked_at={"tcp": "1"},
        ),
        gateway=(Gateway("192.0.2.254", "eth0", "answers"),),
        names=(NameServer("192.0.2.53", "answers"),),
        dialled=(Dialled(PEER, 1),),
        addresses=(HERE,),
    ),
    lines=("The gateway answers.", "<b>bold</b>"),
)


@pytest.mark.parametrize("known", [FULL, Alone()])
def test_the_document_keeps_the_contract(known: Alone) -> None:
    made = document(VERDICTS["no-contact"], alone=known)
    validate(made)
    assert '"alone"' in dumps(made)
    assert "alone" not in document(VERDICTS["no-contact"])


def test_the_page_has_it() -> None:
    text = page(document(VERDICTS["no-contact"], alone=FULL))
    assert "What this computer knows alone" in text
    assert "The gateway answers." in text
    assert "<b>bold</b>" not in text
    assert "knows alone" not in page(document(VERDICTS["no-contact"]))
