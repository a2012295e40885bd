"""Pasted evidence: short, whole or refused with what is wrong, and judged like the original."""

from __future__ import annotations

import contextlib
import random
import re
import textwrap
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bothends_protocol import paste, sealed
from bothends_protocol.columns import from_columns, to_columns
from bothends_protocol.errors import ProtocolError, TamperedError
from bothends_protocol.evidence import Burst, Evidence, Samples
from bothends_protocol.judge import judge
from bothends_protocol.masked import Mask
from bothends_protocol.paste import Block, has_paste, open_block, read_paste, write_paste
from bothends_protocol.sealed import SALT_SIZE, pair_up, verify
from bothends_protocol.shortened import shorten
from bothends_protocol.verdict import Verdict
from bothends_protocol.wire import pack
from evidence_builder import DROPPED, Story
from saved_pairs import CODE, KEYS, OTHER_CODE, STORIES, met, unmet, with_strangers

SHARE = sealed.share_of(KEYS, "source")
STORY = Story(fates=(DROPPED,) * 3)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(sealed, "SCRYPT_COST", 1)
    yield
    patch.undo()


def lines(evidence: Evidence, salt: int = 1) -> list[str]:
    return write_paste(
        to_columns(evidence),
        evidence.role,
        code=CODE,
        salt=bytes([salt]) * SALT_SIZE,
        share=sealed.share_of(KEYS, evidence.role) if evidence.session else b"",
        masked=False,
    )


def block_of(text: list[str]) -> Block:
    (block,) = read_paste("\n".join(text))
    return block


@pytest.fixture(scope="module")
def whole() -> list[str]:
    found = lines(met(STORY)[0])
    assert len(found) > 3
    return found


# -- there and back


@pytest.mark.parametrize("of", [met, unmet])
def test_what_was_pasted_is_what_is_read(
    of: Callable[[Story], tuple[Evidence, Evidence]],
) -> None:
    sides = [open_block(block_of(lines(side)), CODE) for side in of(STORY)]
    assert tuple(side.evidence for side in sides) == of(STORY)
    verify(*pair_up(*sides), CODE)


def test_it_is_encrypted(whole: list[str]) -> None:
    text = "\n".join(whole)
    assert all(len(line) < 170 for line in whole)
    block = block_of(whole)
    for word in (b"192.168", b"session", b"eth0", SHARE):
        assert word not in block.sealed
    assert "abandon" not in text
    with pytest.raises(TamperedError, match="the code does not open"):
        open_block(block, OTHER_CODE)


QUOTED = {
    "as it is": "{}",
    "quoted": "> {}",
    "quoted twice": ">> > {}",
    "in a table": "| {}",
    "indented": "\t    {}  ",
    "in backticks": "`{}`",
    "after a dash": "- {}",
}


@pytest.mark.parametrize("form", QUOTED.values(), ids=QUOTED)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r", " "])
def test_what_a_chat_does_to_lines_does_no_harm(whole: list[str], form: str, end: str) -> None:
    text = f"Hello,{end}here it is:{end}" + end.join(map(form.format, whole)) + f"{end}bye{end}"
    assert read_paste(text) == [block_of(whole)]


def test_lines_that_were_broken_are_put_together(whole: list[str]) -> None:
    for width in (20, 60, 76):
        broken = ["\n> ".join(textwrap.wrap(line, width)) for line in whole]
        assert read_paste("> " + "\n> ".join(broken)) == [block_of(whole)]


def test_order_does_not_matter_nor_what_comes_twice(whole: list[str]) -> None:
    for seed in range(5):
        mixed = [*whole, *whole[:2]]
        random.Random(seed).shuffle(mixed)
        assert read_paste("\n".join(mixed)) == [block_of(whole)]


def test_what_is_put_between_letters_does_no_harm(whole: list[str]) -> None:
    text = "\ufeff" + "\n".join(f"{line[:90]}\u200b{line[90:]}" for line in whole)
    assert read_paste(text.replace(" ", "\u00a0")) == [block_of(whole)]


def test_both_sides_in_one_text() -> None:
    source, destination = map(lines, met(STORY))
    text = "\n".join(x for pair in zip(source, destination, strict=False) for x in pair)
    rest = "\n".join([*source[len(destination) :], *destination[len(source) :]])
    found = read_paste(f"{text}\n{rest}")
    assert sorted(block.role for block in found) == ["destination", "source"]
    assert {block.sealed for block in found} == {
        block_of(source).sealed,
        block_of(destination).sealed,
    }


# -- what is wrong is named


def refused(text: str) -> str:
    with pytest.raises(ProtocolError) as error:
        read_paste(text)
    return str(error.value)


def test_a_missing_part_is_named(whole: list[str]) -> None:
    count = len(whole)
    for at in range(count):
        left = [line for number, line in enumerate(whole) if number != at]
        assert f"part {at + 1} of {count} is missing" in refused("\n".join(left))


def test_a_damaged_part_is_named(whole: list[str]) -> None:
    count = len(whole)
    for at, line in enumerate(whole):
        data = line.index(" ", line.index("/")) + 12
        for place in (data, data + 5, len(line) - 1):
            other = "A" if line[place] != "A" else "B"
            bad = [*whole]
            bad[at] = line[:place] + other + line[place + 1 :]
            assert f"part {at + 1} of {count} was damaged" in refused("\n".join(bad))
        cut = [*whole]
        cut[at] = line[:-3]
        assert f"part {at + 1} of {count} was damaged" in refused("\n".join(cut))


@pytest.mark.parametrize("other", ["A", "0", "?", " ", "\n", "/", "é"])
def test_no_letter_can_be_changed_unnoticed(whole: list[str], other: str) -> None:
    block, text = block_of(whole), "\n".join(whole)
    for place in range(len(text)):
        altered = text[:place] + other + text[place + 1 :]
        with contextlib.suppress(ProtocolError):
            # A blank for a line end, or the same letter.
            assert read_paste(altered) == [block]
            continue
        assert re.search(r"part \d+ of \d+|version|damaged", refused(altered))


def test_all_damaged(whole: list[str]) -> None:
    assert "part 1 of" in refused("\n".join(line[:-1] for line in whole))
    assert "damaged in every line" in refused("bothends-paste 1 sourc")


def test_two_pastes_of_one_side_are_not_mixed(whole: list[str]) -> None:
    other = lines(met(STORY)[0], salt=2)
    assert "more than one paste of the source" in refused("\n".join([*whole, *other]))
    assert "more than one paste of the source" in refused("\n".join([whole[0], *other[1:]]))


def test_another_version_is_named(whole: list[str]) -> None:
    text = "\n".join(whole).replace("bothends-paste 1 ", "bothends-paste 2 ")
    assert "version 2, and this program reads version 1" in refused(text)


def test_another_version_of_what_is_inside_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(paste, "PROTOCOL_VERSION", 9)
        block = block_of(lines(met(STORY)[0]))
    with pytest.raises(ProtocolError, match="version 9 of the protocol, and this program has"):
        open_block(block, CODE)


def test_a_role_cannot_be_changed(whole: list[str]) -> None:
    with pytest.raises(TamperedError):
        open_block(Block("destination", block_of(whole).sealed), CODE)


def test_content_that_no_agent_writes_is_refused() -> None:
    source, _ = met(STORY)
    for side, share in ((source, b""), (source, b"short"), (unmet(STORY)[0], SHARE)):
        strange = write_paste(
            to_columns(side),
            "source",
            code=CODE,
            salt=bytes(SALT_SIZE),
            share=share,
            masked=False,
        )
        with pytest.raises(ProtocolError, match="no agent writes"):
            open_block(block_of(strange), CODE)
    nonsense = write_paste(b"nonsense", "source", code=CODE, salt=bytes(SALT_SIZE), masked=False)
    with pytest.raises(ProtocolError):
        open_block(block_of(nonsense), CODE)


@given(st.binary(max_size=200))
def test_any_block_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        open_block(Block("source", data), CODE)


marks = st.sampled_from(
    ["bothends-paste", " 1 ", "source", " ", "3f2a", "1/2", "2/1", "0/0", "00000000", "\n", "> "]
)


@given(st.lists(marks | st.text(max_size=9)).map("".join))
def test_any_text_gives_blocks_or_is_refused(text: str) -> None:
    if has_paste(text):
        with pytest.raises(ProtocolError):
            read_paste(text)


# -- columns


@pytest.mark.parametrize("name", STORIES)
def test_columns_hold_everything(name: str) -> None:
    for side in with_strangers(STORIES[name]):
        assert from_columns(to_columns(side)) == side


def with_burst(evidence: Evidence) -> Evidence:
    burst = Burst(round=1, transport="tcp", address="192.0.2.1", port=1, sends=(0.0012345, 0.5))
    samples = Samples(
        round=1,
        times=(-0.01, 0.0040004, 0.25),
        values={"Ip.InReceives": (2**60, 2**60 + 3, 2**60 + 9), "dev.rx": (5, 5, 5)},
    )
    return replace(evidence, bursts=(burst,), samples=(samples, samples))


def test_columns_of_times_and_counters() -> None:
    evidence = with_burst(met(STORY)[0])
    fine, rough = from_columns(to_columns(evidence, 6)), from_columns(to_columns(evidence, 3))
    assert fine.bursts[0].sends == (0.001234, 0.5)
    assert rough.bursts[0].sends == (0.001, 0.5)
    assert fine.samples[1].times == (-0.01, 0.004, 0.25)
    assert fine.samples[0].values == evidence.samples[0].values
    assert len(to_columns(evidence, 3)) < len(to_columns(evidence, 6)) < len(pack(evidence))


@given(st.data())
def test_any_bytes_are_columns_or_are_refused(data: st.DataObject) -> None:
    original = to_columns(met(Story(fates=()))[0])
    first = data.draw(st.integers(0, len(original)))
    last = data.draw(st.integers(first, len(original)))
    altered = original[:first] + data.draw(st.binary(max_size=30)) + original[last:]
    try:
        found = from_columns(altered)
    except ProtocolError:
        return
    assert isinstance(found, Evidence)


@pytest.mark.parametrize(
    "parts", [[], [6], [5, []], [3, [], []], ["6"], [None], {"a": 1}, [6, [2**63]], [6, [[]]]]
)
def test_what_is_no_columns_is_refused(parts: object) -> None:
    with pytest.raises(ProtocolError):
        from_columns(pack(parts))


# -- shortened


def told(verdict: Verdict) -> Verdict:
    return replace(verdict, verdict_id=None)


@pytest.mark.parametrize("name", STORIES)
def test_the_judge_says_the_same_of_what_is_left(name: str) -> None:
    source, destination = with_strangers(STORIES[name])
    short = shorten(source, destination).evidence, shorten(destination, source).evidence
    assert told(judge(*short)) == told(judge(source, destination))
    alone = shorten(source).evidence, shorten(destination).evidence
    assert told(judge(*alone)) == told(judge(source, destination))


@pytest.mark.parametrize("name", ["dropped", "open", "behind a NAT"])
def test_strangers_are_left_out(name: str) -> None:
    source, destination = with_strangers(STORIES[name])
    short = shorten(destination, source).evidence
    assert len(short.sightings) < len(destination.sightings)
    assert len(short.connections) < len(destination.connections)
    assert "192.168.7.99" not in str(short)
    assert "192.168.7.98" not in str(short)


def test_what_cannot_be_shortened_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = met(STORY)
    calls = iter(range(99))
    monkeypatch.setattr("bothends_protocol.shortened._told", lambda *_pair: next(calls))
    assert shorten(source, destination).evidence == source


def test_shortened_and_masked_it_is_small() -> None:
    source, destination = with_strangers(STORIES["dropped"])
    short = shorten(destination, source)
    masked = Mask(b"k").evidence(short.evidence)
    text = write_paste(
        to_columns(masked, short.digits),
        "destination",
        code=CODE,
        salt=bytes(SALT_SIZE),
        share=SHARE,
        masked=True,
    )
    assert sum(map(len, text)) < 1200
