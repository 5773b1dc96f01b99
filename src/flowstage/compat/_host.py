"""The background task that holds an `open()` block, for interfaces that have no block of their own.

Everything else of flowstage runs inside an `async with` block of the caller's. An interface with
`start()` and `stop()`, or one that is a bare iterator, has none, so somebody has to own the block: a
`Host` enters it in a task of its own and stays in it until it is told to end. On asyncio that is a
task, kept by reference; on trio it is a system task, the only one there that needs no nursery of the
caller's. Neither outlives its event loop: asyncio.run() and trio.run() cancel what is left.

A host never lets an exception leave its task, where nobody would see it on asyncio and where it would
end the whole program on trio. It keeps it for whoever reads the run, or ends it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import copy_context
from typing import Any

from anyio import (
    CancelScope,
    Event,
    create_task_group,
    get_cancelled_exc_class,
    sleep_forever,
)
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from flowstage import ClosedError, Run

Soon = Callable[[Callable[[], object]], object]


class Host:
    """One run, held open in the background.

    Args:
        opening: what `Flow.open()` gave.
        name: the task's name.

    Attributes:
        run: the run, as soon as it lives.
        error: what the block raised, if it did.
        ended: it has been told to end.
        gone: set when the block has been left and nothing of the run remains.
        on_end: called on the event loop as soon as the run ends, for whatever reason, and before its
            threads are waited for.
        read: what `next_event` awaits, once the reading has begun; for a reader that cannot afford a
            coroutine more for each item. When it raises `ClosedError`, `outcome` tells what has ended.
    """

    _group: TaskGroup

    def __init__(self, opening: Any, name: str) -> None:
        self.run: Run[Any, Any] | None = None
        self.on_end: Callable[[], None] | None = None
        self.error: BaseException | None = None
        self.gone = Event()
        self._opening = opening
        self._name = name
        self._entered = Event()
        self.ended = False
        self._scope: CancelScope | None = None
        self.read: Callable[[], Awaitable[Any]] | None = None
        self._events: AsyncIterator[Any] | None = None
        self._task: Any = None
        self._soon: Soon | None = None
        self._loop_is_closed: Callable[[], bool] = lambda: False
        self._cut_off = False

    @property
    def live(self) -> bool:
        """Whether the run lives."""
        return self.run is not None and not self.gone.is_set()

    @property
    def over(self) -> bool:
        """Whether its event loop has ended, and it with it; then there is nothing to wait for."""
        return self._cut_off or self._loop_is_closed()

    # -- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Enter the block; returns when the run is live.

        Raises:
            BaseException: what entering it raised.
        """
        self._task, self._soon, self._loop_is_closed = _spawn(self._live, self._name)
        try:
            await self._entered.wait()
        except BaseException:
            self.end()
            await self.wait_gone()
            raise
        if self.gone.is_set() and self.error is not None:
            raise self.error

    async def _live(self) -> None:
        try:
            with CancelScope() as self._scope:
                if self.ended:
                    return
                assert self._opening is not None
                async with self._opening as run, create_task_group() as self._group:
                    try:
                        # The run's tasks make their first step: asyncio.run() may cancel all tasks
                        # any time, and one that has not begun is warned of as never awaited.
                        await checkpoint()
                        self.run = run
                        self._entered.set()
                        await sleep_forever()
                    finally:
                        if self.on_end is not None:
                            self.on_end()
        except get_cancelled_exc_class():
            self._cut_off = True
            raise  # the event loop ends
        except BaseException as error:
            self.error = error
        finally:
            self._opening = self._events = self.read = self.on_end = None
            self.gone.set()
            self._entered.set()

    def start_soon(self, work: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Do something with the run in the background; that the run ends first is no error."""

        async def quietly() -> None:
            try:
                await work(*args)
            except ClosedError:
                return

        self._group.start_soon(quietly)

    def end(self) -> None:
        """Leave the block soon: what is still inside is discarded. Call it on the event loop."""
        self.ended = True
        if self._scope is not None:
            self._scope.cancel()

    def end_soon(self) -> None:
        """Leave the block in one of the next steps of the event loop. For finalizers: any thread."""
        if not self.gone.is_set():
            self.call_soon(self.end)

    def call_soon(self, work: Callable[[], object]) -> None:
        """Call a function in one of the next steps of the event loop. From any thread."""
        if self._soon is None:
            return
        try:
            self._soon(work)
        except RuntimeError:  # the event loop is over, and the task with it
            return

    async def wait_gone(self) -> None:
        """Wait until nothing of the run is left; a cancellation meanwhile is raised afterwards."""
        cancelled: BaseException | None = None
        while not self.gone.is_set():
            try:
                with CancelScope(shield=True):
                    await self.gone.wait()
            except get_cancelled_exc_class() as error:  # asyncio's Task.cancel() heeds no shield
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def close(self) -> None:
        """Leave the block and wait until nothing of the run is left."""
        self.end()
        await self.wait_gone()

    # -- reading --------------------------------------------------------------------------------

    async def next_event(self) -> Any:
        """Give the next result, sentinel or failure, to whichever task asks; one at a time.

        Raises:
            StopAsyncIteration: the run has ended, or its block was left.
            BusyResourceError: another task is waiting for it.
            BaseException: what ended the run.
        """
        if self.run is None:
            await self._entered.wait()  # it is being started
        try:
            if self.run is None:
                raise ClosedError
            if self._events is None:
                self._events = self.run.events()
                self.read = self._events.__anext__
            return await self._events.__anext__()
        except ClosedError:
            self._events = self.read = None
        raise await self.outcome()

    async def outcome(self) -> BaseException:
        """Wait until nothing of the run is left; give what its reader is told: its error, or its end."""
        await self.wait_gone()  # it ends by itself; to cancel it now could hide why
        return StopAsyncIteration() if self.error is None else self.error


def _spawn(work: Callable[[], Awaitable[None]], name: str) -> tuple[Any, Soon, Callable[[], bool]]:
    """Start a task that belongs to nobody.

    Returns:
        it, what calls a function on its event loop, and what tells whether that was closed without
        having ended the task.
    """
    if "trio" in sys.modules:  # else nobody can be running on it
        import trio

        if trio.lowlevel.in_trio_task():
            token = trio.lowlevel.current_trio_token()
            system = trio.lowlevel.spawn_system_task(work, name=name, context=copy_context())
            return system, token.run_sync_soon, lambda: False  # trio ends them all
    loop = asyncio.get_running_loop()
    task = loop.create_task(_awaited(work), name=name)
    return task, loop.call_soon_threadsafe, loop.is_closed


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()
