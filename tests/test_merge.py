"""Items of several flows as they come; failures as data, merged back."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from flowstage import Failure, Graph, Input, Sentinel, Threads, merge, source

from .accounts import check_accounts, settle, soon
from .harness import no_leaks


async def test_ends_when_all_have_ended() -> None:
    a, b = Input[int]("a"), Input[int]("b")
    async with merge(a, b).open() as run:
        run.finish(to=a)
        await run.send(1, to=b)
        await settle()
        await run.send(2, to=b)
        run.finish()
        assert [item async for item in run] == [1, 2]


@pytest.mark.parametrize("hot", [0, 1])
async def test_a_hot_input_cannot_starve_another(hot: int) -> None:
    """While one always has something, the other is read in turn."""

    def endless() -> Any:
        while True:
            yield "hot"

    async def rare() -> Any:
        for number in range(5):
            await anyio.lowlevel.checkpoint()
            yield number

    flows = [source(rare, name="rare"), source(rare, name="other")]
    flows[hot] = source(endless, name="endless")
    seen: list[Any] = []
    with no_leaks(), soon():
        async with merge(*flows).open() as run:
            async for item in run:
                if item == "hot":
                    seen.append(item)
                else:
                    assert len(seen) < 3_000  # some buffers and some turns
                    seen.clear()
                    if item == 4:
                        break


async def test_an_input_that_brought_a_sentinel_is_not_read_until_the_others_have() -> None:
    a, b = Input[Any]("a"), Input[Any]("b")
    slow = anyio.Event()

    async def wait(value: Any) -> Any:
        await slow.wait()
        return value

    async with merge(a.map(wait), b).open() as run:
        await run.send("a1", to=a)
        await run.send("b1", to=b)
        await run.send_sentinel("s")
        await run.send("b2", to=b)
        events = run.events()
        assert await anext(events) == "b1"
        await settle()
        slow.set()
        assert [await anext(events) for _ in range(3)] == ["a1", Sentinel("s"), "b2"]


async def test_an_input_that_ends_counts_as_aligned() -> None:
    a, b = Input[Any]("a"), Input[Any]("b")
    async with merge(a, b).open() as run:
        run.finish(to=a)
        await run.send_sentinel("s")
        await run.send(1, to=b)
        run.finish()
        assert [event async for event in run.events()] == [Sentinel("s"), 1]


async def test_a_thousand_inputs() -> None:
    x = Input[int]("x")
    flow = merge(*(x.map(lambda v: v) for _ in range(1_000)))
    with soon():
        out = await flow.collect(range(5))
    assert sorted(out) == sorted([*range(5)] * 1_000)


def plain(value: int) -> int:
    if value % 3 == 0:
        raise OSError(value)
    return value


async def waits(value: int) -> int:
    await anyio.lowlevel.checkpoint()
    return plain(value)


STAGES: dict[str, Any] = {
    "inline": lambda x, **o: x.map(plain, **o),
    "async": lambda x, **o: x.map(waits, **o),
    "pool": lambda x, **o: x.map(waits, concurrency=4, **o),
    "unordered": lambda x, **o: x.map(waits, concurrency=4, ordered=False, **o),
    "threads": lambda x, **o: x.map(plain, on=Threads(2), **o),
}
PUSHED = [Input[int]("x"), source(range(30), name="x")]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("on_error", ["skip", "emit"])
@pytest.mark.parametrize("buffer", [0, 1, 100])
@pytest.mark.parametrize("entry", [0, 1], ids=["input", "source"])
async def test_failures_merged_back(stage: str, on_error: Any, buffer: int, entry: int) -> None:
    """The dead letters and the main branch meet again, and nobody waits for ever."""
    main = STAGES[stage](PUSHED[entry], on_error=on_error)
    flow = merge(main, main.failures().map(lambda failure: ("dead", failure.item)))
    with no_leaks(), soon():
        opening = flow.open(None if entry else range(30), buffer=buffer)
        async with opening as run:
            events = [event async for event in run.events()]
        check_accounts(run.report(), over=True)
    failed = [number for number in range(30) if number % 3 == 0]
    assert sorted(e for e in events if isinstance(e, int)) == [n for n in range(30) if n % 3]
    assert sorted(e[1] for e in events if isinstance(e, tuple)) == failed
    emitted = sorted(e.item for e in events if isinstance(e, Failure))
    assert emitted == (failed if on_error == "emit" else [])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("entry", [0, 1], ids=["input", "source"])
async def test_sentinels_reach_the_failures(stage: str, entry: int) -> None:
    """Once on the failures' branch, once where it meets the main one, also beside a source."""
    first = Input[int]("x") if entry == 0 else source([0, Sentinel("s"), 1, 3], name="x")
    main = STAGES[stage](first, on_error="skip")
    graph = Graph(both=merge(main, main.failures()), dead=main.failures())
    given = [0, Sentinel("s"), 1, 3] if entry == 0 else None
    with no_leaks(), soon():
        async with graph.open(given) as run:
            dead = [event async for event in run.output("dead").events()]
            both = [event async for event in run.output("both").events()]
    for events in (dead, both):
        assert [event for event in events if isinstance(event, Sentinel)] == [Sentinel("s")]
    assert [getattr(event, "item", "s") for event in dead] == [0, "s", 3]


async def test_when_only_the_failures_are_wanted_the_stage_goes_on() -> None:
    main = Input[int]("x").map(plain, on_error="skip")
    graph = Graph(main=main, dead=main.failures())
    with no_leaks(), soon():
        async with graph.open(range(9), buffer=1) as run:
            run.output("main").close()
            assert [failure.item async for failure in run.output("dead")] == [0, 3, 6]
        check_accounts(run.report(), over=True)


def test_refused() -> None:
    x = Input[int]("x")
    with pytest.raises(ValueError, match="at least one flow"):
        merge()
    with pytest.raises(ValueError, match="same flow twice"):
        merge(x, x)
    with pytest.raises(TypeError, match="takes flows"):
        merge(x, [1])  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="calls a function"):
        x.failures()
