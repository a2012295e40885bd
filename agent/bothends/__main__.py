"""`bothends` and `python -m bothends`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    try:
        from .cli import run  # noqa: PLC0415  so that Ctrl-C while loading ends cleanly too

        return run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
