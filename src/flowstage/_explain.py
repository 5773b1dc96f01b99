"""Who waits for whom right now, in words."""

from __future__ import annotations

from time import perf_counter

from ._engine import Runner
from ._errors import safe_repr
from ._live import Live
from ._wires import Edge


def explain(live: Live) -> str:
    """Describe what every stage is doing, how full the edges are, and the circle of waits."""
    if live.closed:
        return "the run is over"
    return "\n".join([*(_describe(runner) for runner in live.runners), *_ends(live)])


def _describe(runner: Runner) -> str:
    names = " + ".join(step.name for step in runner.steps)
    if runner.ended is not None:
        return f"{names}: ended"
    state = {"input": "waiting for input", "output": "waiting to give"}.get(runner.waits, "running")
    work = sorted(runner.at_work(), key=lambda entry: entry[0])
    if work:
        began, item = work[0]
        state = f"running, longest {perf_counter() - began:.2f} s with {safe_repr(item)}"
    edges = ", ".join(_fill(edge) for edge in runner.inlets)
    return f"{names}: {state}" + (f" (from {edges})" if edges else "")


def _fill(edge: Edge) -> str:
    return f"{edge.source}: {edge.inside} of {edge.capacity}"


def _ends(live: Live) -> list[str]:
    lines = []
    for edge, bell in zip(live.ends, live.end_bells, strict=True):
        reader = "read" if bell.event is not None else "unread"
        if edge.finished:
            reader = "closed"
        lines.append(f"end {edge.target!r}: {edge.inside} of {edge.capacity} waiting, {reader}")
    return lines
