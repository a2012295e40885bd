"""Knocks: how two agents behind closed firewalls open a way for UDP, and what they may cost.

Both send from one fixed port to the same fixed port of the other. A firewall
that keeps state lets in what answers what went out, so the second knock that is
under way gets through, though each host denies all inbound.

Datagrams can be sent in anybody's name. So nothing costly begins, and no state
is kept, before the other end has shown that it receives what is sent to its
address: each knock carries a **cookie** for the receiver (an HMAC over its
address under a secret of this run), and the receiver's next knock echoes it.
All knocks have one size, and one is answered by at most one.

Every datagram of a stream carries the receiver's cookie too: who is not on the
way cannot put anything into a stream.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from .framing import PROTOCOL_VERSION
from .pairing import SOURCE

__all__ = ["KNOCK_SIZE", "MAX_DATAGRAM", "Knock", "Knocker", "Piece", "Place"]


class Place(NamedTuple):
    """Where the other end is, and by which address it is spoken to from here."""

    address: str
    """With its zone where it needs one."""
    port: int
    own: str = ""
    """The address at which it knocked here; empty for the one that the system prefers."""


_MAGIC = b"btE"
_KNOCK, _PIECE = 1, 2
_NONCE, _COOKIE = 4, 8

_HEAD = struct.Struct("!3sBB")
_KNOCK_BODY = struct.Struct("!BBH4s8s8s")
_PIECE_BODY = struct.Struct("!8s8s8s")

KNOCK_SIZE = _HEAD.size + _KNOCK_BODY.size
"""Bytes of every knock, asked or answered: nobody gets more than was sent in its name."""

MAX_DATAGRAM = 1232
"""Largest datagram looked at: what fits into the smallest packet that IPv6 must carry."""

_NOTHING = bytes(_COOKIE)
_FROM_SOURCE, _ANSWER = 1, 1


class Knock(msgspec.Struct, frozen=True):
    """What came of a knock."""

    answer: bytes | None = None
    """To be sent back."""
    opened: bool = False
    """Whether the other end showed, for the first time, that it receives what is sent to it."""
    heard: bool = False
    """Whether it is a knock at all, by somebody who has the other role and this number."""


class Knocker:
    """One agent's knocks, to and from any place; `secret` never leaves this run."""

    def __init__(self, role: str, number: int, entropy: Callable[[int], bytes]) -> None:
        self.number = number
        self._role = role
        self._nonce = entropy(_NONCE)
        self._secret = entropy(32)
        self._open: dict[Place, bytes] = {}
        """The cookies of the others, of who was heard last at the end."""
        self._shown: set[Place] = set()

    def knock(self, place: Place) -> bytes:
        """Return a knock at `place` that asks for an answer."""
        return self._write(0, self._echo(place), place)

    def receive(self, data: bytes, place: Place) -> Knock:
        """Return what follows from a datagram that came from `place`; nothing from most."""
        if len(data) != KNOCK_SIZE:
            return Knock()
        magic, version, kind = _HEAD.unpack_from(data)
        # Another version shows by TCP, where a sentence about it can be answered.
        if magic != _MAGIC or kind != _KNOCK or version != PROTOCOL_VERSION:
            return Knock()
        role, flags, number, nonce, cookie, echo = _KNOCK_BODY.unpack_from(data, _HEAD.size)
        if number != self.number or role == self._role_byte or nonce == self._nonce:
            return Knock()
        shown = hmac.compare_digest(echo, self._cookie(place))
        opened = shown and (place not in self._shown or self._open.get(place) != cookie)
        if shown:
            self._keep(place, cookie)
            self._shown.add(place)
        # An answer is not answered, but for the one that opened the way from here: the other
        # end may still wait for its own cookie.
        if flags & _ANSWER and not opened:
            return Knock(heard=True)
        return Knock(self._write(_ANSWER, cookie, place), opened, heard=True)

    def forget(self, place: Place) -> None:
        """Let `place` show again that it receives; what is under way there goes on."""
        self._shown.discard(place)

    @property
    def open(self) -> tuple[Place, ...]:
        """Places that have shown that they receive what is sent there."""
        return tuple(self._open)

    def piece(self, place: Place, stream: bytes, segment: bytes) -> bytes:
        """Return the datagram that carries `segment` of `stream` (8 bytes) to `place`."""
        head = _HEAD.pack(_MAGIC, PROTOCOL_VERSION, _PIECE)
        return head + _PIECE_BODY.pack(stream, self._cookie(place), self._echo(place)) + segment

    def take(self, data: bytes, place: Place) -> Piece | None:
        """Return the piece in a datagram that came from `place`.

        None where it is none of this version, or its sender has not shown that it receives what
        is sent there.
        """
        size = _HEAD.size + _PIECE_BODY.size
        if not size <= len(data) <= MAX_DATAGRAM:
            return None
        magic, version, kind = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != PROTOCOL_VERSION or kind != _PIECE:
            return None
        stream, cookie, echo = _PIECE_BODY.unpack_from(data, _HEAD.size)
        if not hmac.compare_digest(echo, self._cookie(place)):
            return None
        self._keep(place, cookie)
        return Piece(stream, data[size:])

    @property
    def _role_byte(self) -> int:
        return _FROM_SOURCE if self._role == SOURCE else 0

    def _keep(self, place: Place, cookie: bytes) -> None:
        self._open.pop(place, None)
        if len(self._open) >= MAX_OPEN:
            oldest = next(iter(self._open))
            del self._open[oldest]
            self._shown.discard(oldest)
        self._open[place] = cookie

    def _cookie(self, place: Place) -> bytes:
        name = f"{place.address} {place.port}".encode()
        return hmac.digest(self._secret, name, hashlib.sha256)[:_COOKIE]

    def _echo(self, place: Place) -> bytes:
        return self._open.get(place, _NOTHING)

    def _write(self, flags: int, echo: bytes, place: Place) -> bytes:
        return _HEAD.pack(_MAGIC, PROTOCOL_VERSION, _KNOCK) + _KNOCK_BODY.pack(
            self._role_byte, flags, self.number, self._nonce, self._cookie(place), echo
        )


MAX_OPEN = 256
"""Places kept that have shown that they receive; the one unheard for longest goes first. More than
may show that in a second (`punch.MAX_ANSWERS`), in which the other agent is heard twice."""


class Piece(msgspec.Struct, frozen=True):
    """A datagram of a stream, from somebody who receives what is sent to its place."""

    stream: bytes
    segment: bytes
