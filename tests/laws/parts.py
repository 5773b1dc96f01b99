"""The pieces of a random graph: each can be written in flowstage, and knows what it does to lists.

User code here decides everything by the item (`streams.chance`), so that the model and the run agree
without talking to each other: whether it fails, what it keeps, how many values it gives, how long it
sleeps.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from flowstage import (
    Failure,
    Flow,
    Input,
    Retry,
    Threads,
    concat,
    gather,
    merge,
    source,
    zip,
    zip_latest,
)

from .streams import Fail, Strand, Stream, chance, singles, text, together


class Boom(Exception):
    """What user code fails with."""


class World:
    """What the user code of one run does and notes.

    Attributes:
        calls: how often each stage was called with each item.
        logs: what each entry accepted, with its epoch: items, and `Sentinel` values as marks.
        look: called now and then, in user code on the loop.
    """

    def __init__(self, *, pause: float = 1.0) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.logs: dict[str, list[list[Any]]] = {}
        self.epoch = 0
        self.look: Callable[[], None] = lambda: None
        self.pause = pause
        self.places = {number: Threads(number) for number in (1, 2, 3)}
        self.flows: dict[Part, Flow[Any, Any]] = {}
        self._ticks = itertools.count(1)
        self.seated: Counter[int] = Counter()  # calls in threads now, by the limit of their place
        self.crowded: list[str] = []
        self._lock = threading.Lock()
        self.open_generators = 0
        self.conclusions: list[tuple[str, int, Any]] = []  # stage, epoch, items seen or batch

    def flow(self, part: Part) -> Flow[Any, Any]:
        """Write a part in flowstage, once."""
        if part not in self.flows:
            self.flows[part] = part.write(self)
        return self.flows[part]

    def sit(self, seats: int, item: Any) -> None:
        """A call in a thread begins, works a little and ends: no more at once than there are seats."""
        with self._lock:
            self.seated[seats] += 1
            if self.seated[seats] > seats:
                self.crowded.append(f"{self.seated[seats]} threads under a limit of {seats}")
        if chance("seat", item) < 0.3:
            time.sleep(0.0003)
        with self._lock:
            self.seated[seats] -= 1

    def tick(self) -> None:
        """User code is at work: look at the run every few calls."""
        if next(self._ticks) % 5 == 0:
            self.look()


class Model:
    """The list model of one epoch of one run."""

    def __init__(self, case: Any, logs: dict[str, list[Any]], *, marks: bool) -> None:
        self.logs, self.marks = logs, marks
        self.on_error = case.on_error
        self.streams: dict[Part, Stream] = {}
        self.calls: Counter[tuple[str, str]] = Counter()
        self.failures: dict[Part, Stream] = {}
        self.cut = False

    def stream(self, part: Part) -> Stream:
        """What a part gives."""
        if part not in self.streams:
            self.streams[part] = part.model(self)
            self.cut = self.cut or self.streams[part].cut
        return self.streams[part]


@dataclass(eq=False)
class Part:
    """One piece, on top of others.

    Attributes:
        exact: it gives one strand.
        timed: what it gives depends on time (only the leaves of its items are checked).
        short: more may go into what is above it than comes out (it may end early).
    """

    uppers: tuple[Part, ...] = field(default=(), kw_only=True)

    exact = True

    def __post_init__(self) -> None:
        self.exact = all(upper.exact for upper in self.uppers)

    @property
    def upper(self) -> Part:
        return self.uppers[0]

    def write(self, world: World) -> Flow[Any, Any]:
        raise NotImplementedError

    def model(self, model: Model) -> Stream:
        raise NotImplementedError

    def above(self) -> set[Part]:
        """This part and all those it stands on."""
        found: set[Part] = {self}
        for upper in self.uppers:
            found |= upper.above()
        return found

    def feeders(self) -> set[Part]:
        """The parts that what comes out here comes from."""
        return self.above()


@dataclass(eq=False)
class Entry(Part):
    """Where items enter: a source of some kind, or a push input."""

    name: str = ""
    kind: str = "push"
    script: tuple[Any, ...] = ()

    def write(self, world: World) -> Flow[Any, Any]:
        log = world.logs.setdefault(self.name, [])
        if self.kind == "push":
            return Input[str](self.name)
        if self.kind == "input":
            return Input[str](self.name)
        made = self.items(world, log)
        if self.kind == "thread":
            return source(made, name=self.name, on=world.places[2])
        return source(made, name=self.name)

    def items(self, world: World, log: list[Any]) -> Any:
        """Items for this entry's kind: a list, a generator or an async one."""

        def plain() -> Iterator[Any]:
            world.open_generators += 1
            try:
                for event in self.script:
                    if not isinstance(event, float):
                        log.append([world.epoch, event])
                        yield event
            finally:
                world.open_generators -= 1

        async def waiting() -> AsyncIterator[Any]:
            world.open_generators += 1
            try:
                for event in self.script:
                    if isinstance(event, float):
                        await anyio.sleep(event * world.pause)
                    else:
                        log.append([world.epoch, event])
                        yield event
                await checkpoint()
            finally:
                world.open_generators -= 1

        return waiting if self.kind in ("async", "input") else plain

    def model(self, model: Model) -> Stream:
        from flowstage import Sentinel

        segments: list[list[Strand]] = [[[]]]
        marks: list[Any] = []
        for event in model.logs.get(self.name, ()):
            if isinstance(event, Sentinel):
                if model.marks:
                    marks.append(event.value)
                    segments.append([[]])
            else:
                segments[-1][0].append(event)
        return Stream(segments, marks)


@dataclass(eq=False)
class Call(Part):
    """A stage that calls a function.

    Attributes:
        tag: its name.
        how: "plain", "async", "lazy" (a plain function giving an awaitable), "thread".
        fails: the share of items that it fails on.
        flaky: the share that fails on the first attempt only (with a retry).
        hangs: the share that takes longer than the timeout (async only).
    """

    verb: str = "map"
    tag: str = "m1"
    how: str = "plain"
    width: int = 1
    ordered: bool = True
    policy: str | None = None
    fails: float = 0.0
    flaky: float = 0.0
    hangs: float = 0.0
    seats: int = 1
    neutral: bool = False
    group: str = ""

    def __post_init__(self) -> None:
        self.exact = self.upper.exact and (self.ordered or self.width == 1)

    # -- what it does, in the run

    def write(self, world: World) -> Flow[Any, Any]:
        upper = world.flow(self.upper)
        options: dict[str, Any] = {"name": self.tag, "on_error": self.policy}
        if self.how == "thread":
            options |= {"on": world.places[self.seats], "concurrency": self.width}
        elif self.width > 1:
            options |= {"concurrency": self.width}
        if not self.ordered:
            options["ordered"] = False
        if self.flaky:
            options["retry"] = Retry(2, delay=0.5 if self.tag[-1] in "02468" else 0.0)
        if self.hangs:
            options["timeout"] = 3.0
        attempts: Counter[str] = Counter()

        def begin(item: Any) -> str:
            name = text(item)
            world.calls[self.group or self.tag, name] += 1
            attempts[name] += 1
            return name

        def judge(item: Any, name: str) -> None:
            if self.fails_on(item) or (attempts[name] == 1 and self.is_flaky(item)):
                raise Boom(f"{self.tag} {name}")

        def plain(item: Any) -> Any:
            name = begin(item)
            if self.how == "thread":
                world.sit(self.seats, item)
            else:
                world.tick()
            if self.verb != "flat_map":
                judge(item, name)
            elif not self.is_late(item):
                judge(item, name)
            return self.result(item)

        async def waiting(item: Any) -> Any:
            name = begin(item)
            world.tick()
            nap = chance(f"{self.tag} nap", item)
            if self.hangs and chance(f"{self.tag} hang", item) < self.hangs:
                await anyio.sleep(1000)
            if nap < 0.5:
                await anyio.sleep(nap * world.pause)
            elif nap < 0.7:
                await checkpoint()
            judge(item, name)
            return self.result(item)

        async def waiting_values(item: Any) -> AsyncIterator[Any]:
            name = begin(item)
            world.open_generators += 1
            try:
                if not self.is_late(item):
                    judge(item, name)
                for value in self.result(item):
                    if chance(f"{self.tag} nap", value) < 0.3:
                        await anyio.sleep(chance(f"{self.tag} nap", value) * world.pause)
                    yield value
                if self.is_late(item):
                    judge(item, name)
            finally:
                world.open_generators -= 1

        def values(item: Any) -> Iterator[Any]:
            name = begin(item)
            if self.how == "thread":
                world.sit(self.seats, item)
            if not self.is_late(item):
                judge(item, name)
            yield from self.result(item)
            if self.is_late(item):
                judge(item, name)

        def lazy(item: Any) -> Any:
            return waiting(item)

        fn: Any = {"plain": plain, "thread": plain, "async": waiting, "lazy": lazy}[self.how]
        if self.verb == "flat_map":
            fn = {"plain": values, "thread": values, "async": waiting_values, "lazy": lazy}[
                self.how
            ]
        return getattr(upper, self.verb)(fn, **options)

    # -- what it does, in lists

    def fails_on(self, item: Any) -> bool:
        return chance(f"{self.tag} fail", item) < self.fails

    def is_flaky(self, item: Any) -> bool:
        return chance(f"{self.tag} flaky", item) < self.flaky

    def hangs_on(self, item: Any) -> bool:
        return self.how in ("async", "lazy") and chance(f"{self.tag} hang", item) < self.hangs

    def is_late(self, item: Any) -> bool:
        """Whether a failing `flat_map` gives its values first."""
        return self.how != "lazy" and chance(f"{self.tag} late", item) < 0.5

    def result(self, item: Any) -> Any:
        if self.verb == "map":
            return item if self.neutral else f"{self.tag}({text(item)})"
        if self.verb == "filter":
            return chance(f"{self.tag} keep", item) < 0.7
        if self.verb == "tap":
            return None
        count = int(chance(f"{self.tag} count", item) * 4)
        return [f"{self.tag}#{number}({text(item)})" for number in range(count)]

    def gives(self, item: Any) -> list[Any]:
        """What the stage gives for an item that does not fail."""
        result = self.result(item)
        if self.verb == "map":
            return [result]
        if self.verb == "flat_map":
            return list(result)
        return [item] if self.verb == "tap" or result else []

    def model(self, model: Model) -> Stream:
        policy = self.policy or model.on_error
        failures: list[Fail] = []
        upper = model.stream(self.upper)

        def work(strand: Strand) -> tuple[list[Strand], bool]:
            groups: list[Strand] = []
            failed = False
            for item in strand:
                if isinstance(item, Fail):
                    groups.append([item])
                    continue
                name = text(item)
                model.calls[self.tag, name] += 1
                bad = self.fails_on(item) or self.hangs_on(item)
                early = not (self.verb == "flat_map" and self.is_late(item))
                if self.flaky and early and (bad or self.is_flaky(item)):
                    model.calls[self.tag, name] += 1
                elif self.is_flaky(item) and not early:
                    # a retry comes only before the first value was given
                    if self.gives(item):
                        bad = True
                    else:
                        model.calls[self.tag, name] += 1
                elif self.flaky and bad and not self.gives(item):
                    model.calls[self.tag, name] += 1
                group = [] if bad and early else self.gives(item)
                if bad:
                    if policy == "raise":
                        groups.append(group)
                        failed = True
                        if self.ordered or self.width == 1:
                            break
                        continue
                    fail = Fail(self.tag, name)
                    failures.append(fail)
                    if policy == "emit":
                        group = [*group, fail]
                groups.append(group)
            if self.ordered or self.width == 1:
                return [[item for group in groups for item in group]], failed
            return [group for group in groups if group], failed

        seen: list[Strand] = []
        dead: list[list[Strand]] = []

        def noted(strand: Strand) -> tuple[list[Strand], bool]:
            failures.clear()
            made = work(strand)
            in_turn = self.ordered or self.width == 1
            seen.extend([list(failures)] if in_turn else singles(list(failures)))
            return made

        # The failures, as data, follow the same segments.
        segments: list[list[Strand]] = []
        cut = False
        for segment in upper.segments:
            seen.clear()
            strands: list[Strand] = []
            for strand in segment:
                made, failed = noted(strand)
                strands += made
                cut = cut or failed
            segments.append(strands)
            dead.append([list(one) for one in seen])
            if cut:
                break
        marks = upper.marks[: len(segments) - 1]
        cut = cut or upper.cut
        if cut:
            model.cut = True
        model.failures[self] = Stream(dead, marks, cut, upper.lossy)
        return Stream(segments, marks, cut, upper.lossy)


@dataclass(eq=False)
class Failures(Part):
    """The dead-letter branch of everything above."""

    def __post_init__(self) -> None:
        self.exact = False

    def write(self, world: World) -> Flow[Any, Any]:
        return world.flow(self.upper).failures()

    def model(self, model: Model) -> Stream:
        model.stream(self.upper)
        calls = self.calls()
        for call in calls:
            model.stream(call)
        return together([model.failures[call] for call in calls])

    def calls(self) -> list[Call]:
        """The stages whose failures come out here."""
        return [part for part in self.upper.above() if isinstance(part, Call)]

    def feeders(self) -> set[Part]:
        """Not all that stands above: a source that only a join above has is not one of them."""
        return set().union(*(call.above() for call in self.calls()))


@dataclass(eq=False)
class Batch(Part):
    """Lists, as they come; only on top of a single strand."""

    size: int = 2

    def write(self, world: World) -> Flow[Any, Any]:
        return world.flow(self.upper).batch(self.size)

    def model(self, model: Model) -> Stream:
        def work(strand: Strand) -> tuple[list[Strand], bool]:
            out: Strand = []
            held: list[Any] = []
            for item in strand:
                if isinstance(item, Fail):
                    out += [held] * bool(held) + [item]
                    held = []
                    continue
                held.append(item)
                if len(held) == self.size:
                    out.append(held)
                    held = []
            return [out + [held] * bool(held)], False

        upper = model.stream(self.upper)
        made = upper.each(work)
        if upper.cut:  # what is held at a failure goes nowhere, so the last list may not come
            return Stream(made.segments, made.marks, True, made.lossy)
        return made


@dataclass(eq=False)
class Rebatch(Part):
    """A batch and the way back to items, on top of anything."""

    tag: str = "b1"
    size: int = 2
    within: float | None = None
    async_between: bool = False

    def write(self, world: World) -> Flow[Any, Any]:
        async def pass_on(batch: list[Any]) -> list[Any]:
            await anyio.sleep(chance(self.tag, batch) * world.pause)
            return batch

        def spread(batch: list[Any]) -> list[Any]:
            assert isinstance(batch, list)
            assert 1 <= len(batch) <= self.size, f"a batch of {len(batch)}"
            if len(batch) < self.size and self.within is None:
                world.conclusions.append((self.tag, world.epoch, batch))
            return batch

        batches = world.flow(self.upper).batch(self.size, within=self.within)
        if self.async_between:
            batches = batches.map(pass_on)
        return batches.flat_map(spread)

    def model(self, model: Model) -> Stream:
        return model.stream(self.upper).each(lambda strand: ([strand], False))


@dataclass(eq=False)
class Transform(Part):
    """Stages with memory: "plain" passes on, "numbers" counts, "segments" counts each segment."""

    tag: str = "t1"
    kind: str = "plain"

    def write(self, world: World) -> Flow[Any, Any]:
        async def plain(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
            world.open_generators += 1
            try:
                async for item in items:
                    if chance(f"{self.tag} nap", item) < 0.2:
                        await anyio.sleep(0.3 * world.pause)
                    yield f"{self.tag}({text(item)})"
            finally:
                world.open_generators -= 1

        async def numbers(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
            count = 0
            async for item in items:
                count += 1
                yield f"{self.tag}:{count}({text(item)})"
            world.conclusions.append((self.tag, world.epoch, count))

        async def ends(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
            count, last = 0, None
            async for item in items:
                count += 1
                last = item
                yield f"{self.tag}:{count}({text(item)})"
            if count:
                await checkpoint()
                yield f"{self.tag}:end:{count}({text(last)})"

        fn = {"plain": plain, "numbers": numbers, "segments": ends}[self.kind]
        return world.flow(self.upper).transform(fn, segments=self.kind == "segments", name=self.tag)

    def model(self, model: Model) -> Stream:
        count = 0

        def work(strand: Strand) -> tuple[list[Strand], bool]:
            nonlocal count
            if self.kind == "segments":
                count = 0
            out: Strand = []
            for item in strand:
                if isinstance(item, Fail):
                    out.append(item)
                    continue
                count += 1
                number = "" if self.kind == "plain" else f":{count}"
                out.append(f"{self.tag}{number}({text(item)})")
            if self.kind == "segments" and count:
                last = [item for item in strand if not isinstance(item, Fail)][-1]
                out.append(f"{self.tag}:end:{count}({text(last)})")
            return [out], False

        return model.stream(self.upper).each(work)


@dataclass(eq=False)
class Buffer(Part):
    """A buffer, lossy or not."""

    size: int = 1
    overflow: str = "block"

    def __post_init__(self) -> None:
        self.exact = self.upper.exact and self.overflow == "block"

    def write(self, world: World) -> Flow[Any, Any]:
        return world.flow(self.upper).buffer(self.size, overflow=self.overflow)

    def model(self, model: Model) -> Stream:
        upper = model.stream(self.upper)
        if self.overflow == "block" or upper.lossy:
            return upper

        def keep(strand: Strand) -> tuple[list[Strand], bool]:
            return [[replace(i, kept=True) if isinstance(i, Fail) else i for i in strand]], False

        kept = upper.each(keep)
        return Stream(kept.segments, kept.marks, kept.cut, True)


@dataclass(eq=False)
class Merge(Part):
    """A merge of anything."""

    def __post_init__(self) -> None:
        self.exact = len(self.uppers) == 1 and self.upper.exact

    def write(self, world: World) -> Flow[Any, Any]:
        return merge(*map(world.flow, self.uppers))

    def model(self, model: Model) -> Stream:
        return together([model.stream(upper) for upper in self.uppers])


@dataclass(eq=False)
class Gather(Part):
    """A fork, one-to-one branches, and their rows; `branches` are chains of calls."""

    branches: tuple[tuple[Call, ...], ...] = ()

    def write(self, world: World) -> Flow[Any, Any]:
        ends = []
        for branch in self.branches:
            flow = world.flow(self.upper)
            for call in branch:
                world.flows[call.upper] = flow
                flow = call.write(world)
            ends.append(flow)
        return gather(*ends)

    def model(self, model: Model) -> Stream:
        def one(branch: tuple[Call, ...], item: Any) -> tuple[list[Any], bool]:
            strand = [item]
            for call in branch:
                inner = Model.__new__(Model)
                inner.on_error, inner.calls = model.on_error, model.calls
                inner.failures, inner.cut = {}, False
                inner.streams = {call.upper: Stream([[strand]])}
                made = call.model(inner)
                strand = made.segments[0][0] if made.segments[0] else []
                if made.cut:
                    return strand, True
            return strand, False

        def work(strand: Strand) -> tuple[list[Strand], bool]:
            out: Strand = []
            for item in strand:
                if isinstance(item, Fail):
                    out.append(item)
                    continue
                cells = [one(branch, item) for branch in self.branches]
                if any(failed for _, failed in cells):
                    return [out], True
                values = [cell for cell, _ in cells]
                fails = [v[0] for v in values if v and isinstance(v[0], Fail)]
                if fails:
                    out.append(fails[0])
                elif all(values):
                    out.append(tuple(value[0] for value in values))
            return [out], False

        made = model.stream(self.upper).each(work)
        model.cut = model.cut or made.cut
        return made


@dataclass(eq=False)
class Branch(Part):
    """One branch of a `route`; all branches of one share a `Routing`."""

    routing: Routing = field(kw_only=True)
    number: int = 0

    def write(self, world: World) -> Flow[Any, Any]:
        return self.routing.write(world)[self.number]

    def model(self, model: Model) -> Stream:
        return self.routing.model(model, self.upper, self.number)


@dataclass(eq=False)
class Routing:
    """A `route`: the key is a number; some items have none of the branches'."""

    tag: str
    branches: int
    unknown: float
    default: int | None
    policy: str | None
    upper: Part

    def key(self, item: Any) -> int:
        if chance(f"{self.tag} unknown", item) < self.unknown:
            return -1
        return int(chance(f"{self.tag} key", item) * self.branches)

    def write(self, world: World) -> Any:
        made = world.__dict__.setdefault("routes", {})
        if self not in made:

            def key(item: Any) -> int:
                world.calls[self.tag, text(item)] += 1
                return self.key(item)

            made[self] = world.flow(self.upper).route(
                key,
                range(self.branches),
                default=self.default,
                on_error=self.policy,
                name=self.tag,
            )
        return made[self]

    def model(self, model: Model, upper: Part, number: int) -> Stream:
        policy = self.policy or model.on_error

        def work(strand: Strand) -> tuple[list[Strand], bool]:
            out: Strand = []
            for item in strand:
                if isinstance(item, Fail):
                    out += [item] * (number == 0)
                    continue
                if number == 0:
                    model.calls[self.tag, text(item)] += 1
                key = self.key(item)
                if key == -1 and self.default is None:
                    if policy == "raise":
                        return [out], True
                    if policy == "emit" and number == 0:
                        out.append(Fail(self.tag, text(item)))
                elif key == number or (key == -1 and self.default == number):
                    out.append(item)
            return [out], False

        made = model.stream(upper).each(work)
        model.cut = model.cut or made.cut
        return made


@dataclass(eq=False)
class Balance(Part):
    """Branches of a `balance`, neutral calls in each, and their merge."""

    branches: tuple[Call, ...] = ()

    def __post_init__(self) -> None:
        self.exact = False

    def write(self, world: World) -> Flow[Any, Any]:
        ends = []
        for call, flow in zip_longest(
            self.branches, world.flow(self.upper).balance(len(self.branches))
        ):
            world.flows[call.upper] = flow
            ends.append(call.write(world))
        return merge(*ends)

    def model(self, model: Model) -> Stream:
        upper = model.stream(self.upper)
        group = self.branches[0].group
        for item in upper.items():
            model.calls[group, text(item)] += 1
        return upper.each(lambda strand: (singles(strand), False))


@dataclass(eq=False)
class Zip(Part):
    """Pairs by position; only of single strands."""

    def write(self, world: World) -> Flow[Any, Any]:
        return zip(*map(world.flow, self.uppers))

    def model(self, model: Model) -> Stream:
        rows = []
        streams = [model.stream(upper) for upper in self.uppers]
        for stream in streams:
            rows.append(
                [
                    (number, item)
                    for number, segment in enumerate(stream.segments)
                    for strand in segment
                    for item in strand
                ]
            )
        length = max(len(stream.segments) for stream in streams)
        # A failure behind the place where the shortest input ends may come to pass, or may not.
        whole = [len(row) for row, stream in zip_longest(rows, streams) if not stream.cut]
        cut = min(whole, default=10**9) > min(map(len, rows))
        segments: list[list[Strand]] = [[[]] for _ in range(length)]
        for row in itertools.islice(zip_longest(*rows), min(map(len, rows))):
            number = max(place for place, _ in row)
            fails = [item for _, item in row if isinstance(item, Fail)]
            made = fails[0] if fails else tuple(item for _, item in row)
            segments[number][0].append(made)
        marks = max((stream.marks for stream in streams), key=len)
        return Stream(segments, marks, cut, any(stream.lossy for stream in streams))


@dataclass(eq=False)
class Concat(Part):
    """One after the other; only of single strands."""

    def write(self, world: World) -> Flow[Any, Any]:
        return concat(*map(world.flow, self.uppers))

    def model(self, model: Model) -> Stream:
        items: Strand = []
        cut = False
        for upper in self.uppers:
            stream = model.stream(upper)
            items += [i for segment in stream.segments for strand in segment for i in strand]
            if stream.cut:
                cut = True
                break
        return Stream([[items]], [], cut)


@dataclass(eq=False)
class ZipLatest(Part):
    """Rows of the latest; only at an end, where its rows are looked at one by one."""

    def __post_init__(self) -> None:
        self.exact = False

    def write(self, world: World) -> Flow[Any, Any]:
        return zip_latest(*map(world.flow, self.uppers))

    def model(self, model: Model) -> Stream:
        raise NotImplementedError


def as_seen(event: Any) -> Any:
    """Write what an end gave as the model does."""
    from flowstage import Sentinel

    if isinstance(event, Sentinel):
        from .streams import Mark

        return Mark(event.value)
    if isinstance(event, Failure):
        return Fail(event.stage, text(event.item))
    return event
