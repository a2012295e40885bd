"""The published schema and the documents that the agent writes agree."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from bothends.render import document, dumps
from bothends_protocol.codes import CODES
from bothends_protocol.verdict import EXIT_STATUS, SEGMENTS, VERDICT_FORMAT
from samples import VERDICTS, host
from schema import KEYS, schema, validate


def made(name: str) -> dict[str, Any]:
    return document(
        VERDICTS[name],
        source=host("anna"),
        destination=None if name in ("lost", "no-contact") else host("nas"),
        contact={
            "path": "offline" if name == "no-contact" else "direct",
            "lost": name == "lost",
            "local": None,
            "remote": "192.168.1.9",
            "rtt": 0.0004,
            "breaks": 0,
            "refused": {"192.168.1.9:24242": "connection refused"},
        },
        seconds={"contact": 0.1, "verdict": 0.25},
    )


@pytest.mark.parametrize("name", VERDICTS)
def test_what_the_agent_writes_keeps_the_contract(name: str) -> None:
    validate(made(name))
    read = json.loads(dumps(made(name)))
    validate(read)
    absent = {"watch", "verified", "notes"}
    absent |= set() if name == "both-ways" else {"directions"}
    absent |= set() if name == "suggest" else {"suggestion"}
    assert list(read) == [key for key in KEYS if key not in absent]


def test_least_document() -> None:
    validate(document(VERDICTS["no-contact"]))


def test_words_of_the_code_are_those_of_the_schema() -> None:
    definitions = schema()["$defs"]
    properties = schema()["properties"]
    assert properties["format"]["const"] == VERDICT_FORMAT
    assert set(properties["status"]["enum"]) == set(EXIT_STATUS)
    assert definitions["segment"]["properties"]["name"]["enum"] == list(SEGMENTS)
    for code in CODES:
        plain = made("open")
        plain["warnings"] = [code]
        validate(plain)


def broken(*path: object, value: object) -> dict[str, Any]:
    plain: dict[str, Any] = copy.deepcopy(json.loads(dumps(made("blocked"))))
    place: Any = plain
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return plain


@pytest.mark.parametrize(
    "plain",
    [
        broken("format", value="bothends-verdict/2"),
        broken("verdict_id", value="not hex"),
        broken("status", value="closed"),
        broken("reachable", value="yes"),
        broken("blockers", value=[]),
        broken("blockers", value=["destination.firewall-drop", "network.drop"]),
        broken("candidates", value=["router.broken"]),
        broken("checks", value={}),
        broken("checks", 0, "ports", value=4242),
        broken("checks", 0, "ports", value="4242-"),
        broken("checks", 0, "next_step", value=None),
        broken("checks", 0, "segments", 0, "status", value="green"),
        broken("checks", 0, "blockers", value=[]),
        broken("checks", 0, "blockers", 0, "confidence", value="sure"),
        broken("checks", 0, "blockers", 0, "fix", 0, "on", value="here"),
        broken("checks", 0, "blockers", 0, "fix", 0, "argv", value="ufw allow"),
        broken("contact", "path", value="teleport"),
        broken("contact", "lost", value=None),
        broken("contact", "lost", value=True),
        broken("seconds", "verdict", value="0.2"),
        broken("source", "firewalls", 0, "active", value="yes"),
        broken("seconds", value=None),
        {"checks": [], **broken("checks", value=[])},
    ],
)
def test_a_broken_document_is_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        validate(plain)


def test_fields_may_be_added_anywhere() -> None:
    plain = made("blocked")
    plain["future"] = plain["checks"][0]["future"] = plain["source"]["future"] = {"x": 1}
    plain["checks"][0]["blockers"][0]["fix"][0]["future"] = plain["contact"]["future"] = None
    validate(plain)
