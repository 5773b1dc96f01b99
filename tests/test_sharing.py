"""One flow used by several: computed once, given to all, at the pace of the slowest."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from flowstage import Graph, Input, merge
from flowstage.operators import take

from .accounts import check_accounts, settle, soon
from .harness import no_leaks


def same(value: Any) -> Any:
    return value


async def test_a_shared_stage_runs_once_an_item() -> None:
    calls: list[int] = []

    def count(value: int) -> int:
        calls.append(value)
        return value

    x = Input[int]("x")
    shared = x.map(count)
    graph = Graph(a=shared.map(same), b=shared.filter(lambda v: v % 2), c=shared)
    out = await graph.collect(range(6))
    assert out == {"a": [*range(6)], "b": [1, 3, 5], "c": [*range(6)]}
    assert calls == [*range(6)]


async def test_each_branch_has_an_envelope_of_its_own() -> None:
    """What one branch makes of an item is not seen by the others."""
    x = Input[int]("x")
    out = await Graph(a=x.map(lambda v: v + 1), b=x.map(lambda v: -v), c=x).collect(range(4))
    assert out == {"a": [1, 2, 3, 4], "b": [0, -1, -2, -3], "c": [0, 1, 2, 3]}


async def test_the_slowest_branch_sets_the_pace() -> None:
    pulled = [0]

    def numbers() -> Any:
        while True:
            pulled[0] += 1
            yield pulled[0]

    x = Input[int]("x")
    graph = Graph(quick=x.map(same), slow=x.map(same))
    with no_leaks(), soon():
        async with graph.open(numbers, buffer=2) as run:
            seen: list[int] = []

            async def read() -> None:
                async for item in run.output("quick"):
                    seen.append(item)

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await settle(200)
                assert len(seen) < 10
                assert pulled[0] < 20
                group.cancel_scope.cancel()


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_a_lossy_buffer_does_not_hold_up_the_others(overflow: Any) -> None:
    x = Input[int]("x")
    graph = Graph(quick=x.map(same), slow=x.buffer(2, overflow=overflow))
    with no_leaks(), soon():
        async with graph.open(range(50), buffer=2) as run:
            assert [item async for item in run.output("quick")] == [*range(50)]
            kept = [item async for item in run.output("slow")]
            assert kept == ([48, 49] if overflow == "drop_oldest" else [0, 1])
        check_accounts(run.report(), over=True)
        edge = next(edge for edge in run.report().edges if edge.target == "slow")
        assert edge.dropped == 48


async def test_a_branch_that_had_enough_leaves() -> None:
    """By an early end or by `close()`: the rest go on."""
    x = Input[int]("x")
    graph = Graph(two=x.pipe(take, 2), closed=x.map(same), all=x.map(same))
    with no_leaks(), soon():
        async with graph.open(range(50), buffer=2) as run:
            run.output("closed").close()
            assert [item async for item in run.output("all")] == [*range(50)]
            assert [item async for item in run.output("two")] == [0, 1]
        check_accounts(run.report(), over=True)


async def test_when_all_have_left_the_producer_stops() -> None:
    closed: list[bool] = []

    async def endless() -> Any:
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            closed.append(True)

    x = Input[int]("x")
    graph = Graph(a=x.map(same), b=x.pipe(take, 3))
    with no_leaks(), soon():
        async with graph.open(endless, buffer=1) as run:
            run.output("a").close()
            assert [item async for item in run.output("b")] == [0, 1, 2]
            while run._live.tasks:
                await settle(1)
            assert closed == [True]


@pytest.mark.parametrize("size", [0, 1, 3])
async def test_a_buffer_shared_by_two_consumers(size: int) -> None:
    """It is a stage of its own then: both get everything."""
    x = Input[int]("x")
    buffered = x.map(same).buffer(size)
    graph = Graph(a=buffered.map(same), b=buffered)
    with no_leaks(), soon():
        out = await graph.collect(range(20), buffer=1)
    assert out == {"a": [*range(20)], "b": [*range(20)]}


async def test_contexts_of_branches_are_copies() -> None:
    def mark(value: int, context: Any) -> int:
        context["seen"] = [*context.get("seen", ()), value]
        return len(context["seen"])

    x = Input[int]("x")
    first = x.map(mark, pass_context=True, name="first")
    graph = Graph(
        a=first.map(mark, pass_context=True, name="a"),
        b=first.map(mark, pass_context=True, name="b"),
    )
    assert await graph.collect([5]) == {"a": [2], "b": [2]}


async def test_a_reader_that_waits_hears_that_its_end_was_closed() -> None:
    """Another task closes it: the reader gets an error, not an eternity."""
    x = Input[int]("x")
    with no_leaks(), soon():
        async with Graph(a=x, b=x.map(same)).open() as run:
            output = run.output("a")

            async def read() -> None:
                with pytest.raises(anyio.ClosedResourceError, match="'a' was closed"):
                    async for _ in output:
                        pass

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await settle()
                output.close()
            await run.send(1)
            run.finish()
            assert [item async for item in run.output("b")] == [1]


@pytest.mark.parametrize("buffer", [0, 1, 100])
async def test_a_deep_diamond(buffer: int) -> None:
    """Ten levels of parting and meeting make 1024 copies of an item, and no deadlock."""
    flow: Any = Input[int]("x")
    for _ in range(10):
        flow = merge(flow.map(same), flow.map(same))
    out = await flow.collect(range(2), buffer=buffer)
    assert sorted(out) == [0] * 1024 + [1] * 1024
