"""The destination connects to its own service, so that what is wrong behind a filter shows too.

Only where no request of the other side came through and a program holds the
port. It connects over the host's own loopback path, reads, writes nothing, and
looks whether the program takes the connection. What a program does with a
client on its own host is not always what it does with others; the judge
minds that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable

from bothends_protocol.addresses import bare, family
from bothends_protocol.evidence import Probe, SelfConnect

from .witness.sockets import connections, read_table

__all__ = ["SelfTest"]

CONNECT_SECONDS = 0.05
"""For the host's own kernel to connect to itself, which takes it microseconds; a queue that is
full never does, nor a filter that does not except the loopback path."""

WORDS_SECONDS = 0.05
"""For the program to speak or to close."""

WATCH_SECONDS = 1.5
"""As long as a connection of the other side is watched (`observer.HUNG_SECONDS`)."""

PAUSE = 0.02
MAX_TESTED = 16
"""Services tested: of thousands of ports these are a sample."""

_READ = 256


class SelfTest:
    """Connections of this host to its own services. `note` takes each result."""

    def __init__(self, note: Callable[[SelfConnect], None]) -> None:
        self._note = note
        self._tests: dict[Probe, asyncio.Task[None]] = {}

    def start(self, probe: Probe) -> None:
        """Test the service at `probe`, an address of this host, in the background, once."""
        if probe not in self._tests and len(self._tests) < MAX_TESTED:
            self._tests[probe] = asyncio.get_running_loop().create_task(self._test(probe))

    async def finish(self) -> None:
        """Wait until all tests have told what they found."""
        await asyncio.gather(*self._tests.values())

    async def close(self) -> None:
        """End what is still under way; safe to call again."""
        for task in self._tests.values():
            task.cancel()
        await asyncio.gather(*self._tests.values(), return_exceptions=True)

    async def _test(self, probe: Probe) -> None:
        kind = socket.AF_INET6 if family(bare(probe.address)) == 6 else socket.AF_INET
        try:
            place = socket.getaddrinfo(
                probe.address, probe.port, kind, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST
            )[0][4]
            sock = socket.socket(kind, socket.SOCK_STREAM)
        except OSError as error:
            self._tell(probe, _outcome(error))
            return
        with sock:
            sock.setblocking(False)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await asyncio.get_running_loop().sock_connect(sock, place)
            except TimeoutError:
                self._tell(probe, "silent")
            except OSError as error:
                self._tell(probe, _outcome(error))
            else:
                await self._watch(probe, sock)

    async def _watch(self, probe: Probe, sock: socket.socket) -> None:
        spoke = await _words(sock)
        loop = asyncio.get_running_loop()
        began = loop.time()
        accepted = _accepted(sock) if spoke != "closed" else None
        while accepted is False and spoke == "nothing" and loop.time() - began < WATCH_SECONDS:
            await asyncio.sleep(PAUSE)
            accepted = _accepted(sock)
        watched = round(loop.time() - began, 3)
        self._tell(probe, "connected", spoke=spoke, accepted=accepted, watched=watched)

    def _tell(
        self,
        probe: Probe,
        outcome: str,
        *,
        spoke: str = "nothing",
        accepted: bool | None = None,
        watched: float = 0.0,
    ) -> None:
        self._note(
            SelfConnect(
                transport=probe.transport,
                address=probe.address,
                port=probe.port,
                outcome=outcome,
                spoke=spoke,
                accepted=accepted,
                watched=watched,
            )
        )


async def _words(sock: socket.socket) -> str:
    """What the program says first: `other`, `nothing` or `closed`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WORDS_SECONDS):
            try:
                data = await asyncio.get_running_loop().sock_recv(sock, _READ)
            except OSError:
                return "closed"
            return "other" if data else "closed"
    return "nothing"


def _accepted(sock: socket.socket) -> bool | None:
    """Whether a program has taken the far end of this connection; None where that is not seen."""
    try:
        local, port = sock.getsockname()[:2]
        there, at = sock.getpeername()[:2]
    except OSError:  # reset meanwhile
        return None
    for row in connections(read_table(listening=False) or (), {at}, 0):
        ends = bare(row.local_address), row.local_port, bare(row.remote_address), row.remote_port
        if ends == (bare(there), at, bare(local), port):
            return row.accepted
    return None


def _outcome(error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return "refused"
    return f"error: {os.strerror(error.errno or 0)}"
