"""`map` on every way it is run: fused and fast, async, in a window, in and out of order."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Input, StageError, Threads, source

from .accounts import check_accounts, settle, soon
from .conftest import virtual_time


def add(item: int) -> int:
    return item + 1


async def add_later(item: int) -> int:
    for _ in range(item % 4):
        await checkpoint()
    return item + 1


class Adder:
    def __call__(self, item: int) -> int:
        return item + 1

    def method(self, item: int) -> int:
        return item + 1

    async def async_method(self, item: int) -> int:
        return item + 1


class AsyncAdder:
    async def __call__(self, item: int) -> int:
        return item + 1


def add_some(number: int, item: int) -> int:
    return number + item


async def add_some_later(number: int, item: int) -> int:
    return number + item


@functools.wraps(add)
def wrapped(item: int) -> Any:
    return add_later(item)


FUNCTIONS: dict[str, Any] = {
    "plain": add,
    "lambda": lambda item: item + 1,
    "async": add_later,
    "lambda of async": lambda item: add_later(item),
    "builtin": (1).__add__,
    "object": Adder(),
    "method": Adder().method,
    "async method": Adder().async_method,
    "async object": AsyncAdder(),
    "partial": functools.partial(add_some, 1),
    "async partial": functools.partial(add_some_later, 1),
    "wrapped": wrapped,
}


@pytest.mark.parametrize("fn", FUNCTIONS.values(), ids=FUNCTIONS)
async def test_every_kind_of_function(fn: Any) -> None:
    """Called or awaited, alone or among others, with many items and few, in tiny buffers too."""
    for number in (0, 1, 2, 300):
        for buffer in (100, 1, 0):
            if number == 300 and buffer < 100:
                continue
            wanted = [item + 1 for item in range(number)]
            with soon():
                assert await Input[int]().map(fn).collect(range(number), buffer=buffer) == wanted
                fused = Input[int]().map(abs).map(fn).map(abs)
                assert await fused.collect(range(number), buffer=buffer) == wanted
                assert await source(range(number)).map(fn).collect(buffer=buffer) == wanted


async def test_none_and_other_values_are_data() -> None:
    """`None`, `False`, exceptions, `...`, and flowstage's own classes but sentinels."""
    values: list[Any] = [None, False, 0, "", ..., NotImplemented, ValueError("x"), StopIteration(1)]
    with soon():
        assert await Input[Any]().map(lambda item: item).collect(values) == values
        assert await Input[Any]().map(lambda item: None).collect(values) == [None] * len(values)
        assert await Input[Any]().collect(values) == values


@pytest.mark.parametrize("concurrency", [1, 2, 3, 10])
@pytest.mark.parametrize("ordered", [True, False])
async def test_windows(concurrency: int, ordered: bool) -> None:
    """Never more calls at once, all results, in order if asked; with buffers of every size."""
    inside = most = 0

    async def call(item: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(item * 7 % 5):
            await checkpoint()
        inside -= 1
        return item

    for buffer in (100, 1, 0):
        with soon():
            flow = Input[int]().map(call, concurrency=concurrency, ordered=ordered)
            async with flow.open(range(40), buffer=buffer) as run:
                got = [item async for item in run]
            check_accounts(run.report(), over=True)
        assert (got if ordered else sorted(got)) == list(range(40))
        assert most <= concurrency
    assert most >= min(concurrency, 4)


@virtual_time
async def test_calls_overlap() -> None:
    """So many at once take so much less time; stages that wait overlap each other."""

    async def wait(item: int) -> int:
        await anyio.sleep(1)
        return item

    for flow, seconds in (
        (Input[int]().map(wait), 8),
        (Input[int]().map(wait, concurrency=4), 2),
        (Input[int]().map(wait, concurrency=8), 1),
        (Input[int]().map(wait).map(wait), 9),
        (Input[int]().map(wait, concurrency=4).map(wait, concurrency=4), 3),
    ):
        began = anyio.current_time()
        assert await flow.collect(range(8)) == list(range(8))
        assert anyio.current_time() - began == pytest.approx(seconds)


async def test_a_slow_head_bounds_the_window() -> None:
    """In order, results behind a slow one count: the reading stops. Out of order it goes on."""
    for ordered in (True, False):
        gate = anyio.Event()
        taken: list[int] = []

        async def call(item: int, gate: Any = gate, taken: Any = taken) -> int:
            taken.append(item)
            if item == 0:
                await gate.wait()
            return item

        with soon():
            flow = Input[int]().map(call, concurrency=4, ordered=ordered)
            async with flow.open(range(50), buffer=10) as run:
                await settle(80)
                assert len(taken) <= (4 if ordered else 16)
                gate.set()
                got = [item async for item in run]
        assert sorted(got) == list(range(50))


@virtual_time
async def test_unordered_results_leave_as_they_finish() -> None:
    """The quickest first."""

    async def wait(item: int) -> int:
        await anyio.sleep(item)
        return item

    flow = Input[int]().map(wait, concurrency=5, ordered=False)
    assert await flow.collect([5, 1, 4, 2, 3]) == [1, 2, 3, 4, 5]


async def test_an_async_function_that_never_waits_lets_others_run() -> None:
    """No loop over an edge starves the rest."""

    async def quick(item: int) -> int:
        return item

    ticks = 0
    for flow in (
        source(range(20_000)).map(quick),
        source(range(400_000)).map(abs).map(abs),
        source(range(5_000)).map(quick, concurrency=4),
    ):
        with soon():
            async with anyio.create_task_group() as group:

                async def tick() -> None:
                    nonlocal ticks
                    while True:
                        ticks += 1
                        await checkpoint()

                ticks = 0
                group.start_soon(tick)
                await flow.drain()
                group.cancel_scope.cancel()
        assert ticks > 20


async def test_observers_are_told_once() -> None:
    """Before and after each stage and item; what they raise is logged and ignored."""
    told: list[Any] = []

    class Observer:
        async def before_stage(self, stage: str, item: Any, context: Any) -> None:
            await checkpoint()
            told.append((stage, item))

        def after_stage(self, stage: str, item: Any, result: Any, error: Any, context: Any) -> None:
            told.append((stage, item, result, type(error)))
            raise RuntimeError("ignored")

    def refuse(item: int) -> int:
        if item == 2:
            raise ValueError
        return item * 10

    for options in ({}, {"timeout": None}):
        told.clear()
        flow = Input[int]().map(refuse, **options)
        with soon():
            got = await flow.collect([1, 2], observers=[Observer()], on_error="skip")
        assert got == [10]
        assert told == [
            ("refuse", 1),
            ("refuse", 1, 10, type(None)),
            ("refuse", 2),
            ("refuse", 2, None, ValueError),
        ]


@pytest.mark.parametrize("options", [{}, {"on": Threads(2)}])
async def test_a_stop_iteration_keeps_what_it_says(options: dict[str, Any]) -> None:
    """It is the one that the function raised, with its traceback, also in the middle of a burst."""

    def first_of(item: int) -> int:
        if item == 30:
            raise StopIteration("nothing there")
        return item

    for flow in (
        source(range(50)).map(abs).map(first_of, **options),
        source(range(50)).buffer(50).map(abs).map(first_of, **options),
    ):
        with pytest.raises(StageError) as caught:
            await flow.collect()
        cause = caught.value.__cause__
        assert isinstance(cause, StopIteration)
        assert cause.value == "nothing there"
        assert traceback.extract_tb(cause.__traceback__)[-1].name == "first_of"


@pytest.mark.parametrize("buffer", [0, 1, 7, 100])
async def test_a_collect_reads_ahead_no_further_than_the_bound(buffer: int) -> None:
    """What is poured into a list waits nowhere, and yet no more is taken in hand at once."""
    pulled = done = most = 0

    def items() -> Iterator[int]:
        nonlocal pulled
        for number in range(1000):
            pulled += 1
            yield number

    def last(item: int) -> int:
        nonlocal done, most
        most = max(most, pulled - done)
        done += 1
        return item

    for flow in (source(items).map(abs).map(last), source(items).buffer(buffer).map(last)):
        pulled = done = most = 0
        assert await flow.collect(buffer=buffer) == list(range(1000))
        assert most <= flow.graph.bound_with(buffer)


async def test_a_pool_that_never_waits_can_be_cancelled() -> None:
    """However much there is to do, and though nobody has to be waited for at the end."""

    async def quick(item: int) -> int:
        time.sleep(0.0001)
        return item

    calls = 0
    with soon(), anyio.move_on_after(0.02) as scope:
        flow = source(range(10**6)).buffer(50_000).map(quick, concurrency=2)
        calls = len(await flow.collect())
    assert scope.cancelled_caught
    assert not calls
