"""An asyncio event loop whose order and time are given to it; `schedules` says what it may do."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from math import inf, ulp
from typing import Any
from weakref import WeakKeyDictionary

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


class ConductedLoop(asyncio.SelectorEventLoop):
    """Shuffles its ready tasks, jumps through time, and counts what it runs."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, conductor: Conductor) -> None:
        self.conductor = conductor
        # The age of tasks, by first sight; a task is seen when it is ready for its first step.
        self._ages: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
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

    def _run_once(self) -> None:
        late = self._shuffle()
        try:
            super()._run_once()  # type: ignore[misc] # not in the type stubs
        finally:
            self._ready.extend(late)

    def _shuffle(self) -> list[asyncio.Handle]:
        """Put the ready handles into the order of this turn; give those that miss it."""
        order, lag = self.conductor.order, self.conductor.lag
        if order is None or not self._ready:
            return []
        steps: list[tuple[int, asyncio.Handle]] = []
        others: list[asyncio.Handle] = []
        # Threads append at the right meanwhile: take exactly what is there.
        for _ in range(len(self._ready)):
            handle = deque.popleft(self._ready)
            owner = getattr(_callback_of(handle), "__self__", None)
            if isinstance(owner, asyncio.Task) and not handle.cancelled():
                steps.append((self._ages.setdefault(owner, len(self._ages)), handle))
            else:
                others.append(handle)
        steps.sort(key=lambda step: step[0])
        order.shuffle(steps)
        late: list[asyncio.Handle] = []
        if lag and len(steps) > 1:
            late = [handle for _, handle in steps[1:] if order.random() < lag]
        turn = [handle for _, handle in steps if handle not in late]
        for place, handle in zip(_places(order, len(turn), len(others)), others, strict=True):
            turn.insert(place, handle)
        self._ready.extend(turn)
        return late


def _places(order: Any, steps: int, others: int) -> list[int]:
    """Rising places that put `others` things, in their order, anywhere among `steps` others."""
    return sorted(order.sample(range(steps + others), others))


def _callback_of(handle: asyncio.Handle) -> Any:
    return handle._callback  # type: ignore[attr-defined] # the only way to know


def _describe(handle: asyncio.Handle) -> str:
    callback = _callback_of(handle)
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"task {owner.get_name()!r} at {stacks.place_of(owner.get_coro())}"
    return f"callback {getattr(callback, '__qualname__', None) or repr(callback)}"
