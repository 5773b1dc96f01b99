"""Who waits for whom in a live graph: the graph of waits, the circle in it, and its words.

A task that waits to give waits for the readers of the edges that are full; one that waits for input
waits for the writers of the edges that are empty. Readers and senders in the user's code are the
outermost parties: nobody can tell what else they wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from attrs import frozen

from ._engine import EntryRunner, InputRunner, Runner, SourceRunner
from ._stages import ConcatStage
from ._wires import Edge

if TYPE_CHECKING:
    from ._live import Live


@frozen
class Wait:
    """One task that waits for another.

    Attributes:
        waiter: whose task it is.
        awaited: whose turn it would be; `None` for a reader in the user's code.
        edge: where.
        gives: whether the waiter waits to give there, and not to take.
    """

    waiter: Runner
    awaited: Runner | None
    edge: Edge
    gives: bool

    def __str__(self) -> str:
        edge, waiter = self.edge, label(self.waiter)
        if self.gives:
            return f"{waiter} waits to give to {edge.target!r}, {fill(edge)}"
        if isinstance(self.waiter, SourceRunner):
            return f"{waiter} is not opened before {edge.target!r} wants it"
        return f"{waiter} waits for an item from {edge.source!r}"


def label(runner: Runner) -> str:
    """Name a task by its stages."""
    return repr(" + ".join(step.name for step in runner.steps))


def fill(edge: Edge) -> str:
    """Say how full an edge is."""
    if edge.capacity == 0:
        return "an edge that holds nothing"
    kind = "full" if is_full(edge) else "not full"
    return f"an edge that is {kind} ({edge.used} of {edge.capacity})"


def is_full(edge: Edge) -> bool:
    """Tell whether a writer has to wait here, by what is inside."""
    return edge.reader is None if edge.capacity == 0 else edge.used >= edge.capacity


class Waits:
    """The graph of waits of this moment."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.readers = {edge: runner for runner in live.runners for edge in runner.inlets}
        self.writers = {edge: runner for runner in live.runners for edge in runner.edges_below()}

    def of(self, runner: Runner) -> Iterator[Wait]:
        """Give everything that one task waits for."""
        if runner.ended is not None:
            return
        if isinstance(runner, SourceRunner) and runner.at_gate:
            yield from self._gate(runner)
        elif runner.moves():
            return  # it has been rung, or works besides
        elif runner.waits == "output":
            for edge in runner.waits_at:
                if not edge.finished and is_full(edge):
                    yield Wait(runner, self.readers.get(edge), edge, True)
        elif runner.waits == "input":
            for edge in runner.waits_at:
                if not edge.used and not edge.ended:
                    yield Wait(runner, self.writers.get(edge), edge, False)

    def _gate(self, source: SourceRunner) -> Iterator[Wait]:
        """Find the joins that do not want a source yet."""
        pending, seen = source.edges_below(), set[Edge]()
        while pending:
            edge = pending.pop(0)
            reader = self.readers.get(edge)
            if edge in seen or reader is None or edge.wanted:
                continue
            seen.add(edge)
            if isinstance(reader.steps[0].stage, ConcatStage):
                yield Wait(source, reader, edge, False)
            else:
                pending += reader.edges_below()

    def circle(self) -> list[Wait]:
        """Give a circle of waits, or nothing; of several the first from the entries on."""
        done: set[Runner] = set()
        for start in self.live.runners:
            path: list[Wait] = []
            on_path: dict[Runner, int] = {start: 0}
            stack = [self.of(start)]
            while stack:
                wait = next(stack[-1], None)
                if wait is None:
                    stack.pop()
                    if path:
                        ended = path.pop().awaited
                        assert ended is not None
                        del on_path[ended]
                        done.add(ended)
                elif wait.awaited in on_path:
                    return [*path[on_path[wait.awaited] :], wait]
                elif wait.awaited is not None and wait.awaited not in done:
                    path.append(wait)
                    on_path[wait.awaited] = len(path)
                    stack.append(self.of(wait.awaited))
            done.add(start)
        return []

    def blocked_by(self, start: Runner) -> set[Edge]:
        """Give the ends of the graph that stand in the way of a task: full and not read."""
        pending, seen, found = [start], set[Runner](), set[Edge]()
        while pending:
            runner = pending.pop()
            if runner in seen:
                continue
            seen.add(runner)
            for wait in self.of(runner):
                if wait.awaited is not None:
                    pending.append(wait.awaited)
                elif wait.gives:
                    found.add(wait.edge)
        return found


def senders(entry: EntryRunner) -> list[int]:
    """Give the tasks of user code that wait to send here."""
    return [ticket.task for ticket in entry.line.tickets if ticket.task]


def may_get_more(entry: EntryRunner) -> bool:
    """Tell whether somebody may send here; where senders wait, more of them would change nothing."""
    is_input = isinstance(entry, InputRunner) and entry.open
    return is_input and not entry.line.closed and not entry.line.tickets


def in_words(circle: list[Wait]) -> str:
    """Tell a circle of waits, and which of its edges to widen."""
    lines = [f"  {wait}" for wait in circle]
    for wait, following in pairwise([*circle, circle[0]]):
        if wait.gives and not following.gives:  # it is where the flows come together again
            edge = wait.edge
            lines.append(
                f"widen the edge from {edge.source!r} to {edge.target!r}, which holds "
                f"{edge.capacity}, with .buffer(n), or join with merge()"
            )
            break
    return "\n".join(lines)
