"""Observers: told once of every item at every stage, and never in the way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Flow, Graph, Input, Retry, StageTimeout, Threads, gather, merge, source

from .accounts import check_accounts, settle, soon

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])

WAYS: dict[str, dict[str, Any]] = {
    "inline": {},
    "async": {"is_async": True},
    "async with options": {"is_async": True, "timeout": 9, "retry": Retry(2)},
    "pool": {"is_async": True, "concurrency": 3},
    "unordered": {"is_async": True, "concurrency": 3, "ordered": False},
    "threads": {"on": Threads(2)},
    "threads with options": {"on": Threads(2), "timeout": 9, "retry": Retry(2)},
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


class Notes:
    """An observer that writes down what it is told."""

    def __init__(self, *, is_async: bool = False) -> None:
        self.told: list[Any] = []
        self.threads: set[int] = set()
        if is_async:
            self.before_stage = self.before_async
            self.after_stage = self.after_async

    def before_stage(self, stage: str, item: Any, context: Any) -> Any:
        self.told.append(("before", stage, item))
        self.threads.add(threading.get_ident())

    def after_stage(self, stage: str, item: Any, result: Any, error: Any, context: Any) -> Any:
        self.told.append(("after", stage, item, result, error if error is None else type(error)))
        self.threads.add(threading.get_ident())

    async def before_async(self, *details: Any) -> None:
        await checkpoint()
        Notes.before_stage(self, *details)

    async def after_async(self, *details: Any) -> None:
        await checkpoint()
        Notes.after_stage(self, *details)


def stage(flow: Flow[Any, Any], verb: str, way: dict[str, Any], **more: Any) -> Any:
    """Add a stage that fails on 3, of whatever kind."""
    options = {name: value for name, value in way.items() if name != "is_async"} | more

    def plain(item: Any) -> Any:
        if item == 3:
            raise ValueError(item)
        return [item % 2] if verb == "filter" and item % 2 else item * 10 * (verb != "filter")

    async def later(item: Any) -> Any:
        await checkpoint()
        return plain(item)

    def lazily(item: Any) -> Iterator[Any]:
        for number in range(item):
            yield plain(number + 1)

    async def values(item: Any) -> AsyncIterator[Any]:
        for value in lazily(item):
            await checkpoint()
            yield value

    if verb == "flat_map":
        fn: Any = values if way.get("is_async") else lazily
    else:
        fn = later if way.get("is_async") else plain
    return getattr(flow, verb)(fn, name="s", **options)


RESULTS: dict[str, Callable[[int], Any]] = {
    "map": lambda item: item * 10,
    "tap": lambda item: item * 10,
    "filter": lambda item: bool(item % 2),
    "flat_map": lambda item: item,
}


@BOTH
@EVERY_WAY
@pytest.mark.parametrize("verb", RESULTS)
@pytest.mark.parametrize("policy", ["skip", "emit"])
async def test_what_they_are_told(
    policy: Any, verb: str, way: dict[str, Any], is_async: bool
) -> None:
    """Before, then after with the result or the error; once an item; on the loop's thread."""
    notes = Notes(is_async=is_async)
    with soon():
        report = await stage(Input[int](), verb, way).drain(
            range(5), observers=[notes], on_error=policy
        )
    check_accounts(report, over=True)
    assert notes.threads == {threading.get_ident()}
    fails = (3, 4) if verb == "flat_map" else (3,)
    for item in range(5):
        own = [told for told in notes.told if told[2] == item]
        result = None if item in fails else RESULTS[verb](item)
        error = ValueError if item in fails else None
        assert own == [("before", "s", item), ("after", "s", item, result, error)]
        assert type(own[1][3]) is type(result)
    assert len(notes.told) == 10


@BOTH
@EVERY_WAY
@pytest.mark.parametrize("verb", RESULTS)
async def test_the_error_that_ends_the_run_is_told(
    verb: str, way: dict[str, Any], is_async: bool
) -> None:
    """With `"raise"` too, and what is raised is the user's error."""
    notes = Notes(is_async=is_async)
    with soon(), pytest.raises(ValueError, match="3"):
        await stage(Input[int](), verb, way).drain([1, 3], observers=[notes])
    assert notes.told.count(("after", "s", 3, None, ValueError)) == 1


@EVERY_WAY
@pytest.mark.parametrize("verb", RESULTS)
async def test_once_an_item_not_an_attempt(verb: str, way: dict[str, Any]) -> None:
    """Retries are the stage's own affair; only the last error counts."""
    notes = Notes()
    tries = 0

    def plain(item: int) -> Any:
        nonlocal tries
        tries += 1
        if tries < 3 or item == 2:
            raise ValueError
        return [item] if verb == "flat_map" else item

    async def later(item: int) -> Any:
        return plain(item)

    options = {name: value for name, value in way.items() if name != "is_async"}
    fn = later if way.get("is_async") else plain
    flow = getattr(Input[int](), verb)(fn, **{**options, "retry": Retry(3)}, name="s")
    for item, result, error in ((1, 1, None), (2, None, ValueError)):
        notes.told.clear()
        tries = 0
        with soon():
            report = await flow.drain([item], observers=[notes], on_error="skip")
        assert notes.told == [("before", "s", item), ("after", "s", item, result, error)]
        assert report.stage("s").retries == 2
        assert tries == 3


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"on": Threads(1)}])
@pytest.mark.parametrize("verb", ["map", "flat_map"])
@pytest.mark.parametrize("policy", ["raise", "skip"])
async def test_a_timeout_is_told(policy: Any, verb: str, options: dict[str, Any]) -> None:
    """As the error it is."""
    notes = Notes()

    def blocking(item: int) -> Any:
        time.sleep(0.05)
        return [item]

    async def waiting(item: int) -> Any:
        await anyio.sleep_forever()

    fn = blocking if "on" in options else waiting
    flow = getattr(Input[int](), verb)(fn, timeout=0.01, name="s", **options)
    with soon():
        try:
            await flow.drain([1], observers=[notes], on_error=policy)
        except StageTimeout:
            assert policy == "raise"
        else:
            assert policy == "skip"
    assert notes.told == [("before", "s", 1), ("after", "s", 1, None, StageTimeout)]


async def test_only_one_of_the_two() -> None:
    """An observer may have either; several are told in order."""
    told: list[str] = []

    class Before:
        def before_stage(self, stage: str, item: Any, context: Any) -> None:
            told.append("before")

    class After:
        async def after_stage(
            self, stage: str, item: Any, result: Any, error: Any, context: Any
        ) -> None:
            told.append("after")

    class Third:
        async def before_stage(self, stage: str, item: Any, context: Any) -> None:
            await checkpoint()
            told.append("third before")

        def after_stage(self, *_: Any) -> None:
            told.append("third after")

    for way in WAYS.values():
        told.clear()
        with soon():
            await stage(Input[int](), "map", way).drain([1], observers=[Before(), Third(), After()])
        assert told == ["before", "third before", "third after", "after"]


async def test_neither_is_refused() -> None:
    with pytest.raises(TypeError, match="an observer has before_stage or after_stage"):
        await Input[int]().map(abs).collect([1], observers=[object()])


async def test_only_stages_that_call_a_function_for_an_item() -> None:
    """Not batches, transforms, joins, fan-outs, buffers and entries."""

    async def passing(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield item

    notes = Notes()
    fork = Input[int]("in").buffer(2)
    row = gather(fork.map(abs, name="a"), fork.map(abs, name="b"))
    flow = merge(row.batch(2).transform(passing), source([(0, 0)]))
    for branch in (flow.route(lambda item: 1, [1])[1], *Input[int]().map(abs, name="c").balance(1)):
        with soon():
            await branch.drain(range(4), observers=[notes])
    assert {told[1] for told in notes.told} == {"a", "b", "c"}
    assert len(notes.told) == 2 * 3 * 4


@BOTH
@EVERY_WAY
async def test_what_they_raise_is_logged_once_and_ignored(
    way: dict[str, Any], is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each hook and stage; the others are told, the results are the same."""

    class Broken(Notes):
        def before_stage(self, *details: Any) -> None:
            super().before_stage(*details)
            raise RuntimeError("before is broken")

        def after_stage(self, *details: Any) -> None:
            super().after_stage(*details)
            raise KeyError("after is broken")

        async def before_async(self, *details: Any) -> None:
            self.before_stage_plain(*details)

        async def after_async(self, *details: Any) -> None:
            self.after_stage_plain(*details)

        before_stage_plain, after_stage_plain = before_stage, after_stage

    broken, notes = Broken(is_async=is_async), Notes()
    with soon(), caplog.at_level(logging.WARNING, "flowstage"):
        got = await stage(Input[int](), "map", way).collect([1, 2, 4, 5], observers=[broken, notes])
    assert sorted(got) == [10, 20, 40, 50]
    assert len(notes.told) == len(broken.told) == 8
    records = [record for record in caplog.records if record.name == "flowstage"]
    assert sum("before_" in record.getMessage() for record in records) == 1
    assert sum("after_" in record.getMessage() for record in records) == 1
    assert all(
        "is ignored" in record.getMessage() and "'s'" in record.getMessage() for record in records
    )
    assert {record.exc_info[0] for record in records if record.exc_info} == {RuntimeError, KeyError}


@EVERY_WAY
@pytest.mark.parametrize("verb", RESULTS)
async def test_they_never_replace_an_error(verb: str, way: dict[str, Any]) -> None:
    """What the stage raised comes out, whatever the hooks raise."""

    class Broken:
        def before_stage(self, *_: Any) -> None:
            raise RuntimeError

        async def after_stage(self, *_: Any) -> None:
            raise StopAsyncIteration

    with soon(), pytest.raises(ValueError, match="3") as caught:
        await stage(Input[int](), verb, way).drain([3], observers=[Broken()])
    assert "'s'" in caught.value.__notes__[0]
    assert caught.value.__cause__ is None


async def test_a_hook_may_end_the_program() -> None:
    """`KeyboardInterrupt` and `SystemExit` go through, bare."""
    for hook in ("before_stage", "after_stage"):
        for error in (KeyboardInterrupt, SystemExit):
            for way in ("inline", "pool", "threads"):

                def leave(*_: Any, error: type[BaseException] = error) -> None:
                    raise error

                observer = type("Observer", (), {hook: staticmethod(leave)})()
                with soon(), pytest.raises(error):
                    await stage(Input[int](), "map", WAYS[way]).drain([1], observers=[observer])


async def test_a_cancellation_of_its_own_making_is_a_hooks_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged and ignored like any other."""

    class Observer:
        def before_stage(self, *_: Any) -> None:
            if anyio.get_cancelled_exc_class().__module__.startswith("trio"):
                raise RuntimeError  # trio makes its own only
            raise anyio.get_cancelled_exc_class()

    for way in ("inline", "pool", "threads"):
        with soon():
            got = await stage(Input[int](), "map", WAYS[way]).collect([1], observers=[Observer()])
        assert got == [10]
    assert "is ignored" in caplog.text


@EVERY_WAY
@pytest.mark.parametrize("verb", RESULTS)
async def test_not_told_of_what_is_interrupted(verb: str, way: dict[str, Any]) -> None:
    """Nor of what is cancelled; what is sent later is told as ever."""
    notes = Notes()
    begun = anyio.Event()
    release = threading.Event()
    run: Any = None

    def plain(item: Any) -> Any:
        if item == 1 and "on" in way:
            anyio.from_thread.run_sync(begun.set)
            release.wait(5)
        elif item == 1:
            run.interrupt()
        return [item] if verb == "flat_map" else item

    async def later(item: Any) -> Any:
        if item == 1:
            begun.set()
            await anyio.sleep_forever()
        return plain(item)

    options = {name: value for name, value in way.items() if name != "is_async"}
    fn = later if way.get("is_async") else plain
    flow = getattr(Input[int](), verb)(fn, **options, name="s")
    with soon():
        async with flow.open(observers=[notes]) as run:
            await run.send(1)
            if fn is later or "on" in way:
                await begun.wait()
                assert run.interrupt() == 1
                release.set()
            else:
                await settle()
            await run.send(2)
            await run.drain()
    assert notes.told == [
        ("before", "s", 1),
        ("before", "s", 2),
        ("after", "s", 2, notes.told[-1][3], None),
    ]

    notes.told.clear()
    begun, release = anyio.Event(), threading.Event()
    if fn is later or "on" in way:
        with soon():
            async with flow.open(observers=[notes], close_timeout=5) as run:
                await run.send(1)
                await begun.wait()
                release.set()
        assert ("before", "s", 1) in notes.told
        if fn is later:
            assert notes.told == [("before", "s", 1)]


@EVERY_WAY
async def test_a_hook_may_interrupt(way: dict[str, Any]) -> None:
    """Then the function is not called for what was discarded, and nobody is told more of it."""
    calls: list[Any] = []
    run: Any = None

    class Interrupting(Notes):
        def before_stage(self, stage: str, item: Any, context: Any) -> None:
            super().before_stage(stage, item, context)
            if item == 1:
                run.interrupt()

    def plain(item: Any) -> Any:
        calls.append(item)
        return [item]

    async def later(item: Any) -> Any:
        return plain(item)

    options = {name: value for name, value in way.items() if name != "is_async"}
    fn = later if way.get("is_async") else plain
    for verb in RESULTS:
        notes = Interrupting()
        calls.clear()
        with soon():
            async with getattr(Input[int](), verb)(fn, **options).open(observers=[notes]) as run:
                await run.send(1)
                for _ in range(200):
                    if notes.told:
                        break
                    await anyio.sleep(0.001)
                await settle()
                await run.send(2)
                report = await run.drain()
        assert calls == [2]
        assert [told[:1] + told[2:3] for told in notes.told] == [
            ("before", 1),
            ("before", 2),
            ("after", 2),
        ]
        check_accounts(report, over=True)


@pytest.mark.parametrize("hook", ["before_stage", "after_stage"])
@pytest.mark.parametrize("way", ["async", "pool", "threads"])
async def test_an_interrupt_ends_a_hook_that_waits(way: str, hook: str) -> None:
    """It is part of the call."""
    waiting = anyio.Event()
    stuck = True

    async def wait(*_: Any) -> None:
        if stuck:
            waiting.set()
            await anyio.sleep_forever()

    observer = type("Observer", (), {hook: staticmethod(wait)})()
    with soon():
        async with stage(Input[int](), "map", WAYS[way]).open(observers=[observer]) as run:
            await run.send(1)
            await waiting.wait()
            assert run.interrupt() == 1
            stuck = False
            await run.send(2)
            run.finish()
            assert [item async for item in run] == [20]


async def test_a_hook_keeps_no_seat() -> None:
    """While it waits, another stage of the same place works."""
    place = Threads(1)
    other = anyio.Event()

    class Waiting:
        async def before_stage(self, stage: str, item: Any, context: Any) -> None:
            if stage == "first":
                await other.wait()

        async def after_stage(
            self, stage: str, item: Any, result: Any, error: Any, context: Any
        ) -> None:
            if stage == "second":
                other.set()

    start = Input[int]()
    graph = Graph(
        start.map(lambda item: item, on=place, name="first"),
        start.map(lambda item: item, on=place, name="second"),
    )
    with soon():
        await graph.drain([1], observers=[Waiting()])


async def test_through_a_fused_line() -> None:
    """Each stage with what it was given and what it gave, in the order of the item's way."""
    notes = Notes()
    flow = (
        Input[int]()
        .map(lambda item: item + 1, name="a")
        .filter(lambda item: item % 2, name="b")
        .flat_map(lambda item: [item, item], name="c")
        .tap(lambda item: "ignored", name="d")
    )
    with soon():
        assert await flow.collect([0, 1], observers=[notes]) == [1, 1]
    assert notes.told == [
        ("before", "a", 0),
        ("after", "a", 0, 1, None),
        ("before", "b", 1),
        ("after", "b", 1, True, None),
        ("before", "c", 1),
        ("before", "d", 1),
        ("after", "d", 1, "ignored", None),
        ("before", "d", 1),
        ("after", "d", 1, "ignored", None),
        ("after", "c", 1, 2, None),
        ("before", "a", 1),
        ("after", "a", 1, 2, None),
        ("before", "b", 2),
        ("after", "b", 2, False, None),
    ]


async def test_a_truth_that_cannot_be_told_is_the_error() -> None:
    """A filter's hook gets the bool, or the reason why there is none."""

    class Unclear:
        def __bool__(self) -> bool:
            raise ArithmeticError

    async def unclear(item: int) -> Any:
        return Unclear()

    for fn, options in (
        (lambda item: Unclear(), {}),
        (unclear, {}),
        (unclear, {"concurrency": 2}),
        (lambda item: Unclear(), {"on": Threads(1)}),
    ):
        notes = Notes()
        with soon():
            report = await (
                Input[int]()
                .filter(fn, name="s", **options)
                .drain([1], observers=[notes], on_error="skip")
            )
        assert notes.told == [("before", "s", 1), ("after", "s", 1, None, ArithmeticError)]
        assert report.stage("s").skipped == 1


@EVERY_WAY
@pytest.mark.parametrize("verb", RESULTS)
async def test_an_error_that_counts_as_false_is_an_error(verb: str, way: dict[str, Any]) -> None:
    """An exception that is a collection, say, and empty: there is no result beside it."""

    class Many(ValueError):
        def __len__(self) -> int:
            return 0

    def fail(item: int) -> Any:
        raise Many

    async def fail_later(item: int) -> Any:
        raise Many

    async def fail_in_values(item: int) -> AsyncIterator[Any]:
        yield item
        raise Many

    options = {name: value for name, value in way.items() if name != "is_async"}
    fn: Any = fail
    if way.get("is_async"):
        fn = fail_in_values if verb == "flat_map" else fail_later
    notes = Notes()
    flow = getattr(Input[int](), verb)(fn, name="s", **options)
    with soon():
        report = await flow.drain([1], observers=[notes], on_error="skip")
    assert notes.told == [("before", "s", 1), ("after", "s", 1, None, Many)]
    assert report.stage("s").skipped == 1
    check_accounts(report, over=True)


async def test_with_times_and_sentinels() -> None:
    """Neither disturbs the other; a sentinel is no item."""
    for way in WAYS.values():
        notes = Notes()
        with soon():
            async with stage(Input[int](), "map", way).open(observers=[notes], timing=True) as run:
                await run.send(1)
                await run.send_sentinel("s")
                await run.send(2)
                report = await run.drain()
        assert len(notes.told) == 4
        assert report.timing is not None
        assert report.timing.latency.count == 2
