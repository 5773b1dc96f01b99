"""The times of single items, kept when a run is opened with `timing=True`.

An item's clock is one flat list, because a list costs least where each item pays for it: when the item
entered, then four entries for each stage that it has passed:

    [entered, name, computation, computed_until, left,  name, computation, computed_until, left, ...]

All times are `perf_counter` seconds. A stage's time runs from `left` of the stage before (that is,
from entering the edge) to its own `left` (when the next edge took the result); it falls into
computation, transmission (`left - computed_until`: waiting for its turn and for room) and queue wait
(the rest: the edge, a batch being filled, the sleeps between retries). So the parts add up to the
latency by construction. While a stage has the item, its entry lacks `left`.

Clocks that have reached an end are folded a thousand at a time, column by column.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import sub, truediv
from time import perf_counter
from typing import Any

from ._report import ItemTimes, StageTime, StageTimes, Summary, Timing

Clock = list[Any]

KEPT_ITEMS = 1000
_FOLD_AT = 1000
_SAMPLE = 4096


def compute(clock: Clock, name: str, seconds: float) -> None:
    """Count time in which a stage's function worked on an item, until now."""
    now = perf_counter()
    if len(clock) % 4 == 0:  # an entry is open
        if clock[-3] == name:
            clock[-2] += seconds
            clock[-1] = now
            return
        clock.append(clock[-1])  # stages that share a task hand over at once
    clock += (name, seconds, now)


def leave(clock: Clock, name: str) -> None:
    """Note that the edge behind a stage has taken an item."""
    now = perf_counter()
    size = len(clock)
    if size % 4 == 0:
        clock.append(now)
    elif size == 1 and name == "":
        clock[0] = now  # an entry: time begins when the item is inside
    else:
        clock += (name, 0.0, now, now)  # a stage without a function: it queued, nothing else


class Column:
    """One kind of duration, summed up; percentiles come from an even sample."""

    __slots__ = ("count", "every", "high", "low", "sample", "skipped", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.low = float("inf")
        self.high = 0.0
        self.sample: list[float] = []
        self.every = 1
        self.skipped = 0

    def add(self, values: Sequence[float]) -> None:
        """Count durations."""
        self.count += len(values)
        self.total += sum(values)
        low, high = min(values), max(values)
        self.low = min(self.low, low)
        self.high = max(self.high, high)
        self.sample.extend(values[self.skipped :: self.every])
        self.skipped = (self.skipped - len(values)) % self.every
        while len(self.sample) > _SAMPLE:
            del self.sample[1::2]
            self.every *= 2

    def summary(self) -> Summary:
        """Give the figures so far."""
        if not self.count:
            return Summary()
        ordered = sorted(self.sample)
        last = len(ordered) - 1
        p50, p90, p99 = (ordered[round(share * last)] for share in (0.5, 0.9, 0.99))
        mean = self.total / self.count
        return Summary(self.count, mean, max(self.low, 0.0), self.high, p50, p90, p99)


class StageColumns:
    """The three parts of the time at one stage, and their sum."""

    __slots__ = ("computation", "queue_wait", "total", "transmission")

    def __init__(self) -> None:
        self.queue_wait, self.computation = Column(), Column()
        self.transmission, self.total = Column(), Column()


class Times:
    """What the clocks of a run say, all together."""

    def __init__(self) -> None:
        self.clocks: list[Clock] = []
        self.recent: deque[Clock] = deque(maxlen=KEPT_ITEMS)
        self.stages: dict[str, StageColumns] = {}
        self.latency = Column()
        self.efficiency = Column()

    def add(self, clock: Clock) -> None:
        """Take the clock of an item that has reached an end."""
        self.clocks.append(clock)
        if len(self.clocks) >= _FOLD_AT:
            self.fold()

    def fold(self) -> None:
        """Sum up the clocks that have come since the last time."""
        clocks, self.clocks = self.clocks, []
        self.recent.extend(clocks)
        by_way: dict[tuple[str, ...], list[Clock]] = {}
        for clock in clocks:
            by_way.setdefault(tuple(clock[1::4]), []).append(clock)
        for way, group in by_way.items():
            self._fold_group(way, list(zip(*group, strict=True)))

    def _fold_group(self, way: tuple[str, ...], columns: list[tuple[float, ...]]) -> None:
        computed = [0.0] * len(columns[0])
        for number, name in enumerate(way):
            arrived, _, computation, until, left = columns[4 * number : 4 * number + 5]
            stage = self.stages.setdefault(name, StageColumns())
            total = list(map(sub, left, arrived))
            transmission = list(map(sub, left, until))
            stage.computation.add(computation)
            stage.transmission.add(transmission)
            stage.total.add(total)
            rest = list(map(sub, total, transmission))
            stage.queue_wait.add(list(map(sub, rest, computation)))
            computed = list(map(float.__add__, computed, computation))
        latency = list(map(sub, columns[-1], columns[0]))
        self.latency.add(latency)
        self.efficiency.add(list(map(truediv, computed, [value or 1.0 for value in latency])))

    def report(self) -> Timing:
        """Give the figures of all items so far, and the last ones singly."""
        if self.clocks:
            self.fold()
        efficiency = self.efficiency.total / self.efficiency.count if self.efficiency.count else 0.0
        return Timing(
            latency=self.latency.summary(),
            stages={
                name: StageTimes(
                    stage.queue_wait.summary(),
                    stage.computation.summary(),
                    stage.transmission.summary(),
                    stage.total.summary(),
                )
                for name, stage in self.stages.items()
            },
            efficiency=efficiency,
            overhead=1.0 - efficiency if self.efficiency.count else 0.0,
            items=tuple(map(_item, self.recent)),
        )


def _item(clock: Clock) -> ItemTimes:
    stages = {}
    for at in range(1, len(clock), 4):
        name, computation, until, left = clock[at : at + 4]
        wait = max(0.0, until - clock[at - 1] - computation)
        stages[name] = StageTime(wait, computation, left - until)
    return ItemTimes(created=clock[0], latency=clock[-1] - clock[0], stages=stages)
