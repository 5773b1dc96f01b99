"""What a user gives as a source, and how reading it begins.

That may be an iterable or an async iterable; a function that makes one, plain or async; an async context
manager around one, or a function that makes that. What a function made for this run is closed with the
run; what was opened elsewhere is only lent.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator
from inspect import isawaitable, iscoroutine
from typing import Any

from anyio import CancelScope

from .._errors import safe_repr
from .values import Values, read


class Origin:
    """One source as it was given; `what` is what it is called in messages."""

    def __init__(self, items: Any, what: str) -> None:
        self.what = what
        self._items = items
        self._owned = False

    async def open(self, life: CancelScope, limit: float) -> Values:
        """Find out what the source is, and begin to read it. What is raised goes through.

        Args:
            life: the scope in which it is left again, should what it gives be nothing to be read.
            limit: seconds that its cleanup may take then.
        """
        context = None
        try:
            items = self._call() if self._is_function() else self._items
            if isawaitable(items):
                items = await items
            if hasattr(items, "__aenter__") and not isinstance(items, AsyncIterable):
                manager, items = items, await items.__aenter__()
                context = manager
            values = read(self._checked(items), self.what, owned=self._owned)
        except BaseException as raised:
            if context is not None:  # entered, and what it gave is nothing to be read
                entered = Values(iter(()), is_async=False, what=self.what)
                entered.keep(context)
                await entered.close_within(life, limit, raised)
            raise
        values.keep(context)
        if (context is not None or not self._owned) and values.iterator is items:
            values.lend()
        return values

    def begin(self) -> Values:
        """Begin to read a plain source. Runs in a thread.

        Raises:
            TypeError: it is async, or a string.
        """
        items = self._checked(self._call() if self._is_function() else self._items)
        manager = hasattr(items, "__aenter__") and not isinstance(items, Iterable)
        if manager or isinstance(items, AsyncIterable) or isawaitable(items):
            if iscoroutine(items):
                items.close()
            raise TypeError(f"{self.what} is async and runs on the event loop; leave out on=")
        iterator: Iterator[Any] = iter(items)
        return Values(iterator, is_async=False, what=self.what, owned=self._owned)

    def _is_function(self) -> bool:
        if isinstance(self._items, (AsyncIterable, Iterable)):
            return False
        # what `asynccontextmanager` makes can be called too: as a decorator
        return callable(self._items) and not hasattr(type(self._items), "__aenter__")

    def _call(self) -> Any:
        self._owned = True  # what a function made for this run is closed with it
        return self._items()

    def _checked(self, items: Any) -> Any:
        if isinstance(items, (str, bytes)):
            raise TypeError(f"{self.what} gave {safe_repr(items)}, a string; put it into a list")
        return items
