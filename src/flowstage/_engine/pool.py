"""Several calls at once: a window of slots, workers that fill it, one coordinator that empties it.

Every item taken gets a `Slot` in the window; a slot leaves when all that came of its item has been
given on. The window is bounded when work is taken up, not when it is done: one slow head stops the
reading. In an ordered stage only the head of the window gives; in an unordered one whoever is ready.

Workers take the next item themselves and give what can be given without waiting; both are plain
function calls, so a busy pool costs no hand-over between tasks. Only the coordinator waits at edges:
it is rung when there is something that a worker cannot do. That is to pass a mark (a barrier waits
until everything before it has left, and holds up the reading if the stage is unordered), to deal with
a failure (its branch may be full), to wait for room.

On the loop the workers live in a task group inside the epoch's scope, so an interrupt cancels them
all. `offload` has workers that hold threads, and outlive it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from time import perf_counter
from typing import Any

from anyio import Event, create_task_group, get_cancelled_exc_class, sleep
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .._backend import Wake
from .._envelope import HOLE, Barrier, Envelope, Failure, Mark, Sentinel
from .._epoch import Flushed
from .._stages import MAIN, FlatMapStage
from .._watch import Watch
from .._wires import EMPTY, Edge, Enough, Outlet
from .call import CallFailed, CallStep, sentinel_given
from .flat_values import close_values, open_values, pull
from .runner import (
    LONGEST_TURN,
    Frame,
    Runner,
    Step,
    Stopped,
    own_error,
    policy_of,
    tell_late,
)
from .values import DONE


class Slot:
    """The place of one item, or of one mark, in the window.

    Attributes:
        out: what came of the item and is not given yet, as the outlet takes it: bare values where
            nothing but values travels, else envelopes.
        finished: nothing more will come.
        failed: why not.
        mark: what takes its place when it leaves: a hole, a barrier, a fault.
        taken: set when `out` has been emptied, for a worker that waits to go on.
        ended: how the item counts: "done", "filtered", or already counted.
        count: values that a `flat_map` made of it so far.
        attempts: tries so far, the one under way included.
        number: its place in the order of the input, where it may be handed back.
    """

    __slots__ = (
        "attempts",
        "count",
        "ended",
        "envelope",
        "failed",
        "finished",
        "mark",
        "number",
        "out",
        "taken",
    )

    def __init__(self, envelope: Any, mark: Mark | None = None) -> None:
        self.envelope = envelope
        self.out: Any = None  # a deque, or a list of one
        self.finished = mark is not None
        self.failed: CallFailed | None = None
        self.mark = mark
        self.taken: Event | None = None
        self.ended = "done" if mark is None else ""
        self.count = 0
        self.attempts = 1
        self.number = 0

    def release(self) -> None:
        """Let the worker that waits for this slot go on."""
        taken = self.taken
        if taken is not None:
            self.taken = None
            taken.set()


class Pool(Runner):
    """A stage with several calls at once.

    Attributes:
        window: slots in the order of the input.
        ready: in an unordered stage, slots that have something to give.
        busy: workers that are at work; while there are any, the runner is alive.
        needed: something has to be done that only the coordinator can do.
        closing: nothing more is wanted; what is still at work comes too late.
    """

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
    ) -> None:
        super().__init__(frame, steps, inlets, outlets)
        (step,) = steps
        assert isinstance(step, CallStep)
        self.step = step
        self.inlet = inlets[0]
        self.outlet = outlets[MAIN]
        self.width = step.options.width
        self.room = self.width
        self.ordered = step.options.ordered
        self.is_flat = isinstance(step.stage, FlatMapStage)
        self.is_plain = frame.plain
        self.put = self.outlet.put_value if frame.plain else self.outlet.put
        self.raises = policy_of(step.stage, frame) == "raise"
        self.busy = 0
        self.closing = False
        self._begin()

    def _begin(self) -> None:
        """Set up the state of an epoch."""
        for slot in getattr(self, "window", ()):
            slot.release()
        self.window: deque[Slot] = deque()
        self.ready: deque[Slot] = deque()
        self.items = 0  # slots in the window that hold an item
        self.barrier: Slot | None = None
        self.enough = False
        self.needed = False
        self.idle: list[Worker] = []
        self.workers = 0
        self.latest: Worker | None = None  # the worker that made the last call

    # -- the coordinator ------------------------------------------------------------------------

    async def serve(self) -> None:
        self._begin()
        turn: Exception | None = None
        try:
            async with create_task_group() as group:
                self.group: TaskGroup = group
                try:
                    await self.coordinate()
                except (Flushed, Enough, Stopped) as raised:
                    turn = raised
                group.cancel_scope.cancel()
        finally:
            if self.busy and self.seen == self.frame.epoch.number:
                self.busy = 0
                self.frame.watch.leave()
        if turn is not None:
            raise turn

    async def coordinate(self) -> None:
        """Do what workers cannot, until the input has ended and everything has left."""
        while True:
            await self.relieve()
            self.needed = False
            self.staff()
            if self.over():
                return
            if not self.needed:
                await self.pause()

    def over(self) -> bool:
        """Tell whether the input has ended and everything has left."""
        return not self.window and self.inlet.ended and not self.inlet.used

    async def pause(self) -> None:
        """Wait until there is an item to take up, room for a result, or a worker that calls."""
        reads = self.may_take() and (self.idle or self.workers < self.width)
        gives = self.next_out()
        full = [] if gives is None else [e for e in self.outlet.edges if not e.finished]
        self.since = began = perf_counter()
        if reads:
            self.inlet.reader = self.bell
            if self.inlet.announces:
                self.inlet.ring_writer()
        for edge in full:
            edge.writer = self.bell
        self.waits = "output" if full else "input"
        self.waits_at = full or (self.inlet,)
        try:
            await self.bell.wait()
        finally:
            self.waits = ""
            for edge in full:
                if edge.writer is self.bell:
                    edge.writer = None
            if self.inlet.reader is self.bell:
                self.inlet.reader = None
            now = perf_counter()
            if full:
                self.step.tally.blocked += now - began
            elif not (self.busy or self.step.tally.working):
                self.step.tally.waiting += now - self.since
        self.check()

    async def relieve(self) -> None:
        """Give what is due, and pass the marks and the failures on the way."""
        while True:
            self.advance()
            if self.enough:
                self.enough = False
                if not self.wanted():
                    raise Enough
                self.drop_unwanted()
                continue
            slot = self.due()
            if slot is None:
                return
            if slot.failed is not None:
                failed, envelope = slot.failed, slot.envelope
                slot.ended = ""
                slot.mark = await self.handle(self.step, envelope, failed.error, failed.attempts)
                slot.failed = None  # not before: a worker would take the slot for one to be given
            if slot.mark is not None:
                await self.pass_mark(slot.mark)
            self.leave(slot)

    def due(self) -> Slot | None:
        """Give the slot that has to be seen to before anything else can leave."""
        if self.ordered:
            head = self.window[0] if self.window else None
        else:
            head = self.ready[0] if self.ready else None
            if head is None and self.barrier is not None and len(self.window) == 1:
                head = self.barrier
        if head is None or head.out or not head.finished:
            return None
        return head

    def next_out(self) -> Slot | None:
        """Give the slot whose result waits for room."""
        line = self.window if self.ordered else self.ready
        return line[0] if line and line[0].out else None

    def leave(self, slot: Slot) -> None:
        """Take a slot out of the window: all that came of it has been given."""
        if self.ordered:
            self.window.popleft()
        else:
            self.window.remove(slot)
            if slot is self.barrier:
                self.barrier = None
            else:
                self.ready.popleft()
        if slot.envelope is not None:
            self.items -= 1
            if slot.ended == "done":
                self.step.tally.done += 1
            elif slot.ended == "filtered":
                self.step.tally.filtered += 1

    def advance(self) -> None:
        """Give results that are due, as far as that needs no waiting. Never waits."""
        put, tally = self.put, self.step.tally
        while True:
            line = self.window if self.ordered else self.ready
            if not line:
                break
            slot = line[0]
            out = slot.out
            try:
                while out:
                    if not put(out[0]):
                        self.needed = True
                        return
                    del out[0]
                    tally.given += 1
            except Enough:
                self.enough = self.needed = True
                return
            if slot.finished:
                if slot.mark is not None or slot.failed is not None:
                    self.needed = True
                    return
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

    def drop_unwanted(self) -> None:
        """Throw away results that nobody wants, while the failures are still wanted."""
        for slot in self.window:
            if slot.out:
                slot.out.clear()

    # -- taking up work -------------------------------------------------------------------------

    def may_take(self) -> bool:
        """Tell whether the window has room for another item."""
        return (
            self.items < self.room
            and self.barrier is None
            and len(self.window) < 2 * self.room + 16  # the same three questions as in `take`
        )

    def take(self) -> Slot | None:
        """Take up the next item, if there is one and the window has room; marks on the way too."""
        most = 2 * self.room + 16
        while self.items < self.room and self.barrier is None and len(self.window) < most:
            thing = self.inlet.take()
            if type(thing) is Envelope:
                slot = Slot(thing)
                self.window.append(slot)
                self.items += 1
                return slot
            if thing is EMPTY:
                return None
            self.take_mark(thing)
        return None

    def take_mark(self, mark: Mark) -> None:
        """Give a mark its place in the window."""
        slot = Slot(None, mark)
        self.window.append(slot)
        if self.ordered:
            self.needed = self.needed or self.window[0] is slot
        elif type(mark) is Barrier:
            self.barrier = slot
            self.needed = True
        else:
            self.ready.append(slot)
            self.needed = True

    def staff(self) -> None:
        """Put items to work, with idle workers first, with new ones while the width allows."""
        while self.idle or self.workers < self.width:
            slot = self.take()
            if slot is None:
                return
            self.begin_work()
            if self.idle:
                self.idle.pop().assign(slot)
            else:
                self.workers += 1
                worker = Worker(slot, self.frame.watch)
                worker.seen = self.seen
                self.group.start_soon(self.work, worker)

    def works(self) -> bool:
        return self.busy > 0 or super().works()

    def begin_work(self) -> None:
        """Count a worker that is at work; while there is one, the runner is alive."""
        self.busy += 1
        if self.busy == 1:
            self.frame.watch.enter()

    def end_work(self) -> None:
        """Count a worker that has nothing to do any more."""
        self.busy -= 1
        if self.busy == 0:
            self.begin_to_wait()
            self.frame.watch.leave()

    def begin_to_wait(self) -> None:
        """Note that no call is at work any more: if the coordinator waits for input, so do all."""
        if self.waits == "input":
            self.since = perf_counter()

    def discard(self) -> int:
        if self.busy:  # the workers on the loop are cancelled, some before their first step
            self.busy = 0
            self.begin_to_wait()
            self.frame.watch.tasks -= 1
        return super().discard()

    def forget(self) -> None:
        self._begin()

    def refresh(self) -> None:
        self.step.tally.taken = self.inlet.values_out

    def stale(self, seen: int) -> bool:
        """Tell whether what a worker has made since epoch `seen` comes too late to be given."""
        return self.closing or self.frame.cancelled or seen != self.frame.epoch.number

    # -- workers --------------------------------------------------------------------------------

    async def work(self, worker: Worker) -> None:
        """Process one item after the other, until there is none."""
        seen = worker.seen
        process = self.flat if self.is_flat else self.one
        end = 0.0
        try:
            while True:
                slot = worker.slot
                if slot is not None:
                    if seen != self.frame.epoch.number:
                        return  # it was interrupted before it had begun
                    if self.latest is not worker:  # another one has been at work
                        self.latest, end = worker, perf_counter() + LONGEST_TURN
                    elif perf_counter() > end:  # its function may never wait
                        await checkpoint()
                        if seen != self.frame.epoch.number:
                            return
                        end = perf_counter() + LONGEST_TURN
                    await process(slot)
                    if seen != self.frame.epoch.number:
                        return
                    slot.finished = True
                    if not self.ordered:
                        self.ready.append(slot)
                    self.advance()
                worker.slot = self.take()
                if worker.slot is None:
                    # While all were busy the coordinator did not listen at the inlet; now it must.
                    deaf = self.inlet.reader is None
                    self.needed = self.needed or deaf or self.over()
                    self.idle.append(worker)
                if self.needed:
                    self.bell.ring()
                if worker.slot is None:
                    slot = None  # or its item would live until the next one comes
                    self.end_work()
                    await worker.wait()
        except (Stopped, Flushed):
            return
        except get_cancelled_exc_class():
            await checkpoint_if_cancelled()
            self.fail_unasked()
            raise
        except Exception as error:
            self.frame.crash(error)

    async def one(self, slot: Slot) -> None:
        """Make the call for one item and note what came of it."""
        step, envelope = self.step, slot.envelope
        try:
            if step.simple and step.awaits:
                # The short way for an async function with no options of its own.
                working, value = step.tally.working, envelope.value
                began = perf_counter()
                working[slot] = (began, value)
                try:
                    result = await step.fn(value)
                    if type(result) is Sentinel:
                        raise sentinel_given(step.name)
                    if step.kind != "map":
                        step.plainly(result)
                        result = step.kind == "filter" and bool(result)
                except BaseException as raised:
                    raise CallFailed(await own_error(raised, self.frame, step.name), 1) from None
                finally:
                    del working[slot]
                    step.tally.calls.record(perf_counter() - began)
            else:
                result = await step.call(envelope)
            if step.kind == "map":
                envelope.value = result
            elif step.kind == "filter" and not result:
                slot.ended, slot.mark = "filtered", HOLE
                return
        except CallFailed as failed:
            self.note_failed(slot, failed)
            return
        slot.out = [envelope.value if self.is_plain else envelope]

    def child(self, envelope: Envelope, value: Any) -> Any:
        """Make of a value that came of an item what can be given."""
        return value if self.is_plain else envelope.child(value)

    def note_failed(self, slot: Slot, failed: CallFailed) -> None:
        """Keep a failure for the slot's turn; one that ends the run does so at once."""
        if self.seen != self.frame.epoch.number:
            tell_late(self.step.name, failed.error)
            return
        if self.raises:
            self.fail_now(slot.envelope.value, failed)
        slot.failed = failed

    def fail_now(self, item: Any, failed: CallFailed) -> None:
        """End the run with a failure.

        Raises:
            Stopped: always.
        """
        self.step.tally.failed += 1
        self.frame.fail(Failure(self.step.name, item, failed.error, failed.attempts))
        raise Stopped

    async def flat(self, slot: Slot) -> None:
        """Read what a `flat_map` makes of one item, no faster than it is given on."""
        step, envelope, seen = self.step, slot.envelope, self.seen
        item, context, hooks = envelope.value, envelope.context, self.step.hooks
        if hooks is not None:
            await hooks.before(item, context)
            self.frame.epoch.check(seen)
        failures = 0
        slot.out = deque()
        error: BaseException | None = None
        end = perf_counter() + LONGEST_TURN
        while True:
            source = None
            try:
                source = await open_values(step, envelope)
                while (value := await pull(step, source, envelope)) is not DONE:
                    slot.count += 1
                    await self.offer(slot, (self.child(envelope, value),), seen)
                    if perf_counter() > end:  # one item may give values without end
                        await checkpoint()
                        end = perf_counter() + LONGEST_TURN
                break
            except CallFailed as failed:
                self.check_failed(step.name, failed.error)
                failures += 1
                retry = step.options.retry
                again = retry is not None and retry.again(failed.error, failures)
                if slot.count or not again or retry is None:
                    error = failed.error
                    break
                step.tally.retries += 1
                await sleep(retry.wait(failures))
                self.frame.epoch.check(seen)
            finally:
                if source is not None and not source.closed:
                    await close_values(step, source, item)
        if hooks is not None:
            self.check_failed(step.name, error)
            await hooks.after(item, slot.count if error is None else None, error, context)
        if error is not None:
            self.note_failed(slot, CallFailed(error, failures))

    async def offer(self, slot: Slot, values: Sequence[Any], seen: int) -> None:
        """Give values of a slot that has more to come, and wait until they are given."""
        if self.stale(seen) or slot.out is None:
            raise Flushed
        slot.out.extend(values)
        if not self.ordered:
            self.ready.append(slot)
        self.advance()
        if self.needed:
            self.bell.ring()
        if slot.out:
            slot.taken = taken = Event()
            self.end_work()
            await taken.wait()
            if self.stale(seen):
                raise Flushed


class Worker:
    """One long-lived task of a pool."""

    __slots__ = ("_make_wake", "_wake", "seen", "slot")

    def __init__(self, slot: Slot | None, watch: Watch) -> None:
        self.slot = slot
        self.seen = 0
        self._make_wake = watch.make_wake
        self._wake: Wake | None = None

    def assign(self, slot: Slot | None) -> None:
        """Wake it with an item."""
        self.slot = slot
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    async def wait(self) -> None:
        """Wait to be given an item."""
        self._wake = wake = self._make_wake()
        await wake
