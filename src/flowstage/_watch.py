"""What stands still and why: parked tasks, the deadlock detector, the warning for unread outputs.

Every task of a run that waits for another part of the same run waits at a `Bell`, and whoever rings
it takes it off the count of the parked in the same step. So `parked == tasks` says, exactly and at
once, that no task of the run can move by itself: nothing polls, and an idle run owns no timer. What
is in user code, in a thread, in a timer or in a pull is not parked and hence alive.
"""

from __future__ import annotations

from collections.abc import Callable

from anyio import Event


class Watch:
    """Counts the tasks of a run and those of them that wait for the run itself."""

    __slots__ = ("on_still", "parked", "tasks")

    def __init__(self) -> None:
        self.tasks = 0
        self.parked = 0
        self.on_still: Callable[[], None] | None = None

    def enter(self) -> None:
        """Count a task that begins."""
        self.tasks += 1

    def leave(self) -> None:
        """Count a task that ends; the others may all be waiting for it."""
        self.tasks -= 1
        self.look()

    def look(self) -> None:
        """Report when nothing is left that can move by itself."""
        if self.parked == self.tasks and self.on_still is not None:
            self.on_still()


class Bell:
    """Where one task waits until another part of its run rings.

    Attributes:
        event: set while the task waits.
    """

    __slots__ = ("event", "watch")

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.event: Event | None = None

    def ring(self) -> None:
        """Wake the task if it waits."""
        event = self.event
        if event is not None:
            self.event = None
            self.watch.parked -= 1
            event.set()

    async def wait(self) -> None:
        """Wait for the next `ring`."""
        self.event = event = Event()
        watch = self.watch
        watch.parked += 1
        if watch.parked == watch.tasks:
            watch.look()
        try:
            await event.wait()
        finally:
            if self.event is event:  # cancelled before anybody rang
                self.event = None
                watch.parked -= 1


class Doorbell(Bell):
    """A bell for a task that is not the run's own: a reader or a sender in the user's code."""

    __slots__ = ()

    def ring(self) -> None:
        event = self.event
        if event is not None:
            self.event = None
            event.set()

    async def wait(self) -> None:
        self.event = event = Event()
        self.watch.look()  # the last one that could move may just have begun to wait
        try:
            await event.wait()
        finally:
            if self.event is event:
                self.event = None
