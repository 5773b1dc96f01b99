"""What a blocking source gives, pulled in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from time import perf_counter
from typing import Any

from anyio import CancelScope, Event

from .._backend import soon_caller
from .._places import Threads
from .seats import at_place
from .slices import MOST_IN_A_CALL, SLICE


class Haul:
    """What a blocking source gives in one call to its place, there to be taken as it comes.

    Attributes:
        values: each with the time at which it was got; filled in the thread, emptied on the loop.
        more: whether the source may have more.
        error: what it raised.
        seconds: how long the source has worked.
        begun: set when the call has begun in its thread, or will not.
        done: set when the call has ended.
        scope: cancelled to tell the source's code to stop, if it asks.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.values: deque[tuple[Any, float]] = deque()
        self.more = True
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.begun, self.done = Event(), Event()
        self._soon = soon_caller()
        self.scope = CancelScope()
        self._iterator = iterator

    def run(self) -> None:
        """Take values from the source until the time is over. Runs in a thread."""
        with suppress(RuntimeError):  # the loop has been closed
            self._soon(self.begun.set)
        began = perf_counter()
        end = began + SLICE
        try:
            for _ in range(MOST_IN_A_CALL):
                value = next(self._iterator)
                self.values.append((value, perf_counter()))
                del value
                # Not the time at which it was got: who looks when the slice is over sees all but
                # what is told of with the end of the call.
                if perf_counter() > end:
                    return
        except StopIteration:
            self.more = False
        except BaseException as error:  # carried to the loop, where the guard looks at it
            self.more, self.error = False, error
        finally:
            self.seconds = perf_counter() - began

    async def bring(self, place: Threads) -> None:
        """Make the call, as a task of its own, so that what is there need not wait for its end."""
        try:
            with self.scope:
                await at_place(place, self.run)
        finally:
            self.begun.set()
            self.done.set()
