"""The doors of a live graph: send, sentinel, finish, interrupt, stop, read, report, explain."""

from __future__ import annotations

from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Iterable,
    MutableMapping,
    MutableSequence,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, Never, Protocol, TypeVar, overload

from anyio import (
    BusyResourceError,
    WouldBlock,
    create_task_group,
    get_cancelled_exc_class,
    get_current_task,
)
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from ._account import report_of
from ._engine import InputRunner
from ._engine.line import Ticket
from ._engine.values import read
from ._envelope import Envelope, Failure, Sentinel
from ._errors import ClosedError, GraphError, exit_in, safe_repr
from ._explain import explain
from ._figures import RunGraph
from ._live import Live
from ._output import Output
from ._policies import check_context, check_number
from ._report import FailureRecord, Report
from ._topology import Port

In = TypeVar("In")
Out_co = TypeVar("Out_co", covariant=True)
T = TypeVar("T")


class End(Protocol[T]):
    """A flow, as far as a run has to know its type."""

    async def collect(self) -> list[T]:
        """Give the results."""
        ...


class Run(Generic[In, Out_co]):
    """A live graph, inside the `async with` block that opened it.

    Reading it with `async for` gives the results; a failure in their way raises its error. After a
    `break`, a new `async for` goes on with the next result.

    In annotations it is a `Run[In, Out]`, as its flow is a `Flow[In, Out]`; that of a `Graph` is a
    `Run[Any, Any]`, and `output(flow)` knows the type of each end.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        names = list(live.topology.ends)
        self._outputs = [Output[Any](live, number, name) for number, name in enumerate(names)]
        self._host: int | None = None
        inputs = [entry for entry in live.entries.values() if isinstance(entry, InputRunner)]
        self._sole_input = inputs[0] if len(inputs) == 1 else None

    def __repr__(self) -> str:
        state = "over" if self._live.closed else "open"
        return f"<Run of {len(self._live.topology.nodes)} stages, {state}>"

    # -- reading --------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Out_co]:
        """Give results only, until the run ends.

        Raises:
            GraphError: the graph has several ends; read them with `run.output(...)`.
            BusyResourceError: another task is iterating over it.
        """
        return self._only().__aiter__()

    def events(self) -> AsyncIterator[Out_co | Sentinel[Any] | Failure]:
        """Give results, sentinels and failures as they come, for `match`.

        Raises:
            GraphError: the graph has several ends.
        """
        return self._only().events()

    def _only(self) -> Output[Out_co]:
        if len(self._outputs) != 1:
            names = ", ".join(repr(name) for name in self._live.topology.ends)
            raise GraphError(
                f"this run has {len(self._outputs)} ends ({names}); "
                "read them with run.output(flow) or run.output(name)"
            )
        return self._outputs[0]

    @overload
    def output(self, which: End[T]) -> Output[T]: ...

    @overload
    def output(self, which: str) -> Output[Any]: ...

    def output(self, which: Any) -> Output[Any]:
        """Give one end of a graph that has several.

        Args:
            which: the flow that ends there, or the name it was given in `Graph(name=flow)`.

        Raises:
            GraphError: it is no end of this graph.
        """
        ends = self._live.topology.ends
        port = getattr(which, "_port", None)
        for number, (name, end) in enumerate(ends.items()):
            if which == name if isinstance(which, str) else port == end:
                return self._outputs[number]
        names = ", ".join(repr(name) for name in ends)
        hint = "" if port is None else "; a flow that is built a second time is another flow"
        raise GraphError(f"{safe_repr(which)} is no end of this graph; its ends are {names}{hint}")

    async def _read_into(self, lists: Sequence[MutableSequence[Any]]) -> None:
        """Read every end to its end, into a list of its own; failures are put where they come."""
        if len(lists) == 1:
            await self._outputs[0]._read_into(lists[0])
            return
        # All at once: one that is read later would fill up and hold up what the others wait for.
        async with _bare_exits(), create_task_group() as group:
            for output, into in zip(self._outputs, lists, strict=True):
                group.start_soon(output._read_into, into)

    # -- feeding --------------------------------------------------------------------------------

    async def send(
        self, item: In, *, to: Any = None, context: MutableMapping[str, Any] | None = None
    ) -> None:
        """Send an item in, waiting while the graph is full.

        While there is room it does not wait, but it always notices a cancellation. If an interrupt
        comes while it waits, it returns normally and its item is discarded and counted.

        Args:
            item: what to send.
            to: the `Input` to send to, when the graph has several.
            context: the mapping that the stages see as this item's context.

        Raises:
            ClosedError: the input takes no more: after `finish` or `stop`, at the end of the run, or
                because nobody downstream wants more (all that reads it has ended, like a `take`).
            GraphError: it is not clear where to send, or that input has a source.
            TypeError: the item is a `Sentinel`; use `send_sentinel`. Or `context` is no mutable
                mapping.
        """
        await checkpoint_if_cancelled()
        entry = self._entry(to)
        envelope = self._envelope(item, context)
        if not entry.place(envelope):
            await entry.wait_place(envelope)

    def send_nowait(
        self, item: In, *, to: Any = None, context: MutableMapping[str, Any] | None = None
    ) -> None:
        """Send an item in if there is room now.

        Raises:
            WouldBlock: the graph is full, or others are waiting to send.
            RuntimeError: it was called in a thread that is not the event loop's.
            ClosedError, GraphError, TypeError: as for `send`.
        """
        entry = self._entry(to)
        self._live.check_thread("run.send_nowait")
        if not entry.place(self._envelope(item, context)):
            raise WouldBlock(f"input {entry.name!r} has no room now")

    async def feed(self, source: Iterable[In] | AsyncIterable[In], *, to: Any = None) -> None:
        """Send everything that a source gives; the input stays open for more.

        A `Sentinel` that the source gives is sent on as one. An exception of the source goes to the
        caller, and the run goes on. A generator that is not read to its end is closed.

        Raises:
            TypeError: the source is no iterable, or a string.
            ClosedError, GraphError: as for `send`.
        """
        entry = self._entry(to)
        if isinstance(source, (str, bytes)):
            raise TypeError(
                f"feed() takes items, not a string; put {safe_repr(source)} into a list"
            )
        _check_fed(source)
        values = read(source, "the source of feed()")
        values.lend()
        try:
            if values.is_async:
                async for item in values.iterator:
                    await self._feed_one(entry, item)
            else:
                for item in values.iterator:
                    await self._feed_one(entry, item)
            values.closed = True
        finally:
            if not values.closed:
                late = await values.close(self._live.close_timeout)
                if late is not None:
                    raise late

    async def _feed_one(self, entry: InputRunner, item: Any) -> None:
        if type(item) is Sentinel:
            await self._place(item)
            return
        await checkpoint_if_cancelled()
        envelope = self._envelope(item, None)
        if not entry.place(envelope):
            await entry.wait_place(envelope)

    def finish(self, *, to: Any = None) -> None:
        """Take no more input; what was accepted is still processed. Calling it again is fine.

        An `Input` that has a source is not concerned: it ends when its source does, or at `stop`.

        Args:
            to: the `Input` to finish; all that are fed by `send` when left out.

        Raises:
            GraphError: `to` is no push input of this graph.
            RuntimeError: it was called in a thread that is not the event loop's.
        """
        if self._live.closed:
            return
        self._live.check_thread("run.finish")
        if to is not None:
            self._entry(to).close_input()
            return
        for entry in self._live.entries.values():
            if isinstance(entry, InputRunner):
                entry.close_input()

    async def send_sentinel(self, value: Any = None) -> None:
        """Send a control value through the whole graph.

        It passes every stage unprocessed and arrives exactly once at each end, after everything sent
        before it and before everything sent after it. Returns when it has been placed at every
        entry, or discarded by an interrupt.

        Raises:
            ClosedError: every entry has ended.
            TypeError: `value` is a `Sentinel` itself.
        """
        if type(value) is Sentinel:
            raise TypeError(
                "send_sentinel() takes the value of a sentinel and makes the Sentinel itself; "
                f"pass {safe_repr(value.value)}"
            )
        await checkpoint_if_cancelled()
        self._check_open()
        await self._place(Sentinel(value))

    async def _place(self, sentinel: Sentinel[Any]) -> None:
        tickets = self._live.line_up(sentinel)
        for place, _ in tickets:
            place.hasten()
        try:
            for place, ticket in tickets:
                if not (ticket.event.is_set() or place.gated):
                    ticket.task = get_current_task().id
                    self._live.note_wait(ticket)
                    await ticket.event.wait()
        except BaseException:
            _withdraw(tickets)
            raise
        if all(ticket.state == "refused" for _, ticket in tickets):
            if self._live.cancelled:
                await checkpoint_if_cancelled()
            why = self._live.why
            raise ClosedError(
                "no input is open any more, so a sentinel has nowhere to enter"
                if why is None
                else "the run has failed, so a sentinel has nowhere to enter"
            ) from why

    def _envelope(self, item: Any, context: MutableMapping[str, Any] | None) -> Envelope:
        if type(item) is Sentinel:
            raise TypeError("a Sentinel is not an item; use run.send_sentinel(value)")
        if context is not None:
            check_context(context)
        return self._live.envelope(item, context)

    def _entry(self, to: Any) -> InputRunner:
        self._check_open()
        if to is None and self._sole_input is not None:
            return self._sole_input
        entries = self._live.entries
        if to is not None:
            port = getattr(to, "_port", None)
            node = port.node if isinstance(port, Port) else None
            entry = entries.get(node) if node is not None else None
            if entry is None:
                raise self._live.topology.no_input(to, "to=")
            return self._push_input(entry)
        inputs = [entry for entry in entries.values() if isinstance(entry, InputRunner)]
        if not inputs:
            hint = (
                "open the flow without a source to send"
                if self._live.topology.inputs()
                else "a flow that begins with an Input can be sent to"
            )
            raise GraphError(
                f"this run has no input to send to: its items come from its source; {hint}"
            )
        names = ", ".join(repr(entry.name) for entry in inputs)
        raise GraphError(f"this graph has several inputs ({names}); say which with to=")

    def _push_input(self, entry: Any) -> InputRunner:
        if not isinstance(entry, InputRunner):
            raise GraphError(
                f"{entry.name!r} has a source of its own, so nothing can be sent to it"
            )
        return entry

    def _check_open(self) -> None:
        if self._live.closed:
            raise ClosedError(
                "the run is over; send inside the async with block"
            ) from self._live.why

    # -- ending ---------------------------------------------------------------------------------

    def interrupt(self) -> int:
        """Discard everything accepted so far; the run goes on with what comes next.

        Synchronous and absolute: nothing accepted before the call comes out after it. Calls in
        flight are cancelled; threads run on, but what they bring is dropped. From another thread use
        `anyio.from_thread.run_sync(run.interrupt)`.

        Returns:
            the number of items discarded, each branch's copy counted; 0 when the run is over.

        Raises:
            RuntimeError: it was called in a thread that is not the event loop's.
        """
        self._live.check_thread("run.interrupt")
        return self._live.interrupt()

    async def stop(self, timeout: float | None = None) -> None:
        """Take no more input and return at once; what was accepted can be read to the end.

        A pull in flight is cancelled, once, and the source closed. A `send` that still waits gets
        `ClosedError`.

        Args:
            timeout: seconds that the rest of the run may take. What is on its way then is
                discarded, as by `interrupt`, with a warning, and the outputs end. Those to which
                everything has come by then can still be read, and the code that reads is not
                cancelled.

        Raises:
            ValueError: `timeout` is negative or not finite.
        """
        if timeout is not None:
            check_number("timeout", timeout, minimum=0)
        if not self._live.closed:
            for entry in self._live.entries.values():
                entry.stop()
            if timeout is not None:
                self._live.spawn_uncounted(partial(self._live.expire_after, timeout))
        await checkpoint()

    async def drain(self) -> Report:
        """Finish the inputs, read and drop every output to its end.

        Sources go on, so beside one that has no end this never returns; call `stop` first.

        Returns:
            the report of the whole run.

        Raises:
            ClosedError: the run is over already.
        """
        if self._live.closed:
            raise ClosedError("the run is over; drain it inside the async with block")
        self.finish()
        outputs = [output for output in self._outputs if not output.closed]
        if len(outputs) == 1:
            await outputs[0]._read_into(deque(maxlen=0))
            return self.report()
        refused: list[Exception] = []

        async def read(output: Output[Any]) -> None:
            try:
                await output._read_into(deque(maxlen=0))
            except (ClosedError, BusyResourceError) as error:
                refused.append(error)
                group.cancel_scope.cancel()

        # All at once: one that is read later would fill up and hold up what the others wait for.
        async with _bare_exits(), create_task_group() as group:
            for output in outputs:
                group.start_soon(read, output)
        if refused:
            raise refused[0]
        return self.report()

    # -- telling --------------------------------------------------------------------------------

    def report(self) -> Report:
        """Give the figures of this moment; after the block, those of the whole run."""
        return report_of(self._live)

    @property
    def graph(self) -> RunGraph:
        """The graph of the run; its drawings carry the figures of the moment they are made.

        `run.graph.bound` is the most items that this run can hold at once.
        """
        return RunGraph(self._live)

    def explain(self) -> str:
        """Say what every stage is doing, how full the edges are, and who waits for whom."""
        return explain(self._live)

    @property
    def failures(self) -> tuple[FailureRecord, ...]:
        """The first and the last 500 failures, as text."""
        return (*self._live.first_failures, *self._live.last_failures)

    @property
    def failed(self) -> int:
        """How many failures there were, handled ones included."""
        return self._live.failed

    # -- the block ------------------------------------------------------------------------------

    async def _enter(self) -> None:
        """Start the run; for the `async with` block that owns it."""
        self._host = get_current_task().id
        await self._live.open()

    async def _leave(self, exc: BaseException | None) -> bool:
        """End the run; for the `async with` block that owns it.

        Returns:
            whether an exception of the body is swallowed, because it was the run's own cancellation.
        """
        live = self._live
        if get_current_task().id != self._host:
            raise RuntimeError(
                "the async with block of a run was entered in one task and left in another"
            )
        left = live.wanted_inside() if exc is None and live.failure is None else 0
        cancelled = isinstance(exc, get_cancelled_exc_class())
        # What fails while the run is taken down comes after an exception of the body.
        bodys = exc is not None and not cancelled and live.failure is None
        swallowed = False
        try:
            swallowed = await live.close(exc if cancelled else None)
        except BaseException:
            if live.crashed is None:  # else what ends the program goes before it
                raise
        if live.crashed is not None:
            await _raise_as_it_is(live.crashed)
        if cancelled and not swallowed:
            return False
        if bodys:
            return False
        if live.failure is not None and (exc is None or cancelled or _is_ordinary(exc)):
            if exc is not live.failure.error:
                if exc is not None and not cancelled:
                    raise live.failure.error  # with what the body raised as its context
                await _raise_as_it_is(live.failure.error)
            return False
        if left:
            live.warn_discarded(left)
        if cancelled:
            # The scope that this run cancels as it closes may have caught what an outer one sent.
            await checkpoint_if_cancelled()
        return cancelled


@asynccontextmanager
async def _bare_exits() -> AsyncIterator[None]:
    """Raise what ends the program without the group that a task group makes of it."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = exit_in(group)
        if error is None:
            raise
        await _raise_as_it_is(error)


async def _raise_as_it_is(error: BaseException) -> Never:
    """Raise an exception with the context that it has had where it was raised first.

    Python makes the exception that is being handled the context of what is raised anew, and that is
    the cancellation of the body here. (trio's nurseries do the same.)
    """
    context = error.__context__
    # A step of a task that was begun by throw() gives what it raises a context once more.
    await cancel_shielded_checkpoint()
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context  # or the frame and the traceback would keep each other


def _is_ordinary(exc: BaseException) -> bool:
    """Tell whether an exception of the body may give way to what has ended the run.

    A task group in the body mixes what its tasks raised with the cancellation that the run sent.
    """
    if isinstance(exc, BaseExceptionGroup):
        return all(map(_is_ordinary, exc.exceptions))
    return isinstance(exc, (Exception, get_cancelled_exc_class()))


def _check_fed(source: Any) -> None:
    """Refuse to feed what gives no items, and say what would."""
    if isinstance(source, (Iterable, AsyncIterable)):
        return
    hint = ""
    if hasattr(type(source), "__aenter__"):
        hint = "; enter it with 'async with', and feed what that gives"
    elif callable(source):
        hint = "; call it, and feed what it gives"
    raise TypeError(f"feed() takes an iterable or async iterable, not {safe_repr(source)}{hint}")


def _withdraw(tickets: list[tuple[Any, Ticket]]) -> None:
    """Take back a sentinel that has not entered anywhere; elsewhere it has to go on."""
    if all(ticket.state == "waiting" for _, ticket in tickets):
        for place, ticket in tickets:
            place.line.withdraw(ticket)
