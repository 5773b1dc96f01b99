"""Each item to the branch that a function names."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from flowstage import Failure, Graph, Input, Sentinel, merge
from flowstage.operators import take

from .accounts import check_accounts, soon
from .harness import no_leaks


def digit(value: int) -> Any:
    return value % 3


async def later(value: int) -> Any:
    await anyio.lowlevel.checkpoint()
    return value % 3


@pytest.mark.parametrize("key", [digit, later])
async def test_by_key(key: Any) -> None:
    x = Input[int]("x")
    ways = x.route(key, [0, 1, 2])
    out = await Graph(a=ways[0], b=ways[1], c=ways[2]).collect(range(7))
    assert out == {"a": [0, 3, 6], "b": [1, 4], "c": [2, 5]}


async def test_default() -> None:
    ways = Input[int]("x").route(digit, [0, "rest"], default="rest")
    out = await Graph(a=ways[0], b=ways["rest"]).collect(range(5))
    assert out == {"a": [0, 3], "b": [1, 2, 4]}


async def test_a_branch_may_be_named_like_anything() -> None:
    """Names that flowstage uses inside are the user's all the same."""
    ways = Input[int]("x").route(lambda v: ["failures", "main"][v % 2], ["failures", "main"])
    out = await Graph(a=ways["failures"], b=ways["main"]).collect(range(4))
    assert out == {"a": [0, 2], "b": [1, 3]}


def unhashable(value: int) -> Any:
    return [] if value == 1 else 0


def failing(value: int) -> int:
    if value == 1:
        raise OSError(value)
    return 0


def unknown(value: int) -> int:
    return 9 if value == 1 else 0


WRONG = [(unhashable, TypeError), (failing, OSError), (unknown, LookupError)]


@pytest.mark.parametrize(("key", "error"), WRONG)
async def test_a_wrong_key_raises(key: Any, error: type[Exception]) -> None:
    ways = Input[int]("x").route(key, [0, 1])
    with no_leaks(), pytest.raises(error) as caught:
        await merge(ways[0], ways[1]).collect(range(3))
    assert "'route'" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(("key", "error"), WRONG)
async def test_a_wrong_key_is_skipped(key: Any, error: type[Exception]) -> None:
    ways = Input[int]("x").route(key, [0, 1], on_error="skip")
    graph = Graph(a=merge(ways[0], ways[1]), dead=ways[0].failures())
    with no_leaks(), soon():
        async with graph.open(range(3)) as run:
            assert [item async for item in run.output("a")] == [0, 2]
            (failure,) = [item async for item in run.output("dead")]
        assert (failure.item, type(failure.error)) == (1, error)
        (stage,) = (stage for stage in run.report().stages if stage.name == "route")
        assert (stage.taken, stage.done, stage.skipped) == (3, 2, 1)
        check_accounts(run.report(), over=True)


@pytest.mark.parametrize(("key", "error"), WRONG)
async def test_a_wrong_key_is_emitted_on_the_first_open_branch(
    key: Any, error: type[Exception]
) -> None:
    ways = Input[int]("x").route(key, [0, 1], on_error="emit")
    out = await Graph(a=ways[0], b=ways[1]).collect(range(3))
    assert [type(item) for item in out["a"]] == [int, Failure, int]
    assert out["b"] == []


async def test_an_item_for_a_branch_that_has_ended_is_discarded_and_counted() -> None:
    ways = Input[int]("x").route(digit, [0, 1], default=0)
    graph = Graph(a=ways[0].pipe(take, 1), b=ways[1])
    with no_leaks(), soon():
        async with graph.open(range(10), buffer=1) as run:
            assert [item async for item in run.output("b")] == [1, 4, 7]
            assert [item async for item in run.output("a")] == [0]
        report = run.report()
        check_accounts(report, over=True)
        (stage,) = (stage for stage in report.stages if stage.name == "route")
        gone = sum(edge.discarded for edge in report.edges)
        assert stage.discarded + gone == 6


async def test_sentinels_go_to_branches_that_never_had_an_item() -> None:
    ways = Input[Any]("x").route(lambda _: 0, [0, 1])
    async with Graph(a=ways[0], b=ways[1]).open([1, Sentinel("s"), 2]) as run:
        assert [e async for e in run.output("a").events()] == [1, Sentinel("s"), 2]
        assert [e async for e in run.output("b").events()] == [Sentinel("s")]


@pytest.mark.parametrize(
    ("branches", "default", "error", "message"),
    [
        ([], None, ValueError, "at least one branch"),
        ("ab", None, TypeError, "several names"),
        ([1, 1], None, ValueError, "twice"),
        ([1], 2, ValueError, "none of the branches"),
        ([[]], None, TypeError, "unhashable"),
    ],
)
def test_refused(branches: Any, default: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Input[int]("x").route(digit, branches, default=default)
