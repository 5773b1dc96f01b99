"""A chain of a hundred stages against one of ten: a hop must cost the same in both."""

from functools import partial
from time import perf_counter
from typing import Any

from benchmarks.functions import plus_one, plus_one_async
from benchmarks.model import Figure, Measured, Program, Target, Workload, WrongResult
from benchmarks.workloads.async3 import queue_hops

HOP = Figure("hop", "µs a hop")
SHORT, LONG = 10, 100


async def flowstage_chain(stages: int, step: Any, hops: int) -> Measured:
    """flowstage: a chain of that many stages, and as many items as make that many hops."""
    from flowstage import source

    items = hops // stages
    flow = source(range(items))
    for _ in range(stages):
        flow = flow.map(step)
    start = perf_counter()
    results = await flow.collect()
    return _per_hop(start, stages, items, results)


async def queue_chain(stages: int, hops: int) -> Measured:
    """The ``asyncio.Queue`` chain, as long."""
    items = hops // stages
    start = perf_counter()
    results = await queue_hops([plus_one_async] * stages, items)
    return _per_hop(start, stages, items, results)


def _per_hop(start: float, stages: int, items: int, results: list[int]) -> Measured:
    elapsed = perf_counter() - start
    if results != list(range(stages, items + stages)):
        raise WrongResult(f"{len(results):,} results, not the {items:,} right ones")
    return Measured({HOP.name: elapsed * 1e6 / (items * stages)})


def _programs(stages: int) -> tuple[Program, ...]:
    return (
        Program(
            f"flowstage, {stages} async stages",
            partial(flowstage_chain, stages, plus_one_async),
            needs=("flowstage",),
        ),
        Program(
            f"flowstage, {stages} inline stages",
            partial(flowstage_chain, stages, plus_one),
            needs=("flowstage",),
        ),
        Program(
            f"asyncio.Queue chain, {stages} stages",
            partial(queue_chain, stages),
            loop="asyncio",
        ),
    )


WORKLOAD = Workload(
    name="depth",
    what="a chain of 100 stages against one of 10; items times stages are the same",
    items=500_000,
    quick_items=100_000,
    warm_up=2_000,
    figures=(HOP,),
    programs=(*_programs(LONG), *_programs(SHORT)),
    targets=tuple(
        Target(
            1.2,
            subject=f"flowstage, {LONG} {kind} stages",
            peer=f"flowstage, {SHORT} {kind} stages",
            figure=HOP.name,
        )
        for kind in ("async", "inline")
    ),
)
