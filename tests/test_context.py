"""An item's context: whose it is, who shares it, where a fresh one begins; and context variables."""

from __future__ import annotations

import contextvars
from collections import UserDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import flowstage
from flowstage import (
    Failure,
    Flow,
    Graph,
    Input,
    Retry,
    Threads,
    concat,
    gather,
    merge,
    source,
    zip_latest,
)

from .accounts import settle, soon

VERBS = ("map", "flat_map", "filter", "tap")
WAYS: dict[str, dict[str, Any]] = {
    "inline": {},
    "async": {"is_async": True},
    "async with options": {"is_async": True, "timeout": 9, "retry": Retry(2)},
    "pool": {"is_async": True, "concurrency": 3},
    "unordered": {"is_async": True, "concurrency": 3, "ordered": False},
    "threads": {"on": Threads(2)},
    "threads with options": {"on": Threads(2), "timeout": 9, "retry": Retry(2)},
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def stage(flow: Flow[Any, Any], verb: str, note: Any, way: dict[str, Any], **more: Any) -> Any:
    """Add a stage that calls `note(item, context)` and passes the item on, whatever the verb."""
    options = {name: value for name, value in way.items() if name != "is_async"}

    def answer(item: Any) -> Any:
        return {"flat_map": [item], "filter": True}.get(verb, item)

    def plain(item: Any, *, context: Any) -> Any:
        note(item, context)
        return answer(item)

    async def later(item: Any, *, context: Any) -> Any:
        await checkpoint()
        return plain(item, context=context)

    async def values(item: Any, *, context: Any) -> AsyncIterator[Any]:
        await checkpoint()
        note(item, context)
        yield item

    is_async = way.get("is_async")
    fn = (values if verb == "flat_map" else later) if is_async else plain
    return getattr(flow, verb)(fn, pass_context=True, **options, **more)


@EVERY_WAY
@pytest.mark.parametrize("verb", VERBS)
async def test_that_very_object(verb: str, way: dict[str, Any]) -> None:
    """What `send`, `send_nowait` and `call` were given, whatever mapping it is."""
    for begin in (dict, UserDict):
        seen: list[Any] = []
        mine: list[Any] = [begin(n=number) for number in range(3)]
        flow = stage(Input[int](), verb, lambda item, context: seen.append((item, context)), way)
        with soon():
            async with flow.open(context={"n": "open"}) as run:
                await run.send(0, context=mine[0])
                run.send_nowait(1, context=mine[1])
                run.finish()
                assert len([item async for item in run]) == 2
            await flow.call(2, context=mine[2])
        assert len(seen) == 3
        for item, context in seen:
            assert context is mine[item]


@EVERY_WAY
@pytest.mark.parametrize("verb", VERBS)
async def test_a_fresh_copy_for_each_item(verb: str, way: dict[str, Any]) -> None:
    """Of `open(context=)`, for what comes from a source or without a context; shallow."""
    shared: list[Any] = []
    default = {"shared": shared}
    seen: list[Any] = []

    def note(item: Any, context: Any) -> None:
        assert set(context) == {"shared"}
        assert context["shared"] is shared
        context["own"] = item
        seen.append(context)

    sources: tuple[Flow[Any, Any], ...] = (source(range(5)), source(range(5), on=Threads(1)))
    for flow in (*sources, Input[int]()):
        seen.clear()
        with soon():
            async with stage(flow, verb, note, way).open(context=default) as run:
                if flow not in sources:
                    for item in range(5):
                        await run.send(item)
                await run.drain()
        assert len({id(context) for context in seen}) == 5
        assert sorted(context["own"] for context in seen) == list(range(5))
    assert default == {"shared": shared}


@EVERY_WAY
async def test_shared_by_the_stages_that_an_item_passes(way: dict[str, Any]) -> None:
    """Through every kind of call, task boundaries, buffers and merges."""
    seen: list[Any] = []

    def put(item: Any, context: Any) -> None:
        context["path"] = [item]

    def add(item: Any, context: Any) -> None:
        context["path"].append(item)

    flow = stage(Input[int](), "map", put, way, name="first")
    flow = flow.map(lambda item: item + 10, name="plain").buffer(2)
    flow = stage(flow, "tap", add, WAYS["inline"], name="second")
    flow = stage(flow, "filter", add, way, name="third")
    flow = merge(flow, source([]))
    flow = flow.map(lambda item, context: seen.append(context["path"]), pass_context=True)
    with soon():
        await flow.drain(range(5))
    assert sorted(seen) == [[n, n + 10, n + 10] for n in range(5)]


async def test_without_a_context_there_is_an_empty_one() -> None:
    seen: list[Any] = []
    flow = stage(Input[int](), "map", lambda item, context: seen.append(context), {})
    await flow.collect([1, 2])
    await flow.call(3)
    assert seen == [{}, {}, {}]
    assert len({id(context) for context in seen}) == 3


async def test_never_guessed() -> None:
    """A parameter of that name says nothing."""
    seen: list[Any] = []

    def fn(item: int, context: Any = "mine") -> int:
        seen.append(context)
        return item

    await Input[int]().map(fn).call(1, context={"a": 1})
    await Input[int]().map(fn, pass_context=True).call(1, context={"a": 1})
    assert seen == ["mine", {"a": 1}]


@EVERY_WAY
async def test_each_value_of_a_flat_map_has_a_copy(way: dict[str, Any]) -> None:
    """Shallow; what one value's stages put in is not seen by another's."""
    shared: list[Any] = []
    mine = {"shared": shared}
    seen: list[Any] = []
    options = {name: value for name, value in way.items() if name != "is_async"}

    async def later(item: int) -> AsyncIterator[int]:
        for value in range(item):
            yield value

    def lazily(item: int) -> Iterator[int]:
        yield from range(item)

    def note(item: int, context: Any) -> int:
        assert set(context) == {"shared"}
        assert context["shared"] is shared
        context["own"] = item
        seen.append(context)
        return item

    for fn in (later,) if way.get("is_async") else (lazily, range):
        seen.clear()
        flow = Input[int]().flat_map(fn, **options, name="flat").map(note, pass_context=True)
        with soon():
            async with flow.open() as run:
                await run.send(3, context=mine)
                await run.send(1, context=mine)
                await run.drain()
        assert len({id(context) for context in seen}) == 4
        assert mine == {"shared": shared}


async def test_branches_do_not_share() -> None:
    """One branch goes on with the mapping itself, the further ones with copies."""
    mine: dict[str, Any] = {"a": [1]}
    seen: dict[str, Any] = {}

    def note(name: str) -> Any:
        def fn(item: int, context: Any) -> int:
            assert set(context) == {"a"}
            assert context["a"] is mine["a"] or name in seen
            seen[name] = context
            context[name] = item
            return item

        return fn

    fork = Input[int]().map(abs)
    branches = [fork.map(note(name), pass_context=True, name=name) for name in "xyz"]
    with soon():
        async with Graph(*branches).open() as run:
            await run.send(1, context=mine)
            await run.drain()
    assert len({id(context) for context in seen.values()}) == 3
    assert sum(context is mine for context in seen.values()) == 1
    assert all(set(context) == {"a", name} for name, context in seen.items())


async def test_route_and_balance_pass_it_on() -> None:
    """An item goes one way only, so nothing is copied."""
    seen: list[Any] = []
    mine = [{"n": number} for number in range(6)]

    def note(item: int, context: Any) -> int:
        seen.append((item, context))
        return item

    def routed(flow: Flow[Any, Any]) -> Any:
        return flow.route(lambda item: item % 2, [0, 1]).values()

    def balanced(flow: Flow[Any, Any]) -> Any:
        return flow.balance(2)

    for split in (routed, balanced):
        seen.clear()
        flow = merge(*(branch.map(note, pass_context=True) for branch in split(Input[int]())))
        with soon():
            async with flow.open() as run:
                for number in range(6):
                    await run.send(number, context=mine[number])
                await run.drain()
        assert len(seen) == 6
        assert all(context is mine[item] for item, context in seen)


async def test_gather_merges_left_to_right() -> None:
    """What the right branch puts in wins; what a branch left alone stays."""

    def put(**values: Any) -> Any:
        def fn(item: int, context: Any) -> int:
            context.update(values)
            return item

        return fn

    fork = Input[int]()
    rows = gather(
        fork.map(put(both="left", left=1, start="changed"), pass_context=True, name="left"),
        fork.map(put(both="right", right=1), pass_context=True, name="right"),
    )
    seen: list[Any] = []
    flow = rows.tap(lambda row, context: seen.append(context), pass_context=True)
    mine = {"start": "old"}
    with soon():
        await flow.call(1, context=mine)
    assert seen == [{"start": "old", "both": "right", "left": 1, "right": 1}]
    assert all(context is not mine for context in seen)


async def test_where_a_fresh_one_begins() -> None:
    """At batch, zip, zip_latest and transform: what is made of several items is no item's own."""

    def put(item: Any, context: Any) -> Any:
        context["gone"] = True
        context["shared"].append(item)
        return item

    async def passing(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield item

    def marked(flow: Flow[Any, Any]) -> Flow[Any, Any]:
        return flow.map(put, pass_context=True, name="put")

    def other() -> Flow[Any, Any]:
        return source(range(4), name="other").map(put, pass_context=True, name="other put")

    lines: dict[str, Any] = {
        "batch": lambda flow: flow.batch(2),
        "batch of one": lambda flow: flow.batch(1),
        "transform": lambda flow: flow.transform(passing),
        "segments": lambda flow: flow.transform(passing, segments=True),
        "zip": lambda flow: flowstage.zip(flow, other().map(abs, name="z")),
        "zip_latest": lambda flow: zip_latest(flow, other().map(abs, name="z")),
    }
    for line in lines.values():
        shared: list[Any] = []
        default = {"shared": shared, "n": 1}
        seen: list[Any] = []

        def look(item: Any, context: Any, seen: list[Any] = seen) -> Any:
            seen.append(context)
            context["mine"] = item
            return item

        flow = line(marked(source(range(4), name="start"))).map(
            look, pass_context=True, name="look"
        )
        with soon():
            await flow.drain(context=default)
        assert seen
        assert len({id(context) for context in seen}) == len(seen)
        for context in seen:
            assert set(context) == {"shared", "n", "mine"}
            assert context["shared"] is shared
        assert shared
        assert default == {"shared": shared, "n": 1}


async def test_concat_and_merge_pass_it_on() -> None:
    """They make nothing of the items, so the context stays."""

    def put(item: Any, context: Any) -> Any:
        context["from"] = item
        return item

    seen: list[Any] = []
    for join in (merge, concat):
        seen.clear()
        flows = [source([n]).map(put, pass_context=True, name=f"put {n}") for n in range(3)]
        flow = join(*flows).tap(
            lambda item, context: seen.append((item, context["from"])), pass_context=True
        )
        with soon():
            await flow.drain()
        assert sorted(seen) == [(0, 0), (1, 1), (2, 2)]


@EVERY_WAY
@pytest.mark.parametrize("verb", VERBS)
async def test_a_retry_sees_the_same(verb: str, way: dict[str, Any]) -> None:
    """What the first try put in is there at the second."""
    seen: list[Any] = []

    def note(item: Any, context: Any) -> None:
        context["tries"] = context.get("tries", 0) + 1
        seen.append(context)
        if context["tries"] < 3:
            raise ValueError

    mine: dict[str, Any] = {}
    flow = stage(Input[int](), verb, note, {**way, "retry": Retry(3)})
    with soon():
        assert await flow.call(1, context=mine) == 1
    assert mine == {"tries": 3}
    assert all(context is mine for context in seen)


@EVERY_WAY
async def test_hooks_see_it(way: dict[str, Any]) -> None:
    """Before and after: the very mapping that the stage has."""
    seen: list[Any] = []

    class Observer:
        def before_stage(self, stage: str, item: Any, context: Any) -> None:
            context["before"] = stage
            seen.append(context)

        async def after_stage(
            self, stage: str, item: Any, result: Any, error: Any, context: Any
        ) -> None:
            seen.append(context)

    for verb in VERBS:
        seen.clear()
        mine: dict[str, Any] = {}
        flow = stage(
            Input[int](), verb, lambda item, context: seen.append(context), way, name="stage"
        )
        with soon():
            await flow.call(1, context=mine, observers=[Observer()])
        assert len(seen) == 3
        assert all(context is mine for context in seen)
        assert mine == {"before": "stage"}


async def test_hooks_see_one_where_no_stage_asks() -> None:
    """Observers alone make contexts travel."""
    seen: list[Any] = []

    class Observer:
        def before_stage(self, stage: str, item: Any, context: Any) -> None:
            seen.append((stage, dict(context)))
            context[stage] = True

    flow = Input[int]().map(abs, name="a").map(abs, name="b", on=Threads(1))
    with soon():
        await flow.collect([1], observers=[Observer()], context={"n": 1})
    assert seen == [("a", {"n": 1}), ("b", {"n": 1, "a": True})]


@EVERY_WAY
@pytest.mark.parametrize("policy", ["skip", "emit"])
async def test_dead_letters_have_a_copy(policy: Any, way: dict[str, Any]) -> None:
    """A failure as data goes its own way, with what its item's stages had put in."""
    seen: list[Any] = []

    def fail(item: Any, context: Any) -> None:
        context["item"] = item
        raise ValueError

    def look(failure: Failure, context: Any) -> Any:
        context["seen"] = True
        seen.append(context)
        return failure.item

    for verb in VERBS:
        seen.clear()
        mine: dict[str, Any] = {"who": "me"}
        main = stage(Input[int](), verb, fail, way, name="fail", on_error=policy)
        dead = main.failures().map(look, pass_context=True, name="look")
        with soon():
            async with Graph(main=main, dead=dead).open() as run:
                await run.send(7, context=mine)
                await run.drain()
        assert seen == [{"who": "me", "item": 7, "seen": True}]
        assert mine == {"who": "me", "item": 7}


async def test_dead_letters_of_a_route_and_of_several_stages() -> None:
    seen: list[Any] = []

    def note(failure: Failure, context: Any) -> None:
        seen.append((failure.stage, failure.item, context["n"]))

    def picky(item: int) -> int:
        if item == 1:
            raise ValueError
        return item

    start = Input[int]("in").map(picky, name="picky")
    branches = start.route(lambda item: item, [2], on_error="skip", name="route")
    dead = branches[2].failures().tap(note, pass_context=True, name="note")
    with soon():
        async with Graph(main=branches[2], dead=dead).open(on_error="skip") as run:
            for item in range(4):
                await run.send(item, context={"n": item})
            await run.drain()
    assert sorted(seen) == [("picky", 1, 1), ("route", 0, 0), ("route", 3, 3)]


async def test_an_interrupt_leaves_no_trace() -> None:
    """An item sent afterwards has its own context and nothing of an earlier one."""
    seen: list[Any] = []
    flow = Input[int]().batch(3)
    flow = stage(flow, "map", lambda item, context: seen.append((item, context)), {})
    with soon():
        async with flow.open(context={"n": 1}) as run:
            await run.send(1, context={"n": 2})
            await settle()
            run.interrupt()
            await run.send(2, context={"n": 3})
            await run.drain()
    assert seen == [([2], {"n": 1})]


VARIABLE = contextvars.ContextVar("VARIABLE", default="nowhere")


async def test_context_variables_are_those_of_the_opener() -> None:
    """In functions of every kind, sources, generators, hooks and threads; whoever sends or reads."""
    seen: dict[str, set[str]] = {}

    def see(where: str) -> None:
        seen.setdefault(where, set()).add(VARIABLE.get())

    def plain(where: str) -> Any:
        def fn(item: Any) -> Any:
            see(where)
            return item

        return fn

    def asynchronous(where: str) -> Any:
        async def fn(item: Any) -> Any:
            see(where)
            await checkpoint()
            see(where)
            return item

        return fn

    def lazily(where: str) -> Any:
        def fn(item: Any) -> Iterator[Any]:
            see(where)
            yield item

        return fn

    def values(where: str) -> Any:
        async def fn(item: Any) -> AsyncIterator[Any]:
            await checkpoint()
            see(where)
            yield item

        return fn

    async def transforming(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        see("transform")
        async for item in items:
            see("transform")
            yield item
        see("transform")

    def key(item: Any) -> int:
        see("route")
        return 0

    def blocking() -> Iterator[int]:
        see("source in a thread")
        yield 1
        see("source in a thread")

    @asynccontextmanager
    async def managed() -> AsyncIterator[list[int]]:
        see("source")
        yield [2]
        see("source")

    class Observer:
        def before_stage(self, *_: Any) -> None:
            see("hook")

        async def after_stage(self, *_: Any) -> None:
            see("hook")

    flow: Flow[Any, Any] = Input[int]()
    flow = flow.map(plain("map")).filter(plain("filter")).tap(asynchronous("tap"))
    flow = flow.map(asynchronous("pool"), concurrency=3, name="pool")
    flow = flow.flat_map(lazily("flat_map"), name="flat 1")
    flow = flow.flat_map(values("async flat_map"), name="flat 2")
    flow = flow.flat_map(values("pooled flat_map"), concurrency=2, name="flat 3")
    flow = flow.map(plain("threads"), on=Threads(2), name="threads 1")
    flow = flow.map(plain("timed threads"), on=Threads(2), timeout=9, name="threads 2")
    flow = flow.flat_map(lazily("lazy threads"), on=Threads(2), name="threads 3")
    flow = flow.transform(transforming).route(key, [0])[0]
    flow = merge(flow, source(blocking, on=Threads(1)), source(managed))

    for observers in ((), [Observer()]):
        seen.clear()
        token = VARIABLE.set("opener")
        opened = flow.open(observers=observers)
        VARIABLE.reset(token)
        VARIABLE.set("opener")
        with soon():
            async with opened as run:
                VARIABLE.set("body")

                async def send(run: Any = run) -> None:
                    VARIABLE.set("sender")
                    for item in range(1, 20):
                        await run.send(item)
                        await checkpoint()
                    run.interrupt()
                    for item in range(1, 20):
                        await run.send(item)
                    run.finish()

                async with anyio.create_task_group() as group:
                    group.start_soon(send)
                    async for _ in run:
                        VARIABLE.set("reader")
        VARIABLE.set("nowhere")
        assert {where for where, values in seen.items() if values != {"opener"}} == set()
        assert len(seen) == 14 + bool(observers)


async def test_a_context_has_to_be_a_mapping() -> None:
    """Said at the call."""
    flow = Input[int]().map(abs)
    for wrong in (3, [("a", 1)], "a"):
        with pytest.raises(TypeError, match="context must be a mapping"):
            async with flow.open(context=wrong):  # type: ignore[arg-type]
                raise AssertionError


@pytest.mark.parametrize("options", [{}, {"on": Threads(1)}, {"on": Threads(2), "timeout": 9}])
async def test_each_value_has_the_context_as_it_was_when_it_was_made(
    options: dict[str, Any],
) -> None:
    """A thread makes several values at once, and its function may change the context in between."""

    def count(item: int, context: Any) -> Iterator[int]:
        for number in range(3):
            context["number"] = number
            yield number

    def seen(value: int, context: Any) -> tuple[int, int]:
        return value, context["number"]

    flow = Input[int]().flat_map(count, pass_context=True, **options).map(seen, pass_context=True)
    assert await flow.collect([1], timing=True) == [(0, 0), (1, 1), (2, 2)]
