"""What every runner is, and what a run gives its runners.

A runner owns one task: it takes from its inlets, works, gives to its outlets. Its life is a loop of
epochs. `serve` is the work of one epoch, with its state in local variables or in what it sets up
anew, so that beginning afresh after an interrupt is nothing but calling it again.

How `serve` ends:

=====================  ====================================================================
returns                the input is done and everything is given: the outlets end
`Enough`               nobody wants more: the inlets finish, the outlets end
`Flushed`, cancelled   the epoch is over: `serve` is called again
`Stopped`              the failure is reported; nothing is concluded, cancellation follows
=====================  ====================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol

from anyio import CancelScope, Event, get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled

from .._envelope import HOLE, Barrier, Envelope, Failure, Fault, Mark, Sentinel
from .._epoch import Epoch, Flushed
from .._errors import StageError, StageTimeout, exit_in, is_cancellation, safe_repr
from .._policies import OnError
from .._stages import MAIN, CallStage, Stage
from .._stats import Tally
from .._watch import Bell, Watch
from .._wires import Edge, Enough, Outlet, wait_any

logger = logging.getLogger("flowstage")

LONGEST_TURN = 0.001
"""Seconds a loop over an edge may run before it lets other tasks have a turn."""
MOST_IN_A_TURN = 256
"""Items after which it does so in any case."""


LONGEST_HOLD = 0.1
"""Seconds for which a plain function may keep the event loop to itself before it is named."""


class Stopped(Exception):
    """The run is failing; whoever meets this concludes nothing."""


class Frame(Protocol):
    """What a run gives its runners."""

    epoch: Epoch
    watch: Watch
    ready: Event
    on_error: OnError
    contextual: bool
    plain: bool
    runners: list[Runner]
    timing: bool
    observers: Sequence[Any]
    close_timeout: float
    cancelled: bool

    @property
    def why(self) -> BaseException | None:
        """What the run has failed with."""
        ...

    def fail(self, failure: Failure) -> None:
        """Report the failure that ends the run; cancellation follows."""

    def crash(self, error: BaseException) -> None:
        """Carry an exception that is no stage's failure to the run's host, to be raised bare."""

    def note_wait(self, ticket: Any) -> None:
        """Learn that somebody begins to wait to send: it may be a call of this very run."""

    def note(self, failure: Failure) -> None:
        """Record a failure that was handled."""

    def begin_task(self, owner: object) -> int:
        """Note that the current task begins, and whose work it does; give its id."""
        ...

    def end_task(self, task: int) -> None:
        """Note that a task ends."""

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Start a task of the run and count it; it says `watch.leave()` when it ends."""

    def spawn_uncounted(self, work: Callable[[], Awaitable[None]]) -> None:
        """Start a task that is alive only while its runner says so."""

    def envelope(self, item: Any, context: Any = None) -> Envelope:
        """Put an item that enters into an envelope."""
        ...

    def joined(self, value: Any, parts: Sequence[Envelope], *, merge: bool = False) -> Envelope:
        """Put what was made of several items into an envelope."""
        ...

    def begun(self) -> None:
        """Note that a runner has begun; sources are opened when all have."""

    def line_up(self, sentinel: Sentinel[Any]) -> object:
        """Give a sentinel its number, and its place in the line of every open entry."""


class Step:
    """One stage as a runner has it: its description, its account, its branch for failures."""

    __slots__ = ("failures", "name", "stage", "tally")

    def __init__(self, stage: Stage, tally: Tally, failures: Outlet | None) -> None:
        self.stage = stage
        self.name = tally.name
        self.tally = tally
        self.failures = failures

    def held(
        self, seconds: float, remedy: str = "run it in a thread, with on=Threads(...)"
    ) -> None:
        """Tell that the stage has kept the event loop to itself, once a run."""
        if not self.tally.held_loop:
            logger.warning(
                "stage %r held the event loop for %.1f s, and nothing else could move meanwhile; %s",
                self.name,
                seconds,
                remedy,
            )
        self.tally.held_loop = max(self.tally.held_loop, seconds)


class Runner:
    """One task of a run.

    Attributes:
        steps: its stages, upstream first; most runners have one.
        exits: all its outlets, those for failures last.
        seen: the epoch it works for.
        waits: what it waits for now, for `explain`: "input", "output", "sends" or nothing.
        since: when that wait began.
    """

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
    ) -> None:
        self.frame = frame
        self.steps = list(steps)
        self.inlets = list(inlets)
        self.outlets = dict(outlets)
        dead_letters = (step.failures for step in steps if step.failures is not None)
        self.exits = (*self.outlets.values(), *dead_letters)
        self.bell = Bell(frame.watch)
        self.seen = 0
        self.waits = ""
        self.waits_at: Sequence[Edge] = ()
        self.since = 0.0
        self.woke = 0.0  # when its last wait or rest was over
        self.started: float | None = None
        self.ended: float | None = None
        self.scope: CancelScope | None = None
        for edge in self.edges_below():
            edge.on_finish = self.released

    # -- life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live, and conclude: by the end of it, or by what has ended the run."""
        frame = self.frame
        task = frame.begin_task(self)
        self.started = perf_counter()
        try:
            await self.live()
            self.conclude()
        except Stopped:
            pass
        except get_cancelled_exc_class():
            if not frame.cancelled:
                await checkpoint_if_cancelled()
                self.fail_unasked()
            raise
        except BaseException as error:
            frame.crash(error)
        finally:
            self.retire()
            frame.end_task(task)

    async def live(self) -> None:
        """Work, epoch by epoch, until the input ends or nobody wants more."""
        frame = self.frame
        frame.begun()
        while self.wanted():  # it may have ceased to be before there was a scope to cancel
            self.seen = frame.epoch.number
            with frame.epoch.work() as self.scope:
                try:
                    await self.serve()
                except Flushed:
                    continue
                except Enough:
                    pass
                break

    def retire(self) -> None:
        """Leave the tasks of the run."""
        self.ended = perf_counter()
        self.frame.watch.leave()

    async def serve(self) -> None:
        """Do the work of one epoch."""
        raise NotImplementedError

    def conclude(self) -> None:
        """Pass on that nothing more comes from here, and that nothing more is wanted."""
        self.discard()
        for inlet in self.inlets:
            inlet.finish()
        for outlet in self.exits:
            outlet.end()

    def released(self) -> None:
        """Stop when nobody is left who wants what goes out here: work in flight is cancelled."""
        if self.scope is not None and not self.wanted():
            self.scope.cancel()
            self.bell.ring()  # it can move now, so it must not seem parked

    def fail_unasked(self) -> None:
        """Report that this runner's task was cancelled by somebody outside the run."""
        error = StageError(f"the task of stage {self.steps[0].name!r} was cancelled from outside")
        self.frame.fail(Failure(self.steps[0].name, None, error, 1))

    def refresh(self) -> None:
        """Bring the tallies up to date, where they are derived from the edges."""

    def discard(self) -> int:
        """Settle the account of an epoch that is over: what is in hand is discarded."""
        self.refresh()
        return sum(step.tally.let_go() for step in self.steps)

    def forget(self) -> None:
        """Keep nothing of what it held: the run is over, and may be kept for its report."""

    def wanted(self) -> bool:
        """Tell whether anybody still wants what goes out here."""
        return any(outlet.open for outlet in self.exits)

    def edges_below(self) -> list[Edge]:
        """Give every edge that leaves it."""
        return [edge for outlet in self.exits for edge in outlet.edges]

    @property
    def name(self) -> str:
        """The name of its first stage."""
        return self.steps[0].name

    def at_work(self) -> list[tuple[float, Any]]:
        """Give the calls under way: when each began, and with what item."""
        return [entry for step in self.steps for entry in step.tally.working.values()]

    def works(self) -> bool:
        """Tell whether any of its calls is under way, or a worker of its own is at work."""
        return bool(self.at_work())

    def untimed(self) -> tuple[Tally, float] | None:
        """Give the stage that is in a call which nobody times, and since when at the latest."""
        return None

    def moves(self) -> bool:
        """Tell whether it can move by itself, or is in user code that may."""
        if self.started is None or self.ended is not None:
            return False
        return self.bell.event is None or bool(self.at_work())

    def on_want(self) -> Sequence[Edge]:
        """Learn that somebody downstream is ready to begin reading; give what is wanted above."""
        return self.inlets

    def dismiss(self) -> None:
        """Let go of user code that waits here and cannot be cancelled: the run is."""

    def hold_back(self) -> None:
        """Wait to be wanted; only a source and a `concat` have anything to hold back."""

    # -- waiting --------------------------------------------------------------------------------

    def check(self) -> None:
        """Let go of the work of an older epoch."""
        if self.seen != self.frame.epoch.number:
            raise Flushed

    def check_failed(self, name: str, error: BaseException | None) -> None:
        """Let go of a call of an older epoch that failed, but not of its error without a word."""
        check_failed(self.frame, self.seen, name, error)

    async def wait_item(self, inlets: Sequence[Edge] | None = None) -> None:
        """Wait until an inlet may have something or has ended."""
        if inlets is None:
            inlets = self.inlets
        self.since = began = perf_counter()
        self.waits, self.waits_at = "input", inlets
        try:
            if len(inlets) == 1:  # the usual case, without another coroutine in between
                (edge,) = inlets
                if not edge.total - edge.taken - edge.flushed:
                    bell = edge.reader = self.bell
                    if edge.announces:
                        edge.ring_writer()
                    wake = bell.begin()
                    try:
                        await wake
                    finally:
                        edge.reader = None
                        if bell.event is wake:
                            bell.give_up()
            else:
                await wait_any(inlets, self.bell)
        finally:
            self.waits = ""
            self.woke = perf_counter()
            self.steps[0].tally.waiting += self.woke - began
        if self.seen != self.frame.epoch.number:
            raise Flushed

    async def wait_room(self, outlet: Outlet, thing: Any) -> None:
        """Wait until an outlet may have room for a thing; afterwards `woke` is the time."""
        self.since = began = perf_counter()
        self.waits, self.waits_at = "output", outlet.edges
        edge = outlet.sole
        try:
            if edge is None:
                await outlet.wait_room(thing, self.bell)
            elif not (edge.finished or edge.room(thing)):  # without another coroutine in between
                bell = edge.writer = self.bell
                wake = bell.begin()
                try:
                    await wake
                finally:
                    if edge.writer is bell:
                        edge.writer = None
                    if bell.event is wake:
                        bell.give_up()
        finally:
            self.waits = ""
            self.woke = perf_counter()
            self.steps[-1].tally.blocked += self.woke - began
        self.check()

    # -- giving ---------------------------------------------------------------------------------

    async def give(self, thing: Envelope, outlet: Outlet) -> bool:
        """Give an item; tell whether anybody took it.

        Raises:
            Enough: nobody wants anything that goes out of this runner.
        """
        try:
            while not outlet.put(thing):
                await self.wait_room(outlet, thing)
        except Enough:
            if not self.wanted():
                raise
            return False
        return True

    async def give_mark(self, mark: Mark, outlet: Outlet) -> bool:
        """Give what is no item, on one outlet; tell whether anybody took it."""
        try:
            while not outlet.put_mark(mark):
                await self.wait_room(outlet, mark)
        except Enough:
            if not self.wanted():
                raise
            return False
        return True

    async def pass_mark(self, mark: Mark) -> None:
        """Pass on what is not processed: a barrier everywhere, a fault or a hole on its way."""
        if type(mark) is Barrier:
            for outlet in self.exits:
                await self.give_mark(mark, outlet)
            return
        if type(mark) is Fault:
            # A fan-out keeps a failure on its first open branch; everybody else has one outlet.
            for outlet in self.outlets.values():
                if outlet.open and not outlet.ended and await self.give_mark(mark, outlet):
                    return
            return
        await self.give_mark(mark, self.outlets[MAIN])

    # -- failing --------------------------------------------------------------------------------

    async def handle(
        self, step: Step, envelope: Envelope, error: BaseException, attempts: int = 1
    ) -> Mark:
        """Deal with an item that failed, as its stage or the run says.

        As data a failure goes on with a copy of the item's context, like any further branch.

        Returns:
            what takes the item's place: a `Fault`, or the hole that a skipped item leaves.

        Raises:
            Stopped: the failure ends the run.
        """
        item = envelope.value
        failure = Failure(step.name, item, error, attempts)
        policy = policy_of(step.stage, self.frame)
        if policy == "raise":
            step.tally.failed += 1
            self.frame.fail(failure)
            raise Stopped
        if step.failures is not None:
            await self.give(envelope.child(failure), step.failures)
        self.frame.note(failure)
        if policy == "emit":
            step.tally.failed += 1
            return Fault(failure)
        step.tally.skipped += 1
        level = logging.WARNING if step.failures is None else logging.DEBUG  # somebody reads them
        logger.log(level, "stage %r skipped %s: %s", step.name, safe_repr(item), safe_repr(error))
        return HOLE


def check_failed(frame: Frame, seen: int, name: str, error: BaseException | None) -> None:
    """Let go of a call that was begun in an older epoch and failed, as in its cleanup.

    Raises:
        Flushed: `seen` is not the running epoch's.
    """
    if seen != frame.epoch.number:
        if error is not None:
            tell_late(name, error)
        raise Flushed


def tell_late(name: str, error: BaseException) -> None:
    """Log what is no failure of an item any more, since the item has been let go."""
    if isinstance(error, StageTimeout):
        return  # the call was told to stop, and that is what came of it
    logger.warning(
        "stage %r raised %s after its item had been let go",
        name,
        safe_repr(error),
        exc_info=error,
    )


def policy_of(stage: Stage, frame: Frame) -> OnError:
    """Give the error policy that holds for a stage."""
    if isinstance(stage, CallStage):
        return stage.options.on_error or frame.on_error
    own: OnError | None = getattr(stage, "on_error", None)
    return own or (frame.on_error if hasattr(stage, "on_error") else "raise")


async def own_error(error: BaseException, frame: Frame, name: str) -> BaseException:
    """Tell an error of user code from a cancellation of the run: the guard of every call.

    Returns:
        the error that the call failed with. A cancellation that nobody asked for becomes a
        `StageError`: left alone, the task group would swallow it and the run would end as if all
        were well (anyio #374).

    Raises:
        Stopped: `KeyboardInterrupt` or `SystemExit`, which the run's host raises bare, also when
            a task group has wrapped them.
        BaseException: the cancellation, when a scope of ours was cancelled.
    """
    if exit_in(error) is not None:
        frame.crash(error)
        raise Stopped from error
    if isinstance(error, BaseExceptionGroup):  # a task group beside whose error it was cancelled
        error = error.split(get_cancelled_exc_class())[1] or error
    if is_cancellation(error):
        await checkpoint_if_cancelled()
        unasked = StageError(
            f"stage {name!r} was cancelled from inside: its function raised "
            f"{type(error).__name__}, or awaited something that was cancelled"
        )
        unasked.__cause__ = error
        return unasked
    cause = error.__cause__
    if isinstance(cause, StopIteration) and str(error) == "coroutine raised StopIteration":
        error = cause  # what Python made a RuntimeError of at the edge of a coroutine
    if isinstance(error, StopIteration):
        stopped = StageError(
            f"stage {name!r} raised StopIteration, which no coroutine and no generator can pass on"
        )
        stopped.__cause__ = error
        return stopped
    return error
