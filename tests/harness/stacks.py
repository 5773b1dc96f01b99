"""Where every task and every thread stands, as text for a failure message."""

from __future__ import annotations

import sys
import threading
import traceback

import anyio

from flowstage._where import frames_of, place_of

__all__ = ["all_stacks", "frames_of", "place_of", "task_stacks", "thread_stacks"]

_LONGEST = 40  # frames shown of one stack; a runaway recursion would fill the screen


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
