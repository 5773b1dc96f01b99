"""The values that a user's iterable gives, one at a time, whatever kind of iterable it is.

Used for what the function of a `flat_map` gives, for what a `transform` gives, and for sources. The
iterable is opened, iterated and closed in one task; it is closed exactly once, under a shield with a
time limit, so that its own cleanup runs even when the run is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
)
from itertools import islice
from time import perf_counter
from typing import Any

from anyio import CancelScope, current_time, get_cancelled_exc_class

from .._errors import StageError, exit_in, is_cancellation, safe_repr

logger = logging.getLogger("flowstage")

STRIDE = 32
"""The most values or calls between two looks at the time, where each is expected to be quick."""

DONE: Any = type("Done", (), {"__repr__": lambda self: "<done>"})()
"""What `Values.next` gives when there are no more."""


class Values:
    """One iterable being read.

    Args:
        owned: it was made for this run, so it is closed even if it was read to its end.

    Attributes:
        iterator: the (async) iterator.
        is_async: which of the two it is.
        swallowed: a context manager has kept to itself what it was told of.
    """

    __slots__ = (
        "_context",
        "_lent",
        "_owned",
        "closed",
        "is_async",
        "iterator",
        "swallowed",
        "what",
    )

    def __init__(self, iterator: Any, *, is_async: bool, what: str, owned: bool = False) -> None:
        self.iterator = iterator
        self.is_async = is_async
        self.what = what
        self.closed = self.swallowed = False
        self._context: Any = None
        self._owned, self._lent = owned, False

    def keep(self, context: Any) -> None:
        """Leave an async context manager when the iterable is closed."""
        self._context = context

    async def next(self) -> Any:
        """Give the next value, or `DONE`. What the iterable raises goes through."""
        if self.is_async:
            try:
                return await self.iterator.__anext__()
            except StopAsyncIteration:
                self.closed = True
                return DONE
        try:
            return self.iterator.__next__()
        except StopIteration:
            self.closed = True
            return DONE

    def next_into(self, got: list[Any], most: int, seconds: float) -> None:
        """Add the next values of a plain iterable to a list, until it holds so many of them.

        What it raises goes through, and what it gave before is in the list. When some time is over
        it stops, though it looks at the time only now and then.
        """
        end = perf_counter() + seconds
        while len(got) < most and not self.closed:
            due = min(len(got) + STRIDE, most)
            got.extend(islice(self.iterator, due - len(got)))
            self.closed = len(got) < due
            if perf_counter() > end:
                return

    @property
    def managed(self) -> bool:
        """Whether there is a context manager to be left."""
        return self._context is not None

    def lend(self) -> None:
        """Be somebody else's, like a stream that was opened elsewhere: only a generator is closed."""
        self._owned, self._lent = False, True

    def closes(self) -> bool:
        """Tell whether there is something to close: a generator, or what was made for this run."""
        if self._is_generator():
            return True
        if self.is_async:
            return not self._lent and hasattr(self.iterator, "aclose")
        return self._owned and hasattr(self.iterator, "close")

    def _is_generator(self) -> bool:
        """Tell whether it is one, which closes itself at its end."""
        return isinstance(self.iterator, (Generator, AsyncGenerator))

    async def close(self, limit: float, error: BaseException | None = None) -> BaseException | None:
        """Close the iterable; give what that raised.

        Args:
            limit: seconds that an async cleanup may take; then it is cancelled, with a warning.
            error: what the iterable has raised already, if anything.
        """
        raised = None
        with CancelScope() as scope:
            raised = await self.close_within(scope, limit, error)
        if scope.cancelled_caught:
            warn_unfinished(self.what, limit)
        return raised

    async def close_within(
        self, scope: CancelScope, limit: float, error: BaseException | None = None
    ) -> BaseException | None:
        """Close the iterable as `close` does, in a scope that was entered before it was opened.

        Raises:
            BaseException: the cancellation of the scope, when the time is over.
        """
        scope.shield, scope.deadline = True, current_time() + limit
        closing = not self.closed or (self._owned and not self._is_generator())
        self.closed = True
        raised: BaseException | None = None
        if closing and self.closes():
            try:
                if not self.is_async:
                    self.iterator.close()
                elif self._context is None:
                    await self.iterator.aclose()
                else:  # scopes of the manager are open, and may be cancelled: what it gave is newer
                    with CancelScope(shield=True, deadline=scope.deadline) as own:
                        await self.iterator.aclose()
                    if own.cancelled_caught:
                        warn_unfinished(self.what, limit)
            except BaseException as failed:
                raised = self._error_of(failed, scope)
        if self._context is None:
            return raised
        late = await self._leave(scope, error)
        return raised if late is None else late

    async def _leave(self, scope: CancelScope, error: BaseException | None) -> BaseException | None:
        """Leave the context manager; give what that raised beside what it was told."""
        context, self._context = self._context, None
        # A scope of its own has to see whether a cancellation comes from further out.
        scope.shield = error is None or not is_cancellation(error)
        told = None if error is None else type(error)
        try:
            self.swallowed = bool(await context.__aexit__(told, error, None))
        except BaseException as failed:
            if isinstance(failed, get_cancelled_exc_class()) and scope.cancel_called:
                raise
            beside = _beside(failed, error)
            return None if beside is None else self._error_of(beside, scope)
        return None

    def _error_of(self, raised: BaseException, scope: CancelScope) -> BaseException:
        """Give the error that a cleanup failed with; a cancellation is one unless it is ours.

        Raises:
            BaseException: the cancellation of the scope, or an exit.
        """
        if exit_in(raised) is not None:
            raise raised
        if not is_cancellation(raised):
            return raised
        if scope.cancel_called:
            raise raised
        error = StageError(f"the cleanup of {self.what} was cancelled from inside")
        error.__cause__ = raised
        return error


def _beside(failed: BaseException, told: BaseException | None) -> BaseException | None:
    """Give what a context manager has raised beside what it was told, which it passes on."""
    ends = (GeneratorExit, get_cancelled_exc_class())
    if failed is told:
        return None
    if not isinstance(told, ends):
        return failed
    if isinstance(failed, BaseExceptionGroup):
        return failed.split(ends)[1]
    return None if isinstance(failed, ends) else failed


def warn_unfinished(what: str, limit: float) -> None:
    """Tell that a cleanup was cut off."""
    logger.warning("%s did not finish its cleanup within %s s", what, limit)


def read(iterable: object, what: str, *, owned: bool = False) -> Values:
    """Begin to read an iterable or async iterable.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(iterable, AsyncIterable):
        iterator: AsyncIterator[Any] = iterable.__aiter__()
        return Values(iterator, is_async=True, what=what, owned=owned)
    if isinstance(iterable, Iterable):
        plain: Iterator[Any] = iter(iterable)
        return Values(plain, is_async=False, what=what, owned=owned)
    if hasattr(iterable, "__getitem__"):  # the old sequence protocol
        old: Any = iterable
        return Values(iter(old), is_async=False, what=what, owned=owned)
    raise TypeError(f"{what} must give an iterable or async iterable, not {safe_repr(iterable)}")
