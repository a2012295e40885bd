"""Names to addresses, as the system's resolver says, for what the user typed."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from bothends_protocol.addresses import normal

__all__ = ["UnresolvedError", "resolve"]


class UnresolvedError(Exception):
    """A name does not resolve; the message says why, in the resolver's words."""


async def resolve(host: str, *, seconds: float) -> tuple[str, ...]:
    """Return the addresses of `host`, in the order in which applications try them.

    Raises `UnresolvedError` where there are none within `seconds`.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise UnresolvedError(f"the name service did not answer within {seconds:.0f} s") from None
    except (OSError, UnicodeError) as error:
        raise UnresolvedError(getattr(error, "strerror", None) or str(error)) from error
    return tuple(dict.fromkeys(_text(name) for *_, name in found))


def _text(name: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    address = str(name[0])
    if len(name) == 4 and name[3] and "%" not in address:
        with contextlib.suppress(OSError):
            address += f"%{socket.if_indextoname(name[3])}"
    return normal(address)
