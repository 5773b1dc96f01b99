"""What waits to enter at one outlet, in the order in which it came.

What cannot be placed at once stands in a line: sends and sentinels. A thing in line waits for its
place whoever it is that places it, and is settled once: placed, discarded by an interrupt, or refused.
Only a sentinel goes out on several outlets, one after the other; when it has begun it stays first in
line until it is on all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter

from anyio import Event

from .._envelope import Barrier, Envelope
from .._watch import Watch
from .._wires import Enough, Outlet


class Ticket:
    """A thing that waits in line for its place.

    Attributes:
        state: "waiting", "begun" (a sentinel that has gone out on some of the outlets), "placed",
            "discarded" (an interrupt) or "refused" (`stop`).
        task: whose task of the user's code waits for it; 0 when nobody does.
    """

    __slots__ = ("event", "state", "task", "thing")

    def __init__(self, thing: Envelope | Barrier) -> None:
        self.thing = thing
        self.event = Event()
        self.state = "waiting"
        self.task = 0


class Line:
    """What waits to enter at one outlet.

    Attributes:
        begun: on how many of the outlets the sentinel that is first in line has gone out.
        closed: no more is taken in.
        discarded: items that an interrupt took out of the line.
    """

    def __init__(self, outlet: Outlet, outlets: Sequence[Outlet], watch: Watch) -> None:
        self.outlet = outlet
        self.outlets = outlets  # where a sentinel goes, one after the other
        self._watch = watch  # its `asking` counts the tickets of all lines
        self.begun = 0
        self.tickets: deque[Ticket] = deque()
        self.closed = False
        self.discarded = 0
        self.changed: Callable[[], None] = lambda: None  # told of what joins
        self.moved: Callable[[], None] = lambda: None  # told of what has left without its place

    def place(self) -> bool:
        """Place what can be placed; tell whether the line is empty now.

        Raises:
            Enough: nobody wants more.
        """
        outlet, tickets = self.outlet, self.tickets
        while tickets:
            thing = tickets[0].thing
            if isinstance(thing, Barrier):
                if not self._place_barrier(tickets[0], thing):
                    return not self.tickets
            elif not outlet.put(thing):
                return not self.tickets  # an overflow that ends the run has emptied it
            elif thing.clock is not None and len(thing.clock) == 1:
                thing.clock[0] = perf_counter()  # its time begins when it is inside
            self._settle(tickets.popleft(), "placed")
        return True

    def _place_barrier(self, ticket: Ticket, barrier: Barrier) -> bool:
        """Place a sentinel on every outlet; tell whether it is on all of them now."""
        outlets = self.outlets
        while self.begun < len(outlets):
            try:
                if not outlets[self.begun].put_mark(barrier):
                    return False
            except Enough:
                if not any(outlet.open for outlet in outlets):
                    raise
            self.begun += 1
            ticket.state = "begun"
        self.begun = 0
        return True

    @property
    def full(self) -> Outlet:
        """The outlet that has no room for what is first in line."""
        return self.outlets[self.begun]

    def join(self, thing: Envelope | Barrier) -> Ticket:
        """Stand a thing in line."""
        ticket = Ticket(thing)
        self.tickets.append(ticket)
        self._watch.asking += 1
        self.changed()
        return ticket

    def drop_passed(self, number: int) -> None:
        """Drop the latest sentinels in line, up to a number, when a later one is about to join.

        While a `concat` has not come to this entry it has its sentinels from another one. Those that
        it has passed already are of use here for joins before it only, and they need the last.
        """
        tickets = self.tickets
        while tickets and tickets[-1].state == "waiting":
            thing = tickets[-1].thing
            if not isinstance(thing, Barrier) or thing.number > number:
                return
            self._settle(tickets.pop(), "placed")

    def withdraw(self, ticket: Ticket) -> None:
        """Take a thing out of the line whose owner wants it no more."""
        if ticket.state == "waiting":
            self.tickets.remove(ticket)
            self._watch.asking -= 1
            self.moved()  # there may be room for what stood behind it

    def forget(self) -> int:
        """Discard the line at an interrupt; give the number of items."""
        items = self._clear("discarded")
        self.discarded += items
        return items

    def refuse_items(self) -> None:
        """Refuse the items in line at `stop`; sentinels of the run keep their place."""
        kept = [ticket for ticket in self.tickets if type(ticket.thing) is Barrier]
        refused = [ticket for ticket in self.tickets if type(ticket.thing) is Envelope]
        self.tickets = deque(kept)
        for ticket in refused:
            self._settle(ticket, "refused")

    def refuse_all(self) -> None:
        """Refuse everything when the entry is no more."""
        self._clear("refused")

    def _settle(self, ticket: Ticket, state: str) -> None:
        """Tell what became of a thing that has just left."""
        self._watch.asking -= 1
        ticket.state = state
        ticket.event.set()

    def _clear(self, state: str) -> int:
        tickets, self.tickets = self.tickets, deque()
        self.begun = 0
        for ticket in tickets:
            self._settle(ticket, state)
        return sum(type(ticket.thing) is Envelope for ticket in tickets)
