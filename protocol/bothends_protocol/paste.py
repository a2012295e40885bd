"""Evidence as text that survives a chat: short, encrypted, and each line with its own checksum.

    bothends-paste 1 source 3f2a 2/7 9c01d2aa BASE64…

that is: the version, whose evidence it is, a tag that all parts of one paste
share, which part of how many, the CRC-32 of the part, and 90 bytes of it. So a part
that was damaged, or that is missing, is named. Quoting marks, indentation, line
ends, text around it, lines that a mail program broke: none of that does harm, nor
does the order.

Behind the text is ChaCha20-Poly1305 under a key from the words of the code.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Iterator
from itertools import pairwise

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .code import Code
from .columns import from_columns
from .errors import MisuseError, ProtocolError, TamperedError
from .evidence import EVIDENCE_FORMAT
from .framing import PROTOCOL_VERSION
from .pairing import ROLES
from .sealed import SALT_SIZE, SHARE_SIZE, Saved, check_versions, inflate, stretch
from .wire import pack, unpack

__all__ = ["Block", "has_paste", "open_block", "read_paste", "write_paste"]

PASTE_FORMAT = 1
"""Number of the layout of this module, its dictionary included."""

MAX_PARTS = 9999
"""Parts of one paste. A run of thousands of ports makes hundreds."""

PART_LETTERS = 120
"""Of base64 in a part: 90 bytes. With what stands before them a line is 165 letters long."""

_MARK = "bothends-paste"
_MOST_PIECES = PART_LETTERS
"""Words that one part may have been broken into on its way."""

_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
"""What chat programs put between letters, so that long words can be broken."""

_BEFORE_LINE = re.compile(r"^[\s>|]+", re.MULTILINE)
_PART = re.compile(r"([0-9]{1,4})/([0-9]{1,4})", re.ASCII)
_TAG = re.compile(r"[0-9a-f]{4}", re.ASCII)
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]")

_DICTIONARY = b"""\
time-exceeded0.0.0.0127.0.0.1::fe80:EADDRINUSEEHOSTUNREACHECONNREFUSEDFINSARSYN_RECVCLOSE_WAIT\
challengeclosedothernothingunreachableresetno-routelocal-errorexpiredfailedincompletereachable\
x86_64Ubuntu 24.04 LTSFedora LinuxDebian GNU/Linux 13 (trixie)Debian GNU/Linux 12 (bookworm)\
ufwfirewalldnftablesiptableswindowsmacosLinuxbothends0.1.0wlan0enp0s3docker0etheth0ESTABLISHED\
udp:tcp:4242sourcedestinationdirectreverseofflinepunchedburstconnectrefusedsilentconnectedtcp\
counterspacketsroutesrulessocketsbothends-evidence/1\
Icmp.OutDestUnreachsIcmp.OutRateLimitHostIcmp6.OutDestUnreachsIcmp6.OutRateLimitHost\
Ip.ForwDatagramsIp.InAddrErrorsIp.InDeliversIp.InReceivesIp.OutNoRoutesIp.OutRequests\
Ip.OutTransmitsIp6.InAddrErrorsIp6.InDeliversIp6.InMcastPktsIp6.InNoRoutesIp6.InReceives\
Ip6.OutForwDatagramsIp6.OutNoRoutesIp6.OutRequestsIp6.OutTransmitsIpExt.InNoRoutes\
Tcp.InSegsTcp.OutRstsTcp.OutSegsTcpExt.IPReversePathFilterTcpExt.ListenDrops\
TcpExt.ListenOverflowscard.rxcard.txdev.rxdev.tx"""
"""What most evidences hold (zlib's preset dictionary, RFC 1950): it need not be sent."""


class _Content(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is encrypted."""

    protocol: int
    format: str
    masked: bool
    share: bytes
    columns: bytes


class Block(msgspec.Struct, frozen=True):
    """A paste that is there whole."""

    role: str
    sealed: bytes


# Writing -------------------------------------------------------------------------------------


def write_paste(
    columns: bytes, role: str, *, code: Code, salt: bytes, share: bytes = b"", masked: bool
) -> list[str]:
    """Return the lines to paste of evidence of `role`, which `columns` holds.

    `salt` are `SALT_SIZE` random bytes drawn for this paste, `share` as in `sealed`. Raises
    `MisuseError` where it would be more than `MAX_PARTS`.
    """
    content = _Content(
        protocol=PROTOCOL_VERSION,
        format=EVIDENCE_FORMAT,
        masked=masked,
        share=share,
        columns=columns,
    )
    plain = pack(content)
    packer = zlib.compressobj(9, zdict=_DICTIONARY)
    packed = len(plain).to_bytes(_SIZE, "big") + packer.compress(plain) + packer.flush()
    sealed = salt + _cipher(code, salt).encrypt(_NONCE, packed, _label(role))
    text = base64.b64encode(sealed).decode("ascii").rstrip("=")
    parts = [text[at : at + PART_LETTERS] for at in range(0, len(text), PART_LETTERS)]
    if len(parts) > MAX_PARTS:
        raise MisuseError("too long to be pasted")
    tag = _tag(sealed)
    return [
        f"{_MARK} {PASTE_FORMAT} {role} {tag} {number}/{len(parts)} "
        f"{_checksum(role, tag, number, len(parts), part)} {part}"
        for number, part in enumerate(parts, start=1)
    ]


_SIZE = 4
"""Bytes that say how long the content is once it is unpacked."""

_NONCE = bytes(12)
"""The key is drawn anew, by its salt, for each paste."""


def _cipher(code: Code, salt: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(stretch(code, salt, "pasted evidence"))


def _label(role: str) -> bytes:
    return f"{_MARK} {PASTE_FORMAT} {role}".encode("ascii")


def _tag(sealed: bytes) -> str:
    return hashlib.sha256(sealed).hexdigest()[:4]


def _checksum(role: str, tag: str, number: int, count: int, part: str) -> str:
    return f"{zlib.crc32(f'{role} {tag} {number}/{count} {part}'.encode()):08x}"


# Reading -------------------------------------------------------------------------------------


def has_paste(text: str) -> bool:
    """Return whether there is anything in `text` that looks like pasted evidence."""
    return _MARK in text


def read_paste(text: str) -> list[Block]:
    """Return the pastes in `text`, at most one of each side.

    Raises `ProtocolError`, with what goes on from "the file ...", where one is not whole.
    """
    heaps: dict[str, _Heap] = {}
    for line in _lines(text):
        heaps.setdefault(line.role, _Heap(line.role)).add(line)
    if not heaps:
        raise TamperedError("holds pasted evidence that is damaged in every line")
    return [heap.block() for heap in heaps.values()]


class _Line(msgspec.Struct, frozen=True):
    """A part as it was found; `data` is None where its checksum does not fit."""

    role: str
    tag: str
    number: int
    count: int
    data: str | None


def _lines(text: str) -> Iterator[_Line]:
    words = _BEFORE_LINE.sub("", text.translate(_INVISIBLE)).split()
    places = [at for at, word in enumerate(words) if word.endswith(_MARK)]
    for at, end in pairwise([*places, len(words)]):
        line = _line(words[at + 1 : min(end, at + 6 + _MOST_PIECES)])
        if line is not None:
            yield line


def _line(words: list[str]) -> _Line | None:
    """Return the part that `words` begin with; None where it cannot even be told which it is."""
    if len(words) < 5:
        return None
    version, role, tag, place, checksum = words[:5]
    if version.isdecimal() and version != str(PASTE_FORMAT):
        raise ProtocolError(
            f"holds pasted evidence of version {version[:20]}, and this program reads version "
            f"{PASTE_FORMAT}"
        )
    found = _PART.fullmatch(place)
    if role not in ROLES or found is None or not _TAG.fullmatch(tag):
        return None
    number, count = int(found[1]), int(found[2])
    if not 1 <= number <= count:
        return None
    return _Line(role, tag, number, count, _data(words[5:], checksum, (role, tag, number, count)))


def _data(words: list[str], checksum: str, head: tuple[str, str, int, int]) -> str | None:
    """Return as many of `words` together as the checksum fits."""
    data = ""
    for word in words:
        data += _NOT_BASE64.sub("", word)
        if len(data) > PART_LETTERS:
            return None
        if _checksum(*head, data) == checksum:
            return data
    return None


class _Heap(msgspec.Struct):
    """The parts of one side, in whatever order they come."""

    role: str
    good: dict[tuple[str, int], dict[int, str]] = msgspec.field(default_factory=dict)
    damaged: dict[int, int] = msgspec.field(default_factory=dict)
    """Parts that came damaged, and of how many they say they are."""

    def add(self, line: _Line) -> None:
        if line.data is None:
            self.damaged.setdefault(line.number, line.count)
        else:
            self.good.setdefault((line.tag, line.count), {})[line.number] = line.data

    def block(self) -> Block:
        if len(self.good) > 1:
            raise ProtocolError(f"holds more than one paste of the {self.role}")
        if not self.good:
            number, count = min(self.damaged.items())
            raise TamperedError(
                f"holds a paste of the {self.role} in which {self._bad(number, count)}"
            )
        (((tag, count), parts),) = self.good.items()
        for number in range(1, count + 1):
            if number not in parts:
                raise TamperedError(
                    f"holds a paste of the {self.role} in which {self._bad(number, count)}"
                )
        sealed = _decode("".join(parts[number] for number in range(1, count + 1)))
        if _tag(sealed) != tag:
            raise TamperedError(f"holds a paste of the {self.role} that was damaged")
        return Block(self.role, sealed)

    def _bad(self, number: int, count: int) -> str:
        what = "was damaged" if number in self.damaged else "is missing"
        return f"part {number} of {count} {what}"


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise TamperedError("holds a paste that was damaged") from error


def open_block(block: Block, code: Code) -> Saved:
    """Return the evidence in `block`.

    Raises `ProtocolError`, with what goes on from "the file ...", where the code does not fit or
    it is of another version.
    """
    salt, rest = block.sealed[:SALT_SIZE], block.sealed[SALT_SIZE:]
    try:
        packed = _cipher(code, salt).decrypt(_NONCE, rest, _label(block.role))
    except (InvalidTag, ValueError) as error:
        raise TamperedError(
            f"holds a paste of the {block.role} that the code does not open: it is of another run, "
            "or somebody altered it"
        ) from error
    size = int.from_bytes(packed[:_SIZE], "big")
    plain = inflate(packed[_SIZE:], size, _DICTIONARY)
    check_versions(*_versions(plain))
    content = unpack(plain, _Content)
    evidence = from_columns(content.columns)
    check_versions(content.protocol, evidence.format)
    if evidence.role != block.role or len(content.share) != (SHARE_SIZE if evidence.session else 0):
        raise ProtocolError("holds a paste that no agent writes")
    return Saved(evidence, share=content.share, masked=content.masked)


def _versions(plain: bytes) -> tuple[object, object]:
    # Before the rest is looked at, which another version may have changed.
    first = unpack(plain, list[object])[:2]
    return (first[0], first[1]) if len(first) == 2 else (None, None)
