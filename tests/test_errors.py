"""What a failing stage does: to the run, to the body, to the item's place, to the exception."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import re
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

from flowstage import (
    BufferOverflow,
    Failure,
    Flow,
    Graph,
    Input,
    Retry,
    Sentinel,
    StageError,
    Threads,
    failure_of,
    merge,
    source,
)
from flowstage.operators import flatten

from .accounts import check_accounts, settle, soon


class Mine(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two)


def refuse(number: int, make: Callable[[], BaseException]) -> Callable[[Any], Any]:
    def stage(item: Any) -> Any:
        if item == number:
            raise make()
        return item

    return stage


def refuse_async(number: int, make: Callable[[], BaseException]) -> Callable[[Any], Any]:
    async def stage(item: Any) -> Any:
        await checkpoint()
        if item == number:
            raise make()
        return item

    return stage


def values_of(number: int, make: Callable[[], BaseException]) -> Callable[[Any], Any]:
    def stage(item: Any) -> Iterator[Any]:
        if item == number:
            raise make()
        yield item

    return stage


def async_values_of(number: int, make: Callable[[], BaseException]) -> Callable[[Any], Any]:
    async def stage(item: Any) -> AsyncIterator[Any]:
        await checkpoint()
        if item == number:
            raise make()
        yield item

    return stage


Line = Callable[[Callable[[], BaseException], int], Flow[Any, Any]]

# Each line names its stage "stage" and fails at the given item, with the given error.
LINES: dict[str, Line] = {
    "plain": lambda make, at: Input[Any]().map(refuse(at, make)),
    "fused": lambda make, at: Input[Any]().map(abs).map(refuse(at, make)).map(abs),
    "careful": lambda make, at: Input[Any]().tap(abs).map(refuse(at, make)),
    "async": lambda make, at: Input[Any]().map(refuse_async(at, make)),
    "async fused": lambda make, at: Input[Any]().map(refuse_async(at, make)).map(abs),
    "below async": lambda make, at: Input[Any]().map(same).map(refuse(at, make)),
    "timeout": lambda make, at: Input[Any]().map(refuse_async(at, make), timeout=9),
    "pool": lambda make, at: Input[Any]().map(refuse_async(at, make), concurrency=3),
    "unordered": lambda make, at: Input[Any]().map(
        refuse_async(at, make), concurrency=3, ordered=False
    ),
    "tap": lambda make, at: Input[Any]().tap(refuse(at, make)),
    "filter": lambda make, at: Input[Any]().filter(refuse(at, make)),
    "flat_map": lambda make, at: Input[Any]().flat_map(refuse(at, make)),
    "flat_map generator": lambda make, at: Input[Any]().flat_map(values_of(at, make)),
    "flat_map async": lambda make, at: Input[Any]().flat_map(async_values_of(at, make)),
    "flat_map pool": lambda make, at: Input[Any]().flat_map(
        async_values_of(at, make), concurrency=3
    ),
    "threads": lambda make, at: Input[Any]().map(refuse(at, make), on=Threads(2)),
    "timed threads": lambda make, at: Input[Any]().map(refuse(at, make), on=Threads(2), timeout=9),
    "flat_map threads": lambda make, at: Input[Any]().flat_map(values_of(at, make), on=Threads(2)),
}

ONE = 4  # the item that fails; the first of a burst is 1


async def same(item: Any) -> Any:
    return item


def items_for(name: str) -> list[Any]:
    return [[n] if name == "flat_map" else n for n in range(1, 9)]


def target(name: str, at: int) -> Any:
    return [at] if name == "flat_map" else at


@pytest.mark.parametrize("at", [1, ONE])
@pytest.mark.parametrize("name", LINES)
async def test_the_users_own_exception_comes_out(name: str, at: int) -> None:
    """Type and object unchanged, one note, no group, no cause of ours; `failure_of` has the rest."""
    error = Mine(1, 2)
    flow = LINES[name](lambda: error, target(name, at))
    with soon(), pytest.raises(Mine) as caught:
        await flow.collect(items_for(name))
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__notes__ == [
        f"flowstage: raised in stage 'stage' on item {target(name, at)!r}, attempt 1"
    ]
    failure = failure_of(error)
    assert failure is not None
    assert (failure.stage, failure.item, failure.attempts) == ("stage", target(name, at), 1)
    assert failure.error is error


@pytest.mark.parametrize("at", [1, ONE])
@pytest.mark.parametrize("name", LINES)
async def test_skip_and_emit(name: str, at: int, caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on: without the item, logged and counted, or with its failure in its place."""
    items = items_for(name)
    flow = LINES[name](lambda: Mine(1, 2), target(name, at))
    with soon(), caplog.at_level(logging.WARNING, "flowstage"):
        async with flow.open(items, on_error="skip") as run:
            skipped = [item async for item in run]
    rest = [n for n in range(1, 9) if n != at]
    assert sorted(skipped) == rest
    report = run.report()
    check_accounts(report, over=True)
    assert report.stage("stage").skipped == 1
    assert report.failed == run.failed == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"stage 'stage' skipped {target(name, at)!r}: Mine(1, 2)"
    ]
    with soon():
        async with flow.open(items, on_error="emit") as run:
            events = [event async for event in run.events()]
    check_accounts(run.report(), over=True)
    assert run.report().stage("stage").failed == 1
    (failure,) = [event for event in events if isinstance(event, Failure)]
    assert failure.item == target(name, at)
    assert isinstance(failure.error, Mine)
    assert run.failures[0].handled
    assert run.failures[0].error == "Mine: (1, 2)"
    if name != "unordered":
        assert [getattr(event, "item", event) for event in events] == [
            target(name, at) if n == at else n for n in range(1, 9)
        ]


STRANGE: dict[str, Callable[[], BaseException]] = {
    "StopIteration": lambda: StopIteration("mine"),
    "StopAsyncIteration": lambda: StopAsyncIteration("mine"),
    "GeneratorExit": lambda: GeneratorExit("mine"),
    "EndOfStream": lambda: anyio.EndOfStream("mine"),
    "BrokenResourceError": lambda: anyio.BrokenResourceError("mine"),
    "ClosedResourceError": lambda: anyio.ClosedResourceError("mine"),
    "WouldBlock": lambda: anyio.WouldBlock("mine"),
    "TimeoutError": lambda: TimeoutError("mine"),
    "BusyResourceError": lambda: anyio.BusyResourceError("mine"),
    "ExceptionGroup": lambda: ExceptionGroup("mine", [ValueError()]),
    "BaseException": lambda: BaseException("mine"),
}


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("at", [1, ONE])
async def test_strange_exceptions_fail_the_item_like_any(strange: str, at: int) -> None:
    """Whatever a function raises, no item is lost without a word and no run ends as if all were well."""
    for name in LINES:
        await fail_strangely(name, strange, at)


async def fail_strangely(name: str, strange: str, at: int) -> None:
    flow = LINES[name](STRANGE[strange], target(name, at))
    with soon(), pytest.raises(BaseException) as caught:
        await flow.collect(items_for(name))
    error = caught.value
    failure = failure_of(error)
    assert failure is not None, repr(error)
    assert (failure.stage, failure.item) == ("stage", target(name, at))
    if strange == "StopIteration" or type(error) is RuntimeError:
        # Python itself allows neither to leave a coroutine or a generator.
        assert type(error) in (StageError, RuntimeError)
        assert type(error.__cause__) is type(STRANGE[strange]())
    else:
        assert type(error) is type(STRANGE[strange]())
    with soon():
        kept = await flow.collect(items_for(name), on_error="skip")
        assert sorted(kept) == [n for n in range(1, 9) if n != at]
        events = await flow.collect(items_for(name), on_error="emit")
        assert len(events) == 8
        (failure,) = [event for event in events if isinstance(event, Failure)]
        assert failure.item == target(name, at)


@pytest.mark.parametrize("strange", STRANGE)
async def test_reading_past_an_emitted_failure_raises_there(strange: str) -> None:
    """`async for` over results raises the failure's error; it never just ends."""
    flow = LINES["plain"](STRANGE[strange], 2)
    got = []
    with soon(), pytest.raises(BaseException) as caught:
        async with flow.open([1, 2, 3], on_error="emit") as run:
            async for item in run:
                got.append(item)
            raise AssertionError("the iteration ended as if all were well")
    assert got == [1]
    assert not isinstance(caught.value, AssertionError)
    if strange in ("StopIteration", "StopAsyncIteration"):
        assert isinstance(caught.value, StageError)
        assert strange in str(caught.value)
        assert type(caught.value.__cause__).__name__ == strange
    else:
        assert type(caught.value) is type(STRANGE[strange]())
    assert not isinstance(caught.value, (StopAsyncIteration, StopIteration))


async def test_after_an_emitted_failure_reading_goes_on() -> None:
    """The next item can be read after the error."""
    with soon():
        flow = LINES["plain"](lambda: Mine(1, 2), 2)
        async with flow.open([1, 2, 3], on_error="emit") as run:
            got: list[Any] = []
            while len(got) < 3:
                try:
                    async for item in run:
                        got.append(item)
                except Mine:
                    got.append("failed")
    assert got == [1, "failed", 3]


@pytest.mark.parametrize("at", [1, ONE])
@pytest.mark.parametrize("name", LINES)
async def test_a_cancellation_of_its_own_making(name: str, at: int) -> None:
    """Raising the backend's cancelled exception is a `StageError`, not a quiet end."""
    cancelled = anyio.get_cancelled_exc_class()

    def make() -> BaseException:
        return cancelled() if cancelled.__module__.startswith("asyncio") else cancelled._create()

    flow = LINES[name](make, target(name, at))
    with (
        soon(),
        pytest.raises(StageError, match=r"stage 'stage' was cancelled from inside") as caught,
    ):
        await flow.collect(items_for(name))
    assert isinstance(caught.value.__cause__, cancelled)
    with soon():
        assert len(await flow.collect(items_for(name), on_error="skip")) == 7
        assert len(await flow.collect(items_for(name), on_error="emit")) == 8


@pytest.mark.parametrize("at", [1, ONE])
@pytest.mark.parametrize("policy", ["raise", "skip", "emit"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_a_program_passes_bare(
    policy: Any, at: int, error: type[BaseException]
) -> None:
    """After cleanup, whatever the policy."""
    for name, line in LINES.items():
        flow = line(lambda: error(3), target(name, at))
        with soon(), pytest.raises(error) as caught:
            async with flow.open(items_for(name), on_error=policy) as run:
                async for _ in run:
                    pass
        assert caught.value.args == (3,)
        check_accounts(run.report(), over=True)


@pytest.mark.parametrize("at", [1, ONE])
@pytest.mark.parametrize("policy", ["raise", "skip", "emit"])
async def test_what_ends_a_program_passes_bare_out_of_a_group(policy: Any, at: int) -> None:
    """A task group in a function wraps it, and that changes nothing."""

    def make() -> BaseException:
        return BaseExceptionGroup("tasks", [ValueError(), BaseExceptionGroup("", [SystemExit(3)])])

    for name, line in LINES.items():
        with soon(), pytest.raises(SystemExit) as caught:
            await line(make, target(name, at)).drain(items_for(name), on_error=policy)
        assert caught.value.args == (3,)


# A nursery of trio's own makes a group of nothing but cancellations.
@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
@pytest.mark.parametrize("how", ["leave", "interrupt", "cancel"])
@pytest.mark.parametrize("way", ["map", "pool", "retry", "flat_map", "transform", "source", "hook"])
async def test_a_nursery_that_is_cancelled_is_no_failure(
    way: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the cancellation of the run or of its epoch, like any other."""
    begun: list[Any] = []

    async def wait(*_: Any) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            begun.append(None)
            await trio.sleep_forever()

    async def wait_and_give(*_: Any) -> AsyncIterator[Any]:
        await wait()
        yield 1

    class Observer:
        before_stage = staticmethod(wait)

    numbers = Input[int]()
    flow: Any = {
        "map": numbers.map(wait),
        "pool": numbers.map(wait, concurrency=2),
        "retry": numbers.map(wait, retry=Retry(3)),
        "flat_map": numbers.flat_map(wait_and_give),
        "transform": numbers.transform(wait_and_give),
        "source": merge(numbers, source(wait_and_give)),
        "hook": numbers.map(abs),
    }[way]
    observers = [Observer()] if way == "hook" else []
    with soon(), anyio.CancelScope() as scope:
        async with flow.open(observers=observers, on_error="skip") as run:
            await run.send(1)
            await settle()
            assert len(begun) == 1
            if how == "interrupt":
                run.interrupt()
                await settle()
            if how == "cancel":
                scope.cancel()
                await anyio.sleep_forever()
    assert scope.cancelled_caught == (how == "cancel")
    assert (run.failed, run.report().interrupts) == (0, int(how == "interrupt"))
    assert "raised" not in caplog.text
    assert "ignored" not in caplog.text
    check_accounts(run.report(), over=True)


@pytest.mark.parametrize("at", [1, ONE])
async def test_a_sentinel_as_result(at: int) -> None:
    """A stage may not give one, however it is run."""

    def give(item: Any) -> Any:
        return Sentinel(item) if item == at else item

    async def give_async(item: Any) -> Any:
        return give(item)

    def give_many(item: Any) -> Any:
        yield give(item)

    async def give_all(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield give(item)

    flow = Input[Any]()
    for line in (
        flow.map(give),
        flow.map(abs).map(give),
        flow.map(give_async),
        flow.map(give_async, concurrency=2),
        flow.map(give_async, timeout=3),
        flow.map(give, on=Threads(1)),
        flow.map(give, on=Threads(1), timeout=3),
        flow.flat_map(give_many),
        flow.flat_map(give_many, on=Threads(1)),
        flow.transform(give_all),
    ):
        with soon(), pytest.raises(StageError, match=r"stage 'give\w*' gave a Sentinel"):
            await line.collect(range(1, 7))
    for line in (source(range(1, 7)).map(give), source(range(1, 7)).flat_map(give_many)):
        with soon(), pytest.raises(StageError, match=r"stage 'give\w*' gave a Sentinel"):
            await line.collect()


async def test_results_whose_truth_cannot_be_told() -> None:
    """numpy's arrays, say, as what `filter` is to judge."""

    class Array:
        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    async def judge(item: Any) -> Any:
        return Array()

    flow = Input[Any]()
    for line in (
        flow.filter(lambda item: Array()),
        flow.filter(judge),
        flow.filter(judge, concurrency=2),
        flow.filter(lambda item: Array(), on=Threads(1)),
        flow.filter(lambda item: Array(), on=Threads(1), timeout=9),
    ):
        with soon(), pytest.raises(ValueError, match="ambiguous"):
            await line.collect([1])
        with soon():
            assert await line.collect([1, 2], on_error="skip") == []


async def test_an_exit_that_counts_as_false_ends_the_program() -> None:
    """Whatever the truth of the exception is, it comes bare and is never skipped."""

    class Leave(SystemExit):
        def __bool__(self) -> bool:
            return False

    async def leave(item: Any) -> Any:
        raise Leave

    flow = Input[int]()
    for line in (
        flow.map(refuse(2, Leave)),
        flow.map(abs).map(refuse(2, Leave)),
        flow.map(leave),
        flow.map(leave, concurrency=2),
        flow.map(refuse(2, Leave), on=Threads(1)),
        flow.map(refuse(2, Leave), on=Threads(1), timeout=9),
    ):
        with soon(), pytest.raises(Leave):
            await line.collect([1, 2, 3], on_error="skip")


async def test_a_source_is_left_with_an_error_that_counts_as_false() -> None:
    """The context manager of a source learns the type of it as of any other."""

    class Many(ValueError):
        def __len__(self) -> int:
            return 0

    class Closed:
        def __iter__(self) -> Iterator[int]:
            raise Many

    class Manager:
        left: Any = None

        async def __aenter__(self) -> Closed:
            return Closed()

        async def __aexit__(self, kind: Any, *_: object) -> None:
            self.left = kind

    manager = Manager()
    with soon(), pytest.raises(Many):
        await source(lambda: manager).map(abs).collect()
    assert manager.left is Many


async def test_items_are_never_looked_at() -> None:
    """Items whose repr, equality, truth and hash raise pass, and fail like others."""

    class Hostile:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        def __bool__(self) -> bool:
            raise AssertionError("tested")

        def __repr__(self) -> str:
            raise AssertionError("formatted")

    def fail(item: Any) -> Any:
        raise Mine(1, 2)

    def same_plain(item: Any) -> Any:
        return item

    flow = Input[Any]()
    for line in (
        flow.map(same_plain).map(same).map(same, concurrency=2).map(same_plain, on=Threads(1)),
        flow.batch(1).flat_map(same_plain).buffer(3, overflow="drop_oldest"),
    ):
        with soon():
            assert len(await line.collect([Hostile(), None, ..., False, ValueError()])) >= 3
    with soon(), pytest.raises(Mine) as caught:
        await flow.map(fail).collect([Hostile()])
    assert "Hostile whose repr raised AssertionError" in caught.value.__notes__[0]


async def test_the_first_failure_is_the_root_cause() -> None:
    """Of several at once the first in time is raised; later ones are recorded."""

    async def fail(item: int) -> int:
        await settle(10 * item)
        raise Mine(item, 0)

    async def fail_again(item: int) -> int:
        try:
            return await fail(item)
        except anyio.get_cancelled_exc_class():
            raise ZeroDivisionError from None

    with soon():
        run: Any = None
        with pytest.raises(Mine) as caught:
            async with Input[int]().map(fail_again, concurrency=4).open([3, 1, 4, 2]) as run:
                async for _ in run:
                    pass
        assert caught.value.args == (1, 0)
        assert run.failures[0].error == "Mine: (1, 0)"
        assert run.failed >= 1


async def test_nothing_after_a_failure_comes_out_in_order() -> None:
    """What comes out is a beginning of what was before the failed item."""

    async def fail(item: int) -> int:
        await settle(10 - item)
        if item == 5:
            raise Mine(5, 0)
        return item

    for options in ({"concurrency": 8}, {}):
        got: list[int] = []
        with soon(), pytest.raises(Mine):
            async with Input[int]().map(fail, **options).open(range(10)) as run:
                async for item in run:
                    got.append(item)
        assert got == list(range(len(got)))
        assert len(got) <= 5


async def test_the_body_is_cancelled() -> None:
    """Whatever the body is doing when a stage fails."""

    def fail(item: int) -> int:
        raise Mine(1, 2)

    reached = False
    with soon(), pytest.raises(Mine):
        async with Input[int]().map(fail).open() as run:
            await run.send(1)
            await anyio.sleep_forever()
            reached = True
    assert not reached
    with soon(), pytest.raises(Mine):
        async with Input[int]().map(fail).open() as run:
            await run.send(1)
            async for _ in run:
                pass
    with soon(), pytest.raises(Mine):
        async with Input[int]().map(fail).open(buffer=1) as run:
            while True:
                await run.send(1)


async def test_the_bodys_exception_wins_unchanged() -> None:
    """What the body raises of its own goes on as it is; what fails after it is recorded."""

    class Body(Exception):
        pass

    def items() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            raise Mine(1, 2)

    run: Any = None
    for flow in (
        source(items).map(abs),
        Input[int]().map(abs),
        source(items, on=Threads(1)),
    ):
        error = Body()
        with soon(), pytest.raises(Body) as caught:
            async with flow.open(buffer=1) as run:
                await settle()
                raise error
        assert caught.value is error
        assert getattr(error, "__notes__", []) == []
        assert failure_of(error) is None
        check_accounts(run.report(), over=True)


async def test_failures_of_cleanup_come_after_a_failure() -> None:
    """The root cause stays; what its teardown raises is recorded."""

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            raise ZeroDivisionError("in cleanup")

    async def async_items() -> AsyncIterator[int]:
        try:
            for number in range(100):
                yield number
        finally:
            raise ZeroDivisionError("in cleanup")

    def fail(item: int) -> int:
        raise Mine(1, 2)

    for make in (items, async_items):
        run: Any = None
        with soon(), pytest.raises(Mine):
            async with source(make).map(same).map(fail).open(buffer=1) as run:
                async for _ in run:
                    pass
        assert [record.error for record in run.failures] == [
            "Mine: (1, 2)",
            "ZeroDivisionError: in cleanup",
        ]
        check_accounts(run.report(), over=True)


async def test_a_failing_cleanup_alone_is_raised() -> None:
    """Leaving early is no reason to lose the error of a source's own cleanup."""

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            raise ZeroDivisionError("in cleanup")

    with soon(), pytest.raises(ZeroDivisionError, match="in cleanup"):
        async with source(items).map(same).open(buffer=1) as run:
            async for _ in run:
                break


async def test_a_source_and_a_transform_always_raise() -> None:
    """Whatever the run's default."""

    def items() -> Iterator[int]:
        yield 1
        raise Mine(1, 2)

    async def fail(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item
            raise Mine(3, 4)

    for policy in ("skip", "emit"):
        for flow in (source(items), source(items, on=Threads(1)), source(items).map(same)):
            with soon(), pytest.raises(Mine) as caught:
                await flow.collect(on_error=policy)
            failure = failure_of(caught.value)
            assert failure is not None
            assert failure.stage == "items"
            assert caught.value.__notes__ == ["flowstage: raised in stage 'items'"]
        with soon(), pytest.raises(Mine) as caught:
            await Input[int]().transform(fail).collect([7, 8], on_error=policy)
        assert caught.value.__notes__ == ["flowstage: raised in stage 'fail' on item 7, attempt 1"]


async def test_strange_exceptions_of_sources_and_transforms() -> None:
    """They never look like an end."""
    for strange, make in STRANGE.items():

        class Plain:
            def __init__(self, make: Any = make) -> None:
                self.make = make

            def __iter__(self) -> Any:
                return self

            def __next__(self) -> Any:
                raise self.make()

        class Async:
            def __init__(self, make: Any = make) -> None:
                self.make = make

            def __aiter__(self) -> Any:
                return self

            async def __anext__(self) -> Any:
                raise self.make()

        flow = Input[Any]()
        for kind, line, items in (
            ("plain", flow, Plain()),
            ("async", flow, Async()),
            ("plain flat", flow.flat_map(lambda item, kind=Plain: kind()), [1]),
            ("async flat", flow.flat_map(lambda item, kind=Async: kind()), [1]),
            ("transform", flow.transform(lambda items, kind=Async: kind()), [1]),
        ):
            if strange == "StopIteration" and "plain" in kind:
                continue  # that is how they end
            if strange == "StopAsyncIteration" and kind in ("async", "async flat", "transform"):
                continue
            with soon(), pytest.raises(BaseException) as caught:
                await line.collect(items)
            assert failure_of(caught.value) is not None, (kind, strange)


async def test_buffer_overflow() -> None:
    """It ends the run in the name of the buffer, once."""
    for flow in (
        Input[int]().map(abs).buffer(2, overflow="error", name="small").map(same),
        source(range(50)).buffer(2, overflow="error", name="small"),
        source(range(50)).map(abs).buffer(2, overflow="error", name="small"),
        source(range(50)).map(same, concurrency=3).buffer(2, overflow="error", name="small"),
        source(range(50)).map(abs, on=Threads(2)).buffer(2, overflow="error", name="small"),
        source(range(50)).batch(1).buffer(2, overflow="error", name="small"),
    ):
        with soon(), pytest.raises(BufferOverflow, match=r"buffer 'small' is full \(2 items\)"):
            async with flow.open(
                range(50) if flow.graph.stages[0].kind == "input" else None
            ) as run:
                await anyio.sleep_forever()
        assert run.failed == 1
        check_accounts(run.report(), over=True)


class Odd:
    """Does not say what it wraps."""

    __call__ = staticmethod(functools.partial(int, base=2))

    @property
    def __wrapped__(self) -> Any:
        raise RuntimeError("not yet")


def two(one: Any, two: Any) -> Any:
    return one


def handed_on(fn: Any) -> Any:
    @functools.wraps(fn)
    def call(*given: Any) -> Any:
        return fn(*given)

    return call


class Method:
    @handed_on
    def two(self, one: Any, two: Any) -> Any:
        return one

    def __call__(self, one: Any, two: Any) -> Any:
        return one


def wraps_itself(item: Any) -> Any:
    raise AssertionError("never called")


wraps_itself.__wrapped__ = wraps_itself  # type: ignore[attr-defined]


def hidden(item: Any) -> Any:
    return same(item)


def number(*given: Any) -> Any:
    return 3


ANY = Input[Any]()
MISSED: dict[str, tuple[Callable[[], Flow[Any, Any]], Any]] = {
    "arguments": (lambda: ANY.map(abs).map(handed_on(two)), two),
    "method": (lambda: ANY.map(same).map(Method().two), Method.two.__wrapped__),
    "decorated, in threads": (lambda: ANY.map(handed_on(two), on=Threads(2)), two),
    "filter in a thread": (lambda: ANY.filter(handed_on(two), on=Threads(1)), two),
    "partial": (lambda: ANY.tap(functools.partial(handed_on(two))), two),
    "cached": (lambda: ANY.map(functools.lru_cache(two)), two),
    "object": (lambda: ANY.map(Method()), Method.__call__),
    "no iterable": (lambda: ANY.flat_map(number), number),
    "no iterable, later": (lambda: ANY.flat_map(same, concurrency=2), same),
    "coroutine in a thread": (lambda: ANY.map(hidden, on=Threads(1)), hidden),
    "transform": (lambda: ANY.transform(number), number),
    "route": (lambda: merge(*ANY.route(handed_on(two), [1, 2]).values()), two),
    "source": (lambda: merge(ANY, source(number)), number),
}


@pytest.mark.parametrize("case", MISSED.values(), ids=MISSED)
async def test_a_function_of_which_the_traceback_has_no_line(
    case: tuple[Callable[[], Flow[Any, Any]], Any],
) -> None:
    """The note says where it was written, through whatever is around it."""
    make, written = case
    with soon(), pytest.raises(TypeError) as caught:
        await make().collect([1])
    where = f" (written at {__file__}:{written.__code__.co_firstlineno})"
    assert where in caught.value.__notes__[-1]


async def test_a_function_that_gives_awaitables_now_and_then() -> None:
    """Its first result was one, so Python's own words are about an `await` that nobody wrote."""
    for options in ({}, {"retry": Retry(2, errors=(OSError,))}):
        with soon(), pytest.raises(TypeError) as caught:
            await ANY.map(lambda n: checkpoint() if n else n, **options).collect([1, 0])
        assert caught.value.__notes__[-1].endswith(
            " on item 0, attempt 1; it gave an awaitable before, and a function does so each time or never"
        )


def awaited(fn: Any) -> Any:
    @functools.wraps(fn)
    async def call(item: Any) -> Any:
        return await fn(item)

    return call


@pytest.mark.parametrize(
    "flow",
    [
        ANY.map(awaited(number)),
        ANY.filter(lambda n: checkpoint() if n == 0 else n),
    ],
)
async def test_an_await_that_is_not_ours(flow: Flow[Any, Any]) -> None:
    """Or a word about awaitables: nothing is known of what the function gave before."""
    with soon(), pytest.raises(TypeError, match="await") as caught:
        await flow.collect([1, 0])
    assert "it gave an awaitable before" not in caught.value.__notes__[-1]


KNOWN: dict[str, Callable[[], Flow[Any, Any]]] = {
    "in the traceback": lambda: ANY.map(refuse(1, lambda: TypeError())),
    "in its cause": lambda: ANY.map(refuse(1, StopIteration)),
    "built in": lambda: ANY.map(len),
    "a class": lambda: ANY.map(Mine),
    "says nothing": lambda: ANY.map(Odd(), on=Threads(1)),
    "wraps itself": lambda: ANY.map(wraps_itself),
    "an operator's": lambda: ANY.pipe(flatten),
}


@pytest.mark.parametrize("make", KNOWN.values(), ids=KNOWN)
async def test_a_function_whose_line_is_known_or_is_none(
    make: Callable[[], Flow[Any, Any]],
) -> None:
    """The note is as it always is."""
    with soon(), pytest.raises((TypeError, StageError, AssertionError)) as caught:
        await make().collect([1])
    assert " (written at " not in caught.value.__notes__[-1]
    assert caught.value.__notes__[-1].endswith(" on item 1, attempt 1")


async def test_the_same_exception_object_raised_again() -> None:
    """The note tells of the last time."""
    error = Mine(1, 2)

    def fail(item: int) -> int:
        raise error

    for item in (1, 2):
        with soon(), pytest.raises(Mine):
            await Input[int]().map(fail).collect([item])
        assert error.__notes__ == [f"flowstage: raised in stage 'fail' on item {item}, attempt 1"]


async def test_a_failure_shows_its_error() -> None:
    """With its message, cut short, and whatever its repr does."""

    class Hostile(Exception):
        def __repr__(self) -> str:
            raise AssertionError("formatted")

    def fail(item: str) -> str:
        if item == "hostile":
            raise Hostile
        raise ValueError(item)

    items = ["no good", "x" * 1000, "hostile"]
    shown = [repr(f) for f in await Input[str]().map(fail).collect(items, on_error="emit")]
    assert shown[0] == (
        "Failure(stage='fail', item='no good', error=ValueError('no good'), attempts=1)"
    )
    assert "error=ValueError('xxx" in shown[1]
    assert len(shown[1]) < 500
    assert "error=<Hostile whose repr raised AssertionError>" in shown[2]


async def test_failures_are_text_and_capped() -> None:
    """The first and the last 500 of them, all counted; attempts and policy told."""

    def fail(item: int) -> int:
        raise Mine(item, 0)

    with soon():
        async with Input[int]().map(fail, on_error="emit").open(range(1200)) as run:
            async for _ in run.events():
                pass
    assert run.failed == 1200
    assert len(run.failures) == 1000
    assert run.failures[0].item == "0"
    assert run.failures[499].item == "499"
    assert run.failures[500].item == "700"
    assert run.failures[-1].item == "1199"
    assert run.report().failures == run.failures


async def test_each_stage_has_its_own_policy() -> None:
    """A stage's policy comes before the run's."""
    line = (
        Input[int]()
        .map(refuse(1, lambda: Mine(1, 1)), on_error="skip")
        .map(refuse(2, lambda: Mine(2, 2)), on_error="emit")
        .map(refuse(3, lambda: Mine(3, 3)))
    )
    with soon():
        got = await line.collect([0, 1, 2])
    assert got[0] == 0
    assert isinstance(got[1], Failure)
    assert got[1].stage == "stage-2"
    with soon(), pytest.raises(Mine):
        await line.collect([0, 1, 2, 3])


@pytest.mark.parametrize("error", [GeneratorExit, BaseException])
async def test_what_is_no_exception_is_not_tried_again(error: type[BaseException]) -> None:
    """`Retry` is for exceptions."""
    calls: list[int] = []

    def fail(item: int) -> int:
        calls.append(item)
        raise error

    with soon(), pytest.raises(error):
        await Input[int]().map(fail, retry=Retry(5)).collect([1])
    assert calls == [1]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_a_function_that_cancels_its_own_task() -> None:
    """asyncio's `Task.cancel` from inside is a failure of the item; on trio there is no such thing."""

    async def cancel(item: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        if item == 2:
            task.cancel()
        await checkpoint()
        return item

    for options in ({}, {"concurrency": 2}, {"timeout": 9}):
        flow = Input[int]().map(cancel, **options)
        with soon(), pytest.raises(StageError, match="was cancelled from inside"):
            await flow.collect([1, 2, 3])
        with soon():
            assert await flow.collect([1, 2, 3], on_error="skip") == [1, 3]


async def test_an_observer_that_ends_the_program() -> None:
    """What hooks raise is ignored, but not that."""

    class Observer:
        def before_stage(self, stage: str, item: Any, context: Any) -> None:
            raise KeyboardInterrupt

    for options in ({}, {"concurrency": 2}, {"on": Threads(1)}):
        fn = abs if "on" in options else same
        with soon(), pytest.raises(KeyboardInterrupt):
            await Input[int]().map(fn, **options).collect([1], observers=[Observer()])


async def test_what_failed_is_let_go_at_once(anyio_backend_name: str) -> None:
    """No circle of an error, its traceback and a frame keeps items for the garbage collector."""

    class Item:
        pass

    alive: weakref.WeakSet[Item] = weakref.WeakSet()

    def items() -> Iterator[Item]:
        for _ in range(50):
            item = Item()
            alive.add(item)
            yield item
            del item

    def refuse_all(item: Any) -> Any:
        raise ValueError

    async def refuse_all_later(item: Any) -> Any:
        await checkpoint()
        raise ValueError

    flows = {
        "inline": Input[Any]().map(refuse_all),
        "behind an edge": Input[Any]().buffer(7).map(refuse_all),
        "async": Input[Any]().map(refuse_all_later),
        "pool": Input[Any]().map(refuse_all_later, concurrency=3),
        "threads": Input[Any]().map(refuse_all, on=Threads(2)),
        "retried": Input[Any]().map(refuse_all, retry=Retry(2)),
        "flat": Input[Any]().flat_map(refuse_all),
    }
    if anyio_backend_name == "trio":
        del flows["threads"]  # the frames of trio's own threads keep what the call gave
    gc.collect()
    gc.disable()
    try:
        for flow in flows.values():
            await flow.collect(items, on_error="skip")
            with soon():  # the last one is the cause that `call` would name
                while len(alive) > 1:  # a thread has told of its last call and still has it
                    await checkpoint()
            alive.clear()
    finally:
        gc.enable()


class Numbered:
    """An item that can be watched."""

    def __init__(self, number: int) -> None:
        self.number = number


def watched(alive: weakref.WeakSet[Numbered], count: int) -> Iterator[Numbered]:
    """Give items of which nobody keeps one here."""
    for number in range(count):
        item = Numbered(number)
        alive.add(item)
        yield item
        del item


def refuse_one(item: Numbered) -> Numbered:
    if item.number == 70:
        raise ValueError
    return item


def give_and_refuse_one(item: Numbered) -> Iterator[Numbered]:
    yield item
    refuse_one(item)


@pytest.mark.parametrize("on_error", ["raise", "skip", "emit"])
@pytest.mark.parametrize("way", ["map", "filter", "below", "flat", "source"])
async def test_an_error_keeps_its_own_item_only(way: str, on_error: Any) -> None:
    """Who keeps a failure for later does not keep all that was worked on beside it."""
    alive: weakref.WeakSet[Numbered] = weakref.WeakSet()

    def items() -> Iterator[Numbered]:
        for number in range(100):
            item = Numbered(number)
            alive.add(item)
            yield refuse_one(item) if way == "source" else item
            del item

    flow: Flow[Any, Any] = source(items)
    if way in ("map", "filter"):
        flow = getattr(flow, way)(refuse_one)
    elif way == "below":
        flow = flow.buffer(100).map(lambda item: item).tap(refuse_one)
    elif way == "flat":
        flow = flow.flat_map(give_and_refuse_one)
    flow = flow.map(lambda item: item.number)
    kept: list[Any] = []
    with soon():
        try:
            found = await flow.collect(on_error=on_error)
            kept = [result for result in found if isinstance(result, Failure)]
        except ValueError as error:
            kept = [error]
    gc.collect()
    assert len(kept) == (on_error == "emit" or way == "source" or on_error == "raise")
    assert {item.number for item in alive} <= {70}


@pytest.mark.parametrize("fails", [(), (66,), (66, 68)])
async def test_what_ends_the_program_keeps_its_own_item_only(fails: tuple[int, ...]) -> None:
    """In the middle of a burst too, whatever has failed in it before."""
    alive: weakref.WeakSet[Numbered] = weakref.WeakSet()

    def end(item: Numbered) -> int:
        if item.number in fails:
            raise ValueError
        if item.number == 70:
            raise KeyboardInterrupt
        return item.number

    with soon(), pytest.raises(KeyboardInterrupt) as caught:
        flow = source(lambda: watched(alive, 300)).buffer(100).map(lambda item: item).map(end)
        await flow.map(lambda number: number).collect(on_error="skip")
    gc.collect()
    # The last one that was skipped is the cause that `call` would name.
    assert {item.number for item in alive} == {70, *fails[-1:]}
    del caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)  # as above
@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("on_error", ["raise", "skip", "emit"])
@pytest.mark.parametrize("verb", ["map", "filter", "tap", "flat_map"])
async def test_an_error_from_a_thread_keeps_its_own_item_only(
    verb: str, on_error: Any, aware: bool
) -> None:
    """What a thread did in the same call, before the failure and after it, is let go."""
    alive: weakref.WeakSet[Numbered] = weakref.WeakSet()

    def look(item: Numbered, **_: Any) -> Any:
        return give_and_refuse_one(item) if verb == "flat_map" else refuse_one(item)

    flow: Flow[Any, Any] = source(lambda: watched(alive, 100))
    flow = getattr(flow, verb)(look, on=Threads(1), pass_context=aware)
    flow = flow.map(lambda item: item.number)
    kept: list[Any] = []
    with soon():
        try:
            found = await flow.collect(on_error=on_error)
            kept = [result for result in found if isinstance(result, Failure)]
        except ValueError as error:
            kept = [error]
        await anyio.to_thread.run_sync(int)  # the thread has let go of the last call of the run
    gc.collect()
    assert len(kept) == (on_error != "skip")
    assert {item.number for item in alive} <= {70}


def look_up(key: Any) -> Any:
    try:
        return {"known": 1}[key]
    except KeyError:
        raise ValueError("no such page")  # noqa: B904 - the context is what this is about


async def look_up_later(key: Any) -> Any:
    await checkpoint()
    return look_up(key)


async def all_looked_up(keys: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for key in keys:
        yield look_up(key)


WITH_CONTEXT: dict[str, Flow[Any, Any]] = {
    "inline": Input[Any]().map(look_up),
    "async": Input[Any]().map(look_up_later),
    "several": Input[Any]().map(look_up_later, concurrency=3),
    "thread": Input[Any]().map(look_up, on=Threads(1)),
    "flat_map": Input[Any]().flat_map(lambda key: [look_up(key)]),
    "transform": Input[Any]().transform(all_looked_up),
    "source": source(lambda: (look_up(key) for key in ["unknown"])),
}


@pytest.mark.parametrize("flow", WITH_CONTEXT.values(), ids=WITH_CONTEXT)
async def test_an_error_keeps_its_context(flow: Flow[Any, Any]) -> None:
    """Not the cancellation of the body, nor the reader's, is what it was raised from."""

    def check(error: BaseException) -> None:
        assert isinstance(error.__context__, KeyError)
        assert error.__context__.__context__ is None
        assert "ancelled" not in "".join(traceback.format_exception(error))

    items = [] if flow is WITH_CONTEXT["source"] else [["known", "unknown", "known"]]
    with soon():
        with pytest.raises(ValueError, match="no such page") as caught:
            await flow.collect(*items)
        check(caught.value)
        with pytest.raises(ValueError, match="no such page") as caught:
            async with flow.open(*items) as run:
                async for _ in run:
                    pass
        check(caught.value)
        with pytest.raises(ValueError, match="no such page") as caught:
            async with flow.open(*items):
                await anyio.sleep_forever()
        check(caught.value)
        with pytest.raises(ValueError, match="no such page") as caught:
            async with flow.open(*items):
                try:
                    await anyio.sleep_forever()
                finally:
                    raise OSError("the body's own")
        assert "the body's own" in "".join(traceback.format_exception(caught.value))


async def test_what_fails_after_the_root_cause_is_noted_on_it() -> None:
    """The first three of them; all are in the run's `failures`."""

    async def roll_back(item: int) -> int:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError(f"could not roll back {item}")

    async def fail(item: int) -> int:
        await settle()
        raise ValueError("root")

    start = source(range(5))
    graph = Graph(start.map(roll_back, concurrency=5), start.map(fail))
    with soon(), pytest.raises(ValueError, match="root") as caught:
        async with graph.open() as run:
            await anyio.sleep_forever()
    first, *later = caught.value.__notes__
    assert first.startswith("flowstage: raised in stage 'fail'")
    assert len(later) == 3
    for note in later:
        assert re.match(
            r"flowstage: after that, stage 'roll_back' raised OSError\('could not roll back", note
        )
    assert len(run.failures) == 6


def exiting_flow(kind: str, error: BaseException) -> Flow[Any, Any]:
    """A flow of which user code waits, and raises as it is cancelled."""

    async def wait(item: Any) -> Any:
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    async def items() -> AsyncIterator[int]:
        yield await wait(0)

    async def passed(given: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in given:
            yield await wait(item)

    made: dict[str, Callable[[], Flow[Any, Any]]] = {
        "source": lambda: source(items),
        "map": lambda: source([0]).map(wait),
        "pool": lambda: source([0]).map(wait, concurrency=2),
        "transform": lambda: source([0]).transform(passed),
    }
    return made[kind]()


@pytest.mark.parametrize("way", ["cancelled", "left", "raised"])
@pytest.mark.parametrize("kind", ["source", "map", "pool", "transform"])
async def test_what_ends_the_program_does_so_also_from_a_cleanup(kind: str, way: str) -> None:
    """Whatever it was that has ended the run; a cancellation from outside gives way to it."""
    for error in (KeyboardInterrupt("cleanup"), SystemExit("cleanup")):
        with soon(), pytest.raises(type(error), match="cleanup"), anyio.CancelScope() as scope:
            async with exiting_flow(kind, error).open():
                await settle()
                if way == "cancelled":
                    scope.cancel()
                    await checkpoint()
                elif way == "raised":
                    raise ValueError("of the body")
