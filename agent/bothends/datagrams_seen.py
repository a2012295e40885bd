"""Which datagrams came to this host's cards in a round, and which of them were answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from bothends_protocol.evidence import Sighting

__all__ = ["DatagramsSeen"]


class DatagramsSeen:
    """An index of `sightings`, so that many ports cost no more than each its own datagrams."""

    def __init__(self, sightings: Iterable[Sighting]) -> None:
        self._came: dict[int, list[Sighting]] = defaultdict(list)
        self._went: set[tuple[str, int, int]] = set()
        for s in sightings:
            if s.transport != "udp" or s.icmp is not None:
                continue
            if s.way == "in":
                self._came[s.destination_port].append(s)
            else:
                self._went.add((s.destination, s.destination_port, s.source_port))

    def to(self, port: int) -> Sequence[Sighting]:
        """Return those that came in for `port`, whatever the address."""
        return self._came.get(port, ())

    def answered(self, request: Sighting) -> bool:
        """Return whether anything went back to where `request` came from."""
        back = (request.source, request.source_port, request.destination_port)
        return back in self._went
