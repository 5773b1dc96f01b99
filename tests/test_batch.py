"""Batches: full ones at once, partial ones in time, before what is no item, and at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from flowstage import Failure, Input, Sentinel, source

from .accounts import check_accounts, settle, soon
from .conftest import virtual_time


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_sizes(size: int) -> None:
    """Lists of that many, and the rest at the end; never an empty one."""
    for number in (0, 1, 6, 7):
        flow = Input[int]().batch(size)
        async with flow.open(range(number), buffer=2) as run:
            got = [batch async for batch in run]
        whole = list(range(number))
        assert got == [whole[at : at + size] for at in range(0, number, size)]
        check_accounts(run.report(), over=True)


@virtual_time
async def test_within_counts_from_the_first_item() -> None:
    """A partial batch leaves so many seconds after its first item, whatever comes later."""
    got: list[tuple[list[int], float]] = []
    async with Input[int]().batch(5, within=10).open() as run, anyio.create_task_group() as group:

        async def read() -> None:
            async for batch in run:
                got.append((batch, anyio.current_time() - began))

        group.start_soon(read)
        began = anyio.current_time()
        await anyio.sleep(3)
        for number in range(3):
            await run.send(number)
            await anyio.sleep(4)
        await anyio.sleep(100)
        for number in range(5):
            await run.send(number)
        await anyio.sleep(1)
        await run.send(9)
        run.finish()
    assert [batch for batch, _ in got] == [[0, 1, 2], [0, 1, 2, 3, 4], [9]]
    assert [round(when) for _, when in got] == [13, 115, 116]


@virtual_time
async def test_a_due_batch_goes_on_filling_while_downstream_is_full() -> None:
    """What comes while it cannot leave goes with it."""
    async with Input[int]().batch(4, within=1).open(buffer=1) as run:
        await run.send(0)
        await anyio.sleep(2)  # [0] is in the edge to the reader
        await run.send(1)
        await anyio.sleep(2)  # [1] is due and cannot leave
        await run.send(2)
        await anyio.sleep(2)
        reader = run.__aiter__()
        assert await anext(reader) == [0]
        assert await anext(reader) == [1, 2]
        run.finish()


@virtual_time
async def test_within_nought_takes_what_is_there() -> None:
    """No waiting at all."""
    async with Input[int]().batch(10, within=0).open() as run:
        for number in range(3):
            run.send_nowait(number)
        async for batch in run:
            assert batch == [0, 1, 2]
            break
        await run.send(3)
        async for batch in run:
            assert batch == [3]
            break


@virtual_time
async def test_an_idle_batch_is_no_deadlock() -> None:
    """Its timer is alive."""

    async def slow() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep(1000)
        yield 2

    assert await source(slow).batch(2, within=5).collect() == [[1], [2]]


async def test_a_partial_batch_leaves_before_a_failure() -> None:
    """Under `emit`, what was before it comes before it."""

    def refuse(item: int) -> int:
        if item == 2:
            raise ValueError
        return item

    flow = Input[int]().map(refuse).batch(3)
    events = await flow.collect(range(6), on_error="emit")
    assert [e.item if isinstance(e, Failure) else e for e in events] == [[0, 1], 2, [3, 4, 5]]


async def test_a_failure_discards_what_is_held() -> None:
    """Held state is not flushed when the run fails."""

    def refuse(item: int) -> int:
        if item == 4:
            raise ValueError
        return item

    got: list[Any] = []
    run: Any = None
    with soon(), pytest.raises(ValueError):
        async with Input[int]().map(refuse).batch(3).open(range(9)) as run:
            async for batch in run:
                got.append(batch)
    assert got in ([], [[0, 1, 2]])
    check_accounts(run.report(), over=True)


async def test_counts_are_of_items() -> None:
    """`given` counts lists, the rest items."""
    report = await Input[int]().batch(4).drain([1, 2, Sentinel(0), 3, 4, 5, 6, 7])
    batch = report.stage("batch")
    assert (batch.taken, batch.done, batch.given) == (7, 7, 3)


async def test_held_items_are_discarded_on_leaving() -> None:
    """And told in the warning."""
    async with Input[int]().batch(5).open() as run:
        run.send_nowait(1)
        await settle()
        assert run.report().stage("batch").in_hand == 1
    assert run.report().stage("batch").discarded == 1
