"""What the parts of a graph share: the world of one run, and the model of one epoch of it."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flowstage import Flow, Threads

from .streams import Stream, chance, leaves_of, text

if TYPE_CHECKING:
    from .calls import Call
    from .parts import Part

BREAK: Any = type("Break", (), {"__repr__": lambda self: "<break>"})()
"""In the script of an entry: here its source fails."""
RUN_CONTEXT = {"run": "here"}
THREAD_TIMEOUT = 0.05
"""Real seconds. A run in which a call came later than that by bad luck is not judged."""


class Boom(Exception):
    """What user code fails with."""


class World:
    """What the user code of one run does and notes.

    Attributes:
        calls: how often each stage was called with each item.
        logs: what each entry accepted, with its epoch: items, and `Sentinel` values as marks.
        look: called now and then, in user code on the loop.
        strike: called at the calls of user code whose numbers are in `strikes`, to interrupt.
        running: calls under way on the loop, by the epoch of their item and their stage.
    """

    def __init__(
        self, *, pause: float = 1.0, strikes: tuple[int, ...] = (), contextual: bool = False
    ) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.logs: dict[str, list[list[Any]]] = {}
        self.epochs: dict[str, int] = {}  # of each item that entered
        self.epoch = 0
        self.look: Callable[[], None] = lambda: None
        self.strike: Callable[[], None] = lambda: None
        self.strikes = strikes
        self.contextual = contextual
        self.running: Counter[tuple[int, str]] = Counter()
        self.pause = pause
        self.places = {number: Threads(number) for number in (1, 2, 3)}
        self.flows: dict[Part, Flow[Any, Any]] = {}
        self._ticks = itertools.count(1)
        self.seated: Counter[int] = Counter()  # calls in threads now, by the limit of their place
        self.crowded: list[str] = []
        self._lock = threading.Lock()
        self.open_generators = 0
        self.conclusions: list[tuple[str, int, Any]] = []  # stage, epoch, items seen or batch
        self.hung: set[tuple[str, str]] = set()  # calls in threads that are to take too long
        self.strange: list[str] = []  # contexts that are not the item's

    def flow(self, part: Part) -> Flow[Any, Any]:
        """Write a part in flowstage, once."""
        if part not in self.flows:
            self.flows[part] = part.write(self)
        return self.flows[part]

    def note(self, name: str, event: Any) -> list[Any]:
        """Note what enters; give the note."""
        noted = [self.epoch, event]
        self.logs[name].append(noted)
        if isinstance(event, str):
            self.epochs[event] = self.epoch
        return noted

    def epoch_of(self, item: Any) -> int:
        """The epoch in which the latest part of an item entered."""
        return max((self.epochs[leaf] for leaf in leaves_of(item)), default=self.epoch)

    def sit(self, seats: int, item: Any) -> None:
        """A call in a thread begins, works a little and ends: no more at once than there are seats."""
        with self._lock:
            self.seated[seats] += 1
            if self.seated[seats] > seats:
                self.crowded.append(f"{self.seated[seats]} threads under a limit of {seats}")
        if chance("seat", item) < 0.3:
            time.sleep(0.0003)
        with self._lock:
            self.seated[seats] -= 1

    def tick(self) -> None:
        """User code is at work on the loop: look at the run every few calls, interrupt at some."""
        number = next(self._ticks)
        if number in self.strikes:
            self.strike()
        if number % 5 == 0:
            self.look()

    def check_context(self, call: Call, item: Any, context: Any) -> None:
        """An item has the context that it was sent with or the run's, and what stages above put in."""
        leaf, tags = context.get("leaf"), call.tags_above()
        right = isinstance(context, Mapping)
        right = right and (
            context.get("run") == "here" if leaf is None else leaf in leaves_of(item)
        )
        right = right and (tags is None or set(context) <= {"leaf", "run", call.tag, *tags})
        if not right:
            self.strange.append(f"{call.tag} had {text(item)} with the context {context!r}")
        context[call.tag] = text(item)


class Model:
    """The list model of one epoch of one run.

    Attributes:
        rows: what a join of rows counts.
        inner: what the stages in the branches of a `gather` count.
        unsure: branches of routes that failures pass: on the first that is open, so if one may end
            early it is for time to say which.
    """

    def __init__(self, case: Any, logs: dict[str, list[Any]], *, marks: bool) -> None:
        self.logs, self.marks = logs, marks
        self.rows: dict[Part, Counter[str]] = {}
        self.inner: dict[Call, Counter[str]] = {}
        self.unsure: set[Part] = set()
        self.on_error = case.on_error
        self.streams: dict[Part, Stream] = {}
        self.calls: Counter[tuple[str, str]] = Counter()
        self.failures: dict[Part, Stream] = {}
        self.cut = False

    def within(self, call: Call, upper: Stream) -> Stream:
        """What a stage in a branch gives for one item; what it counts is noted."""
        from .counts import call_counts

        inner = Model.__new__(Model)
        inner.on_error, inner.calls = self.on_error, self.calls
        inner.failures, inner.cut = {}, False
        inner.streams = {call.upper: upper}
        made = inner.stream(call)
        self.inner.setdefault(call, Counter()).update(call_counts(call, inner))
        return made

    def stream(self, part: Part) -> Stream:
        """What a part gives."""
        if part not in self.streams:
            self.streams[part] = part.model(self)
            self.cut = self.cut or self.streams[part].cut
        return self.streams[part]
