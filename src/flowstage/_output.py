"""One end of a live graph, as its reader has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableSequence
from typing import Any, Generic, TypeVar
from weakref import ref

from anyio import BusyResourceError, get_current_task
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ._envelope import Barrier, Envelope, Failure, Fault, Mark, Sentinel
from ._errors import ClosedError, StageError, note_failure
from ._live import Live
from ._wires import EMPTY, Bare

T_co = TypeVar("T_co", covariant=True)

_TURN = 100
"""Things read without waiting before other tasks have a turn."""


class Output(Generic[T_co]):
    """One end of a run: what comes out there is read with `async for`, by one task at a time.

    A wait here is safe to cancel: nothing is taken until it is given to the caller.
    """

    def __init__(self, live: Live, number: int, name: str) -> None:
        self._live = live
        self._edge = live.ends[number]
        self._bell = live.end_bells[number]
        self._name = name
        self._due = _TURN  # how many things have been taken when other tasks are due a turn
        self._reader: ref[_Reading] | None = None
        live.stillness.readings.append(lambda: self._reader and self._reader())

    def __repr__(self) -> str:
        return f"<Output {self._name!r}: {self._edge.inside} waiting>"

    def __aiter__(self) -> AsyncIterator[T_co]:
        """Give results only; a failure in their way raises its error."""
        return self._begin(_Results)

    def events(self) -> AsyncIterator[T_co | Sentinel[Any] | Failure]:
        """Give results, sentinels and failures as they come, for `match`."""
        return self._begin(_Events)

    def close(self) -> None:
        """Want no more of this end; the rest of the run goes on.

        What is waiting here is discarded and counted.

        Raises:
            RuntimeError: it was called in a thread that is not the event loop's.
        """
        live = self._live
        if not live.closed:
            live.check_thread("output.close")
            self._edge.finish()
            live.watch.look()  # the others that wait may be waiting for each other

    def discard(self) -> int:
        """Drop what waits here now, sentinels and failures too; the run goes on.

        It is counted as discarded. For all that is inside the run there is `Run.interrupt`.

        Returns:
            the number of items dropped.

        Raises:
            RuntimeError: it was called in a thread that is not the event loop's.
        """
        live = self._live
        if live.closed or self._edge.finished:
            return 0
        live.check_thread("output.discard")
        return self._edge.flush()

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._edge.finished

    def _begin(self, kind: type[_Reading]) -> AsyncIterator[Any]:
        task = get_current_task().id
        earlier = self._reader() if self._reader is not None else None
        if earlier is not None and earlier.task != task and not earlier.over:
            raise self._busy()
        reading = kind(self, task)
        self._reader = ref(reading)
        return reading

    def _busy(self) -> BusyResourceError:
        error = BusyResourceError("reading")
        error.args = (
            f"another task is reading output {self._name!r}; an output has one reader at a time",
        )
        return error

    async def _wait(self) -> bool:
        """Wait until there is something to take; tell whether there is, or the end has been reached.

        Raises:
            ClosedError: the run is over.
        """
        edge, live, bell = self._edge, self._live, self._bell
        if edge.taken >= self._due and edge.used:
            self._due = edge.taken + _TURN  # before, or who gives up again and again gets nothing
            await checkpoint()
        while not edge.total - edge.taken - edge.flushed:  # what was closed holds nothing
            if live.expired and edge.finished:
                return False
            if live.closed or edge.finished:
                raise ClosedError(
                    f"output {self._name!r} was closed"
                    if edge.finished
                    else "the run is over; read its results inside the async with block"
                ) from live.why
            if edge.ended:
                live.watch.look()  # the others that wait may be waiting for each other
                return False
            if live.cancelled:
                await checkpoint_if_cancelled()
                why = live.why
                raise ClosedError(
                    "the run's block is being left; read inside it, and wait for readers there"
                    if why is None
                    else "the run has failed"
                ) from why
            other = bell.event
            if other is not None:
                raise self._busy()
            edge.reader = bell
            if edge.announces:
                edge.ring_writer()
            wake = bell.begin()
            try:
                await wake
            finally:
                if bell.event is wake:
                    bell.give_up()
                if edge.reader is bell and bell.event is None:  # or another task waits there by now
                    edge.reader = None
            self._due = edge.taken + _TURN  # whoever waits lets others have their turns
        return True

    async def _read_into(self, results: MutableSequence[Any]) -> None:
        """Read to the end; failures are put where they come."""
        edge = self._edge
        while await self._wait():
            # Nobody puts anything in while this does not wait, so it is a burst and no more.
            while head := edge.refill():
                if head.__class__ is Bare:
                    results.extend(head)
                    edge.taken += len(head)
                    head.clear()
                    edge.ring_writer()
                    continue
                thing = edge.take()
                if type(thing) is Envelope:
                    results.append(thing.value)
                elif type(thing) is Fault:
                    results.append(thing.failure)
                del thing  # or it would live until the next one comes, though nobody keeps it


class _Reading(AsyncIterator[Any]):
    """One `async for` over an output. While there is something to take, which task asks matters not."""

    def __init__(self, output: Output[Any], task: int) -> None:
        self.output = output
        self.task = task
        self.over = False

    async def __anext__(self) -> Any:
        output = self.output
        edge = output._edge
        while True:
            head = edge.head or edge.refill()
            if not head or edge.taken >= output._due:
                self.over = False
                try:
                    if not await output._wait():
                        raise StopAsyncIteration
                except BaseException:
                    self.over = True  # a cancelled `async for` is, and who knows what keeps it
                    raise
                continue
            if head.__class__ is Bare:
                edge.taken += 1
                bell = edge.writer  # as `ring_writer` does, without another call for each item
                if bell is not None:
                    edge.writer = None
                    bell.ring()
                return head.popleft()
            thing = edge.take()
            if type(thing) is Envelope:
                return thing.value
            if (event := self._event(thing)) is not EMPTY:
                return event

    def _event(self, mark: Mark) -> Any:
        """Give what is read instead of what is no result, or `EMPTY` to pass it over."""
        raise NotImplementedError


class _Results(_Reading):
    def _event(self, mark: Mark) -> Any:
        if type(mark) is not Fault:
            return EMPTY
        failure = mark.failure
        if isinstance(failure.error, StopAsyncIteration):  # it would end the iteration
            raise StageError(
                f"stage {failure.stage!r} raised StopAsyncIteration"
            ) from failure.error
        note_failure(failure)
        raise failure.error


class _Events(_Reading):
    def _event(self, mark: Mark) -> Any:
        if type(mark) is Fault:
            return mark.failure
        return mark.sentinel if type(mark) is Barrier else EMPTY
