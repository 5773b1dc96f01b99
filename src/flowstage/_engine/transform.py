"""The stage with memory: a user's function from an async iterator of items to one of results.

The function's iterator is opened, iterated and closed in the runner's own task. Its input is an
iterator that takes from the inlet when it is asked: that is when marks pass, so a sentinel goes
behind everything that was given before the question. With `segments` the input ends at a sentinel
instead, the function is begun afresh behind it, and all that it gives before it ends goes in front.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Hashable, Mapping, Sequence
from inspect import iscoroutine
from time import perf_counter
from typing import TYPE_CHECKING, Any, Never

from anyio import (
    BusyResourceError,
    current_effective_deadline,
    get_current_task,
    get_running_tasks,
)
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .._clock import compute
from .._envelope import Barrier, Envelope, Failure, Mark, Sentinel
from .._epoch import Flushed
from .._errors import NO_ITEM, ClosedError, safe_repr
from .._stages import MAIN, TransformStage
from .._watch import Bell
from .._where import has_timer
from .._wires import EMPTY, Edge, Enough, Outlet, wait_any
from .call import sentinel_given
from .runner import LONGEST_TURN, Frame, Runner, Step, Stopped, own_error
from .values import DONE, Values, read

GIVEN = (
    "the function of a transform is called once and given the iterator of all items; "
    "one that takes an item belongs into map"
)


class Items(AsyncIterator[Any]):
    """What a transform's function reads.

    Attributes:
        barrier: the sentinel at which a segment ended.
    """

    def __init__(self, runner: TransformRunner) -> None:
        self._runner = runner
        self._epoch = runner.seen
        self.barrier: Barrier | None = None
        self._end = perf_counter() + LONGEST_TURN  # when other tasks are due a turn
        self._rested = False  # they have had it
        self._asked = False  # a task waits for the next item

    def __repr__(self) -> str:
        return f"<the items of transform {self._runner.name!r}, to be read with 'async for'>"

    if not TYPE_CHECKING:  # where it is wrong already, and should stay so

        def __iter__(self):
            raise TypeError("the items of a transform are read with 'async for', not with 'for'")

    async def __anext__(self) -> Any:
        runner = self._runner
        if self._asked:
            error = BusyResourceError("reading")
            what = f"another task waits for the next item of transform {runner.name!r}"
            error.args = (f"{what}; for calls at once use map(..., concurrency=...)",)
            raise error
        runner.settle_item()
        runner.count_work()
        (inlet,) = runner.inlets
        while self.barrier is None:
            if not self._rested and perf_counter() > self._end:
                self._rested = True  # also when it is cancelled, or a poll would never be answered
                self._asked = True
                try:
                    await checkpoint()  # before anything is taken: the function may have a timeout
                finally:
                    self._asked = False
                self._end = perf_counter() + LONGEST_TURN
            if self._epoch != runner.frame.epoch.number or runner.frame.cancelled:
                await runner.refuse()
            thing = runner.passing or inlet.take()
            if type(thing) is Envelope:
                runner.hold(thing)
                self._rested = False
                return thing.value
            if thing is EMPTY and inlet.ended:
                runner.resumed = perf_counter()
                break
            if type(thing) is Barrier and runner.segments:
                self.barrier = thing
                runner.resumed = perf_counter()
                break
            self._asked = True
            try:
                if thing is EMPTY:
                    await runner.wait_for_items()
                    self._end = perf_counter() + LONGEST_TURN
                else:
                    runner.passing = thing
                    await runner.pass_on()
            except (Flushed, Enough):
                # The scope around the function is cancelled already, and that comes first: this is
                # no place to raise what a user's `except Exception` would swallow. But this task
                # may be in no scope of ours, or shielded from it.
                await runner.refuse()
            finally:
                self._asked = False
        raise StopAsyncIteration


def _hint(raised: BaseException) -> str:
    """Tell what is likely to be wrong in a function that takes its items for something else."""
    told = str(raised)
    if isinstance(raised, (TypeError, AttributeError)) and f"'{Items.__name__}'" in told:
        return GIVEN
    if isinstance(raised, RuntimeError) and told.endswith("raised StopAsyncIteration"):
        return "the items came to their end; read them with 'async for', or 'anext(items, default)'"
    return ""


class TransformRunner(Runner):
    """Runs a transform's function, once or once a segment.

    Attributes:
        passing: the mark that the function came upon when it asked, until it has gone on. The
            question may be cancelled meanwhile, by a timeout of the function's; the mark stays.
        helper: where a task that the function has started waits: it may ask while this one gives.
    """

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
    ) -> None:
        super().__init__(frame, steps, inlets, outlets)
        stage = steps[0].stage
        assert isinstance(stage, TransformStage)
        self.fn = stage.fn
        self.segments = stage.segments
        self.tally = steps[0].tally
        self.held: Envelope | None = None
        self.last: Envelope | None = None  # the clock of the last item, when items are timed
        self.resumed = 0.0  # since when the function works on it
        self.passing: Mark | None = None
        self.helper = Bell(frame.watch)

    async def serve(self) -> None:
        self.held = self.passing = None
        self.helper = Bell(self.frame.watch)  # one of an older epoch may still be on its way out
        self.task, self.deadline = get_current_task().id, current_effective_deadline()
        while True:
            items = Items(self)
            self.last = None
            await self.one_life(items)
            self.settle_item()
            await self.pass_on()
            if items.barrier is None:
                return
            self.check()
            await self.pass_mark(items.barrier)

    async def one_life(self, items: Items) -> None:
        """Read everything that one call of the function gives."""
        outlet = self.outlets[MAIN]
        values: Values | None = None
        try:
            values = await self.guarded_open(items)
            end = perf_counter() + LONGEST_TURN
            while (value := await self.guarded_next(values)) is not DONE:
                # It may give results without end, and never wait. Others have their turn before one
                # is given: a function that has given its last ends before anything else comes.
                if perf_counter() > end:
                    await checkpoint()
                    end = perf_counter() + LONGEST_TURN
                self.check()
                if self.passing is not None:
                    await self.pass_on()
                await self.give(self.frame.joined(value, self.parts()), outlet)
                self.tally.given += 1
                if self.last is not None:
                    self.resumed = perf_counter()
        finally:
            late = None
            if values is not None and not values.closed:
                late = await values.close(self.frame.close_timeout)
            if late is not None:
                self.frame.fail(Failure(self.name, self.last_item(), late, 1))

    async def wait_for_items(self) -> None:
        """Wait for input on behalf of the function, whose own timer or task may move it anyway."""
        is_ours = self.is_ours()
        if is_ours and current_effective_deadline() >= self.deadline:
            await self.wait_item()
            return
        watch = self.frame.watch
        watch.enter()
        try:
            await (self.wait_item() if is_ours else self.wait_beside())
        finally:
            watch.leave()

    async def wait_beside(self) -> None:
        """Wait for input in a task that the function has started, for as long as that lives."""
        if self.inlets[0].finished or self.frame.cancelled:
            await self.refuse()
        began, seen = perf_counter(), self.seen
        if not self.waits:
            self.since = began
            self.waits, self.waits_at = "input", self.inlets
        try:
            await wait_any(self.inlets, self.helper)
        finally:
            if self.waits == "input":
                self.waits = ""
            self.tally.waiting += perf_counter() - began
        self.frame.epoch.check(seen)

    def moves(self) -> bool:
        return super().moves() or (self.waits == "input" and self.has_timer())

    def has_timer(self) -> bool:
        """Tell whether the function waits for its input with a timer that is asyncio's own."""
        return any(has_timer(info.coro) for info in get_running_tasks() if info.id == self.task)

    async def refuse(self) -> Never:
        """Let go of whoever asks on behalf of a function that was interrupted or has ended.

        Raises:
            ClosedError: always, if it is not cancelled.
        """
        await checkpoint_if_cancelled()
        raise ClosedError(
            f"transform {self.name!r} was interrupted or has ended: this life of it is over"
        )

    def is_ours(self) -> bool:
        """Tell whether this is the runner's own task, and not one that the function has started."""
        return get_current_task().id == self.task

    async def pass_on(self) -> None:
        """Pass on the mark that the function came upon, unless that has been done."""
        outlet = self.outlets[MAIN]
        while self.passing is not None:
            if outlet.put_mark(self.passing):
                self.passing = None
            else:
                await self.wait_room(outlet, self.passing)

    async def wait_room(self, outlet: Outlet, thing: Any) -> None:
        # An edge has one writer. Two tasks that wait there take turns: the runner's own has the
        # place, and tells the other one whenever it has been woken.
        if self.is_ours():
            try:
                await super().wait_room(outlet, thing)
            finally:
                self.helper.ring()
            return
        watch, seen = self.frame.watch, self.seen
        watch.enter()
        try:
            if self.waits == "output":
                await self.helper.wait()
            else:
                await outlet.wait_room(thing, self.helper)
        finally:
            watch.leave()
        self.frame.epoch.check(seen)

    async def guarded_open(self, items: Items) -> Values:
        values: Any = NO_ITEM
        try:
            values = self.fn(items)
            if not isinstance(values, AsyncIterable):
                if iscoroutine(values):
                    values.close()
                raise TypeError(
                    f"transform {self.name!r} must give an iterable for 'async for', not "
                    f"{safe_repr(values)}; {GIVEN}"
                )
            return read(values, f"transform {self.name!r}")
        except BaseException as raised:
            if isinstance(raised, (TypeError, AttributeError)) and values is NO_ITEM:
                raised.add_note(f"flowstage: {GIVEN}")  # as when it takes what it has for an item
            await self.failed(raised)
            raise Stopped from None

    async def guarded_next(self, values: Values) -> Any:
        try:
            value = await values.next()
            if type(value) is Sentinel:
                raise sentinel_given(self.name)
        except BaseException as raised:
            if hint := _hint(raised):
                raised.add_note(f"flowstage: {hint}")
            await self.failed(raised)
            raise Stopped from None
        return value

    async def failed(self, raised: BaseException) -> None:
        """End the run with what the function raised, unless it is our own cancellation."""
        error = await own_error(raised, self.frame, self.name)
        self.check_failed(self.name, error)
        self.frame.fail(Failure(self.name, self.last_item(), error, 1))

    def last_item(self) -> Any:
        """Give the item that the function had last."""
        return NO_ITEM if self.held is None else self.held.value

    def hold(self, envelope: Envelope) -> None:
        """Note the item that the function has now."""
        self.held = envelope
        if envelope.clock is not None:
            self.last = Envelope(None, None, envelope.clock)
            self.resumed = perf_counter()

    def parts(self) -> list[Envelope]:
        """Give what stands for the items of a result: the clock of the last one, for its times."""
        self.count_work()
        return [] if self.last is None else [self.last]

    def count_work(self) -> None:
        """Note on the last item's clock how long the function has worked since it went on."""
        if self.last is not None:
            now = perf_counter()
            compute(self.last.clock, self.name, now - self.resumed)
            self.resumed = now

    def settle_item(self) -> None:
        """Count the item that the function had as done: it asks for the next, or has ended."""
        if self.held is not None:
            self.held = None
            self.tally.done += 1

    def discard(self) -> int:
        self.held = self.passing = None
        self.helper.ring()
        return super().discard()

    def dismiss(self) -> None:
        self.bell.ring()
        self.helper.ring()

    def refresh(self) -> None:
        self.tally.taken = self.inlets[0].values_out
