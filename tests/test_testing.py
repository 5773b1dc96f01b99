"""The tools for users' tests: they see what is right, and say what is wrong."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import flowstage
from flowstage import (
    ClosedError,
    Graph,
    Input,
    Retry,
    Sentinel,
    StageTimeout,
    Threads,
    merge,
    source,
    testing,
)
from flowstage.testing import (
    ScriptedThreads,
    SinkProbe,
    SourceProbe,
    assert_no_leaks,
    explore,
    shuffled,
)

from .conftest import virtual_time

SOON = 0.01


def double(n: int) -> int:
    return 2 * n


# -- the module --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", testing.__all__)
def test_each_tool_is_documented_and_shows_itself(name: str) -> None:
    """What it does, and a line that runs; so does each of its methods have a word."""
    tool = getattr(testing, name)
    assert ">>> " in (inspect.getdoc(tool) or "")
    members = vars(tool) if inspect.isclass(tool) else {}
    bare = [
        member
        for member, value in members.items()
        if not member.startswith("_") and inspect.isroutine(value) and not inspect.getdoc(value)
    ]
    assert bare == []


# -- SourceProbe -------------------------------------------------------------------------------------


async def test_a_source_gives_what_is_sent_and_ends_when_told() -> None:
    """Opened once, closed once, and it counts."""
    probe = SourceProbe[int]()
    assert not probe.opened
    async with Input[int]().map(double).open(probe) as run:
        sink = SinkProbe(run)
        await probe.expect_pull()
        assert (probe.opened, probe.closed, probe.pulls, probe.pending) == (True, False, 1, 1)
        await probe.send(1, 2)
        await sink.expect_all(2, 4)
        probe.finish()
        await sink.expect_end()
        await probe.expect_closed()
    assert (probe.closed, probe.pulls, probe.pending, probe.given) == (True, 3, 0, 2)


async def test_a_source_probe_may_be_built_in() -> None:
    """`source(probe)` takes it like any source."""
    probe = SourceProbe[int]()
    async with source(probe).map(double).open() as run:
        await probe.send(1)
        await SinkProbe(run).expect(2)
    assert probe.closed


async def test_a_failing_source_fails_the_run() -> None:
    """Its error comes out of the block."""
    probe = SourceProbe[int]()
    with pytest.raises(OSError, match="gone"):
        async with Input[int]().open(probe) as run:
            probe.fail(OSError("gone"))
            await SinkProbe(run).expect_end()
    assert probe.closed


async def test_a_source_sends_sentinels() -> None:
    """They enter the run as such."""
    probe = SourceProbe[int]()
    async with Input[int]().open(probe) as run:
        sink = SinkProbe(run)
        await probe.send(1, Sentinel("x"))
        await sink.expect(1)
        await sink.expect_sentinel("x")


async def test_backpressure_shows() -> None:
    """A run that is full does not pull."""
    probe = SourceProbe[int]()
    async with Input[int]().buffer(2).map(double).open(probe, buffer=1) as run:
        sent = 0
        with pytest.raises(AssertionError, match="expected no pull"):
            await probe.expect_no_pull()
        probe._timeout = SOON
        with pytest.raises(AssertionError, match="did not pull within"):
            for sent in range(50):
                await probe.send(sent)
        assert 3 <= sent == probe.given == probe.pulls <= 6
        await probe.expect_no_pull()
        with pytest.raises(AssertionError, match="expected a pull"):
            await probe.expect_pull()
        probe._timeout = 5
        await SinkProbe(run).expect(0)
        await probe.expect_pull()
        await probe.wait_pulled(sent + 1)


async def test_a_source_that_nobody_pulls_says_so() -> None:
    """What it waited for, and what there was."""
    probe = SourceProbe[int](timeout=SOON)
    with pytest.raises(AssertionError, match=r"did not pull.*so 'x' was not taken.*not opened"):
        await probe.send("x")  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="expected 2 pulls, but there were 0"):
        await probe.wait_pulled(2)
    with pytest.raises(AssertionError, match="expected the source to be closed"):
        await probe.expect_closed()


async def test_a_send_to_a_source_that_was_closed_fails() -> None:
    """Stopping the run closes it."""
    probe = SourceProbe[int]()
    async with Input[int]().open(probe) as run:
        await probe.expect_pull()
        await run.stop()
        await probe.expect_closed()
        with pytest.raises(AssertionError, match="closed the source"):
            await probe.send(1)


async def test_a_source_probe_serves_one_run() -> None:
    """A second opening is a mistake, and it fails where it is made."""
    probe = SourceProbe[int]()
    probe.finish()
    flow = Input[int]()
    assert await flow.collect(probe) == []
    with pytest.raises(RuntimeError, match="was opened before"):
        await flow.collect(probe)
    with pytest.raises(RuntimeError, match="told to end"):
        probe.finish()


@pytest.mark.parametrize(
    "tool", [SourceProbe, lambda timeout: ScriptedThreads(1, patience=timeout)]
)
def test_timeouts_are_checked(tool: Callable[..., Any]) -> None:
    """At the call."""
    with pytest.raises(TypeError, match="number of seconds"):
        tool(timeout=True)
    with pytest.raises(ValueError, match="at least 0"):
        tool(timeout=float("nan"))


# -- SinkProbe ---------------------------------------------------------------------------------------


async def test_a_sink_says_what_came_instead() -> None:
    """The expected, the actual, and what came before."""
    async with Input[str]().open(["a", "b", "c"]) as run:
        sink = SinkProbe(run)
        await sink.expect("a")
        with pytest.raises(AssertionError) as caught:
            await sink.expect("x")
        assert str(caught.value) == "expected 'x', but 'b' came; before: 'a'"
        with pytest.raises(
            AssertionError, match=r"^expected the end, but 'c' came; before: 'a', 'b'"
        ):
            await sink.expect_end()
        with pytest.raises(
            AssertionError, match=r"^expected 'd', but the end came; before: .*'c'$"
        ):
            await sink.expect("d")
        with pytest.raises(AssertionError, match=r"^expected nothing, but the end came"):
            await sink.expect_nothing()
        await sink.expect_end()
        assert sink.came == ["a", "b", "c"]


async def test_a_sink_to_which_nothing_comes_tells_who_waits_for_whom() -> None:
    """The explanation of the run is in the message."""
    async with Input[int]("numbers").map(double).open() as run:
        with pytest.raises(AssertionError, match=r"(?s)expected 2, but nothing came.*numbers"):
            await SinkProbe(run, timeout=SOON).expect(2)
        await run.send(1)
        await SinkProbe(run).expect(2)


async def test_nothing_is_expected_and_something_comes() -> None:
    """A thing that comes while nothing is expected is shown; else nothing is lost by looking."""
    async with Input[int]().map(double).open() as run:
        sink = SinkProbe(run)
        await sink.expect_nothing()
        await run.send(1)
        with pytest.raises(AssertionError, match=r"^expected nothing, but 2 came"):
            await sink.expect_nothing()
        await sink.expect_nothing()
        await run.send(2)
        await sink.expect(4)


async def test_looking_for_nothing_a_hundred_times_loses_nothing() -> None:
    """The reading ahead gives way to other tasks now and then; not even then."""
    async with Input[int]().open(buffer=1) as run:
        sink = SinkProbe(run)
        for n in range(120):
            await sink.expect_nothing()
            await run.send(n)
            await sink.expect(n)


async def test_nothing_is_expected_where_nothing_can_come() -> None:
    """A closed end and a run that is over are errors of their own, in no group."""
    numbers = Input[int]()
    async with Graph(a=numbers.map(str), b=numbers.map(abs)).open() as run:
        run.output("a").close()
        with pytest.raises(ClosedError, match="output 'a' was closed"):
            await SinkProbe(run.output("a")).expect_nothing()
        sink = SinkProbe(run.output("b"))
        await sink.expect_nothing()
    with pytest.raises(ClosedError, match="the run is over"):
        await sink.expect_nothing()


async def test_failures_are_expected_by_class_and_stage() -> None:
    """And given, to be looked at."""

    def reject(n: int) -> int:
        raise KeyError(n)

    async with Input[int]().map(reject).open(range(4), on_error="emit") as run:
        sink = SinkProbe(run)
        failure = await sink.expect_failure(KeyError, stage="reject")
        assert failure.item == 0
        with pytest.raises(
            AssertionError, match="expected a failure with OSError, but a failure of "
        ):
            await sink.expect_failure(OSError)
        with pytest.raises(AssertionError, match="expected a failure of stage 'other' with Exc"):
            await sink.expect_failure(stage="other")
        with pytest.raises(AssertionError, match="expected a result, but a failure of stage 'rej"):
            await sink.next()


async def test_dead_letters_are_expected_like_failures() -> None:
    """As data they are the same things."""

    def reject(n: int) -> int:
        raise KeyError(n)

    tried = Input[int]().map(reject, on_error="skip")
    async with Graph(main=tried, dead=tried.failures()).open([7]) as run:
        failure = await SinkProbe(run.output("dead")).expect_failure(KeyError)
        assert failure.item == 7
        await SinkProbe(run.output("main")).expect_end()


async def test_results_in_whatever_order() -> None:
    """Each one once."""
    numbers = Input[int]()
    async with merge(numbers, numbers.map(double)).open([1, 3, 3]) as run:
        sink = SinkProbe(run)
        await sink.expect_unordered(6, 1, 3, 2, 6, 3)
        await sink.expect_end()
    async with Input[int]().open([1, 1]) as run:
        with pytest.raises(AssertionError, match="expected 2, but 1 came"):
            await SinkProbe(run).expect_unordered(1, 2)


async def test_what_cannot_be_compared_is_said_to_be_so() -> None:
    """Arrays have no one truth."""

    class Array:
        def __eq__(self, other: object) -> Any:
            raise ValueError("ambiguous")

        __hash__ = None  # type: ignore[assignment]

    array = Array()
    async with Input[Array]().open([array, array]) as run:
        sink = SinkProbe(run)
        await sink.expect(array)
        with pytest.raises(AssertionError, match="take it with next"):
            await sink.expect(Array())


def test_a_sink_needs_a_run() -> None:
    """A flow that was not opened has nothing to read."""
    with pytest.raises(TypeError, match="takes a run or an output"):
        SinkProbe(Input[int]())  # type: ignore[arg-type]


# -- assert_no_leaks ---------------------------------------------------------------------------------


async def test_a_run_leaves_nothing() -> None:
    """However it is left."""
    with assert_no_leaks():
        async with (
            Input[int]().map(double, on=Threads(2)).batch(3, within=9).open(range(99)) as run
        ):
            async for _ in run:
                break


async def test_a_task_and_a_stream_that_are_left_are_named() -> None:
    """Each on a line of its own."""

    async def stays() -> None:
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        with pytest.raises(AssertionError) as caught, assert_no_leaks():
            group.start_soon(stays, name="straggler")
            streams = anyio.create_memory_object_stream[int](1)
            await checkpoint()
            await checkpoint()
        group.cancel_scope.cancel()
        del streams
    text = str(caught.value)
    assert text.startswith("left behind:\n- ")
    assert "task 'straggler'" in text
    assert "stays" in text
    assert text.count("not closed, made at") == 2
    assert "test_testing.py" in text


async def test_a_generator_that_is_left_is_named() -> None:
    """One that is suspended, and one that was dropped."""

    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    held = numbers()
    with pytest.raises(AssertionError, match=r"async generator not closed: .*numbers"):
        with assert_no_leaks():
            await anext(held)
    await held.aclose()  # type: ignore[attr-defined]


async def test_a_busy_thread_that_is_left_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the place where it stands."""
    monkeypatch.setattr(testing._leaks.Watch, "grace", 0.0)
    go = threading.Event()
    with pytest.raises(AssertionError, match="thread 'lonely' still at work at"):
        with assert_no_leaks():
            thread = threading.Thread(target=go.wait, name="lonely")
            thread.start()
    go.set()
    thread.join()


async def test_the_error_of_the_block_comes_first() -> None:
    """What was left is a note to it."""
    streams: list[Any] = []
    with pytest.raises(KeyError) as caught, assert_no_leaks():
        streams += anyio.create_memory_object_stream[int](1)
        raise KeyError
    assert "and left behind:" in caught.value.__notes__[0]


@pytest.mark.slow
def test_around_anyio_run() -> None:
    """It can stand outside of the event loop."""
    with assert_no_leaks():
        assert anyio.run(Input[int]().map(double).collect, [1]) == [2]
    with pytest.raises(AssertionError, match="MemoryObjectSendStream not closed"):
        with assert_no_leaks():
            anyio.run(_leave_a_stream)
    gc.collect()


async def _leave_a_stream() -> None:
    send, receive = anyio.create_memory_object_stream[int](1)
    receive.close()
    _leaves.append(send)


_leaves: list[Any] = []


@pytest.mark.slow
def test_a_task_of_a_loop_that_is_gone() -> None:
    """asyncio lets one close a loop over its tasks."""

    async def stays() -> None:
        await asyncio.sleep(99)

    def leave() -> Any:
        loop = asyncio.new_event_loop()
        task = loop.create_task(stays())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return task

    with pytest.raises(AssertionError, match=r"task .* at .*stays"):
        with assert_no_leaks():
            task = leave()
    task._log_destroy_pending = False
    task.get_coro().close()


# -- ScriptedThreads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
async def test_calls_end_in_the_order_that_the_test_says(ordered: bool) -> None:
    """Out of order, if the stage allows it; in order otherwise."""
    place = ScriptedThreads(3)
    async with Input[int]().map(double, on=place, ordered=ordered).open([1, 2, 3]) as run:
        sink = SinkProbe(run)
        assert await place.wait_called(3) == (1, 2, 3)
        await place.release(3, 1)
        if ordered:
            await sink.expect(2)
            await sink.expect_nothing()
        else:
            await sink.expect_all(6, 2)
        await place.release()
        await (sink.expect_all(4, 6) if ordered else sink.expect(4))
        await sink.expect_end()
    assert place.calls == (1, 2, 3)


async def test_seats_are_full() -> None:
    """No more calls than seats, over all stages of the place; each has one item."""
    place = ScriptedThreads(2)
    numbers = Input[int]()
    flow = merge(numbers.map(double, on=place), numbers.filter(bool, on=place))
    async with flow.open([1, 2, 3]) as run:
        sink = SinkProbe(run)
        await place.wait_called(2)
        await sink.expect_nothing()
        assert len(place.calls) == len(place.held) == 2
        place.run_freely()
        await sink.expect_unordered(1, 2, 2, 3, 4, 6)
        await sink.expect_end()
    assert (len(place.calls), place.held) == (6, ())


async def test_a_late_result_is_dropped_after_an_interrupt() -> None:
    """The call goes on, keeps its seat, and is made; the run goes on with what comes next."""
    made: list[int] = []
    place = ScriptedThreads(1)

    def note(n: int) -> int:
        made.append(n)
        return n

    async with Input[int]().map(note, on=place).open() as run:
        sink = SinkProbe(run)
        await run.send(1)
        await place.wait_called(1)
        assert run.interrupt() == 1
        await run.send(2)
        await sink.expect_nothing()
        assert place.held == (1,)
        await place.release(1)
        await place.wait_called(2)
        await place.release(2)
        await sink.expect(2)
        await sink.expect_nothing()
    assert made == [1, 2]


@virtual_time
async def test_a_late_result_is_dropped_after_a_timeout() -> None:
    """Held on the event loop, so that virtual time works."""
    place = ScriptedThreads(1)
    flow = Input[int]().map(double, on=place, timeout=60, on_error="emit")
    async with flow.open([1, 2]) as run:
        sink = SinkProbe(run, timeout=100)
        await place.wait_called(1)
        failure = await sink.expect_failure(StageTimeout)
        assert failure.item == 1
        assert anyio.current_time() >= 60
        assert place.held == (1,)  # and the seat with it
        await place.release(1)
        await place.wait_called(2)
        await place.release(2)
        await sink.expect(4)
        await sink.expect_end()


async def test_a_call_fails_when_told() -> None:
    """Like one whose function raised; a retry is a new call."""
    place = ScriptedThreads(1)
    async with Input[int]().map(double, on=place, retry=Retry(2)).open([1]) as run:
        await place.wait_called(1)
        await place.fail(1, OSError("no"))
        assert await place.wait_called(2) == (1, 1)
        await place.release(1)
        await SinkProbe(run).expect(2)
        with pytest.raises(TypeError, match="takes an exception"):
            await place.fail(1, "no")  # type: ignore[arg-type]


async def test_a_flat_map_is_held_once() -> None:
    """At its call; its values come as they are read."""
    place = ScriptedThreads(1)

    def upto(n: int) -> Any:
        yield from range(n)

    async with Input[int]().flat_map(upto, on=place).open([400, 2]) as run:
        sink = SinkProbe(run)
        await place.wait_called(1)
        await place.release(400)
        await sink.expect_all(*range(400))
        await place.wait_called(2)
        await place.release(2)
        await sink.expect_all(0, 1)
        await sink.expect_end()


async def test_a_call_that_nobody_releases_does_not_hold_up_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A test that fails must not hang: the call is dropped, with a warning."""
    place = ScriptedThreads(1, patience=SOON)
    made: list[int] = []
    with pytest.raises(KeyError), caplog.at_level(logging.WARNING, "flowstage"):
        async with Input[int]().map(made.append, on=place).open([1]):
            await place.wait_called(1)
            raise KeyError
    assert made == []
    assert "nobody released it within 0.01 s" in caplog.text


async def test_leaving_waits_for_a_held_call() -> None:
    """As it does for any thread."""
    place = ScriptedThreads(1)
    made: list[int] = []

    async def release_late() -> None:
        await anyio.wait_all_tasks_blocked()
        assert made == []
        await place.release(1)

    async with anyio.create_task_group() as group:
        async with Input[int]().map(made.append, on=place).open([1]) as run:
            await place.wait_called(1)
            group.start_soon(release_late)
            del run
        assert made == [1]


async def test_calls_are_made_in_threads() -> None:
    """Real ones, with what belongs to them."""
    place = ScriptedThreads(1)

    def where(_: int) -> tuple[bool, int]:
        return threading.current_thread() is threading.main_thread(), anyio.from_thread.run_sync(
            int
        )

    async with Input[int]().map(where, on=place).open([1]) as run:
        await place.wait_called(1)
        await place.release(1)
        await SinkProbe(run).expect((False, 0))


async def test_what_is_not_held_cannot_be_released() -> None:
    """And the message says what is."""
    place = ScriptedThreads(2, patience=SOON)
    async with Input[str]().map(str.upper, on=place).open(["a", "b"]):
        await place.wait_called(2)
        with pytest.raises(AssertionError, match="no call for 'c' is held; held: 'a', 'b'"):
            await place.release("c")
        with pytest.raises(
            AssertionError, match=r"expected 3 calls, but there were 2 within 0.01 s"
        ):
            await place.wait_called(3)
        await place.release()
        with pytest.raises(AssertionError, match="no call for 'a' is held; held: none"):
            await place.release("a")


# -- shuffled schedules ------------------------------------------------------------------------------

both_backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


async def whose_turn() -> str:
    """Four tasks write their letters."""
    text = ""

    async def write(letter: str) -> None:
        nonlocal text
        for _ in range(3):
            text += letter
            await checkpoint()

    async with anyio.create_task_group() as group:
        for letter in "abcd":
            group.start_soon(write, letter)
    return text


def play(
    backend: str, seed: int, lag: float = 0.0, main: Callable[[], Awaitable[Any]] = whose_turn
) -> Any:
    name, options = shuffled(backend, seed, lag=lag)
    return anyio.run(main, backend=name, backend_options=options)


@both_backends
@pytest.mark.parametrize("lag", [0.0, 0.5])
def test_a_seed_decides_the_order(backend: str, lag: float) -> None:
    """The same one each time, and many of them."""
    texts = [play(backend, seed, lag) for seed in range(12)]
    assert texts == [play(backend, seed, lag) for seed in range(12)]
    assert len(set(texts)) > 8
    assert {"".join(sorted(text)) for text in texts} == {"aaabbbcccddd"}


@both_backends
def test_options_serve_any_number_of_loops(backend: str) -> None:
    """Each begins anew."""
    name, options = shuffled(backend, 3)
    texts = {anyio.run(whose_turn, backend=name, backend_options=options) for _ in range(3)}
    assert len(texts) == 1


@both_backends
def test_without_lag_nobody_falls_behind(backend: str) -> None:
    """One step a turn each; with lag, more."""

    def ahead(text: str) -> int:
        counts = [{letter: text[:n].count(letter) for letter in "abcd"} for n in range(13)]
        return max(max(count.values()) - min(count.values()) for count in counts)

    assert {ahead(play(backend, seed)) for seed in range(8)} == {1}
    assert max(ahead(play(backend, seed, 0.5)) for seed in range(8)) > 1


@both_backends
def test_a_run_goes_on_under_any_schedule(backend: str) -> None:
    """Threads and timers included."""

    async def scenario() -> list[int]:
        numbers = Input[int]()
        flow = merge(
            numbers.map(double, on=Threads(2)), numbers.batch(2, within=0.001).flat_map(list)
        )
        with assert_no_leaks():
            return sorted(await flow.collect(range(10)))

    for seed in range(4):
        assert play(backend, seed, 0.3, scenario) == sorted([*range(10), *range(0, 20, 2)])


def test_explore_names_the_seed_of_a_failure() -> None:
    """A race that the usual order hides, and how to get there again."""

    async def race() -> str:
        text = await whose_turn()
        if text.index("a") > text.index("d"):
            raise AssertionError(text)
        return text

    with pytest.raises(AssertionError) as caught:
        explore(race)
    [note] = caught.value.__notes__
    assert note.startswith("run with: shuffled('")
    backend, options = eval(note.removeprefix("run with: "))
    with pytest.raises(AssertionError) as again:
        anyio.run(race, backend=backend, backend_options=options)
    assert str(again.value) == str(caught.value)


def test_explore_gives_what_came() -> None:
    """One result for each seed and backend."""
    results = explore(whose_turn, seeds=range(3))
    assert len(results) == 6
    assert len(set(explore(whose_turn, seeds=[1, 1], backends=["trio"]))) == 1


async def test_explore_is_called_outside_of_an_event_loop() -> None:
    """Inside of one it says so, and blames no seed."""
    with pytest.raises(RuntimeError, match="outside of one") as caught:
        explore(whose_turn)
    assert not hasattr(caught.value, "__notes__")


def test_wrong_schedules_are_refused() -> None:
    """At the call."""
    with pytest.raises(ValueError, match="backend must be one of"):
        shuffled("uvloop", 1)
    with pytest.raises(ValueError, match="below 1"):
        shuffled("trio", 1, lag=1)


class TestUnderThePlugin:
    """`shuffled` is what an `anyio_backend` fixture may return."""

    texts: dict[str, set[str]] = {"asyncio": set(), "trio": set()}  # noqa: RUF012

    @pytest.fixture(params=[shuffled(b, 5) for b in ("asyncio", "trio")] * 2)
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        return request.param

    async def test_the_order_is_that_of_the_seed(self, anyio_backend_name: str) -> None:
        """The second time as the first."""
        texts = self.texts[anyio_backend_name]
        texts.add(await whose_turn())
        assert len(texts) == 1
        assert texts != {"abcd" * 3}


def test_nothing_of_it_is_loaded_with_the_package() -> None:
    """Whoever does not test does not pay."""
    assert "testing" not in flowstage.__all__
