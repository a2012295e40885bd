"""Faults below the IP layer of a host that are not nftables' own hooks: tc and XDP.

Administrators of big networks and some security products filter there. Nothing
of it shows in a list of firewall rules, nor in the IP layer's counters.
"""

from __future__ import annotations

import socket
import sys

from . import xdp
from .faults import Fault
from .hosts import Process
from .network import DEVICE, Stage

__all__ = ["UDP", "tc_drop", "xdp_drop"]

# Opcodes of classic BPF (linux/bpf_common.h), as `tcpdump -ddd` prints them.
_LOAD_BYTE, _LOAD_HALF, _EQUAL, _JUMP, _RETURN = 0x30, 0x28, 0x15, 0x05, 0x06
_SHOT, _UNSPEC = 2, 0xFFFFFFFF
"""TC_ACT_SHOT drops the packet; TC_ACT_UNSPEC (-1) leaves it to the next filter."""
_TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


def _bytecode(port: int, protocol: int) -> str:
    """Drop what goes to the port, in both IP versions, as a filter of whole Ethernet frames."""
    program = (
        (_LOAD_HALF, 0, 0, 12),
        (_EQUAL, 0, 4, 0x0800),
        (_LOAD_BYTE, 0, 0, 23),
        (_EQUAL, 0, 8, protocol),
        (_LOAD_HALF, 0, 0, 36),
        (_JUMP, 0, 0, 4),
        (_EQUAL, 0, 5, 0x86DD),
        (_LOAD_BYTE, 0, 0, 20),
        (_EQUAL, 0, 3, protocol),
        (_LOAD_HALF, 0, 0, 56),
        (_EQUAL, 0, 1, port),
        (_RETURN, 0, 0, _SHOT),
        (_RETURN, 0, 0, _UNSPEC),
    )
    return ",".join([str(len(program)), *(" ".join(map(str, line)) for line in program)])


def tc_drop(on: str, way: str, port: int = 4242, protocol: int = _TCP) -> Fault:
    """Traffic control drops the requests, ``ingress`` or ``egress``."""

    def drop(stage: Stage) -> None:
        host = stage.host(on)
        host.run(["tc", "qdisc", "add", "dev", DEVICE, "clsact"])
        where = ["filter", "add", "dev", DEVICE, way]
        host.run(["tc", *where, "bpf", "direct-action", "bytecode", _bytecode(port, protocol)])

    drop.__name__ = f"tc_drop_{way}"
    return drop


def xdp_drop(stage: Stage) -> Process:
    """A program at the destination's card drops the requests before anything else sees them."""
    return stage.destination.popen_ready([sys.executable, "-IS", xdp.__file__, DEVICE, "4242"])
