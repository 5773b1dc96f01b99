"""Buffers: how many items wait, and what happens when it is full."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import BufferOverflow, Failure, Input, Sentinel, source

from .accounts import check_accounts, settle, soon


async def same(item: Any) -> Any:
    await checkpoint()
    return item


async def test_block_makes_the_stage_above_wait() -> None:
    """It holds so many, and the stage above one in hand."""
    seen: list[int] = []
    for size in (1, 3, 10):
        seen.clear()
        with soon():
            async with source(range(50)).tap(seen.append).buffer(size).open() as run:
                await settle()
                assert len(seen) <= size + 1
                assert [item async for item in run] == list(range(50))
        check_accounts(run.report(), over=True)


async def test_it_replaces_the_edge_and_parts_tasks() -> None:
    """Between two async stages: its size is the edge's."""
    flow = Input[int]().map(same).buffer(7).map(same)
    assert [edge.capacity for edge in flow.graph.edges if edge.capacity == 7]
    with soon():
        assert await flow.collect(range(50)) == list(range(50))


async def test_a_rendezvous_holds_nothing() -> None:
    """An item passes when the next stage asks for it."""
    seen: list[int] = []
    with soon():
        async with Input[int]().tap(seen.append).buffer(0).open(buffer=0) as run:
            for number in range(2):
                async with anyio.create_task_group() as group:
                    group.start_soon(run.send, number)
                    async for item in run:
                        assert item == number
                        break
                assert seen == list(range(number + 1))
            with pytest.raises(anyio.WouldBlock):
                for number in (2, 3):
                    run.send_nowait(number)
                    await settle()
        check_accounts(run.report(), over=True)
    for line in (
        source(range(30)).buffer(0),
        source(range(30)).buffer(0).map(same, concurrency=3).buffer(0).batch(1).flat_map(iter),
        source(range(30)).map(same).buffer(0).buffer(0).map(same),
    ):
        with soon():
            assert await line.collect(buffer=0) == list(range(30))


@pytest.mark.parametrize("size", [1, 3])
async def test_drop_oldest_and_newest(size: int) -> None:
    """Unread, the last or the first so many are left; the others are counted."""
    for overflow in ("drop_oldest", "drop_newest"):
        for start in (Input[int](), Input[int]().map(abs), Input[int]().map(same, concurrency=2)):
            with soon():
                flow = start.buffer(size, overflow=overflow)
                async with flow.open(range(10)) as run:
                    await settle(80)
                    got = [item async for item in run]
                check_accounts(run.report(), over=True)
            whole = list(range(10))
            assert got == (whole[-size:] if overflow == "drop_oldest" else whole[:size])
            assert sum(edge.dropped for edge in run.report().edges) == 10 - size


async def test_send_never_waits_at_a_lossy_buffer() -> None:
    """Directly behind the input it is the input's edge."""
    with soon():
        async with Input[int]().buffer(2, overflow="drop_oldest").open() as run:
            for number in range(10):
                run.send_nowait(number)
            run.finish()
            assert [item async for item in run] == [8, 9]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_sentinels_are_never_dropped(overflow: Any) -> None:
    """They take a place; when only such are left, what comes waits or is dropped, and order holds."""
    sent = [1, Sentinel("a"), 2, 3, Sentinel("b"), 4, Sentinel("c"), 5]
    for size in (1, 2, 3, 4):
        with soon():
            async with (
                Input[Any]().buffer(size, overflow=overflow).open() as run,
                anyio.create_task_group() as group,
            ):

                async def feed(run: Any = run) -> None:
                    await run.feed(sent)
                    run.finish()

                group.start_soon(feed)
                await settle()
                events = [event async for event in run.events()]
            check_accounts(run.report(), over=True)
        assert [e for e in events if isinstance(e, Sentinel)] == [
            Sentinel("a"),
            Sentinel("b"),
            Sentinel("c"),
        ]
        positions = [sent.index(event) for event in events]
        assert positions == sorted(positions)


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_failures_are_never_dropped(overflow: Any) -> None:
    """They count as items, and keep their place."""

    def refuse(item: int) -> int:
        if item % 3 == 0:
            raise ValueError(item)
        return item

    with soon():
        flow = Input[int]().map(refuse).buffer(2, overflow=overflow)
        async with flow.open(range(9), on_error="emit") as run:
            await settle()
            events = [event async for event in run.events()]
        check_accounts(run.report(), over=True)
    assert [e.item for e in events if isinstance(e, Failure)] == [0, 3, 6]


async def test_a_reader_that_keeps_up_loses_nothing() -> None:
    """Lossy is for when it is full."""
    for overflow in ("drop_oldest", "drop_newest", "error"):
        with soon():
            async with Input[int]().map(same).buffer(2, overflow=overflow).open() as run:
                for number in range(20):
                    await run.send(number)
                    async for item in run:
                        assert item == number
                        break


async def test_error() -> None:
    """The item that finds it full ends the run; sentinels wait instead."""
    with soon(), pytest.raises(BufferOverflow, match=r"buffer \'b\' is full \(1 items\)") as caught:
        async with Input[int]().buffer(1, overflow="error", name="b").open() as run:
            await run.send(1)
            await run.send(2)
            await anyio.sleep_forever()
    assert "in stage 'b' on item 2" in caught.value.__notes__[0]
    with soon():
        async with (
            Input[int]().buffer(1, overflow="error").open() as run,
            anyio.create_task_group() as group,
        ):
            await run.send(1)
            group.start_soon(run.send_sentinel, "s")
            await settle()
            run.finish()
            assert [event async for event in run.events()] == [1, Sentinel("s")]


async def test_a_buffer_used_twice_is_a_stage_of_its_own() -> None:
    """A chain that begins with a buffer, and a buffer behind a buffer."""
    with soon():
        flow = Input[int]().buffer(2).buffer(3).map(abs).buffer(1)
        async with flow.open(range(20)) as run:
            assert [item async for item in run] == list(range(20))
        check_accounts(run.report(), over=True)
        assert all(stage.taken == 20 for stage in run.report().stages)


async def test_an_overflow_of_what_stood_in_line() -> None:
    """Behind a sentinel that waited for room: it ends the run as any other does."""
    with soon(), pytest.raises(BufferOverflow, match="buffer 'narrow' is full"):
        async with (
            Input[int]().buffer(1, overflow="error", name="narrow").open() as run,
            anyio.create_task_group() as group,
        ):
            await run.send(0)
            group.start_soon(run.send_sentinel, "S")
            await settle()
            group.start_soon(run.send, 1)
            await settle()
            assert await anext(run.events()) == 0
            await anyio.sleep_forever()
