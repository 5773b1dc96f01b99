"""Every call of user code is slow in turn, and hangs in turn, under every error policy.

A slow call changes nothing of what comes out, but where a timeout says so. One that hangs holds up the run
until its stage's timeout is over or the block is left; then everything ends, cleanup included, and threads
as soon as they come back, which they do at last. A plain function on the event loop can hang for ever as
little as a thread can: nobody could end it. It is slow instead, slow enough to be taken out of a burst.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import anyio
import pytest

from flowstage import StageTimeout

from .conftest import all_loops
from .faulty import (
    GRAPHS,
    POLICIES,
    TIMEOUT,
    WAYS,
    WITH_TIMEOUTS,
    Scenario,
    all_numbers,
    check_order,
    is_same,
    marks_of,
    settings_of,
    wrong_account,
)
from .harness import Faults, Hang, Outcome, observe, tell

# Runs left early, and cleanups and threads that take long, are logged by design.
pytestmark = pytest.mark.usefixtures("quiet_logs")

LEAVES = 30.0
"""When the block is left, in virtual seconds."""
CLOSES = 10.0
"""`close_timeout`: how long a cleanup may take."""
RELEASES = 60.0
"""When threads come back at last."""
TIMED = {"nap": ("from_a_manager",), "in_time": ("options_in_threads",)}
"""Functions that have a timeout, and where."""
SLOW = 8.0
"""What a slow call takes: longer than a timeout, less than a cleanup may."""


class Late(Faults):
    """Instead of failing, the `at`-th call of user code takes long.

    Args:
        at: which call.
        seconds: how long an async one takes, in virtual seconds.
        hangs: whether one in a thread takes until it is let go.
        backend: where.
    """

    def __init__(self, at: int, seconds: float, *, hangs: bool = False, backend: str) -> None:
        super().__init__(backend=backend)
        self.at, self.seconds, self.hangs = at, seconds, hangs
        self.where = self.kind = ""
        self.hang = Hang()

    def hit(self, label: str) -> None:
        super().hit(label)
        with self._lock:
            if self.kind or self.calls < self.at:
                return
            self.where, self.kind = label, "in a thread"
        try:
            anyio.get_current_task()
        except Exception:
            if self.hangs:
                self.hang.hold()
            else:
                time.sleep(0.008)  # longer than a slice of calls
        else:
            self.kind = "on the loop"
            time.sleep(0.002)  # longer than a turn

    async def arrive(self, label: str) -> None:
        super().hit(label)
        if not self.kind and self.calls >= self.at:
            self.where, self.kind = label, "async"
            await anyio.sleep(self.seconds)

    def is_timed(self, name: str) -> bool:
        """Whether the late call is later than its timeout, in a graph."""
        too_late = self.hangs or (self.kind == "async" and self.seconds > TIMEOUT)
        return name in TIMED.get(self.where, ()) and too_late


class Impatient(Scenario):
    """A run that is left after half a minute, with threads that come back later."""

    async def __call__(self) -> list[Any]:
        assert isinstance(self.faults, Late)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.let_go)
                with anyio.move_on_after(LEAVES):
                    await super().__call__()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            (error,) = group.exceptions
            raise error from None
        finally:
            self.faults.hang.release()
        return self.seen

    async def let_go(self) -> None:
        assert isinstance(self.faults, Late)
        await anyio.sleep(RELEASES)
        self.faults.hang.release()


def points(number: int, step: int, offset: int) -> Iterator[tuple[int, str, str]]:
    """Which call is late, under which policy, in which way: all of these in turn."""
    for place, at in enumerate(range(1 + offset % step, 1000, step), start=number):
        yield at, POLICIES[place % len(POLICIES)], list(WAYS)[place // len(POLICIES) % len(WAYS)]


def check(name: str, late: Late, outcome: Outcome[list[Any]], healthy: list[Any]) -> None:
    """Check one run with a late call in it."""
    scenario = outcome.scenario
    assert isinstance(scenario, Scenario)
    try:
        outcome.check()
        late.check_closed()
        assert not wrong_account(scenario), wrong_account(scenario)
        check_order(scenario, healthy)
        if late.is_timed(name):
            check_timeout(late, scenario, outcome, healthy)
        elif not late.hangs or late.kind in ("", "on the loop"):
            outcome.unwrap()
            assert scenario.ended
            assert is_same(scenario.graph, scenario.seen, healthy), "not what comes in time"
        else:
            outcome.unwrap()
            # A cleanup comes after the last event, an after-hook of the last item perhaps too.
            assert not scenario.ended or late.where.endswith((".close", "hook.after", "leave"))
    except AssertionError as error:
        error.add_note(
            f"{name}, {scenario.policy}, {scenario.way}: call {late.at}, {late.where!r} {late.kind}, "
            f"{'hangs' if late.hangs else 'is slow'}\n{outcome}\nsaw {scenario.seen}"
        )
        raise
    if late.hangs and late.backend != "uvloop":  # where a machine that is busy takes its time
        last = RELEASES if late.kind == "in a thread" else LEAVES + CLOSES
        assert outcome.elapsed < last + 1


def check_timeout(
    late: Late, scenario: Scenario, outcome: Outcome[list[Any]], healthy: list[Any]
) -> None:
    """The item that took too long has failed, and nothing else."""
    if late.hangs and late.kind == "in a thread" and scenario.policy == "raise":
        # The block waits for the thread, and is left meanwhile: that goes before the failure.
        assert not scenario.ended
        assert sum(stage.failed for stage in scenario.report.stages) == 1
        return
    if scenario.policy == "raise":
        assert isinstance(outcome.error, StageTimeout), outcome
        return
    outcome.unwrap()
    assert scenario.ended
    missing = {n // 10 for n in all_numbers(healthy)} - {
        n // 10 for n in all_numbers(scenario.seen)
    }
    assert len(missing) == 1, missing
    assert marks_of(scenario.seen) == marks_of(healthy)


def played(
    backend: str, name: str, tries: Iterable[tuple[int, str, str]], *, hangs: bool
) -> Counter[str]:
    """Have calls of a graph be late, one in each run; tell how many of each kind were."""
    counts: Counter[str] = Counter()
    if backend == "uvloop" and name in WITH_TIMEOUTS:
        return counts  # seconds of real time for each run
    settings: dict[str, Any] = {**settings_of(backend), "seconds": 1e6}
    seconds = 1e6 if hangs else SLOW
    healthy: dict[str, tuple[list[Any], int]] = {}
    for way in WAYS:
        faults = Faults(backend=backend)
        events = observe(backend, Scenario(name, "raise", faults, way=way), **settings).unwrap()
        healthy[way] = events, faults.calls
    for at, policy, way in tries:
        events, calls = healthy[way]
        if at > max(calls for _, calls in healthy.values()):
            break
        if at <= calls:
            late = Late(at, seconds, hangs=hangs, backend=backend)
            scenario = (Impatient if hangs else Scenario)(name, policy, late, way=way)
            check(name, late, observe(backend, scenario, **settings), events)
            counts[late.kind or "too few calls"] += 1
    return counts


@pytest.mark.slow
@all_loops
@pytest.mark.parametrize("number", range(3))
def test_slow_calls_change_nothing(backend: str, number: int) -> None:
    """Whatever call takes seconds, the same comes out in the same order: of every ninth call."""
    counts: Counter[str] = Counter()
    for place, name in enumerate(GRAPHS):
        if place % 3 == number:
            counts += played(backend, name, points(number + place, 9, 2 * place), hangs=False)
    assert counts["async"] > 5
    assert counts["in a thread"] + counts["on the loop"] > 5


@pytest.mark.slow
@all_loops
@pytest.mark.parametrize("number", range(3))
def test_hanging_calls_are_cancelled(backend: str, number: int) -> None:
    """Whatever call hangs for ever, leaving the run ends it: of every ninth call, on uvloop a few."""
    counts: Counter[str] = Counter()
    step = 31 if backend == "uvloop" else 9
    for place, name in enumerate(GRAPHS):
        if place % 3 == number:
            counts += played(backend, name, points(number + place, step, 2 * place + 4), hangs=True)
    assert counts["async"] + counts["in a thread"] > (1 if backend == "uvloop" else 10)


@pytest.mark.deep
@all_loops
@pytest.mark.parametrize("hangs", [False, True], ids=["slow", "hanging"])
def test_every_call_is_late(backend: str, hangs: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Every call of every graph under every policy, in one way after the other; on uvloop some."""
    began = time.monotonic()
    counts: Counter[str] = Counter()
    for place, name in enumerate(GRAPHS):
        step = 1 if backend != "uvloop" else 25 if hangs else 5
        for number in range(len(POLICIES)):
            counts += played(backend, name, points(number, step, place), hangs=hangs)
    total = sum(counts.values()) - counts["too few calls"]
    kind, spent = "hanging" if hangs else "slow", time.monotonic() - began
    tell(capsys, f"{kind} calls, {backend}: {total} runs, {dict(counts)} in {spent:.0f} s")
    assert total > (60 if backend == "uvloop" else 2000)
