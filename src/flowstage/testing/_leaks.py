"""What a block leaves behind: tasks, threads, streams, async generators.

Inside an event loop it is followed as it is made: a stream that was dropped without being closed is seen,
and an async generator that was left to the garbage collector. Outside, where the block starts event loops
of its own, tasks and generators are looked for when it is over.

Worker threads that anyio, trio and executors keep idle for later are not leaks.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import thread as pool_threads
from contextlib import contextmanager
from types import AsyncGeneratorType, FrameType
from typing import Any, Self, TypeAlias
from weakref import WeakSet

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from .._where import place_of, place_of_thread

Stream: TypeAlias = MemoryObjectSendStream[Any] | MemoryObjectReceiveStream[Any]
Generator: TypeAlias = AsyncGeneratorType[Any, Any]

GRACE = 0.5
"""Real seconds that threads which are ending already may take for it."""
_STREAMS: tuple[Any, ...] = (MemoryObjectSendStream, MemoryObjectReceiveStream)
# Threads that serve a pool, a watcher or a selector and never run a caller's code.
_SERVANTS = ("QueueFeederThread", "AnyIO selector", "asyncio-waitpid-", "waitpid-", "pydevd")
_watches: list[Watch] = []
_originals: list[Any] = []


@contextmanager
def assert_no_leaks() -> Iterator[None]:
    """Fail if a block leaves a task, a busy thread, an open memory stream or an async generator behind.

    For sync and async tests: inside an event loop, with a plain `with` around what shall clean up
    after itself; or around `anyio.run`. Only what was made in the block counts. When the block raises,
    what it left is told in a note to its exception.

    Raises:
        AssertionError: naming each thing that is left, and where it stands or was made.

    Example:
        >>> import anyio
        >>> from flowstage import Input
        >>> from flowstage.testing import assert_no_leaks
        >>>
        >>> async def test_a_run_that_is_left_early() -> None:
        ...     with assert_no_leaks():
        ...         async with Input[int]().map(str).open(range(1000)) as run:
        ...             async for text in run:
        ...                 break
        >>>
        >>> anyio.run(test_a_run_that_is_left_early)
    """
    __tracebackhide__ = True
    with Watch() as watch:
        try:
            yield
        except BaseException as error:
            if left := watch.leaks():
                error.add_note(listed("and left behind:", left))
            raise
        if left := watch.leaks():
            raise AssertionError(listed("left behind:", left))


def listed(title: str, lines: Iterable[str]) -> str:
    """Write a list below a title."""
    return "\n- ".join([title, *lines])


class Watch:
    """Follows what a block makes; `leaks` tells what is left of it.

    A context manager. The streams found are closed when it is left, so that one leak is one message.

    Attributes:
        grace: real seconds that threads which are ending already may take for it.
    """

    grace = GRACE

    def __enter__(self) -> Self:
        self._tasks = _running_tasks()
        self._known: WeakSet[Any] = WeakSet() if self._tasks is not None else WeakSet(_outside())
        self._streams: list[tuple[Stream, str]] = []
        self._generators: WeakSet[Generator] = WeakSet()
        self._abandoned: list[str] = []
        self._hooks = sys.get_asyncgen_hooks()
        self.note_threads()
        sys.set_asyncgen_hooks(firstiter=self._generator_begins, finalizer=self._generator_dropped)
        _watches.append(self)
        if len(_watches) == 1:
            _follow_streams()
        return self

    def __exit__(self, *exc_info: object) -> None:
        _watches.remove(self)
        if not _watches:
            _leave_streams()
        sys.set_asyncgen_hooks(*self._hooks)
        for stream, _ in self._streams:
            stream.close()

    def leaks(self) -> list[str]:
        """Tell what is left now, one line each; to be asked in the task that entered the block."""
        return [
            *self._left_tasks(),
            *self._left_threads(),
            *(
                f"{type(stream).__name__} not closed, made at {place}"
                for stream, place in self._streams
                if not stream._closed
            ),
            *(f"async generator left to the garbage collector: {name}" for name in self._abandoned),
            *(
                f"async generator not closed: {name_of(generator)}"
                for generator in self._generators
                if generator.ag_frame is not None and not generator.ag_running
            ),
        ]

    # -- tasks and threads ----------------------------------------------------------------------

    def _left_tasks(self) -> Iterator[str]:
        now = _running_tasks()
        if self._tasks is not None and now is not None:
            mine = anyio.get_current_task().id
            for number, task in now.items():
                if number not in self._tasks and number != mine and not _is_keeper(task):
                    yield f"task {task.name!r} at {place_of(task.coro)}"
            return
        for thing in _outside():
            if thing not in self._known and thing not in self._generators:
                if isinstance(thing, asyncio.Task):
                    yield f"task {thing.get_name()!r} at {place_of(thing.get_coro())}"
                else:
                    yield f"async generator not closed: {name_of(thing)}"

    def _left_threads(self) -> Iterator[str]:
        patient_until = time.monotonic() + self.grace
        while left := self.threads_left():
            if time.monotonic() > patient_until:
                return iter(left)
            time.sleep(0.001)
        return iter(())

    def note_threads(self) -> None:
        """Remember the threads that are busy when the block begins."""
        self._threads = busy_threads()

    def threads_left(self) -> list[str]:
        """Tell which others are busy now."""
        return [
            f"thread {thread.name!r} still at work at {place_of_thread(thread)}"
            for thread in busy_threads() - self._threads
        ]

    # -- streams and generators -----------------------------------------------------------------

    def _generator_begins(self, generator: Any) -> None:
        self._generators.add(generator)
        if self._hooks.firstiter is not None:
            self._hooks.firstiter(generator)

    def _generator_dropped(self, generator: Any) -> None:
        self._generators.discard(generator)
        self._abandoned.append(name_of(generator))
        if self._hooks.finalizer is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # trio's word for the same
                self._hooks.finalizer(generator)

    def stream_made(self, stream: Stream, place: str) -> None:
        """Note a stream, by a strong reference: one that is dropped must not slip away."""
        self._streams.append((stream, place))


def name_of(generator: Generator) -> str:
    """Name an async generator by its function and its place."""
    return f"{generator.__qualname__} at {place_of(generator)}"


def _running_tasks() -> dict[int, anyio.TaskInfo] | None:
    """Give the tasks of the running event loop by number; None where none runs."""
    try:
        anyio.get_cancelled_exc_class()
    except Exception:  # anyio's error before 4.12 was sniffio's
        return None
    return {task.id: task for task in anyio.get_running_tasks()}


def _is_keeper(task: anyio.TaskInfo) -> bool:
    """Tell whether the task waits for the end of the loop, to end anyio's idle worker processes."""
    return getattr(task.coro, "__name__", "").startswith("_shutdown_process_pool")


def _outside() -> list[Any]:
    """Give unfinished asyncio tasks and async generators, whatever event loop they were of."""
    gc.collect()
    return [
        thing
        for thing in gc.get_objects()
        # By type: `isinstance` asks a weak proxy for the class of what may be gone.
        if (issubclass(type(thing), asyncio.Task) and not thing.done())
        or (
            type(thing) is AsyncGeneratorType
            and thing.ag_frame is not None
            and thing.ag_frame.f_lasti > 0
            and not thing.ag_running
        )
    ]


def busy_threads() -> set[threading.Thread]:
    """Give the threads that may run somebody's code: not this one, and none that is kept for later."""
    return {thread for thread in threading.enumerate() if _is_busy(thread)}


def _is_busy(thread: threading.Thread) -> bool:
    if thread is threading.current_thread() or thread in pool_threads._threads_queues:
        return False
    idle = getattr(thread, "idle_workers", None)  # anyio's, on asyncio
    if idle is not None:
        return thread not in idle
    owner = getattr(getattr(thread, "_target", None), "__self__", None)
    if type(owner).__module__ == "trio._core._thread_cache":
        cache = getattr(sys.modules["trio._core._thread_cache"], "THREAD_CACHE", None)
        return owner not in getattr(cache, "_idle_workers", ())
    return not (
        type(thread).__name__ == "_ExecutorManagerThread" or thread.name.startswith(_SERVANTS)
    )


# -- following streams -----------------------------------------------------------------------------


def _follow_streams() -> None:
    for kind in _STREAMS:
        original = kind.__post_init__
        _originals.append(original)
        kind.__post_init__ = _followed(original)  # put back below


def _leave_streams() -> None:
    for kind, original in zip(_STREAMS, _originals, strict=True):
        kind.__post_init__ = original
    _originals.clear()


def _followed(original: Callable[[Any], None]) -> Callable[[Any], None]:
    def followed(stream: Any) -> None:
        original(stream)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            # The dataclass's own `__init__` comes from a string; the rest is anyio's.
            name = str(frame.f_globals.get("__name__", ""))
            if not name.startswith("anyio") and frame.f_code.co_filename != "<string>":
                break
            frame = frame.f_back
        place = "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        for watch in _watches:
            watch.stream_made(stream, place)

    return followed
