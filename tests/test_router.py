"""What a router is asked, what is believed of it, and that it leads nobody anywhere."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator

import pytest

from bothends import port_opener
from bothends.port_opener import PortOpener
from bothends.router import ask_router
from bothends_protocol import portmap
from bothends_protocol.evidence import Mapping, OpenedMapping, RouterWord
from fake_router import DESCRIPTION, LOCAL, FakeRouter, Igd, own_address, page, router_at

PORTS = (("tcp", 4242), ("udp", 4242))
SECONDS = 4.0
"""Longest conversation here. What is found out sooner must not take it: see `QUICK`."""
QUICK = 2.5


def honest(igd: Igd | None = None) -> FakeRouter:
    """A router that speaks all three."""
    igd = igd or Igd()
    router = FakeRouter(control=igd.control, page=igd.page)
    router.search = lambda _: [router.location()]
    return router


async def words(router: FakeRouter, seconds: float = SECONDS) -> dict[str, RouterWord]:
    started = time.monotonic()
    said = await ask_router(router.address, LOCAL, PORTS, seconds=seconds)
    assert time.monotonic() - started < seconds + 0.5
    assert [word.protocol for word in said] == ["pcp", "nat-pmp", "upnp"]
    assert all(word.router == router.address for word in said)
    assert all(word.detail.isprintable() and len(word.detail) <= 240 for word in said)
    return {word.protocol: word for word in said}


# --- honest ones ------------------------------------------------------------------------------


async def test_a_router_that_speaks_all_three() -> None:
    igd = Igd()
    igd.mappings["tcp", 4242] = ("192.168.1.20", 4243, 600)
    async with router_at(honest(igd)) as router:
        said = await words(router)
    assert {word.outcome for word in said.values()} == {"answers"}
    assert said["pcp"].outside is None  # it cannot be asked that
    assert said["nat-pmp"].outside == said["upnp"].outside == "11.0.1.2"
    assert said["upnp"].mappings == (
        Mapping(transport="tcp", port=4242, client="192.168.1.20", client_port=4243, lease=600),
        Mapping(transport="udp", port=4242),
    )
    assert router.actions() == [
        "GetExternalIPAddress",
        "GetSpecificPortMappingEntry",
        "GetSpecificPortMappingEntry",
    ]
    # Nothing was made, and one page was read: the description.
    assert list(igd.mappings) == [("tcp", 4242)]
    assert [method for method, _, _ in router.requests] == ["GET", "POST", "POST", "POST"]


async def test_closed_ports_are_known_at_once() -> None:
    async with router_at(FakeRouter(control=None, search=None)) as router:
        said = await words(router)
    assert {word.outcome for word in said.values()} == {"refused"}


async def test_closed_ports_do_not_wait_for_silence() -> None:
    started = time.monotonic()
    async with router_at(FakeRouter(control=None)) as router:
        opener = PortOpener(router.address, LOCAL, [word("pcp", router), word("nat-pmp", router)])
        opened = await opener.open("tcp", 4242, 1)
        await opener.close()
    assert (opened.outcome, opened.protocol) == ("failed", "pcp")
    assert time.monotonic() - started < 0.5


async def test_silence_is_given_up_after_three_questions() -> None:
    started = time.monotonic()
    async with router_at(FakeRouter()) as router:
        said = await words(router)
    assert {word.outcome for word in said.values()} == {"silent"}
    assert time.monotonic() - started < QUICK
    assert len(router.asked) == 2 * 3
    assert len(router.searched) == 2 * 3


async def test_a_lost_question_is_asked_again() -> None:
    igd = Igd()
    lost: set[int] = set()

    def control(data: bytes) -> list[bytes]:
        if data[0] not in lost:
            lost.add(data[0])
            return []
        return igd.control(data)

    async with router_at(FakeRouter(control=control)) as router:
        said = await words(router)
    assert said["pcp"].outcome == said["nat-pmp"].outcome == "answers"


async def test_each_of_the_two_may_be_the_only_one() -> None:
    head = struct.pack("!BBHI", 0, 0x80, 0, 1) + socket.inet_aton("11.0.1.2")
    only_pmp = FakeRouter(control=lambda data: [head if data[0] == 0 else b"\0\x80\0\1\0\0\0\1"])
    async with router_at(only_pmp):
        said = await words(only_pmp)
    assert (said["pcp"].outcome, said["nat-pmp"].outcome) == ("refused", "answers")
    no_such_version = b"\x02\x80\0\1" + bytes(20)
    success = b"\x02\x80\0\0" + bytes(20)
    only_pcp = FakeRouter(control=lambda data: [no_such_version if data[0] == 0 else success])
    async with router_at(only_pcp):
        said = await words(only_pcp)
    assert (said["pcp"].outcome, said["nat-pmp"].outcome) == ("answers", "refused")


async def test_an_error_is_an_answer_and_quoted() -> None:
    igd = Igd()
    igd.result = 3
    router = FakeRouter(control=igd.control)
    async with router_at(router):
        said = await words(router)
    assert said["nat-pmp"].outcome == "answers"
    assert said["nat-pmp"].outside is None
    assert said["nat-pmp"].detail == "network failure (NAT-PMP result 3)"
    assert said["pcp"].detail == "malformed request (PCP result 3)"


async def test_what_the_router_does_not_say_of_a_port_is_left_out() -> None:
    igd = Igd()
    router = honest(igd)
    router.page = lambda method, path, body: (
        page("no", "500 Internal Server Error")
        if "Specific" in body and "UDP" in body
        else igd.page(method, path, body)
    )
    async with router_at(router):
        said = await words(router)
    assert said["upnp"].outcome == "answers"
    assert said["upnp"].mappings == (Mapping(transport="tcp", port=4242),)


@pytest.mark.parametrize("outside", ["0.0.0.0", "127.0.0.1", "239.1.2.3", "", "evil\x1b[2J"])
async def test_an_outside_address_that_is_none(outside: str) -> None:
    igd = Igd(outside)
    router = honest(igd)
    async with router_at(router):
        said = await words(router)
    assert said["upnp"].outside is None
    assert said["upnp"].outcome in ("answers", "unusable")
    assert said["upnp"].detail


async def test_a_zero_outside_address_by_nat_pmp() -> None:
    igd = Igd("0.0.0.0")
    async with router_at(FakeRouter(control=igd.control)) as router:
        said = await words(router)
    assert said["nat-pmp"].outside is None
    assert "0.0.0.0" in said["nat-pmp"].detail


async def test_a_private_outside_address_is_kept() -> None:
    async with router_at(honest(Igd("192.168.0.2"))) as router:
        said = await words(router)
    assert said["nat-pmp"].outside == said["upnp"].outside == "192.168.0.2"


async def test_an_ipv6_gateway_is_asked_by_pcp_alone() -> None:
    said = await ask_router("::1", "::1", PORTS, seconds=1.0)
    assert [(word.protocol, word.outcome) for word in said] == [("pcp", "refused")]


async def test_an_own_address_that_is_not_ours() -> None:
    said = await ask_router(own_address(), "192.0.2.77", PORTS, seconds=1.0)
    assert {word.outcome for word in said} == {"silent"}
    assert {word.detail for word in said} == {"it could not be asked: EADDRNOTAVAIL"}


# --- hostile ones -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [b"\xff", b"\xff" * 60, bytes(1100), b"\x02\x81" + bytes(58), b"\0\x82\0\0"],
    ids=range(5),
)
async def test_garbage_instead_of_pcp_and_nat_pmp(reply: bytes) -> None:
    async with router_at(FakeRouter(control=lambda _: [reply] * 20)) as router:
        said = await words(router)
    assert said["pcp"].outcome == said["nat-pmp"].outcome == "unusable"


async def test_an_answer_from_a_third_address_is_not_heard() -> None:
    right = struct.pack("!BBHI", 0, 0x80, 0, 1) + socket.inet_aton("11.0.1.2")
    router, elsewhere = FakeRouter(), own_address()
    thief = FakeRouter(address=elsewhere, page=lambda *_: page("x"))
    third = asyncio.get_running_loop()

    async with router_at(thief):
        sender, _ = await third.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=(elsewhere, 0)
        )

        class Redirecting(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                reply = thief.location() if data.startswith(b"M-SEARCH") else right
                sender.sendto(reply, addr)

        ends = [
            (await third.create_datagram_endpoint(Redirecting, local_addr=(router.address, port)))[
                0
            ]
            for port in (portmap.PORT, 1900)
        ]
        said = await words(router)
        for end in (sender, *ends):
            end.close()
    assert {word.outcome for word in said.values()} == {"silent"}
    assert thief.requests == []


def located(where: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nLOCATION: {where}\r\n\r\n".encode()


@pytest.mark.parametrize(
    "where",
    [
        "http://{other}:{port}/d.xml",
        "http://{own}@{other}:{port}/d.xml",
        "http://{other}:{port}\\@{own}/d.xml",
        "http://{other}:{port}#@{own}/",
        "http://{own}.{other}:{port}/d.xml",
        "http://localhost:{port}/d.xml",
        "https://{own}:{port}/d.xml",
        "file:///etc/passwd",
        "//{other}:{port}/d.xml",
        "http://[{own}:{port}/d.xml",
        "http://{own}:99999/d.xml",
        "http://{own}:0/d.xml",
        "http://",
        "x",
    ],
)
async def test_a_description_elsewhere_is_not_fetched(where: str) -> None:
    igd = Igd()
    other = FakeRouter(page=igd.page)
    router = FakeRouter(page=igd.page)
    async with router_at(other), router_at(router):
        sent = where.format(own=router.address, other=other.address, port=other.http_port)
        router.search = lambda _: [located(sent)]
        async with asyncio.timeout(SECONDS):
            said = await ask_router(router.address, LOCAL, PORTS, seconds=0.8)
    assert said[2].outcome == "unusable"
    assert other.requests == router.requests == []


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_not_followed(status: str) -> None:
    other = FakeRouter(page=Igd().page)
    router = honest()
    async with router_at(other), router_at(router):
        where = f"Location: http://{other.address}:{other.http_port}/d.xml"
        router.page = lambda *_: page("", status, where)
        said = await words(router)
    assert said["upnp"].outcome == "unusable"
    assert other.requests == []
    assert len(router.requests) == 1


@pytest.mark.parametrize("place", ["control", "scpd", "base", "both"])
async def test_services_elsewhere_are_not_asked(place: str) -> None:
    igd = Igd()
    other = FakeRouter(page=igd.page)
    router = honest(igd)
    async with router_at(other), router_at(router):
        away = f"http://{other.address}:{other.http_port}"
        described = DESCRIPTION.format(
            extra=f"<URLBase>{away}</URLBase>" if place == "base" else "",
            scpd=f"{away}/s.xml" if place in ("scpd", "both") else "/s.xml",
            control=f"{away}/c" if place in ("control", "both") else "/c",
        )
        router.page = lambda method, path, body: (
            page(described) if method == "GET" else igd.page(method, path, body)
        )
        said = await words(router)
    assert other.requests == []
    # Newer versions of the library refuse a description elsewhere, which nobody would fetch.
    if place != "scpd":
        assert said["upnp"].outcome == ("answers" if place == "base" else "unusable")


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><root>&i;</root>"
)
OUTSIDE_ENTITY = '<?xml version="1.0"?><!DOCTYPE r SYSTEM "{}"><root>x</root>'
NESTED = '<root xmlns="urn:schemas-upnp-org:device-1-0">' + "<device><deviceList>" * 5000
SERVICES = (
    "<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType></service>"
)
MANY = (
    '<root xmlns="urn:schemas-upnp-org:device-1-0"><device><serviceList>'
    + SERVICES * 2500
    + "</serviceList></device></root>"
)
DEEP = NESTED + "</deviceList></device>" * 5000 + "</root>"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "x",
        "<root/>",
        BOMB,
        OUTSIDE_ENTITY,
        MANY,
        DEEP,
        NESTED,
        b"\xff\xfe" * 100,
        "<a>" * 80000,
    ],
    ids=["nothing", "text", "empty", "bomb", "entity", "many", "deep", "open", "bytes", "tags"],
)
async def test_descriptions_that_are_none(body: str | bytes) -> None:
    router = honest()
    router.page = lambda *_: page(body)
    async with router_at(router):
        started = time.monotonic()
        said = await words(router)
        assert time.monotonic() - started < QUICK
    assert said["upnp"].outcome == "unusable"
    assert said["upnp"].detail


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000_000,
        b"HTTP/1.1 404 Not Found\r\n\r\n",
    ],
    ids=range(10),
)
async def test_http_that_is_none(answer: bytes) -> None:
    router = honest()
    router.page = lambda *_: answer
    async with router_at(router):
        said = await words(router, 2.0)
    assert said["upnp"].outcome == "unusable"


async def test_drops_of_http_do_not_last() -> None:
    async def drops() -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        while True:
            yield b"1\r\nx\r\n"
            await asyncio.sleep(0.02)

    router = honest()
    router.page = lambda *_: drops()
    async with router_at(router):
        said = await words(router, 1.0)
    assert said["upnp"].outcome == "unusable"
    assert "time" in said["upnp"].detail


async def test_what_was_said_in_time_is_kept() -> None:
    igd = Igd()

    async def never() -> AsyncIterator[bytes]:
        await asyncio.sleep(SECONDS)
        yield b""

    router = honest(igd)
    router.page = lambda method, path, body: (
        never() if "UDP" in body else igd.page(method, path, body)
    )
    async with router_at(router):
        said = await words(router, 2.0)
    assert said["upnp"].outcome == "answers"
    assert said["upnp"].outside == "11.0.1.2"
    assert [mapping.transport for mapping in said["upnp"].mappings] == ["tcp"]


async def test_endless_answers_to_the_search() -> None:
    router = honest()
    router.search = lambda _: [located(f"http://{router.address}:1/{n}") for n in range(2000)]
    async with router_at(router):
        said = await words(router)
    assert said["upnp"].outcome == "unusable"
    router.search = lambda _: [b"\xff" * 1000] * 2000
    async with router_at(router):
        said = await words(router)
    assert said["upnp"].outcome == "unusable"


@pytest.mark.parametrize(
    "words_of_it",
    [
        "<NewInternalClient>www.example.org</NewInternalClient><NewInternalPort>1</NewInternalPort>",
        "<NewInternalClient>10.0.0.1</NewInternalClient><NewInternalPort>99999</NewInternalPort>",
        "<NewInternalClient>10.0.0.1</NewInternalClient><NewInternalPort>²</NewInternalPort>",
        "<NewInternalClient>10.0.0.1</NewInternalClient>",
        "",
    ],
)
async def test_mappings_that_make_no_sense_are_none(words_of_it: str) -> None:
    igd = Igd()
    name = "GetSpecificPortMappingEntryResponse"
    said_by_it = (
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
        f'<u:{name} xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">{words_of_it}'
        f"</u:{name}></s:Body></s:Envelope>"
    )
    router = honest(igd)
    router.page = lambda method, path, body: (
        page(said_by_it) if "Specific" in body else igd.page(method, path, body)
    )
    async with router_at(router):
        said = await words(router)
    assert said["upnp"].outcome == "answers"
    assert said["upnp"].mappings == ()


async def test_the_loop_goes_on_meanwhile() -> None:
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

    beating = asyncio.ensure_future(beat())
    async with router_at(honest()) as router:
        await words(router)
    beating.cancel()
    assert longest < 0.3  # loading the library alone takes longer where it is new


# --- opening ports ----------------------------------------------------------------------------


def word(protocol: str, router: FakeRouter) -> RouterWord:
    return RouterWord(
        protocol=protocol, router=router.address, outcome="answers", outside="11.0.1.2"
    )


def said(router: FakeRouter, *protocols: str) -> list[RouterWord]:
    return [word(protocol, router) for protocol in protocols]


def outcome(opened: OpenedMapping) -> tuple[str, str]:
    return opened.protocol, opened.outcome


@pytest.mark.parametrize("protocol", ["pcp", "nat-pmp", "upnp"])
async def test_a_port_is_opened_and_closed(protocol: str) -> None:
    igd = Igd()
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL, said(router, protocol))
        opened = await opener.open("tcp", 4242, 3)
        assert igd.mappings == {("tcp", 4242): (LOCAL, 4242, 120)}
        # Once more is the same mapping, and not somebody else's.
        again = await opener.open("tcp", 4242, 4)
        assert (again.outcome, again.round, again.kept) == ("granted", 4, False)
        await opener.close()
        assert igd.mappings == {}
        await opener.close()
    assert outcome(opened) == (protocol, "granted")
    assert (opened.round, opened.port, opened.outside_port, opened.lease) == (3, 4242, 4242, 120)
    assert opened.outside == "11.0.1.2"
    assert not opened.kept


async def test_the_router_is_asked_where_nothing_is_known_of_it() -> None:
    igd = Igd()
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL)
        opened = await opener.open("udp", 4242, 1)
        assert list(igd.mappings) == [("udp", 4242)]
        await opener.close()
    assert outcome(opened) == ("pcp", "granted")
    assert igd.mappings == {}


async def test_a_router_that_speaks_none() -> None:
    async with router_at(FakeRouter(control=None, search=None)) as router:
        opener = PortOpener(router.address, LOCAL)
        assert outcome(await opener.open("tcp", 4242, 1)) == ("", "silent")
        await opener.close()


@pytest.mark.parametrize("protocol", ["pcp", "nat-pmp"])
async def test_another_port_is_given_back(protocol: str) -> None:
    igd = Igd()
    igd.instead = 5000
    igd.knows_options = False
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL, said(router, protocol))
        opened = await opener.open("tcp", 4242, 1)
        assert igd.mappings == {}
        await opener.close()
    assert outcome(opened) == (protocol, "other-port")
    assert opened.outside_port == 5000


async def test_pcp_is_asked_for_this_port_or_none() -> None:
    igd = Igd()
    igd.instead = 5000
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL, said(router, "pcp"))
        opened = await opener.open("tcp", 4242, 1)
        await opener.close()
    assert outcome(opened) == ("pcp", "refused")
    assert "taken or not permitted" in opened.detail
    assert not igd.changed.is_set()


async def test_a_refusal_is_quoted() -> None:
    igd = Igd()
    igd.result = 2
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL, said(router, "pcp", "nat-pmp"))
        opened = await opener.open("tcp", 4242, 1)
        await opener.close()
    assert outcome(opened) == ("pcp", "refused")
    assert opened.detail == "the router refused: not authorized (PCP result 2)"


async def test_upnp_is_asked_last() -> None:
    igd = Igd()
    igd.result = 8
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL, said(router, "pcp", "nat-pmp", "upnp"))
        opened = await opener.open("tcp", 4242, 1)
        assert list(igd.mappings) == [("tcp", 4242)]
        await opener.close()
    assert outcome(opened) == ("upnp", "granted")
    assert igd.mappings == {}


async def test_what_another_has_is_never_touched() -> None:
    igd = Igd()
    there = {("tcp", 4242): ("192.168.1.77", 4242, 0)}
    igd.mappings.update(there)
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL, keep=True)
        opened = await opener.open("tcp", 4242, 1)
        await opener.close()
    assert outcome(opened) == ("upnp", "refused")
    assert opened.detail == "the port leads to 192.168.1.77 port 4242 already"
    assert igd.mappings == there
    assert "AddPortMapping" not in router.actions()


async def test_what_leads_here_already_stays() -> None:
    igd = Igd()
    there = {("tcp", 4242): (LOCAL, 4242, 0)}
    igd.mappings.update(there)
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL)
        opened = await opener.open("tcp", 4242, 1)
        await opener.close()
    assert outcome(opened) == ("upnp", "there")
    assert opened.kept
    assert opened.lease == 0
    assert "before" in opened.detail
    assert igd.mappings == there


@pytest.mark.parametrize("how", ["permanent_only", "forgets_leases"])
async def test_for_ever_only_where_it_is_to_stay(how: str) -> None:
    igd = Igd()
    setattr(igd, how, True)
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL, said(router, "upnp"))
        opened = await opener.open("tcp", 4242, 1)
        assert outcome(opened) == ("upnp", "permanent-only")
        assert igd.mappings == {}
        await opener.close()
        keeping = PortOpener(router.address, LOCAL, said(router, "upnp"), keep=True)
        opened = await keeping.open("tcp", 4242, 1)
        await keeping.close()
    assert outcome(opened) == ("upnp", "granted")
    assert (opened.kept, opened.lease) == (True, 0)
    assert igd.mappings == {("tcp", 4242): (LOCAL, 4242, 0)}


async def test_what_is_kept_has_a_lease_under_a_day() -> None:
    igd = Igd()
    async with router_at(honest(igd)) as router:
        keeping = PortOpener(router.address, LOCAL, keep=True)
        opened = await keeping.open("tcp", 4242, 1)
        await keeping.close()
    assert opened.kept
    assert opened.lease == port_opener.KEPT_SECONDS < 86_400
    assert list(igd.mappings) == [("tcp", 4242)]


@pytest.mark.parametrize("protocol", ["pcp", "nat-pmp", "upnp"])
async def test_a_lease_is_renewed(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    monkeypatch.setattr(port_opener, "MIN_RENEWAL", 0.05)
    igd = Igd()
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL, said(router, protocol), lease=1)
        await opener.open("tcp", 4242, 1)
        igd.mappings.clear()  # it forgot
        igd.changed.clear()
        async with asyncio.timeout(SECONDS):
            await igd.changed.wait()
        assert list(igd.mappings) == [("tcp", 4242)]
        await opener.close()
    assert igd.mappings == {}


async def test_what_another_took_meanwhile_is_not_taken_back() -> None:
    igd = Igd()
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL, said(router, "upnp"), lease=2)
        await opener.open("tcp", 4242, 1)
        igd.mappings["tcp", 4242] = ("192.168.1.77", 4242, 0)
        await asyncio.sleep(1.2)
        await opener.close()
    assert igd.mappings == {("tcp", 4242): ("192.168.1.77", 4242, 0)}
    assert router.actions().count("AddPortMapping") == 1
    assert "DeletePortMapping" not in router.actions()


async def test_what_was_never_confirmed_is_ended_too() -> None:
    igd = Igd()

    def deaf(data: bytes) -> list[bytes]:
        replies = igd.control(data)
        return [] if data[1] and igd.mappings else replies

    async with router_at(FakeRouter(control=deaf)) as router:
        opener = PortOpener(router.address, LOCAL, said(router, "nat-pmp"))
        opening = asyncio.ensure_future(opener.open("tcp", 4242, 1))
        await igd.changed.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await opener.close()
    assert igd.mappings == {}


async def test_closing_outlives_a_cancelled_run() -> None:
    igd = Igd()
    async with router_at(honest(igd)) as router:
        opener = PortOpener(router.address, LOCAL)

        async def run() -> None:
            try:
                await opener.open("tcp", 4242, 1)
                await asyncio.Event().wait()
            finally:
                await asyncio.shield(opener.close())

        running = asyncio.ensure_future(run())
        await igd.changed.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert igd.mappings == {}


async def test_closing_is_bounded() -> None:
    igd = Igd()
    router = honest(igd)
    async with router_at(router):
        opener = PortOpener(router.address, LOCAL, said(router, "upnp"))
        await opener.open("tcp", 4242, 1)

        async def never() -> AsyncIterator[bytes]:
            await asyncio.sleep(2 * SECONDS)
            yield b""

        router.page = lambda *_: never()
        started = time.monotonic()
        await opener.close()
        assert time.monotonic() - started < port_opener.CLOSE_SECONDS + 0.5
