"""Three trivial plain functions, each in a thread of its own: what offloading costs."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from benchmarks.functions import after_three, double, minus_three, plus_one
from benchmarks.model import Program, Target, Workload

Step = Callable[[int], int]
STEPS: tuple[Step, ...] = (plus_one, double, minus_three)
END: Any = object()


async def flowstage_collect(items: int) -> list[int]:
    """flowstage."""
    from flowstage import Threads, source

    results = (
        source(range(items))
        .map(plus_one, on=Threads(1))
        .map(double, on=Threads(1))
        .map(minus_three, on=Threads(1))
    )
    return await results.collect()


def queue_threads(items: int) -> list[int]:
    """What one writes by hand without async: a thread a stage, ``queue.Queue(100)`` between."""
    queues: list[queue.Queue[int]] = [queue.Queue(100) for _ in range(len(STEPS) + 1)]

    def feed() -> None:
        for number in range(items):
            queues[0].put(number)
        queues[0].put(END)

    def work(step: Step, inbox: queue.Queue[int], outbox: queue.Queue[int]) -> None:
        while (number := inbox.get()) is not END:
            outbox.put(step(number))
        outbox.put(END)

    threads = [threading.Thread(target=feed)]
    for index, step in enumerate(STEPS):
        threads.append(threading.Thread(target=work, args=(step, queues[index], queues[index + 1])))
    for thread in threads:
        thread.start()
    results = []
    while (result := queues[-1].get()) is not END:
        results.append(result)
    for thread in threads:
        thread.join()
    return results


async def anyio_by_hand(items: int) -> list[int]:
    """What one writes by hand on anyio: streams, and ``to_thread.run_sync`` for each item."""
    streams = [anyio.create_memory_object_stream[int](100) for _ in range(len(STEPS) + 1)]

    async def feed(outlet: MemoryObjectSendStream[int]) -> None:
        with outlet:
            for number in range(items):
                await outlet.send(number)

    async def work(
        step: Step, inlet: MemoryObjectReceiveStream[int], outlet: MemoryObjectSendStream[int]
    ) -> None:
        with inlet, outlet:
            async for number in inlet:
                await outlet.send(await anyio.to_thread.run_sync(step, number))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed, streams[0][0])
        for index, step in enumerate(STEPS):
            tasks.start_soon(work, step, streams[index][1], streams[index + 1][0])
        with streams[-1][1] as inlet:
            results = [result async for result in inlet]
    return results


def _taken(inlet: MemoryObjectReceiveStream[int], first: int) -> list[int]:
    """The first item and all that wait behind it."""
    batch = [first]
    try:
        while True:
            batch.append(inlet.receive_nowait())
    except (anyio.WouldBlock, anyio.EndOfStream):
        return batch


async def _give(outlet: MemoryObjectSendStream[int], values: Iterable[int]) -> None:
    for value in values:
        try:
            outlet.send_nowait(value)
        except anyio.WouldBlock:
            await outlet.send(value)


async def bare_streams(size: int, items: int) -> list[int]:
    """anyio streams and one thread call for all that waits, without any accounting."""
    streams = [anyio.create_memory_object_stream[int](size) for _ in range(len(STEPS) + 1)]

    async def feed(outlet: MemoryObjectSendStream[int]) -> None:
        with outlet:
            await _give(outlet, range(items))

    async def work(
        step: Step, inlet: MemoryObjectReceiveStream[int], outlet: MemoryObjectSendStream[int]
    ) -> None:
        def whole(batch: list[int]) -> list[int]:
            return [step(number) for number in batch]

        with inlet, outlet:
            async for first in inlet:
                batch = _taken(inlet, first)
                await _give(outlet, await anyio.to_thread.run_sync(whole, batch))

    results: list[int] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed, streams[0][0])
        for index, step in enumerate(STEPS):
            tasks.start_soon(work, step, streams[index][1], streams[index + 1][0])
        with streams[-1][1] as inlet:
            async for first in inlet:
                results += _taken(inlet, first)
    return results


def pyper_threads(items: int) -> list[int]:
    """pyper, a thread for every plain function."""
    from pyper import task

    numbers = task(lambda: range(items), branch=True, throttle=100)
    results = (
        numbers
        | task(plus_one, throttle=100)
        | task(double, throttle=100)
        | task(minus_three, throttle=100)
    )
    return list(results())


def pypeln_threads(items: int) -> list[int]:
    """pypeln's thread stages, one worker each."""
    import pypeln

    stage = pypeln.thread.map(plus_one, range(items), workers=1, maxsize=100)
    stage = pypeln.thread.map(double, stage, workers=1, maxsize=100)
    stage = pypeln.thread.map(minus_three, stage, workers=1, maxsize=100)
    return list(stage)


def streamable_buffers(items: int) -> list[int]:
    """streamable, with a buffer after each step to make it a thread of its own."""
    from streamable import stream

    results = (
        stream(range(items))
        .map(plus_one)
        .buffer(100)
        .map(double)
        .buffer(100)
        .map(minus_three)
        .buffer(100)
    )
    return list(results)


def spdl_pipeline(items: int) -> list[int]:
    """SPDL, with a pool of three threads."""
    from spdl.pipeline import PipelineBuilder

    pipeline = (
        PipelineBuilder()
        .add_source(range(items))
        .pipe(plus_one)
        .pipe(double)
        .pipe(minus_three)
        .add_sink(100)
        .build(num_threads=3)
    )
    with pipeline.auto_stop():
        return list(pipeline)


async def task_pipeline(pipeline_type: Callable[..., Any], items: int) -> list[int]:
    """async-task-pipeline, or what takes its place: fed and read at once, then stopped."""
    pipeline = pipeline_type(max_queue_size=100)
    pipeline.add_stage("plus_one", plus_one)
    pipeline.add_stage("double", double)
    pipeline.add_stage("minus_three", minus_three)

    async def numbers() -> AsyncIterator[int]:
        for number in range(items):
            yield number

    results: list[int] = []
    await pipeline.start()
    feeding = asyncio.create_task(pipeline.process_input_stream(numbers()))
    async for result in pipeline.generate_output_stream():
        results.append(result)
        if len(results) == items:
            break
    await feeding
    await pipeline.stop()
    return results


async def async_task_pipeline(items: int) -> list[int]:
    """async-task-pipeline itself."""
    from async_task_pipeline import AsyncTaskPipeline

    return await task_pipeline(AsyncTaskPipeline, items)


async def slurry_threads(items: int) -> list[int]:
    """slurry's thread sections."""
    from slurry import Pipeline
    from slurry.environments import ThreadSection

    class MapThread(ThreadSection):  # type: ignore[misc]  # slurry has no types
        """Calls a step for each item, in a thread."""

        def __init__(self, step: Step) -> None:
            self.step = step

        def refine(self, input: Any, output: Any) -> None:
            for number in input:
                output(self.step(number))

    async def numbers() -> AsyncIterator[int]:
        for number in range(items):
            yield number

    async with (
        Pipeline.create(numbers(), *(MapThread(step) for step in STEPS)) as pipeline,
        pipeline.tap(max_buffer_size=100) as tap,
    ):
        return [result async for result in tap]


WORKLOAD = Workload(
    name="thread3",
    what="three trivial plain functions, each its own thread stage",
    items=60_000,
    quick_items=6_000,
    expected=after_three,
    programs=(
        Program("flowstage", flowstage_collect, needs=("flowstage",)),
        Program("pyper", pyper_threads, needs=("pyper",), loop="none"),
        Program("bare anyio streams, 100", partial(bare_streams, 100)),
        Program("bare anyio streams, 16", partial(bare_streams, 16)),
        Program("queue.Queue chain", queue_threads, loop="none"),
        Program("pypeln", pypeln_threads, needs=("pypeln",), loop="none", ordered=False),
        Program("streamable", streamable_buffers, needs=("streamable",), loop="none", share=0.2),
        Program(
            "async-task-pipeline",
            async_task_pipeline,
            needs=("async_task_pipeline",),
            loop="asyncio",
            share=0.1,
        ),
        Program("anyio by hand", anyio_by_hand, share=0.1),
        Program("SPDL", spdl_pipeline, needs=("spdl.pipeline",), loop="none", share=0.05),
        Program("slurry", slurry_threads, needs=("slurry",), loop="trio", share=0.05),
    ),
    targets=(Target(0.5, peer="pyper"),),
)
