"""Rows of the issue that asks for every cause on the two hosts: one cause each.

Each cause comes in the ways in which hosts really have it, and each way twice:
privileged, and with both ends as ordinary users. The last part is what is easily
blamed and must come out open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from . import cards, faults, network, networks, ways
from .faults import ADMIN, PORT_UNREACHABLE, RESET, Fault, Rules, rules
from .frontends import iptables_legacy
from .grading import Expected, blocked, open_, undetermined
from .network import DESTINATION, THIRD, lan_and_third
from .networks import CONTAINER, SECOND, TUNNEL, by_six, by_six_and_third
from .rows import (
    BACKLOG_FULL,
    CAUSES_ISSUE,
    CLOSES,
    DESTINATION_DROP,
    DESTINATION_NO_ROUTE,
    DESTINATION_REJECT,
    DESTINATION_REPLY,
    DUPLICATE,
    HUNG,
    LOOPBACK_ONLY,
    LOSS,
    NETWORK_DROP,
    NO_HOST,
    NOT_RUNNING,
    OTHER_PORT,
    OTHER_PROGRAM,
    SOURCE_DROP,
    SOURCE_NAME,
    SOURCE_NO_PORTS,
    SOURCE_NO_ROUTE,
    SOURCE_REJECT,
    SOURCE_REPLY,
    UNREACHABLE,
    WRONG_FAMILY,
    WRONG_HOST,
    WRONG_INTERFACE,
    anyone,
)
from .scenario import Scenario
from .services import Service, activated

__all__ = ["rows"]

ECHO = Service()
SILENT = Service(mode="silent")
PROGRAM = "backupd"
NAMED = ("--service", PROGRAM)
NOBODY = "192.168.7.77"
BY_FOUR = ("--target", DESTINATION)
"""The agents meet by IPv6; this is tested."""
CONTROL = "meta l4proto {{ tcp, udp }} th"
REQUEST = "tcp dport 4242"
REPLY = "tcp sport 4242"


def rows() -> Iterator[Scenario]:
    """All of them."""
    yield from _addresses()
    yield from _routes_and_names()
    yield from _source_filters()
    yield from _replies_at_the_source()
    yield from _destination_filters()
    yield from _ways_back()
    yield from _programs()
    yield from _full_syn_queues()
    yield from _behind_the_request()
    yield from _bound_to_a_device()
    yield from _places()
    yield from _named_programs()
    yield from _forwards()
    yield from _easily_blamed()


def _any_of(*codes: str) -> Expected:
    """Nobody can tell these apart; each may be named, and one must be a candidate."""
    return Expected("undetermined", also_true=frozenset(codes))


# -- address


def _addresses() -> Iterator[Scenario]:
    yield from anyone("no-host", blocked(NO_HOST), source_args=("--target", NOBODY))
    third = Service(on="third")
    dropping = rules("third", "input", f"{REQUEST} counter drop")
    for what, services, put in (
        ("answers", (third,), ()),
        ("refuses", (), ()),
        ("drops", (), (dropping,)),
    ):
        yield from anyone(
            f"wrong-host-{what}",
            blocked(WRONG_HOST),
            network=lan_and_third,
            services=(ECHO, *services),
            faults=put,
            source_args=("--target", THIRD),
        )
        yield from anyone(
            f"duplicate-{what}",
            blocked(DUPLICATE),
            network=by_six_and_third,
            services=(ECHO, *services),
            faults=(ways.answers_first, *put),
            source_args=BY_FOUR,
        )
    yield from anyone(
        "wrong-host-across-a-router",
        undetermined(WRONG_HOST),
        network=networks.routed_and_third,
        services=(ECHO,),
        source_args=("--target", "10.0.1.3"),
    )
    # The address is the destination's own, and it does not say so: its own doing, or somebody
    # between swallows the question. Never the source's.
    yield from anyone(
        "dead-neighbour",
        _any_of(NO_HOST, DESTINATION_DROP, NETWORK_DROP),
        network=by_six,
        services=(ECHO,),
        faults=(ways.no_arp,),
        source_args=BY_FOUR,
    )
    yield from anyone(
        "dead-gateway",
        _any_of(NO_HOST, UNREACHABLE, NETWORK_DROP),
        faults=(ways.wrong_gateway,),
        source_args=("--target", "203.0.113.9"),
    )


# -- source


def _routes_and_names() -> Iterator[Scenario]:
    yield from anyone(
        "no-route", blocked(SOURCE_NO_ROUTE), services=(ECHO,), source_args=("--target", "11.9.9.9")
    )
    for kind in ways.ROUTE_KINDS:
        yield from anyone(
            f"no-route-{kind}",
            blocked(SOURCE_NO_ROUTE),
            network=by_six,
            services=(ECHO,),
            faults=(ways.no_way_out(kind),),
            source_args=BY_FOUR,
        )
    yield from anyone(
        "no-route-for-this-port",
        _any_of(SOURCE_NO_ROUTE, SOURCE_REJECT),
        network=by_six,
        services=(ECHO,),
        faults=(ways.way_out_by_port,),
        source_args=BY_FOUR,
    )
    name = ("--target", "nowhere.example")
    yield from anyone("name", blocked(SOURCE_NAME), services=(ECHO,), source_args=name)
    yield from anyone(
        "name-server-silent",
        blocked(SOURCE_NAME),
        network=lan_and_third,
        services=(ECHO,),
        faults=(ways.name_server_silent,),
        source_args=name,
    )


def _source_filters() -> Iterator[Scenario]:
    outward = f"{REQUEST} counter drop"
    control = f"{CONTROL} dport {{{{ 24242, 5353 }}}} accept"
    variants: tuple[tuple[str, Fault], ...] = (
        ("raw", Rules("source", "output", (outward,), priority="raw")),
        ("postrouting", Rules("source", "postrouting", (outward,), priority="mangle")),
        ("egress-hook", faults.source_drop_at_card()),
        ("tc", cards.tc_drop("source", "egress")),
        ("iptables", iptables_legacy("-A OUTPUT -p tcp --dport 4242 -j DROP", on="source")),
        ("this-address", rules("source", "output", f"{{to_destination}} {outward}")),
        (
            "default-deny",
            Rules(
                "source",
                "output",
                ('oif "lo" accept', "ct state established,related accept", control, "counter drop"),
                policy="drop",
            ),
        ),
    )
    for name, put in variants:
        yield from anyone(
            f"source-drop-{name}", blocked(SOURCE_DROP), services=(ECHO,), faults=(put,)
        )
    for uid, row in enumerate(
        anyone("source-drop-uid", blocked(SOURCE_DROP), services=(ECHO,), faults=())
    ):
        rule = f"meta skuid {(0, 65534)[uid]} {outward}"
        yield _with_faults(row, rules("source", "output", rule))
    yield from anyone(
        "source-reject-iptables",
        blocked(SOURCE_REJECT),
        services=(ECHO,),
        faults=(iptables_legacy("-A OUTPUT -p tcp --dport 4242 -j REJECT", on="source"),),
    )


def _with_faults(row: Scenario, *put: Fault) -> Scenario:
    return dataclasses.replace(row, faults=put)


def _replies_at_the_source() -> Iterator[Scenario]:
    inward = f"{REPLY} counter drop"
    variants: tuple[tuple[str, Fault], ...] = (
        ("input", faults.source_drop_replies()),
        ("raw", Rules("source", "prerouting", (inward,), priority="raw")),
        ("ingress-hook", Rules("source", "ingress", (inward,), priority="0", family="netdev")),
        (
            "stateless-deny",
            Rules(
                "source",
                "input",
                (
                    'iif "lo" accept',
                    *(f"{CONTROL} {way}port 24242 accept" for way in "ds"),
                    "counter drop",
                ),
                policy="drop",
            ),
        ),
    )
    for name, put in variants:
        yield from anyone(
            f"source-reply-blocked-{name}", blocked(SOURCE_REPLY), services=(ECHO,), faults=(put,)
        )


# -- destination


def _destination_filters() -> Iterator[Scenario]:
    inward = f"{REQUEST} counter drop"
    drops: tuple[tuple[str, Fault], ...] = (
        ("raw", faults.destination_drop_raw()),
        ("mangle", Rules("destination", "prerouting", (inward,), priority="mangle")),
        ("ingress-hook", faults.destination_drop_at_card()),
        ("tc", cards.tc_drop("destination", "ingress")),
        ("iptables", iptables_legacy("-A INPUT -p tcp --dport 4242 -j DROP")),
        ("this-peer", rules("destination", "input", f"{{from_source}} {inward}")),
        ("new-only", rules("destination", "input", f"ct state new {inward}")),
        ("policy", faults.default_deny()),
    )
    for name, put in drops:
        yield from anyone(
            f"destination-drop-{name}", blocked(DESTINATION_DROP), services=(ECHO,), faults=(put,)
        )
    # No witness of ours sees a packet before XDP does.
    yield from anyone(
        "destination-drop-xdp",
        undetermined(DESTINATION_DROP),
        services=(ECHO, cards.xdp_drop),
    )
    refuse = f"{REQUEST} counter reject with"
    rejects: tuple[tuple[str, Fault], ...] = (
        ("host", faults.destination_reject("icmpx host-unreachable")),
        ("no-route", faults.destination_reject("icmpx no-route")),
        ("prerouting", Rules("destination", "prerouting", (f"{refuse} {RESET}",))),
        ("prerouting-icmp", Rules("destination", "prerouting", (f"{refuse} {ADMIN}",))),
        ("iptables", iptables_legacy("-A INPUT -p tcp --dport 4242 -j REJECT")),
        (
            "iptables-reset",
            iptables_legacy("-A INPUT -p tcp --dport 4242 -j REJECT --reject-with tcp-reset"),
        ),
        (
            "this-peer",
            rules("destination", "input", f"{{from_source}} {refuse} {PORT_UNREACHABLE}"),
        ),
    )
    for name, put in rejects:
        yield from anyone(
            f"destination-reject-{name}",
            blocked(DESTINATION_REJECT),
            services=(ECHO,),
            faults=(put,),
        )
    back = f"{REPLY} counter drop"
    replies: tuple[tuple[str, Fault], ...] = (
        ("output", faults.destination_drop_replies()),
        ("raw", Rules("destination", "output", (back,), priority="raw")),
        ("postrouting", Rules("destination", "postrouting", (back,), priority="mangle")),
        ("egress-hook", Rules("destination", "egress", (back,), priority="0", family="netdev")),
    )
    for name, put in replies:
        yield from anyone(
            f"destination-reply-blocked-{name}",
            blocked(DESTINATION_REPLY),
            services=(ECHO,),
            faults=(put,),
        )


def _ways_back() -> Iterator[Scenario]:
    straight, through = ways.way_back_by("dev eth1"), ways.way_back_by(f"via {TUNNEL} dev eth1")
    two = networks.two_cards_by_six
    variants: tuple[tuple[str, network.Builder, tuple[Fault, ...]], ...] = (
        ("wrong-mask", networks.wrong_mask_by_six, ()),
        ("unreachable", by_six, (ways.no_way_back("unreachable"),)),
        ("blackhole", by_six, (ways.no_way_back("blackhole"),)),
        ("prohibit", by_six, (ways.no_way_back("prohibit"),)),
        ("wrong-card", two, (straight,)),
        ("tunnel", two, (through,)),
        ("reverse-path", two, (ways.permanent_neighbour, through, ways.strict_reverse_path)),
        # It does not even answer the source's question for its link-layer address.
        ("reverse-path-of-arp", two, (through, ways.strict_reverse_path)),
    )
    for name, builder, put in variants:
        yield from anyone(
            f"no-way-back-{name}",
            blocked(DESTINATION_NO_ROUTE),
            network=builder,
            services=(ECHO,),
            faults=put,
            source_args=BY_FOUR,
        )


# -- service


def _programs() -> Iterator[Scenario]:
    for name, service, code in (
        ("hung", Service(stopped=True), HUNG),
        ("hung-never-accepts", Service(mode="hung"), HUNG),
        ("hung-dual", Service(bind=("::",), dual=True, stopped=True), HUNG),
        ("backlog-full", Service(mode="full"), BACKLOG_FULL),
        ("backlog-full-of-one", Service(mode="full", backlog=1), BACKLOG_FULL),
        ("backlog-full-dual", Service(mode="full", bind=("::",), dual=True), BACKLOG_FULL),
        ("closes", Service(mode="closes"), CLOSES),
        ("closes-by-reset", Service(mode="resets"), CLOSES),
    ):
        yield from anyone(name, blocked(code), services=(service,))


def _full_syn_queues() -> Iterator[Scenario]:
    """Requests that come through and of which the socket table has no row.

    So it is after tests, or the application's own attempts, whose answers do not get back; under a
    flood; and always where SYN cookies are made always.
    """
    small = Service(backlog=4)
    variants: tuple[tuple[str, int, int], ...] = (
        ("syn-queue-full", 20, 1),
        ("syn-cookies-always", 0, 2),
    )
    for name, count, cookies in variants:
        asked = faults.half_open("source", cookies=cookies, count=count)
        for kind, put, expected in (
            ("destination-reply-blocked", (faults.destination_drop_replies(),), DESTINATION_REPLY),
            ("source-reply-blocked", (faults.source_drop_replies(),), SOURCE_REPLY),
            ("destination-drop", (faults.destination_drop(),), DESTINATION_DROP),
        ):
            yield from anyone(
                f"{name}-{kind}",
                blocked(expected),
                services=(small,),
                faults=(*put, asked),
            )
    yield from anyone(
        "syn-flood-with-cookies",
        open_(),
        network=lan_and_third,
        services=(small,),
        faults=(faults.half_open("third", cookies=1),),
    )
    yield from anyone(
        "syn-flood-without-cookies",
        blocked(BACKLOG_FULL),
        network=lan_and_third,
        services=(small,),
        faults=(faults.half_open("third", cookies=0),),
    )
    # The requests before the burst are taken, and fill the queue.
    yield Scenario(
        name="syn-queue-filled-destination-reply-blocked",
        expected=dataclasses.replace(
            blocked(DESTINATION_REPLY), allowed_warnings=frozenset({LOSS})
        ),
        issue=CAUSES_ISSUE,
        services=(small,),
        faults=(
            faults.destination_drop_replies(),
            faults.loss(20),
            faults.half_open("source", cookies=0, count=0),
        ),
        users=frozenset({"source"}),
    )
    yield from anyone(
        "syn-cookies-always-open",
        open_(),
        services=(small,),
        faults=(faults.half_open("source", cookies=2, count=0),),
    )
    # Handshakes by cookies that are completed, and of which no row is at the tested port.
    always = faults.half_open("source", cookies=2, count=0)
    yield from anyone(
        "syn-cookies-always-redirect",
        open_(),
        services=(Service(port=8080),),
        faults=(ways.redirect(8080), always),
    )
    yield from anyone(
        "syn-cookies-always-deferred-accept",
        open_(),
        services=(Service(defer=True),),
        faults=(always,),
    )
    yield from anyone(
        "syn-cookies-always-hung",
        blocked(HUNG),
        services=(Service(stopped=True),),
        faults=(always,),
    )
    # Of many ports the others' requests meet no queue.
    yield from anyone(
        "syn-cookies-always-many-ports",
        blocked(DESTINATION_DROP),
        services=tuple(Service(port=port) for port in range(4242, 4251)),
        faults=(faults.destination_drop("4243-4250"), always),
        ports="4242-4250",
    )
    yield from anyone(
        "syn-queue-full-by-six-destination-reply-blocked",
        blocked(DESTINATION_REPLY),
        network=network.lan6,
        services=(Service(bind=("::",), dual=True, backlog=4),),
        faults=(faults.destination_drop_replies(), faults.half_open("source", cookies=1)),
    )


def _behind_the_request() -> Iterator[Scenario]:
    """Requests and their answers pass; what completes the handshake does not.

    As with rules that accept new connections and forget the established ones. To the source it
    looks as if it were connected.
    """
    behind = f"{REQUEST} tcp flags & (syn | rst) == 0x0 counter drop"
    for name, line in (
        ("flags", (behind,)),
        ("new-only", (f"{REQUEST} ct state new accept", f"{REQUEST} counter drop")),
    ):
        for kind, services, expected in (
            ("", (ECHO,), undetermined(DESTINATION_DROP)),
            ("+not-running", (), blocked(NOT_RUNNING, candidates=[DESTINATION_DROP])),
        ):
            yield from anyone(
                f"destination-drops-behind-the-request-{name}{kind}",
                expected,
                services=services,
                faults=(rules("destination", "input", *line),),
            )
    yield from anyone(
        "destination-drops-behind-the-request-by-six",
        undetermined(DESTINATION_DROP),
        network=network.lan6,
        services=(Service(bind=("::",)),),
        faults=(rules("destination", "input", behind),),
    )
    # A short queue, which handshakes without an end fill; and no rows of them at all.
    small = Service(backlog=4)
    for name, cookies in (("short-queue", 1), ("syn-cookies-always", 2)):
        yield from anyone(
            f"destination-drops-behind-the-request-{name}",
            undetermined(DESTINATION_DROP),
            services=(small,),
            faults=(
                rules("destination", "input", behind),
                faults.half_open("source", cookies=cookies, count=0),
            ),
        )
    yield from anyone(
        "network-drops-behind-the-request",
        undetermined(NETWORK_DROP),
        network=network.routed,
        services=(ECHO,),
        faults=(rules("router1", "forward", behind),),
    )
    yield from anyone(
        "source-drops-behind-the-request",
        undetermined(SOURCE_DROP),
        services=(ECHO,),
        faults=(rules("source", "output", behind),),
    )
    yield from anyone(
        "no-local-ports",
        blocked(SOURCE_NO_PORTS),
        services=(ECHO,),
        faults=(faults.no_local_ports,),
    )


def _bound_to_a_device() -> Iterator[Scenario]:
    """A program that listens on every address, and takes from one interface alone."""
    variants: tuple[tuple[str, str, str], ...] = (
        ("loopback", "lo", LOOPBACK_ONLY),
        ("second-card", "eth1", WRONG_INTERFACE),
    )
    for name, device, code in variants:
        for kind, bind, udp in (
            ("", ("0.0.0.0",), False),
            ("-dual", ("::",), False),
            ("-at-the-address", ("destination",), False),
            ("-udp", ("0.0.0.0",), True),
            ("-dual-udp", ("::",), True),
        ):
            yield from anyone(
                f"bound-to-{name}{kind}",
                blocked(code),
                network=networks.second_card,
                services=(Service(bind=bind, dual="::" in bind, udp=udp, device=device),),
                ports="udp:4242" if udp else "4242",
            )
    bound = Service(device="eth1")
    yield from anyone(
        "bound-to-loopback-link-local",
        blocked(LOOPBACK_ONLY),
        network=networks.link_local,
        services=(Service(bind=("::",), device="lo"),),
        peers=frozenset(),
        mdns=True,
    )
    for fault, put, cause in (
        ("destination-drop", faults.destination_drop(), DESTINATION_DROP),
        ("destination-reject", faults.destination_reject(RESET), DESTINATION_REJECT),
        ("source-reply-blocked", faults.source_drop_replies(), SOURCE_REPLY),
    ):
        yield from anyone(
            f"bound-to-second-card+{fault}",
            blocked(WRONG_INTERFACE, cause),
            network=networks.second_card,
            services=(bound,),
            faults=(put,),
        )
    # The address is at another interface than the one where requests for it come in.
    inward = networks.ADDRESS_OF_LO
    for name, service, expected in (
        ("bound-to-eth0", Service(device="eth0"), open_()),
        ("bound-to-lo", Service(device="lo"), blocked(LOOPBACK_ONLY)),
        ("bound-to-none", ECHO, open_()),
    ):
        yield from anyone(
            f"{name}-at-an-address-of-lo",
            expected,
            network=networks.address_of_lo,
            services=(service,),
            source_args=("--target", inward),
        )
    yield from anyone(
        "bound-to-the-right-card",
        open_(),
        network=networks.second_card,
        services=(Service(device="eth0"),),
    )
    yield from anyone(
        "bound-to-each-card",
        open_(),
        network=networks.second_card,
        services=(bound, Service(device="eth0")),
    )
    yield from anyone(
        "bound-to-the-right-card-destination-drop",
        blocked(DESTINATION_DROP),
        network=networks.second_card,
        services=(Service(device="eth0"),),
        faults=(faults.destination_drop(),),
    )


def _places() -> Iterator[Scenario]:
    """Where a program listens."""
    six = Service(bind=("::",))
    for name, builder, services, code in (
        ("wrong-interface", networks.second_card, (Service(bind=(SECOND,)),), WRONG_INTERFACE),
        (
            "wrong-interface-same-card",
            networks.second_address,
            (Service(bind=(SECOND,)),),
            WRONG_INTERFACE,
        ),
        (
            "wrong-interface-and-loopback",
            networks.second_card,
            (Service(bind=(SECOND, "127.0.0.1")),),
            WRONG_INTERFACE,
        ),
        ("loopback-only-ipv6", network.dual, (Service(bind=("::1",)),), LOOPBACK_ONLY),
        ("loopback-only-both", network.dual, (Service(bind=("127.0.0.1", "::1")),), LOOPBACK_ONLY),
        ("wrong-family-ipv6", network.dual, (six,), WRONG_FAMILY),
        ("wrong-family-ipv4", by_six, (ECHO,), WRONG_FAMILY),
        (
            "wrong-family-own-address",
            network.dual,
            (Service(bind=(network.DESTINATION6,)),),
            WRONG_FAMILY,
        ),
    ):
        yield from anyone(name, blocked(code), network=builder, services=services)
    yield from anyone("not-running-below-1024", blocked(NOT_RUNNING), ports="443")


def _named_programs() -> Iterator[Scenario]:
    """With --service: what holds the port, and where the named program is.

    Who may not see other users' programs must not claim anything of them.
    """
    for name, titled, port, code, unseen in (
        ("other-port", PROGRAM, 4250, OTHER_PORT, _other_port_unseen()),
        ("other-program", "intruder", 4242, OTHER_PROGRAM, undetermined(OTHER_PROGRAM)),
    ):
        mine = Service(title=titled, port=port, as_user=True)
        yield from anyone(name, blocked(code), services=(mine,), destination_args=NAMED)
        yield from anyone(
            f"{name}-of-root",
            blocked(code),
            users=unseen,
            services=(Service(title=titled, port=port),),
            destination_args=NAMED,
        )
    both = (
        Service(title="intruder", as_user=True),
        Service(title=PROGRAM, port=4250, as_user=True),
    )
    yield from anyone(
        "other-program-and-other-port",
        blocked(OTHER_PROGRAM, also=[OTHER_PORT]),
        services=both,
        destination_args=NAMED,
    )
    mine = Service(title=PROGRAM, as_user=True)
    yield from anyone("named-program", open_(), services=(mine,), destination_args=NAMED)
    yield from anyone("named-program-not-running", blocked(NOT_RUNNING), destination_args=NAMED)
    yield from anyone(
        "named-program-loopback-only",
        blocked(LOOPBACK_ONLY),
        services=(Service(title=PROGRAM, bind=("127.0.0.1",), as_user=True),),
        destination_args=NAMED,
    )


def _other_port_unseen() -> Expected:
    """Nobody listens on the port, which is true; that the program does elsewhere, nobody saw."""
    return Expected(
        "undetermined",
        also_true=frozenset({OTHER_PORT, NOT_RUNNING}),
        candidates=frozenset({OTHER_PORT}),
    )


# -- must come out open


def _forwards() -> Iterator[Scenario]:
    """Forwards inside the destination: no local row tells of the connection."""
    inside = Service(port=80, on="container", bind=("::",), dual=True)
    published = ways.publish(f"{CONTAINER}:80")
    engine = Service(mode="hung", title="docker-proxy")
    local = Service(port=8080)
    for name, builder, services, put in (
        ("container", networks.container, (inside,), published),
        ("container-beside-proxy", networks.container, (inside, engine), published),
        ("redirect", network.lan, (local,), ways.redirect(8080)),
    ):
        yield from anyone(name, open_(), network=builder, services=services, faults=(put,))
    yield from anyone(
        "container-not-running",
        blocked(NOT_RUNNING),
        users=_any_of(NOT_RUNNING),
        network=networks.container,
        faults=(published,),
    )
    yield from anyone(
        "container-drops",
        _any_of(DESTINATION_DROP),
        network=networks.container,
        services=(inside,),
        faults=(published, rules("container", "input", "tcp dport 80 counter drop")),
    )
    yield from anyone(
        "container-forward-drops",
        blocked(DESTINATION_DROP, also=[NOT_RUNNING]),
        network=networks.container,
        services=(inside,),
        faults=(published, rules("destination", "forward", "tcp dport 80 counter drop")),
    )


def _easily_blamed() -> Iterator[Scenario]:
    dual = Service(bind=("::",), dual=True)
    for name, services in (
        ("deferred-accept", (Service(defer=True),)),
        ("deferred-accept-silent", (Service(mode="silent", defer=True),)),
        ("slow-to-accept", (Service(mode="slow"),)),
        ("small-backlog", (Service(backlog=1),)),
        ("tells-and-closes", (Service(mode="tells"),)),
        ("silent-dual", (Service(mode="silent", bind=("::",), dual=True),)),
        ("two-programs", (Service(bind=("127.0.0.1",)), Service(bind=("destination",)))),
        ("dual-by-ipv4", (dual,)),
    ):
        yield from anyone(name, open_(), services=services)
    for percent in (5, 20):
        yield from anyone(
            f"deferred-accept-loss-{percent}",
            dataclasses.replace(open_(), allowed_warnings=frozenset({LOSS})),
            services=(Service(defer=True),),
            faults=(faults.loss(percent),),
        )
    # Whose programs an ordinary user may not see, of them he can only say what he cannot see.
    mine = activated(PROGRAM, as_user=True)
    yield from anyone("socket-activated", open_(), services=(mine,), destination_args=NAMED)
    yield from anyone("socket-activated-unnamed", open_(), services=(activated(PROGRAM),))
    yield from anyone("below-1024", open_(), services=(Service(port=443),), ports="443")
    yield from anyone("many-addresses", open_(), network=networks.many_addresses, services=(dual,))
    yield from anyone(
        "many-addresses-destination-drop",
        blocked(DESTINATION_DROP),
        network=networks.many_addresses,
        services=(dual,),
        faults=(faults.destination_drop(),),
    )
    yield from anyone(
        "stateful-allowed",
        open_(),
        services=(ECHO,),
        faults=(faults.default_deny(f"ct state new {REQUEST}", "tcp dport 24242"),),
    )
    for name, put, expected in (
        ("link-local", (), open_()),
        (
            "link-local-destination-drop",
            (faults.destination_drop(),),
            blocked(DESTINATION_DROP),
        ),
    ):
        yield from anyone(
            name,
            expected,
            network=networks.link_local,
            services=(dual,),
            faults=put,
            peers=frozenset(),
            mdns=True,
        )
    # The address stands in a neighbour table; nobody has moved, and nobody is to blame for it.
    yield from anyone(
        "permanent-neighbour", open_(), services=(ECHO,), faults=(ways.permanent_neighbour,)
    )
