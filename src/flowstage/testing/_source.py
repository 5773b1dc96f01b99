"""A source that gives what a test says, when it says so."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from anyio.lowlevel import checkpoint

from .._envelope import Sentinel
from .._errors import safe_repr
from ._waiting import TIMEOUT, Change, check_timeout, settle

T = TypeVar("T")


class SourceProbe(Generic[T]):
    """A source under a test's control, to be given to `open`, `collect` or `source`.

    It gives an item only when the test sends one, and knows what the run has asked for. It is an
    async context manager giving an async iterator, which is the safest form of a source: so it is
    opened once and closed once, and says so. One probe serves one run.

    Args:
        timeout: seconds, on the event loop's clock, that an expectation waits; `inf` for ever.

    Attributes:
        opened: the run has opened it.
        closed: the run has closed it.
        pulls: how many items the run has asked for, the one that it waits for included.
        pending: how many pulls wait for an item now: 0 or 1.
        given: how many items the run has got.

    Raises:
        ValueError: `timeout` is negative or not a number.
        TypeError: `timeout` is no number.

    Example:
        >>> import anyio
        >>> from flowstage import Input
        >>> from flowstage.testing import SinkProbe, SourceProbe
        >>>
        >>> async def test_a_number_is_doubled() -> None:
        ...     numbers = SourceProbe[int]()
        ...     async with Input[int]().map(lambda n: 2 * n).open(numbers) as run:
        ...         doubles = SinkProbe(run)
        ...         await numbers.send(4)
        ...         await doubles.expect(8)
        ...         numbers.finish()
        ...         await doubles.expect_end()
        ...     assert numbers.closed
        >>>
        >>> anyio.run(test_a_number_is_doubled)
    """

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        check_timeout("timeout", timeout)
        self._timeout = timeout
        self._change = Change()
        self._script: deque[_Step] = deque()
        self._last = False
        self.opened = self.closed = False
        self.pulls = self.pending = self.given = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open" if self.opened else "not opened"
        return f"<SourceProbe, {state}: {self.pulls} pulls, {self.given} given>"

    # -- what the test does ---------------------------------------------------------------------

    async def send(self, *items: T | Sentinel[Any]) -> None:
        """Give items, one for each pull; wait until the run has taken the last of them.

        A `Sentinel` enters the run as one.

        Raises:
            AssertionError: the run did not pull in time, or has closed the source.
            RuntimeError: the source has been told to finish or to fail.
        """
        await checkpoint()
        for item in items:
            await self._send(item)

    async def _send(self, item: T | Sentinel[Any]) -> None:
        step = self._then(_Step(item))
        try:
            ended = await self._change.until(lambda: step.taken or self.closed, self._timeout)
        finally:
            if not step.taken:
                self._script.remove(step)
        if not step.taken:
            why = "closed the source" if ended else f"did not pull within {self._timeout} s"
            raise AssertionError(f"the run {why}, so {safe_repr(item)} was not taken: {self!r}")

    def finish(self) -> None:
        """End the source: the next pull, or the one that waits, finds no more items.

        Raises:
            RuntimeError: it has been told to finish or to fail before.
        """
        self._then(_Step(error=StopAsyncIteration()), last=True)

    def fail(self, error: BaseException) -> None:
        """Let the source fail: the next pull, or the one that waits, raises an error.

        Raises:
            RuntimeError: it has been told to finish or to fail before.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"fail() takes an exception, not {safe_repr(error)}")
        self._then(_Step(error=error), last=True)

    def _then(self, step: _Step, *, last: bool = False) -> _Step:
        if self._last:
            raise RuntimeError("this source has been told to end; it gives no more")
        self._last = last
        self._script.append(step)
        self._change.ring()
        return step

    # -- what the test expects ------------------------------------------------------------------

    async def wait_pulled(self, n: int = 1) -> None:
        """Wait until the run has asked for `n` items in all.

        Raises:
            AssertionError: it did not in time.
        """
        if not await self._change.until(lambda: self.pulls >= n, self._timeout):
            raise AssertionError(
                f"expected {n} pulls, but there were {self.pulls} within {self._timeout} s: {self!r}"
            )

    async def expect_pull(self) -> None:
        """Wait until the run waits for an item.

        Raises:
            AssertionError: it did not in time.
        """
        if not await self._change.until(lambda: self.pending > 0, self._timeout):
            raise AssertionError(
                f"expected a pull, but none came within {self._timeout} s: {self!r}"
            )

    async def expect_no_pull(self) -> None:
        """Let the run go on until it stands still, and see that it does not wait for an item.

        That is backpressure. Timers and threads are not waited for.

        Raises:
            AssertionError: it waits for one, or does not come to stand still.
        """
        if not await settle(self._timeout):
            raise AssertionError(f"the run did not come to stand still in {self._timeout} s")
        if self.pending:
            raise AssertionError(f"expected no pull, but the run waits for an item: {self!r}")

    async def expect_closed(self) -> None:
        """Wait until the run has closed the source.

        Raises:
            AssertionError: it did not in time.
        """
        if not await self._change.until(lambda: self.closed, self._timeout):
            raise AssertionError(
                f"expected the source to be closed, but it was not within {self._timeout} s: "
                f"{self!r}"
            )

    # -- what the run does ----------------------------------------------------------------------

    async def __aenter__(self) -> AsyncIterator[T]:
        """Be opened, by a run."""
        if self.opened:
            raise RuntimeError("this SourceProbe was opened before; each run needs one of its own")
        self.opened = True
        self._change.ring()
        return _Pulls(self)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Be closed, by the run that opened it."""
        if self.closed:
            raise RuntimeError("this SourceProbe was closed before")
        self.closed = True
        self._change.ring()

    async def pull(self) -> T:
        """Give the next item, to a run that iterates.

        Raises:
            StopAsyncIteration: there are no more.
        """
        self.pulls += 1
        self.pending += 1
        self._change.ring()
        try:
            await checkpoint()
            while not self._script:
                await self._change.wait()
        finally:
            self.pending -= 1
        step = self._script[0]
        if step.error is not None:
            error, step.error = step.error, StopAsyncIteration()  # an iterator fails once
            raise error
        self._script.popleft()
        self.given += 1
        step.taken = True
        self._change.ring()
        item: T = step.item  # or a sentinel, which is none of the items
        return item


class _Step:
    """What the source does at one pull."""

    __slots__ = ("error", "item", "taken")

    def __init__(self, item: Any = None, error: BaseException | None = None) -> None:
        self.item = item
        self.error = error
        self.taken = False


class _Pulls(AsyncIterator[T]):
    """What a run iterates over."""

    def __init__(self, probe: SourceProbe[T]) -> None:
        self._probe = probe

    async def __anext__(self) -> T:
        return await self._probe.pull()
