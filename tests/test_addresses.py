"""Which addresses mean one host to everybody."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothends_protocol.addresses import bare, family, public


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("11.0.0.1", "11.0.0.1"),
        ("::ffff:11.0.0.1", "11.0.0.1"),
        ("2A00:1:0:0::1", "2a00:1::1"),
        *((text, "") for text in ("11.0.0.1 ", "011.0.0.1", "11.0.0.1\n", "2a00:1::1%eth0")),
        *((text, "") for text in ("10.0.0.1", "100.64.0.1", "192.0.2.1", "240.0.0.1", "0.0.0.1")),
        *((text, "") for text in ("fec0::1", "::1", "::11.0.0.1", "2001:db8::1", "ff0e::1")),
    ],
)
def test_public_addresses(text: str, found: str) -> None:
    assert public(text) == found


@given(st.text(max_size=60) | st.ip_addresses().map(str))
def test_any_text_is_one_or_none(text: str) -> None:
    found = public(text)
    if found:
        value = ipaddress.ip_address(found)
        assert (found, family(found)) == (bare(text), value.version)
        assert not value.is_private
        assert not value.is_multicast
