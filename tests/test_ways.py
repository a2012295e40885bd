"""Ways: what requests with a small time to live tell of the hops to a port."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.evidence import HopProbe, Icmp
from bothends_protocol.ways import INITIAL, SILENCE, Way, asked_least, way_of

ADDRESS, PORT = "11.0.1.1", 4242
OWN, FAR = "192.168.1.1", "11.255.0.1"


def probe(
    hops: int, outcome: str = "silent", sender: str = "", *, least: int = 0, port: int = PORT
) -> HopProbe:
    icmp = Icmp(kind=11 if outcome == "expired" else 3, code=0, sender=sender) if sender else None
    return HopProbe(
        round=1,
        transport="tcp",
        address=ADDRESS,
        port=port,
        hops=hops,
        outcome=outcome,
        icmp=icmp,
        least=least,
    )


def test_nothing_asked_is_no_way() -> None:
    way = way_of((), ADDRESS, PORT)
    assert (way, way.end, way.last, way.falls_silent) == (Way(), None, 0, False)


def test_the_hops_in_order() -> None:
    probes = [
        probe(3, "refused"),
        probe(2, "expired", FAR),
        probe(1, "expired", OWN),
        probe(1),
        probe(4, "refused"),
    ]
    way = way_of(probes, ADDRESS, PORT)
    assert way.expired == {1: OWN, 2: FAR}
    assert way.end == (3, "refused", "")
    assert (way.last, way.silent, way.asked) == (2, frozenset(), 5)
    assert (way.place_of(FAR), way.place_of("11.9.9.9")) == (2, None)


def test_other_ports_and_addresses_are_other_ways() -> None:
    probes = [probe(1, "expired", OWN), probe(2, "expired", FAR, port=24242)]
    assert way_of(probes, ADDRESS, PORT).expired == {1: OWN}
    assert way_of(probes, ADDRESS, 24242).expired == {2: FAR}
    assert way_of(probes, "11.0.1.2", PORT) == Way()
    assert way_of(probes, f"::ffff:{ADDRESS}", PORT).expired == {1: OWN}


def test_a_hop_that_answered_once_is_not_silent() -> None:
    assert way_of([probe(1), probe(1, "expired", OWN), probe(2)], ADDRESS, PORT).silent == {2}


def test_who_says_that_it_expired_without_a_name_is_not_known() -> None:
    assert way_of([probe(1, "expired")], ADDRESS, PORT).expired == {}


def test_the_sender_of_an_error_is_kept() -> None:
    way = way_of([probe(2, "unreachable", FAR), probe(3, "connected")], ADDRESS, PORT)
    assert way.end == (2, "unreachable", FAR)


@pytest.mark.parametrize("count", range(1, SILENCE + 2))
def test_a_way_falls_silent_where_it_was_asked_often_enough(count: int) -> None:
    way = way_of([probe(1, "expired", OWN), *[probe(2)] * count, probe(3)], ADDRESS, PORT)
    assert way.falls_silent == (count >= SILENCE)
    heard = way_of([probe(1), *[probe(2)] * count, probe(2, "expired", OWN)], ADDRESS, PORT)
    assert not heard.falls_silent


# -- how far a refusal came


def refusal(hop: int, sender: int, initial: int) -> Way:
    """The way that ends at `hop`, where the machine at hop `sender` refuses."""
    came_with = initial - (sender - 1)
    asked = [
        probe(0, "refused" if came_with >= least else "silent", least=least)
        for least in asked_least(hop)
    ]
    return way_of([probe(hop, "refused"), *asked], ADDRESS, PORT)


hops = st.integers(1, 24)


@given(hop=hops, initial=st.sampled_from(INITIAL), before=st.booleans())
def test_a_refusal_of_the_last_hop_is_told_from_one_of_the_hop_before(
    *, hop: int, initial: int, before: bool
) -> None:
    sender = max(hop - before, 1)
    assert refusal(hop, sender, initial).refused_after == sender


@given(hops, hops, st.sampled_from(INITIAL))
def test_the_way_of_a_refusal_is_told_rightly_or_not_at_all(
    hop: int, sender: int, initial: int
) -> None:
    assert refusal(hop, sender, initial).refused_after in (sender, None)


def test_where_no_answer_was_taken_nothing_is_known() -> None:
    asked = [probe(0, least=least) for least in asked_least(4)]
    assert way_of(asked, ADDRESS, PORT).refused_after is None
    assert way_of([], ADDRESS, PORT).refused_after is None


@given(st.lists(st.tuples(st.integers(0, 255), st.booleans()), max_size=20))
def test_any_answers_are_taken(taken: list[tuple[int, bool]]) -> None:
    probes = [probe(0, "refused" if was else "silent", least=least) for least, was in taken]
    after = way_of(probes, ADDRESS, PORT).refused_after
    assert after is None or 1 <= after <= max(INITIAL)


@given(hops)
def test_what_is_asked_fits_into_a_byte(hop: int) -> None:
    asked = asked_least(hop)
    assert all(1 <= least <= 255 for least in asked)
    assert list(asked) == sorted(set(asked))


any_probe = st.builds(
    HopProbe,
    round=st.just(1),
    transport=st.just("tcp"),
    address=st.sampled_from([ADDRESS, "nonsense", ""]),
    port=st.sampled_from([PORT, 1]),
    hops=st.integers(0, 255),
    outcome=st.sampled_from(["expired", "connected", "refused", "unreachable", "silent", ""]),
    icmp=st.none() | st.builds(Icmp, kind=st.just(11), code=st.just(0), sender=st.text(max_size=9)),
    least=st.integers(0, 255),
)


@given(st.lists(any_probe, max_size=30), st.text(max_size=9))
def test_any_probes_make_a_way(probes: list[HopProbe], address: str) -> None:
    way = way_of(probes, ADDRESS, PORT)
    assert not way.silent & (way.expired.keys() | way.ends.keys())
    assert sum(way.tries.values()) == way.asked <= len(probes)
    assert way.place_of(address) is None or way.place_of(address) in way.expired
