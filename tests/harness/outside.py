"""What an event loop may be waiting for that is not of its own making: threads and processes.

Virtual time may only jump when nothing outside the loop is at work, and a leak check wants to know
what is. Known without being told:

- threads of `anyio.to_thread` (and with them `to_interpreter`), busy ones only;
- calls of `anyio.to_process.run_sync`, the start of their worker process included;
- calls submitted to the standard library's thread and process pools;
- plain threads begun since the watch began, for as long as they live.

A thread that a `Hang` holds is not at work: nothing comes of it until it is released.

Anything else (a subprocess, a socket, an engine of another kind) is announced with `outside_work`.

A pool's future is forgotten only after its done-callbacks have run. Asking `done()` would leave a
gap between the result and the callback that wakes the loop, in which the loop sees nothing at work
and time jumps.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import thread as pool_threads
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import anyio.to_process
import sniffio

_POOLS: tuple[Any, ...] = (futures.ThreadPoolExecutor, futures.ProcessPoolExecutor)
# Threads that serve a pool, a watcher or a selector and never run a caller's code.
_WATCHERS = ("asyncio-waitpid-", "waitpid-")
_SERVANTS = ("QueueFeederThread", "AnyIO selector", *_WATCHERS)

_announced: list[str] = []
_hanging: list[threading.Thread] = []
_submitted: dict[futures.Future[Any], str] = {}
_originals: list[Any] = []
_watching = 0
_lock = threading.Lock()


@contextmanager
def outside_work(name: str = "announced work") -> Iterator[None]:
    """Say that something outside the event loop is at work, so that virtual time must not jump."""
    _announced.append(name)
    try:
        yield
    finally:
        _announced.remove(name)


class Hang:
    """Holds threads as a call would that never returns, until they are released."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self._held: list[threading.Thread] = []

    def hold(self, limit: float = 30.0) -> None:
        """Hold this thread.

        Raises:
            AssertionError: Nobody has released it for `limit` real seconds.
        """
        self._held.append(threading.current_thread())
        _hanging.append(threading.current_thread())
        assert self._released.wait(limit), "nobody has released the thread"

    def release(self) -> None:
        """Let all go, now and later; from here on they are at work again."""
        for thread in self._held:
            _hanging.remove(thread)
        self._held.clear()
        self._released.set()


def begin_watching() -> None:
    """Follow what is submitted to pools, until `end_watching`; calls nest."""
    global _watching
    with _lock:
        _watching += 1
        if _watching == 1:
            _originals.append(anyio.to_process.run_sync)
            anyio.to_process.run_sync = _announced_while(anyio.to_process.run_sync)
            for pool in _POOLS:
                original = pool.submit
                _originals.append(original)
                pool.submit = _followed(original)  # put back below


def end_watching() -> None:
    """Undo one `begin_watching`."""
    global _watching
    with _lock:
        _watching -= 1
        if _watching == 0:
            anyio.to_process.run_sync = _originals.pop(0)
            for pool, original in zip(_POOLS, _originals, strict=True):
                pool.submit = original
            _originals.clear()


def _announced_while(run_sync: Any) -> Any:
    @functools.wraps(run_sync)
    async def announced(*args: Any, **kwargs: Any) -> Any:
        with outside_work("worker process"):
            return await run_sync(*args, **kwargs)

    return announced


def _followed(submit: Any) -> Any:
    def followed(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        future = submit(self, fn, *args, **kwargs)
        _follow(future, getattr(fn, "__qualname__", repr(fn)))
        return future

    return followed


def _follow(future: futures.Future[Any], name: str) -> None:
    invoke = future._invoke_callbacks  # type: ignore[attr-defined] # see the module's head

    def invoke_then_forget() -> None:
        try:
            invoke()
        finally:
            forget()

    def forget() -> None:
        _submitted.pop(future, None)
        future.__dict__.pop("_invoke_callbacks", None)  # a cycle would keep the result alive

    _submitted[future] = name
    future.__dict__["_invoke_callbacks"] = invoke_then_forget
    if future.done():
        # It may have ended too early to see the line above. The submitter has not got it yet, so
        # there is no callback to wait for.
        forget()


def busy_threads() -> set[threading.Thread]:
    """Plain threads, whatever they do, and busy ones of trio's; not this one, nor a pool's."""
    return {thread for thread in threading.enumerate() if _busy(thread)}


def _busy(thread: threading.Thread) -> bool:
    if thread is threading.current_thread() or thread in pool_threads._threads_queues:
        return False
    if type(thread).__module__ == "anyio._backends._asyncio":
        return False  # each loop knows its own, see below
    owner = getattr(getattr(thread, "_target", None), "__self__", None)
    if type(owner).__module__ == "trio._core._thread_cache":
        return owner not in _trio_idle()
    return not (
        type(thread).__name__ == "_ExecutorManagerThread" or thread.name.startswith(_SERVANTS)
    )


def _trio_idle() -> Any:
    from trio._core._thread_cache import THREAD_CACHE

    return THREAD_CACHE._idle_workers


def at_work(known: set[threading.Thread]) -> list[str]:
    """What is at work outside the running event loop, by name; empty when nothing is.

    Args:
        known: The `busy_threads` of an earlier moment, to be left out.
    """
    names = [*_announced, *list(_submitted.values())]
    names += [f"thread {thread.name!r}" for thread in busy_threads() - known - {*_hanging}]
    with suppress(LookupError, RuntimeError, ImportError):
        if not names:
            names += ["worker thread"] * (_calls_in_threads() - len(_hanging))
    return names


def processes_are_watched() -> bool:
    """Whether a thread of asyncio's waits for a process to end (Python 3.11; later a file does)."""
    return any(thread.name.startswith(_WATCHERS) for thread in threading.enumerate())


def _calls_in_threads() -> int:
    if sniffio.current_async_library() == "trio":
        # trio marks a thread idle before its result is delivered, but counts it until it is. It
        # does not count calls that were abandoned; those show as busy threads.
        from trio._threads import active_thread_count

        return active_thread_count()
    from anyio._backends import _asyncio

    workers: set[_asyncio.WorkerThread] = _asyncio._threadpool_workers.get(set())
    return sum(1 for worker in workers if worker not in worker.idle_workers)
