"""The figures of a report are those of the work that was done."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from flowstage import CallTimes, Graph, Input, StageReport, Threads, source
from flowstage._account import _bottleneck


def nap(number: int) -> int:
    """Keep a thread for 10 ms."""
    time.sleep(0.01)
    return number


@pytest.mark.slow
@pytest.mark.parametrize("seats", [1, 4])
async def test_a_stage_in_threads_is_busy_while_its_calls_run(seats: int) -> None:
    """Of several calls at once, their sum; and so it is known which stage sets the pace."""
    report = await source(range(20)).map(nap, on=Threads(seats)).drain()
    assert report.stage("nap").busy >= 20 * 0.01
    assert report.bottleneck is not None
    assert report.bottleneck.stage == "nap"


def figures(name: str, busy: float, waiting: float, blocked: float) -> StageReport:
    counts = dict.fromkeys(
        "taken done filtered skipped failed discarded in_hand given retries".split(), 9
    )
    return StageReport(
        name,
        "map",
        **counts,
        busy=busy,
        waiting=waiting,
        blocked=blocked,
        throughput=9,
        calls=CallTimes(),
    )


@pytest.mark.parametrize(
    ("entry", "last", "named"),
    [((0.0, 0.9), 0.0, True), ((0.9, 0.0), 0.0, False), ((0.0, 0.9), 0.8, False)],
    ids=["the loop", "the input", "the reader"],
)
def test_who_sets_the_pace_of_stages_that_all_wait(
    entry: tuple[float, float], last: float, named: bool
) -> None:
    """They may wait for each other's turns on the loop, or for what is outside."""
    names = [f"stage-{number}" for number in range(10)]
    flow = Input[int]("in")
    for name in names:
        flow = flow.map(abs, name=name)
    stages = [figures("in", 0.0, *entry), *(figures(name, 0.08, 0.85, 0.0) for name in names[:-1])]
    stages.append(figures(names[-1], 0.09, 0.85 - last, last))
    live: Any = SimpleNamespace(
        topology=Graph(flow)._topology, ends=[SimpleNamespace(source=names[-1])]
    )
    found = _bottleneck(live, tuple(stages), 1.0)
    assert (found.stage if found else None) == (names[-1] if named else None)
