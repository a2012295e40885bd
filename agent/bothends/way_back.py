"""Where answers from the tested port end: requests from that port, whose time runs out on the way.

A filter that keeps the answers of a service away knows them by the port that they come from, as a
rule. So packets are sent from that port towards the other side, each with a small time to live,
and beside them others from ports that the system gives; the routers say which of them they got.
They go to ports that nobody is known to listen on, and are connection requests.

Where our own listener has the port it makes room for a moment. A port that a service holds takes
the right to write packets by hand (CAP_NET_RAW), and the packet witness, which sees what routers
say of them; without, such a way is not traced.
"""

from __future__ import annotations

import contextlib

from bothends_protocol.addresses import family
from bothends_protocol.evidence import Icmp, Probe

from .hops import Lane, Tracer
from .listener import OwnListeners
from .pinhole import open_with_raw_socket
from .recorder import Recorder
from .witness.packets import PacketWitness

__all__ = ["WayBack"]


class WayBack:
    """Traces the ways of answers for one side, each once."""

    def __init__(
        self, recorder: Recorder, own: OwnListeners, packets: PacketWitness | None
    ) -> None:
        self._recorder = recorder
        self._own = own
        self._packets = packets
        self._traced: set[tuple[str, int, str]] = set()

    async def trace(self, number: int, place: Probe, peer: str, trip: float = 0.0) -> None:
        """Trace the way from `place`, where requests come in, to `peer`; in round `number`.

        `trip` is the round trip of the contact.
        """
        key = (place.address, place.port, peer)
        if key in self._traced or len(self._traced) >= MAX_TRACED:
            return
        self._traced.add(key)
        by_hand = _ByHand(self._recorder, self._packets) if self._packets is not None else None
        tracer = Tracer(self._recorder.clock, by_hand)
        lane = Lane(0, local_port=place.port, local=place.address)
        # What can be written by hand needs no room.
        held = () if by_hand is not None else self._own.release(place.port)
        try:
            found = await tracer.follow(number, peer, lane, Lane(0), trip=trip)
        finally:
            for address in held:
                self._own.open(address, place.port)
        self._recorder.back_probes.extend(found)


MAX_TRACED = 2
"""Ways: what routers say of expired requests is limited, and other ports share the way."""


class _ByHand:
    """Requests written by hand; what comes of them is seen at the card."""

    def __init__(self, recorder: Recorder, packets: PacketWitness) -> None:
        self._recorder = recorder
        self._packets = packets
        self._from = len(recorder.sightings)

    def send(self, address: str, port: int, local: str, local_port: int, hops: int) -> None:
        """Send one. Raises OSError, EPERM without the right to; IPv4 only."""
        if family(address) != 4:
            raise OSError("only written for IPv4")
        open_with_raw_socket(local, local_port, address, (port,), hops)

    def heard(self, port: int, local_port: int) -> tuple[str, Icmp | None, float] | None:
        """What came of the one to `port`."""
        with contextlib.suppress(OSError):
            self._packets.drain()
        for seen in self._recorder.sightings[self._from :]:
            if seen.way != "in":
                continue
            if seen.icmp is not None and (seen.source_port, seen.destination_port) == (
                local_port,
                port,
            ):
                return "unreachable", seen.icmp, seen.at
            if (seen.destination_port, seen.source_port) == (local_port, port):
                return ("refused" if "R" in seen.flags else "connected"), None, seen.at
        return None
