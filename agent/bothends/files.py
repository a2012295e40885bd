"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write `data` to `path`; a `private` file may be read by its owner alone.

    A file that is there keeps its old content until the new one is complete.
    Raises `OSError` where that cannot be done, and nothing else.
    """
    # A link stays one, and what it leads to is replaced. Path.resolve raises RuntimeError on loops.
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        # A device or a pipe must not be replaced; a folder is refused here by the system.
        target.write_bytes(data)
        return
    temporary = target.with_name(f".bothends-{secrets.token_hex(8)}")
    mode = 0o600 if private else 0o666
    try:
        # Path.open cannot say with which rights a file is made.
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
