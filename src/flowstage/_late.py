"""What the end of a run waits for, in words: user code that does not end although it was told to."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING

from anyio import get_running_tasks

from ._engine import Runner
from ._errors import safe_repr
from ._waits import label
from ._where import stack_of

if TYPE_CHECKING:
    from ._live import Live

MOST_STACKS = 3
"""Tasks of one stage whose stacks are shown."""
MOST_FRAMES = 5
"""Frames shown of each."""


def held_up(live: Live) -> Iterator[str]:
    """Say of every stage that has not ended what it is at, and where in the user's code it stands."""
    stacks = _stacks(live)
    for runner in live.runners:
        work = sorted(
            (began, number, step.name, item)
            for step in runner.steps
            for number, (began, item) in enumerate(list(step.tally.working.values()))
        )
        if work:
            began, _, name, item = work[0]
            busy = f"busy with {safe_repr(item)} for {perf_counter() - began:.1f} s"
            more = f", and with {len(work) - 1} more" if len(work) > 1 else ""
            text = f"closing waits for stage {name!r}, which has been {busy}{more}"
        elif runner in live.tasks.values():
            limit = live.close_timeout
            text = f"closing waits for stage {label(runner)}, which has not ended within {limit} s"
        else:
            continue
        found = ["\n  ".join(["", *stack]) for stack in stacks.get(runner, [])]
        yield text + ("; it is at" + "\nand at".join(found[:MOST_STACKS]) if found else "")


def _stacks(live: Live) -> dict[Runner, list[list[str]]]:
    """Give for each runner where its tasks stand, and those that its functions have started."""
    infos = {info.id: info for info in get_running_tasks()}
    found: dict[Runner, list[tuple[int, list[str]]]] = {}
    for info in infos.values():
        parent: int | None = info.id
        depth = 0
        while parent is not None and parent not in live.tasks:
            parent = infos[parent].parent_id if parent in infos else None
            depth += 1
        owner = None if parent is None else live.tasks[parent]
        if isinstance(owner, Runner) and (stack := stack_of(info.coro, MOST_FRAMES)):
            found.setdefault(owner, []).append((depth, stack))
    return {owner: [stack for _, stack in sorted(stacks)] for owner, stacks in found.items()}
