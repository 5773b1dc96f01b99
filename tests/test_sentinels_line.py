"""Sentinels through every stage of a line: once, in their place, whatever lies between."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Flow, Graph, Input, Retry, Sentinel, Threads, source

from .accounts import check_accounts, settle, soon
from .conftest import virtual_time


async def later(item: Any) -> Any:
    for _ in range(item % 5):
        await checkpoint()
    return item


def refuse(item: Any) -> Any:
    if item % 3 == 0:
        raise ValueError(item)
    return item


async def refuse_later(item: Any) -> Any:
    return refuse(await later(item))


async def twice(item: Any) -> AsyncIterator[Any]:
    yield item
    await checkpoint()
    yield item


async def same(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield item


async def held(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    kept = [item async for item in items]
    for item in kept:
        yield item


Line = Callable[[Flow[Any, Any]], Flow[Any, Any]]

LINES: dict[str, Line] = {
    "nothing": lambda flow: flow,
    "map": lambda flow: flow.map(abs).map(abs),
    "async": lambda flow: flow.map(later),
    "pool": lambda flow: flow.map(later, concurrency=3),
    "unordered": lambda flow: flow.map(later, concurrency=3, ordered=False),
    "threads": lambda flow: flow.map(abs, on=Threads(2)),
    "unordered threads": lambda flow: flow.map(abs, on=Threads(3), ordered=False),
    "timed threads": lambda flow: flow.map(abs, on=Threads(2), timeout=9),
    "skips": lambda flow: flow.map(refuse, on_error="skip"),
    "skips in a pool": lambda flow: flow.map(refuse_later, concurrency=3, on_error="skip"),
    "skips unordered": lambda flow: flow.map(
        refuse_later, concurrency=3, ordered=False, on_error="skip"
    ),
    "skips in threads": lambda flow: flow.map(refuse, on=Threads(2), on_error="skip"),
    "filter": lambda flow: flow.filter(lambda item: item % 2),
    "filter pool": lambda flow: flow.filter(later, concurrency=3, ordered=False),
    "flat_map": lambda flow: flow.flat_map(twice),
    "flat_map pool": lambda flow: flow.flat_map(twice, concurrency=3),
    "flat_map unordered": lambda flow: flow.flat_map(twice, concurrency=3, ordered=False),
    "flat_map threads": lambda flow: flow.flat_map(lambda item: [item] * 2, on=Threads(2)),
    "nothing comes": lambda flow: flow.flat_map(lambda item: []),
    "batch": lambda flow: flow.batch(4).flat_map(list),
    "transform": lambda flow: flow.transform(same),
    "segments": lambda flow: flow.transform(held, segments=True),
    "buffer": lambda flow: flow.buffer(1).map(abs),
    "rendezvous": lambda flow: flow.buffer(0).map(abs),
    "retry": lambda flow: flow.map(later, retry=Retry(2)),
}


def segments_of(events: list[Any]) -> list[list[Any]]:
    """What came before each sentinel, sorted, with the sentinel at its end."""
    found: list[list[Any]] = []
    part: list[Any] = []
    for event in events:
        if isinstance(event, Sentinel):
            found.append([*sorted(part), event])
            part = []
        else:
            part.append(event)
    return [*found, sorted(part)]


@pytest.mark.parametrize("buffer", [50, 1, 0])
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
async def test_once_and_in_their_place(line: Line, buffer: int) -> None:
    """After everything sent before and before everything sent after, also several in a row."""
    rng = random.Random(5)
    sent: list[Any] = []
    for number in range(1, 41):
        while rng.random() < 0.25:
            sent.append(Sentinel(number))
        sent.append(number)
    sent.append(Sentinel("last"))
    with soon():
        plain = await line(Input[Any]()).collect(
            [item for item in sent if not isinstance(item, Sentinel)]
        )
        for source in (sent, None):
            async with (
                line(Input[Any]()).open(source, buffer=buffer) as run,
                anyio.create_task_group() as group,
            ):

                async def feed(run: Any = run) -> None:
                    await run.feed(sent)
                    run.finish()

                if source is None:
                    group.start_soon(feed)
                events = [event async for event in run.events()]
            check_accounts(run.report(), over=True)
            assert sorted(e for e in events if not isinstance(e, Sentinel)) == sorted(plain)
            expected = segments_of(sent)
            found = segments_of(events)
            assert [part[-1:] for part in found[:-1]] == [part[-1:] for part in expected[:-1]]
            for got, wanted in zip(found, expected, strict=True):
                values = [item for item in got if not isinstance(item, Sentinel)]
                assert set(values) <= {item for item in wanted if not isinstance(item, Sentinel)}


async def test_results_do_not_see_them() -> None:
    """`async for` over the run and `collect` pass over them."""
    items = [1, Sentinel("a"), 2]
    assert await Input[Any]().map(abs).collect(items) == [1, 2]
    async with Input[Any]().map(abs).open(items) as run:
        assert [item async for item in run] == [1, 2]


async def test_it_takes_no_slot_and_no_seat() -> None:
    """It stands behind a call that waits, and the next call begins meanwhile if the stage is ordered."""
    gate = anyio.Event()
    begun: list[int] = []

    async def wait(item: int) -> int:
        begun.append(item)
        await gate.wait()
        return item

    for ordered in (True, False):
        gate = anyio.Event()
        begun.clear()
        with soon():
            flow = Input[int]().map(wait, concurrency=2, ordered=ordered)
            async with flow.open() as run:
                await run.send(1)
                await run.send_sentinel("s")
                await run.send(2)
                await settle()
                assert sorted(begun) == ([1, 2] if ordered else [1])
                gate.set()
                run.finish()
                assert [event async for event in run.events()] == [1, Sentinel("s"), 2]


@virtual_time
async def test_a_batch_leaves_before_it() -> None:
    """The partial batch first, none if there is none; the next begins afresh."""
    async with Input[int]().batch(3, within=100).open() as run:
        await run.send_sentinel(0)
        await run.send(1)
        await run.send_sentinel(1)
        await run.send_sentinel(2)
        for number in (2, 3, 4, 5):
            await run.send(number)
        run.finish()
        events = [event async for event in run.events()]
    assert events == [Sentinel(0), [1], Sentinel(1), Sentinel(2), [2, 3, 4], [5]]


async def test_segments() -> None:
    """The function is begun afresh behind each; all that it gives comes before; empty segments too."""
    lives = 0

    async def total(items: AsyncIterator[int]) -> AsyncIterator[Any]:
        nonlocal lives
        lives += 1
        yield ("total", sum([item async for item in items]))

    with soon():
        flow = Input[Any]().transform(total, segments=True)
        async with flow.open([1, 2, Sentinel("a"), Sentinel("b"), 3]) as run:
            events = [event async for event in run.events()]
    assert events == [
        ("total", 3),
        Sentinel("a"),
        ("total", 0),
        Sentinel("b"),
        ("total", 3),
    ]
    assert lives == 3


async def test_a_segment_that_ends_early_ends_the_stage() -> None:
    """A function that returns before its segment's end wants no more."""

    async def one(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item
            return

    with soon():
        async with Input[Any]().transform(one, segments=True).open([1, 2, Sentinel("a"), 3]) as run:
            assert [event async for event in run.events()] == [1]


async def test_values_are_never_looked_at() -> None:
    """What a sentinel brings may be anything."""

    class Hostile:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise AssertionError

        def __bool__(self) -> bool:
            raise AssertionError

        def __repr__(self) -> str:
            raise AssertionError

    value = Hostile()
    with soon():
        async with Input[Any]().map(abs).buffer(2, overflow="drop_oldest").batch(2).open() as run:
            await run.send_sentinel(value)
            run.finish()
            (event,) = [event async for event in run.events()]
    assert event.value is value


async def test_a_sentinel_is_no_item() -> None:
    """`send` refuses it, and says what to do."""
    async with Input[Any]().open() as run:
        with pytest.raises(TypeError, match=r"use run\.send_sentinel\(value\)"):
            await run.send(Sentinel(1))
        with pytest.raises(TypeError, match=r"use run\.send_sentinel\(value\)"):
            run.send_nowait(Sentinel(1))


def test_a_sentinel_has_no_subclasses() -> None:
    """One of a subclass would be data to every stage."""
    with pytest.raises(TypeError, match=r"^Sentinel cannot be subclassed; put .* into its value$"):
        type("EndOfTurn", (Sentinel,), {})
    with pytest.raises(TypeError, match="cannot be subclassed"):
        type("EndOfTurn", (Sentinel,), {"__slots__": ()}, final=True)
    assert Sentinel[int](1) == Sentinel(1) == pickle.loads(pickle.dumps(Sentinel(1)))


async def test_it_waits_for_its_place() -> None:
    """`send_sentinel` returns when it has one."""
    with soon():
        async with Input[Any]().open(buffer=1) as run, anyio.create_task_group() as group:
            await run.send(1)
            done: list[str] = []

            async def send() -> None:
                await run.send_sentinel("s")
                done.append("placed")

            group.start_soon(send)
            await settle()
            assert done == []
            async for _ in run:
                break
            await settle()
            assert done == ["placed"]


@pytest.mark.parametrize("made", ["Sentinel(1)", "pickle.loads(kept)", "copy.copy(Sentinel(1))"])
def test_the_first_sentinel_of_a_process_is_seen(made: str) -> None:
    """Nobody looks for sentinels before there was one; a stage that makes it is found out."""
    kept = pickle.dumps(Sentinel(1))
    program = f"""
import anyio, copy, pickle
from flowstage import Sentinel, StageError, source
kept = {kept!r}
def give(item):
    return {made} if item == 40 else item
for flow in (source(range(50)).map(abs).map(give).map(str), source(range(50)).buffer(9).map(give)):
    try:
        anyio.run(flow.collect)
    except StageError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count("stage 'give' gave a Sentinel as its result") == 2, done.stdout


@pytest.mark.parametrize("then", ["send", "finish", "source"])
async def test_what_stood_behind_a_sentinel_that_is_given_up(then: str) -> None:
    """Nothing is in its way any more, so it goes on at once."""
    more = anyio.Event()

    async def items() -> AsyncIterator[str]:
        yield "a"
        await more.wait()
        yield "b"

    start: Flow[Any, str] = source(items) if then == "source" else Input[str]()
    graph = Graph(main=start.map(str.upper), side=start.buffer(1, overflow="drop_newest"))
    got: list[str] = []
    given_up = anyio.CancelScope()

    with soon():
        async with graph.open() as run, anyio.create_task_group() as group:

            async def read() -> None:
                async for item in run.output("main"):
                    got.append(item)

            async def send_sentinel() -> None:
                with given_up:
                    await run.send_sentinel("given up")

            group.start_soon(read)
            if then != "source":
                await run.send("a")
            await settle()
            group.start_soon(send_sentinel)  # and it waits: `side` is full, and nobody reads it
            await settle()
            more.set()
            if then == "send":
                group.start_soon(run.send, "b")
            elif then == "finish":
                run.finish()
            await settle()
            given_up.cancel()
            await settle()
            assert got == (["A"] if then == "finish" else ["A", "B"])
            if then == "send":
                run.finish()
    check_accounts(run.report(), over=True)
