"""Every scheduling point of every kind of graph: cancelled, left, interrupted or stopped there.

Each of the references is run again and again; at one point of each run something is done to it: the scope
around it is cancelled, its task is cancelled natively, the block is left (its readers cancelled, or by a
`break`, or by an exception of its body), the run is interrupted or stopped; or two of these at once.

After each: nothing is left (tasks, threads, streams, generators), the account adds up, no item came
twice or out of order, nobody was told of an end that was none, and `stop` delivered all that had
been pulled. `Play.check` says what of this holds for which act.

The everyday suite takes a sample of the points, with other points and another way of running the graph for
each act; the deep one takes every point of every graph for every act, and samples of their ways, of other
orders of the tasks, and of two acts at once. uvloop is driven by counted steps like the others, in real
time, so it is always sampled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from .conftest import all_loops, both_backends
from .harness import (
    LOOPS,
    Outcome,
    both,
    call,
    cancel_scope,
    native_cancel,
    observe,
    sweep,
    tell,
)
from .laws.references import REFERENCES, WAYS, reference
from .swept_parts import Swept

# Runs left early are logged by design.
pytestmark = pytest.mark.usefixtures("quiet_logs")

Act = Callable[..., Any]


def left(play: Swept) -> None:
    """Whatever ends the run from outside may end it early."""
    play.left = True


interrupt = call(Swept.ask_interrupt)
stop = call(Swept.ask_stop)
leave = call(Swept.ask_leave)
leaving = call(left)

ACTS: dict[str, Act] = {
    "cancel": both(cancel_scope, leaving),
    "native": both(native_cancel, leaving),
    "leave": leave,
    "break": call(Swept.ask_break),
    "raise": call(Swept.ask_raise),
    "interrupt": interrupt,
    "stop": stop,
}
DOUBLE: dict[str, Act] = {
    "interrupt and stop": both(interrupt, stop),
    "stop and interrupt": both(stop, interrupt),
    "interrupt and cancel": both(interrupt, ACTS["cancel"]),
    "stop and cancel": both(stop, ACTS["cancel"]),
    "interrupt twice": both(interrupt, interrupt),
    "interrupt and leave": both(interrupt, leave),
    "stop and break": both(stop, ACTS["break"]),
    "interrupt and raise": both(interrupt, ACTS["raise"]),
    "raise and cancel": both(ACTS["raise"], ACTS["cancel"]),
    "cancel and native": both(ACTS["cancel"], ACTS["native"]),
}
EVERYDAY = ("flat_pool", "transforms", "gathered", "push", "bursts")
"""Graphs swept at every point in the everyday suite."""


def check(outcome: Outcome[None]) -> None:
    """Check one run, whatever was done to it."""
    outcome.check()
    play = outcome.scenario
    assert isinstance(play, Swept)
    if play.run is None:
        assert play.left, f"the run never began: {outcome}"
        return
    try:
        if play.left and isinstance(outcome.error, asyncio.CancelledError):
            play.check(None)
        else:
            play.check(outcome.error)
    except AssertionError as error:
        error.add_note(f"{outcome}\n{play.graph}")
        raise


def can(backend: str, name: str, act: str) -> bool:
    """Whether a graph can be swept with an act on a loop."""
    if "native" in act and backend == "trio":
        return False
    if name == "thread_source" and "interrupt" in act:
        return False  # the epoch of what a thread pulls is told by the clock, which a model cannot
    # Three seconds of real time may pass by themselves when a hundred pass in one.
    return not (backend == "uvloop" and reference(name).patient)


def swept(
    backend: str,
    name: str,
    act: str,
    points: Iterable[int] | None = None,
    *,
    way: str = "as it is",
    **settings: Any,
) -> int:
    """Sweep one graph with one act; give the number of points."""
    if not can(backend, name, act):
        return 0
    pause = 1.0
    if backend == "uvloop":
        pause, settings = 0.1, {"rate": 100.0, **settings}
    count = 0
    action = {**ACTS, **DOUBLE}[act]

    def make() -> Swept:
        return Swept(reference(name, way), pause=pause)

    for _, outcome in sweep(backend, make, action, points=points, **settings):
        check(outcome)
        count += 1
    return count


@pytest.mark.slow
@all_loops
@pytest.mark.parametrize("way", WAYS)
def test_the_graphs_run_as_they_should(backend: str, way: str) -> None:
    """Left alone, each gives what its model says, or ends with the error that it is made for."""
    for name in REFERENCES:
        if not can(backend, name, "stop"):
            continue
        play = Swept(reference(name, way), pause=0.1 if backend == "uvloop" else 1.0)
        settings: Any = {"rate": 100.0} if backend == "uvloop" else {"seed": 1}
        outcome = observe(backend, play, **settings)
        check(outcome)
        if name in ("failing", "overflowing", "zipped_unevenly"):
            assert outcome.error is not None, name
        else:
            assert outcome.error is None, name
            assert all(play.ended), name
            assert any(play.seen), name
        stages = play.report.stages
        if "tried_again" in name:
            assert all(stage.retries for stage in stages if stage.name.startswith("m")), name
        if name in ("timed_out", "dead_letters"):
            assert sum(bool(stage.failed) for stage in stages) == 1, name
            assert sum(bool(stage.skipped) for stage in stages) == 1, name


def test_long_graphs_carry_bursts() -> None:
    """Those that are made for it have more than one item in an edge at once."""
    for name in REFERENCES:
        if "bursts" in name:
            play = Swept(reference(name))
            check(observe("asyncio", play, seed=1))
            assert play.most > 10, name


@pytest.mark.slow
@all_loops
@pytest.mark.parametrize("act", ACTS)
def test_some_points_of_every_graph(backend: str, act: str) -> None:
    """All graphs, coarsely, in one way after the other."""
    points, number = 0, list(ACTS).index(act)
    for place, name in enumerate(REFERENCES, start=number):
        way = list(WAYS)[place % len(WAYS)]
        points += swept(backend, name, act, range(1 + 7 * place % 30, 400, 30), way=way)
    assert points > 80 or (act == "native" and backend == "trio")


@pytest.mark.slow
@all_loops
def test_two_acts_at_some_points(backend: str) -> None:
    """Each pair of acts, on every graph at some moment of it."""
    points = 0
    for number, act in enumerate(DOUBLE):
        for place, name in enumerate(REFERENCES, start=number):
            at = 2 + 11 * place % 45
            points += swept(backend, name, act, (at,), way=list(WAYS)[place % len(WAYS)])
    assert points > 300


@pytest.mark.slow
@both_backends
@pytest.mark.parametrize("name", EVERYDAY)
def test_every_point(backend: str, name: str) -> None:
    """Cancelled and interrupted at every point."""
    for act in ("cancel", "interrupt"):
        assert swept(backend, name, act) > 20


# ---------------------------------------------------------------- all of it


def told(capsys: pytest.CaptureFixture[str], began: float, what: str, points: int) -> None:
    """Print what a campaign did."""
    tell(capsys, f"sweeps, {what}: {points} points in {time.monotonic() - began:.0f} s")


@pytest.mark.deep
@both_backends
@pytest.mark.parametrize("act", ACTS)
def test_every_point_of_every_graph(
    backend: str, act: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything, everywhere, in the backend's own order of tasks."""
    began = time.monotonic()
    points = {name: swept(backend, name, act) for name in REFERENCES}
    told(capsys, began, f"{backend}, {act}, every point", sum(points.values()))
    assert all(points[name] > 20 for name in REFERENCES if can(backend, name, act))


@pytest.mark.deep
@both_backends
@pytest.mark.parametrize("seed", [2, 3])
def test_other_orders(backend: str, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Every twelfth point of every graph for every act, while tasks lag, in an order of a seed."""
    began, points = time.monotonic(), 0
    for number, act in enumerate(ACTS):
        for place, name in enumerate(REFERENCES, start=number + seed):
            some = range(5 * place % 12, 1000, 12)
            points += swept(backend, name, act, some, seed=seed + 10 * place, lag=0.2 * seed)
    told(capsys, began, f"{backend}, other orders from seed {seed}", points)
    assert points > 1500


@pytest.mark.deep
@both_backends
@pytest.mark.parametrize("way", [way for way in WAYS if way != "as it is"])
def test_other_ways(backend: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every twelfth point of every graph for every act, run in another way."""
    began, points = time.monotonic(), 0
    for number, act in enumerate(ACTS):
        for place, name in enumerate(REFERENCES, start=number):
            points += swept(backend, name, act, range(5 * place % 12, 1000, 12), way=way)
    told(capsys, began, f"{backend}, {way}", points)
    assert points > 1200


@pytest.mark.deep
@both_backends
def test_two_acts(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every seventh point of every graph for every pair of acts."""
    began, points = time.monotonic(), 0
    for number, act in enumerate(DOUBLE):
        for place, name in enumerate(REFERENCES, start=number):
            points += swept(backend, name, act, range(place % 7, 1000, 7))
    told(capsys, began, f"{backend}, two acts", points)
    assert points > 3000


@pytest.mark.deep
@pytest.mark.skipif("uvloop" not in LOOPS, reason="uvloop is not installed")
def test_uvloop(capsys: pytest.CaptureFixture[str]) -> None:
    """Every ninth point of every graph for every act, some of all acts in other ways."""
    began, points = time.monotonic(), 0
    for number, act in enumerate({**ACTS, **DOUBLE}):
        for place, name in enumerate(REFERENCES, start=number):
            step = 9 if act in ACTS else 36
            way = list(WAYS)[place // 9 % len(WAYS)]
            points += swept("uvloop", name, act, range(place % step, 1000, step), way=way)
    told(capsys, began, "uvloop, all acts", points)
    assert points > 3000
