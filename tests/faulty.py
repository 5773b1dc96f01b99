"""Graphs whose every call of user code is planned, ways of running them, and what holds whatever fails.

Results carry whole numbers, tens: those of the first source are below 1000, those of the second above.
What a stage makes of an item stays in its ten, so each result tells which items it was made of, and each
source's items have an order, wherever they meet. Each source gives a sentinel in the middle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from flowstage import (
    Failure,
    Flow,
    Retry,
    Sentinel,
    Threads,
    concat,
    gather,
    merge,
    source,
    zip,
    zip_latest,
)

from .harness import Fault, Faults, Outcome, fault_sweep, observe
from .laws.parts import as_seen
from .laws.play import account
from .laws.streams import Fail, Mark

POLICIES = ("raise", "skip", "emit")
ENDS_OF_ITERATORS = ("stop_iteration", "stop_async_iteration")
"""In an iterator they are no failure but its end."""
Plans = Callable[[int], Iterable[tuple[Fault, ...]]]

# How a graph is run: options of `open`, and which hooks are there, if any.
WAYS: dict[str, dict[str, Any]] = {
    "observed": {"buffer": 1, "hooks": "plain before"},
    "observed, roomy": {"buffer": 100, "hooks": "async before"},
    "bare": {"buffer": 1},
    "bare, roomy": {"buffer": 100},
    "timed": {"buffer": 1, "timing": True},
    "timed, roomy": {"buffer": 100, "timing": True},
}


class Hooks:
    """An observer whose hooks may fail too: one of them plain, one async."""

    def __init__(self, faults: Faults, kind: str) -> None:
        async def later(*_: Any) -> None:
            await checkpoint()

        hooks: list[Any] = [lambda *_: None, later]
        before, after = hooks if kind == "plain before" else reversed(hooks)
        self.before_stage = faults.wrap(before, "hook.before")
        self.after_stage = faults.wrap(after, "hook.after")


@dataclass(frozen=True)
class Letter:
    """A dead letter, written down."""

    item: int


# ---------------------------------------------------------------- what the graphs are made of


def tens(count: int = 4, *, start: int = 0, mark: str = "S") -> list[Any]:
    """So many items, and a sentinel in the middle."""
    items: list[Any] = [start + 10 * number for number in range(count)]
    items.insert(count // 2, Sentinel(mark))
    return items


def waiting(values: Iterable[Any]) -> Callable[[], AsyncIterator[Any]]:
    """An async generator function of some values."""

    async def items() -> AsyncIterator[Any]:
        for value in values:
            await checkpoint()
            yield value

    return items


def plain(values: Iterable[Any]) -> Callable[[], Iterator[Any]]:
    """A generator function of some values."""

    def items() -> Iterator[Any]:
        yield from values

    return items


async def one_on(item: Any) -> Any:
    """Add one, later."""
    await checkpoint()
    return item + 1


async def nap(item: Any) -> Any:
    """Take longer for some items than for others."""
    await anyio.sleep(0.01 * (item // 10 % 3))
    return item


async def two_values(item: int) -> AsyncIterator[int]:
    """Give two values, later."""
    for number in range(2):
        await checkpoint()
        yield item + number


def two_at_once(item: int) -> Iterator[int]:
    """Give two values."""
    for number in range(2):
        yield item + number


# ---------------------------------------------------------------- the graphs


def on_the_loop(faults: Faults) -> Flow[Any, Any]:
    """Async generators from source to end, and what runs inline between them."""
    wrap = faults.wrap

    async def keep(item: int) -> bool:
        await checkpoint()
        return item != 21

    async def whole(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item

    flow = source(wrap(waiting(tens()), "items")).map(wrap(lambda item: item + 1, "inline"))
    flow = flow.filter(wrap(keep)).flat_map(wrap(two_values, "values"))
    flow = flow.map(wrap(nap, "wide"), concurrency=2).transform(wrap(whole))
    return flow.tap(wrap(lambda item: None, "look"))


def in_threads(faults: Faults) -> Flow[Any, Any]:
    """A source, a function and a generator in threads."""
    place, wrap = Threads(2), faults.wrap
    flow = source(wrap(plain(tens()), "items"), on=place).map(wrap(abs, "work"), on=place)
    return flow.flat_map(wrap(two_at_once, "values"), on=place, concurrency=1)


def at_junctions(faults: Faults) -> Flow[Any, Any]:
    """A route, a gather, and pools in their branches."""
    wrap = faults.wrap

    def key(item: int) -> str:
        return "a" if item < 20 else "b"

    start = source(lambda: faults.iterable(tens()))
    rows = gather(
        start.map(wrap(one_on, "one"), concurrency=2),
        start.filter(wrap(lambda item: True, "keep")),
    ).map(lambda row: row[1])
    arms = rows.route(wrap(key), ["a", "b"])
    return merge(
        arms["a"].map(wrap(one_on, "left"), concurrency=2).map(lambda item: item - 1),
        arms["b"].batch(1).flat_map(wrap(lambda batch: batch, "right")),
    )


class Manager:
    """A source that has to be entered and left."""

    def __init__(self, faults: Faults) -> None:
        self.enter, self.leave = (
            faults.wrap(self._nothing, name) for name in ("source.enter", "source.leave")
        )
        self.values = faults.async_iterable(tens())
        self.open = 0

    async def _nothing(self) -> None:
        await checkpoint()

    async def __aenter__(self) -> Any:
        await self.enter()
        self.open += 1
        return self.values

    async def __aexit__(self, *exc: object) -> None:
        self.open -= 1
        await self.leave()


def from_a_manager(faults: Faults) -> Flow[Any, Any]:
    """A source with something to leave, and stages that try twice and are timed."""
    flow = source(Manager(faults)).map(faults.wrap(one_on, "fetch"), retry=Retry(2), concurrency=2)
    return flow.map(faults.wrap(nap), timeout=TIMEOUT)


def plain_functions(faults: Faults) -> Flow[Any, Any]:
    """A chain of plain functions from the source on."""
    wrap = faults.wrap
    flow = source(wrap(plain(tens(12)), "items")).map(wrap(lambda item: item + 1, "first"))
    flow = flow.filter(wrap(lambda item: item != 31, "keep")).tap(wrap(lambda item: None, "look"))
    return flow.map(wrap(lambda item: item - 1, "last"))


def below_edges(faults: Faults) -> Flow[Any, Any]:
    """Chains that read from an edge: plain ones, and one that begins with an async function."""
    wrap = faults.wrap
    flow = source(wrap(plain(tens(10)), "items")).buffer(5).map(wrap(abs, "first"))
    flow = flow.map(wrap(one_on)).map(wrap(abs, "behind")).buffer(7)
    return flow.filter(wrap(lambda item: item != 31, "keep")).map(
        wrap(lambda item: item - 1, "last")
    )


def bursts_in_threads(faults: Faults) -> Flow[Any, Any]:
    """Functions in threads that are asked for nothing but a call for each item."""
    place, wrap = Threads(2), faults.wrap
    flow = source(wrap(plain(tens(10)), "items")).map(wrap(abs, "work"), on=place, concurrency=2)
    flow = flow.filter(wrap(lambda item: item != 30, "keep"), on=place, concurrency=2)
    return flow.flat_map(wrap(lambda item: [item, item + 1], "list"), on=place, concurrency=2)


def generators_in_threads(faults: Faults) -> Flow[Any, Any]:
    """Generators that are begun in one thread and may go on in another."""
    place, wrap = Threads(2), faults.wrap
    flow = source(wrap(plain(tens(8)), "items"))
    flow = flow.flat_map(wrap(two_at_once, "values"), on=place, concurrency=2)
    return flow.tap(wrap(lambda item: None, "look"), on=place, concurrency=2)


def pools(faults: Faults) -> Flow[Any, Any]:
    """Several calls at once of functions without options."""
    flow = source(faults.wrap(plain(tens(8)), "items")).map(faults.wrap(nap), concurrency=4)
    return flow.flat_map(faults.wrap(two_values, "values"), concurrency=3)


def unordered(faults: Faults) -> Flow[Any, Any]:
    """Pools, on the loop and in threads, that give results as they come."""
    place, wrap = Threads(2), faults.wrap
    flow = source(wrap(plain(tens(8)), "items")).map(wrap(nap), concurrency=4, ordered=False)
    flow = flow.flat_map(wrap(two_values, "values"), concurrency=3, ordered=False)
    return flow.map(wrap(abs, "work"), on=place, concurrency=2, ordered=False)


def two_sources(faults: Faults) -> tuple[Flow[Any, Any], Flow[Any, Any]]:
    """Two sources, each with a sentinel, a stage below each."""
    one = source(faults.wrap(waiting(tens(4)), "items")).map(faults.wrap(one_on))
    two = source(lambda: faults.iterable(tens(5, start=1000, mark="T")))
    return one, two.map(faults.wrap(abs, "other"))


def zipped(faults: Faults) -> Flow[Any, Any]:
    """Two sources by position."""
    return zip(*two_sources(faults)).map(faults.wrap(lambda row: row, "row"))


def latest(faults: Faults) -> Flow[Any, Any]:
    """The latest of two sources."""
    return zip_latest(*two_sources(faults)).map(faults.wrap(lambda row: row, "row"))


def concatenated(faults: Faults) -> Flow[Any, Any]:
    """One source after the other."""
    return concat(*two_sources(faults)).map(faults.wrap(one_on, "last"))


def merged(faults: Faults) -> Flow[Any, Any]:
    """Two sources as they come."""
    return merge(*two_sources(faults)).map(faults.wrap(one_on, "last"))


def balanced(faults: Faults) -> Flow[Any, Any]:
    """Two branches share the work."""
    one, two = source(lambda: faults.iterable(tens(6))).balance(2)
    return merge(one.map(faults.wrap(nap)), two.map(faults.wrap(abs, "plain")))


def timed_batches(faults: Faults) -> Flow[Any, Any]:
    """Lists that leave when they are full or when it is time."""

    async def items() -> AsyncIterator[Any]:
        for value in tens(6):
            yield value
            await anyio.sleep(0.03)

    async def pass_on(batch: list[int]) -> list[int]:
        await anyio.sleep(0.05)
        return batch

    flow = source(faults.wrap(items)).map(faults.wrap(abs, "before")).batch(3, within=0.05)
    return flow.map(faults.wrap(pass_on)).flat_map(faults.wrap(lambda batch: batch, "spread"))


def segments(faults: Faults) -> Flow[Any, Any]:
    """A stage that holds everything back until its segment ends."""

    async def hold(items: AsyncIterator[int]) -> AsyncIterator[int]:
        held = [item async for item in items]
        await checkpoint()
        for item in held:
            yield item

    flow = source(faults.wrap(waiting(tens(5)), "items")).map(faults.wrap(one_on))
    return flow.transform(faults.wrap(hold), segments=True).map(faults.wrap(abs, "last"))


def options_in_threads(faults: Faults) -> Flow[Any, Any]:
    """Threads with a retry and with a timeout."""
    place, wrap = Threads(3), faults.wrap
    flow = source(wrap(plain(tens(5)), "items"))
    flow = flow.map(wrap(abs, "again"), on=place, retry=Retry(2), concurrency=2)
    return flow.map(wrap(abs, "in_time"), on=place, timeout=TIMEOUT, concurrency=2)


def values_in_time(faults: Faults) -> Flow[Any, Any]:
    """Generators in threads with a timeout for each value."""
    flow = source(faults.wrap(waiting(tens(4)), "items"))
    return flow.flat_map(faults.wrap(two_at_once, "values"), on=Threads(2), timeout=TIMEOUT)


def dead_letters(faults: Faults) -> Flow[Any, Any]:
    """What failed comes out as data, beside the rest."""

    def write(failure: Failure) -> Letter:
        return Letter(failure.item)

    flow = source(faults.wrap(plain(tens(5)), "items")).map(faults.wrap(one_on, "first"))
    flow = flow.map(faults.wrap(nap), concurrency=2)
    return merge(flow, flow.failures().map(write))


TIMEOUT = 5.0
"""Seconds, in virtual time, after which the stages that have a timeout give up."""


@dataclass(frozen=True)
class Graph:
    """A graph and what may be said of its results.

    Attributes:
        build: writes it.
        exact: every run gives the same events in the same order.
        steady: every run gives results with the same numbers.
        loses: how many items one failure may cost, where it is skipped.
        strand: numbers of one strand come out in order.
        border: the first source's sentinel comes before this item.
        rows: results are made of items of two sources, so they are as late as the later one.
    """

    build: Callable[[Faults], Flow[Any, Any]]
    exact: bool = True
    steady: bool = True
    loses: int = 1
    strand: Callable[[int], Hashable] = field(default=lambda number: number // 1000)
    border: int = 20
    rows: bool = False


def _each(number: int) -> int:
    return number // 10


GRAPHS: dict[str, Graph] = {
    graph.build.__name__: graph
    for graph in (
        Graph(on_the_loop),
        Graph(in_threads),
        Graph(at_junctions, exact=False, strand=lambda number: number < 20),
        Graph(from_a_manager),
        Graph(plain_functions, border=60),
        Graph(below_edges, border=50),
        Graph(bursts_in_threads, border=50),
        Graph(generators_in_threads, border=40),
        Graph(pools, border=40),
        Graph(unordered, exact=False, strand=lambda number: number, border=40),
        Graph(zipped, exact=False, loses=2, rows=True),
        Graph(latest, exact=False, steady=False, rows=True),
        Graph(concatenated),
        Graph(merged, exact=False),
        Graph(balanced, exact=False, strand=_each, border=30),
        Graph(timed_batches, exact=False, loses=3, border=30),
        Graph(segments),
        Graph(options_in_threads),
        Graph(dead_letters, exact=False),
    )
}
BROKEN = {"values_in_time": Graph(values_in_time)}
"""Graphs that show a bug of the engine, until it is mended."""


# ---------------------------------------------------------------- one run


class Scenario:
    """One run of a graph, read to its end."""

    def __init__(self, name: str, policy: str, faults: Faults, *, way: str = "observed") -> None:
        self.graph = {**GRAPHS, **BROKEN}[name]
        self.policy, self.faults, self.way = policy, faults, way
        self.flow = self.graph.build(faults)
        self.seen: list[Any] = []
        self.ended = False
        self.report: Any = None

    async def __call__(self) -> list[Any]:
        run = None
        options: dict[str, Any] = {**WAYS[self.way], "on_error": self.policy}
        if kind := options.pop("hooks", ""):
            options["observers"] = [Hooks(self.faults, kind)]
        try:
            async with self.flow.open(**options) as run:
                async for event in run.events():
                    self.seen.append(as_seen(event))
                self.ended = True
        finally:
            if run is not None:
                self.report = run.report()
        return self.seen


def numbers(event: Any) -> list[int]:
    """What a result was made of."""
    if isinstance(event, (Mark, Fail, Letter)):
        return []
    if isinstance(event, (list, tuple)):
        return [number for one in event for number in numbers(one)]
    return [event]


def all_numbers(events: Iterable[Any]) -> list[int]:
    """What all results were made of, in their order."""
    return [number for event in events for number in numbers(event)]


def strands(graph: Graph, events: Iterable[Any]) -> dict[Hashable, list[int]]:
    """The numbers of each strand in the order in which they came."""
    found: dict[Hashable, list[int]] = {}
    for number in all_numbers(events):
        strand = found.setdefault(graph.strand(number), [])
        if graph.steady or strand[-1:] != [number]:
            strand.append(number)
    return found


def is_part(part: list[int], whole: list[int]) -> bool:
    """Whether these came in their order, some left out."""
    rest = iter(whole)
    return all(number in rest for number in part)


# ---------------------------------------------------------------- what has to hold


def check(faults: Faults, outcome: Outcome[list[Any]], healthy: list[Any]) -> None:
    """Check one run with a fault in it."""
    scenario = outcome.scenario
    assert isinstance(scenario, Scenario)
    try:
        outcome.check()
        faults.check_closed()
        assert not wrong_account(scenario), wrong_account(scenario)
        if outcome.error is not None:
            assert explained(faults, outcome.error), f"not planned: {outcome.error!r}"
            for _, _, planned in faults.raised:
                if isinstance(planned, (KeyboardInterrupt, SystemExit)):
                    assert outcome.error is planned, "an exit goes through bare"
        check_order(scenario, healthy)
        check_losses(scenario, outcome, healthy)
    except AssertionError as error:
        error.add_note(
            f"{scenario.policy}, {scenario.way}, {faults}\n{outcome}\nsaw {scenario.seen}"
        )
        raise


def wrong_account(scenario: Scenario) -> list[str]:
    """What does not add up when the run is over."""
    if scenario.report is None:
        return ["the run never began"]
    wrong = account(scenario.report)
    wrong += [f"{stage.name} holds" for stage in scenario.report.stages if stage.in_hand]
    return wrong + [f"{e.source} -> {e.target} holds" for e in scenario.report.edges if e.inside]


def explained(faults: Faults, error: BaseException) -> bool:
    """Whether an error was planned."""
    if faults.explains(error):
        return True
    # A loop in C ends without a word at this error: the engine has only another like it to give.
    planned = {type(planned) for _, _, planned in faults.raised}
    return isinstance(error.__cause__, StopIteration) and StopIteration in planned


def check_order(scenario: Scenario, healthy: list[Any]) -> None:
    """Nothing twice, nothing out of order, nothing on the wrong side of a sentinel."""
    graph, seen = scenario.graph, scenario.seen
    marks = Counter(event.value for event in seen if isinstance(event, Mark))
    assert all(count == 1 for count in marks.values()), f"a sentinel came twice: {marks}"
    whole = strands(graph, healthy)
    for name, part in strands(graph, seen).items():
        if graph.steady and not graph.rows:
            assert is_part(part, whole.get(name, [])), f"{part} is out of order"
        else:
            assert part == sorted(set(part)), f"{part} is out of order"
        if scenario.policy == "raise" and graph.steady:
            assert part == whole[name][: len(part)], "something came after a failure"
    for mark, border in {"S": graph.border, "T": 1020}.items():
        if Mark(mark) not in seen:
            continue
        at, start = seen.index(Mark(mark)), border // 1000 * 1000
        for place, event in enumerate(seen):
            mine = [number for number in numbers(event) if start <= number < start + 1000]
            if place < at:
                assert all(number < border for number in mine), f"{event!r} came before {mark}"
            elif not graph.rows:
                assert all(number >= border for number in mine), f"{event!r} came after {mark}"


def check_losses(scenario: Scenario, outcome: Outcome[list[Any]], healthy: list[Any]) -> None:
    """What should have come has come."""
    graph, seen, faults = scenario.graph, scenario.seen, scenario.faults
    labels = [label for _, label, _ in faults.raised]
    exits = any(isinstance(e, (KeyboardInterrupt, SystemExit)) for _, _, e in faults.raised)
    if all(label.startswith("hook") for label in labels) and not exits:
        assert outcome.error is None, "a hook has failed the run"
        assert is_same(graph, seen, healthy), "not what comes without faults"
    if not outcome.returned or len(labels) != 1 or scenario.policy == "raise":
        return
    if faults.plan[0].error in ENDS_OF_ITERATORS:
        return
    missing = {n // 10 for n in all_numbers(healthy)} - {n // 10 for n in all_numbers(seen)}
    if graph.steady:
        assert len(missing) <= graph.loses, f"one fault lost {missing}"
    assert marks_of(seen) == marks_of(healthy), "a sentinel is missing"
    if graph.build is dead_letters:
        letters = {event.item // 10 for event in seen if isinstance(event, Letter)}
        assert letters == missing, f"dead letters of {letters}, and {missing} are missing"


def marks_of(events: Iterable[Any]) -> set[Any]:
    """The sentinels that came."""
    return {event.value for event in events if isinstance(event, Mark)}


def is_same(graph: Graph, seen: list[Any], healthy: list[Any]) -> bool:
    """Whether a run gave what it gives without faults, as far as that is always the same."""
    if graph.exact:
        return seen == healthy
    same = marks_of(seen) == marks_of(healthy)
    return same and (not graph.steady or sorted(all_numbers(seen)) == sorted(all_numbers(healthy)))


# ---------------------------------------------------------------- sweeping


WITH_TIMEOUTS = ("from_a_manager", "options_in_threads", "values_in_time")


def settings_of(backend: str, name: str = "") -> dict[str, Any]:
    """On uvloop time is real: let it pass quickly, but no timeout by a machine that is busy."""
    if backend != "uvloop":
        return {}
    return {"rate": 5.0 if name in WITH_TIMEOUTS else 100.0}


def healthy_run(
    backend: str, name: str, policy: str = "raise", way: str = "observed", **settings: Any
) -> list[Any]:
    """What a graph gives when nothing fails."""
    scenario = Scenario(name, policy, Faults(backend=backend), way=way)
    return observe(backend, scenario, **settings_of(backend, name), **settings).unwrap()


def tried(
    backend: str,
    name: str,
    policy: str,
    plans: Plans,
    *,
    way: str = "observed",
    **settings: Any,
) -> Counter[str]:
    """Sweep one graph; give what came of it."""
    counts: Counter[str] = Counter()
    healthy = healthy_run(backend, name, policy, way, **settings)
    make = partial(Scenario, name, policy, way=way)
    settings = {**settings_of(backend, name), **settings}
    for faults, outcome in fault_sweep(backend, make, plans, **settings):
        check(faults, outcome, healthy)
        counts["runs"] += 1
        counts["failed" if outcome.error else "went on"] += 1
    return counts
