"""A run that stands still: a deadlock is an error, an output that nobody reads is worth a warning.

`Watch` says, exactly and at once, when no task of the run can move by itself. Then it depends on the
user's code whether it ever will:

=======================================  =========================================================
every open output is waited for, and     deadlock: nobody can move the run but by an interrupt. An
no input can get more                    input at which somebody waits to send gets no more either
an output blocks the run, while others   one warning that names it, after a second. An output in
wait, and nobody reads it                the middle of an `async for` is merely read slowly, unless
                                         its reader itself is one of those who wait
anything else                            the run is idle: no timer
=======================================  =========================================================

Besides, a call of the run itself may wait to send to it: when nothing but such calls could move the run,
that is worth a warning as well.

Only in the first two cases a timer is set. It goes by the moment at which the run came to stand, so
that whoever is about to come, and whoever is being cancelled, has a moment to do so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from anyio import current_time, sleep

from ._envelope import Failure
from ._errors import NO_ITEM, DeadlockError
from ._waits import Waits, in_words, may_get_more, senders

if TYPE_CHECKING:
    from ._engine import Runner
    from ._engine.line import Ticket
    from ._live import Live

logger = logging.getLogger("flowstage")

DEADLOCK_AFTER = 0.25
"""Seconds; for readers that leave in the same moment. The promise is less than a second."""
UNREAD_AFTER = 1.0
"""Seconds."""


class Stillness:
    """Looks after a run in which no task can move by itself.

    Attributes:
        readings: for each output, what gives the latest `async for` over it, while there is one.
    """

    def __init__(self, live: Live) -> None:
        self.live = live
        self.readings: list[Callable[[], Any]] = []
        self.since = 0.0
        self.watching = self.warned = False
        self.own: list[Ticket] = []  # calls of the run itself that wait to send to it
        self.watching_own = False

    def look(self) -> None:
        """Set the timer when the run has come to stand in a way that somebody should know of."""
        if self.verdict():
            self.since = current_time()
            if not self.watching:
                self.watching = True
                self.live.spawn_uncounted(self.watch)

    def verdict(self) -> str:
        """Say how the run stands: "deadlock", "unread", or "" while all may be well."""
        live = self.live
        watch = live.watch
        if live.cancelled or live.closed or not watch.tasks or watch.parked != watch.tasks:
            return ""
        if not watch.asking:
            return ""
        waited, unread = self._ends()
        if not unread:
            stuck = waited and not any(may_get_more(entry) for entry in live.entries.values())
            return "deadlock" if stuck else ""
        if self.warned or not any(live.ends[number].writer for number in unread):
            return ""
        return "unread" if waited or any(map(senders, live.entries.values())) else ""

    def _ends(self) -> tuple[list[int], list[int]]:
        """Give the open outputs that somebody waits for, and those that nobody waits for."""
        waited: list[int] = []
        unread: list[int] = []
        for number, edge in enumerate(self.live.ends):
            if not (edge.finished or (edge.ended and not edge.used)):
                is_waited = self.live.end_bells[number].event is not None
                (waited if is_waited else unread).append(number)
        return waited, unread

    async def watch(self) -> None:
        """Wait until the run has stood for long enough, or moves again."""
        try:
            while verdict := self.verdict():
                after = DEADLOCK_AFTER if verdict == "deadlock" else UNREAD_AFTER
                rest = self.since + after - current_time()
                if rest > 0:
                    await sleep(rest)
                elif verdict == "deadlock":
                    self.fail()
                    return
                else:
                    self.warn()
                    self.since = current_time()  # who reads slowly now may be gone by then
        finally:
            self.watching = False

    def look_after(self, ticket: Ticket) -> None:
        """Look after a call of the run itself that waits to send to it."""
        self.own = [other for other in self.own if not other.event.is_set()]
        self.own.append(ticket)
        if not self.watching_own:
            self.watching_own = True
            self.live.spawn_uncounted(self.watch_own)

    async def watch_own(self) -> None:
        """Warn when everything has waited for such a call, and it for everything else, for long.

        Nobody can tell whether it has a timeout, so this is no deadlock.
        """
        try:
            while self.own:
                waiting = self.own
                await sleep(UNREAD_AFTER)
                self.own = [ticket for ticket in self.own if not ticket.event.is_set()]
                busy = [runner for runner in self.live.runners if runner.moves()]
                calls = sum(max(1, len(runner.at_work())) for runner in busy)
                if self._is_read():
                    continue
                if self.own and self.own == waiting and calls == len(waiting):
                    self.warn_own(busy)
                    return
        finally:
            self.watching_own = False

    def _is_read(self) -> bool:
        """Tell whether an output with something inside is in the middle of an `async for`."""
        return any(edge.used and self._reading(n) for n, edge in enumerate(self.live.ends))

    def _reading(self, number: int) -> Any:
        """Give the `async for` over an output that is in the middle, if there is one."""
        reading = self.readings[number]()
        return None if reading is None or reading.over else reading

    def warn_own(self, busy: Sequence[Runner]) -> None:
        """Name the stages whose calls wait to send to their own run."""
        logger.warning(
            "the run stands still, because it is full and %s waits to send to it; "
            "send from a task of your own, outside the stages",
            " and ".join(f"a call of stage {runner.name!r}" for runner in busy),
        )

    def fail(self) -> None:
        """End the run with the circle of waits."""
        circle = Waits(self.live).circle()
        if not circle:  # a task that waits for something that is not of the graph is not stuck
            return
        error = DeadlockError("the graph can no longer move:\n" + in_words(circle))
        self.live.fail(Failure(circle[0].waiter.name, NO_ITEM, error, 1))

    def warn(self) -> None:
        """Name the outputs that nobody reads and what waits for them."""
        live = self.live
        waited, unread = self._ends()
        names = list(live.topology.ends)
        waits = Waits(live)
        busy = {task for entry in live.entries.values() for task in senders(entry)}
        busy |= {reading.task for n in waited if (reading := self.readings[n]()) is not None}
        waiting = [
            (f"a send to {entry.name!r}", waits.blocked_by(entry))
            for entry in live.entries.values()
            if senders(entry)
        ]
        waiting += [
            (f"the reader of {names[n]!r}", waits.blocked_by(waits.writers[live.ends[n]]))
            for n in waited
        ]
        for number in unread:
            reading = self._reading(number)
            if reading is not None and reading.task not in busy:
                continue  # read slowly, by somebody who is at it
            who = [name for name, blocked in waiting if live.ends[number] in blocked]
            if who:
                self.warned = True
                logger.warning(
                    "the run stands still because nobody reads output %r, while %s waits; "
                    "read it in a task of its own, or close() it",
                    names[number],
                    " and ".join(who),
                )
                return
