"""The handshake: two agents prove to each other that they hold the same code.

SPAKE2 (the `spake2` package; RFC 9382 describes the same exchange) on the words
of the code, then HKDF-SHA256 (RFC 5869) into separate keys per role and
purpose, then key confirmation. A link that takes up a broken session again
proves the session's own resumption key instead, in the same frames.

Order of the frames, whoever dialled:

    dialler  -> Hello      listener -> Hello or Refusal
    source   -> Confirm    destination -> Confirm or Refusal

**The source always confirms first.** A stranger in the role of the source
must show the destination a confirmation before it learns anything, so each of
its guesses is a wrong code that the destination counts. A stranger in the role
of a destination gets one guess for each source that dials it; the source counts
those that never confirm (`agent.contact`).

Only a confirmation that fails counts as a wrong code.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .code import Code
from .errors import MisuseError, NotBothendsError, ProtocolError, RefusedError, WrongCodeError
from .messages import REFUSALS
from .records import Opener, Sealer
from .wire import pack, unpack

__all__ = [
    "DESTINATION",
    "ROLES",
    "SOURCE",
    "Handshake",
    "Hello",
    "Keys",
    "other_role",
]

SOURCE = "source"
DESTINATION = "destination"
ROLES = (SOURCE, DESTINATION)

INSTANCE_SIZE = 16
_SHARE_SIZE = 33
"""A SPAKE2 message on Ed25519: one byte for the side, 32 for the element."""
_LABEL = b"bothends/1 "

DIALLER_PADDING = 96
"""Bytes that a dialler adds to its hello. A listener answers with a hello without them and, as
source, a confirmation of 50 bytes: no stranger gets more than it sent."""


def other_role(role: str) -> str:
    """Return the role of the other side."""
    return DESTINATION if role == SOURCE else SOURCE


class _Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag=True):
    """Base of the handshake's frames."""


class Hello(_Frame, frozen=True):
    """First frame of each side; everything in it may be seen by anybody."""

    role: str
    instance: bytes
    """Drawn anew by each run of an agent."""
    number: int
    share: bytes
    """The SPAKE2 message, or a nonce of the same size where a session is resumed."""
    session: bytes = b""
    """The session to resume; empty for a first pairing."""
    padding: bytes = b""
    """Makes the dialler's hello larger than anything that is answered to it."""


class Confirm(_Frame, frozen=True):
    """Proof that the sender came to the same key."""

    mac: bytes


class Refusal(_Frame, frozen=True):
    """The listener, or the destination, will not pair; `reason` is one of `REFUSALS`."""

    reason: str


_Any = Hello | Confirm | Refusal


class Keys:
    """The keys of an authenticated link, each for one role and purpose only."""

    def __init__(self, master: bytes) -> None:
        self._master = master

    def derive(self, purpose: str, size: int = 32) -> bytes:
        """Return the key for `purpose`, `size` bytes long; the same on both sides."""
        info = _LABEL + purpose.encode("ascii")
        return HKDF(hashes.SHA256(), size, salt=None, info=info).derive(self._master)

    def sealer(self, role: str) -> Sealer:
        """Return what seals the records that `role` sends. To be asked once a link."""
        return Sealer(self.derive(f"records of {role}"))

    def opener(self, role: str) -> Opener:
        """Return what opens the records that `role` sent. To be asked once a link."""
        return Opener(self.derive(f"records of {role}"))

    def __repr__(self) -> str:
        return "Keys(…)"


class Handshake:
    """One side of one handshake, on one link, without I/O.

    A first pairing proves the code. With `session` this side is paired already, and takes that
    session up again with its key `resumption`; `sessions` are the keys by name of all that a
    listener takes up. `entropy(n)` returns n random bytes. Bytes to send
    come back from `start` and `receive`; `keys` is set once the other side has
    proven itself, `peer` once its hello is in. `refuse(hello)` says why a peer is
    turned away, `guessed(hello)` hears of each wrong code at once. Any error means: send nothing
    more but what `farewell` holds, and close.
    """

    def __init__(  # noqa: PLR0913  each is a fact of its own
        self,
        *,
        role: str,
        dialled: bool,
        instance: bytes,
        code: Code,
        entropy: Callable[[int], bytes],
        session: bytes = b"",
        resumption: bytes = b"",
        sessions: Mapping[bytes, bytes] | None = None,
        refuse: Callable[[Hello], str | None] = lambda _hello: None,
        guessed: Callable[[Hello], None] = lambda _hello: None,
    ) -> None:
        if role not in ROLES or len(instance) != INSTANCE_SIZE:
            raise MisuseError("bad role or instance")
        self.role = role
        self.keys: Keys | None = None
        self.peer: Hello | None = None
        self.confirmed = False
        """Whether this side has shown its confirmation."""
        self.farewell: list[bytes] = []
        self._dialled = dialled
        self._code = code
        self._sessions = {session: resumption} if sessions is None else sessions
        self._refuse = refuse
        self._guessed = guessed
        self._entropy = entropy
        self._instance = instance
        self._session = session
        self._hello = b""
        if dialled:
            self._begin(session)
        self._pending: Keys | None = None

    def _begin(self, session: bytes) -> None:
        """Make this side's hello, for `session` or a first pairing."""
        self._exchange = (
            _Resume(self._entropy) if session else _Spake(self.role, self._code, self._entropy)
        )
        self._hello = pack(
            Hello(
                role=self.role,
                instance=self._instance,
                number=self._code.number,
                share=self._exchange.share,
                session=session,
                padding=bytes(DIALLER_PADDING if self._dialled else 0),
            )
        )

    def start(self) -> list[bytes]:
        """Return the frames to send first: the dialler greets, the listener waits."""
        return [self._hello] if self._dialled else []

    def receive(self, data: bytes) -> list[bytes]:
        """Take a frame, return the frames to send.

        Raises `RefusedError`, `WrongCodeError` or another `ProtocolError`.
        """
        message: _Any = unpack(data, _Any)  # type: ignore[arg-type]
        if isinstance(message, Refusal):
            raise RefusedError(message.reason if message.reason in REFUSALS else "busy")
        if isinstance(message, Hello) and self.peer is None:
            return self._take_hello(message, data)
        if isinstance(message, Confirm) and self._pending is not None and self.keys is None:
            return self._take_confirm(message)
        raise ProtocolError("a handshake frame came out of turn")

    def _take_hello(self, hello: Hello, data: bytes) -> list[bytes]:
        self._check(hello)
        self.peer = hello
        if not self._dialled:
            self._begin(hello.session)
        key = self._exchange.finish(hello.share, self._sessions.get(hello.session, b""))
        self._pending = Keys(self._mix(key, data))
        out = [] if self._dialled else [self._hello]
        if self.role == SOURCE:
            out.append(self._confirm(SOURCE))
            self.confirmed = True
        return out

    def _check(self, hello: Hello) -> None:
        if (
            len(hello.share) != _SHARE_SIZE
            or len(hello.instance) != INSTANCE_SIZE
            or hello.role not in ROLES
            or (not self._dialled and len(hello.padding) < DIALLER_PADDING)
        ):
            raise NotBothendsError("a malformed hello")
        reason = self._reason(hello)
        if reason is not None:
            self.farewell = [pack(Refusal(reason=reason))]
            raise RefusedError(reason)

    def _reason(self, hello: Hello) -> str | None:
        if hello.instance == self._instance:
            return "same-agent"
        if hello.role == self.role:
            return "same-role"
        if hello.number != self._code.number:
            return "other-number"
        known = {self._session} if self._dialled else self._sessions.keys()
        if (hello.session or self._session) and hello.session not in known:
            return "busy"
        return self._refuse(hello)

    def _take_confirm(self, message: Confirm) -> list[bytes]:
        pending = self._pending
        if pending is None:
            raise MisuseError("no key yet")
        peer = other_role(self.role)
        if self.role == DESTINATION and self.peer is not None:
            # Asked again at this last moment: another link of the same stranger may have
            # failed meanwhile, and then this guess must not be answered at all.
            reason = self._refuse(self.peer)
            if reason is not None:
                self.farewell = [pack(Refusal(reason=reason))]
                raise RefusedError(reason)
        if not hmac.compare_digest(message.mac, pending.derive(f"confirmation of {peer}")):
            self.farewell = [pack(Refusal(reason="wrong-code"))]
            if self.peer is not None:
                self._guessed(self.peer)
            raise WrongCodeError("the words of the code differ")
        self.keys = pending
        if self.role == SOURCE:
            return []
        self.confirmed = True
        return [self._confirm(DESTINATION)]

    def _confirm(self, role: str) -> bytes:
        if self._pending is None:
            raise MisuseError("no key yet")
        return pack(Confirm(mac=self._pending.derive(f"confirmation of {role}")))

    def _mix(self, key: bytes, peer_hello: bytes) -> bytes:
        # The transcript binds the keys to both hellos whole: role, instance, session.
        hellos = (self._hello, peer_hello)
        first, second = hellos if self.role == SOURCE else hellos[::-1]
        transcript = hashlib.sha256(
            _LABEL + len(first).to_bytes(4, "big") + first + second
        ).digest()
        return HKDF(hashes.SHA256(), 32, salt=transcript, info=_LABEL + b"link").derive(key)


class _Spake:
    """The exchange of a first pairing."""

    def __init__(self, role: str, code: Code, entropy: Callable[[int], bytes]) -> None:
        # Imported here: it takes 35 ms, and `--help` must not pay for it.
        import spake2  # noqa: PLC0415

        side = spake2.SPAKE2_A if role == SOURCE else spake2.SPAKE2_B
        self._state = side(
            code.secret, idA=SOURCE.encode(), idB=DESTINATION.encode(), entropy_f=entropy
        )
        self.share: bytes = self._state.start()

    def finish(self, share: bytes, _resumption: bytes) -> bytes:
        try:
            key: bytes = self._state.finish(share)
        except Exception as error:
            # spake2 raises whatever its arithmetic raises on a bad element.
            raise ProtocolError("not a valid key exchange message") from error
        return key


class _Resume:
    """The exchange of a resumed session: fresh nonces over the session's own key."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self.share = b"R" + entropy(_SHARE_SIZE - 1)

    def finish(self, _share: bytes, resumption: bytes) -> bytes:
        return resumption
