"""A live graph: its task group, its edges and runners, and everything that concerns all of them.

`Live` is what `Run` and `Output` are doors to. It is made for one `async with` block, builds the
runners of a plan, gives them what they need (it is their `Frame`), and takes them down: cancels,
waits until no task or thread is left, closes the streams, settles the accounts.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Hashable,
    Mapping,
    MutableSequence,
    Sequence,
)
from contextlib import suppress
from contextvars import ContextVar
from operator import itemgetter
from threading import get_ident
from time import perf_counter
from types import CodeType
from typing import Any

from anyio import (
    CancelScope,
    Event,
    create_task_group,
    get_current_task,
    move_on_after,
    sleep,
)
from anyio.abc import TaskGroup

from ._clock import Times
from ._engine import EntryRunner, Runner, SourceRunner, ThreadSourceRunner, runner_for
from ._engine.call import CallStep
from ._engine.join import ConcatRunner
from ._engine.line import Ticket
from ._engine.runner import Step
from ._envelope import Barrier, Envelope, Failure, Sentinel
from ._epoch import Epoch
from ._errors import BufferOverflow, DeadlockError, exit_in, note_failure, note_later, safe_repr
from ._late import held_up
from ._plan import Plan, PlannedEdge, is_chained
from ._policies import OnError
from ._report import FailureRecord
from ._stages import FAILED, MAIN, CallStage, MapStage, SourceStage, code_of, function_of
from ._stats import Tally
from ._still import Stillness
from ._topology import Node, Topology
from ._watch import Doorbell, Watch
from ._wires import KINDS, Edge, Outlet, Overflowing, Poured, Rendezvous, timed

logger = logging.getLogger("flowstage")

KEPT_FAILURES = 500

_inside: ContextVar[object] = ContextVar("flowstage.inside", default=None)
"""Stands for the run whose task this is, or a task or thread that its functions have started."""


class Live:
    """The inside of a run."""

    def __init__(
        self,
        topology: Topology,
        plan: Plan,
        sources: Mapping[Node, Any],
        *,
        on_error: OnError,
        timing: bool,
        observers: Sequence[Any],
        context: Mapping[str, Any] | None,
        close_timeout: float,
        pour: Sequence[MutableSequence[Any]] | None = None,
    ) -> None:
        self.topology, self.plan = topology, plan
        self.pour = pour  # where all that comes out at each end goes at once, if it is not read
        self.on_error: OnError = on_error
        self.timing = timing
        self.times = Times() if timing else None
        self.observers = observers
        self.context = context
        self.close_timeout = close_timeout
        self.contextual = bool(observers) or any(
            isinstance(node.stage, CallStage) and node.stage.options.pass_context
            for node in topology.nodes
        )
        self.plain = not (self.contextual or timing)
        self.epoch = Epoch()
        self.watch = Watch()
        self.stillness = Stillness(self)
        self.ready = Event()
        self.group: TaskGroup = create_task_group()
        self.cancelled = self.closed = self.expired = False
        self.thread = 0
        self.token = object()
        self.deadline: CancelScope | None = None
        self.failure: Failure | None = None
        self.crashed: BaseException | None = None
        self.first_failures: list[FailureRecord] = []
        self.last_failures: list[FailureRecord] = []
        self.failed = 0
        self.last_skipped: BaseException | None = None
        self.interrupts = 0
        self.numbers = itertools.count()
        self.tasks: dict[int, Any] = {}  # those alive, by id, and whose work each of them does
        self.gone: Event | None = None
        self.opened = perf_counter()
        self.elapsed: float | None = None
        self.tallies = {node: Tally(topology.names[node]) for node in topology.nodes}
        self.edges: dict[PlannedEdge, Edge] = {}
        self.ends: list[Edge] = []
        self.end_bells: list[Doorbell] = []
        self.runners: list[Runner] = []
        self.entries: dict[Node, EntryRunner] = {}
        self._build(sources)
        self._to_begin = sum(not isinstance(r, SourceRunner) for r in self.runners)

    # -- building -------------------------------------------------------------------------------

    def _build(self, sources: Mapping[Node, Any]) -> None:
        into: dict[Node, dict[int, Edge]] = {}
        out_of: dict[tuple[Node, Hashable], list[Edge]] = {}
        names, ends = self.topology.names, list(self.topology.ends)
        end_edges: dict[int, Edge] = {}
        for planned in self.plan.edges:
            target = ends[planned.slot] if planned.target is None else names[planned.target]
            edge = self._make_edge(planned, names[planned.source.node], target)
            self.edges[planned] = edge
            out_of.setdefault((planned.source.node, planned.source.key), []).append(edge)
            if planned.target is None:
                end_edges[planned.slot] = edge
            else:
                into.setdefault(planned.target, {})[planned.slot] = edge
        self.ends = [end_edges[number] for number in range(len(ends))]
        self.end_bells = [Doorbell(self.watch) for _ in self.ends]
        for task in self.plan.tasks:
            self._make_runner(task, into, out_of, sources)
        self._hold_back()

    def _make_edge(self, planned: PlannedEdge, source: str, target: str) -> Edge:
        kind = KINDS[planned.overflow] if planned.capacity else Rendezvous
        into = None
        if self.pour is not None and planned.target is None and planned.overflow == "block":
            kind, into = Poured, self.pour[planned.slot]
        if self.times is not None and not self._stamps(planned):
            kind = timed(kind)
        edge = kind(source, target, planned.capacity, aligned=planned.edge.aligned)
        edge.is_entry = not planned.source.node.upstream
        if planned.target is None:
            edge.clocks = self.times
        if isinstance(edge, Poured) and into is not None:
            edge.into = into
        if isinstance(edge, Overflowing):
            node = planned.buffer or planned.target
            name = target if node is None else self.topology.names[node]

            def overflow(item: Any) -> None:
                error = BufferOverflow(
                    f"buffer {name!r} is full ({planned.capacity} items), and its overflow is "
                    '"error"'
                )
                self.fail(Failure(name, item, error, 1))

            edge.on_overflow = overflow
        return edge

    def _stamps(self, planned: PlannedEdge) -> bool:
        """Tell whether the task that fills an edge keeps the clocks itself: see `Chain.keeps_time`."""
        node = planned.source.node
        if not node.upstream and len(self.topology.out_of(planned.source)) == 1:
            # see `SourceRunner`; at an end it is the edge that knows what to do with a clock
            is_end = planned.target is None
            return planned.capacity > 0 and planned.overflow == "block" and not is_end
        if planned.capacity == 0 or planned.overflow != "block" or self.contextual:
            return False
        if planned.source.key != MAIN or len(self.topology.out_of(planned.source)) != 1:
            return False
        task = next(task for task in self.plan.tasks if node in task)
        return all(
            isinstance(member.stage, MapStage) and is_chained(member) and member.stage.options.bare
            for member in task
        )

    def _make_runner(
        self,
        task: tuple[Node, ...],
        into: Mapping[Node, Mapping[int, Edge]],
        out_of: Mapping[tuple[Node, Hashable], list[Edge]],
        sources: Mapping[Node, Any],
    ) -> None:
        steps = [self._make_step(node, out_of) for node in task]
        inlets = [edge for _, edge in sorted(into.get(task[0], {}).items())]
        last = task[-1]
        outlets = {
            port.key: Outlet(out_of.get((last, port.key), ()))
            for port in self.topology.ports(last)
            if port.key != FAILED
        }
        head = task[0].stage
        runner: Runner
        if isinstance(head, SourceStage) and head.on is not None:
            runner = ThreadSourceRunner(self, steps, inlets, outlets, head.items, head.on)
        elif isinstance(head, SourceStage):
            runner = SourceRunner(self, steps, inlets, outlets, head.items)
        elif task[0] in sources:
            runner = SourceRunner(self, steps, inlets, outlets, sources[task[0]])
        else:
            runner = runner_for(head, self, outlets.get(MAIN))(self, steps, inlets, outlets)
        self.runners.append(runner)
        if isinstance(runner, EntryRunner):
            self.entries[task[0]] = runner

    def _make_step(self, node: Node, out_of: Mapping[tuple[Node, Hashable], list[Edge]]) -> Step:
        edges = out_of.get((node, FAILED))
        failures = Outlet(edges) if edges else None
        if isinstance(node.stage, CallStage):
            return CallStep(self, node.stage, self.tallies[node], failures)
        return Step(node.stage, self.tallies[node], failures)

    def _hold_back(self) -> None:
        """Keep sources closed that only a later input of a `concat` reads."""
        self.concats = [runner for runner in self.runners if isinstance(runner, ConcatRunner)]
        unwanted: set[Edge] = set()
        for concat in self.concats:
            unwanted.update(concat.inlets[1:])
        for runner in reversed(self.runners):
            edges = runner.edges_below()
            for edge in edges:
                edge.on_want = runner.on_want
            if edges and all(edge in unwanted for edge in edges):
                unwanted.update(runner.inlets)
                runner.hold_back()
        for edge in unwanted:
            edge.wanted = False

    # -- what runners ask for -------------------------------------------------------------------

    @property
    def why(self) -> BaseException | None:
        """What the run has failed with."""
        return self.crashed if self.failure is None else self.failure.error

    def begun(self) -> None:
        """Note that a runner has begun; when all have, the sources are opened."""
        self._to_begin -= 1
        if self._to_begin <= 0:
            self.ready.set()

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Start a task and count it; it says `watch.leave()` when it ends."""
        self.watch.enter()
        self.spawn_uncounted(work)

    def spawn_uncounted(self, work: Callable[[], Awaitable[None]]) -> None:
        """Start a task that is alive only while its runner says so."""
        self.group.start_soon(self._task, work, name=f"flowstage {_name(work)}")

    async def _task(self, work: Callable[[], Awaitable[None]]) -> None:
        task = self.begin_task(_owner(work))
        try:
            await work()
        finally:
            self.end_task(task)

    def begin_task(self, owner: object) -> int:
        """Note that the current task begins, and whose work it does; give its id.

        It says so itself, in its first step: asyncio.run() may cancel a task that has not begun, and
        whoever counts it already would wait for it in vain.
        """
        task = get_current_task().id
        self.tasks[task] = owner
        _inside.set(self.token)
        return task

    def end_task(self, task: int) -> None:
        """Note that a task ends."""
        del self.tasks[task]
        if not self.tasks and self.gone is not None:
            self.gone.set()

    def note_wait(self, ticket: Ticket) -> None:
        """Learn that somebody begins to wait to send: it may be a call of this very run."""
        if _inside.get() is self.token:
            self.stillness.look_after(ticket)

    def fail(self, failure: Failure) -> None:
        """Take note of a failure that ends the run; the first one is its root cause."""
        self._record(failure, handled=False)
        if self.failure is None and self.crashed is None:
            note_failure(failure, self._code_of(failure))
            self.failure = failure
        elif self.failure is not None:
            note_later(self.failure.error, failure)
        self.cancel()

    def _code_of(self, failure: Failure) -> CodeType | None:
        """Give the code of the function that a failure is about, if it is about one."""
        if isinstance(failure.error, DeadlockError):  # it names one of those that wait
            return None
        names = self.topology.names.items()
        stage = next((node.stage for node, name in names if name == failure.stage), None)
        return None if stage is None else code_of(function_of(stage))

    def crash(self, error: BaseException) -> None:
        """Carry an exception that is no stage's failure to the host, to be raised there bare."""
        if self.crashed is None:
            exit_ = exit_in(error)
            self.crashed = error if exit_ is None else exit_
        self.cancel()

    def cancel(self) -> None:
        """Cancel everything, the body of the block too."""
        self.cancelled = True
        self.group.cancel_scope.cancel()
        self._dismiss()

    def _dismiss(self) -> None:
        """Let go of those who wait for this run in tasks that it cannot cancel.

        The block waits for its threads; one of them may wait for a send that it has asked the event
        loop for, and on trio that is a task of no scope of ours. A reader may be outside as well, and
        the function of a transform may have shielded itself.
        """
        for entry in self.entries.values():
            entry.line.closed = True
            entry.line.refuse_all()
        for bell in self.end_bells:
            bell.ring()
        for runner in self.runners:
            runner.dismiss()

    def note(self, failure: Failure) -> None:
        """Record a failure that was handled."""
        self._record(failure, handled=True)
        self.last_skipped = failure.error

    def _record(self, failure: Failure, *, handled: bool) -> None:
        self.failed += 1
        error = failure.error
        text = f"{type(error).__name__}: {error}" if _printable(error) else safe_repr(error)
        record = FailureRecord(
            failure.stage, safe_repr(failure.item), text, failure.attempts, handled
        )
        if len(self.first_failures) < KEPT_FAILURES:
            self.first_failures.append(record)
            return
        self.last_failures.append(record)
        if len(self.last_failures) > KEPT_FAILURES:
            del self.last_failures[0]

    def envelope(self, item: Any, context: Any = None) -> Envelope:
        """Put an item that enters into an envelope."""
        if self.plain:
            return Envelope(item)
        if context is None and self.contextual:
            context = dict(self.context or ())
        return Envelope(item, context, [perf_counter()] if self.timing else None)

    def joined(self, value: Any, parts: Sequence[Envelope], *, merge: bool = False) -> Envelope:
        """Put what was made of several items into an envelope."""
        if self.plain:
            return Envelope(value)
        context = None
        if self.contextual:
            context = dict(self.context or ())
            if merge:
                context = {}
                for part in parts:
                    context.update(part.context or ())
        if not self.timing:
            return Envelope(value, context)
        clocks = [part.clock for part in parts if part.clock is not None]
        if not clocks:
            return Envelope(value, context, [perf_counter()])  # of no item: it enters here
        return Envelope(value, context, min(clocks, key=itemgetter(0)).copy())

    # -- sentinels ------------------------------------------------------------------------------

    def line_up(self, sentinel: Sentinel[Any]) -> list[tuple[EntryRunner, Ticket]]:
        """Give a sentinel its number, and its place in the line of every open entry."""
        barrier = Barrier(sentinel, next(self.numbers))
        passed = min((concat.passed for concat in self.concats), default=-1)
        places = [entry for entry in self.entries.values() if entry.takes_sentinels()]
        for place in places:
            if place.gated:
                place.line.drop_passed(passed)
        return [(place, place.line.join(barrier)) for place in places]

    # -- interrupt ------------------------------------------------------------------------------

    def interrupt(self) -> int:
        """Discard everything inside and begin the next epoch; give the number of items."""
        if self.closed or self.cancelled:
            return 0
        self.interrupts += 1
        return self._discard()

    def _discard(self, keep: Collection[Edge] = ()) -> int:
        """Discard what is inside, but for some edges, and begin the next epoch."""
        count = sum(runner.discard() for runner in self.runners)
        flushed = (e for e in self.edges.values() if not e.finished and e not in keep)
        count += sum(edge.flush() for edge in flushed)
        self.epoch.advance()
        for runner in self.runners:
            runner.bell.ring()  # its scope is cancelled, so it can move: it must not seem parked
        return count

    def check_thread(self, call: str) -> None:
        """Refuse what would half happen: waking a task works in the event loop's thread only.

        Raises:
            RuntimeError: this is another thread.
        """
        if get_ident() != self.thread:
            raise RuntimeError(
                f"{call}() was called in a thread that is not the event loop's; there, use "
                f"anyio.from_thread.run_sync({call})"
            )

    async def expire_after(self, seconds: float) -> None:
        """Let the outputs end in so many seconds, whatever is inside then; instead of an earlier time.

        A task of the body is not cancelled: it may have nothing to do with this run.
        """
        if self.deadline is not None:
            self.deadline.cancel()
        with CancelScope() as self.deadline:
            await sleep(seconds)
            if self.cancelled or all(edge.finished or edge.ended for edge in self.ends):
                return
            whole = {edge for edge in self.ends if edge.ended}  # all that is to come is there
            count = self._discard(keep=whole)
            self.expired = True
            for edge in self.ends:
                if edge not in whole:
                    edge.finish()
            if count:
                logger.warning(
                    "the time of run.stop(timeout=%s) was over with %d accepted items inside; "
                    "they were discarded",
                    seconds,
                    count,
                )

    # -- life -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start the tasks, consumers first."""
        self.thread = get_ident()
        await self.group.__aenter__()
        self.watch.on_still = self.stillness.look
        for runner in reversed(self.runners):
            self.watch.enter()
            # Not through `_task`: whatever wakes a runner would pass through one more coroutine.
            self.group.start_soon(runner.run, name=f"flowstage {runner.name}")
        if self._to_begin == 0:
            self.ready.set()

    async def close(self, raised: BaseException | None) -> bool:
        """Cancel, wait until nothing is left, close the streams, settle the accounts.

        Args:
            raised: a cancellation that the task group has to look at, or nothing.

        Returns:
            whether that cancellation was this run's own.
        """
        self.watch.on_still = None
        self.cancelled = True
        self.group.cancel_scope.cancel()
        self._dismiss()
        try:
            try:
                await self._wait_gone()
            except BaseException as error:  # a native cancellation during the wait
                raised = error
            exit_ = self.group.__aexit__
            return bool(await exit_(None if raised is None else type(raised), raised, None))
        except BaseExceptionGroup as group:
            if exit_in(group) is None:
                raise
            if self.crashed is None:
                self.crashed = exit_in(group)
            return False
        finally:
            self.settle()

    async def _wait_gone(self) -> None:
        """Wait for the tasks to end; warn of those that take long."""
        if not self.tasks:
            return
        self.gone = Event()
        with CancelScope(shield=True), move_on_after(self.close_timeout):
            await self.gone.wait()
            return
        with suppress(Exception):  # it looks into the user's objects, and is only a help
            for text in held_up(self):
                logger.warning("%s", text)

    def settle(self) -> None:
        """Close every stream and count what was still inside as discarded."""
        if self.closed:
            return
        self.elapsed = perf_counter() - self.opened
        for runner in self.runners:
            runner.discard()
            runner.forget()
        for edge in self.edges.values():
            edge.close()
        self.closed = True

    def wanted_inside(self) -> int:
        """Give the number of items inside now, unless every reader has had its fill."""
        if all(edge.finished or (edge.ended and not edge.used) for edge in self.ends):
            return 0
        return self.inside()

    def inside(self) -> int:
        """Give the number of items inside now."""
        for runner in self.runners:
            runner.refresh()
        in_hand = sum(tally.in_hand for tally in self.tallies.values())
        return in_hand + sum(edge.inside for edge in self.edges.values())

    def warn_discarded(self, count: int) -> None:
        """Log that the block was left while items were still inside."""
        logger.warning(
            "the run was left with %d accepted items inside; they were discarded (read to the end to "
            "have them, or call run.drain() to have them processed)",
            count,
        )


def _printable(error: BaseException) -> bool:
    try:
        str(error)
    except Exception:
        return False
    return True


def _owner(work: Any) -> Any:
    """Give the object whose method some work is."""
    return getattr(getattr(work, "func", work), "__self__", None)


def _name(work: Any) -> str:
    return getattr(_owner(work), "name", "task")
