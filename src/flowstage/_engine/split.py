"""Fan-out by choice: each item to one of several branches."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from anyio.lowlevel import checkpoint

from .._envelope import Barrier, Envelope, Fault, Hole, Mark
from .._errors import safe_repr
from .._stages import RouteStage
from .._wires import EMPTY, Edge, Enough, Outlet
from .runner import (
    LONGEST_HOLD,
    LONGEST_TURN,
    MOST_IN_A_TURN,
    Frame,
    Runner,
    Step,
    own_error,
)

MAP_IN_A_THREAD = "compute the key in a thread, in a map(..., on=Threads(...)) before it"


class SplitRunner(Runner):
    """Takes items one by one and says for each where it goes."""

    async def serve(self) -> None:
        (inlet,) = self.inlets
        turns, began = 0, perf_counter()
        while True:
            thing = self.returned() or inlet.take()
            if type(thing) is Envelope:
                await self.send(thing)
                turns += 1
                if turns >= MOST_IN_A_TURN or perf_counter() - began > LONGEST_TURN:
                    await checkpoint()
                    self.check()
                    turns, began = 0, perf_counter()
            elif thing is not EMPTY:
                await self.pass_mark(thing)
            elif inlet.ended:
                return
            else:
                await self.wait_item()
                turns, began = 0, self.woke

    def returned(self) -> Envelope | Fault | None:
        """Give an item that came back from a branch that went away."""
        return None

    async def send(self, envelope: Envelope) -> None:
        """Give an item to the branch that is to have it."""
        raise NotImplementedError

    async def pass_mark(self, mark: Mark) -> None:
        if type(mark) is not Hole:  # a branch has only some of the items: nobody pairs its rows
            await super().pass_mark(mark)

    def refresh(self) -> None:
        tally = self.steps[0].tally
        tally.taken = self.inlets[0].values_out
        tally.given = sum(outlet.given for outlet in self.outlets.values())


class RouteRunner(SplitRunner):
    """Each item to the branch that a function names."""

    async def send(self, envelope: Envelope) -> None:
        step = self.steps[0]
        stage = step.stage
        assert isinstance(stage, RouteStage)
        try:
            key = self.ask(step, stage, envelope.value)
            if inspect.isawaitable(key):
                key = await key
            outlet = self.outlets.get(key)
            if outlet is None:
                outlet = self.otherwise(stage, key, step.name)
        except BaseException as raised:
            error = await own_error(raised, self.frame, step.name)
            self.check_failed(step.name, error)
            await self.pass_mark(await self.handle(step, envelope, error))
            return
        self.check()
        if await self.give(envelope, outlet):
            step.tally.done += 1
        else:
            step.tally.discarded += 1  # that branch has had enough, others have not

    def ask(self, step: Step, stage: RouteStage, value: Any) -> Any:
        """Call the function that names the branch, and see how long it keeps the event loop."""
        began = perf_counter()
        try:
            return stage.key(value)
        finally:
            spent = perf_counter() - began
            if spent > LONGEST_HOLD:
                step.held(spent, MAP_IN_A_THREAD)

    def otherwise(self, stage: RouteStage, key: Any, name: str) -> Outlet:
        """Give the default branch.

        Raises:
            LookupError: there is none.
        """
        if stage.default is None:
            known = ", ".join(safe_repr(branch) for branch in stage.branches)
            raise LookupError(
                f"route {name!r} has no branch {safe_repr(key)}; its branches are {known}, "
                "and default= may name one for the rest"
            )
        return self.outlets[stage.default]


def nobody_had_it(edge: Edge, outlet: Outlet) -> bool:
    """Tell whether the item before an edge that is about to close was read at no other edge.

    Where several flows grow from one branch each of them has every item of the branch, so its number
    is the same everywhere.
    """
    number = edge.left + 1
    return all(other is edge or (other.finished and other.left < number) for other in outlet.edges)


class BalanceRunner(SplitRunner):
    """Each item to whichever branch is free first, ties in turn.

    A sentinel goes to all branches in one step, when all their edges are empty: if it went to one
    after the other, an item that came back from a branch could be given to the next one behind it.

    A branch that goes away gives back what stands before it, and the others get it, also when the
    input has ended. So then a branch ends when it asks for more, and not before.

    Attributes:
        back: what stood before a branch that went away; it is given to the others.
        all: every edge of every branch.
    """

    def __init__(
        self,
        frame: Frame,
        steps: Sequence[Step],
        inlets: Sequence[Edge],
        outlets: Mapping[Hashable, Outlet],
    ) -> None:
        super().__init__(frame, steps, inlets, outlets)
        self.branches = list(self.outlets.values())
        self.turn = 0
        self.back: deque[Envelope | Fault] = deque()
        self.all = Outlet(edge for outlet in self.branches for edge in outlet.edges)
        for outlet in self.branches:
            for edge in outlet.edges:
                edge.reclaim = partial(self.reclaim, edge, outlet)

    def reclaim(self, edge: Edge, outlet: Outlet) -> None:
        """Take back what stands before a branch that wants no more, if nobody has had it."""
        while nobody_had_it(edge, outlet) and (thing := edge.take_back()) is not None:
            if type(thing) is Envelope:
                self.steps[0].tally.done -= 1
                if thing.clock is not None:
                    del thing.clock[-4:]  # it has not left yet
            self.back.append(thing)
        if self.back:
            self.bell.ring()

    def forget(self) -> None:
        self.back.clear()

    def returned(self) -> Envelope | Fault | None:
        return self.back.popleft() if self.back else None

    async def serve(self) -> None:
        await super().serve()
        for edge in self.all.edges:
            edge.announces = True
        while True:
            await self.give_back()
            for outlet in self.branches:
                if all(e.reader and not e.used for e in outlet.edges if not e.finished):
                    outlet.end()
            full = [edge for edge in self.all.edges if edge.inside and not edge.finished]
            if not full:
                return
            await self.wait_change(full)

    async def give_back(self) -> None:
        """Give what came back from branches that went away to the others."""
        while self.back:
            thing = self.back.popleft()
            if type(thing) is Envelope:
                await self.send(thing)
            else:
                await super().pass_mark(thing)

    async def wait_change(self, full: Sequence[Edge]) -> None:
        """Wait until an item is taken, a branch goes away, or one waits that did not."""
        self.since = began = perf_counter()
        self.waits, self.waits_at = "output", full
        edges = [edge for edge in self.all.edges if not edge.finished]
        for edge in edges:
            edge.writer = self.bell
        try:
            await self.bell.wait()
        finally:
            self.waits = ""
            self.steps[0].tally.blocked += perf_counter() - began
            for edge in edges:
                if edge.writer is self.bell:
                    edge.writer = None
        self.check()

    def conclude(self) -> None:
        for edge in self.all.edges:
            edge.reclaim = None  # too late to give anything to another branch
        super().conclude()

    async def pass_mark(self, mark: Mark) -> None:
        if type(mark) is not Barrier:
            await super().pass_mark(mark)
            return
        while True:
            await self.give_back()
            if self.all.put_mark(mark):
                return
            await self.wait_room(self.all, mark)

    async def send(self, envelope: Envelope) -> None:
        while not self.put(envelope):
            await self.wait_any_room(envelope)
        self.steps[0].tally.done += 1

    def put(self, envelope: Envelope) -> bool:
        """Offer an item to each branch in turn."""
        count = len(self.branches)
        gone = 0
        for step in range(count):
            outlet = self.branches[(self.turn + step) % count]
            try:
                if outlet.ended:
                    gone += 1
                elif outlet.put(envelope):
                    self.turn = (self.turn + step + 1) % count
                    return True
            except Enough:
                gone += 1
        if gone == count:
            raise Enough
        return False

    async def wait_any_room(self, envelope: Envelope) -> None:
        """Wait until any branch may have room."""
        edges = [edge for edge in self.all.edges if not (edge.finished or edge.ended)]
        await self.wait_room(Outlet(edges), envelope)

    def discard(self) -> int:
        self.back.clear()
        return super().discard()
