"""Batches: several items become one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

from anyio import CancelScope, current_time
from anyio.lowlevel import checkpoint

from .._envelope import Envelope
from .._stages import MAIN, BatchStage
from .._wires import EMPTY, Edge, Outlet
from .runner import MOST_IN_A_TURN, Frame, Runner, Step


class BatchRunner(Runner):
    """Collects items into lists.

    A batch leaves when it is full, when `within` seconds have passed since its first item, before any
    mark, and at the end. One that is due by time but finds no room downstream goes on filling.
    """

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
    ) -> None:
        super().__init__(frame, steps, inlets, outlets)
        stage = steps[0].stage
        assert isinstance(stage, BatchStage)
        self.size = stage.size
        self.within = math.inf if stage.within is None else stage.within

    async def serve(self) -> None:
        (inlet,) = self.inlets
        outlet = self.outlets[MAIN]
        self.items: list[Envelope] = []
        due = math.inf
        turns = 0
        while True:
            if len(self.items) < self.size:
                thing = inlet.take()
                if type(thing) is Envelope:
                    if not self.items:
                        due = current_time() + self.within if self.within < math.inf else math.inf
                    self.items.append(thing)
                    if len(self.items) < self.size:
                        continue
                elif thing is not EMPTY:
                    await self.flush(outlet)
                    await self.pass_mark(thing)
                    continue
                elif inlet.ended:
                    await self.flush(outlet)
                    return
            if len(self.items) == self.size or (self.items and current_time() >= due):
                if await self.give_due(outlet):
                    turns += self.size
                    if turns > MOST_IN_A_TURN:
                        turns = 0
                        await checkpoint()
                        self.check()
                continue
            await self.wait_until(due)

    async def wait_until(self, due: float) -> None:
        """Wait for an item, or until a batch is due."""
        if not self.items or due == math.inf:
            await self.wait_item()
            return
        self.frame.watch.enter()  # a timer is alive, so it is no deadlock when all others wait
        try:
            # Not `move_on_after`: now + (due - now) may be less than due, and would be so for ever
            # where time stands still in between (a test's virtual clock).
            with CancelScope(deadline=due):
                await self.wait_item()
        finally:
            self.frame.watch.leave()
        self.check()

    async def give_due(self, outlet: Outlet) -> bool:
        """Give a batch that is due; if there is no room, wait for room or for more items."""
        batch = self.batch()
        if outlet.put(batch):
            self.count()
            return True
        if len(self.items) == self.size:
            await self.wait_room(outlet, batch)
            return False
        (inlet,) = self.inlets
        inlet.reader = self.bell
        if inlet.announces:
            inlet.ring_writer()
        try:
            if inlet.ended:
                await self.flush(outlet)
            else:
                await self.wait_room(outlet, batch)
        finally:
            if inlet.reader is self.bell:
                inlet.reader = None
        return False

    async def flush(self, outlet: Outlet) -> None:
        """Give what there is, if anything."""
        if self.items:
            await self.give(self.batch(), outlet)
            self.count()

    def batch(self) -> Envelope:
        """Make one envelope of the items so far."""
        return self.frame.joined([item.value for item in self.items], self.items)

    def count(self) -> None:
        """Count a batch that has been given, and begin the next one."""
        tally = self.steps[0].tally
        tally.done += len(self.items)
        tally.given += 1
        self.items = []

    def forget(self) -> None:
        self.items = []

    def refresh(self) -> None:
        self.steps[0].tally.taken = self.inlets[0].values_out
