"""Long runs and many runs: memory stays flat inside, and nothing is left behind outside.

The deep ones take what time they need, but no more than `DEEP_SECONDS`: what they did is printed, and must
not be less than a part of it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Flow, Input, Sentinel, Threads, gather, merge, source

from .conftest import all_loops
from .harness import LOOPS, soak, tell
from .laws.play import account

PLACE = Threads(2)  # at the level of the module, as users have it: one for all runs

Once = Callable[[], Awaitable[None]]
DEEP_SECONDS = 120.0


def run_on(backend: str, main: Callable[[], Awaitable[Any]]) -> None:
    """Run on a loop of its own, in real time."""
    library = "trio" if backend == "trio" else "asyncio"
    options = {} if backend == "trio" else {"use_uvloop": backend == "uvloop"}
    anyio.run(main, backend=library, backend_options=options)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Runs left early and failing items are logged by design."""
    logger = logging.getLogger("flowstage")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


# ---------------------------------------------------------------- many runs


async def numbers() -> AsyncIterator[Any]:
    for number in range(20):
        if number % 5 == 4:
            yield Sentinel(number)
        if number % 3 == 0:
            await checkpoint()
        yield number


async def wait(number: int) -> int:
    await checkpoint()
    return number


async def values(number: int) -> AsyncIterator[int]:
    yield number
    await checkpoint()
    yield number


async def running_sum(items: AsyncIterator[int]) -> AsyncIterator[int]:
    total = 0
    async for item in items:
        total += item
        yield total


def fail_at_twelve(number: int) -> int:
    if number == 12:
        raise ValueError(number)
    return number


def graph(*, failing: bool = False) -> Flow[Any, Any]:
    """A bit of everything."""
    start = source(numbers).map(fail_at_twelve if failing else abs)
    one = start.map(wait, concurrency=3)
    two = start.filter(lambda number: number % 7)
    rows = gather(one, two).map(lambda row: row[0])
    arms = rows.route(lambda number: number % 2, [0, 1])
    joined = merge(arms[0].map(abs, on=PLACE), arms[1].flat_map(values, concurrency=2))
    return joined.batch(3).flat_map(lambda batch: batch).transform(running_sum).buffer(2)


async def to_the_end() -> None:
    await graph().collect()


async def cancelled() -> None:
    with anyio.CancelScope() as scope:
        async with graph().open(buffer=2) as run:
            async for _ in run:
                scope.cancel()


async def left_early() -> None:
    async with graph().open(buffer=2) as run:
        async for _ in run.events():
            break
        run.interrupt()


async def failed() -> None:
    try:
        await graph(failing=True).collect(buffer=2)
    except ValueError:
        return
    raise AssertionError("it should have failed")


async def skipping() -> None:
    await graph(failing=True).collect(on_error="emit", timing=True)


async def pushed() -> None:
    flow = Input[int]().map(wait, concurrency=2).map(abs, on=PLACE)
    async with flow.open(buffer=1) as run:
        run.send_nowait(1)
        run.interrupt()
        await run.send(2)
        await run.send_sentinel("S")
        await run.stop()
        assert [event async for event in run.events()] == [2, Sentinel("S")]


async def timed_out() -> None:
    """A scope's deadline around everything, at a moment of its own."""
    with anyio.move_on_after(0.0005):
        await graph().collect(buffer=1)


async def natively_cancelled() -> None:
    """`Task.cancel` of the task that holds the block, in the middle, and again in its cleanup."""

    async def hold() -> None:
        async with graph().open(buffer=2) as run:
            async for _ in run:
                task.cancel()
                asyncio.get_running_loop().call_soon(task.cancel)

    task = asyncio.create_task(hold())
    with pytest.raises(asyncio.CancelledError):
        await task


async def natively_timed_out() -> None:
    """`asyncio.timeout` around everything: it ends its own cancellation."""
    try:
        async with asyncio.timeout(0.0005):
            await graph().collect(buffer=1)
    except TimeoutError:
        pass
    current = asyncio.current_task()
    assert current is not None
    assert not current.cancelling()


COMMON: tuple[Once, ...] = (
    to_the_end,
    cancelled,
    left_early,
    failed,
    skipping,
    pushed,
    timed_out,
)
NATIVE: tuple[Once, ...] = (natively_cancelled, natively_timed_out)
ENDINGS = {loop: COMMON if loop == "trio" else (*COMMON, *NATIVE) for loop in LOOPS}
all_endings = pytest.mark.parametrize(
    ("backend", "once"),
    [
        pytest.param(loop, once, id=f"{once.__name__}-{loop}")
        for loop, endings in ENDINGS.items()
        for once in endings
    ],
)


def forever(
    backend: str, once: Once, rounds: int, warm_up: int, seconds: float = float("inf")
) -> int:
    """Run something again and again, in loops of their own, and look at the process.

    Returns:
        how many runs there were.
    """

    async def several() -> None:
        for _ in range(5):
            await once()

    def one_loop() -> None:
        run_on(backend, several)
        # A loop tells anyio's threads to end as it closes, and does not wait for that.
        until = time.monotonic() + 2
        while time.monotonic() < until and any(
            thread.name.startswith("AnyIO worker") for thread in threading.enumerate()
        ):
            time.sleep(0.0005)

    # What pytest and the logging of the suite keep is no concern of ours.
    done = soak(one_loop, rounds=rounds, warm_up=warm_up, blocks_each=20.0, seconds=seconds)
    return 5 * (warm_up + done)


@pytest.mark.slow
@all_endings
def test_runs_leave_nothing(backend: str, once: Once) -> None:
    """Sixty runs of each ending: tasks, threads, files and objects are as before."""
    forever(backend, once, rounds=12, warm_up=6)


@all_endings
def test_runs_leave_no_cycles(backend: str, once: Once) -> None:
    """A run is gone when it is over: what it was made of is not left to the garbage collector."""

    async def look() -> None:
        from flowstage._engine.runner import Runner
        from flowstage._live import Live
        from flowstage._wires import Edge

        await once()
        gc.collect()
        await once()
        kinds = (Live, Runner, Edge)
        # By type, since asking a dead weak proxy for its class raises; against what is there already,
        # since a failed test before this one keeps its run in the traceback.
        many = sum(issubclass(type(thing), kinds) for thing in gc.get_objects())
        for _ in range(3):
            await once()
        gc.collect()
        assert sum(issubclass(type(thing), kinds) for thing in gc.get_objects()) <= many

    run_on(backend, look)


@pytest.mark.deep
@all_loops
def test_ten_thousand_runs(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all endings, one after the other."""
    began, threads, runs = time.monotonic(), threading.active_count(), 0
    endings = ENDINGS[backend]
    for place, once in enumerate(endings):
        left = DEEP_SECONDS - (time.monotonic() - began)
        rounds = -(-10_000 // (5 * len(endings)))
        runs += forever(backend, once, rounds, 10, left / (len(endings) - place))
    assert threading.active_count() <= threads + 4
    tell(capsys, f"soak, {backend}: {runs} runs in {time.monotonic() - began:.0f} s")
    assert runs >= 2000


# ---------------------------------------------------------------- one long run


def long_graph(count: int) -> Flow[Any, Any]:
    """Plain and async stages, threads, a fork and its join, batches, a sentinel now and then."""

    def items() -> Iterator[Any]:
        for number in range(count):
            if number % 1000 == 999:
                yield Sentinel(number)
            yield number

    start = source(items).map(abs)
    one = start.map(wait, concurrency=4)
    two = start.map(lambda number: number + 1).filter(lambda number: number % 3)
    rows = gather(one, two).batch(10).flat_map(lambda batch: [row[0] for row in batch])
    return rows.map(abs, on=PLACE, on_error="skip")


def plain_graph(count: int) -> Flow[Any, Any]:
    """Nothing but inline stages."""
    return source(lambda: iter(range(count))).map(abs).map(abs).filter(lambda number: True)


BLOCKS_OF_AN_ITEM = 8
"""Memory blocks of an item inside a run, measured as its edges filled: value, envelope, places."""


def flat(
    backend: str,
    make: Callable[[int], Flow[Any, Any]],
    count: int,
    blocks: int,
    seconds: float = float("inf"),
) -> int:
    """Read a long run to its end; look at memory in the first tenth and in the last.

    Returns:
        how many items were read, of which there are fewer when the seconds were too few.
    """
    began, seen = time.monotonic(), 0
    sizes: list[int] = []
    most = 0

    async def read() -> None:
        nonlocal most, seen
        flow = make(count)
        bound = flow.graph.bound_with(50)
        async with flow.open(buffer=50) as run:
            async for item in run:
                seen += 1
                if seen % (count // 50) == 0:
                    report = run.report()
                    assert not account(report)
                    inside = sum(edge.inside for edge in report.edges)
                    held = inside + sum(stage.in_hand for stage in report.stages)
                    most = max(most, inside)
                    assert inside <= bound
                    del report, item
                    gc.collect()
                    sizes.append(sys.getallocatedblocks() - BLOCKS_OF_AN_ITEM * held)
                    if time.monotonic() - began > seconds:
                        return

    gc.collect()
    gc.freeze()  # what was there before is not looked at each time
    try:
        run_on(backend, read)
    finally:
        gc.unfreeze()
    assert len(sizes) > 8, f"only {seen} items"
    # A run may go over to fuller edges for good; but for that, a leak would show in all of the last third.
    early, late = max(sizes[1:4]), min(sizes[-(len(sizes) // 3) :])
    assert late - early < blocks, f"{late - early} memory blocks more: {sizes}"
    return seen


@pytest.mark.slow
@all_loops
@pytest.mark.parametrize("make", [long_graph, plain_graph])
def test_a_long_run_keeps_its_size(backend: str, make: Callable[[int], Flow[Any, Any]]) -> None:
    """Twenty thousand items in constant memory, in edges and stages within the bound."""
    flat(backend, make, 20_000, blocks=1500)


@pytest.mark.deep
@all_loops
@pytest.mark.parametrize(
    ("make", "count", "least"),
    [(long_graph, 1_000_000, 200_000), (plain_graph, 3_000_000, 1_000_000)],
)
def test_millions_of_items(
    backend: str,
    make: Callable[[int], Flow[Any, Any]],
    count: int,
    least: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A million through everything, three through inline stages; where a filter is, fewer come out."""
    began = time.monotonic()
    seen = flat(backend, make, count, blocks=1500, seconds=DEEP_SECONDS)
    spent = time.monotonic() - began
    tell(capsys, f"soak, {backend}, {make.__name__}: {seen} items in {spent:.0f} s")
    assert seen >= least
