"""The kernel filters of those who read packets, in classic BPF.

`request_filter` is the packet witness's: of IPv4 and IPv6, TCP segments with SYN
or RST set whose source or destination port is among the asked ones, requests with
a tag to any port, datagrams of UDP from or to the asked ones, and ICMP errors.
`knock_filter` is for waiting (`overheard`): mDNS, and what is sent to the control port
to open something. Everything else stays in the kernel, so that a busy host costs
nothing. Offsets count from the IP header (SOCK_DGRAM). Instructions are (code, jump if
true, jump if false, k) as in linux/filter.h; jumps are written as labels here and
resolved at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import pairwise

from bothends_protocol.tags import FIRST_TAG, LAST_TAG

__all__ = ["MAX_EXACT_PORTS", "Instruction", "knock_filter", "request_filter"]

MAX_EXACT_PORTS = 60
"""Ports compared one by one in the kernel; with more, all are let through and sorted out in
the agent. Keeps conditional jumps within their reach of 255 instructions."""

MAX_RANGES = 24
"""Ranges of UDP ports compared in the kernel, with as much reason; with more, everything between
the first port and the last is let through."""

_LD_B_ABS, _LD_H_ABS = 0x30, 0x28
_LD_B_IND, _LD_H_IND = 0x50, 0x48
_LDX_MSH = 0xB1
_LDX_IMM = 0x01
_JEQ, _JGE, _JSET, _JA = 0x15, 0x35, 0x45, 0x05
_AND, _RET = 0x54, 0x06

_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58
_SYN_OR_RST = 0x06
_SYN, _SYN_ACK = 0x02, 0x12
_SEGMENT_SIZE_OPTION = 0x0204
"""Kind and length of the option (RFC 9293, 3.2)."""
_TAKE, _DROP = 0xFFFF, 0

# ICMPv4 types that quote a packet: unreachable, source quench, time exceeded, parameter.
_ICMP_ERRORS = (3, 4, 11, 12)
_ICMP6_FIRST_INFORMATIONAL = 128

Instruction = tuple[int, int, int, int]
_Step = tuple[int, str, str, int]
"""Code, label if true, label if false, k; an empty label is the next instruction."""


def request_filter(ports: Collection[int], udp: Collection[int] = ()) -> list[Instruction]:
    """Return the filter for the TCP ports `ports` and the UDP ports `udp` as instructions.

    For none, or too many, TCP ports it is for all of them; for no UDP ports it is for none.
    """
    exact = sorted(ports) if len(ports) <= MAX_EXACT_PORTS else ()
    steps: list[tuple[str, _Step]] = []

    def add(code: int, k: int, true: str = "", false: str = "", label: str = "") -> None:
        steps.append((label, (code, true, false, k)))

    add(_LD_B_ABS, 0)
    add(_AND, 0xF0)
    add(_JEQ, 0x40, "v4", "")
    add(_JEQ, 0x60, "v6", "drop")
    # IPv4: only first fragments have ports; X becomes the header's length.
    add(_LD_H_ABS, 6, label="v4")
    add(_JSET, 0x1FFF, "drop")
    add(_LDX_MSH, 0)
    add(_LD_B_ABS, 9)
    add(_JEQ, _TCP, "tcp")
    if udp:
        add(_JEQ, _UDP, "udp")
    add(_JEQ, _ICMP, "", "drop")
    add(_LD_B_IND, 0)
    for kind in _ICMP_ERRORS:
        add(_JEQ, kind, "take")
    add(_RET, _DROP)
    # IPv6: extension headers before TCP are not followed.
    add(_LD_B_ABS, 6, label="v6")
    add(_LDX_IMM, 40)
    add(_JEQ, _TCP, "tcp")
    if udp:
        add(_JEQ, _UDP, "udp")
    add(_JEQ, _ICMP6, "", "drop")
    add(_LD_B_IND, 0)
    add(_JGE, _ICMP6_FIRST_INFORMATIONAL, "drop", "take")
    add(_LD_B_IND, 13, label="tcp")
    add(_JSET, _SYN_OR_RST, "", "drop")
    if exact:
        for offset in (0, 2):
            add(_LD_H_IND, offset)
            for port in exact:
                add(_JEQ, port, "take")
        # A request with a tag (`tags`) is the other agent's, whatever a router made of its port.
        # All systems put the maximum segment size first among the options of a SYN.
        add(_LD_H_IND, 20)
        add(_JEQ, _SEGMENT_SIZE_OPTION, "", "drop")
        add(_LD_H_IND, 22)
        add(_JGE, FIRST_TAG, "", "drop")
        add(_JGE, LAST_TAG + 1, "drop", "take")
        add(_RET, _DROP, label="drop")
        add(_RET, _TAKE, label="take")
    else:
        add(_RET, _TAKE, label="take")
        add(_RET, _DROP, label="drop")
    if udp:
        _add_datagrams(add, udp)
    return _resolve(steps)


def _add_datagrams(add: Callable[..., None], ports: Collection[int]) -> None:
    """Add the part of the filter that takes datagrams from and to `ports`.

    It has ends of its own, since jumps go forward only.
    """
    ranges = _ranges(ports)
    for side, offset in (("from", 0), ("to", 2)):
        add(_LD_H_IND, offset, label="udp" if side == "from" else "")
        for index, (first, last) in enumerate(ranges):
            add(_JGE, first, "", f"udp {side} {index}")
            add(_JGE, last + 1, "", "udp take")
            # An instruction that does nothing here: what the jump before it leads to.
            add(_LD_H_IND, offset, label=f"udp {side} {index}")
    add(_RET, _DROP)
    add(_RET, _TAKE, label="udp take")


def _ranges(ports: Collection[int]) -> list[tuple[int, int]]:
    """Return `ports` as ranges (first, last), one for all where there are too many."""
    listed = sorted(ports)
    ends = [listed[0]]
    for before, after in pairwise(listed):
        if after > before + 1:
            ends += [before, after]
    ends.append(listed[-1])
    found = list(zip(ends[::2], ends[1::2], strict=True))
    return found if len(found) <= MAX_RANGES else [(listed[0], listed[-1])]


def knock_filter(control_port: int, mdns_port: int) -> list[Instruction]:
    """Return the filter for datagrams to either port and connection requests to the first."""
    steps: list[tuple[str, _Step]] = []

    def add(code: int, k: int, true: str = "", false: str = "", label: str = "") -> None:
        steps.append((label, (code, true, false, k)))

    add(_LD_B_ABS, 0)
    add(_AND, 0xF0)
    add(_JEQ, 0x40, "v4", "")
    add(_JEQ, 0x60, "v6", "drop")
    add(_LD_H_ABS, 6, label="v4")
    add(_JSET, 0x1FFF, "drop")
    add(_LDX_MSH, 0)
    add(_LD_B_ABS, 9)
    add(_JEQ, _UDP, "udp")
    add(_JEQ, _TCP, "tcp", "drop")
    add(_LD_B_ABS, 6, label="v6")
    add(_LDX_IMM, 40)
    add(_JEQ, _UDP, "udp")
    add(_JEQ, _TCP, "tcp", "drop")
    add(_LD_H_IND, 2, label="udp")
    add(_JEQ, mdns_port, "take")
    add(_JEQ, control_port, "take", "drop")
    add(_LD_B_IND, 13, label="tcp")
    add(_AND, _SYN_ACK)
    add(_JEQ, _SYN, "", "drop")
    add(_LD_H_IND, 2)
    add(_JEQ, control_port, "take", "drop")
    add(_RET, _TAKE, label="take")
    add(_RET, _DROP, label="drop")
    return _resolve(steps)


def _resolve(steps: list[tuple[str, _Step]]) -> list[Instruction]:
    places = {label: index for index, (label, _) in enumerate(steps) if label}

    def jump(label: str, index: int) -> int:
        return places[label] - index - 1 if label else 0

    return [
        (code, jump(true, index), jump(false, index), k)
        for index, (_, (code, true, false, k)) in enumerate(steps)
    ]
