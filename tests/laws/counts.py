"""What the account of each stage has to be when a run went its whole way: law 6, by the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .calls import Call
from .joins import Balance, Branch, Concat, Gather, Merge, Zip, ZipLatest
from .operators import Operator
from .parts import Batch, Buffer, Entry, Part, Rebatch, Transform
from .world import Model

Counts = dict[str, int]


def expected(part: Part, model: Model) -> Counts:
    """Give the figures that are known of a part's last stage; all others have to be nought."""
    for kind, count in _COUNTS.items():
        if isinstance(part, kind):
            return count(part, model)
    return {}


def call_counts(call: Call, model: Model) -> Counts:
    """The figures of a stage that calls a function."""
    items = model.stream(call.upper).items()
    bad = [item for item in items if call.is_bad(item)]
    policy = call.policy or model.on_error
    filtered = 0
    if call.verb == "filter":
        filtered = sum(not call.gives(item) for item in items if item not in bad)
    return {
        "taken": len(items),
        "done": len(items) - len(bad) - filtered,
        "filtered": filtered,
        "skipped": len(bad) if policy == "skip" else 0,
        "failed": len(bad) if policy == "emit" else 0,
        "given": _items(call, model),
    }


def _items(part: Part, model: Model) -> int:
    return len(model.stream(part).items())


def _into(part: Part, model: Model) -> int:
    return sum(_items(upper, model) for upper in part.uppers)


def _passes(part: Part, model: Model) -> Counts:
    """Every item is done; what is given is another matter."""
    count = _into(part, model)
    return {"taken": count, "done": count, "given": _items(part, model)}


def _enters(part: Part, model: Model) -> Counts:
    return dict.fromkeys(("taken", "done", "given"), _items(part, model))


def _spreads(part: Part, model: Model) -> Counts:
    return {"given": _items(part, model)}  # how many batches there were is a matter of time


def _rows(part: Part, model: Model) -> Counts:
    model.stream(part)
    return dict(model.rows[part])


def _routes(part: Any, model: Model) -> Counts:
    items = model.stream(part.upper).items()
    bad = sum(part.routing.is_unknown(item) for item in items)
    policy = part.routing.policy or model.on_error
    return {
        "taken": len(items),
        "done": len(items) - bad,
        "skipped": bad if policy == "skip" else 0,
        "failed": bad if policy == "emit" else 0,
        "given": len(items) - bad,
    }


def _latest(part: Part, model: Model) -> Counts:
    count = _into(part, model)
    return {"taken": count, "done": count}


_COUNTS: dict[type[Part], Callable[[Any, Model], Counts]] = {
    Entry: _enters,
    Call: call_counts,
    Batch: _passes,
    Rebatch: _spreads,
    Transform: _passes,
    Operator: _passes,
    Buffer: _passes,
    Merge: _passes,
    Balance: _passes,
    Concat: _passes,
    Gather: _rows,
    Zip: _rows,
    Branch: _routes,
    ZipLatest: _latest,
}
FIGURES = ("taken", "done", "filtered", "skipped", "failed", "given")
UNKNOWN = {Rebatch: {"taken", "done"}, ZipLatest: {"given"}}
"""Figures that time decides."""


def wrong(part: Part, name: str, stage: Any, model: Model) -> list[str]:
    """Compare the account of a part's stage with the model."""
    return differs(name, stage, expected(part, model), UNKNOWN.get(type(part), set()))


def differs(name: str, stage: Any, known: Counts, unknown: set[str] | None = None) -> list[str]:
    """Compare an account with what is known of it."""
    figures = [figure for figure in FIGURES if figure not in (unknown or ())]
    should = {figure: known.get(figure, 0) for figure in figures}
    found = {figure: getattr(stage, figure) for figure in figures}
    if found == should:
        return []
    return [f"stage {name} counts {found}, and should {should}"]


__all__ = ["call_counts", "differs", "expected", "wrong"]
