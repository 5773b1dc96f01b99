"""Observers: what is called before and after a stage sees an item."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

from anyio.lowlevel import checkpoint_if_cancelled

from .._errors import exit_in, is_cancellation, safe_repr
from .runner import LONGEST_HOLD, Frame, Stopped

logger = logging.getLogger("flowstage")


class Hooks:
    """The observers of one stage; what they raise is logged once for each and ignored.

    A plain one that keeps the event loop to itself is named once as well.
    """

    __slots__ = ("_after", "_before", "_broken", "_frame", "_name", "_slow")

    def __init__(self, frame: Frame, name: str) -> None:
        self._frame = frame
        self._name = name
        self._before = [o.before_stage for o in frame.observers if hasattr(o, "before_stage")]
        self._after = [o.after_stage for o in frame.observers if hasattr(o, "after_stage")]
        self._broken: set[int] = set()
        self._slow: set[int] = set()

    @classmethod
    def of(cls, frame: Frame, name: str) -> Hooks | None:
        """Give the hooks of a stage, or nothing where nobody observes."""
        return cls(frame, name) if frame.observers else None

    async def before(self, item: Any, context: Any) -> None:
        """Say that a stage is about to see an item."""
        for hook in self._before:
            await self._tell(hook, item, context)

    async def after(
        self, item: Any, result: Any, error: BaseException | None, context: Any
    ) -> None:
        """Say what came of an item, once, after its last attempt."""
        for hook in self._after:
            await self._tell(hook, item, result, error, context)

    async def _tell(self, hook: Callable[..., Any], *details: Any) -> None:
        try:
            began = perf_counter()
            try:
                told = hook(self._name, *details)
            finally:
                spent = perf_counter() - began
                if spent > LONGEST_HOLD:
                    self._held(hook, spent)
            if inspect.isawaitable(told):
                await told
        except BaseException as error:
            if exit_in(error) is not None:
                self._frame.crash(error)
                raise Stopped from error
            if is_cancellation(error):
                await checkpoint_if_cancelled()
            if id(hook) not in self._broken:
                self._broken.add(id(hook))
                logger.exception(
                    "observer %s failed at stage %r and is ignored", safe_repr(hook), self._name
                )

    def _held(self, hook: Callable[..., Any], seconds: float) -> None:
        """Tell that a hook has kept the event loop to itself, once for each."""
        if id(hook) not in self._slow:
            self._slow.add(id(hook))
            logger.warning(
                "observer %s held the event loop for %.1f s at stage %r, and nothing else could "
                "move meanwhile",
                safe_repr(hook),
                seconds,
                self._name,
            )
