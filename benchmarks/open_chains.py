"""Three async stages that stay open, to send to and to read from as one likes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from benchmarks.functions import (
    STEPS,
    Step,
    double_async,
    minus_three_async,
    plus_one_async,
)
from benchmarks.model import Measured, Program


class Ends(NamedTuple):
    """How to send to a chain, and how to wait for what comes out of it."""

    send: Callable[[int], Awaitable[None]]
    receive: Callable[[], Awaitable[int]]


Measure = Callable[[Ends, int], Awaitable[Measured]]


@asynccontextmanager
async def flowstage_run() -> AsyncGenerator[Ends]:
    """flowstage: one open run."""
    from flowstage import Input

    numbers = Input[int]("numbers")
    flow = numbers.map(plus_one_async).map(double_async).map(minus_three_async)
    async with flow.open() as run:
        yield Ends(run.send, aiter(run).__anext__)


@asynccontextmanager
async def queue_chain() -> AsyncGenerator[Ends]:
    """What one writes by hand on asyncio."""
    queues: list[asyncio.Queue[int]] = [asyncio.Queue(100) for _ in range(len(STEPS) + 1)]

    async def work(step: Step, inbox: asyncio.Queue[int], outbox: asyncio.Queue[int]) -> None:
        while True:
            await outbox.put(await step(await inbox.get()))

    workers = [
        asyncio.create_task(work(step, queues[index], queues[index + 1]))
        for index, step in enumerate(STEPS)
    ]
    yield Ends(queues[0].put, queues[-1].get)
    for worker in workers:
        worker.cancel()


async def anyio_stage(
    step: Step, inlet: MemoryObjectReceiveStream[int], outlet: MemoryObjectSendStream[int]
) -> None:
    """One stage as one writes it by hand on anyio: ``async for`` and ``await send``."""
    with inlet, outlet:
        async for number in inlet:
            await outlet.send(await step(number))


@asynccontextmanager
async def anyio_chain() -> AsyncGenerator[Ends]:
    """What one writes by hand on anyio."""
    streams = [anyio.create_memory_object_stream[int](100) for _ in range(len(STEPS) + 1)]
    entry, exit = streams[0][0], streams[-1][1]

    async with anyio.create_task_group() as tasks:
        for index, step in enumerate(STEPS):
            tasks.start_soon(anyio_stage, step, streams[index][1], streams[index + 1][0])
        with entry, exit:
            yield Ends(entry.send, exit.receive)


def programs(measure: Measure) -> tuple[Program, ...]:
    """Give what measures each of the chains in the same way."""

    async def flowstage(items: int) -> Measured:
        async with flowstage_run() as ends:
            return await measure(ends, items)

    async def queues(items: int) -> Measured:
        async with queue_chain() as ends:
            return await measure(ends, items)

    async def streams(items: int) -> Measured:
        async with anyio_chain() as ends:
            return await measure(ends, items)

    return (
        Program("flowstage", flowstage, needs=("flowstage",)),
        Program("asyncio.Queue chain", queues, loop="asyncio"),
        Program("anyio streams by hand", streams),
    )
