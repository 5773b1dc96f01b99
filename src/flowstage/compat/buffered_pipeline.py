"""asyncio-buffered-pipeline's `buffered_pipeline`: chained async generators that overlap.

    from flowstage.compat.buffered_pipeline import buffered_pipeline

Each buffered iterable is the source of a run of its own, which pulls a value only when its edge has
room for it: so it looks ahead exactly as far as `buffer_size` says. What an iterable raises ends that
source and not its run, and reaches the caller as it is, behind the values that came before.

Where an iterable ends, whoever reads it is told:

* it was read to its end: the iteration ends. What it has not read of others is left to them.
* it raised: that is raised, once. If the reader is one of these iterables itself it may deal with that,
  and nobody else is concerned; in code outside of them all others of the pipeline are ended.
* it was ended because of another one: `ClosedError`, once, for there may have been more.
* the reader closed or dropped it: nothing; what its cleanup raises is logged.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from reprlib import repr as shown
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from anyio import BusyResourceError

from flowstage import ClosedError, source

from ._host import Host

__all__ = ["BufferIterable", "Buffered", "buffered_pipeline"]

logger = logging.getLogger("flowstage")

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
    one of them raises, and none that reads from it deals with that, all are ended, and the exception
    reaches the caller unchanged. An iterator that is dropped or closed early ends, with everything it
    reads from.

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
    Where it was ended because of another iterable, its reader is told by a `ClosedError`.

    Raises:
        TypeError: it is no async iterable, or `buffer_size` is no whole number.
        ValueError: `buffer_size` is below 1.
    """

    def __init__(self, links: _Links, iterable: AsyncIterable[T_co], buffer_size: int) -> None:
        self._host: Host | None = None
        self._left: Host | None = None  # that which was read to its end
        if not isinstance(iterable, AsyncIterable):
            raise TypeError(
                f"buffer_iterable takes an async iterable, not {type(iterable).__name__}"
            )
        if isinstance(buffer_size, bool) or not isinstance(buffer_size, int):
            raise TypeError(f"buffer_size must be a whole number, not {shown(buffer_size)}")
        if buffer_size < 1:
            raise ValueError(f"buffer_size must be at least 1, not {buffer_size}")
        self._links = links
        self._source = _Source(iterable)
        # What it is called in messages; a generator knows the name of its function.
        name = getattr(iterable, "__name__", None)
        self.__name__ = name if isinstance(name, str) and name else type(iterable).__name__
        self._size = buffer_size
        self._next: Callable[[], Awaitable[T_co]] | None = None  # once it has begun

    def __aiter__(self) -> Buffered[T_co]:
        return self

    async def __anext__(self) -> T_co:
        try:
            return await (self._next or self._first)()
        except BusyResourceError:  # the other task goes on
            raise
        except BaseException as raised:
            error = raised
        try:
            error = await self._over(error)
            context = error.__context__
            try:
                raise error
            finally:
                error.__context__ = context  # and not what its reader is dealing with
                del context
        finally:
            del error  # or the frame and the traceback would keep each other

    async def aclose(self) -> None:
        """End the reading ahead, here and in the iterables that this one reads from."""
        host, self._host, self._next = self._host or self._left, None, _nothing
        if host is not None:
            await self._links.close(host)

    def __del__(self) -> None:
        if self._host is not None:
            self._links.drop(self._host)

    async def _first(self) -> T_co:
        """Begin to read ahead, and give the first value."""
        opening = source(self._source, name=self.__name__).open(buffer=self._size)
        self._host = self._source.host = host = Host(opening, "flowstage buffered_pipeline")
        self._next = host.next_event
        await self._links.start(host)
        value: T_co = await host.next_event()
        if host.read is not None and self._host is host:
            self._next = host.read
        return value

    async def _over(self, raised: BaseException) -> BaseException:
        """End everything that an end or an error concerns; give what the reader is told."""
        host, self._host, self._next = self._host, None, _nothing
        if host is None:  # it had ended before, or another task has closed it meanwhile
            return StopAsyncIteration() if isinstance(raised, ClosedError) else raised
        if isinstance(raised, ClosedError):
            raised = await host.outcome()
            if isinstance(raised, StopAsyncIteration) and host.ended:
                raised = ClosedError(
                    f"{self.__name__!r} was ended before it had come to its end, because another "
                    "iterable of its pipeline has raised or was closed"
                )
        elif isinstance(raised, StopAsyncIteration):
            error, self._source.error = self._source.error, None  # it is told once
            if error is None:
                self._left = host
                await self._links.leave(host)
                return raised
            raised = error
        await self._links.fail(host)
        return raised


async def _nothing() -> Any:
    raise StopAsyncIteration


class _Source:
    """An iterable as a source that never fails: what it raises ends it, and is kept.

    Attributes:
        error: what it has raised, until its reader has come to that.
        host: where it is read.
    """

    host: Host

    def __init__(self, iterable: AsyncIterable[Any]) -> None:
        self.error: BaseException | None = None
        self._iterable = iterable
        self._iterator: Any = None

    async def __aenter__(self) -> _Begun:
        try:
            self._iterator = self._iterable.__aiter__()
        except (StopIteration, StopAsyncIteration) as error:  # it would pass for an end
            raise RuntimeError(f"__aiter__ raised {type(error).__name__}") from error
        return _Begun(self._iterator)

    async def __aexit__(
        self, kind: object, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        if error is not None and not isinstance(error, GeneratorExit):  # that is told of an end
            self.error = error.with_traceback(_of_the_user(error.__traceback__))
        close: Callable[[], Any] | None = getattr(self._iterator, "aclose", None)
        if close is not None:
            try:
                await close()
            except Exception as failed:
                self._tell(self.error)
                self.error = failed
        if self.host.ended:  # then nobody comes to it any more
            self._tell(self.error)
            self.error = None
        return error is not None and error is self.error

    def _tell(self, error: BaseException | None) -> None:
        """Log an error that reaches nobody; the end of another iterable has been told elsewhere."""
        if error is not None and not isinstance(error, ClosedError):
            logger.warning("%r raised as it was ended", self._iterable, exc_info=error)


class _Begun:
    """An iterator that is read as it is, has been asked for already, and is closed by its source."""

    def __init__(self, iterator: Any) -> None:
        self.__anext__ = iterator.__anext__

    def __aiter__(self) -> Any:
        return self


def _of_the_user(trace: TracebackType | None) -> TracebackType | None:
    """Give a traceback without the frames of the run, which would come again for each iterable."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(
        "flowstage._"
    ):
        trace = trace.tb_next
    return trace


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

    async def leave(self, host: Host) -> None:
        """End a host that was read to its end; somebody may read on what it has read from."""
        await self._end([host])

    async def fail(self, host: Host) -> None:
        """End a host that has failed, and those that it started; from outside, all others as well.

        From inside another host the exception goes on to whoever reads that, and ends all there. If
        it is dealt with on the way, it concerns nobody else.
        """
        is_inside = any(outer in self._inside for outer in _inside.get())
        await self._end(self._below(host) if is_inside else list(self._inside))

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
        for host in hosts:
            if isinstance(host.error, (KeyboardInterrupt, SystemExit)):
                raise host.error
