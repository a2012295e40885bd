"""What the user is told to type while the two look for each other, and what may be typed here.

The line for the other computer has this computer's addresses in it: mDNS hears
nothing on a host that denies inbound, and `--peer` always works when one of the
two lets the other in. And where standard input is a terminal, an address may be
typed while the agent waits (`TypedLines`), so that nothing need be started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import TextIO

from bothends_protocol.code import Code
from bothends_protocol.evidence import Address, HostFacts
from bothends_protocol.offered import offered
from bothends_protocol.wordlist import WORDS

from .options import CONTROL_PORT, Options
from .witness.netlink import Hop, NetlinkError, default_gateways

__all__ = [
    "HINT_SECONDS",
    "MAX_SHOWN",
    "TypedLines",
    "addresses_to_show",
    "destination_lines",
    "is_like_a_code",
    "shown_addresses",
    "source_lines",
]

HINT_SECONDS = 2.0
"""How long the source looks before it says what else can be done: two that find each other by
themselves have done so by then."""

MAX_SHOWN = 3
"""Addresses in a line that somebody types by hand."""

_FOREGROUND_SECONDS = 1.0
"""How often an agent in the background looks whether it has the terminal."""

_MAX_LINE = 4096
"""Bytes of a line that a terminal hands over (N_TTY_BUF_SIZE in Linux)."""

_INSIDE = (
    *("docker", "podman", "br-", "virbr", "lxcbr", "lxdbr", "incusbr"),
    *("cni", "cali", "flannel", "veth", "vmnet", "vboxnet"),
)
"""How interfaces are called that lead to containers and virtual machines on this very host."""


def shown_addresses(facts: HostFacts) -> tuple[str, ...]:
    """Return the addresses by which the other computer can best be told to dial this one."""
    hops: tuple[Hop, ...] | None = None
    with contextlib.suppress(OSError, NetlinkError):
        hops = default_gateways()
    return addresses_to_show(facts.addresses, [hop.interface for hop in hops or ()])


def addresses_to_show(own: Iterable[Address], outward: Iterable[str]) -> tuple[str, ...]:
    """Return at most `MAX_SHOWN` of `own`: IPv4 before IPv6, interfaces in `outward` first.

    Those of containers' bridges and link-local ones only where there are no others; of IPv6 what
    is fit to be told (`offered`).
    """
    outward = set(outward)
    ranked = []
    for place, item in enumerate(offered(own)):
        parsed = ipaddress.ip_address(item.address)
        if parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast:
            continue
        inside = item.interface.startswith(_INSIDE) and item.interface not in outward
        last = 2 if parsed.is_link_local else 1 if inside else 0
        text = item.address
        if parsed.is_link_local and parsed.version == 6:
            text += "%INTERFACE"  # the other computer's own, of which nothing is known here
        ranked.append((last, parsed.version, item.interface not in outward, place, text))
    ranked.sort()
    best = [text for last, *_, text in ranked if last == ranked[0][0]]
    return tuple(dict.fromkeys(best))[:MAX_SHOWN]


def destination_lines(
    options: Options,
    code: Code,
    addresses: Iterable[str],
    *,
    typing: bool,
    rendezvous: str | None = None,
) -> list[str]:
    """Return what the destination shows while it waits. `typing`: addresses may be typed here.

    A code that was given is not shown: the source has it already.
    """
    more = _more(options, addresses, rendezvous)
    if options.code_fixed:
        head = [f"Waiting for the source, code number {code.number}."]
        line = f"bothends source --code-file FILE{more}"
    else:
        head = [f"Pairing code:  {code}"]
        line = f"bothends source {code}{more}"
    return [
        *head,
        "",
        "On the other computer, type:",
        f"    {line}",
        "",
        "Waiting for it. Ctrl-C ends this.",
        *([_TYPE_HERE] if typing else []),
    ]


def source_lines(
    options: Options, addresses: Iterable[str], *, typing: bool, rendezvous: str | None = None
) -> list[str]:
    """Return what the source says when it has not found the destination at once."""
    addresses = tuple(addresses)
    more = _more(options, addresses, rendezvous)
    if options.code_shared:
        lines = [
            f"{_NOT_YET[:-1]}:",
            f"    bothends destination PORTS --code-file FILE{more}",
        ]
    elif addresses:
        lines = [
            f"{_NOT_YET} where bothends waits, and press Enter:",
            f"    {addresses[0]}",
            "Or start it there anew, and then here with the code that it shows:",
            f"    bothends destination PORTS{more}",
        ]
    else:
        lines = ["Not found yet. This computer has no network address that could be dialled."]
    return [*lines, *([_TYPE_HERE] if typing else [])]


_NOT_YET = "Not found yet. If the two do not find each other, type on the other computer,"
_TYPE_HERE = (
    "If the two do not find each other, type the other computer's address here, and press Enter."
)


def _more(options: Options, addresses: Iterable[str], rendezvous: str | None) -> str:
    """The options that both sides need, and where this one is.

    With a meeting point they leave out where it is: the two may be in two homes, and an inside
    address that was typed would be taken for the one to test.
    """
    words = [] if rendezvous is not None else [f"--peer {address}" for address in addresses]
    if options.control_port != CONTROL_PORT:
        words.append(f"--control-port {options.control_port}")
    if rendezvous is not None:
        words.append(f"--rendezvous {rendezvous}")
    return "".join(f" {word}" for word in words)


def is_like_a_code(text: str) -> bool:
    """Whether `text` may be a pairing code, with slips too: no name server is to see its words."""
    parts = [part for part in _CODE_SEPARATORS.split(text.lower()) if part]
    known = [part in _WORDS for part in parts]
    return len(parts) > 1 and (all(known) or (parts[0].isdigit() and any(known)))


_CODE_SEPARATORS = re.compile(r"[-\s_,]+")
_WORDS = frozenset(WORDS)


class TypedLines:
    """Hands over the lines that are typed while the agent waits, from `start` to `close`.

    Only from a terminal of which this process is in the foreground: in the background a read
    would stop the process (SIGTTIN). The terminal's own settings stay as they are, so a read
    that begins when the terminal has a line never waits, and what is half typed at the end
    stays for the shell.
    """

    def __init__(
        self,
        typed: Callable[[str], None],
        wanted: Callable[[], bool],
        stream: TextIO | None = None,
    ) -> None:
        """`wanted` says whether lines are still of use; those typed later are left unread."""
        self._typed = typed
        self._wanted = wanted
        self._stream = sys.stdin if stream is None else stream
        self._descriptor = -1
        self._later: asyncio.TimerHandle | None = None

    @property
    def possible(self) -> bool:
        """Whether there is a terminal, on a system where it can be waited for."""
        if sys.platform == "win32" or self._stream is None:
            return False
        try:
            return self._stream.isatty()
        except ValueError:
            return False  # closed

    def start(self) -> bool:
        """Begin; return whether lines can be typed."""
        if not self.possible:
            return False
        try:
            self._descriptor = self._stream.fileno()
            self._watch()
        except (OSError, ValueError, NotImplementedError):
            # Not every event loop can wait for a terminal; then nothing can be typed.
            self._descriptor = -1
            return False
        return True

    def close(self) -> None:
        """Read no more; safe to call again."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._descriptor = -1

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._later = None
        if self._in_foreground():
            loop.add_reader(self._descriptor, self._read)
        else:
            loop.remove_reader(self._descriptor)
            self._later = loop.call_later(_FOREGROUND_SECONDS, self._watch)

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            return False

    def _read(self) -> None:
        if not self._wanted():
            self.close()
            return
        if not self._in_foreground():
            self._watch()
            return
        try:
            data = os.read(self._descriptor, _MAX_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # Ctrl-D, or the terminal has gone: nothing more will be typed
            self.close()
            return
        for line in data.decode("utf-8", "replace").splitlines():
            if line.strip():
                self._typed(line.strip())
