"""Tries a firewall command on a real firewall, in namespaces of its own.

Run as `unshare --net --mount --pid --fork --kill-child python firewall_driver.py`
with a JSON order on standard input, so that the rules, the files of ufw and
firewalld, the daemons and the network are gone with the process:

    {"tool": "nftables", "mode": "in", "version": 4, "commands": [["nft", ...], ...]}

A firewall that blocks is set up on this host (see `MODES`), with a second host
behind a veth pair. The answer on standard output is
`{"before": bool, "results": [[status, output], ...], "after": bool}`: whether a
connection to port 4242 came about before and after the commands. Mode `parse`
makes no connection.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

PORT = 4242
HERE = {4: "10.99.0.1", 6: "fd99::1"}
THERE = {4: "10.99.0.2", 6: "fd99::2"}
TIMEOUT = 0.4
"""Seconds for a connection on a veth pair: a thousand times what it needs."""

PATIENCE = 10.0
"""Seconds until one that should come about has done so: links and neighbours come up in the
background, and on a busy machine an attempt may be late."""

MODES = {
    "in": "requests to this host are dropped",
    "out": "requests from this host are dropped",
    "reply-in": "answers to this host are dropped",
    "reply-out": "answers from this host are dropped",
    "parse": "nothing is tried",
}

_PEER = """
import socket, sys
for line in sys.stdin:
    verb, address = line.split()
    if verb == "listen":
        keep = socket.create_server((address, 4242), family=socket.AF_INET6, dualstack_ipv6=True)
        print("ok", flush=True)
    else:
        try:
            socket.create_connection((address, 4242), timeout=0.4).close()
            print("ok", flush=True)
        except OSError:
            print("no", flush=True)
"""


def run(*argv: str) -> None:
    """Run a command of the set-up; raise with its words where it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv}: {done.stdout}{done.stderr}")


class Peer:
    """The second host: a process in a network namespace of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-c", _PEER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        own = Path("/proc/self/ns/net").stat().st_ino
        namespace = Path(f"/proc/{self._process.pid}/ns/net")
        while namespace.stat().st_ino == own:
            time.sleep(0.002)
        run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        run("ip", "link", "set", "v1", "netns", str(self._process.pid))
        inside = ("nsenter", "--net", "--target", str(self._process.pid))
        for prefix, name, ends in (((), "v0", HERE), (inside, "v1", THERE)):
            run(*prefix, "ip", "link", "set", "lo", "up")
            run(*prefix, "ip", "address", "add", f"{ends[4]}/24", "dev", name)
            run(*prefix, "ip", "address", "add", f"{ends[6]}/64", "dev", name, "nodad")
            run(*prefix, "ip", "link", "set", name, "up")

    def ask(self, verb: str, address: str) -> bool:
        """Let the peer `listen` or `connect`; return whether it could."""
        pipe, answer = self._process.stdin, self._process.stdout
        if pipe is None or answer is None:
            raise RuntimeError("the peer has no pipes")
        pipe.write(f"{verb} {address}\n")
        pipe.flush()
        return answer.readline().strip() == "ok"


def private_files() -> None:
    """Give this process a /run and files of ufw and firewalld that nobody else sees."""
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "proc", "proc", "/proc")
    run("mount", "-t", "tmpfs", "none", "/run")
    Path("/run/dbus").mkdir()
    # /etc/default/ufw is where `ufw default` writes.
    for number, name in enumerate(("/etc/ufw", "/etc/firewalld", "/etc/default/ufw")):
        if Path(name).exists():
            copy = f"/run/copy{number}"
            run("cp", "-a", name, copy)
            run("mount", "--bind", copy, name)


def block_nftables(mode: str) -> None:
    """Block with the usual table of a hand-written nftables.conf."""
    drops = {"in": "input", "reply-in": "input", "out": "output", "reply-out": "output"}
    lines = ["table inet filter {"]
    for hook in ("input", "output"):
        policy = "drop" if drops.get(mode) == hook else "accept"
        lines.append(f"chain {hook} {{ type filter hook {hook} priority 0; policy {policy};")
        lines.append("meta l4proto ipv6-icmp accept")
        if mode in ("in", "out"):
            lines.append("ct state established,related accept")
        lines.append("}")
    lines.append("}")
    run("nft", "\n".join(lines))


def block_iptables(mode: str) -> None:
    """Block by the policy of a chain, for both IP versions."""
    chain = "INPUT" if mode in ("in", "reply-in", "parse") else "OUTPUT"
    for tool, icmp in (("iptables", "icmp"), ("ip6tables", "ipv6-icmp")):
        run(tool, "-A", chain, "-p", icmp, "-j", "ACCEPT")
        run(tool, "-P", chain, "DROP")


def block_ufw(mode: str) -> None:
    """Block by the defaults of ufw."""
    run("ufw", "--force", "enable")
    if mode == "out":
        run("ufw", "default", "deny", "outgoing")


def block_firewalld(mode: str) -> None:
    """Start a real firewalld on a bus of its own; its default zone denies."""
    run("dbus-daemon", "--system", "--fork")
    quiet = subprocess.DEVNULL
    subprocess.Popen(["firewalld", "--nofork", "--nopid"], stdout=quiet, stderr=quiet)
    ask = ["firewall-cmd", "--state"]
    deadline = time.monotonic() + 20
    while subprocess.run(ask, stdout=quiet, stderr=quiet, check=False).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError("firewalld does not start")
        time.sleep(0.1)
    if mode in ("out", "parse"):
        policy = ("firewall-cmd", "--permanent", "--policy=bothends-test")
        run("firewall-cmd", "--permanent", "--new-policy=bothends-test")
        run(*policy, "--add-ingress-zone=HOST")
        run(*policy, "--add-egress-zone=ANY")
        run(*policy, "--set-target=DROP")
        run("firewall-cmd", "--reload")


BLOCK = {
    "nftables": block_nftables,
    "iptables": block_iptables,
    "ufw": block_ufw,
    "firewalld": block_firewalld,
}


def connects(peer: Peer, mode: str, version: int) -> bool:
    """Return whether a connection in the direction of `mode` comes about."""
    if mode in ("in", "reply-out"):
        return peer.ask("connect", HERE[version])
    try:
        socket.create_connection((THERE[version], PORT), timeout=TIMEOUT).close()
    except OSError:
        return False
    return True


def connects_soon(peer: Peer, mode: str, version: int) -> bool:
    """Return whether a connection comes about within `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not connects(peer, mode, version):
        if time.monotonic() > deadline:
            return False
    return True


def serve() -> None:
    """Listen on this host for as long as it lives."""
    server = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)

    def accept() -> None:
        while True:
            server.accept()[0].close()

    threading.Thread(target=accept, daemon=True).start()


def execute(argv: list[str]) -> tuple[int, str]:
    """Return status and output of a command under test."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def main() -> None:
    """Carry out the order on standard input."""
    order = json.load(sys.stdin)
    mode, version = order["mode"], order["version"]
    os.environ["LC_ALL"] = "C"
    private_files()
    run("ip", "link", "set", "lo", "up")
    answer: dict[str, object] = {}
    if mode == "parse":
        BLOCK[order["tool"]](mode)
        answer["results"] = [execute(argv) for argv in order["commands"]]
    else:
        peer = Peer()
        serve()
        peer.ask("listen", "::")
        if not connects_soon(peer, mode, version):
            raise RuntimeError("no connection even without a firewall")
        BLOCK[order["tool"]](mode)
        answer["before"] = connects(peer, mode, version)
        answer["results"] = [execute(argv) for argv in order["commands"]]
        answer["after"] = connects_soon(peer, mode, version)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
