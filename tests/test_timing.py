"""The times of single items: what they are made of, on every way through a graph."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import flowstage
from flowstage import (
    Flow,
    Graph,
    Input,
    Retry,
    Sentinel,
    Threads,
    concat,
    gather,
    merge,
    operators,
    source,
    zip_latest,
)
from flowstage._engine import chain
from flowstage._report import Report, Timing

from .accounts import check_accounts, settle, soon

SIZE = 20
NEXT_TO_NOTHING = 1e-9

Line = Callable[[Flow[Any, Any]], Flow[Any, Any]]


def inc(item: Any) -> Any:
    return item + 1


async def later(item: Any) -> Any:
    await checkpoint()
    return item


async def twice(item: Any) -> AsyncIterator[Any]:
    yield item
    await checkpoint()
    yield item


def both(item: Any) -> list[Any]:
    return [item, item]


def lazily(item: Any) -> Iterator[Any]:
    yield from both(item)


def odd(item: Any) -> bool:
    return bool(item % 2)


def picky(item: Any) -> Any:
    if item % 5 == 3:
        raise ValueError(item)
    return item


async def picky_later(item: Any) -> Any:
    await checkpoint()
    return picky(item)


async def around(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Give something before the first item and after the last one."""
    yield -1
    async for item in items:
        yield item
        yield item
    yield -2


async def nothing_read(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    yield 1
    await checkpoint()
    yield 2


def broadcast(flow: Flow[Any, Any], join: Any = merge) -> Flow[Any, Any]:
    fork = flow.map(inc, name="fork")
    return join(fork.map(inc, name="left"), fork.map(later, name="right"))


def routed(flow: Flow[Any, Any]) -> Flow[Any, Any]:
    return merge(*(b.map(inc) for b in flow.route(odd, [True, False]).values()))


def balanced(flow: Flow[Any, Any]) -> Flow[Any, Any]:
    return merge(*(branch.map(later) for branch in flow.balance(2)))


def balanced_buffers(flow: Flow[Any, Any]) -> Flow[Any, Any]:
    return merge(*(branch.buffer(2).map(inc) for branch in flow.balance(2)))


def dead_letters(flow: Flow[Any, Any], **options: Any) -> Flow[Any, Any]:
    main = flow.map(picky_later if "concurrency" in options else picky, name="picky", **options)
    return merge(main.map(inc), main.failures().map(lambda failure: failure.item, name="dead"))


def with_another(flow: Flow[Any, Any], join: Any) -> Flow[Any, Any]:
    return join(flow.map(inc), source(range(SIZE)).map(inc, name="other"))


LINES: dict[str, Line] = {
    "nothing": lambda flow: flow,
    "map": lambda flow: flow.map(inc),
    "fused maps": lambda flow: flow.map(inc).map(inc).map(inc),
    "async": lambda flow: flow.map(later),
    "async and plain": lambda flow: flow.map(later).map(inc).map(later).map(inc),
    "fused mixed": lambda flow: flow.map(inc).filter(odd).tap(inc).map(inc),
    "filter last": lambda flow: flow.map(inc).filter(odd),
    "pool": lambda flow: flow.map(later, concurrency=4).map(inc),
    "unordered pool": lambda flow: flow.map(later, concurrency=4, ordered=False),
    "filter pool": lambda flow: flow.filter(later, concurrency=3),
    "threads": lambda flow: flow.map(inc, on=Threads(2)),
    "threads in turn": lambda flow: flow.map(inc, on=Threads(2)).map(inc, on=Threads(1)),
    "threads with options": lambda flow: flow.tap(inc, on=Threads(2), timeout=9),
    "failing threads": lambda flow: flow.map(picky, on=Threads(2)).map(inc),
    "flat": lambda flow: flow.flat_map(both).map(inc),
    "flat flat": lambda flow: flow.flat_map(lazily).flat_map(both).map(inc),
    "flat async": lambda flow: flow.map(inc).flat_map(twice),
    "flat pool": lambda flow: flow.flat_map(twice, concurrency=3).map(inc),
    "flat unordered": lambda flow: flow.flat_map(twice, concurrency=3, ordered=False),
    "flat threads": lambda flow: flow.flat_map(both, on=Threads(2)).map(inc),
    "lazy threads": lambda flow: flow.flat_map(lazily, on=Threads(2)).map(inc),
    "lazy threads with options": lambda flow: flow.flat_map(lazily, on=Threads(2), timeout=9),
    "batch": lambda flow: flow.batch(3).map(len),
    "batch last": lambda flow: flow.map(inc).batch(3),
    "batch in time": lambda flow: flow.batch(50, within=0.001),
    "transform": lambda flow: flow.transform(around).map(inc),
    "transform to async": lambda flow: flow.transform(around).map(later),
    "transform last": lambda flow: flow.map(inc).transform(around),
    "transform of nothing": lambda flow: flow.transform(nothing_read).map(inc),
    "segments": lambda flow: flow.transform(around, segments=True).map(inc),
    "buffer": lambda flow: flow.map(inc).buffer(2).map(later),
    "buffer last": lambda flow: flow.map(inc).buffer(2),
    "buffers": lambda flow: flow.map(inc).buffer(2).buffer(3).map(inc),
    "rendezvous": lambda flow: flow.map(inc).buffer(0).map(later),
    "rendezvous last": lambda flow: flow.map(inc).buffer(0),
    "drop oldest": lambda flow: flow.map(inc).buffer(2, overflow="drop_oldest").map(later),
    "drop newest": lambda flow: flow.map(inc).buffer(2, overflow="drop_newest").map(later),
    "drop newest last": lambda flow: flow.map(inc).buffer(2, overflow="drop_newest"),
    "drop at once": lambda flow: flow.buffer(2, overflow="drop_oldest").map(inc),
    "shared buffer": lambda flow: broadcast(flow.map(inc).buffer(3)),
    "broadcast": broadcast,
    "gather": lambda flow: broadcast(flow, gather),
    "zip": lambda flow: with_another(flow, flowstage.zip),
    "zip_latest": lambda flow: with_another(flow, zip_latest),
    "concat": lambda flow: with_another(flow, concat),
    "merge": lambda flow: with_another(flow, merge),
    "route": routed,
    "balance": balanced,
    "balance, buffers": balanced_buffers,
    "retry": lambda flow: flow.map(picky, retry=Retry(2)).map(inc),
    "scan": lambda flow: flow.pipe(operators.scan, lambda a, b: a + b, 0).map(inc),
    "take": lambda flow: flow.map(inc).pipe(operators.take, 5),
    "dead letters": dead_letters,
    "dead letters of a pool": lambda flow: dead_letters(flow, concurrency=2),
    "dead letters of threads": lambda flow: dead_letters(flow, on=Threads(2)),
}
UNSURE = {"drop", "batch in time", "zip_latest", "take"}  # what comes out depends on the schedule

STARTS: dict[str, Callable[[], Flow[Any, Any]]] = {
    "input": lambda: Input[Any]("in"),
    "source": lambda: source(range(SIZE), name="in"),
    "threads": lambda: source(range(SIZE), on=Threads(1), name="in"),
}


def open_line(flow: Flow[Any, Any], start: str, **options: Any) -> Any:
    return flow.open(range(SIZE), **options) if start == "input" else flow.open(**options)


def check_times(timing: Timing | None) -> Timing:
    """Assert that the parts of all times add up, for each item and for each stage."""
    assert timing is not None
    for item in timing.items:
        assert item.latency >= 0
        assert sum(part.total for part in item.stages.values()) == pytest.approx(item.latency)
        for part in item.stages.values():
            assert min(part.queue_wait, part.computation, part.transmission) >= -NEXT_TO_NOTHING
    summaries = [timing.latency]
    total = 0.0
    for times in timing.stages.values():
        parts = (times.queue_wait, times.computation, times.transmission)
        summaries += [*parts, times.total]
        assert len({part.count for part in (*parts, times.total)}) == 1
        assert sum(part.mean for part in parts) == pytest.approx(times.total.mean)
        total += times.total.mean * times.total.count
    assert total == pytest.approx(timing.latency.mean * timing.latency.count)
    for summary in summaries:
        assert summary.p50 <= summary.p90 <= summary.p99
        assert summary.low - NEXT_TO_NOTHING <= summary.p50
        assert summary.p99 <= summary.high + NEXT_TO_NOTHING
        assert summary.low - NEXT_TO_NOTHING <= summary.mean <= summary.high + NEXT_TO_NOTHING
    if timing.latency.count:
        assert timing.efficiency + timing.overhead == pytest.approx(1)
        assert 0 <= timing.efficiency <= 1 + NEXT_TO_NOTHING
    return timing


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
async def test_the_parts_add_up_to_the_latency(line: Line) -> None:
    """On every way through a graph, at every capacity, wherever the items come from."""
    for start, begin in STARTS.items():
        for buffer in (0, 1, 100):
            got = 0
            with soon():
                flow = line(begin())
                async with open_line(
                    flow, start, buffer=buffer, timing=True, on_error="skip"
                ) as run:
                    async for _ in run:
                        got += 1
                        if got == 3:
                            check_times(run.report().timing)
            timing = check_times(run.report().timing)
            dropped = sum(edge.dropped for edge in run.report().edges)
            assert got <= timing.latency.count <= got + dropped
            assert len(timing.items) == timing.latency.count
            json.dumps(run.report().to_dict())
            assert str(timing.latency.count) in str(run.report())


@pytest.mark.parametrize("policy", ["raise", "emit"])
@pytest.mark.parametrize(
    "line",
    [line for name, line in LINES.items() if not any(word in name for word in UNSURE)],
    ids=[name for name in LINES if not any(word in name for word in UNSURE)],
)
async def test_the_same_comes_out_with_and_without(line: Line, policy: Any) -> None:
    """Results and failures; times change nothing."""

    async def play(start: str, *, timing: bool) -> Any:
        got: list[str] = []
        flow = line(STARTS[start]().map(picky, name="first"))
        try:
            with soon():
                async with open_line(flow, start, buffer=2, timing=timing, on_error=policy) as run:
                    async for event in run.events():
                        got.append(repr(event))
        except ValueError as error:
            return repr(error), error.__notes__
        assert (run.report().timing is not None) is timing
        check_accounts(run.report(), over=True)
        return Counter(got), [record.stage for record in run.failures]

    for start in STARTS:
        first, second = await play(start, timing=False), await play(start, timing=True)
        if policy == "emit":
            assert Counter(first[1]) == Counter(second[1])
            first, second = first[0], second[0]
        assert first == second


async def test_without_there_is_none() -> None:
    """Off is the default."""
    async with Input[int]().map(inc).open([1]) as run:
        async for _ in run:
            assert run.report().timing is None
    assert run.report().timing is None
    assert run.report().to_dict()["timing"] is None


async def test_the_stages_of_an_item_are_told_in_its_order() -> None:
    """By name, those it passed only, each once."""
    flow = Input[int]("in").map(inc, name="a").map(later, name="b").batch(2, name="c")
    timing = await times_of(flow.filter(len, name="d"), range(8))
    for item in timing.items:
        assert list(item.stages) == ["a", "b", "c", "d"]
    assert list(timing.stages) == ["a", "b", "c", "d"]


async def times_of(flow: Flow[Any, Any], items: Any = (), **options: Any) -> Timing:
    """Run a flow to its end and give the times of its items."""
    with soon():
        report: Report = await flow.drain(items, timing=True, **options)
    return check_times(report.timing)


def busy(seconds: float = 0.02) -> None:
    time.sleep(seconds)


async def test_where_the_time_goes() -> None:
    """Computation is the call, transmission is waiting for a turn and for room."""

    async def slow(item: int) -> int:
        await anyio.sleep(0.02 if item == 0 else 0.005)
        return item

    flow = Input[int]().map(slow, concurrency=3, name="slow")
    first, second, third = (await times_of(flow, range(3))).items
    for item, low in ((first, 0.02), (second, 0.005), (third, 0.005)):
        # uvloop counts in milliseconds: a sleep may end one early
        assert low - 0.0015 <= item.stages["slow"].computation
    assert first.stages["slow"].transmission < second.stages["slow"].transmission
    assert second.stages["slow"].transmission > 0.01  # for its turn
    assert third.stages["slow"].transmission > 0.01

    async with Input[int]().map(inc, name="inc").open([1, 2], buffer=1, timing=True) as run:
        await settle()
        await anyio.sleep(0.02)
        async for _ in run:
            pass
    first, second = check_times(run.report().timing).items
    assert first.stages["inc"].transmission < second.stages["inc"].transmission
    assert second.stages["inc"].transmission > 0.01  # for room


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"on": Threads(1)}])
async def test_sleeps_between_retries_are_queue_wait(options: dict[str, Any]) -> None:
    """Both tries are computation."""
    tries = count(1)
    spent: list[float] = []

    def plain(item: int) -> int:
        began = time.perf_counter()
        busy(0.005)
        spent.append(time.perf_counter() - began)
        if next(tries) % 2:
            raise ValueError
        return item

    async def asynchronous(item: int) -> int:
        return plain(item)

    fn = asynchronous if "concurrency" in options else plain
    for verb in ("map", "tap"):
        spent.clear()
        flow = getattr(Input[int](), verb)(fn, retry=Retry(2, delay=0.03), name="s", **options)
        (item,) = (await times_of(flow, [1])).items
        assert item.stages["s"].queue_wait > 0.025
        assert item.stages["s"].computation > sum(spent)
        assert item.latency - item.stages["s"].computation > 0.025


async def test_a_batch_has_the_clock_of_its_oldest_item() -> None:
    """And what it was held for is queue wait."""
    flow = Input[int]().map(inc, name="inc").batch(2, name="batch")
    with soon():
        async with flow.open(timing=True) as run:
            began = time.perf_counter()
            await run.send(1)
            sent = time.perf_counter()
            await anyio.sleep(0.03)
            await run.send(2)
            run.finish()
            async for _ in run:
                pass
    (item,) = check_times(run.report().timing).items
    assert began < item.created < sent
    assert item.stages["batch"].queue_wait > 0.025


@pytest.mark.parametrize("verb", ["map", "flat_map"])
async def test_time_begins_when_an_item_is_inside(verb: str) -> None:
    """What a `send` or a source waits for room is before that."""

    begun: list[float] = []

    async def slow(item: int) -> Any:
        begun.append(time.perf_counter())
        await anyio.sleep(0.02)
        return item if verb == "map" else [item]

    for begin in (Input[int], lambda: source(range(5))):
        begun.clear()
        flow = getattr(begin(), verb)(slow, name="slow")
        with soon():
            async with flow.open(buffer=1, timing=True) as run:
                async with anyio.create_task_group() as group:

                    async def send(run: Any = run) -> None:
                        for item in range(5):
                            await run.send(item)
                        run.finish()

                    if begin is Input[int]:
                        group.start_soon(send)
                    async for _ in run:
                        pass
        items = check_times(run.report().timing).items
        assert len(items) == 5
        # The edge holds one, so an item is inside only when the one before it has been taken.
        for item, before_began in zip(items[1:], begun, strict=False):
            assert item.created > before_began


async def test_a_transform_works_only_while_it_has_the_word() -> None:
    """Waiting for items and for room is not its computation."""

    async def last(items: AsyncIterator[int]) -> AsyncIterator[int]:
        found = -1
        async for item in items:
            found = item
        yield found
        yield found

    with soon():
        async with Input[int]().transform(last, name="last").open(timing=True, buffer=1) as run:
            await run.send(1)
            await anyio.sleep(0.03)
            run.finish()
            await settle()
            await anyio.sleep(0.03)
            async for _ in run:
                pass
    first, second = check_times(run.report().timing).items
    assert first.stages["last"].computation < 0.02
    assert first.stages["last"].queue_wait > 0.025
    assert second.stages["last"].computation < 0.02
    assert second.latency > 0.05


async def test_results_of_no_item_begin_where_they_are_made() -> None:
    """What a transform gives before it has read anything, also after an interrupt."""
    asked = anyio.Event()

    async def eager(items: AsyncIterator[int]) -> AsyncIterator[int]:
        yield 0
        asked.set()
        async for item in items:
            yield item

    with soon():
        async with Input[int]().transform(eager).map(inc, name="inc").open(timing=True) as run:
            await asked.wait()
            await run.send(1)
            await settle()
            await anyio.sleep(0.03)
            run.interrupt()
            run.finish()
            got = [item async for item in run]
    assert got == [1]
    assert check_times(run.report().timing).items[-1].latency < 0.02


async def test_kept_items_are_bounded() -> None:
    """The last thousand singly, all of them in the sums."""
    for flow in (Input[int]().map(inc), Input[int]().map(inc).filter(odd).tap(inc)):
        timing = await times_of(flow, range(5000))
        assert len(timing.items) == 1000
        assert timing.latency.count in (5000, 2500)
        assert all(s.total.count == timing.latency.count for s in timing.stages.values())
        created = [item.created for item in timing.items]
        assert created == sorted(created)


async def test_every_end_counts() -> None:
    """Each branch's copy is an item of its own, with times of its own."""
    fork = Input[int]("in").map(inc, name="fork")
    left, right = fork.map(later, name="left"), fork.filter(odd, name="right")
    with soon():
        report = await Graph(left=left, right=right, fork=fork).drain(range(10), timing=True)
    timing = check_times(report.timing)
    assert timing.latency.count == 25
    assert {name: times.total.count for name, times in timing.stages.items()} == {
        "fork": 25,
        "left": 10,
        "right": 5,
    }


async def test_an_item_given_back_has_left_once() -> None:
    """What stood before a branch of `balance` that went away goes to another."""
    first, second = Input[int]("in").balance(2)
    graph = Graph(a=first, b=second.map(later, name="b"))
    with soon():
        async with graph.open(range(6), timing=True) as run:
            await settle()
            run.output("a").close()
            got = [item async for item in run.output("b")]
    assert len(got) >= 5
    check_times(run.report().timing)


async def test_what_a_lossy_end_refuses_has_no_times() -> None:
    """It has never come in."""
    flow = Input[int]().map(inc).buffer(2, overflow="drop_newest")
    with soon():
        async with flow.open(range(10), timing=True) as run:
            await settle()
            got = [item async for item in run]
    assert check_times(run.report().timing).latency.count == len(got)


@pytest.mark.parametrize(
    "line", [LINES[name] for name in ("map", "async and plain", "pool", "threads", "transform",
                                      "lazy threads", "broadcast", "gather", "batch", "balance")]
)  # fmt: skip
async def test_through_interrupts_sentinels_and_early_ends(line: Line) -> None:
    """Times stay sound, and nothing of an older epoch has a part in them."""
    rng = random.Random(1)
    for way in ("end", "leave"):
        with soon():
            async with line(Input[Any]("in")).open(buffer=2, timing=True, on_error="skip") as run:
                interrupted = 0.0
                for step in range(60):
                    try:
                        run.send_nowait(step)
                    except anyio.WouldBlock:
                        pass
                    for _ in range(rng.randrange(4)):
                        await checkpoint()
                    with anyio.move_on_after(0.001):
                        if rng.random() < 0.2:
                            await run.send_sentinel(step)
                    if rng.random() < 0.2:
                        before = check_times(run.report().timing).latency.count
                        run.interrupt()
                        interrupted = time.perf_counter()
                    if rng.random() < 0.5:
                        with anyio.move_on_after(0.001):
                            async for event in run.events():
                                assert not isinstance(event, Sentinel) or event.value <= step
                                break
                    check_times(run.report().timing)
                run.interrupt()
                before = check_times(run.report().timing).latency.count
                interrupted = time.perf_counter()
                await run.send(1)
                if way == "end":
                    run.finish()
                    async for _ in run:
                        pass
        timing = check_times(run.report().timing)
        new = list(timing.items)[before:]
        assert all(item.created >= interrupted for item in new)
        check_accounts(run.report(), over=True)


async def test_long_turns_of_failures_let_others_have_theirs() -> None:
    """A timed stage that fails all the time does not keep the loop."""
    ticks = 0

    def fail(item: int) -> int:
        if item:
            time.sleep(0.002)
            raise ValueError
        return item

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await checkpoint()

    with soon():
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            await Input[int]().map(fail, on_error="emit").drain(range(50), timing=True)
            group.cancel_scope.cancel()
    assert ticks > 30


def awaited(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Give a plain function that turns out to give an awaitable, so it stays in its neighbours' task."""

    def give(item: Any) -> Any:
        async def call() -> Any:
            return fn(item)

        return call()

    return give


def in_line(place: int, fn: Callable[[Any], Any], *, waits: bool) -> Flow[Any, Any]:
    """Three stages in one task, of which one does something of note."""
    functions = [inc, inc, inc]
    flow: Flow[Any, Any] = Input[Any]("in")
    for at, function in enumerate(functions):
        use = fn if at == place else function
        flow = flow.map(awaited(use) if waits else use, name=f"stage {at}")
    return flow


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_line_of_timed_stages_fails_in_the_right_one(place: int, waits: bool) -> None:
    """With the item that this stage was given; the others and their times go on."""

    def picky_fourth(item: Any) -> Any:
        if item == 3 + place:
            raise ValueError(item)
        if item == 7 + place:
            return Sentinel("none of yours")
        return item + 1

    with soon():
        async with in_line(place, picky_fourth, waits=waits).open(
            range(10), timing=True, on_error="emit"
        ) as run:
            events = [event async for event in run.events()]
    failures = {
        at: event for at, event in enumerate(events) if isinstance(event, flowstage.Failure)
    }
    assert [event for at, event in enumerate(events) if at not in failures] == [
        item + 3 for item in range(10) if item not in (3, 7)
    ]
    assert {at: (failure.stage, failure.item) for at, failure in failures.items()} == {
        3: (f"stage {place}", 3 + place),
        7: (f"stage {place}", 7 + place),
    }
    report = run.report()
    check_accounts(report, over=True)
    timing = check_times(report.timing)
    assert timing.latency.count == 8
    assert [list(item.stages) for item in timing.items] == [["stage 0", "stage 1", "stage 2"]] * 8


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_line_of_timed_stages_is_interrupted_from_any_of_them(
    place: int, waits: bool
) -> None:
    """What that stage was at is discarded, and no stage below is called with it."""
    seen: list[Any] = []

    def interrupting(item: Any) -> Any:
        if item == 5 + place:
            run.interrupt()
        return item + 1

    flow = in_line(place, interrupting, waits=waits).tap(seen.append, name="last")
    with soon():
        async with flow.open(timing=True) as run:
            for item in range(10):
                await run.send(item)
                await settle()
            run.finish()
            assert [item async for item in run] == [item + 3 for item in range(6, 10)]
    assert seen == [item + 3 for item in range(10) if item != 5]
    check_accounts(run.report(), over=True)
    check_times(run.report().timing)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_timed_stage_that_holds_the_loop_is_named(
    place: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever it stands in its line."""
    monkeypatch.setattr(chain, "LONGEST_HOLD", 0.02)

    def slow(item: Any) -> Any:
        if item == 5 + place:
            time.sleep(0.05)
        return item + 1

    with soon():
        assert len(await in_line(place, slow, waits=False).collect(range(10), timing=True)) == 10
    assert f"stage 'stage {place}' held the event loop" in caplog.text
