"""Stages that call a function, and the dead letters of those above."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from flowstage import Flow, Retry
from flowstage._errors import safe_repr

from .parts import Part
from .streams import Fail, Strand, Stream, chance, leaves_of, singles, text, together
from .world import THREAD_TIMEOUT, Boom, Model, World


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
        if key[0] != world.epoch:
            world.crowded.append(f"{self.tag} was called with {item!r} after an interrupt")
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
