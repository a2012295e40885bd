"""Keeping the evidence of a run: as a file (`--save`) and as text for a chat (`--paste`).

Only once the run is over, since a key takes a third of a second to make. Nothing
is written but the file that was asked for. Evidence that is written retires the
code: who gets hold of it may try words against it, so the agent ends.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from bothends_protocol.code import Code
from bothends_protocol.errors import MisuseError
from bothends_protocol.evidence import Evidence, read_evidence
from bothends_protocol.pairing import Keys
from bothends_protocol.sealed import SALT_SIZE, seal, share_of

from .files import write_whole

__all__ = ["Kept", "paste_lines", "save_evidence"]


class Kept(msgspec.Struct, frozen=True):
    """What a side has to save when its run ends."""

    evidence: bytes
    """As it was frozen: the other side may have named its digest."""
    code: Code
    keys: Keys | None = None
    """Of the link on which the two met; None where they did not."""
    peer: bytes = b""
    """SHA-256 of the other side's evidence, where it is here."""
    other: Evidence | None = None
    """The other side's evidence, where both came to a joint verdict on it."""


def save_evidence(path: Path, kept: Kept) -> None:
    """Write what was kept to `path`, readable by its owner alone.

    Raises `OSError` where that cannot be done.
    """
    salt = secrets.token_bytes(SALT_SIZE)
    try:
        data = seal(kept.evidence, code=kept.code, salt=salt, keys=kept.keys, peer=kept.peer)
    except MemoryError as error:
        raise OSError(0, "there is too little memory to make its key") from error
    write_whole(path, data, private=True)


def paste_lines(kept: Kept, *, addresses: bool = False) -> list[str]:
    """Return what was kept as lines to paste, shortened and encrypted.

    Without `addresses` all addresses and names are masked. Raises `OSError` where there is too
    much to be pasted, or too little memory to make the key.
    """
    from bothends_protocol.columns import to_columns  # noqa: PLC0415  for --paste only
    from bothends_protocol.masked import Mask, mask_key  # noqa: PLC0415
    from bothends_protocol.paste import write_paste  # noqa: PLC0415
    from bothends_protocol.shortened import shorten  # noqa: PLC0415

    short = shorten(read_evidence(kept.evidence), kept.other)
    evidence = short.evidence
    try:
        if not addresses:
            evidence = Mask(mask_key(kept.code)).evidence(evidence)
        return write_paste(
            to_columns(evidence, short.digits),
            evidence.role,
            code=kept.code,
            salt=secrets.token_bytes(SALT_SIZE),
            share=b"" if kept.keys is None else share_of(kept.keys, evidence.role),
            masked=not addresses,
        )
    except MisuseError as error:
        raise OSError(0, "it is too long to be pasted, use --save") from error
    except MemoryError as error:
        raise OSError(0, "there is too little memory to make its key") from error
