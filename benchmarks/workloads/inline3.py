"""Three trivial plain functions, called where they stand: the cost of an item that never waits."""

from benchmarks.functions import after_three, double, minus_three, plus_one
from benchmarks.model import Program, Target, Workload


async def flowstage_collect(items: int) -> list[int]:
    """flowstage, all results at once."""
    from flowstage import source

    numbers = source(range(items))
    return await numbers.map(plus_one).map(double).map(minus_three).collect()


async def flowstage_for(items: int) -> list[int]:
    """flowstage, read with ``async for``."""
    from flowstage import source

    results = source(range(items)).map(plus_one).map(double).map(minus_three)
    async with results.open() as run:
        return [result async for result in run]


def chained_map(items: int) -> list[int]:
    """The builtin, which has no more to do than call the functions."""
    return list(map(minus_three, map(double, map(plus_one, range(items)))))


def streamable_sync(items: int) -> list[int]:
    """streamable as a plain iterable."""
    from streamable import stream

    return list(stream(range(items)).map(plus_one).map(double).map(minus_three))


async def streamable_async(items: int) -> list[int]:
    """streamable as an async iterable."""
    from streamable import stream

    results = stream(range(items)).map(plus_one).map(double).map(minus_three)
    return [result async for result in results]


async def aiostream_list(items: int) -> list[int]:
    """aiostream's pipe syntax."""
    from aiostream import pipe, stream

    numbers = stream.iterate(range(items))
    results = numbers | pipe.map(plus_one) | pipe.map(double) | pipe.map(minus_three)
    async with results.stream() as streamer:
        return [result async for result in streamer]


def pyper_threads(items: int) -> list[int]:
    """pyper, which has a thread for every plain function."""
    from pyper import task

    numbers = task(lambda: range(items), branch=True, throttle=100)
    results = (
        numbers
        | task(plus_one, throttle=100)
        | task(double, throttle=100)
        | task(minus_three, throttle=100)
    )
    return list(results())


WORKLOAD = Workload(
    name="inline3",
    what="three trivial plain functions",
    items=200_000,
    quick_items=20_000,
    expected=after_three,
    programs=(
        Program("flowstage", flowstage_collect, needs=("flowstage",)),
        Program("flowstage, async for", flowstage_for, needs=("flowstage",)),
        Program("chained map", chained_map, loop="none"),
        Program("streamable", streamable_sync, needs=("streamable",), loop="none"),
        Program("streamable, async for", streamable_async, needs=("streamable",), loop="asyncio"),
        Program("aiostream", aiostream_list, needs=("aiostream",), loop="asyncio", share=0.2),
        Program("pyper", pyper_threads, needs=("pyper",), loop="none", share=0.2),
    ),
    targets=(
        Target(2.5, peer="streamable"),
        Target(1.2, peer="streamable", wish=True),
    ),
)
