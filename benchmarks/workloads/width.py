"""Ten thousand calls at once against a hundred: a call must not cost more for being one of many.

A call waits until as many calls have begun as may run at once, and then all go on: a wave. So the
calls really are at once, nothing sleeps, and the time that passes is what the calls cost. Both
widths make the same number of waves, so that what starting a worker costs, if there are workers,
is shared by as many calls.

The more is alive, the longer CPython's garbage collector looks through it, in whatever code: bare
tasks too cost about twice as much each by the ten thousand. The programs without collection show
what is left when that is taken away.
"""

import gc
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Any

import anyio

from benchmarks.model import Figure, Measured, Program, Target, Workload, WrongResult

CALL = Figure("call", "µs a call")
FEW, MANY = 100, 10_000


def wave(width: int) -> Callable[[int], Awaitable[int]]:
    """An async function whose calls go on by the ``width``."""
    begun = 0
    full = anyio.Event()

    async def wait_for_all(number: int) -> int:
        nonlocal begun, full
        begun += 1
        mine = full
        if begun % width == 0:
            full = anyio.Event()
            mine.set()
        await mine.wait()
        return number

    return wait_for_all


async def flowstage_collect(width: int, items: int) -> list[int]:
    """flowstage."""
    from flowstage import source

    return await source(range(items)).map(wave(width), concurrency=width).collect()


async def flowstage_unordered(width: int, items: int) -> list[int]:
    """flowstage, results as they finish."""
    from flowstage import source

    results = source(range(items)).map(wave(width), concurrency=width, ordered=False)
    return sorted(await results.collect())


async def bare_tasks(width: int, items: int) -> list[int]:
    """As many tasks that take numbers from one iterator: the least there is to do."""
    results = [-1] * items
    numbers = iter(range(items))
    call = wave(width)

    async def work() -> None:
        for number in numbers:
            results[number] = await call(number)

    async with anyio.create_task_group() as tasks:
        for _ in range(width):
            tasks.start_soon(work)
    return results


async def uncollected(
    way: Callable[[int, int], Awaitable[list[int]]], width: int, items: int
) -> list[int]:
    """The same without garbage collection."""
    gc.disable()
    try:
        return await way(width, items)
    finally:
        gc.enable()


async def in_waves(way: Callable[[int, int], Awaitable[Any]], width: int, waves: int) -> Measured:
    """What a call costs; the narrow one is repeated, for it is over too soon to be timed once."""
    times = max(1, MANY // width // 5)
    items = width * waves
    start = perf_counter()
    for _ in range(times):
        if await way(width, items) != list(range(items)):
            raise WrongResult(f"not the {items:,} right results")
    return Measured({CALL.name: (perf_counter() - start) * 1e6 / (items * times)})


def _programs(width: int) -> tuple[Program, ...]:
    ways = (
        (f"flowstage, {width:,} at once", flowstage_collect),
        (f"flowstage, {width:,} at once, unordered", flowstage_unordered),
        (f"flowstage, {width:,} at once, no gc", partial(uncollected, flowstage_collect)),
        (f"{width:,} bare tasks", bare_tasks),
        (f"{width:,} bare tasks, no gc", partial(uncollected, bare_tasks)),
    )
    return tuple(
        Program(
            name,
            partial(in_waves, way, width),
            needs=("flowstage",) if name.startswith("flowstage") else (),
        )
        for name, way in ways
    )


WORKLOAD = Workload(
    name="width",
    what="10,000 calls at once against 100, each waiting for the others; items are calls a slot",
    items=10,
    quick_items=3,
    warm_up=1,
    figures=(CALL,),
    programs=(*_programs(MANY), *_programs(FEW)),
    targets=tuple(
        Target(
            1.5,
            subject=f"flowstage, {MANY:,} at once{order}",
            peer=f"flowstage, {FEW:,} at once{order}",
            figure=CALL.name,
        )
        for order in ("", ", unordered")
    ),
)
