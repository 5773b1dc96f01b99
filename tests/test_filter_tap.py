"""`filter` and `tap`: what passes, what is counted, on every way they are run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from flowstage import Failure, Input, Run, Sentinel, StageError, Threads, source

from .accounts import check_accounts, settle, soon


def odd(item: int) -> int:
    return item % 2


async def odd_later(item: int) -> int:
    for _ in range(item % 3):
        await checkpoint()
    return item % 2


WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (odd, {}),
    "async": (odd_later, {}),
    "lambda of async": (lambda item: odd_later(item), {}),
    "timeout": (odd_later, {"timeout": 9}),
    "pool": (odd_later, {"concurrency": 3}),
    "unordered": (odd_later, {"concurrency": 3, "ordered": False}),
    "threads": (odd, {"on": Threads(2)}),
    "timed threads": (odd, {"on": Threads(2), "timeout": 9}),
}


class Observer:
    """One who looks on and does nothing; runs that are observed go another way inside."""

    def before_stage(self, stage: str, item: Any, context: Any) -> None:
        """Do nothing."""


@pytest.mark.parametrize("way", WAYS)
async def test_filter_keeps_what_is_true(way: str) -> None:
    """Any true value keeps an item; all others are counted; many in a row are no trouble."""
    fn, options = WAYS[way]
    for buffer in (100, 1, 0):
        for start in (Input[int](), Input[int]().map(abs), Input[int]().batch(1).flat_map(iter)):
            with soon():
                flow = start.filter(fn, name="keep", **options)
                async with flow.open(range(60), buffer=buffer) as run:
                    got = [item async for item in run]
                check_accounts(run.report(), over=True)
            assert sorted(got) == list(range(1, 60, 2))
            if options.get("ordered", True):
                assert got == sorted(got)
            assert run.report().stage("keep").filtered == 30


@pytest.mark.parametrize("way", WAYS)
async def test_tap_passes_everything_on(way: str) -> None:
    """The item itself, once called, whatever the function gives."""
    fn, options = WAYS[way]
    items = [[number] for number in range(30)]
    seen: list[int] = []

    def look(item: list[int]) -> Any:
        seen.append(item[0])
        return fn(item[0])

    async def look_later(item: list[int]) -> Any:
        seen.append(item[0])
        return await odd_later(item[0])

    tapped = look if "on" in options or way in ("plain", "lambda of async") else look_later
    for buffer in (100, 1):
        seen.clear()
        with soon():
            got = await Input[Any]().tap(tapped, **options).collect(items, buffer=buffer)
        assert sorted(got) == items
        assert all(any(a is b for b in items) for a in got)
        assert sorted(seen) == list(range(30))


async def test_nothing_passes() -> None:
    """A stage that keeps nothing still ends."""
    for flow in (
        source(range(5000)).filter(lambda item: False),
        source(range(500)).filter(lambda item: False, on=Threads(2)),
        Input[int]().filter(lambda item: None),
    ):
        with soon():
            given = None if flow.graph.stages[0].kind == "source" else range(5000)
            assert await flow.collect(given, buffer=1) == []


async def test_many_filters_fused() -> None:
    """Each counts its own."""
    flow = Input[int]()
    for number in (2, 3, 5, 7):
        flow = flow.filter(lambda item, number=number: item % number, name=f"not {number}")
    with soon():
        report = await flow.drain(range(210))
    wanted = list(range(210))
    for number in (2, 3, 5, 7):
        stage = report.stage(f"not {number}")
        assert stage.taken == len(wanted)
        wanted = [item for item in wanted if item % number]
        assert stage.done == len(wanted)


@pytest.mark.parametrize("options", [{}, {"timing": True}], ids=["bare", "timed"])
@pytest.mark.parametrize("verb", ["filter", "tap"])
async def test_a_function_that_gives_a_coroutine_now_and_then(
    verb: str, options: dict[str, Any]
) -> None:
    """It would be taken for true and never be awaited, so it is an error of that item."""

    async def ask(item: int) -> bool:
        return item != 5

    def cached(item: int) -> Any:
        return ask(item) if item == 5 else None if item % 2 else True

    flow = getattr(Input[int](), verb)(cached, name="cached")
    with soon():
        with pytest.raises(TypeError, match=r"stage 'cached' gave a coroutine, and before that"):
            await flow.collect(range(10), **options)
        report = await flow.drain(range(10), on_error="skip", **options)
        assert report.stage("cached").skipped == 1


@pytest.mark.parametrize("options", [{}, {"timing": True}], ids=["bare", "timed"])
@pytest.mark.parametrize("verb", ["filter", "tap"])
async def test_a_sentinel_as_a_result(verb: str, options: dict[str, Any]) -> None:
    """It is an error, whether or not anybody looks at the result."""

    def wrong(item: int) -> Any:
        return Sentinel("no") if item == 5 else True

    with soon(), pytest.raises(StageError, match="gave a Sentinel as its result"):
        await getattr(Input[int](), verb)(wrong).collect(range(10), **options)


async def one_by_one(count: int) -> AsyncIterator[int]:
    """Items with room between them for everything else."""
    for item in range(count):
        await settle()
        yield item


async def same_later(item: int) -> int:
    await checkpoint()
    return item


ABOVE: dict[str, Any] = {
    "an async source": lambda count: source(lambda: one_by_one(count)),
    "an async function": lambda count: source(range(count)).map(same_later),
    "both": lambda count: source(lambda: one_by_one(count)).map(same_later),
}
above_it = pytest.mark.parametrize("above", ABOVE)
each_verb = pytest.mark.parametrize("verb", ["map", "filter", "tap"])


@above_it
async def test_plain_functions_in_one_task_with_what_waits(above: str) -> None:
    """Each does what it does anywhere, and everything is counted."""
    seen: list[int] = []
    flow = ABOVE[above](200).map(lambda item: item + 1).filter(odd, name="odd").tap(seen.append)
    with soon():
        async with flow.filter(lambda item: item % 5).open() as run:
            got = [item async for item in run]
    assert seen == list(range(1, 201, 2))
    assert got == [item for item in seen if item % 5]
    report = run.report()
    assert report.stage("odd").filtered == 100
    check_accounts(report, over=True)


class NoTruth:
    """A result that raises when it is asked for its truth."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __bool__(self) -> bool:
        raise self.error


class OfItsOwn(BaseException):
    """No ordinary error, and no end of the program either."""


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_results_without_a_truth_fail_their_item(way: str, watched: bool) -> None:
    """Whatever the truth of what a filter gives raises, it is the error of a call like any other."""
    (fn, options), waits = WAYS[way], "thread" not in way and way != "plain"
    errors = {3: OfItsOwn(), 5: StopIteration(), 7: GeneratorExit(), 9: OSError("mine")}

    def keep(item: int) -> Any:
        return NoTruth(errors[item]) if item in errors else fn(item)

    async def keep_later(item: int) -> Any:
        return NoTruth(errors[item]) if item in errors else await fn(item)

    flow = source(range(11)).filter(keep_later if waits else keep, **options)
    observers = [Observer()] if watched else []
    with soon():
        async with flow.open(on_error="emit", observers=observers) as run:
            events = [event async for event in run.events()]
    found = {event.item: event.error for event in events if isinstance(event, Failure)}
    assert [event for event in events if not isinstance(event, Failure)] == [1]
    assert isinstance(found.pop(5), StageError)
    assert found == {item: errors[item] for item in (3, 7, 9)}
    check_accounts(run.report(), over=True)


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("way", ["pool", "unordered"])
async def test_what_ends_the_program_passes_bare_from_a_truth(way: str, watched: bool) -> None:
    """A Ctrl-C that comes while the result of a filter is looked at is no failure of its item."""

    async def keep(item: int) -> Any:
        return NoTruth(KeyboardInterrupt())

    observers = [Observer()] if watched else []
    with soon(), pytest.raises(KeyboardInterrupt):
        await source(range(5)).filter(keep, **WAYS[way][1]).collect(observers=observers)


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("verb", ["filter", "tap"])
@pytest.mark.parametrize("way", ["async", "timeout", "pool", "unordered"])
async def test_a_coroutine_is_no_answer(way: str, verb: str, watched: bool) -> None:
    """An async filter or tap that gives a coroutine was meant to await it; that fails the item."""

    async def look(item: int) -> Any:
        return odd_later(item) if item == 3 else True

    observers = [Observer()] if watched else []
    flow = getattr(source(range(6)), verb)(look, **WAYS[way][1])
    with soon():
        found = await flow.collect(on_error="emit", observers=observers)
    (failure,) = [event for event in found if isinstance(event, Failure)]
    assert failure.item == 3
    assert isinstance(failure.error, TypeError)
    assert {event for event in found if event is not failure} == {0, 1, 2, 4, 5}


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("verb", ["filter", "tap"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_sentinel_is_no_answer(way: str, verb: str, watched: bool) -> None:
    """It fails the item, though as an object it is as true as any other."""
    waits = "thread" not in way and way != "plain"

    def look(item: int) -> Any:
        return Sentinel("no") if item == 3 else True

    async def look_later(item: int) -> Any:
        return look(item)

    observers = [Observer()] if watched else []
    fn = look_later if waits else look
    flow = getattr(source(range(6)), verb)(fn, **WAYS[way][1])
    with soon():
        found = await flow.collect(on_error="emit", observers=observers)
    (failure,) = [event for event in found if isinstance(event, Failure)]
    assert failure.item == 3
    assert isinstance(failure.error, StageError)
    assert {event for event in found if event is not failure} == {0, 1, 2, 4, 5}


@above_it
@each_verb
async def test_plain_functions_that_fail_in_one_task_with_what_waits(above: str, verb: str) -> None:
    """Whatever they do wrong fails the item there, and the others go on."""

    def wrong(item: int) -> Any:
        if item % 10 == 3:
            raise ValueError("mine")
        if item % 10 == 7:
            return Sentinel("no")
        if item % 10 == 9 and verb != "map":
            return same_later(item)
        return item if verb != "tap" else None

    flow = getattr(ABOVE[above](40).tap(abs), verb)(wrong, name="wrong").map(abs)
    with soon():
        async with flow.open(on_error="emit") as run:
            events = [event async for event in run.events()]
    failed = [event.item for event in events if isinstance(event, Failure)]
    fails = (3, 7) if verb == "map" else (3, 7, 9)
    assert failed == [item for item in range(40) if item % 10 in fails]
    assert {event.stage for event in events if isinstance(event, Failure)} == {"wrong"}
    first = 1 if verb == "filter" else 0  # which takes 0 for false
    assert [getattr(event, "item", event) for event in events] == list(range(first, 40))
    check_accounts(run.report(), over=True)


@above_it
@each_verb
async def test_plain_functions_that_interrupt_in_one_task_with_what_waits(
    above: str, verb: str
) -> None:
    """Their item is gone, and what was in front of it; the rest goes on."""
    for raises in (False, True):
        run: Run[Any, int]

        def interrupt(item: int, raises: bool = raises) -> Any:
            if item == 20:
                run.interrupt()
                if raises:
                    raise ValueError("mine")
            return True if verb == "filter" else item

        flow = getattr(ABOVE[above](60).tap(abs), verb)(interrupt).map(abs)
        with soon():
            async with flow.open(buffer=10) as run:
                got = [item async for item in run]
        late = [item for item in got if item >= 20]
        assert 20 < late[0] < 40
        assert late == list(range(late[0], 60))
        assert got[: -len(late)] == list(range(len(got) - len(late)))
        check_accounts(run.report(), over=True)
