"""Typed values to bytes and back: msgpack on the wire, msgspec for the types.

`unpack` takes any bytes whatsoever and either returns a value of the asked type
or raises `ProtocolError`; unknown fields are refused, so that nothing travels
unseen beside what the types say.
"""

from __future__ import annotations

import zlib
from typing import Any, TypeVar

import msgpack
import msgspec

from .errors import MisuseError, ProtocolError

__all__ = ["compress", "decompress", "pack", "unpack"]

T = TypeVar("T")

MAX_DEPTH = 32
"""Deepest nesting accepted. Evidence, the deepest document, needs 6."""


def pack(value: Any) -> bytes:
    """Return `value`, a msgspec struct or plain data, as msgpack bytes."""
    try:
        packed: bytes = msgpack.packb(msgspec.to_builtins(value, builtin_types=(bytes,)))
    except (TypeError, ValueError, OverflowError) as error:
        raise MisuseError(f"cannot be packed: {error}") from error
    return packed


def unpack(data: bytes, kind: type[T]) -> T:
    """Return the value of type `kind` in `data`; raise `ProtocolError` for any other bytes."""
    try:
        # strict_map_key: only str keys, so a hostile map cannot hold odd ones.
        plain = msgpack.unpackb(data, strict_map_key=True, max_ext_len=0)
        # The depth is bounded here because msgspec recurses in C along the types only,
        # and fields of type Any would let a nest of lists through to later code.
        _check_depth(plain, MAX_DEPTH)
        return msgspec.convert(plain, kind, builtin_types=(bytes,))
    except (
        msgspec.MsgspecError,
        msgpack.UnpackException,
        UnicodeError,
        RecursionError,
        ValueError,
        TypeError,
        OverflowError,
        MemoryError,
    ) as error:
        name = getattr(kind, "__name__", "message")
        raise ProtocolError(f"not a valid {name}: {type(error).__name__}") from error


def _check_depth(value: object, left: int) -> None:
    if left == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        for item in value.values():
            _check_depth(item, left - 1)
    elif isinstance(value, list):
        for item in value:
            _check_depth(item, left - 1)


def compress(data: bytes) -> bytes:
    """Return `data` in fewer bytes (zlib, RFC 1950): evidence repeats itself."""
    return zlib.compress(data)


def decompress(packed: bytes, most: int) -> bytes:
    """Return what `compress` made of it; raise `ProtocolError` where that is over `most` bytes."""
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(packed, most + 1)
    except zlib.error as error:
        raise ProtocolError("not compressed as agreed") from error
    if len(data) > most or not reader.eof or reader.unused_data:
        raise ProtocolError("compressed data that is cut, or larger than allowed")
    return data
