"""Fan-in: merge, gather, zip, zip_latest and concat.

Sentinels are aligned barriers with one order for the whole graph. Where inputs are mixed by time
(`merge`, `zip_latest`) an input that has brought a barrier is not read until every open input has;
since all entries placed all barriers in the same order, and a fork gives to all its branches or to
none, the others are always able to bring it. An input that has ended counts as aligned, and so does
one that has brought a later barrier.

`gather` needs no store of rows: between the fork and the join every stage puts exactly one thing on
its edge for each item, a hole where the item was dropped, so the n-th things of all inputs are one
row. `zip` pairs by position. `concat` reads one input after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyio.lowlevel import checkpoint

from .._envelope import HOLE, Barrier, Envelope, Failure, Fault, Hole
from .._errors import NO_ITEM
from .._stages import MAIN, ZipStage
from .._wires import EMPTY, Bare, Edge
from .runner import MOST_IN_A_TURN, Runner, Stopped

SHARE = 32
"""Things taken from one input before the next one has its turn; a guess, small beside a buffer."""


class JoinRunner(Runner):
    """What all joins share: their account, and letting others have a turn."""

    turns = 0

    def over(self, edge: Edge) -> bool:
        """Tell whether an input has ended and been read to its end."""
        return edge.ended and not edge.used

    async def rest(self) -> None:
        """Let other tasks have a turn, once in a while."""
        self.turns += 1
        if self.turns >= MOST_IN_A_TURN // SHARE:
            self.turns = 0
            await checkpoint()
            self.check()

    def refresh(self) -> None:
        tally = self.steps[0].tally
        tally.taken = sum(edge.values_out for edge in self.inlets)
        tally.given = self.outlets[MAIN].given


class MergeRunner(JoinRunner):
    """Items of all inputs as they come."""

    async def serve(self) -> None:
        self.begin()
        held: dict[Edge, Barrier] = {}
        open_inlets = self.inlets
        while True:
            moved = False
            for edge in open_inlets:
                if edge.used and edge not in held:
                    moved = await self.read_share(edge, held) or moved
            open_inlets = [edge for edge in open_inlets if not self.over(edge) or edge in held]
            if held and all(edge in held for edge in open_inlets):
                first = min(held.values(), key=lambda barrier: barrier.number)
                await self.pass_mark(first)
                held = {e: b for e, b in held.items() if b.number > first.number}
            elif not open_inlets:
                return
            elif moved:
                await self.rest()
            else:
                await self.wait_item([edge for edge in open_inlets if edge not in held])

    def begin(self) -> None:
        """Set up the state of an epoch."""

    async def read_share(self, edge: Edge, held: dict[Edge, Barrier]) -> bool:
        """Read some of one input; tell whether there was anything."""
        if self.passes and self.pass_values(edge):
            return True
        thing = EMPTY
        for count in range(SHARE):
            thing = edge.take()
            if type(thing) is Envelope:
                await self.on_item(thing, edge)
            elif thing is EMPTY:
                return count > 0
            elif type(thing) is Barrier:
                held[edge] = thing
                return True
            else:
                await self.pass_mark(thing)
        return True

    passes = True
    """Whether items go on as they are."""

    def pass_values(self, edge: Edge) -> bool:
        """Pass on a share of bare values at once, if there are any and there is room."""
        head, outlet = edge.refill(), self.outlets[MAIN]
        if type(head) is not Bare or not head or not outlet.bulk:
            return False
        count = min(len(head), SHARE, outlet.space())
        if count <= 0:
            return False
        values = [head.popleft() for _ in range(count)]
        edge.taken += count
        edge.ring_writer()
        outlet.put_values(values)
        self.steps[0].tally.done += count
        return True

    async def on_item(self, envelope: Envelope, edge: Edge) -> None:
        """Pass an item on."""
        await self.give(envelope, self.outlets[MAIN])
        self.steps[0].tally.done += 1


class ZipLatestRunner(MergeRunner):
    """The latest item of every input, whenever one of them changes."""

    passes = False

    def begin(self) -> None:
        self.latest: dict[Edge, Envelope] = {}

    def forget(self) -> None:
        self.latest = {}

    async def on_item(self, envelope: Envelope, edge: Edge) -> None:
        self.latest[edge] = envelope
        if len(self.latest) == len(self.inlets):
            parts = [self.latest[inlet] for inlet in self.inlets]
            row = self.frame.joined(tuple(part.value for part in parts), parts)
            await self.give(row, self.outlets[MAIN])
        self.steps[0].tally.done += 1


class RowRunner(JoinRunner):
    """Rows of the next thing of each input."""

    async def serve(self) -> None:
        self.begin()
        self.heads: list[Any] = [EMPTY] * len(self.inlets)
        while True:
            missing: list[Edge] = []
            for number, edge in enumerate(self.inlets):
                if self.heads[number] is EMPTY:
                    self.heads[number] = await self.next_of(edge)
                    if self.heads[number] is EMPTY:
                        missing.append(edge)
            if not missing:
                row, self.heads = self.heads, [EMPTY] * len(self.inlets)
                await self.on_row(row)
                await self.rest_sometimes()
            elif any(self.over(edge) for edge in missing):
                await self.on_end(missing)
                return
            else:
                await self.wait_item(missing)

    def forget(self) -> None:
        self.heads = []

    async def rest_sometimes(self) -> None:
        """Let other tasks have a turn after many rows."""
        self.turns += 1
        if self.turns >= MOST_IN_A_TURN:
            self.turns = 0
            await checkpoint()
            self.check()

    def begin(self) -> None:
        """Set up the state of an epoch."""

    async def next_of(self, edge: Edge) -> Any:
        """Take the next thing of an input, if there is one."""
        return edge.take()

    async def on_row(self, row: Sequence[Any]) -> None:
        """Give what a full row makes."""
        items = [thing for thing in row if type(thing) is Envelope]
        tally = self.steps[0].tally
        fault = next((thing for thing in row if type(thing) is Fault), None)
        if fault is not None:
            await self.pass_mark(fault)
            tally.filtered += len(items)
        elif any(type(thing) is Hole for thing in row):
            await self.give_mark(HOLE, self.outlets[MAIN])
            tally.filtered += len(items)
        else:
            value = tuple(envelope.value for envelope in items)
            await self.give(self.frame.joined(value, items, merge=self.merges), self.outlets[MAIN])
            tally.done += len(items)

    merges = False
    """Whether the contexts of a row's items are merged, or a fresh one is begun."""

    async def on_end(self, missing: Sequence[Edge]) -> None:
        """Deal with the end of an input."""


class GatherRunner(RowRunner):
    """One tuple for each item of the flow from which all inputs grow."""

    merges = True

    async def on_row(self, row: Sequence[Any]) -> None:
        if type(row[0]) is Barrier:
            await self.pass_mark(row[0])
        else:
            await super().on_row(row)


class ZipRunner(RowRunner):
    """Tuples by position; a sentinel goes on when the first input brings it."""

    def begin(self) -> None:
        self.passed = -1

    async def next_of(self, edge: Edge) -> Any:
        while type(thing := edge.take()) is Barrier:
            if thing.number > self.passed:
                self.passed = thing.number
                await self.pass_mark(thing)
        return thing

    async def on_end(self, missing: Sequence[Edge]) -> None:
        stage = self.steps[0].stage
        assert isinstance(stage, ZipStage)
        if not stage.strict:
            return
        while True:
            for number, edge in enumerate(self.inlets):
                if self.heads[number] is EMPTY:
                    self.heads[number] = await self.next_of(edge)
            if any(head is not EMPTY for head in self.heads):
                break  # one has an item for which another one has no partner any more
            still_open = [edge for edge in self.inlets if not self.over(edge)]
            if not still_open:
                return
            await self.wait_item(still_open)
        ended = [
            repr(edge.source)
            for number, edge in enumerate(self.inlets)
            if self.heads[number] is EMPTY and self.over(edge)
        ]
        error = ValueError(
            f"zip(strict=True) got flows of different lengths; ended first: {', '.join(ended)}"
        )
        self.frame.fail(Failure(self.steps[0].name, NO_ITEM, error, 1))
        raise Stopped


class ConcatRunner(JoinRunner):
    """One input after the other; each is opened when the one before has ended.

    Attributes:
        current: the input being read. It survives an interrupt: what has ended stays ended.
        passed: the last sentinel that went on, since inputs of one entry bring each of them.
        wants: somebody downstream wants to read; a `concat` inside a `concat` waits its turn.
    """

    current = 0
    passed = -1
    wants = True

    def hold_back(self) -> None:
        self.wants = False

    def on_want(self) -> Sequence[Edge]:
        self.wants = True
        return self.inlets[self.current : self.current + 1]

    async def serve(self) -> None:
        while self.current < len(self.inlets):
            edge = self.inlets[self.current]
            if self.wants:
                edge.want()
            thing = edge.take()
            if type(thing) is Envelope:
                await self.give(thing, self.outlets[MAIN])
                self.steps[0].tally.done += 1
                self.turns += 1
                if self.turns % MOST_IN_A_TURN == 0:
                    await checkpoint()
                    self.check()
            elif type(thing) is Barrier:
                if thing.number > self.passed:
                    self.passed = thing.number
                    await self.pass_mark(thing)
            elif thing is not EMPTY:
                await self.pass_mark(thing)
            elif edge.ended:
                self.current += 1
            else:
                await self.wait_item([edge])
