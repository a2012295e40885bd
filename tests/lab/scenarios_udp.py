"""Rows of UDP ports: the causes of TCP that UDP can have, and what only UDP has.

A service of UDP may stay silent and be well; nobody writes to one that is not
ours, but for what ``--payload`` says; what the source's own filter drops its own
system says at once; and ICMP is all that refuses.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from . import cards, faults, network, networks, ways
from .faults import ADMIN, PORT_UNREACHABLE, Fault, Rules, rules
from .grading import Expected, blocked, both_ways, open_, undetermined
from .homes import (
    CARRIER,
    CARRIER_NAT,
    INSIDE,
    NOBODY_INSIDE,
    OTHER_INSIDE,
    PUBLIC,
    SECOND_ROUTER,
    STRANGER,
    Homes,
)
from .network import DESTINATION, DESTINATION6, DESTINATION_PUBLIC
from .networks import CONTAINER, SECOND, by_six
from .rows import (
    DESTINATION_DROP,
    DESTINATION_NO_ROUTE,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    DOUBLE,
    HUNG,
    LOOPBACK_ONLY,
    LOSS,
    NAT_WRONG_HOST,
    NETWORK_DROP,
    NETWORK_REJECT,
    NO_FORWARD,
    NO_HAIRPIN,
    NO_HOST,
    NOT_RUNNING,
    OTHER_PORT,
    OTHER_PROGRAM,
    PRIVATE,
    REPLY_LOST,
    SOURCE_DROP,
    SOURCE_REJECT,
    SOURCE_REPLY,
    WRONG_FAMILY,
    WRONG_HOST,
    WRONG_INTERFACE,
    WRONG_PORT,
    variant,
    with_users,
)
from .scenario import Scenario
from .serve import ASKED
from .services import Service, background, meeting_point

__all__ = ["rows"]

ISSUE = 6
"""The issue that asks for UDP."""

UDP = "udp:4242"
BY_FOUR = ("--target", DESTINATION)
"""The agents meet by IPv6; this is tested."""

REQUEST, REPLY = "udp dport 4242", "udp sport 4242"
PROGRAM = "backupd"

AT_MEETING_POINT = functools.partial(meeting_point, on="public", address=PUBLIC)
MEET = ("--rendezvous", f"ws://{PUBLIC}:4000/v1")
TARGET = ("--target", DESTINATION_PUBLIC)

Udp = functools.partial(Service, udp=True)
ECHO, SILENT, STOPPED = Udp(), Udp(mode="silent"), Udp(stopped=True)
LOOPBACK = Udp(bind=("127.0.0.1",))
PICKY = Udp(mode="picky")

Part = tuple[str, tuple[Service, ...], tuple[Fault, ...], Expected]


def anyone(
    name: str,
    expected: Expected,
    *,
    ports: str = UDP,
    users: Expected | None = None,
    **row: Any,
) -> Iterator[Scenario]:
    """A row of this table, privileged and for ordinary users, who can say as much or `users`."""
    yield from with_users(
        Scenario(name=f"udp-{name}", expected=expected, issue=ISSUE, ports=ports, **row), users
    )


def rows() -> Iterator[Scenario]:
    """All of them."""
    yield from _one_segment()
    yield from _places()
    yield from _routers()
    yield from _ipv6()
    yield from _bad_networks()
    yield from _payload()
    yield from _several_ports()
    yield from _behind_nat()
    yield from _mixed_privilege()
    yield from _both_ways()


# -- what the filters are


def drop(on: str = "destination", match: str = REQUEST) -> Rules:
    return rules(on, "output" if on == "source" else "input", f"{match} counter drop")


def reject(how: str, on: str = "destination") -> Rules:
    hook = "output" if on == "source" else "input"
    return rules(on, hook, f"{REQUEST} counter reject with {how}")


def refuse_all() -> Rules:
    allowed = ('iif "lo" accept', "ct state established,related accept")
    return rules("destination", "input", *allowed, f"counter reject with {ADMIN}")


def at_card(on: str, hook: str, match: str = REQUEST) -> Rules:
    return Rules(on, hook, (f"{match} counter drop",), priority="0", family="netdev")


def drop_replies(on: str = "destination") -> Rules:
    return rules(on, "input" if on == "source" else "output", f"{REPLY} counter drop")


def on_the_way(what: str, router: int) -> Rules:
    return rules(f"router{router}", "forward", what)


MAIN: tuple[Part, ...] = (
    ("open", (ECHO,), (), open_()),
    ("open-silent", (SILENT,), (), open_()),
    ("not-running", (), (), blocked(NOT_RUNNING)),
    ("loopback-only", (LOOPBACK,), (), blocked(LOOPBACK_ONLY)),
    ("hung", (STOPPED,), (), blocked(HUNG)),
    ("destination-drop", (ECHO,), (drop(),), blocked(DESTINATION_DROP)),
    ("destination-drop-silent", (SILENT,), (drop(),), blocked(DESTINATION_DROP)),
    ("destination-reject-admin", (ECHO,), (reject(ADMIN),), blocked(DESTINATION_REJECT)),
    (
        "destination-reject-port",
        (ECHO,),
        (reject(PORT_UNREACHABLE),),
        blocked(DESTINATION_REJECT),
    ),
    ("source-drop", (ECHO,), (drop("source"),), blocked(SOURCE_DROP)),
    ("source-reject-admin", (ECHO,), (reject(ADMIN, "source"),), blocked(SOURCE_REJECT)),
    (
        "source-reject-port",
        (ECHO,),
        (reject(PORT_UNREACHABLE, "source"),),
        blocked(SOURCE_REJECT),
    ),
    ("destination-reply-blocked", (ECHO,), (drop_replies(),), blocked(DESTINATION_REPLY)),
    ("source-reply-blocked", (ECHO,), (drop_replies("source"),), blocked(SOURCE_REPLY)),
    ("drop+not-running", (), (drop(),), blocked(DESTINATION_DROP, NOT_RUNNING)),
    ("drop+loopback-only", (LOOPBACK,), (drop(),), blocked(DESTINATION_DROP, LOOPBACK_ONLY)),
    (
        "reject+not-running",
        (),
        (reject(ADMIN),),
        blocked(DESTINATION_REJECT, NOT_RUNNING),
    ),
    (
        "reply-blocked+not-running",
        (),
        (drop_replies(),),
        blocked(DESTINATION_REPLY, NOT_RUNNING),
    ),
    (
        "source-reply+not-running",
        (),
        (drop_replies("source"),),
        blocked(SOURCE_REPLY, NOT_RUNNING),
    ),
    ("source-drop+not-running", (), (drop("source"),), blocked(SOURCE_DROP, NOT_RUNNING)),
)


def _one_segment() -> Iterator[Scenario]:
    for name, services, put, expected in MAIN:
        yield from anyone(name, expected, services=services, faults=put)
    control = "meta l4proto {{ tcp, udp }} th dport 24242"
    for name, services, put, expected in (
        (
            "destination-drop-raw",
            (ECHO,),
            (Rules("destination", "prerouting", (f"{REQUEST} counter drop",), priority="raw"),),
            blocked(DESTINATION_DROP),
        ),
        (
            "destination-drop-at-card",
            (ECHO,),
            (at_card("destination", "ingress"),),
            blocked(DESTINATION_DROP),
        ),
        ("source-drop-at-card", (ECHO,), (at_card("source", "egress"),), blocked(SOURCE_DROP)),
        (
            "source-drop-tc",
            (ECHO,),
            (cards.tc_drop("source", "egress", protocol=cards.UDP),),
            blocked(SOURCE_DROP),
        ),
        (
            "reply-blocked-at-card",
            (ECHO,),
            (at_card("destination", "egress", REPLY),),
            blocked(DESTINATION_REPLY),
        ),
        ("default-deny", (ECHO,), (faults.default_deny(),), blocked(DESTINATION_DROP)),
        (
            "default-deny+not-running",
            (),
            (faults.default_deny(),),
            blocked(DESTINATION_DROP, NOT_RUNNING),
        ),
        (
            "default-deny-but-allowed",
            (SILENT,),
            (faults.default_deny(REQUEST, control),),
            open_(),
        ),
        ("tcp-only-dropped", (ECHO,), (drop(match="tcp dport 4242"),), open_()),
        # The single datagrams come through, and of a burst hardly any.
        (
            "rate-limited-silent",
            (SILENT,),
            (drop(match=f"{REQUEST} limit rate over 5/second burst 8 packets"),),
            undetermined(),
        ),
        ("source-default-deny", (ECHO,), (faults.default_deny(on="source"),), open_()),
        # It has refused the contact, too, and has said by then what it may say at once.
        ("default-reject", (ECHO,), (refuse_all(),), blocked(DESTINATION_REJECT)),
        (
            "default-reject+not-running",
            (),
            (refuse_all(),),
            blocked(DESTINATION_REJECT, NOT_RUNNING),
        ),
        (
            # It lets what comes from the host itself in.
            "default-deny+hung",
            (Udp(stopped=True, as_user=True),),
            (faults.default_deny(),),
            blocked(DESTINATION_DROP, HUNG),
        ),
    ):
        yield from anyone(name, expected, services=services, faults=put)


def _places() -> Iterator[Scenario]:
    """Where the program has the port, and which program it is."""
    six = Udp(bind=("::",))
    for name, builder, services, code in (
        ("wrong-interface", networks.second_card, (Udp(bind=(SECOND,)),), WRONG_INTERFACE),
        ("wrong-family-ipv6", network.dual, (six,), WRONG_FAMILY),
        ("wrong-family-ipv4", by_six, (ECHO,), WRONG_FAMILY),
    ):
        yield from anyone(name, blocked(code), network=builder, services=services)
    dual = Udp(bind=("::",), dual=True)
    yield from anyone("open-dual", open_(), network=network.dual, services=(dual,))
    silent = Udp(bind=("::",), dual=True, mode="silent")
    yield from anyone("open-silent-dual", open_(), network=network.dual, services=(silent,))
    yield from anyone("not-running-below-1024", blocked(NOT_RUNNING), ports="udp:443")
    # It listens everywhere, and answers from the address that the way back has.
    yield from anyone(
        "answers-from-elsewhere",
        undetermined(),
        network=networks.second_address,
        services=(ECHO,),
        source_args=("--target", SECOND),
    )
    yield from anyone(
        "own-answers-from-there",
        blocked(NOT_RUNNING),
        network=networks.second_address,
        source_args=("--target", SECOND),
    )
    named = ("--service", PROGRAM)
    for name, titled, port, code in (
        ("other-port", PROGRAM, 4250, OTHER_PORT),
        ("other-program", "intruder", 4242, OTHER_PROGRAM),
    ):
        mine = Udp(title=titled, port=port, as_user=True)
        yield from anyone(name, blocked(code), services=(mine,), destination_args=named)
    published = Rules(
        "destination",
        "prerouting",
        (f"{REQUEST} dnat ip to {CONTAINER}:80",),
        priority="dstnat",
    )
    # Another port of the host itself, by its own rules.
    redirect = Rules(
        "destination", "prerouting", (f"{REQUEST} redirect to :5000",), priority="dstnat"
    )
    for mode in ("echo", "silent"):
        yield from anyone(
            f"redirected-{mode}",
            open_(),
            services=(Udp(port=5000, mode=mode),),
            faults=(_natted(redirect),),
        )
    for name, mode, expected in (
        ("container", "echo", open_()),
        # It is open, but nobody sees what becomes of datagrams in there.
        ("container-silent", "silent", undetermined()),
    ):
        inside = Udp(port=80, on="container", bind=("::",), dual=True, mode=mode)
        yield from anyone(
            name,
            expected,
            network=networks.container,
            services=(inside,),
            faults=(_natted(published),),
        )
    for name, service in (("", ECHO), ("-silent", SILENT)):
        for how in ("unreachable", "blackhole"):
            yield from anyone(
                f"no-way-back-{how}{name}",
                blocked(DESTINATION_NO_ROUTE),
                network=by_six,
                services=(service,),
                faults=(ways.no_way_back(how),),
                source_args=BY_FOUR,
            )
    yield from anyone(
        "no-neighbour",
        blocked(NO_HOST),
        network=by_six,
        services=(ECHO,),
        faults=(_no_neighbour,),
        source_args=BY_FOUR,
    )


def _no_neighbour(stage: network.Stage) -> None:
    """Nobody answers for the address by IPv4."""
    faults.no_neighbour(dataclasses.replace(stage, destination_address=DESTINATION))


def _natted(published: Rules) -> Fault:
    def put(stage: network.Stage) -> None:
        text = published.text(stage).replace("type filter hook", "type nat hook")
        stage.destination.nft(text)

    put.__name__ = "published"
    return put


def _routers() -> Iterator[Scenario]:
    between: tuple[tuple[str, str, str], ...] = (
        ("drop", f"{REQUEST} counter drop", NETWORK_DROP),
        ("reject-admin", f"{REQUEST} counter reject with {ADMIN}", NETWORK_REJECT),
        ("reject-port", f"{REQUEST} counter reject with {PORT_UNREACHABLE}", NETWORK_REJECT),
        ("reply-lost", f"{REPLY} counter drop", REPLY_LOST),
    )
    for routers in (1, 3):
        builder = functools.partial(network.routed, routers=routers)
        for name, services, put, expected in MAIN:
            yield from anyone(
                f"routers-{routers}-{name}",
                expected,
                network=builder,
                services=services,
                faults=put,
            )
        for router in sorted({1, routers}):
            for name, what, cause in between:
                for kind, services, codes in (
                    ("", (ECHO,), (cause,)),
                    ("+not-running", (), (cause, NOT_RUNNING)),
                ):
                    yield from anyone(
                        f"routers-{routers}-{name}-at-{router}{kind}",
                        blocked(*codes),
                        network=builder,
                        services=services,
                        faults=(on_the_way(what, router),),
                    )


def _ipv6() -> Iterator[Scenario]:
    six = {ECHO: Udp(bind=("::",)), SILENT: Udp(bind=("::",), mode="silent")}
    six |= {LOOPBACK: Udp(bind=("::1",)), STOPPED: Udp(bind=("::",), stopped=True)}
    for name, services, put, expected in MAIN:
        yield from anyone(
            f"ipv6-{name}",
            expected,
            network=network.lan6,
            services=tuple(six[service] for service in services),
            faults=put,
        )
    yield from anyone(
        "ipv6-target",
        open_(),
        network=by_six,
        services=(six[ECHO],),
        source_args=("--target", DESTINATION6),
    )


def _bad_networks() -> Iterator[Scenario]:
    for name, services, put, expected in MAIN:
        if "reject-port" in name or "source-" in name:
            continue
        yield from anyone(
            f"loss-20-{name}",
            dataclasses.replace(expected, allowed_warnings=frozenset({LOSS})),
            services=services,
            faults=(*put, faults.loss(20)),
        )
        # Answers come late, from another town.
        yield from anyone(
            f"far-{name}",
            expected,
            services=services,
            faults=(*put, faults.delay(30)),
        )
        yield from anyone(
            f"traffic-{name}",
            expected,
            network=network.lan_and_third,
            services=(*services, background),
            faults=put,
        )


def _payload() -> Iterator[Scenario]:
    asks = ("--payload", ASKED.decode())
    for name, put, expected in (
        ("payload", (), open_()),
        ("payload-drop", (drop(),), blocked(DESTINATION_DROP)),
        ("payload-reply-blocked", (drop_replies(),), blocked(DESTINATION_REPLY)),
        ("payload-source-reply", (drop_replies("source"),), blocked(SOURCE_REPLY)),
    ):
        yield from anyone(name, expected, services=(PICKY,), faults=put, source_args=asks)
    yield from anyone("payload-missing", open_(), services=(PICKY,))
    yield from anyone(
        "payload-hex", open_(), services=(PICKY,), source_args=("--payload", f"hex:{ASKED.hex()}")
    )


def _several_ports() -> Iterator[Scenario]:
    both = "tcp:4242,udp:4242"
    services = (dataclasses.replace(ECHO, udp=False), ECHO)
    tcp = "tcp dport 4242"
    for name, put, expected in (
        ("and-tcp", (), open_()),
        ("and-tcp-udp-dropped", (drop(),), blocked(DESTINATION_DROP)),
        ("and-tcp-tcp-dropped", (drop(match=tcp),), blocked(DESTINATION_DROP)),
        ("and-tcp-udp-rejected", (reject(ADMIN),), blocked(DESTINATION_REJECT)),
        (
            "and-tcp-one-each",
            (drop("source"), drop(match=tcp)),
            blocked(SOURCE_DROP, DESTINATION_DROP),
        ),
    ):
        yield from anyone(name, expected, ports=both, services=services, faults=put)
    yield from anyone("and-tcp-not-running", blocked(NOT_RUNNING), ports=both)
    many = "udp:4200-4300"
    ranged = "udp dport 4200-4300"
    for name, services_, put, expected in (
        ("range-not-running", (), (), blocked(NOT_RUNNING)),
        ("range-one-open", (ECHO,), (), blocked(NOT_RUNNING)),
        (
            "range-dropped",
            (ECHO,),
            (drop(match=ranged),),
            blocked(DESTINATION_DROP, NOT_RUNNING),
        ),
        (
            "range-rejected",
            (ECHO,),
            (rules("destination", "input", f"{ranged} counter reject with {ADMIN}"),),
            blocked(DESTINATION_REJECT, NOT_RUNNING),
        ),
    ):
        yield from anyone(name, expected, ports=many, services=services_, faults=put)


def _behind_nat() -> Iterator[Scenario]:
    """Routers that translate: what comes in is the destination's to explain, hops tell the rest."""
    yield from _forwarded_by_nat()
    yield from _not_forwarded_by_nat()
    yield from _several_nats()


def _at_home(
    name: str,
    expected: Expected,
    *put: Fault,
    services: tuple[Any, ...] = (ECHO,),
    target: tuple[str, ...] = TARGET,
    forwards: tuple[str, ...] = (f"{REQUEST} counter dnat ip to {INSIDE}",),
    users: Expected | None = None,
    **options: Any,
) -> Iterator[Scenario]:
    yield from anyone(
        f"nat-{name}",
        expected,
        users=users,
        network=Homes(forwards=forwards, **options),
        services=(AT_MEETING_POINT, *services),
        faults=put,
        peers=frozenset(),
        source_args=(*MEET, *target),
        destination_args=MEET,
    )


def _forwarded_by_nat() -> Iterator[Scenario]:
    for kind, service in (("", ECHO), ("-silent", SILENT)):
        for name, expected, *put in (
            ("forwarded", open_()),
            ("destination-drop", blocked(DESTINATION_DROP), drop()),
            ("destination-reject-admin", blocked(DESTINATION_REJECT), reject(ADMIN)),
            ("destination-reject-port", blocked(DESTINATION_REJECT), reject(PORT_UNREACHABLE)),
            ("source-drop", blocked(SOURCE_DROP), drop("source")),
            ("source-reject", blocked(SOURCE_REJECT), reject(ADMIN, "source")),
        ):
            yield from _at_home(f"{name}{kind}", expected, *put, services=(service,))
    yield from _at_home("reply-blocked", blocked(DESTINATION_REPLY), drop_replies())
    for name, services, cause in (
        ("not-running", (), NOT_RUNNING),
        ("loopback-only", (LOOPBACK,), LOOPBACK_ONLY),
        ("hung", (STOPPED,), HUNG),
    ):
        yield from _at_home(name, blocked(cause), services=services)
    yield from _at_home(
        "destination-drop+loopback-only",
        blocked(DESTINATION_DROP, LOOPBACK_ONLY),
        drop(),
        services=(LOOPBACK,),
    )
    out = rules("home1", "forward", f"{REQUEST} counter drop")
    yield from _at_home("source-router-drop", blocked(NETWORK_DROP), out)
    refused = rules("home1", "forward", f"{REQUEST} counter reject with {ADMIN}")
    yield from _at_home("source-router-reject", blocked(NETWORK_REJECT), refused)


def _not_forwarded_by_nat() -> Iterator[Scenario]:
    # What only an opening from inside tells, nobody sees without privilege.
    unknown = undetermined(NO_FORWARD)
    yield from _at_home("not-forwarded", blocked(NO_FORWARD), users=unknown, forwards=())
    yield from _at_home(
        "not-forwarded+not-running",
        blocked(NO_FORWARD, NOT_RUNNING),
        users=blocked(NOT_RUNNING, also=[NO_FORWARD]),
        forwards=(),
        services=(),
    )
    yield from _at_home(
        "carrier-drop",
        undetermined(NETWORK_DROP),
        rules("carrier", "forward", f"{REQUEST} counter drop"),
        upstream=CARRIER,
    )
    yield from _at_home("carrier-open", open_(), upstream=CARRIER)
    for how in (PORT_UNREACHABLE, ADMIN):
        yield from _at_home(
            f"not-forwarded-{how.split()[1].split('-')[0]}",
            blocked(NO_FORWARD),
            forwards=(),
            others=f"reject with {how}",
        )
    to_other = (f"{REQUEST} counter dnat ip to {OTHER_INSIDE}",)
    on_other = dataclasses.replace(ECHO, on="other")
    for name, services in (("answers", (ECHO, on_other)), ("refuses", (ECHO,))):
        yield from _at_home(
            f"wrong-host-{name}",
            undetermined(NAT_WRONG_HOST),
            services=services,
            forwards=to_other,
            other=True,
        )
    yield from _at_home(
        "wrong-host-off",
        undetermined(NAT_WRONG_HOST),
        forwards=(f"{REQUEST} counter dnat ip to {NOBODY_INSIDE}",),
    )
    yield from _at_home(
        "wrong-port-closed",
        blocked(WRONG_PORT),
        forwards=(f"{REQUEST} counter dnat ip to {INSIDE}:4243",),
    )


def _several_nats() -> Iterator[Scenario]:
    for name, upstream in (("carrier", CARRIER_NAT), ("double", SECOND_ROUTER)):
        yield from _at_home(f"{name}-nat", blocked(DOUBLE), upstream=upstream)
    yield from _at_home("hairpin-open", open_(), one_home=True, hairpin="full")
    yield from _at_home("hairpin-half", blocked(NO_HAIRPIN), one_home=True, hairpin="half")
    yield from _at_home("hairpin-none", undetermined(NO_HAIRPIN), one_home=True)
    yield from _at_home(
        "stranger", blocked(WRONG_HOST), target=("--target", STRANGER), stranger=True
    )
    yield from _at_home(
        "private-nobody", blocked(PRIVATE, also=[NO_HOST]), target=("--target", INSIDE)
    )


def _mixed_privilege() -> Iterator[Scenario]:
    """One end sees packets: it and the other's counters tell as much."""
    few = {
        *("open-silent", "hung", "destination-drop", "source-drop", "destination-reject-admin"),
        *("destination-reply-blocked", "source-reply-blocked", "drop+not-running"),
    }
    for name, services, put, expected in MAIN:
        for end in ("source", "destination") if name in few else ():
            row = Scenario(
                name=f"udp-{name}",
                expected=expected,
                issue=ISSUE,
                ports=UDP,
                services=services,
                faults=put,
            )
            yield variant(row, f"{end}-user", frozenset({end}), expected)


def _both_ways() -> Iterator[Scenario]:
    """The other direction too: whoever is the source there sends empty datagrams."""
    services = (ECHO, dataclasses.replace(ECHO, on="source"))
    other_drop = rules("source", "input", f"{REQUEST} counter drop")
    for name, put, expected in (
        ("both-ways", (), both_ways(open_(), open_())),
        ("both-ways-drop", (drop(),), both_ways(blocked(DESTINATION_DROP), open_())),
        ("both-ways-drop-back", (other_drop,), both_ways(open_(), blocked(DESTINATION_DROP))),
    ):
        yield from anyone(
            name, expected, services=services, faults=put, source_args=("--both-ways",)
        )
