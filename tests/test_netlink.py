"""Questions to the real kernel of this host; nothing is changed and nothing leaves it."""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends.witness import netlink
from bothends.witness.netlink import (
    NetlinkError,
    bound_sockets,
    find_route,
    listening_queues,
    neighbour_state,
    returns_from,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rtnetlink is Linux's own")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3"])
def test_the_way_to_loopback(address: str) -> None:
    hop = find_route(address)
    assert hop is not None
    assert (hop.interface, hop.gateway) == ("lo", None)
    assert hop.source == "127.0.0.1"


def test_the_way_to_loopback_of_ipv6() -> None:
    try:
        hop = find_route("::1")
    except NetlinkError:
        pytest.skip("no IPv6 on this host")
    assert hop is not None
    assert hop.interface == "lo"


def test_an_error_has_the_name_of_its_number() -> None:
    assert NetlinkError(101).name == "ENETUNREACH"
    assert NetlinkError(4095).name == "4095"


@pytest.mark.parametrize("source", ["127.0.0.1", "224.0.0.1"])
def test_a_question_that_makes_no_sense_is_no_word_of_the_reverse_path_filter(source: str) -> None:
    # The host's own packets never take that path, and nobody sends from a multicast address
    # (RFC 1122, 3.2.1.3): the kernel says EINVAL to both.
    assert returns_from(source, "127.0.0.1", "lo") is None


@pytest.mark.parametrize(
    ("source", "local", "interface"),
    [("::1", "::1", "lo"), ("127.0.0.1", "127.0.0.1", "nonesuch")],
)
def test_what_cannot_be_asked_is_unknown(source: str, local: str, interface: str) -> None:
    assert returns_from(source, local, interface) is None


def test_a_neighbour_that_was_never_asked_for_is_unknown() -> None:
    assert neighbour_state("127.9.9.9", "lo") == ("unknown", None)
    assert neighbour_state("127.9.9.9", "nonesuch") is None


def test_the_queue_of_a_listening_socket() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=7) as sock:
        inode = os.fstat(sock.fileno()).st_ino
        before = listening_queues({inode})[inode]
        with socket.create_connection(sock.getsockname()):
            after = listening_queues({inode})[inode]
    assert (before.waiting, before.backlog, before.v6only) == (0, 7, None)
    assert after.waiting == 1
    assert listening_queues({inode}) == {}


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("device", [None, "lo"])
def test_the_interface_to_which_a_socket_is_bound(
    family: socket.AddressFamily, kind: socket.SocketKind, device: str | None
) -> None:
    with socket.socket(family, kind) as sock:
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        sock.bind(("", 0))
        inode = os.fstat(sock.fileno()).st_ino
        if kind == socket.SOCK_STREAM:
            sock.listen()
            assert listening_queues({inode})[inode].device == device
        else:
            found = bound_sockets()[inode]
            assert found.device == device
            assert found.v6only == (None if family == socket.AF_INET else False)


def test_an_interface_that_stands_for_others_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netlink, "_INTERFACES", tmp_path)
    for name in ("eth0", "vrf-blue", "br0", "eth0.5"):
        (tmp_path / name).mkdir()
    for upper, lower in (("vrf-blue", "eth1"), ("br0", "eth2"), ("eth0.5", "eth0")):
        (tmp_path / upper / f"lower_{lower}").mkdir()
        if upper != "eth0.5":
            (tmp_path / upper / f"lower_{lower}" / "master").touch()
    (tmp_path / "br0" / "bridge").mkdir()
    told = {path.name: netlink._takes_for_others(path.name) for path in tmp_path.iterdir()}
    assert told == {"eth0": False, "vrf-blue": True, "br0": False, "eth0.5": False}


def test_where_there_is_no_netlink_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_possible", lambda: False)
    assert find_route("127.0.0.1") is None
    assert returns_from("127.0.0.1", "127.0.0.1", "lo") is None
    assert neighbour_state("127.0.0.1", "lo") is None
    assert listening_queues({1}) == {}


def refuse(*_: object, **__: object) -> socket.socket:
    raise PermissionError(1, "no")


def test_where_a_sandbox_forbids_it_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", refuse)
    assert find_route("127.0.0.1") is None
    assert listening_queues({1}) == {}


# -- the kernel's answers, as bytes


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=9)), max_size=6))
def test_attributes_are_read_as_they_were_written(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink._attribute(kind, value) for kind, value in pairs)
    assert len(data) % 4 == 0
    assert netlink.attributes_of(data) == dict(pairs)


@given(st.binary(max_size=64))
def test_any_answer_ends(data: bytes) -> None:
    answers: list[tuple[int, bytes]] = []
    netlink.attributes_of(data)
    try:
        netlink._read(data, answers)
    except NetlinkError:
        return
    assert sum(16 + len(body) for _, body in answers) <= len(data)


def test_an_error_in_the_answer_is_raised() -> None:
    answer = struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -101)
    with pytest.raises(NetlinkError) as caught:
        netlink._read(answer, [])
    assert caught.value.name == "ENETUNREACH"
