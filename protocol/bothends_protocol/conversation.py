"""Numbered messages that outlive the links they travel on.

Each envelope carries its number and the number of the last one taken from the
other side. What is not acknowledged is kept, and sent again in order on the
next link; what was taken already is passed over. So a message is delivered once
and in order, however often the link breaks, and by whichever way it is taken up
again.

Envelopes numbered 0 carry no message: they acknowledge, ask for an echo
(`ping`) or answer one, and are not repeated.
"""

from __future__ import annotations

from collections import deque

import msgspec

from .errors import MisuseError, ProtocolError
from .messages import Message, read_message, write_message
from .wire import pack, unpack

__all__ = ["MAX_UNACKNOWLEDGED", "Conversation"]

MAX_UNACKNOWLEDGED = 1024
"""Messages kept for a peer that acknowledges nothing: a whole run needs under 300."""

MAX_PINGS = 16
"""Echo requests that may be under way; an answer to none of them is passed over."""


class _Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    number: int
    taken: int
    body: bytes = b""
    ping: float | None = None
    pong: float | None = None


class Conversation:
    """One side of the numbered exchange, without I/O and without a clock.

    `outgoing` hands out the plain envelopes to put on the current link, oldest
    first; `attach` begins a new link.
    """

    def __init__(self) -> None:
        self._sent = 0
        self._taken = 0
        self._unacknowledged: deque[tuple[int, bytes]] = deque()
        self._queue: deque[bytes] = deque()
        self._attached = False
        self._pings: deque[float] = deque(maxlen=MAX_PINGS)
        self.echoes: list[float] = []
        """Clock readings that came back, as given to `ping`."""

    def attach(self) -> None:
        """Begin a link: everything the other side may lack is sent again on it."""
        self._attached = True
        self._queue.clear()
        if self._taken:
            self._queue.append(self._wrap(_Envelope(0, self._taken)))
        for number, body in self._unacknowledged:
            self._queue.append(self._wrap(_Envelope(number, self._taken, body)))

    def detach(self) -> None:
        """End the link: messages are kept until the next one."""
        self._attached = False
        self._queue.clear()

    @property
    def settled(self) -> bool:
        """Whether the other side has acknowledged everything sent."""
        return not self._unacknowledged

    def send(self, message: Message) -> None:
        """Queue `message`; raise `MisuseError` when the peer has acknowledged too little."""
        if len(self._unacknowledged) >= MAX_UNACKNOWLEDGED:
            raise MisuseError("too many unacknowledged messages")
        self._sent += 1
        body = write_message(message)
        self._unacknowledged.append((self._sent, body))
        if self._attached:
            self._queue.append(self._wrap(_Envelope(self._sent, self._taken, body)))

    def ping(self, now: float) -> None:
        """Queue an echo request that carries `now`, and with it an acknowledgement."""
        if self._attached:
            self._pings.append(now)
            self._queue.append(self._wrap(_Envelope(0, self._taken, ping=now)))

    def acknowledge(self) -> None:
        """Queue an acknowledgement of all that was taken."""
        if self._attached:
            self._queue.append(self._wrap(_Envelope(0, self._taken)))

    def outgoing(self) -> list[bytes]:
        """Return and forget the envelopes to send now."""
        out = list(self._queue)
        self._queue.clear()
        return out

    def receive(self, data: bytes) -> Message | None:
        """Return the message in the envelope `data`, or None where it holds no new one.

        Raises `ProtocolError` for anything the protocol does not allow.
        """
        envelope = unpack(data, _Envelope)
        if not 0 <= envelope.taken <= self._sent or envelope.number < 0:
            raise ProtocolError("an acknowledgement of what was never sent")
        while self._unacknowledged and self._unacknowledged[0][0] <= envelope.taken:
            self._unacknowledged.popleft()
        if envelope.ping is not None:
            self._queue.append(self._wrap(_Envelope(0, self._taken, pong=envelope.ping)))
        if envelope.pong is not None and envelope.pong in self._pings:
            self._pings.remove(envelope.pong)
            self.echoes.append(envelope.pong)
        return self._take(envelope)

    def _take(self, envelope: _Envelope) -> Message | None:
        if envelope.number == 0 or envelope.number <= self._taken:
            return None
        if envelope.number != self._taken + 1:
            raise ProtocolError("a message is missing")
        message = read_message(envelope.body)
        self._taken = envelope.number
        return message

    @staticmethod
    def _wrap(envelope: _Envelope) -> bytes:
        return pack(envelope)
