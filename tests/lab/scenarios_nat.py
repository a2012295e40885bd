"""Rows of the issue that asks for the Internet between the two: NAT, carriers, wrong addresses.

The control port is never forwarded, so the agents meet through a meeting point
on ``public`` as a rule, and the source is told to test the destination's public
address. Where the two could not know more, whoever they asked, the row expects
"undetermined" with all that fits: ``_cannot_tell``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Iterator
from typing import Any

from . import faults
from .faults import ADMIN, PORT_UNREACHABLE, RESET, Fault, rules
from .grading import Expected, blocked, open_, undetermined
from .homes import (
    CARRIER,
    CARRIER_NAT,
    FORWARD,
    INSIDE,
    LAN,
    NOBODY_INSIDE,
    OFFICE_DESTINATION,
    OTHER_INSIDE,
    PUBLIC,
    SECOND_ROUTER,
    STRANGER,
    WAN,
    Homes,
    forward_to,
    office,
)
from .network import DESTINATION_PUBLIC, SOURCE_PUBLIC, Stage
from .rows import (
    CLOSES,
    DESTINATION_DROP,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    DOUBLE,
    HUNG,
    LOOPBACK_ONLY,
    NAT_WRONG_HOST,
    NETWORK_DROP,
    NETWORK_REJECT,
    NO_FORWARD,
    NO_HAIRPIN,
    NO_HOST,
    NOT_RUNNING,
    PRIVATE,
    SOURCE_DROP,
    SOURCE_REJECT,
    UNREACHABLE,
    WRONG_HOST,
    WRONG_PORT,
    with_users,
)
from .scenario import BOTH, Scenario
from .services import Daemon, Service, mailbox_server, meeting_point

__all__ = ["ASK_ROUTER", "rows"]

NAT_ISSUE = 5

ECHO = Service()
LOOPBACK = Service(bind=("127.0.0.1",))
ON_OTHER = Service(on="other")
AT_MEETING_POINT = functools.partial(meeting_point, on="public", address=PUBLIC)
AT_MAILBOX_SERVER = functools.partial(mailbox_server, on="public", address=PUBLIC)
MEET = ("--rendezvous", f"ws://{PUBLIC}:4000/v1")
TARGET = ("--target", DESTINATION_PUBLIC)

REFUSED_BY_RESET, REFUSED = f"reject with {RESET}", f"reject with {PORT_UNREACHABLE}"

REQUEST = "tcp dport 4242"
ROUTER_DROP = rules("home2", "forward", f'iifname "{WAN}" {REQUEST} counter drop')
CARRIER_DROP = rules("carrier", "forward", f'oifname "{LAN}" {REQUEST} counter drop')
CARRIER_CLOSED = rules("carrier", "forward", f'oifname "{LAN}" ct state new counter drop')
"""The carrier lets answers in, and nothing else."""
HOME_DROP = rules("home1", "forward", f"{REQUEST} counter drop")


def rows() -> Iterator[Scenario]:
    """All of them."""
    yield from _open()
    yield from _not_forwarded()
    yield from _forwarded_astray()
    yield from _behind_the_forward()
    yield from _two_routers()
    yield from _one_home()
    yield from _wrong_addresses()
    yield from _asked_routers()
    yield from _carriers()
    yield from _source_side()
    yield from _office()
    yield from _pairs()


def _row(
    name: str,
    expected: Expected,
    *put: Fault,
    users: Expected | None = None,
    services: tuple[Any, ...] = (ECHO,),
    target: tuple[str, ...] = TARGET,
    **options: Any,
) -> Iterator[Scenario]:
    """Both meet on ``public``; privileged, and as ordinary users, who can say as much or ``users``.

    ``options`` are those of ``Homes``.
    """
    row = Scenario(
        name=f"nat-{name}",
        expected=expected,
        issue=NAT_ISSUE,
        network=Homes(**options),
        services=(AT_MEETING_POINT, *services),
        faults=put,
        peers=frozenset(),
        source_args=(*MEET, *target),
        destination_args=MEET,
    )
    yield from with_users(row, users)


_forwarded = functools.partial(_row, forwards=(FORWARD,))


def _cannot_tell(true: str, *others: str) -> Expected:
    """Nobody can tell these apart: all must be candidates, and no other than the first be named."""
    return Expected(
        "undetermined", also_true=frozenset({true}), candidates=frozenset({true, *others})
    )


def _changed(rows_: Iterator[Scenario], **changes: Any) -> Iterator[Scenario]:
    return (dataclasses.replace(row, **changes) for row in rows_)


# -- one home to another


def _open() -> Iterator[Scenario]:
    yield from _forwarded("open", open_())
    yield from _forwarded("open-silent", open_(), services=(Service(mode="silent"),))
    yield from _forwarded("open-no-target", open_(), target=())
    yield from _forwarded("open-from-public", open_(), source=SOURCE_PUBLIC)
    yield from _forwarded("open-router-refuses", open_(), others=REFUSED)
    yield from _changed(
        _forwarded("open-other-meeting-point", open_()), services=(AT_MAILBOX_SERVER, ECHO)
    )
    # That server does not say how it sees anybody, and nobody else is asked.
    yield from _changed(
        _forwarded("open-other-meeting-point-no-target", undetermined(), target=()),
        services=(AT_MAILBOX_SERVER, ECHO),
    )
    yield from _changed(_forwarded("open-peers", open_()), peers=BOTH)
    for name, put, expected in (
        ("open-punched", (), open_()),
        ("destination-drop-punched", (faults.destination_drop(),), blocked(DESTINATION_DROP)),
    ):
        yield from _changed(
            _forwarded(name, expected, *put, services=()),
            services=(ECHO,),
            peers=BOTH,
            source_args=TARGET,
            destination_args=(),
        )
    yield from _forwarded("open-scrambled", open_(), scramblers=frozenset({"home1", "home2"}))
    # A VPN's address in the range of carriers is no carrier's NAT.
    yield from _forwarded("overlay-open", open_(), overlay=True)


def _not_forwarded() -> Iterator[Scenario]:
    """What a router makes of what it does not forward; who may send any packet finds out more."""
    unknown = _cannot_tell(NO_FORWARD, NETWORK_DROP)
    for name, others, users in (
        ("silent", "drop", unknown),
        ("reset", REFUSED_BY_RESET, None),
        ("icmp", REFUSED, None),
        ("icmp-admin", f"reject with {ADMIN}", None),
    ):
        yield from _row(f"no-forward-{name}", blocked(NO_FORWARD), users=users, others=others)
    yield from _row(
        "no-forward-from-public", blocked(NO_FORWARD), users=unknown, source=SOURCE_PUBLIC
    )
    yield from _row("no-forward-no-target", blocked(NO_FORWARD), users=unknown, target=())
    yield from _row("overlay-no-forward", blocked(NO_FORWARD), users=unknown, overlay=True)
    # Where a router changes ports, a packet from inside opens nothing, and that says nothing.
    for home in ("home1", "home2"):
        yield from _row(
            f"no-forward-silent-scrambled-by-{home}",
            undetermined(NO_FORWARD),
            users=unknown,
            scramblers=frozenset({home}),
        )
    yield from _changed(
        _row("no-forward-punched", blocked(NO_FORWARD), users=unknown, services=()),
        services=(ECHO,),
        peers=BOTH,
        source_args=TARGET,
        destination_args=(),
    )


def _forwarded_astray() -> Iterator[Scenario]:
    to_other = (forward_to(OTHER_INSIDE),)
    for name, services, forwards in (
        ("answers", (ON_OTHER,), to_other),
        ("refuses", (), to_other),
        # Both want the port; the destination was given another one outside.
        ("first-come", (ON_OTHER,), (*to_other, f"tcp dport 4243 dnat ip to {INSIDE}:4242")),
    ):
        yield from _row(
            f"wrong-host-{name}",
            blocked(NAT_WRONG_HOST),
            services=(ECHO, *services),
            other=True,
            forwards=forwards,
        )
    # Whoever goes on for three seconds is told by the router that nobody is there, and whoever
    # may send any packet gets past such a forward, and not past a filter.
    yield from _row(
        "wrong-host-off",
        undetermined(NAT_WRONG_HOST),
        users=_cannot_tell(NAT_WRONG_HOST, NETWORK_DROP),
        forwards=(forward_to(NOBODY_INSIDE),),
    )
    for name, services in (("closed", ()), ("other-service", (Service(port=4243),))):
        yield from _row(
            f"wrong-port-{name}",
            blocked(WRONG_PORT),
            services=(ECHO, *services),
            forwards=(forward_to(INSIDE, 4243),),
        )
    yield from _forwarded(
        "router-drop",
        undetermined(NETWORK_DROP),
        ROUTER_DROP,
        users=_cannot_tell(NETWORK_DROP, NAT_WRONG_HOST),
    )


def _behind_the_forward() -> Iterator[Scenario]:
    """The packet gets there; the causes are the destination's own."""
    for name, put, code in (
        ("drop", faults.destination_drop(), DESTINATION_DROP),
        ("reject-reset", faults.destination_reject(RESET), DESTINATION_REJECT),
        ("reject-icmp", faults.destination_reject(ADMIN), DESTINATION_REJECT),
        ("reject-port", faults.destination_reject(PORT_UNREACHABLE), DESTINATION_REJECT),
        ("reply-blocked", faults.destination_drop_replies(), DESTINATION_REPLY),
        ("default-deny", faults.default_deny(), DESTINATION_DROP),
    ):
        yield from _forwarded(f"destination-{name}", blocked(code), put)
    for name, services, code in (
        ("not-running", (), NOT_RUNNING),
        ("loopback-only", (LOOPBACK,), LOOPBACK_ONLY),
        ("hung", (Service(stopped=True),), HUNG),
        ("closes", (Service(mode="closes"),), CLOSES),
    ):
        yield from _forwarded(name, blocked(code), services=services)


def _two_routers() -> Iterator[Scenario]:
    """A second NAT above the destination's own router."""
    above = f"{SECOND_ROUTER.inside}".partition("/")[0] % 2
    outer = dataclasses.replace(SECOND_ROUTER, forwards=(forward_to(above),))
    hidden = blocked(DOUBLE, also=[NO_FORWARD])
    yield from _forwarded("carrier-nat", blocked(DOUBLE), upstream=CARRIER_NAT)
    yield from _row("carrier-nat-no-forward", hidden, upstream=CARRIER_NAT)
    yield from _forwarded("double", blocked(DOUBLE), upstream=SECOND_ROUTER)
    yield from _row("double-no-forward", hidden, upstream=SECOND_ROUTER)
    yield from _forwarded("double-both-forward", open_(), upstream=outer)


def _one_home() -> Iterator[Scenario]:
    """The source is beside the destination, and was told the public address all the same."""
    yield from _forwarded("hairpin-open", open_(), one_home=True, hairpin="full")
    yield from _forwarded("hairpin-half", blocked(NO_HAIRPIN), one_home=True, hairpin="half")
    yield from _forwarded("hairpin-none", _cannot_tell(NO_HAIRPIN, NO_FORWARD), one_home=True)
    yield from _row("hairpin-none-no-forward", undetermined(NO_FORWARD, NO_HAIRPIN), one_home=True)
    yield from _row(
        "hairpin-no-forward",
        _cannot_tell(NO_FORWARD, NO_HAIRPIN),
        one_home=True,
        hairpin="full",
    )


# -- addresses that are somebody else's


def _wrong_addresses() -> Iterator[Scenario]:
    inside = functools.partial(_forwarded, target=("--target", INSIDE))
    yield from inside("private-nobody", blocked(PRIVATE, also=[NO_HOST]))
    for name, services in (("answers", (Service(on="namesake"),)), ("refuses", ())):
        yield from inside(
            f"private-namesake-{name}",
            blocked(PRIVATE, also=[WRONG_HOST]),
            services=(ECHO, *services),
            namesake=True,
        )
    yield from inside(
        "private-other-network", blocked(PRIVATE, also=[UNREACHABLE]), source="192.168.5.10"
    )
    # Carriers as a rule swallow what is for such addresses, and say nothing.
    yield from inside(
        "private-other-network-silent",
        blocked(PRIVATE, also=[NETWORK_DROP]),
        rules("core", "prerouting", "ip daddr 192.168.0.0/16 counter drop"),
        source="192.168.5.10",
    )
    dropping = rules("stranger", "input", f"{REQUEST} counter drop")
    for what, services, put in (
        ("answers", (Service(on="stranger"),), ()),
        ("refuses", (), ()),
        ("silent", (), (dropping,)),
    ):
        yield from _forwarded(
            f"stranger-{what}",
            blocked(WRONG_HOST),
            *put,
            services=(ECHO, *services),
            target=("--target", STRANGER),
            stranger=True,
        )


# -- routers that can be asked

ASK_ROUTER = """
import socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(2)
    asking.connect(("192.168.1.1", 5351))
    asking.send(struct.pack("!BBHHHI", 0, 2, 0, 4242, 4242, 3600))
    _, _, result, _, _, outside, _ = struct.unpack("!BBHIHHI", asking.recv(64))
sys.exit(f"result {result}, port {outside}" if result or outside != 4242 else 0)
"""
"""NAT-PMP (RFC 6886, 3.3): forward TCP port 4242 to whoever asks, for an hour."""


def _router_daemon(**options: Any) -> Daemon:
    """A real miniupnpd on the destination's router; see ``igd.miniupnpd``."""

    def start(stage: Stage) -> Any:
        return importlib.import_module(f"{__package__}.igd").miniupnpd(
            stage.lab.host("home2"), **options
        )

    start.__name__ = "_".join(("router_daemon", *options))
    return start


def _mapped_by(name: str) -> Fault:
    """A computer has asked the router for the port."""

    def ask(stage: Stage) -> None:
        stage.lab.host(name).python(ASK_ROUTER)

    ask.__name__ = f"mapped_by_{name}"
    return ask


def _asked_routers() -> Iterator[Scenario]:
    daemon = _router_daemon()
    yield from _row("upnp-open", open_(), _mapped_by("destination"), services=(ECHO, daemon))
    yield from _row(
        "upnp-wrong-host",
        blocked(NAT_WRONG_HOST),
        _mapped_by("other"),
        services=(ECHO, ON_OTHER, daemon),
        other=True,
    )
    yield from _row(
        "upnp-expired",
        blocked(NO_FORWARD),
        users=undetermined(NO_FORWARD),
        services=(ECHO, daemon),
    )
    yield from _row(
        "upnp-off",
        blocked(NO_FORWARD),
        users=_cannot_tell(NO_FORWARD, NETWORK_DROP),
        services=(ECHO, _router_daemon(upnp=False)),
    )
    yield from _row(
        "upnp-carrier-drop",
        blocked(NETWORK_DROP),
        CARRIER_DROP,
        _mapped_by("destination"),
        services=(ECHO, daemon),
        upstream=CARRIER,
    )
    # A forward that was set up by hand is none that UPnP knows of.
    for name, put, expected, users in (
        ("open", (), open_(), None),
        (
            "carrier-drop",
            (CARRIER_DROP,),
            undetermined(NETWORK_DROP),
            _cannot_tell(NETWORK_DROP, NO_FORWARD),
        ),
    ):
        yield from _forwarded(
            f"upnp-by-hand-{name}",
            expected,
            *put,
            users=users,
            services=(ECHO, daemon),
            upstream=CARRIER,
        )
    yield from _row(
        "upnp-carrier-nat",
        blocked(DOUBLE),
        services=(ECHO, daemon),
        forwards=(FORWARD,),
        upstream=CARRIER_NAT,
    )


# -- filters on the way


def _carriers() -> Iterator[Scenario]:
    """Nobody tells of a forward that was set up by hand."""
    for name, put in (("drop", CARRIER_DROP), ("stateful", CARRIER_CLOSED)):
        yield from _forwarded(
            f"carrier-{name}",
            undetermined(NETWORK_DROP),
            put,
            users=_cannot_tell(NETWORK_DROP, NO_FORWARD),
            upstream=CARRIER,
        )
    yield from _forwarded("carrier-open", open_(), upstream=CARRIER)


def _source_side() -> Iterator[Scenario]:
    """The source's own host, and its own router."""
    for name, put, code in (
        ("source-drop", faults.source_drop(), SOURCE_DROP),
        ("source-reject-reset", faults.source_reject(RESET), SOURCE_REJECT),
        ("source-reject-icmp", faults.source_reject(ADMIN), SOURCE_REJECT),
        ("source-router-drop", HOME_DROP, NETWORK_DROP),
        (
            "source-router-reject-reset",
            rules("home1", "forward", f"{REQUEST} counter reject with {RESET}"),
            NETWORK_REJECT,
        ),
        (
            "source-router-reject-icmp",
            rules("home1", "forward", f"{REQUEST} counter reject with {ADMIN}"),
            NETWORK_REJECT,
        ),
    ):
        yield from _forwarded(name, blocked(code), put)


def _office() -> Iterator[Scenario]:
    """Private addresses that are routed: nobody translates, and none of them is wrong."""
    for name, services, put, expected in (
        ("open", (ECHO,), (), open_()),
        ("destination-drop", (ECHO,), (faults.destination_drop(),), blocked(DESTINATION_DROP)),
        ("not-running", (), (), blocked(NOT_RUNNING)),
        ("router-drop", (ECHO,), (faults.path_drop(),), blocked(NETWORK_DROP)),
        ("last-router-drop", (ECHO,), (faults.path_drop(router=3),), blocked(NETWORK_DROP)),
    ):
        yield from _changed(
            _row(
                f"office-{name}",
                expected,
                *put,
                services=services,
                target=("--target", OFFICE_DESTINATION),
            ),
            network=office,
        )


# -- two causes at once


def _pairs() -> Iterator[Scenario]:
    drop = faults.destination_drop()
    for name, put, services, codes, options in (
        ("no-forward", (), (), (NO_FORWARD, NOT_RUNNING), {"others": REFUSED_BY_RESET}),
        ("no-forward-silent", (), (), (NO_FORWARD, NOT_RUNNING), {}),
        (
            "wrong-host",
            (),
            (ON_OTHER,),
            (NAT_WRONG_HOST, NOT_RUNNING),
            {"forwards": (forward_to(OTHER_INSIDE),), "other": True},
        ),
        (
            "carrier-nat",
            (),
            (),
            (DOUBLE, NOT_RUNNING),
            {"forwards": (FORWARD,), "upstream": CARRIER_NAT},
        ),
        (
            "source-router-drop",
            (HOME_DROP,),
            (),
            (NETWORK_DROP, NOT_RUNNING),
            {"forwards": (FORWARD,)},
        ),
    ):
        yield from _row(f"{name}+not-running", blocked(*codes), *put, services=services, **options)
    yield from _forwarded(
        "destination-drop+loopback-only",
        blocked(DESTINATION_DROP, LOOPBACK_ONLY),
        drop,
        services=(LOOPBACK,),
    )
    yield from _row(
        "wrong-port+loopback-only",
        blocked(WRONG_PORT, LOOPBACK_ONLY),
        services=(LOOPBACK,),
        forwards=(forward_to(INSIDE, 4243),),
    )
    yield from _row(
        "no-forward+destination-drop",
        blocked(NO_FORWARD, also=[DESTINATION_DROP]),
        drop,
        others=REFUSED_BY_RESET,
    )
    yield from _row(
        "source-drop+no-forward",
        blocked(SOURCE_DROP, also=[NO_FORWARD]),
        faults.source_drop(),
        others=REFUSED_BY_RESET,
    )
    yield from _forwarded(
        "source-drop+destination-drop",
        blocked(SOURCE_DROP, also=[DESTINATION_DROP]),
        faults.source_drop(),
        drop,
    )
