"""What goes wrong: flowstage's own errors, and the note that says where a user's error happened.

A user's exception is never wrapped. It is raised as it is, with one note (stage, item, attempt; and
where the function was written, if the traceback does not lead there), and `failure_of` finds the
particulars again. The particulars are kept on the exception *without* a
reference back to it, so that a kept exception is no reference cycle.
"""

from __future__ import annotations

from types import CodeType
from typing import Any

import anyio

from ._envelope import Failure, safe_repr

__all__ = [
    "BufferOverflow",
    "ClosedError",
    "DeadlockError",
    "FlowError",
    "GraphError",
    "StageError",
    "StageTimeout",
    "WorkerDied",
    "exit_in",
    "failure_of",
    "is_cancellation",
    "note_failure",
    "safe_repr",
]

_MARK = "__flowstage_failure__"
_OURS = (__package__, f"{__package__}._engine")
_CAUSES = 20
"""Errors of a chain of causes that are looked at; it may be a circle."""


class FlowError(Exception):
    """Base of every error that is flowstage's own."""


class GraphError(FlowError, ValueError):
    """A graph that cannot work, raised where it is written."""


class StageTimeout(FlowError, TimeoutError):
    """A call took longer than the `timeout` of its stage."""


class BufferOverflow(FlowError):
    """An item came to a full `buffer(..., overflow="error")`."""


class DeadlockError(FlowError):
    """A graph that can no longer move; the message names the circle of waits and the edge to widen."""


class WorkerDied(FlowError):
    """A worker process ended while it held items; for places of processes, of which there is none yet."""


class ClosedError(FlowError, anyio.ClosedResourceError):
    """A run, an input or an output was used after its end."""


class StageError(FlowError):
    """A stage's function misbehaved in a way that has no exception of its own."""


MOST_LATER = 3
"""Later failures that are noted; all are in the run's `failures`."""


def note_failure(failure: Failure, code: CodeType | None = None) -> None:
    """Put the one note that names stage, item and attempt on a failure's error.

    Where there was no item, in a source, nothing was attempted either. The place of the stage's
    function (its `code`) is told when the traceback has no line of it: a wrong number of arguments
    is found before the function begins, and what it gave is looked at when it is over.
    """
    error = failure.error
    text, hint = f"flowstage: raised in stage {failure.stage!r}", ""
    try:
        if code is not None and not _leads_to(code, error):
            text += f" (written at {code.co_filename}:{code.co_firstlineno})"
            if _is_vain_await(error):
                hint = "; it gave an awaitable before, and a function does so each time or never"
        if failure.item is not NO_ITEM:
            text += f" on item {safe_repr(failure.item)}, attempt {failure.attempts}"
        text += hint
        earlier = getattr(error, _MARK, None)
        if earlier is not None and earlier[3] in getattr(error, "__notes__", ()):
            error.__notes__.remove(earlier[3])  # the same exception object, raised once more
        setattr(error, _MARK, (failure.stage, failure.item, failure.attempts, text))
        error.add_note(text)
    except Exception:  # an exception class may forbid attributes; the error itself still goes on
        return


def _is_vain_await(error: BaseException) -> bool:
    """Tell whether an error is Python's own about an `await` in this package, for a user's result."""
    if not isinstance(error, TypeError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    ours = trace is not None and trace.tb_frame.f_globals.get("__package__") in _OURS
    told = str(error)  # the second is what Python 3.14 says
    return ours and ("in 'await' expression" in told or "can't be awaited" in told)


def note_later(error: BaseException, failure: Failure) -> None:
    """Note on the error that ends a run what failed after it, while the run was taken down."""
    begin = "flowstage: after that, "
    try:
        notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(begin)]
        if failure.error is not error and len(notes) < MOST_LATER:
            error.add_note(f"{begin}stage {failure.stage!r} raised {safe_repr(failure.error)}")
    except Exception:  # as above
        return


def _leads_to(code: CodeType, error: BaseException | None) -> bool:
    """Tell whether the traceback that Python prints of an error has a line of a function."""
    for _ in range(_CAUSES):
        if error is None:
            break
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is code:
                return True
            trace = trace.tb_next
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def exit_in(error: BaseException) -> BaseException | None:
    """Give the `KeyboardInterrupt` or `SystemExit` that a group holds, if it holds one.

    On trio a Ctrl-C is raised wherever the loop is at that moment, and task groups wrap it.
    """
    while isinstance(error, BaseExceptionGroup):
        exits = error.subgroup((KeyboardInterrupt, SystemExit))
        if exits is None:
            return None
        error = exits.exceptions[0]
    return error if isinstance(error, (KeyboardInterrupt, SystemExit)) else None


def is_cancellation(error: BaseException) -> bool:
    """Tell whether an exception is a cancellation, or a group of nothing else: trio's nurseries."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return error.split(cancelled)[1] is None
    return isinstance(error, cancelled)


def failure_of(error: BaseException) -> Failure | None:
    """Give the `Failure` that an exception raised by a run came from.

    Args:
        error: an exception that left `async with flow.open()`, `collect`, `call` or `drain`.

    Returns:
        The failure with stage, item, error and attempts; `None` if no stage of a run raised it.
    """
    found: tuple[str, Any, int, str] | None = getattr(error, _MARK, None)
    if found is None:
        return None
    stage, item, attempts, _ = found
    return Failure(stage=stage, item=item, error=error, attempts=attempts)


class _NoItem:
    def __repr__(self) -> str:
        return "<no item>"


NO_ITEM = _NoItem()
"""Stands for the item of a failure that happened outside any item: in a source, say."""
