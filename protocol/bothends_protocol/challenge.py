"""The challenge that the agent's own listener speaks on a candidate port.

The listener speaks first, so that the source writes nothing to a port that
turns out to belong to somebody else (a container, a proxy, another machine):

    listener -> nonce (16) + proof that it is the other agent (16)
    source   -> proof that it is the agent that was challenged (32)

Proofs are HMAC-SHA256 under the session's challenge key. Nothing about the
addresses goes into them, since a NAT on the way rewrites those.
"""

from __future__ import annotations

import hashlib
import hmac

__all__ = ["ANSWER_SIZE", "CHALLENGE_SIZE", "NONCE_SIZE", "answer", "challenge", "is_answer"]

NONCE_SIZE = 16
_PROOF_SIZE = 16
CHALLENGE_SIZE = NONCE_SIZE + _PROOF_SIZE
ANSWER_SIZE = 32


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


def _proof(key: bytes, purpose: bytes, nonce: bytes) -> bytes:
    return hmac.new(key, purpose + nonce, hashlib.sha256).digest()
