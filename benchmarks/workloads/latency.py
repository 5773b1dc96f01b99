"""One item at a time through three async stages: what a caller waits for."""

from time import perf_counter

from benchmarks.functions import after_three
from benchmarks.model import Figure, Measured, Target, Workload
from benchmarks.open_chains import Ends, programs

P50 = Figure("p50", "µs, median of the items")
P99 = Figure("p99", "µs, 99th percentile of the items")


async def one_by_one(ends: Ends, items: int) -> Measured:
    """Send the items one at a time, each when the last has come out."""
    send, receive = ends
    times, results = [], []
    for number in range(items):
        start = perf_counter()
        await send(number)
        results.append(await receive())
        times.append(perf_counter() - start)
    times.sort()
    figures = {"p50": times[items // 2] * 1e6, "p99": times[items * 99 // 100] * 1e6}
    return Measured(figures, results)


WORKLOAD = Workload(
    name="latency",
    what="one item at a time through three async stages",
    items=5_000,
    quick_items=4_000,
    expected=after_three,
    figures=(P50, P99),
    programs=programs(one_by_one),
    targets=(
        Target(1.5, peer="asyncio.Queue chain", figure="p50"),
        Target(1.5, peer="asyncio.Queue chain", figure="p99"),
    ),
)
