"""The challenge that the agent's own listener speaks on a candidate port.

The listener speaks first, so that the source writes nothing to a port that
turns out to belong to somebody else (a container, a proxy, another machine):

    listener -> nonce (16) + proof that it is the other agent (16)
    source   -> proof that it is the agent that was challenged (32)

By UDP nobody can speak first but the source, so that it does, and only where the
other side has said that its own listener waits:

    source   -> nonce (16) + proof that it is the other agent (16)
    listener -> proof that it is the agent that was asked (32)

What is no genuine request gets no answer, and no answer is longer than its request.

Proofs are HMAC-SHA256 under the session's challenge key. Nothing about the
addresses goes into them, since a NAT on the way rewrites those.
"""

from __future__ import annotations

import hashlib
import hmac

__all__ = [
    "ANSWER_SIZE",
    "CHALLENGE_SIZE",
    "NONCE_SIZE",
    "REPLY_SIZE",
    "REQUEST_SIZE",
    "answer",
    "challenge",
    "is_answer",
    "is_reply",
    "reply",
    "request",
]

NONCE_SIZE = 16
_PROOF_SIZE = 16
CHALLENGE_SIZE = NONCE_SIZE + _PROOF_SIZE
ANSWER_SIZE = 32
REQUEST_SIZE = NONCE_SIZE + _PROOF_SIZE
REPLY_SIZE = 32
"""As long as the request: whoever forges its sender gains nothing by it."""


def challenge(key: bytes, nonce: bytes) -> bytes:
    """Return what the listener says; `nonce` is 16 random bytes."""
    return nonce + _proof(key, b"challenge", nonce)[:_PROOF_SIZE]


def answer(key: bytes, heard: bytes) -> bytes | None:
    """Return the answer to a genuine challenge, or None where `heard` is not one."""
    nonce = heard[:NONCE_SIZE]
    if len(heard) != CHALLENGE_SIZE or not hmac.compare_digest(challenge(key, nonce), heard):
        return None
    return _proof(key, b"answer", nonce)


def is_answer(key: bytes, nonce: bytes, heard: bytes) -> bool:
    """Return whether `heard` answers the challenge made with `nonce`."""
    return hmac.compare_digest(_proof(key, b"answer", nonce), heard)


def request(key: bytes, nonce: bytes) -> bytes:
    """Return the datagram that asks a listener of ours; `nonce` is 16 random bytes."""
    return nonce + _proof(key, b"request", nonce)[:_PROOF_SIZE]


def reply(key: bytes, heard: bytes) -> bytes | None:
    """Return what answers the datagram `heard`, or None where it is no genuine request."""
    nonce = heard[:NONCE_SIZE]
    if len(heard) != REQUEST_SIZE or not hmac.compare_digest(request(key, nonce), heard):
        return None
    return _proof(key, b"reply", nonce)


def is_reply(key: bytes, nonce: bytes, heard: bytes) -> bool:
    """Return whether the datagram `heard` answers the request made with `nonce`."""
    return hmac.compare_digest(_proof(key, b"reply", nonce), heard)


def _proof(key: bytes, purpose: bytes, nonce: bytes) -> bytes:
    return hmac.new(key, purpose + nonce, hashlib.sha256).digest()
