"""Where items enter the graph.

An entry owns the outlet where they do. What cannot be placed at once stands in its line. A sentinel
gets its number and its place in every entry's line in one step, so that all entries agree on the one
order of all sentinels.

A push input has a pump, which moves the line whenever there is room. A source has a feeder besides:
see `source`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Never

from anyio import get_current_task
from anyio.lowlevel import checkpoint_if_cancelled

from .._envelope import Envelope
from .._errors import ClosedError
from .._wires import Edge, Enough, Outlet
from .chain import Chain
from .line import Line
from .runner import Frame, Step


class EntryRunner(Chain):
    """Where items enter.

    Attributes:
        line: what waits to enter.
        open: nothing has ended here yet: sentinels still enter.
        gated: only a later input of a `concat` reads what enters here, and not yet. Sentinels stand
            in line as everywhere, but nobody waits for them to be placed.
        ended_by: what the user did to take no more, in words; "" if it was nothing of the kind.
    """

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
    ) -> None:
        super().__init__(frame, steps, inlets, outlets)
        self.line = Line(self.outlet, self.exits, frame.watch)
        self.line.changed = self.line.moved = self.bell.ring
        self.open = True
        self.gated = False
        self.ended_by = ""

    def conclude(self) -> None:
        self.open = False
        self.line.closed = True
        self.line.refuse_all()
        super().conclude()

    def hasten(self) -> None:
        """Place what stands in line now, as far as there is room and nobody else is at it."""
        with suppress(Enough):
            self.line.place()

    def takes_sentinels(self) -> bool:
        """Tell whether a sentinel has to be placed here."""
        return self.open and self.wanted()

    def hold_back(self) -> None:
        self.gated = True

    def on_want(self) -> Sequence[Edge]:
        self.gated = False
        return ()

    def close_input(self) -> None:
        """Take no more; `End` follows what was accepted."""
        self.ended_by = self.ended_by or "finish() was called"
        self.line.closed = True
        self.bell.ring()

    def stop(self) -> None:
        """Take no more, not even what waits in line."""
        self.ended_by = self.ended_by or "stop() was called"
        self.line.closed = True
        self.line.refuse_items()
        self.bell.ring()

    def discard(self) -> int:
        return self.line.forget() + super().discard()


class InputRunner(EntryRunner):
    """A push input: `send` places items itself while there is room, the pump does the rest."""

    def takes_sentinels(self) -> bool:
        return super().takes_sentinels() and not self.line.closed  # it has ended, or is about to

    def place(self, envelope: Envelope) -> bool:
        """Place an item now; tell whether there was room, and nobody in line.

        Raises:
            ClosedError: the input takes no more.
        """
        self.check_open()
        if self.line.tickets:
            return False
        try:
            return self.outlet.put(envelope)
        except Enough:
            self._refuse()

    async def wait_place(self, envelope: Envelope) -> None:
        """Wait in line for room."""
        ticket = self.line.join(envelope)
        ticket.task = get_current_task().id
        self.frame.note_wait(ticket)
        try:
            await ticket.event.wait()
        except BaseException:
            self.line.withdraw(ticket)
            raise
        if ticket.state == "refused":
            if self.frame.cancelled:
                await checkpoint_if_cancelled()  # in the run's own scope that is what has happened
            self._refuse()

    def check_open(self) -> None:
        """Refuse what comes too late.

        Raises:
            ClosedError: the input takes no more.
        """
        if self.line.closed or not self.outlet.open:
            self._refuse()

    def _refuse(self) -> Never:
        why = self.frame.why
        what = f"input {self.name!r} takes no more items"
        if why is not None:
            reason = "the run has failed"
        elif self.frame.cancelled:
            reason = "the run is being left"
        else:
            reason = self.ended_by or "nobody downstream wants more, all that reads it has ended"
        raise ClosedError(f"{what}: {reason}") from why

    async def serve(self) -> None:
        """Move the line when there is room, until the input is closed and the line empty."""
        line = self.line
        while True:
            if not line.place():
                await self.wait_room(line.full, line.tickets[0].thing)
            elif line.closed:
                return
            else:
                self.since = began = perf_counter()
                self.waits, self.waits_at = "sends", ()
                try:
                    await self.bell.wait()
                finally:
                    self.waits = ""
                    self.steps[0].tally.waiting += perf_counter() - began
                self.check()

    def refresh(self) -> None:
        tally = self.steps[0].tally
        tally.given = tally.done = self.outlet.given
        tally.discarded = self.line.discarded
        tally.taken = tally.done + tally.discarded
