"""Tuples by position, of independent flows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from flowstage import (
    Failure,
    Flow,
    GraphError,
    Input,
    Sentinel,
    gather,
    merge,
    source,
    zip,
    zip_latest,
)

from .accounts import check_accounts, settle, soon
from .harness import no_leaks


async def test_ends_with_the_shortest() -> None:
    stopped: list[str] = []

    def endless() -> Any:
        try:
            while True:
                yield 0
        finally:
            stopped.append("endless")

    with no_leaks(), soon():
        async with zip(source([1, 2]), source(endless)).open() as run:
            assert [row async for row in run] == [(1, 0), (2, 0)]
            await settle()
            assert stopped == ["endless"]
        check_accounts(run.report(), over=True)


@pytest.mark.parametrize("lengths", [(2, 3), (3, 2), (0, 1), (1, 0), (3, 50)])
async def test_strict(lengths: tuple[int, int]) -> None:
    a, b = (
        source(range(length), name=name) for length, name in [(lengths[0], "a"), (lengths[1], "b")]
    )
    with no_leaks(), soon(), pytest.raises(ValueError, match="different lengths"):
        await zip(a, b, strict=True).collect(buffer=1)


async def test_strict_with_equal_lengths() -> None:
    assert await zip(source([1, 2]), source([3, 4]), strict=True).collect() == [(1, 3), (2, 4)]
    assert await zip(source([]), source([]), strict=True).collect() == []


async def test_strict_with_sentinels_at_the_end() -> None:
    """A sentinel is no item: it makes no difference to the lengths, and none is lost or doubled."""
    s, t, last = Sentinel("s"), Sentinel("t"), Sentinel("last")
    flow = zip(source([1, s, t]), source([2, last]), strict=True)
    with no_leaks(), soon():
        async with flow.open() as run:
            events = [event async for event in run.events()]
    assert [event for event in events if not isinstance(event, Sentinel)] == [(1, 2)]
    assert sorted(e.value for e in events if isinstance(e, Sentinel)) == ["last", "s", "t"]
    assert events.index(s) < events.index(t)


async def test_a_sentinel_goes_on_when_the_first_input_brings_it() -> None:
    a, b = Input[int]("a"), Input[int]("b")
    with soon():
        async with zip(a, b).open() as run:
            await run.send(1, to=a)
            await run.send_sentinel("s")
            await run.send(2, to=a)
            await run.send(3, to=b)
            await run.send(4, to=b)
            run.finish()
            assert [event async for event in run.events()] == [Sentinel("s"), (1, 3), (2, 4)]


async def test_an_item_that_comes_while_a_sentinel_is_passed_is_seen() -> None:
    """A lost wake-up: the zip waited for an item that was there already."""
    a, b = Input[int]("a"), Input[int]("b")
    gate = anyio.Event()

    async def hold(number: int) -> int:
        if number:
            await gate.wait()
        return number

    with no_leaks(), soon():
        async with zip(a.map(hold), b).open(buffer=1) as run, anyio.create_task_group() as group:
            await run.send(0, to=a)
            await run.send(0, to=b)
            await settle()  # a row fills the way out
            await run.send(1, to=a)
            group.start_soon(run.send_sentinel, "s")
            await settle()  # b has brought the sentinel, for which there is no room
            await run.send(1, to=b)
            gate.set()
            await settle()  # now both items are there
            events = run.events()
            got = [await anext(events) for _ in range(3)]
            assert got == [(0, 0), Sentinel("s"), (1, 1)]
            run.finish()


async def test_a_failure_makes_the_pair_one() -> None:
    def fails(value: int) -> int:
        if value == 1:
            raise OSError(value)
        return value

    a = Input[int]("a").map(fails, on_error="emit")
    rows = await zip(a, source([0, 1, 2])).collect([0, 1, 2])
    assert [type(row) for row in rows] == [tuple, Failure, tuple]
    skipping = Input[int]("a").map(fails, on_error="skip")
    assert await zip(skipping, source([0, 1, 2])).collect([0, 1, 2]) == [(0, 0), (2, 1)]


@pytest.mark.parametrize("strict", ["no", 1, None, 0.0])
def test_strict_is_true_or_false(strict: Any) -> None:
    with pytest.raises(TypeError, match=r"^strict must be True or False, not "):
        zip(Input[int]("a"), Input[int]("b"), strict=strict)


def test_flows_with_a_common_ancestor_are_refused() -> None:
    x = Input[int]("x")
    with pytest.raises(GraphError, match=r"both grow from 'x' would deadlock.*use gather\(\)"):
        zip(x.map(str), x.map(int))


X = Input[int]("x")
BRANCHES: dict[str, Callable[[], tuple[Flow[Any, Any], ...]]] = {
    "map": lambda: (X, X.map(str)),
    "gather": lambda: (X.map(str), gather(X, X.map(str))),
    "route": lambda: tuple(X.route(lambda item: item % 2, [0, 1]).values()),
    "balance": lambda: X.balance(2),
    "batch": lambda: (X, X.batch(2)),
    "flat_map": lambda: (X, X.flat_map(range)),
    "failures": lambda: (X.map(str), X.map(str).failures()),
    "another": lambda: (X, X.map(str), source([1])),
}


@pytest.mark.parametrize("branches", BRANCHES.values(), ids=BRANCHES)
def test_the_join_that_is_advised_takes_the_flows(
    branches: Callable[[], tuple[Flow[Any, Any], ...]],
) -> None:
    flows = branches()
    with pytest.raises(GraphError, match="would deadlock") as caught:
        zip(*flows)
    _, _, advice = str(caught.value).partition("; use ")
    joins = [join for join in (gather, merge, zip_latest) if f"{join.__name__}()" in advice]
    assert joins in ([gather], [merge, zip_latest])
    for join in joins:
        join(*flows)


@pytest.mark.parametrize("first", [False, True])
async def test_strict_need_not_hear_from_everybody(first: bool) -> None:
    """One has ended and another one has an item: the lengths differ, whatever the third one does."""
    a, b, c = Input[int]("a"), Input[int]("b"), Input[int]("c")
    with soon(), pytest.raises(ValueError, match=r"ended first: 'a'\n"):
        async with zip(a, b, c, strict=True).open() as run:
            if first:
                await run.send(1, to=b)
            run.finish(to=a)
            if not first:
                await settle()
                await run.send(1, to=b)
            async for _ in run:
                raise AssertionError("a row")
