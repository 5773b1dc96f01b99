"""The graphs of `test_junction_contracts`, and what has to come out of each of them.

An item is a number that says where it came from: `item(2, 7)` is the seventh of the third input. A
branch adds `TAG` times its own number, so that a result tells which way each of its parts has gone.
`Shape.check` knows what every junction makes of what its branches were given, items that failed or
were skipped on the way among it.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from itertools import pairwise, product
from typing import Any

import anyio.lowlevel
from attrs import Factory, define, frozen

from flowstage import (
    Failure,
    Flow,
    Graph,
    Input,
    Sentinel,
    Threads,
    concat,
    gather,
    merge,
    zip_latest,
)
from flowstage import zip as zip_flows
from flowstage.operators import take

TAG = 10_000
SOURCE = 1_000

Branch = Callable[[Flow[Any, Any], int], Flow[Any, Any]]


def item(source: int, number: int) -> int:
    return source * SOURCE + number


def items(source: int, numbers: Iterable[int]) -> list[int]:
    return [item(source, number) for number in numbers]


@frozen
class Failed:
    """An item that failed, at its place among what a branch gives or an end brings."""

    item: int


SKIPPED: Any = type("Skipped", (), {"__repr__": lambda self: "SKIPPED"})()
"""The place of a row that has lost its item in one branch."""


def raw(value: Any) -> int:
    """Give the item as it was sent."""
    return value.item % TAG if isinstance(value, Failed) else value % TAG


def parts(result: Any) -> list[int]:
    """Give the items, as they were sent, that a result is made of."""
    return [raw(part) for part in (result if isinstance(result, tuple) else (result,))]


# -- branches --------------------------------------------------------------------------------------


@define
class Fails:
    """The function of one branch, or what stands above the junction, fails once.

    Attributes:
        branch: which branch.
        after: calls that go well before.
        policy: what the stage does about it.
        items: what it failed for, as it was sent.
    """

    branch: int
    after: int
    policy: str
    calls: int = 0
    items: list[int] = Factory(list)

    def look(self, value: int) -> None:
        self.calls += 1
        if self.calls == self.after + 1:
            self.items.append(raw(value))
            raise OSError(value)


def _plain(flow: Flow[Any, Any], fn: Callable[[int], int], **options: Any) -> Flow[Any, Any]:
    return flow.map(fn, **options)


def _waiting(flow: Flow[Any, Any], fn: Callable[[int], int], **options: Any) -> Flow[Any, Any]:
    async def later(value: int) -> int:
        await anyio.lowlevel.checkpoint()
        return fn(value)

    return flow.map(later, **options)


def _in_threads(flow: Flow[Any, Any], fn: Callable[[int], int], **options: Any) -> Flow[Any, Any]:
    return flow.map(fn, on=Threads(2), **options)


KINDS: dict[str, Callable[..., Flow[Any, Any]]] = {
    "inline": _plain,
    "async": _waiting,
    "pool": partial(_waiting, concurrency=3),
    "unordered": partial(_waiting, concurrency=3, ordered=False),
    "threads": _in_threads,
}


def branch(kind: str, *, fails: Fails | None = None, most: tuple[int, int] | None = None) -> Branch:
    """Make the branches of a shape.

    Args:
        kind: of their stages; "bare" for none.
        fails: one of them fails once.
        most: the number of one of them, and how many items it gives before it ends by itself.
    """

    def grow(flow: Flow[Any, Any], index: int) -> Flow[Any, Any]:
        def work(value: int) -> int:
            if fails is not None and fails.branch == index:
                fails.look(value)
            return value + TAG * index

        options = {} if fails is None else {"on_error": fails.policy}
        new = flow if kind == "bare" else KINDS[kind](flow, work, **options)
        return new.pipe(take, most[1]) if most is not None and most[0] == index else new

    return grow


# -- shapes ----------------------------------------------------------------------------------------


@frozen
class Shape:
    """A graph around one junction.

    Attributes:
        graph: it, with its ends.
        inputs: its `Input` flows.
        split: how the items of an input reach its branches: "copy", "route" or "balance".
        branches: of each branch the number of the input it grows from.
        ends: what comes out at each end: how the branches are joined, and which.
    """

    graph: Graph
    inputs: tuple[Flow[Any, Any], ...]
    split: str
    branches: tuple[int, ...]
    ends: Mapping[str, tuple[str, tuple[int, ...]]]

    def streams(self, given: Sequence[Sequence[Any]], fails: Fails | None) -> list[list[Any]]:
        """Tell what each branch gives, when each input was given something."""
        ways = Counter(self.branches)[0]
        streams: list[list[Any]] = []
        for index, source in enumerate(self.branches):
            stream: list[Any] = []
            for one in given[source]:
                if isinstance(one, Failed):
                    if self.split == "copy" or index == 0:
                        stream.append(one)
                elif self.split == "route" and one % SOURCE % ways != index:
                    pass
                elif fails is not None and fails.branch == index and one in fails.items:
                    if fails.policy == "raise":
                        break
                    stream.append(SKIPPED if fails.policy == "skip" else Failed(one))
                else:
                    stream.append(one + TAG * index)
            streams.append(stream)
        if self.split == "failures":
            streams[1] = [] if fails is None else [Failed(one) for one in fails.items]
        return streams

    def check(
        self,
        got: Mapping[str, Sequence[Any]],
        given: Sequence[Sequence[Any]],
        *,
        ordered: bool = True,
        left: Iterable[str] = (),
        fails: Fails | None = None,
        most: tuple[int, int] | None = None,
        lost: int = 0,
    ) -> None:
        """Assert that exactly the right values have come out.

        Args:
            got: of each end.
            given: to each input.
            ordered: the branches keep the order.
            left: ends that nobody read to the end: they have part of it.
            fails: what failed in a branch.
            most: how many items one branch gives.
            lost: items of `balance` that went with a branch that left.
        """
        if self.split == "balance":
            self.check_balance(got, given[0], ordered, bool(left), fails, lost)
            return
        streams = self.streams(given, fails)
        if most is not None:
            streams[most[0]] = streams[most[0]][: most[1]]
        for name, (join, numbers) in self.ends.items():
            mine = [streams[number] for number in numbers]
            CHECKS[join](list(got[name]), mine, name not in left, ordered)

    def check_balance(
        self,
        got: Mapping[str, Sequence[Any]],
        given: Sequence[Any],
        ordered: bool,
        partial: bool,
        fails: Fails | None,
        lost: int,
    ) -> None:
        """Each item once, at whatever branch; in order at each."""
        everything = [one for values in got.values() for one in values]
        found = Counter(one if isinstance(one, Failed) else raw(one) for one in everything)
        wanted = Counter(given)
        if fails is not None and fails.branch >= 0:
            wanted -= Counter(fails.items)
            if fails.policy == "emit":
                wanted += Counter(map(Failed, fails.items))
        assert found <= wanted, found - wanted
        if not partial:
            assert (wanted - found).total() <= lost, wanted - found
        for name, (_, numbers) in self.ends.items():
            for number in numbers:
                mine = [one for one in got[name] if not isinstance(one, Failed)]
                mine = [one % TAG for one in mine if one // TAG == number]
                assert not ordered or mine == [one for one in given if one in set(mine)]
        for name in [*self.ends][1:]:  # a failure from above goes to the first branch
            assert not [one for one in given if isinstance(one, Failed) and one in got[name]]


def check_plain(got: list[Any], streams: list[list[Any]], whole: bool, ordered: bool) -> None:
    check_concat(got, streams, whole, ordered)


def check_merge(got: list[Any], streams: list[list[Any]], whole: bool, ordered: bool) -> None:
    """All of every branch; what can have come from one branch only is in its order."""
    streams = [[one for one in stream if one is not SKIPPED] for stream in streams]
    wanted = Counter(one for stream in streams for one in stream)
    assert Counter(got) <= wanted, Counter(got) - wanted
    assert not whole or Counter(got) == wanted, wanted - Counter(got)
    for stream in streams if ordered else ():
        own = [one for one in stream if wanted[one] == 1]
        mine = [one for one in got if one in set(own)]
        assert mine == own[: len(mine)]


def check_concat(got: list[Any], streams: list[list[Any]], whole: bool, ordered: bool) -> None:
    """All of one branch, then all of the next."""
    streams = [[one for one in stream if one is not SKIPPED] for stream in streams]
    for stream in streams:
        mine, got = got[: len(stream)], got[len(stream) :]
        if ordered:
            assert mine == stream[: len(mine)]
        assert Counter(mine) <= Counter(stream)
        assert not whole or len(mine) == len(stream), (mine, stream)
        assert not got or len(mine) == len(stream)
    assert not got


def check_zip(got: list[Any], streams: list[list[Any]], whole: bool, ordered: bool) -> None:
    """Rows by position; a failure takes the place of its row."""
    streams = [[one for one in stream if one is not SKIPPED] for stream in streams]
    check_rows(got, [*zip(*streams, strict=False)], whole, ordered)


def check_gather(got: list[Any], streams: list[list[Any]], whole: bool, ordered: bool) -> None:
    """Rows by item: one that lost a part is not there, unless it is a failure."""
    rows = [*zip(*streams, strict=whole)]
    kept = [
        row for row in rows if SKIPPED not in row or any(isinstance(part, Failed) for part in row)
    ]
    check_rows(got, kept, whole, ordered)


def check_rows(got: list[Any], rows: list[Any], whole: bool, ordered: bool) -> None:
    wanted = [next((part for part in row if isinstance(part, Failed)), row) for row in rows]
    if ordered:
        assert got == (wanted if whole else wanted[: len(got)])
        return
    assert not whole or len(got) == len(wanted)
    for number in range(len(wanted[0]) if wanted else 0):  # pairs of whatever came first
        mine = Counter(row[number] for row in got)
        assert mine <= Counter(row[number] for row in wanted)


def check_latest(got: list[Any], streams: list[list[Any]], whole: bool, ordered: bool) -> None:
    """Each row differs from the one before by the next item of one branch; failures just pass."""
    failures = Counter(one for stream in streams for one in stream if isinstance(one, Failed))
    found = Counter(one for one in got if isinstance(one, Failed))
    assert found <= failures
    assert not whole or found == failures
    streams = [
        [one for one in stream if one is not SKIPPED and not isinstance(one, Failed)]
        for stream in streams
    ]
    rows = [one for one in got if not isinstance(one, Failed)]
    if whole:
        assert bool(rows) == all(streams), "the first row comes when every branch has given"
    if not ordered:
        for number, stream in enumerate(streams):
            assert {row[number] for row in rows} <= set(stream)
        return
    places = [
        [stream.index(part) for part, stream in zip(row, streams, strict=True)] for row in rows
    ]
    for before, after in pairwise(places):
        steps = [b - a for a, b in zip(before, after, strict=True)]
        assert sorted(steps) == [0] * (len(streams) - 1) + [1], rows
    if whole and rows:
        assert 0 in places[0], "one branch had its first item just then"
        assert places[-1] == [len(stream) - 1 for stream in streams], rows[-1]


CHECKS: dict[str, Callable[[list[Any], list[list[Any]], bool, bool], None]] = {
    "plain": check_plain,
    "merge": check_merge,
    "concat": check_concat,
    "zip": check_zip,
    "strict": check_zip,
    "gather": check_gather,
    "latest": check_latest,
}
JOINS: dict[str, Callable[..., Flow[Any, Any]]] = {
    "merge": merge,
    "concat": concat,
    "zip": zip_flows,
    "strict": partial(zip_flows, strict=True),
    "gather": gather,
    "latest": zip_latest,
}

Maker = Callable[[Branch, Branch], Shape]


def bare(flow: Flow[Any, Any], index: int) -> Flow[Any, Any]:
    return flow


def inputs(count: int) -> tuple[Flow[Any, Any], ...]:
    return tuple(Input[int]("abc"[number]) for number in range(count))


def fan_in(join: str, width: int, *, fork: bool = False, sides: bool = False) -> Maker:
    """Several inputs, or the branches of one, that meet; at the sides, each is an end too."""

    def make(grow: Branch, head: Branch) -> Shape:
        made = inputs(1 if fork else width)
        heads = [head(one, number) for number, one in enumerate(made)]
        flows = [grow(heads[0 if fork else number], number) for number in range(width)]
        ends: dict[str, Any] = {"out": JOINS[join](*flows)}
        told = {"out": (join, tuple(range(width)))}
        for number, flow in enumerate(flows if sides else ()):
            ends[f"side{number}"] = flow
            told[f"side{number}"] = ("plain", (number,))
        branches = tuple(0 if fork else number for number in range(width))
        return Shape(Graph(**ends), made, "copy", branches, told)

    return make


def fan_out(split: str, width: int, *, meet: bool = False) -> Maker:
    """One input that parts, and meets again or not."""

    def make(grow: Branch, head: Branch) -> Shape:
        made = inputs(1)
        above = head(made[0], 0)
        ways: Any = [above] * width
        if split == "route":
            ways = above.route(lambda value: value % SOURCE % width, range(width)).values()
        elif split == "balance":
            ways = above.balance(width)
        flows = [grow(way, number) for number, way in enumerate(ways)]
        if meet:
            ends: dict[str, Any] = {"out": merge(*flows)}
            told: dict[str, Any] = {"out": ("merge", tuple(range(width)))}
        else:
            ends = {f"end{number}": flow for number, flow in enumerate(flows)}
            told = {f"end{number}": ("plain", (number,)) for number in range(width)}
        how = "copy" if split == "broadcast" else split
        return Shape(Graph(**ends), made, how, (0,) * width, told)

    return make


def failures(sides: bool) -> Maker:
    """A stage and its dead letters, which meet again."""

    def make(grow: Branch, head: Branch) -> Shape:
        made = inputs(1)
        main = grow(head(made[0], 0), 0)
        dead = main.failures()
        ends: dict[str, Any] = {"out": merge(main, dead)}
        told: dict[str, Any] = {"out": ("merge", (0, 1))}
        if sides:
            ends |= {"main": main, "dead": dead}
            told |= {"main": ("plain", (0,)), "dead": ("plain", (1,))}
        return Shape(Graph(**ends), made, "failures", (0, 0), told)

    return make


def mesh(grow: Branch, head: Branch) -> Shape:
    """Two inputs, each at both ends."""
    made = inputs(2)
    a, b = (head(one, number) for number, one in enumerate(made))
    graph = Graph(left=merge(grow(a, 0), grow(b, 1)), right=merge(grow(b, 2), grow(a, 3)))
    return Shape(
        graph, made, "copy", (0, 1, 1, 0), {"left": ("merge", (0, 1)), "right": ("merge", (2, 3))}
    )


INDEPENDENT = ("merge", "zip", "strict", "latest", "concat")
SHAPES: dict[str, Maker] = {
    **{f"{join}{width}": fan_in(join, width) for join in INDEPENDENT for width in (2, 3)},
    **{f"{join}_sides": fan_in(join, 2, sides=True) for join in INDEPENDENT},
    **{f"gather{width}": fan_in("gather", width, fork=True) for width in (2, 3)},
    "gather_sides": fan_in("gather", 2, fork=True, sides=True),
    "fork_merge": fan_in("merge", 2, fork=True),
    "fork_latest": fan_in("latest", 3, fork=True),
    **{
        f"{split}{width}": fan_out(split, width)
        for split in ("broadcast", "route", "balance")
        for width in (2, 3)
    },
    "route_merge": fan_out("route", 2, meet=True),
    "balance_merge": fan_out("balance", 2, meet=True),
    "failures": failures(sides=False),
    "failures_sides": failures(sides=True),
    "mesh": mesh,
}


def build(shape: str, grow: Branch | str = "inline", head: Branch = bare) -> Shape:
    return SHAPES[shape](branch(grow) if isinstance(grow, str) else grow, head)


def join_of(shape: str) -> str:
    """Name the junction of a shape, whatever its width."""
    return shape.split("_")[0].rstrip("23")


def _several(test: Callable[[Shape], object]) -> list[str]:
    return [name for name in SHAPES if test(build(name))]


OF_INPUTS = _several(lambda made: len(made.inputs) > 1)
OF_ONE_INPUT = [name for name in SHAPES if name not in OF_INPUTS]
OF_ENDS = _several(lambda made: len(made.ends) > 1)
NO_ORDER = [name for name in SHAPES if name.startswith("gather")]  # they refuse "unordered"
NARROW = [name for name in SHAPES if not name.endswith(("3", "_sides"))]


# -- reading ---------------------------------------------------------------------------------------


def told(event: Any) -> Any:
    """Write down an event of an end."""
    return Failed(event.item % TAG) if isinstance(event, Failure) else event


class Ends:
    """Reads the ends of a run, each in a task of its own.

    Attributes:
        events: what has come, by end.
        over: the ends that have been read to their end.
    """

    def __init__(self, run: Any, shape: Shape) -> None:
        self.run = run
        self.events: dict[str, list[Any]] = {name: [] for name in shape.ends}
        self.over: set[str] = set()

    async def read(self, name: str, most: int | None = None) -> None:
        if most == 0:
            return
        async for event in self.run.output(name).events():
            self.events[name].append(told(event))
            if len(self.events[name]) == most:
                return
        self.over.add(name)

    def start(self, group: Any, *, but: Iterable[str] = ()) -> None:
        for name in self.events:
            if name not in but:
                group.start_soon(self.read, name)

    def values(self) -> dict[str, list[Any]]:
        return {
            name: [event for event in events if not isinstance(event, Sentinel)]
            for name, events in self.events.items()
        }

    def sentinels(self) -> dict[str, list[Any]]:
        return {
            name: [event.value for event in events if isinstance(event, Sentinel)]
            for name, events in self.events.items()
        }

    def clear(self) -> None:
        for events in self.events.values():
            events.clear()


# -- sentinels -------------------------------------------------------------------------------------


@frozen
class Sent:
    """What was sent to a graph by one task, one thing after the other.

    Attributes:
        places: of each item, how many sentinels were sent before it.
        active: for each sentinel the first input that had not been finished then.
    """

    places: dict[int, int] = Factory(dict)
    active: list[int] = Factory(list)

    def item(self, one: int) -> None:
        self.places[one] = len(self.active)

    def sentinel(self, active: int = 0) -> int:
        self.active.append(active)
        return len(self.active) - 1

    def is_after(self, one: int, sentinel: int, *, in_turn: bool) -> bool:
        """Tell on which side of a sentinel an item belongs."""
        if in_turn and one // SOURCE != self.active[sentinel]:
            return one // SOURCE > self.active[sentinel]
        return self.places[one] > sentinel


def check_sides(shape: Shape, events: Mapping[str, Sequence[Any]], sent: Sent) -> None:
    """Assert that each result is on the side of each sentinel where its latest part was sent."""
    for name, mine in events.items():
        in_turn = shape.ends[name][0] == "concat"
        seen: set[int] = set()
        for event in mine:
            if isinstance(event, Sentinel):
                seen.add(event.value)
                continue
            for sentinel in range(len(sent.active)):
                after = any(sent.is_after(one, sentinel, in_turn=in_turn) for one in parts(event))
                assert (sentinel in seen) == after, f"{name}: {event}, {sentinel}: {mine}"


def pairs(
    kinds: Iterable[str] = KINDS, wide: Iterable[str] = ("async", "threads")
) -> list[tuple[str, str]]:
    """Give shapes and kinds of branches, fewer for the wider of the shapes."""
    return [
        (shape, kind)
        for shape in SHAPES
        for kind in kinds
        if (kind in wide or shape in NARROW) and not (kind == "unordered" and shape in NO_ORDER)
    ]


# -- many cases in one test ------------------------------------------------------------------------


def each(**options: Sequence[Any]) -> Callable[[Any], Any]:
    """Run a test for each combination of some options: an event loop for each would cost more."""

    def decorate(test: Any) -> Any:
        @wraps(test)
        async def run(**given: Any) -> None:
            for chosen in product(*options.values()):
                case = dict(zip(options, chosen, strict=True))
                try:
                    await test(**given, **case)
                except BaseException as error:
                    error.add_note(f"with {case}")
                    raise

        signature = inspect.signature(test)
        rest = [one for name, one in signature.parameters.items() if name not in options]
        run.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
        return run

    return decorate
