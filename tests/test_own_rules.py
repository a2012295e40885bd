"""Which rules of this host are written into the evidence, and when they are read at all."""

from __future__ import annotations

import asyncio

import pytest

from bothends import own_rules
from bothends.own_rules import MAX_QUOTED, OwnRules
from bothends.recorder import Recorder
from bothends.witness.rules import RuleSet, find, ruleset_of
from bothends_protocol.evidence import MAX_TEXT, Probe

HERE, THERE = "192.168.7.20", "192.168.7.10"

LISTING = """table inet filter { # handle 1
\tchain input { # handle 2
\t\ttype filter hook input priority filter; policy accept;
\t\ttcp dport 4242 drop # handle 3
\t}
}
"""
DOCUMENT = {
    "nftables": [
        {"table": {"family": "inet", "name": "filter", "handle": 1}},
        {
            "chain": {
                "family": "inet",
                "table": "filter",
                "name": "input",
                "handle": 2,
                "type": "filter",
                "hook": "input",
                "prio": 0,
                "policy": "accept",
            }
        },
        {
            "rule": {
                "family": "inet",
                "table": "filter",
                "chain": "input",
                "handle": 3,
                "expr": [
                    {
                        "match": {
                            "op": "==",
                            "left": {"payload": {"protocol": "tcp", "field": "dport"}},
                            "right": 4242,
                        }
                    },
                    {"drop": None},
                ],
            }
        },
    ]
}


def probe(port: int = 4242) -> Probe:
    return Probe(transport="tcp", address=HERE, port=port)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[RuleSet]:
    """Every reading that was made."""
    made: list[RuleSet] = []

    async def read() -> RuleSet:
        await asyncio.sleep(0)
        made.append(ruleset_of(DOCUMENT, LISTING))
        return made[-1]

    monkeypatch.setattr(own_rules, "read_ruleset", read)
    return made


async def test_rules_are_read_once_and_only_where_something_failed(readings: list[RuleSet]) -> None:
    recorder = Recorder("destination")
    rules = OwnRules(recorder, privileged=True)
    await rules.write(THERE)
    assert (recorder.rules, readings) == ([], [])
    rules.want_awaited([probe()], {HERE: "eth0"})
    rules.want_awaited([probe(), probe(80)], {HERE: "eth0"})
    await rules.write(THERE)
    await rules.close()
    assert len(readings) == 1
    (found,) = recorder.rules
    assert (found.port, found.verdict, found.answer, found.certain) == (4242, "drop", False, True)
    assert "tcp dport 4242 drop" in found.text
    assert recorder.witnesses["rules"].available


async def test_who_may_not_list_rules_does_not_try(readings: list[RuleSet]) -> None:
    recorder = Recorder("destination")
    rules = OwnRules(recorder, privileged=False)
    rules.want_awaited([probe()], {})
    await rules.write(THERE)
    await rules.close()
    assert (recorder.rules, readings) == ([], [])


async def test_rules_that_cannot_be_read_are_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def read() -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(own_rules, "read_ruleset", read)
    recorder = Recorder("source")
    rules = OwnRules(recorder, privileged=True)
    rules.want_sent([probe()], {})
    await rules.write(HERE)
    assert recorder.rules == []
    assert not recorder.witnesses["rules"].available


async def test_only_so_many_are_looked_up_and_no_text_is_too_long(
    readings: list[RuleSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder("destination")
    rules = OwnRules(recorder, privileged=True)

    def longer(*arguments: object) -> object:
        quote = find(*arguments)  # type: ignore[arg-type]
        return quote and type(quote)("x \n" * MAX_TEXT, quote.verdict, quote.certain)

    monkeypatch.setattr(own_rules, "find", longer)
    rules.want_awaited([probe(4242 + extra) for extra in range(100)], {})
    assert len(rules._awaited) == MAX_QUOTED
    await rules.write(THERE)
    assert len(readings) == 1
    assert [len(found.text) for found in recorder.rules] == [MAX_TEXT]


async def test_a_reading_under_way_is_ended_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def read() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    monkeypatch.setattr(own_rules, "read_ruleset", read)
    rules = OwnRules(Recorder("source"), privileged=True)
    rules.want_sent([probe()], {})
    await asyncio.sleep(0)
    await rules.close()
    await rules.close()
    assert ended.is_set()
