"""What the user asked for, checked and resolved, as one value for the run."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bothends_protocol.code import Code

__all__ = ["CONTROL_PORT", "SERVICE_PORT", "Endpoint", "Options"]

SERVICE_PORT = 4242
"""What a source that never met its destination takes for the service's port."""

CONTROL_PORT = 24242
"""Where agents listen for each other, TCP (and, for hole punching, UDP)."""

WAIT_SECONDS = 600.0
RUN_SECONDS = 60.0


class Endpoint(msgspec.Struct, frozen=True):
    """An address or name as typed, with its port."""

    host: str
    port: int


class Options(msgspec.Struct, frozen=True):
    """Everything a run of an agent needs to know from its user."""

    role: str
    ports: tuple[str, ...] = ()
    """Destination: port sets as `tcp:4242`."""
    code: Code | None = None
    """None: the destination draws one, the source asks."""
    code_fixed: bool = False
    """Whether the code was given with --code or --code-file, so that no other replaces it."""
    code_shared: bool = False
    """Whether it was given so that both sides can start with it, and not typed over from the
    destination's screen."""
    peers: tuple[Endpoint, ...] = ()
    targets: tuple[str, ...] = ()
    service: str | None = None
    control_port: int = CONTROL_PORT
    rendezvous: str | None = None
    """URL of a meeting point."""
    stun: Endpoint | None = None
    """A server that says as what it sees this host."""
    mdns: bool = True
    wait: float = WAIT_SECONDS
    timeout: float = RUN_SECONDS
    json: bool = False
    report: Path | None = None
    save: Path | None = None
    paste: bool = False
    paste_addresses: bool = False
    """Whether the pasted evidence shows addresses and names as they are."""
    both_ways: bool = False
    offline_ports: tuple[str, ...] = (f"tcp:{SERVICE_PORT}",)
    """Source: what it tries by itself while it waits, for a verdict on saved evidence; the
    destination names its ports only where the two meet."""
    watch: bool = False
    suggest: bool = False
    """Destination: whether a port is sought for a program that is yet to listen."""
    fast: bool = False
    """Whether thousands of ports get their requests at full speed also across routers."""
    map: bool = False
    """Destination: whether to ask the router to forward the ports, and to test through that."""
    keep_map: bool = False
    """Whether what was opened so stays open."""
    payload: bytes = b""
    """Source: what datagrams to programs that are not ours hold."""
    verbose: int = 0
