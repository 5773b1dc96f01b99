"""Event loops whose order of tasks a seed decides, and a scenario run under many of them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import current_token

from .._errors import safe_repr
from ._asyncio_order import ShuffledLoop
from ._trio_order import TrioOrder

T = TypeVar("T")

_BACKENDS = ("asyncio", "trio")


def shuffled(backend: str, seed: int, *, lag: float = 0.0) -> tuple[str, dict[str, Any]]:
    """Give an event loop on which a seed decides the order in which ready tasks run.

    No program may rely on that order, and on a quiet machine it hardly varies: a mistake in it shows
    once in a thousand times. Here it shows for some seeds, and for those every time, as long as no
    thread and no real time takes part.

    Args:
        backend: `"asyncio"` or `"trio"`. (uvloop keeps its order.)
        seed: chooses the order.
        lag: the probability with which a task that is ready is passed over for a turn. Without it all
            tasks keep in step; with it some fall behind.

    Returns:
        the name and the options of the backend, for `anyio.run(main, backend=name,
        backend_options=options)`, or to be returned by an `anyio_backend` fixture. They serve any
        number of event loops, each of which begins anew.

    Raises:
        ValueError: another backend, or a `lag` that is not at least 0 and below 1.

    Example:
        >>> import anyio
        >>> from flowstage import Input, merge
        >>> from flowstage.testing import shuffled
        >>>
        >>> numbers = Input[int]()
        >>> flow = merge(numbers.map(str), numbers.map(float))
        >>> name, options = shuffled("asyncio", seed=7)
        >>> first = anyio.run(flow.collect, [1, 2, 3], backend=name, backend_options=options)
        >>> first == anyio.run(flow.collect, [1, 2, 3], backend=name, backend_options=options)
        True
    """
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be one of {_BACKENDS}, not {safe_repr(backend)}")
    if not 0 <= lag < 1:
        raise ValueError(f"lag must be at least 0 and below 1, not {safe_repr(lag)}")
    if backend == "trio":
        return backend, {"instruments": [TrioOrder(seed, lag)]}
    return backend, {"loop_factory": partial(_shuffled_loop, seed, lag)}


def _shuffled_loop(seed: int, lag: float) -> ShuffledLoop:
    return ShuffledLoop(random.Random(seed), lag)


def explore(
    scenario: Callable[[], Awaitable[T]],
    *,
    seeds: Iterable[int] = range(20),
    backends: Iterable[str] | None = None,
) -> list[T]:
    """Run an async function under many orders of its tasks; say under which it fails.

    Every other seed also lags (see `shuffled`), with 0.5. To be called outside of an event loop.

    Args:
        scenario: the async function; it is called for each order and should begin from nothing.
        seeds: one order on each backend for each of them.
        backends: names of backends; all that are installed when left out.

    Returns:
        what it gave each time.

    Raises:
        RuntimeError: it was called inside of an event loop.
        BaseException: what it raised, with a note that names the backend, the seed and the lag.

    Example:
        >>> from flowstage import Input, merge
        >>> from flowstage.testing import explore
        >>>
        >>> async def both_ways() -> list[int]:
        ...     numbers = Input[int]()
        ...     doubled = numbers.map(lambda n: 2 * n).buffer(1)
        ...     return sorted(await merge(numbers, doubled).collect([1, 5]))
        >>>
        >>> results = explore(both_ways, seeds=range(4), backends=["asyncio"])
        >>> results == [[1, 2, 5, 10]] * 4
        True
    """
    if backends is None:
        backends = ["asyncio"] + ["trio"] * (find_spec("trio") is not None)
    if _in_event_loop():
        raise RuntimeError(
            "explore() runs event loops of its own; call it outside of one, in a plain function"
        )
    chosen = tuple(backends)
    results: list[T] = []
    for seed in seeds:
        lag = 0.5 * (seed % 2)
        for backend in chosen:
            name, options = shuffled(backend, seed, lag=lag)
            try:
                results.append(anyio.run(scenario, backend=name, backend_options=options))
            except BaseException as error:
                error.add_note(f"run with: shuffled({backend!r}, {seed}, lag={lag})")
                raise
    return results


def _in_event_loop() -> bool:
    try:
        current_token()
    except RuntimeError:
        return False
    return True
