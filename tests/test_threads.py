"""Stages in threads: seats, batching, timeouts, and threads that cannot be cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Graph, Input, Retry, StageTimeout, Threads, source
from flowstage._engine import seats
from flowstage._engine.bursts import BurstOffload
from flowstage._live import Live

from .accounts import check_accounts, settle, soon


class Crowd:
    """Counts how many threads are inside at once; keeps them there while the gate is closed."""

    def __init__(self, *, closed: bool = False) -> None:
        self._lock = threading.Lock()
        self.inside = self.most = self.came = 0
        self.gate = threading.Event()
        if not closed:
            self.gate.set()

    def __enter__(self) -> None:
        with self._lock:
            self.came += 1
            self.inside += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.inside -= 1

    def visit(self, item: Any) -> Any:
        with self:
            assert self.gate.wait(5)
            time.sleep(0.0005)
        return item

    async def wait_for(self, number: int) -> None:
        while self.inside < number:
            await anyio.sleep(0.001)


async def until(condition: Any) -> None:
    while not condition():
        await anyio.sleep(0.001)


OPTIONS: dict[str, dict[str, Any]] = {
    "batched": {},
    "unordered": {"ordered": False},
    "timeout": {"timeout": 9},
    "retry": {"retry": Retry(2)},
    "narrow": {"concurrency": 2},
    "wide": {"concurrency": 8},
}


class Watcher:
    """An observer, so that a stage makes its calls one by one."""

    def after_stage(self, *_: Any) -> None:
        """Take no notice."""


CAREFUL: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "bare": ({}, []),
    "timeout": ({"timeout": 99}, []),
    "retry": ({"retry": Retry(2)}, []),
    "observed": ({}, [Watcher()]),
    "all": ({"timeout": 99, "retry": Retry(2)}, [Watcher()]),
}
EVERY_CARE = pytest.mark.parametrize(("options", "observers"), CAREFUL.values(), ids=CAREFUL)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
async def test_results_and_limit(options: dict[str, Any]) -> None:
    """All results, in order unless it was waived; never more threads than seats or concurrency."""
    crowd = Crowd()
    with soon():
        flow = source(range(40)).map(crowd.visit, on=Threads(3), **options)
        async with flow.open(buffer=10) as run:
            got = [item async for item in run]
    assert (got if options.get("ordered", True) else sorted(got)) == list(range(40))
    assert crowd.most <= min(3, options.get("concurrency", 3))
    check_accounts(run.report(), over=True)


@pytest.mark.parametrize("verb", ["map", "filter", "tap", "flat_map"])
@pytest.mark.parametrize("options", [{}, {"timeout": 9}, {"ordered": False}, {"retry": Retry(2)}])
async def test_every_verb(verb: str, options: dict[str, Any]) -> None:
    """All verbs that call a function work in threads, and say the same as inline."""
    functions: dict[str, Any] = {
        "map": lambda item: item * 2,
        "filter": lambda item: item % 3,
        "tap": lambda item: None,
        "flat_map": lambda item: (item for _ in range(item % 3)),
    }
    flow = Input[int]()
    inline = await getattr(flow, verb)(functions[verb]).collect(range(20))
    with soon():
        threaded = getattr(flow, verb)(functions[verb], on=Threads(2), **options)
        got = await threaded.collect(range(20))
    assert sorted(got) == sorted(inline)
    if options.get("ordered", True):
        assert got == inline


async def test_one_place_is_one_capacity_for_stages_and_runs() -> None:
    """Two stages and two runs that name one place share its seats."""
    crowd, place = Crowd(), Threads(2)
    flow = source(range(12)).map(crowd.visit, on=place).map(crowd.visit, on=place, concurrency=4)
    with soon():
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(flow.collect)
    assert crowd.most <= 2
    assert crowd.came == 48


async def test_two_places_are_two_capacities() -> None:
    """Places are compared by identity."""
    crowd = Crowd(closed=True)
    line = Input[int]()
    with soon():
        async with (
            line.map(crowd.visit, on=Threads(1)).open([1]) as one,
            line.map(crowd.visit, on=Threads(1)).open([1]) as other,
        ):
            await crowd.wait_for(2)
            crowd.gate.set()
            assert [item async for item in one] == [item async for item in other] == [1]


@pytest.mark.parametrize("options", [{}, {"timeout": 99}])
async def test_an_interrupted_thread_keeps_its_seat(options: dict[str, Any]) -> None:
    """The limit holds while threads of an old epoch run on."""
    crowd, place = Crowd(closed=True), Threads(2)
    with soon():
        async with Input[int]().map(crowd.visit, on=place, **options).open() as run:
            for number in range(4):
                run.send_nowait(number)
            await crowd.wait_for(2)
            for _ in range(3):
                run.interrupt()
                run.send_nowait(100)
                await anyio.sleep(0.003)
            assert crowd.came == 2
            crowd.gate.set()
            run.finish()
            assert [item async for item in run] == [100]
    assert crowd.most == 2
    check_accounts(run.report(), over=True)


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_timed_out_thread_keeps_its_seat_and_its_slot(ordered: bool) -> None:
    """The timeout is told at once; the next call begins when the thread has really ended."""
    crowd = Crowd(closed=True)

    def visit(item: int) -> int:
        return crowd.visit(item) if item < 2 else item

    with soon():
        flow = Input[int]().map(visit, on=Threads(2), timeout=0.2, on_error="emit", ordered=ordered)
        async with flow.open() as run:
            for number in range(4):
                run.send_nowait(number)
            run.finish()
            events = run.events()
            failures = [await anext(events), await anext(events)]
            assert crowd.inside == 2
            assert sorted(failure.item for failure in failures) == [0, 1]
            assert all(isinstance(failure.error, StageTimeout) for failure in failures)
            await anyio.sleep(0.003)
            assert run.report().stage("visit").taken == 2 or crowd.inside == 2
            crowd.gate.set()
            assert sorted([event async for event in events]) == [2, 3]
    assert crowd.most == 2
    assert run.failed == 2
    check_accounts(run.report(), over=True)


@pytest.mark.slow
async def test_a_late_result_is_dropped_under_skip_and_retry() -> None:
    """What a thread brings after its timeout is not given; a retry waits for the thread."""
    crowd = Crowd()
    calls = 0

    def slow_once(item: int) -> str:
        nonlocal calls
        calls += 1
        with crowd:
            if calls == 1:
                time.sleep(0.3)
        return f"{item} at call {calls}"

    with soon():
        flow = Input[int]().map(slow_once, on=Threads(2), timeout=0.2, retry=Retry(2))
        assert await flow.collect([7]) == ["7 at call 2"]
    assert crowd.most == 1


@pytest.mark.slow
async def test_check_cancelled_works() -> None:
    """A function that asks learns of a timeout, an interrupt and the end of the run."""
    begun: list[str] = []
    learnt: list[str] = []

    def ask(reason: str) -> str:
        if reason == "go":
            return reason
        begun.append(reason)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                anyio.from_thread.check_cancelled()
            except BaseException:
                learnt.append(reason)
                raise
            time.sleep(0.001)
        raise AssertionError("was not told")

    with soon():
        flow = Input[str]().map(ask, on=Threads(1), timeout=0.2, on_error="skip")
        assert await flow.collect(["timeout", "go"]) == ["go"]
    for options in ({}, {"timeout": 99}):
        with soon():
            async with Input[str]().map(ask, on=Threads(1), **options).open() as run:
                run.send_nowait("interrupt")
                await until(lambda: begun[-1] == "interrupt")
                run.interrupt()
                run.send_nowait("go")
                async for item in run:
                    assert item == "go"
                    break
                run.send_nowait("end")
                await until(lambda: begun[-1] == "end")
    assert learnt == ["timeout", "interrupt", "end", "interrupt", "end"]


async def test_a_seat_is_not_held_while_waiting_to_give() -> None:
    """A stage that nobody reads leaves its seat to another run."""
    place = Threads(1)

    def many(item: int) -> Iterator[int]:
        yield from range(2000)

    for flow in (
        Input[int]().map(lambda item: item, on=place),
        Input[int]().flat_map(many, on=place),
        Input[int]().map(lambda item: item, on=place, timeout=9),
    ):
        with soon():
            async with flow.open(range(50), buffer=2) as run:
                await until(lambda run=run: run.report().stages[1].given >= 2)
                assert await Input[int]().map(abs, on=place).collect([-1]) == [1]
                assert len([item async for item in run]) in (50, 100_000)
                break


async def test_a_seat_is_given_back_while_a_retry_sleeps() -> None:
    """Another stage gets the seat of an item that waits for its next try."""
    place, tries = Threads(1), 0

    def fail_once(item: int) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ValueError
        return item

    with soon():
        again = Retry(2, delay=3600)
        async with Input[int]().map(fail_once, on=place, retry=again).open([1]) as run:
            await until(lambda: run.report().stage("fail_once").retries)
            assert await Input[int]().map(abs, on=place).collect([-1]) == [1]
            assert tries == 1
            assert run.interrupt() == 1


async def test_calls_are_batched() -> None:
    """Cheap items go many to a thread call, and are still counted one by one."""
    threads: list[int] = []

    def cheap(item: int) -> int:
        threads.append(threading.get_ident())
        return item

    with soon():
        report = await Input[int]().map(cheap, on=Threads(2)).drain(range(2000))
    assert len(threads) == 2000
    assert report.stage("cheap").done == 2000
    assert threading.get_ident() not in threads


async def test_a_quick_result_is_not_held_up_by_what_has_not_come() -> None:
    """A call never waits to fill: one item goes through alone."""
    with soon():
        async with Input[int]().map(abs, on=Threads(2)).open() as run:
            for number in range(5):
                await run.send(-number)
                async for item in run:
                    assert item == number
                    break


async def test_errors_in_a_batch_are_single() -> None:
    """Skips and failures of a batch concern their item alone and keep its place."""

    def picky(item: int) -> int:
        if item % 3 == 0:
            raise ValueError(item)
        return item

    with soon():
        flow = Input[int]().map(picky, on=Threads(2))
        assert await flow.collect(range(20), on_error="skip") == [n for n in range(20) if n % 3]
        got = await flow.collect(range(20), on_error="emit")
    assert [getattr(item, "item", item) for item in got] == list(range(20))


async def test_a_coroutine_from_a_thread() -> None:
    """An async function in disguise is closed and reported, with the remedy."""

    async def fetch(item: int) -> int:
        return item

    with soon(), pytest.raises(TypeError, match=r"stage 'lambda' .*coroutine.*leave out on="):
        await Input[int]().map(lambda item: fetch(item), on=Threads(1)).collect([1])
    with soon(), pytest.raises(TypeError, match=r"flat_map"):
        await Input[int]().flat_map(lambda item: fetch(item), on=Threads(1)).collect([1])


async def test_leaving_the_run_waits_for_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    """No thread runs the run's code when the block is left; the wait is named after a while."""
    crowd = Crowd(closed=True)
    for options in ({}, {"timeout": 99}):
        crowd.gate.clear()
        caplog.clear()
        with soon(), caplog.at_level(logging.WARNING, "flowstage"):
            flow = Input[int]().map(crowd.visit, on=Threads(1), **options)
            async with flow.open(close_timeout=0.02) as run:
                run.send_nowait(5)
                await crowd.wait_for(1)
                timer = threading.Timer(0.05, crowd.gate.set)
                timer.start()
            assert crowd.inside == 0
        assert "stage 'visit'" in caplog.text
        assert " 5 " in caplog.text
        timer.join()
        check_accounts(run.report(), over=True)


async def test_nobody_wants_more() -> None:
    """When downstream has had enough, a thread in flight is waited for; its error is dropped."""
    crowd = Crowd(closed=True)

    def late(item: int) -> int:
        if item:
            crowd.visit(item)
            raise ValueError("too late")
        return item

    async def first(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            await crowd.wait_for(1)
            yield item
            return

    for options in ({}, {"timeout": 99}, {"ordered": False}):
        crowd.gate.clear()
        with soon():
            flow = Input[int]().map(late, on=Threads(2), **options).transform(first)
            async with flow.open([0, 1, 1, 1]) as run:
                assert [item async for item in run] == [0]
                crowd.gate.set()
            assert run.failed == 0
        check_accounts(run.report(), over=True)


@pytest.mark.parametrize("verb", ["map", "filter", "flat_map"])
@pytest.mark.parametrize("ordered", [True, False])
@EVERY_CARE
async def test_a_call_is_told_that_nobody_wants_more(
    verb: str, ordered: bool, options: dict[str, Any], observers: list[Any]
) -> None:
    """By a closed output as by a stage below that ends; its seat is free as soon as it ends."""
    place = Threads(2)
    at_it = threading.Event()
    told: list[int] = []

    def ask(item: int) -> Any:
        end = time.monotonic() + 5
        while item and time.monotonic() < end:
            at_it.set()
            try:
                anyio.from_thread.check_cancelled()
            except BaseException:
                told.append(item)
                raise
            time.sleep(0.001)
        return [item] if verb == "flat_map" else not item

    async def first(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            await until(at_it.is_set)
            yield item
            return

    numbers = Input[int]()
    asked = getattr(numbers, verb)(ask, on=place, ordered=ordered, name="ask", **options)
    with soon():
        async with Graph(asked=asked, others=numbers).open(observers=observers) as run:
            await run.send(1)
            await until(at_it.is_set)
            run.output("asked").close()
            await until(lambda: place.seats().borrowed_tokens == 0)
            await run.send(2)
            run.finish()
            assert [item async for item in run.output("others")] == [1, 2]
            check_accounts(run.report())
        assert told == [1]
        assert run.failed == 0
        check_accounts(run.report(), over=True)
        at_it.clear()
        async with asked.transform(first).open(observers=observers) as run:
            await run.feed([0, 3])
            assert len([item async for item in run]) == 1
            await until(lambda: place.seats().borrowed_tokens == 0)
        assert told == [1, 3]
        check_accounts(run.report(), over=True)


@EVERY_CARE
async def test_calls_go_on_while_their_failures_are_wanted(
    options: dict[str, Any], observers: list[Any]
) -> None:
    """A closed output does not cancel what another branch still has a use for."""
    at_it, go = threading.Event(), threading.Event()
    told: list[int] = []

    def fail(item: int) -> int:
        at_it.set()
        assert go.wait(5)
        try:
            anyio.from_thread.check_cancelled()
        except BaseException:
            told.append(item)
            raise
        raise ValueError(item)

    flow = Input[int]().map(fail, on=Threads(1), **options)
    with soon():
        graph = Graph(good=flow, bad=flow.failures())
        async with graph.open(on_error="skip", observers=observers) as run:
            await run.feed([1, 2])
            await until(at_it.is_set)
            run.output("good").close()
            await settle()
            go.set()
            run.finish()
            assert [failure.item async for failure in run.output("bad")] == [1, 2]
    assert told == []
    check_accounts(run.report(), over=True)


async def test_a_lazy_generator_in_a_thread() -> None:
    """Values are pulled as they are given on, and the generator is closed when nobody wants more."""
    pulled: list[int] = []
    closed: list[bool] = []

    def forever(item: int) -> Iterator[int]:
        try:
            while True:
                pulled.append(1)
                yield len(pulled)
        finally:
            closed.append(True)

    for options in ({}, {"concurrency": 2}, {"retry": Retry(2)}):
        pulled.clear()
        closed.clear()
        with soon():
            flow = Input[int]().flat_map(forever, on=Threads(2), **options)
            async with flow.open([0], buffer=2) as run:
                async for item in run:
                    if item == 700:
                        break
                assert len(pulled) <= 700 + 2 * 256 + 4
            assert closed == [True]


async def test_context_variables_reach_threads() -> None:
    """They are those of the task that entered `open()`."""
    variable = contextvars.ContextVar("variable", default="outside")
    variable.set("at open")
    with soon():
        async with Input[int]().map(lambda item: variable.get(), on=Threads(1)).open() as run:
            variable.set("later")
            run.send_nowait(1)
            run.finish()
            assert [item async for item in run] == ["at open"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_a_program_comes_bare(error: type[BaseException]) -> None:
    """From a thread too, and never skipped or tried again."""

    def end(item: int) -> int:
        raise error("now")

    for options in ({}, {"timeout": 9}, {"retry": Retry(3)}, {"on_error": "skip"}):
        for verb in ("map", "flat_map"):
            if verb == "flat_map" and "timeout" in options:
                continue
            with soon(), pytest.raises(error, match="now"):
                await getattr(Input[int](), verb)(end, on=Threads(2), **options).collect([1, 2])


async def test_one_place_serves_one_loop_after_another() -> None:
    """A module's place is used by tests on three backends; here it just works again."""
    with soon():
        assert await Input[int]().map(abs, on=MODULE_PLACE).collect([-1]) == [1]


MODULE_PLACE = Threads(1)


async def test_a_source_and_a_stage_share_one_seat() -> None:
    """Neither holds the seat while it waits for the other."""
    place = Threads(1)
    with soon():
        flow = source(range(100), on=place).map(lambda item: item, on=place)
        assert await flow.collect(buffer=1) == list(range(100))
    await settle(1)


async def test_many_in_flight_are_let_go_at_once() -> None:
    """Leaving does not begin what has not begun."""
    crowd = Crowd(closed=True)
    with soon():
        async with Input[int]().map(crowd.visit, on=Threads(4)).open(range(1000)) as run:
            await crowd.wait_for(4)
            threading.Timer(0.01, crowd.gate.set).start()
    assert crowd.came <= 4
    check_accounts(run.report(), over=True)


@pytest.mark.slow
async def test_flat_map_is_timed_in_threads_too() -> None:
    """Per value: what came before is given, the item fails, the generator is closed when it can be."""
    crowd = Crowd()
    closed: list[int] = []

    def values(item: int) -> Iterator[int]:
        try:
            yield item
            yield item + 1
            if item == 10:
                crowd.gate.wait(5)
            yield item + 2
        finally:
            closed.append(item)

    for options in ({}, {"retry": Retry(3)}, {"ordered": False}):
        crowd.gate.clear()
        closed.clear()
        with soon():
            flow = Input[int]().flat_map(values, on=Threads(1), timeout=0.2, **options)
            async with flow.open([10, 20], on_error="emit") as run:
                events = []
                async for event in run.events():
                    events.append(event)
                    if len(events) == 3:
                        crowd.gate.set()
            check_accounts(run.report(), over=True)
        assert [getattr(event, "item", event) for event in events] == [10, 11, 10, 20, 21, 22]
        assert isinstance(events[2].error, StageTimeout)
        assert closed == [10, 20]


@pytest.mark.slow
async def test_flat_map_is_tried_again_after_a_timeout() -> None:
    """Before its first value; the late thread is waited for."""
    calls: list[int] = []

    def values(item: int) -> Iterator[int]:
        calls.append(item)
        if len(calls) == 1:
            time.sleep(0.3)
        yield item

    with soon():
        flow = Input[int]().flat_map(values, on=Threads(2), timeout=0.2, retry=Retry(2))
        assert await flow.collect([1]) == [1]
    assert calls == [1, 1]


@pytest.mark.parametrize("ordered", [True, False])
async def test_what_a_thread_would_go_on_with_is_not_begun_after_an_interrupt(
    ordered: bool,
) -> None:
    """A thread at work is given the next burst ahead; the interrupt discards it with the rest."""
    begun: list[int] = []
    at_it, go = threading.Event(), threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 300:
            at_it.set()
            assert go.wait(5)
        return item

    flow = Input[int]().map(work, on=Threads(1), ordered=ordered)
    with soon():
        async with flow.open(buffer=1000) as run:
            await run.feed(range(1000))
            await anyio.to_thread.run_sync(at_it.wait)
            dropped = run.interrupt()
            go.set()
            await run.send(-1)
            run.finish()
            assert [item async for item in run] == [-1]
    assert begun == [*range(301), -1]
    assert 699 < dropped <= 1000
    check_accounts(run.report(), over=True)


@pytest.mark.parametrize("verb", ["map", "filter", "tap", "flat_map"])
@EVERY_CARE
async def test_a_thread_that_is_slow_to_start_begins_nothing_that_was_discarded(
    verb: str, options: dict[str, Any], observers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call handed to a thread, and interrupted before the thread has come to it, is not made."""
    begun: list[int] = []
    at_it, go = threading.Event(), threading.Event()

    class SlowStart(seats.ThreadCall):
        def run(self) -> Any:
            at_it.set()
            assert go.wait(5)
            return super().run()

    def work(item: int) -> Any:
        begun.append(item)
        return [item] if verb == "flat_map" else item

    monkeypatch.setattr(seats, "ThreadCall", SlowStart)
    flow = getattr(Input[int](), verb)(work, on=Threads(1), **options)
    with soon():
        async with flow.open(observers=observers) as run:
            await run.feed([1, 2])
            await until(at_it.is_set)
            assert run.interrupt() == 2
            await run.send(3)
            go.set()
            run.finish()
            assert [item async for item in run] == [3]
    assert begun == [3]
    check_accounts(run.report(), over=True)


@pytest.mark.parametrize("verb", ["map", "flat_map"])
@EVERY_CARE
async def test_a_call_is_told_of_an_interrupt_whenever_that_comes(
    verb: str, options: dict[str, Any], observers: list[Any]
) -> None:
    """However far a call is on its way into its thread: it is not begun, or it is told."""
    place = Threads(1)
    untold: list[int] = []

    def ask(item: int) -> Any:
        end = time.monotonic() + 0.5
        while item >= 0 and time.monotonic() < end:
            anyio.from_thread.check_cancelled()
            time.sleep(0.001)
        if item >= 0:
            untold.append(item)
        return [item] if verb == "flat_map" else item

    flow = getattr(Input[int](), verb)(ask, on=place, **options)
    with soon():
        async with flow.open(observers=observers) as run:
            for turns in range(12):
                await run.send(turns)
                for _ in range(turns):
                    await checkpoint()
                run.interrupt()
                await until(lambda: place.seats().borrowed_tokens == 0)
                check_accounts(run.report())
            await run.send(-1)
            run.finish()
            assert [item async for item in run] == [-1]
    assert untold == []
    check_accounts(run.report(), over=True)


@EVERY_CARE
async def test_what_waits_for_a_seat_to_read_on_reads_nothing_after_an_interrupt(
    options: dict[str, Any], observers: list[Any]
) -> None:
    """A generator whose values so far are given is closed then, and not asked for one more."""
    place, me = Threads(1), object()
    pulled: list[int] = []
    closed: list[bool] = []

    def forever(item: int) -> Iterator[int]:
        try:
            for number in itertools.count():
                pulled.append(number)
                yield item
        finally:
            closed.append(True)

    flow = Input[int]().flat_map(forever, on=place, **options)
    with soon():
        async with flow.open(buffer=2, observers=observers) as run:
            results = aiter(run)
            await run.send(1)
            await until(lambda: pulled and place.seats().borrowed_tokens == 0)
            await settle()
            await place.seats().acquire_on_behalf_of(me)
            for _ in range(len(pulled)):
                assert await anext(results) == 1
            await until(lambda: place.seats().statistics().tasks_waiting)
            had = len(pulled)
            run.interrupt()
            place.seats().release_on_behalf_of(me)
            await until(lambda: closed)
            await until(lambda: place.seats().borrowed_tokens == 0)
            check_accounts(run.report())
    assert len(pulled) == had
    check_accounts(run.report(), over=True)


async def test_a_thread_goes_on_only_while_nobody_waits_for_its_seat() -> None:
    """However much one stage has to do, another one of the same place has its turns."""
    place, turns = Threads(1), list[str]()

    def work(name: str) -> Any:
        def fn(item: int) -> int:
            turns.append(name)
            time.sleep(0.001)
            return item

        return fn

    start = source(range(60))
    graph = Graph(
        a=start.map(work("a"), on=place, name="a"), b=start.map(work("b"), on=place, name="b")
    )
    with soon():
        results = await graph.collect()
    assert results == {"a": list(range(60)), "b": list(range(60))}
    changes = sum(one != other for one, other in pairwise(turns))
    assert changes > 10


async def test_a_slow_thread_does_not_keep_what_others_could_do() -> None:
    """What it was to go on with goes to a worker that has nothing to do."""
    at_it, go = threading.Event(), threading.Event()

    def work(item: int) -> int:
        if item == 500:
            at_it.set()
            assert go.wait(5)
        return item

    flow = Input[int]().map(work, on=Threads(2), ordered=False)
    with soon():
        async with flow.open(buffer=2000) as run:
            await run.feed(range(2000))
            run.finish()
            await anyio.to_thread.run_sync(at_it.wait)
            done: list[int] = []
            async for item in run:
                done.append(item)
                stage = run.report().stage("work")
                if not run.report().edges[0].inside and stage.in_hand <= 256:
                    break
            go.set()
            done += [item async for item in run]
    assert sorted(done) == list(range(2000))


async def test_a_slow_thread_keeps_its_own_burst_alone_while_others_are_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it was to go on with is soon done by others, though they have enough to do."""
    bursts: list[list[int]] = []
    original = BurstOffload.do_burst

    def do_burst(self: BurstOffload, values: Any) -> Any:
        bursts.append([*values])
        return original(self, values)

    monkeypatch.setattr(BurstOffload, "do_burst", do_burst)

    async def kept() -> int:
        """Read on past a call that hangs; give how many items of its thread are not done."""
        stuck, go = list[int](), threading.Event()

        def work(item: int) -> int:
            if item > 1000 and not stuck:
                stuck.append(item)
                assert go.wait(5)
            return item

        bursts.clear()
        seen: set[int] = set()
        async with source(itertools.count()).map(work, on=Threads(2), ordered=False).open() as run:
            async for item in run:
                seen.add(item)
                if stuck and item > stuck[0] + 20_000:
                    break
            (own,) = (burst for burst in bursts if stuck[0] in burst)
            missing = {*range(stuck[0] + 2000)} - seen
            go.set()
            run.interrupt()
        assert missing <= {*own}
        return len(missing)

    with soon(20):
        counts = [await kept() for _ in range(10)]
    assert all(counts)


async def test_slow_calls_after_quick_ones_are_shared_at_once() -> None:
    """No result is held up for longer than one item takes, however quick those before it were."""
    waiting, go = threading.Semaphore(0), threading.Event()

    def work(item: int) -> int:
        if item >= 2000:
            waiting.release()
            assert go.wait(5)
        return item

    flow = Input[int]().map(work, on=Threads(4), ordered=False)
    with soon():
        async with flow.open(buffer=1000) as run, anyio.create_task_group() as group:

            async def feed() -> None:
                await run.feed(range(2000))
                while run.report().stage("work").done < 2000:
                    await anyio.sleep(0.001)
                await run.feed(range(2000, 2016))

            group.start_soon(feed)
            results = aiter(run)
            done = [await anext(results) for _ in range(2000)]
            try:
                for _ in range(4):  # each worker has some of them, and none has them all
                    assert await anyio.to_thread.run_sync(waiting.acquire, True, 2)
            finally:
                go.set()
            run.finish()
            done += [item async for item in results]
    assert sorted(done) == list(range(2016))


@pytest.mark.filterwarnings(
    "ignore:coroutine 'Live._task' was never awaited"
)  # it is cancelled first
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_a_timed_call_whose_task_is_cancelled_before_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when asyncio shuts down in just that moment: nobody waits for a call that never was."""
    original = Live.spawn_uncounted
    calls: list[int] = []

    def spawn(self: Live, work: Any) -> None:
        others = asyncio.all_tasks()
        original(self, work)
        if getattr(work, "func", None) and work.func.__name__ == "_timed":
            (task,) = asyncio.all_tasks() - others
            task.cancel()
            asyncio.get_running_loop().call_soon(host.cancel)

    monkeypatch.setattr(Live, "spawn_uncounted", spawn)

    async def main() -> None:
        await Input[int]().map(calls.append, on=Threads(1), timeout=5).collect([1])

    with soon():
        host = asyncio.create_task(main())
        await asyncio.wait([host])
        assert host.cancelled()
    gc.collect()  # the warning comes now, and not in the next test
    assert calls == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("options", [{}, {"timeout": 5}], ids=["bare", "timed"])
async def test_an_exit_in_a_thread_after_an_interrupt(
    options: dict[str, Any], kind: type[BaseException]
) -> None:
    """It ends the program all the same."""
    at_it, go = threading.Event(), threading.Event()

    def work(item: int) -> int:
        at_it.set()
        assert go.wait(5)
        raise kind(3)

    with soon(), pytest.raises(kind):
        async with Input[int]().map(work, on=Threads(1), **options).open() as run:
            await run.send(1)
            await anyio.to_thread.run_sync(at_it.wait)
            assert run.interrupt() == 1
            go.set()
            await anyio.sleep_forever()
