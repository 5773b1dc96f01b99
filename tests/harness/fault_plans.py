"""Which faults to try: plans for a number of calls, and a sweep that runs each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, Unpack

from .faults import ERRORS, Fault, Faults
from .schedules import Outcome, Scenario, Schedule, Settings, observe, schedule

T = TypeVar("T")


def single_faults(calls: int, errors: Iterable[str] = tuple(ERRORS)) -> Iterator[tuple[Fault, ...]]:
    """Plans in which one call fails: each call, with each error."""
    for error in errors:
        for call in range(1, calls + 1):
            yield (Fault(call, error),)


def double_faults(
    calls: int,
    errors: Iterable[str] = ("ordinary",),
    second: Iterable[str] = ("ordinary", "cancelled"),
    gaps: Iterable[int] = (1, 2, 3),
) -> Iterator[tuple[Fault, ...]]:
    """Plans in which a call fails, and one soon after: most often in the cleanup of the first."""
    seconds = tuple(second)
    distances = tuple(gaps)
    for first in single_faults(calls, errors):
        for error in seconds:
            for gap in distances:
                yield (*first, Fault(gap, error, after_first=True))


def lasting_faults(
    calls: int, errors: Iterable[str] = ("ordinary",)
) -> Iterator[tuple[Fault, ...]]:
    """Plans in which all calls fail from one on."""
    for error in errors:
        for call in range(1, calls + 1):
            yield (Fault(call, error, onwards=True),)


def fault_sweep(
    backend: str | Schedule,
    make_scenario: Callable[[Faults], Scenario[T]],
    plans: Callable[[int], Iterable[tuple[Fault, ...]]] = single_faults,
    **settings: Unpack[Settings],
) -> Iterator[tuple[Faults, Outcome[T]]]:
    """Run a scenario without faults to count its calls, then once for each plan.

    Args:
        backend: A backend or a whole schedule.
        make_scenario: Makes the scenario of one run, its user code wrapped by what it is given.
        plans: Gives the plans for a number of calls: `single_faults`, `double_faults`,
            `lasting_faults`, or a partial or function of your own.
        settings: Fields of `Schedule`.

    Yields:
        The faults with their books, and how that run ended.

    Raises:
        AssertionError: The scenario fails or leaks without any fault.
    """
    chosen = schedule(backend, settings)
    healthy = Faults(backend=chosen.backend)
    outcome = observe(chosen, make_scenario(healthy))
    outcome.check()
    outcome.unwrap()
    for plan in plans(healthy.calls):
        faults = Faults(*plan, backend=chosen.backend)
        yield faults, observe(chosen, make_scenario(faults))
