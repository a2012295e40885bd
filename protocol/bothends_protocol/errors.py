"""Every exception the protocol half raises, in one tree.

Two branches, because they call for different reactions: `ProtocolError` is the
other side's doing (close the link, keep running), `MisuseError` is ours (a bug
in the caller, never caught). Parsers accept any bytes and raise nothing but
`ProtocolError`.

    BothendsError
    ├── MisuseError          an object of this package was driven wrongly
    ├── InputError           what a person typed does not parse
    └── ProtocolError        the peer sent what the protocol does not allow
        ├── NotBothendsError     something else than bothends answers there
        ├── OtherVersionError    a bothends of another protocol version
        ├── RefusedError         the peer refused the pairing, with its reason
        ├── WrongCodeError       key confirmation failed: the codes differ
        └── TamperedError        a record or an evidence file fails its check
"""

from __future__ import annotations

__all__ = [
    "BothendsError",
    "InputError",
    "MisuseError",
    "NotBothendsError",
    "OtherVersionError",
    "ProtocolError",
    "RefusedError",
    "TamperedError",
    "WrongCodeError",
]


class BothendsError(Exception):
    """Base of all errors of this package."""


class MisuseError(BothendsError):
    """The caller drove an object in a way its docstring forbids."""


class InputError(BothendsError):
    """Text typed by a person does not parse; the message is one sentence for that person."""


class ProtocolError(BothendsError):
    """The peer sent bytes or messages that the protocol does not allow."""


class NotBothendsError(ProtocolError):
    """The other end of the connection does not speak this protocol at all."""


class OtherVersionError(ProtocolError):
    """The other end speaks another version of this protocol; `version` is its number."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the other side speaks protocol version {version}")
        self.version = version


class RefusedError(ProtocolError):
    """The other end refused to pair; `reason` is one of `messages.REFUSALS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the other side refused: {reason}")
        self.reason = reason


class WrongCodeError(ProtocolError):
    """The key confirmation does not match: the two sides hold different codes."""


class TamperedError(ProtocolError):
    """A record or a sealed document was altered, or was sealed with another key."""
