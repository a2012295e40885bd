"""A program: one agent that saves what it sees, and what came of it as JSON.

    python alone.py ROLE WAIT PEER

Writing the file itself is for other tests. The evidence is in base64, None where the two met.
"""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import sys
from pathlib import Path

from bothends.options import CONTROL_PORT, Endpoint, Options
from bothends.run import Run
from bothends_protocol.code import parse_code

__all__: list[str] = []


async def main() -> int:
    role, wait, peer = sys.argv[1:4]
    options = Options(
        role=role,
        ports=("tcp:4242",) if role == "destination" else (),
        code=parse_code("7-abandon-ability-able"),
        code_fixed=True,
        peers=(Endpoint(peer, CONTROL_PORT),),
        mdns=False,
        wait=float(wait),
        save=Path("unused"),
    )
    run = Run(options, say=lambda text: print(text, file=sys.stderr), show_code=lambda *_: None)
    outcome = await run.run()
    kept = outcome.kept if outcome.verdict.status == "no-contact" else None
    used = resource.getrusage(resource.RUSAGE_SELF)
    document = {
        "status": outcome.verdict.status,
        "blockers": outcome.verdict.blockers,
        "evidence": kept and base64.b64encode(kept.evidence).decode(),
        "cpu": used.ru_utime + used.ru_stime,
    }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
