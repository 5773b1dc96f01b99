"""Runs an async function on asyncio or trio under a schedule that a seed decides, in virtual time.

What a scheduler may do is more than what it usually does. asyncio runs ready callbacks first in,
first out; trio runs ready tasks in any order. Code for both may rely on neither, so here a seed
chooses among the orders that either could give:

- **The steps of ready tasks** run in any order. A task is ready at most once, so nothing that one
  task does is reordered.
- **Plain callbacks** (`call_soon` on asyncio, with it futures' callbacks, transports, wake-ups from
  threads, and anyio's delivery of cancellations, which puts itself into the queue anew on every
  turn) keep their order among themselves, which asyncio documents and its own transports rely on.
  They fall anywhere among the task steps.
- **Timers and events** on asyncio come after what was ready before them, as they always do. In
  virtual time a timer is due only when nothing was ready, so nothing is lost.
- **Lag**: with `lag` above 0 a ready task may also be passed over, again and again, with that
  probability a turn. Shuffling alone keeps all tasks in step, one step a turn each, and never shows
  what happens when one falls three steps behind.

On trio the seed is that of the scheduler's own random numbers, with batches sorted first, as
pytest-trio does for hypothesis. On asyncio the ready queue is sorted by the age of the tasks first:
anyio cancels the tasks of a scope in the order of a set, that is by address, which changes from run
to run. With `seed=None` asyncio keeps its own order (with that one uncertainty in it) and trio
takes seed 0.

uvloop is a backend of its own here, `"uvloop"`: its order is its own and its time is real
(`_uvloop_loop`), but its steps are counted, so that one can act at each.

A run ends with `Stuck`, and all stacks in its message, when it makes more than `steps` steps
(livelock), when nothing can ever happen again (deadlock), when it is due to wait past `seconds` of
virtual time, or when it waits for threads longer than `patience` real seconds. The scope around the
scenario is cancelled then; what does not end on that is abandoned at the next such event.
A loop that never awaits is beyond all this; the suite's limit in real seconds is for that.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, cast

import anyio

from . import _asyncio_loop, _trio_loop, leaks
from .conductor import Abandoned, Conductor, Stuck

T = TypeVar("T")
Backend = Literal["asyncio", "trio"]
Scenario = Callable[[], Awaitable[T]]

BACKENDS: tuple[Backend, ...] = ("asyncio", "trio")
"""What can be driven by a seed, in virtual time."""
LOOPS: tuple[str, ...] = (*BACKENDS, *(["uvloop"] if find_spec("uvloop") else []))
"""What can be counted and acted on at every step."""


class Settings(TypedDict, total=False):
    """The keyword arguments that stand for a `Schedule`'s fields."""

    seed: int | None
    lag: float
    steps: int
    seconds: float
    patience: float
    rate: float
    eager: bool


@dataclass(frozen=True)
class Schedule:
    """Everything that decides how a scenario is run; the same schedule gives the same run.

    Args:
        backend: `"asyncio"`, `"trio"` or `"uvloop"`.
        seed: Chooses the order of steps; `None` is the backend's own order.
        lag: Probability that a ready task is passed over for a turn; needs a seed.
        steps: How many steps a run may make.
        seconds: How far virtual time may run.
        patience: Real seconds a run may wait for threads or files without making a step.
        rate: Virtual seconds per real second while threads are at work; 0 holds time still then.
            On uvloop, always.
        eager: Whether new tasks begin at once (asyncio, Python 3.12 and newer).
    """

    backend: str
    seed: int | None = None
    lag: float = 0.0
    steps: int = 200_000
    seconds: float = 86_400.0
    patience: float = 10.0
    rate: float = 1.0
    eager: bool = False

    def __post_init__(self) -> None:
        if self.backend not in LOOPS:
            raise ValueError(f"backend must be one of {LOOPS}, got {self.backend!r}")
        if self.backend == "uvloop" and self.seed is not None:
            raise ValueError("uvloop's order cannot be chosen: it takes no seed")
        if self.lag and self.seed is None:
            raise ValueError("lag needs a seed")
        if self.eager and (self.backend != "asyncio" or not hasattr(asyncio, "eager_task_factory")):
            raise ValueError("eager tasks need asyncio and Python 3.12")

    def __str__(self) -> str:
        parts = [repr(self.backend)]
        if self.seed is not None:
            parts.append(f"seed={self.seed}")
        parts += [f"lag={self.lag}"] * bool(self.lag) + ["eager=True"] * self.eager
        return ", ".join(parts)

    @property
    def library(self) -> Backend:
        """What anyio calls the backend."""
        return "trio" if self.backend == "trio" else "asyncio"

    def conductor(self) -> Conductor:
        """A fresh one, for one run."""
        return Conductor(
            label=str(self),
            order=None if self.seed is None else random.Random(self.seed),
            lag=self.lag,
            steps=self.steps,
            seconds=self.seconds,
            patience=self.patience,
            rate=self.rate,
        )

    def options(self, conductor: Conductor | None = None) -> dict[str, Any]:
        """What `anyio.run` takes as `backend_options`; usable for many runs one after the other.

        Args:
            conductor: The one to use for the single run these options are for.
        """

        def make() -> Conductor:
            return conductor or self.conductor()

        if self.backend == "uvloop":
            from . import _uvloop_loop

            rate, patience = self.rate, self.patience
            return {
                "loop_factory": lambda: _uvloop_loop.make_loop(make(), rate=rate, patience=patience)
            }
        if self.backend == "asyncio":
            return {"loop_factory": lambda: _asyncio_loop.make_loop(make(), eager=self.eager)}
        return _trio_loop.options(make, self.seed or 0)


def schedule(backend: str | Schedule, settings: Settings) -> Schedule:
    """The schedule that a call's first argument and its keyword arguments mean."""
    if isinstance(backend, Schedule):
        return replace(backend, **settings)
    return Schedule(backend, **settings)


def backend_options(
    backend: str | Schedule, **settings: Unpack[Settings]
) -> tuple[str, dict[str, Any]]:
    """Virtual time and a seeded order for tests that anyio's pytest plugin runs.

    To be returned by an `anyio_backend` fixture. A test that is stuck fails with `Stuck`.
    """
    chosen = schedule(backend, settings)
    return chosen.library, chosen.options()


@dataclass
class Outcome(Generic[T]):
    """How one run of a scenario ended.

    Truth is one of three: it `returned` (with `value`), it was `cancelled` by the scope around it,
    or it raised `error`. A native cancellation is an error, `asyncio.CancelledError`.
    """

    schedule: Schedule
    scenario: Scenario[T]
    value: T | None = None
    returned: bool = False
    error: BaseException | None = None
    points: int = 0  # scheduling points that the scenario had
    steps: int = 0  # steps of the whole run, the backend's own included
    elapsed: float = 0.0  # virtual seconds
    at: int | None = None  # the point that was acted at
    acted: bool = False  # whether the run came that far
    where: str = ""  # what was about to run there
    leaks: list[str] = field(default_factory=list)  # what was left when the scenario had ended

    @property
    def cancelled(self) -> bool:
        """Whether the scope around the scenario ended it."""
        return not self.returned and self.error is None

    def __str__(self) -> str:
        how = "returned" if self.returned else "was cancelled"
        if self.error is not None:
            how = f"raised {self.error!r}"
        point = "" if self.at is None else f", acted at point {self.at} of {self.points}"
        return f"{self.schedule}{point} ({self.where or 'no point'}): {how}"

    def check(self) -> None:
        """Fail if the run was stuck or left something behind.

        Raises:
            AssertionError: Saying what, at which point and how to get there again.
        """
        if isinstance(self.error, Stuck):
            raise self.error
        if self.leaks:
            raise AssertionError("\n- ".join([f"left behind; {self}", *self.leaks]))

    def unwrap(self) -> T:
        """The value, or what was raised instead of one.

        Raises:
            AssertionError: The scenario was cancelled.
        """
        if self.error is not None:
            self.error.add_note(f"run with: {self.schedule}")
            raise self.error
        assert self.returned, str(self)
        return cast("T", self.value)


def observe(
    backend: str | Schedule,
    scenario: Scenario[T],
    *,
    at: int | None = None,
    action: Callable[[Conductor], object] | None = None,
    **settings: Unpack[Settings],
) -> Outcome[T]:
    """Run a scenario and tell how it ended; nothing it does is raised here.

    Args:
        backend: A backend or a whole schedule.
        scenario: The async function to run.
        at: The scheduling point to act at: before the scenario's `at`-th step, or before the
            scenario itself for 0.
        action: What to do there.
        settings: Fields of `Schedule`.
    """
    chosen = schedule(backend, settings)
    conductor = chosen.conductor()
    outcome: Outcome[T] = Outcome(chosen, scenario, at=at)

    async def main() -> None:
        with leaks.Watch() as watch:
            try:
                with anyio.CancelScope() as scope:
                    conductor.begin(scope, host(), at, action)
                    try:
                        outcome.value = await scenario()
                        outcome.returned = True
                    finally:
                        conductor.end()
            except BaseException as error:
                # A run that was abandoned ends here when it is collected; no loop runs any more.
                if not (conductor.verdict is not None and isinstance(error, GeneratorExit)):
                    look(watch)
                raise
            look(watch)

    def look(watch: leaks.Watch) -> None:
        outcome.elapsed = anyio.current_time()
        outcome.leaks = watch.leaks()
        task = host()
        if task is not None and task.cancelling() > conductor.native_cancels:
            outcome.leaks.append(f"{task.cancelling()} requests to cancel the host task")

    def host() -> asyncio.Task[Any] | None:
        return asyncio.current_task() if chosen.library == "asyncio" else None

    try:
        anyio.run(main, backend=chosen.library, backend_options=chosen.options(conductor))
    except Abandoned:
        pass  # the verdict says why
    except BaseException as error:
        if type(error) is KeyboardInterrupt and not error.args:
            raise  # from the keyboard; one that a scenario raises on purpose has a message
        outcome.error = error
    outcome.points, outcome.steps = conductor.points, conductor.steps
    outcome.acted, outcome.where = conductor.acted, conductor.where
    if conductor.verdict is not None:
        outcome.error = conductor.verdict
    conductor.forget()
    _clear_frames(outcome.error, set())
    return outcome


def _clear_frames(error: BaseException | None, seen: set[int]) -> None:
    """Let go of what the frames in an error's traceback hold: a sweep has thousands of them."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    traceback.clear_frames(error.__traceback__)
    _clear_frames(error.__cause__, seen)
    _clear_frames(error.__context__, seen)
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            _clear_frames(one, seen)


def run(backend: str | Schedule, scenario: Scenario[T], **settings: Unpack[Settings]) -> T:
    """Run a scenario and give its result, or raise what it raised.

    Raises:
        Stuck: The run could not end.
    """
    return observe(backend, scenario, **settings).unwrap()


def explore(
    backend: str | Schedule,
    make_scenario: Callable[[], Scenario[T]],
    seeds: Iterable[int] = range(20),
    **settings: Unpack[Settings],
) -> Iterator[tuple[int, Outcome[T]]]:
    """Run a scenario once per seed.

    Every other seed also lags (with probability 0.5 a turn), unless `lag` is given.

    Yields:
        The seed, and how it ended.
    """
    for seed in seeds:
        one: Settings = {"lag": 0.5 * (seed % 2), **settings, "seed": seed}
        yield seed, observe(backend, make_scenario(), **one)
