"""Packets made by hand, as AF_PACKET with SOCK_DGRAM gives them: from the IP header on."""

from __future__ import annotations

import ipaddress
import struct

__all__ = ["ACK", "FIN", "ICMP", "ICMP6", "RST", "SYN", "TCP", "UDP", "icmp", "ip", "tcp", "udp"]

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58


def tcp(
    source_port: int,
    destination_port: int,
    flags: int,
    *,
    seq: int = 0,
    ack: int = 0,
    options: bytes = b"",
) -> bytes:
    """A TCP header (RFC 9293, 3.1)."""
    options += bytes(-len(options) % 4)
    offset = 5 + len(options) // 4
    head = struct.pack(
        ">HHIIBBHHH", source_port, destination_port, seq, ack, offset << 4, flags, 64240, 0, 0
    )
    return head + options


def udp(source_port: int, destination_port: int) -> bytes:
    """A UDP header (RFC 768)."""
    return struct.pack(">HHHH", source_port, destination_port, 8, 0)


def icmp(kind: int, code: int, quoted: bytes) -> bytes:
    """An ICMP error (RFC 792, RFC 4443) that quotes a packet."""
    return struct.pack(">BBHI", kind, code, 0, 0) + quoted


def ip(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    """An IPv4 (RFC 791) or IPv6 (RFC 8200) packet; `fragment` is the IPv4 flags and offset."""
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    if ":" in source:
        return struct.pack(">IHBB", 6 << 28, len(payload), protocol, ttl) + ends + payload
    words = 5 + len(options) // 4
    size = words * 4 + len(payload)
    header = struct.pack(">BBHHHBBH", 4 << 4 | words, 0, size, 7, fragment, ttl, protocol, 0)
    return header + ends + options + payload
