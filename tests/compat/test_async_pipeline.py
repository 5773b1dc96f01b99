"""async-pipeline's Pipeline and Stage: the programs of its page, and what `map` costs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage.compat.async_pipeline import Pipeline, Stage, StageExecutionError

from ..conftest import virtual_time
from ..harness import no_leaks


async def add_one(value: int) -> int:
    return value + 1


async def test_a_handler_gets_the_context_if_it_takes_two_positional_arguments() -> None:
    """Keyword-only ones and those behind a star are none."""
    context: dict[str, Any] = {}

    def one(value: int, *rest: Any, context: Any = None) -> Any:
        return context

    def two(value: int, anything: Any) -> Any:
        return anything

    class Callable:
        def __call__(self, value: int, context: Any) -> Any:
            return context

    assert await Stage("one", one).run(1, context) is None
    for handler in (two, Callable(), Callable().__call__):
        assert await Stage("two", handler).run(1, context) is context
        assert await Pipeline([Stage("two", handler)]).run(1, context=context) is context
    assert await Stage("alone", two).run(1) == {}
    assert await Stage("built in", str).run(1) == "1"
    with pytest.raises(StageExecutionError):  # Decimal takes a context of its own kind, as there
        await Stage("Decimal", Decimal).run(1, {})


async def test_stages_keep_their_options() -> None:
    """For whoever looks."""
    stage = Stage("s", add_one, timeout=1, retries=2, retry_delay=0.5, backoff="exponential")
    assert (stage.name, stage.timeout, stage.retries) == ("s", 1, 2)
    assert (stage.retry_delay, stage.backoff) == (0.5, "exponential")
    assert Pipeline([stage]).stages == (stage,)


@virtual_time
async def test_a_timeout_is_for_each_attempt_and_worth_a_retry() -> None:
    """The delay between attempts is no part of it."""
    tries = 0

    async def slow_at_first(value: int) -> int:
        nonlocal tries
        tries += 1
        await anyio.sleep(5 if tries < 3 else 0.5)
        return value

    stage = Stage("slow", slow_at_first, timeout=1.0, retries=2, retry_delay=10)
    assert await stage.run(1) == 1
    assert anyio.current_time() == pytest.approx(1 + 10 + 1 + 10 + 0.5)


@pytest.mark.slow
async def test_map_has_no_task_for_an_item() -> None:
    """Items are asked for when a pipeline is free, and memory stays what it was."""
    tasks = 0
    before = len(anyio.get_running_tasks())

    async def count(value: int) -> int:
        nonlocal tasks
        if value % 1000 == 0:
            tasks = max(tasks, len(anyio.get_running_tasks()) - before)
            await checkpoint()
        return 0

    pulled = 0

    def numbers() -> Iterator[int]:
        nonlocal pulled
        for value in range(20_000):
            pulled += 1
            yield value

    with no_leaks():
        found = await Pipeline([Stage("count", count)]).map(numbers(), concurrency=8)
    assert found == [0] * 20_000
    assert tasks <= 8 + 8
    assert await Pipeline([Stage("a", add_one)]).map(range(3), concurrency=1_000_000) == [1, 2, 3]
    gc.collect()


async def test_map_asks_for_no_item_before_there_is_a_pipeline_for_it() -> None:
    """Also when the items never end."""
    pulled = 0

    def endless() -> Iterator[int]:
        nonlocal pulled
        while True:
            yield pulled
            pulled += 1

    async def fail_late(value: int) -> int:
        await checkpoint()
        if value == 50:
            raise KeyError(value)
        return value

    with pytest.raises(ExceptionGroup):
        await Pipeline([Stage("fail", fail_late)]).map(endless(), concurrency=3)
    assert pulled <= 50 + 3


async def test_what_the_items_raise_is_no_stages_error() -> None:
    """It comes as it is, without a group."""

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await Pipeline([Stage("a", add_one)]).map(broken())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_is_not_wrapped(error: type[BaseException]) -> None:
    """Neither by `run` nor by `map`, whatever it returns."""

    def ending(value: int) -> int:
        raise error

    pipeline = Pipeline([Stage("ending", ending, retries=5)])
    with pytest.raises(error):
        await pipeline.run(1)
    with pytest.raises(error):
        await pipeline.map([1, 2], return_exceptions=True)


async def test_cancelling_the_caller_cancels_the_map() -> None:
    """Nothing is left."""
    with no_leaks():
        with anyio.move_on_after(0.01) as scope:
            await Pipeline([Stage("wait", lambda _: anyio.sleep_forever())]).map(range(100))
        assert scope.cancelled_caught


async def test_all_that_fail_at_once_are_in_the_group() -> None:
    """As each was raised: no notes, no context of ours."""
    go = anyio.Event()

    async def fail_together(value: int) -> int:
        if value == 3:
            await anyio.wait_all_tasks_blocked()
            go.set()
            await anyio.sleep_forever()
        await go.wait()
        raise KeyError(value)

    pipeline = Pipeline([Stage("together", fail_together)])
    with pytest.raises(ExceptionGroup) as caught:
        await pipeline.map(range(100), concurrency=4)
    errors = caught.value.exceptions
    assert all(type(error) is StageExecutionError for error in errors)
    assert sorted(error.original_error.args for error in errors) == [(0,), (1,), (2,)]
    assert caught.value.__context__ is None
    for error in errors:
        assert error.__context__ is error.original_error
        assert not hasattr(error, "__notes__")
        assert not hasattr(error.original_error, "__notes__")


async def test_what_the_items_raise_has_no_notes() -> None:
    """It is not about a stage."""

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone") as caught:
        await Pipeline([Stage("a", add_one)]).map(broken())
    assert not hasattr(caught.value, "__notes__")
    assert caught.value.__context__ is None


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_handler_that_cancels_itself_is_named() -> None:
    """Only asyncio has such a cancellation; the message knows the user's names only."""

    async def cancelling(value: int) -> int:
        raise asyncio.CancelledError

    with pytest.raises(Exception, match="'first, second of map' was cancelled") as caught:
        await Pipeline([Stage("first", add_one), Stage("second", cancelling)]).map([7])
    assert caught.value.__notes__ == [
        "flowstage: raised in stage 'first, second of map' on item 7, attempt 1"
    ]


variable: ContextVar[str] = ContextVar("variable", default="nobody's")


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_each_item_has_context_variables_of_its_own(concurrency: int) -> None:
    """A copy of the caller's, through all its stages, hooks, attempts and cleanups."""
    seen: list[Any] = []

    async def begin(value: int) -> int:
        seen.append(variable.get())
        token = variable.set("to be reset")
        await checkpoint()
        variable.reset(token)
        variable.set(f"item {value}'s")
        await checkpoint()
        return value

    async def end(value: int) -> int:
        try:
            await checkpoint()
        finally:
            seen.append(variable.get())
        return value

    variable.set("the caller's")
    stages = [Stage("begin", begin), Stage("end", end, timeout=5)]
    hooks: list[str] = []
    pipeline = Pipeline(stages, after_stage=lambda *details: hooks.append(variable.get()))
    assert await pipeline.map(range(4), concurrency=concurrency) == [0, 1, 2, 3]
    own = {f"item {value}'s" for value in range(4)}
    assert sorted(seen) == sorted(["the caller's"] * 4 + list(own))
    assert set(hooks) == own
    assert variable.get() == "the caller's"


async def test_a_cancelled_item_cleans_up_with_its_own_context_variables() -> None:
    """What is thrown in arrives where the item waits."""
    seen: list[str] = []

    async def wait(value: int) -> None:
        variable.set(f"item {value}'s")
        try:
            await anyio.sleep_forever()
        finally:
            seen.append(variable.get())

    with no_leaks():
        async with anyio.create_task_group() as group:
            group.start_soon(Pipeline([Stage("wait", wait)]).map, range(10), 3)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    assert sorted(seen) == ["item 0's", "item 1's", "item 2's"]


async def test_wrong_arguments_are_refused() -> None:
    """In the caller's words."""
    for wrong, message in {
        "retries=True": "retries must be a whole number, not True",
        "retries=1.5": "retries must be a whole number, not 1.5",
        "timeout='1'": "timeout must be a number of seconds, not '1'",
        "timeout=True": "timeout must be a number of seconds, not True",
        "retry_delay='1'": "retry_delay must be a number of seconds, not '1'",
    }.items():
        name, value = wrong.split("=")
        with pytest.raises(TypeError, match=message):
            Stage("s", add_one, **{name: eval(value)})
    pipeline = Pipeline([Stage("s", add_one)])
    for concurrency in ("a", 1.5, True):
        with pytest.raises(TypeError, match="concurrency must be a whole number, not"):
            await pipeline.map([1], concurrency=concurrency)  # type: ignore[arg-type]  # see above
