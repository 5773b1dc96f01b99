"""Operators: ordinary functions over a flow, for use with `Flow.pipe`.

    numbers = Input[int]().pipe(take_while, lambda number: number > 0).pipe(enumerate, start=1)

Each of them is written with the public verbs alone, mostly `transform`, so one of your own is their
equal. What is said of `transform` holds for all that remember something:

* They keep nothing of an item longer than their purpose asks, and give each result as soon as it is
  known; while downstream is full they wait and take nothing.
* They end with their input, or when they say so; the stages above are then released.
* A sentinel passes in its place, and what they remember goes on behind it, but for `reduce`, which
  holds back: it gives its result before the sentinel and begins afresh behind it.
* An interrupt makes them forget: they begin afresh with the next item. One that has ended stays ended.
* What a function of yours raises ends the run, whatever its `on_error`.
* Behind one of them, but for `flatten`, an item has a fresh context. What has to get past it belongs
  into the item.

mypy finds no type for a lambda that `pipe` passes on, and the flow becomes one of `Any`. Where types are
checked, call the operator itself: `take_while(numbers, lambda number: number > 0)`.

A function may be plain or async. Some of these share their name with a builtin, so import the module
(`from flowstage import operators`) where you need both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable
from inspect import isawaitable
from typing import Any, TypeVar, cast

from anyio import current_time, sleep_until

from ._errors import safe_repr
from ._flow import Flow
from ._policies import check_count, check_number
from ._stages import check_arguments, check_function

__all__ = [
    "distinct_until_changed",
    "drop",
    "drop_while",
    "enumerate",
    "flatten",
    "reduce",
    "scan",
    "take",
    "take_while",
    "throttle",
    "unique",
]

In = TypeVar("In")
T = TypeVar("T")
R = TypeVar("R")

_LATE = 0.01
"""Seconds by which `throttle` catches up: more than a sleep on a busy loop is late by. A guess."""


def _check_flow(verb: str, flow: object) -> None:
    if not isinstance(flow, Flow):
        raise TypeError(
            f"{verb}() is a function over a flow, not {safe_repr(flow)}; "
            f"write flow.pipe({verb}, ...)"
        )


async def _call(fn: Callable[..., Any], *args: Any) -> Any:
    """Call a function, plain or async."""
    result = fn(*args)
    return await result if isawaitable(result) else result


# -- ending early, beginning late ---------------------------------------------------------------


def take(flow: Flow[In, T], n: int) -> Flow[In, T]:
    """Give the first `n` items and end.

    It ends behind the last of them at once, without asking for another, and the stages above are
    released. (They work ahead: what they had done already is discarded and counted.)

    Args:
        flow: where the items come from.
        n: how many; 0 gives none.

    Raises:
        ValueError: `n` is negative.
        TypeError: `n` is not a whole number.

    Example:
        >>> import anyio
        >>> from flowstage import operators, source
        >>> anyio.run(source("abc".upper() for _ in range(9)).pipe(operators.take, 2).collect)
        ['ABC', 'ABC']
    """
    _check_flow("take", flow)
    check_count("n", n, minimum=0)

    async def take(items: AsyncIterator[T]) -> AsyncIterator[T]:
        if not n:
            return
        left = n
        async for item in items:
            yield item
            left -= 1
            if not left:
                return

    return flow.transform(take)


def take_while(flow: Flow[In, T], keep: Callable[[T], Awaitable[object] | object]) -> Flow[In, T]:
    """Give items until one comes for which `keep` is false, and end there.

    That item is not given, and no further one is asked for.

    Args:
        flow: where the items come from.
        keep: a function of one item.

    Raises:
        TypeError: `keep` is no function, or a generator function.

    Example:
        >>> import anyio
        >>> from flowstage import operators, source
        >>> small = source([1, 2, 7, 3]).pipe(operators.take_while, lambda number: number < 5)
        >>> anyio.run(small.collect)
        [1, 2]
    """
    _check_flow("take_while", flow)
    check_function("take_while", keep)
    check_arguments("take_while", keep, "item")

    async def take_while(items: AsyncIterator[T]) -> AsyncIterator[T]:
        async for item in items:
            if not await _call(keep, item):
                return
            yield item

    return flow.transform(take_while)


def drop(flow: Flow[In, T], n: int) -> Flow[In, T]:
    """Leave out the first `n` items and give the rest.

    Args:
        flow: where the items come from.
        n: how many; 0 leaves out none.

    Raises:
        ValueError: `n` is negative.
        TypeError: `n` is not a whole number.

    Example:
        >>> import anyio
        >>> from flowstage import operators, source
        >>> anyio.run(source(["header", "a", "b"]).pipe(operators.drop, 1).collect)
        ['a', 'b']
    """
    _check_flow("drop", flow)
    check_count("n", n, minimum=0)

    async def drop(items: AsyncIterator[T]) -> AsyncIterator[T]:
        left = n
        async for item in items:
            if left:
                left -= 1
            else:
                yield item

    return flow.transform(drop)


def drop_while(
    flow: Flow[In, T], leave_out: Callable[[T], Awaitable[object] | object]
) -> Flow[In, T]:
    """Leave items out until one comes for which `leave_out` is false; give it and all the rest.

    Args:
        flow: where the items come from.
        leave_out: a function of one item; not called again once it has been false.

    Raises:
        TypeError: `leave_out` is no function, or a generator function.

    Example:
        >>> import anyio
        >>> from flowstage import operators, source
        >>> rest = source([1, 2, 7, 3]).pipe(operators.drop_while, lambda number: number < 5)
        >>> anyio.run(rest.collect)
        [7, 3]
    """
    _check_flow("drop_while", flow)
    check_function("drop_while", leave_out)
    check_arguments("drop_while", leave_out, "item")

    async def drop_while(items: AsyncIterator[T]) -> AsyncIterator[T]:
        dropping = True
        async for item in items:
            if dropping:
                dropping = bool(await _call(leave_out, item))
            if not dropping:
                yield item

    return flow.transform(drop_while)


# -- carrying a value along ---------------------------------------------------------------------


def scan(flow: Flow[In, T], fn: Callable[[R, T], Awaitable[R] | R], initial: R) -> Flow[In, R]:
    """Give, for each item, `fn` of the last result and that item: a running total, a state.

    One result for each item; `initial` itself is not given. Results are remembered, so `fn` should
    make a new one each time rather than change the last.

    Args:
        flow: where the items come from.
        fn: a function of the last result and an item.
        initial: what the first item meets, also after an interrupt.

    Raises:
        TypeError: `fn` is no function, or a generator function.

    Example:
        >>> import anyio, operator
        >>> from flowstage import operators, source
        >>> anyio.run(source([1, 2, 3]).pipe(operators.scan, operator.add, 0).collect)
        [1, 3, 6]
    """
    _check_flow("scan", flow)
    check_function("scan", fn)
    check_arguments("scan", fn, "result", "item")

    async def scan(items: AsyncIterator[T]) -> AsyncIterator[R]:
        result = initial
        async for item in items:
            result = await _call(fn, result, item)
            yield result

    return flow.transform(scan)


def reduce(flow: Flow[In, T], fn: Callable[[R, T], Awaitable[R] | R], initial: R) -> Flow[In, R]:
    """Give one result for all items: `fn` of the last result and an item, over and over.

    It is given at the end. A sentinel ends a segment: its result is given before the sentinel, and
    the next begins with `initial`. A segment without items gives `initial`, the one behind the last
    sentinel too, so there is always one result more than there are sentinels.

    Args:
        flow: where the items come from.
        fn: a function of the last result and an item. It should make a new result each time rather
            than change the last: `initial` is used again.
        initial: what the first item of each segment meets.

    Raises:
        TypeError: `fn` is no function, or a generator function.

    Example:
        >>> import anyio, operator
        >>> from flowstage import operators, source
        >>> anyio.run(source([1, 2, 3]).pipe(operators.reduce, operator.add, 0).collect)
        [6]
    """
    _check_flow("reduce", flow)
    check_function("reduce", fn)
    check_arguments("reduce", fn, "result", "item")

    async def reduce(items: AsyncIterator[T]) -> AsyncIterator[R]:
        result = initial
        async for item in items:
            result = await _call(fn, result, item)
        yield result

    return flow.transform(reduce, segments=True)


def enumerate(flow: Flow[In, T], start: int = 0) -> Flow[In, tuple[int, T]]:
    """Give each item with its number, as `(number, item)`.

    Args:
        flow: where the items come from.
        start: the number of the first item, also after an interrupt.

    Raises:
        TypeError: `start` is not a whole number.

    Example:
        >>> import anyio
        >>> from flowstage import operators, source
        >>> anyio.run(source(["a", "b"]).pipe(operators.enumerate, start=1).collect)
        [(1, 'a'), (2, 'b')]
    """
    _check_flow("enumerate", flow)
    if isinstance(start, bool) or not isinstance(start, int):
        raise TypeError(f"start must be a whole number, not {safe_repr(start)}")

    async def enumerate(items: AsyncIterator[T]) -> AsyncIterator[tuple[int, T]]:
        number = start
        async for item in items:
            yield number, item
            number += 1

    return flow.transform(enumerate)


def flatten(flow: Flow[In, Iterable[T]]) -> Flow[In, T]:
    """Give the values of each item one by one: the lists of a `batch`, say.

    It is `flat_map` of the item itself: lazy, and a generator or async iterable is an item like any
    other. It remembers nothing.

    Args:
        flow: where the iterables come from.

    Example:
        >>> import anyio
        >>> from flowstage import operators, source
        >>> anyio.run(source([[1, 2], [], [3]]).pipe(operators.flatten).collect)
        [1, 2, 3]
    """
    _check_flow("flatten", flow)

    def flatten(item: Iterable[T]) -> Iterable[T]:
        return item

    return flow.flat_map(flatten)


# -- leaving out what was there -----------------------------------------------------------------


def distinct_until_changed(
    flow: Flow[In, T], key: Callable[[T], object] | None = None
) -> Flow[In, T]:
    """Leave out each item that equals the one before it.

    Args:
        flow: where the items come from.
        key: a function of one item; what it gives is compared instead of the item.

    Raises:
        TypeError: `key` is no function, or a generator function.

    Example:
        >>> import anyio
        >>> from flowstage import operators, source
        >>> anyio.run(source([1, 1, 2, 2, 1]).pipe(operators.distinct_until_changed).collect)
        [1, 2, 1]
    """
    _check_flow("distinct_until_changed", flow)
    if key is not None:
        check_function("distinct_until_changed", key)
        check_arguments("distinct_until_changed", key, "item")

    async def distinct_until_changed(items: AsyncIterator[T]) -> AsyncIterator[T]:
        first, last = True, cast(Any, None)
        async for item in items:
            now = item if key is None else await _call(key, item)
            if first or now != last:
                first, last = False, now
                yield item

    return flow.transform(distinct_until_changed)


def unique(
    flow: Flow[In, T],
    key: Callable[[T], Awaitable[Hashable] | Hashable] | None = None,
    *,
    max_keys: int,
) -> Flow[In, T]:
    """Leave out each item whose key was there before.

    The last `max_keys` keys are remembered. When one more comes, the key that has not been met for
    the longest time is forgotten; an item that brings it again later is new, and is given. Set
    `max_keys` to the most different keys you expect, or to what memory allows.

    Args:
        flow: where the items come from.
        key: a function of one item that gives something hashable; the default is the item itself.
        max_keys: how many keys are remembered.

    Raises:
        ValueError: `max_keys` is below 1.
        TypeError: `max_keys` is not a whole number, or `key` is no function or a generator function.
            In the run: a key that cannot be hashed.

    Example:
        >>> import anyio
        >>> from flowstage import operators, source
        >>> words = source(["be", "or", "not", "Be"])
        >>> anyio.run(words.pipe(operators.unique, str.lower, max_keys=1000).collect)
        ['be', 'or', 'not']
    """
    _check_flow("unique", flow)
    check_count("max_keys", max_keys)
    if key is not None:
        check_function("unique", key)
        check_arguments("unique", key, "item")

    async def unique(items: AsyncIterator[T]) -> AsyncIterator[T]:
        seen: dict[Any, None] = {}  # the key met last stands last
        async for item in items:
            now = item if key is None else await _call(key, item)
            if now in seen:
                del seen[now]
                seen[now] = None
                continue
            if len(seen) == max_keys:
                del seen[next(iter(seen))]
            seen[now] = None
            yield item

    return flow.transform(unique)


# -- keeping time -------------------------------------------------------------------------------


def throttle(flow: Flow[In, T], rate: float, *, per: float = 1.0) -> Flow[In, T]:
    """Give at most `rate` items in `per` seconds, evenly spaced; none is lost.

    An item that comes too early waits, and holds up those behind it; while it waits, nothing is
    taken. Quiet times earn no credit: there is no burst after them. Where sleeping is coarser than
    the space between two items, up to ten milliseconds' worth of them go out together.

    A sentinel passes behind the items before it and waits for none; it takes no place. After an
    interrupt the next item goes out at once.

    Args:
        flow: where the items come from.
        rate: how many items; need not be whole.
        per: in how many seconds.

    Raises:
        ValueError: `rate` or `per` is not above 0, or not finite.
        TypeError: one of them is no number.

    Example:
        >>> import anyio
        >>> from flowstage import operators, source
        >>> anyio.run(source("paced".split()).pipe(operators.throttle, 5, per=0.1).collect)
        ['paced']
    """
    _check_flow("throttle", flow)
    check_number("rate", rate, minimum=0, exclusive=True)
    check_number("per", per, minimum=0, exclusive=True)
    space = float(per) / float(rate)

    async def throttle(items: AsyncIterator[T]) -> AsyncIterator[T]:
        due = float("-inf")
        async for item in items:
            if current_time() < due:
                await sleep_until(due)
            yield item
            # By the clock and not by the sleep, so that what the sleeps are late by does not add
            # up; but time in which nothing came, or nobody took it, is gone.
            now = current_time()
            due = (due if now - due <= _LATE else now) + space

    return flow.transform(throttle)
