"""Retries: what is tried again, on every way a call is made, and what everybody else notices of it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import Failure, Graph, Input, Retry, StageTimeout, Threads

from .accounts import check_accounts, soon
from .conftest import virtual_time

WAYS: dict[str, dict[str, Any]] = {
    "inline": {},
    "async": {"is_async": True},
    "async with a timeout": {"is_async": True, "timeout": 9},
    "pool": {"is_async": True, "concurrency": 3},
    "unordered": {"is_async": True, "concurrency": 3, "ordered": False},
    "threads": {"on": Threads(2)},
    "threads with a timeout": {"on": Threads(2), "timeout": 9},
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
EVERY_VERB = pytest.mark.parametrize("verb", ["map", "filter", "tap", "flat_map"])


class Flaky:
    """Succeeds at the so-manieth try of each item; closes what it opens."""

    def __init__(self, succeeds: float, error: BaseException | None = None) -> None:
        self.succeeds = succeeds
        self.error = ValueError("not yet") if error is None else error
        self.tries: dict[Any, int] = {}
        self.open = 0

    def plain(self, item: Any) -> Any:
        self.tries[item] = self.tries.get(item, 0) + 1
        if self.tries[item] < self.succeeds:
            raise self.error
        return item

    async def later(self, item: Any) -> Any:
        await checkpoint()
        return self.plain(item)

    def lazily(self, item: Any) -> Iterator[Any]:
        self.open += 1
        try:
            yield self.plain(item)
        finally:
            self.open -= 1

    async def values(self, item: Any) -> AsyncIterator[Any]:
        self.open += 1
        try:
            yield await self.later(item)
        finally:
            self.open -= 1

    def stage(self, verb: str, way: dict[str, Any], **more: Any) -> Any:
        options = {name: value for name, value in way.items() if name != "is_async"} | more
        names = ("values", "lazily") if verb == "flat_map" else ("later", "plain")
        fn = getattr(self, names[0] if way.get("is_async") else names[1])
        return getattr(Input[Any](), verb)(fn, name="s", **options)


@EVERY_WAY
@EVERY_VERB
async def test_until_it_succeeds(verb: str, way: dict[str, Any]) -> None:
    """Each item has tries of its own; the account tells how many came after the first."""
    flaky = Flaky(3)
    with soon():
        async with flaky.stage(verb, way, retry=Retry(3)).open(range(1, 20), buffer=2) as run:
            got = [item async for item in run]
    assert sorted(got) == list(range(1, 20))
    if way.get("ordered", True):
        assert got == sorted(got)
    assert set(flaky.tries.values()) == {3}
    assert flaky.open == 0
    report = run.report()
    assert report.stage("s").retries == 38
    assert report.stage("s").done == 19
    assert run.failed == 0
    check_accounts(report, over=True)


@EVERY_WAY
@EVERY_VERB
async def test_until_the_attempts_are_used_up(verb: str, way: dict[str, Any]) -> None:
    """Then the last error goes the way of all errors, to the dead letters too."""
    flaky = Flaky(99)
    main = flaky.stage(verb, way, retry=Retry(3), on_error="skip")
    dead = main.failures()
    with soon():
        async with Graph(main=main, dead=dead).open([1, 2]) as run:
            letters = [letter async for letter in run.output(dead)]
            assert [item async for item in run.output(main)] == []
    assert flaky.tries == {1: 3, 2: 3}
    assert sorted(letter.item for letter in letters) == [1, 2]
    for letter in letters:
        assert isinstance(letter, Failure)
        assert letter.attempts == 3
        assert letter.error is flaky.error
    assert run.report().stage("s").retries == 4
    assert flaky.open == 0
    check_accounts(run.report(), over=True)


@EVERY_WAY
@EVERY_VERB
async def test_one_attempt_is_none_after_the_first(verb: str, way: dict[str, Any]) -> None:
    """`attempts` counts the first try."""
    flaky = Flaky(2)
    with soon(), pytest.raises(ValueError, match="not yet"):
        await flaky.stage(verb, way, retry=Retry(1)).collect([1])
    assert flaky.tries == {1: 1}


@EVERY_WAY
@EVERY_VERB
async def test_only_what_is_named(verb: str, way: dict[str, Any]) -> None:
    """By class, subclasses included; the exits are never tried again."""
    again = Retry(3, errors=(LookupError, OSError))
    for error, tries in (
        (KeyError(1), 3),
        (ConnectionError(), 3),
        (ValueError(), 1),
        (KeyboardInterrupt(), 1),
        (SystemExit(), 1),
    ):
        flaky = Flaky(99, error)
        with soon(), pytest.raises(type(error)):
            await flaky.stage(verb, way, retry=again).collect([1])
        assert flaky.tries == {1: tries}


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}])
async def test_a_timeout_may_be_named(options: dict[str, Any]) -> None:
    """`StageTimeout` is a `TimeoutError`; a try that came too late is a try."""
    tries = itertools.count(1)

    async def slow_twice(item: int) -> int:
        if next(tries) < 3:
            await anyio.sleep_forever()
        return item

    for errors in (StageTimeout, TimeoutError, OSError):
        tries = itertools.count(1)
        again = Retry(3, errors=errors)
        with soon():
            got = (
                await Input[int]()
                .map(slow_twice, timeout=0.05, retry=again, **options)
                .collect([1])
            )
        assert got == [1]


async def test_others_have_their_turns() -> None:
    """A function that always fails at once does not keep the loop, whatever the attempts."""
    done = False

    def fail(item: int) -> int:
        if not done:
            raise ValueError
        return item

    async def values(item: int) -> AsyncIterator[int]:
        yield fail(item)

    for verb, fn in (("map", fail), ("tap", fail), ("flat_map", values)):
        done = False
        with soon():
            async with getattr(Input[int](), verb)(fn, retry=Retry(10**9)).open([1]) as run:
                for _ in range(20):
                    await checkpoint()
                done = True
                assert [item async for item in run] == [1]
                retries = run.report().stages[1].retries
        assert retries > 1


async def test_a_run_can_be_left_while_it_is_trying() -> None:
    """Or interrupted: what is sent next has tries of its own."""

    def fail(item: int) -> int:
        if item == 1:
            raise ValueError
        return item

    for options in ({}, {"on": Threads(1)}):
        for again in (Retry(10**9), Retry(3, delay=100)):
            flow = Input[int]().map(fail, retry=again, name="s", **options)
            with soon():
                async with flow.open() as run:
                    for _ in range(2):
                        before = run.report().stage("s").retries
                        await run.send(1)
                        while run.report().stage("s").retries == before:
                            await checkpoint()
                        assert run.interrupt() == 1
                    await run.send(2)
                    run.finish()
                    assert [item async for item in run] == [2]
                async with flow.open([1]) as run:
                    while not run.report().stage("s").retries:
                        await checkpoint()
            check_accounts(run.report(), over=True)


@virtual_time
async def test_stop_lets_the_tries_go_on() -> None:
    """What was accepted is processed to its end."""
    flaky = Flaky(3)
    async with flaky.stage("map", WAYS["async"], retry=Retry(3, delay=10)).open() as run:
        await run.send(1)
        await anyio.sleep(5)
        await run.stop()
        assert [item async for item in run] == [1]
    assert anyio.current_time() >= 20


def test_delays() -> None:
    """Fixed or doubled, never above `max_delay`, jitter added to that."""
    assert [Retry(9, delay=3).wait(n) for n in (1, 2, 9)] == [3, 3, 3]
    doubled = Retry(9999, delay=0.5, backoff="exponential")
    assert [doubled.wait(n) for n in (1, 2, 3, 7, 8, 9, 5000)] == [0.5, 1, 2, 32, 60, 60, 60]
    assert Retry(9, delay=100).wait(1) == 60
    assert Retry(9, delay=100, max_delay=1000).wait(1) == 100
    assert Retry(9, backoff="exponential").wait(5) == 0
    for _ in range(20):
        assert 10 <= Retry(9, delay=100, max_delay=10, jitter=2).wait(1) <= 12
        assert 0 <= Retry(9, jitter=2).wait(1) <= 2
