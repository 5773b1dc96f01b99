"""`flat_map` in threads on bare values: one slot for a burst, taken apart where an item is special."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from flowstage import Failure, Graph, Input, Sentinel, Threads, source

from .accounts import check_accounts, soon


async def late() -> None:
    """A coroutine, which no thread may give."""


def spread(item: int) -> Any:
    """What an item makes, by its number: every kind of iterable, and every way to fail."""
    kind, values = item % 12, [(item, number) for number in range(item % 5)]
    if kind == 0:
        return ()
    if kind == 1:
        return tuple(values)
    if kind == 2:
        return set(values)
    if kind == 3:
        raise ValueError(item)
    if kind == 4:
        return late()
    if kind == 5:
        return [*values, Sentinel(item), *values]
    if kind == 6:
        return [(item, number) for number in range(700)]
    if kind == 7:
        return ((item, number) for number in range(300))
    if kind == 8:
        return failing(item, values, StopIteration)
    if kind == 9:
        return None
    return values


def failing(item: int, values: list[Any], error: type[Exception]) -> Iterator[Any]:
    yield from values
    next(iter(())) if error is StopIteration else None
    raise error(item)


def wanted(items: range) -> list[Any]:
    """The results as a plain loop makes them; what failed by its item."""
    results: list[Any] = []
    for item in items:
        try:
            given = spread(item)
            if item % 12 in (4, 9):
                if item % 12 == 4:
                    given.close()
                raise TypeError
            for value in given:
                if type(value) is Sentinel:
                    raise TypeError
                results.append(value)
        except Exception:
            results.append(item)
    return results


ITEMS = range(60)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("buffer", [1, 100, 1000])
async def test_each_item_is_as_if_it_were_alone(ordered: bool, width: int, buffer: int) -> None:
    """Errors keep what came before them and fail their item only; every item is counted."""
    flow = source(ITEMS).flat_map(spread, on=Threads(width), ordered=ordered)
    with soon():
        async with flow.open(buffer=buffer, on_error="emit") as run:
            events = [event async for event in run.events()]
        report = run.report()
    check_accounts(report, over=True)
    results = [event.item if isinstance(event, Failure) else event for event in events]
    found, right = list(map(str, results)), list(map(str, wanted(ITEMS)))
    assert found == right if ordered else Counter(found) == Counter(right)
    stage, failed = report.stages[-1], sum(item % 12 in (3, 4, 5, 8, 9) for item in ITEMS)
    assert (stage.taken, stage.failed, stage.done) == (60, failed, 60 - failed)
    assert stage.given == len(results) - failed


@pytest.mark.parametrize("ordered", [True, False])
async def test_marks_keep_their_places(ordered: bool) -> None:
    """A sentinel comes after all that was made of what was sent before it."""
    flow = Input[int]().flat_map(lambda item: [item] * (item % 3), on=Threads(2), ordered=ordered)
    with soon():
        async with flow.open() as run:
            for item in range(60):
                await run.send(item)
                if item % 10 == 9:
                    await run.send_sentinel(item)
            run.finish()
            parts: list[list[Any]] = [[]]
            async for event in run.events():
                if isinstance(event, Sentinel):
                    parts.append([])
                else:
                    parts[-1].append(event)
        check_accounts(run.report(), over=True)
    for number, part in enumerate(parts):
        right = [n for n in range(number * 10, number * 10 + 10) for _ in range(n % 3)]
        assert (part if ordered else sorted(part)) == (right if number < 6 else [])


class Endless:
    """An endless iterator that counts how often it is closed."""

    def __init__(self) -> None:
        self.given = self.closed = 0

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> int:
        self.given += 1
        return self.given

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("ordered", [True, False])
async def test_an_interrupt_closes_what_is_read_once(ordered: bool) -> None:
    """Nothing of it comes out afterwards, and what is sent then is processed as if alone."""
    endless = Endless()
    flow = Input[int]().flat_map(
        lambda item: endless if item == 2 else [-item], on=Threads(1), ordered=ordered
    )
    with soon():
        async with flow.open(buffer=5) as run:
            for item in (1, 2, 3, 4):
                await run.send(item)
            results = run.__aiter__()
            first = [await results.__anext__() for _ in range(4)]
            run.interrupt()
            assert (sorted(first), endless.closed) == ([-1, 1, 2, 3], 0)
            for item in (5, 6):
                await run.send(item)
            run.finish()
            assert [value async for value in run] == [-5, -6]
        check_accounts(run.report(), over=True)
    assert endless.closed == 1
    assert endless.given <= 3 + 5 + 2 * 256
    stage = run.report().stages[-1]
    assert (stage.taken, stage.done, stage.discarded) == (6, 3, 3)


async def test_an_interrupt_begins_no_further_call() -> None:
    """A thread at work on a burst comes back with the item that it is at."""
    begun: list[int] = []
    there, go = threading.Event(), threading.Event()

    def block(item: int) -> list[int]:
        begun.append(item)
        if item == 50:
            there.set()
            go.wait(5)
        return [item]

    flow = Input[int]().flat_map(block, on=Threads(1))
    with soon():
        async with flow.open(buffer=100) as run:
            for item in range(100):
                await run.send(item)
            await anyio.to_thread.run_sync(there.wait, 5)
            run.interrupt()
            go.set()
            await run.send(100)
            run.finish()
            assert [value async for value in run] == [100]
        check_accounts(run.report(), over=True)
    assert begun == [*range(51), 100]


async def test_others_do_what_stands_behind_a_long_one() -> None:
    """With two threads, an item that waits to be given holds up nobody but itself."""
    met = threading.Event()

    def values(item: int) -> Iterator[int]:
        if item == 0:
            assert met.wait(5)
        elif item == 39:
            met.set()
        yield item

    flow = source(range(40)).flat_map(values, on=Threads(2))
    with soon():
        assert await flow.collect() == list(range(40))


async def test_a_long_one_is_closed_when_nobody_wants_more() -> None:
    """The results' end is closed while it waits to give; failures are still read."""
    endless = Endless()

    def values(item: int) -> Any:
        if item == 3:
            raise ValueError(item)
        return endless if item == 5 else [item] * 3

    results = Input[int]().flat_map(values, on=Threads(1), on_error="skip", name="values")
    graph = Graph(results=results, failed=results.failures())
    with soon():
        async with graph.open(range(9), buffer=2) as run:
            async for value in run.output("results"):
                if value == 2:
                    break
            run.output("results").close()
            run.output("failed").close()
    assert endless.closed <= 1


async def test_dropped_results_are_counted_while_failures_are_wanted() -> None:
    """Their end closed, results are dropped, and their items are done all the same."""

    def values(item: int) -> list[int]:
        if item % 7 == 3:
            raise ValueError(item)
        return [item] * (item % 3)

    results = Input[int]().flat_map(values, on=Threads(1), on_error="skip", name="values")
    graph = Graph(results=results, failed=results.failures())
    with soon():
        async with graph.open(range(300), buffer=2) as run:
            async for value in run.output("results"):
                if value == 2:
                    break
            run.output("results").close()
            failed = [failure.item async for failure in run.output("failed")]
        check_accounts(run.report(), over=True)
    assert failed == list(range(3, 300, 7))
    stage = run.report().stage("values")
    assert (stage.taken, stage.skipped, stage.done) == (300, len(failed), 300 - len(failed))
