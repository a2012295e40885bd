"""A service of the lab, as a program: ``serve.py --mode echo --bind 0.0.0.0 --port 4242``.

It writes one line to descriptor 3 once it is in the state that its mode
promises, so that nobody has to sleep. With ``--activated`` that descriptor is
the listening socket instead, as a supervisor hands it over (sd_listen_fds(3)).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

READY_FD = 3
BANNER = b"220 lab service ready\r\n"
BACKLOG = 128
SLOWNESS = 0.3
"""Seconds that a slow service leaves a connection waiting: a busy program, not a hung one."""
RESET_AT_CLOSE = struct.pack("ii", 1, 0)
TCP_INFO_WAITING = 24
"""Offset in struct tcp_info where a listener tells its waiting connections; the limit follows."""


def _echo(connection: socket.socket, loop: selectors.BaseSelector) -> None:
    connection.sendall(BANNER)
    loop.register(connection, selectors.EVENT_READ, _echo_back)


def _silent(connection: socket.socket, loop: selectors.BaseSelector) -> None:
    loop.register(connection, selectors.EVENT_READ, _swallow)


def _closes(connection: socket.socket, _loop: selectors.BaseSelector) -> None:
    connection.close()


def _resets(connection: socket.socket, _loop: selectors.BaseSelector) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    connection.close()


def _tells(connection: socket.socket, _loop: selectors.BaseSelector) -> None:
    """All it has to say, and good-bye: the way of daytime (RFC 867)."""
    connection.sendall(BANNER)
    connection.close()


def _echo_back(connection: socket.socket) -> bool:
    data = connection.recv(65536)
    connection.sendall(data)
    return bool(data)


def _swallow(connection: socket.socket) -> bool:
    return bool(connection.recv(65536))


Accepted = Callable[[socket.socket, selectors.BaseSelector], None]
MODES: dict[str, Accepted | None] = {
    "echo": _echo,
    "silent": _silent,
    "picky": _silent,
    "slow": _echo,
    "closes": _closes,
    "resets": _resets,
    "tells": _tells,
    "hung": None,
    "full": None,
}
"""What is done with a connection; None never accepts one."""


def _listen(address: str, port: int, options: argparse.Namespace) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM if options.udp else socket.SOCK_STREAM
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not options.dual))
    if options.defer:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
    if options.device:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options.device.encode())
    listener.bind((address, port))
    if not options.udp:
        listener.listen(options.backlog)
    return listener


def _fill(listener: socket.socket) -> list[socket.socket]:
    """Connect to our own listener until the kernel takes no more."""
    host, port = listener.getsockname()[:2]
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    held: list[socket.socket] = []
    while True:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_WAITING + 8)
        waiting, limit = struct.unpack_from("II", info, TCP_INFO_WAITING)
        if waiting > limit:
            return held
        held.append(socket.create_connection((local, port), timeout=5))


def _serve(listeners: list[socket.socket], mode: str, accepted: Accepted) -> None:
    loop = selectors.DefaultSelector()
    for listener in listeners:
        loop.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in loop.select():
            here = key.fileobj
            assert isinstance(here, socket.socket)
            if key.data is None:
                time.sleep(SLOWNESS if mode == "slow" else 0)
                for connection in _waiting(here):
                    accepted(connection, loop)
            else:
                _read(here, key.data, loop)


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept all that wait."""
    listener.setblocking(False)
    try:
        while True:
            connection = listener.accept()[0]
            connection.setblocking(True)
            yield connection
    except BlockingIOError:
        return


def _read(
    connection: socket.socket, handle: Callable[[socket.socket], bool], loop: selectors.BaseSelector
) -> None:
    try:
        going_on = handle(connection)
    except OSError:  # the other end went away: its right
        going_on = False
    if not going_on:
        loop.unregister(connection)
        connection.close()


ASKED, ANSWERED = b"status?", b"all is well"
"""By UDP the mode `picky` answers the one with the other, and nothing else at all."""


def _serve_datagrams(listener: socket.socket, mode: str) -> None:
    while True:
        data, sender = listener.recvfrom(65536)
        if mode == "echo" or (mode == "picky" and data == ASKED):
            with contextlib.suppress(OSError):  # a filter of this host keeps it
                listener.sendto(data if mode == "echo" else ANSWERED, sender)


def _wait_for_ever() -> None:
    selectors.DefaultSelector().select()


def _listeners(options: argparse.Namespace) -> list[socket.socket]:
    if options.activated:
        return [socket.socket(fileno=READY_FD)]
    return [_listen(address, options.port, options) for address in options.bind]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=MODES, default="echo")
    parser.add_argument("--bind", action="append", default=[])
    parser.add_argument("--port", type=int)
    parser.add_argument("--activated", action="store_true", help="listen on descriptor 3")
    parser.add_argument("--backlog", type=int, default=BACKLOG)
    parser.add_argument("--udp", action="store_true")
    parser.add_argument("--dual", action="store_true", help="an IPv6 socket takes IPv4 too")
    parser.add_argument("--defer", action="store_true", help="TCP_DEFER_ACCEPT")
    parser.add_argument("--device", help="take from this interface alone (SO_BINDTODEVICE)")
    parser.add_argument("--title", help="the name of the program in the process table")
    options = parser.parse_args()
    if options.title:
        Path("/proc/self/comm").write_text(options.title, encoding="ascii")
    listeners = _listeners(options)
    held = _fill(listeners[0]) if options.mode == "full" else []
    if not options.activated:
        os.write(READY_FD, b"ready\n")
    accepted = MODES[options.mode]
    if options.udp:
        _serve_datagrams(listeners[0], options.mode)
    elif accepted is None:
        _wait_for_ever()
    else:
        _serve(listeners, options.mode, accepted)
    sys.exit(len(held))


if __name__ == "__main__":
    main()
