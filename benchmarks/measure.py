"""Runs the programs of a workload in interleaved rounds, checking every result.

Two machines are never alike and one machine is not alike from minute to minute, so only what was
measured side by side is compared: each round runs every program once, each round begins with
another one, and the best of the rounds is the figure, since noise can only add time.
"""

import asyncio
import gc
import importlib
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import anyio
from attrs import Factory, define

from benchmarks.model import (
    Backend,
    Figure,
    Measured,
    Program,
    Target,
    Workload,
    WrongResult,
)


@define
class Row:
    """What one program reached: samples by figure, or why there are none."""

    program: Program
    backend: Backend | None
    samples: dict[str, list[float]] = Factory(dict)
    absent: str | None = None
    error: str | None = None

    def best(self, figure: str) -> float | None:
        """The smallest sample of a figure, ``None`` without samples."""
        return None if self.error else min(self.samples.get(figure, ()), default=None)

    def middle(self, figure: str) -> float | None:
        """The median of a figure's samples, ``None`` without samples."""
        taken = self.samples.get(figure)
        return None if self.error or not taken else median(taken)


@define
class Outcome:
    """A measured workload."""

    workload: Workload
    backend: Backend
    items: int
    rounds: int
    rows: list[Row]

    def row(self, name: str) -> Row | None:
        """The row of the program with this name, if it took part."""
        return next((row for row in self.rows if row.program.name == name), None)

    def reached(self, target: Target) -> float | None:
        """What the target's subject reached, ``None`` when a side of it has no figure."""
        subject = self._best(target.subject, target.figure)
        if target.relation == "value":
            return subject
        peer = self._best(target.peer or "", target.figure)
        if subject is None or peer is None:
            return None
        return subject - peer if target.relation == "difference" else subject / peer

    def _best(self, name: str, figure: str) -> float | None:
        row = self.row(name)
        return None if row is None else row.best(figure)


def measure(
    workload: Workload,
    backend: Backend,
    *,
    rounds: int,
    quick: bool = False,
    wanted: Callable[[Program], bool] = lambda _: True,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Measure one workload on one backend.

    Args:
        workload: what to measure.
        backend: where; programs that cannot run there run where they can, and say so.
        rounds: how often each program runs.
        quick: take the workload's small number of items.
        wanted: which programs to run.
        tell: called with a line of progress.
    """
    items = workload.quick_items if quick else workload.items
    rounds = min(rounds, workload.most_rounds or rounds)
    rows = [Row(one, one.backend(backend)) for one in workload.programs if wanted(one)]
    for row in rows:
        row.absent = missing(row.program)
    able = [row for row in rows if row.absent is None]
    if workload.warm_up:
        for row in able:
            tell(f"{workload.name}: warming up {row.program.name}")
            _attempt(workload, row, workload.warm_up)
            row.samples.clear()
    for turn in range(rounds):
        for row in _rotated(able, turn):
            if row.error is None:
                tell(f"{workload.name}: round {turn + 1}/{rounds}, {row.program.name}")
                _attempt(workload, row, max(1, round(items * row.program.share)))
    return Outcome(workload, backend, items, rounds, rows)


def missing(program: Program) -> str | None:
    """Why a program cannot run here, ``None`` if it can."""
    for name in program.needs:
        try:
            with _logging_kept():
                importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name + ".").startswith(error.name + "."):
                return "not installed"
            return f"cannot be imported: {error}"
        except Exception as error:  # a peer may fail on this Python in any way it likes
            return f"cannot be imported: {type(error).__name__}"
    return None


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Undo what an import does to the root logger: async-task-pipeline turns on every message."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def _rotated(rows: Sequence[Row], turn: int) -> list[Row]:
    start = turn % len(rows) if rows else 0
    return [*rows[start:], *rows[:start]]


def _attempt(workload: Workload, row: Row, items: int) -> None:
    """Run a program once and note its figures, or its error."""
    try:
        elapsed, given = _timed(row.program, row.backend, items, workload.limit)
        _check(workload, row.program, items, given)
    except TimeoutError:
        row.error = f"gave nothing for {workload.limit:.0f} s"
    except Exception as error:  # whatever a program raises is its result
        row.error = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        for figure in workload.figures:
            value = _value(figure, elapsed, items, given)
            row.samples.setdefault(figure.name, []).append(value)


def _timed(
    program: Program, backend: Backend | None, items: int, limit: float
) -> tuple[float, Any]:
    """Seconds and results; the start and end of the event loop are not counted."""
    gc.collect()
    if backend is None:
        start = time.perf_counter()
        given = program.run(items)
        return time.perf_counter() - start, given
    timed: tuple[float, Any] = run_on(backend, _timed_in_loop, program.run, items, limit)
    return timed


async def _timed_in_loop(
    run: Callable[[int], Awaitable[Any]], items: int, limit: float
) -> tuple[float, Any]:
    with anyio.fail_after(limit):
        start = time.perf_counter()
        given = run(items)
        if inspect.isawaitable(given):
            given = await given
        return time.perf_counter() - start, given


def run_on(backend: Backend, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run an async function to its end on a fresh event loop."""
    if backend == "trio":
        return anyio.run(function, *args, backend="trio")
    return anyio.run(function, *args, backend_options={"use_uvloop": backend == "uvloop"})


def current_backend() -> Backend:
    """The backend of the running event loop."""
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        return "trio"
    return "uvloop" if "uvloop" in type(asyncio.get_running_loop()).__module__ else "asyncio"


def _check(workload: Workload, program: Program, items: int, given: Any) -> None:
    if workload.expected is None:
        return
    found = given.results if isinstance(given, Measured) else given
    results, expected = list(found), workload.expected(items)
    if not program.ordered:
        results.sort()
        expected.sort()
    if results != expected:
        what = "in another order" if sorted(results) == sorted(expected) else "not the right ones"
        raise WrongResult(f"{len(results):,} results of {len(expected):,}, {what}")


def _value(figure: Figure, elapsed: float, items: int, given: Any) -> float:
    if isinstance(given, Measured):
        return given.figures[figure.name]
    return elapsed * figure.scale / (items if figure.per_item else 1)
