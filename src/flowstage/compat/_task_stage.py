"""The stages of an `AsyncTaskPipeline`.

Each is a `flat_map` in a thread of its own, so it may return a value, `None` to drop the item, or a
generator. What it is given is a `PipelineItem`, which the first stage takes out of the input queue at
its `Turn`, or a `Mark`, which it gives on as it is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from flowstage import Flow, Input, Threads

from ._task_input import Turn
from ._task_report import PipelineItem

if TYPE_CHECKING:
    from ._task_run import State

_NO_BOUND = sys.maxsize
"""The size of the edge in front of the first stage; the `InputQueue` is the bound."""

_NOTHING: Any = object()


class PipelineStage:
    """One stage, as `AsyncTaskPipeline.stages` shows it.

    Attributes:
        name: unique in its pipeline.
        process_fn: what is called for each item.
    """

    def __init__(self, name: str, process_fn: Callable[[Any], Any], state: State) -> None:
        self.name = name
        self.process_fn = process_fn
        self._state = state
        self._step = Step(process_fn)

    def __repr__(self) -> str:
        return f"<PipelineStage {self.name!r}>"

    @property
    def running(self) -> bool:
        """Whether the pipeline is."""
        return self._state.running

    @property
    def processed_count(self) -> int:
        """Items that it has processed, since it was added."""
        return self._step.processed

    @property
    def failed_count(self) -> int:
        """Items for which its function raised an exception, since it was added."""
        return self._step.failed

    def get_average_processing_time(self) -> float:
        """Seconds that an item takes, all values of a generator together; 0.0 before there was one."""
        step = self._step
        return step.seconds / step.processed if step.processed else 0.0


class Step:
    """One stage's function as a `flat_map` calls it, in the stage's thread, one call at a time.

    Attributes:
        processed: items it has made everything of.
        failed: items for which the function raised an exception.
        seconds: how long the function took for those that it has processed.
    """

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self._fn = fn
        self.processed = self.failed = 0
        self.seconds = 0.0

    def __call__(self, thing: Any) -> Iterable[Any]:
        item = thing.take() if type(thing) is Turn else thing
        if type(item) is not PipelineItem:
            return () if item is None else (item,)
        began = time.perf_counter()
        try:
            result = self._fn(item.data)
        except Exception:
            self.failed += 1
            raise
        spent = time.perf_counter() - began
        if type(result) is GeneratorType:
            return self._spread(item, result, spent)
        self.processed += 1
        self.seconds += spent
        if result is None:
            return ()
        item.data = result
        return (item,)

    def _spread(
        self, item: PipelineItem[Any], values: Generator[Any, Any, Any], spent: float
    ) -> Iterator[PipelineItem[Any]]:
        """Give an item for each value of a generator; what is between two of them is not its time."""
        try:
            while True:
                began = time.perf_counter()
                value = next(values, _NOTHING)
                spent += time.perf_counter() - began
                if value is _NOTHING:
                    break
                yield item.with_data(value)
        except Exception:
            self.failed += 1
            raise
        finally:
            values.close()
        self.processed += 1
        self.seconds += spent


def flow_of(stages: Iterable[PipelineStage]) -> Flow[Any, Any]:
    """Make the flow that goes through some stages; each has a thread of its own."""
    flow: Flow[Any, Any] = Input("input").buffer(_NO_BOUND)
    for stage in stages:
        flow = flow.flat_map(stage._step, on=Threads(1), name=stage.name)
    return flow
