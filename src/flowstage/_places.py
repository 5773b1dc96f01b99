"""Where calls run when they do not run on the event loop.

A place is a description that many stages, runs and event loops may share; its only live part is a
seat counter, one per event loop. A seat is held while user code really runs in a thread, and never
while a result waits to be given on.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from attrs import field, frozen

from ._policies import check_count

_numbers = itertools.count()

Script: TypeAlias = Callable[
    [Any, Callable[..., Any], Callable[[Callable[..., Any]], Awaitable[Any]]], Awaitable[Any]
]
"""Stands around a call: takes the item, the function, and what runs a function for it in a thread."""


@frozen(eq=False)
class Threads:
    """Worker threads: at most `limit` calls at once, over all stages and runs that name this object.

    Two `Threads(4)` are two capacities; one object named twice is one. A module-level place serves
    asyncio and trio alike.

    Args:
        limit: how many threads may run user code at once, on each event loop.

    Raises:
        ValueError: `limit` is below 1.
        TypeError: `limit` is not a whole number.
    """

    limit: int = field()
    _seats: RunVar[CapacityLimiter] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        check_count("limit", self.limit)
        # RunVar keys its values by name, so the name has to be unique to this place.
        var: RunVar[CapacityLimiter] = RunVar(f"flowstage.Threads-{next(_numbers)}")
        object.__setattr__(self, "_seats", var)

    def seats(self) -> CapacityLimiter:
        """Give the seat counter of the running event loop."""
        try:
            return self._seats.get()
        except LookupError:
            seats = CapacityLimiter(self.limit)
            self._seats.set(seats)
            return seats

    def script(self) -> Script | None:
        """Give what decides when each call is made; nothing, but in tests.

        A place that has a script is given one item a call.
        """
        return None
