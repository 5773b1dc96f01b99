"""AsyncTaskPipeline: its life, its ends, and what it leaves."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest
import trio
from anyio import to_thread
from anyio.lowlevel import checkpoint

from flowstage.compat.async_task_pipeline import AsyncTaskPipeline

from ..harness import assert_nothing_since
from ..harness.leaks import Snapshot
from ..test_parity import items, iter_forever, results, running, same, until

Pipe = AsyncTaskPipeline[Any, Any]


async def test_start_and_stop_leave_nothing_behind() -> None:
    """No task, no busy thread, no stream."""
    async with running({"warm up": same}) as pipeline:
        await results(pipeline, 1)
    before = Snapshot.take()
    for _ in range(3):
        async with running({"same": same, "more": same}) as pipeline:
            assert await results(pipeline, 1, 2) == [1, 2]
    assert_nothing_since(before)


async def test_leaving_the_output_stops_nothing() -> None:
    """The next stream goes on with the next result."""
    async with running({"same": same}) as pipeline:
        await pipeline.process_input_stream(items(*range(5)))
        async for result in pipeline.generate_output_stream():
            assert result == 0
            break
        async with aclosing(pipeline.generate_output_stream()) as stream:
            assert await anext(stream) == 1
        assert [result async for result in stream] == []
        assert await results(pipeline, 5) == [2, 3, 4, 5]


async def test_more_than_the_queues_hold_is_read_while_it_is_fed() -> None:
    """Backpressure, and nothing lost."""
    found: list[int] = []
    async with running({"a": same, "b": same}, max_queue_size=1) as pipeline:

        async def read() -> None:
            async for result in pipeline.generate_output_stream():
                found.append(result)
                if len(found) == 2000:
                    return

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await pipeline.process_input_stream(items(*range(2000)))
    assert found == list(range(2000))


@pytest.mark.slow
async def test_those_who_wait_to_feed_are_freed_by_stop() -> None:
    """Tasks and threads, with the documented error."""
    pipeline: Pipe = AsyncTaskPipeline(max_queue_size=1)
    gate = threading.Event()
    pipeline.add_stage("wait", lambda item: gate.wait(10))
    await pipeline.start()
    told: list[str] = []

    async def feed() -> None:
        try:
            await pipeline.process_input_stream(items(*range(5000)))
        except RuntimeError as error:
            told.append(str(error))

    def put() -> None:
        try:
            for item in range(5000):
                pipeline.put_input_data(item, 0.0)
        except RuntimeError as error:
            told.append(str(error))

    async with anyio.create_task_group() as group:
        group.start_soon(feed)
        group.start_soon(to_thread.run_sync, put)
        await until(lambda: pipeline.input_queue.full())
        await anyio.sleep(0.05)
        threading.Timer(0.05, gate.set).start()
        with anyio.fail_after(5):
            await pipeline.stop()
    assert told == ["Pipeline is not running"] * 2


async def test_an_interrupt_ends_a_stream_that_waits_for_what_was_dropped() -> None:
    """All that is left to come out has come out."""
    gate = threading.Event()
    async with running({"wait": lambda item: gate.wait(10) and item}) as pipeline:
        await pipeline.process_input_stream(items(1, 2, 3))
        found: list[Any] = []

        async def read() -> None:
            found.extend([result async for result in pipeline.generate_output_stream()])
            found.append("ended")

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await until(lambda: pipeline.input_queue.qsize() < 3)
            for _ in range(5):
                await checkpoint()
            await pipeline.interrupt()
            gate.set()
        assert found == ["ended"]


async def test_an_item_may_be_an_exception_or_a_sentinel_anything() -> None:
    """Data is never looked at."""

    class Awkward:
        def __eq__(self, other: object) -> bool:
            raise TypeError

        __hash__ = None  # type: ignore[assignment]  # the point of the test

        def __bool__(self) -> bool:
            raise TypeError

    awkward, error = Awkward(), KeyError("data")
    async with running({"same": same}, enable_timing=True) as pipeline:
        await pipeline.process_input_sentinel(awkward)
        found = await results(pipeline, error, awkward, 0, False, "")
    assert [id(one) for one in found] == [
        id(one) for one in (awkward, error, awkward, 0, False, "")
    ]


async def test_a_generator_is_read_lazily_and_closed_when_the_pipeline_stops() -> None:
    """Its values come out as they are made."""
    closed = threading.Event()

    def endless(item: int) -> Iterator[int]:
        try:
            yield from iter_forever(item)
        finally:
            closed.set()

    async with running({"endless": endless}, max_queue_size=2) as pipeline:
        await pipeline.process_input_data(7, 0.0)
        async for result in pipeline.generate_output_stream():
            assert result == 7
            break
    assert closed.wait(5)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_reaches_whoever_reads(error: type[BaseException]) -> None:
    """It is no item's failure."""

    def ending(item: Any) -> Any:
        raise error

    pipeline: Pipe = AsyncTaskPipeline(return_exceptions=True)
    pipeline.add_stage("ending", ending)
    await pipeline.start()
    await pipeline.process_input_data(1, 0.0)
    with pytest.raises(error):
        async for _ in pipeline.generate_output_stream():
            pass
    with pytest.raises(RuntimeError, match="not running"):
        await pipeline.process_input_data(2, 0.0)
    with pytest.raises(error):
        await pipeline.stop()
    assert not pipeline.running


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("run", [asyncio.run, trio.run], ids=["asyncio", "trio"])
def test_a_program_that_never_stops_it_ends_all_the_same(
    run: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """The event loop ends what is left."""

    async def program(keep: bool) -> None:
        pipeline: Pipe = AsyncTaskPipeline()
        pipeline.add_stage("same", same)
        await pipeline.start()
        assert await results(pipeline, 1) == [1]
        await pipeline.process_input_data(2, 0.0)
        if keep:
            kept.append(pipeline)

    kept: list[Pipe] = []
    for keep in (False, True):
        run(program, keep) if run is trio.run else run(program(keep))
    kept.clear()
    gc.collect()
    assert capfd.readouterr() == ("", "")


# What asyncio says of a task that is cancelled before its first step.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_program_that_ends_in_the_very_moment_of_a_call_ends_at_once() -> None:
    """A task that is cancelled before its first step is not waited for."""

    async def program() -> None:
        pipeline: Pipe = AsyncTaskPipeline()
        pipeline.add_stage("same", same)
        await pipeline.start()
        await pipeline.process_input_data(1, 0.0)

    began = time.perf_counter()
    asyncio.run(program())
    assert time.perf_counter() - began < 5
    gc.collect()


async def test_a_pipeline_that_is_dropped_ends() -> None:
    """Without `stop`, within a few steps."""
    before = len(anyio.get_running_tasks())
    pipeline: Pipe = AsyncTaskPipeline()
    pipeline.add_stage("same", same)
    await pipeline.start()
    assert len(anyio.get_running_tasks()) > before
    del pipeline
    for _ in range(10):
        await checkpoint()
    assert len(anyio.get_running_tasks()) == before


def test_one_pipeline_serves_one_event_loop_after_the_other() -> None:
    """asyncio, then trio."""
    pipeline: Pipe = AsyncTaskPipeline()
    pipeline.add_stage("same", same)

    async def program() -> list[Any]:
        await pipeline.start()
        found = await results(pipeline, 1, 2)
        await pipeline.stop()
        return found

    assert asyncio.run(program()) == [1, 2]
    assert trio.run(program) == [1, 2]


async def test_items_that_failed_are_logged_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As `skip` does."""
    caplog.set_level(logging.WARNING)
    async with running({"invert": lambda item: 1 / item}) as pipeline:
        assert await results(pipeline, 1, 0, 2) == [1, 0.5]
        assert pipeline.counter == 3
    assert "ZeroDivisionError" in caplog.text


def test_wrong_stages_are_refused() -> None:
    """At the line where they are added."""

    async def coroutine(item: int) -> int:
        return item

    pipeline: Pipe = AsyncTaskPipeline()
    with pytest.raises(TypeError, match="cannot be async"):
        pipeline.add_stage("coroutine", coroutine)
    with pytest.raises(TypeError, match="needs a function"):
        pipeline.add_stage("nothing", None)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match="must not be empty"):
        pipeline.add_stage("", same)
    with pytest.raises(TypeError, match="whole number"):
        AsyncTaskPipeline(max_queue_size=1.5)  # type: ignore[arg-type]  # see above
    assert pipeline.stages == []


@pytest.mark.slow
def test_importing_it_configures_no_logging() -> None:
    """The root logger is the program's own."""
    program = (
        "import logging; before = list(logging.root.handlers), logging.root.level\n"
        "import flowstage.compat.async_task_pipeline\n"
        "assert (list(logging.root.handlers), logging.root.level) == before\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def test_the_latency_begins_when_the_item_was_made() -> None:
    """`created_at` lies before the call; what lies between counts as waiting in the queue."""
    async with running({"same": same}, enable_timing=True) as pipeline:
        await pipeline.process_input_data(1, time.perf_counter() - 5)
        assert await results(pipeline) == [1]
        (item,) = pipeline.completed_items
        latency, timing = item.get_total_latency(), item.get_detailed_timing("same")
        assert latency is not None
        assert timing is not None
        assert 5 <= latency < 6
        assert 5 <= timing.queue_wait_time < 6
        assert timing.total_stage_time == pytest.approx(latency, abs=1e-6)


@pytest.mark.slow
async def test_the_report_keeps_the_last_thousand_items() -> None:
    """Memory is bounded; the number of items is not."""
    async with running({"same": same}, enable_timing=True) as pipeline:
        found = 0

        async def read() -> None:
            nonlocal found
            async for _ in pipeline.generate_output_stream():
                found += 1
                if found == 1500:
                    return

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await pipeline.process_input_stream(items(*range(1500)))
        assert len(pipeline.completed_items) == 1000
        assert pipeline.completed_items[-1].data == 1499
        summary = pipeline.get_latency_summary()
        assert summary is not None
        assert summary["total_items"] == 1500
