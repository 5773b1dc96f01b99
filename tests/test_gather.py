"""Rows of the branches of one flow, paired by the item."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from flowstage import Failure, Flow, Graph, GraphError, Input, Sentinel, Threads, gather, merge, zip

from .accounts import check_accounts, soon
from .harness import no_leaks


def odd(value: int) -> int:
    return value % 2


def fails_at_3(value: int) -> int:
    if value == 3:
        raise OSError(value)
    return value


async def later(value: int) -> int:
    await anyio.lowlevel.checkpoint()
    return fails_at_3(value)


buffers = pytest.mark.parametrize("buffer", [0, 1, 100])
FALLIBLE: dict[str, Any] = {
    "inline": lambda x, **o: x.map(fails_at_3, **o),
    "async": lambda x, **o: x.map(later, **o),
    "pool": lambda x, **o: x.map(later, concurrency=3, **o),
    "threads": lambda x, **o: x.map(fails_at_3, on=Threads(2), **o),
}


@buffers
async def test_pairs_by_item(buffer: int) -> None:
    """A filter in one branch drops the rows of all, and counts them."""
    x = Input[int]("x")
    with no_leaks(), soon():
        async with gather(x.filter(odd), x.map(str), x).open(range(6), buffer=buffer) as run:
            assert [row async for row in run] == [(1, "1", 1), (3, "3", 3), (5, "5", 5)]
        check_accounts(run.report(), over=True)
    (stage,) = (stage for stage in run.report().stages if stage.kind == "gather")
    assert (stage.given, stage.filtered) == (3, 6)  # three rows of two parts were dropped


@pytest.mark.parametrize("kind", FALLIBLE)
@buffers
async def test_a_row_with_a_skipped_part_is_dropped(kind: str, buffer: int) -> None:
    x = Input[int]("x")
    flow = gather(FALLIBLE[kind](x, on_error="skip"), x.map(lambda v: -v))
    with no_leaks(), soon():
        assert await flow.collect(range(6), buffer=buffer) == [(n, -n) for n in range(6) if n != 3]


@pytest.mark.parametrize("kind", FALLIBLE)
@buffers
async def test_a_failure_makes_the_row_one(kind: str, buffer: int) -> None:
    x = Input[int]("x")
    flow = gather(FALLIBLE[kind](x, on_error="emit"), x.filter(lambda v: v != 3))
    with no_leaks(), soon():
        rows = await flow.collect(range(6), buffer=buffer)
    assert isinstance(rows[3], Failure)
    assert rows[3].item == 3
    assert [row for row in rows if not isinstance(row, Failure)] == [
        (n, n) for n in range(6) if n != 3
    ]


@buffers
async def test_nested(buffer: int) -> None:
    """A row that the inner one drops is missing in the outer one too."""
    x = Input[int]("x")
    inner = gather(x.filter(odd), x.map(str))
    flow = gather(inner, x.filter(lambda v: v != 3), x)
    assert await flow.collect(range(6), buffer=buffer) == [((1, "1"), 1, 1), ((5, "5"), 5, 5)]


@buffers
async def test_nested_below_a_fork_of_its_own(buffer: int) -> None:
    x = Input[int]("x")
    low = x.filter(odd)
    flow = gather(gather(low.map(str), low.filter(lambda v: v != 3)), x)
    assert await flow.collect(range(6), buffer=buffer) == [(("1", 1), 1), (("5", 5), 5)]


@buffers
async def test_with_its_own_descendant(buffer: int) -> None:
    x = Input[int]("x")
    low = x.filter(odd)
    assert await gather(x, low).collect(range(4), buffer=buffer) == [(1, 1), (3, 3)]
    assert await gather(low, low.map(str)).collect(range(4), buffer=buffer) == [(1, "1"), (3, "3")]


@pytest.mark.parametrize("size", [0, 1, 5])
async def test_buffers_on_the_way(size: int) -> None:
    """Also right below a fork whose own stage drops items."""
    low = Input[int]("x").filter(odd)
    flow = gather(low.buffer(size), low.map(str))
    assert await flow.collect(range(10), buffer=1) == [(n, str(n)) for n in range(1, 10, 2)]
    x = Input[int]("x")
    flow = gather(x.filter(odd).buffer(size), x.buffer(size).map(str))
    assert await flow.collect(range(10), buffer=1) == [(n, str(n)) for n in range(1, 10, 2)]


async def test_holes_do_not_leak() -> None:
    """Other readers of a branch see nothing of the rows that were dropped."""
    x = Input[int]("x")
    kept = x.filter(odd)
    graph = Graph(
        rows=gather(kept, x),
        kept=kept,
        batches=kept.batch(2),
        merged=merge(kept, x.map(lambda v: v * 10)),
        below=gather(kept, x).map(lambda row: row[0]),
    )
    with no_leaks(), soon():
        async with graph.open([1, Sentinel("s"), *range(6)]) as run:
            got = {name: [e async for e in run.output(name).events()] for name in graph_names(run)}
    s = Sentinel("s")
    assert got["kept"] == [1, s, 1, 3, 5]
    assert got["batches"] == [[1], s, [1, 3], [5]]
    assert got["rows"] == [(1, 1), s, (1, 1), (3, 3), (5, 5)]
    assert got["below"] == got["kept"]
    assert sum(isinstance(event, int) for event in got["merged"]) == 4 + 7
    for edge in run.report().edges:
        if edge.target == "kept":
            assert edge.entered == 4


def graph_names(run: Any) -> list[str]:
    return list(run._live.topology.ends)


async def test_contexts_are_merged_left_to_right() -> None:
    def mark(value: int, context: Any) -> int:
        context["who"] = value
        context[value] = True
        return value

    def show(row: Any, context: Any) -> Any:
        return dict(context)

    x = Input[int]("x")
    a = x.map(lambda v: v + 1).map(mark, pass_context=True, name="a")
    b = x.map(lambda v: v + 2).map(mark, pass_context=True, name="b")
    flow = gather(a, b).map(show, pass_context=True)
    assert await flow.collect([0]) == [{"who": 2, 1: True, 2: True}]


@pytest.mark.parametrize("slow", [0, 1])
async def test_a_branch_that_overtakes_is_bounded(slow: int) -> None:
    """Its rows wait in its buffer, not without end."""
    taken = [0]

    def count(value: int) -> int:
        taken[0] += 1
        return value

    async def never(value: int) -> int:
        await anyio.sleep_forever()
        return value

    x = Input[int]("x")
    branches: list[Any] = [x.map(count), x.map(count)]
    branches[slow] = x.map(never)
    with no_leaks():
        with anyio.move_on_after(0.05):
            await gather(*branches).collect(range(1_000), buffer=2)
    assert taken[0] <= 8


async def tagged(items: Any) -> Any:
    async for item in items:
        yield item


REFUSED: dict[str, Any] = {
    "flat_map": lambda x: x.flat_map(lambda v: [v]),
    "batch": lambda x: x.batch(2),
    "transform": lambda x: x.transform(tagged),
    "unordered": lambda x: x.map(later, concurrency=2, ordered=False),
    "lossy": lambda x: x.buffer(2, overflow="drop_oldest"),
    "route": lambda x: x.route(odd, [0, 1])[0],
    "balance": lambda x: x.balance(2)[0],
    "failures": lambda x: x.map(str).failures(),
    "merge": lambda x: merge(x.map(str), x.map(int)),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_at_its_line(kind: str) -> None:
    x = Input[int]("x")
    with pytest.raises(GraphError, match=r"gather\(\) cannot pair .* move it before the fork"):
        gather(x, REFUSED[kind](x))
    with pytest.raises(GraphError, match="move it before the fork"):
        gather(REFUSED[kind](x).map(str, name="below"), x)


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if kind != "failures"])
async def test_above_the_fork_they_are_welcome(kind: str) -> None:
    x = Input[int]("x")
    rest: dict[str, Flow[Any, Any]] = {}
    if kind == "route":
        ways = x.route(odd, [0, 1])
        above, rest = ways[0], {"rest": ways[1]}
    elif kind == "balance":
        above, rest["rest"] = x.balance(2)
    else:
        above = REFUSED[kind](x)
    rows = gather(above.map(lambda v: v), above.map(lambda v: [v]))
    graph = Graph(rows=rows, above=above.map(lambda v: v), **rest)
    with no_leaks(), soon():
        out = await graph.collect(range(3))
    assert out["rows"] == [(one, [one]) for one in out["above"]]
    assert out["rows"]


def test_flows_of_different_entries_are_refused() -> None:
    with pytest.raises(GraphError, match="none in common"):
        gather(Input[int]("a"), Input[int]("b"))
    a, b = Input[int]("a"), Input[int]("b")
    with pytest.raises(GraphError, match="pairs by position"):
        gather(zip(a, b), a)


async def test_one_flow() -> None:
    x = Input[int]("x")
    assert await gather(x.filter(odd)).collect(range(4)) == [(1,), (3,)]


def test_forty_below_one_another() -> None:
    """The cost of the checks is that of the graph, not of the ways through it."""
    flow: Any = Input[int]("x")
    for _ in range(40):
        flow = gather(flow.map(str), flow.map(str)).map(str)
    assert len(flow.graph.stages) == 1 + 40 * 4
