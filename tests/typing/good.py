"""What type checkers must accept: each name used once, and what its type turns out to be."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, assert_type

import flowstage
from flowstage import (
    Bottleneck,
    BufferOverflow,
    CallTimes,
    ClosedError,
    DeadlockError,
    EdgeInfo,
    EdgeReport,
    Failure,
    FailureRecord,
    Flow,
    FlowError,
    Graph,
    GraphError,
    Input,
    ItemTimes,
    Output,
    Report,
    Retry,
    Run,
    Sentinel,
    StageError,
    StageInfo,
    StageReport,
    StageTime,
    StageTimeout,
    StageTimes,
    Summary,
    Threads,
    Timing,
    WorkerDied,
    concat,
    failure_of,
    gather,
    merge,
    operators,
    source,
    zip,
    zip_latest,
)
from flowstage.testing import (
    ScriptedThreads,
    SinkProbe,
    SourceProbe,
    assert_no_leaks,
    explore,
    shuffled,
)

if TYPE_CHECKING:
    from typing_extensions import TypeIs

assert_type(flowstage.__name__, str)


# -- users' functions -------------------------------------------------------------------------------


def parse(text: str) -> int:
    return int(text)


async def fetch(url: str) -> bytes:
    return url.encode()


async def fetch_json(url: str) -> dict[str, Any]:
    return {"url": url}


def words(text: str) -> Iterator[str]:
    yield from text.split()


async def lines(url: str) -> AsyncIterator[bytes]:
    yield url.encode()


async def listed(url: str) -> list[int]:
    return [len(url)]


def with_context(text: str, *, context: MutableMapping[str, Any]) -> int:
    return len(text) + len(context)


async def with_context_async(text: str, *, context: dict[str, Any]) -> bytes:
    return text.encode() + str(context).encode()


def is_number(item: object) -> TypeIs[int]:
    return isinstance(item, int)


async def is_long(text: str) -> bool:
    return len(text) > 80


def add(total: int, text: str) -> int:
    return total + len(text)


async def pairs(items: AsyncIterator[str]) -> AsyncIterator[tuple[str, str]]:
    last = ""
    async for item in items:
        yield last, item
        last = item


class Client:
    async def __call__(self, url: str) -> bytes:
        return url.encode()

    def get(self, url: str) -> float:
        return float(len(url))


# -- entries ----------------------------------------------------------------------------------------


@asynccontextmanager
async def feed() -> AsyncIterator[AsyncIterator[bytes]]:
    yield lines("")


async def ticks() -> AsyncIterator[float]:
    yield 0.0


def counts() -> Iterator[int]:
    yield 0


def segments() -> Iterator[str | Sentinel[str]]:
    yield "a"
    yield Sentinel("end of segment")


@asynccontextmanager
async def segments_feed() -> AsyncIterator[Iterator[str | Sentinel[str]]]:
    yield segments()


urls = Input[str]("url")
numbers = Input[int]()
assert_type(urls, Input[str])
assert_type(source([1, 2]), Flow[Any, int])
assert_type(source(range(3)), Flow[Any, int])
assert_type(source(counts), Flow[Any, int])
assert_type(source(counts()), Flow[Any, int])
assert_type(source(ticks), Flow[Any, float])
assert_type(source(ticks()), Flow[Any, float])
assert_type(source(feed), Flow[Any, bytes])
assert_type(source(feed()), Flow[Any, bytes])
assert_type(source(segments), Flow[Any, str])
assert_type(source(segments()), Flow[Any, str])
assert_type(source(segments_feed), Flow[Any, str])
assert_type(source(segments_feed()), Flow[Any, str])
assert_type(source(lambda: range(3), on=Threads(1), name="numbers"), Flow[Any, int])

# -- verbs ------------------------------------------------------------------------------------------

assert_type(urls.map(parse), Flow[str, int])
assert_type(urls.map(fetch, concurrency=8, timeout=10, retry=Retry(3, delay=0.5)), Flow[str, bytes])
assert_type(urls.map(fetch_json), Flow[str, dict[str, Any]])
assert_type(urls.map(parse, on=Threads(2), ordered=False, on_error="skip"), Flow[str, int])
assert_type(urls.map(lambda url: url.split("/")), Flow[str, list[str]])
assert_type(urls.map(lambda url: len(url)).map(lambda size: size / 2), Flow[str, float])
assert_type(urls.map(lambda url: None), Flow[str, None])
assert_type(urls.map(with_context, pass_context=True), Flow[str, int])
assert_type(urls.map(with_context, pass_context=True, on=Threads(2)), Flow[str, int])
assert_type(urls.map(with_context_async, pass_context=True), Flow[str, bytes])
assert_type(urls.map(Client()), Flow[str, bytes])
assert_type(urls.map(Client().get), Flow[str, float])
assert_type(numbers.map(operator.neg), Flow[int, int])
assert_type(numbers.map(str), Flow[int, str])

assert_type(urls.flat_map(words), Flow[str, str])
assert_type(urls.flat_map(lines), Flow[str, bytes])
assert_type(urls.flat_map(listed), Flow[str, int])
assert_type(urls.flat_map(words, on=Threads(2)), Flow[str, str])
assert_type(urls.flat_map(lambda url: [len(url)]), Flow[str, int])

mixed: Flow[int, int | str] = numbers
assert_type(mixed.filter(is_number), Flow[int, int])
assert_type(urls.filter(is_long, concurrency=2), Flow[str, str])
assert_type(urls.filter(lambda url: url.startswith("https")), Flow[str, str])
assert_type(urls.filter(with_context, pass_context=True), Flow[str, str])
assert_type(urls.tap(print), Flow[str, str])
assert_type(urls.tap(fetch), Flow[str, str])
assert_type(urls.tap(with_context, pass_context=True), Flow[str, str])

assert_type(urls.batch(10, within=0.5), Flow[str, list[str]])
assert_type(urls.transform(pairs), Flow[str, tuple[str, str]])
assert_type(urls.buffer(10, overflow="drop_oldest"), Flow[str, str])
assert_type(urls.route(len, [1, 2], default=2), Mapping[int, Flow[str, str]])
assert_type(urls.balance(2), tuple[Flow[str, str], ...])
assert_type(urls.map(parse).failures(), Flow[str, Failure])

# `Out` is covariant, and `In` invariant.
wide: Flow[str, object] = urls.map(parse)

# -- operators, and a user's own --------------------------------------------------------------------


def shout(flow: Flow[str, str], mark: str = "!") -> Flow[str, str]:
    return flow.map(lambda text: text + mark)


assert_type(urls.pipe(shout, mark="?"), Flow[str, str])
assert_type(urls.pipe(operators.take, 3), Flow[str, str])
assert_type(urls.pipe(operators.take_while, is_long), Flow[str, str])
assert_type(operators.take_while(urls, lambda url: url != ""), Flow[str, str])
assert_type(urls.pipe(operators.drop, 3), Flow[str, str])
assert_type(urls.pipe(operators.drop_while, is_long), Flow[str, str])
assert_type(urls.pipe(operators.scan, add, 0), Flow[str, int])
assert_type(urls.pipe(operators.reduce, add, 0), Flow[str, int])
assert_type(operators.scan(numbers, lambda total, number: total + number, 0), Flow[int, int])
assert_type(urls.pipe(operators.enumerate, start=1), Flow[str, tuple[int, str]])
assert_type(urls.batch(3).pipe(operators.flatten), Flow[str, str])
assert_type(urls.pipe(operators.distinct_until_changed), Flow[str, str])
assert_type(urls.pipe(operators.distinct_until_changed, len), Flow[str, str])
assert_type(urls.pipe(operators.unique, max_keys=100), Flow[str, str])
assert_type(urls.pipe(operators.unique, str.lower, max_keys=100), Flow[str, str])
assert_type(urls.pipe(operators.throttle, 5, per=2.0), Flow[str, str])

# -- joins ------------------------------------------------------------------------------------------

a, b, c, d, e = (
    urls.map(parse),
    urls.map(fetch),
    urls.map(len).map(float),
    urls.map(str.split),
    urls.map(lambda url: {url}),
)
clock = source(ticks)

assert_type(merge(a), Flow[str, int])
assert_type(merge(a, b), Flow[str, int | bytes])
assert_type(merge(a, b, c, d, e), Flow[str, int | bytes | float | list[str] | set[str]])
assert_type(merge(a, numbers.map(bytes)), Flow[Any, int | bytes])
assert_type(merge(clock, source(["a"])), Flow[Any, float | str])
assert_type(merge(*urls.balance(4)), Flow[str, str])
assert_type(merge(a, a, a, a, a, a), Flow[str, int])

assert_type(gather(a, b), Flow[str, tuple[int, bytes]])
assert_type(gather(a, b, c, d, e), Flow[str, tuple[int, bytes, float, list[str], set[str]]])
assert_type(gather(*urls.balance(4)), Flow[str, tuple[str, ...]])

assert_type(zip(clock, source(["a"]), strict=True), Flow[Any, tuple[float, str]])
assert_type(zip(urls, numbers), Flow[Any, tuple[str, int]])
assert_type(zip(*[clock]), Flow[Any, tuple[float, ...]])
assert_type(zip_latest(a, b, c), Flow[str, tuple[int, bytes, float]])
assert_type(concat(clock, source(["a"])), Flow[Any, float | str])


# -- running ----------------------------------------------------------------------------------------


async def run_them() -> None:
    assert_type(await a.collect(["1"]), list[int])
    assert_type(await a.collect(["1", Sentinel("end")], timing=True), list[int])
    assert_type(await urls.collect(lambda: ["1"]), list[str])
    assert_type(await a.call("1", context={"user": 1}), int)
    assert_type(await a.drain(["1"], on_error="skip"), Report)
    assert_type(await merge(urls, numbers).collect({urls: ["a"], numbers: [1]}), list[str | int])
    async with a.open(buffer=10) as run:
        assert_type(run, Run[str, int])
        await run.send("1", context={})
        run.send_nowait("2")
        await run.feed(["3"])
        await run.send_sentinel("end")
        run.finish()
        async for result in run:
            assert_type(result, int)
        async for event in run.events():
            assert_type(event, int | Sentinel[Any] | Failure)
        assert_type(run.interrupt(), int)
        assert_type(run.report(), Report)
        assert_type(run.explain(), str)
        assert_type(run.graph.bound, int)
        await run.stop(timeout=1)
        assert_type(await run.drain(), Report)
    report = run.report()
    assert_type(report.stages, tuple[StageReport, ...])
    assert_type(report.stage("parse").calls, CallTimes)
    assert_type(report.edges, tuple[EdgeReport, ...])
    assert_type(report.bottleneck, Bottleneck | None)
    assert_type(run.failures, tuple[FailureRecord, ...])
    assert_type(report.timing, Timing | None)
    if report.timing is not None:
        assert_type(report.timing.latency, Summary)
        assert_type(report.timing.stages, Mapping[str, StageTimes])
        assert_type(report.timing.items, tuple[ItemTimes, ...])
        assert_type(report.timing.items[0].stages, Mapping[str, StageTime])
    both = Graph(a, pages=b)
    assert_type(both.stages, tuple[StageInfo, ...])
    assert_type(both.edges, tuple[EdgeInfo, ...])
    assert_type(both, Graph)
    assert_type(a.graph, Graph)
    assert_type(both.bound, int)
    assert_type(both.bound_with(20), int)
    async with both.open(["1"]) as run_of_both:
        assert_type(run_of_both.output(a), Output[int])
        assert_type(run_of_both.output("pages"), Output[Any])
        async for number in run_of_both.output(a):
            assert_type(number, int)
        run_of_both.output("pages").close()
    assert_type(await both.collect(["1"]), dict[str, list[Any]])


# -- errors -----------------------------------------------------------------------------------------

assert_type(failure_of(ValueError()), Failure | None)
assert_type(Sentinel(1), Sentinel[int])
assert_type(Sentinel(1).value, int)
errors: list[type[FlowError]] = [
    BufferOverflow,
    ClosedError,
    DeadlockError,
    GraphError,
    StageError,
    StageTimeout,
    WorkerDied,
]
value_error: ValueError = GraphError("")
timeout_error: TimeoutError = StageTimeout("")


# -- tools for tests ----------------------------------------------------------------------------------


async def tools_for_tests() -> None:
    """Probes know what they give and expect."""
    probe = SourceProbe[str]()
    async with Input[str]().map(len, on=ScriptedThreads(2)).open(probe) as run:
        sink = SinkProbe(run)
        assert_type(sink, SinkProbe[int])
        assert_type(await sink.next(), int)
        assert_type(SinkProbe(run.output("end")), SinkProbe[Any])
    assert_type(source(SourceProbe[int]()), Flow[Any, int])
    assert_type(explore(probe.expect_pull), list[None])
    assert_type(shuffled("trio", 1), tuple[str, dict[str, Any]])
    with assert_no_leaks():
        pass
