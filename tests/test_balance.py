"""Each item to whichever branch is free first."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

from flowstage import Failure, Graph, Input, Sentinel, concat, merge
from flowstage.operators import take

from .accounts import check_accounts, settle, soon
from .conftest import virtual_time
from .harness import no_leaks


async def test_ties_in_turn() -> None:
    a, b, c = Input[int]("x").balance(3)
    async with Graph(a=a, b=b, c=c).open() as run:
        for number in range(3):
            await run.send(number)
            await settle()
        run.finish()
        for number, name in enumerate("abc"):
            assert [item async for item in run.output(name)] == [number]


@virtual_time
async def test_the_free_branch_has_the_next_item() -> None:
    async def slow(value: int) -> tuple[str, int]:
        await anyio.sleep(10)
        return "slow", value

    async def quick(value: int) -> tuple[str, int]:
        await anyio.sleep(0.1)
        return "quick", value

    a, b = Input[int]("x").balance(2)
    out = await merge(a.map(slow), b.map(quick)).collect(range(20), buffer=1)
    assert sorted(value for _, value in out) == [*range(20)]
    assert sum(who == "slow" for who, _ in out) <= 3


@pytest.mark.parametrize("buffer", [0, 1, 5])
@pytest.mark.parametrize("leaver", [0, 1])
async def test_nothing_is_lost_when_a_branch_goes_away(buffer: int, leaver: int) -> None:
    """What stood before it goes to the others."""
    branches = Input[int]("x").balance(2)
    stays = branches[1 - leaver].map(lambda v: v)
    graph = Graph(stays=stays, leaves=branches[leaver])
    with no_leaks(), soon():
        async with graph.open(range(30), buffer=buffer) as run:
            got: list[int] = []

            async def read() -> None:
                async for item in run.output("stays"):
                    got.append(item)
                    await settle(2)

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                taken: list[int] = []
                async for item in run.output("leaves"):
                    taken.append(item)
                    if len(taken) == 3:
                        break
                await settle()
                run.output("leaves").close()
        assert sorted(got + taken) == [*range(30)]
        check_accounts(run.report(), over=True)


@pytest.mark.parametrize("leaver", [0, 1, 2])
async def test_what_comes_back_keeps_its_side_of_a_sentinel(leaver: int) -> None:
    """An item that stood before a branch that leaves is given to others before the sentinel."""
    branches = Input[Any]("x").balance(3)
    graph = Graph(*branches)
    names = list(graph.open()._topology.ends)
    with no_leaks(), soon():
        async with graph.open(buffer=1) as run:
            for number in range(3):  # one before each branch
                await run.send(number)
            await settle()

            async def mark() -> None:
                await run.send_sentinel("s")
                await run.send(99)
                run.finish()

            async with anyio.create_task_group() as group:
                group.start_soon(mark)
                await settle()
                run.output(names[leaver]).close()
                await settle()
                before: list[int] = []
                for name in names[:leaver] + names[leaver + 1 :]:
                    group.start_soon(read_till, run.output(name), before)
        assert sorted(before) == [0, 1, 2]
        check_accounts(run.report(), over=True)


async def read_till(output: Any, before: list[int]) -> None:
    """Read to the end; note what came before the sentinel."""
    marked = False
    async for event in output.events():
        if isinstance(event, Sentinel):
            assert not marked
            marked = True
        elif marked:
            assert event == 99
        else:
            before.append(event)
    assert marked


async def test_a_branch_that_ends_early_leaves_the_rest_to_the_others() -> None:
    a, b = Input[int]("x").balance(2)
    with no_leaks(), soon():
        out = await merge(a.pipe(take, 1), b).collect(range(40), buffer=1)
    assert len(out) >= 39  # what a task already had in hand goes with it
    assert len(set(out)) == len(out)


@pytest.mark.parametrize("size", [0, 3])
async def test_a_buffer_on_a_branch(size: int) -> None:
    """It is a buffer beside balance's own edge of one."""
    a, b = Input[int]("x").balance(2)
    graph = merge(a.buffer(size), b.buffer(size)).graph
    capacities = {(edge.source, edge.target): edge.capacity for edge in graph.edges}
    assert capacities["balance", "buffer"] == 1
    assert capacities["buffer", "merge"] == size
    out = await graph.collect(range(20))
    assert sorted(next(iter(out.values()))) == [*range(20)]


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_refused(n: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Input[int]("x").balance(n)


@pytest.mark.parametrize("finished", [False, True])
async def test_nothing_is_lost_when_a_branch_goes_away_after_the_end(finished: bool) -> None:
    """That the input has ended makes no difference to what stands before a branch."""
    a, b = Input[int]("x").balance(2)
    with no_leaks(), soon():
        async with Graph(a=a, b=b).open() as run:
            await run.feed([1, 2])
            if finished:
                run.finish()
            await settle()
            run.output("a").close()
            run.finish()
            assert sorted([item async for item in run.output("b")]) == [1, 2]
        check_accounts(run.report(), over=True)


async def test_branches_may_be_read_one_after_the_other() -> None:
    """A branch that asks for more when the input has ended ends, whatever stands before others."""
    a, b = Input[int]("x").balance(2)
    with no_leaks(), soon():
        async with Graph(a=a, b=b).open(range(10)) as run:
            await settle()
            first = [item async for item in run.output("a")]
            rest = [item async for item in run.output("b")]
        assert sorted(first + rest) == [*range(10)]
        check_accounts(run.report(), over=True)


@pytest.mark.parametrize("read", [False, True])
async def test_a_branch_that_is_used_twice_gives_back_too(read: bool) -> None:
    """What neither use of it has read; what one of them has had is nobody else's."""
    start, other = Input[int]("x"), Input[int]("other")
    a, b = start.balance(2)
    graph = Graph(one=a, two=a.map(abs) if read else concat(other, a), b=merge(b, other))
    with no_leaks(), soon():
        async with graph.open() as run, anyio.create_task_group() as group:
            for item in (1, 2, 3):
                group.start_soon(partial(run.send, item, to=start))
                await settle()
            run.output("one").close()
            run.output("two").close()
            await settle()
            run.finish()
            rest = sorted([item async for item in run.output("b")])
        assert rest == ([2, 3] if read else [1, 2, 3])
        check_accounts(run.report(), over=True)


@pytest.mark.parametrize("verb", ["route", "balance"])
async def test_a_failure_goes_to_the_next_branch_when_the_first_goes_away(verb: str) -> None:
    """While it waits for room there; it must not vanish."""

    def refuse(item: int) -> int:
        if item < 0:
            raise OSError(item)
        return item

    start = Input[int]("x").map(refuse, on_error="emit")
    branches = start.balance(2) if verb == "balance" else start.route(int, [0, 1]).values()
    a, b = branches
    with no_leaks(), soon():
        async with Graph(a=a, b=b).open(buffer=1) as run:
            await run.feed([0])
            await settle()
            await run.send(-5)
            await settle()
            run.output("a").close()
            run.finish()
            failures = [e async for e in run.output("b").events() if isinstance(e, Failure)]
            assert [failure.item for failure in failures] == [-5]
        check_accounts(run.report(), over=True)
