"""Deep and wide graphs, and the bound of what is inside."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from flowstage import Flow, Graph, Input, Threads, gather, merge, source, zip, zip_latest

from .accounts import soon
from .harness import no_leaks


def same(value: Any) -> Any:
    return value


async def later(value: Any) -> Any:
    await anyio.lowlevel.checkpoint()
    return value


def chain(fn: Callable[[Any], Any]) -> Flow[Any, Any]:
    flow: Flow[Any, Any] = Input[int]("x")
    for _ in range(1_000):
        flow = flow.map(fn)
    return flow


def gathers() -> Flow[Any, Any]:
    flow: Flow[Any, Any] = Input[int]("x")
    for _ in range(300):
        flow = gather(flow.map(same), flow.map(same)).map(lambda row: row[0])
    return flow


def gathers_to_the_root() -> Flow[Any, Any]:
    x: Flow[Any, Any] = Input[int]("x")
    flow = x
    for _ in range(300):
        flow = gather(flow, x.map(same)).map(lambda row: row[0])
    return flow


def zips() -> Flow[Any, Any]:
    flow: Flow[Any, Any] = Input[int]("x")
    for _ in range(300):
        flow = zip(flow, source(range(20))).map(lambda row: row[0])
    return flow


def wide() -> Flow[Any, Any]:
    x = Input[int]("x")
    return gather(*(x.map(later) for _ in range(1_000))).map(lambda row: row[0])


def with_failures() -> Flow[Any, Any]:
    return merge(flow := chain(same), flow.failures())


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: chain(same),
        lambda: chain(later),
        gathers,
        gathers_to_the_root,
        zips,
        wide,
        with_failures,
    ],
    ids=["inline", "async", "gathers", "gathers_to_the_root", "zips", "wide", "with_failures"],
)
async def test_a_graph_of_a_thousand_stages(make: Callable[[], Flow[Any, Any]]) -> None:
    """It is made and opened in less than half a second of processor time, and runs."""
    gc.collect()
    began = time.process_time()
    flow = make()
    with no_leaks():
        async with flow.open(range(10)) as run:
            opened = time.process_time() - began
            assert [item async for item in run] == [*range(10)]
    assert opened < 1.0  # half a second on a quiet machine, with some room


class Thing:
    """An item that can be watched."""

    __slots__ = ("__weakref__",)


class Counter:
    """A source of items that knows how many of its items are alive."""

    def __init__(self) -> None:
        self.alive: weakref.WeakSet[Thing] = weakref.WeakSet()
        self.most = 0

    def items(self) -> Any:
        for _ in range(400):
            thing = Thing()
            self.alive.add(thing)
            self.most = max(self.most, len(self.alive))
            yield thing
            del thing


def watched(counter: Counter) -> dict[str, Callable[[Flow[Any, Any]], Flow[Any, Any]]]:
    return {
        "line": lambda x: x.map(later).map(later),
        "pool": lambda x: x.map(later, concurrency=4),
        "unordered": lambda x: x.map(later, concurrency=4, ordered=False),
        "threads": lambda x: x.map(same, on=Threads(1), timeout=5),
        "batch": lambda x: x.batch(3),
        "buffer": lambda x: x.buffer(3).map(later),
        "flat_map": lambda x: x.flat_map(lambda v: [v, v]),
        "merge": lambda x: merge(x.map(same), x.map(later)),
        "gather": lambda x: gather(x.map(same), x.map(later, concurrency=3)),
        "zip_latest": lambda x: zip_latest(x.map(same), x.map(later)),
        "balance": lambda x: merge(*(way.map(later) for way in x.balance(3))),
        "route": lambda x: merge(*x.route(lambda v: id(v) // 16 % 2, [0, 1]).values()),
    }


@pytest.mark.parametrize("shape", watched(Counter()))
@pytest.mark.parametrize("buffer", [0, 1, 5])
async def test_no_more_is_inside_than_the_bound(shape: str, buffer: int) -> None:
    """With a reader that stalls: what is alive, and what the report finds, stays below it."""
    counter = Counter()
    flow = watched(counter)[shape](Input[Thing]("x"))
    graph = Graph(flow)
    bound = graph.plan(buffer).bound
    most = 0
    with no_leaks(), soon():
        async with graph.open(counter.items, buffer=buffer) as run:
            taken = 0
            (name,) = run._live.topology.ends
            async for _ in run.output(name):
                taken += 1
                if taken % 50 == 1:
                    await anyio.sleep(0.002)
                most = max(most, inside(run))
    assert most <= bound
    if shape != "batch":  # a batch of three is one item
        assert counter.most <= bound + 2  # one in the reader's hand, one in the source's


def inside(run: Any) -> int:
    """Count the items inside as the report tells them."""
    report = run.report()
    return sum(stage.in_hand for stage in report.stages if stage.kind != "buffer") + sum(
        edge.inside for edge in report.edges
    )
