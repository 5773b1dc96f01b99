"""Reads an end of a run and expects what comes."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

from anyio import BusyResourceError, create_task_group, move_on_after
from anyio.lowlevel import checkpoint

from .._envelope import Failure, Sentinel
from .._errors import ClosedError, safe_repr
from .._output import Output
from .._run import Run
from ._waiting import TIMEOUT, check_timeout, settle

T = TypeVar("T")

_SHOWN = 10
"""How many of the things that came before are in a message."""


class _Mark:
    """Stands for what is not a thing that came."""

    def __init__(self, text: str) -> None:
        self.text = text


_END = _Mark("the end")
_NOTHING = _Mark("nothing")


class SinkProbe(Generic[T]):
    """Reads one end of a run, and says what came instead when an expectation is not met.

    Whatever it reads is taken; so let nobody else read that end. A run that fails cancels the test's
    block as always: its error comes out of the `async with`.

    Args:
        end: a run with one end, or an `Output` of a run.
        timeout: seconds, on the event loop's clock, that an expectation waits; `inf` for ever.

    Attributes:
        came: what has been read so far: results, `Sentinel`s and `Failure`s.

    Raises:
        TypeError: `end` is no run and no output, or `timeout` no number.
        ValueError: `timeout` is negative or not a number.

    Example:
        >>> import anyio
        >>> from flowstage import Input
        >>> from flowstage.testing import SinkProbe
        >>>
        >>> async def test_pairs() -> None:
        ...     async with Input[str]().batch(2).open() as run:
        ...         pairs = SinkProbe(run)
        ...         await run.send("a")
        ...         await pairs.expect_nothing()
        ...         await run.send("b")
        ...         await pairs.expect(["a", "b"])
        ...         await run.send("c")
        ...         await run.send_sentinel("now")
        ...         await pairs.expect(["c"])
        ...         await pairs.expect_sentinel("now")
        >>>
        >>> anyio.run(test_pairs)
    """

    def __init__(self, end: Run[Any, T] | Output[T], *, timeout: float = TIMEOUT) -> None:
        check_timeout("timeout", timeout)
        if not isinstance(end, (Run, Output)):
            raise TypeError(f"SinkProbe() takes a run or an output, not {safe_repr(end)}")
        self._end = end
        self._timeout = timeout
        self._events: AsyncIterator[T | Sentinel[Any] | Failure] | None = None
        self._ahead: deque[Any] = deque()
        self.came: list[T | Sentinel[Any] | Failure] = []

    def __repr__(self) -> str:
        return f"<SinkProbe: {len(self.came)} came>"

    # -- expectations ---------------------------------------------------------------------------

    async def next(self) -> T:
        """Wait for the next result and give it, for whatever `==` cannot tell.

        Raises:
            AssertionError: something else came, or nothing in time.
        """
        thing = await self._next("a result")
        if isinstance(thing, (Sentinel, Failure, _Mark)):
            raise self._mismatch("a result", thing)
        result: T = thing
        return result

    async def expect(self, item: T) -> None:
        """Wait for the next result; it shall be equal to `item`.

        Raises:
            AssertionError: something else came, or nothing in time.
        """
        wanted = safe_repr(item)
        thing = await self._next(wanted)
        if isinstance(thing, _Mark) or not _same(thing, item):
            raise self._mismatch(wanted, thing)

    async def expect_all(self, *items: T) -> None:
        """Wait for results equal to `items`, in this order.

        Raises:
            AssertionError: something else came, or nothing in time.
        """
        await checkpoint()
        for item in items:
            await self.expect(item)

    async def expect_unordered(self, *items: T) -> None:
        """Wait for results equal to `items`, in whatever order.

        Raises:
            AssertionError: something else came, or nothing in time.
        """
        await checkpoint()
        missing = list(items)
        while missing:
            wanted = " or ".join(safe_repr(item) for item in missing)
            thing = await self._next(wanted)
            found = [n for n, item in enumerate(missing) if _same(thing, item)]
            if isinstance(thing, _Mark) or not found:
                raise self._mismatch(wanted, thing)
            del missing[found[0]]

    async def expect_sentinel(self, value: Any = None) -> None:
        """Wait for a sentinel with this value.

        Raises:
            AssertionError: something else came, or nothing in time.
        """
        wanted = f"the sentinel {safe_repr(value)}"
        thing = await self._next(wanted)
        if not (isinstance(thing, Sentinel) and _same(thing.value, value)):
            raise self._mismatch(wanted, thing)

    async def expect_failure(
        self, error: type[BaseException] = Exception, *, stage: str | None = None
    ) -> Failure:
        """Wait for a failure, in its place among the results (`on_error="emit"`) or as data (`failures`).

        Args:
            error: the class of what the stage raised.
            stage: the name of the stage, if it matters.

        Returns:
            the failure, to look at its item and its error.

        Raises:
            AssertionError: something else came, or nothing in time.
        """
        wanted = f"a failure of stage {stage!r}" if stage is not None else "a failure"
        wanted += f" with {error.__name__}"
        thing = await self._next(wanted)
        if not (isinstance(thing, Failure) and isinstance(thing.error, error)):
            raise self._mismatch(wanted, thing)
        if stage is not None and thing.stage != stage:
            raise self._mismatch(wanted, thing)
        return thing

    async def expect_end(self) -> None:
        """Wait for the end of the run; nothing shall come before it.

        Raises:
            AssertionError: something came, or the run did not end in time.
        """
        thing = await self._next(_END.text)
        if thing is not _END:
            raise self._mismatch(_END.text, thing)

    async def expect_nothing(self) -> None:
        """Let the run go on until it stands still, and see that nothing comes, not even the end.

        It does not sleep: it waits until no task can go on by itself. Timers and threads are not
        waited for, so a result of theirs may still come later.

        Raises:
            AssertionError: something came, or the run does not come to stand still.
            ClosedError: the run is over, or the output closed.
            BusyResourceError: another task is reading it.
        """
        still = True
        refused: list[Exception] = []

        async def look() -> None:
            try:
                await self._read_ahead()
            except (ClosedError, BusyResourceError) as error:
                refused.append(error)

        if not self._ahead:
            self._begin()
            # A reader has to wait meanwhile: an edge without room gives to nobody else.
            async with create_task_group() as group:
                group.start_soon(look)
                still = await settle(self._timeout)
                group.cancel_scope.cancel()
        if refused:
            raise refused[0]
        if self._ahead:
            raise self._mismatch(_NOTHING.text, self._take_ahead())
        if not still:
            raise AssertionError(f"the run did not come to stand still in {self._timeout} s")

    # -- reading --------------------------------------------------------------------------------

    def _begin(self) -> AsyncIterator[T | Sentinel[Any] | Failure]:
        if self._events is None:
            self._events = self._end.events()
        return self._events

    async def _read_ahead(self) -> None:
        try:
            self._ahead.append(await self._begin().__anext__())
        except StopAsyncIteration:
            self._ahead.append(_END)

    def _take_ahead(self) -> Any:
        thing = self._ahead[0]
        if thing is not _END:  # which stays
            self._ahead.popleft()
            self.came.append(thing)
        return thing

    async def _next(self, wanted: str) -> Any:
        await checkpoint()
        if not self._ahead:
            with move_on_after(self._timeout):
                await self._read_ahead()
        if not self._ahead:
            raise self._mismatch(wanted, _NOTHING)
        return self._take_ahead()

    def _mismatch(self, wanted: str, thing: Any) -> AssertionError:
        before = self.came
        if thing is _NOTHING:
            text = f"expected {wanted}, but nothing came within {self._timeout} s"
        else:
            text = f"expected {wanted}, but {_told(thing)} came"
            if thing is not _END:
                before = before[:-1]
        shown = ", ".join(_told(earlier) for earlier in before[-_SHOWN:])
        if shown:
            more = "... " if len(before) > _SHOWN else ""
            text += f"; before: {more}{shown}"
        if thing is _NOTHING and isinstance(self._end, Run):
            text += f"\n{self._end.explain()}"
        return AssertionError(text)


def _told(thing: Any) -> str:
    if isinstance(thing, _Mark):
        return thing.text
    if isinstance(thing, Sentinel):
        return f"the sentinel {safe_repr(thing.value)}"
    if isinstance(thing, Failure):
        return f"a failure of stage {thing.stage!r} with {safe_repr(thing.error)}"
    return safe_repr(thing)


def _same(thing: Any, wanted: Any) -> bool:
    if thing is wanted:
        return True
    try:
        return bool(thing == wanted)
    except Exception as error:
        raise AssertionError(
            f"cannot tell whether {safe_repr(thing)} equals {safe_repr(wanted)}; "
            "take it with next() and compare it in the test"
        ) from error
