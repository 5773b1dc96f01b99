"""What a thread does in one time slice: calls for items, values of iterables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from operator import length_hint
from time import perf_counter
from typing import Any

from .._clock import compute
from .._envelope import Envelope, Sentinel

SLICE = 0.002
"""Seconds after which a call hands back what is done; 60 µs of a call are then 3 % of it."""
MOST_IN_A_CALL = 256


def timed_call(call: Callable[[Envelope], Any], name: str, envelope: Envelope) -> Any:
    """Call a function and note the time on the item's clock. Runs in a thread."""
    began = perf_counter()
    try:
        return call(envelope)
    finally:
        if envelope.clock is not None:
            compute(envelope.clock, name, perf_counter() - began)


def run_slice(
    call: Callable[[Envelope], Any], envelopes: Sequence[Envelope], seconds: float
) -> tuple[list[tuple[Any, BaseException | None]], float]:
    """Call a function for one item after the other until the time is over. Runs in a thread."""
    answers: list[tuple[Any, BaseException | None]] = []
    envelope: Envelope | None = None
    began = perf_counter()
    end = began + seconds
    for envelope in envelopes:
        try:
            answers.append((call(envelope), None))
        except BaseException as error:  # carried to the loop, where the guard looks at it
            answers.append((None, error))
            if not isinstance(error, Exception):
                break
        if perf_counter() > end:
            break
    try:
        return answers, perf_counter() - began
    finally:
        del answers, envelope  # the frames of an error lead here, and would keep it and the items


def run_flat_slice(
    call: Callable[[Envelope], Any],
    name: str,
    envelopes: Sequence[Envelope],
    seconds: float,
    most: int,
) -> tuple[list[tuple[list[Any], Iterator[Any] | None, BaseException | None]], float]:
    """Make the values of one item after the other until the time is over. Runs in a thread.

    The time that each took is noted on its clock, in the name of the stage.

    Returns:
        for each item begun its values, its iterator if there may be more, and what it raised; and
        the seconds that it took. Only the last item can have more.
    """
    answers: list[tuple[list[Any], Iterator[Any] | None, BaseException | None]] = []
    envelope: Envelope | None = None
    began = perf_counter()
    end = began + seconds
    for envelope in envelopes:
        started = 0.0 if envelope.clock is None else perf_counter()
        iterator, error = begin_iterator(call, envelope)
        values: list[Any] = []
        more = False
        if iterator is not None and type(iterator) in _MADE and length_hint(iterator) <= most:
            values = list(iterator)  # no code of the user's runs, so there is no time to watch
        elif iterator is not None:
            left = max(0.0, end - perf_counter())
            values, _, more, error = run_iterator(iterator, left, most)
        if envelope.clock is not None:
            compute(envelope.clock, name, perf_counter() - started)
        answers.append((values, iterator if more or error is not None else None, error))
        most -= len(values)
        if more or most <= 0 or perf_counter() > end:
            break
        if error is not None and not isinstance(error, Exception):
            break
    iterator = error = None
    values = []
    try:
        return answers, perf_counter() - began
    finally:
        del answers, envelope  # as in `run_slice`


_MADE: tuple[type, ...] = (type(iter(())), type(iter([])))


def run_iterator(
    iterator: Iterator[Any], seconds: float, most: int
) -> tuple[list[Any], list[float], bool, BaseException | None]:
    """Take values from an iterator until the time is over. Runs in a thread.

    Returns:
        the values, when each was got, whether there may be more, and what the iterator raised.
    """
    values: list[Any] = []
    times: list[float] = []
    end = perf_counter() + seconds
    try:
        while len(values) < most:
            values.append(next(iterator))
            now = perf_counter()
            times.append(now)
            if now > end:
                break
    except StopIteration:
        return values, times, False, None
    except BaseException as error:
        return values, times, False, error
    return values, times, True, None


def read_slice(
    call: Callable[[Envelope], Any],
    envelopes: Sequence[Envelope],
    iterator: Iterator[Any] | None,
    seconds: float,
    most: int,
) -> tuple[Iterator[Any] | None, list[Any], bool, BaseException | None]:
    """Begin to read what a `flat_map` makes of an item, or go on. Runs in a thread.

    Args:
        call: the function of the stage.
        envelopes: the one item, or nothing if an interrupt has discarded it.
        iterator: what is read on.
        seconds, most: when to stop.

    Returns:
        the iterator, the values, whether there may be more, and what was raised.
    """
    envelope = next(iter(envelopes), None)
    if envelope is None:
        return iterator, [], False, None
    if iterator is None:
        iterator, error = begin_iterator(call, envelope)
        if iterator is None:
            return None, [], False, error
    values, _, more, error = run_iterator(iterator, seconds, most)
    return iterator, values, more, error


def begin_iterator(
    call: Callable[[Envelope], Any], envelope: Envelope
) -> tuple[Iterator[Any] | None, BaseException | None]:
    """Call the function of a `flat_map` and make an iterator of what it gives. Runs in a thread."""
    try:
        iterator = iterator_of(call(envelope))
        return iterator if envelope.context is None else children(envelope, iterator), None
    except BaseException as error:  # carried to the loop, where the guard looks at it
        return None, error


def children(envelope: Envelope, values: Any) -> Iterator[Any]:
    """Put each value into an envelope as it is made, for a function that may change the context.

    Read ahead, and with the context copied afterwards, all would have what the last one left there.
    """
    try:
        for value in values:
            yield value if type(value) is Sentinel else envelope.child(value)
    finally:
        if hasattr(values, "close"):
            values.close()


def iterator_of(values: Any) -> Iterator[Any]:
    """Make an iterator of what the function of a `flat_map` gave.

    Raises:
        TypeError: it is no plain iterable.
    """
    if hasattr(values, "__aiter__") or inspect.iscoroutine(values):
        if inspect.iscoroutine(values):
            values.close()
        raise TypeError("a flat_map in threads takes a plain function giving a plain iterable")
    return iter(values)


def close_quietly(iterator: Any) -> Exception | None:
    """Close a generator; its error, if any, comes after the one that made us close it."""
    try:
        iterator.close()
    except Exception as error:
        return error
    return None
