"""What both evidences tell of the routers between the two, observation by observation."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from bothends_protocol.evidence import (
    Acceptance,
    Address,
    Evidence,
    Mapping,
    Route,
    RouterWord,
    SeenAs,
)
from bothends_protocol.observations import observe
from bothends_protocol.translation import (
    Neighbourhood,
    Translation,
    landing_of,
    neighbourhood,
    outside_of,
    own_addresses,
    view_translation,
)
from evidence_builder import HERE, PORT, THERE, Story
from nat_builder import (
    HOME,
    INSIDE,
    OTHER_INSIDE,
    PUBLIC,
    SOURCE_INSIDE,
    SOURCE_PUBLIC,
    Homes,
)

changed = msgspec.structs.replace


def around(source: Evidence, table: Evidence) -> Neighbourhood:
    return neighbourhood(source, table, one_gateway=None)


def seen(homes: Homes) -> Translation:
    source, table = homes.evidence()
    found = view_translation(source, table, ("tcp", PUBLIC, PORT), around(source, table))
    assert found is not None
    return found


def word(outside: str | None = PUBLIC, *mappings: Mapping) -> RouterWord:
    return RouterWord(
        protocol="pcp", router=HOME, outcome="answers", outside=outside, mappings=mappings
    )


# -- where the two are


def test_own_addresses_are_those_of_the_cards_and_of_the_contact() -> None:
    _, table = Story().evidence()
    assert own_addresses(table) == {THERE}
    contact = changed(table.contact, local="fe80::1%eth0")
    assert own_addresses(changed(table, contact=contact)) == {THERE, "fe80::1"}
    assert own_addresses(changed(table, contact=changed(contact, local=""))) == {THERE}


def test_how_a_side_looks_is_what_anybody_was_told() -> None:
    source, table = Homes(told=False).evidence()
    assert outside_of(table, source) == frozenset()
    stun = (SeenAs(address=PUBLIC, by="stun"), SeenAs(address="10.0.0.1", by="stun"))
    assert outside_of(changed(table, seen_as=stun), source) == {PUBLIC}
    assert outside_of(table, changed(source, confirmed=(PUBLIC,))) == {PUBLIC}
    assert outside_of(changed(table, router_words=(word(),)), source) == {PUBLIC}
    assert outside_of(changed(table, router_words=(word("10.0.0.7"),)), None) == frozenset()


def test_a_router_has_its_own_address_whatever_others_see_through_a_tunnel() -> None:
    _, table = Homes(told=False).evidence()
    tunnel = changed(
        table, seen_as=(SeenAs(address="11.0.77.1", by="stun"),), router_words=(word(),)
    )
    assert outside_of(tunnel, None) == {PUBLIC, "11.0.77.1"}


def test_two_in_two_homes_are_apart_and_two_in_one_are_not() -> None:
    apart = around(*Homes().evidence())
    assert (apart.together, apart.apart) == (False, True)
    assert apart.source_public == {SOURCE_PUBLIC}
    assert apart.destination_public == {PUBLIC}
    one = around(*Homes(one_home=True).evidence())
    assert (one.together, one.apart) == (True, False)


def test_customers_of_one_carrier_may_share_an_address() -> None:
    source, table = Homes(one_home=True).evidence()
    carrier = changed(table, router_words=(word("100.64.0.7"),))
    assert around(source, carrier).together is None


def test_nothing_is_known_without_either() -> None:
    source, table = Homes().evidence()
    assert neighbourhood(None, table, one_gateway=True) == Neighbourhood()
    assert neighbourhood(source, None, one_gateway=True) == Neighbourhood()
    assert around(*Homes(told=False).evidence()).together is None


def test_one_gateway_by_its_hardware_outweighs_all_else() -> None:
    source, table = Homes().evidence()
    assert neighbourhood(source, table, one_gateway=True).together is True
    assert neighbourhood(source, table, one_gateway=False).together is False


def test_a_contact_from_card_to_card_is_within_one_network() -> None:
    source, table = Story().evidence()
    assert around(source, table).together is True
    far = changed(
        table.facts, addresses=(Address(interface="eth0", address="10.9.9.9", prefix=24),)
    )
    assert around(source, changed(table, facts=far)).together is None
    by_router = (Route(destination=THERE, gateway="192.168.7.1"),)
    assert around(changed(source, routes=by_router), table).together is None


# -- where requests come in


def test_requests_land_where_they_were_seen_or_where_the_router_says() -> None:
    _, table = Homes(destination_sees=False, pinholes=False, forward=None).evidence()
    second = Address(interface="eth1", address="192.168.1.21", prefix=24)
    facts = changed(table.facts, addresses=(*table.facts.addresses, second))
    table = changed(table, facts=facts)
    assert landing_of(table, INSIDE) == INSIDE
    assert landing_of(table, PUBLIC) == INSIDE
    there = Mapping(transport="tcp", port=PORT, client="192.168.1.21", client_port=PORT)
    assert landing_of(changed(table, router_words=(word(PUBLIC, there),)), PUBLIC) == "192.168.1.21"
    nobody = changed(there, client="192.168.1.99")
    assert landing_of(changed(table, router_words=(word(PUBLIC, nobody),)), PUBLIC) == INSIDE
    taken = Acceptance(
        at=0.1,
        transport="tcp",
        address="192.168.1.21",
        port=PORT,
        remote_address=SOURCE_PUBLIC,
        remote_port=40_000,
        genuine=True,
    )
    assert landing_of(changed(table, acceptances=(taken,)), PUBLIC) == "192.168.1.21"
    assert landing_of(table, "2a00:1::1") is None


# -- the routers of one port


def test_nobody_translates_what_is_the_destinations_own() -> None:
    source, table = Story().evidence()
    near = around(source, table)
    assert view_translation(source, table, ("tcp", THERE, PORT), near) is None
    assert view_translation(source, None, ("tcp", PUBLIC, PORT), near) is None
    assert view_translation(None, table, ("tcp", PUBLIC, PORT), near) is None
    # Nor on the source's own network.
    assert view_translation(source, table, ("tcp", HERE, PORT), near) is None


@pytest.mark.parametrize(
    ("homes", "hop"),
    [
        (Homes(firewall="drop"), 4),
        (Homes(firewall="drop", source_nat=False), 3),
        (Homes(forward=None), None),
        (Homes(carrier="drop"), None),
    ],
)
def test_a_router_that_passes_requests_on_says_so(homes: Homes, hop: int | None) -> None:
    assert seen(homes).mapped_at == hop


def test_a_filter_before_the_router_is_known_by_another_port() -> None:
    stopped = seen(Homes(source_router="drop"))
    assert (stopped.stops_after, stopped.halted, stopped.cut_in) == (1, True, False)
    answered = seen(Homes(source_router="reset"))
    assert (answered.stops_after, answered.halted, answered.cut_in) == (None, True, True)
    assert not answered.answered_by_holder
    for homes in (Homes(carrier="drop"), Homes(forward=None), Homes(firewall="drop")):
        assert not seen(homes).halted


def test_a_hop_that_two_requests_did_not_reach_is_no_filter() -> None:
    source, table = Homes(source_router="drop").evidence()
    first = [p for p in source.hop_probes if p.hops <= 2][:6]
    few = changed(source, hop_probes=tuple(first))
    found = view_translation(few, table, ("tcp", PUBLIC, PORT), around(few, table))
    assert found is not None
    assert found.stops_after is None


@pytest.mark.parametrize("others", ["reset", "icmp", "port"])
def test_who_has_the_address_answers_itself(others: str) -> None:
    found = seen(Homes(forward=None, others=others))
    assert found.answered_by_holder
    assert found.reached
    assert found.refused_behind in ((True,) if others == "reset" else (None,))


def test_a_refusal_in_somebody_elses_name_is_not_that_of_who_has_the_address() -> None:
    assert not seen(Homes(carrier="icmp")).answered_by_holder
    forged = seen(Homes(carrier="reset"))
    assert (forged.refused_behind, forged.reached) == (False, False)


def test_behind_a_hop_that_is_not_known_nobody_knows_who_refuses() -> None:
    # The requests that were to end at the router are lost, and those behind it refused.
    lost = Homes(forward=("other", PORT), other="refuses", probes_lost=frozenset({9, 10, 12, 13}))
    assert seen(replace(lost, probes_lost=frozenset())).refused_behind is True
    assert seen(lost).refused_behind is None


def test_what_the_router_says_of_the_port() -> None:
    mapped = seen(Homes(word="upnp", known_mapping=True))
    assert (mapped.word, mapped.router, mapped.to_destination) == ("upnp", HOME, True)
    other = seen(Homes(word="upnp", known_mapping=True, forward=("other", PORT)))
    assert other.to_destination is False
    assert other.mapping is not None
    assert other.mapping.client == OTHER_INSIDE
    assert seen(Homes(word="upnp")).to_destination is None
    assert seen(Homes()).mapping is None


@pytest.mark.parametrize(
    ("homes", "double", "sure", "single"),
    [
        (Homes(), False, False, True),
        (Homes(looks=False), False, False, False),
        (Homes(looks=False, word="upnp"), False, False, True),
        (Homes(above="100.64.0.1"), True, True, False),
        (Homes(above="10.0.0.1"), True, False, False),
        (Homes(above="10.0.0.1", word="upnp"), True, True, False),
        (Homes(above="10.0.0.1", own_router_speaks=False), False, False, False),
        (Homes(above="10.0.0.1", looks=False), False, False, False),
    ],
)
def test_a_second_router_is_known_or_excluded_or_neither(
    homes: Homes, *, double: bool, sure: bool, single: bool
) -> None:
    found = seen(homes)
    assert (bool(found.double), found.double_sure, found.single) == (double, sure, single)


def test_a_router_that_has_the_address_has_no_other_before_it_whatever_others_see() -> None:
    source, table = Homes(word="upnp", looks=False).evidence()
    tunnel = changed(table, seen_as=(SeenAs(address="11.0.77.1", by="stun"),))
    found = view_translation(source, tunnel, ("tcp", PUBLIC, PORT), around(source, tunnel))
    assert found is not None
    assert (found.double, found.single, found.ours) == ((), True, True)


@pytest.mark.parametrize(
    ("homes", "through"),
    [
        (Homes(forward=None), True),
        (Homes(forward=None, carrier="drop"), False),
        (Homes(forward=None, carrier="drop", destination_sees=False), None),
        (Homes(forward=None, scramble=frozenset({"destination"})), False),
        (Homes(forward=None, looks=False), None),
        (Homes(forward=None, pinholes=False), None),
        # The service has the port: nothing can be sent from it without the right to.
        (Homes(forward=None, destination_sees=False), None),
        (Homes(forward=None, destination_sees=False, listening=()), True),
    ],
)
def test_whether_requests_came_in_once_the_router_was_opened(
    homes: Homes, *, through: bool | None
) -> None:
    assert seen(homes).through_pinhole is through


@pytest.mark.parametrize(
    ("homes", "through"),
    [
        (Homes(forward=None, map="granted"), True),
        (Homes(forward=None, map="granted", listening=()), True),
        (Homes(forward=None, map="granted", carrier="drop"), False),
        (Homes(forward=None, map="granted", carrier="drop", destination_sees=False), None),
        (Homes(forward=None, map="granted", carrier="reset"), False),
        (Homes(forward=None, map="granted", firewall="drop"), True),
        # Its own filter may have kept them, and nobody saw.
        (
            Homes(
                forward=None, map="granted", firewall="drop", destination_sees=False, listening=()
            ),
            None,
        ),
        (Homes(forward=None, map="refused"), None),
        (Homes(forward=None), None),
    ],
)
def test_whether_requests_came_in_once_the_router_forwarded(
    homes: Homes, *, through: bool | None
) -> None:
    found = observe(*homes.evidence(), ("tcp", PUBLIC, PORT)).translation
    assert found is not None
    assert found.through_mapping is through


@pytest.mark.parametrize(
    ("homes", "port"),
    [
        (Homes(forward=("destination", 4243)), 4243),
        (Homes(forward=("destination", 4243), scramble=frozenset({"source"})), 4243),
        (Homes(forward=("destination", 4243), beside=True, destination_sees=False), 4243),
        (Homes(forward=("destination", 4243), destination_sees=False), None),
        (Homes(), None),
    ],
)
def test_at_which_other_port_requests_come_in(homes: Homes, port: int | None) -> None:
    assert seen(homes).other_port == port


def test_one_request_at_another_port_is_an_accident() -> None:
    source, table = Homes(forward=("destination", 4243)).evidence()
    one = changed(table, sightings=table.sightings[:1])
    found = view_translation(source, one, ("tcp", PUBLIC, PORT), around(source, one))
    assert found is not None
    assert found.other_port is None


@pytest.mark.parametrize("sees", [True, False])
def test_requests_that_keep_the_sources_own_address_are_its_own_alone(*, sees: bool) -> None:
    half = Homes(one_home=True, hairpin="half", destination_sees=sees)
    assert seen(half).unmasked
    source, table = half.evidence()
    near = around(source, table)
    elsewhere = changed(
        table,
        connections=tuple(changed(c, remote_port=50_000) for c in table.connections),
        sightings=tuple(changed(s, mss=1460) for s in table.sightings),
    )
    for other, place in (
        (elsewhere, near),
        (table, changed(near, together=False)),
    ):
        found = view_translation(source, other, ("tcp", PUBLIC, PORT), place)
        assert found is not None
        assert not found.unmasked
    assert SOURCE_INSIDE in own_addresses(source)
    assert not seen(Homes(one_home=True, hairpin="full", destination_sees=sees)).unmasked
    assert not seen(Homes(source_nat=False, told=False, destination_sees=sees)).unmasked
