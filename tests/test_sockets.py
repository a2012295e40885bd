"""The socket table: the kernel's lines, and a real socket of this process."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bothends.witness import sockets
from bothends.witness.netlink import tcp_sockets
from bothends.witness.sockets import (
    Row,
    connections,
    half_open_ports,
    listeners,
    listening_ports,
    read_table,
    read_udp_table,
    service_listeners,
)
from bothends_protocol.evidence import Connection, Listener

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")

LISTEN, ESTABLISHED, SYN_RECV, TIME_WAIT, CLOSE_WAIT = "0A", "01", "03", "06", "08"
ANY, LOOPBACK, THERE, HERE = "00000000", "0100007F", "1407A8C0", "0A07A8C0"
ANY6, LOOPBACK6 = ANY * 4, ANY * 3 + "01000000"
GLOBAL6 = "B80D0120" + ANY * 2 + "09000000"
MAPPED6 = ANY * 2 + "FFFF0000" + THERE


def line(
    local: str, state: str, remote: str = "", *, waiting: int = 0, uid: int = 0, inode: int = 0
) -> str:
    """A line of /proc/net/tcp, as Linux 6.1 on x86-64 prints it (net/ipv4/tcp_ipv4.c)."""
    remote = remote or f"{'0' * len(local.partition(':')[0])}:0000"
    return (
        f"   0: {local} {remote} {state} 00000000:{waiting:08X} 00:00000000 00000000"
        f" {uid:5d}        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
    )


HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
TCP = HEADER + "".join(
    [
        line(f"{ANY}:1092", LISTEN, inode=11111),
        line(f"{LOOPBACK}:1092", LISTEN, waiting=3, uid=1000, inode=22222),
        line(f"{THERE}:1092", ESTABLISHED, f"{HERE}:9C41", waiting=32, inode=33333),
        line(f"{THERE}:1092", ESTABLISHED, f"{HERE}:9C42"),
        line(f"{THERE}:1092", SYN_RECV, f"{HERE}:9C43"),
        line(f"{THERE}:1092", TIME_WAIT, f"{HERE}:9C44"),
        line(f"{THERE}:0016", ESTABLISHED, f"{HERE}:9C45", inode=44444),
    ]
)
TCP6 = HEADER + "".join(
    [
        line(f"{ANY6}:1092", LISTEN, inode=55555),
        line(f"{LOOPBACK6}:1092", LISTEN, inode=66666),
        line(f"{GLOBAL6}:1092", CLOSE_WAIT, f"{LOOPBACK6}:9C41", inode=77777),
        line(f"{MAPPED6}:1092", ESTABLISHED, f"{MAPPED6}:9C41", inode=88888),
    ]
)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    (tmp_path / "tcp").write_text(TCP)
    (tmp_path / "tcp6").write_text(TCP6)
    paths = tuple(("tcp", str(tmp_path / name)) for name in ("tcp", "tcp6"))
    monkeypatch.setattr(sockets, "_TABLES", paths)
    found = read_table()
    assert found is not None
    return found


little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the sample is of x86-64")


@little_endian
def test_the_kernels_lines_are_read(table: list[Row]) -> None:
    assert [(row.state, row.local, row.remote, row.remote_port) for row in table] == [
        ("LISTEN", "0.0.0.0", "0.0.0.0", 0),
        ("LISTEN", "127.0.0.1", "0.0.0.0", 0),
        ("ESTABLISHED", "192.168.7.20", "192.168.7.10", 40001),
        ("ESTABLISHED", "192.168.7.20", "192.168.7.10", 40002),
        ("SYN_RECV", "192.168.7.20", "192.168.7.10", 40003),
        ("TIME_WAIT", "192.168.7.20", "192.168.7.10", 40004),
        ("ESTABLISHED", "192.168.7.20", "192.168.7.10", 40005),
        ("LISTEN", "::", "::", 0),
        ("LISTEN", "::1", "::", 0),
        ("CLOSE_WAIT", "2001:db8::9", "::1", 40001),
        ("ESTABLISHED", "192.168.7.20", "192.168.7.20", 40001),
    ]
    assert {row.local_port for row in table} == {4242, 22}
    assert (table[1].waiting, table[1].uid, table[1].inode) == (3, 1000, 22222)


@little_endian
def test_who_listens_on_the_asked_ports_but_not_the_agent_itself(table: list[Row]) -> None:
    found = listeners(table, [4242], own=[11111, 55555])
    assert [(row.address, row.port, row.waiting) for row in found] == [
        ("127.0.0.1", 4242, 3),
        ("::1", 4242, 0),
    ]
    # Nobody has these made-up inodes.
    assert {(row.program, row.pid) for row in found} == {(None, None)}
    assert listeners(table, [22], own=[]) == ()


@little_endian
def test_connections_say_whether_a_program_has_taken_them(table: list[Row]) -> None:
    found = connections(table, [4242], number=7)
    assert [(row.state, row.remote_port, row.accepted) for row in found] == [
        ("ESTABLISHED", 40001, True),
        ("ESTABLISHED", 40002, False),
        ("SYN_RECV", 40003, None),
        ("CLOSE_WAIT", 40001, True),
        ("ESTABLISHED", 40001, True),
    ]
    assert {row.round for row in found} == {7}


def test_a_host_without_ipv6_has_only_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tcp").write_text(TCP)
    paths = tuple(("tcp", str(tmp_path / name)) for name in ("tcp", "no-tcp6"))
    monkeypatch.setattr(sockets, "_TABLES", paths)
    rows = read_table() or []
    assert len(rows) == 7
    listening = [row for row in rows if row.state == "LISTEN"]
    others = [row for row in rows if row.state not in ("LISTEN", "TIME_WAIT")]
    assert 0 < len(listening) < len(rows) - len(others)
    assert read_table(listening=True) == listening
    assert read_table(listening=False) == others
    assert read_table(ports=[22]) == [row for row in rows if row.local_port == 22] != []


def test_a_table_that_cannot_be_read_is_unknown_and_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_TABLES", (("tcp", str(tmp_path)),))
    assert read_table() is None


# -- this process: other tests of this run may hold the same port at another address


def at(sock: socket.socket) -> list[Listener]:
    """Return who listens on the port of `sock` at its own address."""
    read = read_udp_table if sock.type == socket.SOCK_DGRAM else read_table
    address, port = sock.getsockname()[:2]
    return [row for row in listeners(read() or (), [port], own=[]) if row.address == address]


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        sock = socket.create_server((request.param, 0), family=family, backlog=5)
    except OSError:
        pytest.skip(f"{request.param} is not an address of this host")
    # Another program's socket on the same port, which must not matter.
    with sock, socket.create_server(("127.0.0.2", sock.getsockname()[1])):
        yield sock


def test_a_real_listener_is_found_with_its_program(listener: socket.socket) -> None:
    address, port = listener.getsockname()[:2]
    (found,) = at(listener)
    assert (found.address, found.port, found.pid) == (address, port, os.getpid())
    assert found.program == Path("/proc/self/comm").read_text().strip()
    assert (found.waiting, found.backlog) == (0, 5)


def test_a_connection_that_waits_to_be_accepted_is_seen(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with socket.create_connection(listener.getsockname()[:2]) as client:
        address, own = client.getsockname()[:2]

        def seen() -> list[Connection]:
            # Another test's connection may come from the same port.
            found = connections(read_table() or (), [port], number=1)
            return [row for row in found if (row.remote_address, row.remote_port) == (address, own)]

        (found,) = at(listener)
        (waiting,) = seen()
        assert found.waiting == 1
        assert (waiting.state, waiting.accepted) == ("ESTABLISHED", False)
        with listener.accept()[0]:
            (taken,) = seen()
            assert taken.accepted is True


def test_the_ports_of_listeners_and_of_half_open_connections(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    port, inode = listener.getsockname()[1], os.fstat(listener.fileno()).st_ino
    with socket.socket(listener.family) as closed:
        closed.bind((listener.getsockname()[0], 0))
        bound = closed.getsockname()[1]
        for told in (tcp_sockets, lambda _: None):  # and where netlink cannot be asked
            monkeypatch.setattr(sockets, "tcp_sockets", told)
            # At 127.0.0.2 the neighbour's stays.
            assert port in listening_ports([inode])
            assert port in listening_ports()
            assert bound not in listening_ports()
            assert port not in half_open_ports()


@little_endian
def test_half_open_connections_are_told_from_the_table_where_netlink_is_missing(
    table: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "tcp_sockets", lambda _: None)
    assert (
        half_open_ports() == {row.local_port for row in table if row.state == "SYN_RECV"} != set()
    )
    assert listening_ports([11111]) == {4242}
    assert listening_ports([11111, 22222, 55555, 66666]) == set()


def test_an_own_listener_is_left_out(listener: socket.socket) -> None:
    inode = os.fstat(listener.fileno()).st_ino
    address, port = listener.getsockname()[:2]
    left = {row.address for row in listeners(read_table() or (), [port], own=[inode])}
    assert address not in left
    assert "127.0.0.2" in left


@pytest.mark.parametrize("only", [False, True])
def test_whether_ipv6_takes_ipv4_as_well_is_known(*, only: bool) -> None:
    try:
        sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=not only)
    except (OSError, ValueError):
        pytest.skip("no IPv6 on this host")
    with sock:
        (found,) = at(sock)
        assert (found.address, found.v6only) == ("::", only)


# UDP


def datagram_line(local: str, state: str, *, waiting: int, inode: int, drops: int) -> str:
    """A line of /proc/net/udp, as Linux 6.1 prints it (net/ipv4/udp.c, udp4_format_sock)."""
    remote = f"{'0' * len(local.partition(':')[0])}:0000"
    return (
        f"  123: {local} {remote} {state} 00000000:{waiting:08X} 00:00000000 00000000"
        f"     0        0 {inode} 2 0000000000000000 {drops}\n"
    )


UNCONNECTED = "07"


@little_endian
def test_sockets_that_take_datagrams_from_anybody_are_listeners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        datagram_line(f"{THERE}:1092", UNCONNECTED, waiting=768, inode=1, drops=5),
        datagram_line(f"{ANY}:1092", ESTABLISHED, waiting=0, inode=2, drops=0),
    ]
    (tmp_path / "udp").write_text(HEADER + "".join(lines))
    paths = (("udp", str(tmp_path / "udp")), ("udp", str(tmp_path / "missing")))
    monkeypatch.setattr(sockets, "_UDP_TABLES", paths)
    (row,) = list(read_udp_table() or [])
    assert (row.transport, row.state, row.local, row.local_port) == (
        "udp",
        "LISTEN",
        "192.168.7.20",
        4242,
    )
    assert (row.waiting, row.drops, row.inode) == (768, 5, 1)
    assert connections([row], None, 1) == ()


@pytest.mark.parametrize("only", [True, False])
def test_a_real_udp_socket_is_seen_with_what_waits_in_it(*, only: bool) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
        sock.bind(("::", 0))
        port = sock.getsockname()[1]
        own = os.fstat(sock.fileno()).st_ino
        (found,) = at(sock)
        assert (found.transport, found.address, found.pid) == ("udp", "::", os.getpid())
        assert found.v6only is only
        others = listeners(read_udp_table() or (), {port}, {own})
        assert "::" not in [row.address for row in others]
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
            other.sendto(b"", ("::1", port))
        (row,) = (row for row in read_udp_table() or () if row.inode == own)
        assert row.waiting > 0  # an empty datagram counts with what the kernel needs for it
        sock.recv(1)
        (row,) = (row for row in read_udp_table() or () if row.inode == own)
        assert row.waiting == 0


def test_a_socket_that_waits_for_answers_is_no_listener_of_its_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockets, "given_ports", lambda: (40_000, 50_000))
    monkeypatch.setattr(sockets, "_programs", lambda inodes: dict.fromkeys(inodes, 1))
    monkeypatch.setattr(sockets, "_names", lambda _pid: ("backupd",))
    rows = [
        Row(transport, "LISTEN", "0.0.0.0", port, "", 0, 0, 0, port)
        for transport in ("tcp", "udp")
        for port in (4250, 45_000)
    ]
    found = service_listeners(rows, "backupd", ())
    assert [(row.transport, row.port) for row in found] == [
        ("tcp", 4250),
        ("tcp", 45_000),
        ("udp", 4250),
    ]
