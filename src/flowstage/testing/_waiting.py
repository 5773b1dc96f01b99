"""How the test tools wait: for a condition, with a limit, or for everything to stand still."""

from __future__ import annotations

from collections.abc import Callable

from anyio import Event, move_on_after, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from .._errors import safe_repr

TIMEOUT = 5.0
"""Seconds that an expectation waits: long for a machine that is busy, short for whoever looks on."""
_TURNS = 20
"""Turns given to the others first: anyio's wait on asyncio sleeps for 0.1 s if it comes too early."""


class Change:
    """Wakes whoever waits for something to become true."""

    def __init__(self) -> None:
        self._event: Event | None = None

    def ring(self) -> None:
        """Something has changed."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait for the next change."""
        event = self._event = self._event or Event()
        await event.wait()

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition holds, or the time is over; tell whether it holds."""
        await checkpoint()
        with move_on_after(timeout):
            while not condition():
                await self.wait()
        return condition()


async def settle(timeout: float) -> bool:
    """Wait until no task can go on by itself; tell whether that came to be in time.

    Timers and threads are not waited for.
    """
    with move_on_after(timeout):
        for _ in range(_TURNS):
            await checkpoint()
        await wait_all_tasks_blocked()
        return True
    return False


def check_timeout(name: str, value: object) -> None:
    """Refuse what is no number of seconds; `inf` waits for ever."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {safe_repr(value)}")
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, not {safe_repr(value)}")
