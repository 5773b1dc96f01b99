"""`flat_map`: any number of values, lazily, with backpressure, closed once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import repeat
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Input, Threads, source

from .accounts import check_accounts, settle, soon
from .conftest import virtual_time


def generator(item: int) -> Iterator[int]:
    yield from range(item)


async def async_generator(item: int) -> AsyncIterator[int]:
    for number in range(item):
        await checkpoint()
        yield number


async def async_list(item: int) -> list[int]:
    await checkpoint()
    return list(range(item))


class Values:
    def __init__(self, item: int) -> None:
        self.item = item

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.item))


PLAIN: dict[str, Any] = {
    "list": lambda item: list(range(item)),
    "range": range,
    "generator": generator,
    "class": Values,
    "set": lambda item: set(range(item)),
    "iterator": lambda item: iter(range(item)),
}
ASYNC: dict[str, Any] = {
    "async generator": async_generator,
    "async list": async_list,
    "lambda of async generator": lambda item: async_generator(item),
    "lambda of async list": lambda item: async_list(item),
}
ITEMS = [3, 0, 1, 5, 0, 2]
WANTED = [number for item in ITEMS for number in range(item)]


@pytest.mark.parametrize("kind", [*PLAIN, *ASYNC])
async def test_every_kind(kind: str) -> None:
    """On the loop, in a window, in threads, fused, nested."""
    fn = {**PLAIN, **ASYNC}[kind]
    flow = Input[int]()
    lines = [flow.flat_map(fn), flow.map(abs).flat_map(fn).map(abs)]
    if kind.startswith("async"):
        lines += [
            flow.flat_map(fn, concurrency=n, ordered=o) for n in (2, 9) for o in (True, False)
        ]
    if kind in PLAIN:
        lines += [flow.flat_map(fn, on=Threads(2)), flow.flat_map(fn, on=Threads(2), ordered=False)]
    for number, line in enumerate(lines):
        for buffer in (100, 1, 0):
            with soon():
                async with line.open(ITEMS, buffer=buffer) as run:
                    got = [value async for value in run]
                check_accounts(run.report(), over=True)
            assert sorted(got) == sorted(WANTED), number
            if number < 3:
                assert got == WANTED
    with soon():
        nested = flow.flat_map(fn).flat_map(fn)
        assert await nested.collect([3]) == [n for item in range(3) for n in range(item)]


async def test_values_are_pulled_as_they_are_given() -> None:
    """No faster than they are taken, in a window too: the others run to their first value."""
    pulled: list[tuple[int, int]] = []

    async def values(item: int) -> AsyncIterator[tuple[int, int]]:
        for number in range(1000):
            pulled.append((item, number))
            yield item, number

    for options, most in (({}, 4), ({"concurrency": 3}, 8)):
        pulled.clear()
        with soon():
            async with Input[int]().flat_map(values, **options).open(range(9), buffer=2) as run:
                await settle()
                assert len(pulled) <= most
                if options:
                    assert {item for item, _ in pulled} == {0, 1, 2}
                    assert [number for item, number in pulled if item] == [0, 0]
                async for value in run:
                    if value == (0, 50):
                        break
                assert len(pulled) <= 51 + most


@virtual_time
async def test_in_order_the_oldest_gives() -> None:
    """And the order of items is kept, whichever is quicker."""

    async def values(item: int) -> AsyncIterator[int]:
        for number in range(3):
            await anyio.sleep(10 - item)
            yield item * 10 + number

    flow = Input[int]().flat_map(values, concurrency=3)
    assert await flow.collect(range(4)) == [n * 10 + k for n in range(4) for k in range(3)]


async def test_generators_are_closed_once_in_their_task() -> None:
    """When nobody wants more, after a failure, and on leaving."""
    diary: list[Any] = []

    async def values(item: int) -> AsyncIterator[int]:
        diary.append(anyio.get_current_task().id)
        try:
            for number in range(10**6):
                yield number
        finally:
            diary.append(anyio.get_current_task().id)

    async def first(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item
            return

    def refuse(item: int) -> int:
        raise ValueError

    for options in ({}, {"concurrency": 2}):
        flow = Input[int]().flat_map(values, **options)
        diary.clear()
        with soon():
            assert await flow.transform(first).collect([1, 2, 3]) == [0]
            with pytest.raises(ValueError):
                await flow.map(refuse).collect([1])
            async with flow.open([1]) as run:
                async for _ in run:
                    break
        counts = {task: diary.count(task) for task in diary}
        assert len(diary) % 2 == 0
        assert all(count % 2 == 0 for count in counts.values())


async def test_an_error_after_some_values() -> None:
    """What was given before it stays; the item fails."""

    def values(item: int) -> Iterator[int]:
        yield item
        yield item
        raise ValueError("mine")

    async def async_values(item: int) -> AsyncIterator[int]:
        for value in values(item):
            yield value

    for fn, options in (
        (values, {}),
        (async_values, {"concurrency": 2}),
        (values, {"on": Threads(2)}),
        (values, {"on": Threads(2), "timeout": 9}),
    ):
        with soon():
            async with Input[int]().flat_map(fn, **options).open([1, 2], on_error="emit") as run:
                events = [getattr(event, "item", event) async for event in run.events()]
            check_accounts(run.report(), over=True)
        assert events == [1, 1, 1, 2, 2, 2]
        assert run.failed == 2


async def test_an_error_in_cleanup_is_not_lost() -> None:
    """A generator that is closed early and raises ends the run with that."""

    def values(item: int) -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            raise ValueError("in cleanup")

    async def async_values(item: int) -> AsyncIterator[int]:
        try:
            for number in range(100):
                yield number
        finally:
            raise ValueError("in cleanup")

    for fn, options in ((values, {}), (async_values, {}), (async_values, {"concurrency": 2})):
        with soon(), pytest.raises(ValueError, match="in cleanup"):
            async with Input[int]().flat_map(fn, **options).open([1], buffer=1) as run:
                async for _ in run:
                    break


async def test_an_async_function_for_a_thread_is_told_apart() -> None:
    """Giving an async iterable from a thread is a `TypeError`."""
    with soon(), pytest.raises(TypeError, match="flat_map"):
        await Input[int]().flat_map(lambda item: async_generator(item), on=Threads(1)).collect([1])


async def test_contexts_are_copied_for_each_value() -> None:
    """Shallowly: what one value's stages note is not seen by the next."""
    seen: list[Any] = []

    def note(item: int, context: Any) -> int:
        seen.append(dict(context))
        context["seen"] = item
        return item

    flow = Input[int]().flat_map(range).map(note, pass_context=True)
    with soon():
        await flow.collect([3], context={"who": "me"})
    assert seen == [{"who": "me"}] * 3


async def test_one_item_that_gives_without_end_lets_others_run() -> None:
    """However a `flat_map` or a `transform` is read, what never waits is made to."""

    async def forever(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            while True:
                yield item

    async def endless(item: int) -> AsyncIterator[int]:
        while True:
            yield item

    many = source([1])
    for flow in (
        many.flat_map(repeat),
        many.flat_map(repeat).filter(lambda item: False),
        many.flat_map(endless, concurrency=2),
        many.flat_map(endless),
        many.map(abs).map(abs, concurrency=2, on=Threads(2)).flat_map(repeat).map(str),
        many.transform(forever),
    ):
        with soon(), anyio.move_on_after(0.05) as scope:
            await flow.drain()
        assert scope.cancelled_caught
