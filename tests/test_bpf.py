"""The packet witness's kernel filter, run here in a small interpreter of classic BPF."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bothends.witness.bpf import MAX_EXACT_PORTS, MAX_RANGES, Instruction, request_filter
from bothends_protocol.tags import FIRST_TAG, LAST_TAG, TRACE_TAG
from packets_by_hand import ACK, FIN, ICMP, ICMP6, RST, SYN, TCP, UDP, icmp, ip, tcp, udp

FOUR, SIX = ("192.0.2.1", "192.0.2.9"), ("2001:db8::1", "2001:db8::9")
FEW = [4242, 80]
MANY = range(1000, 1000 + MAX_EXACT_PORTS + 1)

BPF_MAXINSNS = 4096
"""linux/bpf_common.h: the kernel takes no longer program."""


class OutsideError(Exception):
    """A load beyond the packet: the kernel drops it then."""


def load(packet: bytes, at: int, size: int) -> int:
    if at + size > len(packet):
        raise OutsideError
    return int.from_bytes(packet[at : at + size], "big")


# linux/bpf_common.h, linux/filter.h: the instructions that the program uses.
LOADS = {0x30: (0, 1), 0x28: (0, 2), 0x50: (1, 1), 0x48: (1, 2)}
"""ld: whether X is added to the place, and the size."""
JUMPS: dict[int, Callable[[int, int], bool]] = {
    0x15: lambda a, k: a == k,
    0x35: lambda a, k: a >= k,
    0x45: lambda a, k: bool(a & k),
}
LDX_MSH, LDX_IMM, AND, RET = 0xB1, 0x01, 0x54, 0x06


def run(program: list[Instruction], packet: bytes) -> int:
    """Return how many bytes of `packet` the program lets through."""
    a = x = at = 0
    with contextlib.suppress(OutsideError):
        while program[at][0] != RET:
            code, true, false, k = program[at]
            at += 1
            if code in LOADS:
                indexed, size = LOADS[code]
                a = load(packet, indexed * x + k, size)
            elif code in JUMPS:
                at += true if JUMPS[code](a, k) else false
            elif code == LDX_MSH:
                x = 4 * (load(packet, k, 1) & 0x0F)
            elif code == LDX_IMM:
                x = k
            else:
                assert code == AND, f"an instruction that is not used: {code:#x}"
                a &= k
        return program[at][3]
    return 0


def taken(ports: list[int] | range, packet: bytes) -> bool:
    amount = run(request_filter(ports), packet)
    assert amount == 0 or amount >= len(packet)
    return amount > 0


both_families = pytest.mark.parametrize("ends", [FOUR, SIX])
few_or_many = pytest.mark.parametrize(
    ("ports", "asked"), [(FEW, 4242), (FEW, 80), ([9], 9), (MANY, 1000), (MANY, 1060)]
)


@both_families
@few_or_many
@pytest.mark.parametrize("flags", [SYN, SYN | ACK, RST, RST | ACK])
def test_requests_and_their_answers_are_taken(
    ends: tuple[str, str], ports: list[int], asked: int, flags: int
) -> None:
    assert taken(ports, ip(*ends, TCP, tcp(40001, asked, flags)))
    assert taken(ports, ip(*ends, TCP, tcp(asked, 40001, flags)))


@both_families
@few_or_many
@pytest.mark.parametrize("flags", [0, ACK, FIN | ACK])
def test_what_a_busy_host_has_most_of_stays_in_the_kernel(
    ends: tuple[str, str], ports: list[int], asked: int, flags: int
) -> None:
    assert not taken(ports, ip(*ends, TCP, tcp(40001, asked, flags) + bytes(1000)))
    assert not taken(ports, ip(*ends, UDP, udp(40001, asked)))


@both_families
def test_requests_to_other_ports_stay_in_the_kernel(ends: tuple[str, str]) -> None:
    assert not taken(FEW, ip(*ends, TCP, tcp(40001, 443, SYN)))


def offers(size: int) -> bytes:
    """The option by which a SYN says how large its segments may be (RFC 9293, 3.2)."""
    return b"\x02\x04" + size.to_bytes(2, "big")


@both_families
@pytest.mark.parametrize("flags", [SYN, SYN | ACK])
@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (FIRST_TAG, True),
        (777, True),
        (LAST_TAG, True),
        (FIRST_TAG - 1, False),
        (LAST_TAG + 1, False),
        (TRACE_TAG, False),
        (1200, False),
        (1460, False),
        (0, False),
        (65535, False),
    ],
)
def test_a_request_with_a_tag_is_taken_whatever_its_port(
    ends: tuple[str, str], flags: int, size: int, *, wanted: bool
) -> None:
    request = tcp(40001, 443, flags, options=offers(size))
    assert taken(FEW, ip(*ends, TCP, request)) == wanted
    assert taken([], ip(*ends, TCP, request))


@both_families
@pytest.mark.parametrize("flags", [0, ACK, FIN | ACK])
def test_what_is_no_request_has_no_tag(ends: tuple[str, str], flags: int) -> None:
    assert not taken(FEW, ip(*ends, TCP, tcp(40001, 443, flags, options=offers(777))))


@both_families
@pytest.mark.parametrize(
    "options",
    [
        b"",
        b"\x01" + offers(777),
        b"\x08\x0a" + bytes(8) + offers(777),
        b"\x02\x05" + (777).to_bytes(2, "big"),
        b"\x02\x04",
    ],
    ids=["none", "behind padding", "behind another", "of another length", "cut"],
)
def test_without_a_tag_in_the_usual_place_other_ports_stay_in_the_kernel(
    ends: tuple[str, str], options: bytes
) -> None:
    assert not taken(FEW, ip(*ends, TCP, tcp(40001, 443, SYN, options=options)))


def test_a_tag_is_found_behind_the_options_of_ip() -> None:
    request = tcp(40001, 443, SYN, options=offers(777))
    assert taken(FEW, ip(*FOUR, TCP, request, options=b"\x01" * 40))
    assert not taken(FEW, ip(*FOUR, TCP, request, fragment=0x2001))


@both_families
def test_with_many_ports_all_requests_are_taken(ends: tuple[str, str]) -> None:
    assert taken(MANY, ip(*ends, TCP, tcp(40001, 443, SYN)))


@pytest.mark.parametrize("ports", [FEW, MANY])
@pytest.mark.parametrize(
    ("ends", "protocol", "kind", "wanted"),
    [
        *((FOUR, ICMP, kind, True) for kind in (3, 4, 11, 12)),
        *((FOUR, ICMP, kind, False) for kind in (0, 8, 5, 9, 13)),
        *((SIX, ICMP6, kind, True) for kind in (1, 2, 3, 4, 127)),
        *((SIX, ICMP6, kind, False) for kind in (128, 129, 133, 135, 255)),
    ],
)
def test_icmp_errors_are_taken_and_other_icmp_is_not(
    ports: list[int], ends: tuple[str, str], protocol: int, kind: int, *, wanted: bool
) -> None:
    quoted = ip(*ends, TCP, tcp(40001, 4242, SYN))
    assert taken(ports, ip(*ends, protocol, icmp(kind, 0, quoted))) == wanted


@pytest.mark.parametrize("ports", [FEW, MANY])
def test_options_do_not_hide_the_ports(ports: list[int]) -> None:
    request = tcp(40001, next(iter(ports)), SYN)
    assert taken(ports, ip(*FOUR, TCP, request, options=b"\x01" * 40))


@pytest.mark.parametrize("ports", [FEW, MANY])
def test_only_the_first_fragment_has_ports(ports: list[int]) -> None:
    request = tcp(40001, next(iter(ports)), SYN)
    assert taken(ports, ip(*FOUR, TCP, request, fragment=0x2000))
    assert taken(ports, ip(*FOUR, TCP, request, fragment=0x4000)), "do not fragment"
    assert not taken(ports, ip(*FOUR, TCP, request, fragment=0x2001))
    assert not taken(ports, ip(*FOUR, TCP, request, fragment=0x0100))


@pytest.mark.parametrize("ports", [[], FEW, MANY])
@given(packet=st.binary(max_size=100))
def test_any_packet_ends_the_program(ports: list[int], packet: bytes) -> None:
    assert run(request_filter(ports), packet) in (0, 0xFFFF)


@given(st.sets(st.integers(1, 65535), max_size=MAX_EXACT_PORTS + 3))
@example(set(range(1, MAX_EXACT_PORTS + 1)))
@example(set(range(1, MAX_EXACT_PORTS + 2)))
def test_the_kernel_would_take_the_program(ports: set[int]) -> None:
    program = request_filter(ports)
    assert 0 < len(program) <= BPF_MAXINSNS
    for place, (code, true, false, k) in enumerate(program):
        assert 0 <= code <= 0xFFFF
        assert 0 <= k < 2**32
        # Jumps go forward only, within their byte and within the program.
        assert 0 <= true <= 255
        assert 0 <= false <= 255
        assert place + 1 + max(true, false) < len(program) or code == RET
    assert program[-1][0] == RET


@given(st.sets(st.integers(1, 65535), min_size=1, max_size=MAX_EXACT_PORTS), st.integers(1, 65535))
def test_exactly_the_asked_ports_are_taken(ports: set[int], port: int) -> None:
    request = ip(*FOUR, TCP, tcp(0, port, SYN))
    assert (run(request_filter(ports), request) > 0) == (port in ports)


# Datagrams

SPREAD = range(1000, 9000, 100)
"""More ranges than are compared one by one."""


@pytest.mark.parametrize("ends", [FOUR, SIX])
@pytest.mark.parametrize("tcp_ports", [(), FEW, MANY])
@pytest.mark.parametrize(
    ("asked", "port", "wanted"),
    [
        ((4242,), 4242, True),
        ((4242,), 4241, False),
        ((4242,), 4243, False),
        (range(4000, 4101), 4000, True),
        (range(4000, 4101), 4100, True),
        (range(4000, 4101), 4101, False),
        ((53, 4242, 4243, 65535), 65535, True),
        ((53, 4242, 4243, 65535), 4243, True),
        ((53, 4242, 4243, 65535), 4244, False),
        (SPREAD, 1000, True),
        (SPREAD, 999, False),
        (SPREAD, 8900, True),
        (SPREAD, 8901, False),
    ],
)
def test_datagrams_from_and_to_the_asked_ports_are_taken(
    ends: tuple[str, str], tcp_ports: list[int], asked: tuple[int, ...], port: int, *, wanted: bool
) -> None:
    program = request_filter(tcp_ports, asked)
    for ports in ((50_123, port), (port, 50_123)):
        packet = ip(*ends, UDP, udp(*ports))
        assert bool(run(program, packet)) is wanted
    assert not run(program, ip(*ends, UDP, udp(50_123, 80)))


@given(
    ports=st.sets(st.integers(1, 65535), max_size=MAX_EXACT_PORTS + 3),
    asked=st.sets(st.integers(1, 65535), min_size=1, max_size=60),
    port=st.integers(1, 65535),
)
def test_the_kernel_would_take_the_program_with_datagrams(
    ports: set[int], asked: set[int], port: int
) -> None:
    program = request_filter(ports, asked)
    assert len(program) <= BPF_MAXINSNS
    assert all(0 <= jump < 256 for _, true, false, _ in program for jump in (true, false))
    taken_at_all = bool(run(program, ip(*FOUR, UDP, udp(0, port))))
    assert taken_at_all or port not in asked
    if len(asked) <= MAX_RANGES:
        assert taken_at_all == (port in asked)


def test_without_udp_ports_no_datagram_is_taken() -> None:
    for ports in ((), FEW, MANY):
        assert not run(request_filter(ports), ip(*FOUR, UDP, udp(4242, 4242)))
