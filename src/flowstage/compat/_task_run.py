"""The run of an `AsyncTaskPipeline`, as its stages and queues see it.

It lives from `start` to `stop`; the stages and queues are there before it and after it. What they look
at is a `State`, and not the pipeline, which ends its run as soon as nobody has it any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from flowstage import Sentinel

from ._host import Host
from ._task_input import InputQueue, Mark
from ._task_report import PipelineItem, note_ways
from ._task_stage import PipelineStage


class End:
    """What a stream that is to end sends behind everything accepted."""


class Session(Host):
    """One run of a pipeline, from `start` to `stop`.

    Attributes:
        passed: results and sentinels that have come out of the run, failures apart.
        fed: an input stream has come to its end.
        ends: those that were sent, and whose streams still wait for them.
    """

    def __init__(self, opening: Any) -> None:
        super().__init__(opening, "flowstage AsyncTaskPipeline")
        self.passed = 0
        self.fed = False
        self.ends: set[End] = set()

    def behind(self, stage: PipelineStage) -> int:
        """Things in the queue behind a stage."""
        edges = () if self.run is None else self.run.report().edges
        return sum(edge.inside for edge in edges if edge.source == stage.name)

    def send_end(self, end: End) -> None:
        """Send the end of a stream behind everything accepted; later, if the run is being started."""
        if self.live and self.run is not None:
            self.start_soon(self.run.send_sentinel, end)

    def see(self, thing: Any) -> Any:
        """Take note of what came out of the run."""
        if type(thing) is PipelineItem:
            thing.place = self.passed
            self.passed += 1
        elif type(thing) is Mark:
            self.passed += 1
        return thing

    def nothing_is_left(self) -> None:
        """Take note that what had come out and was not read has been dropped."""
        timing = None if self.run is None else self.run.report().timing
        self.passed = 0 if timing is None else timing.latency.count
        for end in self.ends:  # they may have been dropped too, and somebody waits for them
            self.send_end(end)

    def note_ways(self, items: Iterable[Any]) -> None:
        """Note the ways of items that came out of the run."""
        timing = None if self.run is None else self.run.report().timing
        if timing is not None:
            note_ways((item for item in items if type(item) is PipelineItem), timing)


class State:
    """What the stages, queues and output of one pipeline look at.

    Attributes:
        session: the run, while there is one.
        left: what had come out and was not read when the pipeline was stopped.
    """

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.queue = InputQueue(maxsize)
        self.session: Session | None = None
        self.left: deque[Any] = deque()
        self.stages: list[PipelineStage] = []

    @property
    def running(self) -> bool:
        """Whether there is a run, on an event loop that has not ended."""
        return self.session is not None and not self.session.over

    def inside(self, number: int) -> int:
        """Things in a queue; number 0 is the input, the last one the output."""
        if number == 0:
            return len(self.queue)
        held = 0 if self.session is None else self.session.behind(self.stages[number - 1])
        if number == len(self.stages):
            held += sum(type(thing) is not Sentinel for thing in self.left)
        return held


class QueueView:
    """One queue of the pipeline, to be looked at."""

    def __init__(self, number: int, state: State) -> None:
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
