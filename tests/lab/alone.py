"""A program: one agent with --save, its evidence on standard output in base64.

    python alone.py ROLE WAIT CONTROL-PORT PEER [--service NAME]

Other names of the command line do not matter here; writing the file itself is another test's.
"""

from __future__ import annotations

import asyncio
import base64
import resource
import sys
from pathlib import Path

from bothends.options import Endpoint, Options
from bothends.run import Run
from bothends_protocol.code import parse_code
from bothends_protocol.wire import pack


async def main() -> int:
    role, wait, control, peer = sys.argv[1:5]
    options = Options(
        role=role,
        ports=("tcp:4242",) if role == "destination" else (),
        code=parse_code("7-abandon-ability-able"),
        code_fixed=True,
        peers=(Endpoint(peer, int(control)),),
        control_port=int(control),
        mdns=False,
        wait=float(wait),
        save=Path("unused"),
    )
    run = Run(
        options,
        say=lambda text: print(text, file=sys.stderr),
        show_code=lambda *_: None,
    )
    outcome = await run.run()
    print(outcome.verdict.status, outcome.verdict.summary, file=sys.stderr)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"cpu {used.ru_utime + used.ru_stime:.3f}", file=sys.stderr)
    if outcome.own is not None:
        print(base64.b64encode(pack(outcome.own)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
