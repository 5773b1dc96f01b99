"""A Ctrl-C that the backend raises in flowstage's own code."""

from __future__ import annotations

import pytest
from anyio import sleep_forever

from flowstage import Input


async def raise_it() -> None:
    """Stand for any place of the engine where the signal handler may run."""
    raise KeyboardInterrupt


# asyncio cancels the main task instead; an exception of that kind in a task would end its loop.
@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_a_ctrl_c_within_the_engine_comes_out_bare() -> None:
    """Without a group around it, so that `except KeyboardInterrupt` sees it."""
    with pytest.raises(KeyboardInterrupt):
        async with Input[int]().map(str).open() as run:
            run._live.spawn_uncounted(raise_it)
            await sleep_forever()
