"""`transform`: a function over the whole flow, which sees the end and ends when it likes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio import BusyResourceError
from anyio.lowlevel import checkpoint

from flowstage import ClosedError, Input, Sentinel, StageError, source

from .accounts import check_accounts, settle, soon


async def same(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield item


@pytest.mark.parametrize("segments", [False, True])
async def test_memory_and_end(segments: bool) -> None:
    """It sees the end of its input and gives the rest."""

    async def sums(items: AsyncIterator[int]) -> AsyncIterator[Any]:
        total = 0
        yield "begin"
        async for item in items:
            total += item
            yield total
        yield "end"

    with soon():
        flow = Input[int]().transform(sums, segments=segments)
        for buffer in (0, 1, 100):
            async with flow.open([1, 2, 3], buffer=buffer) as run:
                assert [item async for item in run] == ["begin", 1, 3, 6, "end"]
            check_accounts(run.report(), over=True)


async def test_not_only_generators() -> None:
    """Anything that gives an async iterable: a class, a function of a generator, a partial."""

    class Twice:
        def __init__(self, items: AsyncIterator[Any]) -> None:
            self.items = items

        def __aiter__(self) -> AsyncIterator[Any]:
            return self.run()

        async def run(self) -> AsyncIterator[Any]:
            async for item in self.items:
                yield item * 2

    for fn in (Twice, lambda items: Twice(items).run()):
        with soon():
            assert await Input[int]().transform(fn).collect([1, 2]) == [2, 4]
    with soon(), pytest.raises(TypeError, match=r"transform 'lambda' must give an iterable"):
        await Input[int]().transform(lambda items: 5).collect([1])


async def test_it_ends_when_it_likes() -> None:
    """What is above is released: the source closed, calls cancelled, senders told."""
    closed: list[str] = []

    async def items() -> AsyncIterator[int]:
        try:
            for number in range(10**6):
                yield number
        finally:
            closed.append("source")

    async def first(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item
            if item == 2:
                return

    async def later(item: int) -> int:
        await checkpoint()
        return item

    for line in (
        source(items),
        source(items).map(abs),
        source(items).map(later, concurrency=3),
        source(items).batch(1).flat_map(iter),
    ):
        closed.clear()
        with soon():
            async with line.transform(first).map(abs).open(buffer=3) as run:
                assert [item async for item in run] == [0, 1, 2]
                await settle()
                assert closed == ["source"]
            check_accounts(run.report(), over=True)


async def test_backpressure() -> None:
    """It is asked for no more than there is room."""
    given: list[int] = []

    async def endless(items: AsyncIterator[int]) -> AsyncIterator[int]:
        number = 0
        while True:
            number += 1
            given.append(number)
            yield number

    with soon():
        async with Input[int]().transform(endless).open(buffer=3) as run:
            await settle()
            assert len(given) == 4
            async for item in run:
                if item == 200:
                    break


async def test_its_errors_are_the_runs() -> None:
    """Raised as they are, in its name; a cancellation of its own is a `StageError`."""

    async def fail(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            if item == 2:
                raise ValueError("mine")
            yield item

    async def cancel(items: AsyncIterator[int]) -> AsyncIterator[int]:
        cancelled = anyio.get_cancelled_exc_class()
        async for item in items:
            yield item
            if cancelled.__module__.startswith("asyncio"):
                raise cancelled()
            raise cancelled._create()

    with soon(), pytest.raises(ValueError, match="mine") as caught:
        await Input[int]().transform(fail).collect([1, 2, 3])
    assert caught.value.__notes__ == ["flowstage: raised in stage 'fail' on item 2, attempt 1"]
    with soon(), pytest.raises(StageError, match="stage 'cancel' was cancelled from inside"):
        await Input[int]().transform(cancel).collect([1, 2])


async def test_an_error_in_its_cleanup() -> None:
    """Is raised, not lost, when the body leaves early."""

    async def rude(items: AsyncIterator[int]) -> AsyncIterator[int]:
        try:
            async for item in items:
                yield item
        finally:
            raise ValueError("in cleanup")

    with soon(), pytest.raises(ValueError, match="in cleanup"):
        async with Input[int]().transform(rude).open() as run:
            await run.send(1)
            async for _ in run:
                break
            await settle()


async def test_closed_once_in_its_task() -> None:
    """At the end, early, after a failure elsewhere, in the task that iterated it."""
    diary: list[Any] = []

    async def watched(items: AsyncIterator[int]) -> AsyncIterator[int]:
        diary.append(anyio.get_current_task().id)
        try:
            async for item in items:
                yield item
        finally:
            diary.append(anyio.get_current_task().id)

    def refuse(item: int) -> int:
        raise ValueError

    with soon():
        await Input[int]().transform(watched).collect([1])
        async with Input[int]().transform(watched).open(range(9), buffer=1) as run:
            async for _ in run:
                break
        with pytest.raises(ValueError):
            await Input[int]().transform(watched).map(refuse).collect(range(9))
    assert len(diary) == 6
    assert all(a == b for a, b in zip(diary[::2], diary[1::2], strict=True))


async def test_marks_pass_when_the_next_item_is_asked_for() -> None:
    """A sentinel stands behind what was given before; failures pass beside."""

    async def pairs(items: AsyncIterator[int]) -> AsyncIterator[Any]:
        async for first in items:
            async for second in items:
                yield (first, second)
                break

    def refuse(item: int) -> int:
        if item == 0:
            raise ValueError
        return item

    with soon():
        flow = Input[Any]().map(refuse).transform(pairs)
        sent = [1, Sentinel("a"), 2, 0, 3, 4, Sentinel("b")]
        async with flow.open(sent, on_error="emit") as run:
            events = [getattr(event, "item", event) async for event in run.events()]
    assert events == [Sentinel("a"), (1, 2), 0, (3, 4), Sentinel("b")]


async def test_several_transforms() -> None:
    """One after the other, with other stages between."""
    with soon():
        flow = Input[int]().transform(same).map(abs).transform(same).batch(2).transform(same)
        assert await flow.collect(range(5)) == [[0, 1], [2, 3], [4]]
        with_segments = Input[Any]().transform(same, segments=True).transform(same, segments=True)
        assert await with_segments.collect([1, Sentinel("s"), 2]) == [1, 2]


async def test_asking_after_the_end() -> None:
    """The iterator stays at its end."""

    async def ask(items: AsyncIterator[int]) -> AsyncIterator[Any]:
        kept = [item async for item in items]
        kept += [item async for item in items]
        yield kept

    with soon():
        assert await Input[int]().transform(ask).collect([1, 2]) == [[1, 2]]


async def polled(items: AsyncIterator[int]) -> AsyncIterator[int]:
    """Ask again and again, and wait for no answer; every item takes longer than a turn."""
    while True:
        item = None
        with anyio.move_on_after(0):
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
        if item is None:
            await anyio.sleep(0.0001)
        else:
            yield item
        time.sleep(0.0015)


async def collected(items: AsyncIterator[int]) -> AsyncIterator[int]:
    """Give what has come at the end of each period, as one would write `batch` by hand."""
    batch: list[int] = []
    due = anyio.current_time() + 0.004
    while True:
        with anyio.CancelScope(deadline=due):
            try:
                batch.append(await anext(items))
            except StopAsyncIteration:
                break
            time.sleep(0.0015)
        if anyio.current_time() >= due:
            for item in batch:
                yield item
            batch, due = [], anyio.current_time() + 0.004
    for item in batch:
        yield item


@pytest.mark.parametrize("fn", [polled, collected])
async def test_a_timeout_around_a_question_loses_nothing(fn: Any) -> None:
    """What has been taken is given to the function, or it has not been taken."""
    flow = Input[int]().transform(fn)
    with soon():
        async with flow.open() as run:
            await run.feed(range(60))
            run.finish()
            assert [item async for item in run] == [*range(60)]
    check_accounts(run.report(), over=True)


async def test_a_timeout_around_a_question_loses_no_mark() -> None:
    """One that finds no room when the function asks goes on later, before what is given then."""

    def refuse(item: int) -> int:
        if item % 7 == 3:
            raise ValueError
        return item

    flow = Input[Any]().map(refuse).transform(polled)
    sent = [Sentinel(n) if n % 5 == 0 else n for n in range(40)]
    with soon():
        async with flow.open(sent, buffer=1, on_error="emit") as run:
            events = []
            async for event in run.events():
                events.append(getattr(event, "item", event))
                await settle()
    assert events == sent
    check_accounts(run.report(), over=True)


async def test_a_mark_that_finds_no_room_before_the_end() -> None:
    """The function has asked, so it goes on, whatever the function does then."""

    go = anyio.Event()

    async def asks_in_vain(items: AsyncIterator[int]) -> AsyncIterator[Any]:
        yield "given"
        await go.wait()
        for _ in range(2):  # the first question may only give others their turn
            with anyio.move_on_after(0):
                await anext(items, None)

    flow = Input[int]().transform(asks_in_vain)
    with soon():
        async with flow.open(buffer=1) as run:
            await run.send_sentinel("s")
            go.set()
            await settle()
            assert [event async for event in run.events()] == ["given", Sentinel("s")]


def read_ahead(group: anyio.abc.TaskGroup) -> Any:
    """Make a function that has a task of a group read, and gives meanwhile."""

    async def read(items: AsyncIterator[Any], send: Any) -> None:
        with suppress(ClosedError, anyio.BrokenResourceError):
            async with send:
                async for item in items:
                    await send.send(item)

    async def give(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        send, receive = anyio.create_memory_object_stream[Any](1)
        group.start_soon(read, items, send)
        async with receive:
            async for item in receive:
                yield item

    return give


@pytest.mark.parametrize("buffer", [0, 1, 100])
async def test_a_task_of_the_functions_reads(buffer: int) -> None:
    """It waits for input, or for room for a sentinel, while the function gives a result."""
    sent = [Sentinel(n) if n % 3 == 0 else n for n in range(30)]
    with soon():
        async with anyio.create_task_group() as group:
            flow = Input[Any]().transform(read_ahead(group))
            async with flow.open(buffer=buffer) as run:
                events: list[Any] = []

                async def feed() -> None:
                    for number, item in enumerate(sent):
                        await run.feed([item])
                        await settle(7 * number % 20)
                    run.finish()

                group.start_soon(feed)
                async for event in run.events():
                    events.append(event)
                    await settle(10)
    for kind in (int, Sentinel):
        assert [e for e in events if type(e) is kind] == [e for e in sent if type(e) is kind]
    check_accounts(run.report(), over=True)


async def test_asking_once_too_often() -> None:
    """A function that does not see the end of its items is told how it can."""

    async def in_pairs(items: AsyncIterator[int]) -> AsyncIterator[Any]:
        while True:
            yield await anext(items), await anext(items)

    with soon(), pytest.raises(RuntimeError, match="StopAsyncIteration") as caught:
        await Input[int]().transform(in_pairs).collect(range(3))
    assert any("anext(items, default)" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("reads", ["itself", "by a task"])
async def test_leaving_while_the_function_asks_under_a_shield(reads: str) -> None:
    """It cannot be cancelled there, so it is refused; the run does not wait for what never comes."""
    told: list[BaseException] = []

    async def ask(items: AsyncIterator[int]) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await anext(items)
            except ClosedError as error:
                told.append(error)

    async def stubborn(items: AsyncIterator[int]) -> AsyncIterator[int]:
        yield 1
        if reads == "itself":
            await ask(items)
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(ask, items)

    with soon():
        async with Input[int]().transform(stubborn).open() as run:
            async for _ in run:
                await settle()
                break
    assert len(told) == 1


@pytest.mark.parametrize("late", [0, 0.002])
async def test_two_tasks_of_the_function_ask_at_once(late: float) -> None:
    """The second one is refused, and told how to have calls at once; the first one goes on.

    Also when the first one only lets others have the turn that is due to them.
    """
    refused: list[BusyResourceError] = []

    async def crowded(items: AsyncIterator[int]) -> AsyncIterator[int]:
        got: list[int] = []
        time.sleep(late)

        async def ask() -> None:
            try:
                got.append(await anext(items))
            except BusyResourceError as error:
                refused.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            group.start_soon(ask)
        (item,) = got
        yield item

    with soon():
        async with Input[int]().transform(crowded).open() as run:
            await settle()
            await run.send(7)
            assert [item async for item in run] == [7]
    (error,) = refused
    assert "transform 'crowded'; for calls at once use map(" in str(error)


@pytest.mark.parametrize("buffer", [0, 1])
async def test_an_interrupt_while_a_task_of_the_functions_reads(buffer: int) -> None:
    """At whatever point: nothing old comes out, and the task is told that its life is over."""
    old = ["old", Sentinel("old"), "old", Sentinel("old")] * 2
    new = ["new", Sentinel("new"), "new"]
    with soon():
        for turns in range(40):
            async with anyio.create_task_group() as group:
                flow = Input[Any]().transform(read_ahead(group))
                async with flow.open(buffer=buffer) as run:
                    async with anyio.create_task_group() as feeding:
                        feeding.start_soon(run.feed, old)
                        await settle(turns)
                        feeding.cancel_scope.cancel()
                    run.interrupt()
                    group.start_soon(run.feed, new)
                    events = run.events()
                    got = [await anext(events) for _ in new]
                    assert sorted(map(str, got)) == sorted(map(str, new))
                    if turns % 2:
                        run.finish()
                        assert [event async for event in events] == []
            check_accounts(run.report(), over=True)


@pytest.mark.parametrize("shield", [False, True])
async def test_an_old_life_gets_nothing_new(shield: bool) -> None:
    """After an interrupt the items are another life's; a shield does not change that."""
    seen: list[Any] = []

    async def once_more(items: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            async for item in items:
                yield item
        finally:
            if run.report().interrupts == len(seen) + 1:
                with anyio.CancelScope(shield=shield):
                    try:
                        seen.append(await anext(items))
                    except BaseException as error:
                        seen.append(type(error))
                        raise

    flow = Input[str]().transform(once_more)
    with soon():
        async with flow.open() as run:
            results = aiter(run)
            await run.send("old")
            assert await anext(results) == "old"
            await settle()
            assert run.interrupt() == 0
            await run.send("new 1")
            await run.send("new 2")
            run.finish()
            assert [item async for item in results] == ["new 1", "new 2"]
    assert seen == [ClosedError if shield else anyio.get_cancelled_exc_class()]
    check_accounts(run.report(), over=True)


async def test_an_interrupt_while_a_shielded_question_waits() -> None:
    """No cancellation comes through, so the question is refused; the next life is like any other."""

    async def shielded(items: AsyncIterator[int]) -> AsyncIterator[int]:
        item: int | None = 0
        while item is not None:
            with anyio.CancelScope(shield=True):
                item = await anext(items, None)
            if item is not None:
                yield item

    with soon():
        async with Input[int]().transform(shielded).open() as run:
            results = aiter(run)
            for number in (1, 2):
                await run.send(number)
                assert await anext(results) == number
                await settle()
                run.interrupt()
            run.finish()
            assert [item async for item in results] == []
    check_accounts(run.report(), over=True)


@pytest.mark.parametrize("shield", [False, True])
async def test_an_interrupt_while_a_segment_is_concluded(shield: bool) -> None:
    """The sentinel that ended it is as old as its items, though the function comes to its end."""
    begun, go = anyio.Event(), anyio.Event()

    async def concluded(items: AsyncIterator[str]) -> AsyncIterator[str]:
        async for item in items:
            yield item
        if begun.is_set():
            return
        begun.set()
        if shield:
            with anyio.CancelScope(shield=True):
                await go.wait()
        else:
            run.interrupt()

    flow = Input[str]().transform(concluded, segments=True)
    with soon():
        async with flow.open() as run:
            await run.send("old")
            await run.send_sentinel("old")
            await begun.wait()
            if shield:
                run.interrupt()
                go.set()
            await run.send("new")
            await run.send_sentinel("new")
            run.finish()
            assert [event async for event in run.events()] == ["new", Sentinel("new")]
    check_accounts(run.report(), over=True)


@pytest.mark.parametrize("pause", [0, 0.005])
async def test_what_has_given_its_last_is_over_before_anything_else(pause: float) -> None:
    """So an interrupt by the reader of the last result finds it ended, however long all took."""

    async def two(items: AsyncIterator[int]) -> AsyncIterator[int]:
        for _ in range(2):
            yield await anext(items)
            time.sleep(pause)

    with soon():
        async with Input[int]().transform(two).open() as run:
            results = aiter(run)
            await run.send(1)
            assert await anext(results) == 1
            await anyio.sleep(pause)
            await run.send(2)
            assert await anext(results) == 2
            run.interrupt()
            with pytest.raises(ClosedError):
                for number in range(3, 10):
                    await run.send(number)
                    await settle()
            assert [item async for item in results] == []
    check_accounts(run.report(), over=True)
