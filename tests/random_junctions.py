"""Random graphs of junctions with small buffers, driven at random: what `test_random_junctions` runs.

One seed gives one graph, one schedule and one driver: senders, sentinels, interrupts, ends that are
closed early or read slowly. Each item carries the epoch in which it was sent, so what an interrupt
should have discarded is recognised at the ends.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio

from flowstage import (
    ClosedError,
    Failure,
    Flow,
    Graph,
    GraphError,
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
from flowstage._stages import ConcatStage, ZipStage
from flowstage._topology import above


class Item:
    """What is sent: it knows when."""

    def __init__(self, epoch: int, number: int) -> None:
        self.epoch, self.number = epoch, number

    def __repr__(self) -> str:
        return f"<{self.epoch}.{self.number}>"


def items_in(value: Any) -> Iterator[Item]:
    """Find the items that a result is made of."""
    if isinstance(value, Item):
        yield value
    elif isinstance(value, Failure):
        yield from items_in(value.item)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from items_in(part)


class Weaver:
    """Makes a random graph."""

    def __init__(self, rng: random.Random, *, threads: bool = False, early: bool = True) -> None:
        self.rng = rng
        self.threads = threads
        self.early = early
        self.epoch = 0
        self.text: list[str] = []
        self.pushed: list[Any] = []
        self.open_ports: list[tuple[str, Flow[Any, Any]]] = []
        self.used: list[tuple[str, Flow[Any, Any]]] = []
        self.has_sources = False
        self.loses = False
        self.concats = False

    def stamp(self, number: int) -> Item:
        return Item(self.epoch, number)

    # -- functions of stages -------------------------------------------------------------------

    def plain(self) -> Callable[[Any], Any]:
        """A plain function that now and then fails."""
        every, count = self.rng.choice([0, 0, 3, 5]), [0]

        def same(value: Any) -> Any:
            count[0] += 1
            if every and count[0] % every == 0:
                raise ValueError(count[0])
            return value

        return same

    def waiting(self) -> Callable[[Any], Any]:
        """An async function that waits a little, or not, and now and then fails."""
        rng, same = random.Random(self.rng.random()), self.plain()

        async def slow(value: Any) -> Any:
            if rng.random() < 0.7:
                await anyio.sleep(rng.random() * 0.01)
            return same(value)

        return slow

    def some(self) -> Callable[[Any], bool]:
        every, count = self.rng.choice([2, 3]), [0]

        def keep(value: Any) -> bool:
            count[0] += 1
            return bool(count[0] % every)

        return keep

    # -- one step ------------------------------------------------------------------------------

    def make(self, size: int) -> Graph:
        rng = self.rng
        for number in range(rng.choice([1, 1, 2, 3])):
            if number == 0 or rng.random() < 0.5:
                flow = Input(f"in{number}")
                self.pushed.append(flow)
                self.add(f"in{number}", flow, "Input")
            else:
                self.has_sources = True
                self.add(f"src{number}", self.a_source(number), "source")
        for number in range(size):
            with suppress(GraphError):
                self.grow(f"n{number}")
        graph = Graph(**dict(self.open_ports))
        names = {stage.name for stage in graph.stages}
        self.pushed = [flow for flow in self.pushed if flow._port.node.stage.name in names]
        return graph

    def a_source(self, number: int) -> Flow[Any, Any]:
        rng = random.Random(self.rng.random())
        count, wait = rng.randrange(6), rng.random() < 0.5

        async def items() -> AsyncIterator[Any]:
            for n in range(count):
                if wait:
                    await anyio.sleep(rng.random() * 0.05)
                if rng.random() < 0.3:
                    yield Sentinel(("source", number, n, self.epoch))
                yield self.stamp(n)

        def plain() -> Iterator[Any]:
            for n in range(count):
                yield self.stamp(n)
                if n % 2:
                    yield Sentinel(("source", number, n, self.epoch))

        if rng.random() < 0.3:
            return source(plain, name=f"src{number}")
        return source(items, name=f"src{number}")

    def add(self, name: str, flow: Flow[Any, Any], text: str) -> None:
        self.open_ports.append((name, flow))
        self.text.append(f"{name} = {text}")

    def take_one(self) -> tuple[str, Flow[Any, Any]]:
        """Choose a flow to go on from: mostly an unused one, sometimes a used one again."""
        rng = self.rng
        if self.used and rng.random() < 0.35:
            return rng.choice(self.used)
        return rng.choice(self.open_ports)

    def use(self, *taken: tuple[str, Flow[Any, Any]]) -> None:
        for one in taken:
            if one in self.open_ports and self.rng.random() < 0.85:
                self.open_ports.remove(one)
            if one not in self.used:
                self.used.append(one)

    def grow(self, name: str) -> None:
        rng = self.rng
        kind = rng.choice(
            "map map async pool pool unordered filter flat batch transform segments buffer lossy "
            "route balance merge merge gather gather gather zip zip_latest concat failures".split()
        )
        if kind == "concat" and not self.concats:
            kind = "merge"
        if kind in ("merge", "gather", "zip", "zip_latest", "concat"):
            self.join(name, kind)
            return
        one = self.take_one()
        label, flow = one
        opts = {"on_error": rng.choice(["skip", "emit"]), "name": name}
        new: Flow[Any, Any]
        if kind == "map":
            new = flow.map(self.plain(), **opts)
        elif kind == "async":
            new = flow.map(self.waiting(), **opts)
        elif kind in ("pool", "unordered"):
            if self.threads and rng.random() < 0.5:
                new = flow.map(self.plain(), on=Threads(2), ordered=kind == "pool", **opts)
            else:
                new = flow.map(self.waiting(), concurrency=3, ordered=kind == "pool", **opts)
        elif kind == "filter":
            new = flow.filter(self.some(), **opts)
        elif kind == "flat":
            twice = rng.choice([1, 2])
            new = flow.flat_map(lambda value: [value] * twice, **opts)
        elif kind == "batch":
            new = flow.batch(2, within=rng.choice([None, 0.02]), name=name)
        elif kind in ("transform", "segments"):
            most = rng.choice([2, 5]) if self.early and rng.random() < 0.4 else None
            if most is not None:
                self.loses = True
            new = flow.transform(some_of(most), segments=kind == "segments", name=name)
        elif kind == "buffer":
            new = flow.buffer(rng.randrange(3), name=name)
        elif kind == "lossy":
            overflow = rng.choice(["drop_oldest", "drop_newest"])
            new = flow.buffer(rng.choice([1, 2]), overflow=overflow, name=name)
        elif kind == "failures":
            self.add(name, flow.failures(), f"failures of {label}")
            return
        elif kind == "route":
            count = [0]

            def key(value: Any) -> int:
                count[0] += 1
                return count[0] % 4

            self.use(one)
            branches = flow.route(key, [0, 1, 2], on_error=opts["on_error"], name=name)
            for number, branch in branches.items():
                self.add(f"{name}_{number}", branch, f"route {label} {opts}")
            return
        else:
            self.use(one)
            for number, branch in enumerate(flow.balance(2, name=name)):
                self.add(f"{name}_{number}", branch, f"balance {label}")
            return
        self.use(one)
        self.add(name, new, f"{kind} {label} {opts['on_error']}")

    def join(self, name: str, kind: str) -> None:
        rng = self.rng
        taken = []
        for _ in range(rng.choice([2, 2, 3])):
            one = self.take_one()
            if one not in taken:
                taken.append(one)
        flows = [flow for _, flow in taken]
        joins: dict[str, Any] = {
            "merge": merge, "gather": gather, "zip": zip, "zip_latest": zip_latest, "concat": concat,
        }  # fmt: skip
        new = joins[kind](*flows)
        if kind == "zip":
            self.loses = True
        self.use(*taken)
        self.add(name, new, f"{kind} {', '.join(label for label, _ in taken)}")


def may_block(graph: Graph) -> bool:
    """Whether a `zip` or `concat` shares an entry with another join, so the graph may come to a stop.

    Both read one input while others wait, which bounded buffers cannot always bear.
    """
    topology = graph._topology
    entries = {
        node: {up for up in above(*node.upstream) if not up.upstream} for node in topology.nodes
    }
    joins = [node for node in topology.nodes if len(node.upstream) > 1]
    return any(
        isinstance(one.stage, (ZipStage, ConcatStage)) and entries[one] & entries[other]
        for one in joins
        for other in joins
        if one is not other
    )


def some_of(most: int | None) -> Any:
    async def passes(items: Any) -> AsyncIterator[Any]:
        count = 0
        async for item in items:
            yield item
            count += 1
            if count == most:
                return

    return passes


class Driver:
    """Runs a graph, and looks at what comes out."""

    def __init__(
        self, seed: int, *, threads: bool = False, calm: bool = False, concats: bool = False
    ) -> None:
        self.rng = rng = random.Random(seed)
        while True:
            self.weaver = Weaver(rng, threads=threads, early=not calm)
            self.weaver.concats = concats
            self.graph = self.weaver.make(rng.randrange(2, 12))
            if not may_block(self.graph):
                break
        self.calm = calm  # no interrupts, no closed ends, no early ends: everything is known
        self.buffer = rng.choice([0, 0, 1, 1, 2])
        self.events: dict[str, list[Any]] = {}
        self.closed: set[str] = set()
        self.sent: list[Any] = []

    def describe(self) -> str:
        return "\n".join([*self.weaver.text, f"buffer {self.buffer}"])

    async def __call__(self) -> None:
        self.marked = anyio.Event()
        opening = self.graph.open(buffer=self.buffer)
        async with opening as run:
            async with anyio.create_task_group() as group:
                for name, _ in self.weaver.open_ports:
                    self.events[name] = []
                    group.start_soon(self.read, run, name)
                if not self.calm:
                    group.start_soon(self.disturb, run)
                for flow in self.weaver.pushed:
                    group.start_soon(self.feed, run, flow, self.rng.random())
                group.start_soon(self.mark, run)
            report = run.report()
            inside = run._live.inside()
            assert inside == 0 or self.closed, f"{inside} inside after the end\n{report}"
        check_account(run.report())
        self.check()

    async def feed(self, run: Any, flow: Any, seed: float) -> None:
        """Send items to one input."""
        rng = random.Random(seed)
        with suppress(ClosedError):
            for number in range(rng.randrange(12)):
                await run.send(self.weaver.stamp(number), to=flow)
                if rng.random() < 0.3:
                    await anyio.sleep(rng.random() * 0.02)
        if self.all_known():
            await self.marked.wait()
        run.finish(to=flow)

    async def mark(self, run: Any) -> None:
        """Send sentinels."""
        rng = random.Random(self.rng.random())
        with suppress(ClosedError):
            for number in range(rng.randrange(6)):
                value = ("sent", number, self.weaver.epoch)
                await run.send_sentinel(value)
                self.sent.append(value)
                if rng.random() < 0.3:
                    await anyio.sleep(rng.random() * 0.02)
        self.marked.set()

    async def read(self, run: Any, name: str) -> None:
        rng = random.Random(f"{name}{self.rng.random()}")
        output = run.output(name)
        most = rng.randrange(6) if not self.calm and rng.random() < 0.2 else None
        slow = rng.random() < 0.4
        if most == 0:
            self.closed.add(name)
            output.close()
            return
        async for event in output.events():
            for item in items_in(event):
                assert item.epoch == self.weaver.epoch, f"{name}: {item} is stale"
            if isinstance(event, Sentinel):
                assert event.value[-1] == self.weaver.epoch, f"{name}: {event} is stale"
            self.events[name].append(event)
            if len(self.events[name]) == most:
                self.closed.add(name)
                output.close()
                return
            if slow:
                await anyio.sleep(rng.random() * 0.02)

    async def disturb(self, run: Any) -> None:
        rng = self.rng
        for _ in range(rng.choice([0, 0, 1, 2, 3])):
            await anyio.sleep(rng.random() * 0.1)
            self.weaver.epoch += 1
            run.interrupt()

    def check(self) -> None:
        """Each sentinel once, in one order at all ends."""
        seen = {
            name: [event.value for event in events if isinstance(event, Sentinel)]
            for name, events in self.events.items()
        }
        place: dict[Any, set[Any]] = {}
        for name, values in seen.items():
            assert len(set(values)) == len(values), f"{name}: {values}"
            for number, value in enumerate(values):
                place.setdefault(value, set()).update(values[:number])
        for value, before in place.items():
            assert not any(value in place[other] for other in before), f"no one order: {seen}"
        if self.all_known():
            for name, values in seen.items():
                assert values == self.sent, f"{name}: {values}, not {self.sent}"

    def all_known(self) -> bool:
        """Whether every sentinel has to come out at every end: one input, and nobody leaves early."""
        weaver = self.weaver
        return self.calm and len(weaver.pushed) == 1 and not (weaver.has_sources or weaver.loses)


def check_account(report: Any) -> None:
    """Law 6, when everything is over."""
    for stage in report.stages:
        parts = stage.done + stage.filtered + stage.skipped + stage.failed + stage.discarded
        assert stage.in_hand == 0, f"{stage.name}: {stage.in_hand} in hand\n{report}"
        assert stage.taken == parts, f"{stage.name}: {stage}"
        assert min(stage.taken, stage.done, stage.discarded, stage.given) >= 0, f"{stage}"
    for edge in report.edges:
        assert edge.inside == 0, f"{edge}"
        assert edge.entered == edge.left + edge.discarded, f"{edge}"
        assert min(edge.entered, edge.left, edge.discarded) >= 0, f"{edge}"
