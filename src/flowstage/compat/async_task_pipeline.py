"""async-task-pipeline's `AsyncTaskPipeline`: stages in threads behind an async input and output.

    from flowstage.compat.async_task_pipeline import AsyncTaskPipeline

Each stage is a `flat_map` in a thread of its own, so it may return a value, `None` to drop the item,
or a generator; every queue is an edge of the flow. The run lives from `start` to `stop`.

What the items of the flow carry is a `PipelineItem`. The end of `generate_output_stream` is a sentinel
of this module's own: sent behind everything accepted, it comes out behind everything made of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from inspect import iscoroutinefunction
from types import GeneratorType
from typing import Any, Generic, TypeVar

from anyio import CancelScope, WouldBlock, from_thread
from anyio.lowlevel import EventLoopToken, checkpoint, current_token

from flowstage import ClosedError, Failure, Flow, Input, Report, Run, Sentinel, Threads

from ._host import Host
from ._task_report import (
    DetailedTiming,
    EfficiencyMetrics,
    ItemTimingBreakdown,
    ItemTimingTotals,
    LatencySummary,
    PipelineAnalysis,
    PipelineItem,
    StageStatistics,
    StageTimingDetail,
    TimingBreakdown,
    analysis_of,
    describe,
    timed,
)

__all__ = [
    "AsyncTaskPipeline",
    "DetailedTiming",
    "EfficiencyMetrics",
    "ItemTimingBreakdown",
    "ItemTimingTotals",
    "LatencySummary",
    "PipelineAnalysis",
    "PipelineItem",
    "PipelineStage",
    "QueueView",
    "StageStatistics",
    "StageTimingDetail",
    "TimingBreakdown",
    "log_pipeline_performance_analysis",
]

T = TypeVar("T")
U = TypeVar("U")

logger = logging.getLogger("flowstage")

KEPT_ITEMS = 1000
"""Completed items that are kept for the report: as many as a run times singly."""

_TURN = 100
"""Items that a stream feeds in a row before it looks whether it was cancelled."""

_NOT_RUNNING = "Pipeline is not running"


class PipelineStage:
    """One stage, as `AsyncTaskPipeline.stages` shows it.

    Attributes:
        name: unique in its pipeline.
        process_fn: what is called for each item.
    """

    def __init__(self, name: str, process_fn: Callable[[Any], Any], state: _State) -> None:
        self.name = name
        self.process_fn = process_fn
        self._state = state

    def __repr__(self) -> str:
        return f"<PipelineStage {self.name!r}>"

    @property
    def running(self) -> bool:
        """Whether the pipeline is."""
        return self._state.host is not None

    @property
    def processed_count(self) -> int:
        """Items that it has processed."""
        report = self._state.report()
        return 0 if report is None else report.stage(self.name).done

    def get_average_processing_time(self) -> float:
        """Seconds that an item takes; 0.0 before there was one."""
        report = self._state.report()
        return 0.0 if report is None else report.stage(self.name).calls.mean


class QueueView:
    """One queue of the pipeline, to be looked at."""

    def __init__(self, number: int, state: _State) -> None:
        self._number = number
        self._state = state

    @property
    def maxsize(self) -> int:
        """Items that it can hold."""
        return self._state.maxsize

    def qsize(self) -> int:
        """Items in it now."""
        return self._state.inside(self._number)

    def empty(self) -> bool:
        """Whether it holds none."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether it has no room."""
        return self.qsize() >= self.maxsize


class _State:
    """What the stages, queues and output of one pipeline look at.

    Attributes:
        host: the run, while there is one.
        last: the report of the run that was stopped last.
        left: what had come out and was not read when the pipeline was stopped.
        first: the number of the first item that is wanted; those before it were cleared.
        unread: items at the head of the output that were cleared.
    """

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.host: Host | None = None
        self.last: Report | None = None
        self.left: deque[Any] = deque()
        self.first = 0
        self.unread = 0
        self.stages: list[PipelineStage] = []

    @property
    def run(self) -> Run[Any, Any]:
        """The run.

        Raises:
            RuntimeError: there is none.
        """
        if self.host is None or self.host.gone.is_set():
            raise RuntimeError(_NOT_RUNNING)
        return self.host.run

    def report(self) -> Report | None:
        """The report of this run, else of the last."""
        return self.last if self.host is None else self.host.run.report()

    def inside(self, number: int) -> int:
        """Items in a queue; number 0 is the input, the last one the output."""
        if number == len(self.stages):
            held = 0 if self.host is None else max(0, self.output_of(self.host) - self.unread)
            return held + sum(type(thing) is not Sentinel for thing in self.left)
        if self.host is None:
            return 0
        target = self.stages[number].name
        return sum(e.inside for e in self.host.run.report().edges if e.target == target)

    def output_of(self, host: Host) -> int:
        """Items in the output of a run."""
        last = self.stages[-1].name
        return sum(edge.inside for edge in host.run.report().edges if edge.source == last)


class AsyncTaskPipeline(Generic[T, U]):
    """Stages that each run in a thread, fed and read asynchronously.

    It takes two type parameters: the data that is processed, and what passes through untouched.

    Args:
        max_queue_size: items that each queue holds.
        enable_timing: whether each item's times are kept, for `get_report`.
        return_exceptions: whether the exception of an item that failed is put in its place in the
            output; else the item is left out, logged and counted.

    Raises:
        ValueError: `max_queue_size` is below 1.
    """

    def __init__(
        self,
        max_queue_size: int = 100,
        enable_timing: bool = False,
        return_exceptions: bool = False,
    ) -> None:
        if isinstance(max_queue_size, bool) or not isinstance(max_queue_size, int):
            raise TypeError(f"max_queue_size must be a whole number, not {max_queue_size!r}")
        if max_queue_size < 1:
            raise ValueError(f"max_queue_size must be at least 1, not {max_queue_size}")
        self.max_queue_size = max_queue_size
        self.enable_timing = enable_timing
        self.return_exceptions = return_exceptions
        self._state = _State(max_queue_size)
        self._token: EventLoopToken | None = None
        self._thread = 0
        self._numbers = 0
        self._counter = 0
        self._total = 0
        self._feeding = 0
        self._fed = False
        self._ends: set[_End] = set()
        self._done: deque[PipelineItem[Any]] = deque(maxlen=KEPT_ITEMS)

    def __del__(self) -> None:
        state = getattr(self, "_state", None)
        if state is not None and state.host is not None:
            state.host.end_soon()

    # -- looking at it --------------------------------------------------------------------------

    @property
    def stages(self) -> list[PipelineStage]:
        """The stages, in the order in which they were added."""
        return list(self._state.stages)

    @property
    def queues(self) -> list[QueueView]:
        """The queue behind each stage."""
        return [QueueView(number + 1, self._state) for number in range(len(self._state.stages))]

    @property
    def input_queue(self) -> QueueView | None:
        """The queue in front of the first stage; `None` while there is no stage."""
        return QueueView(0, self._state) if self._state.stages else None

    @property
    def output_queue(self) -> QueueView | None:
        """The queue behind the last stage; `None` while there is no stage."""
        return self.queues[-1] if self._state.stages else None

    @property
    def running(self) -> bool:
        """Whether it has been started, and not stopped since."""
        return self._state.host is not None

    @property
    def counter(self) -> int:
        """Items accepted since the last `clear`."""
        return self._counter

    @property
    def completed_items(self) -> list[PipelineItem[Any]]:
        """The last 1,000 items that came out; only with timing."""
        return self._timed(self._state.report())

    # -- life -----------------------------------------------------------------------------------

    def add_stage(self, name: str, process_fn: Callable[[Any], Any]) -> None:
        """Add a stage behind those there are.

        Args:
            name: unique in this pipeline.
            process_fn: called in the stage's thread with one item's data; it returns what goes on,
                `None` to drop the item, or a generator, each of whose values becomes an item.

        Raises:
            ValueError: the name is taken or empty.
            TypeError: `process_fn` cannot be called, or is async.
            RuntimeError: the pipeline is running.
        """
        if not isinstance(name, str):
            raise TypeError(f"a stage's name must be a string, not {name!r}")
        if not name:
            raise ValueError("a stage's name must not be empty")
        if any(stage.name == name for stage in self._state.stages):
            raise ValueError(f"there is a stage named {name!r} already; names have to be unique")
        if not callable(process_fn):
            raise TypeError(f"stage {name!r} needs a function, not {process_fn!r}")
        if iscoroutinefunction(process_fn):
            raise TypeError(
                f"stage {name!r} runs in a thread, so its function cannot be async; "
                "use flowstage.Flow.map for one that is"
            )
        if self.running:
            raise RuntimeError("Pipeline is running; add stages before it is started")
        self._state.stages.append(PipelineStage(name, process_fn, self._state))

    async def start(self) -> None:
        """Start all stages.

        Raises:
            RuntimeError: it is running already, or has no stages.
        """
        state = self._state
        if state.host is not None:
            raise RuntimeError("Pipeline is already running")
        if not state.stages:
            raise RuntimeError("Pipeline has no stages; add one before it is started")
        opening = self._flow().open(
            buffer=self.max_queue_size,
            on_error="emit" if self.return_exceptions else "skip",
            timing=bool(self.enable_timing),
        )
        state.host = host = Host(opening, "flowstage AsyncTaskPipeline")
        try:
            await host.start()
        except BaseException:
            state.host = None
            raise
        state.unread = 0
        self._token, self._thread = current_token(), threading.get_ident()
        self._fed = False
        self._ends.clear()
        logger.info("pipeline started")

    def _flow(self) -> Flow[Any, Any]:
        flow: Flow[Any, Any] = Input("input")
        for number, stage in enumerate(self._state.stages):
            wanted = self._state if number == 0 else None
            step = _Step(stage.process_fn, wanted)
            flow = flow.flat_map(step, on=Threads(1), name=stage.name)
        return flow

    async def stop(self) -> None:
        """Stop all stages and wait until their threads are done.

        What has come out can still be read; what has not is lost. Calling it again is fine.
        """
        state = self._state
        host, state.host = state.host, None
        if host is None:
            await checkpoint()
            return
        try:
            await self._keep_output(host)
        finally:
            await host.close()
            state.last = host.run.report()
        logger.info("pipeline stopped")
        if host.error is not None:
            raise host.error

    async def _keep_output(self, host: Host) -> None:
        """Take what has come out by now; what comes out meanwhile is not waited for."""
        state = self._state
        left = state.output_of(host)
        while left > 0:
            thing = _NOTHING
            with CancelScope() as scope:
                scope.cancel()  # a reader lets others have a turn now and then, but never waits here
                try:
                    thing = await host.next_event()
                except StopAsyncIteration:
                    return
            if thing is not _NOTHING:
                left -= type(thing) is not Sentinel
                if self._note(thing):
                    state.left.append(thing)

    async def interrupt(self) -> None:
        """Drop everything that is queued or being computed, and go on with what comes next.

        Does nothing when the pipeline is not running.
        """
        if self.running:
            self.clear()
        await checkpoint()

    # -- feeding --------------------------------------------------------------------------------

    async def process_input_stream(self, input_stream: AsyncIterable[Any]) -> None:
        """Feed everything that an async iterator gives.

        Raises:
            RuntimeError: the pipeline is not running.
            Exception: what the iterator raised; it is logged too.
        """
        self._feeding += 1
        try:
            async for data in input_stream:
                created_at = time.perf_counter()
                if not self._accept(data, created_at):
                    await self.process_input_data(data, created_at)
            self._fed = True
        except Exception as error:
            logger.error("error in the input stream: %r", error)
            raise
        finally:
            self._feeding -= 1

    async def process_input_data(self, data: T, created_at: float) -> None:
        """Feed one item, waiting while the pipeline is full.

        Args:
            data: what the first stage gets.
            created_at: when it was made, by `time.perf_counter()`: its latency begins there.

        Raises:
            RuntimeError: the pipeline is not running.
        """
        run = self._state.run
        self._numbers += 1
        item = PipelineItem(data, self.enable_timing, created_at, number=self._numbers)
        try:
            await run.send(item)
        except ClosedError:
            raise RuntimeError(_NOT_RUNNING) from None
        if self.running:
            self._counter += 1

    def _accept(self, data: Any, created_at: float) -> bool:
        """Feed one item if that needs no waiting, and no other task is due a turn."""
        self._numbers = number = self._numbers + 1
        if number % _TURN == 0:
            return False
        try:
            self._state.run.send_nowait(
                PipelineItem(data, self.enable_timing, created_at, number=number)
            )
        except WouldBlock:
            return False
        except ClosedError:
            raise RuntimeError(_NOT_RUNNING) from None
        self._counter += 1
        return True

    async def process_input_sentinel(self, sentinel: U) -> None:
        """Feed something that passes every stage untouched, in its place.

        Raises:
            RuntimeError: the pipeline is not running.
        """
        try:
            await self._state.run.send_sentinel(sentinel)
        except ClosedError:
            raise RuntimeError(_NOT_RUNNING) from None

    def put_input_data(self, data: T, created_at: float) -> None:
        """Feed one item from any thread but the event loop's, waiting while the pipeline is full.

        Raises:
            RuntimeError: the pipeline is not running, or this is the event loop's thread.
        """
        self._from_thread("data", self.process_input_data, data, created_at)

    def put_input_sentinel(self, sentinel: U) -> None:
        """Feed a sentinel from any thread but the event loop's.

        Raises:
            RuntimeError: the pipeline is not running, or this is the event loop's thread.
        """
        self._from_thread("sentinel", self.process_input_sentinel, sentinel)

    def _from_thread(self, what: str, feed: Callable[..., Any], *args: Any) -> None:
        token = self._token
        if not self.running or token is None:
            raise RuntimeError(_NOT_RUNNING)
        if threading.get_ident() == self._thread:
            raise RuntimeError(
                f"put_input_{what} would hold up the event loop it is called on; "
                f"use 'await process_input_{what}(...)' there"
            )
        from_thread.run(feed, *args, token=token)

    # -- reading --------------------------------------------------------------------------------

    def generate_output_stream(self) -> OutputStream[T, U]:
        """Give results and sentinels as they come out, in order.

        Begun when a `process_input_stream` has come to its end, it ends when everything accepted
        has come out; else it lasts until the pipeline is stopped and what had come out is read.

        With `return_exceptions`, the exceptions of items that failed are among them.
        """
        return OutputStream(self)

    def _begin_reading(self) -> _End | None:
        """Send the end of a stream that is to end, behind everything accepted."""
        if not (self._fed and not self._feeding):
            return None
        end = _End()
        if self._send_end(end):
            self._ends.add(end)
            return end
        return None

    def _send_end(self, end: _End) -> bool:
        host = self._state.host
        if host is None or host.gone.is_set():
            return False
        host.start_soon(host.run.send_sentinel, end)
        return True

    async def _next_thing(self) -> Any:
        """Give the next thing that comes out.

        Raises:
            StopAsyncIteration: the pipeline is stopped, and everything is read.
        """
        state = self._state
        while True:
            if state.left:
                return state.left.popleft()
            host = state.host
            if host is None:
                raise StopAsyncIteration
            try:
                thing = await host.next_event()
            except StopAsyncIteration:
                if state.host is host and not state.left:
                    raise
                continue  # stopped meanwhile, which may have left something
            if self._note(thing):
                return thing

    def _note(self, thing: Any) -> bool:
        """Take note of what came out; tell whether it is still wanted."""
        wanted, state = True, self._state
        if state.unread and type(thing) is not Sentinel:
            state.unread -= 1
            wanted = False
        if type(thing) is PipelineItem:
            self._total += wanted
            if self.enable_timing:  # also when it is not wanted: the run has kept its times
                thing.wanted = wanted
                self._done.append(thing)
        return wanted

    # -- clearing -------------------------------------------------------------------------------

    def clear(self) -> None:
        """Drop everything that is queued or being computed; forget `completed_items` and `counter`."""
        state = self._state
        state.left.clear()
        if state.host is not None and not state.host.gone.is_set():
            state.host.run.interrupt()
            state.unread = 0
            for end in self._ends:  # they were dropped too, and somebody waits for them
                self._send_end(end)
        for item in self._done:
            item.wanted = False
        self._total = self._counter = 0

    def clear_input_queue(self) -> None:
        """Drop what waits in front of the first stage."""
        self._state.first = self._numbers + 1

    def clear_output_queue(self) -> None:
        """Drop what waits behind the last stage."""
        state = self._state
        if state.host is not None:
            state.unread += state.inside(len(state.stages))
        state.left.clear()

    # -- telling --------------------------------------------------------------------------------

    def _timed(self, report: Report | None) -> list[PipelineItem[Any]]:
        records = () if report is None or report.timing is None else report.timing.items
        return timed(list(self._done), records)

    def get_report(self, include_item_details: bool = True) -> PipelineAnalysis | None:
        """Give the latency figures of the last 1,000 items that came out.

        Args:
            include_item_details: whether each item's times are among them.

        Returns:
            the analysis, or `None` without timing, or while nothing has come out.
        """
        report = self._state.report()
        if report is None or not self.enable_timing:
            return None
        items = self._timed(report)
        if not items:
            return None
        return analysis_of(
            items,
            total=self._total,
            stages={stage.name: report.stage(stage.name) for stage in self._state.stages},
            details=include_item_details,
            running=self.running,
        )

    def get_latency_summary(self) -> LatencySummary | None:
        """Give the summary of `get_report`, whose figures are found by key as well."""
        report = self.get_report(include_item_details=False)
        return None if report is None else report.summary


class OutputStream(AsyncIterator["T | U"], Generic[T, U]):
    """What comes out of a pipeline; made by `generate_output_stream`. Leaving it stops nothing."""

    def __init__(self, pipeline: AsyncTaskPipeline[T, U]) -> None:
        self._pipeline = pipeline
        self._end: _End | None = None
        self._begun = self._over = False

    def __aiter__(self) -> OutputStream[T, U]:
        return self

    async def __anext__(self) -> Any:
        pipeline = self._pipeline
        if self._over:
            raise StopAsyncIteration
        if not self._begun:
            self._begun = True
            self._end = pipeline._begin_reading()
        while True:
            try:
                thing = await pipeline._next_thing()
            except StopAsyncIteration:
                self._finish()
                raise
            if type(thing) is PipelineItem:
                return thing.data
            if type(thing) is Failure:
                return thing.error
            if type(thing) is not Sentinel:
                continue
            if type(thing.value) is not _End:
                return thing.value
            if thing.value is self._end:
                self._finish()
                raise StopAsyncIteration

    async def aclose(self) -> None:
        """Read no more; the pipeline goes on."""
        self._finish()
        await checkpoint()

    def _finish(self) -> None:
        self._over = True
        if self._end is not None:
            self._pipeline._ends.discard(self._end)


class _End:
    """What a stream that is to end sends behind everything accepted."""


_NOTHING: Any = object()


class _Step:
    """One stage's function as a `flat_map` calls it, in the stage's thread.

    Args:
        fn: the user's function.
        wanted: for the first stage: where it stands which items were cleared.
    """

    def __init__(self, fn: Callable[[Any], Any], wanted: _State | None) -> None:
        self._fn = fn
        self._wanted = wanted

    def __call__(self, item: PipelineItem[Any]) -> Iterable[PipelineItem[Any]]:
        if self._wanted is not None and item.number < self._wanted.first:
            return ()
        result = self._fn(item.data)
        if result is None:
            return ()
        if type(result) is GeneratorType:
            return _spread(item, result)
        item.data = result
        return (item,)


def _spread(item: PipelineItem[Any], values: Iterator[Any]) -> Iterator[PipelineItem[Any]]:
    for value in values:
        yield item.with_data(value)


def log_pipeline_performance_analysis(pipeline: AsyncTaskPipeline[Any, Any]) -> None:
    """Log the analysis of a pipeline, at level `INFO` of the logger `flowstage`."""
    if not pipeline.enable_timing:
        logger.info("timing is disabled; there is no analysis")
        return
    analysis = pipeline.get_report()
    if analysis is None:
        logger.info("no items have been processed; there is no analysis")
        return
    for line in describe(analysis):
        logger.info("%s", line)
