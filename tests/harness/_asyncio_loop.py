"""An asyncio event loop whose order and time are given to it; `schedules` says what it may do."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from math import inf, ulp
from typing import Any

from flowstage.testing._asyncio_order import ShuffledLoop, callback_of

from . import outside, stacks
from .conductor import Conductor


def make_loop(conductor: Conductor, *, eager: bool = False) -> asyncio.AbstractEventLoop:
    """A loop for one run."""
    loop = ConductedLoop(conductor)
    if eager:
        factory: Any = vars(asyncio)["eager_task_factory"]  # Python 3.12
        loop.set_task_factory(factory)
    return loop


class _Selector(selectors.DefaultSelector):
    """Waits as long as virtual time says, instead of as long as the loop asks."""

    loop: ConductedLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            timers = self.loop._scheduled
            deadline = timers[0].when() if timers else inf
            # One file is always there: the loop's own pipe, by which threads wake it.
            listening = len(self.get_map()) > 1
            timeout = self.loop.conductor.time.wait(deadline, listening=listening)
        return super().select(timeout)


class _Ready(deque[asyncio.Handle]):
    """The loop's ready queue, which tells the conductor before a handle is run.

    `_run_once` takes each handle with `popleft`, just before running it. Hooking that, rather than
    copying `_run_once`, works the same on all versions of Python.
    """

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self._conductor = conductor

    def popleft(self) -> asyncio.Handle:
        handle = self[0]
        if not handle.cancelled():
            self._conductor.step(lambda: _describe(handle))
        return super().popleft()


class ConductedLoop(ShuffledLoop):
    """Shuffles its ready tasks, jumps through time, and counts what it runs."""

    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, conductor: Conductor) -> None:
        self.conductor = conductor
        selector = _Selector()
        selector.loop = self
        super().__init__(conductor.order, conductor.lag, selector)
        self._ready = _Ready(conductor)
        outside.begin_watching()

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.conductor.time.now()

    @property
    def _clock_resolution(self) -> float:
        """The least there is: a timer is not due before its time.

        asyncio runs one that is due within a nanosecond. anyio 4.16 then finds that it is not yet
        time and sets it anew, which would go on for ever while virtual time stands still.
        """
        return ulp(self.time())

    @_clock_resolution.setter
    def _clock_resolution(self, value: float) -> None:
        """Asyncio sets that of the real clock."""

    def close(self) -> None:
        """End the watch for work outside too."""
        if not self.is_closed():
            outside.end_watching()
            if self.conductor.verdict is not None:
                for task in asyncio.all_tasks(self):
                    # The verdict has said it; asyncio would say it again, to the log.
                    task._log_destroy_pending = False  # type: ignore[attr-defined] # its switch
        super().close()


def _describe(handle: asyncio.Handle) -> str:
    callback = callback_of(handle)
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"task {owner.get_name()!r} at {stacks.place_of(owner.get_coro())}"
    return f"callback {getattr(callback, '__qualname__', None) or repr(callback)}"
