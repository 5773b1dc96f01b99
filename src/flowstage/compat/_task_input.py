"""The input queue of an `AsyncTaskPipeline`: what was accepted and the first stage has not begun.

The run is not given the things themselves but turns, one for each of them: when the first stage comes
to a turn, it takes the next thing out of the queue. So the bound is kept here and the run's first edge
has none, and the queue is a real one: its size is exact, clearing it makes room at once, and nothing
that was cleared is left anywhere. Turns whose things were cleared serve those that come next, so there
are never more of them than there were things at once.

Everything happens on the event loop, but for `Turn.take`, which a thread calls. It only takes from the
left of a deque, and counts what nobody else counts; what it reads of the rest may be out of date, and
the comments say why that does no harm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from anyio import Event
from anyio.lowlevel import checkpoint_if_cancelled

from flowstage import ClosedError

NOT_RUNNING = "Pipeline is not running"


class Mark:
    """A sentinel of the user's, on its way through the stages."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Turn:
    """What the run is given for a thing in the queue.

    Attributes:
        thing: what was taken at this turn.
    """

    __slots__ = ("_line", "_queue", "thing")

    def __init__(self, queue: InputQueue, line: _Line) -> None:
        self._queue = queue
        self._line = line
        self.thing: Any = None

    def __repr__(self) -> str:  # it stands for the item in what is logged
        return repr(self.thing)

    def take(self) -> Any:
        """Take the next thing out of the queue; `None` if it was cleared. In the stage's thread."""
        line = self._line
        line.used += 1  # first: one turn too many is harmless, one too few is not
        try:
            self.thing = line.things.popleft()
        except IndexError:
            return None
        self._queue.took()
        return self.thing


class _Line:
    """The things in the queue, and the turns for them. An interrupt leaves it to the old turns."""

    __slots__ = ("given", "things", "used")

    def __init__(self) -> None:
        self.things: deque[Any] = deque()
        self.given = 0  # turns that the run was given
        self.used = 0  # those that the first stage has come to


class _Ticket:
    """A thing whose owner waits for room."""

    __slots__ = ("event", "refused", "thing")

    def __init__(self, thing: Any) -> None:
        self.thing = thing
        self.event = Event()
        self.refused = False


class InputQueue:
    """A queue that a run takes from.

    Args:
        size: how many things it holds.

    Attributes:
        accepted: items that came in, sentinels apart.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.accepted = 0
        self._line = _Line()
        self._waiting: deque[_Ticket] = deque()
        self._open = False
        self._give: Callable[[Turn], None] | None = None
        self._soon: Callable[[Callable[[], object]], None] | None = None
        self._called = False

    def __len__(self) -> int:
        return len(self._line.things)

    # -- life -----------------------------------------------------------------------------------

    def open(self, soon: Callable[[Callable[[], object]], None]) -> None:
        """Take things in; `soon` calls a function on the event loop, from any thread."""
        self._line = _Line()
        self._soon = soon
        self._open = True
        self._called = False

    def serve(self, give: Callable[[Turn], None]) -> None:
        """Give turns to a run that lives from now on."""
        self._give = give
        self._give_turns()

    def close(self) -> None:
        """Take no more: what is inside is lost, and whoever waits is refused."""
        self._open = False
        self._give = self._soon = None
        self._line.things.clear()
        waiting, self._waiting = self._waiting, deque()
        for ticket in waiting:
            ticket.refused = True
            ticket.event.set()

    # -- putting in -----------------------------------------------------------------------------

    def put_nowait(self, thing: Any) -> bool:
        """Put a thing in if there is room; tell whether there was.

        Raises:
            RuntimeError: the pipeline is not running.
        """
        if not self._open:
            raise RuntimeError(NOT_RUNNING)
        if self._waiting or len(self._line.things) >= self.size:
            return False
        self._enter(thing)
        if not self._open:  # the run has just ended by itself
            raise RuntimeError(NOT_RUNNING)
        return True

    async def put(self, thing: Any) -> None:
        """Put a thing in, waiting in line for room.

        Raises:
            RuntimeError: the pipeline is not running.
        """
        await checkpoint_if_cancelled()
        if self.put_nowait(thing):
            return
        ticket = _Ticket(thing)
        self._waiting.append(ticket)
        self._let_in()  # a thread that made room since then may have seen nobody waiting
        try:
            await ticket.event.wait()
        except BaseException:
            if not ticket.event.is_set():
                self._waiting.remove(ticket)
            raise
        if ticket.refused:
            raise RuntimeError(NOT_RUNNING)

    def _enter(self, thing: Any) -> None:
        self._line.things.append(thing)
        self.accepted += type(thing) is not Mark
        self._give_turns()

    def _give_turns(self) -> None:
        """Give the run turns until there is one for each thing."""
        line = self._line
        try:
            while self._give is not None and line.given - line.used < len(line.things):
                line.given += 1
                self._give(Turn(self, line))
        except ClosedError:
            self.close()

    # -- taking out -----------------------------------------------------------------------------

    def took(self) -> None:
        """Have those let in who wait for room. In the stage's thread."""
        # Whoever begins to wait in this very moment looks for room itself. And a call that is on its
        # way looks at the queue after it has noted that it is not on its way any more.
        soon = self._soon
        if self._waiting and not self._called and soon is not None:
            self._called = True
            soon(self._let_in_later)

    def _let_in_later(self) -> None:
        self._called = False
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and len(self._line.things) < self.size:
            ticket = self._waiting.popleft()
            self._enter(ticket.thing)
            ticket.refused = not self._open
            ticket.event.set()

    def clear(self) -> None:
        """Drop everything inside. Those who wait for room get it: what they put in comes later."""
        self._line.things.clear()
        self._let_in()

    def begin_anew(self) -> None:
        """Drop everything inside, when the run has dropped the turns."""
        self._line.things.clear()
        self._line = _Line()  # a thread that runs on finds nothing to take
        self._let_in()
