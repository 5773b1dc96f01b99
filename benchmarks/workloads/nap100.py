"""One async stage that sleeps, a hundred calls at once: what concurrency costs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio

from benchmarks.model import SECONDS, Program, Target, Workload

NAP = 0.01
"""Seconds a call sleeps."""
CALLS = 100
"""Calls at once."""
END: Any = object()


async def nap(number: int) -> int:
    """Sleep, then give the number back."""
    await anyio.sleep(NAP)
    return number


async def flowstage_collect(items: int) -> list[int]:
    """flowstage."""
    from flowstage import source

    return await source(range(items)).map(nap, concurrency=CALLS).collect()


async def bare_tasks(items: int) -> list[int]:
    """A hundred tasks that take numbers from one iterator: the least there is to do."""
    results = [-1] * items
    numbers = iter(range(items))

    async def work() -> None:
        for number in numbers:
            results[number] = await nap(number)

    async with anyio.create_task_group() as tasks:
        for _ in range(CALLS):
            tasks.start_soon(work)
    return results


async def queue_workers(items: int) -> list[int]:
    """What one writes by hand on asyncio: a queue in, a hundred workers, a queue out."""
    inbox: asyncio.Queue[int] = asyncio.Queue(100)
    outbox: asyncio.Queue[int] = asyncio.Queue(100)

    async def feed() -> None:
        for number in range(items):
            await inbox.put(number)
        for _ in range(CALLS):
            await inbox.put(END)

    async def work() -> None:
        while (number := await inbox.get()) is not END:
            await outbox.put(await nap(number))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed())
        for _ in range(CALLS):
            tasks.create_task(work())
        return [await outbox.get() for _ in range(items)]


async def pyper_tasks(items: int) -> list[int]:
    """pyper with a hundred workers."""
    from pyper import task

    async def numbers() -> AsyncIterator[int]:
        for number in range(items):
            yield number

    results = task(numbers, branch=True, throttle=100) | task(nap, workers=CALLS, throttle=100)
    return [result async for result in results()]


async def streamable_map(items: int) -> list[int]:
    """streamable."""
    from streamable import stream

    return [result async for result in stream(range(items)).map(nap, concurrency=CALLS)]


async def aiostream_map(items: int) -> list[int]:
    """aiostream."""
    from aiostream import pipe, stream

    results = stream.iterate(range(items)) | pipe.map(nap, task_limit=CALLS)
    async with results.stream() as streamer:
        return [result async for result in streamer]


async def pypeln_tasks(items: int) -> list[int]:
    """pypeln with a hundred workers."""
    import pypeln

    stage = pypeln.task.map(nap, range(items), workers=CALLS, maxsize=100)
    return [result async for result in stage]


def spdl_pipeline(items: int) -> list[int]:
    """SPDL."""
    from spdl.pipeline import PipelineBuilder

    pipeline = (
        PipelineBuilder()
        .add_source(range(items))
        .pipe(nap, concurrency=CALLS, output_order="input")
        .add_sink(100)
        .build(num_threads=1)
    )
    with pipeline.auto_stop():
        return list(pipeline)


WORKLOAD = Workload(
    name="nap100",
    what="one async stage sleeping 10 ms, 100 calls at once",
    items=5_000,
    quick_items=2_000,
    expected=lambda items: list(range(items)),
    figures=(SECONDS,),
    programs=(
        Program("flowstage", flowstage_collect, needs=("flowstage",)),
        Program("100 bare tasks", bare_tasks),
        Program("asyncio.Queue workers", queue_workers, loop="asyncio", ordered=False),
        Program("pyper", pyper_tasks, needs=("pyper",), loop="asyncio", ordered=False),
        Program("streamable", streamable_map, needs=("streamable",), loop="asyncio"),
        Program("aiostream", aiostream_map, needs=("aiostream",), loop="asyncio"),
        Program("pypeln", pypeln_tasks, needs=("pypeln",), loop="asyncio", ordered=False),
        Program("SPDL", spdl_pipeline, needs=("spdl.pipeline",), loop="none"),
    ),
    targets=(Target(1.03, peer="100 bare tasks"),),
)
