"""uvloop, which tells the conductor of each step; its time is real, but may run faster.

uvloop keeps its queues in C, so their order cannot be chosen and the wait for events cannot be cut
short: no seed, no jumps through time. But all that tasks, futures and timers put into the queue comes
by way of four methods that a subclass may replace, and so each step can be counted and acted before.
What comes from elsewhere (files, sockets, the end of processes) is not counted, and leads to a step
that is.

`rate` is how much faster than the wall clock its time runs. Whether anything can still happen is not
known, so a run that makes no step for `patience` real seconds counts as stuck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import uvloop

from . import stacks
from .conductor import Conductor


def make_loop(conductor: Conductor, *, rate: float, patience: float) -> asyncio.AbstractEventLoop:
    """A loop for one run."""
    loop = CountedLoop()
    loop.begin(conductor, rate, patience)
    return loop


class CountedLoop(uvloop.Loop):
    """Tells its conductor before it runs a callback."""

    conductor: Conductor | None = None
    rate = 1.0

    def begin(self, conductor: Conductor, rate: float, patience: float) -> None:
        """Count from here on."""
        self.rate = rate
        self._start = super().time()
        self.conductor = conductor
        self._patience = patience
        self._steps = 0
        self._limit = super().call_later(patience, self._look)

    def _look(self) -> None:
        """End a run that has not made a step since the last look; two looks, lest we were asleep."""
        assert self.conductor is not None
        steps, self._steps = self._steps, self.conductor.steps
        if steps == self._steps:
            reason = f"no step for {self._patience:g} real seconds"
            self._or_stop(self.conductor.stuck, reason)
        self._limit = super().call_later(self._patience, self._look)

    def _or_stop(self, tell: Callable[[Any], None], what: Any) -> bool:
        """Tell the conductor something; stop if it gives up. Tells whether to go on.

        uvloop would send what it raises to the log.
        """
        try:
            tell(what)
        except BaseException:
            self.stop()
            return False
        return True

    def close(self) -> None:
        """The run has ended in time."""
        self._limit.cancel()
        super().close()

    def time(self) -> float:
        """Seconds since the run began, at its rate."""
        return self.rate * (super().time() - self._start) if self.conductor else super().time()

    def _counted(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        conductor = self.conductor
        if conductor is None:
            return callback

        def counted(*args: Any) -> None:
            if self._or_stop(conductor.step, lambda: _describe(callback)):
                callback(*args)

        return counted

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return super().call_soon(self._counted(callback), *args, context=context)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return super().call_soon_threadsafe(self._counted(callback), *args, context=context)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        # uvloop's clock ticks once a millisecond: what is set for less comes too early, and is set
        # anew, which would make points where nothing happens.
        delay = max(delay / self.rate, 0.001) if delay > 0 else delay
        return super().call_later(delay, self._counted(callback), *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_later(when - self.time(), callback, *args, context=context)


def _describe(callback: Any) -> str:
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"task {owner.get_name()!r} at {stacks.place_of(owner.get_coro())}"
    return f"callback {getattr(callback, '__qualname__', None) or repr(callback)}"
