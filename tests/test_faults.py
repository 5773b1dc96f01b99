"""Every call of user code fails, hangs or is slow in turn, under every error policy.

User code here is all there is: sources of each kind and their cleanup, inline, async and threaded
functions, generators, transforms, keys of routes, and the hooks of observers; there are sentinels
between the items. Whatever fails, wherever: nothing is left, generators are closed once, the account
adds up, the error that comes out is the planned one, nothing comes out after it, and what was to be
skipped takes nothing else with it.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Flow, Input, Retry, Sentinel, Threads, gather, merge, source

from .harness import (
    BACKENDS,
    ERRORS,
    EXITS,
    Fault,
    Faults,
    Outcome,
    double_faults,
    fault_sweep,
    lasting_faults,
    observe,
    single_faults,
)
from .laws.parts import as_seen
from .laws.play import account
from .laws.streams import Fail, Mark

POLICIES = ("raise", "skip", "emit")
Plans = Callable[[int], Iterable[tuple[Fault, ...]]]
DEEP_SECONDS = 90.0
"""A share of the ten minutes that the deep campaigns take together, for one backend and policy."""
FEW = ("ordinary", "cancelled", "generator_exit", "end_of_stream")
ENDS_OF_ITERATORS = ("stop_iteration", "stop_async_iteration")

both_backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Skipped items and broken observers are logged by design."""
    logger = logging.getLogger("flowstage")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


# ---------------------------------------------------------------- the graphs


class Hooks:
    """An observer whose hooks may fail too."""

    def __init__(self, faults: Faults) -> None:
        async def after(*_: Any) -> None:
            await checkpoint()

        self.before_stage = faults.wrap(lambda *_: None, "hook.before")
        self.after_stage = faults.wrap(after, "hook.after")


def on_the_loop(faults: Faults) -> Flow[Any, Any]:
    """Async generators from source to end, and what runs inline between them."""

    async def items() -> AsyncIterator[Any]:
        for number in range(4):
            await checkpoint()
            yield number * 10
            if number == 1:
                yield Sentinel("S")

    def inline(item: int) -> int:
        return item + 1

    async def keep(item: int) -> bool:
        await checkpoint()
        return item != 21

    async def values(item: int) -> AsyncIterator[int]:
        for number in range(2):
            await checkpoint()
            yield item + number

    async def wide(item: int) -> int:
        await anyio.sleep(0.01 * (item % 3))
        return item

    async def whole(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item

    flow = source(faults.wrap(items)).map(faults.wrap(inline)).filter(faults.wrap(keep))
    flow = flow.flat_map(faults.wrap(values)).map(faults.wrap(wide), concurrency=2)
    return flow.transform(faults.wrap(whole)).tap(faults.wrap(lambda item: None, "look"))


def in_threads(faults: Faults) -> Flow[Any, Any]:
    """A source, a function and a generator in threads."""
    place = Threads(2)

    def items() -> Iterator[Any]:
        for number in range(4):
            yield number * 10
            if number == 1:
                yield Sentinel("S")

    def work(item: int) -> int:
        return item

    def values(item: int) -> Iterator[int]:
        for number in range(2):
            yield item + number

    flow = source(faults.wrap(items), on=place).map(faults.wrap(work), on=place)
    return flow.flat_map(faults.wrap(values), on=place, concurrency=1)


def at_junctions(faults: Faults) -> Flow[Any, Any]:
    """A route, a gather, and pools in their branches."""

    def key(item: int) -> str:
        return "a" if item < 20 else "b"

    async def one(item: int) -> int:
        await checkpoint()
        return item + 1

    def two(item: int) -> bool:
        return True

    start = source(lambda: faults.iterable([0, 10, Sentinel("S"), 20, 30]))
    rows = gather(
        start.map(faults.wrap(one), concurrency=2),
        start.filter(faults.wrap(two, "keep")),
    ).map(lambda row: row[1])
    arms = rows.route(faults.wrap(key), ["a", "b"])
    return merge(
        arms["a"].map(faults.wrap(one, "left"), concurrency=2).map(lambda item: item - 1),
        arms["b"].batch(1).flat_map(faults.wrap(lambda batch: batch, "right")),
    )


class Manager:
    """A source that has to be entered and left."""

    def __init__(self, faults: Faults) -> None:
        self.enter, self.leave = (
            faults.wrap(self._nothing, name) for name in ("source.enter", "source.leave")
        )
        self.values = faults.async_iterable([0, 10, Sentinel("S"), 20, 30])
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
    """A source with something to leave, and a stage that tries twice."""

    async def fetch(item: int) -> int:
        await checkpoint()
        return item

    flow = source(Manager(faults))
    return flow.map(faults.wrap(fetch), retry=Retry(2), concurrency=2, ordered=True)


GRAPHS: dict[str, Callable[[Faults], Flow[Any, Any]]] = {
    graph.__name__: graph for graph in (on_the_loop, in_threads, at_junctions, from_a_manager)
}


class Scenario:
    """One run of a graph, read to its end."""

    def __init__(self, build: Callable[[Faults], Flow[Any, Any]], policy: str, faults: Faults):
        self.flow, self.policy, self.faults = build(faults), policy, faults
        self.seen: list[Any] = []
        self.ended = False
        self.report: Any = None

    async def __call__(self) -> list[Any]:
        run = None
        hooks = [Hooks(self.faults)]
        try:
            async with self.flow.open(buffer=1, on_error=self.policy, observers=hooks) as run:
                async for event in run.events():
                    self.seen.append(as_seen(event))
                self.ended = True
        finally:
            if run is not None:
                self.report = run.report()
        return self.seen


# ---------------------------------------------------------------- what has to hold


def check(faults: Faults, outcome: Outcome[list[Any]], healthy: list[Any]) -> None:
    """Check one run with a fault in it."""
    scenario = outcome.scenario
    assert isinstance(scenario, Scenario)
    try:
        outcome.check()
        faults.check_closed(same_task=False)
        wrong = account(scenario.report)
        wrong += [f"{stage.name} holds" for stage in scenario.report.stages if stage.in_hand]
        assert not wrong, wrong
        if outcome.error is not None:
            assert faults.explains(outcome.error), f"not planned: {outcome.error!r}"
            for _, _, planned in faults.raised:
                if isinstance(planned, (KeyboardInterrupt, SystemExit)):
                    assert outcome.error is planned, "an exit goes through bare"
        check_events(scenario, faults, outcome, healthy)
    except AssertionError as error:
        error.add_note(f"{scenario.policy}, {faults}\n{outcome}\nsaw {scenario.seen}")
        raise


def check_events(
    scenario: Scenario, faults: Faults, outcome: Outcome[list[Any]], healthy: list[Any]
) -> None:
    """Check what came out against what comes without faults."""
    marks = [event for event in scenario.seen if isinstance(event, Mark)]
    assert len(marks) <= 1, "a sentinel came twice"
    seen = [event for event in scenario.seen if not isinstance(event, Fail)]
    # A pool may be ahead, and a merge mixes two branches: each branch keeps its order.
    for low, high in ((0, 20), (20, 99)):
        part = [item for item in seen if not isinstance(item, Mark) and low <= item < high]
        whole = [item for item in healthy if not isinstance(item, Mark) and low <= item < high]
        rest = iter(whole)
        assert all(item in rest for item in part), f"{part} is out of order"
        if outcome.error is not None or scenario.policy == "raise":
            assert part == whole[: len(part)], "something came after a failure"
    if Mark("S") in seen:
        at = seen.index(Mark("S"))
        assert all(item < 20 for item in seen[:at])
        assert all(item >= 20 for item in seen[at + 1 :])
    labels = [label for _, label, _ in faults.raised]
    exits = any(isinstance(e, (KeyboardInterrupt, SystemExit)) for _, _, e in faults.raised)
    if labels and all(label.startswith("hook") for label in labels) and not exits:
        assert outcome.error is None, "a hook has failed the run"
        assert seen == healthy or sorted(map(str, seen)) == sorted(map(str, healthy))
    if outcome.returned and len(faults.raised) == 1 and scenario.policy != "raise":
        missing = {i // 10 for i in healthy if not isinstance(i, Mark) and i not in seen}
        ended_early = faults.plan[0].error in ENDS_OF_ITERATORS
        assert len(missing) <= 1 or ended_early, f"one fault lost {missing}"
        assert Mark("S") in seen or ended_early
    if outcome.returned and not faults.raised:
        assert sorted(map(str, seen)) == sorted(map(str, healthy))


def tried(
    backend: str,
    name: str,
    policy: str,
    plans: Plans,
    **settings: Any,
) -> Counter[str]:
    """Sweep one graph; give what came of it."""
    counts: Counter[str] = Counter()
    make = partial(Scenario, GRAPHS[name], policy)
    healthy = observe(backend, make(Faults(backend=backend))).unwrap()
    for faults, outcome in fault_sweep(backend, make, plans, **settings):
        check(faults, outcome, healthy)
        counts["runs"] += 1
        counts["failed" if outcome.error else "went on"] += 1
    return counts


# ---------------------------------------------------------------- the sweeps


@pytest.mark.slow
@both_backends
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", GRAPHS)
def test_any_call_may_fail(backend: str, name: str, policy: str) -> None:
    """A few kinds of errors at every second call."""
    errors = FEW if policy == "raise" else FEW[:2]

    def some(calls: int) -> Iterator[tuple[Fault, ...]]:
        for number, plan in enumerate(single_faults(calls, errors)):
            if number % 3 == 0:
                yield plan

    counts = tried(backend, name, policy, some)
    assert counts["failed"]
    assert counts["went on"]


@pytest.mark.slow
@both_backends
@pytest.mark.parametrize("error", EXITS)
def test_exits_go_through_bare(backend: str, error: str) -> None:
    """`KeyboardInterrupt` and `SystemExit` are neither skipped nor wrapped."""
    for name in ("on_the_loop", "in_threads"):

        def some(calls: int) -> Iterator[tuple[Fault, ...]]:
            yield from [(Fault(call, error),) for call in range(1, calls + 1, 4)]

        counts = tried(backend, name, "skip", some)
        assert counts["failed"] == counts["runs"]


@pytest.mark.deep
@both_backends
@pytest.mark.parametrize("policy", POLICIES)
def test_every_call_fails_with_everything(
    backend: str, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each error at each call of each graph, exits too, then two faults, then faults that last.

    Rounds of all graphs, as many as fit into the time; what was tried is printed.
    """
    began, counts = time.monotonic(), Counter[str]()
    campaigns: list[tuple[Plans, dict[str, Any]]] = [
        (partial(single_faults, errors=[*ERRORS, *EXITS]), {}),
        (lasting_faults, {}),
        (partial(single_faults, errors=FEW), {"seed": 3, "lag": 0.4}),
        (partial(double_faults, gaps=(1, 2)), {}),
    ]
    for plans, order in campaigns:
        for name in GRAPHS:
            if time.monotonic() - began < DEEP_SECONDS:
                counts += tried(backend, name, policy, plans, **order)
    with capsys.disabled():
        spent = time.monotonic() - began
        print(f"\n{backend}, {policy}: {dict(counts)} in {spent:.0f} s")  # noqa: T201


# ---------------------------------------------------------------- slow and hanging calls


class Late(Faults):
    """Instead of failing, the `at`-th call of async user code takes long."""

    def __init__(self, at: int, seconds: float) -> None:
        super().__init__()
        self.at, self.seconds = at, seconds
        self.number = 0
        self.where = ""

    def wrap(self, fn: Any, name: str | None = None) -> Any:
        label = name or getattr(fn, "__name__", "")
        if inspect.isasyncgenfunction(fn):

            async def values(*args: Any) -> AsyncIterator[Any]:
                async with aclosing(fn(*args)) as inner:
                    try:
                        async for value in inner:
                            await self.wait(label)
                            yield value
                    finally:
                        await self.wait(f"{label}.close", most=5.0)

            return values
        if inspect.iscoroutinefunction(fn):

            async def waiting(*args: Any) -> Any:
                await self.wait(label)
                return await fn(*args)

            return waiting
        return fn

    async def wait(self, label: str, most: float = 1e9) -> None:
        self.number += 1
        if self.number == self.at:
            self.where = label
            await anyio.sleep(min(self.seconds, most))


@both_backends
@pytest.mark.slow
@pytest.mark.parametrize("name", ["on_the_loop", "at_junctions", "from_a_manager"])
def test_slow_calls_change_nothing(backend: str, name: str) -> None:
    """Whatever call takes a minute, the same comes out in the same order."""
    healthy = observe(backend, Scenario(GRAPHS[name], "raise", Late(0, 0))).unwrap()
    for at in range(1, 1000):
        late = Late(at, 60.0)
        outcome = observe(backend, Scenario(GRAPHS[name], "raise", late))
        outcome.check()
        seen = outcome.unwrap()
        if name == "at_junctions":  # the merge mixes two branches
            assert sorted(map(str, seen)) == sorted(map(str, healthy)), late.where
        else:
            assert seen == healthy, late.where
        if late.number < at:
            break


@both_backends
@pytest.mark.slow
@pytest.mark.parametrize("name", ["on_the_loop", "at_junctions", "from_a_manager"])
def test_hanging_calls_are_cancelled(backend: str, name: str) -> None:
    """Whatever call hangs for ever, leaving the run ends it, cleanup included."""

    class Impatient(Scenario):
        async def __call__(self) -> list[Any]:
            with anyio.move_on_after(30):
                await super().__call__()
            return self.seen

    for at in range(1, 1000):
        late = Late(at, 1e9)
        outcome = observe(backend, Impatient(GRAPHS[name], "raise", late), seconds=1e10)
        outcome.check()
        outcome.unwrap()
        scenario = outcome.scenario
        assert isinstance(scenario, Impatient)
        assert outcome.elapsed < 41, late.where
        assert not account(scenario.report)
        if late.number < at:
            assert scenario.ended
            break
        assert not scenario.ended or late.where.endswith((".close", "hook.after", "leave")), late


def test_an_input_is_no_different() -> None:
    """A source given to `open` is guarded like one that is written."""

    class Feeding(Scenario):
        async def __call__(self) -> list[Any]:
            self.report = await Input[int]().map(self.faults.wrap(abs)).drain(self.items())
            return self.seen

        def items(self) -> Any:
            return self.faults.iterable([1, 2, 3])

    def build(faults: Faults) -> Flow[Any, Any]:
        return Input[int]()

    for backend in BACKENDS:
        for error in FEW:
            for at in range(1, 7):
                faults = Faults(Fault(at, error), backend=backend)
                outcome = observe(backend, Feeding(build, "raise", faults))
                outcome.check()
                assert faults.explains(outcome.error), f"{faults}, {outcome}"
