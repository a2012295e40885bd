"""What the real application is told to use: addresses, and names that stand for several.

A name is one target. An application asks its system for the addresses (getaddrinfo, which
sorts them by RFC 6724) and tries them in that order: one after the other or, as RFC 8305 has it
(section 5), the next one a quarter of a second later while the first is still under way. Either
way the first that accepts a connection is the one it stays with, whatever the service behind
makes of it. So that one decides; addresses that do not accept one cost time, and are told as a
note. Only where none accepts, all decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .addresses import bare, family
from .evidence import Evidence, Target
from .plan import primary_addresses

__all__ = [
    "GONE",
    "LOCAL",
    "NOBODY",
    "REFUSED",
    "SILENT",
    "TAKEN",
    "Tried",
    "deciding",
    "order_notes",
    "wanted",
]

TAKEN = "taken"
"""A connection came about."""
REFUSED, SILENT = "refused", "silent"
NOBODY = "nobody"
"""No machine on the source's own network answers for the address."""
LOCAL, GONE = "local", "gone"
"""There is no way out to it: the source's own system says so; or its router does not answer."""


class Tried(msgspec.Struct, frozen=True):
    """What came of one address of a target, at one port."""

    address: str
    status: str
    """As that of a check."""
    how: str
    """One of the words above."""


def wanted(prober: Evidence) -> tuple[Target, ...]:
    """Return what decides: each --target, else the --peer or the address by which they met.

    An address that the user typed as part of a name stands for the whole name.
    """
    if prober.targets:
        return tuple(target for target in prober.targets if target.addresses)
    primary = primary_addresses(
        targets=(),
        typed=prober.contact.typed,
        remote=prober.contact.remote,
        confirmed=prober.confirmed,
    )
    return tuple(dict.fromkeys(_named(address, prober.peers) for address in primary))


def _named(address: str, names: Sequence[Target]) -> Target:
    found = (n for n in names if bare(address) in {bare(other) for other in n.addresses})
    return next(found, Target(text=address, addresses=(address,)))


def deciding(tried: Sequence[Tried]) -> tuple[str, ...]:
    """Return the addresses of one target that decide what is said of it.

    `tried` is in the order in which the source's system gives them.
    """
    taken = _taken(tried)
    if taken is not None:
        return (taken.address,)
    # Programs pass over an IP version that the source does not have, and so does the verdict.
    without = [item for item in tried if item.how not in (LOCAL, GONE)]
    lacking = {family(item.address) for item in tried if item.how in (LOCAL, GONE)}
    if without and lacking.isdisjoint(family(item.address) for item in without):
        return tuple(item.address for item in without)
    return tuple(item.address for item in tried)


def _taken(tried: Sequence[Tried]) -> Tried | None:
    return next((item for item in tried if item.how == TAKEN), None)


def order_notes(name: str, tried: Sequence[Tried], transport: str = "tcp") -> tuple[str, ...]:
    """Return what an application makes of the addresses of `name`, in sentences.

    By UDP the order alone: when a program goes on to the next address is up to it.
    """
    if len(tried) < 2:
        return ()
    listed = ", ".join(item.address for item in tried)
    order = (
        f"{name} stands for {len(tried)} addresses, which the source's system gives to programs "
        f"in this order: {listed} (RFC 6724)."
    )
    taken = _taken(tried)
    if transport == "udp":
        return order, *_alone(tried, taken)
    if taken is None:
        return order, "None of them accepts a connection; one that does would be enough."
    at = list(tried).index(taken)
    return tuple(
        filter(None, (order, *_before(tried[:at], taken), _behind(taken, tried[at + 1 :])))
    )


def _alone(tried: Sequence[Tried], taken: Tried | None) -> tuple[str, ...]:
    """What becomes of a program that sends datagrams to the first address and to no other."""
    if taken is None or taken is tried[0]:
        return ()
    return (f"A program that sends to {tried[0].address} alone gets no answer.",)


def _before(passed: Sequence[Tried], taken: Tried) -> tuple[str, ...]:
    """What the addresses cost that come before the one that accepts."""
    if not passed:
        return ()
    slow = [item for item in passed if item.how in (SILENT, NOBODY, GONE)]
    dead = _list(slow or passed)
    if slow:
        cost = (
            f"Nothing answers at {dead}. A program that tries addresses side by side (RFC 8305, as "
            f"browsers do) comes to {taken.address} a quarter of a second later; one that tries "
            f"one after the other waits {_wait(slow)}."
        )
    else:
        cost = f"{dead} cannot be connected to, and programs go on to {taken.address} at once."
    alone = "One that tries the first address alone fails"
    return cost, f"{alone}, although {taken.address} accepts connections."


def _wait(slow: Sequence[Tried]) -> str:
    """How long connect() takes to fail.

    Linux: net.ipv4.tcp_syn_retries is 6, which makes 127 or 131 seconds, and a neighbour is asked
    three times, once a second (Documentation/networking/ip-sysctl.rst).
    """
    if any(item.how == SILENT for item in slow):
        return "as long as its system waits for an answer (Linux: about two minutes)"
    return "until its system has found that nobody is there (some seconds)"


def _behind(taken: Tried, later: Sequence[Tried]) -> str:
    """What the one that accepts keeps programs from."""
    if taken.status == "open":
        dead = [item for item in later if item.how != TAKEN]
        if not dead:
            return ""
        do = "does" if len(dead) == 1 else "do"
        hidden = f"do not notice that {_list(dead)} {do} not work."
        return f"Programs that get as far as {taken.address} {hidden}"
    works = [item for item in later if item.status == "open"]
    if not works:
        return ""
    return (
        f"{taken.address} accepts connections, so programs stay with it and do not come to "
        f"{_list(works)}, which {'works' if len(works) == 1 else 'work'}."
    )


def _list(items: Sequence[Tried]) -> str:
    *first, last = (item.address for item in items)
    return f"{', '.join(first)} and {last}" if first else last
