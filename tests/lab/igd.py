"""A real miniupnpd on a lab router: UPnP, NAT-PMP and PCP from one daemon.

It keeps its mappings in an nftables table of its own, ``TABLE``, so that what is left of
them can be looked up there. It never grants what it takes for impossible: its outside
address must be a public one, and the documentation ranges are none to it.

What it cannot be made to do, to grant mappings for ever alone, ``permanent_only`` does: a
router of ours that maps nothing in truth.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .hosts import REPOSITORY, Host, Process

__all__ = ["TABLE", "mapped", "miniupnpd", "permanent_only"]

TABLE = "miniupnpd"
READY_TIMEOUT = 20.0
CONFIG, LEASES = "/etc/miniupnpd.conf", "/run/miniupnpd.leases"
HTTP_PORT = 5000
CHAINS = f"""table inet {TABLE} {{
  chain forward {{ type filter hook forward priority 0; jump allowed; }}
  chain prerouting {{ type nat hook prerouting priority dstnat; jump mapped; }}
  chain postrouting {{ type nat hook postrouting priority srcnat; jump peers; }}
  chain allowed {{ }}
  chain mapped {{ }}
  chain peers {{ }}
}}
"""
EVERYTHING = "allow 1-65535 0.0.0.0/0 1-65535"
NOTHING = "deny 0-65535 0.0.0.0/0 0-65535"


def miniupnpd(  # noqa: PLR0913  what a router may be like
    host: Host,
    *,
    outside: str = "wan0",
    inside: str = "lan0",
    upnp: bool = True,
    natpmp: bool = True,
    allow: bool | Sequence[str] = True,
    external: str | None = None,
    mappings: Sequence[str] = (),
    shortest: int = 2,
) -> Process:
    """Start it, and return once it listens.

    ``natpmp`` is PCP too. ``allow``: who may map what, as lines of its configuration.
    ``external``: the outside address that it says, instead of that of the card ``outside``.
    ``mappings``: there from the start and for ever, as ``TCP:4242:192.168.1.20:4242:0:name``.
    ``shortest``: seconds of the shortest lease by NAT-PMP and PCP.
    """
    rules = ([EVERYTHING] if allow else [NOTHING]) if isinstance(allow, bool) else allow
    lines = [
        f"ext_ifname={outside}",
        *([f"ext_ip={external}"] if external else []),
        f"listening_ip={inside}",
        "ipv6_disable=yes",
        f"port={HTTP_PORT}",
        f"enable_upnp={_yes(upnp)}",
        f"enable_natpmp={_yes(natpmp)}",
        f"min_lifetime={shortest}",
        "max_lifetime=86400",
        f"lease_file={LEASES}",
        "secure_mode=yes",
        "uuid=5ee0d3a6-7b0c-4a52-9f4e-2f0f4a1d7c11",
        f"upnp_table_name={TABLE}",
        f"upnp_nat_table_name={TABLE}",
        "upnp_forward_chain=allowed",
        "upnp_nat_chain=mapped",
        "upnp_nat_postrouting_chain=peers",
        *rules,
    ]
    host.nft(CHAINS)
    host.write(LEASES, "".join(f"{line}\n" for line in mappings))
    host.write(CONFIG, "".join(f"{line}\n" for line in lines))
    # -d: in the foreground, with its log on standard error.
    process = host.popen(["miniupnpd", "-d", "-f", CONFIG, "-P", "/run/miniupnpd.pid"], piped=True)
    if upnp:
        process.wait_for_output("HTTP listening on port", READY_TIMEOUT)
    if natpmp:
        process.wait_for_output("Listening for NAT-PMP/PCP traffic", READY_TIMEOUT)
    return process


def permanent_only(host: Host, address: str) -> Process:
    """Start a router at ``address`` that speaks UPnP, and grants no lease but the endless one."""
    program = REPOSITORY / "tests" / "fake_router.py"
    return host.popen_ready([sys.executable, str(program), address])


def mapped(host: Host) -> list[str]:
    """The mappings that a router really has, as nftables writes them."""
    listed = host.run(["nft", "list", "chain", "inet", TABLE, "mapped"]).stdout
    return [line.strip() for line in listed.splitlines() if "dnat" in line]


def _yes(on: bool) -> str:  # noqa: FBT001  it is the value that is written
    return "yes" if on else "no"
