"""What TCP says of the contact itself."""

from __future__ import annotations

import socket
import struct
import sys

import pytest

from bothends.streams import asked_again, resent_of


def info(resent: int, twice: int | None) -> bytes:
    """Struct tcp_info as far as Linux fills it; without `twice` that of before 4.19."""
    head = bytes(100) + struct.pack("=I", resent)
    return head if twice is None else head + bytes(112) + struct.pack("=I", twice)


@pytest.mark.parametrize(
    ("resent", "twice", "lost"),
    [(0, 0, 0), (3, 0, 3), (3, 1, 2), (1, 1, 0), (1, 2, 0), (2, None, 2)],
)
def test_what_came_twice_was_not_lost(resent: int, twice: int | None, lost: int) -> None:
    assert resent_of(info(resent, twice)) == lost


def test_what_is_too_short_says_nothing() -> None:
    with pytest.raises(struct.error):
        resent_of(bytes(100))


@pytest.mark.skipif(sys.platform != "linux", reason="struct tcp_info is Linux's")
def test_a_connection_that_lost_nothing_says_so() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
    ):
        assert resent_of(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 220)) == 0
        assert asked_again(sock) is False
