"""What hosts and routers say to each other about port mappings: NAT-PMP (RFC 6886), PCP (RFC 6887).

Both are spoken over UDP at port 5351, PCP as the younger of the two, and a router that knows only
one of them says so in its own form. Requests are written here and replies read; who a reply is
from, when to ask again and what to ask is for the caller.
"""

from __future__ import annotations

import ipaddress
import struct

import msgspec

from .addresses import bare, normal
from .errors import MisuseError, ProtocolError

__all__ = [
    "NONCE_SIZE",
    "PCP_RESULTS",
    "PCP_VERSION",
    "PMP_RESULTS",
    "PORT",
    "UNSUPPORTED_OPTION",
    "UNSUPPORTED_VERSION",
    "Granted",
    "PcpReply",
    "PmpReply",
    "outside_address",
    "pcp_announce",
    "pcp_map",
    "pmp_address",
    "pmp_map",
    "read_pcp",
    "read_pmp",
]

PORT = 5351
"""UDP port of a router at which both are spoken (RFC 6886, 3.1; RFC 6887, 7)."""

PCP_VERSION = 2

NONCE_SIZE = 12
"""Bytes by which a PCP mapping is known to be its maker's (RFC 6887, 11.1)."""

MAX_PCP = 1100
"""Most bytes of a PCP message (RFC 6887, 7)."""

SUCCESS, UNSUPPORTED_VERSION = 0, 1
"""Results that both protocols number alike."""

UNSUPPORTED_OPTION = 5
"""A result of PCP."""

PMP_RESULTS = {
    0: "success",
    1: "unsupported version",
    2: "not authorized or refused",
    3: "network failure",
    4: "out of resources",
    5: "unsupported opcode",
}
"""RFC 6886, 3.5. Number 3 is also what routers say when they just cannot: it proves nothing."""

PCP_RESULTS = {
    0: "success",
    1: "unsupported version",
    2: "not authorized",
    3: "malformed request",
    4: "unsupported opcode",
    5: "unsupported option",
    6: "malformed option",
    7: "network failure",
    8: "no resources",
    9: "unsupported protocol",
    10: "quota exceeded",
    11: "this outside port is taken or not permitted",
    12: "this host is seen under another address",
    13: "excessive remote peers",
}
"""RFC 6887, 7.4. Number 8 is as generic as number 3 of the older protocol."""

_RESPONSE = 0x80
_ANNOUNCE, _MAP = 0, 1
_NUMBERS = {"tcp": 6, "udp": 17}
_TRANSPORTS = {number: name for name, number in _NUMBERS.items()}

_PMP_OPCODES = {"udp": 1, "tcp": 2}
_PMP_TRANSPORTS = {opcode: name for name, opcode in _PMP_OPCODES.items()}
_PMP_MAP = struct.Struct("!BBHHHI")
_PMP_HEAD = struct.Struct("!BBHI")
_PMP_GRANTED = struct.Struct("!HHI")

_PCP_REQUEST = struct.Struct("!BBHI16s")
_PCP_REPLY = struct.Struct("!BBBBII12x")
_PCP_MAPPING = struct.Struct("!12sB3xHH16s")
_PREFER_FAILURE = bytes((2, 0, 0, 0))
"""An option without contents: code, reserved, length (RFC 6887, 7.3)."""


class Granted(msgspec.Struct, frozen=True):
    """A mapping that a router says it made, or that an error is about."""

    transport: str
    inside: int
    outside: int
    lifetime: int
    """Seconds; 0: it is gone."""
    address: str | None = None
    """The outside address; NAT-PMP does not say it here."""
    nonce: bytes = b""


class PmpReply(msgspec.Struct, frozen=True):
    """A NAT-PMP reply. Only the successful ones carry more than the head."""

    version: int
    """0; a router that speaks PCP alone answers in that one's version."""
    opcode: int
    """That of the request."""
    result: int
    epoch: int
    """Seconds since the router last forgot its mappings."""
    address: str | None = None
    mapping: Granted | None = None


class PcpReply(msgspec.Struct, frozen=True):
    """A PCP reply; of version 0 it is what a router says that speaks NAT-PMP alone."""

    version: int
    opcode: int
    result: int
    lifetime: int
    """Of a mapping; with an error, seconds for which it is not worth asking again."""
    epoch: int
    mapping: Granted | None = None


def pmp_address() -> bytes:
    """Return the NAT-PMP request for the outside address (RFC 6886, 3.2)."""
    return b"\0\0"


def pmp_map(transport: str, inside: int, outside: int, lifetime: int) -> bytes:
    """Return the NAT-PMP request for a mapping (RFC 6886, 3.3); with `lifetime` 0 to end one."""
    return _PMP_MAP.pack(0, _PMP_OPCODES[transport], 0, inside, outside, lifetime)


def read_pmp(data: bytes) -> PmpReply:
    """Return the NAT-PMP reply in `data`; raise `ProtocolError` for all else."""
    if len(data) < _PMP_HEAD.size:
        raise ProtocolError("too short for a NAT-PMP reply")
    version, opcode, result, epoch = _PMP_HEAD.unpack_from(data)
    if not opcode & _RESPONSE:
        raise ProtocolError("a NAT-PMP request where a reply belongs")
    opcode ^= _RESPONSE
    if version:
        # The byte before PCP's result is reserved, and may hold anything.
        return PmpReply(version, opcode, _foreign(result & 0xFF), 0)
    if result != SUCCESS:
        return PmpReply(version, opcode, result, epoch)
    body = data[_PMP_HEAD.size :]
    if opcode == 0:
        return PmpReply(version, opcode, result, epoch, address=_pmp_address(body))
    return PmpReply(version, opcode, result, epoch, mapping=_pmp_granted(opcode, body))


def _foreign(result: int) -> int:
    """Of a reply in another version only this can be understood: that ours is not."""
    if result != UNSUPPORTED_VERSION:
        raise ProtocolError("a reply in another version")
    return result


def _pmp_address(body: bytes) -> str:
    if len(body) < 4:
        raise ProtocolError("a NAT-PMP reply without its address")
    return str(ipaddress.IPv4Address(body[:4]))


def _pmp_granted(opcode: int, body: bytes) -> Granted:
    transport = _PMP_TRANSPORTS.get(opcode)
    if transport is None or len(body) < _PMP_GRANTED.size:
        raise ProtocolError("a NAT-PMP reply about nothing that was asked")
    return Granted(transport, *_PMP_GRANTED.unpack_from(body))


def pcp_announce(client: str) -> bytes:
    """Return the PCP request that asks for nothing (RFC 6887, 14.1); `client` is who sends it."""
    return _pcp_head(_ANNOUNCE, 0, client)


def pcp_map(
    client: str,
    nonce: bytes,
    transport: str,
    inside: int,
    outside: int,
    lifetime: int,
    *,
    exact: bool = False,
) -> bytes:
    """Return the PCP request for a mapping (RFC 6887, 11.1); with `lifetime` 0 to end one.

    Any outside address will do, of the client's IP version. `exact`: no other outside port will
    (the option PREFER_FAILURE, 13.2), which spares a router that permits none the trying of all.
    """
    if len(nonce) != NONCE_SIZE:
        raise MisuseError("a PCP nonce has twelve bytes")
    any_address = _packed("::" if ":" in client else "0.0.0.0")  # noqa: S104  not bound
    asked = _PCP_MAPPING.pack(nonce, _NUMBERS[transport], inside, outside, any_address)
    return _pcp_head(_MAP, lifetime, client) + asked + (_PREFER_FAILURE if exact else b"")


def _pcp_head(opcode: int, lifetime: int, client: str) -> bytes:
    return _PCP_REQUEST.pack(PCP_VERSION, opcode, 0, lifetime, _packed(bare(client)))


def _packed(address: str) -> bytes:
    """Return the 16 bytes of an address, IPv4 as IPv4-mapped (RFC 6887, 5)."""
    try:
        value = ipaddress.ip_address(address)
    except ValueError:
        raise MisuseError(f"no address: {address}") from None
    return value.packed if value.version == 6 else bytes(10) + b"\xff\xff" + value.packed


def read_pcp(data: bytes) -> PcpReply:
    """Return the PCP reply in `data`; raise `ProtocolError` for all else.

    Options are not looked at: none is asked for.
    """
    if len(data) >= _PMP_HEAD.size and data[0] == 0:
        older = read_pmp(data)
        return PcpReply(0, older.opcode, _foreign(older.result), 0, older.epoch)
    if not _PCP_REPLY.size <= len(data) <= MAX_PCP or len(data) % 4:
        raise ProtocolError("not of the size of a PCP reply")
    version, opcode, _, result, lifetime, epoch = _PCP_REPLY.unpack_from(data)
    if not opcode & _RESPONSE:
        raise ProtocolError("a PCP request where a reply belongs")
    opcode ^= _RESPONSE
    if version != PCP_VERSION:
        return PcpReply(version, opcode, _foreign(result), lifetime, epoch)
    body = data[_PCP_REPLY.size :]
    mapping = _pcp_granted(body, lifetime) if opcode == _MAP else None
    return PcpReply(version, opcode, result, lifetime, epoch, mapping)


def _pcp_granted(body: bytes, lifetime: int) -> Granted:
    if len(body) < _PCP_MAPPING.size:
        raise ProtocolError("a PCP reply without its mapping")
    nonce, number, inside, outside, address = _PCP_MAPPING.unpack_from(body)
    transport = _TRANSPORTS.get(number)
    if transport is None:
        raise ProtocolError("a PCP reply about another transport")
    outside_at = normal(str(ipaddress.IPv6Address(address)))
    return Granted(transport, inside, outside, lifetime, outside_at, nonce)


def outside_address(text: str) -> str | None:
    """Return the address in `text` in its usual form; None where no router can have it outside.

    A private one is returned: a router behind another router has such a one.
    """
    try:
        value = ipaddress.ip_address(normal(text))
    except ValueError:
        return None
    if value.is_unspecified or value.is_loopback or value.is_multicast or value.is_reserved:
        return None
    return str(value)
