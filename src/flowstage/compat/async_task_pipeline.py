"""async-task-pipeline's `AsyncTaskPipeline`: stages in threads behind an async input and output.

    from flowstage.compat.async_task_pipeline import AsyncTaskPipeline

A pipeline is a flow of its stages (`_task_stage`), whose run lives from `start` to `stop` (`_task_run`).
Every queue is an edge of the flow, except for the one in front of the first stage, which can be cleared:
see `_task_input`.

What goes from stage to stage is a `PipelineItem`, or a `Mark`: a sentinel, which a stage gives on as it
is. The end of `generate_output_stream` is a sentinel of the flow's: sent behind everything accepted, it
comes out behind everything made of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from concurrent.futures import CancelledError
from inspect import iscoroutinefunction
from reprlib import repr as shown
from typing import Any, Generic, TypeVar

from anyio import CancelScope, RunFinishedError, from_thread
from anyio.lowlevel import EventLoopToken, checkpoint, current_token

from flowstage import Failure, Sentinel

from ._task_input import NOT_RUNNING, Mark
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
)
from ._task_run import End, QueueView, Session, State
from ._task_stage import PipelineStage, flow_of

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

_NOTHING: Any = object()


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
            raise TypeError(f"max_queue_size must be a whole number, not {shown(max_queue_size)}")
        if max_queue_size < 1:
            raise ValueError(f"max_queue_size must be at least 1, not {max_queue_size}")
        self._enable_timing = enable_timing
        self._return_exceptions = return_exceptions
        self._state = State(max_queue_size)
        self._token: EventLoopToken | None = None
        self._thread = 0
        self._streamed = 0
        self._total = 0
        self._feeding = 0
        self._done: deque[PipelineItem[Any]] = deque(maxlen=KEPT_ITEMS)

    def __del__(self) -> None:
        state = getattr(self, "_state", None)
        if state is not None and state.session is not None:
            state.session.end_soon()

    # -- looking at it --------------------------------------------------------------------------

    @property
    def max_queue_size(self) -> int:
        """Items that each queue holds."""
        return self._state.maxsize

    @property
    def enable_timing(self) -> bool:
        """Whether each item's times are kept."""
        return self._enable_timing

    @property
    def return_exceptions(self) -> bool:
        """Whether the exceptions of items that failed are put in the output."""
        return self._return_exceptions

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
        return self._state.running

    @property
    def counter(self) -> int:
        """Items accepted since the last `clear`."""
        return self._state.queue.accepted

    @property
    def completed_items(self) -> list[PipelineItem[Any]]:
        """The last 1,000 items that were read; only with timing."""
        if self._state.session is not None:
            self._state.session.note_ways(self._done)
        return [item for item in self._done if item.get_total_latency() is not None]

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
            raise TypeError(f"a stage's name must be a string, not {shown(name)}")
        if not name:
            raise ValueError("a stage's name must not be empty")
        if any(stage.name == name for stage in self._state.stages):
            raise ValueError(f"there is a stage named {name!r} already; names have to be unique")
        if not callable(process_fn):
            raise TypeError(f"stage {name!r} needs a function, not {shown(process_fn)}")
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

        The pipeline is running as soon as this is called: what is fed while the stages are being
        started is accepted, and `stop` ends that too.

        Raises:
            RuntimeError: it is running already, or has no stages.
        """
        state = self._state
        if state.running:
            raise RuntimeError("Pipeline is already running")
        if not state.stages:
            raise RuntimeError("Pipeline has no stages; add one before it is started")
        self._let_go()  # of a run whose event loop has ended
        opening = flow_of(state.stages).open(
            buffer=self.max_queue_size,
            on_error="emit" if self.return_exceptions else "skip",
            timing=bool(self.enable_timing),
        )
        state.session = session = Session(opening)
        self._token, self._thread = current_token(), threading.get_ident()
        state.queue.open(session.call_soon)
        session.on_end = state.queue.close
        try:
            await session.start()
        except BaseException:
            if state.session is session:
                self._let_go()
            raise
        if state.session is not session or session.run is None:
            return  # it was stopped meanwhile
        state.queue.serve(session.run.send_nowait)
        for end in session.ends:
            session.send_end(end)
        logger.info("pipeline started")

    def _let_go(self) -> Session | None:
        """Take no more; give the run, if there is one."""
        state = self._state
        state.queue.close()
        session, state.session = state.session, None
        if session is not None:
            session.on_end = None  # another run may take from the queue by then
            session.note_ways(self._done)
        return session

    async def stop(self) -> None:
        """Stop all stages and wait until their threads are done.

        What has come out can still be read; what has not is lost. Whoever waits to feed, in a task or
        in a thread, gets a `RuntimeError`. Calling it again is fine.
        """
        session = self._let_go()
        if session is None or session.over:
            await checkpoint()
            return
        try:
            await self._keep_output(session)
        finally:
            session.note_ways(self._state.left)
            await session.close()
        logger.info("pipeline stopped")
        if session.error is not None:
            raise session.error

    async def _keep_output(self, session: Session) -> None:
        """Take what has come out by now; what comes out meanwhile is not waited for."""
        state = self._state
        left = session.behind(state.stages[-1])
        while left > 0:
            thing = _NOTHING
            with CancelScope() as scope:
                scope.cancel()  # a reader lets others have a turn now and then, but never waits here
                try:
                    thing = await session.next_event()
                except StopAsyncIteration:
                    return
            if thing is not _NOTHING:
                left -= type(thing) is not Sentinel
                state.left.append(session.see(thing))

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
        session = self._state.session
        self._feeding += 1
        try:
            async for data in input_stream:
                item = self._item(data, time.perf_counter())
                self._streamed += 1
                if self._streamed % _TURN == 0 or not self._state.queue.put_nowait(item):
                    await self._state.queue.put(item)
            if session is not None:
                session.fed = True
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
        await self._state.queue.put(self._item(data, created_at))

    def _item(self, data: Any, created_at: float) -> PipelineItem[Any]:
        if self._enable_timing:
            created_at = min(created_at, time.perf_counter())
        return PipelineItem(data, self._enable_timing, created_at)

    async def process_input_sentinel(self, sentinel: U) -> None:
        """Feed something that passes every stage untouched, in its place.

        Raises:
            RuntimeError: the pipeline is not running.
        """
        await self._state.queue.put(Mark(sentinel))

    def put_input_data(self, data: T, created_at: float) -> None:
        """Feed one item from any thread but the event loop's, waiting while the pipeline is full.

        Raises:
            RuntimeError: the pipeline is not running, or this is the event loop's thread.
        """
        self._from_thread("data", self._item(data, created_at))

    def put_input_sentinel(self, sentinel: U) -> None:
        """Feed a sentinel from any thread but the event loop's.

        Raises:
            RuntimeError: the pipeline is not running, or this is the event loop's thread.
        """
        self._from_thread("sentinel", Mark(sentinel))

    def _from_thread(self, what: str, thing: Any) -> None:
        token = self._token
        if not self.running or token is None:
            raise RuntimeError(NOT_RUNNING)
        if threading.get_ident() == self._thread:
            raise RuntimeError(
                f"put_input_{what} would hold up the event loop it is called on; "
                f"use 'await process_input_{what}(...)' there"
            )
        try:
            from_thread.run(self._put, thing, token=token)
        except (CancelledError, RunFinishedError):  # the event loop ends
            raise RuntimeError(NOT_RUNNING) from None

    async def _put(self, thing: Any) -> None:
        # In a stage's thread a call would end with the stage, by a cancellation. But the queue is
        # closed before that, so whoever waits is always told why.
        with CancelScope(shield=True):
            await self._state.queue.put(thing)

    # -- reading --------------------------------------------------------------------------------

    def generate_output_stream(self) -> OutputStream[T, U]:
        """Give results and sentinels as they come out, in order.

        Begun when a `process_input_stream` has come to its end, it ends when everything accepted
        has come out; else it lasts until the pipeline is stopped and what had come out is read.

        With `return_exceptions`, the exceptions of items that failed are among them.
        """
        return OutputStream(self)

    def _begin_reading(self) -> End | None:
        """Send the end of a stream that is to end, behind everything accepted."""
        session = self._state.session
        if session is None or session.gone.is_set() or not session.fed or self._feeding:
            return None
        end = End()
        session.ends.add(end)
        session.send_end(end)
        return end

    async def _next_thing(self) -> Any:
        """Give the next thing that comes out.

        Raises:
            StopAsyncIteration: the pipeline is stopped, and everything is read.
        """
        state = self._state
        while True:
            session = state.session
            if state.left:
                thing = state.left.popleft()
            elif session is None or session.over:
                raise StopAsyncIteration
            else:
                try:
                    thing = session.see(await session.next_event())
                except StopAsyncIteration:
                    if state.session is session and not state.left:
                        raise
                    continue  # stopped meanwhile, which may have left something
            if type(thing) is PipelineItem:
                self._total += 1
                if self._enable_timing:
                    self._done.append(thing)
            return thing

    # -- clearing -------------------------------------------------------------------------------

    def clear(self) -> None:
        """Drop everything that is queued or being computed; forget `completed_items` and `counter`."""
        state, session = self._state, self._state.session
        state.left.clear()
        self._done.clear()
        self._total = state.queue.accepted = 0
        if session is not None and session.live and session.run is not None:
            session.run.interrupt()
            session.nothing_is_left()
        state.queue.begin_anew()

    def clear_input_queue(self) -> None:
        """Drop what waits in front of the first stage. Whoever waits to feed has room then."""
        self._state.queue.clear()

    def clear_output_queue(self) -> None:
        """Drop what waits behind the last stage."""
        state, session = self._state, self._state.session
        state.left.clear()
        if session is not None and session.live and session.run is not None:
            last = state.stages[-1]
            output = session.run.output(last.name)
            while session.behind(last):  # as there is room, what stood before it comes
                output.discard()
            session.nothing_is_left()

    # -- telling --------------------------------------------------------------------------------

    def get_report(self, include_item_details: bool = True) -> PipelineAnalysis | None:
        """Give the latency figures of the last 1,000 items that were read.

        Args:
            include_item_details: whether each item's times are among them.

        Returns:
            the analysis, or `None` without timing, or while nothing has come out.
        """
        items = self.completed_items
        if not items:
            return None
        return analysis_of(
            items,
            total=self._total,
            stages=self._state.stages,
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
        self._end: End | None = None
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
            if type(thing) is Mark:
                return thing.value
            if type(thing) is Sentinel and thing.value is self._end:
                self._finish()
                raise StopAsyncIteration

    async def aclose(self) -> None:
        """Read no more; the pipeline goes on."""
        self._finish()
        await checkpoint()

    def _finish(self) -> None:
        self._over = True
        session = self._pipeline._state.session
        if session is not None and self._end is not None:
            session.ends.discard(self._end)


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
