"""Where a suspended coroutine or a thread stands: as text for a message, and whether a timer runs there."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from types import FrameType, MethodType
from typing import Any

from ._backend import is_running_timeout

_DEEPEST = 40
"""Frames looked at; a runaway recursion has no end."""
_PLUMBING = (
    "anyio",
    "trio",
    "asyncio",
    "outcome",
    "threading",
    "concurrent",
    "queue",
    "contextlib",
)
_OURS = ("flowstage",)
_PARTS = (("cr_frame", "cr_await"), ("ag_frame", "ag_await"), ("gi_frame", "gi_yieldfrom"))


def frames_of(awaited: Any) -> Iterator[FrameType]:
    """Give the frames of a suspended coroutine, outermost first, through everything it awaits."""
    for _, frame in _through(awaited):
        yield frame


def has_timer(awaited: Any) -> bool:
    """Tell whether a suspended coroutine stands in an `asyncio.timeout()` block that may end by itself.

    That is a timer of which no cancel scope knows. Of an `async with` the frame keeps what leaves it
    where Python code cannot see it; the collector can. Other timers of asyncio's own, such as
    `loop.call_later`, are not found.
    """
    for suspended, _ in _through(awaited):
        for referent in gc.get_referents(suspended):
            timeout = referent.__self__ if type(referent) is MethodType else referent
            if is_running_timeout(timeout):
                return True
    return False


def _through(awaited: Any) -> Iterator[tuple[Any, FrameType]]:
    for _ in range(_DEEPEST):
        for frame_name, inner_name in _PARTS:
            frame = getattr(awaited, frame_name, None)
            if frame is not None:
                yield awaited, frame
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
    """Tell where a suspended coroutine stands: its innermost frame outside of the event loop's own."""
    best = ""
    for frame in frames_of(awaited):
        if not best or not _is_plumbing(frame):
            best = _line(frame)
    return best or "nowhere any more"


def stack_of(awaited: Any, most: int) -> list[str]:
    """Tell where a suspended coroutine stands in the user's code: its innermost frames there."""
    frames = [frame for frame in frames_of(awaited) if not _is_plumbing(frame, *_OURS)]
    return [
        f'File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_qualname}'
        for frame in frames[-most:]
    ]


def place_of_thread(thread: threading.Thread) -> str:
    """Tell where a thread stands: its innermost frame outside of the standard library's own."""
    frame = sys._current_frames().get(thread.ident or 0)
    innermost = frame
    while frame is not None and _is_plumbing(frame):
        frame = frame.f_back
    frame = frame or innermost
    return "nowhere any more" if frame is None else _line(frame)


def _is_plumbing(frame: FrameType, *more: str) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package in _PLUMBING or package in more


def _line(frame: FrameType) -> str:
    module = str(frame.f_globals.get("__name__", ""))
    return f"{module}:{frame.f_lineno} in {frame.f_code.co_qualname}"
