"""Parity: everything that three other libraries document, in flowstage's own API and in compat's.

One test for each thing they document, in the order of their pages: `test_a…` for async-task-pipeline,
`test_b…` for asyncio-buffered-pipeline, `test_p…` for async-pipeline, `test_d…` for what the three
disagree about. Each shows flowstage's own way first and then the translated one. More about the
translations is in `tests/compat`.
"""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, assert_type

import anyio
import pytest
from anyio import from_thread, to_thread, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint, current_token

from flowstage import (
    ClosedError,
    Failure,
    Flow,
    GraphError,
    Input,
    Retry,
    Sentinel,
    StageTimeout,
    Threads,
    failure_of,
    source,
)
from flowstage.compat.async_pipeline import Pipeline, PipelineError, Stage, StageExecutionError
from flowstage.compat.async_task_pipeline import (
    AsyncTaskPipeline,
    PipelineAnalysis,
    PipelineItem,
    log_pipeline_performance_analysis,
)
from flowstage.compat.buffered_pipeline import buffered_pipeline

from .conftest import virtual_time
from .harness import BACKENDS, observe

Stages = dict[str, Callable[[Any], Any]]


@asynccontextmanager
async def running(stages: Stages, **options: Any) -> AsyncIterator[AsyncTaskPipeline[Any, Any]]:
    """A started pipeline."""
    pipeline: AsyncTaskPipeline[Any, Any] = AsyncTaskPipeline(**options)
    for name, fn in stages.items():
        pipeline.add_stage(name, fn)
    await pipeline.start()
    try:
        yield pipeline
    finally:
        await pipeline.stop()


async def items(*values: Any) -> AsyncIterator[Any]:
    for value in values:
        yield value


async def results(pipeline: AsyncTaskPipeline[Any, Any], *values: Any) -> list[Any]:
    await pipeline.process_input_stream(items(*values))
    return [result async for result in pipeline.generate_output_stream()]


async def until(condition: Callable[[], object]) -> None:
    """Wait for what a thread or a task does."""
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


def same(item: Any) -> Any:
    return item


def double(item: Any) -> Any:
    return item * 2


def spread(item: int) -> Iterator[int]:
    yield item
    yield -item


def invert(item: int) -> float:
    return 1 / item


# -- A: async-task-pipeline ------------------------------------------------------------------------


async def test_a01_every_queue_is_bounded() -> None:
    """`max_queue_size` is `open(buffer=)`; a slow reader stops the feeding."""
    with pytest.raises(ValueError, match="buffer must be at least 0"):
        Input[int]().open(buffer=-1)
    async with Input[int]().buffer(3).open(buffer=0) as run:
        with pytest.raises(anyio.WouldBlock):
            for item in range(5):
                run.send_nowait(item)
        assert run.report().edges[0].entered == 3

    with pytest.raises(ValueError, match="max_queue_size must be at least 1, not 0"):
        AsyncTaskPipeline(max_queue_size=0)
    assert AsyncTaskPipeline().max_queue_size == 100
    async with running({"same": same}, max_queue_size=3) as pipeline:
        with anyio.move_on_after(0.2):
            for item in range(5000):
                await pipeline.process_input_data(item, 0.0)
        assert pipeline.counter < 5000
        assert [queue.qsize() for queue in pipeline.queues] == [3]


async def test_a02_timing_is_kept_when_asked_for() -> None:
    """`enable_timing` is `open(timing=True)`; without it there is none."""
    async with source([1, 2]).map(same).open() as run:
        assert [item async for item in run] == [1, 2]
        assert run.report().timing is None
    async with source([1, 2]).map(same).open(timing=True) as run:
        assert [item async for item in run] == [1, 2]
        assert len(run.report().timing.items) == 2

    async with running({"same": same}) as pipeline:
        await results(pipeline, 1)
        assert pipeline.get_report() is None
        assert pipeline.completed_items == []
    async with running({"same": same}, enable_timing=True) as pipeline:
        await results(pipeline, 1)
        assert pipeline.get_report() is not None


async def test_a03_failing_items_are_left_out_or_put_in_the_output(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`return_exceptions` is `on_error="emit"`; without it items are skipped, logged and counted."""
    flow = source([1, 0, 2]).map(invert, on=Threads(1))
    found = await flow.collect(on_error="emit")
    assert [type(one) for one in found] == [float, Failure, float]
    assert await flow.collect(on_error="skip") == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        await flow.collect()

    caplog.clear()
    async with running({"invert": invert}) as pipeline:
        assert await results(pipeline, 1, 0, 2) == [1.0, 0.5]
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == [
        "flowstage"
    ]
    async with running({"invert": invert}, return_exceptions=True) as pipeline:
        found = await results(pipeline, 1, 0, 2)
        assert [type(one) for one in found] == [float, ZeroDivisionError, float]


async def test_a04_data_and_what_passes_through_have_types() -> None:
    """`AsyncTaskPipeline[T, U]` is `Flow[In, Out]` and `Sentinel[T]`."""
    flow = Input[int]().map(str)
    assert_type(flow, Flow[int, str])
    assert_type(Sentinel("end"), Sentinel[str])

    pipeline: AsyncTaskPipeline[int, str] = AsyncTaskPipeline()
    assert_type(pipeline, AsyncTaskPipeline[int, str])
    assert AsyncTaskPipeline[int, str](max_queue_size=5).max_queue_size == 5


async def test_a05_stages_run_in_the_order_added_and_have_unique_names() -> None:
    """Names identify stages in reports."""
    flow = source([1]).map(double, name="first").map(str, name="second")
    assert [stage.name for stage in flow.graph.stages] == ["source", "first", "second"]
    with pytest.raises(ValueError, match="first"):
        _ = flow.map(same, name="first").graph

    pipeline: AsyncTaskPipeline[Any, Any] = AsyncTaskPipeline()
    pipeline.add_stage("first", double)
    pipeline.add_stage("second", str)
    with pytest.raises(ValueError, match="there is a stage named 'first' already"):
        pipeline.add_stage("first", same)
    assert [stage.name for stage in pipeline.stages] == ["first", "second"]
    await pipeline.start()
    assert await results(pipeline, 1, 2) == ["2", "4"]
    await pipeline.stop()


async def test_a06_a_stage_gives_a_value_or_none_or_many() -> None:
    """By verb here, by value there, all in one stage; a generator that fails keeps what it gave."""
    numbers = source(range(4))
    assert await numbers.map(lambda n: None).collect() == [None] * 4
    assert await numbers.filter(lambda n: n % 2).collect() == [1, 3]
    assert await numbers.flat_map(spread).collect() == [0, 0, 1, -1, 2, -2, 3, -3]

    def any_of_them(item: int) -> Any:
        if item == 0:
            return None
        if item == 1:
            return 10
        return partly() if item == 2 else [item]

    def partly() -> Iterator[int]:
        yield 20
        yield 21
        raise KeyError(22)

    async with running({"any": any_of_them, "same": same}, return_exceptions=True) as pipeline:
        found = await results(pipeline, 0, 1, 2, 3)
    assert [type(one) if isinstance(one, Exception) else one for one in found] == [
        10,
        20,
        21,
        KeyError,
        [3],
    ]


@pytest.mark.slow
async def test_a07_stages_overlap() -> None:
    """Two stages are at work on two items at once: each waits for the other."""
    meet = threading.Barrier(2, timeout=10)

    def wait(item: int) -> int:
        meet.wait()
        return item

    def first(item: int) -> int:
        return wait(item) if item else item

    def second(item: int) -> int:
        return wait(item) if item < 5 else item

    flow = source(range(6)).map(first, on=Threads(1), timeout=20).buffer(1)
    assert await flow.map(second, on=Threads(1), timeout=20).collect() == list(range(6))

    found, threads = await met_in_two_stages()
    assert found == list(range(6))
    assert len(threads) == 6  # each of them has met another


async def met_in_two_stages() -> tuple[list[int], list[int]]:
    """What came of six items, of which the second stage's meet the first stage's; in which threads."""
    meet, there = threading.Barrier(2, timeout=10), threading.Semaphore(0)
    threads: list[int] = []

    def wait(item: int) -> int:
        threads.append(threading.get_ident())
        meet.wait()
        return item

    def first(item: int) -> int:
        return wait(item) if item % 2 else item

    def second(item: int) -> int:
        if item % 2:
            return item
        there.release()
        return wait(item)

    stages = {"first": first, "second": second}
    async with running(stages, return_exceptions=True) as pipeline:
        stream = pipeline.generate_output_stream()
        found = []
        for item in (0, 2, 4):
            await pipeline.process_input_data(item, 0.0)
            await until(lambda: there.acquire(blocking=False))
            await pipeline.process_input_data(item + 1, 0.0)
            found += [await anext(stream), await anext(stream)]
    return found, threads


async def test_a08_input_and_output_never_block_the_loop() -> None:
    """While a stage computes, and while feeding and reading wait for it, the loop goes on."""
    began, go = threading.Event(), threading.Event()

    def held(item: int) -> int:
        began.set()
        assert go.wait(10)  # which only the loop ends
        return item

    async def held_by(work: Callable[[], Any]) -> list[int]:
        found: list[int] = []
        began.clear()
        go.clear()

        async def collect() -> None:
            found.extend(await work())

        async with anyio.create_task_group() as group:
            group.start_soon(collect)
            await until(began.is_set)
            for _ in range(20):  # whatever waits does so by now
                await checkpoint()
            assert not found
            go.set()
        return found

    flow = source(range(5)).map(held, on=Threads(1))
    assert await held_by(flow.collect) == list(range(5))

    async with running({"held": held}, max_queue_size=1) as pipeline:

        async def feed_and_read() -> list[int]:
            stream, found = pipeline.generate_output_stream(), list[int]()
            async with anyio.create_task_group() as group:
                group.start_soon(pipeline.process_input_stream, items(*range(5)))
                found += [await anext(stream) for _ in range(5)]
            return found

        assert await held_by(feed_and_read) == list(range(5))


async def test_a09_starting_what_cannot_start_is_an_error() -> None:
    """Already running, or without stages."""
    from flowstage import Graph

    with pytest.raises(GraphError):
        Graph()

    pipeline: AsyncTaskPipeline[Any, Any] = AsyncTaskPipeline()
    with pytest.raises(RuntimeError, match="no stages"):
        await pipeline.start()
    assert not pipeline.running
    pipeline.add_stage("same", same)
    await pipeline.start()
    assert pipeline.running
    with pytest.raises(RuntimeError, match="already running"):
        await pipeline.start()
    with pytest.raises(RuntimeError, match="running"):
        pipeline.add_stage("more", same)
    await pipeline.stop()
    assert not pipeline.running


@pytest.mark.slow
async def test_a10_stopping_never_hangs_on_full_queues() -> None:
    """Leaving the block cancels; `stop` loses what is queued and keeps what has come out."""
    async with source(range(10_000)).map(same, on=Threads(1)).open(buffer=1):
        await checkpoint()
    async with Input[int]().map(same, on=Threads(1)).open() as run:
        await run.feed(range(10))
        await run.stop()
        assert [item async for item in run] == list(range(10))

    pipeline: AsyncTaskPipeline[Any, Any] = AsyncTaskPipeline(max_queue_size=2)
    pipeline.add_stage("many", lambda item: iter_forever(item))
    pipeline.add_stage("same", same)
    await pipeline.start()
    await pipeline.process_input_data(1, 0.0)
    await until(lambda: pipeline.queues[1].full())
    with anyio.fail_after(5):
        await pipeline.stop()
    await pipeline.stop()
    assert [result async for result in pipeline.generate_output_stream()] == [1, 1]


def iter_forever(item: Any) -> Iterator[Any]:
    while True:
        yield item


async def test_a11_the_public_attributes() -> None:
    """`graph.stages`, `graph.edges` and `run.report()`; there, views under the old names."""
    flow = Input[int]().map(same, on=Threads(1)).buffer(5).map(str, on=Threads(1))
    assert [edge.capacity for edge in flow.graph.edges if edge.capacity] == [100, 5, 100]
    assert flow.graph.bound > 0

    pipeline: AsyncTaskPipeline[Any, Any] = AsyncTaskPipeline(7, True, True)
    assert (pipeline.max_queue_size, pipeline.enable_timing, pipeline.return_exceptions) == (
        7,
        True,
        True,
    )
    assert pipeline.stages == pipeline.queues == pipeline.completed_items == []
    assert pipeline.input_queue is None
    assert pipeline.output_queue is None
    assert pipeline.counter == 0
    assert pipeline.running is False
    gate = threading.Event()
    pipeline.add_stage("wait", lambda item: gate.wait(10) and item)
    pipeline.add_stage("same", same)
    assert pipeline.input_queue is not None
    assert pipeline.output_queue is not None
    assert len(pipeline.queues) == 2
    with pytest.raises(AttributeError):
        pipeline.running = True  # type: ignore[misc]  # the point of the test
    await pipeline.start()
    for item in range(5):
        await pipeline.process_input_data(item, 0.0)
    assert pipeline.counter == 5
    assert pipeline.output_queue.empty()
    gate.set()
    await until(lambda: pipeline.output_queue.qsize() == 5)
    assert pipeline.input_queue.empty()
    assert [stage.processed_count for stage in pipeline.stages] == [5, 5]
    assert pipeline.stages[0].get_average_processing_time() >= 0
    await pipeline.stop()


@pytest.mark.slow
async def test_a12_each_stage_has_a_thread_of_its_own() -> None:
    """`Threads(1)`: calls of one stage do not overlap, and none is on the loop."""
    here = threading.get_ident()
    begun: list[int] = []
    go = threading.Event()

    def alone(item: int) -> int:
        begun.append(item)
        assert threading.get_ident() != here
        go.wait(10)
        return item

    async def one_at_once(work: Callable[[], Any]) -> None:
        begun.clear()
        go.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await until(lambda: begun)
            await wait_all_tasks_blocked()
            assert begun == [0]  # the others wait for their turn
            go.set()
        assert begun == list(range(5))

    await one_at_once(source(range(5)).map(alone, on=Threads(1)).collect)
    async with running({"alone": alone}) as pipeline:
        await one_at_once(lambda: results(pipeline, *range(5)))

    found, threads = await met_in_two_stages()
    assert found == list(range(6))  # two that shared a thread would never meet
    for one, other in zip(threads[::2], threads[1::2], strict=True):
        assert one != other
        assert here not in (one, other)


async def test_a13_a_stream_is_fed_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """`run.feed`; what the input raises reaches the caller, there logged too."""

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("gone")

    async with Input[int]().open() as run:
        with pytest.raises(OSError, match="gone"):
            await run.feed(broken())
        await run.feed([2, 3])
        run.finish()
        assert [item async for item in run] == [1, 2, 3]

    caplog.set_level(logging.ERROR)
    async with running({"same": same}) as pipeline:
        with pytest.raises(OSError, match="gone"):
            await pipeline.process_input_stream(broken())
        assert "gone" in caplog.text
        assert await results(pipeline, 2, 3) == [1, 2, 3]


async def test_a14_items_are_put_in_one_by_one_from_tasks_and_from_threads() -> None:
    """`run.send` and `from_thread.run`; there also `created_at` and `counter`."""
    async with Input[int]().open() as run:
        await run.send(1)
        run.send_nowait(2)
        token = current_token()
        await to_thread.run_sync(lambda: from_thread.run(run.send, 3, token=token))
        run.finish()
        with pytest.raises(ClosedError):
            await run.send(4)
        assert [item async for item in run] == [1, 2, 3]

    pipeline: AsyncTaskPipeline[Any, Any] = AsyncTaskPipeline()
    pipeline.add_stage("same", same)
    with pytest.raises(RuntimeError, match="Pipeline is not running"):
        await pipeline.process_input_data(1, 0.0)
    with pytest.raises(RuntimeError, match="Pipeline is not running"):
        pipeline.put_input_data(1, 0.0)
    await pipeline.start()
    await pipeline.process_input_data(1, time.perf_counter())
    with pytest.raises(RuntimeError, match=r"await process_input_data"):
        pipeline.put_input_data(1, 0.0)
    await to_thread.run_sync(pipeline.put_input_data, 2, time.perf_counter())
    plain = threading.Thread(target=pipeline.put_input_data, args=(3, 0.0))
    plain.start()
    await until(lambda: not plain.is_alive())  # it needs the loop, so it cannot be joined here
    assert pipeline.counter == 3
    assert await results(pipeline) == [1, 2, 3]
    await pipeline.stop()
    with pytest.raises(RuntimeError, match="Pipeline is not running"):
        await pipeline.process_input_data(4, 0.0)


async def test_a15_sentinels_pass_every_stage_untouched_in_order() -> None:
    """`run.send_sentinel`; there any object, given as it is."""
    async with Input[int]().map(double, on=Threads(1)).open() as run:
        await run.send(1)
        await run.send_sentinel("turn")
        await run.send(2)
        run.finish()
        assert [event async for event in run.events()] == [2, Sentinel("turn"), 4]

    mark = object()
    async with running({"double": double, "same": same}) as pipeline:
        await pipeline.process_input_data(1, 0.0)
        await pipeline.process_input_sentinel(mark)
        await pipeline.process_input_data(2, 0.0)
        await to_thread.run_sync(pipeline.put_input_sentinel, None)
        with pytest.raises(RuntimeError, match="await process_input_sentinel"):
            pipeline.put_input_sentinel(mark)
        assert await results(pipeline, 3) == [2, mark, 4, None, 6]


async def test_a16_the_output_stream_ends_when_it_should() -> None:
    """After a stream that was fed to its end; else only `stop` ends it, a sentinel never."""
    async with Input[int]().open() as run:
        await run.feed([1, 2])
        run.finish()
        assert [item async for item in run] == [1, 2]

    async with running({"drop": lambda item: item if item > 1 else None}) as pipeline:
        assert await results(pipeline, 1, 2, 3) == [2, 3]
        assert await results(pipeline, 4, 1) == [4]
        assert await results(pipeline) == []

    pipeline = AsyncTaskPipeline()
    pipeline.add_stage("same", same)
    await pipeline.start()
    found: list[Any] = []

    async def read() -> None:
        async for result in pipeline.generate_output_stream():
            found.append(result)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await pipeline.process_input_data(1, 0.0)
        await pipeline.process_input_sentinel("turn")
        await pipeline.process_input_data(2, 0.0)
        await until(lambda: len(found) == 3)
        await pipeline.stop()
    assert found == [1, "turn", 2]


@pytest.mark.slow
async def test_a17_interrupt_and_clear_drop_what_is_queued() -> None:
    """`run.interrupt()` drops what is being computed too; the queues can be cleared singly there."""
    gate = threading.Event()

    def wait(item: int) -> int:
        if item < 100:
            gate.wait(10)
        return item

    async with Input[int]().map(wait, on=Threads(1)).open() as run:
        await run.feed(range(5))
        await until(lambda: run.report().edges[0].inside < 5)
        assert run.interrupt() == 5
        gate.set()
        await run.send(100)
        run.finish()
        assert [item async for item in run] == [100]

    gate.clear()
    pipeline: AsyncTaskPipeline[Any, Any] = AsyncTaskPipeline()
    pipeline.add_stage("wait", wait)
    await pipeline.interrupt()  # not running: nothing happens
    await pipeline.start()
    output, queue = pipeline.output_queue, pipeline.input_queue
    assert output is not None
    assert queue is not None
    await pipeline.process_input_stream(items(*range(5)))
    assert pipeline.counter == 5
    await until(lambda: queue.qsize() == 4)  # the first is being computed
    await pipeline.interrupt()
    assert pipeline.counter == queue.qsize() == 0
    gate.set()
    assert await results(pipeline, 100, 101) == [100, 101]

    await pipeline.process_input_stream(items(*range(200, 205)))
    await until(lambda: output.qsize() == 5)
    pipeline.clear_output_queue()
    assert output.empty()
    assert await results(pipeline, 300) == [300]

    gate.clear()
    await pipeline.process_input_data(1, 0.0)
    await until(queue.empty)
    await pipeline.process_input_stream(items(*range(400, 405)))
    assert queue.qsize() == 5
    pipeline.clear_input_queue()
    assert queue.empty()
    gate.set()
    assert await results(pipeline, 500) == [1, 500]

    await pipeline.process_input_data(600, 0.0)
    await until(lambda: output.qsize() == 1)
    await pipeline.stop()
    assert output.qsize() == 1
    pipeline.clear()
    assert pipeline.counter == 0
    assert output.empty()
    assert [one async for one in pipeline.generate_output_stream()] == []


async def timed(*stages: Callable[[Any], Any], of: tuple[Any, ...] = (1, 2, 3)) -> Any:
    """A stopped pipeline with timing that has processed something."""
    names = {f"stage {number}": fn for number, fn in enumerate(stages or (same,))}
    async with running(names, enable_timing=True) as pipeline:
        await results(pipeline, *of)
    return pipeline


async def test_a18_the_report_and_its_summary() -> None:
    """`run.report()`; `get_report` and `get_latency_summary`, `None` while there is nothing."""
    async with source([1]).map(same).open(timing=True) as run:
        assert [item async for item in run] == [1]
    assert run.report().timing.latency.count == 1

    async with running({"same": same}, enable_timing=True) as pipeline:
        assert pipeline.get_report() is None
        assert pipeline.get_latency_summary() is None
    pipeline = await timed()
    report = pipeline.get_report()
    assert isinstance(report, PipelineAnalysis)
    assert len(report.item_breakdowns) == 3
    assert pipeline.get_report(include_item_details=False).item_breakdowns == []
    summary = pipeline.get_latency_summary()
    assert summary["total_items"] == summary.total_items == 3

    async with running({"same": same}, enable_timing=True) as pipeline:
        for item in range(4):
            await pipeline.process_input_data(item, time.perf_counter())
        await until(lambda: pipeline.queues[0].qsize() == 4)
        stream = pipeline.generate_output_stream()
        assert await anext(stream) == 0
        report = pipeline.get_report()  # midway: of what was read
        assert isinstance(report, PipelineAnalysis)
        assert report.item_breakdowns is not None
        assert report.summary.total_items == len(report.item_breakdowns) == 1
        assert report.analysis_metadata is not None
        assert report.analysis_metadata["pipeline_running"] is True
        assert await results(pipeline) == [1, 2, 3]
        await pipeline.stop()
        await pipeline.start()
        assert await results(pipeline, 4) == [4]
        report = pipeline.get_report()  # after a restart: of both runs
        assert isinstance(report, PipelineAnalysis)
        assert report.item_breakdowns is not None
        assert report.summary.total_items == len(report.item_breakdowns) == 5
        assert all(found.totals.total_latency > 0 for found in report.item_breakdowns)


async def test_a19_the_summary_has_the_figures_of_the_whole() -> None:
    """Items, latency, efficiency; here percentiles too."""
    async with source([1, 2, 3]).map(same).open(timing=True) as run:
        assert [item async for item in run] == [1, 2, 3]
    latency = run.report().timing.latency
    assert 0 < latency.low <= latency.mean <= latency.high
    assert latency.p50 <= latency.p90 <= latency.p99

    summary = (await timed()).get_latency_summary()
    assert summary.total_items == 3
    assert 0 < summary.min_total_latency <= summary.avg_total_latency <= summary.max_total_latency
    efficiency = summary.overall_efficiency
    assert 0 <= efficiency.computation_efficiency <= 1
    assert efficiency.overhead_ratio == pytest.approx(1 - efficiency.computation_efficiency)

    pipeline = await timed(same, of=(1, 2))
    await pipeline.start()
    await results(pipeline, 3)
    summary = pipeline.get_latency_summary()
    await pipeline.stop()
    assert summary.total_items == 3  # after a restart: of both runs
    assert 0 < summary.min_total_latency <= summary.avg_total_latency <= summary.max_total_latency


@pytest.mark.slow
async def test_a20_each_stage_has_its_figures() -> None:
    """Queue wait is measured from entering the queue, a generator's time while it runs."""

    def slow(item: int) -> Iterator[int]:
        time.sleep(0.02)
        yield item

    async with source([1, 2, 3]).map(same).flat_map(slow, on=Threads(1)).open(timing=True) as run:
        assert [item async for item in run] == [1, 2, 3]
    stage = run.report().timing.stages["slow"]
    assert stage.computation.mean >= 0.015
    assert stage.queue_wait.high >= 0.03

    summary = (await timed(same, slow)).get_latency_summary()
    assert list(summary.stage_statistics) == ["stage 0", "stage 1"]
    figures = summary.stage_statistics["stage 1"]
    assert figures.processed_count == 3
    assert figures.avg_processing_time >= 0.02
    assert summary.stage_statistics["stage 0"].avg_processing_time < figures.avg_processing_time
    assert 0 < figures.min_latency <= figures.avg_latency <= figures.max_latency
    parts = figures.timing_breakdown
    assert parts.avg_computation_time >= 0.015
    assert parts.avg_queue_wait_time >= 0.015
    assert 0 <= parts.computation_ratio <= 1
    total = parts.avg_computation_time + parts.avg_queue_wait_time + parts.avg_transmission_time
    assert total == pytest.approx(figures.avg_latency, abs=1e-6)

    def many(item: int) -> Iterator[int]:
        for _ in range(3):
            time.sleep(0.01)
            yield item

    pipeline = await timed(many, same)
    figures = pipeline.get_latency_summary().stage_statistics["stage 0"]
    assert figures.processed_count == 3  # items it took; each became three
    assert figures.avg_processing_time >= 0.03
    assert pipeline.stages[0].get_average_processing_time() == figures.avg_processing_time
    assert pipeline.stages[1].processed_count == 9


async def test_a21_the_way_of_each_item() -> None:
    """The last items are kept, each with its parts, which add up to its latency."""

    def late(item: int) -> int:
        time.sleep(0.02 if item == 3 else 0)
        return item * 2

    pipeline = await timed(same, late, of=(1, 2))
    report = pipeline.get_report()
    for item in report.item_breakdowns:
        parts = sum(stage.total_stage_time for stage in item.stages.values())
        assert parts == pytest.approx(item.totals.total_latency, abs=1e-6)
        assert list(item.stages) == ["stage 0", "stage 1"]
    await pipeline.start()
    for item in (3, 4):
        await pipeline.process_input_data(item, time.perf_counter())
    await until(lambda: pipeline.output_queue.qsize() == 2)
    assert await anext(pipeline.generate_output_stream()) == 6
    breakdowns = pipeline.get_report().item_breakdowns
    assert breakdowns[:2] == report.item_breakdowns  # what is known stays as it is
    assert len(breakdowns) == 3
    assert breakdowns[2].totals.total_computation_time >= 0.02
    assert all(list(item.stages) == ["stage 0", "stage 1"] for item in breakdowns)
    await pipeline.stop()

    metadata = report.analysis_metadata
    assert metadata["enable_timing"] is True
    assert metadata["total_stages"] == 2
    assert metadata["pipeline_running"] is False
    assert metadata["analysis_timestamp"] <= time.time()


async def test_a22_the_item_class_and_its_times() -> None:
    """`completed_items` are `PipelineItem`s; without timing every method gives `None`."""
    pipeline = await timed(same, of=("x",))
    (item,) = pipeline.completed_items
    assert item.data == "x"
    assert item.get_total_latency() > 0
    assert item.get_entry_time("stage 0") == item.start_timestamp
    assert item.get_completion_time("stage 0") > item.start_timestamp
    assert item.get_detailed_timing("stage 0").computation_time >= 0
    assert item.get_detailed_timing("nothing") is None
    assert list(item.get_stage_latencies()) == ["stage 0"]
    assert set(item.get_timing_breakdown()) == {"stage 0", "totals"}

    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    async with running({"nap": nap}, enable_timing=True) as pipeline:
        stream = pipeline.generate_output_stream()
        for seconds in (0.05, 0.0, 0.0):
            await pipeline.process_input_data(seconds, time.perf_counter())
        await until(lambda: pipeline.output_queue.qsize() == 3)
        assert await anext(stream) == 0.05
        (first,) = pipeline.completed_items
        assert first.get_detailed_timing("nap").computation_time >= 0.05
        await results(pipeline)
    slow, *others = pipeline.completed_items
    assert slow is first
    assert all(one.get_detailed_timing("nap").computation_time < 0.05 for one in others)

    bare = PipelineItem(data=1, enable_timing=False, start_timestamp=2.0)
    bare.record_entry_time("stage")
    bare.record_completion_time("stage")
    assert bare.start_timestamp == 2.0
    assert bare.get_total_latency() is bare.get_timing_breakdown() is None
    assert bare.get_entry_time("stage") is bare.get_stage_latencies() is None


async def test_a23_the_analysis_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """`str(report)`; there to the logger `flowstage`, and never to the root logger."""
    async with source([1]).map(same).open() as run:
        assert [item async for item in run] == [1]
    assert "same" in str(run.report())

    caplog.set_level(logging.INFO, logger="flowstage")
    log_pipeline_performance_analysis(AsyncTaskPipeline())
    assert "timing is disabled" in caplog.text
    log_pipeline_performance_analysis(await timed())
    assert "stage stage 0: 3 processed" in caplog.text
    assert {record.name for record in caplog.records} == {"flowstage"}


async def test_a24_what_was_stopped_can_be_started_again() -> None:
    """A flow is opened as often as one likes, also at once."""
    flow = Input[int]().map(double)
    async with flow.open() as one, flow.open() as other:
        await one.send(1)
        await other.send(2)
        one.finish()
        other.finish()
        assert [item async for item in one] == [2]
        assert [item async for item in other] == [4]

    pipeline: AsyncTaskPipeline[Any, Any] = AsyncTaskPipeline()
    pipeline.add_stage("double", double)
    for number in range(3):
        await pipeline.start()
        assert await results(pipeline, number) == [number * 2]
        await pipeline.stop()


# -- B: asyncio-buffered-pipeline ------------------------------------------------------------------


async def gen_1(count: int = 10) -> AsyncIterator[int]:
    for value in range(count):
        await anyio.sleep(1)
        yield value


async def gen_2(it: AsyncIterator[int]) -> AsyncIterator[int]:
    async for value in it:
        await anyio.sleep(1)
        yield value * 2


async def gen_3(it: AsyncIterator[int]) -> AsyncIterator[int]:
    async for value in it:
        await anyio.sleep(1)
        yield value + 3


def chained() -> AsyncIterator[int]:
    buffer_iterable = buffered_pipeline()
    it_1 = buffer_iterable(gen_1())
    it_2 = buffer_iterable(gen_2(it_1))
    return buffer_iterable(gen_3(it_2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_b1_chained_generators_overlap(backend: str) -> None:
    """Thirty seconds become twelve."""

    async def own() -> list[int]:
        return await source(gen_1).transform(gen_2).transform(gen_3).collect()

    async def theirs() -> list[int]:
        return [value async for value in chained()]

    for program in (own, theirs):
        outcome = observe(backend, program)
        outcome.check()
        assert outcome.unwrap() == [value * 2 + 3 for value in range(10)]
        assert outcome.elapsed == pytest.approx(12)


@virtual_time
@pytest.mark.parametrize("size", [1, 2, 5])
async def test_b2_looks_ahead_exactly_as_far_as_it_is_told(size: int) -> None:
    """`.buffer(n)`; the item being made counts: there is room for it before it is begun."""
    begun = 0

    async def numbers() -> AsyncIterator[int]:
        nonlocal begun
        for value in range(20):
            begun += 1
            yield value

    async with source(numbers).buffer(size).open() as run:
        await anyio.sleep(1)
        assert begun == size
        assert [value async for value in run] == list(range(20))

    begun = taken = 0
    async for value in buffered_pipeline()(numbers(), buffer_size=size):
        taken += 1
        assert value == taken - 1
        assert begun <= taken + size
        await anyio.sleep(1)
        assert begun == min(20, taken + size)
    assert taken == 20


async def test_b3_one_task_for_each_buffered_iterable() -> None:
    """Generators between two buffered ones may stand unbuffered."""
    tasks = set()

    async def noting(it: AsyncIterator[int]) -> AsyncIterator[int]:
        async for value in it:
            tasks.add(anyio.get_current_task().id)
            yield value

    buffer_iterable = buffered_pipeline()
    chain = buffer_iterable(noting(noting(buffer_iterable(noting(items(*range(5)))))))
    assert [value async for value in chain] == list(range(5))
    assert len(tasks) == 2
    assert anyio.get_current_task().id not in tasks


@virtual_time
@pytest.mark.parametrize("at", [1, 2, 3])
async def test_b4_an_exception_ends_everything_and_reaches_the_caller_as_it_is(at: int) -> None:
    """Fail fast, the root cause, its type unchanged."""

    class Broken(Exception):
        pass

    async def break_at(number: int, it: AsyncIterator[int]) -> AsyncIterator[int]:
        async for value in it:
            if at == number and value:
                raise Broken(value)
            yield value

    flow = source(gen_1).transform(lambda it: break_at(1, it)).transform(lambda it: break_at(2, it))
    with pytest.raises(Broken):
        await flow.transform(lambda it: break_at(3, it)).collect()

    before = len(anyio.get_running_tasks())
    buffer_iterable = buffered_pipeline()
    chain: AsyncIterator[int] = gen_1()
    for number in (1, 2, 3):
        chain = buffer_iterable(break_at(number, chain))
    found = []
    with pytest.raises(Broken) as caught:
        async for value in chain:
            found.append(value)
    assert type(caught.value) is Broken
    assert found == [0]
    assert len(anyio.get_running_tasks()) == before


@virtual_time
async def test_b5_cancelling_the_caller_ends_everything_and_so_does_a_break() -> None:
    """Nothing is left, and the generators have run their cleanup."""
    closed = []

    async def cleaned(it: AsyncIterator[int]) -> AsyncIterator[int]:
        try:
            async for value in it:
                yield value
        finally:
            closed.append(True)

    before = len(anyio.get_running_tasks())
    with anyio.move_on_after(2.5):
        async with source(gen_1).transform(cleaned).open() as run:
            async for _ in run:
                pass
    assert len(closed) == 1
    assert len(anyio.get_running_tasks()) == before

    buffer_iterable = buffered_pipeline()
    chain = buffer_iterable(cleaned(buffer_iterable(cleaned(gen_1()))))
    with anyio.move_on_after(2.5):
        async for _ in chain:
            pass
    assert len(closed) == 3
    assert len(anyio.get_running_tasks()) == before

    chain = buffer_iterable(cleaned(buffer_iterable(cleaned(gen_1()))))
    async for _ in chain:
        break
    del chain
    for _ in range(10):
        await checkpoint()
    assert len(closed) == 5
    assert len(anyio.get_running_tasks()) == before


async def test_b6_the_chaining_is_the_users_own() -> None:
    """Other arguments, some steps unbuffered; `pipe` and plain functions over flows."""

    def scaled(flow: Flow[Any, int], by: int) -> Flow[Any, int]:
        return flow.map(lambda value: value * by)

    assert await source(range(3)).pipe(scaled, by=10).collect() == [0, 10, 20]

    async def scale(it: AsyncIterator[int], by: int) -> AsyncIterator[int]:
        async for value in it:
            yield value * by

    buffer_iterable = buffered_pipeline()
    chain = buffer_iterable(scale(scale(buffer_iterable(items(0, 1, 2)), 5), by=2), 3)
    assert [value async for value in chain] == [0, 10, 20]


async def test_b7_order_is_kept_the_end_passes_on_and_values_are_let_go() -> None:
    """No reference is kept to a value that was given."""

    class Value:
        pass

    async def values() -> AsyncIterator[Value]:
        yield Value()
        await anyio.sleep_forever()

    async with source(values).open() as run:
        async for value in run:
            seen = weakref.ref(value)
            break
        del value
        gc.collect()
        assert seen() is None

    chain = buffered_pipeline()(values())
    value = await anext(chain)
    seen = weakref.ref(value)
    del value
    gc.collect()
    assert seen() is None
    await chain.aclose()

    assert [value async for value in buffered_pipeline()(items(*range(50)), 7)] == list(range(50))
    over = buffered_pipeline()(items(1))
    assert [value async for value in over] == [1]
    assert [value async for value in over] == []


# -- P: async-pipeline -----------------------------------------------------------------------------


async def add_one(value: int) -> int:
    return value + 1


async def multiply_by_two(value: int) -> int:
    return value * 2


async def test_p1_each_stage_gets_what_the_one_before_gave() -> None:
    """Without a stage there is nothing to run."""
    assert await Input[int]().map(add_one).map(multiply_by_two).collect([10]) == [22]

    stages = [Stage("add_one", add_one), Stage("multiply_by_two", multiply_by_two)]
    pipeline = Pipeline(stages)
    assert await pipeline.run(10) == 22
    with pytest.raises(ValueError, match="at least one stage"):
        Pipeline([])


async def test_p2_one_value_through_all() -> None:
    """`flow.call`."""
    assert await Input[int]().map(add_one).call(1) == 2
    with pytest.raises(LookupError):
        await Input[int]().filter(lambda item: False).call(1)
    assert await Pipeline([Stage("add_one", add_one)]).run(1) == 2


async def test_p3_handlers_may_be_plain_or_async_or_give_an_awaitable() -> None:
    """Whatever they give is awaited if it can be."""
    for handler in (add_one, lambda value: value + 1, lambda value: add_one(value)):
        assert await Input[int]().map(handler).call(1) == 2
        assert await Pipeline([Stage("handler", handler)]).run(1) == 2
        assert await Stage("handler", handler).run(1) == 2


async def test_p4_an_error_says_which_stage_it_was() -> None:
    """The error itself with a note here; a `StageExecutionError` around it there."""

    async def broken(value: int) -> int:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom") as caught:
        await Input[int]().map(broken).call(1)
    failure = failure_of(caught.value)
    assert failure is not None
    assert (failure.stage, failure.item, failure.attempts) == ("broken", 1, 1)

    with pytest.raises(StageExecutionError) as wrapped:
        await Pipeline([Stage("broken", broken)]).run(1)
    assert isinstance(wrapped.value, PipelineError)
    assert wrapped.value.stage_name == "broken"
    assert isinstance(wrapped.value.original_error, RuntimeError)
    assert wrapped.value.__cause__ is wrapped.value.original_error
    assert "broken" in str(wrapped.value)


@virtual_time
async def test_p5_each_attempt_may_have_a_timeout() -> None:
    """Here in places too; there for async handlers only."""

    async def slow(value: int) -> int:
        await anyio.sleep(2)
        return value

    with pytest.raises(StageTimeout):
        await Input[int]().map(slow, timeout=1).call(1)
    with pytest.raises(ValueError, match="timeout"):
        Input[int]().map(slow, timeout=0)

    with pytest.raises(StageExecutionError) as caught:
        await Pipeline([Stage("slow", slow, timeout=1.0)]).run(1)
    assert isinstance(caught.value.original_error, TimeoutError)
    assert await Pipeline([Stage("plain", same, timeout=1e-9)]).run(1) == 1
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=r"^timeout must be greater than 0$"):
            Stage("slow", slow, timeout=wrong)


@virtual_time
async def test_p6_a_failed_call_may_be_tried_again() -> None:
    """`retries=3` is four tries, so `Retry(4)`; the delays are the same."""
    tries: list[float] = []

    async def failing(value: int) -> int:
        tries.append(anyio.current_time())
        raise OSError(value)

    async def delays(program: Any) -> list[float]:
        tries.clear()
        with pytest.raises((OSError, StageExecutionError)):
            await program
        return [round(after - before, 6) for before, after in itertools.pairwise(tries)]

    exponential = Retry(4, delay=0.5, backoff="exponential")
    assert await delays(Input[int]().map(failing, retry=exponential).call(1)) == [0.5, 1, 2]
    stage = Stage("f", failing, retries=3, retry_delay=0.5, backoff="exponential")
    assert await delays(Pipeline([stage]).run(1)) == [0.5, 1, 2]
    assert await delays(Stage("f", failing, retries=2, retry_delay=0.5).run(1)) == [0.5, 0.5]
    assert await delays(Stage("f", failing, retries=2).run(1)) == [0, 0]

    async def interrupted(value: int) -> int:
        tries.append(0.0)
        raise KeyboardInterrupt

    tries.clear()
    with pytest.raises(KeyboardInterrupt):
        await Stage("f", interrupted, retries=2).run(1)
    assert len(tries) == 1

    for wrong in ({"retries": -1}, {"retry_delay": -1}, {"backoff": "linear"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Stage("f", failing, **wrong)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match="attempts"):
        Retry(0)


async def test_p7_stages_of_a_run_share_a_context() -> None:
    """`call(item, context=)` and `pass_context=True`; there by the number of parameters."""

    async def put(value: int, context: dict[str, Any]) -> int:
        context["seen"] = value
        return value

    def get(value: int, context: Any) -> int:
        return int(context["seen"]) + value

    own: dict[str, Any] = {}
    flow = Input[int]().map(put, pass_context=True).map(get, pass_context=True)
    assert await flow.call(1, context=own) == 2
    assert own == {"seen": 1}

    theirs: dict[str, Any] = {}
    pipeline = Pipeline([Stage("put", put), Stage("add_one", add_one), Stage("get", get)])
    assert await pipeline.run(1, context=theirs) == 3
    assert theirs == {"seen": 1}
    assert await pipeline.run(5) == 11


class Noting:
    """An observer, and a pair of hooks."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def before_stage(self, *details: Any) -> None:
        self.seen.append(details)
        raise ValueError("a broken hook")

    async def after_stage(self, *details: Any) -> None:
        self.seen.append(details)
        raise ValueError("a broken hook")


async def test_p8_hooks_see_every_stage_once() -> None:
    """`observers=`; what they raise replaces nothing, and `error` is the user's own here."""
    tries = 0

    def second_time(value: int) -> int:
        nonlocal tries
        tries += 1
        if tries % 2:
            raise OSError("again")
        return value + 1

    def broken(value: int) -> int:
        raise KeyError(value)

    hooks = Noting()
    flow = Input[int]().map(second_time, retry=Retry(2)).map(broken)
    with pytest.raises(KeyError):
        await flow.call(1, observers=[hooks])
    assert [details[:2] for details in hooks.seen] == [
        ("second_time", 1),
        ("second_time", 1),
        ("broken", 2),
        ("broken", 2),
    ]
    assert hooks.seen[1][2:4] == (2, None)
    assert isinstance(hooks.seen[3][3], KeyError)

    seen: list[Any] = []

    def before(name: str, value: Any) -> None:
        seen.append((name, value))
        raise ValueError("a broken hook")

    async def after(name: str, value: Any, output: Any, error: Any, context: Any) -> None:
        seen.append((name, value, output, type(error), context))
        raise ValueError("a broken hook")

    stages = [Stage("second", second_time, retries=1), Stage("broken", broken)]
    pipeline = Pipeline(stages, before_stage=before, after_stage=after)
    with pytest.raises(StageExecutionError):
        await pipeline.run(1, context={"a": 1})
    assert seen == [
        ("second", 1),
        ("second", 1, 2, type(None), {"a": 1}),
        ("broken", 2),
        ("broken", 2, None, StageExecutionError, {"a": 1}),
    ]


async def test_p9_many_values_at_once_in_the_order_of_the_items() -> None:
    """`collect`, with `concurrency` per stage; there it counts whole pipelines."""
    at_once = most = pulled = 0

    async def first(value: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await anyio.sleep(0.002 * (value % 3))
        return value

    async def last(value: int) -> int:
        nonlocal at_once
        await checkpoint()
        at_once -= 1
        if value == 7:
            raise KeyError(value)
        return value

    def numbers() -> Iterator[int]:
        nonlocal pulled
        for value in range(20):
            assert at_once < 4  # there is a pipeline free to take it
            pulled += 1
            yield value

    flow = Input[int]().map(first, concurrency=5).map(last, concurrency=5)
    found = await flow.collect(range(20), on_error="emit")
    assert [one.item if isinstance(one, Failure) else one for one in found] == list(range(20))
    assert isinstance(found[7], Failure)

    at_once = most = 0
    pipeline = Pipeline([Stage("first", first), Stage("last", last)])
    found = await pipeline.map(numbers(), concurrency=4, return_exceptions=True)
    assert found[:7] == list(range(7))
    assert found[8:] == list(range(8, 20))
    assert isinstance(found[7], StageExecutionError)
    assert found[7].stage_name == "last"
    assert found[7].original_error.args == (7,)
    assert most == 4
    assert pulled == 20
    assert await pipeline.map([]) == []
    with pytest.raises(ValueError, match="concurrency must be"):
        await pipeline.map([1], concurrency=0)

    template = {"seen": 0}

    def note(value: int, context: dict[str, int]) -> int:
        context["seen"] += value
        return context["seen"]

    assert await Pipeline([Stage("note", note)]).map([1, 2, 3], context=template) == [1, 2, 3]
    assert template == {"seen": 0}


async def test_p10_a_failing_item_ends_the_whole_map() -> None:
    """Fail fast with the error itself; there in an `ExceptionGroup`, the others cancelled."""
    begun: list[int] = []
    ended: list[int] = []

    async def fail_at_three(value: int) -> int:
        begun.append(value)
        try:
            if value == 3:
                raise KeyError(value)
            await anyio.sleep_forever()
        finally:
            ended.append(value)
        return value

    with pytest.raises(KeyError):
        await Input[int]().map(fail_at_three, concurrency=5).collect(range(10))

    begun.clear()
    ended.clear()
    with pytest.raises(ExceptionGroup) as caught:
        await Pipeline([Stage("fail", fail_at_three)]).map(range(10), concurrency=5)
    (error,) = caught.value.exceptions
    assert isinstance(error, StageExecutionError)
    assert isinstance(error.original_error, KeyError)
    assert sorted(ended) == sorted(begun)
    assert {3} <= set(begun) <= {0, 1, 2, 3, 4}


def test_p11_it_is_typed() -> None:
    """The package says so, and what a stage takes and gives is known."""
    from importlib.resources import files

    assert (files("flowstage") / "py.typed").is_file()
    stage = Stage("add_one", add_one)
    assert_type(stage, Stage[Any, int])
    assert_type(Input[int]().map(add_one), Flow[int, int])


# -- where the three disagree ----------------------------------------------------------------------


async def test_d1_none_is_a_value_but_for_a() -> None:
    """Dropping is `filter`."""
    assert await source([1]).map(lambda item: None).collect() == [None]
    async with running({"drop": lambda item: None}) as pipeline:
        assert await results(pipeline, 1) == []
    assert [value async for value in buffered_pipeline()(items(None))] == [None]
    assert await Pipeline([Stage("none", lambda value: None)]).run(1) is None


async def test_d2_a_failing_item_raises_unless_told_otherwise() -> None:
    """Dropped by A, raised as it is by B, wrapped by P."""
    with pytest.raises(ZeroDivisionError):
        await source([0]).map(invert).collect()
    assert await source([0]).map(invert, on_error="skip").collect() == []
    async with running({"invert": invert}) as pipeline:
        assert await results(pipeline, 0) == []
    with pytest.raises(StageExecutionError):
        await Pipeline([Stage("invert", invert)]).run(0)


async def test_d3_a_buffer_holds_a_hundred_unless_told_otherwise() -> None:
    """A's number; B's is 1, P has none."""
    assert [edge.capacity for edge in source([1]).map(add_one).graph.edges] == [100, 100]
    assert AsyncTaskPipeline().max_queue_size == 100

    begun: list[int] = []

    async def noting() -> AsyncIterator[int]:
        for value in range(10):
            begun.append(value)
            yield value

    values = buffered_pipeline()(noting())
    assert await anext(values) == 0
    await wait_all_tasks_blocked()
    assert begun == [0, 1]  # one value ahead
    await values.aclose()


async def test_d4_a_plain_function_runs_on_the_loop_or_where_on_says() -> None:
    """A runs it in a thread, P on the loop."""
    here = threading.get_ident()

    def where(_: Any) -> bool:
        return threading.get_ident() == here

    assert await source([1]).map(where).collect() == [True]
    assert await source([1]).map(where, on=Threads(1)).collect() == [False]
    async with running({"where": where}) as pipeline:
        assert await results(pipeline, 1) == [False]
    assert await Pipeline([Stage("where", where)]).run(1) is True


async def test_d5_a_plain_functions_timeout_is_enforced_in_a_place_only() -> None:
    """Refused where it could not be; P ignores it."""
    with pytest.raises(TypeError, match="timeout"):
        Input[int]().map(double, timeout=1)
    assert await source([1]).map(double, on=Threads(1), timeout=5).collect() == [2]
    assert await Pipeline([Stage("double", double, timeout=5)]).run(1) == 2


async def test_d6_the_end_of_input_is_the_end_of_the_source_or_finish() -> None:
    """A sentinel is something else."""
    async with Input[int]().open() as run:
        await run.send_sentinel("no end")
        await run.send(1)
        run.finish()
        assert [event async for event in run.events()] == [Sentinel("no end"), 1]
