"""Single datagrams to a tested UDP port: fresh connected sockets, and what came back on them.

To our own listener goes a genuine request (`bothends_protocol.challenge`); to a
program that is not ours nothing is written: an empty datagram, or what the user
gave with --payload. Everything here works without privilege.
"""

from __future__ import annotations

import errno
import secrets
import socket

import msgspec

from bothends_protocol.challenge import NONCE_SIZE, REPLY_SIZE, is_reply, request
from bothends_protocol.evidence import Icmp, Probe

from .connects import ask_for_errors, icmp_error, name_of

__all__ = ["Heard", "Letter", "hear", "letter", "send", "socket_to"]

_READ = REPLY_SIZE + 1
_BATCH = 16
"""Answers to one datagram that are looked at."""


class Letter(msgspec.Struct, frozen=True):
    """What one datagram holds; `nonce` where it asks our own listener."""

    data: bytes
    nonce: bytes = b""


class Heard(msgspec.Struct, frozen=True):
    """What came back on a socket: an ICMP error, an answer, or neither yet."""

    spoke: str = "nothing"
    """`challenge` (our own listener, genuine), `other` or `nothing`."""
    error: int = 0
    """errno of an error that came in."""
    icmp: Icmp | None = None


def letter(key: bytes, payload: bytes, *, own: bool) -> Letter:
    """Return what is sent to our own listener, or else to whoever has the port."""
    if not own:
        return Letter(payload)
    nonce = secrets.token_bytes(NONCE_SIZE)
    return Letter(request(key, nonce), nonce)


def socket_to(probe: Probe, local_port: int = 0) -> socket.socket:
    """Return a fresh socket that is connected to `probe`, from `local_port` where one is given.

    Nothing is sent. Raises OSError.
    """
    kind, name = name_of(probe.address, probe.port)
    sock = socket.socket(kind, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        ask_for_errors(sock)
        if local_port:
            sock.bind(("", local_port))
        sock.connect(name)
    except OSError:
        sock.close()
        raise
    return sock


def send(sock: socket.socket, data: bytes) -> int:
    """Send one datagram; return 0, or the errno with which this system refused to."""
    try:
        sock.send(data)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def hear(sock: socket.socket, key: bytes, nonce: bytes) -> Heard:
    """Return what has come back by now. An answer tells more than an error before it."""
    # The pending error first: reading the queue takes it away (see `prober`).
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    icmp = icmp_error(sock)
    spoke = "nothing"
    for _ in range(_BATCH):
        try:
            data = sock.recv(_READ)
        except BlockingIOError:
            break
        except OSError as failed:
            error = failed.errno or error
            continue
        spoke = "challenge" if nonce and is_reply(key, nonce, data) else "other"
        if spoke == "challenge":
            break
    return Heard(spoke, error, icmp)
