"""Every call of user code fails in turn, under every error policy, in every way of running a graph.

User code here is all there is: sources of each kind and their cleanup, inline, async and threaded
functions, generators, transforms, keys of routes, and the hooks of observers; there are sentinels
between the items. Whatever fails, wherever: nothing is left, generators are closed once, in the task that
iterated them, the account adds up, the error that comes out is the planned one, nothing comes out after it,
and what was to be skipped takes nothing else with it. `faulty` has the graphs and says what holds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import pytest

from flowstage import Input

from .conftest import all_loops
from .faulty import GRAPHS, POLICIES, WAYS, Plans, plain, settings_of, tried
from .harness import (
    ERRORS,
    EXITS,
    Fault,
    Faults,
    double_faults,
    lasting_faults,
    observe,
    single_faults,
    tell,
)

# Skipped items and broken observers are logged by design.
pytestmark = pytest.mark.usefixtures("quiet_logs")

DEEP_SECONDS = 160.0
"""When a deep campaign begins nothing new: only a slow machine comes near to it."""
FEW = ("ordinary", "cancelled", "generator_exit", "end_of_stream")


# ---------------------------------------------------------------- every day


@pytest.mark.slow
@all_loops
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", GRAPHS)
def test_any_call_may_fail(backend: str, name: str, policy: str) -> None:
    """Every second call without hooks and with room, every eighth in each other way; errors in turn."""
    counts: Counter[str] = Counter()
    for number, way in enumerate(WAYS):
        step = 2 if way == "bare, roomy" else 8

        def some(calls: int, step: int = step, number: int = number) -> Iterator[tuple[Fault, ...]]:
            for place, at in enumerate(range(1 + number % step, calls + 1, step), start=number):
                yield (Fault(at, FEW[place % len(FEW)]),)

        counts += tried(backend, name, policy, some, way=way)
    assert counts["runs"] >= 12
    assert counts["failed"]
    assert counts["went on"]


@pytest.mark.slow
@all_loops
@pytest.mark.parametrize("error", EXITS)
def test_exits_go_through_bare(backend: str, error: str) -> None:
    """`KeyboardInterrupt` and `SystemExit` are neither skipped nor wrapped."""
    for place, name in enumerate(GRAPHS):
        if backend == "uvloop" and name == "timed_batches":
            continue  # real time decides how many calls there are, and the last may not come

        def some(calls: int) -> Iterator[tuple[Fault, ...]]:
            yield from [(Fault(call, error),) for call in range(1, calls + 1, 8)]

        counts = tried(backend, name, "skip", some, way=list(WAYS)[place % len(WAYS)])
        assert counts["failed"] == counts["runs"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_values_with_a_timeout_are_closed(backend: str) -> None:
    """A generator that a call began while the run was failing is closed too."""
    for at in range(1, 12):
        tried(backend, "values_in_time", "raise", lambda calls, at=at: [(Fault(at),)], way="bare")


@all_loops
def test_an_input_is_no_different(backend: str) -> None:
    """A source given to `open` is guarded like one that is written."""

    async def feed(faults: Faults) -> None:
        await Input[int]().map(faults.wrap(abs)).drain(faults.wrap(plain([1, 2, 3]), "items"))

    for error in FEW:
        for at in range(1, 8):
            faults = Faults(Fault(at, error), backend=backend)
            outcome = observe(backend, partial(feed, faults), **settings_of(backend))
            outcome.check()
            faults.check_closed()
            assert faults.explains(outcome.error), f"{faults}, {outcome}"


# ---------------------------------------------------------------- everything


def in_turn(
    backend: str, name: str, policy: str, plans: Plans, step: int = 1, **settings: Any
) -> Counter[str]:
    """Try a graph's plans in one way after the other: each plan in one of them.

    Args:
        step: of every so many plans one is tried, under each policy another.
    """
    counts: Counter[str] = Counter()
    for number, way in enumerate(WAYS):

        def mine(calls: int, number: int = number) -> Iterator[tuple[Fault, ...]]:
            first = number * step + POLICIES.index(policy) % step
            return islice(plans(calls), first, None, len(WAYS) * step)

        counts += tried(backend, name, policy, mine, way=way, **settings)
    return counts


def in_all_ways(backend: str, name: str, policy: str, plans: Plans) -> Counter[str]:
    """Try a graph's plans in each way."""
    counts: Counter[str] = Counter()
    for way in WAYS:
        counts += tried(backend, name, policy, plans, way=way)
    return counts


@pytest.mark.deep
@all_loops
@pytest.mark.parametrize("policy", POLICIES)
def test_every_call_fails_with_everything(
    backend: str, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An ordinary error at each call of each graph in each way; then all errors and more, in turn.

    On uvloop, where time is real, the ways come in turn from the first round on. What was tried is printed.
    On a machine that is too slow for everything the later rounds are left out, which is printed as well;
    the first is never.
    """
    began = time.monotonic()
    rounds: dict[str, Any] = {
        "ordinary": partial(
            in_turn if backend == "uvloop" else in_all_ways,
            plans=partial(single_faults, errors=["ordinary"]),
        ),
        "all errors": partial(
            in_turn, plans=partial(single_faults, errors=[*ERRORS, *EXITS]), step=STEP[backend]
        ),
        "from then on": partial(in_turn, plans=lasting_faults),
        "two": partial(in_turn, plans=partial(double_faults, gaps=(1, 2)), step=STEP[backend]),
    }
    if backend != "uvloop":
        plans = partial(single_faults, errors=FEW)
        rounds["other orders"] = partial(in_turn, plans=plans, step=2, seed=3, lag=0.4)
    counts: dict[str, Counter[str]] = {}
    left_out: Counter[str] = Counter()
    for number, (title, sweep) in enumerate(rounds.items()):
        counts[title] = Counter()
        for name in GRAPHS:
            if number and time.monotonic() - began > DEEP_SECONDS:
                left_out[title] += 1
            else:
                counts[title] += sweep(backend, name, policy)
    total = sum(count["runs"] for count in counts.values())
    each = ", ".join(f"{title} {dict(count)}" for title, count in counts.items())
    missed = ", ".join(f"{title!r} of {number} graphs" for title, number in left_out.items())
    spent = time.monotonic() - began
    line = f"faults, {backend}, {policy}: {total} runs in {spent:.0f} s ({each})"
    tell(capsys, f"{line}; left out: {missed or 'nothing'}")
    assert counts["ordinary"]["runs"] > (700 if backend == "uvloop" else 4000)
    assert total > (1500 if backend == "uvloop" else 5000)


STEP = {"asyncio": 3, "trio": 3, "uvloop": 9}
"""Of so many plans one is tried in the later rounds: each under one policy; on uvloop time is real."""
