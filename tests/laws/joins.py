"""Fan-out and fan-in."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from flowstage import Flow, concat, gather, merge, zip, zip_latest

from .calls import Call
from .parts import Part
from .streams import Fail, Strand, Stream, chance, singles, text, together
from .world import Model, World


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
