"""A run that is read in a task outside its block."""

from __future__ import annotations

import anyio
import pytest

from flowstage import ClosedError, Input

from .accounts import settle


async def test_a_reader_outside_the_block_is_told_when_the_block_is_left() -> None:
    """It does not wait for ever."""
    told = []

    async def read() -> None:
        with pytest.raises(ClosedError):
            async for _ in run:
                pass
        told.append(True)

    async with anyio.create_task_group() as group:
        async with Input[int]().open() as run:
            group.start_soon(read)
            await settle()
    assert told == [True]
