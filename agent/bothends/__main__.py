"""`bothends` and `python -m bothends`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line, or `argv` within another program; return the exit status."""
    try:
        from .cli import run  # noqa: PLC0415  so that Ctrl-C while loading ends cleanly too

        if argv is not None:
            return run(argv)
        return run(sys.argv[1:], whole_process=True)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
