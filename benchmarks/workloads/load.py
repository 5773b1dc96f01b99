"""Items that come at a rate, whether or not the last one is out: latency under load.

The latency of an item is counted from when it was due, not from when it was sent, so that a program
that falls behind does not look good for sending late (Gil Tene's "coordinated omission").
"""

from collections.abc import Awaitable, Callable
from time import perf_counter

import anyio

from benchmarks.functions import after_three
from benchmarks.model import Figure, Measured, Target, Workload
from benchmarks.open_chains import Ends, programs

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


async def measure(ends: Ends, items: int) -> Measured:
    """Send and read at once, and see how long after its time each item has come out."""
    came: list[float] = []
    values: list[int] = []
    start = 0.0

    async def feed() -> None:
        nonlocal start
        start = await in_time(ends.send, items)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed)
        while len(values) < items:
            values.append(await ends.receive())
            came.append(perf_counter())
    late = sorted(moment - start - number / RATE for number, moment in enumerate(came))
    figures = {"p50": late[items // 2] * 1e6, "p99": late[items * 99 // 100] * 1e6}
    return Measured(figures, values)


WORKLOAD = Workload(
    name="load",
    what="items sent at 10,000 a second through three async stages, latency from when each was due",
    items=20_000,
    quick_items=5_000,
    expected=after_three,
    figures=(P50, P99),
    programs=programs(measure),
    targets=(Target(1.5, peer="asyncio.Queue chain", figure="p50"),),
)
