"""A real STUN server, coturn, with the two addresses that telling NATs apart takes."""

from __future__ import annotations

from .hosts import Host, Process

__all__ = ["OTHER_PORT", "PORT", "stun_server"]

PORT, OTHER_PORT = 3478, 3479

_TURNSERVER = [
    "turnserver",
    *("-n", "--stun-only", "--no-tls", "--no-dtls", "--no-tcp", "--no-cli"),
    *("--userdb", "/run/turn.db", "--pidfile", "/run/turn.pid", "--log-file", "stdout"),
]
"""With no configuration or file of the machine's."""

_ANSWERS = """
import socket, sys, time
question = bytes.fromhex("000100002112a442") + b"are you here"
until = time.monotonic() + 15
for address, port in zip(sys.argv[1::2], sys.argv[2::2]):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.05)
        while True:
            assert time.monotonic() < until, f"{address} {port} does not answer"
            try:
                sock.sendto(question, (address, int(port)))
                sock.recv(1000)
                break
            except OSError:
                pass
"""
"""Ends once the server answers at all the places that it is told."""


def stun_server(host: Host, *addresses: str) -> Process:
    """Start coturn at two addresses of a host, or four, of which two are of each IP version.

    Each names the other one of its version as its second address. With one address alone it
    has no second port either.
    """
    listen = [word for address in addresses for word in ("--listening-ip", address)]
    process = host.popen([*_TURNSERVER, *listen])
    ports = (PORT, OTHER_PORT) if len(addresses) > 1 else (PORT,)
    host.python(_ANSWERS, *(word for at in addresses for port in ports for word in (at, str(port))))
    return process
