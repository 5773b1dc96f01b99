"""The values that a user's iterable gives, one at a time, whatever kind of iterable it is.

Used for what the function of a `flat_map` gives, for what a `transform` gives, and for sources. The
iterable is opened, iterated and closed in one task; it is closed exactly once, under a shield with a
time limit, so that its own cleanup runs even when the run is cancelled.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from anyio import CancelScope, current_time, get_cancelled_exc_class

from .._errors import StageError, safe_repr

logger = logging.getLogger("flowstage")

DONE: Any = type("Done", (), {"__repr__": lambda self: "<done>"})()
"""What `Values.next` gives when there are no more."""


class Values:
    """One iterable being read.

    Attributes:
        iterator: the (async) iterator.
        is_async: which of the two it is.
    """

    __slots__ = ("_context", "closed", "is_async", "iterator", "owned", "what")

    def __init__(self, iterator: Any, *, is_async: bool, what: str, owned: bool = False) -> None:
        self.iterator = iterator
        self.owned = owned
        self.is_async = is_async
        self.what = what
        self.closed = False
        self._context: Any = None

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

    def closes(self) -> bool:
        """Tell whether there is something to close: a generator, or a file made for this run."""
        if self.is_async:
            return hasattr(self.iterator, "aclose")
        return inspect.isgenerator(self.iterator) or (
            self.owned and hasattr(self.iterator, "close")
        )

    def _is_generator(self) -> bool:
        """Tell whether it closes itself at its end."""
        return inspect.isgenerator(self.iterator) or inspect.isasyncgen(self.iterator)

    async def close(self, limit: float, error: BaseException | None = None) -> BaseException | None:
        """Close the iterable; give what that raised.

        Args:
            limit: seconds that an async cleanup may take; then it is cancelled, with a warning.
            error: what the iterable has raised already, if anything.
        """
        closing = not self.closed or (self.owned and not self._is_generator())
        self.closed = True
        raised: BaseException | None = None
        with CancelScope(shield=True, deadline=current_time() + limit) as scope:
            if closing:
                try:
                    if self.is_async:
                        aclose = getattr(self.iterator, "aclose", None)
                        if aclose is not None:
                            await aclose()
                    elif self.closes():
                        self.iterator.close()
                except BaseException as failed:
                    raised = self._error_of(failed, scope)
            if self._context is not None:
                context, self._context = self._context, None
                try:
                    await context.__aexit__(type(error) if error else None, error, None)
                except BaseException as failed:
                    raised = self._error_of(failed, scope) if failed is not error else raised
        if scope.cancelled_caught:
            logger.warning("%s did not finish its cleanup within %s s", self.what, limit)
        return raised

    def _error_of(self, raised: BaseException, scope: CancelScope) -> BaseException:
        """Give the error that a cleanup failed with; a cancellation is one unless it is ours.

        Raises:
            BaseException: the cancellation of the scope, or an exit.
        """
        if isinstance(raised, (KeyboardInterrupt, SystemExit)):
            raise raised
        if not isinstance(raised, get_cancelled_exc_class()):
            return raised
        if scope.cancel_called:
            raise raised
        error = StageError(f"the cleanup of {self.what} was cancelled from inside")
        error.__cause__ = raised
        return error


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
