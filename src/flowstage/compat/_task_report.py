"""The report classes of async-task-pipeline, made from the times that a run keeps of its items.

An item's way is cut into three parts a stage: waiting in the queue in front of it, computation, and
transmission into the queue behind it. They add up to the item's latency, which begins when the item
was made (`created_at`) and ends when it is in the output queue.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from attrs import asdict, define, field, frozen

T = TypeVar("T")


class Figures:
    """What the report classes have in common: fields by attribute, by key, and as a dict."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None

    def model_dump(self) -> dict[str, Any]:
        """Give everything as plain dicts, lists and numbers."""
        return asdict(self)  # type: ignore[arg-type]  # every subclass is an attrs class


@frozen
class DetailedTiming(Figures):
    """The times of one item at one stage, by `time.perf_counter()`."""

    queue_enter_time: float
    processing_start_time: float
    processing_end_time: float
    queue_exit_time: float

    @property
    def queue_wait_time(self) -> float:
        """Seconds in the queue in front of the stage."""
        return max(0.0, self.processing_start_time - self.queue_enter_time)

    @property
    def computation_time(self) -> float:
        """Seconds in the stage's function, and in the generator that it returned."""
        return max(0.0, self.processing_end_time - self.processing_start_time)

    @property
    def transmission_time(self) -> float:
        """Seconds until the queue behind the stage had room."""
        return max(0.0, self.queue_exit_time - self.processing_end_time)

    @property
    def total_stage_time(self) -> float:
        """All three."""
        return self.queue_wait_time + self.computation_time + self.transmission_time


class _Way:
    """The times that are kept of an item; made when the first of them is."""

    __slots__ = ("completions", "entries", "timings")

    def __init__(self) -> None:
        self.entries: dict[str, float] = {}
        self.completions: dict[str, float] = {}
        self.timings: dict[str, DetailedTiming] = {}


@define(slots=True, eq=False)
class PipelineItem(Generic[T]):
    """One item, with the times of its way; every method gives `None` when timing is off.

    Attributes:
        data: what the stages process.
        enable_timing: whether times are kept.
        start_timestamp: when it was made; its latency begins here.
    """

    data: T
    enable_timing: bool = True
    start_timestamp: float = field(factory=time.perf_counter)
    place: int = field(default=-1, init=False, repr=False)  # among all that came out of its run
    _way: _Way | None = field(default=None, init=False, repr=False)

    def with_data(self, data: Any) -> PipelineItem[Any]:
        """Make the item of one of several values that came of this one."""
        return PipelineItem(data, self.enable_timing, self.start_timestamp)

    def record_entry_time(self, stage_name: str) -> None:
        """Note that it enters the queue of a stage now."""
        if self.enable_timing:
            self._kept().entries[stage_name] = time.perf_counter()

    def record_completion_time(self, stage_name: str) -> None:
        """Note that a stage is done with it now."""
        if self.enable_timing:
            self._kept().completions[stage_name] = time.perf_counter()

    def record_detailed_timing(self, stage_name: str, detailed_timing: DetailedTiming) -> None:
        """Note its times at a stage."""
        if self.enable_timing:
            self._kept().timings[stage_name] = detailed_timing

    def record_way(self, stages: Mapping[str, Any], entered: float) -> None:
        """Note its times at every stage, from those that a run kept.

        Args:
            stages: by name, in order, what has `queue_wait`, `computation` and `transmission`.
            entered: when its turn entered the run. All the time from its start on until the first
                stage began counts as waiting in the queue.
        """
        way = self._way = _Way()
        at, left = self.start_timestamp, entered
        for name, times in stages.items():
            start = left + times.queue_wait
            end = start + times.computation
            left = end + times.transmission
            way.entries[name] = at
            way.completions[name] = left
            way.timings[name] = DetailedTiming(at, start, end, left)
            at = left

    def _kept(self) -> _Way:
        if self._way is None:
            self._way = _Way()
        return self._way

    def get_entry_time(self, stage_name: str) -> float | None:
        """Give when it entered the queue of a stage."""
        return self._kept().entries.get(stage_name) if self.enable_timing else None

    def get_completion_time(self, stage_name: str) -> float | None:
        """Give when a stage was done with it."""
        return self._kept().completions.get(stage_name) if self.enable_timing else None

    def get_detailed_timing(self, stage_name: str) -> DetailedTiming | None:
        """Give its times at a stage."""
        return self._kept().timings.get(stage_name) if self.enable_timing else None

    def get_total_latency(self) -> float | None:
        """Give the seconds from when it was made until the last stage was done with it."""
        completions = self._kept().completions if self.enable_timing else None
        return max(completions.values()) - self.start_timestamp if completions else None

    def get_stage_latencies(self) -> dict[str, float] | None:
        """Give the seconds that it took from one stage's completion to the next."""
        completions = self._kept().completions if self.enable_timing else None
        if not completions:
            return None
        latencies, before = {}, self.start_timestamp
        for name, completed in sorted(completions.items(), key=lambda entry: entry[1]):
            latencies[name], before = completed - before, completed
        return latencies

    def get_timing_breakdown(self) -> dict[str, dict[str, float]] | None:
        """Give its times by stage, and `"totals"`."""
        if not self.enable_timing or not self._kept().timings:
            return None
        found = self.breakdown()
        stages = found.stages or {}
        return {
            **{name: detail.model_dump() for name, detail in stages.items()},
            "totals": found.totals.model_dump(),
        }

    def breakdown(self) -> ItemTimingBreakdown:
        """Give the same as a record."""
        timings = self._kept().timings
        computation = sum(timing.computation_time for timing in timings.values())
        latency = self.get_total_latency() or 0.0
        return ItemTimingBreakdown(
            totals=ItemTimingTotals(
                total_computation_time=computation,
                total_overhead_time=max(0.0, latency - computation),
                total_latency=latency,
                computation_ratio=ratio(computation, latency),
            ),
            stages={
                name: StageTimingDetail(
                    queue_wait_time=timing.queue_wait_time,
                    computation_time=timing.computation_time,
                    transmission_time=timing.transmission_time,
                    total_stage_time=timing.total_stage_time,
                )
                for name, timing in timings.items()
            },
        )


@frozen
class EfficiencyMetrics(Figures):
    """How much of the latency was computation; the overhead ratio is the rest."""

    computation_efficiency: float
    overhead_ratio: float


@frozen
class TimingBreakdown(Figures):
    """The average times at a stage, in seconds, and computation's share of their sum."""

    avg_computation_time: float
    avg_queue_wait_time: float
    avg_transmission_time: float
    computation_ratio: float


@frozen
class StageStatistics(Figures):
    """The figures of one stage, in seconds.

    Attributes:
        avg_latency, min_latency, max_latency: from the completion of the stage before to its own.
        processed_count: items that it has processed.
        avg_processing_time: of its function for one item, all values of a generator together.
        timing_breakdown: the parts of the latency.
    """

    avg_latency: float
    min_latency: float
    max_latency: float
    processed_count: int
    avg_processing_time: float
    timing_breakdown: TimingBreakdown


@frozen
class LatencySummary(Figures):
    """The figures of a pipeline, in seconds.

    Attributes:
        total_items: items that came out.
        avg_total_latency, min_total_latency, max_total_latency: from when an item was made until it
            was in the output queue.
        stage_statistics: by the stages' names.
        overall_efficiency: computation and overhead.
    """

    total_items: int
    avg_total_latency: float
    min_total_latency: float
    max_total_latency: float
    stage_statistics: dict[str, StageStatistics]
    overall_efficiency: EfficiencyMetrics


@frozen
class ItemTimingTotals(Figures):
    """The times of one item over all stages, in seconds."""

    total_computation_time: float
    total_overhead_time: float
    total_latency: float
    computation_ratio: float


@frozen
class StageTimingDetail(Figures):
    """The times of one item at one stage, in seconds."""

    queue_wait_time: float
    computation_time: float
    transmission_time: float
    total_stage_time: float


@frozen
class ItemTimingBreakdown(Figures):
    """The times of one item."""

    totals: ItemTimingTotals
    stages: dict[str, StageTimingDetail] | None = None


@frozen
class PipelineAnalysis(Figures):
    """What `get_report` gives.

    Attributes:
        summary: the figures of the pipeline.
        item_breakdowns: the times of each item; empty without item details.
        analysis_metadata: when it was made, whether timing is on, how many stages there are, whether
            the pipeline was running.
    """

    summary: LatencySummary
    item_breakdowns: list[ItemTimingBreakdown] | None = None
    analysis_metadata: dict[str, Any] | None = None


def note_ways(items: Iterable[PipelineItem[Any]], timing: Any) -> None:
    """Note the ways of items that have come out of a run, as far as it still knows them.

    Args:
        items: those that are kept.
        timing: what the run's report says of the times.
    """
    records = timing.items
    first = timing.latency.count - len(records)  # records begin at this item's place
    for item in items:
        if item.place >= first and item.get_total_latency() is None:
            record = records[item.place - first]
            item.record_way(record.stages, record.created)


def analysis_of(
    items: Sequence[PipelineItem[Any]],
    *,
    total: int,
    stages: Sequence[Any],
    details: bool,
    running: bool,
) -> PipelineAnalysis:
    """Work out the figures of some timed items; `stages` are those of the pipeline."""
    breakdowns = [item.breakdown() for item in items]
    latencies = [found.totals.total_latency for found in breakdowns]
    efficiency = mean([found.totals.computation_ratio for found in breakdowns])
    return PipelineAnalysis(
        summary=LatencySummary(
            total_items=total,
            avg_total_latency=mean(latencies),
            min_total_latency=min(latencies, default=0.0),
            max_total_latency=max(latencies, default=0.0),
            stage_statistics={
                stage.name: found
                for stage in stages
                if (found := _statistics(stage, breakdowns)) is not None
            },
            overall_efficiency=EfficiencyMetrics(efficiency, 1.0 - efficiency),
        ),
        item_breakdowns=breakdowns if details else [],
        analysis_metadata={
            "analysis_timestamp": time.time(),
            "enable_timing": True,
            "total_stages": len(stages),
            "pipeline_running": running,
        },
    )


def _statistics(stage: Any, breakdowns: Sequence[ItemTimingBreakdown]) -> StageStatistics | None:
    ways = [found.stages for found in breakdowns if found.stages]
    details = [way[stage.name] for way in ways if stage.name in way]
    if not details:
        return None
    latencies = [detail.total_stage_time for detail in details]
    computation = mean([detail.computation_time for detail in details])
    return StageStatistics(
        avg_latency=mean(latencies),
        min_latency=min(latencies),
        max_latency=max(latencies),
        processed_count=stage.processed_count,
        avg_processing_time=stage.get_average_processing_time(),
        timing_breakdown=TimingBreakdown(
            avg_computation_time=computation,
            avg_queue_wait_time=mean([detail.queue_wait_time for detail in details]),
            avg_transmission_time=mean([detail.transmission_time for detail in details]),
            computation_ratio=ratio(computation, mean(latencies)),
        ),
    )


def describe(analysis: PipelineAnalysis) -> Iterator[str]:
    """Tell an analysis line by line."""
    summary = analysis.summary
    efficiency = summary.overall_efficiency
    yield f"{summary.total_items} items, {_ms(summary.avg_total_latency)} on average"
    yield f"computation {efficiency.computation_efficiency:.1%}, overhead {efficiency.overhead_ratio:.1%}"
    for name, stage in summary.stage_statistics.items():
        times = stage.timing_breakdown
        yield (
            f"stage {name}: {stage.processed_count} processed, "
            f"{_ms(times.avg_queue_wait_time)} queue wait, "
            f"{_ms(times.avg_computation_time)} computation, "
            f"{_ms(times.avg_transmission_time)} transmission, "
            f"computation {times.computation_ratio:.1%}"
        )
    for number, item in enumerate((analysis.item_breakdowns or [])[:3]):
        yield (
            f"item {number}: {_ms(item.totals.total_latency)}, "
            f"computation {item.totals.computation_ratio:.1%}"
        )


def mean(values: Sequence[float]) -> float:
    """Give the mean of some values; 0 of none."""
    return sum(values) / len(values) if values else 0.0


def ratio(part: float, whole: float) -> float:
    """Give a share between 0 and 1; 0 of nothing."""
    return min(1.0, part / whole) if whole > 0 else 0.0


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"
