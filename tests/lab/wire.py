"""A long wire, as a program: passes frames between two devices, each after a delay.

``python -IS wire.py MILLISECONDS DEVICE DEVICE``, in the switch. It stands in for
netem, which many kernels are built without. It writes one line to descriptor 3
once it passes frames.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections import deque

READY_FD = 3
ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
FRAME = 65_536
BUFFER = 4 << 20
"""Room for what arrives while the program is not on a processor."""


def _open(device: str) -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    wire.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    wire.bind((device, ETH_P_ALL))
    wire.settimeout(0)
    return wire


def main() -> None:
    delay = float(sys.argv[1]) / 1000
    near, far = (_open(device) for device in sys.argv[2:4])
    other_end = {near.fileno(): far, far.fileno(): near}
    under_way: deque[tuple[float, socket.socket, bytes]] = deque()
    poll = select.epoll()
    for wire in (near, far):
        poll.register(wire, select.EPOLLIN)
    os.write(READY_FD, b"ready\n")
    while True:
        left = max(0.0, under_way[0][0] - time.monotonic()) if under_way else -1
        for fd, _event in poll.poll(left):
            frame = (far if other_end[fd] is near else near).recv(FRAME)
            under_way.append((time.monotonic() + delay, other_end[fd], frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, wire, frame = under_way.popleft()
            try:
                wire.send(frame)
            except OSError:  # the device is down, or its queue is full: a wire loses it
                continue


if __name__ == "__main__":
    main()
