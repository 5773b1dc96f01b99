"""One suite of contracts for every way in which flows part and meet.

Whatever the junction (`junctions` has the graphs, and says what has to come out of them): it ends when
its inputs end, gives what it should and no more when something fails or somebody leaves, brings every
sentinel once to every end, lets go of everything at an interrupt, and keeps its accounts.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from flowstage import Graph, Input, Sentinel, Threads, concat, merge, source

from .accounts import check_accounts, settle, soon
from .harness import no_leaks
from .junctions import (
    NARROW,
    OF_ENDS,
    OF_INPUTS,
    OF_ONE_INPUT,
    SHAPES,
    Ends,
    Failed,
    Fails,
    Sent,
    Shape,
    branch,
    build,
    check_sides,
    each,
    item,
    items,
    join_of,
    pairs,
    parts,
)

every_shape = pytest.mark.parametrize("shape", SHAPES)
every_pair = pytest.mark.parametrize(("shape", "kind"), pairs())
several_inputs = pytest.mark.parametrize("shape", OF_INPUTS)
several_ends = pytest.mark.parametrize("shape", OF_ENDS)
buffers = pytest.mark.parametrize("buffer", [0, 1, 100])

Given = list[list[int]]


def the_same(made: Shape, numbers: Iterable[int]) -> Given:
    """Give every input as many items."""
    numbers = list(numbers)
    return [items(source, numbers) for source in range(len(made.inputs))]


def fed(made: Shape, given: Any) -> Any:
    """Make it what `open` takes."""
    return given[0] if len(given) == 1 else dict(zip(made.inputs, given, strict=True))


def refused(shape: str, differ: bool = True) -> AbstractContextManager[Any]:
    """Expect the error of a strict zip where lengths differ, and of nothing else."""
    if differ and join_of(shape) == "strict":
        return pytest.raises(ValueError, match="different lengths")
    return nullcontext()


def ends_with_the_first(shape: str) -> bool:
    """Whether the whole graph is over when one of its inputs is."""
    return shape in ("zip2", "zip3")


# -- ending ----------------------------------------------------------------------------------------


@every_shape
@pytest.mark.parametrize(("kind", "buffer"), [("async", 0), ("pool", 1), ("threads", 100)])
async def test_empty_inputs(shape: str, kind: str, buffer: int) -> None:
    """Nothing in, nothing out, and it ends."""
    made = build(shape, kind)
    with no_leaks(), soon():
        out = await made.graph.collect(fed(made, the_same(made, [])), buffer=buffer)
    assert out == {name: [] for name in made.ends}


@several_inputs
@buffers
@each(first=[0, 1])
async def test_one_input_ends_at_once_and_the_others_later(
    shape: str, buffer: int, first: int
) -> None:
    made = build(shape)
    given = the_same(made, [])
    with no_leaks(), soon(), refused(shape):
        async with made.graph.open(buffer=buffer) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
                run.finish(to=made.inputs[first])
                await settle()

                async def later(source: int) -> None:
                    given[source] = items(source, range(3 + source))
                    closed = pytest.raises(anyio.ClosedResourceError)
                    with closed if ends_with_the_first(shape) else nullcontext():
                        for one in given[source]:
                            await run.send(one, to=made.inputs[source])
                    await settle()
                    run.finish(to=made.inputs[source])

                for source in range(len(made.inputs)):
                    if source == first:
                        pass
                    elif join_of(shape) == "strict":  # it waits to see them all
                        group.start_soon(later, source)
                    else:
                        await later(source)
        check_accounts(run.report(), over=True)
        assert run.report().failed == 0
        made.check(ends.values(), given)


@pytest.mark.parametrize(
    "shape", [name for name in SHAPES if join_of(name) not in ("gather", "failures")]
)
@each(which=[0, 1], most=[0, 2])
async def test_one_branch_ends_by_itself(shape: str, which: int, most: int) -> None:
    """At once or later; the others go on (`gather` has no such branches)."""
    kind = "bare" if join_of(shape) == "balance" else "inline"
    made = build(shape, branch(kind, most=(which, most)))
    given = the_same(made, range(12))
    with no_leaks(), soon(), refused(shape):
        async with made.graph.open(fed(made, given), buffer=1) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
        check_accounts(run.report(), over=True)
        # What comes back from a branch of `balance` is not in order any more.
        ordered = made.split != "balance"
        made.check(ends.values(), given, ordered=ordered, most=(which, most), lost=1)


# -- failing ---------------------------------------------------------------------------------------


@several_inputs
@each(which=[0, 1], after=[0, 3])
@pytest.mark.parametrize("others", ["silent", "over", "flood"])
async def test_one_source_fails(shape: str, which: int, after: int, others: str) -> None:
    """Now or later, whatever the others do: the source's own exception is raised."""
    made = build(shape)
    opened: list[str] = []
    closed: list[str] = []

    async def failing() -> AsyncIterator[int]:
        opened.append("failing")
        try:
            for number in range(after):
                yield item(which, number)
            if others == "over":
                await settle(100)
            raise OSError("gone")
        finally:
            closed.append("failing")

    async def silent() -> AsyncIterator[int]:
        await anyio.sleep_forever()
        yield 0

    def other(number: int) -> Any:
        given: dict[str, Any] = {"silent": silent, "over": [], "flood": items(number, range(900))}
        return given[others]

    given = {
        flow: failing if number == which else other(number)
        for number, flow in enumerate(made.inputs)
    }
    join = join_of(shape)
    with no_leaks(), soon():
        if shape in ("concat2", "concat3") and which == 1 and others == "silent":
            async with made.graph.open(given):
                await settle(100)
            assert not opened
        elif ends_with_the_first(shape) and others == "over":
            assert await made.graph.collect(given) == {"out": []}
            assert opened == closed  # it has not failed, but ended where it stood
        elif join == "strict" and others == "over" and after:
            with pytest.raises(ValueError, match="different lengths"):
                await made.graph.collect(given)
        else:
            with pytest.raises(OSError, match="gone"):
                await made.graph.collect(given)
            assert closed == ["failing"]


@pytest.mark.parametrize("shape", OF_ONE_INPUT)
@each(after=[0, 3], policy=["raise", "skip", "emit"])
async def test_the_only_source_fails(shape: str, after: int, policy: Any) -> None:
    """A source raises whatever the policy of the run, and what it gave before may come out."""
    made = build(shape)

    async def failing() -> AsyncIterator[int]:
        for number in range(after):
            yield item(0, number)
        raise OSError("gone")

    with no_leaks(), soon():
        with pytest.raises(OSError, match="gone"):
            async with made.graph.open(failing, on_error=policy) as run:
                ends = Ends(run, made)
                async with anyio.create_task_group() as group:
                    ends.start(group)
        check_accounts(run.report(), over=True)
    made.check(ends.values(), [items(0, range(after))], left=made.ends)


@pytest.mark.parametrize(
    ("shape", "kind", "which", "after"),
    [
        *((shape, "inline", which, after) for shape in SHAPES for which, after in [(0, 0), (1, 3)]),
        *((shape, "async", which, after) for shape in NARROW for which, after in [(1, 0), (0, 3)]),
        *((shape, kind, 0, 3) for shape in NARROW for kind in ("pool", "threads")),
    ],
)
@each(policy=["raise", "skip", "emit"])
async def test_a_stage_in_a_branch_fails(
    shape: str, kind: str, which: int, after: int, policy: str
) -> None:
    """One item, now or later, in either branch: nothing but that item is lost."""
    if which == 1 and join_of(shape) == "failures":
        which = 0
    fails = Fails(which, after, policy)
    made = build(shape, branch(kind, fails=fails))
    given = the_same(made, range(20))
    skipped = refused(shape, policy == "skip")
    raised = pytest.raises(OSError) if policy == "raise" else skipped
    with no_leaks(), soon():
        with raised:
            async with made.graph.open(fed(made, given), buffer=1) as run:
                ends = Ends(run, made)
                async with anyio.create_task_group() as group:
                    ends.start(group)
        check_accounts(run.report(), over=True)
    assert len(fails.items) == 1
    assert run.failed == 1 + (policy == "skip" and join_of(shape) == "strict")
    left = made.ends if raised is not skipped or join_of(shape) == "strict" else ()
    made.check(ends.values(), given, fails=fails, left=left if policy != "emit" else ())


@pytest.mark.parametrize("shape", [*OF_ONE_INPUT, "mesh"])
@each(after=[0, 3])
@pytest.mark.parametrize("policy", ["raise", "skip", "emit"])
async def test_a_stage_above_fails(shape: str, after: int, policy: str) -> None:
    """Its failure takes the item's place in every branch, or in one where the flow is divided."""
    fails = Fails(-1, after, policy)
    made: Shape

    def head(flow: Any, index: int) -> Any:
        def look(value: int) -> int:
            if index == 0:
                fails.look(value)
            return value

        return flow.map(look, on_error=policy)

    made = build(shape, "inline", head)
    given: Any = the_same(made, range(20))
    with no_leaks(), soon():
        with pytest.raises(OSError) if policy == "raise" else nullcontext():
            async with made.graph.open(fed(made, given), buffer=1) as run:
                ends = Ends(run, made)
                async with anyio.create_task_group() as group:
                    ends.start(group)
        check_accounts(run.report(), over=True)
    assert fails.items == [item(0, after)]
    if policy == "raise":
        given[0] = given[0][:after]
    elif policy == "skip":
        given[0].remove(fails.items[0])
    else:
        given[0][after] = Failed(fails.items[0])
    made.check(ends.values(), given, fails=fails, left=made.ends if policy == "raise" else ())


# -- leaving ---------------------------------------------------------------------------------------


@every_shape
@each(when=["before", "middle", "after"])
async def test_the_consumer_leaves(shape: str, when: str) -> None:
    """Leaving the block before the first item, in the middle, after the last."""
    made = build(shape)
    given = the_same(made, range(20))
    with no_leaks(), soon():
        async with made.graph.open(fed(made, given), buffer=1) as run:
            ends = Ends(run, made)
            if when != "before":
                async with anyio.create_task_group() as group:
                    ends.start(group)
                    if when == "middle":
                        while all(len(got) < 3 for got in ends.events.values()):
                            await settle(1)
                        group.cancel_scope.cancel()
        check_accounts(run.report(), over=True)
    made.check(ends.values(), given, left=made.ends if when != "after" else ())


@every_shape
@each(after=[0, 1, 3])
async def test_closing_every_end_stops_the_graph(shape: str, after: int) -> None:
    """`Output.close()` before or after some items: the producers stop, without a failure."""
    made = build(shape)
    pulled = [0] * len(made.inputs)

    def endless(source: int) -> Callable[[], Iterator[int]]:
        def numbers() -> Iterator[int]:
            while True:
                pulled[source] += 1
                yield item(source, pulled[source] - 1)

        return numbers

    given = fed(made, [endless(source) for source in range(len(made.inputs))])
    with no_leaks(), soon():
        async with made.graph.open(given, buffer=2) as run:
            ends = Ends(run, made)

            async def some(name: str) -> None:
                await ends.read(name, after if name != "dead" else 0)
                run.output(name).close()

            async with anyio.create_task_group() as group:
                for name in made.ends:
                    group.start_soon(some, name)
            while run._live.tasks:  # every task ends by itself
                await settle(1)
        check_accounts(run.report(), over=True)
        assert run.report().failed == 0
    assert max(pulled) < 900
    assert all(len(got) == after or name == "dead" for name, got in ends.values().items())
    made.check(ends.values(), the_same(made, range(900)), left=made.ends)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [*((name, "inline") for name in OF_ENDS), ("balance2", "bare"), ("balance3", "bare")],
)
@pytest.mark.parametrize("which", [0, -1])
@each(after=[0, 3, 1_000])
async def test_closing_one_end(shape: str, kind: str, which: int, after: int) -> None:
    """Before the first item, after some, after the last: the other ends have all that is theirs.

    What stood before a branch of `balance` goes to the others; what its stages had is lost.
    """
    made = build(shape, kind)
    given = the_same(made, range(30))
    name = [*made.ends][which]
    with no_leaks(), soon():
        async with made.graph.open(fed(made, given), buffer=1) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group, but=[name])
                await ends.read(name, after)
                await settle()  # until something stands before it
                run.output(name).close()
        check_accounts(run.report(), over=True)
    if made.split == "balance":
        lost = 0 if kind == "bare" or after > 30 else 3
        made.check(ends.values(), given, ordered=False, lost=lost)
    else:
        made.check(ends.values(), given, left=[name] if after <= 30 else [])


# -- standing still and flooding -------------------------------------------------------------------


@several_inputs
@buffers
@each(silent=[0, 1])
async def test_a_silent_input_holds_up_nothing_but_itself(
    shape: str, buffer: int, silent: int
) -> None:
    """It is no deadlock; what can come without it comes at once, the rest when it ends."""
    made = build(shape)
    given = the_same(made, range(30))
    given[silent] = []
    with no_leaks(), soon(), refused(shape):
        async with made.graph.open(buffer=buffer) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)

                async def flood(source: int) -> None:
                    with suppress(anyio.ClosedResourceError):
                        for one in given[source]:
                            await run.send(one, to=made.inputs[source])
                    run.finish(to=made.inputs[source])

                for source in range(len(made.inputs)):
                    if source != silent:
                        group.start_soon(flood, source)
                await settle(200)
                got = ends.values()
                for name, (join, numbers) in made.ends.items():
                    if join == "plain" and name.startswith("side"):
                        mine = made.streams(given, None)[numbers[0]]  # it goes with the junction
                        assert got[name] == mine[: len(got[name])]
                    elif join in ("merge", "plain"):
                        mine = made.streams(given, None)
                        assert len(got[name]) == sum(len(mine[number]) for number in numbers)
                    elif join == "concat":
                        assert got[name] == items(0, range(30 * silent))
                    else:
                        assert got[name] == []
                run.finish(to=made.inputs[silent])
        check_accounts(run.report(), over=True)
        made.check(ends.values(), given)


@several_ends
@each(which=[0, -1])
@pytest.mark.parametrize("buffer", [0, 1])
async def test_a_silent_end_holds_up_what_has_to_wait_for_it(
    shape: str, which: int, buffer: int
) -> None:
    """Nothing is lost meanwhile; the other branches of `balance` go on without it."""
    made = build(shape)
    given = the_same(made, range(60))
    name = [*made.ends][which]
    bound = made.graph.bound_with(buffer)
    with no_leaks(), soon():
        async with made.graph.open(fed(made, given), buffer=buffer) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group, but=[name])
                await settle(600 if made.split == "balance" else 200)
                made.check(ends.values(), given, left=made.ends)
                total = sum(map(len, ends.values().values()))
                if made.split == "balance":
                    assert total >= 60 - bound
                elif join_of(shape) in ("broadcast", "route"):
                    assert total <= 2 * bound < 60
                await ends.read(name)
        check_accounts(run.report(), over=True)
    made.check(ends.values(), given)


@pytest.mark.parametrize(
    ("shape", "buffer"),
    [(shape, 1) for shape in SHAPES] + [(shape, b) for shape in NARROW for b in (0, 100)],
)
@each(which=[0, 1])
async def test_a_flood_on_one_way(shape: str, buffer: int, which: int) -> None:
    """Two hundred items on one input or branch, one on each of the others."""
    made = build(shape)
    if len(made.inputs) > 1:
        given = the_same(made, [0])
        given[which] = items(which, range(200))
    else:
        ways = len(made.branches)
        given = [items(0, [*range(which, 200 * ways, ways), 1 - which])]
    with no_leaks(), soon(), refused(shape):
        out = await made.graph.collect(fed(made, given), buffer=buffer)
        made.check(out, given)


# -- sentinels -------------------------------------------------------------------------------------


async def play(run: Any, made: Shape, sent: Sent, *, rounds: bool = False, first: int = 0) -> None:
    """Send items and sentinels: at the very start, between items, back to back, at the very end.

    In rounds, a sentinel comes when all inputs have been sent as many items: a `zip` without buffers
    takes nothing from one before it has an item of the other. With `first` some items come before
    any sentinel.
    """

    async def mark(active: int = 0) -> None:
        for _ in range(2):
            await run.send_sentinel(sent.sentinel(active))

    async def send(source: int, number: int) -> None:
        sent.item(item(source, number))
        await run.send(item(source, number), to=made.inputs[source])

    if first == 0:
        await mark()
    last = len(made.inputs) - 1
    if any(join == "concat" for join, _ in made.ends.values()):
        for source, flow in enumerate(made.inputs):
            for number in range(8):
                await send(source, number)
                if number % 3 == first:
                    await mark(source)
            if source < last:
                run.finish(to=flow)
                await settle()  # until it has ended
            await mark(min(source + 1, last))
    else:
        for number in range(8):
            for source in range(len(made.inputs)):
                await send(source, number)
                if source == (last if rounds else number % 3) and number >= first:
                    await mark()
        await mark()
    run.finish()


def brought(made: Shape, name: str, sent: Sent) -> list[int]:
    """Tell which sentinels come to an end: all that were sent before the last of its inputs ended."""
    last = max(made.branches[number] for number in made.ends[name][1])
    return [number for number, active in enumerate(sent.active) if active <= last or not active]


@every_pair
@pytest.mark.parametrize("buffer", [0, 2])
async def test_sentinels_on_all(shape: str, kind: str, buffer: int) -> None:
    """Once at every end, and every result on the side of each where its latest part was sent."""
    made = build(shape, kind)
    sent = Sent()
    with no_leaks(), soon():
        async with made.graph.open(buffer=100 if shape == "concat_sides" else buffer) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
                await play(run, made, sent, rounds=buffer == 0)
        check_accounts(run.report(), over=True)
    for name, got in ends.sentinels().items():
        assert got == brought(made, name, sent)
    made.check(ends.values(), the_same(made, range(8)), ordered=kind != "unordered")
    check_sides(made, ends.events, sent)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [*((name, "inline") for name in OF_ENDS), ("balance2", "bare"), ("balance3", "bare")],
)
@each(which=[0, 1, -1], turns=[0, 40])
async def test_sentinels_when_one_end_is_closed(
    shape: str, kind: str, which: int, turns: int
) -> None:
    """While they wait with items in front of them: what comes back stays on its side of each."""
    made = build(shape, kind)
    name = [*made.ends][which]
    sent = Sent()
    with no_leaks(), soon():
        async with made.graph.open(buffer=100 if shape == "concat_sides" else 1) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:

                async def step() -> None:
                    await play(run, made, sent, first=2)

                group.start_soon(step)
                await settle(turns)
                run.output(name).close()
                await settle(turns)
                ends.start(group, but=[name])
        check_accounts(run.report(), over=True)
    for end, got in ends.sentinels().items():
        assert got == (brought(made, end, sent) if end != name else [])
    given = the_same(made, range(8))
    if made.split == "balance":
        made.check(ends.values(), given, ordered=False, lost=0 if kind == "bare" else 3)
    else:
        made.check(ends.values(), given, left=[name])
    check_sides(made, {end: e for end, e in ends.events.items() if end != name}, sent)


@every_shape
@pytest.mark.parametrize("kind", ["pool", "threads"])
@each(count=[0, 3])
async def test_sentinels_from_sources(shape: str, kind: str, count: int) -> None:
    """Each source brings its own, on branches that may never have an item: all ends agree."""
    made = build(shape, kind)
    lazy = shape in ("concat2", "concat3")  # the second source is opened when the first has ended
    going = set(range(len(made.inputs)))

    def marked(source: int) -> Callable[[], AsyncIterator[Any]]:
        async def numbers() -> AsyncIterator[Any]:
            yield Sentinel((source, 0, "first"))
            for number in range(count):
                yield item(source, number)
                yield Sentinel((source, number + 1, "once"))
                yield Sentinel((source, number + 1, "again"))
                await anyio.lowlevel.checkpoint()
            yield Sentinel((source, count, "last"))
            going.discard(source)
            while going and not lazy:  # one that had ended would not bring those of the others
                await anyio.lowlevel.checkpoint()

        return numbers

    given = fed(made, [marked(source) for source in range(len(made.inputs))])
    with no_leaks(), soon():
        async with made.graph.open(given, buffer=100 if shape == "concat_sides" else 1) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
        check_accounts(run.report(), over=True)
    made.check(ends.values(), the_same(made, range(count)))
    orders = ends.sentinels()
    for name, order in orders.items():
        assert order == orders[next(iter(orders))], "one order at all ends"
        assert len(set(order)) == len(order) == len(made.inputs) * (2 + 2 * count)
        for one in range(len(made.inputs)):
            own = [number for origin, number, _ in order if origin == one]
            assert own == sorted(own)
        check_own_side(ends.events[name], made.ends[name][0], shape == "concat_sides")


def check_own_side(events: Iterable[Any], join: str, opened: bool) -> None:
    """Each item is on its side of the sentinels of its own source.

    A row may be later than its part, and so is the item of an input that a `concat` does not read
    yet, though it is open.
    """
    seen: dict[int, int] = {}
    for event in events:
        if isinstance(event, Sentinel):
            origin, number, _ = event.value
            seen[origin] = number
            continue
        for one in parts(event):
            origin, number = divmod(one, 1_000)
            assert seen[origin] >= number
            if join not in ("zip", "strict", "latest") and not (join == "concat" and opened):
                assert seen[origin] == number


@pytest.mark.parametrize(("shape", "kind"), pairs(("pool", "threads"), wide=("threads",)))
async def test_a_sentinel_alone(shape: str, kind: str) -> None:
    """No item ever comes: the sentinel does."""
    made = build(shape, kind)
    with no_leaks(), soon():
        async with made.graph.open(buffer=0) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
                await run.send_sentinel("alone")
                run.finish()
    assert all(events == [Sentinel("alone")] for events in ends.events.values())


# -- interrupt -------------------------------------------------------------------------------------

POINTS = ["nothing", "full", "half", "sentinel", "flowing", "flood", "input ended", "end closed"]
NEW = range(500, 506)


@pytest.mark.parametrize(
    ("shape", "kind", "point"),
    [
        (shape, kind, point)
        for shape, kind in pairs(("async", "pool", "unordered", "threads"))
        for point in (POINTS if kind in ("async", "threads") else ["full", "sentinel", "flowing"])
        if point != "end closed" or shape in OF_ENDS
    ]
    + [(shape, "bare", "end closed") for shape in ("balance2", "balance3")],
)
async def test_interrupt(shape: str, kind: str, point: str) -> None:
    """Nothing old comes out, and what is sent later comes out as if alone.

    With nothing inside; with every buffer full and senders waiting; with items on one input only
    (half rows); with sentinels waiting in the joins; while everything flows; during a flood on one
    input; after an input has ended; after an end was closed.
    """
    made = build(shape, kind)
    join, inputs = join_of(shape), range(len(made.inputs))
    ended = [0] if point == "input ended" else []
    gone = [*made.ends][:1] if point == "end closed" else []
    interrupted: list[bool] = []
    done: list[int] = []
    reads = point not in ("full", "sentinel") and not (ended and len(inputs) == 1)
    with no_leaks(), soon():
        async with made.graph.open(buffer=1) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                if reads:
                    ends.start(group, but=gone)

                async def old(source: int) -> None:
                    count = (300 if source == 0 else 1) if point == "flood" else 12
                    with suppress(anyio.ClosedResourceError):  # its input is finished meanwhile
                        for number in range(count):
                            if point == "sentinel" and number % 4 == 1 and not interrupted:
                                await run.send_sentinel(("old", source, number))
                            if interrupted:
                                return  # what it waited with was taken and discarded
                            await run.send(item(source, number), to=made.inputs[source])
                    done.append(source)

                some = {"nothing": [], "half": [0]}.get(point, inputs)
                async with anyio.create_task_group() as senders:
                    for source in some:
                        senders.start_soon(old, source)
                    await settle(3 if point == "flowing" else 60)
                    while ended and join == "strict" and len(done) < len(inputs):
                        await settle(1)  # until it has as many of each, threads or not
                    for source in ended:
                        run.finish(to=made.inputs[source])
                        await settle()
                    for name in gone:
                        run.output(name).close()
                    run.interrupt()
                    ends.clear()
                    interrupted.append(True)
                    check_accounts(run.report())
                    assert sum(edge.inside for edge in run.report().edges) == 0
                if not reads:
                    ends.start(group, but=gone)
                if ended:
                    await settle()  # an input that was finished ends in its turn
                still = [source for source in inputs if source not in ended]
                if not still or (ended and ends_with_the_first(shape)):
                    while len(ends.over) < len(made.ends):  # threads may run still
                        await settle(1)
                    with pytest.raises(anyio.ClosedResourceError):
                        await run.send_sentinel("new")
                    still = []
                else:
                    await run.send_sentinel("new")
                given: Given = [[] for _ in inputs]
                for source in still:
                    if not (ended and join == "strict"):  # it would be right to raise
                        given[source] = items(source, NEW)
                    group.start_soon(send_and_finish, run, made.inputs[source], given[source])
        check_accounts(run.report(), over=True)
    for name, (how, numbers) in made.ends.items():
        opened = [made.branches[number] in still for number in numbers]
        lives = all(opened) if how == "zip" else any(opened)
        wanted = ["new"] if lives and name not in gone else []
        assert ends.sentinels()[name] == wanted, ends.events
    left = gone if made.split != "balance" else ()  # the others have it all
    made.check(ends.values(), given, ordered=kind != "unordered", left=left)


async def send_and_finish(run: Any, flow: Any, given: Iterable[int]) -> None:
    for one in given:
        await run.send(one, to=flow)
    run.finish(to=flow)


@every_shape
@pytest.mark.parametrize("kind", ["async", "threads"])
async def test_interrupt_during_floods_from_sources(shape: str, kind: str) -> None:
    """Sources go on where they were: all that they give later comes out, as if alone."""
    made = build(shape, kind)
    pulled = [0] * len(made.inputs)

    def flood(source: int) -> Callable[[], Iterator[int]]:
        def numbers() -> Iterator[int]:
            for number in range(100):
                pulled[source] = number + 1
                yield item(source, number)

        return numbers

    given = fed(made, [flood(source) for source in range(len(made.inputs))])
    rest: Given = []
    with no_leaks(), soon(), suppress(ValueError):
        async with made.graph.open(given, buffer=3) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
                while all(len(got) < 5 for got in ends.events.values()):
                    await settle(1)
                assert run.interrupt() > 0
                ends.clear()
                rest = [items(source, range(n, 100)) for source, n in enumerate(pulled)]
        check_accounts(run.report(), over=True)
        made.check(ends.values(), rest)
        return
    assert join_of(shape) == "strict"
    assert len(set(map(len, rest))) > 1


@every_shape
async def test_interrupt_while_threads_run(shape: str) -> None:
    """What a thread brings after the interrupt is dropped."""

    def slow(value: int) -> int:
        time.sleep(0.002)
        return value

    def grow(flow: Any, index: int) -> Any:
        return flow.map(slow, on=Threads(2)).map(lambda value: value + 10_000 * index)

    made = build(shape, grow)
    with no_leaks(), soon():
        async with made.graph.open(buffer=1) as run:
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
                for number in range(2):
                    for source, flow in enumerate(made.inputs):
                        await run.send(item(source, number), to=flow)
                await settle()
                run.interrupt()
                ends.clear()
                for source, flow in enumerate(made.inputs):
                    group.start_soon(send_and_finish, run, flow, items(source, NEW))
        check_accounts(run.report(), over=True)
    made.check(ends.values(), the_same(made, NEW))


@every_shape
@each(at=[1, 2, 5])
async def test_interrupt_from_inside_a_branch(shape: str, at: int) -> None:
    """A stage of the run interrupts it: its own call is of the old epoch too."""
    runs: list[Any] = []
    calls = [0]

    def grow(flow: Any, index: int) -> Any:
        def interrupts(value: int) -> int:
            calls[0] += 1
            if calls[0] == at:
                runs[0].interrupt()
            return value + 10_000 * index

        return flow.map(interrupts)

    made = build(shape, grow)
    with no_leaks(), soon():
        async with made.graph.open(buffer=100) as run:
            runs.append(run)
            ends = Ends(run, made)
            for number in range(6):
                for source, flow in enumerate(made.inputs):
                    run.send_nowait(item(source, number), to=flow)
            async with anyio.create_task_group() as group:
                await settle()
                ends.start(group)
                for source, flow in enumerate(made.inputs):
                    group.start_soon(send_and_finish, run, flow, items(source, NEW))
        check_accounts(run.report(), over=True)
    assert calls[0] > at
    made.check(ends.values(), the_same(made, NEW))


@every_shape
async def test_interrupts_upon_interrupts(shape: str) -> None:
    """They overlap harmlessly, and count nothing twice."""
    made = build(shape, "pool")
    with no_leaks(), soon():
        async with made.graph.open(buffer=1) as run:
            for number in range(3):
                for source, flow in enumerate(made.inputs):
                    run.send_nowait(item(source, number), to=flow)
                await settle()
                assert run.interrupt() > 0
                assert run.interrupt() == 0
            ends = Ends(run, made)
            async with anyio.create_task_group() as group:
                ends.start(group)
                run.finish()
        assert not any(ends.events.values())
        check_accounts(run.report(), over=True)


@pytest.mark.parametrize("held", ["merge", "concat"])
async def test_a_source_behind_a_concat_has_the_sentinels_that_came_before_it(held: str) -> None:
    """It is opened late, and a join between it and the `concat` still aligns, each sentinel once."""
    first, side = Input[str]("first"), Input[str]("side")
    late = source(["late"], name="late")
    second = merge(late, side) if held == "merge" else concat(late, side)
    graph = Graph(out=concat(first, second), side=side.map(str.upper))
    with no_leaks(), soon():
        async with graph.open() as run:
            ends = Ends(run, Shape(graph, (), "copy", (), dict.fromkeys(("out", "side"))))
            async with anyio.create_task_group() as group:
                ends.start(group)
                for number in range(4):
                    await run.send_sentinel(number)
                await run.send("one", to=first)
                await run.send("two", to=side)
                await settle()
                run.finish(to=first)
                await settle()
                await run.send_sentinel("after")
                await run.send("three", to=side)
                run.finish()
        check_accounts(run.report(), over=True)
    assert ends.sentinels()["out"] == [0, 1, 2, 3, "after"]
    assert ends.sentinels()["side"] == [0, 1, 2, 3, "after"]
    assert sorted(ends.values()["out"]) == ["late", "one", "three", "two"]
