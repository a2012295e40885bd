"""The addresses of this host's interfaces, loopback ones and those that are down left out.

On Linux two rtnetlink dumps (rtnetlink(7): RTM_GETLINK, RTM_GETADDR), a fraction
of a millisecond; elsewhere psutil, which takes longer to load than all the rest.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys

from bothends_protocol.evidence import Address

from .witness.netlink import ask, attributes_of

__all__ = ["hardware_addresses", "idle_interfaces", "interface_addresses", "xdp_interfaces"]

_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_DUMP = 0x300
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_XDP = 1, 3, 43
_IFLA_XDP_ATTACHED = 2
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x8, 0x40
_IFA_F_DADFAILED = 0x08
"""Another machine has the address, so the kernel does not use it (linux/if_addr.h)."""
_IFA_F_TEMPORARY, _IFA_F_OPTIMISTIC, _IFA_F_DEPRECATED, _IFA_F_TENTATIVE = 0x01, 0x04, 0x20, 0x40


def interface_addresses() -> tuple[Address, ...]:
    """Return the usable addresses, in the kernel's order, without zones.

    Raises `OSError` or `NetlinkError` where they cannot be read.
    """
    if sys.platform != "linux":
        return _from_psutil()
    return _from_kernel()


def _from_kernel() -> tuple[Address, ...]:
    names = {index: name for index, name, _ in _links_up()}
    found = []
    for kind, body in ask(_RTM_GETADDR, _DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        if kind != _RTM_NEWADDR:
            continue
        family, prefix, flags, _, index = struct.unpack_from("=BBBBI", body)
        values = attributes_of(body[8:])
        # On point-to-point links IFA_ADDRESS is the other end; IFA_LOCAL, where given, is ours.
        packed = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        known = family in (socket.AF_INET, socket.AF_INET6)
        if index not in names or not packed or not known or flags & _IFA_F_DADFAILED:
            continue
        text = socket.inet_ntop(family, packed)
        # An address of its own on the loopback interface is reached through the others.
        if not _loopback(text):
            # The header has room for eight flags only (rtnetlink(7)).
            flags |= int.from_bytes(values.get(_IFA_FLAGS, b""), sys.byteorder)
            state = _state(flags) if family == socket.AF_INET6 else ""
            found.append(Address(interface=names[index], address=text, prefix=prefix, state=state))
    return tuple(found)


def _state(flags: int) -> str:
    """The state of an address of IPv6 (`evidence.Address`); the worst, where there are two."""
    if flags & _IFA_F_TENTATIVE and not flags & _IFA_F_OPTIMISTIC:
        return "tentative"
    if flags & _IFA_F_DEPRECATED:
        return "deprecated"
    return "temporary" if flags & _IFA_F_TEMPORARY else ""


def hardware_addresses() -> tuple[str, ...]:
    """Return the link-layer addresses of the interfaces that are up; Linux only."""
    if sys.platform != "linux":
        return ()
    found = (hardware for _, _, hardware in _links_up() if hardware.strip(":0"))
    return tuple(dict.fromkeys(found))


def xdp_interfaces() -> tuple[str, ...]:
    """Return the interfaces to which an XDP program is attached; Linux only."""
    if sys.platform != "linux":
        return ()
    found = []
    for kind, body in ask(_RTM_GETLINK, _DUMP, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
        values = attributes_of(body[16:]) if kind == _RTM_NEWLINK else {}
        attached = attributes_of(values.get(_IFLA_XDP, b"")).get(_IFLA_XDP_ATTACHED)
        if attached and attached[0]:
            name = values.get(_IFLA_IFNAME, b"").rstrip(b"\0")
            found.append(name.decode("utf-8", "backslashreplace"))
    return tuple(found)


def idle_interfaces() -> tuple[tuple[str, str], ...]:
    """Return the interfaces that carry nothing, with `off` or `no link`; Linux only.

    Raises `OSError` or `NetlinkError` where they cannot be read.
    """
    if sys.platform != "linux":
        return ()
    found = []
    for kind, body in ask(_RTM_GETLINK, _DUMP, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
        if kind != _RTM_NEWLINK:
            continue
        _, _, _, flags, _ = struct.unpack_from("=BxHiII", body)
        raw = attributes_of(body[16:]).get(_IFLA_IFNAME, b"").rstrip(b"\0")
        if flags & _IFF_LOOPBACK or (flags & _IFF_UP and flags & _IFF_RUNNING):
            continue
        name = raw.decode("utf-8", "backslashreplace")
        found.append((name, "no link" if flags & _IFF_UP else "off"))
    return tuple(found)


def _links_up() -> list[tuple[int, str, str]]:
    """Return index, name and link-layer address of each interface that is switched on.

    One without a carrier counts: its addresses are answered for on the others.
    """
    links = []
    for kind, body in ask(_RTM_GETLINK, _DUMP, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
        if kind != _RTM_NEWLINK:
            continue
        _, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
        values = attributes_of(body[16:])
        name = values.get(_IFLA_IFNAME, b"").rstrip(b"\0")
        if flags & _IFF_UP and name:
            text = name.decode("utf-8", "backslashreplace")
            links.append((index, text, values.get(_IFLA_ADDRESS, b"").hex(":")))
    return links


def _from_psutil() -> tuple[Address, ...]:
    import psutil  # noqa: PLC0415  not needed on Linux, and 20 ms to load

    states = psutil.net_if_stats()
    found = []
    for name, rows in psutil.net_if_addrs().items():
        state = states.get(name)
        if state is None or not state.isup:
            continue
        for row in rows:
            text = row.address.partition("%")[0]
            if row.family in (socket.AF_INET, socket.AF_INET6) and not _loopback(text):
                prefix = _prefix(row.netmask, text)
                found.append(Address(interface=name, address=text, prefix=prefix))
    return tuple(found)


def _loopback(text: str) -> bool:
    return ipaddress.ip_address(text).is_loopback


def _prefix(netmask: str | None, text: str) -> int:
    """The length of the prefix; that of a single host where the system names no mask."""
    if netmask is None:
        return ipaddress.ip_address(text).max_prefixlen
    return int(ipaddress.ip_address(netmask)).bit_count()
