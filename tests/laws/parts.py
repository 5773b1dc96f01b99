"""The pieces of a random graph: each can be written in flowstage, and knows what it does to lists.

User code here decides everything by the item (`streams.chance`), so that the model and the run agree
without talking to each other: whether it fails, what it keeps, how many values it gives, how long it
sleeps.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
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
from flowstage._errors import safe_repr

from .streams import Fail, Strand, Stream, chance, leaves_of, singles, text, together

BREAK: Any = type("Break", (), {"__repr__": lambda self: "<break>"})()
"""In the script of an entry: here its source fails."""
RUN_CONTEXT = {"run": "here"}
THREAD_TIMEOUT = 0.05
"""Real seconds. A run in which a call came later than that by bad luck is not judged."""


class Boom(Exception):
    """What user code fails with."""


class World:
    """What the user code of one run does and notes.

    Attributes:
        calls: how often each stage was called with each item.
        logs: what each entry accepted, with its epoch: items, and `Sentinel` values as marks.
        look: called now and then, in user code on the loop.
        strike: called at the calls of user code whose numbers are in `strikes`, to interrupt.
        running: calls under way on the loop, by the epoch of their item and their stage.
    """

    def __init__(
        self, *, pause: float = 1.0, strikes: tuple[int, ...] = (), contextual: bool = False
    ) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.logs: dict[str, list[list[Any]]] = {}
        self.epochs: dict[str, int] = {}  # of each item that entered
        self.epoch = 0
        self.look: Callable[[], None] = lambda: None
        self.strike: Callable[[], None] = lambda: None
        self.strikes = strikes
        self.contextual = contextual
        self.running: Counter[tuple[int, str]] = Counter()
        self.pause = pause
        self.places = {number: Threads(number) for number in (1, 2, 3)}
        self.flows: dict[Part, Flow[Any, Any]] = {}
        self._ticks = itertools.count(1)
        self.seated: Counter[int] = Counter()  # calls in threads now, by the limit of their place
        self.crowded: list[str] = []
        self._lock = threading.Lock()
        self.open_generators = 0
        self.conclusions: list[tuple[str, int, Any]] = []  # stage, epoch, items seen or batch
        self.hung: set[tuple[str, str]] = set()  # calls in threads that are to take too long
        self.strange: list[str] = []  # contexts that are not the item's

    def flow(self, part: Part) -> Flow[Any, Any]:
        """Write a part in flowstage, once."""
        if part not in self.flows:
            self.flows[part] = part.write(self)
        return self.flows[part]

    def note(self, name: str, event: Any) -> list[Any]:
        """Note what enters; give the note."""
        noted = [self.epoch, event]
        self.logs[name].append(noted)
        if isinstance(event, str):
            self.epochs[event] = self.epoch
        return noted

    def epoch_of(self, item: Any) -> int:
        """The epoch in which the latest part of an item entered."""
        return max((self.epochs[leaf] for leaf in leaves_of(item)), default=self.epoch)

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
        """User code is at work on the loop: look at the run every few calls, interrupt at some."""
        number = next(self._ticks)
        if number in self.strikes:
            self.strike()
        if number % 5 == 0:
            self.look()

    def check_context(self, call: Call, item: Any, context: Any) -> None:
        """An item has the context that it was sent with or the run's, and what stages above put in."""
        leaf, tags = context.get("leaf"), call.tags_above()
        right = isinstance(context, Mapping)
        right = right and (
            context.get("run") == "here" if leaf is None else leaf in leaves_of(item)
        )
        right = right and (tags is None or set(context) <= {"leaf", "run", call.tag, *tags})
        if not right:
            self.strange.append(f"{call.tag} had {text(item)} with the context {context!r}")
        context[call.tag] = text(item)


class Model:
    """The list model of one epoch of one run.

    Attributes:
        rows: what a join of rows counts.
        inner: what the stages in the branches of a `gather` count.
        unsure: branches of routes that failures pass: on the first that is open, so if one may end
            early it is for time to say which.
    """

    def __init__(self, case: Any, logs: dict[str, list[Any]], *, marks: bool) -> None:
        self.logs, self.marks = logs, marks
        self.rows: dict[Part, Counter[str]] = {}
        self.inner: dict[Call, Counter[str]] = {}
        self.unsure: set[Part] = set()
        self.on_error = case.on_error
        self.streams: dict[Part, Stream] = {}
        self.calls: Counter[tuple[str, str]] = Counter()
        self.failures: dict[Part, Stream] = {}
        self.cut = False

    def within(self, call: Call, upper: Stream) -> Stream:
        """What a stage in a branch gives for one item; what it counts is noted."""
        from .counts import call_counts

        inner = Model.__new__(Model)
        inner.on_error, inner.calls = self.on_error, self.calls
        inner.failures, inner.cut = {}, False
        inner.streams = {call.upper: upper}
        made = inner.stream(call)
        self.inner.setdefault(call, Counter()).update(call_counts(call, inner))
        return made

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
    """

    uppers: tuple[Part, ...] = field(default=(), kw_only=True)

    exact = True

    def __post_init__(self) -> None:
        self.exact = all(upper.exact for upper in self.uppers)

    @property
    def upper(self) -> Part:
        return self.uppers[0]

    @property
    def ends_early(self) -> bool:
        """Whether it may end before its input does."""
        return False

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
    """Where items enter: a source of some kind, or a push input.

    Attributes:
        kind: "push"; "input" (an `Input` that is given a source); "plain", "async", "managed" (what an
            async context manager gives) or "thread".
    """

    name: str = ""
    kind: str = "push"
    script: tuple[Any, ...] = ()

    def write(self, world: World) -> Flow[Any, Any]:
        world.logs.setdefault(self.name, [])
        if self.kind in ("push", "input"):
            return Input[str](self.name)
        made = self.items(world)
        if self.kind == "thread":
            return source(made, name=self.name, on=world.places[2])
        return source(made, name=self.name)

    def items(self, world: World) -> Any:
        """Items for this entry's kind: a list, a generator or an async one."""

        def give(event: Any) -> Any:
            if self.kind != "thread":
                world.tick()
            world.note(self.name, event)
            if event is BREAK:
                raise Boom(self.name)
            return event

        def plain() -> Iterator[Any]:
            world.open_generators += 1
            try:
                for event in self.script:
                    if not isinstance(event, float):
                        yield give(event)
            finally:
                world.open_generators -= 1

        async def waiting() -> AsyncIterator[Any]:
            world.open_generators += 1
            try:
                for event in self.script:
                    if isinstance(event, float):
                        await anyio.sleep(event * world.pause)
                    else:
                        yield give(event)
                await checkpoint()
            finally:
                world.open_generators -= 1

        @asynccontextmanager
        async def managed() -> AsyncIterator[Any]:
            world.open_generators += 1
            values = waiting()
            try:
                await checkpoint()
                yield values
            finally:
                await values.aclose()
                world.open_generators -= 1

        if self.kind == "managed":
            return managed
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
            elif event is BREAK:
                return Stream(segments, marks, cut=True)
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
        hangs: the share that takes longer than the timeout (not of plain functions).
        context: the function is given the item's context.
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
    context: bool = False

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
            options["timeout"] = THREAD_TIMEOUT if self.how == "thread" else 3.0
        if self.context:
            options["pass_context"] = True
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
            with self.at_work(world, item):
                judge(item, name)
                return self.result(item)

        async def waiting(item: Any) -> Any:
            name = begin(item)
            with self.at_work(world, item):
                await hang(item)
                nap = chance(f"{self.tag} nap", item)
                if nap < 0.5:
                    await anyio.sleep(nap * world.pause)
                elif nap < 0.7:
                    await checkpoint()
                judge(item, name)
                return self.result(item)

        async def hang(item: Any) -> None:
            if self.hangs_on(item):
                await anyio.sleep(1000)

        async def waiting_values(item: Any) -> AsyncIterator[Any]:
            name = begin(item)
            world.open_generators += 1
            try:
                if not self.is_late(item):
                    await hang(item)
                    judge(item, name)
                for value in self.result(item):
                    world.tick()
                    if chance(f"{self.tag} nap", value) < 0.3:
                        await anyio.sleep(chance(f"{self.tag} nap", value) * world.pause)
                    yield value
                if self.is_late(item):
                    await hang(item)
                    judge(item, name)
            finally:
                world.open_generators -= 1

        def values(item: Any) -> Iterator[Any]:
            name = begin(item)
            if not self.is_late(item):
                with self.at_work(world, item):
                    judge(item, name)
            for value in self.result(item):
                if self.how != "thread":
                    world.tick()
                yield value
            if self.is_late(item):
                with self.at_work(world, item):
                    judge(item, name)

        def lazy(item: Any) -> Any:
            return waiting(item)

        if self.hangs or self.width > 1:  # what is seen to be plain can have neither
            lazy = functools.wraps(waiting)(lazy)
        fn: Any = {"plain": plain, "thread": plain, "async": waiting, "lazy": lazy}[self.how]
        if self.verb == "flat_map":
            fn = {"plain": values, "thread": values, "async": waiting_values, "lazy": lazy}[
                self.how
            ]
        if self.context:
            fn = self.with_context(world, fn)
        return getattr(upper, self.verb)(fn, **options)

    @contextmanager
    def at_work(self, world: World, item: Any) -> Iterator[None]:
        """Be at work for a moment, in a seat or on the loop."""
        if self.how == "thread":
            world.sit(self.seats, item)
            if self.hangs_on(item):
                world.hung.add((self.tag, safe_repr(item)))
            while self.hangs_on(item):
                anyio.from_thread.check_cancelled()
                time.sleep(0.002)
            yield
            return
        key = world.epoch_of(item), self.tag
        world.running[key] += 1
        try:
            world.tick()
            yield
        finally:
            world.running[key] -= 1

    def with_context(self, world: World, fn: Any) -> Any:
        """The function as one that is given the context, of the same nature."""

        def plain(item: Any, *, context: Any) -> Any:
            world.check_context(self, item, context)
            return fn(item)

        async def waiting(item: Any, *, context: Any) -> Any:
            return await plain(item, context=context)

        if self.how == "async" and self.verb != "flat_map":
            return waiting
        seems_plain = self.how == "plain" or not (self.hangs or self.width > 1)
        return plain if seems_plain else functools.wraps(fn)(plain)

    def tags_above(self) -> set[str] | None:
        """The stages that may have put something into a context before; none where it is not known."""
        tags: set[str] = set()
        for part in self.above():
            if type(part) is Part:
                return None  # it stands in a branch of a join
            for call in (part, *getattr(part, "branches", ())):
                tags |= {
                    c.tag
                    for c in (call if isinstance(call, tuple) else (call,))
                    if hasattr(c, "tag")
                }
        return tags

    # -- what it does, in lists

    def fails_on(self, item: Any) -> bool:
        return chance(f"{self.tag} fail", item) < self.fails

    def is_flaky(self, item: Any) -> bool:
        if not leaves_of(item):
            return False  # there may be several such items, and each has a first attempt
        return chance(f"{self.tag} flaky", item) < self.flaky

    def hangs_on(self, item: Any) -> bool:
        return chance(f"{self.tag} hang", item) < self.hangs

    def is_bad(self, item: Any) -> bool:
        """Whether an item fails for good."""
        if self.fails_on(item) or self.hangs_on(item):
            return True
        # A retry comes only before the first value was given.
        is_late = self.verb == "flat_map" and self.is_late(item)
        return is_late and self.is_flaky(item) and bool(self.gives(item))

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
                bad = self.is_bad(item)
                early = not (self.verb == "flat_map" and self.is_late(item))
                if self.flaky and (bad or self.is_flaky(item)) and (early or not self.gives(item)):
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
    """Stages with memory: "plain" passes on, "numbers" counts, "segments" counts each segment.

    Attributes:
        fails: the share of items at which its function raises; that ends the run.
    """

    tag: str = "t1"
    kind: str = "plain"
    fails: float = 0.0

    def write(self, world: World) -> Flow[Any, Any]:
        def look_at(item: Any) -> None:
            world.tick()
            if self.fails_on(item):
                raise Boom(f"{self.tag} {text(item)}")

        async def plain(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
            world.open_generators += 1
            try:
                async for item in items:
                    look_at(item)
                    if chance(f"{self.tag} nap", item) < 0.2:
                        await anyio.sleep(0.3 * world.pause)
                    yield f"{self.tag}({text(item)})"
            finally:
                world.open_generators -= 1

        async def numbers(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
            count = 0
            async for item in items:
                look_at(item)
                count += 1
                yield f"{self.tag}:{count}({text(item)})"
            world.conclusions.append((self.tag, world.epoch, count))

        async def ends(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
            count, last = 0, None
            async for item in items:
                look_at(item)
                count += 1
                last = item
                yield f"{self.tag}:{count}({text(item)})"
            if count:
                await checkpoint()
                yield f"{self.tag}:end:{count}({text(last)})"

        fn = {"plain": plain, "numbers": numbers, "segments": ends}[self.kind]
        return world.flow(self.upper).transform(fn, segments=self.kind == "segments", name=self.tag)

    def fails_on(self, item: Any) -> bool:
        return chance(f"{self.tag} fail", item) < self.fails

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
                if self.fails_on(item):
                    return [out], True
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
    """A buffer, lossy or not; one with the overflow "error" may end the run."""

    size: int = 1
    overflow: str = "block"

    def __post_init__(self) -> None:
        self.exact = self.upper.exact and self.overflow in ("block", "error")

    def write(self, world: World) -> Flow[Any, Any]:
        return world.flow(self.upper).buffer(self.size, overflow=self.overflow)

    @property
    def drops(self) -> bool:
        return self.overflow.startswith("drop")

    def model(self, model: Model) -> Stream:
        upper = model.stream(self.upper)
        if not self.drops or upper.lossy:
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
                made = model.within(call, Stream([[strand]]))
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
                here = sum(not isinstance(i, Fail) for value in values for i in value)
                is_whole = here == len(values)
                rows["taken"] += here
                rows["done" if is_whole else "filtered"] += here
                rows["given"] += is_whole
                fails = [v[0] for v in values if v and isinstance(v[0], Fail)]
                if fails:
                    out.append(fails[0])
                elif all(values):
                    out.append(tuple(value[0] for value in values))
            return [out], False

        rows = model.rows[self] = Counter()
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
        made, fails = self.routing.model(model, self.upper, self.number)
        if fails:
            model.unsure.add(self)
        return made


@dataclass(eq=False)
class Routing:
    """A `route`: the key is a number; some items have none of the branches'."""

    tag: str
    branches: int
    unknown: float
    default: int | None
    policy: str | None
    upper: Part

    def is_unknown(self, item: Any) -> bool:
        return self.default is None and self.key(item) == -1

    def key(self, item: Any) -> int:
        if chance(f"{self.tag} unknown", item) < self.unknown:
            return -1
        return int(chance(f"{self.tag} key", item) * self.branches)

    def write(self, world: World) -> Any:
        made = world.__dict__.setdefault("routes", {})
        if self not in made:

            def key(item: Any) -> int:
                world.tick()
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

    def model(self, model: Model, upper: Part, number: int) -> tuple[Stream, bool]:
        """What a branch gives, and whether failures pass the route."""
        policy = self.policy or model.on_error
        fails = False

        def work(strand: Strand) -> tuple[list[Strand], bool]:
            nonlocal fails
            out: Strand = []
            for item in strand:
                if isinstance(item, Fail):
                    fails = True
                    out += [item] * (number == 0)
                    continue
                if number == 0:
                    model.calls[self.tag, text(item)] += 1
                key = self.key(item)
                if key == -1 and self.default is None:
                    if policy == "raise":
                        return [out], True
                    fails = fails or policy == "emit"
                    if policy == "emit" and number == 0:
                        out.append(Fail(self.tag, text(item)))
                elif key == number or (key == -1 and self.default == number):
                    out.append(item)
            return [out], False

        made = model.stream(upper).each(work)
        model.cut = model.cut or made.cut
        return made, fails


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
    """Pairs by position; only of single strands. A strict one fails when one has more than another."""

    strict: bool = False

    @property
    def ends_early(self) -> bool:
        return not self.strict

    def write(self, world: World) -> Flow[Any, Any]:
        return zip(*map(world.flow, self.uppers), strict=self.strict)

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
        cut = cut or (self.strict and len(set(map(len, rows))) > 1)
        counts = model.rows[self] = Counter()
        segments: list[list[Strand]] = [[[]] for _ in range(length)]
        for row in itertools.islice(zip_longest(*rows), min(map(len, rows))):
            number = max(place for place, _ in row)
            fails = [item for _, item in row if isinstance(item, Fail)]
            made = fails[0] if fails else tuple(item for _, item in row)
            here = len(row) - len(fails)
            counts["taken"] += here
            counts["filtered" if fails else "done"] += here
            counts["given"] += not fails
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
