"""Every item to two async branches, and the branches merged: fan-out and fan-in."""

import asyncio
from typing import Any

import anyio

from benchmarks.functions import Step, double_async, plus_one_async
from benchmarks.model import Program, Target, Workload
from benchmarks.open_chains import anyio_stage

BRANCHES: tuple[Step, ...] = (plus_one_async, double_async)
END: Any = object()


def both(items: int) -> list[int]:
    """The right results, branch after branch."""
    return [number + 1 for number in range(items)] + [number * 2 for number in range(items)]


async def flowstage_collect(items: int) -> list[int]:
    """flowstage."""
    from flowstage import merge, source

    numbers = source(range(items))
    return await merge(numbers.map(plus_one_async), numbers.map(double_async)).collect()


async def flowstage_for(items: int) -> list[int]:
    """flowstage, read with ``async for``."""
    from flowstage import merge, source

    numbers = source(range(items))
    async with merge(numbers.map(plus_one_async), numbers.map(double_async)).open() as run:
        return [result async for result in run]


async def queue_diamond(items: int) -> list[int]:
    """What one writes by hand on asyncio: a queue into each branch, one queue out of both."""
    inboxes: list[asyncio.Queue[int]] = [asyncio.Queue(100) for _ in BRANCHES]
    outbox: asyncio.Queue[int] = asyncio.Queue(100)

    async def feed() -> None:
        for number in range(items):
            for inbox in inboxes:
                await inbox.put(number)
        for inbox in inboxes:
            await inbox.put(END)

    async def work(step: Step, inbox: asyncio.Queue[int]) -> None:
        while (number := await inbox.get()) is not END:
            await outbox.put(await step(number))
        await outbox.put(END)

    results = []
    still_open = len(BRANCHES)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed())
        for step, inbox in zip(BRANCHES, inboxes, strict=True):
            tasks.create_task(work(step, inbox))
        while still_open:
            if (result := await outbox.get()) is END:
                still_open -= 1
            else:
                results.append(result)
    return results


async def anyio_diamond(items: int) -> list[int]:
    """What one writes by hand on anyio, a clone of the merging stream for each branch."""
    branches = [anyio.create_memory_object_stream[int](100) for _ in BRANCHES]
    outlet, inlet = anyio.create_memory_object_stream[int](100)

    async def feed() -> None:
        for number in range(items):
            for branch, _ in branches:
                await branch.send(number)
        for branch, _ in branches:
            branch.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed)
        with outlet:
            for step, (_, inbox) in zip(BRANCHES, branches, strict=True):
                tasks.start_soon(anyio_stage, step, inbox, outlet.clone())
        with inlet:
            results = [result async for result in inlet]
    return results


WORKLOAD = Workload(
    name="diamond",
    what="every item to two async branches, then merged",
    items=50_000,
    quick_items=10_000,
    expected=both,
    programs=(
        Program("flowstage", flowstage_collect, needs=("flowstage",), ordered=False),
        Program("flowstage, async for", flowstage_for, needs=("flowstage",), ordered=False),
        Program("asyncio.Queue diamond", queue_diamond, loop="asyncio", ordered=False),
        Program("anyio streams by hand", anyio_diamond, ordered=False, share=0.2),
    ),
    targets=(Target(0.7, peer="asyncio.Queue diamond"),),
)
