"""Which own addresses another computer is told to use."""

from __future__ import annotations

from bothends_protocol.evidence import Address
from bothends_protocol.offered import offered


def address(text: str, state: str = "", interface: str = "eth0", prefix: int = 64) -> Address:
    return Address(interface=interface, address=text, prefix=prefix, state=state)


FOUR = address("192.168.7.20", prefix=24)
LASTING, OTHER = address("fd07::20"), address("fd08::20")
LINK = address("fe80::20")


def test_what_is_not_for_new_connections_is_not_offered() -> None:
    for state in ("deprecated", "tentative"):
        bad = address("fd07::66", state)
        assert offered([FOUR, bad, LASTING]) == (FOUR, LASTING)
        # A link-local address is no other one of that kind, and neither is one of IPv4.
        assert offered([FOUR, LINK, bad]) == (FOUR, LINK, bad)


def test_a_temporary_address_only_where_its_network_has_no_lasting_one() -> None:
    temporary = address("fd07::abcd", "temporary")
    assert offered([temporary, LASTING]) == (LASTING,)
    assert offered([temporary, OTHER]) == (temporary, OTHER)
    assert offered([temporary, address("fd07::20", interface="wlan0")])[0] == temporary
    assert offered([temporary, address("fd07::66", "deprecated")]) == (temporary,)


def test_any_text_is_taken() -> None:
    strange = [address("no address", "temporary"), address("fd07::1", prefix=999)]
    assert offered(strange) == tuple(strange)
