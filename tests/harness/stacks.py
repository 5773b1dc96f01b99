"""Where every task and every thread stands, as text for a failure message."""

from __future__ import annotations

import gc
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

import anyio

_LONGEST = 40  # frames shown of one stack; a runaway recursion would fill the screen
_PLUMBING = ("anyio", "trio", "asyncio", "outcome")
_PARTS = (("cr_frame", "cr_await"), ("ag_frame", "ag_await"), ("gi_frame", "gi_yieldfrom"))


def frames_of(awaited: Any) -> Iterator[FrameType]:
    """The frames of a suspended coroutine, outermost first, through everything it awaits."""
    for _ in range(_LONGEST):
        for frame_name, inner_name in _PARTS:
            frame = getattr(awaited, frame_name, None)
            if frame is not None:
                yield frame
                awaited = getattr(awaited, inner_name)
                break
        else:
            awaited = _generator_behind(awaited)
            if awaited is None:
                return


def _generator_behind(awaited: Any) -> Any:
    # What `__anext__` and `aclose` of an async generator give has no link to the generator that
    # Python code can follow (cpython #76991); the collector knows it.
    if type(awaited).__name__ in ("async_generator_asend", "async_generator_athrow"):
        for referent in gc.get_referents(awaited):
            if hasattr(referent, "ag_frame"):
                return referent
    return None


def place_of(awaited: Any) -> str:
    """Where a suspended coroutine stands: its innermost frame outside of the event loop's own."""
    best = ""
    for frame in frames_of(awaited):
        module = str(frame.f_globals.get("__name__", ""))
        if not best or module.partition(".")[0] not in _PLUMBING:
            best = f"{module}:{frame.f_lineno} in {frame.f_code.co_qualname}"
    return best or "nowhere any more"


def task_stacks() -> str:
    """All tasks of the running event loop with their stacks, children below their parents."""
    tasks = {task.id: task for task in anyio.get_running_tasks()}
    lines: list[str] = []

    def show(task: anyio.TaskInfo, indent: str) -> None:
        lines.append(f"{indent}task {task.name!r}")
        for frame in frames_of(task.coro):
            source = traceback.extract_stack(frame, limit=1)[0].line
            code = frame.f_code
            lines.append(
                f"{indent}  {code.co_filename}:{frame.f_lineno} in {code.co_name}: {source}"
            )
        for child in tasks.values():
            if child.parent_id == task.id:
                show(child, indent + "    ")

    for task in tasks.values():
        if task.parent_id not in tasks:
            show(task, "")
    return "\n".join(lines)


def thread_stacks() -> str:
    """All threads but this one with their stacks."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines: list[str] = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            lines.append(f"thread {names.get(ident, ident)!r}")
            lines += (line.rstrip() for line in traceback.format_stack(frame, limit=_LONGEST))
    return "\n".join(lines)


def all_stacks() -> str:
    """Tasks and threads; never raises, for it is called when things are bad already."""
    parts = []
    for title, stacks in (("tasks", task_stacks), ("other threads", thread_stacks)):
        try:
            text = stacks()
        except Exception as error:  # a half-dead loop must not hide what is known
            text = f"not known: {error!r}"
        if text:
            parts.append(f"--- {title}\n{text}")
    return "\n".join(parts)
