"""Which computer is meant: a check of the way back told in the words of the pair.

With --both-ways the destination opens connections, too. Codes, and the `on` of a fix, are
relative to the direction of their check: "source" is whoever opens the connection. People know
the two computers by the commands that they typed there, so in every sentence "source" is the
computer on which `bothends source` runs, whatever the direction.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from .codes import plain
from .verdict import Blocker, Check, Fix, Segment

__all__ = ["BACK", "FORTH", "QUOTES", "in_pair", "turned", "words"]

FORTH, BACK = "source-to-destination", "destination-to-source"
"""The directions, in the order in which they are tested."""

QUOTES = "A rule of the "
"""How a sentence begins that ends with a rule of a firewall, as the firewall's own tool says it."""

_OTHER = {"source": "destination", "destination": "source"}
_ROLE = re.compile(r"`[^`]*`|(?<![\w./-])([Ss]ource|[Dd]estination)(?='s\b|[\s,.;:)?]|$)")
"""A role as a word by itself; what stands between backticks is a command and is passed over."""


def turned(text: str) -> str:
    """Return `text` with source and destination exchanged, commands and quoted rules as they are.

    >>> turned("The destination's card saw it; run `bothends source` on the source.")
    "The source's card saw it; run `bothends source` on the destination."
    """
    if text.startswith(QUOTES):
        head, colon, rule = text.partition(": ")
        return f"{_ROLE.sub(_exchanged, head)}{colon}{rule}"
    return _ROLE.sub(_exchanged, text)


def _exchanged(found: re.Match[str]) -> str:
    word = found[1]
    if word is None:
        return found[0]
    other = _OTHER[word.lower()]
    return other.capitalize() if word[0].isupper() else other


def in_pair(check: Check) -> Check:
    """Return `check` with all its sentences about the computers of the pair; codes stay."""
    if check.direction != BACK:
        return check
    return replace(
        check,
        blockers=tuple(map(_blocker, check.blockers)),
        next_step=turned(check.next_step),
        segments=tuple(map(_segment, check.segments)),
        notes=tuple(map(turned, check.notes)),
    )


def words(code: str, direction: str, transport: str = "tcp") -> str:
    """Return the plain words for `code` of a check in `direction`, about the pair's computers."""
    says = plain(code, transport)
    return turned(says) if direction == BACK else says


def _blocker(blocker: Blocker) -> Blocker:
    because = tuple(map(turned, blocker.because))
    return replace(blocker, because=because, fix=tuple(map(_fix, blocker.fix)))


def _fix(fix: Fix) -> Fix:
    return replace(fix, title=turned(fix.title), steps=tuple(map(turned, fix.steps)))


def _segment(segment: Segment) -> Segment:
    return replace(segment, because=tuple(map(turned, segment.because)))
