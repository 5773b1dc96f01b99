"""Interrupt on a line of stages: nothing accepted before comes out, what comes later is as if alone."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Flow, Input, Retry, Run, Sentinel, Threads, merge, source

from .accounts import check_accounts, settle, soon
from .conftest import virtual_time


async def rest_of(run: Run[Any, Any]) -> list[Any]:
    run.finish()
    return [event async for event in run.events()]


async def send_all(run: Run[Any, Any], items: Iterable[Any]) -> None:
    await run.feed(items)
    run.finish()


def same(item: Any) -> Any:
    return item


async def same_async(item: Any) -> Any:
    await checkpoint()
    return item


async def same_later(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield item


LINES: dict[str, Callable[[Flow[Any, Any]], Flow[Any, Any]]] = {
    "nothing": lambda flow: flow,
    "plain map": lambda flow: flow.map(same),
    "fused": lambda flow: flow.map(same).filter(lambda item: True).tap(same).map(same),
    "async map": lambda flow: flow.map(same_async),
    "pool": lambda flow: flow.map(same_async, concurrency=4),
    "unordered pool": lambda flow: flow.map(same_async, concurrency=4, ordered=False),
    "timeout": lambda flow: flow.map(same_async, timeout=9),
    "retry": lambda flow: flow.map(same_async, retry=Retry(2)),
    "threads": lambda flow: flow.map(same, on=Threads(2)),
    "unordered threads": lambda flow: flow.map(same, on=Threads(2), ordered=False),
    "timed threads": lambda flow: flow.map(same, on=Threads(2), timeout=9),
    "flat_map": lambda flow: flow.flat_map(lambda item: [item]),
    "flat_map pool": lambda flow: flow.flat_map(same_list, concurrency=3),
    "flat_map threads": lambda flow: flow.flat_map(lambda item: [item], on=Threads(2)),
    "filter pool": lambda flow: flow.filter(same_async, concurrency=2),
    "tap threads": lambda flow: flow.tap(same, on=Threads(1)),
    "batch": lambda flow: flow.batch(3).flat_map(same),
    "transform": lambda flow: flow.transform(same_later),
    "segments": lambda flow: flow.transform(same_later, segments=True),
    "buffer": lambda flow: flow.map(same).buffer(5).map(same),
    "rendezvous": lambda flow: flow.map(same).buffer(0).map(same),
    "drop_oldest": lambda flow: flow.buffer(1000, overflow="drop_oldest"),
    "long": lambda flow: (
        flow.map(same)
        .map(same_async)
        .buffer(3)
        .batch(2)
        .flat_map(same)
        .map(same_async, concurrency=2)
    ),
}


async def same_list(item: Any) -> list[Any]:
    await checkpoint()
    return [item]


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
@pytest.mark.parametrize("buffer", [5, 0])
async def test_nothing_old_comes_out_and_the_new_comes_out_as_if_alone(
    line: Callable[[Flow[Any, Any]], Flow[Any, Any]], buffer: int
) -> None:
    """Whatever has been sent, after each of many turns an interrupt leaves only what comes later."""
    flow = line(Input[Any]())
    expected = [1000, 1001, Sentinel("s"), 1002]
    with soon():
        for turns in (0, 1, 2, 3, 5, 8, 13, 21):
            async with flow.open(buffer=buffer) as run:
                async with anyio.create_task_group() as group:
                    group.start_soon(run.feed, range(1, 40))
                    for _ in range(turns):
                        await checkpoint()
                    run.interrupt()
                    check_accounts(run.report())
                    group.cancel_scope.cancel()
                async with anyio.create_task_group() as group:
                    group.start_soon(send_all, run, expected)
                    got = [event async for event in run.events()]
                assert [*sorted(got[:2]), *got[2:]] == expected, turns  # before it, in any order
                assert run.failed == 0
            check_accounts(run.report(), over=True)


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
async def test_full_and_waiting_everywhere(
    line: Callable[[Flow[Any, Any]], Flow[Any, Any]],
) -> None:
    """With every buffer full and a sender waiting, one interrupt empties all of it."""
    with soon():
        async with line(Input[Any]()).open(buffer=2) as run:
            ended: list[str] = []

            async def fill() -> None:
                for number in range(1, 300):
                    await run.send(number)
                ended.append("all sent")

            async with anyio.create_task_group() as group:
                group.start_soon(fill)
                await settle()
                before = run.report()
                check_accounts(before)
                count = run.interrupt()
                assert count > 0
                check_accounts(run.report())
                assert sum(stage.in_hand for stage in run.report().stages) == 0
                assert sum(edge.inside for edge in run.report().edges) == 0
                group.cancel_scope.cancel()
            run.interrupt()
            await run.send(7)
            assert await rest_of(run) == [7]
        check_accounts(run.report(), over=True)


async def test_from_inside_a_plain_stage() -> None:
    """The item whose own call interrupts does not come out, whichever way it is processed."""
    for length in (1, 2, 3):
        for culprit in (0, 1, 5):
            run: Run[int, int]

            def interrupt(item: int, culprit: int = culprit) -> int:
                if item == culprit:
                    run.interrupt()
                return item

            flow = Input[int]().map(interrupt)
            for _ in range(length - 1):
                flow = flow.map(same)
            with soon():
                async with flow.open() as run:
                    for number in range(8):
                        run.send_nowait(number)
                    await settle()
                    assert run.report().interrupts == 1
                    for number in (100, 101):
                        await run.send(number)
                    assert await rest_of(run) == [100, 101]
                    check_accounts(run.report())
                check_accounts(run.report(), over=True)


KINDS_INSIDE: dict[str, dict[str, Any]] = {
    "one at a time": {},
    "pool": {"concurrency": 3},
    "unordered": {"concurrency": 3, "ordered": False},
    "timeout": {"timeout": 5},
    "retry": {"retry": Retry(2)},
    "observed": {"pass_context": True},
}


@pytest.mark.parametrize("options", KINDS_INSIDE.values(), ids=KINDS_INSIDE)
async def test_from_inside_an_async_stage(options: dict[str, Any]) -> None:
    """The call that interrupts is cancelled at its next wait; without one its result is dropped."""
    for waits in (True, False):
        run: Run[int, int]
        ends: list[int] = []

        async def interrupt(item: int, context: Any = None, waits: bool = waits) -> int:
            if item == 2:
                run.interrupt()
                if waits:
                    await checkpoint()
                ends.append(item)
            return item

        with soon():
            async with Input[int]().map(interrupt, **options).open() as run:
                for number in range(6):
                    run.send_nowait(number)
                await settle()
                assert ends == ([] if waits else [2])
                run.send_nowait(100)
                assert await rest_of(run) == [100]
            check_accounts(run.report(), over=True)


async def test_from_inside_a_source_fused_stage() -> None:
    """A stage fused to a source that interrupts loses its item; the source goes on.

    And what the source has given ahead of it: no more than the edge below holds.
    """
    for culprit in (0, 1, 4, 90):
        run: Run[Any, int]

        def interrupt(item: int, culprit: int = culprit) -> int:
            if item == culprit:
                run.interrupt()
            return item

        with soon():
            async with source(range(1000)).map(interrupt).map(same).open(buffer=100) as run:
                await settle()
                got = [item async for item in run]
        assert culprit < got[0] <= culprit + 100
        assert got == list(range(got[0], 1000))
        check_accounts(run.report(), over=True)


async def test_from_inside_a_source() -> None:
    """What a source gives after it has interrupted belongs to the new epoch."""
    run: Run[Any, int]

    def items() -> Any:
        yield 1
        yield 2
        run.interrupt()
        yield 3

    with soon():
        async with source(items).open() as run:
            assert [item async for item in run] == [3]
    check_accounts(run.report(), over=True)


async def test_from_a_thread() -> None:
    """A function in a thread interrupts by way of the loop; its own result is dropped."""
    run: Run[int, int]

    def interrupt(item: int) -> int:
        if item == 1:
            anyio.from_thread.run_sync(run.interrupt)
        return item

    with soon():
        async with Input[int]().map(interrupt, on=Threads(1)).open() as run:
            run.send_nowait(1)
            while not run.report().interrupts:
                await anyio.sleep(0.001)
            run.send_nowait(2)
            assert await rest_of(run) == [2]
    check_accounts(run.report(), over=True)


async def test_calls_in_flight_are_cancelled() -> None:
    """Each call that waits meets its backend's cancellation, once."""
    cancelled: list[int] = []

    async def wait(item: int) -> int:
        if item < 100:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                cancelled.append(item)
                raise
        return item

    for options in ({}, {"concurrency": 3}, {"concurrency": 3, "ordered": False}, {"timeout": 99}):
        cancelled.clear()
        with soon():
            async with Input[int]().map(wait, **options).open() as run:
                for number in range(5):
                    run.send_nowait(number)
                await settle()
                assert run.interrupt() == 5
                run.send_nowait(100)
                run.finish()
                assert [item async for item in run] == [100]
        assert sorted(cancelled) == list(range(options.get("concurrency", 1)))
        assert run.report().stages[1].discarded == options.get("concurrency", 1)
        assert run.failed == 0
        check_accounts(run.report(), over=True)


async def test_a_thread_runs_on_and_its_result_is_dropped() -> None:
    """An interrupt frees the stage at once for what is new, once there is a seat."""
    gate = threading.Event()
    begun = threading.Event()

    def wait(item: int) -> int:
        if item < 100:
            begun.set()
            gate.wait(5)
        return item

    for options in ({}, {"timeout": 99}, {"retry": Retry(2)}, {"ordered": False}):
        gate.clear()
        begun.clear()
        with soon():
            async with Input[int]().map(wait, on=Threads(2), **options).open() as run:
                run.send_nowait(1)
                while not begun.is_set():
                    await anyio.sleep(0.001)
                assert run.interrupt() == 1
                run.send_nowait(100)
                run.finish()
                aiter_ = run.__aiter__()
                assert await anext(aiter_) == 100  # while the old thread still runs
                gate.set()
                assert [item async for item in run] == []
        check_accounts(run.report(), over=True)


async def test_a_single_seat_held_by_an_old_thread_is_no_deadlock() -> None:
    """While an interrupted thread keeps the only seat, what is new waits; nobody cries deadlock."""
    gate = threading.Event()
    begun = threading.Event()

    def wait(item: int) -> int:
        if item < 100:
            begun.set()
            gate.wait(5)
        return item

    for options in ({}, {"timeout": 99}):
        gate.clear()
        begun.clear()
        with soon():
            async with Input[int]().map(wait, on=Threads(1), **options).open() as run:
                run.send_nowait(1)
                while not begun.is_set():
                    await anyio.sleep(0.001)
                run.interrupt()
                run.send_nowait(100)
                run.finish()
                async with anyio.create_task_group() as group:
                    got: list[int] = []

                    async def read() -> None:
                        got.extend([item async for item in run])

                    group.start_soon(read)
                    await settle()
                    assert got == []
                    gate.set()
                assert got == [100]
        check_accounts(run.report(), over=True)


async def test_a_generator_in_a_thread_that_waits_to_give_is_let_go() -> None:
    """A flat_map in a thread that waits for room is freed, its generator closed, its worker works on."""
    opened: list[int] = []
    closed: list[int] = []

    def many(item: int) -> Any:
        opened.append(item)
        try:
            for number in range(5000):
                yield (item, number)
        finally:
            closed.append(item)

    for concurrency in (1, 2):
        opened.clear()
        closed.clear()
        with soon():
            flow = Input[int]().flat_map(many, on=Threads(2), concurrency=concurrency)
            async with flow.open(buffer=2) as run:
                for number in range(3):
                    run.send_nowait(number) if number < 2 else await run.send(number)
                while run.report().stage("many").given < 2 or len(opened) < concurrency:
                    await anyio.sleep(0.001)
                await settle()
                run.interrupt()
                run.send_nowait(7)
                run.finish()
                got = [item async for item in run]
                assert got == [(7, number) for number in range(5000)]
            assert sorted(closed) == sorted(opened)
            assert len(closed) == concurrency + 1
        check_accounts(run.report(), over=True)


async def test_waiting_senders_return_normally() -> None:
    """Sends that wait at an interrupt return, their items counted; a later one is kept."""
    with soon():
        async with Input[int]().open(buffer=1) as run, anyio.create_task_group() as group:
            returned: list[int] = []

            async def send(number: int) -> None:
                await run.send(number)
                returned.append(number)

            for number in range(4):
                group.start_soon(send, number)
            await settle()
            assert len(returned) == 1
            assert run.interrupt() == 4
            await settle()
            assert sorted(returned) == [0, 1, 2, 3]
            await run.send(9)
            assert await rest_of(run) == [9]
        check_accounts(run.report(), over=True)


async def test_twice_and_after_the_end() -> None:
    """Interrupts overlap harmlessly; one of an empty run or after the end gives 0."""
    with soon():
        async with Input[int]().map(same_async, concurrency=2).open() as run:
            assert run.interrupt() == 0
            run.send_nowait(1)
            await checkpoint()
            assert run.interrupt() == 1
            assert run.interrupt() == 0
            await settle()
            assert run.interrupt() == 0
            run.send_nowait(2)
            assert await rest_of(run) == [2]
            assert run.interrupt() == 0
        assert run.interrupt() == 0
    assert run.report().interrupts == 5


async def test_unread_results_of_an_ended_source_are_discarded() -> None:
    """A run whose stages have all ended still discards what nobody has read."""
    with soon():
        async with source([1, 2, 3]).map(same).open() as run:
            await settle()
            assert run.interrupt() == 3
            assert [item async for item in run] == []


async def test_sentinels_of_the_old_epoch_are_discarded() -> None:
    """A sentinel placed or waiting before the interrupt does not come out after it."""
    with soon():
        async with Input[int]().open(buffer=1) as run, anyio.create_task_group() as group:
            group.start_soon(run.send_sentinel, "placed")
            await settle()
            group.start_soon(run.send_sentinel, "waiting")
            await settle()
            assert run.interrupt() == 0
            await run.send_sentinel("new")
            assert await rest_of(run) == [Sentinel("new")]


async def test_a_source_is_not_rewound() -> None:
    """A pull in flight is not touched; what it gives belongs to the new epoch."""
    event = anyio.Event()
    pulls = 0

    async def items() -> AsyncIterator[int]:
        nonlocal pulls
        pulls += 1
        yield 1
        await event.wait()
        yield 2

    with soon():
        async with source(items).map(same).open() as run:
            await settle()
            assert run.interrupt() == 1
            event.set()
            assert [item async for item in run] == [2]
    assert pulls == 1
    check_accounts(run.report(), over=True)


async def test_a_full_source_goes_on_with_its_next_item() -> None:
    """What it has in hand is lost with the rest, and it goes on behind that."""
    for make in (source, functools.partial(source, on=Threads(1))):
        with soon():
            async with make(range(1000)).map(same).open(buffer=3) as run:
                while not any(edge.inside for edge in run.report().edges):
                    await anyio.sleep(0.001)
                await settle()
                count = run.interrupt()
                assert count == 3 if make is source else count > 3  # a thread pulls a slice
                got = [item async for item in run]
        assert got == list(range(got[0], 1000))
        assert len(got) == 1000 - count
        check_accounts(run.report(), over=True)


async def test_a_partial_batch_is_forgotten() -> None:
    """A batch begins afresh."""
    with soon():
        async with Input[int]().batch(3).open() as run:
            for number in range(2):
                run.send_nowait(number)
            await settle()
            assert run.interrupt() == 2
            for number in range(10, 14):
                run.send_nowait(number)
            assert await rest_of(run) == [[10, 11, 12], [13]]
    check_accounts(run.report(), over=True)


@virtual_time
async def test_the_timer_of_a_batch_is_forgotten() -> None:
    """The next batch has its whole time."""
    async with Input[int]().batch(9, within=10).open() as run:
        await run.send(1)
        await anyio.sleep(9)
        run.interrupt()
        await run.send(2)
        began = anyio.current_time()
        async for batch in run:
            assert batch == [2]
            break
        assert anyio.current_time() - began == pytest.approx(10)


@pytest.mark.parametrize("segments", [False, True])
async def test_a_transform_begins_afresh(segments: bool) -> None:
    """Its generator is closed, once, and begun again with nothing in memory."""
    lives: list[str] = []

    async def count(items: AsyncIterator[int]) -> AsyncIterator[tuple[int, int]]:
        lives.append("begun")
        number = 0
        try:
            async for item in items:
                number += 1
                yield number, item
        finally:
            lives.append("closed")

    with soon():
        async with Input[int]().transform(count, segments=segments).open() as run:
            run.send_nowait(1)
            run.send_nowait(2)
            await settle()
            run.interrupt()
            run.send_nowait(7)
            assert await rest_of(run) == [(1, 7)]
    assert lives == ["begun", "closed", "begun", "closed"]
    check_accounts(run.report(), over=True)


async def test_a_transform_that_swallows_exceptions_does_not_swallow_an_interrupt() -> None:
    """`except Exception` around the input is no way to keep old items."""

    async def stubborn(items: AsyncIterator[int]) -> AsyncIterator[int]:
        kept: list[int] = []
        while True:
            try:
                kept.append(await anext(items))
            except StopAsyncIteration:
                for item in kept:
                    yield item
                return
            except Exception:
                kept.append(-1)

    with soon():
        async with Input[int]().transform(stubborn).open() as run:
            run.send_nowait(1)
            await settle()
            run.interrupt()
            run.send_nowait(2)
            assert await rest_of(run) == [2]


async def test_a_transform_that_has_ended_stays_ended() -> None:
    """An interrupt does not begin again what has ended."""

    async def first(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item
            return

    with soon():
        async with Input[int]().transform(first).open() as run:
            run.send_nowait(1)
            await settle()
            run.interrupt()
            assert [item async for item in run] == []


@virtual_time
async def test_a_retry_that_sleeps_is_let_go() -> None:
    """Nothing of the old item comes, however long its retry would have slept."""

    def fail(item: int) -> int:
        if item == 1:
            raise ValueError
        return item

    async def fail_async(item: int) -> int:
        return fail(item)

    again = Retry(5, delay=1000)
    lines = [
        Input[int]().map(fail, retry=again),
        Input[int]().map(fail_async, retry=again),
        Input[int]().map(fail_async, retry=again, concurrency=2),
        Input[int]().flat_map(lambda item: [fail(item)], retry=again),
    ]
    for line in lines:
        async with line.open() as run:
            run.send_nowait(1)
            await settle()
            run.interrupt()
            run.send_nowait(2)
            assert await rest_of(run) == [2]
    began = anyio.current_time()
    async with source([1, 2]).map(fail, retry=again).open() as run:
        await settle()
        run.interrupt()
        assert await rest_of(run) == [2]
    assert anyio.current_time() - began < 1


async def test_what_a_source_fused_stage_waits_for_is_cancelled() -> None:
    """Inline stages share the source's task, whose pull is not touched; their waits are."""

    async def wait(item: int) -> int:
        if item == 1:
            await anyio.sleep_forever()
        return item

    async def values(item: int) -> AsyncIterator[int]:
        yield item
        if item == 1:
            await anyio.sleep_forever()

    for line, expected in (
        (source([1, 2, 3]).map(lambda item: wait(item)), [2, 3]),
        (source([0, 1, 2, 3]).flat_map(lambda item: values(item)), [2, 3]),
    ):
        with soon():
            async with line.open() as run:
                await settle()
                run.interrupt()
                assert await rest_of(run) == expected
        check_accounts(run.report(), over=True)


async def test_it_is_no_error() -> None:
    """No retry, no failure, no policy: an interrupted call is as if it had never been."""
    calls: list[int] = []

    async def wait(item: int) -> int:
        calls.append(item)
        if item == 1:
            await anyio.sleep_forever()
        return item

    for on_error in ("raise", "skip", "emit"):
        calls.clear()
        with soon():
            flow = Input[int]().map(wait, retry=Retry(3), on_error=on_error, timeout=9)
            async with flow.open() as run:
                run.send_nowait(1)
                await settle()
                run.interrupt()
                run.send_nowait(2)
                assert await rest_of(run) == [2]
        assert calls == [1, 2]
        assert run.failed == 0
        assert run.report().stage("wait").retries == 0


async def test_observers_are_not_told() -> None:
    """`after_stage` is not called for a call that was interrupted, from outside or inside."""
    told: list[Any] = []

    class Observer:
        def after_stage(self, stage: str, item: Any, result: Any, error: Any, context: Any) -> None:
            told.append(item)

    run: Run[int, int]

    async def wait(item: int) -> int:
        if item == 1:
            await anyio.sleep_forever()
        if item == 2:
            run.interrupt()
        return item

    for options in ({}, {"concurrency": 2}):
        told.clear()
        with soon():
            async with Input[int]().map(wait, **options).open(observers=[Observer()]) as run:
                run.send_nowait(1)
                await settle()
                run.interrupt()
                run.send_nowait(2)
                await settle()
                run.send_nowait(3)
                assert await rest_of(run) == [3]
        assert told == [3]


async def test_a_failure_on_its_way_is_discarded_too() -> None:
    """Under `emit` a failure is an item."""

    def fail(item: int) -> int:
        raise ValueError(item)

    for line in (Input[int]().map(fail), Input[int]().map(fail).buffer(5)):
        with soon():
            async with line.open(on_error="emit") as run:
                run.send_nowait(1)
                await settle()
                assert run.interrupt() == 1
                check_accounts(run.report())
                assert await rest_of(run) == []
        check_accounts(run.report(), over=True)


async def test_stop_and_cancellation_win_over_it() -> None:
    """After `stop` an interrupt only discards; after a failure it does nothing."""
    with soon():
        async with source(range(1000)).open(buffer=2) as run:
            await settle()
            await run.stop()
            run.interrupt()
            assert [item async for item in run] == []
    with pytest.raises(ZeroDivisionError):
        async with source([0]).map(lambda item: 1 / item).open() as run:
            with anyio.CancelScope(shield=True):
                while not run.failed:
                    await checkpoint()
                assert run.interrupt() == 0


@pytest.mark.parametrize("turns", range(8))
async def test_no_call_is_begun_for_what_was_discarded(turns: int) -> None:
    """Also where a worker has been started for it, or woken, and has not made its first step."""
    calls: list[str] = []

    async def work(item: str) -> str:
        calls.append(item)
        await checkpoint()
        return item

    with soon():
        async with Input[str]().map(work, concurrency=2).open() as run:
            for name in ("cold", "warm"):
                calls.clear()
                run.send_nowait(name)
                for _ in range(turns):
                    await checkpoint()
                begun = list(calls)
                run.interrupt()
                await settle()
                assert calls == begun
                await run.send("between")  # the second time there is a worker that waits
                await settle()


async def unquiet(item: str) -> str:
    """Be cancelled at the old item, and fail in the cleanup."""
    try:
        await anyio.sleep(60 * (item == "old"))
    finally:
        if item == "old":
            raise OSError("it did not stop")
    return item


async def unquiet_values(item: str) -> AsyncIterator[str]:
    yield await unquiet(item)


async def unquiet_items(items: AsyncIterator[str]) -> AsyncIterator[str]:
    async for item in items:
        yield await unquiet(item)


async def hushed(item: str) -> str:
    await anyio.sleep(60 * (item == "old"))
    return item


class Observer:
    def after_stage(self, stage: str, item: Any, result: Any, error: Any, context: Any) -> None:
        assert item == "new"


WORDS = Input[str]()
UNQUIET: dict[str, Callable[[Any], Flow[Any, str]]] = {
    "map": lambda fn: WORDS.map(fn, name="me"),
    "map, with a retry": lambda fn: WORDS.map(fn, retry=Retry(3), name="me"),
    "map, with a timeout": lambda fn: WORDS.map(fn, timeout=99, name="me"),
    "filter": lambda fn: WORDS.filter(fn, name="me"),
    "tap, before another stage": lambda fn: WORDS.tap(fn, name="me").map(str),
    "several at once": lambda fn: WORDS.map(fn, concurrency=3, name="me"),
    "several, with a retry": lambda fn: WORDS.map(fn, concurrency=3, retry=Retry(3), name="me"),
    "route": lambda fn: merge(*WORDS.route(fn, ["old", "new"], name="me").values()),
}
UNQUIET_VALUES: dict[str, Callable[[], Flow[Any, str]]] = {
    "flat_map": lambda: WORDS.flat_map(unquiet_values, name="me"),
    "flat_map, with a retry": lambda: WORDS.flat_map(unquiet_values, retry=Retry(3), name="me"),
    "flat_map, several at once": lambda: WORDS.flat_map(unquiet_values, concurrency=3, name="me"),
    "transform": lambda: WORDS.transform(unquiet_items, name="me"),
}


def told_late(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give what was logged of errors that came too late, each of them with its exception."""
    records = [r for r in caplog.records if "after its item had been let go" in r.getMessage()]
    assert all(r.exc_info and r.levelname == "WARNING" for r in records)
    texts = [r.getMessage() for r in records]
    caplog.clear()
    return texts


async def interrupted(flow: Flow[Any, str], *, warm: int, observed: bool) -> None:
    """Interrupt a run while the old item is in hand; assert that nothing of it is left."""
    observers = [Observer()] if observed else []
    with soon():
        async with flow.open(observers=observers) as run:
            async with anyio.create_task_group() as group:
                got: list[str] = []

                async def read() -> None:
                    got.extend([item async for item in run])

                group.start_soon(read)
                for _ in range(warm):
                    await run.send("new")
                await settle()
                run.send_nowait("old")
                await settle()
                assert run.interrupt() == 1
                await settle()
                await run.send("new")
                run.finish()
            assert got == ["new"] * (warm + 1)
            assert (run.failures, run.failed) == ((), 0)
    check_accounts(run.report(), over=True)


LATE = "stage 'me' raised OSError('it did not stop') after its item had been let go"


@pytest.mark.parametrize("observed", [False, True], ids=["", "observed"])
@pytest.mark.parametrize("warm", [0, 5])
async def test_what_a_cleanup_raises_is_told(
    warm: int, observed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, in the log: it is no failure of an item any more. A cancellation is nothing to tell."""
    for name, line in UNQUIET.items():
        await interrupted(line(unquiet), warm=warm, observed=observed)
        assert told_late(caplog) == [LATE], name
        await interrupted(line(hushed), warm=warm, observed=observed)
        assert told_late(caplog) == [], name
    for name, make in UNQUIET_VALUES.items():
        await interrupted(make(), warm=warm, observed=observed)
        assert told_late(caplog) == [LATE], name


async def test_what_a_plain_function_raises_that_has_interrupted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It fails for an item that it has discarded itself."""
    run: Run[Any, Any]

    def interrupt(item: int) -> int:
        if item == 7:
            run.interrupt()
            raise OSError("it did not stop")
        return item

    for options in ({}, {"timing": True}, {"observers": [Observer7()]}):
        with soon():
            async with Input[int]().map(interrupt, name="me").open(range(9), **options) as run:
                await run.drain()
            assert run.failed == 0
        assert told_late(caplog) == [LATE]


class Observer7:
    def after_stage(self, stage: str, item: Any, result: Any, error: Any, context: Any) -> None:
        assert item != 7


async def test_what_a_thread_raises_that_runs_on(caplog: pytest.LogCaptureFixture) -> None:
    """The same; but not that it was told to stop."""
    gate, begun = threading.Event(), threading.Event()

    def fail(item: str) -> str:
        if item == "old":
            begun.set()
            assert gate.wait(5)
            raise OSError("it did not stop")
        return item

    def obey(item: str) -> str:
        while item == "old":
            begun.set()
            time.sleep(0.001)
            anyio.from_thread.check_cancelled()
        return item

    def values(item: str) -> Iterator[str]:
        yield fail(item)

    def cleans_up(item: str) -> Iterator[str]:
        try:
            yield item
            begun.set()
            assert item != "old" or gate.wait(5)
            yield item
        finally:
            if item == "old":
                raise OSError("it did not stop")

    flows = [
        (getattr(WORDS, verb)(fn, on=Threads(1), name="me", **options), number)
        for verb, fn, number in (
            ("map", fail, 1),
            ("map", obey, 0),
            ("flat_map", fail, 1),
            ("flat_map", values, 1),
            ("flat_map", cleans_up, 1),
        )
        for options in ({}, {"timeout": 99}, {"retry": Retry(3)}, {"concurrency": 1})
    ]
    for flow, number in flows:
        for options in ({}, {"timing": True}, {"observers": [Observer()]}):
            gate.clear()
            begun.clear()
            with soon():
                async with flow.open(**options) as run:
                    run.send_nowait("old")
                    while not begun.is_set():
                        await anyio.sleep(0.001)
                    run.interrupt()
                    gate.set()
                    await run.send("new")
                    run.finish()
                    assert "".join([item async for item in run]).startswith("new")
                assert run.failed == 0
            assert told_late(caplog) == [LATE] * number, (flow, options)
