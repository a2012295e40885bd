"""The destination's connection to its own service, against real sockets on loopback."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from bothends import self_test
from bothends.self_test import MAX_TESTED, SelfTest
from bothends_protocol.evidence import Probe, SelfConnect

HERE = "127.0.0.1"
linux = pytest.mark.skipif(sys.platform != "linux", reason="the socket table is Linux's")


@pytest.fixture
def service() -> Iterator[socket.socket]:
    with socket.create_server((HERE, 0)) as listening:
        listening.setblocking(False)
        yield listening


def probe(port: int) -> Probe:
    return Probe(transport="tcp", address=HERE, port=port)


async def outcome_of(port: int) -> SelfConnect:
    found: list[SelfConnect] = []
    test = SelfTest(found.append)
    test.start(probe(port))
    test.start(probe(port))
    await test.finish()
    await test.close()
    (result,) = found
    return result


@linux
async def test_a_program_that_never_takes_it_is_watched_long_enough(
    service: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "WATCH_SECONDS", 0.1)
    result = await outcome_of(service.getsockname()[1])
    assert (result.outcome, result.spoke, result.accepted) == ("connected", "nothing", False)
    assert result.watched >= 0.1


@linux
async def test_a_program_that_takes_it_ends_the_watch(
    service: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[socket.socket] = []
    real = self_test._accepted

    def look(sock: socket.socket) -> bool | None:
        before = real(sock)
        if not taken:
            taken.append(service.accept()[0])
        return before

    monkeypatch.setattr(self_test, "_accepted", look)
    result = await outcome_of(service.getsockname()[1])
    for one in taken:
        one.close()
    assert (result.outcome, result.spoke, result.accepted) == ("connected", "nothing", True)
    assert result.watched < self_test.WATCH_SECONDS


async def test_a_program_that_closes_at_once(
    service: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = self_test._words

    async def words(sock: socket.socket) -> str:
        service.accept()[0].close()
        return await real(sock)

    monkeypatch.setattr(self_test, "_words", words)
    result = await outcome_of(service.getsockname()[1])
    assert (result.outcome, result.spoke) == ("connected", "closed")


async def test_a_program_that_speaks_first_is_not_written_to(
    service: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ends = self_test._words, []

    async def words(sock: socket.socket) -> str:
        end = service.accept()[0]
        end.send(b"220 ready\r\n")
        ends.append(end)
        return await real(sock)

    monkeypatch.setattr(self_test, "_words", words)
    result = await outcome_of(service.getsockname()[1])
    (end,) = ends
    assert end.recv(100) == b""
    end.close()
    assert (result.outcome, result.spoke) == ("connected", "other")


async def test_nobody_there_is_refused(service: socket.socket) -> None:
    port = service.getsockname()[1]
    service.close()
    assert (await outcome_of(port)).outcome == "refused"


async def test_an_address_of_another_host_is_an_error_and_no_crash() -> None:
    found: list[SelfConnect] = []
    test = SelfTest(found.append)
    test.start(Probe(transport="tcp", address="no address", port=1))
    await test.finish()
    assert found[0].outcome.startswith("error")


async def test_only_a_sample_of_many_is_tested(service: socket.socket) -> None:
    service.close()
    found: list[SelfConnect] = []
    test = SelfTest(found.append)
    for port in range(1, 100):
        test.start(probe(port))
    await test.close()
    assert len(test._tests) == MAX_TESTED
