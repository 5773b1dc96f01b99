"""What cannot work is refused at the line where it is written, in words that help."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from flowstage import ClosedError, GraphError, Input, Retry, Threads, source


def plain(item: Any) -> Any:
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


FLOW = Input[Any]()
PLACE = Threads(1)

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
    "timeout nan": (
        lambda: FLOW.map(later, timeout=math.nan),
        ValueError,
        "timeout must be finite, not nan",
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
    # sources
    "text as source": (
        lambda: source("abc"),
        TypeError,
        r"source\(\) takes a source of items, not a string; put 'abc' into a list",
    ),
    "bytes to open": (lambda: FLOW.open(b"abc"), TypeError, r"open\(\) .* not a string"),
    "number as source": (lambda: source(3), TypeError, r"source\(\) takes an iterable.* not 3"),
    "async source in a place": (
        lambda: source(async_values, on=PLACE),
        TypeError,
        "an async source is read on the event loop; leave out on=",
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
