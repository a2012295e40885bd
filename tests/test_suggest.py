"""A free port that the source reaches, or what keeps most of them: which one, and what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from bothends import render
from bothends.sought import own_choice, sought
from bothends.witness.sockets import given_ports
from bothends_protocol.evidence import Listener, Target
from bothends_protocol.judge import judge
from bothends_protocol.ports import parse_ports
from bothends_protocol.suggest import Checked, suggest, suggested
from bothends_protocol.verdict import Blocker, Check, Suggestion, Verdict
from evidence_builder import DROPPED, OPEN, THERE, Fate, Story

DROP, REJECT, NOT_RUNNING = (
    "destination.firewall-drop",
    "destination.firewall-reject",
    "service.not-running",
)
REFUSED = replace(
    DROPPED, outcome="refused", error="ECONNREFUSED", answer="reset", returned="reset"
)
"""By the destination's firewall: the agent itself listens."""


# -- of evidence


def verdict(*by_port: tuple[int, Fate], listening: tuple[str, ...] = ()) -> Verdict:
    story = Story(
        ports=tuple(port for port, _ in by_port),
        by_port={port: (fate,) * 3 for port, fate in by_port},
        listening=listening,
        source_sees=True,
        destination_sees=True,
    )
    source, destination = story.evidence()
    return judge(source, msgspec.structs.replace(destination, suggest=True))


def test_of_free_ports_that_are_reached_the_lowest_is_suggested() -> None:
    found = verdict((2000, DROPPED), (2001, OPEN), (2002, OPEN))
    assert found.suggestion == Suggestion(transport="tcp", port=2001, ready=True, ports="2001-2002")
    assert (found.status, found.reachable, found.blockers) == ("open", "yes", ())
    assert found.summary.startswith("Use TCP port 2001: it is free")
    # The program is yet to come: that none listens is nothing wrong.
    assert not any(NOT_RUNNING in check.candidates for check in found.checks)
    assert {check.ports: check.primary for check in found.checks} == {
        "2000": False,
        "2001-2002": True,
    }


def test_where_none_is_reached_it_is_said_what_keeps_most() -> None:
    found = verdict((2000, REFUSED), (2001, DROPPED), (2002, DROPPED))
    assert found.suggestion == Suggestion(
        transport="tcp", port=2001, ready=False, change=DROP, ports="2001-2002"
    )
    assert (found.status, found.blockers) == ("blocked", (DROP,))
    assert "in the way of 2 of them" in found.summary
    assert "TCP port 2001" in found.summary
    (check,) = [check for check in found.checks if check.primary]
    steps = [word for fix in check.blockers[0].fix for word in fix.argv]
    # One port is to be opened, not all that are kept.
    assert "2001" in steps
    assert not any("2002" in step for step in steps)


def test_ports_of_programs_are_not_suggested() -> None:
    found = verdict((2000, OPEN), (2001, OPEN), listening=("0.0.0.0",))
    assert found.suggestion == Suggestion(
        transport="tcp", port=None, ready=False, in_use="2000-2001"
    )
    assert (found.status, found.reachable) == ("undetermined", "unknown")
    assert found.summary == (
        "None of the ports is free: programs on the destination hold 2000-2001."
    )


def test_a_program_that_listens_elsewhere_on_the_port_has_it_too() -> None:
    found = verdict((2000, OPEN), listening=("127.0.0.1",))
    assert found.suggestion is not None
    assert (found.suggestion.port, found.suggestion.in_use) == (None, "2000")


def test_a_program_on_one_of_the_ports_takes_that_one_only() -> None:
    story = Story(ports=(2000, 2001), fates=(OPEN,) * 3, listening=())
    source, destination = story.evidence()
    row = Listener(transport="tcp", address="127.0.0.1", port=2000, program="db")
    changed = msgspec.structs.replace(destination, suggest=True, listeners=(row,))
    made = judge(source, changed).suggestion
    assert made is not None
    assert (made.port, made.ports, made.in_use) == (2001, "2001", "2000")


def test_where_bothends_may_not_listen_it_is_said_so() -> None:
    story = Story(ports=(22, 80), fates=(REFUSED,) * 3, own=False, listening=())
    source, destination = story.evidence()
    found = judge(source, msgspec.structs.replace(destination, suggest=True))
    assert (found.status, found.blockers) == ("undetermined", ())
    assert "bothends itself could not listen" in found.summary
    assert found.suggestion is not None
    assert found.suggestion.port is None


@pytest.mark.parametrize("asks", ["source", "destination"])
def test_only_the_way_to_the_destination_counts(asks: str) -> None:
    story = Story(ports=(2000,), fates=(OPEN,) * 3, listening=())
    source, destination = story.evidence()
    source = msgspec.structs.replace(source, both_ways=asks == "source")
    destination = msgspec.structs.replace(
        destination, both_ways=asks == "destination", suggest=True
    )
    found = judge(source, destination)
    assert found.suggestion is not None
    assert (found.status, found.suggestion.port, found.suggestion.ready) == ("open", 2000, True)
    assert found.directions is None


def test_of_a_name_no_address_is_said_to_take_nothing() -> None:
    story = Story(ports=(2000,), fates=(OPEN,) * 3, listening=())
    source, destination = story.evidence()
    target = Target(text="nas", addresses=(THERE, "10.9.9.20"))
    source = msgspec.structs.replace(source, targets=(target,))
    found = judge(source, msgspec.structs.replace(destination, suggest=True))
    assert found.suggestion is not None
    assert found.suggestion.ready
    assert not any("None of them" in note for check in found.checks for note in check.notes)


def test_only_where_it_is_asked_for() -> None:
    story = Story(ports=(2000,), fates=(OPEN,) * 3, listening=())
    assert judge(*story.evidence()).suggestion is None
    assert judge(*story.evidence()).blockers == (NOT_RUNNING,)


def test_in_the_document_only_where_it_is_asked_for() -> None:
    asked = render.document(verdict((2000, OPEN)))
    assert asked["suggestion"] == {
        "transport": "tcp",
        "port": 2000,
        "ready": True,
        "change": "",
        "ports": "2000",
        "in_use": "",
    }
    plain = judge(*Story(ports=(2000,), fates=(OPEN,) * 3).evidence())
    assert "suggestion" not in render.document(plain)


# -- of checks


def part(
    ports: str,
    *codes: str,
    free: bool = True,
    tested: tuple[int, ...] = (),
    address: str = THERE,
    primary: bool = True,
    status: str = "",
    transport: str = "tcp",
) -> Checked:
    check = Check(
        direction="source-to-destination",
        transport=transport,
        address=address,
        ports=ports,
        primary=primary,
        status=status or ("blocked" if codes else "open"),
        reachable="no" if codes else "yes",
        blockers=tuple(Blocker(code=code, confidence="proven", because=()) for code in codes),
    )
    in_use = () if free else tuple(parse_ports(ports)[0])
    return Checked(check, free=free, tested=tested, in_use=in_use)


def test_one_that_was_tested_in_depth_comes_first() -> None:
    made = suggest([part("1000-2000", tested=(1500, 1900))], ["tcp"])
    assert made is not None
    assert (made.port, made.ports) == (1500, "1000-2000")


def test_a_port_must_be_reached_at_each_address_that_decides() -> None:
    found = [
        part("1000-1002"),
        part("1000", DROP, address="10.0.0.2"),
        part("1001-1002", address="10.0.0.2"),
        part("1001", DROP, address="10.9.9.9", primary=False),
    ]
    made = suggest(found, ["tcp"])
    assert made is not None
    assert (made.port, made.ports) == (1001, "1001-1002")


def test_one_change_must_be_enough() -> None:
    found = [
        part("1000-1999", DROP, "network.drop"),
        part("2000-2009", REJECT),
        part("3000-3099", status="undetermined"),
    ]
    made = suggest(found, ["tcp"])
    assert made is not None
    assert (made.change, made.port, made.ports) == (REJECT, 2000, "2000-2009")
    # Where none is, the port with the fewest is suggested.
    two, three = found[0], part("2000-9999", DROP, REJECT, "network.drop")
    made = suggest([three, two], ["tcp"])
    assert made == Suggestion(transport="tcp", port=1000, ready=False, ports="1000-1999")
    assert "drops the connection, and " in suggested(made, [three, two])[1]


def test_a_transport_by_which_one_is_reached_comes_first() -> None:
    found = [part("1000", DROP), part("2000", transport="udp")]
    made = suggest(found, ["tcp", "udp"])
    assert made is not None
    assert (made.transport, made.port, made.ready) == ("udp", 2000, True)
    assert suggest([], ["tcp"]) is None


def test_where_nothing_is_known_nothing_is_made_primary() -> None:
    found = [part("1000-1999", status="undetermined"), part("2000", status="undetermined")]
    made = suggest(found, ["tcp"])
    assert made is not None
    assert made.port is None
    checks, sentence = suggested(made, found)
    assert checks == tuple(p.check for p in found)
    assert "not known what is in the way" in sentence
    # Ports of which nothing is known are neither free nor held.
    unknown = [part("1000-1999", status="undetermined", free=False)]
    unknown[0] = msgspec.structs.replace(unknown[0], in_use=())
    made = suggest(unknown, ["tcp"])
    assert made is not None
    assert "Of none of the ports is it known" in suggested(made, unknown)[1]


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        ("1000-1999", "(the same holds for 1000-1999)"),
        ("1,3,5,7,9", "(the same holds for 4 others)"),
    ],
)
def test_others_are_named_where_they_are_few_ranges(ports: str, words: str) -> None:
    found = [part(ports)]
    made = suggest(found, ["tcp"])
    assert made is not None
    assert words in suggested(made, found)[1]


def test_many_scattered_ports_are_told_in_a_few_words() -> None:
    ports = ",".join(map(str, range(1000, 2000, 10)))
    story = Story(
        ports=tuple(range(1000, 2000, 10)),
        fates=(DROPPED,) * 3,
        source_sees=True,
        destination_sees=True,
    )
    found = judge(*story.evidence())
    assert "100 TCP ports between 1000 and 1990" in found.summary
    (check,) = found.checks
    assert check.ports == ports
    brief = "\n".join(map(render._plain, render.text(found, role="source")))
    assert "With -v, --json or --report each of these ports is listed." in brief
    whole = "\n".join(map(render._plain, render.text(found, role="source", verbose=True)))
    assert "1980, 1990" in whole


# -- where it is looked


def ports(text: str, own: tuple[int, int] = (32768, 60999)) -> tuple[str, str]:
    left, said = sought(text, 24242, own)
    return ",".join(f"{part.transport}:{part}" for part in left), said


@pytest.mark.parametrize(
    ("typed", "looked_at"),
    [
        ("1024-5999", "tcp:1024-4241,4244-5999"),
        ("4242,5000-5001", "tcp:4242,5000-5001"),
        ("4242-4243", ""),
        ("4242,4243", "tcp:4242-4243"),
        ("50000,50001, udp:50002", "tcp:50000-50001,udp:50002"),
        ("24241-24243", "tcp:24241,24243"),
        ("24242", ""),
        ("30000-40000", "tcp:30000-32767"),
        ("40000", "tcp:40000"),
        ("udp:4241-4244,tcp:80", "tcp:80,udp:4241,4244"),
    ],
)
def test_what_is_looked_through(typed: str, looked_at: str) -> None:
    assert ports(typed)[0] == looked_at


def test_what_the_system_takes_itself_is_left_out_with_a_word() -> None:
    left, said = ports("30000-65535")
    assert left == "tcp:30000-32767,61000-65535"
    assert said.startswith("Left out: 32768-60999, since this computer takes ports from 32768-")
    assert ports("1024-5999")[1] == ""


def test_which_ports_the_system_takes_itself(tmp_path: Path) -> None:
    file = tmp_path / "range"
    file.write_text("32768\t60999\n", encoding="ascii")
    assert given_ports((1, 2), file) == (32768, 60999)
    file.write_text("nothing", encoding="ascii")
    assert given_ports((1, 2), file) == given_ports((1, 2), tmp_path / "none") == (1, 2)
    assert own_choice() in ((49152, 65535), given_ports())
