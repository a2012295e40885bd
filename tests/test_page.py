"""The report page: it says what it must, is whole in itself, and text in it stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bothends.page import page, write_page
from bothends.render import clean, document
from bothends_protocol.bearings import words
from bothends_protocol.codes import CODES
from bothends_protocol.evidence import HostFacts
from bothends_protocol.timeline import Change, Listing, Timeline
from bothends_protocol.verdict import Verdict
from samples import OUTSIDE, VERDICTS, blocker, check, host

VOID = {"meta", "br"}
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section"),
    *("div", "span", "p", "br", "h1", "h2", "h3", "h4", "ul", "ol", "li", "dl", "dt", "dd"),
    *("strong", "code", "pre", "details", "summary", "script"),
}
ATTRIBUTES = {
    "html": {"lang"},
    "meta": {"charset", "http-equiv", "name", "content"},
    "ol": {"class", "aria-label"},
    "span": {"class", "aria-hidden"},
}
RAW = {"style", "script"}


class Reader(HTMLParser):
    """Reads a page strictly: what is opened is closed, and only what is expected is there."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.values: set[str] = set()
        self.texts: list[str] = []
        self.inside: dict[str, str] = dict.fromkeys(RAW, "")
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_decl(self, decl: str) -> None:
        assert decl == "doctype html"

    def handle_comment(self, data: str) -> None:
        pytest.fail(f"a comment: {data}")

    def handle_pi(self, data: str) -> None:
        pytest.fail(f"an instruction: {data}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        assert {name for name, _ in attrs} <= ATTRIBUTES.get(tag, {"class"})
        self.values |= {value or "" for _, value in attrs}
        self.tags.append(tag)
        self.texts.append("" if tag in ("code", "span", "strong") else " ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in RAW:
            self.inside[self.open[-1]] += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """What somebody reads, with single blanks."""
        return " ".join("".join(self.texts).split())


def made(verdict: Verdict, **more: Any) -> dict[str, object]:
    facts: dict[str, Any] = {
        "source": host("anna", privileged=False),
        "destination": host("nas"),
        "contact": {
            "path": "reverse",
            "lost": False,
            "local": "192.168.1.9",
            "remote": "192.168.1.20",
            "rtt": 0.0123,
            "breaks": 2,
            "refused": {"192.168.1.20:24242": "connection refused"},
        },
        "seconds": {"contact": 0.125, "verdict": 0.25, "total": 0.375},
    }
    return document(verdict, **(facts | more))


def read(name: str, **more: Any) -> Reader:
    return Reader(page(made(VERDICTS[name], **more)))


@pytest.mark.parametrize("name", VERDICTS)
def test_every_kind_of_verdict_makes_a_page(name: str) -> None:
    verdict = VERDICTS[name]
    reader = read(name)
    assert verdict.summary in reader.text
    assert (verdict.verdict_id or "") in reader.text
    assert reader.tags.count("h1") == 1
    ways = {b.code: check.direction for check in verdict.checks for b in check.blockers}
    for code in (*verdict.blockers, *verdict.warnings):
        assert code in reader.text
        assert words(code, ways.get(code, "")).lower() in reader.text.lower()


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("open", "Open"),
        ("blocked", "Blocked"),
        ("undetermined", "Cannot tell"),
        ("no-contact", "No contact"),
    ],
)
def test_headline(name: str, head: str) -> None:
    assert f"{head}: what bothends found" in read(name).text
    assert f"{head} {VERDICTS[name].summary}" in read(name).text


def test_blocked_says_what_and_how_it_is_known_and_what_to_do() -> None:
    reader = read("blocked")
    assert "source clear ✓ network clear" in reader.text
    assert "✗ destination blocked · service not reached" in reader.text
    assert "There are 2 causes. Fix them in this order." in reader.text
    says = CODES["destination.firewall-drop"]
    assert f"1. {says[:1].upper()}{says[1:]} destination.firewall-drop proven" in reader.text
    assert f"2. Most likely {CODES['service.loopback-only']}" in reader.text
    assert "second reason for destination.firewall-drop" in reader.text
    assert "ufw allow 4242/tcp" in reader.text
    assert "On the destination (nas)" in reader.text
    assert "a note of this check" in reader.text


def test_facts_contact_and_times() -> None:
    text = read("blocked").text
    for part in (
        "Debian GNU/Linux 12 (bookworm), kernel 6.1.0",
        "bothends 0.1.0, may not see packets",
        "192.168.1.20/24 on eth0",
        "ufw: active",
        "a note of this host",
        "the destination reached the source",
        "192.168.1.9 and 192.168.1.20",
        "12.3 ms at best",
        "192.168.1.20:24242: connection refused",
        "0.12 s until the two had met",
        "0.25 s from there to the verdict",
    ):
        assert part in text


def test_undetermined_names_candidates_and_what_would_decide() -> None:
    text = read("undetermined").text
    assert "What it can be, likeliest first" in text
    assert f"{CODES['network.drop']} network.drop" in text
    assert "What would decide it Ask the router." in text


def test_no_contact_and_lost_say_what_is_missing() -> None:
    text = read("no-contact", destination=None, contact={}, seconds={}).text
    assert "Check that bothends runs on both computers" in text
    assert "Nothing is known of this computer" in text
    assert "What was tried" not in text
    lost = read("lost", contact={"path": "direct", "lost": True}).text
    assert "could no longer be reached before both had agreed" in lost


def test_other_direction_names_the_right_computer() -> None:
    back = check("blocked", blocker("source.firewall-drop"), direction="destination-to-source")
    text = Reader(page(made(replace(VERDICTS["blocked"], checks=(back,))))).text
    # The source of this direction is the destination of the pair.
    assert "On the destination (nas)" in text
    assert "On the source" not in text


def test_command_for_one_who_is_not_root_has_sudo() -> None:
    here = replace(VERDICTS["blocked"], checks=(check("blocked", blocker("source.firewall-drop")),))
    text = Reader(page(made(here))).text
    assert "sudo ufw allow out" in text


def test_addresses_and_routers() -> None:
    text = read("blocked", outside=OUTSIDE).text
    assert "Addresses and routers The source The source is seen at 11.0.0.7" in text
    assert "TCP port 4242 leads to 192.168.1.30, port 4242 (not the destination)" in text
    assert "Meeting by UDP The two cannot meet by UDP" in text
    assert "Addresses and routers" not in read("blocked").text


@pytest.mark.parametrize(
    "nasty", ["</li><script>alert(1)</script>", '" onmouseover="alert(1)', "\u202e{{ 7 * 7 }}"]
)
def test_what_a_router_says_stays_text(nasty: str) -> None:
    words = tuple(replace(word, detail=nasty) for word in OUTSIDE["destination"].router)
    opened = tuple(replace(item, detail=nasty) for item in OUTSIDE["destination"].opened)
    said = replace(OUTSIDE["destination"], router=words, opened=opened)
    reader = read("blocked", outside={"destination": said})
    assert reader.tags.count("script") == 1
    assert not any("alert" in value for value in reader.values)
    assert f"UPnP: {clean(nasty).replace(chr(0xFFFD), ' ').strip()}" in reader.text


def test_a_router_is_in_the_picture_where_there_is_one() -> None:
    assert "router (NAT)" not in read("open").text.partition("The two computers")[0]
    far = replace(VERDICTS["open"], checks=(check("open", address="11.0.0.2"),))
    assert "✓ router (NAT) clear" in Reader(page(made(far))).text


def test_whole_document_is_in_it() -> None:
    whole = made(VERDICTS["blocked"])
    raw = re.search(r'<pre class="raw"><code>(.*?)</code>', page(whole), re.DOTALL)
    assert raw is not None
    assert json.loads(Reader(f"<p>{raw[1]}</p>").text) == json.loads(json.dumps(whole))


def test_nothing_is_loaded_and_the_policy_knows_the_style_and_the_script() -> None:
    reader = read("blocked")
    for kind, name in ("style", "report.css"), ("script", "report.js"):
        text = files("bothends").joinpath("templates", name).read_text(encoding="utf-8")
        assert reader.inside[kind].strip() == text.strip()
        assert not re.search(r"url\(|@import|https?:|//\w|fetch|import\(", text)
        digest = base64.b64encode(hashlib.sha256(reader.inside[kind].encode()).digest()).decode()
        policy = next(value for value in reader.values if value.startswith("default-src 'none'"))
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert reader.tags.count("script") == reader.tags.count("style") == 1


# --- what the other computer sends ----------------------------------------------------------

MARK = "MaRk"
HOSTILE = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="<>&\"'`/=!-;{}%#\x00\r\n\u202e\u2028\ud800", max_size=30),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "</code></pre><img src=x onerror=alert(1)>",
            "</script><script>alert(1)</script>",
            "</style><b>",
            '" onmouseover="alert(1)',
            "' autofocus onfocus='alert(1)",
            "{{ 7 * 7 }}{% raw %}",
            "<!--",
            "&lt;b&gt;",
            "javascript:alert(1)",
            "`<b>long enough to stand on a line of its own, surely so</b>`",
            "http://example.org/",
            "\u202egnp.exe",
            "\ud800",
        ]
    ),
).map(lambda text: f"{MARK}{text}{MARK}")


def replaced(value: Any, some: Any, keep: frozenset[str] = frozenset()) -> Any:
    """`value`, plain data, with every text in it replaced, but for the values of keys in `keep`."""
    if isinstance(value, str):
        return some()
    if isinstance(value, dict):
        return {
            key: item if key in keep else replaced(item, some, keep) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [replaced(item, some, keep) for item in value]
    return value


@given(data=st.data(), name=st.sampled_from(sorted(VERDICTS)), statuses=st.booleans())
def test_text_stays_text(data: st.DataObject, name: str, statuses: bool) -> None:  # noqa: FBT001
    def some() -> str:
        return data.draw(HOSTILE)

    words = {"status", "confidence", "direction", "on", "protocol", "outcome", "by", "transport"}
    keep = frozenset(words if statuses else ())
    plain_document = made(VERDICTS[name], contact={}, outside=OUTSIDE)
    whole = replaced(plain_document, some, keep)
    whole["contact"] = {
        "path": some(),
        "lost": True,
        "local": some(),
        "remote": some(),
        "rtt": 0.1,
        "breaks": 1,
        "refused": {some(): some()},
    }
    reader = Reader(page(whole))
    assert not any(MARK in value for value in reader.values)
    assert not any(MARK in text for text in reader.inside.values())
    assert reader.tags.count("script") == reader.tags.count("style") == 1
    shown = "".join(reader.texts)
    assert not any(ord(char) < 32 and char != "\n" for char in shown)
    for text in (whole["summary"], whole["contact"]["local"], *whole["contact"]["refused"]):
        assert clean(text) in shown


# --- the file -------------------------------------------------------------------------------


def test_written_whole_and_readable_as_the_umask_says(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    old = os.umask(0o022)
    try:
        write_page(target, made(VERDICTS["open"]))
    finally:
        os.umask(old)
    assert Reader(target.read_text(encoding="utf-8")).text.startswith("Open")
    assert target.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "report.html"
    link = tmp_path / "link.html"
    link.symlink_to(target)
    write_page(link, made(VERDICTS["open"]))
    assert link.is_symlink()
    assert target.is_file()


def test_failure_leaves_the_old_page_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")

    def full(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(target, made(VERDICTS["open"]))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("place", ["missing/report.html", ".", "x" * 300])
def test_what_cannot_be_written_is_an_oserror(tmp_path: Path, place: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011  each system has its own words
        write_page(tmp_path / place, made(VERDICTS["open"]))
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_page(Path(os.devnull), made(VERDICTS["open"]))
    assert Path(os.devnull).is_char_device()


def test_facts_longer_than_a_record_may_be_are_shown() -> None:
    long: HostFacts = replace(host("n" * 2000), notes=("o" * 3000,))
    text = Reader(page(made(VERDICTS["no-contact"], source=long))).text
    assert "n" * 2000 in text
    assert "o" * 3000 in text


def test_what_changed_when_is_on_the_page() -> None:
    entries = Timeline(lambda _: "2026-11-22T12:34:56.000+00:00")
    entries.add(Listing(VERDICTS["blocked"]))
    entries.add(Listing(VERDICTS["open"], (Change(what="firewall", on="destination"),)))
    text = page(document(VERDICTS["open"], timeline=entries))
    assert "What changed when" in text
    assert "12:34:56 A rule of the destination&#39;s firewall changed." in text
    assert "What changed when" not in page(document(VERDICTS["open"]))
