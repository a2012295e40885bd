"""Real firewall front-ends on lab hosts: ufw, firewalld and the iptables of old.

Each is the program of Debian's package, run inside the host: its configuration
goes to the host's own /etc, its rules to the host's own kernel tables.
"""

from __future__ import annotations

import time

from .faults import Fault
from .hosts import Host, LabError, Process
from .network import DEVICE, Stage
from .services import Daemon, message_bus

__all__ = ["firewalld", "iptables_legacy", "ufw"]

READY_TIMEOUT = 20.0
_UFW_BEFORE = ("/etc/ufw/before.rules", "/etc/ufw/before6.rules")
_OWN_PYTHON = {"PYTHONPATH": ""}
"""They are Debian's own programs, with the packages of Debian's own interpreter."""


def ufw(*commands: str, on: str = "destination", inward: str = "deny", mdns: bool = True) -> Fault:
    """Switch ufw on after these commands: ``ufw("allow 4242/tcp")``.

    As it comes it lets mDNS in; ``mdns=False`` takes that away.
    """

    def enable(stage: Stage) -> None:
        host = stage.host(on)
        _only_inside(host)
        for path in () if mdns else _UFW_BEFORE:
            kept = [line for line in host.read(path).splitlines() if "--dport 5353" not in line]
            host.write(path, "\n".join([*kept, ""]), mode=0o640)
        for command in (f"default {inward} incoming", *commands, "--force enable"):
            host.run(["ufw", *command.split()], env=_OWN_PYTHON)

    enable.__name__ = "_".join(("ufw", *commands)).replace(" ", "_")
    return enable


def iptables_legacy(*rules: str, on: str = "destination") -> Fault:
    """Rules of the older kernel interface, which ``nft list ruleset`` does not show."""

    def append(stage: Stage) -> None:
        for rule in rules:
            stage.host(on).run(["iptables-legacy", *rule.split()])

    append.__name__ = "iptables_legacy"
    return append


def firewalld(*options: str, on: str = "destination", zone: str = "public") -> Daemon:
    """Run firewalld with the card in ``zone``, set up before: ``firewalld("--add-port=4242/tcp")``.

    The options are those of firewall-offline-cmd about a zone.
    """

    def start(stage: Stage) -> Process:
        host = stage.host(on)
        _only_inside(host)
        for option in (f"--add-interface={DEVICE}", *options):
            host.run(["firewall-offline-cmd", f"--zone={zone}", option], env=_OWN_PYTHON)
        message_bus(host)
        daemon = host.popen(["firewalld", "--nofork", "--nopid"], env=_OWN_PYTHON)
        _await_firewalld(host, daemon)
        return daemon

    start.__name__ = f"firewalld_{zone}"
    return start


def _await_firewalld(host: Host, daemon: Process) -> None:
    """Ask until it says that it runs; each question takes a tenth of a second by itself."""
    deadline = time.monotonic() + READY_TIMEOUT
    while host.run(["firewall-cmd", "--state"], env=_OWN_PYTHON, check=False).code != 0:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"on {host.name}: firewalld does not run:\n{daemon.stderr}")


def _only_inside(host: Host) -> None:
    """Refuse where what a front-end writes to /etc would be the machine's."""
    if host.run(["mountpoint", "--quiet", "/etc"], check=False).code != 0:
        raise LabError(f"on {host.name}: /etc is the machine's own (no overlay file system here)")
