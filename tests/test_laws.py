"""The laws, as properties of random graphs under random schedules, against a model in plain lists.

A case is made from a seed: the graph, its entries, what is sent, the sentinels, the failing items,
the interrupts, `stop` or leaving, and the reader's stalls. A failing one prints its seed, and

    FLOWSTAGE_LAWS=1234 pytest tests/test_laws.py -k replay

plays it again, on both backends. `FLOWSTAGE_GRAPHS=20000` sets how many cases the deep campaign plays.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstage import StageError, Threads, source

from .conftest import both_backends
from .harness import (
    BACKENDS,
    Fault,
    Faults,
    Schedule,
    call,
    explore,
    no_leaks,
    observe,
    run,
    sweep,
)
from .laws import Case, Play, generate, play
from .laws.cases import Settings
from .laws.streams import Mark

# Skipped items and early ends are logged by design.
pytestmark = pytest.mark.usefixtures("quiet_logs")

real_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])

EVERYDAY = 100
"""Cases of the everyday campaign, on each backend."""
DEEP = int(os.environ.get("FLOWSTAGE_GRAPHS", "12000"))
DEEP_SECONDS = 240.0
"""A share of the ten minutes that the deep campaigns take together."""
FEWEST = 500
"""Graphs that the deep campaign has to come to in that time, or it says little."""


def schedule_of(backend: str, seed: int) -> Schedule:
    """The schedule under which a case is played: every other one lags."""
    return Schedule(backend, seed=seed, lag=0.5 * (seed % 2), steps=60_000)


def play_seed(backend: str, seed: int, wanted: Settings | None = None) -> Play:
    """Play the case of a seed; a failure says how to see it again."""
    case = generate(random.Random(seed), wanted)
    try:
        return play(case, schedule_of(backend, seed))
    except BaseException as error:
        error.add_note(f"FLOWSTAGE_LAWS={seed}: {backend}\n{Play(case).graph}")
        raise


# ---------------------------------------------------------------- everyday


@pytest.mark.slow
@both_backends
def test_random_graphs_keep_the_laws(backend: str) -> None:
    """Order, sentinels, interrupt, bound, sharing, account, nothing left."""
    looks = 0
    for seed in range(EVERYDAY):
        looks += play_seed(backend, seed).looks
    assert looks > 10 * EVERYDAY, "the account is looked at while it changes"


@pytest.mark.slow
@both_backends
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False), seed=st.integers(0, 3))
def test_any_graph_keeps_the_laws(backend: str, rng: random.Random, seed: int) -> None:
    """The same, with the cases made by hypothesis, which finds the smallest that fails."""
    case = generate(rng, Settings(sizes=(0, 1, 2, 5)))
    play(case, schedule_of(backend, seed))


@pytest.mark.slow
def test_ordered_graphs_give_the_same_events_everywhere() -> None:
    """Law 8: the events of each end are equal on both backends, under any order of the tasks."""
    same_everywhere(range(60))


def same_everywhere(seeds: Iterable[int], *, seconds: float = 60.0) -> int:
    """Compare as many graphs as fit into the time; give their number."""
    began, count = time.monotonic(), 0
    for seed in seeds:
        events = [events_of(backend, seed, order) for backend in BACKENDS for order in (0, 1)]
        whole = [found for found in events if found is not None]
        assert all(found == whole[0] for found in whole), f"seed {seed}"
        count += 1
        if time.monotonic() - began > seconds:
            break
    return count


@real_loops
def test_ordered_graphs_give_the_same_events_on_real_loops(loop: str) -> None:
    """The same on the loops that users have, uvloop among them."""
    for seed in range(15):
        case = generate(random.Random(seed), Settings(only_exact=True, acts=False, threads=False))
        expected = events_of("asyncio", seed, 0)
        no_waiting(case)
        one, error = play_for_real(loop, case)
        if error is None and expected is not None:
            assert comparable(one) == expected, f"seed {seed}"


@pytest.mark.slow
@real_loops
def test_random_graphs_keep_the_laws_on_real_loops(loop: str) -> None:
    """All laws, with interrupts, closed ends and the rest, in real time."""
    assert real_campaign(loop, range(30_000, 30_060), seconds=60.0) == 60


def real_campaign(loop: str, seeds: Iterable[int], *, seconds: float) -> int:
    """Play random graphs on a real loop, as many as fit into the time; give their number."""
    began, count = time.monotonic(), 0
    for seed in seeds:
        case = generate(random.Random(seed))
        no_waiting(case)
        try:
            play_for_real(loop, case, pause=0.0005 * (seed % 2))
        except BaseException as error:
            error.add_note(f"{loop}, the case of FLOWSTAGE_LAWS={seed} in real time")
            raise
        count += 1
        if time.monotonic() - began > seconds:
            break
    return count


def play_for_real(
    loop: str, case: Case, *, pause: float = 0.0
) -> tuple[Play, BaseException | None]:
    """Play a case on a loop as users have it, and check it; give what the run raised."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    one = Play(case, pause=pause)

    async def main() -> BaseException | None:
        with anyio.fail_after(30), no_leaks():
            try:
                await one()
            except Exception as error:
                return error
        return None

    error = anyio.run(
        main,
        backend=loop.replace("uvloop", "asyncio"),
        backend_options={"use_uvloop": True} if loop == "uvloop" else {},
    )
    one.check(error)
    return one, error


def no_waiting(case: Case) -> None:
    """Leave out what is slow where time is real: calls that hang until their timeout."""
    for stage in case.calls:
        stage.hangs = stage.flaky = 0.0


def events_of(backend: str, seed: int, order: int) -> list[list[Any]] | None:
    """What the ends of an ordered graph give; a run that fails gives nothing to compare."""
    wanted = Settings(only_exact=True, acts=False, threads=False)
    case = generate(random.Random(seed), wanted)
    no_waiting(case)
    one = Play(case)
    outcome = observe(Schedule(backend, seed=seed + order, lag=0.5 * order, steps=60_000), one)
    outcome.check()
    one.check(outcome.error)
    return comparable(one) if outcome.error is None else None


def comparable(one: Play) -> list[list[Any]]:
    """What is the same everywhere: all of it, unless time decides where a sentinel enters."""
    return [
        [event for event in seen if one.case.known or not isinstance(event[1], Mark)]
        for seen in one.seen
    ]


class Handover:
    """A reader that is cancelled natively, and another that goes on with what comes next."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.reader: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        async with source(range(12)).map(self.work).open(buffer=1) as run:
            self.reader = asyncio.create_task(self.read(run))
            await asyncio.wait([self.reader])
            await self.read(run)

    async def work(self, number: int) -> int:
        await anyio.sleep(0.1 * (number % 3))
        return number

    async def read(self, run: Any) -> None:
        async for number in run:
            self.seen.append(number)

    def cancel(self) -> None:
        if self.reader is not None:
            self.reader.cancel()


def handed_over() -> int:
    """Cancel the first reader at every point; give the number of points."""
    count = 0
    for _, outcome in sweep("asyncio", Handover, call(Handover.cancel), steps=20_000):
        outcome.check()
        outcome.unwrap()
        assert outcome.scenario.seen == list(range(12)), str(outcome)
        count += 1
    return count


def test_a_reader_that_is_cancelled_natively_loses_nothing() -> None:
    """Only asyncio has native cancellation; a scope can reach no reader in the middle of taking."""
    assert handed_over() > 30


@pytest.mark.skipif("FLOWSTAGE_LAWS" not in os.environ, reason="no seed to replay")
@both_backends
def test_replay(backend: str) -> None:
    """Play the case of one seed."""
    play_seed(backend, int(os.environ["FLOWSTAGE_LAWS"]))


# ---------------------------------------------------------------- what random graphs have found


@both_backends
def test_a_later_stage_that_turns_out_to_be_async(backend: str) -> None:
    """Behind a plain stage, where a chain would go its fast way: its results, not its coroutines."""

    async def double(number: int) -> int:
        await checkpoint()
        return 2 * number

    def lazily(number: int) -> Any:
        return double(number)

    async def scenario() -> list[int]:
        return await source(range(40)).buffer(5).map(abs).map(lazily).collect()

    assert run(backend, scenario) == [2 * number for number in range(40)]


@both_backends
@pytest.mark.parametrize("buffer", [1, 2, 3, 5])
def test_a_burst_that_finds_half_its_room(backend: str, buffer: int) -> None:
    """What a thread has done is given on in parts, and no part is lost."""

    async def slowly(number: int) -> int:
        await anyio.sleep(0.01 * (number % 3))
        return number

    async def scenario() -> list[int]:
        return await source(range(100)).map(abs, on=Threads(2)).map(slowly).collect(buffer=buffer)

    assert run(backend, scenario, seed=1) == list(range(100))


@both_backends
def test_a_cleanup_that_raises_a_cancellation(backend: str) -> None:
    """It is an error of the source, named, with the cancellation as its cause."""
    faults = Faults(Fault(1, "cancelled", on="values.close"), backend=backend)

    async def scenario() -> None:
        async with source(faults.async_iterable([1, 2, 3], "values")).open(buffer=0) as live:
            async for _ in live:
                await live.stop()

    outcome = observe(backend, scenario)
    outcome.check()
    assert isinstance(outcome.error, StageError)
    assert faults.explains(outcome.error)


@both_backends
def test_tasks_that_an_interrupt_has_cancelled_do_not_seem_still(backend: str) -> None:
    """An interrupt while all wait for each other is no deadlock."""

    async def scenario() -> list[int]:
        flow = source(range(30)).map(double, concurrency=3, ordered=False).map(double)
        seen: list[int] = []
        async with flow.open(buffer=1) as live:
            async for item in live:
                seen.append(item)
                if item % 5 == 0:
                    live.interrupt()
        return seen

    async def double(number: int) -> int:
        await checkpoint()
        return number

    for _, outcome in explore(backend, lambda: scenario, range(8)):
        assert len(outcome.unwrap()) > 1


# ---------------------------------------------------------------- deep


@pytest.mark.deep
@both_backends
def test_thousands_of_graphs(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As many graphs as fit into the time; a third of them are played under several schedules."""
    began, found = time.monotonic(), Counter[str]()
    first = 1_000_000
    for seed in range(first, first + DEEP):
        one = play_seed(backend, seed)
        found["graphs"] += 1
        found["runs"] += 1
        found["looks"] += one.looks
        found["interrupts"] += one.world.epoch
        found["strict"] += one.strict
        if seed % 3 == 0:
            case = generate(random.Random(seed))
            for order in range(1, 6):
                schedule = Schedule(backend, seed=order, lag=0.25 * (order % 3), steps=60_000)
                try:
                    play(case, schedule)
                except BaseException as error:
                    error.add_note(f"case {seed}, {schedule}")
                    raise
                found["runs"] += 1
        if time.monotonic() - began > DEEP_SECONDS:
            break
    with capsys.disabled():
        print(f"\n{backend}: {dict(found)} in {time.monotonic() - began:.0f} s")  # noqa: T201
    assert found["graphs"] >= min(DEEP, FEWEST)
    assert found["strict"] > found["graphs"] / 10, "runs whose accounts are known to the item"


@pytest.mark.deep
@real_loops
def test_hundreds_of_graphs_on_real_loops(loop: str) -> None:
    """As many as fit into half a minute, in real time."""
    assert real_campaign(loop, range(3_000_000, 3_003_000), seconds=30.0) >= 100


@pytest.mark.deep
def test_hundreds_of_ordered_graphs_are_the_same_everywhere() -> None:
    """Law 8, at length."""
    assert same_everywhere(range(2_000_000, 2_002_000), seconds=DEEP_SECONDS / 4) >= 100
