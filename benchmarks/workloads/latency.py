"""One item at a time through three async stages: what a caller waits for."""

import asyncio
from collections.abc import Awaitable, Callable
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

P50 = Figure("p50", "µs, median of the items")
P99 = Figure("p99", "µs, 99th percentile of the items")


async def timed_one_by_one(through: Callable[[int], Awaitable[int]], items: int) -> Measured:
    """Send the items one at a time, each when the last has come out."""
    times, results = [], []
    for number in range(items):
        start = perf_counter()
        results.append(await through(number))
        times.append(perf_counter() - start)
    times.sort()
    figures = {"p50": times[items // 2] * 1e6, "p99": times[items * 99 // 100] * 1e6}
    return Measured(figures, results)


async def flowstage_run(items: int) -> Measured:
    """flowstage: one open run, a send and a read for each item."""
    from flowstage import Input

    numbers = Input[int]("numbers")
    flow = numbers.map(plus_one_async).map(double_async).map(minus_three_async)
    async with flow.open() as run:
        results = aiter(run)

        async def through(number: int) -> int:
            await run.send(number)
            return await anext(results)

        return await timed_one_by_one(through, items)


async def queue_chain(items: int) -> Measured:
    """What one writes by hand on asyncio."""
    queues: list[asyncio.Queue[int]] = [asyncio.Queue(100) for _ in range(len(STEPS) + 1)]

    async def work(step: Step, inbox: asyncio.Queue[int], outbox: asyncio.Queue[int]) -> None:
        while True:
            await outbox.put(await step(await inbox.get()))

    async def through(number: int) -> int:
        await queues[0].put(number)
        return await queues[-1].get()

    workers = [
        asyncio.create_task(work(step, queues[index], queues[index + 1]))
        for index, step in enumerate(STEPS)
    ]
    measured = await timed_one_by_one(through, items)
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

    async def through(number: int) -> int:
        await entry.send(number)
        return await exit.receive()

    async with anyio.create_task_group() as tasks:
        for index, step in enumerate(STEPS):
            tasks.start_soon(work, step, streams[index][1], streams[index + 1][0])
        with entry, exit:
            measured = await timed_one_by_one(through, items)
    return measured


WORKLOAD = Workload(
    name="latency",
    what="one item at a time through three async stages",
    items=5_000,
    quick_items=1_000,
    expected=after_three,
    figures=(P50, P99),
    programs=(
        Program("flowstage", flowstage_run, needs=("flowstage",)),
        Program("asyncio.Queue chain", queue_chain, loop="asyncio"),
        Program("anyio streams by hand", anyio_chain),
    ),
    targets=(
        Target(1.5, peer="asyncio.Queue chain", figure="p50"),
        Target(1.5, peer="asyncio.Queue chain", figure="p99"),
    ),
)
