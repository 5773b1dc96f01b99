"""Says where every thread and every task of this process stands, for a test that never ended."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import traceback
from collections.abc import Iterator
from types import AsyncGeneratorType
from typing import Any

import trio

LONGEST = 60  # frames shown of one stack


def dump_everything(fd: int, title: str) -> None:
    """Write `title`, the stacks of all tasks and the stacks of all threads to a file descriptor."""
    lines = [f"\n{title}\n"]
    try:
        for name, coro in _living_tasks():
            lines += [f"\nTask {name} (most recent call last):\n", *_stack_lines(coro)]
    except Exception:
        lines += ["\nThe tasks could not be listed:\n", traceback.format_exc()]
    os.write(fd, ("".join(lines) + "\n").encode(errors="backslashreplace"))
    faulthandler.dump_traceback(file=fd, all_threads=True)


def _living_tasks() -> Iterator[tuple[str, Any]]:
    # The collector knows every task; the backends tell theirs only to code that runs inside them,
    # and this runs in a signal handler (outside, where trio is a guest of anyio's test runner).
    for thing in gc.get_objects():
        kind = type(thing)
        if issubclass(kind, asyncio.Task) and not thing.done():
            yield thing.get_name(), thing.get_coro()
        elif issubclass(kind, trio.lowlevel.Task) and thing.coro.cr_frame is not None:
            yield thing.name, thing.coro


def _stack_lines(awaited: Any) -> list[str]:
    lines: list[str] = []
    while awaited is not None and len(lines) < LONGEST:
        prefix = next((p for p in ("cr", "ag", "gi") if hasattr(awaited, f"{p}_frame")), None)
        if prefix is None:
            awaited = _generator_behind(awaited)
            continue
        frame = getattr(awaited, f"{prefix}_frame")
        if frame is not None:
            lines += traceback.format_list(traceback.extract_stack(frame, limit=1))
        awaited = getattr(awaited, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")
    return lines


def _generator_behind(awaited: Any) -> Any:
    # What `__anext__` of an async generator gives does not say whose it is (cpython #76991).
    behind = gc.get_referents(awaited)
    return next((thing for thing in behind if isinstance(thing, AsyncGeneratorType)), None)
