"""What cannot work is refused at the line where it is written, in words that help."""

from __future__ import annotations

import asyncio
import csv
import functools
import gc
import inspect
import itertools
import logging
import math
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from flowstage import (
    ClosedError,
    Flow,
    Graph,
    GraphError,
    Input,
    Report,
    Retry,
    Sentinel,
    Threads,
    merge,
    operators,
    source,
    testing,
)
from flowstage.compat.async_task_pipeline import AsyncTaskPipeline
from flowstage.compat.buffered_pipeline import buffered_pipeline


def plain(item: Any) -> Any:
    return item


def two(one: Any, two: Any) -> Any:
    return one


def with_db(item: Any, *, db: Any) -> Any:
    return item


async def later(item: Any) -> Any:
    return item


def values(item: Any) -> Iterator[Any]:
    yield item


async def async_values(item: Any) -> AsyncIterator[Any]:
    yield item


async def over(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield item


class Callable_:
    async def __call__(self, item: Any) -> Any:
        return item


async def ticks() -> AsyncIterator[int]:
    yield 1


async def adds_one(item: Any) -> AsyncIterator[Any]:
    yield item + 1


async def shouts(item: Any) -> AsyncIterator[Any]:
    yield item.upper()


async def without_async(items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


async def told(items: Any) -> AsyncIterator[Any]:
    yield str(items)


def handed_on(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def call(item: Any, **more: Any) -> Any:
        return fn("session", item)

    return call


def with_context(item: Any, context: Any) -> Any:
    return item


def with_context_by_name(item: Any, *, context: Any) -> Any:
    return item


async def with_context_async(item: Any, more: int = 3, *, context: Any) -> Any:
    return item


class Method:
    def with_context(self, item: Any, context: Any) -> Any:
        return item

    def of_nothing(self, item: Any) -> Any:
        return item

    def of_context(self, context: Any) -> Any:
        return context


class Observer:
    before_stage = None

    def after_stage(self, *details: Any) -> None:
        raise AssertionError("never called")


FLOW = Input[Any]()
PLACE = Threads(1)
ONCE = values(1)

Case = tuple[Callable[[], Any], type[Exception], str]
CASES: dict[str, Case] = {
    # places
    "async in a place": (
        lambda: FLOW.map(later, on=PLACE),
        TypeError,
        r"map\(later, on=\.\.\.\): 'later' is async and runs on the event loop; leave out on=",
    ),
    "async partial in a place": (
        lambda: FLOW.map(functools.partial(later), on=PLACE),
        TypeError,
        "'later' is async",
    ),
    "async object in a place": (lambda: FLOW.map(Callable_(), on=PLACE), TypeError, "is async"),
    "async generator in a place": (
        lambda: FLOW.flat_map(async_values, on=PLACE),
        TypeError,
        "'async_values' is async",
    ),
    "no place": (
        lambda: FLOW.map(plain, on=4),
        TypeError,
        r"on must be a place such as Threads\(4\)",
    ),
    "a place's class": (lambda: FLOW.map(plain, on=Threads), TypeError, "on must be a place"),
    "threads of nought": (lambda: Threads(0), ValueError, "limit must be at least 1, not 0"),
    "threads of true": (lambda: Threads(True), TypeError, "limit must be a whole number, not True"),
    "threads of a half": (lambda: Threads(0.5), TypeError, "limit must be a whole number, not 0.5"),
    # timeouts
    "timeout inline": (
        lambda: FLOW.map(plain, timeout=1),
        TypeError,
        r"map\(plain, timeout=\.\.\.\): a plain function on the event loop cannot be timed out",
    ),
    "timeout of a method": (
        lambda: FLOW.map(str.upper, timeout=1),
        TypeError,
        r"map\(upper, timeout=\.\.\.\): a plain function on the event loop cannot be timed out",
    ),
    "timeout of a builtin": (lambda: FLOW.map(len, timeout=1), TypeError, "cannot be timed out"),
    "concurrency of a method": (
        lambda: FLOW.map(bytes.decode, concurrency=2),
        ValueError,
        r"map\(decode, concurrency=2\): a plain function",
    ),
    "timeout nan": (
        lambda: FLOW.map(later, timeout=math.nan),
        ValueError,
        "timeout must be finite, not nan",
    ),
    "timeout beyond floats": (
        lambda: FLOW.map(later, timeout=10**400),
        ValueError,
        "timeout must be finite, not 1000",
    ),
    "timeout inf": (
        lambda: FLOW.map(later, timeout=math.inf),
        ValueError,
        "timeout must be finite",
    ),
    "timeout nought": (
        lambda: FLOW.map(later, timeout=0),
        ValueError,
        "timeout must be greater than 0, not 0",
    ),
    "timeout true": (lambda: FLOW.map(later, timeout=True), TypeError, "timeout must be a number"),
    "timeout text": (lambda: FLOW.map(later, timeout="1"), TypeError, "timeout must be a number"),
    # concurrency
    "concurrency nought": (
        lambda: FLOW.map(later, concurrency=0),
        ValueError,
        "concurrency must be at least 1, not 0",
    ),
    "concurrency true": (
        lambda: FLOW.map(later, concurrency=True),
        TypeError,
        "concurrency must be a whole number, not True",
    ),
    "concurrency a half": (
        lambda: FLOW.map(later, concurrency=1.5),
        TypeError,
        "concurrency must be a whole number, not 1.5",
    ),
    "concurrency inline": (
        lambda: FLOW.map(plain, concurrency=2),
        ValueError,
        r"map\(plain, concurrency=2\): a plain function on the event loop runs one call at a time",
    ),
    "ordered text": (
        lambda: FLOW.map(later, ordered="no"),
        TypeError,
        "ordered must be True or False",
    ),
    # retry and policy
    "retry a number": (lambda: FLOW.map(plain, retry=3), TypeError, "retry must be a Retry, not 3"),
    "retry nought": (lambda: Retry(0), ValueError, "attempts must be at least 1, not 0"),
    "retry negative delay": (lambda: Retry(2, delay=-1), ValueError, "delay must be at least 0"),
    "retry nan": (lambda: Retry(2, delay=math.nan), ValueError, "delay must be finite"),
    "retry backoff": (
        lambda: Retry(2, backoff="linear"),
        ValueError,
        'backoff must be "fixed" or "exponential", not \'linear\'',
    ),
    "retry base exception": (
        lambda: Retry(2, errors=(KeyboardInterrupt,)),
        ValueError,
        "errors cannot include KeyboardInterrupt",
    ),
    "retry no class": (
        lambda: Retry(2, errors=("x",)),
        TypeError,
        "errors must be exception classes",
    ),
    "retry no classes": (lambda: Retry(2, errors=()), ValueError, "errors must name at least one"),
    "on_error": (
        lambda: FLOW.map(plain, on_error="ignore"),
        ValueError,
        'on_error must be "raise", "skip" or "emit", not \'ignore\'',
    ),
    "on_error of the run": (lambda: FLOW.open(on_error=None), ValueError, "on_error must be"),
    # functions
    "generator in map": (
        lambda: FLOW.map(values),
        TypeError,
        r"map\(values\): 'values' is a generator function.* use flat_map",
    ),
    "async generator in map": (lambda: FLOW.map(async_values), TypeError, "use flat_map"),
    "generator in filter": (lambda: FLOW.filter(values), TypeError, "does nothing when called"),
    "generator in tap": (lambda: FLOW.tap(async_values), TypeError, "does nothing when called"),
    "context not passed": (
        lambda: FLOW.map(with_context),
        TypeError,
        r"map\(with_context\): 'with_context' needs an argument 'context', .* pass_context=True",
    ),
    "context not passed to a method": (
        lambda: FLOW.filter(Method().with_context),
        TypeError,
        "pass_context=True",
    ),
    "context not passed by name": (
        lambda: FLOW.flat_map(with_context_by_name, on=PLACE),
        TypeError,
        "pass_context=True",
    ),
    "context not passed to an async function": (
        lambda: FLOW.tap(with_context_async),
        TypeError,
        "pass_context=True",
    ),
    "no arguments": (
        lambda: FLOW.map(lambda: 1),
        TypeError,
        r"map\(lambda\): 'lambda' is called as lambda\(item\), and that cannot work: too many",
    ),
    "too many arguments": (
        lambda: FLOW.filter(two, on=PLACE),
        TypeError,
        r"as two\(item\), .*: missing .*: 'two'; an item is one argument, also if it is a tuple$",
    ),
    "missing keyword": (
        lambda: FLOW.map(with_db),
        TypeError,
        r"as with_db\(item\), and that cannot work: missing a required .*: 'db'$",
    ),
    "method of a class": (
        lambda: FLOW.tap(Method.of_nothing),
        TypeError,
        "missing a required argument: 'item'",
    ),
    "partial that leaves two open": (
        lambda: FLOW.flat_map(functools.partial(two, 1, 2)),
        TypeError,
        "too many positional arguments",
    ),
    "no context to pass": (
        lambda: FLOW.map(plain, pass_context=True),
        TypeError,
        r"called as plain\(item, context=\.\.\.\), .* unexpected keyword argument 'context'",
    ),
    "arguments in transform": (
        lambda: FLOW.transform(ticks),
        TypeError,
        r"transform\(ticks\): 'ticks' is called as ticks\(items\)",
    ),
    "arguments in route": (lambda: FLOW.route(two, "x y".split()), TypeError, r"as two\(item\)"),
    "arguments of a source": (
        lambda: source(values),
        TypeError,
        r"source\(values\): 'values' is called as values\(\), .* required argument: 'item'",
    ),
    "arguments of an operator": (
        lambda: operators.scan(FLOW, plain, 0),
        TypeError,
        r"scan\(plain\): 'plain' is called as plain\(result, item\)",
    ),
    "arguments of a key": (
        lambda: operators.unique(FLOW, two, max_keys=3),
        TypeError,
        r"unique\(two\): 'two' is called as two\(item\)",
    ),
    "no function": (lambda: FLOW.map(3), TypeError, r"map\(\) takes a function, not 3"),
    "none": (lambda: FLOW.filter(None), TypeError, r"filter\(\) takes a function, not None"),
    "coroutine": (
        lambda: FLOW.map(later(1)),
        TypeError,
        r"map\(\) takes a function, not what calling it gave; pass the function itself",
    ),
    "async generator object": (
        lambda: FLOW.transform(async_values(1)),
        TypeError,
        "pass the function itself",
    ),
    "generator in transform": (
        lambda: FLOW.transform(values),
        TypeError,
        r"transform\(values\) needs an async generator function",
    ),
    "coroutine function in transform": (
        lambda: FLOW.transform(later),
        TypeError,
        "needs an async generator function",
    ),
    "segments text": (
        lambda: FLOW.transform(over, segments=1),
        TypeError,
        "segments must be True or False",
    ),
    "unknown option": (
        lambda: FLOW.map(plain, workers=3),
        TypeError,
        r"map\(\) has no option 'workers'",
    ),
    "empty name": (lambda: FLOW.map(plain, name=""), ValueError, "name must not be empty"),
    "name a number": (lambda: FLOW.map(plain, name=3), TypeError, "name must be a string, not 3"),
    "input name": (lambda: Input(3), TypeError, "name must be a string, not 3"),
    # batch and buffer
    "batch nought": (lambda: FLOW.batch(0), ValueError, "size must be at least 1, not 0"),
    "batch true": (lambda: FLOW.batch(True), TypeError, "size must be a whole number, not True"),
    "batch within": (
        lambda: FLOW.batch(2, within=-1),
        ValueError,
        "within must be at least 0, not -1",
    ),
    "batch nan": (lambda: FLOW.batch(2, within=math.nan), ValueError, "within must be finite"),
    "buffer negative": (lambda: FLOW.buffer(-1), ValueError, "size must be at least 0, not -1"),
    "buffer lossy nought": (
        lambda: FLOW.buffer(0, overflow="drop_oldest"),
        ValueError,
        "size must be at least 1, not 0",
    ),
    "buffer overflow": (
        lambda: FLOW.buffer(2, overflow="drop"),
        ValueError,
        "overflow must be one of 'block', 'drop_oldest', 'drop_newest', 'error', not 'drop'",
    ),
    "buffer of the run": (lambda: FLOW.open(buffer=-1), ValueError, "buffer must be at least 0"),
    "buffer of the run true": (lambda: FLOW.open(buffer=True), TypeError, "buffer must be a whole"),
    "close_timeout": (
        lambda: FLOW.open(close_timeout=-1),
        ValueError,
        "close_timeout must be at least 0",
    ),
    "context": (lambda: FLOW.open(context=3), TypeError, "context must be a mapping, not 3"),
    "observer": (
        lambda: FLOW.open(observers=[3]),
        TypeError,
        "an observer has before_stage or after_stage, and 3 has neither",
    ),
    "observers none": (
        lambda: FLOW.open(observers=None),
        TypeError,
        "observers must be a sequence; pass a list, not None",
    ),
    "observers one": (lambda: FLOW.open(observers=Observer()), TypeError, "observers .* a list"),
    "observers class": (lambda: FLOW.open(observers=[Observer]), TypeError, "not its class"),
    "observers text": (lambda: FLOW.open(observers="ab"), TypeError, "observers .* pass a list"),
    "observer without a function": (
        lambda: FLOW.open(observers=[Observer()]),
        TypeError,
        "before_stage of an observer must be a function, not None; leave it out for none",
    ),
    "timing": (
        lambda: FLOW.open(timing="no"),
        TypeError,
        "timing must be True or False, not 'no'",
    ),
    # sources
    "text as source": (
        lambda: source("abc"),
        TypeError,
        r"source\(\) takes a source of items, not a string; put 'abc' into a list",
    ),
    "bytes to open": (lambda: FLOW.open(b"abc"), TypeError, "input 'input' takes .* not a string"),
    "number as source": (lambda: source(3), TypeError, r"source\(\) takes an iterable.* not 3"),
    "async source in a place": (
        lambda: source(ticks, on=PLACE),
        TypeError,
        "an async source is read on the event loop; leave out on=",
    ),
    "context manager in a place": (
        lambda: source(asynccontextmanager(async_values)(1), on=PLACE),
        TypeError,
        "an async source is read on the event loop; leave out on=",
    ),
    "coroutine as source": (
        lambda: source(later(1)),
        TypeError,
        r"source\(\) takes .* not what calling an async function gave; pass the function itself",
    ),
    "coroutine to open": (lambda: FLOW.open(later(1)), TypeError, "pass the function itself"),
    "one iterator in two sources": (
        lambda: merge(source(ONCE, name="a"), source(ONCE, name="b")).graph,
        GraphError,
        "sources 'a' and 'b' read the same generator, and each would get part of it",
    ),
    "one iterator in a source and an input": (
        lambda: merge(source(ONCE, name="a"), Input("b")).open(ONCE),
        GraphError,
        "one iterator cannot feed two inputs, 'b' and 'a'|'a' and 'b'",
    ),
    "source's place": (lambda: source([1], on=3), TypeError, "on must be a place"),
    "two sources": (
        lambda: source([1]).open([2]),
        GraphError,
        "no Input to be given a source",
    ),
    # what a flow is not
    "iterating a flow": (lambda: iter(FLOW), TypeError, r"async with flow\.open"),
    "async iterating a flow": (lambda: aiter(FLOW), TypeError, r"async with flow\.open"),
    "async iterating an opening": (
        lambda: aiter(FLOW.open()),
        TypeError,
        "write 'async with flow.open",
    ),
    "an operator as a verb": (
        lambda: FLOW.map(plain).take(3),
        AttributeError,
        r"'Flow' object has no attribute 'take'; it is an operator: write flow\.pipe\(operators\.take",
    ),
    "sending to a flow": (
        lambda: FLOW.send(1),
        AttributeError,
        r"'Input' object has no attribute 'send'; runs have it: write 'async with flow\.open",
    ),
    "sending to an opening": (
        lambda: FLOW.open().send(1),
        AttributeError,
        r"'Opening' object has no attribute 'send'; open\(\) gives a block: write 'async with",
    ),
    "no such thing": (lambda: FLOW.flatmap, AttributeError, "no attribute 'flatmap'$"),
    "no such thing of an opening": (lambda: FLOW.open()._x, AttributeError, "no attribute '_x'$"),
    "no stage can fail": (
        lambda: Input().failures(),
        GraphError,
        r"failures\(\) needs a stage above it",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_refused_where_it_is_written(case: Case) -> None:
    """The kind of the error and its words."""
    make, kind, text = case
    with pytest.raises(kind, match=text) as caught:
        make()
    message = str(caught.value)
    assert not message.endswith(".")
    assert len(message) < 300


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr before connect()")


SHOWN: dict[str, tuple[Callable[[Any], Any], type[Exception]]] = {
    "Input": (lambda x: Input(x), TypeError),
    "name": (lambda x: source([1], name=x), TypeError),
    "name of a stage": (lambda x: FLOW.map(plain, name=x), TypeError),
    "count": (lambda x: FLOW.batch(x), TypeError),
    "number": (lambda x: FLOW.batch(2, within=x), TypeError),
    "timeout": (lambda x: FLOW.map(plain, on=PLACE, timeout=x), TypeError),
    "ordered": (lambda x: FLOW.map(plain, ordered=x), TypeError),
    "pass_context": (lambda x: FLOW.map(plain, pass_context=x), TypeError),
    "segments": (lambda x: FLOW.transform(over, segments=x), TypeError),
    "overflow": (lambda x: FLOW.buffer(2, overflow=x), ValueError),
    "place of a source": (lambda x: source([1], on=x), TypeError),
    "on_error of a stage": (lambda x: FLOW.map(plain, on_error=x), ValueError),
    "on_error": (lambda x: FLOW.open(on_error=x), ValueError),
    "limit": (lambda x: Threads(x), TypeError),
    "attempts": (lambda x: Retry(x), TypeError),
    "backoff": (lambda x: Retry(2, backoff=x), ValueError),
    "errors": (lambda x: Retry(2, errors=(x,)), TypeError),
    "branches twice": (lambda x: FLOW.route(plain, [Key(x)] * 2), GraphError),
    "default": (lambda x: FLOW.route(plain, [Key(x)], default=x), GraphError),
    "unread branch": (lambda x: FLOW.route(plain, [(), Key(x)])[()].graph, GraphError),
    "operator": (lambda x: operators.take(x, 2), TypeError),
    "start": (lambda x: operators.enumerate(FLOW, start=x), TypeError),
    "stage of a report": (lambda x: Report(0.0, (), ()).stage(x), KeyError),
    "patience": (lambda x: testing.SinkProbe(timeout=x), TypeError),
    "backend": (lambda x: testing.shuffled(x, 1), ValueError),
    "queue size": (lambda x: AsyncTaskPipeline(max_queue_size=x), TypeError),
    "buffer size": (lambda x: buffered_pipeline()(over(ONCE), x), TypeError),
}


class Key:
    def __init__(self, shown: Any) -> None:
        self.shown = shown

    def __repr__(self) -> str:
        return repr(self.shown)


@pytest.mark.parametrize("given", [range(99_999), Hostile()], ids=["long", "hostile"])
@pytest.mark.parametrize("case", SHOWN.values(), ids=SHOWN)
def test_what_a_message_shows_is_cut(
    case: tuple[Callable[[Any], Any], type[Exception]], given: Any
) -> None:
    """Whatever its repr does, the error is about what was done wrong, and can be read."""
    make, kind = case
    with pytest.raises(kind) as caught:
        make([*given] if isinstance(given, range) else given)
    assert len(str(caught.value)) < 600


def test_items_given_to_an_input() -> None:
    """They are a newcomer's first thought; the message says where they go."""
    for items in (["a"], None, iter([1])):
        with pytest.raises(
            TypeError, match=r"^name must be a string, not .*; items go to open\(\), collect\(\) or"
        ):
            Input(items)  # type: ignore[arg-type]


async def test_a_future_is_no_function() -> None:
    """Nor is anything that calling the function gave."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    future: Any = asyncio.get_running_loop().create_future()
    with pytest.raises(TypeError, match="pass the function itself"):
        FLOW.map(future)
    future.cancel()


async def test_collect_without_a_source() -> None:
    """It would wait for ever."""
    with pytest.raises(GraphError, match=r"collect\(\) needs a source for input 'input'"):
        await FLOW.map(plain).collect()
    with pytest.raises(GraphError, match=r"drain\(\) needs a source for input 'numbers'"):
        await Input("numbers").drain()


async def test_names_are_no_inputs() -> None:
    """A source is given to the flow, not to its name."""
    a, b = Input[int]("a"), Input[int]("b")
    told = r"^a mapping of sources takes one of this graph's Input flows \('a', 'b'\), not 'a'"
    with pytest.raises(GraphError, match=told):
        await merge(a, b).collect({"a": [1], "b": [2]})
    with pytest.raises(GraphError, match=told):
        await Graph(a, b).drain({"a": [1], "b": [2]})
    async with merge(a, b).open() as run:
        with pytest.raises(
            GraphError, match=r"^to= .* flows \('a', 'b'\), not 'a'; give the flow, not its name$"
        ):
            await run.send(2, to="a")


async def test_what_is_made_a_second_time_is_something_else() -> None:
    """An input of the same name, an end of the same stages."""
    with pytest.raises(GraphError, match="they are 'a'; an Input that is made a second time is"):
        await Input("a").collect({Input("a"): [1]})
    with pytest.raises(GraphError, match=r"is no Input of this graph; they are 'input'$"):
        FLOW.open({FLOW.map(plain): [1]})
    async with Graph(FLOW.map(plain), FLOW.map(str)).open([]) as run:
        with pytest.raises(GraphError, match="'plain', 'str'; a flow that is built a second time"):
            run.output(FLOW.map(plain))


async def test_calling_what_has_not_one_input() -> None:
    """Nothing is said that cannot be done."""
    with pytest.raises(
        GraphError, match=r"call\(\) needs an Input .* use collect\(\) or drain"
    ) as one:
        await source([1]).map(int).call("x")
    assert "open the flow" not in str(one.value)
    with pytest.raises(GraphError, match=r"one Input, and this one has several \('a', 'b'\)"):
        await merge(Input("a"), Input("b")).call(1)


@pytest.mark.parametrize("context", [3, "ab", (("a", 1),), MappingProxyType({}), []])
async def test_a_context_that_cannot_be_written_to(context: Any) -> None:
    """Refused, although nobody looks at it."""
    with pytest.raises(TypeError, match="context must be a mutable mapping such as a dict, not"):
        await FLOW.map(plain).call(1, context=context)
    async with FLOW.map(plain).open() as run:
        with pytest.raises(TypeError, match="context must be a mutable mapping"):
            await run.send(1, context=context)
        with pytest.raises(TypeError, match="context must be a mutable mapping"):
            run.send_nowait(1, context=context)


async def test_an_opening_is_no_plain_block_and_no_awaitable() -> None:
    """It says how it is to be written."""
    for flow in (FLOW, Graph(FLOW)):
        opening: Any = flow.open()
        with pytest.raises(TypeError, match=r"write 'async with flow\.open"):
            with opening:
                raise AssertionError("entered")
        with pytest.raises(TypeError, match=r"write 'async with flow\.open"):
            await opening


async def test_a_flow_is_no_block() -> None:
    """It says how it is opened."""
    for flow in (FLOW, FLOW.map(plain)):
        with pytest.raises(TypeError, match=r"use 'async with flow\.open\(\.\.\.\) as run'"):
            async with flow:  # type: ignore[attr-defined]
                raise AssertionError("entered")


async def test_an_option_that_is_none() -> None:
    """Told in the name of the verb that was called, with those that there are."""
    for owner, verbs in (
        (FLOW, ("open", "collect", "drain", "call")),
        (Graph(FLOW), ("open", "collect", "drain")),
    ):
        for verb in verbs:
            told = (
                rf"^{verb}\(\) has no option 'buffers'; its options are buffer, close_timeout, con"
            )
            with pytest.raises(TypeError, match=told):
                begun = getattr(owner, verb)([1], buffers=3)
                await begun
    known = set(inspect.signature(Flow.open).parameters) - {"self", "source", "unknown"}
    with pytest.raises(TypeError) as caught:
        FLOW.open(buffers=3)
    assert set(str(caught.value).partition("options are ")[2].split(", ")) == known


async def test_sending_where_nothing_can_be_sent() -> None:
    """To an input with a source, to a flow that is no input, to a graph without one."""
    async with FLOW.map(plain).open([1]) as run:
        with pytest.raises(GraphError, match="no input to send to"):
            run.send_nowait(1)
        with pytest.raises(GraphError, match="'input' has a source of its own"):
            await run.send(1, to=FLOW)
        with pytest.raises(GraphError, match="is no Input of this graph"):
            await run.send(1, to=Input("other"))
    async with source([1]).open() as run:
        with pytest.raises(GraphError, match="no input to send to"):
            await run.feed([1])


async def test_sending_a_sentinel_in_a_sentinel() -> None:
    """It takes the value."""
    async with FLOW.open() as run:
        with pytest.raises(TypeError, match=r"makes the Sentinel itself; pass 'end'"):
            await run.send_sentinel(Sentinel("end"))


async def test_sending_where_there_is_no_input_at_all() -> None:
    """Nothing is said that cannot be done."""
    async with source([1]).open() as run:
        with pytest.raises(GraphError, match="no input to send to") as caught:
            await run.send(1)
    assert "without a source" not in str(caught.value)


async def test_a_source_that_turns_out_to_be_async_in_a_place() -> None:
    """Told in flowstage's words."""
    for make in (lambda: opened(), lambda: later([1]), lambda: three()):
        with pytest.raises(TypeError, match=r"source 's' is async .* leave out on="):
            await source(make, on=PLACE, name="s").collect()


@pytest.mark.parametrize(
    "fn",
    [
        lambda item: item + 1,
        lambda item: [item],
        lambda item: None,
        lambda item: later(item),
        lambda item: item.upper(),
        str,
        len,
        adds_one,
        shouts,
    ],
)
async def test_a_transform_of_one_item(fn: Any) -> None:
    """Its function is given them all."""
    with pytest.raises((TypeError, AttributeError)) as caught:
        await source([1, 2]).transform(fn).collect()
    words = [str(caught.value), *caught.value.__notes__]
    assert sum("given the iterator of all items" in text for text in words) == 1


async def test_the_items_of_a_transform_say_how_they_are_read() -> None:
    """To a plain loop, and to whoever looks at them."""
    with pytest.raises(TypeError, match="are read with 'async for', not with 'for'"):
        await FLOW.transform(without_async).collect([1])
    assert await FLOW.transform(told).collect([1]) == [
        "<the items of transform 'told', to be read with 'async for'>"
    ]


async def test_feeding_what_gives_no_items() -> None:
    """A string, a number."""
    async with FLOW.open() as run:
        with pytest.raises(TypeError, match=r"feed\(\) takes items, not a string"):
            await run.feed("abc")
        with pytest.raises(TypeError, match=r"feed\(\) takes an iterable or async iterable, not 3"):
            await run.feed(3)


async def test_sending_after_finish() -> None:
    """It is closed, and says which."""
    async with FLOW.open() as run:
        run.finish()
        with pytest.raises(ClosedError, match="input 'input' takes no more items"):
            await run.send(1)


async def test_what_flat_map_cannot_read() -> None:
    """The stage and what it gave."""
    for verb_options in ({}, {"on": PLACE}):
        with pytest.raises(TypeError):
            await FLOW.flat_map(abs, **verb_options).collect([1])
    with pytest.raises(TypeError, match=r"flat_map 'abs' must give an iterable.* not 1"):
        await FLOW.flat_map(abs).collect([1])


async def test_a_text_is_read_by_its_letters() -> None:
    """As anywhere in Python: `flat_map` takes what can be iterated."""
    assert await FLOW.flat_map(str).collect([12]) == ["1", "2"]


# -- what can be read once -------------------------------------------------------------------------


@asynccontextmanager
async def opened() -> AsyncIterator[list[int]]:
    yield [1, 2, 3]


async def three() -> AsyncIterator[int]:
    for number in (1, 2, 3):
        yield number


ONE_SHOTS: dict[str, Callable[[], Any]] = {
    "a generator": lambda: (number for number in (1, 2, 3)),
    "an async generator": three,
    "an async context manager": opened,
    "an iterator": lambda: iter([1, 2, 3]),
}


@pytest.mark.parametrize("kind", ONE_SHOTS)
async def test_what_an_earlier_run_has_used_up(kind: str) -> None:
    """A second run would be an empty success."""
    flow = source(ONE_SHOTS[kind](), name="s")
    told = f"the source of 's' is {kind} that an earlier run has used up; give the function"
    assert await flow.collect() == [1, 2, 3]
    for again in (flow.open, Graph(flow).open):
        with pytest.raises(GraphError, match=told):
            again()
    for verb in (flow.collect, flow.drain):
        with pytest.raises(GraphError, match=told):
            await verb()
    items = ONE_SHOTS[kind]()
    assert await FLOW.collect(items) == [1, 2, 3]
    if kind == "an iterator":
        return  # of a list: it can be noted nowhere
    for verb in (FLOW.collect, FLOW.drain):
        with pytest.raises(GraphError, match=f"the source of 'input' is {kind}"):
            await verb(items)
    with pytest.raises(GraphError, match=f"the source of 's' is {kind}"):
        await source(items, name="s").collect()


async def test_a_call_beside_a_used_up_source() -> None:
    """`call` as well."""
    items = values(1)
    flow = merge(source(items), FLOW.filter(lambda item: False))
    assert await flow.call(2) == 1
    with pytest.raises(GraphError, match="is a generator that an earlier run has used up"):
        await flow.call(2)


@pytest.mark.parametrize("kind", ONE_SHOTS)
async def test_what_another_run_is_reading(kind: str) -> None:
    """Each would get part of it."""
    items = ONE_SHOTS[kind]()
    opening = source(items).open()
    async with FLOW.open(items) as run:
        with pytest.raises(GraphError, match=f"is {kind} that another run is reading"):
            FLOW.open(items)
        with pytest.raises(GraphError, match=f"is {kind} that another run is reading"):
            async with opening:
                pass
        assert [item async for item in run] == [1, 2, 3]


async def test_what_was_left_in_the_middle_goes_on() -> None:
    """An iterator is not closed by a run that is left, so the rest of it can be read."""
    items = iter(range(1000))
    flow = source(items)
    async with flow.open(buffer=1) as run:
        async for first in run:
            assert first == 0
            break
    rest = await flow.collect()
    assert 900 < len(rest) < 1000
    assert rest[-1] == 999


async def test_what_was_begun_by_hand_is_read_to_its_end() -> None:
    """Nobody but an earlier run makes it suspect, not even at its end."""
    items = values(1)
    assert next(items) == 1
    assert await source(items).collect() == []
    nothing = iter([])
    for _ in range(2):
        assert await source(nothing).collect() == []
        assert await FLOW.collect(nothing) == []


async def test_a_file_is_read_again_when_it_can_be(tmp_path: Path) -> None:
    """After it was rewound, or has grown."""
    path = tmp_path / "lines"
    path.write_text("a\nb\n", encoding="utf-8")
    for mode, options in (("r", {"encoding": "utf-8"}), ("rb", {})):
        with path.open(mode, **options) as file:
            flow: Flow[Any, Any] = source(file)
            before = await flow.collect()
            assert len(before) >= 2
            with pytest.raises(GraphError, match="is an open file that an earlier run has used up"):
                await flow.collect()
            file.seek(0)
            assert await flow.collect() == before
            with path.open("a", encoding="utf-8") as more:
                more.write("c\n")
            assert len(await flow.collect()) == 1


class Consumer:
    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        if not self.waiting:
            raise StopIteration
        return self.waiting.pop()


async def test_iterators_that_go_on_after_their_end() -> None:
    """A consumer of a queue that ends when there is nothing for now is read again and again."""

    consumer = Consumer()
    flow = source(consumer)
    for number in range(3):
        consumer.waiting.append(number)
        assert await flow.collect() == [number]
        assert await FLOW.collect(consumer) == []


MADE_OF_OTHERS: dict[str, Callable[[Any], Any]] = {
    "map": lambda items: map(str.strip, items),
    "enumerate": enumerate,
    "islice": lambda items: itertools.islice(items, None),
    "csv": csv.reader,
}


@pytest.mark.parametrize("kind", MADE_OF_OTHERS)
async def test_an_iterator_made_of_another_that_gives_nothing(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it is used up cannot be seen; when a second run finds it so, a warning says why."""
    rows = ["a", "b"]
    flow: Flow[Any, Any] = source(MADE_OF_OTHERS[kind](iter(rows)), name="s")
    with caplog.at_level(logging.WARNING, "flowstage"):
        async with flow.open(buffer=1):
            pass
        assert not [record for record in caplog.records if "gave nothing" in record.getMessage()]
        caplog.clear()
        flow = source(MADE_OF_OTHERS[kind](iter(rows)), name="s")
        assert len(await flow.collect()) == 2
        assert caplog.records == []
        assert await flow.collect() == []
        (record,) = caplog.records
        assert record.getMessage().startswith("source 's' gave nothing, because an earlier run has")
        caplog.clear()
        consumer = Consumer()
        goes_on = source(MADE_OF_OTHERS[kind](consumer), name="s")
        for waiting in ([], [], ["a"], ["b"]):
            consumer.waiting += waiting
            if kind != "islice":  # which ends for good with what it is made of
                assert len(await goes_on.collect()) == len(waiting)
        for empty in (iter([]), MADE_OF_OTHERS[kind](iter([]))):
            assert await source(empty).collect() == []
        assert caplog.records == []


async def test_nothing_is_kept_of_what_was_read() -> None:
    """The notes are weak."""

    async def read_twice() -> weakref.ref[Any]:
        items = values(1)
        await FLOW.collect(items)
        with pytest.raises(GraphError):
            FLOW.open(items)
        return weakref.ref(items)

    gone = await read_twice()
    gc.collect()
    assert gone() is None


async def test_an_argument_named_context_that_is_none_of_ours() -> None:
    """The item itself, one with a default, or one that somebody else gives."""

    def item_named_so(context: Any) -> Any:
        return context

    def optional(item: Any, context: Any = 1) -> Any:
        return item

    def optional_by_name(item: Any, *, context: Any = 1) -> Any:
        return item

    def given(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(item: Any, *more: Any) -> Any:
            return fn(item, context=more)

        return wrapper

    for fn in (
        item_named_so,
        Method().of_context,
        optional,
        optional_by_name,
        given(with_context),
        functools.partial(with_context, context=1),
        lambda item, *context: item,
        lambda item, **context: item,
    ):
        assert await FLOW.map(fn).collect([7]) == [7]


async def test_a_wrapper_that_has_an_argument_to_give() -> None:
    """It says that it takes those of the function inside, and takes others."""
    assert await FLOW.map(handed_on(two)).collect([1]) == ["session"]
    assert await FLOW.map(handed_on(two), pass_context=True).collect([1]) == ["session"]
    assert await FLOW.map(functools.partial(two, two=2)).collect([1]) == [1]
    named = functools.update_wrapper(functools.partial(two, 2), two)
    assert await FLOW.map(named).collect([1]) == [2]
    assert await FLOW.map(functools.partial(print, sep=",")).collect([1]) == [None]


async def test_a_method_that_may_give_an_awaitable() -> None:
    """It is seen at its first result."""
    flow: Flow[Any, Any] = Input()
    assert await flow.map(list.pop, timeout=9, concurrency=2).collect([[later(1)]]) == [1]
