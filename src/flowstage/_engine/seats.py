"""Seats of a place, and calls in threads that are seen to their end by whoever has one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from anyio import (
    CancelScope,
    CapacityLimiter,
    Event,
    WouldBlock,
    get_cancelled_exc_class,
    sleep,
    to_thread,
)

from .._places import Threads


class Seat:
    """One seat of a place, taken before there is work and given back as soon as it is done.

    Attributes:
        late: its owner still works for an epoch that is over, and is counted as alive until it ends.
    """

    __slots__ = ("_seats", "_taken", "late")

    def __init__(self, place: Threads) -> None:
        self._seats = place.seats()
        self._taken = self.late = False

    @property
    def free(self) -> int:
        """Seats that nobody has."""
        return int(self._seats.available_tokens)

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a seat of this place."""
        return self._seats.statistics().tasks_waiting > 0

    async def take(self) -> None:
        """Wait for a seat, in turn with everybody who wants one of this place.

        Where there is one this does not checkpoint: the call in a thread, for which it is, does.
        """
        try:
            self._seats.acquire_on_behalf_of_nowait(self)
        except WouldBlock:
            await self._seats.acquire_on_behalf_of(self)
        self._taken = True

    def leave(self) -> None:
        """Give the seat back, unless that has been done."""
        if self._taken:
            self._taken = False
            self._seats.release_on_behalf_of(self)

    async def take_back(self) -> None:
        """Take the seat again after a rest, if the run still goes on."""
        if not self._taken:
            await self.take()

    async def rest(self, seconds: float) -> None:
        """Give the seat to others for a while."""
        if seconds > 0:
            self.leave()
            await sleep(seconds)
            await self.take()


class ThreadCall:
    """One call in a thread, which can be seen to its end whoever is cancelled.

    A shield holds against cancel scopes only. When asyncio shuts down it cancels every task natively,
    anyio then lets go of the thread, and the run would end while user code goes on in it.
    """

    __slots__ = ("_args", "_ended", "_loop", "_turn", "_wake", "_work")

    def __init__(self, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._work, self._args = work, args
        self._turn = [True]  # whoever takes this out first decides: it begins, or it never will
        self._ended = False
        self._loop: Any = None
        self._wake: Any = None

    def run(self) -> Any:
        """Make the call, unless nobody waits for it any more. Runs in a thread."""
        try:
            self._turn.pop()
        except IndexError:
            return None
        try:
            return self._work(*self._args)
        finally:
            self._ended = True
            if self._wake is not None:
                with suppress(RuntimeError):  # the loop has been closed in spite of us
                    self._loop.call_soon_threadsafe(self._wake)

    async def outlast(self) -> None:
        """After a cancellation: wait until no thread runs the call."""
        try:
            self._turn.pop()
        except IndexError:
            if self._ended:  # it has raised the cancellation itself
                return
            event = Event()
            self._loop = sys.modules["asyncio"].get_running_loop()
            self._wake = event.set
            while not self._ended:
                with suppress(get_cancelled_exc_class()), CancelScope(shield=True):
                    await event.wait()


async def in_thread(work: Callable[..., Any], *args: Any) -> Any:
    """Run work in a thread to its end, for a caller that has a seat."""
    call = ThreadCall(work, args)
    try:
        return await to_thread.run_sync(call.run, limiter=_NO_LIMIT)
    except get_cancelled_exc_class():
        # A scope's cancellation comes before the call or after it; in between it can only be native.
        await call.outlast()
        raise


class _NoLimit(CapacityLimiter):
    """A limiter that does not limit: the seat has been counted already.

    One of `math.inf` tokens would cost two turns of the event loop a call.
    """

    def __new__(cls) -> Self:
        return object.__new__(cls)

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Give what there is enough of."""

    def release_on_behalf_of(self, borrower: object) -> None:
        """Take back what nobody counts."""


_NO_LIMIT = _NoLimit()


async def at_place(place: Threads, work: Callable[..., Any], *args: Any) -> Any:
    """Take a seat, run work in a thread, give the seat back."""
    seat = Seat(place)
    await seat.take()
    try:
        return await in_thread(work, *args)
    finally:
        seat.leave()
