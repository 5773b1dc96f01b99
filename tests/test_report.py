"""Reports and accounts: law 6 at every moment, whoever asks, and what a report tells."""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Flow, Input, Report, Retry, Run, Threads, source

from .accounts import check_accounts, settle, soon


def picky(item: Any) -> Any:
    if item % 7 == 3:
        raise ValueError(item)
    return item


async def picky_async(item: Any) -> Any:
    await checkpoint()
    return picky(item)


async def few(item: int) -> list[int]:
    return [item] * (item % 3)


async def pairs(items: AsyncIterator[int]) -> AsyncIterator[int]:
    async for item in items:
        yield item
        if item % 5 == 0:
            yield item


LINES: dict[str, Callable[[Flow[Any, int]], Flow[Any, int]]] = {
    "inline": lambda flow: flow.map(abs).filter(lambda item: item % 4).map(picky).tap(abs),
    "async": lambda flow: flow.map(picky_async).filter(lambda item: item % 4).map(abs),
    "async filter": lambda flow: flow.filter(picky_async),
    "flat": lambda flow: (
        flow.map(abs).flat_map(lambda item: [item] * (item % 3)).filter(lambda n: n % 4).map(picky)
    ),
    "flat flat": lambda flow: flow.flat_map(lambda n: [n, n]).flat_map(lambda n: [n]).map(picky),
    "pool": lambda flow: flow.map(picky_async, concurrency=4).map(abs),
    "unordered": lambda flow: flow.filter(picky_async, concurrency=4, ordered=False),
    "flat pool": lambda flow: flow.flat_map(few, concurrency=3),
    "threads": lambda flow: flow.map(picky, on=Threads(2)),
    "timed threads": lambda flow: flow.filter(picky, on=Threads(2), timeout=9),
    "flat threads": lambda flow: flow.flat_map(lambda item: [item] * 3, on=Threads(2)),
    "retry": lambda flow: flow.map(picky, retry=Retry(2)),
    "batch": lambda flow: flow.batch(4).flat_map(lambda items: items),
    "transform": lambda flow: flow.transform(pairs),
    "segments": lambda flow: flow.transform(pairs, segments=True),
    "buffer": lambda flow: flow.map(picky).buffer(3).map(abs),
    "drop_oldest": lambda flow: flow.map(picky).buffer(2, overflow="drop_oldest").map(abs),
    "drop_newest": lambda flow: flow.buffer(2, overflow="drop_newest").map(picky_async),
    "last buffer": lambda flow: flow.map(picky).buffer(3),
}

STARTS: dict[str, Callable[[], Flow[Any, int]]] = {
    "input": lambda: Input[int](),
    "source": lambda: source(range(60)),
    "threads": lambda: source(range(60), on=Threads(1)),
}


def check_line(report: Report) -> None:
    """Assert that the accounts of a line's stages and edges tell the same story."""
    check_accounts(report)
    stages = {stage.name: stage for stage in report.stages}
    for edge in report.edges:
        if edge.source in stages:
            upper = stages[edge.source]
            assert edge.entered >= upper.given, (edge, upper)  # failures go along
        order = list(stages)
        at_end = order.index(edge.source) >= order.index(edge.target)  # named like a stage
        if not at_end and stages[edge.target].kind != "buffer":  # whose edges are one
            lower = stages[edge.target]
            assert edge.left >= lower.taken or edge.dropped, (edge, lower)


@pytest.mark.parametrize("policy", ["skip", "emit"])
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
async def test_the_accounts_hold_at_every_moment(
    line: Callable[[Flow[Any, int]], Flow[Any, int]], policy: Any
) -> None:
    """Between any two turns, through interrupts, and at the end, however it ends."""
    for number, start in enumerate(STARTS):
        rng = random.Random(number)
        flow = line(STARTS[start]())
        for way in ("end", "leave"):
            with soon():
                async with flow.open(buffer=3, on_error=policy) as run:
                    for step in range(40):
                        if start == "input":
                            try:
                                run.send_nowait(step)
                            except anyio.WouldBlock:
                                pass
                        for _ in range(rng.randrange(3)):
                            await checkpoint()
                        check_line(run.report())
                        if rng.random() < 0.1:
                            run.interrupt()
                            check_line(run.report())
                            assert all(not edge.inside for edge in run.report().edges)
                        if rng.random() < 0.3:
                            with anyio.move_on_after(0):
                                async for _ in run.events():
                                    break
                    if way == "end":
                        await run.drain()
                        check_accounts(run.report(), over=True)
                check_accounts(run.report(), over=True)


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
async def test_the_accounts_after_a_failure(
    line: Callable[[Flow[Any, int]], Flow[Any, int]],
) -> None:
    """What the failure left is discarded and counted."""
    run: Any = None
    for start in ("source", "threads"):
        try:
            with soon():
                async with line(STARTS[start]()).open(buffer=3) as run:
                    async for _ in run:
                        pass
        except ValueError:
            assert sum(stage.failed for stage in run.report().stages) == 1
        check_accounts(run.report(), over=True)


async def test_asked_from_inside() -> None:
    """User code may ask for a report of its own run, on the loop or from a thread."""
    run: Run[Any, Any]
    seen: list[Report] = []

    def ask(item: int) -> int:
        seen.append(run.report())
        return item

    async def ask_async(item: int) -> int:
        return ask(item)

    def ask_in_thread(item: int) -> int:
        return anyio.from_thread.run_sync(ask, item)

    def ask_and_keep(item: int) -> bool:
        return ask(item) % 2 == 0

    flow = Input[int]()
    for line in (
        flow.map(ask).map(ask).filter(ask_and_keep),
        flow.map(ask_async).map(ask),
        flow.flat_map(lambda item: map(ask, [item, item])).map(ask),
        flow.map(ask_async, concurrency=3),
        flow.map(ask_in_thread, on=Threads(2)),
        flow.batch(2).map(ask),
    ):
        seen.clear()
        with soon():
            async with line.open(range(30), buffer=4) as run:
                async for _ in run:
                    check_line(run.report())
        assert seen
        for report in seen:
            check_line(report)
            assert sum(stage.in_hand for stage in report.stages) >= 1
    with soon():
        async with source(range(30)).map(ask).map(ask).open(buffer=4) as run:
            async for _ in run:
                pass
    for report in seen:
        check_line(report)


async def test_the_counts() -> None:
    """Of everything that can become of an item."""

    def refuse(item: int) -> int:
        if item == 5:
            raise ValueError
        return item

    flow = (
        Input[int]("in")
        .filter(lambda item: item % 2, name="odd")
        .map(refuse, name="refuse")
        .flat_map(lambda item: [item] * 2, name="twice")
        .batch(3, name="batch")
    )
    report = await flow.drain(range(10), on_error="skip")
    told = {s.name: (s.taken, s.done, s.given, s.filtered, s.skipped) for s in report.stages}
    assert told == {
        "in": (10, 10, 10, 0, 0),
        "odd": (10, 5, 5, 5, 0),
        "refuse": (5, 4, 4, 0, 1),
        "twice": (4, 4, 8, 0, 0),
        "batch": (8, 8, 3, 0, 0),
    }
    assert report.failed == 1
    assert [(edge.source, edge.target, edge.entered) for edge in report.edges if edge.entered]
    by_ends = {(edge.source, edge.target): edge for edge in report.edges}
    assert by_ends["in", "odd"].entered == 10
    assert by_ends["odd", "refuse"].entered == 5
    assert by_ends["twice", "batch"].left == 8


async def test_lossy_buffers_count_what_they_drop() -> None:
    """`dropped` on the edge, `discarded` at the buffer's own stage."""
    for overflow in ("drop_oldest", "drop_newest"):
        with soon():
            flow = Input[int]().map(abs).buffer(3, overflow=overflow, name="lossy")
            async with flow.open(range(10)) as run:
                await settle()
                got = [item async for item in run]
        report = run.report()
        assert got == ([7, 8, 9] if overflow == "drop_oldest" else [0, 1, 2])
        lossy = report.stage("lossy")
        assert (lossy.taken, lossy.done, lossy.discarded) == (10, 3, 7)
        assert sum(edge.dropped for edge in report.edges) == 7
        check_accounts(report, over=True)


async def test_the_bottleneck() -> None:
    """The stage that is busy nearly all the time, and why it is thought to be that one."""

    async def slow(item: int) -> int:
        await anyio.sleep(0.003)
        return item

    def slow_thread(item: int) -> int:
        time.sleep(0.003)
        return item

    for flow in (
        Input[int]().map(abs).map(slow).map(abs),
        Input[int]().map(abs).map(slow, concurrency=2),
        Input[int]().map(abs).map(slow_thread, on=Threads(2), name="slow"),
        Input[int]().map(slow_thread, name="slow"),
    ):
        with soon():
            report = await flow.drain(range(12))
        assert report.bottleneck is not None
        assert report.bottleneck.stage == "slow"
        assert "% of the time" in report.bottleneck.reason
        assert report.stage("slow").calls.count >= 1
        assert report.stage("slow").calls.p50 >= 0.0015  # uvloop counts in whole milliseconds


async def test_each_call_behind_a_slow_async_function_counts_once() -> None:
    """Where every call of the one above is timed, one of these stands for no others."""

    async def wait(item: int) -> int:
        await anyio.sleep(0.002)  # longer than the clock of uvloop is coarse
        return item

    report = await Input[int]().map(wait).map(abs).filter(abs, name="keep").drain(range(1, 21))
    for name in ("wait", "abs", "keep"):
        assert report.stage(name).calls.count == 20


async def test_an_idle_run_has_no_bottleneck() -> None:
    """When nobody is busy, the input or the reader sets the pace."""
    async with Input[int]().map(abs).open() as run:
        assert run.report().bottleneck is None
        await anyio.sleep(0.01)
        assert run.report().bottleneck is None
        assert run.report().elapsed >= 0.009


@pytest.mark.parametrize("slow", ["reader", "sender"])
async def test_who_sets_the_pace_from_outside(slow: str) -> None:
    """The busiest stage is no bottleneck while it waits for the input or the reader."""

    async def quick(item: int) -> int:
        await anyio.sleep(0.002)
        return item

    async def send(run: Run[int, int]) -> None:
        for number in range(10):
            await anyio.sleep(0.02 * (slow == "sender"))
            await run.send(number)
        run.finish()

    async def once() -> Report:
        async with Input[int]().map(quick).open(buffer=1) as run:
            async with anyio.create_task_group() as group:
                group.start_soon(send, run)
                async for _ in run:
                    await anyio.sleep(0.02 * (slow == "reader"))
        return run.report()

    report = await once()
    for _ in range(9):
        if 0.05 < report.stage("quick").busy / report.elapsed < 0.4:
            break
        report = await once()  # the machine was elsewhere
    assert 0.05 < report.stage("quick").busy / report.elapsed < 0.4
    assert report.bottleneck is None


@pytest.mark.parametrize("items", [0, 1])
async def test_who_waits_is_not_busy(items: int) -> None:
    """A wait that goes on is counted as such: a report is often asked for in the middle of one."""

    async def quick(item: int) -> int:
        await checkpoint()
        return item

    flow = Input[int]("in").map(abs).map(quick).map(quick, concurrency=2).batch(9).map(str)
    async with flow.open() as run:
        for _ in range(items):
            await run.send(1)
        await settle()
        first = report = run.report()
        worked = max(stage.busy for stage in first.stages)  # longer if the machine was elsewhere
        while report.elapsed < first.elapsed + max(0.2, 25 * worked):
            await anyio.sleep(0.2)
            report = run.report()
        for before, stage in zip(first.stages, report.stages, strict=True):
            assert stage.busy - before.busy < 0.1, stage
        for name in ("in", "quick", "quick-2", "batch"):
            waited = report.stage(name).waiting - first.stage(name).waiting
            assert waited > 0.1, (name, waited)
        assert report.bottleneck is None


@pytest.mark.parametrize("fused", [False, True])
async def test_a_slow_source_sets_the_pace(fused: bool) -> None:
    """It is busy while it is asked for the next item, whether or not a stage shares its task."""

    async def ticks() -> AsyncIterator[int]:
        for number in range(5):
            await anyio.sleep(0.02)
            yield number

    async def quick(item: int) -> int:
        return item

    flow = source(ticks).map(abs) if fused else source(ticks).map(quick)
    report = await flow.drain()
    assert report.stage("ticks").busy > 0.09
    assert report.bottleneck is not None
    assert report.bottleneck.stage == "ticks"


async def nap(item: int) -> int:
    """Take long for the last item."""
    await anyio.sleep(0.4 * (item == LAST))
    return item


def nap_in_thread(item: int) -> int:
    time.sleep(0.4 * (item == LAST))
    return item


async def nap_within(item: int) -> AsyncIterator[int]:
    yield item
    yield await nap(item)


LAST = -1
BUSY: dict[str, tuple[Callable[[Flow[Any, int]], Flow[Any, int]], int]] = {
    "async": (lambda flow: flow.map(nap), 1),
    "behind it": (lambda flow: flow.map(nap).map(abs), 1),
    "timeout": (lambda flow: flow.map(nap, timeout=9), 1),
    "filter": (lambda flow: flow.filter(nap), 1),
    "flat_map": (lambda flow: flow.flat_map(nap_within), 1),
    "two at once": (lambda flow: flow.map(nap, concurrency=2), 2),
    "two, with a timeout": (lambda flow: flow.map(nap, concurrency=2, timeout=9), 2),
    "two flat_maps": (lambda flow: flow.flat_map(nap_within, concurrency=2, ordered=False), 2),
    "a thread": (lambda flow: flow.map(nap_in_thread, on=Threads(1)), 1),
    "two threads": (lambda flow: flow.map(nap_in_thread, on=Threads(2)), 2),
    "two threads, with a timeout": (
        lambda flow: flow.map(nap_in_thread, on=Threads(2), timeout=9),
        2,
    ),
}


@pytest.mark.parametrize("before", [0, 1, 40])
async def test_a_call_under_way_counts(before: int) -> None:
    """As much as one that has ended, also where only one call in so many is timed."""

    async def once(line: Flow[Any, int], width: int, timing: bool) -> None:
        async with line.open(timing=timing) as run:
            await run.feed(range(before))
            await settle(200)
            await anyio.sleep(0.02)
            name = next(stage.name for stage in run.report().stages if "nap" in stage.name)
            while run.report().stage(name).in_hand:
                await anyio.sleep(0.001)
            for _ in range(width):
                await run.send(LAST)
            while (first := run.report()).stage(name).in_hand < width:
                await anyio.sleep(0.001)
            await anyio.sleep(0.2)
            report = run.report()
            run.interrupt()
        passed = report.elapsed - first.elapsed
        busy = report.stage(name).busy - first.stage(name).busy
        told = (str(line), timing, busy, passed)
        assert width * (min(passed, 0.4) / 2) <= busy <= width * passed + 0.01, told
        waiting = report.stage(name).waiting - first.stage(name).waiting
        assert waiting <= 0.1, report
        assert report.bottleneck is not None
        assert report.bottleneck.stage == name

    async def check(line: Flow[Any, int], width: int, timing: bool) -> None:
        for again in reversed(range(10)):
            try:
                await once(line, width, timing)
            except AssertionError:  # the machine may have been elsewhere
                if not again:
                    raise
            else:
                return

    with soon(30):
        async with anyio.create_task_group() as group:
            for timing in (False, True):
                for line, width in BUSY.values():
                    group.start_soon(check, line(Input[int]()), width, timing)


@pytest.mark.parametrize("buffer", [1, 50])
async def test_nobody_does_two_things_at_a_time(buffer: int) -> None:
    """One call at a time, waiting and being blocked are never more than the time that has passed."""

    def check(run: Run[Any, Any]) -> None:
        report = run.report()
        for stage in report.stages:
            told = stage.busy + stage.waiting + stage.blocked
            assert told <= report.elapsed + 1e-4, (stage, report.elapsed)

    async def watch(line: Flow[Any, int]) -> None:
        async with line.open(buffer=buffer) as run:
            for number in range(60):
                with contextlib.suppress(anyio.WouldBlock):
                    run.send_nowait(number)
                    run.send_nowait(LAST if number % 20 == 11 else number)
                await anyio.sleep(0.004)
                for _ in range(10):
                    check(run)
                    await checkpoint()
                if number % 20 == 19:
                    run.interrupt()
                    check(run)
                if number % 3 == 0:
                    with anyio.move_on_after(0.002):
                        async for _ in run:
                            check(run)
        check(run)

    with soon():
        async with anyio.create_task_group() as group:
            for line, width in BUSY.values():
                if width == 1:
                    group.start_soon(watch, line(Input[int]()))


async def test_printed_and_as_a_dict() -> None:
    """A table with a row a stage; columns where nothing happened are left out."""
    report = await Input[int]().map(abs).filter(lambda item: item).drain(range(3))
    text = str(report)
    lines = text.splitlines()
    assert lines[0].split()[:4] == ["stage", "taken", "done", "given"]
    assert [line.split()[0] for line in lines[2:5]] == ["input", "abs", "lambda"]
    assert "filtered" in lines[0]
    assert "skipped" not in lines[0]
    assert "elapsed" in text
    told = json.loads(json.dumps(report.to_dict()))
    assert told["stages"][2]["filtered"] == 1
    with pytest.raises(KeyError, match="no stage is named 'nobody'; the stages are 'input', 'abs'"):
        report.stage("nobody")


async def test_a_printed_row_adds_up() -> None:
    """A column is there when any stage has something in it: of a live run, what is in hand."""
    failed: set[int] = set()

    async def slow(item: int) -> int:
        if item == 3 or item not in failed:
            failed.add(item)
            raise OSError(item)
        await anyio.sleep_forever()
        return item

    work = Input[int]().filter(lambda item: item, name="some")
    work = work.map(slow, retry=Retry(2), concurrency=4, ordered=False, on_error="skip")
    with soon():
        async with work.open(range(5)) as run:
            await settle()
            heading, _, *rows = str(run.report()).splitlines()
            run.interrupt()
            gone = str(run.report()).splitlines()[0]
    names = re.split(r"  +", heading)
    assert [
        n for n in names if n in ("filtered", "skipped", "discarded", "in hand", "retries")
    ] == [
        "filtered",
        "skipped",
        "in hand",
        "retries",
    ]
    told = [dict(zip(names, re.split(r"  +", row), strict=True)) for row in rows[:3]]
    for row in told:
        ways = ("done", "filtered", "skipped", "in hand")
        assert int(row["taken"]) == sum(int(row[way]) for way in ways)
    assert told[2]["in hand"] == "3"
    assert told[2]["retries"] == "4"
    assert "discarded" in gone
    assert "in hand" not in gone


async def test_a_report_is_frozen() -> None:
    """It is of one moment; the next one is another."""
    async with Input[int]().map(abs).open() as run:
        before = run.report()
        await run.send(1)
        run.finish()
        async for _ in run:
            pass
        assert before.stage("abs").taken == 0
        assert run.report().stage("abs").done == 1
    after = run.report()
    await anyio.sleep(0.002)
    assert run.report().elapsed == after.elapsed
