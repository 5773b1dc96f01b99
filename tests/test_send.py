"""Sending: waiting, not waiting, feeding, finishing, and what a send that is cancelled leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import ClosedError, Input, Sentinel, Threads

from .accounts import check_accounts, settle, soon


async def first(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield item
        return


async def test_send_nowait_would_block_when_full() -> None:
    """Nothing is lost, and there is room again when something is read."""
    with soon():
        async with Input[int]().open(buffer=2) as run:
            run.send_nowait(1)
            run.send_nowait(2)
            with pytest.raises(anyio.WouldBlock, match=r"input '.*' has no room"):
                run.send_nowait(3)
            async for item in run:
                assert item == 1
                break
            run.send_nowait(3)
            run.finish()
            assert [item async for item in run] == [2, 3]
        check_accounts(run.report(), over=True)


async def test_send_nowait_never_overtakes_who_waits() -> None:
    """While others wait to send, it would block, even if there is room."""
    with soon():
        async with Input[int]().open(buffer=1) as run, anyio.create_task_group() as group:
            run.send_nowait(1)
            group.start_soon(run.send, 2)
            await settle()
            run._live.ends[0].take()  # room, and nobody has had a turn yet
            with pytest.raises(anyio.WouldBlock):
                run.send_nowait(3)
            await settle()
            run.finish()
            assert [item async for item in run] == [2]


async def test_many_senders_are_served_in_turn() -> None:
    """First come, first served, with sentinels among them."""
    with soon():
        async with Input[Any]().open(buffer=1) as run, anyio.create_task_group() as group:
            for number in range(6):
                send = run.send_sentinel if number % 3 == 2 else run.send
                group.start_soon(send, number)
                await settle(8)
            got = []
            async for event in run.events():
                got.append(event)
                if len(got) == 6:
                    break
            assert got == [0, 1, Sentinel(2), 3, 4, Sentinel(5)]


async def test_a_cancelled_send_has_not_sent() -> None:
    """An item that still waits is withdrawn; the others move up."""
    with soon():
        async with Input[int]().open(buffer=1) as run, anyio.create_task_group() as group:
            run.send_nowait(0)
            scopes = []
            for number in (1, 2, 3):
                scope = anyio.CancelScope()
                scopes.append(scope)

                async def send(number: int = number, scope: Any = scope) -> None:
                    with scope:
                        await run.send(number)

                group.start_soon(send)
                await settle(8)
            scopes[1].cancel()
            await settle()
            run.finish()
            assert [item async for item in run] == [0, 1, 3]
        check_accounts(run.report(), over=True)


async def test_a_cancelled_sentinel_is_withdrawn() -> None:
    """One that has no place yet does not come."""
    with soon():
        async with Input[int]().open(buffer=1) as run:
            run.send_nowait(0)
            with anyio.move_on_after(0.005):
                await run.send_sentinel("no")
            run.finish()
            assert [event async for event in run.events()] == [0]


async def test_send_notices_a_cancellation_even_with_room() -> None:
    """A loop of sends is no hole in a timeout."""
    async with Input[int]().open() as run:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await run.send(1)
        assert scope.cancelled_caught
        assert run.report().stage("input").taken == 0


async def test_a_cancelled_stop_keeps_what_was_accepted() -> None:
    """Finishing with senders in line: all of them are served."""
    with soon():
        async with Input[int]().open(buffer=1) as run, anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(run.send, number)
                await settle(8)
            run.finish()
            run.finish()
            assert [item async for item in run] == [0, 1, 2, 3]


async def test_after_finish() -> None:
    """Every way of sending says that the input takes no more."""
    with soon():
        async with Input[int]("numbers").open() as run:
            run.finish()
            for use in (lambda: run.send(1), lambda: run.feed([1])):
                with pytest.raises(
                    ClosedError, match=r"takes no more items: finish\(\) was called"
                ):
                    await use()
            with pytest.raises(ClosedError, match="input 'numbers' takes no more items"):
                run.send_nowait(1)
            assert [item async for item in run] == []
            with pytest.raises(ClosedError, match="no input is open any more"):
                await run.send_sentinel(1)


async def test_after_stop() -> None:
    """The message names what was called first."""
    with soon():
        async with Input[int]("numbers").open() as run:
            await run.stop()
            run.finish()
            with pytest.raises(ClosedError, match=r"takes no more items: stop\(\) was called"):
                await run.send(1)


async def test_when_nobody_wants_more() -> None:
    """A stage that has had enough closes the input, also for who waits."""
    with soon():
        async with Input[int]().transform(first).open(buffer=1) as run:
            async with anyio.create_task_group() as group:
                ends: list[int] = []

                async def send(number: int) -> None:
                    try:
                        while True:
                            await run.send(number)
                    except ClosedError:
                        ends.append(number)

                group.start_soon(send, 1)
                group.start_soon(send, 2)
                assert len([item async for item in run]) == 1
            assert sorted(ends) == [1, 2]
            with pytest.raises(ClosedError, match="takes no more items: nobody downstream wants"):
                run.send_nowait(1)
            with pytest.raises(ClosedError):
                await run.send_sentinel(1)
        check_accounts(run.report(), over=True)


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("way", ["end", "closed", "cancelled", "wrong"])
async def test_feed_closes_a_generator(way: str, kind: str) -> None:
    """Exactly once, in the task that iterates it, before `feed` is over; its cleanup may await."""
    closed: list[int] = []

    def values() -> Iterator[Any]:
        try:
            yield from range(3)
            if way == "wrong":
                raise OSError("of the generator")
            if way != "end":
                yield from range(100)
        finally:
            closed.append(anyio.get_current_task().id)

    async def later() -> AsyncIterator[Any]:
        try:
            for value in values():
                yield value
        finally:
            await checkpoint()
            closed.append(anyio.get_current_task().id)

    flow = Input[int]().transform(first) if way == "closed" else Input[int]()
    with soon():
        async with flow.open(buffer=50) as run:
            source: Any = values() if kind == "plain" else later()
            if way == "closed":
                with pytest.raises(ClosedError):
                    await run.feed(source)
            elif way == "cancelled":
                with anyio.move_on_after(0.05) as scope:
                    await run.feed(source)
                assert scope.cancelled_caught
            elif way == "wrong":
                with pytest.raises(OSError, match="of the generator"):
                    await run.feed(source)
            else:
                await run.feed(source)
            assert {*closed} == {anyio.get_current_task().id}
            assert len(closed) == (1 if kind == "plain" else 2)
            run.interrupt()


async def test_feed_says_how_to_feed_what_gives_no_items() -> None:
    """A function is to be called, a context manager to be entered."""
    async with Input[int]().open() as run:
        with pytest.raises(TypeError, match=r"not <function .*; call it, and feed what it gives"):
            await run.feed(lambda: [1])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="enter it with 'async with'"):
            await run.feed(anyio.create_task_group())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"not 5$"):
            await run.feed(5)  # type: ignore[arg-type]


async def test_senders_are_told_that_the_run_has_failed() -> None:
    """As readers are: with what it has failed with as the cause."""
    errors: dict[str, ClosedError] = {}

    async def fail(item: int) -> int:
        await anyio.sleep(0.02)
        raise ValueError("disk full")

    async def told(name: str, use: Any) -> None:
        try:
            while True:
                await use()
                await checkpoint()
        except ClosedError as error:
            errors[name] = error

    with soon():
        async with anyio.create_task_group() as group:
            with pytest.raises(ValueError, match="disk full") as caught:
                async with Input[int]().map(fail).open(buffer=1) as run:
                    group.start_soon(told, "send", lambda: run.send(1))
                    group.start_soon(told, "sentinel", run.send_sentinel)
                    group.start_soon(told, "read", aiter(run).__anext__)
                    await anyio.sleep_forever()
            await told("late send", lambda: run.send(1))
            await told("late read", aiter(run).__anext__)
    assert errors.keys() == {"send", "sentinel", "read", "late send", "late read"}
    for name, error in errors.items():
        assert error.__cause__ is caught.value
        assert "the run has failed" in str(error) or name.startswith("late")


async def test_feed() -> None:
    """Iterables, async iterables, sentinels in them; the input stays open."""

    async def items() -> AsyncIterator[Any]:
        for item in (3, Sentinel("b"), 4):
            await checkpoint()
            yield item

    with soon():
        async with Input[Any]().open() as run:
            await run.feed([1, Sentinel("a"), 2])
            await run.feed(items())
            await run.send(5)
            run.finish()
            got = [event async for event in run.events()]
    assert got == [1, Sentinel("a"), 2, 3, Sentinel("b"), 4, 5]


async def test_what_a_fed_source_raises_is_the_callers() -> None:
    """The run goes on."""

    def items() -> Iterator[int]:
        yield 1
        raise ValueError("mine")

    with soon():
        async with Input[int]().open() as run:
            with pytest.raises(ValueError, match="mine"):
                await run.feed(items())
            await run.send(2)
            run.finish()
            assert [item async for item in run] == [1, 2]
    assert run.failed == 0


async def test_context() -> None:
    """That very mapping for `send` and `call`, a copy of `open(context=)` otherwise."""
    seen: list[Any] = []

    def look(item: int, context: Any) -> int:
        seen.append(context)
        context["n"] = item
        return item

    flow = Input[int]().map(look, pass_context=True).map(lambda item: item)
    mine, default = {"who": "me"}, {"who": "all"}
    with soon():
        async with flow.open(context=default) as run:
            await run.send(1, context=mine)
            await run.send(2)
            run.send_nowait(3, context=mine)
            run.finish()
            assert [item async for item in run] == [1, 2, 3]
        assert await flow.call(4, context=mine) == 4
        assert await flow.collect([5], context=default) == [5]
    assert seen[0] is mine
    assert seen[1] == {"who": "all", "n": 2}
    assert seen[2] is mine
    assert seen[3] is mine
    assert seen[4] == {"who": "all", "n": 5}
    assert default == {"who": "all"}


async def test_without_waiting_others_have_their_turn() -> None:
    """A sender with endless room does not starve the readers: the buffer ends it."""
    with soon():
        async with Input[int]().map(abs).open(buffer=3) as run, anyio.create_task_group() as group:

            async def send() -> None:
                for number in range(500):
                    await run.send(number)
                run.finish()

            group.start_soon(send)
            assert [item async for item in run] == list(range(500))


async def test_a_thread_that_waits_to_send_does_not_hold_up_the_end() -> None:
    """The block waits for the thread, so the thread must not wait for the block: it is refused."""
    token = anyio.lowlevel.current_token()
    box: list[Any] = []
    ended: list[BaseException] = []

    def sends_in(item: int) -> int:
        try:
            while True:
                anyio.from_thread.run(box[0].send, item, token=token)
        except BaseException as error:
            ended.append(error)
            raise

    with soon():
        async with Input[int]().map(sends_in, on=Threads(1)).open(buffer=1) as run:
            box.append(run)
            await run.send(0)
            while len(run.explain().split("1 sender waits")) < 2:
                await anyio.sleep(0.001)
    (error,) = ended
    assert isinstance(error, (ClosedError, anyio.get_cancelled_exc_class()))


async def test_in_a_run_that_fails_a_waiting_send_is_cancelled() -> None:
    """In the body the run's own cancellation is what happens; the root cause is what is raised."""

    async def fail(item: int) -> int:
        await settle()
        raise LookupError(item)

    with soon(), pytest.raises(LookupError):
        async with Input[int]().map(fail).open(buffer=1) as run, anyio.create_task_group() as group:

            async def wait_to_send() -> None:
                await run.send(0)
                await run.send(1)
                await run.send(2)
                with pytest.raises(anyio.get_cancelled_exc_class()):
                    await run.send(3)
                raise ValueError("on the way out")

            group.start_soon(wait_to_send)
            group.start_soon(anyio.sleep_forever)


@pytest.mark.parametrize("name", ["interrupt", "finish", "send_nowait", "close"])
async def test_calls_from_another_thread_are_refused_before_anything_happens(name: str) -> None:
    """They would half happen: what they wake has to be woken in the event loop's thread."""
    with soon():
        async with Input[int]().map(str).open(buffer=5) as run:
            await run.send(1)
            await settle()
            calls = {
                "interrupt": run.interrupt,
                "finish": run.finish,
                "send_nowait": lambda: run.send_nowait(2),
                "close": run.output("str").close,
            }
            with pytest.raises(RuntimeError, match=r"from_thread\.run_sync"):
                await anyio.to_thread.run_sync(calls[name])
            await anyio.to_thread.run_sync(anyio.from_thread.run_sync, lambda: run.send_nowait(3))
            run.finish()
            assert [item async for item in run] == ["1", "3"]
