"""async-pipeline's `Pipeline` and `Stage`: each stage gets what the one before gave.

    from flowstage.compat.async_pipeline import Pipeline, Stage

`run` takes one value through the stages in the task that calls it. `map` is a flow: as many calls of
one stage as there may be pipelines at once, each of which takes one item after the other from the
items until there are none left. So there is never a task per item, and an item is asked for when there
is a pipeline free to take it. What a task per item would give for nothing is given all the same: context
variables of its own, and every failure of those that fail at once.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from contextvars import Context as Variables
from contextvars import copy_context
from inspect import Parameter, isawaitable, signature
from reprlib import repr as shown
from types import coroutine
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from anyio import fail_after, sleep
from anyio.lowlevel import checkpoint

from flowstage import Retry, source

__all__ = [
    "AfterStageHook",
    "BackoffMode",
    "BeforeStageHook",
    "Pipeline",
    "PipelineError",
    "Stage",
    "StageExecutionError",
]

In = TypeVar("In")
Out = TypeVar("Out")

Context: TypeAlias = dict[str, Any]
BackoffMode: TypeAlias = Literal["fixed", "exponential"]
BeforeStageHook: TypeAlias = (
    Callable[[str, Any], Awaitable[None] | None]
    | Callable[[str, Any, Context], Awaitable[None] | None]
)
AfterStageHook: TypeAlias = (
    Callable[[str, Any, Any, Exception | None], Awaitable[None] | None]
    | Callable[[str, Any, Any, Exception | None, Context], Awaitable[None] | None]
)

_TURN = 100
"""Items that one pipeline takes in a row before other tasks have a turn, should it never wait."""


class PipelineError(Exception):
    """Base of the errors of this module."""


class StageExecutionError(PipelineError):
    """A stage failed, after its last attempt.

    Attributes:
        stage_name: the stage.
        original_error: what its handler raised last; also the `__cause__`.
    """

    def __init__(self, stage_name: str, original_error: Exception) -> None:
        super().__init__(stage_name, original_error)
        self.stage_name = stage_name
        self.original_error = original_error

    def __str__(self) -> str:
        return f"stage {self.stage_name!r} failed: {self.original_error!r}"


class Stage(Generic[In, Out]):
    """A named step: a handler, async or not, and what to do when it is slow or fails.

    Args:
        name: how it is called in errors and hooks.
        handler: a function of the value, or of the value and the context: one that takes two
            positional arguments gets both. What it returns is awaited if it can be.
        timeout: seconds for each attempt; ignored for a handler that is not async.
        retries: attempts after the first.
        retry_delay: seconds before the second attempt; 0 does not wait at all.
        backoff: `"fixed"`, or `"exponential"`: twice the delay after each further failure.

    Raises:
        TypeError: an argument that is no number where there has to be one.
        ValueError: an argument out of range.
    """

    __slots__ = ("_handler", "_retry", "_simple", "_wants_context", "name", "timeout")

    def __init__(
        self,
        name: str,
        handler: Callable[..., Awaitable[Out] | Out],
        *,
        timeout: float | None = None,
        retries: int = 0,
        retry_delay: float = 0.0,
        backoff: BackoffMode = "fixed",
    ) -> None:
        if timeout is not None:
            _check_number("timeout", timeout)
        _check_whole("retries", retries)
        _check_number("retry_delay", retry_delay)
        if timeout is not None and not timeout > 0:
            raise ValueError("timeout must be greater than 0")
        if not retries >= 0:
            raise ValueError("retries must be greater than or equal to 0")
        if not retry_delay >= 0:
            raise ValueError("retry_delay must be greater than or equal to 0")
        if backoff not in ("fixed", "exponential"):
            raise ValueError('backoff must be "fixed" or "exponential"')
        self.name = name
        self.timeout = timeout
        self._handler = handler
        self._wants_context = _takes(handler, 2)
        self._retry = Retry(
            retries + 1, delay=retry_delay, backoff=backoff, max_delay=sys.float_info.max
        )
        self._simple = timeout is None and retries == 0

    def __repr__(self) -> str:
        return f"<Stage {self.name!r}>"

    @property
    def retries(self) -> int:
        """Attempts after the first."""
        return self._retry.attempts - 1

    @property
    def retry_delay(self) -> float:
        """Seconds before the second attempt."""
        return self._retry.delay

    @property
    def backoff(self) -> BackoffMode:
        """How the delay grows."""
        return self._retry.backoff

    async def run(self, value: In, context: Context | None = None) -> Out:
        """Call the handler, as often as it may fail.

        Raises:
            StageExecutionError: the last attempt failed.
        """
        context = {} if context is None and self._wants_context else context
        failures = 0
        while True:
            try:
                if not self._simple:
                    return await self._attempt(value, context)
                result: Any = (
                    self._handler(value, context) if self._wants_context else self._handler(value)
                )
                done: Out = await result if isawaitable(result) else result
                return done
            except Exception as error:
                failures += 1
                if not self._retry.again(error, failures):
                    raise StageExecutionError(self.name, error) from error
                if (delay := self._retry.wait(failures)) > 0:
                    await sleep(delay)

    async def _attempt(self, value: In, context: Context | None) -> Out:
        result: Any = self._handler(value, context) if self._wants_context else self._handler(value)
        if not isawaitable(result):
            return result  # type: ignore[no-any-return]  # a handler's type says what it gives
        with fail_after(self.timeout):
            return await result  # type: ignore[no-any-return]  # see above


class Pipeline:
    """Stages, one after the other.

    Args:
        stages: at least one.
        before_stage: called with `(stage_name, input)`, or with the context too if it takes three
            arguments.
        after_stage: called with `(stage_name, input, output, error)`, or with the context too if it
            takes five. `error` is the `StageExecutionError` of a stage that failed.

    What a hook raises is ignored; what it returns is awaited if it can be. Hooks see a stage once for
    each value, however often it was tried.

    Raises:
        ValueError: there is no stage.
    """

    def __init__(
        self,
        stages: Sequence[Stage[Any, Any]],
        *,
        before_stage: BeforeStageHook | None = None,
        after_stage: AfterStageHook | None = None,
    ) -> None:
        self.stages = tuple(stages)
        if not self.stages:
            raise ValueError("a pipeline needs at least one stage")
        self._before: Callable[..., Any] | None = before_stage
        self._after: Callable[..., Any] | None = after_stage
        self._before_gets = 3 if before_stage is not None and _takes(before_stage, 3) else 2
        self._after_gets = 5 if after_stage is not None and _takes(after_stage, 5) else 4

    async def run(self, value: Any, *, context: Context | None = None) -> Any:
        """Take one value through all stages.

        Args:
            value: what the first stage gets.
            context: shared by the stages and hooks; a new one when left out.

        Raises:
            StageExecutionError: a stage failed.
        """
        if context is None:
            context = {}
        if self._before is None and self._after is None:
            for stage in self.stages:
                value = await stage.run(value, context)
            return value
        for stage in self.stages:
            value = await self._observed(stage, value, context)
        return value

    async def _observed(self, stage: Stage[Any, Any], value: Any, context: Context) -> Any:
        if self._before is not None:
            await _tell(self._before, (stage.name, value, context)[: self._before_gets])
        result, error = None, None
        try:
            result = await stage.run(value, context)
        except Exception as raised:
            error = raised
        if self._after is not None:
            told = (stage.name, value, result, error, context)
            await _tell(self._after, told[: self._after_gets])
        if error is not None:
            raise error
        return result

    async def map(
        self,
        items: Iterable[Any],
        concurrency: int = 5,
        *,
        context: Context | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Take many values through the stages; the results stand in the order of the items.

        Args:
            items: the values.
            concurrency: pipelines at once, each counted from its first stage to its last.
            context: what each item's context is a shallow copy of.
            return_exceptions: put an item's exception in its place, and go on.

        Each item has a copy of the context variables of the caller: it sees what the caller has set,
        and nobody else sees what it sets.

        Raises:
            TypeError: `concurrency` is no whole number.
            ValueError: `concurrency` is below 1.
            ExceptionGroup: a stage failed; the other pipelines were cancelled. If several failed at
                once, all their errors are in it.
            Exception: what the items raised when one was asked for.
        """
        _check_whole("concurrency", concurrency)
        if concurrency < 1:
            raise ValueError("concurrency must be greater than or equal to 1")
        work = _Work(self, items, context, return_exceptions=return_exceptions)
        name = ", ".join(str(stage.name) for stage in self.stages)
        lanes = source(work.lanes(concurrency), name="items")
        try:
            await lanes.tap(
                _Lane.run, name=f"{name} of map", concurrency=concurrency, ordered=False
            ).drain(buffer=0)
        except _Over:
            pass  # outside of this block the errors have no context but their own
        if work.broken is not None:
            raise work.broken
        if work.failed:
            raise ExceptionGroup("unhandled errors in Pipeline.map", work.failed)
        return work.results


class _Over(Exception):
    """Ends a `map` whose errors have been noted; so they keep the form in which they were raised."""


class _Work:
    """One `map`: the items still to be taken, and what came of the others.

    Attributes:
        results: by the items' places.
        failed: the errors of the items that failed.
        broken: what the items raised.
        over: there are no items left.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        items: Iterable[Any],
        context: Context | None,
        *,
        return_exceptions: bool,
    ) -> None:
        self.results: list[Any] = []
        self.failed: list[Exception] = []
        self.broken: Exception | None = None
        self.over = False
        self.run = pipeline.run
        self.items = iter(items)
        self.context = context or {}
        self.variables = copy_context()
        self.return_exceptions = return_exceptions

    def lanes(self, concurrency: int) -> Iterator[_Lane]:
        """Give a lane for each pipeline that may run at once, while there are items."""
        for _ in range(concurrency):
            if self.over:
                return
            yield _Lane(self)


class _Lane:
    """One of the pipelines of a `map`, which takes one item after the other."""

    __slots__ = ("_item", "_work")

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._item: Any = None

    def __repr__(self) -> str:  # it stands for its item in what is said about it
        return repr(self._item)

    async def run(self) -> None:
        """Take item after item through the pipeline."""
        work = self._work
        results, run, template, variables = work.results, work.run, work.context, work.variables
        taken = 0
        while True:
            try:
                self._item = item = next(work.items, _NONE)
            except Exception as error:
                if not work.failed and work.broken is None:  # else a stage or a lane was first
                    work.broken = error
                raise _Over from None
            if item is _NONE:
                work.over = True
                return
            place = len(results)
            results.append(None)
            try:
                results[place] = await _in(variables.copy(), run(item, context=dict(template)))
            except Exception as error:
                if not work.return_exceptions:
                    work.failed.append(error)
                    raise _Over from None
                results[place] = error
            taken += 1
            if taken % _TURN == 0:
                await checkpoint()


_NONE: Any = object()


@coroutine
def _in(variables: Variables, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Await a coroutine with context variables of its own: what `yield from` does, step by step."""
    step: Callable[..., Any] = work.send
    given: Any = None
    while True:
        try:
            wish = variables.run(step, given)
        except StopIteration as end:
            return end.value
        finally:
            given = None  # an error would else keep this frame alive, and the frame the error
        try:
            step, given = work.send, (yield wish)
        except BaseException as error:
            step, given = work.throw, error


async def _tell(hook: Callable[..., Any], details: Sequence[Any]) -> None:
    """Call a hook; what it raises is nobody's business."""
    try:
        told = hook(*details)
        if isawaitable(told):
            await told
    except Exception:
        return


def _takes(fn: Callable[..., Any], count: int) -> bool:
    """Tell whether a function takes so many positional arguments."""
    try:
        parameters = signature(fn).parameters.values()
    except (TypeError, ValueError):  # some built-in ones do not say
        return False
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional for parameter in parameters) >= count


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {shown(value)}")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {shown(value)}")
