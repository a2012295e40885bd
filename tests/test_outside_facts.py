"""What others say of a side: kept as it is where it is fit to be shown, and told in sentences."""

from __future__ import annotations

import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bothends.render import document
from bothends_protocol.evidence import (
    Mapping,
    NatBehaviour,
    OpenedMapping,
    RouterWord,
    SeenAs,
)
from bothends_protocol.outside_facts import (
    MAX_LISTED,
    MAX_SAID,
    OutsideFacts,
    outside_facts,
    punching,
    read_outside,
    tidy,
)
from bothends_protocol.outside_words import outside_lines
from evidence_builder import Story
from samples import OUTSIDE, VERDICTS, host
from schema import validate

DESTINATION = OUTSIDE["destination"]


def lines(facts: OutsideFacts, *own: str) -> list[str]:
    return [said.text for said in outside_lines(facts, "destination", own)]


def with_outside(**more: Any) -> dict[str, Any]:
    return document(
        VERDICTS["open"],
        source=host("anna"),
        destination=host("nas"),
        **({"outside": OUTSIDE} | more),
    )


def test_what_is_well_formed_stays_as_it_is() -> None:
    for facts in OUTSIDE.values():
        assert tidy(facts) == facts
    _, destination = Story().evidence()
    held = replace(
        destination,
        seen_as=DESTINATION.seen_as,
        router_words=DESTINATION.router,
        opened=DESTINATION.opened,
        behaviours=DESTINATION.nat,
    )
    assert outside_facts(held) == DESTINATION


def test_the_document_holds_it_and_can_be_read_again() -> None:
    made = msgspec.json.decode(msgspec.json.encode(with_outside()))
    validate(made)
    for role, facts in OUTSIDE.items():
        assert read_outside(made[role]) == facts
    assert made["contact"]["punching"]["possible"] is False
    assert made["contact"]["punching"]["text"].startswith("The two cannot meet by UDP")


def test_where_nobody_said_anything_nothing_stands_there() -> None:
    for outside in ({}, {"source": OutsideFacts()}, {"source": OUTSIDE["destination"]}):
        made = with_outside(outside=outside)
        validate(made)
        assert "outside" not in made["destination"]
    assert "punching" not in with_outside(outside={})["contact"]
    assert read_outside(None) == read_outside({}) == read_outside({"outside": 7}) == OutsideFacts()


def test_of_one_side_alone_it_is_not_known_whether_the_two_can_meet() -> None:
    found = punching(None, DESTINATION)
    assert found is not None
    assert found.possible is None
    assert punching(OutsideFacts(), None) is None
    assert with_outside(outside={"destination": DESTINATION})["contact"]["punching"] == {
        "possible": None,
        "text": "Whether the two can meet by UDP through their NATs is not known.",
    }


def test_the_answer_that_says_most_counts() -> None:
    nothing = NatBehaviour(server="", mapping="unknown", filtering="unknown")
    both = [replace(side, nat=(nothing, *side.nat)) for side in OUTSIDE.values()]
    found = punching(*both)
    assert found is not None
    assert found.possible is False


NASTY = st.text(max_size=30) | st.sampled_from(
    ["<script>alert(1)</script>", "\x1b[2J", "\u202e", "\ud800", "x" * 1000, "11.0.0.1%\x1b[2J", ""]
)
ADDRESS = st.sampled_from(["11.0.0.2", "2001:db8::1", "192.168.1.1"]) | NASTY
TRANSPORT = st.sampled_from(["tcp", "udp"]) | NASTY
PROTOCOL = st.sampled_from(["upnp", "pcp", "nat-pmp", ""]) | NASTY
NUMBER = st.integers(-(2**40), 2**40)
PORT = st.integers(0, 65535)
BEHAVIOUR = st.sampled_from(["none", "address-dependent", "unknown"]) | NASTY
OUTCOME = st.sampled_from(["answers", "silent", "granted", "refused", "failed"]) | NASTY

mappings = st.builds(
    Mapping,
    transport=TRANSPORT,
    port=PORT,
    client=st.none() | ADDRESS,
    client_port=PORT,
    lease=st.none() | NUMBER,
    enabled=st.booleans(),
)
hostile = st.builds(
    OutsideFacts,
    seen_as=st.lists(
        st.builds(
            SeenAs,
            address=ADDRESS,
            by=st.sampled_from(["stun", "rendezvous"]) | NASTY,
            said_by=ADDRESS,
            port=PORT,
            local_port=PORT,
        ),
        max_size=3,
    ).map(tuple),
    router=st.lists(
        st.builds(
            RouterWord,
            protocol=PROTOCOL,
            router=ADDRESS,
            outcome=OUTCOME,
            detail=NASTY,
            outside=st.none() | ADDRESS,
            mappings=st.lists(mappings, max_size=3).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    opened=st.lists(
        st.builds(
            OpenedMapping,
            round=st.integers(0, 9),
            transport=TRANSPORT,
            port=PORT,
            protocol=PROTOCOL,
            router=ADDRESS,
            outcome=OUTCOME,
            detail=NASTY,
            outside=st.none() | ADDRESS,
            lease=NUMBER,
            kept=st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    nat=st.lists(
        st.builds(
            NatBehaviour,
            server=ADDRESS,
            mapping=BEHAVIOUR,
            filtering=BEHAVIOUR,
            keeps_port=st.none() | st.booleans(),
            detail=NASTY,
        ),
        max_size=3,
    ).map(tuple),
)


@given(hostile)
def test_whatever_a_peer_sends_keeps_the_contract_and_can_be_said(facts: OutsideFacts) -> None:
    kept = tidy(facts)
    assert tidy(kept) == kept
    validate(with_outside(outside={"source": kept, "destination": kept}))
    for line in lines(kept, "192.168.1.1"):
        assert len(line) < 2 * MAX_SAID
        assert not any(unicodedata.category(char).startswith("C") for char in line)


def test_lists_have_an_end() -> None:
    many = replace(DESTINATION, router=DESTINATION.router[:1] * 1000)
    assert len(tidy(many).router) == MAX_LISTED


# -- sentences


def test_a_router_that_leads_to_the_destination() -> None:
    (word, *_) = DESTINATION.router
    mine = Mapping(transport="tcp", port=4242, client="192.168.1.20", client_port=4242, lease=5400)
    off = replace(mine, lease=30, enabled=False)
    said = lines(OutsideFacts(router=(replace(word, mappings=(mine, off)),)), "192.168.1.20")
    assert said[2:] == [
        (
            "UPnP: TCP port 4242 leads to 192.168.1.20, port 4242 (the destination itself), for "
            "another 90 minutes."
        ),
        (
            "UPnP: TCP port 4242 leads to 192.168.1.20, port 4242 (the destination itself), for "
            "another 30 seconds; it is switched off."
        ),
    ]


def test_no_forward_and_what_the_router_says_of_itself() -> None:
    said = lines(DESTINATION)
    assert "It says (UPnP) that its own outside address is 11.0.0.2." in said
    assert (
        "UPnP: TCP port 4243 is not forwarded, unless it was set up by hand, which is not always "
        "told." in said
    )
    assert not [line for line in said if line.startswith("PCP")]
    told = replace(DESTINATION, router=tuple(replace(w, detail="so.") for w in DESTINATION.router))
    assert [line for line in lines(told) if line.endswith(": so.")] == ["UPnP: so."]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcome": "granted", "detail": ""}, ", and it did: it was open for the test only."),
        (
            {"outcome": "granted", "kept": True, "lease": 7200},
            ", and it did: it stays open (--keep-map) for 2 hours.",
        ),
        ({"outcome": "permanent-only", "detail": ""}, "ports for ever only, which --keep-map"),
        ({"outcome": "silent", "protocol": "", "detail": ""}, "4242 (--map), and it did not:"),
    ],
)
def test_what_came_of_asking_for_the_port(changes: dict[str, Any], said: str) -> None:
    (opened,) = DESTINATION.opened
    (line,) = lines(OutsideFacts(opened=(replace(opened, **changes),)))
    assert line.startswith("bothends asked the router (192.168.1.1) to open TCP port 4242 (--map")
    assert said in line


@pytest.mark.parametrize(
    ("mapping", "filtering", "said"),
    [
        ("none", "none", "No NAT stands before the destination, and the way in lets everything in"),
        ("none", "unknown", "No NAT stands before the destination."),
        ("unknown", "unknown", "How the NAT before the destination treats UDP is not known. One."),
        ("endpoint-independent", "unknown", "for UDP: it shows all others the same port."),
    ],
)
def test_how_a_nat_behaves(mapping: str, filtering: str, said: str) -> None:
    nat = NatBehaviour(server="", mapping=mapping, filtering=filtering, detail="One.")
    (line,) = lines(OutsideFacts(nat=(nat,)))
    assert said in line


def test_an_address_of_its_own_that_others_see_is_not_translated() -> None:
    (line,) = lines(OutsideFacts(seen_as=DESTINATION.seen_as), "11.0.0.2")
    assert line.endswith("told it, which is its own: no router translates it.")
