"""The pairing code: `NUMBER-word-word-word`, as in `7-abandon-ability-able`.

The number is public: it finds the other side (mDNS, rendezvous). The words are
the secret: three of 2048, 33 bits, good for SPAKE2 where every guess costs the
guesser one of three tries, and for nothing that can be tried offline.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

import msgspec

from .errors import InputError
from .wordlist import WORDS

__all__ = ["MAX_NUMBER", "Code", "make_code", "parse_code"]

MAX_NUMBER = 9999
"""Numbers only tell neighbours' agents apart; four digits are still easy to read out."""

WORD_COUNT = 3
_DRAWN_NUMBERS = 99
_INDEX = frozenset(WORDS)
_SEPARATORS = re.compile(r"[-\s_.,]+")


class Code(msgspec.Struct, frozen=True):
    """A pairing code: `number` may be seen by anybody, `words` by the two sides only."""

    number: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return "-".join((str(self.number), *self.words))

    def __repr__(self) -> str:
        # Keeps the secret out of logs and tracebacks.
        return f"Code({self.number}-…)"

    @property
    def secret(self) -> bytes:
        """The words as the password of the key exchange."""
        return "-".join(self.words).encode("ascii")


def make_code(entropy: Callable[[int], bytes]) -> Code:
    """Return a fresh code drawn from `entropy(n)`, which returns n random bytes."""
    number = 1 + int.from_bytes(entropy(8), "big") % _DRAWN_NUMBERS
    # 2048 divides 65536, so the remainder is uniform.
    words = tuple(WORDS[int.from_bytes(entropy(2), "big") % 2048] for _ in range(WORD_COUNT))
    return Code(number, words)


def parse_code(text: str) -> Code:
    """Return the code a person typed; forgiving in case and separators.

    Raises `InputError`; its sentence never repeats a right word of the code.
    """
    parts = [part for part in _SEPARATORS.split(text.strip().lower()) if part]
    if len(parts) != 1 + WORD_COUNT or not re.fullmatch(r"[0-9]{1,4}", parts[0]):
        raise InputError(
            "that is not a pairing code: it is a number and three words, "
            "as in 7-abandon-ability-able"
        )
    number = int(parts[0])
    if number == 0:
        raise InputError("that is not a pairing code: its number starts at 1")
    for place, word in enumerate(parts[1:], start=1):
        if word not in _INDEX:
            raise InputError(_unknown_word(place, word))
    return Code(number, tuple(parts[1:]))


def _unknown_word(place: int, word: str) -> str:
    close = difflib.get_close_matches(word, WORDS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"word {place} of the pairing code, {word[:20]!r}, is not one of its words{hint}"
