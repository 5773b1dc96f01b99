"""Structured-concurrency dataflow on asyncio and trio.

Importing this costs next to nothing: each name is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import operators as operators
    from ._envelope import Failure, Sentinel
    from ._errors import (
        BufferOverflow,
        ClosedError,
        DeadlockError,
        FlowError,
        GraphError,
        StageError,
        StageTimeout,
        WorkerDied,
        failure_of,
    )
    from ._flow import Flow, Input, source
    from ._graph import EdgeInfo, Graph, StageInfo
    from ._joins import concat, gather, merge, zip, zip_latest
    from ._output import Output
    from ._places import Threads
    from ._policies import Retry
    from ._report import (
        Bottleneck,
        CallTimes,
        EdgeReport,
        FailureRecord,
        ItemTimes,
        Report,
        StageReport,
        StageTime,
        StageTimes,
        Summary,
        Timing,
    )
    from ._run import Run

__all__ = [
    "Bottleneck",
    "BufferOverflow",
    "CallTimes",
    "ClosedError",
    "DeadlockError",
    "EdgeInfo",
    "EdgeReport",
    "Failure",
    "FailureRecord",
    "Flow",
    "FlowError",
    "Graph",
    "GraphError",
    "Input",
    "ItemTimes",
    "Output",
    "Report",
    "Retry",
    "Run",
    "Sentinel",
    "StageError",
    "StageInfo",
    "StageReport",
    "StageTime",
    "StageTimeout",
    "StageTimes",
    "Summary",
    "Threads",
    "Timing",
    "WorkerDied",
    "concat",
    "failure_of",
    "gather",
    "merge",
    "source",
    "zip",
    "zip_latest",
]

# The room of each name, once more for when the program runs; a test compares it with the imports
# above, which are what type checkers and editors read.
_ROOMS = {
    "_envelope": ("Failure", "Sentinel"),
    "_errors": (
        "BufferOverflow",
        "ClosedError",
        "DeadlockError",
        "FlowError",
        "GraphError",
        "StageError",
        "StageTimeout",
        "WorkerDied",
        "failure_of",
    ),
    "_flow": ("Flow", "Input", "source"),
    "_graph": ("EdgeInfo", "Graph", "StageInfo"),
    "_joins": ("concat", "gather", "merge", "zip", "zip_latest"),
    "_output": ("Output",),
    "_places": ("Threads",),
    "_policies": ("Retry",),
    "_report": (
        "Bottleneck",
        "CallTimes",
        "EdgeReport",
        "FailureRecord",
        "ItemTimes",
        "Report",
        "StageReport",
        "StageTime",
        "StageTimes",
        "Summary",
        "Timing",
    ),
    "_run": ("Run",),
}

if not TYPE_CHECKING:  # where they would make every misspelt name a good one

    def __getattr__(name: str) -> object:
        if name == "operators":
            return import_module(".operators", __name__)
        for room, names in _ROOMS.items():
            if name in names:
                found = globals()[name] = getattr(import_module(f".{room}", __name__), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "operators"})
