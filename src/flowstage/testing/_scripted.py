"""A place whose calls are made when a test says so.

A stage takes a seat here and makes its call, as in any place; but the call is held on the event loop, and
goes to its thread when it is released. For the stage that is a call that takes long: one cannot cancel
it, a timeout or an interrupt does not end it, and its seat is taken until it has been made. Since it is
held on the event loop and not in a thread, virtual time works with it, and what the stages do is the same
each time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import CancelScope, Event, get_cancelled_exc_class, move_on_after
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from attrs import field, frozen

from .._errors import safe_repr
from .._places import Script, Threads
from ._waiting import TIMEOUT, Change, check_timeout, settle

logger = logging.getLogger("flowstage")

_GLANCE = 0.0005
"""Seconds between looks at a thread that makes a call."""
_TURNS = 50
"""Turns given to the event loop before it waits in between."""


class _Call:
    """One call that a stage has made of this place."""

    __slots__ = ("due", "function", "item", "over")

    def __init__(self, item: Any, function: Callable[..., Any]) -> None:
        self.item = item
        self.function = function
        self.due = Event()
        self.over = False

    @property
    def held(self) -> bool:
        return not (self.over or self.due.is_set())


class _Book:
    """What a place has been asked for."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.change = Change()
        self.free = False


@frozen(eq=False)
class ScriptedThreads(Threads):
    """Worker threads whose calls are made when a test says so, in the order that it says.

    To be given to a stage as `on=`. With it results that come out of order, late results after a
    timeout or an interrupt, and places without a free seat can be tested without real time: calls are
    held until they are released, and are then made in a thread, one at a time. Each call has one item.

    It is the stages' calls that are held: a source read here is read as in `Threads`, and so are the
    values of a `flat_map` after its call. A held call cannot be cancelled, as a thread cannot; when it
    is released after its run has given it up it is made all the same, and its result dropped.
    `anyio.from_thread.check_cancelled` does not show it that it is late.

    Args:
        limit: how many calls may be held or made at once.
        patience: seconds, on the event loop's clock, that `wait_called` waits; and after which a call
            that has been given up (by a timeout, an interrupt, since nobody wants what comes of it or
            since its run is left) and that nobody releases is dropped with a warning, so that a test
            which fails does not hang.

    Raises:
        ValueError: `limit` is below 1, or `patience` negative or not a number.
        TypeError: `limit` is not a whole number, or `patience` no number.

    Example:
        >>> import anyio
        >>> from flowstage import Input
        >>> from flowstage.testing import ScriptedThreads, SinkProbe
        >>>
        >>> async def test_the_slow_one_comes_last() -> None:
        ...     place = ScriptedThreads(2)
        ...     flow = Input[str]().map(str.upper, on=place, ordered=False)
        ...     async with flow.open(["slow", "quick", "later"]) as run:
        ...         results = SinkProbe(run)
        ...         assert await place.wait_called(2) == ("slow", "quick")
        ...         await place.release("quick")
        ...         await results.expect("QUICK")
        ...         assert place.held == ("slow", "later")
        ...         await place.release("later", "slow")
        ...         await results.expect_all("LATER", "SLOW")
        >>>
        >>> anyio.run(test_the_slow_one_comes_last)
    """

    patience: float = field(default=TIMEOUT, kw_only=True)
    _book: _Book = field(init=False, factory=_Book, repr=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        check_timeout("patience", self.patience)

    # -- what the test does ---------------------------------------------------------------------

    @property
    def calls(self) -> tuple[Any, ...]:
        """The items of all calls so far, in the order in which the stages made them.

        A stage with a timeout makes those that are due at once in whatever order.
        """
        return tuple(call.item for call in self._book.calls)

    @property
    def held(self) -> tuple[Any, ...]:
        """The items of the calls that wait to be released, the oldest first."""
        return tuple(call.item for call in self._book.calls if call.held)

    async def wait_called(self, n: int = 1) -> tuple[Any, ...]:
        """Wait until `n` calls have been made of this place in all, and give their items.

        Raises:
            AssertionError: there were not that many in time.
        """
        calls = self._book.calls
        if not await self._book.change.until(lambda: len(calls) >= n, self.patience):
            raise AssertionError(
                f"expected {n} calls, but there were {len(calls)} within {self.patience} s: "
                f"{_list(self.calls)}; held: {_list(self.held)}"
            )
        return self.calls[:n]

    async def release(self, *items: Any) -> None:
        """Let the calls for these items be made, one after the other; all that are held if none is named.

        Returns when they are over and what came of them has gone on as far as it can. An item that
        is held more than once stands for its oldest call.

        Raises:
            AssertionError: no call for such an item is held.
        """
        await checkpoint()
        if not items:
            items = self.held
        for item in items:
            await self._make(self._find(item))

    async def fail(self, item: Any, error: BaseException) -> None:
        """Let the call for an item raise an error instead of calling the stage's function.

        Raises:
            AssertionError: no call for this item is held.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"fail() takes an exception, not {safe_repr(error)}")
        await checkpoint()
        call = self._find(item)

        def raise_it(*_: Any) -> Any:
            raise error

        call.function = raise_it
        await self._make(call)

    def run_freely(self) -> None:
        """Hold no more calls: those that are held are made, and those that come, as in `Threads`."""
        self._book.free = True
        for call in self._book.calls:
            call.due.set()

    def _find(self, item: Any) -> _Call:
        held = [call for call in self._book.calls if call.held]
        for call in held:
            if call.item is item:
                return call
        for call in held:
            try:
                if call.item == item:
                    return call
            except Exception:
                continue
        raise AssertionError(f"no call for {safe_repr(item)} is held; held: {_list(self.held)}")

    async def _make(self, call: _Call) -> None:
        call.due.set()
        turns = 0
        while not call.over:
            await checkpoint()
            turns += 1
            if turns > _TURNS:
                # Not `anyio.sleep`: when all tasks sleep a virtual clock jumps, to the timeout of the
                # very call that a thread is making.
                time.sleep(_GLANCE)  # noqa: ASYNC251
        await settle(self.patience)

    # -- what the stage does --------------------------------------------------------------------

    def script(self) -> Script | None:
        """Hold each call; for the stages."""
        return self._hold

    async def _hold(
        self,
        item: Any,
        function: Callable[..., Any],
        make: Callable[[Callable[..., Any]], Awaitable[Any]],
    ) -> Any:
        await checkpoint_if_cancelled()  # no full one: calls are noted as the stage makes them
        call = _Call(item, function)
        if self._book.free:
            call.due.set()
        self._book.calls.append(call)
        self._book.change.ring()
        try:
            given_up = await self._wait_due(call)
            with CancelScope(shield=given_up):
                return await make(call.function)
        finally:
            call.over = True

    async def _wait_due(self, call: _Call) -> bool:
        """Wait for the release, whatever happens; tell whether nobody wants the result any more."""
        try:
            await call.due.wait()
        except get_cancelled_exc_class():
            with move_on_after(self.patience, shield=True):
                await call.due.wait()
            if call.due.is_set():
                return True
            logger.warning(
                "the call for %s was given up while %r held it, and nobody released it within %s s",
                safe_repr(call.item),
                self,
                self.patience,
            )
            raise
        return False


def _list(items: tuple[Any, ...]) -> str:
    return ", ".join(safe_repr(item) for item in items) or "none"
