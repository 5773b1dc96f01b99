"""`run.explain()` and `run.graph`: the state of every stage, edge and output, in words and drawn."""

from __future__ import annotations

import threading
from typing import Any
from xml.etree import ElementTree

from anyio import Event, create_task_group, sleep, to_thread, wait_all_tasks_blocked

from flowstage import Graph, Input, Threads, concat, source

from .test_draw import ODD_NAMES, titles


def same(item: Any) -> Any:
    return item


async def quiet() -> None:
    """Let the run come to rest."""
    for _ in range(3):
        await wait_all_tasks_blocked()


def line_of(text: str, name: str) -> str:
    return next(line.strip() for line in text.splitlines() if line.strip().startswith(repr(name)))


async def test_an_idle_run() -> None:
    """Inputs are open, everybody waits for them, nothing is inside."""
    async with Input[int]("numbers").map(same).batch(2).open(buffer=3) as run:
        await quiet()
        assert run.explain() == (
            "stages:\n"
            "  'numbers': open, nobody sends\n"
            "  'same': waiting for input from 'numbers'\n"
            "  'batch': waiting for input from 'same'\n"
            "edges:\n"
            "  'numbers' to 'same': 0 of 3\n"
            "  'same' to 'batch': 0 of 3\n"
            "  'batch' to output 'batch': 0 of 3\n"
            "outputs:\n"
            "  'batch': unread"
        )
        run.finish()
        await quiet()
        assert "'batch': ended" in run.explain()
        assert "outputs:\n  'batch': read to its end" in run.explain()
    assert run.explain() == "the run is over"


async def test_an_edge_full_of_sentinels_is_full() -> None:
    """They take room, so they are counted, and told apart."""
    async with Input[int]("numbers").map(same).open(buffer=2) as run:
        await run.send(1)
        await run.send_sentinel("a")
        await run.send_sentinel("b")
        await quiet()
        told = run.explain()
    assert "'same' to output 'same': 2 of 2 (sentinels and gaps among them: 1)" in told
    assert "'same': waiting to give to 'same'" in told


async def test_calls_under_way_and_the_longest() -> None:
    """How many run, since when, with what."""
    go = Event()

    async def wait(item: str) -> str:
        await go.wait()
        return item

    async with Input[str]("words").map(wait, concurrency=3).open() as run:
        await run.send("the first")
        await sleep(0.03)
        await run.send("second")
        await quiet()
        text = run.explain()
        assert line_of(text, "wait").startswith("'wait': running 2 calls, the longest for ")
        assert line_of(text, "wait").endswith("2 in hand")
        (longest,) = [line for line in text.splitlines() if line.startswith("longest call: ")]
        assert longest.endswith("in 'wait', with 'the first'")
        go.set()
        await run.drain()
        assert "longest call" not in run.explain()


async def test_backpressure_senders_and_outputs() -> None:
    """Who waits to give, how full the edges are, who waits to send, who reads."""
    async with Input[int]("numbers").map(same).open(buffer=2) as run:
        async with create_task_group() as group:
            group.start_soon(run.feed, range(100))
            await quiet()
            text = run.explain()
            assert line_of(text, "same").startswith("'same': waiting to give to 'same'")
            assert line_of(text, "numbers").endswith("1 sender waits")
            assert "'numbers' to 'same': 2 of 2" in text
            assert "outputs:\n  'same': unread, 2 waiting" in text
            group.cancel_scope.cancel()
        run.interrupt()
        async with create_task_group() as group:
            group.start_soon(run._read_into, [[]])
            await quiet()
            assert "outputs:\n  'same': read: somebody waits for it" in run.explain()
            run.finish()


async def test_a_closed_output() -> None:
    """Enough was read there."""
    numbers = Input[int]("numbers")
    async with Graph(a=numbers.map(same), b=numbers.map(str)).open() as run:
        run.output("a").close()
        await quiet()
        text = run.explain()
        assert "  'a': closed" in text
        assert "'numbers' to 'same': 0 of 100, closed" in text
        assert line_of(text, "same") == "'same': ended"


async def test_a_stage_that_waits_for_a_seat() -> None:
    """A place may be taken by others: then the stage has work and cannot begin."""
    place, begun, go = Threads(1), threading.Event(), threading.Event()

    def hold(item: int) -> int:
        begun.set()
        go.wait(5)
        return item

    numbers = Input[int]("numbers")
    graph = Graph(numbers.map(hold, on=place), numbers.map(same, on=place))
    async with graph.open() as run:
        await run.send(1)
        await to_thread.run_sync(begun.wait)
        await run.send(2)
        await quiet()
        text = run.explain()
        go.set()
        await run.drain()
    states = {line_of(text, "hold"), line_of(text, "same")}
    assert sum("waiting for a seat" in state for state in states) == 1
    assert sum("running 1 call" in state for state in states) == 1


async def test_a_source_that_is_held_back_and_one_that_is_pulled() -> None:
    """A later input of a concat is not opened yet; a pull in flight is not the run's own wait."""
    go = Event()

    async def slowly() -> Any:
        await go.wait()
        yield 1

    first, second = source(slowly, name="first"), source([2], name="second")
    async with concat(first, second).open() as run:
        await quiet()
        text = run.explain()
        assert line_of(text, "first") == "'first': waiting for its source"
        assert line_of(text, "second") == "'second': held back until it is wanted"
        assert "circle" not in text
        go.set()
        await run.drain()


async def test_a_name_is_shown_as_a_literal() -> None:
    """Odd names and items break no line."""
    for name in ODD_NAMES[:9]:
        async with Input[Any](name).map(same, name=name + "2").open(buffer=1) as run:
            async with create_task_group() as group:
                group.start_soon(run.feed, [name] * 9)
                await quiet()
                assert len(run.explain().splitlines()) == 8
                group.cancel_scope.cancel()
            run.interrupt()


async def test_explaining_changes_nothing() -> None:
    """It may be called at any moment, as often as one likes."""
    numbers = source(range(40))
    async with numbers.map(same).batch(2, within=1).flat_map(list).open(buffer=2) as run:
        results = []
        async for item in run:
            run.explain(), str(run.graph), run.graph.to_svg()
            results.append(item)
    assert results == list(range(40))


async def test_the_graph_of_a_run_carries_figures() -> None:
    """Rates, fill and failures of the moment, in every drawing."""

    def picky(item: int) -> int:
        if item == 2:
            raise ValueError(item)
        return item

    flow = Input[int]("numbers").map(picky, on_error="skip").buffer(7, name="kept").batch(3)
    async with flow.open(buffer=5) as run:
        for item in range(20):
            await run.send(item)
            await sleep(0.002)
        graph = run.graph
        tree = str(graph)
        assert "1 skipped" in tree
        assert "⇒ [5/5] batch" in tree
        assert "/s" in tree
        assert "/7] kept" in tree
        for text in (graph.to_mermaid(), graph.to_dot(), graph.to_svg()):
            assert "5/5" in text
            assert "1 skipped" in text
        assert any("1 skipped" in title for title in titles(graph.to_svg()))
        assert graph._repr_mimebundle_().keys() == {"text/plain", "image/svg+xml"}
        run.interrupt()
        assert "⇒ [0/5] batch" in str(graph)
    assert ElementTree.fromstring(run.graph.to_svg()) is not None


async def test_a_drawing_without_figures_is_the_graphs_own() -> None:
    """The run's graph has the same stages and edges as the graph it was opened from."""
    flow = Input[int]("numbers").map(same)
    async with flow.open() as run:
        assert len(str(run.graph).splitlines()) == len(str(flow.graph).splitlines())
        assert len(titles(run.graph.to_svg())) == len(titles(flow.graph.to_svg()))
        assert repr(run.graph) == "<RunGraph of 2 stages>"
