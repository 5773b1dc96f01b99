"""Every scheduling point of every kind of graph: cancelled, left, interrupted or stopped there.

After each: nothing is left (tasks, threads, streams, generators), the account adds up, no item came
twice or out of order, nobody was told of an end that was none, and `stop` delivered all that had
been pulled. `Play.check` says what of this holds for which act.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from .harness import BACKENDS, Outcome, both, call, cancel_scope, native_cancel, sweep
from .laws.play import Play
from .laws.references import REFERENCES

Act = Callable[..., Any]


def left(play: Play) -> None:
    """Whatever ends the run from outside may end it early."""
    play.left = True


interrupt = call(Play.ask_interrupt)
stop = call(Play.ask_stop)
leave = call(Play.ask_leave)
leaving = call(left)

ACTS: dict[str, Act] = {
    "cancel": both(cancel_scope, leaving),
    "native": both(native_cancel, leaving),
    "leave": leave,
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
}
EVERYDAY = ("flat_pool", "transforms", "gathered", "push")
"""Graphs swept in the everyday suite; the rest are deep."""

both_backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Runs left early are logged by design."""
    logger = logging.getLogger("flowstage")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def check(outcome: Outcome[None]) -> None:
    """Check one run, whatever was done to it."""
    outcome.check()
    play = outcome.scenario
    assert isinstance(play, Play)
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


def swept(
    backend: str, name: str, act: str, points: Iterable[int] | None = None, **settings: Any
) -> int:
    """Sweep one graph with one act; give the number of points."""
    if act == "native" and backend != "asyncio":
        return 0
    if name == "thread_source" and "interrupt" in act:
        return 0  # the epoch of what a thread pulls is told by the clock, which a model cannot
    count = 0
    action = {**ACTS, **DOUBLE}[act]

    def make() -> Play:
        return Play(REFERENCES[name](), swept=True)

    for _, outcome in sweep(backend, make, action, points=points, **settings):
        check(outcome)
        count += 1
    return count


@both_backends
@pytest.mark.parametrize("name", REFERENCES)
def test_the_graphs_run_as_they_should(backend: str, name: str) -> None:
    """Left alone, each gives what its model says."""
    play = Play(REFERENCES[name](), swept=True)
    from .harness import observe

    outcome = observe(backend, play, seed=1)
    check(outcome)
    assert all(play.ended)


@pytest.mark.slow
@both_backends
@pytest.mark.parametrize("act", ACTS)
def test_every_ninth_point_of_every_graph(backend: str, act: str) -> None:
    """All graphs, coarsely: each has its own points, so the kinds make up for each other."""
    points = sum(swept(backend, name, act, range(3, 400, 9)) for name in REFERENCES)
    assert points > 120 or (act == "native" and backend == "trio")


@pytest.mark.slow
@both_backends
@pytest.mark.parametrize("name", EVERYDAY)
def test_every_point(backend: str, name: str) -> None:
    """Cancelled and interrupted at every point."""
    for act in ("cancel", "interrupt"):
        assert swept(backend, name, act) > 20


@pytest.mark.deep
@both_backends
@pytest.mark.parametrize(
    ("act", "seed"),
    [*((act, seed) for act in ACTS for seed in (None, 2)), *((act, 3) for act in DOUBLE)],
)
def test_every_point_of_every_graph(
    backend: str, act: str, seed: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything, everywhere, in the backends' own order of tasks and in others."""
    began = time.monotonic()
    lag = 0.0 if seed is None else 0.2 * seed
    points = sum(swept(backend, name, act, seed=seed, lag=lag) for name in REFERENCES)
    with capsys.disabled():
        spent = time.monotonic() - began
        print(f"\n{backend}, {act}, seed {seed}: {points} points in {spent:.0f} s")  # noqa: T201
