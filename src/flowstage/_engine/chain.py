"""Calls on the loop, one at a time: inline stages fused into one task, or one async stage alone.

A chain has two ways of calling its stages. The careful way (`process`) takes one item through all of
them and can do everything; the first item always goes that way, which is how a stage that is only seen
to be async when it is called becomes known. The fast way is for stages that are nothing but calls, and
needs no envelopes. Plain functions are called stage by stage for a burst of values, no more than
there is room for downstream and than half a millisecond takes (`through`), and so are they for what a
`flat_map` makes of one item (`spread`); an async function is called for value after value, and the
plain ones below it or below an async source likewise (`carry`). Each burst, or one call in `SAMPLE`, is
timed for the report. Where the times of items are kept (`burst_timed`) they travel in envelopes, and
every call is timed.

Counts are derived from the edges wherever they can be, so the fast way counts nothing but what it
takes. Between two `flat_map`s every item that entered has left, was dropped, or is the one in hand.

The ways stand in one module because they are changed in the middle of a run, even of a burst: a failure,
a sentinel or a closed outlet sends the rest the careful way, and all of them tell the same account and
the same interrupt what is in hand (`at`, `current`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from itertools import islice, takewhile
from time import perf_counter
from typing import Any

from anyio import sleep
from anyio.lowlevel import checkpoint

from .._clock import Clock, Times
from .._envelope import HOLE, Envelope, Sentinel
from .._epoch import Flushed
from .._stages import MAIN, FilterStage, FlatMapStage, MapStage
from .._stats import Tally
from .._wires import EMPTY, Bare, Edge, Enough, Outlet
from .call import CallFailed, CallStep, has_sentinel, sentinel_given
from .flat_values import close_values, open_values, pull
from .runner import (
    LONGEST_HOLD,
    LONGEST_TURN,
    MOST_IN_A_TURN,
    Frame,
    Runner,
    Step,
    own_error,
    tell_late,
)
from .values import DONE, STRIDE, Values

SAMPLE = 32
"""Of the calls of an async function that hardly waits, one in so many is timed."""
SLOW_CALL = 2e-5
"""Seconds from which on every call is timed: timing costs a microsecond."""

Piece = tuple[int, Any, BaseException | None]
"""Part of a burst: the number of a stage and the values that it is to be given, or one of them and
the error with which it failed there."""


Plain = tuple[int, Callable[[Any], Any], str, CallStep]
"""The number of a stage whose function is plain, the function, which kind it is, and the stage."""


class Broken(Exception):
    """A plain function has failed, and on what value."""

    def __init__(self, step: CallStep, value: Any, error: BaseException) -> None:
        self.step, self.value, self.error = step, value, error


class Chain(Runner):
    """A runner whose stages run inline on the loop.

    Attributes:
        at: the index of the stage that has the item in hand.
        unwanted: results that nobody took, while the failures were still wanted.
        spreadable: the `flat_map`s whose values could go on a burst at a time, and whether they do.
    """

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
    ) -> None:
        super().__init__(frame, steps, inlets, outlets)
        self.outlet = outlets[MAIN]
        self.calls: list[CallStep] = [step for step in steps if isinstance(step, CallStep)]
        self.at = len(self.calls) - 1
        self.unwanted = 0
        self.is_bare = self._is_bare(self.calls)
        only_maps = all(step.bare and step.kind == "map" for step in self.calls)
        self.keeps_time = bool(frame.timing and not frame.contextual and self.calls and only_maps)
        self.becomes_fast = self.is_bare or self.keeps_time
        edges = self.outlet.edges
        self.stamped = any(edge.stamps for edge in edges)  # the edges close the clocks' entries
        self.times: Times | None = None  # where the clocks go, if this leads straight to an end
        if self.keeps_time and not self.stamped and edges[0].clocks is not None:
            self.times, edges[0].clocks = edges[0].clocks, None
        self.known_plain = False
        self.until_sample = 0  # calls of an async function until one is timed again
        # The first gap differs, or one item in so many would pay for all stages of a line.
        self.gap = SAMPLE - 11 * len(frame.runners) % SAMPLE
        self.many = 1  # items in a burst: grows while bursts are short
        self.turn = 0.0  # seconds since the last checkpoint
        self.current: list[Any] = []  # what a burst has given to the stage at work
        self.stride = STRIDE  # calls between two looks at the time
        for step in self.calls:
            step.tally.sampled = True
        flat = [at for at, step in enumerate(self.calls) if isinstance(step.stage, FlatMapStage)]
        self.spreadable = {at: False for at in flat if self._can_spread(at)}

    # -- the careful way ------------------------------------------------------------------------

    async def process(self, envelope: Envelope, index: int = 0) -> None:
        """Take one item through the stages from `index` on, and give what comes out."""
        calls = self.calls
        for index in range(index, len(calls)):  # noqa: B020 - it goes on from the argument
            step = calls[index]
            self.at = index
            stage = step.stage
            if isinstance(stage, FlatMapStage):
                await self.expand(step, envelope, index)
                return
            try:
                result = await step.call(envelope)
            except CallFailed as failed:
                self.check_failed(step.name, failed.error)
                await self.drop(step, envelope, failed)
                return
            self.check()
            if isinstance(stage, MapStage):
                envelope.value = result
            elif isinstance(stage, FilterStage) and not result:
                step.tally.filtered += 1
                await self.give_mark(HOLE, self.outlet)
                return
        self.at = len(calls) - 1
        await self.give_late(envelope)

    async def drop(self, step: Step, envelope: Envelope, failed: CallFailed) -> None:
        """Deal with an item that failed."""
        mark = await self.handle(step, envelope, failed.error, failed.attempts)
        await self.give_mark(mark, self.outlet)

    async def expand(self, step: CallStep, envelope: Envelope, index: int) -> None:
        """Take the values that a `flat_map` makes of one item through the stages below it."""
        tally = step.tally
        tally.taken += 1
        hooks = step.hooks
        item, context = envelope.value, envelope.context
        last = index + 1 == len(self.calls)
        failures = count = 0
        end = perf_counter() + LONGEST_TURN
        if hooks is not None:
            await hooks.before(item, context)
            self.check()
        while True:
            source = None
            try:
                source = await open_values(step, envelope)
                while True:
                    if not source.is_async and self.spreads(index):
                        await self.spread(step, source, envelope, index)
                    value = DONE if source.closed else await pull(step, source, envelope)
                    if value is DONE:
                        break
                    self.check()
                    count += 1
                    tally.given += not last  # the next stage has it now
                    await self.process(envelope.child(value), index + 1)
                    tally.given += last
                    self.at = index
                    if perf_counter() > end:  # one item may give values without end
                        await checkpoint()
                        self.check()
                        end = perf_counter() + LONGEST_TURN
                break
            except CallFailed as failed:
                self.check_failed(step.name, failed.error)
                failures += 1
                retry = step.options.retry
                if count == 0 and retry is not None and retry.again(failed.error, failures):
                    tally.retries += 1
                    await sleep(retry.wait(failures))
                    self.check()
                    continue
                if hooks is not None:
                    await hooks.after(item, None, failed.error, context)
                    self.check()
                self.at = index
                await self.drop(step, envelope, CallFailed(failed.error, failures))
                return
            finally:
                if source is not None and not source.closed:
                    await close_values(step, source, item)
        self.check()
        if hooks is not None:
            await hooks.after(item, count, None, context)
            self.check()
        tally.done += 1

    # -- the fast way ---------------------------------------------------------------------------

    def _is_bare(self, calls: Sequence[CallStep]) -> bool:
        """Tell whether some stages need no envelopes: they only call, and no row lacks what they drop."""
        if not (self.frame.plain and all(step.simple and step.kind for step in calls)):
            return False
        return not self.outlet.aligned or all(step.kind == "map" for step in calls)

    def _can_spread(self, index: int) -> bool:
        """Tell whether what a `flat_map` makes of an item could go on a burst at a time.

        It could if nobody looks at single values, and the functions below turn out to be plain.
        """
        step, *below = self.calls[index:]
        return step.simple and self.outlet.bulk and self._is_bare(below)

    def spreads(self, index: int) -> bool:
        """Tell whether it does: whether the functions below are known to be plain."""
        if index not in self.spreadable:
            return False
        if not self.spreadable[index]:
            below = self.calls[index + 1 :]
            self.spreadable[index] = all(call.settled for call in below)
            if any(call.awaits for call in below):
                del self.spreadable[index]
                return False
        return self.spreadable[index]

    async def spread(self, step: CallStep, values: Values, envelope: Envelope, index: int) -> None:
        """Take the values of an iterable through the plain stages below, a burst at a time.

        It returns when there are no more, or when only failures are wanted any more.

        Raises:
            CallFailed: the iterable raised, or gave a sentinel.
        """
        tally, seen, epoch = step.tally, self.seen, self.frame.epoch
        last = index + 1 == len(self.calls)
        while not values.closed:
            most = min(self.outlet.space(), self.many)
            if not most:
                await self.wait_space()
                if not self.outlet.open:
                    return
                continue
            self.at = index
            got: list[Any] = []
            error: BaseException | None = None
            began = perf_counter()
            end = began + LONGEST_TURN
            tally.working[envelope] = (began, envelope.value)
            try:
                for value in islice(values.iterator, most):
                    got.append(value)
                    if seen != epoch.number or perf_counter() > end:
                        break  # one that has interrupted the run is asked for nothing more
                else:
                    values.closed = len(got) < most
            except BaseException as raised:
                error = raised
            value = None
            del tally.working[envelope]
            if has_sentinel(got):
                got = list(takewhile(lambda value: type(value) is not Sentinel, got))
                error = sentinel_given(step.name)
            pulled, count = perf_counter(), len(got)
            asked = count + (error is not None or values.closed)
            tally.calls.record((pulled - began) / asked, asked)
            if pulled - began > LONGEST_HOLD:
                step.held(pulled - began)
            if error is not None:
                error = await own_error(error, self.frame, step.name)
            self.check_failed(step.name, error)
            if not last:
                tally.given += count  # the next stage has them now
            try:
                if broken := self.through(got, index + 1, pulled):
                    await self.mend(broken)
            except Flushed:
                self.check_failed(step.name, error)
                raise
            if last:
                tally.given += count
            got.clear()  # or they would live on while the next ones have no room
            if error is not None:
                try:
                    raise CallFailed(error, 1) from None
                finally:
                    del error  # or this frame and its traceback would keep each other
            await self.rest_after(perf_counter() - began, count)

    def is_timed(self) -> bool:
        """Tell whether every stage is a bare call of which the items' times are kept."""
        return self.keeps_time and all(step.settled for step in self.calls)

    async def burst_timed(self, inlet: Edge) -> None:
        """Process what is there, for one turn, with the times of each item on its clock.

        An item that finds room leaves at the moment at which it is computed, so its clock is closed
        without looking at the time once more.
        """
        put, below, head = self.outlet.put, self.calls[1:], inlet.head
        add = None if self.times is None else self.times.clocks.append
        epoch, seen, stamped = self.frame.epoch, self.seen, self.stamped
        first = self.calls[0]
        fn, awaits, name = first.fn, first.awaits, first.name
        until_sample = self.until_sample
        self.woke = began = perf_counter()
        for _ in range(MOST_IN_A_TURN):
            if not head:
                head = inlet.refill()
                if not head:
                    break
            thing = head.popleft()
            inlet.taken += 1
            if inlet.writer is not None:
                inlet.ring_writer()
            if type(thing) is not Envelope:
                inlet.took(thing)
                await self.pass_mark(thing)
                continue
            clock = thing.clock
            until_sample -= 1
            self.at = 0
            start = perf_counter()
            try:
                value = thing.value
                value = await fn(value) if awaits else fn(value)
                now = perf_counter()
                if type(value) is Sentinel:
                    raise sentinel_given(name)
                clock += (name, now - start, now, now)
                if until_sample < 0:
                    first.tally.calls.record(now - start, SAMPLE)
                if not awaits and now - start > LONGEST_HOLD:
                    first.held(now - start)
                if below and seen == epoch.number:
                    value = await self.carry_timed(value, clock, below, until_sample < 0)
                    now = clock[-1]
            except Broken as broken:
                await self.failed_fast(broken.step, broken.value, broken.error, thing)
                if perf_counter() - began > LONGEST_TURN:
                    break
                continue
            except BaseException as error:
                await self.failed_fast(first, thing.value, error, thing)
                if perf_counter() - began > LONGEST_TURN:
                    break
                continue
            if until_sample < 0:
                until_sample = SAMPLE
            if seen != epoch.number:
                self.check()
            thing.value = value
            if stamped:
                clock.pop()
            try:
                if put(thing):
                    if add is not None:
                        add(clock)
                    if now - began < LONGEST_TURN:
                        continue
                    break
            except Enough:
                pass  # `give` finds out whether the failures are still wanted
            await self.give_late(thing)
        else:
            began = 0.0
        self.until_sample = until_sample
        if self.times is not None:
            self.times.fold_many()
        if inlet.used or not began:
            await checkpoint()
            self.check()

    async def carry_timed(
        self, value: Any, clock: Clock, calls: Sequence[CallStep], sampled: bool
    ) -> Any:
        """Take one value through further stages, with its times on its clock; give what comes out.

        Raises:
            Broken: a function failed.
        """
        seen, epoch = self.seen, self.frame.epoch
        for self.at, step in enumerate(calls, 1):
            start = perf_counter()
            try:
                result = await step.fn(value) if step.awaits else step.fn(value)
                now = perf_counter()
                if type(result) is Sentinel:
                    raise sentinel_given(step.name)
            except BaseException as error:
                raise Broken(step, value, error) from None
            clock += (step.name, now - start, now, now)
            if sampled:
                step.tally.calls.record(now - start, SAMPLE)
            if not step.awaits and now - start > LONGEST_HOLD:
                step.held(now - start)
            if seen != epoch.number:
                break
            value = result
        return value

    async def give_late(self, envelope: Envelope) -> None:
        """Give an item that may have to wait, and close its clock when it has gone."""
        if not await self.give(envelope, self.outlet):
            self.unwanted += 1
        clock = envelope.clock
        if clock is None or self.stamped:
            return
        if len(clock) == 1:
            clock[0] = perf_counter()  # an entry: time begins when the item is inside
        elif self.keeps_time:
            if len(clock) % 4 == 0:
                clock.append(0.0)
            clock[-1] = perf_counter()
            if self.times is not None:
                self.times.add(clock)

    def is_fast(self) -> bool:
        """Tell whether every stage is a bare call whose nature is known; only the first may wait."""
        calls = self.calls
        if not (self.is_bare and all(step.settled for step in calls)):
            return False
        if any(step.awaits for step in calls[1:]):
            return False
        return not (calls and calls[0].awaits and calls[0].kind != "map")

    def is_plain(self) -> bool:
        """Tell whether every stage is a bare call of a function that is known to be plain."""
        if not self.known_plain:  # a function that is known to be plain stays so
            self.known_plain = all(step.settled and not step.awaits for step in self.calls)
        return self.known_plain and self.is_bare

    def way(self) -> Callable[[Edge], Awaitable[None]] | None:
        """Give the fast way that suits these stages, once their nature is known."""
        if self.is_fast():
            if self.calls and self.calls[0].awaits:
                return self.burst_async
            return self.burst if self.outlet.bulk else None
        return self.burst_timed if self.is_timed() else None

    def untimed(self) -> tuple[Tally, float] | None:
        # It may have been called some quick calls later: where one call in so many is timed, nothing
        # is noted of the others.
        calls = self.calls
        if not (calls and calls[0].awaits and calls[0].tally.in_hand) or self.waits or self.at:
            return None
        return (calls[0].tally, self.woke) if self.is_fast() or self.is_timed() else None

    async def serve(self) -> None:
        """Take, process, give, until the input ends."""
        (inlet,) = self.inlets
        way, bare = self.way(), self.is_bare
        while True:
            if way is None:
                await self.careful_burst(inlet)
                way = self.way()
            else:
                await way(inlet)
                if bare != self.is_bare:
                    bare, way = self.is_bare, self.way()
            if inlet.total - inlet.taken - inlet.flushed:
                continue
            if inlet.ended:
                return
            await self.wait_item()

    async def careful_burst(self, inlet: Edge) -> None:
        """Process what is there, the careful way, for one turn."""
        end = perf_counter() + LONGEST_TURN
        for _ in range(MOST_IN_A_TURN):
            thing = inlet.take()
            if type(thing) is Envelope:
                await self.process(thing)
            elif thing is EMPTY:
                return
            else:
                await self.pass_mark(thing)
            if perf_counter() > end:
                break
            if self.becomes_fast and (self.is_fast() or self.is_timed()):
                self.becomes_fast = False
                return
        await checkpoint()
        self.check()

    async def burst(self, inlet: Edge) -> None:
        """Process what is there, stage by stage, for plain functions that are nothing but calls."""
        head = inlet.refill()
        if not head:
            return
        if type(head[0]) is not Envelope and type(head) is not Bare:
            await self.pass_mark(inlet.take())
            return
        most = min(self.outlet.space(), self.many)
        if not most:
            await self.wait_space()
            return
        if type(head) is Bare and len(head) <= most:
            values = list(head)
            head.clear()
        elif type(head) is Bare:
            values = [head.popleft() for _ in range(most)]
        else:
            values = []
            while head and len(values) < most and type(head[0]) is Envelope:
                values.append(head.popleft().value)
        inlet.taken += len(values)
        if inlet.writer is not None:
            inlet.ring_writer()
        await self.run_values(values, perf_counter())

    async def wait_space(self) -> None:
        """Wait for room before anything is taken.

        Raises:
            Enough: nobody wants more.
        """
        if not self.outlet.open:
            if not self.wanted():
                raise Enough
            self.is_bare = False  # failures are still wanted: the careful way throws results away
            return
        await self.wait_room(self.outlet, None)

    def takes_bursts(self) -> bool:
        """Tell whether values can be taken through all stages a burst at a time."""
        return self.is_plain() and self.outlet.bulk

    async def run_values(self, values: list[Any], began: float) -> None:
        """Take values through all stages, give what comes out, see how many make a turn."""
        count = len(values)
        broken = self.through(values, 0, began)
        if broken:
            values.clear()  # the frames of an error lead here: who keeps it would keep all of these
            await self.mend(broken)
        await self.rest_after(perf_counter() - began, count)

    async def rest_after(self, spent: float, count: int) -> None:
        """See how many items make a turn, and let other tasks have theirs when it is time."""
        self.turn += spent
        if spent > LONGEST_TURN / 2:
            self.many = max(1, int(count * LONGEST_TURN / 2 / spent))
        elif count == self.many:
            self.many = min(2 * self.many, MOST_IN_A_TURN)
            self.stride = STRIDE
        if self.turn > LONGEST_TURN:
            self.turn = 0.0
            await checkpoint()
            self.check()

    def through(self, values: list[Any], index: int, began: float) -> list[Piece]:
        """Take values through the stages from `index` on: a tight loop for each stage.

        An interrupt from inside a call empties the list that is worked on, so that no call is made
        for what it has discarded.

        Returns:
            nothing if all went well; else what is left to do, for `mend`.
        """
        calls, seen, epoch = self.calls, self.seen, self.frame.epoch
        for number in range(index, len(calls)):
            if not values:
                self.current = []  # or what the last of them got would live until the next burst
                return []
            step = calls[number]
            fn, kind = step.fn, step.kind
            out: list[Any] = []
            append = out.append
            todo = iter(values)
            size, stride = len(values), self.stride
            count = 0  # calls that went well
            self.at = number
            self.current = values
            try:
                while count < size:
                    if kind == "map":
                        for value in islice(todo, stride):
                            out.append(fn(value))  # noqa: PERF401 - a `map` hides StopIteration
                        count = len(out)
                    elif kind == "filter":
                        for value in islice(todo, stride):
                            keep = fn(value)
                            if keep is True or (keep is not False and step.plainly(keep)):
                                append(value)
                            count += 1
                    else:
                        for value in islice(todo, stride):
                            result = fn(value)
                            if result is not None:
                                step.plainly(result)
                            append(value)
                            count += 1
                    if seen != epoch.number or perf_counter() - began > LONGEST_TURN:
                        break
            except BaseException as raised:
                if seen != epoch.number:
                    return [(number, None, raised)]
                count = len(out) if kind == "map" else count
                failed: Piece = (number, values[count], raised)
                keep = result = None  # what the call before gave is no part of this failure
                try:
                    return self.pieces(number, values, count, out, [failed], began)
                finally:
                    del failed  # or this frame and the error's traceback would keep each other
            if seen != epoch.number:  # a function of these interrupted the run
                self.check()
            if count < size or (kind == "map" and has_sentinel(out)):
                return self.pieces(number, values, count, out, [], began)
            now = perf_counter()
            step.tally.calls.record((now - began) / size, size)
            if now - began > LONGEST_HOLD:
                step.held(now - began)
            began = now
            if kind == "filter":
                step.tally.filtered += size - len(out)
            values = out
        self.at = len(calls) - 1
        self.current = []
        if self.outlet.open:
            self.outlet.put_values(values)
        else:  # one of these functions has closed the output
            self.unwanted += len(values)
        return []

    def pieces(
        self,
        number: int,
        values: list[Any],
        count: int,
        out: list[Any],
        failed: list[Piece],
        began: float,
    ) -> list[Piece]:
        """Take apart a burst that did not come through a stage as one, in the order of its items.

        The lists that it came in are emptied: who keeps the error of a call keeps the frames that it
        went through, and these have them.

        Args:
            number: which stage.
            values: what it was given.
            count: how many calls went well.
            out: what these gave.
            failed: the call after them, if it failed.
            began: when the first of them began.
        """
        self.current = []
        step = self.calls[number]
        spent = perf_counter() - began
        made = count + len(failed)
        step.tally.calls.record(spent / made, made)
        if spent > LONGEST_TURN:
            self.stride = max(1, min(STRIDE, int(made * LONGEST_TURN / spent)))
        if spent > LONGEST_HOLD:
            step.held(spent)
        pieces: list[Piece] = []
        start = 0
        if step.kind == "filter":
            step.tally.filtered += count - len(out)
        elif step.kind == "map" and has_sentinel(out):
            for at, result in enumerate(out):
                if type(result) is Sentinel:
                    pieces.append((number + 1, out[start:at], None))
                    pieces.append((number, values[at], sentinel_given(step.name)))
                    start = at + 1
        pieces.append((number + 1, out[start:], None))
        pieces += failed
        pieces.append((number, values[made:], None))
        values.clear()
        out.clear()
        return pieces

    async def mend(self, broken: list[Piece]) -> None:
        """Do what is left of a burst in which a call has failed or that took too long for one turn.

        What is before a failure goes on first and what is behind it afterwards, so that everything
        is as if the values had come one by one. There is room for all but the failures. If one of the
        calls meanwhile interrupts the run, the errors whose turn has not come are told of.
        """
        todo: list[Piece] = []
        try:
            await self._mend(broken, todo)
        except Flushed:
            for number, _, error in reversed(todo):
                if error is not None:
                    tell_late(self.calls[number].name, error)
            raise
        finally:  # the frames of an error lead to whoever has these
            broken.clear()
            todo.clear()

    async def _mend(self, broken: list[Piece], todo: list[Piece]) -> None:
        """Do what is left of a burst; what stands behind that is in `todo`, last things first."""
        end = 0.0
        while True:
            while broken:
                number, what, error = broken.pop()
                if error is not None:
                    name = self.calls[number].name
                    error = await own_error(error, self.frame, name)
                    self.check_failed(name, error)
                todo.append((number, what, error))
            self.check()
            if not todo:
                return
            number, what, error = todo.pop()
            if error is not None:
                self.at = number
                await self.drop(self.calls[number], Envelope(what), CallFailed(error, 1))
            elif what and not (space := self.outlet.space()):
                self.at = min(number, len(self.calls) - 1)
                if self.outlet.open:
                    todo.append((number, what, None))
                    await self.wait_space()
                else:  # failures may still be wanted
                    await self.wait_space()
                    for value in what:
                        await self.process(Envelope(value), number)
            elif what:
                now = perf_counter()
                if now > end:
                    if end:
                        await checkpoint()
                        self.check()
                        now = perf_counter()
                    end = now + LONGEST_TURN
                if len(what) > space:
                    todo.append((number, what[space:], None))
                    what = what[:space]
                broken += self.through(what, number, now)
                what = []  # as the lists

    async def burst_async(self, inlet: Edge) -> None:
        """Process what comes, one by one, until the input has ended: the first function is async.

        One tight loop, longer than it should be, because each line is paid for by every item.
        """
        below = self.plain_calls(1)
        first, put_value, epoch = self.calls[0], self.outlet.put_value, self.frame.epoch
        fn_of_first = first.fn
        head, seen, until_sample = inlet.head, self.seen, self.until_sample
        self.woke = began = perf_counter()
        turn = 0
        while True:
            if not head:
                while not inlet.total - inlet.taken - inlet.flushed:
                    if inlet.ended:
                        return
                    value = given = None  # or they would live until the next one comes
                    await self.wait_item()
                    turn, began = 0, self.woke
                head = inlet.refill()
            value = head.popleft()
            inlet.taken += 1
            if inlet.writer is not None:
                inlet.ring_writer()
            if type(head) is not Bare:
                if type(value) is not Envelope:
                    inlet.took(value)
                    await self.pass_mark(value)
                    if turn_over(turn := turn + 1, began):
                        await self.rest()
                        turn, began = 0, self.woke
                    continue
                value = value.value
            given, sample = value, 0
            self.at = 0
            try:
                if until_sample:
                    until_sample -= 1
                    value = await fn_of_first(value)
                else:
                    self.until_sample, self.gap = self.gap, SAMPLE
                    value = await self.timed(first, value)
                    until_sample = self.until_sample
                    sample = SAMPLE if until_sample else 1  # a slow one is timed at each call
                if type(value) is Sentinel:
                    raise sentinel_given(first.name)
                if below and seen == epoch.number:
                    value = self.carry(value, below, sample)
            except Flushed:
                raise
            except Broken as broken:
                await self.failed_fast(broken.step, broken.value, broken.error)
                if turn_over(turn := turn + 1, began):
                    await self.rest()
                    turn, began = 0, self.woke
                continue
            except BaseException as error:
                await self.failed_fast(first, given, error)
                if turn_over(turn := turn + 1, began):
                    await self.rest()
                    turn, began = 0, self.woke
                continue
            if seen != epoch.number:
                self.check()
            turn += 1
            try:
                placed = value is DONE or put_value(value)
            except Enough:
                placed = False  # `give` finds out whether the failures are still wanted
            if not placed:
                self.at = len(below)
                if not await self.give(Envelope(value), self.outlet):
                    self.unwanted += 1
            elif (turn & 15 and until_sample) or not turn_over(turn, began):
                continue  # the time of calls that have been slow is looked at after each
            await self.rest()
            turn, began = 0, self.woke

    def plain_calls(self, index: int) -> list[Plain]:
        """Give the calls from `index` on as `carry` wants them."""
        calls = self.calls
        return [(at, calls[at].fn, calls[at].kind, calls[at]) for at in range(index, len(calls))]

    def carry(self, value: Any, calls: Sequence[Plain], sample: int) -> Any:
        """Take one value through plain functions; give what comes out, or `DONE` if none does.

        Args:
            value: what the first of them is given.
            calls: the functions, as `plain_calls` gives them.
            sample: for how many calls each of these stands in the report, if for any.

        Raises:
            Broken: a function failed.
            Flushed: one has interrupted the run.
        """
        seen, epoch = self.seen, self.frame.epoch
        now = perf_counter()
        for self.at, fn, kind, step in calls:
            began, keep = now, True
            try:
                result = fn(value)
                if kind == "filter":
                    keep = result is True or (result is not False and bool(step.plainly(result)))
                elif kind == "tap":
                    if result is not None:
                        step.plainly(result)
                elif type(result) is Sentinel:
                    raise sentinel_given(step.name)
            except BaseException as error:
                raise Broken(step, value, error) from None
            finally:
                now = perf_counter()
                spent = now - began
                if sample or spent > SLOW_CALL:
                    step.tally.calls.record(spent, 1 if spent > SLOW_CALL else sample)
                    if spent > LONGEST_HOLD:
                        step.held(spent)
            if seen != epoch.number:
                raise Flushed
            if kind == "map":
                value = result
            elif not keep:
                step.tally.filtered += 1
                return DONE
        return value

    async def timed(self, step: CallStep, value: Any) -> Any:
        """Call an async function and count how long it took, for itself and its like."""
        working = step.tally.working
        began = perf_counter()
        working[self] = (began, value)
        try:
            return await step.fn(value)
        finally:
            del working[self]
            spent = perf_counter() - began
            step.tally.calls.record(spent, 1 if spent > SLOW_CALL else SAMPLE)
            if spent > SLOW_CALL:
                self.until_sample = 0

    async def failed_fast(
        self, step: CallStep, item: Any, raised: BaseException, came: Envelope | None = None
    ) -> None:
        """Deal with an error of a bare call on an item, which came in an envelope or bare."""
        error = await own_error(raised, self.frame, step.name)
        self.check_failed(step.name, error)
        self.at = self.calls.index(step)
        envelope = Envelope(item) if came is None else came
        envelope.value = item
        await self.drop(step, envelope, CallFailed(error, 1))

    async def rest(self) -> None:
        """Let other tasks have a turn."""
        await checkpoint()
        self.woke = perf_counter()
        self.check()

    # -- accounts -------------------------------------------------------------------------------

    def taken_in(self) -> int:
        """Items that came to the first stage that calls a function."""
        return self.inlets[0].values_out

    def discard(self) -> int:
        self.current.clear()
        return super().discard()

    def refresh(self) -> None:
        """Derive the tallies from what entered and left each stretch between two `flat_map`s."""
        entered = self.taken_in()
        calls = self.calls
        if len(calls) < len(self.steps) and self.inlets:  # a buffer heads this chain
            head = self.steps[0].tally
            head.taken = entered
            head.done = head.given = entered if calls else self.outlet.given + self.unwanted
            entered -= head.discarded
        start = 0
        while start < len(calls):
            end = start
            while end < len(calls) and not isinstance(calls[end].stage, FlatMapStage):
                end += 1
            left = calls[end].tally.taken if end < len(calls) else self.outlet.given + self.unwanted
            self._stretch(start, end, entered, left)
            if end == len(calls):
                return
            flat = calls[end].tally
            entered = flat.given
            start = end + 1
            if start == len(calls):
                return

    def _stretch(self, start: int, end: int, entered: int, left: int) -> None:
        tallies = [call.tally for call in self.calls[start:end]]
        ended = sum(t.filtered + t.skipped + t.failed + t.discarded for t in tallies)
        in_hand = entered - left - ended
        holder = self.at - start if start <= self.at < end else end - start - 1
        for number, tally in enumerate(tallies):
            tally.taken = entered
            drops = tally.filtered + tally.skipped + tally.failed + tally.discarded
            entered -= drops + (in_hand if number == holder else 0)
            tally.done = tally.given = entered


def turn_over(count: int, began: float) -> bool:
    """Tell whether other tasks are due a turn, after so many items since a moment."""
    return count >= MOST_IN_A_TURN or perf_counter() - began > LONGEST_TURN
