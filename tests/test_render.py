"""The text for people: readable, complete, and deaf to what the other computer sends."""

from __future__ import annotations

import io
import re
import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bothends.picture import ASCII, UNICODE, Span, draw, stretches
from bothends.render import (
    clean,
    document,
    dumps,
    no_contact_advice,
    outside_said,
    print_alone,
    print_text,
    text,
)
from bothends_protocol.codes import CODES, plain
from bothends_protocol.onesided import Alone
from bothends_protocol.verdict import Verdict
from samples import OUTSIDE, VERDICTS, blocker, check, host, segments

SGR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.TextIOWrapper):
    """A text stream that says it is a terminal of this encoding, or that it is none."""

    def __init__(self, encoding: str = "utf-8", *, terminal: bool = True) -> None:
        self.bytes = io.BytesIO()
        self._terminal = terminal
        super().__init__(self.bytes, encoding=encoding, newline="\n")

    def isatty(self) -> bool:
        return self._terminal

    def shown(self) -> str:
        self.flush()
        return self.bytes.getvalue().decode(self.encoding)


def shown(name: str | Verdict, **more: Any) -> str:
    verdict = VERDICTS[name] if isinstance(name, str) else name
    facts: dict[str, Any] = {"role": "source", "source": host("anna"), "destination": host("nas")}
    stream = Terminal(terminal=False)
    print_text(verdict, stream=stream, **(facts | more))
    return stream.shown()


def flat(page: str) -> str:
    """The page without its line breaks, as somebody reads it."""
    return " ".join(page.split())


def test_blocked() -> None:
    page = shown("blocked", role="destination")
    assert page.startswith(
        "BLOCKED: A firewall on the destination drops connections to TCP port 4242."
    )
    lines = page.splitlines()
    way = lines.index("The way: TCP port 4242 at 192.168.1.20, from the source to the destination")
    names, marks, words = lines[way + 2 : way + 5]
    # The tested address is the destination's own, so that no router stands in the way.
    assert names.split() == ["source", "network", "destination", "service"]
    assert re.sub("[ ─┄]", "", marks) == "✓✓✗·"
    assert words.split() == ["clear", "clear", "blocked", "not", "reached"]
    read = flat(page)
    assert "There are 2 causes. Fix them in this order." in read
    assert (
        f"Cause 1: {plain('destination.firewall-drop')} [destination.firewall-drop, proven]" in read
    )
    assert f"Cause 2: most likely {plain('service.loopback-only')} [" in read
    assert "• first reason for destination.firewall-drop" in page
    assert "1. On the destination (this computer, nas): Allow incoming TCP port 4242 in ufw" in read
    assert "\n         ufw allow 4242/tcp\n" in page
    assert "• a note of this check" in page
    assert "Verdict 3fa9c1e2b7d4. The other computer shows the same." in page
    assert "a note of this host" not in page


def test_the_other_screen_says_the_same_in_its_own_place() -> None:
    there, here = shown("blocked", role="source"), shown("blocked", role="destination")
    assert "On the destination (the other computer, nas): Allow" in flat(there)
    assert flat(there).replace("the other computer, nas", "this computer, nas") == flat(here)


def test_open_with_a_warning_and_another_address() -> None:
    page = flat(shown("open"))
    assert page.startswith("OPEN: TCP port 4242 can be reached.")
    assert "How we know • source let it pass • network let it pass" in page
    assert f"Also noticed • {plain('network.loss')} [network.loss]" in page
    assert (
        "Also tested • TCP port 4242 at fd00::20, from the source to the destination: blocked, "
        f"{plain('destination.firewall-drop')}" in page
    )
    assert "What to do" not in page


def test_undetermined_names_the_candidates_and_what_would_decide() -> None:
    page = flat(shown("undetermined"))
    assert page.startswith("CANNOT TELL: TCP port 4242 does not answer.")
    assert (
        f"What it can be, likeliest first • {plain('destination.firewall-drop')} "
        f"[destination.firewall-drop] • {plain('network.drop')} [network.drop] "
        "What would decide it • Ask the router." in page
    )


def test_likely_blocker_names_the_rest() -> None:
    item = blocker("nat.no-forward", "likely")
    one = check("blocked", item, candidates=("nat.no-forward", "nat.no-hairpin"), next_step="Look.")
    page = flat(shown(replace(VERDICTS["blocked"], checks=(one,))))
    assert f"Cause: most likely {plain('nat.no-forward')} [" in page
    assert f"It could also be • {plain('nat.no-hairpin')} [" in page
    assert "What would decide it • Look." in page
    assert "On the router or the network between: Forward TCP port 4242" in page


def test_no_contact() -> None:
    contact = {"path": "offline", "lost": False, "refused": {"192.168.1.9:24242": "timed out"}}
    page = flat(shown("no-contact", source=None, contact=contact))
    assert page.startswith("NO CONTACT: No contact with the source within 600 seconds.")
    assert "What was tried • 192.168.1.9:24242: timed out" in page
    assert "--rendezvous URL" in page
    assert "Verdict" not in page


@pytest.mark.parametrize(
    ("met", "said", "not_said"),
    [
        ((), "--peer ADDRESS", "Compare the code"),
        (("no answer",), "port 24242", "--peer ADDRESS"),
        (("no answer", "the code is wrong"), "Compare the code", "port 24242"),
    ],
)
def test_advice_without_contact_goes_with_what_was_met(
    met: tuple[str, ...], said: str, not_said: str
) -> None:
    advice = " ".join(no_contact_advice(met))
    assert said in advice
    assert not_said not in advice


def test_lost() -> None:
    page = flat(shown("lost", destination=None, contact={"path": "direct", "lost": True}))
    assert page.startswith("CANNOT TELL: The two sides could not agree")
    assert "known on this one alone" in page
    assert "shows the same" not in page


def test_cause_without_a_check() -> None:
    assert f"What blocks • {plain('source.name')} [source.name]" in flat(shown("name"))


def test_other_direction_names_the_right_computer() -> None:
    page = flat(shown("both-ways", role="source"))
    # What that direction calls its source is the destination of the pair, and people read that.
    assert "On the destination (the other computer, nas): Allow outgoing" in page
    assert "the destination's own firewall refuses the connection going out" in page
    assert "[source.firewall-reject" in page
    assert "in the codes in brackets source is whoever opens the connection" in page
    assert "destination network source service" in page


def test_the_way_there_needs_no_word_about_codes() -> None:
    assert "in the codes in brackets" not in flat(shown("blocked"))


def test_verbose_adds_facts_and_reasons() -> None:
    contact = {"path": "reverse", "lost": False, "local": "11.0.0.1", "remote": "11.0.0.2"}
    page = flat(shown("blocked", verbose=True, contact=contact))
    assert "source: anna; Debian GNU/Linux 12 (bookworm), kernel 6.1.0; bothends 0.1.0" in page
    assert "contact: reverse, from 11.0.0.1 to 11.0.0.2" in page
    assert "Notes of the destination • a note of this host" in page
    assert "source let it pass" in page


def test_sudo_only_where_it_is_needed_and_known() -> None:
    ordinary = host("nas", privileged=False)
    page = shown("blocked", destination=ordinary)
    assert "    sudo ufw allow 4242/tcp\n" in page
    assert "`sudo ufw status numbered`" in flat(page)
    one = check("blocked", blocker("destination.firewall-drop", system="Windows"))
    windows = replace(VERDICTS["blocked"], checks=(one,))
    page = shown(windows, destination=host("pc", system="Windows", privileged=False))
    assert "sudo" not in page
    assert "netsh advfirewall firewall add rule name=bothends-in-tcp-4242 dir=in" in page


def test_commands_are_never_broken() -> None:
    facts: dict[str, Any] = {"source": host("anna"), "destination": host("nas")}
    lines = text(VERDICTS["blocked"], role="source", width=40, **facts)
    plain = ["".join(span.text for span in line) for line in lines]
    assert any("ufw allow proto tcp from 192.168.1.9 to any port 4242" in line for line in plain)
    prose = [line for line, spans in zip(plain, lines, strict=True) if len(spans) == 2]
    assert max(len(line.rstrip()) for line in prose if "ufw" not in line) <= 40


@pytest.mark.parametrize("width", [20, 40, 64, 80, 400])
@pytest.mark.parametrize("name", VERDICTS)
def test_any_width(name: str, width: int) -> None:
    lines = text(VERDICTS[name], role="source", width=width)
    assert lines[0][1].text


def test_picture_of_a_narrow_terminal_is_a_list() -> None:
    way = segments("clear", "clear", "blocked", "unknown", "not-reached")
    wide, narrow = draw(way, UNICODE, 100), draw(way, ASCII, 40)
    assert len(wide) == 3
    assert ["".join(span.text for span in line) for line in narrow] == [
        "+ source: clear",
        "+ network: clear",
        "X router (NAT): blocked",
        "? destination: unknown",
        ". service: not reached",
    ]
    assert draw((), UNICODE, 80) == [((Span("")),), (), ()]


def test_a_router_is_in_the_picture_where_there_is_one() -> None:
    hosts = {"source": host("anna"), "destination": host("nas")}
    names = [segment.name for segment in stretches(check("open", address="11.0.0.2"), hosts)]
    assert names == ["source", "network", "nat", "destination", "service"]
    assert len(stretches(check("open"), {"destination": None})) == 5
    back = check("open", direction="destination-to-source")
    assert [segment.name for segment in stretches(back, hosts)].count("nat") == 0
    way = segments("clear", "clear", "blocked", "not-reached", "not-reached")
    assert stretches(check("blocked", segments=way), hosts) == way


def forwarded_nowhere(code: str = "nat.no-forward") -> Verdict:
    one = check("blocked", blocker(code), address="11.0.0.2")
    return replace(VERDICTS["blocked"], blockers=(code,), checks=(one,))


def test_where_the_router_is_to_blame_what_it_says_is_shown() -> None:
    page = flat(shown(forwarded_nowhere(), outside=OUTSIDE))
    assert (
        "Addresses and routers • The destination is seen at 11.0.0.2, as the meeting point "
        "(11.0.9.1) and a STUN server (11.0.9.2) told it." in page
    )
    assert (
        "• The destination's router (192.168.1.1) can be asked by UPnP, has PCP switched off and "
        "does not answer NAT-PMP." in page
    )
    assert "• UPnP: TCP port 4242 leads to 192.168.1.30, port 4242 (not the destination)" in page
    assert "to open TCP port 4242 (--map, UPnP), and it did not: it refused (taken)." in page
    assert "source is seen" not in page
    assert "for UDP" not in page


def test_a_host_to_blame_needs_no_router_but_what_was_asked_for_is_told() -> None:
    page = flat(shown("blocked", outside=OUTSIDE))
    assert "--map, UPnP" in page
    assert "11.0.0.2" not in page
    assert "Addresses and routers" not in flat(shown("blocked"))


def test_verbose_shows_all_that_is_known_from_outside() -> None:
    page = flat(shown("blocked", outside=OUTSIDE, verbose=True))
    assert "The source is seen at 11.0.0.7" in page
    assert "From there the source's UDP port looks like another one: 24242 as 61001." in page
    assert (
        "The NAT before the source, for UDP: it shows each other address and port another port "
        "and lets in only the address and port that something was sent to." in page
    )
    assert "The two cannot meet by UDP" in page


def test_one_side_without_contact_tells_what_it_heard() -> None:
    said = outside_said({"source": OUTSIDE["source"]}, {"source": host("anna")})
    stream = io.StringIO()
    print_alone(Alone(lines=("A line.",)), stream, said)
    assert "Addresses and routers - The source is seen at 11.0.0.7" in flat(stream.getvalue())


def test_marks_stand_below_the_names() -> None:
    states = ("clear", "unknown", "blocked", "not-reached", "not-reached")
    names, marks, words = (
        "".join(s.text for s in line) for line in draw(segments(*states), UNICODE, 99)
    )
    places = [place for place, char in enumerate(marks) if char in "✓✗?·"]
    assert len(places) == 5
    for place, name in zip(
        places, ("source", "network", "router (NAT)", "destination"), strict=False
    ):
        start = names.index(name)
        assert start <= place < start + len(name)
    assert len(words.rstrip()) <= len(names) + 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
@pytest.mark.parametrize("terminal", [False, True])
def test_any_encoding(encoding: str, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal(encoding, terminal=terminal)
    facts: dict[str, Any] = {"source": host("ännä-日本"), "destination": host("nas")}
    print_text(VERDICTS["blocked"], role="source", stream=stream, verbose=True, **facts)
    page = stream.shown()
    assert ("✗" in page) == (encoding == "utf-8")
    assert ("日本" in page) == (encoding == "utf-8")


def test_colour_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def page(*, terminal: bool) -> str:
        stream = Terminal(terminal=terminal)
        print_text(VERDICTS["blocked"], role="source", stream=stream, source=host("a"))
        return stream.shown()

    monkeypatch.setenv("COLUMNS", "81")
    coloured, plain = page(terminal=True), page(terminal=False)
    assert "\x1b[" in coloured
    assert "\x1b" not in plain
    without = [line.rstrip() for line in SGR.sub("", coloured).splitlines()]
    assert without == plain.splitlines()
    monkeypatch.setenv("NO_COLOR", "1")
    assert page(terminal=True) == plain
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert page(terminal=True) == plain


def test_every_cause_can_be_shown() -> None:
    for code in CODES:
        verdict = replace(
            VERDICTS["blocked"], blockers=(code,), checks=(check("blocked", blocker(code)),)
        )
        page = flat(shown(verdict))
        assert CODES[code] in page
        assert "What to do 1. On the" in page


# --- what the other computer sends ----------------------------------------------------------

NASTY = st.one_of(
    st.text(max_size=30),
    st.text(
        alphabet="\x00\x07\x08\x1b\x7f\x85\x9b\u200b\u202e\u2066\ufeff[]m;`H2J\r\n\ud800",
        max_size=20,
    ),
    st.sampled_from(
        [
            "\x1b]0;owned\x07",
            "\x1b[2J\x1b[H",
            "\x9b31m",
            "[bold red]markup[/bold red]",
            "[link=file:///etc/passwd]x[/link]",
            ":skull:",
            "a\rb",
            "x" * 500,
            "`rm -rf /`",
            "`a\x00b`",
            "\u202egnp.exe",
        ]
    ),
)


def hostile(value: object, draw_text: Any) -> object:
    """`value` with every text in it that may come from a peer replaced."""
    if isinstance(value, str):
        return draw_text()
    if isinstance(value, tuple):
        return tuple(hostile(item, draw_text) for item in value)
    if isinstance(value, msgspec.Struct):
        changed = {
            name: hostile(getattr(value, name), draw_text) for name in value.__struct_fields__
        }
        return replace(value, **changed)
    return value


@given(data=st.data(), name=st.sampled_from(sorted(VERDICTS)), terminal=st.booleans())
def test_nothing_reaches_the_terminal_as_a_command(
    data: st.DataObject,
    name: str,
    terminal: bool,  # noqa: FBT001
) -> None:
    def some() -> str:
        return data.draw(NASTY)

    verdict: Any = hostile(VERDICTS[name], some)
    if data.draw(st.booleans()):
        verdict = replace(verdict, status=VERDICTS[name].status)
    contact = {"path": some(), "lost": True, "local": some(), "refused": {some(): some()}}
    stream = Terminal(terminal=terminal)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm-256color")
        patch.delenv("NO_COLOR", raising=False)
        print_text(
            verdict,
            role="source",
            source=hostile(host("a"), some),  # type: ignore[arg-type]
            destination=hostile(host("b", privileged=False), some),  # type: ignore[arg-type]
            contact=contact,
            verbose=True,
            stream=stream,
        )
    rest = SGR.sub("", stream.shown()) if terminal else stream.shown()
    bad = {char for char in rest if unicodedata.category(char)[0] == "C"} - {"\n"}
    assert not bad


def test_markup_is_text() -> None:
    facts = replace(host("[red]x[/red]"), notes=("[/]", ":skull:"))
    page = shown("blocked", destination=facts, verbose=True)
    assert "[red]x[/red]" in page
    assert ":skull:" in page


@given(st.text())
def test_clean(raw: str) -> None:
    done = clean(raw)
    assert len(done) == len(raw)
    assert clean(done) == done
    assert not any(unicodedata.category(char)[0] == "C" for char in done)
    kept = [
        char for char in raw if unicodedata.category(char)[0] != "C" and char not in "\u2028\u2029"
    ]
    assert [char for char in kept if char not in done] == []


@given(st.text(), st.sampled_from(sorted(VERDICTS)))
def test_json_is_one_ascii_document(raw: str, name: str) -> None:
    made = dumps(document(replace(VERDICTS[name], summary=raw)))
    assert made.isascii()
    assert not any(ord(char) < 0x20 and char != "\n" for char in made)
    assert msgspec.json.decode(made.encode())["status"] == VERDICTS[name].status
