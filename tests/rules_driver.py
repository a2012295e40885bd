"""Asks the kernel what becomes of connections under real firewall rules, and `rules` beside it.

Run as `unshare --net --mount --pid --fork --kill-child python rules_driver.py`
with a JSON list of cases on standard input, each carried out after the last
one's rules are gone:

    {"commands": [["nft", "..."], ...], "front_end": "ufw" or null, "probes": [
        {"way": "in", "version": 4, "port": 4242}, ...]}

`in` comes from a second host to this one, `out` goes the other way. For each
probe standard output has what happened (`connected`, `drop`, `reject`), what
the rules say of the request and of the answer to it, and of NAT.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bothends.witness.rules import Packet, Quote, RuleSet, find, nat_of, read_ruleset
from firewall_driver import BLOCK, HERE, THERE, private_files, run

PORTS = (22, 80, 4242, 5000, 8080)
"""All have a listener, on both hosts."""

TIMEOUT = 0.2
"""Seconds after which what did not answer was dropped: two hundred times what it takes."""

PATIENCE = 3.0
"""Seconds for those of which the rules say nothing: the machine may be busy."""

CHAINS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
CLONE_NEWNET = 0x40000000
HARDWARE = {"here": "02:00:00:00:00:01", "there": "02:00:00:00:00:02"}
BACKLOG = 512
_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """One host, and another one at the end of a cable."""

    def __init__(self) -> None:
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
        namespace = Path(f"/proc/{self._holder.pid}/ns/net")
        while namespace.stat().st_ino == os.fstat(self._own).st_ino:
            time.sleep(0.002)
        self._other = os.open(namespace, os.O_RDONLY)
        pid = str(self._holder.pid)
        ends = ("v0", "address", HARDWARE["here"], "type", "veth", "peer", "name", "v1")
        run("ip", "link", "add", *ends, "address", HARDWARE["there"], "netns", pid)
        self._set_up((), "v0", HERE, THERE, HARDWARE["there"])
        inside = ("nsenter", "--net", "--target", pid)
        self._set_up(inside, "v1", THERE, HERE, HARDWARE["here"])
        self._listeners = [self._listen(port) for port in PORTS]
        with self.there():
            self._listeners += [self._listen(port) for port in PORTS]
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def _set_up(
        prefix: tuple[str, ...], name: str, own: dict[int, str], peer: dict[int, str], hardware: str
    ) -> None:
        run(*prefix, "ip", "link", "set", "lo", "up")
        run(*prefix, "ip", "address", "add", f"{own[4]}/24", "dev", name)
        run(*prefix, "ip", "address", "add", f"{own[6]}/64", "dev", name, "nodad")
        run(*prefix, "ip", "link", "set", name, "up")
        for address in peer.values():
            # A rule that drops neighbour discovery must not pass for one that drops the request.
            words = ("lladdr", hardware, "dev", name, "nud", "permanent")
            run(*prefix, "ip", "neighbour", "replace", address, *words)

    @contextmanager
    def there(self) -> Iterator[None]:
        """Let this thread be on the other host."""
        _enter(self._other)
        try:
            yield
        finally:
            _enter(self._own)

    @staticmethod
    def _listen(port: int) -> socket.socket:
        return socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
        )

    def _accept(self) -> None:
        while True:
            for listener in select.select(self._listeners, [], [])[0]:
                listener.accept()[0].close()

    def probe(
        self, probes: list[dict[str, Any]], timeout: float = TIMEOUT
    ) -> list[tuple[str, int]]:
        """Connect all at once; return what became of each, and the port it came from."""
        sockets = [self._socket(probe) for probe in probes]
        for sock, probe in zip(sockets, probes, strict=True):
            address = (HERE if probe["way"] == "in" else THERE)[probe["version"]]
            sock.connect_ex((address, probe["port"]))
        outcomes = _outcomes(sockets, timeout)
        results = [(outcomes[sock], sock.getsockname()[1]) for sock in sockets]
        for sock in sockets:
            sock.close()
        return results

    def _socket(self, probe: dict[str, Any]) -> socket.socket:
        family = socket.AF_INET if probe["version"] == 4 else socket.AF_INET6
        if probe["way"] == "in":
            with self.there():
                sock = socket.socket(family)
        else:
            sock = socket.socket(family)
        sock.setblocking(False)
        own = (THERE if probe["way"] == "in" else HERE)[probe["version"]]
        sock.bind((own, probe.get("source_port", 0)))
        return sock


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _outcomes(sockets: list[socket.socket], timeout: float) -> dict[socket.socket, str]:
    outcomes = dict.fromkeys(sockets, "drop")
    waiting = set(sockets)
    deadline = time.monotonic() + timeout
    while waiting and (left := deadline - time.monotonic()) > 0:
        for sock in select.select([], list(waiting), [], left)[1]:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            # A reset or an error after the connection was made is about a later packet.
            met = error in (0, errno.ECONNRESET) or _has_peer(sock)
            outcomes[sock] = "connected" if met else "reject"
            waiting.discard(sock)
    return outcomes


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def packets(probe: dict[str, Any], source_port: int) -> tuple[Packet, Packet]:
    """Return the request of a probe and the answer to it, as this host sees them."""
    ends = [THERE[probe["version"]], HERE[probe["version"]]]
    source, destination = ends if probe["way"] == "in" else reversed(ends)
    request = Packet("tcp", source, destination, probe["port"], "v0", source_port)
    answer = Packet("tcp", destination, source, source_port, "v0", probe["port"], answer=True)
    return request, answer


def judged(ruleset: RuleSet, probe: dict[str, Any], source_port: int) -> dict[str, Any]:
    """Return what the rules say of a probe."""
    request, answer = packets(probe, source_port)
    hooks = ("input", "output") if probe["way"] == "in" else ("output", "input")
    nat = nat_of(ruleset, request) if probe["way"] == "in" else False
    if nat is not False:
        # What answers does so from another port.
        answer = msgspec.structs.replace(answer, source_port=None)
    return {
        "request": _plain(find(ruleset, hooks[0], request)),
        "answer": _plain(find(ruleset, hooks[1], answer)),
        "nat": nat,
    }


def _plain(quote: Quote | None) -> dict[str, Any] | None:
    return None if quote is None else msgspec.structs.asdict(quote)


def clear() -> None:
    """Take all rules away, those of the legacy iptables too."""
    run("nft", "flush", "ruleset")
    for names, program in (
        ("ip_tables_names", "iptables-legacy"),
        ("ip6_tables_names", "ip6tables-legacy"),
    ):
        path = Path("/proc/net") / names
        for table in path.read_text(encoding="ascii").split() if path.exists() else ():
            run(program, "-t", table, "-F")
            run(program, "-t", table, "-X")
            for chain in CHAINS:
                # Not every table has them all.
                subprocess.run(
                    [program, "-t", table, "-P", chain, "ACCEPT"], capture_output=True, check=False
                )


def carry_out(case: dict[str, Any], network: Network) -> list[dict[str, Any]]:
    """Return the results of one case, in the order of its probes."""
    clear()
    if case.get("front_end"):
        BLOCK[case["front_end"]](case.get("mode", "in"))
    for argv in case["commands"]:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            return [{"error": f"{argv}: {done.stdout}{done.stderr}"}]
    ruleset = asyncio.run(read_ruleset())
    if ruleset is None:
        return [{"error": "not readable"}]
    return [_result(ruleset, network, *pair) for pair in _tried(network, case["probes"])]


def _tried(network: Network, probes: list[dict[str, Any]]) -> Iterator[tuple[Any, str, int]]:
    for probe, (outcome, port) in zip(probes, network.probe(probes), strict=True):
        yield probe, outcome, port


def _result(
    ruleset: RuleSet, network: Network, probe: dict[str, Any], outcome: str, port: int
) -> dict[str, Any]:
    says = judged(ruleset, probe, port)
    if outcome == "drop" and not says["request"] and not says["answer"]:
        ((outcome, port),) = network.probe([probe], PATIENCE)
    return {"outcome": outcome, **says}


def main() -> None:
    if [name for _, name in socket.if_nameindex()] != ["lo"]:
        # What follows takes all rules of the namespace away.
        sys.exit("rules_driver runs in a network namespace of its own only")
    os.environ["LC_ALL"] = "C"
    cases = json.load(sys.stdin)
    private_files()
    network = Network()
    every = [
        {"way": way, "version": version, "port": port}
        for way in ("in", "out")
        for version in (4, 6)
        for port in PORTS
    ]
    outcomes = network.probe(every, PATIENCE)
    if {outcome for outcome, _ in outcomes} != {"connected"}:
        raise RuntimeError(f"not all connect without a firewall: {outcomes}")
    json.dump([carry_out(case, network) for case in cases], sys.stdout)


if __name__ == "__main__":
    main()
