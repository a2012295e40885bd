"""What helps against each cause: the table of remedies, as templates.

A template is filled by `fixes`; a step whose facts are not known is left out.
Placeholders that are always known, and so may stand in titles: `where` (as in
"TCP port 4242"), `same` ("port 4242"), `program`, `holder`, `family`, `other_family`,
`wildcard`, `target` (the inside address to forward to), `the_router`, `public` (as in
"its public address, 11.0.0.2"). The others: `address`, `source`, `addresses`, `near` and `far`
(addresses for the same network and for another one), `listening`, `others`, `hint`, `asks`
(protocols that the router answers), `leads_to`, `came_at` (where the router sends the port now),
`above` (the router's outside address, where that is a private one), and `port`, `ports`, `asked`
for commands; `fits` and `mtu` (the
largest packet that came through, for people and for a command), `source_card`,
`destination_card`. Words that are there in some cases only: `second`, `carrier`, `provider`; and
sentences: `no_ipv6`, `ipv6_filter`, `switch_on`, `perhaps_carrier`.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ANOTHER_FILTER",
    "HALF_OPEN_QUEUE",
    "HINTS",
    "IPV6_FILTER",
    "LOOKS",
    "NO_IPV6",
    "OTHER_DEVICE",
    "PERHAPS_CARRIER",
    "REMEDIES",
    "SWITCH_ON",
    "Look",
    "Remedy",
]


class Remedy(NamedTuple):
    """A template of a `Fix`. `look` names a command of `LOOKS` that shows how things stand."""

    on: str
    title: str
    steps: tuple[str, ...] = ()
    look: str = ""


class Look(NamedTuple):
    """A command per system, and what it shows."""

    shows: str
    argv: dict[str, tuple[str, ...]]


_LISTENERS = Look(
    "The command shows which program listens on the port, and on which address.",
    {
        "Linux tcp": ("ss", "-ltnp", "sport = :{port}"),
        "Linux udp": ("ss", "-lunp", "sport = :{port}"),
        "Windows tcp": ("netstat", "-abno"),
        "Windows udp": ("netstat", "-abno"),
        "Darwin tcp": ("lsof", "-nP", "-iTCP:{ports}", "-sTCP:LISTEN"),
        "Darwin udp": ("lsof", "-nP", "-iUDP:{ports}"),
    },
)
_ALL_LISTENERS = Look(
    "The command shows all programs that listen, with their ports and addresses.",
    {
        "Linux tcp": ("ss", "-ltnp"),
        "Linux udp": ("ss", "-lunp"),
        "Windows tcp": ("netstat", "-abno"),
        "Windows udp": ("netstat", "-abno"),
        "Darwin tcp": ("lsof", "-nP", "-iTCP", "-sTCP:LISTEN"),
        "Darwin udp": ("lsof", "-nP", "-iUDP"),
    },
)


def _smaller(end: str) -> Look:
    card = "{" + end + "_card}"
    return Look(
        "The command lasts until the next restart. When it helped, set the MTU where the network "
        "card is set up: in NetworkManager, netplan, systemd-networkd or the settings of the VPN.",
        {
            "Linux": ("ip", "link", "set", "dev", card, "mtu", "{mtu}"),
            "Darwin": ("ifconfig", card, "mtu", "{mtu}"),
        },
    )


LOOKS = {
    "listeners": _LISTENERS,
    "all-listeners": _ALL_LISTENERS,
    "queue": Look(
        "The command shows the queue: Recv-Q are the connections that wait, Send-Q is its length.",
        {"Linux tcp": ("ss", "-ltnp", "sport = :{port}")},
    ),
    "connections": Look(
        "The command lists the connections of the computer.",
        {
            "Linux": ("ss", "-tanp"),
            "Windows": ("netstat", "-abno"),
            "Darwin": ("netstat", "-an"),
        },
    ),
    "half-open": Look(
        "The command lists the connections that fill the queue, with those who asked for them.",
        {"Linux tcp": ("ss", "-tn", "state", "syn-recv", "sport = :{port}")},
    ),
    "addresses": Look(
        "The command shows the addresses of the computer.",
        {
            "Linux": ("ip", "-brief", "address"),
            "Windows": ("ipconfig",),
            "Darwin": ("ifconfig",),
        },
    ),
    "way-there": Look(
        "The command shows the way that the computer takes to the address.",
        {
            "Linux": ("ip", "route", "get", "{address}"),
            "Windows": ("route", "print"),
            "Darwin 4": ("route", "-n", "get", "{address}"),
            "Darwin 6": ("route", "-n", "get", "-inet6", "{address}"),
        },
    ),
    "way-back": Look(
        "The command shows the way that the computer takes back to the source.",
        {
            "Linux": ("ip", "route", "get", "{source}"),
            "Windows": ("route", "print"),
            "Darwin 4": ("route", "-n", "get", "{source}"),
            "Darwin 6": ("route", "-n", "get", "-inet6", "{source}"),
        },
    ),
    "neighbour": Look(
        "The command shows which network card, by its hardware address, answers for the address.",
        {
            "Linux": ("ip", "neigh", "show", "{address}"),
            "Windows 4": ("arp", "-a", "{address}"),
            "Windows 6": ("netsh", "interface", "ipv6", "show", "neighbors"),
            "Darwin 4": ("arp", "-n", "{address}"),
            "Darwin 6": ("ndp", "-an"),
        },
    ),
    "loss": Look(
        "The command counts how many of 50 packets come back.",
        {
            "Linux": ("ping", "-c", "50", "-i", "0.2", "{address}"),
            "Windows": ("ping", "-n", "50", "{address}"),
            "Darwin 4": ("ping", "-c", "50", "-i", "0.2", "{address}"),
            "Darwin 6": ("ping6", "-c", "50", "-i", "0.2", "{address}"),
        },
    ),
    "mtu-probing": Look(
        "The command lets TCP find by itself the size of packets that passes; it lasts until the "
        "next restart. When it helped, write net.ipv4.tcp_mtu_probing = 1 into a file in "
        "/etc/sysctl.d.",
        {"Linux": ("sysctl", "-w", "net.ipv4.tcp_mtu_probing=1")},
    ),
    "smaller-source": _smaller("source"),
    "smaller-destination": _smaller("destination"),
    "loose-filter": Look(
        "The command makes the reverse-path filter of all cards loose (IPv4): a packet is taken "
        "when there is any way back to its sender, not only through the same card. It lasts "
        "until the next restart. When it helped, write net.ipv4.conf.all.rp_filter = 2 into a "
        "file in /etc/sysctl.d.",
        {"Linux 4": ("sysctl", "-w", "net.ipv4.conf.all.rp_filter=2")},
    ),
    "all-filters": Look(
        "The command lists everything that filters packets in the kernel.",
        {"Linux": ("nft", "list", "ruleset"), "Darwin": ("pfctl", "-sr")},
    ),
}
"""Commands that show or set one thing. Keys are a system, or a system with a transport or an IP
version behind it; where a key is missing there is no such command."""

_ASK_NETWORK = Remedy(
    "router",
    "Ask whoever runs the network between the two computers to let {where} through",
    (
        "What has to pass: {where}, from {source} to {address}, and the answers.",
        (
            "What may stand between: a router or access point with a firewall, parental control or "
            "security filter; a company's or school's firewall; a VPN; the provider."
        ),
    ),
)
_OTHER_NETWORK = Remedy(
    "source",
    "Test over another network",
    (
        (
            "Connect the source another way (by cable, over a telephone's hotspot, without the "
            "VPN) and test again: if it then works, the network used before is the one that blocks."
        ),
    ),
)
_OTHER_PORT = Remedy(
    "destination",
    "Let the service use another port",
    (
        (
            "Networks often filter by port number. Set another one in the service's settings, free "
            "and between 1024 and 5999, set the same in the application on the source, and test it."
        ),
    ),
)
_SET_ADDRESS = Remedy(
    "source",
    "Use the destination's own address",
    (
        "Put one of the destination's addresses into the application on the source: {addresses}.",
        (
            "So that the address stays the same, reserve it for the destination in the router "
            "(DHCP reservation)."
        ),
    ),
    "",
)
_FORWARD_STEP = (
    "Open the router's settings and look for port forwarding (also: virtual server, NAT, port "
    "sharing)."
)
_FORWARD_HERE = "Forward {where} to {target}, {same}, on {the_router}."
_RESERVE = (
    "Reserve that address for the destination (DHCP reservation), or the forwarding will point at "
    "another machine some day."
)
_RESTART = "Restart {program} on the destination and test again."
_LOGS = "Look into its log at the time of the test: it often says why."
_BIND_STEPS = (
    (
        "In the settings of {program} look for the address it listens on (listen, bind, host, "
        "interface)."
    ),
    "{hint}",
)

_SMALLER = (
    (
        "An MTU of at most {fits} bytes on the network card or the VPN that leads to the other "
        "computer makes TCP send packets of that size, in both directions."
    ),
)

REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "address.wrong-host": (
        Remedy(
            "source",
            "Use the destination's own address",
            (
                (
                    "From another network put the address under which the destination is seen "
                    "into the application on the source: {far}."
                ),
                "The router that has {far} must forward {where} to {target}, {same}.",
                (
                    "In the same network put one of the destination's own addresses into the "
                    "application on the source: {near}."
                ),
                (
                    "So that its address stays the same, reserve it for the destination in the "
                    "router (DHCP reservation)."
                ),
            ),
        ),
        Remedy("destination", "Find out the destination's address", look="addresses"),
    ),
    "address.no-host": (
        Remedy(
            "destination",
            "Make sure that the destination is on, awake and in the same network",
            (
                "Wake it up and switch off its sleep mode for the time of use.",
                (
                    "Check its cable or wireless network: it must be in the network of the source, "
                    "not in a guest network."
                ),
                "Compare its address with the one that was tested, {address}.",
            ),
            "addresses",
        ),
        _SET_ADDRESS,
    ),
    "address.duplicate": (
        Remedy(
            "destination",
            "Give each machine an address of its own",
            (
                (
                    "Set the destination to get its address automatically (DHCP), or give it a "
                    "fixed one that is outside the range which the router hands out."
                ),
                (
                    "Find the other machine that uses {address}: switch devices off until only the "
                    "destination answers."
                ),
            ),
            "addresses",
        ),
        Remedy("source", "See who answers for the address", look="neighbour"),
    ),
    "address.private": (
        Remedy(
            "source",
            "Use the destination's public address, or a VPN",
            (
                "An address such as {address} works inside its own network only.",
                (
                    "From another network, use {public}; the router that has it must forward "
                    "{where} to the destination."
                ),
                "Or connect both computers by a VPN and use the destination's address in it.",
            ),
        ),
        Remedy(
            "router",
            "Forward {where} to the destination",
            (_FORWARD_STEP, _FORWARD_HERE),
        ),
    ),
    "source.no-route": (
        Remedy(
            "source",
            "Give the source a way to the destination",
            (
                "Check that the source is connected: cable, wireless network, VPN.",
                "Check that it has a default gateway (router) in its network settings.",
                "{no_ipv6}",
            ),
            "way-there",
        ),
        _SET_ADDRESS,
    ),
    "source.no-ports": (
        Remedy(
            "source",
            "Free local ports on the source",
            (
                (
                    "All local ports that its system gives to connections are taken. Find out "
                    "which program opens so many connections, or does not close them."
                ),
                (
                    "Where so many are meant, give the system a wider range: `sysctl "
                    "net.ipv4.ip_local_port_range` shows it on Linux (for IPv6, too)."
                ),
            ),
            "connections",
        ),
    ),
    "source.name": (
        Remedy(
            "source",
            "Check the name, or use the address instead",
            (
                "Check the spelling of the name in the application on the source.",
                "Use an address of the destination in its place: {addresses}.",
                (
                    "Names of the home network often work in that network only: for a name ending "
                    "in .local, both computers must be in the same one."
                ),
            ),
        ),
    ),
    "network.drop": (
        Remedy(
            "router",
            "Ask the destination's provider to let {where} in",
            (
                (
                    "The destination's router forwards the port, so that it is not the forwarding: "
                    "look whether a firewall setting of {the_router} keeps the port closed, and "
                    "ask the {provider} whether it does."
                ),
            ),
        ),
        _ASK_NETWORK,
        _OTHER_NETWORK,
        _OTHER_PORT,
    ),
    "network.reject": (_ASK_NETWORK, _OTHER_NETWORK, _OTHER_PORT),
    "network.unreachable": (
        Remedy(
            "router",
            "Give the router on the way a route to the destination",
            (
                (
                    "Its routing table needs an entry for the network of {address}; where the two "
                    "computers are in different networks of one house, the router between needs "
                    "both."
                ),
                (
                    "If a VPN leads there, check that it is connected and that it carries that "
                    "network."
                ),
            ),
        ),
        Remedy(
            "source",
            "Check that the address is the right one",
            ("The destination's own addresses are {addresses}.",),
            "way-there",
        ),
    ),
    "network.proxy": (
        Remedy(
            "source",
            "Switch off what answers in the destination's place",
            (
                (
                    "Candidates on the source: the web protection of antivirus software, a VPN, a "
                    "proxy in the network settings. Switch these off one at a time and test again."
                ),
                (
                    "In a public or guest network a sign-in page may catch all connections: open a "
                    "web page and sign in first."
                ),
            ),
        ),
        _OTHER_NETWORK,
        _OTHER_PORT,
    ),
    "network.reply-lost": (
        Remedy(
            "router",
            "Let the answers take the way of the requests",
            (
                (
                    "The requests arrive and the answers get lost: often a firewall on the way "
                    "sees one direction only, because there are two routers or two connections."
                ),
                (
                    "Ask whoever runs the network to let the answers of {where} through, from "
                    "{address} to {source}."
                ),
            ),
        ),
        Remedy(
            "destination",
            "Check the way back",
            (
                (
                    "If the destination has several networks or a VPN, its way back to the source "
                    "must lead through the one that the request came from."
                ),
            ),
            "way-back",
        ),
    ),
    "network.client-isolation": (
        Remedy(
            "router",
            "Switch off the separation of devices",
            (
                (
                    "In the settings of the router or access point look for AP isolation, client "
                    "isolation, wireless isolation or Allow devices to communicate with each other."
                ),
                (
                    "A guest network always separates devices: connect both computers to the main "
                    "one."
                ),
            ),
        ),
        Remedy(
            "source",
            "Connect one of the two by cable",
            ("Many access points separate wireless devices from each other only.",),
        ),
    ),
    "network.partial": (
        Remedy(
            "router",
            "Ask whoever runs the network about parallel paths",
            (
                (
                    "Some connections from {source} to {address} pass and others do not, always "
                    "the same ones by their port numbers: one of several links, load balancers or "
                    "firewalls that share the traffic filters {where}."
                ),
            ),
        ),
        _OTHER_NETWORK,
    ),
    "network.mtu": (
        Remedy(
            "destination", "Use smaller packets on the destination", _SMALLER, "smaller-destination"
        ),
        Remedy("source", "Or use smaller packets on the source", _SMALLER, "smaller-source"),
        Remedy(
            "router",
            "Let the network report packets that are too large",
            (
                (
                    "Something drops large packets and also the messages that would tell the "
                    "sender: allow ICMP Fragmentation Needed (IPv4) and Packet Too Big (IPv6), in "
                    "the routers and tunnels between and in the firewalls of both computers."
                ),
                (
                    "On a Linux router, this makes TCP connections use the size that fits: "
                    "`iptables -t mangle -I FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS "
                    "--clamp-mss-to-pmtu` (for IPv6 the same with ip6tables). Other routers and "
                    "VPNs have a setting for it: MSS clamping, or mssfix."
                ),
                (
                    "A switch that does not take jumbo frames drops them without a word: give "
                    "all cards on its network an MTU that it takes, 1500 for most."
                ),
            ),
        ),
        Remedy("destination", "Let the destination find the size that passes", (), "mtu-probing"),
        Remedy("source", "Let the source find the size that passes", (), "mtu-probing"),
    ),
    "network.loss": (
        Remedy(
            "source",
            "Find where packets get lost",
            (
                "Wireless is the most frequent place: move closer, or test by cable.",
                "Pause other downloads and uploads while testing.",
            ),
            "loss",
        ),
    ),
    "nat.no-forward": (
        Remedy(
            "router",
            "Forward {where} to the destination",
            (_FORWARD_STEP, _FORWARD_HERE, _RESERVE),
        ),
        Remedy(
            "destination",
            "Or let bothends ask the router for the port",
            (
                (
                    "The router answers {asks}: `bothends destination {asked} --map` has it "
                    "forward {where} for a test, and shows whether that helps."
                ),
                (
                    "`bothends destination {asked} --map --keep-map` leaves the port open "
                    "afterwards ({asks}), for as long as the router grants it."
                ),
            ),
        ),
        Remedy(
            "router",
            "Or let the service ask the router by itself",
            (
                (
                    "The router answers {asks}: switch that on in the service, if it has such a "
                    "setting."
                ),
                "{switch_on}",
            ),
        ),
    ),
    "nat.wrong-host": (
        Remedy(
            "router",
            "Correct the forwarding of {where}",
            (_FORWARD_STEP, "Its target is {leads_to} now.", _FORWARD_HERE, _RESERVE),
        ),
        Remedy(
            "destination",
            "Or let one of the two computers use another port",
            (
                (
                    "Where the other computer needs the port itself, only one can have it. Give "
                    "the service on the destination another port, free and between 1024 and 5999, "
                    "but not 4242 or 4243, and forward that to {target} on {the_router}."
                ),
                "Set the same port in the application on the source, and test it.",
            ),
        ),
        Remedy("destination", "Find out the destination's internal address", (), "addresses"),
    ),
    "nat.wrong-port": (
        Remedy(
            "router",
            "Correct the inner port of the forwarding",
            (
                _FORWARD_STEP,
                "Requests come in at the destination's port {came_at} now.",
                _FORWARD_HERE,
            ),
        ),
    ),
    "nat.double": (
        Remedy(
            "router",
            "Remove the second router, or forward on both",
            (
                (
                    "If a box of the provider stands in front of the destination's own router, set "
                    "that {second} to bridge mode: then only one of the two translates."
                ),
                (
                    "Or forward twice: {where} in the {second} to the destination's own router, "
                    "and there to {target}, {same}."
                ),
                (
                    "The target in the {second} is {above}, which the destination's own router "
                    "has as its outside address."
                ),
            ),
        ),
        Remedy(
            "router",
            "Ask the provider for a public IPv4 address",
            (
                (
                    "The {carrier} has several customers share one public address (CGNAT), and "
                    "forwards nothing to them: ask it for a public IPv4 address of your own."
                ),
                "{perhaps_carrier}",
            ),
        ),
        Remedy(
            "source",
            "Or go around it",
            (
                (
                    "Use IPv6 if both computers have it: it needs no forwarding, only a permission "
                    "in the router's IPv6 firewall."
                ),
                "Or connect both computers by a VPN that meets outside, or through a relay.",
            ),
        ),
    ),
    "nat.no-hairpin": (
        Remedy(
            "source",
            "Inside the same network, use the internal address",
            (
                (
                    "Both computers are behind the same router: there, put {target} into the "
                    "application on the source."
                ),
            ),
        ),
        Remedy(
            "router",
            "Or use a name that leads to the right address everywhere",
            (
                (
                    "Where the source is at home only sometimes: use a name for the destination, "
                    "and have {the_router}, or the home's name server, answer it with {target}."
                ),
            ),
        ),
        Remedy(
            "router",
            "Or let the router lead its public address back inside",
            ("In its settings this is called NAT loopback, hairpin NAT or NAT reflection.",),
        ),
    ),
    "destination.no-route": (
        Remedy(
            "destination",
            "Give the destination a way back to the source",
            (
                "Check its subnet mask and default gateway (router) in the network settings.",
                (
                    "If it has a VPN or a second network card, its way back to {source} must lead "
                    "through the network that the request came from. Switch the VPN off to test it."
                ),
            ),
            "way-back",
        ),
        Remedy(
            "destination",
            "Or let it take packets from that side",
            ("{ipv6_filter}",),
            "loose-filter",
        ),
    ),
    "service.not-running": (
        Remedy(
            "destination",
            "Start the service",
            (
                (
                    "Start {program} on the destination and test again. If it was started, look "
                    "into its log: it may have stopped, or still be starting."
                ),
                "Check in its settings that it is to listen on {where}.",
            ),
            "listeners",
        ),
    ),
    "service.loopback-only": (
        Remedy(
            "destination",
            "Let the service listen on the network",
            (
                *_BIND_STEPS,
                (
                    "Change 127.0.0.1, ::1 or localhost to the computer's own address, or to "
                    "{wildcard} for all of its addresses. Then restart it."
                ),
                (
                    "From then on other computers can reach it: make sure that it asks for a "
                    "password."
                ),
            ),
            "listeners",
        ),
    ),
    "service.wrong-interface": (
        Remedy(
            "destination",
            "Let the service listen on the address that was tested",
            (
                *_BIND_STEPS,
                (
                    "Change it to {address}, or to {wildcard} for all of its addresses. Then "
                    "restart it."
                ),
            ),
            "listeners",
        ),
        Remedy(
            "source",
            "Or use the address on which the service listens",
            ("The service listens on {listening}.",),
        ),
    ),
    "service.wrong-family": (
        Remedy(
            "destination",
            "Let the service listen on {family} too",
            (
                *_BIND_STEPS,
                "Add {wildcard} to the addresses it listens on. Then restart it.",
            ),
            "listeners",
        ),
        Remedy(
            "source",
            "Or use the other IP version",
            (
                (
                    "Put an {other_family} address of the destination into the application on the "
                    "source."
                ),
                "The service listens on {listening}.",
            ),
        ),
    ),
    "service.other-port": (
        Remedy(
            "source",
            "Use the port on which the service listens",
            (
                "The service listens on port {others}: set it in the application on the source.",
                (
                    "The default may have been taken when the service started; its settings show "
                    "the port it uses now."
                ),
            ),
        ),
        Remedy(
            "destination",
            "Or set the service to {where}",
            (
                "If another program holds the port, stop that first. Then restart the service.",
                "Firewall and port forwarding must allow the port that is used in the end.",
            ),
            "all-listeners",
        ),
    ),
    "service.other-program": (
        Remedy(
            "destination",
            "Free the port: stop the other program, or give it another port",
            (
                (
                    "{holder} holds the port, not the service. Stop it or change its port, then "
                    "start the service again."
                ),
            ),
            "listeners",
        ),
        Remedy(
            "destination",
            "Or let the service use another port",
            (
                (
                    "Choose one that is free, between 1024 and 5999, set it in the service and in "
                    "the application on the source, and test it."
                ),
            ),
        ),
    ),
    "service.hung": (
        Remedy(
            "destination",
            "Restart the service",
            (
                _RESTART,
                _LOGS,
                (
                    "A program that is stopped (state T), out of memory or waiting for a disk "
                    "accepts nothing; the computer still answers for it."
                ),
            ),
            "listeners",
        ),
    ),
    "service.backlog-full": (
        Remedy(
            "destination",
            "Restart the service, then find out why it takes connections too slowly",
            (
                _RESTART,
                _LOGS,
                (
                    "If it is only busy: raise its limit of connections or workers, and the length "
                    "of its queue (often called backlog; `sysctl net.core.somaxconn` shows the "
                    "upper limit on Linux)."
                ),
            ),
            "queue",
        ),
    ),
    "service.closes": (
        Remedy(
            "destination",
            "Find out why the service closes connections",
            (
                _LOGS,
                (
                    "Frequent reasons: the source's address is not among the allowed ones (allow "
                    "list, /etc/hosts.allow and /etc/hosts.deny), a limit of connections is "
                    "reached, or the service cannot reach what it needs, such as a database or "
                    "a disk."
                ),
                "The source's address, as the service sees it, is {source}.",
                _RESTART,
            ),
        ),
    ),
}
"""By code, the most likely to help first. Causes that are firewalls have their own: `firewalls`."""

OTHER_DEVICE = (
    Remedy(
        "destination",
        "Let the service take connections from the interface that was tested",
        (
            (
                "It is bound to the interface {device}, whatever address it listens on. In the "
                "settings of {program} look for that name (interface, device, bind-interfaces; "
                "BindToDevice= of a systemd socket)."
            ),
            "Take it out, or put in the interface that has {address}. Then restart it.",
        ),
        "listeners",
    ),
)
"""The same for services that are bound to another interface than that of the tested address."""

HALF_OPEN_QUEUE = (
    Remedy(
        "destination",
        "Find out whose half-open connections fill the queue",
        (
            (
                "If they come from computers that you know, answers do not reach these, or their "
                "last packet does not come back: look at what filters the destination's outgoing "
                "packets and at the networks between. The queue is empty about a minute after "
                "the last request; then test again."
            ),
            (
                "If they come from many strangers, it is a SYN flood. SYN cookies keep such a port "
                "in use: `sysctl -w net.ipv4.tcp_syncookies=1` on Linux."
            ),
            _RESTART,
        ),
        "half-open",
    ),
)
"""The same for `service.backlog-full` where it is the queue of handshakes that is full."""

ANOTHER_FILTER = {
    "source": Remedy(
        "source",
        "Look for another filter on the source",
        (
            (
                "Packets are filtered in more places than the firewall front-ends: security "
                "software, a VPN client that blocks all else, rules for containers, filters on the "
                "network card itself (`tc filter show`, `bpftool net`)."
            ),
        ),
        "all-filters",
    ),
}
ANOTHER_FILTER["destination"] = ANOTHER_FILTER["source"]._replace(
    on="destination",
    title="Look for another filter on the destination",
)

NO_IPV6 = "The source has no IPv6 of its own: use an IPv4 address of the destination."
"""For `no_ipv6`, where the tested address is one of IPv6 and the source has none."""

IPV6_FILTER = (
    "For IPv6 the filter is a firewall rule: with firewalld set IPv6_rpfilter in "
    "/etc/firewalld/firewalld.conf, without it look for `fib` or `rpfilter` in the rules."
)
"""For `ipv6_filter`, on Linux: the kernel's own filter is for IPv4 only."""

SWITCH_ON = "Switch on UPnP or NAT-PMP in the router, and in the service if it has such a setting."
"""For `switch_on`, where the router answers to none of them."""

PERHAPS_CARRIER = (
    "If the provider has several customers share one public address (CGNAT), ask it for a public "
    "IPv4 address of your own."
)
"""For `perhaps_carrier`, where it is not known who has the second router."""

HINTS = {
    "apache2": "For Apache these are the Listen lines.",
    "cupsd": "For CUPS these are the Listen lines in cupsd.conf.",
    "dnsmasq": "For dnsmasq these are interface, listen-address and local-service.",
    "dovecot": "For Dovecot this is listen in dovecot.conf.",
    "grafana": "For Grafana this is http_addr in grafana.ini.",
    "httpd": "For Apache these are the Listen lines.",
    "mariadbd": "For MariaDB this is bind-address in the section [mysqld] or [mariadbd].",
    "master": "For Postfix this is inet_interfaces in main.cf.",
    "memcached": "For memcached this is the option -l in memcached.conf.",
    "mongod": "For MongoDB this is net.bindIp in mongod.conf.",
    "mosquitto": "For Mosquitto this is listener in mosquitto.conf.",
    "mysqld": "For MySQL this is bind-address in the section [mysqld].",
    "named": "For BIND these are listen-on and listen-on-v6 in its options.",
    "nginx": "For nginx these are the listen lines.",
    "postgres": "For PostgreSQL this is listen_addresses in postgresql.conf, and pg_hba.conf must "
    "allow the source.",
    "redis-server": "For Redis these are bind and protected-mode in redis.conf.",
    "rsync": "For rsync this is address in rsyncd.conf.",
    "smbd": "For Samba these are interfaces and bind interfaces only in smb.conf.",
    "sshd": "For OpenSSH this is ListenAddress in sshd_config.",
    "systemd": "systemd holds the port for the service: this is ListenStream in its socket unit.",
    "unbound": "For Unbound these are the interface lines.",
    "vsftpd": "For vsftpd this is listen_address in vsftpd.conf.",
}
"""Where well-known programs keep the address they listen on."""
