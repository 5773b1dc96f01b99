"""What is told about a run: frozen figures, and the table they print as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import asdict, frozen

from ._errors import safe_repr


@frozen
class FailureRecord:
    """A failure as text, so that keeping it keeps no item and no frame alive.

    Attributes:
        stage: the name of the stage.
        item: the repr of the item, cut to 200 characters.
        error: type and message of the exception.
        attempts: how many times the stage tried.
        handled: whether the run went on (`"skip"` or `"emit"`).
    """

    stage: str
    item: str
    error: str
    attempts: int
    handled: bool


@frozen
class CallTimes:
    """How long the calls of a stage took, in seconds.

    Attributes:
        count: calls, attempts counted singly.
        sampled: whether only some of the calls were timed and stand for the rest.
        mean, p50, p90, p99, longest: figures of one call.
    """

    count: int = 0
    sampled: bool = False
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    longest: float = 0.0


@frozen
class StageReport:
    """The account of one stage.

    `taken = done + filtered + skipped + failed + discarded + in_hand` at every moment.

    Attributes:
        name, kind: which stage, and what kind it is.
        taken: items that it took.
        done: items that came through: their results have been given on, if anybody still wanted them.
        filtered: items that a filter dropped, or whose row was incomplete.
        skipped: items that failed under `"skip"`.
        failed: items that failed under `"raise"` or `"emit"`.
        discarded: items let go by an interrupt, an early end or a cancellation.
        in_hand: items taken that have not ended yet.
        given: results given on.
        retries: attempts after the first.
        busy: seconds at work; of several calls at once, their sum.
        waiting: seconds it waited for input.
        blocked: seconds it waited for room downstream.
        throughput: items done a second of the run.
        calls: how long the calls took.
        held_loop: the longest time in seconds for which its plain function kept the event loop to
            itself, where that was more than a tenth of a second; else 0. What an `async def` does
            between two of its awaits is not seen.
    """

    name: str
    kind: str
    taken: int
    done: int
    filtered: int
    skipped: int
    failed: int
    discarded: int
    in_hand: int
    given: int
    retries: int
    busy: float
    waiting: float
    blocked: float
    throughput: float
    calls: CallTimes
    held_loop: float = 0.0


@frozen
class EdgeReport:
    """The account of one edge: `entered = left + discarded + inside` at every moment.

    Attributes:
        source, target: the names of the stages at its ends; the target of an end is its name.
        capacity: items it can hold; 0 for a rendezvous and for stages that share a task.
        entered, left, discarded, inside: items, failures under `"emit"` among them.
        dropped: of the discarded, those that a lossy buffer let go.
    """

    source: str
    target: str
    capacity: int
    entered: int
    left: int
    discarded: int
    inside: int
    dropped: int = 0


@frozen
class Bottleneck:
    """The stage that sets the pace, and why it is thought to be that one.

    Attributes:
        stage: its name.
        reason: what it is told by, in words.
    """

    stage: str
    reason: str


@frozen
class Summary:
    """Durations in seconds, summed up.

    Attributes:
        count: how many there were.
        mean, low, high: their mean, the shortest and the longest.
        p50, p90, p99: percentiles, from an even sample of up to some thousands of them; so are `low`
            and `high` of what the time at a stage is made of.
    """

    count: int = 0
    mean: float = 0.0
    low: float = 0.0
    high: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0


@frozen
class StageTime:
    """One item's time at one stage, in seconds.

    Attributes:
        queue_wait: from entering the edge until the function worked on it: the edge, a batch being
            filled, sleeps between retries.
        computation: in the function.
        transmission: from the result until the next edge took it: its turn in order, and room.
    """

    queue_wait: float
    computation: float
    transmission: float

    @property
    def total(self) -> float:
        """All three together."""
        return self.queue_wait + self.computation + self.transmission


@frozen
class ItemTimes:
    """One item's way, from entering the graph until it was ready to be read.

    Attributes:
        created: when it entered, by `time.perf_counter`.
        latency: seconds from then on; the totals of its stages add up to it.
        stages: its time at each stage that it passed, by name, in the order of its way.
    """

    created: float
    latency: float
    stages: Mapping[str, StageTime]


@frozen
class StageTimes:
    """The times of all items at one stage, each as in `StageTime`.

    Attributes:
        queue_wait: from entering the edge until the function worked on it.
        computation: in the function.
        transmission: from the result until the next edge took it.
        total: all three together.
    """

    queue_wait: Summary
    computation: Summary
    transmission: Summary
    total: Summary


@frozen
class Timing:
    """The times of single items, with `timing=True`.

    A batch, and every other result of several items, has the clock of its oldest one.

    Attributes:
        latency: from entering the graph until ready to be read.
        stages: what it is made of, stage by stage.
        efficiency: the share of the latency of all items in which a function worked on them.
        overhead: the rest, `1 - efficiency`.
        items: the last 1,000 items singly.
    """

    latency: Summary
    stages: Mapping[str, StageTimes]
    efficiency: float
    overhead: float
    items: tuple[ItemTimes, ...]

    def __str__(self) -> str:
        lines = [
            (
                f"latency of {self.latency.count} items: mean {seconds(self.latency.mean)}, "
                f"p50 {seconds(self.latency.p50)}, p99 {seconds(self.latency.p99)}; "
                f"{self.efficiency:.0%} of it computation"
            )
        ]
        for name, times in self.stages.items():
            lines.append(
                f"  {name}: queue {seconds(times.queue_wait.mean)}, "
                f"computation {seconds(times.computation.mean)}, "
                f"transmission {seconds(times.transmission.mean)}"
            )
        return "\n".join(lines)


@frozen
class Report:
    """The figures of a run at one moment, or at its end.

    Attributes:
        elapsed: seconds since the run was opened, up to its end.
        stages: one entry a stage, upstream first.
        edges: one entry an edge.
        failures: the first and last 500 failures, as text.
        failed: how many there were in all.
        interrupts: how many times the run was interrupted.
        bottleneck: the stage that sets the pace, if one can be told; `None` while all of
            them wait most of the time, for the input or for whoever reads.
        timing: the times of single items, if the run was opened with `timing=True`.
    """

    elapsed: float
    stages: tuple[StageReport, ...]
    edges: tuple[EdgeReport, ...]
    failures: tuple[FailureRecord, ...] = ()
    failed: int = 0
    interrupts: int = 0
    bottleneck: Bottleneck | None = None
    timing: Timing | None = None

    def stage(self, name: str) -> StageReport:
        """Give one stage's account.

        Raises:
            KeyError: no stage has that name.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        known = ", ".join(repr(stage.name) for stage in self.stages)
        raise KeyError(f"no stage is named {safe_repr(name)}; the stages are {known}")

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain dicts, lists, strings and numbers."""
        return asdict(self, value_serializer=_plain)

    def __str__(self) -> str:
        return render(self)


def _plain(instance: Any, field: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


_COLUMNS = (
    ("stage", "<"),
    ("taken", ">"),
    ("done", ">"),
    ("given", ">"),
    ("filtered", ">"),
    ("skipped", ">"),
    ("failed", ">"),
    ("discarded", ">"),
    ("in hand", ">"),
    ("retries", ">"),
    ("busy", ">"),
    ("waiting", ">"),
    ("blocked", ">"),
    ("p50", ">"),
    ("p99", ">"),
    ("items/s", ">"),
)
_ALWAYS = {"stage", "taken", "done", "given", "busy", "waiting", "blocked", "p50", "p99", "items/s"}


def render(report: Report) -> str:
    """Give a report as a table; columns in which nothing happened are left out."""
    rows = [_row(stage) for stage in report.stages]
    columns = [
        (number, name, align)
        for number, (name, align) in enumerate(_COLUMNS)
        if name in _ALWAYS or any(row[number] != "0" for row in rows)
    ]
    lines = []
    for row in ([name for name, _ in _COLUMNS], *rows):
        cells = []
        for number, name, align in columns:
            width = max(len(name), *(len(other[number]) for other in rows)) if rows else len(name)
            cells.append(f"{row[number]:{align}{width}}")
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(len(line) for line in lines))
    lines.append(f"{seconds(report.elapsed)} elapsed" + _summary(report))
    if report.bottleneck is not None:
        lines.append(f"bottleneck: {report.bottleneck.stage} ({report.bottleneck.reason})")
    lines += [
        f"held the event loop: {stage.name} (for {seconds(stage.held_loop)}; on=Threads(...) helps)"
        for stage in report.stages
        if stage.held_loop
    ]
    if report.timing is not None:
        lines.append(str(report.timing))
    return "\n".join(lines)


def _summary(report: Report) -> str:
    parts = []
    if report.failed:
        parts.append(f"{report.failed} failed")
    if report.interrupts:
        parts.append(f"{report.interrupts} interrupts")
    return "".join(f", {part}" for part in parts)


def _row(stage: StageReport) -> list[str]:
    counts = (
        stage.taken,
        stage.done,
        stage.given,
        stage.filtered,
        stage.skipped,
        stage.failed,
        stage.discarded,
        stage.in_hand,
        stage.retries,
    )
    mark = "~" if stage.calls.sampled and stage.calls.count else ""
    times = [seconds(stage.busy), seconds(stage.waiting), seconds(stage.blocked)]
    calls = [
        mark + seconds(stage.calls.p50) if stage.calls.count else "-",
        mark + seconds(stage.calls.p99) if stage.calls.count else "-",
    ]
    return [stage.name, *map(str, counts), *times, *calls, f"{stage.throughput:,.0f}"]


def seconds(value: float) -> str:
    """Write a duration with a unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            number = value / size
            return f"{number:.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
    return "0 s" if value <= 0 else f"{value * 1e9:.0f} ns"
