"""trio's event loop with its order and time given to it: a clock and an instrument."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import outcome
import trio
from trio._core import _run as trio_run

from flowstage.testing._trio_order import TrioOrder

from . import outside, stacks
from .conductor import Conductor

_NEVER = 999_999.0  # real seconds


def options(make_conductor: Callable[[], Conductor], seed: int) -> dict[str, Any]:
    """Arguments for `trio.run`; each run takes a conductor of its own."""
    instrument = _Instrument(make_conductor, seed)
    return {"clock": _Clock(instrument), "instruments": [instrument]}


class _Instrument(TrioOrder, trio.abc.Instrument):
    """Seeds the scheduler, makes tasks lag, and tells the conductor of each step.

    What an instrument raises is logged and the instrument dropped; so it keeps what it has to say
    for the clock, which the loop asks on every turn.
    """

    def __init__(self, make_conductor: Callable[[], Conductor], seed: int) -> None:
        super().__init__(seed)
        self._make_conductor = make_conductor
        self.conductor = make_conductor()
        self.abandoned: BaseException | None = None
        self._error: BaseException | None = None  # to be thrown into the main task

    def before_run(self) -> None:
        self.conductor = self._make_conductor()
        self.conductor.throw = self._throw
        self.abandoned = self._error = None
        self._lag = self.conductor.lag
        super().before_run()
        outside.begin_watching()

    def after_run(self) -> None:
        outside.end_watching()
        super().after_run()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        context = trio_run.GLOBAL_RUN_CONTEXT
        super().before_task_step(task)
        if self._error is not None and task is context.runner.main_task:
            # In place of what it waited for; the way trio delivers a KeyboardInterrupt.
            task._next_send, self._error = outcome.Error(self._error), None
        # Whatever is done now is done by nobody, as on asyncio: not by the task that comes next.
        del context.task
        try:
            self.conductor.step(lambda: f"task {task.name!r} at {stacks.place_of(task.coro)}")
        except BaseException as error:
            self.abandoned = error
        finally:
            context.task = task

    def _throw(self, error: BaseException) -> None:
        """Raise in the main task: there is no scope of ours that could be cancelled."""
        main = trio_run.GLOBAL_RUN_CONTEXT.runner.main_task

        def raise_it() -> None:
            raise error

        if main is not None and main._abort_func is not None:
            main._attempt_abort(raise_it)
        else:
            self._error = error


class _Clock(trio.abc.Clock):
    """Asks the conductor; unlike `MockClock` it knows what is at work outside the loop."""

    def __init__(self, instrument: _Instrument) -> None:
        self._instrument = instrument

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        if self._instrument.abandoned is not None:
            raise self._instrument.abandoned
        return self._instrument.conductor.time.now()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Called only when no task is runnable."""
        runner = trio_run.GLOBAL_RUN_CONTEXT.runner
        if runner.waiting_for_idle:
            # `wait_all_tasks_blocked` comes before any jump.
            return 0.0 if deadline <= self.current_time() else _NEVER
        listening = False
        if deadline == inf:
            statistics = runner.io_manager.statistics()
            # One task waits for the loop's own socket, by which threads wake it.
            waiting = getattr(statistics, "tasks_waiting_read", 2)
            waiting += getattr(statistics, "tasks_waiting_write", 0)
            listening = waiting > 1
        return self._instrument.conductor.time.wait(deadline, listening=listening)
