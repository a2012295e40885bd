"""Each worker's own network: nobody else is on it, and there is what tests need."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bothends.interfaces import interface_addresses

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs network namespaces, as root"
)


def network_of(process: int | str) -> Path:
    return Path(f"/proc/{process}/ns/net").readlink()


def test_a_test_is_on_no_network_of_the_machine() -> None:
    assert network_of("thread-self") != network_of(os.getppid())


def test_what_it_starts_is_on_the_same() -> None:
    with subprocess.Popen(["sleep", "60"]) as started:
        try:
            assert network_of(started.pid) == network_of("thread-self")
        finally:
            started.kill()


def test_it_has_loopback_and_a_card_of_both_ip_versions() -> None:
    found = {(item.interface, item.address) for item in interface_addresses()}
    assert {("eth0", "192.168.8.8"), ("eth0", "fd08::8")} <= found
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((address, 0), family=family) as server:
            socket.create_connection(server.getsockname()[:2]).close()
