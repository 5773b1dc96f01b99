"""Calls on the loop, one at a time: inline stages fused into one task, or one async stage alone.

A chain calls its stages one after the other on the value inside the envelope. It has two ways of
doing so. The careful way (`process`) can do everything; the fast way is a tight loop for stages that
are bare calls. Each burst begins with one careful item, which is timed: that is the sample from which
percentiles and busy time are told, and it is how a stage that is only seen to be async when it is
called becomes known.

Counts are derived from the edges wherever they can be, so the fast way counts nothing but what it
takes. Between two `flat_map`s every item that entered has left, was dropped, or is the one in hand.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from time import perf_counter
from typing import Any

from anyio import WouldBlock, sleep
from anyio.lowlevel import checkpoint

from .._envelope import HOLE, Envelope, Sentinel
from .._stages import MAIN, FilterStage, FlatMapStage, MapStage
from .._wires import EMPTY, Edge, Enough, Outlet
from .call import CallFailed, CallStep, sentinel_given
from .runner import LONGEST_TURN, MOST_IN_A_TURN, Frame, Runner, Step, own_error
from .values import DONE, read


class Chain(Runner):
    """A runner whose stages run inline on the loop.

    Attributes:
        at: the index of the stage that has the item in hand.
        unwanted: results that nobody took, while the failures were still wanted.
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
        self.is_bare = all(s.simple and isinstance(s.stage, MapStage) for s in self.calls)
        for step in self.calls:
            step.tally.sampled = True

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
                self.check()
                await self.drop(step, envelope, failed)
                return
            self.check()
            if isinstance(stage, MapStage):
                envelope.value = result
            elif isinstance(stage, FilterStage):
                try:
                    keep = bool(result)
                except Exception as error:
                    await self.drop(step, envelope, CallFailed(error, 1))
                    return
                if not keep:
                    step.tally.filtered += 1
                    await self.give_mark(HOLE, self.outlet)
                    return
        self.at = len(calls) - 1
        if not await self.give(envelope, self.outlet):
            self.unwanted += 1

    async def drop(self, step: Step, envelope: Envelope, failed: CallFailed) -> None:
        """Deal with an item that failed."""
        mark = await self.handle(step, envelope.value, failed.error, failed.attempts)
        await self.give_mark(mark, self.outlet)

    async def expand(self, step: CallStep, envelope: Envelope, index: int) -> None:
        """Take the values that a `flat_map` makes of one item through the stages below it."""
        tally = step.tally
        tally.taken += 1
        hooks, frame = step.hooks, self.frame
        item, context = envelope.value, envelope.context
        failures = count = 0
        if hooks is not None:
            await hooks.before(item, context)
        while True:
            source = None
            try:
                source = await open_values(step, envelope)
                while (value := await pull(step, source, envelope)) is not DONE:
                    self.check()
                    count += 1
                    tally.given += 1
                    await self.process(envelope.child(value), index + 1)
                    self.at = index
                break
            except CallFailed as failed:
                self.check()
                failures += 1
                retry = step.options.retry
                if count == 0 and retry is not None and retry.again(failed.error, failures):
                    tally.retries += 1
                    await sleep(retry.wait(failures))
                    self.check()
                    continue
                if hooks is not None:
                    await hooks.after(item, count, failed.error, context)
                self.at = index
                await self.drop(step, envelope, CallFailed(failed.error, failures))
                return
            finally:
                if source is not None and not source.closed:
                    await source.close(frame.close_timeout)
        self.check()
        if hooks is not None:
            await hooks.after(item, count, None, context)
            self.check()
        tally.done += 1

    # -- the fast way ---------------------------------------------------------------------------

    def is_fast(self) -> bool:
        """Tell whether every stage is a bare call whose nature is known; only the first may wait."""
        calls = self.calls
        return (
            self.is_bare
            and all(step.settled for step in calls)
            and not any(step.awaits for step in calls[1:])
        )

    async def serve(self) -> None:
        """Take, process, give, until the input ends."""
        (inlet,) = self.inlets
        while True:
            thing = inlet.take()
            if type(thing) is Envelope:
                await self.process(thing)
                if self.is_fast():
                    if self.calls and self.calls[0].awaits:
                        await self.burst_async(inlet)
                    else:
                        await self.burst(inlet)
                else:
                    await self.careful_burst(inlet)
            elif thing is not EMPTY:
                await self.pass_mark(thing)
            elif inlet.ended:
                return
            else:
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
        await checkpoint()
        self.check()

    async def burst(self, inlet: Edge) -> None:
        """Process what is there, for one turn: plain functions, nothing but calls.

        One tight loop, longer than it should be, because each line is paid for by every item.
        """
        receive, put = inlet.receive, self.outlet.put
        pairs = [(step.fn, step) for step in self.calls]
        epoch, seen = self.frame.epoch, self.seen
        began = perf_counter()
        for turn in range(MOST_IN_A_TURN):
            try:
                envelope = receive()
            except WouldBlock:
                return
            inlet.taken += 1
            if inlet.writer is not None:
                inlet.ring_writer()
            if type(envelope) is not Envelope:
                inlet.took(envelope)
                await self.pass_mark(envelope)
                return
            value = envelope.value
            try:
                for fn, step in pairs:
                    value = fn(value)
                    if type(value) is Sentinel:
                        raise sentinel_given(step.name)
            except BaseException as error:
                await self.failed_fast(step, envelope, error, value)
                return
            if seen != epoch.number:  # a function of these interrupted the run
                self.check()
            envelope.value = value
            try:
                if put(envelope):
                    if turn & 15 or perf_counter() - began < LONGEST_TURN:
                        continue
                    break
            except Enough:
                pass  # `give` finds out whether the failures are still wanted
            if not await self.give(envelope, self.outlet):
                self.unwanted += 1
        await checkpoint()
        self.check()

    async def burst_async(self, inlet: Edge) -> None:
        """The same as `burst` for a chain that begins with an async function."""
        receive, put = inlet.receive, self.outlet.put
        first, fn_of_first = self.calls[0], self.calls[0].fn
        pairs = [(step.fn, step) for step in self.calls[1:]]
        epoch, seen = self.frame.epoch, self.seen
        began = perf_counter()
        for turn in range(MOST_IN_A_TURN):
            try:
                envelope = receive()
            except WouldBlock:
                return
            inlet.taken += 1
            if inlet.writer is not None:
                inlet.ring_writer()
            if type(envelope) is not Envelope:
                inlet.took(envelope)
                await self.pass_mark(envelope)
                return
            value = envelope.value
            step = first
            self.at = 0
            try:
                value = await fn_of_first(value)
                if type(value) is Sentinel:
                    raise sentinel_given(first.name)
                for fn, step in pairs:
                    value = fn(value)
                    if type(value) is Sentinel:
                        raise sentinel_given(step.name)
            except BaseException as error:
                await self.failed_fast(step, envelope, error, value)
                return
            if seen != epoch.number:
                self.check()
            envelope.value = value
            try:
                if put(envelope):
                    if turn & 15 or perf_counter() - began < LONGEST_TURN:
                        continue
                    break
            except Enough:
                pass  # `give` finds out whether the failures are still wanted
            self.at = len(pairs)
            if not await self.give(envelope, self.outlet):
                self.unwanted += 1
        await checkpoint()
        self.check()

    async def failed_fast(
        self, step: Step, envelope: Envelope, error: BaseException, value: Any
    ) -> None:
        """Deal with an error of a bare call; `value` is what the stage was given."""
        error = await own_error(error, self.frame, step.name)
        self.check()
        self.at = next(i for i, call in enumerate(self.calls) if call is step)
        envelope.value = value if not isinstance(value, Sentinel) else envelope.value
        await self.drop(step, envelope, CallFailed(error, 1))

    # -- accounts -------------------------------------------------------------------------------

    def taken_in(self) -> int:
        """Items that came to the first stage that calls a function."""
        return self.inlets[0].values_out

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


async def open_values(step: CallStep, envelope: Envelope) -> Any:
    """Call the function of a `flat_map` and begin to read what it gives.

    Raises:
        CallFailed: the function failed, or gave nothing that can be iterated.
    """
    began = perf_counter()
    try:
        values = read(await step.attempt(envelope), f"flat_map {step.name!r}")
        step.waits_for_values = values.is_async
        return values
    except BaseException as raised:
        raise CallFailed(await own_error(raised, step.frame, step.name), 1) from None
    finally:
        step.spent(envelope, perf_counter() - began)


async def pull(step: CallStep, source: Any, envelope: Envelope) -> Any:
    """Give the next value of a `flat_map`'s iterable, or `DONE`.

    Raises:
        CallFailed: the iterable raised, took too long, or gave a sentinel.
    """
    began = perf_counter()
    try:
        value = await step.within_timeout(source.next)
        if type(value) is Sentinel:
            raise sentinel_given(step.name)
    except BaseException as raised:
        raise CallFailed(await own_error(raised, step.frame, step.name), 1) from None
    finally:
        step.spent(envelope, perf_counter() - began)
    return value
