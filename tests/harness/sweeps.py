"""Acts at every scheduling point of a scenario, one point a run.

A scheduling point is the moment before a step: on trio before a task's step, on asyncio before a
callback's, a task's step or another. The scenario is run again for each point; up to the point all
runs are the same, so every moment is met exactly once. Some bugs show at 41 points of 105: do not
sample when there is time for all.

What is done is done by nobody: no task is current. Point 0 is before the scenario itself.

A scenario that an action is to reach into is an object with an `async def __call__`, made afresh
for each point; the action gets it:

    class Reading:
        run: Run | None = None

        async def __call__(self) -> list[int]:
            async with flow.open(items) as self.run:
                return [item async for item in self.run]


    for k, outcome in sweep("trio", Reading, call(lambda s: s.run and s.run.interrupt())):
        outcome.check()
        ...

With `seed=None` on asyncio the order in which anyio cancels the tasks of a scope depends on
addresses. Each run is a true one, but a failure need not come back at the same point; with a seed
it does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar, Unpack

from .conductor import Conductor
from .schedules import Outcome, Scenario, Schedule, Settings, observe, schedule

T = TypeVar("T")
S = TypeVar("S", bound=Callable[[], Awaitable[Any]])

Action = Callable[[Conductor, Any], object]


def cancel_scope(conductor: Conductor, scenario: object) -> None:
    """Cancel the scope around the scenario."""
    assert conductor.scope is not None
    conductor.scope.cancel()


def native_cancel(conductor: Conductor, scenario: object) -> None:
    """Call `asyncio.Task.cancel` on the task that runs the scenario; not on trio."""
    assert conductor.host is not None, "only asyncio has native cancellation"
    conductor.native_cancels += 1
    conductor.host.cancel()


def call(fn: Callable[[S], object]) -> Callable[[Conductor, S], object]:
    """Call a plain function with the scenario; what it raises is the outcome's error.

    It may set flags and events and cancel scopes. For an async act, set an event that a task of the
    scenario waits for: a task started from here while its task group is ending belongs to nobody
    (anyio 4.16 on asyncio: a group with no tasks left looks at them once and then makes a
    checkpoint).
    """

    def act(conductor: Conductor, scenario: S) -> object:
        return fn(scenario)

    act.__qualname__ = getattr(fn, "__qualname__", repr(fn))
    return act


def both(first: Action, second: Action) -> Action:
    """Do one thing and then another, at the same point."""

    def act(conductor: Conductor, scenario: Any) -> None:
        first(conductor, scenario)
        second(conductor, scenario)

    return act


def count_points(
    backend: str | Schedule, scenario: Scenario[T], **settings: Unpack[Settings]
) -> int:
    """The number of scheduling points of a scenario that is left alone.

    Raises:
        AssertionError: It was stuck or left something behind even so.
    """
    outcome = observe(backend, scenario, **settings)
    outcome.check()
    outcome.unwrap()
    return outcome.points


def act_at(
    backend: str | Schedule,
    scenario: Scenario[T],
    k: int,
    action: Action,
    **settings: Unpack[Settings],
) -> Outcome[T]:
    """Run a scenario and act at its `k`-th scheduling point.

    When the scenario ends before, `outcome.acted` is false.
    """
    if action is native_cancel and schedule(backend, settings).library != "asyncio":
        raise ValueError("only asyncio has native cancellation")
    return observe(
        backend, scenario, at=k, action=lambda conductor: action(conductor, scenario), **settings
    )


def sweep(
    backend: str | Schedule,
    make_scenario: Callable[[], Scenario[T]],
    action: Action,
    *,
    points: Iterable[int] | None = None,
    **settings: Unpack[Settings],
) -> Iterator[tuple[int, Outcome[T]]]:
    """Run a fresh scenario for each scheduling point, from 0 on, and act there.

    Args:
        backend: A backend or a whole schedule.
        make_scenario: Makes the scenario of one run.
        action: `cancel_scope`, `native_cancel`, `call(...)`, `both(...)`, or any function of the
            conductor and the scenario.
        points: The points to act at instead of all of them, in rising order.
        settings: Fields of `Schedule`.

    Yields:
        The point, and how that run ended; to be checked by the caller, with `outcome.check()`
        first. It ends with the first point that a scenario did not come to.
    """
    for k in _endless() if points is None else points:
        outcome = act_at(backend, make_scenario(), k, action, **settings)
        if not outcome.acted:
            return
        yield k, outcome


def _endless() -> Iterator[int]:
    """0, 1, 2, and so on, up to a number that no scenario should reach."""
    yield from range(100_000)
    raise AssertionError("a scenario with 100,000 scheduling points is not for a sweep")
