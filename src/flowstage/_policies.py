"""What to do about failures: retries and error policies."""

from __future__ import annotations

import math
import random
from collections.abc import MutableMapping
from typing import Any, Literal

from attrs import field, frozen

from ._errors import safe_repr

OnError = Literal["raise", "skip", "emit"]
ON_ERROR = ("raise", "skip", "emit")


def check_number(name: str, value: object, *, minimum: float, exclusive: bool = False) -> None:
    """Refuse what is no finite number of at least (or above) `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {safe_repr(value)}")
    try:
        is_finite = math.isfinite(value)
    except OverflowError:  # a whole number that is too large for a float
        is_finite = False
    if not is_finite:
        raise ValueError(f"{name} must be finite, not {safe_repr(value)}")
    if value < minimum or (exclusive and value == minimum):
        bound = "greater than" if exclusive else "at least"
        raise ValueError(f"{name} must be {bound} {minimum}, not {safe_repr(value)}")


def check_count(name: str, value: object, *, minimum: int = 1) -> None:
    """Refuse what is no whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {safe_repr(value)}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, not {safe_repr(value)}")


def check_context(value: object) -> None:
    """Refuse what stages could not write to as an item's context."""
    if not isinstance(value, MutableMapping):
        raise TypeError(f"context must be a mutable mapping such as a dict, not {safe_repr(value)}")


def check_on_error(value: object) -> None:
    """Refuse what is no error policy."""
    if not (isinstance(value, str) and value in ON_ERROR):
        raise ValueError(f'on_error must be "raise", "skip" or "emit", not {safe_repr(value)}')


def _errors(value: Any) -> tuple[type[Exception], ...]:
    classes = value if isinstance(value, tuple) else (value,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise TypeError(f"errors must be exception classes, not {safe_repr(cls)}")
        if not issubclass(cls, Exception):
            raise ValueError(
                f"errors cannot include {cls.__name__}: it ends the run and is never retried"
            )
    if not classes:
        raise ValueError("errors must name at least one exception class")
    return classes


@frozen
class Retry:
    """How often, after which errors and with what delays a failed call is tried again.

    A retry keeps the item's place in order and its concurrency slot; a seat on a place is given back
    while it sleeps. Cancellation, `KeyboardInterrupt` and `SystemExit` are never retried.

    Args:
        attempts: how many tries in all, the first one counted.
        delay: seconds to wait before the second try; 0 does not wait at all.
        backoff: `"fixed"` waits `delay` each time; `"exponential"` waits
            `delay * 2 ** (failures - 1)`.
        max_delay: the longest wait in seconds, before jitter is added.
        jitter: up to so many seconds, drawn uniformly, are added to each wait.
        errors: the exception classes that are worth another try; anything else fails at once.

    Raises:
        ValueError: a number out of range, an unknown backoff, or no exception class.
        TypeError: an argument of the wrong type.
    """

    attempts: int = field()
    delay: float = field(default=0.0, kw_only=True)
    backoff: Literal["fixed", "exponential"] = field(default="fixed", kw_only=True)
    max_delay: float = field(default=60.0, kw_only=True)
    jitter: float = field(default=0.0, kw_only=True)
    errors: tuple[type[Exception], ...] = field(
        default=(Exception,), kw_only=True, converter=_errors
    )

    def __attrs_post_init__(self) -> None:
        check_count("attempts", self.attempts)
        check_number("delay", self.delay, minimum=0)
        check_number("max_delay", self.max_delay, minimum=0)
        check_number("jitter", self.jitter, minimum=0)
        if self.backoff not in ("fixed", "exponential"):
            raise ValueError(
                f'backoff must be "fixed" or "exponential", not {safe_repr(self.backoff)}'
            )

    def again(self, error: BaseException, failures: int) -> bool:
        """Tell whether a call that failed for the `failures`th time is tried once more."""
        return failures < self.attempts and isinstance(error, self.errors)

    def wait(self, failures: int) -> float:
        """Give the seconds to wait after the `failures`th failure."""
        delay = self.delay
        if self.backoff == "exponential" and delay:
            # 2 ** 1100 is no float: past max_delay the power makes no difference
            delay = min(self.max_delay, delay * 2.0 ** min(failures - 1, 1000))
        delay = min(delay, self.max_delay)
        return delay + (random.uniform(0, self.jitter) if self.jitter else 0.0)
