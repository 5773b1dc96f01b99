"""Who waits for whom right now, in words."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

from ._engine import EntryRunner, InputRunner, Runner, SourceRunner
from ._engine.offload import Offload
from ._errors import safe_repr
from ._live import Live
from ._report import seconds
from ._waits import Waits, in_words, is_full, label, senders
from ._wires import Edge


def explain(live: Live) -> str:
    """Describe every stage, edge and output, the longest call, and the circle of waits, if any."""
    if live.closed:
        return "the run is over"
    for runner in live.runners:
        runner.refresh()
    lines = ["stages:"]
    lines += [f"  {label(runner)}: {', '.join(_state(runner))}" for runner in live.runners]
    lines += ["edges:", *(f"  {_edge(edge, edge in live.ends)}" for edge in live.edges.values())]
    lines += ["outputs:", *(f"  {line}" for line in _outputs(live))]
    longest = min((work for runner in live.runners for work in _work(runner)), default=None)
    if longest is not None:
        began, _, name, item = longest
        lines.append(f"longest call: {_since(began)} in {name!r}, with {safe_repr(item)}")
    circle = Waits(live).circle()
    if circle:
        lines += ["circle of waits:", in_words(circle)]
    return "\n".join(lines)


def _since(began: float) -> str:
    return seconds(max(0.0, perf_counter() - began))


def _work(runner: Runner) -> Iterator[tuple[float, int, str, Any]]:
    """Give the calls under way; the number keeps items, which may not be comparable, from it."""
    for step in runner.steps:
        for began, item in list(step.tally.working.values()):
            yield began, id(item), step.name, item


# -- what a stage does -----------------------------------------------------------------------------


def _state(runner: Runner) -> Iterator[str]:
    """Say what a task is doing, and what it holds."""
    if runner.ended is not None:
        yield "ended"
        return
    yield from _doing(runner)
    held = sum(step.tally.in_hand for step in runner.steps)
    if held:
        yield f"{held} in hand"
    if isinstance(runner, EntryRunner):
        waiting = len(senders(runner))
        if waiting:
            yield f"{waiting} {'sender waits' if waiting == 1 else 'senders wait'}"


def _doing(runner: Runner) -> Iterator[str]:
    work = list(_work(runner))
    if work:
        calls = "1 call" if len(work) == 1 else f"{len(work)} calls"
        yield f"running {calls}, the longest for {_since(min(work)[0])}"
    if isinstance(runner, Offload) and runner.coming:
        yield f"{runner.coming} waiting for a seat"
    if isinstance(runner, SourceRunner) and runner.at_gate:
        yield "held back until it is wanted"
    elif runner.waits == "output":
        yield f"waiting to give to {_names(edge.target for edge in _full(runner))}"
    elif work:
        return
    elif runner.started is None:
        yield "not begun"
    elif runner.waits == "input":
        yield f"waiting for input from {_names(edge.source for edge in runner.waits_at)}"
    elif isinstance(runner, SourceRunner) and runner.pulling:
        yield "waiting for its source"
    elif isinstance(runner, InputRunner) and not runner.line.tickets:
        yield "finished" if runner.line.closed else "open, nobody sends"
    else:
        yield "running"


def _full(runner: Runner) -> list[Edge]:
    edges = [edge for edge in runner.waits_at if not edge.finished]
    return [edge for edge in edges if is_full(edge)] or edges


def _names(names: Iterator[str]) -> str:
    return " and ".join(repr(name) for name in dict.fromkeys(names))


# -- edges and outputs -----------------------------------------------------------------------------


def _edge(edge: Edge, is_end: bool) -> str:
    target = f"output {edge.target!r}" if is_end else repr(edge.target)
    text = f"{edge.source!r} to {target}: {edge.used} of {edge.capacity}"
    if edge.marks_inside:
        text += f" (sentinels and gaps among them: {edge.marks_inside})"
    if edge.finished:
        return f"{text}, closed"
    return f"{text}, ended" if edge.ended else text


def _outputs(live: Live) -> Iterator[str]:
    for name, edge, bell in zip(live.topology.ends, live.ends, live.end_bells, strict=True):
        if edge.finished:
            state = "closed"
        elif edge.ended and not edge.used:
            state = "read to its end"
        elif bell.event is not None:
            state = "read: somebody waits for it"
        else:
            state = f"unread, {edge.inside} waiting" if edge.inside else "unread"
        yield f"{name!r}: {state}"
