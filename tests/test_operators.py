"""The operators: what they give, when they end, and what sentinels, interrupts and failures do."""

from __future__ import annotations

import math
import operator
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import anyio
import pytest

from flowstage import Failure, Flow, Input, Sentinel, _flow, failure_of, operators, source

from .conftest import virtual_time

S = Sentinel("s")


async def events(flow: Flow[Any, Any], items: Iterable[Any]) -> list[Any]:
    """Everything that comes out, sentinels included."""
    async with flow.open(list(items)) as run:
        return [event async for event in run.events()]


def numbers() -> Flow[int, int]:
    return Input[int]()


async def slowly(item: Any) -> Any:
    await anyio.lowlevel.checkpoint()
    return item


def small(item: int) -> bool:
    return item < 3


async def small_async(item: int) -> bool:
    return await slowly(item) < 3


async def add_async(total: int, item: int) -> int:
    return total + await slowly(item)


CASES: dict[str, tuple[Callable[[Flow[Any, Any]], Flow[Any, Any]], list[Any], list[Any]]] = {
    "take": (lambda f: f.pipe(operators.take, 2), [1, 2, 3], [1, 2]),
    "take more than there are": (lambda f: f.pipe(operators.take, 9), [1, 2, 3], [1, 2, 3]),
    "take none": (lambda f: f.pipe(operators.take, 0), [1, 2, 3], []),
    "take_while": (lambda f: f.pipe(operators.take_while, small), [1, 2, 3, 1], [1, 2]),
    "take_while async": (lambda f: f.pipe(operators.take_while, small_async), [1, 3, 1], [1]),
    "take_while all": (lambda f: f.pipe(operators.take_while, small), [1, 2], [1, 2]),
    "drop": (lambda f: f.pipe(operators.drop, 2), [1, 2, 3, 4], [3, 4]),
    "drop none": (lambda f: f.pipe(operators.drop, 0), [1, 2], [1, 2]),
    "drop more than there are": (lambda f: f.pipe(operators.drop, 9), [1, 2], []),
    "drop_while": (lambda f: f.pipe(operators.drop_while, small), [1, 2, 3, 1], [3, 1]),
    "drop_while async": (lambda f: f.pipe(operators.drop_while, small_async), [1, 3, 1], [3, 1]),
    "scan": (lambda f: f.pipe(operators.scan, operator.add, 10), [1, 2, 3], [11, 13, 16]),
    "scan async": (lambda f: f.pipe(operators.scan, add_async, 0), [1, 2, 3], [1, 3, 6]),
    "scan nothing": (lambda f: f.pipe(operators.scan, operator.add, 0), [], []),
    "reduce": (lambda f: f.pipe(operators.reduce, operator.add, 10), [1, 2, 3], [16]),
    "reduce async": (lambda f: f.pipe(operators.reduce, add_async, 0), [1, 2, 3], [6]),
    "reduce nothing": (lambda f: f.pipe(operators.reduce, operator.add, 7), [], [7]),
    "enumerate": (lambda f: f.pipe(operators.enumerate), ["a", "b"], [(0, "a"), (1, "b")]),
    "enumerate from": (lambda f: f.pipe(operators.enumerate, start=-1), ["a"], [(-1, "a")]),
    "flatten": (lambda f: f.pipe(operators.flatten), [[1, 2], (), range(2)], [1, 2, 0, 1]),
    "distinct": (
        lambda f: f.pipe(operators.distinct_until_changed),
        [None, None, 1, 1.0, 2, 1],
        [None, 1, 2, 1],
    ),
    "distinct by key": (
        lambda f: f.pipe(operators.distinct_until_changed, str.lower),
        ["a", "A", "b"],
        ["a", "b"],
    ),
    "distinct by async key": (
        lambda f: f.pipe(operators.distinct_until_changed, small_async),
        [1, 2, 3, 4, 0],
        [1, 3, 0],
    ),
    "unique": (lambda f: f.pipe(operators.unique, max_keys=9), [1, 2, 1, 3, 2], [1, 2, 3]),
    "unique by key": (
        lambda f: f.pipe(operators.unique, str.lower, max_keys=9),
        ["a", "b", "A"],
        ["a", "b"],
    ),
    "unique by async key": (
        lambda f: f.pipe(operators.unique, slowly, max_keys=9),
        [1, 1, 2],
        [1, 2],
    ),
    # At the bound the key not met for longest goes: 2 makes room for 3, since 1 was met again.
    "unique at its bound": (
        lambda f: f.pipe(operators.unique, max_keys=2),
        [1, 2, 1, 3, 1, 2],
        [1, 2, 3, 2],
    ),
    "throttle": (lambda f: f.pipe(operators.throttle, 1e6), [1, 2, 3], [1, 2, 3]),
}


@pytest.mark.parametrize(("use", "items", "expected"), CASES.values(), ids=CASES)
async def test_what_it_gives(
    use: Callable[[Flow[Any, Any]], Flow[Any, Any]], items: list[Any], expected: list[Any]
) -> None:
    """All results, in order, from the first item to the end."""
    flow = use(Input[Any]())
    assert await flow.collect(items) == expected
    assert await flow.collect(items) == expected, "a flow is run afresh each time"


SENTINELS: dict[str, tuple[Callable[[Flow[Any, Any]], Flow[Any, Any]], list[Any], list[Any]]] = {
    "take": (lambda f: f.pipe(operators.take, 2), [1, S, 2, 3], [1, S, 2]),
    "take_while": (lambda f: f.pipe(operators.take_while, small), [1, S, 3, 1], [1, S]),
    "drop": (lambda f: f.pipe(operators.drop, 2), [1, S, 2, 3, S], [S, 3, S]),
    "drop_while": (lambda f: f.pipe(operators.drop_while, small), [1, S, 3, S, 1], [S, 3, S, 1]),
    "scan": (lambda f: f.pipe(operators.scan, operator.add, 0), [1, S, 2, S], [1, S, 3, S]),
    "reduce": (lambda f: f.pipe(operators.reduce, operator.add, 0), [1, 2, S, 3], [3, S, 3]),
    "reduce, empty segments": (
        lambda f: f.pipe(operators.reduce, operator.add, 0),
        [S, S],
        [0, S, 0, S, 0],
    ),
    "enumerate": (lambda f: f.pipe(operators.enumerate), ["a", S, "b"], [(0, "a"), S, (1, "b")]),
    "flatten": (lambda f: f.pipe(operators.flatten), [[1, 2], S, [3]], [1, 2, S, 3]),
    "distinct": (lambda f: f.pipe(operators.distinct_until_changed), [1, S, 1, 2], [1, S, 2]),
    "unique": (lambda f: f.pipe(operators.unique, max_keys=9), [1, S, 1, 2], [1, S, 2]),
    "throttle": (lambda f: f.pipe(operators.throttle, 1e6), [1, S, 2, S], [1, S, 2, S]),
}


@pytest.mark.parametrize(("use", "items", "expected"), SENTINELS.values(), ids=SENTINELS)
async def test_sentinels(
    use: Callable[[Flow[Any, Any]], Flow[Any, Any]], items: list[Any], expected: list[Any]
) -> None:
    """A sentinel passes in its place; only what holds back gives its result before it."""
    assert await events(use(Input[Any]()), items) == expected


# What is sent before the interrupt changes what each of them would make of 3, 4, 5.
INTERRUPTED: dict[str, tuple[Callable[[Flow[Any, Any]], Flow[Any, Any]], list[int]]] = {
    "take": (lambda f: f.pipe(operators.take, 2), [1]),
    "drop": (lambda f: f.pipe(operators.drop, 1), [1]),
    "drop_while": (lambda f: f.pipe(operators.drop_while, lambda n: n == 3), [1]),
    "scan": (lambda f: f.pipe(operators.scan, operator.add, 0), [1]),
    "reduce": (lambda f: f.pipe(operators.reduce, operator.add, 0), [1]),
    "enumerate": (lambda f: f.pipe(operators.enumerate), [1]),
    "distinct": (lambda f: f.pipe(operators.distinct_until_changed), [3]),
    "unique": (lambda f: f.pipe(operators.unique, max_keys=9), [5, 3]),
}


@pytest.mark.parametrize(("use", "before"), INTERRUPTED.values(), ids=INTERRUPTED)
async def test_an_interrupt_makes_it_forget(
    use: Callable[[Flow[Any, Any]], Flow[Any, Any]], before: list[int]
) -> None:
    """What comes after an interrupt comes out as if it had been sent alone."""
    after = [3, 4, 5]
    alone = await use(Input[Any]()).collect(after)
    async with use(Input[Any]()).open() as run:
        for item in before:
            await run.send(item)
        await anyio.wait_all_tasks_blocked()
        run.interrupt()
        for item in after:
            run.send_nowait(item)
        run.finish()
        assert [item async for item in run] == alone


ERROR = ValueError("on purpose")


def raising(*args: Any) -> Any:
    raise ERROR


FAILING: dict[str, Callable[[Flow[Any, Any]], Flow[Any, Any]]] = {
    "take_while": lambda f: f.pipe(operators.take_while, raising),
    "drop_while": lambda f: f.pipe(operators.drop_while, raising),
    "scan": lambda f: f.pipe(operators.scan, raising, 0),
    "reduce": lambda f: f.pipe(operators.reduce, raising, 0),
    "distinct_until_changed": lambda f: f.pipe(operators.distinct_until_changed, raising),
    "unique": lambda f: f.pipe(operators.unique, raising, max_keys=1),
}


@pytest.mark.parametrize(("name", "use"), FAILING.items(), ids=FAILING)
@pytest.mark.parametrize("on_error", ["raise", "skip", "emit"])
async def test_a_function_that_raises_ends_the_run(
    name: str, use: Callable[[Flow[Any, Any]], Flow[Any, Any]], on_error: Any
) -> None:
    """It is the user's own exception, with the operator's name, whatever `on_error`."""
    with pytest.raises(ValueError, match="on purpose") as raised:
        await use(Input[Any]()).collect([1], on_error=on_error)
    assert raised.value is ERROR
    failure = failure_of(ERROR)
    assert failure is not None
    assert failure.stage == name


@pytest.mark.parametrize("use", [case[0] for case in SENTINELS.values()], ids=SENTINELS)
async def test_a_failure_above_passes_beside_it(
    use: Callable[[Flow[Any, Any]], Flow[Any, Any]],
) -> None:
    """Under `"emit"` a failure comes out once, and no operator takes it for an item."""
    above = Input[Any]().map(raising, on_error="emit")
    found = await use(above).collect([1])
    assert [type(item) for item in found if isinstance(item, Failure)] == [Failure]


async def test_what_cannot_be_hashed_fails_the_run() -> None:
    """`unique` needs keys that can be hashed."""
    with pytest.raises(TypeError, match="unhashable"):
        await Input[Any]().pipe(operators.unique, max_keys=1).collect([[]])


async def test_take_asks_for_no_more() -> None:
    """It ends behind its last item although nothing more has come, and the source is closed."""
    closed = []

    async def endless() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
            await anyio.sleep_forever()
        finally:
            closed.append(True)

    assert await source(endless).pipe(operators.take, 2).collect() == [1, 2]
    assert closed == [True]


async def test_take_while_asks_for_no_more() -> None:
    """The item that ends it is the last one read."""
    async with numbers().pipe(operators.take_while, small).open() as run:
        await run.send(1)
        await run.send(3)
        assert [item async for item in run] == [1]


async def test_take_of_nothing_reads_nothing() -> None:
    """`take(0)` ends at once, though nobody sends or finishes."""
    async with numbers().pipe(operators.take, 0).open() as run:
        assert [item async for item in run] == []


async def test_an_operator_that_has_ended_stays_ended() -> None:
    """An interrupt does not revive it."""
    async with numbers().pipe(operators.take, 1).open() as run:
        await run.send(1)
        assert [item async for item in run] == [1]
        run.interrupt()
        with pytest.raises(anyio.ClosedResourceError):
            await run.send(2)


@virtual_time
async def test_throttle_spaces_items_evenly() -> None:
    """Four items in two seconds, and none is lost."""
    began = anyio.current_time()
    times = []
    async with source(range(6)).pipe(operators.throttle, 4, per=2).open() as run:
        got = []
        async for item in run:
            got.append(item)
            times.append(anyio.current_time() - began)
    assert got == list(range(6))
    assert times == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5])


@virtual_time
async def test_throttle_gives_no_credit_for_quiet_times() -> None:
    """After a pause there is no burst."""

    async def uneven() -> AsyncIterator[int]:
        yield 0
        await anyio.sleep(10)
        yield 1
        yield 2

    began = anyio.current_time()
    async with source(uneven).pipe(operators.throttle, 1).open() as run:
        times = [anyio.current_time() - began async for _ in run]
    assert times == pytest.approx([0, 10, 11])


@virtual_time
async def test_throttle_lets_a_sentinel_pass_and_forgets_at_an_interrupt() -> None:
    """A sentinel takes no place; after an interrupt the next item goes at once."""
    began = anyio.current_time()
    async with numbers().pipe(operators.throttle, 1, per=100).open() as run:
        got = []

        async def read() -> None:
            async for event in run.events():
                got.append((event, anyio.current_time() - began))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await run.send(1)
            await run.send_sentinel("s")
            await run.send(2)
            await anyio.sleep(50)
            run.interrupt()
            await run.send(3)
            run.finish()
    assert got == [(1, 0), (S, 0), (3, pytest.approx(50))]


@virtual_time
async def test_throttle_is_no_deadlock_while_it_waits() -> None:
    """A timer is something alive."""
    flow = source([1, 2, 3]).pipe(operators.throttle, 1, per=600)
    assert await flow.collect() == [1, 2, 3]


MISUSE: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "take: no number": (lambda: numbers().pipe(operators.take, "2"), TypeError, "whole number"),
    "take: a bool": (lambda: numbers().pipe(operators.take, True), TypeError, "whole number"),
    "take: a float": (lambda: numbers().pipe(operators.take, 2.0), TypeError, "whole number"),
    "take: negative": (lambda: numbers().pipe(operators.take, -1), ValueError, "at least 0"),
    "drop: negative": (lambda: numbers().pipe(operators.drop, -1), ValueError, "at least 0"),
    "drop: a bool": (lambda: numbers().pipe(operators.drop, False), TypeError, "whole number"),
    "take_while: no function": (
        lambda: numbers().pipe(operators.take_while, 3),
        TypeError,
        "takes a function",
    ),
    "drop_while: no function": (
        lambda: numbers().pipe(operators.drop_while, None),
        TypeError,
        "takes a function",
    ),
    "scan: no function": (lambda: numbers().pipe(operators.scan, 0, 0), TypeError, "a function"),
    "reduce: no function": (lambda: numbers().pipe(operators.reduce, 0, 0), TypeError, "function"),
    "enumerate: a bool": (lambda: numbers().pipe(operators.enumerate, True), TypeError, "start"),
    "enumerate: a float": (lambda: numbers().pipe(operators.enumerate, 0.5), TypeError, "start"),
    "distinct: no function": (
        lambda: numbers().pipe(operators.distinct_until_changed, 3),
        TypeError,
        "takes a function",
    ),
    "unique: no bound": (lambda: numbers().pipe(operators.unique), TypeError, "max_keys"),
    "unique: a bound of 0": (
        lambda: numbers().pipe(operators.unique, max_keys=0),
        ValueError,
        "max_keys must be at least 1",
    ),
    "unique: no function": (
        lambda: numbers().pipe(operators.unique, 3, max_keys=3),
        TypeError,
        "takes a function",
    ),
    "throttle: 0": (lambda: numbers().pipe(operators.throttle, 0), ValueError, "greater than 0"),
    "throttle: negative": (
        lambda: numbers().pipe(operators.throttle, -1),
        ValueError,
        "greater than 0",
    ),
    "throttle: NaN": (lambda: numbers().pipe(operators.throttle, math.nan), ValueError, "finite"),
    "throttle: a bool": (lambda: numbers().pipe(operators.throttle, True), TypeError, "a number"),
    "throttle: per 0": (lambda: numbers().pipe(operators.throttle, 1, per=0), ValueError, "per"),
    "throttle: per infinity": (
        lambda: numbers().pipe(operators.throttle, 1, per=math.inf),
        ValueError,
        "per must be finite",
    ),
    "no flow": (lambda: operators.take([1, 2], 1), TypeError, r"flow\.pipe\(take"),
}


def twice(item: int) -> Iterator[int]:
    yield item


async def twice_async(item: int) -> AsyncIterator[int]:
    yield item


@pytest.mark.parametrize("fn", [twice, twice_async])
def test_a_generator_function_is_refused(fn: Callable[..., Any]) -> None:
    """It does nothing when called, and what it gives is always true."""
    uses: dict[str, Callable[[], Any]] = {
        "take_while": lambda: numbers().pipe(operators.take_while, fn),
        "drop_while": lambda: numbers().pipe(operators.drop_while, fn),
        "scan": lambda: numbers().pipe(operators.scan, fn, 0),
        "reduce": lambda: numbers().pipe(operators.reduce, fn, 0),
        "distinct_until_changed": lambda: numbers().pipe(operators.distinct_until_changed, fn),
        "unique": lambda: numbers().pipe(operators.unique, fn, max_keys=3),
        "route": lambda: numbers().route(fn, [1, 2]),
    }
    for verb, use in uses.items():
        with pytest.raises(TypeError, match=rf"^{verb}\({fn.__name__}\): .*nothing when called"):
            use()


@pytest.mark.parametrize(("use", "kind", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_refused_where_it_is_written(
    use: Callable[[], Any], kind: type[Exception], message: str
) -> None:
    """Bad arguments are an error at the call, not in the run."""
    with pytest.raises(kind, match=message):
        use()


def test_names_in_the_graph() -> None:
    """An operator appears under its own name; a second one gets a number."""
    flow = numbers().pipe(operators.take, 3).pipe(operators.take, 2)
    assert [stage.name for stage in flow.graph.stages] == ["input", "take", "take-2"]


def test_every_operator_is_listed() -> None:
    """`__all__` names the functions that the module defines, and nothing else."""
    made = {
        name
        for name, value in vars(operators).items()
        if callable(value) and not name.startswith("_") and value.__module__ == operators.__name__
    }
    assert made == set(operators.__all__)
    assert made == _flow._OPERATORS  # of which a flow says where they are
