"""Graphs with several inputs, sources and outputs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import MappingProxyType
from typing import Any

import anyio
import pytest

from flowstage import ClosedError, Failure, Flow, Graph, GraphError, Input, Sentinel, merge, source
from flowstage.operators import take

from .accounts import check_accounts, settle, soon
from .harness import no_leaks


def two_by_two() -> tuple[Flow[Any, Any], Flow[Any, Any], Graph]:
    a, b = Input[int]("a"), Input[int]("b")
    return a, b, Graph(up=merge(a, b), down=b.map(lambda v: -v))


async def test_named_and_unnamed_ends() -> None:
    x = Input[int]("x")
    double, text = x.map(lambda v: 2 * v, name="double"), x.map(str)
    assert await Graph(double, text).collect([1]) == {"double": [2], "str": ["1"]}
    assert await Graph(double, words=text).collect([1]) == {"double": [2], "words": ["1"]}
    twice = Graph(x.map(str), x.map(str))
    assert await twice.collect([1]) == {"str": ["1"], "str-2": ["1"]}


async def test_an_end_is_called_as_its_stage_is() -> None:
    """And never as another one, whatever the stages were called before they met in a graph."""
    first = Input[str]("in").map(str.strip)
    twice = first.map(str.upper).map(str.strip)
    for flows in ((twice, first), (first, twice)):
        graph = Graph(*flows)
        out = await graph.collect([" a "])
        assert out == {"strip": ["a"], "strip-2": ["A"]}
        assert {(e.source, e.target) for e in graph.edges} >= {
            ("strip", "strip"),
            ("strip-2", "strip-2"),
        }
    one = Input[int]().map(str).map(str)
    assert [(e.source, e.target) for e in one.graph.edges][-1] == ("str-2", "str-2")
    async with one.open([1]) as run:
        assert [item async for item in run.output("str-2")] == ["1"]
        with pytest.raises(GraphError, match="its ends are 'str-2'"):
            run.output("str")


def test_several_ends_of_one_stage() -> None:
    """All but the first have numbers that are no other stage's, and no other end's."""
    x = Input[int]("x")
    a, b = x.balance(2)
    c, d = b.balance(2)
    assert [*Graph(a, c, d)._topology.ends] == ["balance", "balance-2", "balance-2-2"]
    left = x.map(str, on_error="skip")
    ends = Graph(left, left.failures(), str=left.map(int))._topology.ends
    assert [*ends] == ["str-2", "failures", "str"]
    e, f = x.balance(2)
    g, h = x.balance(2)
    assert [*Graph(e, f, g, h)._topology.ends] == [
        "balance",
        "balance-3",
        "balance-2",
        "balance-2-2",
    ]


async def test_output_by_flow_and_by_name() -> None:
    x = Input[int]("x")
    a, b = x.map(str), x.map(lambda v: -v)
    async with Graph(words=a, rest=b).open([1, 2]) as run:
        assert run.output(a) is run.output("words")
        assert [item async for item in run.output(a)] == ["1", "2"]
        assert [item async for item in run.output("rest")] == [-1, -2]
        for wrong in (x, "words2", None, 3):
            with pytest.raises(
                GraphError, match="no end of this graph; its ends are 'words', 'rest'"
            ):
                run.output(wrong)


async def test_iterating_a_run_of_many_ends_is_an_error() -> None:
    _, _, graph = two_by_two()
    async with graph.open() as run:
        with pytest.raises(GraphError, match=r"2 ends \('up', 'down'\)"):
            async for _ in run:
                pass
        with pytest.raises(GraphError, match=r"run\.output"):
            run.events()


async def test_several_inputs() -> None:
    a, b, graph = two_by_two()
    out = await graph.collect({a: [1, 2], b: [3]})
    assert sorted(out["up"]) == [1, 2, 3]
    assert out["down"] == [-3]


async def test_one_input_has_a_source_and_the_other_is_pushed() -> None:
    a, b, graph = two_by_two()
    with no_leaks(), soon():
        async with graph.open({a: [1, 2]}) as run:
            await run.send(3)  # the only push input
            await run.send(4, to=b)
            with pytest.raises(GraphError, match="has a source of its own"):
                await run.send(5, to=a)
            with pytest.raises(GraphError, match="has a source of its own"):
                run.finish(to=a)
            run.finish(to=b)
            assert [item async for item in run.output("down")] == [-3, -4]
            assert sorted([item async for item in run.output("up")]) == [1, 2, 3, 4]
        check_accounts(run.report(), over=True)


async def test_send_needs_to_when_there_are_several() -> None:
    a, b, graph = two_by_two()
    other = Input[int]("other")
    async with graph.open() as run:
        with pytest.raises(GraphError, match=r"several inputs \('a', 'b'\); say which with to="):
            await run.send(1)
        with pytest.raises(GraphError, match="no Input of this graph"):
            await run.send(1, to=other)
        with pytest.raises(GraphError, match="no Input of this graph"):
            await run.send(1, to=a.map(str))
        await run.send(1, to=a)
        run.send_nowait(2, to=b)
        await run.feed([3, 4], to=b)
        run.finish(to=a)
        run.finish(to=a)
        with pytest.raises(anyio.ClosedResourceError):
            await run.send(5, to=a)
        run.finish()
        assert [item async for item in run.output("down")] == [-2, -3, -4]


async def test_sources_that_fit_no_input_are_refused() -> None:
    a, b, graph = two_by_two()
    stray = Input[int]("stray")
    with pytest.raises(GraphError, match="no Input of this graph; they are 'a', 'b'"):
        graph.open({stray: [1]})
    with pytest.raises(GraphError, match="several inputs"):
        graph.open([1])
    with pytest.raises(TypeError):
        graph.open({a: "text"})
    numbers = iter([1, 2])
    with pytest.raises(GraphError, match="one iterator cannot feed two inputs"):
        graph.open({a: numbers, b: numbers})
    shared = [1, 2]
    assert (await graph.collect({a: shared, b: shared}))["down"] == [-1, -2]
    with pytest.raises(GraphError, match="needs a source for input 'b'"):
        await graph.collect({a: [1]})
    with pytest.raises(GraphError, match="needs a source for input 'b'"):
        await graph.drain({a: [1]})
    with pytest.raises(GraphError, match="no Input to be given a source"):
        source([1]).open([2])


async def test_a_mapping_for_a_single_input() -> None:
    """It means "per input" when its keys are flows, as where there are several; else it is items."""
    x = Input[Any]("x")
    text = x.map(str)
    assert await text.collect({x: [1, 2]}) == ["1", "2"]
    assert (await Graph(a=text, b=x).collect(MappingProxyType({x: [1]})))["a"] == ["1"]
    assert await text.collect({"a": 1, "b": 2}) == ["a", "b"]
    assert await text.collect({}) == []
    assert len(await text.collect({x: 1, "b": 2})) == 2
    for stray in (Input[int]("x"), text):
        with pytest.raises(GraphError, match="no Input of this graph; they are 'x'"):
            text.open({stray: [1]})
        with pytest.raises(GraphError, match="no Input of this graph; they are 'x'"):
            text.open({x: [1], stray: [1]})
    with pytest.raises(TypeError, match="put 'text' into a list"):
        text.open({x: "text"})
    with pytest.raises(GraphError, match="no Input to be given a source"):
        source([1]).open({x: [2]})


async def test_collect_with_failures_and_sources() -> None:
    def fails(value: int) -> int:
        if value == 1:
            raise OSError(value)
        return value

    made = source([0, 1, 2])
    shown = made.map(fails, on_error="emit")
    out = await Graph(all=made, shown=shown, dead=shown.failures()).collect()
    assert out["all"] == [0, 1, 2]
    assert [type(item) for item in out["shown"]] == [int, Failure, int]
    assert [failure.item for failure in out["dead"]] == [1]


async def test_a_failure_comes_out_of_collect_and_drain_as_it_is() -> None:
    def fails(value: int) -> int:
        raise OSError("mine")

    x = Input[int]("x")
    graph = Graph(a=x.map(fails), b=x)
    for verb in (graph.collect, graph.drain):
        with no_leaks(), soon(), pytest.raises(OSError, match="mine"):
            await verb(range(1_000), buffer=1)


async def test_drain() -> None:
    seen: list[int] = []
    x = Input[int]("x")
    graph = Graph(a=x.tap(seen.append), b=x.batch(2))
    report = await graph.drain(range(500), buffer=1)
    assert seen == [*range(500)]
    check_accounts(report, over=True)


async def test_what_drain_refuses_is_no_group() -> None:
    """Another reader of one end, or the end of the run, is told as if there were just that end."""

    async def silent() -> AsyncIterator[int]:
        await anyio.sleep_forever()
        yield 0

    x = source(silent)
    with no_leaks(), soon():
        async with Graph(a=x.map(str), b=x).open() as run:
            async with anyio.create_task_group() as group:
                group.start_soon(anext, aiter(run.output(x)))
                await settle()
                with pytest.raises(anyio.BusyResourceError, match="'b'"):
                    await run.drain()
                group.cancel_scope.cancel()
        with pytest.raises(ClosedError, match="the run is over"):
            await run.drain()


async def test_closing_ends_one_by_one() -> None:
    x = Input[int]("x")
    graph = Graph(a=x.map(str), b=x.batch(2), c=x.pipe(take, 2))
    with no_leaks(), soon():
        async with graph.open() as run:
            run.output("a").close()
            run.output("a").close()
            assert run.output("a").closed
            with pytest.raises(anyio.ClosedResourceError, match="'a' was closed"):
                async for _ in run.output("a"):
                    pass
            for number in range(3):
                await run.send(number)
            await settle()
            run.output("b").close()
            assert [item async for item in run.output("c")] == [0, 1]
            await settle()
            with pytest.raises(anyio.ClosedResourceError):
                await run.send(9)
            with pytest.raises(anyio.ClosedResourceError):
                await run.send_sentinel()
        check_accounts(run.report(), over=True)


async def test_events_of_an_end() -> None:
    x = Input[Any]("x")
    graph = Graph(a=x, b=x.filter(lambda v: False))
    async with graph.open([1, Sentinel("s"), 2]) as run:
        assert [event async for event in run.output("a").events()] == [1, Sentinel("s"), 2]
        assert [event async for event in run.output("b").events()] == [Sentinel("s")]


async def test_the_ends_of_two_parts_that_are_not_connected() -> None:
    """A sentinel passes both; an end of one ends the other not."""
    a, b = Input[int]("a"), Input[int]("b")
    graph = Graph(a=a.map(str), b=b.map(str))
    with soon():
        async with graph.open() as run:
            await run.send_sentinel("s")
            run.finish(to=a)
            assert [event async for event in run.output("a").events()] == [Sentinel("s")]
            await run.send(1, to=b)
            await run.send_sentinel("t")
            run.finish()
            events = [event async for event in run.output("b").events()]
            assert events == [Sentinel("s"), "1", Sentinel("t")]


def test_unused_branches_are_refused() -> None:
    x = Input[int]("x")
    ways = x.route(lambda v: v % 2, [0, 1], name="parity")
    with pytest.raises(GraphError, match="nobody reads branch 1 of 'parity'"):
        ways[0].graph  # noqa: B018
    with pytest.raises(GraphError, match="nobody reads branch 1 of 'balance'"):
        Graph(x.balance(2)[0])
    Graph(ways[0], ways[1])


def test_names() -> None:
    x = Input[int]("x")
    flow = x.map(str).map(str).map(int, name="str-2").map(str)
    assert [stage.name for stage in flow.graph.stages] == ["x", "str", "str-3", "str-2", "str-4"]
    with pytest.raises(GraphError, match="two stages are named 'twin'"):
        x.map(str, name="twin").map(str, name="twin").graph  # noqa: B018
    with pytest.raises(GraphError, match="two stages are named 'x'"):
        merge(x, Input[int]("x")).graph  # noqa: B018
    names = [stage.name for stage in merge(Input(), Input(), source([]), source([])).graph.stages]
    assert names == ["input", "input-2", "source", "source-2", "merge"]


def test_graphs_that_are_none() -> None:
    x = Input[int]("x")
    with pytest.raises(GraphError, match="at least one flow"):
        Graph()
    with pytest.raises(TypeError, match="made of flows"):
        Graph([x])
    with pytest.raises(GraphError, match="same flow ends the graph twice"):
        Graph(x, again=x)


async def test_a_graph_runs_many_times_at_once() -> None:
    a, b, graph = two_by_two()
    out: list[dict[str, list[Any]]] = []

    async def one(number: int) -> None:
        out.append(await graph.collect({a: [number], b: [number]}))

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    assert sorted(o["down"] for o in out) == sorted([-n] for n in range(20))
    assert all(o["up"] == [-o["down"][0]] * 2 for o in out)


async def test_the_bound_of_a_run() -> None:
    """It depends on the buffer that the run was opened with."""
    flow = Input[int]().map(str).batch(2)
    graph = flow.graph
    assert graph.bound == graph.bound_with(100)
    for buffer in (0, 3, 100):
        async with flow.open(buffer=buffer) as run:
            assert run.graph.bound == graph.bound_with(buffer)
    assert graph.bound_with(0) < graph.bound_with(3) < graph.bound
    with pytest.raises(ValueError, match="buffer must be at least 0, not -1"):
        graph.bound_with(-1)
    with pytest.raises(TypeError, match="buffer must be a whole number"):
        graph.bound_with(True)
