"""One burst ahead: what a thread goes on with as soon as it has done the last one.

Between two calls a thread waits until the event loop has seen the end of the first and begun the
second. Where all processors are at work that takes as long as the system lets the loop wait, a fifth of
the time of two threads that hash. So a thread that is at work may be given the next burst meanwhile,
and tells what came of the last one without waiting. It is given one only while nobody else could do
it: every worker is busy, and nobody waits for a seat of the place; and it is taken back, if it has
not been begun, by whoever has nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar


class HasValues(Protocol):
    """Several values that are to be done."""

    values: list[Any]


B = TypeVar("B", bound=HasValues)

Outcome = tuple[list[Any], BaseException | None, float]
"""The results of a burst, what the call after the last of them raised, and the seconds that all took."""


class Ahead(list[B]):
    """The burst that a thread goes on with: one or none. Whoever pops it has it.

    Attributes:
        given: the last one that was put here.
        since: when it was put here.
    """

    __slots__ = ("given", "since")

    def __init__(self) -> None:
        super().__init__()
        self.given: B | None = None
        self.since = 0.0

    def take(self) -> B | None:
        """Take the burst out, if nobody was quicker. Called in the thread as well as on the loop."""
        try:
            return self.pop()
        except IndexError:
            return None


def run_on(
    run: Callable[[Sequence[Any]], Outcome],
    burst: B,
    ahead: Ahead[B],
    tell: Callable[[B, Outcome], None],
) -> tuple[B, Outcome]:
    """Do one burst after the other for as long as there is one. Runs in a thread.

    Args:
        run: does the values of one.
        burst: the first one.
        ahead: where the following ones come from.
        tell: is told what came of all but the last, and must not wait.

    Returns:
        the last burst and what came of it. The first failure ends it.
    """
    while True:
        outcome = run(burst.values)
        following = None if outcome[1] is not None else ahead.take()
        try:
            if following is None:
                return burst, outcome
            tell(burst, outcome)
            burst = following
        finally:
            del outcome  # the frames of an error lead back here, and would keep it and the items
