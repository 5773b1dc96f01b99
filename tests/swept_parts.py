"""What sweeps need beyond the random graphs: parts that have no place there, and ways of leaving.

A `Reference` is a case that may end with an error of its own. `Swept` is one run of it, which an
action of a sweep reaches into: besides `interrupt`, `stop` and the readers' cancellation it can be
left by a `break` and by an exception of the body.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, takewhile
from typing import Any

import anyio

from flowstage import Flow, operators, zip

from .laws.cases import Case
from .laws.joins import Concat
from .laws.parts import Buffer, Entry, Part, as_seen
from .laws.play import Broken, Play
from .laws.streams import Strand, Stream, mismatch, text
from .laws.world import Model, World


class Leaving(Exception):
    """The body of the block fails, and goes on through it."""


@dataclass
class Reference(Case):
    """A case for a sweep.

    Attributes:
        expected: errors that may end it even when nobody touches it.
        patient: it has a timeout that is long in virtual time only.
    """

    expected: tuple[type[Exception], ...] = ()
    patient: bool = False


# ---------------------------------------------------------------- parts


@dataclass(eq=False)
class ManagedEntry(Entry):
    """A source that has to be entered and left."""

    kind: str = "managed"


def number_of(item: Any) -> int:
    """The number of the source's item that an item was made of."""
    found = re.search(r"(?<![A-Za-z0-9])[A-Z](\d+)", text(item))
    assert found is not None
    return int(found[1])


def _is_low(item: Any) -> bool:
    return number_of(item) < 3


def _half(item: Any) -> int:
    return number_of(item) // 2


def _longer(last: str, item: Any) -> str:
    return f"{last}+{text(item)}"


def _without_low(items: Strand) -> Strand:
    return items[sum(map(_is_low, items)) :]


def _one_of_each(items: Strand) -> Strand:
    return [i for n, i in enumerate(items) if not n or _half(i) != _half(items[n - 1])]


def _longer_and_longer(items: Strand) -> Strand:
    return list(accumulate(items, _longer, initial=""))


# By name: how a flow is piped through it, and what comes out when these items have gone in.
OPERATORS: dict[str, tuple[Callable[[Flow[Any, Any]], Flow[Any, Any]], Callable[[Strand], Strand]]]
OPERATORS = {
    "take": (partial(operators.take, n=4), lambda items: items[:4]),
    "take_while": (
        partial(operators.take_while, keep=_is_low),
        lambda items: list(takewhile(_is_low, items)),
    ),
    "drop": (partial(operators.drop, n=2), lambda items: items[2:]),
    "drop_while": (partial(operators.drop_while, leave_out=_is_low), _without_low),
    "scan": (
        partial(operators.scan, fn=_longer, initial=""),
        lambda items: _longer_and_longer(items)[1:],
    ),
    "reduce": (
        partial(operators.reduce, fn=_longer, initial=""),
        lambda items: _longer_and_longer(items)[-1:],
    ),
    "unique": (partial(operators.unique, key=_half, max_keys=2), _one_of_each),
    "distinct": (partial(operators.distinct_until_changed, key=_half), _one_of_each),
    "enumerate": (operators.enumerate, lambda items: list(enumerate(items))),
    "throttle": (partial(operators.throttle, rate=5), list),
}


@dataclass(eq=False)
class Operated(Part):
    """An operator of `flowstage.operators`, by its name; only of a single strand."""

    tag: str = "enumerate"

    def write(self, world: World) -> Flow[Any, Any]:
        return world.flow(self.upper).pipe(OPERATORS[self.tag][0])

    def model(self, model: Model) -> Stream:
        items: Strand = []
        gives = OPERATORS[self.tag][1]

        def work(strand: Strand) -> tuple[list[Strand], bool]:
            if self.tag == "reduce":
                return [gives(strand)], False
            before = len(gives(items))
            items.extend(strand)
            return [gives(items)[before:]], False

        made = model.stream(self.upper).each(work)
        # What has ended stays ended, so behind an interrupt there may be less.
        return replace(made, lossy=True) if self.tag in ENDING else made


ENDING = ("take", "take_while", "reduce")


@dataclass(eq=False)
class StrictZip(Part):
    """Pairs by position, of as many on both sides."""

    def write(self, world: World) -> Flow[Any, Any]:
        return zip(*map(world.flow, self.uppers), strict=True)

    def model(self, model: Model) -> Stream:
        rows = [
            [item for segment in stream.segments for strand in segment for item in strand]
            for stream in (model.stream(upper) for upper in self.uppers)
        ]
        return Stream([[list(builtins.zip(*rows, strict=False))]])


@dataclass(eq=False)
class MarkedConcat(Concat):
    """One after the other, with the sentinels that each brings while it is read."""

    def model(self, model: Model) -> Stream:
        segments: list[list[Strand]] = [[[]]]
        marks: list[Any] = []
        for upper in self.uppers:
            stream = model.stream(upper)
            first, *rest = stream.segments
            segments[-1] = [[*segments[-1][0], *first[0]]]
            segments += [[list(strands[0])] for strands in rest]
            marks += stream.marks
        return Stream(segments, marks)


@dataclass(eq=False)
class FullBuffer(Buffer):
    """A buffer that may overflow, and fails the run when it does."""

    overflow: str = "error"

    def __post_init__(self) -> None:
        self.exact = self.upper.exact

    def model(self, model: Model) -> Stream:
        return model.stream(self.upper)


# ---------------------------------------------------------------- one run


class Swept(Play):
    """One run of a reference, for an action to reach into."""

    def __init__(self, case: Case, *, pause: float = 1.0) -> None:
        super().__init__(case, pause=pause, swept=True)
        self.expected = getattr(case, "expected", ())
        self.breaking = False
        self.raise_now: anyio.Event | None = None

    async def __call__(self) -> None:
        self.raise_now = anyio.Event()
        await super().__call__()

    async def help(self, scope: anyio.CancelScope, names: dict[str, Any]) -> None:
        with scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.raise_when_told)
                await super().help(anyio.CancelScope(), names)

    async def raise_when_told(self) -> None:
        assert self.raise_now is not None
        await self.raise_now.wait()
        raise Leaving

    async def read(self, number: int) -> None:
        stalls = self.case.stalls[number]
        output = self.run.output(f"end{number}")
        count = 0
        async for event in output.events():
            self.seen[number].append((self.world.epoch, as_seen(event)))
            self.look()
            if self.breaking:
                assert self.readers is not None
                self.readers.cancel()  # the others wait, perhaps for an end that nobody reads
                break
            pause = stalls[count % len(stalls)]
            count += 1
            if pause:
                await anyio.sleep(pause * self.world.pause)
        else:
            self.ended[number] = True

    # -- what a sweep does at a point

    def interrupt(self) -> None:
        if self.run._live.cancelled:
            self.run.interrupt()  # the run has failed, which goes before: no new epoch begins
        else:
            super().interrupt()

    def ask_raise(self) -> None:
        """Have the body of the block fail."""
        if self.raise_now is not None:
            self.left = True
            self.raise_now.set()

    def ask_break(self) -> None:
        """Have every reader break out of its loop at its next event."""
        self.left = self.breaking = True

    # -- afterwards

    def check(self, error: BaseException | None) -> None:
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]  # of a group from which a scope has taken its cancellations
        if self.left and isinstance(error, Leaving):
            error = None
        super().check(error)
        if error is None and not self.left and not self.world.epoch:
            self.check_alone()

    def check_alone(self) -> None:
        """Without interrupts, what an operator may leave out is known as well."""
        if any(isinstance(part, Buffer) and part.overflow != "block" for part in self.case.parts):
            return
        model = self.model(0)
        for number, end in enumerate(self.case.ends):
            if any(isinstance(part, Operated) for part in end.above()):
                stream = replace(model.stream(end), lossy=False)
                seen = [event for _, event in self.seen[number]]
                if said := mismatch(stream, seen, complete=True):
                    raise Broken(f"end {number}: {said}")

    def check_error(self, error: BaseException | None, models: list[Model]) -> list[str]:
        if isinstance(error, self.expected):
            return []
        return super().check_error(error, models)

    @property
    def loose(self) -> bool:
        return super().loose or any(
            isinstance(part, (StrictZip, Operated)) for part in self.case.parts
        )
