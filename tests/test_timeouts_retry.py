"""Timeouts and retries on the loop: when they strike, what they keep, how they are counted."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Failure, Input, Retry, StageTimeout, Threads, failure_of

from .accounts import check_accounts, soon
from .conftest import virtual_time


class Flaky:
    """Fails so many times for each item, and notes when it was called."""

    def __init__(self, times: int, error: type[Exception] = ValueError) -> None:
        self.times = times
        self.error = error
        self.calls: list[tuple[Any, float]] = []

    def plain(self, item: Any) -> Any:
        self.calls.append((item, anyio.current_time()))
        if sum(item == other for other, _ in self.calls) <= self.times:
            raise self.error(f"try {sum(item == other for other, _ in self.calls)}")
        return item

    async def later(self, item: Any) -> Any:
        return self.plain(item)

    async def values(self, item: Any) -> AsyncIterator[Any]:
        yield self.plain(item)

    @property
    def gaps(self) -> list[float]:
        times = [time for _, time in self.calls]
        return [round(b - a, 6) for a, b in itertools.pairwise(times)]


@virtual_time
@pytest.mark.parametrize(
    ("retry", "gaps"),
    [
        (Retry(4), [0, 0, 0]),
        (Retry(4, delay=2), [2, 2, 2]),
        (Retry(5, delay=1, backoff="exponential"), [1, 2, 4, 8]),
        (Retry(5, delay=1, backoff="exponential", max_delay=3), [1, 2, 3, 3]),
    ],
)
async def test_delays(retry: Retry, gaps: list[float]) -> None:
    """Between tries, on every way a call can be made."""
    for verb, method, options in (
        ("map", "plain", {}),
        ("map", "later", {}),
        ("map", "later", {"concurrency": 2}),
        ("map", "later", {"timeout": 99}),
        ("flat_map", "values", {}),
        ("flat_map", "values", {"concurrency": 2}),
    ):
        flaky = Flaky(retry.attempts - 1)
        flow = getattr(Input[int](), verb)(getattr(flaky, method), retry=retry, **options)
        async with flow.open([1]) as run:
            assert [item async for item in run] == [1]
        assert flaky.gaps == gaps
        assert run.report().stages[1].retries == retry.attempts - 1
        check_accounts(run.report(), over=True)


@virtual_time
async def test_jitter_is_added() -> None:
    """Uniformly, up to so many seconds."""
    flaky = Flaky(9)
    assert await Input[int]().map(flaky.plain, retry=Retry(10, delay=1, jitter=1)).collect([1]) == [
        1
    ]
    assert all(1 <= gap <= 2 for gap in flaky.gaps)
    assert len(set(flaky.gaps)) > 1


async def test_attempts_are_told() -> None:
    """In the note, in `failure_of`, in the record, in an emitted failure."""
    for method, options in (
        ("plain", {}),
        ("later", {}),
        ("later", {"concurrency": 2}),
        ("plain", {"on": Threads(1)}),
    ):
        flaky = Flaky(9)
        fn = getattr(flaky, method) if "on" not in options else Dumb(flaky).plain
        flow = Input[int]().map(fn, retry=Retry(3), name="flaky", **options)
        with soon(), pytest.raises(ValueError, match="try 3") as caught:
            await flow.collect([1])
        assert caught.value.__notes__ == ["flowstage: raised in stage 'flaky' on item 1, attempt 3"]
        failure = failure_of(caught.value)
        assert failure is not None
        assert failure.attempts == 3
        flaky.calls.clear()
        with soon():
            async with flow.open([1], on_error="emit") as run:
                (event,) = [event async for event in run.events()]
        assert isinstance(event, Failure)
        assert event.attempts == run.failures[0].attempts == 3
        assert run.report().stage("flaky").retries == 2


class Dumb:
    """`Flaky` for a thread, where there is no loop to ask for the time."""

    def __init__(self, flaky: Flaky) -> None:
        self.flaky = flaky

    def plain(self, item: Any) -> Any:
        self.flaky.calls.append((item, 0.0))
        if len(self.flaky.calls) <= self.flaky.times:
            raise ValueError(f"try {len(self.flaky.calls)}")
        return item


async def test_only_errors_that_are_named() -> None:
    """Anything else fails at once."""
    flaky = Flaky(2, KeyError)
    with pytest.raises(KeyError):
        await Input[int]().map(flaky.plain, retry=Retry(5, errors=(ValueError,))).collect([1])
    assert len(flaky.calls) == 1
    flaky = Flaky(2, KeyError)
    assert await Input[int]().map(flaky.plain, retry=Retry(5, errors=LookupError)).collect([1]) == [
        1
    ]


@virtual_time
async def test_the_place_in_order_is_kept() -> None:
    """Later items wait for the one that is tried again; its slot is taken meanwhile."""
    flaky = Flaky(2)
    inside = most = 0

    async def call(item: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            await anyio.sleep(1)
            return await flaky.later(item) if item == 0 else item
        finally:
            inside -= 1

    flow = Input[int]().map(call, concurrency=3, retry=Retry(3, delay=10))
    assert await flow.collect(range(7)) == list(range(7))
    assert most == 3
    unordered = Input[int]().map(call, concurrency=3, ordered=False, retry=Retry(3, delay=10))
    flaky.calls.clear()
    assert (await unordered.collect(range(7)))[-1] == 0


@virtual_time
async def test_a_timeout_is_per_attempt_and_never_early() -> None:
    """Each try has its whole time; the error says how long that was."""
    calls: list[float] = []

    async def slow(item: int) -> int:
        calls.append(anyio.current_time())
        await anyio.sleep(9.9 if len(calls) == 3 else 11)
        return item

    for options in ({}, {"concurrency": 2}, {"concurrency": 2, "ordered": False}):
        calls.clear()
        flow = Input[int]().map(slow, timeout=10, retry=Retry(3), **options)
        assert await flow.collect([1]) == [1]
        assert [round(b - a, 6) for a, b in itertools.pairwise(calls)] == [10, 10]
        calls.clear()
        with pytest.raises(StageTimeout, match=r"stage 'slow' took longer than 10 s") as caught:
            await Input[int]().map(slow, timeout=10, **options).collect([1])
        assert isinstance(caught.value, TimeoutError)


@virtual_time
async def test_a_timeout_counts_only_the_call() -> None:
    """Neither the wait for room downstream nor the wait for a turn."""

    async def quick(item: int) -> int:
        await anyio.sleep(1)
        return item

    flow = Input[int]().map(quick, timeout=2, concurrency=2)
    async with flow.open(range(20), buffer=1) as run:
        got = []
        async for item in run:
            await anyio.sleep(10)
            got.append(item)
    assert got == list(range(20))
    assert run.failed == 0


async def test_a_users_own_timeout_error_is_the_users() -> None:
    """It is not taken for the stage's."""

    async def own(item: int) -> int:
        with anyio.fail_after(0):
            await anyio.sleep_forever()
        raise AssertionError

    for options in ({"timeout": 9}, {}, {"timeout": 9, "concurrency": 2}):
        with soon(), pytest.raises(TimeoutError) as caught:
            await Input[int]().map(own, **options).collect([1])
        assert not isinstance(caught.value, StageTimeout)


async def test_a_call_that_swallows_its_cancellation_is_late() -> None:
    """What it gives after its time is not a result."""

    async def stubborn(item: int) -> int:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return item
        raise AssertionError

    for options in ({}, {"concurrency": 2}):
        with soon(), pytest.raises(StageTimeout):
            await Input[int]().map(stubborn, timeout=0.01, **options).collect([1])


async def test_an_error_in_cleanup_after_the_timeout_is_the_users() -> None:
    """What the function raises on its way out goes on as it is."""

    async def rude(item: int) -> int:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    with soon(), pytest.raises(ValueError, match="in cleanup"):
        await Input[int]().map(rude, timeout=0.01).collect([1])


@virtual_time
async def test_flat_map_times_each_value() -> None:
    """The timeout is per value; a retry happens only before the first one was given."""
    lives = 0

    async def values(item: int) -> AsyncIterator[int]:
        nonlocal lives
        lives += 1
        for number in range(5):
            await anyio.sleep(9)
            if number == 2 and item == 1:
                await anyio.sleep(9)
            yield number

    for options in ({}, {"concurrency": 2}):
        lives = 0
        flow = Input[int]().flat_map(values, timeout=10, retry=Retry(3), **options)
        assert await flow.collect([0]) == list(range(5))
        async with flow.open([1], on_error="emit") as run:
            events = [event async for event in run.events()]
        assert events[:2] == [0, 1]
        assert isinstance(events[2].error, StageTimeout)
        assert lives == 2
        check_accounts(run.report(), over=True)


async def test_flat_map_is_tried_again_before_its_first_value() -> None:
    """On the loop, in a pool, in threads."""
    tries = 0

    def plain(item: int) -> Iterator[int]:
        nonlocal tries
        tries += 1
        if tries % 3:
            raise ValueError
        yield from range(item)

    async def later(item: int) -> AsyncIterator[int]:
        for value in plain(item):
            yield value

    for fn, options in (
        (plain, {}),
        (later, {}),
        (later, {"concurrency": 2}),
        (plain, {"on": Threads(1)}),
    ):
        with soon():
            assert await Input[int]().flat_map(fn, retry=Retry(3), **options).collect([2]) == [0, 1]
        with soon():
            got = (
                await Input[int]()
                .flat_map(fn, retry=Retry(2), **options)
                .collect([2], on_error="skip")
            )
        assert got == []
        tries = 0


async def test_a_timeout_that_only_then_shows() -> None:
    """A function that turns out to be plain is refused at its first call."""

    class Disguised:
        def __call__(self, item: int) -> int:
            return item

    with (
        soon(),
        pytest.raises(TypeError, match=r"has a timeout, but its function turned out to be plain"),
    ):
        await Input[int]().map(Disguised(), timeout=1, name="d").collect([1])


async def test_a_function_that_only_then_shows_to_be_async() -> None:
    """It is awaited, wherever it stands in a line, fused or not."""

    async def fetch(item: int) -> int:
        await checkpoint()
        return item + 1

    flow = Input[int]()
    for line in (
        flow.map(lambda item: fetch(item)),
        flow.map(lambda item: item).map(lambda item: fetch(item)),
        flow.map(lambda item: fetch(item)).map(lambda item: item),
        flow.map(lambda item: item).tap(lambda item: fetch(item)).map(lambda item: item + 1),
        flow.flat_map(lambda item: [item]).map(lambda item: fetch(item)),
    ):
        with soon():
            assert await line.collect(range(300)) == list(range(1, 301))
    with soon():
        kept = await flow.filter(lambda item: fetch(item)).collect(range(-2, 3))
    assert kept == [-2, 0, 1, 2]
