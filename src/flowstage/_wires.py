"""The edges of a live graph: bounded memory object streams, their two ends, and who waits at them.

An `Edge` is one anyio memory object stream. Items are sent and received without waiting; whoever
finds it full or empty waits at a `Bell` and tries again. So an item is always either in the stream or
in somebody's hand, never on its way to a waiting receiver, which is what makes three things exact:

* an interrupt empties the streams and knows that it has missed nothing;
* a cancelled wait has neither sent nor received, under native asyncio cancellation too (a receiver
  that is cancelled natively as it is handed an item loses it: anyio #536, #728);
* the count of what entered, left and was discarded.

Rules that hold everywhere:

* An edge has one writer and one reader.
* Closing a stream means nothing. The writer ends an edge with `end()`, once, last; the reader that
  has had enough says `finish()`. A stream that is closed without either was aborted, and whoever
  meets that concludes nothing and waits for its cancellation.
* An outlet with several edges gives to all of them or to none, so the branches of a fork have always
  been given the same items. What a branch lacks is therefore never behind what it waits for.
* No await stands between taking an item and holding it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from anyio import BrokenResourceError, WouldBlock, create_memory_object_stream

from ._envelope import Envelope, Fault, Hole, Mark
from ._watch import Bell

EMPTY: Any = type("Empty", (), {"__repr__": lambda self: "<empty>"})()
"""What `Edge.take` gives when there is nothing to take."""


class Enough(Exception):
    """Nobody downstream wants more: the writer stops quietly and passes that on."""


class Edge:
    """One bounded stream between two tasks of a run.

    Attributes:
        source, target: the names of the stages at its ends.
        capacity: items it holds; 0 is a rendezvous: it takes an item only when the reader waits.
        receive: takes the next thing or raises `WouldBlock`; for the hot loops, which then count
            `taken` and ring the `writer` themselves. Everybody else uses `take`.
        reader, writer: where the other side waits, while it does.
        ended: the writer has sent its last.
        finished: the reader wants no more.
        aligned: rows that lost their item leave a hole here.
        wanted: somebody downstream is ready to begin reading (`concat` holds later inputs back).
    """

    __slots__ = (
        "_receive_stream",
        "_send",
        "_send_stream",
        "aligned",
        "capacity",
        "discarded",
        "dropped",
        "ended",
        "faults_inside",
        "faults_out",
        "faults_total",
        "finished",
        "flushed",
        "marks_inside",
        "marks_out",
        "marks_total",
        "on_finish",
        "on_want",
        "reader",
        "receive",
        "reclaim",
        "source",
        "taken",
        "target",
        "total",
        "wanted",
        "writer",
    )

    def __init__(self, source: str, target: str, capacity: int, *, aligned: bool = False) -> None:
        self.source, self.target = source, target
        self.capacity = capacity
        self.aligned = aligned
        self._send_stream, self._receive_stream = create_memory_object_stream[Any](max(capacity, 1))
        self._send: Callable[[Any], None] = self._send_stream.send_nowait
        self.receive: Callable[[], Any] = self._receive_stream.receive_nowait
        self.reader: Bell | None = None
        self.writer: Bell | None = None
        self.ended = self.finished = False
        self.wanted = True
        self.on_want: Callable[[], Iterable[Edge]] | None = None
        self.on_finish: Callable[[], None] | None = None
        self.reclaim: Callable[[Any], None] | None = None
        # Things are items, failures, and marks (barriers, holes); all three are counted.
        self.total = self.taken = self.flushed = 0
        self.marks_total = self.marks_inside = self.marks_out = 0
        self.faults_total = self.faults_inside = self.faults_out = 0
        self.discarded = 0  # items and failures thrown away here
        self.dropped = 0  # those of them that overflowed

    # -- writing --------------------------------------------------------------------------------

    def put(self, thing: Any) -> bool:
        """Offer a thing; tell whether the edge took it.

        Raises:
            Enough: the reader wants no more.
        """
        try:
            self._send(thing)
        except WouldBlock:
            return self._overflow(thing)
        except BrokenResourceError:
            raise Enough from None
        self.total += 1
        bell = self.reader
        if bell is not None:
            self.reader = None
            bell.ring()
        return True

    def _overflow(self, thing: Any) -> bool:
        return False

    def note_mark(self, mark: Mark) -> None:
        """Count a thing, just put, that is no item (or, for a fault, no result)."""
        if type(mark) is Fault:
            self.faults_total += 1
            self.faults_inside += 1
        else:
            self.marks_total += 1
            self.marks_inside += 1

    def room(self, thing: Any) -> bool:
        """Tell whether `put` would take this thing now."""
        return self.total - self.taken - self.flushed < self.capacity

    def end(self) -> None:
        """Say that nothing more will come. Needs no room and survives an interrupt."""
        if not self.ended:
            self.ended = True
            self.ring_reader()

    # -- reading --------------------------------------------------------------------------------

    def take(self) -> Any:
        """Take the next thing, or `EMPTY`."""
        try:
            thing = self.receive()
        except WouldBlock:
            return EMPTY
        self.taken += 1
        if self.writer is not None:
            self.ring_writer()
        if type(thing) is not Envelope:
            self.took(thing)
        return thing

    def took(self, mark: Mark) -> None:
        """Count a thing, just taken with `receive`, that is no item (or, for a fault, no result)."""
        if type(mark) is Fault:
            self.faults_out += 1
            self.faults_inside -= 1
        else:
            self.marks_out += 1
            self.marks_inside -= 1

    def finish(self) -> None:
        """Want no more: what is inside is discarded, and the writer is told."""
        if self.finished:
            return
        self._reclaim_all() if self.reclaim is not None else self.flush()
        self.finished = True
        self._receive_stream.close()
        self.ring_writer()
        self.ring_reader()  # an end may be closed while somebody else waits at it
        if self.on_finish is not None:
            self.on_finish()

    def _reclaim_all(self) -> None:
        """Hand items back to a writer that can give them to somebody else."""
        while (thing := self.take()) is not EMPTY:
            is_fault = type(thing) is Fault
            if (is_fault or type(thing) is Envelope) and self.reclaim is not None:
                self.total -= 1
                self.taken -= 1
                self.faults_total -= is_fault
                self.faults_out -= is_fault
                self.reclaim(thing)

    def want(self) -> None:
        """Be ready to begin reading; sources above that nobody else reads are opened now."""
        wanted: list[Edge] = [self]
        while wanted:  # a loop, since a graph may be deeper than the stack
            edge = wanted.pop()
            if not edge.wanted:
                edge.wanted = True
                if edge.on_want is not None:
                    wanted.extend(edge.on_want())

    # -- for whoever owns both ends -------------------------------------------------------------

    def flush(self) -> int:
        """Discard everything inside, free the writer, and give the number of items."""
        items = 0
        while True:
            try:
                thing = self.receive()
            except WouldBlock:
                break
            self.flushed += 1
            if type(thing) is Envelope or type(thing) is Fault:
                items += 1
        self.marks_inside = self.faults_inside = 0
        self.discarded += items
        self.ring_writer()
        return items

    def close(self) -> int:
        """Close both ends of the stream, at the end of the run; give the number of items lost."""
        lost = 0 if self.finished else self.flush()
        self._send_stream.close()
        self._receive_stream.close()
        return lost

    @property
    def used(self) -> int:
        """Things inside."""
        return self.total - self.taken - self.flushed

    @property
    def entered(self) -> int:
        """Items that came in, failures among them."""
        return self.total - self.marks_total

    @property
    def values_in(self) -> int:
        """Results that came in: items that are no failures."""
        return self.total - self.marks_total - self.faults_total

    @property
    def left(self) -> int:
        """Items that the reader took, failures among them."""
        return self.taken - self.marks_out

    @property
    def values_out(self) -> int:
        """Items that the reader took and has to process."""
        return self.taken - self.marks_out - self.faults_out

    @property
    def inside(self) -> int:
        """Items inside now."""
        return self.used - self.marks_inside

    def ring_writer(self) -> None:
        """Tell the writer that there may be room."""
        bell = self.writer
        if bell is not None:
            self.writer = None
            bell.ring()

    def ring_reader(self) -> None:
        """Tell the reader that there may be something to take."""
        bell = self.reader
        if bell is not None:
            self.reader = None
            bell.ring()


class Rendezvous(Edge):
    """An edge of capacity 0: an item passes when the reader waits for it."""

    __slots__ = ()

    def put(self, thing: Any) -> bool:
        if self.finished:
            raise Enough
        return self.room(thing) and super().put(thing)

    def room(self, thing: Any) -> bool:
        return self.reader is not None and not self.used


class Lossy(Edge):
    """A full edge loses items on purpose; sentinels and failures are never dropped."""

    __slots__ = ()

    def _drop(self) -> None:
        self.flushed += 1
        self.discarded += 1
        self.dropped += 1


class DropNewest(Lossy):
    """A full edge drops the item that arrives; a sentinel or failure waits for room."""

    __slots__ = ()

    def _overflow(self, thing: Any) -> bool:
        if type(thing) is not Envelope:
            return False
        self.total += 1
        self._drop()
        return True

    def room(self, thing: Any) -> bool:
        return type(thing) is Envelope or super().room(thing)


class DropOldest(Lossy):
    """A full edge drops the oldest item in it; when it holds none, the writer waits."""

    __slots__ = ()

    def _overflow(self, thing: Any) -> bool:
        if not self.room(thing):
            return False
        dropped = False
        for _ in range(self.used):  # once around, in order; the head usually is an item
            head = self.receive()
            if type(head) is Envelope and not dropped:
                dropped = True
                self._drop()
                if not self.marks_inside and not self.faults_inside:
                    break
            else:
                self._send(head)
        return self.put(thing)

    def room(self, thing: Any) -> bool:
        return super().room(thing) or self.used > self.marks_inside + self.faults_inside


class Overflowing(Edge):
    """A full edge is an error, which `on_overflow` raises in the name of the buffer."""

    __slots__ = ("on_overflow", "overflowed")

    on_overflow: Callable[[Any], None]

    def __init__(self, source: str, target: str, capacity: int, *, aligned: bool = False) -> None:
        super().__init__(source, target, capacity, aligned=aligned)
        self.overflowed = False  # the run is failing: from now on whoever comes waits for that

    def _overflow(self, thing: Any) -> bool:
        if type(thing) is Envelope and not self.overflowed:
            self.overflowed = True
            self.on_overflow(thing.value)
        return False

    def room(self, thing: Any) -> bool:
        return super().room(thing) or (type(thing) is Envelope and not self.overflowed)


KINDS: dict[str, type[Edge]] = {
    "block": Edge,
    "drop_oldest": DropOldest,
    "drop_newest": DropNewest,
    "error": Overflowing,
}


class Outlet:
    """The writer's end of all the edges that leave one port.

    Attributes:
        edges: where it gives to; one whose reader has had enough is passed over.
        put: offers an item to all edges; tells whether they took it. Never waits. Raises `Enough`
            when no edge is left to give to.
    """

    __slots__ = ("_given", "_sole", "edges", "put")

    def __init__(self, edges: Iterable[Edge]) -> None:
        self.edges = list(edges)
        self._given = 0
        self._sole = self.edges[0] if len(self.edges) == 1 else None
        self.put: Callable[[Any], bool] = self._put_to_all if self._sole is None else self._sole.put

    def _put_to_all(self, thing: Any) -> bool:
        """Give to every open edge or to none; each further one gets an envelope of its own."""
        first: Edge | None = None
        further: list[Edge] = []
        for edge in self.edges:
            if edge.finished:
                continue
            if not edge.room(thing):
                return False
            if first is None:
                first = edge
            else:
                further.append(edge)
        if first is None:
            raise Enough
        is_item = type(thing) is Envelope
        self._given += is_item
        copies = [thing.copy() for _ in further] if is_item else further
        first.put(thing)
        for edge, copy in zip(further, copies, strict=True):
            edge.put(copy if is_item else thing)
        return True

    def put_mark(self, mark: Mark) -> bool:
        """Offer what is no item: a barrier, a fault or a hole (only where holes are kept)."""
        if type(mark) is Hole:
            edges = [edge for edge in self.edges if edge.aligned and not edge.finished]
            if not all(edge.room(mark) for edge in edges):
                return False
            for edge in edges:
                edge.put(mark)
                edge.note_mark(mark)
            return True
        if not self.put(mark):
            return False
        for edge in self.edges:
            if not edge.finished:
                edge.note_mark(mark)
        return True

    @property
    def given(self) -> int:
        """Results that went out; faults, barriers and holes apart."""
        return self._given if self._sole is None else self._sole.values_in

    @property
    def aligned(self) -> bool:
        """Whether a row that lost its item has to leave a hole here."""
        return any(edge.aligned for edge in self.edges)

    @property
    def open(self) -> bool:
        """Whether anybody still wants what goes out here."""
        return any(not edge.finished for edge in self.edges)

    async def wait_room(self, thing: Any, bell: Bell) -> None:
        """Wait until edges that had no room for a thing may have some."""
        full = [edge for edge in self.edges if not (edge.finished or edge.room(thing))]
        if type(thing) is Hole:
            full = [edge for edge in full if edge.aligned]
        if not full:
            return
        for edge in full:
            edge.writer = bell
        try:
            await bell.wait()
        finally:
            for edge in full:
                if edge.writer is bell:
                    edge.writer = None

    def end(self) -> None:
        """End every edge."""
        for edge in self.edges:
            edge.end()


async def wait_any(inlets: Sequence[Edge], bell: Bell) -> None:
    """Wait until one of several edges, all found empty, may have something or has ended."""
    if any(edge.used for edge in inlets):
        return  # it came while something was given on behalf of another inlet
    for edge in inlets:
        edge.reader = bell
        if edge.capacity == 0:
            edge.ring_writer()
    try:
        await bell.wait()
    finally:
        for edge in inlets:
            if edge.reader is bell:
                edge.reader = None
