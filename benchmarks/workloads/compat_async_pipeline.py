"""``async3`` written for async-pipeline: ``Pipeline.map``, in which an item runs as a whole.

async-pipeline needs a newer Python than flowstage. Where it cannot be imported a stand-in shows
what its page documents: a task for each item, a semaphore in front of the pipelines, the results
in a list made beforehand. It has no context, hooks or retries: the real one can only be slower.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from typing import Any

from benchmarks.functions import (
    after_three,
    double_async,
    minus_three_async,
    plus_one_async,
)
from benchmarks.model import Program, Target, Workload

CALLS = 100
"""Pipelines at once."""


class StandInStage:
    """A named step."""

    def __init__(self, name: str, handler: Callable[[Any], Any]) -> None:
        self.name = name
        self.handler = handler

    async def run(self, value: Any) -> Any:
        """One call of the step."""
        result = self.handler(value)
        return await result if isawaitable(result) else result


class StandInPipeline:
    """``Pipeline.map`` as async-pipeline's page describes its implementation."""

    def __init__(self, stages: Sequence[StandInStage]) -> None:
        self.stages = tuple(stages)

    async def run(self, value: Any) -> Any:
        """One item through all the stages."""
        for stage in self.stages:
            value = await stage.run(value)
        return value

    async def map(self, items: Sequence[Any], concurrency: int = 5) -> list[Any]:
        """All items, results in their order."""
        results: list[Any] = [None] * len(items)
        semaphore = asyncio.Semaphore(concurrency)

        async def work(index: int, item: Any) -> None:
            async with semaphore:
                results[index] = await self.run(item)

        async with asyncio.TaskGroup() as tasks:
            for index, item in enumerate(items):
                tasks.create_task(work(index, item))
        return results


def _map(pipeline_type: Any, stage_type: Any, items: int) -> Awaitable[list[int]]:
    pipeline = pipeline_type(
        [
            stage_type("plus_one", plus_one_async),
            stage_type("double", double_async),
            stage_type("minus_three", minus_three_async),
        ]
    )
    results: Awaitable[list[int]] = pipeline.map(list(range(items)), concurrency=CALLS)
    return results


async def flowstage_compat(items: int) -> list[int]:
    """flowstage's module of the same face."""
    from flowstage.compat.async_pipeline import Pipeline, Stage

    return await _map(Pipeline, Stage, items)


async def async_pipeline_map(items: int) -> list[int]:
    """async-pipeline itself."""
    from async_pipeline import Pipeline, Stage

    return await _map(Pipeline, Stage, items)


async def stand_in_map(items: int) -> list[int]:
    """The stand-in."""
    return await _map(StandInPipeline, StandInStage, items)


WORKLOAD = Workload(
    name="compat.async_pipeline",
    what="async3 written for async-pipeline, 100 pipelines at once",
    items=50_000,
    quick_items=5_000,
    expected=after_three,
    programs=(
        Program(
            "flowstage",
            flowstage_compat,
            needs=("flowstage", "flowstage.compat.async_pipeline"),
        ),
        Program("async-pipeline", async_pipeline_map, needs=("async_pipeline",), loop="asyncio"),
        Program("stand-in for async-pipeline", stand_in_map, loop="asyncio"),
    ),
    targets=(
        Target(0.5, peer="async-pipeline"),
        Target(0.5, peer="stand-in for async-pipeline"),
    ),
)
