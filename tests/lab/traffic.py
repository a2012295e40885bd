"""Other people's traffic, as a program: ``traffic.py PORT ADDRESS...`` on a third host.

To every address go datagrams and connection requests that nobody asked for, to
closed ports and, seldom, to the tested PORT itself, and a stream that is echoed
(``ECHO_PORT`` must be served there). All of it comes in spurts of random length, so
that it has a pattern of its own in every kernel counter. One line is written to
descriptor 3 once it is under way.
"""

from __future__ import annotations

import os
import random
import select
import socket
import sys
import time
from collections.abc import Callable

READY_FD = 3
ECHO_PORT = 9000
CLOSED_PORTS = range(30_000, 30_100)

DATAGRAMS, STRAYS, AT_PORT, CHUNKS = 4000.0, 600.0, 20.0, 500.0
"""A second and address, during spurts: a busy server, with somebody scanning its ports."""
SPURT, PAUSE, TICK = 0.06, 0.03, 0.002
"""Mean lengths in seconds: of a spurt, of the quiet after it, between two sends in a spurt.

Spurts and pauses are about as long as the windows of a coded burst (20 ms), where
they could do most harm.
"""
CHUNK = b"x" * 1000


class Receiver:
    """One address and what is sent there."""

    def __init__(self, address: str, port: int) -> None:
        self._address = address
        self._port = port
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._datagrams = socket.socket(self._family, socket.SOCK_DGRAM)
        self._stream = socket.create_connection((address, ECHO_PORT), 5)
        self._stream.setblocking(False)
        self._owed = dict.fromkeys((self._datagram, self._stray, self._at_port, self._chunk), 0.0)

    def send_for(self, seconds: float) -> None:
        """Send what is due in that time; fractions are kept for the next call."""
        rates = (DATAGRAMS, STRAYS, AT_PORT, CHUNKS)
        for (send, owed), rate in zip(self._owed.items(), rates, strict=True):
            due = owed + rate * seconds * random.expovariate(1)
            _repeat(send, int(due))
            self._owed[send] = due - int(due)

    def _datagram(self) -> None:
        self._datagrams.sendto(CHUNK[:200], (self._address, random.choice(CLOSED_PORTS)))

    def _stray(self) -> None:
        self._knock(random.choice(CLOSED_PORTS))

    def _at_port(self) -> None:
        self._knock(self._port)

    def _knock(self, port: int) -> None:
        """One connection request, and gone: the answer is met by a reset."""
        with socket.socket(self._family, socket.SOCK_STREAM) as knocker:
            knocker.setblocking(False)
            knocker.connect_ex((self._address, port))

    def _chunk(self) -> None:
        self._stream.send(CHUNK)
        self._stream.recv(1 << 20)


def _repeat(send: Callable[[], None], times: int) -> None:
    for _ in range(times):
        try:
            send()
        except OSError:  # refused, unreachable, queue full: what becomes of it is all one
            return


def main() -> None:
    port = int(sys.argv[1])
    receivers = [Receiver(address, port) for address in sys.argv[2:]]
    until, quiet = time.monotonic(), False
    told = False
    while True:
        now = time.monotonic()
        if now >= until:
            quiet = not quiet
            until = now + random.expovariate(1 / (PAUSE if quiet else SPURT))
        if not quiet:
            for receiver in receivers:
                receiver.send_for(TICK)
            if not told:
                os.write(READY_FD, b"ready\n")
                told = True
        select.select([], [], [], random.expovariate(1 / TICK))


if __name__ == "__main__":
    main()
