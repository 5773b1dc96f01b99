"""One flow after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowstage import Flow, Graph, GraphError, Input, Sentinel, concat, merge, source

from .accounts import check_accounts, settle, soon
from .harness import no_leaks


def opened(log: list[str], name: str, items: Any = (0,)) -> Flow[Any, Any]:
    """A source that says when it is opened and when it is closed."""

    async def made() -> Any:
        log.append(f"open {name}")
        try:
            for item in items:
                yield item if isinstance(item, Sentinel) else f"{name}{item}"
        finally:
            log.append(f"close {name}")

    return source(made, name=name)


async def test_the_next_source_is_opened_when_the_last_has_ended() -> None:
    log: list[str] = []
    flow = concat(*(opened(log, name) for name in "abc"))
    assert await flow.collect() == ["a0", "b0", "c0"]
    assert log == ["open a", "close a", "open b", "close b", "open c", "close c"]


NESTED: dict[str, Callable[[list[str]], Flow[Any, Any]]] = {
    "second": lambda log: concat(opened(log, "a"), concat(opened(log, "b"), opened(log, "c"))),
    "first": lambda log: concat(concat(opened(log, "a"), opened(log, "b")), opened(log, "c")),
    "below stages": lambda log: concat(
        opened(log, "a"),
        concat(opened(log, "b").map(str).batch(1), opened(log, "c").buffer(2)).map(
            lambda v: v if isinstance(v, str) else v[0]
        ),
    ),
}


@pytest.mark.parametrize("kind", NESTED)
async def test_nested_is_as_lazy(kind: str) -> None:
    log: list[str] = []
    assert await NESTED[kind](log).collect() == ["a0", "b0", "c0"]
    assert log == ["open a", "close a", "open b", "close b", "open c", "close c"]


async def test_a_source_that_is_never_reached_is_never_opened() -> None:
    log: list[str] = []
    with no_leaks(), soon():
        async with concat(opened(log, "a", range(9)), opened(log, "b")).open(buffer=1) as run:
            async for _ in run:
                break
    assert log == ["open a", "close a"]


async def test_a_source_that_is_used_elsewhere_too_is_opened_at_once() -> None:
    log: list[str] = []
    b = opened(log, "b")
    first = Input[str]("first")
    graph = Graph(all=concat(first, b), b=b)
    with no_leaks(), soon():
        async with graph.open() as run:
            await settle()
            assert log == ["open b", "close b"]
            assert [item async for item in run.output("b")] == ["b0"]
            await run.send("x")
            run.finish()
            assert [item async for item in run.output("all")] == ["x", "b0"]


async def test_sentinels_once() -> None:
    """Also when inputs that are not read yet have it in their buffers."""
    a, b = Input[int]("a"), Input[int]("b")
    with soon():
        async with concat(a, b).open(buffer=2) as run:
            for number in range(5):  # more than the buffer of the unread one holds
                await run.send(number, to=a)
                await run.send_sentinel(number)
                await anext(run.events())
                await anext(run.events())
            run.finish(to=a)
            await settle()
            await run.send_sentinel("late")
            await run.send(9, to=b)
            run.finish()
            assert [event async for event in run.events()] == [Sentinel("late"), 9]
        check_accounts(run.report(), over=True)


async def test_a_sentinel_between_two_inputs_keeps_its_place() -> None:
    """Sent after the first was finished and before an item of the second: it comes between."""
    a, b = Input[int]("a"), Input[int]("b")
    with soon():
        async with concat(a, b).open() as run:
            await run.send(1, to=a)
            run.finish(to=a)
            await run.send_sentinel("s")
            await run.send(2, to=b)
            run.finish()
            assert [event async for event in run.events()] == [1, Sentinel("s"), 2]


async def test_sentinels_of_sources() -> None:
    s, t = Sentinel("s"), Sentinel("t")
    log: list[str] = []
    flow = concat(opened(log, "a", [s, 0, s]), opened(log, "b", [t, 1, t]))
    async with flow.open() as run:
        assert [event async for event in run.events()] == [s, "a0", s, t, "b1", t]


async def test_what_has_ended_stays_ended_after_an_interrupt() -> None:
    a, b = Input[int]("a"), Input[int]("b")
    with soon():
        async with concat(a, b).open() as run:
            await run.send(1, to=a)
            run.finish(to=a)
            await settle()
            run.interrupt()
            await run.send(2, to=b)
            run.finish()
            assert [item async for item in run] == [2]


async def test_a_merge_of_a_late_source_and_a_live_input() -> None:
    """The join before the `concat` aligns what came before the source was opened."""
    log: list[str] = []
    a, c = Input[str]("a"), Input[str]("c")
    graph = Graph(all=concat(a, merge(opened(log, "b"), c)), c=c)
    with no_leaks(), soon():
        async with graph.open() as run:
            await run.send_sentinel(1)
            await run.send("c0", to=c)
            run.finish(to=a)
            await settle()
            await run.send_sentinel(2)
            run.finish()
            events = [event async for event in run.output("all").events()]
    assert sorted(e for e in events if isinstance(e, str)) == ["b0", "c0"]
    assert [e.value for e in events if isinstance(e, Sentinel)] == [1, 2]
    assert events.index("c0") > events.index(Sentinel(1))


async def test_a_source_a_thousand_stages_away() -> None:
    flow: Any = source([1], name="far")
    for _ in range(1_000):
        flow = flow.buffer(1)
    assert await concat(source([0], name="near"), flow).collect() == [0, 1]


def test_flows_with_a_common_ancestor_are_refused() -> None:
    x = Input[int]("x")
    with pytest.raises(GraphError, match=r"both grow from 'x' would deadlock.*use merge\(\)"):
        concat(x.map(str), x)


@pytest.mark.parametrize("settled", [False, True])
async def test_a_sentinel_right_after_the_end_of_an_input(settled: bool) -> None:
    """It does not pass through an input that takes no more, and so ahead of what was sent elsewhere."""
    a, b = Input[str]("a"), Input[str]("b")
    with soon():
        async with concat(a, b).open() as run:
            await run.send("a1", to=a)
            run.finish(to=a)
            if settled:
                await settle()
            await run.send("b1", to=b)
            await run.send_sentinel("s")
            await run.send("b2", to=b)
            run.finish()
            assert [event async for event in run.events()] == ["a1", "b1", Sentinel("s"), "b2"]
