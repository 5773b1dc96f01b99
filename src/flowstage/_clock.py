"""The times of single items, kept when a run is opened with `timing=True`.

An item's clock is one flat list, because a list costs least where each item pays for it: when the item
entered, then four entries for each stage that it has passed:

    [entered, name, computation, computed_until, left,  name, computation, computed_until, left, ...]

All times are `perf_counter` seconds. A stage's time runs from `left` of the stage before (that is,
from entering the edge) to its own `left` (when the next edge took the result); it falls into
computation, transmission (`left - computed_until`: waiting for its turn and for room) and queue wait
(the rest: the edge, a batch being filled, the sleeps between retries). So the parts add up to the
latency by construction. While a stage has the item, its entry lacks `left`.

Clocks that have reached an end are folded some hundreds at a time, column by column.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from operator import sub
from time import perf_counter
from typing import Any

from ._report import ItemTimes, StageTime, StageTimes, Summary, Timing

Clock = list[Any]

KEPT_ITEMS = 1000
_FOLD_AT = 256
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
    """One kind of duration of all items: their sum, the shortest, the longest."""

    __slots__ = ("count", "high", "low", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.low = float("inf")
        self.high = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Count durations."""
        self.count += len(values)
        self.total += sum(values)
        low, high = min(values), max(values)
        self.low = min(self.low, low)
        self.high = max(self.high, high)

    def summary(self, sample: Sequence[float]) -> Summary:
        """Give the figures so far; the percentiles are a sample's."""
        if not self.count:
            return Summary()
        mean = self.total / self.count
        return Summary(self.count, mean, max(self.low, 0.0), self.high, *_percentiles(sample))


class StageColumn:
    """The time of all items at one stage, and how much of it two of its three parts took."""

    __slots__ = ("computation", "total", "transmission")

    def __init__(self) -> None:
        self.total = Column()
        self.computation = self.transmission = 0.0

    def times(self, sample: StageSample) -> StageTimes:
        """Give the figures so far."""
        count = self.total.count
        wait = max(0.0, self.total.total - self.computation - self.transmission)
        return StageTimes(
            _part(count, wait, sample.queue_wait),
            _part(count, self.computation, sample.computation),
            _part(count, self.transmission, sample.transmission),
            self.total.summary(sample.total),
        )


class StageSample:
    """The times of some items at one stage, singly."""

    __slots__ = ("computation", "queue_wait", "total", "transmission")

    def __init__(self) -> None:
        self.queue_wait: list[float] = []
        self.computation: list[float] = []
        self.transmission: list[float] = []
        self.total: list[float] = []


class Times:
    """What the clocks of a run say, all together.

    Of each item only what the sums need is looked at as it comes out, a chunk at a time and column by
    column. The rest is told from an even sample when somebody asks. What is kept of the last items is
    kept in columns too: a list for each would be one more thing for the garbage collector to follow,
    and full collections were a fifth of what timing cost.
    """

    def __init__(self) -> None:
        self.clocks: list[Clock] = []
        self.recent: deque[tuple[int, list[Any]]] = deque()  # chunks: how many, and their columns
        self.kept = 0
        self.sample: list[tuple[Any, ...]] = []
        self.every = 1
        self.skip = 0
        self.stages: dict[str, StageColumn] = {}
        self.latency = Column()
        self.computation = 0.0

    def add(self, clock: Clock) -> None:
        """Take the clock of an item that has reached an end."""
        self.clocks.append(clock)
        self.fold_many()

    def fold_many(self) -> None:
        """Sum up the clocks that have come, if there are many: for who appends to them directly."""
        if len(self.clocks) >= _FOLD_AT:
            self.fold()

    def fold(self) -> None:
        """Sum up the clocks that have come since the last time."""
        clocks = self.clocks.copy()
        self.clocks.clear()
        self._add_to_sample(clocks)
        columns: list[tuple[Any, ...]] = []
        with suppress(ValueError):  # else they differ in length
            columns = list(zip(*clocks, strict=True))
        one_way = all(len(set(names)) == 1 for names in columns[1::4])
        if columns and one_way:
            self._fold_columns(columns)
            self._keep(len(clocks), columns)
            return
        by_way: dict[tuple[str, ...], list[Clock]] = {}
        for clock in clocks:
            by_way.setdefault(tuple(clock[1::4]), []).append(clock)
            self._keep(1, [(entry,) for entry in clock])
        for group in by_way.values():
            self._fold_columns(list(zip(*group, strict=True)))

    def _add_to_sample(self, clocks: list[Clock]) -> None:
        self.sample.extend(map(tuple, clocks[self.skip :: self.every]))
        self.skip = (self.skip - len(clocks)) % self.every
        while len(self.sample) > _SAMPLE:
            del self.sample[1::2]
            self.every *= 2

    def _keep(self, count: int, columns: list[Any]) -> None:
        """Keep the last items, and what came with the first of them."""
        self.recent.append((count, columns))
        self.kept += count
        while self.kept - self.recent[0][0] >= KEPT_ITEMS:
            self.kept -= self.recent.popleft()[0]

    def _fold_columns(self, columns: list[tuple[Any, ...]]) -> None:
        """Sum up items that have gone the same way."""
        for at in range(0, len(columns) - 1, 4):
            arrived, (name, *_), computation, until, left = columns[at : at + 5]
            stage = self.stages.get(name)
            if stage is None:
                stage = self.stages[name] = StageColumn()
            stage.total.add(list(map(sub, left, arrived)))
            spent = sum(computation)
            stage.computation += spent
            self.computation += spent
            if until != left:
                stage.transmission += sum(map(sub, left, until))
        self.latency.add(list(map(sub, columns[-1], columns[0])))

    def report(self) -> Timing:
        """Give the figures of all items so far, and the last ones singly."""
        if self.clocks:
            self.fold()
        latencies: list[float] = []
        samples: dict[str, StageSample] = {name: StageSample() for name in self.stages}
        for clock in self.sample:
            latencies.append(clock[-1] - clock[0])
            for name, time in _stage_times(clock):
                stage = samples[name]
                stage.queue_wait.append(time.queue_wait)
                stage.computation.append(time.computation)
                stage.transmission.append(time.transmission)
                stage.total.append(time.queue_wait + time.computation + time.transmission)
        efficiency = self.computation / self.latency.total if self.latency.total > 0 else 0.0
        last = [clock for _, columns in self.recent for clock in zip(*columns, strict=True)]
        return Timing(
            latency=self.latency.summary(latencies),
            stages={name: stage.times(samples[name]) for name, stage in self.stages.items()},
            efficiency=efficiency,
            overhead=1.0 - efficiency if self.latency.count else 0.0,
            items=tuple(map(_item, last[-KEPT_ITEMS:])),
        )


def _percentiles(sample: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(sample)
    last = len(ordered) - 1
    p50, p90, p99 = (ordered[round(share * last)] for share in (0.5, 0.9, 0.99))
    return p50, p90, p99


def _part(count: int, total: float, sample: Sequence[float]) -> Summary:
    return Summary(count, total / count, min(sample), max(sample), *_percentiles(sample))


def _stage_times(clock: Sequence[Any]) -> Iterator[tuple[str, StageTime]]:
    for at in range(1, len(clock), 4):
        name, computation, until, left = clock[at : at + 4]
        wait = max(0.0, until - clock[at - 1] - computation)
        yield name, StageTime(wait, computation, left - until)


def _item(clock: Sequence[Any]) -> ItemTimes:
    return ItemTimes(
        created=clock[0], latency=clock[-1] - clock[0], stages=dict(_stage_times(clock))
    )
