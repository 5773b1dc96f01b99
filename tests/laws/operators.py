"""Operators in a random graph: each is written with `pipe`, and again in plain lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anyio.lowlevel import checkpoint

from flowstage import Flow, operators

from .parts import Part
from .streams import Fail, Strand, Stream, chance, text
from .world import Model, World

SHORT = ("take", "take_while")
"""Operators that may end before their input does."""
KINDS = (
    *SHORT,
    "drop",
    "drop_while",
    "scan",
    "enumerate",
    "distinct_until_changed",
    "unique",
    "reduce",
    "flatten",
)


@dataclass(eq=False)
class Operator(Part):
    """An operator on top of a single strand; `reduce` where sentinels have places, `flatten` on lists.

    Attributes:
        size: how many `take` gives and `drop` leaves out, how many keys `unique` remembers, or the
            rate of `throttle`, which is no kind for random graphs because it takes time.
        waits: its functions are async.
    """

    tag: str = "o1"
    kind: str = "take"
    size: int = 2
    waits: bool = False

    @property
    def ends_early(self) -> bool:
        return self.kind in SHORT

    # -- what it does, in the run

    def write(self, world: World) -> Flow[Any, Any]:
        flow = world.flow(self.upper)
        written: dict[str, Callable[[], Flow[Any, Any]]] = {
            "take": lambda: flow.pipe(operators.take, self.size),
            "take_while": lambda: flow.pipe(operators.take_while, self.fn(world, self.keeps)),
            "drop": lambda: flow.pipe(operators.drop, self.size),
            "drop_while": lambda: flow.pipe(operators.drop_while, self.fn(world, self.keeps)),
            "scan": lambda: flow.pipe(operators.scan, self.fn(world, self.fold), (0, "")),
            "reduce": lambda: flow.pipe(operators.reduce, self.fn(world, self.fold), (0, "")),
            "enumerate": lambda: flow.pipe(operators.enumerate, start=self.size),
            "distinct_until_changed": lambda: flow.pipe(
                operators.distinct_until_changed, self.fn(world, self.key)
            ),
            "unique": lambda: flow.pipe(
                operators.unique, self.fn(world, self.key), max_keys=self.size
            ),
            "flatten": lambda: flow.pipe(operators.flatten),
            "throttle": lambda: flow.pipe(operators.throttle, rate=self.size),
        }
        return written[self.kind]()

    def fn(self, world: World, what: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the user's, plain or async."""

        def plain(*args: Any) -> Any:
            world.tick()
            return what(*args)

        async def waiting(*args: Any) -> Any:
            world.tick()
            await checkpoint()
            return what(*args)

        return waiting if self.waits else plain

    def keeps(self, item: Any) -> bool:
        return chance(f"{self.tag} keeps", item) < 0.8

    def key(self, item: Any) -> int:
        return int(chance(f"{self.tag} key", item) * 3)

    def fold(self, last: tuple[int, str], item: Any) -> tuple[int, str]:
        return last[0] + 1, text(item)

    # -- what it does, in lists

    def model(self, model: Model) -> Stream:
        upper = model.stream(self.upper)
        memory = _Memory(self)
        segments: list[list[Strand]] = []
        for number, segment in enumerate(upper.segments):
            out: Strand = []
            for item in segment[0] if segment else ():
                if memory.over:
                    break
                out += [item] if isinstance(item, Fail) else memory.give(item)
            is_last = number == len(upper.segments) - 1
            if self.kind == "reduce" and not (is_last and upper.cut):
                out.append(memory.result)
                memory = _Memory(self)
            segments.append([out])
            if memory.over:
                break
        cut = upper.cut and not memory.over
        return Stream(segments, upper.marks[: len(segments) - 1], cut, upper.lossy)


class _Memory:
    """What an operator remembers of the items that it has seen."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.over = False
        self.count = 0
        self.dropping = True
        self.result = (0, "")
        self.keys: list[int] = []  # the one met last stands last

    def give(self, item: Any) -> list[Any]:
        """Say what comes of an item."""
        out: list[Any] = getattr(self, f"_{self.operator.kind}")(item)
        self.count += 1
        return out

    def _take(self, item: Any) -> list[Any]:
        self.over = self.count + 1 == self.operator.size
        return [item]

    def _take_while(self, item: Any) -> list[Any]:
        self.over = not self.operator.keeps(item)
        return [] if self.over else [item]

    def _drop(self, item: Any) -> list[Any]:
        return [item] if self.count >= self.operator.size else []

    def _drop_while(self, item: Any) -> list[Any]:
        self.dropping = self.dropping and self.operator.keeps(item)
        return [] if self.dropping else [item]

    def _scan(self, item: Any) -> list[Any]:
        self.result = self.operator.fold(self.result, item)
        return [self.result]

    def _reduce(self, item: Any) -> list[Any]:
        self.result = self.operator.fold(self.result, item)
        return []

    def _enumerate(self, item: Any) -> list[Any]:
        return [(self.operator.size + self.count, item)]

    def _throttle(self, item: Any) -> list[Any]:
        return [item]

    def _flatten(self, item: Any) -> list[Any]:
        return list(item)

    def _distinct_until_changed(self, item: Any) -> list[Any]:
        key = self.operator.key(item)
        is_new = self.keys != [key]
        self.keys = [key]
        return [item] * is_new

    def _unique(self, item: Any) -> list[Any]:
        key = self.operator.key(item)
        is_new = key not in self.keys
        self.keys = [k for k in self.keys if k != key]
        if len(self.keys) == self.operator.size:
            del self.keys[0]
        self.keys.append(key)
        return [item] * is_new
