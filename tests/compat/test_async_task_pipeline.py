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


def test_a_pipeline_whose_loop_has_ended_starts_again_on_another() -> None:
    """Without `stop`, also if nobody cancelled what was left on the loop."""
    pipeline: Pipe = AsyncTaskPipeline(enable_timing=True)
    pipeline.add_stage("same", same)

    async def first() -> None:
        await pipeline.start()
        assert await results(pipeline, 1) == [1]

    async def again() -> None:
        assert not pipeline.running
        await pipeline.start()
        assert await results(pipeline, 2) == [2]
        assert len(pipeline.completed_items) == 2

    async def stopped() -> None:
        await pipeline.stop()
        await pipeline.stop()

    asyncio.run(first())
    trio.run(again)
    asyncio.run(stopped())
    pipeline.clear()
    for run in (trio.run, lambda program: asyncio.run(program())):
        run(first)
        assert not pipeline.running
        pipeline.clear()


# What asyncio says of tasks that nobody has cancelled when their loop is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_pipeline_whose_loop_was_closed_is_not_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever is left of it there."""
    pipeline: Pipe = AsyncTaskPipeline()
    pipeline.add_stage("same", same)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(pipeline.start())
    assert pipeline.running
    loop.close()
    assert not pipeline.running

    async def again() -> list[Any]:
        await pipeline.start()
        found = await results(pipeline, 1)
        await pipeline.stop()
        return found

    assert asyncio.run(again()) == [1]
    gc.collect()
    caplog.clear()  # "Task was destroyed but it is pending!"


def test_its_options_are_read_only() -> None:
    """They hold for every run."""
    pipeline: Pipe = AsyncTaskPipeline(3, True, True)
    for name, value in {
        "max_queue_size": 3,
        "enable_timing": True,
        "return_exceptions": True,
    }.items():
        assert getattr(pipeline, name) == value
        with pytest.raises(AttributeError):
            setattr(pipeline, name, value)


async def test_items_that_failed_are_logged_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As `skip` does."""
    caplog.set_level(logging.WARNING)
    async with running({"invert": lambda item: 1 / item}) as pipeline:
        assert await results(pipeline, 1, 0, 2) == [1, 0.5]
        assert pipeline.counter == 3
        (stage,) = pipeline.stages
        assert (stage.processed_count, stage.failed_count) == (2, 1)
    assert "ZeroDivisionError" in caplog.text
    assert "PipelineItem(data=0" in caplog.text


@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_each_stage_counts_what_it_does(*, return_exceptions: bool) -> None:
    """Over all runs; sentinels are no items, and a generator that fails has failed."""

    def spread(item: int) -> Iterator[int]:
        yield item
        if item == 2:
            raise KeyError(item)
        yield item

    stages = {"spread": spread, "invert": lambda item: 1 / item}
    pipeline: Pipe = AsyncTaskPipeline(return_exceptions=return_exceptions)
    for name, fn in stages.items():
        pipeline.add_stage(name, fn)
    for run in (1, 2):
        await pipeline.start()
        await pipeline.process_input_sentinel("turn")
        found = await results(pipeline, 0, 1, 2)
        await pipeline.stop()
        assert len(found) == (7 if return_exceptions else 4)
        counts = [(stage.processed_count, stage.failed_count) for stage in pipeline.stages]
        assert counts == [(2 * run, 1 * run), (3 * run, 2 * run)]


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


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def naps(pipeline: Pipe) -> list[tuple[float, bool]]:
    """The items that are kept, and whether each has a long computation."""
    found = []
    for item in pipeline.completed_items:
        timing = item.get_detailed_timing("nap")
        assert timing is not None
        found.append((item.data, timing.computation_time >= 0.05))
    return found


async def fed_to_nap(pipeline: Pipe, *seconds: float) -> None:
    """Feed, and wait until everything has come out and can be read."""
    there = pipeline.output_queue.qsize()
    for one in seconds:
        await pipeline.process_input_data(one, time.perf_counter())
    await until(lambda: pipeline.output_queue.qsize() == there + len(seconds))


@pytest.mark.slow
async def test_a_report_midway_has_the_times_of_what_was_read() -> None:
    """Whatever waits to be read, or was cleared, interrupted or put between."""
    async with running({"nap": nap}, enable_timing=True, return_exceptions=True) as pipeline:
        stream = pipeline.generate_output_stream()
        await fed_to_nap(pipeline, 0.05, 0.0, 0.001)
        assert await anext(stream) == 0.05
        assert naps(pipeline) == [(0.05, True)]
        report = pipeline.get_report()
        assert report is not None
        times = report.summary.stage_statistics["nap"].timing_breakdown
        assert times.avg_computation_time >= 0.05

        await pipeline.process_input_sentinel("turn")
        await pipeline.process_input_data("no number", 0.0)
        await pipeline.process_input_data(0.06, time.perf_counter())
        await until(lambda: pipeline.output_queue.qsize() == 5)
        found = [await anext(stream) for _ in range(5)]
        assert found[:3] == [0.0, 0.001, "turn"]
        assert found[4] == 0.06
        assert naps(pipeline) == [(0.05, True), (0.0, False), (0.001, False), (0.06, True)]

        await fed_to_nap(pipeline, 0.05, 0.0)
        pipeline.clear_output_queue()
        await fed_to_nap(pipeline, 0.002, 0.05)
        assert await anext(stream) == 0.002
        assert naps(pipeline)[4:] == [(0.002, False)]

        await pipeline.interrupt()
        assert naps(pipeline) == []
        await fed_to_nap(pipeline, 0.0, 0.05)
        assert await anext(stream) == 0.0
        assert naps(pipeline) == [(0.0, False)]


@pytest.mark.slow
async def test_a_restart_keeps_the_times_there_are() -> None:
    """Also of what was left to be read; each item has the times of its own run."""
    async with running({"nap": nap}, enable_timing=True) as pipeline:
        stream = pipeline.generate_output_stream()
        await fed_to_nap(pipeline, 0.05, 0.0, 0.06)
        assert await anext(stream) == 0.05
        await pipeline.stop()
        assert naps(pipeline) == [(0.05, True)]
        await pipeline.start()
        await fed_to_nap(pipeline, 0.001, 0.07)
        found = [await anext(stream) for _ in range(3)]
        assert found == [0.0, 0.06, 0.001]
        assert naps(pipeline) == [(0.05, True), (0.0, False), (0.06, True), (0.001, False)]
        summary = pipeline.get_latency_summary()
        assert summary is not None
        assert summary.total_items == 4
        assert summary.min_total_latency > 0
        assert summary.stage_statistics["nap"].processed_count == 5
        assert await anext(stream) == 0.07
    assert naps(pipeline)[4:] == [(0.07, True)]


async def test_an_item_that_used_the_turn_of_a_cleared_one_has_its_own_times() -> None:
    """Its latency begins with itself."""
    go = threading.Event()

    def wait(item: Any) -> Any:
        go.wait(10)
        return item

    async with running({"wait": wait}, enable_timing=True) as pipeline:
        await pipeline.process_input_data(0, time.perf_counter())
        await until(lambda: pipeline.input_queue.empty())
        await pipeline.process_input_data("cleared", time.perf_counter())
        await anyio.sleep(0.05)
        pipeline.clear_input_queue()
        made = time.perf_counter()
        await pipeline.process_input_data(1, made)
        go.set()
        assert await results(pipeline) == [0, 1]
        item = pipeline.completed_items[1]
        timing, latency = item.get_detailed_timing("wait"), item.get_total_latency()
        assert timing is not None
        assert latency is not None
        assert timing.queue_enter_time == item.start_timestamp == made
        assert made <= timing.processing_start_time <= time.perf_counter()
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
