"""The edges of a live graph: bounded memory object streams, their two ends, and who waits at them.

An `Edge` is one anyio memory object stream. What it carries are bursts: what a writer gives between
two turns of its reader travels as one object, so a hop costs one send and one receive a burst and
not an item (a send and a receive are a quarter of a microsecond, as much as everything else on the
hop). The bound is in items all the same, counted here, since the stream can only count bursts.

Nothing is ever sent to a waiting receiver. Bursts are sent and received without waiting; whoever finds
an edge full or empty waits at a `Bell` and tries again. So an item is always either inside or in
somebody's hand, never on its way, which is what makes three things exact:

* an interrupt empties the streams and knows that it has missed nothing;
* a cancelled wait has neither sent nor received, under native asyncio cancellation too (a receiver
  that is cancelled natively as it is handed an item loses it: anyio #536, #728);
* the count of what entered, left and was discarded.

Rules that hold everywhere:

* An edge has one writer and one reader; only `balance` takes back, from its own edges, what nobody has
  read.
* Closing a stream means nothing. The writer ends an edge with `end()`, once, last; the reader that
  has had enough says `finish()`. A stream that is closed without either was aborted, and whoever
  meets that concludes nothing and waits for its cancellation.
* An outlet with several edges gives to all of them or to none, so the branches of a fork have always
  been given the same items. What a branch lacks is therefore never behind what it waits for.
* No await stands between taking an item and holding it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, MutableSequence, Sequence
from typing import Any

from anyio import BrokenResourceError, create_memory_object_stream

from ._clock import Times, leave
from ._envelope import Envelope, Fault, Hole, Mark
from ._watch import Bell


class Bare(deque[Any]):
    """A burst of bare values: no marks among them, no contexts, no clocks."""

    __slots__ = ()


EMPTY: Any = type("Empty", (), {"__repr__": lambda self: "<empty>"})()
"""What `Edge.take` gives when there is nothing to take."""


class Enough(Exception):
    """Nobody downstream wants more: the writer stops quietly and passes that on."""


class Edge:
    """One bounded stream between two tasks of a run.

    Attributes:
        source, target: the names of the stages at its ends.
        capacity: items it holds; 0 is a rendezvous: it takes an item only when the reader waits.
        announces: the writer wants to know when the reader begins to wait.
        reader, writer: where the other side waits, while it does.
        ended: the writer has sent its last.
        finished: the reader wants no more.
        aligned: rows that lost their item leave a hole here.
        wanted: somebody downstream is ready to begin reading (`concat` holds later inputs back).
    """

    __slots__ = (
        "_receive",
        "_receive_stream",
        "_send",
        "_send_stream",
        "aligned",
        "announces",
        "capacity",
        "clocks",
        "discarded",
        "dropped",
        "ended",
        "faults_inside",
        "faults_out",
        "faults_total",
        "finished",
        "flushed",
        "head",
        "is_entry",
        "marks_inside",
        "marks_out",
        "marks_total",
        "on_finish",
        "on_want",
        "reader",
        "reclaim",
        "source",
        "tail",
        "taken",
        "target",
        "total",
        "wanted",
        "writer",
    )

    bulk = True
    """Whether `put_value` and `put_values` spare values their envelopes here."""
    blocks = True
    """Whether a writer waits while it is full."""
    stamps = False
    """Whether it notes on each item's clock when it came in; if not, its writer does."""

    def __init__(self, source: str, target: str, capacity: int, *, aligned: bool = False) -> None:
        self.source, self.target = source, target
        self.capacity = capacity
        self.announces = capacity == 0
        self.aligned = aligned
        self._send_stream, self._receive_stream = create_memory_object_stream[Any](max(capacity, 1))
        self._send: Callable[[Any], None] = self._send_stream.send_nowait
        self._receive: Callable[[], Any] = self._receive_stream.receive_nowait
        self.head: deque[Any] = deque()  # the burst that is being read
        self.tail: deque[Any] | None = None  # the burst that is still in the stream and can grow
        self.reader: Bell | None = None
        self.writer: Bell | None = None
        self.ended = self.finished = False
        self.wanted = True
        self.is_entry = False  # it comes straight from where items enter
        self.on_want: Callable[[], Iterable[Edge]] | None = None
        self.on_finish: Callable[[], None] | None = None
        self.reclaim: Callable[[], None] | None = None  # gives what is inside to other edges
        self.clocks: Times | None = None  # who wants the clocks of what comes in, at an end
        # Things are items, failures, and marks (barriers, holes); all three are counted.
        self.total = self.taken = self.flushed = 0
        self.marks_total = self.marks_inside = self.marks_out = 0
        self.faults_total = self.faults_inside = self.faults_out = 0
        self.discarded = 0  # items and failures thrown away here
        self.dropped = 0  # those of them that overflowed

    # -- writing --------------------------------------------------------------------------------

    def put(self, thing: Any) -> bool:
        """Offer an envelope or a mark; tell whether the edge took it.

        Raises:
            Enough: the reader wants no more.
        """
        total = self.total
        if total - self.taken - self.flushed >= self.capacity:
            return self._full(thing)
        tail = self.tail
        if tail.__class__ is deque:
            tail.append(thing)  # pyright: ignore[reportOptionalMemberAccess]
        else:
            self._begin(deque((thing,)))
        self.total = total + 1
        if self.reader is not None:
            self.ring_reader()
        return True

    def put_value(self, value: Any) -> bool:
        """Offer an item that needs no envelope; tell whether the edge took it.

        Raises:
            Enough: the reader wants no more.
        """
        total = self.total
        if total - self.taken - self.flushed >= self.capacity:
            return self._full(Envelope(value))
        tail = self.tail
        if tail.__class__ is Bare:
            tail.append(value)  # pyright: ignore[reportOptionalMemberAccess]
        else:
            burst = Bare((value,))  # as `_begin` and `ring_reader` do, without calls for each item
            try:
                self._send(burst)
            except BrokenResourceError:
                raise Enough from None
            self.tail = burst
        self.total = total + 1
        bell = self.reader
        if bell is not None:
            self.reader = None
            bell.ring()
        return True

    def put_values(self, values: Sequence[Any]) -> None:
        """Put items that need no envelope and that `space` has room for."""
        if not values:
            return
        tail = self.tail
        if tail.__class__ is Bare:
            tail.extend(values)  # pyright: ignore[reportOptionalMemberAccess]
        else:
            self._begin(Bare(values))
        self.total += len(values)
        if self.reader is not None:
            self.ring_reader()

    def put_envelopes(self, envelopes: Sequence[Envelope]) -> None:
        """Put items in envelopes that `space` has room for."""
        self._begin(deque(envelopes))
        self.total += len(envelopes)
        if self.reader is not None:
            self.ring_reader()

    def space(self) -> int:
        """Tell how many items `put_values` may put now."""
        return self.capacity - self.total + self.taken + self.flushed

    def _begin(self, burst: deque[Any]) -> None:
        """Send a new burst, which grows for as long as nobody has taken it."""
        try:
            self._send(burst)
        except BrokenResourceError:
            raise Enough from None
        self.tail = burst

    def _full(self, thing: Any) -> bool:
        if self.finished:
            raise Enough
        return self._overflow(thing)

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

    def refill(self) -> deque[Any]:
        """Give the burst being read, or the next one; it is empty when there is nothing to take.

        Whoever takes from it counts `taken` for each thing and rings the `writer`. A `Bare` holds
        bare values; any other burst envelopes and marks.
        """
        if not self.head and self.total - self.taken - self.flushed:
            self.head = head = self._receive()
            if head is self.tail:
                self.tail = None
        return self.head

    def take(self) -> Any:
        """Take the next thing, or `EMPTY`."""
        head = self.head or self.refill()
        if not head:
            return EMPTY
        thing = head.popleft()
        self.taken += 1
        if self.writer is not None:
            self.ring_writer()
        if head.__class__ is Bare:
            return Envelope(thing)
        if type(thing) is not Envelope:
            self.took(thing)
        return thing

    def took(self, mark: Mark) -> None:
        """Count a thing, just taken, that is no item (or, for a fault, no result)."""
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
        if self.reclaim is not None:
            self.reclaim()
        self.flush()
        self.finished = True
        self._receive_stream.close()
        self.ring_writer()
        self.ring_reader()  # an end may be closed while somebody else waits at it
        if self.on_finish is not None:
            self.on_finish()

    def take_back(self) -> Envelope | Fault | None:
        """Take the next item, as if it had never come in: its writer can give it to somebody else."""
        while (thing := self.take()) is not EMPTY:
            if type(thing) is Envelope or type(thing) is Fault:
                is_fault = type(thing) is Fault
                self.total -= 1
                self.taken -= 1
                self.faults_total -= is_fault
                self.faults_out -= is_fault
                return thing
        return None

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
        things = self.used
        items = things - self.marks_inside
        while self.refill():
            self.flushed += len(self.head)
            self.head.clear()
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


class Boxed(Edge):
    """An edge that looks at each thing it is given."""

    __slots__ = ()

    bulk = False

    def put_value(self, value: Any) -> bool:
        return self.put(Envelope(value))


class Rendezvous(Boxed):
    """An edge of capacity 0: an item passes when the reader waits for it."""

    __slots__ = ()

    def put(self, thing: Any) -> bool:
        if self.finished:
            raise Enough
        if not self.room(thing):
            return False
        self._begin(deque((thing,)))
        self.total += 1
        self.ring_reader()
        return True

    def room(self, thing: Any) -> bool:
        return self.reader is not None and not self.used


class Poured(Edge):
    """An end that is read in one go: what comes leaves the run at once, into a list.

    It never holds anything, so it is never full and whoever gives to it never waits here; every loop
    that gives therefore has to let others have a turn by itself.

    Attributes:
        into: the list.
    """

    __slots__ = ("into",)

    blocks = False
    into: MutableSequence[Any]

    def put(self, thing: Any) -> bool:
        if self.finished:
            raise Enough
        if type(thing) is Envelope:
            self.into.append(thing.value)
        elif type(thing) is Fault:
            self.into.append(thing.failure)
        self.total += 1
        self.taken += 1
        return True

    def put_value(self, value: Any) -> bool:
        if self.finished:
            raise Enough
        self.into.append(value)
        self.total += 1
        self.taken += 1
        return True

    def put_values(self, values: Sequence[Any]) -> None:
        self.into.extend(values)
        self.total += len(values)
        self.taken += len(values)

    def note_mark(self, mark: Mark) -> None:
        super().note_mark(mark)
        self.took(mark)

    def space(self) -> int:
        return self.capacity or 1  # what is in hand at once: no more than if it held that much

    def room(self, thing: Any) -> bool:
        return True


class Lossy(Boxed):
    """A full edge loses items on purpose; sentinels and failures are never dropped."""

    __slots__ = ()

    blocks = False

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
        thing.clock = None  # it has not come in
        return True

    def room(self, thing: Any) -> bool:
        return type(thing) is Envelope or super().room(thing)


class DropOldest(Lossy):
    """A full edge drops the oldest item in it; when it holds none, the writer waits."""

    __slots__ = ()

    def _overflow(self, thing: Any) -> bool:
        if not self.room(thing):
            return False
        while len(self.head) < self.used:  # all that is inside, in order, as one burst
            self.head.extend(self._receive())
        self.tail = None
        for number, old in enumerate(self.head):  # the first usually is an item
            if type(old) is Envelope:
                del self.head[number]
                self._drop()
                break
        return super().put(thing)  # not `self.put`, which may be what has called this

    def room(self, thing: Any) -> bool:
        return super().room(thing) or self.used > self.marks_inside + self.faults_inside


class Overflowing(Boxed):
    """A full edge is an error, which `on_overflow` raises in the name of the buffer."""

    __slots__ = ("on_overflow", "overflowed")

    blocks = False
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


class Timed(Boxed):
    """An edge that notes on each item's clock when it came in."""

    __slots__ = ()

    stamps = True

    def put(self, thing: Any) -> bool:
        if not super().put(thing):
            return False
        if type(thing) is Envelope and thing.clock is not None:
            leave(thing.clock, "" if self.is_entry else self.source)
            if self.clocks is not None:
                self.clocks.add(thing.clock)
        return True


def timed(kind: type[Edge]) -> type[Edge]:
    """Give the kind of edge that keeps time besides."""
    return type(f"Timed{kind.__name__}", (Timed, kind), {"__slots__": ()})


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
        sole: the edge, if there is just one.
        put: offers an item to all edges; tells whether they took it. Never waits. Raises `Enough`
            when no edge is left to give to.
        bulk: whether `put_values` may be used here: no edge has to look at each item.
    """

    __slots__ = ("_given", "bulk", "edges", "put", "put_value", "sole")

    def __init__(self, edges: Iterable[Edge]) -> None:
        self.edges = list(edges)
        self._given = 0
        self.sole = self.edges[0] if len(self.edges) == 1 else None
        self.bulk = all(edge.bulk for edge in self.edges)
        self.put: Callable[[Any], bool] = self._put_to_all if self.sole is None else self.sole.put
        self.put_value: Callable[[Any], bool] = self._put_value_to_all
        if self.sole is not None:
            self.put_value = self.sole.put_value

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

    def _put_value_to_all(self, value: Any) -> bool:
        return self._put_to_all(Envelope(value))

    def space(self) -> int:
        """Tell how many items `put_values` may put now."""
        if self.sole is not None:
            return 0 if self.sole.finished else self.sole.space()
        return min((edge.space() for edge in self.edges if not edge.finished), default=0)

    def put_values(self, values: Sequence[Any]) -> None:
        """Put items that need no envelope and that `space` has room for."""
        if self.sole is not None:
            if not self.sole.finished:
                self.sole.put_values(values)
            return
        self._given += len(values)
        for edge in self.edges:
            if not edge.finished:
                edge.put_values(values)

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
        return self._given if self.sole is None else self.sole.values_in

    @property
    def aligned(self) -> bool:
        """Whether a row that lost its item has to leave a hole here."""
        return any(edge.aligned for edge in self.edges)

    @property
    def ended(self) -> bool:
        """Whether nothing more goes out here."""
        return all(edge.ended for edge in self.edges)

    @property
    def open(self) -> bool:
        """Whether anybody still wants what goes out here."""
        if self.sole is not None:
            return not self.sole.finished
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
        if edge.announces:
            edge.ring_writer()
    try:
        await bell.wait()
    finally:
        for edge in inlets:
            if edge.reader is bell:
                edge.reader = None
