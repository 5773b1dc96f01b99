"""A clock that jumps: virtual time for both backends, and the verdict when nothing can move.

An event loop asks `VirtualTime.wait` how long it may really wait for its next deadline. The answer
is nought, and time has jumped, unless something outside the loop is at work (`outside`); then time
flows at `rate` times the wall clock's pace, so that a timeout around a thread that never answers
still comes, and one around a thread that does answer does not come early.

One poll for events lies between finding nothing at work and jumping: whatever was at work has woken
the loop before it ended, and the poll sees that.

When no deadline is left and nothing is at work, nothing will ever happen again: a deadlock, known
at once and without waiting for any limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

from . import outside

_GLANCE = 0.002  # seconds between looks at threads, which may end without waking the loop


class VirtualTime:
    """The time of one run; begins at nought.

    Args:
        limit: Virtual seconds after which the run counts as stuck.
        patience: Real seconds without a step after which work outside counts as stuck.
        rate: Virtual seconds per real second while work outside goes on; 0 holds time still.
        stuck: Told why when the run is stuck; shall make something happen, or raise.
    """

    def __init__(
        self, limit: float, patience: float, rate: float, stuck: Callable[[str], None]
    ) -> None:
        self._limit = limit
        self._patience = patience
        self._rate = rate
        self._stuck = stuck
        self._base = 0.0
        self._flowing_since: float | None = None
        self._polled = False
        self._waiting_since: float | None = None
        self._known = outside.busy_threads()

    def now(self) -> float:
        """Virtual seconds since the run began."""
        if self._flowing_since is None:
            return self._base
        return self._base + self._rate * (time.monotonic() - self._flowing_since)

    def stir(self) -> None:
        """A step is made: whatever was found out while waiting is out of date."""
        self._polled = False
        self._waiting_since = None

    def at_work(self) -> list[str]:
        """What is at work outside the loop, by name."""
        return outside.at_work(self._known)

    def wait(self, deadline: float, *, listening: bool) -> float:
        """Real seconds to wait for events, with nothing ready and the next timer at `deadline`.

        Args:
            deadline: Virtual time of the next timer; `inf` when there is none.
            listening: Whether files or sockets are waited for.
        """
        if at_work := self.at_work():
            if self._flowing_since is None and self._rate:
                self._flowing_since = time.monotonic()
            self._wait_really(", ".join(at_work))
            left = max(0.0, deadline - self.now())
            return min(_GLANCE, left / self._rate) if self._rate else _GLANCE
        self._base, self._flowing_since = self.now(), None
        if deadline <= self._base:
            return 0.0
        if not self._polled:
            self._polled = True
            return 0.0
        if deadline == inf and (listening or outside.processes_are_watched()):
            self._wait_really("files, sockets or the end of processes")
            return _GLANCE
        self._polled = False
        if deadline == inf:
            self._stuck(
                "deadlock: every task waits, no timer is set and nothing is at work outside"
            )
        elif deadline > self._limit:
            self._stuck(
                f"time limit: every task waits, the next timer is at {deadline:g} seconds of "
                f"virtual time, past the limit of {self._limit:g}"
            )
            self._limit = deadline + self._limit  # time for the cleanup
        else:
            self._base = deadline
        return 0.0

    def _wait_really(self, what: str) -> None:
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        elif now - self._waiting_since > self._patience:
            self._waiting_since = None
            self._stuck(f"no step for {self._patience:g} real seconds while waiting for {what}")
