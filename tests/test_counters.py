"""The kernel's counters: taken apart rightly, and read again and again."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from bothends.witness.counters import COUNTERS, Sampler, parse_counters

SNMP = b"""Ip: Forwarding DefaultTTL InReceives InDelivers OutRequests OutTransmits
Ip: 1 64 7 5 4 3
Icmp: InMsgs OutDestUnreachs
Icmp: 9 2
Tcp: RtoAlgorithm MaxConn InSegs OutSegs OutRsts
Tcp: 1 -1 11 12 1
"""
NETSTAT = b"""TcpExt: SyncookiesSent IPReversePathFilter ListenOverflows ListenDrops
TcpExt: 0 21 22 23
IpExt: InNoRoutes InOctets
IpExt: 0 99
"""
SNMP6 = b"""Ip6InReceives                   \t31
Ip6InMcastPkts                  \t4
Icmp6OutDestUnreachs            \t6
Icmp6OutType135                 \t8
"""
DEV = b"""Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs
    lo:    3193      29    0    0    0     0          0         0     3193      29    0
  eth0: 1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0
  eth1:1000 1 0 0 0 0 0 0 2000 2 0 0 0 0 0 0
"""


def test_all_four_files_are_taken_apart() -> None:
    assert parse_counters(SNMP + NETSTAT + SNMP6 + DEV) == {
        "Ip.InReceives": 7,
        "Ip.InDelivers": 5,
        "Ip.OutRequests": 4,
        "Ip.OutTransmits": 3,
        "Icmp.OutDestUnreachs": 2,
        "Tcp.InSegs": 11,
        "Tcp.OutSegs": 12,
        "Tcp.OutRsts": 1,
        "IpExt.InNoRoutes": 0,
        "TcpExt.IPReversePathFilter": 21,
        "TcpExt.ListenOverflows": 22,
        "TcpExt.ListenDrops": 23,
        "Ip6.InReceives": 31,
        "Ip6.InMcastPkts": 4,
        "Icmp6.OutDestUnreachs": 6,
        "dev.rx": 11,
        "dev.tx": 22,
    }


def test_a_card_that_stands_on_another_does_not_count_its_packets_again() -> None:
    found = parse_counters(DEV, stacked={"eth1"})
    assert found == {"dev.rx": 10, "dev.tx": 20}


def test_the_card_of_the_tested_address_is_counted_by_itself_too() -> None:
    found = parse_counters(DEV, card="eth1")
    assert found == {"card.rx": 1, "card.tx": 2, "dev.rx": 11, "dev.tx": 22}


def test_a_kernel_without_a_counter_has_none() -> None:
    assert "Ip.OutTransmits" not in parse_counters(SNMP.replace(b" OutTransmits", b""))


def test_loopback_is_no_card() -> None:
    only = (
        b"    lo:    3193      29    0    0    0     0          0         0     3193      29    0\n"
    )
    assert parse_counters(only) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="the counters are Linux's")
async def test_a_sampler_reads_from_before_the_mark_until_it_is_stopped() -> None:
    sampler = Sampler(time.monotonic)
    assert sampler.start()
    sampler.mark()
    for _ in range(5):
        await asyncio.sleep(0)
    samples = sampler.stop(3)
    assert samples is not None
    assert samples.round == 3
    assert samples.times[0] <= 0 <= samples.times[-1]
    assert list(samples.times) == sorted(samples.times)
    assert set(samples.values) <= COUNTERS
    assert {"Ip.InReceives", "Tcp.InSegs"} <= set(samples.values)
    assert all(len(row) == len(samples.times) for row in samples.values.values())


@pytest.mark.skipif(sys.platform != "linux", reason="the counters are Linux's")
async def test_a_sampler_that_was_never_marked_has_nothing_to_say() -> None:
    sampler = Sampler(time.monotonic)
    sampler.start()
    assert sampler.stop(1) is None
