"""What this host can say of itself: system, addresses, firewall front-ends, known troublemakers.

Support for the evidence and material for the fixes. Collecting it must neither
delay nor endanger a run: each part is read by itself, takes a few milliseconds
at most, and what fails becomes a note.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from bothends_protocol.evidence import Address, Firewall, HostFacts
from bothends_protocol.fixes import INTERFERING

from . import __version__
from .front_ends import firewalls
from .interfaces import hardware_addresses, interface_addresses, xdp_interfaces

__all__ = ["host_facts", "interfering_software"]

T = TypeVar("T")

_FOLDERS = {
    "linux": ("opt",),
    "darwin": ("Applications", "Applications/Intego"),
    "win32": ("Program Files", "Program Files (x86)"),
}
"""Where programs are installed, one folder each. Untested on macOS and Windows."""

_EXACT = {
    "CE": "Covenant Eyes",
    "pbul": "BeyondTrust PowerBroker",
    "pbis": "BeyondTrust PowerBroker",
}
"""Folders that do not bear the product's name: those of its own documentation."""

_KEYWORDS = {
    "avast": "Avast",
    "avg": "AVG",
    "avira": "Avira",
    "beyondtrust": "BeyondTrust PowerBroker",
    "charter security": "Charter Security Suite",
    "cleanmymac": "CleanMyMac",
    "covenant eyes": "Covenant Eyes",
    "hands off!": "Hands Off!",
    "little snitch": "Little Snitch",
    "mcafee": "McAfee",
    "netbarrier": "Intego NetBarrier",
    "powerbroker": "BeyondTrust PowerBroker",
    "qustodio": "Qustodio",
    "virusbarrier": "Intego VirusBarrier",
}
"""First letters of an installed folder, in lower case, and the product it belongs to."""


def host_facts(*, privileged: bool) -> HostFacts:
    """Return what can be said of this host now; `privileged` as the packet witness found it.

    Takes about 5 ms, with privilege a run of `nft` more. Never raises: what
    could not be read is missing, and a note says so.
    """
    notes: list[str] = []
    no_addresses: tuple[Address, ...] = ()
    no_firewalls: tuple[Firewall, ...] = ()
    no_notes: tuple[str, ...] = ()
    return HostFacts(
        product="bothends",
        version=__version__,
        system=platform.system(),
        release=_try("the system's name", _release, "", notes),
        kernel=platform.release(),
        hostname=_try("the host's name", lambda: _text(socket.gethostname()), "", notes),
        privileged=privileged,
        addresses=_try("the network addresses", interface_addresses, no_addresses, notes),
        hardware=_try("the network cards", hardware_addresses, no_notes, notes),
        xdp=_try("the network cards' programs", xdp_interfaces, no_notes, notes),
        forwards=_forwards(),
        firewalls=_try(
            "the firewalls", lambda: firewalls(privileged=privileged), no_firewalls, notes
        ),
        notes=(*_try("installed software", lambda: tuple(_notes()), no_notes, notes), *notes),
    )


def _forwards() -> bool | None:
    """Whether this host passes packets on, as hosts of containers do (ip-sysctl)."""
    told = []
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        with contextlib.suppress(OSError):
            text = Path("/proc/sys/net", name).read_text(encoding="ascii")
            told.append(text.strip() != "0")
    return any(told) if told else None


def interfering_software(root: Path, folders: tuple[str, ...]) -> dict[str, str]:
    """Return products known to interfere that seem to be installed, with the folder found.

    Goes by the names of the folders below `root`, so an installed product need
    not be running, and one that is installed elsewhere is missed.
    """
    found: dict[str, str] = {}
    for folder in folders:
        try:
            with os.scandir(root / folder) as entries:
                names = sorted(_text(entry.name) for entry in entries)
        except OSError:
            continue
        for name in names:
            product = _product(name)
            if product is not None:
                found.setdefault(product, f"{folder}/{name}")
    return found


def _product(name: str) -> str | None:
    if name in _EXACT:
        return _EXACT[name]
    lower = name.lower().removeprefix("intego ")
    return next((product for word, product in _KEYWORDS.items() if _begins(lower, word)), None)


def _begins(name: str, word: str) -> bool:
    """Whether `name` begins with the whole word, so that "avgard" is not AVG."""
    after = name[len(word) : len(word) + 1]
    return name.startswith(word) and not (word[-1].isalnum() and after.isalpha())


def _notes() -> Iterator[str]:
    folders = _FOLDERS.get(sys.platform, ())
    root = Path(os.environ.get("SYSTEMDRIVE", "C:") + "/") if sys.platform == "win32" else Path("/")
    found = interfering_software(root, folders)
    for product in INTERFERING:
        if product in found:
            yield (
                f"{product} seems to be installed ({found[product]}): it is known to interfere "
                "with connections"
            )


def _release() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    if sys.platform == "win32":
        return f"Windows {platform.release()} {platform.version()}"
    return _text(platform.freedesktop_os_release()["PRETTY_NAME"])


def _text(name: str) -> str:
    """Return `name` without the surrogates by which Python keeps bytes that are no UTF-8."""
    return name.encode("utf-8", "replace").decode("utf-8")


def _try(what: str, read: Callable[[], T], default: T, notes: list[str]) -> T:
    try:
        return read()
    except Exception as error:  # noqa: BLE001  facts are support: none is worth a run
        notes.append(f"{what} could not be read: {type(error).__name__}")
        return default
