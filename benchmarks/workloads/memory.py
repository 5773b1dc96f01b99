"""A million items through five stages against ten thousand: memory must not grow with the run.

Each measurement is a process of its own, since the peak of a process never comes down again::

    python -m benchmarks.workloads.memory flowstage|generators ITEMS BACKEND rss|traced
"""

import sys
import tracemalloc
from functools import partial
from pathlib import Path

import anyio

from benchmarks.checkout import environment, use_checkout
from benchmarks.functions import plus_one, plus_one_async
from benchmarks.measure import current_backend, run_on
from benchmarks.model import BACKENDS, Figure, Measured, Program, Target, Workload, WrongResult

RSS = Figure("rss", "MB, peak resident memory")
TRACED = Figure("traced", "MB, peak of Python's own allocations")
FEW = 10_000
GROWTH = 10.0
"""Megabytes that a million items may take more than ``FEW``."""


def keep(number: int) -> bool:
    """Three of four."""
    return number % 4 != 0


def whole(batch: list[int]) -> list[int]:
    """The items of a batch."""
    return batch


async def five_stages(items: int) -> int:
    """The graph measured: inline, async, filtered, batched, flattened; gives the sum of it all."""
    from flowstage import source

    numbers = source(range(items)).map(plus_one).map(plus_one_async).filter(keep)
    total = 0
    async with numbers.batch(10).flat_map(whole).open() as run:
        async for number in run:
            total += number
    return total


async def generator(items: int) -> int:
    """The same sum by one generator, which holds one item: the least there is to hold."""
    total = 0
    async for number in (await plus_one_async(plus_one(one)) for one in range(items)):
        if keep(number):
            total += number
    return total


GRAPHS = {"flowstage": five_stages, "generator": generator}


def probe(graph: str, items: int, backend: str, how: str) -> float:
    """Run the graph here, in a process made for it, and give the peak in megabytes."""
    wanted = next(one for one in BACKENDS if one == backend)
    if how == "traced":
        run_on(wanted, GRAPHS[graph], 100)  # what is made once is not what is asked
        tracemalloc.start()
    total = run_on(wanted, GRAPHS[graph], items)
    right = sum(number for number in range(2, items + 2) if keep(number))
    if total != right:
        raise WrongResult(f"the sum is {total:,}, not {right:,}")
    if how == "traced":
        return tracemalloc.get_traced_memory()[1] / 1e6
    return resident_peak()


def resident_peak() -> float:
    """The peak of this process in megabytes.

    On Linux ``ru_maxrss`` begins at the peak of the process that started this one, so the kernel's
    own account of this program's memory is read instead.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # macOS counts bytes


async def in_processes(graph: str, only: int | None, items: int) -> Measured:
    """Both peaks of a graph, each in a process of its own; ``only`` replaces the items."""
    figures = {}
    for how in (RSS.name, TRACED.name):
        command = [sys.executable, "-m", __name__, graph, str(only or items)]
        done = await anyio.run_process(
            [*command, current_backend(), how], env=environment(), check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.decode().strip().splitlines()[-1])
        figures[how] = float(done.stdout)
    return Measured(figures)


WORKLOAD = Workload(
    name="memory",
    what="peak memory of a five-stage graph, all items against 10,000",
    items=1_000_000,
    quick_items=100_000,
    warm_up=0,
    most_rounds=1,
    limit=600.0,
    figures=(RSS, TRACED),
    programs=(
        Program("flowstage", partial(in_processes, "flowstage", None), needs=("flowstage",)),
        Program(
            "flowstage, 10,000 items",
            partial(in_processes, "flowstage", FEW),
            needs=("flowstage",),
        ),
        Program("one generator", partial(in_processes, "generator", None)),
        Program("one generator, 10,000 items", partial(in_processes, "generator", FEW)),
    ),
    targets=tuple(
        Target(GROWTH, peer="flowstage, 10,000 items", figure=figure, relation="difference")
        for figure in (RSS.name, TRACED.name)
    ),
)


if __name__ == "__main__":
    use_checkout()
    print(probe(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
