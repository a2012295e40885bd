"""What bothends leaves in a mailbox: streams of bytes, cut into parcels.

Many streams share a mailbox, one after the other. A parcel names its stream,
which the source draws, its place in it, and the side that it is for: the
mailbox may still hold parcels of an agent that was killed and started again.
"""

from __future__ import annotations

import msgspec

from .errors import ProtocolError
from .pairing import DESTINATION, SOURCE
from .wire import pack, unpack

__all__ = [
    "ABORT",
    "DATA",
    "END",
    "HELLO",
    "LEAVE",
    "MAX_DATA",
    "STREAM_SIZE",
    "Parcel",
    "read_parcel",
    "write_parcel",
]

HELLO, LEAVE, DATA, END, ABORT = "hello", "leave", "data", "end", "abort"

STREAM_SIZE = 8
"""Bytes of a stream's name: random, and never two alike in one mailbox."""

MAX_DATA = 16 * 1024
"""Bytes of a stream in one parcel: under 40 KB when it is written as hex in a message."""

_MAX_SIDE = 64


class Parcel(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One message in the mailbox.

    `hello` says that a side with this role is there, `leave` that it goes. The others belong
    to a stream: bytes, the end of what comes from there, the end of all.
    """

    kind: str
    role: str = ""
    to: str = ""
    """The side that it is for; empty for hello and leave."""
    stream: bytes = b""
    number: int = 0
    """Its place in the stream, from 0, for each direction."""
    data: bytes = b""


def write_parcel(parcel: Parcel) -> bytes:
    """Return `parcel` as the body of a mailbox message."""
    return pack(parcel)


def read_parcel(body: bytes) -> Parcel:
    """Return the parcel in `body`; raise `ProtocolError` for any other bytes."""
    parcel = unpack(body, Parcel)
    if parcel.kind in (HELLO, LEAVE):
        fits = parcel.role in (SOURCE, DESTINATION)
    else:
        fits = (
            parcel.kind in (DATA, END, ABORT)
            and 0 < len(parcel.to) <= _MAX_SIDE
            and len(parcel.stream) == STREAM_SIZE
            and parcel.number >= 0
            and len(parcel.data) <= MAX_DATA
        )
    if not fits:
        raise ProtocolError("not a parcel of bothends")
    return parcel
