"""Small random graphs that must never be called deadlocked, and a family that always must."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from anyio import create_task_group, move_on_after, sleep, to_thread

from flowstage import ClosedError, Flow, Graph, Input, Threads, concat, gather, merge, source, zip

Any_ = Flow[Any, Any]


async def wait_a_little(item: Any) -> Any:
    await sleep(0.0005 if len(str(item)) % 2 else 0)
    return item


def same(item: Any) -> Any:
    return item


def twice(item: Any) -> list[Any]:
    return [item, item]


async def remembering(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield item


async def impatient(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Ask for the next item with a timer, as a debounce does."""
    while True:
        item = None
        with move_on_after(0.002):
            item = await anext(items, "the end")
        if item == "the end":
            return
        if item is not None:
            yield item


class Maker:
    """Makes one graph of a seed: everything but joins that read in turn what grows together."""

    def __init__(self, seed: int, *, threads: bool) -> None:
        self.rng = random.Random(seed)
        self.count = self.rng.choice([1, 5, 20, 60])
        self.buffer = self.rng.choice([0, 1, 2, 5, 100])
        self.threads = threads
        self.inputs: list[Any_] = []
        self.flows: list[Any_] = []
        for number in range(self.rng.randint(1, 3)):
            self.flows.append(self.entry(str(number)))
        for _ in range(self.rng.randint(1, 8)):
            self.grow()
        read = {port for flow in self.flows for port in flow._port.node.upstream}
        self.graph = Graph(*[flow for flow in self.flows if flow._port not in read])

    def entry(self, name: str) -> Any_:
        if self.rng.random() < 0.4:
            flow: Any_ = Input(f"input {name}")
            self.inputs.append(flow)
            return flow
        return source(range(self.count), name=f"source {name}")

    def grow(self) -> None:
        rng, flow = self.rng, self.rng.choice(self.flows)
        kind = rng.randrange(14)
        if kind == 0:
            self.flows.append(merge(*rng.sample(self.flows, min(2, len(self.flows)))))
        elif kind == 1:
            self.flows.append(gather(flow.map(same), flow.map(wait_a_little), flow.filter(bool)))
        elif kind == 2:
            fresh = [source(range(self.count)).map(same) for _ in range(2)]
            self.flows.append(rng.choice([zip, concat])(*fresh))
        elif kind == 3:
            self.flows.append(merge(*flow.balance(2)))
        elif kind == 4:
            branches = flow.route(lambda item: len(str(item)) % 2, [0, 1])
            self.flows += branches.values()
        elif kind == 5:
            self.flows.append(flow.map(wait_a_little, concurrency=3, ordered=rng.random() < 0.5))
        elif kind == 6:
            self.flows.append(flow.flat_map(twice).buffer(rng.choice([1, 3])))
        elif kind == 7:
            self.flows.append(flow.batch(3, within=rng.choice([None, 0.001])).flat_map(list))
        elif kind == 8:
            self.flows.append(flow.transform(rng.choice([remembering, impatient])))
        elif kind == 9 and self.threads:
            self.flows.append(flow.map(same, on=Threads(2)))
        elif kind == 10:
            self.flows.append(flow.flat_map(twice, concurrency=1, on=self.place()).batch(2))
        elif kind == 11:
            self.flows.append(flow.buffer(1, overflow=rng.choice(["drop_oldest", "drop_newest"])))
        else:
            self.flows.append(flow.map(rng.choice([same, wait_a_little])))

    def place(self) -> Threads | None:
        return Threads(1) if self.threads else None

    async def live(self) -> dict[str, int]:
        """Open, feed, read everything at once, interrupt and close in between; give the counts."""
        rng, counts = self.rng, dict.fromkeys(self.graph._topology.ends, 0)
        async with self.graph.open(buffer=self.buffer) as run, create_task_group() as group:

            async def feed(flow: Any_) -> None:
                with suppress(ClosedError):  # enough was read of everything that grows from it
                    for item in range(self.count):
                        await run.send(item, to=flow)
                        if rng.random() < 0.05:
                            await run.send_sentinel(item)
                run.finish(to=flow)

            async def read(name: str) -> None:
                output = run.output(name)
                most = rng.choice([3, 10**9, 10**9, 10**9])
                async for _ in output:
                    counts[name] += 1
                    if counts[name] >= most:
                        output.close()
                        break
                    if rng.random() < 0.05:
                        await sleep(0.001)

            async def interrupt() -> None:
                for _ in range(rng.choice([0, 0, 1, 3])):
                    await sleep(0.002)
                    run.interrupt()

            for flow in self.inputs:
                if flow._port.node in self.graph._topology.nodes:
                    group.start_soon(feed, flow)
            for name in counts:
                group.start_soon(read, name)
            group.start_soon(interrupt)
            if self.threads:
                group.start_soon(to_thread.run_sync, same, 1)
        return counts


def crossed(seed: int) -> tuple[Graph, int]:
    """Two concats that read the branches of two sources in opposite order, somewhere in a graph."""
    rng = random.Random(seed)
    buffer = rng.choice([0, 1, 3, 10])

    def branch(flow: Any_) -> Any_:
        for _ in range(rng.randint(0, 3)):
            flow = rng.choice(
                [
                    lambda flow: flow.map(same),
                    lambda flow: flow.map(wait_a_little),
                    lambda flow: flow.map(wait_a_little, concurrency=2),
                    lambda flow: flow.map(same, on=Threads(1)),
                    lambda flow: flow.flat_map(twice),
                    lambda flow: flow.batch(2).flat_map(list),
                    lambda flow: flow.transform(remembering),
                    lambda flow: flow.buffer(3),
                    lambda flow: merge(*flow.balance(2)),
                    lambda flow: gather(flow.map(same), flow.map(same)),
                ]
            )(flow)
        return flow.map(same)

    a = source(range(100_000), name="a").map(same, name="from a")
    b = source(range(100_000), name="b").map(wait_a_little if rng.random() < 0.3 else same)
    x = concat(branch(a), branch(b))
    y = concat(branch(b), branch(a))
    other = source(range(5)).map(same)
    ends = [merge(x, y, other)] if rng.random() < 0.5 else [x, y, other]
    return Graph(*ends), buffer
