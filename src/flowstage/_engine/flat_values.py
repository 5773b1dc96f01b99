"""The values that the function of a `flat_map` makes of one item, read one by one on the loop.

To open and to pull are calls of the stage like any other: guarded, noted as being at work, timed, and
bounded by the stage's timeout, each of them. The cleanup is bounded by that of the run.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from .._envelope import Envelope, Failure, Sentinel
from .call import CallFailed, CallStep, sentinel_given
from .runner import own_error
from .values import Values, read


async def open_values(step: CallStep, envelope: Envelope) -> Values:
    """Call the function of a `flat_map` and begin to read what it gives.

    Raises:
        CallFailed: the function failed, or gave nothing that can be iterated.
    """
    working = step.tally.working
    began = perf_counter()
    working[envelope] = (began, envelope.value)
    try:
        values = read(await step.attempt(envelope), f"flat_map {step.name!r}")
        step.waits_for_values = values.is_async
        return values
    except BaseException as raised:
        raise CallFailed(await own_error(raised, step.frame, step.name), 1) from None
    finally:
        del working[envelope]
        step.spent(envelope, perf_counter() - began, holds=not step.awaits)


async def pull(step: CallStep, source: Values, envelope: Envelope) -> Any:
    """Give the next value of a `flat_map`'s iterable, or `DONE`.

    Raises:
        CallFailed: the iterable raised, took too long, or gave a sentinel.
    """
    working = step.tally.working
    began = perf_counter()
    working[envelope] = (began, envelope.value)
    try:
        value = await step.within_timeout(source.next)
        if type(value) is Sentinel:
            raise sentinel_given(step.name)
    except BaseException as raised:
        raise CallFailed(await own_error(raised, step.frame, step.name), 1) from None
    finally:
        del working[envelope]
        step.spent(envelope, perf_counter() - began, holds=not source.is_async)
    return value


async def close_values(step: CallStep, source: Values, item: Any) -> None:
    """Close an iterable that was not read to its end; an error of its cleanup ends the run."""
    late = await source.close(step.frame.close_timeout)
    if late is not None:
        step.frame.fail(Failure(step.name, item, late, 1))
