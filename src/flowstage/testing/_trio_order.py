"""A trio instrument by which a seed decides the order of the tasks.

trio shuffles each batch of ready tasks, with random numbers of its own, when it is told that schedules
shall be deterministic: it then sorts the batch by the age of the tasks first. This tells it so and seeds
those numbers, as pytest-trio does for hypothesis, and puts all back when the run is over. Lag is as in the
asyncio event loop beside this.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trio.lowlevel import Task


class TrioOrder:
    """Seeds the scheduler and makes tasks lag; the same for each run that it is given to.

    It is a `trio.abc.Instrument` by its methods, and no subclass, so that trio is not needed here.

    Args:
        seed: chooses the order.
        lag: probability that a ready task is passed over for a turn.
    """

    def __init__(self, seed: int, lag: float = 0.0) -> None:
        self._seed = seed
        self._lag = lag
        self._late: list[Task] = []

    def before_run(self) -> None:
        """Seed the scheduler."""
        from trio._core import _run

        trio: Any = _run
        self._trio = trio
        self._late.clear()
        self._order = random.Random(self._seed)
        self._random_before = trio._r.getstate()
        self._deterministic_before = trio._ALLOW_DETERMINISTIC_SCHEDULING
        trio._r.seed(self._seed)
        trio._ALLOW_DETERMINISTIC_SCHEDULING = True

    def after_run(self) -> None:
        """Leave the scheduler as it was."""
        self._trio._r.setstate(self._random_before)
        self._trio._ALLOW_DETERMINISTIC_SCHEDULING = self._deterministic_before

    def after_io_wait(self, timeout: float) -> None:
        """Keep some of the runnable tasks back; `before_task_step` puts them in the queue again."""
        queue = self._trio.GLOBAL_RUN_CONTEXT.runner.runq
        if not self._lag or len(queue) < 2:
            return
        tasks = sorted(queue, key=lambda task: task._counter)
        self._order.shuffle(tasks)
        self._late = [task for task in tasks[1:] if self._order.random() < self._lag]
        queue.clear()
        queue.extend(task for task in tasks if task not in self._late)

    def before_task_step(self, task: Task) -> None:
        """The batch of this turn is taken: put the tasks that miss it into the next."""
        if self._late:
            self._trio.GLOBAL_RUN_CONTEXT.runner.runq.extend(self._late)
            self._late.clear()
