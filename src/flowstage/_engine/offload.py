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

Workers belong to the run, not to the epoch; everything else about the window is the pool's. Calls of
which more is asked are made one at a time (`single`), those of which less is asked for bursts of bare
values (`bursts`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import partial
from operator import attrgetter
from time import perf_counter
from types import CoroutineType
from typing import Any

from anyio import CancelScope, get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled

from .._envelope import HOLE, Envelope, Sentinel
from .._epoch import Flushed
from .._errors import StageTimeout, exit_in, is_cancellation
from .._places import Threads
from .._stages import FilterStage, MapStage
from .._wires import Edge, Outlet
from .call import CallFailed, sentinel_given
from .pool import Pool, Slot, Worker
from .runner import Frame, Step, Stopped, own_error, tell_late
from .seats import Seat, in_thread
from .slices import (
    MOST_IN_A_CALL,
    SLICE,
    close_quietly,
    read_slice,
    run_flat_slice,
    run_slice,
    timed_call,
)

_number = attrgetter("number")


class Offload(Pool):
    """A stage whose calls run in threads.

    Attributes:
        undone: slots that a call took and handed back, or that stood behind a mark.
        coming: workers that were called and have not taken anything yet.
        crew: workers that have nothing to do.
        pace: seconds an item takes, a moving average.
        single: one item is given to a call, never several.
        shifts: the seats of the workers that have been called, taken or waited for.
        handed: the lists that threads are working on. Emptied by an interrupt, so that no call is
            begun for what it has discarded.
        scopes: those of the calls under way, which are no part of the coordinator's.
    """

    single = False

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
        self.scopes: set[CancelScope] = set()
        self.hired = 0
        super().__init__(frame, steps, inlets, outlets)
        options = self.step.options
        assert isinstance(options.on, Threads)
        self.place = options.on
        self.room = self.width * MOST_IN_A_CALL
        self.pace = 0.0
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
        for scope in self.scopes:  # nobody wants more, and the threads learn it as of an interrupt
            scope.cancel()
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
                worker = Worker(None, self.frame.watch)
                worker.seen = self.seen
                self.frame.spawn_uncounted(partial(self.work, worker))

    def barrier_allows(self) -> bool:
        """Tell whether a barrier leaves anything to be taken up: what stood before it does."""
        return self.barrier is None or bool(self.undone)

    def share(self, seat: Seat) -> int:
        """Give how many items a call may take: a fair share, no more than a slice's worth."""
        # Those who have been called and have nothing yet are at work already, by the count.
        helpers = max(0, min(self.width - self.busy, seat.free)) + self.coming
        return self.part(1 + helpers)

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
                    self.begin_to_wait()
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
                if self.is_flat:
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
            with epoch.work(self.scopes):
                envelopes = self.handed[batch[0]] = [slot.envelope for slot in batch]
                answers, spent = await in_thread(run_slice, self.call, envelopes, SLICE)
        finally:
            del tally.working[batch[0]]
            self.handed.pop(batch[0]).clear()  # an error's frames lead to it
        self.count_pace(spent, len(answers))
        if self.stale(seen):
            self.tell_late(answers[-1][1] if answers else None)
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
            with self.frame.epoch.work(self.scopes):
                envelopes = self.handed[batch[0]] = [slot.envelope for slot in batch]
                answers, spent = await in_thread(
                    run_flat_slice, self.call, self.step.name, envelopes, SLICE, MOST_IN_A_CALL
                )
        finally:
            del tally.working[batch[0]]
            self.handed.pop(batch[0]).clear()  # an error's frames lead to it
        self.count_pace(spent, len(answers))
        last = answers.pop() if answers and answers[-1][1] is not None else None
        if not self.stale(seen):
            begun = len(answers) + (last is not None)
            self.hand_back(batch[begun:])
            for slot, (values, _, error) in zip(batch, answers, strict=False):
                if error is not None:
                    error = await own_error(error, self.frame, self.step.name)
                try:
                    self.flat_done(slot, values, error)
                finally:
                    values.clear()  # as above
        elif answers:
            self.tell_late(answers[-1][2])
        if last is not None:
            self.advance()
            slot = batch[len(answers)]
            error = await self.flat_in_thread(slot, seat, seen, last)
            if not self.stale(seen):
                self.flat_done(slot, [], error)

    def tell_late(self, error: BaseException | None) -> None:
        """Log what a thread raised for which nobody waits any more, unless it was told to stop."""
        if error is None or isinstance(error, CancelledError) or is_cancellation(error):
            return
        if exit_in(error) is not None:
            self.frame.crash(error)
        else:
            tell_late(self.step.name, error)

    def count_pace(self, seconds: float, made: int) -> None:
        """Count calls made one after the other, and see how long an item takes."""
        if made:
            pace = seconds / made
            self.pace = pace if not self.pace else 0.7 * self.pace + 0.3 * pace
            self.step.tally.calls.record(pace, made)

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
            except BaseException as raised:  # a result whose truth cannot be told
                return await own_error(raised, self.frame, self.step.name)
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

    async def call_for(
        self, slot: Slot, seen: int, answers: list[Any], work: Callable[..., Any], *args: Any
    ) -> StageTimeout | None:
        """Run a call for one item in a thread, and see it end.

        Its answer is put into `answers` in any case, also when this is cancelled meanwhile.

        Args:
            slot, seen: the item, the epoch it belongs to.
            answers: where the answer is put; nothing is if the call was not even begun.
            work: takes the stage's function, the item in a list that an interrupt empties, `args`.
            args: what else it takes.

        Returns:
            the error if it came too late.
        """
        envelopes = self.handed[slot] = [slot.envelope]
        try:
            if not self.stale(seen):  # else nobody would cancel the call at an interrupt
                with self.frame.epoch.work(self.scopes):
                    answers.append(await in_thread(work, self.call, envelopes, *args))
        finally:
            del self.handed[slot]
        return None

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
                    answers: list[Any] = []
                    try:
                        late = await self.call_for(
                            slot, seen, answers, read_slice, iterator, SLICE, most
                        )
                        if answers:
                            iterator, values, more, error = answers[0]
                    finally:
                        if answers:  # it is to be closed, whatever has come in between
                            iterator = answers[0][0]
                        working.pop(slot, None)
                        self.step.spent(envelope, perf_counter() - began)
                    if late is not None:
                        return late
                if self.stale(seen):
                    self.tell_late(error)
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
                    values.clear()  # an error's frames lead to them
                    return error
        finally:
            if iterator is not None and hasattr(iterator, "close"):
                with CancelScope(shield=True):
                    raised = await in_thread(close_quietly, iterator)
                if self.stale(seen):
                    self.tell_late(raised)
