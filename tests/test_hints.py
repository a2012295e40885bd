"""What is shown to be typed on the other computer, and what may be typed while waiting."""

from __future__ import annotations

import asyncio
import io
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

from bothends import cli, command, hints
from bothends.hints import (
    MAX_SHOWN,
    TypedLines,
    addresses_to_show,
    destination_lines,
    is_like_a_code,
    source_lines,
)
from bothends.options import Options
from bothends_protocol.code import parse_code
from bothends_protocol.evidence import Address

CODE = parse_code("7-abandon-ability-able")
ADDRESSES = ("192.168.7.10", "2001:db8::1")


def at(interface: str, *addresses: str) -> list[Address]:
    return [Address(interface=interface, address=text, prefix=24) for text in addresses]


# -- which addresses


def test_ipv4_comes_first_and_link_local_never() -> None:
    own = at("eth0", "fe80::1", "2001:db8::1", "169.254.1.1", "192.168.7.10")
    assert addresses_to_show(own, ["eth0"]) == ("192.168.7.10", "2001:db8::1")


@pytest.mark.parametrize("state", ["tentative", "deprecated", "temporary"])
def test_what_is_not_for_others_is_not_shown(state: str) -> None:
    lasting, passing = (
        Address(interface="eth0", address=text, prefix=64, state=what)
        for text, what in (("2001:db8::1", ""), ("2001:db8::abcd", state))
    )
    assert addresses_to_show([passing, lasting], ["eth0"]) == ("2001:db8::1",)
    assert addresses_to_show([passing], ["eth0"]) == ("2001:db8::abcd",)


def test_the_way_out_comes_first_and_there_are_not_too_many() -> None:
    own = [
        *at("eth1", "10.1.1.1", "10.1.1.2"),
        *at("eth0", "192.168.7.10", "2001:db8::1"),
    ]
    assert addresses_to_show(own, ["eth0"]) == ("192.168.7.10", "10.1.1.1", "10.1.1.2")
    assert len(addresses_to_show(own, ["eth0"])) == MAX_SHOWN


@pytest.mark.parametrize("bridge", ["docker0", "br-4fa3", "virbr0", "lxdbr0", "vethab12"])
def test_bridges_of_containers_only_where_there_is_nothing_else(bridge: str) -> None:
    inside = at(bridge, "172.17.0.1")
    assert addresses_to_show([*inside, *at("eth0", "192.168.7.10")], []) == ("192.168.7.10",)
    assert addresses_to_show(inside, []) == ("172.17.0.1",)
    assert addresses_to_show(inside, [bridge]) == ("172.17.0.1",)


def test_link_local_where_there_is_nothing_else() -> None:
    assert addresses_to_show(at("eth0", "169.254.1.1", "fe80::1"), []) == (
        "169.254.1.1",
        "fe80::1%INTERFACE",
    )
    assert addresses_to_show([], []) == ()


# -- the lines


def options(*argv: str) -> Options:
    return command._options(cli._parser().parse_args(argv))


def test_the_destination_shows_code_and_addresses() -> None:
    lines = destination_lines(options("destination", "1"), CODE, ADDRESSES, typing=False)
    assert "    bothends source 7-abandon-ability-able --peer 192.168.7.10 --peer 2001:db8::1" in (
        lines
    )
    assert not any("press Enter" in line for line in lines)


def test_a_given_code_is_not_shown() -> None:
    given = options("destination", "1", "--code", str(CODE), "--control-port", "99")
    lines = destination_lines(given, CODE, ADDRESSES[:1], typing=True, rendezvous="ws://a/v1")
    text = "\n".join(lines)
    assert "abandon" not in text
    assert "code number 7" in text
    line = "bothends source --code-file FILE --control-port 99"
    assert f"    {line} --rendezvous ws://a/v1" in lines
    assert "press Enter" in text


def test_the_source_says_what_to_type_at_the_destination() -> None:
    lines = source_lines(options("source", str(CODE)), ADDRESSES, typing=False)
    assert "    192.168.7.10" in lines
    assert "    bothends destination PORTS --peer 192.168.7.10 --peer 2001:db8::1" in lines
    assert "abandon" not in "\n".join(lines)


def test_with_a_shared_code_the_destination_can_be_started_anew() -> None:
    shared = options("source", "--code", str(CODE), "--control-port", "99")
    lines = source_lines(shared, ADDRESSES[:1], typing=True)
    line = "bothends destination PORTS --code-file FILE --peer 192.168.7.10 --control-port 99"
    assert f"    {line}" in lines
    assert "press Enter" in lines[-1]


def test_without_an_address_there_is_nothing_to_dial() -> None:
    (line,) = source_lines(options("source", str(CODE)), (), typing=False)
    assert "no network address" in line


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("7-abandon-ability-able", True),
        ("7-Abandon-abilty-able", True),
        ("abandon-ability-able", True),
        ("bothends source 7-abandon-ability-able", False),  # has blanks, and so is no address
        ("192.168.7.10", False),
        ("2001:db8::1", False),
        ("nas", False),
        ("home", False),
        ("my-nas.example", False),
        ("2.pool.example", False),
        ("", False),
    ],
)
def test_the_words_of_a_code_are_looked_up_nowhere(text: str, *, secret: bool) -> None:
    assert is_like_a_code(text) == secret


# -- lines that are typed


class Terminal:
    """A terminal: `keys` are its keyboard, `stream` what a program reads from."""

    def __init__(self) -> None:
        self.keys, end = os.openpty()
        self.stream: TextIO = os.fdopen(end)

    def type(self, text: str) -> None:
        os.write(self.keys, text.encode())

    def close(self) -> None:
        os.close(self.keys)
        self.stream.close()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    # It is not this process's own terminal, in which the kernel knows a foreground.
    monkeypatch.setattr(TypedLines, "_in_foreground", lambda _self: True)
    made = Terminal()
    yield made
    made.close()


async def test_each_line_is_handed_over(terminal: Terminal) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    typed = TypedLines(lines.put_nowait, lambda: True, terminal.stream)
    assert typed.start()
    terminal.type("  192.168.7.10 \n\nnas\n\xff\n")
    assert [await lines.get() for _ in range(3)] == ["192.168.7.10", "nas", "\xff"]
    typed.close()
    typed.close()
    terminal.type("left for the shell\n")
    assert terminal.stream.readline() == "left for the shell\n"


async def test_what_comes_too_late_is_left_unread(terminal: Terminal) -> None:
    asked = asyncio.Event()

    def wanted() -> bool:
        asked.set()
        return False

    typed = TypedLines(lambda _text: None, wanted, terminal.stream)
    assert typed.start()
    terminal.type("ls\n")
    await asked.wait()
    assert terminal.stream.readline() == "ls\n"


async def test_the_end_of_input_ends_the_reading_only(terminal: Terminal) -> None:
    ended = asyncio.Event()

    class Watched(TypedLines):
        def close(self) -> None:
            super().close()
            ended.set()

    typed = Watched(lambda _text: None, lambda: True, terminal.stream)
    assert typed.start()
    terminal.type("\x04")
    await ended.wait()


async def test_in_the_background_nothing_is_read(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    front = False
    monkeypatch.setattr(hints, "_FOREGROUND_SECONDS", 0.0)
    monkeypatch.setattr(TypedLines, "_in_foreground", lambda _self: front)
    typed = TypedLines(lines.put_nowait, lambda: True, terminal.stream)
    assert typed.start()
    terminal.type("nas\n")
    for _ in range(10):
        await asyncio.sleep(0)
    assert lines.empty()
    front = True
    assert await lines.get() == "nas"
    typed.close()


@pytest.mark.parametrize("stream", [io.StringIO("nas\n"), io.TextIOWrapper(io.BytesIO())])
async def test_only_a_terminal_is_read(stream: TextIO) -> None:
    assert not TypedLines(lambda _text: None, lambda: True, stream).start()
    stream.close()
    assert not TypedLines(lambda _text: None, lambda: True, stream).start()


# -- a whole agent at a terminal

AT_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "bothends", *sys.argv[1:]])
"""


class Agent:
    """An agent with a terminal of its own."""

    def __init__(self, *argv: str) -> None:
        self._keys, end = os.openpty()
        self._shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, *argv], stdin=end, stdout=end, stderr=end
        )
        os.close(end)

    def type(self, text: str) -> None:
        os.write(self._keys, text.encode())

    def until(self, pattern: str) -> None:
        while not re.search(pattern, self._shown):
            ready, _, _ = select.select([self._keys], [], [], 20)
            assert ready, f"no {pattern!r} in\n{self._shown}"
            self._shown += os.read(self._keys, 4096).decode()
        self._shown = self._shown[re.search(pattern, self._shown).end() :]  # type: ignore[union-attr]

    def end(self) -> int:
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            os.close(self._keys)


@pytest.fixture
def port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return str(sock.getsockname()[1])


def test_addresses_typed_at_a_waiting_destination(port: str) -> None:
    agent = Agent("destination", "4242", "--no-mdns", "--control-port", port)
    agent.until("press Enter")
    agent.type("no address\n")
    agent.until("That is no address: ")
    agent.type("7-abandon-ability-able\n")
    agent.until("pairing code and no address")
    agent.type("127.0.0.1:99999\n")
    agent.until("That is no address: ")
    agent.type("127.0.0.1:1\n")
    agent.until("Looking for the other computer at 127.0.0.1:1, too.")
    agent.type("\x03")
    assert agent.end() == 130


def test_a_source_says_after_a_moment_what_to_type(port: str) -> None:
    agent = Agent("source", "--no-mdns", "--control-port", port, "--peer", "127.0.0.1:1")
    agent.until("Pairing code")
    agent.type(f"{CODE}\n")
    agent.until("Not found yet")
    agent.until("bothends destination PORTS")
    agent.type("127.0.0.1:2\n")
    agent.until("Looking for the other computer at 127.0.0.1:2, too.")
    agent.type("\x03")
    assert agent.end() == 130
