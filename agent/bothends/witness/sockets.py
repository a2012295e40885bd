"""The socket table: who listens where, under which program, and what is connected.

On Linux /proc/net/tcp and tcp6, readable by everybody (proc(5)), which show
more than any library passes on: connections not yet accepted have inode 0, the
queue of a listener stands in its rx_queue. Elsewhere psutil, untested there.
By UDP (/proc/net/udp and udp6) a socket takes from anybody while it is bound
and not connected; what it has not read yet, and what it lost, stands there too.
Whose program it is can be read for one's own processes only, or by root.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import struct
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from bothends_protocol.addresses import normal
from bothends_protocol.evidence import Connection, Listener
from bothends_protocol.services import is_named

from .netlink import (
    HALF_OPEN,
    LISTENING,
    Bound,
    Queue,
    bound_sockets,
    listening_queues,
    tcp_sockets,
)

__all__ = [
    "Row",
    "connections",
    "given_ports",
    "half_open_ports",
    "is_running",
    "listeners",
    "listening_ports",
    "read_table",
    "read_udp_table",
    "service_listeners",
]

_STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
    12: "SYN_RECV",
}
"""include/net/tcp_states.h; 12 is NEW_SYN_RECV."""

_LINES = {
    None: re.compile(r"^ *\d+: .+$", re.MULTILINE),
    True: re.compile(r"^ *\d+: \S+ \S+ 0A .+$", re.MULTILINE),
    False: re.compile(r"^ *\d+: \S+ \S+ (?!0A|06)\S+ .+$", re.MULTILINE),
}
"""The lines of a table by `listening` (`read_table`): LISTEN is 0A, TIME_WAIT is 06."""

_HELD = ("ESTABLISHED", "CLOSE_WAIT")
"""States in which a row without an inode is a connection that no program has accepted."""

_TABLES = (("tcp", "/proc/net/tcp"), ("tcp", "/proc/net/tcp6"))
_UDP_TABLES = (("udp", "/proc/net/udp"), ("udp", "/proc/net/udp6"))

_UNCONNECTED = 7
"""State of a UDP socket that takes datagrams from anybody (TCP_CLOSE; net/ipv4/udp.c)."""

_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_RANGE = (32768, 60999)


class Row(msgspec.Struct, frozen=True):
    """One line of the socket table."""

    transport: str
    state: str
    local: str
    local_port: int
    remote: str
    remote_port: int
    waiting: int
    """For LISTEN: connections not yet accepted. Else: bytes not yet read."""
    uid: int
    inode: int
    drops: int = 0
    """UDP: datagrams lost at the socket since it was opened."""


def read_table(
    *, listening: bool | None = None, ports: Collection[int] | None = None
) -> list[Row] | None:
    """Return all TCP rows, or None where the table cannot be read; with `ports` those at them.

    With `listening` only those that listen, or only the others, but for those that wait out a
    closed connection: of thousands the rest is not even taken apart.
    """
    if not sys.platform.startswith("linux"):
        return _wanted(_psutil_table(), listening, ports)
    return _read(_TABLES, listening, ports)


def _wanted(
    rows: list[Row] | None,
    listening: bool | None,  # noqa: FBT001  as above
    ports: Collection[int] | None,
) -> list[Row] | None:
    if rows is None:
        return None
    left_out = {None: (), True: {*_STATES.values()} - {"LISTEN"}, False: ("LISTEN", "TIME_WAIT")}
    return [
        row
        for row in rows
        if row.state not in left_out[listening] and (ports is None or row.local_port in ports)
    ]


def listening_ports(own: Collection[int] = ()) -> set[int]:
    """Return the TCP ports that somebody listens on; `own` as in `listeners`.

    As far as that can be read. Nothing else is read of a socket: a computer may have 65,000.
    """
    told = tcp_sockets(LISTENING)
    if told is None:
        rows = read_table(listening=True) or ()
        return {row.local_port for row in rows if row.inode not in own}
    return {port for _, port, inode in told if inode not in own}


def half_open_ports() -> set[int]:
    """Return the TCP ports with a handshake that is not complete, as far as that can be read."""
    told = tcp_sockets(HALF_OPEN)
    if told is None:
        rows = read_table(listening=False) or ()
        return {row.local_port for row in rows if row.state == "SYN_RECV"}
    return {port for _, port, _ in told}


def read_udp_table() -> list[Row] | None:
    """Return the UDP sockets that take datagrams from anybody, as `LISTEN`; None as above."""
    if not sys.platform.startswith("linux"):
        return _psutil_udp_table()
    rows = _read(_UDP_TABLES)
    return None if rows is None else [row for row in rows if row.state == "LISTEN"]


def _read(
    tables: Iterable[tuple[str, str]],
    listening: bool | None = None,  # noqa: FBT001  as above
    ports: Collection[int] | None = None,
) -> list[Row] | None:
    rows: list[Row] = []
    for transport, path in tables:
        try:
            text = Path(path).read_text(encoding="ascii")
        except FileNotFoundError:
            continue  # no IPv6 on this host
        except OSError:
            return None
        for line in _LINES[listening].findall(text):
            part = line.split()
            if ports is None or int(part[1].rpartition(":")[2], 16) in ports:
                rows.append(_row(transport, part))
    return rows


def listeners(
    table: Iterable[Row], ports: Collection[int], own: Collection[int]
) -> tuple[Listener, ...]:
    """Return who listens on `ports`, leaving out the sockets with an inode in `own`."""
    rows = [
        row
        for row in table
        if row.state == "LISTEN" and row.local_port in ports and row.inode not in own
    ]
    return _described(rows)


def service_listeners(
    table: Iterable[Row], name: str, own: Collection[int]
) -> tuple[Listener, ...]:
    """Return where the program `name` listens, on any port; `own` as in `listeners`.

    By UDP not on the ports that the system gives to those who ask for none: there a program waits
    for answers to what it sent itself.
    """
    first, last = given_ports()
    rows = [
        row
        for row in table
        if row.state == "LISTEN"
        and row.inode not in own
        and (row.transport != "udp" or not first <= row.local_port <= last)
    ]
    return tuple(item for item in _described(rows) if is_named(name, item.names))


def is_running(name: str) -> bool | None:
    """Return whether a process is called `name`; None where processes cannot be listed.

    Names of processes are readable by everybody, their sockets are not.
    """
    if not sys.platform.startswith("linux"):
        return None
    return any(is_named(name, _names(pid)) for pid in _processes())


def given_ports(
    otherwise: tuple[int, int] = _USUAL_RANGE, file: Path = _PORT_RANGE
) -> tuple[int, int]:
    """Return the first and the last port that this system gives to those who ask for none.

    `otherwise` where it does not say.
    """
    with contextlib.suppress(OSError, ValueError):
        first, last = file.read_text(encoding="ascii").split()
        return int(first), int(last)
    return otherwise


def _described(rows: list[Row]) -> tuple[Listener, ...]:
    if not rows:
        return ()
    holders = _programs(frozenset(row.inode for row in rows if row.inode))
    inodes = {row.inode for row in rows}
    queues = listening_queues(inodes) if any(row.transport == "tcp" for row in rows) else {}
    bound = bound_sockets() if any(row.transport == "udp" for row in rows) else {}
    return tuple(
        _datagram_listener(row, holders.get(row.inode), bound.get(row.inode))
        if row.transport == "udp"
        else _listener(row, holders.get(row.inode), queues.get(row.inode))
        for row in rows
    )


def _datagram_listener(row: Row, pid: int | None, bound: Bound | None) -> Listener:
    # What waits in it changes all the time, and one socket must stay one record: see `Queue`.
    v6only, device = (bound.v6only, bound.device) if bound else (None, None)
    return replace(_listener(row, pid, None), v6only=v6only, device=device, waiting=None)


def _listener(row: Row, pid: int | None, queue: Queue | None) -> Listener:
    names = () if pid is None else _names(pid)
    return Listener(
        transport=row.transport,
        address=row.local,
        port=row.local_port,
        v6only=queue.v6only if queue else None,
        device=queue.device if queue else None,
        program=names[0] if names else None,
        pid=pid,
        names=names,
        waiting=queue.waiting if queue else row.waiting,
        backlog=queue.backlog if queue else None,
    )


def connections(
    table: Iterable[Row], ports: Collection[int] | None, number: int
) -> tuple[Connection, ...]:
    """Return the rows about `ports` (None: all) that are not listeners, for round `number`."""
    return tuple(
        Connection(
            round=number,
            transport=row.transport,
            state=row.state,
            local_address=row.local,
            local_port=row.local_port,
            remote_address=row.remote,
            remote_port=row.remote_port,
            accepted=bool(row.inode) if row.state in _HELD else None,
        )
        for row in table
        if row.state not in ("LISTEN", "TIME_WAIT") and (ports is None or row.local_port in ports)
    )


def _row(transport: str, part: Sequence[str]) -> Row:
    # sl local remote st tx:rx tr:when retrnsmt uid timeout inode …
    local, local_port = _endpoint(part[1])
    remote, remote_port = _endpoint(part[2])
    number = int(part[3], 16)
    takes_all = transport == "udp" and number == _UNCONNECTED
    return Row(
        transport=transport,
        state="LISTEN" if takes_all else _STATES.get(number, part[3]),
        local=local,
        local_port=local_port,
        remote=remote,
        remote_port=remote_port,
        waiting=int(part[4].partition(":")[2], 16),
        uid=int(part[7]),
        inode=int(part[9]),
        # sl … inode ref pointer drops
        drops=int(part[12]) if transport == "udp" and len(part) > 12 else 0,
    )


def _endpoint(text: str) -> tuple[str, int]:
    raw, _, port = text.partition(":")
    return _address(raw), int(port, 16)


@functools.lru_cache(maxsize=256)
def _address(raw: str) -> str:
    # The kernel prints each 32-bit word of the address in host order.
    words = [int(raw[at : at + 8], 16) for at in range(0, len(raw), 8)]
    packed = b"".join(struct.pack("=I", word) for word in words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return normal(socket.inet_ntop(family, packed))


def _programs(inodes: Collection[int]) -> dict[int, int]:
    """Return the process by inode for the sockets `inodes`, as far as they may be seen.

    A socket that several hold (a supervisor and its child) goes to the one that
    started last, which is the one that serves it.
    """
    found: dict[int, int] = {}
    links = {f"socket:[{inode}]": inode for inode in inodes}
    for pid in _processes():
        if len(found) == len(links):
            break
        for link in _descriptors(pid):
            inode = links.get(link)
            if inode is not None:
                found.setdefault(inode, pid)
    return found


def _processes() -> Iterator[int]:
    if not sys.platform.startswith("linux"):
        return
    # Newest first: the service in question was mostly started late.
    with contextlib.suppress(OSError):
        yield from sorted((int(n) for n in os.listdir("/proc") if n.isdigit()), reverse=True)


def _descriptors(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return  # gone, or somebody else's
    for name in names:
        with contextlib.suppress(OSError):
            yield os.readlink(f"{folder}/{name}")


def _names(pid: int) -> tuple[str, ...]:
    """Return the names of a process: its own, its file's, its script's; its own first."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace")
        names.append(text.strip())
    with contextlib.suppress(OSError):
        names.append(os.path.basename(os.readlink(f"/proc/{pid}/exe")))
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        # The program's own word for itself and, for an interpreter, the script it runs.
        typed = [word.decode("utf-8", "replace") for word in words[:4]]
        names += [os.path.basename(word) for word in typed if word and word[0] != "-"]
    return tuple(dict.fromkeys(name[:MAX_NAME] for name in names if name))


MAX_NAME = 100
"""Letters of a name that are kept."""


def _psutil_table() -> list[Row] | None:
    import psutil  # noqa: PLC0415  not needed on Linux, and 35 ms to load

    try:
        found = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return None
    return [
        Row(
            transport="tcp",
            state={"SYN_RECV": "SYN_RECV"}.get(item.status, item.status),
            local=normal(item.laddr.ip),
            local_port=item.laddr.port,
            remote=normal(item.raddr.ip) if item.raddr else "",
            remote_port=item.raddr.port if item.raddr else 0,
            waiting=0,
            uid=0,
            inode=0,
        )
        for item in found
        if item.laddr
    ]


def _psutil_udp_table() -> list[Row] | None:
    import psutil  # noqa: PLC0415  as above

    try:
        found = psutil.net_connections(kind="udp")
    except (psutil.Error, OSError):
        return None
    return [
        Row("udp", "LISTEN", normal(item.laddr.ip), item.laddr.port, "", 0, 0, 0, 0)
        for item in found
        if item.laddr and not item.raddr
    ]
