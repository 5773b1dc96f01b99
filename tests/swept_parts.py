"""What sweeps need beyond the random graphs: a part that has no place there, and ways of leaving.

A `Reference` is a case that is made by hand. `Swept` is one run of it, which an action of a sweep reaches
into: besides `interrupt`, `stop` and the readers' cancellation it can be left by a `break` and by an
exception of the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio

from .laws.cases import Case
from .laws.joins import Concat
from .laws.parts import as_seen
from .laws.play import Play
from .laws.streams import Strand, Stream
from .laws.world import Model


class Leaving(Exception):
    """The body of the block fails, and goes on through it."""


@dataclass
class Reference(Case):
    """A case for a sweep.

    Attributes:
        patient: it has a timeout that is long in virtual time only.
    """

    patient: bool = False


# ---------------------------------------------------------------- parts


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


# ---------------------------------------------------------------- one run


class Swept(Play):
    """One run of a reference, for an action to reach into."""

    def __init__(self, case: Case, *, pause: float = 1.0) -> None:
        super().__init__(case, pause=pause, swept=True)
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
