"""`flat_map`: any number of values, lazily, with backpressure, closed once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import repeat
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Failure, Graph, Input, Sentinel, Threads, source

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


Below = dict[str, tuple[tuple[str, Any], ...]]
BELOW: Below = {
    "nothing": (),
    "map": (("map", lambda value: value),),
    "all three": (
        ("map", lambda value: value),
        ("filter", lambda value: True),
        ("tap", lambda value: None),
    ),
}


def flow_of(fn: Any, below: str, *, fused: bool, items: Any) -> Any:
    """A source, a `flat_map` and plain stages; above them an edge, or nothing."""
    flow: Any = source(items) if fused else source(items).buffer(2)
    flow = flow.flat_map(fn)
    for verb, below_fn in BELOW[below]:
        flow = getattr(flow, verb)(below_fn)
    return flow


each_way = pytest.mark.parametrize(
    ("below", "fused"), [(below, fused) for below in BELOW for fused in (True, False)]
)


@each_way
async def test_a_plain_iterable_is_pulled_no_faster_than_there_is_room(
    below: str, fused: bool
) -> None:
    """Once the functions below are known too, in which more is pulled than one value at once."""
    pulled: list[int] = []

    def values(item: int) -> Iterator[int]:
        for number in range(3 if item < 5 else 1000):
            pulled.append(number)
            yield number

    with soon():
        async with flow_of(values, below, fused=fused, items=range(6)).open(buffer=4) as run:
            got, events = 0, aiter(run)
            for wanted in (0, 1, 7, 20, 300):
                while got < wanted:
                    await anext(events)
                    got += 1
                await settle()
                assert got <= len(pulled) <= got + 4 + 1
    check_accounts(run.report(), over=True)


@each_way
async def test_a_plain_iterable_fails_where_it_fails(below: str, fused: bool) -> None:
    """Whether it raises or gives a sentinel: the values before it go on, and so do later items."""

    def raises(item: int) -> Iterator[int]:
        yield from [item] * item
        if item % 2:
            raise ValueError("mine")

    def marks(item: int) -> Iterator[Any]:
        yield from [item] * item
        if item % 2:
            yield Sentinel("no")
            yield item

    for values, error in ((raises, "mine"), (marks, "gave a Sentinel")):
        flow = flow_of(values, below, fused=fused, items=range(8))
        with soon():
            async with flow.open(on_error="emit", buffer=20) as run:
                events = [event async for event in run.events()]
        check_accounts(run.report(), over=True)
        failures = [event for event in events if isinstance(event, Failure)]
        assert [failure.item for failure in failures] == [1, 3, 5, 7]
        assert all(error in str(failure.error) for failure in failures)
        assert [getattr(event, "item", event) for event in events] == [
            number for item in range(8) for number in [item] * (item + item % 2)
        ]


@each_way
async def test_a_plain_iterable_that_interrupts_gives_no_more(below: str, fused: bool) -> None:
    """Nor is it asked for more: it is closed, what it gave is gone, the next items are whole."""
    closed: list[int] = []
    asked: list[tuple[int, int]] = []

    def values(item: int) -> Iterator[tuple[int, int]]:
        try:
            for number in range(10):
                asked.append((item, number))
                if (item, number) == (3, 7):
                    run.interrupt()
                yield item, number
        finally:
            closed.append(item)

    async def items() -> AsyncIterator[int]:
        for item in range(6):
            await settle()
            yield item

    with soon():
        async with flow_of(values, below, fused=fused, items=items).open(buffer=100) as run:
            got = [value async for value in run]
    whole = [(item, number) for item in (0, 1, 2, 4, 5) for number in range(10)]
    assert [value for value in got if value[0] != 3] == whole
    of_3 = [number for item, number in got if item == 3]  # read before it went on
    assert of_3 == list(range(len(of_3)))
    assert len(of_3) <= 7
    assert closed == list(range(6))
    assert asked == sorted([*whole, *((3, number) for number in range(8))])
    check_accounts(run.report(), over=True)


@pytest.mark.parametrize("fused", [True, False])
async def test_a_function_below_a_plain_iterable_fails_or_interrupts(fused: bool) -> None:
    """In the middle of what one item gives: the other values stay as they were, or are gone."""

    def values(item: int) -> Iterator[tuple[int, int]]:
        for number in range(10):
            yield item, number

    def refuse(value: tuple[int, int]) -> tuple[int, int]:
        if value == (2, 4):
            if interrupts:
                run.interrupt()
            raise ValueError("mine")
        return value

    async def items() -> AsyncIterator[int]:
        for item in range(4):
            await settle()
            yield item

    everything = [(item, number) for item in range(4) for number in range(10)]
    for interrupts in (False, True):
        flow = source(items) if fused else source(items).buffer(2)
        flat = flow.flat_map(values).map(refuse).filter(lambda value: value != (3, 0))
        with soon():
            async with flat.open(on_error="skip", buffer=100) as run:
                got = [value async for value in run]
        dropped = [(3, 0), *((2, number) for number in (range(4, 10) if interrupts else (4,)))]
        if interrupts:
            got = [value for value in got if value[0] != 2]  # of which some may have been read
            dropped += [(2, number) for number in range(4)]
        assert got == [value for value in everything if value not in dropped]
        check_accounts(run.report(), over=True)


async def test_a_plain_iterable_is_read_on_while_only_failures_are_wanted() -> None:
    """Nobody reads the results any more, but the branch of failures does."""

    def values(item: int) -> Iterator[int]:
        yield from range(5)
        raise ValueError(item)

    flat = source(range(4)).flat_map(values, on_error="skip")
    results, failures = flat.map(abs), flat.failures()
    with soon():
        async with Graph(results, failures).open(buffer=2) as run:
            run.output(results).close()
            assert [failure.item async for failure in run.output(failures)] == list(range(4))
    check_accounts(run.report(), over=True)
