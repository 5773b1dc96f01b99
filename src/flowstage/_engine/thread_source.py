"""A blocking source, read in a thread.

Each turn is one time slice at the source's place. If the source blocks in the middle of a pull the
thread keeps its seat until that is over, and what it gave before enters meanwhile. So an interrupt may
come between a pull and the entering of what it gave: what was pulled before it belongs to the old
epoch, and is counted and discarded.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from anyio import CancelScope, get_cancelled_exc_class, move_on_after

from .._envelope import Sentinel
from .._places import Threads
from .._wires import Edge, Outlet
from .haul import Haul
from .runner import Frame, Step
from .seats import at_place
from .slices import SLICE
from .source import SourceRunner
from .values import Values


class ThreadSourceRunner(SourceRunner):
    """A source whose code runs at a place: it is begun, pulled and closed there."""

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
        items: Any,
        place: Threads,
    ) -> None:
        super().__init__(frame, steps, inlets, outlets, items)
        self.place = place

    async def _begin(self, life: CancelScope) -> Values:
        values: Values = await at_place(self.place, self.origin.begin)
        return values

    async def _close(
        self, values: Values, error: BaseException | None, life: CancelScope
    ) -> BaseException | None:
        if not values.closes():
            return None
        with CancelScope(shield=True):
            try:
                await at_place(self.place, values.iterator.close)
            except Exception as raised:
                return raised
        return None

    def takes_bursts(self) -> bool:
        return False  # what a thread brings has been pulled already

    async def _turn(self, values: Values) -> bool:
        """Pull for one time slice, and enter what it gave.

        If the source blocks in between, what it gave before enters as soon as the slice is over.
        """
        haul = Haul(values.iterator)
        self._pulling()
        self.frame.spawn_uncounted(partial(haul.bring, self.place))
        try:
            await haul.begun.wait()  # the slice is the thread's: a seat may be long in coming
            with move_on_after(SLICE):
                await haul.done.wait()
            while not haul.done.is_set():
                self._unload(haul)
                if self.hand:
                    self.pulling = False
                    await self._settle(self._enter_hand)  # an interrupt does not touch the pull
                    if self.stopping:
                        break
                    self._pulling()
                await haul.done.wait()
        finally:
            if not haul.done.is_set():
                haul.scope.cancel()
                with CancelScope(shield=True):
                    await haul.done.wait()
            self.pulling = False
            values.closed = values.closed or not haul.more
            self._unload(haul)
            self.steps[0].tally.busy += haul.seconds
            if self.stopping and not isinstance(haul.error, get_cancelled_exc_class()):
                self.late = haul.error
        if self.stopping:  # the rest has to be done outside the scope that `stop` has cancelled
            return False
        await self._settle(self._enter_hand)
        if haul.error is not None:
            await self._failed_pull(haul.error)
        return haul.more

    def _unload(self, haul: Haul) -> None:
        """Take in hand what has been pulled so far, without what an interrupt came after."""
        self.seen = self.frame.epoch.number
        began = self.frame.epoch.began if self.seen else 0.0
        while haul.values:
            value, when = haul.values.popleft()
            if when >= began:
                self.hand.append(value)
            elif type(value) is not Sentinel:
                self.pulled += 1
                self.lost += 1
