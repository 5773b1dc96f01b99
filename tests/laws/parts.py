"""The pieces of a random graph: each can be written in flowstage, and knows what it does to lists.

User code here decides everything by the item (`streams.chance`), so that the model and the run agree
without talking to each other: whether it fails, what it keeps, how many values it gives, how long it
sleeps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from flowstage import Failure, Flow, Input, Sentinel, source

from .streams import Fail, Mark, Strand, Stream, chance, text
from .world import BREAK, Boom, Model, World


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


def as_seen(event: Any) -> Any:
    """Write what an end gave as the model does."""
    if isinstance(event, Sentinel):
        return Mark(event.value)
    if isinstance(event, Failure):
        return Fail(event.stage, text(event.item))
    return event
