"""Single connection requests: sockets that connect without waiting, and what came of them.

What `prober` and `hops` have in common. Everything here works without privilege.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys

from bothends_protocol.addresses import normal
from bothends_protocol.evidence import Icmp, Probe

__all__ = [
    "ask_for_errors",
    "connecting",
    "icmp_error",
    "limit_hops",
    "name_of",
    "offer_segment_size",
    "outcome_of",
]

# linux/in.h, linux/in6.h, linux/errqueue.h
_IP_RECVERR, _IPV6_RECVERR, _MSG_ERRQUEUE = 11, 25, 0x2000
_ORIGIN_ICMP, _ORIGIN_ICMP6 = 2, 3


def name_of(
    address: str, port: int
) -> tuple[int, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]:
    """Return the family and the socket name of an address (with its zone) and a port.

    Raises OSError where it is no address.
    """
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[
        0
    ]
    return found[0], found[4]


def connecting(probe: Probe) -> socket.socket | None:
    """Return a fresh socket that is connecting to `probe`, None where it would not."""
    try:
        kind, name = name_of(probe.address, probe.port)
        sock = socket.socket(kind, socket.SOCK_STREAM)
    except OSError:
        return None
    try:
        sock.setblocking(False)
        sock.connect_ex(name)
    except OSError:
        sock.close()
        return None
    return sock


def outcome_of(number: int, *, at_once: bool) -> str:
    """Return the outcome (`evidence.Attempt`) that the errno `number` of a connect means.

    `at_once`: connect() itself said it, before anything can have come back.
    """
    if number in (errno.ENETUNREACH, errno.EADDRNOTAVAIL) and at_once:
        return "no-route"
    if number in (errno.ECONNREFUSED, errno.ECONNRESET):
        return "refused"
    if number == errno.ETIMEDOUT:
        return "silent"
    if not at_once and number in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES):
        return "unreachable"
    return "unreachable" if number == errno.EHOSTUNREACH else "local-error"


def ask_for_errors(sock: socket.socket, *, wanted: bool = True) -> None:
    """Have the kernel keep ICMP errors with their sender for this socket (ip(7)). Linux.

    Not `wanted` any more once it is connected: else such an error, which anybody on the way can
    send, would end the connection.
    """
    if sys.platform != "linux":
        return  # the numbers mean something else there
    level, option = (
        (socket.IPPROTO_IPV6, _IPV6_RECVERR)
        if sock.family == socket.AF_INET6
        else (socket.IPPROTO_IP, _IP_RECVERR)
    )
    with contextlib.suppress(OSError):
        sock.setsockopt(level, option, int(wanted))


def limit_hops(sock: socket.socket, hops: int) -> None:
    """Give what the socket sends a time to live of `hops`; raise OSError where it cannot be."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)


def offer_segment_size(sock: socket.socket, size: int) -> bool:
    """Have the SYN of the socket offer `size` bytes of segment (tcp(7)); whether it will."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, size)
    except (OSError, AttributeError):
        return False
    return True


def icmp_error(sock: socket.socket) -> Icmp | None:
    """Return the ICMP error that ended this socket's connect, where the kernel kept one."""
    try:
        _, ancillary, _, _ = sock.recvmsg(64, 512, _MSG_ERRQUEUE)
    except (OSError, AttributeError):
        return None
    for level, kind, data in ancillary:
        if (level, kind) not in ((0, _IP_RECVERR), (41, _IPV6_RECVERR)) or len(data) < 16:
            continue
        # struct sock_extended_err, then the offender's socket address.
        _, origin, icmp_type, icmp_code = struct.unpack_from("=IBBB", data)
        if origin in (_ORIGIN_ICMP, _ORIGIN_ICMP6):
            return Icmp(kind=icmp_type, code=icmp_code, sender=_offender(data[16:]))
    return None


def _offender(raw: bytes) -> str:
    if len(raw) < 8:
        return ""
    family = struct.unpack_from("=H", raw)[0]
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[4:8])
    if family == socket.AF_INET6 and len(raw) >= 24:
        return normal(socket.inet_ntop(socket.AF_INET6, raw[8:24]))
    return ""
