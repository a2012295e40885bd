"""Fixes: one for every cause, safe for hostile facts, and right on the real firewalls."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.codes import CODES, plain
from bothends_protocol.evidence import Address, Firewall, HostFacts
from bothends_protocol.fixes import INTERFERING, FixCase, Routers, fixes_for
from bothends_protocol.remedies import REMEDIES
from bothends_protocol.verdict import Fix
from firewall_driver import HERE, THERE

DRIVER = Path(__file__).with_name("firewall_driver.py")
COMMAND = re.compile(r"`([^`]+)`")
FIREWALL_CODES = {
    "in": "destination.firewall-drop",
    "out": "source.firewall-reject",
    "reply-in": "source.reply-blocked",
    "reply-out": "destination.reply-blocked",
}


def facts(system: str = "Linux", *active: str, release: str = "Debian GNU/Linux 12") -> HostFacts:
    return HostFacts(
        product="bothends",
        version="0",
        system=system,
        release=release,
        kernel="6",
        hostname="host",
        privileged=True,
        addresses=(
            Address(interface="eth0", address="192.168.1.20", prefix=24),
            Address(interface="docker0", address="172.17.0.1", prefix=16),
            Address(interface="eth0", address="fe80::1", prefix=64),
        ),
        firewalls=tuple(Firewall(name=name, active=True) for name in active),
    )


def case(code: str, **changes: object) -> FixCase:
    host = facts("Linux", "ufw")
    standard: dict[str, object] = {
        "code": code,
        "transport": "tcp",
        "ports": ((4242, 4242),),
        "address": "192.168.1.20",
        "source_address": "192.168.1.9",
        "source": host,
        "destination": host,
    }
    return FixCase(**(standard | changes))  # type: ignore[arg-type]


def texts(fixes: tuple[Fix, ...]) -> Iterator[str]:
    for fix in fixes:
        yield fix.title
        yield from fix.steps
        yield from fix.argv


def test_table_covers_the_codes() -> None:
    assert set(REMEDIES) | {
        code for code in CODES if "firewall" in code or "reply-b" in code
    } == set(CODES)


def test_a_queue_of_half_open_connections_is_no_slow_program() -> None:
    (slow,) = fixes_for(case("service.backlog-full"))
    (half_open,) = fixes_for(case("service.backlog-full", half_open=True))
    assert "too slowly" in slow.title
    assert "half-open" in half_open.title
    assert half_open.argv == ("ss", "-tn", "state", "syn-recv", "sport = :4242")


@pytest.mark.parametrize("code", ["service.wrong-interface", "service.loopback-only"])
def test_a_service_that_is_bound_to_an_interface_is_not_told_to_change_its_address(
    code: str,
) -> None:
    (fix,) = fixes_for(case(code, devices=("eth1",)))
    assert any("the interface eth1" in step for step in fix.steps)
    named = fixes_for(case(code, devices=("eth1; reboot",)))
    assert named == fixes_for(case(code))


@pytest.mark.parametrize("system", ["Linux", "Windows", "Darwin", "FreeBSD", ""])
@pytest.mark.parametrize("code", CODES)
def test_every_cause_has_a_fix(code: str, system: str) -> None:
    host = facts(system)
    for address, transport in (("192.168.1.20", "tcp"), ("fd00::20", "udp"), ("garbage", "tcp")):
        fixes = fixes_for(
            case(code, source=host, destination=host, address=address, transport=transport)
        )
        assert fixes
        for fix in fixes:
            assert fix.on in ("source", "destination", "router")
            assert fix.title
            assert fix.steps or fix.argv
            assert fix.on != "router" or not fix.argv
        for text in texts(fixes):
            assert text.strip()
            assert "{" not in text
            assert "None" not in text
            assert not re.search(r"\b(here|this (computer|machine|host|mac))\b", text.lower())


def test_unknown_code_and_bad_input_have_none() -> None:
    assert fixes_for(case("service.unheard-of")) == ()
    assert fixes_for(case("nat.double", transport="sctp")) == ()
    assert fixes_for(case("nat.double", ports=())) == ()
    assert fixes_for(case("nat.double", ports=((0, 70000),))) == ()
    assert plain("service.unheard-of") == "service.unheard-of"


def test_front_ends_that_are_active_come_alone() -> None:
    host = facts("Linux", "nftables", "ufw")
    titles = [fix.title for fix in fixes_for(case("destination.firewall-drop", destination=host))]
    assert titles == [
        "Allow incoming TCP port 4242 in ufw",
        "Allow incoming TCP port 4242 in nftables",
    ]


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("Ubuntu 24.04 LTS", ["ufw", "nft"]),
        ("Fedora Linux 40", ["firewall-cmd", "nft"]),
        ("Unknown 1", ["ufw", "firewall-cmd"]),
    ],
)
def test_the_two_most_likely_where_nothing_is_known(release: str, expected: list[str]) -> None:
    host = facts(release=release)
    fixes = fixes_for(case("destination.firewall-drop", destination=host))
    assert [fix.argv[0] for fix in fixes[:2]] == expected
    assert "another filter" in fixes[2].title


def test_front_ends_known_to_be_inactive_are_not_blamed() -> None:
    names = ("ufw", "firewalld", "nftables", "iptables")
    off = tuple(Firewall(name=name, active=False) for name in names)
    host = msgspec.structs.replace(facts(), firewalls=off)
    fixes = fixes_for(case("source.firewall-drop", source=host))
    assert [fix.title for fix in fixes] == ["Look for another filter on the source"]


def test_what_is_opened_is_what_is_needed() -> None:
    fixes = fixes_for(case("destination.firewall-drop"))
    assert fixes[0].argv == ("ufw", "allow", "4242/tcp")
    assert "`ufw allow proto tcp from 192.168.1.9 to any port 4242`" in " ".join(fixes[0].steps)


def test_internal_address_of_the_forwarding_is_the_destinations() -> None:
    steps = " ".join(texts(fixes_for(case("nat.no-forward", address="11.0.0.1"))))
    assert "192.168.1.20" in steps
    assert "172.17.0.1" not in steps
    assert "fe80" not in steps


def steps(code: str, **changes: object) -> str:
    standard: dict[str, object] = {
        "address": "11.0.0.2",
        "landing": "192.168.1.20",
        "public": ("11.0.0.2",),
        "router": "192.168.1.1",
    }
    return " ".join(texts(fixes_for(case(code, **(standard | changes)))))


@pytest.mark.parametrize("code", ["nat.no-forward", "nat.wrong-host", "nat.wrong-port"])
def test_a_forwarding_is_spelled_out(code: str) -> None:
    said = "Forward TCP port 4242 to 192.168.1.20, port 4242, on the router (192.168.1.1)."
    assert said in steps(code)
    many = steps(code, ports=((5000, 5010),), transport="udp", router="", landing="10.9.9.9")
    assert "Forward UDP ports 5000-5010 to 192.168.1.20, the same ports, on the router." in many


def test_the_address_where_requests_come_in_is_the_one_to_forward_to() -> None:
    more = Address(interface="eth1", address="10.0.0.5", prefix=24)
    host = msgspec.structs.replace(facts(), addresses=(more, *facts().addresses))
    assert "to 192.168.1.20, port" in steps("nat.no-forward", destination=host)
    assert "to 10.0.0.5 or 192.168.1.20, port" in steps(
        "nat.no-forward", destination=host, landing=""
    )
    nowhere = msgspec.structs.replace(facts(), addresses=())
    assert "to the destination's internal address, port 4242, on" in steps(
        "nat.no-forward", destination=nowhere
    )


def test_a_router_that_can_be_asked_is_offered_to_be_asked() -> None:
    asked = steps("nat.no-forward", routers=Routers(asked_by=("upnp", "pcp", "smoke")))
    assert "The router answers PCP and UPnP: `bothends destination 4242 --map` has it" in asked
    assert "`bothends destination 4242 --map --keep-map` leaves the port open" in asked
    assert "Switch on UPnP or NAT-PMP in the router" not in asked
    udp = steps("nat.no-forward", transport="udp", routers=Routers(asked_by=("pcp",)))
    assert "`bothends destination udp:4242 --map`" in udp
    by_hand = steps("nat.no-forward")
    assert "--map" not in by_hand
    assert "Switch on UPnP or NAT-PMP in the router" in by_hand


def test_two_computers_that_want_one_port() -> None:
    said = steps("nat.wrong-host", routers=Routers(leads_to="192.168.1.30"))
    assert "Its target is 192.168.1.30 now." in said
    assert "free and between 1024 and 5999, but not 4242 or 4243, and forward that to" in said
    assert "target is" not in steps("nat.wrong-host", routers=Routers(leads_to="192.168.1.20"))
    assert "at the destination's port 4243 now" in steps(
        "nat.wrong-port", routers=Routers(came_at=4243)
    )


def test_a_carrier_is_asked_and_a_second_router_is_set_up() -> None:
    carrier = steps("nat.double", routers=Routers(carrier=True, outside="100.64.0.7"))
    assert "The provider has several customers share one public address (CGNAT)" in carrier
    assert "bridge mode" not in carrier
    own = steps("nat.double", routers=Routers(outside="192.168.0.2"))
    assert "bridge mode" in own
    assert "The target in the second router is 192.168.0.2" in own
    assert "If the provider has several customers share" in own
    for said in (carrier, own):
        assert "Use IPv6 if both computers have it" in said
        assert "VPN" in said
        assert "relay" in said


def test_where_both_are_behind_one_router_the_inside_address_is_used() -> None:
    said = steps("nat.no-hairpin")
    assert "there, put 192.168.1.20 into the application" in said
    assert "have the router (192.168.1.1), or the home's name server, answer it" in said


def test_the_provider_is_asked_where_the_router_forwards() -> None:
    said = fixes_for(case("network.drop", router="192.168.1.1", routers=Routers(forwards=True)))
    assert said[0].title == "Ask the destination's provider to let TCP port 4242 in"
    assert "a firewall setting of the router (192.168.1.1)" in said[0].steps[0]
    assert "provider" not in fixes_for(case("network.drop"))[0].title


@pytest.mark.parametrize(
    ("together", "public", "inside"),
    [(None, True, True), (True, False, True), (False, True, False)],
)
def test_the_address_to_use_goes_with_where_the_two_are(
    together: bool | None,  # noqa: FBT001
    public: bool,  # noqa: FBT001
    inside: bool,  # noqa: FBT001
) -> None:
    said = steps("address.wrong-host", address="11.0.9.30", together=together)
    assert ("into the application on the source: 11.0.0.2." in said) == public
    assert ("into the application on the source: 192.168.1.20." in said) == inside
    private = steps("address.private", address="192.168.1.20")
    assert "use its public address, 11.0.0.2; the router that has it" in private
    assert "use the router's public address; the" in steps("address.private", public=())


def test_known_program_is_named_with_its_setting() -> None:
    steps = " ".join(texts(fixes_for(case("service.loopback-only", program="postgres"))))
    assert "listen_addresses" in steps
    steps = " ".join(texts(fixes_for(case("service.loopback-only", program="$(reboot)"))))
    assert "reboot" not in steps
    assert "the service" in steps


def test_interfering_software_in_the_notes_is_named() -> None:
    for product in INTERFERING:
        host = msgspec.structs.replace(facts("Windows"), notes=(f"found {product} at x",))
        fixes = fixes_for(case("destination.firewall-drop", destination=host))
        assert f"Switch off {product} for a test" in [fix.title for fix in fixes]


def test_a_card_is_told_the_size_that_passes() -> None:
    fixes = fixes_for(case("network.mtu", fits=1400))
    assert [fix.argv for fix in fixes if fix.argv and fix.argv[0] == "ip"] == [
        ("ip", "link", "set", "dev", "eth0", "mtu", "1400")
    ]
    assert any("1,400 bytes" in step for step in fixes[0].steps)


@pytest.mark.parametrize(
    "card", ["eth0;reboot", "$(x)", "a b", "pwn3d", "", "-eth0", "enx0011223344556"]
)
def test_no_other_names_of_cards_get_into_a_command(card: str) -> None:
    host = facts()
    host = msgspec.structs.replace(
        host, addresses=(Address(interface=card, address="192.168.1.20", prefix=24),)
    )
    fixes = fixes_for(case("network.mtu", fits=1400, source=host, destination=host))
    assert not any("link" in fix.argv for fix in fixes)


@pytest.mark.parametrize("fits", [0, 576, 1279, 65536, -1])
def test_no_card_is_told_a_size_on_which_its_system_cannot_work(fits: int) -> None:
    assert not any("link" in fix.argv for fix in fixes_for(case("network.mtu", fits=fits)))


# What a hostile peer would send: shell, PowerShell, nft and terminal syntax, marked so that a
# piece of it is recognised wherever it turns up.
MARK = "pwn3d"
HOSTILE = st.one_of(
    st.text(max_size=20).map(lambda text: f"{MARK}{text}"),
    st.sampled_from(
        [
            f"192.0.2.1%;{MARK}",
            f"fe80::1%$({MARK})",
            f"::ffff:192.0.2.1%`{MARK}`",
            f"192.0.2.1/24 {MARK}",
            f"ufw; {MARK}",
            f"{{{MARK}}}",
            f"{{where.__class__}}{MARK}",
            f"\x1b]0;{MARK}\x07",
            f"eth0\n{MARK}",
            f"nftables {MARK}",
        ]
    ),
)
SAFE_WORD = re.compile(r'[A-Za-z0-9 _./:,{}="+@-]+', re.ASCII)


@st.composite
def hostile_facts(draw: st.DrawFn) -> HostFacts:
    return HostFacts(
        product=draw(HOSTILE),
        version=draw(HOSTILE),
        system=draw(st.sampled_from(["Linux", "Windows", "Darwin"]) | HOSTILE),
        release=draw(HOSTILE),
        kernel=draw(HOSTILE),
        hostname=draw(HOSTILE),
        privileged=draw(st.booleans()),
        addresses=tuple(
            Address(interface=draw(HOSTILE), address=draw(HOSTILE), prefix=draw(st.integers()))
            for _ in range(draw(st.integers(0, 3)))
        ),
        firewalls=tuple(
            Firewall(
                name=draw(st.sampled_from(["ufw", "nftables", "windows"]) | HOSTILE),
                active=draw(st.sampled_from([True, False, None])),
                detail=draw(HOSTILE),
            )
            for _ in range(draw(st.integers(0, 3)))
        ),
        notes=(draw(HOSTILE),),
    )


PORTS = st.lists(
    st.tuples(st.integers(-5, 70000), st.integers(-5, 70000)), max_size=40, unique=True
).map(tuple)


@given(
    code=st.sampled_from(sorted(CODES)),
    transport=st.sampled_from(["tcp", "udp"]) | HOSTILE,
    ports=PORTS,
    address=HOSTILE,
    source_address=HOSTILE,
    source=hostile_facts(),
    destination=hostile_facts(),
    program=st.none() | HOSTILE,
    listening=st.lists(HOSTILE, max_size=3).map(tuple),
    other_ports=st.lists(st.integers(), max_size=3).map(tuple),
    together=st.none() | st.booleans(),
    landing=HOSTILE,
    public=st.lists(HOSTILE, max_size=3).map(tuple),
    router=HOSTILE,
    routers=st.builds(
        Routers,
        asked_by=st.lists(st.sampled_from(["pcp", "upnp"]) | HOSTILE, max_size=3).map(tuple),
        leads_to=HOSTILE,
        came_at=st.integers(),
        outside=HOSTILE,
        carrier=st.booleans(),
        forwards=st.booleans(),
    ),
    fits=st.integers(-1, 70000),
    half_open=st.booleans(),
    devices=st.lists(HOSTILE | st.sampled_from(["lo", "eth1"]), max_size=3).map(tuple),
)
def test_nothing_the_peer_sent_reaches_a_command(**given_case: object) -> None:
    fixes = fixes_for(FixCase(**given_case))  # type: ignore[arg-type]
    program = str(given_case["program"])
    for fix in fixes:
        for word in fix.argv:
            assert SAFE_WORD.fullmatch(word)
            assert MARK not in word
        for step in (fix.title, *fix.steps):
            assert not any(unicodedata.category(char).startswith("C") for char in step)
            for line in COMMAND.findall(step):
                assert MARK not in line
            # A program's name may be said, if it looks like one.
            prose = step.replace(program, "") if re.fullmatch(r"[\w .+-]+", program) else step
            assert MARK not in prose


def need(tool: str) -> None:
    """Skip where the real tool cannot be tried; in CI that is a failure."""
    binary = {"nftables": "nft", "firewalld": "firewall-cmd"}.get(tool, tool)
    missing = [name for name in (binary, "unshare", "ip") if shutil.which(name) is None]
    if tool == "firewalld" and shutil.which("dbus-daemon") is None:
        missing.append("dbus-daemon")
    reason = "needs root" if os.geteuid() else f"not installed: {', '.join(missing)}"
    if os.geteuid() or missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{tool} cannot be tried: {reason}")
        pytest.skip(reason)


def drive(tool: str, mode: str, version: int, commands: list[list[str]]) -> dict[str, object]:
    order = {"tool": tool, "mode": mode, "version": version, "commands": commands}
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
    done = subprocess.run(
        [*unshare, sys.executable, str(DRIVER)],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def spelled(fix: Fix) -> Iterator[list[str]]:
    """Every command of a fix that can be run: its argv and those between backticks."""
    yield list(fix.argv)
    for step in fix.steps:
        for line in COMMAND.findall(step):
            words = shlex.split(line.replace("policy=NAME", "policy=bothends-test"))
            if words[0] in ("ufw", "firewall-cmd", "nft", "iptables", "ip6tables") and not (
                {"NAME", "NUMBER"} & set(words)
            ):
                yield words


VARIANTS = (
    ("tcp", ((4242, 4242),)),
    ("udp", ((5000, 5010),)),
    ("tcp", ((80, 80), (4242, 4242), (5000, 5010))),
    ("udp", tuple((port, port + 1) for port in range(2000, 2060, 3))),
)


@pytest.mark.lab
@pytest.mark.parametrize("tool", ["ufw", "firewalld", "nftables", "iptables"])
def test_commands_are_understood_by_the_real_tool(tool: str) -> None:
    need(tool)
    host = facts("Linux", tool)
    commands: list[list[str]] = []
    for code in FIREWALL_CODES.values():
        for address, source in (("192.0.2.7", "192.0.2.9"), ("2001:db8::7", "2001:db8::9")):
            for transport, ports in VARIANTS:
                fixes = fixes_for(
                    case(
                        code,
                        transport=transport,
                        ports=ports,
                        address=address,
                        source_address=source,
                        source=host,
                        destination=host,
                    )
                )
                commands += [words for words in spelled(fixes[0]) if words not in commands]
    assert len(commands) > 10
    results = drive(tool, "parse", 4, commands)["results"]
    assert isinstance(results, list)
    for words, (status, output) in zip(commands, results, strict=True):
        assert status == 0, (words, output)
        assert "ERROR" not in output, (words, output)
        assert "rror:" not in output, (words, output)


REAL = [
    (tool, mode, width)
    for tool in ("nftables", "iptables", "ufw", "firewalld")
    for mode in FIREWALL_CODES
    for width in ("any", "peer-only")
    # Both let answers through by themselves; policies of firewalld get no narrower rule.
    if not (tool in ("ufw", "firewalld") and mode.startswith("reply"))
    and (tool, mode, width) != ("firewalld", "out", "peer-only")
]


@pytest.mark.lab
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("tool", "mode", "width"), REAL)
def test_fix_opens_the_port_on_the_real_firewall(
    tool: str, mode: str, width: str, version: int
) -> None:
    need(tool)
    host = facts("Linux", tool)
    # The host behind the firewall is the destination where requests come in or answers go out.
    ours, theirs = HERE[version], THERE[version]
    address, source = (ours, theirs) if mode in ("in", "reply-out") else (theirs, ours)
    fixes = fixes_for(
        case(
            FIREWALL_CODES[mode],
            address=address,
            source_address=source,
            source=host,
            destination=host,
        )
    )
    commands = [list(fixes[0].argv)]
    wanted = "use instead" if width == "peer-only" else "in place of NAME"
    for step in fixes[0].steps:
        if wanted in step and (width == "peer-only" or tool == "firewalld"):
            lines = COMMAND.findall(step)
            commands += [shlex.split(line.replace("NAME", "bothends-test")) for line in lines]
    if width == "peer-only":
        del commands[0]
    answer = drive(tool, mode, version, commands)
    assert answer["before"] is False
    assert answer["after"] is True, answer
