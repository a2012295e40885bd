"""A filter at the card, as a program: ``xdp.py DEVICE PORT`` drops TCP over IPv4 to the port.

It loads a program into the kernel and ties it to the device (XDP, generic mode)
for as long as it runs. It writes one line to descriptor 3 once that is done.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import struct
import sys

READY_FD = 3
SYS_BPF = {"x86_64": 321, "aarch64": 280}
PROG_LOAD, LINK_CREATE = 5, 28
PROG_TYPE_XDP, ATTACH_XDP, GENERIC_MODE = 6, 37, 2

# Opcodes of eBPF (RFC 9669): loads by size, and what compares, adds, sets and ends.
LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x61, 0x69, 0x71
MOVE, MOVE_REGISTER, ADD, NOT_EQUAL, GREATER, EXIT = 0xB7, 0xBF, 0x07, 0x55, 0x2D, 0x95
XDP_DROP, XDP_PASS = 1, 2
ENOUGH = 38
"""Ethernet, IPv4 without options, the two ports of TCP."""


def _instruction(code: int, to: int = 0, by: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, by << 4 | to, offset, value)


def _program(port: int) -> bytes:
    """Registers: 0 what is returned, 1 the context, 2 and 3 start and end of the packet."""
    lines = [
        _instruction(LOAD_WORD, 2, 1, 0),
        _instruction(LOAD_WORD, 3, 1, 4),
        _instruction(MOVE_REGISTER, 4, 2),
        _instruction(ADD, 4, value=ENOUGH),
        _instruction(GREATER, 4, 3, 8),
        _instruction(LOAD_HALF, 5, 2, 12),
        _instruction(NOT_EQUAL, 5, offset=6, value=socket.htons(0x0800)),
        _instruction(LOAD_BYTE, 5, 2, 23),
        _instruction(NOT_EQUAL, 5, offset=4, value=socket.IPPROTO_TCP),
        _instruction(LOAD_HALF, 5, 2, 36),
        _instruction(NOT_EQUAL, 5, offset=2, value=socket.htons(port)),
        _instruction(MOVE, 0, value=XDP_DROP),
        _instruction(EXIT),
        _instruction(MOVE, 0, value=XDP_PASS),
        _instruction(EXIT),
    ]
    return b"".join(lines)


def _bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    room = ctypes.create_string_buffer(attributes, len(attributes))
    number = SYS_BPF[platform.machine()]
    result: int = libc.syscall(number, command, ctypes.byref(room), len(attributes))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _load(program: bytes) -> int:
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"GPL")
    count = len(program) // 8
    return _bpf(
        PROG_LOAD,
        struct.pack(
            "=IIQQIIQII",
            *(PROG_TYPE_XDP, count, ctypes.addressof(code), ctypes.addressof(licence)),
            *(0, 0, 0, 0, 0),
        ),
    )


def main() -> None:
    device, port = sys.argv[1], int(sys.argv[2])
    loaded = _load(_program(port))
    attributes = (loaded, socket.if_nametoindex(device), ATTACH_XDP, GENERIC_MODE)
    _bpf(LINK_CREATE, struct.pack("=IIII", *attributes))
    os.write(READY_FD, b"ready\n")
    signal.pause()


if __name__ == "__main__":
    main()
