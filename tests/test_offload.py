"""Calls in threads that make several values: batched, and still lazy, ordered and exact."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from flowstage import Failure, Threads, source


async def test_many_small_flat_calls_share_a_thread_call() -> None:
    """Values come in order, whatever their number, and every item is counted."""
    flow = source(range(2000)).flat_map(lambda item: [item] * (item % 3), on=Threads(1))
    async with flow.open() as run:
        found = [item async for item in run]
        report = run.report()
    assert found == [item for item in range(2000) for _ in range(item % 3)]
    stage = report.stages[-1]
    assert stage.taken == stage.done == 2000
    assert stage.given == len(found)


async def test_a_flat_call_in_a_thread_is_read_no_faster_than_it_is_given_on() -> None:
    """An endless generator among small ones is read a bounded number of values ahead."""
    made = 0

    def spread(item: int) -> Iterator[int]:
        nonlocal made
        if item != 3:
            yield item
            return
        while True:
            made += 1
            yield made

    flow = source(range(10)).flat_map(spread, on=Threads(1))
    async with flow.open(buffer=4) as run:
        found = []
        async for value in run:
            found.append(value)
            if len(found) == 20:
                break
        assert found == [0, 1, 2, *range(1, 18)]
        assert made < 20 + 4 + 2 * 256


async def test_a_stage_in_one_thread_runs_one_generator_at_a_time() -> None:
    """The next item is not begun before the last one's generator has ended."""
    at_work = threading.Semaphore(1)

    def spread(item: int) -> Iterator[int]:
        assert at_work.acquire(blocking=False)
        yield from range(item, item + 600)
        at_work.release()

    found = await source(range(5)).flat_map(spread, on=Threads(1)).collect(buffer=10)
    assert found == [value for item in range(5) for value in range(item, item + 600)]


@pytest.mark.parametrize("policy", ["skip", "emit"])
async def test_a_generator_that_fails_midway_keeps_what_it_gave(policy: str) -> None:
    """Its values come first, then the failure takes its place."""

    def spread(item: int) -> Iterator[int]:
        yield item
        if item == 1:
            raise ValueError(item)
        yield item

    flow = source(range(3)).flat_map(spread, on=Threads(1))
    found = await flow.collect(on_error=policy)
    shown = ["failure" if isinstance(value, Failure) else value for value in found]
    assert shown == [0, 0, 1, *(["failure"] if policy == "emit" else []), 2, 2]
