"""The codes of causes, each with a few plain words for people.

A code is `segment.what`, relative to the direction of its check. The words
complete "what blocks: …" and are the same on both screens; how a cause is
proven and what to do about it is said elsewhere.
"""

from __future__ import annotations

__all__ = ["CODES", "plain"]

CODES: dict[str, str] = {
    "address.wrong-host": "another machine has that address",
    "address.no-host": "no machine answers for that address",
    "address.duplicate": "two machines answer for that address",
    "address.private": "an internal address is used from another network",
    "source.no-route": "the source knows no way to that address",
    "source.no-ports": "the source has no free local port for a connection",
    "source.name": "the name does not resolve on the source",
    "source.firewall-drop": "the source's own firewall silently drops the connection going out",
    "source.firewall-reject": "the source's own firewall refuses the connection going out",
    "source.reply-blocked": "the source's own firewall drops the answer",
    "network.drop": "something between the two computers silently drops the connection",
    "network.reject": "something between the two computers refuses the connection",
    "network.unreachable": "a router between the two computers knows no way on",
    "network.proxy": "something between the two computers answers in the destination's place",
    "network.reply-lost": "the answer is lost between the two computers",
    "network.client-isolation": "the network keeps its devices apart from each other",
    "network.partial": "one of several parallel paths filters",
    "network.mtu": "large packets do not get through",
    "network.loss": "packets get lost on the way",
    "nat.no-forward": "the router does not forward the port",
    "nat.wrong-host": "the router forwards the port to another machine",
    "nat.wrong-port": "the router forwards to another port",
    "nat.double": "there is a second router or carrier NAT in front of the router",
    "nat.no-hairpin": "the router does not lead its own public address back inside",
    "destination.firewall-drop": "the destination's firewall silently drops the connection",
    "destination.firewall-reject": "the destination's firewall refuses the connection",
    "destination.reply-blocked": "the destination's own firewall drops the answer",
    "destination.no-route": "the destination knows no way back to the source",
    "service.not-running": "no program listens on that port",
    "service.loopback-only": "the service accepts connections from its own computer only",
    "service.wrong-interface": "the service listens on another address of the destination",
    "service.wrong-family": "the service listens on the other IP version only",
    "service.other-port": "the service listens on another port",
    "service.other-program": "another program holds the port",
    "service.hung": "the service no longer takes its connections",
    "service.backlog-full": "the service's queue of waiting connections is full",
    "service.closes": "the service closes every connection at once",
}
"""Every code, in the order in which a packet meets the segments."""


_OF_DATAGRAMS = {
    "source.firewall-drop": "the source's own firewall drops the datagrams going out",
    "source.firewall-reject": "the source's own firewall refuses the datagrams going out",
    "network.drop": "something between the two computers silently drops the datagrams",
    "network.reject": "something between the two computers refuses the datagrams",
    "destination.firewall-drop": "the destination's firewall silently drops the datagrams",
    "destination.firewall-reject": "the destination's firewall refuses the datagrams",
    "service.not-running": "no program has that port",
    "service.loopback-only": "the service takes datagrams from its own computer only",
    "service.wrong-interface": "the service has the port at another address of the destination",
    "service.wrong-family": "the service has the port in the other IP version only",
    "service.other-port": "the service has another port",
    "service.hung": "the service no longer reads what comes to it",
}
"""The same of UDP, which knows no connections, where it says something else."""


def plain(code: str, transport: str = "tcp") -> str:
    """Return the plain words for `code`; the code itself where it is not known (a newer peer)."""
    if transport == "udp" and code in _OF_DATAGRAMS:
        return _OF_DATAGRAMS[code]
    return CODES.get(code, code)
