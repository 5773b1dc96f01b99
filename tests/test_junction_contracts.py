"""One suite of contracts for every way in which flows part and meet.

A `Shape` is a small graph around one junction; whatever its kind, it ends when its inputs end, brings
every sentinel once to every end, lets go of everything at an interrupt, and keeps its accounts.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from attrs import frozen

from flowstage import (
    Flow,
    Graph,
    Input,
    Sentinel,
    Threads,
    concat,
    gather,
    merge,
    source,
    zip,
    zip_latest,
)

from .accounts import check_accounts, settle, soon
from .harness import no_leaks

Branch = Callable[[Flow[Any, Any]], Flow[Any, Any]]


async def later(value: Any) -> Any:
    await anyio.lowlevel.checkpoint()
    return value


def in_thread(value: Any) -> Any:
    return value


BRANCHES: dict[str, Branch] = {
    "inline": lambda flow: flow.map(lambda value: value),
    "async": lambda flow: flow.map(later),
    "pool": lambda flow: flow.map(later, concurrency=3),
    "unordered": lambda flow: flow.map(later, concurrency=3, ordered=False),
    "threads": lambda flow: flow.map(in_thread, on=Threads(2)),
}


@frozen
class Shape:
    """A graph around one junction.

    Attributes:
        graph: it, with its ends.
        inputs: its `Input` flows.
    """

    graph: Graph
    inputs: tuple[Flow[Any, Any], ...]


def of_two(join: Callable[..., Flow[Any, Any]]) -> Callable[[Branch], Shape]:
    def build(branch: Branch) -> Shape:
        a, b = Input[int]("a"), Input[int]("b")
        return Shape(Graph(out=join(branch(a), branch(b))), (a, b))

    return build


def of_fork(join: Callable[..., Flow[Any, Any]]) -> Callable[[Branch], Shape]:
    def build(branch: Branch) -> Shape:
        a = Input[int]("a")
        return Shape(Graph(out=join(branch(a), branch(a))), (a,))

    return build


def parity(value: Any) -> int:
    return value % 2


def route_merge(branch: Branch) -> Shape:
    a = Input[int]("a")
    ways = a.route(parity, [0, 1])
    return Shape(Graph(out=merge(branch(ways[0]), branch(ways[1]))), (a,))


def balance_merge(branch: Branch) -> Shape:
    a = Input[int]("a")
    return Shape(Graph(out=merge(*(branch(way) for way in a.balance(2)))), (a,))


def broadcast(branch: Branch) -> Shape:
    a = Input[int]("a")
    return Shape(Graph(left=branch(a), right=branch(a)), (a,))


def route(branch: Branch) -> Shape:
    a = Input[int]("a")
    ways = a.route(parity, [0, 1])
    return Shape(Graph(left=branch(ways[0]), right=branch(ways[1])), (a,))


def balance(branch: Branch) -> Shape:
    a = Input[int]("a")
    left, right = a.balance(2)
    return Shape(Graph(left=branch(left), right=branch(right)), (a,))


def failures(branch: Branch) -> Shape:
    a = Input[int]("a")
    main = branch(a)
    return Shape(Graph(out=merge(main, main.failures())), (a,))


def mesh(branch: Branch) -> Shape:
    a, b = Input[int]("a"), Input[int]("b")
    return Shape(Graph(left=merge(branch(a), branch(b)), right=merge(branch(b), branch(a))), (a, b))


SHAPES: dict[str, Callable[[Branch], Shape]] = {
    "merge": of_two(merge),
    "zip": of_two(zip),
    "zip_latest": of_two(zip_latest),
    "concat": of_two(concat),
    "fork_merge": of_fork(merge),
    "fork_zip_latest": of_fork(zip_latest),
    "gather": of_fork(gather),
    "route_merge": route_merge,
    "balance_merge": balance_merge,
    "broadcast": broadcast,
    "route": route,
    "balance": balance,
    "failures": failures,
    "mesh": mesh,
}
NO_ORDER = {"gather": ("unordered",)}  # shapes that refuse a kind of branch

every_shape = pytest.mark.parametrize("shape", SHAPES)
every_pair = pytest.mark.parametrize(
    ("shape", "branch"),
    [(s, b) for s in SHAPES for b in BRANCHES if b not in NO_ORDER.get(s, ())],
)
two_inputs = pytest.mark.parametrize("shape", ["merge", "zip", "zip_latest", "concat", "mesh"])
buffers = pytest.mark.parametrize("buffer", [0, 1, 100])


def build(shape: str, branch: str = "inline") -> Shape:
    return SHAPES[shape](BRANCHES[branch])


class Ends:
    """Reads all ends of a run, each in a task of its own."""

    def __init__(self, run: Any, shape: Shape) -> None:
        self.run = run
        self.events: dict[str, list[Any]] = {name: [] for name in run._live.topology.ends}

    async def read(self, name: str) -> None:
        async for event in self.run.output(name).events():
            self.events[name].append(event)

    def start(self, group: Any) -> None:
        for name in self.events:
            group.start_soon(self.read, name)

    def values(self) -> dict[str, list[Any]]:
        return {
            name: [event for event in events if not isinstance(event, Sentinel)]
            for name, events in self.events.items()
        }

    def all(self) -> list[Any]:
        return [value for values in self.values().values() for value in values]

    def sentinels(self) -> dict[str, list[Any]]:
        return {
            name: [event.value for event in events if isinstance(event, Sentinel)]
            for name, events in self.events.items()
        }


async def results(shape: Shape, items: Iterable[Any], **options: Any) -> dict[str, list[Any]]:
    return await shape.graph.collect(sources(shape, items), **options)


def sources(shape: Shape, items: Iterable[Any]) -> Any:
    if len(shape.inputs) == 1:
        return list(items)
    return {flow: list(items) for flow in shape.inputs}


# -- ending ----------------------------------------------------------------------------------------


@every_pair
async def test_empty_inputs(shape: str, branch: str) -> None:
    """Nothing in, nothing out, and it ends."""
    made = build(shape, branch)
    with no_leaks(), soon():
        assert not any((await results(made, [])).values())


@two_inputs
@buffers
@pytest.mark.parametrize("first", [0, 1])
async def test_one_input_ends_at_once_and_one_later(shape: str, buffer: int, first: int) -> None:
    made = build(shape)
    with no_leaks(), soon():
        async with made.graph.open(buffer=buffer) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
                run.finish(to=made.inputs[first])
                await settle()
                try:
                    for number in range(5):
                        await run.send(number, to=made.inputs[1 - first])
                except anyio.ClosedResourceError:
                    assert shape == "zip"  # it has ended with its first input
                run.finish()
            report = run.report()
        check_accounts(run.report(), over=True)
        assert report.failed == 0
        for values in ends.values().values():
            assert values == ([] if shape in ("zip", "zip_latest") else list(range(5)))


@two_inputs
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("other", ["silent", "ended", "flood"])
async def test_one_input_fails(shape: str, which: int, after: int, other: str) -> None:
    """Now or later, whatever the other one does: the source's own exception is raised."""
    made = build(shape)

    async def failing() -> AsyncIterator[int]:
        for number in range(after):
            yield number
        raise OSError("gone")

    async def silent() -> AsyncIterator[int]:
        await anyio.sleep_forever()
        yield 0

    others: dict[str, Any] = {"silent": silent, "ended": [], "flood": range(10_000)}
    given = {made.inputs[which]: failing, made.inputs[1 - which]: others[other]}
    with no_leaks():
        if shape == "concat" and which == 1 and other == "silent":
            with anyio.move_on_after(0.02):  # it is never opened
                await made.graph.collect(given)
        elif shape == "zip" and other == "ended":
            with soon(), suppress(OSError):  # it may have ended before
                await made.graph.collect(given)
        else:
            with soon(), pytest.raises(OSError, match="gone"):
                await made.graph.collect(given)


@every_shape
@pytest.mark.parametrize("when", ["before", "middle", "after"])
async def test_the_consumer_leaves(shape: str, when: str) -> None:
    """Leaving the block before the first item, in the middle, after the last."""
    made = build(shape)
    with no_leaks(), soon():
        async with made.graph.open(sources(made, range(20)), buffer=1) as run:
            if when != "before":
                ends = Ends(run, made)
                async with anyio.create_task_group() as group:
                    ends.start(group)
                    if when == "middle":
                        while not any(ends.events.values()):
                            await settle(1)
                        group.cancel_scope.cancel()
        check_accounts(run.report(), over=True)


@every_shape
@pytest.mark.parametrize("after", [0, 1, 3])
async def test_closing_every_end_stops_the_graph(shape: str, after: int) -> None:
    """`Output.close()` before or after some items: the producers stop, without a failure."""
    made = build(shape)
    pulled = [0]

    def endless() -> Iterable[int]:
        while True:
            pulled[0] += 1
            yield pulled[0]

    given: Any = endless if len(made.inputs) == 1 else dict.fromkeys(made.inputs, endless)
    with no_leaks(), soon():
        async with made.graph.open(given, buffer=2) as run:

            async def some(output: Any) -> None:
                count = 0
                if after:
                    async for _ in output:
                        count += 1
                        if count == after:
                            break
                output.close()

            async with anyio.create_task_group() as group:
                for name in run._live.topology.ends:
                    group.start_soon(some, run.output(name))
            while run._live.tasks:  # every task ends by itself
                await settle(1)
        check_accounts(run.report(), over=True)
        assert pulled[0] < 2_000


# -- standing still and flooding -------------------------------------------------------------------


@two_inputs
@buffers
@pytest.mark.parametrize("silent", [0, 1])
async def test_a_silent_input_holds_up_nothing_but_itself(
    shape: str, buffer: int, silent: int
) -> None:
    """It is no deadlock; an interrupt and the end of the block find everything."""
    made = build(shape)
    with no_leaks(), soon():
        async with made.graph.open(buffer=buffer) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)

                async def flood() -> None:
                    for number in range(30):
                        await run.send(number, to=made.inputs[1 - silent])

                group.start_soon(flood)
                await settle(200)
                if shape == "concat" and silent == 1:
                    assert ends.values()["out"] == list(range(30))
                elif shape in ("merge", "mesh"):
                    assert all(values == list(range(30)) for values in ends.values().values())
                run.interrupt()
                group.cancel_scope.cancel()
        check_accounts(run.report(), over=True)


@two_inputs
@buffers
async def test_a_flood_on_one_input(shape: str, buffer: int) -> None:
    """Five hundred items beside one: all come, in order."""
    made = build(shape)
    with no_leaks(), soon():
        given = {made.inputs[0]: range(500), made.inputs[1]: [-1]}
        out = await made.graph.collect(given, buffer=buffer)
    for values in out.values():
        if shape == "zip":
            assert values == [(0, -1)]
        elif shape == "zip_latest":
            assert values[-1] == (499, -1)
        else:
            assert [value for value in values if value >= 0] == list(range(500))
            assert values.count(-1) == 1


# -- sentinels -------------------------------------------------------------------------------------


@every_pair
@pytest.mark.parametrize("buffer", [0, 2])
async def test_sentinels_on_all(shape: str, branch: str, buffer: int) -> None:
    """At the very start, back to back, between items, at the very end: once at every end."""
    made = build(shape, branch)
    sent: list[int] = []
    with no_leaks(), soon():
        async with made.graph.open(buffer=buffer) as run:
            ends = Ends(run, made)

            async def mark() -> None:
                sent.append(len(sent))
                await run.send_sentinel(sent[-1])

            async with anyio.create_task_group() as group:
                ends.start(group)
                await mark()
                await mark()
                for number in range(8):
                    for flow in made.inputs[:1] if shape == "concat" else made.inputs:
                        await run.send(number, to=flow)
                    if number % 3 == 0:
                        await mark()
                        await mark()
                await mark()
                await mark()
                run.finish()
        check_accounts(run.report(), over=True)
    assert all(got == sent for got in ends.sentinels().values()), ends.events
    for events in ends.events.values():
        check_places(shape, events)


def check_places(shape: str, events: list[Any]) -> None:
    """Items keep to their side of each sentinel: 3n+1 were sent before sentinel 2n+2."""
    if shape == "concat":
        return  # the inputs are read one after the other
    highest = -1
    for event in events:
        if isinstance(event, Sentinel):
            if 2 <= event.value < 8:
                border = (event.value - 2) // 2 * 3
                assert highest <= border, events
        else:
            low = min(event) if isinstance(event, tuple) else event
            highest = max(highest, max(event) if isinstance(event, tuple) else event)
            assert low >= 0


@two_inputs
@pytest.mark.parametrize("count", [0, 3])
async def test_sentinels_from_several_sources_have_one_order(shape: str, count: int) -> None:
    """Each source brings its own, on branches that may never have an item: all ends agree."""
    made = build(shape, "pool")

    def marked(label: str) -> Callable[[], AsyncIterator[Any]]:
        async def items() -> AsyncIterator[Any]:
            yield Sentinel((label, "first"))
            for number in range(count):
                yield number
                yield Sentinel((label, number))
                yield Sentinel((label, number, "again"))
                await anyio.lowlevel.checkpoint()
            yield Sentinel((label, "last"))

        return items

    given: dict[Any, Any] = {made.inputs[0]: marked("a"), made.inputs[1]: marked("b")}
    with no_leaks(), soon():
        async with made.graph.open(given, buffer=1) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
        check_accounts(run.report(), over=True)
    orders = list(ends.sentinels().values())
    assert all(order == orders[0] for order in orders)
    assert len(set(orders[0])) == len(orders[0])
    if shape != "zip":  # which ends with its first input
        assert len(orders[0]) == 2 * (2 + 2 * count)


@every_pair
async def test_a_sentinel_alone(shape: str, branch: str) -> None:
    """No item ever comes: the sentinel does."""
    made = build(shape, branch)
    with no_leaks(), soon():
        async with made.graph.open(buffer=0) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
                await run.send_sentinel("alone")
                run.finish()
    assert all(got == ["alone"] for got in ends.sentinels().values())


# -- interrupt -------------------------------------------------------------------------------------

POINTS = ["nothing", "full", "half", "sentinel", "flowing"]


@pytest.mark.parametrize(
    ("shape", "branch"),
    [(s, b) for s in SHAPES for b in BRANCHES if b not in (*NO_ORDER.get(s, ()), "async")],
)
@pytest.mark.parametrize("point", POINTS)
async def test_interrupt(shape: str, branch: str, point: str) -> None:
    """Nothing old comes out, and what is sent later comes out as if alone.

    With nothing inside; with every buffer full and senders waiting; with items on one input only
    (half rows); with sentinels waiting in the joins; while everything flows.
    """
    made = build(shape, branch)
    alone = await results(build(shape, branch), range(100, 106))
    fresh = sorted(repr(value) for values in alone.values() for value in values)
    with no_leaks(), soon():
        async with made.graph.open(buffer=1) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                if point not in ("full", "sentinel"):
                    ends.start(group)

                async def old(flow: Any) -> None:
                    for number in range(12):
                        if point == "sentinel" and number % 4 == 1:
                            await run.send_sentinel(("old", number))
                        await run.send(number, to=flow)

                async with anyio.create_task_group() as senders:
                    some = made.inputs[:1] if point == "half" else made.inputs
                    for flow in [] if point == "nothing" else some:
                        senders.start_soon(old, flow)
                    await settle(3 if point == "flowing" else 60)
                    run.interrupt()
                    senders.cancel_scope.cancel()
                run.interrupt()  # what the senders sent between the call and their cancellation
                check_accounts(run.report())
                for events in ends.events.values():
                    events.clear()
                if point in ("full", "sentinel"):
                    ends.start(group)
                await run.send_sentinel("new")
                async with anyio.create_task_group() as senders:
                    for flow in made.inputs:
                        senders.start_soon(new, run, flow)
        check_accounts(run.report(), over=True)
    assert all(got == ["new"] for got in ends.sentinels().values()), ends.events
    got = [value for values in ends.values().values() for value in values]
    if shape in ("zip_latest", "fork_zip_latest"):
        assert set(flat(got)) <= set(range(100, 106))
        assert branch == "unordered" or got[-1] == (105, 105)
    elif (shape, branch) == ("zip", "unordered"):  # pairs by position, of whatever came first
        assert sorted(flat(got)) == sorted([*range(100, 106)] * 2)
    else:
        assert sorted(map(repr, got)) == fresh


def flat(values: Iterable[Any]) -> list[Any]:
    return [part for value in values for part in (value if isinstance(value, tuple) else (value,))]


async def new(run: Any, flow: Any) -> None:
    for number in range(100, 106):
        await run.send(number, to=flow)
    run.finish(to=flow)


@every_shape
async def test_interrupt_while_threads_run(shape: str) -> None:
    """What a thread brings after the interrupt is dropped."""

    def slow(value: int) -> int:
        time.sleep(0.002)
        return value

    made = SHAPES[shape](lambda flow: flow.map(slow, on=Threads(2)))
    with no_leaks(), soon():
        async with made.graph.open(buffer=1) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
                for number in range(2):
                    for flow in made.inputs:
                        await run.send(number, to=flow)
                await settle()
                run.interrupt()
                for events in ends.events.values():
                    events.clear()
                for flow in made.inputs:
                    await run.send(100, to=flow)
                    await run.send(101, to=flow)
                run.finish()
        check_accounts(run.report(), over=True)
    assert set(flat([value for values in ends.values().values() for value in values])) == {100, 101}


@every_shape
@pytest.mark.parametrize("at", [1, 2, 5])
async def test_interrupt_from_inside_a_branch(shape: str, at: int) -> None:
    """A stage of the run interrupts it: its own call is of the old epoch too."""
    runs: list[Any] = []
    calls = [0]

    def interrupts(value: int) -> int:
        calls[0] += 1
        if calls[0] == at:
            runs[0].interrupt()
        return value

    made = SHAPES[shape](lambda flow: flow.map(interrupts))
    with no_leaks(), soon():
        async with made.graph.open(buffer=100) as run:
            runs.append(run)
            ends = Ends(run, made)
            for number in range(6):
                for flow in made.inputs:
                    run.send_nowait(number, to=flow)
            async with anyio.create_task_group() as group:
                await settle()
                ends.start(group)
                for flow in made.inputs:
                    await run.send(100, to=flow)
                    await run.send(101, to=flow)
                run.finish()
        check_accounts(run.report(), over=True)
    assert calls[0] > at
    assert set(flat(ends.all())) == {100, 101}


@every_shape
async def test_interrupts_upon_interrupts(shape: str) -> None:
    """They overlap harmlessly, and count nothing twice."""
    made = build(shape, "pool")
    with no_leaks(), soon():
        async with made.graph.open(buffer=1) as run:
            for number in range(3):
                for flow in made.inputs:
                    run.send_nowait(number, to=flow)
                await settle()
                assert run.interrupt() > 0
                assert run.interrupt() == 0
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
                run.finish()
        assert not any(ends.events.values())
        check_accounts(run.report(), over=True)


@pytest.mark.parametrize("held", ["merge", "concat"])
async def test_a_source_behind_a_concat_has_the_sentinels_that_came_before_it(held: str) -> None:
    """It is opened late, and a join between it and the `concat` still aligns, each sentinel once."""
    first, side = Input[str]("first"), Input[str]("side")
    late = source(["late"], name="late")
    second = merge(late, side) if held == "merge" else concat(late, side)
    graph = Graph(out=concat(first, second), side=side.map(str.upper))
    with no_leaks(), soon():
        async with graph.open() as run:
            ends = Ends(run, Shape(graph, ()))
            async with anyio.create_task_group() as group:
                ends.start(group)
                for number in range(4):
                    await run.send_sentinel(number)
                await run.send("one", to=first)
                await run.send("two", to=side)
                await settle()
                run.finish(to=first)
                await settle()
                await run.send_sentinel("after")
                await run.send("three", to=side)
                run.finish()
        check_accounts(run.report(), over=True)
    assert ends.sentinels()["out"] == [0, 1, 2, 3, "after"]
    assert ends.sentinels()["side"] == [0, 1, 2, 3, "after"]
    assert sorted(ends.values()["out"]) == ["late", "one", "three", "two"]
