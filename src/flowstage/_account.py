"""The report of a run, made from its counters."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from time import perf_counter

from ._draw import kind_of
from ._engine import Runner, SourceRunner
from ._engine.pool import Pool
from ._live import Live
from ._report import Bottleneck, CallTimes, EdgeReport, Report, StageReport
from ._stages import BufferStage
from ._stats import Tally
from ._topology import Node
from ._wires import Edge


def report_of(live: Live) -> Report:
    """Give the figures of a run at this moment."""
    now = perf_counter()
    elapsed = now - live.opened if live.elapsed is None else live.elapsed
    busy: dict[Tally, float] = {}
    waits: dict[Tally, tuple[float, float]] = {}
    for runner in live.runners:
        runner.refresh()
        own = _waits(runner, now)
        at_work = _busy(runner, own, now)
        if isinstance(runner, Pool) and runner.width == 1:
            own = _without_work(runner, own, at_work, now)
        waits.update(own)
        busy.update(at_work)
    for planned, edge in live.edges.items():
        if planned.buffer is not None:
            _count_buffer(live.tallies[planned.buffer], edge)
    stages = tuple(_stage(node, live, elapsed, busy, waits) for node in live.topology.nodes)
    return Report(
        elapsed=elapsed,
        stages=stages,
        edges=_edges(live),
        failures=(*live.first_failures, *live.last_failures),
        failed=live.failed,
        interrupts=live.interrupts,
        bottleneck=_bottleneck(live, stages, elapsed),
        timing=None if live.times is None else live.times.report(),
    )


def _waits(runner: Runner, now: float) -> dict[Tally, tuple[float, float]]:
    """Give the seconds that its first stage has waited and its last one was blocked, until now."""
    first, last = runner.steps[0].tally, runner.steps[-1].tally
    blocked = runner.waits == "output"
    waits_now = runner.ended is None and (blocked or (bool(runner.waits) and not runner.works()))
    going_on = now - runner.since if waits_now else 0.0
    waits = {last: (last.waiting, last.blocked)}
    waits[first] = (first.waiting + (0.0 if blocked else going_on), first.blocked)
    waits[last] = (waits[last][0], last.blocked + (going_on if blocked else 0.0))
    return waits


def _without_work(
    runner: Runner, waits: dict[Tally, tuple[float, float]], busy: dict[Tally, float], now: float
) -> dict[Tally, tuple[float, float]]:
    """Leave out of the time blocked what a stage of one call at a time has worked besides.

    Its results wait for room while its thread is at the next items already.
    """
    (tally,) = busy
    waited, blocked = waits[tally]
    rest = _alive(runner, now) - busy[tally] - waited
    return {tally: (waited, max(0.0, min(blocked, rest)))}


def _alive(runner: Runner, now: float) -> float:
    """Give the seconds for which a task has lived, until now."""
    if runner.started is None:
        return 0.0
    return (now if runner.ended is None else runner.ended) - runner.started


def _busy(
    runner: Runner, waits: dict[Tally, tuple[float, float]], now: float
) -> dict[Tally, float]:
    """Share a runner's time among its stages. A source is busy while it is asked for an item."""
    if not isinstance(runner, SourceRunner):
        return _busy_stages(runner, waits, now)
    source, *_ = (step.tally for step in runner.steps)
    pulling = now - runner.pull_began if runner.pulling and runner.ended is None else 0.0
    return {**_busy_stages(runner, waits, now), source: source.busy + pulling}


def _busy_stages(
    runner: Runner, waits: dict[Tally, tuple[float, float]], now: float
) -> dict[Tally, float]:
    tallies = [step.tally for step in runner.steps]
    so_far = _so_far(runner, now)
    if isinstance(runner, Pool):
        # Every call is timed, and several at once are more than the task's own time.
        return {tally: tally.calls.total + sum(so_far[tally]) for tally in tallies}
    rest = max(
        0.0, _alive(runner, now) - sum(waited + blocked for waited, blocked in waits.values())
    )
    if len(tallies) == 1 and not tallies[0].calls.count:
        return {tallies[0]: rest}
    return {tally: min(_estimate(tally, so_far[tally]), rest) for tally in tallies}


def _so_far(runner: Runner, now: float) -> dict[Tally, list[float]]:
    """Give the seconds that each call under way has taken until now."""
    so_far = {
        step.tally: [now - began for began, _ in list(step.tally.working.values())]
        for step in runner.steps
    }
    if runner.ended is None and not any(so_far.values()):
        untimed = runner.untimed()
        if untimed is not None:
            tally, began = untimed
            so_far[tally] = [now - began]
    return so_far


def _estimate(tally: Tally, so_far: list[float]) -> float:
    """Estimate the time of all calls from those that were timed, and add those under way."""
    calls = tally.calls
    over = calls.total
    if calls.count:
        over = calls.total / calls.count * max(tally.taken - len(so_far), calls.count)
    return over + sum(so_far)


def _count_buffer(tally: Tally, edge: Edge) -> None:
    """Give a buffer that is nothing but an edge the account of that edge."""
    tally.taken = edge.values_in
    tally.done = tally.given = edge.values_out
    inside = edge.inside - edge.faults_inside
    tally.discarded = tally.taken - tally.done - inside  # the edge counts failures with them


def _stage(
    node: Node,
    live: Live,
    elapsed: float,
    busy: dict[Tally, float],
    waits: dict[Tally, tuple[float, float]],
) -> StageReport:
    tally = live.tallies[node]
    waiting, blocked = waits.get(tally, (tally.waiting, tally.blocked))
    return StageReport(
        name=tally.name,
        kind=kind_of(node.stage),
        taken=tally.taken,
        done=tally.done,
        filtered=tally.filtered,
        skipped=tally.skipped,
        failed=tally.failed,
        discarded=tally.discarded,
        in_hand=tally.in_hand,
        given=tally.given,
        retries=tally.retries,
        busy=busy.get(tally, 0.0),
        waiting=waiting,
        blocked=blocked,
        throughput=tally.done / elapsed if elapsed > 0 else 0.0,
        calls=_calls(tally),
        held_loop=tally.held_loop,
    )


def _calls(tally: Tally) -> CallTimes:
    calls = tally.calls
    if not calls.count:
        return CallTimes()
    return CallTimes(
        count=calls.count,
        sampled=tally.sampled,
        mean=calls.total / calls.count,
        p50=calls.percentile(0.5),
        p90=calls.percentile(0.9),
        p99=calls.percentile(0.99),
        longest=calls.high,
    )


def _edges(live: Live) -> tuple[EdgeReport, ...]:
    """Give every edge of the graph; those inside a task hold nothing."""
    reports = [
        EdgeReport(
            source=edge.source,
            target=edge.target,
            capacity=edge.capacity,
            entered=edge.entered,
            left=edge.left,
            discarded=edge.discarded,
            inside=edge.inside,
            dropped=edge.dropped,
        )
        for edge in live.edges.values()
    ]
    names = live.topology.names
    for task in live.plan.tasks:
        for upper, lower in pairwise(task):
            count = live.tallies[lower].taken
            reports.append(EdgeReport(names[upper], names[lower], 0, count, count, 0, 0))
    return tuple(reports)


def _bottleneck(live: Live, stages: tuple[StageReport, ...], elapsed: float) -> Bottleneck | None:
    """Find the stage that sets the pace: the busiest, unless it waits longer than it works.

    But many stages that share the loop wait for each other's turns: then one of them sets the pace if
    nothing outside of the run does.
    """
    if elapsed <= 0:
        return None
    by_name = {stage.name: stage for stage in stages}
    best: tuple[float, StageReport, str] | None = None
    work = 0.0
    for node in live.topology.nodes:
        stage = by_name[live.topology.names[node]]
        width = getattr(getattr(node.stage, "options", None), "width", 1)
        use = stage.busy / (elapsed * width)
        if isinstance(node.stage, BufferStage) or not stage.taken:
            continue
        work += use
        if best is None or use > best[0]:
            calls = f" in each of {width} calls at once" if width > 1 else ""
            best = (use, stage, calls)
    if best is None or best[0] < 0.05:
        return None
    use, stage, calls = best
    waits = max(stage.waiting, stage.blocked) > use * elapsed
    if waits and (work < 0.5 or _is_paced_outside(live, by_name, elapsed)):
        return None
    return Bottleneck(stage.name, f"busy {min(use, 1.0):.0%} of the time{calls}")


def _is_paced_outside(live: Live, by_name: Mapping[str, StageReport], elapsed: float) -> bool:
    """Tell whether all inputs wait to be sent something most of the time, or an end to be read."""
    names = live.topology.names
    entries = [by_name[names[node]] for node in live.topology.entries()]
    if all(entry.waiting > elapsed / 2 for entry in entries):
        return True
    return any(by_name[edge.source].blocked > elapsed / 2 for edge in live.ends)
