"""The harness itself: what it promises, and bugs planted for it to catch."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

from . import harness
from .conftest import all_loops, both_backends
from .harness import (
    BACKENDS,
    ERRORS,
    LOOPS,
    Fault,
    Faults,
    Hang,
    Outcome,
    PlannedError,
    Schedule,
    Snapshot,
    Stuck,
    call,
    cancel_scope,
    count_points,
    explore,
    fault_sweep,
    leaks,
    native_cancel,
    no_leaks,
    observe,
    outside_work,
    run,
    soak,
    sweep,
)

needs_uvloop = pytest.mark.skipif("uvloop" not in LOOPS, reason="uvloop is not installed")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that do not end are reported soon."""
    monkeypatch.setattr(leaks, "GRACE", 0.02)


# ---------------------------------------------------------------- what the scenarios are made of


class NaiveQueue:
    """Loses an item when its receiver is cancelled between being handed it and taking it."""

    def __init__(self) -> None:
        self.items: deque[int] = deque()
        self.waiting: deque[tuple[anyio.Event, list[int]]] = deque()

    def put(self, item: int) -> None:
        if self.waiting:
            event, box = self.waiting.popleft()
            box.append(item)
            event.set()
        else:
            self.items.append(item)

    async def get(self) -> int:
        await checkpoint()
        if not self.items:
            box: list[int] = []
            event = anyio.Event()
            self.waiting.append((event, box))
            await event.wait()
            await checkpoint()  # the bug: the item is in no place that anyone looks at
            return box[0]
        return self.items.popleft()


class Transfer:
    """Ten numbers through a queue; `left` tells which arrived or can still be got."""

    def __init__(self, queue: NaiveQueue) -> None:
        self.queue: NaiveQueue = queue
        self.put = 0
        self.got: list[int] = []

    async def __call__(self) -> list[int]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.produce)
            while len(self.got) < 10:
                self.got.append(await self.queue.get())
        return self.got

    async def produce(self) -> None:
        for item in range(10):
            self.queue.put(item)
            self.put += 1
            for _ in range(3):  # else the reader never has to wait
                await checkpoint()

    def lost(self) -> list[int]:
        return [n for n in range(self.put) if n not in self.got and n not in self.queue.items]


class SoundQueue(NaiveQueue):
    """Waits first and takes then."""

    async def get(self) -> int:
        await checkpoint()
        while not self.items:
            event = anyio.Event()
            self.waiting.append((event, []))
            await event.wait()
        return self.items.popleft()

    def put(self, item: int) -> None:
        self.items.append(item)
        while self.waiting:
            self.waiting.popleft()[0].set()


async def ring() -> list[str]:
    """Three tasks that note whose turn it is."""
    turns: list[str] = []

    async def take_turns(name: str) -> None:
        for _ in range(4):
            turns.append(name)
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(take_turns, name)
    return turns


# ---------------------------------------------------------------- schedules


@both_backends
def test_a_seed_gives_the_same_run_again(backend: str) -> None:
    """Same seed, same order; other seeds, other orders."""
    orders = [run(backend, ring, seed=seed) for seed in range(8)]
    assert orders == [run(backend, ring, seed=seed) for seed in range(8)]
    assert len({"".join(order) for order in orders}) > 4


@both_backends
def test_a_seed_gives_the_same_cancellations_again(backend: str) -> None:
    """anyio cancels the tasks of a scope in the order of their addresses; it must not show."""

    async def scenario() -> list[int]:
        ended: list[int] = []

        async def wait(number: int) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(wait, number)
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()
        return ended

    first = run(backend, scenario, seed=5)
    ballast = [object() for _ in range(1000)]
    for _ in range(5):
        ballast.append([bytearray(100) for _ in range(57)])
        assert run(backend, scenario, seed=5) == first


@both_backends
def test_lag_lets_tasks_fall_behind(backend: str) -> None:
    """With lag a task may have three turns more than another; shuffled alone, never two."""

    def furthest_apart(turns: list[str]) -> int:
        so_far = [[turns[:n].count(name) for name in "abc"] for n in range(len(turns) + 1)]
        return max(max(counts) - min(counts) for counts in so_far)

    together = [run(backend, ring, seed=seed) for seed in range(20)]
    apart = [run(backend, ring, seed=seed, lag=0.4) for seed in range(20)]
    assert max(map(furthest_apart, together)) == 1
    assert max(map(furthest_apart, apart)) >= 3
    assert apart == [run(backend, ring, seed=seed, lag=0.4) for seed in range(20)]


def test_plain_callbacks_keep_their_order_on_asyncio() -> None:
    """What `call_soon` is given runs in that order, whatever the seed."""

    async def scenario() -> list[int]:
        order: list[int] = []
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(checkpoint)
                loop.call_soon(order.append, number)
        return order

    for _, outcome in explore("asyncio", lambda: scenario):
        assert outcome.unwrap() == [0, 1, 2, 3, 4]


def test_without_a_seed_asyncio_keeps_its_own_order() -> None:
    """First in, first out."""
    assert "".join(run("asyncio", ring)) == "abc" * 4


@both_backends
@pytest.mark.parametrize("late", [0, 1])
def test_only_some_seeds_show_a_bug_of_order(backend: str, late: int) -> None:
    """Planted: a reader that relies on the writer having been there, `late` turns ago or before."""

    async def scenario() -> None:
        shelf: list[str] = []

        async def read() -> None:
            for _ in range(late):
                await checkpoint()
            assert shelf

        async def write() -> None:
            shelf.append("book")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(checkpoint)
            tasks.start_soon(read)
            tasks.start_soon(write)

    outcomes = dict(explore(backend, lambda: scenario, range(40)))
    shown = {seed for seed, outcome in outcomes.items() if outcome.error is not None}
    assert 0 < len(shown) < 40
    if late:
        assert all(seed % 2 for seed in shown), "without lag this order cannot be"


@both_backends
def test_virtual_time_jumps(backend: str) -> None:
    """A day passes at once, and deadlines come at their very time."""

    async def scenario() -> tuple[float, ...]:
        began = anyio.current_time()
        await anyio.sleep(0.25)
        with anyio.move_on_after(1.5):
            await anyio.sleep(80_000)
        short = anyio.current_time() - began
        await anyio.sleep(80_000)
        return began, short, anyio.current_time() - began

    real = time.monotonic()
    assert run(backend, scenario) == (0.0, 1.75, 80_001.75)
    assert time.monotonic() - real < 1


@both_backends
def test_time_does_not_jump_while_a_thread_is_at_work(backend: str) -> None:
    """A timeout longer than a thread's call does not strike, nor a shorter one fail to."""

    async def scenario() -> tuple[bool, bool]:
        with anyio.move_on_after(5) as long:
            await anyio.to_thread.run_sync(time.sleep, 0.02)
        stop = threading.Event()
        with anyio.move_on_after(0.02) as short:
            await anyio.to_thread.run_sync(stop.wait, abandon_on_cancel=True)
        stop.set()
        await anyio.sleep(1)
        return long.cancelled_caught, short.cancelled_caught

    outcome = observe(backend, scenario)
    outcome.check()
    assert outcome.unwrap() == (False, True)


@both_backends
@pytest.mark.parametrize("kind", ["pool", "plain", "announced"])
def test_time_waits_for_other_threads_too(backend: str, kind: str) -> None:
    """Executors and plain threads that wake the loop are waited for."""

    async def scenario() -> bool:
        done = anyio.Event()
        token = anyio.lowlevel.current_token()

        def work() -> None:
            time.sleep(0.02)
            anyio.from_thread.run_sync(done.set, token=token)

        with anyio.move_on_after(5) as scope, ThreadPoolExecutor(1) as pool:
            if kind == "pool":
                pool.submit(work)
                await done.wait()
            elif kind == "plain":
                threading.Thread(target=work).start()
                await done.wait()
            else:
                with outside_work():
                    threading.Thread(target=work, name="waitpid-").start()  # one that is not seen
                    await done.wait()
        return scope.cancelled_caught

    assert run(backend, scenario) is False


@pytest.mark.slow
@both_backends
def test_time_waits_for_worker_processes(backend: str) -> None:
    """Their start included; afterwards, when they are idle, time jumps again."""

    async def scenario() -> int:
        with anyio.fail_after(30):
            process = await anyio.to_process.run_sync(os.getpid)
        await anyio.sleep(80_000)
        return process

    outcome = observe(backend, scenario)
    outcome.check()
    assert outcome.unwrap() != os.getpid()


@both_backends
def test_time_jumps_past_a_thread_that_hangs(backend: str) -> None:
    """A held thread is not waited for, until it is released; then it is."""
    hang = Hang()

    async def scenario() -> float:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, hang.hold)
            await anyio.sleep(3600)
            hang.release()
            with anyio.move_on_after(60):
                await anyio.to_thread.run_sync(time.sleep, 0.01)
        return anyio.current_time()

    began = time.monotonic()
    assert 3600 <= run(backend, scenario) < 3660
    assert time.monotonic() - began < 30


@both_backends
def test_waiting_for_idle_comes_before_a_jump(backend: str) -> None:
    """`wait_all_tasks_blocked` works in virtual time."""

    times: list[float] = []

    async def scenario() -> float:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 100)
            await anyio.wait_all_tasks_blocked()
            times.append(anyio.current_time())
            tasks.cancel_scope.cancel()
        return times[0]

    assert run(backend, scenario) < 1


async def wait_for_each_other() -> None:
    one, other = anyio.Event(), anyio.Event()

    async def wait_then_set(awaited: anyio.Event, then: anyio.Event) -> None:
        await awaited.wait()
        then.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_then_set, one, other)
        tasks.start_soon(wait_then_set, other, one)


async def spin() -> None:
    while True:
        await checkpoint()


async def spin_deaf() -> None:
    with anyio.CancelScope(shield=True):
        await spin()


async def wait_deaf() -> None:
    with anyio.CancelScope(shield=True):
        await wait_for_each_other()


async def tick() -> None:
    while True:
        await anyio.sleep(60)


@both_backends
@pytest.mark.parametrize(
    ("scenario", "reason", "place"),
    [
        (wait_for_each_other, "deadlock", "wait_then_set"),
        (anyio.sleep_forever, "deadlock", "sleep_forever"),
        (wait_deaf, "deadlock", "wait_then_set"),
        (spin, "livelock", "spin"),
        (spin_deaf, "livelock", "spin"),
        (tick, "time limit", "tick"),
    ],
)
def test_a_run_that_cannot_end_is_ended(
    backend: str, scenario: Callable[[], Awaitable[None]], reason: str, place: str
) -> None:
    """Planted: deadlocks, livelocks and a clock that ticks for ever, also behind a shield."""
    with pytest.raises(Stuck, match=rf"(?s){reason}.*seed=3.*task.*{place}"):
        run(backend, scenario, seed=3, steps=2000, seconds=3600)
    gc.collect()  # what was abandoned is finalised here and not in some later test


@pytest.mark.usefixtures("impatient")
@both_backends
def test_waiting_for_a_thread_has_a_limit_in_real_time(backend: str) -> None:
    """A thread that never comes back is named, with its stack."""
    stop = threading.Event()

    async def scenario() -> None:
        await anyio.to_thread.run_sync(stop.wait, abandon_on_cancel=True)

    try:
        with pytest.raises(Stuck, match=r"(?s)0.05 real seconds.*waiting for .*thread.*in wait"):
            run(backend, scenario, patience=0.05)
    finally:
        stop.set()


@both_backends
def test_files_are_listened_to_without_timers(backend: str) -> None:
    """Waiting for a file alone is no deadlock."""

    async def scenario() -> bytes:
        read, write = os.pipe()

        def answer() -> None:
            os.write(write, b"x")

        timer = threading.Timer(0.02, answer)
        try:
            timer.start()
            await anyio.wait_readable(read)
            return os.read(read, 1)
        finally:
            timer.join()
            os.close(read)
            os.close(write)

    assert run(backend, scenario) == b"x"


@both_backends
def test_errors_name_their_schedule(backend: str) -> None:
    """The user's own error comes out unchanged but for a note."""

    async def scenario() -> None:
        raise PlannedError

    with pytest.raises(PlannedError) as caught:
        run(backend, scenario, seed=7, lag=0.5)
    assert caught.value.__notes__ == [f"run with: {backend!r}, seed=7, lag=0.5"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio's eager tasks came with 3.12")
def test_eager_tasks() -> None:
    """A new task's first step is made by whoever starts it."""

    async def scenario() -> bool:
        begun: list[bool] = []

        async def begin() -> None:
            begun.append(True)

        # Not a task group of anyio's, which would see to it that nothing is eager.
        task = asyncio.get_running_loop().create_task(begin())
        begun.append(False)
        await task
        return begun[0]

    assert run("asyncio", scenario, eager=True)
    assert not run("asyncio", scenario)


@pytest.mark.parametrize(
    ("backend", "settings"),
    [("curio", {}), ("trio", {"lag": 0.1}), ("trio", {"eager": True}), ("uvloop", {"seed": 1})],
)
def test_schedules_refuse_what_cannot_be(backend: str, settings: dict[str, Any]) -> None:
    """Unknown backends, lag without a seed, eager tasks on trio."""
    with pytest.raises(ValueError, match=r"backend must|seed|eager"):
        Schedule(backend, **settings)


def test_trio_is_left_as_it_was() -> None:
    """Neither the scheduler's random numbers nor its mode stay changed."""
    run_module: Any = trio._core._run
    before = run_module._r.getstate(), run_module._ALLOW_DETERMINISTIC_SCHEDULING
    run("trio", ring, seed=1)
    assert (run_module._r.getstate(), run_module._ALLOW_DETERMINISTIC_SCHEDULING) == before


# ---------------------------------------------------------------- under anyio's pytest plugin


@pytest.fixture(params=harness.BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """This module's own: shuffled order and virtual time."""
    return harness.backend_options(request.param, seed=4, lag=0.2)


async def test_the_plugin_runs_tests_in_virtual_time() -> None:
    """The options work as an `anyio_backend`."""
    began = anyio.current_time()
    await anyio.sleep(1000)
    assert anyio.current_time() - began == 1000
    assert await anyio.to_thread.run_sync(lambda: 5) == 5


@pytest.mark.xfail(raises=Stuck, strict=True)
@pytest.mark.parametrize("scenario", [wait_for_each_other, anyio.sleep_forever])
async def test_the_plugin_ends_a_deadlocked_test(scenario: Callable[[], Awaitable[None]]) -> None:
    """It fails with the stacks instead of hanging."""
    try:
        await scenario()
    except BaseExceptionGroup as group:  # trio's main task hears of it in its task group
        raise group.exceptions[0] from None


# ---------------------------------------------------------------- sweeps


@pytest.mark.parametrize(
    ("backend", "seed"), [*((loop, None) for loop in LOOPS), *((one, 1) for one in BACKENDS)]
)
def test_a_sweep_meets_every_point_once(backend: str, seed: int | None) -> None:
    """From 0 to the number of points, each acted at, until there are no more."""
    points = count_points(backend, ring, seed=seed)
    swept = list(sweep(backend, lambda: ring, cancel_scope, seed=seed))
    assert [k for k, _ in swept] == list(range(points + 1))
    assert all(outcome.acted and outcome.where for _, outcome in swept)


@all_loops
def test_cancelled_before_the_scenario_nothing_of_it_runs_past_a_checkpoint(backend: str) -> None:
    """Point 0 is a scope that is cancelled already."""
    reached: list[str] = []

    async def scenario() -> None:
        reached.append("begin")
        await checkpoint()
        reached.append("end")

    outcome = harness.act_at(backend, scenario, 0, cancel_scope)
    assert outcome.cancelled
    assert reached == ["begin"]


@pytest.mark.slow
@all_loops
def test_a_sweep_finds_the_item_that_a_naive_queue_loses(backend: str) -> None:
    """Planted: an item handed over but not yet taken is lost when cancelled, at some points."""

    def losing(make_queue: Callable[[], NaiveQueue]) -> list[int]:
        points = []
        for k, outcome in sweep(backend, lambda: Transfer(make_queue()), cancel_scope):
            outcome.check()
            assert isinstance(outcome.scenario, Transfer)
            if outcome.scenario.lost():
                points.append(k)
        return points

    total = count_points(backend, Transfer(NaiveQueue()))
    lost = losing(NaiveQueue)
    assert lost
    assert len(lost) < total
    assert losing(SoundQueue) == []


def test_native_cancellation_is_an_error_of_the_scenario() -> None:
    """asyncio's own cancellation comes out as `CancelledError`; it leaves nothing behind."""
    for backend in sorted({*LOOPS} - {"trio"}):
        kinds = set()
        for _, outcome in sweep(backend, lambda: ring, native_cancel):
            outcome.check()
            kinds.add(type(outcome.error))
        assert kinds in ({asyncio.CancelledError, type(None)}, {asyncio.CancelledError})
    with pytest.raises(ValueError, match="only asyncio"):
        harness.act_at("trio", ring, 1, native_cancel)


class Stopping:
    """A scenario that an action reaches into."""

    def __init__(self) -> None:
        self.stop_now: anyio.Event | None = None
        self.leave = False
        self.stopped = False
        self.rounds = 0

    async def __call__(self) -> int:
        self.stop_now = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.stop, self.stop_now)
            while not self.leave and self.rounds < 10:
                self.rounds += 1
                await checkpoint()
            tasks.cancel_scope.cancel()
        return self.rounds

    async def stop(self, when: anyio.Event) -> None:
        await when.wait()
        await checkpoint()
        self.stopped = True

    def start_stop(self) -> None:
        if self.stop_now is not None:
            self.stop_now.set()


@all_loops
def test_an_action_may_set_flags_and_start_tasks(backend: str) -> None:
    """Leaving by a flag, and calling an async method, from between two steps."""

    def leave(scenario: Stopping) -> None:
        scenario.leave = True

    rounds = set()
    for _, outcome in sweep(backend, Stopping, call(leave)):
        outcome.check()
        rounds.add(outcome.unwrap())
    assert rounds >= set(range(1, 11))

    stopped = 0
    for _, outcome in sweep(backend, Stopping, call(Stopping.start_stop)):
        outcome.check()
        assert isinstance(outcome.scenario, Stopping)
        stopped += outcome.scenario.stopped
    assert stopped >= 5


@all_loops
def test_an_action_that_fails_is_the_outcome(backend: str) -> None:
    """What an action raises ends the run and is told."""

    def fail(_scenario: object) -> None:
        raise PlannedError

    outcome = harness.act_at(backend, ring, 3, call(fail))
    assert isinstance(outcome.error, PlannedError)


@all_loops
def test_two_actions_at_one_point(backend: str) -> None:
    """One after the other."""
    done: list[str] = []
    action = harness.both(
        call(lambda s: done.append("first")), call(lambda s: done.append("second"))
    )
    harness.act_at(backend, ring, 2, action)
    assert done == ["first", "second"]


@needs_uvloop
def test_uvloop_makes_the_steps_of_asyncio() -> None:
    """No step goes uncounted: both loops have the same points, and the same things stand there."""

    def places(backend: str) -> list[str]:
        return [outcome.where for _, outcome in sweep(backend, lambda: ring, cancel_scope)]

    def kinds(where: list[str]) -> list[str]:
        return [re.sub(r"'[^']*'|0x\w+|\d+", "", place) for place in where]

    assert kinds(places("uvloop")) == kinds(places("asyncio"))


@needs_uvloop
def test_uvloop_runs_faster_than_time() -> None:
    """A hundred seconds pass in a tenth of one; timers are as exact as uvloop's, in milliseconds."""

    async def scenario() -> list[float]:
        began, moments = anyio.current_time(), []
        for seconds in (20, 30, 0):
            await anyio.sleep(seconds)
            moments.append(anyio.current_time() - began)
        with anyio.move_on_after(50):
            await anyio.sleep_forever()
        return [*moments, anyio.current_time() - began]

    began = time.monotonic()
    moments = run("uvloop", scenario, rate=1000.0)
    assert time.monotonic() - began < 5
    for moment, least in zip(moments, (20, 50, 50, 100), strict=True):
        assert moment > least - 5


@needs_uvloop
@pytest.mark.parametrize("scenario", [anyio.sleep_forever, wait_deaf, spin, spin_deaf])
def test_a_run_on_uvloop_that_cannot_end_is_ended(scenario: Callable[[], Awaitable[None]]) -> None:
    """By its steps or by real time: also behind a shield."""
    with pytest.raises(Stuck, match=r"livelock|0\.05 real seconds"):
        run("uvloop", scenario, steps=2000, patience=0.05)
    gc.collect()


@pytest.mark.slow
@all_loops
def test_a_point_takes_less_than_ten_milliseconds(backend: str) -> None:
    """Else nobody would sweep."""
    began = time.process_time()  # others may be busy on this machine
    points = sum(1 for _ in sweep(backend, lambda: Transfer(SoundQueue()), cancel_scope))
    assert (time.process_time() - began) / points < 0.01


# ---------------------------------------------------------------- faults


def twice(number: int) -> int:
    return 2 * number


def numbers(end: int) -> Generator[int, None, None]:
    yield from range(end)


async def async_numbers(end: int) -> AsyncGenerator[int, None]:
    for number in range(end):
        await checkpoint()
        yield number


@pytest.mark.parametrize("name", ERRORS)
@both_backends
def test_each_error_is_raised_at_its_call(backend: str, name: str) -> None:
    """By a plain function with its own type, on the call that was named."""
    faults = Faults(Fault(2, name), backend=backend)
    double = faults.wrap(twice)
    assert double(1) == 2
    with pytest.raises(BaseException, match=r"planned|cancelled") as caught:
        double(2)
    assert double(3) == 6
    assert faults.explains(caught.value)
    assert faults.raised == [(2, "twice", caught.value)]
    if name == "cancelled":
        wanted = asyncio.CancelledError if backend == "asyncio" else trio.Cancelled
        assert caught.type is wanted


def test_wrapping_keeps_a_functions_kind() -> None:
    """Whoever asks `inspect` gets the same answer as before, and nobody gets past the fault."""
    import inspect

    async def coroutine() -> None: ...

    faults = Faults()
    for fn in (coroutine, numbers, async_numbers, len):
        wrapped = faults.wrap(fn)
        assert not hasattr(wrapped, "__wrapped__")
        assert wrapped.__name__ == fn.__name__
        for kind in ("iscoroutinefunction", "isgeneratorfunction", "isasyncgenfunction"):
            assert getattr(inspect, kind)(wrapped) == getattr(inspect, kind)(fn)


def test_plans_that_fail_onwards_in_one_place_and_again() -> None:
    """`onwards`, `on` and `after_first`."""

    def calls_that_fail(*plan: Fault) -> list[int]:
        faults = Faults(*plan)
        wrapped = [faults.wrap(len, "a"), faults.wrap(len, "b")]
        failed = []
        for number in range(1, 9):
            try:
                wrapped[number % 2](())  # b, a, b, a, ...
            except PlannedError:
                failed.append(number)
        return failed

    assert calls_that_fail(Fault(6, onwards=True)) == [6, 7, 8]
    assert calls_that_fail(Fault(2, on="a")) == [4]
    assert calls_that_fail(Fault(3), Fault(2, after_first=True)) == [3, 5]


def test_the_second_fault_may_fall_in_the_cleanup() -> None:
    """A generator's close is a call like others."""
    faults = Faults(Fault(2), Fault(1, after_first=True, error="timeout"))
    with pytest.raises(TimeoutError) as caught:
        list(faults.wrap(numbers)(3))
    assert isinstance(caught.value.__context__, PlannedError)
    assert [label for _, label, _ in faults.raised] == ["numbers.next", "numbers.close"]
    faults.check_closed()


@both_backends
@pytest.mark.parametrize("bug", ["", "twice", "never", "other task"])
def test_books_of_what_was_opened(backend: str, bug: str) -> None:
    """Planted: an iterator closed twice, not at all, or by another task."""
    faults = Faults(backend=backend)

    async def scenario() -> None:
        iterator = aiter(faults.async_iterable(range(5), "source"))
        assert await anext(iterator) == 0
        if bug == "other task":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(iterator.aclose)
        elif bug != "never":
            await iterator.aclose()
            if bug == "twice":
                await iterator.aclose()

    run(backend, scenario)
    if not bug:
        faults.check_closed()
    else:
        message = {"twice": "closed 2 times", "never": "not closed, after 1", "other task": "begun"}
        with pytest.raises(AssertionError, match=message[bug]):
            faults.check_closed()


@both_backends
def test_a_fault_sweep_finds_a_swallowed_error(backend: str) -> None:
    """Planted: a loop over a stream that takes a user's EndOfStream for the end of its input."""

    def make(faults: Faults, careful: bool) -> Callable[[], Awaitable[list[int]]]:
        double = faults.wrap(twice)

        async def scenario() -> list[int]:
            send, receive = anyio.create_memory_object_stream[int](5)
            results: list[int] = []
            with send, receive:
                for n in range(5):
                    send.send_nowait(n)
                send.close()
                while True:
                    try:
                        item = await receive.receive()
                        if not careful:
                            results.append(double(item))
                    except anyio.EndOfStream:
                        return results
                    if careful:
                        results.append(double(item))

        return scenario

    def silent(careful: bool) -> list[str]:
        wrong = []
        for faults, outcome in fault_sweep(backend, partial(make, careful=careful)):
            outcome.check()
            if not faults.explains(outcome.error):
                wrong.append(str(faults.plan[0].error))
        return wrong

    assert silent(careful=False) == ["end_of_stream"] * 5
    assert silent(careful=True) == []


@both_backends
@pytest.mark.parametrize("plans", [harness.double_faults, harness.lasting_faults])
def test_fault_sweeps_close_generators(backend: str, plans: Any) -> None:
    """Whatever fails, once or again, a generator that is closed properly shows as closed once."""

    def make(faults: Faults) -> Callable[[], Awaitable[int]]:
        source = faults.wrap(async_numbers)

        async def scenario() -> int:
            generator = source(3)
            try:
                return sum([number async for number in generator])
            finally:
                await generator.aclose()

        return scenario

    swept = list(fault_sweep(backend, make, plans))
    assert len(swept) >= 5
    for faults, outcome in swept:
        outcome.check()
        faults.check_closed()
        assert faults.explains(outcome.error)


# ---------------------------------------------------------------- leaks


def leak_of(outcome: Outcome[Any]) -> str:
    with pytest.raises(AssertionError) as caught:
        outcome.check()
    return str(caught.value)


def test_a_leaked_task_is_named() -> None:
    """Planted: a bare asyncio task that outlives the scenario."""

    async def scenario() -> None:
        task = asyncio.get_running_loop().create_task(anyio.sleep(1000), name="forgotten")
        await checkpoint()
        kept.append(task)

    kept: list[Any] = []
    assert "task 'forgotten' at" in leak_of(observe("asyncio", scenario))


def test_a_leaked_system_task_is_named() -> None:
    """Planted: trio's way out of its own rules."""

    async def scenario() -> None:
        trio.lowlevel.spawn_system_task(trio.sleep, 1000, name="forgotten")
        await checkpoint()

    assert "task 'forgotten' at" in leak_of(observe("trio", scenario))


@both_backends
@pytest.mark.parametrize("dropped", [True, False])
def test_an_unclosed_stream_is_named(backend: str, dropped: bool) -> None:
    """Planted: one end closed, the other not, kept or dropped."""
    kept: list[Any] = []

    async def scenario() -> None:
        send, receive = anyio.create_memory_object_stream[int](1)
        send.close()
        if not dropped:
            kept.append(receive)

    message = leak_of(observe(backend, scenario))
    assert "MemoryObjectReceiveStream not closed, made at" in message
    assert "test_harness.py" in message
    assert "SendStream" not in message


@both_backends
@pytest.mark.parametrize("dropped", [True, False])
def test_an_unfinished_async_generator_is_named(backend: str, dropped: bool) -> None:
    """Planted: a `break` out of an `async for`."""
    kept: list[Any] = []

    async def scenario() -> None:
        generator = async_numbers(3)
        async for _ in generator:
            break
        if dropped:
            del generator
        else:
            kept.append(generator)

    message = leak_of(observe(backend, scenario))
    wanted = "left to the garbage collector" if dropped else "not closed"
    assert f"async generator {wanted}: async_numbers" in message


@pytest.mark.usefixtures("impatient")
@both_backends
def test_a_thread_still_at_work_is_named(backend: str) -> None:
    """Planted: a call abandoned in its thread."""
    stop = threading.Event()

    async def scenario() -> None:
        with anyio.move_on_after(0.01):
            await anyio.to_thread.run_sync(stop.wait, abandon_on_cancel=True)

    try:
        assert "still at work: " in leak_of(observe(backend, scenario))
    finally:
        stop.set()


def test_an_unbalanced_cancellation_is_named() -> None:
    """Planted: a native cancellation swallowed and never taken back."""

    async def scenario() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await checkpoint()
        except asyncio.CancelledError:
            pass

    assert "1 requests to cancel" in leak_of(observe("asyncio", scenario))


@both_backends
@pytest.mark.parametrize("error", [PlannedError, GeneratorExit, SystemExit])
def test_leaks_are_told_beside_an_error(backend: str, error: type[BaseException]) -> None:
    """A scenario that fails is looked at like one that returns."""

    async def scenario() -> None:
        anyio.create_memory_object_stream[int](1)
        raise error

    outcome = observe(backend, scenario)
    assert isinstance(outcome.error, error)
    assert len(outcome.leaks) == 2


@both_backends
def test_a_clean_block_has_no_leaks(backend: str) -> None:
    """Tasks, streams, threads and generators that ended are not mentioned."""

    async def scenario() -> None:
        with no_leaks():
            send, receive = anyio.create_memory_object_stream[int](1)
            async with anyio.create_task_group() as tasks:
                with send, receive:
                    tasks.start_soon(anyio.sleep, 1)
                    await anyio.to_thread.run_sync(lambda: None)
            assert [n async for n in async_numbers(2)] == [0, 1]

    observe(backend, scenario).check()
    run(backend, scenario)


@both_backends
def test_a_leak_is_noted_on_an_error_and_never_replaces_it(backend: str) -> None:
    """The user's own error goes first."""

    async def scenario() -> None:
        with no_leaks():
            anyio.create_memory_object_stream[int](1)
            raise PlannedError

    with pytest.raises(PlannedError) as caught:
        run(backend, scenario)
    assert "MemoryObjectSendStream not closed" in "".join(caught.value.__notes__)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_snapshots_see_files_threads_streams_and_generators() -> None:
    """What is new is named by kind."""
    before = Snapshot.take()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="lingering")
    thread.start()
    read, write = os.pipe()
    send, receive = anyio.create_memory_object_stream[int](1)
    new = "\n".join(Snapshot.take().since(before))
    assert "threads: lingering" in new
    assert new.count("files: ") == 2
    assert "streams: MemoryObjectSendStream" in new
    with pytest.raises(AssertionError, match="threads: lingering"):
        harness.assert_nothing_since(before)

    stop.set()
    for stream in (send, receive):
        stream.close()
    os.close(read)
    os.close(write)
    harness.assert_nothing_since(before)


@pytest.mark.slow
@both_backends
def test_runs_with_threads_leave_no_new_threads_but_idle_ones(backend: str) -> None:
    """Workers that anyio and trio keep or let go are not leaks."""
    before = Snapshot.take()

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(anyio.to_thread.run_sync, time.sleep, 0.001)

    run(backend, scenario)
    harness.assert_nothing_since(before)


@pytest.mark.slow
def test_snapshots_see_tasks_that_a_closed_loop_left() -> None:
    """Planted: a loop closed over a pending task."""
    before = Snapshot.take()
    loop = asyncio.new_event_loop()
    task = loop.create_task(asyncio.sleep(1000), name="orphan")
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert "tasks: orphan" in "\n".join(Snapshot.take().since(before))
    task._log_destroy_pending = False  # type: ignore[attr-defined] # the leak is the point
    del task


@pytest.mark.slow
@both_backends
def test_a_soak_finds_what_grows_with_each_run(backend: str) -> None:
    """Planted: a list that keeps one object a run; without it nothing grows."""

    class Kept: ...

    kept: list[Kept] = []

    async def scenario() -> None:
        await ring()
        if leaking:
            kept.append(Kept())

    leaking = True
    with pytest.raises(AssertionError, match=r"Kept, 1\.0 a call"):
        soak(lambda: run(backend, scenario), rounds=10, warm_up=5, blocks_each=1000)
    leaking = False
    soak(lambda: run(backend, scenario), rounds=10, warm_up=5, blocks_each=50)


def test_plain_generators_are_booked() -> None:
    """Closed once whether they ended or were closed early."""
    faults = Faults()
    wrapped = faults.wrap(numbers)
    assert list(wrapped(3)) == [0, 1, 2]
    early = wrapped(3)
    next(early)
    with pytest.raises(AssertionError, match="not closed, after 1 values"):
        faults.check_closed()
    early.close()
    faults.check_closed()
    assert [(book.values, book.exhausted) for book in faults.opened] == [(3, True), (1, False)]


def test_what_a_thread_began_is_closed_in_one() -> None:
    """Whichever: but not on the event loop, which it might hold up."""
    faults = Faults()
    generators = [faults.wrap(numbers)(3) for _ in range(2)]

    async def scenario(closed_in_a_thread: bool) -> None:
        generator = generators.pop()
        await anyio.to_thread.run_sync(next, generator)
        if closed_in_a_thread:
            await anyio.to_thread.run_sync(generator.close)
        else:
            generator.close()

    run("asyncio", partial(scenario, True))
    faults.check_closed()
    run("asyncio", partial(scenario, False))
    with pytest.raises(AssertionError, match=r"begun by thread .*, closed by task"):
        faults.check_closed()


@all_loops
def test_an_outcome_keeps_nothing_of_its_run(backend: str) -> None:
    """Its error is there, and not what the frames in the traceback held: sweeps have thousands."""

    class Big:
        pass

    kept: list[weakref.ref[Big]] = []

    async def scenario() -> None:
        big = Big()
        kept.append(weakref.ref(big))
        async with anyio.create_task_group():
            raise PlannedError

    outcome = observe(backend, scenario)
    assert outcome.error is not None
    gc.collect()
    assert kept[0]() is None


def test_a_soak_ends_when_its_time_is_over() -> None:
    """It tells how much it did."""
    calls: list[int] = []

    def once() -> None:
        calls.clear()
        time.sleep(0.001)

    # Over so few rounds the blocks say nothing.
    assert 1 <= soak(once, rounds=10**9, warm_up=1, seconds=0.05, blocks_each=1e4) < 10**4
    assert soak(once, rounds=2, warm_up=1, blocks_each=1e4) == 2
