"""Structured-concurrency dataflow on asyncio and trio."""

from __future__ import annotations

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
from ._graph import Graph
from ._joins import concat, gather, merge, zip, zip_latest
from ._output import Output
from ._places import Threads
from ._policies import Retry
from ._report import Report
from ._run import Run

__all__ = [
    "BufferOverflow",
    "ClosedError",
    "DeadlockError",
    "Failure",
    "Flow",
    "FlowError",
    "Graph",
    "GraphError",
    "Input",
    "Output",
    "Report",
    "Retry",
    "Run",
    "Sentinel",
    "StageError",
    "StageTimeout",
    "Threads",
    "WorkerDied",
    "concat",
    "failure_of",
    "gather",
    "merge",
    "source",
    "zip",
    "zip_latest",
]
