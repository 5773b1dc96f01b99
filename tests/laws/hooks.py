"""Observers of a random run: they count, and are plain, async, or broken."""

from __future__ import annotations

from collections import Counter
from typing import Any

from anyio.lowlevel import checkpoint

from .streams import leaves_of, text


class Hooks:
    """Counts what it is told, by when, stage and item."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.told: Counter[tuple[str, str, str]] = Counter()

    def before_stage(self, stage: str, item: Any, context: Any) -> Any:
        return self.tell("before", stage, item)

    def after_stage(self, stage: str, item: Any, result: Any, error: Any, context: Any) -> Any:
        return self.tell("after", stage, item)

    def tell(self, when: str, stage: str, item: Any) -> Any:
        self.told[when, stage, text(item)] += 1
        if self.kind == "failing":
            raise ValueError("a broken hook")
        return checkpoint() if self.kind == "async" else None

    def wrong(self) -> list[str]:
        """Once for each item and stage, and never of the end of what was not begun."""
        wrong = []
        for (when, stage, item), count in self.told.items():
            named = not stage.startswith(("pass_on", "spread", "flatten")) and leaves_of(item)
            if count > 1 and named:
                wrong.append(f"hook {when} of {stage} {count} times for {item}")
            if when == "after" and not self.told["before", stage, item]:
                wrong.append(f"hook after of {stage} without before for {item}")
        return wrong
