"""What has to know asyncio or trio: waking a task or a loop, and timers of which no scope knows.

`anyio.Event` does the same at more than twice the price (6 µs against 2.7 µs from one task to the
next on asyncio, CPython 3.11), and every hop of an item through an idle graph pays it. What is used
here instead is what the backends' own events are made of. A cancelled wait raises as any other would.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import Any, Protocol

from anyio import get_cancelled_exc_class


class Wake(Protocol):
    """One wait of one task: made, awaited once, ended by `set_result(None)`."""

    def __await__(self) -> Generator[Any, None, None]:
        """Wait to be woken."""
        ...

    def done(self) -> bool:
        """Tell whether the wait is over, by a wake or a cancellation."""
        ...

    def set_result(self, result: None, /) -> None:
        """Wake the task; not to be called when the wait is over."""


class TrioWake:
    """A task that waits to be rescheduled."""

    __slots__ = ("_lowlevel", "_task")

    def __init__(self, lowlevel: Any) -> None:
        self._lowlevel = lowlevel
        self._task: Any = None

    def __await__(self) -> Generator[Any, None, None]:
        self._task = self._lowlevel.current_task()
        yield from self._lowlevel.wait_task_rescheduled(self._abort).__await__()

    def _abort(self, _: Any) -> Any:
        self._task = None
        return self._lowlevel.Abort.SUCCEEDED

    def done(self) -> bool:
        return self._task is None

    def set_result(self, result: None, /) -> None:
        task, self._task = self._task, None
        self._lowlevel.reschedule(task)


def wake_maker() -> Callable[[], Wake]:
    """Give what makes a wait on the running event loop."""
    trio = sys.modules.get("trio")
    if trio is not None and get_cancelled_exc_class() is trio.Cancelled:
        lowlevel = trio.lowlevel
        return lambda: TrioWake(lowlevel)
    make: Callable[[], Wake] = sys.modules["asyncio"].get_running_loop().create_future
    return make


def soon_caller() -> Callable[..., None]:
    """Give what has a function called on the running event loop soon, from any thread, without waiting.

    The function must not raise: trio would end the program.

    Raises:
        RuntimeError: by what is given, when the loop has been closed.
    """
    trio = sys.modules.get("trio")
    if trio is not None and get_cancelled_exc_class() is trio.Cancelled:
        call: Callable[..., None] = trio.lowlevel.current_trio_token().run_sync_soon
        return call
    soon: Callable[..., None] = sys.modules["asyncio"].get_running_loop().call_soon_threadsafe
    return soon


def is_running_timeout(thing: Any) -> bool:
    """Tell whether a thing is an `asyncio.timeout()` that may still end by itself.

    Its state can be read from its text only. One that has been left may still have a name; one that
    expires has cancelled its task, which moves when it is its turn.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or type(thing) is not asyncio.Timeout or thing.when() is None:
        return False
    return any(state in repr(thing) for state in ("[active]", "[expiring]"))
