"""Makes user code fail where it is told to, and keeps the books of the generators it hands out.

Each call of user code is counted: a function's call, a generator's way to its next value, and a
generator's cleanup. A `Fault` names one of these by number and says what is raised there. Wrapping
keeps a function's kind: an `async def` stays one, a generator function stays one.

    def make(faults: Faults) -> Scenario[list[int]]:
        fetch = faults.wrap(fetch_page)

        async def scenario() -> list[int]: ...

        return scenario


    for faults, outcome in fault_sweep("asyncio", make):
        outcome.check()
        faults.check_closed()
        assert faults.explains(outcome.error)
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class PlannedError(Exception):
    """An ordinary error of a user's function."""


def _cancelled(backend: str) -> BaseException:
    if backend != "trio":
        return asyncio.CancelledError("planned")
    from trio import Cancelled

    # Not public, since nobody should; a user's function still can, by raising one it has kept.
    return Cancelled._create()


# What user code may raise, by name. `"cancelled"` is the backend's own cancellation, asked for by
# nobody. An `async def` cannot raise StopIteration, nor a generator either of the two stops: Python
# makes a RuntimeError of it. In an iterator they are its ordinary end.
ERRORS: Mapping[str, Callable[[str], BaseException]] = {
    "ordinary": lambda backend: PlannedError("planned"),
    "end_of_stream": lambda backend: anyio.EndOfStream("planned"),
    "broken": lambda backend: anyio.BrokenResourceError("planned"),
    "closed": lambda backend: anyio.ClosedResourceError("planned"),
    "stop_iteration": lambda backend: StopIteration("planned"),
    "stop_async_iteration": lambda backend: StopAsyncIteration("planned"),
    "generator_exit": lambda backend: GeneratorExit("planned"),
    "timeout": lambda backend: TimeoutError("planned"),
    "cancelled": _cancelled,
}
# Not among the above, for they go through a run instead of failing an item.
EXITS: Mapping[str, Callable[[str], BaseException]] = {
    "keyboard_interrupt": lambda backend: KeyboardInterrupt("planned"),
    "system_exit": lambda backend: SystemExit("planned"),
}


@dataclass(frozen=True)
class Fault:
    """One planned failure.

    Args:
        at: Number of the call that fails, from 1; of all calls, or of those of `on`.
        error: A name in `ERRORS` or `EXITS`, an exception class, or a function giving an exception.
        on: Only count the calls with this label: a wrapped function's name, `"name.next"` for a
            generator's further values, `"name.close"` for its cleanup.
        onwards: Whether all later calls fail too.
        after_first: Whether `at` counts from the first failure of the plan on: 1 is the next call
            of user code, most likely a cleanup.
    """

    at: int
    error: str | Callable[[], BaseException] = "ordinary"
    on: str | None = None
    onwards: bool = False
    after_first: bool = False

    def make(self, backend: str) -> BaseException:
        """The exception to raise."""
        if isinstance(self.error, str):
            return {**ERRORS, **EXITS}[self.error](backend)
        return self.error()


@dataclass
class Opened:
    """One generator or iterator that was handed out and begun."""

    name: str
    by: str  # the task or thread that began it
    values: int = 0
    exhausted: bool = False
    closed_by: list[str] = field(default_factory=list)


class Faults:
    """A plan of failures for one run, and what came of it.

    Args:
        plan: The failures.
        backend: Whose cancellation `"cancelled"` is.
    """

    def __init__(self, *plan: Fault, backend: str = "asyncio") -> None:
        self.plan = plan
        self.backend = backend
        self.calls = 0
        self.log: list[str] = []  # the label of every call, in order
        self.raised: list[tuple[int, str, BaseException]] = []  # call, label, error
        self.opened: list[Opened] = []
        self._by_label: Counter[str] = Counter()
        self._lock = threading.Lock()  # plain functions are called in threads too

    def __str__(self) -> str:
        raised = [f"{error!r} in call {call} ({label})" for call, label, error in self.raised]
        return f"faults {list(self.plan)}: raised {', '.join(raised) or 'nothing'}"

    __repr__ = __str__

    def hit(self, label: str) -> None:
        """Count a call of user code, and fail if the plan says so."""
        with self._lock:
            self.calls += 1
            self.log.append(label)
            self._by_label[label] += 1
            for fault in self.plan:
                if self._due(fault, label):
                    error = fault.make(self.backend)
                    self.raised.append((self.calls, label, error))
                    raise error

    async def arrive(self, label: str) -> None:
        """Count a call of async user code; what is to happen there may be async too."""
        self.hit(label)

    def _due(self, fault: Fault, label: str) -> bool:
        if fault.on is not None and fault.on != label:
            return False
        number = self.calls if fault.on is None else self._by_label[label]
        if fault.after_first:
            if not self.raised:
                return False
            number = self.calls - self.raised[0][0]
        return number >= fault.at if fault.onwards else number == fault.at

    def wrap(self, fn: F, name: str | None = None) -> F:
        """The function, failing as planned; of the same kind as before.

        A plain function that gives an awaitable or a generator counts as a plain function.
        """
        label: str = name or getattr(fn, "__name__", None) or type(fn).__name__
        if inspect.isasyncgenfunction(fn):
            wrapped: Any = self._async_generator(fn, label)
        elif inspect.isgeneratorfunction(fn):
            wrapped = self._generator(fn, label)
        elif inspect.iscoroutinefunction(fn):

            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                await self.arrive(label)
                return await fn(*args, **kwargs)
        else:

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                self.hit(label)
                return fn(*args, **kwargs)

        # Not `__wrapped__`: whoever unwraps it would be past the fault.
        functools.update_wrapper(wrapped, fn, updated=())
        wrapped.__dict__.pop("__wrapped__", None)
        wrapped.__name__ = label
        return wrapped  # type: ignore[no-any-return] # it looks like `fn`

    def _generator(
        self, fn: Callable[..., Generator[Any, Any, Any]], label: str
    ) -> Callable[..., Generator[Any, Any, Any]]:
        def wrapped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            book = self._open(label)
            inner = fn(*args, **kwargs)
            try:
                self.hit(label)
                for value in inner:
                    book.values += 1
                    yield value
                    self.hit(f"{label}.next")
                book.exhausted = True
            finally:
                book.closed_by.append(_whoami())
                inner.close()
                self.hit(f"{label}.close")

        return wrapped

    def _async_generator(
        self, fn: Callable[..., AsyncGenerator[Any, Any]], label: str
    ) -> Callable[..., AsyncGenerator[Any, Any]]:
        async def wrapped(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            book = self._open(label)
            inner = fn(*args, **kwargs)
            try:
                await self.arrive(label)
                async for value in inner:
                    book.values += 1
                    yield value
                    await self.arrive(f"{label}.next")
                book.exhausted = True
            finally:
                book.closed_by.append(_whoami())
                await inner.aclose()
                await self.arrive(f"{label}.close")

        return wrapped

    def iterable(self, values: Iterable[T], name: str = "iterable") -> Iterable[T]:
        """An iterable whose iterators fail as planned, have `close()`, and are kept books of."""
        return _Iterable(self, values, name)

    def async_iterable(self, values: Iterable[T], name: str = "async_iterable") -> AsyncValues[T]:
        """An async iterable whose iterators fail as planned and have `aclose()`; books are kept.

        Each value comes after a checkpoint.
        """
        return AsyncValues(self, values, name)

    def _open(self, label: str) -> Opened:
        book = Opened(label, _whoami())
        self.opened.append(book)
        return book

    def check_closed(self, *, same_task: bool = True) -> None:
        """Assert that what was begun was closed exactly once, and by the task that began it.

        An iterator that came to its end need not be closed. A generator that was never begun has
        nothing to close. What was begun in a thread is closed in one, whichever.

        Args:
            same_task: Whether the closing task matters.

        Raises:
            AssertionError: Naming each that was not.
        """
        wrong = []
        for book in self.opened:
            closes = len(book.closed_by)
            if closes > 1:
                wrong.append(f"{book.name!r} closed {closes} times")
            elif closes == 0 and not book.exhausted:
                wrong.append(f"{book.name!r} not closed, after {book.values} values")
            elif same_task and closes and not _is_same(book.by, book.closed_by[0]):
                wrong.append(f"{book.name!r} begun by {book.by}, closed by {book.closed_by[0]}")
        if wrong:
            raise AssertionError("\n- ".join([f"not closed exactly once; {self}", *wrong]))

    def explains(self, error: BaseException | None) -> bool:
        """Whether an error is one that was planned, itself or as its cause or context."""
        planned = {id(raised) for _, _, raised in self.raised}
        seen: set[int] = set()
        queue = [error]
        while queue:
            one = queue.pop()
            if one is None or id(one) in seen:
                continue
            if id(one) in planned:
                return True
            seen.add(id(one))
            queue += [one.__cause__, one.__context__]
        return False


class _Iterable(Generic[T]):
    def __init__(self, faults: Faults, values: Iterable[T], name: str) -> None:
        self._made = (faults, values, name)

    def __iter__(self) -> _Values[T]:
        return _Values(*self._made)


class _Values(Iterator[T]):
    def __init__(self, faults: Faults, values: Iterable[T], name: str) -> None:
        self._faults = faults
        self._values = iter(values)
        self._name = name
        self._book = faults._open(name)

    def __next__(self) -> T:
        try:
            self._faults.hit(self._name)  # planned or not, this is how an iterator ends
            value = next(self._values)
        except StopIteration:
            self._book.exhausted = True
            raise
        self._book.values += 1
        return value

    def close(self) -> None:
        self._book.closed_by.append(_whoami())
        self._faults.hit(f"{self._name}.close")


class AsyncValues(Generic[T]):
    """Made by `Faults.async_iterable`."""

    def __init__(self, faults: Faults, values: Iterable[T], name: str) -> None:
        self._made = (faults, values, name)

    def __aiter__(self) -> _AsyncValues[T]:
        return _AsyncValues(*self._made)


class _AsyncValues(AsyncIterator[T]):
    def __init__(self, faults: Faults, values: Iterable[T], name: str) -> None:
        self._faults = faults
        self._values = iter(values)
        self._name = name
        self._book = faults._open(name)

    async def __anext__(self) -> T:
        await anyio.lowlevel.checkpoint()
        try:
            await self._faults.arrive(self._name)
        except StopAsyncIteration:  # planned or not, this is how an iterator ends
            self._book.exhausted = True
            raise
        for value in self._values:
            self._book.values += 1
            return value
        self._book.exhausted = True
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._book.closed_by.append(_whoami())
        await anyio.lowlevel.checkpoint()
        await self._faults.arrive(f"{self._name}.close")


def _is_same(one: str, other: str) -> bool:
    return one == other or (one.startswith("thread") and other.startswith("thread"))


def _whoami() -> str:
    """The current task, or the current thread where no event loop runs."""
    try:
        task = anyio.get_current_task()
    except (anyio.NoEventLoopError, RuntimeError):
        return f"thread {threading.current_thread().name}"
    return f"task {task.name} ({task.id})"
