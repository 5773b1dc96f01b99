"""async-pipeline's Pipeline and Stage: the programs of its page, and what `map` costs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
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
