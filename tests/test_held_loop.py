"""A plain function that holds the event loop is named, once, in a warning and in the report."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import flowstage._engine
from flowstage import Flow, Input, Report, Retry, Threads, merge, operators, source

from .accounts import check_accounts, soon

HOLD = 0.3
AT = 50  # the item that takes long, when everything has long found its pace


class Clock:
    """What flowstage takes for the time: it passes when a function says so and only then."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def hold(self, seconds: float = HOLD) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in pkgutil.iter_modules(flowstage._engine.__path__, "flowstage._engine."):
        found = importlib.import_module(module.name)
        if hasattr(found, "perf_counter"):
            monkeypatch.setattr(found, "perf_counter", clock)
    return clock


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    texts = [r.getMessage() for r in caplog.records if r.name == "flowstage"]
    return [text for text in texts if "held the event loop" in text]


def check(report: Report, caplog: pytest.LogCaptureFixture, name: str = "slow") -> None:
    """Assert that one stage, and no other, is said to have held the loop for 0.3 s."""
    (text,) = warnings(caplog)
    assert repr(name) in text
    assert "0.3 s" in text
    assert "on=Threads(" in text
    for stage in report.stages:
        assert stage.held_loop == (pytest.approx(HOLD) if stage.name == name else 0.0)
    (line,) = [line for line in str(report).splitlines() if "held the event loop" in line]
    assert name in line
    assert "300 ms" in line
    caplog.clear()


class Observer:
    def before_stage(self, stage: str, item: Any, context: Any) -> None:
        pass


class Disguised:
    """A callable of which nobody can tell beforehand that it is plain."""

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self.fn = fn

    def __call__(self, item: Any) -> Any:
        return self.fn(item)


async def later(item: Any) -> Any:
    await checkpoint()
    return item


LINES: dict[str, Callable[[Flow[Any, Any], Any], Flow[Any, Any]]] = {
    "map": lambda flow, fn: flow.map(fn, name="slow"),
    "filter": lambda flow, fn: flow.filter(fn, name="slow"),
    "tap": lambda flow, fn: flow.tap(fn, name="slow"),
    "disguised": lambda flow, fn: flow.map(Disguised(fn), name="slow"),
    "first of a line": lambda flow, fn: flow.map(fn, name="slow").map(abs, name="b"),
    "last of a line": lambda flow, fn: flow.map(abs, name="b").filter(abs).map(fn, name="slow"),
    "behind an async one": lambda flow, fn: flow.map(later).buffer(3).map(fn, name="slow"),
    "fused to an async one": lambda flow, fn: flow.map(later).map(fn, name="slow"),
    "a filter fused to an async one": lambda flow, fn: flow.map(later).filter(fn, name="slow"),
    "a tap fused to an async one": lambda flow, fn: flow.map(later).tap(fn, name="slow"),
    "with a retry": lambda flow, fn: flow.map(fn, retry=Retry(2), name="slow"),
    "below a flat_map": lambda flow, fn: flow.flat_map(lambda n: [n]).map(fn, name="slow"),
    "flat_map": lambda flow, fn: flow.flat_map(lambda item: [fn(item)], name="slow"),
    "flat_map, lazily": lambda flow, fn: flow.flat_map(
        lambda item: (fn(item) for _ in range(2 if item == AT + 1 else 1)), name="slow"
    ).filter(lambda item: item != AT),
    "flat_map, async values": lambda flow, fn: flow.flat_map(
        lambda item: one_of(fn(item)), name="slow"
    ),
}


async def one_of(item: Any) -> AsyncIterator[Any]:
    yield item


async def one_by_one() -> AsyncIterator[int]:
    for item in range(1, 100):
        yield item


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
async def test_every_inline_call(
    line: Callable[[Flow[Any, Any], Any], Flow[Any, Any]],
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever the verb, fused or not, with times, with observers, wherever the items come from."""

    def hold(item: int) -> int:
        if item == AT:
            clock.hold()
        return item

    for options in ({}, {"timing": True}, {"observers": [Observer()]}, {"buffer": 1}):
        numbers = Input[int]()
        for flow, items in (
            (numbers, range(1, 100)),
            (source(range(1, 100)), None),
            (source(one_by_one), None),
        ):
            with soon():
                report = await line(flow, hold).drain(items, **options)
            check(report, caplog)


async def test_an_async_function_before_it(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """In one task with it: what the async one waits for is not held, what the plain one takes is."""

    async def wait(item: int) -> int:
        clock.hold(0.01)
        return item

    def hold(item: int) -> int:
        clock.hold()
        return item

    with soon():
        report = await Input[int]().map(wait).map(abs).map(hold, name="slow").drain(range(50))
    check(report, caplog)


async def test_a_call_that_fails(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """It has held the loop all the same."""

    def fail(item: int) -> int:
        if item == AT:
            clock.hold()
            raise ValueError
        return item

    def fail_lazily(item: int) -> Iterator[int]:
        yield fail(item)

    for verb, fn in (("map", fail), ("filter", fail), ("tap", fail), ("flat_map", fail_lazily)):
        with soon():
            report = await getattr(Input[int](), verb)(fn, name="slow").drain(
                range(100), on_error="emit"
            )
        check(report, caplog)
        check_accounts(report, over=True)


async def test_once_a_stage_and_run(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """One warning for the first time; the report has the longest."""

    def hold(item: int) -> int:
        clock.hold(0.2 if item == 7 else 0.15)
        return item

    flow = Input[int]().map(hold, name="a").map(hold, name="b")
    for _ in range(2):
        with soon():
            report = await flow.drain(range(10))
        texts = warnings(caplog)
        assert len(texts) == 2
        assert "'a'" in texts[0]
        assert "'b'" in texts[1]
        assert [stage.held_loop for stage in report.stages] == pytest.approx([0, 0.2, 0.2])
        assert str(report).count("held the event loop") == 2
        caplog.clear()


async def test_the_key_of_a_route(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Also where it fails then, and never where it is async."""

    def key(item: int) -> int:
        if item == AT:
            clock.hold()
        return item % 2

    def fail(item: int) -> int:
        if item == AT:
            clock.hold()
            raise ValueError
        return item % 2

    async def key_async(item: int) -> int:
        await checkpoint()
        return key(item)

    for fn in (key, fail, key_async):
        branches = Input[int]().route(fn, [0, 1], name="slow")
        for options in ({}, {"timing": True}):
            with soon():
                report = await merge(*branches.values()).drain(
                    range(100), on_error="skip", **options
                )
            if fn is key_async:
                assert warnings(caplog) == []
            else:
                check(report, caplog)


class Slow:
    """An observer of which a hook may hold the event loop."""

    def __init__(self, clock: Clock, hook: str, *, fails: bool = False) -> None:
        self.clock, self.hook, self.fails = clock, hook, fails

    def before_stage(self, stage: str, item: Any, context: Any) -> None:
        self.see("before_stage", item)

    def after_stage(self, stage: str, item: Any, result: Any, error: Any, context: Any) -> None:
        self.see("after_stage", item)

    def see(self, hook: str, item: Any) -> None:
        if hook == self.hook and item >= AT:
            self.clock.hold()
            if self.fails:
                raise ValueError


@pytest.mark.parametrize("hook", ["before_stage", "after_stage"])
async def test_an_observer(hook: str, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Named once a stage, as an observer: the function of the stage is not to blame."""
    for line in (
        Input[int]().map(abs, name="me"),
        Input[int]().flat_map(lambda item: [item], name="me"),
        Input[int]().map(later, concurrency=2, name="me"),
        Input[int]().map(abs, on=Threads(1), name="me"),
    ):
        for fails in (False, True):
            with soon():
                report = await line.drain(range(AT + 5), observers=[Slow(clock, hook, fails=fails)])
            (text,) = warnings(caplog)
            assert text.startswith("observer <bound method Slow." + hook)
            assert "for 0.3 s at stage 'me'" in text
            assert not any(stage.held_loop for stage in report.stages)
            caplog.clear()


async def test_an_async_observer_holds_nothing(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for something, as an async function does."""

    class Waits:
        async def before_stage(self, *_: Any) -> None:
            clock.hold()
            await checkpoint()

    with soon():
        await Input[int]().map(abs).drain(range(3), observers=[Waits()])
    assert warnings(caplog) == []


async def test_a_source_that_blocks(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Its own name is told, not that of the stage behind it."""

    def items() -> Iterator[int]:
        for item in range(100):
            if item == AT:
                clock.hold()
            yield item

    for flow in (source(items, name="slow"), source(items, name="slow").map(abs).map(abs)):
        for options in ({}, {"timing": True}, {"observers": [Observer()]}):
            with soon():
                report = await flow.drain(**options)
            check(report, caplog)


@pytest.mark.slow
async def test_who_does_not_hold_it(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Async functions, threads, and many calls that are short."""

    async def wait(item: int) -> int:
        clock.hold()
        await checkpoint()
        return item

    async def values(item: int) -> AsyncIterator[int]:
        clock.hold()
        yield item

    def blocking(item: int) -> int:
        clock.hold()
        return item

    def short(item: int) -> int:
        clock.hold(0.0009)
        return item

    def almost(item: int) -> int:
        clock.hold(0.09)
        return item

    start = Input[int]()
    for flow in (
        start.map(wait),
        start.map(wait).map(abs),
        start.map(wait, concurrency=3),
        start.map(lambda item: wait(item)),
        start.flat_map(values),
        start.flat_map(values, concurrency=2),
        start.map(blocking, on=Threads(2)),
        start.flat_map(lambda item: [blocking(item)], on=Threads(2)),
        start.map(short).filter(short).tap(short),
        start.map(almost),
    ):
        for options in ({}, {"timing": True}, {"observers": [Observer()]}):
            with soon():
                report = await flow.drain(range(120), **options)
            assert warnings(caplog) == []
            assert not any(stage.held_loop for stage in report.stages)
            assert "held" not in str(report)


@pytest.mark.slow
async def test_in_real_time(caplog: pytest.LogCaptureFixture) -> None:
    """As it will be met: one call of a blocking function among many quick ones."""

    def hold(item: int) -> int:
        if item == AT:
            time.sleep(0.11)
        return item

    with soon(), caplog.at_level(logging.WARNING, "flowstage"):
        report = await Input[int]().map(hold, name="slow").drain(range(100))
    assert any("'slow'" in text for text in warnings(caplog))
    assert report.stage("slow").held_loop >= 0.11
    assert report.to_dict()["stages"][1]["held_loop"] >= 0.11


TURNS: dict[str, Callable[[Flow[Any, Any], Any], Flow[Any, Any]]] = {
    **{name: line for name, line in LINES.items() if "lazily" not in name},
    "route": lambda flow, fn: merge(*flow.route(lambda n: fn(n) % 2, [0, 1]).values()),
    "transform": lambda flow, fn: flow.transform(lambda items: through(fn, items)),
    "transform, many results": lambda flow, fn: flow.transform(lambda items: more(fn, items)),
    "transform, one result": lambda flow, fn: flow.transform(lambda items: last(fn, items)),
    "scan": lambda flow, fn: flow.pipe(operators.scan, lambda last, item: fn(item), 0),
    "batch": lambda flow, fn: flow.batch(2).map(lambda items: fn(items[0])),
}


async def through(fn: Callable[[Any], Any], items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield fn(item)


async def more(fn: Callable[[Any], Any], items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in items:
        for _ in range(20):
            yield fn(item)


async def last(fn: Callable[[Any], Any], items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    result = None
    async for item in items:
        result = fn(item)
    yield result


@pytest.mark.parametrize(
    "options",
    [{}, {"timing": True}, {"observers": [Observer()]}],
    ids=["bare", "timed", "observed"],
)
@pytest.mark.parametrize("line", TURNS.values(), ids=TURNS)
async def test_others_have_their_turn_after_a_slow_call(
    line: Callable[[Flow[Any, Any], Any], Flow[Any, Any]], options: dict[str, Any], clock: Clock
) -> None:
    """Calls that take longer than a turn come one a turn, however many items are there."""
    calls, most, done = 0, 0, False

    def slow(item: int) -> int:
        nonlocal calls, most
        calls += 1
        most = max(most, calls)
        clock.hold(0.002)
        return item

    async def beside() -> None:
        nonlocal calls
        while not done:
            calls = 0
            await checkpoint()

    with soon():
        async with anyio.create_task_group() as group:
            group.start_soon(beside)
            report = await line(Input[int](), slow).drain(range(1, 101), **options)
            done = True
    assert most <= 2
    check_accounts(report, over=True)
