"""Masked evidence: addresses and names replaced, so that it can be shown to others.

Each address becomes another one, on both sides the same for the same: the key
comes from the words of the code, and a fixed salt, since the two sides may never
have met. What the judge asks of addresses stays true: the IP version; which are
equal; which are loopback, wildcard, link-local, multicast, private or public; and
how many leading bits two of them share (as Crypto-PAn does it: Xu, Fan, Ammar and
Moon, "Prefix-preserving IP address anonymization", 2002). Text that may hold an
address and is judged by nobody is left out.

Masking hides addresses from readers. From somebody who has the code, and so the
key, it hides nothing.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from .addresses import normal
from .code import Code
from .evidence import Evidence
from .fixes import INTERFERING
from .sealed import stretch

__all__ = ["DROP", "KEEP", "RULES", "Mask", "mask_key"]

_SALT = b"bothends masking"
"""Not secret, and the same in every run: the two sides may have nothing else in common."""

_BLOCKS = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    *("::/96", "2000::/3", "fc00::/7", "fe80::/10", "ff00::/8"),
)
"""Blocks that stay themselves (IANA's special-purpose registries, RFC 6890, and what is public of
IPv6). An address outside of them keeps the bits by which it is told from them."""

_PLAIN = ("0.0.0.0/8", "127.0.0.0/8", "240.0.0.0/4", "::/96")
"""Those in which every address stays as it is: it names nobody."""

_CARD = re.compile(r"enx[0-9a-f]{12}", re.ASCII)
"""Interfaces that systemd names by their link-layer address."""

_WORD = re.compile(r"[A-Za-z_]{1,40}", re.ASCII)
"""What errors are: names of errno values."""


KEEP, DROP, NOTHING = "keep", "drop", "nothing"
_ADDRESS, _HARDWARE, _INTERFACE = "address", "hardware", "interface"
_NAME, _ERROR, _PRODUCT = "name", "error", "product"

RULES: dict[tuple[str, str], str] = {
    ("Acceptance", "address"): _ADDRESS,
    ("Acceptance", "remote_address"): _ADDRESS,
    ("Acceptance", "transport"): KEEP,
    ("Address", "address"): _ADDRESS,
    ("Address", "interface"): _INTERFACE,
    ("Address", "state"): KEEP,
    ("Attempt", "address"): _ADDRESS,
    ("Attempt", "error"): _ERROR,
    ("Attempt", "local_address"): _ADDRESS,
    ("Attempt", "outcome"): KEEP,
    ("Attempt", "spoke"): KEEP,
    ("Attempt", "transport"): KEEP,
    ("Burst", "address"): _ADDRESS,
    ("Burst", "transport"): KEEP,
    ("Connection", "local_address"): _ADDRESS,
    ("Connection", "remote_address"): _ADDRESS,
    ("Connection", "state"): KEEP,
    ("Connection", "transport"): KEEP,
    ("ContactFacts", "local"): _ADDRESS,
    ("ContactFacts", "path"): KEEP,
    ("ContactFacts", "proven"): _ADDRESS,
    ("ContactFacts", "refused"): DROP,
    ("ContactFacts", "remote"): _ADDRESS,
    ("ContactFacts", "typed"): _ADDRESS,
    ("Evidence", "confirmed"): _ADDRESS,
    ("Evidence", "format"): KEEP,
    ("Evidence", "ports"): KEEP,
    ("Evidence", "role"): KEEP,
    ("Evidence", "service"): KEEP,
    ("Firewall", "detail"): DROP,
    ("Firewall", "name"): KEEP,
    ("HopProbe", "address"): _ADDRESS,
    ("HopProbe", "outcome"): KEEP,
    ("HopProbe", "transport"): KEEP,
    ("HostFacts", "hardware"): _HARDWARE,
    ("HostFacts", "hostname"): _NAME,
    ("HostFacts", "kernel"): KEEP,
    ("HostFacts", "notes"): _PRODUCT,
    ("HostFacts", "product"): KEEP,
    ("HostFacts", "release"): KEEP,
    ("HostFacts", "system"): KEEP,
    ("HostFacts", "version"): KEEP,
    ("HostFacts", "xdp"): _INTERFACE,
    ("Icmp", "sender"): _ADDRESS,
    ("Listener", "address"): _ADDRESS,
    ("Listener", "device"): _INTERFACE,
    ("Listener", "names"): KEEP,
    ("Listener", "program"): KEEP,
    ("Listener", "transport"): KEEP,
    ("Mapping", "client"): _ADDRESS,
    ("Mapping", "transport"): KEEP,
    ("NatBehaviour", "detail"): DROP,
    ("NatBehaviour", "filtering"): KEEP,
    ("NatBehaviour", "mapping"): KEEP,
    ("NatBehaviour", "server"): _ADDRESS,
    ("Neighbour", "destination"): _ADDRESS,
    ("Neighbour", "hardware"): _HARDWARE,
    ("Neighbour", "interface"): _INTERFACE,
    ("Neighbour", "next_hop"): _ADDRESS,
    ("Neighbour", "state"): KEEP,
    ("OpenedMapping", "detail"): DROP,
    ("OpenedMapping", "outcome"): KEEP,
    ("OpenedMapping", "outside"): _ADDRESS,
    ("OpenedMapping", "protocol"): KEEP,
    ("OpenedMapping", "router"): _ADDRESS,
    ("OpenedMapping", "transport"): KEEP,
    ("OwnListener", "address"): _ADDRESS,
    ("OwnListener", "error"): _ERROR,
    ("OwnListener", "transport"): KEEP,
    ("Pinhole", "error"): _ERROR,
    ("Pinhole", "remote"): _ADDRESS,
    ("Pinhole", "transport"): KEEP,
    ("Probe", "address"): _ADDRESS,
    ("Probe", "transport"): KEEP,
    ("Queue", "address"): _ADDRESS,
    ("Queue", "transport"): KEEP,
    ("Return", "error"): _ERROR,
    ("Return", "interface"): _INTERFACE,
    ("Return", "local"): _ADDRESS,
    ("Return", "source"): _ADDRESS,
    ("RoundPlan", "kind"): KEEP,
    ("RoundPlan", "pattern"): KEEP,
    ("RoundPlan", "prober"): KEEP,
    ("Route", "destination"): _ADDRESS,
    ("Route", "error"): _ERROR,
    ("Route", "gateway"): _ADDRESS,
    ("Route", "interface"): _INTERFACE,
    ("Route", "local"): _ADDRESS,
    ("Route", "source"): _ADDRESS,
    ("Route", "transport"): KEEP,
    ("RouterWord", "detail"): DROP,
    ("RouterWord", "outcome"): KEEP,
    ("RouterWord", "outside"): _ADDRESS,
    ("RouterWord", "protocol"): KEEP,
    ("RouterWord", "router"): _ADDRESS,
    ("Samples", "prompt"): KEEP,
    ("Samples", "values"): KEEP,
    ("Counted", "values"): KEEP,
    ("SeenAs", "address"): _ADDRESS,
    ("SeenAs", "by"): KEEP,
    ("SeenAs", "said_by"): _ADDRESS,
    ("SelfConnect", "address"): _ADDRESS,
    ("SelfConnect", "outcome"): KEEP,
    ("SelfConnect", "spoke"): KEEP,
    ("SelfConnect", "transport"): KEEP,
    ("Sighting", "destination"): _ADDRESS,
    ("Sighting", "flags"): KEEP,
    ("Sighting", "interface"): _INTERFACE,
    ("Sighting", "source"): _ADDRESS,
    ("Sighting", "transport"): KEEP,
    ("Sighting", "way"): KEEP,
    ("Sized", "address"): _ADDRESS,
    ("Sized", "local"): _ADDRESS,
    ("Sized", "way"): KEEP,
    ("Swept", "address"): _ADDRESS,
    ("Swept", "sets"): KEEP,
    ("Swept", "transport"): KEEP,
    ("Target", "addresses"): _ADDRESS,
    ("Target", "error"): NOTHING,
    ("Target", "text"): _ADDRESS,
    ("Witness", "detail"): DROP,
    ("Witness", "name"): KEEP,
}
"""What is done to each text of the evidence, by record and field; one that is not here is left out.

Names of programs stay: whether the right one holds the port is judged by them."""

_R = TypeVar("_R", bound=msgspec.Struct)


@cache
def _blocks(version: int, texts: tuple[str, ...] = _BLOCKS) -> tuple[tuple[int, int], ...]:
    """The blocks of this IP version, each as its leading bits and how many these are."""
    nets = [ipaddress.ip_network(text) for text in texts]
    return tuple(
        (int(net.network_address) >> (net.max_prefixlen - net.prefixlen), net.prefixlen)
        for net in nets
        if net.version == version
    )


@cache
def _fixed(version: int) -> frozenset[tuple[int, int]]:
    """Leading bits (how many, which) after which the next one must stay.

    So that each block stays itself, and nothing outside gets into it.
    """
    return frozenset(
        (place, bits >> (size - place)) for bits, size in _blocks(version) for place in range(size)
    )


def mask_key(code: Code) -> bytes:
    """Return the key of all masks of the runs with `code`; takes as long as any of its keys."""
    return stretch(code, _SALT, "masking")


class Mask:
    """Replaces addresses and names under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._bit = cache(self._draw_bit)
        self._ways: dict[str, Callable[[str], str | None]] = {
            KEEP: lambda text: text,
            DROP: lambda _text: "",
            NOTHING: lambda _text: None,
            _ADDRESS: self.address,
            _HARDWARE: self.hardware,
            _INTERFACE: self.interface,
            _NAME: self.name,
            _ERROR: lambda text: text if _WORD.fullmatch(text) else "ERROR",
            _PRODUCT: lambda text: next((name for name in INTERFERING if name in text), ""),
        }

    def evidence(self, evidence: Evidence) -> Evidence:
        """Return `evidence` with every address and name replaced."""
        # Rules are texts full of addresses, and no verdict rests on them.
        return self._record(replace(evidence, rules=()))

    def _record(self, record: _R) -> _R:
        kind = type(record).__name__
        return type(record)(
            **{
                name: self._value(getattr(record, name), RULES.get((kind, name), DROP))
                for name in record.__struct_fields__
            }
        )

    def _value(self, value: Any, rule: str) -> Any:
        if isinstance(value, tuple):
            listed = (self._value(item, rule) for item in value)
            return tuple(item for item in listed if item not in ("", None))
        if isinstance(value, msgspec.Struct):
            return self._record(value)
        if not isinstance(value, str):
            return value
        return self._ways[rule](value)

    # Addresses and names -----------------------------------------------------------------

    def address(self, text: str) -> str:
        """Return the address that stands for `text`; for a name, a made-up one."""
        if not text:
            return ""
        bare, percent, zone = text.partition("%")
        try:
            value = ipaddress.ip_address(normal(bare))
        except ValueError:
            return self.name(text)
        masked = str(type(value)(self._number(int(value), value.max_prefixlen, value.version)))
        return masked + percent + self.interface(zone)

    def hardware(self, text: str) -> str:
        """Return the link-layer address that stands for `text`: a locally administered one."""
        if not text or set(text) <= set("0:"):
            return text
        drawn = self._draw("hardware", text.lower())[:5]
        return ":".join(f"{byte:02x}" for byte in (2, *drawn))

    def interface(self, text: str) -> str:
        """Return `text`, unless it is a name made of a link-layer address."""
        if not _CARD.fullmatch(text):
            return text
        return "enx" + self._draw("interface", text)[:6].hex()

    def name(self, text: str) -> str:
        """Return the name that stands for `text`."""
        return "name-" + self._draw("name", text.lower())[:4].hex() if text else ""

    def _number(self, value: int, size: int, version: int) -> int:
        """Change each bit or leave it, as the bits before it say."""
        for bits, length in _blocks(version, _PLAIN):
            if value >> (size - length) == bits:
                return value
        flips = 0
        for place in range(size):
            before = value >> (size - place)
            stays = (place, before) in _fixed(version)
            flips = flips << 1 | (0 if stays else self._bit(version, place, before))
        return value ^ flips

    def _draw_bit(self, version: int, place: int, before: int) -> int:
        return self._draw(f"bit {version}", f"{place} {before}")[0] & 1

    def _draw(self, kind: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{kind} {text}".encode("utf-8", "replace"), "sha256")
