"""What mypy must refuse: each line that ends in `# error: <code>`, with that code, and no other line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import flowstage
from flowstage import (
    Flow,
    Graph,
    Input,
    Retry,
    Sentinel,
    Threads,
    concat,
    failure_of,
    gather,
    merge,
    operators,
    source,
    zip,
    zip_latest,
)
from flowstage.testing import SinkProbe, SourceProbe

nonsense: int = flowstage.__name__  # error: assignment
flowstage.Flwo  # error: attr-defined


def parse(text: str) -> int:
    return int(text)


def halve(number: int) -> float:
    return number / 2


async def halve_soon(number: int) -> float:
    return number / 2


def two(first: str, second: str) -> str:
    return first + second


def with_context(text: str, *, context: dict[str, Any]) -> int:
    return len(text)


async def numbered(items: AsyncIterator[int]) -> AsyncIterator[int]:
    async for item in items:
        yield item


def add(total: int, number: int) -> int:
    return total + number


urls = Input[str]("url")
numbers = urls.map(parse)

# A link that does not fit.
urls.map(halve)  # error: arg-type
urls.map(halve_soon)  # error: arg-type
urls.map(halve, on=Threads(2))  # error: arg-type
numbers.map(halve).map(parse)  # error: arg-type
urls.map(lambda url: url + 1)  # error: operator
urls.map(two)  # error: arg-type
urls.map(with_context)  # error: arg-type
urls.map(halve, pass_context=True)  # error: call-overload
urls.flat_map(halve)  # error: arg-type
urls.flat_map(parse)  # error: arg-type
urls.filter(halve)  # error: arg-type
urls.tap(halve)  # error: arg-type
urls.transform(numbered)  # error: arg-type
urls.route(halve, ["a"])  # error: arg-type
urls.map(parse(""))  # error: call-overload

# An option that is none, or of the wrong type.
urls.map(parse, concurency=2)  # error: call-overload
urls.map(parse, timeout="1")  # error: call-overload
urls.map(parse, on_error="ignore")  # error: call-overload
urls.map(parse, retry=3)  # error: call-overload
urls.map(parse, on=4)  # error: call-overload
urls.batch("3")  # error: arg-type
urls.batch()  # error: call-arg
urls.buffer(3, overflow="lose")  # error: arg-type
urls.balance("2")  # error: arg-type
Input[str](3)  # error: arg-type
Retry("3")  # error: arg-type
Retry(3, backoff="slow")  # error: arg-type
Threads("4")  # error: arg-type

# What is no flow, no source.
source(3)  # error: call-overload
source(parse)  # error: arg-type
texts: Flow[Any, str] = source(["a", Sentinel(1), 2])  # error: list-item
merge(urls, [1])  # error: call-overload
gather(urls, 3)  # error: call-overload
zip(urls, source([1]), strict="yes")  # error: call-overload
zip_latest()  # error: call-overload
concat("ab")  # error: call-overload
Graph(urls, numbers=3)  # error: arg-type
Graph(urls).bound_with("3")  # error: arg-type
failure_of("a")  # error: arg-type

# Variance.
wider_in: Flow[object, str] = urls  # error: assignment
narrower_out: Flow[str, bool] = numbers  # error: assignment

# Operators.
urls.pipe(operators.take, "3")  # error: arg-type
urls.pipe(operators.take)  # error: arg-type
urls.pipe(operators.take_while, halve)  # error: arg-type
urls.pipe(operators.drop, "3")  # error: arg-type
urls.pipe(operators.drop_while, halve)  # error: arg-type
urls.pipe(operators.scan, add, 0)  # error: arg-type
urls.pipe(operators.reduce, add, "")  # error: arg-type
urls.pipe(operators.enumerate, "1")  # error: arg-type
numbers.pipe(operators.flatten)  # error: arg-type
urls.pipe(operators.distinct_until_changed, halve)  # error: arg-type
urls.pipe(operators.unique)  # error: arg-type
urls.pipe(operators.throttle, "fast")  # error: arg-type


async def run_them() -> None:
    await numbers.collect([1])  # error: list-item
    await numbers.collect(["1"], buffer="2")  # error: arg-type
    await numbers.collect(["1"], buffers=2)  # error: call-arg
    numbers.open(buffers=2)  # error: arg-type
    await numbers.call(1)  # error: arg-type
    await numbers.drain(1)  # error: arg-type
    text: str = await numbers.call("1")  # error: assignment
    async with numbers.open() as run:
        await run.send(1)  # error: arg-type
        run.send_nowait(1)  # error: arg-type
        await run.feed([1])  # error: list-item
        async for result in run:
            text = result  # error: assignment
        found: list[str] = [item async for item in run.output(numbers)]  # error: misc
        run.output(3)  # error: call-overload
        await run.send(Sentinel("end"))  # error: arg-type
        run.report().stages[0].calls.median  # error: attr-defined
        run.report().timing.latency  # error: union-attr
        print(text, found)


async def wrong_tests() -> None:
    """Probes refuse what cannot come."""
    probe = SourceProbe[str]()
    await probe.send(1)  # error: arg-type
    async with Input[int]().open(probe) as run:  # error: arg-type
        await SinkProbe(run).expect("1")  # error: arg-type
    SinkProbe(Input[int]())  # error: arg-type
