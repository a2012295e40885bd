"""Saved evidence: what is not as it was written is refused, with the reason."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bothends_protocol import sealed
from bothends_protocol.errors import MisuseError, ProtocolError, TamperedError
from bothends_protocol.evidence import Evidence
from bothends_protocol.pairing import Keys
from bothends_protocol.sealed import (
    MAX_FILE,
    SALT_SIZE,
    Saved,
    pair_up,
    read_sealed,
    seal,
    share_of,
    verify,
)
from bothends_protocol.wire import pack
from evidence_builder import Story
from saved_pairs import CODE, KEYS, OTHER_CODE, met, sealed_pair, unmet

SMALL = Story(fates=())
LINE = b"bothends-evidence-file 1\n"


@pytest.fixture(autouse=True, scope="module")
def quick() -> Any:
    """Keys that cost nothing: what is tested here is not how long they take."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sealed, "SCRYPT_COST", 1)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def files() -> tuple[bytes, bytes]:
    return sealed_pair(*met(SMALL))


def pair(files: tuple[bytes, bytes]) -> tuple[Saved, Saved]:
    return pair_up(read_sealed(files[1]), read_sealed(files[0]))


def resealed(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file as somebody without the code would alter it: the checksum made anew."""
    body = msgpack.unpackb(data[len(LINE) + 4 : -64])
    change(body)
    packed = msgpack.packb(body)
    start = LINE + len(packed).to_bytes(4, "big") + packed + data[-64:-32]
    return bytes(start + hashlib.sha256(start).digest())


def with_evidence(evidence: Evidence) -> Callable[[dict[str, Any]], None]:
    raw = pack(evidence)

    def change(body: dict[str, Any]) -> None:
        body |= {
            "evidence": zlib.compress(raw),
            "size": len(raw),
            evidence.role: hashlib.sha256(raw).digest(),
        }

    return change


@pytest.mark.parametrize("of", [met, unmet])
def test_what_was_saved_is_what_is_read(
    of: Callable[[Story], tuple[Evidence, Evidence]],
) -> None:
    source, destination = of(Story())
    found = pair(sealed_pair(source, destination))
    assert [side.evidence for side in found] == [source, destination]
    verify(*found, CODE)


def test_nothing_in_it_is_the_code_or_a_key(files: tuple[bytes, bytes]) -> None:
    for data in files:
        assert b"abandon" not in data
        assert KEYS.derive("records of source") not in data


# -- damage


def test_a_file_cut_off_anywhere_is_refused(files: tuple[bytes, bytes]) -> None:
    for length in range(len(files[0])):
        with pytest.raises(TamperedError) as refused:
            read_sealed(files[0][:length])
        assert "truncated" in str(refused.value) or not length


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_a_byte_changed_anywhere_is_refused(files: tuple[bytes, bytes], flip: int) -> None:
    for data in files:
        for at in range(len(data)):
            altered = bytearray(data)
            altered[at] ^= flip
            with pytest.raises(ProtocolError) as refused:
                read_sealed(bytes(altered))
            assert str(refused.value)


@given(st.data())
def test_a_mutated_file_is_refused(data: st.DataObject) -> None:
    original = sealed_pair(*met(SMALL))[0]
    first = data.draw(st.integers(0, len(original)))
    last = data.draw(st.integers(first, len(original)))
    altered = original[:first] + data.draw(st.binary(max_size=40)) + original[last:]
    try:
        found = read_sealed(altered)
    except ProtocolError:
        return
    assert altered == original
    assert found == read_sealed(original)


@given(st.binary() | st.binary().map(lambda rest: LINE + rest))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_sealed(data)


def test_bytes_behind_the_end_are_refused(files: tuple[bytes, bytes]) -> None:
    with pytest.raises(TamperedError, match="altered"):
        read_sealed(files[0] + b"\n")


def test_changed_line_ends_are_named(files: tuple[bytes, bytes]) -> None:
    with pytest.raises(TamperedError, match="line ends"):
        read_sealed(files[0].replace(b"\n", b"\r\n"))


# -- something else


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n", "not a file of saved evidence"),
        (b"bothends 1\n", "not a file of saved evidence"),
        (
            b"bothends-evidence-file 2\n" + bytes(99),
            "version '2', and this program reads version 1",
        ),
        (b"bothends-evidence-file 1" + bytes(99), "first line is damaged"),
        (LINE + bytes(MAX_FILE), "larger than"),
        (LINE + b"\xff" * 99, "truncated"),
    ],
)
def test_what_is_something_else_is_named(data: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        read_sealed(data)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"protocol": 9}, "version 9 of the protocol, and this program has version 3"),
        ({"protocol": 9, "new": 1}, "version 9 of the protocol"),
        ({"format": "bothends-evidence/9"}, "'bothends-evidence/9'.*'bothends-evidence/1'"),
        ({"new": 1}, "not a valid Body"),
        ({"cost": 30}, "does not know"),
        ({"salt": b"short"}, "not a valid Body"),
        ({"size": 5}, "another size"),
        ({"size": -1}, "not a valid Body"),
        ({"size": 2**40}, "not a valid Body"),
        ({"evidence": b"no zlib"}, "cannot be unpacked"),
        ({"evidence": zlib.compress(b"none"), "size": 4}, "no evidence of this version"),
        ({"share": b""}, "session's key is missing"),
        ({"source": bytes(32)}, "another evidence than it names"),
    ],
)
def test_what_an_altered_body_says_is_refused(
    files: tuple[bytes, bytes], changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ProtocolError, match=why):
        read_sealed(resealed(files[0], lambda body: body.update(changes)))


def test_evidence_that_unpacks_without_end_is_refused(files: tuple[bytes, bytes]) -> None:
    bomb = zlib.compress(bytes(64 * 1024 * 1024), 9)
    with pytest.raises(ProtocolError, match="another size"):
        read_sealed(resealed(files[0], lambda body: body.update(evidence=bomb, size=8 * 1024**2)))


def test_evidence_of_neither_side_is_refused(files: tuple[bytes, bytes]) -> None:
    nobody = replace(met(SMALL)[0], role="third")
    raw = pack(nobody)
    change = {"evidence": zlib.compress(raw), "size": len(raw)}
    with pytest.raises(ProtocolError, match="neither"):
        read_sealed(resealed(files[0], lambda body: body.update(change)))


# -- two that do not belong together


def test_two_of_the_same_side_are_refused(files: tuple[bytes, bytes]) -> None:
    one = read_sealed(files[0])
    other = read_sealed(sealed_pair(*met(Story()))[0])
    with pytest.raises(ProtocolError, match="the same evidence of the source"):
        pair_up(one, one)
    with pytest.raises(ProtocolError, match="both evidence of the source"):
        pair_up(one, other)


def test_different_runs_are_refused(files: tuple[bytes, bytes]) -> None:
    source, destination = met(SMALL)
    for other in (replace(destination, session=b"another"), replace(destination, session=b"")):
        theirs = sealed_pair(replace(source, session=other.session), other)[1]
        with pytest.raises(ProtocolError, match="different runs"):
            pair_up(read_sealed(files[0]), read_sealed(theirs))


def test_without_the_code_altered_evidence_is_refused_where_they_had_met() -> None:
    source, destination = met(SMALL)
    files = sealed_pair(source, destination)
    better = resealed(files[1], with_evidence(replace(destination, ports=("tcp:1",))))
    with pytest.raises(TamperedError, match="evidence of the destination was altered"):
        pair_up(read_sealed(files[0]), read_sealed(better))


def test_a_side_that_lost_the_other_names_no_digest() -> None:
    source, destination = met(SMALL)
    lost = seal(pack(source), code=CODE, salt=bytes(SALT_SIZE), keys=KEYS)
    found = pair((lost, sealed_pair(source, destination)[1]))
    verify(*found, CODE)


# -- the code


@pytest.mark.parametrize("of", [met, unmet])
def test_a_wrong_code_is_refused(of: Callable[[Story], tuple[Evidence, Evidence]]) -> None:
    found = pair(sealed_pair(*of(SMALL)))
    with pytest.raises(TamperedError, match="the code does not fit"):
        verify(*found, OTHER_CODE)


@pytest.mark.parametrize("side", [0, 1])
def test_who_has_no_code_cannot_alter_evidence(side: int) -> None:
    pairs = unmet(SMALL)
    files = list(sealed_pair(*pairs))
    files[side] = resealed(files[side], with_evidence(replace(pairs[side], both_ways=True)))
    found = pair((files[0], files[1]))
    with pytest.raises(TamperedError, match="cannot be verified"):
        verify(*found, CODE)


def test_the_code_alone_forges_no_file_of_a_session(files: tuple[bytes, bytes]) -> None:
    source, _ = met(SMALL)
    # Who has the code and one file makes another from it: the other side's share is missing.
    forger = Keys(bytes(32))
    forged = seal(pack(source), code=CODE, salt=bytes(SALT_SIZE), keys=forger)
    share = read_sealed(files[0]).share
    forged = resealed(forged, lambda body: body.update(share=share))
    found = pair((forged, files[1]))
    with pytest.raises(TamperedError, match="cannot be verified"):
        verify(*found, CODE)


def test_the_shares_differ_and_show_no_other_key(files: tuple[bytes, bytes]) -> None:
    shares = [read_sealed(data).share for data in files]
    assert shares == [share_of(KEYS, "source"), share_of(KEYS, "destination")]
    assert len({*shares, KEYS.derive("session resumption")}) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"keys": None, "peer": b""},
        {"keys": KEYS, "peer": b"short"},
    ],
)
def test_a_wrong_seal_is_a_bug(wrong: dict[str, Any]) -> None:
    with pytest.raises(MisuseError):
        seal(pack(met(SMALL)[0]), code=CODE, salt=bytes(SALT_SIZE), **wrong)
