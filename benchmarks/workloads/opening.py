"""A graph of a thousand stages: writing it, opening it, one item through it, leaving it."""

from functools import partial
from time import perf_counter
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from benchmarks.functions import plus_one, plus_one_async
from benchmarks.model import Figure, Measured, Program, Target, Workload, WrongResult

BUILD = Figure("build", "µs a stage, written")
OPEN = Figure("open", "µs a stage, opened")
READY = Figure("ready", "µs a stage, written and opened")
FIRST = Figure("first", "µs a stage, one item through it")
LEAVE = Figure("leave", "µs a stage, left")


async def flowstage_open(step: Any, stages: int) -> Measured:
    """flowstage: a chain of that many stages."""
    from flowstage import Input

    start = perf_counter()
    numbers = Input[int]("numbers")
    flow = numbers.map(step)
    for _ in range(stages - 1):
        flow = flow.map(step)
    built = perf_counter()
    async with flow.open() as run:
        opened = perf_counter()
        await run.send(0)
        result = await anext(aiter(run))
        through = perf_counter()
    return _measured(stages, result, start, built, opened, through)


async def bare_tasks(stages: int) -> Measured:
    """As many anyio streams and tasks: the least there is to open."""

    async def work(
        inlet: MemoryObjectReceiveStream[int], outlet: MemoryObjectSendStream[int]
    ) -> None:
        with inlet, outlet:
            async for number in inlet:
                await outlet.send(number + 1)

    start = perf_counter()
    streams = [anyio.create_memory_object_stream[int](100) for _ in range(stages + 1)]
    built = perf_counter()
    async with anyio.create_task_group() as tasks:
        for index in range(stages):
            tasks.start_soon(work, streams[index][1], streams[index + 1][0])
        with streams[0][0] as entry, streams[-1][1] as exit:
            opened = perf_counter()
            await entry.send(0)
            result = await exit.receive()
            through = perf_counter()
    return _measured(stages, result, start, built, opened, through)


def _measured(stages: int, result: int, *moments: float) -> Measured:
    if result != stages:
        raise WrongResult(f"{result!r}, not {stages}")
    ends = [*moments[1:], perf_counter()]
    parts = zip((BUILD, OPEN, FIRST, LEAVE), moments, ends, strict=True)
    took = {part.name: (end - begin) * 1e6 / stages for part, begin, end in parts}
    return Measured({**took, READY.name: took[BUILD.name] + took[OPEN.name]})


WORKLOAD = Workload(
    name="opening",
    what="a graph of 1,000 stages written, opened, used once and left; items are stages",
    items=1_000,
    quick_items=1_000,
    warm_up=10,
    figures=(BUILD, OPEN, READY, FIRST, LEAVE),
    programs=(
        Program(
            "flowstage, async stages",
            partial(flowstage_open, plus_one_async),
            needs=("flowstage",),
        ),
        Program(
            "flowstage, inline stages", partial(flowstage_open, plus_one), needs=("flowstage",)
        ),
        Program("bare tasks and streams", bare_tasks),
    ),
    targets=tuple(  # half a second for a graph of a thousand stages
        Target(500.0, subject=f"flowstage, {kind} stages", figure=READY.name, relation="value")
        for kind in ("async", "inline")
    ),
)
