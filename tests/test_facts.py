"""Facts of a host: right inside a namespace, and never in the way of a run."""

from __future__ import annotations

import json
import os
import platform
import plistlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends import facts, front_ends, interfaces
from bothends.facts import host_facts, interfering_software
from bothends.front_ends import read_ruleset
from bothends_protocol.evidence import Firewall, HostFacts
from bothends_protocol.fixes import INTERFERING

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")


def test_this_host() -> None:
    found = host_facts(privileged=False)
    assert found.product == "bothends"
    assert found.version
    assert found.system == platform.system()
    assert found.hostname
    assert not found.privileged
    assert all("%" not in item.address for item in found.addresses)
    assert not any(item.address.startswith(("127.", "::1")) for item in found.addresses)
    assert not any("could not be read" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("_release", "the system's name"),
        ("interface_addresses", "the network addresses"),
        ("firewalls", "the firewalls"),
        ("_notes", "installed software"),
    ],
)
def test_what_fails_becomes_a_note(monkeypatch: pytest.MonkeyPatch, name: str, what: str) -> None:
    def broken(**_: object) -> Iterator[str]:
        raise PermissionError("no")

    monkeypatch.setattr(facts, name, broken)
    notes = host_facts(privileged=False).notes
    assert f"{what} could not be read: PermissionError" in notes


# --- what nftables holds ---------------------------------------------------------------------


def chain(table: str, name: str, *, family: str = "inet", **base: Any) -> dict[str, Any]:
    return {"chain": {"family": family, "table": table, "name": name, "handle": 1, **base}}


def rule(table: str, name: str, *, family: str = "inet") -> dict[str, Any]:
    return {"rule": {"family": family, "table": table, "chain": name, "expr": [{"accept": None}]}}


INPUT: dict[str, Any] = {"type": "filter", "hook": "input", "prio": 0, "policy": "accept"}
DROP = {**INPUT, "policy": "drop"}
FORWARD = {**DROP, "hook": "forward"}
NAT: dict[str, Any] = {"type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}


@pytest.mark.parametrize(
    ("items", "owners", "filtering"),
    [
        ([], set(), set()),
        ([chain("filter", "input", **INPUT)], {"nftables"}, set()),
        ([chain("filter", "input", **DROP)], {"nftables"}, {"nftables"}),
        (
            [chain("mine", "in", **INPUT), rule("mine", "in")],
            {"nftables"},
            {"nftables"},
        ),
        ([chain("mine", "in", **INPUT), rule("mine", "other")], {"nftables"}, set()),
        ([chain("firewalld", "filter_INPUT", **INPUT)], {"firewalld"}, set()),
        (
            [
                chain("filter", "INPUT", family="ip", **DROP),
                chain("filter", "ufw-user-input", family="ip"),
            ],
            {"ufw"},
            {"ufw"},
        ),
        # Containers: forwarding and NAT are not about the host's own traffic.
        (
            [
                chain("filter", "FORWARD", family="ip", **FORWARD),
                rule("filter", "FORWARD", family="ip"),
                chain("nat", "PREROUTING", family="ip", **NAT),
                rule("nat", "PREROUTING", family="ip"),
            ],
            {"iptables"},
            set(),
        ),
    ],
)
def test_ruleset(items: list[Any], owners: set[str], filtering: set[str]) -> None:
    found = read_ruleset({"nftables": [{"metainfo": {"version": "1.0.6"}}, *items]})
    assert found.owners == owners
    assert found.filtering == filtering


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["nftables", "chain", "rule", "family", "table", "name"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_another_nft_is_not_a_crash(document: Any) -> None:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess([], 0, stdout=json.dumps(document).encode())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front_ends, "_find", lambda *_: "/usr/sbin/nft")
        patch.setattr(subprocess, "run", run)
        front_ends._list_ruleset()


# --- files ---------------------------------------------------------------------------------


def files(root: Path, **contents: str) -> Path:
    for name, text in contents.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def by_name(root: Path, rules: front_ends.Ruleset | None = None) -> dict[str, Firewall]:
    return {item.name: item for item in front_ends._linux(root, rules)}


@linux_only
def test_no_firewall_at_all(tmp_path: Path) -> None:
    assert by_name(tmp_path) == {}


@linux_only
def test_ufw_by_its_files(tmp_path: Path) -> None:
    files(tmp_path, etc__ufw__ufw_DOT_conf="# ENABLED=no\nENABLED=yes\nLOGLEVEL=low\n")
    files(tmp_path, etc__default__ufw='DEFAULT_INPUT_POLICY="DROP"\nDEFAULT_OUTPUT_POLICY="ACCEPT"')
    ufw = by_name(tmp_path)["ufw"]
    assert ufw == Firewall(name="ufw", active=True, detail="by default: in drop, out accept")
    files(tmp_path, etc__ufw__ufw_DOT_conf="ENABLED=no\n")
    assert by_name(tmp_path)["ufw"].active is False


@linux_only
def test_ufw_is_inactive_where_its_rules_are_not_loaded(tmp_path: Path) -> None:
    files(tmp_path, etc__ufw__ufw_DOT_conf="ENABLED=yes\n")
    rules = front_ends.Ruleset(owners={"nftables"}, filtering={"nftables"})
    assert by_name(tmp_path, rules)["ufw"].active is False
    rules.owners.add("ufw")
    assert by_name(tmp_path, rules)["ufw"].active is True
    # With the old iptables, nft does not see them: the configuration is believed.
    files(tmp_path, proc__net__ip_tables_names="filter\n")
    assert by_name(tmp_path, front_ends.Ruleset())["ufw"].active is True


@linux_only
def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    files(tmp_path, usr__sbin__nft="", usr__sbin__iptables="")
    found = by_name(tmp_path)
    assert found["nftables"].active is None
    assert found["iptables"].active is None
    found = by_name(tmp_path, front_ends.Ruleset())
    assert found["nftables"].active is False
    assert found["iptables"].active is False


@linux_only
def test_legacy_tables_may_be_empty(tmp_path: Path) -> None:
    files(tmp_path, proc__net__ip6_tables_names="filter\nnat\nfrom outer space\n")
    iptables = by_name(tmp_path, front_ends.Ruleset())["iptables"]
    assert iptables.active is None
    assert iptables.detail == "legacy tables loaded: filter, nat"


# --- other systems, as far as they can be tried on this one ----------------------------------


@linux_only
def test_both_ways_of_reading_addresses_agree() -> None:
    # psutil does not say in which state an address of IPv6 is.
    asked = (msgspec.structs.replace(a, state="") for a in interfaces._from_kernel())
    assert sorted(map(str, asked)) == sorted(map(str, interfaces._from_psutil()))


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        (0x80, ""),
        (0x40, "tentative"),
        (0x44, ""),
        (0x20, "deprecated"),
        (0x01, "temporary"),
        (0x21, "deprecated"),
        (0x61, "tentative"),
        (0x100, ""),
    ],
)
def test_states_of_addresses(flags: int, state: str) -> None:
    """The numbers of linux/if_addr.h; an optimistic one (0x04) is in use already."""
    assert interfaces._state(flags) == state


@pytest.mark.parametrize(
    ("state", "active", "detail"),
    [(0, False, ""), (1, True, ""), (2, True, "blocks all incoming connections"), ("x", None, "")],
)
def test_macos_settings(tmp_path: Path, state: object, active: bool | None, detail: str) -> None:  # noqa: FBT001
    path = tmp_path / "Library" / "Preferences" / "com.apple.alf.plist"
    path.parent.mkdir(parents=True)
    path.write_bytes(plistlib.dumps({"globalstate": state}))
    expected = Firewall(name="macos", active=active, detail=detail)
    assert list(front_ends._macos(tmp_path)) == [expected]


@pytest.mark.parametrize("content", [b"", b"not a plist", plistlib.dumps([1])])
def test_macos_settings_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "Library" / "Preferences" / "com.apple.alf.plist"
    assert list(front_ends._macos(tmp_path)) == [Firewall(name="macos")]
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert list(front_ends._macos(tmp_path)) == [Firewall(name="macos")]


@pytest.mark.parametrize(
    ("on", "off", "active"),
    [([], [], None), (["public"], ["domain"], True), ([], ["domain", "private"], False)],
)
def test_windows_profiles(
    monkeypatch: pytest.MonkeyPatch,
    on: list[str],
    off: list[str],
    active: bool | None,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(front_ends, "_windows_profiles", lambda: (on, off))
    (found,) = front_ends._windows()
    assert found.active is active
    assert all(word in found.detail for word in (*on, *off))


# --- real hosts ----------------------------------------------------------------------------


def need(*tools: str) -> None:
    missing = [name for name in ("unshare", "setpriv", "ip", *tools) if shutil.which(name) is None]
    reason = "needs root" if os.geteuid() else f"not installed: {', '.join(missing)}"
    if os.geteuid() or missing:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


SHOW = """
import sys, msgspec
from bothends.facts import host_facts
sys.stdout.buffer.write(msgspec.json.encode(host_facts(privileged=len(sys.argv) > 1)))
"""

INSIDE = """
import subprocess, sys
from firewall_driver import BLOCK, private_files, run
private_files()
run("ip", "link", "set", "lo", "up")
for name, address in (("up0", "11.0.0.1/24"), ("down0", "11.0.1.1/24")):
    run("ip", "link", "add", name, "type", "veth", "peer", "name", name + "x")
    run("ip", "address", "add", address, "dev", name)
for name in ("up0", "up0x"):
    run("ip", "link", "set", name, "up")
if sys.argv[1] in BLOCK:
    BLOCK[sys.argv[1]]("in")
as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
for prefix, more in (([], ["privileged"]), (as_user, [])):
    done = subprocess.run([*prefix, sys.executable, "-c", sys.argv[2], *more],
                          capture_output=True, check=False)
    print(done.stdout.decode() or done.stderr.decode())
"""


def inside(tool: str) -> tuple[HostFacts, HostFacts]:
    """Facts as root and as nobody, on a host of its own where `tool` blocks."""
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*unshare, sys.executable, "-c", INSIDE, tool, SHOW],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout + done.stderr
    root, nobody = (msgspec.json.decode(line, type=HostFacts) for line in lines)
    return root, nobody


def states(found: HostFacts) -> dict[str, bool | None]:
    return {item.name: item.active for item in found.firewalls}


@pytest.mark.lab
@linux_only
def test_a_host_of_its_own() -> None:
    need("nft")
    root, nobody = inside("none")
    for found in (root, nobody):
        usable = [item for item in found.addresses if not item.address.startswith("fe80")]
        assert [(i.interface, i.address, i.prefix) for i in usable] == [("up0", "11.0.0.1", 24)]
        assert not found.notes
    assert True not in states(root).values()
    assert states(root)["nftables"] is False
    assert states(nobody)["nftables"] is None


@pytest.mark.lab
@linux_only
@pytest.mark.parametrize(
    ("tool", "program", "readable"),
    [
        ("nftables", "nft", None),
        ("iptables", "iptables", None),
        ("ufw", "ufw", True),
        ("firewalld", "firewall-cmd", True),
    ],
)
def test_the_active_front_end_is_found(tool: str, program: str, readable: bool | None) -> None:  # noqa: FBT001
    need("nft", program)
    root, nobody = inside(tool)
    assert {name for name, active in states(root).items() if active} == {tool}
    assert states(nobody)[tool] is readable
    assert {name for name, active in states(nobody).items() if active} == (
        {tool} & {"ufw", "firewalld"}
    )


@linux_only
def test_a_daemon_of_another_host_is_not_ours(tmp_path: Path) -> None:
    need()
    daemon = tmp_path / "firewalld"
    shutil.copy(shutil.which("sleep") or "", daemon)
    proc = Path("/proc")
    for prefix, ours in ((["unshare", "--net"], False), ([], True)):
        with subprocess.Popen([*prefix, str(daemon), "30"]) as process:
            try:
                while Path(f"/proc/{process.pid}/comm").read_text() != "firewalld\n":
                    pass
                assert front_ends._same_network(proc, str(process.pid)) is ours
                assert front_ends._runs(proc, "firewalld") is ours
            finally:
                process.kill()


# --- troublemakers ---------------------------------------------------------------------------


def test_every_known_product_is_recognised_by_its_folder(tmp_path: Path) -> None:
    for product in INTERFERING:
        (tmp_path / "apps" / f"{product} 2.app").mkdir(parents=True)
    assert set(interfering_software(tmp_path, ("apps", "missing"))) == set(INTERFERING)


def test_names_that_are_no_utf8_can_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "host\udcff")
    (tmp_path / "McAfee\udcff").mkdir()
    assert host_facts(privileged=False).hostname == "host?"
    assert interfering_software(tmp_path, (".",)) == {"McAfee": "./McAfee?"}


def test_other_names_are_not_mistaken(tmp_path: Path) -> None:
    for name in ("avgard", "Averages", "CEO", "ce", "my mcafee", "Littler Snitch", "charter"):
        (tmp_path / name).mkdir()
    assert interfering_software(tmp_path, (".",)) == {}


def test_intego_and_short_folders(tmp_path: Path) -> None:
    for name in ("Intego NetBarrier.app", "CE", "AVG", "pbul"):
        (tmp_path / name).mkdir()
    assert set(interfering_software(tmp_path, (".",))) == {
        "AVG",
        "BeyondTrust PowerBroker",
        "Covenant Eyes",
        "Intego NetBarrier",
    }
