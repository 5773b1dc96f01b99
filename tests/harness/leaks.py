"""What is left when something has ended: tasks, threads, streams, generators, files, objects.

Two ways of looking, for two uses:

- `Watch` (and `no_leaks`, which asserts) follows what a block makes, from inside the event loop. It
  is exact and takes microseconds: it sees a stream that was dropped without being closed, and an
  async generator that was left to the garbage collector, at once and with the line that made them.
  Sweeps use it at every point.
- `Snapshot` looks at the whole process, from inside or outside of a loop, after `gc.collect()`:
  also file descriptors, child processes and objects by type. `soak` compares two of them, many runs
  apart.

Idle worker threads that anyio and trio keep for later are not leaks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path

import anyio
import sniffio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from flowstage.testing import _leaks
from flowstage.testing._leaks import listed, name_of

from . import outside, stacks

GRACE = _leaks.GRACE
_STREAMS = (MemoryObjectSendStream, MemoryObjectReceiveStream)


class Watch(_leaks.Watch):
    """Follows what a block inside an event loop makes; `leaks` tells what is left of it.

    Knows of work that was announced or submitted to pools too.
    """

    def note_threads(self) -> None:
        self.grace = GRACE
        self._threads = outside.busy_threads()
        self._busy = Counter(outside.at_work(self._threads))

    def threads_left(self) -> list[str]:
        left = Counter(outside.at_work(self._threads)) - self._busy
        return [f"still at work: {name}" for name in left.elements()]


@contextmanager
def no_leaks() -> Iterator[Watch]:
    """Assert that a block inside an event loop leaves nothing behind.

    When the block raises, what it left is added to its exception as a note.

    Raises:
        AssertionError: Naming each task, thread, stream and generator that is left.
    """
    with Watch() as watch:
        try:
            yield watch
        except BaseException as error:
            if left := watch.leaks():
                error.add_note(listed("and left behind:", left))
            raise
        if left := watch.leaks():
            raise AssertionError(listed("left behind:", left))


@dataclass(frozen=True)
class Snapshot:
    """What the process holds, by kind, as `{description: number}`.

    Kinds: tasks, threads, files, processes, streams, generators, and on request objects.
    """

    kinds: dict[str, Counter[str]]
    blocks: int  # memory blocks allocated by Python

    @classmethod
    def take(cls, *, objects: bool = False) -> Snapshot:
        """Collect garbage, then look; with `objects`, count all objects by type as well."""
        gc.collect()
        everything = gc.get_objects()
        kinds = {
            "tasks": Counter(_tasks()),
            "threads": Counter(_threads()),
            "files": Counter(_files()),
            "processes": Counter(_processes()),
            "streams": Counter(
                f"{type(thing).__name__} of size {thing.statistics().max_buffer_size}"
                for thing in everything
                if type(thing) in _STREAMS and not thing._closed
            ),
            "generators": Counter(
                name_of(thing)
                for thing in everything
                if type(thing) is types.AsyncGeneratorType
                and thing.ag_frame is not None
                and thing.ag_frame.f_lasti > 0
                and not thing.ag_running
            ),
        }
        if objects:
            kinds["objects"] = Counter()
            for kind, number in Counter(map(type, everything)).items():
                kinds["objects"][f"{kind.__module__}.{kind.__qualname__}"] += number
        del everything
        return cls(kinds, sys.getallocatedblocks())

    def since(self, before: Snapshot) -> list[str]:
        """What is here and was not there, one line each; objects are left to `soak`."""
        return [
            f"{kind}: {name}" + (f" ({number} times)" if number > 1 else "")
            for kind, now in self.kinds.items()
            if kind != "objects"
            for name, number in (now - before.kinds[kind]).items()
        ]


def assert_nothing_since(before: Snapshot) -> None:
    """Assert that the process holds nothing new; what is ending gets half a second for it.

    Raises:
        AssertionError: Naming what is new, by kind.
    """
    patient_until = time.monotonic() + GRACE
    while new := Snapshot.take().since(before):
        if time.monotonic() > patient_until:
            raise AssertionError(listed("new in this process:", new))
        time.sleep(0.005)


def _tasks() -> Iterator[str]:
    try:
        sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        # No loop runs here, but a loop that was closed over its tasks has left them.
        # By type: `isinstance` asks a weak proxy for the class of what may be gone.
        everything = gc.get_objects()
        for task in [thing for thing in everything if issubclass(type(thing), asyncio.Task)]:
            if not task.done():
                yield f"{task.get_name()} at {stacks.place_of(task.get_coro())}"
        return
    for info in anyio.get_running_tasks():
        yield f"{info.name} at {stacks.place_of(info.coro)}"


def _threads() -> Iterator[str]:
    return (thread.name for thread in threading.enumerate() if not _idle(thread))


def _idle(thread: threading.Thread) -> bool:
    """Whether anyio or trio keeps the thread for later."""
    idle = getattr(thread, "idle_workers", None)  # anyio's, on asyncio
    if idle is not None:
        return thread in idle
    owner = getattr(getattr(thread, "_target", None), "__self__", None)
    if type(owner).__module__ == "trio._core._thread_cache":
        return owner in outside._trio_idle()
    return False


def _files() -> Iterator[str]:
    for name in ("/proc/self/fd", "/dev/fd"):
        folder = Path(name)
        if folder.is_dir():
            for entry in sorted(os.listdir(folder)):
                try:
                    yield f"{entry} -> {os.readlink(folder / entry)}"
                except OSError:
                    continue  # the one that listed the folder
            return


def _processes() -> Iterator[str]:
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            yield from (f"child process {pid}" for pid in listing.read_text().split())
        except OSError:
            continue  # that thread has ended


def soak(
    once: Callable[[], object],
    *,
    rounds: int = 50,
    warm_up: int = 20,
    blocks_each: float = 4.0,
    ignore: Iterable[str] = (),
    seconds: float = inf,
) -> int:
    """Assert that calling something again and again leaves the process as it was.

    Between two plateaus: after `warm_up` calls, and after `rounds` more. An object type that grew
    by half a piece a call or more is a leak; caches that fill up once are not.

    Args:
        once: What to call, outside of an event loop.
        rounds: How often to call it between the two looks.
        warm_up: How often to call it before the first look.
        blocks_each: Memory blocks a call may leave.
        ignore: Beginnings of type names that may grow.
        seconds: After so many real seconds no further call is made.

    Returns:
        How often it was called between the two looks.

    Raises:
        AssertionError: Naming what grew, and by how much a call.
    """
    gc.collect()
    gc.freeze()  # what was there before is no concern of ours, and looking at it takes long
    try:
        began = time.monotonic()
        for _ in range(warm_up):
            once()
        own_weight = Snapshot.take(objects=True)  # the second look has the first one in its view
        before = Snapshot.take(objects=True)
        del own_weight
        done = 0
        while done < rounds and (not done or time.monotonic() - began < seconds):
            once()
            done += 1
        gc.collect()  # finalisers may leave garbage for the one that comes with the look
        after = Snapshot.take(objects=True)
    finally:
        gc.unfreeze()
    grown = after.since(before)
    growth = after.kinds["objects"] - before.kinds["objects"]
    for name, number in growth.most_common():
        if number >= done / 2 and not name.startswith(tuple(ignore)):
            grown.append(f"objects: {name}, {number / done:.1f} a call")
    blocks = (after.blocks - before.blocks) / done
    if blocks > blocks_each:
        grown.append(f"memory: {blocks:.1f} blocks a call")
    if grown:
        raise AssertionError(listed(f"grew in {done} calls:", grown))
    return done
