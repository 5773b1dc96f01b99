"""`stop`: no more input, everything accepted comes out, the source is closed, and the run ends."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import ClosedError, Graph, Input, Sentinel, Threads, source

from .accounts import check_accounts, settle, soon
from .conftest import virtual_time


async def same(item: Any) -> Any:
    await checkpoint()
    return item


class Diary:
    def __init__(self, *, wait_at: int = 10**9) -> None:
        self.given: list[int] = []
        self.closed = 0
        self.wait_at = wait_at

    async def items(self) -> AsyncIterator[int]:
        try:
            for number in range(10**6):
                if number == self.wait_at:
                    await anyio.sleep_forever()
                await checkpoint()
                self.given.append(number)
                yield number
        finally:
            self.closed += 1

    def plain(self) -> Iterator[int]:
        try:
            for number in range(10**6):
                self.given.append(number)
                yield number
        finally:
            self.closed += 1

    @asynccontextmanager
    async def manager(self) -> AsyncIterator[Any]:
        try:
            yield self.items()
        finally:
            self.closed += 10


SOURCES: dict[str, Any] = {
    "async": lambda diary: source(diary.items),
    "plain": lambda diary: source(diary.plain),
    "fused": lambda diary: source(diary.plain).map(abs).map(abs),
    "fused filter": lambda diary: source(diary.plain).filter(lambda item: True),
    "async fused": lambda diary: source(diary.items).map(abs),
    "flat": lambda diary: source(diary.plain).flat_map(lambda item: [item]),
    "manager": lambda diary: source(diary.manager),
    "threads": lambda diary: source(diary.plain, on=Threads(1)),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
async def test_everything_pulled_comes_out(make: Any) -> None:
    """At whatever moment: what the source gave, in order, then the end; closed once."""
    for turns in (0, 1, 2, 3, 5, 8, 21):
        diary = Diary()
        with soon():
            flow = make(diary).map(same, concurrency=2).map(abs, on=Threads(1))
            async with flow.open(buffer=2) as run:
                for _ in range(turns):
                    await checkpoint()
                await run.stop()
                got = [item async for item in run]
                assert run.failed == 0
        assert got == diary.given, turns
        assert diary.closed in ((0,) if not got else (1, 10, 11)) or diary.closed in (1, 10, 11)
        report = run.report()
        check_accounts(report, over=True)
        assert sum(stage.discarded for stage in report.stages) == 0


async def test_a_pull_in_flight_is_cancelled_once() -> None:
    """The source is closed; what came before is delivered."""
    diary = Diary(wait_at=3)
    with soon():
        async with source(diary.items).map(abs).open() as run:
            await settle()
            await run.stop()
            await run.stop()
            assert [item async for item in run] == [0, 1, 2]
    assert diary.closed == 1


async def test_a_blocking_pull_is_waited_for() -> None:
    """What a thread was about to give is delivered too."""
    gate, inside = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        inside.set()
        assert gate.wait(5)
        yield 2
        yield 3

    with soon():
        async with source(items, on=Threads(1)).open() as run:
            while not inside.is_set():
                await anyio.sleep(0.001)
            await run.stop()
            gate.set()
            got = [item async for item in run]
    assert got in ([1, 2], [1, 2, 3])


async def test_the_error_of_a_blocking_source_at_stop_is_not_lost() -> None:
    """It fails the run, after what it gave."""
    gate, inside = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        inside.set()
        assert gate.wait(5)
        raise ValueError("mine")

    with soon(), pytest.raises(ValueError, match="mine"):
        async with source(items, on=Threads(1)).open() as run:
            while not inside.is_set():
                await anyio.sleep(0.001)
            await run.stop()
            gate.set()
            async for _ in run:
                pass


async def test_sends_that_wait_are_refused() -> None:
    """They get `ClosedError`; what was accepted comes out."""
    with soon():
        async with Input[int]().open(buffer=1) as run, anyio.create_task_group() as group:
            ends: list[str] = []

            async def send(number: int) -> None:
                try:
                    await run.send(number)
                    ends.append("sent")
                except ClosedError:
                    ends.append("closed")

            for number in range(3):
                group.start_soon(send, number)
                await settle(8)
            await run.stop()
            await settle()
            assert ends == ["sent", "closed", "closed"]
            with pytest.raises(ClosedError):
                await run.send(9)
            assert [item async for item in run] == [0]
        check_accounts(run.report(), over=True)


async def test_before_the_source_is_opened() -> None:
    """It is never opened."""
    diary = Diary()
    with soon():
        async with source(diary.items).open() as run:
            await run.stop()
            assert [item async for item in run] == []
    assert diary.given == []


async def test_after_the_end() -> None:
    """It does nothing."""
    async with source([1]).open() as run:
        assert [item async for item in run] == [1]
        await run.stop()
    await run.stop()


@virtual_time
async def test_the_timeout_is_a_deadline_for_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    """What takes longer is discarded, with a warning; the outputs end, and the block without an error."""

    async def slow(item: int) -> int:
        await anyio.sleep(10)
        return item

    got: list[int] = []
    began = anyio.current_time()
    async with Input[int]().map(slow).open() as run:
        await run.feed(range(90))
        await run.stop(timeout=35)
        async for item in run:
            got.append(item)
        got.append(-1)  # the body is not cancelled: it may have more to do
    assert got == [0, 1, 2, -1]
    assert anyio.current_time() - began == pytest.approx(35)
    check_accounts(run.report(), over=True)
    assert "(timeout=35) was over with 87 accepted items inside" in caplog.text


@virtual_time
async def test_the_deadline_ends_what_would_go_on_for_ever() -> None:
    """A transform that does not heed the end of its input; nobody reads meanwhile."""

    async def forever(items: AsyncIterator[int]) -> AsyncIterator[int]:
        while True:
            await anyio.sleep(1)
            yield 0

    async with Input[int]().transform(forever).open() as run:
        await run.send(1)
        await run.stop(timeout=100)
        await run.stop(timeout=4)  # the later word counts
        await anyio.sleep(50)
        assert [item async for item in run] == []


@virtual_time
async def test_a_run_that_ends_in_time_is_not_touched(caplog: pytest.LogCaptureFixture) -> None:
    """What has come out and is not read yet stays."""
    async with Input[int]().map(same).open() as run:
        await run.feed(range(9))
        await run.stop(timeout=4)
        await anyio.sleep(10)
        assert [item async for item in run] == list(range(9))
    assert not caplog.text


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), True, "1"])
async def test_bad_timeouts(timeout: Any) -> None:
    """Refused before anything is stopped."""
    async with Input[int]().open() as run:
        with pytest.raises((ValueError, TypeError), match="timeout must be"):
            await run.stop(timeout)
        await run.send(1)


async def test_a_transforms_and_a_batchs_rest_comes_out() -> None:
    """`stop` is an end like any other: held state is flushed."""

    async def rest(items: AsyncIterator[int]) -> AsyncIterator[Any]:
        kept = [item async for item in items]
        yield len(kept)

    with soon():
        async with Input[int]().batch(10).transform(rest).open() as run:
            run.send_nowait(1)
            await run.stop()
            assert [item async for item in run] == [1]


async def test_slow_threads_finish_first() -> None:
    """A call in a thread is accepted work."""

    def slow(item: int) -> int:
        time.sleep(0.01)
        return item

    with soon():
        async with Input[int]().map(slow, on=Threads(2)).open() as run:
            for number in range(4):
                run.send_nowait(number)
            await run.stop()
            assert [item async for item in run] == [0, 1, 2, 3]


@virtual_time
async def test_what_has_come_out_in_time_is_not_lost_to_the_deadline() -> None:
    """Each output by itself: one that is whole can still be read, though another one was cut short."""

    async def slow(item: int) -> int:
        await anyio.sleep(10)
        return item

    start = Input[int]()
    async with Graph(quick=start.map(same), slow=start.map(slow)).open() as run:
        await run.feed(range(9))
        await run.stop(timeout=25)
        await anyio.sleep(100)
        assert [item async for item in run.output("quick")] == list(range(9))
        assert [item async for item in run.output("slow")] == []
    check_accounts(run.report(), over=True)


async def test_a_stop_whose_time_is_over_is_no_interrupt() -> None:
    """The report counts what the user has called."""

    async def slow(item: int) -> int:
        await anyio.sleep_forever()
        return item

    with soon():
        async with Input[int]().map(slow).open() as run:
            await run.send(1)
            await run.stop(timeout=0.01)
            assert [item async for item in run] == []
            assert run.report().interrupts == 0
        with pytest.raises(ClosedError, match="the run is over; drain it inside"):
            await run.drain()


async def read_slowly(run: Any, ends: list[Any]) -> list[Any]:
    """Send a sentinel when the source waits for room, read one item, stop, and read the rest."""
    (entry,) = run._live.entries.values()
    await settle()  # or it may wait for what has not begun to read
    while entry.waits != "output":
        await anyio.sleep(0.001)
        await settle()
    async with anyio.create_task_group() as group:
        group.start_soon(run.send_sentinel, "s")
        await settle()
        got = [await anext(run.output(ends[0]).events())]
        await settle()
        await run.stop()
        for end in ends:
            got += [event async for event in run.output(end).events()]
    return got


async def test_nothing_is_pulled_behind_a_sentinel_in_line() -> None:
    """The source might have nothing more to give, and nobody would cancel that pull."""
    asked: list[int] = []

    async def items() -> AsyncIterator[int]:
        for number in range(6):  # two on each edge, one with `failures()`, one that waits
            yield number
        asked.append(6)
        await anyio.sleep_forever()

    def refuse(item: int) -> int:
        raise ValueError(item)

    flow = source(items).map(refuse, on_error="skip")
    failures = flow.failures()
    with soon():
        async with Graph(flow, failures).open(buffer=2) as run:
            got = await read_slowly(run, [failures, flow])
    assert [getattr(event, "item", event) for event in got] == [
        *range(6),
        *[Sentinel("s")] * 2,
    ]
    assert asked == []
    check_accounts(run.report(), over=True)


async def test_nothing_is_pulled_in_a_thread_behind_a_sentinel_in_line() -> None:
    """As on the loop."""
    asked, go = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        time.sleep(0.02)  # longer than a time slice
        yield 2
        asked.set()
        go.wait(10)

    flow = source(items, on=Threads(1))
    with soon():
        async with flow.open(buffer=1) as run:
            try:
                assert await read_slowly(run, [flow]) == [1, 2, Sentinel("s")]
            finally:
                go.set()
    assert not asked.is_set()
    check_accounts(run.report(), over=True)
