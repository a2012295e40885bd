"""Sealed records: ChaCha20-Poly1305 with a counter as nonce, a key per direction.

A key serves one direction of one link and is never used again, so the counter
starts at zero and a record that is repeated, dropped or reordered fails.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .errors import TamperedError

__all__ = ["Opener", "Sealer"]


class _Counter:
    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._count = 0

    def _nonce(self) -> bytes:
        nonce = self._count.to_bytes(12, "big")
        self._count += 1
        return nonce


class Sealer(_Counter):
    """Seals the records of one direction, in order."""

    def seal(self, plain: bytes) -> bytes:
        """Return `plain` encrypted and authenticated, 16 bytes longer."""
        return self._cipher.encrypt(self._nonce(), plain, None)


class Opener(_Counter):
    """Opens the records of one direction, in order."""

    def open(self, sealed: bytes) -> bytes:
        """Return the plain record; raise `TamperedError` for any other bytes."""
        try:
            return self._cipher.decrypt(self._nonce(), sealed, None)
        except (InvalidTag, ValueError) as error:
            raise TamperedError("a record does not open with this link's key") from error
