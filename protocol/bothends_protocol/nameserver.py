"""One question to a name server, only to learn whether it answers (RFC 1035, 4.1).

Asked is who serves the root, `.` NS: every server that resolves names knows or
finds that, it names nobody, and it is the question with which resolvers begin.
"""

from __future__ import annotations

import struct

__all__ = ["ERRORS", "QUESTION_SIZE", "question", "reply_code"]

_HEADER = struct.Struct(">HHHHHH")
_ASKED = b"\0" + struct.pack(">HH", 2, 1)  # the root, type NS, class IN
_RECURSION_DESIRED = 0x0100
_RESPONSE = 0x8000
_OPCODE = 0x7800

QUESTION_SIZE = _HEADER.size + len(_ASKED)

ERRORS = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
"""Reply codes by the names that are in use for them (RFC 2929, 2.3)."""


def question(number: int) -> bytes:
    """Return the datagram that asks; `number`, of 16 bits, is to be drawn anew each time."""
    return _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0) + _ASKED


def reply_code(number: int, data: bytes) -> int | None:
    """Return the reply code (RFC 1035, 4.1.1; 0 is no error) of `data`, the answer to `number`.

    None for anything that is no answer to this question. Takes any bytes.
    """
    if len(data) < _HEADER.size:
        return None
    found, flags, questions, *_ = _HEADER.unpack_from(data)
    if found != number or not flags & _RESPONSE or flags & _OPCODE:
        return None
    # A server that gives up at once may leave the question out.
    asked = data[_HEADER.size : QUESTION_SIZE]
    if questions > 1 or (questions == 1 and asked != _ASKED):
        return None
    return int(flags & 0xF)
