"""Counts the steps of one run, acts between two of them, and gives up on a run that is stuck.

Both backends' loops tell the conductor before each step they make and ask it for the time. It knows
nothing else of them.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable
from typing import Any

import anyio

from . import stacks
from .virtual import VirtualTime

_LAST_STEPS = 5_000  # for the cleanup of a run that was out of steps


class Stuck(AssertionError):
    """A run that could not end; the message has the schedule, the reason and all stacks."""


class Abandoned(BaseException):
    """Thrown through an event loop that did not end on cancellation either."""


class Conductor:
    """One run's steps, points, time and verdict."""

    def __init__(
        self,
        *,
        label: str,
        order: random.Random | None,
        lag: float,
        steps: int,
        seconds: float,
        patience: float,
        rate: float,
    ) -> None:
        self.time = VirtualTime(seconds, patience, rate, self.stuck)
        self.order = order
        self.lag = lag
        self.steps = 0
        self.points = 0
        self.acted = False
        self.where = ""
        self.native_cancels = 0  # of the host task, made by an action
        self.verdict: BaseException | None = None
        self._label = label
        self._budget = steps
        self._watching = False
        self._at: int | None = None
        self._action: Callable[[Conductor], object] | None = None
        self._context: contextvars.Context | None = None
        self.scope: anyio.CancelScope | None = None
        self.host: asyncio.Task[Any] | None = None  # the task that runs the scenario; asyncio only
        # How a run without a scope of ours is told: the pytest plugin's tests.
        self.throw: Callable[[BaseException], None] | None = None

    def begin(
        self,
        scope: anyio.CancelScope,
        host: asyncio.Task[Any] | None,
        at: int | None,
        action: Callable[[Conductor], object] | None,
    ) -> None:
        """The scenario begins, inside `scope`; count its points from here."""
        self.scope = scope
        self.host = host
        self._context = contextvars.copy_context()
        self._at = at
        self._action = action
        self._watching = True
        if at == 0:
            self._act("before the scenario")

    def end(self) -> None:
        """The scenario has ended."""
        self._watching = False

    def forget(self) -> None:
        """Let go of the run, which is over: its error would keep all of it alive."""
        self.scope = self.host = self._context = self._action = self.throw = None

    def step(self, describe: Callable[[], str]) -> None:
        """A step is about to be made; `describe` tells what it is.

        Raises:
            Abandoned: The run did not end although it was told to.
        """
        self.steps += 1
        self.time.stir()
        if self.steps > self._budget:
            self.stuck(f"livelock: more than {self._budget} steps")
            self._budget += _LAST_STEPS
        if self._watching:
            self.points += 1
            if self.points == self._at:
                self._act(describe())

    def _act(self, where: str) -> None:
        self.acted = True
        self.where = where
        assert self._action is not None
        assert self._context is not None
        try:
            self._context.run(self._action, self)
        except Exception as error:
            self._give_up(error)

    def stuck(self, reason: str) -> None:
        """Nothing sensible happens any more: end the run, the first time gently.

        Raises:
            Abandoned: The second time.
        """
        if self.verdict is not None:
            self.verdict.add_note("and cancellation did not end it")
            raise Abandoned
        context = self._context or contextvars.copy_context()
        self._give_up(Stuck(f"{reason}\nrun with: {self._label}\n{context.run(stacks.all_stacks)}"))

    def _give_up(self, error: BaseException) -> None:
        self.verdict = error
        if self.scope is not None and self._watching:
            self.scope.cancel()
        elif self.throw is not None:
            self.throw(error)
        else:
            raise error
