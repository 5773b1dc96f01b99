"""What stands still and why: parked tasks, the deadlock detector, the warning for unread outputs.

Every task of a run that waits for another part of the same run waits at a `Bell`, and whoever rings
it takes it off the count of the parked in the same step. So `parked == tasks` says, exactly and at
once, that no task of the run can move by itself: nothing polls, and an idle run owns no timer. What
is in user code, in a thread, in a timer or in a pull is not parked and hence alive.
"""

from __future__ import annotations

from collections.abc import Callable

from ._backend import Wake, wake_maker


class Watch:
    """Counts the tasks of a run and those of them that wait for the run itself.

    Attributes:
        asking: the readers that wait, and the sends and sentinels in line: what the user's code can be
            waiting for. While there are none the run may stand as it likes, and nobody looks.
    """

    __slots__ = ("asking", "make_wake", "on_still", "parked", "tasks")

    def __init__(self) -> None:
        self.tasks = 0
        self.parked = 0
        self.asking = 0
        self.on_still: Callable[[], None] | None = None
        self.make_wake = wake_maker()

    def enter(self) -> None:
        """Count a task that begins."""
        self.tasks += 1

    def leave(self) -> None:
        """Count a task that ends; the others may all be waiting for it."""
        self.tasks -= 1
        self.look()

    def look(self) -> None:
        """Report when nothing is left that can move by itself."""
        if self.asking and self.parked == self.tasks and self.on_still is not None:
            self.on_still()


class Bell:
    """Where one task waits until another part of its run rings.

    Attributes:
        event: what wakes the task while it waits; otherwise nothing.
    """

    __slots__ = ("event", "make_wake", "watch")

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.make_wake = watch.make_wake
        self.event: Wake | None = None

    def ring(self) -> None:
        """Wake the task if it waits."""
        event = self.event
        if event is not None:
            self.event = None
            self.watch.parked -= 1
            if not event.done():
                event.set_result(None)

    async def wait(self) -> None:
        """Wait for the next `ring`."""
        wake = self.begin()
        try:
            await wake
        finally:
            if self.event is wake:
                self.give_up()

    # The two halves of `wait`, for the few places where every item pays for one more coroutine.

    def begin(self) -> Wake:
        """Begin to wait: give what has to be awaited at once."""
        self.event = wake = self.make_wake()
        watch = self.watch
        watch.parked += 1
        if watch.asking and watch.parked == watch.tasks:
            watch.look()
        return wake

    def give_up(self) -> None:
        """Wait no more: the wait was cancelled before anybody rang."""
        self.event = None
        self.watch.parked -= 1


class Doorbell(Bell):
    """A bell for a task that is not the run's own: a reader in the user's code."""

    __slots__ = ()

    def ring(self) -> None:
        event = self.event
        if event is not None:
            self.event = None
            self.watch.asking -= 1
            if not event.done():
                event.set_result(None)

    def begin(self) -> Wake:
        self.event = wake = self.make_wake()
        watch = self.watch
        watch.asking += 1
        if watch.parked == watch.tasks:
            watch.look()  # the last one that could move may just have begun to wait
        return wake

    def give_up(self) -> None:
        self.event = None
        self.watch.asking -= 1
