"""Calls in threads for bursts of bare values, where nothing is asked but a call for each.

The same as `offload`, with one slot for a burst of values instead of one for each: taking, handing to
a thread, handing on and counting are then paid for by the burst. A burst of which a call did only a
part, or in which a call failed, is taken apart in its place: what is done, what failed, the rest.
A thread at work may be given the next burst meanwhile (see `ahead`), and then keeps its seat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import perf_counter
from types import CoroutineType
from typing import Any

from .._backend import soon_caller
from .._envelope import Envelope, Sentinel
from .._stages import CallStage, FilterStage, FlatMapStage
from .._wires import Bare, Edge, Enough, Outlet
from .ahead import Ahead, Outcome, run_on
from .call import KINDS, CallFailed, has_type
from .offload import Offload
from .pool import Slot
from .runner import Frame, Step, Stopped, own_error
from .seats import Seat, in_thread
from .slices import SLICE

OVERDUE = 2 * SLICE
"""Seconds that a burst may wait for a thread that is at work before somebody else has it."""


class Burst(Slot):
    """The place of several values in the window.

    Attributes:
        values: what is to be done; `out` is what came of it.
    """

    __slots__ = ("values",)

    def __init__(self, values: list[Any]) -> None:
        super().__init__(None)
        self.values = values


def run_burst(fn: Callable[[Any], Any], values: Sequence[Any], seconds: float) -> Outcome:
    """Call a function for value after value until one fails or the time is over. Runs in a thread.

    An interrupt empties the list of values meanwhile, which ends it too.

    Returns:
        the results, what the call after the last of them raised, and the seconds that all took.
    """
    results: list[Any] = []
    began = perf_counter()
    end = began + seconds
    try:
        for value in values:
            results.append(fn(value))
            if perf_counter() > end:
                break
    except BaseException as error:  # carried to the loop, where the guard looks at it
        return results, error, perf_counter() - began
    return results, None, perf_counter() - began


def keeps(fn: Callable[[Any], Any], value: Any) -> Any:
    """Tell whether a filter keeps a value. What its truth raises belongs to the item as well."""
    result = fn(value)
    kind = type(result)
    return result if kind is CoroutineType or kind is Sentinel else bool(result)


def fits(frame: Frame, stage: CallStage, outlet: Outlet) -> bool:
    """Tell whether a stage that asks for nothing but calls can make them for bursts of bare values."""
    if not frame.plain or (type(stage) not in KINDS and not isinstance(stage, FlatMapStage)):
        return False
    # A row that a filter drops leaves a hole in its very place.
    return outlet.bulk and not (outlet.aligned and isinstance(stage, (FilterStage, FlatMapStage)))


class BurstOffload(Offload):
    """A stage of bare plain calls in threads."""

    burst: type[Burst] = Burst

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
    ) -> None:
        self.aheads: dict[Seat, Ahead[Burst]] = {}
        self.soon = soon_caller()
        super().__init__(frame, steps, inlets, outlets)
        fn = self.step.fn
        self.fn: Callable[[Any], Any] = fn
        if self.step.kind == "filter":
            self.fn = partial(keeps, fn)

    def _begin(self) -> None:
        super()._begin()
        for ahead in self.aheads.values():
            ahead.clear()

    def waiting(self) -> int:
        inlet = self.inlet
        inside = inlet.used - inlet.marks_inside - inlet.faults_inside
        undone = sum(len(slot.values) for slot in self.undone if isinstance(slot, Burst))
        undone += sum(len(burst.values) for ahead in self.aheads.values() for burst in ahead)
        return undone + max(0, min(inside, self.room - self.items))

    def take(self) -> Slot | None:
        return self.take_burst(1)

    def take_burst(self, most: int) -> Burst | None:
        """Take up the next values, no more than there are before a mark; marks on the way too."""
        inlet = self.inlet
        while self.may_take():
            head = inlet.refill()
            if not head:
                return None
            most = min(most, self.room - self.items)
            if type(head) is Bare and len(head) <= most:
                values = list(head)
                head.clear()
            elif type(head) is Bare:
                values = [head.popleft() for _ in range(most)]
            elif type(head[0]) is Envelope:
                values = []
                while head and len(values) < most and type(head[0]) is Envelope:
                    values.append(head.popleft().value)
            else:
                self.take_mark(inlet.take())
                continue
            inlet.taken += len(values)
            inlet.ring_writer()
            burst = self.burst(values)
            burst.number = inlet.taken - len(values)
            self.window.append(burst)
            self.items += len(values)
            return burst
        return None

    def take_batch(self, seat: Seat) -> list[Slot]:
        return self.take_overdue() or self.take_up(self.share(seat)) or self.take_from_others()

    def take_overdue(self) -> list[Slot]:
        """Take what has waited for its thread for too long: its call is slow, and others go past."""
        return self.take_from_others(OVERDUE)

    def take_from_others(self, seconds: float = 0.0) -> list[Slot]:
        """Take what a thread was to go on with, if it has waited for so long or longer."""
        due = perf_counter() - seconds
        for ahead in self.aheads.values():
            burst = ahead.take() if ahead and ahead.since <= due else None
            if burst is not None:
                del self.handed[burst]
                return [burst]
        return []

    def take_up(self, most: int) -> list[Slot]:
        """Take so many values of what is waiting: what was handed back first."""
        if not self.undone:
            burst = self.take_burst(most)
            return [] if burst is None else [burst]
        slot = self.undone.popleft()
        if isinstance(slot, Burst) and len(slot.values) > most:
            self.undone.appendleft(self.split_off(slot, slot.values[most:]))
            del slot.values[most:]
        return [slot]

    def split_off(self, slot: Burst, values: list[Any]) -> Burst:
        """Make a burst of its own of values behind a slot, in their place."""
        burst = self.burst(values)
        burst.number = slot.number + len(slot.values) - len(values)
        self.insert_after(slot, burst)
        return burst

    def insert_after(self, slot: Slot, new: Slot) -> None:
        """Put a slot into the window behind another; where order counts for nothing, at its end."""
        if self.ordered:
            self.window.insert(self.window.index(slot) + 1, new)
        else:
            self.window.append(new)

    async def batch_in_thread(self, batch: list[Slot], seat: Seat, seen: int) -> None:
        (slot,) = batch
        assert isinstance(slot, Burst)
        ahead: Ahead[Burst] = Ahead()
        self.begin_burst(slot)
        self.aheads[seat] = ahead
        self.look_ahead(ahead, seat)
        soon, last = self.soon, slot
        outcome: Outcome = ([], None, 0.0)

        def tell(burst: Burst, outcome: Outcome) -> None:
            with suppress(RuntimeError):  # the loop has been closed
                soon(self.told, burst, outcome, ahead, seat, seen)

        try:
            with self.frame.epoch.work(self.scopes):
                last, outcome = await in_thread(run_on, self.do_burst, slot, ahead, tell)
        finally:
            del self.aheads[seat]
            left = ahead.take()
            for burst in (slot, last, left):
                self.end_burst(burst)
        self.count_calls(outcome)
        if self.stale(seen):
            self.tell_late(outcome[1])
            return
        if left is not None:
            self.hand_back([left])
        results, error, _ = outcome
        if error is None:
            self.settle_burst(last, results, None)
            return
        values = last.values
        try:
            error = await own_error(error, self.frame, self.step.name)
            self.settle_burst(last, results, error)
        finally:
            del error
            values.clear()  # these are in the frames of the error, and whoever keeps it keeps them
            results.clear()

    def do_burst(self, values: Sequence[Any]) -> Outcome:
        """Do the values of a burst. Runs in a thread."""
        return run_burst(self.fn, values, SLICE)

    def begin_burst(self, slot: Burst) -> None:
        """Note what a thread is about to work on."""
        self.handed[slot] = slot.values
        if slot.values:
            self.step.tally.working[slot] = (perf_counter(), slot.values[0])

    def end_burst(self, slot: Burst | None) -> None:
        """Note that no thread works on it any more."""
        if slot is not None:
            self.handed.pop(slot, None)
            self.step.tally.working.pop(slot, None)

    def look_ahead(self, ahead: Ahead[Burst], seat: Seat) -> None:
        """Give a thread at work what it can go on with, if nobody else could do it now."""
        if not self.pace or self.busy < self.width or ahead or seat.wanted:
            return
        for slot in self.take_overdue() or self.take_up(self.part(self.busy)):
            assert isinstance(slot, Burst)
            self.handed[slot] = slot.values
            ahead.given, ahead.since = slot, perf_counter()
            ahead.append(slot)

    def told(
        self, burst: Burst, outcome: Outcome, ahead: Ahead[Burst], seat: Seat, seen: int
    ) -> None:
        """Note what came of a burst while its thread goes on with the next one. Must not raise."""
        self.end_burst(burst)
        self.count_calls(outcome)
        if self.stale(seen):
            return
        following = ahead.given
        if following is not None and following in self.handed and not ahead:
            self.begin_burst(following)
        try:
            self.settle_burst(burst, outcome[0], None)
            self.advance()
            if self.aheads.get(seat) is ahead:
                self.look_ahead(ahead, seat)
        except Stopped:
            pass
        except BaseException as error:
            self.frame.crash(error)
        if self.needed or self.over() or (self.waiting() and self.may_call()):
            self.bell.ring()

    def count_calls(self, outcome: Outcome) -> None:
        """Count the calls of a burst and see how long an item takes."""
        results, error, spent = outcome
        self.count_pace(spent, len(results) + (error is not None))

    def settle_burst(self, slot: Burst, results: list[Any], error: BaseException | None) -> None:
        """Take a burst apart in its place: what is done, what failed, the rest.

        Raises:
            Stopped: a failure ends the run.
        """
        values = slot.values
        count = len(results)
        failed: list[tuple[int, BaseException]] = []
        if has_type(results, Sentinel, CoroutineType):
            wrong = enumerate(map(self.wrong, results))
            failed = [(number, found) for number, found in wrong if found is not None]
        if error is not None:
            failed.append((count, error))
        if rest := values[count + (error is not None) :]:
            self.hand_back([self.split_off(slot, rest)])
        if failed and self.raises:  # the first is the one that ends the run
            del failed[1:]
        for number, found in reversed(failed):
            if behind := values[number + 1 : count]:
                after = self.split_off(slot, behind)
                self.note_results(after, behind, results[number + 1 :])
                self.finish(after)
            bad = Slot(Envelope(values[number]))
            self.insert_after(slot, bad)
            self.note_failed(bad, CallFailed(found, 1))
            self.finish(bad)
            del results[number:]
            count = number
        self.note_results(slot, values, results)
        self.finish(slot)

    def note_results(self, slot: Burst, values: list[Any], results: list[Any]) -> None:
        """Note what came of the values that were done."""
        if self.step.kind == "tap":
            results = values[: len(results)]
        elif self.step.kind == "filter":
            kept = [value for value, keep in zip(values, results, strict=False) if keep]
            dropped = len(results) - len(kept)
            self.step.tally.filtered += dropped
            self.items -= dropped
            results = kept
        slot.values = []
        slot.out = deque(results)

    def advance(self) -> None:
        outlet, tally = self.outlet, self.step.tally
        while True:
            line = self.window if self.ordered else self.ready
            if not line:
                break
            slot = line[0]
            if not isinstance(slot, Burst):
                self.needed = True  # a mark or a failure: the coordinator sees to it
                return
            out = slot.out
            while out:
                space = outlet.space()
                if not space:
                    self.needed = True
                    self.enough = not outlet.open
                    return
                if len(out) <= space:
                    given = list(out)
                    out.clear()
                else:
                    given = [out.popleft() for _ in range(space)]
                try:
                    outlet.put_values(given)
                except Enough:
                    out.extendleft(reversed(given))
                    self.enough = self.needed = True
                    return
                tally.given += len(given)
                self.count_out(slot, len(given))
            if slot.failed is not None:
                self.needed = True
                return
            if slot.finished:
                self.leave(slot)
                continue
            if slot.taken is not None:
                self.begin_work()  # here, not when it wakes: in between it would seem parked
                slot.release()
            if self.ordered:
                return
            line.popleft()
        if self.barrier is not None and len(self.window) == 1:
            self.needed = True

    def count_out(self, slot: Burst, number: int) -> None:
        """Count results that have been given, or dropped because nobody wants them."""
        self.items -= number
        self.step.tally.done += number

    def drop_unwanted(self) -> None:
        for slot in self.window:
            if isinstance(slot, Burst) and slot.out:
                self.count_out(slot, len(slot.out))
        super().drop_unwanted()
