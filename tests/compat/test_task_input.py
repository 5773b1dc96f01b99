"""AsyncTaskPipeline's input: the queue, what clears it, and what becomes of those who wait at it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio
from anyio import to_thread, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from flowstage.compat import _task_input
from flowstage.compat.async_task_pipeline import AsyncTaskPipeline

from ..test_parity import items, results, running, same, until

Pipe = AsyncTaskPipeline[Any, Any]
STOPPED = "Pipeline is not running"


@asynccontextmanager
async def held(**options: Any) -> AsyncIterator[tuple[Pipe, threading.Event]]:
    """A pipeline whose stage is busy with the item 0 until the event is set; its queue is empty."""
    go = threading.Event()

    def wait(item: Any) -> Any:
        go.wait(10)
        return item

    async with running({"wait": wait}, **options) as pipeline:
        await pipeline.process_input_data(0, 0.0)
        await until(lambda: pipeline.input_queue.empty())
        try:
            yield pipeline, go
        finally:
            go.set()


async def test_the_input_queue_holds_what_no_stage_has_begun() -> None:
    """Exactly `max_queue_size` things; who brings one more waits."""
    async with held(max_queue_size=3) as (pipeline, go), anyio.create_task_group() as group:
        for size, item in enumerate((1, 2, 3), start=1):
            await pipeline.process_input_data(item, 0.0)
            assert pipeline.input_queue.qsize() == size
        assert pipeline.input_queue.full()
        group.start_soon(pipeline.process_input_data, 4, 0.0)
        await wait_all_tasks_blocked()
        assert pipeline.counter == 4
        go.set()
        stream = pipeline.generate_output_stream()
        assert [await anext(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert pipeline.counter == 5


async def test_a_cleared_input_queue_is_empty_and_takes_more() -> None:
    """Items and sentinels are gone, and so many times over; what comes next comes out."""
    async with held(max_queue_size=3) as (pipeline, go):
        for _ in range(5):
            await pipeline.process_input_data("dropped", 0.0)
            await pipeline.process_input_sentinel("dropped too")
            await pipeline.process_input_data("dropped", 0.0)
            pipeline.clear_input_queue()
            assert pipeline.input_queue.empty()
            assert not pipeline.input_queue.full()
        await pipeline.process_input_data(1, 0.0)
        await pipeline.process_input_sentinel("turn")
        await pipeline.process_input_data(2, 0.0)
        go.set()
        assert await results(pipeline, 3) == [0, 1, "turn", 2, 3]


async def test_clearing_lets_in_those_who_wait() -> None:
    """In their order; what they bring comes after what was cleared, so it is not dropped."""
    async with held(max_queue_size=2) as (pipeline, go), anyio.create_task_group() as group:
        group.start_soon(pipeline.process_input_stream, items("dropped", "dropped", 1, 2, 3))
        await wait_all_tasks_blocked()
        assert pipeline.counter == 3
        pipeline.clear_input_queue()
        await wait_all_tasks_blocked()
        assert pipeline.counter == 5
        assert pipeline.input_queue.full()
        go.set()
        stream = pipeline.generate_output_stream()
        assert [await anext(stream) for _ in range(4)] == [0, 1, 2, 3]


async def test_an_interrupt_clears_the_input_queue() -> None:
    """With sentinels and all; the stage's old thread takes nothing of what comes next."""
    async with held(max_queue_size=2) as (pipeline, go), anyio.create_task_group() as group:
        await pipeline.process_input_sentinel("dropped")
        await pipeline.process_input_data("dropped", 0.0)
        group.start_soon(pipeline.process_input_data, 1, 0.0)
        await wait_all_tasks_blocked()
        await pipeline.interrupt()
        await wait_all_tasks_blocked()
        assert pipeline.input_queue.qsize() == pipeline.counter == 1
        go.set()
        assert await results(pipeline, 2) == [1, 2]


async def test_a_cleared_output_queue_is_empty_and_takes_more() -> None:
    """Items, failures and sentinels are gone; a stage that waited for room goes on."""
    stages = {"invert": lambda item: 1 / item}
    async with (
        running(stages, max_queue_size=3, return_exceptions=True) as pipeline,
        anyio.create_task_group() as group,
    ):
        queue = pipeline.output_queue
        await pipeline.process_input_sentinel("dropped")
        await pipeline.process_input_stream(items(1, 0))
        await until(queue.full)
        group.start_soon(pipeline.process_input_stream, items(2, 4))
        await wait_all_tasks_blocked()
        pipeline.clear_output_queue()
        await until(lambda: queue.qsize() == 2)
        assert [found async for found in pipeline.generate_output_stream()] == [0.5, 0.25]


async def test_a_stream_ends_though_its_end_was_cleared() -> None:
    """It waits for nothing that was dropped."""
    async with running({"same": same}) as pipeline:
        await pipeline.process_input_stream(items(1, 2, 3))
        stream = pipeline.generate_output_stream()
        assert await anext(stream) == 1
        await pipeline.process_input_data(4, 0.0)
        await until(lambda: pipeline.output_queue.qsize() == 3)
        pipeline.clear_output_queue()
        assert pipeline.output_queue.empty()
        with anyio.fail_after(10):
            assert [result async for result in stream] == []


async def test_sentinels_left_by_a_stop_are_cleared_too() -> None:
    """Whatever was not read."""
    async with running({"same": same}) as pipeline:
        await pipeline.process_input_sentinel("turn")
        await until(lambda: not pipeline.output_queue.empty())
    assert pipeline.output_queue.qsize() == 1
    pipeline.clear_output_queue()
    assert pipeline.output_queue.empty()
    assert [found async for found in pipeline.generate_output_stream()] == []


async def test_who_gives_up_waiting_has_put_nothing_in() -> None:
    """A cancelled feeder leaves its place to the next one."""
    async with held(max_queue_size=1) as (pipeline, go), anyio.create_task_group() as group:
        await pipeline.process_input_data(1, 0.0)
        with anyio.CancelScope() as scope:
            group.start_soon(pipeline.process_input_data, 2, 0.0)
            await wait_all_tasks_blocked()
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(pipeline.process_input_data, "gave up", 0.0)
                await wait_all_tasks_blocked()
                scope.cancel()
        go.set()
        stream = pipeline.generate_output_stream()
        assert [await anext(stream) for _ in range(3)] == [0, 1, 2]


def feeding(pipeline: Pipe, told: list[BaseException]) -> Any:
    """A stage's function that feeds its own pipeline until that tells it why not."""

    def feed(item: Any) -> Any:
        try:
            while item == "feed":
                pipeline.put_input_data(item, 0.0)
        except BaseException as error:
            told.append(error)
            raise
        return item

    return feed


def assert_told(told: list[BaseException]) -> None:
    assert [(type(error), str(error)) for error in told] == [(RuntimeError, STOPPED)]


async def test_a_stage_that_waits_to_feed_is_freed_by_stop() -> None:
    """With the documented error, and `stop` does not wait for ever."""
    told: list[BaseException] = []
    pipeline: Pipe = AsyncTaskPipeline(max_queue_size=2)
    pipeline.add_stage("feed", feeding(pipeline, told))
    await pipeline.start()
    await pipeline.process_input_data("feed", 0.0)
    await until(lambda: pipeline.input_queue.full())
    await wait_all_tasks_blocked()
    with anyio.fail_after(10):
        await pipeline.stop()
    assert_told(told)


async def test_a_stage_that_waits_to_feed_is_freed_when_the_run_fails() -> None:
    """Before its thread is waited for."""
    told: list[BaseException] = []
    go = threading.Event()

    def ending(item: Any) -> Any:
        go.wait(10)
        raise SystemExit

    pipeline: Pipe = AsyncTaskPipeline(max_queue_size=2)
    pipeline.add_stage("feed", feeding(pipeline, told))
    pipeline.add_stage("ending", ending)
    await pipeline.start()
    await pipeline.process_input_data("bomb", 0.0)
    await pipeline.process_input_data("feed", 0.0)
    await until(lambda: pipeline.counter == 4)  # two of them by the stage, which waits with a third
    await wait_all_tasks_blocked()
    go.set()
    with anyio.fail_after(10), pytest.raises(SystemExit):
        async for _ in pipeline.generate_output_stream():
            pass
    assert_told(told)
    with pytest.raises(SystemExit):
        await pipeline.stop()


@pytest.mark.parametrize("run", [asyncio.run, trio.run], ids=["asyncio", "trio"])
def test_a_stage_that_waits_to_feed_is_freed_when_the_program_ends(run: Any) -> None:
    """The event loop does not wait for a thread that waits for it."""
    told: list[BaseException] = []
    pipeline: Pipe = AsyncTaskPipeline(max_queue_size=2)
    pipeline.add_stage("feed", feeding(pipeline, told))

    async def program() -> None:
        await pipeline.start()
        await pipeline.process_input_data("feed", 0.0)
        while not pipeline.input_queue.full():
            await checkpoint()

    run(program) if run is trio.run else run(program())
    assert_told(told)
    with pytest.raises(RuntimeError, match=STOPPED):
        pipeline.put_input_data(1, 0.0)


async def test_a_stage_may_feed_its_own_pipeline() -> None:
    """As long as there is room."""

    def count_down(item: int) -> int:
        if item:
            pipeline.put_input_data(item - 1, time.perf_counter())
        return item

    async with running({"count": count_down}, max_queue_size=1) as pipeline:
        await pipeline.process_input_data(3, 0.0)
        stream = pipeline.generate_output_stream()
        assert [await anext(stream) for _ in range(4)] == [3, 2, 1, 0]


async def test_threads_wait_for_room_like_tasks() -> None:
    """And all that they bring comes out."""
    async with running({"same": same}, max_queue_size=1) as pipeline:

        def put() -> None:
            for item in range(50):
                pipeline.put_input_data(item, 0.0)

        found: list[int] = []
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(to_thread.run_sync, put)
            async for result in pipeline.generate_output_stream():
                found.append(result)
                if len(found) == 100:
                    break
        assert sorted(found) == sorted([*range(50)] * 2)
        assert pipeline.counter == 100


async def in_the_middle_of_a_start(pipeline: Pipe, act: Any) -> None:
    """Do something as soon as a start has begun, and wait for both."""

    async def acting() -> None:
        while not pipeline.running:
            await checkpoint()
        await act()

    async with anyio.create_task_group() as group:
        group.start_soon(acting)
        group.start_soon(pipeline.start)


async def test_what_is_fed_while_the_stages_are_being_started_is_accepted() -> None:
    """And everything can be looked at."""
    pipeline: Pipe = AsyncTaskPipeline(enable_timing=True)
    pipeline.add_stage("same", same)

    async def feed_and_look() -> None:
        await pipeline.process_input_stream(items(1))
        await pipeline.process_input_data(2, time.perf_counter())
        await pipeline.process_input_sentinel("turn")
        assert pipeline.counter == 2
        for queue in (pipeline.input_queue, *pipeline.queues):
            assert queue.qsize() <= 3
        assert pipeline.get_report() is None
        assert pipeline.completed_items == []
        assert pipeline.stages[0].processed_count <= 2
        with pytest.raises(RuntimeError, match="already running"):
            await pipeline.start()
        stream = pipeline.generate_output_stream()
        assert [result async for result in stream] == [1, 2, "turn"]

    await in_the_middle_of_a_start(pipeline, feed_and_look)
    assert pipeline.running
    await pipeline.stop()
    assert len(pipeline.completed_items) == 2


async def test_a_start_can_be_interrupted_and_stopped() -> None:
    """Then it is as if that had come right after it."""
    pipeline: Pipe = AsyncTaskPipeline()
    pipeline.add_stage("same", same)

    async def interrupt() -> None:
        await pipeline.process_input_data("dropped", 0.0)
        await pipeline.interrupt()
        pipeline.clear_input_queue()
        pipeline.clear_output_queue()
        await pipeline.process_input_data(1, 0.0)

    for _ in range(2):
        await in_the_middle_of_a_start(pipeline, interrupt)
        assert await results(pipeline, 2) == [1, 2]
        await pipeline.stop()

        await in_the_middle_of_a_start(pipeline, pipeline.stop)
        assert not pipeline.running
        with pytest.raises(RuntimeError, match=STOPPED):
            await pipeline.process_input_data(1, 0.0)


async def test_a_start_may_come_before_an_earlier_stop_is_done() -> None:
    """The run that ends takes nothing from the one that lives."""
    async with held() as (pipeline, go), anyio.create_task_group() as group:
        group.start_soon(pipeline.stop)
        await until(lambda: not pipeline.running)
        await pipeline.start()
        go.set()
        await wait_all_tasks_blocked()
        assert await results(pipeline, 1, 2) == [1, 2]


async def test_room_made_while_somebody_is_about_to_wait_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that makes it sees nobody waiting yet."""
    turns: list[_task_input.Turn] = []
    calls: list[Any] = []

    class SlowTicket(_task_input._Ticket):
        def __init__(self, thing: Any) -> None:
            super().__init__(thing)
            assert turns[0].take() == "first"  # as a stage's thread would in this moment

    monkeypatch.setattr(_task_input, "_Ticket", SlowTicket)
    queue = _task_input.InputQueue(1)
    queue.open(calls.append)
    queue.serve(turns.append)
    assert queue.put_nowait("first")
    with anyio.fail_after(10):
        await queue.put("second")
    assert calls == []
    assert len(queue) == 1
    assert turns[1].take() == "second"


async def test_a_start_that_is_cancelled_leaves_nothing_running() -> None:
    """Whoever waits for its results is told that there will be none."""
    before = len(anyio.get_running_tasks())
    pipeline: Pipe = AsyncTaskPipeline()
    pipeline.add_stage("same", same)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await pipeline.start()
    assert not pipeline.running
    assert len(anyio.get_running_tasks()) == before
    assert [result async for result in pipeline.generate_output_stream()] == []
    await pipeline.start()
    assert await results(pipeline, 1) == [1]
    await pipeline.stop()
