"""Calls in worker threads: seats owned, work batched by time slice.

A worker is a long-lived task that stands for one call at once. It takes a seat first, then what is
waiting, as much as can be done in one time slice and no more than its share among the free seats;
calls the function in a thread for item after item until the slice is over; gives the seat back; hands
on what is done and hands back what is not. So a seat is held while user code runs and never while
anything waits, and no result is held up for longer than one slice or one item.

A thread cannot be cancelled. A worker whose thread runs on after an interrupt or a timeout stays with
it: the concurrency slot and the seat are taken until the thread really ends, and what it brings is
dropped. (`abandon_on_cancel` would give the seat back at once on asyncio but not on trio: six threads
ran under a limit of two.) Its function can ask `anyio.from_thread.check_cancelled()`.

Workers belong to the run, not to the epoch; everything else about the window is the pool's.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter, length_hint
from time import perf_counter
from types import CoroutineType
from typing import Any

from anyio import (
    CancelScope,
    CapacityLimiter,
    Event,
    get_cancelled_exc_class,
    move_on_after,
    sleep,
    to_thread,
)
from anyio.lowlevel import RunVar, checkpoint_if_cancelled

from .._backend import soon_caller
from .._clock import compute
from .._envelope import HOLE, Envelope, Sentinel
from .._epoch import Flushed
from .._errors import StageTimeout
from .._places import Threads
from .._stages import FilterStage, MapStage
from .._wires import Edge, Outlet
from .call import CallFailed, sentinel_given
from .pool import Pool, Slot, Worker
from .runner import Frame, Step, Stopped, own_error

SLICE = 0.002
"""Seconds after which a call hands back what is done; 60 µs of a call are then 3 % of it."""
MOST_IN_A_CALL = 256


def timed_call(call: Callable[[Envelope], Any], name: str, envelope: Envelope) -> Any:
    """Call a function and note the time on the item's clock. Runs in a thread."""
    began = perf_counter()
    try:
        return call(envelope)
    finally:
        if envelope.clock is not None:
            compute(envelope.clock, name, perf_counter() - began)


def run_slice(
    call: Callable[[Envelope], Any], envelopes: Sequence[Envelope], seconds: float
) -> tuple[list[tuple[Any, BaseException | None]], float]:
    """Call a function for one item after the other until the time is over. Runs in a thread."""
    answers: list[tuple[Any, BaseException | None]] = []
    began = perf_counter()
    end = began + seconds
    for envelope in envelopes:
        try:
            answers.append((call(envelope), None))
        except BaseException as error:  # carried to the loop, where the guard looks at it
            answers.append((None, error))
            if not isinstance(error, Exception):
                break
        if perf_counter() > end:
            break
    return answers, perf_counter() - began


def run_flat_slice(
    call: Callable[[Envelope], Any],
    name: str,
    envelopes: Sequence[Envelope],
    seconds: float,
    most: int,
) -> tuple[list[tuple[list[Any], Iterator[Any] | None, BaseException | None]], float]:
    """Make the values of one item after the other until the time is over. Runs in a thread.

    The time that each took is noted on its clock, in the name of the stage.

    Returns:
        for each item begun its values, its iterator if there may be more, and what it raised; and
        the seconds that it took. Only the last item can have more.
    """
    answers: list[tuple[list[Any], Iterator[Any] | None, BaseException | None]] = []
    began = perf_counter()
    end = began + seconds
    for envelope in envelopes:
        started = 0.0 if envelope.clock is None else perf_counter()
        iterator, error = begin_iterator(call, envelope)
        values: list[Any] = []
        more = False
        if iterator is not None and type(iterator) in _MADE and length_hint(iterator) <= most:
            values = list(iterator)  # no code of the user's runs, so there is no time to watch
        elif iterator is not None:
            left = max(0.0, end - perf_counter())
            values, _, more, error = run_iterator(iterator, left, most)
        if envelope.clock is not None:
            compute(envelope.clock, name, perf_counter() - started)
        answers.append((values, iterator if more or error is not None else None, error))
        most -= len(values)
        if more or most <= 0 or perf_counter() > end:
            break
        if error is not None and not isinstance(error, Exception):
            break
    return answers, perf_counter() - began


_MADE: tuple[type, ...] = (type(iter(())), type(iter([])))


def run_iterator(
    iterator: Iterator[Any], seconds: float, most: int
) -> tuple[list[Any], list[float], bool, BaseException | None]:
    """Take values from an iterator until the time is over. Runs in a thread.

    Returns:
        the values, when each was got, whether there may be more, and what the iterator raised.
    """
    values: list[Any] = []
    times: list[float] = []
    end = perf_counter() + seconds
    try:
        while len(values) < most:
            values.append(next(iterator))
            now = perf_counter()
            times.append(now)
            if now > end:
                break
    except StopIteration:
        return values, times, False, None
    except BaseException as error:
        return values, times, False, error
    return values, times, True, None


class Seat:
    """One seat of a place, taken before there is work and given back as soon as it is done.

    Attributes:
        late: its owner still works for an epoch that is over, and is counted as alive until it ends.
    """

    __slots__ = ("_seats", "_taken", "late")

    def __init__(self, place: Threads) -> None:
        self._seats = place.seats()
        self._taken = self.late = False

    @property
    def free(self) -> int:
        """Seats that nobody has."""
        return int(self._seats.available_tokens)

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a seat of this place."""
        return self._seats.statistics().tasks_waiting > 0

    async def take(self) -> None:
        """Wait for a seat, in turn with everybody who wants one of this place."""
        await self._seats.acquire_on_behalf_of(self)
        self._taken = True

    def leave(self) -> None:
        """Give the seat back, unless that has been done."""
        if self._taken:
            self._taken = False
            self._seats.release_on_behalf_of(self)

    async def take_back(self) -> None:
        """Take the seat again after a rest, if the run still goes on."""
        if not self._taken:
            await self.take()

    async def rest(self, seconds: float) -> None:
        """Give the seat to others for a while."""
        if seconds > 0:
            self.leave()
            await sleep(seconds)
            await self.take()


class ThreadCall:
    """One call in a thread, which can be seen to its end whoever is cancelled.

    A shield holds against cancel scopes only. When asyncio shuts down it cancels every task natively,
    anyio then lets go of the thread, and the run would end while user code goes on in it.
    """

    __slots__ = ("_args", "_ended", "_loop", "_turn", "_wake", "_work")

    def __init__(self, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._work, self._args = work, args
        self._turn = [True]  # whoever takes this out first decides: it begins, or it never will
        self._ended = False
        self._loop: Any = None
        self._wake: Any = None

    def run(self) -> Any:
        """Make the call, unless nobody waits for it any more. Runs in a thread."""
        try:
            self._turn.pop()
        except IndexError:
            return None
        try:
            return self._work(*self._args)
        finally:
            self._ended = True
            if self._wake is not None:
                with suppress(RuntimeError):  # the loop has been closed in spite of us
                    self._loop.call_soon_threadsafe(self._wake)

    async def outlast(self) -> None:
        """After a cancellation: wait until no thread runs the call."""
        try:
            self._turn.pop()
        except IndexError:
            if self._ended:  # it has raised the cancellation itself
                return
            event = Event()
            self._loop = sys.modules["asyncio"].get_running_loop()
            self._wake = event.set
            while not self._ended:
                with suppress(get_cancelled_exc_class()), CancelScope(shield=True):
                    await event.wait()


async def in_thread(work: Callable[..., Any], *args: Any) -> Any:
    """Run work in a thread to its end, for a caller that has a seat."""
    call = ThreadCall(work, args)
    try:
        return await to_thread.run_sync(call.run, limiter=_no_limit())
    except get_cancelled_exc_class():
        # A scope's cancellation comes before the call or after it; in between it can only be native.
        await call.outlast()
        raise


_unlimited: RunVar[CapacityLimiter] = RunVar("flowstage.unlimited")


def _no_limit() -> CapacityLimiter:
    """Give a limiter that does not limit: the seat has been counted already."""
    try:
        return _unlimited.get()
    except LookupError:
        limiter = CapacityLimiter(math.inf)
        _unlimited.set(limiter)
        return limiter


async def at_place(place: Threads, work: Callable[..., Any], *args: Any) -> Any:
    """Take a seat, run work in a thread, give the seat back."""
    seat = Seat(place)
    await seat.take()
    try:
        return await in_thread(work, *args)
    finally:
        seat.leave()


_number = attrgetter("number")


class Offload(Pool):
    """A stage whose calls run in threads.

    Attributes:
        undone: slots that a call took and handed back, or that stood behind a mark.
        coming: workers that were called and have not taken anything yet.
        crew: workers that have nothing to do.
        pace: seconds an item takes, a moving average.
        script: what decides when each call is made, in tests.
        single: one item a call, because it may be timed out, tried again, observed or scripted.
        shifts: the seats of the workers that have been called, taken or waited for.
        handed: the lists that threads are working on. Emptied by an interrupt, so that no call is
            begun for what it has discarded.
    """

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
    ) -> None:
        self.crew: list[Worker] = []
        self.shifts: set[Seat] = set()
        self.handed: dict[Slot, list[Any]] = {}
        self.hired = 0
        super().__init__(frame, steps, inlets, outlets)
        options = self.step.options
        assert isinstance(options.on, Threads)
        self.place = options.on
        self.room = self.width * MOST_IN_A_CALL
        self.pace = 0.0
        self.script = self.place.script()
        self.single = bool(options.timeout or options.retry or self.step.hooks or self.script)
        fn = self.step.fn
        self.call: Callable[[Envelope], Any] = lambda envelope: fn(envelope.value)
        if options.pass_context:
            self.call = lambda envelope: fn(envelope.value, context=envelope.context)
        if frame.timing and not self.single and not self.is_flat:
            self.call = partial(timed_call, self.call, self.step.name)
        self.step.tally.sampled = not self.single

    def _begin(self) -> None:
        super()._begin()
        self.idle = self.crew
        self.undone: deque[Slot] = deque()
        self.coming = 0

    async def serve(self) -> None:
        self._begin()
        await self.coordinate()

    def conclude(self) -> None:
        self.closing = True
        for worker in self.crew:
            worker.assign(None)
        super().conclude()

    def discard(self) -> int:
        for slot in self.window:
            slot.release()  # whoever waits to give finds that it is too late
        for things in self.handed.values():
            things.clear()
        for seat in self.shifts:
            if not seat.late:
                seat.late = True
                self.frame.watch.tasks += 1
        return super().discard()

    # -- calling workers ------------------------------------------------------------------------

    def waiting(self) -> int:
        """Items that could be taken up."""
        inlet = self.inlet
        inside = inlet.used - inlet.marks_inside - inlet.faults_inside
        return len(self.undone) + max(0, min(inside, self.room - self.items))

    def may_call(self) -> bool:
        """Tell whether there is a worker to call."""
        return bool(self.crew) or self.hired < self.width

    def staff(self) -> None:
        if self.inlet.marks_inside or self.inlet.faults_inside:
            slot = self.take()  # a mark takes no seat: what stands before the next item passes here
            if slot is not None:
                self.undone.append(slot)
        while self.coming < self.waiting() and self.barrier_allows() and self.may_call():
            self.coming += 1
            self.begin_work()
            if self.crew:
                worker = self.crew.pop()
                worker.seen = self.seen
                worker.assign(None)
            else:
                self.hired += 1
                self.workers = self.hired
                worker = Worker(None)
                worker.seen = self.seen
                self.frame.spawn_uncounted(partial(self.work, worker))

    def barrier_allows(self) -> bool:
        """Tell whether a barrier leaves anything to be taken up: what stood before it does."""
        return self.barrier is None or bool(self.undone)

    def share(self, seat: Seat) -> int:
        """Give how many items a call may take: a fair share, no more than a slice's worth."""
        if self.single:
            return 1
        return self.part(1 + max(0, min(self.width - self.busy, seat.free)))

    def part(self, number: int) -> int:
        """Give how many items one of so many workers may take."""
        most = -(-self.waiting() // number)
        # Whoever takes all before anybody knows how long an item takes may keep it from others.
        most = min(most, int(SLICE / self.pace)) if self.pace else 1
        return max(1, min(most, MOST_IN_A_CALL))

    def take(self) -> Slot | None:
        slot = super().take()
        if slot is not None:
            slot.number = self.inlet.taken
        return slot

    def hand_back(self, slots: Sequence[Slot]) -> None:
        """Have slots that a call has not begun taken up before everything younger.

        Else all workers might read long items, each waiting for its turn behind something that was
        handed back and that none of them is left to do.
        """
        self.undone = deque(sorted((*slots, *self.undone), key=_number))

    def take_batch(self, seat: Seat) -> list[Slot]:
        """Take a share of what is waiting."""
        most = self.share(seat)
        batch: list[Slot] = []
        while len(batch) < most:
            slot = self.undone.popleft() if self.undone else self.take()
            if slot is None:
                break
            batch.append(slot)
        return batch

    # -- workers --------------------------------------------------------------------------------

    async def work(self, worker: Worker) -> None:
        """Do shifts: one each time the coordinator calls."""
        try:
            while not self.closing:
                seat = Seat(self.place)
                self.shifts.add(seat)
                try:
                    await self.shift(worker.seen, seat)
                except Flushed:
                    pass
                finally:
                    self.shifts.discard(seat)
                self.crew.append(worker)
                self.bell.ring()  # first: with no worker at work and this bell unrung all seems still
                if not self.stale(worker.seen):
                    self.end_work()
                if seat.late:
                    self.frame.watch.leave()
                if not self.closing:
                    await worker.wait()
        except Stopped:
            return
        except get_cancelled_exc_class():
            if not self.frame.cancelled:
                await checkpoint_if_cancelled()
                self.fail_unasked()
            raise
        except Exception as error:
            self.frame.crash(error)

    async def shift(self, seen: int, seat: Seat) -> None:
        """Take a seat, take work, do it in a thread, hand it on; until there is no more."""
        came = False
        while True:
            await seat.take()
            try:
                if self.stale(seen):
                    return
                if not came:
                    came = True
                    self.coming -= 1
                batch = self.take_batch(seat)
                if self.needed or (self.waiting() and self.may_call()):
                    self.bell.ring()
                if not batch:
                    return
                if self.single:
                    await self.one_in_thread(batch[0], seat, seen)
                elif self.is_flat:
                    await self.flat_batch_in_thread(batch, seat, seen)
                else:
                    await self.batch_in_thread(batch, seat, seen)
            finally:
                seat.leave()
            if self.stale(seen):
                return
            self.advance()
            if self.needed or self.over():
                self.bell.ring()
            if not self.waiting():
                return

    async def batch_in_thread(self, batch: list[Slot], seat: Seat, seen: int) -> None:
        """Do what can be done of a batch in one time slice."""
        tally, epoch = self.step.tally, self.frame.epoch
        tally.working[batch[0]] = (perf_counter(), batch[0].envelope.value)
        answers: list[tuple[Any, BaseException | None]] = []
        spent = 0.0
        try:
            with epoch.work():
                envelopes = self.handed[batch[0]] = [slot.envelope for slot in batch]
                answers, spent = await in_thread(run_slice, self.call, envelopes, SLICE)
        finally:
            del tally.working[batch[0]], self.handed[batch[0]]
        if answers:
            pace = spent / len(answers)
            self.pace = pace if not self.pace else 0.7 * self.pace + 0.3 * pace
            tally.calls.record(pace, len(answers))
        if self.stale(seen):
            return
        for slot, (result, error) in zip(batch, answers, strict=False):
            await self.note(slot, result, error)
            self.finish(slot)
        if len(answers) < len(batch):
            self.hand_back(batch[len(answers) :])

    async def flat_batch_in_thread(self, batch: list[Slot], seat: Seat, seen: int) -> None:
        """Make the values of a batch in one time slice; an item that has more is read to its end."""
        tally = self.step.tally
        tally.working[batch[0]] = (perf_counter(), batch[0].envelope.value)
        answers: list[tuple[list[Any], Iterator[Any] | None, BaseException | None]] = []
        spent = 0.0
        try:
            with self.frame.epoch.work():
                envelopes = self.handed[batch[0]] = [slot.envelope for slot in batch]
                answers, spent = await in_thread(
                    run_flat_slice, self.call, self.step.name, envelopes, SLICE, MOST_IN_A_CALL
                )
        finally:
            del tally.working[batch[0]], self.handed[batch[0]]
        if answers:
            pace = spent / len(answers)
            self.pace = pace if not self.pace else 0.7 * self.pace + 0.3 * pace
            tally.calls.record(pace, len(answers))
        last = answers.pop() if answers and answers[-1][1] is not None else None
        if not self.stale(seen):
            begun = len(answers) + (last is not None)
            self.hand_back(batch[begun:])
            for slot, (values, _, error) in zip(batch, answers, strict=False):
                if error is not None:
                    error = await own_error(error, self.frame, self.step.name)
                self.flat_done(slot, values, error)
        if last is not None:
            self.advance()
            slot = batch[len(answers)]
            error = await self.flat_in_thread(slot, seat, seen, last)
            if not self.stale(seen):
                self.flat_done(slot, [], error)

    def flat_done(self, slot: Slot, values: list[Any], error: BaseException | None) -> None:
        """Note that all values of an item are made."""
        envelope = slot.envelope
        if error is None and not slot.out and envelope.context is None and len(values) == 1:
            (value,) = values
            if type(value) is not Sentinel:  # the usual case: the one value goes on in its envelope
                envelope.value = value
                slot.count += 1
                slot.out = [value if self.is_plain else envelope]
                self.finish(slot)
                return
        for number, value in enumerate(values):
            if type(value) is Sentinel:
                values, error = values[:number], sentinel_given(self.step.name)
                break
        slot.count += len(values)
        slot.out = slot.out or deque[Any]()
        slot.out.extend(self.put_up(slot, values))
        if error is not None:
            self.note_failed(slot, CallFailed(error, slot.attempts))
        self.finish(slot)

    def put_up(self, slot: Slot, values: list[Any]) -> list[Any]:
        """Make of values that came of an item what waits in its slot to be given."""
        envelope = slot.envelope
        if self.is_plain:
            return values
        if envelope.context is None:
            return [envelope.child(value) for value in values]
        if envelope.clock is not None:
            for value in values:  # what the call has taken was noted on the item's only
                value.clock = envelope.clock.copy()
        return values

    def finish(self, slot: Slot) -> None:
        """Let a slot leave as soon as it is its turn."""
        slot.finished = True
        if not self.ordered:
            self.ready.append(slot)

    async def note(self, slot: Slot, result: Any, error: BaseException | None) -> None:
        """Note what came of an item."""
        error = await self.outcome(slot, result, error)
        if error is not None:
            self.note_failed(slot, CallFailed(error, slot.attempts))

    async def outcome(
        self, slot: Slot, result: Any, error: BaseException | None
    ) -> BaseException | None:
        """Keep what came of an item, unless it failed; give the error that it failed with."""
        if error is None:
            error = self.wrong(result)
        else:
            error = await own_error(error, self.frame, self.step.name)
        if error is None:
            stage, envelope = self.step.stage, slot.envelope
            try:
                if isinstance(stage, MapStage):
                    envelope.value = result
                elif isinstance(stage, FilterStage) and not result:
                    slot.ended, slot.mark = "filtered", HOLE
                    return None
            except Exception as raised:  # a result whose truth cannot be told
                return raised
            slot.out = [envelope.value if self.is_plain else envelope]
        return error

    def wrong(self, result: Any) -> Exception | None:
        """Give the error for a result that no function may give from a thread."""
        if type(result) is Sentinel:
            return sentinel_given(self.step.name)
        if type(result) is CoroutineType:
            result.close()
            return TypeError(
                f"stage {self.step.name!r} gave a coroutine in a thread; async functions run on "
                "the event loop: leave out on="
            )
        return None

    async def one_in_thread(self, slot: Slot, seat: Seat, seen: int) -> None:
        """Do one item with everything that its options ask for."""
        step, envelope = self.step, slot.envelope
        item, hooks, retry = envelope.value, step.hooks, step.options.retry
        if hooks is not None:
            seat.leave()
            with self.frame.epoch.work():
                await hooks.before(item, envelope.context)
                await seat.take_back()
        while not self.stale(seen):
            result, error = await self.attempt(slot, seat, seen)
            if self.stale(seen):
                return
            if error is None or retry is None or slot.count:
                break
            if not retry.again(error, slot.attempts):
                break
            slot.attempts += 1
            step.tally.retries += 1
            with self.frame.epoch.work():
                await seat.rest(retry.wait(slot.attempts - 1))
        if self.stale(seen):
            return
        if slot.finished:
            return  # it came too late, and that has been dealt with
        if self.is_flat and error is None:
            slot.out = slot.out or deque[Any]()
        else:
            error = await self.outcome(slot, result, error)
        if hooks is not None:
            value = slot.count if self.is_flat else result
            if isinstance(step.stage, FilterStage):
                value = slot.mark is not HOLE
            seat.leave()
            with self.frame.epoch.work():
                await hooks.after(item, None if error else value, error, envelope.context)
            if self.stale(seen):
                return
        if error is not None:
            self.note_failed(slot, CallFailed(error, slot.attempts))
        self.finish(slot)

    async def attempt(self, slot: Slot, seat: Seat, seen: int) -> tuple[Any, BaseException | None]:
        """Call once; with a timeout, give up waiting when it is over but stay till the end."""
        if self.is_flat:
            return None, await self.flat_in_thread(slot, seat, seen)
        envelope, began = slot.envelope, perf_counter()
        self.step.tally.working[slot] = (began, envelope.value)
        try:
            answer, late = await self._in_time(slot, seen, run_slice, self.call, (envelope,), 0.0)
        finally:
            self.step.tally.working.pop(slot, None)
            self.step.spent(envelope, perf_counter() - began)
        if late is not None:
            return None, late
        outcome: tuple[Any, BaseException | None] = answer[0][0] if answer else (None, None)
        return outcome

    async def _in_time(
        self, slot: Slot, seen: int, work: Callable[..., Any], *args: Any
    ) -> tuple[Any, StageTimeout | None]:
        """Run a call in a thread, no longer than the stage's timeout, and see it end.

        Returns:
            its answer, nothing if it was not even begun; and the error if it came too late.
        """
        timeout = self.step.options.timeout
        answers: list[Any] = []
        if timeout is None:
            await self._thread_call(answers, slot, work, args)
            return answers[0] if answers else None, None
        done, told, late = Event(), CancelScope(), False
        self.frame.spawn_uncounted(partial(self._timed, answers, slot, work, args, done, told))
        try:
            with move_on_after(timeout) as scope:
                await done.wait()
            late = scope.cancelled_caught
        finally:
            if not done.is_set():
                told.cancel()  # the thread learns it from `check_cancelled`
                await self._stay(slot, done, timeout, seen, late=late)
        return answers[0] if answers else None, self._too_late(timeout) if late else None

    def _too_late(self, timeout: float) -> StageTimeout:
        return StageTimeout(f"stage {self.step.name!r} took longer than {timeout} s")

    async def _stay(
        self, slot: Slot, done: Event, timeout: float, seen: int, *, late: bool
    ) -> None:
        """Report a timeout at once if it is final; stay until the thread has ended."""
        retry = self.step.options.retry
        error = self._too_late(timeout)
        final = retry is None or slot.count or not retry.again(error, slot.attempts)
        if late and final and not self.stale(seen):
            try:
                if self.step.hooks is not None:
                    item, context = slot.envelope.value, slot.envelope.context
                    with self.frame.epoch.work():
                        await self.step.hooks.after(item, None, error, context)
                if not self.stale(seen):
                    self.note_failed(slot, CallFailed(error, slot.attempts))
            finally:
                if slot.failed is not None:
                    self.finish(slot)
                    self.advance()
                    self.bell.ring()
                with CancelScope(shield=True):
                    await done.wait()
            return
        with CancelScope(shield=True):
            await done.wait()

    async def _timed(
        self,
        answers: list[Any],
        slot: Slot,
        work: Callable[..., Any],
        args: tuple[Any, ...],
        done: Event,
        told: CancelScope,
    ) -> None:
        """Run a call that somebody else waits for, perhaps not to the end."""
        try:
            with told:
                await self._thread_call(answers, slot, work, args)
        finally:
            done.set()

    async def _thread_call(
        self, answers: list[Any], slot: Slot, work: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        """Run a call in a thread and note its answer; there is none if it was not even begun."""
        with self.frame.epoch.work():
            if self.script is None or slot.count:  # values that are read on are no new call
                answers.append(await in_thread(work, *args))
                return
            call, *rest = args
            answers.append(
                await self.script(
                    slot.envelope.value, call, lambda call: in_thread(work, call, *rest)
                )
            )

    async def flat_in_thread(
        self,
        slot: Slot,
        seat: Seat,
        seen: int,
        begun: tuple[list[Any], Iterator[Any] | None, BaseException | None] | None = None,
    ) -> BaseException | None:
        """Read what a `flat_map` makes of one item, slice by slice, no faster than it is given.

        Args:
            slot, seat, seen: the item, the seat it is read on, the epoch it belongs to.
            begun: what a first slice made of it already: values, iterator, error.
        """
        envelope, iterator = slot.envelope, None
        # A timeout is for each value, so then they come one by one.
        most = MOST_IN_A_CALL if self.step.options.timeout is None else 1
        working = self.step.tally.working
        slot.out = deque()
        try:
            while True:
                began = perf_counter()
                values: list[Any] = []
                more, error = False, None
                if begun is not None:
                    values, iterator, error = begun
                    more, begun = error is None, None
                else:
                    working[slot] = (began, envelope.value)
                    try:
                        answer, late = await self._in_time(
                            slot, seen, read_slice, self.call, envelope, iterator, SLICE, most
                        )
                        if answer is not None:
                            iterator, values, more, error = answer
                    finally:
                        working.pop(slot, None)
                        self.step.spent(envelope, perf_counter() - began)
                    if late is not None:
                        return late
                if self.stale(seen):
                    return None
                for number, value in enumerate(values):
                    if type(value) is Sentinel:
                        values, more, error = values[:number], False, sentinel_given(self.step.name)
                        break
                if error is not None:
                    error = await own_error(error, self.frame, self.step.name)
                slot.count += len(values)
                if values:
                    seat.leave()
                    try:
                        await self.offer(slot, self.put_up(slot, values), seen)
                    finally:
                        await seat.take_back()
                if not more:
                    if error is None:
                        iterator = None
                    return error
        finally:
            if iterator is not None and hasattr(iterator, "close"):
                with CancelScope(shield=True):
                    await in_thread(close_quietly, iterator)


def read_slice(
    call: Callable[[Envelope], Any],
    envelope: Envelope,
    iterator: Iterator[Any] | None,
    seconds: float,
    most: int,
) -> tuple[Iterator[Any] | None, list[Any], bool, BaseException | None]:
    """Begin to read what a `flat_map` makes of an item, or go on. Runs in a thread.

    Returns:
        the iterator, the values, whether there may be more, and what was raised.
    """
    if iterator is None:
        iterator, error = begin_iterator(call, envelope)
        if iterator is None:
            return None, [], False, error
    values, _, more, error = run_iterator(iterator, seconds, most)
    return iterator, values, more, error


def begin_iterator(
    call: Callable[[Envelope], Any], envelope: Envelope
) -> tuple[Iterator[Any] | None, BaseException | None]:
    """Call the function of a `flat_map` and make an iterator of what it gives. Runs in a thread."""
    try:
        iterator = iterator_of(call(envelope))
        return iterator if envelope.context is None else children(envelope, iterator), None
    except BaseException as error:  # carried to the loop, where the guard looks at it
        return None, error


def children(envelope: Envelope, values: Any) -> Iterator[Any]:
    """Put each value into an envelope as it is made, for a function that may change the context.

    Read ahead, and with the context copied afterwards, all would have what the last one left there.
    """
    try:
        for value in values:
            yield value if type(value) is Sentinel else envelope.child(value)
    finally:
        if hasattr(values, "close"):
            values.close()


def iterator_of(values: Any) -> Iterator[Any]:
    """Make an iterator of what the function of a `flat_map` gave.

    Raises:
        TypeError: it is no plain iterable.
    """
    if hasattr(values, "__aiter__") or inspect.iscoroutine(values):
        if inspect.iscoroutine(values):
            values.close()
        raise TypeError("a flat_map in threads takes a plain function giving a plain iterable")
    return iter(values)


def close_quietly(iterator: Any) -> None:
    """Close a generator; its error, if any, comes after the one that made us close it."""
    with suppress(Exception):
        iterator.close()


class Haul:
    """What a blocking source gives in one call to its place, there to be taken as it comes.

    Attributes:
        values: each with the time at which it was got; filled in the thread, emptied on the loop.
        more: whether the source may have more.
        error: what it raised.
        seconds: how long the source has worked.
        begun: set when the call has begun in its thread, or will not.
        done: set when the call has ended.
        scope: cancelled to tell the source's code to stop, if it asks.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.values: deque[tuple[Any, float]] = deque()
        self.more = True
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.begun, self.done = Event(), Event()
        self._soon = soon_caller()
        self.scope = CancelScope()
        self._iterator = iterator

    def run(self) -> None:
        """Take values from the source until the time is over. Runs in a thread."""
        with suppress(RuntimeError):  # the loop has been closed
            self._soon(self.begun.set)
        began = perf_counter()
        end = began + SLICE
        try:
            for _ in range(MOST_IN_A_CALL):
                value = next(self._iterator)
                self.values.append((value, perf_counter()))
                del value
                # Not the time at which it was got: who looks when the slice is over sees all but
                # what is told of with the end of the call.
                if perf_counter() > end:
                    return
        except StopIteration:
            self.more = False
        except BaseException as error:  # carried to the loop, where the guard looks at it
            self.more, self.error = False, error
        finally:
            self.seconds = perf_counter() - began

    async def bring(self, place: Threads) -> None:
        """Make the call, as a task of its own, so that what is there need not wait for its end."""
        try:
            with self.scope:
                await at_place(place, self.run)
        finally:
            self.begun.set()
            self.done.set()
