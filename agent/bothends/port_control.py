"""Asking a router by PCP (RFC 6887) and NAT-PMP (RFC 6886): one datagram out, one back.

The socket is connected to the router, so that nobody else is heard on it, and so
that the router's ICMP "port unreachable" is: nothing speaks the protocol there, which
is then known at once and not only by silence.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from bothends_protocol.errors import ProtocolError
from bothends_protocol.evidence import RouterWord
from bothends_protocol.portmap import (
    PCP_RESULTS,
    PCP_VERSION,
    PMP_RESULTS,
    PORT,
    UNSUPPORTED_OPTION,
    UNSUPPORTED_VERSION,
    Granted,
    PcpReply,
    PmpReply,
    outside_address,
    pcp_announce,
    pcp_map,
    pmp_address,
    pmp_map,
    read_pcp,
    read_pmp,
)

__all__ = [
    "NOT_OUTSIDE",
    "SILENCE_SECONDS",
    "Link",
    "NoAnswer",
    "Refusal",
    "Repeated",
    "ask_pcp",
    "ask_pmp",
    "map_by_pcp",
    "map_by_pmp",
    "unsent",
]

SILENCE_SECONDS = 1.2
"""How long a router may take to show that it is there. It is on the same link, and three questions
went out by then; RFC 6886 would have nine asked, over a minute, and nobody waits for that."""

FIRST_WAIT = 0.25
"""Seconds to the second question; doubled each time (RFC 6886, 3.1)."""

MAX_STRAY = 32
"""Datagrams that are no answer, before the router counts as one that gives none."""

NOT_OUTSIDE = "its outside address is none"

Answer = TypeVar("Answer")


class Link(msgspec.Struct, frozen=True):
    """The router, and the own address that faces it: one IP version, usual form, with zones."""

    gateway: str
    local: str


class NoAnswer(Exception):  # noqa: N818  an outcome, not a fault
    """The router did not answer; `outcome` as in `RouterWord`, `detail` a short sentence."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class Refusal(Exception):  # noqa: N818  an outcome too
    """The router answered that it will not; the message says so in a short sentence."""


class Repeated:
    """Sends at once, and again after `FIRST_WAIT` and ever doubled waits, until `stop`."""

    def __init__(self, send: Callable[[], None]) -> None:
        self._send = send
        self._wait = FIRST_WAIT
        self._again()

    def _again(self) -> None:
        self._send()
        self._timer = asyncio.get_running_loop().call_later(self._wait, self._again)
        self._wait *= 2

    def stop(self) -> None:
        """Send no more."""
        self._timer.cancel()


# --- asking -----------------------------------------------------------------------------------


async def ask_pcp(link: Link, seconds: float) -> RouterWord:
    """Return whether the router speaks PCP. It can be asked nothing else without mapping a port."""
    try:
        reply = await _exchange(link, pcp_announce(link.local), _read_pcp, seconds)
    except NoAnswer as none:
        return RouterWord(
            protocol="pcp", router=link.gateway, outcome=none.outcome, detail=none.detail
        )
    detail = "" if reply.result == 0 else _said("PCP", reply.result, PCP_RESULTS)
    return RouterWord(protocol="pcp", router=link.gateway, outcome="answers", detail=detail)


async def ask_pmp(link: Link, seconds: float) -> RouterWord:
    """Return what the router says by NAT-PMP: its outside address."""
    try:
        reply = await _exchange(link, pmp_address(), _read_pmp(0), seconds)
    except NoAnswer as none:
        return RouterWord(
            protocol="nat-pmp", router=link.gateway, outcome=none.outcome, detail=none.detail
        )
    outside = outside_address(reply.address or "")
    detail = ""
    if reply.result != 0:
        detail = _said("NAT-PMP", reply.result, PMP_RESULTS)
    elif outside is None:
        detail = f"{NOT_OUTSIDE}: {reply.address}"
    return RouterWord(
        protocol="nat-pmp", router=link.gateway, outcome="answers", detail=detail, outside=outside
    )


async def map_by_pcp(
    link: Link, nonce: bytes, transport: str, port: int, lifetime: int, seconds: float
) -> Granted:
    """Map `port`, outside as inside; with `lifetime` 0 end the mapping.

    `nonce` is the mapping's own, drawn once. A router that does not know how to grant this port
    or none may grant another one. Raises `NoAnswer` and `Refusal`.
    """
    outside = port if lifetime else 0

    def read(data: bytes) -> PcpReply | None:
        reply = _read_pcp(data, opcode=1)
        found = reply and reply.mapping
        same = found and (found.nonce, found.transport, found.inside) == (nonce, transport, port)
        return reply if same else None

    async def ask(*, exact: bool) -> PcpReply:
        request = pcp_map(link.local, nonce, transport, port, outside, lifetime, exact=exact)
        return await _exchange(link, request, read, seconds)

    reply = await ask(exact=bool(lifetime))
    if lifetime and reply.result == UNSUPPORTED_OPTION:
        reply = await ask(exact=False)
    if reply.result != 0 or reply.mapping is None:
        raise Refusal(f"the router refused: {_said('PCP', reply.result, PCP_RESULTS)}")
    return reply.mapping


async def map_by_pmp(
    link: Link, transport: str, port: int, lifetime: int, seconds: float
) -> Granted:
    """Do the same by NAT-PMP, which knows a mapping by its client and inside port alone."""
    request = pmp_map(transport, port, port if lifetime else 0, lifetime)
    any_reply = _read_pmp(request[1])

    def read(data: bytes) -> PmpReply | None:
        reply = any_reply(data)
        found = reply and reply.mapping
        return None if found and found.inside != port else reply

    reply = await _exchange(link, request, read, seconds)
    if reply.result != 0 or reply.mapping is None:
        raise Refusal(f"the router refused: {_said('NAT-PMP', reply.result, PMP_RESULTS)}")
    return reply.mapping


def _read_pcp(data: bytes, opcode: int = 0) -> PcpReply | None:
    reply = read_pcp(data)
    if reply.version == 0:
        raise NoAnswer("refused", "the router speaks NAT-PMP, not PCP")
    if reply.version != PCP_VERSION or reply.result == UNSUPPORTED_VERSION:
        raise NoAnswer("refused", "the router speaks another version of PCP")
    return reply if reply.opcode == opcode else None


def _read_pmp(opcode: int) -> Callable[[bytes], PmpReply | None]:
    def read(data: bytes) -> PmpReply | None:
        reply = read_pmp(data)
        if reply.version or reply.result == UNSUPPORTED_VERSION:
            raise NoAnswer("refused", "the router speaks PCP, not NAT-PMP")
        return reply if reply.opcode == opcode else None

    return read


def _said(protocol: str, result: int, names: dict[int, str]) -> str:
    return f"{names.get(result, 'an error of its own')} ({protocol} result {result})"


# --- one question -----------------------------------------------------------------------------


async def _exchange(
    link: Link, request: bytes, read: Callable[[bytes], Answer | None], seconds: float
) -> Answer:
    """Return what `read` makes of the router's answer to `request`.

    `read` returns None for what answers something else, and may raise `NoAnswer` and
    `ProtocolError`. Raises `NoAnswer`.
    """
    waiting = _Waiting(read)
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: waiting, local_addr=(link.local, 0), remote_addr=(link.gateway, PORT)
        )
    except OSError as error:
        raise unsent(error) from None
    sending = Repeated(lambda: transport.sendto(request))
    try:
        async with asyncio.timeout(seconds):
            return await waiting.answer
    except TimeoutError:
        raise waiting.none() from None
    finally:
        sending.stop()
        transport.close()


class _Waiting(asyncio.DatagramProtocol, Generic[Answer]):
    """Waits for the datagram of which `read` makes something."""

    def __init__(self, read: Callable[[bytes], Answer | None]) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._read = read
        self._strays = 0
        self._none = NoAnswer("silent", "")

    def none(self) -> NoAnswer:
        """Why there is no answer."""
        return self._none

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:  # noqa: ARG002
        if self.answer.done():
            return
        try:
            found = self._read(data)
        except NoAnswer as none:
            self.answer.set_exception(none)
        except ProtocolError as error:
            self._stray(f"what came is no answer: {error}")
        else:
            if found is None:
                self._stray("what came answers something else")
            else:
                self.answer.set_result(found)

    def _stray(self, why: str) -> None:
        self._strays += 1
        self._none = NoAnswer("unusable", why)
        if self._strays >= MAX_STRAY:
            self.answer.set_exception(self._none)

    def error_received(self, exc: Exception) -> None:
        if self.answer.done():
            return
        if isinstance(exc, ConnectionRefusedError):
            self.answer.set_exception(NoAnswer("refused", "nothing speaks it there"))
        elif isinstance(exc, OSError) and not self._strays:
            # The next one may get through.
            self._none = unsent(exc)


def unsent(error: OSError) -> NoAnswer:
    """Return what it means that a question cannot be sent: nothing is known of the router."""
    name = errno.errorcode.get(error.errno or 0, "") or type(error).__name__
    return NoAnswer("silent", f"it could not be asked: {name}")
