"""Evidence in few bytes: field by field instead of record by record, numbers as differences.

Records of one kind are much alike: their fields, put one behind the other, compress
to a fraction of what the records take. Times are cut to a thousandth of a second
or to a millionth (`digits`). What is written follows from the types in `evidence`
alone, so a further field needs nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import msgspec
from msgspec import inspect

from .errors import ProtocolError
from .evidence import Evidence
from .wire import pack, unpack

__all__ = ["from_columns", "to_columns"]

_MILLI, _MICRO = 3, 6
_TYPE = inspect.type_info(Evidence)


def to_columns(evidence: Evidence, digits: int = _MICRO) -> bytes:
    """Return `evidence` as bytes, its times to `digits` decimals (3 or 6)."""
    plain = msgspec.to_builtins(evidence, builtin_types=(bytes,))
    return pack([digits, *_write([plain], _TYPE, 10**digits)])


def from_columns(data: bytes) -> Evidence:
    """Return the evidence in `data`; raise `ProtocolError` for any other bytes."""
    parts = unpack(data, list[Any])
    try:
        digits, *rest = parts
        if digits not in (_MILLI, _MICRO):
            raise ProtocolError("times of an unknown kind")
        reader = iter(rest)
        (plain,) = _read(reader, 1, _TYPE, 10**digits)
        if next(reader, None) is not None:
            raise ProtocolError("more than an evidence")
        return msgspec.convert(plain, Evidence, builtin_types=(bytes,))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, StopIteration) as error:
        raise ProtocolError(f"not a valid Evidence: {type(error).__name__}") from error


def _write(values: Sequence[Any], kind: inspect.Type, scale: int) -> Iterator[Any]:
    """Yield the columns of `values`, all of them of type `kind`."""
    match kind:
        case inspect.Metadata(type=inner):
            yield from _write(values, inner, scale)
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from _write([value[field.encode_name] for value in values], field.type, scale)
        case inspect.UnionType(types=types):
            (inner,) = (one for one in types if not isinstance(one, inspect.NoneType))
            yield [value is not None for value in values]
            yield from _write([value for value in values if value is not None], inner, scale)
        case inspect.VarTupleType(item_type=inner):
            yield _differences([len(value) for value in values])
            yield from _write([item for value in values for item in value], inner, scale)
        case inspect.DictType(key_type=key, value_type=inner):
            yield _differences([len(value) for value in values])
            yield from _write([name for value in values for name in value], key, scale)
            yield from _write([item for value in values for item in value.values()], inner, scale)
        case inspect.IntType():
            yield _differences(values)
        case inspect.FloatType():
            yield _differences([round(value * scale) for value in values])
        case _:
            yield list(values)


def _differences(values: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise((0, *values))]


def _read(columns: Iterator[Any], count: int, kind: inspect.Type, scale: int) -> list[Any]:
    """Return `count` values of type `kind` from the next columns."""
    match kind:
        case inspect.Metadata(type=inner):
            return _read(columns, count, inner, scale)
        case inspect.StructType(fields=fields):
            names = [field.encode_name for field in fields]
            parts = [_read(columns, count, field.type, scale) for field in fields]
            return [dict(zip(names, row, strict=True)) for row in zip(*parts, strict=True)]
        case inspect.UnionType(types=types):
            (inner,) = (one for one in types if not isinstance(one, inspect.NoneType))
            there = _column(columns, count)
            known = iter(_read(columns, sum(map(bool, there)), inner, scale))
            return [next(known) if one else None for one in there]
        case inspect.VarTupleType(item_type=inner):
            sizes = _sizes(columns, count)
            return _cut(_read(columns, sum(sizes), inner, scale), sizes)
        case inspect.DictType(key_type=key, value_type=inner):
            sizes = _sizes(columns, count)
            names = _read(columns, sum(sizes), key, scale)
            items = _read(columns, sum(sizes), inner, scale)
            return [dict(part) for part in _cut(list(zip(names, items, strict=True)), sizes)]
    return _read_plain(columns, count, kind, scale)


def _read_plain(columns: Iterator[Any], count: int, kind: inspect.Type, scale: int) -> list[Any]:
    column = _column(columns, count)
    if isinstance(kind, inspect.IntType):
        return list(accumulate(column))
    if isinstance(kind, inspect.FloatType):
        return [value / scale for value in accumulate(column)]
    return column


def _column(columns: Iterator[Any], count: int) -> list[Any]:
    column = next(columns)
    if not isinstance(column, list) or len(column) != count:
        raise ProtocolError("a column of another length")
    return column


def _sizes(columns: Iterator[Any], count: int) -> list[int]:
    sizes = list(accumulate(_column(columns, count)))
    if any(size < 0 for size in sizes):
        raise ProtocolError("a column of another length")
    return sizes


def _cut(values: list[Any], sizes: Sequence[int]) -> list[list[Any]]:
    ends = list(accumulate(sizes))
    return [values[end - size : end] for size, end in zip(sizes, ends, strict=True)]
