"""Three trivial async functions, each its own concurrent stage: the cost of a hop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import chain
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from benchmarks.functions import (
    STEPS,
    Step,
    after_three,
    double_async,
    minus_three_async,
    plus_one_async,
)
from benchmarks.model import Program, Target, Workload
from benchmarks.open_chains import anyio_stage

END: Any = object()


async def flowstage_collect(items: int) -> list[int]:
    """flowstage, all results at once."""
    from flowstage import source

    numbers = source(range(items))
    results = numbers.map(plus_one_async).map(double_async).map(minus_three_async)
    return await results.collect()


async def flowstage_for(items: int) -> list[int]:
    """flowstage, read with ``async for``."""
    from flowstage import source

    numbers = source(range(items))
    results = numbers.map(plus_one_async).map(double_async).map(minus_three_async)
    async with results.open() as run:
        return [result async for result in run]


async def queue_chain(items: int) -> list[int]:
    """What one writes by hand on asyncio: a task a stage, ``asyncio.Queue(100)`` between them."""
    return await queue_hops(STEPS, items)


async def queue_hops(steps: Sequence[Step], items: int) -> list[int]:
    """The queue chain for any steps."""
    queues: list[asyncio.Queue[int]] = [asyncio.Queue(100) for _ in range(len(steps) + 1)]

    async def feed() -> None:
        for number in range(items):
            await queues[0].put(number)
        await queues[0].put(END)

    async def work(step: Step, inbox: asyncio.Queue[int], outbox: asyncio.Queue[int]) -> None:
        while (number := await inbox.get()) is not END:
            await outbox.put(await step(number))
        await outbox.put(END)

    results = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed())
        for index, step in enumerate(steps):
            tasks.create_task(work(step, queues[index], queues[index + 1]))
        while (result := await queues[-1].get()) is not END:
            results.append(result)
    return results


async def anyio_chain(items: int) -> list[int]:
    """What one writes by hand on anyio: ``await send`` and ``async for``."""
    streams = [anyio.create_memory_object_stream[int](100) for _ in range(len(STEPS) + 1)]

    async def feed(outlet: MemoryObjectSendStream[int]) -> None:
        with outlet:
            for number in range(items):
                await outlet.send(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed, streams[0][0])
        for index, step in enumerate(STEPS):
            tasks.start_soon(anyio_stage, step, streams[index][1], streams[index + 1][0])
        with streams[-1][1] as inlet:
            results = [result async for result in inlet]
    return results


async def bare_streams(size: int, items: int) -> list[int]:
    """anyio streams, waiting only where it would block: hops without any accounting."""
    streams = [anyio.create_memory_object_stream[int](size) for _ in range(len(STEPS) + 1)]

    async def feed(outlet: MemoryObjectSendStream[int]) -> None:
        for number in chain(range(items), (END,)):
            try:
                outlet.send_nowait(number)
            except anyio.WouldBlock:
                await outlet.send(number)

    async def work(
        step: Step, inlet: MemoryObjectReceiveStream[int], outlet: MemoryObjectSendStream[int]
    ) -> None:
        while True:
            try:
                number = inlet.receive_nowait()
            except anyio.WouldBlock:
                number = await inlet.receive()
            result = number if number is END else await step(number)
            try:
                outlet.send_nowait(result)
            except anyio.WouldBlock:
                await outlet.send(result)
            if number is END:
                return

    results: list[int] = []
    async with AsyncExitStack() as stack:
        for outlet, inlet in streams:
            stack.enter_context(outlet)
            stack.enter_context(inlet)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(feed, streams[0][0])
        for index, step in enumerate(STEPS):
            tasks.start_soon(work, step, streams[index][1], streams[index + 1][0])
        while True:
            try:
                result = streams[-1][1].receive_nowait()
            except anyio.WouldBlock:
                result = await streams[-1][1].receive()
            if result is END:
                break
            results.append(result)
    return results


async def buffered_pipeline_chain(size: int, items: int) -> list[int]:
    """asyncio-buffered-pipeline: chained generators, each buffered."""
    from asyncio_buffered_pipeline import buffered_pipeline

    return [result async for result in buffered_chain(buffered_pipeline(), size, items)]


def buffered_chain(
    buffer_iterable: Callable[..., Any], size: int, items: int
) -> AsyncIterator[int]:
    """The steps as generators, chained through what ``buffered_pipeline()`` gave."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(items):
            yield number

    async def through(step: Step, upstream: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in upstream:
            yield await step(number)

    flow: AsyncIterator[int] = buffer_iterable(numbers(), buffer_size=size)
    for step in STEPS:
        flow = buffer_iterable(through(step, flow), buffer_size=size)
    return flow


async def streamable_buffers(items: int) -> list[int]:
    """streamable, with a buffer after each step to make it a task of its own."""
    from streamable import stream

    results = (
        stream(range(items))
        .map(plus_one_async)
        .buffer(100)
        .map(double_async)
        .buffer(100)
        .map(minus_three_async)
        .buffer(100)
    )
    return [result async for result in results]


async def pyper_tasks(items: int) -> list[int]:
    """pyper, a task for every async function."""
    from pyper import task

    async def numbers() -> AsyncIterator[int]:
        for number in range(items):
            yield number

    results = (
        task(numbers, branch=True, throttle=100)
        | task(plus_one_async, throttle=100)
        | task(double_async, throttle=100)
        | task(minus_three_async, throttle=100)
    )
    return [result async for result in results()]


async def aiostream_list(items: int) -> list[int]:
    """aiostream, one call of each step at a time."""
    from aiostream import pipe, stream

    results = (
        stream.iterate(range(items))
        | pipe.map(plus_one_async, task_limit=1)
        | pipe.map(double_async, task_limit=1)
        | pipe.map(minus_three_async, task_limit=1)
    )
    async with results.stream() as streamer:
        return [result async for result in streamer]


async def pypeln_tasks(items: int) -> list[int]:
    """pypeln's task stages, one worker each."""
    import pypeln

    stage = pypeln.task.map(plus_one_async, range(items), workers=1, maxsize=100)
    stage = pypeln.task.map(double_async, stage, workers=1, maxsize=100)
    stage = pypeln.task.map(minus_three_async, stage, workers=1, maxsize=100)
    return [result async for result in stage]


def spdl_pipeline(items: int) -> list[int]:
    """SPDL, whose event loop runs in a thread of its own."""
    from spdl.pipeline import PipelineBuilder

    pipeline = (
        PipelineBuilder()
        .add_source(range(items))
        .pipe(plus_one_async)
        .pipe(double_async)
        .pipe(minus_three_async)
        .add_sink(100)
        .build(num_threads=1)
    )
    with pipeline.auto_stop():
        return list(pipeline)


async def slurry_sections(items: int) -> list[int]:
    """slurry, whose own ``Map`` takes plain functions, hence a section written for the purpose."""
    from slurry import Pipeline
    from slurry.environments import TrioSection

    class MapAsync(TrioSection):  # type: ignore[misc]  # slurry has no types
        """Awaits a step for each item."""

        def __init__(self, step: Step) -> None:
            self.step = step

        async def refine(self, input: Any, output: Any) -> None:
            async for number in input:
                await output(await self.step(number))

    async def numbers() -> AsyncIterator[int]:
        for number in range(items):
            yield number

    async with (
        Pipeline.create(numbers(), *(MapAsync(step) for step in STEPS)) as pipeline,
        pipeline.tap(max_buffer_size=100) as tap,
    ):
        return [result async for result in tap]


WORKLOAD = Workload(
    name="async3",
    what="three trivial async functions, each its own concurrent stage",
    items=100_000,
    quick_items=10_000,
    expected=after_three,
    programs=(
        Program("flowstage", flowstage_collect, needs=("flowstage",)),
        Program("flowstage, async for", flowstage_for, needs=("flowstage",)),
        Program("asyncio.Queue chain", queue_chain, loop="asyncio"),
        Program("bare anyio streams, 100", partial(bare_streams, 100)),
        Program("bare anyio streams, 16", partial(bare_streams, 16)),
        Program("anyio streams by hand", anyio_chain, share=0.2),
        Program(
            "asyncio-buffered-pipeline",
            partial(buffered_pipeline_chain, 100),
            needs=("asyncio_buffered_pipeline",),
            loop="asyncio",
        ),
        Program("streamable", streamable_buffers, needs=("streamable",), loop="asyncio", share=0.4),
        Program("pyper", pyper_tasks, needs=("pyper",), loop="asyncio", share=0.4),
        Program("aiostream", aiostream_list, needs=("aiostream",), loop="asyncio", share=0.4),
        Program(  # pypeln promises no order, and with one worker it still loses it now and then
            "pypeln", pypeln_tasks, needs=("pypeln",), loop="asyncio", share=0.1, ordered=False
        ),
        Program("SPDL", spdl_pipeline, needs=("spdl.pipeline",), loop="none", share=0.03),
        Program("slurry", slurry_sections, needs=("slurry",), loop="trio", share=0.1),
    ),
    targets=(
        Target(0.6, peer="asyncio.Queue chain", backends=("asyncio",)),
        Target(0.8, peer="asyncio.Queue chain", backends=("trio",)),
    ),
)
