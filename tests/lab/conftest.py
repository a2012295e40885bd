"""Fixtures of the lab: whether it can run here, and that nothing stays of it.

Where namespaces or nftables are missing, its tests are skipped with the reason;
in CI that is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from . import faults
from .hosts import Lab, LabError
from .network import Builder, Stage, lan

TOOLS = {
    "nft": "nftables",
    "ip": "iproute2",
    "bridge": "iproute2",
    "ping": "iputils-ping",
    "tcpdump": "tcpdump",
    "avahi-daemon": "avahi-daemon",
    "avahi-browse": "avahi-utils",
    "dbus-daemon": "dbus",
    "tc": "iproute2",
    "iptables-legacy": "iptables",
    "ufw": "ufw",
    "firewalld": "firewalld",
    "systemd-socket-activate": "systemd",
    "miniupnpd": "miniupnpd-nftables",
    "turnserver": "coturn",
}
"""Programs, and the Debian packages that have them."""


def _why_not() -> str | None:
    """What keeps the lab from running here, or None."""
    if os.geteuid() != 0:
        return "not root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = sorted(
        {package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)}
    )
    if missing:
        return f"not installed: {' '.join(missing)}"
    try:
        with Lab() as lab:
            faults.destination_drop()(lan(lab))
            lab.host("source").python("import bothends", as_user=True)
    except (LabError, TimeoutError) as error:
        return str(error)
    return None


@pytest.fixture(scope="session")
def _lab_works() -> None:
    reason = _why_not()
    if reason and os.environ.get("CI"):
        pytest.fail(f"the lab cannot run here: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"the lab cannot run here: {reason}")


@pytest.fixture
def lab(_lab_works: None) -> Iterator[Lab]:
    """A lab without hosts yet; afterwards it is gone, wholly."""
    lab = Lab()
    with lab:
        yield lab
    assert lab.left_behind() == []


@pytest.fixture
def stage_of(lab: Lab) -> Callable[[Builder], Stage]:
    """Builds a network in the test's lab."""
    return lambda builder: builder(lab)


@pytest.fixture
def stage(lab: Lab) -> Stage:
    """Two hosts on one segment."""
    return lan(lab)
