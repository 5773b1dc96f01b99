"""The proof proves itself: an engine that breaks a promise is caught by the laws or the sweeps.

Each bug is planted by replacing one function of the engine, and searched for with what the suite has.
What is not found here would not be found in the engine either.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from flowstage import _live, _output, _run, _wires
from flowstage._engine import call as calls
from flowstage._engine import (
    chain,
    hooks,
    join,
    line,
    offload,
    origin,
    pool,
    runner,
    seats,
    source,
    split,
    thread_source,
    transform,
)
from flowstage._engine.values import Values
from flowstage._envelope import Barrier, Envelope, Hole

from . import test_counterexamples as programs
from .harness import Schedule, run
from .laws import generate, play
from .test_faults import tried
from .test_laws import handed_over, same_everywhere
from .test_sweeps import swept

# Broken engines have much to say.
pytestmark = pytest.mark.usefixtures("quiet_logs")

Plant = Callable[[pytest.MonkeyPatch], None]
Search = Callable[[], object]


# ---------------------------------------------------------------- where a bug is looked for


def random_graphs() -> None:
    """Some of the everyday campaign's cases."""
    for seed in range(150):
        backend = ("trio", "asyncio")[seed % 2]
        schedule = Schedule(backend, seed=seed, lag=0.5 * (seed % 2), steps=20_000)
        play(generate(random.Random(seed)), schedule)


def points(name: str, act: str, backend: str = "trio") -> Search:
    """A sweep over one graph."""
    return lambda: swept(backend, name, act, steps=20_000)


def failing(name: str, policy: str, *errors: str) -> Search:
    """A fault sweep over one graph."""
    from .harness import single_faults

    return lambda: tried("trio", name, policy, lambda calls: single_faults(calls, errors))


def program(test: Callable[[], Any], backend: str = "trio") -> Search:
    """One of the programs that once were counter-examples; a hang is one as well."""
    return lambda: run(backend, test, steps=100_000)


def ordered_graphs() -> None:
    """Some of those that have to give the same events everywhere."""
    same_everywhere(range(20))


# ---------------------------------------------------------------- the bugs


def a_pull_that_stop_may_lose(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint between getting a value and holding it."""
    original = origin.read

    class Late:
        def __init__(self, iterator: Any) -> None:
            self.aclose = iterator.aclose
            self.pull = iterator.__anext__

        async def __anext__(self) -> Any:
            value = await self.pull()
            await checkpoint()
            return value

    def read(*args: Any, **more: Any) -> Values:
        values = original(*args, **more)
        if values.is_async:
            values.iterator = Late(values.iterator)
        return values

    patch.setattr(origin, "read", read)


def a_wait_that_takes(patch: pytest.MonkeyPatch) -> None:
    """A reader that is handed an item as it is cancelled, and loses it."""

    async def wait(self: runner.Runner, inlets: Any = None) -> None:
        await original(self, inlets)
        for edge in self.inlets if inlets is None else inlets:
            if edge.used and not self.frame.watch.tasks % 3:
                edge.take()

    original = runner.Runner.wait_item
    patch.setattr(runner.Runner, "wait_item", wait)


def a_merge_that_lets_a_sentinel_overtake(patch: pytest.MonkeyPatch) -> None:
    """The first copy goes on at once, the others are dropped."""

    async def read(self: join.MergeRunner, edge: Any, held: Any) -> bool:
        thing = edge.take()
        if type(thing) is Envelope:
            await self.on_item(thing, edge)
        elif type(thing) is Barrier:
            passed = self.__dict__.setdefault("passed", set())
            if thing.number not in passed:
                passed.add(thing.number)
                await self.pass_mark(thing)
        elif thing is not _wires.EMPTY:
            await self.pass_mark(thing)
        return thing is not _wires.EMPTY

    patch.setattr(join.MergeRunner, "read_share", read)


def an_interrupt_that_only_empties_queues(patch: pytest.MonkeyPatch) -> None:
    """What is in hand goes on."""

    def interrupt(self: _live.Live) -> int:
        if self.closed or self.cancelled:
            return 0
        return sum(edge.flush() for edge in self.edges.values() if not edge.finished)

    patch.setattr(_live.Live, "interrupt", interrupt)


def a_stage_that_does_not_look_at_the_epoch(patch: pytest.MonkeyPatch) -> None:
    """And works on with what it had."""
    patch.setattr(runner.Runner, "check", lambda self: None)


def an_interrupt_that_miscounts(patch: pytest.MonkeyPatch) -> None:
    """The number it gives is not what the account says."""
    original = _live.Live.interrupt

    def interrupt(self: _live.Live) -> int:
        count = original(self)
        return count + 1 if count > 2 else count

    patch.setattr(_live.Live, "interrupt", interrupt)


def a_flush_that_does_not_count(patch: pytest.MonkeyPatch) -> None:
    """What an interrupt throws away is in nobody's account."""
    original = _wires.Edge.flush

    def flush(self: _wires.Edge) -> int:
        before = self.discarded
        items = original(self)
        self.discarded = before
        return items

    patch.setattr(_wires.Edge, "flush", flush)


def a_result_counted_twice(patch: pytest.MonkeyPatch) -> None:
    """One call in three counts as done once more."""
    original = pool.Pool.leave

    def leave(self: pool.Pool, slot: Any) -> None:
        original(self, slot)
        if self.step.tally.done % 3 == 1:
            self.step.tally.done += 1

    patch.setattr(pool.Pool, "leave", leave)


def a_seat_given_back_too_early(patch: pytest.MonkeyPatch) -> None:
    """As soon as it was taken."""
    original = offload.Seat.take

    async def take(self: Any) -> None:
        await original(self)
        self.leave()

    patch.setattr(offload.Seat, "take", take)


def a_shared_stage_that_runs_twice(patch: pytest.MonkeyPatch) -> None:
    """Once for each branch that reads it."""
    original = calls.CallStep.__init__

    def init(self: calls.CallStep, *args: Any) -> None:
        original(self, *args)
        fn = self.fn
        if self.stage.nature == "plain":
            self.fn = lambda *a, **k: (fn(*a, **k), fn(*a, **k))[1]

    patch.setattr(calls.CallStep, "__init__", init)


def a_pool_that_forgets_order(patch: pytest.MonkeyPatch) -> None:
    """Results leave as they finish."""
    original = pool.Pool.__init__

    def init(self: pool.Pool, *args: Any) -> None:
        original(self, *args)
        self.ordered = False

    patch.setattr(pool.Pool, "__init__", init)


def edges_that_hold_more(patch: pytest.MonkeyPatch) -> None:
    """Ten times what the bound says; seen because readers stall."""
    original = _wires.Edge.__init__

    def init(self: Any, source: str, target: str, capacity: int, **more: Any) -> None:
        original(self, source, target, capacity * 10, **more)

    patch.setattr(_wires.Edge, "__init__", init)


def an_end_that_is_none(patch: pytest.MonkeyPatch) -> None:
    """A transform is told that its input has ended when it is only interrupted."""

    async def end(_: transform.TransformRunner) -> None:
        raise StopAsyncIteration

    patch.setattr(transform.TransformRunner, "refuse", end)


def generators_left_open(patch: pytest.MonkeyPatch) -> None:
    """The garbage collector will see to them."""

    async def close(self: Values, *_: Any) -> None:
        self.closed = True

    patch.setattr(Values, "close", close)


def streams_left_open(patch: pytest.MonkeyPatch) -> None:
    """The account is settled and the streams are forgotten."""

    def close(self: _wires.Edge) -> int:
        return 0 if self.finished else self.flush()

    patch.setattr(_wires.Edge, "close", close)


def rows_without_holes(patch: pytest.MonkeyPatch) -> None:
    """A filtered item leaves no place, so the next row slips into it."""
    original = _wires.Outlet.put_mark

    def put_mark(self: _wires.Outlet, mark: Any) -> bool:
        return type(mark) is Hole or original(self, mark)

    patch.setattr(_wires.Outlet, "put_mark", put_mark)


def a_fan_out_that_copies_no_sentinel(patch: pytest.MonkeyPatch) -> None:
    """Only the first branch has it, and the join below waits for the others."""
    original = runner.Runner.pass_mark

    async def pass_mark(self: runner.Runner, mark: Any) -> None:
        if isinstance(self, split.SplitRunner) and type(mark) is Barrier:
            await self.give_mark(mark, next(iter(self.outlets.values())))
        else:
            await original(self, mark)

    patch.setattr(runner.Runner, "pass_mark", pass_mark)


def a_lossy_buffer_that_drops_sentinels(patch: pytest.MonkeyPatch) -> None:
    """Whatever is oldest goes, and whatever arrives when nothing may go."""

    def put_mark(self: _wires.Outlet, mark: Any) -> bool:
        edge = self.edges[0]
        if isinstance(edge, _wires.Lossy) and edge.used >= edge.capacity:
            return True
        return original(self, mark)

    original = _wires.Outlet.put_mark
    patch.setattr(_wires.Outlet, "put_mark", put_mark)


def a_cancellation_taken_for_ours(patch: pytest.MonkeyPatch) -> None:
    """A function that raises the backend's cancelled ends its task, and nobody hears of it."""

    async def own_error(error: BaseException, frame: Any, name: str) -> BaseException:
        if not isinstance(error, Exception):
            raise runner.Stopped
        return error

    for module in (calls, chain, pool, transform):
        patch.setattr(module, "own_error", own_error)


def a_hook_that_may_break_a_stage(patch: pytest.MonkeyPatch) -> None:
    """What an observer raises fails the item that it observes."""

    async def tell(self: hooks.Hooks, hook: Any, *details: Any) -> None:
        told = hook(self._name, *details)
        if told is not None:
            await told

    patch.setattr(hooks.Hooks, "_tell", tell)


def a_skip_that_takes_the_next_too(patch: pytest.MonkeyPatch) -> None:
    """After a failure the next item is thrown away with it."""
    original = runner.Runner.handle

    async def handle(self: runner.Runner, *args: Any, **more: Any) -> Any:
        mark = await original(self, *args, **more)
        self.inlets[0].take() if self.inlets else None
        return mark

    patch.setattr(runner.Runner, "handle", handle)


def a_stop_that_forgets_the_hand(patch: pytest.MonkeyPatch) -> None:
    """What was pulled and not yet entered is dropped."""
    original = source.SourceRunner.stop

    def stop(self: source.SourceRunner) -> None:
        original(self)
        self.hand.clear()
        self.line.tickets.clear()

    patch.setattr(source.SourceRunner, "stop", stop)


def an_order_that_depends_on_the_loop(patch: pytest.MonkeyPatch) -> None:
    """A sentinel goes out in front of the item before it, where that is faster: on one backend."""
    original = chain.Chain.give_late

    async def give_late(self: chain.Chain, envelope: Envelope) -> None:
        if threading.current_thread() is threading.main_thread() and on_asyncio():
            head = self.inlets[0].head if self.inlets else None
            if head and type(head[0]) is Barrier:
                await self.pass_mark(self.inlets[0].take())
        await original(self, envelope)

    patch.setattr(chain.Chain, "give_late", give_late)


def on_asyncio() -> bool:
    try:
        return asyncio.get_running_loop() is not None
    except RuntimeError:
        return False


def a_task_left_behind(patch: pytest.MonkeyPatch) -> None:
    """One that belongs to nobody, for each run."""
    original = _live.Live.open

    async def open_(self: _live.Live) -> None:
        await original(self)
        self.stray = asyncio.ensure_future(asyncio.sleep(3600))  # type: ignore[attr-defined]

    patch.setattr(_live.Live, "open", open_)


def a_thread_left_behind(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits for it has gone, and it works on."""
    original = seats.in_thread

    async def in_thread(*args: Any, **more: Any) -> Any:
        threading.Thread(target=time.sleep, args=(1.5,), daemon=True).start()
        return await original(*args, **more)

    patch.setattr(seats, "in_thread", in_thread)


def an_output_that_takes_and_waits(patch: pytest.MonkeyPatch) -> None:
    """What it has taken is lost when the reader is cancelled before it has it."""
    original = _output._Reading.__anext__

    async def take_and_wait(self: Any) -> Any:
        thing = await original(self)
        self.over = True  # as where it waits
        await asyncio.sleep(0)
        self.over = False
        return thing

    patch.setattr(_output._Reading, "__anext__", take_and_wait)


def old_items_that_a_thread_brings(patch: pytest.MonkeyPatch) -> None:
    """When they were pulled is not looked at."""
    original = thread_source.ThreadSourceRunner._unload

    def unload(self: thread_source.ThreadSourceRunner, haul: Any) -> None:
        began, self.frame.epoch.began = self.frame.epoch.began, 0.0
        original(self, haul)
        self.frame.epoch.began = began

    patch.setattr(thread_source.ThreadSourceRunner, "_unload", unload)


def a_sentinel_that_remembers_how_far_it_was(patch: pytest.MonkeyPatch) -> None:
    """The next one begins where the one was that an interrupt discarded."""
    original = line.Line._clear

    def clear(self: line.Line, state: str) -> int:
        begun = self.begun
        items = original(self, state)
        self.begun = begun
        return items

    patch.setattr(line.Line, "_clear", clear)


def a_sentinel_withdrawn_half_way(patch: pytest.MonkeyPatch) -> None:
    """Its sender is cancelled, and the entries that have it not yet never get it."""

    def withdraw(tickets: Any) -> None:
        for place, ticket in tickets:
            place.line.withdraw(ticket)

    patch.setattr(_run, "_withdraw", withdraw)


def look_away(patch: pytest.MonkeyPatch, kind: type[runner.Runner], method: Any) -> None:
    """Have one method of a runner not look whether an interrupt came."""
    original = kind.check

    def check(self: runner.Runner) -> None:
        if sys._getframe(1).f_code is not method.__code__:
            original(self)

    patch.setattr(kind, "check", check)


def a_generator_that_interrupts_and_gives_on(patch: pytest.MonkeyPatch) -> None:
    """Its next value is given, though it is of the old epoch."""
    look_away(patch, chain.Chain, chain.Chain.expand)


def a_transform_that_interrupts_and_gives_on(patch: pytest.MonkeyPatch) -> None:
    """What its function gives for the item it had is given."""
    look_away(patch, transform.TransformRunner, transform.TransformRunner.one_life)


def a_balance_that_keeps_what_came_back(patch: pytest.MonkeyPatch) -> None:
    """An interrupt does not discard it."""
    patch.setattr(split.BalanceRunner, "discard", runner.Runner.discard)


def a_source_that_nobody_can_release(patch: pytest.MonkeyPatch) -> None:
    """It goes on when nobody wants what it gives."""
    patch.setattr(source.SourceRunner, "released", lambda self: None)


def a_line_that_grows(patch: pytest.MonkeyPatch) -> None:
    """Sentinels that have passed already stay in line before a source that is not open yet."""
    patch.setattr(line.Line, "drop_passed", lambda self, number: None)


def a_merge_that_does_not_count_all(patch: pytest.MonkeyPatch) -> None:
    """Some items were done and are discarded, if one believes the account."""
    original = join.MergeRunner.on_item

    async def on_item(self: join.MergeRunner, envelope: Envelope, edge: Any) -> None:
        await original(self, envelope, edge)
        self.steps[0].tally.done -= str(envelope.value).endswith("3)")

    patch.setattr(join.MergeRunner, "on_item", on_item)


PLANTED: list[tuple[Plant, Search]] = [
    (a_pull_that_stop_may_lose, points("waiting", "stop")),
    (a_wait_that_takes, random_graphs),
    (a_merge_that_lets_a_sentinel_overtake, random_graphs),
    (a_merge_that_lets_a_sentinel_overtake, points("forked", "interrupt")),
    (an_interrupt_that_only_empties_queues, random_graphs),
    (an_interrupt_that_only_empties_queues, points("waiting", "interrupt")),
    (a_stage_that_does_not_look_at_the_epoch, points("transforms", "interrupt")),
    (an_interrupt_that_miscounts, random_graphs),
    (a_flush_that_does_not_count, points("flat_pool", "interrupt")),
    (a_flush_that_does_not_count, points("pool", "cancel")),
    (a_result_counted_twice, random_graphs),
    (a_seat_given_back_too_early, random_graphs),
    (a_shared_stage_that_runs_twice, random_graphs),
    (a_pool_that_forgets_order, random_graphs),
    (edges_that_hold_more, random_graphs),
    (an_end_that_is_none, points("batches", "interrupt")),
    (generators_left_open, points("waiting", "leave")),
    (generators_left_open, points("flat_pool", "cancel", "asyncio")),
    (streams_left_open, random_graphs),
    (rows_without_holes, random_graphs),
    (a_fan_out_that_copies_no_sentinel, random_graphs),
    (a_lossy_buffer_that_drops_sentinels, points("lossy", "interrupt")),
    (a_cancellation_taken_for_ours, failing("on_the_loop", "raise", "cancelled")),
    (a_hook_that_may_break_a_stage, failing("on_the_loop", "raise", "ordinary")),
    (a_skip_that_takes_the_next_too, failing("on_the_loop", "skip", "ordinary")),
    (a_skip_that_takes_the_next_too, random_graphs),
    (a_stop_that_forgets_the_hand, points("buffers", "stop")),
    (an_order_that_depends_on_the_loop, ordered_graphs),
    (a_task_left_behind, points("inline", "leave", "asyncio")),
    (a_thread_left_behind, points("thread_source", "leave")),
    (an_output_that_takes_and_waits, handed_over),
    (
        old_items_that_a_thread_brings,
        program(
            programs.test_an_interrupt_discards_what_a_thread_pulled_while_its_source_stood_still
        ),
    ),
    (
        a_sentinel_that_remembers_how_far_it_was,
        program(programs.test_an_interrupt_forgets_how_far_a_sentinel_had_come),
    ),
    (
        a_sentinel_withdrawn_half_way,
        program(programs.test_a_sentinel_whose_sender_is_cancelled_half_way_goes_the_whole_way),
    ),
    (a_generator_that_interrupts_and_gives_on, random_graphs),
    (
        a_transform_that_interrupts_and_gives_on,
        program(programs.test_a_transform_that_interrupts_gives_nothing_more),
    ),
    (
        a_balance_that_keeps_what_came_back,
        program(programs.test_an_interrupt_discards_what_came_back_from_a_branch),
    ),
    (
        a_source_that_nobody_can_release,
        program(programs.test_a_source_that_nobody_wants_is_closed_at_once),
    ),
    (
        a_line_that_grows,
        program(programs.test_sentinels_do_not_pile_up_before_a_source_that_is_not_open_yet),
    ),
    (a_merge_that_does_not_count_all, random_graphs),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what broken engines leave behind
@pytest.mark.parametrize(
    ("plant", "search"), PLANTED, ids=[f"{p.__name__}-{n}" for n, (p, _) in enumerate(PLANTED)]
)
def test_a_planted_bug_is_caught(
    monkeypatch: pytest.MonkeyPatch, plant: Plant, search: Search
) -> None:
    """The search fails with the bug in place."""
    with monkeypatch.context() as patch:
        plant(patch)
        with pytest.raises((AssertionError, ExceptionGroup)):
            search()


@pytest.mark.slow
def test_without_a_bug_nothing_is_caught() -> None:
    """The searches that are used above find nothing in the engine as it is."""
    random_graphs()
    for search in {search for _, search in PLANTED[:2]}:
        search()
