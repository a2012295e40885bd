"""STUN Binding (RFC 8489) and the attributes by which NATs are told apart (RFC 5780).

A host asks a server under which address and port its datagram arrived. A server
that also has a second address and port can be asked to answer from those, and so
shows what a NAT lets in. Servers of the first STUN (RFC 3489) are understood too:
they say the address in plain and name their second one by another attribute.

Whoever answers is not authenticated: what comes is to be taken only from the
address that was asked, and under the transaction that was asked for.
"""

from __future__ import annotations

import ipaddress
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from .addresses import normal
from .errors import MisuseError, ProtocolError

__all__ = [
    "ERROR",
    "REQUEST",
    "STUN_PORT",
    "SUCCESS",
    "TRANSACTION_SIZE",
    "StunMessage",
    "TransportAddress",
    "binding_request",
    "read_stun",
]

STUN_PORT = 3478
"""Where servers wait by UDP (RFC 8489, 8)."""

TRANSACTION_SIZE = 12
"""Bytes of a transaction's id (RFC 8489, 5), to be drawn anew for each."""

REQUEST, INDICATION, SUCCESS, ERROR = 0, 1, 2, 3
"""Classes of a message (RFC 8489, 5)."""

_BINDING = 1
_COOKIE = 0x2112A442
_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")

_MAPPED_ADDRESS = 0x0001
_CHANGE_REQUEST = 0x0003
_CHANGED_ADDRESS = 0x0005
_MESSAGE_INTEGRITY = 0x0008
_ERROR_CODE = 0x0009
_MESSAGE_INTEGRITY_SHA256 = 0x001C
_XOR_MAPPED_ADDRESS = 0x0020
_RESPONSE_PORT = 0x0027
_FINGERPRINT = 0x8028
_RESPONSE_ORIGIN = 0x802B
_OTHER_ADDRESS = 0x802C
_OPTIONAL = 0x8000
"""Attributes from here on may be passed over by who does not know them (RFC 8489, 14)."""

_PASSED_OVER = frozenset(
    (
        *(0x0002, 0x0004, 0x0006, 0x0007, 0x000A, 0x000B),  # of RFC 3489, 11.2
        *(0x0014, 0x0015, 0x001D, 0x001E),  # REALM, NONCE and the like (RFC 8489, 18.3)
        0x0026,  # PADDING (RFC 5780, 7.6)
        *(_CHANGE_REQUEST, _RESPONSE_PORT, _MESSAGE_INTEGRITY, _MESSAGE_INTEGRITY_SHA256),
    )
)
"""Known, and of no weight in an answer to somebody who has no password there."""

_CHANGE_ADDRESS, _CHANGE_PORT = 0x04, 0x02
_FINGERPRINT_MASK = 0x5354554E
_FAMILIES = {1: 4, 2: 16}
"""Bytes of an address by the number of its family (RFC 8489, 14.1)."""


class TransportAddress(NamedTuple):
    """An address in its usual form, and a port."""

    address: str
    port: int


class StunMessage(msgspec.Struct, frozen=True):
    """A Binding message."""

    kind: int
    """`REQUEST`, `INDICATION`, `SUCCESS` or `ERROR`."""
    transaction: bytes
    mapped: TransportAddress | None = None
    """As what the asker is seen. The masked form counts before the plain one, in which some
    NATs put what they think is right."""
    other: TransportAddress | None = None
    """The server's second address, with its second port."""
    origin: TransportAddress | None = None
    """Where the server says that it answers from."""
    error: int | None = None
    """300 to 699 (RFC 8489, 14.8)."""
    unknown: tuple[int, ...] = ()
    """Attributes that must be understood and are not: nothing else in the message counts, a
    transaction that it answers has failed (RFC 8489, 6.3.3 and 6.3.4)."""

    @property
    def answers(self) -> bool:
        """Whether it says as what the asker is seen."""
        return self.kind == SUCCESS and not self.unknown and self.mapped is not None


def binding_request(
    transaction: bytes,
    *,
    change_address: bool = False,
    change_port: bool = False,
    response_port: int = 0,
) -> bytes:
    """Return the datagram that asks under `transaction`, which is sent again as it is.

    With `change_address` and `change_port` the server is to answer from its other address or
    port (RFC 5780, 7.2); with `response_port`, to that port of the asker's (7.5).
    """
    if len(transaction) != TRANSACTION_SIZE:
        raise MisuseError(f"a transaction's id has {TRANSACTION_SIZE} bytes")
    body = b""
    if change_address or change_port:
        flags = _CHANGE_ADDRESS * change_address + _CHANGE_PORT * change_port
        body += _ATTRIBUTE.pack(_CHANGE_REQUEST, 4) + struct.pack("!I", flags)
    if response_port:
        body += _ATTRIBUTE.pack(_RESPONSE_PORT, 2) + struct.pack("!Hxx", response_port)
    return _HEADER.pack(_BINDING, len(body), _COOKIE, transaction) + body


def read_stun(data: bytes) -> StunMessage:
    """Return the Binding message that `data`, one datagram, is.

    Raises `ProtocolError` for anything else, one with a wrong fingerprint included. Integrity
    is not checked, for want of a password.
    """
    if len(data) < _HEADER.size:
        raise ProtocolError("too short for a STUN message")
    kind, size, cookie, transaction = _HEADER.unpack_from(data)
    if cookie != _COOKIE or size % 4 or size != len(data) - _HEADER.size:
        raise ProtocolError("not a STUN message")
    found: dict[int, bytes] = {}
    for number, value in _attributes(data):
        found.setdefault(number, value)  # of several the first counts (RFC 8489, 14)
    return StunMessage(
        kind=_class(kind),
        transaction=transaction,
        mapped=_masked(found.get(_XOR_MAPPED_ADDRESS), transaction)
        or _address(found.get(_MAPPED_ADDRESS)),
        other=_address(found.get(_OTHER_ADDRESS)) or _address(found.get(_CHANGED_ADDRESS)),
        origin=_address(found.get(_RESPONSE_ORIGIN)),
        error=_error(found.get(_ERROR_CODE)),
        unknown=tuple(n for n in found if n < _OPTIONAL and n not in _UNDERSTOOD),
    )


_UNDERSTOOD = _PASSED_OVER | {_MAPPED_ADDRESS, _CHANGED_ADDRESS, _ERROR_CODE, _XOR_MAPPED_ADDRESS}


def _class(kind: int) -> int:
    """Return the class of a message, whose bits stand among those of the method (RFC 8489, 5)."""
    if kind & ~0x0110 != _BINDING:
        raise ProtocolError("a STUN message of another method")
    return kind >> 7 & 2 | kind >> 4 & 1


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of the attributes that count."""
    place, sealed = _HEADER.size, False
    while place < len(data):
        number, size = _ATTRIBUTE.unpack_from(data, place)
        start = place + _ATTRIBUTE.size
        after = start + (size + 3 & ~3)
        if after > len(data):
            raise ProtocolError("a STUN attribute is longer than its message")
        value = data[start : start + size]
        if number == _FINGERPRINT:
            _check_fingerprint(data, place, value)
        elif not sealed or number == _MESSAGE_INTEGRITY_SHA256:
            # What follows the integrity check is nobody's word (RFC 8489, 14.5).
            yield number, value
        sealed |= number in (_MESSAGE_INTEGRITY, _MESSAGE_INTEGRITY_SHA256)
        place = after


def _check_fingerprint(data: bytes, place: int, value: bytes) -> None:
    """Raise `ProtocolError` unless it is the last attribute and right (RFC 8489, 14.7)."""
    expected = (zlib.crc32(data[:place]) ^ _FINGERPRINT_MASK).to_bytes(4, "big")
    if value != expected or place + _ATTRIBUTE.size + len(value) != len(data):
        raise ProtocolError("the fingerprint of a STUN message is wrong")


def _address(value: bytes | None) -> TransportAddress | None:
    if value is None:
        return None
    if len(value) < 4 or len(value) - 4 != _FAMILIES.get(value[1]):
        raise ProtocolError("a STUN attribute is no address")
    (port,) = struct.unpack_from("!H", value, 2)
    return TransportAddress(normal(str(ipaddress.ip_address(value[4:]))), port)


def _masked(value: bytes | None, transaction: bytes) -> TransportAddress | None:
    """Return the address of an attribute that is XORed (RFC 8489, 14.2)."""
    if value is None:
        return None
    mask = struct.pack("!HHI", 0, _COOKIE >> 16, _COOKIE) + transaction
    long = mask.ljust(len(value), b"\0")
    return _address(bytes(a ^ b for a, b in zip(value, long, strict=False)))


def _error(value: bytes | None) -> int | None:
    if value is None:
        return None
    if len(value) < 4 or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
        raise ProtocolError("a STUN error has no code")
    return (value[2] & 7) * 100 + value[3]
