"""What to test, as data: the addresses that matter, the rounds, when to repeat.

Pure functions, so that both sides and every test plan alike. Which addresses
are primary is decided on evidence again by the judge (`primary_addresses`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .addresses import bare, is_loopback
from .evidence import Probe, RoundPlan
from .messages import Offer, SeenPort
from .pairing import SOURCE
from .ports import parse_ports

__all__ = [
    "ATTEMPTS",
    "MAX_ATTEMPTS",
    "MAX_PROBES",
    "Tally",
    "first_round",
    "further_round",
    "primary_addresses",
    "probe_addresses",
]

ATTEMPTS = 3
"""Fresh connects per probe in the first round. On a clean path silence of three is no
accident (design, part 5); the first of them is the cold one."""

MAX_ATTEMPTS = 24
"""Connects per probe at most, all rounds together: at 40 % loss each way, 24 leave a chance
under 1e-4 that fewer than three arrive."""

MAX_PROBES = 512
"""Probes per round at most: sockets that are open at one time, well below the common
descriptor limit of 1,024. A wider request is cut into several rounds."""


@dataclass(frozen=True)
class Tally:
    """What is known of one probe after the rounds so far."""

    attempts: int
    connected: int
    silent: int
    arrived: int | None


def primary_addresses(
    *, targets: Sequence[str], typed: Sequence[str], remote: str
) -> tuple[str, ...]:
    """Return the addresses whose checks decide the verdict (design, part 3).

    Each --target; else the --peer that the contact used, or all of them where it
    used none; else the address that authenticated the contact.
    """
    if targets:
        return tuple(dict.fromkeys(targets))
    if remote and bare(remote) in {bare(address) for address in typed}:
        return (remote,)
    return tuple(dict.fromkeys(typed)) or ((remote,) if remote else ())


def probe_addresses(prober: Offer) -> tuple[str, ...]:
    """Return the addresses that the side which made `prober` may probe, primary ones first.

    Only what the user typed or what authenticated; never an address on the
    peer's word alone (design, part 6).
    """
    targets = [address for target in prober.targets for address in target.addresses]
    primary = primary_addresses(targets=targets, typed=prober.typed, remote=prober.remote)
    return tuple(dict.fromkeys((*primary, *prober.proven)))


def first_round(
    number: int, prober: str, addresses: Iterable[str], ports: Sequence[str]
) -> list[RoundPlan]:
    """Return the rounds that try every port at every address once, `number` being the first."""
    probes = [
        Probe(transport=wanted.transport, address=address, port=port)
        for address in addresses
        for text in ports
        for wanted in parse_ports(text)
        for port in wanted
    ]
    chunks = [probes[at : at + MAX_PROBES] for at in range(0, len(probes), MAX_PROBES)]
    return [
        RoundPlan(
            number=number + index,
            kind="connect",
            prober=prober,
            attempts=ATTEMPTS,
            probes=tuple(chunk),
        )
        for index, chunk in enumerate(chunks)
    ]


def further_round(
    number: int, last: RoundPlan, tallies: Sequence[tuple[Probe, Tally]]
) -> RoundPlan | None:
    """Return a round of repeats for the probes that are not yet conclusive, or None."""
    open_probes = tuple(probe for probe, tally in tallies if not _conclusive(tally))
    if not open_probes:
        return None
    return RoundPlan(
        number=number,
        kind=last.kind,
        prober=last.prober,
        attempts=ATTEMPTS,
        probes=open_probes,
    )


def _conclusive(tally: Tally) -> bool:
    """Whether more attempts would tell nothing new.

    All alike is conclusive, with one exception: requests of which only some
    arrived are lost on the way, and what the rest of the way does to them is
    known only when enough have arrived.
    """
    if tally.attempts >= MAX_ATTEMPTS:
        return True
    if tally.connected == tally.attempts or not tally.silent:
        return True
    if tally.connected or tally.silent < tally.attempts:
        return False
    return tally.arrived is None or tally.arrived == 0 or tally.arrived >= ATTEMPTS


def seen_tally(seen: Iterable[SeenPort]) -> dict[tuple[str, int], int | None]:
    """Return how many requests arrived, by (address, port), out of an observer's answer."""
    return {(bare(item.address), item.port): item.arrived for item in seen}


def usable(address: str) -> bool:
    """Return whether an address means the same host on both sides."""
    return bool(address) and not is_loopback(address)


def prober_of(direction: str) -> str:
    """Return the role that opens the connection in `direction`."""
    return direction.partition("-to-")[0] or SOURCE
