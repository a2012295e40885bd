"""Ways: what requests with a small time to live tell of the hops to a port."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.evidence import HopProbe, Icmp
from bothends_protocol.ways import (
    INITIAL,
    SILENCE,
    Stretch,
    Way,
    asked_least,
    farthest_other,
    stretch_of,
    way_back_of,
    way_of,
)

ADDRESS, PORT = "11.0.1.1", 4242
OWN, FAR = "192.168.1.1", "11.255.0.1"


CONTROL = 24242


def probe(
    hops: int,
    outcome: str = "silent",
    sender: str = "",
    *,
    least: int = 0,
    port: int = PORT,
    local_port: int = 0,
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
        local_port=local_port,
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


# -- where requests to one port end, and others go on


def routers(count: int, port: int, *, upto: int | None = None) -> list[HopProbe]:
    """Requests to a port, two for each hop, of which those up to a hop are answered."""
    last = count if upto is None else upto
    return [
        probe(hop, "expired", f"11.0.9.{hop}", port=port) if hop <= last else probe(hop, port=port)
        for hop in range(1, count + 1)
        for _ in range(2)
    ]


def stretch(probes: list[HopProbe]) -> Stretch | None:
    control = farthest_other(probes, ADDRESS, PORT)
    return stretch_of(way_of(probes, ADDRESS, PORT), control, ADDRESS)


def asked_again(hop: int, *after: HopProbe) -> list[HopProbe]:
    return [*[probe(hop)] * 3, *after]


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_filter_is_between_the_last_hop_that_answers_and_the_next_that_answers_others(
    last: int,
) -> None:
    others = [*routers(3, CONTROL), probe(4, "connected", port=CONTROL)]
    name = f"11.0.9.{last + 1}"
    again = asked_again(last + 1, probe(last + 1, "expired", name, port=CONTROL))
    found = stretch([*routers(3, PORT, upto=last), probe(4), *others, *again])
    assert found == Stretch(last, last + 1, f"11.0.9.{last}" if last else "", name, 4)
    assert (found.narrow, found.before_end) == (True, True)


def test_behind_the_last_router_it_is_that_or_the_other_side() -> None:
    others = [*routers(2, CONTROL), probe(3, "connected", port=CONTROL)]
    again = asked_again(3, probe(3, "connected", port=CONTROL))
    found = stretch([*routers(2, PORT), probe(3), probe(3), *others, *again])
    assert found == Stretch(2, 3, "11.0.9.2", ADDRESS, 3)
    assert (found.narrow, found.before_end) == (True, False)


def test_silence_of_who_need_not_answer_is_no_filter() -> None:
    others = [*routers(2, CONTROL), *[probe(3, "connected", port=CONTROL)] * 3]
    probes = [*routers(2, PORT), *[probe(3)] * SILENCE, *others]
    way, control = way_of(probes, ADDRESS, PORT), way_of(probes, ADDRESS, CONTROL)
    assert stretch_of(way, control, ADDRESS) is not None
    assert stretch_of(way, control, ADDRESS, answers=False) is None
    # What a router on the way does not get is another thing.
    fewer = [p for p in probes if p.port == CONTROL or p.hops != 2 or p.outcome == "silent"]
    again = asked_again(2, *[probe(2)] * 2, probe(2, "expired", FAR, port=CONTROL))
    way = way_of([*fewer, *again], ADDRESS, PORT)
    control = way_of([*fewer, *again], ADDRESS, CONTROL)
    found = stretch_of(way, control, ADDRESS, answers=False)
    assert found is not None
    assert (found.last, found.first, found.end) == (1, 2, 3)


def test_hops_that_say_nothing_to_anybody_are_left_out() -> None:
    others = [probe(hop, port=CONTROL) for hop in (1, 2)]
    others += [probe(3, "expired", FAR, port=CONTROL), probe(4, "connected", port=CONTROL)]
    again = asked_again(3, probe(3, "expired", FAR, port=CONTROL))
    mine = [probe(hop) for hop in (1, 1, 2, 2, 3, 3, 4, 4)]
    found = stretch([*mine, *others, *again])
    assert found == Stretch(0, 3, "", FAR, 4)
    assert found.before_end


def test_where_no_router_says_anything_the_stretch_is_the_whole_way() -> None:
    others = [probe(1, port=CONTROL), probe(2, "connected", port=CONTROL)]
    again = asked_again(2, probe(2, "connected", port=CONTROL))
    found = stretch([*[probe(hop) for hop in (1, 1, 2, 2)], *others, *again])
    assert found is not None
    assert (found.narrow, found.before_end) == (False, False)


def test_a_hop_that_has_used_up_its_words_shows_nothing() -> None:
    others = [probe(1, "expired", OWN, port=CONTROL), probe(2, "connected", port=CONTROL)]
    mine = [probe(1), probe(1)]
    # It answered the other port before, and neither of them afterwards.
    assert stretch([*others, *mine, *asked_again(1, probe(1, port=CONTROL))]) is None
    spoke = probe(1, "expired", OWN, port=CONTROL)
    assert stretch([*others, *mine, *asked_again(1, spoke)]) is not None


def test_few_requests_are_no_silence() -> None:
    others = [probe(1, "expired", OWN, port=CONTROL)]
    assert stretch([probe(1), probe(1), *others]) is None


def test_a_refusal_of_nobody_known_is_between_two_hops() -> None:
    others = [*routers(3, CONTROL), probe(4, "connected", port=CONTROL)]
    mine = [*routers(1, PORT), probe(2, "refused"), probe(3, "refused")]
    found = stretch([*mine, *others])
    assert found == Stretch(1, 2, "11.0.9.1", "11.0.9.2", 4)
    named = [*routers(1, PORT), probe(2, "unreachable", FAR)]
    assert stretch([*named, *others]) is None


def test_the_other_port_is_the_one_that_gets_farthest() -> None:
    near = [probe(1, "expired", OWN, port=80), probe(2, port=80)]
    far = [probe(1, "expired", OWN, port=CONTROL), probe(2, "expired", FAR, port=CONTROL)]
    assert farthest_other([*near, *far], ADDRESS, PORT).last == 2
    assert farthest_other([], ADDRESS, PORT) == Way()


def test_the_way_back_is_known_by_the_port_it_comes_from() -> None:
    tested = [probe(1, "expired", OWN, port=40_000, local_port=PORT), probe(2, local_port=PORT)]
    others = [probe(1, "expired", OWN, port=40_001), probe(2, "refused", port=40_002)]
    probes = [*tested, *others]
    assert way_back_of(probes, ADDRESS, PORT).expired == {1: OWN}
    assert way_back_of(probes, ADDRESS, PORT).silent == {2}
    assert way_back_of(probes, ADDRESS, 0).end == (2, "refused", "")


@given(st.lists(any_probe, max_size=30), st.lists(any_probe, max_size=30))
def test_any_ways_make_a_stretch_in_order(mine: list[HopProbe], others: list[HopProbe]) -> None:
    found = stretch_of(way_of(mine, ADDRESS, PORT), way_of(others, ADDRESS, PORT))
    if found is not None:
        assert found.last < found.first
