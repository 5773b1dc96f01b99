"""Deep and wide graphs, and the bound of what is inside."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from flowstage import (
    Flow,
    Graph,
    Input,
    Threads,
    concat,
    gather,
    merge,
    source,
    zip,
    zip_latest,
)

from .accounts import soon
from .harness import no_leaks


def same(value: Any) -> Any:
    return value


async def later(value: Any) -> Any:
    await anyio.lowlevel.checkpoint()
    return value


def chain(fn: Callable[[Any], Any], stages: int) -> Flow[Any, Any]:
    flow: Flow[Any, Any] = Input[int]("x")
    for _ in range(stages):
        flow = flow.map(fn)
    return flow


def gathers(stages: int) -> Flow[Any, Any]:
    flow: Flow[Any, Any] = Input[int]("x")
    for _ in range(stages // 4):
        flow = gather(flow.map(same), flow.map(same)).map(first_of)
    return flow


def gathers_to_the_root(stages: int) -> Flow[Any, Any]:
    x: Flow[Any, Any] = Input[int]("x")
    flow = x
    for _ in range(stages // 3):
        flow = gather(flow, x.map(same)).map(first_of)
    return flow


def zips(stages: int) -> Flow[Any, Any]:
    flow: Flow[Any, Any] = Input[int]("x")
    for _ in range(stages // 3):
        flow = zip(flow, source(range(20))).map(first_of)
    return flow


def concats(stages: int) -> Flow[Any, Any]:
    flow: Flow[Any, Any] = Input[int]("x")
    for _ in range(stages // 2):
        flow = concat(flow, source([]))
    return flow


def wide(stages: int) -> Flow[Any, Any]:
    x = Input[int]("x")
    return gather(*(x.map(later) for _ in range(stages))).map(first_of)


def with_failures(stages: int) -> Flow[Any, Any]:
    return merge(flow := chain(same, stages), flow.failures())


def first_of(row: Any) -> Any:
    return row[0]


GRAPHS: dict[str, Callable[[int], Flow[Any, Any]]] = {
    "inline": lambda stages: chain(same, stages),
    "async": lambda stages: chain(later, stages),
    "gathers": gathers,
    "gathers_to_the_root": gathers_to_the_root,
    "zips": zips,
    "concats": concats,
    "wide": wide,
    "with_failures": with_failures,
}

every_graph = pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)


@pytest.mark.slow
@every_graph
async def test_a_graph_of_a_thousand_stages(make: Callable[[int], Flow[Any, Any]]) -> None:
    """It works; what it takes to open one is for the benchmark `opening`."""
    with no_leaks():
        async with make(1_000).open(range(10)) as run:
            assert [item async for item in run] == [*range(10)]


class Calls:
    """Counts the calls made in a block by this thread: the same number on any machine."""

    def __enter__(self) -> Calls:
        self.count = 0
        self.before = sys.getprofile()
        sys.setprofile(self.note)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(self.before)

    def note(self, frame: Any, event: str, arg: Any) -> None:
        self.count += event in ("call", "c_call")


async def calls_to_open(make: Callable[[int], Flow[Any, Any]], stages: int) -> int:
    """Count the calls that it takes to write a graph, open it and leave it."""
    with Calls() as calls:
        async with make(stages).open():
            pass
    return calls.count


async def calls_of_tasks(count: int) -> int:
    """Count the calls that as many bare tasks and streams take."""

    async def work(inlet: Any, outlet: Any) -> None:
        with inlet, outlet:
            async for item in inlet:
                await outlet.send(item)

    with Calls() as calls:
        streams = [anyio.create_memory_object_stream[Any](100) for _ in range(count + 1)]
        async with anyio.create_task_group() as group:
            for above, below in pairwise(streams):
                group.start_soon(work, above[1], below[0])
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    for stream in (streams[0][0], streams[-1][1]):
        stream.close()
    return calls.count


@every_graph
async def test_opening_takes_calls_in_proportion(make: Callable[[int], Flow[Any, Any]]) -> None:
    """Twice the stages take twice the calls or a little more, each not many more than a bare task.

    (A `zip` or `concat` looks at all that is above it when it is written. With the square of the
    stages it would be four times.)
    """
    await calls_to_open(make, 10)  # what is made once
    few, many = [await calls_to_open(make, stages) for stages in (60, 120)]
    bare = await calls_of_tasks(120)
    assert many < 3 * few
    assert many < 10 * bare


class Thing:
    """An item that can be watched."""

    __slots__ = ("__weakref__", "number")

    number: int


class Counter:
    """A source of items that knows how many of its items are alive."""

    def __init__(self) -> None:
        self.alive: weakref.WeakSet[Thing] = weakref.WeakSet()
        self.made = self.most = 0
        self.collects = False  # an error and its traceback may be in a circle with the item

    def items(self) -> Iterator[Thing]:
        for _ in range(400):
            thing = Thing()
            self.made += 1
            thing.number = self.made
            self.alive.add(thing)
            if self.collects:
                gc.collect()
            self.most = max(self.most, len(self.alive))
            yield thing
            del thing

    def source(self, on: Threads | None = None) -> Flow[Any, Thing]:
        return source(self.items, on=on)


def refuse_some(thing: Thing) -> Thing:
    if thing.number % 3 == 0:
        raise OSError(thing.number)
    return thing


def failing(x: Flow[Any, Thing], policy: Any) -> Flow[Any, Any]:
    main = x.map(refuse_some, on_error=policy)
    return merge(main.map(later), main.failures().map(lambda failure: failure.item))


async def twice(value: Any) -> AsyncIterator[Any]:
    for _ in range(2):
        await anyio.lowlevel.checkpoint()
        yield value


Watched = Callable[[Flow[Any, Thing], Counter], Flow[Any, Any] | dict[str, Flow[Any, Any]]]

WATCHED: dict[str, Watched] = {
    "line": lambda x, _: x.map(later).map(later),
    "pool": lambda x, _: x.map(later, concurrency=4),
    "unordered": lambda x, _: x.map(later, concurrency=4, ordered=False),
    "threads": lambda x, _: x.map(same, on=Threads(1), timeout=5),
    "batch": lambda x, _: x.batch(3),
    "buffer": lambda x, _: x.buffer(3).map(later),
    "flat_map": lambda x, _: x.flat_map(lambda v: [v, v]),
    "flat_map_pool": lambda x, _: x.flat_map(twice, concurrency=4),
    "flat_map_unordered": lambda x, _: x.flat_map(twice, concurrency=4, ordered=False),
    "flat_map_threads": lambda x, _: x.flat_map(lambda v: [v, v], on=Threads(1), timeout=5),
    "merge": lambda x, _: merge(x.map(same), x.map(later)),
    "gather": lambda x, _: gather(x.map(same), x.map(later, concurrency=3)),
    "zip": lambda x, more: zip(x.map(later), more.source().map(same), more.source()),
    "zip_strict": lambda x, more: zip(x.map(later), more.source().map(same), strict=True),
    "zip_latest": lambda x, _: zip_latest(x.map(same), x.map(later)),
    "concat": lambda x, more: concat(x.map(later), more.source().map(same)),
    "balance": lambda x, _: merge(*(way.map(later) for way in x.balance(3))),
    "route": lambda x, _: merge(*x.route(lambda v: v.number % 2, [0, 1]).values()),
    "skipped": lambda x, _: failing(x, "skip"),
    "emitted": lambda x, _: failing(x, "emit"),
    "thread_source": lambda x, more: merge(x, more.source(on=Threads(1)).map(later)),
    "broadcast_ends": lambda x, _: {"a": x.map(later), "b": x.map(same), "c": x.batch(2)},
    "route_ends": lambda x, _: _named(x.route(lambda v: v.number % 3, range(3)).values()),
    "balance_ends": lambda x, _: _named(x.balance(3)),
    "mesh_ends": lambda x, more: _mesh(x, more.source()),
    "failure_ends": lambda x, _: {
        "main": (main := x.map(refuse_some, on_error="emit")).map(later),
        "dead": main.failures(),
    },
}


def _named(flows: Iterable[Flow[Any, Any]]) -> dict[str, Flow[Any, Any]]:
    return {f"end{number}": flow.map(later) for number, flow in enumerate(flows)}


def _mesh(x: Flow[Any, Any], y: Flow[Any, Any]) -> dict[str, Flow[Any, Any]]:
    return {"a": merge(x.map(later), y.map(same)), "b": merge(y.map(later), x.map(same))}


HEAVY = {"batch": 3, "zip": 3, "zip_strict": 2, "broadcast_ends": 2}
"""How many different items one result is made of."""


@contextmanager
def cheap_collections() -> Iterator[None]:
    """What is there before is not looked at when garbage is collected."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("shape", WATCHED)
@pytest.mark.parametrize("buffer", [0, 1, 5])
async def test_no_more_is_inside_than_the_bound(shape: str, buffer: int) -> None:
    """With readers that stall: what is alive, and what the report finds, stays below it."""
    counter = Counter()
    counter.collects = shape in ("skipped", "emitted", "failure_ends")
    made = WATCHED[shape](Input[Thing]("x"), counter)
    graph = Graph(**made) if isinstance(made, dict) else Graph(made)
    bound = graph.bound_with(buffer)
    most = [0]
    cheap = cheap_collections() if counter.collects else nullcontext()
    with no_leaks(), soon(), cheap:
        async with graph.open(counter.items, buffer=buffer) as run:

            async def read(name: str, every: int) -> None:
                taken = 0
                async for _ in run.output(name).events():
                    taken += 1
                    if taken % every == 1:
                        await anyio.sleep(0.002)
                    if taken % every == 1 or taken % 9 == 0:
                        most[0] = max(most[0], inside(run))

            async with anyio.create_task_group() as group:
                names = list(run._live.topology.ends)
                for number, name in enumerate(names):
                    group.start_soon(read, name, 50 + 7 * number)
    sources = sum(stage.kind in ("input", "source") for stage in run.report().stages)
    assert most[0] <= bound
    assert counter.made >= 400
    in_hands = len(names) + sources  # of readers and sources
    heavy = (HEAVY.get(shape, 1) - 1) * (max(buffer, 1) + 2)  # results at an end and in hands
    assert counter.most <= bound + in_hands + heavy


def inside(run: Any) -> int:
    """Count the items inside as the report tells them."""
    report = run.report()
    return sum(stage.in_hand for stage in report.stages if stage.kind != "buffer") + sum(
        edge.inside for edge in report.edges
    )
