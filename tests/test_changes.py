"""What changes on a host: the kernel's announcements, and what is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bothends import changes
from bothends.changes import Changes, announced, digest_of, messages, told_of_ports
from bothends_protocol.timeline import CHANGES, What

ROUTE, NETFILTER = 0, 12
LINK, ADDRESS, NEWROUTE, DELROUTE = 16, 20, 24, 25


def message(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + b"\0" * (-len(body) % 4)


def route(*, protocol: int = 3, kind: int = 1, flags: int = 0) -> bytes:
    return struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, protocol, 253, kind, flags)


# -- announcements


@given(st.sampled_from([ROUTE, NETFILTER, 4]), st.binary())
@example(ROUTE, message(NEWROUTE, b"\0" * 3))
@example(ROUTE, struct.pack("=IHHII", 2**32 - 1, LINK, 0, 0, 0))
@example(ROUTE, struct.pack("=IHHII", 0, LINK, 0, 0, 0))
def test_any_bytes_are_read(netlink: int, data: bytes) -> None:
    assert announced(netlink, data) <= set(CHANGES)


@given(st.lists(st.tuples(st.integers(0, 2**16 - 1), st.binary(max_size=40)), max_size=8))
def test_messages_are_read_as_they_were_written(parts: list[tuple[int, bytes]]) -> None:
    data = b"".join(message(kind, body) for kind, body in parts)
    assert list(messages(data)) == parts


@pytest.mark.parametrize(
    ("netlink", "data", "about"),
    [
        (ROUTE, message(LINK), {"interface"}),
        (ROUTE, message(LINK + 1), {"interface"}),
        (ROUTE, message(ADDRESS) + message(LINK), {"address", "interface"}),
        (ROUTE, message(NEWROUTE, route()), {"route"}),
        (ROUTE, message(DELROUTE, route(kind=7)), {"route"}),
        (ROUTE, message(NEWROUTE, route(protocol=2)), set()),  # the kernel's own
        (ROUTE, message(NEWROUTE, route(protocol=9)), set()),  # a router's advertisement
        (ROUTE, message(NEWROUTE, route(kind=2)), set()),  # local
        (ROUTE, message(NEWROUTE, route(flags=0x200)), set()),  # cloned
        (ROUTE, message(28), set()),  # a neighbour
        (NETFILTER, message(10 << 8 | 6), {"firewall"}),
        (NETFILTER, message(10 << 8 | 8), {"firewall"}),
        (NETFILTER, message(10 << 8 | 15), set()),  # the end of a transaction
        (NETFILTER, message(1 << 8 | 0), set()),  # connection tracking
    ],
)
def test_what_is_announced(netlink: int, data: bytes, about: set[str]) -> None:
    assert announced(netlink, data) == about


# -- listeners

LISTENING = ("10.0.0.1", 4242, 7)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ([], [LISTENING], [("listening", 4242)]),
        ([LISTENING], [], [("ended", 4242)]),
        ([LISTENING], [("10.0.0.1", 4242, 8)], [("restarted", 4242)]),
        ([LISTENING], [("127.0.0.1", 4242, 8)], [("restarted", 4242)]),
        ([LISTENING], [LISTENING, ("::", 4242, 8)], [("listening", 4242)]),
        ([LISTENING, ("::", 4242, 8)], [LISTENING], [("ended", 4242)]),
        ([LISTENING], [LISTENING], []),
        ([LISTENING], [("10.0.0.1", 99, 7)], [("listening", 99), ("ended", 4242)]),
    ],
)
def test_what_became_of_listeners(
    before: list[tuple[str, int, int]],
    now: list[tuple[str, int, int]],
    told: list[tuple[str, int]],
) -> None:
    assert list(told_of_ports(frozenset(before), frozenset(now))) == told


rows = st.frozensets(
    st.tuples(st.sampled_from(["::", "0.0.0.0", "::1"]), st.integers(1, 3), st.integers(1, 4))
)


@given(rows, rows)
def test_each_port_is_told_of_once_and_only_where_something_differs(
    before: changes.Listening, now: changes.Listening
) -> None:
    told = list(told_of_ports(before, now))
    assert [port for _, port in told] == sorted({port for _, port, _ in before ^ now})
    assert {what for what, _ in told} <= set(CHANGES)


Told = list[tuple[str, int]]
Begin = Callable[..., Changes]


@pytest.fixture
async def watching() -> AsyncIterator[tuple[Told, Begin]]:
    """What was told, and a function that begins to watch."""
    async with contextlib.AsyncExitStack() as stack:
        told: Told = []

        def tell(what: What, port: int) -> None:
            told.append((what, port))

        def begin(ports: list[int], own: Callable[[], list[int]] = list) -> Changes:
            made = Changes(tell, ports=ports, own=own)
            stack.push_async_callback(made.close)
            made.start()
            return made

        yield told, begin


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


async def test_a_listener_that_comes_and_goes(watching: tuple[Told, Begin]) -> None:
    told, begin = watching
    with listening() as sock:
        port = sock.getsockname()[1]
        made = begin([port])
        made.look()
        assert told == []
        sock.listen()
        made.look()
        assert told == [("listening", port)]
    made.look()
    assert told[1:] == [("ended", port)]


async def test_other_ports_and_our_own_listeners_are_no_change(
    watching: tuple[Told, Begin],
) -> None:
    told, begin = watching
    with listening() as other, listening() as own:
        port = own.getsockname()[1]
        made = begin([port], lambda: [_inode(own)])
        other.listen()
        own.listen()
        made.look()
        other.close()
        made.look()
    assert told == []


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


async def test_closing_twice_and_never_started() -> None:
    made = Changes(lambda _what, _port: None, ports=[], own=list)
    await made.close()
    made.start()
    await made.close()
    await made.close()
    assert len(asyncio.all_tasks()) == 1


async def test_where_there_is_no_netlink_listeners_are_watched_still(
    monkeypatch: pytest.MonkeyPatch, watching: tuple[Told, Begin]
) -> None:

    told, begin = watching
    with listening() as sock:
        port = sock.getsockname()[1]
        monkeypatch.setattr(changes, "tcp_sockets", lambda _: None)
        monkeypatch.setattr(changes, "_joined", lambda *_: None)
        made = begin([port])
        sock.listen()
        made.look()
    assert told == [("listening", port)]


# -- rules of the older iptables

SAVE = """# Generated by iptables-save v1.8.9 on Sun Nov 22 21:00:00 2026
*filter
:INPUT ACCEPT [12:3456]
-A INPUT -p tcp -m tcp --dport 4242 -j DROP
COMMIT
"""


def test_counters_and_times_are_no_change() -> None:
    later = SAVE.replace("12:3456", "99:9999").replace("21:00:00", "21:00:02")
    assert digest_of([SAVE]) == digest_of([later])


@pytest.mark.parametrize("other", [[], [""], [SAVE, SAVE], [SAVE.replace("DROP", "ACCEPT")]])
def test_rules_are(other: list[str]) -> None:
    assert digest_of([SAVE]) != digest_of(other)
