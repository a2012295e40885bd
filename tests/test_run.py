"""What a run must not lose on its way."""

from __future__ import annotations

import asyncio

import pytest

from bothends.options import Options
from bothends.run import Run
from bothends_protocol.messages import Barrier
from bothends_protocol.pairing import SOURCE


@pytest.mark.parametrize("later", range(5))
async def test_what_comes_as_the_time_for_moving_ends_is_not_lost(later: int) -> None:
    run = Run(Options(role=SOURCE), say=print, show_code=print)
    waiting = asyncio.ensure_future(run._first_of(None))
    for _ in range(3):
        await asyncio.sleep(0)
    message = Barrier(number=1)
    run._events.put_nowait(message)
    for _ in range(later):
        await asyncio.sleep(0)
    waiting.cancel()
    (result,) = await asyncio.gather(waiting, return_exceptions=True)
    kept = [result, run._early, *(run._events.get_nowait() for _ in range(run._events.qsize()))]
    assert kept.count(message) == 1
