"""Sources: every kind there is, opened when all is ready, closed exactly once, wherever they run."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import ClosedError, Flow, Graph, Input, Sentinel, Threads, merge, source
from flowstage.operators import take

from .accounts import check_accounts, settle, soon
from .harness import no_leaks

LIST = [1, 2, 3]


class Iterable:
    def __iter__(self) -> Iterator[int]:
        return iter(LIST)


class OldSequence:
    def __getitem__(self, index: int) -> int:
        return LIST[index]


class AsyncIterable:
    def __aiter__(self) -> AsyncIterator[int]:
        return numbers()


async def numbers() -> AsyncIterator[int]:
    for number in LIST:
        await checkpoint()
        yield number


async def a_list() -> list[int]:
    await checkpoint()
    return LIST


def generator() -> Iterator[int]:
    yield from LIST


@asynccontextmanager
async def manager() -> AsyncIterator[Any]:
    yield numbers()


@asynccontextmanager
async def plain_manager() -> AsyncIterator[Any]:
    yield LIST


KINDS: dict[str, Any] = {
    "list": lambda: LIST,
    "tuple": lambda: tuple(LIST),
    "dict": lambda: dict.fromkeys(LIST),
    "range": lambda: range(1, 4),
    "iterator": lambda: iter(LIST),
    "iterable": lambda: Iterable(),
    "old sequence": lambda: OldSequence(),
    "generator": lambda: generator(),
    "generator function": lambda: generator,
    "function of a list": lambda: lambda: LIST,
    "async function of a list": lambda: a_list,
    "async generator": lambda: numbers(),
    "async generator function": lambda: numbers,
    "async iterable": lambda: AsyncIterable(),
    "manager": lambda: manager(),
    "manager function": lambda: manager,
    "manager of a list": lambda: plain_manager(),
}
BLOCKING = (
    "list",
    "iterator",
    "iterable",
    "old sequence",
    "generator",
    "generator function",
    "function of a list",
)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind(kind: str) -> None:
    """As `open(source)`, as `source(...)`, fused, in a place; functions are called for each run."""
    make = KINDS[kind]
    with soon():
        assert await Input[int]().collect(make()) == LIST
        assert await source(make()).collect() == LIST
        assert await source(make()).map(abs).filter(lambda item: item != 2).collect() == [1, 3]
        if kind in BLOCKING:
            assert await source(make(), on=Threads(1)).collect() == LIST
            assert await source(make(), on=Threads(1)).map(abs).collect(buffer=0) == LIST
        if kind not in ("iterator", "generator", "async generator", "manager", "manager of a list"):
            flow = source(make())
            assert await flow.collect() == await flow.collect() == LIST


async def test_anyio_streams() -> None:
    """A memory object stream is a source like any other."""
    send, receive = anyio.create_memory_object_stream[int](3)
    with send, receive, soon():
        for number in LIST:
            send.send_nowait(number)
        send.close()
        assert await Input[int]().collect(receive) == LIST


async def test_nothing_is_opened_before_all_is_ready() -> None:
    """And not before the block is entered."""
    calls: list[int] = []

    def items() -> list[int]:
        calls.append(1)
        return LIST

    flow = source(items).map(abs, on=Threads(1))
    opening = flow.open()
    assert calls == []
    async with opening as run:
        assert [item async for item in run] == LIST
    assert calls == [1]


async def test_a_file_made_for_the_run_is_closed(tmp_path: Any) -> None:
    """Read to the end or not, in a place or not; one that was handed over is left alone."""
    path = tmp_path / "lines"
    path.write_text("1\n2\n3\n" * 1000)
    for on in (None, Threads(1)):
        files: list[Any] = []

        def open_it(files: Any = files) -> Any:
            files.append(path.open())
            return files[-1]

        with soon():
            assert len(await source(open_it, on=on).collect()) == 3000
            async with source(open_it, on=on).open(buffer=2) as run:
                async for _ in run:
                    break
        assert [file.closed for file in files] == [True, True]
    mine = io.StringIO("1\n2\n3\n")
    assert len(await source(mine).collect()) == 3
    assert not mine.closed


class Counting:
    """An iterator that counts how often it is closed, and where."""

    def __init__(self) -> None:
        self.closed: list[int] = []
        self.number = 0

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> int:
        self.number += 1
        if self.number > 50:
            raise StopIteration
        return self.number

    def close(self) -> None:
        self.closed.append(threading.get_ident())


async def test_closed_exactly_once_at_every_end() -> None:
    """At the end, early, after a failure, at `stop`; in the thread place if it has one."""

    def fail(item: int) -> int:
        raise ValueError

    for on in (None, Threads(1)):
        for way in ("end", "early", "failure", "stop", "interrupt"):
            made: list[Counting] = []

            def items(made: Any = made) -> Counting:
                made.append(Counting())
                return made[-1]

            flow = source(items, on=on).map(fail if way == "failure" else abs)
            with soon():
                try:
                    async with flow.open(buffer=2) as run:
                        if way == "stop":
                            await settle(5)
                            await run.stop()
                        if way == "interrupt":
                            run.interrupt()
                        async for _ in run:
                            if way == "early":
                                break
                except ValueError:
                    assert way == "failure"
            assert len(made) <= 1
            for counting in made:
                assert len(counting.closed) == 1, (on, way)
                assert (counting.closed[0] == threading.get_ident()) == (on is None)


async def test_a_manager_is_left_exactly_once() -> None:
    """Its cleanup runs to its end, whatever ends the run, in the task that entered it."""
    diary: list[str] = []

    @asynccontextmanager
    async def items() -> AsyncIterator[Any]:
        task = anyio.get_current_task().id
        diary.append("entered")
        try:
            yield numbers()
        except BaseException:
            diary.append("raised")
            raise
        finally:
            await checkpoint()
            assert task == anyio.get_current_task().id
            diary.append("left")

    def fail(item: int) -> int:
        raise ValueError

    with soon():
        assert await source(items).collect() == LIST
        assert diary == ["entered", "left"]
        diary.clear()
        with pytest.raises(ValueError):
            await source(items).map(fail).collect()
        assert diary.count("entered") == diary.count("left") == 1
        diary.clear()
        async with source(items).open(buffer=1) as run:
            async for _ in run:
                break
        assert diary.count("entered") == diary.count("left") == 1


@asynccontextmanager
async def produced() -> AsyncIterator[Any]:
    """A task group that fills a stream: what an async context manager is made for."""
    send, receive = anyio.create_memory_object_stream[int](1)

    async def produce() -> None:
        async with send:
            for number in range(5):
                await send.send(number)

    async with receive, anyio.create_task_group() as group:
        group.start_soon(produce)
        try:
            yield receive
        finally:
            group.cancel_scope.cancel()


@asynccontextmanager
async def in_time() -> AsyncIterator[Any]:
    with anyio.fail_after(60):
        yield range(5)


@pytest.mark.parametrize("way", ["end", "take", "leave", "stop", "fail", "interrupt"])
@pytest.mark.parametrize("manager", [produced, in_time])
async def test_a_manager_may_hold_scopes_open(manager: Any, way: str) -> None:
    """A task group or a timeout around its `yield` is left as it was entered, whatever comes."""

    def one(number: int) -> int:
        if way == "fail" and number == 2:
            raise ValueError("two")
        return number

    flow: Flow[Any, int] = source(manager).map(one)
    if way == "take":
        flow = flow.pipe(take, 2)
    with no_leaks(), soon():
        if way == "fail":
            with pytest.raises(ValueError, match="two"):
                await flow.collect()
            return
        async with flow.open(buffer=1) as run:
            got: list[int] = []
            async for number in run:
                got.append(number)
                if way == "leave":
                    return
                if way == "stop":
                    await run.stop()
                if way == "interrupt":
                    await settle()
                    run.interrupt()
                    way = "interrupted"
        if way == "take":
            assert got == [0, 1]
        elif way == "end":
            assert got == [*range(5)]
        assert got == sorted(set(got))


async def test_what_a_manager_is_told() -> None:
    """That nobody wants more is an end like any other; what the source raised is that, unchanged."""
    told: list[BaseException | None] = []

    @asynccontextmanager
    async def items(wrong: bool = False) -> AsyncIterator[Any]:
        def values() -> Iterator[int]:
            yield from range(50)
            if wrong:
                raise OSError("of the source")

        try:
            yield values()
        except BaseException as error:
            told.append(error)
            raise
        told.append(None)

    error = ValueError("mine")

    def fail(number: int) -> int:
        raise error

    with soon():
        for buffer in (1, 100):
            assert await source(items).pipe(take, 3).collect(buffer=buffer) == [0, 1, 2]
            flow = source(items).flat_map(lambda number: [number] * 3)
            assert await flow.pipe(take, 4).collect(buffer=buffer) == [0, 0, 0, 1]
            assert told == [None, None]
            told.clear()
            with pytest.raises(OSError, match="of the source") as caught:
                await source(lambda: items(wrong=True)).collect(buffer=buffer)
            assert told == [caught.value]
            told.clear()
            with pytest.raises(ValueError, match="mine"):
                await source(items).map(fail).collect(buffer=buffer)
            assert told == [error]  # that is the same task
            told.clear()


def broken(kind: str, error: BaseException, *, besides: BaseException | None = None) -> Any:
    """What gives two numbers and fails, in a manager that keeps what it is told, or fails besides."""

    def plain() -> Iterator[int]:
        yield from (1, 2)
        raise error

    async def not_plain() -> AsyncIterator[int]:
        for number in (1, 2):
            yield number
        raise error

    @asynccontextmanager
    async def items() -> AsyncIterator[Any]:
        try:
            yield {"plain": plain, "async": not_plain}[kind]()
        except BaseException:
            if besides is not None:
                raise besides from None

    return items


@pytest.mark.parametrize("buffer", [0, 1, 100])
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_manager_may_keep_an_error_to_itself(kind: str, buffer: int) -> None:
    """Then it has ended its source and nothing else, as it ends a block; what came before stays."""
    with no_leaks(), soon():
        flow = source(broken(kind, OSError("lost")))
        async with flow.open(buffer=buffer) as run:
            assert [item async for item in run] == [1, 2]
            assert run.failed == 0
        check_accounts(run.report(), over=True)
        assert await flow.map(abs).collect(buffer=buffer) == [1, 2]
        both = merge(flow, source([3, 4]))
        assert sorted(await both.collect(buffer=buffer)) == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_manager_cannot_keep_an_exit(kind: str) -> None:
    """What ends the program ends it."""
    for error in (KeyboardInterrupt(), SystemExit(3)):
        with no_leaks(), soon(), pytest.raises(type(error)) as caught:
            await source(broken(kind, error)).collect()
        assert caught.value is error


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_an_exit_in_a_manager_does_not_hide_what_the_source_raised(kind: str) -> None:
    """It ends the program, and the report tells what was before."""
    with no_leaks(), soon():
        for besides in (KeyboardInterrupt(), SystemExit(3)):
            with pytest.raises(type(besides)) as caught:
                async with source(broken(kind, OSError("lost"), besides=besides)).open() as run:
                    await anyio.sleep_forever()
            assert caught.value is besides
            assert [record.error for record in run.failures] == ["OSError: lost"]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_what_a_manager_raises_besides_comes_after(kind: str) -> None:
    """The root cause is what the source raised."""
    error, besides = OSError("lost"), ValueError("besides")
    with no_leaks(), soon(), pytest.raises(OSError, match="lost") as caught:
        await source(broken(kind, error, besides=besides)).collect()
    assert caught.value is error
    assert "besides" in "".join(error.__notes__)


async def test_what_a_manager_keeps_while_the_run_is_cancelled_is_no_end() -> None:
    """It may be what the source has made of the cancellation; a reader outside is not deceived."""
    gone, told = anyio.Event(), list[str]()

    @asynccontextmanager
    async def items() -> AsyncIterator[Any]:
        with suppress(OSError):
            yield values()
        gone.set()

    async def values() -> AsyncIterator[int]:
        yield 1
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("connection lost")

    async def shielded(item: int) -> int:
        with anyio.CancelScope(shield=True):
            await gone.wait()
            await settle()
        return item

    async def read(output: Any) -> None:
        with pytest.raises(ClosedError):
            async for item in output:
                told.append(item)
                await gone.wait()
        told.append("closed")

    whole = source(items)
    with no_leaks(), soon():
        async with anyio.create_task_group() as group:
            async with Graph(whole=whole, slow=whole.map(shielded)).open() as run:
                group.start_soon(read, run.output("whole"))
                await settle()
    assert told == [1, "closed"]


@pytest.mark.parametrize("way", ["cancel", "leave"])
async def test_a_group_of_cancellations_commits_nothing(way: str) -> None:
    """A nursery of trio's around a wait raises that when the run is left."""
    diary: list[str] = []

    async def values() -> AsyncIterator[int]:
        yield 1
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as error:
            raise BaseExceptionGroup("nursery", [error]) from None

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        try:
            async with anyio.create_task_group():
                yield values()
            diary.append("committed")
        finally:
            diary.append("left")

    with no_leaks(), soon(), anyio.CancelScope() as scope:
        async with source(transaction).open() as run:
            async for _ in run:
                await settle()
                if way == "cancel":
                    scope.cancel()
                    await checkpoint()
                break
    assert diary == ["left"]
    assert run.failed == 0


@pytest.mark.parametrize("way", ["fail", "cancel", "leave"])
async def test_what_a_manager_gave_is_closed_before_it_and_nothing_is_committed(way: str) -> None:
    """With a task group of its own too: the run's end from outside is no good end for it."""
    diary: list[str] = []

    async def values() -> AsyncIterator[int]:
        try:
            for number in range(100):
                yield number
        finally:
            await checkpoint()
            diary.append("flushed")

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                yield values()
                group.cancel_scope.cancel()
            diary.append("committed")
        finally:
            await checkpoint()
            diary.append("left")

    async def fail(number: int) -> int:
        if way == "fail" and number == 3:
            raise ValueError("three")
        return number

    with no_leaks(), soon():
        with anyio.CancelScope() as scope:
            with suppress(ValueError) if way == "fail" else nullcontext():
                async with source(transaction).map(fail).open(buffer=1) as run:
                    async for number in run:
                        if number == 2 and way == "cancel":
                            await settle()
                            scope.cancel()
                        elif number == 2 and way == "leave":
                            await settle()
                            break
    assert diary == ["flushed", "left"]
    assert run.failed == (way == "fail")


@asynccontextmanager
async def no_longer() -> AsyncIterator[Any]:
    with anyio.move_on_after(0.05):
        yield waiting()


@asynccontextmanager
async def not_longer() -> AsyncIterator[Any]:
    with anyio.fail_after(0.05):
        yield waiting()


@asynccontextmanager
async def with_a_child() -> AsyncIterator[Any]:
    async def child() -> None:
        await checkpoint()
        raise KeyError("child")

    async with anyio.create_task_group() as group:
        group.start_soon(child)
        yield waiting()


async def waiting() -> AsyncIterator[int]:
    yield 1
    await anyio.sleep_forever()


async def test_a_scope_of_the_managers_own_ends_its_source() -> None:
    """As it would end an `async for` inside it: in silence, or with what it raises."""
    with no_leaks(), soon():
        assert await source(no_longer).collect() == [1]
        with pytest.raises(TimeoutError):
            await source(not_longer).collect()
        with pytest.raises(ExceptionGroup) as caught:
            await source(with_a_child).collect()
        assert [type(error) for error in caught.value.exceptions] == [KeyError]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_a_timeout_of_asyncios_own_around_a_source() -> None:
    """The library's scopes are not the only ones."""

    @asynccontextmanager
    async def items() -> AsyncIterator[Any]:
        async with asyncio.timeout(0.05):
            yield waiting()

    with no_leaks(), soon(), pytest.raises(TimeoutError):
        await source(items).collect()


async def test_a_manager_with_a_task_group_that_gives_nothing_to_read() -> None:
    """It is left in the scopes in which it was entered."""

    @asynccontextmanager
    async def items() -> AsyncIterator[Any]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            try:
                yield 42
            finally:
                group.cancel_scope.cancel()

    with no_leaks(), soon(), pytest.raises((TypeError, ExceptionGroup)) as caught:
        await source(items).collect()
    assert "must give an iterable or async iterable, not 42" in repr(caught.value)


async def test_an_error_beside_a_cancellation_comes_alone() -> None:
    """A task group that was told to end raises what its cleanup has raised, and no cancellation."""

    @asynccontextmanager
    async def connection() -> AsyncIterator[Any]:
        async def child() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise OSError("connect")

        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await anyio.sleep_forever()
        yield LIST

    with no_leaks(), soon(), pytest.raises(ExceptionGroup) as caught:
        async with source(connection).open() as run:
            await settle()
            await run.stop()
            await anyio.sleep_forever()
    assert [type(error) for error in caught.value.exceptions] == [OSError]


@pytest.mark.parametrize("what", ["manager", "function"])
async def test_stop_ends_what_is_still_being_opened(what: str) -> None:
    """A server that does not answer is waited for no longer."""
    ended: list[str] = []

    async def connect() -> list[int]:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("connect")
        return LIST

    @asynccontextmanager
    async def connection() -> AsyncIterator[Any]:
        yield await connect()

    with no_leaks(), soon():
        async with source(connection if what == "manager" else connect).open() as run:
            await settle()
            await run.stop()
            assert [item async for item in run] == []
    assert ended == ["connect"]
    check_accounts(run.report(), over=True)


async def test_what_is_lent_is_not_closed() -> None:
    """A stream of the caller's, and one that a manager gives, are closed by whoever opened them."""
    send, receive = anyio.create_memory_object_stream[int](10)

    @asynccontextmanager
    async def lent() -> AsyncIterator[Any]:
        yield receive

    with send, receive, soon():
        for number in range(4):
            send.send_nowait(number)
        assert await source(receive).pipe(take, 1).collect(buffer=1) == [0]
        assert await source(lent).pipe(take, 1).collect(buffer=1) != []
        send.send_nowait(9)  # somebody still reads there


async def test_a_manager_that_gives_nothing_to_read_is_left_too() -> None:
    """It was entered, so it is left."""
    diary: list[str] = []

    def make(value: Any) -> Any:
        @asynccontextmanager
        async def items() -> AsyncIterator[Any]:
            try:
                yield value
            finally:
                diary.append("left")

        return items

    for value in ("text", 5, None):
        diary.clear()
        with soon(), pytest.raises(TypeError, match="source 'items'"):
            await source(make(value)).collect()
        assert diary == ["left"]


async def test_a_slow_cleanup_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    """`close_timeout` is its limit; a warning names the source."""

    @asynccontextmanager
    async def items() -> AsyncIterator[Any]:
        try:
            yield numbers()
        finally:
            await anyio.sleep_forever()

    with soon():
        assert await source(items, name="mine").collect(close_timeout=0.01) == LIST
    assert "source 'mine' did not finish its cleanup within 0.01 s" in caplog.text


async def test_a_sentinel_from_a_source() -> None:
    """It keeps its place, in every kind of source."""
    items = [1, Sentinel("a"), 2, Sentinel("b")]

    async def later() -> AsyncIterator[Any]:
        for item in items:
            await checkpoint()
            yield item

    for flow in (
        source(items),
        source(later),
        source(items, on=Threads(1)),
        source(items).map(abs),
        source(later).map(abs),
        source(items).flat_map(lambda item: [item]),
    ):
        with soon():
            async with flow.open(buffer=1) as run:
                assert [event async for event in run.events()] == items
            check_accounts(run.report(), over=True)
            assert run.report().stages[0].taken == 2


async def test_a_sentinel_while_a_pull_is_in_flight() -> None:
    """It does not wait for an item that may not come."""
    gate = threading.Event()

    async def wait() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep_forever()

    def block() -> Iterator[int]:
        yield 1
        assert gate.wait(5)

    for flow in (source(wait), source(wait).map(abs), source(block, on=Threads(1))):
        with soon():
            async with flow.open() as run:
                await run.send_sentinel("now")
                async for event in run.events():
                    if event == Sentinel("now"):
                        break
                gate.set()


async def test_a_blocking_source_does_not_hold_up_the_loop() -> None:
    """It is read in its place, a slice at a time, no faster than it is taken."""
    pulled: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100_000):
            pulled.append(threading.get_ident())
            yield number

    with soon():
        async with source(items, on=Threads(1)).open(buffer=5) as run:
            async for item in run:
                if item == 10:
                    break
            await settle()
            assert len(pulled) <= 600
    assert threading.get_ident() not in pulled


async def test_backpressure_reaches_the_source() -> None:
    """Unread, it is pulled no further than the run's bound."""
    pulled = 0

    async def items() -> AsyncIterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    flow = source(items).map(abs).map(abs, on=Threads(1), concurrency=1).map(a_number)
    with soon():
        async with flow.open(buffer=3) as run:
            while pulled < 9:
                await anyio.sleep(0.001)
            await settle()
            assert pulled <= flow.graph.bound_with(3) + 1
            del run


async def a_number(item: int) -> int:
    return item


class Counted:
    """Numbers without end, that counts how many were asked for."""

    def __init__(self) -> None:
        self.pulled = 0

    async def __aiter__(self) -> AsyncIterator[int]:
        while True:
            self.pulled += 1
            await checkpoint()
            yield self.pulled


@pytest.mark.parametrize("timing", [False, True])
@pytest.mark.parametrize("branches", [1, 2])
async def test_a_value_is_pulled_when_there_is_room_for_it(branches: int, timing: bool) -> None:
    """So as many as the edge holds are pulled ahead, and no more, with a fused stage too."""
    for buffer in (1, 3):
        for fused in (False, True):
            items = Counted()
            start = source(items)
            flow = start.map(lambda number: number) if fused else start
            ends = [flow] if branches == 1 else [flow, flow.buffer(buffer)]
            with soon():
                async with Graph(*ends).open(buffer=buffer, timing=timing) as run:
                    await settle()
                    assert items.pulled == buffer
                    assert await anext(aiter(run.output(flow))) == 1
                    if branches == 2:  # the slowest branch sets the pace
                        await settle()
                        assert items.pulled == buffer
                        assert await anext(aiter(run.output(ends[1]))) == 1
                    await settle()
                    assert items.pulled == buffer + 1
            check_accounts(run.report(), over=True)


async def test_a_rendezvous_has_one_in_hand() -> None:
    """There is never room for it before somebody waits."""
    items = Counted()
    with soon():
        async with source(items).open(buffer=0) as run:
            await settle()
            assert items.pulled == 1
            assert await anext(aiter(run)) == 1
            await settle()
            assert items.pulled == 2


async def test_a_buffer_that_drops_is_always_pulled_for() -> None:
    """It has room at any time."""
    items = Counted()
    with soon():
        async with source(items).buffer(2, overflow="drop_oldest").open() as run:
            await settle()
            assert items.pulled > 10
            assert await anext(aiter(run)) > 5


async def test_what_ends_a_source_that_waits_for_room() -> None:
    """`stop` pulls no more; an interrupt makes room; a sentinel goes in front of the next value."""
    items = Counted()
    with soon():
        async with source(items).open(buffer=2) as run:
            await settle()
            assert run.interrupt() == 2
            await settle()
            assert items.pulled == 4
            async with anyio.create_task_group() as group:
                group.start_soon(run.send_sentinel, "here")
                await settle()
                events = run.events()
                got = [await anext(events) for _ in range(4)]
                assert got == [3, 4, Sentinel("here"), 5]
            await settle()
            assert items.pulled == 7
            await run.stop()
            await settle()
            assert items.pulled == 7
            assert [event async for event in events] == [6, 7]
    assert run.report().stages[0].taken == 7
    check_accounts(run.report(), over=True)


@pytest.mark.parametrize("timing", [False, True])
async def test_a_pull_counts_as_work_also_when_nobody_wants_what_it_gives(timing: bool) -> None:
    """The source closes the end itself, and gives a value that has nowhere to go."""

    async def items() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep(0.1)
        run.output("items").close()
        yield 2

    with no_leaks(), soon():
        async with source(items).open(timing=timing) as run:
            with pytest.raises(ClosedError):
                async for _ in run:
                    pass
            await settle()
    check_accounts(run.report(), over=True)
    assert run.report().stages[0].busy > 0.09


async def test_an_error_in_opening() -> None:
    """Of the function, or of what it gave: raised as it is, in the name of the source."""

    def broken() -> Any:
        raise ValueError("mine")

    async def broken_async() -> Any:
        raise ValueError("mine")

    for flow in (source(broken), source(broken_async), source(broken, on=Threads(1))):
        with soon(), pytest.raises(ValueError, match="mine") as caught:
            await flow.collect()
        assert "in stage 'broken" in caught.value.__notes__[0]
    for value in ("text", b"bytes", 7):
        for on in (None, Threads(1)):
            with soon(), pytest.raises(TypeError):
                await source(lambda value=value: value, on=on).collect()
    with soon(), pytest.raises(TypeError, match="is async and runs on the event loop"):
        await source(lambda: numbers(), on=Threads(1)).collect()


async def test_what_a_blocking_source_gave_does_not_wait_for_what_it_has_not() -> None:
    """Items that came before the source blocks are given on: a slice holds none of them up."""
    gate = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        yield 2
        assert gate.wait(5)
        yield 3

    with soon():
        async with source(items, on=Threads(1)).open() as run:
            got: list[int] = []
            async for item in run:
                got.append(item)
                if item == 2:
                    gate.set()
    assert got == [1, 2, 3]


async def test_a_source_whose_thread_begins_late_keeps_nothing_back() -> None:
    """What it gives before it blocks comes out, however long it had to wait for its seat."""
    place, let_go, go_on = Threads(1), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert go_on.wait(5)
        yield 2

    async def hold_the_seat() -> None:
        await source([0]).map(lambda _: let_go.wait(5), on=place).drain()

    with soon():
        async with anyio.create_task_group() as group:
            group.start_soon(hold_the_seat)
            while place.seats().available_tokens:
                await anyio.sleep(0.001)
            async with source(items, on=place).open() as run:
                await anyio.sleep(0.02)  # longer than a slice
                let_go.set()
                results = aiter(run)
                assert await anext(results) == 1
                go_on.set()
                assert [item async for item in results] == [2]
