"""A source, pulled into the graph item by item.

Its feeder pulls an item, takes it through the inline stages fused to it, and gives it. It moves the
line of the entry before each pull. While a pull is in flight the pump does: so a sentinel never stands
between the values that a `flat_map` makes of one item, and never waits for an item that may not come.

A pull is never cancelled to be repeated. `stop` cancels the one in flight, once, and the source is
closed. An interrupt does not touch it: the item that it gives belongs to the new epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, Never

from anyio import CancelScope, Event
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from .._envelope import Envelope, Failure, Sentinel
from .._epoch import Flushed
from .._errors import NO_ITEM, exit_in, is_cancellation
from .._watch import Bell
from .._wires import Edge, Enough, Outlet
from .call import has_sentinel
from .chain import SAMPLE, Broken, Plain
from .entry import EntryRunner
from .origin import Origin
from .runner import LONGEST_HOLD, LONGEST_TURN, MOST_IN_A_TURN, Frame, Step, Stopped, own_error
from .values import DONE, Values, warn_unfinished

TURNS = 5
"""Turns of the event loop in which a cancellation reaches everybody whom it concerns."""
QUICK = 16
"""The most values between two looks at the time, where each is expected to be quick."""
READ_IN_A_THREAD = "read it in a thread, with source(..., on=Threads(1))"


class SourceRunner(EntryRunner):
    """A source: a feeder that pulls, and a pump for the line while it does.

    Attributes:
        gate: opened when somebody is ready to read; a source behind a `concat` waits for it.
        pulled: items that the source gave.
        pulling: a pull is in flight. Only then may `stop` cancel `pull_scope`; and whoever gets a
            value from the pull looks at the scope before awaiting anything else, so the value that
            came in the same moment is not lost.
        managed: a context manager around the source has still to be asked about what it raises.
        hand: items pulled and not yet in the graph.
        stopping: no further pull is wanted.
    """

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
        items: Any,
    ) -> None:
        super().__init__(frame, steps, inlets, outlets)
        self.origin = Origin(items, f"source {self.name!r}")
        self.gate: Event | None = None
        self.managed = False
        self.pulled = self.lost = 0
        self.pulling = self.stopping = self.is_done = self.at_gate = False
        self.pull_began = 0.0
        self.pull_scope: CancelScope | None = None
        self.late: BaseException | None = None  # what the source raised, when it cannot be told yet
        self.pump_bell = Bell(frame.watch)
        self.line.changed = self.pump_bell.ring
        self.line.moved = self._ring
        # A value is pulled when there is room for it. A rendezvous has none before its reader waits,
        # and a buffer that drops items always has.
        self.bounded = [edge for edge in self.outlet.edges if edge.blocks and edge.capacity]
        self.hand: deque[Any] = deque()
        self.got: list[Any] | None = None  # a burst that is being pulled
        self.old = 0  # items at its head that an interrupt has discarded

    # -- life -----------------------------------------------------------------------------------

    def hasten(self) -> None:
        if self.pulling:
            super().hasten()

    def hold_back(self) -> None:
        super().hold_back()
        self.gate = Event()

    def on_want(self) -> Sequence[Edge]:
        if self.gate is not None and not self.gate.is_set():
            if self.at_gate:
                self.at_gate = False
                self.frame.watch.parked -= 1
            self.gate.set()
        return super().on_want()

    def moves(self) -> bool:
        return not self.at_gate and super().moves()

    async def _wait_gate(self, gate: Event) -> None:
        """Wait to be wanted; whoever opens the gate takes this task off the parked."""
        if gate.is_set():
            return
        self.frame.watch.parked += 1
        self.at_gate = True
        self.frame.watch.look()
        await gate.wait()

    async def _feed(self) -> None:
        error: BaseException | None = None
        late: BaseException | None = None
        swallowed = False
        try:
            # `life` is entered before anything of the user's, because a context manager may keep
            # scopes of its own open until it is left; so that is done in no scope that is newer.
            with CancelScope() as self.pull_scope, CancelScope() as life:
                self._pulling()
                try:
                    values = await self._open(life)
                finally:
                    self._has_pulled()
                self.managed = values.managed
                try:
                    await self._read(values)
                except BaseException as raised:
                    error = raised
                if self.pulling:  # it was at work until nobody wanted what it gave
                    self._has_pulled()
                self._pulling()
                try:
                    late = await self._close(values, await self._told(error), life)
                    swallowed = values.swallowed
                except BaseException as raised:
                    if exit_in(raised) is not None and isinstance(error, Exception):
                        await self._fail_beside(error)
                    raise
                finally:
                    self._has_pulled()
            if life.cancelled_caught:
                warn_unfinished(self.origin.what, self.frame.close_timeout)
            await self._report(error, late, kept=swallowed)
        finally:
            del error, late  # or the frame and the traceback would keep each other

    async def _report(
        self, error: BaseException | None, late: BaseException | None, *, kept: bool
    ) -> None:
        """Report what ended the reading, and what closing the source raised besides.

        A context manager has been asked, as in any `async with`: what it has kept to itself has ended
        the source and nothing else. It cannot keep `KeyboardInterrupt` and `SystemExit`, and what it
        keeps while the run is cancelled is no end.
        """
        try:
            if error is not None:
                if not self.managed or isinstance(error, (Enough, Stopped)):
                    raise error
                if is_cancellation(error):
                    await checkpoint_if_cancelled()
                    kept = kept or late is not None  # it was none of ours
                if not kept or exit_in(error) is not None:
                    self.managed = False
                    await self._failed_pull(error)
                await checkpoint_if_cancelled()  # it may have come of that
        finally:
            if late is not None:
                self._fail(late)
            has_failed = late is not None
            del error, late  # or the frame and the traceback would keep each other
        if has_failed:
            raise Stopped

    async def _fail_beside(self, error: Exception) -> None:
        """Report what the source raised, when closing it raises what ends the program."""
        if not isinstance(error, (Enough, Stopped)):
            self._fail(await own_error(error, self.frame, self.steps[0].name))

    async def _read(self, values: Values) -> None:
        """Feed until there is no more, or `stop` says so."""
        more = True
        straight = self.bounded[0] if self._goes_straight(values) else None
        with CancelScope() as self.pull_scope:
            while more and not self.stopping and self.late is None:
                self.seen = self.frame.epoch.number
                try:
                    if self.line.tickets:
                        await self._move_line()  # and see whether `stop` has come meanwhile
                    elif straight is not None:
                        more = await self._straight_turn(values, straight)
                    elif values.is_async or not self.takes_bursts():
                        more = await self._turn(values)
                    else:
                        more = await self._fast_turn(values)
                except Flushed:
                    continue
        await self._settle(self._enter_hand)
        if self.late is not None:
            await self._failed_pull(self.late)

    def _goes_straight(self, values: Values) -> bool:
        """Tell whether values go into one edge as they are, each as it comes."""
        is_bare = values.is_async and self.frame.plain and not self.calls
        return is_bare and self.outlet.bulk and len(self.outlet.edges) == len(self.bounded) == 1

    async def _told(self, error: BaseException | None) -> BaseException | None:
        """Give what a context manager is told of why its source is read no more."""
        if isinstance(error, Enough):
            return None  # nobody wants more: that is an end like any other
        if isinstance(error, Stopped):
            return self.frame.why
        if self.managed and error is not None and is_cancellation(error):
            for _ in range(TURNS):  # whoever owns the run learns of its cancellation as well
                if not self.frame.cancelled:
                    await cancel_shielded_checkpoint()
            if self.frame.cancelled:
                # Its cleanup is shielded, and a scope of its own would take a cancellation that
                # nothing outside explains for its own. So it is closed as a generator is.
                return GeneratorExit()
        return error

    def _has_pulled(self) -> None:
        """Note that the source is at work no more."""
        self.pulling = False
        self.steps[0].tally.busy += perf_counter() - self.pull_began

    def _pulling(self) -> None:
        """Leave the line to the pump while the source is at work."""
        self.pulling = True
        self.pull_began = perf_counter()
        if self.line.tickets:
            self.pump_bell.ring()

    async def _close(
        self, values: Values, error: BaseException | None, life: CancelScope
    ) -> BaseException | None:
        """Close the source where it was read; give what that raised."""
        return await values.close_within(life, self.frame.close_timeout, error)

    async def _settle(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do work again until no interrupt comes in its way."""
        while True:
            self.seen = self.frame.epoch.number
            try:
                await work()
            except Flushed:
                continue
            return

    async def live(self) -> None:
        """Open the source, feed until it ends or `stop` says so, close it.

        There is no work scope, for an interrupt does not touch a pull.
        """
        self.frame.spawn(self.pump)
        with suppress(Enough):
            await self.frame.ready.wait()
            if self.gate is not None:
                await self._wait_gate(self.gate)
            if not self.stopping:
                await self._feed()
            await self._settle(self._move_line)

    def retire(self) -> None:
        self.is_done = True
        self.pump_bell.ring()
        super().retire()

    def _ring(self) -> None:
        self.bell.ring()
        self.pump_bell.ring()

    async def pump(self) -> None:
        """Move the line while a pull is in flight."""
        try:
            while not self.is_done:
                if not (self.pulling and self.line.tickets):
                    await self.pump_bell.wait()
                elif not self.line.place():
                    await self.line.full.wait_room(self.line.tickets[0].thing, self.pump_bell)
        except Enough:
            self.stop()
        finally:
            self.frame.watch.leave()

    def released(self) -> None:
        if not self.wanted():
            self.stop()

    def stop(self) -> None:
        super().stop()
        self.stopping = True
        self.on_want()
        if self.pulling and self.pull_scope is not None:
            self.pull_scope.cancel()

    def close_input(self) -> None:
        """Nothing to do: a source ends when it ends."""

    # -- the source -----------------------------------------------------------------------------

    async def _open(self, life: CancelScope) -> Values:
        """Begin to read the source; report what that raises."""
        try:
            return await self._begin(life)
        except BaseException as raised:
            await self._failed_pull(raised)

    async def _begin(self, life: CancelScope) -> Values:
        """Begin to read the source where it is read."""
        return await self.origin.open(life, self.frame.close_timeout)

    def _fail(self, error: BaseException) -> None:
        self.frame.fail(Failure(self.steps[0].name, NO_ITEM, error, 1))

    async def _failed_pull(self, raised: BaseException) -> Never:
        """Report what the source raised, unless it is the cancellation of `stop` or of the run."""
        if self.managed:
            try:
                raise raised  # the manager is asked first
            finally:
                del raised  # or the frame and the traceback would keep each other
        self._fail(await own_error(raised, self.frame, self.steps[0].name))
        raise Stopped from None

    # -- feeding --------------------------------------------------------------------------------

    async def _straight_turn(self, values: Values, edge: Edge) -> bool:
        """A turn for an async iterable whose values go into one edge as they are.

        Between a pull, the edge and the next pull there is no await, so nothing can come in between:
        the source is at work all the while. The wait is that of `wait_room`, written out: with a
        coroutine of its own `compat.buffered_chain` takes 7 % longer where each value waits for room.
        """
        bell, line, epoch = self.bell, self.line, self.frame.epoch
        put, pull, tally = edge.put_value, values.iterator.__anext__, self.steps[0].tally
        left, look, stride = MOST_IN_A_TURN, MOST_IN_A_TURN - 1, 1
        self.pulling = True
        self.pull_began = looked = now = perf_counter()
        end = now + LONGEST_TURN
        while True:
            while edge.total - edge.taken - edge.flushed >= edge.capacity:
                self.pulling = False
                self.since = now = perf_counter()
                tally.busy += now - self.pull_began
                self.waits, self.waits_at = "output", self.outlet.edges
                edge.writer = bell
                wake = bell.begin()
                try:
                    await wake
                finally:
                    if edge.writer is bell:
                        edge.writer = None
                    if bell.event is wake:
                        bell.give_up()
                    self.waits = ""
                    self.woke = now = perf_counter()
                    tally.blocked += now - self.since
                if self.seen != epoch.number:
                    raise Flushed
                if line.tickets:
                    await self._move_line()
                    now = perf_counter()
                if self.stopping:
                    return False
                self.pulling = True
                self.pull_began = looked = now
                end, left, look = now + LONGEST_TURN, MOST_IN_A_TURN, MOST_IN_A_TURN - stride
            try:
                value = await pull()
            except StopAsyncIteration:
                self._has_pulled()
                values.closed = True
                return False
            except BaseException as raised:
                self._has_pulled()
                await self._failed_pull(raised)
            self.seen = epoch.number
            left -= 1
            self.pulled += 1
            if line.tickets or type(value) is Sentinel or not put(value):
                self.pulled -= 1
                self._has_pulled()
                self.hand.append(value)
                value = None
                if not self.stopping:  # else it enters outside the scope that was cancelled
                    await self._enter_hand()
                return not self.stopping
            value = None  # or the next pull would keep it alive
            if self.stopping:
                self._has_pulled()
                return False
            if left <= look:  # the time of values that are quick is looked at now and then
                now = perf_counter()
                if now > end or left <= 0:
                    break
                stride = min(2 * stride, QUICK) if now - looked < LONGEST_TURN / 8 else 1
                look, looked = left - stride, now
        self._has_pulled()
        await checkpoint()
        return True

    async def _turn(self, values: Values) -> bool:
        """Pull and enter, one item after the other, for one turn; tell if there may be more."""
        outlet, make = self.outlet, self.frame.envelope
        is_bare = self.frame.plain
        put = outlet.put_value if is_bare else outlet.put
        plain, tally, line = not values.is_async, self.steps[0].tally, self.line
        direct, bounded, epoch = not self.calls, self.bounded, self.frame.epoch
        calls = self.plain_calls(0) if self.is_plain() else None
        pull = values.iterator.__anext__ if values.is_async else values.next
        began = perf_counter()
        end = began + LONGEST_TURN
        for _ in range(MOST_IN_A_TURN):
            if line.tickets:
                await self._move_line()
                if self.stopping:
                    return False
                began = perf_counter()
            for edge in bounded:
                while edge.total - edge.taken - edge.flushed >= edge.capacity:
                    await self.wait_room(outlet, None)
                    if line.tickets:
                        await self._move_line()
                    if self.stopping:
                        return False
                    began = self.woke
                    end = began + LONGEST_TURN  # others have had a turn meanwhile
            self.pulling = True  # as `_pulling` does, for a line that is empty
            self.pull_began = began
            try:
                value = await pull()
            except StopAsyncIteration as raised:
                self._has_pulled()
                if not values.is_async:
                    await self._failed_pull(raised)
                values.closed = True
                return False
            except BaseException as raised:
                self._has_pulled()
                await self._failed_pull(raised)
            self.pulling = False
            now = perf_counter()
            tally.busy += now - began
            if plain and now - began > LONGEST_HOLD:
                self.steps[0].held(now - began, READ_IN_A_THREAD)
            if value is DONE:
                return False
            self.seen = epoch.number
            if direct and not line.tickets and type(value) is not Sentinel:
                # Between the pull and the edge there is no await: nothing can come in between.
                self.pulled += 1
                if put(value if is_bare else make(value)):
                    value = None  # or the next pull would keep it alive
                    if self.stopping:
                        return False
                    if now > end:
                        break
                    began = now  # giving counts as part of the pull: it is little
                    continue
                self.pulled -= 1
            if calls and not (line.tickets or self.stopping or type(value) is Sentinel):
                self.pulled += 1
                await self._carry_in(value, calls)
                value = None
            else:
                self.hand.append(value)
                value = None
                if not self.stopping:  # else it enters outside the scope that was cancelled
                    await self._enter_hand()
            if self.stopping:
                return False
            if self.becomes_fast and self.is_plain():
                self.becomes_fast = False
                return True  # the first item has shown that the rest may go in another way
            began = perf_counter()
            if began > end:
                break
        await checkpoint()
        return True

    async def _enter_hand(self) -> None:
        """Take what is in hand into the graph, in order."""
        while self.hand:
            value = self.hand.popleft()
            if type(value) is Sentinel:
                self.frame.line_up(value)
                await self._move_line()
                continue
            if self.line.tickets:
                await self._move_line()
            self.pulled += 1
            envelope = self.frame.envelope(value)
            if self.may_wait():
                with self.frame.epoch.work():
                    await self.process(envelope)
                self.check()
            else:
                await self.process(envelope)

    async def _carry_in(self, value: Any, calls: Sequence[Plain]) -> None:
        """Take one value into the graph through plain functions."""
        if self.until_sample:
            self.until_sample -= 1
            sample = 0
        else:
            self.until_sample, self.gap, sample = self.gap, SAMPLE, SAMPLE
        try:
            value = self.carry(value, calls, sample)
        except Broken as broken:
            await self.failed_fast(broken.step, broken.value, broken.error)
            return
        try:
            placed = value is DONE or self.outlet.put_value(value)
        except Enough:
            placed = False  # `give` finds out whether the failures are still wanted
        if not placed:
            self.at = len(calls) - 1
            await self.give_late(Envelope(value))

    def may_wait(self) -> bool:
        """Tell whether a fused stage may wait for something: that has to end at an interrupt."""
        return any(
            step.awaits or not (step.settled and step.simple) or step.waits_for_values
            for step in self.calls
        )

    def takes_bursts(self) -> bool:
        if self.frame.timing and not (self.calls or self.frame.contextual):
            return len(self.outlet.edges) == 1 and self.outlet.edges[0].bulk
        return super().takes_bursts()

    def _enter_timed(self, values: list[Any]) -> None:
        """Take a burst into the graph, each item with a clock of its own."""
        now = perf_counter()
        self.pulled += len(values)
        if values:
            self.outlet.edges[0].put_envelopes([Envelope(v, None, [now]) for v in values])

    async def _move_line(self) -> None:
        """Place what stands in line before anything else enters."""
        while not self.line.place():
            await self.wait_room(self.line.full, self.line.tickets[0].thing)

    async def _fast_turn(self, values: Values) -> bool:
        """A turn for a plain iterable and bare plain calls: a burst at once, as in `Chain.burst`."""
        most = min(self.outlet.space(), self.many)
        if not most:
            await self.wait_space()
            return True
        began = perf_counter()
        got: list[Any] = []
        self.got = got
        self.old = 0
        error: BaseException | None = None
        try:
            values.next_into(got, most, LONGEST_TURN)
        except BaseException as raised:
            error = raised
        self.got = None
        pulled = perf_counter()
        self.steps[0].tally.busy += pulled - began
        if pulled - began > LONGEST_HOLD:
            self.steps[0].held(pulled - began, READ_IN_A_THREAD)
        if self.seen != self.frame.epoch.number:
            self.seen = self.frame.epoch.number  # the source interrupted: what it gave first is old
            del got[: self.old]
        self.late = error  # raised when what came before it has entered, or has been discarded
        count = len(got)
        if has_sentinel(got):
            self.hand.extend(got)
            await self._enter_hand()
        elif not self.is_bare:
            self._enter_timed(got)
        else:
            self.pulled += len(got)
            if broken := self.through(got, 0, pulled):
                got.clear()  # as in `run_values`
                await self.mend(broken)
        await self.rest_after(perf_counter() - began, count)
        if error is not None:
            got.clear()
        return not (self.stopping or values.closed or error is not None)

    # -- accounts -------------------------------------------------------------------------------

    def taken_in(self) -> int:
        return self.steps[0].tally.done

    def refresh(self) -> None:
        tally = self.steps[0].tally
        tally.taken = self.pulled
        tally.discarded = self.lost
        if self.calls:
            tally.done = tally.given = self.pulled - self.lost
            super().refresh()
        else:
            tally.done = tally.given = self.outlet.given + self.unwanted

    def discard(self) -> int:
        """Settle the account of an epoch that is over."""
        let_go = list(self.hand)
        if self.got is not None:  # an iterator that interrupts: what it gave before is discarded
            let_go += self.got[self.old :]
            self.old = len(self.got)
        waiting = len([value for value in let_go if type(value) is not Sentinel])
        self.hand.clear()
        self.current.clear()
        self.pulled += waiting
        self.lost += waiting
        self.refresh()
        in_hand = sum(step.tally.let_go() for step in self.steps)
        if not self.calls:
            self.lost += in_hand
        return self.line.forget() + waiting + in_hand
