r"""Saved evidence: what one side did and saw, as a file that shows when it was altered.

    bothends-evidence-file 1\n   length (4 bytes)   body   MAC (32)   SHA-256 (32)

The first line never changes its form, so that a file of another version, or of
another kind, is named as that. The body is msgpack and can be read without the
code; the SHA-256 is over all that stands before it, so that damage is noticed by
everybody. Who alters a file on purpose makes the checksum anew, and not the
MAC: its key comes from the words of the code and, where the two sides met, from
two shares of their session, one in either file. So who holds one file can neither
forge the other nor try words against it.

No I/O: bytes in, bytes out; the salt is passed in.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from typing import Annotated, Any

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from .code import Code
from .errors import MisuseError, ProtocolError, TamperedError
from .evidence import EVIDENCE_FORMAT, MAX_EVIDENCE, Evidence, read_evidence
from .framing import PROTOCOL_VERSION
from .pairing import ROLES, SOURCE, Keys, other_role
from .wire import pack, unpack

__all__ = [
    "FILE_FORMAT",
    "MAX_FILE",
    "SALT_SIZE",
    "SHARE_SIZE",
    "Saved",
    "check_versions",
    "inflate",
    "is_sealed",
    "pair_up",
    "read_sealed",
    "seal",
    "share_of",
    "stretch",
    "verify",
]

FILE_FORMAT = 1
"""Number of the layout that this module describes."""

SALT_SIZE = 16
SCRYPT_COST = 17
"""Binary logarithm of scrypt's N (RFC 7914), with r = 8 and p = 1: 128 MiB and a third of a
second for each guess. OWASP's first choice for passwords; small computers still have the room."""

SHARE_SIZE = 32
"""Bytes of the part of the session's key that each file carries."""

_KIND = b"bothends-evidence-file "
_LINE = _KIND + str(FILE_FORMAT).encode() + b"\n"
_LONGEST_LINE = 40
_LENGTH = 4
_DIGEST = 32
_BEFORE = len(_LINE) + _LENGTH
_BEHIND = 2 * _DIGEST
_LABEL = b"bothends/1 "

MAX_FILE = MAX_EVIDENCE + 64 * 1024
"""Largest file that is read, in bytes: what cannot be compressed grows by less than a thousandth,
and what stands around it takes some hundred bytes."""

_Digest = Annotated[bytes, msgspec.Meta(max_length=_DIGEST)]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The readable part of the file."""

    protocol: int
    """`framing.PROTOCOL_VERSION` of the agent that wrote it."""
    format: str
    """`evidence.EVIDENCE_FORMAT` of the same."""
    salt: Annotated[bytes, msgspec.Meta(min_length=SALT_SIZE, max_length=SALT_SIZE)]
    cost: int
    share: _Digest
    """This side's half of what the session adds to the key; empty where the two did not meet."""
    source: _Digest
    """SHA-256 of the source's evidence; empty where this side does not have that."""
    destination: _Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_EVIDENCE)]
    """Bytes of the evidence when it is no longer compressed."""
    evidence: bytes
    """The evidence as it was frozen, compressed (zlib, RFC 1950)."""

    def digest(self, role: str) -> bytes:
        """The SHA-256 that this side knows of the evidence of `role`."""
        return self.source if role == SOURCE else self.destination


class Saved(msgspec.Struct, frozen=True):
    """One side's evidence as it was read: undamaged, and vouched for by nobody yet (`verify`)."""

    evidence: Evidence
    share: bytes = b""
    """Its half of what the session adds to the key; empty where the two did not meet."""
    digest: bytes = b""
    """SHA-256 of the evidence as it was frozen; empty where it was shortened since."""
    peer: bytes = b""
    """The same of the other side's, as this side names it; empty where it does not."""
    masked: bool = False
    """Whether addresses and names stand for others (`masked`)."""
    salt: bytes = b""
    signed: bytes = b""
    """What the MAC is over; empty for what was encrypted and so needs none."""
    mac: bytes = b""

    @property
    def role(self) -> str:
        """Whose evidence it is."""
        return self.evidence.role


def stretch(code: Code, salt: bytes, purpose: str, extra: bytes = b"") -> bytes:
    """Return a key of 32 bytes for `purpose` from the words of `code`; slow, as it is meant to be.

    `extra` is secret material beside the words.
    """
    slow = Scrypt(salt=salt, length=32, n=2**SCRYPT_COST, r=8, p=1).derive(code.secret)
    info = _LABEL + purpose.encode("ascii")
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(slow + extra)


# Writing -------------------------------------------------------------------------------------


def seal(
    evidence: bytes, *, code: Code, salt: bytes, keys: Keys | None = None, peer: bytes = b""
) -> bytes:
    """Return the file that holds `evidence`, a document that `read_evidence` takes.

    `salt` are `SALT_SIZE` random bytes, drawn for this file. `keys` are those of the link on
    which the two sides met, None where they did not; `peer` is the SHA-256 of the other side's
    evidence, empty where this side does not have it.
    """
    read = read_evidence(evidence)
    if read.role not in ROLES or bool(read.session) != (keys is not None) or len(peer) % _DIGEST:
        raise MisuseError("evidence with the wrong seal")
    digests = dict.fromkeys(ROLES, peer) | {read.role: hashlib.sha256(evidence).digest()}
    body = Body(
        protocol=PROTOCOL_VERSION,
        format=EVIDENCE_FORMAT,
        salt=salt,
        cost=SCRYPT_COST,
        share=share_of(keys, read.role) if keys is not None else b"",
        size=len(evidence),
        evidence=zlib.compress(evidence, 9),
        **digests,
    )
    packed = pack(body)
    signed = _LINE + len(packed).to_bytes(_LENGTH, "big") + packed
    session = b"" if keys is None else _xor(*(share_of(keys, role) for role in ROLES))
    sealed = signed + _mac(signed, code, salt, session)
    return sealed + hashlib.sha256(sealed).digest()


def share_of(keys: Keys, role: str) -> bytes:
    """Return what the evidence of `role` carries of the session's part of the key."""
    return keys.derive(f"evidence share of {role}", SHARE_SIZE)


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _mac(signed: bytes, code: Code, salt: bytes, session: bytes) -> bytes:
    key = stretch(code, salt, "evidence file", session)
    return hmac.digest(key, signed, "sha256")


# Reading -------------------------------------------------------------------------------------


def is_sealed(data: bytes) -> bool:
    """Return whether `data` is a file of saved evidence, or the beginning of one."""
    return data.startswith(_KIND) or (bool(data) and _KIND.startswith(data))


def read_sealed(data: bytes) -> Saved:
    """Return what is in the file `data`.

    Raises `ProtocolError` for any file that is not whole, of another version or no such file;
    the message goes on from "the file ...". That nobody altered it on purpose is for `verify`.
    """
    _check_line(data)
    if len(data) > MAX_FILE:
        raise ProtocolError(f"is larger than the {MAX_FILE:,} bytes allowed")
    signed, mac = _check_whole(data)
    body = _read_body(signed[_BEFORE:])
    raw = inflate(body.evidence, body.size)
    try:
        evidence = read_evidence(raw)
    except ProtocolError as error:
        raise ProtocolError(f"holds no evidence of this version ({error})") from error
    _check_body(body, evidence, hashlib.sha256(raw).digest())
    return Saved(
        evidence=evidence,
        share=body.share,
        digest=body.digest(evidence.role),
        peer=body.digest(other_role(evidence.role)),
        salt=body.salt,
        signed=signed,
        mac=mac,
    )


def _check_line(data: bytes) -> None:
    if not data:
        raise TamperedError("is empty")
    if not is_sealed(data):
        raise ProtocolError("is not a file of saved evidence")
    line, end, _ = data[:_LONGEST_LINE].partition(b"\n")
    if end and line + end != _LINE:
        if line + end == _LINE[:-1] + b"\r\n":
            raise TamperedError("was altered: its line ends were changed on the way")
        version = line[len(_KIND) :].decode("ascii", "replace")
        raise ProtocolError(
            f"is of version {version!r}, and this program reads version {FILE_FORMAT}"
        )
    if not end and len(data) > _LONGEST_LINE:
        raise TamperedError("was altered: its first line is damaged")


def _check_whole(data: bytes) -> tuple[bytes, bytes]:
    """Return what the MAC is over, and the MAC."""
    length = int.from_bytes(data[len(_LINE) : _BEFORE], "big")
    whole = _BEFORE + length + _BEHIND
    if len(data) < max(whole, _BEFORE + _BEHIND):
        raise TamperedError("is truncated: its end is missing")
    sealed, checksum = data[:-_DIGEST], data[-_DIGEST:]
    if len(data) > whole or not hmac.compare_digest(hashlib.sha256(sealed).digest(), checksum):
        raise TamperedError("was altered: its checksum does not fit")
    return sealed[:-_DIGEST], sealed[-_DIGEST:]


def _read_body(packed: bytes) -> Body:
    # Two steps: a body of another version may have other fields, and shall be named as that.
    plain = unpack(packed, dict[str, Any])
    check_versions(plain.get("protocol"), plain.get("format"))
    return unpack(packed, Body)


def check_versions(protocol: object, evidence: object) -> None:
    """Raise `ProtocolError` unless this program judges evidence of these versions."""
    if protocol != PROTOCOL_VERSION:
        raise ProtocolError(
            f"was written by version {str(protocol)[:20]} of the protocol, and this program has "
            f"version {PROTOCOL_VERSION}: use the same version of bothends everywhere"
        )
    if evidence != EVIDENCE_FORMAT:
        raise ProtocolError(
            f"holds evidence of format {str(evidence)[:40]!r}, and this program reads "
            f"{EVIDENCE_FORMAT!r}: use the same version of bothends everywhere"
        )


def inflate(packed: bytes, size: int, dictionary: bytes = b"") -> bytes:
    """Return the `size` bytes that zlib packed; raise `ProtocolError` where it is not so."""
    reader = zlib.decompressobj(zdict=dictionary) if dictionary else zlib.decompressobj()
    try:
        # One byte more than there may be shows what is too much without unpacking it.
        plain = reader.decompress(packed, min(size, MAX_EVIDENCE) + 1)
    except zlib.error as error:
        raise ProtocolError("holds evidence that cannot be unpacked") from error
    if len(plain) != size or not reader.eof or reader.unused_data:
        raise ProtocolError("holds evidence of another size than it says")
    return plain


def _check_body(body: Body, evidence: Evidence, digest: bytes) -> None:
    if evidence.role not in ROLES:
        raise ProtocolError("holds evidence of neither the source nor the destination")
    if body.cost != SCRYPT_COST:
        raise ProtocolError("is sealed in a way that this program does not know")
    if body.digest(evidence.role) != digest:
        raise TamperedError("was altered: it holds another evidence than it names")
    if len(body.share) != (SHARE_SIZE if evidence.session else 0):
        raise TamperedError("was altered: its part of the session's key is missing")


# Two files -----------------------------------------------------------------------------------


def pair_up(one: Saved, other: Saved) -> tuple[Saved, Saved]:
    """Return the two, the source's first.

    Raises `ProtocolError`, with a whole sentence, where they do not belong together.
    """
    if one.role == other.role:
        same = " the same" if one.evidence == other.evidence else " both"
        raise ProtocolError(
            f"These are{same} evidence of the {one.role}. One of each side is needed."
        )
    source, destination = (one, other) if one.role == SOURCE else (other, one)
    if source.evidence.session != destination.evidence.session:
        raise ProtocolError(
            "The two are from different runs. Each needs the one that the other side saved in "
            "the same run."
        )
    for side, peer in ((source, destination), (destination, source)):
        if side.peer and peer.digest and side.peer != peer.digest:
            raise TamperedError(
                f"The evidence of the {peer.role} was altered: the {side.role}'s names another "
                "one of the same run."
            )
    return source, destination


def verify(source: Saved, destination: Saved, code: Code) -> None:
    """Raise `TamperedError` unless both were written by agents that had `code`, and the session."""
    met = bool(source.share and destination.share)
    session = _xor(source.share, destination.share) if met else b""
    for side in (source, destination):
        if not side.signed:
            continue
        expected = _mac(side.signed, code, side.salt, session)
        if not hmac.compare_digest(expected, side.mac):
            raise TamperedError(
                f"The evidence of the {side.role} cannot be verified: the code does not fit, or "
                "one of the two was altered by somebody who does not have it."
            )
