"""Masked evidence: no address is left in it, and the judge says the same of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect
from msgspec.structs import replace

from bothends_protocol import sealed
from bothends_protocol.addresses import family, is_loopback, is_wildcard
from bothends_protocol.evidence import Evidence
from bothends_protocol.judge import judge
from bothends_protocol.masked import RULES, Mask, mask_key
from bothends_protocol.verdict import Verdict
from bothends_protocol.wire import pack
from evidence_builder import CARD, HERE, ROUTER, THERE
from saved_pairs import CODE, OTHER_CODE, STORIES, with_strangers

MASK = Mask(b"key" * 11)

fours = st.integers(0, 2**32 - 1).map(lambda n: str(ipaddress.IPv4Address(n)))
sixes = st.integers(0, 2**128 - 1).map(lambda n: str(ipaddress.IPv6Address(n)))
known = st.sampled_from(
    [
        *("192.168.7.10", "10.0.0.1", "10.255.255.255", "172.16.3.4", "100.64.0.1", "169.254.1.2"),
        *("127.0.0.1", "0.0.0.0", "224.0.0.251", "255.255.255.255", "8.8.8.8", "11.0.0.1"),
        *("::1", "::", "fe80::1", "fd00::20", "fc00::1", "ff02::1", "2001:db8::1", "2606:4700::1"),
    ]
)
addresses = fours | sixes | known


def value(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text)


def shared(one: str, other: str) -> int:
    """How many leading bits two addresses of one family share."""
    a, b = value(one), value(other)
    return a.max_prefixlen - (int(a) ^ int(b)).bit_length()


# -- addresses


@given(addresses)
def test_the_kind_of_an_address_stays(text: str) -> None:
    if ipaddress.ip_address(text).version == 6 and ipaddress.IPv6Address(text).ipv4_mapped:
        return  # it is told as an IPv4 address
    before, after = value(text), value(MASK.address(text))
    assert after.version == before.version
    assert is_loopback(str(after)) == is_loopback(text)
    assert is_wildcard(str(after)) == is_wildcard(text)
    assert after.is_link_local == before.is_link_local
    assert after.is_multicast == before.is_multicast
    ranges = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
    for block in map(ipaddress.ip_network, ranges):
        if block.version == before.version:
            assert (after in block) == (before in block)


@given(fours | known, fours | known)
def test_leading_bits_are_shared_as_before(one: str, other: str) -> None:
    if family(one) == family(other):
        assert shared(MASK.address(one), MASK.address(other)) == shared(one, other)


@given(sixes, st.integers(0, 127))
def test_leading_bits_of_ipv6_are_shared_as_before(one: str, place: int) -> None:
    other = str(ipaddress.IPv6Address(int(value(one)) ^ 1 << place))
    if value(one).version == 6 and not {0} & {int(value(one)) >> 96, int(value(other)) >> 96}:
        assert shared(MASK.address(one), MASK.address(other)) == shared(one, other)


def test_addresses_are_changed_and_never_made_equal() -> None:
    texts = [f"192.168.{a}.{b}" for a in range(8) for b in range(0, 256, 5)]
    masked = [MASK.address(text) for text in texts]
    assert len(set(masked)) == len(texts)
    assert sum(a == b for a, b in zip(texts, masked, strict=True)) < 3


def test_other_keys_make_other_addresses() -> None:
    assert Mask(b"other").address(HERE) != MASK.address(HERE)


def test_the_key_is_that_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "SCRYPT_COST", 1)
    assert mask_key(CODE) == mask_key(CODE) != mask_key(OTHER_CODE)


def test_zones_stay_and_forms_are_one() -> None:
    assert MASK.address("fe80::1%eth0") == MASK.address("fe80::1") + "%eth0"
    assert MASK.address("FE80:0::1") == MASK.address("fe80::1")
    assert MASK.address("::ffff:192.168.7.10") == MASK.address("192.168.7.10")


@pytest.mark.parametrize("text", ["nas.example", "NAS.example", "not an address", "1.2.3"])
def test_what_is_no_address_becomes_a_name(text: str) -> None:
    assert MASK.address(text).startswith("name-")
    assert MASK.address("nas.example") == MASK.address("NAS.example")


def test_hardware_addresses_and_interfaces_named_by_them() -> None:
    assert MASK.hardware(CARD.upper()) == MASK.hardware(CARD) != CARD
    assert MASK.hardware("00:00:00:00:00:00") == "00:00:00:00:00:00"
    assert MASK.hardware(CARD)[:2] == "02"
    assert MASK.interface("eth0") == "eth0"
    assert MASK.interface("enx02005e000020") not in ("enx02005e000020", "")
    assert "02005e000020" not in MASK.address("fe80::1%enx02005e000020")


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    for ways in (MASK.address, MASK.hardware, MASK.interface, MASK.name):
        ways(text)


# -- the evidence


def texts(kind: inspect.Type) -> Iterator[tuple[str, str]]:
    """Every field of the evidence that holds text, as record and field."""
    match kind:
        case inspect.StructType(cls=cls, fields=fields):
            for field in fields:
                if any(isinstance(leaf, inspect.StrType) for leaf in leaves(field.type)):
                    yield cls.__name__, field.name
                for leaf in leaves(field.type):
                    yield from texts(leaf)


def leaves(kind: inspect.Type) -> Iterator[inspect.Type]:
    match kind:
        case inspect.Metadata(type=inner) | inspect.VarTupleType(item_type=inner):
            yield from leaves(inner)
        case inspect.UnionType(types=types):
            for one in types:
                yield from leaves(one)
        case inspect.DictType(key_type=key, value_type=inner):
            yield from leaves(key)
            yield from leaves(inner)
        case _:
            yield kind


def test_of_every_text_it_is_known_what_is_done_to_it() -> None:
    found = set(texts(inspect.type_info(Evidence)))
    rules = {place for place in found if place[0] == "MatchingRule"}
    assert found - rules == set(RULES)


@pytest.mark.parametrize("name", STORIES)
def test_nothing_that_tells_who_it_was_is_left(name: str) -> None:
    secrets = [HERE, THERE, ROUTER, CARD, "secret-host", "nas.example", "198.51.100", "192.168.7."]
    for side in with_strangers(STORIES[name]):
        masked = pack(MASK.evidence(side)).decode("latin-1")
        assert not [secret for secret in secrets if secret in masked]


def test_what_the_verdict_does_not_need_is_left_out() -> None:
    source, destination = map(MASK.evidence, with_strangers(STORIES["dropped"]))
    assert source.contact.refused == ()
    assert destination.rules == ()
    assert destination.facts.firewalls[0].detail == ""
    assert destination.facts.notes == ("Avast",)


def test_an_unknown_text_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, ("Firewall", "name"))
    _, destination = map(MASK.evidence, with_strangers(STORIES["dropped"]))
    assert destination.facts.firewalls[0].name == ""


def gist(verdict: Verdict, mask: Mask | None = None) -> object:
    """What must be the same of a masked pair, with the addresses as `mask` shows them."""
    return (
        (verdict.status, verdict.reachable, verdict.blockers, verdict.warnings),
        (verdict.candidates, verdict.directions),
        [
            (
                mask.address(check.address) if mask else check.address,
                replace(check, address="", segments=(), blockers=(), notes=()),
                [(one.code, one.confidence, len(one.because)) for one in check.blockers],
                [(segment.name, segment.status) for segment in check.segments],
            )
            for check in verdict.checks
        ],
    )


@pytest.mark.parametrize("name", STORIES)
def test_the_judge_says_the_same_of_it(name: str) -> None:
    pair = [replace(side, rules=()) for side in with_strangers(STORIES[name])]
    masked = judge(*map(MASK.evidence, pair))
    assert gist(masked) == gist(judge(*pair), MASK)


@pytest.mark.parametrize("key", [bytes([n]) * 32 for n in range(5)])
def test_so_it_is_under_any_key(key: bytes) -> None:
    mask = Mask(key)
    for one, other in combinations(STORIES.values(), 2):
        if one.prober == other.prober:
            # Halves of different stories make what no run would: more to be told apart.
            pair = one.evidence()[0], other.evidence()[1]
            assert gist(judge(*map(mask.evidence, pair))) == gist(judge(*pair), mask)
