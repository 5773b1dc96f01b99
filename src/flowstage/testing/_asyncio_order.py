"""An asyncio event loop in which a seed decides the order of the tasks.

asyncio runs what is ready first in, first out; code that shall run on trio too may not rely on that. Here,
on every turn:

- **The steps of ready tasks** run in any order. A task is ready at most once, so nothing that one task does
  is reordered.
- **Plain callbacks** (`call_soon`, with it futures' callbacks, transports, wake-ups from threads, and
  anyio's delivery of cancellations, which puts itself into the queue anew on every turn) keep their order
  among themselves, which asyncio documents and its own transports rely on. They fall anywhere among the
  steps of tasks.
- **Timers and events** come after what was ready before them, as they always do.
- **Lag**: a ready task may be passed over, again and again, with that probability a turn. Shuffling alone
  keeps all tasks in step, one step a turn each, and never shows what happens when one falls behind.

The ready steps are sorted by the age of their tasks before they are shuffled: anyio cancels the tasks of a
scope in the order of a set, that is by address, which changes from run to run.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from selectors import BaseSelector
from typing import Any
from weakref import WeakKeyDictionary


class ShuffledLoop(asyncio.SelectorEventLoop):
    """Runs ready tasks in an order of its own.

    Args:
        order: what chooses; None keeps asyncio's order.
        lag: probability that a ready task is passed over for a turn.
        selector: what waits for events.
    """

    # `_run_once` makes one turn; it moves what is due to `_ready`, a deque, and runs what is there.
    _ready: deque[asyncio.Handle]

    def __init__(
        self, order: random.Random | None, lag: float = 0.0, selector: BaseSelector | None = None
    ) -> None:
        self._order = order
        self._lag = lag
        # The age of tasks, by first sight; a task is seen when it is ready for its first step.
        self._ages: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        super().__init__(selector)

    def _run_once(self) -> None:
        late = self._shuffle()
        try:
            super()._run_once()  # type: ignore[misc] # not in the type stubs
        finally:
            self._ready.extend(late)

    def _shuffle(self) -> list[asyncio.Handle]:
        """Put the ready handles into the order of this turn; give those that miss it."""
        order, lag = self._order, self._lag
        if order is None or not self._ready:
            return []
        steps: list[tuple[int, asyncio.Handle]] = []
        others: list[asyncio.Handle] = []
        # Threads append at the right meanwhile: take exactly what is there.
        for _ in range(len(self._ready)):
            handle = deque.popleft(self._ready)
            owner = getattr(callback_of(handle), "__self__", None)
            if isinstance(owner, asyncio.Task) and not handle.cancelled():
                steps.append((self._ages.setdefault(owner, len(self._ages)), handle))
            else:
                others.append(handle)
        steps.sort(key=lambda step: step[0])
        order.shuffle(steps)
        late: list[asyncio.Handle] = []
        if lag and len(steps) > 1:
            late = [handle for _, handle in steps[1:] if order.random() < lag]
        turn = [handle for _, handle in steps if handle not in late]
        for place, handle in zip(_places(order, len(turn), len(others)), others, strict=True):
            turn.insert(place, handle)
        self._ready.extend(turn)
        return late


def _places(order: random.Random, steps: int, others: int) -> list[int]:
    """Give rising places that put `others` things, in their order, anywhere among `steps` others."""
    return sorted(order.sample(range(steps + others), others))


def callback_of(handle: asyncio.Handle) -> Any:
    """Give what a handle calls; there is no other way to know."""
    return getattr(handle, "_callback", None)
