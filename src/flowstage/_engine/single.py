"""Calls in worker threads one at a time, with everything that their options ask for.

A call may be timed out, tried again, observed, or scripted in a test. All of that concerns one item, so
a thread is given no more than one. Hooks run on the loop, and a retry waits there, without the seat.

When the time of a call is over its function is told so, and the timeout is reported at once if it is
final; but as with every call in a thread its worker stays until the thread really ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from anyio import CancelScope, Event, move_on_after

from .._envelope import HOLE, Envelope
from .._errors import StageTimeout
from .._stages import CallStage, FilterStage
from .._wires import Edge, Outlet
from .call import CallFailed
from .offload import Offload
from .pool import Slot
from .runner import Frame, Step
from .seats import Seat, in_thread
from .slices import run_slice


def asks_for_more(frame: Frame, stage: CallStage) -> bool:
    """Tell whether a stage at a place asks for more than calls."""
    options = stage.options
    scripted = options.on is not None and options.on.script() is not None
    return bool(options.timeout or options.retry or frame.observers or scripted)


class SingleOffload(Offload):
    """A stage in threads that is given one item a call.

    Attributes:
        script: what decides when each call is made, in tests.
    """

    single = True

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
    ) -> None:
        super().__init__(frame, steps, inlets, outlets)
        self.script = self.place.script()

    def share(self, seat: Seat) -> int:
        return 1

    async def batch_in_thread(self, batch: list[Slot], seat: Seat, seen: int) -> None:
        (slot,) = batch
        step, envelope = self.step, slot.envelope
        item, hooks, retry = envelope.value, step.hooks, step.options.retry
        if hooks is not None:
            seat.leave()
            with self.frame.epoch.work(self.scopes):
                await hooks.before(item, envelope.context)
                await seat.take_back()
        while not self.stale(seen):
            result, error = await self.attempt(slot, seat, seen)
            if self.stale(seen):
                self.tell_late(error)
                return
            if error is None or retry is None or slot.count:
                break
            if not retry.again(error, slot.attempts):
                break
            slot.attempts += 1
            step.tally.retries += 1
            with self.frame.epoch.work(self.scopes):
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
            with self.frame.epoch.work(self.scopes):
                await hooks.after(item, value if error is None else None, error, envelope.context)
            if self.stale(seen):
                self.tell_late(error)
                return
        if error is not None:
            self.note_failed(slot, CallFailed(error, slot.attempts))
        self.finish(slot)

    flat_batch_in_thread = batch_in_thread

    async def attempt(self, slot: Slot, seat: Seat, seen: int) -> tuple[Any, BaseException | None]:
        """Call once; with a timeout, give up waiting when it is over but stay till the end."""
        if self.is_flat:
            return None, await self.flat_in_thread(slot, seat, seen)
        envelope, began = slot.envelope, perf_counter()
        self.step.tally.working[slot] = (began, envelope.value)
        answers: list[Any] = []
        try:
            late = await self.call_for(slot, seen, answers, run_slice, 0.0)
        finally:
            self.step.tally.working.pop(slot, None)
            self.step.spent(envelope, perf_counter() - began)
        if late is not None:
            return None, late
        made: list[tuple[Any, BaseException | None]] = answers[0][0] if answers else []
        return made[0] if made else (None, None)  # an interrupt was quicker than the thread

    async def call_for(
        self, slot: Slot, seen: int, answers: list[Any], work: Callable[..., Any], *args: Any
    ) -> StageTimeout | None:
        timeout = self.step.options.timeout
        envelopes = self.handed[slot] = [slot.envelope]
        call = partial(self._thread_call, answers, slot, seen, work, envelopes, args)
        try:
            if timeout is None:
                await call()
                return None
            begun, done, told, late = Event(), Event(), CancelScope(), False
            self.frame.spawn_uncounted(partial(self._timed, call, begun, done, told))
            try:
                with move_on_after(timeout) as scope:
                    await done.wait()
                late = scope.cancelled_caught
            finally:
                if not begun.is_set():  # nor will it be: asyncio may cancel a task before it begins
                    done.set()
                if not done.is_set():
                    told.cancel()  # the thread learns it from `check_cancelled`
                    await self._stay(slot, done, timeout, seen, late=late)
        finally:
            del self.handed[slot]
        return self._too_late(timeout) if late else None

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
                    with self.frame.epoch.work(self.scopes):
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
        self, call: Callable[[], Awaitable[None]], begun: Event, done: Event, told: CancelScope
    ) -> None:
        """Run a call that somebody else waits for, perhaps not to the end."""
        if done.is_set():
            return
        begun.set()
        try:
            with told:
                await call()
        finally:
            done.set()

    async def _thread_call(
        self,
        answers: list[Any],
        slot: Slot,
        seen: int,
        work: Callable[..., Any],
        envelopes: list[Envelope],
        args: tuple[Any, ...],
    ) -> None:
        """Run a call in a thread and note its answer; there is none if it was not even begun."""
        if self.stale(seen):  # the scope would be of an epoch in which nobody cancels this call
            return
        with self.frame.epoch.work(self.scopes):
            if self.script is None or slot.count:  # values that are read on are no new call
                answers.append(await in_thread(work, self.call, envelopes, *args))
                return
            held = (slot.envelope,)  # what a script holds has begun: it is made in any case
            answers.append(
                await self.script(
                    slot.envelope.value, self.call, lambda call: in_thread(work, call, held, *args)
                )
            )
