"""One call of one user function: guard, timeout, retry, context, hooks, time.

Everything that a call may need is here, in the order in which it applies: the hooks see an item once,
a retry wraps the attempts, a timeout belongs to one attempt, and the guard tells a user's error from
a cancellation of the run. The hot loops of the chain make plain calls themselves and come here for
everything else.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from types import CoroutineType
from typing import Any

from anyio import current_time, move_on_after, sleep

from .._clock import compute
from .._envelope import Envelope, Made, Sentinel
from .._errors import StageError, StageTimeout
from .._stages import CallStage, FilterStage, MapStage, TapStage
from .._stats import Tally
from .._wires import Outlet
from .hooks import Hooks
from .runner import LONGEST_HOLD, Frame, Step, check_failed, own_error


class CallFailed(Exception):
    """A call failed for good."""

    def __init__(self, error: BaseException, attempts: int) -> None:
        self.error = error
        self.attempts = attempts


KINDS: dict[type[CallStage], str] = {MapStage: "map", FilterStage: "filter", TapStage: "tap"}
"""The stages that a tight loop knows how to run."""


class CallStep(Step):
    """A stage that calls a function.

    Attributes:
        kind: which tight loop runs it, if any.
        settled: whether it is known if the function gives awaitables.
        awaits: that it does.
        bare: `fn(value)` is all there is to a call.
        simple: it is bare, and nobody keeps the times of items.
        waits_for_values: it is a `flat_map` that has given an async iterable.
    """

    __slots__ = (
        "awaits",
        "bare",
        "fn",
        "frame",
        "hooks",
        "kind",
        "options",
        "settled",
        "simple",
        "waits_for_values",
    )

    stage: CallStage

    def __init__(
        self, frame: Frame, stage: CallStage, tally: Tally, failures: Outlet | None
    ) -> None:
        super().__init__(stage, tally, failures)
        self.frame = frame
        self.fn = stage.fn
        self.options = options = stage.options
        nature = stage.nature
        self.awaits = nature == "async"
        self.settled = self.awaits or options.on is not None
        self.waits_for_values = False
        self.hooks = Hooks.of(frame, tally.name)
        self.kind = KINDS.get(type(stage), "")
        self.bare = options.bare and not self.hooks
        self.simple = self.bare and not frame.timing

    async def call(self, envelope: Envelope) -> Any:
        """Give the function's result for an item.

        Raises:
            CallFailed: every attempt failed, or the error is not worth another.
        """
        value, seen = envelope.value, self.frame.epoch.number
        if self.hooks is not None:
            await self.hooks.before(value, envelope.context)
            self.frame.epoch.check(seen)
        failures = 0
        working = self.tally.working
        while True:
            began = perf_counter()
            working[envelope] = (began, value)
            try:
                result = await self.attempt(envelope)
                break
            except BaseException as raised:
                error = await own_error(raised, self.frame, self.name)
            finally:
                del working[envelope]
                self.spent(envelope, perf_counter() - began, holds=not self.awaits)
            check_failed(self.frame, seen, self.name, error)  # no hook is told, nothing is retried
            failures += 1
            retry = self.options.retry
            if retry is None or not retry.again(error, failures):
                if self.hooks is not None:
                    await self.hooks.after(value, None, error, envelope.context)
                try:
                    raise CallFailed(error, failures) from None
                finally:
                    del error  # or this frame and its traceback would keep each other, and the item
            self.tally.retries += 1
            await sleep(retry.wait(failures))  # of 0 s: a turn for others, however many tries
            self.frame.epoch.check(seen)  # an interrupt may come when the sleep is over already
        if self.hooks is not None:
            self.frame.epoch.check(seen)
            await self.hooks.after(value, result, None, envelope.context)
        return result

    async def attempt(self, envelope: Envelope) -> Any:
        """Call the function once, with its timeout."""
        if self.options.timeout is None:
            result = self.start(envelope)
            if self.awaits:
                result = await result
        else:
            result = await self.within_timeout(lambda: self.start_async(envelope))
        if self.kind in ("filter", "tap"):
            self.plainly(result)
        elif type(result) is Sentinel:
            raise sentinel_given(self.name)
        return bool(result) if self.kind == "filter" else result

    def plainly(self, result: Any) -> Any:
        """Give the result of a filter or tap, which is never meant to be a coroutine.

        Raises:
            TypeError: it is one, though the function's first result was none.
            StageError: it is a sentinel.
        """
        if type(result) is Sentinel:
            raise sentinel_given(self.name)
        if type(result) is CoroutineType:
            result.close()
            raise TypeError(
                f"stage {self.name!r} gave a coroutine, and before that something else; a function "
                "gives awaitables each time or never, and the first time decides"
            )
        return result

    async def start_async(self, envelope: Envelope) -> Any:
        """Call the function once and wait for its result."""
        result = self.start(envelope)
        return await result if self.awaits else result

    async def within_timeout(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Wait for user code no longer than the stage's timeout.

        A result that comes when the deadline has passed is late, and so is an error of a call
        that was told to stop only if the call let the cancellation through.

        Raises:
            StageTimeout: it took longer.
        """
        timeout = self.options.timeout
        if timeout is None:
            return await work()
        with move_on_after(timeout) as scope:
            result = await work()
            if current_time() < scope.deadline:
                return result
        raise StageTimeout(f"stage {self.name!r} took longer than {timeout} s")

    def spent(self, envelope: Envelope, seconds: float, *, holds: bool = False) -> None:
        """Count time that the function took; whether it held the event loop for as long."""
        self.tally.calls.record(seconds)
        if holds and seconds > LONGEST_HOLD:
            self.held(seconds)
        if envelope.clock is not None:
            compute(envelope.clock, self.name, seconds)

    def start(self, envelope: Envelope) -> Any:
        """Make the call; tell by the first result whether it has to be awaited."""
        if self.options.pass_context:
            result = self.fn(envelope.value, context=envelope.context)
        else:
            result = self.fn(envelope.value)
        if not self.settled:
            self.awaits = is_awaitable(result)
            waits = self.awaits or hasattr(type(result), "__aiter__")
            self.settled = waits or self.options.timeout is None
            if not self.settled:  # nor will it be: the next call is refused as well
                raise TypeError(
                    f"stage {self.name!r} has a timeout, but its function turned out to be plain, "
                    "and a plain function on the event loop cannot be timed out; run it in a place"
                )
        return result


def sentinel_given(name: str) -> StageError:
    """Make the error for a stage that gave a sentinel as its result."""
    return StageError(
        f"stage {name!r} gave a Sentinel as its result; only sources and run.send_sentinel() may"
    )


def is_awaitable(result: Any) -> bool:
    """Tell whether a result has to be awaited."""
    try:
        return inspect.isawaitable(result)
    except Exception:  # it does not like to be asked what it is
        return hasattr(type(result), "__await__")


def has_sentinel(results: Iterable[Any]) -> bool:
    """Tell whether any of many results is a sentinel."""
    return Made.sentinel and has_type(results, Sentinel)


def has_type(results: Iterable[Any], *types: type) -> bool:
    """Tell whether any of many results is of one of some types; asked once a burst, so it is quick."""
    try:
        return not set(map(type, results)).isdisjoint(types)
    except Exception:  # a class that cannot be hashed: its metaclass compares in a way of its own
        return any(type(result) is one for result in results for one in types)
