r"""Frames on a byte stream: a preamble line, then length-prefixed frames.

The preamble `bothends N\n` never changes its form, so that two versions that
share nothing else can still tell each other who they are. Until the peer has
authenticated, frames are limited to what a handshake needs.
"""

from __future__ import annotations

from .errors import MisuseError, NotBothendsError, OtherVersionError, ProtocolError

__all__ = ["MAX_FRAME", "MAX_HELLO", "PREAMBLE", "PROTOCOL_VERSION", "FrameReader", "frame"]

PROTOCOL_VERSION = 3
"""One number for messages, evidence and rules of judgement: both sides must come to the
same verdict byte for byte, so they must share all three. Raise it when any of them changes."""

PREAMBLE = f"bothends {PROTOCOL_VERSION}\n".encode("ascii")

_GREETING = b"bothends "
_MAX_PREAMBLE = len(_GREETING) + 6

MAX_HELLO = 512
"""Largest frame before authentication, in bytes: a hello is under 200."""

MAX_FRAME = 256 * 1024
"""Largest frame after authentication, in bytes: an evidence part plus its seal."""


def frame(payload: bytes) -> bytes:
    """Return `payload` with its length before it (4 bytes, big-endian)."""
    if len(payload) > MAX_FRAME:
        raise MisuseError("frame too large")
    return len(payload).to_bytes(4, "big") + payload


class FrameReader:
    """Cuts a byte stream into frames, however the stream is split.

    `limit` may be raised by the caller once the peer has authenticated.
    """

    def __init__(self) -> None:
        self.limit = MAX_HELLO
        self._buffer = bytearray()
        self._greeted = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes.

        Raises `NotBothendsError` or `OtherVersionError` for the preamble, and
        `ProtocolError` for a frame over the limit. Nothing else, for any bytes.
        """
        self._buffer += data
        if not self._greeted and not self._take_preamble():
            return []
        frames = []
        while (payload := self._take_frame()) is not None:
            frames.append(payload)
        return frames

    def _take_preamble(self) -> bool:
        start = bytes(self._buffer[: len(_GREETING)])
        if not _GREETING.startswith(start):
            raise NotBothendsError("the other end does not speak the bothends protocol")
        line, newline, _ = self._buffer.partition(b"\n")
        if not newline:
            if len(self._buffer) > _MAX_PREAMBLE:
                raise NotBothendsError("the other end does not speak the bothends protocol")
            return False
        number = bytes(line[len(_GREETING) :])
        if len(number) > 5 or not number.isdigit():
            raise NotBothendsError("the other end does not speak the bothends protocol")
        if int(number) != PROTOCOL_VERSION:
            raise OtherVersionError(int(number))
        del self._buffer[: len(line) + 1]
        self._greeted = True
        return True

    def _take_frame(self) -> bytes | None:
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4], "big")
        if length > self.limit:
            raise ProtocolError(f"a frame of {length} bytes is over the limit of {self.limit}")
        if len(self._buffer) < 4 + length:
            return None
        payload = bytes(self._buffer[4 : 4 + length])
        del self._buffer[: 4 + length]
        return payload
