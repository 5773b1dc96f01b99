"""Whether a timer runs where a coroutine stands."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from flowstage._where import has_timer

# It is about timers that only asyncio has.
pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)


async def test_a_timer_runs_until_its_block_is_left() -> None:
    """Also in the turn of the loop in which it has expired and its task has not heard of it yet."""
    never, go_on = asyncio.Event(), asyncio.Event()

    async def wait(timeout: asyncio.Timeout) -> None:
        with suppress(TimeoutError):
            async with timeout:
                await never.wait()
        await go_on.wait()

    timeout = asyncio.timeout(None)
    waiting = wait(timeout)
    task = asyncio.create_task(waiting)
    found = []
    for due in (None, 99.0, 0.0):
        await asyncio.sleep(0)
        timeout.reschedule(None if due is None else asyncio.get_running_loop().time() + due)
        if due == 0.0:
            await asyncio.sleep(0)
            assert timeout.expired()
        found.append(has_timer(waiting))
    await asyncio.sleep(0)
    found.append(has_timer(waiting))
    assert found == [False, True, True, False]
    go_on.set()
    await task
