"""Deadlocks are found and named, nothing else is called one, and an unread output is warned of."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from anyio import create_task_group, fail_after, from_thread, move_on_after, sleep, to_thread
from anyio.lowlevel import checkpoint

from flowstage import (
    DeadlockError,
    Flow,
    Graph,
    Input,
    Threads,
    concat,
    failure_of,
    merge,
    source,
    zip,
)
from flowstage import _still as still

from .conftest import virtual_time
from .random_standstills import Maker, crossed, same

Branch = Flow[Any, Any]


def two_sources(count: int = 1000) -> tuple[Branch, Branch]:
    return source(range(count), name="a"), source(range(count), name="b")


def crossing(a: Branch, b: Branch, *, a2: Any = lambda flow: flow, a1: Any = None) -> Graph:
    """The classical deadlock: each join waits for what the other one holds up."""
    first = (a1 or (lambda flow: flow))(a.map(same, name="a1"))
    return Graph(
        x=concat(
            first,
            b.map(same, name="b1"),
        ),
        y=concat(b.map(same, name="b2"), a2(a.map(same, name="a2"))),
    )


async def read(run: Any, name: str) -> int:
    count = 0
    async for _ in run.output(name):
        count += 1
    return count


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No grace in these tests, so that a false alarm of a moment is seen too."""
    monkeypatch.setattr(still, "DEADLOCK_AFTER", 0.0)


# -- deadlocks -------------------------------------------------------------------------------------


async def test_a_deadlock_names_the_circle_and_the_edge_to_widen() -> None:
    """Two crossed concats: who waits for whom, where, and what would help."""
    with pytest.raises(DeadlockError) as caught, fail_after(5):
        await crossing(*two_sources()).collect()
    lines = str(caught.value).splitlines()
    assert lines[0] == "the graph can no longer move:"
    assert "  'a2' waits to give to 'concat-2', an edge that is full (100 of 100)" in lines
    assert "  'concat' waits for an item from 'a1'" in lines
    assert lines[-1] == (
        "widen the edge from 'a2' to 'concat-2', which holds 100, with .buffer(n), "
        "or join with merge()"
    )
    for line, following in zip_lines(lines[1:-1]):
        awaited = re.search(r"(?:give to|item from) ('\w[\w-]*')", line)
        assert awaited
        assert following.lstrip().startswith(awaited[1])


def zip_lines(lines: list[str]) -> list[tuple[str, str]]:
    return [(line, lines[(n + 1) % len(lines)]) for n, line in enumerate(lines)]


async def test_a_deadlock_is_a_failure_of_the_run() -> None:
    """It ends the block, is recorded, and says where."""
    graph = crossing(*two_sources())
    with pytest.raises(DeadlockError) as caught, fail_after(5):
        async with graph.open() as run:
            await run.drain()
    failure = failure_of(caught.value)
    assert failure is not None
    assert failure.stage in {stage.name for stage in graph.stages}
    assert run.failures[0].error.startswith("DeadlockError: the graph can no longer move")


async def test_what_the_message_says_helps() -> None:
    """With the edge widened as told, the same graph runs to its end."""
    graph = crossing(*two_sources(300), a2=lambda flow: flow.buffer(300))
    results = await graph.collect()
    assert len(results["x"]) == len(results["y"]) == 600


@pytest.mark.parametrize("buffer", [0, 1, 7])
async def test_any_capacity(buffer: int) -> None:
    """A rendezvous edge too can be part of the circle."""
    with pytest.raises(DeadlockError, match=f"which holds {buffer}, with"), fail_after(5):
        await crossing(*two_sources(50)).collect(buffer=buffer)


async def test_readers_in_tasks_of_their_own() -> None:
    """It is a deadlock as soon as every output is waited for, whoever does so."""
    with pytest.raises(DeadlockError), fail_after(5):
        async with crossing(*two_sources()).open() as run, create_task_group() as group:
            group.start_soon(read, run, "x")
            group.start_soon(read, run, "y")


async def test_senders_who_wait_are_part_of_it() -> None:
    """Inputs at which somebody waits to send can get no more."""
    a, b = Input[int]("a"), Input[int]("b")
    with pytest.raises(DeadlockError), fail_after(5):
        async with crossing(a, b).open(buffer=3) as run, create_task_group() as group:
            for flow in (a, b):
                group.start_soon(lambda flow: run.feed(range(100), to=flow), flow)
            for name in ("x", "y"):
                group.start_soon(read, run, name)


async def test_an_input_that_may_get_more_is_alive() -> None:
    """Until it is finished: then what is left cannot move."""
    idle = Input[int]("idle")
    a, b = two_sources()
    graph = Graph(**{f"{n}": flow for n, flow in enumerate(crossing_flows(a, b))}, i=idle.map(same))
    with pytest.raises(DeadlockError), fail_after(5):
        async with graph.open() as run, create_task_group() as group:
            for name in ("0", "1", "i"):
                group.start_soon(read, run, name)
            while "circle of waits" not in run.explain():
                await sleep(0.001)
            run.finish()


def crossing_flows(a: Branch, b: Branch) -> list[Branch]:
    return [
        concat(a.map(same, name="a1"), b.map(same, name="b1")),
        concat(b.map(same, name="b2"), a.map(same, name="a2")),
    ]


async def test_closing_the_last_unread_output_shows_it() -> None:
    """Who closes an output may leave only those who wait for each other."""
    a, b = two_sources()
    graph = Graph(*crossing_flows(a, b), source([]).map(same, name="third").batch(9))
    names = list(graph._topology.ends)
    with pytest.raises(DeadlockError), fail_after(5):
        async with graph.open() as run, create_task_group() as group:
            for name in names[:2]:
                group.start_soon(read, run, name)
            await sleep(0.05)
            run.output(names[2]).close()


@pytest.mark.slow
def test_crossed_concats_are_always_found(anyio_backend: Any) -> None:
    """Whatever stages stand on the way, and wherever in a graph it is."""
    import anyio

    async def one(seed: int) -> None:
        graph, buffer = crossed(seed)
        with pytest.raises(DeadlockError, match="concat"), fail_after(8):
            await graph.drain(buffer=buffer)

    name, options = anyio_backend
    for seed in range(40):
        anyio.run(one, seed, backend=name, backend_options=options)


# -- no false alarms -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("threads", [False, True], ids=["loop", "threads"])
def test_nothing_else_is_called_a_deadlock(anyio_backend: Any, threads: bool) -> None:
    """Hundreds of small random graphs, fed, read, interrupted and closed in between, all end."""
    import anyio

    async def one(seed: int) -> None:
        with fail_after(20):
            await Maker(seed, threads=threads).live()

    name, options = anyio_backend
    for seed in range(60 if threads else 150):
        anyio.run(one, seed, backend=name, backend_options=options)


async def test_independent_joins_in_a_row() -> None:
    """Zip and concat of independent flows, of different lengths, are never in each other's way."""
    a, b, c = (source(range(n)) for n in (500, 300, 10))
    flow = concat(zip(a.map(same), b.map(same)), c.map(same))
    assert len(await flow.collect(buffer=1)) == 310


async def test_a_thread_of_an_older_epoch_is_alive() -> None:
    """After an interrupt its slot is taken until it ends; what waits for the slot is not stuck."""
    go, begun = threading.Event(), threading.Event()

    def work(item: int) -> int:
        begun.set()
        if item == 0:
            go.wait(5)
        return item

    numbers = Input[int]("numbers")
    with fail_after(5):
        async with numbers.map(work, on=Threads(1)).open() as run, create_task_group() as group:
            await run.send(0)
            await to_thread.run_sync(begun.wait)
            assert run.interrupt() == 1
            await run.send(1)
            run.finish()
            results: list[int] = []
            group.start_soon(run._read_into, [results])
            await sleep(0.05)
            go.set()
    assert results == [1]


async def test_a_timer_in_a_transform_is_alive() -> None:
    """A function that waits for its input with a timer can move by itself."""

    async def impatient(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        while True:
            item = None
            with move_on_after(0.05):
                item = await anext(items, "end")
            if item is None or item == "end":
                return
            yield item

    graph = crossing(*two_sources(200), a1=lambda flow: flow.transform(impatient))
    with fail_after(5):
        await graph.drain(buffer=5)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_a_timer_of_asyncios_own_in_a_transform_is_alive() -> None:
    """`asyncio.timeout` is one that no cancel scope knows of."""

    async def ask(items: AsyncIterator[Any]) -> Any:
        return await anext(items, None)

    async def impatient(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        item: Any = 0
        while item is not None:
            item = None
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    item = await ask(items)
            if item is not None:
                yield item

    graph = crossing(*two_sources(200), a1=lambda flow: flow.transform(impatient))
    with fail_after(5):
        await graph.drain(buffer=5)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_a_timer_of_asyncios_own_that_does_not_run_is_none() -> None:
    """Neither one that has been left nor one without a time."""

    async def patient(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async with asyncio.timeout(9) as over:
            await checkpoint()
        async with asyncio.timeout(None):
            async for item in items:
                yield item, over

    graph = crossing(*two_sources(200), a1=lambda flow: flow.transform(patient))
    with pytest.raises(DeadlockError, match="'patient' waits for an item"), fail_after(5):
        await graph.drain(buffer=5)


async def test_a_task_of_a_transform_is_alive() -> None:
    """So can one that lets another task wait for it."""

    async def by_proxy(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        while True:
            found: list[Any] = []

            async def ask(into: list[Any]) -> None:
                into.append(await anext(items, None))

            async with create_task_group() as group:
                group.start_soon(ask, found)
                await sleep(0.02)
                group.cancel_scope.cancel()
            if not found or found[0] is None:
                return
            yield found[0]

    graph = crossing(*two_sources(20), a1=lambda flow: flow.transform(by_proxy))
    with fail_after(5):
        await graph.drain(buffer=2)


async def test_a_batch_that_waits_for_its_time_is_alive() -> None:
    """A timer of the run's own is one too."""
    flow = source([1, 2, 3]).map(same).batch(10, within=0.05)
    with fail_after(5):
        assert await flow.collect() == [[1, 2, 3]]


async def test_a_reader_that_leaves_in_time_is_no_deadlock(monkeypatch: Any) -> None:
    """Whoever waits at an output may be about to go: the alarm comes a moment later."""
    monkeypatch.setattr(still, "DEADLOCK_AFTER", 0.25)
    a, b = two_sources(150)
    with fail_after(5):
        async with crossing(a, b).open() as run, create_task_group() as group:
            group.start_soon(read, run, "x")
            with move_on_after(0.05):
                await read(run, "y")
            run.output("y").close()


# -- the warning for unread outputs ----------------------------------------------------------------


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING, "flowstage")

    def get() -> list[str]:
        return [r.getMessage() for r in caplog.records if "nobody reads" in r.getMessage()]

    return get


@virtual_time
async def test_an_output_that_holds_up_a_send_is_named(warnings: Any) -> None:
    """After a second, once, with what waits."""
    numbers = Input[int]("numbers")
    async with numbers.map(same, name="results").open(buffer=2) as run:

        async def send() -> None:
            for number in range(20):
                await run.send(number)
            run.finish()

        async with create_task_group() as group:
            group.start_soon(send)
            await sleep(0.9)
            assert warnings() == []
            await sleep(0.2)
            (warning,) = warnings()
            assert warning == (
                "the run stands still because nobody reads output 'results', while a send to "
                "'numbers' waits; read it in a task of its own, or close() it"
            )
            await sleep(100)
            async for _ in run:
                await sleep(30)
    assert len(warnings()) == 1


@virtual_time
@pytest.mark.parametrize("what", ["send", "feed", "send_sentinel"])
async def test_every_way_to_send_is_a_wait(warnings: Any, what: str) -> None:
    """Items, sources and sentinels."""
    numbers = Input[int]("numbers")
    async with numbers.map(same).open(buffer=0) as run:
        with move_on_after(5):
            for _ in range(10):
                await getattr(run, what)([1] if what == "feed" else 1)
        run.interrupt()
    assert len(warnings()) == 1


@virtual_time
async def test_an_output_that_holds_up_another_reader_is_named(warnings: Any) -> None:
    """Reading one of two outputs to its end needs somebody at the other one."""
    numbers = source(range(1000))
    graph = Graph(a=numbers.map(same), b=numbers.map(str))
    async with graph.open() as run:
        with move_on_after(5):
            await read(run, "a")
        run.interrupt()
    assert len(warnings()) == 1
    assert "nobody reads output 'b', while the reader of 'a' waits" in warnings()[0]


@virtual_time
async def test_one_task_that_reads_two_outputs_in_turn(warnings: Any) -> None:
    """It is in the middle of both loops, and yet it is what the one waits for."""
    numbers = source(range(1000))
    graph = Graph(a=numbers.filter(lambda n: n > 500), b=numbers.map(str))
    async with graph.open() as run:
        with move_on_after(5):
            b, a = aiter(run.output("b")), aiter(run.output("a"))
            while True:
                await anext(b), await anext(a)
        run.interrupt()
    assert len(warnings()) == 1


@virtual_time
async def test_a_reader_that_sends_is_named_too(warnings: Any) -> None:
    """A loop that feeds back what it reads waits for itself."""
    numbers = Input[int]("numbers")
    async with numbers.flat_map(lambda n: [n, n]).open(buffer=2) as run:
        await run.send(1)
        with move_on_after(60):
            async for number in run:
                await run.send(number)
        run.interrupt()
    assert len(warnings()) == 1


@virtual_time
async def test_a_slow_reader_is_not_warned_of(warnings: Any) -> None:
    """Backpressure is no fault: neither with a source nor with somebody who sends."""
    numbers = Input[int]("numbers")
    for feed in (False, True):
        async with numbers.map(same).open(None if feed else range(20), buffer=1) as run:
            async with create_task_group() as group:
                if feed:

                    async def send() -> None:
                        await run.feed(range(20))
                        run.finish()

                    group.start_soon(send)
                async for _ in run:
                    await sleep(30)
    assert warnings() == []


@virtual_time
async def test_a_run_on_which_nobody_waits_is_not_warned_of(warnings: Any) -> None:
    """Results may lie there for as long as one likes."""
    async with source(range(1000)).map(same).open() as run:
        await sleep(1000)
        await run.drain()
    assert warnings() == []


@virtual_time
async def test_a_wait_for_something_else_is_not_warned_of(warnings: Any) -> None:
    """An unread output is not to blame where the other one would have nothing anyway."""
    a, b = Input[int]("a"), source(range(1000))
    graph = Graph(a=a.map(same), b=b.map(str))
    async with graph.open() as run:
        with move_on_after(100):
            await read(run, "a")
        run.interrupt()
    assert warnings() == []


async def test_an_idle_run_owns_no_timer() -> None:
    """Nothing is armed while all is well, however often the run comes to rest."""
    numbers = Input[int]("numbers")
    async with numbers.map(same).map(str).open() as run, create_task_group() as group:
        group.start_soon(run._read_into, [[]])
        await sleep(0.002)  # a task counts from its first step
        tasks = run._live.tasks
        for number in range(5):
            await sleep(0.002)
            await run.send(number)
            assert run._live.tasks == tasks
            assert not run._live.stillness.watching
        run.finish()


async def test_merge_is_the_remedy() -> None:
    """What the message offers as the other way out."""
    a, b = two_sources(500)
    graph = Graph(
        x=merge(a.map(same), b.map(same)),
        y=merge(b.map(same), a.map(same)),
    )
    with fail_after(5):
        results = await graph.collect(buffer=1)
    assert len(results["x"]) == len(results["y"]) == 1000


async def test_the_last_reader_who_could_have_moved_it_finds_its_output_ended() -> None:
    """It does not wait any more, so it is its end that shows the others waiting for each other."""
    a, b = two_sources()
    graph = Graph(
        x=concat(a.map(same, name="a1"), b.map(same, name="b1")),
        y=concat(b.map(same, name="b2"), a.map(same, name="a2")),
        z=source([1, 2, 3]).map(same, name="z1"),
    )

    async def read_slowly(run: Any) -> None:
        async for _ in run.output("z"):
            await sleep(0.02)

    with fail_after(5), pytest.raises(DeadlockError):
        async with graph.open(buffer=2) as run, create_task_group() as group:
            group.start_soon(read, run, "x")
            group.start_soon(read, run, "y")
            group.start_soon(read_slowly, run)
    with fail_after(5), pytest.raises(DeadlockError):
        await graph.collect(buffer=2)


@virtual_time
async def test_a_slow_reader_who_goes_away_is_missed(caplog: pytest.LogCaptureFixture) -> None:
    """Excused while it read slowly, and for no longer."""
    numbers = Input[int]("numbers")
    async with numbers.map(same).open(buffer=1) as run, create_task_group() as group:
        group.start_soon(run.feed, range(100))
        async for _ in run:
            await sleep(3)
            break
        assert not caplog.text
        await sleep(3)
        group.cancel_scope.cancel()
    assert caplog.text.count("stands still") == 1


WAITING_INSIDE = "the run stands still, because it is full and"


@virtual_time
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("verb", ["map", "flat_map", "transform"])
async def test_a_stage_that_sends_to_its_own_run(
    verb: str, concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    """When the run is full and nothing but its own sends could move it, that is said."""
    caplog.set_level(logging.WARNING, "flowstage")

    async def expand(item: int) -> list[int]:
        for number in range(5):
            await run.send(item + number)
        return [item]

    async def all_of_them(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            for value in await expand(item):
                yield value

    async def values(item: int) -> AsyncIterator[int]:
        for value in await expand(item):
            yield value

    flow: Flow[int, Any] = {
        "map": lambda: Input[int]().map(expand, concurrency=concurrency, name="expand"),
        "flat_map": lambda: Input[int]().flat_map(values, concurrency=concurrency, name="expand"),
        "transform": lambda: Input[int]().transform(all_of_them, name="expand"),
    }[verb]()
    with fail_after(60):
        async with flow.open(buffer=2) as run:
            for number in range(concurrency):
                await run.send(number)
            with move_on_after(10):
                async for _ in run:
                    pass
            (text,) = [m for m in caplog.messages if WAITING_INSIDE in m]
            assert "a call of stage 'expand' waits to send to it" in text
            caplog.clear()
            run.interrupt()


async def test_a_thread_that_sends_to_its_own_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same through the event loop, by a call in a thread."""
    monkeypatch.setattr(still, "UNREAD_AFTER", 0.02)

    def expand(item: int) -> int:
        for number in range(5):
            from_thread.run(run.send, item + number)
        return item

    with fail_after(5):
        async with Input[int]().map(expand, on=Threads(1)).open(buffer=1) as run:
            run.send_nowait(1)
            while WAITING_INSIDE not in caplog.text:
                await sleep(0.01)
    assert "stage 'expand'" in caplog.text


@virtual_time
async def test_sends_to_the_own_run_that_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said while other calls go on, or while it merely takes long."""
    slow, left = [0], [40]

    async def expand(item: int) -> int:
        if left[0]:
            left[0] -= 1
            await run.send(item)
        await sleep(1.5)  # longer than it takes to warn
        slow[0] += 1
        return item

    with fail_after(1000):
        async with Input[int]().map(expand, concurrency=4).open(buffer=2) as run:
            for number in range(3):
                await run.send(number)
            got = 0
            async for _ in run:
                got += 1
                if got == 43:
                    break
    assert slow == [43]
    assert WAITING_INSIDE not in caplog.text


@virtual_time
async def test_a_slow_reader_and_a_send_to_the_own_run(caplog: pytest.LogCaptureFixture) -> None:
    """It is merely read slowly."""

    async def expand(item: int) -> int:
        if item == 1:
            for number in range(3):
                await run.send(10 + number)
        return item

    got: list[int] = []
    with fail_after(100):
        async with Input[int]().map(expand, concurrency=2, ordered=False).open(buffer=1) as run:
            await run.send(1)
            async with create_task_group() as group:

                async def read() -> None:
                    async for item in run:
                        got.append(item)
                        await sleep(5)
                        if len(got) == 5:
                            return

                group.start_soon(read)
                await run.send(2)
    assert sorted(got) == [1, 2, 10, 11, 12]
    assert WAITING_INSIDE not in caplog.text
