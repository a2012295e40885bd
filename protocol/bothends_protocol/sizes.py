"""Full packets between the two agents: what is said, which sizes, and when silence tells.

Whether large packets get through is asked on fresh connections to the control
port, one segment of one size on each, one way:

    dialler  -> ask      which way, and how long the segment is         68 bytes
    listener -> answer   nothing to who cannot prove the session's key  42 bytes
    sender   -> the segment: random bytes, so that nothing on the way makes them fewer
    listener -> receipt  where it received                              16 bytes

Each is proven by HMAC-SHA256 under a key of the session. The size that the
systems agree on by themselves (`NATURAL`) is what real programs use, and it alone
decides. Beside it, at the same time and over the same way, go as many segments of
a size that the contact itself uses (`CONTROL`), to tell a limit from loss.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from typing import NamedTuple

from .errors import ProtocolError
from .evidence import Sized

__all__ = [
    "ANSWER_SIZE",
    "ASK_SIZE",
    "BRACKETS",
    "CHANCE",
    "CONTROL",
    "FIRST",
    "FROM",
    "FURTHER",
    "LEAST_SECONDS",
    "MAGIC",
    "MAX_SEGMENT",
    "NATURAL",
    "NONCE_SIZE",
    "RECEIPT_SIZE",
    "TO",
    "WAYS",
    "Answer",
    "Ask",
    "chance",
    "patience",
    "read_answer",
    "read_ask",
    "receipt",
    "swallowed",
    "write_answer",
    "write_ask",
]

TO, FROM = "to", "from"
"""The segment goes to who listens, or comes from there."""
WAYS = (TO, FROM)

NATURAL = 0
"""No size is asked for (TCP_MAXSEG): the one on which the two systems agree."""

CONTROL = 1200
"""The size of the contact's own segments, which pass where the two speak at all. Nearly as long as
what is asked about, so that a slow line cannot be what makes the difference."""

BRACKETS = (576, 1280, 1360, 1400, 1420, 1440, 1460, 1480, 1492, 1500, 4000)
"""Lengths of further packets, tried where nothing of the natural size comes through: what every
host takes (RFC 1122, 3.3.3; RFC 8200, 5), common tunnels, lines by PPPoE, Ethernet, and half of a
jumbo frame."""

FIRST = 1
"""Connections of each kind at first: one that comes through says that all is well, as nearly
always."""

FURTHER = 11
"""Connections of each kind in each further wave: with the first ones, and nothing of the control
lost, just enough for `CHANCE`."""

CHANCE = 1e-6
"""Below this probability that loss alone picked them, silence is no accident (as `plan.CERTAIN`).
Asked after each wave; all together stay below it, too."""

LEAST_SECONDS = 0.5
"""For which a segment must have been silent, beside `patience`: the sender's system sends it again
after some 200 ms, and after 400 more, and what only had too many packets at once takes it then."""

MAX_SEGMENT = 65536
"""Bytes of a segment at most: no card takes more."""

MAGIC = b"bothends m\n"
"""The first bytes, where a pairing begins with `framing.PREAMBLE`: no version is called so."""

NONCE_SIZE = 16
RECEIPT_SIZE = 16
_PROOF_SIZE = 32
_ASK = struct.Struct(f">{len(MAGIC)}sBII{NONCE_SIZE}s")
_ANSWER = struct.Struct(">BBII")
ASK_SIZE = _ASK.size + _PROOF_SIZE
ANSWER_SIZE = _ANSWER.size + _PROOF_SIZE
_COMES, _SEARCHES = 1, 2
_ANSWERED = 1


class Ask(NamedTuple):
    """What the dialler wants. `length` and `packet` are 0 where it does not send the segment."""

    way: str
    nonce: bytes
    length: int = 0
    """Bytes of the segment."""
    packet: int = 0
    """Bytes of the IP packet that it makes."""
    searches: bool = False
    """Whether the dialler's system finds by itself which size passes (RFC 4821)."""


class Answer(NamedTuple):
    """What the listener says first; `length` and `packet` of the segment that it then sends."""

    length: int = 0
    packet: int = 0
    searches: bool = False


def write_ask(key: bytes, ask: Ask) -> bytes:
    """Return `ask` as bytes, `ASK_SIZE` of them."""
    flags = (_COMES if ask.way == FROM else 0) | (_SEARCHES if ask.searches else 0)
    text = _ASK.pack(MAGIC, flags, ask.length, ask.packet, ask.nonce)
    return text + _proof(key, b"ask", text)


def read_ask(key: bytes, data: bytes) -> Ask:
    """Return the ask in `data`; raise `ProtocolError` for any other bytes."""
    if len(data) != ASK_SIZE:
        raise ProtocolError("an ask of another length")
    text, proof = data[: _ASK.size], data[_ASK.size :]
    if not hmac.compare_digest(_proof(key, b"ask", text), proof):
        raise ProtocolError("an ask of somebody else")
    magic, flags, length, packet, nonce = _ASK.unpack(text)
    comes = bool(flags & _COMES)
    if magic != MAGIC or flags & ~(_COMES | _SEARCHES) or not _fits(length, packet, none=comes):
        raise ProtocolError("an ask that makes no sense")
    return Ask(FROM if comes else TO, nonce, length, packet, bool(flags & _SEARCHES))


def write_answer(key: bytes, nonce: bytes, answer: Answer) -> bytes:
    """Return the `answer` to the ask with `nonce` as bytes, `ANSWER_SIZE` of them."""
    text = _ANSWER.pack(_ANSWERED, answer.searches, answer.length, answer.packet)
    return text + _proof(key, b"answer" + nonce, text)


def read_answer(key: bytes, ask: Ask, data: bytes) -> Answer:
    """Return the answer to `ask` in `data`; raise `ProtocolError` for any other bytes."""
    text, proof = data[: _ANSWER.size], data[_ANSWER.size :]
    if len(data) != ANSWER_SIZE or not hmac.compare_digest(
        _proof(key, b"answer" + ask.nonce, text), proof
    ):
        raise ProtocolError("an answer of somebody else")
    kind, searches, length, packet = _ANSWER.unpack(text)
    if kind != _ANSWERED or searches > 1 or not _fits(length, packet, none=ask.way == TO):
        raise ProtocolError("an answer that makes no sense")
    return Answer(length, packet, bool(searches))


def receipt(key: bytes, nonce: bytes) -> bytes:
    """Return what the listener says once the whole segment is there."""
    return _proof(key, b"receipt", nonce)[:RECEIPT_SIZE]


def _fits(length: int, packet: int, *, none: bool) -> bool:
    if none:
        return length == packet == 0
    return 0 < length < packet <= 2 * MAX_SEGMENT and length <= MAX_SEGMENT


def _proof(key: bytes, purpose: bytes, text: bytes) -> bytes:
    return hmac.new(key, purpose + b"\0" + text, hashlib.sha256).digest()


def patience(usual: float) -> float:
    """Return the seconds for which a segment must stay silent where others usually take `usual`."""
    return LEAST_SECONDS + 4 * usual


def chance(silent: int, control: int, lost: int) -> float:
    """Return how probable it is that loss alone made all `silent` ones silent.

    Of `control` others at the same time `lost` were silent too. If the size made no
    difference, each choice of which ones are lost were as likely as any other: Fisher's exact
    test. It asks nothing of the rate of loss, nor that it be the same all the time.
    """
    return math.comb(silent + lost, silent) / math.comb(silent + control, silent)


def swallowed(natural: Sized, control: Sized) -> bool:
    """Return whether full packets vanish: none came through, and loss cannot be it."""
    if natural.passed or not natural.begun or not control.passed:
        return False
    if control.passed > control.begun:
        return False  # no honest agent writes that
    if natural.packet <= control.packet or natural.watched < patience(control.seconds):
        return False
    return chance(natural.begun, control.begun, control.begun - control.passed) < CHANCE
