"""Programs written for asyncio-buffered-pipeline: its page's generators, and a trivial chain."""

from functools import partial

from benchmarks.functions import after_three
from benchmarks.model import SECONDS, Program, Target, Workload
from benchmarks.workloads.async3 import buffered_chain
from benchmarks.workloads.async3 import buffered_pipeline_chain as trivial_chain
from benchmarks.workloads.gens import after_gens, bare_sleeps
from benchmarks.workloads.gens import buffered_chain as sleeping_chain
from benchmarks.workloads.gens import buffered_pipeline_chain as page_chain

OURS = ("flowstage", "flowstage.compat.buffered_pipeline")
THEIRS = ("asyncio_buffered_pipeline",)


async def flowstage_gens(items: int) -> list[int]:
    """The page's program with another import."""
    from flowstage.compat.buffered_pipeline import buffered_pipeline

    return await sleeping_chain(buffered_pipeline, items)


async def flowstage_chain(size: int, items: int) -> list[int]:
    """The trivial chain with another import."""
    from flowstage.compat.buffered_pipeline import buffered_pipeline

    return [result async for result in buffered_chain(buffered_pipeline(), size, items)]


GENS = Workload(
    name="compat.buffered_pipeline",
    what="the generators of asyncio-buffered-pipeline's page, each sleeping 10 ms a value",
    items=60,
    quick_items=30,
    warm_up=3,
    expected=after_gens,
    figures=(SECONDS,),
    programs=(
        Program("flowstage", flowstage_gens, needs=OURS),
        Program("asyncio-buffered-pipeline", page_chain, needs=THEIRS, loop="asyncio"),
        Program("the same sleeps bare", bare_sleeps),
    ),
    targets=(
        # Not behind it; a hundredth is how far two runs of the same sleeps lie apart.
        Target(1.01, peer="asyncio-buffered-pipeline"),
        Target(1.02, peer="the same sleeps bare"),
    ),
)

CHAIN = Workload(
    name="compat.buffered_chain",
    what="async3 written for asyncio-buffered-pipeline, buffers of 1 (its default) and 100",
    items=50_000,
    quick_items=5_000,
    expected=after_three,
    programs=tuple(
        program
        for size in (1, 100)
        for program in (
            Program(f"flowstage, {size}", partial(flowstage_chain, size), needs=OURS),
            Program(
                f"asyncio-buffered-pipeline, {size}",
                partial(trivial_chain, size),
                needs=THEIRS,
                loop="asyncio",
            ),
        )
    ),
    targets=tuple(
        Target(1.0, subject=f"flowstage, {size}", peer=f"asyncio-buffered-pipeline, {size}")
        for size in (1, 100)
    ),
)
