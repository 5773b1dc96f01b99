"""Calls of a `flat_map` in threads for bursts of bare values, where nothing more is asked.

The iterables of a burst are read in one call, one after the other. What came of those that were read to
their end is one slot. The one that was not gets a slot of its own, and is read on alone, no faster than
it is given; what stands behind it waits to be taken up by the next worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

from .._envelope import Envelope, Sentinel
from .bursts import Burst, BurstOffload
from .call import CallFailed, has_sentinel, sentinel_given
from .pool import Slot
from .runner import own_error
from .seats import Seat, in_thread
from .slices import MOST_IN_A_CALL, SLICE, close_quietly, iterator_of, run_iterator


class FlatBurst(Burst):
    """The place of several items in the window.

    Attributes:
        counts: how many values each item made, of those whose values are not all given yet.
        begun: how many of the first one's are.
    """

    __slots__ = ("begun", "counts")

    def __init__(self, values: list[Any]) -> None:
        super().__init__(values)
        self.counts: deque[int] = deque()
        self.begun = 0


class Long(Burst):
    """The place of one item that is read on alone."""

    __slots__ = ()

    def __init__(self, item: Any) -> None:
        super().__init__([])
        self.envelope = Envelope(item)


class FlatResult:
    """What a call has made of a burst.

    Attributes:
        values: of the items that it read to their end, and of the one that failed.
        counts: how many of them each item made; the one that failed has none.
        item: the last one, if it failed or has more to give.
        error: why it failed.
        iterator: what has more to give; `first` are the values that it gave.
        seconds: what all took.
    """

    __slots__ = ("counts", "error", "first", "item", "iterator", "seconds", "values")

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.counts: list[int] = []
        self.item: Any = None
        self.error: BaseException | None = None
        self.iterator: Iterator[Any] | None = None
        self.first: list[Any] = []
        self.seconds = 0.0

    @property
    def items(self) -> int:
        """Items begun."""
        return len(self.counts) + (self.error is not None or self.iterator is not None)


def run_flat_burst(
    fn: Callable[[Any], Any], name: str, items: Sequence[Any], seconds: float, most: int
) -> FlatResult:
    """Read what a function gives for item after item until the time is over. Runs in a thread.

    An interrupt empties the list of items meanwhile, which ends it too.
    """
    made = FlatResult()
    values, counts = made.values, made.counts
    began = perf_counter()
    end = began + seconds
    for item in items:
        before = len(values)
        iterator: Iterator[Any] | None = None
        more = False
        try:
            given = fn(item)
            if type(given) in (tuple, list) and len(given) <= most - before:
                values.extend(given)  # no code of the user's runs, so there is no time to watch
            else:
                iterator = iterator_of(given)
        except BaseException as error:  # carried to the loop, where the guard looks at it
            made.item, made.error = item, error
            given = ()  # that of the item before, which the error's traceback would keep
            break
        if iterator is not None:
            left = max(0.0, end - perf_counter())
            given, _, more, made.error = run_iterator(iterator, left, most - before)
            values.extend(given)
        if type(given[0]) is Sentinel if len(given) == 1 else has_sentinel(given):
            number = next(n for n, value in enumerate(given) if type(value) is Sentinel)
            del values[before + number :]
            more, made.error = False, sentinel_given(name)
        if more or made.error is not None:
            made.item = item
            if more:
                made.iterator, made.first = iterator, values[before:]
                del values[before:]
            else:
                if hasattr(iterator, "close"):
                    close_quietly(iterator)
                if iterator is not None:
                    given.clear()  # as above
            break
        counts.append(len(values) - before)
        if len(values) >= most or perf_counter() > end:
            break
    made.seconds = perf_counter() - began
    return made


class FlatBurstOffload(BurstOffload):
    """A `flat_map` of bare plain calls in threads.

    A burst that is done counts in the window for the values that came of it.
    """

    burst = FlatBurst

    async def flat_batch_in_thread(self, batch: list[Slot], seat: Seat, seen: int) -> None:
        (slot,) = batch
        assert isinstance(slot, FlatBurst)
        items, tally = slot.values, self.step.tally
        tally.working[slot] = (perf_counter(), items[0])
        self.handed[slot] = items
        made = FlatResult()
        try:
            with self.frame.epoch.work(self.scopes):
                made = await in_thread(
                    run_flat_burst, self.fn, self.step.name, items, SLICE, MOST_IN_A_CALL
                )
        finally:
            del tally.working[slot], self.handed[slot]
        self.count_pace(made.seconds, made.items)
        long = None if made.iterator is None else Long(made.item)
        if self.stale(seen):
            self.tell_late(made.error)
        else:
            try:
                await self.note_made(slot, made, long)
            finally:
                if made.error is not None:  # whose frames lead to all of this
                    items.clear()
                    made.values.clear()
                    made.error = None
        if long is not None:
            await self.read_on(long, made, seat, seen)

    async def note_made(self, slot: FlatBurst, made: FlatResult, long: Long | None) -> None:
        """Take a burst apart in its place: what is done, what failed or has more, the rest."""
        error = made.error
        if error is not None:
            error = await own_error(error, self.frame, self.step.name)
        if rest := slot.values[made.items :]:
            self.hand_back([self.split_off(slot, rest)])
        slot.values = []
        slot.out, slot.counts = deque(made.values), deque(made.counts)
        self.items += len(made.values) - len(made.counts)
        self.finish(slot)
        if long is not None:
            self.insert_after(slot, long)
        elif error is not None:
            failed = Slot(Envelope(made.item))
            self.insert_after(slot, failed)
            self.note_failed(failed, CallFailed(error, 1))
            self.finish(failed)

    async def read_on(self, slot: Long, made: FlatResult, seat: Seat, seen: int) -> None:
        """Read an item that has more to give to its end."""
        if not self.stale(seen):
            self.advance()
            if self.needed or (self.waiting() and self.may_call()):
                self.bell.ring()  # others can do what stands behind it
        error = await self.flat_in_thread(slot, seat, seen, (made.first, made.iterator, None))
        if not self.stale(seen):
            if error is not None:
                self.note_failed(slot, CallFailed(error, 1))
            self.finish(slot)

    def put_up(self, slot: Slot, values: list[Any]) -> list[Any]:
        return values

    def count_out(self, slot: Burst, number: int) -> None:
        if not isinstance(slot, FlatBurst):
            return  # an item by itself ends when it leaves
        self.items -= number
        slot.begun += number
        counts = slot.counts
        while counts and counts[0] <= slot.begun:
            slot.begun -= counts.popleft()
            self.step.tally.done += 1

    def leave(self, slot: Slot) -> None:
        super().leave(slot)
        if isinstance(slot, FlatBurst):
            self.step.tally.done += len(slot.counts)  # those at the end that made nothing
