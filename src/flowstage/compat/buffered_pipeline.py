"""asyncio-buffered-pipeline's `buffered_pipeline`: chained async generators that overlap.

    from flowstage.compat.buffered_pipeline import buffered_pipeline

Each buffered iterable is the source of a run of its own, which pulls a value only when its edge has
room for it: so it looks ahead exactly as far as `buffer_size` says. What an iterable raises travels
behind the values that it gave before, and then reaches the caller as it is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextvars import ContextVar
from reprlib import repr as shown
from typing import Any, Generic, Protocol, TypeVar

from anyio import BusyResourceError

from flowstage import ClosedError, source

from ._host import Host

__all__ = ["BufferIterable", "Buffered", "buffered_pipeline"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class BufferIterable(Protocol):
    """What `buffered_pipeline` gives."""

    def __call__(self, iterable: AsyncIterable[T], buffer_size: int = 1) -> Buffered[T]:
        """Iterate over `iterable` in the background, at most `buffer_size` values ahead."""
        ...


def buffered_pipeline() -> BufferIterable:
    """Make a function that buffers the async iterables of one pipeline.

    Each of them is iterated over in the background as soon as somebody asks for its first value. When
    one of them raises, all are ended, and the exception reaches the caller unchanged. An iterator that
    is dropped or closed early ends, with everything it reads from.

    Returns:
        `buffer_iterable(iterable, buffer_size=1)`, which gives an async iterator.
    """
    links = _Links()

    def buffer_iterable(iterable: AsyncIterable[T], buffer_size: int = 1) -> Buffered[T]:
        return Buffered(links, iterable, buffer_size)

    return buffer_iterable


class Buffered(AsyncIterator[T_co], Generic[T_co]):
    """The values of an async iterable that is read ahead; made by `buffer_iterable`.

    One task at a time may wait for a value; another one that asks meanwhile gets a `BusyResourceError`.

    Raises:
        TypeError: it is no async iterable, or `buffer_size` is no whole number.
        ValueError: `buffer_size` is below 1.
    """

    def __init__(self, links: _Links, iterable: AsyncIterable[T_co], buffer_size: int) -> None:
        self._host: Host | None = None
        if not isinstance(iterable, AsyncIterable):
            raise TypeError(
                f"buffer_iterable takes an async iterable, not {type(iterable).__name__}"
            )
        if isinstance(buffer_size, bool) or not isinstance(buffer_size, int):
            raise TypeError(f"buffer_size must be a whole number, not {shown(buffer_size)}")
        if buffer_size < 1:
            raise ValueError(f"buffer_size must be at least 1, not {buffer_size}")
        self._links = links
        self._iterable: AsyncIterable[T_co] | None = iterable
        # What it is called in messages; a generator knows the name of its function.
        name = getattr(iterable, "__name__", None)
        self.__name__ = name if isinstance(name, str) and name else type(iterable).__name__
        self._size = buffer_size

    def __aiter__(self) -> Buffered[T_co]:
        return self

    async def __anext__(self) -> T_co:
        host = self._host
        if host is None:
            host = await self._begin()
        try:
            try:
                read = host.read or host.next_event
                value: Any = await read()
            except ClosedError:
                value = await host.next_event()
        except StopAsyncIteration:
            await self.aclose()
            raise
        except BusyResourceError:  # the other task goes on
            raise
        except BaseException:
            await self._links.fail(host)
            self._host = None
            raise
        if type(value) is _Raised:
            self._host = None
            await self._links.fail(host)
            raise value.error from None
        return value  # type: ignore[no-any-return]  # a run's events are anything

    async def aclose(self) -> None:
        """End the reading ahead, here and in the iterables that this one reads from."""
        host, self._host, self._iterable = self._host, None, None
        if host is not None:
            await self._links.close(host)

    def __del__(self) -> None:
        if self._host is not None:
            self._links.drop(self._host)

    async def _begin(self) -> Host:
        iterable, self._iterable = self._iterable, None
        if iterable is None:
            raise StopAsyncIteration
        flow = source(_values(iterable), name=self.__name__)
        opening = flow.open(buffer=self._size)
        self._host = host = Host(opening, "flowstage buffered_pipeline")
        try:
            await self._links.start(host)
        except BaseException:
            self._host = None
            raise
        return host


class _Raised:
    """What an iterable raised, on its way behind the values."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


async def _values(iterable: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    """Give the values of an async iterable, and what it raises as the last of them."""
    iterator = iterable.__aiter__()
    raised: Exception | None = None
    try:
        try:
            while True:
                yield await iterator.__anext__()  # and keep no reference to it
        except StopAsyncIteration:
            pass
        except Exception as error:
            raised = error
        if raised is not None:
            yield _Raised(raised)
    finally:
        close: Callable[[], Any] | None = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


# The hosts whose iterables the running code is part of, outermost first.
_inside: ContextVar[tuple[Host, ...]] = ContextVar("flowstage.compat.buffered", default=())


class _Links:
    """What connects the iterables of one pipeline: which are read, and from within which others."""

    def __init__(self) -> None:
        self._inside: dict[Host, tuple[Host, ...]] = {}

    async def start(self, host: Host) -> None:
        outer = _inside.get()
        self._inside[host] = outer
        token = _inside.set((*outer, host))  # the host's task copies the context
        try:
            await host.start()
        except BaseException:
            self._inside.pop(host, None)
            raise
        finally:
            _inside.reset(token)

    async def close(self, host: Host) -> None:
        """End a host and those that it started; wait for them."""
        await self._end(self._below(host))

    async def fail(self, host: Host) -> None:
        """End every host but those that the caller is inside of, which its exception will end.

        From inside, only those below are waited for: two that fail at once would else wait for each
        other.
        """
        outer = _inside.get()
        others = [other for other in list(self._inside) if other not in outer]
        for other in others:
            other.end()
        await self._end(self._below(host) if outer else others)

    def drop(self, host: Host) -> None:
        """End a host and those that it started, from a finalizer."""
        for below in self._below(host):
            self._inside.pop(below, None)
            below.end_soon()

    def _below(self, host: Host) -> list[Host]:
        inside = list(self._inside.items())
        return [other for other, outer in inside if other is host or host in outer]

    async def _end(self, hosts: list[Host]) -> None:
        for host in hosts:
            host.end()
        try:
            for host in hosts:
                await host.wait_gone()
        except BaseException:
            await self._end(hosts)  # cancelled meanwhile: the others are waited for all the same
            raise
        for host in hosts:
            self._inside.pop(host, None)
