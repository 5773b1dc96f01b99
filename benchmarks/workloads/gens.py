"""The three sleeping generators of asyncio-buffered-pipeline's page: overlap without overhead."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio

from benchmarks.model import SECONDS, Program, Target, Workload

NAP = 0.01
"""Seconds that each generator sleeps for each value."""


async def _values(items: int) -> AsyncIterator[int]:
    for value in range(items):
        await anyio.sleep(NAP)
        yield value


async def gen_2(values: AsyncIterator[int]) -> AsyncIterator[int]:
    """The second generator: sleeps, then doubles."""
    async for value in values:
        await anyio.sleep(NAP)
        yield value * 2


async def gen_3(values: AsyncIterator[int]) -> AsyncIterator[int]:
    """The third generator: sleeps, then adds."""
    async for value in values:
        await anyio.sleep(NAP)
        yield value + 3


def after_gens(items: int) -> list[int]:
    """The right results."""
    return [value * 2 + 3 for value in range(items)]


async def flowstage_collect(items: int) -> list[int]:
    """flowstage."""
    from flowstage import source

    def gen_1() -> AsyncIterator[int]:
        return _values(items)

    return await source(gen_1).transform(gen_2).transform(gen_3).collect()


async def buffered_chain(buffered_pipeline: Callable[[], Any], items: int) -> list[int]:
    """The page's program, with the package or with what takes its place."""
    buffer_iterable = buffered_pipeline()
    it_1 = buffer_iterable(_values(items))
    it_2 = buffer_iterable(gen_2(it_1))
    it_3 = buffer_iterable(gen_3(it_2))
    return [value async for value in it_3]


async def buffered_pipeline_chain(items: int) -> list[int]:
    """asyncio-buffered-pipeline itself."""
    from asyncio_buffered_pipeline import buffered_pipeline

    return await buffered_chain(buffered_pipeline, items)


async def bare_sleeps(items: int) -> list[int]:
    """As many sleeps as the longest way has, one after the other: the least there is to do."""
    for _ in range(items + 2):
        await anyio.sleep(NAP)
    return after_gens(items)


async def plain_chain(items: int) -> list[int]:
    """The generators chained as they are: nothing overlaps."""
    return [value async for value in gen_3(gen_2(_values(items)))]


WORKLOAD = Workload(
    name="gens",
    what="three async generators, each sleeping 10 ms a value",
    items=60,
    quick_items=30,
    warm_up=3,
    expected=after_gens,
    figures=(SECONDS,),
    programs=(
        Program("flowstage", flowstage_collect, needs=("flowstage",)),
        Program("the same sleeps bare", bare_sleeps),
        Program(
            "asyncio-buffered-pipeline",
            buffered_pipeline_chain,
            needs=("asyncio_buffered_pipeline",),
            loop="asyncio",
        ),
        Program("generators unbuffered", plain_chain),
    ),
    targets=(
        Target(1.02, peer="the same sleeps bare"),
        # Not behind it; a hundredth is how far two runs of the same sleeps lie apart.
        Target(1.01, peer="asyncio-buffered-pipeline"),
    ),
)
