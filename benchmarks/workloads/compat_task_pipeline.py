"""``thread3`` written for async-task-pipeline, run by it and by the module that takes its place."""

from benchmarks.functions import after_three
from benchmarks.model import Program, Target, Workload
from benchmarks.workloads.thread3 import async_task_pipeline, task_pipeline


async def flowstage_compat(items: int) -> list[int]:
    """The same program with another import."""
    from flowstage.compat.async_task_pipeline import AsyncTaskPipeline

    return await task_pipeline(AsyncTaskPipeline, items)


WORKLOAD = Workload(
    name="compat.async_task_pipeline",
    what="thread3 written for async-task-pipeline",
    items=20_000,
    quick_items=2_000,
    expected=after_three,
    programs=(
        Program(
            "flowstage",
            flowstage_compat,
            needs=("flowstage", "flowstage.compat.async_task_pipeline"),
            loop="asyncio",
        ),
        Program(
            "async-task-pipeline",
            async_task_pipeline,
            needs=("async_task_pipeline",),
            loop="asyncio",
            share=0.5,
        ),
    ),
    targets=(Target(0.1, peer="async-task-pipeline"),),
)
