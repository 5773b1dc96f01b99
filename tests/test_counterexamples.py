"""What a hostile reading has found: each test is a program that once broke a law."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from flowstage import ClosedError, Failure, Graph, Input, Sentinel, Threads, concat, merge, source

from .accounts import check_accounts, settle, soon

WARM = 1000
"""Items after which a burst is as long as it gets."""


async def test_failures_go_on_when_the_results_are_wanted_no_more() -> None:
    """An output closed by a call of a burst, with failures behind it, leaves no live-lock."""
    box: list[Any] = []

    def work(number: int) -> int:
        if number == WARM:
            box[0].output("main").close()
        if number % 3 == 0:
            raise ValueError(number)
        return number

    main = source(range(2 * WARM)).map(work, on_error="skip")
    bad: list[int] = []

    async def read() -> None:
        try:
            async for _ in box[0].output("main"):
                pass
        except ClosedError:
            pass

    with soon():
        async with Graph(main=main, bad=main.failures()).open() as run:
            box.append(run)
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                async for failure in run.output("bad"):
                    bad.append(failure.item)
    assert bad == list(range(0, 2 * WARM, 3))
    check_accounts(run.report(), over=True)


@pytest.mark.parametrize("place", [None, Threads(1)], ids=["loop", "thread"])
async def test_a_sentinel_as_result_fails_its_item_and_no_call_is_made_twice(
    place: Threads | None,
) -> None:
    """A Sentinel among the results never comes out, and its neighbours are computed once."""
    calls: list[int] = []

    def work(number: int) -> Any:
        calls.append(number)
        if number % 10 == 0:
            return Sentinel(number)
        if number % 10 == 1:
            raise ValueError(number)
        return number

    with soon():
        results = await source(range(WARM)).map(work, on=place, on_error="skip").collect()
    assert results == [number for number in range(WARM) if number % 10 > 1]
    assert calls == list(range(WARM))


async def test_an_error_of_the_source_is_raised_when_an_interrupt_comes_as_well() -> None:
    """What the source raised is not lost with the items that an interrupt discards."""
    box: list[Any] = []

    def numbers() -> Iterator[int]:
        yield from range(3 * WARM)
        raise LookupError("the source")

    def work(number: int) -> int:
        if number == 3 * WARM - 1:
            box[0].interrupt()
        return number

    with soon(), pytest.raises(LookupError, match="the source"):
        async with source(numbers).map(work).open() as run:
            box.append(run)
            async for _ in run:
                pass


async def test_an_error_that_waits_for_its_turn_is_told_of_when_an_interrupt_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A function interrupts while the one above it has failed already, on an item behind it."""
    box: list[Any] = []
    raised = [0]

    def above(number: int) -> int:
        if number > WARM and number % 10 == 0 and len(box) == 1:
            raised.append(number)
            raise LookupError(number)
        return number

    def below(number: int) -> int:
        if number < raised[-1] and len(box) == 1:
            box.append(box[0].interrupt())
        return number

    with soon():
        flow = source(range(9 * WARM)).map(above).map(below)
        async with flow.open(on_error="skip") as run:
            box.append(run)
            results = [number async for number in run]
        check_accounts(run.report(), over=True)
    assert results[-1] == 9 * WARM - 1
    assert len(box) == 2
    late = [record.message for record in caplog.records if "skipped" not in record.message]
    assert late == [
        f"stage 'above' raised LookupError({raised[-1]}) after its item had been let go"
    ]


async def test_the_errors_of_a_burst_know_nothing_of_each_other() -> None:
    """Failing items of one burst are no context of the next: each error is as its call raised it."""

    def work(number: int) -> int:
        if number < WARM:
            return number
        raise ValueError(number)

    errors: list[BaseException] = []
    with soon():
        flow = source(range(2 * WARM)).map(work, on_error="emit")
        async with flow.open() as run:
            async for thing in run.events():
                if isinstance(thing, Failure):
                    errors.append(thing.error)
    assert len(errors) == WARM
    assert all(error.__context__ is None for error in errors)


async def test_a_source_that_interrupts_twice_in_a_burst_is_counted_once() -> None:
    """Every interrupt discards, and counts, what came after the one before it."""
    box: list[Any] = []
    discarded = 0

    def numbers() -> Iterator[int]:
        nonlocal discarded
        for number in range(2 * WARM):
            if number in (WARM, WARM + 3, WARM + 4):
                discarded += box[0].interrupt()
            yield number

    with soon():
        async with source(numbers).open() as run:
            box.append(run)
            results = [number async for number in run]
    (stage,) = run.report().stages
    assert stage.taken == 2 * WARM
    assert len(results) + discarded == 2 * WARM
    assert results[-WARM + 4 :] == list(range(WARM + 4, 2 * WARM))
    check_accounts(run.report(), over=True)


async def test_a_sentinel_that_a_source_gave_before_it_interrupted_is_no_item() -> None:
    """It is discarded like the items beside it, and counted nowhere as one of them."""
    box: list[Any] = []

    def numbers() -> Iterator[Any]:
        for number in range(2 * WARM):
            if number == WARM + 3:
                yield Sentinel("old")
                box.append(box[0].interrupt())
            yield number

    with soon():
        async with source(numbers).map(abs).open() as run:
            box.append(run)
            events = [event async for event in run.events()]
    stage = run.report().stages[0]
    assert stage.taken == 2 * WARM
    assert len(events) + box[1] == 2 * WARM
    assert events[3 - WARM :] == list(range(WARM + 3, 2 * WARM))
    assert Sentinel("old") not in events
    check_accounts(run.report(), over=True)


async def test_a_sentinel_from_a_thread_that_an_interrupt_came_after_is_no_item() -> None:
    """What a blocking source pulled before the interrupt is discarded, and only items are counted."""
    there, going = threading.Event(), threading.Event()

    def items() -> Iterator[Any]:
        yield Sentinel("old")
        there.set()
        going.wait(5)
        yield "new"

    with soon():
        async with source(items, on=Threads(1)).open() as run:
            try:
                while not there.is_set():
                    await checkpoint()
                assert run.interrupt() == 0
            finally:
                going.set()
            events = [event async for event in run.events()]
    assert events == ["new"]
    assert run.report().stages[0].taken == 1
    check_accounts(run.report(), over=True)


class Unhashable(type):
    """A class of classes that cannot be compared nor hashed."""

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


class Odd(metaclass=Unhashable):
    """An item whose very class is not to be touched."""

    def __bool__(self) -> bool:
        raise RuntimeError("not to be tested")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("place", [None, Threads(1)], ids=["loop", "thread"])
async def test_items_may_be_of_a_class_that_cannot_be_hashed(place: Threads | None) -> None:
    """Items and results are told from sentinels by nothing that runs code of theirs."""
    with soon():
        results = await source([Odd() for _ in range(300)]).map(lambda _: Odd(), on=place).collect()
    assert len(results) == 300


async def test_no_call_is_begun_for_what_a_call_of_the_same_burst_discarded() -> None:
    """After an interrupt from inside a plain function the rest of its burst is not processed."""
    box: list[Any] = []
    calls: list[Any] = []

    def work(item: Any) -> Any:
        calls.append(item)
        if item == "reset":
            box[0].interrupt()
            box[0].send_nowait("fresh")
        return item

    with soon():
        async with Input[Any]().map(work).open(buffer=WARM) as run:
            box.append(run)
            for _ in range(12):
                for number in range(50):
                    run.send_nowait(number)
                await settle()
            calls.clear()
            for item in (1, "reset", "reset", 2):
                run.send_nowait(item)
            await settle()
            run.finish()
            results = [item async for item in run]
    assert calls == [1, "reset", "fresh"]
    assert results == ["fresh"]
    check_accounts(run.report(), over=True)


async def test_no_call_is_begun_for_what_a_call_of_the_same_thread_discarded() -> None:
    """After an interrupt from a thread it makes no further call for the items it was handed."""
    box: list[Any] = []
    calls: list[int] = []

    def work(number: int) -> int:
        calls.append(number)
        if number == 90:
            anyio.from_thread.run_sync(box[0].interrupt)
        return number

    with soon():
        async with Input[int]().map(work, on=Threads(1)).open() as run:
            box.append(run)
            for number in range(100):
                run.send_nowait(number)
            while 90 not in calls:
                await anyio.sleep(0.01)
            await anyio.sleep(0.05)
            run.send_nowait(100)
            run.finish()
            results = [number async for number in run]
    assert calls == [*range(91), 100]
    assert results == [100]
    check_accounts(run.report(), over=True)


async def test_a_source_of_many_sentinels_lets_other_tasks_have_turns() -> None:
    """Sentinels are no way around the turns of other tasks, however much room there is."""
    given = most = 0

    def sentinels() -> Iterator[Sentinel[int]]:
        nonlocal given, most
        for number in range(10**6):
            given += 1
            most = max(most, given)
            yield Sentinel(number)

    async def tick() -> None:
        nonlocal given
        while True:
            given = 0
            await checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        with soon():
            async with source(sentinels).open(buffer=100_000) as run:
                for _ in range(20):
                    await checkpoint()
                run.interrupt()
        group.cancel_scope.cancel()
    assert 1 < most < 20_000  # a turn is about a millisecond; all that there is room for is 100,000


async def test_functions_that_become_slow_hold_the_loop_for_few_calls() -> None:
    """A burst is cut short when its calls take long, though those before them were quick."""
    calls = most = 0

    def work(number: int) -> int:
        nonlocal calls, most
        if number < 0:
            time.sleep(0.005)
            calls += 1
            most = max(most, calls)
        return number

    async def tick() -> None:
        nonlocal calls
        while True:
            await checkpoint()
            calls = 0

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        with soon():
            async with Input[int]().map(work).open(buffer=2 * WARM) as run:
                for _ in range(12):
                    for number in range(100):
                        run.send_nowait(number)
                    await settle()
                for _ in range(100):
                    run.send_nowait(-1)
                run.finish()
                results = [number async for number in run]
        group.cancel_scope.cancel()
    assert results == [*range(100)] * 12 + [-1] * 100
    assert 0 < most <= 40


async def test_threads_whose_function_becomes_slow_hand_back_what_is_done() -> None:
    """A call to a place ends soon after its slice, though the calls before were quick."""

    def work(number: int) -> int:
        if number >= WARM:
            time.sleep(0.02)
        return number

    times: list[float] = []
    with soon():
        async with source(range(WARM + 100)).map(work, on=Threads(1)).open(buffer=1000) as run:
            async for _ in run:
                times.append(time.perf_counter())
    assert max(times[at + 1] - times[at] for at in range(len(times) - 1)) < 1.0


async def test_a_filter_in_a_thread_that_gives_a_coroutine_fails() -> None:
    """A coroutine has a truth, but it is no answer: it is refused as the result of any function is."""

    async def keep(number: int) -> bool:
        return number > 0

    flow = source(range(WARM)).filter(lambda number: keep(number), on=Threads(1))
    with soon(), pytest.raises(TypeError, match="coroutine in a thread"):
        await flow.collect()


async def test_an_interrupt_does_not_end_a_blocking_source_that_asks_whether_to_stop() -> None:
    """A pull in a thread is not told to stop because what it gave before cannot enter."""
    going = threading.Event()

    def numbers() -> Iterator[int]:
        yield from range(5)
        while not going.wait(0.01):
            anyio.from_thread.check_cancelled()
        yield 5
        raise LookupError("the source")

    results: list[int] = []
    with soon(), pytest.raises(LookupError, match="the source"):
        async with source(numbers, on=Threads(1)).open(buffer=1) as run:
            await anyio.sleep(0.1)
            run.interrupt()
            await anyio.sleep(0.1)
            going.set()
            async for number in run:
                results.append(number)
    assert results in ([], [5])  # an error may come before what stands in front of it is read


async def test_a_cancelled_reader_makes_room_for_another() -> None:
    """Whatever keeps a cancelled `async for` alive, another task may go on reading."""
    kept: list[Any] = []

    async def read(run: Any, scope: anyio.CancelScope) -> None:
        with scope:
            kept.append(reading := run.__aiter__())
            async for number in reading:
                results.append(number)

    results: list[int] = []
    with soon():
        async with Input[int]().map(str).map(int).open() as run:
            for number in range(30):
                scope = anyio.CancelScope()
                async with anyio.create_task_group() as group:
                    group.start_soon(read, run, scope)
                    await settle(number % 4)
                    run.send_nowait(number)
                    await settle(number % 7)
                    scope.cancel()
            run.finish()
            async for number in run:
                results.append(number)
    assert results == list(range(30))


# ---------------------------------------------------------------- what no test had noticed missing


def fill(run: Any, items: Iterator[Any], **to: Any) -> int:
    """Send until there is no room; give the number of items that entered."""
    count = 0
    for item in items:
        try:
            run.send_nowait(item, **to)
        except anyio.WouldBlock:
            return count
        count += 1
    return count


async def fill_up(run: Any, item: Any, **to: Any) -> None:
    """Send the same item until there is no room anywhere on its way."""
    while fill(run, iter([item] * 100), **to):
        await settle()


async def test_an_interrupt_discards_what_a_thread_pulled_while_its_source_stood_still() -> None:
    """A thread that has pulled an item before the interrupt brings it to nobody after it."""
    going, place = threading.Event(), Threads(1)
    pulled: list[str] = []

    def items() -> Iterator[str]:
        for item in "abcde":
            pulled.append(item)
            yield item
        going.wait(1)  # for longer than the slice of a call: what came before begins to enter
        time.sleep(0.005)
        for item in ("old", "new"):
            pulled.append(item)
            yield item

    with soon():
        async with source(items, on=place).map(str.upper).open(buffer=1) as run:
            try:
                while not run.report().stages[-1].done:
                    await anyio.sleep(0.001)
                await settle()
            finally:
                going.set()
            await source([0]).map(abs, on=place).collect()  # the seat is free: the call has ended
            run.interrupt()
            old = len(pulled)
            results = [item async for item in run]
    assert results == [item.upper() for item in pulled[old:]]
    check_accounts(run.report(), over=True)


async def test_an_interrupt_forgets_how_far_a_sentinel_had_come() -> None:
    """One that stood on one of two ways when it was discarded leaves the next one both."""
    going, ending = anyio.Event(), anyio.Event()

    async def items() -> AsyncIterator[str]:
        for _ in range(3):
            yield "bad"
        await going.wait()
        yield "good"
        await ending.wait()

    def work(item: str) -> str:
        if item == "bad":
            raise ValueError(item)
        return item

    async def read(name: str) -> None:
        async for event in run.output(name).events():
            seen[name].append(event)

    main = source(items).map(work, on_error="skip")
    seen: dict[str, list[Any]] = {"main": [], "bad": []}
    with soon():
        async with Graph(main=main, bad=main.failures()).open(buffer=1) as run:
            await settle()
            async with anyio.create_task_group() as group:
                group.start_soon(run.send_sentinel, "old")
                await settle()  # on "main", and waiting for room on "bad"
                run.interrupt()
                group.start_soon(read, "main")
                group.start_soon(read, "bad")
                going.set()
                await settle()
                await run.send_sentinel("new")
                ending.set()
    assert seen["main"] == ["good", Sentinel("new")]
    assert seen["bad"] == [Sentinel("new")]


async def test_a_sentinel_whose_sender_is_cancelled_half_way_goes_the_whole_way() -> None:
    """What stands at one entry already stays in line at the others, or a join would wait for ever."""
    one, two = Input[str]("one"), Input[str]("two")
    seen: list[Any] = []

    async def read() -> None:
        async for event in run.events():
            seen.append(event)

    with soon():
        async with merge(one.map(str), two.map(str)).open(buffer=1) as run:
            await fill_up(run, "two", to=two)
            async with anyio.create_task_group() as group:
                group.start_soon(run.send_sentinel, "S")
                await settle()  # it stands at "one", and waits for room at "two"
                group.cancel_scope.cancel()
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await settle(200)
                assert seen[-1] == Sentinel("S")
                run.finish()
    assert seen.count(Sentinel("S")) == 1


def plain_values(item: int, act: Callable[[int], None]) -> Iterator[str]:
    """Two values, and something done between them."""
    yield f"{item}a"
    act(item)
    yield f"{item}b"


async def async_values(item: int, act: Callable[[int], None]) -> AsyncIterator[str]:
    """The same, async."""
    yield f"{item}a"
    act(item)
    yield f"{item}b"


@pytest.mark.parametrize("values", [plain_values, async_values])
async def test_a_generator_that_interrupts_gives_nothing_more(values: Any) -> None:
    """The value that a generator gives after it has interrupted the run is of the old epoch."""

    def act(item: int) -> None:
        if item == 2:
            run.interrupt()

    with soon():
        flow = Input[int]().buffer(5).flat_map(lambda item: values(item, act))
        async with flow.open() as run:
            fill(run, iter([1, 2]))
            await settle()
            assert run.report().interrupts == 1
            run.send_nowait(3)
            run.finish()
            results = [result async for result in run]
    assert results == ["3a", "3b"]
    check_accounts(run.report(), over=True)


async def test_a_transform_that_interrupts_gives_nothing_more() -> None:
    """What its function gives for the item with which it has interrupted the run is not given."""

    async def same(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            if item == 2:
                run.interrupt()
            yield item

    with soon():
        async with Input[int]().buffer(5).transform(same).open() as run:
            fill(run, iter([1, 2]))
            await settle()
            assert run.report().interrupts == 1
            run.send_nowait(3)
            run.finish()
            results = [item async for item in run]
    assert results == [3]
    check_accounts(run.report(), over=True)


async def test_an_interrupt_discards_what_came_back_from_a_branch() -> None:
    """An item that a closed branch of a balance gave back is not kept for the others."""
    start = Input[str]()
    left, right = start.balance(2)
    with soon():
        async with Graph(left=left, right=right).open(buffer=1) as run:
            await fill_up(run, "old")
            run.output("left").close()
            assert run.interrupt() > 1
            await settle()
            run.send_nowait("new")
            run.finish()
            results = [item async for item in run.output("right")]
    assert results == ["new"]
    check_accounts(run.report(), over=True)


async def test_a_source_that_nobody_wants_is_closed_at_once() -> None:
    """Also when it waits for an item that may never come, and other ends are still read."""
    closed: list[str] = []

    async def ticks() -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            closed.append("ticks")

    with soon():
        flows = {"ticks": source(ticks).map(abs), "others": source([1, 2, 3]).map(abs)}
        async with Graph(**flows).open() as run:
            async for _ in run.output("ticks"):
                break
            run.output("ticks").close()
            assert [number async for number in run.output("others")] == [1, 2, 3]
            await settle()
            assert closed == ["ticks"]


async def test_sentinels_do_not_pile_up_before_a_source_that_is_not_open_yet() -> None:
    """A later input of a `concat` keeps of those that have passed already only the last."""

    def numbers() -> Iterator[Any]:
        for number in range(2 * WARM):
            yield number
            yield Sentinel(number)

    most = 0
    with soon():
        flow = concat(source(numbers).map(abs), source([1, 2]).map(abs))
        async with flow.open() as run:
            async for _ in run.events():
                lines = [entry.line for entry in run._live.entries.values()]
                most = max(most, *(len(line.tickets) for line in lines))
    assert 0 < most < WARM
