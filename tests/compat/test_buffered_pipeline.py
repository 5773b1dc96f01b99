"""buffered_pipeline: nothing is left behind, at whatever point it is ended."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

from flowstage import ClosedError, Sentinel
from flowstage.compat.buffered_pipeline import buffered_pipeline

from ..conftest import virtual_time
from ..harness import BACKENDS, cancel_scope, native_cancel, sweep

closed: list[str] = []


async def numbers(count: int = 5, name: str = "numbers") -> AsyncIterator[int]:
    try:
        for value in range(count):
            await anyio.sleep(1)
            yield value
    finally:
        closed.append(name)


async def passed_on(it: AsyncIterator[int], name: str = "passed_on") -> AsyncIterator[int]:
    try:
        async for value in it:
            await anyio.sleep(1)
            yield value
    finally:
        closed.append(name)


def chain(size: int = 1) -> Any:
    buffer_iterable = buffered_pipeline()
    first = buffer_iterable(numbers(), size)
    return buffer_iterable(passed_on(buffer_iterable(passed_on(first), size)), size)


@pytest.fixture(autouse=True)
def nothing_closed() -> None:
    closed.clear()


async def read_all() -> list[int]:
    return [value async for value in chain()]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_cancelled_at_any_point_it_leaves_nothing(backend: str) -> None:
    """By the scope around it."""
    for _, outcome in sweep(backend, lambda: read_all, cancel_scope):
        outcome.check()


@pytest.mark.slow
def test_cancelled_natively_at_any_point_it_leaves_nothing() -> None:
    """By `Task.cancel`, which only asyncio has."""
    for _, outcome in sweep("asyncio", lambda: read_all, native_cancel):
        outcome.check()


@virtual_time
async def test_a_break_from_a_closed_block_has_ended_everything() -> None:
    """`aclosing` waits."""
    before = len(anyio.get_running_tasks())
    async with aclosing(chain()) as values:
        async for _ in values:
            break
    assert len(anyio.get_running_tasks()) == before
    assert sorted(closed) == ["numbers", "passed_on", "passed_on"]
    assert [value async for value in values] == []


async def dropped_after_one() -> None:
    async def fast(it: AsyncIterator[int] | None) -> AsyncIterator[int]:
        try:
            if it is None:
                for value in range(1000):
                    yield value
            else:
                async for value in it:
                    yield value
        finally:
            closed.append("fast")

    buffer_iterable = buffered_pipeline()
    values = buffer_iterable(fast(buffer_iterable(fast(None), 3)), 3)
    async for _ in values:
        break


async def test_a_bare_break_ends_everything_within_a_few_steps() -> None:
    """As soon as the iterator is dropped."""
    before = len(anyio.get_running_tasks())
    await dropped_after_one()
    for _ in range(10):
        await checkpoint()
    assert len(anyio.get_running_tasks()) == before
    assert closed == ["fast", "fast"]


async def test_dropping_it_in_another_thread_ends_it_too() -> None:
    """The collector runs wherever it likes."""
    before = len(anyio.get_running_tasks())

    async def fast() -> AsyncIterator[int]:
        for value in range(1000):
            yield value

    box = [buffered_pipeline()(fast())]
    assert await anext(box[0]) == 0
    dropping = threading.Thread(target=box.clear)
    dropping.start()
    dropping.join()
    for _ in range(10):
        await checkpoint()
    assert len(anyio.get_running_tasks()) == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("run", [asyncio.run, trio.run], ids=["asyncio", "trio"])
def test_a_break_at_the_very_end_of_the_program_is_clean(
    run: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """The event loop's own end ends the rest, without a word."""
    kept: list[Any] = []

    async def program(keep: bool) -> None:
        async def endless() -> AsyncIterator[int]:
            value = 0
            while True:
                await checkpoint()
                yield value
                value += 1

        buffer_iterable = buffered_pipeline()
        values = buffer_iterable(passed_quickly(buffer_iterable(endless())))
        if keep:
            kept.append(values)
        async for value in values:
            if value == 3:
                break

    for keep in (False, True):
        run(program, keep) if run is trio.run else run(program(keep))
    kept.clear()
    gc.collect()
    assert capfd.readouterr() == ("", "")


async def broken_after_one() -> AsyncIterator[int]:
    yield 0
    raise KeyError("broken")


async def patient(it: AsyncIterator[int]) -> AsyncIterator[int]:
    try:
        async for value in it:
            yield value
    except KeyError:
        yield -1


async def passed_quickly(it: AsyncIterator[int]) -> AsyncIterator[int]:
    async for value in it:
        yield value


@virtual_time
async def test_an_exception_ends_those_that_stand_beside_it() -> None:
    """Iterables of one pipeline that are read side by side."""

    before = len(anyio.get_running_tasks())
    buffer_iterable = buffered_pipeline()
    one, other = buffer_iterable(numbers()), buffer_iterable(broken_after_one())
    assert await anext(one) == 0
    assert await anext(other) == 0
    with pytest.raises(KeyError):
        await anext(other)
    assert len(anyio.get_running_tasks()) == before
    assert closed == ["numbers"]
    with pytest.raises(ClosedError, match="'numbers' was ended"):
        await anext(one)
    assert [value async for value in one] == []


async def test_an_exception_keeps_its_cause() -> None:
    """It comes as it was raised, with what it came from."""

    async def broken() -> AsyncIterator[int]:
        yield 0
        raise KeyError("broken") from OSError("the cause")

    buffer_iterable = buffered_pipeline()
    with pytest.raises(KeyError) as caught:
        async for _ in buffer_iterable(passed_quickly(buffer_iterable(broken()))):
            pass
    assert repr(caught.value.__cause__) == "OSError('the cause')"


async def test_an_exception_is_told_once() -> None:
    """As with the generator itself: whoever asks again learns that it has ended."""
    values = buffered_pipeline()(broken_after_one())
    assert await anext(values) == 0
    with pytest.raises(KeyError, match="broken"):
        await anext(values)
    assert [value async for value in values] == []


async def test_an_exception_behind_what_was_read_is_not_told_once_it_is_closed() -> None:
    """Nobody has asked for it."""
    values = buffered_pipeline()(broken_after_one(), 3)
    assert await anext(values) == 0
    await anyio.wait_all_tasks_blocked()
    await values.aclose()
    assert [value async for value in values] == []


async def test_no_cycle_keeps_it_alive() -> None:
    """Neither when it is dropped unread, nor when an exception has ended it."""

    async def read() -> weakref.ref[Any]:
        values = buffered_pipeline()(broken_after_one())
        with suppress(KeyError):
            async for _ in values:
                pass
        return weakref.ref(values)

    gc.collect()
    gc.disable()
    try:
        unread = weakref.ref(buffered_pipeline()(broken_after_one()))
        assert unread() is None
        failed = await read()
        await checkpoint()
        assert failed() is None
    finally:
        gc.enable()


class Stubborn:
    """An async iterable that cannot be read."""

    def __aiter__(self) -> AsyncIterator[int]:
        raise KeyError("stubborn")


@virtual_time
async def test_an_iterable_that_cannot_be_read_ends_the_others() -> None:
    """As an exception of a generator does."""
    before = len(anyio.get_running_tasks())
    buffer_iterable = buffered_pipeline()
    one, other = buffer_iterable(numbers()), buffer_iterable(Stubborn())
    assert await anext(one) == 0
    with pytest.raises(KeyError, match="stubborn"):
        await anext(other)
    assert len(anyio.get_running_tasks()) == before
    with pytest.raises(ClosedError):
        await anext(one)


async def test_a_generator_may_deal_with_the_exception_of_the_one_before() -> None:
    """It reaches the code that asked for the value."""

    buffer_iterable = buffered_pipeline()
    values = buffer_iterable(patient(buffer_iterable(broken_after_one())))
    assert [value async for value in values] == [0, -1]


@virtual_time
async def test_no_reader_takes_the_end_of_another_for_its_own() -> None:
    """Another task that reads beside the one that is told of the exception."""

    async def broken() -> AsyncIterator[int]:
        await anyio.sleep(2.5)
        raise KeyError("broken")
        yield 0  # type: ignore[unreachable]  # it makes it a generator

    buffer_iterable = buffered_pipeline()
    found: list[int] = []

    async def read() -> None:
        with pytest.raises(ClosedError, match="another iterable of its pipeline has raised"):
            async for value in buffer_iterable(numbers()):
                found.append(value)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        with pytest.raises(KeyError):
            await anext(buffer_iterable(broken()))
    assert found == [0, 1]


async def test_an_exception_keeps_its_context_though_the_reader_deals_with_another() -> None:
    """What the reader is dealing with has not led to it."""

    async def broken() -> AsyncIterator[int]:
        yield 0
        try:
            raise OSError("the context")
        except OSError:
            raise KeyError("broken")  # noqa: B904  # the point of the test

    buffer_iterable = buffered_pipeline()
    values = buffer_iterable(passed_quickly(buffer_iterable(broken())))
    with pytest.raises(KeyError) as caught:
        try:
            raise ValueError("the reader's own")
        except ValueError:
            async for _ in values:
                pass
    assert repr(caught.value.__context__) == "OSError('the context')"
    assert not caught.value.__suppress_context__


async def test_the_traceback_shows_the_user_s_code() -> None:
    """And two lines for each iterable, whatever stands below it."""

    buffer_iterable = buffered_pipeline()
    values = buffer_iterable(broken_after_one())
    for _ in range(3):
        values = buffer_iterable(passed_quickly(values))
    with pytest.raises(KeyError) as caught:
        async for _ in values:
            pass
    names = [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)]
    assert names[1:] == [*["__anext__", "passed_quickly"] * 3, "__anext__", "broken_after_one"]


async def test_an_iterator_is_taken_once_and_needs_no_more_than_a_next() -> None:
    """As `async for` has it: `__aiter__` is called once, and what it gives need not have one."""

    class Counting:
        count = 0

        async def __anext__(self) -> int:
            if self.count == 3:
                raise StopAsyncIteration
            self.count += 1
            return self.count

    class Numbers:
        begun = 0

        def __aiter__(self) -> Any:
            self.begun += 1
            return Counting()

    class Both(Counting):
        begun = 0

        def __aiter__(self) -> Any:
            self.begun += 1
            return self

    for iterable in (Numbers(), Both()):
        assert [value async for value in buffered_pipeline()(iterable)] == [1, 2, 3]
        assert iterable.begun == 1


@pytest.mark.parametrize("ends", [StopIteration, StopAsyncIteration])
async def test_an_end_from_aiter_is_no_end(ends: type[Exception]) -> None:
    """It is an error, as it is in any generator."""

    class Ended:
        def __aiter__(self) -> AsyncIterator[int]:
            raise ends

    with pytest.raises(RuntimeError, match=ends.__name__) as caught:
        async for _ in buffered_pipeline()(Ended()):
            pass
    assert isinstance(caught.value.__cause__, ends)


class Own(BaseException):
    """No `Exception`."""


@pytest.mark.parametrize("error", [Own, KeyError, asyncio.CancelledError])
async def test_an_exception_of_any_kind_comes_as_it_is(error: type[BaseException]) -> None:
    """Also the cancellation of something that the generator has awaited; and without a note."""
    raised = error("broken")

    async def broken() -> AsyncIterator[int]:
        yield 0
        raise raised

    buffer_iterable = buffered_pipeline()
    values = buffer_iterable(passed_quickly(buffer_iterable(broken())))
    assert await anext(values) == 0
    with pytest.raises(error) as caught:
        await anext(values)
    assert caught.value is raised
    assert not hasattr(raised, "__notes__")


@virtual_time
async def test_an_exception_that_is_dealt_with_ends_no_iterable_beside_it() -> None:
    """However far its reader has looked ahead, nothing of the others is lost."""

    async def both(one: AsyncIterator[int], other: AsyncIterator[int]) -> AsyncIterator[int]:
        yield await anext(one)
        async for value in other:
            yield value
        async for value in one:
            yield value

    buffer_iterable = buffered_pipeline()
    values = both(
        buffer_iterable(numbers()), buffer_iterable(patient(buffer_iterable(broken_after_one())))
    )
    assert [value async for value in buffer_iterable(values)] == [0, 0, -1, 1, 2, 3, 4]


async def careless(
    error: BaseException, it: AsyncIterator[int] | None = None
) -> AsyncIterator[int]:
    """Its cleanup fails."""
    try:
        yield 0 if it is None else await anext(it)
        await anyio.sleep_forever()
    finally:
        raise error


@pytest.mark.parametrize("how", ["closed", "dropped", "ended by another", "cancelled"])
async def test_what_the_cleanup_of_an_ended_one_raises_is_logged(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever in the chain it is; none of it is lost, and none is told twice."""

    async def broken() -> AsyncIterator[int]:
        yield 0
        raise ValueError("broken")

    buffer_iterable = buffered_pipeline()
    inner = buffer_iterable(careless(KeyError("inner")))
    values = buffer_iterable(careless(KeyError("outer"), inner))
    assert await anext(values) == 0
    if how == "closed":
        await values.aclose()
    elif how == "dropped":
        del inner, values
        for _ in range(10):
            await checkpoint()
    elif how == "ended by another":
        with pytest.raises(ValueError, match="broken"):
            async for _ in buffer_iterable(broken()):
                pass
    else:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(values)
    logged = [repr(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert sorted(logged) == ["KeyError('inner')", "KeyError('outer')"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_closing_raises_what_ends_the_program(error: type[BaseException]) -> None:
    """It is not only logged."""
    buffer_iterable = buffered_pipeline()
    values = buffer_iterable(passed_quickly(buffer_iterable(careless(error("cleanup")))))
    assert await anext(values) == 0
    with pytest.raises(error, match="cleanup"):
        await values.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_cancelled_while_it_waits_for_the_others_to_end() -> None:
    """Natively, which heeds no shield: the cancellation goes on when they have."""
    cleaned: list[str] = []

    async def slow() -> AsyncIterator[int]:
        try:
            yield 0
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            cleaned.append("slow")

    buffer_iterable = buffered_pipeline()
    beside, values = buffer_iterable(slow()), buffer_iterable(broken_after_one())
    assert await anext(beside) == await anext(values) == 0
    task = asyncio.get_running_loop().create_task(anext(values))  # type: ignore[arg-type]
    await anyio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["slow"]


async def first_of(it: AsyncIterator[int]) -> AsyncIterator[int]:
    yield await anext(it)


@virtual_time
async def test_one_goes_on_where_another_has_ended() -> None:
    """An iterable may be read by several, one after the other."""
    before = len(anyio.get_running_tasks())
    buffer_iterable = buffered_pipeline()
    shared = buffer_iterable(numbers())
    assert [value async for value in buffer_iterable(first_of(shared))] == [0]
    assert [value async for value in buffer_iterable(passed_on(shared))] == [1, 2, 3, 4]
    assert len(anyio.get_running_tasks()) == before


@virtual_time
@pytest.mark.parametrize("how", ["dropped", "closed"])
async def test_what_an_ended_one_has_left_ends_when_nobody_wants_it(how: str) -> None:
    """When it is dropped itself, or when what has read from it is closed."""
    before = len(anyio.get_running_tasks())
    buffer_iterable = buffered_pipeline()
    shared = buffer_iterable(numbers())
    values = buffer_iterable(first_of(shared))
    assert [value async for value in values] == [0]
    if how == "dropped":
        del shared
    else:
        await values.aclose()
    for _ in range(10):
        await checkpoint()
    assert len(anyio.get_running_tasks()) == before
    assert closed == ["numbers"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_reaches_the_caller(error: type[BaseException]) -> None:
    """Bare, and not lost in a task."""

    async def ending() -> AsyncIterator[int]:
        yield 1
        raise error

    values = buffered_pipeline()(ending())
    assert await anext(values) == 1
    with pytest.raises(error):
        await anext(values)


async def test_two_tasks_that_ask_for_the_first_value_at_once_get_along() -> None:
    """One gets the values; another that would have to wait as well is told so, in the user's names."""
    go = anyio.Event()
    found: list[int] = []
    told: list[str] = []

    async def some_numbers() -> AsyncIterator[int]:
        await go.wait()
        for value in range(10):
            yield value

    values = buffered_pipeline()(some_numbers())

    async def read() -> None:
        try:
            async for value in values:
                found.append(value)
        except anyio.BusyResourceError as error:
            told.append(str(error))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        assert len(told) == 1
        assert "'some_numbers'" in told[0]
        go.set()
    assert found == list(range(10))


async def test_a_first_value_that_nobody_waits_for_any_more_leaves_nothing() -> None:
    """Whoever waits with the one that was cancelled gets no value."""
    before = len(anyio.get_running_tasks())
    values = buffered_pipeline()(numbers())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anext(values)
    assert len(anyio.get_running_tasks()) == before
    assert [value async for value in values] == []


async def test_one_that_is_never_read_is_never_begun() -> None:
    """No task, and the generator is as it was."""
    before = len(anyio.get_running_tasks())
    generator = numbers()
    buffered_pipeline()(generator)
    await checkpoint()
    assert len(anyio.get_running_tasks()) == before
    assert closed == []
    await generator.aclose()


async def test_any_value_passes() -> None:
    """Exceptions, `None`, even a sentinel of flowstage's."""
    given = [None, KeyError("a value"), Sentinel("a value"), Ellipsis, StopAsyncIteration]

    async def values() -> AsyncIterator[Any]:
        for value in given:
            yield value

    assert [value async for value in buffered_pipeline()(values())] == given


def test_wrong_arguments_are_refused() -> None:
    """At the line where they are given."""
    buffer_iterable = buffered_pipeline()
    with pytest.raises(TypeError, match="takes an async iterable, not list"):
        buffer_iterable([1, 2])  # type: ignore[arg-type]  # the point of the test
    generator = numbers()
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="buffer_size must be at least 1"):
            buffer_iterable(generator, wrong)
    for unfit in (True, 1.0, "1"):
        with pytest.raises(TypeError, match="buffer_size must be a whole number"):
            buffer_iterable(generator, buffer_size=unfit)  # type: ignore[arg-type]  # see above
