"""The life of a run: opened, left, cancelled from outside, misused, and gone when the block ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import ClosedError, Flow, Input, Threads, gather, merge, source, zip, zip_latest
from flowstage.operators import take

from .accounts import check_accounts, settle, soon
from .harness import no_leaks

ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)


async def same(item: Any) -> Any:
    await checkpoint()
    return item


class Source:
    """An async generator that keeps a diary."""

    def __init__(self, number: int = 1000) -> None:
        self.number = number
        self.diary: list[str] = []

    async def __call__(self) -> AsyncIterator[int]:
        self.diary.append("opened")
        try:
            for item in range(self.number):
                await checkpoint()
                yield item
        finally:
            self.diary.append("closed")


def everything(items: Any) -> Any:
    return (
        source(items.__call__)
        .map(abs)
        .map(same, concurrency=3)
        .map(abs, on=Threads(2))
        .batch(2)
        .flat_map(iter)
        .map(same)
    )


async def test_leaving_early(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left, the source is closed once, and one warning tells what was discarded."""
    items = Source()
    with soon(), no_leaks(), caplog.at_level(logging.WARNING, "flowstage"):
        async with everything(items).open(buffer=3) as run:
            async for item in run:
                if item == 5:
                    break
    assert items.diary == ["opened", "closed"]
    (record,) = caplog.records
    discarded = run.report()
    check_accounts(discarded, over=True)
    assert "the run was left with" in record.getMessage()


async def test_break_and_go_on() -> None:
    """A new `async for` goes on with the next item."""
    with soon():
        async with source(range(10)).map(same).open() as run:
            got = []
            for _ in range(3):
                async for item in run:
                    got.append(item)
                    if item % 3 == 2:
                        break
            got += [item async for item in run]
            assert got == list(range(10))
            assert [item async for item in run] == []


async def test_the_body_is_cancelled_from_outside_at_any_moment() -> None:
    """Outer cancellation goes out as it came, wherever it strikes; nothing is left."""
    for turns in range(0, 30, 3):
        items = Source()
        reached = False
        with soon(), no_leaks():
            async with anyio.create_task_group() as group:

                async def cancel_later(turns: int = turns, group: Any = group) -> None:
                    await settle(turns)
                    group.cancel_scope.cancel()

                group.start_soon(cancel_later)
                async with everything(items).open(buffer=2) as run:
                    async for _ in run:
                        pass
                reached = True
        assert not reached
        assert items.diary in ([], ["opened", "closed"])
        check_accounts(run.report(), over=True)


async def test_an_already_cancelled_scope_runs_no_user_code() -> None:
    """The source is not opened."""
    items = Source()
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with everything(items).open() as run:
            async for _ in run:
                raise AssertionError("an item")
    assert scope.cancelled_caught
    assert items.diary == []


async def test_left_at_once() -> None:
    """A body that does nothing."""
    items = Source()
    with soon(), no_leaks():
        async with everything(items).open():
            pass
    assert items.diary in ([], ["opened", "closed"])


@ASYNCIO
async def test_native_cancel() -> None:
    """`Task.cancel` ends the run and stays what it is."""
    for turns in range(0, 40, 3):
        items = Source()

        async def main(items: Any = items) -> None:
            async with everything(items).open(buffer=2) as run:
                async for _ in run:
                    pass

        with soon(), no_leaks():
            task = asyncio.ensure_future(main())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
        assert items.diary in ([], ["opened", "closed"])


@ASYNCIO
async def test_a_second_native_cancel_during_cleanup() -> None:
    """Does not lose what the run owns."""
    for turns in range(12):
        closed: list[bool] = []

        @asynccontextmanager
        async def items(closed: Any = closed) -> AsyncIterator[Any]:
            try:
                yield Source(10**9)()
            finally:
                for _ in range(4):
                    await asyncio.sleep(0)
                closed.append(True)

        async def main(items: Any = items) -> None:
            async with source(items).map(same, concurrency=2).open(buffer=2) as run:
                async for _ in run:
                    pass

        with soon(), no_leaks():
            task = asyncio.ensure_future(main())
            for _ in range(20):
                await asyncio.sleep(0)
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert closed == [True]


@ASYNCIO
async def test_asyncio_timeouts() -> None:
    """`asyncio.timeout` and `wait_for` around a run, and inside its body."""
    items = Source(10**9)
    with no_leaks(), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await everything(items).drain()
    assert items.diary == ["opened", "closed"]
    items = Source(10**9)
    with no_leaks(), pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(everything(items).drain(), 0.01)
    assert items.diary == ["opened", "closed"]
    with soon(), no_leaks():
        async with Input[int]().map(same).open() as run:
            got: list[int] = []
            for number in range(5):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        async for item in run:
                            got.append(item)
                await run.send(number)
            run.finish()
            assert got + [item async for item in run] == list(range(5))


@ASYNCIO
async def test_a_native_timeout_loses_no_item() -> None:
    """A reader that gives up again and again gets everything, each item once."""
    with soon():
        async with source(Source(200).__call__).map(same).open(buffer=1) as run:
            got: list[int] = []
            while len(got) < 200:
                try:
                    async with asyncio.timeout(0):
                        async for item in run:
                            got.append(item)
                except TimeoutError:
                    await asyncio.sleep(0)
    assert got == list(range(200))


async def test_entered_in_one_task_and_left_in_another() -> None:
    """A clear error; the task that entered can still end it."""
    opening = Input[int]().map(same).open()
    run = await opening.__aenter__()

    async def leave() -> None:
        with pytest.raises(RuntimeError, match="entered in one task and left in another"):
            await opening.__aexit__(None, None, None)

    async with anyio.create_task_group() as group:
        group.start_soon(leave)
    await opening.__aexit__(None, None, None)
    with pytest.raises(ClosedError):
        await run.send(1)


async def test_two_tasks_iterating() -> None:
    """One reader at a time; the error is the second one's."""
    with soon():
        async with Input[int]().open() as run, anyio.create_task_group() as group:
            got: list[int] = []

            async def read() -> None:
                got.extend([item async for item in run])

            group.start_soon(read)
            await settle()
            with pytest.raises(anyio.BusyResourceError):
                async for _ in run:
                    pass
            await run.send(1)
            run.finish()
        assert got == [1]


async def test_a_reader_that_is_let_go_as_it_is_rung_does_not_silence_the_next() -> None:
    """The next one takes what came, and waits for more before the first has moved."""
    with soon():
        async with Input[int]().open() as run, anyio.create_task_group() as group:
            reading = aiter(run)
            scope = anyio.CancelScope()

            async def read() -> None:
                with scope, suppress(anyio.BusyResourceError):
                    await anext(reading)
                    raise AssertionError("it is the next one's")

            async def send() -> None:
                await settle()
                await run.send(2)

            group.start_soon(read)
            await settle()
            group.start_soon(send)
            run.send_nowait(1)
            scope.cancel()
            assert [await anext(reading), await anext(reading)] == [1, 2]
            group.cancel_scope.cancel()


async def test_another_task_reads_while_the_block_is_left() -> None:
    """A reader elsewhere learns that the run is over, also while it waits."""
    with soon():
        async with anyio.create_task_group() as group:
            async with Input[int]().map(same).open() as run:
                ends: list[str] = []

                async def read() -> None:
                    try:
                        async for _ in run:
                            pass
                    except ClosedError:
                        ends.append("closed")

                group.start_soon(read)
                await settle()
            await settle()
            assert ends == ["closed"]


async def test_another_task_sends_while_the_block_is_left() -> None:
    """A send that waits as the run ends has not been accepted."""
    with soon():
        async with anyio.create_task_group() as group:
            async with Input[int]().open(buffer=1) as run:
                ends: list[str] = []

                async def send() -> None:
                    try:
                        await run.send(1)
                        await run.send(2)
                    except ClosedError:
                        ends.append("closed")

                async def send_sentinel() -> None:
                    try:
                        await run.send_sentinel(1)
                        ends.append("sent")
                    except ClosedError:
                        ends.append("closed")

                group.start_soon(send)
                await settle()
                group.start_soon(send_sentinel)
                await settle()
            await settle()
            assert ends == ["closed", "closed"]


async def test_use_after_the_end() -> None:
    """Clear errors, and reports that stay."""
    async with Input[int]().map(same).open() as run:
        await run.send(1)
        run.finish()
        async for _ in run:
            pass
    for use in (
        lambda: run.send(1),
        lambda: run.send_sentinel(1),
        lambda: run.feed([1]),
        lambda: anext(run.__aiter__()),
        lambda: anext(run.events()),
    ):
        with pytest.raises(ClosedError, match="the run is over"):
            await use()
    with pytest.raises(ClosedError, match="the run is over"):
        run.send_nowait(1)
    run.finish()
    await run.stop()
    assert run.interrupt() == 0
    assert run.report().stage("same").done == 1
    assert "over" in repr(run)


async def test_an_opening_is_entered_once() -> None:
    """Each run has its own `open()`."""
    opening = source([1]).open()
    async with opening as run:
        assert [item async for item in run] == [1]
    with pytest.raises(RuntimeError, match="entered once"):
        async with opening:
            pass


async def test_many_runs_of_one_flow_at_once() -> None:
    """Runs share nothing."""
    flow = Input[int]().map(same, concurrency=2).batch(3)
    results: list[Any] = []

    async def collect(first: int) -> None:
        results.append(await flow.collect(range(first, first + 7)))

    with soon():
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(collect, number)
    assert sorted(results) == [
        [[n, n + 1, n + 2], [n + 3, n + 4, n + 5], [n + 6]] for n in range(5)
    ]


async def test_a_run_inside_a_stage_of_another() -> None:
    """It ends first and cleanly, also when the outer one is cancelled or fails."""
    inner = Input[int]().map(same).map(abs, on=Threads(1))
    ended: list[str] = []

    async def outer(item: int) -> list[int]:
        try:
            return await inner.collect(range(item))
        finally:
            ended.append("inner")

    with soon(), no_leaks():
        assert await Input[int]().map(outer, concurrency=2).collect([2, 3]) == [[0, 1], [0, 1, 2]]
        async with Input[int]().map(outer, concurrency=2).open([10**6] * 2) as run:
            await settle(10)
        assert ended == ["inner"] * 4
        check_accounts(run.report(), over=True)

    async def fail(item: int) -> Any:
        def refuse(item: int) -> int:
            raise ValueError(item)

        return await inner.map(refuse).collect([item])

    with soon(), no_leaks(), pytest.raises(ValueError, match="7") as caught:
        await Input[int]().map(fail).collect([7])
    assert [note.partition(" on ")[0] for note in caught.value.__notes__][-1].endswith("'fail'")


async def test_context_variables() -> None:
    """Those of the task that entered `open()`, for every kind of user code."""
    variable = contextvars.ContextVar("variable", default="nowhere")
    seen: list[str] = []

    def look(item: Any) -> Any:
        seen.append(variable.get())
        return item

    async def look_async(item: Any) -> Any:
        return look(item)

    def items() -> Iterator[int]:
        yield look(1)

    async def pass_on(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield look(item)

    flow = (
        source(items)
        .map(look)
        .map(look_async)
        .map(look_async, concurrency=2)
        .map(look, on=Threads(1))
        .map(look, on=Threads(1), timeout=9)
        .map(look_async, timeout=9)
        .transform(pass_on)
    )
    variable.set("here")
    with soon():
        async with flow.open() as run:
            variable.set("later")
            assert [item async for item in run] == [1]
    assert seen == ["here"] * 8


async def test_collect_call_drain() -> None:
    """The three short ways."""
    flow = Input[int]().map(lambda item: item + 1)
    assert await flow.collect([1, 2]) == [2, 3]
    assert await flow.collect([]) == []
    assert await flow.call(1) == 2
    report = await flow.drain([1, 2, 3])
    assert report.stage("lambda").done == 3
    check_accounts(report, over=True)


async def test_calls_lookup_error() -> None:
    """`call` is for one result; a skipped error is the cause."""

    def refuse(item: int) -> int:
        raise ValueError("the reason")

    with pytest.raises(LookupError, match="no result") as caught:
        await Input[int]().filter(lambda item: False).call(1)
    assert caught.value.__cause__ is None
    with pytest.raises(LookupError, match="no result") as caught:
        await Input[int]().map(refuse).call(1, on_error="skip")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(LookupError, match="2 results"):
        await Input[int]().flat_map(lambda item: [1, 2]).call(1)
    with pytest.raises(ValueError, match="the reason"):
        await Input[int]().map(refuse).call(1)
    with pytest.raises(ValueError, match="the reason"):
        await Input[int]().map(refuse).call(1, on_error="emit")

    async def never(items: AsyncIterator[int]) -> AsyncIterator[int]:
        for _ in ():
            yield 1

    for buffer in (0, 1):  # without room the item waits, and then nobody wants it
        with soon(), pytest.raises(LookupError, match="no result"):
            await Input[int]().transform(never).call(1, buffer=buffer)


async def test_the_result_is_complete_when_cancelled_after_the_last() -> None:
    """A cancellation that comes after the last item changes no result."""
    with anyio.CancelScope() as scope:
        got = await Input[int]().map(same).collect([1, 2, 3])
        scope.cancel()
    assert got == [1, 2, 3]


@pytest.mark.slow
async def test_a_hundred_runs_leave_the_threads_flat() -> None:
    """Threads are kept and used again."""
    flow = Input[int]().map(abs, on=Threads(3)).map(abs, on=Threads(1), timeout=9)
    await flow.collect(range(10))
    before = threading.active_count()
    for _ in range(100):
        await flow.collect(range(10))
    assert threading.active_count() <= before + 4


async def test_a_failing_run_in_another_task_wakes_its_reader() -> None:
    """Readers outside the block's task do not wait for ever."""

    def refuse(item: int) -> int:
        raise ValueError

    ends: list[str] = []
    with soon():
        async with anyio.create_task_group() as group:
            with pytest.raises(ValueError):
                async with Input[int]().map(refuse).open() as run:

                    async def read() -> None:
                        try:
                            async for _ in run:
                                pass
                        except ClosedError:
                            ends.append("closed")

                    group.start_soon(read)
                    await settle()
                    await run.send(1)
                    await anyio.sleep_forever()
    assert ends == ["closed"]


async def test_a_discarded_generator_source_is_closed_by_nobody_else() -> None:
    """A generator object handed over is closed with the run, in the task that iterated it."""
    tasks: list[Any] = []

    async def items() -> AsyncIterator[int]:
        tasks.append(anyio.get_current_task().id)
        try:
            while True:
                yield 1
        finally:
            tasks.append(anyio.get_current_task().id)

    with soon(), no_leaks():
        async with Input[int]().open(items(), buffer=1) as run:
            async for _ in run:
                break
    assert len(tasks) == 2
    assert tasks[0] == tasks[1]


def test_asyncio_shuts_down_while_a_thread_is_at_work() -> None:
    """It cancels every task natively, and no shield holds against that: the thread is waited for."""
    begun, done = threading.Event(), []

    def slow(item: int) -> int:
        begun.set()
        time.sleep(0.05)
        done.append(item)
        return item

    async def body() -> None:
        async with Input[int]().map(slow, on=Threads(1)).open([1]) as run:
            async for _ in run:
                pass

    async def main() -> None:
        task = asyncio.create_task(body())
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.get_name()  # and nobody waits for it

    asyncio.run(main())
    assert done == [1]


async def test_who_had_enough_is_not_warned(caplog: pytest.LogCaptureFixture) -> None:
    """`take` says that the rest is not wanted, however much of it is under way."""

    async def nap(item: int) -> int:
        await anyio.sleep(0.001)
        return item

    for above in (
        Input[int]().map(nap, concurrency=8),
        Input[int]().map(nap),
        Input[int]().map(abs, on=Threads(2)),
        Input[int]().map(nap, concurrency=8, ordered=False).batch(2).flat_map(iter),
    ):
        assert len(await above.pipe(take, 3).collect(range(1000))) == 3
        await above.pipe(take, 3).drain(range(1000))
        async with above.pipe(take, 3).open(range(1000)) as run:
            async for _ in run:
                pass
    assert not caplog.text


async def test_a_reader_outside_the_block_is_told_why_it_ends() -> None:
    """Neither a failure nor a cancellation: the block was left."""
    told: list[str] = []

    async def read(run: Any) -> None:
        try:
            async for _ in run:
                pass
        except ClosedError as error:
            told.append(str(error))

    async with anyio.create_task_group() as group:
        async with Input[int]().map(same).open() as run:
            group.start_soon(read, run)
            await settle()
    assert "block is being left" in told[0]


class Thing:
    """An item that tells when it is gone."""


async def same_later(item: Thing) -> Thing:
    await checkpoint()
    return item


async def one_later(item: Thing) -> AsyncIterator[Thing]:
    await checkpoint()
    yield item


@pytest.mark.parametrize("timing", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda flow: flow.map(lambda item: item),
        lambda flow: flow.map(same_later),
        lambda flow: flow.map(same_later).filter(bool),
        lambda flow: flow.map(same_later, concurrency=3),
        lambda flow: flow.map(same_later, concurrency=3, ordered=False),
        lambda flow: flow.flat_map(one_later, concurrency=2),
        lambda flow: flow.map(lambda item: item, on=Threads(2)),
        lambda flow: flow.batch(1).map(lambda items: items[0]),
    ],
    ids=["inline", "async", "fused", "pool", "unordered", "flat pool", "thread", "batch"],
)
async def test_an_idle_run_keeps_no_item(make: Any, timing: bool) -> None:
    """What has come out is the reader's alone."""
    refs: list[weakref.ref[Thing]] = []
    with soon():
        async with make(Input[Thing]()).open(timing=timing) as run:
            results = aiter(run)
            for _ in range(5):
                thing = Thing()
                refs.append(weakref.ref(thing))
                await run.send(thing)
                del thing
                await anext(results)
            await settle()
            gc.collect()
            assert [ref() for ref in refs] == [None] * 5


@pytest.mark.parametrize("timing", [False, True])
async def test_a_drained_run_keeps_no_item_while_it_waits(timing: bool) -> None:
    """What is read and dropped is gone, however late the next one comes."""
    refs: list[weakref.ref[Thing]] = []

    class Things:
        def __aiter__(self) -> Things:
            return self

        async def __anext__(self) -> Thing:
            if len(refs) == 5:
                await anyio.sleep_forever()
            refs.append(weakref.ref(thing := Thing()))
            return thing

    with soon():
        async with source(Things()).open(timing=timing) as run:
            async with anyio.create_task_group() as group:
                group.start_soon(run.drain)
                await settle()
                gc.collect()
                assert [ref() for ref in refs] == [None] * 5
                group.cancel_scope.cancel()


async def never(item: Any) -> None:
    await anyio.sleep_forever()


def some_things(kept: weakref.WeakSet[Thing]) -> Flow[Any, Thing]:
    """A flow of items that are watched."""

    def things() -> Iterator[Thing]:
        for _ in range(50):
            kept.add(thing := Thing())
            yield thing
            del thing

    return source(things)


@pytest.mark.parametrize(
    "make",
    [
        lambda kept: some_things(kept).map(never, concurrency=3),
        lambda kept: some_things(kept).map(same_later, concurrency=3, ordered=False),
        lambda kept: some_things(kept).flat_map(one_later, concurrency=2),
        lambda kept: some_things(kept).map(lambda item: item, on=Threads(1)),
        lambda kept: some_things(kept).flat_map(lambda item: [item, item], on=Threads(1)),
        lambda kept: some_things(kept).batch(30).map(never),
        lambda kept: some_things(kept).batch(1000),
        lambda kept: zip(some_things(kept), some_things(kept).map(never)),
        lambda kept: zip_latest(some_things(kept), some_things(kept).map(same_later)),
        lambda kept: gather(shared := some_things(kept), shared.map(never)),
    ],
    ids=[
        "pool",
        "unordered",
        "flat pool",
        "thread",
        "flat thread",
        "batch",
        "large batch",
        "zip",
        "zip_latest",
        "gather",
    ],
)
async def test_a_run_that_is_over_keeps_no_item(make: Any) -> None:
    """It may be kept for its report; what it had in hand when it was left is gone."""
    kept: weakref.WeakSet[Thing] = weakref.WeakSet()
    with soon():
        async with make(kept).open(buffer=10) as run:
            await settle()
        await anyio.to_thread.run_sync(int)  # a thread has let go of its last call
    gc.collect()
    assert len(kept) == 0
    assert sum(stage.in_hand for stage in run.report().stages) == 0


@pytest.mark.parametrize("verb", ["filter", "flat_map"])
async def test_an_idle_run_keeps_nothing_that_was_dropped(verb: str) -> None:
    """Items of which nothing has come are gone when all of a burst are dropped in the middle."""

    def keep(item: Thing) -> Any:
        passes = len(refs) <= 3  # what stands below has to be seen to be plain
        return passes if verb == "filter" else [item] * passes

    refs: list[weakref.ref[Thing]] = []
    flow = getattr(Input[Thing](), verb)(keep).filter(lambda item: len(refs) <= 3)
    with soon():
        async with flow.map(lambda item: 1).open() as run:
            for count in (3, 40, 40):
                for _ in range(count):
                    refs.append(weakref.ref(thing := Thing()))
                    await run.send(thing)
                    del thing
                await settle()
            gc.collect()
            assert [ref() for ref in refs] == [None] * 83


async def hold_on(item: Any = None) -> Any:
    """Keep the end waiting, as who sends a last message to somebody that does not answer."""
    try:
        await anyio.sleep(60)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)
    return item


async def holding_source() -> AsyncIterator[int]:
    yield 1
    await hold_on()


async def holding_generator(item: int) -> AsyncIterator[int]:
    yield item
    await hold_on()


async def holding_transform(items: AsyncIterator[int]) -> AsyncIterator[int]:
    async for item in items:
        yield item
        await hold_on()


async def holding_task(item: int) -> int:
    async with anyio.create_task_group() as group:
        group.start_soon(hold_on)
    return item


class HoldingObserver:
    async def before_stage(self, *_: Any) -> None:
        await hold_on()


START = Input[int]("in")
ONE = {"source": [1]}
WATCHED = {"source": [1], "observers": [HoldingObserver()]}
HOLDING: dict[str, tuple[Flow[Any, Any], dict[str, Any]]] = {
    "a pull": (source(holding_source, name="me"), {}),
    "a pull, with a stage in its task": (source(holding_source, name="me").map(abs), {}),
    "a map": (START.map(hold_on, name="me"), ONE),
    "a map with a timeout": (START.map(hold_on, timeout=99, name="me"), ONE),
    "a task that a map has started": (START.map(holding_task, name="me"), ONE),
    "one of several at once": (START.map(hold_on, concurrency=3, name="me"), ONE),
    "a flat_map": (START.flat_map(holding_generator, name="me"), ONE),
    "a flat_map, several at once": (
        START.flat_map(holding_generator, concurrency=2, name="me"),
        ONE,
    ),
    "a transform": (START.transform(holding_transform, name="me"), ONE),
    "the key of a route": (merge(*START.route(hold_on, [1, 2], name="me").values()), ONE),
    "an observer": (START.map(str, name="me"), WATCHED),
    "an observer of several at once": (START.map(same, concurrency=2, name="me"), WATCHED),
    "an observer of a thread": (START.map(str, on=Threads(1), name="me"), WATCHED),
}


@pytest.mark.parametrize(("flow", "options"), HOLDING.values(), ids=HOLDING)
async def test_whatever_keeps_the_end_waiting_is_named(
    flow: Flow[Any, Any], options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Once, by its stage, with the lines at which it stands in the code of the user."""
    with soon():
        async with flow.open(close_timeout=0.02, **options) as run:
            with anyio.move_on_after(0.02):
                async for _ in run:
                    pass
    texts = [r.getMessage() for r in caplog.records if r.name == "flowstage"]
    (text,) = [text for text in texts if "closing waits for" in text]
    assert "stage 'me" in text
    first, *lines = text.splitlines()
    assert first.endswith("; it is at")
    assert lines[-1].endswith(" in hold_on")
    assert all(__file__ in line for line in lines if line != "and at")
    if flow is HOLDING["a task that a map has started"][0]:
        assert [lines[0].endswith(" in holding_task"), lines[1]] == [True, "and at"]


async def test_of_several_calls_the_longest_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """And how many more there are; of their stacks a few."""
    with soon():
        async with START.map(hold_on, concurrency=9).open(range(9), close_timeout=0.02):
            await anyio.sleep(0.02)
    (text,) = [r.getMessage() for r in caplog.records if "closing waits for" in r.getMessage()]
    assert "stage 'hold_on', which has been busy with " in text
    assert " s, and with 8 more; it is at" in text
    assert text.count(" in hold_on") == 3


async def test_nobody_is_named_who_ends_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """No warning of the end without a reason."""

    async def leave(flow: Flow[Any, Any], options: dict[str, Any]) -> None:
        async with flow.open(close_timeout=4, **options):
            await anyio.sleep(0.01)

    with soon():
        async with anyio.create_task_group() as group:
            for flow, options in HOLDING.values():
                group.start_soon(leave, flow, options)
    assert "closing waits for" not in caplog.text


async def test_what_is_told_of_the_end_never_breaks_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It looks into objects that are not ours."""

    def fails(*_: Any) -> Any:
        raise OSError

    monkeypatch.setattr("flowstage._late.stack_of", fails)
    with soon():
        async with START.map(hold_on).open([1], close_timeout=0.02) as run:
            await anyio.sleep(0.02)
    assert "Error" not in caplog.text
    check_accounts(run.report(), over=True)
