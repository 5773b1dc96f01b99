"""Items that come at a rate, whether or not the last one is out: latency under load.

The latency of an item is counted from when it was due, not from when it was sent, so that a program
that falls behind does not look good for sending late (Gil Tene's "coordinated omission").
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from benchmarks.functions import (
    after_three,
    double_async,
    minus_three_async,
    plus_one_async,
)
from benchmarks.model import Figure, Measured, Program, Target, Workload
from benchmarks.workloads.async3 import STEPS, Step

RATE = 10_000
"""Items a second: a few per cent of what a chain of three stages can do, in bursts of those due."""
P50 = Figure("p50", "µs, median of the items")
P99 = Figure("p99", "µs, 99th percentile of the items")

Send = Callable[[int], Awaitable[None]]


async def in_time(send: Send, items: int) -> float:
    """Send each item when it is due; give when the first one was."""
    start = perf_counter() + 0.01
    for number in range(items):
        rest = start + number / RATE - perf_counter()
        if rest > 0:
            await anyio.sleep(rest)
        await send(number)
    return start


async def measure(send: Send, results: AsyncIterator[int], items: int) -> Measured:
    """Send and read at once, and see how long after its time each item has come out."""
    came: list[float] = []
    values: list[int] = []
    start = 0.0

    async def feed() -> None:
        nonlocal start
        start = await in_time(send, items)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed)
        async for value in results:
            came.append(perf_counter())
            values.append(value)
            if len(values) == items:
                break
    late = sorted(moment - start - number / RATE for number, moment in enumerate(came))
    figures = {"p50": late[items // 2] * 1e6, "p99": late[items * 99 // 100] * 1e6}
    return Measured(figures, values)


async def flowstage_run(items: int) -> Measured:
    """flowstage."""
    from flowstage import Input

    numbers = Input[int]("numbers")
    flow = numbers.map(plus_one_async).map(double_async).map(minus_three_async)
    async with flow.open() as run:
        measured = await measure(run.send, aiter(run), items)
        run.finish()
        return measured


async def queue_chain(items: int) -> Measured:
    """What one writes by hand on asyncio."""
    queues: list[asyncio.Queue[int]] = [asyncio.Queue(100) for _ in range(len(STEPS) + 1)]

    async def work(step: Step, inbox: asyncio.Queue[int], outbox: asyncio.Queue[int]) -> None:
        while True:
            await outbox.put(await step(await inbox.get()))

    async def results() -> AsyncIterator[int]:
        while True:
            yield await queues[-1].get()

    workers = [
        asyncio.create_task(work(step, queues[index], queues[index + 1]))
        for index, step in enumerate(STEPS)
    ]
    out = results()
    measured = await measure(queues[0].put, out, items)
    await out.aclose()
    for worker in workers:
        worker.cancel()
    return measured


async def anyio_chain(items: int) -> Measured:
    """What one writes by hand on anyio."""
    streams = [anyio.create_memory_object_stream[int](100) for _ in range(len(STEPS) + 1)]
    entry, exit = streams[0][0], streams[-1][1]

    async def work(
        step: Step, inlet: MemoryObjectReceiveStream[int], outlet: MemoryObjectSendStream[int]
    ) -> None:
        with inlet, outlet:
            async for number in inlet:
                await outlet.send(await step(number))

    async with anyio.create_task_group() as tasks:
        for index, step in enumerate(STEPS):
            tasks.start_soon(work, step, streams[index][1], streams[index + 1][0])
        with entry, exit:
            measured = await measure(entry.send, aiter(exit), items)
    return measured


WORKLOAD = Workload(
    name="load",
    what="items sent at 10,000 a second through three async stages, latency from when each was due",
    items=20_000,
    quick_items=5_000,
    expected=after_three,
    figures=(P50, P99),
    programs=(
        Program("flowstage", flowstage_run, needs=("flowstage",)),
        Program("asyncio.Queue chain", queue_chain, loop="asyncio"),
        Program("anyio streams by hand", anyio_chain),
    ),
    targets=(Target(1.5, peer="asyncio.Queue chain", figure="p50"),),
)
